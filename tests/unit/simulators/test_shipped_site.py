import re
from pathlib import Path

import pytest
import yaml

from rules import expression
from rules.book import bind
from rules.tree import PointRef, leaves
from telemetry.plan import Plan
from telemetry.site import Profile
from tests.unit.simulators.shipped import load_site

ROOT = Path(__file__).parents[3]
WEATHER = ROOT / "devices" / "profiles" / "weather_station.yaml"
PROFILES = sorted((ROOT / "devices" / "profiles").glob("*.yaml"))


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_profile_is_valid_and_named_after_its_file(path):
    profile = Profile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert profile.name == path.stem
    rules = [rule.id for rule in profile.rules]
    assert len(rules) == len(set(rules))
    actuators = {actuator.name for actuator in profile.actuators}
    for rule in profile.rules:
        assert rule.demand is None or rule.demand.actuator in actuators, rule.id
        if rule.priority is not None:
            assert all(text.en and text.zh for text in (rule.message, rule.consequence, rule.action)), rule.id
        assert rule.priority is not None or rule.demand is not None, f"{rule.id} does nothing"
    assert all(point.label.en and point.label.zh for point in profile.points)


def test_demo_site_loads_and_is_simulated():
    site = load_site("nursery")
    assert site.origin == "SIMULATED"
    assert [name for device in site.devices for name in device.names()] == [
        "weather-1",
        "climate-1",
        "climate-2",
        "climate-3",
        "germ-1",
        "sun-1",
    ]


def test_every_rule_of_the_demo_site_is_right_in_names_kinds_and_units():
    site = load_site("nursery")
    points = {name: {point.name: point for point in profile.points} for name, profile in site.profiles.items()}
    links = {"weather": points["weather_station"]}
    for name, profile in site.profiles.items():
        for rule in profile.rules:
            value = rule.demand.value if rule.demand is not None else None
            for text, want in ((rule.when, "condition"), (rule.clear, "condition"), (value, "number")):
                if isinstance(text, str):
                    expression.parse(text, expression.Names(points=points[name], links=links), want=want)
    plan = Plan()
    plan.apply(site)
    book = bind(plan)
    assert book.faults == []
    assert sum(rule.suppresses is None for rule in book.rules) == sum(len(profile.rules) for profile in site.profiles.values())


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_the_value_in_a_message_is_what_the_rule_reads_first(path):
    profile = Profile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    units = {point.name: point.unit for point in profile.points}
    units |= {f"weather.{point.name}": point.unit for point in Profile.model_validate(yaml.safe_load(WEATHER.read_text())).points}
    wrong = []
    for rule in profile.rules:
        shown = re.search(r"\{value\}(?: ([^\s:;,]+))?", rule.message.en)
        first = leaves(expression.parse(rule.when, expression.Names(points={p.name: p for p in profile.points})))[0]
        if shown is None or not isinstance(first, PointRef):
            continue
        unit = units[str(first)]
        if unit == "bool" or (shown[1] is not None and shown[1].rstrip("s") != unit.rstrip("s")):
            wrong.append((rule.id, str(first), unit, rule.message.en))
    assert wrong == []
