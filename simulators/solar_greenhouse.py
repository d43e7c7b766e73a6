"""Chinese solar greenhouse, model SG1: air, wall, two layers of soil, vapour and CO2 of any number of houses at once.

A lean-to without heating: a thick north wall and the soil store the day's heat, a film roof lets it in, an insulating blanket keeps
it over night. All fluxes are per m2 of floor. State, inputs and weather are arrays of shape (n,) or scalars; nothing here reads a
clock or draws a random number. Vapour, CO2 and the crop are those of `multispan`.

References
----------
.. [1] Katzin et al.: GreenLight - an open source model for greenhouses with supplemental lighting, Biosystems Engineering 194
   (2020), doi:10.1016/j.biosystemseng.2020.03.010 (soil, crop, condensation).
.. [2] Handbook of this project, model SG1: lumped wall, soil and film; its figures are defaults of practice, not measurements.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from simulators import multispan
from simulators.multispan import (
    AIR_J_M3_K,
    KG_M3_PER_PPM,
    OUTSIDE_CO2_KG_M3,
    OUTSIDE_LIMITS,
    VAPORISATION_J_KG,
    Outside,
    all_after,
    limits,
    real,
)
from telemetry import psychrometrics

# The air follows within 6-15 min, its vapour within 90 s at open vents.
STEP_S_MAX: Final = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """A house of 80 x 9 m. Units in the names; defaults as in the handbook, per m2 of floor unless said otherwise."""

    height_m: float = 2.9  # air volume by floor
    furnishing_j_m2_k: float = 8_000.0  # frame and crop, as warm as the air
    film_area: float = 1.15  # of floor
    wall_area: float = 0.33  # of floor
    open_w_m2_k: float = 5.0  # per m2 of bare film
    covered_w_m2_k: float = 1.3  # per m2 of film under the blanket
    gable_w_m2_k: float = 0.10
    transmission: float = 0.70
    tilt_gain: float = 1.3  # light on the sloping film, of that on a horizontal plane
    to_air: float = 0.20  # of the light that came in; the tenth that is missing evaporates water or leaves again
    to_wall: float = 0.25
    to_soil: float = 0.45
    surface_w_m2_k: float = 6.0  # wall to air per m2 of wall, soil to air per m2 of floor
    wall_j_m2_k: float = 240_000.0  # per m2 of wall: the active 0.15 m of brick
    wall_outside_w_m2_k: float = 0.35  # per m2 of wall
    topsoil_j_m2_k: float = 173_000.0  # 0.10 m at 1.73 MJ/(m3 K) [1]
    deep_soil_j_m2_k: float = 520_000.0  # 0.30 m
    topsoil_deep_w_m2_k: float = 4.25  # 0.85 W/(m K) [1] over 0.2 m
    deep_subsoil_w_m2_k: float = 1.7
    subsoil_c: float = 13.0
    open_air_changes_h: float = 0.6  # through cracks, bare film
    covered_air_changes_h: float = 0.3  # through cracks, under the blanket
    top_vent_air_changes_h: float = 20.0  # fully open
    bottom_vent_air_changes_h: float = 20.0  # fully open
    torn_air_changes_h: float = 5.0  # wholly torn film, at 3 m/s; proportional to wind
    shade_cut: float = 0.50
    lamp_w_m2: float = 60.0  # electric; all of it ends as heat in the air
    heater_w_m2: float = 80.0  # emergency hot-air heater
    co2_kg_m2_s: float = 1.4e-6  # generator or cylinder at full flow
    soil_vapour_m_s: float = 0.002  # from soil to air, as far as its surface is wet: mulch and dry crust leave a part
    soil_co2_kg_m2_s: float = 1.5e-7  # of manured soil, which makes 800-1500 ppm by dawn
    leaf_area_index: float = 1.0


class State(NamedTuple):
    """What a house remembers; each (n,)."""

    air_c: Any
    vapour_kg_m3: Any
    co2_kg_m3: Any
    wall_c: Any
    topsoil_c: Any
    deep_soil_c: Any
    condensed_kg_m2: Any  # on the film and as mist since the start, a counter
    heat_j_m2: Any  # of heater and lamps since the start, a counter
    given_kg_m2: Any  # water from crop and soil to the air since the start, a counter


class Inputs(NamedTuple):
    """True positions 0..1 of what acts on a house, and how much of two mishaps there is."""

    blanket_open: Any = 0.0  # 0 = the film lies under the blanket, 1 = it is rolled up
    vent_top: Any = 0.0
    vent_bottom: Any = 0.0
    shade_net: Any = 0.0
    lamp: Any = 0.0
    heater: Any = 0.0
    co2_valve: Any = 0.0
    snow: Any = 0.0  # part of the light that snow on the film keeps out
    torn: Any = 0.0  # 1 = `torn_air_changes_h` through the holes


_INPUT_LIMITS: Final = limits(Inputs, {})


def initial_state(
    air_c: ArrayLike,
    rh_pct: ArrayLike,
    *,
    wall_c: ArrayLike,
    topsoil_c: ArrayLike,
    deep_soil_c: ArrayLike = 15.0,
    co2_ppm: ArrayLike = 420.0,
) -> State:
    """A state with its counters at 0.

    Parameters
    ----------
    air_c, wall_c, topsoil_c, deep_soil_c : temperatures [C]
    rh_pct : relative humidity [%]
    co2_ppm : [ppm]
    """
    values = (air_c, rh_pct, wall_c, topsoil_c, deep_soil_c, co2_ppm)
    air, humidity, wall, top, deep, co2 = (
        v.copy() for v in np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, float)) for v in values))
    )
    vapour = multispan.vapour_density_kg_m3(air, humidity)
    zero = np.zeros_like(air)
    return State(air, vapour, co2 * KG_M3_PER_PPM, wall, top, deep, zero, zero, zero)


def solar_gain_w_m2(inputs: Inputs, rad_w_m2: ArrayLike, parameters: Parameters) -> Any:
    """Light that comes in, S = g tau I (1 - bl), less what snow and the shade net keep out [2].

    Parameters
    ----------
    inputs : blanket, snow, net
    rad_w_m2 : global radiation on a horizontal plane [W/m2]

    Returns
    -------
    [W/m2]. 94 W/m2 on bare film: 85.5, what opening the blanket costs at 20 K between inside and outside.
    """
    bare = real(inputs.blanket_open) * (1.0 - real(inputs.snow))
    net = 1.0 - parameters.shade_cut * real(inputs.shade_net)
    return parameters.tilt_gain * parameters.transmission * bare * net * real(rad_w_m2)


def film_w_m2_k(blanket_open: ArrayLike, parameters: Parameters) -> Any:
    """Heat transfer of the film, U = 5.0 (1 - bl) + 1.3 bl per m2 of film [W/(m2 K)] [2]; bl = 1 - `blanket_open`."""
    bare = real(blanket_open)
    return parameters.open_w_m2_k * bare + parameters.covered_w_m2_k * (1.0 - bare)


def film_c(blanket_open: ArrayLike, air_c: ArrayLike, outside_c: ArrayLike, parameters: Parameters) -> Any:
    """Temperature of the film's inner face [C].

    Bare, it stands as MS1's cover does, 0.45 of the way from outside to inside; under the blanket it falls short of the air by less,
    as the heat through it is less. Outside -10 C, air 15 C: 1.25 bare, 11.4 under the blanket.
    """
    air = real(air_c)
    short = 0.55 * film_w_m2_k(blanket_open, parameters) / parameters.open_w_m2_k
    return air - short * (air - real(outside_c))


def air_flow_m_s(inputs: Inputs, wind_m_s: ArrayLike, parameters: Parameters) -> Any:
    """Outside air through cracks, vents and holes, h ACH / 3600 with ACH = 0.6 bare / 0.3 covered + 20 per open vent [2].

    A vent under the blanket passes nothing. Holes of a torn film add 5 air changes at 3 m/s, in proportion to wind.

    Parameters
    ----------
    inputs : blanket, vents, torn film
    wind_m_s : [m/s]

    Returns
    -------
    [m3 per m2 floor and s]. Bare and shut: 4.83e-4; top vent open: 0.0166.
    """
    bare = real(inputs.blanket_open)
    cracks = parameters.open_air_changes_h * bare + parameters.covered_air_changes_h * (1.0 - bare)
    vents = parameters.top_vent_air_changes_h * real(inputs.vent_top)
    vents = vents + parameters.bottom_vent_air_changes_h * real(inputs.vent_bottom)
    holes = parameters.torn_air_changes_h * real(inputs.torn) * real(wind_m_s) / 3.0
    return (cracks + bare * vents + holes) * parameters.height_m / 3600.0


def advance(state: State, dt_s: float, *, inputs: Inputs, outside: Outside, parameters: Parameters) -> State:
    """The state `dt_s` later, in Euler steps of at most 10 s with inputs and weather held.

    Raises
    ------
    ValueError : where a position or the weather is no number. Positions beyond 0..1 count as 0 or 1.
    """
    assert dt_s >= 0.0
    steps, outside = math.ceil(dt_s / STEP_S_MAX), multispan.under_sky(outside)
    if not steps:
        return state

    def live(state: State, inputs: Inputs, outside: Outside, p: Parameters) -> State:
        around = _Around(
            outside.temp_c,
            multispan.vapour_density_kg_m3(outside.temp_c, outside.rh_pct),
            solar_gain_w_m2(inputs, outside.rad_w_m2, p),
            air_flow_m_s(inputs, outside.wind_m_s, p),
            real(inputs.heater) * p.heater_w_m2 + real(inputs.lamp) * p.lamp_w_m2,
        )
        for _ in range(steps):
            state = _euler(state, dt_s / steps, inputs, around, p)
        return state

    return all_after(live, state, (inputs, _INPUT_LIMITS), (outside, OUTSIDE_LIMITS), parameters=parameters)


class _Around(NamedTuple):
    """What does not change while inputs and weather are held: sun, air flow and heating, and the outside's temperature and vapour."""

    temp_c: Any
    vapour_kg_m3: Any
    solar_w_m2: Any
    flow_m_s: Any
    heat_w_m2: Any


