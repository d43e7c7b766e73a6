"""The `core` process: MQTT session, `step`, the journal (only writer), outbox. Sample in to command out is its whole job.

One transaction carries entries, decisions and commands; only when it is durable are messages acknowledged, receipts sent and
commands published. While a commit fails nothing new is taken or acknowledged: the same bytes are tried on a reopened file, and
after 30 s the process ends with the reason.
"""

import asyncio
import base64
import binascii
import contextlib
import ctypes
import functools
import gc
import hashlib
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog
from pydantic import ValidationError

from app.failpoint import failpoint
from app.programs import Programs
from app.recovery import recover
from app.settings import Settings
from app.wiring import build_id
from devices.outbox import Outbox, ReceiptOut
from ingest.admit import Admit
from ingest.decode import Directory, Gather
from ingest.link import Delivery
from ingest.mqtt import MqttLink
from ingest.receipt import Receipts
from rules import warm_start
from rules.engine import Engine, Outcome
from store.inbox import Inbox
from store.journal import Journal
from store.place import check_place
from store.retention import list_facts, plan_trim
from store.snapshot import draft_snapshot, publish_snapshot, remove_drafts
from telemetry import topic
from telemetry.clock import EngineClock
from telemetry.decision import encode_decisions
from telemetry.errors import CorruptError, EnvironmentFault, FencedError, LinkError, StoreError
from telemetry.frame import Entries, Flag
from telemetry.plan import NS_PER_S
from telemetry.record import Clock, Config, Event, Request, Start
from telemetry.site import parse_site
from telemetry.transaction import Accounting, Transaction
from telemetry.wire.columns import encode_admission, encode_entries

log = structlog.get_logger()

COMMIT_PATIENCE_S: Final = 30.0
COMMIT_RETRY_S: Final = 0.5
INBOX_POLL_S: Final = 0.1
SNAPSHOT_S: Final = 30.0
SNAPSHOT_FRAMES: Final = 500_000
TRIM_S: Final = 60.0
STANDSTILL_NS: Final = 3 * NS_PER_S  # so long without a tick, and what waited for us in the sockets is the past, not the present
FOLLOWERS: Final = ("web", "notify")
M_ARENA_MAX: Final = -8  # of glibc's malloc.h
MADV_DONTNEED: Final = 4  # of Linux' mman.h
DRAIN_TOPIC: Final = "fl-core"  # the core's own namespace: a marker that returns proves that all before it was delivered


