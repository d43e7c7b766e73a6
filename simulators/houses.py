"""What a kind of plant owes to whoever simulates it: n houses of one profile at once, as arrays with one entry a house.

The physics sees true positions of drives; sensors, drives, feedback, the wire and the general faults are the simulator's and the same
for all kinds. So a kind writes down its equations once, for one house as for a thousand.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from simulators.weather import Weather

Array = NDArray[Any]


class Fault(NamedTuple):
    """A fault that only this kind of plant can have: what it is, and what its strength means."""

    text: str
    unit: str = ""  # of the strength; "": the fault is there or not
    usual: float = 1.0


class Houses(Protocol):
    """n houses. All arrays are (n,) float64 unless they say otherwise."""

    @property
    def PROFILE(self) -> str:  # noqa: N802 - a constant of the class
        """Its profile among devices/profiles."""
        ...

    @property
    def STEP_S(self) -> float:  # noqa: N802
        """Step of its physics [s]."""
        ...

    @property
    def SENSORS(self) -> Mapping[str, str]:  # noqa: N802
        """Measured point: instrument of simulators.sensor.LIBRARY."""
        ...

    @property
    def FAULTS(self) -> Mapping[str, Fault]:  # noqa: N802
        """Faults of its own, by name."""
        ...

    def advance(self, unix_s: float, dt_s: float, drives: Mapping[str, Array]) -> None:
        """Let `dt_s` pass up to `unix_s`, with drives (by actuator, 0..1 of their range) where they truly are."""
        ...

    def truth(self, drives: Mapping[str, Array]) -> dict[str, Array]:
        """What the instruments of SENSORS stand in; NaN where there is nothing to measure."""
        ...

    def panel(self, drives: Mapping[str, Array]) -> dict[str, Array]:
        """Points without an instrument: counters, contacts, what a panel computes. Exact. Feedback of drives is not among them."""
        ...

    def local(self) -> dict[str, Array]:
        """Targets (in the actuator's own unit) that thermostats and interlocks of the panel order; NaN where they leave the drive
        alone. `always` orders of the panel, which hold beside any command, come from `interlock`."""
        ...

    def interlock(self) -> dict[str, Array]:
        """Targets that the panel forces whoever commands (hard-wired: fans at full speed above 28 C, heater without air); NaN: none."""
        ...

    def fail(self, house: int, fault: str, strength: float) -> None:
        """Begin a fault of FAULTS in a house, or end it (strength 0)."""
        ...


class Maker(Protocol):
    """Makes houses of a kind."""

    def __call__(self, n: int, weather: Weather, start_s: float, random: list[np.random.Generator]) -> Houses:
        """n houses as they stand at `start_s` [Unix s]; house i draws its own character from random[i] and from nothing else."""
        ...


NONE: Final = np.nan  # no order


@cache
def no_order(n: int) -> Array:
    """NONE for n houses, not to be written to."""
    none = np.full(n, NONE)
    none.flags.writeable = False
    return none


def order_where(where: NDArray[np.bool_], target: Any) -> Array:
    """`target` (n,) or one for all where (n,) says so, NONE elsewhere."""
    return np.where(where, target, NONE) if np.count_nonzero(where) else no_order(len(where))
