"""Control primitives with memory: hold, ramp and rate limit, moves of a drive, duty cycle.

Each is `step(state, time_ns, input, ...) -> (state, output)`: pure, over units (n,), the state a NamedTuple of plain arrays whose
first axis is the unit. NaN as input means that nothing is known at this time: BAD, or simply no new sample. So the rule of bad input
is the same everywhere: the last known input acts on for at most three sample periods, then the fail-safe does, from the first
nanosecond after them; a fail-safe of NaN means "stay". An input that is older than the last call is late and is not used.

Time alone acts at the moment it is due, whenever it is asked for: a call without input changes no later answer, and calls for some
units are as calls for all. What is due at the time of a call happens before its input is taken. Parameters of a call hold since the
call before it: where they change, call once more with the old ones.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rules.control.primitives import clamp
from telemetry.errors import CallerError
from telemetry.plan import NS_PER_S

Array = NDArray[Any]

PERIODS_HELD: Final = 3  # sample periods for which the last input acts on
DAY_S: Final = 86_400.0
DAY_NS: Final = 86_400 * NS_PER_S
LONG_AGO: Final = -(2**62)  # ns; far from every clock, and differences to it still fit
NEVER: Final = 2**62


def floats(values: ArrayLike) -> Array:
    """Numbers as an array of float64."""
    return np.asarray(values, np.float64)


def nanoseconds(seconds: ArrayLike) -> Any:
    """Seconds as whole nanoseconds, int64; of one number as an int."""
    if np.isscalar(seconds):
        return round(float(seconds) * NS_PER_S)  # type: ignore[arg-type]
    return np.asarray(np.rint(floats(seconds) * NS_PER_S), np.int64)


def noted(times_ns: Array, at_ns: Array, mask: Array) -> Array:
    """Lists of the last times (..., k), the newest last, with `at_ns` (...) added and the oldest gone where `mask` (...) is true."""
    if not mask.any():
        return times_ns
    out = times_ns.copy()
    out[mask] = np.concatenate([times_ns[mask][..., 1:], at_ns[mask][..., None]], axis=-1)
    return out


def fitted(times_ns: Array, k: int) -> Array:
    """Lists of the last times (..., k) after their length, a limit, was changed: the newest stay, older ones were long ago."""
    missing = k - times_ns.shape[-1]
    if missing <= 0:
        return times_ns[..., -k:]
    return np.concatenate([np.full((*times_ns.shape[:-1], missing), LONG_AGO), times_ns], axis=-1)


def require(holds: Any, message: str) -> None:
    """Raise CallerError with `message` unless all of `holds` is true."""
    if not np.all(holds):
        raise CallerError(message)


# -- what a unit last heard ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Guard:
    """What unknown input leads to.

    sample_s : (n,) period in which the input is sampled [s]; above 0, at most a day
    fail_safe : (n,) what acts after three periods without input, unit of the input; NaN: the last input acts on
    """

    sample_s: ArrayLike
    fail_safe: ArrayLike = np.nan

    def __post_init__(self) -> None:
        """Refuse periods that are none."""
        period = np.asarray(self.sample_s)
        require((period > 0.0) & (period <= DAY_S), "sample_s must be above 0 and at most a day: the period of the input's samples")


class Heard(NamedTuple):
    """Input of each unit; each (n,)."""

    value: Array  # the last known one
    value_ns: Array  # its time, int64
    now_ns: Array  # time of the last call, int64


class Turn(NamedTuple):
    """What a call brings: at `lapse_ns` the fail-safe where `lapses`, at the time of the call a new value where `fresh`."""

    heard: Heard
    before: Array  # what acted at the last call
    lapses: Array
    lapse_ns: Array  # the time of the last call where nothing lapses: nothing is left to do until then
    fresh: Array

    def moments(self, guard: Guard) -> tuple[tuple[Array, Array, Array], ...]:
        """(time, what acts before it, what acts from it on), twice."""
        between = np.where(self.lapses, guard.fail_safe, self.before) if self.lapses.any() else self.before
        after = np.where(self.fresh, self.heard.value, between)
        return (self.lapse_ns, self.before, between), (self.heard.now_ns, between, after)


def start_hold(value: ArrayLike, time_ns: ArrayLike) -> Heard:
    """State of `hold`: `value` (n,) counts as heard at `time_ns`; NaN where nothing is known yet."""
    values, times = np.broadcast_arrays(np.atleast_1d(floats(value)), np.asarray(time_ns, np.int64))
    return Heard(values.copy(), times.copy(), times.copy())


def lapse_ns(heard: Heard, guard: Guard) -> Array:
    """The first nanosecond at which the fail-safe acts, int64 (n,); NEVER where it is NaN."""
    end = heard.value_ns + PERIODS_HELD * nanoseconds(guard.sample_s) + 1
    return np.where(np.isnan(guard.fail_safe), NEVER, end)


def _never_lapses(guard: Guard) -> bool:
    return isinstance(guard.fail_safe, float) and math.isnan(guard.fail_safe)


def acting(heard: Heard, guard: Guard) -> Array:
    """What acts at the time of the last call, (n,)."""
    if _never_lapses(guard):
        return heard.value
    return np.where(heard.now_ns >= lapse_ns(heard, guard), guard.fail_safe, heard.value)


def listen(heard: Heard, time_ns: ArrayLike, value: ArrayLike, guard: Guard) -> Turn:
    """Take the time and the input of a call."""
    time, new = np.asarray(time_ns, np.int64), floats(value)
    now = np.maximum(heard.now_ns, time)
    fresh = np.isfinite(new) & (time >= heard.now_ns)
    after = Heard(np.where(fresh, new, heard.value), np.where(fresh, time, heard.value_ns), now)
    if _never_lapses(guard):
        return Turn(after, heard.value, np.zeros(heard.value.shape, np.bool_), heard.now_ns, fresh)
    lapse = lapse_ns(heard, guard)
    lapses = (heard.now_ns < lapse) & (lapse <= now)
    before = np.where(heard.now_ns >= lapse, guard.fail_safe, heard.value)
    return Turn(after, before, lapses, np.where(lapses, lapse, heard.now_ns), fresh)


def hold(state: Heard, time_ns: ArrayLike, value: ArrayLike, guard: Guard) -> tuple[Heard, Array]:
    """The last known value, for at most three sample periods; then the fail-safe.

    Parameters
    ----------
    state : of `start_hold`
    time_ns : (n,) time of the call [ns]
    value : (n,) any unit; NaN unknown
    guard : sample period and fail-safe

    Returns
    -------
    (state, value (n,)); NaN only before the first known value. Source: the handbook's rule for input that is not GOOD.
    """
    heard = listen(state, time_ns, value, guard).heard
    return heard, acting(heard, guard)


# -- ramp and rate limit -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast an output may rise and fall, (n,), unit of the output per hour, at least 0; infinite for at once."""

    up_per_h: ArrayLike
    down_per_h: ArrayLike

    def __post_init__(self) -> None:
        """Refuse rates that lead away."""
        for rate in (self.up_per_h, self.down_per_h):
            require(np.asarray(rate) >= 0.0, "up_per_h and down_per_h are both at least 0; the direction is in their names")


