"""A site's directory (site.yaml, profiles/*.yaml, rules/*.yaml) as one checked SiteConfig.

`profiles:` in site.yaml lists names, looked for in the directory's own profiles/ and then among those shipped. Every mistake is
reported at once with file, line, path and what was expected: YAML nodes are composed with their marks, and each error of the model
is led back to the node it is about. Nothing here talks to a running service.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError

import devices
from rules import expression
from telemetry.errors import ConfigError, ExpressionError, Problem
from telemetry.site import DeviceSpec, Profile, RuleSpec, SiteConfig

SHIPPED: Final = Path(devices.__file__).parent / "profiles"
FILE_BYTES_MAX: Final = 4 << 20  # a site of 10,000 written-out devices is 1 MB; beyond this it is a mistake or an attack
Path_ = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """Safe, and a key that stands twice is an error: the first one would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping with unique keys."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen and key.value != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


@dataclass(slots=True)
class Document:
    """One YAML file: its value, and the node tree that knows the lines."""

    file: Path
    value: Any
    root: yaml.Node | None

    def line(self, path: Sequence[str | int]) -> int:
        """Line of the deepest node on `path` that exists (1-based)."""
        node, line = self.root, 1
        if node is not None:
            line = node.start_mark.line + 1
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            line, node = found
        return line


def _child(node: yaml.Node | None, step: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.line + 1, node.value[step]
    return None


@dataclass(slots=True)
class _Reading:
    """Problems found so far."""

    root: Path
    problems: list[Problem] = field(default_factory=list)

    def note(self, document: Document, path: Sequence[str | int], message: str) -> None:
        name = ".".join(str(step) for step in path) or "(whole file)"
        problem = Problem(str(document.file), document.line(path), name, message)
        if problem not in self.problems:
            self.problems.append(problem)

    def load(self, file: Path) -> Document | None:
        """The file's document; None (and a problem) when it cannot be read."""
        try:
            if file.stat().st_size > FILE_BYTES_MAX:
                self.problems.append(Problem(str(file), 1, "(whole file)", f"is larger than {FILE_BYTES_MAX >> 20} MB"))
                return None
            text = file.read_text("utf-8")
            root = yaml.compose(text, Loader=_Loader)
            return Document(file, yaml.load(text, Loader=_Loader), root)
        except FileNotFoundError:
            self.problems.append(Problem(str(file), 1, "(whole file)", "does not exist"))
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(Problem(str(file), 1, "(whole file)", f"cannot be read: {error}"))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.problems.append(Problem(str(file), mark.line + 1 if mark else 1, "YAML", f"{error.problem or error.context}"))
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            self.problems.append(
                Problem(str(file), 1, "YAML", str(error).splitlines()[0] if str(error) else "is nested too deeply")
            )
        return None

    def validate(self, document: Document, model: type[BaseModel], value: Any, prefix: Path_ = ()) -> Any:
        """The model; None and its problems otherwise."""
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                for message in _messages(dict(item)):
                    self.note(document, (*prefix, *item["loc"]), message)
        return None


def _messages(item: dict[str, Any]) -> list[str]:
    """What was expected, in words; the model's own checks may join several with "; "."""
    if item["type"] == "extra_forbidden":
        return ["is not a known field"]
    if item["type"] == "missing":
        return ["is missing"]
    message = str(item["msg"])
    if message.startswith("Value error, "):
        return message.removeprefix("Value error, ").split("; ")
    given = repr(item["input"])
    return [f"{message} (it is {given if len(given) < 60 else given[:57] + '...'})"]


def load_site(directory: Path) -> SiteConfig:
    """The checked site. Raises ConfigError with every problem found."""
    reading = _Reading(directory)
    document = reading.load(directory / "site.yaml")
    if document is None:
        raise ConfigError(reading.problems)
    if not isinstance(document.value, dict):
        reading.note(document, (), "expected a mapping with site, areas, devices and profiles")
        raise ConfigError(reading.problems)
    profiles, profile_documents = _profiles(reading, document)
    rules, rule_places = _rules(reading, document)
    site = _site(reading, document, profiles, rules)
    _check_references(reading, document, profiles)
    _check_expressions(reading, document, profiles, profile_documents, rules, rule_places)
    if reading.problems or site is None:
        raise ConfigError(sorted(reading.problems, key=lambda p: (p.file, p.line)))
    return site


def _profiles(reading: _Reading, document: Document) -> tuple[dict[str, Profile], dict[str, Document]]:
    names, profiles, documents = document.value.get("profiles", []), {}, {}
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        reading.note(document, ("profiles",), "expected a list of profile names, such as [multispan, weather_station]")
        return {}, {}
    for index, name in enumerate(names):
        places = (reading.root / "profiles" / f"{name}.yaml", SHIPPED / f"{name}.yaml")
        file = next((place for place in places if "/" not in name and place.is_file()), None)
        if file is None:
            shipped = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))
            reading.note(
                document, ("profiles", index), f"no profile {name!r} in {places[0].parent} nor among those shipped ({shipped})"
            )
            continue
        loaded = reading.load(file)
        profile = None if loaded is None else reading.validate(loaded, Profile, loaded.value)
        if profile is None or loaded is None:
            continue
        if profile.name != name:
            reading.note(loaded, ("name",), f"must be {name!r}, as the file is called (it is {profile.name!r})")
        profiles[name], documents[name] = profile, loaded
    return profiles, documents


