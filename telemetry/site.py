"""Configuration of a site as data: the one definition that files are checked against and that `step` reads from CONFIG.

Units are part of names (`travel_s`) or stand in `unit`. Unknown fields are errors: a misspelt limit must not be silently lost.
"""

import datetime as dt
import functools
import hashlib
import json
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from telemetry import topic
from telemetry.zone import known_zone, offsets

Name = Annotated[str, StringConstraints(pattern=f"^{topic.NAME.pattern}$")]
PointName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
SensorName = Annotated[str, StringConstraints(pattern=r"^([a-z][a-z0-9_]{0,63}\.)?[a-z][a-z0-9_]{0,63}$")]  # point, or link.point
Priority = Literal["P1", "P2", "P3", "P4"]
Origin = Literal["LIVE", "SIMULATED", "REPLAY"]

# Arbitration order of the field: personnel and equipment first, economy last.
LEVELS = {
    "personnel_safety": 1,
    "equipment": 2,
    "survival": 3,
    "manual": 4,
    "humidity_gas": 5,
    "temperature": 6,
    "economy": 7,
}
Level = Literal["personnel_safety", "equipment", "survival", "manual", "humidity_gas", "temperature", "economy"]


# Operating modes of an area; rules read them, and they suppress alarms by design.
Mode = Literal["AUTO", "EMPTY", "WASHDOWN", "DISINFECT", "PREHEAT", "OCCUPIED", "STORM", "FROST", "SPRAYING", "MAINTENANCE"]
MODES: tuple[str, ...] = get_args(Mode)
Missing = Literal["hold", "clear", "alarm"]
SELECTOR = {0: "AUTO", 1: "LOCAL", 2: "OFF"}  # what the point `selector` of an actuator says
COMMAND_ALARM = "COMMAND-"  # begins the names of alarms that commands raise; no rule is called so


_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def _day(given: object) -> str:
    text = str(given)  # YAML reads a bare day as a date
    try:
        if dt.date.fromisoformat(text).isoformat() == text and text >= "1971":
            return text
    except ValueError:
        pass
    msg = f"{text[:40]!r} is no day; write it such as 2026-03-20"
    raise ValueError(msg)