class Ramp(NamedTuple):
    """A way to a target; each (n,)."""

    heard: Heard
    start: Array  # where the way to the present target began
    start_ns: Array  # and when, int64


def start_ramp(value: ArrayLike, time_ns: ArrayLike) -> Ramp:
    """State of `ramp` that stands at `value` (n,) and has it as its target; NaN: it begins at its first target."""
    heard = start_hold(value, time_ns)
    return Ramp(heard, heard.value, heard.value_ns)


def ramp(state: Ramp, time_ns: ArrayLike, target: ArrayLike, rates: Rates, guard: Guard) -> tuple[Ramp, Array]:
    """A set point's ramp, and the rate limit of any output: the output walks to the target no faster than its rates.

    y(t) = clamp(target, y0 - down (t - t0), y0 + up (t - t0)), from y0 at the time t0 at which the target last changed.

    Parameters
    ----------
    state : of `start_ramp`
    time_ns : (n,) time of the call [ns]
    target : (n,) any unit; NaN unknown: the last target for at most three sample periods, then the fail-safe, at the same rates
    rates : per hour: 1 to 1.5 K/h up and 2 K/h down are usual for air temperature
    guard : sample period and fail-safe of the target

    Returns
    -------
    (state, output (n,))
    """
    turn = listen(state.heard, time_ns, target, guard)
    start, start_ns, goal = state.start, state.start_ns, turn.before
    for at_ns, old, new in turn.moments(guard):
        goal, turns = new, new != old
        if not turns.any():
            continue
        reached = np.where(np.isnan(start), new, _on_the_way(start, start_ns, old, at_ns, rates))
        start = np.where(turns, reached, start)
        start_ns = np.where(turns, at_ns, start_ns)
    return Ramp(turn.heard, start, start_ns), _on_the_way(start, start_ns, goal, turn.heard.now_ns, rates)


