"""What a simulated device stands in: physics behind actuators and sensors, one class per profile.

A plant is advanced in its own time (which may run faster than the wall) and read by sensors when the device samples.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import numpy as np

from simulators import multispan, substrate
from simulators.actuator import Actuator
from simulators.sensor import LIBRARY, Sensor
from simulators.weather import Weather

UMOL_PER_J: Final = 2.3  # PAR photons per J of global radiation (GreenLight)
FLOOR_M2: Final = 960.0
FROST_C: Final = 5.0
TANK_L: Final = 5000.0
TANK_FILL_L_S: Final = 0.8  # the house's supply, behind a float valve
WATER_MS_CM, WATER_PH, FED_PH = 0.4, 7.2, 5.9  # raw water, and the solution as fed
MIXING_TAU_S: Final = 5.0
LAMP_UMOL_PER_J: Final = 2.7  # PAR photons per J of electricity, LED
# What a house draws, per m2 of floor: lamps, fans, pumps.
POWER_W_M2: Final = {
    "grow_light": 60.0,
    "exhaust_fan": 4.0,
    "circulation_fan": 1.0,
    "circulation_pump": 0.5,
    "pad_pump": 0.5,
    "fog": 1.0,
}


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
        "rad_sum_j_cm2": "exact",
        "wind_speed_m_s": "wind_m_s",
        "wind_gust_m_s": "wind_m_s",
        "wind_dir_deg": "exact",
        "rain_bool": "exact",
    }

    def __init__(self, weather: Weather, start_s: float, random: np.random.Generator) -> None:
        self._weather = weather
        self._unix_s = start_s
        self._rad_sum_j_cm2, self._is_dark = 0.0, False
        self.sensors = _Sensors(self.SENSORS, random)

    def advance(self, unix_s: float, dt_s: float, actuators: Mapping[str, Actuator]) -> None:  # noqa: ARG002 - a mast moves nothing
        """Move on to `unix_s`; the radiation sum starts anew at sunrise."""
        self._unix_s = unix_s
        rad_w_m2 = self._weather.at(unix_s).rad_w_m2
        if self._is_dark and rad_w_m2 > 0.0:
            self._rad_sum_j_cm2 = 0.0
        self._is_dark = rad_w_m2 <= 0.0
        self._rad_sum_j_cm2 += rad_w_m2 * dt_s / 1e4
        self.sensors.advance(dt_s)

    def read(self, actuators: Mapping[str, Actuator]) -> dict[str, float]:  # noqa: ARG002
        """Readings by point name."""
        now = self._weather.at(self._unix_s)
        truth = {
            "temp_c": now.temp_c,
            "rh_pct": now.rh_pct,
            "rad_w_m2": now.rad_w_m2,
            "rad_sum_j_cm2": self._rad_sum_j_cm2,
            "wind_speed_m_s": now.wind_m_s,
            "wind_gust_m_s": now.gust_m_s,
            "wind_dir_deg": now.wind_dir_deg,
            "rain_bool": float(now.rain),
        }
        return self.sensors.read(truth)

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
        "screen_temp_top_c": "air_temp_c",
        "par_umol_m2_s": "par_umol_m2_s",
        "pipe_supply_c": "water_temp_c",
        "pipe_return_c": "water_temp_c",
        "water_temp_c": "water_temp_c",
        "drip_flow_l_min": "flow_l_min",
        "drip_ec_ms_cm": "ec_ms_cm",
        "drip_ph": "ph",
        "drain_ec_ms_cm": "ec_ms_cm",
        "drain_ph": "ph",
        "slab_weight_kg": "weight_kg",
        "tank_level_pct": "level_pct",
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
        self.substrate = substrate.Substrate()
        self.state = state
        self.bed = substrate.wet(self.substrate)
        self.sensors = _Sensors(self.SENSORS, random)
        self._drip_ec, self._drip_ph = WATER_MS_CM, WATER_PH
        self._tank_l, self._is_filling = 0.8 * TANK_L, False
        self._elec_j_m2, self._co2_kg_m2 = 0.0, 0.0
        self._sunrise_drained, self._was_dark = 0.0, False

    def advance(self, unix_s: float, dt_s: float, actuators: Mapping[str, Actuator]) -> None:
        """Climate and substrate `dt_s` later, with every drive where it really is."""
        self._unix_s = unix_s
        now = self._weather.at(unix_s)
        outside = multispan.Outside(now.temp_c, now.rh_pct, now.rad_w_m2, now.wind_m_s)
        inputs = _inputs(actuators)
        self.state = multispan.advance(self.state, dt_s, inputs=inputs, outside=outside, parameters=self.parameters)
        self._irrigate(dt_s, actuators, taken=multispan.transpired_kg_m2_s(self.state, inputs, outside, self.parameters))
        self._count(dt_s, actuators)
        is_dark = now.rad_w_m2 <= 0.0
        if self._was_dark and not is_dark:
            self._sunrise_drained = float(self.bed.drained_kg_m2[0])
        self._was_dark = is_dark
        self.sensors.advance(dt_s)

    def _irrigate(self, dt_s: float, actuators: Mapping[str, Actuator], *, taken: Any) -> None:
        """The fertigation unit mixes what is dosed into what flows; the tank fills itself by its float valve."""
        valve, dosing = actuators["irrigation_valve"].fraction(), actuators["dosing"].fraction()
        if self._tank_l <= 0.0:
            valve = 0.0
        if valve > 0.0:
            mixed = -math.expm1(-dt_s / MIXING_TAU_S)
            self._drip_ec += mixed * (WATER_MS_CM + dosing * (self.substrate.fed_ms_cm - WATER_MS_CM) - self._drip_ec)
            self._drip_ph += mixed * (WATER_PH + dosing * (FED_PH - WATER_PH) - self._drip_ph)
        before = float(self.bed.dripped_kg_m2[0])
        self.bed = substrate.advance(
            self.bed, dt_s, valve=valve, drip_ms_cm=self._drip_ec, taken_kg_m2_s=taken, substrate=self.substrate
        )
        self._tank_l = max(0.0, self._tank_l - (float(self.bed.dripped_kg_m2[0]) - before) * FLOOR_M2)
        self._is_filling = self._tank_l < 0.95 * TANK_L if self._is_filling else self._tank_l < 0.4 * TANK_L
        if self._is_filling:
            self._tank_l += dt_s * TANK_FILL_L_S

    def _count(self, dt_s: float, actuators: Mapping[str, Actuator]) -> None:
        """Meters of the panel."""
        power = sum(watts * actuators[name].fraction() for name, watts in POWER_W_M2.items())
        self._elec_j_m2 += dt_s * power
        self._co2_kg_m2 += dt_s * actuators["co2_valve"].fraction() * self.parameters.co2_kg_m2_s

    def read(self, actuators: Mapping[str, Actuator]) -> dict[str, float]:
        """Readings by point name: instruments, drives, and the counters and contacts of the panel."""
        readings = self.sensors.read(self._truth(actuators))
        if actuators["irrigation_valve"].fraction() < 0.5 or self._tank_l <= 0.0:
            readings["drip_flow_l_min"] = 0.0
        for name, actuator in actuators.items():
            if actuator.spec.feedback is not None:
                readings[actuator.spec.feedback] = actuator.measured()
            if actuator.spec.feedback == f"{name}_pct":
                readings[f"{name}_target_pct"] = actuator.target
        readings["heat_kwh"] = float(self.state.heat_j_m2[0]) * FLOOR_M2 / 3.6e6
        readings["elec_kwh"] = self._elec_j_m2 * FLOOR_M2 / 3.6e6
        readings["co2_kg"] = self._co2_kg_m2 * FLOOR_M2
        readings["drip_volume_l"] = float(self.bed.dripped_kg_m2[0]) * FLOOR_M2
        readings["drain_volume_l"] = float(self.bed.drained_kg_m2[0]) * FLOOR_M2
        readings["drain_today_l"] = (float(self.bed.drained_kg_m2[0]) - self._sunrise_drained) * FLOOR_M2
        readings["box_fan_bool"] = 1.0
        return readings

    def local(self, actuators: Mapping[str, Actuator]) -> None:
        """The frost thermostat on the panel: pump on, mixing valve 30 %."""
        if float(self.state.air_c[0]) < FROST_C:
            actuators["circulation_pump"].command(1.0)
            actuators["mixing_valve"].command(max(30.0, actuators["mixing_valve"].target))

    def _truth(self, actuators: Mapping[str, Actuator]) -> dict[str, float]:
        air = float(self.state.air_c[0])
        now = self._weather.at(self._unix_s)
        lamps = actuators["grow_light"].fraction() * self.parameters.lamp_w_m2
        light = now.rad_w_m2 * self.parameters.transmission
        pipe = float(self.state.pipe_c[0])
        flows = actuators["circulation_pump"].fraction() > 0.5
        drop = float(multispan.pipe_heat_w_m2(pipe, air, self.parameters)) / 30.0 if flows else 0.0
        behind_screen = self.parameters.screen_saving * actuators["thermal_screen"].fraction()
        return {
            "air_temp_c": air,
            "air_temp_2_c": air,
            "air_rh_pct": float(multispan.relative_humidity_pct(self.state)[0]),
            "co2_ppm": float(multispan.co2_ppm(self.state)[0]),
            "leaf_temp_c": air + light / 250.0 - 1.0,
            "screen_temp_top_c": air - behind_screen * (air - now.temp_c),
            "par_umol_m2_s": light * UMOL_PER_J + lamps * LAMP_UMOL_PER_J,
            "pipe_supply_c": pipe + drop / 2.0,
            "pipe_return_c": pipe - drop / 2.0,
            "water_temp_c": float(self.state.mass_c[0]),
            "drip_flow_l_min": self.substrate.flow_kg_m2_s * FLOOR_M2 * 60.0,
            "drip_ec_ms_cm": self._drip_ec,
            "drip_ph": self._drip_ph,
            "drain_ec_ms_cm": float(substrate.conductivity_ms_cm(self.bed)[0]),
            "drain_ph": FED_PH + 0.2,
            "slab_weight_kg": self.substrate.dry_kg_m2 + float(self.bed.water_kg_m2[0]),
            "tank_level_pct": 100.0 * self._tank_l / TANK_L,
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
        exhaust_fan=at("exhaust_fan"),
        pad_pump=at("pad_pump"),
        lamp=at("grow_light"),
        boiler=at("boiler"),
    )
