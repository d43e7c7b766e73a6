"""What the command stage hears from frames: measured positions of actuators it waits for, and signs of life of devices that must be
proven online. Found with masks; Python sees only the rows that matter.
"""

import numpy as np
from numpy.typing import NDArray

from telemetry import quality
from telemetry.frame import Verdict
from telemetry.plan import Plan
from telemetry.span import Span


def usable(span: Span, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Those of some rows of samples (n,) that may act, and the frame of each: live, new, not BAD."""
    frames, admission = span.entries.frames, span.admission
    assert admission is not None
    frame = np.searchsorted(frames.offsets, rows, side="right") - 1
    q = admission.quality[rows]
    is_usable = (admission.verdict[frame] == Verdict.LIVE) & ~quality.is_bad(q) & ((q & quality.REPEATED) == 0)
    return rows[is_usable], frame[is_usable]


class Ears:
    """Which points are feedback and which devices need proof, under one configuration."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._is_feedback = np.zeros(len(plan.point_owner), np.bool_)  # by point
        self._needs_proof = np.zeros(len(plan.devices), np.bool_)  # by device
        for group in plan.groups:
            feedback = {a.feedback for a in group.profile.actuators}
            self._is_feedback[group.points[:, [p.name in feedback for p in group.profile.points]]] = True
            self._needs_proof[group.number] = any(not a.expires for a in group.profile.actuators)
        self._is_proof_needed = bool(self._needs_proof.any())

    def is_measured(self, span: Span) -> bool:
        """True when the span brings any feedback at all."""
        return bool(self._is_feedback[span.entries.frames.point].any())

    def measured(self, span: Span, points: dict[str, int]) -> list[tuple[int, tuple[str, float, int]]]:
        """(entry, (actuator, value, ts_ns)) of usable samples of the feedback points of some actuators: live, new, not BAD."""
        frames = span.entries.frames
        rows = np.flatnonzero(self._is_feedback[frames.point])
        if not len(rows) or not points:
            return []
        by_point: dict[int, list[str]] = {}
        for name in sorted(points):
            by_point.setdefault(points[name], []).append(name)
        rows, frame = usable(span, rows[np.isin(frames.point[rows], np.fromiter(by_point, np.int64, len(by_point)))])
        return [
            (int(frames.entry[f]), (name, float(frames.value[row]), int(frames.ts_ns[f])))
            for row, f in zip(rows, frame, strict=True)
            for name in by_point[int(frames.point[row])]
        ]

    def heard(self, span: Span, proven: set[str], *, every: bool) -> list[tuple[int, str]]:
        """(entry, "site/device") of live frames of devices that need proof; of proven ones only when an event in this span may take
        the proof away (`every`)."""
        if not self._is_proof_needed:
            return []
        frames, admission = span.entries.frames, span.admission
        assert admission is not None
        rows = np.flatnonzero(self._needs_proof[frames.device])
        rows = rows[admission.verdict[rows] == Verdict.LIVE]
        if not every:  # the first frame of each is enough
            rows = rows[np.unique(frames.device[rows], return_index=True)[1]]
        heard = [(int(frames.entry[f]), self._plan.devices[int(frames.device[f])].key) for f in rows]
        return [(entry, key) for entry, key in heard if every or key not in proven]