class Core:
    """State of the running process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        data = settings.data_dir
        check_place(data, free_bytes_min=settings.disk_free_mb << 20)
        self._clock = EngineClock(time.time_ns, time.monotonic_ns)
        self._journal = Journal(data / "journal", clock=self._clock)
        remove_drafts(data / "snapshots")
        self.engine, self._inbox_row, self._upgrade = recover(data, sabotage=settings.sabotage)
        self._clock = EngineClock(time.time_ns, time.monotonic_ns, self._journal.last_engine_ns)
        self.epoch = max(self._journal.last_epoch + 1, time.time_ns() // NS_PER_S)
        self._journal.begin(self.epoch)
        self._in_force: dict[str, str] = {}  # hash of the newest configuration taken, by site: it may not be journaled yet
        self._inbox_done = self._inbox_row  # journaled; `_inbox_row` counts what is gathered
        self._inbox = Inbox.open_reader(data / "inbox.sqlite")
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
        self._snapshot_due_ns = self._trim_due_ns = self._alive_ns = self._clock.now_ns()
        self._marker = b""
        self._links = [self._make_link(live=True), self._make_link(live=False)]
        self._programs = Programs(self._links[0].publish, lambda: self.engine.plan)
        self._is_sighted = False  # what the broker had kept for us is read
        self._outbox = Outbox(self._links[0].publish, self._clock, lambda: self.engine.plan.sites)

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
            filters=(*topic.LIVE_FILTERS, topic.REQUEST_FILTER, marker) if live else topic.BACKFILL_FILTERS,
            receive_max=s.receive_window if live else 100,
            keepalive_s=s.mqtt_keepalive_s,
            clock=self._clock,
            rng=random.Random(),  # jitter only
            on_batch=lambda deliveries: self._on_batch(index, deliveries),
            on_up=self._on_up if live else lambda: None,
            on_down=self._on_down if live else lambda _reason: None,
        )

    # -- from the links ----------------------------------------------------------------------------------------------------

    def _on_batch(self, index: int, deliveries: Sequence[Delivery]) -> None:
        failpoint("received")
        self._note_alive()
        take, tokens = self._gather.take, self._tokens[index]
        for name, payload, retained, received_ns, token in deliveries:
            if name.startswith(DRAIN_TOPIC):
                if payload == self._marker:
                    self._gather.add(Event("drained"), received_ns)
                    self._is_sighted = True
            elif topic.is_request(name):
                asked = self._programs.take(name, payload, retained=retained, is_sighted=self._is_sighted)
                if asked is not None:
                    self._gather.add(asked, received_ns)
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
        self._ask_drained()
        self._wake.set()

    def _ask_drained(self) -> None:
        self._is_sighted = False
        self._marker = os.urandom(8).hex().encode()
        self._links[0].publish(f"{DRAIN_TOPIC}/{self._settings.mqtt_client_id}/drained", self._marker, qos=1)

    def _note_alive(self) -> None:
        """Find out that this process stood still: it was as blind as without a broker, until the backlog is drained."""
        now_ns = self._clock.now_ns()
        stood_ns, self._alive_ns = now_ns - self._alive_ns, now_ns
        if stood_ns > STANDSTILL_NS:
            log.warning("core stood still", seconds=round(stood_ns / NS_PER_S, 1))
            reason = f"core stood still for {stood_ns / NS_PER_S:.1f} s"
            self._gather.add(Event("broker_lost", "", {"reason": reason}), now_ns)
            self._ask_drained()

    def _on_down(self, reason: str) -> None:
        log.warning("broker lost", reason=reason)
        self._is_sighted = False
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
        entries = self._gather.build(self._journal.last_position + 1, now_ns, self._journal.last_engine_ns)
        tokens, self._tokens[0], self._tokens[1] = [self._tokens[0], self._tokens[1]], [], []
        if not len(entries):  # a marker of an earlier connection: nothing to commit, but the broker must forget it
            self._acknowledge(tokens)
            return
        failpoint("gathered")
        with without_collection() if has_config(entries) else contextlib.nullcontext():
            outcome = self.engine.step(entries)
        failpoint("stepped")
        transaction = make_transaction(entries, outcome, self.epoch, admit_of(self.engine).accounting)
        for link in self._links:
            link.resume()
        await self._append(transaction)
        failpoint("appended")
        self._acknowledge(tokens)
        failpoint("acknowledged")
        if outcome.commands:
            failpoint("sending")
        self._outbox.send(outcome.commands, transaction.engine_ns)
        self._programs.answer(outcome.decisions)
        failpoint("published")
        self._after_commit(entries)
        await self._snapshot_when_due()

    def _acknowledge(self, tokens: Sequence[Sequence[int]]) -> None:
        for link, mine in zip(self._links, tokens, strict=True):
            link.acknowledge(mine)

    async def _append(self, transaction: Transaction) -> None:
        loop, began = asyncio.get_running_loop(), time.monotonic()
        while True:
            try:
                await loop.run_in_executor(self._io, self._journal.append, transaction)
            except CorruptError:
                raise
            except StoreError as error:
                if began + COMMIT_PATIENCE_S < time.monotonic():
                    raise
                log.error("commit failed, nothing is acknowledged until it succeeds", error=str(error))
                for link in self._links:
                    link.pause()
                await asyncio.sleep(COMMIT_RETRY_S)
                with contextlib.suppress(StoreError):
                    await loop.run_in_executor(self._io, self._journal.reopen)
            else:
                return

    def _after_commit(self, entries: Entries) -> None:
        frames = entries.frames
        if has_config(entries):
            self._gather.directory = Directory(self.engine.plan)
            self._receipts.configure(self.engine.plan)
            give_back_memory()
        rows = [int(record.body.get("inbox_row", 0)) for _, record in entries.records if isinstance(record, Request)]
        self._inbox_done = max([self._inbox_done, *rows])
        self._receipts.note(frames.device[(frames.flags & Flag.HAS_SEQ) != 0])
        self._frames_since_snapshot += len(frames)

    # -- the second hand ---------------------------------------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        self._alive_ns = self._clock.now_ns()
        while not self._stop.is_set():
            self._note_alive()
            now_ns = self._clock.now_ns()
            jump_ns = self._clock.jump_ns()
            if jump_ns:
                log.warning("wall clock jumped", seconds=jump_ns / NS_PER_S)
                self._gather.add(Clock(jump_ns), now_ns)
            self._gather.tick(now_ns)
            self._wake.set()
            due = self._receipts.due(now_ns, admit_of(self.engine).ledger, self.engine.plan)
            self._outbox.receipts(ReceiptOut(*receipt) for receipt in due)
            self._outbox.lease(self.epoch)
            await self._trim_when_due(now_ns)
            await asyncio.sleep(1.0 - (self._clock.now_ns() % NS_PER_S) / NS_PER_S)

    async def _snapshot_when_due(self) -> None:
        """Between two commits, when state and journal agree: written from the live arrays, synced and renamed on the side."""
        now_ns = self._clock.now_ns()
        if now_ns - self._snapshot_due_ns < SNAPSHOT_S * NS_PER_S and self._frames_since_snapshot < SNAPSHOT_FRAMES:
            return
        self._snapshot_due_ns, self._frames_since_snapshot = now_ns, 0
        state = {"engine": self.engine.state(), "inbox_row": self._inbox_done}
        directory, loop = self._settings.data_dir / "snapshots", asyncio.get_running_loop()
        try:
            draft = await loop.run_in_executor(self._io, draft_snapshot, directory, self.engine.position, state)
        except StoreError as error:
            _tell_unwritten(error)
        else:
            loop.run_in_executor(self._side, publish_snapshot, draft).add_done_callback(_report_snapshot)

    async def _trim_when_due(self, now_ns: int) -> None:
        """Unlink journal segments that every follower and the older snapshot are done with, or that the disk can no longer hold."""
        if now_ns - self._trim_due_ns < TRIM_S * NS_PER_S:
            return
        self._trim_due_ns = now_ns
        data, settings = self._settings.data_dir, self._settings
        kept = sorted(int(path.stem) for path in (data / "snapshots").glob("*.snap"))
        if not kept:
            return
        disk = shutil.disk_usage(data)
        plan = plan_trim(
            list_facts(data / "journal"), slowest=slowest_follower(data), needed=kept[0], now_ns=time.time_ns(),
            free_bytes=disk.free, disk_bytes=disk.total, keep_s=settings.journal_days * 86_400,
            keep_bytes=int(settings.journal_gb * 1e9), free_min=settings.disk_free_pct / 100,
        )  # fmt: skip
        trim: Any = functools.partial(self._journal.trim, before=plan.before)
        if plan.before and await asyncio.get_running_loop().run_in_executor(self._io, trim):
            log.info("journal trimmed", before=plan.before, cut_off=plan.is_cutting_off)
            if plan.is_cutting_off:
                self._gather.add(Event("follower_cut_off", "", {"before": plan.before}), now_ns)

    async def _aside(self, function: Any, *arguments: Any) -> Any:
        """Blocking work beside the journal's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._side, function, *arguments)

    async def _inbox_forever(self) -> None:
        failure = ""
        while not self._stop.is_set():
            try:
                found = await self._aside(self._inbox.take, self._inbox_row, 100)
            except CorruptError:
                raise
            except StoreError as error:  # busy, or a full disk: requests wait, control goes on
                if str(error) != failure:
                    log.warning("inbox cannot be read now", error=str(error))
                failure, found = str(error), []
            else:
                failure = ""
            for row, request in found:
                self._inbox_row = row
                await self._take_request(request, row)
            await asyncio.sleep(INBOX_POLL_S)

    async def _take_request(self, request: Request, row: int) -> None:
        body = dict(request.body) | {"inbox_row": row}
        if request.kind == "config":
            await self._take_config(request, body)
        else:
            self._gather.add(Request(request.id, request.kind, request.author, body), self._clock.now_ns())
        self._wake.set()

    async def _take_config(self, request: Request, body: dict[str, Any]) -> None:
        """A configuration that does not hold, however it came into the inbox, or whose base is not the one in force any more, is journaled
        as refused and changes nothing. It is checked beside the loop: one of 10,000 devices takes a while."""
        text, packed, problem = str(body.pop("text", "")), str(body.pop("warm", "")), ""
        try:
            checked = await self._aside(check_config, text, packed)
        except ValidationError as error:
            problem = f"{error.error_count()} mistakes, the first: {error.errors(include_url=False, include_input=False)[0]['msg']}"
        except (binascii.Error, CorruptError) as error:
            problem = str(error)
        else:
            problem = await self._stale(checked.site, body)
        now_ns = self._clock.now_ns()
        if problem:
            log.error("configuration refused", request=request.id, problem=problem)
            self._gather.add(Request(request.id, request.kind, request.author, body | {"refused": problem[:500]}), now_ns)
            return
        self._in_force[checked.site] = checked.sha256
        self._gather.add(Request(request.id, request.kind, request.author, body | {"sha256": checked.sha256}), now_ns)
        self._gather.add(
            msgspec.structs.replace(checked, author=request.author, comment=str(body.get("comment", ""))[:2000]), now_ns
        )

    async def _stale(self, site: str, body: dict[str, Any]) -> str:
        """Why a change of the configuration `base` is too late; "" when it is not, or names no base."""
        if "base" not in body:
            return ""
        known = self.engine.plan.sites.get(site)
        if site not in self._in_force and known is not None:
            self._in_force[site] = await self._aside(known.sha256)
        now = self._in_force.get(site, "")
        return (
            "" if body["base"] == now else "somebody else changed the configuration meanwhile; read it again and repeat the change"
        )

    # -- life --------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises StoreError when the journal failed for good, FencedError when a newer core took over, and
        LinkError when one of its tasks is no more: half a core, deaf or without a clock, must not look like a whole one."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end)
        self._gather.add(Start(self.epoch, build_id()), self._clock.now_ns())
        if self._upgrade is not None:
            self._gather.add(self._upgrade, self._clock.now_ns())
        self._wake.set()
        gc.collect()
        gc.freeze()
        give_back_memory()
        try:
            async with asyncio.TaskGroup() as group:
                commit = group.create_task(self._commit_forever(), name="commit")
                others = [
                    group.create_task(self._tick_forever(), name="tick"),
                    group.create_task(self._inbox_forever(), name="inbox"),
                    *(group.create_task(self._listen(link), name="link") for link in self._links),
                ]
                stop = group.create_task(self._stop.wait(), name="stop")
                log.info("core ready", epoch=self.epoch, position=self._journal.last_position)
                ended, _ = await asyncio.wait((stop, commit, *others), return_when=asyncio.FIRST_COMPLETED)
                if not self._stop.is_set() and "deaf_core" not in self._settings.sabotage:
                    names = ", ".join(sorted(task.get_name() for task in ended))
                    raise LinkError(f"a task of core ended by itself: {names}")
                await stop
                for task in others:
                    task.cancel()
                await commit
        finally:
            self._close()

    async def _listen(self, link: MqttLink) -> None:
        """A link until it is cancelled. Raises LinkError with the reason when it fails: only our own mistakes make it."""
        try:
            await link.run()
        except Exception as error:
            if "deaf_core" not in self._settings.sabotage:
                raise LinkError(f"the MQTT task failed: {error!r}") from error

    def _end(self) -> None:
        self._stop.set()
        self._wake.set()

    def _close(self) -> None:
        self._io.shutdown(wait=True)
        self._side.shutdown(wait=True)
        self._journal.close()
        self._inbox.close()


