"""The life of an alarm: every state with every event, latching, shelving, and requests that come twice."""

import math
import random
from typing import Any

import pytest

from app.wiring import build_engine
from telemetry.decision import Decision
from telemetry.site import ActuatorSpec, DemandSpec, DeviceSpec
from tests.unit.rules.house import House, S, config, house_of, rule_of

# How to come to a state, what the condition then is, and what each event does: "-" nothing (a request is then refused).
PATHS = {
    "NORM": ["raise", "clear", "acknowledge"],
    "UNACK": ["raise"],
    "ACKED": ["raise", "acknowledge"],
    "RTNUN": ["raise", "clear"],
    "SHLVD": ["raise", "shelve"],
    "OOSRV": ["raise", "out_of_service"],
}
EVENTS = ["raise", "clear", "acknowledge", "shelve", "unshelve", "reset", "out_of_service", "in_service"]
EXPECTED = {
    #         raise    clear    acknowl. shelve   unshelve reset    out      in
    "NORM":  ["UNACK", "-",     "-",     "SHLVD", "-",     "-",     "OOSRV", "-"],
    "UNACK": ["-",     "RTNUN", "ACKED", "SHLVD", "-",     "-",     "OOSRV", "-"],
    "ACKED": ["-",     "NORM",  "-",     "SHLVD", "-",     "-",     "OOSRV", "-"],
    "RTNUN": ["UNACK", "-",     "NORM",  "SHLVD", "-",     "-",     "OOSRV", "-"],
    "SHLVD": ["-",     "-",     "-",     "-",     "UNACK", "-",     "OOSRV", "-"],
    "OOSRV": ["-",     "-",     "-",     "-",     "-",     "-",     "-",     "UNACK"],
}  # fmt: skip
LATCHED_PATH = ["raise", "acknowledge", "clear"]
LATCHED = ["UNACK", "-", "-", "-", "-", "NORM", "-", "-"]
CASES = [(s, PATHS[s], e, x, False) for s, row in EXPECTED.items() for e, x in zip(EVENTS, row, strict=True)]
CASES += [("LATCH", LATCHED_PATH, e, x, True) for e, x in zip(EVENTS, LATCHED, strict=True)]


@pytest.mark.parametrize(("state", "path", "event", "expected", "latching"), CASES, ids=lambda x: x if isinstance(x, str) else "")
def test_every_state_with_every_event(state: str, path: list[str], event: str, expected: str, latching: bool) -> None:
    house = House(latching=latching)
    for step in path:
        house.happen(step)
    assert house.state == state
    made = house.happen(event)
    alarms = [d.body["to"] for d in made if d.kind == "alarm"]
    assert alarms == ([] if expected == "-" else [expected])
    answers = [d.body["accepted"] for d in made if d.kind == "answer"]
    assert answers == ([] if event in {"raise", "clear"} else [expected != "-"])


@pytest.mark.parametrize("event", ["unshelve", "in_service"])
def test_an_alarm_that_comes_back_stands_where_its_condition_stands(event: str) -> None:
    house = House()
    for step in ["raise", "shelve" if event == "unshelve" else "out_of_service", "clear", event]:
        house.happen(step)
    assert house.state == "NORM"


def test_a_latching_alarm_that_was_acknowledged_after_it_returned_waits_for_a_reset() -> None:
    house = House(latching=True)
    for step, state in zip(["raise", "clear", "acknowledge", "reset"], ["UNACK", "RTNUN", "LATCH", "NORM"], strict=True):
        house.happen(step)
        assert house.state == state


@pytest.mark.parametrize("aside", [["shelve", "clear", "unshelve"], ["out_of_service", "clear", "in_service"]])
def test_a_latching_alarm_that_was_put_aside_still_waits_for_a_reset(aside: list[str]) -> None:
    house = House(latching=True)
    for step in ["raise", *aside]:
        house.happen(step)
    assert house.state == "LATCH"
    house.happen("reset")
    assert house.state == "NORM"


