"""Alarm life cycle after ISA-18.2 / IEC 62682: the stage that walks condition changes and requests through one table of states.

The table is in rules/alarm_states.py. While an alarm is shelved, out of service or suppressed its condition goes on being tracked, and
it returns to where the condition then stands.
"""

import heapq
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np

from rules import alarm_states, loop
from rules.alarm_states import NEW, Alarm
from rules.book import evidence, level_of
from rules.cohort import SHADOW, Rule
from rules.condition import Conditions
from rules.flood import Floods
from telemetry.plan import NS_PER_S, Device, Plan
from telemetry.record import Request
from telemetry.site import COMMAND_ALARM
from telemetry.span import ENTRY, TIMER, UNREAD, DemandChange, Read, Span

REMEMBERED_REQUESTS: Final = 10_000
CONFIRM_NS: Final = 600 * NS_PER_S  # for how long a first person's request waits for a second one
CHATTER_CHANGES, CHATTER_NS, CHATTER_SHELF_NS = 3, 60 * NS_PER_S, 1_800 * NS_PER_S
REQUESTS: Final = ("acknowledge", "shelve", "unshelve", "reset", "out_of_service", "in_service", "comment", "assign")
# Of what happens to one alarm at one moment: suppression is known before its children raise, and ends after they have cleared.
_RANK: Final = {"suppress": 0, "clear": 1, "raise": 2, "unsuppress": 3}


class Happening(NamedTuple):
    """What happens to one alarm of one device."""

    entry: int
    phase: int
    time_ns: int
    rule: Rule
    device: int
    event: str
    value: float = float("nan")
    held_ns: int = 0
    read: Read = UNREAD
    request: Request | None = None


