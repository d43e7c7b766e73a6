"""Pig house, model PH1: air, structure, vapour, CO2, NH3 and H2S of any number of rooms at once.

All amounts are per pig place. Heat, moisture and CO2 of the animals after CIGR [1]; fans draw through inlets, tunnel curtain and
cracks as through orifices [2]. State, inputs and weather are arrays of shape (n,) or scalars; nothing here reads a clock or draws a
random number. The coefficients are those of the handbook (section 4.5), whose checks they pass.

References
----------
.. [1] Pedersen, Saellvik: Heat and moisture production at animal and house levels, 4th report of the CIGR working group on
   climatization of animal houses (2002).
.. [2] ASHRAE Handbook Fundamentals, chapter on ventilation and infiltration (orifices, superposition of flows, fan laws).
.. [3] Pfeiffer et al. (1993) and Kavolelis: Impact of animal housing systems on ammonia emission rates, Polish Journal of
   Environmental Studies 15 (2006): the level of ammonia from slatted floors.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from simulators import multispan
from simulators.multispan import each_alone, real, some
from telemetry import psychrometrics

AIR_J_M3_K: Final = 1207.2  # 1.2 kg/m3 x 1006 J/(kg K)
AIR_KG_M3: Final = 1.2
VAPORISATION_J_KG: Final = 680.0 * 3600.0  # CIGR counts 680 Wh/kg
DISCHARGE: Final = 0.6  # of a sharp-edged opening
OUTSIDE_CO2_PPM: Final = 420.0
CO2_M3_J: Final = 0.185 / 3.6e6  # 0.185 m3/h per kW of animal heat, manure included
# Flue gas of methane, 802 kJ/mol: what a burner without a chimney adds to the room.
FLUE_CO2_M3_J: Final = 3.0e-8
FLUE_VAPOUR_KG_J: Final = 4.5e-8
MAINTENANCE_MJ_D: Final = 0.44  # per kg^0.75 and day, the 5.09 W of a fasting finisher
BODY_C: Final = 40.0  # where CIGR's sensible heat ends
WET_SKIN_PA: Final = 5323.0  # saturation at 34 C
AMMONIA_AGE_S: Final = 6 * 3600.0
AMMONIA_AGE_S_MAX: Final = 24 * 3600.0  # by then the floor is covered
# The air of a room is changed once in 48 s at full ventilation; Euler is stable below twice that.
STEP_S_MAX: Final = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """A room, per pig place. Units in the names; defaults as in the handbook, for finishers."""

    volume_m3: float = 3.2
    loss_w_k: float = 1.2
    structure_w_k: float = 8.0
    structure_j_k: float = 60_000.0
    variable_m3_h: float = 60.0  # fans of the first stage at full speed against no pressure
    staged_m3_h: float = 180.0  # all other fans
    fan_pa: float = 150.0  # where the straight fan curve at full speed ends; 17 % of the flow is lost at 25 Pa
    inlet_m2: float = 0.008
    tunnel_m2: float = 0.04  # curtain behind the pad
    emergency_m2: float = 0.08  # panels that fall open
    leak_m2: float = 4.8e-4  # cracks, under the suction of fans
    leak_m3_h: float = 2.0  # through cracks while no fan runs
    section_m2: float = 0.036  # of the house, across the air of the tunnel
    pad_efficiency: float = 0.68  # of saturation
    heater_w: float = 100.0
    unvented: float = 0.0  # share of flue gas that stays in the room; 1 for a heater without a chimney
    sprinkler_kg_s: float = 1.0e-3
    skin_kg: float = 0.1  # water that one animal's skin holds; the rest runs off
    skin_kg_s_pa: float = 2.0e-8  # evaporation of a wet animal; 122 W at 2500 Pa
    ammonia_g_h: float = 0.29  # of one animal at 20 C, `ammonia_air_m3_h` and manure of 6 h
    ammonia_air_m3_h: float = 59.0
    h2s_mg_h: float = 5.0  # from slurry at rest
    slurry_h2s_mg: float = 2000.0  # gas that slurry at rest comes to hold
    slurry_fill_s: float = 5 * 86_400.0
    slurry_release_s: float = 90.0  # in which moving slurry gives its gas away


class State(NamedTuple):
    """What a room remembers; each (n,). `heat_j` of the heater and `condensed_kg` count since the start."""

    air_c: Any
    structure_c: Any
    vapour_kg_m3: Any
    co2_ppm: Any
    nh3_ppm: Any
    h2s_ppm: Any
    skin_kg: Any
    manure_age_s: Any
    slurry_h2s_mg: Any
    heat_j: Any
    condensed_kg: Any


class Inputs(NamedTuple):
    """What acts on a room: heat of its animals at 20 C [W], animals, and true positions 0..1 of everything else.

    `fan_variable` is the speed of the first stage, `fan_staged` the share of the other fans that runs. Without `power` no fan,
    heater, pump or sprinkler works, whatever its own input says.
    """

    heat_20_w: Any = 0.0
    animals: Any = 0.0
    fan_variable: Any = 0.0
    fan_staged: Any = 0.0
    inlets: Any = 0.0
    tunnel: Any = 0.0
    emergency: Any = 0.0
    heater: Any = 0.0
    pad_pump: Any = 0.0
    sprinkler: Any = 0.0
    scraper: Any = 0.0
    slurry: Any = 0.0
    power: Any = 1.0


class Outside(NamedTuple):
    """Weather at the house."""

    temp_c: Any
    rh_pct: Any
    wind_m_s: Any


_INPUT_LIMITS: Final = multispan.limits(Inputs, {"heat_20_w": (0.0, 10_000.0), "animals": (0.0, 100.0)})
_OUTSIDE_LIMITS: Final = multispan.limits(Outside, {"temp_c": (-60.0, 60.0), "rh_pct": (0.0, 100.0), "wind_m_s": (0.0, 75.0)})


class Supply(NamedTuple):
    """Air that fans draw in [m3/s], the suction that draws it [Pa], its temperature [C] and vapour [kg/m3]."""

    air_m3_s: Any
    static_pa: Any
    temp_c: Any
    vapour_kg_m3: Any


def initial_state(
    air_c: ArrayLike,
    rh_pct: ArrayLike,
    *,
    structure_c: ArrayLike | None = None,
    co2_ppm: ArrayLike = 1000.0,
    slurry_h2s_mg: ArrayLike = 2000.0,
) -> State:
    """A dry state with manure of 6 h, no NH3 and no H2S in the air.

    Parameters
    ----------
    air_c : air temperature [C]
    rh_pct : relative humidity [%]
    structure_c : temperature of floor and walls [C]; None: as the air
    co2_ppm : [ppm]
    slurry_h2s_mg : gas that the slurry holds, per place [mg]
    """
    walls = air_c if structure_c is None else structure_c
    given = (np.atleast_1d(np.asarray(v, float)) for v in (air_c, walls, rh_pct, co2_ppm, slurry_h2s_mg))
    air, wall, humidity, co2, held = (array.copy() for array in np.broadcast_arrays(*given))
    zero = np.zeros_like(air)
    vapour = multispan.vapour_density_kg_m3(air, humidity)
    return State(air, wall, vapour, co2, zero, zero, zero, zero + AMMONIA_AGE_S, held, zero, zero)


def feeding_level(mass_kg: ArrayLike, feed_kg_d: ArrayLike, energy_mj_kg: float = 13.0) -> Any:
    """Energy eaten over maintenance, n = FI ME / (0.44 m^0.75) [1].

    Parameters
    ----------
    mass_kg : of one animal [kg]
    feed_kg_d : eaten by one animal [kg/d]
    energy_mj_kg : metabolisable energy of the feed [MJ/kg]

    Returns
    -------
    [-]. 100 kg, 2.9 kg/d: 2.71.
    """
    return real(feed_kg_d) * energy_mj_kg / (MAINTENANCE_MJ_D * real(mass_kg) ** 0.75)


def finisher_heat_w(mass_kg: ArrayLike, feeding: ArrayLike) -> Any:
    """Total heat of one growing pig of 20 kg and more at 20 C, 5.09 m^0.75 (1 + (1 - K)(n - 1)), K = 0.47 + 0.003 m [1].

    Parameters
    ----------
    mass_kg : [kg]
    feeding : `feeding_level` [-]

    Returns
    -------
    [W]. 100 kg, 2.71: 224; 50 kg, 3.2: 176.
    """
    mass = real(mass_kg)
    return _growing_heat_w(mass, 5.09 * mass**0.75, feeding)


def weaner_heat_w(mass_kg: ArrayLike, feeding: ArrayLike) -> Any:
    """Total heat of one piglet after weaning at 20 C, as of a finisher with 7.4 m^0.66 [1].

    Parameters
    ----------
    mass_kg : [kg]
    feeding : `feeding_level` [-]

    Returns
    -------
    [W]. 10 kg, 3.0: 68; 20 kg, 3.0: 104.
    """
    mass = real(mass_kg)
    return _growing_heat_w(mass, 7.4 * mass**0.66, feeding)


def _growing_heat_w(mass: Any, fasting_w: Any, feeding: ArrayLike) -> Any:
    return fasting_w * (1.0 + (1.0 - (0.47 + 0.003 * mass)) * (real(feeding) - 1.0))


def dry_sow_heat_w(mass_kg: ArrayLike, pregnant_d: ArrayLike, gain_kg_d: ArrayLike = 0.0) -> Any:
    """Total heat of one dry or gestating sow at 20 C, 4.85 m^0.75 + 8e-5 p^3 + 76 dY [1].

    Parameters
    ----------
    mass_kg : [kg]
    pregnant_d : days pregnant [d]
    gain_kg_d : [kg/d]

    Returns
    -------
    [W]. 200 kg, 80 d: 299.
    """
    return 4.85 * real(mass_kg) ** 0.75 + 8e-5 * real(pregnant_d) ** 3 + 76.0 * real(gain_kg_d)


def lactating_sow_heat_w(mass_kg: ArrayLike, milk_kg_d: ArrayLike) -> Any:
    """Total heat of one sow with her litter at 20 C, 4.85 m^0.75 + 28 Y [1].

    Parameters
    ----------
    mass_kg : of the sow [kg]
    milk_kg_d : [kg/d]

    Returns
    -------
    [W]. 220 kg, 8 kg/d: 501.
    """
    return 4.85 * real(mass_kg) ** 0.75 + 28.0 * real(milk_kg_d)


def activity(hour: ArrayLike) -> Any:
    """How much more heat and CO2 than on the day's mean, 1 + 0.2 cos(2 pi (h - 15) / 24); `hour` of the local day [h]."""
    return 1.0 + 0.2 * np.cos(2.0 * np.pi * (real(hour) - 15.0) / 24.0)


