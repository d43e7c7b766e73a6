"""What differs between two versions of a site's rules."""

from typing import Any

import pytest

from rules.versions import State, changes, in_state, next_version, rules_of, state_of, with_rule, without_rule
from telemetry.errors import CallerError
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


STAMP = {"version": 7, "author": "wang", "changed": "2026-01-13", "comment": "why"}


def states(config: SiteConfig) -> list[tuple[str, str, int]]:
    """(profile that brings it, state, version) of every rule that is called HOT."""
    return [(profile, state_of(rule), rule.version) for (profile, name, _), rule in rules_of(config).items() if name == "HOT"]


def switched(config: SiteConfig, *wanted: State) -> list[tuple[str, str, int]]:
    for state in wanted:
        config = in_state(config, "HOT", state, STAMP)
    return states(config)


def test_a_rule_of_the_site_is_switched_where_it_stands() -> None:
    config = site([COLD, HOT, COLD | {"id": "LAST"}], [])
    off = in_state(config, "HOT", "disabled", STAMP)
    assert [rule.id for rule in off.rules] == ["COLD", "HOT", "LAST"]
    assert (off.rules[1].author, off.rules[1].comment, off.rules[1].changed) == ("wang", "why", "2026-01-13")
    assert states(off) == [("", "disabled", 7)]
    assert switched(config, "shadow") == [("", "shadow", 7)]
    assert switched(config, "shadow", "enabled") == switched(config, "disabled", "enabled") == [("", "enabled", 7)]


def test_a_rule_of_a_profile_is_switched_by_a_copy_of_the_site() -> None:
    config = site([], [HOT])
    assert switched(config, "disabled") == [("", "disabled", 7)]
    trial = in_state(config, "HOT", "shadow", STAMP)
    assert states(trial) == [("", "shadow", 7), ("", "disabled", 7)]  # nothing of that name acts, not the profile's either
    assert all(rule.profile == "p" for rule in trial.rules)
    assert switched(trial, "enabled") == [("", "enabled", 7)]
    assert switched(trial, "disabled") == [("", "disabled", 7), ("", "disabled", 7)]
    assert states(without_rule(in_state(config, "HOT", "disabled", STAMP), "HOT", shadow=False)) == [("p", "enabled", 1)]


def test_a_shadow_beside_a_rule_that_acts() -> None:
    both = site([HOT | {"shadow": True, "version": 2}], [HOT])
    assert switched(both, "disabled") == [("", "disabled", 7), ("", "disabled", 7)]
    assert switched(both, "shadow") == [("", "shadow", 7), ("", "disabled", 7)]
    with pytest.raises(CallerError, match="enabled already; to put its shadow in its place"):
        in_state(both, "HOT", "enabled", STAMP)


@pytest.mark.parametrize("state", ["enabled", "disabled", "shadow"])
def test_what_is_so_already_is_said(state: State) -> None:
    there = in_state(site([HOT], []), "HOT", state, STAMP) if state != "enabled" else site([HOT], [])
    with pytest.raises(CallerError, match="already"):
        in_state(there, "HOT", state, STAMP)


def test_a_disabled_copy_that_silences_a_profile_stays_when_its_rule_becomes_a_shadow() -> None:
    assert switched(site([], [HOT]), "disabled", "shadow") == [("", "disabled", 7), ("", "shadow", 7)]


def test_a_name_that_nobody_knows_or_that_two_profiles_bring() -> None:
    with pytest.raises(KeyError):
        in_state(site([], []), "HOT", "disabled", STAMP)
    two = site([], [HOT]).model_dump(mode="json")
    two["devices"].append({"name": "e", "profile": "unused", "area": "a"})
    with pytest.raises(CallerError, match="p, unused"):
        in_state(SiteConfig.model_validate(two), "HOT", "disabled", STAMP)
    with pytest.raises(CallerError, match="disabled"):
        without_rule(site([], [HOT]), "HOT", shadow=False)


def test_a_rule_takes_the_place_of_its_name_and_the_next_number() -> None:
    config = site([HOT | {"version": 3}, COLD], [HOT | {"version": 5}])
    assert (next_version(config, "HOT"), next_version(config, "NEW")) == (6, 1)
    shadow = RuleSpec.model_validate(HOT | {"shadow": True})
    assert [(r.id, r.shadow) for r in with_rule(config, shadow).rules] == [("HOT", False), ("COLD", False), ("HOT", True)]
    put = with_rule(config, RuleSpec.model_validate(HOT | {"when": "t > 40"}))
    assert [r.when for r in put.rules] == ["t > 40", "t < 5"]
