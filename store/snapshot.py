"""Snapshots of the engine's state: one file each, whole or not at all.

Layout: b"FLSN", uint32 version, uint32 length of a msgpack head, the head, the arrays (each padded to 8 bytes), SHA-256 of all
before it. The head holds position, build, CPU class, the state with every array replaced by its index, and the arrays' dtypes and
shapes. Invariant: what is returned passed its checksum.
"""

import contextlib
import hashlib
import os
import platform
import struct
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from telemetry.errors import CorruptError, StoreError

MAGIC: Final = b"FLSN"
VERSION: Final = 1
KEPT: Final = 2
SUFFIX: Final = ".snap"
_ARRAY_CODE: Final = 1
_FIXED: Final = struct.Struct("<4sII")


class Snapshot(NamedTuple):
    """One read snapshot. Arrays in `state` are writable and belong to the caller."""

    position: int
    build: str
    cpu: str
    state: dict[str, Any]


class _Head(msgspec.Struct, array_like=True):
    position: int
    build: str
    cpu: str
    state: Any
    arrays: list[tuple[str, list[int]]]


def build_string() -> str:
    """Version of this program and of what decides its float results."""
    try:
        own = version("fieldloom")
    except PackageNotFoundError:
        own = "source"
    return f"fieldloom {own}, python {platform.python_version()}, numpy {np.__version__}"


def cpu_class() -> str:
    """Machine and the vector features numpy dispatches on: float results are promised equal only inside one class."""
    features: dict[str, bool] = np._core._multiarray_umath.__cpu_features__  # type: ignore[attr-defined]  # no public name for it
    found = ",".join(sorted(name for name, is_there in features.items() if is_there))
    return f"{platform.machine()} {hashlib.sha256(found.encode()).hexdigest()[:12]}"


def write_snapshot(directory: Path, position: int, state: dict[str, Any], *, build: str = "") -> Path:
    """Write `state` at journal `position` and keep the two newest files. Durable when it returns; a kill leaves the old ones.

    `state`: nested dicts and lists of str, int, float, bool, None, bytes and numpy arrays (no objects). `build` "" means this
    build. Raises StoreError when the disk refuses.
    """
    return publish_snapshot(draft_snapshot(directory, position, state, build=build))


def draft_snapshot(directory: Path, position: int, state: dict[str, Any], *, build: str = "") -> Path:
    """The first half of `write_snapshot`: the bytes are handed to the system, array by array and without a copy of the state.

    `state` may change again when this returns; the file counts for nothing until `publish_snapshot`.
    """
    temporary = directory / f"{position:020d}{SUFFIX}.new"
    digest = hashlib.sha256()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for part in _encode(position, build or build_string(), state):
                digest.update(part)
                file.write(part)
            file.write(digest.digest())
    except OSError as error:
        raise _unwritten(temporary, error) from error
    return temporary


