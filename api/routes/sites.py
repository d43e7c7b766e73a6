"""Sites the caller may see, and recent decisions of one."""

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from api import problem
from api.about import split_subject
from api.auth import GuardedRoute, Principal, Requires
from api.parts import Parts, UseParts
from api.problem import not_found
from api.views import AreaNow, DecisionView, View, area_now, decision_view
from telemetry.site import SiteConfig

router = APIRouter(tags=["sites"], route_class=GuardedRoute)
Viewer = Annotated[Principal, Depends(Requires("viewer"))]


class AreaView(AreaNow):
    """A part of a site, and what is said of it now."""

    name: str = Field(examples=["ms"])
    label: dict[str, str] = Field(examples=[{"en": "Multi-span", "zh": "连栋温室"}])
    devices: int = Field(examples=[3])


class SiteView(View):
    """A site and its figures now."""

    site: str = Field(examples=["nursery"])
    label: dict[str, str] = Field(examples=[{"en": "Nursery", "zh": "育苗场"}])
    origin: str = Field(examples=["SIMULATED"])
    region: list[str] = Field(examples=[["Weifang", "Qingzhou"]])
    organisation: str = Field(examples=["Qingzhou Seedlings"])
    zone: str = Field(examples=["Asia/Shanghai"])
    areas: list[AreaView]
    devices: int = Field(examples=[12])
    devices_silent: int = Field(examples=[0], description="Active devices that have sent nothing for three heartbeats, or never")
    alarms: dict[str, int] = Field(examples=[{"P1": 0, "P2": 1, "P3": 0, "P4": 0}], description="Standing alarms by priority")
    unacknowledged: int = Field(examples=[1])
    rejects: int = Field(examples=[0], description="Among the newest rejects that are kept")
    now_ms: int = Field(examples=[1767225660000])
    engine_ms: int = Field(examples=[1767225659900], description="Time of the newest journal entry; old = the core is silent")


class Service(View):
    """Figures of the whole service; only for principals of all sites."""

    messages_per_s: float = Field(examples=[20000.0])
    position: int = Field(examples=[4711])
    epoch: int = Field(examples=[3])


class SiteList(View):
    """Sites in order of name."""

    items: list[SiteView]
    service: Service | None


def site_config(parts: Parts, site: str) -> SiteConfig:
    """The site's configuration; 404 when it has none."""
    config = parts.state.plan.sites.get(site)
    if config is None:
        raise not_found("site")
    return config


def _site_view(parts: Parts, config: SiteConfig) -> SiteView:
    state = parts.state
    standing = [a for a in state.alarms.values() if a.site == config.site]
    by_area = Counter[str]()
    for spec in config.devices:
        by_area[spec.area] += spec.count or 1
    return SiteView(
        site=config.site,
        label=config.label.model_dump(),
        origin=config.origin,
        region=config.region,
        organisation=config.organisation,
        zone=config.zone,
        areas=[
            AreaView(
                name=a.name, label=a.label.model_dump(), devices=by_area[a.name], **area_now(state, config, a.name).model_dump()
            )
            for a in config.areas
        ],
        devices=len(state.active_devices(config.site)),
        devices_silent=state.silent_count(config.site),
        alarms={p: sum(a.priority == p for a in standing) for p in ("P1", "P2", "P3", "P4")},
        unacknowledged=sum(a.state in ("UNACK", "RTNUN") for a in standing),
        rejects=sum(r.site == config.site for r in state.rejects),
        now_ms=parts.now_ms(),
        engine_ms=state.engine_ns // 1_000_000,
    )


@router.get("/sites", responses=problem.documented(401))
async def sites(parts: UseParts, principal: Viewer) -> SiteList:
    """All sites you may see, with their alarms and silent devices."""
    state = parts.state
    seen = [_site_view(parts, config) for name, config in sorted(state.plan.sites.items()) if principal.may_see(name)]
    service = Service(messages_per_s=state.messages_per_s(), position=state.position, epoch=state.epoch)
    return SiteList(items=seen, service=service if principal.sites is None else None)


@router.get("/sites/{site}", responses=problem.documented(401, 404))
async def site(site: str, parts: UseParts, principal: Viewer) -> SiteView:
    """One site."""
    del principal  # its scope has been checked with the path
    return _site_view(parts, site_config(parts, site))


class DecisionList(View):
    """Newest first."""

    items: list[DecisionView]


@router.get("/sites/{site}/decisions", responses=problem.documented(401, 404, 422))
async def decisions(
    site: str, parts: UseParts, principal: Viewer, kind: str | None = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> DecisionList:
    """Recent decisions of a site with their evidence; older ones are in the alarm and command history."""
    del principal
    site_config(parts, site)
    state, found = parts.state, []
    for decision in reversed(state.decisions):
        request = state.requests.get(decision.subject) if decision.kind == "answer" else None
        place = request.site if request is not None else split_subject(decision)[0]
        if place == site and kind in (None, decision.kind):
            found.append(decision_view(decision))
        if len(found) >= limit:
            break
    return DecisionList(items=found)
