"""Member arrays of a history, one stretch of time after another, as they were sent.

History keeps of each array the members that moved by more than the point's deadband since they were last kept. Where a point has a
deadband, the whole array stands in the run of entries that it came with: there it is looked for, as long after its time as a frame
may come and still count as live. One that came later, or whose store keeps no runs, is read as it was kept.
"""

from collections.abc import Sequence
from typing import Final

from ingest.admit import FUTURE_NS
from store.history import CHANGES, PackedMember
from store.members import KEYFRAME_MS, ArraySample, MemberReplay
from store.order import MILLION, decode_order
from store.scan import Scan
from telemetry.plan import Plan

STRETCH_MS: Final = 300_000
RUNS: Final = 8  # read at once: a run may hold some MB
MEMBERS_PER_ROW: Final = 2  # so many take the memory of one plain sample
ALL: Final = 1 << 40


class Arrays:
    """Reads the arrays of some points from `start_ms` on."""

    def __init__(self, source: Scan, plan: Plan, points: Sequence[int], start_ms: int) -> None:
        self._source, self._points, self._start_ms = source, points, start_ms
        self._replay = MemberReplay()
        specs = {point: plan.point_spec(point) for point in points}
        self._most = max((spec.members or 0 for spec in specs.values() if spec is not None), default=0)
        self._kept_only = {point for point, spec in specs.items() if spec is not None and spec.deadband > 0}
        owners = {plan.point_owner[point][0] for point in self._kept_only}
        self._lateness_ms = int(max((1000 * plan.devices[owner].profile.lateness() for owner in owners), default=0.0)) + 1
        self._is_begun = False

    def read(self, start_ms: int, end_ms: int, room: int) -> list[ArraySample] | None:
        """Arrays of [start, end) in order of time; None when they are more than `room` plain samples. Stretches follow one another."""
        if not self._points:
            return []
        limit = room * MEMBERS_PER_ROW // self._most + 1
        rows = self._source.member_rows(self._points, start_ms, end_ms, limit=limit)
        if len(rows) >= limit:
            return None
        if not self._is_begun:
            self._begin()
        found = [(row, array) for row in _in_time(rows) if (array := self._replay.take(row)) is not None]
        return self._as_sent(found, start_ms, end_ms)

    def weight(self, arrays: Sequence[ArraySample]) -> int:
        """Plain samples that take as much memory."""
        return sum(len(array.values) for array in arrays) // MEMBERS_PER_ROW

    def _begin(self) -> None:
        """What changes in the first stretch build on."""
        self._is_begun = True
        for at in range(self._start_ms - KEYFRAME_MS, self._start_ms, STRETCH_MS):
            for row in _in_time(self._source.member_rows(self._points, at, min(at + STRETCH_MS, self._start_ms), limit=ALL)):
                self._replay.take(row)

    def _as_sent(self, found: Sequence[tuple[PackedMember, ArraySample]], start_ms: int, end_ms: int) -> list[ArraySample]:
        """Of points with a deadband the whole arrays instead of what was kept of them."""
        arrays = [array for _, array in found]
        wanted = {
            (array.point, array.ts_ms): k
            for k, (row, array) in enumerate(found)
            if row.form == CHANGES and array.point in self._kept_only
        }
        after, until_ns = -1, (end_ms + self._lateness_ms) * MILLION
        while wanted:
            runs = self._source.sent(after, start_ms - FUTURE_NS // MILLION, limit=RUNS)
            for run in runs:
                after, entries = run.first, decode_order(run).entries
                for array in entries.frames.arrays:
                    at = wanted.pop((array.point, int(entries.frames.ts_ns[array.frame]) // MILLION), None)
                    if at is not None:  # of two with one time the first counts
                        arrays[at] = arrays[at]._replace(values=array.values)
            if len(runs) < RUNS or entries.time_ns[-1] >= until_ns:
                break
        return arrays


def _in_time(rows: list[PackedMember]) -> list[PackedMember]:
    return sorted(rows, key=lambda row: (row.ts_ms, row.point))
