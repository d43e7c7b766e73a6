"""Where actuators would have stood: each target goes through the limits of a command, and the position follows at the pace of its travel.

The limits are those of live commands (devices/drive.py): smallest step, the end of the last travel, minimum on and off times. Every
command counts as accepted at once: there is nobody to answer, to fail, or to be silent. Before its first command an actuator stands at
rest, and has for long enough.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from devices.drive import Drive, differs
from telemetry.decision import Decision
from telemetry.frame import Entries
from telemetry.plan import NS_PER_S, Plan
from telemetry.site import ActuatorSpec

DAY_NS: Final = 86_400 * NS_PER_S
LEVEL_OF_REST: Final = 8  # nobody asks
Array = NDArray[Any]
Told = dict[tuple[str, int], list[float]]  # (actuator, day) -> sums; see SUMS
SUMS: Final = ("samples", "told", "measured", "stood", "apart", "moves")  # apart: |where it would have stood - measured|


class Position:
    """One actuator. Times in ns; `moves` are the commands it would have been sent: time, position then, target."""

    def __init__(self, spec: ActuatorSpec) -> None:
        self._spec, self._drive = spec, Drive("", position=spec.rest, is_on=spec.rest > spec.low)
        self._wanted: tuple[float, int] | None = None  # waits for its time
        self._told_ns, self._told = [-1], [spec.rest]
        self.moves: list[tuple[int, float, float]] = [(-1, spec.rest, spec.rest)]

    def want(self, time_ns: int, value: float, level: int) -> None:
        """A target of arbitration. Times never decrease."""
        self.go_on(time_ns)
        self._told_ns.append(time_ns)
        self._told.append(value)
        self._wanted = (value, level) if differs(self._spec, value, self._drive.position) else None
        self.go_on(time_ns)

    def go_on(self, until_ns: int) -> None:
        """Send what may be sent by then, at the moment it may be."""
        if self._wanted is None:
            return
        value, level = self._wanted
        due_ns = max(self._drive.may_move_ns(value, level, self._spec), self._told_ns[-1])
        if due_ns <= until_ns:
            self.moves.append((due_ns, float(self.stood(np.array([due_ns]))[0]), value))
            self._drive.note_sent(value, self._spec, due_ns)
            self._wanted = None

    def told(self, times_ns: Array) -> Array:
        """The target of arbitration at times after the last `forget`."""
        return np.array(self._told)[np.searchsorted(np.array(self._told_ns), times_ns, side="right") - 1]

    def stood(self, times_ns: Array) -> Array:
        """The position at times after the last `forget`: a straight way from where a move found it, as long as the travel takes."""
        begun_ns, origin, target = (np.array(column) for column in zip(*self.moves, strict=True))
        k = np.searchsorted(begun_ns, times_ns, side="right") - 1
        way = target[k] - origin[k]
        if self._spec.travel_s <= 0 or self._spec.kind != "position":
            return np.asarray(target[k])
        reach = (times_ns - begun_ns[k]) / NS_PER_S * ((self._spec.high - self._spec.low) / self._spec.travel_s)
        return np.asarray(origin[k] + np.clip(way, -reach, reach))

    def forget(self) -> None:
        """Keep what holds now."""
        self._told_ns, self._told, self.moves = self._told_ns[-1:], self._told[-1:], self.moves[-1:]


class Feedback:
    """What actuators were told and where they would have stood, beside what their feedback points measured, by actuator and day (UTC)."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._of_point = np.full(len(plan.point_owner), -1, np.int32)
        self._names: list[str] = []
        self._positions: dict[
            str, Position | None
        ] = {}  # of actuators that were told something; None: gives doses, has no position

    def compare(self, entries: Entries, decisions: list[Decision]) -> Told:
        """These entries and what was decided on them, in order of time; both end where the next begin."""
        for decision in decisions:
            if decision.kind == "demand" and (position := self._position(decision.subject)) is not None:
                winner = decision.body["winner"]
                position.want(decision.time_ns, float(decision.body["value"]), LEVEL_OF_REST if winner is None else winner["level"])
        found: Told = {}
        if not self._positions or not len(entries):
            return found
        for name, position in self._positions.items():
            if position is not None:
                position.go_on(int(entries.time_ns[-1]))
                for time_ns, _, _ in position.moves[1:]:
                    found.setdefault((name, time_ns // DAY_NS), [0.0] * len(SUMS))[SUMS.index("moves")] += 1
        if len(entries.frames.point):
            self._sum(entries, found)
        for position in self._positions.values():
            if position is not None:
                position.forget()
        return found

    def _position(self, name: str) -> Position | None:
        if name not in self._positions:
            key, _, actuator = name.rpartition("/")
            device = self._plan.device(key)
            spec = None if device is None else device.actuator(actuator)
            self._positions[name] = None if spec is None or spec.kind == "pulse" else Position(spec)
            if device is not None and spec is not None and spec.kind != "pulse" and spec.feedback is not None:
                self._of_point[device.point(spec.feedback)] = len(self._names)
                self._names.append(name)
        return self._positions[name]

    def _sum(self, entries: Entries, found: Told) -> None:
        frames = entries.frames
        whose = self._of_point[frames.point]
        sample = np.flatnonzero((whose >= 0) & np.isfinite(frames.value))
        order = sample[np.argsort(whose[sample], kind="stable")]
        owner, value, ts_ns = whose[order], frames.value[order], frames.ts_ns[frames.frame_of_sample[order]]
        for k in np.unique(owner).tolist():
            lo, hi = np.searchsorted(owner, [k, k + 1])
            position = self._positions[self._names[k]]
            assert position is not None
            told, stood, measured = position.told(ts_ns[lo:hi]), position.stood(ts_ns[lo:hi]), value[lo:hi]
            days, inverse = np.unique(ts_ns[lo:hi] // DAY_NS, return_inverse=True)
            columns = (None, told, measured, stood, np.abs(stood - measured))
            sums = [np.bincount(inverse, weights, len(days)) for weights in columns]
            for g, day in enumerate(days.tolist()):
                into = found.setdefault((self._names[k], day), [0.0] * len(SUMS))
                for column, numbers in enumerate(sums):
                    into[column] += float(numbers[g])
