"""The meaning of the rule stage, written plainly: one entry at a time, one instance at a time, one number at a time.

It shares the parser, the plan and the psychrometric formulas with the product, and nothing else: binding, evaluation, windows, timers
and the condition machine are its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rules import expression
from rules.tree import (
    Binary,
    Bool,
    Call,
    Compare,
    Group,
    If,
    Node,
    Number,
    PointRef,
    Quality,
    Silent,
    Unary,
    Vote,
    Window,
    is_condition,
    leaves,
    text,
)
from telemetry import psychrometrics
from telemetry.frame import Admission, Entries, Flag, Kind, Verdict
from telemetry.plan import Device, Plan
from telemetry.record import Config, Event, Start
from telemetry.site import PointSpec, RuleSpec, SiteConfig

S = 1_000_000_000
NAN = float("nan")
PANES, COVERED = 60, 48
WINDOWS = ("mean", "min", "max", "std", "count")
MEANING = ("when", "clear", "hysteresis", "on_delay_s", "off_delay_s", "missing")
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


class Said(NamedTuple):
    """One sample of a virtual point."""

    position: int
    point: int
    ts_ns: int
    value: float | None
    quality: int


@dataclass
class VirtualPoint:
    number: int
    spec: PointSpec
    device: Device
    tree: Any
    live_only: bool = True


@dataclass
class Condition:
    rule: RuleSpec
    device: Device
    when: Any
    clear: Any
    value_of: Any
    step: float
    phase: str = "OFF"
    due: int | None = None
    left: int = 0  # of a delay that stands still
    value: float = NAN
    demand: float = NAN

    @property
    def key(self) -> tuple[str, str, int]:
        return (f"{self.rule.id}@{self.rule.version}", self.device.site, self.device.number)

    @property
    def live_only(self) -> bool:
        return self.rule.demand is not None


@dataclass
class Oracle:
    plan: Plan = field(default_factory=Plan)
    conditions: list[Condition] = field(default_factory=list)
    latest: dict[int, float] = field(default_factory=dict)
    last_ns: dict[int, int] = field(default_factory=dict)
    windows: dict[tuple[int, int, bool], list[tuple[int, float]]] = field(
        default_factory=dict
    )  # (point, length, live only) -> samples
    stats: dict[tuple[str, int, int, bool], float] = field(default_factory=dict)
    heard: dict[int, int] = field(default_factory=dict)  # device -> when it was heard last, or named first
    silent: dict[tuple[int, int], float] = field(default_factory=dict)  # (device, length) -> 1.0 silent, 0.0 not
    arrays: dict[int, list[float]] = field(default_factory=dict)  # point -> members
    looks: dict[tuple[int, str, bool], list[tuple[int, list[Any]]]] = field(
        default_factory=dict
    )  # (device, what is remembered of each member, live only) -> what its argument was at each look
    blanks: dict[tuple[int, str, bool], set[int]] = field(default_factory=dict)  # members that grew old since the last look
    groups: dict[tuple[int, str, bool], float] = field(default_factory=dict)  # of members, as they were looked at last
    blind: bool = False
    blind_until: int = 0
    sight: int = 0
    versions: set[tuple[str, int]] = field(default_factory=set)
    out: list[Transition] = field(default_factory=list)
    virtual: list[VirtualPoint] = field(default_factory=list)  # each after those that it reads
    quality: dict[int, int] = field(default_factory=dict)  # of what `latest` holds
    window_quality: dict[tuple[int, int, bool], int] = field(default_factory=dict)
    last_said: dict[int, Said] = field(default_factory=dict)
    said: list[Said] = field(default_factory=list)
    reads: dict[Any, Any] = field(default_factory=dict)  # what trees read, found once for each configuration

    def once(self, find: Callable[..., Any], *of: Any) -> Any:
        """What `find` says of these parts of the present configuration."""
        key = (find.__name__, *map(id, of))
        if key not in self.reads:
            self.reads[key] = find(*of)
        return self.reads[key]

    def step(self, entries: Entries, admission: Admission) -> None:
        frames, records = entries.frames, dict(entries.records)
        f = 0
        for i in range(len(entries)):
            position, now = entries.first + i, int(entries.time_ns[i])
            self.before(position, now, records.get(i))
            if entries.kind[i] == Kind.FRAME:
                span = slice(int(frames.offsets[f]), int(frames.offsets[f + 1]))
                samples = []
                for p, x, q in zip(frames.point[span], frames.value[span], admission.quality[span], strict=True):
                    if not q & 1024:
                        samples.append((int(p), NAN if q & 3 >= 2 else self.calibrated(int(p), float(x))))
                        if admission.verdict[f] == Verdict.LIVE:
                            self.quality[int(p)] = int(q)
                arrays = [(a.point, [self.checked(a.point, float(x)) for x in a.values]) for a in frames.arrays if a.frame == f]
                verdict = Verdict(int(admission.verdict[f]))
                if verdict in {Verdict.LATE, Verdict.BACKFILL} and frames.flags[f] & Flag.HAS_SEQ:
                    self.late(int(frames.ts_ns[f]), samples)
                self.frame(position, now, int(frames.device[f]), int(frames.ts_ns[f]), verdict, samples, arrays)
                f += 1
            self.after(records.get(i), now)

    # -- the loop ----------------------------------------------------------------------------------------------------

    def before(self, position: int, now: int, record: Any) -> None:
        if self.blind and now >= self.blind_until:
            self.blind, self.sight = False, self.blind_until
        if isinstance(record, Start) or (isinstance(record, Event) and record.name == "broker_lost"):
            self.blind, self.blind_until = True, now + BLIND_MAX
        while not self.blind and (waiting := [timer for timer in self.timers() if timer[0] <= now]):
            self.fire(position, min(waiting, key=lambda timer: timer[:2]))

    def timers(self) -> list[tuple[int, int, Any]]:
        """(due, class, what): delays of conditions, values that grow old, silences."""
        found: list[tuple[int, int, Any]] = [(c.due, 0, c) for c in self.conditions if c.due is not None]
        read = self.once(self.read_points)
        for point, value in [*self.latest.items(), *((point, 0.0) for point in self.arrays)]:
            if point in read and not math.isnan(value):
                found.append((max(self.last_ns[point], self.sight) + read[point], 1, point))
        for (device, length), value in self.silent.items():
            if value == 0.0:
                found.append((max(self.heard[device], self.sight) + length, 2, (device, length)))
        return found

    def read_points(self) -> dict[int, int]:
        """Points that some rule reads, with the age at which they are unknown."""
        points = {p for c in self.conditions for node in self.nodes(c) for p in self.points_of(node, c)}
        points |= {p for v in self.virtual for p in self.points_of(v.tree, v)}
        specs = {p: self.plan.point_spec(p) for p in points}
        return {p: 3 * int(spec.heartbeat_s * S) for p, spec in specs.items() if spec and spec.heartbeat_s and not spec.is_virtual}

    def fire(self, position: int, timer: tuple[int, int, Any]) -> None:
        due, kind, what = timer
        if kind == 0:
            self.end_delay(position, what)
        elif kind == 1:
            device = self.plan.columns.device[what]
            old = [p for t, k, p in self.timers() if k == 1 and t <= due and self.plan.columns.device[p] == device]
            for point in old:
                self.latest[point] = NAN
                self.arrays.pop(point, None)
            changed = self.derive(position, due, {("point", p) for p in old}, is_sample=False)
            self.judge(position, 0, due, changed | self.look(None, changed))
        else:
            self.silent[what] = 1.0
            self.judge(position, 0, due, {("silent", *what)})

    def late(self, ts: int, samples: list[tuple[int, float]]) -> None:
        for point, value in samples:
            for (p, _, live_only), history in self.windows.items():
                if p == point and not live_only:
                    history.append((ts, value))

    def frame(
        self, position: int, now: int, device: int, ts: int, verdict: Verdict, samples: list[tuple[int, float]],
        arrays: list[tuple[int, list[float]]],
    ) -> None:  # fmt: skip
        changed: set[Any] = set()
        time = ts
        if device in self.heard and verdict not in {Verdict.DUPLICATE, Verdict.REPLAY, Verdict.RETAINED}:
            self.heard[device] = now
            for key, value in self.silent.items():
                if key[0] == device and value == 1.0:
                    self.silent[key], time = 0.0, max(time, now)
                    changed.add(("silent", *key))
        if verdict is Verdict.LIVE:
            for point, value in samples:
                self.latest[point], self.last_ns[point] = value, ts
                changed |= {("point", point)} | self.count(point, ts, value)
            changed = self.derive(position, ts, changed, is_sample=True)
            for point, members in arrays:
                if point in self.read_arrays and self.last_ns.get(point) != ts:  # the same time again is a repetition
                    self.arrays[point], self.last_ns[point] = members, ts
                    changed.add(("point", point))
            changed |= self.look(ts, changed)
        self.judge(position, 1, time, changed)

    def count(self, point: int, ts: int, value: float) -> set[Any]:
        """A sample into the windows of its point."""
        changed: set[Any] = set()
        for (p, length, live_only), history in self.windows.items():
            if p == point:
                history.append((ts, value))
                changed.add(("window", p, length, live_only))
                self.window_quality[p, length, live_only] = 1 if math.isnan(value) else self.quality[point]
                for fn in WINDOWS:
                    self.stats[fn, point, length, live_only] = statistic(fn, history, length)
        return changed

    # -- points ------------------------------------------------------------------------------------------------------

    def calibrated(self, point: int, raw: float) -> float:
        number, name = self.plan.point_owner[point]
        device = self.plan.devices[number]
        for one in self.plan.sites[device.site].calibrations:
            if (one.device, one.point) == (device.name, name):
                gain, offset = one.line
                corrected = (raw * gain + offset) * 2**20
                return float(round(corrected)) / 2**20 if math.isfinite(corrected) else raw
        return raw

    def derive(self, position: int, time: int, changed: set[Any], *, is_sample: bool) -> set[Any]:
        """Virtual points that read something changed, each after those that it reads; what is changed then."""
        for v in self.virtual:
            if not changed & self.once(self.keys_of, v.tree, v):
                continue
            value = self.scalar(v.tree, v)
            value = NAN if value is None else float(value)
            quality = 2 | 32 if math.isnan(value) else self.quality_of(v)
            self.latest[v.number], self.quality[v.number] = value, quality
            self.last_ns[v.number] = time
            self.tell_point(position, time, v, value, quality)
            changed = changed | {("point", v.number)} | (self.count(v.number, time, value) if is_sample else set())
        return changed

    def tell_point(self, position: int, time: int, v: VirtualPoint, value: float, quality: int) -> None:
        last = self.last_said.get(v.number)
        was = NAN if last is None or last.value is None else last.value
        is_same = last is not None and quality == last.quality and time - last.ts_ns < v.spec.beat_s * S
        if math.isnan(was) if math.isnan(value) else is_same and abs(value - was) <= v.spec.deadband:
            return
        made = Said(position, v.number, time if last is None else max(time, last.ts_ns + 1_000_000), known(value), quality)
        self.last_said[v.number] = made
        self.said.append(made)

    def quality_of(self, v: VirtualPoint) -> int:
        """Of everything known that it reads, together."""
        found = [0]
        for leaf in leaves(v.tree):
            if isinstance(leaf, Vote):
                value, quality = self.vote(leaf, v)
                found += [] if math.isnan(value) else [quality]
            elif not math.isnan(self.read(leaf, v)):
                point = self.number(leaf.arg if isinstance(leaf, Window) else leaf, v)
                window = isinstance(leaf, Window)
                found.append(self.window_quality[point, leaf.length_ns, True] if window else self.quality[point])
        return joined(found)

    def vote(self, vote: Vote, c: Any) -> tuple[float, int]:
        """(value, quality), by the words of docs/points.md."""
        sensors = [(self.latest.get(n, NAN), self.quality.get(n, 0)) for n in (self.number(s, c) for s in vote.sensors)]
        present = [(k, x, q) for k, (x, q) in enumerate(sensors) if not math.isnan(x)]
        good = [(k, x) for k, x, q in present if q & 3 == 0]
        if not present:
            return NAN, 2 | 32
        if not good:
            k, x, q = present[0]
            return x, joined([q, 0 if k == 0 else 1 | 256])
        quality = [0 if good[0][0] == 0 else 1 | 256]
        if len(good) == 2 and abs(good[0][1] - good[1][1]) > vote.tolerance:
            quality.append(1 | 4096)
        values = sorted(x for _, x in good)
        middle = len(values) // 2
        if len(good) < 3:
            return good[0][1], joined(quality)
        return (values[middle] if len(values) % 2 else 0.5 * (values[middle - 1] + values[middle])), joined(quality)

    # -- members of arrays -------------------------------------------------------------------------------------------

    def checked(self, point: int, x: float) -> float:
        spec = self.plan.point_spec(point)
        return x if spec is not None and math.isfinite(x) and spec.low <= x <= spec.high else NAN

    @staticmethod
    def array_names(node: Node, device: Device) -> list[str]:
        """Arrays that one group looks at, those of groups inside it left out."""
        known = {p.name for p in device.profile.points if p.members is not None}
        return [name for name in names(node.arg if isinstance(node, Group) else node) if name in known]

    def look(self, time: int | None, changed: set[Any]) -> set[Any]:
        """Groups that read an array which came (or, without a time, grew old) take their values of this moment."""
        news: set[Any] = set()
        done: set[Any] = set()
        for c, group in self.member_groups:
            key = (c.device.number, self.once(text, group), c.live_only)
            points = {("point", c.device.point(name)) for name in self.once(self.array_names, group, c.device)}
            if key in done or not points & changed:
                continue
            done.add(key)
            for kept in kept_of(group.arg):
                mine = (c.device.number, self.once(text, kept), c.live_only)
                inside = {("point", c.device.point(name)) for name in self.once(self.array_names, kept.arg, c.device)}
                if mine not in done and inside & changed:
                    done.add(mine)
                    count = self.member_count(kept.arg, c)
                    values = [self.member(kept.arg, c, k) for k in range(count)]
                    if time is None:
                        self.blanks.setdefault(mine, set()).update(k for k, x in enumerate(values) if x is None or math.isnan(x))
                    else:
                        self.looks.setdefault(mine, []).append((time, values))
                        self.blanks.pop(mine, None)
            count = self.member_count(group.arg, c)
            self.groups[key] = over(group, [self.member(group.arg, c, k) for k in range(count)])
            news.add(("group", *key))
        return news

    def member_count(self, node: Node, c: Condition) -> int:
        name = self.once(self.array_names, node, c.device)[0]
        return next(p.members for p in c.device.profile.points if p.name == name)

    def member(self, node: Any, c: Condition, k: int) -> Any:
        """Like `scalar`, of member k: an array's member, and what is remembered of it."""
        self.of_member = k
        try:
            return self.scalar(node, c)
        finally:
            self.of_member = None

    def remembered(self, node: Window, c: Condition, k: int) -> Any:
        key = (c.device.number, self.once(text, node), c.live_only)
        looks = [(time, values[k]) for time, values in self.looks.get(key, [])]
        if not looks or k in self.blanks.get(key, ()):
            return None if node.fn == "held" else NAN
        if node.fn == "held":
            beats = [p.beat_s for p in c.device.profile.points if p.name in names(node.arg)]
            return uninterrupted(looks, node.length_ns, int(3 * max(beats) * S))
        return rise(looks, node.length_ns)

    of_member: int | None = None

    def judge(self, position: int, phase: int, time: int, changed: set[Any]) -> None:
        """Evaluate once each rule that reads something changed."""
        for c in self.conditions:
            if any(changed & self.once(self.keys_of, node, c) for node in self.nodes(c)):
                self.evaluate(position, phase, time, c)

    def after(self, record: Any, now: int) -> None:
        if isinstance(record, Event) and record.name == "drained" and self.blind:
            self.blind, self.sight = False, now
        if isinstance(record, Config):
            self.configure(SiteConfig.model_validate_json(record.text), now)

    # -- the machine -------------------------------------------------------------------------------------------------

    def end_delay(self, position: int, c: Condition) -> None:
        assert c.due is not None
        time, c.due = c.due, None
        on = c.phase == "RAISING"
        c.phase = "ON" if on else "OFF"
        if not on:
            c.demand = NAN
        self.tell(position, 0, time, c, int(on))

    def evaluate(self, position: int, phase: int, time: int, c: Condition) -> None:
        if c.due is not None and c.due <= time:
            self.end_delay(position, c)
        holds, clears = self.truths(c)
        leaves_of = self.once(leaves, c.when)
        c.value = self.read(leaves_of[0], c) if leaves_of else NAN
        demand = (
            self.scalar(c.value_of, c) if c.value_of is not None else NAN if c.rule.demand is None else float(c.rule.demand.value)
        )
        said = None
        if c.phase == "OFF" and holds is True:
            c.phase, c.due, said = self.begin(c.rule.on_delay_s, time, "RAISING", "ON")
        elif c.phase == "RAISING":
            if holds is False:
                c.phase, c.due = "OFF", None
            else:
                self.hold(c, holds is None, time)
        elif c.phase == "ON" and clears is True:
            c.phase, c.due, said = self.begin(c.rule.off_delay_s, time, "CLEARING", "OFF")
        elif c.phase == "CLEARING":
            if clears is False:
                c.phase, c.due = "ON", None
            else:
                self.hold(c, clears is None, time)
        if c.phase == "OFF":
            c.demand = NAN
        elif not math.isnan(demand):
            is_change = math.isnan(c.demand) or (demand != c.demand and abs(demand - c.demand) >= c.step)
            if c.phase == "RAISING" or said == 1 or is_change:
                if c.phase != "RAISING" and said is None and is_change:
                    said = 2
                if c.phase != "RAISING" or is_change or math.isnan(c.demand):
                    c.demand = demand
        if said is not None:
            self.tell(position, phase, time, c, said)

    @staticmethod
    def begin(delay_s: float, time: int, waiting: str, reached: str) -> tuple[str, int | None, int | None]:
        if delay_s == 0:
            return reached, None, int(reached == "ON")
        return waiting, time + int(delay_s * S), None

    @staticmethod
    def hold(c: Condition, unknown: bool, time: int) -> None:
        """A delay stands still while the condition is unknown."""
        if unknown and c.due is not None:
            c.left, c.due = max(c.due - time, 0), None
        elif not unknown and c.due is None:
            whole = int((c.rule.on_delay_s if c.phase == "RAISING" else c.rule.off_delay_s) * S)
            c.due = time + min(c.left, whole)

    def truths(self, c: Condition) -> tuple[bool | None, bool | None]:
        holds = self.scalar(c.when, c)
        clears = self.scalar(c.clear, c) if c.clear is not None else None if holds is None else not holds
        if c.rule.missing == "clear":
            return holds is True, clears is not False
        if c.rule.missing == "alarm":
            return holds is not False, clears is True
        return holds, clears

    def tell(self, position: int, phase: int, time: int, c: Condition, on: int) -> None:
        subject = f"{c.rule.id}@{c.device.key}"
        self.out.append(Transition(position, phase, time, subject, on, known(c.value), known(c.demand)))

    # -- what a rule reads -------------------------------------------------------------------------------------------

    @staticmethod
    def nodes(c: Condition) -> list[Any]:
        return [node for node in (c.when, c.clear, c.value_of) if node is not None]

    def points_of(self, node: Any, c: Any) -> set[int]:
        found = set()
        for leaf in within(node):
            match leaf:
                case Window(_, PointRef() as ref, _, _) | Quality(ref) | (PointRef() as ref):
                    found.add(self.number(ref, c))
                case Vote(_, sensors):
                    found |= {self.number(sensor, c) for sensor in sensors}
        return found

    def keys_of(self, node: Any, c: Any) -> set[Any]:
        found: set[Any] = set()
        for leaf in leaves(node):
            match leaf:
                case PointRef() | Quality() | Vote():
                    found |= {("point", number) for number in self.points_of(leaf, c)}
                case Window(_, arg, length, _):
                    # A window over a value that grew old has no new sample, and so is not news.
                    found.add(("window", self.number(arg, c), length, c.live_only))
                case Silent(length):
                    found.add(("silent", c.device.number, length))
                case Group():
                    found.add(("group", c.device.number, text(leaf), c.live_only))
        return found

    def number(self, ref: PointRef, c: Any) -> int:
        target = c.device
        if ref.link is not None:
            area = next(a for a in self.plan.sites[c.device.site].areas if a.name == c.device.area)
            name = area.links[ref.link]
            found = self.plan.device(name if "/" in name else f"{c.device.site}/{name}")
            assert found is not None
            target = found
        number = target.point(ref.name)
        assert number is not None
        return number

    # -- one number at a time ----------------------------------------------------------------------------------------

    def read(self, ref: Any, c: Any) -> float:
        if isinstance(ref, Quality):
            return self.latest.get(self.number(ref.point, c), NAN)
        if isinstance(ref, Vote):
            return self.vote(ref, c)[0]
        if isinstance(ref, Group):
            return self.groups.get((c.device.number, self.once(text, ref), c.live_only), NAN)
        if isinstance(ref, Silent):
            return self.silent.get((c.device.number, ref.length_ns), NAN)
        if isinstance(ref, Window):
            return self.stats.get((ref.fn, self.number(ref.arg, c), ref.length_ns, c.live_only), NAN)
        return self.latest.get(self.number(ref, c), NAN)

    def scalar(self, node: Any, c: Any) -> Any:
        """A float (NaN: unknown) of a number; True, False or None (unknown) of a condition."""
        match node:
            case Number(value):
                return value
            case PointRef() if self.of_member is not None and self.once(self.array_names, node, c.device):
                return self.arrays[self.number(node, c)][self.of_member] if self.number(node, c) in self.arrays else NAN
            case Window("held" | "rise", _, _, ()) if self.of_member is not None:
                return self.remembered(node, c, self.of_member)
            case Group("any" | "all", _, _):
                state = self.read(node, c)
                return None if math.isnan(state) else state == 1.0
            case PointRef() | Window() | Group() | Vote():
                return finite(self.read(node, c))
            case Quality(point):
                return float(self.quality.get(self.number(point, c), 0) & 3)
            case Silent():
                state = self.read(node, c)
                return None if math.isnan(state) else state == 1.0
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

    def configure(self, config: SiteConfig, now: int) -> None:
        self.plan.apply(config)
        self.reads = {}
        old = {c.key: c for c in self.conditions}
        self.conditions = []
        self.versions = {
            (r.id, r.version) for s in self.plan.sites.values() for p in s.profiles.values() for r in p.rules if r.enabled
        }
        self.versions |= {(r.id, r.version) for s in self.plan.sites.values() for r in s.rules if r.enabled}
        for site in self.plan.sites.values():
            own = {rule.id for rule in site.rules}
            for number in sorted(self.plan.active):
                device = self.plan.devices[number]
                if device.site != site.site:
                    continue
                for rule in [*(r for r in device.profile.rules if r.id not in own), *site.rules]:
                    if rule.enabled and applies(rule, device):
                        self.conditions.append(self.bind(rule, device, old))
        self.bind_points()
        leaf_of: list[tuple[Any, Any]] = [(leaf, c) for c in self.conditions for node in self.nodes(c) for leaf in within(node)]
        leaf_of += [(leaf, v) for v in self.virtual for leaf in leaves(v.tree)]
        wanted = {(self.number(w.arg, c), w.length_ns, c.live_only) for w, c in leaf_of if isinstance(w, Window)}
        self.windows = {key: self.windows.get(key, []) for key in wanted}
        fns = {(w.fn, self.number(w.arg, c), w.length_ns, c.live_only) for w, c in leaf_of if isinstance(w, Window)}
        self.stats = {key: value for key, value in self.stats.items() if key in fns}
        # Groups over members that conditions read, inner ones before those that read them.
        groups = self.member_groups = [(c, g) for c in self.conditions for node in self.nodes(c) for g in inner_first(node)]
        asked = {(c.device.number, text(g), c.live_only) for c, g in groups}
        self.groups = {key: value for key, value in self.groups.items() if key in asked}
        kept = {(c.device.number, text(k), c.live_only) for c, g in groups for k in kept_of(g.arg)}
        self.looks = {key: value for key, value in self.looks.items() if key in kept}
        self.blanks = {key: value for key, value in self.blanks.items() if key in kept}
        self.read_arrays = {c.device.point(name) or 0 for c, g in groups for name in self.array_names(g, c.device)}
        for device in self.plan.devices:
            for spec, point in zip(device.profile.points, device.points, strict=True):
                if spec.members is not None and (point not in self.read_arrays or device.number not in self.plan.active):
                    self.arrays.pop(point, None)
                    self.last_ns.pop(point, None)
        silences = {(c.device.number, s.length_ns) for s, c in leaf_of if isinstance(s, Silent)}
        self.silent = {key: self.silent.get(key, 0.0) for key in silences}
        self.heard = {device: self.heard.get(device, now) for device, _ in silences}
        active = {p for d in self.plan.active for p in self.plan.devices[d].points}
        self.latest = {p: v for p, v in self.latest.items() if p in active}
        self.quality = {p: q for p, q in self.quality.items() if p in active}
        self.last_said = {p: said for p, said in self.last_said.items() if p in active}

    def bind_points(self) -> None:
        """Virtual points of active devices, each after those that it reads; a changed formula has given nothing yet."""
        old = {v.number: v.spec.formula for v in self.virtual}
        waiting = [
            VirtualPoint(number, spec, self.plan.devices[d], expression.parse(spec.formula))
            for d in sorted(self.plan.active)
            for spec, number in zip(self.plan.devices[d].profile.points, self.plan.devices[d].points, strict=True)
            if spec.is_virtual
        ]
        for v in waiting:
            if old.get(v.number) not in (None, v.spec.formula):
                self.latest.pop(v.number, None)
                self.quality.pop(v.number, None)
        self.virtual = []
        while waiting:
            open_numbers = {v.number for v in waiting}
            ready = [v for v in waiting if not self.points_of(v.tree, v) & open_numbers]
            assert ready, "a cycle"
            self.virtual += ready
            waiting = [v for v in waiting if v not in ready]

    def bind(self, rule: RuleSpec, device: Device, old: dict[Any, Condition]) -> Condition:
        when = expression.parse(rule.when)
        clear = expression.parse(rule.clear) if rule.clear is not None else None
        if clear is None and rule.hysteresis > 0:
            clear = expression.with_hysteresis(when, rule.hysteresis)
        asked = rule.demand.value if rule.demand is not None else None
        actuator = device.actuator(rule.demand.actuator) if rule.demand is not None else None
        made = Condition(
            rule, device, when, clear, expression.parse(asked) if isinstance(asked, str) else None,
            actuator.min_step if actuator is not None else 0.0,
        )  # fmt: skip
        before = old.get(made.key)
        if before is None and rule.demand is None:
            before = next((c for c in old.values() if self.is_before(c, made)), None)
            if before is not None and any(getattr(rule, name) != getattr(before.rule, name) for name in MEANING):
                if before.phase in {"OFF", "RAISING"}:
                    return made
                made.phase, made.value = "ON", before.value
                return made
        if before is not None:
            for name in ("phase", "due", "left", "value", "demand"):
                setattr(made, name, getattr(before, name))
        return made

    def is_before(self, c: Condition, made: Condition) -> bool:
        """Whether `made` goes on from `c`: another version of its rule that no longer runs, and moved nothing."""
        same = (c.rule.id, c.device.number) == (made.rule.id, made.device.number) and c.rule.demand is None
        return same and (c.rule.id, c.rule.version) not in self.versions


