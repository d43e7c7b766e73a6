"""`fieldloom override` and `fieldloom status` against a served web process: a dangerous one asks for a second word."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.commands.actuators import release
from telemetry.errors import CallerError
from tests.faults.web_process import WebProcess, web_process
from tests.unit.app.test_alarm_commands import run

VENT = "north/house-0/roof_vent"
WHY = {"en": "the roof moves", "zh": "天窗将动作"}


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[WebProcess]:
    async with web_process(tmp_path) as process:
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "web.ready").write_text(process.base_url)
        yield process


async def answer_as_dangerous(web: WebProcess, kinds: list[str]) -> None:
    """Answer the first request with a danger, and do what is confirmed."""
    while True:
        for request in web.core.requests():
            kinds.append(request.kind)
            is_done = request.kind == "confirm"
            body = {"accepted": is_done, "reason": ""} | (
                {} if is_done else {"confirm": WHY, "confirm_until_ns": 1, "displaces": []}
            )
            until_ns = web.core.clock.now_ns() + 600 * 10**9
            mode = ("mode", VENT, {"mode": "MANUAL", "until_ns": until_ns, "reason": "local: belt"})
            web.core.write(records=[request], decisions=[("answer", request.id, body), *([mode] if is_done else [])])
        await asyncio.sleep(0.05)


async def test_dangerous_override_is_done_with_a_second_word_and_seen_in_status(web: WebProcess) -> None:
    kinds: list[str] = []
    task = asyncio.create_task(answer_as_dangerous(web, kinds), name="core-stub")
    try:
        done = await run(web, "override", VENT, "50", "--minutes", "10", "--reason", "belt", "--confirm")
        assert done.returncode == 0, done.stderr
        assert kinds == ["override", "confirm"]
        assert "Dangerous: the roof moves." in done.stdout
        assert f"{VENT} is by hand at 50 until" in done.stdout
        told = (await run(web, "status", lang="zh_CN.UTF-8")).stdout
        assert [line.split()[:2] for line in told.splitlines() if VENT in line] == [[VENT, "手动"]]
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_an_actuator_is_named_in_full() -> None:
    with pytest.raises(CallerError, match="write site/device/actuator"):
        release("roof_vent")