def _on_the_way(start: Array, start_ns: Array, target: Array, at_ns: Array, rates: Rates) -> Array:
    """Where a way is at a time; the limits first, so that the end of it is the target itself."""
    elapsed_s = (at_ns - start_ns) / NS_PER_S
    down, up = (_reach(rate, elapsed_s) for rate in (rates.down_per_h, rates.up_per_h))
    return np.asarray(clamp(target, start - down, start + up))


def _reach(rate_per_h: ArrayLike, elapsed_s: Array) -> Any:
    """How far a rate leads in a time."""
    per_s = floats(rate_per_h) / 3600.0
    if not per_s.shape:
        return math.inf if math.isinf(per_s) else per_s * elapsed_s
    with np.errstate(invalid="ignore"):  # infinity times no time
        return np.where(np.isinf(per_s), np.inf, per_s * elapsed_s)


# -- moves of a drive ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moves:
    """What spares a drive.

    least : (n,) smallest move worth making, unit of the position; the way to either end is always worth it
    per_day : most moves in any 24 hours, for all units; 0 for any number
    wait_s : (n,) between the starts of two moves, at most a day [s]
    low, high : (n,) ends of the travel
    """

    least: ArrayLike
    per_day: int
    wait_s: ArrayLike = 0.0
    low: ArrayLike = 0.0
    high: ArrayLike = 100.0

    def __post_init__(self) -> None:
        """Refuse what no drive has."""
        require(np.asarray(self.least) >= 0.0, "least, the smallest move, is at least 0")
        require((np.asarray(self.wait_s) >= 0.0) & (np.asarray(self.wait_s) <= DAY_S), "wait_s is 0 to 86400")
        require(0 <= self.per_day <= 10_000, "per_day is 1 to 10000 moves, or 0 for any number")
        require(np.asarray(self.low) <= np.asarray(self.high), "low must not be above high")


class Drive(NamedTuple):
    """Position that a drive was last sent to; (n,)."""

    heard: Heard
    position: Array
    moves_ns: Array  # (n, per_day or 1) starts of its last moves, the newest last


def start_drive(position: ArrayLike, time_ns: ArrayLike, moves: Moves) -> Drive:
    """State of `move` for drives that stand at `position` (n,) and have not moved yet."""
    heard = start_hold(position, time_ns)
    return Drive(heard, heard.value, np.full((len(heard.value), max(1, moves.per_day)), LONG_AGO))


def move(state: Drive, time_ns: ArrayLike, target: ArrayLike, moves: Moves, guard: Guard) -> tuple[Drive, Array]:
    """Dead band, wait and daily limit of a drive: it is sent to the target once that is worth it and permitted, and stays else.

    Parameters
    ----------
    state : of `start_drive`
    time_ns : (n,) time of the call [ns]
    target : (n,) unit of the position; NaN unknown: the last target for at most three sample periods, then the fail-safe
    moves : dead band, wait, moves a day, ends
    guard : sample period and fail-safe; the drive goes to the fail-safe at once, also against dead band, wait and daily limit, which
        count that move

    Returns
    -------
    (state, position (n,) within low..high)
    """
    turn = listen(state.heard, time_ns, target, guard)
    position, starts_ns, from_ns = state.position, fitted(state.moves_ns, max(1, moves.per_day)), state.heard.now_ns
    (lapse_at_ns, before, between), (now_ns, _, after) = turn.moments(guard)
    if turn.lapses.any():
        position, starts_ns = _sent(position, starts_ns, before, from_ns, lapse_at_ns, moves)
        safe = clamp(between, moves.low, moves.high)
        position, starts_ns = _note(position, starts_ns, safe, lapse_at_ns, turn.lapses & (safe != position))
        position, starts_ns = _sent(position, starts_ns, between, lapse_at_ns, lapse_at_ns, moves)
        from_ns = lapse_at_ns
    position, starts_ns = _sent(position, starts_ns, between, from_ns, now_ns, moves)
    position, starts_ns = _sent(position, starts_ns, after, now_ns, now_ns, moves)
    return Drive(turn.heard, position, starts_ns), position


def _sent(position: Array, starts_ns: Array, target: Array, from_ns: Array, until_ns: Array, moves: Moves) -> tuple[Array, Array]:
    """Make the one move that falls due in from..until for a target that stands."""
    low, high = moves.low, moves.high
    aim = clamp(target, low, high)
    elsewhere = (aim != position) & np.isfinite(aim)
    if not elsewhere.any():
        return position, starts_ns
    worth = ~(np.abs(aim - position) < floats(moves.least)) | (aim == low) | (aim == high)
    due_ns = np.maximum(from_ns, starts_ns[:, -1] + nanoseconds(moves.wait_s))
    if moves.per_day:
        due_ns = np.maximum(due_ns, starts_ns[:, 0] + DAY_NS)
    return _note(position, starts_ns, aim, due_ns, worth & elsewhere & (due_ns <= until_ns))


