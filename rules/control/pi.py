"""PI controller with anti-windup and bumpless transfer. Time, bad input and grouping of calls as in rules/control/memory.py."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rules.control.memory import PERIODS_HELD, Guard, Heard, Turn, floats, lapse_ns, listen, nanoseconds, require, start_hold
from rules.control.primitives import clamp
from telemetry.plan import NS_PER_S

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Gains:
    """A PI controller, (n,) each.

    kp : output per unit of error, which is measured - set point: positive for vents, negative for heating
    ti_s : integral time [s]
    tracking_s : in which the integral follows a real position that differs [s]; as ti_s when not given
    low, high : limits of the output
    """

    kp: ArrayLike
    ti_s: ArrayLike
    tracking_s: ArrayLike | None = None
    low: ArrayLike = 0.0
    high: ArrayLike = 100.0

    def __post_init__(self) -> None:
        """Refuse times that are none."""
        require(np.isfinite(floats(self.kp)), "kp must be a finite number")
        for time in (self.ti_s, self.follow_s):
            require(np.asarray(time) > 0.0, "ti_s and tracking_s are above 0; a very long one switches it off")
        require(np.asarray(self.low) <= np.asarray(self.high), "low must not be above high")

    @property
    def follow_s(self) -> ArrayLike:
        """The tracking time in force [s]."""
        return self.ti_s if self.tracking_s is None else self.tracking_s


class PI(NamedTuple):
    """A PI controller's memory; each (n,)."""

    heard: Heard  # errors
    integral: Array
    output: Array
    rules: Array  # bool: it, not a hand, ruled when the last error was known


def start_pi(output: ArrayLike, time_ns: ArrayLike) -> PI:
    """State of `pi` for actuators that stand at `output` (n,), from where it takes over without a jump."""
    outputs = start_hold(output, time_ns)
    heard = start_hold(np.full_like(outputs.value, np.nan), time_ns)
    return PI(heard, outputs.value, outputs.value, np.zeros(len(outputs.value), np.bool_))


def pi(
    state: PI,
    time_ns: ArrayLike,
    error: ArrayLike,
    gains: Gains,
    guard: Guard,
    *,
    position: ArrayLike = np.nan,
    auto: ArrayLike = True,
) -> tuple[PI, Array]:
    """PI with anti-windup: u = clamp(kp e + I), I += kp e dt / Ti + (position - u) min(dt / Tt, 1), at every known error.

    The integral moves no further than brings the output to its limit (conditional integration), nor beyond low..high; it follows
    the real position, and dt counts for at most three sample periods. Under a hand, and after a fail-safe, the first own
    output is the position itself (bumpless transfer): I = position - kp e.

    Parameters
    ----------
    state : of `start_pi`
    time_ns : (n,) time of the call [ns]
    error : (n,) measured - set point; NaN unknown: the output holds for at most three sample periods, then is the fail-safe
    gains : kp, times, limits
    guard : sample period of the error; fail-safe of the output
    position : (n,) measured position of the actuator, unit of the output; NaN unknown: the last output counts
    auto : (n,) bool; False while a hand or the panel rules: the output is then the position

    Returns
    -------
    (state, output (n,) within low..high)
    """
    turn = listen(state.heard, time_ns, error, guard)
    low, high = gains.low, gains.high
    lapsed = turn.heard.now_ns >= lapse_ns(state.heard, guard)
    shown = clamp(np.where(lapsed, guard.fail_safe, state.output), low, high)
    measured, free = floats(position), np.asarray(auto, np.bool_)
    real = clamp(np.where(np.isfinite(measured), measured, shown), low, high)

    proportional = floats(gains.kp) * turn.heard.value
    takes_over = ~state.rules | lapsed | ~free
    integral = np.where(takes_over, real - proportional, _integrated(state, turn, proportional, real - shown, gains, guard))
    own = np.where(takes_over, real, clamp(proportional + integral, low, high))
    output = np.where(~free, real, np.where(turn.fresh, own, shown))
    return PI(turn.heard, np.where(turn.fresh, integral, state.integral), output, free & (turn.fresh | state.rules)), output


def _integrated(state: PI, turn: Turn, proportional: Array, lag: Array, gains: Gains, guard: Guard) -> Array:
    """The integral after a known error: never further out than its limits, or than it was."""
    low, high = gains.low, gains.high
    held_ns = np.minimum(turn.heard.now_ns - state.heard.value_ns, PERIODS_HELD * nanoseconds(guard.sample_s))
    elapsed_s = held_ns / NS_PER_S
    step = proportional * elapsed_s / gains.ti_s
    present = proportional + state.integral
    step = clamp(step, np.minimum(low - present, 0.0), np.maximum(high - present, 0.0))
    moved = state.integral + step + lag * np.minimum(elapsed_s / gains.follow_s, 1.0)
    return np.asarray(clamp(moved, np.minimum(low, state.integral), np.maximum(high, state.integral)))
