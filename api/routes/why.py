"""Why an alarm stood or an actuator was where it was, at any past moment."""

from typing import Annotated, Final

from fastapi import APIRouter, Query

from api import problem
from api.auth import GuardedRoute
from api.parts import UseParts
from api.problem import FieldError, ProblemError, not_found
from api.routes.sites import Viewer, site_config
from api.why import WhyView, explain, subject_of
from telemetry.errors import CallerError

router = APIRouter(tags=["history"], route_class=GuardedRoute)
# For who reads the document; what is wrong is told in our own words.
SUBJECT: Final = r"^([^@/]+@[^@/]+/[^@/]+|[^@/]+/[^@/]+/[^@/]+)$"


@router.get("/sites/{site}/why", responses=problem.documented(401, 404, 422, 503, 504))
async def why(
    site: str,
    parts: UseParts,
    principal: Viewer,
    subject: Annotated[
        str, Query(max_length=300, description="RULE@site/device, or site/device/actuator", json_schema_extra={"pattern": SUBJECT})
    ],
    at_ms: Annotated[int | None, Query(ge=0, le=1 << 53, description="The moment; now when it is not given")] = None,
) -> WhyView:
    """The rule and its version, its expression with the values put in, since when it held, who lost, and links to the samples."""
    del principal
    current = site_config(parts, site)
    try:
        about = subject_of(subject)
    except CallerError as error:
        errors = [FieldError(path="query.subject", message="must be RULE@site/device, or site/device/actuator")]
        raise ProblemError(422, "invalid", "What was sent is not valid.", errors=errors) from error
    if about.site != site:
        raise not_found("alarm or actuator")
    moment = parts.now_ms() if at_ms is None else at_ms
    try:
        return await parts.queries.run(lambda: explain(parts.history, about, moment, current=current))
    except CallerError as error:
        raise ProblemError(404, "not-found", f"There is no such alarm or actuator: {error}") from error
