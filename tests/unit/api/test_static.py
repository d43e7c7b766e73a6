"""The page's files: contrasts of the colour tokens, equal languages, nothing inline, nothing from outside."""

import re
from pathlib import Path

import pytest

STATIC = Path(__file__).parents[3] / "api" / "static"
SURFACES = ("bg-0", "bg-1", "bg-2")
MINIMUM = {"ink-0": 7.0, "ink-1": 7.0, "ink-2": 4.5, "line": 3.0, "acc": 4.5}
BADGES = ("p1", "p2", "p3", "p4", "inhibited")


def tokens(theme: str) -> dict[str, str]:
    css = (STATIC / "tokens.css").read_text()
    light, dark = css.split(':root[data-theme="dark"]')
    return dict(re.findall(r"--([\w-]+): (#[0-9A-F]{6})", light if theme == "light" else dark))


def luminance(colour: str) -> float:
    """WCAG 2.2 relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    lighter, darker = sorted((luminance(a), luminance(b)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_ink_has_its_contrast_on_every_surface(theme: str) -> None:
    colours = tokens(theme)
    for ink, least in MINIMUM.items():
        for surface in SURFACES:
            assert contrast(colours[ink], colours[surface]) >= least, (ink, surface)
    for badge in BADGES:
        assert contrast(colours[badge], colours[f"{badge}-ink"]) >= 4.5, badge
    assert contrast(colours["alt"], colours["alt-ink"]) >= 4.5
    assert contrast(colours["on"], colours["off"]) >= 3.0


def test_both_languages_have_the_same_words() -> None:
    text = (STATIC / "words.js").read_text()
    chinese, english = text[text.index("zh: {") : text.index("en: {")], text[text.index("en: {") : text.index("\nconst asked")]
    keys = [set(re.findall(r"(?:^|[\s{,])(\w+): \"", part)) for part in (chinese, english)]
    assert len(keys[0]) > 60
    assert keys[0] == keys[1]
    used = set(re.findall(r'word\("(\w+)"', (STATIC / "page.js").read_text() + (STATIC / "login.js").read_text()))
    assert used <= keys[0]


def test_nothing_is_inline_or_from_outside() -> None:
    for path in STATIC.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path.name
        assert "https://" not in text, path.name
        assert "innerHTML" not in text, path.name
        if path.suffix == ".html":
            assert not re.search(r"<script>|\son\w+=|\sstyle=|<style", text), path.name
