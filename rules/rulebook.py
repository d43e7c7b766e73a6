"""Rules bound to devices: which program reads which points for which device, laid out as arrays.

An *instance* is one rule on one device. Rules whose expressions differ only in constants and points are rows of one *group* and
run as one array program. Instances of a rule are contiguous, those of a group too. Windows and silence are read through *virtual
points* numbered after the real ones: `stat(point, length)` per point, and "a frame arrived" per device.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rules import expression
from rules.expression import PointRef, Silent, Window
from rules.kernels import Reads
from rules.program import Program, compile_program
from telemetry.errors import ExpressionError
from telemetry.plan import NS_PER_S, Device, Plan
from telemetry.site import LEVELS, ActuatorSpec, PointSpec, RuleSpec

Array = NDArray[Any]
SLOTS_MAX: Final = 32  # points one rule may read


@dataclass(frozen=True, slots=True)
class Part:
    """One expression of a rule: its program, the slots it reads among the rule's, its constants (one row per rule of the group)."""

    program: Program
    columns: tuple[int, ...]


@dataclass(slots=True)
class Rule:
    """One rule version on its devices: instances start..stop, one per device in `devices` (numbers, ascending)."""

    site: str
    spec: RuleSpec
    start: int
    devices: Array
    group: int
    constants: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]  # of when, clear, value
    length_ns: int  # of a silence rule; 0 otherwise
    actuator: ActuatorSpec | None

    @property
    def key(self) -> str:
        """ "site/RULE@version"."""
        return f"{self.site}/{self.spec.id}@{self.spec.version}"

    @property
    def moves(self) -> bool:
        """True when it asks something of an actuator."""
        return self.spec.demand is not None

    @property
    def stop(self) -> int:
        """One past its last instance."""
        return self.start + len(self.devices)


@dataclass(slots=True)
class Group:
    """Rules of equal shape: their programs, and constants as columns by rule row."""

    when: Part | None  # None: silence, true at every frame
    clear: Part | None  # None: the complement of `when`
    value: Part | None  # None: a constant demand, or none
    rules: list[int] = field(default_factory=list)
    constants: tuple[list[Array], ...] = ()  # of when, clear, value: one column per constant, one row per rule


@dataclass(slots=True)
class Family:
    """Windows of one length: virtual number of (stat s, i-th point) is base + s * len(points) + i. points ascending.

    live_only: without late samples, for rules that move something; what is old may explain an alarm but never moves an actuator.
    """

    length_ns: int
    live_only: bool
    stats: tuple[str, ...]
    points: Array
    base: int

    @property
    def name(self) -> str:
        """Names its state in a snapshot."""
        return f"{self.length_ns} live" if self.live_only else str(self.length_ns)


@dataclass(slots=True)
class Rulebook:
    """All enabled rules of a plan. `faults` names rules that could not be bound and why."""

    rules: list[Rule]
    groups: list[Group]
    families: list[Family]
    arrivals: Array  # device numbers with a silence rule, ascending
    arrival_base: int
    points: int  # real and virtual
    rule_of: Array  # (i,) int32
    group_of: Array  # (rules,) int32
    reads: Reads
    parameters: dict[str, Array]  # by rule: on_delay, off_delay ns; silence; step; constant demand. By instance: moves
    faults: list[tuple[str, str]]

    def instance(self, number: int) -> tuple[Rule, int]:
        """The rule and the device number an instance stands for."""
        rule = self.rules[int(self.rule_of[number])]
        return rule, int(rule.devices[number - rule.start])


@dataclass(slots=True)
class _Draft:
    rule: Rule
    refs: tuple[PointRef | Window | Silent, ...]
    parts: tuple[Part | None, Part | None, Part | None]
    group_key: tuple[Any, ...]
    points: Array = field(default_factory=lambda: np.zeros((0, 0), np.int32))  # (devices, refs) real points


