"""A site's configuration as one JSON document: taken out, and put in through the journal, with what its new windows remember."""

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field, StringConstraints, ValidationError

from api import problem
from api.auth import GuardedRoute
from api.order_routes import Engineer, begun, present, viewed, watch
from api.orders import Warmings
from api.parts import Parts, RequestId, UseParts
from api.problem import FieldError, ProblemError, field_errors
from api.routes.sites import Viewer, site_config
from api.views import View
from rules.check import site_mistakes
from telemetry.site import SiteConfig

router = APIRouter(tags=["configuration"], route_class=GuardedRoute)


class ConfigView(View):
    """The configuration as the core has it."""

    sha256: str = Field(examples=["9f86d081884c7d65"])
    config: dict[str, Any] = Field(examples=[{"v": 1, "site": "nursery"}])


class ConfigSubmitted(View):
    """The configuration is valid, kept, and will be journaled by the core."""

    request: str = Field(examples=["wang.8c1f0a7e2b94"])
    is_new: bool = Field(examples=[True])
    sha256: str = Field(examples=["9f86d081884c7d65"])


class WarmingView(View):
    """How far the memory of a configuration's new windows is."""

    id: str = Field(examples=["4f1c2a7b9d3e8a60"])
    author: str = Field(examples=["wang"])
    state: str = Field(examples=["running"], description="running, done, cancelled, failed")
    sha256: str = Field(examples=["9f86d081884c7d65"], description="The configuration it is for")
    start_ms: int = Field(examples=[1767225600000], description="History is read from here")
    end_ms: int = Field(examples=[1767227400000], description="When it was ordered; it goes on to the present")
    reached_ms: int = Field(examples=[1767226500000])
    samples: int = Field(examples=[120000])
    windows: int = Field(examples=[3], description="How many are new; of 0 there is nothing to compute")
    bytes: int = Field(examples=[52000], description="Of the result")
    problem: str = Field(examples=[""])


WarmingId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/SiteConfig"}}}}
}


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
    """Its canonical text and hash."""
    config = _validated(text, site)
    return config.canonical(), config.sha256()


def _validated(text: bytes, site: str) -> SiteConfig:
    """A configuration the site may have, or 422 with every mistake found: its form, then what `fieldloom check` says of its rules.

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
    return config


@router.post(
    "/sites/{site}/config",
    status_code=202,
    responses=problem.documented(401, 403, 404, 422, 503, 504),
    openapi_extra=BODY,
)
async def put_config(
    site: str, request: Request, parts: UseParts, principal: Engineer, key: RequestId | None = None, warm: WarmingId | None = None
) -> ConfigSubmitted:
    """Replace a site's configuration, or begin a new site within your scope. The body is a `SiteConfig`.

    warm: a warming of this very configuration that is done, since a minute at most; 422 otherwise.
    """
    text = await request.body()
    canonical, sha256 = await parts.queries.run(lambda: _checked(text, site))
    body = {"site": site, "text": canonical}
    if warm is not None:
        result = _warmings(parts).result(site, warm, sha256)
        if result is None:
            message = "That warming is not done, older than a minute, or of another configuration; order a new one."
            raise ProblemError(422, "invalid-request", message)
        body["warm"] = base64.b64encode(result).decode()
    kept, is_new = await parts.desk.put(principal, "config", body, key)
    return ConfigSubmitted(request=kept, is_new=is_new, sha256=sha256)


# -- memory of new windows -----------------------------------------------------------------------------------------------------


def _warmings(parts: Parts) -> Warmings:
    return present(parts.warmings, "This service computes no memory of windows.")


@router.post(
    "/sites/{site}/warmings", status_code=202, responses=problem.documented(401, 403, 404, 422, 503, 504), openapi_extra=BODY
)
async def start_warming(site: str, request: Request, parts: UseParts, principal: Engineer) -> WarmingView:
    """Compute from history what the new windows of a configuration remember, at low priority; then post it with `?warm=` and the id.
    503 while another one runs."""
    site_config(parts, site)
    text, desk = await request.body(), _warmings(parts)
    state = await begun(
        parts, lambda: desk.start(principal.person, _validated(text, site)), "Another warming runs. Wait for it, or cancel it."
    )  # fmt: skip
    return viewed(state, WarmingView, "warming")


watch(router, "warming", WarmingView, _warmings, ended="End it.")