def animal_heat_w(heat_20_w: ArrayLike, temp_c: ArrayLike) -> tuple[Any, Any, Any]:
    """Total, sensible and latent heat at house level, F = 1000 + 12 (20 - T), sensible 0.62 F - 1.15e-7 T^6 per 1000 W [1].

    Parameters
    ----------
    heat_20_w : total heat at 20 C [W]
    temp_c : air temperature [C], held to 0..40; at 40 the sensible heat is nil

    Returns
    -------
    [W] three times. 224 W at 20 C: 224, 137, 87.
    """
    at_20, temp = real(heat_20_w) / 1000.0, np.minimum(np.maximum(real(temp_c), 0.0), BODY_C)
    by_temp = 1240.0 - 12.0 * temp
    total = at_20 * by_temp
    sensible = at_20 * np.maximum(0.0, 0.62 * by_temp - 1.15e-7 * (temp * temp * temp) ** 2)
    return total, sensible, total - sensible


def ammonia_mg_s(animals: ArrayLike, temp_c: ArrayLike, air_m3_s: ArrayLike, age_s: ArrayLike, parameters: Parameters) -> Any:
    """Ammonia from the floor, e0 N 1.06^(T - 20) (Q / Q0)^0.25 (t / 6 h)^0.3 with t up to 24 h; the level from [3].

    Parameters
    ----------
    animals : per place [-]
    temp_c : air temperature [C]
    air_m3_s : ventilation per place [m3/s]
    age_s : since the manure was last taken away [s]

    Returns
    -------
    [mg/s] per place. One animal, 20 C, 59 m3/h, 6 h: 0.0806, which is 0.29 g/h.
    """
    level = parameters.ammonia_g_h / 3.6 * real(animals) * 1.06 ** (real(temp_c) - 20.0)
    air = real(air_m3_s) * 3600.0 / parameters.ammonia_air_m3_h
    return level * air**0.25 * (np.minimum(real(age_s), AMMONIA_AGE_S_MAX) / AMMONIA_AGE_S) ** 0.3


