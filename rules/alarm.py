"""Alarm life cycle after ISA-18.2 / IEC 62682: one table, and the stage that walks condition changes and requests through it.

States: NORM normal, UNACK active unacknowledged, ACKED active acknowledged, RTNUN returned unacknowledged, LATCH returned and
acknowledged but waiting for a reset, SHLVD shelved, OOSRV out of service. While shelved or out of service the condition goes on
being tracked, and the alarm returns to where the condition then stands.
"""

import heapq
from typing import Any, Final, NamedTuple

import numpy as np

from rules.condition import Conditions
from rules.rulebook import Rule
from telemetry.plan import NS_PER_S, Device, Plan
from telemetry.record import Request
from telemetry.span import ENTRY, TIMER, Span

SHELVE_MAX_S: Final = 8 * 3600
REMEMBERED_REQUESTS: Final = 10_000

# (state, event) -> next state; a pair that is missing changes nothing.
TABLE: Final[dict[tuple[str, str], str]] = {
    ("NORM", "raise"): "UNACK",
    ("UNACK", "acknowledge"): "ACKED",
    ("UNACK", "clear"): "RTNUN",
    ("ACKED", "clear"): "NORM",
    ("RTNUN", "acknowledge"): "NORM",
    ("RTNUN", "raise"): "UNACK",
    ("LATCH", "raise"): "UNACK",
    ("LATCH", "reset"): "NORM",
    ("NORM", "shelve"): "SHLVD",
    ("UNACK", "shelve"): "SHLVD",
    ("ACKED", "shelve"): "SHLVD",
    ("RTNUN", "shelve"): "SHLVD",
    ("SHLVD", "unshelve"): "UNACK",  # NORM when the condition is not on
    ("NORM", "out_of_service"): "OOSRV",
    ("UNACK", "out_of_service"): "OOSRV",
    ("ACKED", "out_of_service"): "OOSRV",
    ("RTNUN", "out_of_service"): "OOSRV",
    ("SHLVD", "out_of_service"): "OOSRV",
    ("OOSRV", "in_service"): "UNACK",  # NORM when the condition is not on
}
# A latching alarm waits for a reset where another one would be normal.
LATCHING: Final = {("ACKED", "clear"): "LATCH", ("RTNUN", "acknowledge"): "LATCH"}
REQUESTS: Final = ("acknowledge", "shelve", "unshelve", "reset", "out_of_service", "in_service")


class _Happening(NamedTuple):
    entry: int
    phase: int
    time_ns: int
    instance: int
    event: str
    value: float
    request: Request | None


