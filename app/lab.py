"""The lab: a site, its simulated plants and the whole decision path in one process on one virtual clock; a day in seconds.

Everything between a device and its actuator is the product's own: the simulators' device, the wire format, the in-memory link that
passes the real link's contract, `Gather`, `step`, `Transaction`, receipts, outbox, leases. Only three things are replaced: the
clock, the network and the disk. Two runs with equal seed give equal bytes, so the hash of the decision log names a run.

A kill throws the engine away between two journal writes and rebuilds it from the newest snapshot and the journal's tail, through
the files' own formats; the run must not notice. Faults of a file happen to plants, drives, sensors, power and the network.
"""

import contextlib
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app.core import admit_of, make_transaction
from app.faults import load_faults
from app.narrator import ALARM_WORDS, COMMAND_WORDS
from app.site_files import load_site
from app.tables import console, grid, heading, number, slow_progress
from app.wiring import build_engine, build_id
from app.words import say, text_of
from devices.outbox import Outbox, ReceiptOut
from ingest.decode import Directory, Gather
from ingest.link import Delivery
from ingest.memory_link import MemoryBroker, MemoryLink
from ingest.receipt import Receipts
from rules.engine import Engine, Outcome
from simulators.device import Incoming, Options, Outgoing, SimulatedDevice
from simulators.fault import Injection
from simulators.fleet import DEMO, DEMO_START_S, build_devices
from simulators.weather import Scenario
from store.journal import Journal
from store.snapshot import newest_snapshot, write_snapshot
from telemetry import topic
from telemetry.clock import ManualClock
from telemetry.decision import Decision, LogHash, encode_decisions
from telemetry.errors import CallerError
from telemetry.frame import Admission, Entries, Flag, join_derived, slice_entries
from telemetry.plan import NS_PER_S
from telemetry.record import Config, Event, Start
from telemetry.site import SiteConfig
from telemetry.transaction import Transaction

EPOCH: Final = 1
TICK_NS: Final = 10 * NS_PER_S  # the live core's is 1 s; timers are noticed later, with the same content, and a day takes less
LATENCY_NS: Final = 10_000_000  # from a message sent to its answer: a broker and a commit
SNAPSHOT_EVERY: Final = 2_000  # transactions between snapshots; a kill replays at most so many
KILL_PLACES: Final = ("in_step", "before_commit", "after_commit")


