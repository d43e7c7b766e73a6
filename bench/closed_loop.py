"""Controllers and plants in one loop without the wire: drives that travel, sensors with lag and noise, the clock and sun of a site.

Arrays over houses; the engine's rules are not in it, so that what is seen is the controller alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from bench.control import DEAD_ZONE, clock, settle
from rules.control.controller import Controller, Turn
from simulators.houses import Houses
from simulators.sensor import LIBRARY, SensorType
from simulators.weather import Scenario, Weather
from telemetry.plan import NS_PER_S
from telemetry.site import MODES, ActuatorSpec

Array = NDArray[Any]
PROFILES: Final = Path(__file__).parents[1] / "devices" / "profiles"
LATITUDE, LONGITUDE, AHEAD_H = 36.7, 119.1, 8.0
# Winter and summer days for tables and tests; clear, as both are hardest then.
WINTER: Final = Scenario(mean_temp_c=-5.0, daily_range_k=12.0, dew_point_c=-12.0, anomaly_sd_k=0.3, wind_m_s=2.0, sky="clear")
SUMMER: Final = Scenario(mean_temp_c=26.0, daily_range_k=10.0, dew_point_c=18.0, anomaly_sd_k=0.3, wind_m_s=2.0, sky="clear")
WINTER_S: Final = 1_766_246_400.0  # 2025-12-21 00:00 at the site
SUMMER_S: Final = 1_750_435_200.0  # 2025-06-21 00:00


@lru_cache
def specs_of(profile: str) -> dict[str, ActuatorSpec]:
    """The actuators of a shipped profile."""
    document = yaml.safe_load((PROFILES / f"{profile}.yaml").read_text("utf-8"))
    return {entry["name"]: ActuatorSpec.model_validate(entry) for entry in document["actuators"]}


@dataclass
class Drives:
    """Drives of n houses: they start for more than their dead zone, travel in their time, and switches keep their minimum times."""

    specs: Mapping[str, ActuatorSpec]
    n: int
    position: dict[str, Array] = field(default_factory=dict)
    target: dict[str, Array] = field(default_factory=dict)
    moves: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """At rest."""
        for name, spec in self.specs.items():
            self.position[name], self.target[name] = np.full(self.n, spec.rest), np.full(self.n, spec.rest)
            self.moves[name] = np.zeros(self.n)
        self._runs = {name: np.zeros(self.n, np.bool_) for name in self.specs}
        self._since_s = {name: np.full(self.n, 1e9) for name in self.specs}

    def send(self, wanted: Mapping[str, Array]) -> None:
        """New targets; a switch inside its minimum time keeps its state, a step below the least is not made."""
        for name, value in wanted.items():
            spec, at = self.specs[name], self.target[name]
            differs = np.abs(value - at) >= max(spec.min_step, 1e-9)
            if spec.kind == "switch":
                differs &= self._since_s[name] >= np.where(at > spec.low, spec.min_on_s, spec.min_off_s)
                self.moves[name] += differs
                self._since_s[name] = np.where(differs, 0.0, self._since_s[name])
            self.target[name] = np.where(differs & np.isfinite(value), value, at)

    def advance(self, dt_s: float, forced: Mapping[str, Array]) -> None:
        """Let time pass; `forced` targets of the panel come first (NaN: none)."""
        for name, spec in self.specs.items():
            wide, force = spec.high - spec.low, forced.get(name, np.nan)
            aim = np.where(np.isnan(force), self.target[name], force)
            error = aim - self.position[name]
            starts = ~self._runs[name] & (np.abs(error) > DEAD_ZONE * wide)
            if spec.kind != "switch":
                self.moves[name] += starts
            runs = self._runs[name] | starts
            reach = np.abs(error) if spec.travel_s <= 0.0 else np.minimum(np.abs(error), wide * dt_s / spec.travel_s)
            self.position[name] = self.position[name] + np.where(runs, reach * np.sign(error), 0.0)
            self._runs[name] = runs & (reach < np.abs(error))
            self._since_s[name] += dt_s

    def fractions(self) -> dict[str, Array]:
        """True positions 0..1."""
        return {name: (self.position[name] - spec.low) / (spec.high - spec.low) for name, spec in self.specs.items()}


class Instruments:
    """Lag, bias and noise of a plant's sensors; each house has units of its own."""

    def __init__(self, kinds: Mapping[str, str], n: int, seed: int) -> None:
        self._kinds = {point: LIBRARY.get(kind, SensorType(sigma=0.05, bias_sd=0.1, tau_s=30.0)) for point, kind in kinds.items()}
        self._random = np.random.default_rng(seed)
        self._bias = {point: kind.bias_sd / 2.0 * self._random.standard_normal(n) for point, kind in self._kinds.items()}
        self._shown: dict[str, Array] = {}

    def read(self, truth: Mapping[str, Array], dt_s: float) -> dict[str, Array]:
        """Readings, (n,) by point."""
        out = {}
        for point, kind in self._kinds.items():
            before = self._shown.get(point, truth[point])
            keep = np.exp(-dt_s / kind.tau_s) if kind.tau_s > 0.0 else 0.0
            self._shown[point] = truth[point] + keep * (before - truth[point])
            sigma = kind.sigma + kind.sigma_fraction * np.abs(self._shown[point])
            out[point] = np.clip(
                self._shown[point] + self._bias[point] + sigma * self._random.standard_normal(len(before)), kind.low, kind.high
            )
        return out


