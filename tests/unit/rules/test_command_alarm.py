"""A command that does not end in confirmed feedback is an alarm by ISA-18.2, in the transaction of its fault."""

import pytest

from app.wiring import build_engine
from telemetry.plan import NS_PER_S
from telemetry.record import Event, Request, Start
from telemetry.site import RuleSpec
from tests.faults.command_world import T0, Result, World, plan_of
from tests.unit.devices.test_command import PUMP, VENT, ack, at, begun, ticks

ALARM = "COMMAND-vent@farm/h-0"


def changes(result: Result, subject: str = ALARM) -> list[tuple[str, str, float]]:
    """(event, state after it, seconds)."""
    return [(d.body["event"], d.body["to"], (d.time_ns - T0) / NS_PER_S) for d in result.of("alarm", subject)]


def asked(second: float, kind: str, **body) -> object:
    return at(second, record=Request(f"{kind}-{second:g}", kind, "wang", {"alarm": ALARM, **body}))


def test_silent_device_is_an_alarm_at_the_expiry() -> None:
    """T26: not later than a second after it."""
    result = begun().run([at(1).demand("R1", VENT, 50.0), *ticks(2, 33)])
    assert changes(result) == [("raise", "UNACK", 31.0)]
    (alarm,) = result.of("alarm")
    assert alarm.body["priority"] == "P2"
    assert alarm.body["value"] == 50.0
    assert list(alarm.body["read"]) == [f"COMMAND_LOST 7-2-{VENT}"]
    assert alarm.body["message"] == {"en": "vent of {device} does not do what it is told", "zh": "{device} 的vent未按指令动作"}
    (fault,) = result.of("fault")
    assert alarm.position == fault.position


@pytest.mark.parametrize("status", ["refused", "expired", "superseded"])
def test_any_other_answer_than_accepted_is_an_alarm(status: str) -> None:
    world = begun()
    world.run([at(1).demand("R1", VENT, 50.0)])
    assert changes(world.run([ack(2, f"7-2-{VENT}", status)])) == [("raise", "UNACK", 2.0)]


def test_frozen_feedback_is_an_alarm() -> None:
    world = begun()
    world.run([at(1).demand("R1", VENT, 50.0)])
    result = world.run([ack(2, f"7-2-{VENT}"), *(at(s, device=0, value=0.0) for s in range(3, 49))])
    assert changes(result) == [("raise", "UNACK", 47.0)]
    assert list(result.of("alarm")[0].body["read"]) == [f"FAIL_TO_MOVE 7-2-{VENT}"]


def test_it_stands_until_a_later_command_is_confirmed_and_is_raised_once() -> None:
    world = begun()
    result = world.run([at(1).demand("R1", VENT, 50.0), *ticks(2, 300)])
    assert changes(result) == [("raise", "UNACK", 31.0)]
    assert changes(world.run([asked(301, "acknowledge")])) == [("acknowledge", "ACKED", 301.0)]
    sent = world.run(ticks(302, 370)).commands[-1][1]
    assert sent.value == 50.0
    assert changes(world.run([ack(371, sent.id), at(380, device=0, value=50.0)])) == [("clear", "NORM", 380.0)]


def test_an_actuator_without_feedback_is_well_again_when_its_device_accepts() -> None:
    world = begun()
    lost = world.run([at(1).demand("R1", PUMP, 5.0), *ticks(2, 40)])
    assert changes(lost, "COMMAND-pump@farm/h-0") == [("raise", "UNACK", 31.0)]
    again = world.run([at(50).demand("R1", PUMP, 6.0)]).commands[0][1]
    assert changes(world.run([ack(51, again.id)]), "COMMAND-pump@farm/h-0") == [("clear", "RTNUN", 51.0)]


def test_late_answer_clears_nothing() -> None:
    world = begun()
    command = world.run([at(1).demand("R1", PUMP, 5.0), *ticks(2, 40)]).commands[0][1]
    assert not world.run([ack(41, command.id)]).of("alarm")


def test_taking_it_over_at_the_panel_clears_it() -> None:
    world = begun()
    world.run([at(1).demand("R1", VENT, 50.0), *ticks(2, 40)])
    assert changes(world.run([at(41, device=0, point=1, value=1.0)])) == [("clear", "RTNUN", 41.0)]


def test_it_is_shelved_and_comes_back_like_any_other() -> None:
    world = begun()
    world.run([at(1).demand("R1", VENT, 50.0), *ticks(2, 40)])
    result = world.run([asked(41, "shelve", seconds=60, reason="drive is being mended"), *ticks(42, 110)])
    assert changes(result) == [("shelve", "SHLVD", 41.0), ("unshelve", "UNACK", 101.0)]
    assert [d.body["accepted"] for d in result.of("answer")] == [True]


def test_both_alarm_stages_together_answer_a_request_once() -> None:
    world, engine = World(), build_engine()
    assert {type(s).__name__ for s in engine.stages} >= {"Alarms", "CommandAlarms"}
    answers = [stage._is_ours(name) for name in (ALARM, "R1@farm/h-0") for stage in engine.stages if hasattr(stage, "_is_ours")]
    assert answers == [False, True, True, False]
    refused = world.run([at(0, record=Start(1)), asked(1, "reset"), asked(2, "acknowledge", alarm="COMMAND-none@farm/h-0")])
    assert [d.body["accepted"] for d in refused.of("answer")] == [False, False]


def test_recordings_have_none_and_no_rule_may_be_called_so() -> None:
    world = World(plan_of(origin="REPLAY"))
    answer = world.run([at(0, record=Start(1)), at(0, record=Event("drained")), asked(1, "acknowledge")]).of("answer")[0]
    assert answer.body["reason"] == "no alarm rule 'COMMAND-vent' on farm/h-0"
    with pytest.raises(ValueError, match="begin with COMMAND-"):
        RuleSpec(id="COMMAND-vent", when="a > 1")
