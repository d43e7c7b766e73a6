"""Recorded sites that come with the program, so that the demo's broker knows their devices and `fieldloom play` works beside it."""

from pathlib import Path
from typing import Final

from app.site_files import load_site
from telemetry.site import SiteConfig

NOW_SUFFIX: Final = "-now"


def now_site(site: SiteConfig) -> SiteConfig:
    """The simulated site in which a recording of `site` lives now."""
    label = site.label.model_copy(update={"en": f"{site.label.en}, now", "zh": f"{site.label.zh}（现在）"})
    return site.model_copy(update={"site": f"{site.site}{NOW_SUFFIX}", "origin": "SIMULATED", "label": label})


def playable_sites(directory: Path) -> list[SiteConfig]:
    """Sites of `directory` that have mappings, each followed by its simulated copy. Raises ConfigError."""
    found = [load_site(path.parent) for path in sorted(directory.glob("*/site.yaml")) if (path.parent / "mappings").is_dir()]
    return [site for recorded in found for site in (recorded, now_site(recorded))]
