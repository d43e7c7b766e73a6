"""Rules bound to devices: every expression becomes code over columns of its cohort, which are made as they are asked for.

The result is a function of the plan alone, and so the same in every process.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rules import calculate, expression, layout, loop, members, panes
from rules.cohort import STALE_HEARTBEATS, Code, Cohort, Fault, Rule, Rulebook, Virtual
from rules.tree import (
    LEAVES,
    Binary,
    Bool,
    Call,
    Clock,
    Compare,
    Group,
    If,
    Leaf,
    Node,
    Number,
    PointRef,
    Quality,
    Silent,
    Stale,
    Unary,
    Vote,
    Window,
    children,
    is_condition,
    observed,
    text,
)
from telemetry.errors import ExpressionError
from telemetry.plan import NS_PER_S, Device, Plan
from telemetry.site import LEVELS, PointSpec, RuleSpec

Array = NDArray[Any]
GROUP_MAX: Final = 1_000  # devices one group function may look at, for each device that asks
LEVELS_MAX: Final = 16  # of columns over columns
MEMORY_MAX: Final = 1 << 30  # bytes of the windows of all rules together

_ARITHMETIC: Final = {"+": calculate.ADD, "-": calculate.SUBTRACT, "*": calculate.MULTIPLY, "/": calculate.DIVIDE}
_COMPARE: Final = {
    "<": calculate.LESS, "<=": calculate.LESS_EQUAL, ">": calculate.GREATER, ">=": calculate.GREATER_EQUAL,
    "==": calculate.EQUAL, "!=": calculate.NOT_EQUAL,
}  # fmt: skip
_CALLS: Final = {
    "abs": calculate.ABS, "min": calculate.MIN, "max": calculate.MAX, "clamp": calculate.CLAMP, "vpd_kpa": calculate.VPD,
    "dew_point_c": calculate.DEW_POINT, "abs_humidity_g_m3": calculate.ABS_HUMIDITY, "enthalpy_kj_kg": calculate.ENTHALPY,
    "wet_bulb_c": calculate.WET_BULB, "thi": calculate.THI, "poisson": calculate.POISSON, "known": calculate.KNOWN,
}  # fmt: skip
_PANES: Final = {
    "mean": panes.MEAN, "min": panes.MIN, "max": panes.MAX, "std": panes.STD, "count": panes.COUNT, "rate": panes.RATE,
    "delta": panes.DELTA, "slope": panes.SLOPE, "shift": panes.SHIFT, "quantile": panes.QUANTILE, "median": panes.QUANTILE,
    "robust_z": panes.ROBUST_Z, "ewma": panes.EWMA, "cusum_high": panes.CUSUM_HIGH, "cusum_low": panes.CUSUM_LOW, "held": panes.HELD,
    "ago": panes.AGO,
}  # fmt: skip
_GROUPS: Final = {
    "any": calculate.G_ANY, "all": calculate.G_ALL, "count": calculate.G_COUNT, "sum": calculate.G_SUM, "mean": calculate.G_MEAN,
    "min": calculate.G_MIN, "max": calculate.G_MAX, "median": calculate.G_MEDIAN, "spread": calculate.G_SPREAD,
    "worst": calculate.G_WORST,
}  # fmt: skip


def scope(plan: Plan, site: str, spec: RuleSpec, profile: str | None) -> list[Device]:
    """Active devices the rule applies to, by number."""
    wanted = spec.profile if spec.profile is not None else profile
    return [
        plan.devices[n]
        for n in sorted(plan.active)
        if (d := plan.devices[n]).site == site
        and (wanted is None or d.profile.name == wanted)
        and (spec.area is None or d.area == spec.area)
        and (spec.tag is None or spec.tag in d.tags)
        and (spec.devices is None or d.name in spec.devices)
    ]


def bind(plan: Plan) -> Rulebook:
    """Compile every virtual point and enabled rule of the plan. One that cannot be bound becomes a fault, the others go on."""
    binder = _Binder(plan)
    binder.try_points()
    for site, spec, profile in _specs(plan):
        for cohort in binder.cohorts_of(site, spec.profile if spec.profile is not None else profile):
            binder.try_rule(site, spec, cohort)
    return binder.lay_out()


def _specs(plan: Plan) -> Iterable[tuple[str, RuleSpec, str | None]]:
    for site in sorted(plan.sites):
        config = plan.sites[site]
        own = {rule.id for rule in config.rules if not rule.shadow}
        for name in sorted(config.profiles):
            # A site's rule replaces the profile's default of the same id.
            yield from ((site, rule, name) for rule in config.profiles[name].rules if rule.enabled and rule.id not in own)
        yield from ((site, rule, None) for rule in config.rules if rule.enabled)


class _Binder:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._cohorts: dict[tuple[str, str], Cohort] = {}
        self._areas: dict[str, Cohort] = {}
        self._rules: list[Rule] = []
        self._faults: list[Fault] = []
        self._making: set[tuple[int, str]] = set()
        self._formulas: dict[tuple[str, str], PointSpec] = {}  # by cohort and name: virtual points that are not bound yet
        self._broken: dict[tuple[str, str], ExpressionError] = {}  # why a virtual point cannot be
        self._chain: list[str] = []  # virtual points that are being bound, each for the one before it
        self._links = {(site, area.name): area.links for site, config in plan.sites.items() for area in config.areas}
        self._constants: list[float] = []
        self._constant_at: dict[bytes, int] = {}
        self._bytes = 0  # of windows
        self._names: dict[tuple[str, bytes | None], expression.Names] = {}
        self._masks: dict[tuple[str, str | None, str | None, tuple[str, ...] | None], Array | None] = {}
        for group in plan.groups:
            if group.is_active:
                cohort = Cohort(
                    group.site, group.profile, group.devices, group.areas, group.number, group.points, place=group.place
                )
                self._cohorts[group.site, group.profile.name] = cohort
                for point in group.profile.points:
                    column = cohort.add(point.name, 0)
                    if point.members is not None:
                        cohort.members[column] = point.members
                    if point.is_virtual:
                        self._formulas[cohort.name, point.name] = point
        for site, config in sorted(plan.sites.items()):
            none = np.full(len(config.areas), -1, np.int32)
            self._areas[site] = Cohort(site, None, [], [area.name for area in config.areas], none, none[:, None][:, :0])

    @functools.cached_property
    def _peers(self) -> dict[tuple[str, str, str], list[Device]]:
        """Devices by site, profile and area."""
        found: dict[tuple[str, str, str], list[Device]] = {}
        for (site, profile), cohort in self._cohorts.items():
            for device in cohort.devices:
                found.setdefault((site, profile, device.area), []).append(device)
        return found

    @functools.cached_property
    def _children(self) -> dict[tuple[str, str], list[Device]]:
        """Devices by site and the device they are parts of, by number."""
        found: dict[tuple[str, str], list[Device]] = {}
        for device in (d for cohort in self._cohorts.values() for d in cohort.devices if d.parent):
            found.setdefault((device.site, device.parent), []).append(device)
        return {parent: sorted(parts, key=lambda d: d.number) for parent, parts in found.items()}

    @functools.cached_property
    def _cohort_of(self) -> dict[int, Cohort]:
        return {number: cohort for cohort in self._cohorts.values() for number in cohort.place}

    def cohorts_of(self, site: str, profile: str | None) -> list[Cohort]:
        """Cohorts of a site, of one profile or all, by name."""
        return [c for (s, p), c in sorted(self._cohorts.items(), key=lambda item: item[0]) if s == site and profile in (None, p)]

    # -- virtual points ----------------------------------------------------------------------------------------------------

    def try_points(self) -> None:
        """Bind every virtual point; a fault for each that cannot be."""
        for cohort in self._cohorts.values():
            for point in cohort.profile.points if cohort.profile is not None else ():
                try:
                    self._point_column(cohort, point.name)
                except ExpressionError as error:
                    self._faults.append(Fault(f"{cohort.name}/{point.name}@point", "expression", str(error)))

    def _point_column(self, cohort: Cohort, name: str) -> int:
        """The column of a point of the cohort's profile; a virtual one is bound at its first use, whatever it stands on before it."""
        if name not in cohort.columns:
            raise ExpressionError(f"profile {cohort.profile.name if cohort.profile else ''!r} has no point {name!r}")
        key, told = (cohort.name, name), f"{cohort.name}/{name}"
        if key in self._broken:
            raise self._broken[key]
        if key in self._formulas:
            if told in self._chain:
                chain = " -> ".join([*self._chain[self._chain.index(told) :], told])
                raise ExpressionError(f"virtual point {name!r} is computed of itself: {chain}")
            self._chain.append(told)
            try:
                self._bind_point(cohort, self._formulas[key])
            except ExpressionError as error:
                self._broken[key] = error
                raise
            finally:
                self._chain.pop()
            del self._formulas[key]
        return cohort.columns[name]

    def _bind_point(self, cohort: Cohort, spec: PointSpec) -> None:
        """Its windows hold live samples only: a demand may read it."""
        tree = expression.parse(spec.formula, self._names_of(cohort, None), unit=spec.unit)
        code = self._code(cohort, tree, live_only=True)
        level = self._level_of(cohort, code, spec.name)
        column = cohort.columns[spec.name]
        cohort.levels[column] = level
        cohort.virtual.append(Virtual(spec.name, loop.EXPRESSION, column, level=level, code=code, point=spec))

    def _level_of(self, cohort: Cohort, code: Code, told: str) -> int:
        level = 1 + max((cohort.levels[argument] for op, argument in code if op in calculate.READS), default=0)
        if level >= LEVELS_MAX:
            raise ExpressionError(f"{told} stands on more than {LEVELS_MAX} levels of other columns")
        return level

    # -- rules -------------------------------------------------------------------------------------------------------------

    def try_rule(self, site: str, spec: RuleSpec, cohort: Cohort) -> None:
        """Bind one rule to a cohort; a fault when that cannot be."""
        scope_key = (cohort.name, spec.area, spec.tag, None if spec.devices is None else tuple(spec.devices))
        if scope_key not in self._masks:
            self._masks[scope_key] = _mask(cohort, spec)
        mask = self._masks[scope_key]
        if mask is not None and not mask.any():
            return
        rule = Rule(site, spec, cohort, None if mask is None or mask.all() else mask)
        known = len(self._faults)
        self._parse(rule)
        if len(self._faults) > known:
            return
        live_only = spec.demand is not None
        try:
            rule.codes = tuple([] if n is None else self._code(cohort, n, live_only) for n in (rule.when, rule.clear, rule.value))
        except ExpressionError as error:
            self._faults.append(Fault(rule.key, "when", str(error)))
            return
        rule.reads = tuple(map(text, observed(rule.when)))
        if spec.demand is not None:
            rule.moving = self._moving(rule)
        self._rules.append(rule)
        if spec.suppress_when is not None:
            self._suppression(rule)

    def _suppression(self, rule: Rule) -> None:
        """What suppresses an alarm is a condition of its own, without delays."""
        assert rule.spec.suppress_when is not None
        spec = rule.spec.model_copy(
            update={
                "when": rule.spec.suppress_when, "clear": None, "hysteresis": 0.0, "on_delay_s": 0.0, "off_delay_s": 0.0,
                "missing": "hold", "priority": None, "demand": None, "suppress_when": None,
            }
        )  # fmt: skip
        made = Rule(rule.site, spec, rule.cohort, rule.mask, suppresses=rule)
        known = len(self._faults)
        self._parse(made)
        if len(self._faults) > known:
            self._faults[known:] = [fault._replace(key=rule.key, field="suppress_when") for fault in self._faults[known:]]
            self._rules.remove(rule)
            return
        made.codes = (self._code(made.cohort, made.when, False), [], [])
        made.reads = tuple(map(text, observed(made.when)))
        self._rules.append(made)

    def _names_of(self, cohort: Cohort, mask: Array | None) -> expression.Names:
        """What a rule on some seats may speak of; the same for all rules of one scope."""
        key = (cohort.name, None if mask is None else mask.tobytes())
        if key in self._names:
            return self._names[key]
        assert cohort.profile is not None
        devices = [d for k, d in enumerate(cohort.devices) if mask is None or mask[k]]
        wanted = {d.area for d in devices}
        parts = [child for d in devices for child in self._others(d, "children")] if self._children else []
        names = self._names[key] = expression.Names(
            points={p.name: p for p in cohort.profile.points},
            links=self._linked_points(cohort.site, wanted, {d.parent for d in devices if d.parent}),
            children={p.name: p for child in parts for p in child.profile.points},
            setpoints={
                name: spec.unit
                for area in self._plan.sites[cohort.site].areas
                for name, spec in area.setpoints.items()
                if area.name in wanted
            },
        )
        return names

    def _parse(self, rule: Rule) -> None:
        """Trees of a rule's texts; every text's mistake becomes a fault."""
        spec, cohort, known, demand = rule.spec, rule.cohort, self._names_of(rule.cohort, rule.mask), rule.spec.demand
        assert cohort.profile is not None

        def tree(name: str, text: str, want: expression.Want) -> Node | None:
            try:
                return expression.parse(text, known, want=want)
            except ExpressionError as error:
                self._faults.append(Fault(rule.key, name, str(error)))
                return None

        when = tree("when", spec.when, "condition")
        if when is None:
            return
        rule.when = when
        if spec.clear is not None:
            rule.clear = tree("clear", spec.clear, "condition")
        elif spec.hysteresis > 0:
            try:
                rule.clear = expression.with_hysteresis(when, spec.hysteresis)
            except ExpressionError as error:
                self._faults.append(Fault(rule.key, "hysteresis", str(error)))
        if demand is None:
            return
        names = [a.name for a in cohort.profile.actuators]
        if demand.actuator not in names:
            problem = (
                f"profile {cohort.profile.name!r} has no actuator {demand.actuator!r}{expression.near(demand.actuator, names)}"
            )
            self._faults.append(Fault(rule.key, "demand.actuator", problem))
            return
        rule.actuator = cohort.profile.actuators[names.index(demand.actuator)]
        if isinstance(demand.value, str):
            rule.value = tree("demand.value", demand.value, "number")

    def _moving(self, rule: Rule) -> Array | None:
        """(width,) True where a demand may move something: it inherits the origin of all its inputs, and REPLAY moves nothing."""
        cohort = rule.cohort
        own = self._plan.sites[cohort.site].origin
        columns = {argument for code in rule.codes for op, argument in code if op in calculate.READS}
        same = np.full(cohort.width, own != "REPLAY")
        for column in columns:
            same &= self._same_origin(cohort, column, own)
        return None if same.all() else same

    def _same_origin(self, cohort: Cohort, column: int, own: str) -> Array:
        """(width,) True where everything a column stands on comes from a site of origin `own`."""
        same = np.full(cohort.width, cohort.profile is None or self._plan.sites[cohort.site].origin == own)
        sources = [[source] for source in dict(cohort.imports).get(column, ())]
        made = next((v for v in cohort.virtual if v.column == column), None)
        if made is not None:
            inner = [argument for op, argument in made.code if op in calculate.READS]
            for other in inner if made.follows < 0 or made.sources else [made.follows]:
                same &= self._same_origin(cohort, other, own)
            sources = made.sources or sources
        for local, group in enumerate(sources):
            for home, source, place in group:
                if (home, source) != (cohort, column):
                    same[local] &= bool(self._same_origin(home, source, own)[place])
        return same

    def _linked_points(self, site: str, wanted: set[str], parents: set[str]) -> dict[str, dict[str, PointSpec]]:
        """Points behind each link of some areas, and of the devices that some are parts of, by link and name."""
        found: dict[str, dict[str, PointSpec]] = {}
        for area in self._plan.sites[site].areas:
            for link, target in area.links.items() if area.name in wanted else ():
                device = self._plan.device(target if "/" in target else f"{site}/{target}")
                if device is not None:
                    found.setdefault(link, {}).update({p.name: p for p in device.profile.points})
        for name in parents:
            parent = self._plan.device(f"{site}/{name}")
            if parent is not None:
                found.setdefault("parent", {}).update({p.name: p for p in parent.profile.points})
        return found

    # -- code --------------------------------------------------------------------------------------------------------------

    def _code(self, cohort: Cohort, node: Node, live_only: bool) -> Code:
        """Instructions for one expression; constants are (CONST, index) into `self._constants`."""
        match node:
            case Number(value):
                return [(calculate.CONST, self._constant(value))]
            case Quality(point):
                return [(calculate.QUALITY, self._column(cohort, point, live_only))]
            case Unary("-", Number(value)):
                return [(calculate.CONST, self._constant(-value))]
            case Unary(op, arg):
                return [*self._code(cohort, arg, live_only), (calculate.NEGATE if op == "-" else calculate.NOT, 0)]
            case Binary(op, left, right):
                return [*self._code(cohort, left, live_only), *self._code(cohort, right, live_only), (_ARITHMETIC[op], 0)]
            case Compare(op, left, right):
                return [*self._code(cohort, left, live_only), *self._code(cohort, right, live_only), (_COMPARE[op], 0)]
            case Bool(op, args) | Call("min" | "max" as op, args):
                made = self._code(cohort, args[0], live_only)
                join = {"and": calculate.AND, "or": calculate.OR, "min": calculate.MIN, "max": calculate.MAX}[op]
                for arg in args[1:]:
                    made += [*self._code(cohort, arg, live_only), (join, 0)]
                return made
            case If(condition, then, other):
                parts = [self._code(cohort, part, live_only) for part in (condition, then, other)]
                return [*parts[0], *parts[1], *parts[2], (calculate.CHOOSE, 0)]
            case Call("known", (arg,)):
                return [(calculate.KNOWN, self._column_of_any(cohort, arg, live_only))]
            case Call(fn, args):
                return [*(step for arg in args for step in self._code(cohort, arg, live_only)), (_CALLS[fn], 0)]
            case _:
                column = self._column(cohort, node, live_only)
                return [(calculate.MEMBER if column in cohort.members else calculate.LOAD, column)]

    def _constant(self, value: float) -> int:
        key = np.float64(value).tobytes()  # -0.0 and 0.0 are two
        if key not in self._constant_at:
            self._constant_at[key] = len(self._constants)
            self._constants.append(value)
        return self._constant_at[key]

    # -- columns -----------------------------------------------------------------------------------------------------------

    def _column_of_any(self, cohort: Cohort, node: Node, live_only: bool) -> int:
        """The column of an expression: its own when it is a leaf, else one that computes it."""
        if isinstance(node, LEAVES) and not isinstance(node, Quality):
            return self._column(cohort, node, live_only)
        key = text(node) + (" live" if live_only else "")
        if key in cohort.columns:
            return cohort.columns[key]
        code = self._code(cohort, node, live_only)
        level = self._level_of(cohort, code, text(node))
        made = Virtual(key, loop.EXPRESSION, cohort.add(key, level), level=level, code=code)
        cohort.virtual.append(made)
        return made.column

    def _column(self, cohort: Cohort, leaf: Leaf, live_only: bool) -> int:
        """The column that holds a leaf, made when there is none yet."""
        if isinstance(leaf, PointRef) and leaf.link is None:
            return self._point_column(cohort, leaf.name)
        link, inner = _stripped(leaf)
        if link is not None:
            return self._import(cohort, link, inner, live_only)
        if isinstance(leaf, Clock):
            return self._import_clock(cohort, leaf)
        key = text(leaf) + (" live" if live_only and isinstance(leaf, Window | Group) else "")
        if key in cohort.columns:
            return cohort.columns[key]
        if (id(cohort), key) in self._making:
            raise ExpressionError(f"{text(leaf)} reads itself")
        self._making.add((id(cohort), key))
        try:
            made = self._virtual(cohort, leaf, key, live_only)
        finally:
            self._making.discard((id(cohort), key))
        if made.level >= LEVELS_MAX:
            raise ExpressionError(f"{text(leaf)} stands on more than {LEVELS_MAX} levels of other columns")
        made.column = cohort.add(key, made.level)
        cohort.virtual.append(made)
        if made.kind == loop.MEMBERWISE:
            cohort.members[made.column] = made.members
        return made.column

    def _virtual(self, cohort: Cohort, leaf: Leaf, key: str, live_only: bool) -> Virtual:
        match leaf:
            case Silent(length_ns):
                return Virtual(key, loop.SILENT, -1, length_ns=length_ns)
            case Stale(point, length_ns):
                column = self._column(cohort, point, live_only)
                return Virtual(key, loop.STALE, -1, follows=column, level=cohort.levels[column] + 1, length_ns=length_ns)
            case Group(fn, "members", arg):
                chosen = calculate.G_FIRST if fn == "worst" and is_condition(arg) else _GROUPS[fn]
                return self._over_members(cohort, arg, live_only, Virtual(key, loop.MEMBERS, -1, fn=chosen))
            case Window("held" | "rise" as fn, arg, length_ns, ()):
                made = Virtual(key, loop.MEMBERWISE, -1, fn=members.HELD if fn == "held" else members.RISE, live_only=live_only)
                made.length_ns, made.parameters = length_ns, (_gap_s(cohort, arg),)
                return self._over_members(cohort, arg, live_only, made)
            case Group(fn, of, arg):
                return self._group(cohort, key, (fn, of, arg), live_only)
            case Vote():
                return self._vote(cohort, key, leaf)
            case Window(fn, arg, length_ns, parameters):
                column = self._column_of_any(cohort, arg, live_only)
                self._remember(cohort, text(leaf), 8 * cohort.width * panes.words(_PANES[fn]))
                return Virtual(
                    key, loop.PANES, -1, follows=column, level=cohort.levels[column] + 1, live_only=live_only, fn=_PANES[fn],
                    pane_ns=length_ns if fn.startswith("cusum") else length_ns // panes.PANES,
                    parameters=self._parameters(cohort, fn, arg, length_ns, parameters),
                )  # fmt: skip
        raise ExpressionError(f"{text(leaf)} cannot be computed here")

    def _remember(self, cohort: Cohort, what: str, more: int) -> None:
        """Count the memory of a function over time: text of one line must not take the machine from everybody."""
        if self._bytes + more > MEMORY_MAX:
            raise ExpressionError(
                f"{what} of {cohort.width} devices needs {more / 2**20:.1f} MiB; all rules may have {MEMORY_MAX >> 20} MiB and have "
                f"{self._bytes / 2**20:.1f}; `mean` needs {8 * panes.words(panes.MEAN):,} bytes a device, `median`, `quantile` and "
                f"`robust_z` {8 * panes.words(panes.QUANTILE):,}"
            )
        self._bytes += more

    def _over_members(self, cohort: Cohort, arg: Node, live_only: bool, made: Virtual) -> Virtual:
        """A column that looks at each member; the arrays in it are of one length."""
        made.code = self._code(cohort, arg, live_only)
        sizes = {cohort.members[column] for op, column in made.code if op == calculate.MEMBER}
        if len(sizes) != 1:
            raise ExpressionError(f"{text(arg)} does not read points of one number of members, but of {sorted(sizes) or 'none'}")
        (made.members,) = sizes
        made.level = 1 + max(cohort.levels[column] for op, column in made.code if op in calculate.READS)
        if made.kind == loop.MEMBERWISE:
            self._remember(cohort, made.key, 8 * cohort.width * made.words)
        return made

    @staticmethod
    def _parameters(cohort: Cohort, fn: str, arg: Node, length_ns: int, given: tuple[float, ...]) -> tuple[float, ...]:
        if fn in {"quantile", "median", "robust_z"}:
            assert isinstance(arg, PointRef)
            assert cohort.profile is not None
            spec = next(p for p in cohort.profile.points if p.name == arg.name)
            return (given[0] if fn == "quantile" else 0.5, spec.low, spec.high - spec.low)
        if fn == "ewma":
            return (given[0], 0.0) if given else (0.0, length_ns / NS_PER_S)
        if fn == "held":
            return (given[0], _gap_s(cohort, arg))
        return given

    def _group(self, cohort: Cohort, key: str, group: tuple[str, str, Node], live_only: bool) -> Virtual:
        fn, of, arg = group
        made = Virtual(key, loop.GROUP, -1, fn=_GROUPS[fn], level=1)
        found: dict[
            int, tuple[int, list[tuple[Cohort, int, int]] | None]
        ] = {}  # of each cohort of others: the column, what it imports
        for device in cohort.devices:
            others = self._others(device, of)
            if len(others) > GROUP_MAX:
                raise ExpressionError(f"{of} of {device.key} are {len(others)} devices; at most {GROUP_MAX} are allowed")
            sources = []
            for other in others:
                home = self._cohort_of[other.number]
                if isinstance(arg, PointRef) and arg.link is None and arg.name not in home.columns:
                    continue
                if id(home) not in found:
                    column = self._column_of_any(home, arg, live_only)
                    found[id(home)] = column, dict(home.imports).get(column)
                (column, imported), place = found[id(home)], home.place[other.number]
                made.level = max(made.level, home.levels[column] + 1)
                # What the other one only imports is news where it comes from.
                sources.append((home, column, place) if imported is None else imported[place])
            made.sources.append(sources)
        if not any(made.sources):
            raise ExpressionError(f"{text(Group(fn, of, arg))}: no device in scope has {of} with such a point")
        made.follows = cohort.add(f"#{key}", made.level - 1)
        return made

    def _vote(self, cohort: Cohort, key: str, vote: Vote) -> Virtual:
        """A group of the sensors of each seat, in their order; a sensor behind a link that the seat's area lacks is none."""
        made = Virtual(key, loop.GROUP, -1, fn=calculate.G_VOTE, level=1, parameters=(vote.tolerance,))
        for device in cohort.devices:
            sources = []
            for sensor in vote.sensors:
                other = device if sensor.link is None else self._linked(device, sensor.link)
                if other is None:
                    continue
                home = self._cohort_of[other.number]
                column = self._point_column(home, sensor.name)
                made.level = max(made.level, home.levels[column] + 1)
                sources.append((home, column, home.place[other.number]))
            made.sources.append(sources)
        if not all(made.sources):
            raise ExpressionError(f"{text(vote)}: an area of the scope has none of these links; add one under the area's `links`")
        made.follows = cohort.add(f"#{key}", made.level - 1)
        return made

    def _linked(self, device: Device, link: str) -> Device | None:
        """The device behind a link of a device's area, or the one it is a part of; None when there is no such link."""
        target = (device.parent or None) if link == "parent" else self._links[device.site, device.area].get(link)
        other = None if target is None else self._plan.device(target if "/" in target else f"{device.site}/{target}")
        if target is not None and other is None:
            raise ExpressionError(f"link {link!r} names {target!r}, which is not configured")
        return other

    def _others(self, device: Device, of: str) -> list[Device]:
        if of == "peers":
            found = self._peers.get((device.site, device.profile.name, device.area), [])
            return [d for d in found if d.number != device.number]
        return self._children.get((device.site, device.name), [])

    def _import(self, cohort: Cohort, link: str, inner: Leaf, live_only: bool) -> int:
        """A column of linked devices, as seen from each seat."""
        key = f"{link}: {text(inner)}" + (" live" if live_only and isinstance(inner, Window) else "")
        if key in cohort.columns:
            return cohort.columns[key]
        sources: list[tuple[Cohort, int, int] | None] = []
        for device in cohort.devices:
            other = self._linked(device, link)
            if other is None:
                sources.append(None)
                continue
            home = self._cohort_of[other.number]
            sources.append((home, self._column(home, inner, live_only), home.place[other.number]))
        missing = [device for device, source in zip(cohort.devices, sources, strict=True) if source is None]
        if len(missing) == len(sources):
            raise ExpressionError(f"an area of the rule's scope has no link {link!r}; add it under the area's `links`")
        known = [source for source in sources if source is not None]
        column = cohort.add(key, max(home.levels[c] for home, c, _ in known))
        # A seat without the link looks at an unknown value for ever: its own import column's cell.
        cohort.imports.append((column, [source if source is not None else (cohort, column, k) for k, source in enumerate(sources)]))
        return column

    def _import_clock(self, cohort: Cohort, leaf: Clock) -> int:
        key = f"area: {leaf.name}"
        if key in cohort.columns:
            return cohort.columns[key]
        areas = self._areas[cohort.site]
        source = areas.columns[leaf.name] if leaf.name in areas.columns else areas.add(leaf.name, 0)
        place = {name: k for k, name in enumerate(areas.areas)}
        column = cohort.add(key, 0)
        cohort.imports.append((column, [(areas, source, place[area]) for area in cohort.areas]))
        return column

    # -- layout ------------------------------------------------------------------------------------------------------------

    def lay_out(self) -> Rulebook:
        """Numbers for everything. Nothing can be bound any more after it."""
        self._broken.clear()  # an error holds the frames it came through, and so this binder
        cohorts = [*self._cohorts.values(), *self._areas.values()]
        return layout.lay_out(self._plan, cohorts, self._rules, self._constants, self._faults)