def stopping(*, latching: bool = True) -> House:
    """A house whose alarm stops a machine that otherwise runs."""
    house, base = House(), config(latching)
    rule = (
        base.profiles["p"]
        .rules[0]
        .model_copy(update={"version": 2, "demand": DemandSpec(actuator="run", bound="at_most", value=0, level="equipment")})
    )
    run = ActuatorSpec(name="run", low=0, high=1, rest=1)
    house.configure(
        base.model_copy(update={"profiles": {"p": base.profiles["p"].model_copy(update={"rules": [rule], "actuators": [run]})}})
    )
    house.decisions.clear()
    return house


def told(house: House) -> list[float]:
    return [float(d.body["value"]) for d in house.decisions if d.kind == "demand"]


@pytest.mark.parametrize(("latching", "values"), [(True, [0, 0, 0, 0, 0, 1]), (False, [0, 1, 0, 1, 1, 1])])
def test_what_a_latching_alarm_stops_runs_again_after_the_reset_only(latching: bool, values: list[float]) -> None:
    house, after = stopping(latching=latching), []
    for step in ["raise", "clear", "raise", "clear", "acknowledge", "reset"]:
        house.happen(step)
        after.append(told(house)[-1])
    assert after == values


@pytest.mark.parametrize("seed", range(12))
def test_random_lives_of_a_latching_stop_equal_the_oracle(seed: int) -> None:
    """It stands from the moment its condition turns on until somebody resets the alarm, whatever else is done to it."""
    draw, single, batch = random.Random(seed), stopping(), stopping()
    on = latched = False
    for _ in range(60):
        event = draw.choice(EVENTS)
        made = single.happen(event)
        if event in {"raise", "clear"}:
            on = event == "raise"
            latched = latched or on
            batch.measure(35.0 if on else 20.0)
        else:
            batch.ask(event)
        latched &= not (event == "reset" and any(d.kind == "answer" and d.body["accepted"] for d in made))
        assert latched or not on
        assert (told(single) or [1.0])[-1] == (0.0 if latched else 1.0), event
    batch.flush()
    assert [d for d in batch.decisions if d.kind in {"alarm", "demand", "answer"}] == [
        d for d in single.decisions if d.kind in {"alarm", "demand", "answer"}
    ]
    again = build_engine()
    again.restore(single.engine.snapshot())
    assert again.stages[3].snapshot() == single.engine.stages[3].snapshot()


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "one batch"])
def test_shelving_ends_exactly_at_its_time(together: bool) -> None:
    house = House()
    house.happen("raise")
    house.ask("shelve", seconds=60)
    began = house.now
    for _ in range(9):
        house.tick(7.3)
        if not together:
            house.flush()
    house.flush()
    (ended,) = [d for d in house.decisions if d.body.get("event") == "unshelve"]
    assert (ended.time_ns, ended.phase, ended.body["to"]) == (began + 60 * S, 0, "UNACK")


def story_of_shelving(together: bool) -> list[Decision]:
    """Inside the shelving the condition clears, a person asks, and only then it ends; all in one batch or not."""
    house = House()
    house.happen("raise")
    house.ask("shelve", seconds=10)
    steps = [
        lambda: house.measure(20.0), lambda: house.ask("acknowledge"), lambda: house.ask("unshelve"),
        lambda: house.ask("shelve", seconds=5), lambda: house.measure(36.0), lambda: house.tick(3), lambda: house.tick(9),
    ]  # fmt: skip
    for step in steps:
        if not together:
            house.flush()
        step()
    house.flush()
    return house.decisions


def test_what_happens_during_a_shelving_is_told_before_its_end() -> None:
    apart = story_of_shelving(False)
    assert story_of_shelving(True) == apart
    assert [d.body["to"] for d in apart if d.kind == "alarm"] == ["UNACK", "SHLVD", "NORM", "SHLVD", "UNACK"]


def test_p1_is_never_shelved() -> None:
    house = House(priority="P1")
    house.happen("raise")
    (answer,) = house.happen("shelve")
    assert (answer.kind, answer.body["accepted"]) == ("answer", False)
    assert "P1" in answer.body["reason"]
    assert house.state == "UNACK"


@pytest.mark.parametrize(
    "body", [{"seconds": 0}, {"seconds": -1}, {"seconds": 8 * 3600 + 1}, {"seconds": None}, {"seconds": "60"}, {"reason": ""},
             {"seconds": math.nan}, {"seconds": math.inf}],
)  # fmt: skip
def test_shelving_needs_a_time_and_a_reason(body: dict[str, Any]) -> None:
    house = House()
    house.happen("raise")
    house.ask("shelve", **body)
    (answer,) = house.flush()
    assert answer.body["accepted"] is False
    assert house.state == "UNACK"


