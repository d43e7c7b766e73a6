"""Where the sun stands and how bright a clear sky is, by latitude, longitude and UTC. One function, one equation.

Scalars or arrays in, float64 of the broadcast shape out; NaN in gives NaN out, nothing warns. Accuracy: 1.5 degrees of height and
a few minutes of sunrise at middle latitudes, which is what set points tied to sunrise need. Refraction enters only `HORIZON_DEG`.

References
----------
.. [1] Cooper: The absorption of radiation in solar stills, Solar Energy 12 (1969) 333-346, doi:10.1016/0038-092X(69)90047-4.
.. [2] Haurwitz: Insolation in relation to cloudiness and cloud density, J. Meteorology 2 (1945) 154-166.
.. [3] Spencer: Fourier series representation of the position of the sun, Search 2 (1971) 172.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

DAY_S: Final = 86_400
# Upper limb at the horizon with standard refraction: what calendars print as sunrise.
HORIZON_DEG: Final = -0.833


def _array(values: ArrayLike) -> Array:
    return np.asarray(values, dtype=np.float64)


def day_of_year(unix_s: ArrayLike) -> Any:
    """Day of the year in UTC with its fraction: 1.0 at the first midnight.

    Parameters
    ----------
    unix_s : seconds since 1970 UTC [s]

    Returns
    -------
    [d] 1..366.99; NaN for NaN
    """
    seconds = _array(unix_s)
    known = np.isfinite(seconds)
    days = np.where(known, seconds, 0.0) / DAY_S
    stamps = np.floor(days).astype("datetime64[D]")
    first = stamps.astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)
    return np.where(known, days - first + 1.0, np.nan)[()]


def declination_deg(day: ArrayLike) -> Any:
    """Declination 23.45 sin(2 pi (284 + n) / 365).

    Parameters
    ----------
    day : day of the year n [d]

    Returns
    -------
    [deg] -23.45..23.45. Reference [1]_.
    """
    return 23.45 * np.sin(2.0 * np.pi * (284.0 + _array(day)) / 365.0)


def equation_of_time_min(day: ArrayLike) -> Any:
    """By how much the sun is ahead of a mean clock.

    Parameters
    ----------
    day : day of the year [d]

    Returns
    -------
    [min] -14.3 in mid February to 16.4 in early November. Reference [3]_.
    """
    angle = 2.0 * np.pi * (_array(day) - 1.0) / 365.0
    return 229.18 * (
        0.000075 + 0.001868 * np.cos(angle) - 0.032077 * np.sin(angle) - 0.014615 * np.cos(2 * angle) - 0.040849 * np.sin(2 * angle)
    )


def solar_hour(unix_s: ArrayLike, longitude_deg: ArrayLike) -> Any:
    """Apparent solar time: 12 when the sun stands in the south (or north).

    Parameters
    ----------
    unix_s : seconds since 1970 UTC [s]
    longitude_deg : east positive [deg]

    Returns
    -------
    [h] 0..24
    """
    seconds = _array(unix_s)
    utc_h = np.mod(seconds, DAY_S) / 3600.0
    return np.mod(utc_h + _array(longitude_deg) / 15.0 + equation_of_time_min(day_of_year(seconds)) / 60.0, 24.0)


def elevation_deg(latitude_deg: ArrayLike, day: ArrayLike, hour: ArrayLike) -> Any:
    """Height of the sun's centre: sin(el) = sin(lat) sin(decl) + cos(lat) cos(decl) cos(15 (h - 12)).

    Parameters
    ----------
    latitude_deg : north positive [deg]
    day : day of the year [d]
    hour : apparent solar time [h]

    Returns
    -------
    [deg] -90..90. Latitude 36.7, noon: 29.9 on day 355, 52.9 on day 80, 76.7 on day 172.
    """
    latitude = np.radians(_array(latitude_deg))
    declination = np.radians(declination_deg(day))
    angle = np.radians(15.0 * (_array(hour) - 12.0))
    sine = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(angle)
    return np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0)))


def elevation_at_deg(unix_s: ArrayLike, latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> Any:
    """Height of the sun's centre at a time and place.

    Parameters
    ----------
    unix_s : seconds since 1970 UTC [s]
    latitude_deg : north positive [deg]
    longitude_deg : east positive [deg]

    Returns
    -------
    [deg]
    """
    return elevation_deg(latitude_deg, day_of_year(unix_s), solar_hour(unix_s, longitude_deg))


def clear_sky_ghi_w_m2(elevation: ArrayLike) -> Any:
    """Global horizontal radiation of a clear sky, 1098 sin(el) exp(-0.059 / sin(el)); 0 at night.

    Parameters
    ----------
    elevation : height of the sun [deg]

    Returns
    -------
    [W/m2]. Elevation 29.9: 485, 52.9: 813, 76.7: 1006. Reference [2]_.
    """
    sine = np.sin(np.radians(_array(elevation)))
    up = sine > 0
    with np.errstate(all="ignore"):
        # Just above the horizon exp(-0.059 / tiny) underflows to 0, which is the limit.
        lit = 1098.0 * sine * np.exp(-0.059 / np.where(up, sine, 1.0))
    return np.where(up, lit, np.where(np.isnan(sine), np.nan, 0.0))[()]


def day_length_h(latitude_deg: ArrayLike, day: ArrayLike, *, horizon_deg: float = HORIZON_DEG) -> Any:
    """Hours for which the sun stands above the horizon; 0 in the polar night, 24 in the polar day.

    Parameters
    ----------
    latitude_deg : north positive [deg]
    day : day of the year [d]
    horizon_deg : height that counts as risen [deg]

    Returns
    -------
    [h] 0..24
    """
    latitude = np.radians(_array(latitude_deg))
    declination = np.radians(declination_deg(day))
    with np.errstate(all="ignore"):
        cosine = (np.sin(np.radians(horizon_deg)) - np.sin(latitude) * np.sin(declination)) / (
            np.cos(latitude) * np.cos(declination)
        )
    return 2.0 * np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))) / 15.0


def sunrise_sunset_s(unix_s: ArrayLike, latitude_deg: ArrayLike, longitude_deg: ArrayLike) -> tuple[Any, Any]:
    """Sunrise and sunset of the solar day that holds a time.

    Parameters
    ----------
    unix_s : any time of the day, seconds since 1970 UTC [s]
    latitude_deg : north positive [deg]
    longitude_deg : east positive [deg]

    Returns
    -------
    (sunrise, sunset) in seconds since 1970 UTC [s]; both NaN when the sun does not cross the horizon that day
    """
    seconds = _array(unix_s)
    noon = seconds + (12.0 - solar_hour(seconds, longitude_deg)) * 3600.0
    length = _array(day_length_h(latitude_deg, day_of_year(noon)))
    half = np.where((length > 0.0) & (length < 24.0), length, np.nan) * 1800.0
    return (noon - half)[()], (noon + half)[()]
