"""Position, plan, series, records and member rows beside a history whose samples are on a server: one SQLite file, one owner.

A commit makes them durable together (WAL, synchronous=FULL). The samples they belong to were written before.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from store.history import (
    ASIDE,
    KEYFRAME,
    RECORDS_MAX,
    REJECTS_KEPT,
    SCHEMA,
    HistoryFault,
    MemberRow,
    MemberState,
    PackedMember,
    RecordRow,
    Series,
    check_limit,
    check_schema,
    is_reject,
)
from store.members import pack_members, replay_members

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS series(number INTEGER PRIMARY KEY, site TEXT, device TEXT, point TEXT, unit TEXT);
CREATE TABLE IF NOT EXISTS records(position INTEGER, time_ns INTEGER, kind TEXT, site TEXT, device TEXT, subject TEXT, body TEXT,
    phase INTEGER, stage INTEGER);
CREATE INDEX IF NOT EXISTS records_by_position ON records(position);
CREATE INDEX IF NOT EXISTS records_by_kind ON records(kind, subject, position);
CREATE TABLE IF NOT EXISTS members(point INTEGER, ts_ms INTEGER, form INTEGER, dtype TEXT, member BLOB, value BLOB,
    PRIMARY KEY(point, ts_ms)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS progress(only INTEGER PRIMARY KEY CHECK (only = 0), position INTEGER NOT NULL);
INSERT OR IGNORE INTO progress VALUES (0, -1);
CREATE TABLE IF NOT EXISTS saved(only INTEGER PRIMARY KEY CHECK (only = 0), plan BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS about(only INTEGER PRIMARY KEY CHECK (only = 0), schema INTEGER NOT NULL, decisions_from INTEGER NOT NULL);
"""
# Before the schema had a number, decisions were kept in ms, without phase and stage: what is there stays, whole ones follow it.
_MIGRATE: Final = """
UPDATE records SET time_ms = 1000000 * time_ms;
ALTER TABLE records RENAME COLUMN time_ms TO time_ns;
ALTER TABLE records ADD COLUMN phase INTEGER;
ALTER TABLE records ADD COLUMN stage INTEGER;
"""
_FORGET_REJECTS: Final = f"""
DELETE FROM records WHERE kind = 'event' AND subject = 'reject' AND rowid NOT IN
    (SELECT rowid FROM records WHERE kind = 'event' AND subject = 'reject' ORDER BY position DESC, rowid DESC LIMIT {REJECTS_KEPT})
"""


