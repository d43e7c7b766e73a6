"""Solar greenhouses behind the points of profile `solar_greenhouse`: model SG1, its soil's water, and the panel of the blanket's roller.

The roller runs only with a permit: when that comes the panel sounds its siren for 10 s, then lets the drive move until the permit goes. A
stalled motor trips and stays out until it is repaired.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators import solar_greenhouse
from simulators.houses import Fault, order_where
from simulators.multispan import Outside, co2_ppm, relative_humidity_pct
from simulators.solar_greenhouse import Inputs, Parameters, State
from simulators.weather import Weather, WeatherSample
from telemetry.errors import CallerError

Array = NDArray[Any]

SIREN_S: Final = 10.0
RATED_A, UP, DOWN, STALL = 10.0, 0.8, 0.6, 5.8  # current of the roller, and what it is of that
TRIP_S: Final = 10.0
ROOT_MM: Final = 300.0  # depth of soil that the probe and the roots share
FIELD_CAPACITY_PCT, DRAIN_PER_S = 34.0, 1.0 / 7200.0
DRIP_MM_S: Final = 4.0 / 3600.0
WATER_MS_CM: Final = 0.6
SUN_W_M2: Final = 400.0  # in which a sensor that is not screened shows its full error
FROST_C: Final = 5.0
STILL: Final = 1e-9


class Soil(NamedTuple):
    """Water and salts of the root zone; each (n,)."""

    water_mm: Array
    salts: Array  # mS/cm mm


class Roller(NamedTuple):
    """The blanket's motor and panel; each (n,)."""

    drive: Array  # where the drive is, 0..1
    permit_s: Array  # since the permit came
    moves: Array  # -1 down, 0, 1 up
    jammed: Array  # bool
    stall_s: Array  # since it jammed
    tripped: Array  # bool


