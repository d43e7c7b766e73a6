"""Columnar frames and journal entries: the only currency for measurements.

A *frame* is all samples of one device with one device time; it is never split. `Frames` holds n frames and m samples in
compressed rows: the samples of frame i are `offsets[i]:offsets[i+1]`. `Entries` is a run of journal entries in journal order;
frames and the sparse records (events, acknowledgements, requests, configuration ...) point into it by entry index.
Arrays are set read-only on construction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from telemetry.record import Record


class Kind(IntEnum):
    """What a journal entry is."""

    FRAME = 0
    EVENT = 1
    ACK = 2
    REQUEST = 3
    CONFIG = 4
    TICK = 5
    CLOCK = 6
    START = 7


class Flag(IntFlag):
    """How a frame arrived."""

    HAS_SEQ = 1  # boot and seq are the device's
    HAS_TS = 2  # ts is the device's; otherwise it is the arrival time
    RETAINED = 4  # the broker replayed an old value
    BACKFILL = 8  # came over the store-and-forward topic
    FIRST = 16  # first frame of its message; the others share its sequence number
    REPLAY = 32  # the site is a replayed recording
    CALIBRATED = 64  # read back from history, whose values are calibrated already


class Verdict(IntEnum):
    """What admission decided about a frame. Only LIVE frames are seen by rules of the live lane."""

    LIVE = 0
    LATE = 1
    FUTURE = 2
    DUPLICATE = 3
    BACKFILL = 4
    REPLAY = 5
    RETAINED = 6


STORED_VERDICTS: Final = tuple(v for v in Verdict if v is not Verdict.DUPLICATE)


@dataclass(frozen=True, slots=True)
class MemberArray:
    """One sample of a point with an axis (1,824 spindles): values keep their wire type. shape (members,)."""

    frame: int
    point: int
    values: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Frames:
    """n frames with m samples. Times in ns since 1970 UTC.

    entry (n,) int32 index into Entries; device (n,) int32; ts_ns (n,) int64; boot, seq (n,) uint32; flags (n,) uint8 of Flag;
    offsets (n+1,) int64; point (m,) int32; value (m,) float64; quality (m,) uint16 as the device reported it.
    """

    entry: NDArray[np.int32]
    device: NDArray[np.int32]
    ts_ns: NDArray[np.int64]
    boot: NDArray[np.uint32]
    seq: NDArray[np.uint32]
    flags: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    point: NDArray[np.int32]
    value: NDArray[np.float64]
    quality: NDArray[np.uint16]
    arrays: tuple[MemberArray, ...] = ()

    def __post_init__(self) -> None:
        n, m = len(self.device), len(self.point)
        assert len(self.entry) == len(self.ts_ns) == len(self.boot) == len(self.seq) == len(self.flags) == n
        assert len(self.offsets) == n + 1
        assert len(self.value) == len(self.quality) == m
        assert n == 0 or int(self.offsets[-1]) == m
        for column in COLUMNS:
            getattr(self, column).flags.writeable = False

    def __len__(self) -> int:
        return len(self.device)

    @property
    def frame_of_sample(self) -> NDArray[np.int64]:
        """(m,) index of the frame each sample belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))


COLUMNS: Final = ("entry", "device", "ts_ns", "boot", "seq", "flags", "offsets", "point", "value", "quality")
DTYPES: Final[dict[str, type[Any]]] = {
    "entry": np.int32,
    "device": np.int32,
    "ts_ns": np.int64,
    "boot": np.uint32,
    "seq": np.uint32,
    "flags": np.uint8,
    "offsets": np.int64,
    "point": np.int32,
    "value": np.float64,
    "quality": np.uint16,
}


def make_frames(columns: dict[str, Any], arrays: tuple[MemberArray, ...] = ()) -> Frames:
    """Frames from lists or arrays by column name; missing columns are an error."""
    return Frames(**{name: np.array(columns[name], dtype=DTYPES[name]) for name in COLUMNS}, arrays=arrays)


def no_frames() -> Frames:
    """Zero frames."""
    return make_frames({name: [0] if name == "offsets" else [] for name in COLUMNS})


@dataclass(frozen=True, slots=True)
class Entries:
    """k journal entries; entry i has position first + i.

    kind (k,) uint8 of Kind; time_ns (k,) int64 engine time, never decreasing. `records` holds (entry index, record) of every
    entry that is not a FRAME or TICK, in order.
    """

    first: int
    kind: NDArray[np.uint8]
    time_ns: NDArray[np.int64]
    frames: Frames
    records: tuple[tuple[int, Record], ...] = ()

    def __post_init__(self) -> None:
        assert len(self.kind) == len(self.time_ns)
        self.kind.flags.writeable = False
        self.time_ns.flags.writeable = False

    def __len__(self) -> int:
        return len(self.kind)