class RecordFile:
    """The file at `path`. Every method may be called from any thread and raises HistoryFault."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
        except sqlite3.Error as error:
            raise HistoryFault(f"{path}: {error}", retryable=True) from error
        with self._guarded() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
        self._decisions_from = self._make_tables()

    def _make_tables(self) -> int:
        """Bring the file to this schema, whole or not at all; the position its whole decisions begin at."""
        tables = {name for (name,) in self._rows("SELECT name FROM sqlite_master")}
        if "about" in tables:
            ((schema, decisions_from),) = self._rows("SELECT schema, decisions_from FROM about")
            check_schema(self._path, schema)
            return int(decisions_from)
        decisions_from = self.position() + 1 if "records" in tables else 0
        script = (_MIGRATE if "records" in tables else "") + _SCHEMA
        with self._guarded() as connection:
            connection.executescript(f"BEGIN IMMEDIATE; {script} INSERT INTO about VALUES (0, {SCHEMA}, {decisions_from}); COMMIT;")
        return decisions_from

    def position(self) -> int:
        """Position of the last commit."""
        ((position,),) = self._rows("SELECT position FROM progress")
        return int(position)

    def saved_plan(self) -> bytes | None:
        """The last plan that was committed; None when none was."""
        rows = self._rows("SELECT plan FROM saved")
        return bytes(rows[0][0]) if rows else None

    def declare(self, series: Sequence[Series]) -> None:
        """Store names of numbers; HistoryFault when a number already has another name."""
        with self._transaction() as connection:
            for row in series:
                known = connection.execute("SELECT site, device, point FROM series WHERE number = ?", [row.number]).fetchone()
                if known not in (None, row[1:4]):
                    raise HistoryFault(
                        f"point {row.number} is {'/'.join(known)} in {self._path}, {'/'.join(row[1:4])} in the journal: "
                        "this history belongs to another journal; move it away",
                        retryable=False,
                    )
            connection.executemany("INSERT OR REPLACE INTO series VALUES (?, ?, ?, ?, ?)", series)

    def commit(self, position: int, plan: bytes | None, records: Sequence[RecordRow], members: Sequence[MemberRow]) -> None:
        """Everything of one append but its samples. The first row of a (point, time) stays."""
        with self._transaction() as connection:
            connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", records)
            if any(is_reject(record) for record in records):
                connection.execute(_FORGET_REJECTS)
            connection.executemany("INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?, ?, ?)", map(pack_members, members))
            connection.execute("UPDATE progress SET position = ?", [position])
            if plan is not None:
                connection.execute("INSERT OR REPLACE INTO saved VALUES (0, ?)", [plan])

    def records(self, tests: dict[str, Any], *, limit: int, newest_first: bool) -> list[RecordRow]:
        """Records that match `tests`: column, "start" or "end" (ns) to value, None = any."""
        check_limit(limit, RECORDS_MAX)
        given = {name: value for name, value in tests.items() if value is not None}
        bounds = {"start": "time_ns >= :start", "end": "time_ns < :end"}
        where = " AND ".join(bounds.get(name, f"{name} = :{name}") for name in given) or "true"
        order = "DESC" if newest_first else "ASC"
        query = f"SELECT * FROM records WHERE {where} ORDER BY position {order}, rowid {order} LIMIT {limit}"
        return [RecordRow(*row) for row in self._rows(query, given)]

    def decisions(self, after: int, *, limit: int) -> list[RecordRow]:
        """The next `limit` whole decisions after a position, with all of the last one's."""
        check_limit(limit, RECORDS_MAX)
        later = "FROM records WHERE phase IS NOT NULL AND position > :after"
        last = f"(SELECT max(position) FROM (SELECT position {later} ORDER BY position LIMIT {limit}))"
        rows = self._rows(f"SELECT * {later} AND position <= {last} ORDER BY position, rowid", {"after": after})
        return [RecordRow(*row) for row in rows]

    def decisions_from(self) -> int:
        """The position from which on every decision is whole."""
        return self._decisions_from

    def series(self) -> list[Series]:
        """All series in order of number."""
        return [Series(*row) for row in self._rows("SELECT * FROM series ORDER BY number")]

    def members(self, point: int, at_ms: int) -> MemberState | None:
        """State of a member array at a time; None before the first."""
        newest = self._rows(
            "SELECT ts_ms, form FROM members WHERE point = ? AND ts_ms <= ? ORDER BY ts_ms DESC LIMIT 1", [point, at_ms]
        )
        if not newest:
            return None
        ts_ms, form = newest[0]
        return self._chain(point, ts_ms, only_at=form == ASIDE)

    def member_rows(self, points: Sequence[int], start_ms: int, end_ms: int, *, limit: int) -> list[PackedMember]:
        """At most `limit` member rows of some points in [start, end)."""
        query = "SELECT * FROM members WHERE point IN (SELECT value FROM json_each(?)) AND ts_ms >= ? AND ts_ms < ? LIMIT ?"
        asked = [str([int(point) for point in points]), start_ms, end_ms, limit]
        return [PackedMember(*row) for row in self._rows(query, asked)]

    def member_state(self, point: int) -> MemberState | None:
        """End of the chain of changes; None without one."""
        ((ts_ms,),) = self._rows("SELECT max(ts_ms) FROM members WHERE point = ? AND form <> ?", [point, ASIDE])
        return None if ts_ms is None else self._chain(point, ts_ms, only_at=False)

    def _chain(self, point: int, ts_ms: int, *, only_at: bool) -> MemberState | None:
        asked = {"point": point, "at": ts_ms, "start": ts_ms}
        test = "true" if only_at else f"form <> {ASIDE}"
        if not only_at:
            keyframe = f"SELECT max(ts_ms) FROM members WHERE point = :point AND form = {KEYFRAME} AND ts_ms <= :at"
            ((asked["start"],),) = self._rows(keyframe, asked)
        query = f"SELECT * FROM members WHERE point = :point AND ts_ms BETWEEN :start AND :at AND {test} ORDER BY ts_ms"
        return replay_members(self._rows(query, asked))

    def delete_before(self, ts_ms: int) -> None:
        """Forget member rows before a time."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM members WHERE ts_ms < ?", [ts_ms])

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _rows(self, query: str, asked: Any = ()) -> list[tuple[Any, ...]]:
        with self._guarded() as connection:
            return connection.execute(query, asked).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._guarded() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def _guarded(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise HistoryFault(f"{self._path}: {error}", retryable=isinstance(error, sqlite3.OperationalError)) from error
