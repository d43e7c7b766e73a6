"""Germination rooms behind the points of profile `germination_room`: model GR in a hall that follows the weather.

A room holds one batch, sown when it begins. The hall keeps half of the weather away. The panel computes the hours past the exit
criterion from thermal time, as the room's own controller does, and cuts the heater where no air flows.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators import germination
from simulators.germination import Inputs, Outside, Parameters, State
from simulators.houses import Fault, order_where
from simulators.multispan import AIR_J_M3_K, co2_ppm, relative_humidity_pct
from simulators.weather import Weather, WeatherSample
from telemetry import psychrometrics
from telemetry.crops import CROP_NUMBER, CROPS, thermal_time_rate_c
from telemetry.errors import CallerError

Array = NDArray[Any]

HALL_C, HALL_FOLLOWS = 12.5, 0.5  # hall at 0 C outside, and how much of the weather reaches it
HALL_CO2_PPM: Final = 450.0
TRAY_L: Final = 4.0  # of substrate in a tray
LAMP_UMOL_PER_J: Final = 2.7
FAN_RPM: Final = 1400.0
AIRFLOW_RPM: Final = 100.0  # of the switch in the heater's circuit
FAN_A, HEATER_A = 1.2, 4.5  # at full load
WATER_KPA, PUMP_KPA = 300.0, 20.0  # at rest, and what falls while fog runs
READY: Final = 1.04  # thermal time at exit by that of half: 60 % of what emerges
OVERDUE_H: Final = 2000.0  # what the panel can show


class _Sound(NamedTuple):
    """What faults leave of a room; each (n,)."""

    belt: Array  # speed of the fan, of that of its motor
    water: Array  # bool, for the humidifier
    door: Array  # opening, 0..1
    crop: Array  # (n, 1), number in CROPS


class Rooms:
    """n germination rooms (see simulators.houses.Houses)."""

    PROFILE: str = "germination_room"
    STEP_S: float = 10.0  # the climate goes on in steps of its own within it
    SENSORS: Mapping[str, str] = {
        "air_temp_c": "air_temp_c",
        "air_temp_top_c": "air_temp_c",
        "air_temp_bottom_c": "air_temp_c",
        "air_rh_pct": "air_rh_pct",
        "air_rh_2_pct": "air_rh_pct",
        "tray_temp_c": "substrate_temp_c",
        "wall_temp_c": "soil_temp_c",
        "supply_air_temp_c": "air_temp_c",
        "co2_ppm": "co2_ppm",
        "substrate_vwc_pct": "vwc_pct",
        "light_umol_m2_s": "par_umol_m2_s",
        "heater_current_a": "current_a",
        "fan_current_a": "current_a",
        "o2_pct": "exact",
        "humidifier_water_kpa": "exact",
        "fan_rpm": "exact",
    }
    FAULTS: Mapping[str, Fault] = {
        "fog_leak": Fault("a fog nozzle leaks, whatever is commanded", "share of full fog", 0.5),
        "heater_welded": Fault("the heater's contactor is welded", "share of full heat", 1.0),
        "door_left_open": Fault("the door stands open", "share of its opening", 1.0),
        "belt_slip": Fault("the fan's belt slips; 1: it is torn", "share of speed lost", 0.8),
        "wrong_crop": Fault("another crop stands in the room than the recipe is for", "line of the crop table, tomato 1", 6.0),
        "water_lost": Fault("the humidifier has no water"),
        "drain_blocked": Fault("the drain is full"),
        "visit": Fault("somebody is inside with the door ajar", "share of its opening", 0.3),
    }

    def __init__(
        self, weather: Weather, start_s: float, *, state: State, trays: Array, vwc_pct: Array, parameters: Parameters
    ) -> None:
        self.state, self.parameters = state, parameters
        self._weather, self._unix_s = weather, start_s
        self._trays, self._vwc_pct = trays, vwc_pct
        self._sown = np.full(len(trays), CROP_NUMBER["tomato"])  # what the recipe is for
        self._ready_c_d = READY * np.array([crop.theta50_c_d for crop in CROPS])[self._sown]
        self._ready_s = np.full(len(trays), np.nan)
        self._emerged_pct = 100.0 * state.emerged[:, 0]
        self._faults = {name: np.zeros(len(trays)) for name in self.FAULTS}
        self._sound = self._left()
        self._acting: tuple[Mapping[str, Array], Inputs] | None = None
        self._hall_of: tuple[WeatherSample, Outside] | None = None

    def advance(self, unix_s: float, dt_s: float, drives: Mapping[str, Array]) -> None:
        """Climate and seeds `dt_s` later."""
        self._acting = None
        inputs = self._inputs(drives)
        self.state = germination.advance(self.state, dt_s, inputs=inputs, outside=self._hall(unix_s), parameters=self.parameters)
        if unix_s // 3600 > self._unix_s // 3600:  # the camera looks once an hour
            self._emerged_pct = 100.0 * self.state.emerged[:, 0]
        self._unix_s = unix_s
        is_ready = np.isnan(self._ready_s) & (self._missing_c_d() <= 0.0)
        if np.count_nonzero(is_ready):
            self._ready_s = np.where(is_ready, unix_s, self._ready_s)

    def truth(self, drives: Mapping[str, Array]) -> dict[str, Array]:
        """What the instruments stand in."""
        state, inputs, p = self.state, self._inputs(drives), self.parameters
        half_k = germination.gradient_k(state, inputs, p) / 2.0
        rh_pct, co2 = relative_humidity_pct(state), co2_ppm(state)
        heat = np.asarray(inputs.heater_1, float) * (state.cut_out <= 0.0)
        fan = np.asarray(inputs.circulation_fan, float)
        blown_j_s_k = AIR_J_M3_K * p.fan_m3_s * germination.mixing(fan, p)
        lamp_umol_s = np.asarray(inputs.lamp, float) * p.lamp_w * LAMP_UMOL_PER_J
        cooling_w, _ = germination.coil(state.air_c, state.vapour_kg_m3, np.asarray(inputs.cooler, float), p)
        litres = np.maximum(self._trays, 1.0) * TRAY_L
        return {
            "air_temp_c": state.air_c,
            "air_temp_top_c": state.air_c + half_k,
            "air_temp_bottom_c": state.air_c - half_k,
            "air_rh_pct": rh_pct,
            "air_rh_2_pct": rh_pct,
            "tray_temp_c": state.tray_c,
            "wall_temp_c": germination.wall_c(state.air_c, self._hall(self._unix_s).temp_c, p),
            "supply_air_temp_c": _between(state.air_c + (3.0 * p.heater_stage_w * heat - cooling_w) / blown_j_s_k, -10.0, 80.0),
            "co2_ppm": co2,
            "substrate_vwc_pct": _between(self._vwc_pct + 100.0 * state.tray_water_kg / litres, 0.0, 100.0),
            "light_umol_m2_s": lamp_umol_s / np.maximum(self._trays * p.tray_m2, p.tray_m2),
            "heater_current_a": HEATER_A * heat,
            "fan_current_a": FAN_A * drives["circulation_fan"] ** 2 * (1.0 - 0.4 * self._faults["belt_slip"]),
            "o2_pct": 20.95 - co2 / 1e4,
            "humidifier_water_kpa": (WATER_KPA - PUMP_KPA * drives["humidifier"]) * (self._faults["water_lost"] == 0.0),
            "fan_rpm": FAN_RPM * fan,
        }

    def panel(self, drives: Mapping[str, Array]) -> dict[str, Array]:
        """Contacts, and what the panel computes of the batch."""
        rate = thermal_time_rate_c(self.state.tray_c, self._sown)
        ahead_h = self._missing_c_d() / np.maximum(rate, 1e-3) * 24.0
        overdue_h = np.where(np.isnan(self._ready_s), -ahead_h, (self._unix_s - self._ready_s) / 3600.0)
        return {
            "door_open_bool": (self._sound.door > 0.05).astype(float),
            "person_present_bool": (self._faults["visit"] > 0.0).astype(float),
            "drain_level_bool": (self._faults["drain_blocked"] > 0.0).astype(float),
            "fan_command_pct": 100.0 * drives["circulation_fan"],
            "overdue_h": _between(overdue_h, -OVERDUE_H, OVERDUE_H),
            "emerged_pct": self._emerged_pct,
        }

    def local(self) -> dict[str, Array]:
        """The panel has no thermostat beside its cut-outs: heat stays off, the fan goes on."""
        return {}

    def interlock(self) -> dict[str, Array]:
        """No heat above the cut-out's temperature until somebody resets it."""
        return {"heater": order_where(self.state.cut_out > 0.0, 0.0)}

    def fail(self, house: int, fault: str, strength: float) -> None:
        """Begin or end a fault."""
        if fault not in self.FAULTS:
            raise CallerError(f"a germination room has no fault {fault!r}; it has {', '.join(self.FAULTS)}")
        self._faults[fault][house] = strength
        self._sound, self._acting = self._left(), None

    def _left(self) -> _Sound:
        faults = self._faults
        other = np.clip(faults["wrong_crop"].astype(int) - 1, 0, len(CROPS) - 1)
        return _Sound(
            1.0 - np.clip(faults["belt_slip"], 0.0, 1.0),
            faults["water_lost"] <= 0.0,
            np.clip(np.maximum(faults["door_left_open"], faults["visit"]), 0.0, 1.0),
            np.where(faults["wrong_crop"] > 0.0, other, self._sown)[:, None],
        )

    def _inputs(self, drives: Mapping[str, Array]) -> Inputs:
        """What acts on the rooms. Once a step: what is measured is asked right after it."""
        if self._acting is None or self._acting[0] is not drives:
            faults, sound = self._faults, self._sound
            fan = drives["circulation_fan"] * sound.belt
            heat = np.maximum(drives["heater"] * (fan * FAN_RPM >= AIRFLOW_RPM), faults["heater_welded"])
            fog = np.maximum(drives["humidifier"], faults["fog_leak"]) * sound.water
            inputs = Inputs(
                heat, heat, heat, drives["cooler"], fog, fan, drives["fresh_air_damper"], sound.door, drives["led_light"],
                crop=sound.crop, trays=self._trays[:, None],
            )  # fmt: skip
            self._acting = drives, inputs
        return self._acting[1]

    def _hall(self, unix_s: float) -> Outside:
        now = self._weather.at(unix_s)
        if self._hall_of is None or self._hall_of[0] is not now:
            hall_c = HALL_C + HALL_FOLLOWS * now.temp_c
            vapour = float(psychrometrics.saturation_pa(now.temp_c) / psychrometrics.saturation_pa(hall_c))
            self._hall_of = now, Outside(hall_c, min(now.rh_pct * vapour, 95.0), HALL_CO2_PPM)
        return self._hall_of[1]

    def _missing_c_d(self) -> Array:
        return np.asarray(self._ready_c_d - self.state.thermal_time_c_d[:, 0])


def _between(values: Array, low: float, high: float) -> Array:
    return np.asarray(np.minimum(np.maximum(values, low), high))


def make(n: int, weather: Weather, start_s: float, random: list[np.random.Generator]) -> Rooms:
    """n rooms with tomato just sown, each a little different in warmth, moisture and number of trays."""
    drawn = np.array([random[house].uniform(size=4) for house in range(n)]).reshape(n, 4)
    state = germination.initial_state(22.0 + 4.0 * drawn[:, 0], 75.0 + 15.0 * drawn[:, 1])
    trays = np.round(120.0 + 30.0 * drawn[:, 2])
    return Rooms(weather, start_s, state=state, trays=trays, vwc_pct=65.0 + 12.0 * drawn[:, 3], parameters=Parameters())
