"""Commands with their state and reason, and manual override of an actuator. An override always ends."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from api import problem
from api.auth import GuardedRoute
from api.mode import AUTO
from api.parts import Parts, RequestId, UseParts
from api.problem import FieldError, ProblemError, not_found
from api.routes.alarms import Operator, Submitted
from api.routes.devices import find_device
from api.routes.sites import Viewer, site_config
from api.views import CommandView, ModeItem, View, command_view, mode_view
from telemetry.site import ActuatorSpec

router = APIRouter(tags=["commands"], route_class=GuardedRoute)
OVERRIDE_MAX_S = 24 * 3600


class CommandList(View):
    """Newest first."""

    items: list[CommandView]


class Override(BaseModel):
    """A position by hand, for a time. It displaces lower demands; limits and interlocks stay above it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"id": "5be2c0d94a11", "value": 80, "seconds": 1200, "reason": "inspection"}]},
    )

    id: RequestId | None = None
    value: float = Field(allow_inf_nan=False)
    seconds: float = Field(gt=0, le=OVERRIDE_MAX_S, allow_inf_nan=False)
    reason: str = Field(min_length=1, max_length=500)
    unsafe: bool = Field(
        default=False,
        description="Under survival limits, such as minimum ventilation; role engineer, at most 1,800 s, to be confirmed",
    )


class Confirm(BaseModel):
    """The second word for an override whose answer asked for it: of whoever asked, within 60 s."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"id": "19bb02da0c3f", "request": "wang.5be2c0d94a11"}]}
    )

    id: RequestId | None = None
    request: str = Field(min_length=1, max_length=200)


class Release(BaseModel):
    """Give the actuator back to the rules."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"id": "77aa01ce5510"}]})

    id: RequestId | None = None


@router.get("/sites/{site}/commands", responses=problem.documented(401, 404, 422))
async def commands(
    site: str,
    parts: UseParts,
    principal: Viewer,
    device: str | None = None,
    state: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> CommandList:
    """Recent commands of a site."""
    del principal
    site_config(parts, site)
    found = []
    for command in sorted(parts.state.commands.values(), key=lambda c: -c.position):
        if command.site == site and device in (None, command.device) and state in (None, command.state):
            found.append(command_view(command))
        if len(found) >= limit:
            break
    return CommandList(items=found)


class ModeList(View):
    """By name."""

    items: list[ModeItem]


@router.get("/sites/{site}/modes", responses=problem.documented(401, 404))
async def modes(site: str, parts: UseParts, principal: Viewer) -> ModeList:
    """Actuators of a site that are not in AUTO: who works them, and for how long."""
    del principal
    site_config(parts, site)
    found = sorted((m for m in parts.state.modes.values() if m.site == site and m.mode != AUTO), key=lambda m: m.key)
    return ModeList(items=[ModeItem(site=m.site, device=m.device, actuator=m.actuator, **mode_view(m).model_dump()) for m in found])


@router.get("/sites/{site}/commands/{command:path}", responses=problem.documented(401, 404))
async def command(site: str, command: str, parts: UseParts, principal: Viewer) -> CommandView:
    """One command."""
    del principal
    found = parts.state.commands.get(command)
    if found is None or found.site != site:
        raise not_found("command")
    return command_view(found)


def _find_actuator(parts: Parts, site: str, device: str, actuator: str) -> ActuatorSpec:
    spec = find_device(parts, site, device).actuator(actuator)
    if spec is None:
        raise not_found("actuator")
    return spec


@router.post(
    "/sites/{site}/devices/{device}/actuators/{actuator}/override",
    status_code=202,
    responses=problem.documented(401, 403, 404, 422),
)
async def override(site: str, device: str, actuator: str, asked: Override, parts: UseParts, principal: Operator) -> Submitted:
    """Set an actuator by hand for `seconds`. Answered by the core, which may ask for a confirmation; a replayed site refuses it."""
    spec = _find_actuator(parts, site, device, actuator)
    if not spec.low <= asked.value <= spec.high:
        errors = [FieldError(path="body.value", message=f"must be {spec.low:g} to {spec.high:g} {spec.unit}")]
        raise ProblemError(422, "invalid", "What was sent is not valid.", errors=errors)
    body: dict[str, Any] = {
        "actuator": f"{site}/{device}/{actuator}",
        "value": asked.value,
        "seconds": asked.seconds,
        "reason": asked.reason,
    }
    if asked.unsafe:
        if not principal.has("engineer"):
            raise ProblemError(403, "forbidden", f"An unsafe override needs the role engineer; you are {principal.role}.")
        body["unsafe"] = True
    request, is_new = await parts.desk.put(principal, "override", body, asked.id)
    return Submitted(request=request, is_new=is_new)


@router.post(
    "/sites/{site}/devices/{device}/actuators/{actuator}/release",
    status_code=202,
    responses=problem.documented(401, 403, 404, 422),
)
async def release(
    site: str, device: str, actuator: str, parts: UseParts, principal: Operator, asked: Release | None = None
) -> Submitted:
    """End an override now."""
    _find_actuator(parts, site, device, actuator)
    request, is_new = await parts.desk.put(
        principal, "release", {"actuator": f"{site}/{device}/{actuator}"}, asked.id if asked else None
    )
    return Submitted(request=request, is_new=is_new)


@router.post(
    "/sites/{site}/devices/{device}/actuators/{actuator}/confirm",
    status_code=202,
    responses=problem.documented(401, 403, 404, 422),
)
async def confirm(site: str, device: str, actuator: str, asked: Confirm, parts: UseParts, principal: Operator) -> Submitted:
    """Do the dangerous override that waits for this word."""
    _find_actuator(parts, site, device, actuator)
    body = {"actuator": f"{site}/{device}/{actuator}", "request": asked.request}
    request, is_new = await parts.desk.put(principal, "confirm", body, asked.id)
    return Submitted(request=request, is_new=is_new)
