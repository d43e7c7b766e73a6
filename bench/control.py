"""Quality of control: a kind of plant and a controller in a closed loop, against a plain thermostat and a plain PID.

The loop is what a site is without its wires: drives that travel in their time, with a dead zone of 1 % and minimum times on and off,
what the panel forces, and arbitration in its fixed order. Nothing is random but what the plant draws.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import yaml

from rules.control.controller import Array, Ask, Controller, Turn
from simulators.houses import Houses
from simulators.weather import Scenario, Weather, WeatherSample
from telemetry.plan import NS_PER_S
from telemetry.site import LEVELS, MODES, ActuatorSpec, Profile

PROFILES: Final = Path(__file__).parents[1] / "devices" / "profiles"
ZONE_S: Final = 8 * 3600.0
DAY_S: Final = 86_400.0
DEAD_ZONE: Final = 0.01
LATITUDE, LONGITUDE = 36.7, 117.0
WINTER = Scenario(mean_temp_c=-4.0, daily_range_k=9.0, dew_point_c=-8.0, sky="clear")
SUMMER = Scenario(mean_temp_c=28.0, daily_range_k=9.0, dew_point_c=21.0, sky="clear")
WINTER_S, SUMMER_S = 1_768_406_400.0, 1_784_217_600.0  # midnights in China: 15 January, 17 July 2026
_ORDER: Final = {"at_most": 0, "at_least": 1, "value": 2}


def arbitrate(demands: Mapping[Ask, Array], actuator: ActuatorSpec, n: int) -> Array:
    """The value of an actuator for n houses, as rules.arbitration has it for one; a controller asks no value above level 4."""
    low, high, base = np.full(n, actuator.low), np.full(n, actuator.high), np.full(n, np.nan)
    asks = [ask for ask in demands if ask.actuator == actuator.name]
    for ask in sorted(asks, key=lambda ask: (LEVELS[ask.level], _ORDER[ask.bound])):
        value = demands[ask]
        if ask.bound == "at_most":
            high = np.where((low <= value) & (value < high), value, high)
        elif ask.bound == "at_least":
            low = np.where((low < value) & (value <= high), value, low)
        else:
            assert LEVELS[ask.level] > LEVELS["manual"]
            base = np.fmax(base, value) if actuator.choose == "largest" else np.fmin(base, value)
    return np.clip(np.where(np.isnan(base), actuator.rest, base), low, high)


class Drive:
    """n drives of one actuator: towards a target in their time, switches with their minimum times; `stuck` stays where it is."""

    def __init__(self, spec: ActuatorSpec, n: int) -> None:
        self.spec, self.position = spec, np.full(n, spec.rest)
        self.moving, self.stuck = np.zeros(n, np.bool_), np.zeros(n, np.bool_)
        self.target, self.held_s, self.moves = self.position.copy(), np.full(n, 1e9), np.zeros(n)

    def advance(self, target: Array, forced: Array, dt_s: float) -> None:
        """Let `dt_s` pass; `forced` (NaN: not) goes before the target and against minimum times."""
        spec, width = self.spec, self.spec.high - self.spec.low
        if spec.kind == "switch":
            least = np.where(self.target > spec.low, spec.min_on_s, spec.min_off_s)
            target = np.where(self.held_s >= least, target, self.target)
        target = np.where(np.isnan(forced), target, forced)
        self.held_s = np.where(target == self.target, self.held_s + dt_s, 0.0)
        self.target = target
        error = target - self.position
        starts = ~self.moving & (np.abs(error) > DEAD_ZONE * width) & ~self.stuck
        self.moves += starts
        self.moving |= starts
        reach = width * dt_s / spec.travel_s if spec.travel_s > dt_s else np.inf
        step = np.clip(error, -reach, reach) * (self.moving & ~self.stuck)
        self.position = self.position + step
        self.moving &= np.abs(error) > np.abs(step)

    def share(self) -> Array:
        """True position, 0..1."""
        return (self.position - self.spec.low) / (self.spec.high - self.spec.low)


class Weathered(NamedTuple):
    """A kind of weather from a moment on."""

    start_s: float
    scenario: Scenario

    def weather(self) -> Weather:
        """It, from its own generator."""
        random = np.random.default_rng(5)
        return Weather(start_s=self.start_s, latitude=LATITUDE, longitude=LONGITUDE, scenario=self.scenario, random=random)


@functools.cache
def profile(name: str) -> Profile:
    """A shipped profile."""
    return Profile.model_validate(yaml.safe_load((PROFILES / f"{name}.yaml").read_text("utf-8")))


class Loop:
    """n houses and their controller. `blind` names inputs that are unknown, `given` sets inputs that nobody measures."""

    def __init__(
        self,
        houses: Houses,
        n: int,
        controller: Controller,
        weather: Weather,
        start_s: float,
        *,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        spec = profile(houses.PROFILE)
        self.houses, self.n, self.controller, self.weather, self.unix_s = houses, n, controller, weather, start_s
        self.parameters = controller.parameters(parameters or {})
        self.state = controller.start(n, round(start_s * NS_PER_S), self.parameters)
        self.specs = {actuator.name: actuator for actuator in spec.actuators}
        self.drives = {name: Drive(actuator, n) for name, actuator in self.specs.items()}
        self.feedback = {a.feedback: a.name for a in spec.actuators if a.feedback is not None}
        self.given: dict[str, Any] = {"mode": float(MODES.index("OCCUPIED"))}
        self.blind: set[str] = set()
        self.turn = Turn(self.state, {})
        self.targets = {name: np.full(n, actuator.rest) for name, actuator in self.specs.items()}
        self._next_s = start_s

    def positions(self) -> dict[str, Array]:
        """Where every drive truly is, 0..1."""
        return {name: drive.share() for name, drive in self.drives.items()}

    def inputs(self) -> dict[str, Array]:
        """What the controller reads now; NaN for what nobody gives."""
        at = self.positions()
        now = self.weather.at(self.unix_s)
        seen: dict[str, Any] = {**self.houses.truth(at), **self.houses.panel(at), **_outside(now)}
        seen |= {point: self.drives[name].position for point, name in self.feedback.items()}
        seen |= {"hour": (self.unix_s + ZONE_S) % DAY_S / 3600.0, **self.given}
        unknown = np.full(self.n, np.nan)
        names = self.controller.READS
        return {
            name: unknown if name in self.blind else np.broadcast_to(seen.get(name, unknown), (self.n,)) * 1.0 for name in names
        }

    def advance(self, seconds: float, watch: Callable[["Loop"], None] | None = None) -> None:
        """Let time pass in steps of the plant; `watch` is called after each."""
        step_s = min(self.houses.STEP_S, self.controller.EVERY_S)
        for _ in range(round(seconds / step_s)):
            if self.unix_s >= self._next_s:
                self.turn = self.controller.step(self.state, round(self.unix_s * NS_PER_S), self.inputs(), self.parameters)
                self.state = self.turn.state
                self.targets = {name: arbitrate(self.turn.demands, spec, self.n) for name, spec in self.specs.items()}
                self._next_s += self.controller.EVERY_S
            forced, free = self.houses.interlock(), np.full(self.n, np.nan)
            for name, drive in self.drives.items():
                drive.advance(self.targets[name], forced.get(name, free), step_s)
            self.unix_s += step_s
            self.houses.advance(self.unix_s, step_s, self.positions())
            if watch is not None:
                watch(self)


def _outside(now: WeatherSample) -> dict[str, float]:
    return {
        "weather.temp_c": now.temp_c,
        "weather.rh_pct": now.rh_pct,
        "weather.rad_w_m2": now.rad_w_m2,
        "weather.wind_speed_m_s": now.wind_m_s,
        "weather.wind_gust_m_s": now.gust_m_s,
        "weather.wind_dir_deg": now.wind_dir_deg,
        "weather.rain_bool": float(now.rain),
    }
