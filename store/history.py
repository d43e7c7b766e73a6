"""What every history store promises: samples by point and time, what was decided, and the journal position all that came from.

A history follows the journal: one writer gives it rows and records together with the position they end at, so that after any
crash `position()` says where to go on. (point, ts_ms) is unique: the first value stays, another value is counted. Times are
ms since 1970 UTC. Point numbers are the core's; numbers from `MEMBER_BASE` up are series derived from member arrays.

Limits: a range read returns at most READ_ROWS_MAX rows, a downsample at most BUCKETS_MAX buckets (both: ValueError above it).
Every method raises StoreError (mostly `HistoryFault`, which says whether trying again can help) when the store fails.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from telemetry.decision import log_line_of
from telemetry.errors import StoreError

MEMBER_BASE: Final = 1 << 30  # derived series; core numbers stay below (2**27, so that 8 per point fit int32)
READ_ROWS_MAX: Final = 1_000_000  # 22 MB of columns
RECORDS_MAX: Final = 10_000  # of one `records` or `decisions` call
RUNS_MAX: Final = 100  # of one `runs` call: about a minute of a site's entries, or 1 M samples of a busy one
BUCKETS_MAX: Final = 100_000
TIME_NS_MAX: Final = (1 << 63) - 1
SCHEMA: Final = 2  # of a store's own file; 1 kept decisions in ms, without phase and stage
REJECTS_KEPT: Final = 10_000  # newest records of kind event, subject reject: at most 40 MB of what devices sent wrong


class HistoryFault(StoreError):
    """The store failed. `retryable`: the same call may succeed later without a person doing something; after `wait_s` at least,
    when the server said so."""

    def __init__(self, message: str, *, retryable: bool, wait_s: float = 0.0) -> None:
        self.retryable = retryable
        self.wait_s = wait_s
        super().__init__(message)


class QueryLimit(StoreError):
    """A read took longer than the store allows, or was interrupted; ask for less."""


@dataclass(frozen=True, slots=True)
class SampleRows:
    """n samples. point (n,) int32, ts_ms (n,) int64, value (n,) float64 (NaN = no number), quality (n,) uint16."""

    point: NDArray[np.int32]
    ts_ms: NDArray[np.int64]
    value: NDArray[np.float64]
    quality: NDArray[np.uint16]

    def __post_init__(self) -> None:
        for column, dtype in SAMPLE_DTYPES.items():
            array = getattr(self, column)
            assert array.dtype == dtype, (column, array.dtype)
            assert len(array) == len(self.point), column

    def __len__(self) -> int:
        return len(self.point)

    def take(self, index: NDArray[Any]) -> "SampleRows":
        """Rows by mask or by index, in that order."""
        return SampleRows(*(getattr(self, f.name)[index] for f in fields(self)))


SAMPLE_DTYPES: Final[dict[str, type[Any]]] = {
    "point": np.int32,
    "ts_ms": np.int64,
    "value": np.float64,
    "quality": np.uint16,
}


Rows = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64], NDArray[np.uint16]]  # point, ts_ms, value, quality


def make_rows(point: Any, ts_ms: Any, value: Any, quality: Any = 0) -> SampleRows:
    """Rows from lists or arrays; a scalar stands for every row."""
    point = np.array(point, np.int32)
    given = {"ts_ms": ts_ms, "value": value, "quality": quality}
    columns = {name: np.broadcast_to(np.asarray(c, SAMPLE_DTYPES[name]), point.shape).copy() for name, c in given.items()}
    return SampleRows(point, **columns)


def no_rows() -> SampleRows:
    """Zero samples."""
    return make_rows([], 0, 0.0)


def join_rows(parts: Sequence[SampleRows]) -> SampleRows:
    """All parts after one another."""
    if not parts:
        return no_rows()
    return SampleRows(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(SampleRows)))


class Series(NamedTuple):
    """What a point number stands for."""

    number: int
    site: str
    device: str
    point: str
    unit: str


class RecordRow(NamedTuple):
    """One decision, request, event or configuration, kept for ever. body is JSON; site and device are "" when it has none.

    phase and stage are those of a `telemetry.decision.Decision`; None for every other record. With them a row is the whole
    decision: `decision_line` gives back its line of the canonical log.
    """

    position: int
    time_ns: int
    kind: str
    site: str
    device: str
    subject: str
    body: str
    phase: int | None = None
    stage: int | None = None

    @property
    def time_ms(self) -> int:
        """`time_ns` in whole ms."""
        return self.time_ns // 1_000_000


def clipped_ns(ts_ms: int | None) -> int | None:
    """A bound in ms as ns, inside what an int64 holds."""
    return None if ts_ms is None else max(-TIME_NS_MAX, min(TIME_NS_MAX, ts_ms * 1_000_000))


def decision_line(row: RecordRow) -> bytes:
    """The line of the canonical decision log that a whole decision was stored from."""
    assert row.phase is not None, row
    assert row.stage is not None, row
    return log_line_of(row.position, row.phase, row.time_ns, row.stage, row.kind, row.subject, row.body)


def check_schema(path: Path, schema: int) -> None:
    """HistoryFault when a store's file was written by a newer version."""
    if schema > SCHEMA:
        sentence = f"{path}: written with schema {schema} of a newer version, this program reads {SCHEMA}; use the newer program"
        raise HistoryFault(sentence, retryable=False)


