"""T26: devices that get a command and never answer, answer late, answer with a wrong id or for another device, or accept and do not move.

For each: at most three sends of one id within the expiry, the loss told and alarmed by the expiry and a second, the fail-safe ordered
where one is declared and never for a dose, a late answer recorded and not believed, and nothing executed twice.
Saboteurs: silent_faults, skip_fail_safe, apply_late_ack, double_send_pulse.
"""

import random
from dataclasses import dataclass, field

import pytest

from telemetry.plan import NS_PER_S
from telemetry.record import Ack, Event, Start
from telemetry.span import CommandOut
from tests.faults.command_world import T0, Result, Step, World, plan_of

DEVICE, EXPIRY_S, STEP_S = "farm/h-0", 30, 0.5
KINDS = {
    "vent": {"name": "vent", "travel_s": 20, "feedback": "vent_pct", "fail_safe": 10.0, "min_step": 2},
    "fan": {"name": "fan", "kind": "switch", "high": 1, "min_step": 1, "fail_safe": 1.0},
    "flap": {"name": "flap", "fail_safe": "hold"},
    "pump": {"name": "pump", "kind": "pulse", "unit": "ml", "dedupes": True},
    "doser": {"name": "doser", "kind": "pulse", "unit": "ml", "dedupes": False},
}
BEHAVIOURS = ("never", "late", "wrong id", "wrong device", "does not move")


@dataclass
class Device:
    """Executes what it receives, each id once where it dedupes, and answers as badly as it likes."""

    behaviour: str
    dedupes: bool
    delay_s: float
    executed: list[str] = field(default_factory=list)
    answers: list[tuple[float, Ack]] = field(default_factory=list)

    def receive(self, second: float, command: CommandOut) -> None:
        if not (self.dedupes and command.id in self.executed):
            self.executed.append(command.id)
        answer = {
            "never": None,
            "late": (second + EXPIRY_S + self.delay_s, Ack(DEVICE, command.id, "accepted")),
            "wrong id": (second + 1, Ack(DEVICE, command.id + ".9", "accepted")),
            "wrong device": (second + 1, Ack("farm/h-1", command.id, "accepted")),
            "does not move": (second + 1, Ack(DEVICE, command.id, "accepted")),
        }[self.behaviour]
        if answer is not None:
            self.answers.append(answer)


@dataclass
class Trial:
    """One demand and what came of it."""

    seed: int

    def run(self) -> "Trial":
        draw = random.Random(self.seed)
        spec = KINDS[draw.choice(list(KINDS))]
        behaviour = draw.choice(BEHAVIOURS if "feedback" in spec else BEHAVIOURS[:-1])
        self.name, self.spec, self.result = f"{DEVICE}/{spec['name']}", spec, Result()
        self.device = Device(behaviour, spec.get("dedupes", True), draw.randrange(1, 40))
        world = World(plan_of([spec]))
        world.run([Step(T0, record=Start(7)), Step(T0, record=Event("drained"))])
        asked_at = draw.randrange(1, 10) * STEP_S
        self.sent: list[tuple[float, CommandOut]] = []
        for i in range(1, 180):  # 90 s: the second try of a position is not looked at
            second = i * STEP_S
            now = T0 + int(second * NS_PER_S)
            due = [ack for at, ack in self.device.answers if at <= second]
            self.device.answers = [(at, ack) for at, ack in self.device.answers if at > second]
            step = Step(now).demand("R1", self.name, 5.0 if spec.get("high", 100) > 1 else 1.0) if second == asked_at else Step(now)
            made = world.run([*(Step(now, record=ack) for ack in due), step])
            self.result.decisions += made.decisions
            for _, command in made.commands:
                self.sent.append((second, command))
                self.device.receive(second, command)
        self.world = world
        return self

    def mistakes(self) -> list[str]:
        first_at, first = self.sent[0]
        sends = [at for at, command in self.sent if command.id == first.id]
        states = [d.body["state"] for d in self.result.of("command", self.name) if d.body["id"] == first.id]
        raised = [(d.time_ns - T0) / NS_PER_S for d in self.result.of("alarm") if d.body["event"] == "raise"]
        orders = [c for _, c in self.sent if c.reason == f"fail-safe after {first.id}"]
        is_pulse, fail_safe = self.spec.get("kind") == "pulse", self.spec.get("fail_safe", "hold")
        limit_s = 1 + 1.5 * 20 + 10 + 5 + 1 if self.device.behaviour == "does not move" else EXPIRY_S + 1
        checks = {
            "sent more often than three times, or after its expiry": len(sends) <= 3 and max(sends) < first_at + EXPIRY_S,
            "a dose was sent again to a pump that does not dedupe": len(sends) == 1 or self.spec.get("dedupes", True),
            "executed twice": self.device.executed.count(first.id) == 1,
            "not lost": "lost" in states,
            "no alarm in time": bool(raised) and raised[0] <= first_at + limit_s,
            "no fail-safe ordered": bool(orders) or is_pulse or fail_safe == "hold",
            "a fail-safe for a dose, or where it shall hold": not orders or not (is_pulse or fail_safe == "hold"),
            "the late answer was believed": not {"accepted", "confirmed"}
            & set(states[states.index("lost") if "lost" in states else 0 :]),
            "the late answer was not recorded": self.device.behaviour != "late" or self.world.stages[1].late_acks > 0,
        }
        return [f"{self.seed} {self.name} {self.device.behaviour}: {what}" for what, is_right in checks.items() if not is_right]


@pytest.mark.parametrize("part", range(2))
def test_silence_is_lost_alarmed_and_failed_safe(part: int) -> None:
    trials = [Trial(seed).run() for seed in range(part * 35, part * 35 + 35)]
    assert [mistake for trial in trials for mistake in trial.mistakes()] == []
    assert len({(trial.name, trial.device.behaviour) for trial in trials}) > 10


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(1000, 11_000, 500))
def test_silence_is_lost_alarmed_and_failed_safe_10000_times(first: int) -> None:
    assert [mistake for seed in range(first, first + 500) for mistake in Trial(seed).run().mistakes()] == []