class LabDevice:
    """A simulated device on the lab's network. `redeliver`: commands arrive twice, as QoS 1 allows."""

    def __init__(self, device: SimulatedDevice, broker: MemoryBroker, *, redeliver: bool) -> None:
        self.device = device
        self.inbox: list[Incoming] = []
        self._broker = broker
        self._redeliver = redeliver
        filters = device.subscriptions()
        self.link = MemoryLink(broker, client_id=f"{device.site}/{device.name}", filters=filters, on_batch=self._take)

    def connect(self) -> None:
        """Come online: birth."""
        self.link.connect()
        self._send(self.device.connected())

    def look(self) -> None:
        """Lose the link when power or network went, or come back online."""
        if self.device.is_connected and not self.device.wants_link:
            self.link.disconnect("cut")
            self.inbox.clear()
            self._send([self.device.will()])
            self.device.disconnected()
        elif self.device.wants_link and not self.device.is_connected:
            self.connect()

    def _take(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            times = 2 if self._redeliver and delivery.topic.endswith("/command") else 1
            self.inbox += [Incoming(delivery.topic, delivery.payload, delivery.retained, delivery.received_ns)] * times
            self.link.acknowledge([delivery.token])

    def step(self, now_ns: int) -> None:
        """Live until now and send what it has to say."""
        inbox, self.inbox = self.inbox, []
        self._send(self.device.step(now_ns, inbox))
        self.look()

    def _send(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            self._broker.publish(message.topic, message.payload, qos=message.qos, retain=message.retain)


@dataclass(slots=True)
class Extremes:
    """Least, mean and greatest value of every point by number; not finite values are left out."""

    least: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    most: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    count: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def grow(self, points: int) -> None:
        """Room for so many points."""
        more = points - len(self.count)
        self.least = np.concatenate([self.least, np.full(more, np.inf)])
        self.most = np.concatenate([self.most, np.full(more, -np.inf)])
        self.total = np.concatenate([self.total, np.zeros(more)])
        self.count = np.concatenate([self.count, np.zeros(more, np.int64)])

    def add(self, point: NDArray[np.int32], value: NDArray[np.float64]) -> None:
        """Take samples."""
        finite = np.isfinite(value)
        point, value = point[finite], value[finite]
        np.minimum.at(self.least, point, value)
        np.maximum.at(self.most, point, value)
        np.add.at(self.total, point, value)
        np.add.at(self.count, point, 1)


class MemoryJournal:
    """What the lab keeps of a journal: the tail since the newest snapshot, which lies in a temporary directory."""

    def __init__(self, directory: Path | None, record: Journal | None = None) -> None:
        self.tail: list[Transaction] = []
        self._record = record  # None: nobody wants to read it afterwards
        self.last_position = -1
        self.last_ns = 0
        self._directory = directory  # None: nothing will be killed, nothing is kept
        self._forgets = "forget_tail" in os.environ.get("FIELDLOOM_SABOTAGE", "").split(",")

    def append(self, transaction: Transaction) -> None:
        """Keep one transaction."""
        assert transaction.first == self.last_position + 1
        self.last_position, self.last_ns = transaction.last, transaction.engine_ns
        if self._record is not None:
            self._record.append(transaction)
        if self._directory is not None:
            self.tail.append(transaction)

    def close(self) -> None:
        """The record is whole; it may be read at any time."""
        if self._record is not None:
            self._record.close()

    def tend(self, engine: Engine) -> None:
        """Write a snapshot when the tail has become long."""
        if self._directory is not None and len(self.tail) >= SNAPSHOT_EVERY:
            write_snapshot(self._directory, engine.position, {"engine": engine.snapshot()})
            self.tail.clear()

    def recover(self) -> tuple[Engine, int]:
        """A new engine from the newest snapshot and the tail; how many transactions it decided otherwise than journaled."""
        assert self._directory is not None
        engine, differing = build_engine(), 0
        found = newest_snapshot(self._directory)
        if found is not None:
            engine.restore(found[1]["engine"])
        for transaction in self.tail[:-1] if self._forgets else self.tail:
            outcome = engine.step(transaction.read_entries())
            differing += encode_decisions(outcome.decisions) != transaction.decisions
        return engine, differing


class Lab:
    """One run. `kills` engine deaths at random places between journal writes; `kill_directory` is needed for them."""

    def __init__(
        self,
        site: SiteConfig,
        *,
        seed: int = 1,
        hours: float = 24.0,
        sample_s: float = 10.0,
        kills: int = 0,
        kill_directory: Path | None = None,
        redeliver: bool = False,
        scenario: Scenario = DEMO,
        faults: Sequence[Injection] = (),
        record: Path | None = None,
        start_s: float = DEMO_START_S,
    ) -> None:
        if site.origin != "SIMULATED":
            raise CallerError(
                f"site {site.site!r} has origin {site.origin}; the lab moves simulated devices: set origin: SIMULATED"
            )
        assert kills == 0 or kill_directory is not None
        self.site = site
        self.clock = ManualClock(int(start_s * NS_PER_S))
        self.end_ns = self.clock.now_ns() + int(hours * 3600 * NS_PER_S)
        self.engine = build_engine()
        self.journal = MemoryJournal(kill_directory if kills else None, None if record is None else self._recorded(record))
        self.decisions: list[Decision] = []
        self.log_hash = LogHash()
        self.extremes = Extremes()
        self.differing = self.kills_done = 0
        self._random = np.random.default_rng([seed, kills, 0x6B696C6C])  # of kills only: the plants have their own
        steps = hours * 3600 / sample_s
        self._kill_at = sorted(self._random.integers(1, max(2, int(steps)), kills).tolist())
        self._commits = 0
        self._broker = MemoryBroker(self.clock)
        self._gather = Gather(Directory(self.engine.plan))
        self._receipts = Receipts()
        self._tokens: list[tuple[MemoryLink, int]] = []
        self._links = [self._make_link("core", topic.LIVE_FILTERS), self._make_link("core-backfill", topic.BACKFILL_FILTERS)]
        self._outbox = Outbox(self._links[0].publish, self.clock, lambda: self.engine.plan.sites)
        options = Options(boot=1, plant_start_s=start_s, sample_s=sample_s)
        self.devices = [
            LabDevice(device, self._broker, redeliver=redeliver)
            for device in build_devices(site, seed=seed, options=options, scenario=scenario, faults=faults)
        ]
        self._tick_due_ns = self.clock.now_ns()
        self._is_up = True

    def _recorded(self, directory: Path) -> Journal:
        journal = Journal(directory / "journal", clock=self.clock)
        journal.begin(EPOCH)
        return journal

    def _make_link(self, client_id: str, filters: Sequence[str]) -> MemoryLink:
        def take(deliveries: Sequence[Delivery]) -> None:
            for delivery in deliveries:
                self._gather.take(delivery.topic, delivery.payload, delivery.retained, delivery.received_ns)
                self._tokens.append((link, delivery.token))

        link = MemoryLink(self._broker, client_id=client_id, filters=filters, on_batch=take)
        return link

    def run(self) -> None:
        """Until the end of its hours."""
        self.begin()
        while not self.is_over:
            self.advance()

    @property
    def is_over(self) -> bool:
        """Its hours are through."""
        return self.clock.now_ns() >= self.end_ns

    def begin(self) -> None:
        """START, the site's configuration, and everybody online."""
        now_ns = self.clock.now_ns()
        self._gather.add(Start(EPOCH, build_id()), now_ns)
        self._gather.add(Config(self.site.site, self.site.sha256(), self.site.canonical(), "lab"), now_ns)
        self._gather.add(Event("drained"), now_ns)
        self._commit()
        for link in self._links:
            link.connect()
        self._outbox.lease(EPOCH)
        for device in self.devices:
            device.connect()

    def advance(self) -> None:
        """One moment: devices live, what they said is decided and journaled, commands leave."""
        now_ns = self.clock.now_ns()
        for device in self.devices:
            device.step(now_ns)
        came_back = self._look_at_broker(now_ns)
        self._broker.pump()
        if came_back:
            self._gather.add(Event("drained"), now_ns)
        if now_ns >= self._tick_due_ns:
            self._tick(now_ns)
        if self._gather.rows or self._gather.messages or now_ns == self._tick_due_ns - TICK_NS:
            self._commit()
        self._broker.pump()
        self.clock.advance(self._next_ns(now_ns) - now_ns)

    def _look_at_broker(self, now_ns: int) -> bool:
        """The broker is down while every device is cut off: then core is, too. True when it came back."""
        was_up, self._is_up = self._is_up, not all(device.device.place.wire.is_cut for device in self.devices)
        if was_up == self._is_up:
            return False
        for link in self._links:
            if self._is_up:
                link.connect()
            else:
                link.disconnect("broker")
        event = Event("broker_up") if self._is_up else Event("broker_lost", "", {"reason": "fault of the lab"})
        self._gather.add(event, now_ns)
        return self._is_up

    def _tick(self, now_ns: int) -> None:
        self._tick_due_ns = now_ns + TICK_NS
        self._gather.tick(now_ns)
        due = self._receipts.due(now_ns, admit_of(self.engine).ledger, self.engine.plan)
        self._outbox.receipts(ReceiptOut(*receipt) for receipt in due)
        self._outbox.lease(EPOCH)

    def _next_ns(self, now_ns: int) -> int:
        due_ns = min([self._tick_due_ns, *(device.device.next_due_ns() for device in self.devices)])
        if any(device.inbox for device in self.devices):
            due_ns = min(due_ns, now_ns + LATENCY_NS)
        return max(due_ns, now_ns + 1)

    # -- commit and kill ---------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        now_ns = self.clock.now_ns()
        entries = self._gather.build(self.journal.last_position + 1, now_ns, self.journal.last_ns)
        if not len(entries):
            return
        self._commits += 1
        place = ""
        if len(entries.frames) and self._kill_at and self._commits >= self._kill_at[0]:
            del self._kill_at[0]
            place = KILL_PLACES[int(self._random.integers(len(KILL_PLACES)))]
        outcome = self._step(entries, place)
        transaction = make_transaction(entries, outcome, EPOCH, admit_of(self.engine).accounting)
        self.journal.append(transaction)
        if place == "after_commit":
            self._die()
        self._after_commit(entries, outcome, transaction)

    def _step(self, entries: Entries, place: str) -> Outcome:
        cut = int(self._random.integers(len(entries) + 1)) if place in KILL_PLACES[:2] else 0
        if place == "in_step":  # the state goes through a snapshot between two entries
            first = self.engine.step(slice_entries(entries, 0, cut)) if cut else None
            self._through_a_file()
            rest = self.engine.step(slice_entries(entries, cut, len(entries))) if cut < len(entries) else None
            return _join([(start, outcome) for start, outcome in ((0, first), (cut, rest)) if outcome is not None])
        if place == "before_commit":  # what it decided was never journaled; the same entries come again
            if cut:
                self.engine.step(slice_entries(entries, 0, cut))
            self._die()
        return self.engine.step(entries)

    def _die(self) -> None:
        self.kills_done += 1
        self.engine, differing = self.journal.recover()
        self.differing += differing

    def _through_a_file(self) -> None:
        self.kills_done += 1
        with tempfile.TemporaryDirectory() as name:
            write_snapshot(Path(name), max(0, self.engine.position), {"engine": self.engine.snapshot()})
            found = newest_snapshot(Path(name))
        assert found is not None
        self.engine = build_engine()
        self.engine.restore(found[1]["engine"])

    def _after_commit(self, entries: Entries, outcome: Outcome, transaction: Transaction) -> None:
        tokens, self._tokens = self._tokens, []
        for link, token in tokens:
            link.acknowledge([token])
        self._outbox.send(outcome.commands, transaction.engine_ns)
        self.decisions += outcome.decisions
        self.log_hash.add(outcome.decisions)
        frames = entries.frames
        if any(isinstance(record, Config) for _, record in entries.records):
            self._gather.directory = Directory(self.engine.plan)
            self._receipts.configure(self.engine.plan)
            self.extremes.grow(len(self.engine.plan.point_owner))
        self._receipts.note(frames.device[(frames.flags & Flag.HAS_SEQ) != 0])
        self.extremes.add(frames.point, frames.value)
        self.journal.tend(self.engine)


def _join(parts: Sequence[tuple[int, Outcome]]) -> Outcome:
    starts, outcomes = zip(*parts, strict=True)
    admission = Admission(
        np.concatenate([o.admission.verdict for o in outcomes]),
        np.concatenate([o.admission.quality for o in outcomes]),
        join_derived([o.admission.derived for o in outcomes], starts),
    )
    return Outcome(admission, [d for o in outcomes for d in o.decisions], [c for o in outcomes for c in o.commands])


# -- the command ---------------------------------------------------------------------------------------------------------------


def run_lab(
    site: Path,
    *,
    hours: float,
    seed: int,
    sample_s: float = 10.0,
    kills: int = 0,
    faults: Path | None = None,
    record: Path | None = None,
) -> int:
    """`fieldloom lab`: run, and print what happened and the hash of the decision log. 1 when a kill changed a decision."""
    config = load_site(site)
    planned = [] if faults is None else load_faults(faults, config, DEMO_START_S)
    if record is not None and record.exists():
        raise CallerError(f"{record} exists; name a new directory for the record of this run")
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory())) if kills else None
        lab = Lab(
            config, seed=seed, hours=hours, sample_s=sample_s, kills=kills, kill_directory=directory, faults=planned, record=record
        )
        began = time.monotonic()
        _run_with_bar(lab)
        lab.journal.close()
        took_s = time.monotonic() - began
    screen = console()
    for part in summary(lab):
        screen.print(part)
    accounting = admit_of(lab.engine).accounting
    text = say(
        "{hours:g} h in {took:.1f} s: {entries:,} journal entries, {stored:,} samples stored, {rejected:,} rejected, {kills} kills",
        hours=hours, took=took_s, entries=lab.journal.last_position + 1, stored=accounting.samples_stored,
        rejected=accounting.samples_rejected, kills=lab.kills_done,
    )  # fmt: skip
    screen.print(text)
    if record is not None:
        screen.print(say("Recorded; read it with FIELDLOOM_DATA_DIR={record} fieldloom decisions", record=record))
    if lab.differing:
        screen.print(f"[red]{say('{count} transactions were decided otherwise after a kill', count=lab.differing)}[/]")
    print(f"{lab.log_hash.count} decisions sha256 {lab.log_hash.hexdigest()}")
    return 1 if lab.differing else 0


