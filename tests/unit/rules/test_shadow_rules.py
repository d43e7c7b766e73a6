"""Rules that run as shadows: they say what they would have done, and touch nothing."""

from typing import Any

import pytest

from telemetry.decision import Decision
from telemetry.site import ActuatorSpec, RuleSpec, SiteConfig
from tests.unit.rules.house import House, S, house_of, rule_of


def test_a_shadow_rule_says_what_it_would_have_done_and_touches_nothing() -> None:
    house = house_of(priority="P2", shadow=True)
    made = house.happen("raise")
    assert [(d.kind, d.subject, d.body["to"]) for d in made] == [("shadow", "HOT@s/d", "UNACK")]
    house.ask("acknowledge")
    (answer,) = house.flush()
    assert not answer.body["accepted"]


def beside_a_shadow(shadow: bool, **spec: Any) -> SiteConfig:
    """The rule in the profile, and at the site the same version once more as a shadow that is on earlier."""
    base = rule_of(version=2, priority="P2", **spec)
    rule = base.profiles["p"].rules[0].model_copy(update={"when": "temp_c > 20", "shadow": True, "profile": "p"})
    return base.model_copy(update={"rules": [rule] if shadow else []})


def test_a_shadow_of_the_same_version_has_a_life_of_its_own() -> None:
    house = House()
    house.configure(beside_a_shadow(shadow=True))
    house.send(temp_c=25)
    house.send(temp_c=35)
    house.send(temp_c=25)
    made = house.flush()
    told = [(d.kind, d.body["event"]) for d in made if d.kind in {"alarm", "shadow"}]
    assert told == [("shadow", "raise"), ("alarm", "raise"), ("alarm", "clear")]


def test_a_shadow_that_is_taken_away_ends_no_alarm() -> None:
    house = House()
    house.configure(beside_a_shadow(shadow=True))
    house.send(temp_c=35)
    house.flush()
    before = len(house.decisions)
    house.configure(beside_a_shadow(shadow=False))
    house.send(temp_c=36)
    house.flush()
    ended = [(d.kind, d.body["event"]) for d in house.decisions[before:] if d.kind in {"alarm", "shadow"}]
    assert ended == [("shadow", "rule_removed")]


def test_a_shadow_is_not_the_first_alarm_of_a_group() -> None:
    house = House()
    house.configure(beside_a_shadow(shadow=True, first_out="trip"))
    house.send(temp_c=25)
    house.send(temp_c=35)
    [raised] = [d for d in house.flush() if d.kind == "alarm"]
    assert raised.body["first_out"] is True


DEMAND = {"actuator": "vent", "bound": "at_least", "value": 60, "level": "temperature"}


def vented(*of_site: dict[str, Any], profile: dict[str, Any] | None = None) -> SiteConfig:
    """A house with a vent, whose profile has one rule or none, and rules of the site beside it."""
    base = rule_of()
    bare = base.profiles["p"].model_copy(
        update={
            "actuators": [ActuatorSpec(name="vent")],
            "rules": [] if profile is None else [RuleSpec.model_validate({"id": "HOT", "when": "temp_c > 30"} | profile)],
        }
    )
    rules = [RuleSpec.model_validate({"id": "HOT", "when": "temp_c > 30", "demand": DEMAND} | rule) for rule in of_site]
    return base.model_copy(update={"profiles": {"p": bare}, "rules": rules})


def asked(made: list[Decision]) -> list[tuple[str, int, Any]]:
    """(kind, version, value) of what is asked of the vent by shadows (and by rules that act: the value met)."""
    return [(d.kind, d.body.get("rule_version", 0), d.body["value"]) for d in made if d.kind in {"demand", "shadow_demand"}]


@pytest.mark.parametrize(
    "then",
    [
        [],
        [{"shadow": True, "version": 2, "when": "temp_c > 50"}],
        [{"shadow": True, "enabled": False}],
        [{"shadow": True, "tag": "other"}],
    ],
    ids=["removed", "another version", "disabled", "out of scope"],
)
def test_what_a_shadow_asks_ends_with_it(then: list[dict[str, Any]]) -> None:
    house = House()
    house.configure(vented({"shadow": True}))
    house.send(temp_c=35)
    assert asked(house.flush()) == [("shadow_demand", 1, 60.0)]
    at_ns = house.now
    house.configure(vented(*then))
    house.engine.restore(house.engine.snapshot())
    house.tick(5)
    made = house.flush()
    assert asked(made) == [("shadow_demand", 1, None)]
    assert made[0].time_ns == at_ns == house.now - 5 * S
    house.tick(1)
    assert asked(house.flush()) == []


def test_a_shadow_that_stays_goes_on_asking() -> None:
    house = House()
    house.configure(vented({"shadow": True}))
    house.send(temp_c=35)
    house.flush()
    house.configure(vented({"shadow": True}, {"id": "COLD", "when": "temp_c < 0"}))
    house.send(temp_c=36)
    house.send(temp_c=20)
    assert asked(house.flush()) == [("shadow_demand", 1, None)]


def test_a_shadow_beside_a_rule_takes_nothing_from_what_the_rule_asks() -> None:
    real = {"version": 1, "demand": DEMAND | {"value": 40}}
    house = House()
    house.configure(vented(profile=real))
    house.send(temp_c=35)
    (won,) = [d for d in house.flush() if d.kind == "demand"]
    assert (won.body["value"], won.body["winner"]["rule_version"]) == (40.0, 1)
    house.configure(vented({"shadow": True, "version": 7}, profile=real))
    house.send(temp_c=36)
    assert asked(house.flush()) == [("shadow_demand", 7, 60.0)]
    house.send(temp_c=20)
    house.send(temp_c=35)
    won = [d for d in house.flush() if d.kind == "demand"][-1]
    assert (won.body["value"], won.body["winner"]["rule_version"]) == (40.0, 1)