Day = Annotated[str, BeforeValidator(_day)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Text(_Model):
    """A message in both languages; `{value}` and `{device}` are filled in when it is shown."""

    en: str = ""
    zh: str = ""


class PointSpec(_Model):
    """One measured quantity of a profile."""

    name: PointName
    unit: str
    low: float
    high: float
    rate_per_min: float | None = Field(default=None, gt=0)
    stuck_s: float | None = Field(default=None, gt=0)
    deadband: float = Field(default=0.0, ge=0)
    heartbeat_s: float | None = Field(default=None, gt=0)  # None: a minute, and its values never grow old
    decimals: int = Field(default=1, ge=0, le=6)
    members: int | None = Field(default=None, ge=1, le=65536)
    labels: dict[int, str] | None = None
    band: tuple[float, float] | None = None
    label: Text = Text()
    expression: str | None = Field(default=None, max_length=2000)  # a virtual point: computed (docs/points.md), never sent
    redundant: list[SensorName] | None = Field(
        default=None, min_length=2, max_length=8
    )  # virtual, too: sensors that vote, in order
    tolerance: float | None = Field(default=None, ge=0)  # by which two redundant sensors may differ

    @property
    def beat_s(self) -> float:
        """Longest time between two samples of a device that is well [s]."""
        return 60.0 if self.heartbeat_s is None else self.heartbeat_s

    @property
    def is_virtual(self) -> bool:
        """Whether it is computed of other points."""
        return self.expression is not None or self.redundant is not None

    @property
    def is_measured(self) -> bool:
        """Whether it is a single number that the device sends."""
        return self.members is None and not self.is_virtual

    @property
    def formula(self) -> str:
        """What a virtual point is computed by, in the rule language."""
        assert self.is_virtual
        return self.expression or f"vote({self.tolerance:.17g}, {', '.join(self.redundant or [])})"

    @model_validator(mode="after")
    def _ordered(self) -> "PointSpec":
        if self.low >= self.high:
            msg = f"low ({self.low}) must be below high ({self.high})"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _virtual(self) -> "PointSpec":
        if self.expression is not None and self.redundant is not None:
            msg = "a virtual point has either `expression` or `redundant`"
            raise ValueError(msg)
        if (self.redundant is None) != (self.tolerance is None):
            msg = "`redundant` and `tolerance` belong together: by how much may two of the sensors differ?"
            raise ValueError(msg)
        if self.redundant is not None and len(set(self.redundant)) < len(self.redundant):
            msg = "a sensor stands twice in `redundant`"
            raise ValueError(msg)
        unused = [name for name in ("rate_per_min", "stuck_s", "members") if getattr(self, name) is not None]
        if self.is_virtual and unused:
            msg = f"a virtual point has no {unused[0]}; give it to the points that it is computed of"
            raise ValueError(msg)
        return self


class ActuatorSpec(_Model):
    """One thing that moves. `feedback` names the point that measures it, `selector` the one that says how the selector at the panel
    stands (0 AUTO, 1 LOCAL, 2 OFF); `fail_safe` is a position or "hold". `confirm`: why moving it by hand is dangerous; whoever does so
    must confirm it. `alarm`: priority of the alarm of a command that fails."""

    name: PointName
    unit: str = "%"
    kind: Literal["position", "switch", "pulse"] = "position"
    low: float = 0.0
    high: float = 100.0
    rest: float = 0.0
    travel_s: float = Field(default=0.0, ge=0)
    min_on_s: float = Field(default=0.0, ge=0)
    min_off_s: float = Field(default=0.0, ge=0)
    min_step: float = Field(default=1.0, ge=0)
    tolerance: float = Field(default=5.0, ge=0)
    feedback: PointName | None = None
    selector: PointName | None = None
    confirm: Text | None = None
    alarm: Priority = "P2"
    fail_safe: float | Literal["hold"] = "hold"
    expiry_s: float = Field(default=30.0, gt=0, le=3600)
    dedupes: bool = True
    expires: bool = True
    fences: bool = True
    local_fallback: bool = True
    choose: Literal["largest", "smallest"] = "largest"
    label: Text = Text()


class DemandSpec(_Model):
    """What a rule asks of an actuator of its own device while it is on: a bound or a value at one of seven levels.

    `value` is a number or an expression over the rule's points, evaluated at every sample while the rule is on.
    """

    actuator: PointName
    bound: Literal["at_least", "at_most", "value"] = "value"
    value: float | str
    level: Level


class RuleSpec(_Model):
    """A condition with thresholds, hysteresis and delays; an alarm when `priority` is set; a demand when `demand` is set.

    `when` and `clear` are expressions (docs/rules.md). Without `clear`, the rule clears when `when` is false by `hysteresis`.
    """

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]
    version: int = Field(default=1, ge=1)
    author: str = Field(default="", max_length=100)
    changed: Annotated[str, BeforeValidator(str)] = Field(
        default="", max_length=40
    )  # when it was written; YAML reads a bare day as a date
    comment: str = Field(default="", max_length=2000)
    enabled: bool = True
    shadow: bool = False  # runs beside the others, says what it would have done, and touches nothing
    profile: Name | None = None
    area: Name | None = None
    tag: Name | None = None
    devices: list[Name] | None = None
    when: str = Field(max_length=2000)
    clear: str | None = Field(default=None, max_length=2000)
    hysteresis: float = Field(default=0.0, ge=0)
    on_delay_s: float = Field(default=0.0, ge=0, le=7 * 86400)
    off_delay_s: float = Field(default=0.0, ge=0, le=7 * 86400)
    missing: Missing = "hold"
    priority: Priority | None = None
    alarm_class: Name | None = None
    response_s: float | None = Field(default=None, gt=0)  # time to respond
    latching: bool = False
    shelve_max_s: float = Field(default=8 * 3600, ge=0, le=24 * 3600)
    suppress_when: str | None = Field(default=None, max_length=2000)
    first_out: Name | None = None  # the group of alarms of an area of which the first one is told
    message: Text = Text()
    consequence: Text = Text()
    action: Text = Text()
    demand: DemandSpec | None = None

    @field_validator("id")
    @classmethod
    def _not_reserved(cls, given: str) -> str:
        if given.startswith(COMMAND_ALARM):
            msg = f"names that begin with {COMMAND_ALARM} are those of alarms that commands raise; choose another one"
            raise ValueError(msg)
        return given


