"""The loop of a backtest over one part of a site: a block of history, its frames, `step` of every variant, and on to the next.

A block is a stretch of time that holds about BLOCK_ROWS rows, found by the last one; where cuts fall changes no decision. Decisions
leave a block in the order of their own times, which is the same for any cut and any split: positions of a lane mean nothing outside.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.backtest.arrays import ALL, Arrays
from app.backtest.job import Job
from app.backtest.position import Feedback, Told
from rules.condition import Conditions
from rules.engine import Engine
from rules.lane import TICK_NS
from rules.recorded import NS_PER_MS, Places, opening, places, recorded_entries
from store.history import Rows
from store.members import ArraySample
from store.scan import Scan
from telemetry.decision import Decision
from telemetry.frame import Kind
from telemetry.plan import Plan

BLOCK_ROWS: Final = 1_500_000  # aimed at: a store has days, and reads one for half of it, too; 100 MB while it is worked on
BLOCK_ROWS_MAX: Final = 3_000_000
TICK_MS: Final = TICK_NS // NS_PER_MS
WIDTH_MAX_MS: Final = 30 * 86_400_000
DAY_MS: Final = 86_400_000
Array = NDArray[Any]


class Block(NamedTuple):
    """What one stretch of time gave: everything before `reached_ms` is decided. decisions: of each variant, in order of time."""

    reached_ms: int
    samples: int
    decisions: list[list[Decision]]
    told: Told


@dataclass(slots=True)
class Seconds:
    """Where the time went [s]: reading from the store, building frames, evaluating."""

    reading: float = 0.0
    framing: float = 0.0
    evaluating: float = 0.0
    _since: float = field(default_factory=time.perf_counter)

    def lap(self) -> float:
        """Seconds since the last call."""
        now = time.perf_counter()
        self._since, lasted = now, now - self._since
        return lasted


def run(job: Job, source: Scan, seconds: Seconds, *, block_rows: int = BLOCK_ROWS) -> Iterator[Block]:
    """Blocks from the job's start to its end, as they are decided."""
    engines = [job.engine(variant) for variant in job.variants]
    where = places(engines[0].plan, arrays_read(engines))
    measured = Feedback(engines[0].plan)
    waiting = [engine.step(opening(job.start_ms * NS_PER_MS)).decisions for engine in engines]
    first, told = 1, 0
    seconds.lap()
    for start_ms, end_ms, rows, arrays in blocks(job, source, engines[0].plan, where, block_rows):
        seconds.reading += seconds.lap()
        until = told
        while until < len(job.requests) and job.requests[until][0] < end_ms * NS_PER_MS:
            until += 1
        records = tuple((time_ns, request, Kind.REQUEST) for time_ns, request in job.requests[told:until])
        told = until
        entries = recorded_entries(
            rows, where, first=first, start_ms=start_ms, end_ms=end_ms, records=records, arrays=arrays
        )  # fmt: skip
        first += len(entries)
        seconds.framing += seconds.lap()
        out: list[list[Decision]] = []
        for k, engine in enumerate(engines):
            made = [*waiting[k], *engine.step(entries).decisions]
            # What is decided at the very end of a block may meet its equals only in the next one.
            is_last = end_ms >= job.end_ms
            out.append(_in_time([d for d in made if is_last or d.time_ns < end_ms * NS_PER_MS]))
            waiting[k] = [d for d in made if not is_last and d.time_ns >= end_ms * NS_PER_MS]
        seconds.evaluating += seconds.lap()
        yield Block(end_ms, len(entries.frames.point) + len(arrays), out, measured.compare(entries, out[0]))
        seconds.lap()


def _in_time(decisions: list[Decision]) -> list[Decision]:
    """By their own time; what one subject decides at one time keeps its order."""
    return sorted(decisions, key=by_time)


def by_time(decision: Decision) -> tuple[int, int, str]:
    """What decisions of a lane are ordered by."""
    return decision.time_ns, decision.stage, decision.subject


def arrays_read(engines: Sequence[Engine]) -> list[int]:
    """Points whose members some rule of some engine reads."""
    books = [stage.book for engine in engines for stage in engine.stages if isinstance(stage, Conditions)]
    return sorted({point for book in books for point in np.flatnonzero(book.arrays.column_of_array >= 0).tolist()})


def blocks(
    job: Job, source: Scan, plan: Plan, where: Places, aim: int
) -> Iterator[tuple[int, int, list[Rows], Sequence[ArraySample]]]:
    """(start, end, rows, arrays) one after another. All ends but the last stand at ticks: then no timer of a block fires after it."""
    at, width = job.start_ms, TICK_MS
    limit = max(BLOCK_ROWS_MAX, 2 * aim)
    read = np.flatnonzero(where.rank >= 0)
    low, high = (int(read[0]), int(read[-1])) if len(read) else (0, -1)
    members = Arrays(source, plan, where.arrays, job.start_ms)
    while at < job.end_ms:
        end = min(_aligned(at + width, width), job.end_ms)
        rows = source.scan(low, high, at, end, limit=limit)
        count = sum(len(part[0]) for part in rows)
        arrays = members.read(at, end, limit - count) if count < limit else None
        if arrays is None and end - at > TICK_MS:
            width = max(TICK_MS, width // 4)
            continue
        if arrays is None:  # five minutes of more than a block: as a whole, there is no shorter way
            rows = source.scan(low, high, at, end, limit=ALL)
            count = sum(len(part[0]) for part in rows)
            arrays = members.read(at, end, ALL) or []
        yield at, end, rows, arrays
        count += members.weight(arrays)
        growth = aim / count if count else 8.0
        width = int(min(max((end - at) * min(growth, 8.0), TICK_MS), WIDTH_MAX_MS)) // TICK_MS * TICK_MS
        at = end


def _aligned(end_ms: int, width_ms: int) -> int:
    """The last border before an end: a day or its half, quarter .. as history packs them, so that a pack is read once; or a tick."""
    part = next((DAY_MS >> k for k in range(5) if DAY_MS >> k <= width_ms), TICK_MS)
    return end_ms // part * part