def _euler(state: State, dt_s: float, inputs: Inputs, around: _Around, p: Parameters) -> State:
    warmer = state.air_c - around.temp_c
    from_wall = p.surface_w_m2_k * (state.wall_c - state.air_c)  # per m2 of wall
    from_soil = p.surface_w_m2_k * (state.topsoil_c - state.air_c)
    to_deep = p.topsoil_deep_w_m2_k * (state.topsoil_c - state.deep_soil_c)
    loss = film_w_m2_k(inputs.blanket_open, p) * p.film_area + AIR_J_M3_K * around.flow_m_s + p.gable_w_m2_k
    air_heat = p.to_air * around.solar_w_m2 + around.heat_w_m2 + p.wall_area * from_wall + from_soil - loss * warmer
    wall_loss = p.wall_outside_w_m2_k * (state.wall_c - around.temp_c)
    wall_heat = p.to_wall * around.solar_w_m2 / p.wall_area - from_wall - wall_loss
    top_heat = p.to_soil * around.solar_w_m2 - from_soil - to_deep
    deep_heat = to_deep - p.deep_subsoil_w_m2_k * (state.deep_soil_c - p.subsoil_c)
    air = state.air_c + dt_s * air_heat / (p.height_m * AIR_J_M3_K + p.furnishing_j_m2_k)
    given = transpired_kg_m2_s(state, around.solar_w_m2, p) + evaporated_kg_m2_s(state, p)
    vapour, condensed = _vapour(state, air, given, dt_s, inputs, around, p)
    return State(
        air,
        vapour,
        _co2(state, dt_s, inputs, around, p),
        state.wall_c + dt_s * wall_heat / p.wall_j_m2_k,
        state.topsoil_c + dt_s * top_heat / p.topsoil_j_m2_k,
        state.deep_soil_c + dt_s * deep_heat / p.deep_soil_j_m2_k,
        state.condensed_kg_m2 + condensed,
        state.heat_j_m2 + dt_s * around.heat_w_m2,
        state.given_kg_m2 + dt_s * given,
    )


