"""Moist air: vapour pressure, deficit, dew point, wet bulb, enthalpy, and the indices built from them. One function, one equation.

Every function takes scalars or arrays of any broadcastable shapes and returns float64 of the broadcast shape. NaN in gives NaN out;
so does an argument for which the equation has no value (dew point of dry air). Nothing warns, nothing is clamped: a relative
humidity of 101 % is the caller's fault to judge. Relative humidity is in percent and, as sensors and the WMO define it, over
liquid water at all temperatures. This is the only implementation: mixing constants of another one moves RH by 0.6 %.

References
----------
.. [1] Allen, Pereira, Raes, Smith: Crop evapotranspiration, FAO Irrigation and Drainage Paper 56 (1998), eq. 7, 8, 11, 14, 15, 17.
.. [2] WMO-No. 8, Guide to Instruments and Methods of Observation, annex 4.B (Magnus formula over ice).
.. [3] ASHRAE Handbook Fundamentals, psychrometrics chapter (mixing ratio, enthalpy, standard atmosphere).
"""

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

PRESSURE_PA: Final = 101_325.0  # standard atmosphere, sea level
GAS_CONSTANT_VAPOUR: Final = 461.5  # J/(kg K)
MOLAR_RATIO: Final = 0.62198  # water over dry air, 18.015 / 28.964
PSYCHROMETER_PER_K: Final = 0.000665  # ventilated (aspirated) psychrometer, FAO-56 equation 8
ZERO_C_K: Final = 273.15
# mg/m3 per ppm at 20 C and 101 325 Pa: p M / (R T).
MG_M3_PER_PPM: Final = {"nh3": 0.7080, "h2s": 1.4168, "co2": 1.8295}
# mol PAR per MJ of global radiation. The two differ by 12 %: whoever stores a light sum stores which one made it.
PAR_MOL_PER_MJ: Final = {"greenlight": 2.30, "outdoor": 2.06}
# Newton steps of the wet bulb. From 60 C and dry air the eighth already moves less than 1e-9 K.
_WET_BULB_STEPS: Final = 16


def _array(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64)


@np.errstate(all="ignore")
def saturation_vapour_pressure_pa(temp_c: ArrayLike) -> Any:
    """Saturation vapour pressure over liquid water, also below 0 C.

    es = 610.8 exp(17.27 T / (T + 237.3))

    Parameters
    ----------
    temp_c : air temperature [C], valid -40..60; NaN at and below the pole at -237.3

    Returns
    -------
    [Pa]. 20 C: 2338.3, 25 C: 3167.8, 30 C: 4243.1. Reference [1]_ equation 11.
    """
    return _saturation_pa(temp_c)


def saturation_pa(temp_c: Any) -> Any:
    """The formula of `saturation_vapour_pressure_pa` alone, for temperatures known to be above the pole at -237.3 C.

    In a model's step the guards would cost several times what the formula does.

    Parameters
    ----------
    temp_c : a number or an array [C]

    Returns
    -------
    [Pa]
    """
    return 610.8 * np.exp(17.27 * temp_c / (temp_c + 237.3))


def _saturation_pa(temp_c: ArrayLike) -> Any:
    # For functions that ignore floating-point errors already: setting that twice costs as much as the formula.
    temp = _array(temp_c)
    result = saturation_pa(temp)
    below = temp <= -237.3
    return np.where(below, np.nan, result)[()] if (np.count_nonzero(below) if temp.ndim else below) else result


@np.errstate(all="ignore")
def saturation_vapour_pressure_ice_pa(temp_c: ArrayLike) -> Any:
    """Saturation vapour pressure over ice: what frost on a pipe or a roof is in balance with.

    ei = 611.2 exp(22.46 T / (T + 272.62)) below 0 C; above it there is no ice and the value over water is returned.

    Parameters
    ----------
    temp_c : surface temperature [C], valid -65..0

    Returns
    -------
    [Pa]. -5 C: 401.8. Reference [2]_.
    """
    temp = _array(temp_c)
    ice = np.where(temp > -272.62, 611.2 * np.exp(22.46 * temp / (temp + 272.62)), np.nan)
    return np.where(temp < 0, ice, _saturation_pa(temp))[()]


@np.errstate(all="ignore")
def vapour_pressure_pa(temp_c: ArrayLike, rh_pct: ArrayLike) -> Any:
    """Actual vapour pressure ea = es(T) RH / 100.

    Parameters
    ----------
    temp_c : air temperature [C]
    rh_pct : relative humidity [%]

    Returns
    -------
    [Pa]. 25 C, 60 %: 1900.7. Reference [1]_ equation 17.
    """
    return _saturation_pa(temp_c) * _array(rh_pct) / 100.0


@np.errstate(all="ignore")
def relative_humidity_pct(temp_c: ArrayLike, vapour_pa: ArrayLike) -> Any:
    """Relative humidity 100 ea / es(T); over 100 in supersaturated air.

    Parameters
    ----------
    temp_c : air temperature [C]
    vapour_pa : vapour pressure [Pa]

    Returns
    -------
    [%]
    """
    return 100.0 * _array(vapour_pa) / _saturation_pa(temp_c)