def scope(plan: Plan, site: str, spec: RuleSpec, profile: str | None) -> list[Device]:
    """Active devices the rule applies to, by number."""
    wanted = spec.profile if spec.profile is not None else profile
    return [
        plan.devices[n]
        for n in sorted(plan.active)
        if (d := plan.devices[n]).site == site
        and (wanted is None or d.profile.name == wanted)
        and (spec.area is None or d.area == spec.area)
        and (spec.devices is None or d.name in spec.devices)
    ]


def _specs(plan: Plan) -> Iterable[tuple[str, RuleSpec, str | None]]:
    for site in sorted(plan.sites):
        config = plan.sites[site]
        own = {rule.id for rule in config.rules}
        for name in sorted(config.profiles):
            # A site's rule replaces the profile's default of the same id.
            yield from ((site, rule, name) for rule in config.profiles[name].rules if rule.enabled and rule.id not in own)
        yield from ((site, rule, None) for rule in config.rules if rule.enabled)


def bind(plan: Plan) -> Rulebook:
    """Compile every enabled rule of the plan. A rule that cannot be bound becomes a fault, the others go on."""
    drafts: list[_Draft] = []
    faults: list[tuple[str, str]] = []
    for site, spec, profile in _specs(plan):
        devices = scope(plan, site, spec, profile)
        for part in by_profile(devices):
            try:
                drafts.append(_draft(plan, site, spec, part))
            except ExpressionError as error:
                faults.append((f"{site}/{spec.id}@{spec.version}", str(error)))
    return _lay_out(plan, drafts, faults)


def by_profile(devices: list[Device]) -> list[list[Device]]:
    """Devices grouped by profile: expressions mean other points on another profile."""
    names = sorted({d.profile.name for d in devices})
    return [[d for d in devices if d.profile.name == name] for name in names]


def _draft(plan: Plan, site: str, spec: RuleSpec, devices: list[Device]) -> _Draft:
    profile = devices[0].profile
    points, links = {p.name: p for p in profile.points}, linked_points(plan, site, devices)
    when = expression.parse(spec.when, points=points, links=links, want="condition")
    length_ns = when.length_ns if isinstance(when, Silent) else 0
    if spec.clear is not None:
        clear: expression.Node | None = expression.parse(spec.clear, points=points, links=links, want="condition")
    elif spec.hysteresis > 0:
        clear = expression.with_hysteresis(when, spec.hysteresis)
    else:
        clear = None
    demand = spec.demand
    value = None
    if demand is not None and isinstance(demand.value, str):
        value = expression.parse(demand.value, points=points, links=links, want="number")
    actuator = None
    if demand is not None:
        actuator = devices[0].actuator(demand.actuator)
        if actuator is None:
            raise ExpressionError(f"profile {profile.name!r} has no actuator {demand.actuator!r}")
    nodes = (None if length_ns else when, clear, value)
    refs: tuple[PointRef | Window | Silent, ...] = tuple(
        dict.fromkeys(ref for node in (when, clear, value) if node is not None for ref in expression.references(node))
    )
    if isinstance(when, Silent):
        if clear is not None or value is not None:
            raise ExpressionError("a silence rule clears by itself and demands a plain number; leave `clear` and `hysteresis` out")
        refs = (when,)
    if len(refs) > SLOTS_MAX:
        raise ExpressionError(f"reads {len(refs)} points, at most {SLOTS_MAX} are allowed")
    parts: list[Part | None] = []
    keys: list[Any] = []
    constants: list[tuple[float, ...]] = []
    for node in nodes:
        if node is None:
            parts.append(None)
            keys.append(None)
            constants.append(())
            continue
        key, numbers = expression.shape(node)
        columns = tuple(refs.index(ref) for ref in expression.references(node))
        parts.append(Part(compile_program(node), columns))
        keys.append((key, columns))
        constants.append(tuple(numbers))
    numbers_of = (constants[0], constants[1], constants[2])
    rule = Rule(site, spec, 0, np.array([d.number for d in devices], np.int32), 0, numbers_of, length_ns, actuator)
    group_key = (*keys, len(refs), bool(length_ns))
    return _Draft(rule, refs, (parts[0], parts[1], parts[2]), group_key, _resolve(plan, site, devices, refs))


