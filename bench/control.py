"""A closed loop of plants and controllers in plain arrays, and what it costs and holds: shared by the benches and tests of all kinds.

Drives travel in their time and do not start for less than 1 % of their range or their smallest step; switches keep their minimum
times. Demands are settled as
`rules.arbitration` settles them, for all houses at once. There is no network, no engine and no journal here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rules.control.controller import Ask, Controller
from simulators.houses import Houses
from telemetry import sun
from telemetry.plan import NS_PER_S
from telemetry.site import LEVELS, MODES, ActuatorSpec

Array = NDArray[Any]

DEAD_ZONE: Final = 0.01  # of the range
PLACE: Final = (36.7, 118.8, 8.0)  # latitude, longitude [deg], hours ahead of UTC: Shandong
_BOUNDS: Final = {"at_most": 0, "at_least": 1, "value": 2}


def settle(demands: Mapping[Ask, Array], spec: ActuatorSpec, n: int) -> Array:
    """What an actuator shall do (n,): levels from the highest down, bounds before values, the largest value of the lowest levels."""
    low, high, rest = (np.full(n, edge) for edge in (spec.low, spec.high, spec.rest))
    fixed, chosen = np.full(n, np.nan), np.full(n, np.nan)
    asked = [ask for ask in demands if ask.actuator == spec.name]
    for ask in sorted(asked, key=lambda ask: (LEVELS[ask.level], _BOUNDS[ask.bound])):
        value = demands[ask]
        if ask.bound == "at_most":
            high = np.where((value >= low) & (value < high), value, high)
        elif ask.bound == "at_least":
            low = np.where((value > low) & (value <= high), value, low)
        elif LEVELS[ask.level] > LEVELS["manual"]:
            chosen = np.fmax(chosen, value) if spec.choose == "largest" else np.fmin(chosen, value)
        else:
            fixed = np.where(np.isfinite(fixed), fixed, np.clip(value, low, high))
            low, high = np.where(np.isfinite(fixed), fixed, low), np.where(np.isfinite(fixed), fixed, high)
    return np.clip(np.where(np.isfinite(chosen), chosen, rest), low, high)


@dataclass(slots=True)
class Drives:
    """Where the drives of n houses truly are, in their own unit."""

    specs: Mapping[str, ActuatorSpec]
    n: int
    position: dict[str, Array] = field(default_factory=dict)
    target: dict[str, Array] = field(default_factory=dict)
    since_s: dict[str, Array] = field(default_factory=dict)
    moves: dict[str, Array] = field(default_factory=dict)
    stuck: dict[str, Array] = field(default_factory=dict)  # bool

    def __post_init__(self) -> None:
        """All at rest."""
        for name, spec in self.specs.items():
            self.position[name], self.target[name] = np.full(self.n, spec.rest), np.full(self.n, spec.rest)
            self.since_s[name], self.moves[name] = np.full(self.n, 1e9), np.zeros(self.n)
            self.stuck[name] = np.zeros(self.n, np.bool_)

    def advance(self, dt_s: float, wanted: Mapping[str, Array], forced: Mapping[str, Array]) -> None:
        """Move for `dt_s` to what is wanted, or to what the panel forces."""
        for name, spec in self.specs.items():
            force = forced.get(name, np.full(self.n, np.nan))
            aim = np.where(np.isfinite(force), force, wanted.get(name, self.target[name]))
            at, span = self.position[name], spec.high - spec.low
            self.since_s[name] = self.since_s[name] + dt_s
            if spec.kind == "switch":
                least = np.where(at > spec.low, spec.min_on_s, spec.min_off_s)
                aim = np.where((np.round(aim) != at) & (self.since_s[name] >= least), np.round(aim), at)
                reach = np.full(self.n, span)
            else:
                worth = (np.abs(aim - at) > DEAD_ZONE * span) & (
                    (np.abs(aim - self.target[name]) >= spec.min_step) | (aim <= spec.low) | (aim >= spec.high)
                )
                aim = np.where(worth, aim, self.target[name])
                reach = np.full(self.n, span if spec.travel_s <= 0 else span * dt_s / spec.travel_s)
            aim = np.where(self.stuck[name], at, aim)
            starts = (aim != at) & (aim != self.target[name])
            self.moves[name] = self.moves[name] + starts
            self.since_s[name] = np.where(aim != at, 0.0, self.since_s[name])
            self.target[name] = aim
            self.position[name] = at + np.clip(aim - at, -reach, reach)

    def fractions(self) -> dict[str, Array]:
        """Positions 0..1 of the range."""
        return {name: (self.position[name] - spec.low) / (spec.high - spec.low) for name, spec in self.specs.items()}

    def feedback(self) -> dict[str, Array]:
        """Feedback points."""
        return {spec.feedback: self.position[name] for name, spec in self.specs.items() if spec.feedback is not None}


def clock(unix_s: float, place: tuple[float, float, float] = PLACE) -> dict[str, float]:
    """Clock inputs of a controller at a place."""
    latitude, longitude, ahead_h = place
    local = unix_s + ahead_h * 3600.0
    rise, down = sun.sunrise_sunset_s(unix_s, latitude, longitude)
    return {
        "hour": local % sun.DAY_S / 3600.0,
        "hours_after_sunrise": (unix_s - float(rise)) / 3600.0,
        "hours_before_sunset": (float(down) - unix_s) / 3600.0,
        "sun_elevation_deg": float(sun.elevation_at_deg(unix_s, latitude, longitude)),
    }


@dataclass(slots=True)
class Loop:
    """n houses and their controller. `spoil(unix_s, inputs)` may change what the controller reads; `links` are masts and the like."""

    houses: Houses
    controller: Controller
    parameters: Any
    drives: Drives
    unix_s: float
    links: Mapping[str, Houses] = field(default_factory=dict)
    given: Mapping[str, float] = field(default_factory=dict)  # set points and the like, by input
    noise: Mapping[str, float] = field(default_factory=dict)  # sigma, by input
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    spoil: Callable[[float, dict[str, Array]], None] = lambda _unix_s, _inputs: None
    place: tuple[float, float, float] = PLACE
    state: Any = None
    turn: Any = None

    def __post_init__(self) -> None:
        """The controller has never run."""
        self.state = self.controller.start(self.drives.n, int(self.unix_s * NS_PER_S), self.parameters)

    def inputs(self) -> dict[str, Array]:
        """What the controller reads now; NaN where nothing serves an input."""
        n, fractions = self.drives.n, self.drives.fractions()
        known = self.houses.truth(fractions) | self.houses.panel(fractions) | self.drives.feedback()
        for link, other in self.links.items():
            known |= {f"{link}.{name}": np.broadcast_to(v, n) for name, v in (other.truth({}) | other.panel({})).items()}
        plain = clock(self.unix_s, self.place) | {"mode": float(MODES.index("AUTO"))} | dict(self.given)
        known |= {name: np.full(n, value) for name, value in plain.items()}
        for name, sigma in self.noise.items():
            known[name] = known[name] + sigma * self.random.standard_normal(n)
        read = {name: np.array(known.get(name, np.full(n, np.nan)), float) for name in self.controller.READS}
        self.spoil(self.unix_s, read)
        return read

    def run(self, hours: float, note: Callable[["Loop"], None] = lambda _loop: None) -> None:
        """Go on for some hours; `note` is called after every period."""
        every = self.controller.EVERY_S
        for _ in range(round(hours * 3600.0 / every)):
            self.turn = self.controller.step(self.state, int(self.unix_s * NS_PER_S), self.inputs(), self.parameters)
            self.state = self.turn.state
            wanted = {name: settle(self.turn.demands, spec, self.drives.n) for name, spec in self.drives.specs.items()}
            left = every
            while left > 0.0:
                dt = min(left, self.houses.STEP_S)
                self.unix_s += dt
                left -= dt
                self.drives.advance(dt, wanted, self.houses.interlock())
                self.houses.advance(self.unix_s, dt, self.drives.fractions())
                for other in self.links.values():
                    other.advance(self.unix_s, dt, {})
            note(self)


@dataclass(slots=True)
class Quality:
    """Hours in band and moves; `bands` by point of truth: (lowest, highest)."""

    bands: Mapping[str, tuple[float, float]]
    in_band_h: dict[str, Array] = field(default_factory=dict)
    lowest: dict[str, Array] = field(default_factory=dict)
    highest: dict[str, Array] = field(default_factory=dict)

    def note(self, loop: Loop) -> None:
        """Count one period."""
        truth = loop.houses.truth(loop.drives.fractions())
        for point, (low, high) in self.bands.items():
            value = truth[point]
            inside = (value >= low) & (value <= high)
            self.in_band_h[point] = self.in_band_h.get(point, 0.0) + inside * loop.controller.EVERY_S / 3600.0
            self.lowest[point] = np.fmin(self.lowest.get(point, np.inf), value)
            self.highest[point] = np.fmax(self.highest.get(point, -np.inf), value)
