"""Primitives with memory against scalar loops over random calls with stretches of unknown input."""

import math
from typing import Any

import numpy as np
import pytest

from rules.control import memory
from rules.control.memory import Cycle, Guard, Moves, Rates
from rules.control.primitives import p_band, ventilation_setpoint
from telemetry.errors import CallerError
from tests.unit.rules.control.sequences import NAN, SAMPLE_S, SEEDS, T0, Array, N, S, agree_in_any_grouping, part, times, walk

DAY = 86_400 * S


class Input:
    """What acts on one unit: the last known value for three sample periods, then the fail-safe. Scalar."""

    def __init__(self, value: float, fail_safe: float, sample_s: int = SAMPLE_S) -> None:
        self.value, self.at, self.fail_safe, self.held = value, T0, fail_safe, 3 * sample_s * S

    def acting(self, now: int) -> float:
        return self.fail_safe if self.is_over(now) else self.value

    def is_over(self, now: int) -> bool:
        return now - self.at > self.held and not math.isnan(self.fail_safe)

    def changes(self, after: int, now: int, new: float) -> list[tuple[int, float]]:
        """(time, what acts from then on) in after..now, and takes a new value."""
        out = []
        over = self.at + self.held + 1
        if after < over <= now and not math.isnan(self.fail_safe):
            out.append((over, self.fail_safe))
        if not math.isnan(new):
            self.value, self.at = new, now
            out.append((now, new))
        return out


# -- hold ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_hold_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    at, values = times(rng, 1500, SAMPLE_S), walk(rng, 1500, N, 0.0, 100.0, 0.4)
    fail_safe = np.array([0.0, 30.0, NAN, 30.0, 0.0, NAN, 30.0])

    def one(unit: int | None) -> Any:
        guard = Guard(SAMPLE_S, part(fail_safe, unit))
        return lambda state, t, k, new: memory.hold(state, t, part(values[k], unit) if new else NAN, guard)

    out = agree_in_any_grouping(one(None), one, memory.start_hold(np.full(N, 50.0), T0), at, rng)
    for unit in range(N):
        last, last_at = 50.0, T0
        for k, now in enumerate(at):
            if not math.isnan(values[k, unit]):
                last, last_at = values[k, unit], now
            over = now - last_at > 3 * SAMPLE_S * S and not math.isnan(fail_safe[unit])
            assert out[k, unit] == (fail_safe[unit] if over else last)
    assert (out == 30.0).any()


def test_hold_ends_right_after_three_periods() -> None:
    guard = Guard(10.0, 0.0)
    state, _ = memory.hold(memory.start_hold([NAN], T0), T0, 42.0, guard)
    assert memory.hold(state, T0 + 30 * S, NAN, guard)[1] == 42.0
    assert memory.hold(state, T0 + 30 * S + 1, NAN, guard)[1] == 0.0
    assert memory.hold(state, T0 + 30 * S + 1, 41.0, guard)[1] == 41.0
    assert memory.hold(state, T0 + 10**6 * S, NAN, Guard(10.0))[1] == 42.0, "a fail-safe of NaN stays"
    assert math.isnan(memory.hold(memory.start_hold([NAN], T0), T0 + S, NAN, guard)[1][0])
    assert memory.hold(state, T0 + S, math.inf, guard)[1] == 42.0


def test_a_late_input_is_not_used() -> None:
    guard = Guard(10.0, 0.0)
    state, _ = memory.hold(memory.start_hold([1.0, 1.0], T0), T0 + 10 * S, [2.0, NAN], guard)
    late, shown = memory.hold(state, T0 + 9 * S, 99.0, guard)
    np.testing.assert_array_equal(shown, [2.0, 1.0])
    for before, after in zip(state, late, strict=True):
        np.testing.assert_array_equal(before, after)


