"""Random histories: a run cut anywhere, with snapshots at the cuts, decides and commands the same; limits always hold."""

import random

import pytest

from telemetry.decision import log_line
from telemetry.frame import Verdict
from telemetry.plan import NS_PER_S
from telemetry.record import Ack, Event, Request, Start
from telemetry.span import TIMER
from tests.faults.command_world import ACTUATORS, T0, Result, Step, World

NAMES = [f"farm/h-{h}/{a['name']}" for h in range(2) for a in ACTUATORS]
SPECS = {name: next(a for a in ACTUATORS if name.endswith("/" + a["name"])) for name in NAMES}


def history(seed: int, length: int) -> list[Step]:
    """A random journal: demands, overrides, feedback, answers right and wrong, births, losses of the broker, restarts."""
    draw = random.Random(seed)
    steps, now = [Step(T0, record=Start(1)), Step(T0, record=Event("drained"))], T0
    for i in range(length):
        now += draw.choice([0, 1, NS_PER_S // 3, NS_PER_S, 7 * NS_PER_S, 40 * NS_PER_S])
        steps.append(_step(draw, now, i))
    return steps


def _step(draw: random.Random, now: int, i: int) -> Step:
    name = draw.choice(NAMES)
    device, kind = name.rpartition("/")[0], draw.random()
    if kind < 0.35:
        step = Step(now)
        for _ in range(draw.randint(1, 2)):
            value = draw.choice([None, 0.0, 1.0, 5.0, 30.0, 31.0, 80.0, 120.0])
            bound, level = draw.choice(["value", "value", "at_least", "at_most"]), draw.randint(1, 7)
            step.demand(f"R{draw.randint(1, 7)}", draw.choice(NAMES), value, level, bound)
            if draw.random() < 0.3:  # a timer of the rule: due before this entry, perhaps before the one before it
                _, _, *rest = step.demands[-1]
                step.demands[-1] = (TIMER, now - draw.choice([0, 1, NS_PER_S]), *rest)
        return step
    if kind < 0.55:
        return Step(now, record=("ack", draw.random(), draw.choice(["accepted"] * 5 + ["refused", "expired", "superseded"])))
    if kind < 0.75:
        verdict = draw.choice([int(Verdict.LIVE)] * 4 + [int(Verdict.LATE)])
        if draw.random() < 0.15:
            return Step(now, device=draw.randint(0, 1), point=1, value=draw.choice([0.0, 0.0, 1.0, 2.0]), verdict=verdict)
        return Step(now, device=draw.randint(0, 1), value=draw.choice([0.0, 10.0, 30.0, 80.0]), verdict=verdict)
    if kind < 0.85:
        body = {"actuator": name, "value": draw.choice([1.0, 20.0, 300.0]), "seconds": draw.choice([5, 50])}
        return Step(now, record=Request(f"q{i - draw.randint(0, 1)}", draw.choice(["override", "release"]), "p", body))
    if kind < 0.93:
        return Step(now, record=Event(draw.choice(["birth", "offline", "drained", "broker_lost"]), device))
    return Step(now, record=Start(2 + i)) if kind < 0.94 else Step(now)


def with_real_answers(steps: list[Step], world: World | None = None) -> list[Step]:
    """Answers name commands that were really sent: found by running the history one entry at a time."""
    world, ids, out = world or World(), [], []
    for step in steps:
        if isinstance(step.record, tuple):
            _, pick, status = step.record
            command = ids[-1 - int(pick * min(6, len(ids)))] if ids and pick < 0.95 else "1-1-farm/h-0/vent"
            step.record = Ack(command.split("-", 2)[2].rpartition("/")[0], command, status)
        ids += [c.id for _, c in world.run([step]).commands]
        out.append(step)
    return out


def same(a: Result, b: Result) -> bool:
    return [log_line(d) for d in a.decisions] == [log_line(d) for d in b.decisions] and [c for _, c in a.commands] == [
        c for _, c in b.commands
    ]


@pytest.mark.parametrize("seed", range(30))
def test_cut_anywhere_gives_the_same(seed: int) -> None:
    steps = with_real_answers(history(seed, 250))
    draw = random.Random(seed)
    one_by_one = World().run(steps, set(range(len(steps))))
    assert len(one_by_one.commands) > 10
    assert same(World().run(steps), one_by_one)
    cuts = set(draw.sample(range(len(steps)), 20))
    assert same(World().run(steps, cuts), one_by_one)
    assert same(World().run(steps, cuts, snapshot_at_cuts=True), one_by_one)


@pytest.mark.parametrize("seed", range(100, 110))
def test_limits_hold_over_random_steps(seed: int) -> None:
    """T30: range, minimum on and off times, pace of travel, one command of a name, pulses once; never after its expiry."""
    check_limits(World().run(with_real_answers(history(seed, 1000))))


@pytest.mark.torture
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(1000, 1100))
def test_limits_hold_over_a_hundred_thousand_random_steps(seed: int) -> None:
    check_limits(World().run(with_real_answers(history(seed, 1000))))


def test_limits_are_broken_by_the_saboteur() -> None:
    steps = with_real_answers(history(100, 1000))
    with pytest.raises(AssertionError):
        check_limits(World(sabotage=frozenset({"ignore_pacing"})).run(steps))


def check_limits(result: Result) -> None:
    switched: dict[str, tuple[bool, int]] = {}
    first_sent: dict[str, int] = {}
    travelled: dict[str, tuple[float, int, int]] = {}
    for decision in result.of("command"):
        body, name = decision.body, decision.subject
        if "sends" not in body:
            continue
        spec, now = SPECS[name], decision.time_ns
        assert spec.get("low", 0) <= body["value"] <= spec.get("high", 100)
        if body["id"] in first_sent:
            assert body["sends"] <= 3
            assert now - first_sent[body["id"]] < 30 * NS_PER_S
            assert spec.get("kind") != "pulse" or spec["dedupes"]
            continue
        first_sent[body["id"]] = now
        if spec.get("min_on_s"):
            _check_switch(switched, name, body, now)
        if spec.get("travel_s"):
            _check_travel(travelled, name, body, now)
    for _, command in result.commands:
        assert 1 <= command.expires_s <= 30


def _check_switch(switched: dict[str, tuple[bool, int]], name: str, body: dict, now: int) -> None:
    is_on = body["value"] > 0
    was_on, since = switched.get(name, (is_on, 0))
    is_exempt = body["reason"].startswith("fail-safe") or (body["winner"] is not None and body["winner"]["level"] == 1)
    if is_on != was_on and not is_exempt:
        limit_s = SPECS[name]["min_on_s"] if was_on else SPECS[name]["min_off_s"]
        assert now - since >= limit_s * NS_PER_S
    if name not in switched or is_on != was_on:
        switched[name] = is_on, now


def _check_travel(sent: dict[str, tuple[float, int, int]], name: str, body: dict, now: int) -> None:
    before, since, way_ns = sent.get(name, (body["value"], 0, 0))
    level = 8 if body["winner"] is None else body["winner"]["level"]
    if level > 3 and not body["reason"].startswith("fail-safe"):
        assert now - since >= way_ns
    sent[name] = body["value"], now, int(abs(body["value"] - before) / 100 * SPECS[name]["travel_s"] * NS_PER_S)
