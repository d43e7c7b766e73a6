"""The rules of a site: whether each runs, what stands, and how each came to be what it is."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from api import problem
from api.auth import GuardedRoute
from api.parts import Parts, UseParts
from api.problem import not_found
from api.routes.sites import Viewer, site_config
from api.rule_versions import RuleVersion, rule_versions
from api.views import View
from rules.versions import State, What, differences, rules_of, state_of
from telemetry.site import RuleSpec

router = APIRouter(tags=["configuration"], route_class=GuardedRoute)
VERSIONS_MAX = 1_000  # that are looked through for two of them
Shadow = Annotated[bool, Query(description="Of the shadow of that name")]
Version = Annotated[int | None, Query(ge=1, le=1 << 31)]


class RuleView(View):
    """A rule in short."""

    rule: str = Field(examples=["MS-T-HH"])
    profile: str = Field(examples=["multispan"], description="The profile that brings it; empty: the site itself")
    version: int = Field(examples=[3])
    state: State = Field(examples=["enabled"])
    priority: str | None = Field(examples=["P2"])
    when: str = Field(examples=["air_temp_c > 38"])
    author: str = Field(examples=["wang"])
    changed: str = Field(examples=["2026-01-13"], description="When this version was written, as its author wrote it")
    standing: int = Field(examples=[1], description="Alarms of it that stand now")
    alarm_changed_ms: int | None = Field(examples=[1767225660000], description="Last change of those; null when none stands")


class RuleList(View):
    """The site's own rules first, then those of its profiles."""

    items: list[RuleView]


class FieldChange(View):
    """A field with its values side by side."""

    field: str = Field(examples=["when"])
    before: Any = Field(examples=["air_temp_c > 36"])
    after: Any = Field(examples=["air_temp_c > 38"])


class VersionView(View):
    """A version of a rule: what it was from a configuration on, and what changed."""

    position: int = Field(examples=[4711], description="Of the configuration in the journal")
    time_ms: int = Field(examples=[1767225600000], description="When it came into force")
    sha256: str = Field(examples=["9f86d081884c7d65"])
    sender: str = Field(examples=["wang"], description="Who sent that configuration")
    what: What = Field(examples=["changed"])
    profile: str = Field(examples=["multispan"], description="The profile that brought it; empty: the site itself")
    version: int | None = Field(examples=[3], description="Null, as state and changed: it was removed")
    state: State | None = Field(examples=["enabled"])
    author: str | None = Field(
        examples=["wang"],
        description="Who wrote the version, when and why, as it says itself; of a removal, who asked for it and why",
    )
    changed: str | None = Field(examples=["2026-01-13"])
    comment: str | None = Field(examples=["the new screen lets less heat out"])
    fields: list[FieldChange]


class VersionList(View):
    """Newest first."""

    items: list[VersionView]


class RuleDetail(View):
    """A rule with its whole specification."""

    rule: RuleView
    specification: dict[str, Any] = Field(examples=[{"id": "MS-T-HH", "when": "air_temp_c > 38"}])


class RuleDiff(View):
    """What differs from one version to another; the fields of `before` and `after` are what each of them changed itself."""

    before: VersionView | None = Field(description="Null: `after` is the first one")
    after: VersionView
    fields: list[FieldChange]


class ChangeView(View):
    """A rule that a configuration adds, removes or changes."""

    rule: str = Field(examples=["MS-T-HH"])
    profile: str = Field(examples=["multispan"])
    shadow: bool = Field(examples=[False])
    what: What = Field(examples=["changed"])
    fields: list[FieldChange]


def fields_view(fields: list[tuple[str, Any, Any]]) -> list[FieldChange]:
    """What differs, as it is shown."""
    return [FieldChange(field=name, before=before, after=after) for name, before, after in fields]