def _run_with_bar(lab: Lab) -> None:
    start_ns = lab.clock.now_ns()
    with slow_progress("lab", int((lab.end_ns - start_ns) // NS_PER_S)) as advance:
        lab.begin()
        while not lab.is_over:
            lab.advance()
            advance(int((lab.clock.now_ns() - start_ns) // NS_PER_S))


def summary(lab: Lab) -> list[Any]:
    """Tables for a person: measured extremes, alarms, commands."""
    plan, extremes = lab.engine.plan, lab.extremes
    values = grid(say("point"), say("least"), say("mean"), say("greatest"))
    values.add_column(say("unit"))
    values.add_column("")
    for device in plan.devices:
        feedback = {actuator.feedback for actuator in device.profile.actuators}
        for spec, point in zip(device.profile.points, device.points, strict=True):
            is_shown = spec.band is not None or spec.name.endswith("temp_c") or spec.name in feedback
            if is_shown and extremes.count[point]:
                mean = extremes.total[point] / extremes.count[point]
                row = (extremes.least[point], mean, extremes.most[point])
                numbers = (number(float(x), spec.decimals) for x in row)
                values.add_row(f"{device.name}/{spec.name}", *numbers, spec.unit, text_of(spec.label.model_dump()))
    return [
        heading(f"{lab.site.site}: {say('measured')}"), values, "",
        *_counted(lab, "alarm", say("alarms"), "event", ALARM_WORDS),
        *_counted(lab, "command", say("commands"), "state", COMMAND_WORDS),
    ]  # fmt: skip


def _counted(lab: Lab, kind: str, title: str, key: str, words: dict[str, str]) -> list[Any]:
    """How often each subject came into each state; the states in the order of `words`."""
    counts = Counter((d.subject, str(d.body[key])) for d in lab.decisions if d.kind == kind)
    subjects, states = sorted({subject for subject, _ in counts}), {state for _, state in counts}
    if not subjects:
        return [heading(f"{lab.site.site}: {title}"), say("none"), ""]
    columns = [state for state in words if state in states] + sorted(states - set(words))
    table = grid("", *(say(words.get(state, state)) for state in columns))
    for subject in subjects:
        table.add_row(subject.replace(f"{lab.site.site}/", "", 1), *(f"{counts[subject, state]:,}" for state in columns))
    return [heading(f"{lab.site.site}: {title}"), table, ""]
