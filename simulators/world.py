"""All houses of a site in one weather, advanced together: plants, drives, instruments and what goes wrong with them.

Houses of one profile are one `Group` of arrays on a fixed grid of the kind's own step (at most 10 s), so that a house lives alike however
many others there are and however often anybody looks. A `Place` is one of them: what the device of that house sees of the world.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulators import fault as faults
from simulators.actuator import Actuator, Drives, Mode, actuators
from simulators.fault import Injection, PointFault, Wire
from simulators.houses import Houses
from simulators.sensor import LIBRARY, Sensors
from telemetry.site import Profile

Array = NDArray[np.float64]
GRID_S_MAX: Final = 10.0  # what is measured is at most so old, however long a kind's steps may be
DRAWN: Final = 32  # readings whose noise is drawn at once
CATCH_UP_S_MAX: Final = 86_400.0  # plant time made up for in one step; a longer pause is skipped
POWER: Final = "mains_lost"  # a kind's own fault of this name comes with the general one
RandomOf = Callable[[str], np.random.Generator]


DriveRows = tuple[NDArray[np.intp], NDArray[np.intp]]  # rows of points, numbers of drives


class Group:
    """The houses of one profile. `random` holds each house's generator of instruments and drives; `sun_w_m2` heats what it falls on."""

    def __init__(
        self,
        profile: Profile,
        houses: Houses,
        random: Sequence[np.random.Generator],
        *,
        start_s: float,
        sun_w_m2: Callable[[float], float] = lambda _s: 0.0,
    ) -> None:
        self.profile, self.houses, self._sun_w_m2 = profile, houses, sun_w_m2
        self.points = [spec for spec in profile.points if spec.is_measured]
        self.rows = {spec.name: row for row, spec in enumerate(self.points)}
        self.drives = Drives(profile.actuators, random, start_s)
        self.local = np.zeros(len(random), bool)  # whose device is without a service
        self._measured = [point for point in houses.SENSORS if point in self.rows]
        self.kinds = {point: LIBRARY[houses.SENSORS[point]] for point in self._measured}
        self.sensors = Sensors(list(self.kinds.values()), random)
        self._sensor_rows = np.array([self.rows[point] for point in self._measured], int)
        self._start_s, self._step_s, self._steps = start_s, min(houses.STEP_S, GRID_S_MAX), 0
        self._random = random
        self._noise = np.zeros((DRAWN, len(self._measured) + len(profile.actuators), len(random)))
        self._used = np.full(len(random), DRAWN)
        self._wrong: dict[int, list[PointFault]] = {}
        self._values = np.full((len(self.points), len(random)), np.nan)
        self._measured_s, self._taken, self._unseen_s = -math.inf, np.zeros(len(random), bool), 0.0
        self._feedback, self._targets, self._selectors = self._drive_rows()
        self.sensors.advance(self._truths(self.drives.fractions()), 0.0)

    def _drive_rows(self) -> tuple[DriveRows, DriveRows, DriveRows]:
        """Points of drives: feedback, what the panel shows as target, how its selector stands."""
        specs = list(enumerate(self.profile.actuators))
        named = (
            [(spec.feedback, number) for number, spec in specs],
            [(f"{spec.name}_target_pct", number) for number, spec in specs],
            [(spec.selector, number) for number, spec in specs],
        )
        feedback, targets, selectors = ([(self.rows[p], number) for p, number in pairs if p in self.rows] for pairs in named)
        return _columns(feedback), _columns(targets), _columns(selectors)

    def advance(self, to_s: float) -> None:
        """Whole steps up to `to_s`; drives stand where they are at `to_s`."""
        while self._start_s + (self._steps + 1) * self._step_s <= to_s:
            self._steps += 1
            now_s = self._start_s + self._steps * self._step_s
            self._panel_orders()
            self.drives.now_s = now_s
            positions = self.drives.fractions()
            self.houses.advance(now_s, self._step_s, positions)
            self._unseen_s += self._step_s
            if self._unseen_s >= GRID_S_MAX:
                self.sensors.advance(self._truths(positions), self._unseen_s)
                self._unseen_s = 0.0
        self.drives.now_s = max(self.drives.now_s, to_s)

    def _panel_orders(self) -> None:
        for name, targets in self.houses.interlock().items():
            self.drives.force(name, targets)
        if self.local.any():
            for name, targets in self.houses.local().items():
                self.drives.order(name, targets, where=self.local)

    def _truths(self, positions: Mapping[str, Array]) -> Array:
        if not self._measured:
            return np.zeros((0, len(self._random)))
        truth = self.houses.truth(positions)
        return np.array([truth[point] for point in self._measured])

    def read(self, house: Any = slice(None)) -> Array:
        """What the points say now: (points,) of one house, or (points, houses) of all; NaN = nothing."""
        if self._measured_s != self.drives.now_s or self._taken[house].any():
            self._measure()
        values = self._values[:, house].copy()
        self._taken[house] = True
        self._used[house] += 1
        for (rows, numbers), shown in ((self._targets, self.drives.target), (self._selectors, self.drives.mode)):
            values[rows] = shown[numbers, house]
        self._spoil(values, house)
        return values

    def _measure(self) -> None:
        """Readings of all houses, for those who ask now; who does not, has drawn nothing."""
        for number in np.flatnonzero(self._used == DRAWN).tolist():
            self._noise[:, :, number] = self._random[number].standard_normal(self._noise.shape[:2])
            self._used[number] = 0
        noise, split = self._noise[self._used, :, np.arange(len(self._random))].T, len(self._measured)
        self._values[self._sensor_rows] = self.sensors.read(noise[:split])
        for point, value in self.houses.panel(self.drives.fractions()).items():
            if point in self.rows:
                self._values[self.rows[point]] = value
        rows, numbers = self._feedback
        self._values[rows] = self.drives.measured(noise[split:])[numbers]
        self._measured_s, self._taken[:] = self.drives.now_s, False

    def changed(self) -> None:
        """Something was done to a plant: readings of this moment hold no longer."""
        self._measured_s = -math.inf

    def _spoil(self, values: Array, house: Any) -> None:
        wrong = self._wrong if values.ndim > 1 else {house: self._wrong[house]} if house in self._wrong else {}
        for number, of_house in wrong.items():
            said = values[:, number] if values.ndim > 1 else values
            for fault in of_house:
                fault.apply(said, self.drives.now_s, self._sun_w_m2)

    def begin(self, house: int, injection: Injection, strength: float, random: np.random.Generator) -> None:
        """Begin a fault of a point."""
        kind, spec = self.kinds.get(injection.part), self.points[self.rows[injection.part]]
        if injection.fault == "slow":
            if kind is not None:
                self.sensors.slow_down(self._measured.index(injection.part), house, max(1.0, strength))
            return
        fault = PointFault(
            injection.fault, self.rows[injection.part], strength, self.drives.now_s, random,
            other=self.rows[faults.partner(injection.part, self.profile)],
            # A deadband is about two sigmas of what its sensor's noise is.
            sigma=spec.deadband / 2 if kind is None else max(kind.sigma, spec.deadband / 2),
            scale=(kind.low, kind.high) if kind is not None and math.isfinite(kind.high) else (spec.low, spec.high),
            mixed=faults.MIXED_UP.get(spec.unit, (1.0, 0.0)),
        )  # fmt: skip
        self._wrong.setdefault(house, []).append(fault)

    def end(self, house: int, name: str, point: str) -> None:
        """End a fault of a point."""
        if name == "slow" and point in self.kinds:
            self.sensors.slow_down(self._measured.index(point), house, 1.0)
        kept = [fault for fault in self._wrong.get(house, []) if (fault.name, fault.row) != (name, self.rows[point])]
        self._wrong.pop(house, None)
        if kept:
            self._wrong[house] = kept