def _rules(reading: _Reading, document: Document) -> tuple[list[RuleSpec], list[tuple[Document, Path_]]]:
    """Rules of site.yaml, then those of rules/*.yaml (a list, or a mapping with `rules`), in the order of file names."""
    sources: list[tuple[Document, Any, Path_]] = [(document, document.value.get("rules", []), ("rules",))]
    for file in sorted((reading.root / "rules").glob("*.yaml")):
        loaded = reading.load(file)
        if loaded is not None:
            is_mapping = isinstance(loaded.value, dict)
            sources.append((loaded, loaded.value.get("rules") if is_mapping else loaded.value, ("rules",) if is_mapping else ()))
    rules: list[RuleSpec] = []
    places: list[tuple[Document, Path_]] = []
    for source, value, prefix in sources:
        if not isinstance(value, list):
            reading.note(source, prefix, "expected a list of rules")
            continue
        for index, item in enumerate(value):
            rule = reading.validate(source, RuleSpec, item, (*prefix, index))
            if rule is not None:
                rules.append(rule)
                places.append((source, (*prefix, index)))
    for at, rule in enumerate(rules):
        if rule.id in {earlier.id for earlier in rules[:at]}:
            reading.note(places[at][0], (*places[at][1], "id"), f"rule {rule.id!r} is declared twice")
    return rules, places


def _site(reading: _Reading, document: Document, profiles: dict[str, Profile], rules: list[RuleSpec]) -> SiteConfig | None:
    whole = {**document.value, "profiles": profiles, "rules": rules}
    try:
        return SiteConfig.model_validate(whole)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            # References are told by `_check_references` with their own line; here they would stand at the head of the file.
            if item["loc"] or "does not exist" not in item["msg"]:
                for message in _messages(dict(item)):
                    reading.note(document, item["loc"], message)
    return None


def _items(document: Document, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    found = document.value.get(key, [])
    if isinstance(found, list):
        yield from ((index, item) for index, item in enumerate(found) if isinstance(item, dict))


def _device_names(document: Document) -> set[str]:
    names: set[str] = set()
    for _, item in _items(document, "devices"):
        try:
            names.update(DeviceSpec.model_validate(item).names())
        except ValidationError:
            names.add(str(item.get("name")))
    return names


def _check_references(reading: _Reading, document: Document, profiles: dict[str, Profile]) -> None:
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


def _check_expressions(
    reading: _Reading,
    document: Document,
    profiles: dict[str, Profile],
    documents: dict[str, Document],
    rules: list[RuleSpec],
    places: list[tuple[Document, Path_]],
) -> None:
    areas = {item.get("name") for _, item in _items(document, "areas")}
    names = _device_names(document)
    for name, profile in profiles.items():
        for index, rule in enumerate(profile.rules):
            _check_rule(reading, documents[name], ("rules", index), rule, profile)
    for rule, (source, path) in zip(rules, places, strict=True):
        if rule.profile is not None and rule.profile not in profiles:
            reading.note(source, (*path, "profile"), f"profile {rule.profile!r} is not in the site's list of profiles")
        if rule.area is not None and rule.area not in areas:
            reading.note(source, (*path, "area"), f"area {rule.area!r} does not exist")
        for index, device in enumerate(rule.devices or []):
            if device not in names:
                reading.note(source, (*path, "devices", index), f"device {device!r} does not exist")
        _check_rule(reading, source, path, rule, profiles.get(rule.profile or ""))


def _check_rule(reading: _Reading, source: Document, path: Path_, rule: RuleSpec, profile: Profile | None) -> None:
    """Grammar of the texts, and names of points and actuators where the rule has one profile."""
    texts: list[tuple[Path_, str]] = [((*path, "when"), rule.when)]
    if rule.clear is not None:
        texts.append(((*path, "clear"), rule.clear))
    if rule.demand is not None and isinstance(rule.demand.value, str):
        texts.append(((*path, "demand", "value"), rule.demand.value))
    for place, text in texts:
        try:
            node = expression.parse(text)
        except ExpressionError as error:
            reading.note(source, place, str(error))
            continue
        for name in _own_points(node) if profile is not None else ():
            if profile is not None and name not in {point.name for point in profile.points}:
                reading.note(source, place, f"profile {profile.name!r} has no point {name!r}")
    if profile is not None and rule.demand is not None and rule.demand.actuator not in {a.name for a in profile.actuators}:
        reading.note(source, (*path, "demand", "actuator"), f"profile {profile.name!r} has no actuator {rule.demand.actuator!r}")


def _own_points(node: expression.Node) -> list[str]:
    """Names of points of the rule's own device, in the order they appear."""
    names: list[str] = []
    for reference in expression.references(node):
        point = reference.point if isinstance(reference, expression.Window) else reference
        if isinstance(point, expression.PointRef) and point.link is None:
            names.append(point.name)
    return list(dict.fromkeys(names))
