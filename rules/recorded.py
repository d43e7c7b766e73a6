"""Rows of history as the frames they once were: all samples of one device with one time are one frame, in order of (time, device).

History keeps rows in the order of its flushes, sorted by point inside each. Each row goes straight to its second; rows of a second are
then few runs that are sorted already, mostly one. So a block is ordered in linear time, where a general sort would cost more than
evaluating its rules.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from rules.condition import frozen
from rules.lane import READ_BACK, TICK_NS
from telemetry.frame import Entries, Frames, Kind, MemberArray, no_frames
from telemetry.plan import Plan
from telemetry.record import Record

Array = NDArray[Any]
NS_PER_MS: Final = 1_000_000
BUCKET_MS: Final = 1_000
TIME, RANK, RANKS, QUALITY = 48, 16, (1 << 32) - 1, (1 << 16) - 1  # of a row's key: where time and rank begin, and what masks them
_compile = njit(cache=True, nogil=True)


class Places(NamedTuple):
    """Which points are read, and where they belong. rank (points,) int32 in order of (device, point), -1 = is not read;
    point and device (ranks,) int32; ranks counts those that are read. owner (points,) int32: the device of an array that is read,
    else -1."""

    rank: Array
    point: Array
    device: Array
    owner: Array

    @property
    def arrays(self) -> list[int]:
        """Points whose arrays are read."""
        found: list[int] = np.flatnonzero(self.owner >= 0).tolist()
        return found


def places(plan: Plan, arrays: Iterable[int] = ()) -> Places:
    """Points of the active devices of a plan, of those with members only `arrays`; virtual ones are computed anew."""
    owners = [
        (number, point)
        for number in sorted(plan.active)
        for spec, point in zip(plan.devices[number].profile.points, plan.devices[number].points, strict=True)
        if spec.is_measured
    ]
    owners.sort()
    rank = np.full(len(plan.point_owner), -1, np.int32)
    rank[[point for _, point in owners]] = np.arange(len(owners))
    owner, chosen = np.full(len(plan.point_owner), -1, np.int32), np.array(list(arrays), np.int64)
    owner[chosen] = plan.columns.device[chosen]
    device, point = (np.array([pair[k] for pair in owners], np.int32) for k in (0, 1))
    return Places(rank, point, device, owner)


@_compile
def _sort(key: Array, order: Array, spare_key: Array, spare_order: Array, n: int) -> None:
    """Sort the first n keys with their order, stable, by joining runs that are sorted already, two at a time."""
    while True:
        low = runs = 0
        while low < n:
            middle = low + 1
            while middle < n and key[middle - 1] <= key[middle]:
                middle += 1
            high = middle + 1 if middle < n else n
            while high < n and key[high - 1] <= key[high]:
                high += 1
            a, b = low, middle
            for k in range(low, high):
                if b >= high or (a < middle and key[a] <= key[b]):
                    spare_key[k], spare_order[k] = key[a], order[a]
                    a += 1
                else:
                    spare_key[k], spare_order[k] = key[b], order[b]
                    b += 1
            low, runs = high, runs + 1
        key[:n], order[:n] = spare_key[:n], spare_order[:n]
        if runs <= 1:
            return


@_compile
def _count(point: Array, ts_ms: Array, rank: Array, start_ms: int, count: Array) -> None:
    """Count the rows of each second, of those that are read. count: (seconds,)."""
    for k in range(len(point)):
        if point[k] < len(rank) and rank[point[k]] >= 0:  # summaries of members have numbers beyond
            count[(ts_ms[k] - start_ms) // BUCKET_MS] += 1


@_compile
def _spread(rows: Any, rank: Array, start_ms: int, at: Array, key: Array, value: Array) -> None:
    """Put rows that are read into their seconds; each second's place moves to its end.

    What is needed of a row goes into two words that lie together, since rows go to many places at once: its key, which is time in the
    second, rank and quality from the highest bits down, and its value. key (rows, 2) int64; value is the same memory as float64.
    """
    point, ts_ms, number, quality = rows
    for k in range(len(point)):
        if point[k] < len(rank) and rank[point[k]] >= 0:
            since_ms = ts_ms[k] - start_ms
            b = since_ms // BUCKET_MS
            j = at[b]
            key[j, 0] = (since_ms - b * BUCKET_MS) << TIME | int(rank[point[k]]) << RANK | int(quality[k])
            value[j, 1] = number[k]
            at[b] = j + 1


@_compile
def _frame(ends: Array, key: Array, value: Array, point_of: Array, device_of: Array, start_ms: int) -> Any:
    """Rows of each second in order of (time, rank): device, time and first sample of each frame, and the end; points, values, qualities."""
    m, most, low = len(key), 0, 0
    for high in ends:
        most, low = max(most, high - low), high
    now, spare_key, order, spare_order = np.empty((4, most), np.int64)
    device, ts_ns, offsets = np.empty(m, np.int32), np.empty(m, np.int64), np.empty(m + 1, np.int64)
    points, values, qualities = np.empty(m, np.int32), np.empty(m), np.empty(m, np.uint16)
    frames, low = 0, 0
    for b in range(len(ends)):
        high, is_sorted = ends[b], True
        n = high - low
        for j in range(n):
            now[j] = key[low + j, 0] >> RANK
            order[j] = low + j
            is_sorted &= j == 0 or now[j - 1] <= now[j]
        if not is_sorted:
            _sort(now, order, spare_key, spare_order, n)
        last_device, last_ms = -1, -1
        for j in range(n):
            row = order[j]
            place, t = now[j] & RANKS, now[j] >> (TIME - RANK)
            points[low + j], values[low + j], qualities[low + j] = point_of[place], value[row, 1], key[row, 0] & QUALITY
            d = device_of[place]
            if d != last_device or t != last_ms:
                last_device, last_ms = d, t
                device[frames], ts_ns[frames], offsets[frames] = d, (start_ms + b * BUCKET_MS + t) * NS_PER_MS, low + j
                frames += 1
        low = high
    offsets[frames] = m
    return (device[:frames].copy(), ts_ns[:frames].copy(), offsets[: frames + 1].copy()), (points, values, qualities)


def recorded_entries(
    rows: list[tuple[Array, Array, Array, Array]],
    where: Places,
    *,
    first: int,
    start_ms: int,
    end_ms: int,
    records: tuple[tuple[int, Record, Kind], ...] = (),
    arrays: Sequence[tuple[int, int, Array]] = (),
) -> Entries:
    """Entries of [start, end) on the data's clock, with ticks in (start, end], the last one at its end.

    rows, in parts: point int32, ts_ms int64, value float64, quality uint16, all (m,) in any order, all inside the interval; the list is
    emptied part by part, so that memory never holds all of them twice. records: (time in ns, record, kind) inside it, in order of time;
    arrays: (point, ts_ms, members) inside it, in any order. Where times are equal, a tick comes first, then a record, then frames.
    """
    at = np.zeros(max(1, -(-(end_ms - start_ms) // BUCKET_MS)) + 1, np.int64)
    for point, ts_ms, *_ in rows:
        _count(frozen(point), frozen(ts_ms), where.rank, start_ms, at[1:])
    at = np.cumsum(at)
    key = np.empty((at[-1], 2), np.int64)  # made here and not in compiled code, because numpy asks for huge pages
    while rows:
        _spread(tuple(map(frozen, rows.pop(0))), where.rank, start_ms, at, key, key.view(np.float64))
    framed = _frame(at[:-1], key, key.view(np.float64), where.point, where.device, start_ms)
    (device, ts_ns, offsets), (points, values, qualities) = framed
    members: tuple[MemberArray, ...] = ()
    if arrays:
        device, ts_ns, offsets, members = _with_arrays(device, ts_ns, offsets, arrays, where.owner)
    start_ns, end_ns, n = start_ms * NS_PER_MS, end_ms * NS_PER_MS, len(device)
    ticks = np.append(np.arange(start_ns // TICK_NS + 1, (end_ns - 1) // TICK_NS + 1, dtype=np.int64) * TICK_NS, end_ns)
    told_ns = np.array([time_ns for time_ns, _, _ in records], np.int64)
    others = np.concatenate([ticks, told_ns])
    rank = np.argsort(others, kind="stable")
    others = others[rank]
    kinds = np.concatenate([np.full(len(ticks), Kind.TICK, np.uint8), np.array([kind for _, _, kind in records], np.uint8)])[rank]
    entry = np.arange(n) + np.searchsorted(others, ts_ns, side="right")
    spot = np.arange(len(others)) + np.searchsorted(ts_ns, others, side="left")
    kind, time_ns = np.full(n + len(others), Kind.FRAME, np.uint8), np.empty(n + len(others), np.int64)
    kind[spot], time_ns[spot], time_ns[entry] = kinds, others, ts_ns
    zeros = np.zeros(n, np.uint32)
    frames = Frames(
        entry.astype(np.int32), device, ts_ns, zeros, zeros.copy(), np.full(n, READ_BACK, np.uint8), offsets, points, values,
        qualities, members,
    )  # fmt: skip
    of_rank = np.empty(len(rank), np.int64)
    of_rank[rank] = spot
    placed = tuple((int(of_rank[len(ticks) + k]), record) for k, (_, record, _) in enumerate(records))
    return Entries(first, kind, time_ns, frames, placed)


def _with_arrays(
    device: Array, ts_ns: Array, offsets: Array, arrays: Sequence[tuple[int, int, Array]], owner: Array
) -> tuple[Array, Array, Array, tuple[MemberArray, ...]]:
    """Frames with their arrays; one that came alone is a frame of its own."""
    n = len(device)
    point, ts_ms = (np.array([array[k] for array in arrays], np.int64) for k in (0, 1))
    devices, times = np.append(device, owner[point]), np.append(ts_ns, ts_ms * NS_PER_MS)
    order = np.lexsort((np.append(np.full(n, -1), point), devices, times))
    is_first = np.append(True, (np.diff(devices[order]) != 0) | (np.diff(times[order]) != 0))
    frame = np.empty(len(order), np.int64)
    frame[order] = np.cumsum(is_first) - 1
    sizes = np.zeros(int(is_first.sum()), np.int64)
    sizes[frame[:n]] = np.diff(offsets)
    first = order[is_first]
    members = tuple(MemberArray(int(frame[k]), int(point[k - n]), arrays[k - n][2]) for k in order.tolist() if k >= n)
    return devices[first].astype(np.int32), times[first], np.append(0, np.cumsum(sizes)), members


def opening(time_ns: int) -> Entries:
    """A tick with which a lane begins: silence and the clock count from here, however the data are cut."""
    return Entries(0, np.array([Kind.TICK], np.uint8), np.array([time_ns], np.int64), no_frames())