class Derived(NamedTuple):
    """d samples of virtual points, in the order in which they were computed; those of one point rise in time.

    entry (d,) int32 index into Entries: what they were computed at; point (d,) int32; ts_ns (d,) int64; value (d,) float64 (NaN: not
    known); quality (d,) uint16.
    """

    entry: NDArray[np.int32]
    point: NDArray[np.int32]
    ts_ns: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint16]


def make_derived(entry: Any, point: Any, ts_ns: Any, value: Any, quality: Any) -> Derived:
    """Derived samples from lists or arrays."""
    given = zip((entry, point, ts_ns, value, quality), DERIVED_DTYPES.values(), strict=True)
    return Derived(*(np.array(column, dtype) for column, dtype in given))


def join_derived(parts: Sequence[Derived], starts: Sequence[int]) -> Derived:
    """Those of runs that follow one another, the entries of each beginning at `starts`."""
    if not any(len(part.point) for part in parts):
        return NONE_DERIVED
    moved = [part._replace(entry=part.entry + np.int32(start)) for part, start in zip(parts, starts, strict=True)]
    return Derived(*(np.concatenate(columns) for columns in zip(*moved, strict=True)))


DERIVED_DTYPES: Final[dict[str, type[Any]]] = {
    "entry": np.int32, "point": np.int32, "ts_ns": np.int64, "value": np.float64, "quality": np.uint16,
}  # fmt: skip
NONE_DERIVED: Final = make_derived([], [], [], [], [])


@dataclass(frozen=True, slots=True)
class Admission:
    """What `step` made of `Frames`: verdict (n,) uint8 of Verdict, quality (m,) uint16 after all checks, and what virtual points say."""

    verdict: NDArray[np.uint8]
    quality: NDArray[np.uint16]
    derived: Derived = NONE_DERIVED


def slice_entries(entries: Entries, start: int, stop: int) -> Entries:
    """Entries start..stop (indices) as their own run; a cut never splits a frame, since a frame is one entry."""
    frames = entries.frames
    lo, hi = (int(x) for x in np.searchsorted(frames.entry, [start, stop]))
    a, b = int(frames.offsets[lo]), int(frames.offsets[hi])
    part = Frames(
        entry=frames.entry[lo:hi] - np.int32(start),
        device=frames.device[lo:hi].copy(),
        ts_ns=frames.ts_ns[lo:hi].copy(),
        boot=frames.boot[lo:hi].copy(),
        seq=frames.seq[lo:hi].copy(),
        flags=frames.flags[lo:hi].copy(),
        offsets=frames.offsets[lo : hi + 1] - a,
        point=frames.point[a:b].copy(),
        value=frames.value[a:b].copy(),
        quality=frames.quality[a:b].copy(),
        arrays=tuple(MemberArray(array.frame - lo, array.point, array.values) for array in frames.arrays if lo <= array.frame < hi),
    )
    records = tuple((i - start, record) for i, record in entries.records if start <= i < stop)
    return Entries(entries.first + start, entries.kind[start:stop].copy(), entries.time_ns[start:stop].copy(), part, records)


def join_entries(parts: Sequence[Entries]) -> Entries:
    """Runs that follow one another as one run: what `slice_entries` took apart."""
    assert parts
    starts = np.cumsum([0, *map(len, parts)])
    frame_starts = np.cumsum([0, *(len(part.frames) for part in parts)])
    sample_starts = np.cumsum([0, *(len(part.frames.point) for part in parts)])
    assert all(part.first == parts[0].first + start for part, start in zip(parts, starts.tolist(), strict=False))

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part.frames, name) for part in parts])

    shifts = zip(parts, starts.tolist(), frame_starts.tolist(), sample_starts.tolist(), strict=False)
    entry, offsets, arrays, records = [], [np.zeros(1, np.int64)], [], []
    for part, start, frame_start, sample_start in shifts:
        entry.append(part.frames.entry + np.int32(start))
        offsets.append(part.frames.offsets[1:] + sample_start)
        arrays += [MemberArray(array.frame + frame_start, array.point, array.values) for array in part.frames.arrays]
        records += [(index + start, record) for index, record in part.records]
    same = {name: joined(name) for name in COLUMNS if name not in ("entry", "offsets")}
    frames = Frames(entry=np.concatenate(entry), offsets=np.concatenate(offsets), arrays=tuple(arrays), **same)
    kind, time_ns = (np.concatenate([getattr(part, name) for part in parts]) for name in ("kind", "time_ns"))
    return Entries(parts[0].first, kind, time_ns, frames, tuple(records))
