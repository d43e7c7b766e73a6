"""Derive and rules: the stage that hands entries to the compiled loop and its changes to alarms and arbitration.

Reads admitted frames, writes `span.transitions` and the demands of rules. A sample that is not LIVE, or was stored before, decides
nothing here; a BAD one is unknown. A late one is counted in the windows of rules that move nothing, while these still hold its time.
"""

import itertools
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rules import loop, members, panes
from rules.book import GROUP_MAX, bind, evidence, level_of
from rules.calculate import STACK
from rules.clock import MINUTE_NS, OF_AREA, area_value, clock_values, full_minutes
from rules.cohort import Cohort, Fault, Rule, Rulebook, Virtual, blocks
from rules.loop import NEVER, Input, Memory, Output, Work
from telemetry import quality
from telemetry.frame import Derived, Flag, Frames, Verdict, join_derived, make_derived
from telemetry.plan import Plan
from telemetry.span import TIMER, DemandChange, Span

Array = NDArray[Any]
OUTPUT_MIN: Final = 4_096
DERIVED_MIN: Final = 1_024
POOL_MIN: Final = 1_024
HEAP_MIN: Final = 1_024
_CONDITION: Final = ("phase", "since", "due", "left", "value", "demand")
FREE, HEAP, STAMP, SIGHT = range(4)  # of Memory.tally


class Changes(NamedTuple):
    """What happened to conditions and demands, in canonical order: entry, phase, time (of timers), rule, device. All (c,).

    rule: index into the rulebook's rules; device: its number; what: TURNED_ON, TURNED_OFF or MOVED of rules/loop.py; since_ns: when the
    condition began to hold; value: the first thing read; demand: value demanded, NaN = none; leaf (c, LEAVES): the evidence.
    """

    rule: Array
    device: Array
    entry: Array
    phase: Array
    time_ns: Array
    what: Array
    since_ns: Array
    value: Array
    demand: Array
    leaf: Array


NO_CHANGES: Final = Changes._make([*(np.zeros(0, np.int64) for _ in range(9)), np.zeros((0, loop.LEAVES))])


