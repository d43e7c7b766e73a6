"""History append and query beside bare DuckDB doing the same with the same columns in the same run.

    python -m bench --only history

Rows are appended in batches of 10,000 (what one projector flush holds), ours and bare in turn, each into its own file with the
same settings and one commit per batch. Figures are medians over the rounds; a run whose counted rows differ prints no figure.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from store.duckdb_history import MEMORY_MB, THREADS, DuckDBHistory
from store.history import SampleRows, Series, make_rows
from store.projection import Projector
from telemetry.decision import encode_decisions
from telemetry.frame import Admission, Entries, Flag, Kind, make_frames
from telemetry.transaction import Transaction
from telemetry.wire.columns import encode_admission, encode_entries

BATCH = 10_000
BATCHES = 60  # of one round: 0.6 M rows
POINTS = 1000
ROUNDS = 5
START_MS = 1_700_000_000_000
DAY_MS = 86_400_000
BUCKETS = 500
LIVE = int(Flag.HAS_SEQ | Flag.HAS_TS | Flag.FIRST)
_BARE_QUERY = """
SELECT (ts_ms - ?) // ? AS b, min(value), max(value), avg(value) FROM samples
WHERE point = ? AND ts_ms >= ? AND ts_ms < ? GROUP BY b ORDER BY b
"""


def batch(number: int, random: np.random.Generator) -> SampleRows:
    """10 samples of each of 1,000 points, as ten seconds of a site bring them."""
    per_point = BATCH // POINTS
    ts_ms = START_MS + 1000 * (number * per_point + np.repeat(np.arange(per_point), POINTS))
    return make_rows(np.tile(np.arange(POINTS), per_point), ts_ms, np.round(random.normal(20, 5, BATCH), 2))


class Bare:
    """DuckDB as its users drive it: Arrow columns, INSERT .. SELECT, one transaction per batch."""

    def __init__(self, path: Path) -> None:
        self.connection = duckdb.connect(str(path), config={"memory_limit": f"{MEMORY_MB}MB", "threads": THREADS})
        self.connection.execute("CREATE TABLE samples(point INTEGER, ts_ms BIGINT, value DOUBLE, quality USMALLINT)")

    def append(self, rows: SampleRows) -> None:
        """Insert the four stored columns."""
        columns = pa.table([rows.point, rows.ts_ms, rows.value, rows.quality], names=["point", "ts_ms", "value", "quality"])
        self.connection.begin()
        self.connection.register("given", columns)
        self.connection.execute("INSERT INTO samples SELECT * FROM given")
        self.connection.unregister("given")
        self.connection.commit()

    def count(self) -> int:
        """Rows stored."""
        return int(self.connection.execute("SELECT count(*) FROM samples").fetchall()[0][0])

    def query(self, point: int) -> Any:
        """One day in 500 buckets."""
        width = -(-DAY_MS // BUCKETS)
        return self.connection.execute(_BARE_QUERY, [START_MS, width, point, START_MS, START_MS + DAY_MS]).fetchnumpy()


def rate(append: Callable[[SampleRows], object], batches: list[SampleRows]) -> float:
    """Rows a second."""
    began = time.perf_counter()
    for rows in batches:
        append(rows)
    return BATCH * len(batches) / (time.perf_counter() - began)


def transactions(numbers: range, random: np.random.Generator) -> list[Transaction]:
    """A batch each, as 1,000 frames of ten samples that reach core within ten seconds, with a tick a second."""
    found = []
    for number in numbers:
        rows = batch(number, random)
        devices, n = POINTS // 10, BATCH // 10
        ts_ns = rows.ts_ms[::10] * 1_000_000
        columns = {
            "entry": np.arange(n) + np.arange(n) // devices + 1, "device": rows.point[::10] // 10, "ts_ns": ts_ns,
            "boot": np.full(n, 7), "seq": number * 10 + np.arange(n) // devices, "flags": np.full(n, LIVE), "point": rows.point,
            "offsets": np.arange(n + 1) * 10, "value": rows.value, "quality": rows.quality,
        }  # fmt: skip
        kind = np.full(n + 10, Kind.FRAME, np.uint8)
        kind[:: devices + 1] = Kind.TICK
        time_ns = np.repeat(ts_ns[::devices], devices + 1) + np.sort(random.integers(0, 900_000_000, (10, devices + 1))).ravel()
        entries = Entries(number * (n + 10), kind, time_ns, make_frames(columns))
        admission = Admission(np.zeros(n, np.uint8), rows.quality)
        made = encode_entries(entries), encode_admission(admission)
        found.append(Transaction(entries.first, n + 10, 1, int(time_ns[-1]), *made, encode_decisions([]), b"{}", BATCH))
    return found


class Unordered(DuckDBHistory):
    """The same store without the order of entries."""

    def append(self, *given: Any, **named: Any) -> Any:
        """See DuckDBHistory."""
        return super().append(*given, **{**named, "order": None})


def follow(directory: Path) -> dict[str, float]:
    """What the order of entries costs a projector: rows a second with and without, and bytes of a sample."""
    random = np.random.default_rng(2)
    stores = {"with": DuckDBHistory(directory / "with.duckdb"), "without": Unordered(directory / "without.duckdb")}
    projectors = {name: Projector(store, now_s=lambda: 0.0, rows_max=BATCH) for name, store in stores.items()}
    rates: dict[str, list[float]] = {name: [] for name in stores}
    for turn in range(ROUNDS):
        taken = transactions(range(turn * BATCHES, (turn + 1) * BATCHES), random)
        for name in list(stores) if turn % 2 else list(stores)[::-1]:
            began = time.perf_counter()
            for transaction in taken:
                projectors[name].take(transaction)
                projectors[name].flush()
            rates[name].append(BATCH * BATCHES / (time.perf_counter() - began))
    runs = stores["with"].runs(-1)
    for store in stores.values():
        store.close()
    size = {name: (directory / f"{name}.duckdb").stat().st_size / (BATCH * BATCHES * ROUNDS) for name in stores}
    return {
        "history.follow_rows_s": statistics.median(rates["with"]),
        "history.follow_unordered_rows_s": statistics.median(rates["without"]),
        "history.follow_of_unordered": statistics.median(a / b for a, b in zip(*rates.values(), strict=True)),
        "history.order_bytes_sample": statistics.mean(len(run.data) / BATCH for run in runs),
        "history.bytes_sample": size["with"],
        "history.unordered_bytes_sample": size["without"],
    }


def median_ms(query: Callable[[int], object]) -> float:
    """Median time of one query over 30 points."""
    taken = []
    for point in range(0, POINTS, POINTS // 30):
        began = time.perf_counter()
        query(point)
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


def measure(directory: Path) -> dict[str, float]:
    """All figures by name. RuntimeError when rows were lost or doubled."""
    history, bare = DuckDBHistory(directory / "ours.duckdb"), Bare(directory / "bare.duckdb")
    history.declare([Series(n, "site", f"d{n // 10}", f"p{n % 10}", "C") for n in range(POINTS)])
    random = np.random.default_rng(1)
    ours: list[float] = []
    theirs: list[float] = []
    sent = position = 0

    def append(rows: SampleRows) -> None:
        nonlocal position
        history.append(rows, [], position)
        position += 1

    for turn in range(ROUNDS):
        batches = [batch(turn * BATCHES + number, random) for number in range(BATCHES)]
        pair = [(ours, append), (theirs, bare.append)]
        for rates, measured in pair if turn % 2 == 0 else pair[::-1]:
            rates.append(rate(measured, batches))
        sent += BATCH * BATCHES
    if not sent == history.count() == bare.count():
        raise RuntimeError(f"sent {sent} rows, history counts {history.count()}, bare {bare.count()}: no figure")
    query = median_ms(lambda point: history.downsample(point, START_MS, START_MS + DAY_MS, BUCKETS))
    bare_query = median_ms(bare.query)
    history.close()
    bare.connection.close()
    return {
        "history.append_rows_s": statistics.median(ours),
        "history.append_bare_rows_s": statistics.median(theirs),
        "history.append_of_bare": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
        "history.query_day_500_ms": query,
        "history.query_day_500_bare_ms": bare_query,
        "history.rows_sent": sent,
        "history.rows_counted": sent,
    }


def run(*, short: bool) -> list[dict[str, Any]]:
    """Rows of build/bench.json; nothing here is long enough to be shortened."""
    del short
    with tempfile.TemporaryDirectory(prefix="fieldloom-bench-") as directory:
        figures = measure(Path(directory)) | follow(Path(directory))
    bare = {
        "history.append_rows_s": "history.append_bare_rows_s", "history.query_day_500_ms": "history.query_day_500_bare_ms",
        "history.follow_rows_s": "history.follow_unordered_rows_s", "history.bytes_sample": "history.unordered_bytes_sample",
    }  # fmt: skip
    units = {
        "history.append_rows_s": "1/s", "history.append_of_bare": "1", "history.query_day_500_ms": "ms",
        "history.follow_rows_s": "1/s", "history.bytes_sample": "B", "history.order_bytes_sample": "B",
    }  # fmt: skip
    rows = []
    for name, unit in units.items():
        reference = figures[bare[name]] if name in bare else None
        ratio = figures[name] / reference if reference else None
        rows.append({"name": name, "value": figures[name], "unit": unit, "reference": reference, "ratio": ratio})
    return rows
