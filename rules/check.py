"""What is wrong with rules: what `fieldloom check` tells with lines of files, and the API with paths. Pure."""

from collections.abc import Container, Iterator, Mapping
from typing import Any, NamedTuple

from rules import expression
from rules.book import bind
from rules.cohort import key_of
from rules.control.stage import parameters_of
from telemetry.errors import CallerError, ExpressionError
from telemetry.plan import Plan
from telemetry.site import ControllerSpec, Profile, RuleSpec, SiteConfig

Path = tuple[str | int, ...]


class Mistake(NamedTuple):
    """path: where it stands in what was looked at, such as ("demand", "value") of a rule. message: with line, column and the fix."""

    path: Path
    message: str


def rule_mistakes(rule: RuleSpec, profile: Profile | None) -> Iterator[Mistake]:
    """Grammar and kind of a rule's texts; points, units and actuator where it has one profile. Links are left to `binding_mistakes`."""
    names = expression.Names(points=None if profile is None else {point.name: point for point in profile.points})
    for path, text, want in _texts(rule):
        try:
            expression.parse(text, names, want=want)
        except ExpressionError as error:
            yield Mistake(path, str(error))
    if profile is None or rule.demand is None:
        return
    known = [actuator.name for actuator in profile.actuators]
    if rule.demand.actuator not in known:
        message = f"profile {profile.name!r} has no actuator {rule.demand.actuator!r}{expression.near(rule.demand.actuator, known)}"
        yield Mistake(("demand", "actuator"), message)


def _texts(rule: RuleSpec) -> Iterator[tuple[Path, str, expression.Want]]:
    """A rule's expressions: where, what, and whether a condition or a number is wanted."""
    yield ("when",), rule.when, "condition"
    if rule.clear is not None:
        yield ("clear",), rule.clear, "condition"
    if rule.demand is not None and isinstance(rule.demand.value, str):
        yield ("demand", "value"), rule.demand.value, "number"
    if rule.suppress_when is not None:
        yield ("suppress_when",), rule.suppress_when, "condition"


def scope_mistakes(
    rule: RuleSpec, profiles: Container[object], areas: Container[object], devices: Container[object]
) -> Iterator[Mistake]:
    """What the scope of a site's rule names and the site does not have."""
    if rule.profile is not None and rule.profile not in profiles:
        yield Mistake(("profile",), f"profile {rule.profile!r} is not in the site's list of profiles")
    if rule.area is not None and rule.area not in areas:
        yield Mistake(("area",), f"area {rule.area!r} does not exist")
    for index, device in enumerate(rule.devices or []):
        if device not in devices:
            yield Mistake(("devices", index), f"device {device!r} does not exist")


class Unbound(NamedTuple):
    """What keeps the engine from binding. of_rules: by `key_of` a rule; of_points: by profile and the point's place in its list."""

    of_rules: dict[str, list[Mistake]]
    of_points: dict[tuple[str, int], list[Mistake]]


def binding_mistakes(site: SiteConfig) -> Unbound:
    """Links and units across devices, virtual points that are computed of themselves: what only the devices of the site can tell."""
    plan = Plan()
    plan.apply(site)
    found = Unbound({}, {})
    for fault in dict.fromkeys(bind(plan).faults):
        if fault.point is None:
            found.of_rules.setdefault(fault.key, []).append(Mistake(tuple(fault.field.split(".")), fault.message))
        else:
            profile, name = fault.point
            index = [point.name for point in site.profiles[profile].points].index(name)
            found.of_points.setdefault((profile, index), []).append(Mistake((), fault.message))
    return found


def site_mistakes(site: SiteConfig) -> list[Mistake]:
    """Every mistake in the virtual points and rules of a site and of its profiles; a profile's rule that only finds no link is none."""
    unbound = binding_mistakes(site)
    found = [
        Mistake(("profiles", profile, "points", index), m.message) for (profile, index), ms in unbound.of_points.items() for m in ms
    ]
    for name, profile in site.profiles.items():
        for index, rule in enumerate(profile.rules):
            found += _placed(("profiles", name, "rules", index), rule, rule_mistakes(rule, profile))
    found += control_mistakes(site)
    areas = {area.name for area in site.areas}
    devices = {name for spec in site.devices for name in spec.names()}
    known: set[tuple[str, bool]] = set()
    for index, rule in enumerate(site.rules):
        profile_of = None if rule.profile is None else site.profiles.get(rule.profile)
        own = [*scope_mistakes(rule, site.profiles, areas, devices), *rule_mistakes(rule, profile_of)]
        if (rule.id, rule.shadow) in known:
            own.append(Mistake(("id",), "is declared twice; a rule may have one shadow of its name beside it"))
        known.add((rule.id, rule.shadow))
        found += _placed(("rules", index), rule, own or unbound.of_rules.get(key_of(site.site, rule), []))
    return found


def control_mistakes(site: SiteConfig) -> Iterator[Mistake]:
    """Kinds and parameters of controllers, in profiles and in areas where devices of these stand."""
    standing: dict[str, set[str]] = {}
    for device in site.devices:
        standing.setdefault(device.area, set()).add(device.profile)
    for name, profile in site.profiles.items():
        for index, spec in enumerate(profile.controllers):
            yield from _control_mistakes(spec, {}, ("profiles", name, "controllers", index))
    for at, area in enumerate(site.areas):
        here = [spec for name in sorted(standing.get(area.name, ())) for spec in site.profiles[name].controllers]
        for controller, own in area.control.items():
            place: Path = ("areas", at, "control", controller)
            specs = [spec for spec in here if spec.id == controller]
            for spec in specs:
                yield from _control_mistakes(spec, own, place)
            if not specs:
                near = expression.near(controller, sorted({spec.id for spec in here}))
                yield Mistake(place, f"no device of this area has a controller {controller!r}{near}")


def _control_mistakes(spec: ControllerSpec, own: Mapping[str, Any], place: Path) -> Iterator[Mistake]:
    try:
        parameters_of(spec, own)
    except CallerError as error:
        yield Mistake(place, f"controller {spec.id}: {error}")


def _placed(path: Path, rule: RuleSpec, mistakes: "Iterator[Mistake] | list[Mistake]") -> list[Mistake]:
    return [Mistake((*path, *mistake.path), f"rule {rule.id}: {mistake.message}") for mistake in mistakes]
