"""Alarms of a site's lane: what its rules say about recorded data, on the data's own clock. Never mixed with what the live lane did."""

from pathlib import Path
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query
from pydantic import Field

from api import problem
from api.auth import GuardedRoute
from api.parts import UseParts
from api.routes.alarms import AlarmEvent
from api.routes.sites import Viewer, site_config
from api.views import View
from telemetry.decision import Decision

router = APIRouter(tags=["alarms"], route_class=GuardedRoute)
_decoder = msgspec.json.Decoder(Decision)


class LaneAlarms(View):
    """Newest first. `decisions` counts all of the lane's log, of which these are the newest alarms; 0 when nothing was played."""

    items: list[AlarmEvent]
    alarms: int = Field(examples=[45])
    decisions: int = Field(examples=[89])


def _read(file: Path, limit: int) -> LaneAlarms:
    """Newest alarms of a decision log. Blocking: for a query thread."""
    lines = file.read_bytes().splitlines() if file.is_file() else []
    found = [decision for decision in map(_decoder.decode, lines) if decision.kind == "alarm"]
    items = [
        AlarmEvent(
            position=decision.position,
            time_ms=decision.time_ns // 1_000_000,
            subject=decision.subject,
            device=decision.subject.rpartition("/")[2],
            evidence=decision.body,
        )
        for decision in found[: -limit - 1 : -1]
    ]
    return LaneAlarms(items=items, alarms=len(found), decisions=len(lines))


@router.get("/sites/{site}/lane/alarms", responses=problem.documented(401, 404, 422, 504))
async def lane_alarms(
    site: str, parts: UseParts, principal: Viewer, limit: Annotated[int, Query(ge=1, le=1000)] = 200
) -> LaneAlarms:
    """Alarms that the site's rules raise on its recorded data, with the data's own times."""
    del principal
    site_config(parts, site)
    if parts.lanes is None:
        return LaneAlarms(items=[], alarms=0, decisions=0)
    file = parts.lanes / f"{site}.jsonl"
    return await parts.queries.run(lambda: _read(file, limit))
