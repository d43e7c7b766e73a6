"""The notify process: follows the journal, tells people about alarms, and raises its own alarm when the core falls silent.

Thin: two channels (log, webhook), no escalation yet. What it keeps in `notify.sqlite`: its journal position together with the
deliveries that position caused (so no alarm is lost or told twice across a kill), every attempt, and its own alarms. It never
writes the journal, so it works when the core hangs, which is when it matters most. Watching and each channel have a thread of
their own: a webhook that hangs delays neither the watchdog nor the log.
"""

import asyncio
import contextlib
import functools
import json
import sqlite3
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import structlog

from store.journal_reader import Gap, JournalReader
from store.position import PositionFile
from telemetry.clock import Clock
from telemetry.errors import EnvironmentFault, StoreError
from telemetry.record import Event
from telemetry.transaction import Transaction

log = structlog.get_logger()

WATCHDOG_S: Final = 5.0  # ticks come once a second
WATCHDOG: Final = "NOTIFY-CORE-SILENT"
CUT_OFF: Final = "NOTIFY-JOURNAL-CUT-OFF"
CUT_EVENT: Final = "follower_cut_off"
POLL_S: Final = 0.2
TRIES_MAX: Final = 8
BACKOFF_S: Final = 2.0  # doubled at each try: the last one is some 4 min after the first
DELIVERIES_PER_ROUND: Final = 20
DELIVERIES_KEPT: Final = 100_000
WEBHOOK_LIMIT_S: Final = 5.0
TOLD_EVENTS: Final = frozenset({"raise", "clear"})

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS progress (one INTEGER PRIMARY KEY CHECK (one = 1), position INTEGER NOT NULL) STRICT;
INSERT OR IGNORE INTO progress VALUES (1, -1);
CREATE TABLE IF NOT EXISTS delivery (
    number INTEGER PRIMARY KEY, cause TEXT NOT NULL, channel TEXT NOT NULL, message TEXT NOT NULL, made_ms INTEGER NOT NULL,
    due_ms INTEGER NOT NULL, tries INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL DEFAULT 'waiting', done_ms INTEGER,
    error TEXT NOT NULL DEFAULT '', UNIQUE (cause, channel)) STRICT;
CREATE INDEX IF NOT EXISTS delivery_due ON delivery (state, due_ms);
CREATE TABLE IF NOT EXISTS own_alarm (
    number INTEGER PRIMARY KEY, name TEXT NOT NULL, raised_ms INTEGER NOT NULL, cleared_ms INTEGER) STRICT;
