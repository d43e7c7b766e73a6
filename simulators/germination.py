"""Germination room, model GR: air, trays, vapour, CO2 and the emergence of batches in any number of rooms at once.

An insulated room full of wet trays with heater, cooler, fog, fan, fresh-air damper and door; it stands in a hall. Fluxes are per room.
State, inputs and the hall's climate are arrays of shape (n,) or scalars, of batches (n, b); nothing here reads a clock or draws a
random number.

References
----------
.. [1] Handbook of this project, model GR: lumped air and trays; its figures are defaults of practice, not measurements.
.. [2] Days to emergence and normal seedlings of vegetables by soil temperature, tables after Harrington; base temperature and thermal
   time are least-squares fits of 1/days to the sub-optimal points.
.. [3] Bradford: Water relations in seed germination (1995): thermal time, normally distributed over a seed lot.
.. [4] Abramowitz, Stegun: Handbook of Mathematical Functions (1964), equation 7.1.26.
.. [5] Incropera, DeWitt: Fundamentals of Heat and Mass Transfer, analogy of heat and mass transfer: k = alpha / (rho cp).
"""

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from simulators.multispan import (
    AIR_J_M3_K,
    KG_M3_PER_PPM,
    VAPORISATION_J_KG,
    each_alone,
    held,
    held_together,
    limits,
    real,
    vapour_density_kg_m3,
)
from telemetry import psychrometrics
from telemetry.crops import CROPS, thermal_time_rate_c

# The air follows its trays within 2 min, fog and cooler within one.
STEP_S_MAX: Final = 5.0
DAY_S: Final = 86_400.0
# Final shares of normal seedlings are given from 15 C by 5 K.
_FINAL_FROM_C: Final = 15.0
_FINAL_BY_K: Final = 5.0


_THETA50_C_D: Final = np.array([crop.theta50_c_d for crop in CROPS])
_FINAL_SHARE: Final = np.array([crop.final_share for crop in CROPS])


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """A room of 6 x 4 x 2.5 m for 150 trays. Units in the names; defaults as in the handbook."""

    volume_m3: float = 60.0
    envelope_m2: float = 98.0
    envelope_w_m2_k: float = 0.30
    wall_inside_w_m2_k: float = 8.0
    wall_transfer_m_s: float = 0.003  # vapour to a cold wall [5]
    closed_air_changes_h: float = 0.2
    door_air_changes_h: float = 20.0  # open
    damper_air_changes_h: float = 10.0  # fully open
    panels_j_k: float = 200_000.0
    panels_w_k: float = 50.0  # as far as they follow the air with the trays
    tray_kg: float = 4.0  # wet
    tray_w_k: float = 3.0  # per tray, at full fan
    tray_m2: float = 0.15
    tray_transfer_m_s: float = 0.003  # vapour from wet substrate, at full fan
    still_share: float = 0.2  # of transfer and air movement that is left without a fan
    fan_m3_s: float = 0.6
    fan_w: float = 150.0  # at full speed; with its cube below
    heater_stage_w: float = 1000.0  # each of three
    cut_out_c: float = 45.0
    coil_w_k: float = 80.0  # cooler at full duty
    coil_c: float = 8.0
    fog_kg_s: float = 1.0e-3
    lamp_w: float = 800.0  # electric; all of it ends as heat in the air
    respiration_kg_s: float = 6.5e-8  # CO2 of a tray whose seeds have all emerged, at 25 C
    respiration_q10: float = 2.0
    resting_share: float = 0.2  # of it, of seeds before they emerge
    emergence_cv: float = 0.15  # spread of thermal time within a seed lot


class State(NamedTuple):
    """What a room remembers; each (n,), of batches (n, b). Those called counters count since the start."""

    air_c: Any
    vapour_kg_m3: Any
    co2_kg_m3: Any
    tray_c: Any
    thermal_time_c_d: Any  # (n, b)
    emerged: Any  # (n, b), of all seeds
    cut_out: Any  # 1 = the over-temperature cut-out has tripped
    tray_water_kg: Any  # what trays and floor gained from the air, negative when they dry, a counter
    condensed_kg: Any  # on coil and wall, a counter
    fog_kg: Any  # a counter
    heat_j: Any  # of the heater, a counter


