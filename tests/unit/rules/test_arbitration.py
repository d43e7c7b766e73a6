"""Arbitration: the rule of DOMAIN 0.4 on single cases, on random ones, and requests of people."""

import math
import random

import numpy as np
import pytest

from bench.control import settle
from rules.arbitration import REMEMBERED_REQUESTS, Demand, arbitrate
from rules.control.controller import Ask
from telemetry.plan import NS_PER_S
from telemetry.record import Request
from telemetry.site import LEVELS, ActuatorSpec
from tests.faults.command_world import T0, Step, World, plan_of

VENT, FLAP = "farm/h-0/vent", "farm/h-0/flap"
SPEC = ActuatorSpec(name="vent")
SMALLEST = ActuatorSpec(name="flap", low=5, high=95, rest=5, choose="smallest")


def least(level: int, value: float) -> Demand:
    return Demand(f"L{level}", "at_least", level, value)


def most(level: int, value: float) -> Demand:
    return Demand(f"M{level}", "at_most", level, value)


def exact(level: int, value: float, source: str = "V") -> Demand:
    return Demand(f"{source}{level}", "value", level, value)


def names(demands: tuple[Demand, ...]) -> list[str]:
    return [d.source for d in demands]


@pytest.mark.parametrize(
    ("demands", "value", "winner", "losers"),
    [
        ([], 0.0, None, []),
        ([exact(6, 40), exact(5, 70)], 70.0, "V5", ["V6"]),
        ([exact(6, 40), most(2, 20)], 20.0, "M2", ["V6"]),
        ([most(2, 20), least(3, 50)], 0.0, None, ["L3"]),  # a bound that would empty the interval loses
        ([least(3, 30), exact(4, 10)], 30.0, "L3", ["V4"]),  # no hand goes under survival
        ([exact(4, 60), exact(6, 90), least(5, 80)], 60.0, "V4", ["L5", "V6"]),
        ([exact(2, 0), exact(4, 60)], 0.0, "V2", ["V4"]),
        ([exact(6, 400)], 100.0, "V6", ["V6"][1:]),
        ([least(6, 30)], 30.0, "L6", []),
        ([exact(6, float("nan")), exact(7, 10)], 10.0, "V7", []),
    ],
)
def test_order_of_the_field(demands: list[Demand], value: float, winner: str | None, losers: list[str]) -> None:
    outcome = arbitrate(reversed(demands), SPEC)
    assert outcome.value == value
    assert (None if outcome.winner is None else outcome.winner.source) == winner
    assert names(outcome.losers) == losers


def test_smallest_wins_where_the_actuator_says_so() -> None:
    assert arbitrate([exact(5, 40), exact(7, 20)], SMALLEST).value == 20.0


def test_random_demands_keep_bounds_of_higher_levels_in_any_order() -> None:
    draw = random.Random(7)
    for _ in range(5000):
        demands = [
            Demand(f"S{i}", draw.choice(["at_least", "at_most", "value"]), draw.randint(1, 7), draw.uniform(-20, 120))
            for i in range(draw.randint(0, 6))
        ]
        outcome = arbitrate(demands, SPEC)
        assert SPEC.low <= outcome.value <= SPEC.high
        shuffled = demands[:]
        draw.shuffle(shuffled)
        assert arbitrate(shuffled, SPEC) == outcome
        for bound in demands:
            # A bound loses only to demands of its own or a higher level, or to the range.
            alone = arbitrate([d for d in demands if d.level <= bound.level], SPEC)
            if bound.bound != "value" and bound not in alone.losers and not any(d.level > bound.level for d in demands):
                assert bound not in outcome.losers
        top = min((d.level for d in demands if d.bound != "value"), default=0)
        only = [d for d in demands if d.level == top and d.bound != "value"]
        if len(only) == 1 and all(d.level > top for d in demands if d is not only[0]) and 0 <= only[0].value <= 100:
            assert only[0] not in outcome.losers


def test_closed_loops_of_benches_and_tests_settle_as_arbitration_does() -> None:
    draw, levels = random.Random(8), list(LEVELS)
    for _ in range(2000):
        spec = draw.choice([SPEC, SMALLEST])
        asks = {
            Ask(spec.name, draw.choice(["at_least", "at_most", "value"]), draw.choice(levels)) for _ in range(draw.randint(0, 6))
        }
        asked = {ask: draw.choice([draw.uniform(-20, 120), math.nan]) for ask in asks}
        demands = [Demand(f"S{i}", ask.bound, LEVELS[ask.level], value) for i, (ask, value) in enumerate(asked.items())]
        settled = settle({ask: np.array([value]) for ask, value in asked.items()}, spec, 1)
        assert settled[0] == arbitrate(demands, spec).value, asked


# -- the stage ---------------------------------------------------------------------------------------------------------


def at(second: float, **fields) -> Step:
    return Step(T0 + int(second * NS_PER_S), **fields)


def override(second: float, name: str, **body) -> Step:
    return at(second, record=Request(name, "override", "p7", {"actuator": VENT, "value": 30.0, **body}))


def answers(result) -> list[tuple[bool, str]]:
    return [(d.body["accepted"], d.body["reason"]) for d in result.of("answer")]


