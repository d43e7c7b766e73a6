"""Journal columns: `Entries` and `Admission` to bytes and back.

Layout: b"FLC1", uint32 length of a msgpack head, the head, then the raw little-endian columns in the head's order. The head
says name, dtype and length of each column, so that a column can be added without breaking old files.
"""

import struct
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from telemetry.errors import CorruptError
from telemetry.frame import COLUMNS, DERIVED_DTYPES, Admission, Derived, Entries, Frames, MemberArray
from telemetry.record import Record

MAGIC: Final = b"FLC1"


class _Column(msgspec.Struct, array_like=True):
    name: str
    dtype: str
    length: int


class _Head(msgspec.Struct, array_like=True):
    first: int
    columns: list[_Column]
    arrays: list[tuple[int, int]] = []
    records: list[tuple[int, Record]] = []


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(_Head)


def _pack(head: _Head, columns: list[NDArray[Any]]) -> bytes:
    body = _encoder.encode(head)
    return b"".join((MAGIC, struct.pack("<I", len(body)), body, *(column.tobytes() for column in columns)))


def _unpack(data: bytes) -> tuple[_Head, list[NDArray[Any]]]:
    if data[:4] != MAGIC:
        raise CorruptError("journal columns: wrong magic")
    (size,) = struct.unpack_from("<I", data, 4)
    head = _decoder.decode(memoryview(data)[8 : 8 + size])
    at, columns = 8 + size, []
    for column in head.columns:
        dtype = np.dtype(column.dtype)
        columns.append(np.frombuffer(data, dtype, column.length, at))
        at += dtype.itemsize * column.length
    if at != len(data):
        raise CorruptError(f"journal columns: {len(data)} bytes, head says {at}")
    return head, columns


def encode_entries(entries: Entries) -> bytes:
    """Bytes of a run of entries; equal entries give equal bytes."""
    frames = entries.frames
    named: list[tuple[str, NDArray[Any]]] = [("kind", entries.kind), ("time_ns", entries.time_ns)]
    named += [(name, getattr(frames, name)) for name in COLUMNS]
    named += [("member", array.values) for array in frames.arrays]
    head = _Head(
        entries.first,
        [_Column(name, column.dtype.str, len(column)) for name, column in named],
        [(array.frame, array.point) for array in frames.arrays],
        list(entries.records),
    )
    return _pack(head, [column for _, column in named])


def decode_entries(data: bytes) -> Entries:
    """Inverse of `encode_entries`; the arrays view `data`."""
    head, columns = _unpack(data)
    fixed = 2 + len(COLUMNS)
    arrays = tuple(MemberArray(frame, point, values) for (frame, point), values in zip(head.arrays, columns[fixed:], strict=True))
    frames = Frames(**dict(zip(COLUMNS, columns[2:fixed], strict=True)), arrays=arrays)
    return Entries(head.first, columns[0], columns[1], frames, tuple(head.records))


def encode_admission(admission: Admission) -> bytes:
    """Bytes of verdicts, qualities and, where there are any, the samples of virtual points."""
    named: list[tuple[str, NDArray[Any]]] = [("verdict", admission.verdict), ("quality", admission.quality)]
    if len(admission.derived.point):
        named += [(f"derived_{name}", column) for name, column in admission.derived._asdict().items()]
    head = _Head(0, [_Column(name, column.dtype.str, len(column)) for name, column in named])
    return _pack(head, [column for _, column in named])


def decode_admission(data: bytes) -> Admission:
    """Inverse of `encode_admission`."""
    head, columns = _unpack(data)
    if len(columns) == 2:
        return Admission(columns[0], columns[1])
    named = {column.name: values for column, values in zip(head.columns, columns, strict=True)}
    return Admission(columns[0], columns[1], Derived(*(named[f"derived_{name}"] for name in DERIVED_DTYPES)))
