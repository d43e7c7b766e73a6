"""Crops that germinate in trays: how fast by thermal time, and what emerges in the end.

References
----------
.. [1] Days to emergence and normal seedlings of vegetables by soil temperature, tables after Harrington; base temperature and thermal
   time are least-squares fits of 1/days to the sub-optimal points.
.. [2] Bradford: Water relations in seed germination (1995): thermal time.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Crop(NamedTuple):
    """How a crop germinates [1]; `final_share` at 15, 20, 25, 30, 35 C and, as nothing was measured beyond, falling to 0 at 45 C."""

    name: str
    base_c: float
    theta50_c_d: float  # thermal time of half of what emerges
    optimum_c: float  # above it nothing goes faster
    stop_above_c: float  # what an alarm watches
    final_share: tuple[float, float, float, float, float, float, float]


# Cabbage was counted at 15 and 25 C only: between them a straight line, above them the last value.
CROPS: Final = (
    Crop("tomato", 7.3, 105.0, 30.0, 32.0, (0.98, 0.98, 0.97, 0.83, 0.46, 0.23, 0.0)),
    Crop("pepper", 10.5, 118.0, 30.0, 34.0, (0.70, 0.96, 0.98, 0.95, 0.70, 0.35, 0.0)),
    Crop("cucumber", 10.5, 58.0, 30.0, 35.0, (0.95, 0.99, 0.99, 0.99, 0.99, 0.495, 0.0)),
    Crop("watermelon", 14.3, 60.0, 30.0, 38.0, (0.17, 0.94, 0.90, 0.92, 0.96, 0.48, 0.0)),
    Crop("eggplant", 14.1, 81.0, 30.0, 34.0, (0.0, 0.21, 0.53, 0.60, 0.0, 0.0, 0.0)),
    Crop("lettuce", 1.6, 55.0, 22.0, 25.0, (0.99, 0.99, 0.99, 0.12, 0.0, 0.0, 0.0)),
    Crop("cabbage", 2.6, 110.0, 27.0, 32.0, (0.93, 0.96, 0.99, 0.99, 0.99, 0.495, 0.0)),
)
CROP_NUMBER: Final = {crop.name: number for number, crop in enumerate(CROPS)}
_BASE_C, _OPTIMUM_C = (np.array(v) for v in zip(*((c.base_c, c.optimum_c) for c in CROPS), strict=True))


def thermal_time_rate_c(temp_c: ArrayLike, crop: ArrayLike) -> Any:
    """Thermal time per day, max(0, min(T, To) - Tb) [C d per d, that is C] [1], [2].

    Parameters
    ----------
    temp_c : of the seed [C]
    crop : number in CROPS

    Returns
    -------
    [C]. Tomato at 25 C: 17.7, at 30 C and above: 22.7, below 7.3 C: 0.
    """
    number = np.asarray(crop, np.int64)
    return np.maximum(0.0, np.minimum(np.asarray(temp_c, float), _OPTIMUM_C[number]) - _BASE_C[number])