class PlantClock(_Model):
    """How the clock of simulated plants goes: at `wall_s` (Unix) it was `plant_s`, and it goes `speed` times as fast."""

    speed: float = Field(gt=0, le=1000)
    wall_s: float
    plant_s: float


class ControllerSpec(_Model):
    """A controller that runs every device of its profile; `kind` and `parameters` are in docs/control.md. An area may say otherwise."""

    id: Name
    kind: Name
    enabled: bool = True
    parameters: dict[str, Any] = {}
    label: Text = Text()
    plant_clock: PlantClock | None = None  # of simulated plants that live faster than the wall


class Profile(_Model):
    """A kind of device: its points, actuators, default rules and controllers."""

    name: Name
    label: Text = Text()
    lateness_s: float | None = Field(default=None, gt=0)
    receipts: bool = True
    points: list[PointSpec]
    actuators: list[ActuatorSpec] = []
    controllers: list[ControllerSpec] = []
    rules: list[RuleSpec] = []

    @model_validator(mode="after")
    def _names(self) -> "Profile":
        ids = [controller.id for controller in self.controllers]
        for name in sorted({n for n in ids if ids.count(n) > 1}):
            msg = f"controller {name!r} is declared twice"
            raise ValueError(msg)
        names = [p.name for p in self.points]
        for name in sorted({n for n in names if names.count(n) > 1}):
            msg = f"point {name!r} is declared twice"
            raise ValueError(msg)
        for actuator in self.actuators:
            if actuator.feedback is not None and actuator.feedback not in names:
                msg = f"actuator {actuator.name!r} has feedback {actuator.feedback!r}, which is not one of the points"
                raise ValueError(msg)
            if actuator.selector is not None and actuator.selector not in names:
                msg = f"actuator {actuator.name!r} has selector {actuator.selector!r}, which is not one of the points"
                raise ValueError(msg)
            if any(point.is_virtual and point.name == actuator.selector for point in self.points):
                msg = f"actuator {actuator.name!r} has selector {actuator.selector!r}, which is computed; only what is measured counts"
                raise ValueError(msg)
            if any(point.is_virtual and point.name == actuator.feedback for point in self.points):
                msg = f"actuator {actuator.name!r} has feedback {actuator.feedback!r}, which is computed; only what is measured confirms"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _watched_sensors(self) -> "Profile":
        """Redundant sensors bring the alarm that tells when they disagree or are fewer, unless the profile has one of that name."""
        known = {rule.id for rule in self.rules}
        made = [_sensor_rule(point) for point in self.points if point.redundant is not None]
        self.rules.extend(rule for rule in made if rule.id not in known)
        return self

    def lateness(self) -> float:
        """Seconds after which a frame is late: as set, else max(10 s, 3 heartbeats)."""
        if self.lateness_s is not None:
            return self.lateness_s
        return max(10.0, 3.0 * max((p.beat_s for p in self.points if not p.is_virtual), default=0.0))


def _sensor_rule(point: PointSpec) -> RuleSpec:
    return RuleSpec(
        id=f"SENSORS-{point.name}"[:64], when=f"quality({point.name}) > 0.5", on_delay_s=60, off_delay_s=60, priority="P3",
        alarm_class="measuring",
        message=Text(
            en=f"Sensors of {point.label.en or point.name} in {{device}} disagree, or the first of them is not used",
            zh=f"{{device}} 的{point.label.zh or point.name}传感器读数不一致，或首选传感器未被采用",
        ),
        consequence=Text(en="The value is marked UNCERTAIN", zh="该值标记为 UNCERTAIN"),
        action=Text(en="Compare the sensors by hand; mend or calibrate the one that is off", zh="人工比对各传感器，维修或校准偏差者"),
    )  # fmt: skip


