"""Staging against a scalar loop that asks at every moment, and what the machines may rely on."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from rules.control.memory import Guard
from rules.control.staging import MachineLimits, Stages, run_time_s, staging, start_staging
from telemetry.errors import CallerError
from tests.unit.rules.control.sequences import NAN, SAMPLE_S, SEEDS, T0, N, S, agree_in_any_grouping, times, walk

M = 4
ON_AT = np.array([0.0, 1.4, 2.8, 3.6])
HYSTERESIS, DOWN_S = 0.4, 90
HOUR = 3600 * S


class ScalarStaging:
    """One unit, asked every second and a nanosecond after it (a fail-safe begins there)."""

    def __init__(self, limits: dict[str, Any], fail_safe: float) -> None:
        self.limits, self.fail_safe = limits, fail_safe
        self.heard_at, self.lapsed = T0, False
        self.latched = [False] * M
        self.below: list[int | None] = [None] * M
        self.on, self.available = [False] * M, [True] * M
        self.changed: list[int | None] = [None] * M
        self.starts: list[list[int]] = [[] for _ in range(M)]
        self.stops: list[list[int]] = [[] for _ in range(M)]
        self.run, self.wanted = [0] * M, 0

    def rested(self, k: int, now: int, least_s: int) -> bool:
        return self.changed[k] is None or now - self.changed[k] >= least_s * S

    def may_start(self, k: int, now: int) -> bool:
        latest = max((starts[-1] for starts in self.starts if starts), default=None)
        return (
            not self.on[k]
            and self.available[k]
            and self.rested(k, now, self.limits["min_off_s"])
            and sum(start > now - HOUR for start in self.starts[k]) < self.limits["starts_per_hour"]
            and (latest is None or now - latest >= self.limits["stagger_s"] * S)
        )

    def switch(self, k: int, now: int) -> None:
        if self.on[k]:
            self.run[k] += now - self.changed[k]
            self.stops[k].append(now)
        else:
            self.starts[k].append(now)
        self.on[k], self.changed[k] = not self.on[k], now

    def serve(self, now: int) -> None:
        if not self.limits["rotates"]:
            for k in range(M):
                if (k < self.wanted and self.may_start(k, now)) or (
                    k >= self.wanted and self.on[k] and self.rested(k, now, self.limits["min_on_s"])
                ):
                    self.switch(k, now)
            return
        while sum(self.on) < self.wanted and (able := [k for k in range(M) if self.may_start(k, now)]):
            self.switch(min(able, key=lambda k: (self.run[k], k)), now)
        while sum(self.on) > self.wanted:
            able = [k for k in range(M) if self.on[k] and self.rested(k, now, self.limits["min_on_s"])]
            if not able:
                return
            self.switch(min(able, key=lambda k: (-self.run[k] - (now - self.changed[k]), k)), now)

    def want(self, now: int) -> None:
        self.serve(now)
        self.wanted = sum(self.latched)
        self.serve(now)

    def drop(self, now: int) -> None:
        for k in range(M):
            if self.below[k] is not None and now - self.below[k] >= DOWN_S * S:
                self.latched[k] = False

    def ask(self, now: int) -> None:
        self.serve(now)
        self.drop(now)
        self.want(now)
        if not self.lapsed and now - self.heard_at > 3 * SAMPLE_S * S and not math.isnan(self.fail_safe):
            self.lapsed, self.below = True, [None] * M
            self.latched = [k < self.fail_safe for k in range(M)]
            self.want(now)

    def call(self, before: int, now: int, error: float, available: list[bool]) -> list[bool]:
        for second in range(before, now + 1, S):
            for moment in (second, second + 1):
                if moment <= now:
                    self.ask(moment)
        if not math.isnan(error):
            self.heard_at, self.lapsed = now, False
            for k in range(M):
                if error >= ON_AT[k] - HYSTERESIS:
                    self.below[k] = None
                elif self.below[k] is None:
                    self.below[k] = now
                self.latched[k] = self.latched[k] or error >= ON_AT[k]
            self.drop(now)
        for k in range(M):
            if self.on[k] and not available[k]:
                self.switch(k, now)
        self.available = available
        self.want(now)
        return list(self.on)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("with_faults", [False, True])
def test_staging_equals_its_definition(seed: int, with_faults: bool) -> None:
    rng = np.random.default_rng(seed)
    steps = 500
    at, errors = times(rng, steps, SAMPLE_S), walk(rng, steps, N, -3.0, 6.0, 0.25)
    available = np.cumsum(rng.random((steps, N, M)) < 0.01 * with_faults, axis=0) % 2 == 0
    fail_safe = np.array([0.0, 4.0, NAN, 2.0, 1.0, 4.0, NAN])
    limits = {
        "min_on_s": rng.choice([0, 60, 180], N),
        "min_off_s": rng.choice([0, 60, 300], N),
        "stagger_s": rng.choice([0, 5, 30], N),
        "rotates": np.array([False, True, True, False, True, True, False]),
    }

    def one(unit: int | None) -> Any:
        cut = slice(None) if unit is None else slice(unit, unit + 1)
        machine = MachineLimits(
            limits["min_on_s"][cut, None], limits["min_off_s"][cut, None], limits["stagger_s"][cut], 6, limits["rotates"][cut]
        )
        stages, guard = Stages(ON_AT, HYSTERESIS, DOWN_S), Guard(SAMPLE_S, fail_safe[cut])

        def step(state: Any, t: int, k: int, new: bool) -> Any:
            return staging(state, t, errors[k, cut] if new else NAN, stages, machine, guard, available=available[k, cut])

        return step

    start = start_staging(N, M, T0, MachineLimits(starts_per_hour=6))
    out = agree_in_any_grouping(one(None), one, start, at, rng)
    for unit in range(N):
        own = {name: value[unit] for name, value in limits.items()} | {"starts_per_hour": 6}
        scalar, before = ScalarStaging(own, fail_safe[unit]), T0
        for k, now in enumerate(at.tolist()):
            expected = scalar.call(before, now, errors[k, unit], available[k, unit].tolist())
            assert out[k, unit].tolist() == expected, f"unit {unit}, call {k}"
            before = now
        keeps_its_limits(scalar, own, with_faults)


def keeps_its_limits(unit: ScalarStaging, limits: dict[str, Any], with_faults: bool) -> None:
    """Of the starts and stops that the staging was just seen to make."""
    assert sum(map(len, unit.starts)) > 10
    every = sorted(start for starts in unit.starts for start in starts)
    assert all(b - a >= limits["stagger_s"] * S for a, b in itertools.pairwise(every))
    for starts, stops in zip(unit.starts, unit.stops, strict=True):
        assert all(sum(start - HOUR < other <= start for other in starts) <= limits["starts_per_hour"] for start in starts)
        assert all(start - stop >= limits["min_off_s"] * S for stop, start in zip(stops, starts[1:], strict=False))
        if not with_faults:
            assert all(stop - start >= limits["min_on_s"] * S for start, stop in zip(starts, stops, strict=False))


PIG = Stages([0.0, 1.4, 2.8], 0.4, 90.0)


def pig_house(limits: MachineLimits, guard: Guard, errors: list[tuple[float, float]]) -> list[list[bool]]:
    state, out = start_staging(1, 3, T0, limits), []
    for seconds, error in errors:
        state, on = staging(state, T0 + int(seconds * S), error, PIG, limits, guard)
        out.append(on[0].tolist())
    return out


def test_staging_table_of_a_pig_house() -> None:
    """Handbook 4.3: stage 2 at +1.4 K, stage 3 at +2.8 K, hysteresis 0.4 K, down after 90 s, starts 5 s apart."""
    shown = pig_house(
        MachineLimits(60.0, 60.0, 5.0),
        Guard(600.0, 3.0),
        [
            (0, -0.1),
            (10, 0.0),
            (20, 1.3),
            (30, 1.4),
            (40, 2.79),
            (50, 2.8),
            (200, 2.4),
            (290, 2.39),
            (379, 2.0),
            (380, 2.0),
            (600, 1.0),
        ],
    )
    assert shown == [
        [False] * 3, [True, False, False], [True, False, False], [True, True, False], [True, True, False], [True] * 3,
        [True] * 3, [True] * 3, [True] * 3, [True, True, False], [True, True, False],
    ]  # fmt: skip


def test_machines_start_one_after_another() -> None:
    shown = pig_house(MachineLimits(stagger_s=5.0), Guard(600.0), [(0, 5.0), (4, NAN), (5, NAN), (9, NAN), (10, NAN)])
    assert [sum(on) for on in shown] == [1, 1, 2, 2, 3]


def test_heater_of_a_pig_house() -> None:
    """On at 0.8 K below the set point, off at 0.3 K below it, at least 180 s on and off."""
    stages, limits, guard = Stages([0.8], 0.5), MachineLimits(180.0, 180.0), Guard(600.0, 0.0)
    state, out = start_staging(1, 1, T0, limits), []
    for seconds, error in [
        (0, 0.79),
        (10, 0.8),
        (20, 0.2),
        (189, 0.2),
        (190, 0.2),
        (200, 1.0),
        (369, 1.0),
        (370, 1.0),
        (600, 0.31),
    ]:
        state, on = staging(state, T0 + seconds * S, error, stages, limits, guard)
        out.append(bool(on[0, 0]))
    assert out == [False, True, True, True, False, False, False, True, True]


def test_without_temperature_fans_hold_and_then_run() -> None:
    shown = pig_house(MachineLimits(60.0, 60.0, 5.0), Guard(10.0, 3.0), [(0, 0.5), (30, NAN), (30.5, NAN), (35, NAN), (35.5, NAN)])
    assert [sum(on) for on in shown] == [1, 1, 2, 2, 3]


def test_run_times_stay_alike() -> None:
    stages, limits, guard = Stages([1.0, 2.0, 3.0], 0.5), MachineLimits(60.0, 60.0, 5.0, rotates=True), Guard(600.0)
    state, rng = start_staging(1, 3, T0, limits), np.random.default_rng(3)
    for k in range(3000):
        state, _ = staging(state, T0 + k * 120 * S, float(rng.uniform(0.0, 3.0)), stages, limits, guard)
    spent = run_time_s(state)[0]
    assert spent.min() > 1e5
    assert spent.max() - spent.min() < 3600.0


def test_another_machine_takes_the_place_of_one_in_fault() -> None:
    stages, guard = Stages([1.0, 2.0, 3.0], 0.5), Guard(600.0)
    for rotates, expected in [(True, [False, True, False]), (False, [False, False, False])]:
        limits = MachineLimits(60.0, 60.0, rotates=rotates)
        state, on = staging(start_staging(1, 3, T0, limits), T0, 1.5, stages, limits, guard)
        assert on.tolist() == [[True, False, False]]
        state, on = staging(state, T0 + 10 * S, 1.5, stages, limits, guard, available=[[False, True, True]])
        assert on.tolist() == [expected]


def test_never_more_starts_in_any_hour() -> None:
    stages, limits, guard = Stages([1.0], 0.5), MachineLimits(starts_per_hour=4), Guard(600.0)
    state, starts, was = start_staging(1, 1, T0, limits), [], False
    for k in range(720):
        state, on = staging(state, T0 + k * 30 * S, 2.0 * (k % 2), stages, limits, guard)
        if on[0, 0] and not was:
            starts.append(k * 30)
        was = bool(on[0, 0])
    assert starts[:5] == [30, 90, 150, 210, 3630]
    assert all(sum(a - 3600 < b <= a for b in starts) <= 4 for a in starts)


def test_a_changed_limit_counts_the_starts_of_before() -> None:
    stages, guard = Stages([1.0], 0.5), Guard(600.0)
    state, shown = start_staging(1, 1, T0, MachineLimits(starts_per_hour=4)), []
    for k, most in [(0, 4), (1, 4), (2, 4), (3, 2), (4, 2), (5, 4), (6, 4), (7, 4)]:
        limits = MachineLimits(starts_per_hour=most)
        state, _ = staging(state, T0 + k * 60 * S, 0.0, stages, limits, guard)
        state, on = staging(state, T0 + (k * 60 + 30) * S, 2.0, stages, limits, guard)
        shown.append(bool(on[0, 0]))
        state, _ = staging(state, T0 + (k * 60 + 45) * S, 0.0, stages, limits, guard)
    # With 2 an hour what came before the newest two is forgotten, so 4 an hour gives two more.
    assert shown == [True, True, True, False, False, True, True, False]


def test_stages_and_machines_are_as_many() -> None:
    limits = MachineLimits()
    with pytest.raises(CallerError, match="one stage for each machine"):
        staging(start_staging(2, 3, T0, limits), T0, 1.0, Stages([1.0, 2.0], 0.5), limits, Guard(10.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stages([1.0, 0.5], 0.1), "sort the stages"),
        (lambda: Stages([1.0, 1.5], [0.1, 0.9]), "no wider hysteresis"),
        (lambda: Stages([1.0], -0.1), "hysteresis"),
        (lambda: Stages([], 0.1), "one value for each stage"),
        (lambda: Stages([1.0], 0.1, -1.0), "down_s"),
        (lambda: MachineLimits(min_on_s=-1.0), "min_on_s"),
        (lambda: MachineLimits(stagger_s=NAN), "stagger_s"),
        (lambda: MachineLimits(starts_per_hour=0), "starts_per_hour"),
    ],
)
def test_wrong_parameters_are_refused_with_their_name(make: Any, message: str) -> None:
    with pytest.raises(CallerError, match=message):
        make()
