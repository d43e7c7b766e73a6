"""Journal appends: rows a second and latency of 1,000-row commits. python bench/journal_append.py [directory] [commits]."""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from store.journal import Journal
from telemetry.transaction import Transaction

ROWS = 1000
BYTES = 34_000  # 1,000 samples in 250 frames


class WallClock:
    """Real time."""

    def now_ns(self) -> int:
        """Now."""
        return time.time_ns()


def main(parent: str, commits: int) -> None:
    """Append `commits` transactions in a temporary directory below `parent` and print what it took."""
    blob, taken_ms = os.urandom(BYTES), np.zeros(commits)
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        journal = Journal(Path(directory), clock=WallClock())
        journal.begin(1)
        for number in range(commits):
            transaction = Transaction(number, 1, 1, number, blob, b"", b"", b"{}", ROWS)
            before = time.perf_counter()
            journal.append(transaction)
            taken_ms[number] = (time.perf_counter() - before) * 1e3
        journal.close()
    rates = ROWS * commits / taken_ms.sum() / 1e3
    p50, p99, worst = np.percentile(taken_ms, (50, 99, 100))
    print(f"{rates:.2f} M rows/s; commit p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {worst:.2f} ms")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else ".", int(sys.argv[2]) if len(sys.argv) > 2 else 4000)
