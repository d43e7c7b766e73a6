"""What a journal segment is on disk: its name, tables, checksums and the errors SQLite has for it. Shared by writer and readers.

A segment is one SQLite file in WAL mode named by the first position it may hold. The layout is docs/journal-format.md; this
file follows it. Invariant: a row whose checksum fails is never returned.
"""

import os
import sqlite3
import struct
import zlib
from pathlib import Path
from typing import Any, Final, NamedTuple

from telemetry.errors import CorruptError, StoreError
from telemetry.transaction import Transaction

SCHEMA: Final = 1
SUFFIX: Final = ".sqlite"
NEW_SUFFIX: Final = ".sqlite.new"  # a segment under construction: never read, removed at the next start
MARK_NAME: Final = "mark"
PAGE_BYTES: Final = 8192  # checkpoints take 4.4 ms against 6.4 ms with 4 KiB pages; 16 KiB: 3 ms, but more bytes for a lone tick

COLUMNS: Final = "first, count, epoch, engine_ns, sample_rows, entries, admission, decisions, accounting, crc32"
CREATE: Final = """
CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), schema INTEGER NOT NULL, first INTEGER NOT NULL,
    created_ns INTEGER NOT NULL, epoch INTEGER NOT NULL, sealed INTEGER NOT NULL, crc32 INTEGER NOT NULL);
CREATE TABLE tx (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, epoch INTEGER NOT NULL, engine_ns INTEGER NOT NULL,
    sample_rows INTEGER NOT NULL, entries BLOB NOT NULL, admission BLOB NOT NULL, decisions BLOB NOT NULL,
    accounting BLOB NOT NULL, crc32 INTEGER NOT NULL);
"""
INSERT: Final = f"INSERT INTO tx ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)"
LAST: Final = f"SELECT {COLUMNS} FROM tx ORDER BY first DESC LIMIT 1"
# Starts at the row that holds position `after + 1`, so that a position inside a transaction is served too.
AFTER: Final = f"SELECT {COLUMNS} FROM tx WHERE first >= ifnull((SELECT max(first) FROM tx WHERE first <= ?), 0) ORDER BY first"

_NUMBERS: Final = struct.Struct("<9q")
_META: Final = struct.Struct("<5q")
_MARK: Final = struct.Struct("<qI")

_SENTENCES: Final = {
    sqlite3.SQLITE_FULL: "the disk is full; free space and it goes on by itself",
    sqlite3.SQLITE_IOERR: "the disk reports an I/O error; look at the kernel log and the disk",
    sqlite3.SQLITE_READONLY: "it is read-only; make the data directory writable for this user",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; look at permissions, free space and the limit of open files",
    sqlite3.SQLITE_PERM: "permission is denied; make the data directory writable for this user",
    sqlite3.SQLITE_BUSY: "another process is writing to it; stop the second writer",
    sqlite3.SQLITE_LOCKED: "it is locked by this process",
    sqlite3.SQLITE_PROTOCOL: "its locks do not work; keep the data directory on a local disk, not on a network share",
    sqlite3.SQLITE_INTERRUPT: "the operation was interrupted",
}
_DAMAGE: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH}
)


class Meta(NamedTuple):
    """The one row of `meta`. sealed: position of the segment's last entry once it is finished (first - 1 when empty), else -2."""

    schema: int
    first: int
    created_ns: int
    epoch: int
    sealed: int

    @property
    def is_sealed(self) -> bool:
        """True when nothing will ever be added to it."""
        return self.sealed != OPEN


OPEN: Final = -2


def segment_path(directory: Path, first: int) -> Path:
    """The segment whose first position is `first`."""
    return directory / f"{first:020d}{SUFFIX}"


def list_segments(directory: Path) -> list[int]:
    """First positions of all finished segment files, oldest first; [] when the directory is missing."""
    try:
        names = [path.name for path in directory.iterdir()]
    except FileNotFoundError:
        return []
    return sorted(int(name[:20]) for name in names if len(name) == 27 and name.endswith(SUFFIX) and name[:20].isdigit())


