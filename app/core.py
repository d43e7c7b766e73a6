"""The `core` process: MQTT session, `step`, the journal (only writer), outbox. Sample in to command out is its whole job.

One transaction carries entries, decisions and commands; only when it is durable are messages acknowledged, receipts sent and commands
published. While a commit fails nothing new is taken or acknowledged: the same bytes are tried on a reopened file, and after 30 s the
process ends with the reason.
"""

import asyncio
import contextlib
import gc
import os
import random
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from app.failpoint import failpoint
from app.settings import Settings
from app.wiring import build_engine, build_id
from devices.outbox import Outbox
from ingest.admit import Admit
from ingest.decode import Directory, Gather
from ingest.link import Delivery
from ingest.mqtt import MqttLink
from ingest.receipt import Receipts
from rules import kernels
from rules.engine import Engine, Outcome
from store.inbox import InboxReader
from store.journal import Journal, JournalReader
from store.snapshot import newest_snapshot, write_snapshot
from telemetry import topic
from telemetry.clock import EngineClock
from telemetry.decision import encode_decisions
from telemetry.errors import FencedError, StoreError
from telemetry.frame import Entries, Flag
from telemetry.plan import NS_PER_S
from telemetry.record import Clock, Config, Event, Request, Start
from telemetry.site import SiteConfig
from telemetry.transaction import Accounting, Transaction
from telemetry.wire.columns import encode_admission, encode_entries

log = structlog.get_logger()

COMMIT_PATIENCE_S: Final = 30.0
COMMIT_RETRY_S: Final = 0.5
INBOX_POLL_S: Final = 0.1
LEASE_S: Final = 5.0
SNAPSHOT_S: Final = 30.0
SNAPSHOT_FRAMES: Final = 500_000
DRAIN_TOPIC: Final = "fl-core"  # the core's own namespace: a marker that returns proves that all before it was delivered


