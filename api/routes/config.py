"""A site's configuration as one JSON document: taken out, and put in through the journal."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field, ValidationError

from api import problem
from api.auth import Principal, requires
from api.parts import RequestId, UseParts
from api.problem import FieldError, ProblemError, field_errors
from api.routes.sites import Viewer, site_config
from api.views import View
from rules.book import bind
from telemetry.plan import Plan
from telemetry.site import SiteConfig

router = APIRouter(tags=["configuration"])
Engineer = Annotated[Principal, Depends(requires("engineer"))]


class ConfigView(View):
    """The configuration as the core has it."""

    sha256: str = Field(examples=["9f86d081884c7d65"])
    config: dict[str, Any] = Field(examples=[{"v": 1, "site": "nursery"}])


class ConfigSubmitted(View):
    """The configuration is valid, kept, and will be journaled by the core."""

    request: str = Field(examples=["wang.8c1f0a7e2b94"])
    is_new: bool = Field(examples=[True])
    sha256: str = Field(examples=["9f86d081884c7d65"])


@router.get("/sites/{site}/config", responses=problem.documented(401, 404))
async def export(site: str, parts: UseParts, principal: Viewer) -> ConfigView:
    """The whole configuration of a site, as it can be posted again."""
    del principal
    config = site_config(parts, site)
    return ConfigView(sha256=config.sha256(), config=config.model_dump(mode="json"))


def _invalid(errors: list[FieldError]) -> ProblemError:
    return ProblemError(422, "invalid-configuration", f"The configuration has {len(errors)} mistake(s).", errors=errors)


def _validated(text: bytes, site: str) -> SiteConfig:
    """The configuration, or 422 with every mistake found. Blocking for large ones: runs in a query thread."""
    try:
        config = SiteConfig.model_validate_json(text)
    except ValidationError as error:
        raise _invalid(field_errors(list(error.errors(include_url=False, include_input=False)), "body")) from None
    if config.site != site:
        raise _invalid([FieldError(path="body.site", message=f"must be {site!r}, as in the address")])
    wrong = _uncomputable(config)
    if wrong:
        raise _invalid(wrong)
    return config


def _uncomputable(config: SiteConfig) -> list[FieldError]:
    """Virtual points that cannot be computed, such as those that are computed of themselves."""
    if not any(point.is_virtual for profile in config.profiles.values() for point in profile.points):
        return []
    plan = Plan()
    plan.apply(config)
    return [
        FieldError(path=f"body.profiles.{fault.point[0]}.points.{fault.point[1]}", message=fault.message)
        for fault in bind(plan).faults
        if fault.point is not None
    ]


@router.post(
    "/sites/{site}/config",
    status_code=202,
    responses=problem.documented(401, 403, 404, 422, 504),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/SiteConfig"}}}}
    },
)
async def put_config(
    site: str, request: Request, parts: UseParts, principal: Engineer, key: RequestId | None = None
) -> ConfigSubmitted:
    """Replace a site's configuration, or begin a new site within your scope. The body is a `SiteConfig`."""
    text = await request.body()
    config = await parts.queries.run(lambda: _validated(text, site))
    canonical = config.canonical()
    kept, is_new = await parts.desk.put(principal, "config", {"site": site, "text": canonical}, key)
    return ConfigSubmitted(request=kept, is_new=is_new, sha256=config.sha256())
