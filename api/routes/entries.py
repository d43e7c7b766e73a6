"""Who came in and went out: every badge that a door was shown, with how long its bearer had been away from other animals."""

from typing import Annotated, Final

import numpy as np
from fastapi import APIRouter, Query
from pydantic import Field

from api import problem
from api.auth import GuardedRoute
from api.parts import Parts, UseParts
from api.problem import FieldError, ProblemError
from api.routes.history import TIME_MAX_MS
from api.routes.sites import Viewer, site_config
from api.views import View, finite
from store.history import READ_ROWS_MAX, History, SampleRows
from telemetry import quality
from telemetry.plan import Device

router = APIRouter(tags=["history"], route_class=GuardedRoute)

BADGE: Final = "badge_no"  # 0: no badge is at the door
WAY, AWAY, SHOWER = "entry_in_bool", "pig_free_h", "disinfected_bool"
RANGE_MAX_MS: Final = 400 * 86_400_000


class EntryView(View):
    """One badge at one door. What the door's terminal did not say is null."""

    t_ms: int = Field(examples=[1767225660000])
    device: str = Field(examples=["pigs-1"])
    area: str = Field(examples=["finishing-1"])
    badge: int = Field(examples=[1001])
    is_in: bool | None = Field(examples=[True], description="In; false: out")
    pig_free_h: float | None = Field(
        examples=[72.0], description="Hours since the bearer was with other pigs; of those who come in"
    )
    disinfected: bool | None = Field(examples=[True], description="Whether a disinfection cycle was done then")


class EntryList(View):
    """Newest first; `is_whole` false: there are more."""

    items: list[EntryView]
    is_whole: bool = Field(examples=[True])


def badges_shown(rows: SampleRows, before: float) -> list[tuple[int, int]]:
    """(time [ms], badge) at which a badge came to a door: its samples in order of time, `before` the number that stood before them."""
    known = ~quality.is_bad(rows.quality) & np.isfinite(rows.value)
    times, numbers = rows.ts_ms[known], rows.value[known]
    last = np.concatenate([[before], numbers])[: len(numbers)]
    comes = (numbers > 0.0) & (numbers != last)
    return [(int(t), int(badge)) for t, badge in zip(times[comes], numbers[comes], strict=True)]


def entries_of(history: History, device: Device, start_ms: int, end_ms: int) -> list[EntryView]:
    """Entries at the door of one device in [start, end), in order of time. For a query thread."""
    number = device.point(BADGE)
    if number is None:
        return []
    earlier = history.latest([number], start_ms - 1).value
    rows = history.read(number, start_ms, end_ms, limit=READ_ROWS_MAX)
    told = {point: name for name in (WAY, AWAY, SHOWER) if (point := device.point(name)) is not None}
    found = []
    for t_ms, badge in badges_shown(rows, float(earlier[0]) if len(earlier) else 0.0):
        at = history.latest(sorted(told), t_ms)
        said = {told[point]: finite(value) for point, value in zip(at.point.tolist(), at.value.tolist(), strict=True)}
        is_in, shower = (None if said.get(name) is None else said[name] == 1.0 for name in (WAY, SHOWER))
        away = said.get(AWAY) if is_in else None
        found.append(
            EntryView(
                t_ms=t_ms, device=device.name, area=device.area, badge=badge, is_in=is_in, pig_free_h=away, disinfected=shower
            )
        )
    return found


def _listed(parts: Parts, devices: list[Device], start_ms: int, end_ms: int, limit: int) -> EntryList:
    found = [entry for device in devices for entry in entries_of(parts.history, device, start_ms, end_ms)]
    found.sort(key=lambda entry: (-entry.t_ms, entry.device))
    return EntryList(items=found[:limit], is_whole=len(found) <= limit)


@router.get("/sites/{site}/entries", responses=problem.documented(401, 404, 422, 503, 504))
async def entries(
    site: str,
    parts: UseParts,
    principal: Viewer,
    start_ms: Annotated[int | None, Query(ge=1, le=TIME_MAX_MS, description="Default: a week before the end")] = None,
    end_ms: Annotated[int | None, Query(ge=1, le=TIME_MAX_MS, description="Exclusive; default: now")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> EntryList:
    """Badges shown at the doors of a site: who, which way, how long after other pigs, disinfected or not."""
    del principal
    site_config(parts, site)
    end = parts.now_ms() + 1 if end_ms is None else end_ms
    start = max(1, end - 7 * 86_400_000) if start_ms is None else start_ms
    if not 0 < end - start <= RANGE_MAX_MS:
        errors = [FieldError(path="query.start_ms", message="must be before end_ms, by at most 400 days")]
        raise ProblemError(422, "invalid", "The range is not valid.", errors=errors)
    devices = [device for device in parts.state.plan.devices if device.site == site and device.point(BADGE) is not None]
    return await parts.queries.run(lambda: _listed(parts, devices, start, end, limit))
