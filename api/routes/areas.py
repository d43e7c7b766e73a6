"""What people say of an area: its operating mode and its batch. Rules read both; the core answers, requests answer 202."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from api import problem
from api.auth import GuardedRoute
from api.parts import Parts, RequestId, UseParts
from api.problem import FieldError, ProblemError, not_found
from api.routes.alarms import Operator, Submitted
from api.routes.sites import site_config
from rules.area import DAY_MAX
from telemetry.site import Mode

router = APIRouter(tags=["areas"], route_class=GuardedRoute)


class ModeRequest(BaseModel):
    """The area's operating mode from now on."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"id": "0c41d7be9a55", "mode": "WASHDOWN"}]})

    id: RequestId | None = None
    mode: Mode


class BatchRequest(BaseModel):
    """A batch that begins or goes on: today is its `day`; or, alone, `ends` true."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"id": "e7702b1f3c6d", "day": 1, "name": "2026-03"}]})

    id: RequestId | None = None
    day: int | None = Field(default=None, ge=-DAY_MAX, le=DAY_MAX, description="Which day of the batch today is; 1 if not given")
    name: str | None = Field(default=None, max_length=100)
    ends: bool = False


def _check_area(parts: Parts, site: str, area: str) -> None:
    if all(spec.name != area for spec in site_config(parts, site).areas):
        raise not_found("area")


@router.post("/sites/{site}/areas/{area}/mode", status_code=202, responses=problem.documented(401, 403, 404, 422))
async def mode(site: str, area: str, asked: ModeRequest, parts: UseParts, principal: Operator) -> Submitted:
    """Set the operating mode of an area. It suppresses alarms where rules say so."""
    _check_area(parts, site, area)
    request, is_new = await parts.desk.put(principal, "mode", {"area": f"{site}/{area}", "mode": asked.mode}, asked.id)
    return Submitted(request=request, is_new=is_new)


@router.post("/sites/{site}/areas/{area}/batch", status_code=202, responses=problem.documented(401, 403, 404, 422))
async def batch(site: str, area: str, asked: BatchRequest, parts: UseParts, principal: Operator) -> Submitted:
    """Begin a batch, put its day right, or end it."""
    _check_area(parts, site, area)
    body: dict[str, Any] = {"area": f"{site}/{area}"}
    if asked.ends:
        given = [name for name in ("day", "name") if getattr(asked, name) is not None]
        if given:
            errors = [FieldError(path=f"body.{name}", message="not together with ends") for name in given]
            raise ProblemError(422, "invalid", "What was sent is not valid.", errors=errors)
        body["ends"] = True
    else:
        body |= {"day": 1 if asked.day is None else asked.day, "name": asked.name or ""}
    request, is_new = await parts.desk.put(principal, "batch", body, asked.id)
    return Submitted(request=request, is_new=is_new)
