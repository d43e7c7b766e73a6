"""A backtest of rules on members of arrays decides what the live core decided on the arrays that devices sent."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.backtest import lane
from app.backtest.arrays import Arrays
from app.backtest.job import Job
from app.backtest.lane import Seconds, by_time, run
from app.backtest.order import make_job
from app.backtest.worker import Backtest
from store.duckdb_history import DuckDBHistory
from store.history import CHANGES, KEYFRAME, MemberRow, no_rows
from store.scan import MEMORY_MB, FileScan
from telemetry.decision import Decision
from telemetry.site import COMMAND_ALARM
from telemetry.wire.message import encode_packed
from tests.unit.app.recorded_farm import MINUTE_MS, T0_MS
from tests.unit.app.recorded_mill import END_MS, SPINDLES, Message, messages, write_mill
from tests.unit.app.test_backtest import sha


@pytest.fixture(scope="module")
def mill_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Decision]]:
    file = tmp_path_factory.mktemp("mill") / "history.duckdb"
    return file, write_mill(file)


@pytest.fixture
def scan(mill_file: tuple[Path, list[Decision]]) -> Iterator[FileScan]:
    made = FileScan(mill_file[0])
    yield made
    made.close()


def job_of(scan: Any, rules: Any = "site") -> Job:
    return make_job(scan, "mill", rules=rules, against=None, start_ms=T0_MS, end_ms=END_MS, with_people=False)[0]


def told(decisions: list[Decision]) -> list[Decision]:
    """Alarms and demands; a backtest commands nothing, so it has no alarms of commands."""
    chosen = [d for d in decisions if d.kind in {"alarm", "demand"} and not d.subject.startswith(COMMAND_ALARM)]
    return sorted((d for d in chosen if d.time_ns < END_MS * 1_000_000), key=by_time)


def decided(job: Job, scan: Any, rows: int = 100_000) -> list[Decision]:
    return told([d for block in run(job, scan, Seconds(), block_rows=rows) for d in block.decisions[0]])


class Kept:
    """A store that keeps no runs of entries."""

    def __init__(self, scan: FileScan) -> None:
        self.scan, self.member_rows = scan.scan, scan.member_rows

    def sent(self, after: int, start_ms: int, *, limit: int) -> list[Any]:
        del after, start_ms, limit
        return []


def test_decides_what_the_live_core_decided(mill_file: tuple[Path, list[Decision]], scan: FileScan) -> None:
    live = told(mill_file[1])
    names = {d.subject.split("@")[0] for d in live if d.kind == "alarm"}
    assert names == {"SLOW", "SLIP", "ROGUE", "DUST"}
    assert sum(d.kind == "demand" for d in live) > 2
    assert len(live) > 50
    assert sha(decided(job_of(scan), scan)) == sha(live)


def test_what_was_sent_is_read_and_not_what_a_deadband_left(mill_file: tuple[Path, list[Decision]], scan: FileScan) -> None:
    job, live = job_of(scan), told(mill_file[1])
    kept = decided(job, Kept(scan))
    assert sha(kept) != sha(live)
    exact = [[d for d in part if d.subject.startswith("ROGUE@")] for part in (kept, live)]
    assert exact[0]
    assert sha(exact[0]) == sha(exact[1])


@pytest.mark.parametrize("rows", [40, 700])
def test_where_blocks_are_cut_changes_nothing(scan: FileScan, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(scan)
    expected = decided(job, scan)
    monkeypatch.setattr(lane, "BLOCK_ROWS_MAX", rows)
    assert sha(decided(job, scan, rows)) == sha(expected)


def test_processes_that_read_themselves_or_ask_decide_the_same(
    mill_file: tuple[Path, list[Decision]], scan: FileScan, tmp_path: Path
) -> None:
    job = job_of(scan)
    expected = sha(decided(job, scan))
    assert sha(told([d for piece in Backtest(job, file=mill_file[0]).pieces() for d in piece.decisions[0]])) == expected
    copy = tmp_path / "history.duckdb"
    shutil.copyfile(mill_file[0], copy)
    history = DuckDBHistory(copy)  # as web holds it
    asked = Backtest(job, file=None, history=history, processes=1)
    assert sha(told([d for piece in asked.pieces() for d in piece.decisions[0]])) == expected
    history.close()


def test_a_start_inside_a_chain_of_changes(scan: FileScan) -> None:
    late = T0_MS + 37 * MINUTE_MS
    job = replace(job_of(scan), start_ms=late)
    plan = job.plan(job.variants[0])
    points = [number for d in plan.devices for number, spec in zip(d.points, d.profile.points, strict=True) if spec.members]
    whole = {(a.point, a.ts_ms): a.values for a in Arrays(scan, plan, points, T0_MS).read(T0_MS, END_MS, 1 << 30) or []}
    part = Arrays(scan, plan, points, late).read(late, END_MS, 1 << 30)
    assert part is not None
    assert len(part) == sum(ts_ms >= late for _, ts_ms in whole) > 1_000
    for array in part:
        np.testing.assert_array_equal(array.values, whole[array.point, array.ts_ms])
    assert Arrays(scan, plan, points, T0_MS).read(T0_MS, END_MS, 1_000) is None


def test_an_array_that_came_late_stands_at_its_own_time(tmp_path: Path) -> None:
    given = [m for m in messages(120) if not (m.device == "frame-b" and T0_MS + 20 * MINUTE_MS <= m.ts_ms < T0_MS + 40 * MINUTE_MS)]
    at = T0_MS + 30 * MINUTE_MS
    values = np.full(SPINDLES, 17_000, "<u2")
    values[:6] = 16_000
    given.append(Message(at, "frame-b", encode_packed("spindle_rpm", values, ts_ms=at), late_ms=20 * MINUTE_MS))
    live = write_mill(tmp_path / "history.duckdb", given)
    scan = FileScan(tmp_path / "history.duckdb")
    job = job_of(scan)
    assert not [d for d in live if d.subject == "SLOW@mill/frame-b" and d.time_ns == at * 1_000_000]
    assert [d for d in decided(job, scan) if d.subject == "SLOW@mill/frame-b" and d.time_ns == at * 1_000_000]
    scan.close()


def test_a_stretch_of_arrays_may_be_larger_than_what_the_store_holds_in_memory(tmp_path: Path) -> None:
    history = DuckDBHistory(tmp_path / "history.duckdb")
    everybody, values = np.arange(1_824, dtype=np.int32), np.random.default_rng(0).random(1_824)
    for k in range(36):
        rows = [MemberRow(point, T0_MS + 1_000 * k, CHANGES if k else KEYFRAME, everybody, values) for point in range(100)]
        history.append(no_rows(), [], k + 1, members=rows)
    history.close()
    scan = FileScan(tmp_path / "history.duckdb")
    found = scan.member_rows(range(100), T0_MS, T0_MS + 60_000, limit=1 << 40)
    assert len(found) == 3_600
    assert sum(len(row.value) + len(row.member) for row in found) > MEMORY_MB << 20
    assert len(scan.member_rows(range(100), T0_MS, T0_MS + 60_000, limit=100)) == 100
    scan.close()


def test_nothing_of_arrays_is_read_where_no_rule_reads_them(scan: FileScan) -> None:
    class Plain:
        scan = FileScan.scan

        def __init__(self, scan: FileScan) -> None:
            self.scan = scan.scan  # type: ignore[method-assign, assignment]

    plain = next(iter(job_of(scan).variants))
    fast = plain.rules[0].model_copy(update={"when": "speed_rpm > 100"})
    found = list(run(job_of(scan, [fast]), Plain(scan), Seconds()))  # type: ignore[arg-type]
    assert sum(block.samples for block in found) > 600
