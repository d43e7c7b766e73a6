"""A shipped unit under its controllers: told what its devices measure, asked where arbitration sends its actuators.

The stages of the engine up to arbitration without rules, so that nothing is compiled; FIELDLOOM_SABOTAGE is theirs.
"""

import functools
import json
import os
from collections.abc import Mapping
from typing import Any, Final

from app.site_files import load_site
from ingest.admit import Admit
from ingest.decode import Directory, Gather
from rules.arbitration import Arbitration
from rules.area import Areas
from rules.control.stage import Control
from rules.engine import Engine
from telemetry.plan import NS_PER_S
from telemetry.record import Config, Event, Request, Start
from telemetry.site import SiteConfig
from tests.scenario.closed_loop import SITES

T0: Final = 1_768_442_400 * NS_PER_S  # 15 January 2026, 10 h in China
EVERY_S: Final = 10  # of samples
HOUSE, MAST = "unit", "weather-1"


@functools.cache
def site_of(kind: str) -> SiteConfig:
    """One unit of a kind and its mast, as the demo sites have them."""
    demo = load_site(SITES / ("pig-farm" if kind == "pig_house" else "nursery"))
    device = next(device for device in demo.devices if device.profile == kind)
    mast = next(device for device in demo.devices if device.profile == "weather_station")
    names = {device.area, mast.area}
    return demo.model_copy(update={
        "areas": [area for area in demo.areas if area.name in names],
        "devices": [mast.model_copy(update={"name": MAST}), device.model_copy(update={"name": HOUSE})],
        "profiles": {name: demo.profiles[name] for name in (kind, "weather_station")},
    })  # fmt: skip


class ControlWorld:
    """Time passes in steps of ten seconds, each with a sample of every point that is not None. where: newest target by actuator."""

    def __init__(self, kind: str, values: Mapping[str, float | None]) -> None:
        """values: by input of the controller; `weather.` before those of the mast."""
        self.site, self.values = site_of(kind), dict(values)
        self.sabotage = frozenset(filter(None, os.environ.get("FIELDLOOM_SABOTAGE", "").split(",")))
        self.engine = self._engine()
        self.gather = Gather(Directory(self.engine.plan))
        self.now_ns, self.seq, self.asked, self.epoch = T0, 0, 0, 1
        self.where = {a.name: a.rest for a in self.site.profiles[kind].actuators}
        self.answers: dict[str, bool] = {}
        self._put(Start(1))
        self._put(Config(self.site.site, self.site.sha256(), self.site.canonical()))
        self.gather.directory = Directory(self.engine.plan)
        self._put(Event("drained"))

    def _engine(self) -> Engine:
        sabotage = self.sabotage
        stages = [Admit(numba=False, sabotage=sabotage), Areas(), Control(sabotage=sabotage), Arbitration(sabotage=sabotage)]
        return Engine(stages)

    def run(self, seconds: float, **changed: float | None) -> "ControlWorld":
        """Let time pass, with values changed from now on (two underscores for a dot)."""
        self.values |= {name.replace("__", "."): value for name, value in changed.items()}
        for _ in range(round(seconds / EVERY_S)):
            self.now_ns += EVERY_S * NS_PER_S
            known = {name: value for name, value in self.values.items() if value is not None}
            mast = {name.removeprefix("weather."): value for name, value in known.items() if name.startswith("weather.")}
            self.say(HOUSE, {name: value for name, value in known.items() if not name.startswith("weather.")})
            self.say(MAST, mast)
            self.gather.tick(self.now_ns)
            self._step()
        return self

    def say(self, device: str, points: Mapping[str, float], *, channel: str = "telemetry", age_s: float = 0.0) -> None:
        """A frame of a device; decided with the next step."""
        self.seq += 1
        body = {"boot": 1, "seq": self.seq, "ts": self.now_ns // 1_000_000 - int(age_s * 1000), "p": dict(points)}
        self.gather.take(f"fl/{self.site.site}/{device}/{channel}", json.dumps(body).encode(), False, self.now_ns)

    def ask(self, kind: str, author: str = "ann", **body: Any) -> bool:
        """A request, with its second word where one is wanted; whether it was accepted."""
        if "actuator" in body:
            body["actuator"] = self.name(body["actuator"])
        if "area" in body:
            body["area"] = f"{self.site.site}/{next(d.area for d in self.site.devices if d.name == HOUSE)}"
        self.asked += 1
        first = f"q{self.asked}"
        self._put(Request(first, kind, author, body))
        if kind == "override" and not self.answers[first]:
            self._put(Request(f"{first}-again", "confirm", author, {"actuator": body["actuator"], "request": first}))
            return self.answers[f"{first}-again"]
        return self.answers[first]

    def by_hand(self, actuator: str, value: float, author: str = "ann") -> bool:
        """Somebody wants an actuator elsewhere, for a day."""
        return self.ask("override", author, actuator=actuator, value=value, seconds=86_400, reason="test")

    def event(self, name: str) -> None:
        """Of the broker."""
        self._put(Event(name))

    def restart(self) -> None:
        """Core begins anew from its snapshot."""
        saved = self.engine.snapshot()
        self.engine = self._engine()
        self.engine.restore(saved)
        self.gather.directory = Directory(self.engine.plan)
        self.epoch += 1
        self._put(Start(self.epoch))
        self._put(Event("drained"))

    def name(self, actuator: str) -> str:
        """As commands name it."""
        return f"{self.site.site}/{HOUSE}/{actuator}"

    def _put(self, record: Any) -> None:
        self.gather.add(record, self.now_ns)
        self._step()

    def _step(self) -> None:
        outcome = self.engine.step(self.gather.build(self.engine.position + 1, self.now_ns, 0))
        for decision in outcome.decisions:
            if decision.kind == "demand":
                self.where[decision.subject.rpartition("/")[2]] = decision.body["value"]
            elif decision.kind == "answer":
                self.answers[decision.subject] = decision.body["accepted"]
            assert decision.kind != "fault", decision
