"""T30: random demands, interlocks, people, panels, silent and refusing devices, restarts. A referee that knows nothing of arbitration
and of commands but what a person would check: range, interlocks, survival, panels, and that every override ends when it should.
"""

import random
from dataclasses import dataclass, field

import pytest

from telemetry.plan import NS_PER_S
from telemetry.record import Event, Request, Start
from telemetry.span import TIMER
from tests.faults.command_world import T0, Result, Step, World, plan_of
from tests.unit.devices.test_invariance import with_real_answers

SHORT, LONG = 20_000, 1_000_000
ACTUATORS = [
    {"name": "vent", "travel_s": 20, "feedback": "vent_pct", "fail_safe": 60.0, "min_step": 2, "selector": "panel"},
    {"name": "fan", "kind": "switch", "high": 1, "min_on_s": 20, "min_off_s": 30, "min_step": 1, "fail_safe": 1.0},
    {"name": "flap", "choose": "smallest", "low": 5, "high": 95, "rest": 50, "fail_safe": "hold"},
    {"name": "auger", "kind": "switch", "high": 1, "min_step": 1, "confirm": {"en": "runs", "zh": "运转"}},
]
SPECS = {f"farm/h-{h}/{a['name']}": {"low": 0, "high": 100, "rest": 0, **a} for h in range(2) for a in ACTUATORS}
# Rule: the level and bound of what it asks. R1 and R2 are interlocks of people, R3 of equipment, R4 is minimum ventilation.
ASKS = {"R1": (1, "at_most"), "R2": (1, "at_most"), "R3": (2, "at_least"), "R4": (3, "at_least"), "R5": (5, "value"), "R6": (6, "value"),
        "R7": (7, "value")}  # fmt: skip


