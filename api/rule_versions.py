"""Versions of one rule over time, out of the configurations that a site's history keeps for ever."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from pydantic import ValidationError

from rules.versions import differences
from store.history import RecordRow
from telemetry.site import RuleSpec

PAGE: Final = 16  # configurations held at once: one of a large site is some MB
CONFIGS_MAX: Final = 1_000  # looked through for one answer


class Configs(Protocol):
    """What is asked of `store.history.History`."""

    def records(self, *, kind: str, site: str, end_ms: int | None, limit: int) -> list[RecordRow]:
        """Newest first."""
        ...


class RuleVersion(NamedTuple):
    """A configuration from which on a rule was another one: journal position, time, hash, who sent it and why. rule None: removed.

    profile: what brought it, "" = the site itself. before: the rule until then, None = there was none.
    """

    position: int
    time_ms: int
    sha256: str
    sender: str
    comment: str
    profile: str
    rule: RuleSpec | None
    before: RuleSpec | None

    @property
    def fields(self) -> list[tuple[str, Any, Any]]:
        """(field, before, after) of what changed; none when it came or went."""
        return differences(self.before, self.rule) if self.before is not None and self.rule is not None else []


class _Profile(msgspec.Struct):
    rules: list[dict[str, Any]] = []


class _Config(msgspec.Struct):
    rules: list[dict[str, Any]] = []
    profiles: dict[str, _Profile] = {}


class _Body(msgspec.Struct):
    config: _Config
    author: str = ""
    comment: str = ""


class _State(NamedTuple):
    row: RecordRow
    sender: str
    comment: str
    profile: str
    rule: RuleSpec | None


_decode = msgspec.json.Decoder(_Body, strict=False).decode


def rule_versions(records: Configs, site: str, rule_id: str, *, shadow: bool, limit: int) -> Iterator[RuleVersion]:
    """Newest first, at most `limit`. The site's own rule stands before a profile's of the same name; a shadow is followed by itself.

    Blocking: for a query thread. Of two configurations within one millisecond beyond a page of answers the older may be left out.
    """
    newer: _State | None = None
    made = 0
    for state in _states(records, site, rule_id, shadow=shadow):
        if newer is not None and newer.rule != state.rule and made < limit:
            yield _version(newer, state.rule)
            made += 1
        if made >= limit:
            return
        newer = state
    if newer is not None and newer.rule is not None:
        yield _version(newer, None)


def _version(state: _State, before: RuleSpec | None) -> RuleVersion:
    row = state.row
    return RuleVersion(row.position, row.time_ms, row.subject, state.sender, state.comment, state.profile, state.rule, before)


def _states(records: Configs, site: str, rule_id: str, *, shadow: bool) -> Iterator[_State]:
    """The rule as each configuration has it, newest first."""
    end_ms: int | None = None
    seen: set[int] = set()
    while len(seen) < CONFIGS_MAX:
        rows = records.records(kind="config", site=site, end_ms=end_ms, limit=PAGE)
        fresh = [row for row in rows if row.position not in seen]
        for row in fresh:
            seen.add(row.position)
            body = _decode(row.body)
            yield _State(row, body.author, body.comment, *_rule_in(body.config, rule_id, shadow=shadow))
        if len(rows) < PAGE or not fresh:
            return
        end_ms = rows[-1].time_ms + 1


def _rule_in(config: _Config, rule_id: str, *, shadow: bool) -> tuple[str, RuleSpec | None]:
    """(profile, rule) of a name; a version that cannot be read any more counts as none."""
    places = [("", config.rules), *((name, profile.rules) for name, profile in sorted(config.profiles.items()))]
    for profile, rules in places:
        for rule in rules:
            if rule.get("id") == rule_id and bool(rule.get("shadow")) == shadow:
                try:
                    return profile, RuleSpec.model_validate(rule)
                except ValidationError:
                    return profile, None
    return "", None
