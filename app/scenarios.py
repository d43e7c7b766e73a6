"""Scenarios of rules: what points read, and what must follow. They run through the engine itself, side by side as areas of one site.

A file (docs/rules-testing.md) is about one profile, or lies in a site's `scenarios/` and is about its devices. What a scenario does not
mention reads what `normal` says; what it does not expect must not happen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

import devices
from app.documents import Document, Reading
from app.series import Part, length_ns, parse_series
from telemetry.errors import CallerError, ConfigError
from telemetry.plan import NS_PER_S
from telemetry.site import MODES, AreaSpec, DeviceSpec, Name, PointName, Profile, SetpointSpec, SiteConfig

SHIPPED: Final = Path(devices.__file__).parent / "scenarios"
SITE: Final = "scenarios"
ZONE: Final = "Asia/Shanghai"
FRAMES: Final = "frames"  # the series that says when a device speaks at all
_TOLERANCE_NS: Final = NS_PER_S // 4  # a moment that is written alone is meant exactly, to what a reader writes


def _as_text(value: Any) -> Any:
    return f"{float(value):g}" if isinstance(value, int | float) else value


Series = Annotated[str, BeforeValidator(_as_text), Field(max_length=2_000)]
Spans = str | list[str | list[str]] | None


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Other(_Model):
    """Another device of a scenario: a neighbour in its area (a peer when the profile is the same), a link of it, a part of it."""

    profile: Name
    link: bool = False
    parent: bool = False  # it is a part of the scenario's device
    above: bool = False  # the scenario's device is a part of it


class Demanded(_Model):
    """What an actuator is told at a time after the begin; by: the rule that wins."""

    actuator: PointName
    at: str
    value: float
    by: str | None = None


class Ask(_Model):
    """What somebody asks at a time: a kind of request with its body; `alarm` names a rule, `actuator` one of the scenario's device."""

    at: str
    kind: str
    author: str = "operator"
    body: dict[str, Any] = {}


class Scenario(_Model):
    """One course of events. `rule`: what it is about; `active`: when these are on, without it never; `also`: others that come too."""

    name: str = Field(max_length=200)
    rule: str | list[str]
    row: str = ""
    device: Name | None = None
    start: str | None = None
    every: str | None = None
    lasts: str | None = None
    bare: bool = False  # without what is normal: only its own series are sent
    mode: str | None = None
    day: int | None = None
    setpoints: dict[PointName, float] = {}
    others: dict[PointName, Other] = {}
    series: dict[str, Series] = {}
    requests: list[Ask] = []
    active: Spans = None
    also: dict[str, Spans] = {}
    states: list[str] | None = None
    demands: list[Demanded] = []

    @property
    def rules(self) -> list[str]:
        """Rules it is about."""
        return [self.rule] if isinstance(self.rule, str) else self.rule

    @field_validator("mode")
    @classmethod
    def _known_mode(cls, mode: str | None) -> str | None:
        if mode is not None and mode not in MODES:
            msg = f"no mode {mode!r}; there are {', '.join(MODES)}"
            raise ValueError(msg)
        return mode

    @field_validator("start")
    @classmethod
    def _readable(cls, start: str | None) -> str | None:
        if start is not None:
            datetime.fromisoformat(start)
        return start


class ScenarioFile(_Model):
    """Scenarios of one profile (or, without `profile`, of the site whose directory holds them)."""

    profile: Name | None = None
    rows: dict[str, str] = {}  # what the alarm tables of the field ask for, by the name that a scenario's `row` gives
    start: str = "2026-03-21 09:00"
    every: str = "1 min"
    others: dict[PointName, Other] = {}
    setpoints: dict[PointName, SetpointSpec] = {}
    normal: dict[str, Series] = {}
    scenarios: list[Scenario]


