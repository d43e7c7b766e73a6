"""The journal under SIGKILL, a full disk, flipped bits and a reader that hangs."""

import os
import random
import select
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from store.journal import Journal
from store.journal_reader import Gap, JournalReader
from store.segment import list_segments
from telemetry.clock import ManualClock
from telemetry.errors import CorruptError, StoreError
from tests.faults.disk import fill, small_disk
from tests.faults.journal_rows import make_transaction

pytestmark = pytest.mark.system
KILLS = 40
FLIPS = 30


def make_journal(directory: Path, epoch: int = 1, **limits: int) -> Journal:
    journal = Journal(directory, clock=ManualClock(10**18), **limits)
    journal.begin(epoch)
    return journal


def read_all(directory: Path):
    reader, found = JournalReader(directory), []
    try:
        while batch := reader.read(found[-1].last if found else -1, rows_max=5000):
            found += batch
    finally:
        reader.close()
    return found


def start_writer(directory: Path, epoch: int) -> tuple[int, int]:
    """Fork a process that appends and tells each durable position over a pipe; segments are tiny, so it rotates often."""
    told, tells = os.pipe()
    child = os.fork()
    if child:
        os.close(tells)
        return child, told
    try:
        journal = make_journal(directory, epoch, segment_bytes=60_000)
        while True:
            journal.append(make_transaction(journal.last_position + 1, epoch=epoch, size=3000))
            os.write(tells, struct.pack("<q", journal.last_position))
    finally:
        os._exit(1)


def kill_after(child: int, told: int, seconds: float) -> int:
    """Last position it told before SIGKILL; -1 for none."""
    assert select.select([told], [], [], 20)[0], "the writer did not start"
    select.select([], [], [], seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    content = bytearray()
    while chunk := os.read(told, 1 << 16):
        content += chunk
    os.close(told)
    return struct.unpack("<q", content[-8:])[0]


def test_forty_kills_lose_nothing_acknowledged_and_tear_nothing(tmp_path):
    rng = random.Random(18)
    for number in range(KILLS):
        child, told = start_writer(tmp_path, number + 1)
        acknowledged = kill_after(child, told, rng.uniform(0, 0.05))
        reader = JournalReader(tmp_path)
        assert reader.last().last >= acknowledged
        reader.close()
    found = read_all(tmp_path)
    assert found[0].first == 0
    for one, following in pairwise(found):
        assert following.first == one.last + 1
    assert all(one == make_transaction(one.first, epoch=one.epoch, size=3000) for one in found)
    assert len(list_segments(tmp_path)) > 5, "no rotation was hit"
    journal = Journal(tmp_path, clock=ManualClock(10**18))
    assert (journal.last_position, journal.last_epoch) == (found[-1].last, KILLS)
    journal.close()


def copy_of_live_journal(directory: Path) -> tuple[Path, list]:
    """Files of a journal with a finished segment and an unfinished WAL, as a kill leaves them, and what they hold."""
    journal, made = make_journal(directory / "live", segment_bytes=100_000), []
    for _ in range(40):
        made.append(make_transaction(journal.last_position + 1, size=4000))
        journal.append(made[-1])
    shutil.copytree(directory / "live", directory / "dead", ignore=shutil.ignore_patterns("*-shm", "owner.lock"))
    journal.close()
    return directory / "dead", made


def test_flipped_bits_are_refused_or_without_effect(tmp_path):
    dead, made = copy_of_live_journal(tmp_path)
    assert read_all(dead) == made
    rng, refused = random.Random(8), list[bool]()
    for number in range(FLIPS):
        place = tmp_path / f"flip-{number}"
        shutil.copytree(dead, place, ignore=shutil.ignore_patterns("*-shm"))
        path = rng.choice(sorted(p for p in place.iterdir() if p.stat().st_size))
        content = bytearray(path.read_bytes())
        at = rng.randrange(len(content))
        content[at] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            assert read_all(place) == made, f"silently wrong after flip at {at} of {path.name}"
        except CorruptError as error:
            refused.append(str(error).startswith(str(place)))
    assert len(refused) > 5
    assert all(refused), "an error does not name its file"


def test_cut_tail_of_the_wal_is_refused_because_it_was_durable(tmp_path):
    dead, _ = copy_of_live_journal(tmp_path)
    wal = next(path for path in sorted(dead.glob("*-wal"), reverse=True) if path.stat().st_size)
    os.truncate(wal, wal.stat().st_size - 5000)
    with pytest.raises(CorruptError, match="was durable"):
        read_all(dead)
    with pytest.raises(CorruptError, match="was durable"):
        Journal(dead, clock=ManualClock(0))
    (dead / "mark").unlink()  # the operator accepts the loss
    make_journal(dead, epoch=2).close()


def append_forever(journal: Journal, *, size: int) -> None:
    while True:
        journal.append(make_transaction(journal.last_position + 1, size=size))


def test_full_disk_loses_nothing_and_goes_on_with_the_same_transaction(tmp_path):
    with small_disk(tmp_path / "disk", 16) as disk:
        journal = make_journal(disk / "journal")
        journal.append(make_transaction(0))
        filler = fill(disk, spare_bytes=300_000)
        with pytest.raises(StoreError, match="disk is full"):
            append_forever(journal, size=20_000)
        failed = make_transaction(journal.last_position + 1, size=20_000)
        assert read_all(disk / "journal")[-1].last == failed.first - 1
        with pytest.raises(StoreError):
            journal.append(failed)
        filler.unlink()
        journal.reopen()
        journal.append(failed)
        found = read_all(disk / "journal")
        assert found[-1] == failed
        assert [one.first for one in found] == list(range(0, failed.last, 10))
        journal.close()


@pytest.mark.alone
def test_hanging_reader_neither_stops_appends_nor_grows_the_wal(tmp_path):
    journal = make_journal(tmp_path, wal_bytes_max=6 << 20)
    journal.append(make_transaction(0))
    script = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], uri=True, isolation_level=None); c.execute('BEGIN');"
        "c.execute('SELECT * FROM tx').fetchone(); print('inside', flush=True); sys.stdin.read()"
    )
    uri = f"file:{tmp_path / f'{0:020d}.sqlite'}?mode=ro"
    command = [sys.executable, "-c", script, uri]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as hanging:
        try:
            assert hanging.stdout.readline() == "inside\n"
            os.kill(hanging.pid, signal.SIGSTOP)
            worst_s = 0.0
            for _ in range(150):
                before = time.perf_counter()
                journal.append(make_transaction(journal.last_position + 1, size=200_000))
                worst_s = max(worst_s, time.perf_counter() - before)
            sizes = [path.stat().st_size for path in tmp_path.glob("*-wal")]
            assert sum(sizes) < 20 << 20
            assert len(list_segments(tmp_path)) == 2
            assert worst_s < 1.0
        finally:
            hanging.kill()
    assert len(read_all(tmp_path)) == 151
    journal.close()