# -- ramp ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_ramp_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    at, targets = times(rng, 1500, SAMPLE_S), walk(rng, 1500, N, 10.0, 30.0, 0.3)
    fail_safe = rng.choice([12.0, NAN], N)
    up, down = rng.choice([0.0, 56.25, 1000.3, np.inf], (2, N))

    def one(unit: int | None) -> Any:
        guard, rates = Guard(SAMPLE_S, part(fail_safe, unit)), Rates(part(up, unit), part(down, unit))
        return lambda state, t, k, new: memory.ramp(state, t, part(targets[k], unit) if new else NAN, rates, guard)

    out = agree_in_any_grouping(one(None), one, memory.start_ramp(np.full(N, 20.0), T0), at, rng)
    for unit in range(N):
        expected = scalar_ramp(at, targets[:, unit], up[unit], down[unit], fail_safe[unit])
        np.testing.assert_array_equal(out[:, unit], expected)
        assert ((out[:, unit] >= 10.0) & (out[:, unit] <= 30.0)).all()
        hours = np.diff(at) / S / 3600.0
        with np.errstate(invalid="ignore"):
            moved = np.diff(out[:, unit])
            assert (np.isinf(up[unit]) | (moved <= up[unit] * hours + 1e-9)).all()
            assert (np.isinf(down[unit]) | (-moved <= down[unit] * hours + 1e-9)).all()


def scalar_ramp(at: Array, targets: Array, up: float, down: float, fail_safe: float) -> list[float]:
    heard, target, start, start_at, before, out = Input(20.0, fail_safe), 20.0, 20.0, T0, T0, []

    def place(now: int) -> float:
        elapsed = (now - start_at) / 1e9
        least, most = (math.inf if math.isinf(rate) else rate / 3600.0 * elapsed for rate in (down, up))
        return min(max(target, start - least), start + most)

    for now, new in zip(at, targets, strict=True):
        for moment, value in heard.changes(before, now, new):
            if value != target:
                start, start_at = place(moment), moment
                target = value
        before = now
        out.append(place(now))
    return out


def test_a_ramp_walks_as_second_by_second_steps_would() -> None:
    guard, rates = Guard(3600.0), Rates(1.5, 2.0)
    state, _ = memory.ramp(memory.start_ramp([18.0], T0), T0, 21.0, rates, guard)
    stepped = 18.0
    for second in range(1, 3 * 3600):
        stepped += min(21.0 - stepped, 1.5 / 3600.0)
        if second % 600 == 0:
            assert memory.ramp(state, T0 + second * S, NAN, rates, guard)[1] == pytest.approx(stepped, abs=1e-9)
    assert memory.ramp(state, T0 + 2 * 3600 * S, NAN, rates, guard)[1] == 21.0


def test_a_ramp_that_knows_no_value_begins_at_its_first_target() -> None:
    guard, rates = Guard(60.0), Rates(1.0, 1.0)
    state, shown = memory.ramp(memory.start_ramp([NAN], T0), T0, NAN, rates, guard)
    assert math.isnan(shown[0])
    state, shown = memory.ramp(state, T0 + S, 19.0, rates, guard)
    assert shown == 19.0
    state, _ = memory.ramp(state, T0 + 2 * S, 25.0, rates, guard)
    assert memory.ramp(state, T0 + 3602 * S, NAN, rates, guard)[1] == 20.0


# -- moves of a drive ----------------------------------------------------------------------------------------------------


