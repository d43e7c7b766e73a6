"""Journal transactions as history rows: `project` is the pure function, `Projector` the follower that writes each exactly once.

Samples keep the point numbers the core gave; names come from CONFIG entries, applied in journal order, so both sides number
alike. Duplicates are not stored. A member array becomes five summary series and one row of changed members. Beside the rows goes
the order in which all came (`store.order`).
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from store.history import AppendResult, History, MemberRow, Order, RecordRow, SampleRows, Series, join_rows, make_rows, no_rows
from store.journal_reader import Gap
from store.members import SUMMARIES, ArraySample, MemberTracker, raw_number, summarise, summary_number
from store.order import encode_order
from telemetry.calibration import Calibrator
from telemetry.decision import Decision, body_text, in_order
from telemetry.errors import CorruptError
from telemetry.frame import Admission, Derived, Entries, Frames, Verdict, join_entries
from telemetry.plan import Device, Plan
from telemetry.quality import BAD, GOOD, NOT_A_NUMBER, REPEATED, UNCERTAIN
from telemetry.record import Ack, Clock, Config, Event, Record, Request, Start
from telemetry.site import parse_site
from telemetry.transaction import Transaction

NS_PER_MS: Final = 1_000_000
OF_AREAS: Final = frozenset({"area", "flood"})  # kinds of decisions about "site/area", which is no device
REJECT_BODY_MAX: Final = 4096  # characters of a rejected payload's record; the rest is cut, and said so
ROWS_MAX: Final = 10_000  # DuckDB appends 10k batches 7 times faster than 1k batches
DAY_MS: Final = 86_400_000
SETTLED_MS: Final = 6 * 3_600_000  # a day is sorted once most of its late rows are there
TEND_S, TEND_MORE_S = 300.0, 5.0  # between steps of housekeeping, and while there is more to do
_DUPLICATE = int(Verdict.DUPLICATE)  # numpy is slow with enums
WAIT_S: Final = 1.0  # how long a row waits for company
_SABOTAGE: Final = os.environ.get("FIELDLOOM_SABOTAGE", "")


class Projection(NamedTuple):
    """What a transaction adds to history, in journal order.

    The first rows are those of the entries' samples that are `kept` (m,); where `as_sent` (m,) they hold what the device sent.
    """

    rows: SampleRows
    series: list[Series]
    records: list[RecordRow]
    arrays: list[ArraySample]
    entries: Entries
    kept: NDArray[np.bool_]
    as_sent: NDArray[np.bool_]


def project(transaction: Transaction, plan: Plan) -> Projection:
    """Rows, new series and records of one transaction; applies its CONFIG entries to `plan`."""
    entries, admission, series = transaction.read_entries(), transaction.read_admission(), list[Series]()
    calibrator = Calibrator(entries.frames)
    for index, record in entries.records:
        if isinstance(record, Config):
            calibrator.until(index, plan)
            series += _configure(plan, record)
    calibrator.until(len(entries), plan)
    arrays, summaries = _project_arrays(entries.frames, admission)
    kept = _kept(entries.frames, admission)
    samples = _project_samples(calibrator, entries.frames, admission, kept)
    rows = join_rows([*samples, _project_derived(admission.derived), *summaries])
    as_sent = ~calibrator.corrected if len(calibrator.corrected) else np.ones_like(kept)
    return Projection(rows, series, record_rows(entries, transaction.read_decisions(), plan), arrays, entries, kept, as_sent)


def record_rows(entries: Entries, decisions: list[Decision], plan: Plan) -> list[RecordRow]:
    """Records and decisions of a transaction whose CONFIG entries `plan` has taken already, by position."""
    records = [_record_row(entries, index, record, plan) for index, record in entries.records]
    records += [_decision_row(decision, plan) for decision in in_order(decisions)]
    return sorted(records, key=lambda row: row.position)  # stable: an entry before what was decided on it


def _kept(frames: Frames, admission: Admission) -> NDArray[np.bool_]:
    """(m,) samples of every frame that is not a duplicate, without those admission saw before."""
    is_new = np.repeat(admission.verdict != _DUPLICATE, np.diff(frames.offsets))
    kept: NDArray[np.bool_] = is_new & ((admission.quality & REPEATED) == 0)
    return kept


def _project_samples(calibrator: Calibrator, raw: Frames, admission: Admission, kept: NDArray[np.bool_]) -> list[SampleRows]:
    """The samples to be kept; of calibrated ones also what was sent."""
    frames, sizes = calibrator.frames, np.diff(raw.offsets)
    ts_ms = np.repeat(frames.ts_ns // NS_PER_MS, sizes)
    rows = [SampleRows(frames.point[kept], ts_ms[kept], frames.value[kept], admission.quality[kept])]
    if len(calibrator.corrected):
        also = kept & calibrator.corrected
        rows.append(SampleRows(raw_number(raw.point[also]), ts_ms[also], raw.value[also], raw.quality[also]))
    return rows


def _project_derived(derived: Derived) -> SampleRows:
    """What virtual points said."""
    return make_rows(derived.point, derived.ts_ns // NS_PER_MS, derived.value, derived.quality)


def _project_arrays(frames: Frames, admission: Admission) -> tuple[list[ArraySample], list[SampleRows]]:
    arrays, summaries = [], []
    for array in frames.arrays:
        if admission.verdict[array.frame] == _DUPLICATE:
            continue
        ts_ms = int(frames.ts_ns[array.frame]) // NS_PER_MS
        arrays.append(ArraySample(array.point, ts_ms, array.values))
        summary = summarise(array.values)
        quality = GOOD if summary[0] == len(array.values) else NOT_A_NUMBER | (UNCERTAIN if summary[0] else BAD)
        numbers = [summary_number(array.point, k) for k in range(len(SUMMARIES))]
        summaries.append(make_rows(numbers, ts_ms, summary, quality))
    return arrays, summaries


def _configure(plan: Plan, config: Config) -> list[Series]:
    plan.apply(parse_site(config.text))
    return [
        row
        for device in plan.devices
        if device.site == config.site and device.number in plan.active
        for row in _series(device, plan)
    ]


def _series(device: Device, plan: Plan) -> list[Series]:
    """A device's points, the summaries of those that are member arrays, and what is sent of those that are calibrated."""
    rows = []
    for spec, number in zip(device.profile.points, device.points, strict=True):
        rows.append(Series(number, device.site, device.name, spec.name, spec.unit))
        if plan.calibrations is not None and plan.calibrations.row[number] >= 0:
            rows.append(Series(raw_number(number), device.site, device.name, f"{spec.name}.raw", spec.unit))
        if spec.members is not None:
            rows += [
                Series(
                    summary_number(number, k), device.site, device.name, f"{spec.name}.{name}", "" if name == "count" else spec.unit
                )
                for k, name in enumerate(SUMMARIES)
            ]
    return rows


