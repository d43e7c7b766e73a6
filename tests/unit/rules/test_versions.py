"""What differs between two versions of a site's rules."""

from typing import Any

from rules.versions import changes, rules_of, state_of
from telemetry.site import RuleSpec, SiteConfig


def site(own: list[dict[str, Any]], of_profile: list[dict[str, Any]]) -> SiteConfig:
    profile = {"name": "p", "points": [{"name": "t", "unit": "C", "low": 0, "high": 50}], "rules": of_profile}
    devices = [{"name": "d", "profile": "p", "area": "a"}]
    return SiteConfig.model_validate(
        {"site": "s", "areas": [{"name": "a"}], "devices": devices, "profiles": {"p": profile, "unused": profile | {"name": "unused"}},
         "rules": own}
    )  # fmt: skip


HOT: dict[str, Any] = {"id": "HOT", "when": "t > 30", "hysteresis": 1}
COLD: dict[str, Any] = {"id": "COLD", "when": "t < 5"}


def test_added_removed_and_changed_fields_stand_side_by_side() -> None:
    before = site([HOT, COLD], [])
    after = site([HOT | {"version": 2, "when": "t > 32"}, {"id": "WET", "when": "t > 1"}], [])
    assert changes(before, before) == []
    assert [(c.rule, c.what, c.fields) for c in changes(before, after)] == [
        ("COLD", "removed", []),
        ("HOT", "changed", [("version", 1, 2), ("when", "t > 30", "t > 32")]),
        ("WET", "added", []),
    ]


def test_a_rule_of_the_site_replaces_the_profiles_and_a_shadow_does_not() -> None:
    assert [*rules_of(site([], [HOT]))] == [("p", "HOT", False)]
    assert [*rules_of(site([HOT], [HOT]))] == [("", "HOT", False)]
    assert [*rules_of(site([HOT | {"shadow": True}], [HOT]))] == [("", "HOT", True), ("p", "HOT", False)]
    assert [(c.profile, c.what) for c in changes(site([], [HOT]), site([HOT], [HOT]))] == [("", "added"), ("p", "removed")]


def test_whether_a_rule_runs() -> None:
    given = (HOT, HOT | {"enabled": False}, HOT | {"shadow": True})
    assert [state_of(RuleSpec.model_validate(spec)) for spec in given] == ["enabled", "disabled", "shadow"]
