"""What plants owe to their profile."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

# Instruments of the handbook's table 0.2 by their names in simulators.sensor.LIBRARY.
KINDS = {
    "air_temp_c", "air_rh_pct", "co2_ppm", "nh3_ppm", "h2s_ppm", "rad_w_m2", "par_umol_m2_s", "wind_m_s", "vwc_pct", "ec_ms_cm",
    "substrate_temp_c", "soil_temp_c", "pressure_pa", "load_kg", "flow_l_min", "current_a", "water_temp_c", "leaf_temp_c", "ph",
    "weight_kg", "level_pct", "exact",
}  # fmt: skip


def points_of(profile: str) -> set[str]:
    """Points that a device of a profile measures: all but those that the service computes."""
    path = Path(__file__).parents[3] / "devices" / "profiles" / f"{profile}.yaml"
    return {point["name"] for point in yaml.safe_load(path.read_text("utf-8"))["points"] if "expression" not in point}


def drives_at(positions: Mapping[str, float], n: int) -> dict[str, Any]:
    """The same true positions 0..1 in n houses."""
    return {name: np.full(n, position) for name, position in positions.items()}
