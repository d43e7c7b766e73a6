"""A journal written by hand: entries with the demands that earlier stages would have made of them, run through arbitration, commands
and their alarms in spans cut wherever a test likes."""

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from devices.command import Commands
from rules.arbitration import Arbitration
from rules.command_alarm import CommandAlarms
from telemetry.decision import Decision, in_order
from telemetry.frame import Admission, Entries, Kind, Verdict, make_frames, slice_entries
from telemetry.plan import NS_PER_S, Plan
from telemetry.record import Ack, Event, Request, Start
from telemetry.site import SiteConfig
from telemetry.span import ENTRY, CommandOut, DemandChange, Span

T0 = 1_700_000_000 * NS_PER_S
RULES = [{"id": f"R{i}", "profile": "house", "when": "vent_pct > 0"} for i in range(1, 8)]
ACTUATORS: list[dict[str, Any]] = [
    {"name": "vent", "travel_s": 20, "feedback": "vent_pct", "fail_safe": 10.0, "min_step": 2, "selector": "panel"},
    {"name": "fan", "kind": "switch", "high": 1, "min_on_s": 20, "min_off_s": 30, "min_step": 1, "fail_safe": 1.0},
    {"name": "pump", "kind": "pulse", "unit": "ml", "dedupes": True},
    {"name": "doser", "kind": "pulse", "unit": "ml", "dedupes": False},
    {"name": "old", "expires": False, "fail_safe": 0.0, "min_step": 2},
    {"name": "flap", "choose": "smallest", "low": 5, "high": 95, "rest": 5, "fail_safe": "hold"},
]


def plan_of(actuators: list[dict[str, Any]] | None = None, origin: str = "LIVE", rules: list[dict[str, Any]] | None = None) -> Plan:
    plan = Plan()
    points = [
        {"name": "vent_pct", "unit": "%", "low": -5, "high": 105, "heartbeat_s": 10},
        {"name": "panel", "unit": "", "low": 0, "high": 9, "decimals": 0},
    ]
    house = {"name": "house", "points": points, "actuators": ACTUATORS if actuators is None else actuators}
    config = {
        "site": "farm", "origin": origin, "areas": [{"name": "a"}],
        "devices": [{"name": "h", "profile": "house", "area": "a", "count": 2}],
        "profiles": {"house": house}, "rules": RULES if rules is None else rules,
    }  # fmt: skip
    plan.apply(SiteConfig.model_validate(config))
    return plan


@dataclass
class Step:
    """One entry: a record, feedback of a device, or a tick; with what rules demand at it."""

    time_ns: int
    record: Any = None
    device: int = -1
    value: float = 0.0
    point: int = 0  # of the device: 0 vent_pct, 1 panel
    verdict: int = int(Verdict.LIVE)
    quality: int = 0
    age_ns: int = 0  # of the sample when it comes
    demands: list[tuple[int, int, str, str, str, int, float | None]] = field(default_factory=list)

    def demand(self, rule: str, actuator: str, value: float | None, level: int = 6, bound: str = "value") -> "Step":
        device = actuator.rpartition("/")[0]
        self.demands.append((ENTRY, self.time_ns, f"{rule}@{device}", actuator, bound, level, value))
        return self


@dataclass
class Result:
    decisions: list[Decision] = field(default_factory=list)
    commands: list[tuple[int, CommandOut]] = field(default_factory=list)  # with the number of the step

    def states(self, actuator: str) -> list[str]:
        return [d.body["state"] for d in self.decisions if d.kind == "command" and d.subject == actuator]

    def of(self, kind: str, subject: str | None = None) -> list[Decision]:
        return [d for d in self.decisions if d.kind == kind and subject in {None, d.subject}]


_KINDS = {Ack: Kind.ACK, Event: Kind.EVENT, Request: Kind.REQUEST, Start: Kind.START}


