"""Versions of rules: what differs between two configurations, and one rule changed in a configuration. Pure."""

from typing import Any, Literal, NamedTuple

from telemetry.errors import CallerError
from telemetry.site import RuleSpec, SiteConfig

What = Literal["added", "removed", "changed"]
State = Literal["enabled", "disabled", "shadow"]
Key = tuple[str, str, bool]  # profile that brings the rule ("" = the site itself), its id, whether it is a shadow


class Change(NamedTuple):
    """One rule that was added, removed or changed; `fields` are (name, before, after) of what differs, in the order of the fields."""

    profile: str
    rule: str
    what: What
    fields: list[tuple[str, Any, Any]]
    shadow: bool = False


def rules_of(config: SiteConfig) -> dict[Key, RuleSpec]:
    """Every rule of a site: its own, then those of its profiles that no rule of the site replaces, in the order of the file."""
    found = {("", rule.id, rule.shadow): rule for rule in config.rules}
    own = {rule.id for rule in config.rules if not rule.shadow}
    for name in sorted({spec.profile for spec in config.devices}):
        found |= {(name, rule.id, rule.shadow): rule for rule in config.profiles[name].rules if rule.id not in own}
    return found


def changes(before: SiteConfig, after: SiteConfig) -> list[Change]:
    """From one configuration to another: what was removed, changed and added, by profile and rule."""
    old, new = rules_of(before), rules_of(after)
    made = []
    for key in sorted(old.keys() | new.keys()):
        fields = differences(old.get(key), new.get(key))
        if fields:
            what: What = "added" if key not in old else "removed" if key not in new else "changed"
            made.append(Change(key[0], key[1], what, fields if what == "changed" else [], key[2]))
    return made


def differences(before: RuleSpec | None, after: RuleSpec | None) -> list[tuple[str, Any, Any]]:
    """(field, before, after) of what differs; every field that is set, where one of them is None."""
    old, new = ({} if rule is None else rule.model_dump(mode="json") for rule in (before, after))
    return [(name, old.get(name), new.get(name)) for name in RuleSpec.model_fields if old.get(name) != new.get(name)]


def state_of(rule: RuleSpec) -> State:
    """Whether it runs: enabled, disabled, or shadow (beside the others, touching nothing)."""
    return "disabled" if not rule.enabled else "shadow" if rule.shadow else "enabled"


# -- one rule changed ----------------------------------------------------------------------------------------------------


def next_version(config: SiteConfig, rule_id: str) -> int:
    """One more than the highest version of that name, wherever it stands."""
    everywhere = [*config.rules, *(rule for profile in config.profiles.values() for rule in profile.rules)]
    return 1 + max((rule.version for rule in everywhere if rule.id == rule_id), default=0)


def with_rule(config: SiteConfig, rule: RuleSpec) -> SiteConfig:
    """With a rule of the site in the place of the one of its name, or at the end. A shadow takes a shadow's place only."""
    at = next((k for k, old in enumerate(config.rules) if _name(old) == _name(rule)), len(config.rules))
    others = [old for old in config.rules if _name(old) != _name(rule)]
    return config.model_copy(update={"rules": [*others[:at], rule, *others[at:]]})


def without_rule(config: SiteConfig, rule_id: str, *, shadow: bool) -> SiteConfig:
    """Without that rule of the site; a profile's of the same name then comes back. CallerError where the site has none."""
    rules = [rule for rule in config.rules if _name(rule) != (rule_id, shadow)]
    if len(rules) == len(config.rules):
        what = "shadow" if shadow else "rule of its own"
        raise CallerError(f"the site has no {what} called {rule_id!r}; a profile's rule is switched off by the state `disabled`")
    return config.model_copy(update={"rules": rules})


def in_state(config: SiteConfig, rule_id: str, state: State, stamp: dict[str, Any]) -> SiteConfig:
    """With a rule enabled, disabled, or on trial as a shadow. Whatever a profile brings is copied to the site and changed there.

    enabled: a shadow takes the place of a rule that does not act. shadow: nothing of that name acts any more. disabled: neither runs.
    stamp: version, author, time and comment of what is changed. Raises CallerError with the fix where that cannot be, or is so.
    """
    real, shadow, comes_back = _places(config, rule_id)
    acts, tries = real is not None and real.enabled, shadow is not None and shadow.enabled
    new: list[RuleSpec] = []
    gone: tuple[str, bool] | None = None
    if state == "enabled" and acts:
        hint = "; to put its shadow in its place, put that as the rule" if shadow is not None else ""
        raise CallerError(f"rule {rule_id!r} is enabled already{hint}")
    if state == "shadow" and tries and not acts:
        raise CallerError(f"rule {rule_id!r} is a shadow already")
    if state == "disabled":
        new = [rule for rule in (real, shadow) if rule is not None and rule.enabled]
        if not new:
            raise CallerError(f"rule {rule_id!r} is disabled already")
        new = [rule.model_copy(update={"enabled": False}) for rule in new]
    elif state == "enabled":
        new = [rule.model_copy(update={"enabled": True, "shadow": False}) for rule in (shadow or real,) if rule is not None]
        gone = (rule_id, True)
    else:
        new = [rule.model_copy(update={"enabled": True, "shadow": True}) for rule in (shadow or real,) if rule is not None]
        if real is not None and acts and (shadow is not None or comes_back):
            new.append(real.model_copy(update={"enabled": False}))
        elif shadow is None and not comes_back:
            gone = (rule_id, False)
    made = config.model_copy(update={"rules": [rule for rule in config.rules if _name(rule) != gone]})
    for rule in new:
        made = with_rule(made, rule.model_copy(update=stamp))
    return made


def _name(rule: RuleSpec) -> tuple[str, bool]:
    return rule.id, rule.shadow


def _places(config: SiteConfig, rule_id: str) -> tuple[RuleSpec | None, RuleSpec | None, bool]:
    """The rule of that name that may act, the site's shadow of that name, and whether a profile brings the rule (also below the site's)."""
    own = {rule.shadow: rule for rule in config.rules if rule.id == rule_id}
    used = sorted({spec.profile for spec in config.devices})
    brought = [(name, rule) for name in used for rule in config.profiles[name].rules if rule.id == rule_id]
    acting = [rule.model_copy(update={"profile": rule.profile or name}) for name, rule in brought if not rule.shadow]
    if not own and len(acting) != 1:
        if not brought:
            raise KeyError(rule_id)
        names = ", ".join(name for name, _ in brought)
        raise CallerError(f"rule {rule_id!r} is brought by the profile(s) {names}, not as one rule that acts; change it there")
    return own.get(False) or (acting[0] if len(acting) == 1 else None), own.get(True), bool(acting)
