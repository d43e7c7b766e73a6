"""Statistics over event time: every window is a ring of 60 panes aligned to UTC, and its edges are exact to a pane.

A pane keeps count, sum, sum and sum of squares about a per-point centre, min or max: only what the wanted statistics need (mean: 10
bytes a pane). A result adds the 60 panes up from the oldest to the newest; nothing is ever subtracted from a running sum, so no
error builds up and the order of additions is that of the frames. A statistic is unknown (NaN) until four fifths of its window, 48
panes, lie between the first counted sample and the newest; a gap as long as the window starts that anew. A sample with an older
time than the newest goes into its own pane while the ring still holds it, and is dropped after that; either way the result is that
of the window that ends at the newest sample.
"""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]
PANES: Final = 60
COVERED: Final = 48
STATS: Final = ("mean", "min", "max", "std", "count")
NONE: Final = np.iinfo(np.int64).min  # no pane yet
COUNT_MAX: Final = 65_535  # samples beyond that in one pane are not counted
_NEEDS: Final = {
    "mean": ("count", "sum"),
    "min": ("low",),
    "max": ("high",),
    "std": ("count", "part", "square"),
    "count": ("count",),
}
_COLUMNS: Final = {
    "count": np.uint16,
    "sum": np.float64,
    "part": np.float64,
    "square": np.float64,
    "low": np.float64,
    "high": np.float64,
}
_STATE: Final = ("head", "first", "centre")


class PaneWindows:
    """Windows of `count` instances (points), all of length 60 x `pane_ns`. `numba=False` gives the same bits without compiling."""

    def __init__(self, count: int, pane_ns: int, stats: Sequence[str], *, numba: bool = True) -> None:
        unknown = sorted(set(stats) - set(STATS))
        if unknown or pane_ns <= 0:
            msg = f"no window statistic {unknown}" if unknown else f"a pane must be longer than nothing, not {pane_ns} ns"
            raise ValueError(msg)
        self.pane_ns = pane_ns
        self.stats = tuple(stats)
        self._numba = numba
        self._allocate(count)

    def _allocate(self, count: int) -> None:
        needed = {column for stat in self.stats for column in _NEEDS[stat]}
        self._head = np.full(count, NONE)  # newest pane seen
        self._first = np.full(count, NONE)  # pane of the first counted sample since the last long gap
        self._centre = np.zeros(count)
        # A column that no statistic needs has no rows: the loops test for that.
        self._panes = {
            name: np.full((count if name in needed else 0, PANES), np.nan if name in {"low", "high"} else 0, dtype)
            for name, dtype in _COLUMNS.items()
        }

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return sum(a.nbytes for a in (self._head, self._first, self._centre, *self._panes.values()))

    def update(self, instance: Array, ts_ns: Array, value: Array) -> dict[str, Array]:
        """Take samples and return each wanted statistic as it stands after every one of them.

        instance (e,) int, ascending, samples of one instance in frame order; ts_ns (e,) int64; value (e,) float64, of which what is
        not finite moves time on but is not counted. Returns (e,) float64 by statistic; NaN = unknown.
        """
        out = np.full((len(STATS), len(instance)), np.nan)
        want = np.array([stat in self.stats for stat in STATS])
        pane = np.floor_divide(np.asarray(ts_ns, np.int64), self.pane_ns)
        sample = (np.ascontiguousarray(instance, np.int64), pane, np.ascontiguousarray(value, np.float64))  # one signature
        loop: Any = _update if self._numba else _update_rounds
        loop(*sample, want, self._head, self._first, self._centre, *self._panes.values(), out)
        return {stat: out[STATS.index(stat)] for stat in self.stats}

    def snapshot(self) -> dict[str, Array]:
        """All state as copies of arrays; rows are instances."""
        state = {"head": self._head, "first": self._first, "centre": self._centre}
        return state | {name: column for name, column in self._panes.items() if len(column)}

    def restore(self, saved: Mapping[str, Array], source: Array | None = None) -> None:
        """Take over a snapshot of windows of the same pane length.

        source (count,): row of the snapshot for each instance, -1 starts it anew; None = row by row. When a wanted statistic
        was not kept in the snapshot, all instances start anew.
        """
        count = len(self._head)
        self._allocate(count)
        columns = {name: column for name, column in self._panes.items() if len(column)}
        if not count or any(name not in saved for name in columns):
            return
        if source is None:
            source = np.arange(count)
        to = np.flatnonzero(source >= 0)
        for name, array in zip(_STATE, (self._head, self._first, self._centre), strict=True):
            array[to] = saved[name][source[to]]
        for name, column in columns.items():
            column[to] = saved[name][source[to]]

    def resize(self, source: Array) -> None:
        """Become len(source) instances, where instance i continues the old instance source[i], or starts anew at -1."""
        saved = self.snapshot()
        self._allocate(len(source))
        self.restore(saved, source)