class ScalarDrive:
    """Asks at every moment at which anything can happen: is a move worth it and permitted?"""

    def __init__(self, least: float, wait_s: int, per_day: int, fail_safe: float) -> None:
        self.least, self.wait, self.per_day, self.input = least, wait_s * S, per_day, Input(20.0, fail_safe, 60)
        self.target = self.position = 20.0
        self.moves: list[int] = []
        self.forced: list[int] = []

    def ask(self, now: int) -> None:
        aim = min(max(self.target, 0.0), 100.0)
        worth = aim != self.position and (abs(aim - self.position) >= self.least or aim in {0.0, 100.0})
        rested = not self.moves or now - self.moves[-1] >= self.wait
        if worth and rested and sum(m > now - DAY for m in self.moves) < self.per_day:
            self.position = aim
            self.moves.append(now)

    def force(self, now: int, value: float) -> None:
        self.target = value
        aim = min(max(value, 0.0), 100.0)
        if aim != self.position:
            self.position = aim
            self.moves.append(now)
            self.forced.append(now)

    def call(self, before: int, now: int, new: float) -> float:
        changes = self.input.changes(before, now, new)
        for minute in range(before, now + 1, 60 * S):
            for moment in (minute, minute + 1):
                if moment > now:
                    continue
                self.ask(moment)
                for at, value in changes:
                    if at == moment and at < now:
                        self.force(moment, value)
        self.ask(now)
        for at, value in changes:
            if at == now:
                self.target = value
                self.ask(now)
        return self.position


@pytest.mark.parametrize("seed", SEEDS)
def test_moves_equal_their_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    at, targets = times(rng, 1500, 60), walk(rng, 1500, N, -20.0, 120.0, 0.3)
    fail_safe = rng.choice([0.0, NAN, 100.0], N)
    least, wait = rng.choice([0.0, 3.0, 25.0], N), rng.choice([0, 120, 600], N)

    def one(unit: int | None) -> Any:
        guard, moves = Guard(60.0, part(fail_safe, unit)), Moves(part(least, unit), 40, part(wait, unit))
        return lambda state, t, k, new: memory.move(state, t, part(targets[k], unit) if new else NAN, moves, guard)

    start = memory.start_drive(np.full(N, 20.0), T0, Moves(0.0, 40))
    out = agree_in_any_grouping(one(None), one, start, at, rng)
    assert ((out >= 0.0) & (out <= 100.0)).all()
    for unit in range(N):
        drive, before = ScalarDrive(float(least[unit]), int(wait[unit]), 40, float(fail_safe[unit])), T0
        for k, now in enumerate(at.tolist()):
            assert out[k, unit] == drive.call(before, now, targets[k, unit]), f"unit {unit}, call {k}"
            before = now
        own = [m for m in drive.moves if m not in drive.forced]
        assert len(own) > 25
        assert max(sum(m - DAY < other <= m for other in drive.moves) for m in own) <= 40


def test_a_blanket_moves_six_times_a_day_at_most() -> None:
    moves, guard = Moves(2.0, 6, 120.0), Guard(3600.0)
    state, moved, position = memory.start_drive([0.0], T0, moves), 0, 0.0
    for k in range(48):
        state, shown = memory.move(state, T0 + k * 1800 * S, 100.0 * (k % 2), moves, guard)
        moved += shown[0] != position
        position = shown[0]
    assert moved == 6


def test_a_fail_safe_position_waits_for_nothing() -> None:
    moves, guard = Moves(5.0, 1, 600.0), Guard(10.0, 3.0)
    state, shown = memory.move(memory.start_drive([0.0], T0, moves), T0, 50.0, moves, guard)
    assert shown == 50.0
    state, shown = memory.move(state, T0 + 20 * S, 70.0, moves, guard)
    assert shown == 50.0
    assert memory.move(state, T0 + 50 * S, NAN, moves, guard)[1] == 50.0
    assert memory.move(state, T0 + 50 * S + 1, NAN, moves, guard)[1] == 3.0


def test_a_changed_daily_limit_counts_the_moves_of_before() -> None:
    guard, state, shown = Guard(3600.0), memory.start_drive([0.0], T0, Moves(2.0, 2)), []
    for k, most in [(1, 2), (2, 2), (3, 2), (4, 3), (5, 3), (6, 1)]:
        state, position = memory.move(state, T0 + k * 600 * S, 10.0 * k, Moves(2.0, most), guard)
        shown.append(position[0])
    # The third move of the day is the one that was waiting.
    assert shown == [10.0, 20.0, 20.0, 30.0, 30.0, 30.0]