"""


class DeliveryError(EnvironmentFault):
    """A channel did not take a message."""


class Channel(Protocol):
    """A way to people. Blocking; raises DeliveryError. The same message may come twice after a kill: its id is the same."""

    name: str

    def send(self, message: dict[str, Any]) -> None:
        """Deliver, or raise."""
        ...


class LogChannel:
    """Writes a line to the log: the channel that always works."""

    name = "log"

    def send(self, message: dict[str, Any]) -> None:
        """Never fails."""
        log.warning("alarm_notice", **message)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead into the inside of the network: it is an error."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        """Follow none."""


class WebhookChannel:
    """POSTs JSON to one address from the settings. 2xx is delivered, anything else is tried again."""

    name = "webhook"

    def __init__(self, url: str, *, limit_s: float = WEBHOOK_LIMIT_S) -> None:
        if not url.startswith(("http://", "https://")):
            raise DeliveryError(f"webhook address must begin with http:// or https://, not {url[:20]!r}")
        self._url = url
        self._limit_s = limit_s
        self._opener = urllib.request.build_opener(_NoRedirect)

    def send(self, message: dict[str, Any]) -> None:
        """Deliver within the limit."""
        body = json.dumps(message, ensure_ascii=False, allow_nan=False).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"}, method="POST")
        try:
            with self._opener.open(request, timeout=self._limit_s):
                pass
        except OSError as error:  # URLError and HTTPError are OSErrors
            raise DeliveryError(str(error)) from error


class Due(NamedTuple):
    """A delivery whose time has come."""

    number: int
    message: dict[str, Any]
    tries: int


class DeliveryJournal:
    """`notify.sqlite`. Blocking; each thread has its own."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}") from error

    def position(self) -> int:
        """Journal position up to which every alarm has its deliveries."""
        return int(self._database.execute("SELECT position FROM progress").fetchone()[0])

    def take(self, position: int, messages: Sequence[tuple[str, dict[str, Any]]], channels: Sequence[str], now_ms: int) -> None:
        """Keep (cause, message) for each channel together with the position. A known cause is not told again."""
        self._database.execute("BEGIN IMMEDIATE")
        for cause, message in messages:
            for channel in channels:
                self._database.execute(
                    "INSERT OR IGNORE INTO delivery (cause, channel, message, made_ms, due_ms) VALUES (?, ?, ?, ?, ?)",
                    (cause, channel, json.dumps(message, ensure_ascii=False), now_ms, now_ms),
                )
        self._database.execute("UPDATE progress SET position = max(position, ?)", (position,))
        self._database.execute(
            "DELETE FROM delivery WHERE state <> 'waiting' AND number <= (SELECT max(number) FROM delivery) - ?", (DELIVERIES_KEPT,)
        )
        self._database.execute("COMMIT")

    def due(self, channel: str, now_ms: int) -> list[Due]:
        """What must be sent over a channel now, oldest first."""
        query = (
            "SELECT number, message, tries FROM delivery WHERE state = 'waiting' AND channel = ? AND due_ms <= ? "
            "ORDER BY number LIMIT ?"
        )
        return [Due(n, json.loads(m), t) for n, m, t in self._database.execute(query, (channel, now_ms, DELIVERIES_PER_ROUND))]

    def delivered(self, due: Due, now_ms: int) -> None:
        """It arrived."""
        self._database.execute(
            "UPDATE delivery SET state = 'delivered', tries = tries + 1, done_ms = ? WHERE number = ?", (now_ms, due.number)
        )

    def failed(self, due: Due, now_ms: int, error: str) -> bool:
        """It did not; tried again later, or given up (True) after TRIES_MAX tries."""
        tries = due.tries + 1
        state = "failed" if tries >= TRIES_MAX else "waiting"
        later_ms = now_ms + int(BACKOFF_S * 2 ** (tries - 1) * 1000)
        self._database.execute(
            "UPDATE delivery SET state = ?, tries = ?, due_ms = ?, done_ms = ?, error = ? WHERE number = ?",
            (state, tries, later_ms, now_ms, error[:500], due.number),
        )
        return state == "failed"

    def raise_own(self, name: str, now_ms: int) -> int:
        """Record an alarm of this process; its number."""
        return int(self._database.execute("INSERT INTO own_alarm (name, raised_ms) VALUES (?, ?)", (name, now_ms)).lastrowid or 0)

    def clear_own(self, name: str, now_ms: int) -> None:
        """It has returned to normal."""
        self._database.execute("UPDATE own_alarm SET cleared_ms = ? WHERE name = ? AND cleared_ms IS NULL", (now_ms, name))

    def standing_own(self, name: str) -> int | None:
        """Number of the standing alarm of that name; None when it does not stand."""
        row = self._database.execute("SELECT max(number) FROM own_alarm WHERE name = ? AND cleared_ms IS NULL", (name,)).fetchone()
        return None if row[0] is None else int(row[0])

    def undo(self) -> None:
        """After an sqlite3.Error: end what it left half done."""
        with contextlib.suppress(sqlite3.Error):
            self._database.rollback()

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def notices(transaction: Transaction) -> list[tuple[str, dict[str, Any]]]:
    """(cause, message) of every alarm that was raised or cleared in a transaction. The cause is its place in the journal."""
    found = list(_cuts(transaction)) if CUT_EVENT.encode() in transaction.entries else []  # decoding every sample would be dear
    for decision in transaction.read_decisions():
        if decision.kind == "alarm" and decision.body.get("event") in TOLD_EVENTS:
            body = decision.body
            cause = f"{decision.position}/{decision.phase}/{decision.time_ns}/{decision.subject}"
            message = {
                "id": cause,
                "alarm": decision.subject,
                "change": body["event"],
                "state": body.get("to"),
                "priority": body.get("priority"),
                "time_ms": decision.time_ns // 1_000_000,
                "text": body.get("message", {}),
            }
            found.append((cause, message))
    return found


