"""Overrides: MANUAL while they last, a second word for the dangerous ones, and `unsafe` under survival limits."""

import pytest

from rules.arbitration import Demand, arbitrate
from rules.hand import UNSAFE_MAX_S
from telemetry.plan import NS_PER_S
from telemetry.record import Event, Request, Start
from telemetry.site import ActuatorSpec
from tests.faults.command_world import T0, Result, Step, World, plan_of
from tests.unit.devices.test_command import at

FAN, AGITATOR, WATER = "farm/h-0/fan", "farm/h-0/agitator", "farm/h-0/water"
WHY = {"en": "agitation frees H2S; nobody may be in the room", "zh": "搅拌会释放硫化氢，室内不得有人"}
ACTUATORS = [
    {"name": "fan", "tolerance": 1},
    {"name": "agitator", "kind": "switch", "high": 1, "confirm": WHY},
    {"name": "water", "kind": "switch", "high": 1, "rest": 1},
]


def begun() -> World:
    world = World(plan_of(ACTUATORS))
    world.run([at(0, record=Start(7)), at(0, record=Event("drained"))])
    return world


def asked(second: float, kind: str, actuator: str, author: str = "wang", **body) -> Step:
    return at(second, record=Request(body.pop("id", f"{author}.{kind}-{second:g}"), kind, author, {"actuator": actuator, **body}))


def answers(result: Result) -> list[tuple[bool, str]]:
    return [(d.body["accepted"], d.body["reason"]) for d in result.of("answer")]


def told(result: Result, actuator: str) -> list[float]:
    return [d.body["value"] for d in result.of("demand", actuator)]


def modes(result: Result, actuator: str) -> list[tuple[str, float]]:
    return [(d.body["mode"], (d.time_ns - T0) / NS_PER_S) for d in result.of("mode", actuator)]


def test_manual_while_an_override_lasts_and_auto_by_itself() -> None:
    world = begun()
    result = world.run([asked(1, "override", FAN, value=40.0, seconds=20, reason="smoke test"), *(at(s) for s in range(2, 40))])
    assert modes(result, FAN) == [("MANUAL", 1.0), ("AUTO", 21.0)]
    manual = result.of("mode", FAN)[0].body
    assert (manual["until_ns"], manual["reason"]) == (T0 + 21 * NS_PER_S, "wang: smoke test")


def test_manual_is_told_also_while_safety_wins_and_once_for_each_override() -> None:
    world = begun()
    world.run([at(1).demand("R1", FAN, 0.0, level=1)])
    result = world.run([asked(2, "override", FAN, value=40.0, seconds=600), asked(3, "override", FAN, value=50.0, seconds=600)])
    assert modes(result, FAN) == [("MANUAL", 2.0), ("MANUAL", 3.0)]
    assert modes(world.run([asked(4, "release", FAN)]), FAN) == [("AUTO", 4.0)]


def test_dangerous_override_is_done_when_the_same_person_confirms_it() -> None:
    world = begun()
    world.run([at(1).demand("R1", AGITATOR, 0.0, level=6)])
    first = world.run([asked(2, "override", AGITATOR, id="wang.a", value=1.0, seconds=300, reason="pull plug")])
    assert answers(first) == [(False, f"confirm it within 60 s: {WHY['en']}")]
    body = first.of("answer")[0].body
    assert body["confirm"] == WHY
    assert body["confirm_until_ns"] == T0 + 62 * NS_PER_S
    assert [d["source"] for d in body["displaces"]] == ["R1@farm/h-0"]
    assert not first.commands
    second = world.run([asked(30, "confirm", AGITATOR, request="wang.a")])
    assert answers(second) == [(True, "")]
    assert [c.value for _, c in second.commands] == [1.0]
    assert second.of("mode", AGITATOR)[0].body["until_ns"] == T0 + 302 * NS_PER_S


