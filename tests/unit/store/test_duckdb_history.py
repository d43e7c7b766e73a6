"""DuckDB's own promises: one owner, crash safety, time limits, compaction, and a full disk."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from store.duckdb_history import DAY_MS, DuckDBHistory
from store.history import HistoryFault, QueryLimit, RecordRow, make_rows, no_rows
from telemetry.errors import StoreError
from tests.faults.process import DEADLINE_S

T0 = 1_700_000_000_000
ROOT = Path(__file__).parents[3]

# Appends 500 rows and one record per position for ever and prints each position after its append returned.
WRITER = """
    import sys
    from pathlib import Path
    import numpy as np
    from store.duckdb_history import DuckDBHistory
    from store.history import RecordRow, make_rows

    history = DuckDBHistory(Path(sys.argv[1]), memory_mb=64)
    position = history.position()
    while True:
        position += 1
        rows = make_rows(np.arange(500) % 10, np.arange(500) // 10 + 50 * position, float(position))
        history.append(rows, [RecordRow(position, position, "event", "", "", "tick", "{}")], position, plan=b"%d" % position)
        print(position, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.duckdb"


def start_writer(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("seed", range(4))
def test_killed_writer_leaves_rows_records_plan_and_position_of_the_same_append(path, seed):
    dice = random.Random(seed)
    writer = start_writer(path)
    acknowledged = -1
    for _ in range(dice.randrange(3, 40)):
        acknowledged = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.wait()
    writer.stdout.close()
    acknowledged = int(rest[-1]) if rest else acknowledged
    history = DuckDBHistory(path, memory_mb=64)
    position = history.position()
    assert acknowledged <= position <= acknowledged + 1
    assert history.count() == 500 * (position + 1)
    assert [row.position for row in history.records(newest_first=False, limit=10_000)] == list(range(position + 1))
    assert history.saved_plan() == b"%d" % position
    history.close()


def test_second_process_is_refused_with_the_reason(path):
    writer = start_writer(path)
    writer.stdout.readline()
    try:
        with pytest.raises(HistoryFault, match="open in another process; only one `fieldloom serve web` may own it") as raised:
            DuckDBHistory(path)
        assert not raised.value.retryable
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


def test_file_that_is_no_database_is_reported(path):
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match=r"history\.duckdb"):
        DuckDBHistory(path)


def filled(path: Path, **options: float) -> DuckDBHistory:
    history = DuckDBHistory(path, memory_mb=128, **options)
    for position in range(10):
        rows = make_rows(np.arange(100_000) % 10, np.arange(100_000) // 10 + 10_000 * position, 1.0)
        history.append(rows, [], position)
    return history


def test_slow_query_is_stopped_at_the_time_limit_and_the_store_goes_on(path):
    history = filled(path, query_limit_s=0.005)  # a query takes about 12 ms

    def ask_until_stopped() -> None:
        for _ in range(1000):
            history.downsample(1, 0, 100_000, 1000)

    with pytest.raises(QueryLimit, match="shorter range"):
        ask_until_stopped()
    history.append(make_rows([1], 10**9, 1.0), [], 10)
    history.close()


def test_interrupt_stops_reads_of_other_threads(path):
    history = filled(path)
    stopped: list[BaseException] = []

    def read() -> None:
        try:
            while True:
                history.downsample(1, 0, 100_000, 1000)
        except QueryLimit as error:
            stopped.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    deadline = time.monotonic() + DEADLINE_S
    while reader.is_alive() and time.monotonic() < deadline:
        history.interrupt()
    reader.join(DEADLINE_S)
    assert len(stopped) == 1
    assert history.count() == 1_000_000
    history.close()


def test_compaction_changes_no_answer_and_ends(path):
    history = DuckDBHistory(path, memory_mb=64)
    dice = np.random.default_rng(1)
    when = T0 + dice.permutation(3 * 1000) * (DAY_MS // 1000)
    for position, part in enumerate(np.split(when, 6)):
        history.append(make_rows(np.arange(500) % 5, part, part % 97), [], position)
    ask = [lambda: history.read(2, 0, 2 * T0, limit=10_000), lambda: history.downsample(2, T0, T0 + 3 * DAY_MS, 100)]
    before = [(r.ts_ms if hasattr(r, "ts_ms") else r.t_ms).tolist() for r in (q() for q in ask)]
    border = T0 + 2 * DAY_MS
    steps = []
    while moved := history.compact(border, rows_max=600):
        steps.append(moved)
    assert sum(steps) == int(np.count_nonzero(when < border))
    assert max(steps) <= 600
    assert [(r.ts_ms if hasattr(r, "ts_ms") else r.t_ms).tolist() for r in (q() for q in ask)] == before
    late = history.read(2, 0, 2 * T0, limit=1)
    assert history.append(make_rows(late.point, late.ts_ms, late.value), [], 6) == (0, 1, 0, 0)
    history.close()
    history = DuckDBHistory(path, memory_mb=64)
    assert history.count() == 3000
    history.close()


def test_failed_append_rolls_back_and_the_same_append_succeeds_later(path):
    history = DuckDBHistory(path, memory_mb=64)
    broken = RecordRow(0, 1 << 80, "event", "", "", "", "")  # a time no column can hold
    with pytest.raises((StoreError, OverflowError)):
        history.append(make_rows([1], T0, 1.0), [broken], 0)
    assert (history.count(), history.position()) == (0, -1)
    history.append(make_rows([1], T0, 1.0), [broken._replace(time_ns=1)], 0)
    assert (history.count(), history.position()) == (1, 0)
    history.close()


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/shm").is_dir(), reason="needs root to mount a small file system")
def test_full_disk_fails_cleanly_and_goes_on_once_there_is_room(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)], capture_output=True, check=False).returncode:
        pytest.skip("this machine may not mount a tmpfs")
    try:
        ballast = small / "ballast"
        ballast.write_bytes(b"x" * (16 << 20))
        history = DuckDBHistory(small / "history.duckdb", memory_mb=64)
        dice = np.random.default_rng(1)

        def append() -> None:
            position = history.position() + 1
            rows = make_rows(np.arange(20_000), position * 10 + dice.integers(0, 10, 20_000), dice.normal(size=20_000))
            history.append(rows, [], position)

        def append_until_full() -> None:
            for _ in range(100):
                append()

        with pytest.raises(StoreError):
            append_until_full()
        stored = history.position()
        assert history.count() == 20_000 * (stored + 1)
        ballast.unlink()
        append()
        assert history.position() == stored + 1
        assert history.count() == 20_000 * (stored + 2)
        history.close()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_empty_append_moves_the_position_alone(path):
    history = DuckDBHistory(path, memory_mb=64)
    history.append(no_rows(), [], 41)
    history.close()
    history = DuckDBHistory(path, memory_mb=64)
    assert history.position() == 41
    history.close()
