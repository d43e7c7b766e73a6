"""One rule of a site changed, switched or removed: sent to the core as the whole new configuration, with its version written for it."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api import problem
from api.auth import GuardedRoute, Principal
from api.order_routes import Engineer
from api.parts import Parts, RequestId, UseParts
from api.problem import FieldError, ProblemError, not_found
from api.routes.config import ConfigSubmitted, invalid
from api.routes.rules import ChangeView, fields_view
from api.routes.sites import site_config
from rules.check import site_mistakes
from rules.versions import State, changes, in_state, next_version, with_rule, without_rule
from telemetry.errors import CallerError
from telemetry.site import RuleSpec, SiteConfig

router = APIRouter(tags=["configuration"], route_class=GuardedRoute)
Comment = Annotated[str, StringConstraints(max_length=2000)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Edit = Callable[[SiteConfig, dict[str, Any]], SiteConfig]
Done = Callable[[SiteConfig], RuleSpec | None]
HASH = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


class RulePut(BaseModel):
    """A rule as the site shall have it. Its version, author, time and comment are written by the service."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "rule": {"id": "MS-T-HH", "profile": "multispan", "when": "air_temp_c > 38", "priority": "P2"},
                    "comment": "the new screen lets less heat out",
                    "sha256": HASH,
                }
            ]
        },
    )

    rule: RuleSpec
    comment: Comment = ""
    sha256: Sha256 = Field(description="Hash of the configuration that you read: 409 when another one is in force")
    id: RequestId | None = None


class StatePut(BaseModel):
    """enabled; disabled; shadow (on trial: it says what it would do, and nothing of its name acts)."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"state": "shadow", "comment": "too many at dawn", "sha256": HASH}]}
    )

    state: State
    comment: Comment = ""
    sha256: Sha256 | None = Field(default=None, description="As for the rule; without it, whatever is in force")
    id: RequestId | None = None


class RuleSubmitted(ConfigSubmitted):
    """The changed configuration is valid, kept, and will be journaled by the core."""

    version: int | None = Field(examples=[4], description="That the rule has now; null: it is removed")
    changes: list[ChangeView] = Field(description="What differs from the configuration in force")


@router.put("/sites/{site}/rules/{rule}", status_code=202, responses=problem.documented(401, 403, 404, 409, 422, 503, 504))
async def put_rule(site: str, rule: str, body: RulePut, parts: UseParts, principal: Engineer) -> RuleSubmitted:
    """Add a rule to a site, or replace it; one of a profile is replaced for this site. 422 names every mistake in it.

    Repeated after it took effect, with the old hash, it is answered with the version in force, is not new and changes nothing.
    """
    if body.rule.id != rule:
        errors = [FieldError(path="body.rule.id", message=f"must be {rule!r}, as in the address")]
        raise ProblemError(422, "invalid", "What was sent is not valid.", errors=errors)

    def edit(config: SiteConfig, stamp: dict[str, Any]) -> SiteConfig:
        made = with_rule(config, body.rule.model_copy(update=stamp))
        at = next(k for k, one in enumerate(made.rules) if (one.id, one.shadow) == (rule, body.rule.shadow))
        errors = [
            FieldError(path=".".join(map(str, ("body", "rule", *path[2:]))), message=message)
            for path, message in site_mistakes(made)
            if path[:2] == ("rules", at)
        ]
        if errors:
            raise invalid(errors, "rule")
        return made

    def is_done(config: SiteConfig) -> RuleSpec | None:
        """The rule in force where it is what this very person asks for: a repetition, after an answer that was lost."""
        now = next((one for one in config.rules if (one.id, one.shadow) == (rule, body.rule.shadow)), None)
        stamp = {"author": principal.person, "comment": body.comment}
        same = now is not None and now == body.rule.model_copy(update={**stamp, "version": now.version, "changed": now.changed})
        return now if same else None

    return await _submit(parts, principal, site, rule, edit, is_done, comment=body.comment, sha256=body.sha256, key=body.id)


@router.put("/sites/{site}/rules/{rule}/state", status_code=202, responses=problem.documented(401, 403, 404, 409, 422, 503, 504))
async def put_state(site: str, rule: str, body: StatePut, parts: UseParts, principal: Engineer) -> RuleSubmitted:
    """Enable a rule, disable it, or let it run as a shadow only. A shadow that is enabled takes the place of the rule."""

    def edit(config: SiteConfig, stamp: dict[str, Any]) -> SiteConfig:
        return in_state(config, rule, body.state, stamp)

    return await _submit(parts, principal, site, rule, edit, comment=body.comment, sha256=body.sha256, key=body.id)


@router.delete("/sites/{site}/rules/{rule}", status_code=202, responses=problem.documented(401, 403, 404, 409, 422, 503, 504))
async def delete_rule(
    site: str, rule: str, parts: UseParts, principal: Engineer, sha256: Annotated[Sha256, Query()],
    shadow: Annotated[bool, Query(description="The shadow of that name")] = False, comment: Comment = "",
    key: RequestId | None = None,
) -> RuleSubmitted:  # fmt: skip
    """Remove a site's own rule; a profile's of the same name comes back. `sha256` is the hash of the configuration that you read."""
    known = site_config(parts, site)
    if all(one.id != rule for one in (*known.rules, *(r for profile in known.profiles.values() for r in profile.rules))):
        raise not_found("rule")

    def edit(config: SiteConfig, stamp: dict[str, Any]) -> SiteConfig:
        del stamp
        return without_rule(config, rule, shadow=shadow)

    return await _submit(parts, principal, site, rule, edit, comment=comment, sha256=sha256, key=key)


async def _submit(
    parts: Parts, principal: Principal, site: str, rule: str, edit: Edit, is_done: Done = lambda _: None, *, comment: str,
    sha256: str | None, key: str | None,
) -> RuleSubmitted:  # fmt: skip
    """Change the configuration in force and keep it as a request: all in a query thread, since a large one takes a while."""
    config = site_config(parts, site)
    now = datetime.fromtimestamp(parts.now_ms() / 1000, ZoneInfo(config.zone)).isoformat(timespec="minutes")
    version = next_version(config, rule)
    stamp = {"version": version, "author": principal.person, "changed": now, "comment": comment}

    def make() -> tuple[dict[str, Any] | None, RuleSubmitted]:
        base = config.sha256()
        if sha256 not in (None, base) and (done := is_done(config)) is not None:
            request = f"{principal.person}.{key}" if key else ""
            return None, RuleSubmitted(request=request, is_new=False, sha256=base, version=done.version, changes=[])
        if sha256 not in (None, base):
            raise _conflict("The configuration is another one by now; read it again and repeat the change.")
        try:
            made = edit(config, stamp)
        except CallerError as error:
            raise _conflict(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error
        except KeyError:
            raise not_found("rule") from None
        found = [
            ChangeView(rule=one.rule, profile=one.profile, shadow=one.shadow, what=one.what, fields=fields_view(one.fields))
            for one in changes(config, made)
        ]
        is_there = any((one.id, one.version) == (rule, version) for one in made.rules)
        told = RuleSubmitted(request="", is_new=True, sha256=made.sha256(), version=version if is_there else None, changes=found)
        return {"site": site, "rule": rule, "comment": comment, "base": base, "text": made.canonical()}, told

    asked, told = await parts.queries.run(make)
    if asked is None:
        return told
    told.request, told.is_new = await parts.desk.put(principal, "config", asked, key)
    return told


def _conflict(detail: str) -> ProblemError:
    return ProblemError(409, "conflict", detail)
