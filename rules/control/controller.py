"""What a controller owes to the engine: a kind with named inputs, parameters and demands, over n units at once.

A controller runs on its own clock: at every full multiple of its period (UTC) the engine hands it what is known at that moment, and
takes what it asks of the actuators. It is a pure function of (state, time, inputs, parameters); its state is a tuple of arrays.

Inputs have the names that rules use: a point of the unit (`room_temp_c`), a point of a linked device (`weather.temp_c`), a set point of
the area (`set.room_temp_c`), the clock (`hour`, `hours_after_sunrise`, `hours_before_sunset`, `sun_elevation_deg`, `day_of_batch`) and
`mode` (a number of telemetry.site.MODES). An input is NaN while nothing is known: never heard, BAD, or older than three heartbeats.
The engine has held the last usable value until then, so NaN means that the fail-safe is due.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Ask(NamedTuple):
    """One thing a controller may ask: a bound on an actuator at a level of telemetry.site.LEVELS, with the words for it."""

    actuator: str
    bound: str  # at_least, at_most, value
    level: str
    en: str = ""  # why, in a few words: "minimum ventilation"
    zh: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one run of a controller gives.

    state : as `start` gives it
    demands : (n,) in the actuator's unit by Ask; NaN asks nothing
    terms : (n,) what the demands were made of, by name with its unit as suffix, for the "why"
    """

    state: Any
    demands: Mapping[Ask, Array]
    terms: Mapping[str, Array] = field(default_factory=dict)


class Controller(Protocol):
    """A kind of controller: one object, without state of its own."""

    @property
    def READS(self) -> tuple[str, ...]:  # noqa: N802 - a constant of each kind
        """Inputs; those a profile or area does not have are NaN."""
        ...

    @property
    def EVERY_S(self) -> float:  # noqa: N802
        """Period [s], a divisor of a minute or a multiple of one."""
        ...

    def parameters(self, given: Mapping[str, Any]) -> Any:
        """Parameters with what a site gives in place of the defaults. Raises CallerError: what is wrong and what may be given."""
        ...

    def start(self, n: int, time_ns: int, parameters: Any) -> Any:
        """State of n units that have never run: (nested) named tuples of arrays whose first axis is the unit."""
        ...

    def step(self, state: Any, time_ns: int, inputs: Mapping[str, Array], parameters: Any) -> Turn:
        """One run at `time_ns` (Unix ns, the same for all units), `inputs` (n,) by the names of READS."""
        ...


@runtime_checkable
class Naming(Protocol):
    """A kind of controller whose parameters give names to numbers that it tells."""

    def names(self, parameters: Any) -> Mapping[str, tuple[str, ...]]:
        """Of terms that count from 1: what each number stands for."""
        ...


def unknown(n: int) -> Array:
    """NaN (n,): nothing asked, nothing known."""
    return np.full(n, np.nan)
