"""The life of an alarm: every state with every event, latching, shelving, and requests that come twice."""

import json
import math
from typing import Any

import pytest

from app.wiring import build_engine
from ingest.decode import Directory, Gather
from telemetry.decision import Decision
from telemetry.record import Config, Event, Request, Start
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, RuleSpec, SiteConfig
from telemetry.topic import topic

S = 1_000_000_000
T0 = 1_760_000_000 * S


def config(latching: bool, priority: str = "P2", version: int = 1) -> SiteConfig:
    rule = RuleSpec.model_validate(
        {"id": "HOT", "when": "temp_c > 30", "priority": priority, "latching": latching, "version": version}
    )
    profile = Profile(name="p", points=[PointSpec(name="temp_c", unit="C", low=-40, high=80)], rules=[rule])
    return SiteConfig(
        site="s", areas=[AreaSpec(name="a")], devices=[DeviceSpec(name="d", profile="p", area="a")], profiles={"p": profile}
    )


class House:
    """One device, one rule; each call is one entry, or several of them in one batch."""

    def __init__(self, *, latching: bool = False, priority: str = "P2") -> None:
        self.engine = build_engine()
        self.gather = Gather(Directory(self.engine.plan))
        self.now, self.asked, self.decisions = T0, 0, list[Decision]()
        self.gather.add(Start(1), T0)
        self.configure(config(latching, priority))
        self.gather.add(Event("drained"), T0)
        self.flush()

    def configure(self, site: SiteConfig) -> None:
        self.gather.add(Config("s", site.sha256(), site.canonical()), self.now)
        self.flush()
        self.gather.directory = Directory(self.engine.plan)

    def flush(self) -> list[Decision]:
        entries = self.gather.build(self.engine.position + 1, self.now, 0)
        made = self.engine.step(entries).decisions if len(entries) else []
        self.decisions += made
        return made

    def measure(self, value: float | None) -> None:
        self.now += S
        payload = json.dumps({"ts": self.now // 1_000_000, "p": {"temp_c": value}}).encode()
        self.gather.take(topic("s", "d", "telemetry"), payload, False, self.now)

    def ask(self, kind: str, *, request: str = "", alarm: str = "HOT@s/d", **body: Any) -> None:
        self.now += S
        self.asked += 1
        if kind == "shelve":
            body = {"seconds": 3600, "reason": "known", **body}
        self.gather.add(Request(request or f"q{self.asked}", kind, "ann", {"alarm": alarm, **body}), self.now)

    def tick(self, seconds: float) -> None:
        self.now += int(seconds * S)
        self.gather.tick(self.now)

    def happen(self, event: str) -> list[Decision]:
        if event in {"raise", "clear"}:
            self.measure(35.0 if event == "raise" else 20.0)
        else:
            self.ask(event)
        return self.flush()

    @property
    def state(self) -> str:
        return next((str(d.body["to"]) for d in reversed(self.decisions) if d.kind == "alarm"), "NORM")


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


def test_a_new_version_of_the_rule_ends_the_alarm_of_the_old_one() -> None:
    house = House()
    house.happen("raise")
    house.configure(config(latching=False, version=2))
    house.tick(1)
    (end,) = house.flush()
    assert (end.body["from"], end.body["to"], end.body["event"]) == ("UNACK", "NORM", "rule_removed")
    house.happen("raise")
    assert house.state == "UNACK"
