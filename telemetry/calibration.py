"""Calibration: what devices sent, as it is once the site's corrections are applied. Pure; the same in `step` and in every follower.

The journal keeps what the wire brought. Everybody who reads values (admission, rules, history, the live state) reads them corrected
by the configuration that held at their entry. Corrected values are rounded to 2^-20 of their unit, like every derived value.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from telemetry.frame import Flag, Frames
from telemetry.plan import Plan
from telemetry.quality import BAD, CALIBRATION_EXPIRED, LEVEL_MASK, REASON_MASK, UNCERTAIN

ROUND: float = 1 << 20


class Calibrator:
    """Frames that are corrected piece by piece, since a CONFIG among their entries changes how."""

    def __init__(self, frames: Frames) -> None:
        self._raw = self.frames = frames
        self.corrected: NDArray[np.bool_] = np.zeros(0, np.bool_)  # (m,), or empty while no sample is
        self._done = 0  # frames

    def until(self, entry: int, plan: Plan) -> None:
        """Correct the frames of entries before `entry` that are not corrected yet, by what `plan` says."""
        raw, first = self._raw, self._done
        last = self._done = int(np.searchsorted(raw.entry, entry))
        table = plan.calibrations
        if table is None or first == last:
            return
        lo, hi = int(raw.offsets[first]), int(raw.offsets[last])
        sizes = np.diff(raw.offsets[first : last + 1])
        is_raw = (raw.flags[first:last] & int(Flag.CALIBRATED)) == 0
        point = raw.point[lo:hi]
        row = np.where(np.repeat(is_raw, sizes) & (point < len(table.row)), table.row[np.minimum(point, len(table.row) - 1)], -1)
        chosen = np.flatnonzero(row >= 0)
        if not len(chosen):
            return
        row = row[chosen]
        value, quality = self.frames.value.copy(), self.frames.quality.copy()
        scaled = (raw.value[lo:hi][chosen] * table.gain[row] + table.offset[row]) * ROUND
        value[lo + chosen] = np.where(np.isfinite(scaled), np.rint(scaled) / ROUND, raw.value[lo:hi][chosen])
        old = np.repeat(raw.ts_ns[first:last], sizes)[chosen] >= table.expires_ns[row]
        quality[lo + chosen[old]] = _doubted(quality[lo + chosen[old]])
        if not len(self.corrected):
            self.corrected = np.zeros(len(raw.point), np.bool_)
        self.corrected[lo + chosen] = True
        self.frames = replace(self.frames, value=value, quality=quality)


def _doubted(quality: NDArray[np.uint16]) -> NDArray[np.uint16]:
    level = np.maximum(np.minimum(quality & LEVEL_MASK, BAD), UNCERTAIN)
    return np.asarray((quality & REASON_MASK) | level | CALIBRATION_EXPIRED, np.uint16)


def calibrate(frames: Frames, plan: Plan) -> Frames:
    """All frames corrected by one plan; the very same frames where nothing of them is calibrated."""
    calibrator = Calibrator(frames)
    calibrator.until(int(frames.entry[-1]) + 1 if len(frames) else 0, plan)
    return calibrator.frames