def within(node: Node) -> list[Any]:
    """Leaves of an expression, with those inside what looks at members."""
    found: list[Any] = []
    for leaf in leaves(node):
        found += within(leaf.arg) if isinstance(leaf, Group) or leaf in kept_of(leaf) else [leaf]
    return found


def inner_first(node: Node) -> list[Group]:
    """Groups over members of a tree, those inside others first."""
    found: list[Group] = []
    for leaf in leaves(node):
        inner = leaf.arg if isinstance(leaf, Group | Window) else None
        found += inner_first(inner) if inner is not None else []
        found += [leaf] if isinstance(leaf, Group) else []
    return found


def kept_of(node: Node) -> list[Window]:
    """What is remembered of each member in the argument of a group, inner ones first."""
    found: list[Window] = []
    for leaf in leaves(node):
        if isinstance(leaf, Window) and leaf.fn in {"held", "rise"} and not leaf.parameters:
            found += [*kept_of(leaf.arg), leaf]
    return found


def names(node: Node) -> list[str]:
    """Points that an expression names outside inner groups."""
    found = []
    for leaf in leaves(node):
        found += [leaf.name] if isinstance(leaf, PointRef) else names(leaf.arg) if isinstance(leaf, Window) else []
    return found


def over(group: Group, values: list[Any]) -> float:
    """A group function; truth values count as 1 and 0."""
    numbers = [NAN if x is None else float(x) for x in values]
    sure = [x for x in numbers if not math.isnan(x)]
    if group.fn == "any":
        return 1.0 if 1.0 in sure else NAN if len(sure) < len(numbers) else 0.0
    if group.fn == "all":
        return 0.0 if 0.0 in sure else NAN if len(sure) < len(numbers) else 1.0
    if not sure:
        return NAN
    if group.fn == "worst":
        if is_condition(group.arg) and 1.0 not in sure:
            return 0.0
        return numbers.index(max(sure)) + 1.0
    ordered, middle = sorted(sure), len(sure) // 2
    if group.fn == "median":
        return ordered[middle] if len(sure) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])
    return {
        "count": summed, "sum": summed, "mean": lambda v: summed(v) / len(v), "min": min, "max": max, "spread": lambda v: max(v) - min(v),
    }[group.fn](sure)  # fmt: skip