def weather_points(weather: Weather, unix_s: float) -> dict[str, float]:
    """What the mast shows."""
    now = weather.at(unix_s)
    shown = {"temp_c": now.temp_c, "rh_pct": now.rh_pct, "rad_w_m2": now.rad_w_m2, "wind_speed_m_s": now.wind_m_s}
    shown |= {"wind_gust_m_s": now.gust_m_s, "rain_bool": float(now.rain)}
    return {f"weather.{name}": value for name, value in shown.items()}


def site_weather(scenario: Scenario, start_s: float, seed: int = 1) -> Weather:
    """Weather of the site."""
    return Weather(start_s=start_s, latitude=LATITUDE, longitude=LONGITUDE, scenario=scenario, random=np.random.default_rng(seed))


Tamper = Callable[[float, dict[str, Array]], None]


class Loop:
    """A controller and n houses, run step by step. `seen` holds the last inputs, `turn` the last turn."""

    def __init__(
        self,
        houses: Houses,
        controller: Controller,
        weather: Weather,
        start_s: float,
        n: int,
        *,
        parameters: Any = None,
        constants: Mapping[str, float] | None = None,
        seed: int = 7,
    ) -> None:
        self.houses, self.controller, self.weather, self.n = houses, controller, weather, n
        self.parameters = controller.parameters({}) if parameters is None else parameters
        self.drives = Drives(specs_of(houses.PROFILE), n)
        self.unix_s = self.start_s = start_s
        self._instruments = Instruments(houses.SENSORS, n, seed)
        self._constants = {"mode": float(MODES.index("AUTO"))} | dict(constants or {})
        self.state = controller.start(n, int(start_s) * NS_PER_S, self.parameters)
        self.seen: dict[str, Array] = {}
        self.turn: Turn | None = None

    def measured(self) -> dict[str, Array]:
        """What the controller may read now."""
        at, drives = self.houses.truth(self.drives.fractions()), self.drives.fractions()
        known: dict[str, Any] = self._instruments.read(at, self.controller.EVERY_S) | self.houses.panel(drives)
        known |= {spec.feedback: self.drives.position[name] for name, spec in self.drives.specs.items() if spec.feedback}
        known |= clock(self.unix_s, (LATITUDE, LONGITUDE, AHEAD_H)) | weather_points(self.weather, self.unix_s) | self._constants
        return {
            name: np.broadcast_to(np.asarray(known.get(name, np.nan), np.float64), self.n).copy() for name in self.controller.READS
        }

    def step(self, tamper: Tamper | None = None) -> None:
        """One period: measure, spoil what is measured, decide, move, let the plant answer."""
        self.seen = self.measured()
        if tamper is not None:
            tamper(self.unix_s, self.seen)
        self.turn = self.controller.step(self.state, int(self.unix_s) * NS_PER_S, self.seen, self.parameters)
        self.state = self.turn.state
        self.drives.send({name: settle(self.turn.demands, spec, self.n) for name, spec in self.drives.specs.items()})
        left_s = self.controller.EVERY_S
        while left_s > 0.0:
            dt_s = min(left_s, self.houses.STEP_S)
            self.drives.advance(dt_s, self.houses.interlock())
            self.unix_s += dt_s
            left_s -= dt_s
            self.houses.advance(self.unix_s, dt_s, self.drives.fractions())

    def run(self, hours: float, watch: Callable[["Loop"], Any] | None = None, tamper: Tamper | None = None) -> list[Any]:
        """Steps for so many hours; what `watch` says of each step."""
        out = []
        for _ in range(round(hours * 3600.0 / self.controller.EVERY_S)):
            self.step(tamper)
            if watch is not None:
                out.append(watch(self))
        return out
