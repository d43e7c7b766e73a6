"""A recording in a journal written over two starts, and in a history: what was journaled is decided again by the journal, by the
history alone, and one entry at a time.

Saboteurs: history_swaps_frames, history_changes_last_bits, plainly_skips_ticks, forget_alarms.
"""

import itertools
import os
from collections.abc import Iterable
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest

from app.core import admit_of, make_transaction
from app.recompute import decide, decide_plainly, read_history
from app.recovery import recover
from store.duckdb_history import DuckDBHistory
from store.journal import Journal
from store.journal_reader import JournalReader
from store.projection import Projector
from store.snapshot import write_snapshot
from telemetry.clock import EngineClock
from telemetry.decision import Decision, LogHash
from telemetry.errors import CallerError
from telemetry.frame import Entries, slice_entries
from telemetry.transaction import Transaction
from tests.scenario.recorded_hour import Recorder, replay_entries
from tests.scenario.test_batch_invariance import cuts

SABOTAGE = frozenset(filter(None, [os.environ.get("FIELDLOOM_SABOTAGE", "")]))


@cache
def recording() -> Entries:
    """Twenty-five minutes with commands, requests, a restart, changes of the configuration, gaps and late frames."""
    return replay_entries(Recorder(3, 1500).actions)


def write_journal(data: Path) -> None:
    """All of it in transactions of any size, by a core that is killed twice and begins again at its snapshot."""
    entries = recording()
    bounds = [0, *sorted(cuts(1, len(entries), 300)), len(entries)]
    thirds = [len(bounds) // 3, 2 * len(bounds) // 3, len(bounds)]
    done = 0
    for part in thirds:
        engine = recover(data, sabotage=SABOTAGE).engine
        with closing(Journal(data / "journal", clock=EngineClock(lambda: 0, lambda: 0))) as journal:
            journal.begin(journal.last_epoch + 1)
            for a, b in itertools.pairwise(bounds[done:part]):
                run = slice_entries(entries, a, b)
                outcome = engine.step(run)
                journal.append(make_transaction(run, outcome, journal.last_epoch, admit_of(engine).accounting))
                if a == bounds[part - 20]:
                    write_snapshot(data / "snapshots", engine.position, {"engine": engine.snapshot(), "inbox_row": 0})
        done = part - 1


def transactions(data: Path) -> list[Transaction]:
    with closing(JournalReader(data / "journal")) as reader:
        return reader.read(-1, rows_max=1_000_000)


def follow(data: Path, history: DuckDBHistory) -> None:
    projector = Projector(history, now_s=lambda: 0.0, rows_max=100)
    for transaction in transactions(data):
        projector.take(transaction)
        if projector.is_due():
            projector.flush()
    projector.flush()


def digest(decided: Iterable[list[Decision]]) -> tuple[int, str]:
    log = LogHash()
    for decisions in decided:
        log.add(decisions)
    return log.count, log.hexdigest()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_journal(tmp_path)
    return tmp_path


def test_journal_history_and_plain_loop_decide_what_was_journaled(data: Path) -> None:
    journaled = digest(t.read_decisions() for t in transactions(data))
    assert journaled[0] > 500
    entries = [t.read_entries() for t in transactions(data)]
    assert digest(decide(entries)) == journaled
    assert digest(decide_plainly(entries)) == journaled
    with closing(DuckDBHistory(data / "history.duckdb")) as history:
        follow(data, history)
    with closing(DuckDBHistory(data / "history.duckdb")) as history:
        assert digest(decide(read_history(history))) == journaled


def test_history_without_its_beginning_or_a_part_is_refused_with_the_reason(data: Path) -> None:
    with closing(DuckDBHistory(data / "history.duckdb")) as history:
        follow(data, history)
        first, second, *_ = history.runs(-1)
        time_ns = int(recording().time_ns[first.last])
        history.delete_before(time_ns // 1_000_000 + 1)
        with pytest.raises(CallerError, match=rf"only from journal position {second.first} on .* use --recompute journal"):
            list(read_history(history))
    with closing(DuckDBHistory(data / "empty.duckdb")) as history:
        assert list(read_history(history)) == []
