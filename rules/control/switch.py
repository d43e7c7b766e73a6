"""A switch with hysteresis, delays and minimum times, as screens, lamps, pads and weather limits need it.

Pure, over units (n,), all at one time. What asks for it is a condition (bool), so unknown input asks for nothing: a caller names what
unknown means by giving it to `wants_off` (or `wants_on`).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rules.control.memory import LONG_AGO, NEVER, nanoseconds

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
    if not other.any():
        return state._replace(asked_ns=np.full_like(state.asked_ns, NEVER))
    asked = np.where(other, np.minimum(state.asked_ns, time_ns), NEVER)
    flips = other & (asked + _times_ns(state, off_delay_s, on_delay_s) <= time_ns)
    if min_on_s or min_off_s:
        flips &= state.changed_ns + _times_ns(state, min_on_s, min_off_s) <= time_ns
    return Switch(state.on ^ flips, np.where(flips, time_ns, state.changed_ns), np.where(flips, NEVER, asked))


def _times_ns(state: Switch, on_s: float, off_s: float) -> Any:
    on_ns, off_ns = nanoseconds(on_s), nanoseconds(off_s)
    return on_ns if on_ns == off_ns else np.where(state.on, on_ns, off_ns)