class SetpointSpec(_Model):
    """A set point of an area: a plain value, or a curve over the day of the batch or the hour of the day, straight between its knots.

    A curve over the hour leads across midnight: it gets a knot at 0 and at 24 where the line from its last to its first knot stands
    then. One with knots of its own at both jumps there as they say.
    """

    unit: str
    value: float | None = None
    by_day: list[tuple[float, float]] | None = None
    by_hour: list[tuple[float, float]] | None = None
    label: Text = Text()

    @field_validator("by_hour")
    @classmethod
    def _round_the_clock(cls, knots: list[tuple[float, float]] | None) -> list[tuple[float, float]] | None:
        if not knots:
            return knots
        if not all(0.0 <= hour <= 24.0 for hour, _ in knots):
            msg = "the hours of a curve lie between 0 and 24"
            raise ValueError(msg)
        (first, low), (last, high) = knots[0], knots[-1]
        night = first + 24.0 - last  # 0 where both ends of the day are given
        midnight = high + (low - high) * (24.0 - last) / night if night else low
        return [*([(0.0, midnight)] if first > 0.0 else []), *knots, *([(24.0, midnight)] if last < 24.0 else [])]

    @model_validator(mode="after")
    def _one(self) -> "SetpointSpec":
        if sum(given is not None for given in (self.value, self.by_day, self.by_hour)) != 1:
            msg = "a set point has one of value, by_day and by_hour"
            raise ValueError(msg)
        knots = [at for at, _ in self.by_day or self.by_hour or []]
        if knots != sorted(set(knots)) or (self.value is None and not knots):
            msg = "the knots of a curve rise from one to the next"
            raise ValueError(msg)
        return self


class AreaSpec(_Model):
    """A part of a site. `links` names the devices its rules read as `link.point`, such as the weather station; a device of
    another site is named "site/device"."""

    name: Name
    label: Text = Text()
    tags: list[Name] = []
    animals: bool = False  # a P2 alarm here is shelved by two persons only, and for an hour at most
    links: dict[PointName, Annotated[str, StringConstraints(pattern=f"^({topic.NAME.pattern}/)?{topic.NAME.pattern}$")]] = {}
    setpoints: dict[PointName, SetpointSpec] = {}
    control: dict[Name, dict[str, Any]] = {}  # parameters here, by controller; `enabled: false` turns it off


class DeviceSpec(_Model):
    """One device, or `count` devices named `{name}-0` .. `{name}-{count-1}`."""

    name: Name
    profile: Name
    area: Name
    count: int | None = Field(default=None, ge=1, le=200_000)
    parent: Name | None = None
    tags: list[Name] = []
    label: Text = Text()

    def names(self) -> list[str]:
        """The device names this line stands for."""
        return [self.name] if self.count is None else [f"{self.name}-{i}" for i in range(self.count)]


class CalibrationSpec(_Model):
    """How one point of one device is corrected: true = raw * gain + offset, or through two points (raw, true).

    Past the end of the day `expires` by the site's clock its values are UNCERTAIN.
    """

    device: Name
    point: PointName
    offset: float | None = None
    gain: float | None = None
    points: list[tuple[float, float]] | None = Field(default=None, min_length=2, max_length=2)
    date: Day
    expires: Day
    by: str = Field(min_length=1, max_length=100)
    comment: str = Field(default="", max_length=2000)

    @model_validator(mode="after")
    def _one(self) -> "CalibrationSpec":
        is_linear = self.offset is not None or self.gain is not None
        if is_linear == (self.points is not None):
            msg = "a calibration has either `offset` and `gain`, or `points` with two pairs of [raw, true]"
            raise ValueError(msg)
        if self.points is not None and self.points[0][0] == self.points[1][0]:
            msg = f"both points have the raw value {self.points[0][0]}; two different ones are needed"
            raise ValueError(msg)
        if self.line[0] == 0 or not all(map(math.isfinite, self.line)):
            msg = "the calibration makes every raw value the same; its gain must be a number other than 0"
            raise ValueError(msg)
        if self.expires < self.date:
            msg = f"expires ({self.expires}) lies before date ({self.date})"
            raise ValueError(msg)
        return self

    @property
    def line(self) -> tuple[float, float]:
        """Gain and offset."""
        if self.points is None:
            return 1.0 if self.gain is None else self.gain, self.offset or 0.0
        (raw_1, true_1), (raw_2, true_2) = self.points
        gain = (true_2 - true_1) / (raw_2 - raw_1)
        return gain, true_1 - gain * raw_1