@njit(cache=True, nogil=True)
def _update(
    instance: Array, pane: Array, value: Array, want: Array, head: Array, first: Array, centre: Array, count: Array, total: Array,
    part: Array, square: Array, low: Array, high: Array, out: Array,
) -> None:  # fmt: skip
    for e in range(len(instance)):
        i, p, v = instance[e], pane[e], value[e]
        if head[i] == NONE or p > head[i]:
            steps = PANES if head[i] == NONE or p - head[i] > PANES else p - head[i]
            if steps == PANES:
                first[i] = NONE
            for k in range(steps):
                _clear(i, (p - k) % PANES, count, total, part, square, low, high)
            head[i] = p
        if np.isfinite(v) and p > head[i] - PANES:
            if first[i] == NONE:
                centre[i] = v
            if first[i] == NONE or p < first[i]:
                first[i] = p
            _count(i, p % PANES, v, centre[i], count, total, part, square, low, high)
        if first[i] != NONE and head[i] - first[i] >= COVERED:
            _result(e, i, (head[i] + 1) % PANES, want, count, total, part, square, low, high, out)


@njit(cache=True, nogil=True, inline="always")
def _clear(i: int, s: int, count: Array, total: Array, part: Array, square: Array, low: Array, high: Array) -> None:
    if len(count):
        count[i, s] = 0
    if len(total):
        total[i, s] = 0.0
    if len(part):
        part[i, s] = 0.0
        square[i, s] = 0.0
    if len(low):
        low[i, s] = np.nan
    if len(high):
        high[i, s] = np.nan


@njit(cache=True, nogil=True, inline="always")
def _count(
    i: int, s: int, v: float, c: float, count: Array, total: Array, part: Array, square: Array, low: Array, high: Array
) -> None:
    if len(count) and count[i, s] < COUNT_MAX:
        count[i, s] += 1
        if len(total):
            total[i, s] += v
        if len(part):
            d = v - c
            part[i, s] += d
            square[i, s] += d * d
    if len(low) and not v >= low[i, s]:  # also when the pane is empty (NaN)
        low[i, s] = v
    if len(high) and not v <= high[i, s]:
        high[i, s] = v


@njit(cache=True, nogil=True, inline="always")
def _result(
    e: int,
    i: int,
    oldest: int,
    want: Array,
    count: Array,
    total: Array,
    part: Array,
    square: Array,
    low: Array,
    high: Array,
    out: Array,
) -> None:
    n, a, d, q, lo, hi = 0, 0.0, 0.0, 0.0, np.nan, np.nan
    for k in range(PANES):
        s = (oldest + k) % PANES
        if len(count):
            n += count[i, s]
        if len(total):
            a += total[i, s]
        if len(part):
            d += part[i, s]
            q += square[i, s]
        if len(low) and not np.isnan(low[i, s]) and not low[i, s] >= lo:
            lo = low[i, s]
        if len(high) and not np.isnan(high[i, s]) and not high[i, s] <= hi:
            hi = high[i, s]
    if want[0] and n > 0:
        out[0, e] = a / n
    out[1, e] = lo
    out[2, e] = hi
    if want[3] and n > 1:
        m = d / n
        out[3, e] = sqrt(max(q / n - m * m, 0.0))
    if want[4]:
        out[4, e] = n


