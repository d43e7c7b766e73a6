"""Control primitives without memory: P-band, influences, curves, times of day, schedules, limits of set points.

Every function takes scalars or arrays over units (n,) and returns float64 of the broadcast shape. Unknown is NaN, and unknown in
gives unknown out: `rules.control.memory.hold` after it holds the last value for at most three sample periods and then gives the
fail-safe. A BAD sample becomes unknown by `known`; an UNCERTAIN one is used. All figures are parameters; defaults are the handbook's.

References
----------
.. [1] Katzin et al.: GreenLight - an open source model for greenhouses with supplemental lighting, Biosystems Engineering 194
   (2020), doi:10.1016/j.biosystemseng.2020.03.010: proportional bands of vents, heating, screens and CO2.
.. [2] CIGR Working Group: Climatization of animal houses, heat and moisture production at animal and house levels, 4th report
   (2002): CO2 production per unit of animal heat.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from telemetry import quality as levels
from telemetry import sun
from telemetry.errors import CallerError
from telemetry.psychrometrics import saturation_vapour_pressure_pa

Array = NDArray[Any]

MIDNIGHT, SUNRISE, SUNSET = range(3)  # what a time of day is counted from
OUTSIDE_CO2_PPM: Final = 420.0
CO2_M3_H_PER_KW: Final = 0.185  # at 20 C, with what the manure gives [2]


def clamp(values: ArrayLike, low: ArrayLike, high: ArrayLike) -> Any:
    """Values within low..high; NaN where one of the three is. As np.clip, in a third of its time for few units."""
    return np.minimum(high, np.maximum(low, values))


def _array(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64)


def known(value: ArrayLike, quality: ArrayLike) -> Any:
    """The value where control may use it, NaN where its quality is BAD.

    Parameters
    ----------
    value : (n,) any unit
    quality : (n,) level and reasons as in telemetry/quality.py
    """
    return np.where(levels.is_bad(np.asarray(quality, np.uint16)), np.nan, _array(value))[()]


@np.errstate(all="ignore")
def p_band(measured: ArrayLike, set_point: ArrayLike, band: ArrayLike, *, low: ArrayLike = 0.0, high: ArrayLike = 100.0) -> Any:
    """Proportional band: u = low + (high - low) clamp((measured - set_point) / band, 0, 1).

    Parameters
    ----------
    measured, set_point : (n,) any one unit
    band : (n,) same unit; positive opens above the set point (vents), negative below it (heating); 0 is no band: NaN
    low, high : (n,) output at the set point and at the far end of the band

    Returns
    -------
    (n,) within low..high; NaN when any argument is, and for a band of 0. Reference [1]_.
    """
    width = _array(band)
    if not width.all():
        width = np.where(width == 0.0, np.nan, width)
    share = clamp((_array(measured) - _array(set_point)) / width, 0.0, 1.0)
    least, most = _array(low), _array(high)
    return np.where(share == 1.0, most, least + (most - least) * share)[()]


def influence(x: ArrayLike, start: ArrayLike, slope: ArrayLike, low: ArrayLike, high: ArrayLike) -> Any:
    """What one quantity adds to a set point or a band: clamp(slope (x - start), low, high).

    Parameters
    ----------
    x, start : (n,) the quantity that acts, and where its influence begins
    slope : (n,) unit of the set point per unit of x
    low, high : (n,) limits of what is added; infinite for none

    Returns
    -------
    (n,) unit of the set point; NaN when x is unknown. `hold` with fail-safe 0 lets a dead sensor lose its influence and no more.
    """
    return clamp(_array(slope) * (_array(x) - _array(start)), _array(low), _array(high))[()]


def ventilation_setpoint(heating_c: ArrayLike, ventilation_c: ArrayLike, dead_zone_k: ArrayLike) -> Any:
    """Dead zone: ventilation never begins less than `dead_zone_k` above heating, so that the two never work at once.

    Parameters
    ----------
    heating_c, ventilation_c : (n,) set points [C]
    dead_zone_k : (n,) at least 0 [K]

    Returns
    -------
    (n,) max(ventilation, heating + dead zone) [C]; NaN when either is unknown
    """
    return np.maximum(_array(ventilation_c), _array(heating_c) + _array(dead_zone_k))[()]


@np.errstate(all="ignore")
def curve(x: ArrayLike, knots_x: ArrayLike, knots_y: ArrayLike) -> Any:
    """A curve over day of batch, age, weight, hour or any quantity: straight between knots, constant beyond the ends.

    Parameters
    ----------
    x : (n,)
    knots_x, knots_y : (k,) of all units or (n, k) one curve each, ascending in x; a unit with fewer knots repeats its last one

    Returns
    -------
    (n,) unit of knots_y; NaN for NaN. Where two knots share an x, the later one holds from there on.

    Raises
    ------
    CallerError : knots that do not ascend or are not numbers
    """
    places, values, at = _array(knots_x), _array(knots_y), _array(x)
    _check_knots(places, values)
    if places.shape[-1] == 1:
        places, values = np.repeat(places, 2, axis=-1), np.repeat(values, 2, axis=-1)
    last = places.shape[-1] - 2
    first = clamp((at[..., None] >= places).sum(-1) - 1, 0, last)
    x0, x1, y0, y1 = (_nth(knots, first + k) for knots in (places, values) for k in (0, 1))
    share = np.where(x1 > x0, clamp((at - x0) / (x1 - x0), 0.0, 1.0), np.where(at >= x1, 1.0, 0.0))
    return np.where(np.isnan(at), np.nan, np.where(share == 1.0, y1, y0 + (y1 - y0) * share))[()]


def _nth(knots: Array, place: Array) -> Array:
    """A knot of each unit."""
    return knots[place] if knots.ndim == 1 else np.take_along_axis(knots, place[..., None], -1)[..., 0]


def _check_knots(places: Array, values: Array) -> None:
    if places.shape[-1:] != values.shape[-1:] or not places.shape or places.shape[-1] == 0:
        raise CallerError(f"a curve needs as many values as places, at least one; got shapes {places.shape} and {values.shape}")
    if not (np.isfinite(places).all() and np.isfinite(values).all() and (places[..., 1:] >= places[..., :-1]).all()):
        raise CallerError("knots of a curve must be finite numbers that ascend in x; sort them")


def moments_s(
    unix_s: ArrayLike,
    zone_s: ArrayLike,
    latitude_deg: ArrayLike,
    longitude_deg: ArrayLike,
    *,
    anchor: ArrayLike,
    offset_s: ArrayLike,
) -> Array:
    """Times of this local day that are counted from midnight, sunrise or sunset.

    Parameters
    ----------
    unix_s : (n,) now, seconds since 1970 UTC [s]
    zone_s : (n,) what local time is ahead of UTC now [s]
    latitude_deg, longitude_deg : (n,) north and east positive [deg]
    anchor : (k,) MIDNIGHT, SUNRISE or SUNSET
    offset_s : (k,) or (n, k) after the anchor, negative before it [s]

    Returns
    -------
    (n, k) seconds since 1970 UTC [s], the same from local midnight to midnight; NaN for sun times of a day without sunrise.
    On a day on which the zone's offset changes, midnight is off by that change until the change. Source: telemetry/sun.py.
    """
    local = _array(unix_s) + _array(zone_s)
    midnight = np.floor(local / sun.DAY_S) * sun.DAY_S - _array(zone_s)
    rise, down = sun.sunrise_sunset_s(midnight + sun.DAY_S / 2, latitude_deg, longitude_deg)
    bases = np.stack(np.broadcast_arrays(midnight, rise, down), axis=-1)
    return np.asarray(bases[..., np.asarray(anchor, np.intp)] + _array(offset_s))


def period_of_day(unix_s: ArrayLike, starts_s: ArrayLike) -> Array:
    """Which period of a day's programme is in force: the one that started last; before the first of today, yesterday's last.

    Parameters
    ----------
    unix_s : (n,) now, seconds since 1970 UTC [s]
    starts_s : (n, k) as of `moments_s`; a period whose start is NaN does not happen

    Returns
    -------
    (n,) int64 number of the period, the later one of equal starts; -1 when now or every start is unknown. `ramp` leads from one
    period's set point to the next.
    """
    starts, now = np.broadcast_arrays(_array(starts_s), _array(unix_s)[..., None])
    begun = starts <= now
    counted = np.where(begun.any(-1, keepdims=True), begun, np.isfinite(starts))
    last = np.where(counted, starts, -np.inf)
    chosen = starts.shape[-1] - 1 - np.argmax(last[..., ::-1], axis=-1)
    return np.asarray(np.where(counted.any(-1) & np.isfinite(now[..., 0]), chosen, -1), np.int64)


def schedule(
    unix_s: ArrayLike,
    starts_s: ArrayLike,
    ends_s: ArrayLike,
    *,
    conditions: ArrayLike,
    values: ArrayLike,
    otherwise: ArrayLike,
) -> Array:
    """The value of the first window that holds now and whose condition is true.

    Parameters
    ----------
    unix_s : (n,) now, seconds since 1970 UTC [s]
    starts_s, ends_s : (n, k) as of `moments_s`, the start in the window and the end not; a start after its end crosses midnight
    conditions : (n, k) 1 true, 0 false, NaN unknown: a weekday, a mode, a measured value against its limit
    values : (k,) or (n, k) any unit
    otherwise : (n,) same unit, when no window holds

    Returns
    -------
    (n,) unit of values; NaN when now is unknown, or the condition that decides is. A window without a known start or end never holds.
    """
    start, end, now, condition, value = np.broadcast_arrays(
        _array(starts_s), _array(ends_s), _array(unix_s)[..., None], _array(conditions), _array(values)
    )
    inside = np.where(start <= end, (start <= now) & (now < end), (now >= start) | (now < end))
    alive = inside & np.isfinite(start) & np.isfinite(end) & (condition != 0.0)
    first = np.argmax(alive, axis=-1)[..., None]
    chosen = np.where(np.isnan(condition), np.nan, value)
    found = np.take_along_axis(chosen, first, -1)[..., 0]
    result = np.where(alive.any(-1), found, _array(otherwise))
    return np.where(np.isfinite(now[..., 0]), result, np.nan)


@np.errstate(all="ignore")
def humidity_setpoint_pct(rh_pct: ArrayLike, air_c: ArrayLike, wall_c: ArrayLike, *, margin_k: ArrayLike = 0.3) -> Any:
    """A humidity set point cut so that nothing condenses: dew point <= coldest wall - margin, RH <= 100 es(wall - margin) / es(air).

    Parameters
    ----------
    rh_pct : (n,) set point wanted [%]
    air_c : (n,) air temperature [C]
    wall_c : (n,) coldest wall or ceiling [C]
    margin_k : (n,) [K]

    Returns
    -------
    (n,) [%]; NaN when any is unknown: give the limit a fail-safe by `hold` (0 % makes no fog)
    """
    limit = 100.0 * saturation_vapour_pressure_pa(_array(wall_c) - _array(margin_k)) / saturation_vapour_pressure_pa(air_c)
    return np.minimum(_array(rh_pct), limit)[()]


@np.errstate(all="ignore")
def blanket_break_even_w_m2(
    inside_c: ArrayLike,
    outside_c: ArrayLike,
    *,
    open_w_m2_k: ArrayLike = 5.0,
    closed_w_m2_k: ArrayLike = 1.3,
    film_ratio: ArrayLike = 1.15,
    transmission: ArrayLike = 0.70,
    tilt_gain: ArrayLike = 1.3,
) -> Any:
    """Horizontal radiation above which an open blanket gains more than it loses: (Uo - Uc) (A/Af) (Ti - To) / (tau g).

    Parameters
    ----------
    inside_c, outside_c : (n,) [C]
    open_w_m2_k, closed_w_m2_k : (n,) heat loss without and with blanket [W/(m2 K)]
    film_ratio : (n,) film area per floor area [-]
    transmission : (n,) of the film [-]
    tilt_gain : (n,) radiation on the film per horizontal radiation [-]

    Returns
    -------
    (n,) [W/m2], 0 when it is warmer outside; NaN when a temperature is unknown. 20 K: 93.5.
    """
    loss = (_array(open_w_m2_k) - _array(closed_w_m2_k)) * _array(film_ratio) * (_array(inside_c) - _array(outside_c))
    return np.maximum(loss / (_array(transmission) * _array(tilt_gain)), 0.0)[()]


@np.errstate(all="ignore")
def ventilation_for_co2_m3_h(heat_w: ArrayLike, limit_ppm: ArrayLike, *, outside_ppm: ArrayLike = OUTSIDE_CO2_PPM) -> Any:
    """Ventilation that keeps the CO2 of animals at a limit: 0.185 heat / 1000 1e6 / (limit - outside).

    Parameters
    ----------
    heat_w : (n,) total heat of the animals [W]
    limit_ppm, outside_ppm : (n,) [ppm]

    Returns
    -------
    (n,) [m3/h]; NaN when a value is unknown or the limit is not above outside. 224 W, 3000 ppm: 16.1. Reference [2]_.
    """
    room = _array(limit_ppm) - _array(outside_ppm)
    return (CO2_M3_H_PER_KW * _array(heat_w) * 1000.0 / np.where(room > 0.0, room, np.nan))[()]