@pytest.mark.parametrize("alarm", ["HOT@s/nobody", "COLD@s/d", "", "HOT", "@", "HOT@t/d"])
def test_a_request_for_an_unknown_alarm_is_answered(alarm: str) -> None:
    house = House()
    house.ask("acknowledge", alarm=alarm)
    (answer,) = house.flush()
    assert (answer.kind, answer.subject, answer.body["accepted"]) == ("answer", "q1", False)
    assert answer.body["reason"]


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "one batch"])
def test_a_request_that_comes_twice_has_one_effect_and_one_answer(together: bool) -> None:
    house = House()
    house.happen("raise")
    for event in ["acknowledge", "clear", "raise", "acknowledge"]:
        if event == "acknowledge":
            house.ask(event, request="same")
        else:
            house.measure(35.0 if event == "raise" else 20.0)
        if not together:
            house.flush()
    house.flush()
    assert [d.body["to"] for d in house.decisions if d.kind == "alarm"] == ["UNACK", "ACKED", "NORM", "UNACK"]
    assert len([d for d in house.decisions if d.kind == "answer"]) == 1


def test_a_repeated_request_is_known_after_a_restart() -> None:
    house = House()
    house.happen("raise")
    house.ask("acknowledge", request="same")
    house.flush()
    saved, house.engine = house.engine.snapshot(), build_engine()
    house.engine.restore(saved)
    house.happen("clear")
    house.happen("raise")
    house.ask("acknowledge", request="same")
    assert house.flush() == []
    assert house.state == "UNACK"


def test_an_alarm_says_who_and_why() -> None:
    house = House()
    house.happen("raise")
    house.ask("shelve", seconds=60, reason="fan is repaired")
    alarm = next(d for d in house.flush() if d.kind == "alarm")
    assert {"author": "ann", "reason": "fan is repaired", "seconds": 60, "priority": "P2", "area": "a", "value": 35.0}.items() <= (
        alarm.body.items()
    )


def test_an_alarm_says_what_was_read_and_since_when_it_held() -> None:
    house = house_of(when="temp_c > 30 and heat_bool < 1", on_delay_s=5, priority="P2")
    house.send(temp_c=34.0, heat_bool=0.0)
    began = house.now
    house.send(temp_c=35.0)
    house.tick(10)
    (raised,) = [d for d in house.flush() if d.kind == "alarm"]
    assert (raised.time_ns, raised.body["since_ns"]) == (began + 5 * S, began)
    assert raised.body["read"] == {"temp_c": 35.0, "heat_bool": 0.0}
    house.send(temp_c=25.0)
    (cleared,) = [d for d in house.flush() if d.kind == "alarm"]
    assert cleared.body["read"] == {"temp_c": 25.0, "heat_bool": 0.0}
    assert "since_ns" not in cleared.body


def test_values_read_stand_beside_what_they_are_of_when_a_quality_is_read_too() -> None:
    house = house_of(when="quality(temp_c) >= 2 or temp_c > 30 or heat_bool > 2", priority="P2")
    house.send(heat_bool=0.5)
    house.send(temp_c=35.0)
    (raised,) = [d for d in house.flush() if d.kind == "alarm"]
    assert raised.body["read"] == {"temp_c": 35.0, "heat_bool": 0.5}


def test_an_alarm_that_is_suppressed_when_it_is_raised_says_what_was_read() -> None:
    house = house_of(suppress_when="heat_bool > 0", priority="P2")
    house.send(heat_bool=1.0)
    house.send(temp_c=35.0)
    (raised,) = [d for d in house.flush() if d.kind == "alarm"]
    assert (raised.body["to"], raised.body["read"]) == ("DSUPR", {"temp_c": 35.0})


def test_an_alarm_from_a_shelf_says_what_it_stands_on() -> None:
    house = House()
    house.happen("shelve")
    house.measure(41.0)
    began = house.now
    house.flush()
    (back,) = [d for d in house.happen("unshelve") if d.kind == "alarm"]
    assert (back.body["to"], back.body["since_ns"], back.body["read"]) == ("UNACK", began, {"temp_c": 41.0})


