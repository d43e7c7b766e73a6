"""What differs between two configurations' rules, field by field."""

from typing import Any, Literal, NamedTuple

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
        fields = _fields(old.get(key), new.get(key))
        if fields:
            what: What = "added" if key not in old else "removed" if key not in new else "changed"
            made.append(Change(key[0], key[1], what, fields if what == "changed" else []))
    return made


def _fields(before: RuleSpec | None, after: RuleSpec | None) -> list[tuple[str, Any, Any]]:
    old, new = ({} if rule is None else rule.model_dump(mode="json") for rule in (before, after))
    return [(name, old.get(name), new.get(name)) for name in RuleSpec.model_fields if old.get(name) != new.get(name)]


def state_of(rule: RuleSpec) -> State:
    """Whether it runs: enabled, disabled, or shadow (beside the others, touching nothing)."""
    return "disabled" if not rule.enabled else "shadow" if rule.shadow else "enabled"
