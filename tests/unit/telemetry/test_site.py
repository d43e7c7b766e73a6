"""Configuration as data: what is refused, and that equal configurations have one text and one hash."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from telemetry.site import SiteConfig, parse_site


def raw(**changes: Any) -> dict[str, Any]:
    point = {"name": "temp_c", "unit": "C", "low": 0, "high": 50}
    profile = {"name": "p", "points": [point], "actuators": [{"name": "vent", "feedback": "temp_c"}]}
    base: dict[str, Any] = {
        "site": "s", "areas": [{"name": "a", "links": {"weather": "d-0", "far": "other/d"}}],
        "devices": [{"name": "d", "profile": "p", "area": "a", "count": 2}], "profiles": {"p": profile},
        "rules": [{"id": "R", "when": "temp_c > 1"}],
    }  # fmt: skip
    return {**base, **changes}


def test_equal_configurations_have_one_text() -> None:
    one, other = SiteConfig.model_validate(raw()), SiteConfig.model_validate(dict(reversed(raw().items())))
    assert (one.canonical(), one.sha256()) == (other.canonical(), other.sha256())
    again = SiteConfig.model_validate_json(one.canonical())
    assert (again, again.sha256()) == (one, one.sha256())
    document = one.model_dump(mode="json")
    assert one.canonical() == json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def test_any_change_changes_the_hash() -> None:
    hashes = {
        SiteConfig.model_validate(raw(**change)).sha256()
        for change in ({}, {"zone": "UTC"}, {"origin": "SIMULATED"}, {"rules": []})
    }
    assert len(hashes) == 4


def device(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "d", "profile": "p", "area": "a", **changes}]


def with_point(**changes: Any) -> dict[str, Any]:
    return {"p": {"name": "p", "points": [{"name": "temp_c", "unit": "C", "low": 0, "high": 50, **changes}]}}


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1}, {"site": "S"}, {"site": "a/b"}, {"origin": "FAKE"}, {"v": 2}, {"latitude": 91}, {"latitude": float("nan")},
        {"devices": device(profile="x")}, {"devices": device(area="x")}, {"devices": device() + device()}, {"devices": device(count=0)},
        {"devices": device(name="d-1") + device(count=2)}, {"areas": [{"name": "a", "links": {"weather": "nobody"}}]},
        {"profiles": with_point(low=50)}, {"profiles": with_point(low=float("inf"))}, {"profiles": with_point(name="Temp")},
        {"profiles": with_point(rate_per_min=0)}, {"profiles": with_point(lwo=3)}, {"profiles": with_point(members=0)},
        {"rules": [{"id": "R", "when": "x" * 2001}]}, {"rules": [{"id": "R", "when": "x", "on_delay_s": -1}]},
        {"rules": [{"id": "R R", "when": "x"}]}, {"rules": [{"id": "R", "when": "x", "priority": "P5"}]},
        {"profiles": {"p": {"name": "p", "points": [], "actuators": [{"name": "v", "feedback": "none"}]}}},
    ],
    ids=str,
)  # fmt: skip
def test_mistakes_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SiteConfig.model_validate(raw(**changes))


def test_lateness_follows_the_heartbeat() -> None:
    def lateness(**changes: Any) -> float:
        profile = SiteConfig.model_validate(raw(profiles=with_point(**changes), rules=[])).profiles["p"]
        return profile.lateness()

    assert [lateness(heartbeat_s=1), lateness(heartbeat_s=20)] == [10.0, 60.0]


def listed(count: int, **changes: Any) -> str:
    """Canonical text of a site with its devices one by one."""
    devices = [{"name": f"d-{k}", "profile": "p", "area": "a", "tags": ["t"]} for k in range(count)]
    return SiteConfig.model_validate(raw(devices=devices) | changes).canonical()


def test_a_text_is_read_as_pydantic_reads_it_and_what_did_not_change_is_the_same_object() -> None:
    before = parse_site(listed(5))
    rules = [{"id": "R", "version": 2, "when": "temp_c > 2"}]
    text = listed(6, rules=rules)
    after = parse_site(text)
    assert after == SiteConfig.model_validate_json(text)
    assert [a is b for a, b in zip(before.devices, after.devices, strict=False)] == [True] * 5
    assert after.canonical() == text
    moved = parse_site(listed(3, areas=[{"name": "a"}, {"name": "b"}]))
    assert moved.devices[0] is after.devices[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"site":1}',
        '{"site":"s","devices":{}}',
        '{"site":"s","devices":[3]}',
        listed(2).replace('"a"', '"b"', 1),
    ],
)
def test_what_is_wrong_in_a_text_is_told_as_by_pydantic(text: str) -> None:
    with pytest.raises(ValidationError) as told:
        parse_site(text)
    with pytest.raises(ValidationError) as want:
        SiteConfig.model_validate_json(text)
    assert str(told.value) == str(want.value)
