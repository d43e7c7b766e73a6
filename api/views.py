"""What the API shows of alarms, commands, rejects and values: one model per thing, used by routes and live feed alike.

Numbers are finite or null: JSON knows no NaN. Times are ms since 1970 UTC.
"""

import base64
import math
from typing import Any, Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from api.alarm import Alarm
from api.area import Area
from api.mode import ActuatorMode
from api.state import Command, LiveState, Reject, RequestState
from telemetry import quality as quality_bits
from telemetry.decision import Decision
from telemetry.site import MODES, SiteConfig

NS_PER_MS: Final = 1_000_000
PAYLOAD_SHOWN_MAX: Final = 4096  # bytes of a rejected payload in one answer


def finite(value: float | None) -> float | None:
    """The number, or None where JSON has no word for it."""
    return value if value is not None and math.isfinite(value) else None


def plain(body: dict[str, Any]) -> dict[str, Any]:
    """Evidence as JSON values; NaN and infinities become null, bytes become base64."""
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(body))
    return decoded


class View(BaseModel):
    """A thing as the API shows it."""

    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


class CommentView(View):
    """What a person wrote beside an alarm."""

    time_ms: int = Field(examples=[1767225660000])
    author: str = Field(examples=["wang"])
    text: str = Field(examples=["The belt of fan 2 is slack"])


class AlarmView(View):
    """An alarm and the evidence of its last change."""

    subject: str = Field(examples=["MS-T-HH@nursery/ms-1"])
    site: str = Field(examples=["nursery"])
    device: str = Field(examples=["ms-1"])
    rule: str = Field(examples=["MS-T-HH"])
    state: str = Field(examples=["UNACK"], description="ISA-18.2: NORM, UNACK, ACKED, RTNUN, LATCH, SHLVD, DSUPR, OOSRV")
    priority: str = Field(examples=["P2"])
    raised_ms: int = Field(examples=[1767225600000])
    changed_ms: int = Field(examples=[1767225660000])
    position: int = Field(description="Journal position of the last change", examples=[4711])
    message: dict[str, str] = Field(examples=[{"en": "Air is too hot", "zh": "气温过高"}])
    evidence: dict[str, Any] = Field(examples=[{"event": "raise", "values": {"air_temp_c": 38.6}, "rule_version": 3}])
    assignee: str | None = Field(examples=["li"], description="Who has taken it; null: nobody")
    comments: list[CommentView] = Field(description="Since it was raised, at most the newest 20, oldest first")


class AreaNow(View):
    """What people, and floods of alarms, say of an area now."""

    mode: str = Field(examples=["OCCUPIED"], description=", ".join(MODES))
    batch: str | None = Field(examples=["2026-03"], description="Its name, which may be empty; null: there is none")
    day_of_batch: int | None = Field(examples=[12], description="By the site's clock, as rules see it; null without a batch")
    flood_since_ms: int | None = Field(examples=[None], description="Since when alarms flood it; null: they do not")


class AreaItem(AreaNow):
    """An area that changed, for the live feed."""

    site: str = Field(examples=["nursery"])
    name: str = Field(examples=["ms"])


class CommandView(View):
    """A command, how far it came, and why."""

    id: str = Field(examples=["nursery/ms-1/roof_vent:17"])
    site: str = Field(examples=["nursery"])
    device: str = Field(examples=["ms-1"])
    actuator: str = Field(examples=["roof_vent"])
    state: str = Field(
        examples=["confirmed"],
        description="requested, authorised, queued, sent, accepted, confirmed, refused, expired, superseded, lost, failed_safe",
    )
    value: float | None = Field(examples=[80.0])
    reason: str = Field(examples=["MS-T-H@nursery/ms-1"])
    changed_ms: int = Field(examples=[1767225660000])
    position: int = Field(examples=[4712])
    steps: list[tuple[str, int, str]] = Field(
        description="[state, time in ms, reason] of each state", examples=[[["sent", 1767225660000, ""]]]
    )
    evidence: dict[str, Any] = Field(examples=[{"winner": "rule", "losers": []}])


