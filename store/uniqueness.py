"""Keeping (point, ts_ms) unique without asking the store about every row: order, repeats inside a batch, high-water marks."""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from store.history import SampleRows

NEVER: Final = np.iinfo(np.int64).min


def same_value(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    """True where the values are equal; two missing numbers are equal."""
    same: NDArray[np.bool_] = (a == b) | (np.isnan(a) & np.isnan(b))
    return same


class Unique(NamedTuple):
    """Rows in order of (point, ts_ms), each pair once, which of the given rows (kept,) these are, and how many repeated or
    contradicted an earlier row."""

    rows: SampleRows
    kept: NDArray[np.int64]
    repeated: int
    changed: int


def row_order(rows: SampleRows) -> NDArray[np.int64]:
    """Index that sorts by point and time; equal pairs keep their order."""
    return np.lexsort((rows.ts_ms, rows.point))


def sort_rows(rows: SampleRows) -> SampleRows:
    """By point and time; equal pairs keep their order. Values that are not finite become NaN."""
    return without_infinities(rows.take(row_order(rows)))


def without_infinities(rows: SampleRows) -> SampleRows:
    """Values that are not finite become NaN."""
    if np.isfinite(rows.value).all():
        return rows
    value = np.where(np.isfinite(rows.value), rows.value, np.nan)
    return SampleRows(rows.point, rows.ts_ms, value, rows.quality)


def is_first(rows: SampleRows) -> NDArray[np.bool_]:
    """(n,) True where sorted rows begin a new (point, ts_ms)."""
    new = np.ones(len(rows), np.bool_)
    new[1:] = (rows.point[1:] != rows.point[:-1]) | (rows.ts_ms[1:] != rows.ts_ms[:-1])
    return new


def drop_repeats(rows: SampleRows) -> Unique:
    """Of sorted rows with an equal pair the first stays.

    To be called after the rows were compared with the stored ones: what repeats a stored row counts against that, so that the
    counts do not depend on how the rows were cut into batches.
    """
    new = is_first(rows)
    if new.all():
        return Unique(rows, np.arange(len(rows)), 0, 0)
    kept = np.flatnonzero(new)
    first_value = rows.value[kept[np.cumsum(new) - 1]]
    changed = int(np.count_nonzero(~new & ~same_value(rows.value, first_value)))
    return Unique(rows.take(kept), kept, len(rows) - len(kept) - changed, changed)


class HighWater:
    """The newest stored time of each point. A row above it cannot exist yet, so nobody needs to look."""

    def __init__(self, points: NDArray[Any], ts_ms: NDArray[Any]) -> None:
        order = np.argsort(points, kind="stable")
        self._points = np.asarray(points, np.int32)[order]
        self._ts_ms = np.asarray(ts_ms, np.int64)[order]

    def may_exist(self, rows: SampleRows) -> NDArray[np.bool_]:
        """(n,) True where a stored row with the same point and time is possible. Rows are sorted by point."""
        if not len(self._points) or not len(rows):
            return np.zeros(len(rows), np.bool_)
        starts = np.flatnonzero(np.append(True, rows.point[1:] != rows.point[:-1]))
        points = rows.point[starts]
        at = np.minimum(np.searchsorted(self._points, points), len(self._points) - 1)
        newest = np.where(self._points[at] == points, self._ts_ms[at], NEVER)
        return rows.ts_ms <= np.repeat(newest, np.diff(np.append(starts, len(rows))))

    def rise(self, rows: SampleRows) -> None:
        """Take rows that were written; they are sorted by (point, ts_ms)."""
        if not len(rows):
            return
        ends = np.flatnonzero(np.append(rows.point[1:] != rows.point[:-1], True))
        points, ts_ms = rows.point[ends], rows.ts_ms[ends]
        union = np.union1d(self._points, points)
        raised = np.full(len(union), NEVER)
        raised[np.searchsorted(union, self._points)] = self._ts_ms
        at = np.searchsorted(union, points)
        raised[at] = np.maximum(raised[at], ts_ms)
        self._points, self._ts_ms = union.astype(np.int32), raised