def _columns(pairs: list[tuple[int, int]]) -> DriveRows:
    rows, numbers = np.array(pairs, np.intp).reshape(len(pairs), 2).T
    return rows, numbers


class Due(NamedTuple):
    """A fault that begins or ends."""

    at_s: float
    number: int
    is_end: bool
    injection: Injection


class World:
    """Groups on one clock. `speed`: plants run so many times faster than the wall; the first look at the clock is `start_s`."""

    def __init__(self, *, start_s: float, speed: float = 1.0) -> None:
        assert speed > 0
        self.places: dict[str, Place] = {}
        self.groups: list[Group] = []
        self.now_s = start_s
        self._speed, self._start_s = speed, start_s
        self._start_ns: int | None = None
        self._schedule: list[Due] = []
        self._numbers = 0
        self._standing: dict[tuple[str, str, str], int] = {}

    def add(self, group: Group, names: Sequence[str], random_of: RandomOf) -> None:
        """Houses of one profile, by the names of their devices; `random_of` a name gives the generator of its faults."""
        self.groups.append(group)
        for house, name in enumerate(names):
            self.places[name] = Place(self, group, house, name, random_of(name))

    def advance(self, now_ns: int) -> None:
        """Everything up to `now_ns` (monotonic, ns); who comes with an older time changes nothing."""
        if self._start_ns is None:
            self._start_ns = now_ns
        to_s = self._start_s + (now_ns - self._start_ns) * 1e-9 * self._speed
        skipped_s = to_s - self.now_s - CATCH_UP_S_MAX
        if skipped_s > 0:
            self._start_s -= skipped_s
            to_s -= skipped_s
        self.advance_to(to_s)

    def advance_to(self, to_s: float) -> None:
        """The same in plant time."""
        while self._schedule and self._schedule[0].at_s <= to_s:
            due = heapq.heappop(self._schedule)
            self._go(max(self.now_s, due.at_s))
            self._apply(due)
        self._go(to_s)

    def _go(self, to_s: float) -> None:
        if to_s > self.now_s:
            self.now_s = to_s
            for group in self.groups:
                group.advance(to_s)

    # -- faults ----------------------------------------------------------------------------------------------------------------

    def plan(self, injections: Sequence[Injection]) -> None:
        """Faults that will come, each known to be right (`Place.problem`)."""
        for injection in injections:
            assert not self.places[injection.device].problem(injection), self.places[injection.device].problem(injection)
            self._numbers += 1
            heapq.heappush(self._schedule, Due(injection.at_s, self._numbers, False, injection))

    def _apply(self, due: Due) -> None:
        injection = due.injection
        key, place = (injection.device, injection.fault, injection.part), self.places[injection.device]
        if due.is_end and self._standing.get(key) != due.number:
            return  # another one took its place
        place.changed()
        if self._standing.pop(key, None) is not None:
            place.end(injection)
        if due.is_end or injection.strength == 0:
            return
        place.begin(injection)
        self._standing[key] = due.number
        if math.isfinite(injection.for_s):
            heapq.heappush(self._schedule, Due(self.now_s + injection.for_s, due.number, True, injection))