def skin_evaporation_kg_s(state: State, parameters: Parameters) -> Any:
    """Water that sprinkled animals evaporate, in proportion to what their skin still holds and to es(34 C) - ea [kg/s]."""
    deficit = np.maximum(0.0, WET_SKIN_PA - multispan.vapour_pressure_pa(state))
    return parameters.skin_kg_s_pa * state.skin_kg / parameters.skin_kg * deficit


def opening_m3_s(area_m2: ArrayLike) -> Any:
    """Air through an opening at 1 Pa, Cd A sqrt(2 / rho) [m3/s]; at P Pa it is sqrt(P) times as much [2]."""
    return DISCHARGE * real(area_m2) * np.sqrt(2.0 / AIR_KG_M3)


def fans_m3_s(variable: ArrayLike, staged: ArrayLike, area_m2: ArrayLike, parameters: Parameters) -> tuple[Any, Any]:
    """Air and suction where fans and openings agree: sum of q (s - P / (P0 s)) over running fans = Cd A sqrt(2 P / rho) [2].

    A straight fan curve scaled by the fan laws. A slow fan that the others overpower has its shutter closed.

    Parameters
    ----------
    variable : speed of the first stage, 0..1
    staged : share of the other fans that runs, 0..1
    area_m2 : of all openings per place [m2]

    Returns
    -------
    [m3/s] per place, [Pa]. Both full, inlets and curtain open: 0.0653 (235 m3/h), 3.0 Pa.
    """
    speed, conductance = real(variable), opening_m3_s(area_m2)
    slow, others = parameters.variable_m3_h / 3600.0, real(staged) * parameters.staged_m3_h / 3600.0
    slope = slow / np.maximum(speed, 1e-3) * (speed > 0.0)
    root = _suction_root(slow * speed + others, slope + others, conductance, parameters.fan_pa)
    overpowered = root * root > parameters.fan_pa * speed * speed * (1.0 + 1e-9)
    if some(overpowered):
        root = np.where(overpowered, _suction_root(others, others, conductance, parameters.fan_pa), root)
    return conductance * root, root**2


