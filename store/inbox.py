"""What people and programs ask, on its way from `web` (and `notify`, once per planned self-test) to `core` (the only reader).

Its own SQLite file, so that a `web` that hangs inside an insert cannot stop `core`: in WAL a reader waits for no writer.
Invariant: a request id is stored at most once, and is durable when `put` returns.
"""

import sqlite3
from pathlib import Path
from typing import Final

import msgspec

from store.journal_reader import open_read_only
from store.segment import explain
from telemetry.errors import CorruptError
from telemetry.record import Request

WRITER_BUSY_S: Final = 2.0
READER_BUSY_S: Final = 0.02  # core asks again 100 ms later; it must never wait here
_CREATE: Final = (
    "CREATE TABLE IF NOT EXISTS request (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, body BLOB NOT NULL)"
)


class Inbox:
    """The writing end. Raises StoreError when the file cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=WRITER_BUSY_S, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(_CREATE)
        except (sqlite3.Error, OSError) as error:
            raise explain(error, path) from error

    @staticmethod
    def open_reader(path: Path) -> "InboxReader":
        """The reading end; the file need not exist yet."""
        return InboxReader(path)

    def put(self, request: Request) -> bool:
        """Store it, durable on return; False when its id is known already (then nothing changes)."""
        try:
            cursor = self._connection.execute(
                "INSERT INTO request (id, body) VALUES (?, ?) ON CONFLICT (id) DO NOTHING",
                (request.id, msgspec.json.encode(request)),
            )
        except sqlite3.Error as error:
            raise explain(error, self._path) from error
        return cursor.rowcount == 1

    def forget(self, up_to: int) -> int:
        """Delete requests numbered up to `up_to` (core has journaled them); returns how many. Numbers are never used again."""
        try:
            return self._connection.execute("DELETE FROM request WHERE number <= ?", (up_to,)).rowcount
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class InboxReader:
    """The reading end: never writes, never waits for the writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def take(self, after: int, limit: int) -> list[tuple[int, Request]]:
        """At most `limit` (number, request) with a number above `after`, in order; [] when there are none or no file yet.

        The caller remembers the last number: nothing is marked here. Raises StoreError when the file cannot be read now (ask
        again later), CorruptError when it is damaged.
        """
        sql = "SELECT number, body FROM request WHERE number > ? ORDER BY number LIMIT ?"
        try:
            if self._connection is None:
                if not self._path.exists():
                    return []
                self._connection = open_read_only(self._path, busy_s=READER_BUSY_S)
            rows = self._connection.execute(sql, (after, limit)).fetchall()
        except sqlite3.Error as error:
            self.close()
            if "no such table" in str(error):  # the writer has made the file but not the table yet
                return []
            raise explain(error, self._path) from error
        return [(number, self._decode(number, body)) for number, body in rows]

    def close(self) -> None:
        """Close the file; the next `take` opens it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _decode(self, number: int, body: bytes) -> Request:
        try:
            return msgspec.json.decode(body, type=Request)
        except (msgspec.DecodeError, TypeError) as error:
            raise CorruptError(f"{self._path}: request number {number} cannot be read: {error}") from error