def publish_snapshot(temporary: Path) -> Path:
    """The second half: synced, renamed, older files removed. Raises StoreError when the disk refuses."""
    path = temporary.with_suffix("")
    try:
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
        for old in _newest_first(path.parent)[KEPT:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritten(temporary, error) from error
    return path


def _unwritten(temporary: Path, error: OSError) -> StoreError:
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
    return StoreError(f"{temporary.with_suffix('')}: the snapshot could not be written: {error.strerror}")


def remove_drafts(directory: Path) -> None:
    """Forget what kills in the middle of a snapshot left behind. For the one writer, before its first snapshot."""
    for draft in directory.glob(f"*{SUFFIX}.new"):
        draft.unlink(missing_ok=True)


def newest_snapshot(
    directory: Path, *, build: str = "", skipped: list[str] | None = None, is_other_build_allowed: bool = False
) -> tuple[int, dict[str, Any]] | None:
    """The first of `valid_snapshots`; None when there is none."""
    return next(valid_snapshots(directory, build=build, skipped=skipped, is_other_build_allowed=is_other_build_allowed), None)


def valid_snapshots(
    directory: Path, *, build: str = "", skipped: list[str] | None = None, is_other_build_allowed: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Position and state of each valid snapshot of `build` ("": this build) on this CPU class, newest first.

    Files that are damaged or of another build are passed over, with a sentence each added to `skipped`. With
    `is_other_build_allowed` valid files of another build or CPU class are taken too (after an upgrade).
    """
    wanted = (build or build_string(), cpu_class())
    reasons = skipped if skipped is not None else []
    for path in _newest_first(directory):
        try:
            snapshot = read_snapshot(path)
        except StoreError as error:
            reasons.append(str(error))
            continue
        if (snapshot.build, snapshot.cpu) != wanted:
            reasons.append(f"{path}: made by {snapshot.build} on {snapshot.cpu}, this is {wanted[0]} on {wanted[1]}")
            if not is_other_build_allowed:
                continue
        yield snapshot.position, snapshot.state


def read_snapshot(path: Path) -> Snapshot:
    """Read one file. Raises CorruptError when any byte of it is wrong, StoreError when it cannot be read."""
    try:
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if len(content) < _FIXED.size + 32 or hashlib.sha256(memoryview(content)[:-32]).digest() != content[-32:]:
        raise CorruptError(f"{path}: the snapshot fails its checksum ({len(content)} bytes)")
    magic, layout, size = _FIXED.unpack_from(content)
    if magic != MAGIC or layout != VERSION:
        raise CorruptError(f"{path}: not a snapshot of version {VERSION}")
    if path.name != f"{_position_of(content, size):020d}{SUFFIX}":
        raise CorruptError(f"{path}: holds another position than its name; it was renamed")
    return _decode(content, size)


def _encode(position: int, build: str, state: dict[str, Any]) -> Iterator[bytes | memoryview]:
    arrays: list[NDArray[Any]] = []

    def take(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            raise TypeError(f"a snapshot cannot hold {type(value).__name__}")
        arrays.append(np.ascontiguousarray(value).reshape(value.shape))
        return msgspec.msgpack.Ext(_ARRAY_CODE, struct.pack("<I", len(arrays) - 1))

    encoder = msgspec.msgpack.Encoder(enc_hook=take)
    body = encoder.encode(state)  # first, so that the head can list the arrays it met
    listed = [(_describe(array.dtype), list(array.shape)) for array in arrays]
    head = msgspec.msgpack.encode(_Head(position, build, cpu_class(), msgspec.Raw(body), listed))
    yield _FIXED.pack(MAGIC, VERSION, len(head)) + head + bytes(-(_FIXED.size + len(head)) % 8)
    for array in arrays:
        yield array.reshape(-1).view(np.uint8).data
        yield bytes(-array.nbytes % 8)


def _position_of(content: bytearray, size: int) -> int:
    position, *_ = msgspec.msgpack.decode(memoryview(content)[_FIXED.size : _FIXED.size + size])
    return int(position)


def _decode(content: bytearray, size: int) -> Snapshot:
    packed = memoryview(content)[_FIXED.size : _FIXED.size + size]
    listed: list[tuple[str, list[int]]] = msgspec.msgpack.decode(packed)[4]
    at, arrays = _FIXED.size + size, list[NDArray[Any]]()
    at += -at % 8
    for name, shape in listed:
        dtype = np.dtype(name)
        count = int(np.prod(shape, dtype=np.int64))
        arrays.append(np.frombuffer(content, dtype, count, at).reshape(shape) if count else np.zeros(shape, dtype))
        at += dtype.itemsize * count + -(dtype.itemsize * count) % 8

    def give(code: int, packed: memoryview) -> Any:
        assert code == _ARRAY_CODE
        return arrays[struct.unpack("<I", packed)[0]]

    head = msgspec.msgpack.Decoder(_Head, ext_hook=give).decode(packed)
    return Snapshot(head.position, head.build, head.cpu, head.state)


def _describe(dtype: np.dtype[Any]) -> str:
    if dtype.names is not None:
        raise TypeError("a snapshot holds plain columns, not structured arrays")
    return dtype.str


def _newest_first(directory: Path) -> list[Path]:
    names = sorted((path.name for path in directory.glob(f"*{SUFFIX}") if path.stem.isdigit()), reverse=True)
    return [directory / name for name in names]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