def _suction_root(free: Any, slope: Any, conductance: Any, fan_pa: float) -> Any:
    # Root of slope / P0 x^2 + conductance x - free = 0 with x = sqrt(P), in the form that knows no 0/0 without fans.
    return 2.0 * free / np.maximum(conductance + np.sqrt(conductance * conductance + 4.0 / fan_pa * slope * free), 1e-12)


def natural_m3_s(
    emergency: ArrayLike, inside_c: ArrayLike, outside_c: ArrayLike, wind_m_s: ArrayLike, parameters: Parameters
) -> Any:
    """Air that comes without fans: through cracks, and through fallen panels as through vents of a greenhouse.

    Parameters
    ----------
    emergency : opening of the panels, 0..1
    inside_c, outside_c : [C]
    wind_m_s : [m/s]

    Returns
    -------
    [m3/s] per place. Shut: 2 m3/h; open, dT 5 K, wind 2 m/s: 72 m3/h.
    """
    panels = multispan.vent_flow_m_s(emergency, inside_c, outside_c, wind_m_s, parameters.emergency_m2)
    return parameters.leak_m3_h / 3600.0 + panels


def air_m3_s(state: State, supply: Supply, inputs: Inputs, outside: Outside, parameters: Parameters) -> Any:
    """All air that a room changes, fans and natural flow added as squares [2]; [m3/s] per place."""
    natural = natural_m3_s(inputs.emergency, state.air_c, outside.temp_c, outside.wind_m_s, parameters)
    return np.hypot(supply.air_m3_s, natural)


def air_speed_m_s(air: ArrayLike, parameters: Parameters) -> Any:
    """Mean speed along a house in tunnel mode, of `air` [m3/s] per place; [m/s]."""
    return real(air) / parameters.section_m2


def supply(inputs: Inputs, outside: Outside, parameters: Parameters) -> Supply:
    """What the fans draw in; the part that comes through the tunnel curtain comes through the pad."""
    p, power = parameters, real(inputs.power)
    through_pad = real(inputs.tunnel) * p.tunnel_m2
    others = real(inputs.inlets) * p.inlet_m2 + real(inputs.emergency) * p.emergency_m2 + p.leak_m2
    area = through_pad + others
    air, static = fans_m3_s(power * real(inputs.fan_variable), power * real(inputs.fan_staged), area, p)
    wet = real(inputs.pad_pump) * power * p.pad_efficiency * through_pad / np.maximum(area, 1e-12) * (air > 0.0)
    colder = multispan.pad_cooling_k(outside.temp_c, outside.rh_pct, wet)
    dry = multispan.vapour_density_kg_m3(outside.temp_c, outside.rh_pct)
    return Supply(air, static, real(outside.temp_c) - colder, dry + AIR_J_M3_K * colder / VAPORISATION_J_KG)


