"""A site's configuration as one JSON document: taken out, and put in through the journal."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field, ValidationError

from api import problem
from api.auth import GuardedRoute, Principal, Requires
from api.parts import RequestId, UseParts
from api.problem import FieldError, ProblemError, field_errors
from api.routes.sites import Viewer, site_config
from api.views import View
from rules.check import site_mistakes
from telemetry.site import SiteConfig

router = APIRouter(tags=["configuration"], route_class=GuardedRoute)
Engineer = Annotated[Principal, Depends(Requires("engineer"))]


class ConfigView(View):
    """The configuration as the core has it."""

    sha256: str = Field(examples=["9f86d081884c7d65"])
    config: dict[str, Any] = Field(examples=[{"v": 1, "site": "nursery"}])


class ConfigSubmitted(View):
    """The configuration is valid, kept, and will be journaled by the core."""

    request: str = Field(examples=["wang.8c1f0a7e2b94"])
    is_new: bool = Field(examples=[True])
    sha256: str = Field(examples=["9f86d081884c7d65"])


@router.get("/sites/{site}/config", responses=problem.documented(401, 404, 503, 504))
async def export(site: str, parts: UseParts, principal: Viewer) -> ConfigView:
    """The whole configuration of a site, as it can be posted again."""
    del principal
    config = site_config(parts, site)
    sha256, document = await parts.queries.run(lambda: (config.sha256(), config.model_dump(mode="json")))
    return ConfigView(sha256=sha256, config=document)


def invalid(errors: list[FieldError], what: str = "configuration") -> ProblemError:
    """422 with every mistake found."""
    return ProblemError(422, f"invalid-{what}", f"The {what} has {len(errors)} mistake(s).", errors=errors)


def _checked(text: bytes, site: str) -> tuple[str, str]:
    """(canonical text, hash) of a configuration, or 422 with every mistake found: its form, then what `fieldloom check` says of its rules.

    Blocking for large ones: runs in a query thread.
    """
    try:
        config = SiteConfig.model_validate_json(text)
    except ValidationError as error:
        raise invalid(field_errors(list(error.errors(include_url=False, include_input=False)), "body")) from None
    if config.site != site:
        raise invalid([FieldError(path="body.site", message=f"must be {site!r}, as in the address")])
    mistakes = site_mistakes(config)
    if mistakes:
        raise invalid([FieldError(path=".".join(map(str, ("body", *path))), message=message) for path, message in mistakes])
    return config.canonical(), config.sha256()


@router.post(
    "/sites/{site}/config",
    status_code=202,
    responses=problem.documented(401, 403, 404, 422, 503, 504),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/SiteConfig"}}}}
    },
)
async def put_config(
    site: str, request: Request, parts: UseParts, principal: Engineer, key: RequestId | None = None
) -> ConfigSubmitted:
    """Replace a site's configuration, or begin a new site within your scope. The body is a `SiteConfig`."""
    text = await request.body()
    canonical, sha256 = await parts.queries.run(lambda: _checked(text, site))
    kept, is_new = await parts.desk.put(principal, "config", {"site": site, "text": canonical}, key)
    return ConfigSubmitted(request=kept, is_new=is_new, sha256=sha256)