class Place:
    """One house of a world, as its device sees it. `random` is that of its faults."""

    def __init__(self, world: World, group: Group, house: int, name: str, random: np.random.Generator) -> None:
        self.name, self.profile, self.points = name, group.profile, group.points
        self.actuators: Mapping[str, Actuator] = actuators(group.drives, house)
        self.wire = Wire(random)
        self.is_powered = True
        self._world, self._group, self._house, self._random = world, group, house, random

    @property
    def group(self) -> Group:
        """The houses of its profile."""
        return self._group

    @property
    def houses(self) -> Houses:
        """The plant that this is one house of."""
        return self._group.houses

    def advance(self, now_ns: int) -> None:
        """Let the world live until now."""
        self._world.advance(now_ns)

    def read(self) -> Array:
        """What its points say now (points,); NaN = nothing."""
        return self._group.read(self._house)

    def set_local(self, *, is_local: bool) -> None:
        """Whether its thermostats rule."""
        self._group.local[self._house] = is_local

    def problem(self, injection: Injection) -> str:
        """What is wrong with a fault here; "" = nothing."""
        return faults.problem(injection, self.profile, self.houses.FAULTS)

    def fail(self, injection: Injection) -> str:
        """Begin a fault now, or end it (strength 0). What is wrong with it, or ""."""
        wrong = self.problem(injection)
        if not wrong:
            self._world.plan([injection._replace(device=self.name, at_s=self._world.now_s)])
            self._world.advance_to(self._world.now_s)
        return wrong

    def changed(self) -> None:
        """What was read of this moment holds no longer."""
        self._group.changed()

    def begin(self, injection: Injection) -> None:
        """Begin a fault that is right."""
        name, part = injection.fault, injection.part
        strength = faults.strength_of(injection, self.profile, self.houses.FAULTS)
        if name in self.houses.FAULTS:
            self.houses.fail(self._house, name, strength)
        elif faults.GENERAL[name].on == "point":
            self._group.begin(self._house, injection, strength, self._random)
        elif faults.GENERAL[name].on == "drive":
            self._fail_drive(injection, strength, is_begin=True)
        else:
            self._fail_device(name, part, strength)

    def end(self, injection: Injection) -> None:
        """End a fault that stands."""
        name, part = injection.fault, injection.part
        if name in self.houses.FAULTS:
            self.houses.fail(self._house, name, 0.0)
        elif faults.GENERAL[name].on == "point":
            self._group.end(self._house, name, part)
        elif faults.GENERAL[name].on == "drive":
            self._fail_drive(injection, 0.0, is_begin=False)
        else:
            self._fail_device(name, part, 0.0)

    def _fail_drive(self, injection: Injection, strength: float, *, is_begin: bool) -> None:
        actuator, name = self.actuators[injection.part], injection.fault
        if name == "feedback_frozen":
            of_point = injection._replace(part=str(actuator.spec.feedback))
            if is_begin:
                self._group.begin(self._house, of_point, strength, self._random)
            else:
                self._group.end(self._house, name, of_point.part)
        elif name in ("panel_local", "panel_off"):
            mode: Mode = ("LOCAL" if name == "panel_local" else "OFF") if is_begin else "AUTO"
            for one in self.actuators.values():
                if one is actuator or (one.spec.selector is not None and one.spec.selector == actuator.spec.selector):
                    one.mode = mode
        elif name == "drive_stuck":
            actuator.stuck = is_begin
        else:
            actuator.flag("tripped" if name == "overload" else "welded", is_begin)

    def _fail_device(self, name: str, part: str, strength: float) -> None:
        wire = self.wire
        if name == "late":
            wire.late_s = strength
        elif name == "duplicate":
            wire.duplicate = strength
        elif name == "clock_skew":
            wire.skew_s = strength
        elif name == "command_lost":
            wire.lost[part] = strength
        elif name == "broker_restart":
            wire.is_cut = strength > 0
        elif name == "burst":
            wire.is_kept = strength > 0
        else:
            self._set_power(is_on=strength <= 0)

    def _set_power(self, *, is_on: bool) -> None:
        self.is_powered = is_on
        self._group.drives.powered[:, self._house] = is_on
        self._group.drives.aim(np.s_[:, self._house])
        if POWER in self.houses.FAULTS:
            self.houses.fail(self._house, POWER, 0.0 if is_on else 1.0)