class ModeView(View):
    """Who works an actuator now."""

    mode: str = Field(
        examples=["MANUAL"], description="AUTO the rules, MANUAL an override in force, LOCAL or OFF at the panel, which always wins"
    )
    manual_until_ms: int | None = Field(examples=[1767226860000], description="When the override ends by itself; null without one")
    manual_reason: str = Field(examples=["wang: inspection"])
    is_unsafe: bool = Field(examples=[False], description="The override goes under survival limits")


class ModeItem(ModeView):
    """An actuator whose mode changed, for the live feed."""

    site: str = Field(examples=["nursery"])
    device: str = Field(examples=["ms-1"])
    actuator: str = Field(examples=["roof_vent"])


class RejectView(View):
    """A message that was received and not stored. The payload is cut at 4,096 bytes."""

    position: int = Field(examples=[4713])
    time_ms: int = Field(examples=[1767225660000])
    site: str = Field(examples=["nursery"])
    device: str = Field(examples=["ms-1"])
    reason: str = Field(examples=["malformed"])
    topic: str = Field(examples=["fl/nursery/ms-1/telemetry"])
    payload_base64: str = Field(examples=["eyJ2IjoxLA=="])
    payload_text: str = Field(description="Readable form; unprintable bytes are escaped", examples=['{"v":1,'])
    evidence: dict[str, Any] = Field(examples=[{"at": 7}])


class RequestView(View):
    """A request and its answer; accepted is null until the core has answered."""

    id: str = Field(examples=["wang.0f3a9c0d1e2b"])
    site: str = Field(examples=["nursery"])
    kind: str = Field(examples=["acknowledge"])
    author: str = Field(examples=["wang"])
    time_ms: int = Field(examples=[1767225660000])
    accepted: bool | None = Field(examples=[True])
    reason: str = Field(examples=[""])
    confirm: dict[str, str] | None = Field(
        examples=[{"en": "the roof moves", "zh": "卷帘将动作"}],
        description="Nothing is done yet: why it is dangerous. Whoever asked may confirm it. Null: no second word is needed",
    )
    confirm_until_ms: int | None = Field(examples=[None], description="Until when a confirmation counts")
    displaces: list[dict[str, Any]] = Field(examples=[[]], description="Demands that it would displace")


class DecisionView(View):
    """A conclusion of the core with its evidence."""

    position: int = Field(examples=[4711])
    time_ms: int = Field(examples=[1767225660000])
    kind: str = Field(examples=["alarm"])
    subject: str = Field(examples=["MS-T-HH@nursery/ms-1"])
    evidence: dict[str, Any] = Field(examples=[{"from": "NORM", "to": "UNACK"}])


class LatestView(View):
    """The newest sample of a point. All null before the first one."""

    value: float | None = Field(examples=[24.3])
    ts_ms: int | None = Field(examples=[1767225660000], description="The sample's own time")
    age_ms: int | None = Field(examples=[1200], description="By the server's clock; negative never")
    quality: str | None = Field(examples=["GOOD"], description="GOOD, UNCERTAIN or BAD")
    reasons: list[str] = Field(examples=[[]])
    members: dict[str, float | None] | None = Field(
        default=None, description="Count, min and max of a point with members", examples=[{"count": 1824.0, "min": 1.0, "max": 2.0}]
    )


