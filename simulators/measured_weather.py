"""Measured weather in place of the generator: a recording that answers `at(unix_s)`, and readers of two public ones.

Between two readings temperature, humidity, radiation, wind and sky are straight lines; direction and rain are those of the last
reading. A missing cell is bridged in the same way and counted in `missing`. Outside of the recording there is no weather: an error.

References
----------
.. [1] Allen et al.: Crop evapotranspiration, FAO Irrigation and Drainage Paper 56 (1998), equation 50: radiation of a day from its
   range of temperature, Rs = 0.16 sqrt(Tmax - Tmin) Ra.
"""

import csv
import datetime as dt
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulators.weather import GUST_FACTOR, Weather, WeatherSample
from telemetry import psychrometrics, sun

Array = NDArray[np.float64]

COLUMNS: Final = ("temp_c", "rh_pct", "rad_w_m2", "wind_m_s", "wind_dir_deg", "rain", "sky_temp_c")
_STEPS: Final = ("wind_dir_deg", "rain")  # not between two readings
_STEFAN_BOLTZMANN: Final = 5.67e-8
_CLEAR_TO_TOP: Final = 0.75  # clear-sky radiation of the sun's above the air, FAO-56 equation 37
BEIJING: Final = (39.93, 116.42)  # latitude, longitude of station Dongsi [deg]
_ROSE: Final = "N,NNE,NE,ENE,E,ESE,SE,SSE,S,SSW,SW,WSW,W,WNW,NW,NNW"
_SECTORS: Final = {name: 22.5 * sector for sector, name in enumerate(_ROSE.split(","))}


class MeasuredWeather(Weather):
    """Weather of a recording. `missing` counts the cells of each column that were bridged."""

    def __init__(self, times_s: ArrayLike, columns: Mapping[str, ArrayLike]) -> None:
        """Take a recording.

        Parameters
        ----------
        times_s : (k,) Unix time of each reading, rising [s]
        columns : (k,) by the names of COLUMNS; NaN where nothing was read. Without `sky_temp_c` the sky is a clear one

        Raises
        ------
        ValueError : times that do not rise, a column that is missing, of another length or empty
        """
        self._times = [float(t) for t in np.asarray(times_s, float)]
        if len(self._times) < 2 or not np.all(np.diff(self._times) > 0.0):
            raise ValueError("a recording of weather needs at least two readings whose times rise; sort them, one a moment")
        absent = [name for name in COLUMNS[:-1] if name not in columns]
        if absent:
            raise ValueError(
                f"a recording of weather needs the columns {', '.join(COLUMNS[:-1])}; {', '.join(absent)} is not there"
            )
        filled = {name: _filled(name, columns[name], self._times) for name in COLUMNS if name in columns}
        self.missing = {name: missing for name, (_, missing) in filled.items()}
        values = {name: array for name, (array, _) in filled.items()}
        values.setdefault("sky_temp_c", 0.0552 * (values["temp_c"] + psychrometrics.ZERO_C_K) ** 1.5 - psychrometrics.ZERO_C_K)
        self._rows: list[tuple[float, ...]] = list(zip(*(values[name].tolist() for name in COLUMNS), strict=True))

    @property
    def span_s(self) -> tuple[float, float]:
        """First and last moment [Unix s]."""
        return self._times[0], self._times[-1]

    def at(self, unix_s: float) -> WeatherSample:
        """The weather at a moment. ValueError before the first and after the last reading."""
        first, last = self.span_s
        if not first <= unix_s <= last:
            begin, end = (dt.datetime.fromtimestamp(t, dt.UTC).isoformat(timespec="minutes") for t in (first, last))
            raise ValueError(f"no weather was recorded at {unix_s:.0f}; the recording goes from {begin} to {end}: begin within it")
        index = min(bisect_right(self._times, unix_s), len(self._times) - 1)
        before, after = self._rows[index - 1], self._rows[index]
        share = (unix_s - self._times[index - 1]) / (self._times[index] - self._times[index - 1])
        temp, rh, rad, wind, _, _, sky = (a + (b - a) * share for a, b in zip(before, after, strict=True))
        held = after if share >= 1.0 else before
        return WeatherSample(temp, rh, rad, wind, GUST_FACTOR * wind, held[4], held[5] > 0.0, sky)


def _filled(name: str, given: ArrayLike, times: list[float]) -> tuple[Array, int]:
    """A column without holes, and how many there were."""
    values = np.asarray(given, float)
    known = np.isfinite(values)
    if values.shape != (len(times),) or not known.any():
        raise ValueError(f"column {name} needs one value for each of the {len(times)} readings, and at least one that is a number")
    at = np.asarray(times)
    if name in _STEPS:
        last = np.maximum.accumulate(np.where(known, np.arange(len(values)), np.argmax(known)))
        return values[last], int((~known).sum())
    return np.interp(at, at[known], values[known]), int((~known).sum())


