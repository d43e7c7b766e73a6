"""One device under one rule, or several of them, each call an entry; for tests of what alarms live through."""

import json
from typing import Any

from app.wiring import build_engine
from ingest.decode import Directory, Gather
from telemetry.decision import Decision
from telemetry.record import Config, Event, Request, Start
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, RuleSpec, SiteConfig
from telemetry.topic import topic

S = 1_000_000_000
T0 = 1_760_000_000 * S


def config(latching: bool, priority: str = "P2", version: int = 1) -> SiteConfig:
    rule = RuleSpec.model_validate(
        {"id": "HOT", "when": "temp_c > 30", "priority": priority, "latching": latching, "version": version}
    )
    profile = Profile(name="p", points=[PointSpec(name="temp_c", unit="C", low=-40, high=80)], rules=[rule])
    return SiteConfig(
        site="s", areas=[AreaSpec(name="a")], devices=[DeviceSpec(name="d", profile="p", area="a")], profiles={"p": profile}
    )


class House:
    """One device, one rule; each call is one entry, or several of them in one batch."""

    def __init__(self, *, latching: bool = False, priority: str = "P2") -> None:
        self.engine = build_engine()
        self.gather = Gather(Directory(self.engine.plan))
        self.now, self.asked, self.decisions = T0, 0, list[Decision]()
        self.gather.add(Start(1), T0)
        self.configure(config(latching, priority))
        self.gather.add(Event("drained"), T0)
        self.flush()

    def configure(self, site: SiteConfig) -> None:
        self.gather.add(Config("s", site.sha256(), site.canonical()), self.now)
        self.flush()
        self.gather.directory = Directory(self.engine.plan)

    def flush(self) -> list[Decision]:
        entries = self.gather.build(self.engine.position + 1, self.now, 0)
        made = self.engine.step(entries).decisions if len(entries) else []
        self.decisions += made
        return made

    def measure(self, value: float | None) -> None:
        self.now += S
        payload = json.dumps({"ts": self.now // 1_000_000, "p": {"temp_c": value}}).encode()
        self.gather.take(topic("s", "d", "telemetry"), payload, False, self.now)

    def send(self, device: str = "d", **values: float) -> None:
        self.now += S
        payload = json.dumps({"ts": self.now // 1_000_000, "p": values}).encode()
        self.gather.take(topic("s", device, "telemetry"), payload, False, self.now)

    def ask(self, kind: str, *, request: str = "", alarm: str = "HOT@s/d", author: str = "ann", **body: Any) -> None:
        self.now += S
        self.asked += 1
        if kind == "shelve":
            body = {"seconds": 3600, "reason": "known", **body}
        self.gather.add(Request(request or f"q{self.asked}", kind, author, {"alarm": alarm, **body}), self.now)

    def tick(self, seconds: float) -> None:
        self.now += int(seconds * S)
        self.gather.tick(self.now)

    def happen(self, event: str) -> list[Decision]:
        if event in {"raise", "clear"}:
            self.measure(35.0 if event == "raise" else 20.0)
        else:
            self.ask(event)
        return self.flush()

    @property
    def state(self) -> str:
        return next((str(d.body["to"]) for d in reversed(self.decisions) if d.kind == "alarm"), "NORM")


def rule_of(**spec: Any) -> SiteConfig:
    """Two devices of an area with one rule; `heat_bool` is a point that may suppress it."""
    points = [PointSpec(name="temp_c", unit="C", low=-40, high=80), PointSpec(name="heat_bool", unit="", low=0, high=1)]
    profile = Profile(name="p", points=points, rules=[RuleSpec.model_validate({"id": "HOT", "when": "temp_c > 30"} | spec)])
    area = AreaSpec(name="a", animals=bool(spec.get("alarm_class") == "animals"))
    return SiteConfig(site="s", areas=[area], devices=[DeviceSpec(name="d", profile="p", area="a")], profiles={"p": profile})


def house_of(**spec: Any) -> House:
    house = House()
    house.configure(rule_of(version=2, **spec))
    return house
