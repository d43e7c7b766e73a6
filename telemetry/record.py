"""Sparse journal records: everything that is neither a frame nor a tick. Small, typed, and JSON on disk."""

from typing import Any, Final, TypeGuard

import msgspec

PROGRAM: Final = "program:"  # begins the author of what a program asked for over MQTT


class Event(msgspec.Struct, frozen=True, tag="event", tag_field="t"):
    """A small fact: birth, offline, reject, broker_lost, broker_up, drained. `device` is "site/device" or "" for the service.

    upgrade {transactions, first, last, build}: a new build read the journal's tail and decided so many transactions otherwise,
    between the positions first and last. What was journaled stays fact.
    """

    name: str
    device: str = ""
    body: dict[str, Any] = {}


class Ack(msgspec.Struct, frozen=True, tag="ack", tag_field="t"):
    """A device's answer to a command. status: accepted, refused, expired, superseded."""

    device: str
    command: str
    status: str
    reason: str = ""


class Request(msgspec.Struct, frozen=True, tag="request", tag_field="t"):
    """What a person or program asks, with its author; idempotent by id.

    kind: acknowledge {alarm}, shelve {alarm, seconds, reason}, unshelve {alarm}, reset {alarm}, out_of_service {alarm},
    in_service {alarm}, comment {alarm, text}, assign {alarm, to}, override {actuator, value, seconds, reason, unsafe}, release {actuator},
    confirm {actuator, request},
    config {text, warm?}, mode {area, mode}, batch {area, day, name} or {area, ends}, alarm_test {}: only answered, and notify sends the
    test when it reads the answer. `alarm` is "rule@site/device", `actuator` is "site/device/actuator", `area` is "site/area".
    """

    id: str
    kind: str
    author: str
    body: dict[str, Any] = {}


class Config(msgspec.Struct, frozen=True, tag="config", tag_field="t", omit_defaults=True):
    """A site's whole configuration as canonical JSON (`telemetry.site.SiteConfig`), named by its SHA-256.

    warm: memory of windows that are new in it, computed from history (`rules.warm_start`); empty = they begin with nothing.
    comment: why, as its author says.
    """

    site: str
    sha256: str
    text: str
    author: str = ""
    warm: bytes = b""
    comment: str = ""


class Clock(msgspec.Struct, frozen=True, tag="clock", tag_field="t"):
    """The wall clock jumped by `jump_ns` against the engine's time; running durations are untouched."""

    jump_ns: int


class Start(msgspec.Struct, frozen=True, tag="start", tag_field="t"):
    """A core began: its epoch and build. Blind time runs from the last entry before it until the backlog is drained."""

    epoch: int
    version: str = ""


def is_upgrade(record: Any) -> TypeGuard[Event]:
    """True for the core's own event of that name; a device's is any event."""
    return isinstance(record, Event) and record.name == "upgrade" and not record.device


Record = Event | Ack | Request | Config | Clock | Start
