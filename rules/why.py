"""Why a condition held, out of a configuration and what the condition read: the expression with the values put in, and its samples.

Everything is looked up by name in the configuration that was in force, so the answer is the same today and in ten years.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from rules import expression
from rules.clock import CLOCKS
from rules.cohort import STALE_HEARTBEATS
from rules.tree import (
    Clock,
    Group,
    Leaf,
    Node,
    Number,
    PointRef,
    Quality,
    Silent,
    Stale,
    Vote,
    Window,
    children,
    is_condition,
    observed,
    text,
    written,
)
from telemetry.errors import ExpressionError
from telemetry.site import MODES, AreaSpec, DeviceSpec, PointSpec, Profile, RuleSpec, SiteConfig
from telemetry.span import Read

OTHERS_MAX: Final = 20  # of peers or children that are named
_SAME_UNIT: Final = ("mean", "min", "max", "median", "quantile", "ewma", "std", "delta", "ago", "shift", "spread", "sum")
_LONG_NUMBER: Final = re.compile(r"\d+\.\d{12,}")


class Source(NamedTuple):
    """A point that a condition read, and for how long before it looks back [s]."""

    site: str
    device: str
    point: str
    length_s: float


class Reading(NamedTuple):
    """One thing a condition read: its text, its value (None: not known), the value in words, its unit, and the points behind it."""

    text: str
    value: float | None
    words: str
    unit: str
    sources: list[Source]


class Place(NamedTuple):
    """A device in its configuration."""

    config: SiteConfig
    name: str
    spec: DeviceSpec
    area: AreaSpec
    profile: Profile

    def rule(self, rule_id: str, *, shadow: bool = False) -> RuleSpec | None:
        """The rule of that name that stands on the device: the site's own before the profile's. None when there is none."""
        own = [rule for rule in self.config.rules if rule.id == rule_id and rule.shadow == shadow]
        for rule in own or [rule for rule in self.profile.rules if rule.id == rule_id and rule.shadow == shadow]:
            tags = {*self.spec.tags, *self.area.tags}
            in_scope = rule.profile in {None, self.profile.name} and rule.area in {None, self.area.name}
            if in_scope and (rule.devices is None or self.name in rule.devices) and (rule.tag is None or rule.tag in tags):
                return rule
        return None


def place(config: SiteConfig, name: str) -> Place | None:
    """The device of that name; None when the configuration has none."""
    spec = next((spec for spec in config.devices if _stands_for(spec, name)), None)
    if spec is None:
        return None
    area = next(area for area in config.areas if area.name == spec.area)
    return Place(config, name, spec, area, config.profiles[spec.profile])


def _stands_for(spec: DeviceSpec, name: str) -> bool:
    if spec.count is None:
        return spec.name == name
    base, _, number = name.rpartition("-")
    return base == spec.name and number.isdecimal() and str(int(number)) == number and int(number) < spec.count


def filled(rule: RuleSpec, at: Place, read: Read) -> tuple[str, list[Reading]]:
    """The rule's condition with the values put in, "air_temp_c (38.4 C) > 38", and what it read."""
    node = _tree(rule.when, at)
    if node is None:
        return rule.when, [Reading(name, value, _words(value), "", []) for name, value in read.items()]
    known = {text(leaf): leaf for leaf in observed(node)}
    readings = {name: _reading(leaf, read[name], at) for name, leaf in known.items() if name in read}

    def with_value(part: Leaf | Number) -> str:
        if isinstance(part, Number):
            return f"{part.value:.12g}"
        reading = readings.get(text(part))
        return _short(text(part)) if reading is None else f"{reading.text} ({f'{reading.words} {reading.unit}'.rstrip()})"

    return written(node, with_value), list(readings.values())


def observed_by(names: Sequence[str], at: Place, read: Read) -> list[Reading]:
    """Points among the inputs of a controller that the device or its links have; values where they are told in `read`."""
    found = []
    for name in names:
        link, _, point = name.rpartition(".")
        leaf = PointRef(link or None, point)
        if link != "set" and _spec(leaf, at) is not None:
            value = read.get(name)
            words = "" if value is None else _words(value, leaf, at)
            found.append(Reading(name, value, words, _unit(leaf, at), list(_sources(leaf, at, 0.0))))
    return found


def _tree(when: str, at: Place) -> Node | None:
    """The condition's tree; None when it cannot be read by this build."""
    for names in (_names(at), expression.ANYTHING):
        try:
            return expression.parse(when, names, want="condition")
        except ExpressionError:  # a link to another site: its points are not in this configuration
            continue
    return None