def _update_rounds(
    instance: Array, pane: Array, value: Array, want: Array, head: Array, first: Array, centre: Array, count: Array, total: Array,
    part: Array, square: Array, low: Array, high: Array, out: Array,
) -> None:  # fmt: skip
    """The same without compiling: the k-th sample of every instance at once, which is right here since instances share nothing."""
    if not len(instance):
        return
    start = np.flatnonzero(np.r_[True, instance[1:] != instance[:-1]])
    rank = np.arange(len(instance)) - np.repeat(start, np.diff(np.r_[start, len(instance)]))
    columns = (count, total, part, square, low, high)
    for k in range(int(rank.max()) + 1):
        e = np.flatnonzero(rank == k)
        i, p, v = instance[e], pane[e], value[e]
        _advance_round(i, p, head, first, columns)
        counted = np.isfinite(v) & (p > head[i] - PANES)
        _count_round(i[counted], p[counted], v[counted], first, centre, columns)
        covered = first[i] != NONE
        covered[covered] = head[i][covered] - first[i][covered] >= COVERED
        with np.errstate(all="ignore"):
            _result_round(e[covered], i[covered], head, want, columns, out)


def _advance_round(i: Array, p: Array, head: Array, first: Array, columns: tuple[Array, ...]) -> None:
    fresh = head[i] == NONE
    steps = np.where(fresh, PANES, np.clip(p - np.where(fresh, p, head[i]), 0, PANES))
    first[i[steps == PANES]] = NONE
    for k in range(int(steps.max())):
        row, slot = i[steps > k], (p[steps > k] - k) % PANES
        for column, empty in zip(columns, (0, 0.0, 0.0, 0.0, np.nan, np.nan), strict=True):
            if len(column):
                column[row, slot] = empty
    head[i] = np.maximum(head[i], p)


def _count_round(i: Array, p: Array, v: Array, first: Array, centre: Array, columns: tuple[Array, ...]) -> None:
    count, total, part, square, low, high = columns
    fresh, slot = first[i] == NONE, p % PANES
    centre[i[fresh]] = v[fresh]
    first[i] = np.where(fresh, p, np.minimum(first[i], p))
    for column, beyond in ((low, np.greater_equal), (high, np.less_equal)):
        if len(column):
            old = column[i, slot]
            column[i, slot] = np.where(beyond(v, old), old, v)
    if not len(count):
        return
    room = count[i, slot] < COUNT_MAX
    i, slot, v = i[room], slot[room], v[room]
    count[i, slot] += 1
    with np.errstate(all="ignore"):
        if len(total):
            total[i, slot] += v
        if len(part):
            d = v - centre[i]
            part[i, slot] += d
            square[i, slot] += d * d


def _result_round(e: Array, i: Array, head: Array, want: Array, columns: tuple[Array, ...], out: Array) -> None:
    n = np.zeros(len(i), np.int64)
    a, d, q = np.zeros((3, len(i)))
    lo, hi = np.full((2, len(i)), np.nan)
    count, total, part, square, low, high = columns
    for k in range(PANES):
        slot = (head[i] + 1 + k) % PANES
        n += count[i, slot] if len(count) else 0
        a += total[i, slot] if len(total) else 0.0
        d += part[i, slot] if len(part) else 0.0
        q += square[i, slot] if len(square) else 0.0
        if len(low):
            x = low[i, slot]
            lo = np.where(np.isnan(x) | (x >= lo), lo, x)
        if len(high):
            x = high[i, slot]
            hi = np.where(np.isnan(x) | (x <= hi), hi, x)
    if want[0]:
        out[0, e] = np.where(n > 0, a / n, np.nan)
    out[1, e], out[2, e] = lo, hi
    if want[3]:
        m = d / n
        spread = q / n - m * m
        out[3, e] = np.where(n > 1, np.sqrt(np.where(spread < 0.0, 0.0, spread)), np.nan)
    if want[4]:
        out[4, e] = n
