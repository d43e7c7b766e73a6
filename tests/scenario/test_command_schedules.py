"""Commands in a simulated world: a broker that delays, queues and loses, a device that is slow, offline and has a wrong clock,
and a core that is killed at any moment between deciding and publishing. T27 and T29.

The core is the real arbitration and command stages behind a journal list: what is not in the journal never happened, and after a
kill the state is rebuilt from the journal. Nothing here reads a clock.
"""

import random
from dataclasses import dataclass, field

import pytest

from telemetry.plan import NS_PER_S
from telemetry.record import Ack, Event, Start
from telemetry.span import CommandOut
from tests.faults.command_world import T0, Result, Step, World, plan_of

DEVICE, PUMP = "farm/h-0", "farm/h-0/pump"
STEP_NS = NS_PER_S // 2


@dataclass
class Device:
    """Executes an id at most once (when it dedupes), never past the expiry it was given, never under an older epoch."""

    dedupes: bool
    clock_error_s: float  # of its wall clock, which decides nothing
    epoch: int = 0
    executed: list[tuple[int, str]] = field(default_factory=list)  # (true time, id)
    queue: list[tuple[int, int, CommandOut]] = field(default_factory=list)  # (act at, drop at, command): a slow controller
    seen: dict[str, str] = field(default_factory=dict)

    def receive(self, now: int, command: CommandOut, left_ns: int, think_ns: int) -> None:
        self.queue.append((now + think_ns, now + min(left_ns, int(command.expires_s * NS_PER_S)), command))

    def work(self, now: int) -> list[Ack]:
        """Answers of the commands whose turn has come."""
        due = [item for item in self.queue if item[0] <= now]
        self.queue = [item for item in self.queue if item[0] > now]
        return [Ack(DEVICE, command.id, self._do(now, drop_at, command)) for _, drop_at, command in due]

    def _do(self, now: int, drop_at: int, command: CommandOut) -> str:
        if command.epoch < self.epoch:
            return "superseded"
        self.epoch = command.epoch
        if self.dedupes and command.id in self.seen:
            return self.seen[command.id]
        status = "expired" if now >= drop_at else "accepted"
        if status == "accepted":
            self.executed.append((now, command.id))
        self.seen[command.id] = status
        return status


