"""The compiled configuration: sites, devices and points as numbers, kept across configuration changes.

A number is given once, in the order of first appearance, and never reused: a device or point that leaves the configuration
keeps its number and becomes inactive. Names are "site/device" and "site/device/point".
"""

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, overload

import numpy as np
from numpy.typing import NDArray

from telemetry.site import ActuatorSpec, DeviceSpec, Origin, PointSpec, Profile, SiteConfig, parse_site

NS_PER_S: Final = 1_000_000_000


@dataclass(slots=True)
class Device:
    """One device. `points[i]` is the number of profile.points[i]. Only a plan changes it, and nothing but the rules of its profile."""

    number: int
    site: str
    name: str
    area: str
    profile: Profile
    origin: Origin
    points: Sequence[int]
    parent: str = ""  # the device it is a part of; "" = of none
    tags: tuple[str, ...] = ()  # its own and its area's

    @property
    def key(self) -> str:
        """ "site/device", the name used in decisions."""
        return f"{self.site}/{self.name}"

    def point(self, name: str) -> int | None:
        """Number of a point by its name; None when the profile has none."""
        for spec, number in zip(self.profile.points, self.points, strict=True):
            if spec.name == name:
                return number
        return None

    def actuator(self, name: str) -> ActuatorSpec | None:
        """The actuator's specification; None when the profile has none."""
        return next((a for a in self.profile.actuators if a.name == name), None)


@dataclass(slots=True)
class Group:
    """Devices of one site and profile, all active or none, in order of their numbers, as columns. place: row by device number.

    Kept while no device comes, goes or moves: only `profile` is another after a change of rules.
    """

    site: str
    profile: Profile
    is_active: bool
    devices: list[Device]
    number: NDArray[np.int32]  # (n,)
    points: NDArray[np.int32]  # (n, points of the profile)
    areas: list[str]
    place: dict[int, int]


@dataclass(frozen=True, slots=True)
class PointColumns:
    """Limits of every point by number, for the vectorised checks. NaN = no limit; times in ns, 0 = off. shape (points,)."""

    device: NDArray[np.int32]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    rate_per_s: NDArray[np.float64]
    stuck_ns: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """Corrections of points: row (points,) int32 into the others, -1 = none; gain, offset (rows,) float64; expires_ns (rows,) int64."""

    row: NDArray[np.int32]
    gain: NDArray[np.float64]
    offset: NDArray[np.float64]
    expires_ns: NDArray[np.int64]


class PointOwners(Sequence[tuple[int, str]]):
    """(device number, point name) by point number, in two columns: 100,000 tuples would take 9 MB, names are shared by profile."""

    def __init__(self, owners: Iterable[tuple[int, str]] = ()) -> None:
        self._devices, self._names = array("i"), list[str]()
        for owner in owners:
            self.append(owner)

    def append(self, owner: tuple[int, str]) -> None:
        """Give the next number."""
        self._devices.append(owner[0])
        self._names.append(sys.intern(owner[1]))

    def device_numbers(self) -> NDArray[np.int32]:
        """(points,) number of each point's device; a copy."""
        return np.array(self._devices, np.int32)

    def columns(self) -> list[Any]:
        """Device numbers, names: what a snapshot keeps; `PointOwners(zip(*columns))` gives it back."""
        return [self._devices.tolist(), list(self._names)]

    @overload
    def __getitem__(self, index: int) -> tuple[int, str]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, str]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, str] | list[tuple[int, str]]:
        if isinstance(index, slice):
            return list(zip(self._devices[index], self._names[index], strict=True))
        return self._devices[index], self._names[index]

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return zip(self._devices, self._names, strict=True)