def _view(parts: Parts, site: str, profile: str, spec: RuleSpec) -> RuleView:
    plan = parts.state.plan
    standing = [
        alarm
        for alarm in parts.state.alarms.values()
        if (alarm.site, alarm.rule) == (site, spec.id)
        and (not profile or (device := plan.device(f"{site}/{alarm.device}")) is None or device.profile.name == profile)
    ]
    return RuleView(
        rule=spec.id, profile=profile, version=spec.version, state=state_of(spec), priority=spec.priority, when=spec.when,
        author=spec.author, changed=spec.changed, standing=0 if spec.shadow else len(standing),
        alarm_changed_ms=max((alarm.changed_ns for alarm in standing), default=0) // 1_000_000 or None,
    )  # fmt: skip


@router.get("/sites/{site}/rules", responses=problem.documented(401, 404))
async def rules(site: str, parts: UseParts, principal: Viewer) -> RuleList:
    """Every rule of a site with its state and the alarms of it that stand."""
    del principal
    found = rules_of(site_config(parts, site))
    return RuleList(items=[_view(parts, site, profile, spec) for (profile, _, _), spec in found.items()])


@router.get("/sites/{site}/rules/{rule}", responses=problem.documented(401, 404))
async def rule(site: str, rule: str, parts: UseParts, principal: Viewer) -> RuleDetail:
    """One rule. A site's own stands before a profile's of the same name."""
    del principal
    found = [(profile, spec) for (profile, name, _), spec in rules_of(site_config(parts, site)).items() if name == rule]
    if not found:
        raise not_found("rule")
    return RuleDetail(rule=_view(parts, site, *found[0]), specification=found[0][1].model_dump(mode="json"))


@router.get("/sites/{site}/rules/{rule}/versions", responses=problem.documented(401, 404, 422, 503, 504))
async def versions(
    site: str, rule: str, parts: UseParts, principal: Viewer, shadow: Shadow = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> VersionList:  # fmt: skip
    """Every version of a rule with author, time and comment, also of one that is gone; each with what it changed."""
    del principal
    site_config(parts, site)
    found = await parts.queries.run(lambda: list(rule_versions(parts.history, site, rule, shadow=shadow, limit=limit)))
    if not found:
        raise not_found("rule")
    return VersionList(items=[_version_view(version) for version in found])


@router.get("/sites/{site}/rules/{rule}/diff", responses=problem.documented(401, 404, 422, 503, 504))
async def diff(
    site: str, rule: str, parts: UseParts, principal: Viewer, shadow: Shadow = False, from_version: Version = None,
    to_version: Version = None,
) -> RuleDiff:  # fmt: skip
    """Two versions side by side: by default the newest, and the one before it. Of a number that was used twice the newest counts."""
    del principal
    site_config(parts, site)
    every = await parts.queries.run(lambda: list(rule_versions(parts.history, site, rule, shadow=shadow, limit=VERSIONS_MAX)))
    found = [version for version in every if version.rule is not None]
    at = next((k for k, version in enumerate(found) if to_version is None or _number(version) == to_version), None)
    if at is None:
        raise not_found("version of the rule")
    older = next((v for k, v in enumerate(found) if (k > at if from_version is None else _number(v) == from_version)), None)
    if older is None and from_version is not None:
        raise not_found("version of the rule")
    return RuleDiff(
        before=None if older is None else _version_view(older),
        after=_version_view(found[at]),
        fields=[] if older is None else fields_view(differences(older.rule, found[at].rule)),
    )


def _number(version: RuleVersion) -> int:
    return 0 if version.rule is None else version.rule.version


def _version_view(version: RuleVersion) -> VersionView:
    spec = version.rule
    return VersionView(
        position=version.position, time_ms=version.time_ms, sha256=version.sha256, sender=version.sender, profile=version.profile,
        what="removed" if spec is None else "added" if version.before is None else "changed",
        version=None if spec is None else spec.version, state=None if spec is None else state_of(spec),
        author=version.sender if spec is None else spec.author, changed=None if spec is None else spec.changed,
        comment=version.comment if spec is None else spec.comment, fields=fields_view(version.fields),
    )  # fmt: skip
