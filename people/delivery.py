"""`notify.sqlite`: the delivery journal. Deliveries with every attempt, what escalation must remember, own alarms, channels, self-tests.

Position in the journal, escalation and the deliveries that they caused are written in one transaction: a kill at any place loses
nothing and tells nothing twice. Written by the notify process alone; the web process and the command line read it.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from people.escalation import Ladder
from store.journal_reader import open_read_only
from telemetry.errors import StoreError

TRIES_MAX: Final = 8
BACKOFF_S: Final = 2.0  # doubled at each try: the last one is some 4 min after the first
PAUSE_MAX_MS: Final = int(BACKOFF_S * 2**TRIES_MAX * 1000)
DELIVERIES_PER_ROUND: Final = 20
DELIVERIES_KEPT: Final = 100_000
TESTS_KEPT: Final = 1000
READER_BUSY_S: Final = 1.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS progress (one INTEGER PRIMARY KEY CHECK (one = 1), position INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO progress VALUES (1, -1);
CREATE TABLE IF NOT EXISTS delivery (
    number INTEGER PRIMARY KEY, cause TEXT NOT NULL, contact TEXT NOT NULL, channel TEXT NOT NULL, address TEXT NOT NULL,
    language TEXT NOT NULL, urgent INTEGER NOT NULL, sites TEXT NOT NULL, message TEXT NOT NULL, made_ms INTEGER NOT NULL,
    due_ms INTEGER NOT NULL, tries INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL DEFAULT 'waiting', done_ms INTEGER,
    error TEXT NOT NULL DEFAULT '', UNIQUE (cause, channel, address)) STRICT;
CREATE INDEX IF NOT EXISTS delivery_due ON delivery (state, channel, due_ms);
CREATE TABLE IF NOT EXISTS escalation (key TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS own_alarm (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, raised_ms INTEGER NOT NULL, cleared_ms INTEGER) STRICT;
CREATE TABLE IF NOT EXISTS channel (
    name TEXT PRIMARY KEY, failures INTEGER NOT NULL, changed_ms INTEGER NOT NULL, error TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS test (
    id TEXT PRIMARY KEY, planned_ms INTEGER, asked_ms INTEGER NOT NULL, answered_ms INTEGER, done_ms INTEGER,
    state TEXT NOT NULL, detail TEXT NOT NULL DEFAULT '') STRICT;
"""


class Due(NamedTuple):
    """A delivery whose time has come."""

    number: int
    message: dict[str, Any]
    address: str
    language: Any
    tries: int


class Outgoing(NamedTuple):
    """A message on its way to one address of one channel. sites: whose alarms it tells of; none for own ones."""

    cause: str
    contact: str
    channel: str
    address: str
    language: str
    is_urgent: bool
    sites: list[str]
    message: dict[str, Any]


class Delivery(NamedTuple):
    """A delivery as people see it."""

    number: int
    cause: str
    contact: str
    channel: str
    sites: list[str]
    message: dict[str, Any]
    made_ms: int
    due_ms: int
    tries: int
    state: str
    done_ms: int | None
    error: str


class ChannelState(NamedTuple):
    """failures: in a row, with the newest one's reason; 0: the last attempt arrived."""

    name: str
    failures: int
    changed_ms: int
    error: str


class PathTest(NamedTuple):
    """A test of the alarm path. planned_ms None: a person asked for it. state: waiting, passed or failed."""

    id: str
    planned_ms: int | None
    asked_ms: int
    answered_ms: int | None
    done_ms: int | None
    state: str
    detail: str


@dataclass(slots=True)
class Work:
    """What one round of following found, and what it makes of it. own: alarms of this process that were raised (True) or cleared."""

    position: int = -1
    escalation: dict[str, bytes | None] = field(default_factory=dict)
    outgoing: list[Outgoing] = field(default_factory=list)
    own: dict[str, bool] = field(default_factory=dict)
    tests: list[PathTest] = field(default_factory=list)


