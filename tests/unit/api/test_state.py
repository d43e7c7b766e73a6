"""The live state: newest wins in any order, snapshots are whole, limits hold."""

import asyncio
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.state import COMMANDS_MAX, REJECTS_MAX, LiveState, parse
from telemetry.record import Event, Start
from tests.faults.process import DEADLINE_S
from tests.faults.web_process import CoreStub, WebProcess, web_process
from tests.faults.web_world import Writer, config_record, fill, make_world, site


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 1), st.integers(-5, 5), st.floats(0, 50)), max_size=6), max_size=5))
def test_latest_equals_a_naive_loop(transactions: list[list[tuple[int, int, float]]]) -> None:
    writer, state, naive = Writer(), LiveState(), dict[int, tuple[int, float]]()
    state.apply(parse(writer.write(records=[Start(1, ""), config_record(site("north"))])))
    for rows in transactions:
        transaction = writer.write(frames=[(f"north/house-{d}", {"air_temp_c": v}, float(s)) for d, s, v in rows])
        delta = state.apply(parse(transaction))
        moved = set()
        for device, relative_s, value in rows:
            ts_ns = writer.now_ns + relative_s * 1_000_000_000
            if ts_ns >= naive.get(device, (0, 0.0))[0]:
                naive[device] = (ts_ns, value)
                moved.add(device)
        points = {writer.plan.devices[d].points[0] for d in moved}
        assert points <= set(delta.points.tolist())
    for device, (ts_ns, value) in naive.items():
        point = writer.plan.devices[device].points[0]
        assert (int(state.ts_ns[point]), float(state.value[point])) == (ts_ns, value)


def test_snapshot_gives_the_same_state_again(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    fill(world)
    first, again = world.parts.state, LiveState()
    again.restore(first.position, first.snapshot()())
    world.close()
    for name in (
        "alarms",
        "commands",
        "actuators",
        "requests",
        "position",
        "epoch",
        "engine_ns",
        "accounting",
        "blind",
        "shadows",
        "shadow_demands",
        "areas",
    ):
        assert getattr(again, name) == getattr(first, name), name
    assert list(again.rejects) == list(first.rejects)
    assert again.plan.snapshot() == first.plan.snapshot()
    count = len(first.plan.point_owner)
    for name in ("value", "ts_ns", "quality"):
        np.testing.assert_array_equal(getattr(again, name)[:count], getattr(first, name)[:count])


def test_rejects_and_commands_are_bounded() -> None:
    writer, state = Writer(), LiveState()
    rejects = [Event("reject", "", {"reason": "bad", "topic": "x", "payload": ""})] * (REJECTS_MAX + 1)
    commands = [
        ("command", "north/house-0/roof_vent", {"id": str(i), "state": "sent", "value": 1.0}) for i in range(COMMANDS_MAX + 1)
    ]
    state.apply(parse(writer.write(records=rejects, decisions=commands)))
    assert (len(state.rejects), len(state.commands)) == (REJECTS_MAX, COMMANDS_MAX)
    assert state.actuators["north/house-0/roof_vent"] == str(COMMANDS_MAX)


@pytest.mark.parametrize("topic", ["", "/", "a/b", "fl/unknown/x/telemetry", "fl/north", "\x00/\u202e/x/y"])
def test_reject_of_a_strange_topic_belongs_to_no_site(topic: str) -> None:
    writer, state = Writer(), LiveState()
    state.apply(parse(writer.write(records=[config_record(site("north"))])))
    delta = state.apply(parse(writer.write(records=[Event("reject", "", {"reason": "bad", "topic": topic, "payload": "!"})])))
    assert delta.rejects[0].site == ""
    assert delta.rejects[0].payload == b"!"


async def metric(web: WebProcess, name: str) -> int:
    async with httpx.AsyncClient(
        base_url=web.base_url, headers={"Authorization": f"Bearer {web.token('ann', 'viewer', None)}"}, timeout=DEADLINE_S
    ) as http:
        [line] = [line for line in (await http.get("/metrics")).text.splitlines() if line.startswith(name)]
        return int(line.rsplit(" ", 1)[1])


async def caught_up(web: WebProcess) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await metric(web, "fieldloom_journal_position") != web.core.journal.last_position:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_trimmed_journal_is_skipped_and_counted(tmp_path: Path) -> None:
    core = CoreStub.begin(tmp_path, segment_s=0.01)
    async with asyncio.timeout(DEADLINE_S):
        while not core.journal.trim(before=core.journal.last_position):
            core.write()
            await asyncio.sleep(0)
    async with web_process(tmp_path, core) as web:
        await caught_up(web)
        assert await metric(web, "fieldloom_journal_skipped_total") > 0
    core.journal.close()


async def test_snapshot_of_another_journal_is_not_believed(tmp_path: Path) -> None:
    core = CoreStub.begin(tmp_path)
    for _ in range(5):
        core.write()
    async with web_process(tmp_path, core) as web:
        await caught_up(web)
    core.journal.close()
    shutil.rmtree(tmp_path / "journal")
    (tmp_path / "history.duckdb").unlink()
    core = CoreStub.begin(tmp_path)
    async with web_process(tmp_path, core) as web:
        await caught_up(web)
    core.journal.close()
