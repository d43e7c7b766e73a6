"""A site's directory (site.yaml, profiles/*.yaml, rules/*.yaml) as one checked SiteConfig.

`profiles:` in site.yaml lists names, looked for in the directory's own profiles/ and then among those shipped. Every mistake is
reported at once with file, line, path and what was expected. Nothing here talks to a running service.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

import devices
from app.documents import Document, Path_, Reading, mistakes
from rules.book import bind, scope
from rules.check import Mistake, binding_mistakes, control_mistakes, rule_mistakes, scope_mistakes
from rules.cohort import key_of
from telemetry.errors import CallerError, ConfigError
from telemetry.plan import Plan
from telemetry.site import DeviceSpec, Profile, RuleSpec, SiteConfig, calibration_problem
from telemetry.unit import unit_problem

SHIPPED: Final = Path(devices.__file__).parent / "profiles"
ITEMS_WITH_NAMES: Final = {"areas": "area", "devices": "device", "points": "point", "actuators": "actuator"}
NAMES_SHOWN: Final = 5
Placed = tuple[RuleSpec, Document, Path_]


def load_site(directory: Path) -> SiteConfig:
    """The checked site. Raises ConfigError with every problem found."""
    reading = Reading()
    document = reading.load(directory / "site.yaml")
    if document is None:
        raise ConfigError(reading.problems)
    if not isinstance(document.value, dict):
        reading.note(document, (), "expected a mapping with site, areas, devices and profiles")
        raise ConfigError(reading.problems)
    profiles, profile_documents = _profiles(reading, directory, document)
    rules = _rules(reading, directory, document)
    site = _site(reading, document, profiles, [rule for rule, _, _ in rules])
    _check_names(reading, document, ("areas", "devices"))
    _check_references(reading, document, profiles)
    _check_calibrations(reading, document, profiles)
    of_profiles = [
        (rule, profile_documents[name], ("rules", index))
        for name, profile in profiles.items()
        for index, rule in enumerate(profile.rules)
    ]
    for placed in of_profiles:
        _note(reading, placed, rule_mistakes(placed[0], profiles.get(placed[1].value.get("name"))))
    _check_site_rules(reading, document, profiles, rules)
    if site is not None and (rules or any(point.is_virtual for profile in profiles.values() for point in profile.points)):
        _check_binding(reading, site, rules, profile_documents)
    for mistake in () if site is None else control_mistakes(site):
        if mistake.path[0] == "profiles":
            reading.note(profile_documents[str(mistake.path[1])], mistake.path[2:], mistake.message)
        else:
            reading.note(document, mistake.path, mistake.message)
    if reading.problems or site is None:
        raise ConfigError(sorted(reading.problems, key=lambda p: (p.file, p.line)))
    return site


def load_rules(place: Path) -> list[RuleSpec]:
    """Rules of a file, of a directory of rule files, or of a whole site (those of its profiles too). ConfigError with every mistake.

    Grammar and form only: whether they fit a site's devices is known where they are bound.
    """
    if (place / "site.yaml").is_file():
        return all_rules(load_site(place))
    reading = Reading()
    files = sorted(place.glob("*.yaml")) if place.is_dir() else [place]
    loaded = [document for file in files if (document := reading.load(file)) is not None]
    rules = _rules_of(reading, [(document, *_rule_list(document)) for document in loaded])
    for placed in rules:
        _note(reading, placed, rule_mistakes(placed[0], None))
    if not rules and not reading.problems:
        raise CallerError(f"{place}: no rules; a rule file is a list of rules, or a mapping with `rules`")
    if reading.problems:
        raise ConfigError(sorted(reading.problems, key=lambda p: (p.file, p.line)))
    return [rule for rule, _, _ in rules]


def all_rules(site: SiteConfig) -> list[RuleSpec]:
    """Rules of a site's profiles, then its own, which replace those of the same id."""
    own = {rule.id for rule in site.rules if not rule.shadow}
    of_profiles = [
        rule.model_copy(update={"profile": rule.profile or name})
        for name, profile in sorted(site.profiles.items())
        for rule in profile.rules
        if rule.id not in own
    ]
    return [*of_profiles, *site.rules]