class Alarms:
    """The stage. Holds only alarms that are not normal, or suppressed."""

    rank = 40

    def __init__(self, conditions: Conditions) -> None:
        self._bound: Callable[[], list[Rule]] = lambda: conditions.book.rules
        self._plan = Plan()
        self._state: dict[tuple[str, int], Alarm] = {}  # by (rule key, device number)
        self._shelved: set[tuple[str, int]] = set()
        self._recent: dict[tuple[str, int], list[int]] = {}  # times of the last changes of conditions that may chatter
        self._answered: dict[str, bool] = {}
        self._rules: dict[str, list[Rule]] = {}
        self._holding: list[Rule] = []
        self._is_new_plan = False
        self._floods = Floods()

    def configure(self, plan: Plan) -> None:
        """Take the plan; alarms whose rule or device went away end with a decision at the next run."""
        self._plan, self._is_new_plan = plan, True
        self._rules = {}
        for rule in self._bound():
            self._rules.setdefault(rule.key, []).append(rule)
        self._holding = [rule for rule in self._bound() if _holds(rule)]
        self._inherit()

    def _inherit(self) -> None:
        """An alarm goes over to the new version of its rule where its condition did (rules/condition.py)."""
        for key, device in [key for key in self._state if self._rule(*key) is None]:
            heir = next((r for r in self._bound() if r.inherits == key and r.covers(device)), None)
            if heir is not None and heir.spec.priority is not None:
                self._state[heir.key, device] = self._state.pop((key, device))
                if (key, device) in self._shelved:
                    self._shelved.discard((key, device))
                    self._shelved.add((heir.key, device))

    def run(self, span: Span) -> None:
        """Walk condition changes, requests and shelving that ends, in canonical order."""
        self._drop_orphans(span)
        self._hold(span)
        happenings = self._from_conditions(span) + self._from_requests(span) + self._unshelved(span)
        queue = [(_order(happening), n, happening) for n, happening in enumerate(happenings)]
        heapq.heapify(queue)
        made = len(queue)
        while queue:
            happening = heapq.heappop(queue)[2]
            self._handle(span, happening)
            ends = self._shelving_ends(span, happening)
            if ends is not None:
                heapq.heappush(queue, (_order(ends), made, ends))
                made += 1
        self._floods.run(span)

    # -- demands of latching alarms --------------------------------------------------------------------------------------------

    def _hold(self, span: Span) -> None:
        """What the rule of a latching alarm asks of an actuator does not end with its condition, but with the reset of the alarm."""
        if self._holding and span.demands:
            span.demands[:] = [change for change in span.demands if change.value is not None or not self._is_held(change.source)]

    def _is_held(self, source: str) -> bool:
        rule_id, _, device_key = source.partition("@")
        device = self._plan.device(device_key)
        return device is not None and any(
            rule.spec.id == rule_id and rule.site == device.site and rule.covers(device.number) for rule in self._holding
        )

    def _release(self, span: Span, happening: Happening) -> None:
        rule, device = happening.rule, self._plan.devices[happening.device]
        asked = rule.spec.demand
        assert asked is not None
        span.demands.append(
            DemandChange(
                happening.entry, happening.phase, happening.time_ns, f"{rule.spec.id}@{device.key}", f"{device.key}/{asked.actuator}",
                asked.bound, level_of(rule), None, "reset",
            )
        )  # fmt: skip

    # -- what happens ----------------------------------------------------------------------------------------------------------

    def _from_conditions(self, span: Span) -> list[Happening]:
        changes, rules = span.transitions, self._bound()
        if changes is None or not len(changes.rule):
            return []
        alarmed = np.array([r.spec.priority is not None or r.suppresses is not None for r in rules], np.bool_)
        found = []
        for c in np.flatnonzero((changes.what != loop.MOVED) & alarmed[changes.rule]):
            rule, on = rules[int(changes.rule[c])], changes.what[c] == loop.TURNED_ON
            event = ("raise" if on else "clear") if rule.suppresses is None else ("suppress" if on else "unsuppress")
            found.append(
                Happening(
                    int(changes.entry[c]), int(changes.phase[c]), int(changes.time_ns[c]), rule.suppresses or rule,
                    int(changes.device[c]), event, float(changes.value[c]), int(changes.since_ns[c]), evidence(rule, changes.leaf[c]),
                )
            )  # fmt: skip
        return found

    def _from_requests(self, span: Span) -> list[Happening]:
        out = []
        for entry, record in span.entries.records:
            if not isinstance(record, Request) or record.kind not in REQUESTS or record.id in self._answered:
                continue
            if not self._is_ours(str(record.body.get("alarm", ""))):
                continue
            time_ns = int(span.entries.time_ns[entry])
            found, problem = self._find(record)
            self._answered[record.id] = not problem
            if found is None or problem:
                self._answer(span, entry, record, problem)
                continue
            out.append(Happening(entry, ENTRY, time_ns, *found, record.kind, request=record))
        while len(self._answered) > REMEMBERED_REQUESTS:
            del self._answered[next(iter(self._answered))]
        return out

    @staticmethod
    def _is_ours(alarm: str) -> bool:
        """Whether this stage answers for an alarm of that name."""
        return not alarm.startswith(COMMAND_ALARM)

    def _find(self, request: Request) -> tuple[tuple[Rule, int] | None, str]:
        """The rule and the device number a request names, and why it is refused ("" when it is not)."""
        name = str(request.body.get("alarm", ""))
        rule_id, _, device_key = name.partition("@")
        device = self._plan.device(device_key)
        if device is None:
            return None, f"no device {device_key!r}; an alarm is named RULE@site/device"
        for rule in self._bound():
            if rule.spec.id == rule_id and rule.spec.priority is not None and not rule.spec.shadow and rule.covers(device.number):
                return (rule, device.number), alarm_states.refusal(request, rule.spec, has_animals=self._has_animals(device))
        return None, f"no alarm rule {rule_id!r} on {device_key}"

    def _has_animals(self, device: Device) -> bool:
        return next(area.animals for area in self._plan.sites[device.site].areas if area.name == device.area)

    def _unshelved(self, span: Span) -> list[Happening]:
        """Shelving that ends inside this span."""
        out, times = [], span.entries.time_ns
        for rule_key, device in sorted(self._shelved):
            until, rule = self._state[rule_key, device].until_ns, self._rule(rule_key, device)
            if until is not None and rule is not None and len(times) and until <= times[-1]:
                out.append(Happening(int(np.searchsorted(times, until, side="left")), TIMER, until, rule, device, "unshelve"))
        return out

    def _rule(self, key: str, device: int) -> Rule | None:
        return next((rule for rule in self._rules.get(key, []) if rule.covers(device)), None)

    # -- one step of one alarm -------------------------------------------------------------------------------------------------

    def _handle(self, span: Span, happening: Happening) -> None:
        rule, device, event, request = happening.rule, happening.device, happening.event, happening.request
        key, place = (rule.key, device), self._plan.devices[happening.device]
        alarm = self._state.get(key, NEW)._replace(area=place.area)
        if event == "unshelve" and request is None and alarm.until_ns != happening.time_ns:
            return
        if event in {"raise", "clear"}:
            alarm = alarm._replace(on=event == "raise", value=happening.value, read=happening.read)
            alarm = alarm._replace(held_ns=happening.held_ns, raised=True) if event == "raise" else alarm
        elif event in {"suppress", "unsuppress"}:
            alarm = alarm._replace(suppressed=event == "suppress")
        if request is not None:
            alarm, is_done = self._ask(span, happening, alarm)
            if is_done:
                self._keep(key, alarm)
                return
        after = alarm_states.following(alarm, event, latching=rule.spec.latching)
        if request is not None:
            problem = "" if after is not None else f"{event} does nothing to an alarm that is {alarm.state}"
            self._answer(span, happening.entry, request, problem)
        if after is not None and after != alarm.state:
            self._decide(span, happening, alarm, after)
            seconds = request.body["seconds"] if event == "shelve" and request is not None else None
            until_ns = happening.time_ns + int(seconds * NS_PER_S) if seconds is not None else None
            alarm = alarm._replace(
                state=after, since_ns=happening.time_ns, until_ns=until_ns, raised=alarm.raised and after != "NORM"
            )
            if event == "reset" and _holds(rule):
                self._release(span, happening)
        if event in {"raise", "clear"} and rule.spec.priority in {"P3", "P4"}:
            alarm = self._chatter(span, happening, alarm)
        self._keep(key, alarm)

    def _keep(self, key: tuple[str, int], alarm: Alarm) -> None:
        if alarm.is_idle:
            self._state.pop(key, None)
        else:
            self._state[key] = alarm
        if alarm.until_ns is None:
            self._shelved.discard(key)
        else:
            self._shelved.add(key)

    def _ask(self, span: Span, happening: Happening, alarm: Alarm) -> tuple[Alarm, bool]:
        """Requests that do not walk the table: remarks, and the first of two persons. True when nothing is left to do."""
        request, rule, device = happening.request, happening.rule, self._plan.devices[happening.device]
        assert request is not None
        if request.kind in {"comment", "assign"}:
            self._decide(span, happening, alarm, alarm.state)
            self._answer(span, happening.entry, request, "")
            to = str(request.body.get("to", ""))[:100]
            return (alarm._replace(assignee=to) if request.kind == "assign" else alarm), True
        if request.kind != "shelve" or rule.spec.priority != "P2" or not self._has_animals(device):
            return alarm, False
        first, asked_ns = alarm.asked_by, alarm.asked_ns
        if first and first != request.author and happening.time_ns - asked_ns <= CONFIRM_NS:
            return alarm._replace(asked_by="", asked_ns=0), False
        if alarm_states.following(alarm, "shelve", latching=rule.spec.latching) is None:
            return alarm, False
        self._answer(span, happening.entry, request, "", note="a second person has to ask for the same within 10 min")
        return alarm._replace(asked_by=request.author, asked_ns=happening.time_ns), True

    def _chatter(self, span: Span, happening: Happening, alarm: Alarm) -> Alarm:
        """An alarm of low priority that changes three times within a minute is shelved for half an hour, and says so."""
        key = (happening.rule.key, happening.device)
        recent = [*self._recent.get(key, []), happening.time_ns][-CHATTER_CHANGES:]
        self._recent[key] = recent
        if len(self._recent) > REMEMBERED_REQUESTS:
            self._recent = {k: times for k, times in self._recent.items() if happening.time_ns - times[-1] <= CHATTER_NS}
        is_chatter = len(recent) == CHATTER_CHANGES and recent[-1] - recent[0] <= CHATTER_NS
        if not is_chatter or alarm_states.following(alarm, "shelve", latching=False) is None:
            return alarm
        del self._recent[key]
        self._decide(span, happening._replace(event="chatter"), alarm, "SHLVD")
        return alarm._replace(state="SHLVD", since_ns=happening.time_ns, until_ns=happening.time_ns + CHATTER_SHELF_NS)

    def _shelving_ends(self, span: Span, happening: Happening) -> Happening | None:
        """The end of shelving that began with `happening`, when it falls into this span: after the entry that set it."""
        key, times = (happening.rule.key, happening.device), span.entries.time_ns
        alarm = self._state.get(key)
        if alarm is None or alarm.until_ns is None or alarm.since_ns != happening.time_ns or alarm.until_ns > times[-1]:
            return None
        if happening.event == "unshelve":
            return None
        entry = max(int(np.searchsorted(times, alarm.until_ns, side="left")), happening.entry + 1)
        if entry >= len(times):
            return None
        return happening._replace(entry=entry, phase=TIMER, time_ns=alarm.until_ns, event="unshelve", request=None)

    # -- what is told ----------------------------------------------------------------------------------------------------------

    def _decide(self, span: Span, happening: Happening, alarm: Alarm, after: str) -> None:
        rule, device, request = happening.rule, self._plan.devices[happening.device], happening.request
        spec = rule.spec
        body: dict[str, Any] = {
            "from": alarm.state, "to": after, "event": happening.event, "priority": spec.priority, "rule_version": spec.version,
            "area": device.area, "value": None if np.isnan(alarm.value) else alarm.value,
            "message": {"en": spec.message.en, "zh": spec.message.zh},
        }  # fmt: skip
        if after == "UNACK" or happening.event == "raise":  # also when it comes out of a shelf, with what it then stands on
            body |= {"since_ns": alarm.held_ns, "read": alarm.read}
        elif happening.event == "clear":
            body["read"] = alarm.read
        if request is not None:
            body |= {"author": request.author, "request": request.id}
            body |= {k: v for k, v in request.body.items() if k in {"reason", "seconds", "text", "to"} and k not in body}
            if request.kind == "assign":
                body["assignee"] = str(request.body.get("to", ""))[:100]
        if happening.event == "raise" and spec.first_out is not None:
            body["first_out"] = self._is_first(rule, device)
        kind = "shadow" if spec.shadow else "alarm"
        span.decide(
            entry=happening.entry, phase=happening.phase, time_ns=happening.time_ns, stage=self.rank, kind=kind,
            subject=f"{spec.id}@{device.key}", body=body,
        )  # fmt: skip
        if happening.event == "raise" and after == "UNACK" and kind == "alarm":
            self._floods.note(happening.entry, happening.phase, happening.time_ns, f"{device.site}/{device.area}")

    def _is_first(self, rule: Rule, device: Device) -> bool:
        """Whether no other alarm of the rule's first-out group stands in the area."""
        for (key, number), alarm in self._state.items():
            other = self._rule(key, number)
            if alarm.on and other is not None and other.spec.first_out == rule.spec.first_out and not other.spec.shadow:
                place = self._plan.devices[number]
                if (place.site, place.area) == (device.site, device.area):
                    return False
        return True

    def _answer(self, span: Span, entry: int, request: Request, problem: str, *, note: str = "") -> None:
        body = {"accepted": not problem, "reason": problem or note, "request": request.kind}
        time_ns = int(span.entries.time_ns[entry])
        span.decide(entry=entry, phase=ENTRY, time_ns=time_ns, stage=self.rank, kind="answer", subject=request.id, body=body)

    def _drop_orphans(self, span: Span) -> None:
        """An alarm whose rule or device no longer exists ends; one whose condition carried over stays."""
        if not self._is_new_plan or not len(span.entries):
            return
        self._is_new_plan = False
        self._recent = {key: times for key, times in self._recent.items() if self._rule(*key) is not None}
        for key in [key for key in self._state if self._rule(*key) is None]:
            alarm = self._state.pop(key)
            self._shelved.discard(key)
            device = self._plan.devices[key[1]]
            if alarm.state == "NORM":
                continue
            rule_id = key[0].split("/", 1)[1].rsplit("@", 1)[0]
            body = {"from": alarm.state, "to": "NORM", "event": "rule_removed", "area": alarm.area, "value": None}
            span.decide(
                entry=0, phase=TIMER, time_ns=int(span.entries.time_ns[0]), stage=self.rank,
                kind="shadow" if key[0].endswith(SHADOW) else "alarm",
                subject=f"{rule_id}@{device.key}", body=body,
            )  # fmt: skip

    # -- state -----------------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Alarms that are not normal, by rule key and device number; ids of answered requests."""
        return {
            "alarms": [[rule, device, list(alarm)] for (rule, device), alarm in self._state.items()],
            "recent": [[rule, device, list(times)] for (rule, device), times in self._recent.items()],
            "answered": dict(self._answered), "floods": self._floods.snapshot(),
        }  # fmt: skip

    def restore(self, saved: dict[str, Any]) -> None:
        """Inverse of `snapshot`."""
        self._state = {(rule, device): Alarm(*alarm) for rule, device, alarm in saved["alarms"]}
        self._shelved = {key for key, alarm in self._state.items() if alarm.until_ns is not None}
        self._recent = {(rule, device): list(times) for rule, device, times in saved["recent"]}
        self._answered = dict(saved["answered"])
        self._floods.restore(saved["floods"])


def _holds(rule: Rule) -> bool:
    """Whether its demand stays until somebody resets its alarm. A shadow has no alarm that one could reset."""
    spec = rule.spec
    return spec.latching and spec.priority is not None and spec.demand is not None and not spec.shadow and rule.suppresses is None


def _order(happening: Happening) -> tuple[int, int, int, int, int, int]:
    time_ns = happening.time_ns if happening.phase == TIMER else 0
    return happening.entry, happening.phase, time_ns, _RANK.get(happening.event, 1), happening.rule.number, happening.device
