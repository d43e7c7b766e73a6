"""The meaning of the rule stage, written plainly: one entry at a time, one instance at a time, one number at a time.

It shares the parser, the plan and the psychrometric formulas with the product, and nothing else: binding, evaluation, windows, timers
and the condition machine are its own.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rules import expression
from rules.expression import Binary, Bool, Call, Compare, If, Number, PointRef, Silent, Unary, Window
from telemetry import psychrometrics
from telemetry.frame import Admission, Entries, Flag, Kind, Verdict
from telemetry.plan import Device, Plan
from telemetry.record import Config, Event, Start
from telemetry.site import RuleSpec, SiteConfig

S = 1_000_000_000
NAN = float("nan")
PANES, COVERED = 60, 48
BLIND_MAX = 60 * S


class Transition(NamedTuple):
    """One change, by names; NaN is None so that lists can be compared."""

    position: int
    phase: int
    time_ns: int
    subject: str
    on: int
    value: float | None
    demand: float | None


@dataclass
class Condition:
    rule: RuleSpec
    device: Device
    refs: tuple[Any, ...]
    points: dict[Any, int]  # of every reference that is not silence
    when: Any
    clear: Any
    step: float
    phase: str = "OFF"
    due: int | None = None
    value: float = NAN
    demand: float = NAN

    @property
    def key(self) -> tuple[str, str, int]:
        return (f"{self.rule.id}@{self.rule.version}", self.device.site, self.device.number)

    @property
    def on_delay(self) -> int:
        return self.when.length_ns if isinstance(self.when, Silent) else int(self.rule.on_delay_s * S)


@dataclass
class Oracle:
    plan: Plan = field(default_factory=Plan)
    conditions: list[Condition] = field(default_factory=list)
    latest: dict[int, float] = field(default_factory=dict)
    windows: dict[tuple[int, int, bool], list[tuple[int, float]]] = field(
        default_factory=dict
    )  # (point, length, live only) -> samples
    stats: dict[tuple[str, int, int, bool], float] = field(default_factory=dict)
    blind: bool = False
    blind_until: int = 0
    rearm: bool = False
    sight: int = 0
    out: list[Transition] = field(default_factory=list)

    def step(self, entries: Entries, admission: Admission) -> None:
        frames, records = entries.frames, dict(entries.records)
        f = 0
        for i in range(len(entries)):
            position, now = entries.first + i, int(entries.time_ns[i])
            self.before(position, now, records.get(i))
            if entries.kind[i] == Kind.FRAME:
                span = slice(int(frames.offsets[f]), int(frames.offsets[f + 1]))
                samples = [
                    (int(p), NAN if q & 3 >= 2 else float(x))
                    for p, x, q in zip(frames.point[span], frames.value[span], admission.quality[span], strict=True)
                    if not q & 1024
                ]
                verdict = Verdict(int(admission.verdict[f]))
                if verdict in {Verdict.LATE, Verdict.BACKFILL} and frames.flags[f] & Flag.HAS_SEQ:
                    self.late(int(frames.ts_ns[f]), samples)
                self.frame(position, now, int(frames.device[f]), int(frames.ts_ns[f]), verdict, samples)
                f += 1
            self.after(records.get(i), now)

    # -- the loop ----------------------------------------------------------------------------------------------------

    def before(self, position: int, now: int, record: Any) -> None:
        if self.blind and now >= self.blind_until:
            self.blind, self.rearm, self.sight = False, True, self.blind_until
        if isinstance(record, Start) or (isinstance(record, Event) and record.name == "broker_lost"):
            self.blind, self.blind_until = True, now + BLIND_MAX
        silent = [c for c in self.conditions if isinstance(c.when, Silent) and c.phase == "PENDING_ON"]
        if self.blind:
            self.rearm = True
            for c in silent:
                c.due = None
        elif self.rearm:
            self.rearm = False
            for c in silent:
                c.due = self.sight + c.on_delay
        while waiting := [c for c in self.conditions if c.due is not None and c.due <= now]:
            self.fire(position, min(waiting, key=lambda c: c.due or 0))

    def late(self, ts: int, samples: list[tuple[int, float]]) -> None:
        for point, value in samples:
            for (p, _, live_only), history in self.windows.items():
                if p == point and not live_only:
                    history.append((ts, value))

    def frame(self, position: int, now: int, device: int, ts: int, verdict: Verdict, samples: list[tuple[int, float]]) -> None:
        changed: set[int] = set()
        if verdict is Verdict.LIVE:
            for point, value in samples:
                self.latest[point] = value
                changed.add(point)
                for (p, length, live_only), history in self.windows.items():
                    if p == point:
                        history.append((ts, value))
                        for fn in expression.WINDOWS:
                            self.stats[fn, point, length, live_only] = statistic(fn, history, length)
        spoke = verdict not in {Verdict.DUPLICATE, Verdict.REPLAY, Verdict.RETAINED}
        for c in self.conditions:
            if isinstance(c.when, Silent):
                if spoke and c.device.number == device:
                    self.heard(position, now, c)
            elif changed & set(c.points.values()):
                self.evaluate(position, ts, c)

    def after(self, record: Any, now: int) -> None:
        if isinstance(record, Event) and record.name == "drained" and self.blind:
            self.blind, self.rearm, self.sight = False, True, now
        if isinstance(record, Config):
            self.configure(SiteConfig.model_validate_json(record.text))
            for c in self.conditions:
                if isinstance(c.when, Silent) and c.phase == "OFF":
                    c.phase, c.due, c.demand = "PENDING_ON", None if self.blind else now + c.on_delay, self.wanted(c)

    # -- the machine -------------------------------------------------------------------------------------------------

    def fire(self, position: int, c: Condition) -> None:
        assert c.due is not None
        time, c.due = c.due, None
        on = c.phase == "PENDING_ON"
        c.phase = "ON" if on else "OFF"
        if not on:
            c.demand = NAN
        self.tell(position, 0, time, c, int(on))

    def heard(self, position: int, now: int, c: Condition) -> None:
        was_on = c.phase == "ON"
        c.phase, c.value = "PENDING_ON", 1.0
        c.due = None if self.blind else now + c.on_delay
        demand = self.wanted(c)
        if not math.isnan(demand) or was_on:
            c.demand = demand
        if was_on:
            self.tell(position, 1, now, c, 0)

    def evaluate(self, position: int, ts: int, c: Condition) -> None:
        holds, clears, demand = self.scalar(c.when, c), self.cleared(c), self.wanted(c)
        c.value = self.read(c.refs[0], c)
        said = None
        if c.phase == "OFF" and holds is True:
            if c.on_delay == 0:
                c.phase, said = "ON", 1
            else:
                c.phase, c.due = "PENDING_ON", ts + c.on_delay
        elif c.phase == "PENDING_ON" and holds is False:
            c.phase, c.due = "OFF", None
        elif c.phase == "ON" and clears is True:
            if c.rule.off_delay_s == 0:
                c.phase, said = "OFF", 0
            else:
                c.phase, c.due = "PENDING_OFF", ts + int(c.rule.off_delay_s * S)
        elif c.phase == "PENDING_OFF" and clears is False:
            c.phase, c.due = "ON", None
        if c.phase == "OFF":
            c.demand = NAN
        elif not math.isnan(demand):
            is_change = math.isnan(c.demand) or (demand != c.demand and abs(demand - c.demand) >= c.step)
            if c.phase == "PENDING_ON" or said == 1:
                c.demand = demand
            elif is_change:
                c.demand, said = demand, 2
        if said is not None:
            self.tell(position, 1, ts, c, said)

    def cleared(self, c: Condition) -> bool | None:
        if c.clear is not None:
            return self.scalar(c.clear, c)
        holds = self.scalar(c.when, c)
        return None if holds is None else not holds

    def wanted(self, c: Condition) -> float:
        if c.rule.demand is None:
            return NAN
        value = c.rule.demand.value
        return self.scalar(expression.parse(value), c) if isinstance(value, str) else float(value)

    def tell(self, position: int, phase: int, time: int, c: Condition, on: int) -> None:
        subject = f"{c.rule.id}@{c.device.key}"
        self.out.append(Transition(position, phase, time, subject, on, known(c.value), known(c.demand)))

    # -- one number at a time ----------------------------------------------------------------------------------------

    def read(self, ref: Any, c: Condition) -> float:
        point = c.points[ref]
        if isinstance(ref, Window):
            return self.stats.get((ref.fn, point, ref.length_ns, c.rule.demand is not None), NAN)
        return self.latest.get(point, NAN)

    def scalar(self, node: Any, c: Condition) -> Any:
        """A float (NaN: unknown) of a number; True, False or None (unknown) of a condition."""
        match node:
            case Number(value):
                return value
            case PointRef() | Window():
                return finite(self.read(node, c))
            case Unary("-", arg):
                return -self.scalar(arg, c)
            case Unary("not", arg):
                inner = self.scalar(arg, c)
                return None if inner is None else not inner
            case Binary(op, left, right):
                return arithmetic(op, self.scalar(left, c), self.scalar(right, c))
            case Compare(op, left, right):
                return compare(op, self.scalar(left, c), self.scalar(right, c))
            case Bool(op, args):
                return kleene(op, [self.scalar(arg, c) for arg in args])
            case If(condition, then, other):
                chosen = self.scalar(condition, c)
                if chosen is None:
                    return None if isinstance(then, Compare | Bool) else NAN
                return self.scalar(then if chosen else other, c)
            case Call(fn, args):
                return call(fn, [self.scalar(arg, c) for arg in args])
        raise AssertionError(node)

    # -- binding -----------------------------------------------------------------------------------------------------

    def configure(self, config: SiteConfig) -> None:
        self.plan.apply(config)
        old = {c.key: c for c in self.conditions}
        self.conditions = []
        for site in self.plan.sites.values():
            own = {rule.id for rule in site.rules}
            for number in sorted(self.plan.active):
                device = self.plan.devices[number]
                if device.site != site.site:
                    continue
                for rule in [*(r for r in device.profile.rules if r.id not in own), *site.rules]:
                    if rule.enabled and applies(rule, device):
                        self.conditions.append(self.bind(rule, device, site, old))
        wanted = {
            (c.points[r], r.length_ns, c.rule.demand is not None) for c in self.conditions for r in c.refs if isinstance(r, Window)
        }
        self.windows = {key: self.windows.get(key, []) for key in wanted}
        self.stats = {key: value for key, value in self.stats.items() if key[1:] in wanted}

    def bind(self, rule: RuleSpec, device: Device, site: SiteConfig, old: dict[Any, Condition]) -> Condition:
        when = expression.parse(rule.when)
        clear = None
        if rule.clear is not None:
            clear = expression.parse(rule.clear)
        elif rule.hysteresis > 0:
            clear = expression.with_hysteresis(when, rule.hysteresis)
        asked = rule.demand.value if rule.demand is not None else None
        nodes = [when, clear, expression.parse(asked) if isinstance(asked, str) else None]
        refs = tuple(dict.fromkeys(r for node in nodes if node is not None for r in expression.references(node)))
        links = next(area.links for area in site.areas if area.name == device.area)
        points: dict[Any, int] = {}
        for ref in refs:
            if isinstance(ref, Silent):
                continue
            point = ref.point if isinstance(ref, Window) else ref
            target = device
            if point.link is not None:
                name = links[point.link]
                found = self.plan.device(name if "/" in name else f"{site.site}/{name}")
                assert found is not None
                target = found
            number = target.point(point.name)
            assert number is not None
            points[ref] = number
        actuator = device.actuator(rule.demand.actuator) if rule.demand is not None else None
        made = Condition(rule, device, refs, points, when, clear, actuator.min_step if actuator is not None else 0.0)
        known_before = old.get(made.key)
        if known_before is not None:
            made.phase, made.due, made.value, made.demand = (
                known_before.phase, known_before.due, known_before.value, known_before.demand,
            )  # fmt: skip
        return made


def applies(rule: RuleSpec, device: Device) -> bool:
    return (
        (rule.profile is None or rule.profile == device.profile.name)
        and (rule.area is None or rule.area == device.area)
        and (rule.devices is None or device.name in rule.devices)
    )


def known(x: float) -> float | None:
    return None if math.isnan(x) else x


def finite(x: float) -> float:
    return x if math.isfinite(x) else NAN


def arithmetic(op: str, a: float, b: float) -> float:
    if op == "/" and b == 0:
        return NAN
    try:
        return finite({"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[op]())
    except OverflowError:
        return NAN


def compare(op: str, a: float, b: float) -> bool | None:
    if math.isnan(a) or math.isnan(b):
        return None
    return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b, "!=": a != b}[op]


def kleene(op: str, parts: list[bool | None]) -> bool | None:
    decisive = op == "or"
    if decisive in parts:
        return decisive
    return None if None in parts else not decisive


def call(fn: str, args: list[float]) -> float:
    if any(math.isnan(x) for x in args):
        return NAN
    if fn == "clamp":
        return min(max(args[0], args[1]), args[2])
    if fn in {"abs", "min", "max"}:
        return {"abs": lambda *a: abs(a[0]), "min": min, "max": max}[fn](*args)
    return finite(round(float(getattr(psychrometrics, fn)(*args)) * 2**20) / 2**20)


def statistic(fn: str, history: list[tuple[int, float]], length: int) -> float:
    """The statistic after the last sample, from all samples of the point, by recomputing every pane."""
    pane = length // PANES
    head, counted = history[0][0] // pane, []
    for ts, v in history:
        p = ts // pane
        if p - head >= PANES:  # nothing of the window is left
            counted = []
        head = max(head, p)
        if math.isfinite(v) and p > head - PANES:
            counted.append((p, v))
    if not counted or head - min(p for p, _ in counted) < COVERED:
        return NAN
    centre = counted[0][1]
    inside = [[v for p, v in counted if p == k] for k in range(head - PANES + 1, head + 1)]
    values = [v for part in inside for v in part]
    if fn == "count":
        return float(len(values))
    if not values:
        return NAN
    if fn in {"min", "max"}:
        return min(values) if fn == "min" else max(values)
    if fn == "mean":
        return summed([summed(part) for part in inside]) / len(values)
    if len(values) < 2:
        return NAN
    d = summed([summed([v - centre for v in part]) for part in inside])
    q = summed([summed([(v - centre) * (v - centre) for v in part]) for part in inside])
    m = d / len(values)
    return math.sqrt(max(q / len(values) - m * m, 0.0))


def summed(values: list[float]) -> float:
    """From left to right; the built-in sum compensates in newer Pythons."""
    total = 0.0
    for value in values:
        total += value
    return total