class DeliveryJournal:
    """The writing end. Blocking; each thread has its own."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            columns = {row[1] for row in self._database.execute("PRAGMA table_info(delivery)")}
            if columns and "contact" not in columns:  # of a build before there were contacts
                self._database.execute("DROP TABLE delivery")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}") from error

    def position(self) -> int:
        """Journal position up to which every alarm was taken."""
        return int(self._database.execute("SELECT position FROM progress").fetchone()[0])

    def escalation(self) -> dict[str, bytes]:
        """The rows of `Escalation.unsaved` as they were last kept."""
        return {key: bytes(body) for key, body in self._database.execute("SELECT key, body FROM escalation")}

    def keep(self, work: "Work", now_ms: int) -> None:
        """All of it or nothing. A cause that is known to an address is not sent to it again."""
        execute = self._database.execute
        execute("BEGIN IMMEDIATE")
        for key, body in work.escalation.items():
            if body is None:
                execute("DELETE FROM escalation WHERE key = ?", (key,))
            else:
                execute("INSERT OR REPLACE INTO escalation VALUES (?, ?)", (key, body))
        for out in work.outgoing:
            message, sites = json.dumps(out.message, ensure_ascii=False), json.dumps(out.sites)
            execute(
                "INSERT OR IGNORE INTO delivery (cause, contact, channel, address, language, urgent, sites, message, made_ms, due_ms)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*out[:5], int(out.is_urgent), sites, message, now_ms, now_ms),
            )
        for name, is_raised in work.own.items():
            if is_raised:
                execute("INSERT INTO own_alarm (name, raised_ms) VALUES (?, ?)", (name, now_ms))
            else:
                execute("UPDATE own_alarm SET cleared_ms = ? WHERE name = ? AND cleared_ms IS NULL", (now_ms, name))
        for test in work.tests:
            execute("INSERT OR REPLACE INTO test VALUES (?, ?, ?, ?, ?, ?, ?)", test)
        execute("UPDATE progress SET position = max(position, ?)", (work.position,))
        if work.outgoing:
            newest = "(SELECT max(number) FROM delivery)"
            execute(f"DELETE FROM delivery WHERE state <> 'waiting' AND number <= {newest} - ?", (DELIVERIES_KEPT,))
        if work.tests:
            kept = "SELECT id FROM test ORDER BY asked_ms DESC LIMIT ?"
            execute(f"DELETE FROM test WHERE state <> 'waiting' AND id NOT IN ({kept})", (TESTS_KEPT,))
        execute("COMMIT")

    def due(self, channel: str, now_ms: int) -> list[Due]:
        """What must be sent over a channel now: P1 first, then the oldest. What is due after more than the longest pause was dated by a
        clock that has been set back since: it is due now."""
        query = (
            "SELECT number, message, address, language, tries FROM delivery WHERE state = 'waiting' AND channel = ? "
            "AND NOT due_ms BETWEEN ? + 1 AND ? ORDER BY urgent DESC, number LIMIT ?"
        )
        rows = self._database.execute(query, (channel, now_ms, now_ms + PAUSE_MAX_MS, DELIVERIES_PER_ROUND))
        return [Due(number, json.loads(message), *rest) for number, message, *rest in rows]

    def delivered(self, channel: str, due: Due, now_ms: int) -> None:
        """It arrived."""
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute(
            "UPDATE delivery SET state = 'delivered', tries = tries + 1, done_ms = ? WHERE number = ?", (now_ms, due.number)
        )
        self._database.execute(
            "INSERT INTO channel VALUES (?, 0, ?, '') ON CONFLICT (name) DO UPDATE SET failures = 0, changed_ms = ?, error = ''",
            (channel, now_ms, now_ms),
        )
        self._database.execute("COMMIT")

    def failed(self, channel: str, due: Due, now_ms: int, error: str) -> bool:
        """It did not; tried again later, or given up (True) after TRIES_MAX tries."""
        tries, error = due.tries + 1, error[:500]
        state = "failed" if tries >= TRIES_MAX else "waiting"
        later_ms = now_ms + int(BACKOFF_S * 2 ** (tries - 1) * 1000)
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute(
            "UPDATE delivery SET state = ?, tries = ?, due_ms = ?, done_ms = ?, error = ? WHERE number = ?",
            (state, tries, later_ms, now_ms, error, due.number),
        )
        self._database.execute(
            "INSERT INTO channel VALUES (?1, 1, ?2, ?3) "
            "ON CONFLICT (name) DO UPDATE SET failures = failures + 1, changed_ms = ?2, error = ?3",
            (channel, now_ms, error),
        )
        self._database.execute("COMMIT")
        return state == "failed"

    def give_up(self, channels: Sequence[str], now_ms: int) -> int:
        """Deliveries that wait for a channel that is none of these can never arrive; how many there were."""
        marks = ",".join("?" * len(channels))
        return self._database.execute(
            f"UPDATE delivery SET state = 'failed', done_ms = ?, error = 'the channel is no longer configured' "
            f"WHERE state = 'waiting' AND channel NOT IN ({marks})",
            (now_ms, *channels),
        ).rowcount

    def standing_own(self) -> set[str]:
        """Names of the alarms of this process that stand."""
        return {name for (name,) in self._database.execute("SELECT name FROM own_alarm WHERE cleared_ms IS NULL")}

    def channels(self) -> list[ChannelState]:
        """Every channel that was ever used."""
        return _channels(self._database)

    def tests(self, *, limit: int = TESTS_KEPT, only_waiting: bool = False) -> list[PathTest]:
        """Newest first."""
        return _tests(self._database, limit, only_waiting=only_waiting)

    def test(self, name: str) -> PathTest | None:
        """One test; None when it was never heard of."""
        row = self._database.execute("SELECT * FROM test WHERE id = ?", (name,)).fetchone()
        return None if row is None else PathTest(*row)

    def arrivals(self, cause: str) -> list[tuple[str, str, str]]:
        """(contact, channel, state) of every delivery of a cause."""
        return self._database.execute("SELECT contact, channel, state FROM delivery WHERE cause = ?", (cause,)).fetchall()

    def undo(self) -> None:
        """After an sqlite3.Error: end what it left half done."""
        with contextlib.suppress(sqlite3.Error):
            self._database.rollback()

    def close(self) -> None:
        """Close the file."""
        self._database.close()


_ladder = msgspec.json.Decoder(Ladder).decode


class DeliveryReader:
    """The reading end, for other processes. Raises StoreError when the file cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        """None: no alarm was ever told here."""
        if not self._path.is_file():
            yield None
            return
        try:
            with contextlib.closing(open_read_only(self._path, busy_s=READER_BUSY_S)) as database:
                yield database
        except sqlite3.Error as error:
            if "no such" not in str(error):  # a table or column of a newer build: notify has not started yet
                raise StoreError(f"{self._path}: {error}") from error

    def deliveries(self, *, state: str | None = None, cause: str | None = None, limit: int = 100) -> list[Delivery]:
        """Newest first; of one state or cause."""
        query = (
            "SELECT number, cause, contact, channel, sites, message, made_ms, due_ms, tries, state, done_ms, error FROM delivery "
            "WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR cause = ?2) ORDER BY number DESC LIMIT ?3"
        )
        found: list[Delivery] = []
        with self._open() as database:
            if database is not None:
                rows = database.execute(query, (state, cause, limit)).fetchall()
                found = [Delivery(*row)._replace(sites=json.loads(row[4]), message=json.loads(row[5])) for row in rows]
        return found

    def counts(self, since_ms: int) -> dict[str, int]:
        """Deliveries by state: of those made since a time, and all that wait."""
        found: dict[str, int] = {}
        with self._open() as database:
            if database is not None:
                query = "SELECT state, count(*) FROM delivery WHERE made_ms >= ? OR state = 'waiting' GROUP BY state"
                found = dict(database.execute(query, (since_ms,)).fetchall())
        return found

    def ladders(self) -> dict[str, Ladder]:
        """How far the escalation of each alarm has come that stands, or of which somebody still has to hear the end."""
        found: dict[str, Ladder] = {}
        with self._open() as database:
            if database is not None:
                rows = database.execute("SELECT key, body FROM escalation WHERE key >= 'alarm:' AND key < 'alarm;'").fetchall()
                with contextlib.suppress(msgspec.DecodeError):  # of another build: notify says so itself
                    found = {key.removeprefix("alarm:"): _ladder(body) for key, body in rows}
        return found

    def channels(self) -> list[ChannelState]:
        """Every channel that was ever used."""
        found: list[ChannelState] = []
        with self._open() as database:
            if database is not None:
                found = _channels(database)
        return found

    def tests(self, limit: int) -> list[PathTest]:
        """Newest first."""
        found: list[PathTest] = []
        with self._open() as database:
            if database is not None:
                found = _tests(database, limit)
        return found


def _channels(database: sqlite3.Connection) -> list[ChannelState]:
    return [ChannelState(*row) for row in database.execute("SELECT name, failures, changed_ms, error FROM channel ORDER BY name")]


def _tests(database: sqlite3.Connection, limit: int, *, only_waiting: bool = False) -> list[PathTest]:
    query = "SELECT * FROM test WHERE state = 'waiting' OR NOT ? ORDER BY asked_ms DESC, id DESC LIMIT ?"
    return [PathTest(*row) for row in database.execute(query, (int(only_waiting), limit))]
