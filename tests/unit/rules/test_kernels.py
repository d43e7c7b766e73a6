"""The compiled loops and their numpy forms: equal bits on anything, and nothing raised or cleared by what is unknown (T20)."""

import math
from typing import Any

import numpy as np
import pytest

from rules import kernels
from rules.kernels import OFF, ON, PENDING_OFF, PENDING_ON, ConditionState, Reads
from telemetry.frame import DTYPES, Entries, Flag, Frames, Kind
from telemetry.record import Event, Start
from tests.unit.rules.histories import RULES, T0, record_of, rule_engine, site
from tests.unit.rules.oracle import Oracle

S = 1_000_000_000
ODD = [math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, -5e-324, 2.2e-308, 1.7e308, -1.7e308, float(2**63 - 1), -float(2**63)]


def random_reads(rng: np.random.Generator, points: int, instances: int, width: int) -> Reads:
    slots = np.full((instances, width), -1, np.int32)
    for i in range(instances):
        size = rng.integers(1, width + 1)
        slots[i, :size] = rng.choice(points, size, replace=False)
    instance, column = np.nonzero(slots >= 0)
    point = slots[instance, column]
    order = np.argsort(point, kind="stable")
    indptr = np.zeros(points + 1, np.int64)
    np.cumsum(np.bincount(point, minlength=points), out=indptr[1:])
    return Reads(indptr, instance[order].astype(np.int32), slots)


@pytest.mark.parametrize("seed", range(30))
def test_events_are_what_a_walk_over_the_frames_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, instances, width = int(rng.integers(3, 12)), int(rng.integers(1, 20)), 3
    reads = random_reads(rng, points, instances, width)
    latest = [np.full(points, np.nan), np.full(points, np.nan)]
    plain = np.full(points, np.nan)
    mark, stamp = np.full(instances, -1, np.int64), 0
    for _ in range(4):
        sizes = rng.integers(0, 4, int(rng.integers(0, 30)))
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        point = rng.integers(0, points, int(offsets[-1])).astype(np.int32)
        value = rng.choice([*ODD, 1.0, 2.0, 3.0], int(offsets[-1]))
        made = [
            kernels.emit_events(offsets, point, value, latest[k], reads, mark, stamp, numba=numba)
            for k, numba in enumerate((True, False))
        ]
        stamp += len(sizes)
        expected = []
        for f in range(len(sizes)):
            part = slice(offsets[f], offsets[f + 1])
            for p, v in zip(point[part], value[part], strict=True):
                plain[p] = v
            seen: dict[int, None] = {}
            for p in point[part]:
                seen.update(dict.fromkeys(int(i) for i in range(instances) if p in reads.slots[i]))
            expected += [(i, f, [plain[q] if q >= 0 else np.nan for q in reads.slots[i]]) for i in seen]
        for events, known in zip(made, latest, strict=True):
            assert [(int(i), int(f)) for i, f in zip(events.instance, events.frame, strict=True)] == [
                (i, f) for i, f, _ in expected
            ]
            wanted = np.array([v for _, _, v in expected]).reshape(-1, width)
            assert np.asarray(events.values).tobytes() == wanted.tobytes() or np.array_equal(events.values, wanted, equal_nan=True)
            np.testing.assert_array_equal(known, plain)


def random_run(rng: np.random.Generator, instances: int) -> tuple[dict[str, Any], np.ndarray]:
    k = int(rng.integers(1, 40))
    entry_time = T0 + np.cumsum(rng.integers(0, 3, k)) * S
    n = int(rng.integers(0, 120))
    entry = np.sort(rng.integers(0, k, n))
    unknown = [0.0, 1.0, math.nan]
    when = rng.choice(unknown, n)
    return {
        "instance": rng.integers(0, instances, n), "entry": entry, "time_ns": entry_time[entry] - rng.integers(0, 3, n) * S,
        "when": when, "clear": np.where(rng.random(n) < 0.5, 1.0 - when, rng.choice(unknown, n)), "value": rng.choice(ODD, n),
        "demand": rng.choice([math.nan, 0.0, 1.0, 1.5, 50.0], n),
    }, entry_time  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_both_forms_of_the_machine_are_equal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instances = 6
    rule = {
        "of": np.arange(instances, dtype=np.int32),
        "on_delay": rng.integers(0, 4, instances) * S, "off_delay": rng.integers(0, 4, instances) * S,
        "silence": rng.random(instances) < 0.2, "step": rng.choice([0.0, 1.0], instances),
    }  # fmt: skip
    rule["on_delay"][rule["silence"]] += S
    states = [ConditionState.idle(instances), ConditionState.idle(instances)]
    marks = [np.full(instances, kernels.NO_ENTRY), np.full(instances, kernels.NO_ENTRY)]
    for _ in range(4):
        events, entry_time = random_run(rng, instances)
        a, b = (
            kernels.run_conditions(events, entry_time, rule, state, mark, numba=numba)
            for state, mark, numba in zip(states, marks, (True, False), strict=True)
        )
        for name in a._fields:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
        for name in ("phase", "since_ns", "due_ns", "value", "demand"):
            np.testing.assert_array_equal(getattr(states[0], name), getattr(states[1], name), err_msg=name)
        assert (marks[0] == kernels.NO_ENTRY).all()


