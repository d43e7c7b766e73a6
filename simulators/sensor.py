"""The sensor between the world and a sample: y = quantise(clamp(LPF_tau(x) (1 + gain) + bias + drift t + noise)).

Each unit draws its own gain and bias once, from the generator it is given: two sensors of one type never agree.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

YEAR_S: Final = 365.0 * 86_400.0


@dataclass(frozen=True, slots=True)
class SensorType:
    """What a data sheet says, in the unit of the quantity; `_fraction` figures are relative to the reading."""

    sigma: float = 0.0
    sigma_fraction: float = 0.0
    bias_sd: float = 0.0
    gain_sd: float = 0.0
    drift_per_year: float = 0.0
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
    "rad_w_m2": SensorType(sigma_fraction=0.01, gain_sd=0.02, tau_s=5, quantum=0.1, low=-10, high=2000),
    "par_umol_m2_s": SensorType(sigma_fraction=0.01, gain_sd=0.04, tau_s=1, quantum=0.1, low=0, high=3000),
    "wind_m_s": SensorType(sigma=0.1, bias_sd=0.1, tau_s=1, quantum=0.1, low=0, high=75),
    "water_temp_c": SensorType(sigma=0.1, bias_sd=0.3, tau_s=20, quantum=0.1, low=-20, high=125),
    "leaf_temp_c": SensorType(sigma=0.1, bias_sd=0.4, tau_s=5, quantum=0.1, low=-20, high=80),
    "ec_ms_cm": SensorType(sigma=0.02, bias_sd=0.03, tau_s=10, quantum=0.01, low=0, high=20),
    "ph": SensorType(sigma=0.02, bias_sd=0.05, tau_s=10, quantum=0.01, low=0, high=14),
    "weight_kg": SensorType(sigma=0.005, bias_sd=0.02, tau_s=1, quantum=0.01, low=0, high=50),
    "level_pct": SensorType(sigma=0.2, bias_sd=0.5, tau_s=5, quantum=0.1, low=0, high=100),
    "flow_l_min": SensorType(sigma_fraction=0.01, gain_sd=0.01, tau_s=1, quantum=0.1, low=0, high=1000),
}


class Sensor:
    """One unit of a type. `stuck` freezes its reading, as a failed sensor does."""

    def __init__(self, kind: SensorType, random: np.random.Generator) -> None:
        self.kind = kind
        self.bias, self.gain = (float(v) for v in random.standard_normal(2) * (kind.bias_sd, kind.gain_sd))
        self.stuck = False
        self._random = random
        self._filtered = math.nan
        self._age_s = 0.0
        self._reading = math.nan

    def read(self, true_value: float, dt_s: float) -> float:
        """The reading `dt_s` after the last one; NaN while the quantity is unknown (its filter starts anew afterwards)."""
        self._age_s += dt_s
        if math.isnan(true_value):
            self._filtered = math.nan
            return math.nan
        if math.isnan(self._filtered) or self.kind.tau_s <= 0:
            self._filtered = true_value
        else:
            self._filtered += (true_value - self._filtered) * -math.expm1(-dt_s / self.kind.tau_s)
        if not self.stuck or math.isnan(self._reading):
            self._reading = self._measure()
        return self._reading

    def _measure(self) -> float:
        kind = self.kind
        sigma = math.hypot(kind.sigma, kind.sigma_fraction * self._filtered)
        value = self._filtered * (1.0 + self.gain) + self.bias + kind.drift_per_year * self._age_s / YEAR_S
        value = min(kind.high, max(kind.low, value + sigma * float(self._random.standard_normal())))
        return round(value / kind.quantum) * kind.quantum if kind.quantum > 0 else value