def linked_points(plan: Plan, site: str, devices: list[Device]) -> dict[str, dict[str, PointSpec]]:
    """Points behind each link of the areas in scope, by link and name."""
    wanted = {d.area for d in devices}
    found: dict[str, dict[str, PointSpec]] = {}
    for area in plan.sites[site].areas:
        for link, target in area.links.items() if area.name in wanted else ():
            device = plan.device(target if "/" in target else f"{site}/{target}")
            if device is not None:
                found.setdefault(link, {}).update({p.name: p for p in device.profile.points})
    return found


def _resolve(plan: Plan, site: str, devices: list[Device], refs: Sequence[Any]) -> Array:
    """(devices, refs) real point number each reference means on each device; silence means the device, given as -1."""
    out = np.full((len(devices), len(refs)), -1, np.int32)
    areas = {area.name: area for area in plan.sites[site].areas}
    profile = devices[0].profile
    names = [p.name for p in profile.points]
    matrix = np.array([d.points for d in devices], np.int32)
    for j, ref in enumerate(refs):
        if isinstance(ref, Silent):
            continue
        point = ref.point if isinstance(ref, Window) else ref
        if point.link is None:
            if point.name not in names:
                raise ExpressionError(f"profile {profile.name!r} has no point {point.name!r}")
            out[:, j] = matrix[:, names.index(point.name)]
            continue
        by_area = {name: _linked(plan, site, areas[name].links.get(point.link), point) for name in {d.area for d in devices}}
        out[:, j] = [by_area[d.area] for d in devices]
    return out


def _linked(plan: Plan, site: str, target: str | None, point: PointRef) -> int:
    if target is None:
        raise ExpressionError(f"an area of the rule's scope has no link {point.link!r}; add it under the area's `links`")
    device = plan.device(target if "/" in target else f"{site}/{target}")
    if device is None:
        raise ExpressionError(f"link {point.link!r} names {target!r}, which is not configured")
    number = device.point(point.name)
    if number is None:
        raise ExpressionError(f"{device.key} has no point {point.name!r}")
    return number


def _families(drafts: list[_Draft], base: int) -> list[Family]:
    wanted: dict[tuple[int, bool], tuple[set[str], list[Array]]] = {}
    for draft in drafts:
        for j, ref in enumerate(draft.refs):
            if isinstance(ref, Window):
                stats, points = wanted.setdefault((ref.length_ns, draft.rule.moves), (set(), []))
                stats.add(ref.fn)
                points.append(draft.points[:, j])
    families = []
    for length_ns, live_only in sorted(wanted):
        stats, points = wanted[length_ns, live_only]
        family = Family(length_ns, live_only, tuple(sorted(stats)), np.unique(np.concatenate(points)), base)
        families.append(family)
        base += len(family.stats) * len(family.points)
    return families


def _virtual(draft: _Draft, families: list[Family], arrivals: Array, arrival_base: int) -> Array:
    """The draft's slots with windows and silence replaced by virtual points. (devices, refs) int32"""
    slots = draft.points.copy()
    by_kind = {(family.length_ns, family.live_only): family for family in families}
    for j, ref in enumerate(draft.refs):
        if isinstance(ref, Silent):
            slots[:, j] = arrival_base + np.searchsorted(arrivals, draft.rule.devices)
        elif isinstance(ref, Window):
            family = by_kind[ref.length_ns, draft.rule.moves]
            place = np.searchsorted(family.points, draft.points[:, j])
            slots[:, j] = family.base + family.stats.index(ref.fn) * len(family.points) + place
    return slots