class Inputs(NamedTuple):
    """True positions 0..1 of what acts on a room, and the batches that stand in it."""

    heater_1: Any = 0.0
    heater_2: Any = 0.0
    heater_3: Any = 0.0
    cooler: Any = 0.0
    fog: Any = 0.0
    circulation_fan: Any = 1.0
    fresh_air_damper: Any = 0.0
    door: Any = 0.0
    lamp: Any = 0.0
    reset: Any = 0.0  # somebody presses the cut-out's button; in vain while it is too warm
    crop: Any = 0.0  # (n, b), number in CROPS
    trays: Any = 150.0  # (n, b), of each batch; 0 where there is none


class Outside(NamedTuple):
    """Climate of the hall."""

    temp_c: Any
    rh_pct: Any
    co2_ppm: Any = 420.0


# What is no position 0..1; beyond these it is held, but a crop that is none is refused.
_INPUT_LIMITS: Final = limits(Inputs, {"crop": (0.0, len(CROPS) - 1.0), "trays": (0.0, 10_000.0)})
_OUTSIDE_LIMITS: Final = limits(Outside, {"temp_c": (-60.0, 60.0), "rh_pct": (0.0, 100.0), "co2_ppm": (0.0, 50_000.0)})


def initial_state(
    air_c: ArrayLike, rh_pct: ArrayLike, *, tray_c: ArrayLike | None = None, co2_ppm: ArrayLike = 420.0, batches: int = 1
) -> State:
    """A state with seeds just sown and all counters at 0.

    Parameters
    ----------
    air_c : air temperature [C]
    rh_pct : relative humidity [%]
    tray_c : temperature of the trays [C]; as warm as the air where not given
    co2_ppm : [ppm]
    batches : places for batches in each room
    """
    values = (air_c, rh_pct, air_c if tray_c is None else tray_c, co2_ppm)
    air, humidity, tray, co2 = (v.copy() for v in np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, float)) for v in values)))
    zero, sown = np.zeros_like(air), np.zeros((air.size, batches))
    return State(air, vapour_density_kg_m3(air, humidity), co2 * KG_M3_PER_PPM, tray, sown, sown, zero, zero, zero, zero, zero)


def air_flow_m3_s(inputs: Inputs, parameters: Parameters) -> Any:
    """Hall air through cracks, damper and door, n V / 3600 with n = 0.2 shut, 20 with the door open [1].

    Returns
    -------
    [m3/s]. Shut: 0.00333; door open: 0.333.
    """
    p = parameters
    door = real(inputs.door)
    changes = p.closed_air_changes_h * (1.0 - door) + p.door_air_changes_h * door
    changes = changes + p.damper_air_changes_h * real(inputs.fresh_air_damper)
    return changes * p.volume_m3 / 3600.0


def loss_w_k(inputs: Inputs, parameters: Parameters) -> Any:
    """Sensible heat that the room loses per K over the hall, U A + rho cp n V / 3600 [W/K] [1]; shut: 33.4."""
    return parameters.envelope_w_m2_k * parameters.envelope_m2 + AIR_J_M3_K * air_flow_m3_s(inputs, parameters)


def mixing(circulation_fan: ArrayLike, parameters: Parameters) -> Any:
    """Air movement as a part of that at full fan [-]: a fifth is left without it."""
    return parameters.still_share + (1.0 - parameters.still_share) * real(circulation_fan)


def wall_c(air_c: ArrayLike, hall_c: ArrayLike, parameters: Parameters) -> Any:
    """Temperature of the wall's inner face, Ta - U / hi (Ta - To) [C]. 28 C in a hall of 10 C: 27.3."""
    air = real(air_c)
    return air - parameters.envelope_w_m2_k / parameters.wall_inside_w_m2_k * (air - real(hall_c))


def wall_condensation_kg_s(vapour_kg_m3: ArrayLike, surface_c: ArrayLike, parameters: Parameters) -> Any:
    """Vapour that condenses on the wall, k A (x - xs(Tw)) where the air is over the wall's saturation [1], [5].

    Parameters
    ----------
    vapour_kg_m3 : of the air [kg/m3]
    surface_c : temperature of the wall [C]

    Returns
    -------
    [kg/s], not below 0
    """
    above = real(vapour_kg_m3) - vapour_density_kg_m3(surface_c)
    return parameters.wall_transfer_m_s * parameters.envelope_m2 * np.maximum(0.0, above)