def _report_snapshot(done: asyncio.Future[Path]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        _tell_unwritten(error)


def _tell_unwritten(error: BaseException) -> None:
    """A snapshot that cannot be written costs time at the next start, not data: control goes on."""
    log.error("snapshot not written", error=str(error))


def check_config(text: str, packed: str) -> Config:
    """The entry of a configuration whose form holds, and of its windows' memory in base64. Raises ValidationError, binascii.Error or
    CorruptError. What `step` reads a moment later is known from here on."""
    with without_collection():
        config = parse_site(text)
        if warm := base64.b64decode(packed, validate=True):
            warm_start.decode(warm)
        canonical = config.canonical()
        if canonical != text:
            parse_site(canonical)
    return Config(config.site, hashlib.sha256(canonical.encode()).hexdigest(), canonical, warm=warm)


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """What is made inside is taken for long-lived: a collection of garbage that looks through 10,000 new devices holds every thread for
    100 ms. What is held by nobody goes at once as ever."""
    gc.collect()  # looks at little: all that was there before is set aside
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def keep_one_heap() -> None:
    """One malloc arena for all threads: the journal's thread would keep some 15 MB of its own for buffers of a few ms."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def give_back_memory() -> None:
    """Return to the system what loading a configuration left behind: tens of MB of heap at 10,000 devices, which glibc would keep,
    and the code of LLVM, 60 MB that are not looked at again once the kernels are loaded (they would be read again from the file)."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.malloc_trim(0)
        for line in Path("/proc/self/maps").read_text().splitlines():
            if " r-xp " in line and "libllvmlite" in line:  # code only: never written to, so there is nothing to lose
                start, end = (int(address, 16) for address in line.split(" ", 1)[0].split("-"))
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED)


