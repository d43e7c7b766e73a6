"""The notify process: follows the journal, tells people about alarms until somebody acknowledges, and raises alarms of its own when
the core falls silent, a channel is dead, or the alarm path fails its test.

It never writes the journal, so it works when the core hangs, which is when it matters most. Watching and each channel have a thread of
their own: a channel that hangs delays neither the watchdog nor the others. What it must remember stands in people/delivery.py.
"""

import asyncio
import contextlib
import functools
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import structlog

from people.channels import DeliveryError, Reveal, Sender, Wall, make_sender
from people.delivery import DeliveryJournal, Outgoing, Work
from people.escalation import Escalation, Message
from people.notices import Answer, Flood, cut_off, notices, own_change
from people.roster import NotifyConfig
from people.self_test import ANSWER_MS, SelfTests
from store.inbox import Inbox
from store.journal_reader import HELD_ROWS, Gap, JournalReader
from store.position import PositionFile
from telemetry.clock import Clock
from telemetry.errors import StoreError
from telemetry.record import Request
from telemetry.transaction import Transaction

log = structlog.get_logger()

WATCHDOG_S: Final = 5.0  # ticks come once a second
WATCHDOG: Final = "NOTIFY-CORE-SILENT"
DEAD: Final = "NOTIFY-CHANNEL-DEAD"
TEST_FAILED: Final = "NOTIFY-TEST-FAILED"
DEAD_AFTER: Final = 3  # failures in a row
NEWS_S: Final = 5.0  # what is older is the past: nobody is told before the journal's end is known
POLL_S: Final = 0.2
PRIORITIES: Final = {WATCHDOG: "P1", DEAD: "P2", TEST_FAILED: "P2"}


