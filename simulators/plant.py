"""What a simulated device stands in: physics behind actuators and sensors, one class per profile.

A plant is advanced in its own time (which may run faster than the wall) and read by sensors when the device samples.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import numpy as np

from simulators import multispan
from simulators.actuator import Actuator
from simulators.sensor import LIBRARY, Sensor
from simulators.weather import Weather

UMOL_PER_J: Final = 2.3  # PAR photons per J of global radiation (GreenLight)
FLOOR_M2: Final = 960.0
FROST_C: Final = 5.0
SHOT_EVERY_S: Final = 3600.0
SHOT_S: Final = 300.0
SHOT_L_MIN: Final = 24.0


class Plant(Protocol):
    """A piece of world with sensors in it."""

    def advance(self, unix_s: float, dt_s: float, actuators: Mapping[str, Actuator]) -> None:
        """Let `dt_s` of plant time pass up to `unix_s`, with actuators where they are."""
        ...

    def read(self, actuators: Mapping[str, Actuator]) -> dict[str, float]:
        """Readings by point name; NaN = the sensor says nothing."""
        ...

    def local(self, actuators: Mapping[str, Actuator]) -> None:
        """What the device's own thermostats do while it is local, beyond the fail-safe positions."""
        ...


class _Sensors:
    def __init__(self, kinds: Mapping[str, str], random: np.random.Generator) -> None:
        self.units = {point: Sensor(LIBRARY[kind], random) for point, kind in kinds.items()}
        self._age_s = 0.0

    def advance(self, dt_s: float) -> None:
        self._age_s += dt_s

    def read(self, true_values: Mapping[str, float]) -> dict[str, float]:
        readings = {point: unit.read(true_values[point], self._age_s) for point, unit in self.units.items()}
        self._age_s = 0.0
        return readings


class WeatherMast:
    """The instruments of profile `weather_station`."""

    SENSORS: Final = {
        "temp_c": "air_temp_c",
        "rh_pct": "air_rh_pct",
        "rad_w_m2": "rad_w_m2",
        "wind_speed_m_s": "wind_m_s",
        "wind_gust_m_s": "wind_m_s",
        "wind_dir_deg": "exact",
        "rain_bool": "exact",
    }

    def __init__(self, weather: Weather, start_s: float, random: np.random.Generator) -> None:
        self._weather = weather
        self._unix_s = start_s
        self.sensors = _Sensors(self.SENSORS, random)

    def advance(self, unix_s: float, dt_s: float, actuators: Mapping[str, Actuator]) -> None:  # noqa: ARG002 - a mast moves nothing
        """Move on to `unix_s`."""
        self._unix_s = unix_s
        self.sensors.advance(dt_s)

    def read(self, actuators: Mapping[str, Actuator]) -> dict[str, float]:  # noqa: ARG002
        """Readings by point name."""
        now = self._weather.at(self._unix_s)
        truth = (now.temp_c, now.rh_pct, now.rad_w_m2, now.wind_m_s, now.gust_m_s, now.wind_dir_deg, float(now.rain))
        return self.sensors.read(dict(zip(self.SENSORS, truth, strict=True)))

    def local(self, actuators: Mapping[str, Actuator]) -> None:
        """Nothing moves on a mast."""


