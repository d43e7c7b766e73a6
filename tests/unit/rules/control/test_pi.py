"""PI against a scalar loop over random calls, hands and feedback, and its anti-windup by hand."""

import math
from typing import Any

import numpy as np
import pytest

from rules.control.memory import Guard
from rules.control.pi import Gains, pi, start_pi
from telemetry.errors import CallerError
from tests.unit.rules.control.sequences import NAN, SAMPLE_S, SEEDS, T0, N, S, agree_in_any_grouping, part, times, walk


class ScalarPI:
    def __init__(self, kp: float, ti: float, tracking: float, fail_safe: float) -> None:
        self.kp, self.ti, self.tracking, self.fail_safe = kp, ti, tracking, fail_safe
        self.integral, self.output, self.heard_at, self.own = 0.0, 30.0, T0, False

    def call(self, now: int, error: float, position: float, auto: bool) -> float:
        over = now - self.heard_at > 3 * SAMPLE_S * S and not math.isnan(self.fail_safe)
        shown = self.fail_safe if over else self.output
        real = shown if math.isnan(position) else min(max(position, 0.0), 100.0)
        fresh = not math.isnan(error)
        if not fresh:
            self.output = shown if auto else real
            self.own = auto and self.own
            return self.output
        proportional = self.kp * error
        if not auto or over or not self.own:
            self.integral, self.output = real - proportional, real
        else:
            elapsed = min(now - self.heard_at, 3 * SAMPLE_S * S) / 1e9
            step = proportional * elapsed / self.ti
            present = proportional + self.integral
            step = min(max(step, min(0.0 - present, 0.0)), max(100.0 - present, 0.0))
            moved = self.integral + step + (real - shown) * min(elapsed / self.tracking, 1.0)
            self.integral = min(max(moved, min(0.0, self.integral)), max(100.0, self.integral))
            self.output = min(max(proportional + self.integral, 0.0), 100.0)
        self.heard_at, self.own = now, auto
        return self.output


@pytest.mark.parametrize("seed", SEEDS)
def test_pi_equals_its_definition_and_stays_bounded(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = 3000
    at, errors = times(rng, steps, SAMPLE_S), walk(rng, steps, N, -5.0, 5.0, 0.2)
    positions = walk(rng, steps, N, -10.0, 110.0, 0.3)
    auto = np.cumsum(rng.random((steps, N)) < 0.02, axis=0) % 2 == 0
    fail_safe = rng.choice([0.0, 100.0, NAN], N)
    kp, ti, tracking = rng.choice([-20.0, 4.0, 30.0], N), rng.choice([60.0, 1200.0], N), rng.choice([15.0, 600.0], N)

    def one(unit: int | None) -> Any:
        gains = Gains(part(kp, unit), part(ti, unit), part(tracking, unit))
        guard = Guard(SAMPLE_S, part(fail_safe, unit))

        def step(state: Any, t: int, k: int, new: bool) -> Any:
            error, position = (part(x[k], unit) if new else NAN for x in (errors, positions))
            return pi(state, t, error, gains, guard, position=position, auto=part(auto[k], unit))

        return step

    out = agree_in_any_grouping(one(None), one, start_pi(np.full(N, 30.0), T0), at, rng)
    assert ((out >= 0.0) & (out <= 100.0)).all()
    for unit in range(N):
        scalar = ScalarPI(kp[unit], ti[unit], tracking[unit], fail_safe[unit])
        bound = abs(kp[unit]) * 5.0
        for k, now in enumerate(at.tolist()):
            assert out[k, unit] == scalar.call(now, errors[k, unit], positions[k, unit], bool(auto[k, unit])), (
                f"unit {unit}, call {k}"
            )
            assert -bound <= scalar.integral <= 100.0 + bound


def test_pi_does_not_wind_up_behind_its_limit() -> None:
    gains, guard = Gains(10.0, 100.0), Guard(10.0)
    state, _ = pi(start_pi([0.0], T0), T0, 0.0, gains, guard)
    for k in range(1, 2000):
        state, shown = pi(state, T0 + k * 10 * S, 8.0, gains, guard)
    assert shown == 100.0
    assert state.integral[0] <= 100.0
    for k in range(2000, 2011):
        state, shown = pi(state, T0 + k * 10 * S, -1.0, gains, guard)
    assert shown[0] < 20.0


def test_pi_waits_for_a_drive_that_does_not_follow() -> None:
    gains, guard = Gains(10.0, 100.0, 20.0), Guard(10.0)
    state, _ = pi(start_pi([30.0], T0), T0, 1.0, gains, guard, position=30.0)
    for k in range(1, 500):
        state, shown = pi(state, T0 + k * 10 * S, 1.0, gains, guard, position=30.0)
    # In balance kp e dt / Ti = (u - position) dt / Tt: 30 + 10 * 20 / 100.
    assert shown[0] == pytest.approx(32.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_after_a_hand_or_a_fail_safe_the_output_moves_without_a_jump(seed: int) -> None:
    rng = np.random.default_rng(seed)
    gains, guard, n = Gains(rng.uniform(-30, 30, 500), 100.0), Guard(10.0, 80.0), 500
    state, _ = pi(start_pi(rng.uniform(0, 100, n), T0), T0, rng.normal(0, 3, n), gains, guard)
    hand = rng.uniform(0, 100, n)
    state, shown = pi(state, T0 + 10 * S, rng.normal(0, 3, n), gains, guard, position=hand, auto=False)
    np.testing.assert_array_equal(shown, hand)
    error = rng.normal(0, 3, n)
    state, shown = pi(state, T0 + 20 * S, error, gains, guard, position=hand)
    np.testing.assert_array_equal(shown, hand)
    state, shown = pi(state, T0 + 30 * S, error, gains, guard, position=hand)
    assert (np.abs(shown - hand) <= np.abs(gains.kp * error) * 10.0 / 100.0 + 1e-9).all()
    state, shown = pi(state, T0 + 100 * S, NAN, gains, guard)
    np.testing.assert_array_equal(shown, 80.0)
    state, shown = pi(state, T0 + 110 * S, error, gains, guard)
    np.testing.assert_array_equal(shown, 80.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gains(NAN, 10.0), "kp"),
        (lambda: Gains(1.0, 0.0), "ti_s"),
        (lambda: Gains(1.0, 10.0, low=5.0, high=4.0), "low must not be above high"),
    ],
)
def test_wrong_gains_are_refused_with_their_name(make: Any, message: str) -> None:
    with pytest.raises(CallerError, match=message):
        make()