class Watch:
    """Follows the journal and watches that it goes on. `round` is what its thread repeats."""

    def __init__(
        self,
        journal: Callable[[], JournalReader],
        deliveries: DeliveryJournal,
        config: NotifyConfig,
        *,
        clock: Clock,
        wall: Wall | None = None,
        ask: Callable[[Request], None] = lambda _request: None,
        told: PositionFile | None = None,
        unkept: Callable[[Message], None] = lambda _message: None,
    ) -> None:
        """`wall`: the wall clock, by which people live (None: it is `clock`). `ask` puts a request into the inbox. `told`: where
        core reads how far we are. `unkept` tells a message at once when our own file cannot keep it."""
        self._open = journal
        self._journal: JournalReader | None = None  # None: to be opened
        self._deliveries = deliveries
        self._config = config
        self._clock = clock
        self._wall = wall or clock.now_ns
        self._told = told
        self._heard_ns = clock.now_ns()
        self._has_heard = False  # in this life: a restart of ours says nothing about the core
        self._is_failing = False
        self._is_news = False  # the last read came to the journal's end
        self._unkept = unkept
        self._has_told_unkept = self._cannot_keep = False
        self._tests = SelfTests(config, deliveries, ask, self._wall() // 1_000_000)
        self._escalation: Escalation | None = None  # None: to be read from our file
        self._is_forgetful = os.environ.get("FIELDLOOM_SABOTAGE") == "forget_escalation"

    def _now_ms(self) -> int:
        return self._clock.now_ns() // 1_000_000

    def round(self) -> bool:
        """Follow and watch once; True when the journal may hold more."""
        try:
            transactions, work, escalation = self._read()
            self._work(transactions, work, escalation)
            if self._told is not None:
                self._told.tell(self._deliveries.position())
        except (sqlite3.Error, OSError) as error:  # a full disk stops core too: somebody must hear of it now
            self._deliveries.undo()
            self._escalation = None  # it went further than what was kept
            self._watch_without_file(str(error))
            return False
        if self._has_told_unkept and not self._is_silent():
            self._tell_unkept(is_on=False)
        self._cannot_keep = self._has_told_unkept = False
        return bool(transactions)

    def _watch_without_file(self, error: str) -> None:
        """The watchdog while our own file cannot be written: told once, and recorded as soon as it can."""
        if not self._cannot_keep:
            log.error("notify_cannot_keep", error=error)
        self._cannot_keep = True
        if self._is_silent() and not self._has_told_unkept:
            self._has_told_unkept = True
            self._tell_unkept(is_on=True)

    def _tell_unkept(self, *, is_on: bool) -> None:
        """To everybody who is told of P1, in whatever step, without a record."""
        now_ms = self._now_ms()
        apart = Escalation(self._config.model_copy(update={"policies": [_all_at_once(self._config)]}), {})
        change = own_change(WATCHDOG, is_on=True, priority="P1", text=_own_text(WATCHDOG, ""), time_ms=now_ms, since_ms=now_ms,
                            cause=f"own/{WATCHDOG}/unkept/{self._heard_ns}/{'raise' if is_on else 'clear'}")  # fmt: skip
        apart.take(change, now_ms)
        for message in apart.advance(now_ms):
            for line in message.lines:
                line.change = "raise" if is_on else "clear"
            self._unkept(message)

    def _is_silent(self) -> bool:
        return (self._clock.now_ns() - self._heard_ns) / 1e9 > WATCHDOG_S

    # -- following ---------------------------------------------------------------------------------------------------------

    def _read(self) -> tuple[list[Transaction], Work, Escalation]:
        """The next transactions, and what a gap before them tells."""
        if self._escalation is None:
            self._escalation = Escalation(self._config, self._deliveries.escalation())
            for key in self._escalation.unreadable:
                log.error("escalation_forgotten", key=key, reason="another build wrote it")
        work, position = Work(), self._deliveries.position()
        try:
            if self._journal is None:
                self._journal = self._open()
            transactions = self._journal.read(position)
        except Gap as gap:
            log.error("journal_trimmed_before_notify", after=gap.after, available=gap.available)
            now_ms = self._now_ms()
            self._escalation.forget_alarms()
            self._escalation.take(
                cut_off(gap.available - 1, now_ms, gap.available, now_ms), now_ms
            )  # what it would have told is lost
            self._deliveries.keep(Work(gap.available - 1, self._escalation.unsaved()), now_ms)
            return self._read()
        except StoreError as error:
            if not self._is_failing:
                log.error("journal_read_failed", error=str(error))
            self._is_failing, self._journal = True, None
            return [], work, self._escalation  # the watchdog counts on: a journal that cannot be read is as silent as a dead core
        self._is_failing = False
        if transactions:
            self._heard_ns, self._has_heard = self._clock.now_ns(), True
            work.position = transactions[-1].last
        return transactions, work, self._escalation

    def _work(self, transactions: Sequence[Transaction], work: Work, escalation: Escalation) -> None:
        now_ms, wall_ms = self._now_ms(), self._wall() // 1_000_000
        escalation.skew_ms = wall_ms - now_ms
        live_ms = now_ms if self._is_news else None  # clocks of two processes may differ: what is news happened now
        for transaction in transactions:
            for notice in notices(transaction, live_ms=live_ms, now_ms=now_ms):
                if isinstance(notice, Answer) and live_ms is None and now_ms - notice.time_ms > ANSWER_MS:
                    continue  # a test of long ago, read again because our own file is new
                if isinstance(notice, Answer):
                    test, outgoing = self._tests.answered(notice.id, now_ms)
                    work.tests.append(test)
                    work.outgoing += outgoing
                elif isinstance(notice, Flood):
                    escalation.flood(notice.area, is_on=notice.is_on)
                    escalation.take(notice.change, now_ms)
                else:
                    escalation.take(notice, now_ms)
        self._is_news = not self._is_failing and sum(max(t.rows, t.count) for t in transactions) < HELD_ROWS
        self._watch_own(work, escalation, now_ms)
        work.tests += [*self._tests.planned(now_ms, wall_ms), *self._tests.judged(now_ms)]
        if self._is_news or not transactions or now_ms - transactions[-1].engine_ns // 1_000_000 < NEWS_S * 1000:
            for message in escalation.advance(now_ms):
                work.outgoing += outgoing_of(self._config, message)
        work.escalation = {} if self._is_forgetful else escalation.unsaved()
        if work != Work():
            self._deliveries.keep(work, now_ms)

    # -- own alarms --------------------------------------------------------------------------------------------------------

    def _watch_own(self, work: Work, escalation: Escalation, now_ms: int) -> None:
        """Raise and clear what this process itself watches: each alarm once for as long as it stands."""
        standing, wanted = self._deliveries.standing_own(), self._wanted()
        for name, detail in wanted.items():
            if (detail is not None) != (name in standing):
                self._take_own(work, escalation, name, detail, now_ms)

    def _wanted(self) -> dict[str, str | None]:
        """What stands, with its detail; None: it does not. A name that is missing stays as it is."""
        wanted: dict[str, str | None] = {}
        if self._is_silent():
            wanted[WATCHDOG] = ""
        elif self._has_heard:
            wanted[WATCHDOG] = None
        for channel in self._deliveries.channels():
            if channel.failures == 0 or channel.name not in self._config.channels:
                wanted[f"{DEAD}@{channel.name}"] = None
            elif channel.failures >= DEAD_AFTER:
                wanted[f"{DEAD}@{channel.name}"] = channel.error
        newest = next(iter(self._deliveries.tests(limit=1)), None)
        if newest is not None and (newest.state != "waiting" or newest.detail):  # a test that waits has one when it began late
            wanted[TEST_FAILED] = None if newest.state == "passed" else newest.detail
        return wanted

    def _take_own(self, work: Work, escalation: Escalation, name: str, detail: str | None, now_ms: int) -> None:
        change = own_change(
            name, is_on=detail is not None, priority=PRIORITIES[name.partition("@")[0]], text=_own_text(name, detail or ""),
            time_ms=now_ms, since_ms=now_ms, cause=f"own/{name}/{now_ms}/{'clear' if detail is None else 'raise'}",
        )  # fmt: skip
        escalation.take(change, now_ms)
        work.own[name] = detail is not None
        log.warning("own_alarm", alarm=name, change=change.event, detail=detail or "")


def _own_text(name: str, detail: str) -> dict[str, str]:
    kind, _, channel = name.partition("@")
    return {
        WATCHDOG: {"en": "The core writes nothing: nobody watches or controls", "zh": "采集核心无响应：无人监视和控制"},
        DEAD: {"en": f"Notifications do not arrive over {channel}: {detail}", "zh": f"通知通道 {channel} 无法送达：{detail}"},
        TEST_FAILED: {"en": f"The test of the alarm path failed: {detail}", "zh": f"报警通道自检未通过：{detail}"},
    }[kind]


def _all_at_once(config: NotifyConfig) -> Any:
    """The general policy with everybody of its P1 steps in the first."""
    general = config.policies[-1]
    steps = general.steps["P1"]
    first = steps[0].model_copy(update={"after_min": 0.0, "tell": [name for step in steps for name in step.tell]})
    return general.model_copy(update={"steps": {"P1": [first]}})


def outgoing_of(config: NotifyConfig, message: Message) -> list[Outgoing]:
    """A message for each way to its contact. That a channel is dead is not told over that channel."""
    contact = config.contacts[message.contact]
    shown = {"id": message.id, "contact": message.contact, "lines": [line.view() for line in message.lines], "more": message.more}
    sites = sorted({line.site for line in message.lines})
    ways = [way for way in contact.via if any(line.alarm != f"{DEAD}@{way.channel}" for line in message.lines)]
    return [
        Outgoing(message.id, message.contact, way.channel, way.address, contact.language, message.is_urgent, sites, shown)
        for way in ways
    ]


def deliver(name: str, sender: Sender, deliveries: DeliveryJournal, clock: Clock, sent: set[int] | None = None) -> bool:
    """Try what is due on one channel; True when there was something. After a failure what is most urgent is looked for anew.

    `sent` remembers what arrived and could not be noted as delivered yet: it is not sent again while this process lives.
    """
    unnoted = set() if sent is None else sent
    try:
        due_now = deliveries.due(name, clock.now_ns() // 1_000_000)
        for due in due_now:
            if due.number not in unnoted:
                try:
                    sender.send(due.message, due.address, due.language)
                except DeliveryError as error:
                    if deliveries.failed(name, due, clock.now_ns() // 1_000_000, str(error)):
                        log.error("notice_given_up", channel=name, id=due.message["id"], error=str(error))
                    return True
                unnoted.add(due.number)
            deliveries.delivered(name, due, clock.now_ns() // 1_000_000)
            unnoted.discard(due.number)
    except sqlite3.Error:  # the watch says so
        deliveries.undo()
        return False
    return bool(due_now)


def tell_all(senders: Mapping[str, Sender], config: NotifyConfig, message: Message) -> None:
    """To a contact over all his channels at once, without a record."""
    for out in outgoing_of(config, message):
        try:
            senders[out.channel].send(out.message, out.address, config.contacts[out.contact].language)
        except DeliveryError as error:
            log.error("notice_not_sent", channel=out.channel, id=message.id, error=str(error))


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


def ask_core(path: Path, request: Request) -> None:
    """Put a request into the inbox, which is otherwise web's: in WAL two writers wait for each other, and core for neither."""
    with contextlib.closing(Inbox(path)) as inbox:
        inbox.put(request)


async def run(data_dir: Path, config: NotifyConfig, reveal: Reveal, *, clock: Clock, wall: Wall, stop: asyncio.Event) -> None:
    """The process, until `stop` is set. `wall` is the wall clock, `reveal` gives the secret that stands at a place. On a full disk it
    goes on and keeps later."""
    senders = {name: make_sender(channel, config, reveal, wall) for name, channel in config.channels.items()}
    journals = [DeliveryJournal(data_dir / "notify.sqlite") for _ in range(1 + len(senders))]
    log.info("notify_ready", channels=list(senders))
    try:
        given_up = journals[0].give_up(list(senders), clock.now_ns() // 1_000_000)
        if given_up:
            log.warning("notices_given_up", count=given_up, reason="their channels are no longer configured")
        async with asyncio.TaskGroup() as group:
            watch = Watch(
                lambda: JournalReader(data_dir / "journal"), journals[0], config, clock=clock, wall=wall,
                ask=functools.partial(ask_core, data_dir / "inbox.sqlite"),
                told=PositionFile(data_dir / "run" / "notify.position", clock=clock),
                unkept=functools.partial(tell_all, senders, config),
            )  # fmt: skip
            group.create_task(_repeat("watch", watch.round, stop), name="notify-watch")
            for (name, sender), deliveries in zip(senders.items(), journals[1:], strict=True):
                one_round = functools.partial(deliver, name, sender, deliveries, clock, set())
                group.create_task(_repeat(name, one_round, stop), name=f"notify-{name}")
    finally:
        for deliveries in journals:
            deliveries.close()