def alarm_view(alarm: Alarm) -> AlarmView:
    """Its view."""
    evidence = plain(alarm.body)
    message = evidence.pop("message", None)
    texts = {str(k): str(v) for k, v in message.items()} if isinstance(message, dict) else {}
    return AlarmView(
        subject=alarm.subject,
        site=alarm.site,
        device=alarm.device,
        rule=alarm.rule,
        state=alarm.state,
        priority=alarm.priority,
        raised_ms=alarm.raised_ns // NS_PER_MS,
        changed_ms=alarm.changed_ns // NS_PER_MS,
        position=alarm.position,
        message=texts,
        evidence=evidence,
        assignee=alarm.assignee or None,
        comments=[CommentView(time_ms=c.time_ns // NS_PER_MS, author=c.author, text=c.text) for c in alarm.comments],
    )


def area_now(state: LiveState, config: SiteConfig, name: str) -> AreaNow:
    """What is said of an area of a site; nobody has spoken: AUTO, without a batch."""
    area = state.areas.get(f"{config.site}/{name}", Area(config.site, name))
    return AreaNow(
        mode=area.mode,
        batch=area.batch if area.batch_ns is not None else None,
        day_of_batch=area.day_of_batch(config, state.engine_ns),
        flood_since_ms=area.flood_ns // NS_PER_MS if area.flood_ns is not None else None,
    )


def command_view(command: Command) -> CommandView:
    """Its view."""
    return CommandView(
        id=command.id,
        site=command.site,
        device=command.device,
        actuator=command.actuator,
        state=command.state,
        value=finite(command.value),
        reason=command.reason,
        changed_ms=command.changed_ns // NS_PER_MS,
        position=command.position,
        steps=[(state, time_ns // NS_PER_MS, reason) for state, time_ns, reason in command.steps],
        evidence=plain(command.body),
    )


def reject_view(reject: Reject) -> RejectView:
    """Its view."""
    shown = reject.payload[:PAYLOAD_SHOWN_MAX]
    text = shown.decode("utf-8", "backslashreplace")
    return RejectView(
        position=reject.position,
        time_ms=reject.time_ns // NS_PER_MS,
        site=reject.site,
        device=reject.device,
        reason=reject.reason,
        topic=reject.topic,
        payload_base64=base64.b64encode(shown).decode(),
        payload_text="".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text),
        evidence=plain(reject.body),
    )


def mode_view(mode: ActuatorMode | None) -> ModeView:
    """Its view; nobody has spoken: AUTO."""
    if mode is None:
        return ModeView(mode="AUTO", manual_until_ms=None, manual_reason="", is_unsafe=False)
    until_ms = None if mode.until_ns is None else mode.until_ns // NS_PER_MS
    return ModeView(mode=mode.mode, manual_until_ms=until_ms, manual_reason=mode.reason, is_unsafe=mode.is_unsafe)


def request_view(request: RequestState) -> RequestView:
    """Its view."""
    until_ns = request.answer.get("confirm_until_ns")
    return RequestView(
        id=request.id,
        site=request.site,
        kind=request.kind,
        author=request.author,
        time_ms=request.time_ns // NS_PER_MS,
        accepted=request.accepted,
        reason=request.reason,
        confirm=request.answer.get("confirm"),
        confirm_until_ms=None if until_ns is None else int(until_ns) // NS_PER_MS,
        displaces=plain({"displaces": request.answer.get("displaces", [])})["displaces"],
    )


def decision_view(decision: Decision) -> DecisionView:
    """Its view."""
    return DecisionView(
        position=decision.position,
        time_ms=decision.time_ns // NS_PER_MS,
        kind=decision.kind,
        subject=decision.subject,
        evidence=plain(decision.body),
    )


def latest_view(state: LiveState, point: int, now_ms: int) -> LatestView:
    """The newest sample of a point number."""
    if not state.has_value(point):
        return LatestView(value=None, ts_ms=None, age_ms=None, quality=None, reasons=[])
    ts_ms = int(state.ts_ns[point]) // NS_PER_MS
    quality = int(state.quality[point])
    members = state.members.get(point)
    return LatestView(
        value=finite(float(state.value[point])),
        ts_ms=ts_ms,
        age_ms=max(0, now_ms - ts_ms),
        quality=quality_bits.level(quality),
        reasons=quality_bits.reasons(quality),
        members=None if members is None else {name: finite(value) for name, value in members.items()},
    )