def test_a_vent_keeps_every_limit_of_its_chain() -> None:
    rng, n, steps = np.random.default_rng(5), 50, 3000
    air = walk(rng, steps, n, 15.0, 35.0, 0.2)
    guard, rates, moves = Guard(60.0, 0.0), Rates(600.0, 1200.0), Moves(3.0, 60, 120.0, high=80.0)
    way, drive = memory.start_ramp(np.zeros(n), T0), memory.start_drive(np.zeros(n), T0, moves)
    positions, unheard, closed = [], np.zeros(n), np.zeros(n)
    for k in range(steps):
        now = T0 + k * 60 * S
        wanted = p_band(air[k], ventilation_setpoint(19.5, 22.0, 5.0), 4.0)
        way, limited = memory.ramp(way, now, wanted, rates, guard)
        drive, position = memory.move(drive, now, limited, moves, guard)
        positions.append(position)
        unheard = np.where(np.isnan(air[k]), unheard + 1, 0)
        # Three periods, and 100 % at 1200 %/h: five minutes; then the drive's wait.
        used_up = np.sum(drive.moves_ns > now - DAY, axis=1) == 60
        assert ((position == 0.0) | used_up | (unheard <= 3 + 5 + 2)).all()
        closed += (unheard > 10) & ~used_up
    moved = np.diff(np.array(positions), axis=0) != 0.0
    assert moved.sum() > 1000
    assert closed.sum() > 10
    assert not (moved[1:] & moved[:-1]).any(), "120 s between moves"
    assert max(moved[k : k + 1440].sum(axis=0).max() for k in range(0, steps, 97)) <= 60
    assert np.max(positions) == 80.0


# -- duty cycle ----------------------------------------------------------------------------------------------------------


def scalar_phases(share: float, period: float, min_on: float, min_off: float) -> tuple[float, float]:
    """Nanoseconds on and off; infinite for the phase that does not end."""
    share = min(max(share, 0.0), 1.0)
    if share <= 0.0 or share * 86_400.0 < min_on:
        return round(min_on * 1e9), math.inf
    if share >= 1.0 or (1.0 - share) * 86_400.0 < min_off:
        return math.inf, round(min_off * 1e9)
    length = max(period, min_on / share, min_off / (1.0 - share))
    on = max(round(share * length * 1e9), round(min_on * 1e9), 1)
    return on, max(round(length * 1e9) - on, round(min_off * 1e9), 1)


@pytest.mark.parametrize("seed", SEEDS)
def test_duty_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    at, shares = times(rng, 2000, SAMPLE_S * 3), walk(rng, 2000, N, -0.2, 1.2, 0.3)
    fail_safe = rng.choice([0.0, 1.0, 0.25, NAN], N)
    least_on, least_off = rng.choice([0.0, 20.0, 60.0], (2, N))
    period = rng.choice([30.0, 300.0], N)

    def one(unit: int | None) -> Any:
        cycle, guard = Cycle(part(period, unit), part(least_on, unit), part(least_off, unit)), Guard(30.0, part(fail_safe, unit))
        return lambda state, t, k, new: memory.duty(state, t, part(shares[k], unit) if new else NAN, cycle, guard)

    out = agree_in_any_grouping(one(None), one, memory.start_duty(N, T0), at, rng)
    for unit in range(N):
        expected, changes = scalar_duty(at, shares[:, unit], (period[unit], least_on[unit], least_off[unit]), fail_safe[unit])
        np.testing.assert_array_equal(out[:, unit], expected)
        lasted = np.diff(changes)
        assert (lasted[::2] >= least_on[unit] * S).all()
        assert (lasted[1::2] >= least_off[unit] * S).all()
        assert len(changes) > 20