@pytest.mark.parametrize(
    ("second", "author", "request_id", "actuator", "reason"),
    [
        (63, "wang", "wang.a", AGITATOR, "it waited for more than 60 s; ask for the override again"),
        (30, "li", "wang.a", AGITATOR, "only wang, who asked for it, can confirm it"),
        (30, "wang", "wang.b", AGITATOR, "no override 'wang.b' waits for a confirmation"),
        (30, "wang", "wang.a", FAN, f"that override is of {AGITATOR}"),
    ],
)
def test_any_other_word_moves_nothing(second: float, author: str, request_id: str, actuator: str, reason: str) -> None:
    world = begun()
    world.run([asked(2, "override", AGITATOR, id="wang.a", value=1.0, seconds=300)])
    result = world.run([asked(second, "confirm", actuator, author, request=request_id), *(at(second + s) for s in range(1, 10))])
    assert answers(result) == [(False, reason)]
    assert not result.commands


def test_confirmation_survives_a_restart_is_used_once_and_not_after_its_time() -> None:
    world = begun()
    world.run([asked(2, "override", AGITATOR, id="wang.a", value=1.0, seconds=300)])
    world.run([asked(3, "override", AGITATOR, id="wang.b", value=1.0, seconds=5)])
    world.restart_from_snapshot()
    assert answers(world.run([asked(9, "confirm", AGITATOR, request="wang.b")]))[0][1].startswith(
        "the time it was asked for is over"
    )
    assert answers(world.run([asked(10, "confirm", AGITATOR, request="wang.a")])) == [(True, "")]
    world.run([asked(11, "release", AGITATOR)])
    assert answers(world.run([asked(12, "confirm", AGITATOR, request="wang.a")]))[0][0] is False


def test_program_asks_for_nothing_dangerous() -> None:
    result = begun().run([
        asked(2, "override", AGITATOR, "program:scada", value=1.0, seconds=300),
        asked(3, "override", FAN, "program:scada", value=1.0, seconds=300, unsafe=True, reason="why not"),
        asked(4, "override", FAN, "program:scada", value=30.0, seconds=300),
    ])  # fmt: skip
    assert [accepted for accepted, _ in answers(result)] == [False, False, True]
    assert "needs the word of a person" in answers(result)[0][1]
    assert [(c.actuator, c.value) for _, c in result.commands] == [(FAN, 30.0)]


def test_no_hand_goes_under_survival_without_unsafe() -> None:
    world = begun()
    world.run([at(1).demand("R1", FAN, 15.0, level=3, bound="at_least")])
    result = world.run([asked(2, "override", FAN, value=0.0, seconds=300, reason="service")])
    assert not result.commands  # 15 stays
    world.run([asked(3, "override", FAN, id="wang.u", value=0.0, seconds=300, reason="change the belt", unsafe=True)])
    result = world.run([asked(4, "confirm", FAN, request="wang.u"), *(at(s) for s in range(5, 340))])
    assert [d.body["value"] for d in result.of("demand", FAN)] == [0.0, 15.0]
    first = result.of("demand", FAN)[0].body
    assert first["winner"]["unsafe"] is True
    assert [loser["source"] for loser in first["losers"]] == ["R1@farm/h-0"]
    assert modes(result, FAN) == [("MANUAL", 4.0), ("AUTO", 303.0)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"reason": "x"}, f"an unsafe override needs `seconds`, at most {UNSAFE_MAX_S:g}"),
        ({"reason": "x", "seconds": 3600}, "`seconds` must be between 1 and 1800"),
        ({"reason": " ", "seconds": 60}, "an unsafe override needs a `reason`"),
        ({"reason": "x", "seconds": 60, "unsafe": "yes"}, "`unsafe` is true or false"),
    ],
)
def test_unsafe_needs_a_timer_and_a_reason(body: dict, reason: str) -> None:
    assert answers(begun().run([asked(2, "override", FAN, value=0.0, **{"unsafe": True, **body})])) == [(False, reason)]


@pytest.mark.parametrize(("level", "value"), [(1, 80.0), (2, 80.0), (3, 0.0), (4, 0.0)])
def test_unsafe_stands_between_equipment_and_survival(level: int, value: float) -> None:
    spec = ActuatorSpec(name="fan")
    unsafe = Demand("request:q", "value", 4, 0.0, unsafe=True)
    for bound in ("at_least", "value"):
        assert arbitrate([Demand("R1@f/h", bound, level, 80.0), unsafe], spec).value == value