class Core:
    """State of the running process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        data = settings.data_dir
        self._wall = time.time_ns
        self._clock = EngineClock(time.time_ns, time.monotonic_ns)
        self._journal = Journal(data / "journal", clock=self._clock)
        self.engine, self._inbox_row = recover(data, sabotage=settings.sabotage)
        self._clock = EngineClock(time.time_ns, time.monotonic_ns, self._journal.last_engine_ns)
        self.epoch = max(self._journal.last_epoch + 1, time.time_ns() // NS_PER_S)
        self._journal.begin(self.epoch)
        self._inbox = InboxReader(data / "inbox.sqlite")
        self._gather = Gather(Directory(self.engine.plan))
        self._receipts = Receipts()
        self._receipts.configure(self.engine.plan)
        self._tokens: dict[int, list[int]] = {0: [], 1: []}
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._io = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._side = ThreadPoolExecutor(1, thread_name_prefix="inbox")
        self._began_ns = 0
        self._frames_since_snapshot = 0
        self._snapshot_due_ns = 0
        self._marker = b""
        self.failure = ""
        self._links = [self._make_link(live=True), self._make_link(live=False)]
        self._outbox = Outbox(self._links[0].publish)

    def _make_link(self, *, live: bool) -> MqttLink:
        s, index = self._settings, 0 if live else 1
        marker = f"{DRAIN_TOPIC}/{s.mqtt_client_id}/drained"
        return MqttLink(
            host=s.mqtt_host,
            port=s.mqtt_port,
            username=s.mqtt_username,
            password=s.mqtt_password.get_secret_value() if s.mqtt_password else None,
            tls=s.mqtt_tls_context(),
            client_id=s.mqtt_client_id if live else f"{s.mqtt_client_id}-backfill",
            filters=(*topic.LIVE_FILTERS, marker) if live else topic.BACKFILL_FILTERS,
            receive_max=s.receive_window if live else 100,
            keepalive_s=s.mqtt_keepalive_s,
            clock=self._clock,
            rng=random.Random(),  # noqa: S311 -- jitter
            on_batch=lambda deliveries: self._on_batch(index, deliveries),
            on_up=self._on_up if live else lambda: None,
            on_down=self._on_down if live else lambda _reason: None,
        )

    # -- from the links ----------------------------------------------------------------------------------------------------

    def _on_batch(self, index: int, deliveries: Sequence[Delivery]) -> None:
        take, tokens = self._gather.take, self._tokens[index]
        for name, payload, retained, received_ns, token in deliveries:
            if name.startswith(DRAIN_TOPIC):
                if payload == self._marker:
                    self._gather.add(Event("drained"), received_ns)
            else:
                take(name, payload, retained, received_ns)
            if token:
                tokens.append(token)
        if self._gather.rows >= self._settings.commit_rows:
            for link in self._links:
                link.pause()
        self._wake.set()

    def _on_up(self) -> None:
        log.info("broker up", host=self._settings.mqtt_host, port=self._settings.mqtt_port)
        self._gather.add(Event("broker_up"), self._clock.now_ns())
        self._marker = os.urandom(8).hex().encode()
        self._links[0].publish(f"{DRAIN_TOPIC}/{self._settings.mqtt_client_id}/drained", self._marker, qos=1)
        self._wake.set()

    def _on_down(self, reason: str) -> None:
        log.warning("broker lost", reason=reason)
        self._gather.add(Event("broker_lost", "", {"reason": reason[:200]}), self._clock.now_ns())
        self._wake.set()

    # -- the commit loop ---------------------------------------------------------------------------------------------------

    async def _commit_forever(self) -> None:
        gather_ns = int(self._settings.gather_ms * 1e6)
        while not self._stop.is_set():
            await self._wake.wait()
            wait_ns = self._began_ns + gather_ns - time.monotonic_ns()
            if wait_ns > 0:
                await asyncio.sleep(wait_ns / 1e9)
            self._wake.clear()
            self._began_ns = time.monotonic_ns()
            await self._commit()

    async def _commit(self) -> None:
        now_ns = self._clock.now_ns()
        pending, samples = self._gather.messages, self._gather.samples
        entries = self._gather.build(self._journal.last_position + 1, now_ns, self._journal.last_engine_ns)
        tokens, self._tokens[0], self._tokens[1] = [self._tokens[0], self._tokens[1]], [], []
        if not len(entries):
            return
        failpoint("gathered")
        outcome = self.engine.step(entries)
        failpoint("stepped")
        transaction = self._transaction(entries, outcome)
        for link in self._links:
            link.resume()
        await self._append(transaction)
        failpoint("appended")
        for link, acknowledged in zip(self._links, tokens, strict=True):
            link.acknowledge(acknowledged)
        failpoint("acknowledged")
        for command in outcome.commands:
            self._outbox.send(command)
        failpoint("published")
        self._after_commit(entries, pending, samples)

    def _transaction(self, entries: Entries, outcome: Outcome) -> Transaction:
        return make_transaction(entries, outcome, self.epoch, admit_of(self.engine).accounting)

    async def _append(self, transaction: Transaction) -> None:
        loop, began = asyncio.get_running_loop(), time.monotonic()
        while True:
            try:
                await loop.run_in_executor(self._io, self._journal.append, transaction)
            except FencedError:
                raise
            except StoreError as error:
                if began + COMMIT_PATIENCE_S < time.monotonic():
                    raise
                log.error("commit failed; retrying, nothing is acknowledged", error=str(error))
                for link in self._links:
                    link.pause()
                await asyncio.sleep(COMMIT_RETRY_S)
                with contextlib.suppress(StoreError):
                    await loop.run_in_executor(self._io, self._journal.reopen)
            else:
                return

    def _after_commit(self, entries: Entries, pending: int, samples: int) -> None:
        del pending, samples
        frames = entries.frames
        if any(isinstance(record, Config) for _, record in entries.records):
            self._gather.directory = Directory(self.engine.plan)
            self._receipts.configure(self.engine.plan)
        self._receipts.note(frames.device[(frames.flags & Flag.HAS_SEQ) != 0])
        self._frames_since_snapshot += len(frames)

    # -- the second hand ---------------------------------------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        lease_at = 0.0
        while not self._stop.is_set():
            now_ns = self._clock.now_ns()
            jump_ns = self._clock.jump_ns()
            if jump_ns:
                log.warning("wall clock jumped", seconds=jump_ns / NS_PER_S)
                self._gather.add(Clock(jump_ns), now_ns)
            self._gather.tick(now_ns)
            self._wake.set()
            for name, payload in self._receipts.due(now_ns, admit_of(self.engine).ledger, self.engine.plan):
                self._links[0].publish(name, payload, qos=0)
            if time.monotonic() >= lease_at:
                lease_at = time.monotonic() + LEASE_S
                self._outbox.lease(list(self.engine.plan.sites), self.epoch)
            await self._snapshot_when_due(now_ns)
            await asyncio.sleep(1.0 - (self._clock.now_ns() % NS_PER_S) / NS_PER_S)

    async def _snapshot_when_due(self, now_ns: int) -> None:
        if self._snapshot_due_ns == 0:
            self._snapshot_due_ns = now_ns + int(SNAPSHOT_S * NS_PER_S)
        if now_ns < self._snapshot_due_ns and self._frames_since_snapshot < SNAPSHOT_FRAMES:
            return
        self._snapshot_due_ns, self._frames_since_snapshot = now_ns + int(SNAPSHOT_S * NS_PER_S), 0
        position = self.engine_position
        state = {"engine": self.engine.snapshot(), "inbox_row": self._inbox_row}
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._side, write_snapshot, self._settings.data_dir / "snapshots", position, state)

    @property
    def engine_position(self) -> int:
        """Position of the last entry the engine's state contains."""
        return self.engine.position

    async def _inbox_forever(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            for row, request in await loop.run_in_executor(self._side, self._inbox.take, self._inbox_row, 100):
                self._inbox_row = row
                self._take_request(request, row)
            await asyncio.sleep(INBOX_POLL_S)

    def _take_request(self, request: Request, row: int) -> None:
        now_ns = self._clock.now_ns()
        body = dict(request.body) | {"inbox_row": row}
        if request.kind == "config":
            config = SiteConfig.model_validate_json(str(body.pop("text")))
            self._gather.add(Request(request.id, request.kind, request.author, body | {"sha256": config.sha256()}), now_ns)
            self._gather.add(Config(config.site, config.sha256(), config.canonical(), request.author), now_ns)
        else:
            self._gather.add(Request(request.id, request.kind, request.author, body), now_ns)
        self._wake.set()

    # -- life --------------------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Until stopped; 0, or 1 when the journal failed for good."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        self._gather.add(Start(self.epoch, build_id()), self._clock.now_ns())
        self._wake.set()
        log.info("core ready", epoch=self.epoch, position=self._journal.last_position)
        (self._settings.data_dir / "run").mkdir(exist_ok=True)
        (self._settings.data_dir / "run" / "core.ready").write_text(str(self.epoch))
        gc.collect()
        gc.freeze()
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._commit_forever(), name="commit"),
                    group.create_task(self._tick_forever(), name="tick"),
                    group.create_task(self._inbox_forever(), name="inbox"),
                    *(group.create_task(link.run(), name="link") for link in self._links),
                ]
                await self._stop.wait()
                for task in tasks[1:]:
                    task.cancel()
                self._wake.set()
        except* (StoreError, FencedError) as errors:
            self.failure = str(errors.exceptions[0])
        finally:
            self._close()
        if self.failure:
            log.error("core stops", reason=self.failure)
            return 1
        return 0

    def _close(self) -> None:
        self._io.shutdown(wait=True)
        self._side.shutdown(wait=True)
        self._journal.close()
        self._inbox.close()