def place_of(subject: str, plan: Plan) -> tuple[str, str]:
    """Site and device that "RULE@site/device", "site/device/actuator", "site/device" or "site" is about; "" where it has none."""
    parts = subject.rsplit("@", 1)[-1].split("/")
    if parts[0] not in plan.sites:
        return "", ""
    return parts[0], parts[1] if len(parts) > 1 else ""


def _decision_row(decision: Decision, plan: Plan) -> RecordRow:
    site, device = ("", "") if decision.kind == "answer" else place_of(decision.subject, plan)
    if decision.kind in OF_AREAS:
        device = ""
    d = decision
    time_ns = d.time_ns // NS_PER_MS * NS_PER_MS if _SABOTAGE == "history_rounds_decisions" else d.time_ns
    return RecordRow(d.position, time_ns, d.kind, site, device, d.subject, body_text(d), d.phase, d.stage)


def _record_row(entries: Entries, index: int, record: Record, plan: Plan) -> RecordRow:
    kind, subject, about, body = _describe(record)
    site, device = place_of(about, plan)
    return RecordRow(entries.first + index, int(entries.time_ns[index]), kind, site, device, subject, body)


def _describe(record: Record) -> tuple[str, str, str, str]:
    """(kind, subject, what names the place, body) of a journal record."""
    match record:
        case Event(name, device, body):
            text = _json(body)
            return "event", name, device, text if name != "reject" else _bounded(text)
        case Ack(device, command, status, reason):
            return "ack", command, device, _json({"status": status, "reason": reason})
        case Request(request_id, kind, author, body):
            about = str(body.get("alarm") or body.get("actuator") or str(body.get("area") or "").partition("/")[0])
            return "request", request_id, about, _json({"kind": kind, "author": author, "body": body})
        case Config(site, sha256, text, author, _, comment):
            said = {"comment": comment} if comment else {}
            return "config", sha256, site, _json({"author": author, **said, "config": msgspec.Raw(text.encode())})
        case Clock(jump_ns):
            return "clock", "", "", _json({"jump_ns": jump_ns})
        case Start(epoch, version):
            return "start", str(epoch), "", _json({"epoch": epoch, "version": version})