def is_reject(record: RecordRow) -> bool:
    """True for records that are kept only up to REJECTS_KEPT."""
    return record.kind == "event" and record.subject == "reject"


class MemberRow(NamedTuple):
    """One sample of a member array: only the members that changed.

    form: one of the three below. member (k,) int32 indices, value (k,) in the wire type.
    """

    point: int
    ts_ms: int
    form: int
    member: NDArray[np.int32]
    value: NDArray[Any]


class PackedMember(NamedTuple):
    """A `MemberRow` as tables keep it: the bytes of its arrays; `member` is empty where it holds all of them."""

    point: int
    ts_ms: int
    form: int
    dtype: str
    member: bytes
    value: bytes


CHANGES: Final = 0  # against the state the earlier KEYFRAME and CHANGES rows of the point give
KEYFRAME: Final = 1  # all members; later CHANGES build on it
ASIDE: Final = 2  # all members of a sample that came out of time order; nothing builds on it


class MemberState(NamedTuple):
    """Where a point's chain of changes stands: its last row, its last keyframe and every member's recorded value."""

    ts_ms: int
    keyframe_ms: int
    values: NDArray[Any]


class Order(NamedTuple):
    """In which order the entries of an append came (`store.order`): `encode` makes its bytes once the store knows (n,) which of the
    rows it was given it now gives back bit for bit."""

    first: int
    time_ns: int  # engine time of the last entry
    encode: Callable[[NDArray[np.bool_]], bytes]


class Run(NamedTuple):
    """The order of entries first..last as it was kept, with the rows of their records."""

    first: int
    last: int
    data: bytes
    records: list[RecordRow]


class AppendResult(NamedTuple):
    """written rows; repeated = the same row was there; changed = another value was there and stayed; rejected by the server."""

    written: int
    repeated: int
    changed: int
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class Buckets:
    """k non-empty buckets in time order; a gap is a missing bucket. All columns (k,).

    t_ms int64 start of the bucket, each `width_ms` long; min, max, mean, first, last float64 over the bucket's numbers (NaN
    when it holds none); count int64 of numbers; bad int64 samples of BAD quality or without a number. A BAD sample with a
    number takes part: an extreme is never hidden, it is marked.
    """

    width_ms: int
    t_ms: NDArray[np.int64]
    min: NDArray[np.float64]
    max: NDArray[np.float64]
    mean: NDArray[np.float64]
    count: NDArray[np.int64]
    first: NDArray[np.float64]
    last: NDArray[np.float64]
    bad: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.t_ms)