def scalar_duty(at: Array, shares: Array, times_s: tuple[float, float, float], fail_safe: float) -> tuple[list[bool], list[int]]:
    heard, share, on, since, before = Input(0.0, fail_safe, 30), 0.0, False, T0 - DAY, T0
    out, changes = [], []

    def turn(until: int, at_once: bool) -> None:
        nonlocal on, since
        while (due := since + scalar_phases(share, *times_s)[0 if on else 1]) <= until:
            on, since = not on, until if at_once else int(due)
            changes.append(since)

    for now, new in zip(at.tolist(), shares, strict=True):
        for moment, value in heard.changes(before, now, new):
            turn(moment, False)
            share = value
            turn(moment, True)
        turn(now, False)
        before = now
        out.append(on)
    return out, changes


def seconds_on(share: float, cycle: Cycle, seconds: int) -> int:
    state, on, guard = memory.start_duty(1, T0), 0, Guard(86_400.0)
    for second in range(seconds):
        state, shown = memory.duty(state, T0 + second * S, share, cycle, guard)
        on += bool(shown[0])
    return on


def test_minimum_ventilation_runs_60_of_300_s() -> None:
    cycle, guard = Cycle(300.0, 60.0, 60.0), Guard(86_400.0)
    assert seconds_on(0.2, cycle, 3000) == 600
    state, _ = memory.duty(memory.start_duty(1, T0), T0, 0.2, cycle, guard)
    shown = [bool(memory.duty(state, T0 + second * S, NAN, cycle, guard)[1][0]) for second in range(0, 600, 30)]
    assert shown == [True, True, *[False] * 8] * 2


def test_a_small_share_makes_the_cycle_longer_and_stays_true() -> None:
    assert seconds_on(0.05, Cycle(300.0, 60.0), 6000) == 300
    _, on = memory.duty(memory.start_duty(1, T0), T0, 60.0 / 86_401.0, Cycle(300.0, 60.0), Guard(86_400.0))
    assert not on[0], "a share that needs more than a day is none"


def test_a_new_share_acts_at_once_within_the_minimum_times() -> None:
    cycle, guard = Cycle(300.0, 60.0, 60.0), Guard(86_400.0)
    state, _ = memory.duty(memory.start_duty(1, T0), T0, 0.5, cycle, guard)
    state, on = memory.duty(state, T0 + 10 * S, 0.0, cycle, guard)
    assert on[0]
    assert memory.duty(state, T0 + 60 * S - 1, NAN, cycle, guard)[1][0]
    state, on = memory.duty(state, T0 + 60 * S, NAN, cycle, guard)
    assert not on[0]
    state, on = memory.duty(state, T0 + 90 * S, 1.0, cycle, guard)
    assert not on[0]
    assert memory.duty(state, T0 + 120 * S, NAN, cycle, guard)[1][0]


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Guard(0.0), "sample_s must be above 0"),
        (lambda: Guard([10.0, NAN]), "sample_s must be above 0"),
        (lambda: Rates(1.0, -1.0), "at least 0"),
        (lambda: Moves(-1.0, 6), "least"),
        (lambda: Moves(1.0, 6, -1.0), "wait_s"),
        (lambda: Moves(1.0, -1), "per_day"),
        (lambda: Moves(1.0, 6, low=5.0, high=4.0), "low must not be above high"),
        (lambda: Cycle(0.0), "period_s"),
        (lambda: Cycle(60.0, -1.0), "min_on_s"),
    ],
)
def test_wrong_parameters_are_refused_with_their_name(make: Any, message: str) -> None:
    with pytest.raises(CallerError, match=message):
        make()


def test_no_units_are_no_error() -> None:
    guard = Guard(10.0, 0.0)
    assert memory.hold(memory.start_hold(np.zeros(0), T0), T0, NAN, guard)[1].shape == (0,)
    state, on = memory.duty(memory.start_duty(0, T0), T0, 0.5, Cycle(60.0), guard)
    assert on.shape == state.since_ns.shape == (0,)