def uninterrupted(looks: list[tuple[int, Any]], wanted: int, gap: int) -> bool | None:
    """Whether a condition has been true for so long without a break: time counts from a look at which it was true to the next."""
    so_far, last, newest = 0, None, None
    for time, c in looks:
        if last is True and newest is not None and 0 < time - newest <= gap:
            so_far += time - newest
        if c is False:
            so_far = 0
        last, newest = c, time if newest is None else max(newest, time)
    return None if last is None else last and so_far >= wanted


def rise(looks: list[tuple[int, float]], length: int) -> float:
    """What a counter rose in twelve panes, the closed ones by their place first, then the newest; unknown until ten are covered."""
    pane, head, begun, last = length // 12, None, None, NAN
    rises: list[tuple[int, float]] = []
    for time, x in looks:
        p = time // pane
        if head is not None and p - head >= 12:
            begun = None
        head = p if head is None else max(head, p)
        if math.isnan(x) or p <= head - 12:
            continue
        if begun is None:
            begun = p
        elif x > last:
            rises.append((p, x - last))
        last = x
    if math.isnan(looks[-1][1]) or begun is None or head is None or head - begun < 10:
        return NAN
    total = {slot: summed([d for p, d in rises if head - 12 < p <= head and p % 12 == slot]) for slot in range(12)}
    return summed([total[slot] for slot in range(12) if slot != head % 12]) + total[head % 12]