def has_config(entries: Entries) -> bool:
    """Whether a configuration is among them."""
    return any(isinstance(record, Config) for _, record in entries.records)


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


def slowest_follower(data: Path) -> int:
    """The last position that every follower says it has; -1 when one has not said."""
    positions = [data / "run" / f"{name}.position" for name in FOLLOWERS]
    return min(int(path.read_text()) if path.exists() else -1 for path in positions)


async def run_core(settings: Settings) -> int:
    """The `core` process from start to end. Raises CorruptError (damaged files), StoreError or FencedError with the reason."""
    keep_one_heap()
    reason: EnvironmentFault | None = None
    try:
        await Core(settings).run()
    except* CorruptError as errors:
        reason = first_of(errors)
    except* (StoreError, FencedError) as errors:
        reason = reason or first_of(errors)
    except* LinkError as errors:
        reason = reason or first_of(errors)
        log.error(
            "core stops", reason=str(reason), exc_info=reason.__cause__
        )  # what ended the link is a defect of ours: with its place
    if reason is not None:
        raise reason  # out of its group: the command line has one sentence for it, and the exit code
    return 0


def first_of(errors: BaseExceptionGroup[EnvironmentFault]) -> EnvironmentFault:
    """One error of a group that may hold groups."""
    found = errors.exceptions[0]
    return first_of(found) if isinstance(found, BaseExceptionGroup) else found