@dataclass(slots=True)
class Plan:
    """All sites of this core."""

    sites: dict[str, SiteConfig] = field(default_factory=dict)
    devices: list[Device] = field(default_factory=list)  # by number; inactive ones stay
    device_number: dict[str, int] = field(default_factory=dict)
    active: set[int] = field(default_factory=set)
    point_owner: PointOwners = field(default_factory=PointOwners)  # by number: (device number, point name)
    _columns: PointColumns | None = None
    _calibrations: CalibrationTable | None = None
    _groups: list[Group] | None = None
    _texts: dict[str, str] = field(default_factory=dict)  # of `sites`: 10,000 devices are not written anew for each snapshot

    def apply(self, config: SiteConfig, text: str = "") -> None:
        """Replace the site's configuration. Known devices and points keep their numbers. text: what it was read from."""
        old = self.sites.get(config.site)
        self._texts[config.site] = text
        if old is not None and _differs_in_rules_only(old, config):
            self._replace_rules(config)
            return
        previous = [d.number for d in self.devices if d.site == config.site]
        self.active.difference_update(previous)
        self.sites[config.site] = config
        self._columns = self._groups = None
        changed = list(self._changed(config))
        known = self._known_points({number for number, *_ in changed if number is not None})
        for number, name, spec, tags in changed:
            self._place(config, name, spec, tags, known.get(-1 if number is None else number, {}))
        self._calibrations = self._compute_calibrations()

    def _replace_rules(self, config: SiteConfig) -> None:
        """The common change, in a moment also for 10,000 devices: no number and no limit moves."""
        self.sites[config.site] = config
        for number in self.active:
            device = self.devices[number]
            if device.site == config.site:
                device.profile = config.profiles[device.profile.name]
        for group in self._groups or ():
            if group.is_active and group.site == config.site:
                group.profile = config.profiles[group.profile.name]

    def _changed(self, config: SiteConfig) -> Iterator[tuple[int | None, str, DeviceSpec, tuple[str, ...]]]:
        """Number, name, line and tags of devices that are new or not what they were; the others are active again, with the new rules."""
        site, origin, numbers, devices, active = config.site, config.origin, self.device_number, self.devices, self.active
        area_tags = {area.name: area.tags for area in config.areas}
        profiles = {name: (profile, [p.name for p in profile.points]) for name, profile in config.profiles.items()}
        fits = dict[tuple[int, int], bool]()
        for spec in config.devices:
            area, parent, (profile, points) = spec.area, spec.parent or "", profiles[spec.profile]
            tags = (*spec.tags, *area_tags[area])
            for name in (spec.name,) if spec.count is None else spec.names():
                number = numbers.get(f"{site}/{name}")
                if number is None:
                    yield None, name, spec, tags
                    continue
                device = devices[number]
                pair = (id(device.profile), id(profile))
                if pair not in fits:
                    fits[pair] = [p.name for p in device.profile.points] == points
                is_same = device.area == area and device.parent == parent and device.tags == tags and device.origin == origin
                if is_same and fits[pair]:
                    device.profile = profile
                    active.add(number)
                else:
                    yield number, name, spec, tags

    def _known_points(self, devices: set[int]) -> dict[int, dict[str, int]]:
        """Every point ever numbered of these devices, by name."""
        known: dict[int, dict[str, int]] = {}
        if devices:
            owners = self.point_owner.device_numbers()
            for number in np.flatnonzero(np.isin(owners, np.fromiter(devices, np.int32, len(devices)))).tolist():
                owner, name = self.point_owner[number]
                known.setdefault(owner, {})[name] = number
        return known

    def _place(self, config: SiteConfig, name: str, spec: DeviceSpec, tags: tuple[str, ...], known: dict[str, int]) -> None:
        key, profile = f"{config.site}/{name}", config.profiles[spec.profile]
        number = self.device_number.get(key)
        if number is None:
            number = len(self.devices)
            self.device_number[key] = number
        numbers = [known[p.name] if p.name in known else self._new_point(number, p.name) for p in profile.points]
        block = range(numbers[0], numbers[0] + len(numbers)) if numbers else range(0)
        points = block if list(block) == numbers else tuple(numbers)  # a range: 10,000 devices of 10 points are 5 MB less
        device = Device(number, config.site, name, spec.area, profile, config.origin, points, spec.parent or "", tags)
        if number == len(self.devices):
            self.devices.append(device)
        else:
            self.devices[number] = device
        self.active.add(number)

    def _new_point(self, device: int, name: str) -> int:
        self.point_owner.append((device, name))
        return len(self.point_owner) - 1

    def device(self, key: str) -> Device | None:
        """The active device "site/device"; None when there is none."""
        number = self.device_number.get(key)
        return self.devices[number] if number is not None and number in self.active else None

    def point_name(self, number: int) -> str:
        """ "site/device/point" of a point number."""
        owner, name = self.point_owner[number]
        return f"{self.devices[owner].key}/{name}"

    def point_spec(self, number: int) -> PointSpec | None:
        """Specification of a point; None when its profile no longer has it."""
        owner, name = self.point_owner[number]
        return next((p for p in self.devices[owner].profile.points if p.name == name), None)

    @property
    def groups(self) -> list[Group]:
        """All devices, by site and profile, in order of the first of each; computed once per list of devices."""
        if self._groups is None:
            found: dict[tuple[int, str, bool], list[Device]] = {}
            active = self.active
            for d in self.devices:
                found.setdefault((id(d.profile), d.site, d.number in active), []).append(d)
            self._groups = [_group(site, devices, is_active=is_active) for (_, site, is_active), devices in found.items()]
        return self._groups

    @property
    def columns(self) -> PointColumns:
        """Limits by point number; computed once per configuration."""
        if self._columns is None:
            self._columns = self._compute_columns()
        return self._columns

    def _compute_columns(self) -> PointColumns:
        count = len(self.point_owner)
        low, high = np.full(count, -np.inf), np.full(count, np.inf)
        rate, stuck = np.full(count, np.inf), np.zeros(count, np.int64)
        for group in self.groups:
            for spec, numbers in zip(group.profile.points, group.points.T, strict=True):
                low[numbers], high[numbers] = spec.low, spec.high
                rate[numbers] = np.inf if spec.rate_per_min is None else spec.rate_per_min / 60.0
                stuck[numbers] = 0 if spec.stuck_s is None else int(spec.stuck_s * NS_PER_S)
        return PointColumns(self.point_owner.device_numbers(), low, high, rate, stuck)

    @property
    def calibrations(self) -> CalibrationTable | None:
        """Corrections by point number; None when no site has any."""
        return self._calibrations

    def _compute_calibrations(self) -> CalibrationTable | None:
        row, lines = np.full(len(self.point_owner), -1, np.int32), list[tuple[float, float, int]]()
        for config in self.sites.values():
            for one in config.calibrations:
                device = self.device(f"{config.site}/{one.device}")
                number = None if device is None else device.point(one.point)
                assert number is not None, one
                row[number] = len(lines)
                lines.append((*one.line, config.end_of_day_ns(one.expires)))
        if not lines:
            return None
        gain, offset, expires_ns = zip(*lines, strict=True)
        return CalibrationTable(row, np.array(gain), np.array(offset), np.array(expires_ns, np.int64))

    def snapshot(self) -> dict[str, Any]:
        """Names in number order and the configurations as text: enough to give every number again."""
        self._texts = {name: self._texts.get(name) or config.canonical() for name, config in self.sites.items()}
        return {
            "sites": dict(self._texts),
            "devices": [d.key for d in self.devices],
            "points": self.point_owner.columns(),
        }

    @staticmethod
    def from_snapshot(saved: dict[str, Any]) -> "Plan":
        """Inverse of `snapshot`: every device and point has its number again."""
        plan = Plan()
        plan.point_owner = PointOwners((int(owner), str(name)) for owner, name in zip(*saved["points"], strict=True))
        reserved = list(saved["devices"])
        placeholder = Profile(name="gone", points=[])
        for number, key in enumerate(reserved):
            site, _, name = key.partition("/")
            plan.devices.append(Device(number, site, name, "", placeholder, "LIVE", ()))
            plan.device_number[key] = number
        for text in saved["sites"].values():
            plan.apply(parse_site(text), text)
        return plan


def _group(site: str, devices: list[Device], *, is_active: bool) -> Group:
    n, count, profile = len(devices), len(devices[0].points), devices[0].profile
    points: NDArray[np.int32]
    if all(type(d.points) is range for d in devices):  # as they mostly are: 10,000 of them are not unrolled one by one
        points = np.add.outer(
            np.fromiter((d.points[0] if count else 0 for d in devices), np.int32, n), np.arange(count, dtype=np.int32)
        )
    else:
        points = np.array([d.points for d in devices], np.int32).reshape(n, count)
    number = np.fromiter((d.number for d in devices), np.int32, n)
    place = dict(zip(number.tolist(), range(n), strict=True))
    return Group(site, profile, is_active, devices, number, points, [d.area for d in devices], place)


def _differs_in_rules_only(old: SiteConfig, new: SiteConfig) -> bool:
    same = ("devices", "areas", "origin", "zone_offsets", "calibrations")
    if any(getattr(old, name) != getattr(new, name) for name in same) or old.profiles.keys() != new.profiles.keys():
        return False
    plain = [{name: p.model_copy(update={"rules": []}) for name, p in config.profiles.items()} for config in (old, new)]
    return plain[0] == plain[1]