def calibration_problem(point: str, profile: Profile | None) -> str:
    """Why a point of a profile cannot be calibrated; "" when it can."""
    spec = None if profile is None else next((p for p in profile.points if p.name == point), None)
    if spec is None:
        return f"point {point!r} does not exist"
    if spec.is_virtual:
        return f"point {point!r} is computed; calibrate the points that it is computed of"
    if spec.members is not None or spec.labels is not None:
        return f"point {point!r} is {'an array' if spec.members is not None else 'a code'}; only single measured numbers are calibrated"
    return ""


class SiteConfig(_Model):
    """A whole site: what `fieldloom apply` sends and a CONFIG entry carries."""

    v: Literal[1] = 1
    site: Name
    label: Text = Text()
    origin: Origin = "LIVE"
    region: list[str] = Field(default=[], max_length=4)
    organisation: str = ""
    latitude: float = Field(default=36.7, ge=-90, le=90)
    longitude: float = Field(default=118.0, ge=-180, le=180)
    zone: Annotated[str, AfterValidator(known_zone)] = "Asia/Shanghai"
    zone_offsets: list[tuple[int, int]] = []  # of telemetry.zone.offsets; filled in where the configuration brings none
    areas: list[AreaSpec]
    devices: list[DeviceSpec]
    profiles: dict[str, Profile]
    rules: list[RuleSpec] = []
    calibrations: list[CalibrationSpec] = []
    programs: list[Name] = []  # that may ask for something over MQTT (docs/commands.md)

    @field_validator("devices")
    @classmethod
    def _unique(cls, devices: list[DeviceSpec]) -> list[DeviceSpec]:
        seen: set[str] = set()
        for device in devices:
            names = device.names()
            if not seen.isdisjoint(names):
                msg = f"device {next(name for name in names if name in seen)!r} is declared twice"
                raise ValueError(msg)
            seen.update(names)
        return devices

    @model_validator(mode="after")
    def _references(self) -> "SiteConfig":
        errors = list(self._reference_errors())
        if errors:
            raise ValueError("; ".join(errors))
        return self

    def _reference_errors(self) -> Any:
        names = {name for device in self.devices for name in device.names()} if self.programs else set()
        for program in sorted(names.intersection(self.programs)):
            yield f"program {program!r} has the name of a device"
        areas = {area.name for area in self.areas}
        plain = {device.name for device in self.devices if device.count is None}
        counted = {device.name: device.count for device in self.devices if device.count is not None}

        def is_there(name: str) -> bool:
            base, _, number = name.rpartition("-")
            return name in plain or (number.isdecimal() and number == str(int(number)) and int(number) < counted.get(base, 0))

        for device in self.devices:
            if device.area not in areas:
                yield f"device {device.name!r} stands in area {device.area!r}, which does not exist"
            if device.profile not in self.profiles:
                yield f"device {device.name!r} has profile {device.profile!r}, which does not exist"
        for area in self.areas:
            for link, target in area.links.items():
                if "/" not in target and not is_there(target):
                    yield f"area {area.name!r} links {link!r} to device {target!r}, which does not exist"
        if self.calibrations:
            yield from self._calibration_errors()

    def _calibration_errors(self) -> Any:
        profile_of = {name: self.profiles.get(device.profile) for device in self.devices for name in device.names()}
        seen: set[tuple[str, str]] = set()
        for one in self.calibrations:
            told = f"calibration of {one.device}/{one.point}"
            if one.device not in profile_of:
                yield f"{told}: device {one.device!r} does not exist"
            elif problem := calibration_problem(one.point, profile_of[one.device]):
                yield f"{told}: {problem}"
            if (one.device, one.point) in seen:
                yield f"{told} is declared twice"
            seen.add((one.device, one.point))

    @model_validator(mode="before")
    @classmethod
    def _with_offsets(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("zone_offsets"):
            return given
        try:
            return {**given, "zone_offsets": offsets(known_zone(str(given.get("zone", "Asia/Shanghai"))))}
        except ValueError:
            return given  # told by the zone itself

    @functools.cached_property
    def _offset_table(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        starts, ahead = np.array(self.zone_offsets, np.int64).reshape(-1, 2).T
        return starts.copy(), ahead.copy()

    def offset_s(self, times_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Seconds by which the site's clock is ahead of UTC at times (n,) in ns."""
        starts, offsets = self._offset_table
        return offsets[np.maximum(np.searchsorted(starts, times_ns // 1_000_000_000, side="right") - 1, 0)]

    def end_of_day_ns(self, day: str) -> int:
        """The midnight that ends a day (YYYY-MM-DD) by the site's clock [ns]."""
        end_s = (dt.date.fromisoformat(day) - dt.date(1970, 1, 1)).days * 86_400 + 86_400
        ahead_s = int(self.offset_s(np.array([end_s * 1_000_000_000]))[0])  # of that midnight as if in UTC: hours off at most
        ahead_s = int(self.offset_s(np.array([(end_s - ahead_s) * 1_000_000_000]))[0])
        return (end_s - ahead_s) * 1_000_000_000

    def midnight_ns(self, time_ns: int) -> int:
        """Start of the day by the site's clock that holds a time [ns]."""
        ahead = int(self.offset_s(np.array([time_ns]))[0]) * 1_000_000_000
        return (time_ns + ahead) // 86_400_000_000_000 * 86_400_000_000_000 - ahead

    def canonical(self) -> str:
        """The JSON text that a CONFIG entry carries; equal configurations give equal text.

        Item by item, so that a thread that makes it of thousands of devices lets others run in between.
        """
        long: dict[str, Sequence[_Model]] = {"areas": self.areas, "devices": self.devices, "rules": self.rules}
        parts = {name: _encode(value) for name, value in self.model_dump(mode="json", exclude={*long}).items()}
        for name, items in long.items():
            parts[name] = f"[{','.join(_encode(item.model_dump(mode='json')) for item in items)}]"
        return f"{{{','.join(f'{_encode(name)}:{parts[name]}' for name in sorted(parts))}}}"

    def sha256(self) -> str:
        """Content hash of `canonical`."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


@functools.lru_cache(maxsize=2)
def parse_site(text: str) -> SiteConfig:
    """The configuration of a CONFIG entry. Raises ValidationError. Core checks a text before it journals it, and `step` reads the same
    a moment later: 10,000 devices are not validated twice. The result is frozen, so all may share it.

    A line of devices that the site's text before had too is the same object, neither validated nor compared again; the others are
    validated one by one, so that a thread that does it lets others run in between.
    """
    try:
        parts = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        site, raw = msgspec.json.decode(parts["site"], type=str), msgspec.json.decode(parts.pop("devices"), type=list[msgspec.Raw])
        before, lines = _lines.get(site, {}), dict[bytes, DeviceSpec]()
        for line in map(bytes, raw):
            known = before.get(line)
            lines[line] = DeviceSpec.model_validate_json(line) if known is None else known
        rest = {name: msgspec.json.decode(part) for name, part in parts.items()}
        config = SiteConfig.model_validate({**rest, "devices": [lines[bytes(line)] for line in raw]})
    except (ValidationError, msgspec.MsgspecError, KeyError):
        return SiteConfig.model_validate_json(text)  # which tells every mistake by its place in the text
    _lines[site] = lines
    return config


_lines: dict[str, dict[bytes, DeviceSpec]] = {}  # lines of devices of each site's newest text
