"""`fieldloom alarms` and `fieldloom area` against a served web process: tables in both languages, requests that core answers."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.faults.process import DEADLINE_S
from tests.faults.web_process import CoreStub, WebProcess, web_process
from tests.unit.app.test_cli import fieldloom

HOT = "HOT@north/house-0"


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[WebProcess]:
    async with web_process(tmp_path) as process:
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "web.ready").write_text(process.base_url)
        yield process


async def run(web: WebProcess, *words: str, lang: str = "C.UTF-8") -> subprocess.CompletedProcess[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LC_ALL", lang)
        patch.setenv("COLUMNS", "200")
        return await asyncio.to_thread(fieldloom, *words, data_dir=web.data_dir)


async def answering(core: CoreStub) -> None:
    while True:
        core.acknowledge_all()
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def answered(web: WebProcess) -> AsyncIterator[None]:
    task = asyncio.create_task(answering(web.core), name="core-stub")
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def change(event: str, before: str, after: str, **more: Any) -> tuple[str, str, dict[str, Any]]:
    return "alarm", HOT, {"event": event, "from": before, "to": after, "priority": "P2", "area": "ms", **more}


def rows(text: str) -> list[list[str]]:
    """Words of every line."""
    return [line.split() for line in text.splitlines()]


async def test_measures_are_a_table_with_units_in_both_languages(web: WebProcess) -> None:
    web.core.write(decisions=[change("raise", "NORM", "UNACK")])
    web.core.write(decisions=[change("acknowledge", "UNACK", "ACKED", author="[red]li")])
    async with asyncio.timeout(DEADLINE_S):  # until history has followed
        while "[red]li" not in (done := await run(web, "alarms", "measures", "north")).stdout:
            assert done.returncode == 0, done.stderr
    table = rows(done.stdout)
    assert ["alarms", "raised", "1", "1"] in table
    assert ["in", "10", "min,", "mean", "0.01", "0.01"] in table
    assert ["in", "flood", "[min]", "0.0", "0.0"] in table
    assert ["medium", "P2", "1", "100", "%", "15", "%"] in table
    assert [HOT, "1", "100", "%"] in table
    assert any(row[:2] == ["[red]li", "1"] and row[-1] == "s" for row in table)
    assert done.stdout.count("none") == 2  # nothing is stale, nothing chatters
    chinese = (await run(web, "alarms", "measures", "north", lang="zh_CN.UTF-8")).stdout
    assert "触发的报警" in chinese
    assert "raised" not in chinese


async def test_a_range_is_read_by_the_site_s_clock(web: WebProcess) -> None:
    today = datetime.now(ZoneInfo("Asia/Shanghai"))
    done = await run(web, "alarms", "measures", "north", "--from", f"{today:%Y-%m-%d}")
    assert done.returncode == 0, done.stderr
    assert f"{today:%Y-%m-%d} 00:00:00" in done.stdout.splitlines()[0]
    assert "Asia/Shanghai" in done.stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("alarms", "measures", "nowhere"), "there is no site 'nowhere'; known: north, south"),
        (("alarms", "measures", "north", "--from", "yesterday"), "'yesterday' is no time; write 2025-01-31"),
        (("alarms", "measures", "north", "--from", "2030-01-01"), "must be before end_ms and before now"),
        (("area", "mode", "north", "EMPTY"), "'north' is not an area; write site/area"),
        (("area", "mode", "north/attic", "EMPTY"), "there is no area 'north/attic'; known: ms"),
        (("area", "mode", "east/ms", "EMPTY"), "known: north/ms, south/ms"),
        (("area", "mode", "north/ms", "PARTY"), "there is no mode 'PARTY'; choose one of AUTO, EMPTY"),
        (("area", "batch", "north/ms", "--ends", "--day", "3"), "leave them out"),
        (("area", "batch", "north/ms", "--day", "9999"), "body.day"),
    ],
)
async def test_a_mistake_is_one_sentence_with_its_fix(web: WebProcess, words: tuple[str, ...], says: str) -> None:
    done = await run(web, *words)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not web.core.requests()


@pytest.mark.parametrize(
    ("words", "kind", "body", "says"),
    [
        (("mode", "north/ms", "washdown"), "mode", {"area": "north/ms", "mode": "WASHDOWN"}, "north/ms is in mode WASHDOWN."),
        (("batch", "north/ms", "--day", "-2", "--name", "B7"), "batch", {"area": "north/ms", "day": -2, "name": "B7"}, "day -2"),
        (("batch", "north/ms"), "batch", {"area": "north/ms", "day": 1, "name": ""}, "day 1"),
        (("batch", "north/ms", "--ends"), "batch", {"area": "north/ms", "ends": True}, "the batch is over"),
    ],
)
async def test_an_area_is_told_and_core_s_answer_awaited(
    web: WebProcess, words: tuple[str, ...], kind: str, body: dict[str, Any], says: str
) -> None:
    async with answered(web):
        done = await run(web, "area", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert says in done.stdout
    web.core.taken = 0
    [request] = web.core.requests()
    assert (request.kind, request.author, request.body) == (kind, "local", body)