def meta_row(meta: Meta) -> tuple[int, ...]:
    """Values of `meta` with their checksum, for an insert or update."""
    return (*meta, zlib.crc32(_META.pack(*meta)))


def read_meta(connection: sqlite3.Connection, path: Path) -> Meta:
    """The segment's meta row. Raises CorruptError when it is missing or damaged, StoreError for a newer schema."""
    row = connection.execute("SELECT schema, first, created_ns, epoch, sealed, crc32 FROM meta WHERE id = 1").fetchone()
    if row is None or not all(type(value) is int for value in row):
        raise CorruptError(f"{path}: the segment's meta row is missing or damaged")
    meta = Meta(*row[:5])
    if zlib.crc32(_META.pack(*meta)) != row[5]:
        raise CorruptError(f"{path}: the segment's meta row fails its checksum")
    if meta.schema != SCHEMA:
        raise StoreError(f"{path}: written with schema {meta.schema}, this program reads {SCHEMA}; use the newer program")
    if f"{meta.first:020d}" != path.name[:20]:
        raise CorruptError(f"{path}: the file says that it begins at position {meta.first}; it was renamed")
    return meta


def checksum(transaction: Transaction) -> int:
    """CRC-32 (zlib) over all fields: nine little-endian int64 (five numbers, four blob lengths), then the blobs."""
    t = transaction
    sizes = (len(t.entries), len(t.admission), len(t.decisions), len(t.accounting))
    crc = zlib.crc32(_NUMBERS.pack(t.first, t.count, t.epoch, t.engine_ns, t.rows, *sizes))
    for blob in (t.entries, t.admission, t.decisions, t.accounting):
        crc = zlib.crc32(blob, crc)
    return crc


def to_row(transaction: Transaction) -> tuple[Any, ...]:
    """Values in the order of COLUMNS."""
    t = transaction
    return (t.first, t.count, t.epoch, t.engine_ns, t.rows, t.entries, t.admission, t.decisions, t.accounting, checksum(t))


def from_row(row: tuple[Any, ...], path: Path, *, is_checked: bool = True) -> Transaction:
    """Inverse of `to_row`. Raises CorruptError with file and position when a type, the count or the checksum is wrong."""
    first, count, epoch, engine_ns, rows, entries, admission, decisions, accounting, crc = row
    numbers, blobs = (first, count, epoch, engine_ns, rows, crc), (entries, admission, decisions, accounting)
    if not (all(type(value) is int for value in numbers) and all(type(blob) is bytes for blob in blobs)):
        raise CorruptError(f"{path}: position {first}: a field has the wrong type")
    transaction = Transaction(first, count, epoch, engine_ns, entries, admission, decisions, accounting, rows)
    if is_checked and checksum(transaction) != crc:
        raise CorruptError(f"{path}: position {first}: the checksum of the transaction fails")
    if count < 1:
        raise CorruptError(f"{path}: position {first}: a transaction of {count} entries")
    return transaction


def explain(error: sqlite3.Error | OSError, path: Path) -> StoreError:
    """The plain sentence for what SQLite or the system said; CorruptError when the file's content is at fault."""
    if isinstance(error, OSError):
        return StoreError(f"{path}: {error.strerror or error}")
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _DAMAGE:
        return CorruptError(f"{path}: the file is damaged ({error}); put back a copy, or move it aside to go on without it")
    return StoreError(f"{path}: {_SENTENCES.get(code, 'SQLite failed')} ({error})")


def write_mark(descriptor: int, position: int) -> None:
    """Remember that everything up to `position` is durable. Not synced: it may lag after a power cut, it never leads."""
    number = position.to_bytes(8, "little", signed=True)
    os.pwrite(descriptor, number + zlib.crc32(number).to_bytes(4, "little"), 0)


def read_mark(directory: Path) -> int:
    """The position once known to be durable; -1 when there is no mark or it is damaged (then it proves nothing)."""
    try:
        content = (directory / MARK_NAME).read_bytes()
    except FileNotFoundError:
        return -1
    if len(content) != _MARK.size:
        return -1
    position, crc = _MARK.unpack(content)
    return int(position) if zlib.crc32(content[:8]) == crc else -1
