"""The journal's one writer: every transaction of `core`, durable before anything of it is acknowledged or published.

Segments are SQLite files (store/segment.py). A finished one is sealed inside itself before the next appears, and a new one is
built under another name and linked into place, so a kill at any moment leaves nothing half-made. Invariant: positions are
contiguous over all segments, and only the holder of the newest epoch can append.
"""

import contextlib
import fcntl
import itertools
import os
import sqlite3
from pathlib import Path
from typing import Final

from store.journal_reader import open_read_only
from store.segment import (
    CREATE,
    INSERT,
    LAST,
    MARK_NAME,
    NEW_SUFFIX,
    OPEN,
    PAGE_BYTES,
    SCHEMA,
    SUFFIX,
    Meta,
    explain,
    from_row,
    list_segments,
    meta_row,
    read_mark,
    read_meta,
    segment_path,
    to_row,
    write_mark,
)
from telemetry.clock import Clock
from telemetry.errors import CorruptError, FencedError, StoreError
from telemetry.transaction import Transaction

CHECKPOINT_BYTES: Final = 4 << 20  # copied back after so much new WAL: a few ms of work, and one WAL stays in the page cache
WAL_BYTES_MAX: Final = (
    48 << 20
)  # a reader that hangs keeps the WAL from restarting: a new segment starts with a new one (limit 64 MB)
BUSY_S: Final = 2.0  # only a second writer can make us wait
_META_SQL: Final = "SELECT epoch, sealed FROM meta"