def test_a_new_version_of_the_rule_goes_on_with_the_alarm_of_the_old_one() -> None:
    house = House()
    for step in ["raise", "acknowledge"]:
        house.happen(step)
    house.configure(config(latching=False, version=2))
    house.tick(1)
    assert house.flush() == []
    assert [d.body["to"] for d in house.happen("raise") + house.happen("clear")] == ["NORM"]


def test_an_alarm_whose_rule_is_gone_ends() -> None:
    house = House()
    house.happen("raise")
    gone = config(latching=False)
    house.configure(gone.model_copy(update={"profiles": {"p": gone.profiles["p"].model_copy(update={"rules": []})}}))
    house.tick(1)
    (end,) = house.flush()
    assert (end.body["from"], end.body["to"], end.body["event"]) == ("UNACK", "NORM", "rule_removed")


def alarms(made: list[Decision]) -> list[tuple[str, str]]:
    return [(d.body["event"], d.body["to"]) for d in made if d.kind == "alarm"]


SUPPRESSED = [
    # what happens, and what the alarm then is
    (["heat", "raise"], [("raise", "DSUPR")]),
    (["heat", "raise", "no heat"], [("raise", "DSUPR"), ("unsuppress", "UNACK")]),
    (["heat", "raise", "clear", "no heat"], [("raise", "DSUPR"), ("clear", "NORM")]),
    (["raise", "heat", "no heat"], [("raise", "UNACK"), ("suppress", "DSUPR"), ("unsuppress", "UNACK")]),
    (["raise", "acknowledge", "heat"], [("raise", "UNACK"), ("acknowledge", "ACKED"), ("suppress", "DSUPR")]),
    (["raise", "clear", "heat"], [("raise", "UNACK"), ("clear", "RTNUN")]),
    (["heat", "no heat"], []),
    (["raise", "shelve", "heat", "unshelve"], [("raise", "UNACK"), ("shelve", "SHLVD"), ("unshelve", "DSUPR")]),
    (["heat", "raise", "out_of_service", "no heat", "in_service"],
     [("raise", "DSUPR"), ("out_of_service", "OOSRV"), ("in_service", "UNACK")]),
    (["both"], [("raise", "DSUPR")]),
    (["both", "neither"], [("raise", "DSUPR"), ("clear", "NORM")]),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "expected"), SUPPRESSED)
def test_suppression_by_design(steps: list[str], expected: list[tuple[str, str]]) -> None:
    house = house_of(priority="P2", suppress_when="heat_bool > 0.5")
    messages = {"heat": {"heat_bool": 1}, "no heat": {"heat_bool": 0}, "raise": {"temp_c": 35}, "clear": {"temp_c": 20},
                "both": {"heat_bool": 1, "temp_c": 35}, "neither": {"heat_bool": 0, "temp_c": 20}}  # fmt: skip
    for step in steps:
        if step in messages:
            house.send(**messages[step])
        else:
            house.ask(step)
        house.flush()
    assert alarms(house.decisions) == expected


def test_shelving_of_a_p2_alarm_over_animals_takes_two_persons_and_an_hour_at_most() -> None:
    house = house_of(priority="P2", alarm_class="animals")
    house.happen("raise")
    house.ask("shelve", seconds=2 * 3600)
    (answer,) = house.flush()
    assert not answer.body["accepted"]
    for author, told in (("ann", False), ("ann", False), ("bob", True)):
        house.ask("shelve", author=author)
        made = house.flush()
        assert ("shelve", "SHLVD") in alarms(made) if told else alarms(made) == []
        assert all(d.body["accepted"] for d in made if d.kind == "answer")
    shelved = next(d for d in house.decisions if d.body.get("event") == "shelve")
    assert shelved.body["author"] == "bob"
    assert house.state == "SHLVD"


def test_the_second_person_has_ten_minutes() -> None:
    house = house_of(priority="P2", alarm_class="animals")
    house.happen("raise")
    house.ask("shelve", author="ann")
    house.tick(601)
    house.ask("shelve", author="bob")
    house.flush()
    assert house.state == "UNACK"