def _json(body: Any) -> str:
    return msgspec.json.encode(body).decode()


def _bounded(text: str) -> str:
    if len(text) <= REJECT_BODY_MAX:
        return text
    return _json({"cut": True, "length": len(text), "begin": text[:REJECT_BODY_MAX]})


def knows_numbers(plan: Plan, entries: Entries) -> bool:
    """True when every sample's point belongs to its frame's device in `plan`, or the plan is about to be told."""
    if any(isinstance(record, Config) for _, record in entries.records):
        return True
    owner, frames = plan.columns.device, entries.frames
    if not len(frames.point):
        return True
    if int(frames.point.max()) >= len(owner):
        return False
    return bool((owner[frames.point] == np.repeat(frames.device, np.diff(frames.offsets))).all())


def encode_plan(plan: Plan) -> bytes:
    """`Plan.snapshot` as JSON."""
    return msgspec.json.encode(plan.snapshot())


def decode_plan(data: bytes) -> Plan:
    """The plan with every number as it was; points and devices that left the configuration keep theirs. CorruptError."""
    try:
        return Plan.from_snapshot(msgspec.json.decode(data))
    except (msgspec.DecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"the plan saved with the history cannot be read: {error}") from error


def _order(parts: Sequence[Projection]) -> Order:
    """The order of the parts' entries; their rows are given to the store one part after another."""
    entries = join_entries([part.entries for part in parts])
    told = {row.position: row for part in parts for row in part.records if row.phase is None}

    def encode(written: NDArray[np.bool_]) -> bytes:
        is_stored = np.zeros(len(entries.frames.point), np.bool_)
        row = sample = 0
        for part in parts:
            samples = is_stored[sample : sample + len(part.kept)]
            samples[part.kept] = written[row : row + int(part.kept.sum())]
            samples &= part.as_sent
            row, sample = row + len(part.rows), sample + len(part.kept)
        return encode_order(entries, is_stored, told)

    return Order(entries.first, int(entries.time_ns[-1]), encode)


class JournalSource(Protocol):
    """What the projector reads: `store.journal.JournalReader`."""

    def read(self, after: int, *, rows_max: int = 1000) -> list[Transaction]:
        """Transactions after a position, oldest first."""
        ...