@dataclass
class Schedule:
    """One run of the world, drawn from a seed."""

    seed: int
    dedupes: bool = True
    kills: bool = False
    sabotage: frozenset[str] = frozenset()
    result: Result = field(default_factory=Result)

    def run(self, seconds: int = 100) -> "Schedule":
        self.draw = random.Random(self.seed)
        self.device = Device(self.dedupes, self.draw.choice([0, -3600, 3600]))
        self.plan = plan_of([{"name": "pump", "kind": "pulse", "unit": "ml", "dedupes": self.dedupes}])
        self.world = World(self.plan, self.sabotage)
        self.journal: list[Step] = []
        self.wire: list[tuple[int, int, CommandOut]] = []  # (arrives at, expires at, command)
        self.answers: list[tuple[int, Ack]] = []
        self.offline = self._span(20, 60) if self.draw.random() < 0.6 else (0, 0)
        self.demand_at = T0 + self.draw.randrange(8, 30) * NS_PER_S
        self.kill_at = {self.demand_at + self.draw.randrange(-4, 60) * STEP_NS for _ in range(2)} if self.kills else set()
        self._begin(1, T0)
        epoch, dead_until = 1, 0
        for i in range(2, seconds * 2):
            now = T0 + i * STEP_NS
            self._network(now)
            if now < dead_until:
                continue
            if dead_until:
                epoch, dead_until = epoch + 1, 0
                self._recover(epoch, now)
            if now in self.kill_at:
                dead_until = now + self.draw.randrange(1, 40) * STEP_NS
                self._commit(now, publishes=False, commits=self.draw.random() < 0.5)
                continue
            self._commit(now, publishes=True, commits=True)
        return self

    def _span(self, start: int, length: int) -> tuple[int, int]:
        begin = T0 + self.draw.randrange(start) * NS_PER_S
        return begin, begin + self.draw.randrange(1, length) * NS_PER_S

    def _begin(self, epoch: int, now: int) -> None:
        steps = [Step(now, record=Start(epoch)), Step(now, record=Event("drained"))]
        self._take(steps)

    def _take(self, steps: list[Step]) -> list[CommandOut]:
        self.journal += steps
        made = self.world.run(steps)
        self.result.decisions += made.decisions
        return [c for _, c in made.commands]

    def _commit(self, now: int, *, publishes: bool, commits: bool) -> None:
        """Gather, decide, write, publish. A kill before the write leaves nothing; the broker delivers the answers again."""
        ready = [a for a in self.answers if a[0] <= now]
        steps = [Step(now, record=ack) for _, ack in ready]
        is_asked = any(s.demands for s in self.journal)
        # The rule holds as long as its cause does: a demand that was not journaled is made again.
        steps.append(Step(now) if now < self.demand_at or is_asked else Step(now).demand("R1", PUMP, 5.0))
        if not commits:
            return
        commands = self._take(steps)
        self.answers = [a for a in self.answers if a[0] > now]
        if publishes:
            self.wire += [(now + self._delay(), now + int(c.expires_s) * NS_PER_S, c) for c in commands if self.draw.random() < 0.8]

    def _delay(self) -> int:
        return self.draw.choice([STEP_NS, STEP_NS, NS_PER_S, 9 * NS_PER_S, 40 * NS_PER_S])

    def _recover(self, epoch: int, now: int) -> None:
        """State is the journal; commands recomputed from it are not published."""
        self.world = World(self.plan, self.sabotage)
        self.world.run(self.journal)
        self._take([Step(now, record=Start(epoch))])
        commands = self._take([Step(now, record=Event("drained")), Step(now)])
        self.wire += [(now + self._delay(), now + int(c.expires_s) * NS_PER_S, c) for c in commands]

    def _network(self, now: int) -> None:
        is_online = not self.offline[0] <= now < self.offline[1]
        for item in [w for w in self.wire if w[0] <= now and is_online]:
            self.wire.remove(item)
            if now < item[1]:  # else the broker drops it: message expiry
                self.device.receive(now, item[2], item[1] - now, self.draw.choice([0, 0, STEP_NS, 20 * NS_PER_S]))
        for ack in self.device.work(now):
            if self.draw.random() < 0.85:
                self.answers.append((now + self._delay(), ack))

    # -- what is judged ----------------------------------------------------------------------------------------------

    def executions_after_expiry(self) -> int:
        sent: dict[str, int] = {}
        for decision in self.result.of("command"):
            if decision.body.get("sends") == 1:
                sent.setdefault(decision.body["id"], decision.time_ns)
        return sum(1 for time_ns, command in self.device.executed if time_ns >= sent[command] + 30 * NS_PER_S)

    def is_accounted(self) -> bool:
        """Exactly one dose, or none or one with an alarm; the journal must say which."""
        doses = len(self.device.executed)
        states = self.result.states(PUMP)
        is_alarmed = bool(self.result.of("fault"))
        return doses <= 1 and (is_alarmed or (doses == 1 and "accepted" in states))


def late_executions(seeds: range, **options) -> int:
    return sum(Schedule(seed, **options).run().executions_after_expiry() for seed in seeds)


@pytest.mark.parametrize("part", range(4))
def test_nothing_is_executed_after_its_expiry(part: int) -> None:
    """T27, short form: 1,000 schedules."""
    assert late_executions(range(part * 250, part * 250 + 250)) == 0


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(10_000, 20_000, 1000))
def test_nothing_is_executed_after_its_expiry_over_10000_schedules(first: int) -> None:
    assert late_executions(range(first, first + 1000)) == 0


@pytest.mark.parametrize("dedupes", [True, False])
def test_kill_around_a_command_never_doubles_a_dose(dedupes: bool) -> None:
    """T29: 250 kill points each, with a device that dedupes and one that does not."""
    runs = [Schedule(seed, dedupes=dedupes, kills=True).run() for seed in range(250)]
    assert [r.seed for r in runs if len(r.device.executed) > 1] == []
    assert [r.seed for r in runs if not r.is_accounted()] == []
    assert sum(len(r.device.executed) for r in runs) > 50


def test_saboteur_of_expiry_is_caught() -> None:
    assert late_executions(range(60), sabotage=frozenset({"ignore_expiry"})) > 0


def test_saboteur_of_pulses_is_caught() -> None:
    sabotage = frozenset({"double_send_pulse"})
    assert any(len(Schedule(s, dedupes=False, kills=True, sabotage=sabotage).run().device.executed) > 1 for s in range(60))