class SolarGreenhouses:
    """n solar greenhouses (see simulators.houses.Houses)."""

    PROFILE: str = "solar_greenhouse"
    STEP_S: float = solar_greenhouse.STEP_S_MAX
    SENSORS: Mapping[str, str] = {
        "air_temp_c": "air_temp_c",
        "air_temp_east_c": "air_temp_c",
        "air_temp_west_c": "air_temp_c",
        "air_rh_pct": "air_rh_pct",
        "co2_ppm": "co2_ppm",
        "rad_in_w_m2": "rad_w_m2",
        "soil_temp_c": "soil_temp_c",
        "wall_temp_c": "soil_temp_c",
        "soil_vwc_pct": "vwc_pct",
        "soil_ec_ms_cm": "ec_ms_cm",
        "blanket_current_a": "current_a",
        "blanket_skew_pct": "exact",
    }
    FAULTS: Mapping[str, Fault] = {
        "blanket_stuck": Fault("the blanket jams where it next passes", "part of the way up", 0.5),
        "limit_failed": Fault("the limit switch fails: the motor runs on at its end"),
        "slack_rope": Fault("a rope of the blanket is slack"),
        "blanket_skew": Fault("the blanket runs askew", "% of the way, east before west", 15.0),
        "film_torn": Fault("the film is torn", "1: 5 air changes an hour at 3 m/s", 1.0),
        "snow_on_film": Fault("snow lies on the film", "part of the light it keeps out", 0.6),
        "vent_slip": Fault("the top vent's film slips on its roll", "part of the opening that is missing", 1.0),
        "sensor_in_sun": Fault("the eastern thermometer stands in the sun", "K at 400 W/m2 inside", 5.0),
        "mains_lost": Fault("the mains are lost; the panel lives on its battery"),
        "person_at_blanket": Fault("somebody is at the blanket"),
        "person_inside": Fault("somebody is inside"),
    }

    def __init__(self, weather: Weather, start_s: float, *, state: State, water_pct: Array, parameters: Parameters) -> None:
        n = len(water_pct)
        self.state, self.parameters = state, parameters
        self.soil = Soil(water_pct / 100.0 * ROOT_MM, water_pct / 100.0 * ROOT_MM * 1.5)
        self._weather, self._now = weather, weather.at(start_s)
        zero, no = np.zeros(n), np.zeros(n, np.bool_)
        self.roller = Roller(zero, zero, zero, no, zero, no)
        self._vents = {"vent_top": zero, "vent_bottom": zero}
        self._faults = {name: np.zeros(n) for name in self.FAULTS}
        self._acting: tuple[Mapping[str, Array], Inputs, Array] | None = None

    def advance(self, unix_s: float, dt_s: float, drives: Mapping[str, Array]) -> None:
        """Climate, soil and roller `dt_s` later."""
        self._now = self._weather.at(unix_s)
        self.roller = self._rolled(dt_s, drives)
        self._vents = {name: drives[name] for name in self._vents}
        outside = Outside(self._now.temp_c, self._now.rh_pct, self._now.rad_w_m2, self._now.wind_m_s)
        self._acting = None
        inputs, _ = self._acts(drives)
        before = self.state
        self.state = solar_greenhouse.advance(before, dt_s, inputs=inputs, outside=outside, parameters=self.parameters)
        valve = drives["irrigation_valve"] * (self._faults["mains_lost"] == 0.0)
        self.soil = self._watered(dt_s, valve, (self.state.given_kg_m2 - before.given_kg_m2) / dt_s)

    def truth(self, drives: Mapping[str, Array]) -> dict[str, Array]:
        """What the instruments stand in."""
        state, roller, p = self.state, self.roller, self.parameters
        inside_w_m2 = self._acts(drives)[1] / p.tilt_gain
        current_a = RATED_A * (UP * (roller.moves > 0.0) + DOWN * (roller.moves < 0.0))
        if np.count_nonzero(roller.jammed) or np.count_nonzero(self._faults["limit_failed"]):
            stalls = roller.jammed & ~roller.tripped
            current_a = np.where(stalls, RATED_A * STALL, np.where(self._runs_on(), RATED_A * UP, current_a))
        return {
            "air_temp_c": state.air_c,
            "air_temp_east_c": state.air_c + self._faults["sensor_in_sun"] * inside_w_m2 / SUN_W_M2,
            "air_temp_west_c": state.air_c,
            "air_rh_pct": relative_humidity_pct(state),
            "co2_ppm": co2_ppm(state),
            "rad_in_w_m2": inside_w_m2,
            "soil_temp_c": (state.topsoil_c + state.deep_soil_c) / 2.0,
            "wall_temp_c": state.wall_c,
            "soil_vwc_pct": 100.0 * self.soil.water_mm / ROOT_MM,
            "soil_ec_ms_cm": self.soil.salts / np.maximum(self.soil.water_mm, 1.0),
            "blanket_current_a": current_a,
            "blanket_skew_pct": self._faults["blanket_skew"],
        }

    def panel(self, drives: Mapping[str, Array]) -> dict[str, Array]:  # noqa: ARG002 - the protocol's
        """Contacts of the panel."""
        roller, faults = self.roller, self._faults
        moving = (roller.moves != 0.0) | (roller.jammed & ~roller.tripped) | self._runs_on()
        siren = (roller.permit_s > 0.0) & (roller.permit_s <= SIREN_S)
        return {
            "blanket_moving_bool": moving.astype(float),
            "blanket_siren_bool": siren.astype(float),
            "slack_rope_bool": (faults["slack_rope"] > 0.0).astype(float),
            "snow_bool": np.maximum(float(_snows(self._now)), (faults["snow_on_film"] > 0.0).astype(float)),
            "mains_bool": (faults["mains_lost"] == 0.0).astype(float),
            "person_present_bool": (faults["person_at_blanket"] > 0.0).astype(float),
            "person_inside_bool": (faults["person_inside"] > 0.0).astype(float),
        }

    def local(self) -> dict[str, Array]:
        """The frost thermostat of the emergency heater."""
        return {"heater": order_where(self.state.air_c < FROST_C, 1.0)}

    def interlock(self) -> dict[str, Array]:
        """The roller stands without permit, siren, or a sound motor; without mains nothing moves."""
        dark, roller = self._faults["mains_lost"] > 0.0, self.roller
        stands = dark | (roller.permit_s <= SIREN_S) | roller.jammed | roller.tripped
        orders = {"blanket": order_where(stands, 100.0 * roller.drive)}
        orders |= {name: order_where(dark, 100.0 * position) for name, position in self._vents.items()}
        return orders | dict.fromkeys(("heater", "circulation_fan", "irrigation_valve", "co2_valve"), order_where(dark, 0.0))

    def fail(self, house: int, fault: str, strength: float) -> None:
        """Begin or end a fault; with its end the blanket is repaired."""
        if fault not in self.FAULTS:
            raise CallerError(f"a solar greenhouse has no fault {fault!r}; it has {', '.join(self.FAULTS)}")
        self._faults[fault][house] = strength
        self._acting = None
        if fault == "blanket_stuck" and strength == 0.0:
            jammed, tripped = self.roller.jammed.copy(), self.roller.tripped.copy()
            jammed[house] = tripped[house] = False
            self.roller = self.roller._replace(jammed=jammed, tripped=tripped)

    def _rolled(self, dt_s: float, drives: Mapping[str, Array]) -> Roller:
        """The roller after a step in which its drive came to where it is now."""
        old, drive, place = self.roller, drives["blanket"], self._faults["blanket_stuck"]
        way = drive - old.drive
        moving = np.abs(way) > STILL
        jammed = old.jammed | ((place > 0.0) & ((old.drive - place) * (drive - place) <= 0.0) & moving)
        stall_s = jammed * (old.stall_s + dt_s)
        permit_s = (drives["blanket_permit"] > 0.5) * (old.permit_s + dt_s)
        return Roller(drive, permit_s, np.sign(way) * (moving & ~jammed), jammed, stall_s, old.tripped | (stall_s > TRIP_S))

    def _runs_on(self) -> Array:
        """A motor that nothing stops at its end, while it has its permit."""
        at_end = (self.roller.drive <= STILL) | (self.roller.drive >= 1.0 - STILL)
        return np.asarray((self._faults["limit_failed"] > 0.0) & at_end & (self.roller.permit_s > SIREN_S))

    def _acts(self, drives: Mapping[str, Array]) -> tuple[Inputs, Array]:
        """What acts on the houses, and the light that comes in. Once a step: what is measured is asked right after it."""
        if self._acting is None or self._acting[0] is not drives:
            faults, roller = self._faults, self.roller
            inputs = Inputs(
                np.where(roller.jammed, faults["blanket_stuck"], drives["blanket"]),
                drives["vent_top"] * (1.0 - np.minimum(faults["vent_slip"], 1.0)),
                drives["vent_bottom"],
                drives["shade_net"],
                heater=drives["heater"],
                co2_valve=drives["co2_valve"],
                snow=faults["snow_on_film"],
                torn=faults["film_torn"],
            )
            self._acting = drives, inputs, solar_greenhouse.solar_gain_w_m2(inputs, self._now.rad_w_m2, self.parameters)
        return self._acting[1:]

    def _watered(self, dt_s: float, valve: Array, given: Array) -> Soil:
        """The root zone after a step: drip in, what crop and surface give to the air out, the rest drains above field capacity."""
        water = self.soil.water_mm
        drained = np.maximum(0.0, water - FIELD_CAPACITY_PCT / 100.0 * ROOT_MM) * DRAIN_PER_S
        strength = self.soil.salts / np.maximum(water, 1.0)
        salts = self.soil.salts + dt_s * (valve * DRIP_MM_S * WATER_MS_CM - drained * strength)
        return Soil(np.maximum(1.0, water + dt_s * (valve * DRIP_MM_S - given - drained)), np.maximum(0.0, salts))


def _snows(now: WeatherSample) -> bool:
    return now.rain and now.temp_c < 0.5


def make(n: int, weather: Weather, start_s: float, random: list[np.random.Generator]) -> SolarGreenhouses:
    """n houses as warm as the season leaves them, each a little different in warmth, moisture and crop."""
    drawn = np.array([random[house].uniform(size=3) for house in range(n)]).reshape(n, 3)
    outside_c = weather.at(start_s).temp_c
    air_c = max(12.0, outside_c + 2.0) + 2.0 * drawn[:, 0]
    deep_c = 15.0 + 0.4 * max(0.0, outside_c - 5.0)
    state = solar_greenhouse.initial_state(
        air_c, 85.0, wall_c=air_c + 1.0, topsoil_c=air_c + 2.0, deep_soil_c=deep_c, co2_ppm=700.0
    )
    leaf_area: Any = 0.6 + 0.8 * drawn[:, 1]
    parameters = Parameters(leaf_area_index=leaf_area)
    return SolarGreenhouses(weather, start_s, state=state, water_pct=24.0 + 6.0 * drawn[:, 2], parameters=parameters)