def advance(
    state: State, dt_s: float, *, inputs: Inputs, outside: Outside, parameters: Parameters, drawn: Supply | None = None
) -> State:
    """The state `dt_s` later, in Euler steps of at most 5 s with inputs and weather held; `drawn` where `supply` is known already.

    Raises
    ------
    ValueError : where an input or the weather is no number. Positions beyond 0..1 count as 0 or 1.
    """
    assert dt_s >= 0.0
    steps = math.ceil(dt_s / STEP_S_MAX)

    def live(state: State, inputs: Inputs, drawn: Supply, outside: Outside, p: Parameters) -> State:
        for _ in range(steps):
            state = _euler(state, dt_s / steps, drawn, inputs, outside, p)
        return state

    if drawn is not None and steps:
        alone = each_alone(live, state, (inputs, _INPUT_LIMITS), (drawn, None), (outside, _OUTSIDE_LIMITS), parameters=parameters)
        if alone is not None:
            return alone
    inputs = multispan.held_together(inputs, _INPUT_LIMITS)
    outside = multispan.held_together(outside, _OUTSIDE_LIMITS)
    drawn = supply(inputs, outside, parameters) if drawn is None else drawn
    return live(state, inputs, drawn, outside, parameters)


def _euler(state: State, dt_s: float, drawn: Supply, inputs: Inputs, outside: Outside, p: Parameters) -> State:
    total, sensible, latent = animal_heat_w(inputs.heat_20_w, state.air_c)
    air = air_m3_s(state, drawn, inputs, outside, p)
    heater = inputs.heater * inputs.power * p.heater_w
    skin = skin_evaporation_kg_s(state, p)
    to_structure = p.structure_w_k * (state.air_c - state.structure_c)
    loss = p.loss_w_k * (state.air_c - outside.temp_c) + AIR_J_M3_K * air * (state.air_c - drawn.temp_c)
    temp = state.air_c + dt_s * (sensible + heater - VAPORISATION_J_KG * skin - to_structure - loss) / (AIR_J_M3_K * p.volume_m3)
    vapour_in = latent / VAPORISATION_J_KG + skin + p.unvented * FLUE_VAPOUR_KG_J * heater
    moist = state.vapour_kg_m3 + dt_s / p.volume_m3 * (vapour_in - air * (state.vapour_kg_m3 - drawn.vapour_kg_m3))
    # What exceeds saturation is mist that falls out within a step; its heat is left out.
    vapour = np.minimum(moist, multispan.vapour_density_kg_m3(temp))
    co2_in = 1e6 * (CO2_M3_J * total + p.unvented * FLUE_CO2_M3_J * heater)
    co2 = state.co2_ppm + dt_s / p.volume_m3 * (co2_in - air * (state.co2_ppm - OUTSIDE_CO2_PPM))
    nh3, h2s, age, slurry = _manure(state, dt_s, air, inputs, p)
    wetted = state.skin_kg + dt_s * (inputs.sprinkler * inputs.power * p.sprinkler_kg_s - skin)
    return State(
        temp,
        state.structure_c + dt_s * to_structure / p.structure_j_k,
        vapour,
        co2,
        nh3,
        h2s,
        np.minimum(wetted, inputs.animals * p.skin_kg),
        age,
        slurry,
        state.heat_j + dt_s * heater,
        state.condensed_kg + p.volume_m3 * (moist - vapour),
    )


def _manure(state: State, dt_s: float, air: Any, inputs: Inputs, p: Parameters) -> tuple[Any, Any, Any, Any]:
    """NH3 and H2S of the air [ppm], age of the manure [s] and gas held by the slurry [mg] a step later."""
    ammonia = ammonia_mg_s(inputs.animals, state.air_c, air, state.manure_age_s, p) / psychrometrics.MG_M3_PER_PPM["nh3"]
    released = inputs.slurry * state.slurry_h2s_mg / p.slurry_release_s
    sulphide = (p.h2s_mg_h / 3600.0 + released) / psychrometrics.MG_M3_PER_PPM["h2s"]
    return (
        state.nh3_ppm + dt_s / p.volume_m3 * (ammonia - air * state.nh3_ppm),
        state.h2s_ppm + dt_s / p.volume_m3 * (sulphide - air * state.h2s_ppm),
        (inputs.scraper <= 0.0) * (state.manure_age_s + dt_s),
        state.slurry_h2s_mg + dt_s * ((p.slurry_h2s_mg - state.slurry_h2s_mg) / p.slurry_fill_s - released),
    )
