"""The overview page in a real browser: login link, live values, acknowledge, silence, hostile names. See build/screenshots."""

import asyncio
import contextlib
import re
import shutil
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from people.delivery import DeliveryJournal, Work
from telemetry.record import Event
from telemetry.site import SiteConfig
from tests.faults.process import free_port
from tests.faults.web_process import CoreStub, WebProcess, web_process
from tests.faults.web_world import config_record, site

pytestmark = pytest.mark.browser

CHROMIUM = "/usr/bin/chromium"
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb"]
HOSTILE = "<img src=x onerror=alert(1)>\u202e"


async def play_core(web: WebProcess) -> None:
    """Samples, a command and answers to acknowledgements, four times a second."""
    core, step = web.core, 0
    core.write(
        frames=[("north/house-1", {"air_temp_c": 21.0}, -3600.0)],
        decisions=[
            ("alarm", "HOT@north/house-0", {
                "from": "NORM", "to": "UNACK", "event": "raise", "priority": "P2", "value": 39.5,
                "message": {"en": "Air in {device} is too hot: {value} °C", "zh": "{device} 气温过高：{value} °C"}}),
            ("alarm", "FIRE@north/house-1", {
                "from": "NORM", "to": "UNACK", "event": "raise", "priority": "P1", "message": {"en": HOSTILE, "zh": HOSTILE}}),
            ("command", "north/house-0/roof_vent", {
                "id": "north/house-0/roof_vent:1", "state": "sent", "value": 80.0, "reason": "HOT@north/house-0"}),
        ],
    )  # fmt: skip
    while True:
        step += 1
        values = {"air_temp_c": 39.5 + (step % 5) / 10, "air_rh_pct": 61.0, "vent_pct": min(80.0, 10.0 * step)}
        core.write(frames=[("north/house-0", values, 0.0)])
        core.acknowledge_all()
        await asyncio.sleep(0.25)