def tray_evaporation_kg_s(tray_c: ArrayLike, vapour_kg_m3: ArrayLike, area_m2: ArrayLike, k_m_s: ArrayLike) -> Any:
    """Water from wet trays, k_t A (xs(Tt) - x) [1]; negative when dew falls on trays colder than the dew point.

    Parameters
    ----------
    tray_c : [C]
    vapour_kg_m3 : of the air [kg/m3]
    area_m2 : of all trays [m2]
    k_m_s : mass transfer [m/s]

    Returns
    -------
    [kg/s]. 22.5 m2 at 25 C in air of 95 %, 0.003 m/s: 7.8e-5 (280 g/h).
    """
    drier = vapour_density_kg_m3(tray_c) - real(vapour_kg_m3)
    return real(k_m_s) * real(area_m2) * drier


def coil(air_c: ArrayLike, vapour_kg_m3: ArrayLike, duty: ArrayLike, parameters: Parameters) -> tuple[Any, Any]:
    """Sensible heat [W] and water [kg/s] that the cooler's cold coil takes from the air, UA (Ta - Tc) and UA / (rho cp) (x - xs(Tc)).

    Parameters
    ----------
    air_c : [C]
    vapour_kg_m3 : [kg/m3]
    duty : 0..1

    Returns
    -------
    Neither below 0. 25 C and 95 % over a coil of 8 C: 1360 W and 9.1e-4 kg/s. Mass transfer by [5].
    """
    transfer = parameters.coil_w_k * real(duty)
    sensible = transfer * np.maximum(0.0, real(air_c) - parameters.coil_c)
    above = np.maximum(0.0, real(vapour_kg_m3) - vapour_density_kg_m3(parameters.coil_c))
    return sensible, transfer / AIR_J_M3_K * above


def gradient_k(state: State, inputs: Inputs, parameters: Parameters) -> Any:
    """How much warmer the air is at the top than at the bottom, heater over rho cp times the fan's air [K].

    600 W at full fan: 0.83 K; without a fan five times as much. The state's `air_c` is the mean of both.
    """
    return (
        _heater_w(inputs, parameters)
        * (1.0 - state.cut_out)
        / (AIR_J_M3_K * parameters.fan_m3_s * mixing(inputs.circulation_fan, parameters))
    )


def final_share(temp_c: ArrayLike, crop: ArrayLike) -> Any:
    """Normal seedlings in the end, of all seeds that germinate at a constant temperature, Gmax(T) [2].

    Parameters
    ----------
    temp_c : [C]; between the table's temperatures a straight line
    crop : number in CROPS

    Returns
    -------
    [-]. Tomato at 25 C: 0.97; lettuce at 30 C: 0.12 (thermodormancy).
    """
    number = np.asarray(crop, np.int64)
    place = (real(temp_c) - _FINAL_FROM_C) / _FINAL_BY_K
    place = np.minimum(np.maximum(place, 0.0), _FINAL_SHARE.shape[1] - 1.0)
    left = np.minimum(place.astype(np.int64), _FINAL_SHARE.shape[1] - 2)
    low, high = _FINAL_SHARE[number, left], _FINAL_SHARE[number, left + 1]
    return low + (place - left) * (high - low)


def germinated_share(thermal_time_c_d: ArrayLike, crop: ArrayLike, cv: float = 0.15) -> Any:
    """Part of the seeds that can germinate and have, Phi((TT - theta50) / (cv theta50)) [3].

    Parameters
    ----------
    thermal_time_c_d : [C d]
    crop : number in CROPS
    cv : spread within the lot [-]

    Returns
    -------
    [-]. At theta50: 0.5.
    """
    theta = _THETA50_C_D[np.asarray(crop, np.int64)]
    return _normal((real(thermal_time_c_d) - theta) / (cv * theta))


def days_to_half(temp_c: ArrayLike, crop: ArrayLike) -> Any:
    """Days until half of what emerges has emerged, at a constant temperature [d]; infinite below Tb. Tomato at 25 C: 5.9."""
    rate = thermal_time_rate_c(temp_c, crop)
    theta = _THETA50_C_D[np.asarray(crop, np.int64)]
    return np.where(rate > 0.0, theta / np.where(rate > 0.0, rate, 1.0), np.inf)[()]