def admit_of(engine: Engine) -> Admit:
    """The admission stage, which holds ledger and accounting."""
    return next(stage for stage in engine.stages if isinstance(stage, Admit))


def make_transaction(entries: Entries, outcome: Outcome, epoch: int, accounting: Accounting) -> Transaction:
    """What the journal writes for one call of `step`."""
    return Transaction(
        first=entries.first,
        count=len(entries),
        epoch=epoch,
        engine_ns=int(entries.time_ns[-1]),
        entries=encode_entries(entries),
        admission=encode_admission(outcome.admission),
        decisions=encode_decisions(outcome.decisions),
        accounting=msgspec.json.encode(accounting),
        rows=len(entries.frames.point),
    )


def recover(data: Path, *, sabotage: frozenset[str] = frozenset()) -> tuple[Engine, int]:
    """The engine as it was after the last journaled transaction, and the last inbox row taken.

    Newest valid snapshot, then the journal's tail. What was journaled stays fact: where new code decides otherwise, that is logged.
    """
    engine, inbox_row, position, differing = build_engine(sabotage=sabotage), 0, -1, 0
    found = newest_snapshot(data / "snapshots", build=build_id())
    if found is not None:
        position, state = found
        engine.restore(state["engine"])
        inbox_row = state["inbox_row"]
    if not (data / "journal").is_dir():
        return engine, inbox_row
    with contextlib.closing(JournalReader(data / "journal")) as reader:
        while transactions := reader.read(position, rows_max=10_000):
            for transaction in transactions:
                outcome = engine.step(transaction.read_entries())
                differing += encode_decisions(outcome.decisions) != transaction.decisions
                for _, record in transaction.read_entries().records:
                    if isinstance(record, Request):
                        inbox_row = max(inbox_row, int(record.body.get("inbox_row", 0)))
                position = transaction.last
    if differing:
        log.warning("this build decides otherwise than the journal says; the journal stays", transactions=differing)
    return engine, inbox_row


async def run_core(settings: Settings) -> int:
    """The `core` process from start to end; the exit code."""
    kernels.warm()
    return await Core(settings).run()