def _profiles(reading: Reading, directory: Path, document: Document) -> tuple[dict[str, Profile], dict[str, Document]]:
    names, profiles, documents = document.value.get("profiles", []), {}, {}
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        reading.note(document, ("profiles",), "expected a list of profile names, such as [multispan, weather_station]")
        return {}, {}
    for index, name in enumerate(names):
        places = (directory / "profiles" / f"{name}.yaml", SHIPPED / f"{name}.yaml")
        file = next((place for place in places if "/" not in name and place.is_file()), None)
        if file is None:
            shipped = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))
            reading.note(
                document, ("profiles", index), f"no profile {name!r} in {places[0].parent} nor among those shipped ({shipped})"
            )
            continue
        loaded = reading.load(file)
        if loaded is None:
            continue
        profile = reading.validate(loaded, Profile, loaded.value)
        _check_names(reading, loaded, ("points", "actuators"))
        _check_parts(reading, loaded)
        if profile is None:
            continue
        if profile.name != name:
            reading.note(loaded, ("name",), f"must be {name!r}, as the file is called (it is {profile.name!r})")
        profiles[name], documents[name] = profile, loaded
    return profiles, documents


def _rules(reading: Reading, directory: Path, document: Document) -> list[Placed]:
    """Rules of site.yaml, then those of rules/*.yaml (a list, or a mapping with `rules`), in the order of file names."""
    loaded = [found for file in sorted((directory / "rules").glob("*.yaml")) if (found := reading.load(file)) is not None]
    own = (document, document.value.get("rules", []), ("rules",))
    return _rules_of(reading, [own, *((found, *_rule_list(found)) for found in loaded)])


def _rule_list(document: Document) -> tuple[Any, Path_]:
    """A rule file's list and its place: the whole file, or what stands under `rules`."""
    is_mapping = isinstance(document.value, dict)
    return (document.value.get("rules"), ("rules",)) if is_mapping else (document.value, ())


def _rules_of(reading: Reading, sources: list[tuple[Document, Any, Path_]]) -> list[Placed]:
    """Checked rules of lists, in their order."""
    rules: list[Placed] = []
    seen: dict[Any, str] = {}
    for source, value, prefix in sources:
        if not isinstance(value, list):
            reading.note(source, prefix, "expected a list of rules")
            continue
        for index, item in enumerate(value):
            path = (*prefix, index)
            rule = reading.validate(source, RuleSpec, item, path)
            name = (
                (item.get("id"), item.get("shadow") is True) if isinstance(item, dict) else ("", False)
            )  # its shadow may stand beside it
            if isinstance(name[0], str) and name in seen:
                reading.note(source, (*path, "id"), f"rule {name[0]!r} is declared twice (first in {seen[name]})")
            elif isinstance(name[0], str):
                seen[name] = f"{source.file}:{source.line(path)}"
            if rule is not None:
                rules.append((rule, source, path))
    return rules


def _site(reading: Reading, document: Document, profiles: dict[str, Profile], rules: list[RuleSpec]) -> SiteConfig | None:
    whole = {**document.value, "profiles": profiles, "rules": rules}
    try:
        return SiteConfig.model_validate(whole)
    except ValidationError as error:
        for path, message in mistakes(document, error):
            # References and names are told by their own checks with their own line; here they would stand at the head of the file.
            if all(told not in message for told in ("does not exist", "is declared twice", "calibration of")):
                reading.note(document, path, message)
    return None


def _check_names(reading: Reading, document: Document, keys: tuple[str, ...]) -> None:
    """Names that stand twice in a list of things with names; also when other parts of the file are wrong."""
    for key in keys:
        seen: set[str] = set()
        for index, item in _items(document, key):
            for name in _names(item) if key == "devices" else [item.get("name")]:
                if isinstance(name, str) and name in seen:
                    reading.note(document, (key, index, "name"), f"{ITEMS_WITH_NAMES[key]} {name!r} is declared twice")
                elif isinstance(name, str):
                    seen.add(name)


def _check_parts(reading: Reading, document: Document) -> None:
    """Units of a profile's points and actuators, and the points that its actuators are measured by."""
    for key in ("points", "actuators"):
        for index, item in _items(document, key):
            problem = unit_problem(unit) if isinstance(unit := item.get("unit"), str) else ""
            if problem:
                reading.note(document, (key, index, "unit"), problem)
    points = [item.get("name") for _, item in _items(document, "points")]
    for index, item in _items(document, "actuators"):
        if "feedback" in item and item["feedback"] is not None and item["feedback"] not in points:
            reading.note(document, ("actuators", index, "feedback"), f"no point {item['feedback']!r} in this profile")


