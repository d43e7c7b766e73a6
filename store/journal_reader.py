"""Following the journal from another process: read-only, no transaction held between calls, no row returned unchecked.

A reader never writes and never waits for the writer; it works with the writer alive, killed or stopped for good. Invariant:
what it returns is contiguous, or it raises Gap or CorruptError.
"""

import os
import sqlite3
from pathlib import Path

from store.segment import AFTER, LAST, Meta, explain, from_row, list_segments, read_mark, read_meta, segment_path
from telemetry.errors import CorruptError, StoreError
from telemetry.transaction import Transaction

HELD_ROWS = 1000  # samples of one read transaction: a reader that hangs in it holds little
TRIES = 20  # a rotation or a trim may run between listing and opening
BUSY_S = 0.2  # WAL readers wait only while the first opener recovers the WAL


class Gap(StoreError):
    """Positions after `after` were trimmed; `available` is the first one that is left: go on from there and record the gap."""

    def __init__(self, after: int, available: int) -> None:
        self.after = after
        self.available = available
        super().__init__(f"journal positions {after + 1}..{available - 1} were trimmed; the first one left is {available}")


class JournalReader:
    """Reads transactions in order. Cheap to keep open; opens the segments lazily, one at a time. For one thread at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._is_checked = os.environ.get("FIELDLOOM_SABOTAGE") != "skip_crc"
        self._first = -1  # of the open segment
        self._path = directory
        self._connection: sqlite3.Connection | None = None

    def read(self, after: int, *, rows_max: int = HELD_ROWS) -> list[Transaction]:
        """Transactions with entries after position `after` (-1: all), oldest first; [] when there are none yet.

        Stops after about `rows_max` samples (an entry without samples counts as one), but returns at least one transaction if
        there is one. However many it takes, SQLite's own read transaction ends after HELD_ROWS of them. Raises Gap when they were
        trimmed, CorruptError with file and position on damage, StoreError on a sick disk.
        """
        found: list[Transaction] = []
        while rows_max > 0:
            try:
                part = self._read_held(after, min(rows_max, HELD_ROWS))
            except StoreError:
                if found:
                    break  # it is raised again by the next call
                raise
            if not part:
                break
            found += part
            after = part[-1].last
            rows_max -= sum(max(transaction.rows, transaction.count) for transaction in part)
        return found

    def _read_held(self, after: int, rows_max: int) -> list[Transaction]:
        durable = read_mark(self._directory)  # before looking: what was durable then must be there now
        for _ in range(TRIES):
            segments = list_segments(self._directory)
            at = _segment_of(segments, after + 1)
            if at is None:
                if segments:
                    raise Gap(after, segments[0])
                break
            try:
                return self._read_from(segments, at, after, rows_max, durable)
            except StoreError:
                self._raise_unless_trimmed()
        else:
            raise StoreError(f"{self._directory}: segments vanish faster than they can be opened")
        if durable > after:
            raise CorruptError(f"{self._directory}: no segment left, but positions up to {durable} were durable")
        return []

    def last(self) -> Transaction | None:
        """The newest transaction; None when the journal is empty."""
        for _ in range(TRIES):
            try:
                return self._last_of(list_segments(self._directory))
            except StoreError:
                self._raise_unless_trimmed()
        raise StoreError(f"{self._directory}: segments vanish faster than they can be opened")

    def _last_of(self, segments: list[int]) -> Transaction | None:
        for first in reversed(segments):
            try:
                connection, _ = self._open(first)
                row = connection.execute(LAST).fetchone()
            except sqlite3.Error as error:
                raise explain(error, self._path) from error
            if row is not None:
                return from_row(row, self._path, is_checked=self._is_checked)
        return None

    def _raise_unless_trimmed(self) -> None:
        """Raise the error at hand again if its segment is still there.

        One unlinked while we open it cannot be opened, or looks cut when its WAL was gone already: trimmed, not damaged.
        """
        path = self._path
        self.close()
        if path.exists():
            raise  # noqa: PLE0704 - called inside the handler

    def close(self) -> None:
        """Close the open segment; the next call opens again."""
        connection, self._connection, self._first = self._connection, None, -1
        if connection is not None:
            connection.close()

    def _read_from(self, segments: list[int], at: int, after: int, rows_max: int, durable: int) -> list[Transaction]:
        try:
            while True:
                first, is_newest = segments[at], at == len(segments) - 1
                connection, meta = self._open(first)
                found = self._fetch(connection, after, rows_max)
                if found:
                    return found
                self._assert_whole(connection, meta, after, durable if is_newest else segments[at + 1] - 1)
                if is_newest:
                    return []
                at += 1
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def _fetch(self, connection: sqlite3.Connection, after: int, rows_max: int) -> list[Transaction]:
        found: list[Transaction] = []
        budget, expected = rows_max, None
        cursor = connection.execute(AFTER, (after + 1,))
        try:
            for row in cursor:
                transaction = from_row(row, self._path, is_checked=self._is_checked)
                if transaction.last <= after:
                    expected = transaction.last + 1
                    continue
                self._assert_follows(transaction, expected, after)
                found.append(transaction)
                expected = transaction.last + 1
                budget -= max(transaction.rows, transaction.count)
                if budget <= 0:
                    break
        finally:
            cursor.close()  # ends the read transaction: nothing is held while the caller works
        return found

    def _assert_follows(self, transaction: Transaction, expected: int | None, after: int) -> None:
        is_wrong = transaction.first > after + 1 if expected is None else transaction.first != expected
        if is_wrong:
            wanted = after + 1 if expected is None else expected
            raise CorruptError(f"{self._path}: position {wanted} is missing; the next one there is {transaction.first}")

    def _assert_whole(self, connection: sqlite3.Connection, meta: Meta, after: int, durable: int) -> None:
        """Nothing was found after `after`: that must be because nothing is there."""
        row = connection.execute(LAST).fetchone()
        last = meta.first - 1 if row is None else from_row(row, self._path, is_checked=self._is_checked).last
        if last < durable:
            raise CorruptError(f"{self._path}: the segment ends at position {last}, but everything up to {durable} was durable")
        if last < after:
            raise CorruptError(f"{self._path}: the journal ends at position {last}, before the follower's position {after}")

    def _open(self, first: int) -> tuple[sqlite3.Connection, Meta]:
        path = segment_path(self._directory, first)
        if self._connection is None or self._first != first:
            self.close()
            self._path = path
            self._connection = open_read_only(path, busy_s=BUSY_S)
            self._first = first
        return self._connection, read_meta(self._connection, path)


def open_read_only(path: Path, *, busy_s: float) -> sqlite3.Connection:
    """A connection that cannot write rows.

    WAL needs the -shm file: SQLite makes it when the directory is writable for this user. Where it is not (a copy on read-only
    media) and no WAL is left, the file cannot change, and is read as immutable.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=busy_s, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        wal = path.with_name(path.name + "-wal")
        if os.access(path.parent, os.W_OK) or (wal.exists() and wal.stat().st_size > 0):
            raise
        connection = sqlite3.connect(uri + "&immutable=1", uri=True, isolation_level=None, check_same_thread=False)
    return connection


def _segment_of(segments: list[int], position: int) -> int | None:
    """Index of the segment that holds `position`; None when it lies before all of them."""
    at = None
    for index, first in enumerate(segments):
        if first <= position:
            at = index
    return at
