"""T23: one recorded hour decides the same however it is cut, over restarts, and in both forms of the loops; and the hash would tell."""

import dataclasses
import functools
import itertools
import os
import random
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.wiring import build_engine
from rules.engine import Engine
from store.snapshot import read_snapshot, write_snapshot
from telemetry.frame import COLUMNS, Entries, make_frames
from telemetry.record import Request
from tests.scenario.recorded_hour import Recorder, drive, replay_entries


@cache
def hour(seed: int = 1, seconds: int = 3600) -> tuple[Entries, str, list[Any]]:
    """The recording, and what was decided when its entries came one at a time."""
    recorder = Recorder(seed, seconds)
    return replay_entries(recorder.actions), recorder.hash.hexdigest(), recorder.commands


def cuts(seed: int, size: int, count: int) -> list[int]:
    return random.Random(seed).sample(range(1, size), count)


@pytest.mark.parametrize("size", [7, 10_000])
def test_batches_of_any_size_decide_the_same(size: int) -> None:
    entries, digest, commands = hour()
    assert len(commands) > 200
    assert drive(entries, list(range(0, len(entries), size)), build_engine()) == (digest, commands)


@pytest.mark.parametrize("seed", range(4))
def test_random_cuts_decide_the_same(seed: int) -> None:
    entries, digest, commands = hour()
    assert drive(entries, cuts(seed, len(entries), 40), build_engine()) == (digest, commands)


PRINT = """
from tests.scenario.test_batch_invariance import build_engine, cuts, drive, hour
entries, digest, commands = hour()
assert drive(entries, cuts(9, len(entries), 60), build_engine()) == (digest, commands)
print(digest)
"""


def test_admission_and_ledger_as_plain_loops_decide_the_same() -> None:
    entries, digest, commands = hour()
    assert drive(entries, cuts(9, len(entries), 60), build_engine(numba=False)) == (digest, commands)


def test_without_the_compiler_the_whole_engine_decides_the_same() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PRINT], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert ran.stdout.split() == [hour()[1]]


def test_restarts_from_snapshots_decide_the_same(tmp_path: Path) -> None:
    entries, digest, commands = hour()

    def restarted(engine: Engine) -> Engine:
        path = write_snapshot(tmp_path, engine.position, engine.snapshot())
        fresh = build_engine()
        fresh.restore(read_snapshot(path).state)
        return fresh

    assert drive(entries, cuts(5, len(entries), 40), build_engine(), restarted) == (digest, commands)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(2, 22))
def test_many_hours(seed: int, tmp_path: Path) -> None:
    entries, digest, commands = hour(seed)

    def restarted(engine: Engine, *, run: int) -> Engine:
        path = write_snapshot(tmp_path / str(run), engine.position, engine.snapshot())
        fresh = build_engine(numba=seed % 2 == 0)
        fresh.restore(read_snapshot(path).state)
        return fresh

    assert drive(entries, [], build_engine()) == (digest, commands)
    for k in range(5):
        restart = functools.partial(restarted, run=k)
        assert drive(entries, cuts(seed * 100 + k, len(entries), 200), build_engine(), restart) == (digest, commands)


# -- the hash would tell ---------------------------------------------------------------------------------------------------


def changed(entries: Entries, **columns: Any) -> Entries:
    frames = entries.frames
    kept = {name: getattr(frames, name).copy() for name in COLUMNS}
    return dataclasses.replace(entries, frames=make_frames({**kept, **columns}, frames.arrays))


def test_two_frames_swapped_change_the_hash() -> None:
    """Two frames of one device change places, contents and all."""
    entries, digest, _ = hour()
    frames = entries.frames
    sizes = np.diff(frames.offsets)
    pairs = [
        (int(i), int(j))
        for d in np.unique(frames.device)
        for i, j in itertools.pairwise(np.flatnonzero((frames.device == d) & (sizes == 2))[20:])
    ]
    first = np.nan_to_num(frames.value[frames.offsets[:-1]])
    pairs.sort(key=lambda pair: -abs(min(first[pair[0]], 60) - min(first[pair[1]], 60)))

    def swapped(a: int, b: int) -> Entries:
        ts, seq, value = frames.ts_ns.copy(), frames.seq.copy(), frames.value.copy()
        ts[[a, b]], seq[[a, b]] = ts[[b, a]], seq[[b, a]]
        sa, sb = (slice(int(frames.offsets[k]), int(frames.offsets[k + 1])) for k in (a, b))
        value[sa], value[sb] = value[sb].copy(), value[sa].copy()
        return changed(entries, ts_ns=ts, seq=seq, value=value)

    # Where they are furthest apart some of them decide something.
    assert any(drive(swapped(*pair), [], build_engine())[0] != digest for pair in pairs[:12])


def test_the_last_bit_of_a_value_at_a_threshold_changes_the_hash() -> None:
    entries, digest, _ = hour()
    differing = 0
    for at in np.flatnonzero(entries.frames.value == 30.0):
        value = entries.frames.value.copy()
        value[at] = np.nextafter(30.0, 31.0)
        differing += drive(changed(entries, value=value), [], build_engine())[0] != digest
    assert differing


def asks_twice(entries: Entries) -> bool:
    """Whether a request about a rule's alarm comes again with the id it had."""
    asked = [record for _, record in entries.records if isinstance(record, Request)]
    ids = [r.id for r in asked if "alarm" in r.body]
    return len(set(ids)) < len(ids)


FIELDS = [
    ("Conditions", "rules"), ("Conditions", "cohorts"), ("Alarms", "alarms"), ("Alarms", "answered"),
    ("CommandAlarms", "alarms"),
    ("Admit", "point"), ("Admit", "device"), ("Admit", "ledger"), ("Control", "cohorts"), ("Control", "latest"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "field"), FIELDS, ids=lambda name: name)
def test_a_field_missing_from_the_snapshot_changes_the_hash(stage: str, field: str) -> None:
    entries, digest, _ = hour(next(seed for seed in range(6, 30) if asks_twice(hour(seed)[0])) if field == "answered" else 1)

    def forgetful(engine: Engine) -> Engine:
        saved, fresh = engine.snapshot(), build_engine()
        empty = build_engine()
        empty.plan = type(engine.plan).from_snapshot(saved["plan"])
        for other in empty.stages:
            other.configure(empty.plan)
        saved["stages"][stage][field] = empty.snapshot()["stages"][stage][field]
        fresh.restore(saved)
        return fresh

    count = 200 if field in {"answered", "device"} else 12
    assert drive(entries, cuts(5, len(entries), count), build_engine(), forgetful)[0] != digest
