"""What a backtest found, as numbers: alarms of every rule with their true times, and what actuators were told beside what they did.

An alarm stands from the moment it is raised until its condition clears, it is shelved or suppressed. Nobody acknowledges here.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from app.backtest.lane import DAY_MS, Block
from app.backtest.position import SUMS, Told
from telemetry.decision import Decision, LogHash
from telemetry.site import RuleSpec, SiteConfig

NS_PER_MS: Final = 1_000_000
PEAK_MS: Final = 600_000  # IEC 62682 counts alarms by 10 min
ALARMS_KEPT: Final = 500_000  # of one rule set, with their times; more are counted
STANDS: Final = ("UNACK", "ACKED")


class Standing(msgspec.Struct):
    """One alarm. cleared_ms None: it stood at the end."""

    rule: str
    device: str
    raised_ms: int
    cleared_ms: int | None
    priority: str
    value: float | None
    change: str = ""  # against the other version: "new" or "same"; "gone" for those of the other one alone
    label: str = ""  # of the labelled event it hits


class Label(msgspec.Struct, frozen=True):
    """A stretch of time [ms] that somebody labelled. Empty rule, device: any."""

    from_ms: int
    to_ms: int
    label: str
    rule: str = ""
    device: str = ""

    def fits(self, alarm: Standing) -> bool:
        """Whether an alarm stood while this went on, and is of its rule and device."""
        if (self.rule and self.rule != alarm.rule) or (self.device and self.device != alarm.device):
            return False
        return alarm.raised_ms <= self.to_ms and (alarm.cleared_ms is None or alarm.cleared_ms >= self.from_ms)


class RuleReport(msgspec.Struct):
    """One rule. by_day: alarms raised on each day (UTC) of the run; hits, misses count labelled events, false_alarms alarms."""

    rule: str
    version: int
    priority: str
    message: dict[str, str]
    alarms: int
    alarms_per_day: float
    peak_10min: int
    standing_s: float
    standing_at_end: int
    by_day: list[int]
    new: int | None = None
    gone: int | None = None
    hits: int | None = None
    misses: int | None = None
    false_alarms: int | None = None


class ActuatorReport(msgspec.Struct):
    """An actuator. changes of its target, moves it would have been sent; means over the samples of its feedback point, in its unit: of the
    target, of where it would have stood, of what was measured, of how far the last two are apart. by_day: [day, told, stood, measured],
    days since 1970 (UTC)."""

    actuator: str
    changes: int
    moves: int
    samples: int
    told_mean: float | None
    stood_mean: float | None
    measured_mean: float | None
    difference_mean: float | None
    by_day: list[tuple[int, float, float, float]]


class Report(msgspec.Struct):
    """The whole of it. Times in ms since 1970 UTC; reached_ms: up to where it ran; alarms: in order of time, bounded (alarms_left_out)."""

    site: str
    zone: str
    start_ms: int
    end_ms: int
    reached_ms: int
    complete: bool
    samples: int
    decisions: int
    transitions: int
    sha256: str
    against: str
    control: bool  # some rule demands something of an actuator
    faults: list[str]
    rules: list[RuleReport]
    actuators: list[ActuatorReport]
    alarms: list[Standing]
    alarms_left_out: int
    labels: int
    reading_s: float = 0.0
    framing_s: float = 0.0
    evaluating_s: float = 0.0
    wall_s: float = 0.0
    rss_mb: float = 0.0


class _Heard:
    """Alarms of one variant, from its decisions in order of time."""

    def __init__(self) -> None:
        self.log = LogHash()
        self.alarms: list[Standing] = []
        self.left_out = self.transitions = 0
        self.changes: dict[str, int] = defaultdict(int)
        self._open: dict[str, Standing] = {}

    def add(self, decisions: Iterable[Decision]) -> None:
        """Take decisions."""
        for d in decisions:
            if d.kind == "fault":  # told once, by the caller; a part of a site might not have met the rule
                continue
            self.log.add([msgspec.structs.replace(d, position=0)])
            if d.kind == "demand":
                self.changes[d.subject] += 1
            elif d.kind in {"alarm", "shadow"} and "to" in d.body:
                self._alarm(d)

    def _alarm(self, d: Decision) -> None:
        self.transitions += 1
        stands, time_ms = d.body["to"] in STANDS, d.time_ns // NS_PER_MS
        if not stands and (ended := self._open.pop(d.subject, None)) is not None:
            ended.cleared_ms = time_ms
        if stands and d.subject not in self._open:
            rule, _, key = d.subject.partition("@")
            alarm = Standing(rule, key.partition("/")[2], time_ms, None, str(d.body.get("priority", "")), d.body.get("value"))
            self._open[d.subject] = alarm
            if len(self.alarms) < ALARMS_KEPT:
                self.alarms.append(alarm)
            else:
                self.left_out += 1


class Collector:
    """Pieces in, a report out, at any time: also of a run that was stopped."""

    def __init__(self, variants: Sequence[SiteConfig], start_ms: int, end_ms: int) -> None:
        self._config, self._start_ms, self._end_ms = variants[0], start_ms, end_ms
        self._heard = [_Heard() for _ in variants]
        self._told: Told = {}
        self.reached_ms, self.samples = start_ms, 0

    def add(self, piece: Block) -> None:
        """Take a piece."""
        self.reached_ms = piece.reached_ms
        self.samples += piece.samples
        for heard, decisions in zip(self._heard, piece.decisions, strict=True):
            heard.add(decisions)
        for key, sums in piece.told.items():
            self._told[key] = [a + b for a, b in zip(self._told.get(key, [0.0] * len(sums)), sums, strict=True)]

    def report(self, *, labels: Sequence[Label] = (), against: str = "", faults: Sequence[str] = ()) -> Report:
        """What was found up to here."""
        first = self._heard[0]
        alarms = list(first.alarms)
        gone = _compare(alarms, self._heard[1].alarms) if len(self._heard) > 1 else []
        _label(alarms, labels)
        actuators = self._actuators()
        return Report(
            site=self._config.site, zone=self._config.zone, start_ms=self._start_ms, end_ms=self._end_ms, reached_ms=self.reached_ms,
            complete=self.reached_ms >= self._end_ms, samples=self.samples, decisions=first.log.count, transitions=first.transitions,
            sha256=first.log.hexdigest(), against=against, control=self._has_control(), faults=list(faults),
            rules=self._rules(alarms, gone, labels, is_compared=len(self._heard) > 1), actuators=actuators,
            alarms=sorted([*alarms, *gone], key=lambda a: (a.raised_ms, a.rule, a.device)), alarms_left_out=first.left_out,
            labels=len(labels),
        )  # fmt: skip

    def _rules(
        self, alarms: list[Standing], gone: list[Standing], labels: Sequence[Label], *, is_compared: bool
    ) -> list[RuleReport]:
        own, lost = _by_rule(alarms), _by_rule(gone)
        specs = self._specs()
        found = []
        for name in sorted(set(own) | set(lost) | {name for name, rule in specs.items() if rule.priority is not None}):
            mine, spec = own.get(name, []), specs.get(name)
            made = RuleReport(
                rule=name, version=0 if spec is None else spec.version, priority="" if spec is None else spec.priority or "",
                message={} if spec is None else spec.message.model_dump(), alarms=len(mine),
                alarms_per_day=len(mine) * DAY_MS / max(self.reached_ms - self._start_ms, 1), peak_10min=peak(mine),
                standing_s=sum((a.cleared_ms or self.reached_ms) - a.raised_ms for a in mine) / 1000,
                standing_at_end=sum(a.cleared_ms is None for a in mine), by_day=self._by_day(mine),
            )  # fmt: skip
            if is_compared:
                made.new, made.gone = sum(a.change == "new" for a in mine), len(lost.get(name, []))
            if labels:
                asked = [label for label in labels if label.rule in {"", name}]
                made.hits = sum(any(label.fits(a) for a in mine) for label in asked)
                made.misses, made.false_alarms = len(asked) - made.hits, sum(not a.label for a in mine)
            found.append(made)
        return found

    def _has_control(self) -> bool:
        return any(rule.demand is not None for rule in self._specs().values())

    def _specs(self) -> dict[str, RuleSpec]:
        found = {rule.id: rule for profile in self._config.profiles.values() for rule in profile.rules if rule.enabled}
        return found | {rule.id: rule for rule in self._config.rules if rule.enabled}

    def _by_day(self, alarms: list[Standing]) -> list[int]:
        first = self._start_ms // DAY_MS
        days = [0] * ((max(self.reached_ms - 1, self._start_ms)) // DAY_MS - first + 1)
        for alarm in alarms:
            days[min(alarm.raised_ms // DAY_MS - first, len(days) - 1)] += 1
        return days

    def _actuators(self) -> list[ActuatorReport]:
        days: dict[str, list[tuple[int, list[float]]]] = defaultdict(list)
        for (actuator, day), sums in sorted(self._told.items()):
            days[actuator].append((day, sums))
        found = []
        for actuator, changes in sorted(self._heard[0].changes.items()):
            own = [(day, dict(zip(SUMS, sums, strict=True))) for day, sums in days.get(actuator, [])]
            n, moves = (int(sum(sums[name] for _, sums in own)) for name in ("samples", "moves"))
            told, stood, measured, apart = (
                sum(sums[name] for _, sums in own) / n if n else None for name in ("told", "stood", "measured", "apart")
            )
            by_day = [
                (day, sums["told"] / sums["samples"], sums["stood"] / sums["samples"], sums["measured"] / sums["samples"])
                for day, sums in own
                if sums["samples"]
            ]
            name = actuator.partition("/")[2]
            found.append(ActuatorReport(name, changes, moves, n, told, stood, measured, apart, by_day))
        return found


def _by_rule(alarms: Iterable[Standing]) -> dict[str, list[Standing]]:
    found: dict[str, list[Standing]] = defaultdict(list)
    for alarm in alarms:
        found[alarm.rule].append(alarm)
    return found


def peak(alarms: Sequence[Standing]) -> int:
    """Most alarms raised within any 10 minutes; alarms in order of time."""
    most = low = 0
    for high, alarm in enumerate(alarms):
        while alarm.raised_ms - alarms[low].raised_ms >= PEAK_MS:
            low += 1
        most = max(most, high - low + 1)
    return most


def _compare(alarms: list[Standing], others: list[Standing]) -> list[Standing]:
    """Mark what is new; returns alarms of the other version that none of these meets. Two meet when they stand at the same time."""
    theirs, ours = _by_place(others), _by_place(alarms)
    for alarm in alarms:
        alarm.change = "same" if _meets(alarm, theirs.get((alarm.rule, alarm.device), [])) else "new"
    gone = [alarm for alarm in others if not _meets(alarm, ours.get((alarm.rule, alarm.device), []))]
    return [msgspec.structs.replace(alarm, change="gone") for alarm in gone]


def _by_place(alarms: Iterable[Standing]) -> dict[tuple[str, str], list[Standing]]:
    found: dict[tuple[str, str], list[Standing]] = defaultdict(list)
    for alarm in alarms:
        found[alarm.rule, alarm.device].append(alarm)
    return found


def _meets(alarm: Standing, others: Sequence[Standing]) -> bool:
    """Whether one of others (of the same rule and device, in order of time) stands while this one does."""
    low, high = 0, len(others)
    while low < high:  # the first that ends at or after this one begins: ends are in order as well
        middle = (low + high) // 2
        ended = others[middle].cleared_ms
        if ended is not None and ended < alarm.raised_ms:
            low = middle + 1
        else:
            high = middle
    return low < len(others) and (alarm.cleared_ms is None or others[low].raised_ms <= alarm.cleared_ms)


def _label(alarms: Iterable[Standing], labels: Sequence[Label]) -> None:
    """Write on every alarm which labelled event it hits."""
    for alarm in alarms if labels else ():
        alarm.label = next((label.label or "event" for label in labels if label.fits(alarm)), "")