def test_reader_works_when_no_writer_lives_and_the_directory_is_read_only(tmp_path):
    journal = make_journal(tmp_path)
    journal.append(make_transaction(0))
    journal.close()
    assert list(tmp_path.glob("*-wal")) == []
    assert len(read_all(tmp_path)) == 1
    with (
        sqlite3.connect(f"file:{tmp_path / f'{0:020d}.sqlite'}?mode=ro", uri=True) as connection,
        pytest.raises(sqlite3.OperationalError),
    ):
        connection.execute("DELETE FROM tx")
    connection.close()


def test_reader_beside_a_writer_that_rotates_and_trims_sees_all_or_a_gap(tmp_path):
    child = os.fork()
    if not child:
        try:
            journal = make_journal(tmp_path, segment_bytes=80_000)
            while True:
                journal.append(make_transaction(journal.last_position + 1, size=3000))
                if journal.last_position % 500 == 9:
                    journal.trim(before=journal.last_position - 300)
        finally:
            os._exit(1)
    reader, after, gaps = JournalReader(tmp_path), -1, 0
    deadline = time.monotonic() + 30
    try:
        while (after < 8000 or gaps == 0) and time.monotonic() < deadline:
            if after % 3000 > 2000 and (last := reader.last()) is not None:
                assert last.last >= after
            try:
                found = reader.read(after, rows_max=2000)
            except Gap as gap:
                after, gaps = gap.available - 1, gaps + 1
                continue
            for transaction in found:
                assert transaction == make_transaction(after + 1, size=3000)
                after = transaction.last
            if gaps == 0 and after > 1000:
                after = 0  # a follower that fell behind
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        reader.close()
    assert after >= 8000
    assert gaps > 0
