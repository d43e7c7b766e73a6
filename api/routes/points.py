"""Points with their newest value, unit, quality and age."""

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query
from pydantic import Field

from api import problem
from api.auth import GuardedRoute
from api.parts import Parts, UseParts
from api.problem import not_found
from api.routes.devices import find_device
from api.routes.sites import Viewer, site_config
from api.views import LatestView, View, latest_view
from telemetry.plan import Device
from telemetry.site import PointSpec

router = APIRouter(tags=["points"], route_class=GuardedRoute)


class PointView(View):
    """A point, its limits and its newest sample."""

    number: int = Field(examples=[17], description="Names the point in the live feed; never reused")
    site: str = Field(examples=["nursery"])
    device: str = Field(examples=["ms-1"])
    point: str = Field(examples=["air_temp_c"])
    label: dict[str, str] = Field(examples=[{"en": "Air temperature", "zh": "气温"}])
    unit: str = Field(examples=["°C"])
    low: float = Field(examples=[-30.0], description="Physical range")
    high: float = Field(examples=[60.0])
    band: tuple[float, float] | None = Field(examples=[[18.0, 30.0]], description="Normal range")
    decimals: int = Field(examples=[1])
    heartbeat_s: float = Field(examples=[60.0])
    labels: dict[int, str] | None = Field(examples=[None], description="Words of an enumeration")
    members: int | None = Field(examples=[None])
    virtual: str | None = Field(
        examples=["vpd_kpa(air_temp_c, air_rh_pct)"], description="What it is computed by; null when measured"
    )
    redundant: list[str] | None = Field(examples=[None], description="Sensors that vote on it, in order; null when there are none")
    calibrated_until_ms: int | None = Field(
        examples=[1798732800000],
        description="From then on its values are UNCERTAIN; null without calibration. Sent values: point.raw",
    )
    latest: LatestView


class PointList(View):
    """Points in order of number; `next` continues, null at the end."""

    items: list[PointView]
    next: int | None = Field(examples=[None])
    now_ms: int = Field(examples=[1767225660000])


def _point_view(parts: Parts, device: Device, spec: PointSpec, number: int) -> PointView:
    return PointView(
        number=number,
        site=device.site,
        device=device.name,
        point=spec.name,
        label=spec.label.model_dump(),
        unit=spec.unit,
        low=spec.low,
        high=spec.high,
        band=spec.band,
        decimals=spec.decimals,
        heartbeat_s=spec.beat_s,
        labels=spec.labels,
        members=spec.members,
        virtual=spec.formula if spec.is_virtual else None,
        redundant=spec.redundant,
        calibrated_until_ms=_calibrated_until_ms(parts, number),
        latest=latest_view(parts.state, number, parts.now_ms()),
    )


def _calibrated_until_ms(parts: Parts, number: int) -> int | None:
    table = parts.state.plan.calibrations
    is_calibrated = table is not None and table.row[number] >= 0
    return int(table.expires_ns[table.row[number]]) // 1_000_000 if table is not None and is_calibrated else None


@router.get("/sites/{site}/points", responses=problem.documented(401, 404, 422))
async def points(
    site: str,
    parts: UseParts,
    principal: Viewer,
    device: str | None = None,
    after: Annotated[int, Query(ge=-1, description="`next` of the page before")] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
) -> PointList:
    """Points of a site, or of one of its devices, with their newest sample."""
    del principal
    site_config(parts, site)
    numbers = (
        parts.state.active_points(site) if device is None else np.sort(np.array(find_device(parts, site, device).points, np.int64))
    )
    rest = numbers[numbers > after]
    page = rest[:limit].tolist()
    return PointList(
        items=[_numbered_view(parts, number) for number in page],
        next=page[-1] if len(rest) > limit else None,
        now_ms=parts.now_ms(),
    )


def _numbered_view(parts: Parts, number: int) -> PointView:
    """The view of an active point by its number."""
    owner = parts.state.plan.devices[parts.state.plan.point_owner[number][0]]
    return _point_view(parts, owner, owner.profile.points[owner.points.index(number)], number)


@router.get("/sites/{site}/devices/{device}/points/{point}", responses=problem.documented(401, 404))
async def point(site: str, device: str, point: str, parts: UseParts, principal: Viewer) -> PointView:
    """One point with its newest sample."""
    del principal
    owner = find_device(parts, site, device)
    for spec, number in zip(owner.profile.points, owner.points, strict=True):
        if spec.name == point:
            return _point_view(parts, owner, spec, number)
    raise not_found("point")
