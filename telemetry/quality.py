"""Quality of a sample: a level in the two low bits, reasons above them.

Level: GOOD 0, UNCERTAIN 1, BAD 2 (OPC UA's three classes). A rule sees a BAD sample as unknown (NaN): it neither raises nor
clears. Reasons accumulate; the level is the worst any reason gave.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

GOOD: Final = 0
UNCERTAIN: Final = 1
BAD: Final = 2
LEVEL_MASK: Final = 0b11
REASON_MASK: Final = 0xFFFF & ~LEVEL_MASK

OUT_OF_RANGE: Final = 1 << 2
RATE: Final = 1 << 3
STUCK: Final = 1 << 4
NOT_A_NUMBER: Final = 1 << 5
DEVICE_UNCERTAIN: Final = 1 << 6
DEVICE_BAD: Final = 1 << 7
SUBSTITUTED: Final = 1 << 8
CLOCK_WRONG: Final = 1 << 9
REPEATED: Final = 1 << 10  # same point and time as a stored sample: not stored again
CALIBRATION_EXPIRED: Final = 1 << 11
DISAGREEMENT: Final = 1 << 12  # of two redundant sensors

REASON_NAMES: Final[dict[int, str]] = {
    OUT_OF_RANGE: "out_of_range",
    RATE: "rate",
    STUCK: "stuck",
    NOT_A_NUMBER: "not_a_number",
    DEVICE_UNCERTAIN: "device_uncertain",
    DEVICE_BAD: "device_bad",
    SUBSTITUTED: "substituted",
    CLOCK_WRONG: "clock_wrong",
    REPEATED: "repeated",
    CALIBRATION_EXPIRED: "calibration_expired",
    DISAGREEMENT: "disagreement",
}
LEVEL_NAMES: Final = ("GOOD", "UNCERTAIN", "BAD")


def level(quality: int) -> str:
    """GOOD, UNCERTAIN or BAD."""
    return LEVEL_NAMES[min(quality & LEVEL_MASK, BAD)]


def reasons(quality: int) -> list[str]:
    """Names of the reason bits that are set, in a fixed order."""
    return [name for bit, name in REASON_NAMES.items() if quality & bit]


def is_bad(quality: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """True where a rule must not use the value. Shape as given."""
    return (quality & LEVEL_MASK) >= BAD
