"""Arbitration: of all demands on one actuator, the one value it shall have, who won, and who lost (the "why").

From the highest level (1) down, bounds cut the interval that is left; a bound that would empty it loses. At levels 1-4 the first
value met fixes the interval to itself, moved inside what is left; among levels 5-7 the largest value wins, or the smallest where
the actuator says so. Without any demand the target is the actuator's rest position.

People ask by REQUEST (rules/hand.py) at level 4; an override ends by itself, and an unsafe one comes before survival. An actuator of
a REPLAY site is never moved, and a demand never crosses sites.
"""

import heapq
import math
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np

from rules.hand import REQUESTS, Confirmations, danger, ends_ns, override_problem
from telemetry.plan import NS_PER_S, Plan
from telemetry.record import Request
from telemetry.site import LEVELS, ActuatorSpec, RuleSpec
from telemetry.span import ENTRY, TIMER, UNREAD, DemandChange, Read, Span

MANUAL: Final = LEVELS["manual"]
EQUIPMENT: Final = LEVELS["equipment"]
SURVIVAL: Final = LEVELS["survival"]
NS_PER_DAY: Final = 86_400 * NS_PER_S
REMEMBERED_REQUESTS: Final = 10_000  # the oldest answer is forgotten first
Limits = tuple[tuple[float, float], tuple[float, float]]
OUTCOME_WITHOUT_LIMITS: Final = 3  # parts of one in a snapshot of before
_WITHIN_LEVEL: Final = {"at_most": 0, "at_least": 1, "value": 2}  # the most restrictive limit first (DOMAIN 0.4)


class Demand(NamedTuple):
    """An active demand. `since` is the journal position at which it began or last changed."""

    source: str
    bound: str  # at_least, at_most, value
    level: int
    value: float
    reason: str = ""
    since: int = -1
    version: int = 0  # of the rule that asks; 0 for a request
    since_ns: int = 0  # when the rule's condition began to hold
    read: Read = UNREAD  # what it read when the demand began or last changed
    unsafe: bool = False  # an override before survival

    def body(self) -> dict[str, Any]:
        """As evidence in the decisions about its commands."""
        told = {"source": self.source, "bound": self.bound, "level": self.level, "value": self.value, "reason": self.reason}
        return told | {"unsafe": True} if self.unsafe else told

    def evidence(self) -> dict[str, Any]:
        """As evidence in the decision that it wins or loses."""
        if self.version:
            return self.body() | {"rule_version": self.version, "since_ns": self.since_ns, "read": self.read}
        return self.body() | ({"since_ns": self.since_ns, "read": self.read} if self.read else {})


class Outcome(NamedTuple):
    """What arbitration says: the value, whose demand gives it (None: rest), and the demands it does not satisfy.

    limits: (low, high) that the bounds of personnel safety leave, and those of equipment below it: no position may be outside.
    """

    value: float
    winner: Demand | None
    losers: tuple[Demand, ...]
    limits: Limits


class TargetChange(NamedTuple):
    """An actuator shall have another value, or the same for another reason, or has other limits. `winner` None: nobody asks, it goes to
    rest."""

    entry: int
    phase: int
    time_ns: int
    actuator: str
    value: float
    winner: Demand | None
    losers: tuple[Demand, ...]
    reason: str
    limits: Limits


