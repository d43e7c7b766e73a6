"""What goes wrong in a simulated site on purpose: the general faults F1-F20 of the handbook (0.7) and of its instruments (0.2).

A fault is of a point (what a sensor says), of a drive, or of a device (its clock, power and wire). Kinds of plants have faults of their
own besides (`Houses.FAULTS`). An `Injection` says what, where, when, how strong and how long; `problem` says what is wrong with one.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from simulators.houses import Fault
from telemetry.site import Profile

Array = NDArray[np.float64]
On = Literal["point", "drive", "device"]
HOUR_S: Final = 3600.0
SPIKE_CHANCE: Final = 0.02
BURST_S: Final = 30.0  # a gateway that is back sends all it kept within this time
SUN_W_M2: Final = 800.0
# A unit that somebody mixed up: what is sent instead is value * factor + offset.
MIXED_UP: Final[Mapping[str, tuple[float, float]]] = {
    "C": (1.8, 32.0), "%": (0.01, 0.0), "ppm": (1e-4, 0.0), "m/s": (3.6, 0.0), "kg": (1e3, 0.0), "L/min": (0.06, 0.0),
    "W/m2": (2.3, 0.0), "Pa": (0.01, 0.0), "mS/cm": (1e3, 0.0), "kWh": (3.6, 0.0), "L": (1e-3, 0.0),
}  # fmt: skip


class General(NamedTuple):
    """A fault that any kind may have. `unit` of its strength: "" there or not, "point" the point's own, `usual` then in parts of the
    point's range."""

    code: str
    on: On
    text: str
    unit: str = ""
    usual: float = 1.0


GENERAL: Final[Mapping[str, General]] = {
    "stuck": General("F1", "point", "goes on saying what it said last"),
    "bias": General("F2", "point", "says so much more", "point", 0.05),
    "ramp": General("F3", "point", "drifts by so much an hour", "point", 0.02),
    "spike": General("F4", "point", "one reading in fifty is off by so much", "point", 0.3),
    "noise": General("F5", "point", "is so many times as noisy", "times", 5.0),
    "dropout": General("F6", "point", "is missing in this share of the samples", "share", 1.0),
    "late": General("F7", "device", "each message takes up to so long, so that they come out of order", "s", 600.0),
    "duplicate": General("F8", "device", "this share of the messages comes twice", "share", 1.0),
    "clock_skew": General("F9", "device", "its clock is so far ahead", "s", 3600.0),
    "unit": General("F10", "point", "is sent in another unit: F for C, a fraction for %"),
    "swapped": General("F11", "point", "says what the next point of its unit measures, and that one what this does"),
    "counter_reset": General("F12", "point", "counts from 0 again"),
    "drive_stuck": General("F13", "drive", "stands still whatever it is told"),
    "feedback_frozen": General("F14", "drive", "moves, and its feedback goes on saying where it was"),
    "command_lost": General("F15", "device", "this share of the commands does not arrive", "share", 1.0),
    "power_dip": General("F16", "device", "has no power: is silent, drives stand still, contactors drop out; then it starts anew"),
    "broker_restart": General("F17", "device", "loses its connection to the broker"),
    "burst": General("F18", "device", "its gateway has no way out, then sends all it kept within 30 s"),
    "wetted": General("F19", "point", "is wet and stays at the end of its scale"),
    "miscalibrated": General("F20", "point", "says this share too much since it was calibrated", "share", 0.1),
    "open_circuit": General("", "point", "is cut through: the end of the scale, with a strength below 0 the other end"),
    "dead": General("", "point", "says 0: a poisoned cell, a frozen cup, an open current transformer"),
    "low_reading": General("", "point", "says this share too little: dirt, worn cell, air gap, missing pulses", "share", 0.2),
    "night_offset": General("", "point", "says so much when there is nothing", "point", -3.0 / 2000.0),
    "sun_heated": General("", "point", "is heated by the sun, by so much at 800 W/m2", "point", 5.0 / 70.0),
    "slow": General("", "point", "follows so many times as slowly: dust, water in the tube", "times", 10.0),
    "overload": General("", "drive", "its thermal protection has tripped, until it is reset by hand"),
    "welded": General("", "drive", "its contactor is welded: it runs whatever it is told"),
    "panel_local": General("", "drive", "somebody switched it to local at the panel"),
    "panel_off": General("", "drive", "somebody switched it off at the panel"),
}
NAMES: Final[Mapping[str, str]] = {general.code: name for name, general in GENERAL.items() if general.code}
LINKLESS: Final = frozenset({"power_dip", "broker_restart"})  # who has one cannot be told that it is over
SHARES: Final = frozenset({"dropout", "duplicate", "command_lost"})


