"""A small world for tests of the web process: two sites of different owners, transactions made by hand, people with tokens."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from api.auth import Gate, Role, Sessions
from api.feed import FeedHub
from api.limits import LoginLimit, QueryPool
from api.orders import BacktestAsked, OrderState, WarmingState
from api.parts import Parts, RequestDesk
from api.state import Delta, LiveState, parse
from people.delivery import DeliveryJournal, Outgoing, PathTest, Work
from store.duckdb_history import DuckDBHistory
from store.history import History
from store.projection import Projector
from telemetry.clock import ManualClock
from telemetry.decision import Decision, encode_decisions
from telemetry.frame import Admission, Entries, Flag, Kind, MemberArray, Verdict, make_frames
from telemetry.plan import Plan
from telemetry.record import Ack, Clock, Config, Event, Record, Request, Start
from telemetry.site import SiteConfig
from telemetry.transaction import Accounting, Transaction
from telemetry.wire.columns import encode_admission, encode_entries

START_NS = 1_767_225_600_000_000_000  # 2026-01-01 00:00 UTC
SECOND_NS = 1_000_000_000
KINDS = {Event: Kind.EVENT, Ack: Kind.ACK, Request: Kind.REQUEST, Config: Kind.CONFIG, Clock: Kind.CLOCK, Start: Kind.START}


def site(name: str, *, devices: int = 2, origin: str = "SIMULATED") -> SiteConfig:
    """A greenhouse with a few points, one member array and a vent with feedback."""
    return SiteConfig.model_validate(
        {
            "site": name,
            "label": {"en": f"Nursery {name}", "zh": f"育苗场 {name}"},
            "origin": origin,
            "areas": [{"name": "ms", "label": {"en": "Multi-span", "zh": "连栋温室"}}],
            "devices": [{"name": f"house-{i}", "profile": "house", "area": "ms"} for i in range(devices)],
            "profiles": {
                "house": {
                    "name": "house",
                    "label": {"en": "Greenhouse", "zh": "温室"},
                    "points": [
                        {"name": "air_temp_c", "unit": "°C", "low": -30, "high": 60, "heartbeat_s": 10, "band": [18, 30],
                         "label": {"en": "Air temperature", "zh": "气温"}},
                        {"name": "air_rh_pct", "unit": "%", "low": 0, "high": 100, "heartbeat_s": 10, "decimals": 0,
                         "label": {"en": "Humidity", "zh": "相对湿度"}},
                        {"name": "vent_pct", "unit": "%", "low": 0, "high": 100, "heartbeat_s": 10,
                         "label": {"en": "Roof vent", "zh": "天窗开度"}},
                        {"name": "ends", "unit": "1", "low": 0, "high": 1e6, "members": 8, "heartbeat_s": 10},
                    ],
                    "actuators": [
                        {"name": "roof_vent", "feedback": "vent_pct", "fail_safe": 0, "label": {"en": "Roof vent", "zh": "天窗"}}
                    ],
                }
            },
            "rules": [
                {"id": "HOT", "profile": "house", "when": "air_temp_c > 38", "priority": "P2",
                 "message": {"en": "Air is too hot", "zh": "气温过高"}}
            ],
        }
    )  # fmt: skip


def config_record(config: SiteConfig) -> Config:
    """Its journal record."""
    return Config(config.site, config.sha256(), config.canonical(), "test")


@dataclass(slots=True)
class Writer:
    """Makes transactions in journal order, as core would."""

    now_ns: int = START_NS
    first: int = 0
    accounting: Accounting = field(default_factory=Accounting)
    plan: Plan = field(default_factory=Plan)

    def write(
        self,
        frames: Sequence[tuple[str, dict[str, float], float]] = (),
        records: Sequence[Record] = (),
        decisions: Sequence[tuple[str, str, dict[str, Any]]] = (),
        *,
        verdict: Verdict = Verdict.LIVE,
        quality: int = 0,
        members: dict[str, list[float]] | None = None,
        after_s: float = 1.0,
    ) -> Transaction:
        """One transaction `after_s` later. frames: (device key, values by point, seconds relative to now)."""
        self.now_ns += int(after_s * SECOND_NS)
        for record in records:
            if isinstance(record, Config):
                self.plan.apply(SiteConfig.model_validate_json(record.text))
        columns: dict[str, list[Any]] = {
            name: [] for name in ("entry", "device", "ts_ns", "boot", "seq", "flags", "point", "value", "quality")
        }
        offsets = [0]
        for i, (key, values, relative_s) in enumerate(frames):
            device = self.plan.device(key)
            assert device is not None, key
            columns["entry"].append(len(records) + i)
            columns["device"].append(device.number)
            columns["ts_ns"].append(self.now_ns + int(relative_s * SECOND_NS))
            columns["boot"].append(1)
            columns["seq"].append(self.first + i)
            columns["flags"].append(int(Flag.HAS_SEQ | Flag.HAS_TS | Flag.FIRST))
            for name, value in values.items():
                columns["point"].append(device.point(name))
                columns["value"].append(value)
                columns["quality"].append(quality)
            offsets.append(len(columns["point"]))
        arrays = []
        for key, values in (members or {}).items():
            device_key, _, name = key.rpartition("/")
            device = self.plan.device(device_key)
            assert device is not None
            arrays.append(MemberArray(0, device.point(name) or 0, np.array(values, np.float32)))
        made = make_frames({**columns, "offsets": offsets}, tuple(arrays))
        count = max(1, len(records) + len(frames))
        kinds = [KINDS[type(r)] for r in records] + [Kind.FRAME] * len(frames)
        kinds = kinds or [Kind.TICK]
        entries = Entries(
            self.first, np.array(kinds, np.uint8), np.full(count, self.now_ns, np.int64), made, tuple(enumerate(records))
        )
        admission = Admission(np.full(len(frames), verdict, np.uint8), np.array(columns["quality"], np.uint16))
        last = self.first + count - 1
        made_decisions = [Decision(last, 1, self.now_ns, 0, kind, subject, body) for kind, subject, body in decisions]
        self.accounting.received += len(frames)
        self.accounting.stored += len(frames)
        self.accounting.samples_received += len(columns["point"])
        self.accounting.samples_stored += len(columns["point"])
        transaction = Transaction(
            self.first, count, 1, self.now_ns, encode_entries(entries), encode_admission(admission),
            encode_decisions(made_decisions), msgspec.json.encode(self.accounting), len(columns["point"]),
        )  # fmt: skip
        self.first += count
        return transaction


class MemoryInbox:
    """Keeps requests in memory, once per id."""

    def __init__(self) -> None:
        self.requests: dict[str, Request] = {}

    def put(self, request: Request) -> bool:
        """False when the id is known."""
        if request.id in self.requests:
            return False
        self.requests[request.id] = request
        return True


@dataclass(slots=True)
class World:
    """Parts over temporary files, with a writer whose transactions go to the live state and to history."""

    parts: Parts
    writer: Writer
    clock: ManualClock
    inbox: MemoryInbox
    projector: Projector

    def write(self, *args: Any, **kwargs: Any) -> Delta:
        """Journal one transaction and let everybody follow it."""
        transaction = self.writer.write(*args, **kwargs)
        self.clock.advance(max(0, self.writer.now_ns - self.clock.now_ns()))
        delta = self.parts.state.apply(parse(transaction))
        self.parts.hub.publish(delta)
        self.projector.take(transaction)
        self.projector.flush()
        self.parts.lag.live_ready = True
        self.hear()
        return delta

    def hear(self) -> None:
        """The core has just been heard."""
        self.parts.state.heard_ns = self.clock.now_ns()

    def token(self, person: str, role: Role, sites: list[str] | None) -> str:
        """A bearer token."""
        scope = None if sites is None else frozenset(sites)
        return self.parts.gate.sessions.create("bearer", person, role, scope, life_s=3600)[0]

    def close(self) -> None:
        """Close every part."""
        for close in (self.parts.queries.close, self.parts.desk.close, self.parts.gate.close, self.parts.history.close):
            close()


class MemoryBacktests:
    """`api.orders.Backtests` that keeps orders and runs none; each site has one that has ended."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, BacktestAsked]] = []

    def start(self, site: str, author: str, asked: BacktestAsked) -> OrderState | None:
        self.asked.append((site, author, asked))
        return OrderState(f"{site}-b{len(self.asked)}", author, "running", asked.start_ms, asked.end_ms, asked.start_ms)

    def state(self, site: str, order: str) -> OrderState | None:
        known = OrderState(order, f"{site}-person", "done", 0, 60_000, 60_000, 7)
        return known if order == f"{site}-b1" else None

    def report(self, site: str, order: str) -> bytes | None:
        return b'{"rules": []}' if self.state(site, order) is not None else None

    def cancel(self, site: str, order: str) -> OrderState | None:
        return self.state(site, order)

    def close(self) -> None:
        pass