def history(seed: int, length: int) -> list[Step]:
    draw = random.Random(seed)
    steps, now = [Step(T0, record=Start(1)), Step(T0, record=Event("drained"))], T0
    for i in range(length):
        now += draw.choice([0, NS_PER_S // 3, NS_PER_S, 7 * NS_PER_S, 20 * NS_PER_S])
        steps.append(_step(draw, now, i))
    return steps


def _step(draw: random.Random, now: int, i: int) -> Step:
    name, kind = draw.choice(list(SPECS)), draw.random()
    device, high = name.rpartition("/")[0], SPECS[name]["high"]
    if kind < 0.4:
        rule = draw.choice(list(ASKS))
        value = draw.choice([None, 0.0, 0.3, 0.5, 0.8, 1.0])
        return Step(now).demand(rule, name, None if value is None else value * high, *ASKS[rule])
    if kind < 0.6:
        return Step(now, record=("ack", draw.random(), draw.choice(["accepted"] * 5 + ["refused", "expired"])))
    if kind < 0.78:
        point = draw.choice([0, 0, 0, 1])
        return Step(
            now,
            device=draw.randint(0, 1),
            point=point,
            value=float(draw.choice([0, 0, 30, 50, 60] if point == 0 else [0, 0, 0, 1, 2])),
        )
    if kind < 0.93:
        body = {
            "actuator": name,
            "value": draw.choice([0.0, 0.4, 1.0]) * high,
            "seconds": draw.choice([5, 50, 300]),
            "reason": "test",
        }
        body |= {"unsafe": True} if draw.random() < 0.2 else {}
        body |= {"request": f"q{i - draw.randint(1, 8)}"}  # what a confirmation confirms, now and then something that waits
        return Step(
            now, record=Request(f"q{i}", draw.choice(["override"] * 2 + ["confirm"] * 2 + ["release"]), draw.choice("pq"), body)
        )
    if kind < 0.98:
        return Step(now, record=Event(draw.choice(["birth", "drained", "broker_lost"]), device))
    return Step(now, record=Start(2 + i)) if kind < 0.985 else Step(now)


@dataclass
class Referee:
    """What stands now; every mistake it saw."""

    asked: dict[str, dict[str, float]] = field(default_factory=lambda: {name: {} for name in SPECS})
    manual: dict[str, tuple[int, bool]] = field(default_factory=dict)  # actuator: (end of its override, unsafe)
    requests: dict[str, tuple[int, Request]] = field(default_factory=dict)  # with the time of each
    panel: dict[str, str] = field(default_factory=dict)
    moved: dict[str, tuple[float, int, int]] = field(default_factory=dict)  # actuator: (sent to, when, until when it travels)
    switched: dict[str, tuple[bool, int]] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    sent: int = 0
    guarded: int = 0  # commands that an interlock or survival limit held
    overrides: int = 0

    def watch(self, steps: list[Step], result: Result) -> "Referee":
        made: dict[int, list] = {}
        for decision in result.decisions:
            made.setdefault(decision.position, []).append(decision)
        for i, step in enumerate(steps):
            here = made.get(i, [])
            for decision in (d for d in here if d.phase == TIMER):
                self._decided(decision)
            for _, _, source, name, _, _, value in step.demands:
                self.asked[name].pop(source[:2], None)
                if value is not None:
                    self.asked[name][source[:2]] = value
            self._heard(step)
            entry = [d for d in here if d.phase != TIMER]
            for decision in sorted(
                entry, key=lambda d: d.kind not in {"mode", "answer"}
            ):  # who works it is known before what is sent
                self._decided(decision)
            self._nobody_overstays(step.time_ns)
        return self

    def _decided(self, decision) -> None:
        name, body = decision.subject, decision.body
        if decision.kind == "answer" and body["accepted"]:
            _, asked = self.requests[name]
            if asked.kind != "release":
                asked_ns, asked = self.requests[asked.body["request"] if asked.kind == "confirm" else asked.id]
                until_ns = asked_ns + asked.body["seconds"] * NS_PER_S
                self.manual[asked.body["actuator"]] = until_ns, asked.body.get("unsafe", False)
        elif decision.kind == "mode" and body.get("mode") == "AUTO":
            self.manual.pop(name, None)
        elif decision.kind == "mode" and body.get("mode") == "MANUAL":
            self.overrides += 1
        elif decision.kind == "command" and body.get("sends") == 1:
            self._sent(decision)

    def _sent(self, decision) -> None:
        name, value, spec, asked = decision.subject, decision.body["value"], SPECS[decision.subject], self.asked[decision.subject]
        self.sent += 1
        ceiling = min([asked[r] for r in ("R1", "R2") if r in asked and asked[r] >= spec["low"]], default=spec["high"])
        floor = asked.get("R3", spec["low"])
        floor = floor if floor <= ceiling else spec["low"]
        survival = asked.get("R4", spec["low"])
        is_order = decision.body["reason"].startswith("fail-safe")
        is_unsafe = self.manual.get(name, (0, False))[1]
        self.guarded += ceiling < spec["high"] or floor > spec["low"] or survival > spec["low"]
        self._check(spec["low"] <= value <= spec["high"], decision, "outside of its range")
        self._check(value <= ceiling, decision, f"against an interlock of people at most {ceiling}")
        self._check(value >= floor, decision, f"against an interlock of equipment at least {floor}")
        self._check(is_order or is_unsafe or survival > ceiling or value >= survival, decision, f"under survival {survival}")
        self._check(self.panel.get(name, "AUTO") == "AUTO", decision, "while the panel says otherwise")
        level = 8 if decision.body["winner"] is None else decision.body["winner"]["level"]
        before = self.moved.get(name, (value, 0, 0))
        is_forced = is_order or not floor <= before[0] <= ceiling
        self._pace(decision, level, before, is_forced=is_forced)

    def _pace(self, decision, level: int, before: tuple[float, int, int], *, is_forced: bool) -> None:
        """Travel ends before the next move, except for safety and survival; minimum times hold, except for people."""
        name, value, spec, now = decision.subject, decision.body["value"], SPECS[decision.subject], decision.time_ns
        self._check(level <= 3 or is_forced or now >= before[2], decision, "while it still travels")
        way = abs(value - before[0]) / (spec["high"] - spec["low"]) * spec.get("travel_s", 0)
        self.moved[name] = value, now, now + int(way * NS_PER_S)
        if spec.get("min_on_s"):
            is_on = value > spec["low"]
            was_on, since = self.switched.get(name, (is_on, 0))
            if is_on != was_on:
                least = spec["min_on_s"] if was_on else spec["min_off_s"]
                self._check(level == 1 or is_forced or now - since >= least * NS_PER_S, decision, "inside its minimum time")
            if name not in self.switched or is_on != was_on:
                self.switched[name] = is_on, now

    def _heard(self, step: Step) -> None:
        if isinstance(step.record, Request):
            self.requests[step.record.id] = step.time_ns, step.record
        elif step.device >= 0 and step.point == 1:
            name = f"farm/h-{step.device}/vent"
            self.panel[name] = "AUTO" if step.value == 0 else "LOCAL"
            self.moved.pop(name, None)  # a hand moves it

    def _nobody_overstays(self, now_ns: int) -> None:
        for name, (until_ns, _) in self.manual.items():
            if now_ns > until_ns:
                self.mistakes.append(f"{name} is still by hand at {now_ns - T0}")

    def _check(self, is_right: bool, decision, what: str) -> None:
        if not is_right:
            self.mistakes.append(f"{decision.position}: {decision.subject} sent to {decision.body['value']} {what}")


def judged(seed: int, length: int) -> Referee:
    steps = with_real_answers(history(seed, length), World(plan_of(ACTUATORS)))
    result = World(plan_of(ACTUATORS)).run(steps)
    return Referee().watch(steps, result)


@pytest.mark.parametrize("seed", range(SHORT // 2000))
def test_never_outside_limits_nor_against_an_interlock_and_every_override_ends(seed: int) -> None:
    referee = judged(seed, 2000)
    assert not referee.mistakes
    assert min(referee.sent, referee.guarded) > 50
    assert referee.overrides > 30


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1000, 1000 + LONG // 10_000))
def test_never_over_a_million_steps(seed: int) -> None:
    assert not judged(seed, 10_000).mistakes
