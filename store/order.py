"""In which order everything came: what a history's rows do not tell, packed small, so that `step` can be run on a history alone.

A history knows samples by point and ms, and records by position. One packed run of entries beside them holds the rest: kinds and
engine times (ticks, too), the heads of frames, the point numbers and the quality that devices reported. A value travels in it only
where no row of the history gives it back bit for bit: of duplicates, of contradictions, of infinities. So do whole member arrays, of
which history keeps the changes, and records whose rows do not give them back. Of a rejected message its payload is left out: it
decides nothing.

Bytes: zstd over a msgpack head and the columns; integers as differences, frames' numbers by device, bytes of equal weight together.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store.history import RecordRow, Run
from telemetry.errors import CorruptError
from telemetry.frame import COLUMNS, DTYPES, Entries, Frames, MemberArray
from telemetry.record import Ack, Clock, Config, Event, Record, Request, Start

BY_DEVICE: Final = ("boot", "seq", "ts_ns")  # steady inside a device, not from frame to frame
_SABOTAGE: Final = os.environ.get("FIELDLOOM_SABOTAGE", "")
MILLION: Final = 1_000_000
_CODEC: Final = pa.Codec("zstd", compression_level=1)
Array = NDArray[Any]


class _Head(msgspec.Struct, array_like=True):
    size: int  # of all that follows the head
    first: int
    entries: int
    frames: int
    samples: int
    carried: int
    arrays: list[tuple[int, int, str, int]]  # frame, point, dtype, members
    records: list[tuple[int, Record]]


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(_Head)


def encode_order(entries: Entries, is_stored: NDArray[np.bool_], rows: Mapping[int, RecordRow]) -> bytes:
    """Bytes of a run. is_stored: (m,) samples whose value a row gives back; rows: those of records, by position."""
    frames = entries.frames
    by = np.argsort(frames.device, kind="stable")
    columns: list[Array] = [entries.kind, entries.time_ns]
    for name in COLUMNS:
        if name in BY_DEVICE:
            column = getattr(frames, name)
            columns.append((column - entries.time_ns[frames.entry] if name == "ts_ns" else column)[by])
        elif name != "value":
            columns.append(getattr(frames, name))
    packed = [_pack(column) for column in columns]
    carried = frames.value[~is_stored]
    packed += [np.packbits(is_stored).tobytes(), carried.tobytes(), *_pack_arrays(frames.arrays)]
    body = b"".join(packed)
    arrays = [(array.frame, array.point, array.values.dtype.str, len(array.values)) for array in frames.arrays]
    records = [(index, _slim(record)) for index, record in entries.records if not _is_told(record, rows, entries.first + index)]
    head = _encoder.encode(
        _Head(len(body), entries.first, len(entries), len(frames), len(frames.point), len(carried), arrays, records)
    )
    raw = len(head).to_bytes(4, "little") + head + body
    return len(raw).to_bytes(8, "little") + bytes(_CODEC.compress(raw, asbytes=True))


class Packed(NamedTuple):
    """A run as its bytes say it: values are 0 where the history's rows have them."""

    entries: Entries
    is_stored: NDArray[np.bool_]

    def wanted(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """(k,) point and ts_ms of every value that the history must give."""
        frames = self.entries.frames
        ts_ms = np.repeat(frames.ts_ns // MILLION, np.diff(frames.offsets))
        return frames.point[self.is_stored], ts_ms[self.is_stored]

    def fill(self, values: NDArray[np.float64]) -> Entries:
        """The entries as they were journaled; values (k,) as `wanted` asked."""
        frames = self.entries.frames
        value, ts_ns = frames.value.copy(), frames.ts_ns.copy()
        value[self.is_stored] = values
        if _SABOTAGE == "history_swaps_frames":  # the times of the first two: of one device that is its two frames
            ts_ns[:2] = ts_ns[:2][::-1].copy()
        return replace(self.entries, frames=replace(frames, value=value, ts_ns=ts_ns))


def decode_order(run: Run) -> Packed:
    """The kept run. CorruptError when its bytes or its records' rows do not fit together."""
    try:
        return _decode(run)
    except (msgspec.DecodeError, pa.ArrowException, OSError, ValueError, IndexError, AssertionError) as error:
        raise CorruptError(f"the order of entries {run.first} to {run.last} in the history is damaged: {error}") from error


def _decode(run: Run) -> Packed:
    raw = bytes(_CODEC.decompress(run.data[8:], decompressed_size=int.from_bytes(run.data[:8], "little"), asbytes=True))
    size = int.from_bytes(raw[:4], "little")
    head = _decoder.decode(raw[4 : 4 + size])
    reader = _Reader(raw, 4 + size)
    kind, time_ns = reader.column(np.uint8, head.entries), reader.column(np.int64, head.entries)
    counts = {"offsets": head.frames + 1, "point": head.samples, "quality": head.samples}
    columns = {name: reader.column(DTYPES[name], counts.get(name, head.frames)) for name in COLUMNS if name != "value"}
    is_stored = np.unpackbits(reader.plain(np.uint8, -(-head.samples // 8)), count=head.samples).astype(np.bool_)
    value = np.zeros(head.samples)
    value[~is_stored] = reader.plain(np.float64, head.carried)
    arrays = _read_arrays(reader, head.arrays)
    if reader.at != len(raw) or run.last - run.first + 1 != head.entries or run.first != head.first:
        raise ValueError(f"{len(raw)} bytes of {head.entries} entries from {head.first} on")
    by = np.argsort(columns["device"], kind="stable")
    for name in BY_DEVICE:
        column = np.empty_like(columns[name])
        column[by] = columns[name]
        columns[name] = column
    columns["ts_ns"] += time_ns[columns["entry"]]
    records = _join_records(head, run.records)
    return Packed(Entries(head.first, kind, time_ns, Frames(**columns, value=value, arrays=arrays), records), is_stored)


class _Reader:
    """Columns one after another."""

    def __init__(self, raw: bytes, at: int) -> None:
        self._raw, self.at = raw, at

    def plain(self, dtype: Any, count: int) -> Array:
        column = np.frombuffer(self._raw, dtype, count, self.at)
        self.at += column.nbytes
        return column

    def column(self, dtype: Any, count: int) -> Array:
        """Inverse of `_pack`."""
        wide = np.dtype(dtype).itemsize
        planes = self.plain(np.uint8, count * wide).reshape(wide, count)
        return np.cumsum(np.ascontiguousarray(planes.T).view(dtype)[:, 0], dtype=dtype)


def _pack(column: Array) -> bytes:
    """Differences, their lowest bytes first, then the next: most are small, and what is alike lies together."""
    steps = column.copy()
    steps[1:] = column[1:] - column[:-1]  # wraps around, as the sum does
    return steps.view(np.uint8).reshape(len(steps), column.itemsize).T.tobytes()


def _pack_arrays(arrays: Sequence[MemberArray]) -> list[bytes]:
    """Each as what differs from the one of the same point before it."""
    return [(_octets(array.values) ^ before).tobytes() for array, before in zip(arrays, _before(arrays), strict=True)]


def _before(arrays: Sequence[MemberArray]) -> list[Array]:
    latest: dict[tuple[int, str, int], Array] = {}
    found = []
    for array in arrays:
        key = (array.point, array.values.dtype.str, len(array.values))
        found.append(latest.get(key, np.zeros(array.values.nbytes, np.uint8)))
        latest[key] = _octets(array.values)
    return found


def _octets(values: Array) -> Array:
    return np.ascontiguousarray(values).view(np.uint8)


def _read_arrays(reader: _Reader, heads: Sequence[tuple[int, int, str, int]]) -> tuple[MemberArray, ...]:
    latest: dict[tuple[int, str, int], Array] = {}
    arrays = []
    for frame, point, dtype, members in heads:
        octets = reader.plain(np.uint8, members * np.dtype(dtype).itemsize)
        octets = latest[point, dtype, members] = octets ^ latest.get((point, dtype, members), np.uint8(0))
        arrays.append(MemberArray(frame, point, octets.view(dtype)))
    return tuple(arrays)


def _join_records(head: _Head, rows: Sequence[RecordRow]) -> tuple[tuple[int, Record], ...]:
    """Records that travelled, and those that rows give back, in order."""
    records = dict(head.records)
    for row in rows:
        index = row.position - head.first
        if index not in records:
            records[index] = _record_of(row)
    return tuple(sorted(records.items()))


def _slim(record: Record) -> Record:
    if isinstance(record, Event) and record.name == "reject":
        return Event(record.name, record.device, {key: value for key, value in record.body.items() if key != "payload"})
    return record


def _is_told(record: Record, rows: Mapping[int, RecordRow], position: int) -> bool:
    """True when its row gives the record back. Rejects are forgotten one day, so theirs does not."""
    row = rows.get(position)
    if row is None or (isinstance(record, Event) and record.name == "reject"):
        return False
    try:
        return _record_of(row) == record
    except (msgspec.DecodeError, KeyError, ValueError):
        return False


def _record_of(row: RecordRow) -> Record:
    """The journal's record that `store.projection` made a row of. ValueError for a kind that is none of the journal's."""
    place = f"{row.site}/{row.device}" if row.device else row.site
    if row.kind == "config":
        told = msgspec.json.decode(row.body, type=_ConfigBody)
        return Config(row.site, row.subject, bytes(told.config).decode(), told.author)
    body = msgspec.json.decode(row.body)
    match row.kind:
        case "event":
            return Event(row.subject, place, body)
        case "ack":
            return Ack(place, row.subject, body["status"], body["reason"])
        case "request":
            return Request(row.subject, body["kind"], body["author"], body["body"])
        case "clock":
            return Clock(body["jump_ns"])
        case "start":
            return Start(body["epoch"], body["version"])
    raise ValueError(f"a record of kind {row.kind!r} at position {row.position}")


class _ConfigBody(msgspec.Struct):
    author: str
    config: msgspec.Raw