def applies(rule: RuleSpec, device: Device) -> bool:
    return (
        (rule.profile is None or rule.profile == device.profile.name)
        and (rule.area is None or rule.area == device.area)
        and (rule.devices is None or device.name in rule.devices)
    )


def joined(qualities: list[int]) -> int:
    """The worst level with the reasons of all."""
    reasons = 0
    for quality in qualities:
        reasons |= quality & ~3
    return reasons | max(quality & 3 for quality in qualities)


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
    if fn == "poisson":
        return finite(round(significance(math.ceil(args[0]), args[1]) * 2**20) / 2**20)
    if fn in {"abs", "min", "max"}:
        return {"abs": lambda *a: abs(a[0]), "min": min, "max": max}[fn](*args)
    made = float(getattr(psychrometrics, fn)(*args)) * 2**20
    return round(made) / 2**20 if math.isfinite(made) else NAN


def significance(k: int, mean: float) -> float:
    """-log10 of the chance of k or more, term by term."""
    if k <= 0 or mean < 0:
        return 0.0 if mean >= 0 else NAN
    if mean == 0:
        return 300.0
    return -math.log10(math.fsum(math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) for n in range(k, k + 1_000)))


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
            counted.append((p, head, v))
    if not counted or head - min(p for p, _, _ in counted) < COVERED:
        return NAN
    inside = [(p, seen, v) for p, seen, v in counted if p > head - PANES]
    values = [v for _, _, v in inside]
    if fn == "count":
        return float(len(values))
    if not values:
        return NAN
    if fn in {"min", "max"}:
        return min(values) if fn == "min" else max(values)
    if fn == "mean":
        return by_panes(inside, head) / len(values)
    if len(values) < 2:
        return NAN
    centre = counted[0][2]
    d = by_panes([(p, seen, v - centre) for p, seen, v in inside], head)
    q = by_panes([(p, seen, (v - centre) * (v - centre)) for p, seen, v in inside], head)
    m = d / len(values)
    return math.sqrt(max(q / len(values) - m * m, 0.0))


def by_panes(samples: list[tuple[int, int, float]], head: int) -> float:
    """The order of additions that the product promises, for (pane, newest pane when it came, value) as they came.

    Since the last multiple of 60 panes: those of the newest pane as they came (open); those of panes before it as these were over, and
    what came later as it came (young). Of the 60 panes before: their sums from the last pane back, as they stood when these were over,
    then what came later (old). The sum is old + young + open.
    """
    block = head // PANES
    young, newest, fresh = 0.0, head, 0.0
    for p, seen, v in samples:
        if p // PANES != block:
            continue
        if seen != newest:
            young, fresh, newest = young + fresh, 0.0, seen
        if p == seen:
            fresh += v
        else:
            young += v
    if newest != head:
        young, fresh = young + fresh, 0.0
    old = 0.0
    for k in range(block * PANES - 1, head - PANES, -1):
        old = summed([v for p, seen, v in samples if p == k and seen // PANES < block]) + old
    for p, seen, v in samples:
        if p // PANES < block and seen // PANES == block:
            old += v
    return old + young + fresh


def summed(values: list[float]) -> float:
    """From left to right; the built-in sum compensates in newer Pythons."""
    total = 0.0
    for value in values:
        total += value
    return total