class Projector:
    """Follows a journal into a history, each transaction exactly once.

    Rows wait at most `wait_s` or until there are `rows_max`. What is not yet written is only in memory; after a crash it is
    read again, because position and plan are the history's own. When an append fails, nothing more is read until it succeeds.
    """

    def __init__(
        self,
        history: History,
        *,
        now_s: Callable[[], float],  # Unix seconds
        rows_max: int = ROWS_MAX,
        wait_s: float = WAIT_S,
        newest_plan: Callable[[], Plan | None] = lambda: None,
        keep_ms: int | None = None,
    ) -> None:
        """`newest_plan`: the plan of the core's newest snapshot, for when the journal was trimmed before it was read.

        `keep_ms`: samples older than that are forgotten by whole days; None keeps them for ever. Records are always kept.
        """
        self._history = history
        self._now_s = now_s
        self._rows_max = rows_max
        self._wait_s = wait_s
        self._newest_plan = newest_plan
        self._keep_ms = keep_ms
        self._deleted_before_ms = 0
        self._tend_due_s = now_s() + TEND_MORE_S
        self._waiting: list[Projection] = []
        self.rows_waiting = 0  # samples and records taken and not yet written
        self._since_s = 0.0
        self._plan_changed = False
        self._has_failed = False
        self._is_doubtful = False  # entries were missed, with them perhaps a CONFIG that gave numbers
        self._tracker = MemberTracker(history.member_state)
        self._members: list[MemberRow] = []
        saved = history.saved_plan()
        self.plan = Plan() if saved is None else decode_plan(saved)
        self.position = history.position()  # of the last transaction taken, written or waiting

    def follow(self, journal: JournalSource) -> int:
        """One round: write if that is due, then take what is new. Returns how many transactions were taken; 0: come back later.

        Raises StoreError of either side; the next round goes on where this one stopped.
        """
        if self.is_due():
            self.flush()
        try:
            transactions = journal.read(self.position)
        except Gap as gap:
            self.skip(gap)
            transactions = journal.read(self.position)
        for transaction in transactions:
            self.take(transaction)
            if self.is_due():
                self.flush()
        if self._now_s() >= self._tend_due_s:
            self.tend()
        return len(transactions)

    def _learn_numbers(self) -> bool:
        """Take the newest plan and declare its series; False when there is none yet."""
        plan = self._newest_plan()
        self._is_doubtful = plan is None
        if plan is None:
            return False
        self.plan, self._plan_changed = plan, True
        self._history.declare([row for device in plan.devices if device.number in plan.active for row in _series(device, plan)])
        return True

    def tend(self) -> None:
        """One bounded step of housekeeping: sort finished days (UTC, 6 h after their end), forget what is too old."""
        now_ms = int(self._now_s() * 1000)
        self._tend_due_s = self._now_s() + TEND_MORE_S  # also when it fails: the next rounds must not all wait for it
        moved = self._history.compact((now_ms - SETTLED_MS) // DAY_MS * DAY_MS)
        if moved == 0 and self._keep_ms is not None:
            border_ms = (now_ms - self._keep_ms) // DAY_MS * DAY_MS
            if border_ms > self._deleted_before_ms:
                self._history.delete_before(border_ms)
                self._deleted_before_ms = border_ms
        if moved == 0:
            self._tend_due_s = self._now_s() + TEND_S

    def take(self, transaction: Transaction) -> None:
        """Keep one transaction for the next flush. It must follow the last one without a hole.

        After a failed flush the same rows are tried first: nobody knows whether they were written, and only the same position
        tells the history to write them once.
        """
        if self._has_failed:
            self.flush()
        if self._is_doubtful and not knows_numbers(self.plan, transaction.read_entries()) and not self._learn_numbers():
            raise CorruptError(
                f"history missed a configuration before journal position {transaction.first} and cannot know what its point "
                "numbers mean; it waits for the core's next snapshot"
            )
        if transaction.first != self.position + 1:
            raise CorruptError(
                f"history is at journal position {self.position}, the next transaction begins at {transaction.first}"
            )
        if not self._waiting:
            self._since_s = self._now_s()
        part = project(transaction, self.plan)
        self._plan_changed |= any(record.kind == "config" for record in part.records)
        self._tracker.know({array.point for array in part.arrays})
        self._members += [self._tracker.row(*array, self._deadband(array.point)) for array in part.arrays]
        self._waiting.append(part)
        self.rows_waiting += len(part.rows) + len(part.records)
        self.position = transaction.last

    def skip(self, gap: Gap) -> None:
        """Go on behind journal entries that were trimmed unread, and keep that they are missing as a record of kind "gap".

        Their CONFIG entries are missing, too: numbers given meanwhile are learnt from the newest plan; samples whose numbers
        nobody knows are refused (`take`).
        """
        self.flush()
        body = {"first": self.position + 1, "last": gap.available - 1, "plan_known": self._learn_numbers()}
        record = RecordRow(gap.available - 1, int(self._now_s() * 1e9), "gap", "", "", "journal", _json(body))
        self._history.append(no_rows(), [record], gap.available - 1, plan=encode_plan(self.plan))
        self.position = gap.available - 1

    def is_due(self) -> bool:
        """True when waiting any longer is not allowed."""
        if not self._waiting:
            return False
        return self._has_failed or self.rows_waiting >= self._rows_max or self._now_s() - self._since_s >= self._wait_s

    def flush(self) -> AppendResult:
        """Write all that waits. On an error it goes on waiting."""
        if not self._waiting:
            return AppendResult(0, 0, 0)
        self._has_failed = True
        self._history.declare([row for part in self._waiting for row in part.series])
        result = self._history.append(
            join_rows([part.rows for part in self._waiting]),
            [record for part in self._waiting for record in part.records],
            self.position,
            plan=encode_plan(self.plan) if self._plan_changed else None,
            members=self._members,
            order=_order(self._waiting),
        )
        self._waiting, self._members, self._plan_changed = [], [], False
        self.rows_waiting, self._has_failed = 0, False
        return result

    def _deadband(self, point: int) -> float:
        spec = self.plan.point_spec(point)
        return 0.0 if spec is None else spec.deadband
