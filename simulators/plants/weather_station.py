"""Weather masts behind the points of profile `weather_station`; nothing moves on a mast."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simulators.houses import Fault
from simulators.weather import GRID_S, Weather

Array = NDArray[Any]


class Masts:
    """n masts as `Houses` (simulators/houses.py), all in the weather of one place."""

    PROFILE: Final = "weather_station"
    STEP_S: Final = GRID_S
    SENSORS: Final = {
        "temp_c": "air_temp_c",
        "rh_pct": "air_rh_pct",
        "rad_w_m2": "rad_w_m2",
        "wind_speed_m_s": "wind_m_s",
        "wind_gust_m_s": "wind_m_s",
        "wind_dir_deg": "exact",
        "rain_bool": "exact",
    }
    FAULTS: Final = {
        "pyranometer_dirty": Fault("dirt on the dome keeps out this part of the light, and the radiation sum with it", "1", 0.1),
        "wind_frozen": Fault("the cup is frozen to its bearing and reads 0: vents would stay open in a storm"),
        "rain_stuck_wet": Fault("the rain sensor says rain: vents stay nearly shut"),
    }

    def __init__(self, n: int, weather: Weather, start_s: float) -> None:
        self._weather, self._now = weather, weather.at(start_s)
        self._rad_sum_j_cm2, self._was_dark = np.zeros(n), self._now.rad_w_m2 <= 0.0
        self._faults = {name: np.zeros(n) for name in self.FAULTS}
        self._set_faults()

    def fail(self, house: int, fault: str, strength: float) -> None:
        """Begin a fault of FAULTS at a mast, or end it (strength 0)."""
        self._faults[fault][house] = strength
        self._set_faults()

    def _set_faults(self) -> None:
        self._clean = 1.0 - np.clip(self._faults["pyranometer_dirty"], 0.0, 1.0)
        self._turns = np.where(self._faults["wind_frozen"] > 0.0, 0.0, 1.0)

    def advance(self, unix_s: float, dt_s: float, drives: Mapping[str, Array]) -> None:  # noqa: ARG002
        """Move on to `unix_s`; the radiation sum starts anew at sunrise."""
        self._now = self._weather.at(unix_s)
        is_dark = self._now.rad_w_m2 <= 0.0
        if self._was_dark and not is_dark:
            self._rad_sum_j_cm2 = np.zeros_like(self._rad_sum_j_cm2)
        self._was_dark = is_dark
        self._rad_sum_j_cm2 = self._rad_sum_j_cm2 + self._rad_w_m2() * dt_s / 1e4

    def _rad_w_m2(self) -> Array:
        return np.asarray(self._now.rad_w_m2 * self._clean)

    def truth(self, drives: Mapping[str, Array]) -> dict[str, Array]:  # noqa: ARG002
        """What the instruments stand in."""
        now, rad, turns, one = self._now, self._rad_w_m2(), self._turns, np.ones_like(self._turns)
        return {
            "temp_c": now.temp_c * one,
            "rh_pct": now.rh_pct * one,
            "rad_w_m2": rad,
            "wind_speed_m_s": now.wind_m_s * turns,
            "wind_gust_m_s": now.gust_m_s * turns,
            "wind_dir_deg": now.wind_dir_deg * one,
            "rain_bool": np.maximum(self._faults["rain_stuck_wet"] > 0.0, float(now.rain)),
        }

    def panel(self, drives: Mapping[str, Array]) -> dict[str, Array]:  # noqa: ARG002
        """The radiation sum, counted from the pyranometer."""
        return {"rad_sum_j_cm2": self._rad_sum_j_cm2}

    def local(self) -> dict[str, Array]:
        """Nothing moves."""
        return {}

    def interlock(self) -> dict[str, Array]:
        """Nothing moves."""
        return {}


def make(n: int, weather: Weather, start_s: float, random: list[np.random.Generator]) -> Masts:  # noqa: ARG001
    """n masts."""
    return Masts(n, weather, start_s)