class Injection(NamedTuple):
    """A fault to be. `part`: the point or actuator; "" = the device. `strength` None: as usual; 0 ends it. `at_s` Unix seconds of the
    plants' time."""

    fault: str
    device: str
    part: str = ""
    strength: float | None = None
    at_s: float = 0.0
    for_s: float = math.inf


def problem(injection: Injection, profile: Profile, own: Mapping[str, Fault]) -> str:
    """What is wrong with a fault of a device of this profile, whose kind has `own` faults, with the fix; "" = nothing."""
    name, part = injection.fault, injection.part
    if not injection.for_s > 0.0:
        return "`for` must be longer than nothing"
    if injection.strength is not None and not math.isfinite(injection.strength):
        return "the strength must be a number"
    if name in own:
        return f"{name} is of the whole of {injection.device}; leave out {part!r}" if part else ""
    if name not in GENERAL:
        here = f"; of {profile.name} also {', '.join(sorted(own))}" if own else ""
        return f"no fault {name!r}; there are {', '.join(GENERAL)}{here}"
    if name in SHARES and injection.strength is not None and not 0.0 <= injection.strength <= 1.0:
        return f"the strength of {name} is a share, 0 to 1"
    return _wrong_part(injection, profile)


def _wrong_part(injection: Injection, profile: Profile) -> str:
    general, part = GENERAL[injection.fault], injection.part
    points = {spec.name: spec for spec in profile.points if spec.is_measured}
    drives = {spec.name: spec for spec in profile.actuators}
    if general.on == "point":
        if part not in points:
            return _no_part("point", part, profile.name, list(points))
        if injection.fault == "unit" and points[part].unit not in MIXED_UP:
            return f"no other unit is known for {points[part].unit}; there is one for {', '.join(MIXED_UP)}"
        if injection.fault == "swapped" and partner(part, profile) == part:
            return f"{part} is the only point in {points[part].unit}; take one that has another to be swapped with"
    elif general.on == "drive" or (part and injection.fault == "command_lost"):
        if part not in drives:
            return _no_part("actuator", part, profile.name, list(drives))
        if injection.fault == "feedback_frozen" and drives[part].feedback is None:
            return f"{part} has no feedback that could freeze"
    elif part:
        return f"{injection.fault} is of a whole device; leave out {part!r}"
    return ""


def _no_part(what: str, part: str, profile: str, known: Sequence[str]) -> str:
    named = f"{profile} has no {what} {part!r}" if part else f"name the {what}, as in site/device/{what}"
    return f"{named}; there are {', '.join(known) or 'none'}"


def partner(point: str, profile: Profile) -> str:
    """The next point of the same unit, with which a sensor is swapped; itself where there is none."""
    alike = [spec.name for spec in profile.points if spec.is_measured and spec.unit == _unit(point, profile)]
    return alike[(alike.index(point) + 1) % len(alike)]


def _unit(point: str, profile: Profile) -> str:
    return next(spec.unit for spec in profile.points if spec.name == point)


def strength_of(injection: Injection, profile: Profile, own: Mapping[str, Fault]) -> float:
    """How strong: as it says, or as usual."""
    if injection.strength is not None:
        return injection.strength
    if injection.fault in own:
        return own[injection.fault].usual
    general = GENERAL[injection.fault]
    if general.unit != "point":
        return general.usual
    spec = next(spec for spec in profile.points if spec.name == injection.part)
    return general.usual * (spec.high - spec.low)


# -- points --------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class PointFault:
    """One fault of one point of one house. `sigma` is the noise of its instrument, `scale` its ends, `mixed` factor and offset of the
    wrong unit."""

    name: str
    row: int
    strength: float
    since_s: float
    random: np.random.Generator
    other: int = -1
    sigma: float = 0.0
    scale: tuple[float, float] = (-math.inf, math.inf)
    mixed: tuple[float, float] = (1.0, 0.0)
    kept: float = field(default=math.nan)

    def apply(self, values: Array, now_s: float, sun_w_m2: Callable[[float], float]) -> None:
        """Change what a house's points (points,) say."""
        if self.name == "swapped":
            values[[self.row, self.other]] = values[[self.other, self.row]]
        elif self.name in EFFECTS:
            values[self.row] = EFFECTS[self.name](self, float(values[self.row]), now_s, sun_w_m2)


def _clamped(fault: PointFault, value: float) -> float:
    return value if math.isnan(value) else min(fault.scale[1], max(fault.scale[0], value))