def arbitrate(demands: Iterable[Demand], spec: ActuatorSpec) -> Outcome:
    """The value of an actuator under `demands`. A demand that is not finite is not a demand."""
    asked = sorted((d for d in demands if math.isfinite(d.value)), key=_order)
    low, high = spec.low, spec.high
    limits = [(low, high), (low, high)]
    floor: Demand | None = None
    ceiling: Demand | None = None
    fixed: Demand | None = None
    chosen: Demand | None = None
    for demand in asked:
        if demand.bound == "at_most":
            if low <= demand.value < high:
                high, ceiling = demand.value, demand
        elif demand.bound == "at_least":
            if low < demand.value <= high:
                low, floor = demand.value, demand
        elif demand.level > MANUAL:
            chosen = demand if chosen is None or _is_preferred(demand, chosen, spec) else chosen
        elif fixed is None:
            fixed = demand if demand.unsafe else _preferred_of_level(asked, demand.level, spec)
            limit = ceiling if fixed.value > high else floor if fixed.value < low else fixed
            low = high = min(max(fixed.value, low), high)
            floor = ceiling = limit
        if demand.level <= EQUIPMENT:
            limits[demand.level - 1 :] = [(low, high)] * (EQUIPMENT - demand.level + 1)
    base = spec.rest if chosen is None else chosen.value
    value = min(max(base, low), high)
    winner = floor if base < low else ceiling if base > high else chosen
    if fixed is not None:
        winner = floor if floor is not None else fixed  # a range limit of the actuator itself holds it: still the one who asked
    elif winner is None:
        winner = chosen
    losers = tuple(d for d in asked if d is not winner and not _is_satisfied(d, value))
    return Outcome(value, winner, losers, (limits[0], limits[1]))


def _order(demand: Demand) -> tuple[int, int, str]:
    if demand.unsafe:  # after the limits of people and equipment, before those of survival
        return SURVIVAL, -1, demand.source
    return demand.level, _WITHIN_LEVEL[demand.bound], demand.source


def _is_preferred(demand: Demand, other: Demand, spec: ActuatorSpec) -> bool:
    """Strictly: of equal values the first in order keeps its place."""
    return demand.value > other.value if spec.choose == "largest" else demand.value < other.value


def _preferred_of_level(asked: list[Demand], level: int, spec: ActuatorSpec) -> Demand:
    values = [d for d in asked if d.level == level and d.bound == "value"]
    return max(values, key=lambda d: d.value) if spec.choose == "largest" else min(values, key=lambda d: d.value)


def _is_satisfied(demand: Demand, value: float) -> bool:
    if demand.bound == "at_least":
        return value >= demand.value
    return value <= demand.value if demand.bound == "at_most" else value == demand.value