def values(result, actuator: str = VENT) -> list[tuple[int, float]]:
    return [((d.time_ns - T0) // NS_PER_S, d.body["value"]) for d in result.of("demand", actuator)]


def test_losers_are_the_why() -> None:
    result = World().run([at(1).demand("R1", VENT, 60.0).demand("R2", VENT, 20.0, level=2, bound="at_most")])
    (decision,) = result.of("demand")
    assert decision.body["value"] == 20.0
    assert decision.body["winner"]["source"] == "R2@farm/h-0"
    loser = {"source": "R1@farm/h-0", "bound": "value", "level": 6, "value": 60.0, "reason": "why"}
    assert decision.body["losers"] == [loser | {"rule_version": 1, "since_ns": 0, "read": {}}]


def test_whole_entry_is_applied_before_it_is_judged() -> None:
    world = World()
    world.run([at(1).demand("R1", VENT, 60.0)])
    assert values(world.run([at(2).demand("R1", VENT, None).demand("R2", VENT, 40.0)])) == [(2, 40.0)]


def test_without_demand_the_actuator_goes_to_rest() -> None:
    assert values(World().run([at(1).demand("R1", FLAP, 60.0), at(2).demand("R1", FLAP, None)]), FLAP) == [(1, 60.0), (2, 5.0)]


def test_override_ends_by_itself_at_its_due_time() -> None:
    steps = [at(1).demand("R1", VENT, 60.0), override(2, "q", seconds=10), at(11.9), at(30)]
    result = World().run(steps)
    assert answers(result) == [(True, "")]
    assert values(result) == [(1, 60.0), (2, 30.0), (12, 60.0)]


def test_override_lasts_an_hour_unless_told_and_ends_by_release() -> None:
    assert values(World().run([override(0, "q"), at(3599), at(3601)])) == [(0, 30.0), (3600, 0.0)]
    result = World().run([override(0, "q"), at(5, record=Request("r", "release", "p7", {"actuator": VENT})), at(4000)])
    assert values(result) == [(0, 30.0), (5, 0.0)]


def test_second_override_replaces_the_first_and_its_timer() -> None:
    result = World().run([override(0, "q", seconds=10), override(5, "r", value=70.0, seconds=100), at(50), at(200)])
    assert values(result) == [(0, 30.0), (5, 70.0), (105, 0.0)]


@pytest.mark.parametrize(
    "body",
    [
        {"actuator": "farm/h-0/nothing"}, {"actuator": None}, {"value": None}, {"value": "30"}, {"value": True}, {"value": 101},
        {"value": float("nan")}, {"seconds": 0}, {"seconds": 86_401}, {"seconds": "x"}, {"seconds": None},
    ],
)  # fmt: skip
def test_bad_override_is_refused_with_a_reason(body: dict) -> None:
    result = World().run([override(0, "q", **body), at(10)])
    ((accepted, reason),) = answers(result)
    assert not accepted
    assert reason
    assert not result.of("demand")


def test_release_without_override_is_refused() -> None:
    assert not answers(World().run([at(0, record=Request("r", "release", "p7", {"actuator": VENT}))]))[0][0]


def test_same_request_twice_is_answered_alike_and_done_once() -> None:
    result = World().run([override(0, "q", seconds=10), override(5, "q", seconds=10), at(20)])
    assert answers(result) == [(True, ""), (True, "")]
    assert values(result) == [(0, 30.0), (10, 0.0)]


def test_memory_of_requests_is_bounded() -> None:
    world = World()
    world.run([override(i * 0.001, f"q{i}", value=200) for i in range(REMEMBERED_REQUESTS + 1)])
    kept = world.stages[0].snapshot()["answers"]
    assert (len(kept), kept[0][0]) == (REMEMBERED_REQUESTS, "q1")


def test_demand_from_another_site_moves_nothing() -> None:
    step = at(1)
    step.demands.append((1, step.time_ns, "R1@other/h-0", VENT, "value", 6, 50.0))
    assert not World().run([step]).decisions


def test_override_of_a_recorded_site_is_refused() -> None:
    assert not answers(World(plan_of(origin="REPLAY")).run([override(0, "q")]))[0][0]


R1 = {"id": "R1", "profile": "house", "when": "vent_pct > 0"}


@pytest.mark.parametrize(
    "rules", [[], [R1 | {"version": 2}], [R1 | {"tag": "north"}], [R1 | {"area": "b"}], [R1 | {"devices": ["h-1"]}]]
)
def test_demand_of_a_rule_that_is_gone_or_changed_ends(rules: list[dict]) -> None:
    world = World()
    world.run([at(1).demand("R1", VENT, 60.0)])
    world.plan = plan_of(rules=rules)
    for stage in world.stages:
        stage.configure(world.plan)
    assert values(world.run([at(2), at(3)])) == [(2, 0.0)]


def test_a_snapshot_of_a_build_without_limits_is_arbitrated_anew() -> None:
    world = World(plan_of())
    world.run([Step(T0).demand("R1", VENT, 40.0)])
    saved = world.stages[0].snapshot()
    saved["last"] = {actuator: list(outcome)[:3] for actuator, outcome in saved["last"].items()}
    del saved["confirmations"], saved["manual"]
    fresh = World(plan_of())
    fresh.stages[0].restore(saved)
    assert fresh.stages[0].snapshot()["last"][VENT][3] == ((-math.inf, math.inf), (-math.inf, math.inf))
    result = fresh.run([Step(T0 + NS_PER_S)])
    assert result.of("demand") == []  # the same value, by the same demand
    assert fresh.stages[0].snapshot()["last"][VENT][3] == ((0.0, 100.0), (0.0, 100.0))
