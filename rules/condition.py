"""Derive and rules: windows over event time, expressions over whole columns, and the condition state machine of every instance.

Reads admitted frames, writes `span.transitions` and the demands of rules. A sample that is not LIVE, or was stored before, decides
nothing here; a BAD one is unknown. A late one is counted in the windows of rules that move nothing, while these still hold its time.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rules import kernels
from rules.kernels import NEVER, NO_ENTRY, OFF, PENDING_ON, Changes, ConditionState
from rules.rulebook import Family, Group, Part, Rule, Rulebook, bind, level_of
from rules.window import PaneWindows
from telemetry import quality
from telemetry.frame import Flag, Verdict
from telemetry.plan import Plan
from telemetry.span import DemandChange, Span

Array = NDArray[Any]
PANES: Final = 60
STAMP_MAX: Final = (1 << 31) - 1
BLIND_DELAY_NS: Final = 1 << 61  # longer than any blind time, and no overflow when added to a time of this century
PROGRAM_ERRORS: Final = (ArithmeticError, ValueError, TypeError, IndexError)


class Conditions:
    """The stage. `numba=False` runs the numpy forms of all loops; decisions are the same."""

    rank = 30

    def __init__(self, *, numba: bool = True) -> None:
        self._numba = numba
        self._plan = Plan()
        self._book = bind(self._plan)
        self._state = ConditionState.idle(0)
        self._latest = np.zeros(0)
        self._windows: list[PaneWindows] = []
        self._mark = np.zeros(0, np.int32)
        self._set_at = np.zeros(0, np.int32)
        self._stamp = 0
        self._was_blind = False
        self._last_ns = 0  # of the last entry seen
        self._faulted: set[str] = set()
        self._new_faults: list[tuple[str, str]] = []

    @property
    def book(self) -> Rulebook:
        """The rules as bound now; later stages read who an instance is from it."""
        return self._book

    def configure(self, plan: Plan) -> None:
        """Bind the rules anew; instances of an unchanged rule version on the same device keep their state."""
        old = self.snapshot()
        self._plan, self._book = plan, bind(plan)
        self._allocate()
        self.restore(old)
        self._new_faults += [fault for fault in self._book.faults if fault[0] not in self._faulted]
        self._faulted |= {key for key, _ in self._new_faults}

    def _allocate(self) -> None:
        count = len(self._book.rule_of)
        self._state = ConditionState.idle(count)
        self._latest = np.full(self._book.points, np.nan)
        self._windows = [PaneWindows(len(f.points), f.length_ns // PANES, f.stats, numba=self._numba) for f in self._book.families]
        self._mark = np.full(count, -1, np.int32)
        self._set_at = np.full(count, NO_ENTRY, np.int32)
        self._stamp = 0

    # -- one run -----------------------------------------------------------------------------------------------------

    def run(self, span: Span) -> None:
        """Evaluate every rule that reads something this span changed, and fire the timers that are due."""
        entries = span.entries
        self._report_faults(span)
        self._watch_silence(span)
        offsets, point, value = self._samples(span)
        if self._stamp + len(entries.frames) > STAMP_MAX:
            self._mark[:], self._stamp = -1, 0
        events = kernels.emit_events(
            offsets, point, value, self._latest, self._book.reads, self._mark, self._stamp, numba=self._numba
        )
        self._stamp += len(entries.frames)
        columns = self._evaluate(span, events)
        changes = kernels.run_conditions(columns, entries.time_ns, self._parameters(), self._state, self._set_at, numba=self._numba)
        self._hold_silence()
        if len(entries):
            self._last_ns = int(entries.time_ns[-1])
        span.transitions = changes
        self._demand(span, changes)

    def _samples(self, span: Span) -> tuple[Array, Array, Array]:
        """Offsets by frame, points and values that rules see: live samples, then windows over them, then arrivals."""
        frames, admission = span.entries.frames, span.admission
        assert admission is not None
        n = len(frames)
        live = admission.verdict == Verdict.LIVE
        # Without a sequence number a late sample may be a repetition, and would count twice.
        late = np.isin(admission.verdict, (Verdict.LATE, Verdict.BACKFILL)) & ((frames.flags & Flag.HAS_SEQ) != 0)
        frame = frames.frame_of_sample
        keep = (live | late)[frame] & ((admission.quality & quality.REPEATED) == 0)
        point, frame = frames.point[keep], frame[keep]
        value = np.where(quality.is_bad(admission.quality[keep]), np.nan, frames.value[keep])
        decides = live[frame]
        virtual = [
            self._window_samples(k, family, frames.ts_ns, (frame, point, value, decides))
            for k, family in enumerate(self._book.families)
        ]
        frame, point, value = frame[decides], point[decides], value[decides]
        virtual.append(self._arrivals(frames.device, admission.verdict))
        virtual = [part for part in virtual if len(part[0])]
        if virtual:
            frame = np.concatenate([frame, *(part[0] for part in virtual)])
            point = np.concatenate([point, *(part[1] for part in virtual)])
            value = np.concatenate([value, *(part[2] for part in virtual)])
            order = np.argsort(frame, kind="stable")
            frame, point, value = frame[order], point[order], value[order]
        offsets = np.zeros(n + 1, np.int64)
        np.cumsum(np.bincount(frame, minlength=n), out=offsets[1:])
        return offsets, point.astype(np.int32, copy=False), value

    def _window_samples(
        self, k: int, family: Family, ts_ns: Array, samples: tuple[Array, Array, Array, Array]
    ) -> tuple[Array, Array, Array]:
        """Take samples (frame, point, value, whether it decides) into the windows; what rules see of them, by deciding sample."""
        frame, point, value, decides = samples
        place = np.searchsorted(family.points, point)
        place[place == len(family.points)] = 0
        known = family.points[place] == point
        chosen = np.flatnonzero(known & decides if family.live_only else known)
        if not len(chosen):
            return frame[:0], point[:0], value[:0]
        chosen = chosen[np.argsort(place[chosen], kind="stable")]
        instance = place[chosen]
        stats = self._windows[k].update(instance, ts_ns[frame[chosen]], value[chosen])
        seen, count = decides[chosen], len(family.points)
        numbers = [family.base + s * count + instance[seen] for s in range(len(family.stats))]
        return (
            np.tile(frame[chosen][seen], len(family.stats)),
            np.concatenate(numbers).astype(np.int32),
            np.concatenate([stats[name][seen] for name in family.stats]),
        )

    def _arrivals(self, device: Array, verdict: Array) -> tuple[Array, Array, Array]:
        arrivals = self._book.arrivals
        if not len(arrivals):
            return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0)
        spoke = ~np.isin(verdict, (Verdict.DUPLICATE, Verdict.REPLAY, Verdict.RETAINED))
        place = np.searchsorted(arrivals, device)
        place[place == len(arrivals)] = 0
        frame = np.flatnonzero(spoke & (arrivals[place] == device))
        return frame, (self._book.arrival_base + place[frame]).astype(np.int32), np.ones(len(frame))

    # -- expressions -------------------------------------------------------------------------------------------------

    def _evaluate(self, span: Span, events: kernels.Events) -> dict[str, Array]:
        frames, book = span.entries.frames, self._book
        instance = events.instance
        size = len(instance)
        when, clear = np.ones(size), np.zeros(size)
        rule = book.rule_of[instance]
        demand = book.parameters["constant"][rule]
        group_of = book.group_of[rule]
        order = np.argsort(group_of, kind="stable")
        bounds = np.searchsorted(group_of[order], np.arange(len(book.groups) + 1))
        for g, group in enumerate(book.groups):
            rows = order[bounds[g] : bounds[g + 1]]
            if len(rows):
                self._evaluate_group(span, group, rows, events, (when, clear, demand))
        entry = frames.entry[events.frame].astype(np.int64)
        silence = book.parameters["silence"][rule]
        return {
            "instance": instance,
            "entry": entry,
            "time_ns": np.where(silence, span.entries.time_ns[entry], frames.ts_ns[events.frame]),
            "when": when,
            "clear": clear,
            "value": events.values[:, 0] if size else np.zeros(0),
            "demand": demand,
        }

    def _evaluate_group(
        self, span: Span, group: Group, rows: Array, events: kernels.Events, out: tuple[Array, Array, Array]
    ) -> None:
        when, clear, demand = out
        if group.when is None:
            return
        row = self._rule_row(group, events.instance[rows])
        values = events.values[rows]
        try:
            when[rows] = _apply(group.when, values, group.constants[0], row)
            clear[rows] = 1.0 - when[rows] if group.clear is None else _apply(group.clear, values, group.constants[1], row)
            if group.value is not None:
                demand[rows] = _apply(group.value, values, group.constants[2], row)
        except PROGRAM_ERRORS as error:
            when[rows] = clear[rows] = demand[rows] = np.nan
            self._fault_rules(span, [self._book.rules[n] for n in group.rules], str(error))

    def _rule_row(self, group: Group, instance: Array) -> Array | None:
        """Which row of the group's constants each evaluation uses; None when the group has one rule."""
        if len(group.rules) == 1:
            return None
        return self._book.rule_of[instance] - group.rules[0]

    # -- demands and faults --------------------------------------------------------------------------------------------

    def _demand(self, span: Span, changes: Changes) -> None:
        book = self._book
        moves = book.parameters["moves"]
        has = np.array([r.spec.demand is not None for r in book.rules], np.bool_)
        if not has.any() or not len(changes.instance):
            return
        for c in np.flatnonzero(has[book.rule_of[changes.instance]]):
            instance = int(changes.instance[c])
            rule, number = book.instance(instance)
            asked = rule.spec.demand
            assert asked is not None
            value = None if changes.on[c] == 0 else float(changes.demand[c])
            if not moves[instance] or (value is not None and np.isnan(value)):
                continue
            device = self._plan.devices[number].key
            span.demands.append(
                DemandChange(
                    int(changes.entry[c]), int(changes.phase[c]), int(changes.time_ns[c]), f"{rule.spec.id}@{device}",
                    f"{device}/{asked.actuator}", asked.bound, level_of(rule), value, rule.spec.message.en or rule.spec.when,
                )
            )  # fmt: skip

    def _report_faults(self, span: Span) -> None:
        if self._new_faults and len(span.entries):
            for key, message in self._new_faults:
                time_ns = int(span.entries.time_ns[0])
                span.decide(entry=0, phase=0, time_ns=time_ns, stage=self.rank, kind="fault", subject=key, body={"error": message})
            self._new_faults = []

    def _fault_rules(self, span: Span, rules: list[Rule], message: str) -> None:
        for rule in rules:
            if rule.key not in self._faulted:
                self._faulted.add(rule.key)
                time_ns = int(span.entries.time_ns[-1])
                span.decide(
                    entry=len(span.entries) - 1, phase=1, time_ns=time_ns, stage=self.rank, kind="fault", subject=rule.key,
                    body={"error": message},
                )  # fmt: skip

    def _watch_silence(self, span: Span) -> None:
        """Silence counts from the configuration that names the device, and not while blind: then anew from the return of sight."""
        if not len(span.entries):
            return
        blind = bool(span.blind[0])
        if self._was_blind and not blind:
            self._count_silence(self._silent(), span.sight_ns)
        state, book = self._state, self._book
        fresh = np.flatnonzero(book.parameters["silence"][book.rule_of] & (state.phase == OFF))
        if len(fresh):
            begin_ns = max(self._last_ns or int(span.entries.time_ns[0]), span.sight_ns)  # configured while blind: from sight on
            state.phase[fresh], state.since_ns[fresh] = PENDING_ON, begin_ns
            state.demand[fresh] = book.parameters["constant"][book.rule_of[fresh]]
            self._count_silence(fresh, begin_ns)
        self._was_blind = blind
        self._hold_silence()

    def _count_silence(self, instances: Array, begin_ns: int) -> None:
        self._state.due_ns[instances] = begin_ns + self._book.parameters["on_delay"][self._book.rule_of[instances]]

    def _parameters(self) -> dict[str, Array]:
        """Those of the rulebook; while blind no silence lasts long enough."""
        own = self._book.parameters | {"of": self._book.rule_of}
        return own | {"on_delay": np.where(own["silence"], BLIND_DELAY_NS, own["on_delay"])} if self._was_blind else own

    def _hold_silence(self) -> None:
        if self._was_blind:
            self._state.due_ns[self._silent()] = NEVER

    def _silent(self) -> Array:
        """Instances of silence rules whose time runs."""
        return np.flatnonzero(self._book.parameters["silence"][self._book.rule_of] & (self._state.phase == PENDING_ON))

    # -- state ---------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Conditions by rule and device number, latest values by point number, panes by window length and point number."""
        book, state = self._book, self._state
        rules: dict[str, Any] = {}
        for rule in book.rules:
            part = slice(rule.start, rule.stop)
            busy = np.flatnonzero((state.phase[part] != OFF) | ~np.isnan(state.demand[part]))
            if len(busy):
                kept = rules.setdefault(rule.key, [])
                kept.append(
                    {
                        "device": rule.devices[busy], "phase": state.phase[part][busy], "since_ns": state.since_ns[part][busy],
                        "due_ns": state.due_ns[part][busy], "value": state.value[part][busy], "demand": state.demand[part][busy],
                    }
                )  # fmt: skip
        windows = {
            f.name: {
                "points": f.points, "stats": list(f.stats), "panes": w.snapshot(),
                "latest": self._latest[f.base : f.base + len(f.stats) * len(f.points)],
            }
            for f, w in zip(book.families, self._windows, strict=True)
        }  # fmt: skip
        real = book.families[0].base if book.families else book.arrival_base
        return {
            "rules": rules, "windows": windows, "latest": self._latest[:real], "blind": self._was_blind,
            "last_ns": self._last_ns, "faulted": sorted(self._faulted), "new_faults": [list(fault) for fault in self._new_faults],
        }  # fmt: skip

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over what still exists; the rest starts idle."""
        book, state = self._book, self._state
        for rule in book.rules:
            for part in saved["rules"].get(rule.key, []):
                place = np.searchsorted(rule.devices, part["device"])
                place[place == len(rule.devices)] = 0
                found = rule.devices[place] == part["device"]
                to = rule.start + place[found]
                for name in ("phase", "since_ns", "due_ns", "value", "demand"):
                    getattr(state, name)[to] = part[name][found]
        latest = saved["latest"]
        real = book.families[0].base if book.families else book.arrival_base
        self._latest[: min(real, len(latest))] = latest[:real]
        for family, window in zip(book.families, self._windows, strict=True):
            old = saved["windows"].get(family.name)
            if old is not None:
                self._restore_window(family, window, old)
        self._was_blind, self._last_ns = saved["blind"], saved["last_ns"]
        self._faulted |= set(saved["faulted"])
        self._new_faults = [(str(key), str(message)) for key, message in saved.get("new_faults", [])]

    def _restore_window(self, family: Family, window: PaneWindows, old: dict[str, Any]) -> None:
        place = np.searchsorted(old["points"], family.points)
        place[place == len(old["points"])] = 0
        source = np.where(old["points"][place] == family.points, place, -1)
        window.restore(old["panes"], source)
        count = len(family.points)
        for s, stat in enumerate(family.stats):
            if stat in old["stats"]:
                values = old["latest"][old["stats"].index(stat) * len(old["points"]) :][: len(old["points"])]
                self._latest[family.base + s * count :][:count] = np.where(source >= 0, values[place], np.nan)


def _apply(part: Part, values: Array, constants: list[Array], row: Array | None) -> Array:
    columns = [values[:, j] for j in part.columns]
    numbers = [c[0] if row is None else c[row] for c in constants]
    result: Array = part.program(columns, numbers)
    return result