def _keep(fault: PointFault, value: float) -> float:
    fault.kept = value if math.isnan(fault.kept) else fault.kept
    return fault.kept


def _end(fault: PointFault, sign: float) -> float:
    end = fault.scale[1] if sign > 0 else fault.scale[0]
    return end if math.isfinite(end) else 0.0


Effect = Callable[[PointFault, float, float, Callable[[float], float]], float]
EFFECTS: Final[Mapping[str, Effect]] = {
    "stuck": lambda f, v, _t, _sun: _keep(f, v),
    "feedback_frozen": lambda f, v, _t, _sun: _keep(f, v),
    "bias": lambda f, v, _t, _sun: _clamped(f, v + f.strength),
    "ramp": lambda f, v, t, _sun: _clamped(f, v + f.strength * (t - f.since_s) / HOUR_S),
    "spike": lambda f, v, _t, _sun: v + f.strength * (f.random.random() < SPIKE_CHANCE) * (1 if f.random.random() < 0.5 else -1),
    "noise": lambda f, v, _t, _sun: _clamped(
        f, v + f.sigma * math.sqrt(max(0.0, f.strength**2 - 1.0)) * f.random.standard_normal()
    ),
    "dropout": lambda f, v, _t, _sun: math.nan if f.random.random() < f.strength else v,
    "unit": lambda f, v, _t, _sun: v * f.mixed[0] + f.mixed[1],
    "counter_reset": lambda f, v, _t, _sun: v - _keep(f, v),
    "wetted": lambda f, _v, _t, _sun: _end(f, 1.0),
    "miscalibrated": lambda f, v, _t, _sun: _clamped(f, v * (1.0 + f.strength)),
    "open_circuit": lambda f, _v, _t, _sun: _end(f, f.strength),
    "dead": lambda _f, _v, _t, _sun: 0.0,
    "low_reading": lambda f, v, _t, _sun: _clamped(f, v * (1.0 - f.strength)),
    "night_offset": lambda f, v, _t, _sun: _clamped(f, v + f.strength) if abs(v) <= 2.0 * abs(f.strength) else v,
    "sun_heated": lambda f, v, t, sun: _clamped(f, v + f.strength * sun(t) / SUN_W_M2),
}


# -- the wire ------------------------------------------------------------------------------------------------------------------


class Sent(Protocol):
    """A message on its way out."""

    @property
    def topic(self) -> str:
        """Its topic."""
        ...


Message = TypeVar("Message", bound=Sent)


class Wire:
    """Between a device and its broker: what is late, comes twice, is lost, is kept by a gateway. Times are monotonic [ns]."""

    def __init__(self, random: np.random.Generator) -> None:
        self.late_s = self.duplicate = self.skew_s = 0.0
        self.lost: dict[str, float] = {}  # share of the commands lost, by actuator; "": of all
        self.is_cut = self.is_kept = False
        self._random = random
        self._held: list[tuple[int, int, Any]] = []
        self._count = 0
        self._kept: list[Any] = []

    def is_lost(self, actuator: str) -> bool:
        """Whether a command does not arrive."""
        share = max(self.lost.get("", 0.0), self.lost.get(actuator, 0.0))
        return share > 0.0 and float(self._random.random()) < share

    def carry(self, messages: list[Message], now_ns: int) -> list[Message]:
        """What arrives at the broker now. Who ordered a fault is answered in any case."""
        answers = [message for message in messages if message.topic.endswith("/answer")]
        messages = [message for message in messages if not message.topic.endswith("/answer")]
        if self.is_kept:
            self._kept += messages
            return answers
        if self._kept:
            gap_ns = int(BURST_S * 1e9 / len(self._kept))
            for number, kept in enumerate(self._kept):
                self._hold(kept, now_ns + number * gap_ns)
            self._kept = []
        if not (self._held or self.late_s or self.duplicate):
            return answers + messages
        arriving = answers
        for message in messages:
            is_sample = message.topic.endswith(("/telemetry", "/backfill"))
            for _ in range(2 if self.duplicate and self._random.random() < self.duplicate else 1):
                if is_sample and self.late_s > 0.0:
                    self._hold(message, now_ns + int(self._random.uniform(0.0, self.late_s) * 1e9))
                else:
                    arriving.append(message)
        while self._held and self._held[0][0] <= now_ns:
            arriving.append(heapq.heappop(self._held)[2])
        return arriving

    def _hold(self, message: Any, due_ns: int) -> None:
        self._count += 1
        heapq.heappush(self._held, (due_ns, self._count, message))
