"""Rows of history as the frames they once were: all samples of one device with one time are one frame, in order of (time, device).

History keeps rows in the order of its flushes, sorted by point inside each. A counting sort over whole seconds, and a look inside
each second, orders a block in linear time where a general sort would cost more than evaluating its rules.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from rules.lane import READ_BACK, TICK_NS
from telemetry.frame import Entries, Frames, Kind, no_frames
from telemetry.plan import Plan
from telemetry.record import Record

Array = NDArray[Any]
NS_PER_MS: Final = 1_000_000
BUCKET_MS: Final = 1_000
SWAP_MAX: Final = 64  # rows of an unsorted second that are inserted one by one; more are sorted in general
_compile = njit(cache=True, nogil=True)


class Places(NamedTuple):
    """Which points are read, and where they belong. rank (points,) int32 in order of (device, point), -1 = is not read;
    device (ranks,) int32; ranks counts those that are read."""

    rank: Array
    device: Array


def places(plan: Plan) -> Places:
    """Points of the active devices of a plan; points with members are not rows, virtual ones are computed anew: both are left out."""
    owners = [
        (number, point)
        for number in sorted(plan.active)
        for spec, point in zip(plan.devices[number].profile.points, plan.devices[number].points, strict=True)
        if spec.is_measured
    ]
    owners.sort()
    rank = np.full(len(plan.point_owner), -1, np.int32)
    rank[[point for _, point in owners]] = np.arange(len(owners))
    return Places(rank, np.array([device for device, _ in owners], np.int32))


@_compile
def _ordered(point: Array, ts_ms: Array, rank: Array, ranks: int, start_ms: int, buckets: int) -> Array:
    """Indices of the rows that are read, by (time, rank)."""
    at = np.zeros(buckets + 1, np.int64)
    for k in range(len(point)):
        if point[k] < len(rank) and rank[point[k]] >= 0:  # summaries of members have numbers beyond
            at[(ts_ms[k] - start_ms) // BUCKET_MS + 1] += 1
    for b in range(buckets):
        at[b + 1] += at[b]
    order = np.empty(at[buckets], np.int64)
    key = np.empty(at[buckets], np.int64)
    for k in range(len(point)):
        if point[k] < len(rank) and rank[point[k]] >= 0:
            b = (ts_ms[k] - start_ms) // BUCKET_MS
            order[at[b]] = k
            key[at[b]] = (ts_ms[k] - start_ms) * ranks + rank[point[k]]
            at[b] += 1
    low = 0
    for b in range(buckets):
        high = at[b]  # one past the bucket, after the loop above
        is_sorted = True
        for j in range(low + 1, high):
            if key[j] < key[j - 1]:
                is_sorted = False
                break
        if not is_sorted and high - low > SWAP_MAX:
            chosen = np.argsort(key[low:high], kind="mergesort")
            order[low:high] = order[low:high][chosen]
        elif not is_sorted:
            for j in range(low + 1, high):
                x, y, i = key[j], order[j], j
                while i > low and key[i - 1] > x:
                    key[i], order[i] = key[i - 1], order[i - 1]
                    i -= 1
                key[i], order[i] = x, y
        low = high
    return order


@_compile
def _framed(order: Array, point: Array, ts_ms: Array, value: Array, quality: Array, rank: Array, device_of: Array) -> Any:
    """Columns of frames: device, time, offsets; point, value, quality."""
    m = len(order)
    device, ts_ns, offsets = np.empty(m, np.int32), np.empty(m, np.int64), np.empty(m + 1, np.int64)
    points, values, qualities = np.empty(m, np.int32), np.empty(m, np.float64), np.empty(m, np.uint16)
    n, last_device, last_ms = 0, -1, 0
    for j in range(m):
        k = order[j]
        d, t = device_of[rank[point[k]]], ts_ms[k]
        if d != last_device or t != last_ms:
            device[n], ts_ns[n], offsets[n] = d, t * NS_PER_MS, j
            n += 1
            last_device, last_ms = d, t
        points[j], values[j], qualities[j] = point[k], value[k], quality[k]
    offsets[n] = m
    return device[:n].copy(), ts_ns[:n].copy(), offsets[: n + 1].copy(), points, values, qualities


def recorded_entries(
    rows: tuple[Array, Array, Array, Array],
    where: Places,
    *,
    first: int,
    start_ms: int,
    end_ms: int,
    records: tuple[tuple[int, Record, Kind], ...] = (),
) -> Entries:
    """Entries of [start, end) on the data's clock, with ticks in (start, end], the last one at its end.

    rows: point int32, ts_ms int64, value float64, quality uint16, all (m,) in any order, all inside the interval. records: (time in
    ns, record, kind) inside it, in order of time. Where times are equal, a tick comes first, then a record, then frames.
    """
    point, ts_ms, value, quality = rows
    buckets = max(1, -(-(end_ms - start_ms) // BUCKET_MS))
    order = _ordered(point, ts_ms, where.rank, len(where.device), start_ms, buckets)
    device, ts_ns, offsets, points, values, qualities = _framed(order, point, ts_ms, value, quality, where.rank, where.device)
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
        entry.astype(np.int32), device, ts_ns, zeros, zeros.copy(), np.full(n, READ_BACK, np.uint8), offsets, points,
        values, qualities,
    )  # fmt: skip
    of_rank = np.empty(len(rank), np.int64)
    of_rank[rank] = spot
    placed = tuple((int(of_rank[len(ticks) + k]), record) for k, (_, record, _) in enumerate(records))
    return Entries(first, kind, time_ns, frames, placed)


def opening(time_ns: int) -> Entries:
    """A tick with which a lane begins: silence and the clock count from here, however the data are cut."""
    return Entries(0, np.array([Kind.TICK], np.uint8), np.array([time_ns], np.int64), no_frames())
