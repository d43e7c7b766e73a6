"""The rules of a site: whether each runs, what stands, and how each came to be what it is."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from api import problem
from api.parts import Parts, UseParts
from api.problem import not_found
from api.routes.sites import Viewer, site_config
from api.views import View
from api.why import config_of
from rules.versions import State, What, changes, rules_of, state_of
from telemetry.site import RuleSpec, SiteConfig

router = APIRouter(tags=["configuration"])


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
    """A configuration that changed the rule."""

    position: int = Field(examples=[4711])
    time_ms: int = Field(examples=[1767225660000])
    sha256: str = Field(examples=["9f86d081884c7d65"])
    what: What = Field(examples=["changed"])
    fields: list[FieldChange]


class RuleDetail(View):
    """A rule with its whole specification, and its versions, newest first."""

    rule: RuleView
    specification: dict[str, Any] = Field(examples=[{"id": "MS-T-HH", "when": "air_temp_c > 38"}])
    versions: list[VersionView]


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


@router.get("/sites/{site}/rules/{rule}", responses=problem.documented(401, 404, 422, 503, 504))
async def rule(
    site: str, rule: str, parts: UseParts, principal: Viewer, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> RuleDetail:
    """One rule, and what the newest `limit` configurations changed in it. A site's own rule stands before a profile's of the same name."""
    del principal
    found = [(profile, spec) for (profile, name, _), spec in rules_of(site_config(parts, site)).items() if name == rule]
    if not found:
        raise not_found("rule")
    profile, spec = found[0]
    versions = await parts.queries.run(lambda: _versions(parts, site, (profile, rule), limit))
    return RuleDetail(rule=_view(parts, site, profile, spec), specification=spec.model_dump(mode="json"), versions=versions)


def _versions(parts: Parts, site: str, wanted: tuple[str, str], limit: int) -> list[VersionView]:
    """Configurations that changed a rule, newest first."""
    rows = parts.history.records(kind="config", site=site, limit=limit)
    made: list[VersionView] = []
    before: SiteConfig | None = None
    for row in reversed(rows):
        after = config_of([row])
        for change in changes(before, after) if before is not None and after is not None else ():
            if (change.profile, change.rule) == wanted:
                fields = [FieldChange(field=name, before=old, after=new) for name, old, new in change.fields]
                made.append(
                    VersionView(position=row.position, time_ms=row.time_ms, sha256=row.subject, what=change.what, fields=fields)
                )
        before = after or before
    return made[::-1]