def _items(document: Document, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    found = document.value.get(key, []) if isinstance(document.value, dict) else []
    if isinstance(found, list):
        yield from ((index, item) for index, item in enumerate(found) if isinstance(item, dict))


def _names(item: dict[str, Any]) -> list[Any]:
    """Names of the devices that a line of the file stands for."""
    try:
        return list(DeviceSpec.model_validate(item).names())
    except ValidationError:
        return [item.get("name")]


def _device_names(document: Document) -> set[str]:
    return {str(name) for _, item in _items(document, "devices") for name in _names(item)}


def _check_references(reading: Reading, document: Document, profiles: dict[str, Profile]) -> None:
    """Areas, profiles and linked devices that are named but do not exist; also when other parts of the file are wrong."""
    areas = {item.get("name") for _, item in _items(document, "areas")}
    listed = document.value.get("profiles", [])
    names = _device_names(document)
    for index, item in _items(document, "devices"):
        if "area" in item and item["area"] not in areas:
            reading.note(document, ("devices", index, "area"), f"area {item['area']!r} does not exist")
        if "profile" in item and item["profile"] not in profiles and item["profile"] not in (listed or []):
            reading.note(
                document, ("devices", index, "profile"), f"profile {item['profile']!r} is not in the site's list of profiles"
            )
    for index, item in _items(document, "areas"):
        links = item.get("links", {})
        for link, target in links.items() if isinstance(links, dict) else ():
            if isinstance(target, str) and "/" not in target and target not in names:
                reading.note(document, ("areas", index, "links", str(link)), f"device {target!r} does not exist")


def _check_calibrations(reading: Reading, document: Document, profiles: dict[str, Profile]) -> None:
    """What cannot be calibrated, and what stands twice; also when other parts of the file are wrong."""
    profile_of = {name: item.get("profile") for _, item in _items(document, "devices") for name in _names(item)}
    seen: set[tuple[Any, Any]] = set()
    for index, item in _items(document, "calibrations"):
        device, point = item.get("device"), item.get("point")
        if device is not None and device not in profile_of:
            reading.note(document, ("calibrations", index, "device"), f"device {device!r} does not exist")
        elif isinstance(point, str) and (profile := profiles.get(profile_of.get(device) or "")) is not None:
            problem = calibration_problem(point, profile)
            if problem:
                reading.note(document, ("calibrations", index, "point"), problem)
        if (device, point) in seen:
            reading.note(document, ("calibrations", index, "point"), f"{device}/{point} is calibrated twice; keep the newer line")
        seen.add((device, point))


def _check_site_rules(reading: Reading, document: Document, profiles: dict[str, Profile], rules: list[Placed]) -> None:
    areas = {item.get("name") for _, item in _items(document, "areas")}
    names = _device_names(document)
    listed = {*profiles, *(document.value.get("profiles") or [])}
    for rule, source, path in rules:
        _note(reading, (rule, source, path), scope_mistakes(rule, listed, areas, names))
        _note(reading, (rule, source, path), rule_mistakes(rule, profiles.get(rule.profile or "")))


def _note(reading: Reading, placed: Placed, mistakes: Iterable[Mistake]) -> None:
    _, source, path = placed
    for mistake in mistakes:
        reading.note(source, (*path, *mistake.path), mistake.message)


def _check_binding(reading: Reading, site: SiteConfig, rules: list[Placed], profiles: dict[str, Document]) -> None:
    """Bind virtual points and the site's rules to its devices as the engine will: links, units across devices, points that are computed
    of themselves, what only a whole rule can get wrong."""
    found = binding_mistakes(site)
    for (profile, index), of_point in found.of_points.items():
        for mistake in of_point:
            reading.note(profiles[profile], ("points", index), mistake.message)
    for rule, source, path in rules:
        if not reading.has(source, path):
            _note(reading, (rule, source, path), found.of_rules.get(key_of(site.site, rule), []))


def notes(site: SiteConfig) -> list[str]:
    """What holds and may still be no intention: rules that a profile brings and that cannot run here, rules that meet no device."""
    plan = Plan()
    plan.apply(site)
    why: dict[str, list[str]] = {}
    for fault in bind(plan).faults:
        why.setdefault(fault.message.rpartition(": ")[2], []).append(fault.key.partition("/")[2].partition("@")[0])
    told = [f"{_listed(names)} cannot run: {message}" for message, names in why.items()]
    idle = [rule.id for rule in site.rules if rule.enabled and not scope(plan, site.site, rule, None)]
    return [*told, *([f"{_listed(idle)}: no device is in its scope"] if idle else [])]


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")
    return f"rule{'s' if len(names) > 1 else ''} {shown}"