class Alarms:
    """The stage. Holds only alarms that are not NORM."""

    rank = 40

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._plan = Plan()
        self._state: dict[tuple[str, int], dict[str, Any]] = {}  # (rule key, device) -> state, since_ns, until_ns, value, area
        self._shelved: set[tuple[str, int]] = set()
        self._answered: dict[str, bool] = {}
        self._rules: dict[str, list[Rule]] = {}
        self._is_new_plan = False

    def configure(self, plan: Plan) -> None:
        """Take the plan; alarms whose rule version or device went away end with a decision at the next run."""
        self._plan, self._is_new_plan = plan, True
        self._rules = {}
        for rule in self._conditions.book.rules:
            self._rules.setdefault(rule.key, []).append(rule)

    def run(self, span: Span) -> None:
        """Walk condition changes, requests and shelving that ends, in canonical order."""
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
        self._drop_orphans(span)

    def _from_conditions(self, span: Span) -> list[_Happening]:
        changes, book = span.transitions, self._conditions.book
        if changes is None or not len(changes.instance):
            return []
        alarmed = np.array([r.spec.priority is not None for r in book.rules], np.bool_)
        chosen = np.flatnonzero((changes.on != 2) & alarmed[book.rule_of[changes.instance]])
        return [
            _Happening(
                int(changes.entry[c]), int(changes.phase[c]), int(changes.time_ns[c]), int(changes.instance[c]),
                "raise" if changes.on[c] else "clear", float(changes.value[c]), None,
            )
            for c in chosen
        ]  # fmt: skip

    def _from_requests(self, span: Span) -> list[_Happening]:
        out = []
        for entry, record in span.entries.records:
            if not isinstance(record, Request) or record.kind not in REQUESTS or record.id in self._answered:
                continue
            time_ns = int(span.entries.time_ns[entry])
            instance, problem = self._find(record)
            self._answered[record.id] = not problem
            if problem:
                self._answer(span, entry, record, problem)
                continue
            out.append(_Happening(entry, ENTRY, time_ns, instance, record.kind, float("nan"), record))
        while len(self._answered) > REMEMBERED_REQUESTS:
            del self._answered[next(iter(self._answered))]
        return out

    def _find(self, request: Request) -> tuple[int, str]:
        """The instance a request names, and why it is refused ("" when it is not)."""
        name = str(request.body.get("alarm", ""))
        rule_id, _, device_key = name.partition("@")
        device = self._plan.device(device_key)
        if device is None:
            return -1, f"no device {device_key!r}; an alarm is named RULE@site/device"
        for rule in self._conditions.book.rules:
            if rule.spec.id == rule_id and rule.site == device.site and rule.spec.priority is not None:
                place = int(np.searchsorted(rule.devices, device.number))
                if place < len(rule.devices) and rule.devices[place] == device.number:
                    return rule.start + place, self._refusal(request, rule)
        return -1, f"no alarm rule {rule_id!r} on {device_key}"

    @staticmethod
    def _refusal(request: Request, rule: Rule) -> str:
        if request.kind != "shelve":
            return ""
        seconds = request.body.get("seconds")
        if rule.spec.priority == "P1":
            return "a P1 alarm is never shelved"
        if not isinstance(seconds, int | float) or not 0 < seconds <= SHELVE_MAX_S:
            return f"shelving needs `seconds` between 1 and {SHELVE_MAX_S}"
        return "" if request.body.get("reason") else "shelving needs a `reason`"

    def _unshelved(self, span: Span) -> list[_Happening]:
        """Shelving that ends inside this span, or that was begun in it and ends in it."""
        out, times = [], span.entries.time_ns
        for rule_key, device in sorted(self._shelved):
            alarm = self._state[rule_key, device]
            until = alarm["until_ns"]
            if not len(times) or until > times[-1]:
                continue
            entry = int(np.searchsorted(times, until, side="left"))
            instance = self._instance(rule_key, device)
            if instance is not None:
                out.append(_Happening(entry, TIMER, until, instance, "unshelve", alarm["value"], None))
        return out

    def _instance(self, rule_key: str, device: int) -> int | None:
        for rule in self._rules.get(rule_key, []):
            place = int(np.searchsorted(rule.devices, device))
            if place < len(rule.devices) and rule.devices[place] == device:
                return rule.start + place
        return None

    def _handle(self, span: Span, happening: _Happening) -> None:
        book = self._conditions.book
        rule, device = book.instance(happening.instance)
        key = (rule.key, device)
        alarm = self._state.get(key, {"state": "NORM", "on": False, "value": float("nan")}) | {
            "area": self._plan.devices[device].area
        }
        event, request = happening.event, happening.request
        if event in {"raise", "clear"}:
            alarm = {**alarm, "on": event == "raise", "value": happening.value}
        if event == "unshelve" and request is None and alarm.get("until_ns") != happening.time_ns:
            return
        after = self._next(rule, alarm, event)
        if request is not None:
            problem = "" if after is not None else f"{event} does nothing to an alarm that is {alarm['state']}"
            self._answer(span, happening.entry, request, problem)
        if after is not None and after != alarm["state"]:
            self._decide(span, happening, (rule, self._plan.devices[device]), alarm, after)
            alarm = {**alarm, "state": after, "since_ns": happening.time_ns}
            alarm["until_ns"] = (
                happening.time_ns + int(request.body["seconds"] * NS_PER_S) if event == "shelve" and request else None
            )
        if alarm["state"] == "NORM" and not alarm["on"]:
            self._state.pop(key, None)
        else:
            self._state[key] = alarm
        if alarm.get("until_ns") is None:
            self._shelved.discard(key)
        else:
            self._shelved.add(key)

    def _shelving_ends(self, span: Span, happening: _Happening) -> _Happening | None:
        """The end of shelving that began with `happening`, when it falls into this span: after the entry that set it."""
        if happening.event != "shelve":
            return None
        book, times = self._conditions.book, span.entries.time_ns
        rule, device = book.instance(happening.instance)
        key = (rule.key, device)
        until = self._state.get(key, {}).get("until_ns")
        if until is None or until > times[-1]:
            return None
        entry = max(int(np.searchsorted(times, until, side="left")), happening.entry + 1)
        return (
            happening._replace(entry=entry, phase=TIMER, time_ns=until, event="unshelve", request=None)
            if entry < len(times)
            else None
        )

    @staticmethod
    def _next(rule: Rule, alarm: dict[str, Any], event: str) -> str | None:
        """The next state; None when the event does nothing here."""
        pair = (alarm["state"], event)
        after = LATCHING.get(pair) if rule.spec.latching else None
        after = after or TABLE.get(pair)
        if event in {"unshelve", "in_service"} and after is not None and not alarm["on"]:
            return "NORM"
        return after

    def _decide(self, span: Span, happening: _Happening, subject: tuple[Rule, Device], alarm: dict[str, Any], after: str) -> None:
        rule, device = subject
        spec = rule.spec
        value = happening.value if happening.event in {"raise", "clear"} else alarm["value"]
        body: dict[str, Any] = {
            "from": alarm["state"], "to": after, "event": happening.event, "priority": spec.priority, "rule_version": spec.version,
            "area": device.area,
            "value": None if np.isnan(value) else value, "message": {"en": spec.message.en, "zh": spec.message.zh},
        }  # fmt: skip
        if happening.request is not None:
            body |= {"author": happening.request.author, "request": happening.request.id}
            body |= {k: v for k, v in happening.request.body.items() if k in {"reason", "seconds"}}
        span.decide(
            entry=happening.entry, phase=happening.phase, time_ns=happening.time_ns, stage=self.rank, kind="alarm",
            subject=f"{spec.id}@{device.key}", body=body,
        )  # fmt: skip

    def _answer(self, span: Span, entry: int, request: Request, problem: str) -> None:
        body = {"accepted": not problem, "reason": problem, "request": request.kind}
        time_ns = int(span.entries.time_ns[entry])
        span.decide(entry=entry, phase=ENTRY, time_ns=time_ns, stage=self.rank, kind="answer", subject=request.id, body=body)

    def _drop_orphans(self, span: Span) -> None:
        """An alarm whose rule version or device no longer exists ends; one whose condition carried over stays."""
        if not self._is_new_plan or not len(span.entries):
            return
        self._is_new_plan = False
        for key in [key for key in self._state if self._instance(*key) is None]:
            alarm = self._state.pop(key)
            self._shelved.discard(key)
            device = self._plan.devices[key[1]]
            rule_id = key[0].split("/", 1)[1].rsplit("@", 1)[0]
            body = {"from": alarm["state"], "to": "NORM", "event": "rule_removed", "area": alarm["area"], "value": None}
            span.decide(
                entry=0, phase=TIMER, time_ns=int(span.entries.time_ns[0]), stage=self.rank, kind="alarm",
                subject=f"{rule_id}@{device.key}", body=body,
            )  # fmt: skip

    def snapshot(self) -> dict[str, Any]:
        """Alarms that are not normal, by rule key and device number; ids of answered requests."""
        return {
            "alarms": [[rule, device, dict(alarm)] for (rule, device), alarm in self._state.items()],
            "answered": dict(self._answered),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Inverse of `snapshot`."""
        self._state = {(rule, device): dict(alarm) for rule, device, alarm in saved["alarms"]}
        self._shelved = {key for key, alarm in self._state.items() if alarm.get("until_ns") is not None}
        self._answered = dict(saved["answered"])


def _order(happening: _Happening) -> tuple[int, int, int, int]:
    return happening.entry, happening.phase, happening.time_ns if happening.phase == TIMER else 0, happening.instance
