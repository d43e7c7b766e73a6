"""What this build decides on entries that were journaled: on the journal's, on those a history gives back, and one at a time.

`step` runs from position 0 on, with no effect outside. All of these, and what the live core journaled, must be equal byte for byte.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from app.settings import Settings
from app.wiring import build_engine
from store.duckdb_history import DuckDBHistory
from store.history import Ordered
from store.order import Packed, decode_order
from telemetry.decision import Decision
from telemetry.errors import CallerError
from telemetry.frame import Entries, Kind, join_entries, slice_entries

_SABOTAGE: Final = os.environ.get("FIELDLOOM_SABOTAGE", "")
ENTRIES_MIN: Final = 5_000  # of one call of `step`, where there are so many
SAMPLES_MAX: Final = 100_000  # values that are asked of a history at once


def decide(runs: Iterable[Entries]) -> Iterator[list[Decision]]:
    """What `step` decides on runs of entries that follow one another from position 0 on."""
    engine = build_engine()
    for entries in _joined(runs):
        yield engine.step(entries).decisions


def _joined(runs: Iterable[Entries]) -> Iterator[Entries]:
    """The same entries in fewer runs: how they are cut changes no decision, and each call of `step` costs half a ms."""
    waiting: list[Entries] = []
    for entries in runs:
        waiting.append(entries)
        if sum(map(len, waiting)) >= ENTRIES_MIN:
            yield join_entries(waiting)
            waiting = []
    if waiting:
        yield join_entries(waiting)


def decide_plainly(runs: Iterable[Entries]) -> Iterator[list[Decision]]:
    """The same in the plainest way: one entry after another, admission and ledger without the compiler."""
    engine = build_engine(numba=False)
    for entries in runs:
        for at in range(len(entries)):
            if _SABOTAGE == "plainly_skips_ticks" and entries.kind[at] == Kind.TICK:
                continue
            yield engine.step(slice_entries(entries, at, at + 1)).decisions


@contextlib.contextmanager
def open_ordered(settings: Settings) -> Iterator[DuckDBHistory]:
    """The history's file, while the block runs. Raises CallerError, or StoreError when web has it open."""
    if settings.history != "duckdb":
        raise CallerError(
            "a history in InfluxDB does not keep the order in which entries came; use --recompute journal, or a history in DuckDB"
        )
    path = settings.data_dir / "history.duckdb"
    if not path.is_file():
        raise CallerError(f"there is no history in {settings.data_dir}; `fieldloom serve web` writes {path.name}")
    with contextlib.closing(DuckDBHistory(path)) as history:
        yield history


def read_history(history: Ordered) -> Iterator[Entries]:
    """All entries that a history knows, from position 0 on. Raises CallerError when the beginning or a part of them is missing."""
    position, last = -1, history.position()
    while position < last:
        runs = history.runs(position)
        for run in runs:
            if run.first != position + 1:
                raise CallerError(_hole(position, run.first))
            position = run.last
        if not runs:
            raise CallerError(_hole(position, last + 1))
        waiting: list[Packed] = []
        for packed in map(decode_order, runs):
            waiting.append(packed)
            if sum(len(part.entries.frames.point) for part in waiting) >= SAMPLES_MAX:
                yield from _fill(history, waiting)
                waiting = []
        yield from _fill(history, waiting)


def _fill(history: Ordered, parts: Sequence[Packed]) -> list[Entries]:
    """The parts with the values the history has for them, asked at once."""
    wanted = [part.wanted() for part in parts]
    if not wanted:
        return []
    values = history.values(np.concatenate([point for point, _ in wanted]), np.concatenate([ts_ms for _, ts_ms in wanted]))
    ends = np.cumsum([len(point) for point, _ in wanted])
    return [part.fill(own) for part, own in zip(parts, np.split(values, ends[:-1]), strict=True)]


def _hole(position: int, first: int) -> str:
    if position < 0:
        return (
            f"this history has the order of entries only from journal position {first} on (older ones were trimmed, forgotten with "
            "their samples, or written by an older version) and no state to begin from; use --recompute journal where that is whole"
        )
    return f"this history lacks the order of journal positions {position + 1} to {first - 1}; use --recompute journal where that is whole"