def read_agc2022(lines: Iterable[str]) -> MeasuredWeather:
    """Lines of `weather.csv` of the Autonomous Greenhouse Challenge 2022: every 5 min, Dutch local time (winter).

    The sky's temperature comes from the pyrgeometer's net radiation: sigma Tsky^4 = sigma T^4 + net.
    """
    names = {
        "temp_c": "Tout",
        "rh_pct": "Rhout",
        "rad_w_m2": "Iglob",
        "wind_m_s": "Windsp",
        "wind_dir_deg": "Winddir",
        "rain": "Rain",
    }
    times, columns = _table(lines, names | {"net_w_m2": "Pyrgeo"}, _agc_time)
    kelvin = columns["temp_c"] + psychrometrics.ZERO_C_K
    sky = (kelvin**4 + columns.pop("net_w_m2") / _STEFAN_BOLTZMANN) ** 0.25 - psychrometrics.ZERO_C_K
    columns["rad_w_m2"] = np.maximum(0.0, columns["rad_w_m2"])
    return MeasuredWeather(times, columns | {"sky_temp_c": sky})


def read_beijing(lines: Iterable[str]) -> MeasuredWeather:
    """Lines of a station of the Beijing Multi-Site Air-Quality data: every hour, UTC+8.

    Radiation was not measured: it is the clear sky's times a clearness of the day from its range of temperature [1]_.
    """
    names = {"temp_c": "TEMP", "dew_c": "DEWP", "wind_m_s": "WSPM", "wind_dir_deg": "wd", "rain": "RAIN"}
    times, columns = _table(lines, names, _beijing_time)
    at = np.arange(times[0], times[-1] + 1.0, 600.0)  # a straight line between hours would round off the noon
    bridged = {name: _filled(name, values, times.tolist()) for name, values in columns.items()}
    columns = {name: values for name, (values, _) in bridged.items()}
    temp, dew = (np.interp(at, times, columns[name]) for name in ("temp_c", "dew_c"))
    rh = psychrometrics.relative_humidity_pct(temp, psychrometrics.saturation_vapour_pressure_pa(np.minimum(dew, temp)))
    rad = sun.clear_sky_ghi_w_m2(sun.elevation_at_deg(at, *BEIJING)) * _clearness(at, temp)
    held = np.clip(np.searchsorted(times, at, side="right") - 1, 0, None)
    weather = MeasuredWeather(
        at,
        {
            "temp_c": temp,
            "rh_pct": rh,
            "rad_w_m2": rad,
            "wind_m_s": np.interp(at, times, columns["wind_m_s"]),
            "wind_dir_deg": columns["wind_dir_deg"][held],
            "rain": columns["rain"][held],
        },
    )
    weather.missing = {name: missing for name, (_, missing) in bridged.items()}
    return weather


def _clearness(at: Array, temp: Array) -> Array:
    """0.15..1 for each moment, of its day in UTC+8 [1]."""
    days = ((at + 8 * 3600.0) // sun.DAY_S).astype(int)
    days -= days[0]
    high, low = np.full(days[-1] + 1, -np.inf), np.full(days[-1] + 1, np.inf)
    np.maximum.at(high, days, temp)
    np.minimum.at(low, days, temp)
    return np.asarray(np.clip(0.16 * np.sqrt(high - low) / _CLEAR_TO_TOP, 0.15, 1.0)[days])


def _table(lines: Iterable[str], names: Mapping[str, str], time_of: Any) -> tuple[Array, dict[str, Array]]:
    """Times [Unix s] and columns of a file; a cell that is no number is NaN, a row whose time does not rise is left out."""
    rows = [{(key or "").strip(): value for key, value in row.items()} for row in csv.DictReader(lines)]
    absent = [column for column in names.values() if not rows or column not in rows[0]]
    if absent:
        raise ValueError(f"there is no column {', '.join(absent)}: it is not the recording this reader is for")
    times: list[float] = []
    kept: list[Mapping[str, str]] = []
    for row in rows:
        time = time_of(row)
        if not times or time > times[-1]:
            times.append(time)
            kept.append(row)
    return np.asarray(times), {name: _numbers(row[column] for row in kept) for name, column in names.items()}


def _numbers(cells: Iterable[str]) -> Array:
    return np.asarray([_number(cell) for cell in cells])


def _number(cell: str) -> float:
    try:
        return _SECTORS[cell] if cell in _SECTORS else float(cell)
    except ValueError:
        return math.nan


def _agc_time(row: Mapping[str, str]) -> float:
    return dt.datetime.strptime(row["Date"], "%m/%d/%Y %H:%M").replace(tzinfo=ZoneInfo("Europe/Amsterdam")).timestamp()


def _beijing_time(row: Mapping[str, str]) -> float:
    zone = dt.timezone(dt.timedelta(hours=8))
    return dt.datetime(int(row["year"]), int(row["month"]), int(row["day"]), int(row["hour"]), tzinfo=zone).timestamp()