def _cuts(transaction: Transaction) -> Iterator[tuple[str, dict[str, Any]]]:
    entries = transaction.read_entries()
    for index, record in entries.records:
        if isinstance(record, Event) and record.name == CUT_EVENT and not record.device:
            yield cut_off(transaction.first + index, int(entries.time_ns[index]) // 1_000_000, int(record.body["before"]))


def cut_off(position: int, time_ms: int, before: int) -> tuple[str, dict[str, Any]]:
    """(cause, message) of a journal that was deleted before everybody had read it."""
    cause = f"{position}/{CUT_OFF}"
    text = {
        "en": f"The disk was nearly full: the journal before position {before} was deleted unread, the history has a gap. Free space.",
        "zh": f"磁盘空间不足：日志位置 {before} 之前的内容未读完即被删除，历史数据有缺口。请清理磁盘。",
    }
    message = {
        "id": cause,
        "alarm": CUT_OFF,
        "change": "raise",
        "state": "UNACK",
        "priority": "P2",
        "time_ms": time_ms,
        "text": text,
    }
    return cause, message


class Watch:
    """Follows the journal and watches that it goes on. `round` is what its thread repeats."""

    def __init__(
        self,
        journal: Callable[[], JournalReader],
        deliveries: DeliveryJournal,
        channels: Sequence[str],
        *,
        clock: Clock,
        told: PositionFile | None = None,
        unkept: Callable[[dict[str, Any]], None] = lambda _message: None,
    ) -> None:
        """`told`: where core reads how far we are. `unkept` tells a message at once when our own file cannot keep it."""
        self._open = journal
        self._journal: JournalReader | None = None  # None: to be opened
        self._deliveries = deliveries
        self._channels = channels
        self._clock = clock
        self._told = told
        self._heard_ns = clock.now_ns()
        self._has_heard = False  # in this life: a restart of ours says nothing about the core
        self._is_failing = False
        self._unkept = unkept
        self._has_told_unkept = self._cannot_keep = False

    def _now_ms(self) -> int:
        return self._clock.now_ns() // 1_000_000

    def round(self) -> bool:
        """Follow and watch once; True when the journal may hold more."""
        try:
            is_behind = self._follow()
            self._watch()
            if self._told is not None:
                self._told.tell(self._deliveries.position())
        except (sqlite3.Error, OSError) as error:  # a full disk stops core too: somebody must hear of it now
            self._deliveries.undo()
            self._watch_without_file(str(error))
            return False
        if self._has_told_unkept and not self._is_silent():
            self._unkept(self._own_message(f"own/{WATCHDOG}/unkept/clear/{self._heard_ns}", "clear"))
        self._cannot_keep = self._has_told_unkept = False
        return is_behind

    def _watch_without_file(self, error: str) -> None:
        """The watchdog while our own file cannot be written: told once, and recorded as soon as it can."""
        if not self._cannot_keep:
            log.error("notify_cannot_keep", error=error)
        self._cannot_keep = True
        if self._is_silent() and not self._has_told_unkept:
            self._has_told_unkept = True
            self._unkept(self._own_message(f"own/{WATCHDOG}/unkept/{self._heard_ns}", "raise"))

    def _is_silent(self) -> bool:
        return (self._clock.now_ns() - self._heard_ns) / 1e9 > WATCHDOG_S

    def _follow(self) -> bool:
        try:
            if self._journal is None:
                self._journal = self._open()
            transactions = self._journal.read(self._deliveries.position())
        except Gap as gap:
            log.error("journal_trimmed_before_notify", after=gap.after, available=gap.available)
            told = [cut_off(gap.available - 1, self._now_ms(), gap.available)]  # what it would have told is lost
            self._deliveries.take(gap.available - 1, told, self._channels, self._now_ms())
            return True
        except StoreError as error:
            if not self._is_failing:
                log.error("journal_read_failed", error=str(error))
            self._is_failing, self._journal = True, None
            return False  # the watchdog counts on: a journal that cannot be read is as silent as a dead core
        self._is_failing = False
        if transactions:
            self._heard_ns, self._has_heard = self._clock.now_ns(), True
            messages = [notice for transaction in transactions for notice in notices(transaction)]
            self._deliveries.take(transactions[-1].last, messages, self._channels, self._now_ms())
        return bool(transactions)

    def _watch(self) -> None:
        """No entry for WATCHDOG_S: our own alarm, told at once and recorded; told again when the core is back."""
        standing = self._deliveries.standing_own(WATCHDOG)
        if self._is_silent() and standing is None:
            self._tell_own(self._deliveries.raise_own(WATCHDOG, self._now_ms()), "raise")
        elif not self._is_silent() and standing is not None and self._has_heard:
            self._deliveries.clear_own(WATCHDOG, self._now_ms())
            self._tell_own(standing, "clear")

    def _tell_own(self, number: int, change: str) -> None:
        cause = f"own/{WATCHDOG}/{number}/{change}"
        self._deliveries.take(-1, [(cause, self._own_message(cause, change))], self._channels, self._now_ms())

    def _own_message(self, cause: str, change: str) -> dict[str, Any]:
        return {
            "id": cause,
            "alarm": WATCHDOG,
            "change": change,
            "state": "UNACK" if change == "raise" else "NORM",
            "priority": "P1",
            "time_ms": self._now_ms(),
            "text": {"en": "The core writes nothing: nobody watches or controls", "zh": "采集核心无响应：无人监视和控制"},
        }


def deliver(channel: Channel, deliveries: DeliveryJournal, clock: Clock, sent: set[int] | None = None) -> bool:
    """Try what is due on one channel; True when there was something.

    `sent` remembers what arrived and could not be noted as delivered yet: it is not sent again while this process lives.
    """
    unnoted = set() if sent is None else sent
    try:
        due_now = deliveries.due(channel.name, clock.now_ns() // 1_000_000)
        for due in due_now:
            if due.number not in unnoted:
                try:
                    channel.send(due.message)
                except DeliveryError as error:
                    if deliveries.failed(due, clock.now_ns() // 1_000_000, str(error)):
                        log.error("notice_given_up", channel=channel.name, alarm=due.message["alarm"], error=str(error))
                    continue
                unnoted.add(due.number)
            deliveries.delivered(due, clock.now_ns() // 1_000_000)
            unnoted.discard(due.number)
    except sqlite3.Error:  # the watch says so
        deliveries.undo()
        return False
    return bool(due_now)


def tell_all(channels: Sequence[Channel], message: dict[str, Any]) -> None:
    """Over every channel at once, without a record."""
    for channel in channels:
        try:
            channel.send(message)
        except DeliveryError as error:
            log.error("notice_not_sent", channel=channel.name, alarm=message["alarm"], error=str(error))


async def _repeat(name: str, one_round: Callable[[], bool], stop: asyncio.Event) -> None:
    """Run rounds in one thread until `stop`; a round that found something is followed at once by the next."""
    loop = asyncio.get_running_loop()
    executor = ThreadPoolExecutor(1, thread_name_prefix=name)
    try:
        while not stop.is_set():
            if await loop.run_in_executor(executor, one_round):
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await stop.wait()
    finally:
        executor.shutdown(wait=True)


async def run(data_dir: Path, *, clock: Clock, webhook_url: str | None = None, stop: asyncio.Event) -> None:
    """The process, until `stop` is set. `webhook_url` None: only the log. On a full disk it goes on and keeps later."""
    channels: list[Channel] = [LogChannel(), *([WebhookChannel(webhook_url)] if webhook_url is not None else [])]
    journals = [DeliveryJournal(data_dir / "notify.sqlite") for _ in range(1 + len(channels))]
    names = [channel.name for channel in channels]
    log.info("notify_ready", channels=names)
    try:
        async with asyncio.TaskGroup() as group:
            told = PositionFile(data_dir / "run" / "notify.position", clock=clock)
            unkept = functools.partial(tell_all, channels)
            watch = Watch(lambda: JournalReader(data_dir / "journal"), journals[0], names, clock=clock, told=told, unkept=unkept)
            group.create_task(_repeat("watch", watch.round, stop), name="notify-watch")
            for channel, deliveries in zip(channels, journals[1:], strict=True):
                one_round = functools.partial(deliver, channel, deliveries, clock, set())
                group.create_task(_repeat(channel.name, one_round, stop), name=f"notify-{channel.name}")
    finally:
        for deliveries in journals:
            deliveries.close()
