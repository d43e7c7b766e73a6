"""A small farm whose history was written by the projection: three houses that rules join in two ways, with gaps, late rows and a vent."""

from pathlib import Path
from typing import Any

import numpy as np

from store.duckdb_history import DuckDBHistory
from store.history import History
from store.projection import Projector
from telemetry.frame import Admission, Entries, Flag, Kind, Verdict, make_frames, no_frames
from telemetry.record import Config, Record, Request
from telemetry.site import SiteConfig
from telemetry.transaction import Transaction
from telemetry.wire.columns import encode_admission, encode_entries

MINUTE_MS = 60_000
T0_MS = 1_735_689_600_000  # 2025-01-01 00:00 UTC
MINUTES = 3 * 1440
END_MS = T0_MS + MINUTES * MINUTE_MS
RULES: list[dict[str, Any]] = [
    {"id": "HOT", "profile": "house", "when": "air_temp_c > 28", "hysteresis": 1, "on_delay_s": 600, "off_delay_s": 120,
     "priority": "P2", "message": {"en": "Too hot", "zh": "过热"}},
    {"id": "MEAN", "profile": "house", "when": "mean(air_temp_c, 15 min) > 27", "priority": "P3"},
    {"id": "RAIN", "profile": "house", "when": "air_temp_c > 26 and weather.wind_m_s > 6", "area": "a", "priority": "P3"},
    {"id": "QUIET", "profile": "house", "when": "silent(30 min)", "priority": "P3"},
    {"id": "DAY", "profile": "house", "when": "hour() > 12 and mode_is(OCCUPIED) and air_temp_c > 25", "priority": "P4"},
    {"id": "COOL", "profile": "house", "when": "air_temp_c > 26", "hysteresis": 1,
     "demand": {"actuator": "vent", "value": "clamp((air_temp_c - 25) * 20, 0, 100)", "level": "temperature"}},
]  # fmt: skip


def farm(rules: list[dict[str, Any]] | None = None, origin: str = "LIVE") -> SiteConfig:
    """Houses a, b and c; the weather station stands in an area of its own, and only a's rules read it."""
    points = [
        {"name": "air_temp_c", "unit": "C", "low": -30, "high": 60, "heartbeat_s": 60},
        {"name": "vent_pct", "unit": "%", "low": 0, "high": 100, "heartbeat_s": 60},
    ]
    wind = [{"name": "wind_m_s", "unit": "m/s", "low": 0, "high": 60, "heartbeat_s": 60}]
    return SiteConfig.model_validate({
        "site": "farm", "origin": origin, "zone": "UTC",
        "areas": [{"name": "sky"}, {"name": "a", "links": {"weather": "station"}}, {"name": "b"}, {"name": "c"}],
        "devices": [{"name": "station", "profile": "weather", "area": "sky"},
                    *({"name": f"house-{x}", "profile": "house", "area": x} for x in "abc")],
        "profiles": {
            "weather": {"name": "weather", "points": wind},
            "house": {"name": "house", "points": points, "actuators": [{"name": "vent", "feedback": "vent_pct"}]},
        },
        "rules": RULES if rules is None else rules,
    })  # fmt: skip


def records(first: int, given: list[tuple[int, Record, Kind]]) -> Transaction:
    """A transaction of records at times [ms]."""
    kinds, times = np.array([k for _, _, k in given], np.uint8), np.array([t for t, _, _ in given], np.int64) * 1_000_000
    entries = Entries(first, kinds, times, no_frames(), tuple((k, record) for k, (_, record, _) in enumerate(given)))
    return whole(entries, Admission(np.zeros(0, np.uint8), np.zeros(0, np.uint16)))


def whole(entries: Entries, admission: Admission) -> Transaction:
    """The transaction that core would have written."""
    return Transaction(
        entries.first, len(entries), 1, int(entries.time_ns[-1]), encode_entries(entries), encode_admission(admission), b"", b"{}",
        len(entries.frames.point),
    )  # fmt: skip


def samples(seed: int = 3) -> list[tuple[int, int, int, float]]:
    """(time in ms, device, point, value) in order of time: waves with noise; c says nothing for two hours, some rows are missing."""
    rng = np.random.default_rng(seed)
    rows = []
    for minute in range(MINUTES):
        ts_ms, hour = T0_MS + minute * MINUTE_MS, minute / 60
        rows.append((ts_ms, 0, 0, round(float(4 + 4 * np.sin(hour / 3) + rng.normal(0, 0.5)), 2)))
        for house in range(3):
            if (house == 2 and 20 < hour < 22) or rng.random() < 0.02:
                continue
            warm = 22 + 7 * np.sin((hour - 9 + house) / 24 * 2 * np.pi) + rng.normal(0, 0.5)
            rows.append((ts_ms, 1 + house, 1 + 2 * house, round(float(warm), 2)))
            rows.append((ts_ms, 1 + house, 2 + 2 * house, float(10 * house)))
    return rows


def write_farm(file: Path, config: SiteConfig | None = None) -> None:
    """`fill_farm` of a DuckDB file."""
    history = DuckDBHistory(file)
    fill_farm(history, config)
    history.close()


def fill_farm(history: History, config: SiteConfig | None = None) -> None:
    """The history, with people's words; every hundredth frame comes an hour late, as a device that was offline brings it."""
    config = config or farm()
    projector = Projector(history, now_s=lambda: 0.0)
    applied = Config("farm", config.sha256(), config.canonical(), "anna")
    before = Request("r1", "mode", "anna", {"area": "farm/a", "mode": "OCCUPIED"})
    projector.take(records(0, [(T0_MS - 3_600_000, applied, Kind.CONFIG), (T0_MS - 1_800_000, before, Kind.REQUEST)]))
    by_frame: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for ts_ms, device, point, value in samples():
        by_frame.setdefault((ts_ms, device), []).append((point, value))
    arriving = sorted(by_frame.items(), key=lambda item: item[0][0] + (3_600_000 if sum(item[0]) // 60_000 % 100 == 7 else 0))
    for k in range(0, len(arriving), 2_000):
        projector.take(_frames(projector.position + 1, arriving[k : k + 2_000]))
        projector.flush()
    again = Request("r2", "mode", "anna", {"area": "farm/b", "mode": "OCCUPIED"})
    projector.take(records(projector.position + 1, [(T0_MS + 86_400_000, again, Kind.REQUEST)]))
    projector.flush()


def _frames(first: int, part: list[tuple[tuple[int, int], list[tuple[int, float]]]]) -> Transaction:
    n = len(part)
    frames = make_frames({
        "entry": np.arange(n), "device": [device for (_, device), _ in part], "ts_ns": [ts * 1_000_000 for (ts, _), _ in part],
        "boot": np.ones(n), "seq": np.zeros(n), "flags": np.full(n, Flag.HAS_SEQ | Flag.HAS_TS | Flag.FIRST),
        "offsets": np.cumsum([0, *(len(rows) for _, rows in part)]), "point": [p for _, rows in part for p, _ in rows],
        "value": [v for _, rows in part for _, v in rows], "quality": np.zeros(sum(len(rows) for _, rows in part)),
    })  # fmt: skip
    entries = Entries(first, np.full(n, Kind.FRAME, np.uint8), np.full(n, int(frames.ts_ns.max())), frames)
    return whole(entries, Admission(np.full(n, Verdict.LIVE, np.uint8), np.zeros(len(frames.point), np.uint16)))