def transpired_kg_m2_s(state: State, solar_w_m2: ArrayLike, parameters: Parameters) -> Any:
    """Water that the crop gives to the air now [kg/(m2 s)], by MS1's stomata in the light that came in [W/m2] [1]."""
    vapour_pa = multispan.vapour_pressure_pa(state)
    deficit = np.maximum(0.0, psychrometrics.saturation_pa(state.air_c) - vapour_pa)
    latent = multispan.transpiration_w_m2(parameters.leaf_area_index, solar_w_m2, multispan.co2_ppm(state), deficit)
    return latent / VAPORISATION_J_KG


def evaporated_kg_m2_s(state: State, parameters: Parameters) -> Any:
    """Water that the soil gives to the air now, k (xs(T1) - x) [kg/(m2 s)]; none falls on it as dew.

    Soil of 15 C under air of 12 C and 90 %: 6.5e-06. Its heat is in the tenth of the light that nothing takes up, as the crop's is.
    """
    drier = multispan.vapour_density_kg_m3(state.topsoil_c) - state.vapour_kg_m3
    return parameters.soil_vapour_m_s * np.maximum(0.0, drier)


def _vapour(state: State, air_c: Any, given: Any, dt_s: float, inputs: Inputs, around: _Around, p: Parameters) -> tuple[Any, Any]:
    """Vapour after the step [kg/m3] and what condensed in it [kg/m2]."""
    film = film_c(inputs.blanket_open, state.air_c, around.temp_c, p)
    on_film = p.film_area * multispan.condensation_kg_m2_s(multispan.vapour_pressure_pa(state), film)
    vented = around.flow_m_s * (state.vapour_kg_m3 - around.vapour_kg_m3)
    vapour = state.vapour_kg_m3 + dt_s * (given - vented - on_film) / p.height_m
    # What exceeds saturation is mist that falls out within a step.
    mist = np.maximum(0.0, vapour - multispan.vapour_density_kg_m3(air_c))
    return vapour - mist, dt_s * on_film + mist * p.height_m


def _co2(state: State, dt_s: float, inputs: Inputs, around: _Around, p: Parameters) -> Any:
    # MS1's uptake knows the sun outside a house of usual transmission; here that is the sun that would give the same light inside.
    sun = around.solar_w_m2 / p.transmission
    uptake = multispan.co2_uptake_kg_m2_s(state.air_c, state.co2_kg_m3, sun, multispan.canopy_cover(p.leaf_area_index))
    source = inputs.co2_valve * p.co2_kg_m2_s + p.soil_co2_kg_m2_s
    return state.co2_kg_m3 + dt_s * (source - uptake - around.flow_m_s * (state.co2_kg_m3 - OUTSIDE_CO2_KG_M3)) / p.height_m