class MemoryWarmings:
    """`api.orders.Warmings` that computes nothing; each site has one that has ended."""

    def start(self, author: str, config: SiteConfig) -> WarmingState | None:
        return WarmingState(f"{config.site}-w2", author, "running", 0, 60_000, 0, sha256=config.sha256(), windows=1)

    def state(self, site: str, order: str) -> WarmingState | None:
        known = WarmingState(order, f"{site}-person", "done", 0, 60_000, 60_000, 7, sha256="00", windows=1, bytes=4)
        return known if order == f"{site}-w1" else None

    def result(self, site: str, order: str, sha256: str) -> bytes | None:
        return b"warm" if self.state(site, order) is not None and len(sha256) == 64 else None

    def cancel(self, site: str, order: str) -> WarmingState | None:
        return self.state(site, order)

    def close(self) -> None:
        pass


def make_world(directory: Path, history: History | None = None) -> World:
    """Two sites: `north` and `south`, with values, alarms, commands and rejects in both; over DuckDB when no history is given."""
    clock, inbox, state = ManualClock(START_NS), MemoryInbox(), LiveState()
    history = history or DuckDBHistory(directory / "history.duckdb")
    parts = Parts(
        state=state,
        history=history,
        desk=RequestDesk(inbox),
        gate=Gate(Sessions(directory / "web.sqlite", clock=clock)),
        clock=clock,
        queries=QueryPool(),
        hub=FeedHub(state, clock),
        logins=LoginLimit(clock),
        hosts=frozenset({"testserver", "127.0.0.1", "localhost"}),
        notify=directory / "notify.sqlite",
        backtests=MemoryBacktests(),
        warmings=MemoryWarmings(),
    )
    world = World(parts, Writer(), clock, inbox, Projector(history, now_s=lambda: clock.now_ns() / 1e9))
    world.write(records=[Start(1, "test"), config_record(site("north")), config_record(site("south"))])
    return world