@np.errstate(all="ignore")
def vpd_kpa(temp_c: ArrayLike, rh_pct: ArrayLike) -> Any:
    """Vapour pressure deficit of the air, es(T) (1 - RH/100).

    Parameters
    ----------
    temp_c : air temperature [C]
    rh_pct : relative humidity [%]

    Returns
    -------
    [kPa]. 25 C, 60 %: 1.267; 20 C, 80 %: 0.468.
    """
    return _saturation_pa(temp_c) * (1.0 - _array(rh_pct) / 100.0) / 1000.0


@np.errstate(all="ignore")
def leaf_vpd_kpa(leaf_temp_c: ArrayLike, temp_c: ArrayLike, rh_pct: ArrayLike) -> Any:
    """Vapour pressure deficit between leaf and air, es(T_leaf) - ea; negative when dew falls on the leaf.

    Parameters
    ----------
    leaf_temp_c : leaf temperature [C]
    temp_c : air temperature [C]
    rh_pct : relative humidity of the air [%]

    Returns
    -------
    [kPa]. Leaf 23 C in air of 25 C, 60 %: 0.909.
    """
    return (_saturation_pa(leaf_temp_c) - vapour_pressure_pa(temp_c, rh_pct)) / 1000.0


@np.errstate(all="ignore")
def dew_point_c(temp_c: ArrayLike, rh_pct: ArrayLike) -> Any:
    """Dew point Td = 237.3 y / (17.27 - y), y = ln(ea / 610.8): the inverse of `saturation_vapour_pressure_pa`.

    Parameters
    ----------
    temp_c : air temperature [C]
    rh_pct : relative humidity [%]; NaN at 0 and below, where air has no dew point

    Returns
    -------
    [C]. 25 C, 60 %: 16.70; 30 C, 55 %: 19.97. Reference [1]_ equation 14.
    """
    vapour = _array(vapour_pressure_pa(temp_c, rh_pct))
    y = np.log(vapour / 610.8)
    result = 237.3 * y / (17.27 - y)
    return np.where(vapour > 0, result, np.nan)[()]


@np.errstate(all="ignore")
def wet_bulb_c(temp_c: ArrayLike, rh_pct: ArrayLike, pressure_pa: ArrayLike = PRESSURE_PA) -> Any:
    """Temperature of an aspirated wet bulb: the root Tw of es(Tw) - 0.000665 p (T - Tw) = ea.

    The left side is increasing and convex in Tw, so Newton's method from T comes down to the root without overshooting.

    Parameters
    ----------
    temp_c : air temperature [C]
    rh_pct : relative humidity [%]
    pressure_pa : air pressure [Pa]

    Returns
    -------
    [C]. 25 C, 60 %: 19.52; 35 C, 40 %: 24.0. Reference [1]_ equations 8 and 15.
    """
    temp = _array(temp_c)
    gamma = PSYCHROMETER_PER_K * _array(pressure_pa)
    vapour = vapour_pressure_pa(temp, rh_pct)
    wet = temp + 0.0 * (vapour + gamma)  # broadcast
    for _ in range(_WET_BULB_STEPS):
        saturation = _saturation_pa(wet)
        slope = saturation * 17.27 * 237.3 / (wet + 237.3) ** 2
        wet = wet - (saturation - gamma * (temp - wet) - vapour) / (slope + gamma)
    return wet[()]


@np.errstate(all="ignore")
def abs_humidity_g_m3(temp_c: ArrayLike, rh_pct: ArrayLike) -> Any:
    """Absolute humidity 1000 ea / (461.5 (T + 273.15)), the ideal gas law of vapour.

    Parameters
    ----------
    temp_c : air temperature [C]
    rh_pct : relative humidity [%]

    Returns
    -------
    [g/m3]. 25 C, 60 %: 13.81.
    """
    return 1000.0 * vapour_pressure_pa(temp_c, rh_pct) / (GAS_CONSTANT_VAPOUR * (_array(temp_c) + ZERO_C_K))


@np.errstate(all="ignore")
def humidity_deficit_g_m3(temp_c: ArrayLike, rh_pct: ArrayLike) -> Any:
    """How much more water the air could take: absolute humidity at saturation less the actual one.

    Parameters
    ----------
    temp_c : air temperature [C]
    rh_pct : relative humidity [%]

    Returns
    -------
    [g/m3]. 25 C, 60 %: 9.21.
    """
    return abs_humidity_g_m3(temp_c, 100.0) - abs_humidity_g_m3(temp_c, rh_pct)


@np.errstate(all="ignore")
def mixing_ratio(temp_c: ArrayLike, rh_pct: ArrayLike, pressure_pa: ArrayLike = PRESSURE_PA) -> Any:
    """Mass of vapour per mass of dry air, w = 0.622 ea / (p - ea).

    Parameters
    ----------
    temp_c : air temperature [C]
    rh_pct : relative humidity [%]
    pressure_pa : air pressure [Pa]; NaN where the vapour pressure reaches it (boiling)

    Returns
    -------
    [kg/kg]. 25 C, 60 %: 0.01189. Reference [3]_.
    """
    vapour = vapour_pressure_pa(temp_c, rh_pct)
    dry = _array(_array(pressure_pa) - vapour)
    return np.where(dry > 0, MOLAR_RATIO * vapour / dry, np.nan)[()]


