"""Multi-span greenhouse, model MS1: air, vapour, mass, CO2 and heating pipes of any number of compartments at once.

All fluxes are per m2 of floor. Structure of Van Henten [2] with cover, stomata, vents and pipes of GreenLight [1]. State, inputs
and weather are arrays of shape (n,) or scalars; nothing here reads a clock or draws a random number.

References
----------
.. [1] Katzin et al.: GreenLight - an open source model for greenhouses with supplemental lighting, Biosystems Engineering 194
   (2020), doi:10.1016/j.biosystemseng.2020.03.010; Vanthoor: A model-based greenhouse design method (2011).
.. [2] Van Henten: Sensitivity analysis of an optimal control problem in greenhouse climate management, Biosystems Engineering 85
   (2003), doi:10.1016/S1537-5110(03)00068-0.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from telemetry import psychrometrics

Array = NDArray[np.float64]
Tuple = TypeVar("Tuple", bound=tuple[Any, ...])

VAPORISATION_J_KG: Final = 2.45e6
AIR_J_M3_K: Final = 1200.0
PSYCHROMETRIC_PA_K: Final = 65.8
STEFAN_BOLTZMANN: Final = 5.67e-8
KG_M3_PER_PPM: Final = 1.83e-6  # CO2 at 20 C
OUTSIDE_CO2_KG_M3: Final = 7.4e-4
# Euler is stable below 110 s (vapour at the 64 air changes an hour of open vents and all fans).
STEP_S_MAX: Final = 10.0
FEW: Final = 4  # houses that are faster one after the other
_TO_COVER_M_S: Final = 4.3e-3  # the mass transfer of `condensation_kg_m2_s` at 20 C
_PAR_SHARE: Final = 0.5  # of the sun's energy


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """A compartment. Units in the names; defaults as in the handbook, per m2 of floor. Those of type Any may be arrays, one a house."""

    height_m: float = 4.2
    air_j_m2_k: float = 30_000.0
    mass_j_m2_k: float = 173_000.0
    air_mass_w_m2_k: float = 5.0
    mass_soil_w_m2_k: float = 1.7
    cover_w_m2_k: float = 6.1
    leakage: Any = 1e-4  # of the wind, through cracks
    screen_saving: Any = 0.45
    screen_tight: Any = 1.0  # how far its cloth keeps air of the vents and vapour to the cover; 0 as in the handbook: not at all
    transmission: Any = 0.70
    albedo: float = 0.15
    shade_cut: float = 0.50
    leaf_area_index: Any = 1.0
    soil_c: float = 15.0
    roof_vent_area: float = 0.10  # of floor, both sides fully open
    pipe_diameter_m: float = 0.051
    pipe_length_m_m2: float = 1.875
    pipe_emissivity: float = 0.88
    boiler_c: Any = 80.0
    boiler_w_m2: Any = 150.0
    pipe_turnover_s: float = 1600.0  # the pump changes the loop's water once; 15 K between supply and return at 150 W/m2
    co2_kg_m2_s: Any = 1.4e-6  # 5 g/m2/h at a fully open valve
    fog_kg_m2_s: float = 5.0e-5  # 180 g/m2/h
    fan_m_s: float = 0.04  # all exhaust fans, m3 per m2 floor and s: 34 air changes an hour
    pad_efficiency: float = 0.67  # of saturation; 0.64-0.70 measured on cellulose pads
    lamp_w_m2: float = 60.0  # electric; all of it ends as heat in the house
    lamp_light: float = 0.55  # of it leaves as light that the crop uses, LED


class MoistAir(Protocol):
    """Air of a house of any kind, as its state holds it; each (n,)."""

    @property
    def air_c(self) -> Any:
        """Temperature [C]."""
        ...

    @property
    def vapour_kg_m3(self) -> Any:
        """Vapour density [kg/m3]."""
        ...


class Air(MoistAir, Protocol):
    """The same with CO2."""

    @property
    def co2_kg_m3(self) -> Any:
        """CO2 [kg/m3]."""
        ...


class State(NamedTuple):
    """What a compartment remembers; each (n,)."""

    air_c: Any
    vapour_kg_m3: Any
    mass_c: Any
    co2_kg_m3: Any
    pipe_c: Any
    heat_j_m2: Any  # given to the pipes since the start, a counter
    transpired_kg_m2: Any  # by the crop since the start, a counter


class Inputs(NamedTuple):
    """True positions 0..1 of what acts on a compartment; `heat_w_m2` is heat that comes by another way than the pipes."""

    vent_lee: Any = 0.0
    vent_wind: Any = 0.0
    mixing_valve: Any = 0.0
    pump: Any = 0.0
    thermal_screen: Any = 0.0
    shade_screen: Any = 0.0
    co2_valve: Any = 0.0
    fog: Any = 0.0
    exhaust_fan: Any = 0.0
    pad_pump: Any = 0.0
    lamp: Any = 0.0
    boiler: Any = 1.0
    heat_w_m2: Any = 0.0


class Outside(NamedTuple):
    """Weather at the house."""

    temp_c: Any
    rh_pct: Any
    rad_w_m2: Any
    wind_m_s: Any
    sky_c: Any = None  # the sky as the cover sees it; None: as warm as the air


def initial_state(air_c: ArrayLike, rh_pct: ArrayLike, mass_c: ArrayLike, *, co2_ppm: ArrayLike = 420.0) -> State:
    """A state with cold pipes.

    Parameters
    ----------
    air_c : air temperature [C]
    rh_pct : relative humidity [%]
    mass_c : temperature of benches, pots and upper soil [C]
    co2_ppm : [ppm]
    """
    air, humidity, mass, co2 = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, float)) for v in (air_c, rh_pct, mass_c, co2_ppm)))
    vapour, zero = vapour_density_kg_m3(air, humidity), np.zeros_like(air)
    return State(air.copy(), vapour, mass.copy(), co2 * KG_M3_PER_PPM, air.copy(), zero, zero)


def held(name: str, values: ArrayLike, low: float = 0.0, high: float = 1.0) -> Any:
    """`values` as an array, held to low..high.

    Raises
    ------
    ValueError : where a value is no number; it names the field and the first such house
    """
    array = np.asarray(values, float)
    if np.count_nonzero(np.isfinite(array)) < array.size:
        house = int(np.argwhere(~np.isfinite(np.atleast_1d(array)))[0][0])
        raise ValueError(f"{name} of house {house} is not a number: give a value of {low:g} to {high:g}")
    return np.minimum(np.maximum(array, low), high)


def limits(of: type[Any], bounds: Mapping[str, tuple[float, float]]) -> Array:
    """(2, fields) lowest and highest value of each field of a named tuple, 0 and 1 where none are named."""
    return np.array([bounds.get(name, (0.0, 1.0)) for name in of._fields]).T


def held_together(given: Tuple, between: Array) -> Tuple:
    """A named tuple whose every field is `held` to its `limits`, as arrays of one shape: one check instead of one a field.

    Raises
    ------
    ValueError : as `held`
    """
    values: tuple[Any, ...] = tuple(given)
    block = np.empty((len(values), *np.broadcast(*values).shape))
    for row, value in enumerate(values):
        block[row] = value
    if np.count_nonzero(np.isfinite(block)) < block.size:
        for name, value, low, high in zip(given._fields, values, *between.tolist(), strict=True):  # type: ignore[attr-defined]
            held(name, value, low, high)
    low_high = between.reshape(*between.shape, *[1] * (block.ndim - 1))
    np.maximum(block, low_high[0], out=block)
    np.minimum(block, low_high[1], out=block)
    return type(given)(*block)


# Beyond 0..1: a bypass or another heater.
_INPUT_LIMITS: Final = limits(Inputs, {"heat_w_m2": (-1000.0, 1000.0)})
# What weather may be; beyond it is held (a pyranometer shows -3 W/m2 at night).
OUTSIDE_LIMITS: Final = limits(
    Outside,
    {
        "temp_c": (-60.0, 60.0),
        "rh_pct": (0.0, 100.0),
        "rad_w_m2": (0.0, 1500.0),
        "wind_m_s": (0.0, 100.0),
        "sky_c": (-120.0, 60.0),
    },
)


def under_sky(outside: Outside) -> Outside:
    """Weather with a sky: as warm as the air where none is given."""
    return outside._replace(sky_c=outside.temp_c) if outside.sky_c is None else outside


def real(values: ArrayLike) -> Any:
    """Numbers and arrays as they are, all else as an array: what is done to a number costs a tenth of what is done to an array."""
    return values if isinstance(values, float | np.ndarray) else np.asarray(values, float)


def some(where: Any) -> bool:
    """Whether a condition holds for a number, or anywhere in an array."""
    return bool(np.count_nonzero(where) if isinstance(where, np.ndarray) else where)


def each_alone(
    live: Callable[..., Tuple], state: Tuple, *acting: tuple[tuple[Any, ...], Array | None], parameters: Any
) -> Tuple | None:
    """The states of at most FEW houses after `live(state, *acting, parameters)` of each as numbers.

    Parameters
    ----------
    live : works for one house on numbers as for many on arrays
    state : named tuple whose fields are of shape (n,)
    acting : named tuples whose fields are numbers or of shape (n,), and the `limits` they are held to, None where they are known
    parameters : a dataclass whose fields are numbers or of shape (n,)

    Returns
    -------
    None where this is not the way: more houses, other shapes, or an input that is no number.
    """
    n, (rooms, houses) = len(state[0]), _alone(parameters)
    if n > FEW or rooms not in (1, n):
        return None
    given: list[tuple[tuple[Any, ...], Array | None]] = [(state, None), *acting]
    columns = [_numbers(values, n, between) for values, between in given]
    if any(column is None for column in columns):
        return None
    lived = [live(*one, houses[k % rooms]) for k, one in enumerate(zip(*columns, strict=True))]
    return type(state)(*map(np.array, zip(*lived, strict=True)))


def all_after(live: Callable[..., Tuple], state: Tuple, *acting: tuple[Any, Array], parameters: Any) -> Tuple:
    """The states of any number of houses after `live`: few as numbers (`each_alone`), many as arrays held to their limits."""
    alone = each_alone(live, state, *acting, parameters=parameters)
    return live(state, *(held_together(*given) for given in acting), parameters) if alone is None else alone


def _numbers(given: tuple[Any, ...], n: int, between: Array | None) -> list[Any] | None:
    """A named tuple for each of n houses."""
    rows = []
    for values in given:
        if isinstance(values, np.ndarray) and values.shape == (n,):
            rows.append(values.tolist())
        elif isinstance(values, float):
            rows.append([values] * n)
        elif np.size(values) == 1:
            rows.append([float(np.asarray(values).item())] * n)
        else:
            return None
    houses = list(zip(*rows, strict=True))
    if between is not None:
        if not all(math.isfinite(sum(house)) for house in houses):
            return None
        lows, highs = between.tolist()
        houses = [tuple(map(min, map(max, house, lows), highs)) for house in houses]
    return [type(given)(*house) for house in houses]


@lru_cache(maxsize=32)
def _alone(parameters: Any) -> tuple[int, list[Any]]:
    """How many houses parameters are of, and those of each."""
    arrays = {field.name: value for field in fields(parameters) if np.ndim(value := getattr(parameters, field.name))}
    houses = np.broadcast(*arrays.values(), 0.0).size
    each = [{name: float(np.broadcast_to(value, houses)[k]) for name, value in arrays.items()} for k in range(min(houses, FEW + 1))]
    return houses, [replace(parameters, **own) for own in each]


def vapour_density_kg_m3(temp_c: ArrayLike, rh_pct: ArrayLike | None = None) -> Any:
    """Vapour in air of a temperature [C] and relative humidity [%] [kg/m3]; saturation where no humidity is given.

    The ideal gas law of vapour, X = ea / (R_v T), as `psychrometrics.abs_humidity_g_m3`.
    """
    temp = real(temp_c)
    saturated = psychrometrics.saturation_pa(temp) / (psychrometrics.GAS_CONSTANT_VAPOUR * (temp + psychrometrics.ZERO_C_K))
    return saturated if rh_pct is None else saturated * real(rh_pct) / 100.0


def vapour_pressure_pa(state: MoistAir) -> Any:
    """Vapour pressure of the inside air from its vapour density, ea = X R_v T [Pa]."""
    return state.vapour_kg_m3 * psychrometrics.GAS_CONSTANT_VAPOUR * (state.air_c + psychrometrics.ZERO_C_K)


def relative_humidity_pct(state: MoistAir) -> Any:
    """Relative humidity of the inside air [%]."""
    return 100.0 * vapour_pressure_pa(state) / psychrometrics.saturation_pa(state.air_c)


def co2_ppm(state: Air) -> Any:
    """CO2 of the inside air [ppm], counted at 20 C."""
    return state.co2_kg_m3 / KG_M3_PER_PPM


def vent_flow_m_s(opening: ArrayLike, inside_c: ArrayLike, outside_c: ArrayLike, wind_m_s: ArrayLike, area: float = 0.10) -> Any:
    """Air through roof vents, u (Aroof/Af) Cd/2 sqrt(g hv |dT| / (2 Tm) + Cw w^2); Cd 0.75, Cw 0.09, hv 0.68 m [1].

    Parameters
    ----------
    opening : 0..1, mean of both sides
    inside_c, outside_c : [C]
    wind_m_s : [m/s]
    area : roof vent area of floor area [-]

    Returns
    -------
    [m3 per m2 floor and s]. Fully open, dT 5 K, wind 3 m/s: 0.0349 (29.9 air changes an hour at 4.2 m).
    """
    inside, outside, wind = real(inside_c), real(outside_c), real(wind_m_s)
    mean_k = (inside + outside) / 2.0 + psychrometrics.ZERO_C_K
    buoyancy = 9.81 * 0.68 * abs(inside - outside) / (2.0 * mean_k)
    return real(opening) * area * 0.75 / 2.0 * np.sqrt(buoyancy + 0.09 * wind * wind)


def behind_screen_m_s(flow_m_s: ArrayLike, screen: ArrayLike, warmer_k: ArrayLike) -> Any:
    """What of the air through roof vents reaches the house under a screen that covers a part of it.

    Through the cloth goes 5e-5 |dT|^0.66 (Vanthoor [1]); where it does not reach, air goes freely.

    Parameters
    ----------
    flow_m_s : through the vents without a screen [m3 per m2 floor and s]
    screen : drawn part, 0..1
    warmer_k : air under over air above it [K]

    Returns
    -------
    [m3 per m2 floor and s]. 0.03 under a screen drawn by 0.95, 10 K: 0.0017.
    """
    flow, drawn = real(flow_m_s), real(screen)
    return (1.0 - drawn) * flow + drawn * np.minimum(flow, 5e-5 * abs(real(warmer_k)) ** 0.66)


def leakage_m_s(wind_m_s: ArrayLike, leakage: ArrayLike = 1e-4) -> Any:
    """Air through cracks, leakage max(0.25, w) [m3 per m2 floor and s] [1]."""
    return real(leakage) * np.maximum(0.25, real(wind_m_s))


def sky_pull_k(outside_c: ArrayLike, sky_c: ArrayLike, wind_m_s: ArrayLike) -> Any:
    """How much colder than air a surface would get outside that only wind and sky reach, hr (To - Tsky) / (hc + hr) [K].

    Wind 2.8 + 1.2 w [W/m2K] and grey radiation of emissivity 0.85, the cover's of GreenLight [1].
    A cover loses heat to air that is colder by this; the loss to air as warm as the sky is in `cover_w_m2_k`.

    Parameters
    ----------
    outside_c, sky_c : [C]
    wind_m_s : [m/s]

    Returns
    -------
    [K]. Air 0 C, sky -20 C, 2.5 m/s: 7.5; a sky as warm as the air: 0.
    """
    outside, sky, wind = real(outside_c), real(sky_c), real(wind_m_s)
    air_k, sky_k = outside + psychrometrics.ZERO_C_K, sky + psychrometrics.ZERO_C_K
    radiation = 0.85 * STEFAN_BOLTZMANN * (air_k * air_k + sky_k * sky_k) * (air_k + sky_k)
    return radiation * (outside - sky) / (2.8 + 1.2 * wind + radiation)


def pipe_heat_w_m2(pipe_c: ArrayLike, air_c: ArrayLike, parameters: Parameters) -> Any:
    """Heat from pipes to the house: convection 1.99 pi d l |dT|^1.32 and grey radiation [1]; negative when they are colder.

    Parameters
    ----------
    pipe_c, air_c : [C]

    Returns
    -------
    [W/m2]. Pipe 60 C in air of 20 C: 77.9 convection + 73.9 radiation.
    """
    pipe, air = real(pipe_c), real(air_c)
    area = np.pi * parameters.pipe_diameter_m * parameters.pipe_length_m_m2
    warmer = pipe - air
    convection = 1.99 * area * warmer * abs(warmer) ** 0.32
    pipe2, air2 = (pipe + psychrometrics.ZERO_C_K) ** 2, (air + psychrometrics.ZERO_C_K) ** 2
    kelvin4 = pipe2 * pipe2 - air2 * air2
    return convection + area * parameters.pipe_emissivity * STEFAN_BOLTZMANN * kelvin4


def pad_cooling_k(temp_c: Any, rh_pct: Any, wet: ArrayLike) -> Any:
    """How much colder air leaves a pad that brings it by `wet` (0..1) of the way to its wet bulb.

    Parameters
    ----------
    temp_c, rh_pct : of the air before the pad [C], [%]

    Returns
    -------
    [K]. 35 C, 40 %, 0.68: 7.5.
    """
    wetness = real(wet)
    if not some(wetness > 0.0):  # the wet bulb is solved by steps: not where it is not asked for
        return 0.0 * wetness
    is_one = isinstance(temp_c, float) and isinstance(rh_pct, float)
    return wetness * (real(temp_c) - (_wet_bulb_c if is_one else psychrometrics.wet_bulb_c)(temp_c, rh_pct))


@lru_cache(maxsize=8)
def _wet_bulb_c(temp_c: float, rh_pct: float) -> float:
    # All houses of a place stand in the same weather.
    return float(psychrometrics.wet_bulb_c(temp_c, rh_pct))


def transpiration_w_m2(leaf_area_index: ArrayLike, canopy_w_m2: ArrayLike, co2: ArrayLike, vpd_pa: ArrayLike) -> Any:
    """Latent heat of the crop, 2 rho cp LAI VPD / (gamma (rb + rs)) with the stomata of Vanthoor [1].

    Parameters
    ----------
    leaf_area_index : [-]
    canopy_w_m2 : radiation above the canopy [W/m2]; over 5 counts as day
    co2 : [ppm]
    vpd_pa : [Pa]

    Returns
    -------
    [W/m2]. LAI 2, 300 W/m2, 400 ppm, 1000 Pa: 100.5.
    """
    light, vpd = real(canopy_w_m2), real(vpd_pa)
    day, above = light > 5.0, real(co2) - 200.0
    by_co2 = np.minimum(1.5, 1.0 + (1.1e-11 + (6.1e-7 - 1.1e-11) * day) * above * above)
    by_vpd = np.minimum(5.8, 1.0 + (5.2e-6 + (4.3e-6 - 5.2e-6) * day) * vpd * vpd)
    stomata = 82.0 * (light + 4.3) / (light + 0.54) * by_co2 * by_vpd
    return 2.0 * AIR_J_M3_K * real(leaf_area_index) * vpd / (PSYCHROMETRIC_PA_K * (275.0 + stomata))


def photosynthesis_kg_m2_s(temp_c: ArrayLike, co2_kg_m3: ArrayLike, rad_w_m2: ArrayLike) -> Any:
    """Gross CO2 uptake of a full cover [2], a b / (a + b) with a = 3.55e-9 I, b = g(T) (C - 5.2e-5).

    Parameters
    ----------
    temp_c : [C], held to 6..35 where g is valid
    co2_kg_m3 : [kg/m3]
    rad_w_m2 : global radiation outside [W/m2]

    Returns
    -------
    [kg/(m2 s)]. 20 C, 7.2e-4 kg/m3, 300 W/m2: 0.583e-6; 0 in the dark.
    """
    temp = np.minimum(np.maximum(real(temp_c), 6.0), 35.0)
    by_light = 3.55e-9 * np.maximum(0.0, real(rad_w_m2))
    by_co2 = (-5.11e-6 * temp * temp + 2.3e-4 * temp - 6.29e-4) * np.maximum(0.0, real(co2_kg_m3) - 5.2e-5)
    total = by_light + by_co2
    return by_light * by_co2 / np.maximum(total, 1e-30)  # 0 where both are


def canopy_cover(leaf_area_index: ArrayLike) -> Any:
    """Part of the floor that leaves shade, 1 - exp(-0.7 LAI) [-]; LAI 1: 0.503."""
    return 1.0 - np.exp(-0.7 * real(leaf_area_index))


def co2_uptake_kg_m2_s(temp_c: ArrayLike, co2_kg_m3: ArrayLike, rad_w_m2: ArrayLike, cover: ArrayLike) -> Any:
    """Net CO2 uptake of a crop, gross uptake of its cover by day and respiration of 8e-8 kg/(m2 s) of cover in the dark.

    Parameters
    ----------
    temp_c, co2_kg_m3, rad_w_m2 : as for `photosynthesis_kg_m2_s`
    cover : part of the floor under leaves [-]

    Returns
    -------
    [kg/(m2 s)], negative in the dark
    """
    light = real(rad_w_m2)
    return real(cover) * (photosynthesis_kg_m2_s(temp_c, co2_kg_m3, light) - 8e-8 * (light <= 0.0))


def condensation_kg_m2_s(vapour_pa: ArrayLike, cover_c: ArrayLike) -> Any:
    """Vapour that condenses on a cover, mass transfer 6.4e-9 x 5 kg/(m2 s Pa) [1].

    Parameters
    ----------
    vapour_pa : vapour pressure of the inside air [Pa]
    cover_c : temperature of the cover's inner face [C]

    Returns
    -------
    [kg/(m2 s)], not below 0. Air of 20 C and 80 % (1871 Pa) on a cover of 8.75 C: 2.38e-5.
    """
    saturation_pa = psychrometrics.saturation_pa(real(cover_c))
    return np.maximum(0.0, 6.4e-9 * 5.0 * (real(vapour_pa) - saturation_pa))


def advance(state: State, dt_s: float, *, inputs: Inputs, outside: Outside, parameters: Parameters) -> State:
    """The state `dt_s` later, in Euler steps of at most 10 s with inputs and weather held.

    Raises
    ------
    ValueError : where a position or the weather is no number, or a crop is none. Positions beyond 0..1 count as 0 or 1.
    """
    assert dt_s >= 0.0
    _check(parameters)
    steps, outside = math.ceil(dt_s / STEP_S_MAX), under_sky(outside)
    if not steps:
        return state

    def live(state: State, inputs: Inputs, outside: Outside, p: Parameters) -> State:
        around = _around(inputs, outside, p)
        for _ in range(steps):
            state = _euler(state, dt_s / steps, inputs, around, p)
        return state

    return all_after(live, state, (inputs, _INPUT_LIMITS), (outside, OUTSIDE_LIMITS), parameters=parameters)


@lru_cache(maxsize=32)
def _check(parameters: Parameters) -> None:
    held("leaf_area_index", parameters.leaf_area_index, 0.0, 20.0)


class _Around(NamedTuple):
    """What does not change while positions and weather are held, per m2 of floor."""

    temp_c: Any
    vapour_kg_m3: Any
    wind_m_s: Any
    opening: Any  # mean of both sides, 0..1
    leak_m_s: Any
    sky_k: Any  # that the cover sees it colder outside
    absorbed_w_m2: Any  # sun that crop and floor take up
    light_w_m2: Any  # above the canopy, with lamps, as stomata feel it
    outside_light_w_m2: Any  # sun that would give the crop as much light to grow by
    cover: Any  # part of the floor under leaves
    heat_w_m2: Any  # lamps and what comes by another way than the pipes
    loss_w_m2_k: Any  # through cover and screen
    fog_kg_m2_s: Any
    fan_m_s: Any
    blown_c: Any  # air that the fans draw in, behind the pad
    blown_kg_m3: Any
    dose_kg_m2_s: Any


def _around(inputs: Inputs, outside: Outside, p: Parameters) -> _Around:
    outside_c, vapour = outside.temp_c, vapour_density_kg_m3(outside.temp_c, outside.rh_pct)
    fan = inputs.exhaust_fan * p.fan_m_s
    wet = inputs.pad_pump * p.pad_efficiency
    colder = pad_cooling_k(outside_c, outside.rh_pct, wet * (fan > 0.0))
    absorbed, lamp_light = _light_w_m2(inputs, outside, p)
    return _Around(
        outside_c,
        vapour,
        outside.wind_m_s,
        (inputs.vent_lee + inputs.vent_wind) / 2.0,
        leakage_m_s(outside.wind_m_s, p.leakage),
        sky_pull_k(outside_c, outside.sky_c, outside.wind_m_s),
        absorbed,
        absorbed + lamp_light,
        absorbed / (p.transmission * (1.0 - p.albedo)) + lamp_light / (p.transmission * _PAR_SHARE),
        canopy_cover(p.leaf_area_index),
        inputs.heat_w_m2 + inputs.lamp * p.lamp_w_m2,
        p.cover_w_m2_k * (1.0 - p.screen_saving * inputs.thermal_screen),
        inputs.fog * p.fog_kg_m2_s,
        fan,
        outside_c - colder,
        vapour + AIR_J_M3_K * colder / VAPORISATION_J_KG,
        inputs.co2_valve * p.co2_kg_m2_s,
    )


def _euler(state: State, dt_s: float, inputs: Inputs, around: _Around, p: Parameters) -> State:
    warmer = state.air_c - around.temp_c
    vented = vent_flow_m_s(around.opening, state.air_c, around.temp_c, around.wind_m_s, p.roof_vent_area)
    drawn = p.screen_tight * inputs.thermal_screen
    flow = behind_screen_m_s(vented, drawn, warmer) + around.leak_m_s
    vapour_pa = vapour_pressure_pa(state)
    deficit = np.maximum(0.0, psychrometrics.saturation_pa(state.air_c) - vapour_pa)
    latent = transpiration_w_m2(p.leaf_area_index, around.light_w_m2, co2_ppm(state), deficit)
    pipe_heat, boiler_heat = pipe_heat_w_m2(state.pipe_c, state.air_c, p), _boiler(state, inputs, p)
    to_mass = p.air_mass_w_m2_k * (state.mass_c - state.air_c)
    loss = around.loss_w_m2_k * (warmer + around.sky_k) + AIR_J_M3_K * flow * warmer
    loss = loss + AIR_J_M3_K * around.fan_m_s * (state.air_c - around.blown_c)
    gain = around.cover * around.absorbed_w_m2 + pipe_heat + around.heat_w_m2 + to_mass
    air = state.air_c + dt_s * (gain - latent - loss - VAPORISATION_J_KG * around.fog_kg_m2_s) / p.air_j_m2_k
    mass_heat = (1.0 - around.cover) * around.absorbed_w_m2 - to_mass - p.mass_soil_w_m2_k * (state.mass_c - p.soil_c)
    mass = state.mass_c + dt_s * mass_heat / p.mass_j_m2_k
    # The cover's temperature lies between outside, as it feels it, and inside.
    condensed = condensation_kg_m2_s(vapour_pa, around.temp_c + 0.45 * warmer - 0.55 * around.sky_k)
    # Vapour comes to it through the screen, too.
    condensed = condensed * behind_screen_m_s(_TO_COVER_M_S, drawn, warmer) / _TO_COVER_M_S
    out = flow * (state.vapour_kg_m3 - around.vapour_kg_m3) + around.fan_m_s * (state.vapour_kg_m3 - around.blown_kg_m3)
    vapour = state.vapour_kg_m3 + dt_s * (latent / VAPORISATION_J_KG + around.fog_kg_m2_s - out - condensed) / p.height_m
    # What exceeds saturation is mist that falls out within a step.
    vapour = np.minimum(vapour, vapour_density_kg_m3(air))
    uptake = co2_uptake_kg_m2_s(state.air_c, state.co2_kg_m3, around.outside_light_w_m2, around.cover)
    exchange = (flow + around.fan_m_s) * (state.co2_kg_m3 - OUTSIDE_CO2_KG_M3)
    co2 = state.co2_kg_m3 + dt_s * (around.dose_kg_m2_s - uptake - exchange) / p.height_m
    pipe = state.pipe_c + dt_s * (boiler_heat - pipe_heat) / _water_j_m2_k(p)
    transpired = state.transpired_kg_m2 + dt_s * latent / VAPORISATION_J_KG
    return State(air, vapour, mass, co2, pipe, state.heat_j_m2 + dt_s * boiler_heat, transpired)


def _light_w_m2(inputs: Inputs, outside: Outside, p: Parameters) -> tuple[Any, Any]:
    """Sun that is taken up, and light of lamps."""
    shade = 1.0 - p.shade_cut * inputs.shade_screen
    absorbed = p.transmission * (1.0 - p.albedo) * shade * outside.rad_w_m2
    return absorbed, p.lamp_light * p.lamp_w_m2 * inputs.lamp


def _water_j_m2_k(p: Parameters) -> float:
    return np.pi / 4.0 * p.pipe_diameter_m**2 * p.pipe_length_m_m2 * 4.18e6


def _boiler(state: State, inputs: Inputs, p: Parameters) -> Any:
    # The mixing valve admits boiler water into the loop that the pump turns over; without the pump nothing flows.
    admitted = inputs.mixing_valve * inputs.pump * inputs.boiler
    asked = admitted * (_water_j_m2_k(p) / p.pipe_turnover_s) * (p.boiler_c - state.pipe_c)
    return np.minimum(np.maximum(asked, 0.0), p.boiler_w_m2)
