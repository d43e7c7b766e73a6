"""A small mill that ran live: what its core decided, and the history that was written beside it. Two ring frames of 24 spindles."""

from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from app.wiring import build_engine
from ingest.decode import Directory, Gather
from store.duckdb_history import DuckDBHistory
from store.history import History
from store.projection import Projector
from telemetry.decision import Decision
from telemetry.frame import Entries
from telemetry.plan import Plan
from telemetry.record import Config
from telemetry.site import SiteConfig
from telemetry.wire.message import encode_packed
from tests.unit.app.recorded_farm import MINUTE_MS, T0_MS, whole

SPINDLES = 24
MINUTES = 6 * 60
END_MS = T0_MS + MINUTES * MINUTE_MS
RULES: list[dict[str, Any]] = [
    {"id": "SLOW", "profile": "frame", "when": "count(members: spindle_rpm < 16985) > 4", "priority": "P3"},
    {"id": "SLIP", "profile": "frame", "when": "worst(members: held(spindle_rpm < 0.98 * mean(members: spindle_rpm), 3 min)) > 0",
     "priority": "P2"},
    {"id": "ROGUE", "profile": "frame", "when": "max(members: rise(breaks, 1 h)) > 3", "off_delay_s": 120, "priority": "P2"},
    {"id": "DUST", "profile": "frame", "when": "mean(max(members: spindle_rpm), 10 min) > 17024", "area": "a", "priority": "P4"},
    {"id": "DRIVE", "profile": "frame", "when": "min(members: spindle_rpm) < 16500",
     "demand": {"actuator": "drive", "value": "clamp(mean(members: spindle_rpm) / 200, 0, 100)", "level": "equipment"}},
]  # fmt: skip


def mill(rules: list[dict[str, Any]] | None = None) -> SiteConfig:
    """A frame in each of two areas. The speed of spindles has a deadband, their breaks have none."""
    points = [
        {"name": "speed_rpm", "unit": "rpm", "low": 0, "high": 20_000, "heartbeat_s": 60},
        {"name": "spindle_rpm", "unit": "rpm", "low": 0, "high": 20_000, "heartbeat_s": 60, "members": SPINDLES, "deadband": 20},
        {"name": "breaks", "unit": "end", "low": 0, "high": 1e6, "heartbeat_s": 60, "members": SPINDLES},
    ]
    return SiteConfig.model_validate({
        "site": "mill", "zone": "UTC", "areas": [{"name": x} for x in "ab"],
        "devices": [{"name": f"frame-{x}", "profile": "frame", "area": x} for x in "ab"],
        "profiles": {"frame": {"name": "frame", "points": points, "actuators": [{"name": "drive"}]}},
        "rules": RULES if rules is None else rules,
    })  # fmt: skip


class Message(NamedTuple):
    """One that a frame sends: time [ms], device, payload; `late_ms` after its time."""

    ts_ms: int
    device: str
    payload: bytes
    late_ms: int = 0


def messages(minutes: int = MINUTES, seed: int = 7) -> list[Message]:
    """Each minute the speed of all spindles in one message and their breaks in another, some lost; one spindle slips, one breaks often."""
    rng, breaks, made = np.random.default_rng(seed), np.zeros((2, SPINDLES)), []
    for minute in range(minutes):
        for k in range(2):
            ts_ms, name = T0_MS + minute * MINUTE_MS, f"frame-{'ab'[k]}"
            rpm = 17_000 + np.round(rng.normal(0, 12, SPINDLES)) - 12 * (minute // 45 % 2)
            rpm[5] -= 600 if 100 <= minute % 180 < 115 + 10 * k else 0
            breaks[k] += rng.random(SPINDLES) < 0.005
            breaks[k, 9] += rng.random() < (0.1 if minute > 120 else 0.0)
            if rng.random() < 0.03:
                continue
            speeds: list[float | None] = rpm.tolist()
            if rng.random() < 0.1:
                speeds[int(rng.integers(SPINDLES))] = None
            body = {"v": 1, "ts": ts_ms, "p": {"speed_rpm": 17_000.0, "spindle_rpm": speeds}}
            made.append(Message(ts_ms, name, msgspec.json.encode(body)))
            made.append(Message(ts_ms + 250, name, encode_packed("breaks", breaks[k].astype("<u2"), ts_ms=ts_ms + 250)))
    return made


class Live:
    """A whole core's engine that is told everything as it comes, with a tick each 10 s; what it was told goes into a history."""

    def __init__(self, config: SiteConfig, history: History) -> None:
        self.engine, self.projector = build_engine(), Projector(history, now_s=lambda: 0.0)
        self.decisions: list[Decision] = []
        self._gather, self._rng = Gather(Directory(Plan())), np.random.default_rng(2)
        self._gather.add(Config(config.site, config.sha256(), config.canonical(), "anna"), T0_MS * 1_000_000)
        self._step(T0_MS)
        self._gather.directory = Directory(self.engine.plan)

    def hear(self, told: list[Message], end_ms: int) -> None:
        """Everything up to `end_ms`, cut anywhere."""
        coming = [(m.ts_ms + m.late_ms, 1, m) for m in told] + [(at, 0, None) for at in range(T0_MS, end_ms + 1, 10_000)]
        for at_ms, _, message in sorted(coming, key=lambda row: row[:2]):
            if message is None:
                self._gather.tick(at_ms * 1_000_000)
            else:
                self._gather.take(f"fl/mill/{message.device}/telemetry", message.payload, False, at_ms * 1_000_000)
            if self._rng.random() < 0.05 or at_ms == end_ms:
                self._step(at_ms)
        self.projector.flush()

    def _step(self, at_ms: int) -> None:
        entries: Entries = self._gather.build(self.engine.position + 1, at_ms * 1_000_000, self.engine.last_time_ns)
        if not len(entries):
            return
        outcome = self.engine.step(entries)
        self.decisions += outcome.decisions
        self.projector.take(whole(entries, outcome.admission))
        if self._rng.random() < 0.3:
            self.projector.flush()


def fill_mill(history: History, told: list[Message] | None = None) -> list[Decision]:
    """Six hours of the mill into a history; what its core decided."""
    live = Live(mill(), history)
    live.hear(messages() if told is None else told, END_MS)
    return live.decisions


def write_mill(file: Path, told: list[Message] | None = None) -> list[Decision]:
    """`fill_mill` of a DuckDB file."""
    history = DuckDBHistory(file)
    decisions = fill_mill(history, told)
    history.close()
    return decisions