class World:
    """The stages over a plan."""

    def __init__(self, plan: Plan | None = None, sabotage: frozenset[str] = frozenset()) -> None:
        self.plan = plan_of() if plan is None else plan
        self.sabotage = sabotage | frozenset(filter(None, os.environ.get("FIELDLOOM_SABOTAGE", "").split(",")))
        self.position = 0
        self.blind_from_ns = -1
        self.last_ns = 0
        self.stages = self._stages()

    def _stages(self) -> tuple[Arbitration, Commands, CommandAlarms]:
        stages = Arbitration(sabotage=self.sabotage), Commands(sabotage=self.sabotage), CommandAlarms(sabotage=self.sabotage)
        for stage in stages:
            stage.configure(self.plan)
        return stages

    def restart_from_snapshot(self) -> None:
        saved = [stage.snapshot() for stage in self.stages]
        self.stages = self._stages()
        for stage, state in zip(self.stages, saved, strict=True):
            stage.restore(state)

    def run(self, steps: list[Step], cuts: set[int] | None = None, *, snapshot_at_cuts: bool = False) -> Result:
        """Run steps in spans; cut after each index in `cuts` and wherever blindness changes."""
        result, start = Result(), 0
        for i, step in enumerate(steps):
            begins = isinstance(step.record, Start) or (isinstance(step.record, Event) and step.record.name == "broker_lost")
            if begins and start < i:
                self._span(steps[start:i], result, start)
                start = i
            if begins and self.blind_from_ns < 0:
                self.blind_from_ns = self.last_ns or step.time_ns
            self.last_ns = step.time_ns
            ends = isinstance(step.record, Event) and step.record.name == "drained"
            if ends or (cuts is not None and i in cuts) or i == len(steps) - 1:
                self._span(steps[start : i + 1], result, start)
                start = i + 1
                if snapshot_at_cuts:
                    self.restart_from_snapshot()
            if ends:
                self.blind_from_ns = -1
        return result

    def _span(self, steps: list[Step], result: Result, offset: int) -> None:
        frames = [(i, s) for i, s in enumerate(steps) if s.device >= 0]
        columns = {
            "entry": [i for i, _ in frames], "device": [s.device for _, s in frames], "ts_ns": [s.time_ns - s.age_ns for _, s in frames],
            "boot": [0] * len(frames), "seq": [0] * len(frames), "flags": [0] * len(frames),
            "offsets": list(range(len(frames) + 1)),
            "point": [self.plan.devices[s.device].points[s.point] for _, s in frames], "value": [s.value for _, s in frames],
            "quality": [0] * len(frames),
        }  # fmt: skip
        kinds = [Kind.FRAME if s.device >= 0 else Kind.TICK if s.record is None else _KINDS[type(s.record)] for s in steps]
        entries = Entries(
            self.position, np.array(kinds, np.uint8), np.array([s.time_ns for s in steps], np.int64), make_frames(columns),
            tuple((i, s.record) for i, s in enumerate(steps) if s.record is not None),
        )  # fmt: skip
        entries = slice_entries(entries, 0, len(entries))
        span = Span(entries, self.plan)
        span.admission = Admission(
            np.array([s.verdict for _, s in frames], np.uint8), np.array([s.quality for _, s in frames], np.uint16)
        )
        span.blind, span.blind_from_ns = np.full(len(steps), self.blind_from_ns >= 0), self.blind_from_ns
        span.demands = [
            DemandChange(i, p, t, src, a, b, lv, v, "why") for i, s in enumerate(steps) for p, t, src, a, b, lv, v in s.demands
        ]
        for stage in self.stages:
            stage.run(span)
        result.decisions += in_order(span.decisions)
        result.commands += [(self._index(c, span, offset), c) for c in span.commands]
        self.position += len(steps)

    @staticmethod
    def _index(command: CommandOut, span: Span, offset: int) -> int:
        """Steps are found by the decision that says "sent"; resends of the same id count up."""
        sent = [d.position for d in span.decisions if d.kind == "command" and d.body.get("id") == command.id and "sends" in d.body]
        at = [c for c in span.commands if c.id == command.id].index(command) if command in span.commands else 0
        return sent[min(at, len(sent) - 1)] if sent else offset