def _stripped(leaf: Leaf) -> tuple[str | None, Leaf]:
    """A leaf that reads one linked device only, as that device sees it."""
    links = {ref.link for ref in _points(leaf)}
    if len(links) != 1 or None in links or isinstance(leaf, Quality):
        return None, leaf
    (link,) = links
    return link, _without_link(leaf)


def _points(node: Node) -> Iterable[PointRef]:
    match node:
        case PointRef():
            yield node
        case Quality(point) | Stale(point, _):
            yield point
        case Vote(_, sensors):
            yield from sensors
        case Window(_, arg, _, _):
            yield from _points(arg)
        case Group():
            yield PointRef(None, "")
        case _ if not isinstance(node, LEAVES):
            for child in children(node):
                yield from _points(child)


def _without_link(node: Any) -> Any:
    match node:
        case PointRef(_, name):
            return PointRef(None, name)
        case Quality(point):
            return Quality(_without_link(point))
        case Stale(point, length_ns):
            return Stale(_without_link(point), length_ns)
        case Vote(tolerance, sensors):
            return Vote(tolerance, tuple(map(_without_link, sensors)))
        case Window(fn, arg, length_ns, parameters):
            return Window(fn, _without_link(arg), length_ns, parameters)
        case Unary(op, arg):
            return Unary(op, _without_link(arg))
        case Binary(op, left, right):
            return Binary(op, _without_link(left), _without_link(right))
        case Compare(op, left, right):
            return Compare(op, _without_link(left), _without_link(right))
        case Bool(op, args):
            return Bool(op, tuple(map(_without_link, args)))
        case If(condition, then, other):
            return If(_without_link(condition), _without_link(then), _without_link(other))
        case Call(fn, args):
            return Call(fn, tuple(map(_without_link, args)))
        case _:
            return node


def _gap_s(cohort: Cohort, arg: Node) -> float:
    """The longest pause between samples that still counts as held: three heartbeats of what is read."""
    assert cohort.profile is not None
    heartbeats = {p.name: p.beat_s for p in cohort.profile.points}
    return STALE_HEARTBEATS * max((heartbeats.get(ref.name, 60.0) for ref in _points(arg)), default=60.0)


def level_of(rule: Rule) -> int:
    """The demand's level as a number, 1..7."""
    assert rule.spec.demand is not None
    return LEVELS[rule.spec.demand.level]


def evidence(rule: Rule, values: Sequence[float]) -> dict[str, float | None]:
    """What a condition read when it changed, by its text."""
    return {name: None if np.isnan(value) else float(value) for name, value in zip(rule.reads, values, strict=False)}


def _mask(cohort: Cohort, spec: RuleSpec) -> Array | None:
    """(width,) True on the seats in the rule's scope; None = all."""
    if spec.area is None and spec.tag is None and spec.devices is None:
        return None
    return np.array([
        (spec.area is None or d.area == spec.area)
        and (spec.tag is None or spec.tag in d.tags)
        and (spec.devices is None or d.name in spec.devices)
        for d in cohort.devices
    ], np.bool_)  # fmt: skip
