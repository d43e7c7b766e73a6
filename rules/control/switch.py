"""A switch with hysteresis, delays and minimum times, as screens, lamps, pads and weather limits need it.

Pure, over units (n,), all at one time. What asks for it is a condition (bool), so unknown input asks for nothing: a caller names what
unknown means by giving it to `wants_off` (or `wants_on`).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rules.control.memory import LONG_AGO, NEVER
from telemetry.plan import NS_PER_S

Array = NDArray[Any]


class Switch(NamedTuple):
    """Memory of `switch`; each (n,)."""

    on: Array  # bool
    changed_ns: Array  # int64, last change
    asked_ns: Array  # int64, since when the other state has been asked for; NEVER when it is not


def start_switch(n: int) -> Switch:
    """State of n switches that are off, and were long enough to go on at once."""
    return Switch(np.zeros(n, np.bool_), np.full(n, LONG_AGO), np.full(n, NEVER))


def switch(
    state: Switch,
    time_ns: int,
    wants_on: ArrayLike,
    wants_off: ArrayLike,
    *,
    on_delay_s: float = 0.0,
    off_delay_s: float = 0.0,
    min_on_s: float = 0.0,
    min_off_s: float = 0.0,
) -> Switch:
    """On once `wants_on` has stood for its delay, off once `wants_off` has; between the two it stays.

    Parameters
    ----------
    state : of `start_switch`
    time_ns : time of the call [ns]
    wants_on, wants_off : (n,) bool; where both hold it goes off, or stays off
    on_delay_s, off_delay_s : how long the wish must stand at every call [s]
    min_on_s, min_off_s : shortest times between changes [s]

    Returns
    -------
    The state; `on` is the output (n,)
    """
    off = np.asarray(wants_off, np.bool_)
    other = np.where(state.on, off, np.asarray(wants_on, np.bool_) & ~off)
    asked = np.where(other, np.minimum(state.asked_ns, time_ns), NEVER)
    delay = np.where(state.on, _ns(off_delay_s), _ns(on_delay_s))
    flips = other & (asked + delay <= time_ns)
    if min_on_s or min_off_s:
        flips &= state.changed_ns + np.where(state.on, _ns(min_on_s), _ns(min_off_s)) <= time_ns
    return Switch(state.on ^ flips, np.where(flips, time_ns, state.changed_ns), np.where(flips, NEVER, asked))


def _ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)