def respiration_kg_s(tray_c: ArrayLike, emerged: ArrayLike, trays: ArrayLike, parameters: Parameters) -> Any:
    """CO2 from seeds and seedlings, r Q10^((Tt - 25) / 10) (0.2 + 0.8 E) of each tray [1].

    Parameters
    ----------
    tray_c : (n,) [C]
    emerged, trays : (n, b) share and number

    Returns
    -------
    (n,) [kg/s]. 150 trays that have emerged, at 25 C: 9.75e-6, which makes some 2,000 ppm in a shut room.
    """
    p = parameters
    awake = p.resting_share + (1.0 - p.resting_share) * real(emerged)
    by_temp = p.respiration_q10 ** ((real(tray_c) - 25.0) / 10.0)
    return p.respiration_kg_s * by_temp * _of_room(real(trays) * awake)


def _of_room(of_batches: Any) -> Any:
    # Batches are few: adding them one by one is faster than a reduction.
    return of_batches if isinstance(of_batches, float) else sum(of_batches.T)


def advance(state: State, dt_s: float, *, inputs: Inputs, outside: Outside, parameters: Parameters) -> State:
    """The state `dt_s` later, in Euler steps of at most 5 s with inputs and the hall's climate held.

    Raises
    ------
    ValueError : where a position, a batch or the hall's climate is no number, or a crop none of CROPS. Positions beyond 0..1 count as 0
        or 1.
    """
    assert dt_s >= 0.0
    crop = np.asarray(inputs.crop, float)
    if np.count_nonzero((crop == np.floor(crop)) & (crop >= 0.0) & (crop < len(CROPS))) < crop.size:
        raise ValueError(f"crop is not a number of CROPS: give a whole number of 0 to {len(CROPS) - 1}, as CROP_NUMBER has it")
    steps = math.ceil(dt_s / STEP_S_MAX)

    def live(state: State, inputs: Inputs, outside: Outside, p: Parameters) -> State:
        room = _room(state, inputs, outside, p)
        for _ in range(steps):
            state = _euler(state, dt_s / steps, room, p)
        return state

    if steps and all(np.shape(v)[1:] in ((), (1,)) for v in (state.emerged, crop, inputs.trays)):
        # One batch: its numbers are those of the room.
        of_room = inputs._replace(crop=_of_one(crop), trays=_of_one(inputs.trays))
        one = state._replace(thermal_time_c_d=_of_one(state.thermal_time_c_d), emerged=_of_one(state.emerged))
        alone = each_alone(live, one, (of_room, _INPUT_LIMITS), (outside, _OUTSIDE_LIMITS), parameters=parameters)
        if alone is not None:
            return alone._replace(thermal_time_c_d=alone.thermal_time_c_d[:, None], emerged=alone.emerged[:, None])
    trays = held("trays", inputs.trays, *_INPUT_LIMITS[:, -1])
    inputs = held_together(inputs._replace(crop=0.0, trays=0.0), _INPUT_LIMITS)._replace(crop=crop, trays=trays)
    return live(state, inputs, held_together(outside, _OUTSIDE_LIMITS), parameters)


def _of_one(of_batches: Any) -> Any:
    return of_batches[:, 0] if np.ndim(of_batches) == 2 else of_batches


class _Room(NamedTuple):
    """What does not change while inputs and hall are held; each (n,), `crop` and `trays` (n, b)."""

    hall_c: Any
    hall_kg_m3: Any
    hall_co2_kg_m3: Any
    flow_m3_s: Any
    loss_w_k: Any
    mixing: Any
    heater_w: Any
    other_w: Any  # fan and lamp
    duty: Any
    fog_kg_s: Any
    stays_cut: Any  # nobody resets the cut-out
    crop: Any
    trays: Any
    tray_m2: Any
    tray_w_k: Any
    tray_j_k: Any


def _room(state: State, inputs: Inputs, outside: Outside, p: Parameters) -> _Room:
    crop, trays = 0.0 * state.emerged + inputs.crop, 0.0 * state.emerged + inputs.trays
    number, mixed = _of_room(trays), mixing(inputs.circulation_fan, p)
    return _Room(
        outside.temp_c,
        vapour_density_kg_m3(outside.temp_c, outside.rh_pct),
        outside.co2_ppm * KG_M3_PER_PPM,
        air_flow_m3_s(inputs, p),
        loss_w_k(inputs, p),
        mixed,
        _heater_w(inputs, p),
        p.fan_w * inputs.circulation_fan**3.0 + p.lamp_w * inputs.lamp,
        inputs.cooler * mixed,
        inputs.fog * p.fog_kg_s,
        inputs.reset <= 0.5,
        np.asarray(crop).astype(np.int64),
        trays,
        number * p.tray_m2,
        (p.panels_w_k + number * p.tray_w_k) * mixed,
        p.panels_j_k + number * p.tray_kg * 4186.0,
    )