class Conditions:
    """The stage."""

    rank = 30

    def __init__(self) -> None:
        self._plan = Plan()
        self._last_ns = 0
        self._was_blind = False
        self._is_fresh = True  # timers are to be set up before the next run
        self._faulted: set[str] = set()
        self._new_faults: list[Fault] = []
        self._withdrawn: list[tuple[str, int, str, str]] = []  # demands of shadows that are gone: rule, version, actuator, bound
        self._book = bind(self._plan)
        self._allocate()

    @property
    def book(self) -> Rulebook:
        """The rules as bound now; later stages read who an instance is from it."""
        return self._book

    def configure(self, plan: Plan) -> None:
        """Bind the rules anew; conditions of an unchanged rule version on the same device keep their state, columns too."""
        old, before, cohorts = self.snapshot(), {rule.key: rule for rule in self._book.rules}, self._book.cohorts
        self._plan, self._book = plan, bind(plan)
        self._allocate()
        self.restore(old)
        self._inherit(old["rules"], before)
        self._withdraw(old["rules"], before)
        self._new_faults += [fault for fault in self._book.faults if fault.key not in self._faulted]
        self._faulted |= {fault.key for fault in self._new_faults}
        # They name one another: without this they would wait for a collection of garbage, which core never makes.
        for cohort in cohorts:
            cohort.imports.clear()
            cohort.virtual.clear()

    def _inherit(self, saved: dict[str, Any], before: dict[str, Rule]) -> None:
        """A new version of a rule that moves nothing goes on from the one before: what was on stays on until it is judged anew."""
        known = {rule.key for rule in self._book.rules}

        def kind(rule: Rule) -> tuple[str, str, bool, bool]:
            return rule.site, rule.spec.id, rule.spec.shadow, rule.suppresses is None

        last = {kind(rule): rule for key, rule in before.items() if key not in known}
        for rule in self._book.rules:
            old = last.get(kind(rule))
            if rule.key in before or old is None or rule.spec.demand is not None or old.spec.demand is not None:
                continue
            rule.inherits = old.key
            is_same = all(getattr(rule.spec, name) == getattr(old.spec, name) for name in _MEANING)
            for part in saved.get(old.key, []):
                self._restore_conditions(rule, part if is_same else _only_on(part))

    def _withdraw(self, saved: dict[str, Any], before: dict[str, Rule]) -> None:
        """What a shadow asked ends with it. (Arbitration does this for a rule that acts.)"""
        asked = {
            key: spec for key, rule in before.items() if (spec := rule.spec).shadow and spec.demand is not None and key in saved
        }
        now = self._conditions() if asked else {}
        for key, spec in asked.items():
            assert spec.demand is not None
            kept = {device for part in now.get(key, []) for device in part["device"].tolist()}
            for part in saved[key]:
                asks = part["device"][(part["phase"] != loop.RAISING) & ~np.isnan(part["demand"])]
                self._withdrawn += [
                    (spec.id, spec.version, f"{self._plan.devices[device].key}/{spec.demand.actuator}", spec.demand.bound)
                    for device in asks.tolist()
                    if device not in kept
                ]

    # -- memory ----------------------------------------------------------------------------------------------------------------

    def _allocate(self) -> None:
        book = self._book
        seats, timers, points = len(book.device_of_seat), len(book.arrays.timer_v), len(book.arrays.point_of)
        touched, judged = book.room
        pool = max(POOL_MIN, 2 * judged)
        state = _aligned(book.words)
        self._memory = Memory(
            latest=np.full(book.cells, np.nan), member=np.full(book.members, np.nan), quality=np.zeros(book.cells, np.uint16),
            low=np.full(book.cells, np.inf), high=np.full(book.cells, -np.inf), last_ns=np.zeros(book.cells, np.int64),
            pane_f=state.view(np.float64), pane_i=state, pane_u=state.view(np.uint16),
            slot=np.full(book.instances, -1, np.int32), **_pool(pool),
            s_due=np.full(seats, NEVER), s_heap=np.full(seats, NEVER), t_due=np.full(timers, NEVER), t_heap=np.full(timers, NEVER),
            d_value=np.full(points, np.nan), d_ns=np.zeros(points, np.int64), d_quality=np.zeros(points, np.uint16),
            heap_time=np.zeros(HEAP_MIN + 2 * (pool + seats + timers), np.int64),
            heap_key=np.zeros(HEAP_MIN + 2 * (pool + seats + timers), np.int64),
            mark_v=np.zeros(sum(c.width * len(c.virtual) for c in book.cohorts), np.int64),
            mark_r=np.zeros(len(book.rules), np.int64), tally=np.array([pool, 0, 1, 0], np.int64),
        )  # fmt: skip
        for _, made, block in self.windows():
            if made.kind == loop.PANES:
                panes.clean(made.fn, block)
            else:
                members.clean(made.fn, block.together)
        self._is_fresh = True
        derived = max(DERIVED_MIN, 3 * touched) if points else 0  # of one moment
        self._work = Work(
            t_seat=np.zeros(touched, np.int32), t_column=np.zeros(touched, np.int32), w_v=np.zeros(touched, np.int32),
            w_seat=np.zeros(touched, np.int32), w_next=np.zeros(touched, np.int32), head=np.full(17, -1, np.int32),
            tail=np.full(17, -1, np.int32), tally=np.array([0, 0, 0, 0, derived], np.int64), stack=np.zeros(STACK),
            pane=np.zeros(1 + int(book.arrays.v_pane[:, 7].max(initial=0)), np.int64),
            known=np.zeros(max(GROUP_MAX, int(book.arrays.member_count.max(initial=0)))), rows=np.zeros((STACK, members.BLOCK)),
            d_entry=np.zeros(2 * derived, np.int32), d_at=np.zeros(2 * derived, np.int32), d_ns=np.zeros(2 * derived, np.int64),
            d_value=np.zeros(2 * derived), d_quality=np.zeros(2 * derived, np.uint16),
        )  # fmt: skip
        room = 3 * judged
        size = max(OUTPUT_MIN, 2 * room)
        kinds = (np.int32, np.int32, np.int64, np.uint8, np.int64, np.uint8, np.int64, np.float64, np.float64)
        columns = [np.zeros(size, kind) for kind in kinds]
        self._output = Output._make([*columns, np.zeros((size, loop.LEAVES)), np.array([0, room], np.int64)])

    def memory_bytes(self) -> int:
        """What the state takes, without the windows'."""
        return sum(column.nbytes for name, column in self._memory._asdict().items() if not name.startswith("pane_"))

    @staticmethod
    def _cells(cohort: Cohort, column: int) -> slice:
        return slice(cohort.cell(column, 0), cohort.cell(column, cohort.width), len(cohort.columns))

    def _said_of(self, cohort: Cohort, number: int) -> dict[str, Array]:
        """What the virtual point of virtual column `number` said last, by seat: views of the memory."""
        first = int(self._book.arrays.v_point[number])
        return {name: getattr(self._memory, name)[first : first + cohort.width] for name in ("d_value", "d_ns", "d_quality")}

    def _members_of(self, cohort: Cohort) -> dict[int, Array]:
        """(seats, members) of the columns that have members which somebody reads."""
        b, found = self._book.arrays, {}
        for column, count in cohort.members.items():
            at = int(b.member_at[cohort.first_column + column])
            if at >= 0:
                found[column] = self._memory.member[at : at + count * cohort.width].reshape(cohort.width, count)
        return found

    def windows(self) -> Iterator[tuple[Cohort, Virtual, panes.Block]]:
        """Every function over time of every cohort, with its memory in place."""
        for cohort, columns, span in blocks(self._book.cohorts):
            for number, made in enumerate(columns):
                yield cohort, made, panes.Block(self._memory.pane_i[span], cohort.width, made.shape, len(columns), number)

    def _first_virtual(self, cohort: Cohort) -> int:
        """Number of the cohort's first virtual column."""
        before = itertools.takewhile(lambda other: other is not cohort, self._book.cohorts)
        return sum(len(other.virtual) for other in before)

    def _make_room(self, least: int = 0) -> None:
        """Double the pool when conditions that may begin would not find a place; drop what the heap no longer needs."""
        m, room = self._memory, max(int(self._output.tally[1]), least)
        if m.tally[0] < room:
            old = len(m.p_rule)
            more = _pool(max(old, room))
            grown = {name: np.concatenate((getattr(m, name), more[name])) for name in more if name != "free"}
            free = np.concatenate((m.free[: m.tally[0]], more["free"] + old, np.zeros(old - m.tally[0], np.int32))).astype(np.int32)
            self._memory = m = m._replace(**grown, free=free)
            m.tally[0] += len(more["free"])
        if m.tally[1] + room > len(m.heap_time):
            size = HEAP_MIN + 2 * (len(m.p_rule) + len(m.s_due) + len(m.t_due)) + room
            self._memory = m._replace(heap_time=np.zeros(size, np.int64), heap_key=np.zeros(size, np.int64))
            self._build_heap()

    def _build_heap(self) -> None:
        """Every timer that runs, once."""
        m = self._memory
        m.tally[1] = 0
        keys, times = [], []
        for kind, due, heap in ((0, m.p_due, m.p_heap), (1, m.s_due, m.s_heap), (2, m.t_due, m.t_heap)):
            heap[:] = due
            running = np.flatnonzero(due != NEVER)
            keys.append(running << 2 | kind)
            times.append(due[running])
        key, time_ns = np.concatenate(keys), np.concatenate(times)
        order = np.lexsort((key, key & 3, time_ns))  # sorted is a heap
        m.heap_key[: len(key)], m.heap_time[: len(key)] = key[order], time_ns[order]
        m.tally[1] = len(key)

    # -- one run ---------------------------------------------------------------------------------------------------------------

    def run(self, span: Span) -> None:
        """Evaluate every rule that reads something this span changed, and fire the timers that are due."""
        self._report_faults(span)
        self._report_withdrawn(span)
        if not len(span.entries):
            span.transitions = NO_CHANGES
            return
        self._watch_silence(span)
        last_ns = int(span.entries.time_ns[-1])
        if self._is_quiet(span, last_ns):
            self._last_ns, span.transitions = last_ns, NO_CHANGES
            return
        given, found, derived = self._input(span), [], []
        at = (0, 0, 0)
        while True:
            at = loop.run(self._book.arrays, self._memory, given, self._work, self._output, *at)
            if self._output.tally[0]:
                found.append(self._drain())
            if self._work.tally[2]:
                derived.append(self._drain_points())
            if at[0] >= len(given.time_ns):
                break
            self._make_room()
        span.derived = join_derived(derived, [0] * len(derived))
        self._last_ns = last_ns
        span.transitions = _joined(found, self._book)
        self._demand(span, span.transitions)

    def _is_quiet(self, span: Span, last_ns: int) -> bool:
        """Nothing came, no timer is due and the clock passes no full minute: there is nothing to evaluate."""
        m = self._memory
        if len(span.entries.frames) or span.area_changes or (m.tally[1] and m.heap_time[0] <= last_ns):
            return False
        return self._last_ns // MINUTE_NS == last_ns // MINUTE_NS or not self._book.clock

    def _input(self, span: Span) -> Input:
        entries, admission = span.entries, span.admission
        assert admission is not None
        frames, verdict, q = entries.frames, admission.verdict, admission.quality
        use = _USE[verdict]
        use = np.where((use == loop.COUNTS) & ((frames.flags & Flag.HAS_SEQ) == 0), loop.SPOKE, use).astype(np.uint8)
        is_frame = np.zeros(len(entries), np.uint8)
        is_frame[frames.entry] = 1
        end_ns = int(entries.time_ns[-1])
        minutes = full_minutes(self._last_ns or end_ns - 1, end_ns) if self._book.clock else np.zeros(0, np.int64)
        point, value, any_of = frames.point, frames.value, np.bitwise_or.reduce(q) if len(q) else 0
        if any_of & quality.REPEATED:
            point = np.where((q & quality.REPEATED) != 0, np.int32(-1), point)
        if any_of & quality.BAD:
            value = np.where(quality.is_bad(q), np.nan, value)
        columns = (
            entries.time_ns, is_frame, frames.device, frames.ts_ns, use, frames.offsets, point, value, q,
            *self._arrays(frames), minutes, clock_values(self._plan, span.areas, self._book.clock, minutes), *self._said(span),
        )  # fmt: skip
        return Input._make([*map(frozen, columns), int(self._was_blind)])

    def _arrays(self, frames: Frames) -> tuple[Array, Array, Array, Array]:
        """Arrays that some rule reads, as one row of numbers: arrays of each frame, their points, where each begins, all members."""
        wanted = [a for a in frames.arrays if self._book.arrays.column_of_array[a.point] >= 0]
        ptr = np.searchsorted(np.array([a.frame for a in wanted], np.int64), np.arange(len(frames) + 1))
        at = np.cumsum([0, *(len(a.values) for a in wanted)], dtype=np.int64)
        flat = np.concatenate([a.values for a in wanted], dtype=np.float64) if wanted else np.zeros(0)
        return ptr, np.array([a.point for a in wanted], np.int32), at, flat

    def _said(self, span: Span) -> tuple[Array, Array, Array]:
        """Cells of the clock that a word about an area changes: entry, cell, value."""
        rows = [
            (entry, k, float(area_value(self._plan.sites[site], area, state, name, span.entries.time_ns[entry : entry + 1])[0]))
            for entry, key, state in span.area_changes
            for k, (site, area, name) in enumerate(self._book.clock)
            if (name in OF_AREA or name.startswith("set.")) and f"{site}/{area}" == key
        ]
        table = np.array(rows, np.float64).reshape(-1, 3)
        return table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2].copy()

    def _drain(self) -> tuple[Array, ...]:
        n, out = int(self._output.tally[0]), self._output
        self._output.tally[0] = 0
        return tuple(column[:n].copy() for column in out[:-1])

    def _drain_points(self) -> Derived:
        n, w = int(self._work.tally[2]), self._work
        w.tally[2] = 0
        point = self._book.arrays.point_of[w.d_at[:n]]
        return make_derived(w.d_entry[:n], point, w.d_ns[:n], w.d_value[:n], w.d_quality[:n])

    # -- silence ---------------------------------------------------------------------------------------------------------------

    def _watch_silence(self, span: Span) -> None:
        """Silence and age count from the configuration on, and not while blind: then anew from the return of sight."""
        blind = bool(span.blind[0])
        if self._was_blind and not blind:
            self._memory.tally[SIGHT] = span.sight_ns
        self._was_blind = blind
        if self._is_fresh:
            self._is_fresh = False
            self._begin_silence(max(self._last_ns or int(span.entries.time_ns[0]), int(self._memory.tally[SIGHT])))
            self._build_heap()

    def _begin_silence(self, begin_ns: int) -> None:
        """Devices that the configuration names for the first time are silent from there on."""
        m, b = self._memory, self._book.arrays
        if not len(b.timer_v):
            return
        v = b.timer_v
        cohort = b.cohort_of[b.timer_seat]
        cells = b.base[cohort] + b.local_of[b.timer_seat] * b.stride[cohort] + b.v_out[v]
        fresh = (b.v_kind[v] == loop.SILENT) & np.isnan(m.latest[cells])
        m.latest[cells[fresh]] = 0.0
        m.t_due[fresh] = begin_ns + b.v_length[v[fresh]]

    # -- demands and faults ----------------------------------------------------------------------------------------------------

    def _demand(self, span: Span, changes: Changes) -> None:
        if not len(changes.rule):
            return
        rules = self._book.rules
        demanding = np.array([r.spec.demand is not None for r in rules], np.bool_)
        for c in np.flatnonzero(demanding[changes.rule]):
            rule, device = rules[int(changes.rule[c])], self._plan.devices[int(changes.device[c])]
            asked = rule.spec.demand
            assert asked is not None
            value = None if changes.what[c] == loop.TURNED_OFF else float(changes.demand[c])
            if value is not None and np.isnan(value):
                continue
            if rule.spec.shadow:
                self._tell_shadow(span, changes, int(c), f"{device.key}/{asked.actuator}", value)
                continue
            if not rule.moves(device):
                continue
            span.demands.append(
                DemandChange(
                    int(changes.entry[c]), int(changes.phase[c]), int(changes.time_ns[c]), f"{rule.spec.id}@{device.key}",
                    f"{device.key}/{asked.actuator}", asked.bound, level_of(rule), value, rule.spec.message.en or rule.spec.when,
                    int(changes.since_ns[c]), evidence(rule, changes.leaf[c]),
                )
            )  # fmt: skip

    def _tell_shadow(self, span: Span, changes: Changes, c: int, actuator: str, value: float | None) -> None:
        """What a shadow rule would have asked of an actuator."""
        rule = self._book.rules[int(changes.rule[c])]
        assert rule.spec.demand is not None
        body = {
            "rule": rule.spec.id, "rule_version": rule.spec.version, "bound": rule.spec.demand.bound, "value": value,
            "since_ns": int(changes.since_ns[c]), "read": evidence(rule, changes.leaf[c]),
        }  # fmt: skip
        span.decide(
            entry=int(changes.entry[c]), phase=int(changes.phase[c]), time_ns=int(changes.time_ns[c]), stage=self.rank,
            kind="shadow_demand", subject=actuator, body=body,
        )  # fmt: skip

    def _report_faults(self, span: Span) -> None:
        if self._new_faults and len(span.entries):
            for fault in self._new_faults:
                span.decide(
                    entry=0, phase=0, time_ns=int(span.entries.time_ns[0]), stage=self.rank, kind="fault", subject=fault.key,
                    body={"field": fault.field, "error": fault.message},
                )  # fmt: skip
            self._new_faults = []

    def _report_withdrawn(self, span: Span) -> None:
        """At the time of the configuration, so before every timer that it set up."""
        if self._withdrawn and len(span.entries):
            for rule, version, actuator, bound in self._withdrawn:
                span.decide(
                    entry=0, phase=TIMER, time_ns=self._last_ns, stage=self.rank, kind="shadow_demand", subject=actuator,
                    body={"rule": rule, "rule_version": version, "bound": bound, "value": None},
                )  # fmt: skip
            self._withdrawn = []

    # -- state -----------------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Conditions by rule and device number, columns by cohort and text."""
        return {
            "rules": self._conditions(),
            "cohorts": {cohort.name: self._columns(cohort) for cohort in self._book.cohorts if cohort.columns},
            "windows": [
                {"cohort": cohort.name, "columns": [made.key for made in columns], "state": self._memory.pane_i[span]}
                for cohort, columns, span in blocks(self._book.cohorts)
            ],
            "blind": self._was_blind, "sight_ns": int(self._memory.tally[SIGHT]), "last_ns": self._last_ns,
            "faulted": sorted(self._faulted), "new_faults": [list(fault) for fault in self._new_faults],
            "withdrawn": [list(one) for one in self._withdrawn],
        }  # fmt: skip

    def _conditions(self) -> dict[str, Any]:
        m, book = self._memory, self._book
        rows = m.slot[m.slot >= 0]
        rows = rows[np.lexsort((m.p_seat[rows], m.p_rule[rows]))]
        saved: dict[str, Any] = {}
        bounds = np.searchsorted(m.p_rule[rows], np.arange(len(book.rules) + 1))
        for number in np.flatnonzero(np.diff(bounds)):
            mine = rows[bounds[number] : bounds[number + 1]]
            part = {name: getattr(m, f"p_{name}")[mine] for name in _CONDITION}
            saved.setdefault(book.rules[number].key, []).append({"device": book.device_of_seat[m.p_seat[mine]], **part})
        return saved

    def _columns(self, cohort: Cohort) -> dict[str, Any]:
        m = self._memory
        imported = {column for column, _ in cohort.imports}
        with_members = self._members_of(cohort)
        saved: dict[str, Any] = {}
        for key, column in cohort.columns.items():
            if column in imported or key.startswith("#"):
                continue
            cells = self._cells(cohort, column)
            saved[key] = {"latest": m.latest[cells].copy()}  # cells of a column do not lie together
            if cohort.profile is None or column < len(cohort.profile.points):
                saved[key] |= {"quality": m.quality[cells].copy(), "last_ns": m.last_ns[cells].copy()}
            if column in with_members:
                saved[key]["members"] = with_members[column]
        for number, made in enumerate(cohort.virtual, self._first_virtual(cohort)):
            if self._book.arrays.v_is_asked[number]:
                saved[made.key]["quality"] = m.quality[self._cells(cohort, made.column)].copy()
            if made.point is not None:
                saved[made.key] |= {"formula": made.point.formula, **self._said_of(cohort, number)}
            if made.kind in (loop.STALE, loop.SILENT):
                first = int(self._book.arrays.v_timer[number])
                saved[made.key]["due"] = m.t_due[first : first + cohort.width]
        return {"seats": cohort.seat_keys(), "columns": saved}

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over what still exists; the rest starts idle."""
        for cohort in self._book.cohorts:
            old = saved["cohorts"].get(cohort.name)
            if old is not None:
                self._restore_columns(cohort, old)
        self._restore_windows(saved)
        for rule in self._book.rules:
            for part in saved["rules"].get(rule.key, []):
                self._restore_conditions(rule, part)
        self._was_blind, self._last_ns = saved["blind"], saved["last_ns"]
        self._memory.tally[SIGHT] = saved["sight_ns"]
        self._faulted |= set(saved["faulted"])
        self._new_faults = [Fault(*map(str, fault)) for fault in saved["new_faults"]]
        self._withdrawn = [(rule, version, actuator, bound) for rule, version, actuator, bound in saved.get("withdrawn", [])]
        self._set_ages()

    def _restore_columns(self, cohort: Cohort, old: dict[str, Any]) -> None:
        m, (to, source) = self._memory, _same_seats(cohort, old["seats"])
        formulas = {made.key: made.point.formula for made in cohort.virtual if made.point is not None}
        with_members = self._members_of(cohort)
        for key, column in cohort.columns.items():
            kept = old["columns"].get(key)
            if kept is None or (column in cohort.members) != ("members" in kept):
                continue
            if key in formulas and kept.get("formula") != formulas[key]:  # what another formula gave is not its value
                continue
            if column in with_members:
                if kept["members"].shape[1] != cohort.members[column]:
                    continue
                with_members[column][to] = kept["members"][source]
            cells = cohort.cell(column, to)
            m.latest[cells] = kept["latest"][source]
            if "quality" in kept:
                m.quality[cells] = kept["quality"][source]
            if "last_ns" in kept:
                m.last_ns[cells] = kept["last_ns"][source]
        for number, made in enumerate(cohort.virtual, self._first_virtual(cohort)):
            kept = old["columns"].get(made.key, {})
            if made.point is not None and "formula" in kept:
                for name, said in self._said_of(cohort, number).items():
                    said[to] = kept[name][source]
            if "due" in kept:
                first = int(self._book.arrays.v_timer[number])
                m.t_due[first + to] = kept["due"][source]

    def _restore_windows(self, saved: dict[str, Any]) -> None:
        """Block by block; in older snapshots each column has one of its own."""
        kept = saved.get("windows") or [
            {"cohort": name, "columns": [key], "state": column["state"]}
            for name, old in saved["cohorts"].items()
            for key, column in old["columns"].items()
            if "state" in column
        ]
        for cohort, columns, span in blocks(self._book.cohorts):
            shape, place = columns[0].shape, {made.key: number for number, made in enumerate(columns)}
            block = panes.Block(self._memory.pane_i[span], cohort.width * len(columns), shape)
            for old in kept:
                there = [number for number, key in enumerate(old["columns"]) if key in place]
                if old["cohort"] != cohort.name or not there:
                    continue
                seats, count = saved["cohorts"][cohort.name]["seats"], len(old["columns"])
                if old["state"].shape != (panes.block_words(len(seats) * count, shape),):
                    continue
                to, source = (ours[:, np.newaxis] for ours in _same_seats(cohort, seats))
                mine = to * len(columns) + [place[old["columns"][number]] for number in there]
                theirs = source * count + there
                block.copy(mine.reshape(-1), panes.Block(old["state"], len(seats) * count, shape), theirs.reshape(-1))

    def _restore_conditions(self, rule: Rule, part: dict[str, Any]) -> None:
        m, cohort = self._memory, rule.cohort
        device = np.asarray(part["device"])
        local = np.minimum(np.searchsorted(cohort.number, device), cohort.width - 1)
        wanted = cohort.number[local] == device
        if rule.mask is not None:
            wanted &= rule.mask[local]
        local, count = local[wanted], int(wanted.sum())
        if count > m.tally[FREE]:
            self._make_room(count)
            m = self._memory
        m.tally[FREE] -= count
        rows = m.free[m.tally[FREE] : m.tally[FREE] + count]
        m.slot[rule.start + local] = rows
        m.p_rule[rows], m.p_seat[rows] = rule.number, cohort.first_seat + local
        for name in _CONDITION:
            getattr(m, f"p_{name}")[rows] = np.asarray(part[name])[wanted]

    def _set_ages(self) -> None:
        """When the oldest value of each seat grows old: from the values themselves."""
        m, b, book = self._memory, self._book.arrays, self._book
        m.s_due[:] = NEVER
        for cohort in book.cohorts:
            for k in range(len(cohort.profile.points) if cohort.profile is not None else 0):
                length = int(b.stale_ns[cohort.first_column + k])
                cells = self._cells(cohort, k)
                seats = slice(cohort.first_seat, cohort.first_seat + cohort.width)
                due = np.where(np.isnan(m.latest[cells]) | (length == 0), NEVER, m.last_ns[cells] + length)
                m.s_due[seats] = np.minimum(m.s_due[seats], due)
        self._is_fresh = True


_MEANING: Final = ("when", "clear", "hysteresis", "on_delay_s", "off_delay_s", "missing")
_USE: Final = np.full(len(Verdict), loop.IGNORED, np.uint8)
_USE[Verdict.LIVE] = loop.DECIDES
_USE[[Verdict.LATE, Verdict.BACKFILL]] = loop.COUNTS
_USE[Verdict.FUTURE] = loop.SPOKE


def _only_on(part: dict[str, Any]) -> dict[str, Any]:
    """Of saved conditions those that are on, without running delays."""
    rows = np.flatnonzero(part["phase"] != loop.RAISING)
    kept = {name: np.asarray(column)[rows] for name, column in part.items()}
    return kept | {"phase": np.full(len(rows), loop.ON, np.uint8), "due": np.full(len(rows), NEVER)}


def frozen(column: Array) -> Array:
    """A read-only contiguous view: another kind of array would have the loop compiled anew, for a minute, while it should run."""
    view = np.ascontiguousarray(column).view()
    view.flags.writeable = False
    return view


def _same_seats(cohort: Cohort, old: Array) -> tuple[Array, Array]:
    """Seats of a cohort that a snapshot has, and which of its seats (by key) these are."""
    seats, order = cohort.seat_keys(), np.argsort(old)
    if not len(order):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    place = order[np.minimum(np.searchsorted(old, seats, sorter=order), len(order) - 1)]
    known = old[place] == seats
    return np.flatnonzero(known), place[known]


def _aligned(words: int) -> Array:
    """Zeros that begin at a cache line: what lies in one line of a window's memory is not to lie in two."""
    wide = np.zeros(words + 8, np.int64)
    skip = -wide.ctypes.data % 64 // 8
    return wide[skip : skip + words]


def _pool(size: int) -> dict[str, Array]:
    return {
        "p_rule": np.zeros(size, np.int32), "p_seat": np.zeros(size, np.int32), "p_phase": np.zeros(size, np.uint8),
        "p_since": np.zeros(size, np.int64), "p_due": np.full(size, NEVER), "p_left": np.zeros(size, np.int64),
        "p_value": np.full(size, np.nan), "p_demand": np.full(size, np.nan), "p_heap": np.full(size, NEVER),
        "free": np.arange(size - 1, -1, -1, dtype=np.int32),
    }  # fmt: skip


def _joined(found: list[tuple[Array, ...]], book: Rulebook) -> Changes:
    """All changes of a run in canonical order."""
    if not found:
        return NO_CHANGES
    columns = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    rule, seat, entry, phase, time_ns = columns[:5]
    order = np.lexsort((book.device_of_seat[seat], rule, np.where(phase == loop.TIMER, time_ns, 0), phase, entry))
    columns[1] = book.device_of_seat[seat]
    return Changes(*(column[order] for column in columns))
