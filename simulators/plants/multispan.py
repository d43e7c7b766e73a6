"""Multi-span compartments behind the points and actuators of profile `multispan`: climate MS1, trays, fertigation unit and panel."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simulators import multispan, substrate
from simulators.houses import Fault, order_where
from simulators.weather import Weather, WeatherSample
from telemetry import psychrometrics

Array = NDArray[Any]

FLOOR_M2: Final = 960.0
UMOL_PER_J: Final = 2.3  # PAR photons per J of global radiation (GreenLight)
LAMP_UMOL_PER_J: Final = 2.7  # PAR photons per J of electricity, LED
FROST_C, HOT_C = 5.0, 38.0  # thermostats of the panel
PIPE_CUT_C, PIPE_RESET_C = 90.0, 60.0  # over-temperature cut-out, and where somebody can reset it
CO2_PPM_MAX, CO2_VENT_MAX, CO2_WAIT_S = 3000.0, 0.05, 300.0  # what forbids CO2, and for how long after
TANK_L: Final = 5000.0
TANK_FILL_L_S: Final = 0.8  # the house's supply, behind a float valve
WATER_MS_CM, WATER_PH, FED_PH = 0.4, 7.2, 5.9  # raw water, and the solution as fed
MIXING_TAU_S: Final = 5.0
FLOW_W_M2_K: Final = 10.0  # of water in the pipes: 15 K between supply and return at 150 W/m2
# What a house draws, per m2 of floor: lamps, fans, pumps.
POWER_W_M2: Final = {
    "grow_light": 60.0,
    "exhaust_fan": 4.0,
    "circulation_fan": 1.0,
    "circulation_pump": 0.5,
    "pad_pump": 0.5,
    "fog": 1.0,
}
_INPUTS: Final = {"circulation_pump": "pump", "grow_light": "lamp"}  # where the model has another name
_ACTS: Final = (
    *("vent_lee", "vent_wind", "mixing_valve", "circulation_pump", "thermal_screen", "shade_screen", "co2_valve", "fog"),
    *("exhaust_fan", "pad_pump", "grow_light", "boiler"),
)


class Compartments:
    """n compartments as `Houses` (simulators/houses.py), all in the weather of one place."""

    PROFILE: Final = "multispan"
    STEP_S: Final = 30.0  # the climate goes on in steps of its own within it
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
    FAULTS: Final = {
        "screen_torn": Fault("a part of the thermal screen saves nothing", "1", 0.5),
        "mixing_valve_leak": Fault("the mixing valve lets this part through when shut; 0.1 keeps the pipe at some 35 C", "1", 0.1),
        "boiler_lockout": Fault("the boiler runs and gives no heat"),
        "boiler_overheat": Fault("the boiler's own thermostat lets its water get hotter by this", "K", 15.0),
        "ec_probe_fouled": Fault("the fertigation unit's EC probe reads this part too little, so the unit doses more", "1", 0.3),
        "drippers_clogged": Fault(
            "this part of the drippers gives nothing, the others its water; weighed trays have good ones", "1", 0.3
        ),
        "co2_bottle_empty": Fault("the CO2 valve opens and nothing flows"),
        "box_fan_off": Fault("the measuring box stands in the sun: too warm by this at 800 W/m2", "K", 4.0),
        "person_inside": Fault("a person is in the house, as the contact at its door says"),
    }

    def __init__(self, weather: Weather, start_s: float, *, state: multispan.State, parameters: multispan.Parameters) -> None:
        self._weather, self._now = weather, weather.at(start_s)
        self.state = state
        n = len(np.atleast_1d(state.air_c))
        self.substrate = substrate.Substrate()
        self.bed = substrate.SubstrateState(*(np.broadcast_to(part, n).copy() for part in substrate.wet(self.substrate)))
        self._sound = self._parameters = parameters
        self._faults = {name: np.zeros(n) for name in self.FAULTS}
        self._drip_ec, self._drip_ph, self._flow = np.full(n, WATER_MS_CM), np.full(n, WATER_PH), np.zeros(n)
        self._tank_l, self._is_filling = np.full(n, 0.8 * TANK_L), np.zeros(n, np.bool_)
        self._elec_j_m2, self._co2_kg_m2 = np.zeros(n), np.zeros(n)
        self._dripped, self._drained, self._drained_at_sunrise, self._was_dark = np.zeros(n), np.zeros(n), np.zeros(n), False
        self._is_cut, self._co2_wait_s = np.zeros(n, np.bool_), np.zeros(n)
        self._set_faults()

    def fail(self, house: int, fault: str, strength: float) -> None:
        """Begin a fault of FAULTS in a house, or end it (strength 0)."""
        self._faults[fault][house] = strength
        self._set_faults()

    def _set_faults(self) -> None:
        sound, faults = self._sound, self._faults
        self._served = 1.0 - np.clip(faults["drippers_clogged"], 0.0, 0.9)
        self._probe = 1.0 - np.clip(faults["ec_probe_fouled"], 0.0, 0.9)
        self._parameters = replace(
            sound,
            screen_saving=sound.screen_saving * (1.0 - np.clip(faults["screen_torn"], 0.0, 1.0)),
            boiler_w_m2=sound.boiler_w_m2 * (faults["boiler_lockout"] == 0.0),
            boiler_c=sound.boiler_c + faults["boiler_overheat"],
            co2_kg_m2_s=sound.co2_kg_m2_s * (faults["co2_bottle_empty"] == 0.0),
        )

    def advance(self, unix_s: float, dt_s: float, drives: Mapping[str, Array]) -> None:
        """Let `dt_s` pass up to `unix_s`: climate, trays, meters and contacts."""
        self._now = self._weather.at(unix_s)
        inputs, outside = self._inputs(drives), _outside(self._now)
        before = self.state
        self.state = multispan.advance(before, dt_s, inputs=inputs, outside=outside, parameters=self._parameters)
        self._irrigate(dt_s, drives, (self.state.transpired_kg_m2 - before.transpired_kg_m2) / dt_s)
        self._elec_j_m2 = self._elec_j_m2 + dt_s * sum(watts * drives[name] for name, watts in POWER_W_M2.items())
        self._co2_kg_m2 = self._co2_kg_m2 + dt_s * drives["co2_valve"] * self._parameters.co2_kg_m2_s
        is_dark = self._now.rad_w_m2 <= 0.0
        if self._was_dark and not is_dark:
            self._drained_at_sunrise = self._drained
        self._was_dark = is_dark
        self._watch(dt_s, drives)

    def _inputs(self, drives: Mapping[str, Array]) -> multispan.Inputs:
        at = {_INPUTS.get(name, name): drives[name] for name in _ACTS}
        at["mixing_valve"] = np.maximum(at["mixing_valve"], self._faults["mixing_valve_leak"])
        return multispan.Inputs(**at)

    def _irrigate(self, dt_s: float, drives: Mapping[str, Array], taken: Array) -> None:
        """The fertigation unit mixes by its own probe into what flows; the tank fills itself by its float valve."""
        asked_l = drives["irrigation_valve"] * self.substrate.flow_kg_m2_s * FLOOR_M2 * dt_s
        valve = drives["irrigation_valve"] * np.minimum(1.0, self._tank_l / np.maximum(asked_l, 1e-9))
        if np.count_nonzero(valve > 0.0):
            strong, dosing = self.substrate.fed_ms_cm / self._probe, drives["dosing"]
            mixed = -math.expm1(-dt_s / MIXING_TAU_S) * (valve > 0.0)
            self._drip_ec = self._drip_ec + mixed * (WATER_MS_CM + dosing * (strong - WATER_MS_CM) - self._drip_ec)
            self._drip_ph = self._drip_ph + mixed * (WATER_PH + dosing * (FED_PH - WATER_PH) - self._drip_ph)
        served = self._served
        before = self.bed
        self.bed = substrate.advance(
            before, dt_s, valve=valve / served, drip_ms_cm=self._drip_ec, taken_kg_m2_s=taken, substrate=self.substrate
        )
        dripped = served * (self.bed.dripped_kg_m2 - before.dripped_kg_m2)
        self._dripped = self._dripped + dripped
        self._drained = self._drained + served * (self.bed.drained_kg_m2 - before.drained_kg_m2)
        self._flow = (drives["irrigation_valve"] >= 0.5) * valve * (self.substrate.flow_kg_m2_s * FLOOR_M2 * 60.0)
        level = np.maximum(0.0, self._tank_l - dripped * FLOOR_M2)
        self._is_filling = (level < 0.4 * TANK_L) | (self._is_filling & (level < 0.95 * TANK_L))
        self._tank_l = level + self._is_filling * (dt_s * TANK_FILL_L_S)

    def _watch(self, dt_s: float, drives: Mapping[str, Array]) -> None:
        """Contacts of the panel: over-temperature cut-out of the pipes, and what forbids CO2."""
        pipe, _ = self._pipe_c(drives)
        self._is_cut = (pipe > PIPE_CUT_C) | (self._is_cut & (pipe > PIPE_RESET_C))
        vents = np.maximum(drives["vent_lee"], drives["vent_wind"])
        forbidden = (vents > CO2_VENT_MAX) | (drives["circulation_fan"] < 0.5) | (self._faults["person_inside"] > 0.0)
        forbidden |= multispan.co2_ppm(self.state) > CO2_PPM_MAX
        self._co2_wait_s = np.maximum(forbidden * CO2_WAIT_S, self._co2_wait_s - dt_s)

    def _pipe_c(self, drives: Mapping[str, Array]) -> tuple[Array, Array]:
        """Supply and return."""
        heat = multispan.pipe_heat_w_m2(self.state.pipe_c, self.state.air_c, self._parameters)
        half_k = (drives["circulation_pump"] > 0.5) * heat / (2.0 * FLOW_W_M2_K)
        return self.state.pipe_c + half_k, self.state.pipe_c - half_k

    def truth(self, drives: Mapping[str, Array]) -> dict[str, Array]:
        """What the instruments stand in."""
        now, air, (supply, back) = self._now, self.state.air_c, self._pipe_c(drives)
        light = now.rad_w_m2 * self._parameters.transmission * np.ones_like(air)
        lamps = drives["grow_light"] * self._parameters.lamp_w_m2
        box_c = air + self._faults["box_fan_off"] * now.rad_w_m2 / 800.0
        behind_screen = self._parameters.screen_saving * drives["thermal_screen"]
        return {
            "air_temp_c": box_c,
            "air_temp_2_c": air,
            "air_rh_pct": 100.0 * multispan.vapour_pressure_pa(self.state) / psychrometrics.saturation_pa(box_c),
            "co2_ppm": multispan.co2_ppm(self.state),
            "leaf_temp_c": air + light / 250.0 - 1.0,
            "screen_temp_top_c": air - behind_screen * (air - now.temp_c),
            "par_umol_m2_s": light * UMOL_PER_J + lamps * LAMP_UMOL_PER_J,
            "pipe_supply_c": supply,
            "pipe_return_c": back,
            "water_temp_c": self.state.mass_c,
            "drip_flow_l_min": self._flow,
            "drip_ec_ms_cm": self._drip_ec * self._probe,
            "drip_ph": self._drip_ph,
            "drain_ec_ms_cm": substrate.conductivity_ms_cm(self.bed),
            "drain_ph": np.full_like(air, FED_PH + 0.2),
            "slab_weight_kg": self.substrate.dry_kg_m2 + self.bed.water_kg_m2,
            "tank_level_pct": 100.0 * self._tank_l / TANK_L,
        }

    def panel(self, drives: Mapping[str, Array]) -> dict[str, Array]:  # noqa: ARG002 - the meters have counted already
        """Meters and contacts."""
        return {
            "heat_kwh": self.state.heat_j_m2 * FLOOR_M2 / 3.6e6,
            "elec_kwh": self._elec_j_m2 * FLOOR_M2 / 3.6e6,
            "co2_kg": self._co2_kg_m2 * FLOOR_M2,
            "drip_volume_l": self._dripped * FLOOR_M2,
            "drain_volume_l": self._drained * FLOOR_M2,
            "drain_today_l": (self._drained - self._drained_at_sunrise) * FLOOR_M2,
            "box_fan_bool": np.where(self._faults["box_fan_off"] > 0.0, 0.0, 1.0),
            "person_present_bool": np.where(self._faults["person_inside"] > 0.0, 1.0, 0.0),
        }

    def local(self) -> dict[str, Array]:
        """Thermostats: against frost the pump runs and the mixing valve opens to 30 %; in heat fans run and the screen opens."""
        cold, hot = self.state.air_c < FROST_C, self.state.air_c > HOT_C
        return {
            "circulation_pump": order_where(cold, 1.0),
            "mixing_valve": order_where(cold, 30.0),
            "exhaust_fan": order_where(hot, 100.0),
            "thermal_screen": order_where(hot, 0.0),
        }

    def interlock(self) -> dict[str, Array]:
        """Hard-wired: no heat over 90 C in the pipe, until a reset under 60 C; no CO2 at open vents, without fans, with people."""
        return {
            "mixing_valve": order_where(self._is_cut, 0.0),
            "boiler": order_where(self._is_cut, 0.0),
            "co2_valve": order_where(self._co2_wait_s > 0.0, 0.0),
        }


def _outside(now: WeatherSample) -> multispan.Outside:
    return multispan.Outside(now.temp_c, now.rh_pct, now.rad_w_m2, now.wind_m_s, now.sky_temp_c)


def make(n: int, weather: Weather, start_s: float, random: list[np.random.Generator]) -> Compartments:
    """n compartments near the climate of a morning, each a little different in crop and warmth."""
    draws = np.array([generator.random(2) for generator in random[:n]]).reshape(n, 2)
    air_c = max(20.0, weather.at(start_s).temp_c + 2.0) + 3.0 * draws[:, 0]
    parameters = multispan.Parameters(leaf_area_index=0.6 + 0.8 * draws[:, 1])
    state = multispan.initial_state(air_c, 72.0, air_c - 1.0, co2_ppm=600.0)
    return Compartments(weather, start_s, state=state, parameters=parameters)
