"""What is known of one actuator, and the pace at which it may be moved: travel, minimum on and off times, smallest step."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any, Final, NamedTuple

from telemetry.plan import NS_PER_S
from telemetry.site import ActuatorSpec

NEVER: Final = (1 << 63) - 1
PERSONNEL: Final = 1
EQUIPMENT: Final = 2
SURVIVAL: Final = 3  # levels 1..3 do not wait for the last travel to end


class Wanted(NamedTuple):
    """A target of arbitration: what the actuator shall do, at which level, and the evidence for it. limits: (low, high) that personnel
    safety leaves, and equipment below it."""

    value: float
    level: int  # 8: nobody asks, rest
    reason: str
    winner: dict[str, Any] | None
    losers: list[dict[str, Any]]
    limits: Sequence[Sequence[float]] = ((-inf, inf), (-inf, inf))

    def guarded(self, value: float) -> float:
        """A value moved to where it harms neither people nor equipment."""
        low, high = self.limits[EQUIPMENT - 1]
        return min(max(value, low), high)

    def is_limited(self, spec: ActuatorSpec) -> bool:
        """Whether people or equipment leave less than the whole range."""
        low, high = self.limits[EQUIPMENT - 1]
        return low > spec.low or high < spec.high

    def broken(self, value: float | None) -> int:
        """The highest level whose limits a position breaks: 1, 2, or 8 when none is. Not known: none."""
        for level, (low, high) in enumerate(self.limits, 1):
            if value is not None and not low <= value <= high:
                return level
        return 8


@dataclass(slots=True)
class Command:
    """One command on its way. Times are engine time in ns, -1 = not yet."""

    id: str
    value: float
    level: int
    reason: str
    winner: dict[str, Any] | None
    losers: list[dict[str, Any]]
    asked_ns: int
    state: str = "requested"
    is_fail_safe: bool = False
    is_announced: bool = False
    sends: int = 0
    sent_ns: int = -1
    next_send_ns: int = NEVER
    accepted_ns: int = -1

    def evidence(self) -> dict[str, Any]:
        """The body of its decisions."""
        return {
            "id": self.id, "state": self.state, "value": self.value, "reason": self.reason, "winner": self.winner,
            "losers": self.losers,
        }  # fmt: skip


@dataclass(slots=True)
class Drive:
    """One actuator. `position` is the last commanded value, None = not known; `pulse` waits to be given."""

    name: str
    wanted: Wanted | None = None
    pulse: Wanted | None = None
    position: float | None = None
    open: Command | None = None
    switched_ns: int = -1  # when it was last turned on or off by us
    is_on: bool | None = None
    travel_end_ns: int = 0
    silent_since_ns: int = -1  # first send since the device last answered
    unmoved_since_ns: int = -1  # first acceptance since the position was last confirmed
    is_failed: bool = False
    retry_ns: int = NEVER
    wake_ns: int = NEVER
    numbered: list[int] = field(default_factory=lambda: [-1, 0])  # journal position of the last id, and how many it gave

    def new_id(self, epoch: int, position: int) -> str:
        """ "epoch-position-actuator"; a timer and the entry may both command at one position, so a second id gets ".2"."""
        self.numbered = [position, self.numbered[1] + 1 if self.numbered[0] == position else 1]
        again = f".{self.numbered[1]}" if self.numbered[1] > 1 else ""
        return f"{epoch}-{position}-{self.name}{again}"

    def request(self, wanted: Wanted, epoch: int, position: int, now_ns: int) -> Command:
        """A new command for what is wanted."""
        name = self.new_id(epoch, position)
        return Command(name, wanted.value, wanted.level, wanted.reason, wanted.winner, wanted.losers, asked_ns=now_ns)

    def note_sent(self, value: float, spec: ActuatorSpec, now_ns: int) -> None:
        """Remember what a first send begins: travel, and perhaps turning on or off."""
        if spec.kind == "pulse":
            return
        full = spec.high - spec.low
        way = full if self.position is None else abs(value - self.position)
        self.travel_end_ns = now_ns + (int(way / full * spec.travel_s * NS_PER_S) if full > 0 else 0)
        is_on = value > spec.low
        if self.is_on is None or is_on != self.is_on:
            self.switched_ns, self.is_on = now_ns, is_on
        self.position = value

    def note_measured(self, value: float, spec: ActuatorSpec, now_ns: int) -> None:
        """Follow what somebody does at the panel, so that we go on from there."""
        self.position = value
        is_on = value > spec.low + min(spec.tolerance, (spec.high - spec.low) / 2)
        if is_on != self.is_on:
            self.switched_ns, self.is_on = now_ns, is_on

    def forget(self) -> None:
        """Nothing is known of where it stands, and nothing waits."""
        self.position, self.is_failed, self.retry_ns = None, False, NEVER
        self.silent_since_ns = self.unmoved_since_ns = -1

    def level(self, asked: Wanted | Command) -> int:
        """At which level it is moved: that of who asks, or of the limit outside of which it was sent last."""
        return asked.level if self.wanted is None else min(asked.level, self.wanted.broken(self.position))

    def may_move_ns(self, value: float, level: int, spec: ActuatorSpec) -> int:
        """The earliest time at which a command to `value` may be sent. Turning on again too early breaks compressors, so only
        personnel safety passes the minimum times; levels 1-3 pass the travel."""
        if spec.kind == "pulse":
            return 0
        earliest = self.travel_end_ns if level > SURVIVAL else 0
        is_on = value > spec.low
        if self.is_on is not None and is_on != self.is_on and self.switched_ns >= 0 and level != PERSONNEL:
            rest_s = spec.min_on_s if self.is_on else spec.min_off_s
            earliest = max(earliest, self.switched_ns + int(rest_s * NS_PER_S))
        return earliest


def differs(spec: ActuatorSpec, value: float, position: float | None) -> bool:
    """True when a command is worth sending. The ends and rest are always reached exactly: a vent is not left open by a hair."""
    if position is None:
        return True
    if value in {spec.low, spec.high, spec.rest} or spec.kind == "switch":
        return value != position
    return abs(value - position) >= max(spec.min_step, 1e-9)


def save_drive(drive: Drive) -> dict[str, Any]:
    """Plain values, for a snapshot."""
    saved = asdict(drive)
    for name in ("wanted", "pulse"):
        value = getattr(drive, name)
        saved[name] = None if value is None else list(value)
    return saved


def load_drive(saved: dict[str, Any]) -> Drive:
    """Inverse of `save_drive`."""
    fields = dict(saved)
    for name in ("wanted", "pulse"):
        fields[name] = None if fields[name] is None else Wanted(*fields[name])
    fields["open"] = None if fields["open"] is None else Command(**fields["open"])
    fields["numbered"] = list(fields["numbered"])
    return Drive(**fields)