class Arbitration:
    """The stage. Holds active demands and overrides per actuator; writes `span.targets`, "demand", "mode" and "answer" decisions.

    `sabotage` breaks a promise on purpose: endless_override.
    """

    rank = 60

    def __init__(self, *, sabotage: frozenset[str] = frozenset()) -> None:
        self._sabotage = sabotage
        self._plan = Plan()
        self._active: dict[str, dict[str, Demand]] = {}  # actuator -> source -> demand
        self._last: dict[str, Outcome] = {}
        self._override_due: dict[str, int] = {}  # actuator -> when its override ends
        self._heap: list[tuple[int, str]] = []  # the same, for order; entries that no longer agree with the dict are skipped
        self._answers: dict[str, tuple[bool, str]] = {}
        self._confirmations = Confirmations()
        self._manual: dict[str, str] = {}  # actuator -> source of the override that was told of
        self._dirty: set[str] = set()
        self._versions: dict[str, int | None] = {}

    def configure(self, plan: Plan) -> None:
        """Take the plan. Demands of rules, versions or actuators that are gone end at the next entry."""
        self._plan = plan
        self._versions.clear()
        for actuator, demands in self._active.items():
            for source, demand in list(demands.items()):
                if self._spec(actuator) is None or (demand.version and self._version(source) != demand.version):
                    del demands[source]
            if not self._override_source(actuator):
                self._override_due.pop(actuator, None)
        self._dirty |= self._active.keys()

    def run(self, span: Span) -> None:
        """Apply demand changes, requests and overrides that end, in the order of the journal."""
        if not len(span.entries):
            return
        events = self._events(span)
        if not events and not self._dirty and not self._heap:
            return
        times, last = span.entries.time_ns, int(span.entries.time_ns[-1])
        if self._dirty:
            # Before anything else that happens at this entry, so stamped no later than its first timer.
            first_ns = min(
                [int(times[0]), *(key[2] for key, _ in events[:1] if key[:2] == (0, TIMER)), *(due for due, _ in self._heap[:1])]
            )
            self._settle(span, (0, TIMER, first_ns), sorted(self._dirty))
            self._dirty = set()
        at = 0
        while at < len(events) or (self._heap and self._heap[0][0] <= last):
            key = events[at][0] if at < len(events) else (len(times), 0, 0)
            if self._heap and self._heap[0][0] <= last:
                due = self._heap[0][0]
                key = min(key, (int(np.searchsorted(times, due)), TIMER, due))
            touched = self._end_overrides(span, key)
            while at < len(events) and events[at][0] == key:
                touched |= self._apply(span, key, events[at][1])
                at += 1
            entry, phase, time_ns = key
            self._settle(span, (entry, phase, time_ns if phase == TIMER else int(times[entry])), sorted(touched))

    @staticmethod
    def _events(span: Span) -> list[tuple[tuple[int, int, int], DemandChange | Request]]:
        """(entry, phase, due time in the timer phase) and what happens there; demands before requests."""
        events: list[tuple[tuple[int, int, int], DemandChange | Request]] = [
            ((d.entry, d.phase, d.time_ns if d.phase == TIMER else 0), d) for d in span.demands
        ]
        for entry, record in span.entries.records:
            if isinstance(record, Request) and record.kind in REQUESTS:
                events.append(((entry, ENTRY, 0), record))
        events.sort(key=lambda event: event[0])
        return events

    # -- what changes demands ----------------------------------------------------------------------------------------

    def _apply(self, span: Span, key: tuple[int, int, int], event: DemandChange | Request) -> set[str]:
        if isinstance(event, Request):
            return self._request(span, key[0], event)
        spec = self._spec(event.actuator)
        if spec is None or _site_of(event.source) != event.actuator.split("/", 1)[0]:
            return set()
        demands = self._active.setdefault(event.actuator, {})
        if event.value is None or not math.isfinite(event.value):
            demands.pop(event.source, None)
        else:
            demands[event.source] = Demand(
                event.source, event.bound, event.level, float(event.value), event.reason, span.entries.first + event.entry,
                self._version(event.source) or 0, event.since_ns, event.read,
            )  # fmt: skip
        return {event.actuator}

    def _end_overrides(self, span: Span, key: tuple[int, int, int]) -> set[str]:
        ended, times = set(), span.entries.time_ns
        while self._heap:
            due, actuator = self._heap[0]
            if due > times[-1] or (int(np.searchsorted(times, due)), TIMER, due) > key:
                break
            heapq.heappop(self._heap)
            if self._override_due.get(actuator) == due:
                self._end_override(actuator)
                ended.add(actuator)
        return ended

    def _end_override(self, actuator: str) -> bool:
        source = self._override_source(actuator)
        self._override_due.pop(actuator, None)
        return bool(source) and self._active[actuator].pop(source, None) is not None

    def _override_source(self, actuator: str) -> str:
        return next((s for s in self._active.get(actuator, {}) if s.startswith("request:")), "")

    def _request(self, span: Span, entry: int, request: Request) -> set[str]:
        known, now_ns = self._answers.get(request.id), int(span.entries.time_ns[entry])
        if known is not None:
            self._answer(span, entry, request, known[1])
            return set()
        waiting = None
        problem, asked, asked_ns = "", request, now_ns
        if request.kind == "confirm":
            waiting, problem = self._confirmations.find(request, now_ns)
            if waiting is not None:
                asked, asked_ns = waiting.as_request(), waiting.asked_ns
        problem = problem or self._problem(asked)
        spec = self._spec(str(asked.body.get("actuator")))
        why = None if problem or spec is None or waiting is not None else danger(asked, spec)
        if why is not None and spec is not None:
            self._ask_again(span, entry, asked, spec, why.model_dump())
            return set()
        self._answer(span, entry, request, problem)
        if problem:
            return set()
        if waiting is not None:
            self._confirmations.done(waiting)
        self._obey(asked, asked_ns, span.entries.first + entry)
        return {str(asked.body["actuator"])}

    def _obey(self, asked: Request, asked_ns: int, position: int) -> None:
        """Begin an override in the place of the one before, or only end that."""
        actuator = str(asked.body["actuator"])
        self._end_override(actuator)
        if asked.kind == "override":
            demand = _by_hand(asked, position)
            self._active.setdefault(actuator, {})[demand.source] = demand
            late_ns = NS_PER_DAY if "endless_override" in self._sabotage else 0
            self._override_due[actuator] = ends_ns(asked.body, asked_ns) + late_ns
            heapq.heappush(self._heap, (self._override_due[actuator], actuator))

    def _ask_again(self, span: Span, entry: int, asked: Request, spec: ActuatorSpec, why: dict[str, str]) -> None:
        """Nothing is done yet: say what makes it dangerous, and whom it would displace."""
        actuator, now_ns = str(asked.body["actuator"]), int(span.entries.time_ns[entry])
        stands = [d for d in self._active.get(actuator, {}).values() if not d.source.startswith("request:")]
        outcome = arbitrate([*stands, _by_hand(asked, 0)], spec)
        note = {
            "confirm": why, "confirm_until_ns": self._confirmations.wait(asked, now_ns), "value": outcome.value,
            "displaces": [loser.body() for loser in outcome.losers if not loser.source.startswith("request:")],
        }  # fmt: skip
        self._answer(span, entry, asked, f"confirm it within 60 s: {why['en']}", note)

    def _problem(self, request: Request) -> str:
        """Why a request is refused; "" when it is not."""
        actuator = request.body.get("actuator")
        spec = self._spec(actuator) if isinstance(actuator, str) else None
        if spec is None:
            return f"no actuator {actuator!r} that may be moved; it is named site/device/actuator, and replayed sites do not move"
        if request.kind == "release":
            return "" if self._override_source(str(actuator)) else f"{actuator} has no override to release"
        return override_problem(request, spec)

    def _answer(self, span: Span, entry: int, request: Request, problem: str, note: dict[str, Any] | None = None) -> None:
        self._answers.setdefault(request.id, (not problem, problem))
        while len(self._answers) > REMEMBERED_REQUESTS:
            del self._answers[next(iter(self._answers))]
        body = {"accepted": not problem, "reason": problem, "request": request.kind} | (note or {})
        time_ns = int(span.entries.time_ns[entry])
        span.decide(entry=entry, phase=ENTRY, time_ns=time_ns, stage=self.rank, kind="answer", subject=request.id, body=body)

    # -- outcome -----------------------------------------------------------------------------------------------------

    def _settle(self, span: Span, place: tuple[int, int, int], actuators: list[str]) -> None:
        """Arbitrate anew; say what changed. New limits alone are no news to people, but to the command stage."""
        for actuator in actuators:
            self._say_mode(span, place, actuator)
            spec, demands = self._spec(actuator), self._active.get(actuator, {})
            if spec is None:
                self._active.pop(actuator, None)
                self._last.pop(actuator, None)
                continue
            new, old = arbitrate(demands.values(), spec), self._last.get(actuator) or arbitrate((), spec)
            if demands:
                self._last[actuator] = new
            else:
                self._active.pop(actuator, None)
                self._last.pop(actuator, None)
            if new != old:
                self._say(span, place, actuator, old, new)

    def _say_mode(self, span: Span, place: tuple[int, int, int], actuator: str) -> None:
        """MANUAL while an override is in force, whoever wins; AUTO when it has ended."""
        source, (entry, phase, time_ns) = self._override_source(actuator), place
        if source == self._manual.get(actuator, ""):
            return
        self._manual[actuator] = source
        body: dict[str, Any] = {"mode": "MANUAL" if source else "AUTO"}
        if source:
            demand = self._active[actuator][source]
            body |= {"until_ns": self._override_due[actuator], **demand.body()}
        else:
            del self._manual[actuator]
        span.decide(entry=entry, phase=phase, time_ns=time_ns, stage=self.rank, kind="mode", subject=actuator, body=body)

    def _say(self, span: Span, place: tuple[int, int, int], actuator: str, old: Outcome, new: Outcome) -> None:
        entry, phase, time_ns = place
        if new[:3] != old[:3]:
            self._decide_demand(span, place, actuator, new)
        if (new.value, new.winner, new.limits) != (old.value, old.winner, old.limits):
            reason = "nobody asks: rest" if new.winner is None else new.winner.reason
            change = TargetChange(entry, phase, time_ns, actuator, new.value, new.winner, new.losers, reason, new.limits)
            span.targets.append(change)

    def _decide_demand(self, span: Span, place: tuple[int, int, int], actuator: str, new: Outcome) -> None:
        entry, phase, time_ns = place
        body = {
            "value": new.value,
            "winner": None if new.winner is None else new.winner.evidence(),
            "losers": [loser.evidence() for loser in new.losers],
        }
        span.decide(entry=entry, phase=phase, time_ns=time_ns, stage=self.rank, kind="demand", subject=actuator, body=body)

    # -- configuration ----------------------------------------------------------------------------------------------

    def _spec(self, actuator: str) -> ActuatorSpec | None:
        """The actuator's specification; None when there is none or its site is a recording."""
        device_key, _, name = actuator.rpartition("/")
        device = self._plan.device(device_key)
        return None if device is None or device.origin == "REPLAY" else device.actuator(name)

    def _version(self, source: str) -> int | None:
        """Version of the rule behind a source "RULE@site/device"; None when no such rule stands there now."""
        if source not in self._versions:
            spec = self._rule(source)
            self._versions[source] = None if spec is None else spec.version
        return self._versions[source]

    def _rule(self, source: str) -> RuleSpec | None:
        rule_id, _, device_key = source.partition("@")
        device = self._plan.device(device_key)
        if device is None:
            return None
        of_site, of_profile = (
            [rule for rule in rules if rule.id == rule_id and not rule.shadow]
            for rules in (self._plan.sites[device.site].rules, device.profile.rules)
        )
        for rule in of_site or of_profile:  # a site's rule replaces the profile's
            in_scope = rule.profile in {None, device.profile.name} and rule.area in {None, device.area}
            in_scope &= rule.tag in {None, *device.tags} and (rule.devices is None or device.name in rule.devices)
            if rule.enabled and in_scope:
                return rule
        return None

    # -- state ---------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Demands, overrides and last outcomes by actuator; answers by request id, oldest first."""
        return {
            "active": {actuator: [list(d) for d in demands.values()] for actuator, demands in self._active.items()},
            "last": {
                actuator: [o.value, None if o.winner is None else list(o.winner), [list(d) for d in o.losers], o.limits]
                for actuator, o in self._last.items()
            },
            "override_due": dict(self._override_due),
            "confirmations": self._confirmations.snapshot(),
            "manual": dict(self._manual),
            "answers": [[request, accepted, reason] for request, (accepted, reason) in self._answers.items()],
            "dirty": sorted(self._dirty),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Inverse of `snapshot`. One of a build that kept no limits is arbitrated anew at the next entry."""
        older = {actuator for actuator, outcome in saved["last"].items() if len(outcome) == OUTCOME_WITHOUT_LIMITS}
        self._active = {a: {d[0]: Demand(*d) for d in demands} for a, demands in saved["active"].items()}
        self._last = {
            actuator: Outcome(
                value, None if winner is None else Demand(*winner), tuple(Demand(*d) for d in losers), _limits(*limits)
            )
            for actuator, (value, winner, losers, *limits) in saved["last"].items()
        }
        self._override_due = dict(saved["override_due"])
        self._heap = sorted((due, actuator) for actuator, due in self._override_due.items())
        self._answers = {request: (accepted, reason) for request, accepted, reason in saved["answers"]}
        self._confirmations.restore(saved.get("confirmations", []))
        self._manual = dict(saved.get("manual", {}))
        self._dirty = set(saved["dirty"]) | older


def _site_of(source: str) -> str:
    """Site of the device a rule's demand comes from."""
    return source.partition("@")[2].split("/", 1)[0]


def _limits(saved: list[list[float]] | None = None) -> Limits:
    (low_1, high_1), (low_2, high_2) = saved or [[-math.inf, math.inf]] * 2
    return (low_1, high_1), (low_2, high_2)


def _by_hand(asked: Request, position: int) -> Demand:
    """The demand of an override."""
    reason = f"{asked.author}: {asked.body.get('reason', '')}"
    is_unsafe = asked.body.get("unsafe") is True
    return Demand(f"request:{asked.id}", "value", MANUAL, float(asked.body["value"]), reason, position, unsafe=is_unsafe)
