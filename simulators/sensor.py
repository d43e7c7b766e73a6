"""Sensors between the world and a sample: y = quantise(clamp(LPF_tau(x) (1 + gain) + bias + drift t + noise)).

All instruments of n houses at once, arrays (instruments, houses). Each unit draws its own gain and bias once, from the generator of its
house: two sensors of one type never agree, and a house measures the same however many others there are.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
YEAR_S: Final = 365.0 * 86_400.0
AT_ONCE_S: Final = 1e-9


@dataclass(frozen=True, slots=True)
class SensorType:
    """What a data sheet says, in the unit of the quantity; `_fraction` figures are relative to the reading."""

    sigma: float = 0.0
    sigma_fraction: float = 0.0
    bias_sd: float = 0.0
    gain_sd: float = 0.0
    drift_per_year: float = 0.0
    drift_fraction_per_year: float = 0.0
    tau_s: float = 0.0
    quantum: float = 0.0
    low: float = -math.inf
    high: float = math.inf


# Typical instruments (handbook section 0.2); defaults to be overridden, not truths.
LIBRARY: Final[dict[str, SensorType]] = {
    "exact": SensorType(),
    "air_temp_c": SensorType(sigma=0.05, bias_sd=0.2, drift_per_year=0.02, tau_s=30, quantum=0.01, low=-40, high=125),
    "air_rh_pct": SensorType(sigma=0.3, bias_sd=1.0, drift_per_year=1.0, tau_s=60, quantum=0.1, low=0, high=100),
    "co2_ppm": SensorType(sigma=10, bias_sd=30, gain_sd=0.01, drift_per_year=30, tau_s=60, quantum=1, low=0, high=10_000),
    "nh3_ppm": SensorType(sigma=0.5, bias_sd=2, drift_fraction_per_year=-0.15, tau_s=90, quantum=0.1, low=0, high=100),
    "h2s_ppm": SensorType(sigma=0.2, bias_sd=0.5, drift_fraction_per_year=-0.05, tau_s=30, quantum=0.1, low=0, high=1000),
    "rad_w_m2": SensorType(
        sigma_fraction=0.01, gain_sd=0.02, drift_fraction_per_year=-0.01, tau_s=5, quantum=0.1, low=-10, high=2000
    ),
    "par_umol_m2_s": SensorType(
        sigma_fraction=0.01, gain_sd=0.04, drift_fraction_per_year=-0.02, tau_s=1, quantum=0.1, low=0, high=3000
    ),
    "wind_m_s": SensorType(sigma=0.1, bias_sd=0.1, tau_s=1, quantum=0.1, low=0, high=75),
    "vwc_pct": SensorType(sigma=0.5, bias_sd=3, drift_fraction_per_year=0.05, tau_s=60, quantum=0.1, low=0, high=100),
    "ec_ms_cm": SensorType(sigma=0.02, bias_sd=0.03, tau_s=10, quantum=0.01, low=0, high=20),
    "substrate_temp_c": SensorType(sigma=0.03, bias_sd=0.2, tau_s=60, quantum=0.01, low=-40, high=80),
    "soil_temp_c": SensorType(sigma=0.03, bias_sd=0.2, tau_s=120, quantum=0.01, low=-40, high=80),
    "pressure_pa": SensorType(sigma=1, bias_sd=2, drift_per_year=3, tau_s=2, quantum=0.1, low=-250, high=250),
    "load_kg": SensorType(sigma=5, bias_sd=30, tau_s=1, quantum=1, low=0, high=10_000),  # 0.05 % and 0.3 % of 10 t
    "flow_l_min": SensorType(
        sigma_fraction=0.01, gain_sd=0.01, drift_fraction_per_year=0.02, tau_s=1, quantum=0.1, low=0, high=1000
    ),
    "current_a": SensorType(sigma=0.2, bias_sd=0.1, gain_sd=0.01, tau_s=0.2, quantum=0.01, low=0, high=20),  # 1 % of 20 A
    "water_temp_c": SensorType(sigma=0.1, bias_sd=0.3, tau_s=20, quantum=0.1, low=-20, high=125),
    "leaf_temp_c": SensorType(sigma=0.1, bias_sd=0.4, tau_s=5, quantum=0.1, low=-20, high=80),
    "ph": SensorType(sigma=0.02, bias_sd=0.05, tau_s=10, quantum=0.01, low=0, high=14),
    "weight_kg": SensorType(sigma=0.005, bias_sd=0.02, tau_s=1, quantum=0.01, low=0, high=50),
    "level_pct": SensorType(sigma=0.2, bias_sd=0.5, tau_s=5, quantum=0.1, low=0, high=100),
}


class Sensors:
    """One unit of each of `kinds` in each of n houses; `random[i]` is house i's. Truths and readings are (instruments, houses)."""

    def __init__(self, kinds: Sequence[SensorType], random: Sequence[np.random.Generator]) -> None:
        def column(name: str) -> Array:
            return np.array([getattr(kind, name) for kind in kinds], float)[:, None]

        own = np.array([generator.standard_normal((2, len(kinds))) for generator in random]).reshape(len(random), 2, len(kinds))
        self.kinds = tuple(kinds)
        self.bias = own[:, 0].T * column("bias_sd")
        self.gain = own[:, 1].T * column("gain_sd")
        self.slowness = np.ones_like(self.bias)  # how many times as slow as they should be: dust on them
        self._tau_s, self._quantum = column("tau_s"), column("quantum")
        self._is_stepped = self._quantum > 0
        self._step = np.where(self._is_stepped, self._quantum, 1.0)
        self._sigma, self._sigma_fraction = column("sigma"), column("sigma_fraction")
        self._low, self._high = column("low"), column("high")
        self._drift, self._drift_fraction = column("drift_per_year") / YEAR_S, column("drift_fraction_per_year") / YEAR_S
        self._filtered = np.full_like(self.bias, np.nan)
        self._age_s = 0.0
        self._share, self._share_of = self.slowness, -1.0

    def advance(self, truth: Array, dt_s: float) -> None:
        """Let `dt_s` pass before the truth is this; NaN where a quantity is unknown: its filter starts anew afterwards."""
        self._age_s += dt_s
        if self._share_of != dt_s:
            self._share = -np.expm1(-dt_s / np.maximum(self._tau_s * self.slowness, AT_ONCE_S))
            self._share_of = dt_s
        moved = self._filtered + (truth - self._filtered) * self._share
        unknown = np.isnan(self._filtered)
        self._filtered = np.where(unknown, truth, moved) if np.count_nonzero(unknown) else moved

    def slow_down(self, instrument: int, house: int, factor: float) -> None:
        """A clogged sensor follows `factor` times as slowly; 1 = as it should."""
        self.slowness[instrument, house] = factor
        self._share_of = -1.0

    def read(self, noise: Array) -> Array:
        """Readings with this standard normal noise; NaN = says nothing."""
        true = self._filtered
        value = true * (1.0 + self.gain + self._drift_fraction * self._age_s) + self.bias + self._drift * self._age_s
        value = value + np.hypot(self._sigma, self._sigma_fraction * true) * noise
        value = np.minimum(np.maximum(value, self._low), self._high)
        return np.where(self._is_stepped, np.rint(value / self._step) * self._quantum, value)
