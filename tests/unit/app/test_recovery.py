"""What a start finds in the journal's tail: where this build decides otherwise is told, once, and the journaled stays fact."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.core import admit_of
from app.recovery import recover
from app.wiring import build_id
from rules.engine import Engine, Outcome
from store.journal import Journal
from store.snapshot import write_snapshot
from telemetry.clock import ManualClock
from telemetry.errors import StoreError
from telemetry.frame import Entries
from telemetry.record import Event
from tests.faults.older_build import OlderBuild
from tests.faults.web_world import START_NS, Writer


@pytest.fixture
def older(tmp_path: Path) -> Iterator[OlderBuild]:
    made = OlderBuild(tmp_path)  # positions 0 and 1
    yield made
    made.journal.close()


def upgrade(data: Path) -> Event:
    """The event of a start that must have one."""
    told = recover(data).upgrade
    assert told is not None
    return told


def test_a_journal_of_equal_decisions_is_no_upgrade(older: OlderBuild) -> None:
    older.write()
    found = recover(older.data)
    assert found.upgrade is None
    assert found.engine.position == 2


def test_other_decisions_are_told_with_count_and_first_position(older: OlderBuild) -> None:
    for invents in (False, True, False, True):
        older.write(invents=invents)
    told = upgrade(older.data)
    assert (told.name, told.device) == ("upgrade", "")
    assert told.body.items() >= {"transactions": 2, "first": 3, "last": 5, "build": build_id()}.items()
    assert "2 transactions from position 3 on" in told.body["reason"]


def test_what_was_told_is_not_told_again_and_what_is_new_is(older: OlderBuild) -> None:
    older.write(invents=True)
    older.write([upgrade(older.data)])
    assert recover(older.data).upgrade is None
    older.write([Event("upgrade", "north/house-0", {"any": "thing"})])  # a device may say what it likes
    assert recover(older.data).upgrade is None
    older.write(invents=True)
    assert upgrade(older.data).body.items() >= {"transactions": 1, "first": 5}.items()


def test_another_build_tells_its_own(older: OlderBuild, monkeypatch: pytest.MonkeyPatch) -> None:
    older.write(invents=True)
    older.write([upgrade(older.data)])
    monkeypatch.setattr("app.recovery.build_id", lambda: "fieldloom 9.9.9")
    assert upgrade(older.data).body["build"] == "fieldloom 9.9.9"


def test_only_the_tail_behind_the_snapshot_is_compared(older: OlderBuild) -> None:
    older.write(invents=True)
    engine = recover(older.data).engine
    write_snapshot(older.data / "snapshots", engine.position, {"engine": engine.snapshot(), "inbox_row": 0})
    older.write(invents=True)
    assert upgrade(older.data).body.items() >= {"transactions": 1, "first": 3}.items()


def test_accounting_tells_the_upgrade_from_then_on(older: OlderBuild) -> None:
    older.write(invents=True)
    older.write([upgrade(older.data)])
    older.write()
    accounting = admit_of(recover(older.data).engine).accounting
    assert (accounting.upgrade_count, accounting.upgrade_first) == (1, 2)
    assert accounting.is_balanced()


def test_tail_is_read_in_few_steps_with_the_same_state(older: OlderBuild, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(300):
        older.write()
    calls, step = [], Engine.step

    def counted(self: Engine, entries: Entries) -> Outcome:
        calls.append(len(entries))
        return step(self, entries)

    monkeypatch.setattr(Engine, "step", counted)
    found = recover(older.data)
    assert (found.upgrade, calls) == (None, [302])
    states = [write_snapshot(tmp_path / name, 1, engine.snapshot()) for name, engine in (("a", found.engine), ("b", older.engine))]
    assert states[0].read_bytes() == states[1].read_bytes()


@pytest.mark.parametrize("kept", [1, 0])
def test_snapshot_of_another_build_that_does_not_fit_is_passed_over(older: OlderBuild, kept: int) -> None:
    snapshots = older.data / "snapshots"
    if kept:
        write_snapshot(snapshots, older.engine.position, {"engine": older.engine.snapshot(), "inbox_row": 7})
    older.write()
    foreign = {"engine": older.engine.snapshot() | {"stages": {"Admit": {}}}, "inbox_row": 9}
    write_snapshot(snapshots, older.engine.position, foreign, build="fieldloom 0.0.1")
    found = recover(older.data)
    assert (found.upgrade, found.engine.position, found.inbox_row) == (None, 2, 7 * kept)


def test_trimmed_journal_without_a_snapshot_is_refused_with_the_remedy(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", clock=ManualClock(START_NS), segment_bytes=1)
    journal.begin(1)
    writer = Writer()
    for _ in range(3):
        journal.append(writer.write())
    journal.trim(before=2)
    journal.close()
    with pytest.raises(StoreError, match=r"the journal begins at position 2.* put back the snapshots"):
        recover(tmp_path)