def _heater_w(inputs: Inputs, p: Parameters) -> Any:
    return p.heater_stage_w * sum(stage for stage in (inputs.heater_1, inputs.heater_2, inputs.heater_3))


def _euler(state: State, dt_s: float, room: _Room, p: Parameters) -> State:
    cut_out = (state.air_c >= p.cut_out_c) | ((state.cut_out > 0.0) & room.stays_cut)
    heater = room.heater_w * (1.0 - cut_out)
    saturated = vapour_density_kg_m3(state.air_c)
    # Droplets find room up to 95 %; beyond it ever more of them fall.
    taken_up = room.fog_kg_s * np.minimum(np.maximum((saturated - state.vapour_kg_m3) / (0.05 * saturated), 0.0), 1.0)
    from_trays = tray_evaporation_kg_s(state.tray_c, state.vapour_kg_m3, room.tray_m2, p.tray_transfer_m_s * room.mixing)
    to_coil_w, to_coil = coil(state.air_c, state.vapour_kg_m3, room.duty, p)
    to_wall = wall_condensation_kg_s(state.vapour_kg_m3, wall_c(state.air_c, room.hall_c, p), p)
    warming = room.tray_w_k * (state.tray_c - state.air_c)
    air_heat = heater + room.other_w + warming - room.loss_w_k * (state.air_c - room.hall_c) - to_coil_w
    air = state.air_c + dt_s * (air_heat - VAPORISATION_J_KG * taken_up) / (p.volume_m3 * AIR_J_M3_K)
    vented = room.flow_m3_s * (state.vapour_kg_m3 - room.hall_kg_m3)
    vapour = state.vapour_kg_m3 + dt_s * (taken_up + from_trays - vented - to_coil - to_wall) / p.volume_m3
    mist = _mist_kg_m3(air, vapour)
    gas = respiration_kg_s(state.tray_c, state.emerged, room.trays, p) - room.flow_m3_s * (state.co2_kg_m3 - room.hall_co2_kg_m3)
    thermal_time, emerged = _germinate(state, dt_s, room, p)
    return State(
        air + VAPORISATION_J_KG * mist / AIR_J_M3_K,
        vapour - mist,
        state.co2_kg_m3 + dt_s * gas / p.volume_m3,
        state.tray_c - dt_s * (warming + VAPORISATION_J_KG * from_trays) / room.tray_j_k,
        thermal_time,
        emerged,
        1.0 * cut_out,
        state.tray_water_kg + dt_s * (room.fog_kg_s - taken_up - from_trays) + mist * p.volume_m3,
        state.condensed_kg + dt_s * (to_coil + to_wall),
        state.fog_kg + dt_s * room.fog_kg_s,
        state.heat_j + dt_s * heater,
    )


def _mist_kg_m3(air_c: Any, vapour_kg_m3: Any) -> Any:
    # What exceeds saturation falls out and warms the air, which then holds more: one Newton step, that ends just below saturation.
    saturated = vapour_density_kg_m3(air_c)
    slope = saturated * (17.27 * 237.3 / (air_c + 237.3) ** 2 - 1.0 / (air_c + psychrometrics.ZERO_C_K))
    return np.maximum(0.0, vapour_kg_m3 - saturated) / (1.0 + VAPORISATION_J_KG / AIR_J_M3_K * slope)


def _germinate(state: State, dt_s: float, room: _Room, p: Parameters) -> tuple[Any, Any]:
    # Seeds whose time comes emerge in the share that the temperature of this hour allows; the others are lost.
    seed_c = state.tray_c if isinstance(state.tray_c, float) else state.tray_c[:, None]
    later = state.thermal_time_c_d + dt_s / DAY_S * thermal_time_rate_c(seed_c, room.crop)
    ripe = germinated_share(later, room.crop, p.emergence_cv) - germinated_share(state.thermal_time_c_d, room.crop, p.emergence_cv)
    return later, state.emerged + final_share(seed_c, room.crop) * ripe


def _normal(z: Any) -> Any:
    # Phi(z), error below 8e-8 [4].
    x = abs(z) / math.sqrt(2.0)
    t = 1.0 / (1.0 + 0.3275911 * x)
    polynomial = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    tail = 0.5 * polynomial * np.exp(-x * x)
    return tail + (z > 0.0) * (1.0 - 2.0 * tail)
