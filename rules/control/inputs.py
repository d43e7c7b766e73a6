"""What a controller is told: newest samples of points, set points, the clock, mode and batch of areas, for all its units at once."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rules.clock import CLOCKS, OF_AREA, clock_values
from rules.control.controller import unknown
from telemetry import sun
from telemetry.plan import NS_PER_S, Device, Plan
from telemetry.site import MODES, PlantClock, SiteConfig

Array = NDArray[Any]
HELD_HEARTBEATS: Final = 3
BACK_SAMPLES: Final = 3  # good ones in a row, before what fell silent acts again
NEVER_NS: Final = np.iinfo(np.int64).min // 2


class Latest(NamedTuple):
    """Newest usable sample of every point that a controller reads."""

    place: Array  # (points,) int32 where a point stands in the others; -1: nobody reads it
    point: Array  # (k,)
    value: Array  # (k,)
    ns: Array  # (k,)
    good: Array  # (k,) samples since it came back from silence, at most BACK_SAMPLES
    held_ns: Array  # (k,) int64 how long one acts; longer without any is silence

    @staticmethod
    def of(points: Array, count: int) -> "Latest":
        """Nothing known yet of `points`; numbers are below `count`."""
        point = np.unique(points[points >= 0])
        place = np.full(count + 1, -1, np.int32)  # the last is that of no point
        place[point] = np.arange(len(point), dtype=np.int32)
        n = len(point)
        good, held_ns = np.full(n, BACK_SAMPLES, np.int8), np.zeros(n, np.int64)
        return Latest(place, point, unknown(n), np.full(n, NEVER_NS), good, held_ns)

    def hear(self, at: Array, value: Array, ns: Array) -> None:
        """Samples at places, in the order in which they came: of one point the last one stays."""
        since = ns - self.ns[at]
        if not ((since >= 0) & (since <= self.held_ns[at]) & (self.good[at] == BACK_SAMPLES)).all():
            self._count(at, ns)
        self.value[at], self.ns[at] = value, ns

    def _count(self, at: Array, ns: Array) -> None:
        order = np.argsort(at, kind="stable")
        at, ns, row = at[order], ns[order], np.arange(len(at))
        is_first = np.append(True, at[1:] != at[:-1])
        before = np.where(is_first, self.ns[at], np.append(NEVER_NS, ns[:-1]))
        returns = (before != NEVER_NS) & (ns - before > self.held_ns[at])
        begin = np.maximum.accumulate(np.where(is_first | returns, row, 0))
        self.good[at] = np.minimum(np.where(returns[begin], 0, self.good[at]) + row - begin + 1, BACK_SAMPLES)


class Curves(NamedTuple):
    """One set point of n units: plain values (n,), and curves with the units that follow them."""

    plain: Array
    curves: list[tuple[Array, bool, Array, Array]]  # units, by day of the batch (else by hour), knots, values

    def at(self, hour: float, day: Array) -> Array:
        """Values (n,) at an hour of the day and days (n,) of the batch."""
        if not self.curves:
            return self.plain
        out = self.plain.copy()
        for units, is_by_day, knots, values in self.curves:
            out[units] = np.interp(day[units], knots, values) if is_by_day else np.interp(hour, knots, values)
        return out


class Moments(NamedTuple):
    """Times at which a controller runs, and what the clock says then."""

    due_ns: Array  # (k,) int64, engine time
    now_ns: Array  # (k,) int64, the same by the clock of the plants
    local_s: Array  # (k,) of the site's own clock
    hour: Array  # (k,) of the plants' day
    clock: Array  # (k, clocks)


class Inputs:
    """The inputs of units (n,) of one site by the names that a controller reads."""

    def __init__(
        self,
        plan: Plan,
        site: str,
        devices: Sequence[Device],
        names: Sequence[str],
        clock: PlantClock | None = None,
        held: int = HELD_HEARTBEATS,
        back: int = BACK_SAMPLES,
    ) -> None:
        self._plan, self._site, self._devices, self._names, self._clock = plan, site, devices, names, clock
        config = plan.sites[site]
        found = {name: points for name in names if (points := _points(plan, config, devices, name)) is not None}
        n, self._back = len(devices), back
        self._measured = list(found)
        self.points = np.array([points for points, _ in found.values()], np.int64).reshape(len(found), n)
        self._held_ns = held * np.array([beats for _, beats in found.values()], np.int64).reshape(len(found), n)
        self._place = np.full((len(found), n), -1)
        self._is_placed = self._place >= 0
        self._setpoints = {name: _curves(config, devices, name) for name in names if name.startswith("set.")}
        self._clocks = [name for name in names if name in CLOCKS and name not in OF_AREA]
        self.clock_key = (site, tuple(self._clocks), clock)  # of the clock: who asks the same is told the same at the same times
        self._areas: Mapping[str, Any] | None = None
        self._mode, self._batch_s = np.zeros(n), unknown(n)

    def place(self, latest: Latest) -> None:
        """Find the points among the newest samples."""
        self._place = latest.place[self.points]
        self._is_placed = self._place >= 0
        latest.held_ns[self._place[self._is_placed]] = self._held_ns[self._is_placed]

    def moments(self, due_ns: Array) -> Moments:
        """What the clock says at times (k,)."""
        cells, config, clock = [(self._site, "", name) for name in self._clocks], self._plan.sites[self._site], self._clock
        now_ns = due_ns
        if clock is not None:
            now_ns = int(clock.plant_s) * NS_PER_S + ((due_ns - int(clock.wall_s * NS_PER_S)) * clock.speed).astype(np.int64)
        local_s = due_ns / NS_PER_S + config.offset_s(due_ns)
        hour = (now_ns / NS_PER_S + config.offset_s(now_ns)) % sun.DAY_S / 3600.0
        return Moments(due_ns, now_ns, local_s, hour, clock_values(self._plan, {}, cells, now_ns))

    def take_areas(self, areas: Mapping[str, Any]) -> None:
        """Modes and batches, when they changed."""
        if areas is self._areas:
            return
        self._areas, config = areas, self._plan.sites[self._site]
        states = [areas.get(f"{self._site}/{device.area}") for device in self._devices]
        self._mode = np.array([0.0 if state is None else float(MODES.index(state.mode)) for state in states])
        begins = [None if state is None else state.batch_ns for state in states]
        known = np.array([0 if begin is None else begin for begin in begins], np.int64)
        local_s = known / NS_PER_S + config.offset_s(known)
        self._batch_s = np.where([begin is None for begin in begins], np.nan, local_s)

    def at(self, moments: Moments, k: int, latest: Latest) -> dict[str, Array]:
        """What is known at the k-th of some moments; (n,) by name."""
        n, due_ns, local_s = len(self._devices), int(moments.due_ns[k]), float(moments.local_s[k])
        values = np.full(self._place.shape, np.nan)
        if len(latest.ns):
            fresh = self._is_placed & (due_ns - latest.ns[self._place] <= self._held_ns) & (latest.good[self._place] >= self._back)
            values = np.where(fresh, latest.value[self._place], np.nan)
        known = dict(zip(self._measured, values, strict=True))
        known |= {name: np.full(n, value) for name, value in zip(self._clocks, moments.clock[k], strict=True)}
        day = (local_s - self._batch_s) / sun.DAY_S
        known |= {name: curves.at(float(moments.hour[k]), day) for name, curves in self._setpoints.items()}
        known |= {"mode": self._mode, "day_of_batch": np.floor(day)}
        return {name: known[name] for name in self._names}


def _points(plan: Plan, config: SiteConfig, devices: Sequence[Device], name: str) -> tuple[Array, Array] | None:
    """(point numbers (n,), their heartbeats (n,) ns) of an input; -1 where a unit has none, None for what is no point."""
    if name.startswith("set.") or name in CLOCKS:
        return None
    link, _, point = name.rpartition(".")
    numbers, beats = np.full(len(devices), -1, np.int64), np.zeros(len(devices), np.int64)
    links = {area.name: area.links for area in config.areas}
    for row, device in enumerate(devices):
        source: Device | None = device
        if link:
            target = device.parent if link == "parent" else links[device.area].get(link, "")
            source = plan.device(target if "/" in target else f"{device.site}/{target}") if target else None
        number = None if source is None or source.origin != device.origin else source.point(point)
        if source is not None and number is not None:
            numbers[row] = number
            beats[row] = int(next(spec.beat_s for spec in source.profile.points if spec.name == point) * NS_PER_S)
    return numbers, beats


def _curves(config: SiteConfig, devices: Sequence[Device], name: str) -> Curves:
    areas = {area.name: area.setpoints.get(name.removeprefix("set.")) for area in config.areas}
    plain, shared = unknown(len(devices)), dict[tuple[Any, ...], list[int]]()
    for row, device in enumerate(devices):
        spec = areas[device.area]
        if spec is not None and spec.value is not None:
            plain[row] = spec.value
        elif spec is not None:
            shared.setdefault((spec.by_day is not None, *(spec.by_day or spec.by_hour or [])), []).append(row)
    curves = []
    for (is_by_day, *knots), rows in shared.items():
        xy = np.array(knots)
        curves.append((np.array(rows), bool(is_by_day), xy[:, 0], xy[:, 1]))
    return Curves(plain, curves)