@asynccontextmanager
async def chromium() -> AsyncIterator[Any]:
    """A headless browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    if shutil.which(CHROMIUM) is None:
        pytest.skip(f"{CHROMIUM} is not installed (Debian package chromium)")
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def opened(web: WebProcess, *, size: dict[str, int], query: str, role: Any = "operator") -> AsyncIterator[Any]:
    """The page, logged in by a one-time link; fails on any script error, dialog or refused resource."""
    faults: list[str] = []
    async with chromium() as browser:
        context = await browser.new_context(viewport=size, device_scale_factor=1, locale="zh-CN")
        page = await context.new_page()
        page.on("pageerror", lambda error: faults.append(f"script: {error}"))
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
        page.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
        page.on("request", lambda r: faults.append(f"outside: {r.url}") if not r.url.startswith((web.base_url, "data:")) else None)
        await page.goto(f"{web.base_url}/login#{web.token('ann', role, ['north'], way='link')}")
        await page.wait_for_url(re.compile(r"/$"))
        await page.goto(f"{web.base_url}/?{query}")
        await page.wait_for_selector("body[data-link=live]")
        yield page
    assert not faults


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[WebProcess]:
    async with web_process(tmp_path) as process:
        yield process


@asynccontextmanager
async def playing(web: WebProcess) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(play_core(web), name="core-stub")
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def text(page: Any, selector: str) -> str:
    found: str = await page.inner_text(selector)
    return found


async def shoot(page: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    await page.wait_for_timeout(600)  # one tick of the page's own clock
    await page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


async def test_desk_shows_values_alarms_and_commands_and_takes_an_acknowledgement(web: WebProcess) -> None:
    async with playing(web), opened(web, size=DESK, query="lang=zh&theme=light") as page:
        await page.wait_for_function("document.querySelector('.tile .number').textContent.startsWith('39.')")
        assert "°C" in await text(page, ".tile .unit")
        assert "HOT@north/house-0" in await text(page, ".actuator .why")
        rows = await page.locator("#alarm-list .row").all_inner_texts()
        assert "FIRE" in rows[0]
        assert "house-0 气温过高：39.5" in rows[1]
        assert await page.locator("#alarm-list img").count() == 0
        await shoot(page, "overview-desk-light-zh")
        await page.locator("#alarm-list .row", has_text="HOT").get_by_role("button").click()
        await page.locator("#alarm-list .row", has_text="HOT").get_by_text("已确认").wait_for()
        assert "south" not in await page.content()


async def test_who_was_told_and_what_comes_next_is_one_line(web: WebProcess) -> None:
    deliveries, due_ms = DeliveryJournal(web.data_dir / "notify.sqlite"), web.core.clock.now_ns() // 1_000_000 + 900_000
    ladder = {"told": ["wang", HOSTILE], "step": 1, "next_ms": due_ms, "next_to": ["duty"]}
    deliveries.keep(Work(escalation={"alarm:HOT@north/house-0": msgspec.json.encode(ladder)}), 0)
    deliveries.close()
    async with playing(web), opened(web, size=DESK, query="lang=en&theme=light") as page:
        row = page.locator("#alarm-list .row", has_text="HOT")
        await row.get_by_text("told wang, <img src=x onerror=alert(1)> · next duty at").wait_for()
        assert await page.locator("#alarm-list img").count() == 0
        await page.click("#language")
        await row.get_by_text("已通知 wang、").wait_for()


async def test_suppression_an_assignee_and_an_area_s_mode_are_shown_as_they_come(web: WebProcess) -> None:
    async with playing(web), opened(web, size=DESK, query="lang=en&theme=light") as page:
        row = page.locator("#alarm-list .row", has_text="HOT")
        await row.wait_for()
        assert await text(page, "#areas") == "Multi-span · automatic"
        change = {"from": "UNACK", "to": "UNACK", "priority": "P2", "area": "ms"}
        web.core.write(
            decisions=[
                ("alarm", "HOT@north/house-0", {**change, "event": "assign", "author": "bob", "assignee": HOSTILE}),
                ("alarm", "HOT@north/house-0", {**change, "event": "suppress", "to": "DSUPR"}),
                ("area", "north/ms", {"to": {"mode": "WASHDOWN", "batch_ns": web.core.clock.now_ns() - 5_000_000_000, "batch": HOSTILE}}),
                ("flood", "north/ms", {"from": "NORM", "to": "UNACK", "event": "raise", "count": 11}),
            ]
        )  # fmt: skip
        await row.get_by_text("suppressed by design").wait_for()
        assert "taken by <img src=x onerror=alert(1)>" in await row.inner_text()
        assert await row.locator(".badge").inner_text() == "D"
        assert await row.get_by_role("button").count() == 0
        await page.get_by_text("wash-down · batch <img src=x onerror=alert(1)>, day 0 · flood of alarms").wait_for()
        assert await page.locator("#areas img, #alarm-list img").count() == 0
        web.core.write(decisions=[("area", "north/ms", {"to": {"mode": "EMPTY", "batch_ns": None, "batch": ""}}),
                                  ("flood", "north/ms", {"from": "UNACK", "to": "NORM", "event": "clear", "count": 12})])  # fmt: skip
        await page.get_by_text("Multi-span · empty", exact=True).wait_for()
        await page.click("#language")
        await page.get_by_text("连栋温室 · 空置", exact=True).wait_for()
        await row.get_by_text("按设计抑制").wait_for()
        await shoot(page, "overview-desk-light-suppressed")


async def test_phone_has_no_sideways_scroll_and_big_targets(web: WebProcess) -> None:
    async with playing(web), opened(web, size=PHONE, query="lang=en&theme=dark") as page:
        await page.wait_for_function("document.querySelectorAll('#alarm-list .row').length === 2")
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        for box in [await b.bounding_box() for b in await page.locator("button:visible").all()]:
            assert box["height"] >= 44
            assert box["width"] >= 44
        for label in await page.locator(".tools button").all():
            assert (await label.bounding_box())["height"] < 50  # one line
        await shoot(page, "overview-phone-dark-en")
        await page.click("#theme")
        await page.click("#language")
        await shoot(page, "overview-phone-light-zh")


@pytest.mark.alone
async def test_silence_of_the_core_is_shown_within_6_s(web: WebProcess) -> None:
    async with playing(web) as core, opened(web, size=DESK, query="lang=en&theme=dark") as page:
        core.cancel()
        await page.wait_for_selector("body[data-link=dead]", timeout=6_000)
        assert "The core is silent" in await text(page, "#banner")
        assert "may be incomplete" in await text(page, "#alarm-note")
        assert await page.locator("#alarm-list button:enabled").count() == 0
        before = await text(page, ".tile .age")
        await page.wait_for_function("(old) => document.querySelector('.tile .age').textContent !== old", arg=before)
        await shoot(page, "overview-desk-dark-silent")


@pytest.mark.alone
async def test_lost_web_process_is_shown_within_6_s(web: WebProcess) -> None:
    async with playing(web), opened(web, size=DESK, query="lang=en") as page:
        web.stop.set()
        await page.wait_for_selector("body[data-link=dead]", timeout=6_000)
        assert "Connection lost" in await text(page, "#banner")


async def test_page_comes_back_by_itself_when_the_web_process_does(tmp_path: Path) -> None:
    core, port = CoreStub.begin(tmp_path), free_port()
    async with web_process(tmp_path, core, port=port) as web, playing(web), opened(web, size=DESK, query="lang=en") as page:
        web.stop.set()
        await page.wait_for_selector("body[data-link=dead]")
        await web.task
        async with web_process(tmp_path, core, port=port):
            await page.wait_for_selector("body[data-link=live]")
            await page.wait_for_function("document.querySelectorAll('#alarm-list .row').length === 2")
            assert await page.locator("#banner").is_hidden()
    core.journal.close()


async def test_log_out_ends_the_session_and_the_way_back(web: WebProcess) -> None:
    async with playing(web), opened(web, size=PHONE, query="lang=zh") as page:
        await page.click("#logout")
        await page.wait_for_url(re.compile(r"/login$"))
        await page.goto(f"{web.base_url}/")
        await page.wait_for_url(re.compile(r"/login$"))
        await page.fill("#token", "x" * 43)
        await page.click("button[type=submit]")
        await page.get_by_text("链接或口令无效").wait_for()
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def hostile_site() -> SiteConfig:
    """Labels that are markup, turn the direction of text, or are as long as they may be; and an actuator that is a switch."""
    endless = {"en": "W" * 120, "zh": "温" * 120}
    config = site("north", devices=2).model_dump(mode="json")
    config["label"] = {"en": HOSTILE, "zh": HOSTILE}
    config["devices"][0]["label"] = {"en": f"{HOSTILE}exe", "zh": "'\"><svg/onload=alert(3)>"}
    config["devices"][1]["label"] = endless
    house = config["profiles"]["house"]
    house["points"][0]["label"] = {"en": HOSTILE, "zh": HOSTILE}
    house["points"][1]["label"] = endless
    house["actuators"].append({"name": "pump", "kind": "switch", "high": 1, "fail_safe": 0, "label": {"en": "Pump", "zh": "水泵"}})
    return SiteConfig.model_validate(config)


@pytest.mark.parametrize(("width", "lang", "theme"), [(390, "en", "dark"), (820, "zh", "light"), (1440, "en", "light")])
async def test_hostile_and_endless_names_stay_text_and_inside(web: WebProcess, width: int, lang: str, theme: str) -> None:
    web.core.write(records=[config_record(hostile_site())])
    web.core.write(
        records=[Event("reject", "north/house-0", {"reason": "malformed", "topic": "fl/north/house-0/telemetry", "detail": HOSTILE,
                                                  "payload": b64encode(HOSTILE.encode() + b"A" * 900).decode()})],
        decisions=[("command", "north/house-0/pump", {"id": "p1", "state": "sent", "value": 0.0, "reason": "nobody asks: rest"})],
    )  # fmt: skip
    size = {"width": width, "height": 900}
    async with playing(web), opened(web, size=size, query=f"lang={lang}&theme={theme}") as page:
        await page.wait_for_function("document.querySelectorAll('#alarm-list .row').length === 2")
        await page.locator("#reject-list pre").first.wait_for()
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert await page.evaluate("[...document.querySelectorAll('button')].every((b) => b.scrollWidth <= b.clientWidth)")
        assert await page.locator("main img, main script, main svg[onload]").count() == 0
        shown = await text(page, "body")
        assert "<img src=x onerror=alert(1)>" in shown
        assert "\u202e" not in shown
        pump = await page.locator("#command-list .row", has_text="Pump" if lang == "en" else "水泵").first.inner_text()
        assert ("off" in pump) if lang == "en" else ("关" in pump and "静止位" in pump)
        await shoot(page, f"hostile-{width}-{theme}-{lang}")


async def test_viewer_sees_why_he_may_not_acknowledge(web: WebProcess) -> None:
    async with playing(web), opened(web, size=DESK, query="lang=en", role="viewer") as page:
        button = page.locator("#alarm-list .row button").first
        await button.wait_for()
        assert await button.is_disabled()
        assert await button.get_attribute("title") == "Your role may only look"