class Compartment:
    """One multi-span compartment behind the points and actuators of profile `multispan`."""

    SENSORS: Final = {
        "air_temp_c": "air_temp_c",
        "air_temp_2_c": "air_temp_c",
        "air_rh_pct": "air_rh_pct",
        "co2_ppm": "co2_ppm",
        "leaf_temp_c": "leaf_temp_c",
        "par_umol_m2_s": "par_umol_m2_s",
        "pipe_supply_c": "water_temp_c",
        "pipe_return_c": "water_temp_c",
        "drip_flow_l_min": "flow_l_min",
        "drip_ec_ms_cm": "ec_ms_cm",
        "drip_ph": "ph",
    }

    def __init__(
        self,
        weather: Weather,
        start_s: float,
        random: np.random.Generator,
        *,
        state: multispan.State,
        parameters: multispan.Parameters,
    ) -> None:
        self._weather = weather
        self._unix_s = start_s
        self.parameters = parameters
        self.state = state
        self.sensors = _Sensors(self.SENSORS, random)

    def advance(self, unix_s: float, dt_s: float, actuators: Mapping[str, Actuator]) -> None:
        """Climate `dt_s` later, with the vents where they really are."""
        self._unix_s = unix_s
        now = self._weather.at(unix_s)
        outside = multispan.Outside(now.temp_c, now.rh_pct, now.rad_w_m2, now.wind_m_s)
        self.state = multispan.advance(self.state, dt_s, inputs=_inputs(actuators), outside=outside, parameters=self.parameters)
        self.sensors.advance(dt_s)

    def read(self, actuators: Mapping[str, Actuator]) -> dict[str, float]:
        """Readings by point name: instruments, drives, and the counters and contacts of the panel."""
        readings = self.sensors.read(self._truth(actuators))
        if not self._is_shot():
            readings["drip_flow_l_min"] = 0.0
        for name, actuator in actuators.items():
            if actuator.spec.feedback is not None:
                readings[actuator.spec.feedback] = actuator.measured()
            if actuator.spec.feedback == f"{name}_pct":
                readings[f"{name}_target_pct"] = actuator.target
        readings["heat_kwh"] = float(self.state.heat_j_m2[0]) * FLOOR_M2 / 3.6e6
        readings["irrigation_valve_bool"] = float(self._is_shot())
        readings["box_fan_bool"] = 1.0
        return readings

    def local(self, actuators: Mapping[str, Actuator]) -> None:
        """The frost thermostat on the panel: pump on, mixing valve 30 %."""
        if float(self.state.air_c[0]) < FROST_C:
            actuators["circulation_pump"].command(1.0)
            actuators["mixing_valve"].command(max(30.0, actuators["mixing_valve"].target))

    def _is_shot(self) -> bool:
        # The fertigation unit's own clock: a shot at the beginning of each hour of light.
        return self._weather.at(self._unix_s).rad_w_m2 > 50.0 and self._unix_s % SHOT_EVERY_S < SHOT_S

    def _truth(self, actuators: Mapping[str, Actuator]) -> dict[str, float]:
        air = float(self.state.air_c[0])
        light = self._weather.at(self._unix_s).rad_w_m2 * self.parameters.transmission
        pipe = float(self.state.pipe_c[0])
        flows = actuators["circulation_pump"].fraction() > 0.5
        drop = float(multispan.pipe_heat_w_m2(pipe, air, self.parameters)) / 30.0 if flows else 0.0
        return {
            "air_temp_c": air,
            "air_temp_2_c": air,
            "air_rh_pct": float(multispan.relative_humidity_pct(self.state)[0]),
            "co2_ppm": float(multispan.co2_ppm(self.state)[0]),
            "leaf_temp_c": air + light / 250.0 - 1.0,
            "par_umol_m2_s": light * UMOL_PER_J,
            "pipe_supply_c": pipe + drop / 2.0,
            "pipe_return_c": pipe - drop / 2.0,
            "drip_flow_l_min": SHOT_L_MIN if self._is_shot() else 0.0,
            "drip_ec_ms_cm": 1.5,
            "drip_ph": 5.9,
        }


class Steady:
    """Sine waves inside the physical range of each point: a stand-in for profiles that have no physics here."""

    def __init__(self, ranges: Mapping[str, tuple[float, float]], start_s: float, random: np.random.Generator) -> None:
        self._ranges = ranges
        self._unix_s = start_s
        self._phase = {point: float(random.uniform(0, 2 * math.pi)) for point in ranges}

    def advance(self, unix_s: float, dt_s: float, actuators: Mapping[str, Actuator]) -> None:  # noqa: ARG002
        """Move on to `unix_s`."""
        self._unix_s = unix_s

    def read(self, actuators: Mapping[str, Actuator]) -> dict[str, float]:
        """Readings by point name."""
        turn = 2 * math.pi * self._unix_s / 3600.0
        readings = {p: (a + b) / 2 + 0.2 * (b - a) * math.sin(turn + self._phase[p]) for p, (a, b) in self._ranges.items()}
        feedback = {a.spec.feedback: a.measured() for a in actuators.values() if a.spec.feedback is not None}
        return readings | feedback

    def local(self, actuators: Mapping[str, Actuator]) -> None:
        """No thermostat."""


PlantMaker = Callable[[Weather, float, np.random.Generator], Plant]


def make_compartment(weather: Weather, start_s: float, random: np.random.Generator) -> Plant:
    """A compartment near the climate of a morning, each a little different in crop and warmth."""
    outside = weather.at(start_s)
    air_c = max(20.0, outside.temp_c + 2.0) + float(random.uniform(0.0, 3.0))
    parameters = multispan.Parameters(leaf_area_index=float(random.uniform(0.6, 1.4)))
    state = multispan.initial_state(air_c, 72.0, air_c - 1.0, co2_ppm=600.0)
    return Compartment(weather, start_s, random, state=state, parameters=parameters)


def make_mast(weather: Weather, start_s: float, random: np.random.Generator) -> Plant:
    """A weather mast."""
    return WeatherMast(weather, start_s, random)


PLANTS: Final[dict[str, PlantMaker]] = {"multispan": make_compartment, "weather_station": make_mast}


def _inputs(actuators: Mapping[str, Actuator]) -> multispan.Inputs:
    def at(name: str) -> Any:
        return actuators[name].fraction()

    return multispan.Inputs(
        vent_lee=at("vent_lee"),
        vent_wind=at("vent_wind"),
        mixing_valve=at("mixing_valve"),
        pump=at("circulation_pump"),
        thermal_screen=at("thermal_screen"),
        shade_screen=at("shade_screen"),
        co2_valve=at("co2_valve"),
        fog=at("fog"),
    )
