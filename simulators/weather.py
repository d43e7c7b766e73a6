"""Weather for every simulator of a site: sun, clouds, temperature, humidity, wind and rain from a seeded generator.

The generator runs on a fixed grid of 10 s, so the same seed and start give the same weather however often and by however many
devices it is asked. All figures are configurable defaults of the handbook (section 0.6), not climate data.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np

from telemetry import psychrometrics, sun

GRID_S: Final = 10.0
HISTORY_MAX: Final = 64  # samples kept for devices that ask a little late
SUN_AHEAD: Final = 360  # moments whose sun is computed at once
Sky = Literal["clear", "broken", "overcast"]
_SKIES: Final[tuple[Sky, ...]] = ("clear", "broken", "overcast")
_SKY_STAY_S: Final = 3.0 * 3600.0
_FLICKER_S: Final = 60.0
GUST_FACTOR: Final = 1.5


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of weather. `sky` None lets clouds come and go; `wind_peak_m_s` rises and falls about `wind_peak_hour` (solar)."""

    mean_temp_c: float = 14.0
    daily_range_k: float = 12.0
    dew_point_c: float = 6.0
    anomaly_sd_k: float = 0.6
    wind_m_s: float = 2.5
    wind_sd_m_s: float = 0.8
    wind_peak_m_s: float = 0.0
    wind_peak_hour: float = 15.0
    rain_per_day: float = 0.3
    rain_s: float = 1800.0
    sky: Sky | None = None


class WeatherSample(NamedTuple):
    """Weather at one moment."""

    temp_c: float
    rh_pct: float
    rad_w_m2: float
    wind_m_s: float
    gust_m_s: float
    wind_dir_deg: float
    rain: bool
    sky_temp_c: float


class Weather:
    """The weather of a place from `start_s` on. Ask in rising time; up to 10 min back is answered from memory.

    `ahead_s` of a Unix time: by how much the clocks of the place are ahead of UTC then [s]; China's unless it is given.
    """

    ahead_s: Callable[[float], float] = staticmethod(lambda _unix_s: 8 * 3600.0)

    def __init__(
        self,
        *,
        start_s: float,
        latitude: float,
        longitude: float,
        scenario: Scenario,
        random: np.random.Generator,
        ahead_s: Callable[[float], float] | None = None,
    ) -> None:
        if ahead_s is not None:
            self.ahead_s = ahead_s
        self._start_s = start_s
        self._latitude = latitude
        self._longitude = longitude
        self._scenario = scenario
        self._random = random
        self._sky: Sky = scenario.sky or "clear"
        self._clearness = 0.95 if self._sky == "clear" else 0.5
        self._anomaly_k = 0.0
        self._wind_noise = 0.0
        self._wind_dir_deg = float(random.uniform(0.0, 360.0))
        self._rain_left_s = 0.0
        self._dew_pa = float(psychrometrics.saturation_vapour_pressure_pa(scenario.dew_point_c))
        self._sun: list[tuple[float, float]] = []  # solar hour and radiation of a clear sky, of the moments to come
        self._samples: dict[int, WeatherSample] = {}
        self._last = -1

    def at(self, unix_s: float) -> WeatherSample:
        """The weather of the grid moment at or before `unix_s`; the oldest remembered one when asked further back."""
        index = max(0, int((unix_s - self._start_s) // GRID_S))
        while self._last < index:
            self._last += 1
            self._samples[self._last] = self._next(*self._next_sun())
            self._samples.pop(self._last - HISTORY_MAX, None)
        return self._samples[max(index, self._last - HISTORY_MAX + 1)]

    def local_hour(self, unix_s: float) -> float:
        """Hour of the day by the clocks of the place [h]."""
        return (unix_s + self.ahead_s(unix_s)) % sun.DAY_S / 3600.0

    def _next_sun(self) -> tuple[float, float]:
        if not self._sun:
            unix_s = self._start_s + (self._last + np.arange(SUN_AHEAD)[::-1]) * GRID_S
            elevation = sun.elevation_at_deg(unix_s, self._latitude, self._longitude)
            hours, lit = sun.solar_hour(unix_s, self._longitude), sun.clear_sky_ghi_w_m2(elevation)
            self._sun = list(zip(hours.tolist(), lit.tolist(), strict=True))
        return self._sun.pop()

    def _next(self, hour: float, clear_w_m2: float) -> WeatherSample:
        scenario, draws = self._scenario, self._random.standard_normal(4).tolist()
        self._advance_sky(draws[0])
        self._anomaly_k = _autoregress(self._anomaly_k, scenario.anomaly_sd_k, 6 * 3600.0, draws[1])
        self._wind_noise = _autoregress(self._wind_noise, scenario.wind_sd_m_s, 600.0, draws[2])
        self._wind_dir_deg = (self._wind_dir_deg + 1.5 * draws[3]) % 360.0
        self._advance_rain()
        # Coldest near sunrise, warmest at 14:30 solar time.
        temp_c = scenario.mean_temp_c + scenario.daily_range_k / 2 * math.cos(2 * math.pi * (hour - 14.5) / 24) + self._anomaly_k
        rh_pct = min(100.0, 100.0 * self._dew_pa / float(psychrometrics.saturation_pa(temp_c)))
        rad_w_m2 = clear_w_m2 * self._clearness
        peak = scenario.wind_peak_m_s * math.exp(-(((hour - scenario.wind_peak_hour) / 1.0) ** 2))
        wind_m_s = max(0.0, scenario.wind_m_s + peak + self._wind_noise)
        sky_temp_c = 0.0552 * (temp_c + 273.15) ** 1.5 - 273.15 if self._sky == "clear" else temp_c - 5.0
        rain = self._rain_left_s > 0
        return WeatherSample(temp_c, rh_pct, rad_w_m2, wind_m_s, GUST_FACTOR * wind_m_s, self._wind_dir_deg, rain, sky_temp_c)

    def _advance_sky(self, draw: float) -> None:
        stay, pick = self._random.random(2).tolist()
        if self._scenario.sky is None and stay < GRID_S / _SKY_STAY_S:
            others = [sky for sky in _SKIES if sky != self._sky]
            self._sky = others[int(pick * len(others))]
        if self._sky == "clear":
            self._clearness += (0.95 - self._clearness) * GRID_S / _FLICKER_S
        elif self._sky == "broken":
            self._clearness = min(0.9, max(0.3, 0.6 + _autoregress(self._clearness - 0.6, 0.15, _FLICKER_S, draw)))
        else:
            self._clearness += (0.20 + 0.02 * draw - self._clearness) * GRID_S / _FLICKER_S

    def _advance_rain(self) -> None:
        chance, length = self._random.random(2).tolist()
        self._rain_left_s = max(0.0, self._rain_left_s - GRID_S)
        # Rain falls from a covered sky; the draws are taken in any case so that clouds do not shift the other series.
        if self._sky != "clear" and chance < self._scenario.rain_per_day * GRID_S / sun.DAY_S:
            self._rain_left_s = -self._scenario.rain_s * math.log(max(1e-12, 1.0 - length))


def _autoregress(value: float, sd: float, tau_s: float, draw: float) -> float:
    keep = math.exp(-GRID_S / tau_s)
    return value * keep + sd * math.sqrt(1.0 - keep * keep) * draw
