"""Devices of a site: what they are, when they last spoke, what they can move."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from api import problem
from api.auth import GuardedRoute
from api.parts import Parts, UseParts
from api.problem import not_found
from api.routes.sites import Viewer, site_config
from api.state import NEVER
from api.views import LatestView, ModeView, View, finite, latest_view, mode_view
from telemetry.frame import Verdict
from telemetry.plan import Device
from telemetry.site import ActuatorSpec, SiteConfig, Text

router = APIRouter(tags=["devices"], route_class=GuardedRoute)


class ActuatorView(ModeView):
    """A thing that moves: who works it, what was commanded, what is measured."""

    actuator: str = Field(examples=["roof_vent"])
    label: dict[str, str] = Field(examples=[{"en": "Roof vent", "zh": "天窗"}])
    unit: str = Field(examples=["%"])
    kind: str = Field(examples=["position"])
    low: float = Field(examples=[0.0])
    high: float = Field(examples=[100.0])
    tolerance: float = Field(examples=[5.0])
    fail_safe: str = Field(examples=["0.0"])
    confirm: dict[str, str] | None = Field(
        examples=[{"en": "the roof moves", "zh": "卷帘将动作"}],
        description="Why moving it by hand is dangerous and needs a second word; null: it is not",
    )
    command: str | None = Field(
        examples=["nursery/ms-1/roof_vent:17"], description="Id of the newest command; null before the first"
    )
    commanded: float | None = Field(examples=[80.0])
    state: str | None = Field(examples=["confirmed"])
    reason: str | None = Field(examples=["MS-T-H@nursery/ms-1"])
    feedback_point: str | None = Field(examples=["roof_vent_pct"])
    measured: LatestView | None = Field(description="Measured position; never taken from the command. Null without feedback")


class DeviceView(View):
    """A device."""

    site: str = Field(examples=["nursery"])
    device: str = Field(examples=["ms-1"])
    area: str = Field(examples=["ms"])
    profile: str = Field(examples=["multi_span"])
    label: dict[str, str] = Field(examples=[{"en": "Climate 1", "zh": "1 号温室气候"}])
    origin: str = Field(examples=["SIMULATED"])
    is_silent: bool = Field(examples=[False])
    last_seen_ms: int | None = Field(examples=[1767225660000])
    messages: int = Field(examples=[86400], description="Messages taken since the journal began, without duplicates")
    last_verdict: str | None = Field(examples=["LIVE"])
    status: str | None = Field(examples=["birth"])
    actuators: list[ActuatorView]


class DeviceList(View):
    """Devices in order of number; `next` continues, null at the end."""

    items: list[DeviceView]
    next: int | None = Field(examples=[None])


def find_device(parts: Parts, site: str, device: str) -> Device:
    """The active device; 404 when there is none."""
    found = parts.state.plan.device(f"{site}/{device}")
    if found is None:
        raise not_found("device")
    return found


def _actuator_view(parts: Parts, device: Device, spec: ActuatorSpec) -> ActuatorView:
    state = parts.state
    command = state.commands.get(state.actuators.get(f"{device.key}/{spec.name}", ""))
    feedback = None if spec.feedback is None else device.point(spec.feedback)
    return ActuatorView(
        **mode_view(state.modes.get(f"{device.key}/{spec.name}")).model_dump(),
        actuator=spec.name,
        label=spec.label.model_dump(),
        unit=spec.unit,
        kind=spec.kind,
        low=spec.low,
        high=spec.high,
        tolerance=spec.tolerance,
        fail_safe=str(spec.fail_safe),
        confirm=None if spec.confirm is None else spec.confirm.model_dump(),
        command=None if command is None else command.id,
        commanded=None if command is None else finite(command.value),
        state=None if command is None else command.state,
        reason=None if command is None else command.reason,
        feedback_point=spec.feedback,
        measured=None if feedback is None else latest_view(state, feedback, parts.now_ms()),
    )


def device_labels(config: SiteConfig) -> dict[str, Text]:
    """Labels by the names of the site file's lines; a line of many devices stands under its name without number."""
    return {spec.name: spec.label for spec in config.devices if spec.label.en or spec.label.zh}


def _label(device: Device, labels: dict[str, Text]) -> Text:
    """The device's own label; of a line of many with its number, and without any its profile's with its name: never ambiguous."""
    if device.name in labels:
        return labels[device.name]
    base, _, number = device.name.rpartition("-")
    text, mark = (labels[base], number) if base in labels else (device.profile.label, device.name)
    return Text(en=f"{text.en} {mark}".strip(), zh=f"{text.zh} {mark}".strip())


def device_view(parts: Parts, device: Device, labels: dict[str, Text]) -> DeviceView:
    """Its view now. `labels`: `device_labels` of its site."""
    state = parts.state
    seen_ns = state.seen_ns(device)
    return DeviceView(
        site=device.site,
        device=device.name,
        area=device.area,
        profile=device.profile.name,
        label=_label(device, labels).model_dump(),
        origin=device.origin,
        is_silent=state.is_silent(device),
        last_seen_ms=None if seen_ns == NEVER else seen_ns // 1_000_000,
        messages=int(state.device_messages[device.number]) if seen_ns != NEVER else 0,
        last_verdict=None if seen_ns == NEVER else Verdict(int(state.device_verdict[device.number])).name,
        status=state.device_status.get(device.key),
        actuators=[_actuator_view(parts, device, spec) for spec in device.profile.actuators],
    )


@router.get("/sites/{site}/devices", responses=problem.documented(401, 404, 422))
async def devices(
    site: str,
    parts: UseParts,
    principal: Viewer,
    after: Annotated[int, Query(ge=-1, description="`next` of the page before")] = -1,
    limit: Annotated[int, Query(ge=1, le=500)] = 200,
) -> DeviceList:
    """Devices of a site with commanded and measured positions."""
    del principal
    labels = device_labels(site_config(parts, site))
    plan = parts.state.plan
    numbers = parts.state.active_devices(site)
    rest = numbers[numbers > after]
    page = rest[:limit].tolist()
    return DeviceList(
        items=[device_view(parts, plan.devices[n], labels) for n in page], next=page[-1] if len(rest) > limit else None
    )


@router.get("/sites/{site}/devices/{device}", responses=problem.documented(401, 404))
async def device(site: str, device: str, parts: UseParts, principal: Viewer) -> DeviceView:
    """One device."""
    del principal
    labels = device_labels(site_config(parts, site))
    return device_view(parts, find_device(parts, site, device), labels)
