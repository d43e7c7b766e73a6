"""Lanes: recorded frames on their own clock decide what a live run at those times would have decided, in any order of the rows."""

from typing import Any

import numpy as np
import pytest

from app.wiring import build_engine
from rules import lane
from rules.engine import Engine
from rules.lane import TICK_NS, on_data_clock, run_lane
from telemetry.decision import Decision
from telemetry.frame import Kind
from telemetry.plan import NS_PER_S
from tests.unit.rules.histories import T0, site

Columns = dict[str, Any]


def recording(seed: int, frames: int = 400) -> tuple[Columns, np.ndarray]:
    rng = np.random.default_rng(seed)
    device = rng.integers(1, 5, frames)
    ts_ns = T0 + np.arange(frames) * NS_PER_S
    sizes = rng.integers(1, 3, frames)
    point = np.concatenate([[2 * d - 1, 2 * d][:n] for d, n in zip(device, sizes, strict=True)])
    value = rng.uniform(0, 60, int(sizes.sum()))
    columns = {"device": device, "ts_ns": ts_ns, "point": point, "value": value, "quality": np.zeros(len(point), np.uint16)}
    return columns, sizes


def shuffled(columns: Columns, sizes: np.ndarray, seed: int) -> tuple[Columns, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(sizes))
    starts = np.cumsum(sizes) - sizes
    samples = np.concatenate([np.arange(starts[k], starts[k] + sizes[k]) for k in order])
    part = {name: column[samples if name in {"point", "value", "quality"} else order] for name, column in columns.items()}
    return part, sizes[order]


def engine() -> Engine:
    made = build_engine()
    made.configure(site())
    return made


def alarms(decisions: list[Decision]) -> list[tuple[int, str, Any]]:
    return [(d.time_ns, d.subject, d.body["to"]) for d in decisions if d.kind == "alarm"]


def test_entries_are_in_order_of_time_with_ticks_before_frames() -> None:
    columns, sizes = recording(1)
    entries = on_data_clock(columns, sizes, first=7, after_ns=T0 - 1, until_ns=T0 + 2 * TICK_NS)
    assert (np.diff(entries.time_ns) >= 0).all()
    ticks = entries.time_ns[entries.kind == Kind.TICK]
    assert (ticks % TICK_NS == 0).all()
    assert (np.diff(ticks) == TICK_NS).all()
    assert (entries.time_ns[entries.frames.entry] == entries.frames.ts_ns).all()
    assert entries.first == 7


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_rows_does_not_matter(seed: int) -> None:
    columns, sizes = recording(seed)
    expected = list(run_lane(engine(), columns, sizes))
    assert alarms(expected)
    assert list(run_lane(engine(), *shuffled(columns, sizes, seed))) == expected


@pytest.mark.parametrize("frames", [1, 7, 150])
def test_the_size_of_a_step_does_not_matter(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, sizes = recording(9)
    expected = alarms(list(run_lane(engine(), columns, sizes)))
    monkeypatch.setattr(lane, "FRAMES_PER_STEP", frames)
    assert alarms(list(run_lane(engine(), columns, sizes))) == expected


@pytest.mark.parametrize("tick_s", [1, 37])
def test_the_cadence_of_ticks_changes_no_alarm(tick_s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, sizes = recording(4)
    monkeypatch.setattr(lane, "TAIL_NS", 600 * NS_PER_S)
    expected = alarms(list(run_lane(engine(), columns, sizes)))
    monkeypatch.setattr(lane, "TICK_NS", tick_s * NS_PER_S)
    assert alarms(list(run_lane(engine(), columns, sizes))) == expected


def test_nothing_recorded_decides_nothing() -> None:
    columns, sizes = recording(0, 1)
    none = {name: column[:0] for name, column in columns.items()}
    assert list(run_lane(engine(), none, sizes[:0])) == []
