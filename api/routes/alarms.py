"""Alarms that stand, their history, and what a person can do about one. The core decides; requests answer 202."""

import asyncio
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from api import problem
from api.alarm import Alarm
from api.auth import GuardedRoute, Principal, Requires
from api.parts import Parts, RequestId, UseParts
from api.problem import FieldError, ProblemError, not_found
from api.routes.sites import Viewer, site_config
from api.views import AlarmView, RequestView, View, alarm_view, request_view
from people.delivery import DeliveryReader
from people.escalation import Ladder
from telemetry.errors import StoreError

router = APIRouter(tags=["alarms"], route_class=GuardedRoute)
Operator = Annotated[Principal, Depends(Requires("operator"))]
Action = Literal["acknowledge", "shelve", "unshelve", "reset", "out_of_service", "in_service", "comment", "assign"]

SHELVE_MAX_S = 7 * 86400
LADDERS_S = 1.5  # for reading who was told
NEEDED = {"shelve": "seconds", "comment": "text", "assign": "to"}  # action: the field that it needs and no other one takes
UNACKNOWLEDGED = ("UNACK", "RTNUN")


class EscalationView(View):
    """Whom the notify process has told of an alarm, and what it does next if nobody acknowledges."""

    told: list[str] = Field(
        examples=[["wang"]], description="Contacts to whom a message was made; whether it arrived: /notifications"
    )
    steps: int = Field(examples=[1], description="That were taken")
    next_ms: int | None = Field(examples=[1767226200000], description="When the next one is due; null: there is none")
    next_to: list[str] = Field(examples=[["on-call"]], description="Whom it tells: contacts and rosters")


class StandingView(AlarmView):
    """A standing alarm and its escalation."""

    escalation: EscalationView | None = Field(description="Null: not known, as with a service that tells nobody")


class AlarmList(View):
    """Worst first: priority, then unacknowledged, then newest."""

    items: list[StandingView]
    now_ms: int = Field(examples=[1767225660000])
    engine_ms: int = Field(
        examples=[1767225659900], description="Time of the newest journal entry; an old one means: not known now"
    )


class AlarmEvent(View):
    """One change of an alarm, from history."""

    position: int = Field(examples=[4711])
    time_ms: int = Field(examples=[1767225660000])
    subject: str = Field(examples=["MS-T-HH@nursery/ms-1"])
    device: str = Field(examples=["ms-1"])
    evidence: dict[str, Any] = Field(examples=[{"from": "NORM", "to": "UNACK"}])


class AlarmEvents(View):
    """Newest first."""

    items: list[AlarmEvent]


