"""Control quality of pig houses: `python -m bench.control_pig_house` prints a winter and a summer day of three controllers.

Houses are those of simulators/plants/pig_house.py, in the same weather; a day after three hours that let them settle.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from bench.control import Drives, Loop
from bench.recordings import shipped_profile
from rules.control import pi
from rules.control.controller import Array, Ask, Controller, Turn
from rules.control.memory import Guard
from rules.control.pig_house import CONTROLLER
from rules.control.pig_settings import Parameters, along
from simulators.plants import pig_house
from simulators.weather import Scenario, Weather
from telemetry.site import MODES
from telemetry.sun import DAY_S

HOUSES: Final = 2
CLIMATE: Final = ("fan", "fan_2", "fan_3", "fan_4", "tunnel", "inlet", "heater", "pad_pump", "sprinkler")
FAN_W: Final = 2.1  # per place, the first stage at full speed against suction; 35 W per 1,000 m3/h
STAGED_W: Final = 1.4  # each of fan_2 to fan_4
TUNNEL_W: Final = 2.1
PUMP_W: Final = 0.1
NOISE: Final = {
    "room_temp_c": 0.05,
    "room_temp_2_c": 0.05,
    "rh_pct": 0.3,
    "co2_ppm": 10.0,
    "nh3_ppm": 0.5,
    "static_pressure_pa": 1.0,
}
LATITUDE, LONGITUDE = 36.7, 117.0
WINTER = Scenario(mean_temp_c=-4.0, daily_range_k=9.0, dew_point_c=-8.0, sky="clear", rain_per_day=0.0)
SUMMER = Scenario(mean_temp_c=28.0, daily_range_k=9.0, dew_point_c=21.0, sky="clear", rain_per_day=0.0)
WINTER_S, SUMMER_S = 1_768_406_400.0, 1_784_217_600.0  # midnights in China: 15 January, 17 July 2026


class Day(NamedTuple):
    """A kind of weather from a moment on."""

    start_s: float
    scenario: Scenario

    def weather(self) -> Weather:
        """It, from its own generator."""
        random = np.random.default_rng(5)
        return Weather(start_s=self.start_s, latitude=LATITUDE, longitude=LONGITUDE, scenario=self.scenario, random=random)


DAYS: Final = {"winter": Day(WINTER_S, WINTER), "summer": Day(SUMMER_S, SUMMER)}


@dataclass(slots=True)
class Around:
    """What a controller reads beside its house: the weather, what is given (also in place of a sensor), and nothing where it is blind."""

    weather: Weather
    given: dict[str, float] = field(default_factory=lambda: {"mode": float(MODES.index("OCCUPIED"))})
    blind: set[str] = field(default_factory=set)

    def spoil(self, unix_s: float, inputs: dict[str, Array]) -> None:
        """Write it over the inputs."""
        now = self.weather.at(unix_s)
        for name, value in ({"weather.temp_c": now.temp_c, "weather.rh_pct": now.rh_pct} | self.given).items():
            inputs[name][:] = value
        for name in self.blind:
            inputs[name][:] = np.nan


def loop_of(
    plant: pig_house.PigHouses, controller: Controller, around: Around, start_s: float, *, noise: Mapping[str, float] | None = None
) -> Loop:
    """Houses and a controller, with the drives of the shipped profile."""
    drives = Drives({spec.name: spec for spec in shipped_profile("pig_house").actuators}, len(plant.places))
    return Loop(plant, controller, controller.parameters({}), drives, start_s, spoil=around.spoil, noise=noise or {})


class Plain(NamedTuple):
    """Memory of the plain controllers."""

    latched: Array  # (n, 5) heater, fan_2, fan_3, fan_4, tunnel
    pi: pi.PI


class Thermostat:
    """Switches with 1 K of hysteresis, minimum ventilation by a fixed speed, inlets by the number of fans; PID adds proportional speed."""

    READS = CONTROLLER.READS
    EVERY_S = CONTROLLER.EVERY_S

    def __init__(self, *, has_pid: bool) -> None:
        self.has_pid = has_pid

    def parameters(self, given: Mapping[str, Any]) -> Parameters:
        """Those of the controller: both follow the same curve of temperature."""
        return CONTROLLER.parameters(given)

    def start(self, n: int, time_ns: int, parameters: Parameters) -> Plain:  # noqa: ARG002
        """All off."""
        return Plain(np.zeros((n, 5), np.bool_), pi.start_pi(np.full(n, 40.0), time_ns))

    def step(self, state: Plain, time_ns: int, inputs: Mapping[str, Array], parameters: Parameters) -> Turn:
        """Temperature alone rules; the slowest speed of the first stage is the minimum ventilation."""
        error = inputs["room_temp_c"] - along(inputs["weight_kg"], parameters.room_c_by_kg)
        on_at, off_at = np.array([1.0, 1.5, 2.5, 3.5, 4.5]), np.array([0.0, 0.5, 1.5, 2.5, 3.5])
        signed = np.stack([-error, error, error, error, error], axis=1)
        latched = np.where(signed >= on_at, True, np.where(signed <= off_at, False, state.latched))
        gains = pi.Gains(kp=30.0, ti_s=600.0, low=40.0, high=100.0)
        control, speed = pi.pi(state.pi, time_ns, error, gains, Guard(10.0))
        if not self.has_pid:
            speed = np.where(error > 0.5, 100.0, np.where(error < -0.5, 40.0, state.pi.output))
            control = control._replace(output=speed)
        count = latched[:, 1:4].sum(axis=1)
        demands = {Ask("fan", "value", "temperature"): speed, Ask("tunnel", "value", "temperature"): 1.0 * latched[:, 4]}
        demands |= {Ask(f"fan_{k + 1}", "value", "temperature"): 1.0 * latched[:, k] for k in (1, 2, 3)}
        demands[Ask("heater", "value", "temperature")] = 1.0 * (latched[:, 0] & (count == 0))
        demands[Ask("inlet", "value", "temperature")] = np.where(latched[:, 4], 0.0, 10.0 + 0.2 * speed + 20.0 * count)
        demands[Ask("auger", "value", "economy")] = 1.0 * (np.mod(inputs["hour"], 1.0) < 0.15)
        return Turn(Plain(latched, control), demands)


CONTROLLERS: Final[dict[str, Controller]] = {
    "Fieldloom": CONTROLLER,
    "thermostat": Thermostat(has_pid=False),
    "PID": Thermostat(has_pid=True),
}


class Quality(NamedTuple):
    """A day, means over the houses; CO2, NH3 and temperatures are the worst of any house."""

    in_band_h: float
    lowest_k: float  # room over set point
    highest_k: float
    co2_ppm: float
    co2_over_h: float  # hours over 3,000 ppm
    rh_pct: float  # the day's mean
    heat_kwh: float  # per pig
    power_kwh: float  # of fans and pumps, per pig
    moves: float  # of all drives of the climate, per house


def measure(controller: Controller, day: Day, *, settle_d: float = 0.125, span_d: float = 1.0, houses: int = HOUSES) -> Quality:
    """A day of a controller, after `settle_d` days."""
    start_s = day.start_s - settle_d * DAY_S
    around = Around(day._replace(start_s=start_s).weather())
    plant = pig_house.make(houses, around.weather, start_s, [np.random.default_rng([7, k]) for k in range(houses)])
    loop = loop_of(plant, controller, around, start_s, noise=NOISE)
    loop.run(24.0 * settle_d)
    set_point = np.array(along(plant.herds.weight_kg, CONTROLLER.parameters({}).room_c_by_kg))
    begin = {name: loop.drives.moves[name].copy() for name in CLIMATE}
    heat_j, seen = plant.state.heat_j.copy(), []
    energy = np.zeros(houses)

    def note(at: Loop) -> None:
        here, out = at.drives.fractions(), around.weather.at(at.unix_s)
        error = plant.state.air_c - set_point
        warmest = np.maximum(3.0, out.temp_c + 3.0 - set_point)
        seen.append((error, (error >= -2.0) & (error <= warmest), plant.state.co2_ppm, plant.humidity_pct()))
        staged = STAGED_W * (here["fan_2"] + here["fan_3"] + here["fan_4"]) + TUNNEL_W * (here["tunnel"] > 0.5)
        energy[:] += controller.EVERY_S * (FAN_W * here["fan"] ** 3 + staged + PUMP_W * here["pad_pump"])

    loop.run(24.0 * span_d, note)
    error, inside, co2, humidity = (np.array(each) for each in zip(*seen, strict=True))
    moves = {name: float((loop.drives.moves[name] - begin[name]).mean()) for name in CLIMATE}
    return Quality(
        in_band_h=float(24.0 * inside.mean()),
        lowest_k=float(error.min()),
        highest_k=float(error.max()),
        co2_ppm=float(co2.max()),
        co2_over_h=float(24.0 * (co2 > 3000.0).mean()),
        rh_pct=float(humidity.mean()),
        heat_kwh=float((plant.state.heat_j - heat_j).mean() / 3.6e6),
        power_kwh=float(energy.mean() / 3.6e6),
        moves=sum(moves.values()),
    )


def main() -> None:
    """Print the table."""
    print(f"{'day':8} {'controller':12} " + " ".join(f"{name:>10}" for name in Quality._fields))
    for day, weathered in DAYS.items():
        for name, controller in CONTROLLERS.items():
            found = measure(controller, weathered)
            print(f"{day:8} {name:12} " + " ".join(f"{value:10.3g}" for value in found), flush=True)


if __name__ == "__main__":
    main()