@pytest.mark.parametrize(("priority", "state"), [("P1", "RTNUN"), ("P2", "RTNUN"), ("P3", "SHLVD"), ("P4", "SHLVD")])
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "one batch"])
def test_only_alarms_of_low_priority_are_shelved_when_they_chatter(priority: str, state: str, together: bool) -> None:
    house = house_of(priority=priority)
    for value in (35.0, 20.0, 35.0, 20.0):
        house.tick(10)
        house.measure(value)
        if not together:
            house.flush()
    house.flush()
    assert house.state == state
    if state == "SHLVD":
        chatter = next(d for d in house.decisions if d.body.get("event") == "chatter")
        house.tick(1801)
        house.flush()
        ended = next(d for d in house.decisions if d.body.get("event") == "unshelve")
        assert ended.time_ns - chatter.time_ns == 1800 * S


def test_slow_changes_are_no_chatter() -> None:
    house = house_of(priority="P3")
    for value in (35.0, 20.0, 35.0, 20.0, 35.0):
        house.tick(31)
        house.measure(value)
        house.flush()
    assert "SHLVD" not in [to for _, to in alarms(house.decisions)]


def test_comments_and_an_assignee() -> None:
    house = house_of(priority="P2")
    house.happen("raise")
    house.ask("comment", text="belt is slack")
    house.ask("assign", to="bob")
    house.ask("comment", text="")
    made = house.flush()
    assert [(d.body["event"], d.body["from"], d.body["to"]) for d in made if d.kind == "alarm"] == [
        ("comment", "UNACK", "UNACK"), ("assign", "UNACK", "UNACK"),
    ]  # fmt: skip
    assert [d.body.get("text") or d.body.get("assignee") for d in made if d.kind == "alarm"] == ["belt is slack", "bob"]
    assert [d.body["accepted"] for d in made if d.kind == "answer"] == [True, True, False]
    assert house.state == "UNACK"


def many(count: int, **spec: Any) -> House:
    house = House()
    base = rule_of(version=2, priority="P2", **spec)
    house.configure(base.model_copy(update={"devices": [DeviceSpec(name="d", profile="p", area="a", count=count)]}))
    return house


def test_the_first_alarm_of_a_group_is_told() -> None:
    house = many(3, first_out="trip")
    for k in (1, 0, 2):
        house.send(f"d-{k}", temp_c=35)
    house.send("d-1", temp_c=20)
    house.flush()
    first = {d.subject: d.body["first_out"] for d in house.decisions if d.body.get("event") == "raise"}
    assert first == {"HOT@s/d-1": True, "HOT@s/d-0": False, "HOT@s/d-2": False}


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "one batch"])
def test_a_flood_is_one_parent_alarm_until_few_are_new(together: bool) -> None:
    house = many(20)
    began = house.now
    for k in range(15):
        house.send(f"d-{k}", temp_c=35)
        if not together:
            house.flush()
    for _ in range(30):
        house.tick(40)
        if not together:
            house.flush()
    house.flush()
    floods = [(d.subject, d.body["event"], (d.time_ns - began) // S, d.body["count"]) for d in house.decisions if d.kind == "flood"]
    assert floods == [("s/a", "raise", 11, 11), ("s/a", "clear", 611, 15)]  # the fifth newest of 15 was raised at 11 s


def test_a_flood_ends_before_the_alarm_that_comes_at_its_last_moment() -> None:
    house = many(20, on_delay_s=100)
    for k in range(11):
        house.send(f"d-{k}", temp_c=35)
        house.now -= S  # all of them at one moment, so that their delays end at one moment as well
    raised = house.now + S + 100 * S
    house.tick(200)
    house.tick(400)
    house.send("d-11", temp_c=35)  # due exactly 600 s after the eleven
    assert house.now + 100 * S == raised + 600 * S
    house.tick(300)
    house.flush()
    floods = [(d.body["event"], d.time_ns - raised, d.body["count"]) for d in house.decisions if d.kind == "flood"]
    assert floods == [("raise", 0, 11), ("clear", 600 * S, 11)]
    assert sum(d.body.get("event") == "raise" for d in house.decisions if d.kind == "alarm") == 12


def test_ten_alarms_are_no_flood() -> None:
    house = many(20)
    for k in range(10):
        house.send(f"d-{k}", temp_c=35)
    house.flush()
    assert [d for d in house.decisions if d.kind == "flood"] == []