def _lay_out(plan: Plan, drafts: list[_Draft], faults: list[tuple[str, str]]) -> Rulebook:
    keys = list(dict.fromkeys(d.group_key for d in drafts))
    drafts = [d for key in keys for d in drafts if d.group_key == key]
    real = len(plan.point_owner)
    families = _families(drafts, real)
    arrival_base = families[-1].base + len(families[-1].stats) * len(families[-1].points) if families else real
    silent = [d.rule.devices for d in drafts if d.rule.length_ns]
    arrivals = np.unique(np.concatenate(silent)) if silent else np.zeros(0, np.int32)
    groups, slot_rows, start = [Group(*next(d.parts for d in drafts if d.group_key == key)) for key in keys], [], 0
    for number, draft in enumerate(drafts):
        rule = draft.rule
        rule.group, rule.start = keys.index(draft.group_key), start
        group = groups[rule.group]
        group.rules.append(number)
        slot_rows.append(_virtual(draft, families, arrivals, arrival_base))
        start = rule.stop
    rules = [d.rule for d in drafts]
    for group in groups:
        members = [rules[n] for n in group.rules]
        group.constants = tuple(_columns([r.constants[k] for r in members]) for k in range(3))
    counts = [len(r.devices) for r in rules]
    rule_of = np.repeat(np.arange(len(rules), dtype=np.int32), counts)
    points = arrival_base + len(arrivals)
    return Rulebook(
        rules=rules,
        groups=groups,
        families=families,
        arrivals=arrivals,
        arrival_base=arrival_base,
        points=points,
        rule_of=rule_of,
        group_of=np.array([r.group for r in rules], np.int32),
        reads=_reads(slot_rows, points),
        parameters=_parameters(plan, rules, drafts),
        faults=faults,
    )


def _columns(rows: list[tuple[float, ...]]) -> list[Array]:
    return [np.array(column, np.float64) for column in zip(*rows, strict=True)]


def _reads(slot_rows: list[Array], points: int) -> Reads:
    width = max((rows.shape[1] for rows in slot_rows), default=1)
    slots = np.full((sum(len(rows) for rows in slot_rows), max(width, 1)), -1, np.int32)
    at = 0
    for rows in slot_rows:
        slots[at : at + len(rows), : rows.shape[1]] = rows
        at += len(rows)
    instance, column = np.nonzero(slots >= 0)
    point = slots[instance, column]
    order = np.argsort(point, kind="stable")
    indptr = np.zeros(points + 1, np.int64)
    np.cumsum(np.bincount(point, minlength=points), out=indptr[1:])
    return Reads(indptr, instance[order].astype(np.int32), slots)


def _parameters(plan: Plan, rules: list[Rule], drafts: list[_Draft]) -> dict[str, Array]:
    constant = [
        np.nan if r.spec.demand is None or isinstance(r.spec.demand.value, str) else float(r.spec.demand.value) for r in rules
    ]
    return {
        "on_delay": np.array([r.length_ns or int(r.spec.on_delay_s * NS_PER_S) for r in rules], np.int64),
        "off_delay": np.array([int(r.spec.off_delay_s * NS_PER_S) for r in rules], np.int64),
        "silence": np.array([r.length_ns > 0 for r in rules], np.bool_),
        "step": np.array([r.actuator.min_step if r.actuator is not None else 0.0 for r in rules], np.float64),
        "constant": np.array(constant, np.float64),
        "moves": np.concatenate([_moves(plan, d) for d in drafts]) if drafts else np.zeros(0, np.bool_),
    }


def _moves(plan: Plan, draft: _Draft) -> Array:
    """(devices,) bool: all inputs have the origin of the actuator's site, and that is not REPLAY.

    A demand inherits the origin of all its inputs: one simulated point read by a rule of a live area takes its hands off.
    """
    devices = [plan.devices[n] for n in draft.rule.devices]
    out = np.array([d.origin != "REPLAY" for d in devices], np.bool_)
    origin = np.array([{"LIVE": 0, "SIMULATED": 1, "REPLAY": 2}[d.origin] for d in plan.devices], np.int8)
    owner = plan.columns.device
    own = origin[draft.rule.devices]
    for j, ref in enumerate(draft.refs):
        if not isinstance(ref, Silent):
            out &= origin[owner[draft.points[:, j]]] == own
    return out


def level_of(rule: Rule) -> int:
    """Arbitration level 1..7 of the rule's demand."""
    assert rule.spec.demand is not None
    return LEVELS[rule.spec.demand.level]
