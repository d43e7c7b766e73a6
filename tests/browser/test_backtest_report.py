"""The report of a backtest in a real browser: readable on a desk and on a telephone, in light and dark, and loads nothing."""

from pathlib import Path
from typing import Any

import pytest

from app.backtest.html import page as html_page
from app.backtest.lane import Seconds, run
from app.backtest.order import make_job
from app.backtest.report import Collector, Label
from store.scan import FileScan
from tests.browser.test_overview import DESK, PHONE, SCREENSHOTS, chromium
from tests.unit.app.recorded_farm import END_MS, T0_MS, write_farm

pytestmark = pytest.mark.browser

# Widths beyond the window, sizes of letters [px], heights of charts [px], colours of the page and of its letters.
MEASURE = """() => ({
    beyond: document.documentElement.scrollWidth - window.innerWidth,
    letters: [...document.querySelectorAll("th, td, p, figcaption, .ends")].map(e => parseFloat(getComputedStyle(e).fontSize)),
    charts: [...document.querySelectorAll("svg")].map(e => e.getBoundingClientRect().height),
    lines: document.querySelectorAll("polyline").length,
    colours: ["backgroundColor", "color"].map(name => getComputedStyle(document.body)[name].match(/\\d+/g).slice(0, 3).map(Number)),
})"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("report")
    write_farm(place / "history.duckdb")
    scan = FileScan(place / "history.duckdb")
    job, _ = make_job(scan, "farm", rules="site", against="site", start_ms=T0_MS, end_ms=END_MS, with_people=True)
    found = Collector(job.variants, T0_MS, END_MS)
    for block in run(job, scan, Seconds()):
        found.add(block)
    scan.close()
    label = Label(T0_MS, T0_MS + 9 * 3_600_000, "fan off")
    (place / "report.html").write_text(
        html_page(found.report(labels=[label], against="site", faults=["X when: no such point"])), "utf-8"
    )
    return place / "report.html"


def luminance(colour: list[int]) -> float:
    """Relative, after WCAG 2."""
    parts = [c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


@pytest.mark.timeout(180)
async def test_the_report_is_readable(report: Path) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    async with chromium() as browser:
        for size in (DESK, PHONE):
            for scheme in ("light", "dark"):
                context = await browser.new_context(viewport=size, color_scheme=scheme)
                page, asked = await context.new_page(), list[str]()
                page.on("request", lambda request, asked=asked: asked.append(request.url))
                await page.goto(report.as_uri())
                seen: dict[str, Any] = await page.evaluate(MEASURE)
                await page.screenshot(path=SCREENSHOTS / f"backtest-{size['width']}-{scheme}.png")
                await context.close()
                assert asked == [report.as_uri()]
                assert seen["beyond"] <= 0, "the page is wider than its window"
                assert min(seen["letters"]) >= 11
                assert len(seen["charts"]) > 5
                assert min(seen["charts"]) >= 60
                assert seen["lines"] == 9  # told, stood and measured of three vents
                light, dark = sorted(map(luminance, seen["colours"]), reverse=True)
                assert (light + 0.05) / (dark + 0.05) > 7
                assert (luminance(seen["colours"][0]) < 0.1) == (scheme == "dark")