class AlarmRequest(BaseModel):
    """What is asked. `id` makes a repeated call harmless.

    `seconds` belong to shelve, `text` to comment, `to` to assign: a person, or "" for nobody.
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"id": "8c1f0a7e2b94", "seconds": 1800, "reason": "sensor swap"}]}
    )

    id: RequestId | None = None
    seconds: float | None = Field(default=None, gt=0, le=SHELVE_MAX_S, allow_inf_nan=False)
    reason: str = Field(default="", max_length=500)
    text: str | None = Field(default=None, min_length=1, max_length=2000)
    to: str | None = Field(default=None, max_length=100)


class Submitted(View):
    """The request is kept and will be answered by the core; look it up by its id."""

    request: str = Field(examples=["wang.8c1f0a7e2b94"])
    is_new: bool = Field(examples=[True], description="False when this id was sent before")


def worst_first(alarm: Alarm) -> tuple[str, bool, int]:
    """Sort key of a list of alarms."""
    return (alarm.priority or "P9", alarm.state not in UNACKNOWLEDGED, -alarm.changed_ns)


@router.get("/alarms", responses=problem.documented(401, 404))
async def alarms(parts: UseParts, principal: Viewer, site: str | None = None) -> AlarmList:
    """Standing alarms of all sites you may see, or of one."""
    if site is not None and not (principal.may_see(site) and site in parts.state.plan.sites):
        raise not_found("site")
    seen = [a for a in parts.state.alarms.values() if principal.may_see(a.site) and site in (None, a.site)]
    ladders = await _ladders(parts) if seen else {}
    items = [
        StandingView(**dict(alarm_view(alarm)), escalation=_escalation(ladders.get(alarm.subject)))
        for alarm in sorted(seen, key=worst_first)
    ]
    return AlarmList(items=items, now_ms=parts.now_ms(), engine_ms=parts.state.engine_ns // 1_000_000)


async def _ladders(parts: Parts) -> dict[str, Ladder]:
    """From notify's own file, beside the history's threads: who looks at alarms waits for no query, and sees them without this, too."""
    if parts.notify is None:
        return {}
    try:
        async with asyncio.timeout(LADDERS_S):
            return await asyncio.to_thread(DeliveryReader(parts.notify).ladders)
    except (StoreError, TimeoutError):
        return {}


def _escalation(ladder: Ladder | None) -> EscalationView | None:
    return (
        None
        if ladder is None
        else EscalationView(told=ladder.told, steps=ladder.step, next_ms=ladder.next_ms, next_to=ladder.next_to)
    )


@router.get("/sites/{site}/alarms/history", responses=problem.documented(401, 404, 422, 504))
async def alarm_history(
    site: str,
    parts: UseParts,
    principal: Viewer,
    start_ms: Annotated[int | None, Query(ge=0, le=1 << 53)] = None,
    end_ms: Annotated[int | None, Query(ge=0, le=1 << 53)] = None,
    subject: Annotated[str | None, Query(max_length=300)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> AlarmEvents:
    """Every change of every alarm of a site, for ever."""
    del principal
    site_config(parts, site)
    rows = await parts.queries.run(
        lambda: parts.history.records(kind="alarm", site=site, subject=subject, start_ms=start_ms, end_ms=end_ms, limit=limit)
    )
    return AlarmEvents(
        items=[
            AlarmEvent(
                position=r.position, time_ms=r.time_ms, subject=r.subject, device=r.device, evidence=json.loads(r.body or "{}")
            )
            for r in rows
        ]
    )


@router.post("/sites/{site}/alarms/{device}/{rule}/{action}", status_code=202, responses=problem.documented(401, 403, 404, 422))
async def act(
    site: str, device: str, rule: str, action: Action, parts: UseParts, principal: Operator, asked: AlarmRequest | None = None
) -> Submitted:
    """Acknowledge, shelve (with `seconds`), unshelve, reset, take out of and into service, comment (with `text`), assign (`to`)."""
    asked = asked or AlarmRequest()
    _check_known(parts.state.plan.device(f"{site}/{device}") is not None, parts, f"{rule}@{site}/{device}", rule)
    errors = []
    for needing, name in NEEDED.items():
        if (action == needing) != (getattr(asked, name) is not None):
            errors.append(
                FieldError(path=f"body.{name}", message=f"needed to {needing}" if action == needing else f"only for {needing}")
            )
    if errors:
        raise ProblemError(422, "invalid", "What was sent is not valid.", errors=errors)
    body: dict[str, Any] = {"alarm": f"{rule}@{site}/{device}"}
    if action in NEEDED:
        body[NEEDED[action]] = getattr(asked, NEEDED[action])
    if asked.reason or action == "shelve":
        body["reason"] = asked.reason
    request, is_new = await parts.desk.put(principal, action, body, asked.id)
    return Submitted(request=request, is_new=is_new)


def _check_known(device_exists: bool, parts: UseParts, subject: str, rule: str) -> None:
    """404 unless the alarm stands or a rule of that name exists for the device."""
    if subject in parts.state.alarms:
        return
    site, _, device = subject.partition("@")[2].partition("/")
    config = parts.state.plan.sites.get(site)
    found = parts.state.plan.device(f"{site}/{device}")
    if not device_exists or config is None or found is None:
        raise not_found("alarm")
    if all(spec.id != rule for spec in (*config.rules, *found.profile.rules)):
        raise not_found("alarm")


@router.get("/sites/{site}/requests/{request}", responses=problem.documented(401, 404))
async def request_state(site: str, request: str, parts: UseParts, principal: Viewer) -> RequestView:
    """What became of a request. 404 also for the moment before the core has taken it."""
    del principal
    found = parts.state.requests.get(request)
    if found is None or found.site != site:
        raise not_found("request")
    return request_view(found)
