"""What the stages of `step` share: a run of entries between two configuration changes, and what each stage adds to it.

Stage order: admit and ledger, derive, rules, alarms, control, arbitration, commands. A stage reads what earlier stages wrote
and nothing else; what a command did is seen through ACK and measured points of later entries.

The oracle of every stage is the loop "for each entry in journal order: fire the timers due before it (due <= its time) in order
of due time, stamped with the due time; then apply the entry whole". A timer set by entry i with a due time that has already passed
fires before entry i + 1. A run may be cut anywhere between entries without changing any decision.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from telemetry.decision import Decision
from telemetry.frame import NONE_DERIVED, Admission, Derived, Entries
from telemetry.plan import Plan

TIMER, ENTRY = 0, 1  # phases of one entry, in order
Read = dict[str, float | None]  # what a condition read, by its text; None was not known
UNREAD: Final[Read] = {}


class DemandChange(NamedTuple):
    """A rule, controller or person begins, changes or withdraws (value None) a demand on an actuator."""

    entry: int  # index into the span's entries
    phase: int  # TIMER or ENTRY
    time_ns: int
    source: str  # "rule@site/device" or "request:<id>"
    actuator: str  # "site/device/actuator"
    bound: str  # at_least, at_most, value
    level: int  # 1..7, telemetry.site.LEVELS
    value: float | None
    reason: str
    since_ns: int = 0  # when the condition behind it began to hold; 0: there is none
    read: Read = UNREAD


class CommandOut(NamedTuple):
    """What the outbox publishes after the commit, and nothing else."""

    device: str  # "site/device"
    actuator: str
    id: str
    epoch: int
    value: float
    expires_s: float
    reason: str


@dataclass(slots=True)
class Span:
    """One run of entries on its way through the stages."""

    entries: Entries
    plan: Plan
    admission: Admission | None = None
    blind: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))  # (k,) per entry; the same for all of a span
    blind_from_ns: int = -1  # since when, while blind
    sight_ns: int = 0  # when the last blind time ended
    areas: Mapping[str, Any] = field(default_factory=dict)  # rules.area.AreaState by "site/area", before this span's last entry
    area_changes: list[tuple[int, str, Any]] = field(default_factory=list)  # (entry, "site/area", AreaState after it)
    transitions: Any = None  # rules.condition.Changes
    derived: Derived = NONE_DERIVED  # what virtual points say
    demands: list[DemandChange] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)  # rules.arbitration.TargetChange
    decisions: list[Decision] = field(default_factory=list)
    commands: list[CommandOut] = field(default_factory=list)

    def decide(self, *, entry: int, phase: int, time_ns: int, stage: int, kind: str, subject: str, body: dict[str, Any]) -> None:
        """Add a decision made at an entry of this span."""
        self.decisions.append(Decision(self.entries.first + entry, phase, time_ns, stage, kind, subject, body))


class Stage(Protocol):
    """One stage of `step`: pure, deterministic, with state that survives by snapshot."""

    rank: int

    def configure(self, plan: Plan) -> None:
        """Take a changed configuration; state of what did not change is kept."""
        ...

    def run(self, span: Span) -> None:
        """Read the span, write results into it, move own state."""
        ...

    def snapshot(self) -> dict[str, Any]:
        """State by names, never by array index: str, int, float, bool, None, list, dict and numpy arrays.

        Arrays may be the stage's own: they hold until its next `run`."""
        ...

    def restore(self, saved: dict[str, Any]) -> None:
        """Take state from `snapshot`; called after `configure`."""
        ...