@dataclass(slots=True)
class Case:
    """A scenario with its place in a site: its devices by the name that series call them ("" is its own), its signals."""

    scenario: Scenario
    document: Document
    index: int
    profile: Profile
    start_ns: int
    every_ns: int
    end_ns: int = 0  # after the start
    devices: dict[str, str] = field(default_factory=dict)  # prefix -> "site/device"
    profiles: dict[str, Profile] = field(default_factory=dict)  # prefix -> profile
    area: str = ""  # "site/area"
    signals: dict[str, dict[str, list[Part]]] = field(default_factory=dict)  # prefix -> point -> parts
    expected: dict[str, list[tuple[tuple[int, int], tuple[int, int] | None]]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Names it in reports."""
        return f"{self.document.file.stem}: {', '.join(self.scenario.rules)}: {self.scenario.name}"


@dataclass(slots=True)
class Suite:
    """The cases of one file, and the sites they stand in."""

    document: Document
    file: ScenarioFile
    cases: list[Case]
    sites: list[SiteConfig]


def window(text: str) -> tuple[int, int]:
    """(earliest, latest) [ns] of `13 min` or `13 min .. 14 min`."""
    first, dots, last = text.partition("..")
    if dots:
        return length_ns(first), length_ns(last)
    return length_ns(text) - _TOLERANCE_NS, length_ns(text) + _TOLERANCE_NS


def spans(given: Spans) -> list[tuple[tuple[int, int], tuple[int, int] | None]]:
    """Expected spans: `13 min`, `[13 min, 24 min]` or a list of such; "never" and nothing are none."""
    if given is None or given == "never":
        return []
    if isinstance(given, str):
        return [(window(given), None)]
    if all(isinstance(one, str) for one in given):
        given = [[str(one) for one in given]]
    out: list[tuple[tuple[int, int], tuple[int, int] | None]] = []
    for one in given:
        pair = [one] if isinstance(one, str) else one
        if not 1 <= len(pair) <= 2:
            raise CallerError(f"{pair} is no span; write [when it comes on, when it goes off]")
        out.append((window(pair[0]), window(pair[1]) if len(pair) == 2 else None))
    return out


# -- from files to cases -----------------------------------------------------------------------------------------------------------


def load_file(reading: Reading, path: Path) -> tuple[Document, ScenarioFile] | None:
    """A scenario file; None and its problems when it is none."""
    document = reading.load(path)
    file = None if document is None else reading.validate(document, ScenarioFile, document.value)
    return None if document is None or file is None else (document, file)


def load_profile(reading: Reading, document: Document, name: str, shipped: Path) -> Profile | None:
    """A profile by name: beside the file's directory, else among those shipped."""
    places = (document.file.parent.parent / "profiles" / f"{name}.yaml", shipped / f"{name}.yaml")
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        reading.note(document, ("profile",), f"no profile {name!r} in {places[0].parent} nor in {shipped}")
        return None
    loaded = reading.load(found)
    profile = None if loaded is None else reading.validate(loaded, Profile, loaded.value)
    return profile if isinstance(profile, Profile) else None


def case_of(
    reading: Reading, document: Document, file: ScenarioFile, index: int, profiles: dict[str, Profile], *, zone: str = ZONE
) -> Case | None:
    """A scenario as a case, with its signals; None and its problems when it says what cannot be."""
    scenario = file.scenarios[index]
    own = profiles[""]
    at = datetime.fromisoformat(scenario.start or file.start).replace(tzinfo=ZoneInfo(zone))
    try:
        every_ns = length_ns(scenario.every or file.every)
        case = Case(scenario, document, index, own, int(at.timestamp()) * NS_PER_S, every_ns, profiles=profiles)
        case.signals = _signals(case, file)
        ends = [part.end or part.start for points in case.signals.values() for parts in points.values() for part in parts]
        case.end_ns = max(ends) if scenario.lasts is None else length_ns(scenario.lasts)
        expected = dict.fromkeys(scenario.rules, scenario.active) | scenario.also
        case.expected = {rule: spans(given) for rule, given in expected.items()}
        for rule in expected:
            if all(rule != known.id for profile in profiles.values() for known in profile.rules):
                raise CallerError(
                    f"no rule {rule!r} in the profiles of this scenario ({', '.join(p.name for p in profiles.values())})"
                )
        if scenario.row and scenario.row not in file.rows:
            raise CallerError(f"no row {scenario.row!r} under `rows`")
        for moment in [*(asked.at for asked in scenario.requests), *(told.at for told in scenario.demands)]:
            length_ns(moment)
        if case.end_ns <= 0:
            raise CallerError("nothing says how long this lasts; give a part a length, or write `lasts`")
    except CallerError as error:
        reading.note(document, ("scenarios", index), str(error))
        return None
    return case


def _signals(case: Case, file: ScenarioFile) -> dict[str, dict[str, list[Part]]]:
    """Parts by device and point; what is normal, then what the scenario says."""
    found: dict[str, dict[str, list[Part]]] = {prefix: {} for prefix in case.profiles}
    for given, is_own in (({} if case.scenario.bare else file.normal, False), (case.scenario.series, True)):
        for key, text in given.items():
            prefix, _, point = key.rpartition(".")
            if prefix not in case.profiles:
                if is_own:
                    raise CallerError(f"{key!r}: no device {prefix!r} in this scenario; add it under `others`")
                continue
            name, first, last = of_members(point)
            spec = next((spec for spec in case.profiles[prefix].points if spec.name == name), None)
            if spec is None and point != FRAMES:
                raise CallerError(f"{key!r}: profile {case.profiles[prefix].name!r} has no point {name!r}")
            if spec is not None and spec.is_virtual:
                raise CallerError(f"{key!r} is computed by {spec.formula}; give the points that it reads")
            if first and not (spec is not None and spec.members is not None and first <= last <= spec.members):
                raise CallerError(f"{key!r}: {name!r} has {(spec.members if spec else None) or 'no'} members")
            labels = {label: float(code) for code, label in ((spec.labels if spec else None) or {}).items()} | {"sent": 1.0}
            try:
                found[prefix][point] = parse_series(text, labels)
            except CallerError as error:
                raise CallerError(f"{key}: {error}") from None
    for points in found.values():
        for point in points:
            if (name := of_members(point)[0]) not in points:
                raise CallerError(f"{point!r}: say what the other members read too, with a series {name!r}")
    return found


def of_members(key: str) -> tuple[str, int, int]:
    """(point, first, last member) of `spindle_rpm 7` or `spindle_rpm 7-14`; (point, 0, 0) of a whole point. Raises CallerError."""
    name, space, numbers = key.partition(" ")
    first, _, last = numbers.partition("-")
    if not space:
        return name, 0, 0
    if not first.isdecimal() or not (last or first).isdecimal() or int(first) < 1:
        raise CallerError(f"{key!r}: members are written as in {f'{name} 7'!r} or {f'{name} 7-14'!r}, counted from 1")
    return name, int(first), int(last or first)


def load_suite(reading: Reading, path: Path, shipped: Path) -> Suite | None:
    """The scenarios of a profile's file, all as areas of one site."""
    loaded = load_file(reading, path)
    if loaded is None:
        return None
    document, file = loaded
    if file.profile is None:
        reading.note(document, ("profile",), "is missing: a file outside a site's directory says whose rules it tests")
        return None
    known: dict[str, Profile] = {}
    cases = []
    for index, scenario in enumerate(file.scenarios):
        names = {"": file.profile} | {prefix: other.profile for prefix, other in (file.others | scenario.others).items()}
        for name in names.values():
            if name not in known:
                profile = load_profile(reading, document, name, shipped)
                if profile is None:
                    return None
                known[name] = profile
        case = case_of(reading, document, file, index, {prefix: known[name] for prefix, name in names.items()})
        if case is not None:
            cases.append(case)
    return Suite(document, file, cases, [compose(file, cases, SITE)] if cases else [])


def compose(file: ScenarioFile, cases: Sequence[Case], site: str) -> SiteConfig:
    """One site in which every case has an area of its own; each case's profiles by their names."""
    areas, placed, profiles = [], [], {}
    for number, case in enumerate(cases):
        area, others = f"a{number}", file.others | case.scenario.others
        case.area = f"{site}/{area}"
        case.devices = {prefix: f"{site}/{area}-{prefix.replace('_', '-') or 'device'}" for prefix in case.profiles}
        names = {prefix: key.partition("/")[2] for prefix, key in case.devices.items()}
        above = next((names[prefix] for prefix, other in others.items() if other.above), None)
        setpoints = {
            **file.setpoints,
            **{name: file.setpoints[name].model_copy(update={"value": value, "by_day": None, "by_hour": None})
               for name, value in case.scenario.setpoints.items() if name in file.setpoints},
        }  # fmt: skip
        areas.append(
            AreaSpec(
                name=area, links={prefix: names[prefix] for prefix, other in others.items() if other.link}, setpoints=setpoints
            )
        )
        for prefix, profile in case.profiles.items():
            parent = above if prefix == "" else names[""] if others[prefix].parent else None
            placed.append(DeviceSpec(name=names[prefix], profile=profile.name, area=area, parent=parent))
            profiles[profile.name] = profile
    return SiteConfig(site=site, areas=areas, devices=placed, profiles=profiles, zone=ZONE)


def load_all(files: Sequence[Path], shipped: Path) -> list[Suite]:
    """Every file's suite. Raises ConfigError with every mistake found."""
    reading = Reading()
    suites = [suite for path in files if (suite := load_suite(reading, path, shipped)) is not None]
    if reading.problems:
        raise ConfigError(sorted(reading.problems, key=lambda p: (p.file, p.line)))
    return suites


def load_site_suites(site: SiteConfig, directory: Path) -> list[Suite]:
    """The suites of a site's `scenarios/`: every scenario has a copy of the site with the devices that take part."""
    reading, suites = Reading(), []
    for path in sorted((directory / "scenarios").glob("*.yaml")):
        loaded = load_file(reading, path)
        if loaded is None:
            continue
        document, file = loaded
        cases, sites = [], []
        for index in range(len(file.scenarios)):
            copy = _copy_of_site(reading, document, file, index, site)
            if copy is not None:
                sites.append(copy[1])
                cases.append(copy[0])
        suites.append(Suite(document, file, cases, sites))
    if reading.problems:
        raise ConfigError(sorted(reading.problems, key=lambda p: (p.file, p.line)))
    return suites


def _copy_of_site(
    reading: Reading, document: Document, file: ScenarioFile, index: int, site: SiteConfig
) -> tuple[Case, SiteConfig] | None:
    """A case and the part of the site it plays in: its device, the devices its area links and those its series name."""
    scenario = file.scenarios[index]
    by_name = {name: spec for spec in site.devices for name in spec.names()}
    own = by_name.get(scenario.device or "")
    if own is None:
        reading.note(document, ("scenarios", index), f"`device` must name a device of the site (it is {scenario.device!r})")
        return None
    area = next(area for area in site.areas if area.name == own.area)
    known = {"": scenario.device or ""} | {link: target for link, target in area.links.items() if target in by_name}
    known |= {key.rpartition(".")[0]: key.rpartition(".")[0] for key in scenario.series if key.rpartition(".")[0] in by_name}
    known |= {"parent": own.parent} if own.parent else {}
    profiles = {prefix: _as_at_site(site, by_name[name], name) for prefix, name in known.items()}
    made = case_of(reading, document, file, index, profiles, zone=site.zone)
    if made is None:
        return None
    name = f"{SITE}-{index}"
    made.devices = {prefix: f"{name}/{device}" for prefix, device in known.items()}
    made.area = f"{name}/{area.name}"
    chosen = {device: by_name[device].model_copy(update={"name": device, "count": None}) for device in known.values()}
    setpoints = {
        key: spec.model_copy(update={"value": scenario.setpoints[key], "by_day": None, "by_hour": None})
        if key in scenario.setpoints else spec
        for key, spec in area.setpoints.items()
    }  # fmt: skip
    areas = [
        one.model_copy(update={"setpoints": setpoints if one.name == area.name else one.setpoints, "links": {
            link: target for link, target in one.links.items() if target in chosen
        }}) for one in site.areas
    ]  # fmt: skip
    return made, site.model_copy(update={"site": name, "devices": list(chosen.values()), "areas": areas, "calibrations": []})


def _as_at_site(site: SiteConfig, device: DeviceSpec, name: str) -> Profile:
    """A device's profile with the rules that hold for it: the site's own, and of the profile's those that these do not replace."""
    own = [
        rule
        for rule in site.rules
        if rule.profile in {None, device.profile} and rule.area in {None, device.area} and name in (rule.devices or [name])
    ]
    replaced = {rule.id for rule in site.rules if not rule.shadow}
    profile = site.profiles[device.profile]
    return profile.model_copy(update={"rules": [*own, *(rule for rule in profile.rules if rule.id not in replaced)]})


def shipped_files() -> list[Path]:
    """Scenario files beside the shipped profiles."""
    return sorted(SHIPPED.glob("*.yaml"))


def find_part(parts: Sequence[Part], time_ns: int) -> Part | None:
    """The part that holds a time; the last one goes on."""
    found = None
    for part in parts:
        if part.start <= time_ns:
            found = part
    return found


def moments(case: Case, prefix: str) -> Iterator[int]:
    """Times after the start at which a device sends [ns]: its beat, and wherever a part begins."""
    times = set(range(0, case.end_ns + 1, case.every_ns))
    for parts in case.signals[prefix].values():
        times.update(part.start for part in parts if part.start <= case.end_ns)
    yield from sorted(times)
