"""`step`: entries in, decisions out. Deterministic, cut-invariant, the same live, after a crash, in replay and in the lab.

The engine takes its stages as arguments (`app/wiring.py` builds the one list). It cuts the entries into spans where the
configuration or blindness changes, and hands each span to every stage in order of rank.

Blind time runs from the last entry before START, or from the loss of the broker, until the backlog is drained, at most 60 s. In it
silence does not count, late frames of the interval are live for alarms, and demands are withheld.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rules import warm_start
from rules.area import changes_area
from rules.condition import Conditions
from telemetry.calibration import calibrate
from telemetry.decision import Decision, in_order
from telemetry.frame import Admission, Derived, Entries, join_derived, slice_entries
from telemetry.plan import NS_PER_S, Plan
from telemetry.record import Config, Event, Request, Start
from telemetry.site import SiteConfig, parse_site
from telemetry.span import ENTRY, TIMER, CommandOut, Span, Stage

BLIND_MAX_NS: Final = 60 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one call decided: admission of every frame, decisions in canonical order, commands to publish after the commit."""

    admission: Admission
    decisions: list[Decision]
    commands: list[CommandOut]


class Engine:
    """State of `step` and its stages."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        assert [s.rank for s in stages] == sorted(s.rank for s in stages)
        self.stages = list(stages)
        self.plan = Plan()
        self.position = -1  # of the last entry the state contains
        self.last_time_ns = 0
        self._blind_from_ns = -1
        self._blind_until_ns = 0
        self._sight_ns = 0  # when the last blind time ended
        for stage in self.stages:
            stage.configure(self.plan)

    def step(self, entries: Entries) -> Outcome:
        """Move the state through `entries`; their engine times never decrease, within a call and across calls."""
        verdicts: list[NDArray[Any]] = [np.zeros(0, np.uint8)]
        qualities: list[NDArray[Any]] = [np.zeros(0, np.uint16)]
        decisions: list[Decision] = []
        commands: list[CommandOut] = []
        derived: list[Derived] = []
        starts: list[int] = []
        start = 0
        for stop, record in self._cuts(entries):
            span = self._run(entries if (start, stop) == (0, len(entries)) else slice_entries(entries, start, stop))
            assert span.admission is not None
            verdicts.append(span.admission.verdict)
            qualities.append(span.admission.quality)
            decisions += in_order(span.decisions)
            commands += span.commands
            derived.append(span.derived)
            starts.append(start)
            start = stop
            if isinstance(record, Config):
                self.configure(parse_site(record.text), record.text)
                self._take_warm(record.warm)
        self.position = entries.first + len(entries) - 1
        admission = Admission(np.concatenate(verdicts), np.concatenate(qualities), join_derived(derived, starts))
        return Outcome(admission, decisions, commands)

    def configure(self, config: SiteConfig, text: str = "") -> None:
        """Take a site's configuration, as a CONFIG entry does, whose text it is."""
        self.plan.apply(config, text)
        for stage in self.stages:
            stage.configure(self.plan)

    def _take_warm(self, warm: bytes) -> None:
        """Give windows that a configuration has just made the memory it brings."""
        if warm:
            given = warm_start.decode(warm)
            for stage in self.stages:
                if isinstance(stage, Conditions):
                    warm_start.take(stage, self.plan, given)

    def _run(self, span_entries: Entries) -> Span:
        frames = calibrate(span_entries.frames, self.plan)
        span_entries = span_entries if frames is span_entries.frames else replace(span_entries, frames=frames)
        span = Span(span_entries, self.plan)
        if len(span_entries):
            self._begin_or_expire(span)
        span.blind = np.full(len(span_entries), self._blind_from_ns >= 0)
        span.blind_from_ns, span.sight_ns = self._blind_from_ns, self._sight_ns
        for stage in self.stages:
            stage.run(span)
        self._answer_requests(span)
        if len(span_entries):
            self._end_if_drained(span)
            self.last_time_ns = int(span_entries.time_ns[-1])
        return span

    def _cuts(self, entries: Entries) -> list[tuple[int, Any]]:
        """(index one past a span, the CONFIG that ends it or None). What begins blindness begins a span; what ends it ends one."""
        cuts: dict[int, Any] = {}
        until = self._blind_until_ns if self._blind_from_ns >= 0 else None
        for index, record in entries.records:
            if until is not None:
                until = self._cut_timeout(entries, cuts, until, index + 1)
            if isinstance(record, Config):
                cuts[index + 1] = record
            elif changes_area(record):
                cuts.setdefault(index + 1, None)
            elif begins_blind(record):
                cuts.setdefault(index, None)
                until = int(entries.time_ns[index]) + BLIND_MAX_NS
            elif ends_blind(record):
                cuts.setdefault(index + 1, None)
                until = None
        if until is not None:
            self._cut_timeout(entries, cuts, until, len(entries))
        cuts.pop(0, None)
        cuts.setdefault(len(entries), None)
        return sorted(cuts.items())

    @staticmethod
    def _cut_timeout(entries: Entries, cuts: dict[int, Any], until: int, before: int) -> int | None:
        """Cut before the first entry that is past the longest blind time, when it comes before index `before`."""
        at = int(np.searchsorted(entries.time_ns, until, side="left"))
        if at >= before:
            return until
        cuts.setdefault(at, None)
        return None

    def _begin_or_expire(self, span: Span) -> None:
        """Blindness begins with the span that its record opens, so that no silence timer fires across the gap before it."""
        time_ns = int(span.entries.time_ns[0])
        if self._blind_from_ns >= 0 and time_ns >= self._blind_until_ns:
            self._end_blind(span, 0, TIMER, self._blind_until_ns)
        if not span.entries.records or span.entries.records[0][0] != 0 or not begins_blind(span.entries.records[0][1]):
            return
        self._blind_until_ns = time_ns + BLIND_MAX_NS
        if self._blind_from_ns < 0:
            self._blind_from_ns = min(self.last_time_ns or time_ns, time_ns)
            self._decide_blind(span, 0, ENTRY, time_ns, {"blind": True, "from_ns": self._blind_from_ns})

    def _end_if_drained(self, span: Span) -> None:
        if self._blind_from_ns >= 0 and span.entries.records:
            index, record = span.entries.records[-1]
            if index == len(span.entries) - 1 and ends_blind(record):
                self._end_blind(span, index, ENTRY, int(span.entries.time_ns[index]))

    def _end_blind(self, span: Span, index: int, phase: int, time_ns: int) -> None:
        self._decide_blind(span, index, phase, time_ns, {"blind": False, "from_ns": self._blind_from_ns, "to_ns": time_ns})
        self._blind_from_ns, self._sight_ns = -1, time_ns

    def _decide_blind(self, span: Span, index: int, phase: int, time_ns: int, body: dict[str, Any]) -> None:
        span.decide(entry=index, phase=phase, time_ns=time_ns, stage=0, kind="blind", subject="core", body=body)

    @staticmethod
    def _answer_requests(span: Span) -> None:
        """Who asked for a configuration reads that it holds from here on, or why not (core has checked it). A test of the alarm path is
        its answer: whoever follows the journal reads that requests are taken, decided and kept."""
        for index, record in span.entries.records:
            if isinstance(record, Request) and record.kind in {"config", "alarm_test"}:
                problem = str(record.body.get("refused", ""))
                body = {"accepted": not problem, "reason": problem, "request": record.kind}
                span.decide(
                    entry=index, phase=ENTRY, time_ns=int(span.entries.time_ns[index]), stage=0, kind="answer", subject=record.id,
                    body=body,
                )  # fmt: skip

    def snapshot(self) -> dict[str, Any]:
        """A copy of the whole state, by names and by numbers that are never reused."""
        copy: dict[str, Any] = _copied(self.state())
        return copy

    def state(self) -> dict[str, Any]:
        """The state itself, without a copy: it holds until the next `step`. Tens of MB of window panes are not copied to be written."""
        return {
            "plan": self.plan.snapshot(),
            "position": self.position,
            "last_time_ns": self.last_time_ns,
            "blind": [self._blind_from_ns, self._blind_until_ns, self._sight_ns],
            "stages": {type(stage).__name__: stage.snapshot() for stage in self.stages},
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Inverse of `snapshot`, into an engine with the same list of stages."""
        self.plan = Plan.from_snapshot(saved["plan"])
        self.position, self.last_time_ns = saved["position"], saved["last_time_ns"]
        self._blind_from_ns, self._blind_until_ns, self._sight_ns = saved["blind"]
        for stage in self.stages:
            stage.configure(self.plan)
            if type(stage).__name__ in saved["stages"]:  # a build of before may have had fewer
                stage.restore(saved["stages"][type(stage).__name__])


def _copied(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


def begins_blind(record: Any) -> bool:
    """START, or the broker was lost."""
    return isinstance(record, Start) or (isinstance(record, Event) and record.name == "broker_lost")


def ends_blind(record: Any) -> bool:
    """The backlog is drained."""
    return isinstance(record, Event) and record.name == "drained"
