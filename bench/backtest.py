"""A year of houses through `fieldloom backtest`: wall time of the whole installed command, its parts, and its memory.

    python -m bench --only backtest

History is written by the projection from journal transactions, with gaps, late rows and noise. The full size is 100 houses of 20 points
at one sample a minute for a year under 50 rules: 1.04e9 samples, a quarter of an hour to write and 6 GB of disk; `--short` is two days,
FIELDLOOM_BENCH_DAYS sets another length: `backtest.wall_s` then stands for `backtest.year_s`. Where FIELDLOOM_BENCH_DIR names a
directory, the history is kept there and found again by the next run.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
from numpy.typing import NDArray

from bench.rig import ROOT
from store.duckdb_history import DuckDBHistory
from store.projection import Projector
from telemetry.frame import Admission, Entries, Flag, Kind, Verdict, make_frames, no_frames
from telemetry.plan import Plan
from telemetry.record import Config, Record
from telemetry.site import SiteConfig
from telemetry.transaction import Transaction
from telemetry.wire.columns import encode_admission, encode_entries

T0_NS: Final = 1_735_689_600_000_000_000  # 2025-01-01 00:00 UTC
MINUTE_NS: Final = 60_000_000_000
HOUSES, POINTS, RULES = 100, 20, 50
YEAR_DAYS: Final = 365
CHUNK: Final = 120  # minutes in one transaction, which is one append: many small ones would cost a wait for the disk each
YEAR_S_MAX: Final = 60.0


def site_config(houses: int = HOUSES) -> SiteConfig:
    """Houses in areas of their own, 20 points each, 50 rules: 35 limits with delays, 15 over windows."""
    points = [
        {"name": f"p{k}", "unit": "C", "low": -50, "high": 150, "heartbeat_s": 60, "decimals": 2} for k in range(POINTS)
    ]  # fmt: skip
    rules: list[dict[str, Any]] = []
    for k in range(RULES):
        point, limit = f"p{k % POINTS}", 27.5 + k % 5
        over = f"mean({point}, 15 min)" if k >= 35 else point
        rules.append(
            {"id": f"R{k}", "when": f"{over} > {limit}", "hysteresis": 1, "on_delay_s": 300, "off_delay_s": 120, "priority": "P2"}
        )
    profile = {"name": "house", "points": points, "rules": rules}
    return SiteConfig.model_validate({
        "site": "year", "areas": [{"name": f"a{k}"} for k in range(houses)], "profiles": {"house": profile},
        "devices": [{"name": f"house-{k}", "profile": "house", "area": f"a{k}"} for k in range(houses)],
    })  # fmt: skip


def record_transaction(first: int, records: list[tuple[int, Record, Kind]]) -> Transaction:
    """A transaction of records at times [ns]."""
    kinds = np.array([kind for _, _, kind in records], np.uint8)
    times = np.array([time_ns for time_ns, _, _ in records], np.int64)
    entries = Entries(first, kinds, times, no_frames(), tuple((k, record) for k, (_, record, _) in enumerate(records)))
    return _transaction(entries, Admission(np.zeros(0, np.uint8), np.zeros(0, np.uint16)))


def _transaction(entries: Entries, admission: Admission) -> Transaction:
    last, rows = int(entries.time_ns[-1]), len(entries.frames.point)
    return Transaction(
        entries.first, len(entries), 1, last, encode_entries(entries), encode_admission(admission), b"", b"{}", rows
    )  # fmt: skip


class Year:
    """Frames of the houses by chunks of minutes: a day's wave, noise, a few hot spells; 1 % missing, 1 % of frames late by a chunk."""

    def __init__(self, plan: Plan, seed: int = 1) -> None:
        self._points = np.array([list(device.points) for device in plan.devices], np.int32)
        self._rng = np.random.default_rng(seed)
        self._held: list[tuple[NDArray[Any], ...]] = []  # late frames, for a later chunk

    def chunk(self, first: int, minute: int, minutes: int) -> Transaction:
        """One transaction."""
        houses, points = self._points.shape
        rng, n = self._rng, houses * minutes
        ts_ns = T0_NS + np.repeat(np.arange(minute, minute + minutes), houses) * MINUTE_NS
        device = np.tile(np.arange(houses), minutes)
        hours = (ts_ns - T0_NS) / 3.6e12
        spell = (device * 7 + ts_ns // (MINUTE_NS * 360)) % 97 == 0  # six hot hours of a house, every 24 days
        level = 20 + 5 * np.sin(hours * 2 * np.pi / 24) + 6 * spell
        value = np.round(level[:, None] + rng.normal(0, 0.4, (n, points)), 2)
        late = rng.random(n) < 0.01
        now = tuple(column[~late] for column in (ts_ns, device, value))
        held, self._held = self._held, [tuple(column[late] for column in (ts_ns, device, value))]
        for past in held:
            now = tuple(np.concatenate([a, b]) for a, b in zip(past, now, strict=True))
        verdict = np.full(len(now[0]), Verdict.LIVE, np.uint8)
        verdict[: len(now[0]) - int((~late).sum())] = Verdict.LATE
        return self._made(first, *now, verdict)

    def _made(
        self, first: int, ts_ns: NDArray[Any], device: NDArray[Any], value: NDArray[Any], verdict: NDArray[Any]
    ) -> Transaction:
        n, there = len(ts_ns), self._rng.random(value.shape) >= 0.01
        frames = make_frames({
            "entry": np.arange(n), "device": device, "ts_ns": ts_ns, "boot": np.ones(n), "seq": np.zeros(n),
            "flags": np.full(n, Flag.HAS_SEQ | Flag.HAS_TS | Flag.FIRST), "offsets": np.append(0, np.cumsum(there.sum(1))),
            "point": self._points[device][there], "value": value[there], "quality": np.zeros(int(there.sum())),
        })  # fmt: skip
        entries = Entries(first, np.full(n, Kind.FRAME, np.uint8), np.full(n, int(ts_ns.max())), frames)
        return _transaction(entries, Admission(verdict, np.zeros(len(frames.point), np.uint16)))


def write_history(file: Path, config: SiteConfig, *, minutes: int, seed: int = 1) -> int:
    """A history of so many minutes through the projection, days packed behind it as `web` has them; how many samples it holds."""
    history, now = DuckDBHistory(file), [T0_NS / 1e9]
    projector = Projector(history, now_s=lambda: now[0])
    told = Config(config.site, config.sha256(), config.canonical(), "bench")
    projector.take(record_transaction(0, [(T0_NS - MINUTE_NS, told, Kind.CONFIG)]))
    year = Year(projector.plan, seed)
    rows = 0
    for minute in range(0, minutes, CHUNK):
        made = year.chunk(projector.position + 1, minute, min(CHUNK, minutes - minute))
        rows += made.rows
        now[0] = (T0_NS + (minute + CHUNK) * MINUTE_NS) / 1e9
        projector.take(made)
        projector.flush()
        projector.tend()
    history.close()
    return rows


@contextlib.contextmanager
def written(minutes: int) -> Iterator[Path]:
    """A data directory with a history of so many minutes: kept under FIELDLOOM_BENCH_DIR, else gone after use."""
    config, kept = site_config(), os.environ.get("FIELDLOOM_BENCH_DIR")
    with contextlib.ExitStack() as stack:
        base = Path(kept or stack.enter_context(tempfile.TemporaryDirectory(prefix="fieldloom-backtest-")))
        place = base / f"backtest-{minutes}min-packed-{config.sha256()[:8]}"
        if not place.is_dir():  # it has this name only when it is whole
            part = Path(tempfile.mkdtemp(prefix="part-", dir=base))
            write_history(part / "history.duckdb", config, minutes=minutes)
            part.rename(place)
        yield place


def command(data_dir: Path, minutes: int, *more: str) -> tuple[float, dict[str, Any]]:
    """The installed command over a written history: wall seconds, and its report."""
    out = data_dir / "report.json"
    ends = [f"{np.datetime64(T0_NS + at * MINUTE_NS, 'ns'):}"[:19] + "Z" for at in (0, minutes)]
    words = [
        str(Path(sys.executable).parent / "fieldloom"),
        "backtest",
        "site",
        "--site",
        "year",
        "--from",
        ends[0],
        "--to",
        ends[1],
    ]
    began = time.perf_counter()
    environment = {**os.environ, "FIELDLOOM_DATA_DIR": str(data_dir)}
    subprocess.run([*words, "--json", str(out), *more], check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began, json.loads(out.read_text())


def run(*, short: bool) -> list[dict[str, Any]]:
    """Figures of this group; a run that is not a year long says so instead of a ratio."""
    days = float(os.environ.get("FIELDLOOM_BENCH_DAYS", "2" if short else str(YEAR_DAYS)))
    minutes = int(days * 1440)
    with written(minutes) as directory:
        with duckdb.connect(str(directory / "history.duckdb"), read_only=True) as connection:
            rows = connection.execute("SELECT count(*) FROM samples").fetchall()[0][0]
        wall_s, report = command(directory, minutes)
    is_year = minutes >= YEAR_DAYS * 1440
    problem = "" if report["samples"] <= rows and report["complete"] else f"read {report['samples']} of {rows} samples"
    if is_year and report["transitions"] < 10_000:
        problem = f"only {report['transitions']} alarm transitions"
    name = "backtest.year_s" if is_year else "backtest.wall_s"
    figures = [
        (name, wall_s, "s", YEAR_S_MAX if is_year else None), ("backtest.rss_mb", report["rss_mb"], "MB", 1000.0),
        ("backtest.reading_s", report["reading_s"], "s", None), ("backtest.framing_s", report["framing_s"], "s", None),
        ("backtest.evaluating_s", report["evaluating_s"], "s", None),
        ("backtest.samples_s", report["samples"] / wall_s, "1/s", None), ("backtest.days", days, "d", YEAR_DAYS),
    ]  # fmt: skip
    return [
        {"name": name, "value": None if problem else value, "unit": unit, "reference": reference,
         "ratio": value / reference if reference else None, **({"problem": problem} if problem else {})}
        for name, value, unit, reference in figures
    ]  # fmt: skip