@pytest.mark.parametrize("phase", [OFF, PENDING_ON, ON, PENDING_OFF])
@pytest.mark.parametrize("numba", [True, False])
def test_the_unknown_moves_no_condition(phase: int, numba: bool) -> None:
    state = ConditionState.idle(1)
    state.phase[0], state.due_ns[0] = phase, T0 + 100 * S if phase in {PENDING_ON, PENDING_OFF} else kernels.NEVER
    n = 50
    events = {
        "instance": np.zeros(n, np.int64), "entry": np.arange(n), "time_ns": T0 + np.arange(n) * S,
        **{name: np.full(n, np.nan) for name in ("when", "clear", "value", "demand")},
    }  # fmt: skip
    rule = {
        "of": np.zeros(1, np.int32),
        "on_delay": np.zeros(1, np.int64), "off_delay": np.zeros(1, np.int64), "silence": np.zeros(1, np.bool_), "step": np.ones(1),
    }  # fmt: skip
    mark = np.full(1, kernels.NO_ENTRY)
    changes = kernels.run_conditions(events, T0 + np.arange(n) * S, rule, state, mark, numba=numba)
    assert (len(changes.instance), state.phase[0]) == (0, phase)


def odd_entries(seed: int, count: int) -> Entries:
    """START, CONFIG, drained, then frames of both points with odd values, straight into the columns."""
    rng = np.random.default_rng(seed)
    entry = np.arange(3, 3 + count)
    times = np.concatenate([np.full(3, T0), T0 + np.arange(1, count + 1) * S])
    device = 1 + rng.integers(0, 4, count)
    points = {1: (1, 2), 2: (3, 4), 3: (5, 6), 4: (7, 8)}
    sane = rng.random(2 * count) < 0.4
    made = {
        "entry": entry, "device": device, "ts_ns": times[3:], "boot": np.zeros(count), "seq": np.zeros(count),
        "flags": np.full(count, int(Flag.HAS_TS | Flag.FIRST)), "offsets": np.arange(count + 1) * 2,
        "point": np.array([points[int(d)] for d in device]).ravel(),
        "value": np.where(sane, rng.uniform(0, 60, 2 * count), rng.choice(ODD, 2 * count)), "quality": np.zeros(2 * count),
    }  # fmt: skip
    kind = np.full(3 + count, Kind.FRAME, np.uint8)
    kind[:3] = Kind.START, Kind.CONFIG, Kind.EVENT
    records = ((0, Start(1)), (1, record_of(site())), (2, Event("drained")))
    return Entries(0, kind, times, Frames(**{name: np.array(column, DTYPES[name]) for name, column in made.items()}), records)


@pytest.mark.parametrize("seed", range(4))
def test_odd_numbers_in_every_rule_equal_the_oracle(seed: int) -> None:
    entries = odd_entries(seed, 500)
    found = []
    for numba in (True, False):
        engine, probe = rule_engine(numba=numba)
        admission = engine.step(entries).admission
        found.append(probe.out)
        oracle = Oracle()
        oracle.step(entries, admission)
        assert sorted(probe.out, key=repr) == sorted(oracle.out, key=repr)
    assert found[0] == found[1]
    assert len(found[0]) > 50


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, 1.7e308, -1.7e308])
def test_alarms_neither_come_nor_go_by_what_is_no_measurement(odd: float) -> None:
    """A condition that is on stays on, one that is off stays off, while only such values come; timers that run go on."""
    entries = odd_entries(1, 120)
    value = np.tile([20.0, 75.0], 120)
    value[: 2 * 40 : 2] = 35.0  # first too hot, so that some are on
    value[2 * 60 :] = odd
    frames = Frames(**{n: getattr(entries.frames, n) if n != "value" else value for n in DTYPES})
    engine, probe = rule_engine(numba=True)
    engine.step(Entries(0, entries.kind, entries.time_ns, frames, entries.records))
    instant = {f"{r.id}@s/d-{k}" for r in RULES for k in range(4) if r.id != "SIL" and "(" not in r.when}
    assert any(t.on == 1 for t in probe.out if t.subject in instant)
    assert [t for t in probe.out if t.position > 63 + 12 and t.subject in instant] == []
