"""Where actuators would have stood: by hand, and as real commands on a simulated clock move them."""

import itertools

import numpy as np
import pytest

from app.backtest.position import SUMS, Feedback, Position
from rules.recorded import places, recorded_entries
from telemetry.decision import Decision
from telemetry.plan import NS_PER_S, Plan
from telemetry.record import Ack, Event, Start
from telemetry.site import ActuatorSpec
from tests.faults.command_world import ACTUATORS, T0, Step, World
from tests.unit.app.recorded_farm import farm

S = NS_PER_S


def at(position: Position, *seconds: float) -> list[float]:
    return [round(float(x), 6) for x in position.stood(np.array([int(s * S) for s in seconds]))]


def test_a_position_follows_at_the_pace_of_its_travel() -> None:
    vent = Position(ActuatorSpec(name="vent", travel_s=200, min_step=2))
    assert at(vent, 0) == [0.0]
    vent.want(10 * S, 50.0, 5)
    assert at(vent, 10, 60, 110, 500) == [0.0, 25.0, 50.0, 50.0]
    vent.want(20 * S, 0.0, 5)  # waits for the end of the travel, 110 s
    vent.want(30 * S, 30.0, 5)  # and is overtaken by another
    vent.go_on(1000 * S)
    assert [(time_ns // S, target) for time_ns, _, target in vent.moves[1:]] == [(10, 50.0), (110, 30.0)]
    assert at(vent, 60, 110, 130, 150, 151) == [25.0, 50.0, 40.0, 30.0, 30.0]
    assert vent.told(np.array([5, 10, 25, 30]) * S).tolist() == [0.0, 50.0, 0.0, 30.0]
    vent.want(1001 * S, 31.0, 5)  # less than the smallest step
    vent.go_on(2000 * S)
    assert at(vent, 2000) == [30.0]
    vent.want(2000 * S, 100.0, 5)
    vent.want(2010 * S, 0.0, 2)  # survival turns back on the way
    assert at(vent, 2010, 2020, 2100) == [35.0, 30.0, 0.0]


def test_minimum_times_hold_and_yield_to_people_in_danger() -> None:
    def heater() -> Position:
        made = Position(ActuatorSpec(name="heater", kind="switch", high=1.0, min_on_s=300, min_off_s=600))
        made.want(0, 1.0, 5)
        made.want(60 * S, 0.0, 5)
        return made

    slow, safe = heater(), heater()
    slow.go_on(2000 * S)
    assert [time_ns // S for time_ns, _, _ in slow.moves[1:]] == [0, 300]
    slow.want(400 * S, 1.0, 3)  # survival waits for it, too: compressors break
    slow.go_on(2000 * S)
    assert at(slow, 299, 300, 899, 900) == [1.0, 0.0, 0.0, 1.0]
    safe.want(61 * S, 0.0, 1)
    assert at(safe, 60, 61) == [1.0, 0.0]


@pytest.mark.parametrize("cuts", [1, 7, 40])
def test_where_blocks_are_cut_changes_nothing(cuts: int) -> None:
    def run(cuts: int) -> list[float]:
        rng, vent, found = np.random.default_rng(5), Position(ActuatorSpec(name="vent", travel_s=90)), list[float]()
        asks = [(int(t), float(v)) for t, v in zip(np.sort(rng.integers(0, 4000, 60)), rng.integers(0, 101, 60), strict=True)]
        borders = np.linspace(0, 4000, cuts + 1).astype(int).tolist()
        for low, high in itertools.pairwise(borders):
            for t, value in asks:
                if low <= t < high:
                    vent.want(t * S, value, 5)
            vent.go_on(high * S)
            found += at(vent, *range(low, high))
            vent.forget()
        return found

    assert run(cuts) == run(100)


def test_moves_as_the_real_commands_do() -> None:
    """The stage that commands live, with a device that accepts at once and measures what it was told: the same moves at the same times."""
    spec = ActuatorSpec.model_validate(next(a for a in ACTUATORS if a["name"] == "vent"))
    rng = np.random.default_rng(11)
    asked = T0 + np.cumsum(rng.integers(1, 12, 150)) * S
    values = [
        100.0,
        *rng.choice([0.0, 10.0, 11.0, 40.0, 41.5, 100.0], 149).tolist(),
    ]  # the first takes a whole travel from anywhere
    wanted = dict(zip(asked.tolist(), values, strict=True))
    position, world, sent = Position(spec), World(), list[tuple[int, float]]()
    world.run([Step(T0, record=Start(1)), Step(T0, record=Event("drained")), Step(T0, record=Event("birth", "farm/h-0"))])
    for now in range(T0, max(wanted) + 100 * S, S):
        step = Step(now)
        if now in wanted:
            step.demand("R1", "farm/h-0/vent", wanted[now], 5)
            position.want(now, wanted[now], 5)
        for _, command in world.run([step]).commands:
            sent.append((now, command.value))
            world.run([Step(now, record=Ack("farm/h-0", command.id, "accepted", "")), Step(now, device=0, value=command.value)])
        position.go_on(now)
    mine = [(-(-time_ns // S) * S, target) for time_ns, _, target in position.moves[1:]]  # the clock of the test ticks by seconds
    assert len(mine) > 40
    assert mine == sent


def test_sums_are_of_samples_and_of_every_actuator() -> None:
    plan = Plan()
    plan.apply(farm())
    told = Decision(1, 1, 5 * S, 60, "demand", "farm/house-a/vent", {"value": 40.0, "winner": {"level": 5}, "losers": []})
    point = plan.devices[plan.device_number["farm/house-a"]].point("vent_pct")
    rows = np.full(4, point, np.int32), np.arange(4) * 4_000, np.array([0.0, np.nan, 10.0, 30.0]), np.zeros(4, np.uint16)
    entries = recorded_entries([rows], places(plan), first=1, start_ms=0, end_ms=20_000)
    found = Feedback(plan).compare(entries, [told])
    sums = dict(zip(SUMS, found["farm/house-a/vent", 0], strict=True))
    assert sums == {"samples": 3, "told": 80.0, "measured": 40.0, "stood": 80.0, "apart": 40.0, "moves": 1}
