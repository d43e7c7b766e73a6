"""The promises of a journal: durable, contiguous, fenced, followed without gaps. A second implementation joins by the fixtures."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from store.journal import Journal
from store.journal_reader import Gap, JournalReader
from store.segment import list_segments, meta_row, read_meta, segment_path
from telemetry.clock import ManualClock
from telemetry.errors import CorruptError, FencedError, StoreError
from tests.faults.journal_rows import make_transaction

HOUR_NS = 3_600_000_000_000


@pytest.fixture
def clock():
    return ManualClock(1_700_000_000_000_000_000)


@pytest.fixture
def journal(tmp_path: Path, clock):
    journal = Journal(tmp_path, clock=clock)
    journal.begin(1)
    yield journal
    journal.close()


@pytest.fixture
def reader(tmp_path: Path):
    reader = JournalReader(tmp_path)
    yield reader
    reader.close()


def append_many(journal: Journal, n: int, *, epoch: int = 1):
    made = []
    for _ in range(n):
        made.append(make_transaction(journal.last_position + 1, epoch=epoch))
        journal.append(made[-1])
    return made


def read_all(reader: JournalReader, after: int = -1, *, rows_max: int = 1000):
    found = []
    while batch := reader.read(after, rows_max=rows_max):
        found += batch
        after = batch[-1].last
    return found


def test_empty_journal_has_no_positions(journal, reader):
    assert (journal.last_position, journal.last_engine_ns) == (-1, 0)
    assert reader.read(-1) == []
    assert reader.last() is None


def test_reader_without_a_journal_finds_nothing(tmp_path):
    assert JournalReader(tmp_path / "missing").read(-1) == []


def test_what_was_appended_is_read_in_order_and_equal(journal, reader):
    made = append_many(journal, 30)
    assert read_all(reader, rows_max=120) == made
    assert reader.last() == made[-1]
    assert reader.read(made[-1].last) == []


def test_read_is_bounded_by_rows_but_gives_at_least_one(journal, reader):
    append_many(journal, 5)
    assert len(reader.read(-1, rows_max=1)) == 1
    assert len(reader.read(-1, rows_max=100)) == 2


def test_no_read_transaction_holds_more_than_its_limit_however_much_is_asked_for(journal, reader, monkeypatch):
    made = append_many(journal, 100)  # 50 samples each
    held, fetch = [], JournalReader._fetch

    def counted(self, connection, after, rows_max):
        found = fetch(self, connection, after, rows_max)
        held.append(sum(transaction.rows for transaction in found))
        assert not connection.in_transaction
        return found

    monkeypatch.setattr(JournalReader, "_fetch", counted)
    assert reader.read(-1, rows_max=3500) == made[:70]
    assert held == [1000, 1000, 1000, 500]
    assert reader.read(made[69].last, rows_max=10_000) == made[70:]


def test_damage_behind_what_was_read_is_told_by_the_next_read(tmp_path, journal, reader):
    made = append_many(journal, 40)
    with contextlib.closing(sqlite3.connect(segment_path(tmp_path, 0))) as connection:
        connection.execute("UPDATE tx SET crc32 = crc32 + 1 WHERE first = ?", (made[25].first,))
        connection.commit()
    assert reader.read(-1, rows_max=5000) == made[:20]
    with pytest.raises(CorruptError, match=f"position {made[25].first}"):
        reader.read(made[19].last, rows_max=5000)


def test_position_inside_a_transaction_gives_that_transaction(journal, reader):
    made = append_many(journal, 3)
    assert reader.read(14) == made[1:]


def test_restart_goes_on_where_it_ended(tmp_path, clock, journal, reader):
    made = append_many(journal, 3)
    journal.close()
    with pytest.raises(StoreError):
        journal.append(make_transaction(30))
    again = Journal(tmp_path, clock=clock)
    assert (again.last_position, again.last_epoch, again.last_engine_ns) == (29, 1, made[-1].engine_ns)
    again.begin(2)
    again.append(make_transaction(30, epoch=2))
    assert len(read_all(reader)) == 4
    again.close()


def test_rotation_by_time_and_by_size_keeps_positions_contiguous(tmp_path, clock, reader):
    journal = Journal(tmp_path, clock=clock, segment_bytes=40_000)
    journal.begin(1)
    made = append_many(journal, 100)
    assert len(list_segments(tmp_path)) > 2
    clock.advance(HOUR_NS)
    made += append_many(journal, 2)
    assert list_segments(tmp_path)[-1] == made[-2].first
    assert read_all(reader, rows_max=130) == made
    journal.close()


def test_restart_with_an_empty_newest_segment_knows_time_and_epoch(tmp_path, clock, journal):
    made = append_many(journal, 2)
    journal._rotate()
    journal.close()
    again = Journal(tmp_path, clock=clock)
    assert (again.last_position, again.last_epoch, again.last_engine_ns) == (19, 1, made[-1].engine_ns)
    again.close()


def test_append_refuses_gap_repeat_and_foreign_epoch(journal):
    append_many(journal, 1)
    for wrong in (make_transaction(11), make_transaction(0), make_transaction(10, epoch=2)):
        with pytest.raises(AssertionError):
            journal.append(wrong)


def test_second_core_is_refused_while_the_first_owns_the_lock(tmp_path, clock, journal):
    with pytest.raises(StoreError, match="owns this journal"):
        Journal(tmp_path, clock=clock)


@pytest.mark.parametrize("is_rotated", [False, True])
def test_older_core_is_fenced_by_a_newer_epoch(tmp_path, clock, journal, reader, is_rotated):
    append_many(journal, 2)
    newer = Journal(tmp_path, clock=clock, is_takeover=True)
    newer.begin(2)
    if is_rotated:
        append_many(newer, 1, epoch=2)
        newer._rotate()
    made = append_many(newer, 2, epoch=2)
    with pytest.raises(FencedError):
        journal.append(make_transaction(journal.last_position + 1))
    with pytest.raises(FencedError):
        journal.reopen()
    append_many(newer, 1, epoch=2)
    assert reader.read(made[0].first - 1)[:2] == made
    newer.close()


def test_begin_refuses_an_epoch_that_is_not_newer(journal):
    with pytest.raises(FencedError):
        journal.begin(1)


def test_old_core_cannot_rotate_after_a_takeover(tmp_path, clock, journal):
    append_many(journal, 1)
    newer = Journal(tmp_path, clock=clock, is_takeover=True)
    newer.begin(2)
    clock.advance(HOUR_NS)
    with pytest.raises(FencedError):
        journal.append(make_transaction(10))
    assert list_segments(tmp_path) == [0]
    newer.close()


def test_reader_behind_a_trim_is_told_the_first_position_left(tmp_path, clock, journal, reader):
    append_many(journal, 2)
    clock.advance(HOUR_NS)
    made = append_many(journal, 2)
    assert reader.read(-1)
    assert [path.name for path in journal.trim(before=20)] == [f"{0:020d}.sqlite"]
    assert sorted(path.name for path in tmp_path.glob(f"{0:020d}*")) == []
    with pytest.raises(Gap) as caught:
        reader.read(9)
    assert caught.value.available == 20
    assert reader.read(19) == made


def test_trim_keeps_a_segment_with_any_position_needed_and_the_newest(tmp_path, clock, journal):
    append_many(journal, 2)
    clock.advance(HOUR_NS)
    append_many(journal, 1)
    assert journal.trim(before=19) == []
    assert len(journal.trim(before=10**9)) == 1
    assert list_segments(tmp_path) == [20]


def test_after_reopen_the_same_transaction_is_written_exactly_once(journal, reader):
    made = append_many(journal, 1)
    journal.reopen()
    journal.append(made[0])  # the failed commit had been durable after all
    journal.reopen()
    journal.append(following := make_transaction(10))  # it had not
    assert read_all(reader) == [*made, following]


def test_after_reopen_another_transaction_at_the_same_position_is_refused(journal):
    append_many(journal, 1)
    journal.reopen()
    with pytest.raises(AssertionError):
        journal.append(make_transaction(0, size=999))


def test_follower_ahead_of_the_journal_is_told_that_entries_are_lost(journal, reader):
    append_many(journal, 1)
    with pytest.raises(CorruptError):
        reader.read(50)


def test_kill_between_sealing_and_the_next_segment_is_recovered(tmp_path, clock, journal, reader):
    made = append_many(journal, 2)
    journal.close()
    with contextlib.closing(sqlite3.connect(segment_path(tmp_path, 0))) as connection:
        meta = read_meta(connection, segment_path(tmp_path, 0))._replace(sealed=19)
        connection.execute("UPDATE meta SET schema=?, first=?, created_ns=?, epoch=?, sealed=?, crc32=?", meta_row(meta))
        connection.commit()
    half_made, orphan = tmp_path / f"{20:020d}.sqlite.new", tmp_path / f"{7:020d}.sqlite-wal"
    half_made.write_bytes(b"half")
    orphan.write_bytes(b"")
    assert read_all(reader) == made
    again = Journal(tmp_path, clock=clock)
    assert not half_made.exists()
    assert not orphan.exists()
    again.begin(2)
    made += append_many(again, 1, epoch=2)
    assert list_segments(tmp_path) == [0, 20]
    assert read_all(reader) == made
    again.close()


def test_rotation_that_failed_half_way_goes_on_at_the_next_try(tmp_path, clock, journal, reader):
    made = append_many(journal, 1)
    clock.advance(HOUR_NS)
    blocker = tmp_path / f"{10:020d}.sqlite.new"
    blocker.mkdir()
    following = make_transaction(10)
    for _ in range(2):
        with pytest.raises(StoreError):
            journal.append(following)
    with pytest.raises(StoreError):
        journal.reopen()
    blocker.rmdir()
    journal.reopen()
    journal.append(following)
    assert read_all(reader) == [*made, following]


def test_missing_segment_in_the_middle_is_damage(tmp_path, clock, journal, reader):
    for _ in range(3):
        append_many(journal, 1)
        clock.advance(HOUR_NS)
    segment_path(tmp_path, 10).unlink()
    assert len(reader.read(-1)) == 1
    with pytest.raises(CorruptError, match="ends at position 9"):
        reader.read(9)


def test_reader_goes_on_through_restarts_of_the_writer(tmp_path, clock, journal, reader):
    made = append_many(journal, 1)
    assert read_all(reader) == made
    journal.close()
    for epoch in (2, 3):
        again = Journal(tmp_path, clock=clock)
        again.begin(epoch)
        made += append_many(again, 1, epoch=epoch)
        assert reader.read(made[-2].last) == made[-1:]
        again.close()
    assert read_all(reader) == made