class Journal:
    """Append-only, contiguous, fenced. One caller at a time, from any thread.

    `directory` is created. Raises StoreError with the fix in its text when another core owns it or it cannot be written, and
    CorruptError when the newest segment is damaged or entries that were durable are gone. `is_takeover` skips the owner's lock
    (a stopped core may still hold it); `begin` then fences that core.
    """

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock,
        segment_bytes: int = 512 << 20,
        segment_s: float = 3600.0,
        wal_bytes_max: int = WAL_BYTES_MAX,
        is_takeover: bool = False,
    ) -> None:
        self._directory = directory
        self._clock = clock
        self._segment_bytes = segment_bytes
        self._wal_bytes_max = wal_bytes_max
        self._segment_ns = int(segment_s * 1e9)
        self._synchronous = "OFF" if os.environ.get("FIELDLOOM_SABOTAGE") == "no_fsync" else "FULL"
        self._epoch = 0
        self._connection: sqlite3.Connection | None = None
        self._lock_fd = self._mark_fd = -1
        self._path = directory
        self._meta = Meta(SCHEMA, 0, 0, 0, OPEN)
        self._bytes = self._wal_bytes = self._wal_stuck_bytes = 0
        self._is_unsure = False  # after a reopen: the last commit may or may not have been durable
        self.last_position = -1
        self.last_epoch = 0
        self.last_engine_ns = 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock_fd = _take_lock(directory, is_takeover=is_takeover)
            self._remove_remnants()
            self._mark_fd = os.open(directory / MARK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._open_newest()
        except OSError as error:
            self.close()
            raise explain(error, directory) from error
        except (StoreError, FencedError):
            self.close()
            raise

    def begin(self, epoch: int) -> None:
        """Claim the journal for `epoch`; every older writer gets FencedError at its next append. Durable when it returns.

        Raises FencedError when an equal or newer epoch was seen.
        """
        if epoch <= self.last_epoch:
            raise FencedError(f"epoch {epoch} is not newer than {self.last_epoch}; start with a larger one")
        connection = self._open_connection()
        with self._transaction(connection):
            stored, sealed = connection.execute(_META_SQL).fetchone()
            if stored >= epoch or sealed != OPEN:
                raise FencedError(f"another core claimed epoch {stored} meanwhile; stop one of the two")
            self._store_meta(connection, self._meta._replace(epoch=epoch))
            self._refresh_last(connection)
        self._meta = self._meta._replace(epoch=epoch)
        self._epoch = self.last_epoch = epoch

    def append(self, transaction: Transaction) -> None:
        """Write it in one SQLite transaction; durable when this returns, nothing of it visible when it raises.

        The position must follow the last one and the epoch be the one of `begin`. After StoreError call `reopen` and append the
        same transaction again: if the failed commit had reached the disk after all, that is found out and not written twice.
        """
        assert transaction.epoch == self._epoch, f"epoch {transaction.epoch}, begun {self._epoch}"
        assert transaction.count >= 1, "a transaction without entries"
        if self._is_unsure and self._is_already_there(transaction):
            self._is_unsure = False
            return
        assert transaction.first == self.last_position + 1, f"position {transaction.first} after {self.last_position}"
        if self._is_due_to_rotate():
            self._rotate()
        row = to_row(transaction)
        connection = self._open_connection()
        with self._transaction(connection):
            self._assert_owner(connection)
            connection.execute(INSERT, row)
        self._is_unsure = False
        self._advance(transaction)
        if self._wal_bytes >= CHECKPOINT_BYTES:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Copy the WAL back as far as readers allow, without waiting for anybody. Also useful when nothing arrives.

        A checkpoint that fails loses nothing (the WAL stays): the next append tells when the disk is really sick.
        """
        if self._connection is None or self._wal_bytes == 0:
            return
        with contextlib.suppress(sqlite3.Error):
            _, frames, _ = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._wal_stuck_bytes = frames * (PAGE_BYTES + 24)
        self._wal_bytes = 0

    def reopen(self) -> None:
        """Close and open the newest segment again after a failed append. Raises StoreError while the disk stays sick.

        What a failed commit may have left in the WAL is copied back and synced here, since a second fsync of the same pages
        proves nothing after a first one failed.
        """
        self._close_connection()
        try:
            self._open_newest()
        except OSError as error:
            raise explain(error, self._directory) from error
        if self._epoch and self._meta.epoch != self._epoch:
            raise FencedError(f"epoch {self._epoch} was fenced by {self._meta.epoch}; stop this core")
        self._wal_bytes = 1
        self.checkpoint()
        self._is_unsure = True

    def trim(self, *, before: int) -> list[Path]:
        """Unlink whole segments with nothing at or after position `before`; never the newest. Returns them, oldest first."""
        segments = list_segments(self._directory)
        gone = [first for first, following in itertools.pairwise(segments) if following <= before]
        for first in gone:
            _unlink_segment(segment_path(self._directory, first))
        if gone:
            _sync_directory(self._directory)
        return [segment_path(self._directory, first) for first in gone]

    def close(self) -> None:
        """Release file and lock. Everything appended is durable already; calling it twice is fine."""
        self._close_connection()
        for descriptor in (self._mark_fd, self._lock_fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._mark_fd = self._lock_fd = -1

    # Opening

    def _open_newest(self) -> None:
        segments = list_segments(self._directory)
        if not segments:
            self._make_segment(0, epoch=0)
            segments = [0]
        self._open_segment(segments[-1])
        if self.last_position < self._meta.first:
            self._recall_from_older(segments[:-1])
        durable = read_mark(self._directory)
        if durable > self.last_position:
            raise CorruptError(
                f"{self._path}: the journal ends at position {self.last_position}, but everything up to {durable} was durable; "
                f"put back a copy of the file and its -wal, or delete {self._directory / MARK_NAME} to go on without them"
            )
        if self._meta.is_sealed:
            self._begin_next()

    def _open_segment(self, first: int) -> None:
        self._path = segment_path(self._directory, first)
        try:
            connection = sqlite3.connect(
                self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=32
            )
            self._connection = connection
            # journal_size_limit=-1: the WAL is overwritten in place; shrinking and growing again made each commit dearer
            # (0.46 ms against 0.26 ms), since the file's size changed.
            for pragma in (f"synchronous={self._synchronous}", "wal_autocheckpoint=0", "journal_size_limit=-1", "cache_size=-4096"):
                connection.execute(f"PRAGMA {pragma}")
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                raise CorruptError(f"{self._path}: the file is no longer in WAL mode")
            self._meta = read_meta(connection, self._path)
            self._refresh_last(connection)
        except sqlite3.Error as error:
            self._close_connection()
            raise explain(error, self._path) from error
        self._bytes = self._path.stat().st_size
        self._wal_bytes = self._wal_stuck_bytes = 0
        self._is_unsure = False

    def _refresh_last(self, connection: sqlite3.Connection) -> None:
        row = connection.execute(LAST).fetchone()
        self.last_epoch = max(self.last_epoch, self._meta.epoch)
        if row is None:
            self.last_position = self._meta.first - 1
            return
        last = from_row(row, self._path)
        self.last_position, self.last_engine_ns = last.last, last.engine_ns
        self.last_epoch = max(self.last_epoch, last.epoch)

    def _recall_from_older(self, older: list[int]) -> None:
        """An empty newest segment knows its position by name only; engine time and epoch stand in the one before."""
        for first in reversed(older):
            path = segment_path(self._directory, first)
            try:
                with contextlib.closing(open_read_only(path, busy_s=BUSY_S)) as connection:
                    row = connection.execute(LAST).fetchone()
            except sqlite3.Error as error:
                raise explain(error, path) from error
            if row is not None:
                last = from_row(row, path)
                self.last_engine_ns, self.last_epoch = last.engine_ns, max(self.last_epoch, last.epoch)
                return

    def _make_segment(self, first: int, *, epoch: int) -> None:
        """Build an empty segment under another name and link it into place; an existing one is left as it is."""
        path = segment_path(self._directory, first)
        new = path.with_suffix(NEW_SUFFIX)
        _unlink_segment(new)
        meta = Meta(SCHEMA, first, self._clock.now_ns(), epoch, OPEN)
        try:
            connection = sqlite3.connect(new, isolation_level=None)
            try:
                connection.executescript(
                    f"PRAGMA page_size={PAGE_BYTES}; PRAGMA journal_mode=WAL; PRAGMA synchronous={self._synchronous};"
                )
                connection.executescript("BEGIN;" + CREATE)
                connection.execute("INSERT INTO meta VALUES (1,?,?,?,?,?,?)", meta_row(meta))
                connection.execute("COMMIT")
            finally:
                connection.close()  # the last connection copies the WAL back, syncs and removes it
            with contextlib.suppress(FileExistsError):
                path.hardlink_to(new)
            new.unlink()
            _sync_directory(self._directory)
        except sqlite3.Error as error:
            raise explain(error, new) from error

    def _remove_remnants(self) -> None:
        for path in self._directory.glob(f"*{NEW_SUFFIX}*"):
            path.unlink(missing_ok=True)
        for path in self._directory.glob(f"*{SUFFIX}-*"):  # sidecars of a segment whose unlinking was cut short
            if not path.with_name(path.name.rsplit("-", 1)[0]).exists():
                path.unlink(missing_ok=True)

    # Rotation

    def _is_due_to_rotate(self) -> bool:
        if self.last_position < self._meta.first:
            return False  # an empty segment has nothing to be rotated away from
        is_old = self._clock.now_ns() - self._meta.created_ns >= self._segment_ns
        return is_old or self._bytes >= self._segment_bytes or self._wal_stuck_bytes >= self._wal_bytes_max

    def _rotate(self) -> None:
        """Seal the segment, then make the next. A kill between the two leaves a sealed newest one: the next start goes on."""
        connection = self._open_connection()
        if self._meta.is_sealed:  # sealed by us, and making the next one failed
            self._begin_next()
            return
        sealed = self._meta._replace(sealed=self.last_position)
        with self._transaction(connection):
            self._assert_owner(connection)
            self._store_meta(connection, sealed)
        self._meta = sealed
        self._wal_bytes = 1
        self.checkpoint()
        self._begin_next()

    def _begin_next(self) -> None:
        first = self.last_position + 1
        try:
            self._make_segment(first, epoch=self._meta.epoch)
        except OSError as error:
            raise explain(error, self._directory) from error
        self._close_connection()
        expected = self._meta.epoch
        self._open_segment(first)
        if self._meta.epoch != expected:
            raise FencedError(f"epoch {expected} was fenced by {self._meta.epoch}; stop this core")

    # One transaction

    def _transaction(self, connection: sqlite3.Connection) -> "_Immediate":
        return _Immediate(connection, self._path)

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"{self._directory}: the journal is closed after an error; reopen it")
        return self._connection

    def _assert_owner(self, connection: sqlite3.Connection) -> None:
        epoch, sealed = connection.execute(_META_SQL).fetchone()
        if epoch != self._epoch or sealed != OPEN:
            raise FencedError(f"{self._path}: epoch {self._epoch} was fenced by epoch {epoch}; a newer core runs, stop this one")

    def _store_meta(self, connection: sqlite3.Connection, meta: Meta) -> None:
        sql = "UPDATE meta SET schema = ?, first = ?, created_ns = ?, epoch = ?, sealed = ?, crc32 = ? WHERE id = 1"
        connection.execute(sql, meta_row(meta))

    def _is_already_there(self, transaction: Transaction) -> bool:
        if transaction.last != self.last_position:
            return False
        try:
            row = self._open_connection().execute(LAST).fetchone()
        except sqlite3.Error as error:
            raise explain(error, self._path) from error
        if row is None or from_row(row, self._path) != transaction:
            return False
        write_mark(self._mark_fd, self.last_position)
        return True

    def _advance(self, transaction: Transaction) -> None:
        self.last_position, self.last_engine_ns = transaction.last, transaction.engine_ns
        size = sum(map(len, (transaction.entries, transaction.admission, transaction.decisions, transaction.accounting)))
        self._bytes += size
        self._wal_bytes += size + PAGE_BYTES
        write_mark(self._mark_fd, self.last_position)

    def _close_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):  # closing copies the WAL back; if it cannot, the WAL stays and nothing is lost
                connection.close()


class _Immediate:
    """BEGIN IMMEDIATE .. COMMIT, rolled back on any error; SQLite's errors become StoreError."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def __enter__(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, _trace: object) -> None:
        try:
            if value is None:
                self._connection.execute("COMMIT")
                return
        except sqlite3.Error as error:
            self._roll_back()
            raise explain(error, self._path) from error
        self._roll_back()
        if isinstance(value, sqlite3.Error):
            raise explain(value, self._path) from value

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # the first error is the one to report; reopen() clears the rest
                self._connection.execute("ROLLBACK")


def _take_lock(directory: Path, *, is_takeover: bool) -> int:
    descriptor = os.open(directory / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if is_takeover:
            return descriptor
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise StoreError(f"{directory}: process {owner or '?'} owns this journal; stop it before starting another core") from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def _unlink_segment(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
