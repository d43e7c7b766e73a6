"""What people and programs ask of an actuator by hand: override, release, and the second word that a dangerous one needs.

An override of an actuator with `confirm`, and every `unsafe` one, is answered with what makes it dangerous and with whom it displaces; it
is done when the same person confirms it within a minute. An unsafe override goes under survival limits (minimum ventilation, water), never
under those of people and equipment, and for half an hour at most. A program has no second word: it asks for nothing dangerous.
"""

import math
from typing import Any, Final, NamedTuple

from telemetry.plan import NS_PER_S
from telemetry.record import PROGRAM, Request
from telemetry.site import ActuatorSpec, Text

REQUESTS: Final = ("override", "release", "confirm")
OVERRIDE_DEFAULT_S: Final = 3600.0  # DOMAIN 0.3: a manual override has a time-out, default 60 min
OVERRIDE_MAX_S: Final = 24 * 3600.0
UNSAFE_MAX_S: Final = 1800.0
CONFIRM_S: Final = 60.0
WAITING_MAX: Final = 1000  # the oldest is forgotten first
UNSAFE: Final = Text(
    en="it goes under what keeps animals or plants alive, such as minimum ventilation or water",
    zh="将低于维持动植物存活的下限（如最小通风、供水）",
)


class Waiting(NamedTuple):
    """An override that waits for its second word."""

    request: str
    author: str
    body: dict[str, Any]
    asked_ns: int

    def as_request(self) -> Request:
        """As it was asked."""
        return Request(self.request, "override", self.author, self.body)


class Confirmations:
    """Overrides that wait, by request id, oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}

    def wait(self, request: Request, now_ns: int) -> int:
        """Let one wait; until when [ns]."""
        self._waiting[request.id] = Waiting(request.id, request.author, request.body, now_ns)
        while len(self._waiting) > WAITING_MAX:
            del self._waiting[next(iter(self._waiting))]
        return now_ns + int(CONFIRM_S * NS_PER_S)

    def find(self, confirm: Request, now_ns: int) -> tuple[Waiting | None, str]:
        """What a confirmation confirms, and why it does not ("" when it does)."""
        name = confirm.body.get("request")
        waiting = self._waiting.get(name) if isinstance(name, str) else None
        if waiting is None:
            return None, f"no override {name!r} waits for a confirmation"
        if waiting.author != confirm.author:
            return None, f"only {waiting.author}, who asked for it, can confirm it"
        if confirm.body.get("actuator") != waiting.body.get("actuator"):
            return None, f"that override is of {waiting.body.get('actuator')}"
        if now_ns - waiting.asked_ns > CONFIRM_S * NS_PER_S:
            return None, f"it waited for more than {CONFIRM_S:g} s; ask for the override again"
        if now_ns >= ends_ns(waiting.body, waiting.asked_ns):
            return None, "the time it was asked for is over; ask for the override again"
        return waiting, ""

    def done(self, waiting: Waiting) -> None:
        """It is confirmed."""
        self._waiting.pop(waiting.request, None)

    def snapshot(self) -> list[list[Any]]:
        """Oldest first."""
        return [list(waiting) for waiting in self._waiting.values()]

    def restore(self, saved: list[list[Any]]) -> None:
        """Inverse of `snapshot`."""
        self._waiting = {waiting[0]: Waiting(*waiting) for waiting in saved}


def danger(request: Request, spec: ActuatorSpec) -> Text | None:
    """Why an override needs a second word; None when it does not."""
    if request.kind != "override":
        return None
    return UNSAFE if request.body.get("unsafe") is True else spec.confirm


def ends_ns(body: dict[str, Any], asked_ns: int) -> int:
    """When an override ends that was asked for at a time."""
    return asked_ns + int(float(body.get("seconds") or OVERRIDE_DEFAULT_S) * NS_PER_S)


def override_problem(request: Request, spec: ActuatorSpec) -> str:
    """Why an override is refused, whatever stands; "" when it is not."""
    body = request.body
    value: Any = body.get("value")
    unsafe: Any = body.get("unsafe", False)
    seconds: Any = body.get("seconds", OVERRIDE_DEFAULT_S)
    longest = UNSAFE_MAX_S if unsafe else OVERRIDE_MAX_S
    if not is_number(value):
        return "an override needs a number as `value`"
    if not spec.low <= value <= spec.high:
        return f"`value` must be between {spec.low:g} and {spec.high:g} {spec.unit}"
    if not isinstance(unsafe, bool):
        return "`unsafe` is true or false"
    if unsafe and "seconds" not in body:
        return f"an unsafe override needs `seconds`, at most {UNSAFE_MAX_S:g}"
    if not is_number(seconds) or not 1 <= seconds <= longest:
        return f"`seconds` must be between 1 and {longest:g}"
    if unsafe and not str(body.get("reason", "")).strip():
        return "an unsafe override needs a `reason`"
    if request.author.startswith(PROGRAM) and danger(request, spec) is not None:
        return "this is dangerous and needs the word of a person; a program cannot ask for it"
    return ""


def is_number(value: Any) -> bool:
    """A finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
