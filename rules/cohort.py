"""What the binder makes: cohorts with their columns, rules on them, and the rulebook that holds all of it.

A *cohort* is all active devices of one profile of a site; each has a *seat*. A cohort's *columns* are its points, what it imports
from other seats (linked devices, the area's clock, peers), and virtual columns: windows, silences, groups, parts of expressions. An
*instance* is one rule on one seat.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rules import loop, members, panes
from rules.tree import Node, Number
from telemetry.plan import Device
from telemetry.site import ActuatorSpec, PointSpec, Profile, RuleSpec

Array = NDArray[Any]
STALE_HEARTBEATS: Final = 3  # an older value is not known
SHADOW: Final = "~shadow"  # ends the key of a shadow rule
Code = list[tuple[int, int]]


def key_of(site: str, spec: RuleSpec) -> str:
    """ "site/RULE@version", with what it is besides: a shadow may have the version of the rule that it runs beside."""
    return f"{site}/{spec.id}@{spec.version}{SHADOW if spec.shadow else ''}"


@dataclass(slots=True)
class Virtual:
    """A virtual column of a cohort. `key` names it in snapshots."""

    key: str
    kind: int
    column: int
    follows: int = -1
    level: int = 1
    code: Code = field(default_factory=list)
    length_ns: int = 0
    live_only: bool = False
    fn: int = 0
    pane_ns: int = 0
    parameters: tuple[float, ...] = ()
    sources: list[list[tuple["Cohort", int, int]]] = field(default_factory=list)  # by seat: (cohort, column, local)
    point: PointSpec | None = None  # the virtual point whose column it is
    members: int = 0  # of what it looks at

    @property
    def shape(self) -> tuple[int, int, int]:
        """How what it remembers lies: see panes.Block; all 0 of what has no memory."""
        if self.kind == loop.MEMBERWISE:
            return members.words(self.fn, self.members), 0, 0
        return panes.shape(self.fn) if self.kind == loop.PANES else (0, 0, 0)

    @property
    def words(self) -> int:
        """Length of what it remembers of one seat, in words of 8 bytes; 0 of what has no memory."""
        if self.kind == loop.MEMBERWISE:
            return members.words(self.fn, self.members)
        return panes.words(self.fn) if self.kind == loop.PANES else 0


@dataclass(slots=True)
class Cohort:
    """Devices of one profile of a site, or (profile None) the areas of a site, whose columns the clock fills."""

    site: str
    profile: Profile | None
    devices: list[Device]  # by number
    areas: list[str]  # of each seat
    number: Array  # (width,) of the device, ascending; -1 for areas
    points: Array  # (width, points)
    columns: dict[str, int] = field(default_factory=dict)
    virtual: list[Virtual] = field(default_factory=list)
    imports: list[tuple[int, list[tuple["Cohort", int, int]]]] = field(default_factory=list)  # column, source by seat
    levels: list[int] = field(default_factory=list)  # by column
    place: dict[int, int] = field(default_factory=dict)  # device number -> local
    members: dict[int, int] = field(default_factory=dict)  # column -> how many, of columns with members
    first_column: int = 0
    first_cell: int = 0
    first_seat: int = 0

    @property
    def name(self) -> str:
        """Names it in snapshots."""
        return f"{self.site}/{self.profile.name if self.profile is not None else ''}"

    @property
    def width(self) -> int:
        """Number of seats."""
        return len(self.areas)

    def cell(self, column: int, local: Any) -> Any:
        """Where the value of a column of a seat, or of several, lies."""
        return self.first_cell + local * len(self.columns) + column

    def seat_keys(self) -> Array:
        """What names each seat in a snapshot, ascending: the device's number, or the area's place. (width,) int64."""
        return self.number.astype(np.int64) if self.profile is not None else np.arange(self.width)

    def blocks(self) -> list[list[Virtual]]:
        """Virtual columns that remember something, those together whose memory shares a block: see panes.Block."""
        found: dict[Any, list[Virtual]] = {}
        for made in self.virtual:
            if made.words:
                found.setdefault((made.shape, made.pane_ns) if made.kind == loop.PANES else made.key, []).append(made)
        return list(found.values())

    def add(self, key: str, level: int) -> int:
        """A new column."""
        number = self.columns[key] = len(self.columns)
        self.levels.append(level)
        return number


def blocks(cohorts: list[Cohort]) -> Iterator[tuple[Cohort, list[Virtual], slice]]:
    """The blocks of all cohorts, and where among all words each lies."""
    begin = 0
    for cohort in cohorts:
        for columns in cohort.blocks():
            end = begin + panes.block_words(cohort.width * len(columns), columns[0].shape)
            yield cohort, columns, slice(begin, end)
            begin = end


@dataclass(slots=True)
class Rule:
    """One rule version on a cohort."""

    site: str
    spec: RuleSpec
    cohort: Cohort
    mask: Array | None  # (width,) bool; None = all
    when: Node = field(default_factory=lambda: Number(0.0))
    clear: Node | None = None
    value: Node | None = None
    actuator: ActuatorSpec | None = None
    reads: tuple[str, ...] = ()  # texts of what `when` reads: the names of the evidence
    codes: tuple[Code, ...] = ()  # of when, clear, value
    start: int = 0
    number: int = 0
    moving: Array | None = None  # (width,) bool; None = all
    suppresses: "Rule | None" = None  # the rule whose alarm this condition suppresses
    inherits: str | None = None  # key of the version before, whose conditions and alarms went over to this one

    @property
    def key(self) -> str:
        """`key_of` its specification; a condition that only suppresses says so."""
        return key_of(self.site, self.spec) + ("" if self.suppresses is None else "~suppress")

    def covers(self, device: int) -> bool:
        """Whether a device (number) is in its scope."""
        place = self.cohort.place.get(device)
        return place is not None and (self.mask is None or bool(self.mask[place]))

    def moves(self, device: Device) -> bool:
        """Whether its demand may reach the actuator: every input comes from a site of the same origin as the device's own."""
        return self.moving is None or bool(self.moving[self.cohort.place[device.number]])


class Fault(NamedTuple):
    """Why a rule or a virtual point could not be bound: its key ("site/PROFILE/point@point"), the field of its specification (`when`,
    `demand.value`, `expression`), the mistake and its fix."""

    key: str
    field: str
    message: str

    @property
    def point(self) -> tuple[str, str] | None:
        """Profile and name of the virtual point; None of a rule's fault."""
        if not self.key.endswith("@point"):
            return None
        _, profile, name = self.key.removesuffix("@point").split("/")
        return profile, name


@dataclass(slots=True)
class Rulebook:
    """All enabled rules of a plan, and the faults of those that could not be bound."""

    cohorts: list[Cohort]
    rules: list[Rule]
    arrays: loop.Book
    cells: int
    instances: int
    words: int  # of 8 bytes, of the states of functions over time
    members: int  # of all columns that have members
    device_of_seat: Array  # (seats,) int32 device number, -1 for areas
    room: tuple[int, int]  # columns touched and conditions judged by one moment at most
    faults: list[Fault]
    clock: list[tuple[str, str, str]]  # (site, area, name) of each cell that the clock fills