@np.errstate(all="ignore")
def enthalpy_kj_kg(temp_c: ArrayLike, rh_pct: ArrayLike, pressure_pa: ArrayLike = PRESSURE_PA) -> Any:
    """Enthalpy of moist air per kg of dry air, h = 1.006 T + w (2501 + 1.86 T).

    Parameters
    ----------
    temp_c : air temperature [C]
    rh_pct : relative humidity [%]
    pressure_pa : air pressure [Pa]

    Returns
    -------
    [kJ/kg]. 25 C, 60 %: 55.44; 30 C, 55 %: 67.67. Reference [3]_.
    """
    temp = _array(temp_c)
    return 1.006 * temp + mixing_ratio(temp, rh_pct, pressure_pa) * (2501.0 + 1.86 * temp)


@np.errstate(all="ignore")
def pressure_at_altitude_pa(altitude_m: ArrayLike) -> Any:
    """Pressure of the standard atmosphere, p = 101325 (1 - 2.25577e-5 z)^5.2559.

    Parameters
    ----------
    altitude_m : height above sea level [m], valid -500..11000

    Returns
    -------
    [Pa]. 1000 m: 89 875. Reference [3]_.
    """
    return PRESSURE_PA * (1.0 - 2.25577e-5 * _array(altitude_m)) ** 5.2559


@np.errstate(all="ignore")
def thi(temp_c: ArrayLike, rh_pct: ArrayLike) -> Any:
    """Temperature-humidity index of animals, 0.8 T + RH (T - 14.4) + 46.4 with RH as a fraction.

    Parameters
    ----------
    temp_c : air temperature [C]
    rh_pct : relative humidity [%] (percent here too; the equation's fraction is made inside)

    Returns
    -------
    [-]. 24 C, 80 %: 73.3; 30 C, 60 %: 79.8; 35 C, 50 %: 84.7. Pigs: 74 alert, 78 danger, 84 emergency.
    """
    temp = _array(temp_c)
    return 0.8 * temp + _array(rh_pct) / 100.0 * (temp - 14.4) + 46.4


@np.errstate(all="ignore")
def dli_mol_m2(ppfd_umol_m2_s: ArrayLike, interval_s: ArrayLike) -> Any:
    """Light sum of a series of photosynthetic photon flux densities, sum(PPFD dt) / 1e6.

    Parameters
    ----------
    ppfd_umol_m2_s : samples along the last axis [umol/(m2 s)]
    interval_s : how long each sample stands [s], one number or one per sample

    Returns
    -------
    [mol/m2], a day's series gives the daily light integral. 250 umol for 12 h: 10.80. NaN when any sample is NaN: a light sum with
    a hole in it is not a sum.
    """
    return (np.atleast_1d(_array(ppfd_umol_m2_s)) * _array(interval_s)).sum(axis=-1)[()] / 1e6


@np.errstate(all="ignore")
def par_mol_from_global_mj(radiation_mj_m2: ArrayLike, *, constant: str = "greenlight") -> Any:
    """Light sum in mol PAR from a sum of global radiation.

    Parameters
    ----------
    radiation_mj_m2 : global radiation sum [MJ/m2] (100 J/cm2 = 1 MJ/m2)
    constant : which of PAR_MOL_PER_MJ, "greenlight" (0.5 x 4.6) or "outdoor" (0.45 x 4.57); KeyError for another

    Returns
    -------
    [mol/m2]. 10 MJ/m2: 23.0 or 20.6.
    """
    return _array(radiation_mj_m2) * PAR_MOL_PER_MJ[constant]


@np.errstate(all="ignore")
def mg_m3_from_ppm(gas_ppm: ArrayLike, gas: str) -> Any:
    """Mass concentration at 20 C and 101 325 Pa.

    Parameters
    ----------
    gas_ppm : volume fraction [ppm]
    gas : "nh3", "h2s" or "co2"; KeyError for another

    Returns
    -------
    [mg/m3]. 1 ppm: 0.708, 1.417, 1.830.
    """
    return _array(gas_ppm) * MG_M3_PER_PPM[gas]


@np.errstate(all="ignore")
def ppm_from_mg_m3(concentration_mg_m3: ArrayLike, gas: str) -> Any:
    """Volume fraction at 20 C and 101 325 Pa: the inverse of `mg_m3_from_ppm`.

    Parameters
    ----------
    concentration_mg_m3 : mass concentration [mg/m3]
    gas : "nh3", "h2s" or "co2"; KeyError for another

    Returns
    -------
    [ppm]. 1500 mg/m3 CO2: 820.
    """
    return _array(concentration_mg_m3) / MG_M3_PER_PPM[gas]