def _names(at: Place) -> expression.Names:
    links = {link: target.profile for link in (*at.area.links, "parent") if (target := _linked(link, at)) is not None}
    below = [spec for spec in at.config.devices if spec.parent == at.name]
    return expression.Names(
        points=_points(at.profile),
        links={link: _points(profile) for link, profile in links.items()},
        children={name: point for spec in below for name, point in _points(at.config.profiles[spec.profile]).items()},
        setpoints={name: spec.unit for name, spec in at.area.setpoints.items()},
    )


def _points(profile: Profile) -> dict[str, PointSpec]:
    return {point.name: point for point in profile.points}


def _linked(link: str, at: Place) -> Place | None:
    """The device of the same site behind a link; None when there is none."""
    target = at.spec.parent if link == "parent" else at.area.links.get(link)
    return None if target is None or "/" in target else place(at.config, target)


def _reading(leaf: Leaf, value: float | None, at: Place) -> Reading:
    return Reading(_short(text(leaf)), value, _words(value, leaf, at), _unit(leaf, at), list(_sources(leaf, at, 0.0)))


def _short(words: str) -> str:
    """Numbers of a canonical text as people write them."""
    return _LONG_NUMBER.sub(lambda found: f"{float(found.group()):.12g}", words)


def _words(value: float | None, leaf: Leaf | None = None, at: Place | None = None) -> str:
    if value is None:
        return "unknown"
    if leaf is not None and is_condition(leaf):
        return "true" if value else "false"
    if isinstance(leaf, Clock) and leaf.name == "mode" and 0 <= value < len(MODES):
        return MODES[int(value)]
    spec = _spec(leaf, at) if isinstance(leaf, PointRef) and at is not None else None
    labels = (spec.labels if spec is not None else None) or {}
    return labels.get(int(value), f"{value:.6g}") if value == int(value) else f"{value:.6g}"


def _spec(point: PointRef, at: Place) -> PointSpec | None:
    owner = at if point.link is None else _linked(point.link, at)
    return None if owner is None else _points(owner.profile).get(point.name)


def _unit(leaf: Leaf, at: Place) -> str:
    """Unit of what a leaf says; "" for plain numbers and where it is not known."""
    match leaf:
        case PointRef():
            spec = _spec(leaf, at)
            return "" if spec is None or spec.unit == "bool" or spec.labels else spec.unit
        case Vote(_, sensors):
            return _unit(sensors[0], at)
        case Window("rate" | "slope", PointRef() as point, _, _):
            unit = _unit(point, at)
            return f"{unit}/min" if unit else ""
        case Window(fn, PointRef() as point, _, _) if fn in _SAME_UNIT:
            return _unit(point, at)
        case Group(fn, "peers" | "members", PointRef(None, _) as point) if fn in _SAME_UNIT:
            return _unit(point, at)
        case Clock(name) if name.startswith("set."):
            setpoint = at.area.setpoints.get(name.removeprefix("set."))
            return "" if setpoint is None else setpoint.unit
        case Clock(name):
            return CLOCKS.get(name) or ""
    return ""


def _sources(node: Node, at: Place, length_s: float) -> Iterator[Source]:
    """Points behind a part of a condition, each once by the order of the text."""
    match node:
        case PointRef(None, name):
            beat_s = next((point.beat_s for point in at.profile.points if point.name == name), 60.0)
            yield Source(at.config.site, at.name, name, max(length_s, STALE_HEARTBEATS * beat_s))
        case PointRef(link, name):
            target = at.spec.parent if link == "parent" else at.area.links.get(str(link))
            other = _linked(str(link), at)
            if other is not None:
                yield from _sources(PointRef(None, name), other, length_s)
            elif target is not None:
                site, _, device = target.rpartition("/")
                yield Source(site or at.config.site, device, name, max(length_s, STALE_HEARTBEATS * 60.0))
        case Quality(point):
            yield from _sources(point, at, length_s)
        case Vote(_, sensors):
            for sensor in sensors:
                yield from _sources(sensor, at, length_s)
        case Stale(point, length_ns):
            yield from _sources(point, at, max(length_s, length_ns / 1e9))
        case Window(_, arg, length_ns, _):
            yield from _sources(arg, at, length_s + length_ns / 1e9)
        case Group(_, "members", arg):
            yield from _sources(arg, at, length_s)
        case Group(_, of, arg):
            for other in _others(of, at):
                yield from _sources(arg, other, length_s)
        case Silent() | Clock() | Number():
            return
        case _:
            for child in children(node):
                yield from _sources(child, at, length_s)


def _others(of: str, at: Place) -> Iterator[Place]:
    """The first peers or children of a device."""
    found = 0
    for spec in at.config.devices:
        is_peer = (spec.profile, spec.area) == (at.spec.profile, at.spec.area)
        if not (is_peer if of == "peers" else spec.parent == at.name):
            continue
        for name in spec.names()[: OTHERS_MAX + 1]:
            other = place(at.config, name)
            if name != at.name and other is not None and found < OTHERS_MAX:
                found += 1
                yield other