def notification(name: str, now_ms: int) -> Outgoing:
    """A message about an alarm of a site; "": of the service itself."""
    line = {"alarm": f"HOT@{name}/house-0", "site": name, "area": "ms", "priority": "P2", "change": "raise", "step": 1,
            "raised_ms": now_ms, "time_ms": now_ms, "text": {"en": f"Too hot at {name}"}}  # fmt: skip
    message = {"id": f"wang/{name}", "contact": "wang", "lines": [line], "more": 0}
    return Outgoing(f"wang/{name}", "wang", "mail", f"wang@{name}.example", "en", False, [name], message)


def fill(world: World) -> None:
    """Values, a standing alarm, a command, a reject and a notification at both sites; every text of a site names it."""
    assert world.parts.notify is not None
    deliveries, now_ms = DeliveryJournal(world.parts.notify), world.parts.now_ms()
    work = Work(outgoing=[notification(site_name, now_ms) for site_name in ("north", "south", "")])
    ladder = {"told": ["wang"], "step": 1, "next_ms": now_ms + 900_000, "next_to": ["duty"], "cause": "4711"}
    work.escalation = {f"alarm:HOT@{site_name}/house-0": msgspec.json.encode(ladder) for site_name in ("north", "south")}
    work.tests.append(PathTest("notify.test-1", now_ms, now_ms, now_ms, now_ms, "passed", "1 of 1 arrived"))
    deliveries.keep(work, now_ms)
    deliveries.close()
    for name in ("north", "south"):
        world.write(
            frames=[(f"{name}/house-{i}", {"air_temp_c": 39.5 + i, "air_rh_pct": 61.0, "vent_pct": 12.5}, 0.0) for i in range(2)],
            records=[
                Event("reject", f"{name}/house-0", {"reason": "bad_json", "topic": f"fl/{name}/house-0/telemetry",
                                               "payload": b64encode(f"{{{name}".encode()).decode()}),
                Request(f"{name}-person.request1", "acknowledge", f"{name}-person", {"alarm": f"HOT@{name}/house-0"}),
            ],
            decisions=[
                ("alarm", f"HOT@{name}/house-0", {
                    "from": "NORM", "to": "UNACK", "event": "raise", "priority": "P2", "rule_version": 1,
                    "message": {"en": f"Too hot at {name}", "zh": "气温过高"}, "value": 39.5, "area": "ms"}),
                ("command", f"{name}/house-0/roof_vent", {"id": f"{name}/house-0/roof_vent:1", "state": "sent",
                                                          "value": 80.0, "reason": f"HOT@{name}/house-0"}),
                ("answer", f"{name}-person.request1", {"accepted": True, "reason": ""}),
                ("alarm", f"HOT@{name}/house-0", {"from": "UNACK", "to": "UNACK", "event": "assign", "priority": "P2", "area": "ms",
                                                  "assignee": f"{name}-person"}),
                ("area", f"{name}/ms", {"from": {"mode": "AUTO", "batch_ns": None, "batch": ""},
                                        "to": {"mode": "OCCUPIED", "batch_ns": START_NS, "batch": f"of {name}"}}),
                ("flood", f"{name}/ms", {"from": "NORM", "to": "UNACK", "event": "raise", "count": 11}),
                ("shadow", f"HOT@{name}/house-1", {"from": "NORM", "to": "UNACK", "event": "raise", "priority": "P2", "area": "ms"}),
                ("shadow_demand", f"{name}/house-1/roof_vent", {"rule": "HOT", "rule_version": 2, "bound": "value", "value": 60.0}),
            ],
        )  # fmt: skip