def bucket_width_ms(start_ms: int, end_ms: int, buckets: int) -> int:
    """The least whole ms that cover [start, end) in at most `buckets` buckets. ValueError on an empty range or a bad count."""
    if end_ms <= start_ms:
        raise ValueError(f"end ({end_ms}) must be after start ({start_ms})")
    if not 1 <= buckets <= BUCKETS_MAX:
        raise ValueError(f"buckets must be 1..{BUCKETS_MAX}, not {buckets}")
    return -(-(end_ms - start_ms) // buckets)


def check_limit(limit: int, limit_max: int) -> None:
    """ValueError unless 1 <= limit <= limit_max."""
    if not 1 <= limit <= limit_max:
        raise ValueError(f"limit must be 1..{limit_max}, not {limit}")


class History(Protocol):
    """A store of samples and records. One thread appends at a time; reads may run in other threads meanwhile."""

    def position(self) -> int:
        """The journal position up to which everything is contained; -1 when nothing is."""
        ...

    def saved_plan(self) -> bytes | None:
        """The `plan` of the last append that had one; None when none had."""
        ...

    def declare(self, series: Sequence[Series]) -> None:
        """Durably name point numbers, before their rows. A unit may change; a name may not (StoreError: foreign history)."""
        ...

    def append(
        self,
        rows: SampleRows,
        records: Sequence[RecordRow],
        position: int,
        *,
        plan: bytes | None = None,
        members: Sequence[MemberRow] = (),
        order: Order | None = None,
    ) -> AppendResult:
        """Make rows, records, members, plan (None = as before), order and position durable; on return they are.

        A position that is not after the stored one changes nothing, so the call may be repeated after any error. A store
        whose samples are elsewhere (InfluxDB) writes them first: after a crash they are written again, with the same result. Only an
        `Ordered` store keeps the order.
        """
        ...

    def read(self, point: int, start_ms: int, end_ms: int, *, limit: int) -> SampleRows:
        """The first `limit` samples of [start, end) in time order."""
        ...

    def scan(self, low: int, high: int, start_ms: int, end_ms: int, *, limit: int) -> list[Rows]:
        """Columns point, ts_ms, value, quality, in parts, of at most `limit` samples of points low..high in [start, end), in any order.

        For bulk reading: nothing is sorted. `limit` of them: there may be more."""
        ...

    def member_rows(self, points: Sequence[int], start_ms: int, end_ms: int, *, limit: int) -> list[PackedMember]:
        """At most `limit` rows of member arrays of some points in [start, end), in any order; `limit` of them: there may be more.

        For bulk reading: nothing is sorted, since a store would do that in memory."""
        ...

    def sent(self, after: int, start_ms: int, *, limit: int) -> list[Run]:
        """The next `limit` runs of entries after a journal position that came at `start_ms` or later, in order, without their records.
        None where the store keeps no order."""
        ...

    def latest(self, points: Sequence[int], at_ms: int) -> SampleRows:
        """Of each point its last sample at or before `at_ms`, in order of point; points without one are missing."""
        ...

    def downsample(self, point: int, start_ms: int, end_ms: int, buckets: int) -> Buckets:
        """[start, end) in at most `buckets` buckets with every extreme kept."""
        ...

    def records(
        self,
        *,
        kind: str | None = None,
        site: str | None = None,
        subject: str | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 1000,
        newest_first: bool = True,
    ) -> list[RecordRow]:
        """Records by position, those that match everything given; [start, end)."""
        ...

    def decisions(self, after: int, *, limit: int = RECORDS_MAX) -> list[RecordRow]:
        """The next `limit` whole decisions after a journal position, in canonical order; [] when there are no more.

        The last position comes with all that was decided at it, so that it is the next call's `after`.
        """
        ...

    def decisions_from(self) -> int:
        """The position from which on every decision is whole; before it an older version kept them without phase and stage."""
        ...

    def members(self, point: int, at_ms: int) -> MemberState | None:
        """Every member's recorded value at `at_ms`; None when nothing is recorded up to then."""
        ...

    def member_state(self, point: int) -> MemberState | None:
        """The end of the point's chain of changes, without ASIDE rows; None when it has none."""
        ...

    def count(self, *, point: int | None = None, start_ms: int | None = None, end_ms: int | None = None) -> int:
        """Number of samples in [start, end)."""
        ...

    def series(self) -> list[Series]:
        """All declared series in order of number."""
        ...

    def delete_before(self, ts_ms: int) -> None:
        """Raw retention: forget samples, member rows and runs of entries before `ts_ms`. Records stay."""
        ...

    def compact(self, before_ms: int) -> int:
        """Rearrange a bounded chunk of what is older than `before_ms` so that reads are faster; how many rows. 0: all is done.

        No answer changes. For a background thread, again and again, some hours behind the present; appends wait meanwhile.
        """
        ...

    def interrupt(self) -> None:
        """Stop reads that run now; they raise QueryLimit."""
        ...

    def close(self) -> None:
        """Release the store; nothing is pending."""
        ...


class Ordered(Protocol):
    """A history that also knows in which order everything came: enough to run `step` on it alone."""

    def position(self) -> int:
        """See History."""
        ...

    def runs(self, after: int, *, limit: int = RUNS_MAX) -> list[Run]:
        """The next `limit` runs of entries after a journal position, with the rows of their records, in order."""
        ...

    def values(self, point: NDArray[np.int32], ts_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) the value of each (point, ts_ms). HistoryFault when one is not there."""
        ...