def _note(position: Array, starts_ns: Array, aim: Array, at_ns: Array, goes: Array) -> tuple[Array, Array]:
    if not goes.any():
        return position, starts_ns
    return np.where(goes, aim, position), noted(starts_ns, at_ns, goes)


# -- duty cycle ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cycle:
    """A duty cycle, (n,) each [s]: its period, and the shortest times on and off, all at most a day."""

    period_s: ArrayLike
    min_on_s: ArrayLike = 0.0
    min_off_s: ArrayLike = 0.0

    def __post_init__(self) -> None:
        """Refuse times that are none."""
        period = np.asarray(self.period_s)
        require((period > 0.0) & (period <= DAY_S), "period_s is above 0 and at most 86400")
        for least in (self.min_on_s, self.min_off_s):
            require((np.asarray(least) >= 0.0) & (np.asarray(least) <= DAY_S), "min_on_s and min_off_s are 0 to 86400")

    def phases_ns(self, share: ArrayLike) -> tuple[Array, Array]:
        """Time on and time off for a share of 0..1; the one that does not end is NEVER / 2, the other its minimum."""
        part = clamp(floats(share), 0.0, 1.0)
        least_on, least_off = floats(self.min_on_s), floats(self.min_off_s)
        off = (part <= 0.0) | (part * DAY_S < least_on)
        on = ~off & ((part >= 1.0) | ((1.0 - part) * DAY_S < least_off))
        inner = np.where(off | on, 0.5, part)
        length_s = np.maximum(self.period_s, np.maximum(least_on / inner, least_off / (1.0 - inner)))
        least_on_ns, least_off_ns = nanoseconds(self.min_on_s), nanoseconds(self.min_off_s)
        on_ns = np.maximum(nanoseconds(inner * length_s), np.maximum(least_on_ns, 1))
        off_ns = np.maximum(nanoseconds(length_s) - on_ns, np.maximum(least_off_ns, 1))
        forever = NEVER // 2
        return (
            np.where(off, least_on_ns, np.where(on, forever, on_ns)),
            np.where(on, least_off_ns, np.where(off, forever, off_ns)),
        )


class Duty(NamedTuple):
    """A machine that runs for a share of its time; each (n,)."""

    heard: Heard
    on: Array  # bool
    since_ns: Array  # int64


def start_duty(n: int, time_ns: ArrayLike) -> Duty:
    """State of `duty`: n machines that are off, and were long enough to start at once."""
    heard = start_hold(np.zeros(n), time_ns)
    return Duty(heard, np.zeros(n, np.bool_), heard.now_ns - DAY_NS)


def duty(state: Duty, time_ns: ArrayLike, share: ArrayLike, cycle: Cycle, guard: Guard) -> tuple[Duty, Array]:
    """On for a share of a period, never shorter than the minimum times: rather the cycle gets longer, so that the share stays true.

    cycle = max(period, min_on / share, min_off / (1 - share)); on for share cycle. A share that would need more than a day is 0 or 1.
    A new share acts at once, within the minimum times.

    Parameters
    ----------
    state : of `start_duty`
    time_ns : (n,) time of the call [ns]
    share : (n,) 0..1, clamped; NaN unknown: the last share for at most three sample periods, then the fail-safe
    cycle : period and minimum times
    guard : sample period and fail-safe share, within the minimum times

    Returns
    -------
    (state, on (n,) bool)
    """
    turn = listen(state.heard, time_ns, share, guard)
    on, since_ns = state.on, state.since_ns
    phases_ns = cycle.phases_ns(turn.before)
    for at_ns, old, new in turn.moments(guard):
        on, since_ns = _cycled(on, since_ns, at_ns, phases_ns)
        if (new != old).any():
            phases_ns = cycle.phases_ns(new)
        on_ns, off_ns = phases_ns
        flips = since_ns + np.where(on, on_ns, off_ns) <= at_ns
        on, since_ns = on ^ flips, np.where(flips, at_ns, since_ns)
    return Duty(turn.heard, on, since_ns), on


def _cycled(on: Array, since_ns: Array, until_ns: Array, phases_ns: tuple[Array, Array]) -> tuple[Array, Array]:
    """Go on with phases that stand, of which none was due before; any number of them at once."""
    on_ns, off_ns = phases_ns
    first = np.where(on, on_ns, off_ns)
    elapsed = until_ns - since_ns
    rest = elapsed % (on_ns + off_ns)
    flips = rest >= first
    return on ^ flips, until_ns - rest + np.where(flips, first, 0)
