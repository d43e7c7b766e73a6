"""The compiled loops of the rule stage, and the numpy forms that give the same results where numba is not wanted.

`emit_events` walks frames in journal order, carries point values forward and says which rule instance must be evaluated at which
frame with which values. `run_conditions` walks those evaluations in journal order through the condition state machine:

    OFF --when--> PENDING_ON --on_delay--> ON --clear--> PENDING_OFF --off_delay--> OFF

with PENDING_ON back to OFF when `when` turns false, and PENDING_OFF back to ON when `clear` turns false. Unknown (NaN) changes
nothing: it neither raises nor clears. A silence rule reads `when` = 1 at every frame of its device and restarts its delay there.
Parameters are arrays, so a changed rule compiles nothing.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

OFF, PENDING_ON, ON, PENDING_OFF = 0, 1, 2, 3
NEVER: Final = np.iinfo(np.int64).max
TIMER, ENTRY = 0, 1
NO_ENTRY: Final = -1  # the timer was set before this run

Array = NDArray[Any]
_compile = njit(cache=True, nogil=True)


class Reads(NamedTuple):
    """Who reads what. indptr (points+1,), indices: instances reading each point. slots (instances, slots_max) point or -1."""

    indptr: Array
    indices: Array
    slots: Array


class Events(NamedTuple):
    """Evaluations in journal order: instance (e,), frame (e,), values (e, slots_max)."""

    instance: Array
    frame: Array
    values: Array


@dataclass(slots=True)
class ConditionState:
    """State of every rule instance. phase (i,) uint8; since_ns, due_ns (i,) int64; value (i,) the first slot when last evaluated;
    demand (i,) the value last demanded, NaN = none."""

    phase: Array
    since_ns: Array
    due_ns: Array
    value: Array
    demand: Array

    @staticmethod
    def idle(count: int) -> "ConditionState":
        """State of `count` instances that have never been evaluated."""
        return ConditionState(
            np.zeros(count, np.uint8),
            np.zeros(count, np.int64),
            np.full(count, NEVER),
            np.full(count, np.nan),
            np.full(count, np.nan),
        )


class Changes(NamedTuple):
    """What happened to conditions and demands, in journal order.

    instance, entry, phase (TIMER, ENTRY), time_ns, on (1 turned on, 0 turned off, 2 stayed on with another demand), value (first
    slot), demand (demanded value; NaN = none). All (c,).
    """

    instance: Array
    entry: Array
    phase: Array
    time_ns: Array
    on: Array
    value: Array
    demand: Array


@_compile
def _emit(
    offsets: Array,
    point: Array,
    value: Array,
    latest: Array,
    indptr: Array,
    indices: Array,
    slots: Array,
    mark: Array,
    stamp: int,
    capacity: int,
) -> tuple[Array, Array, Array]:
    width = slots.shape[1]
    instance = np.empty(capacity, np.int64)
    frame = np.empty(capacity, np.int64)
    values = np.empty((capacity, width), np.float64)
    count = 0
    for f in range(len(offsets) - 1):
        for s in range(offsets[f], offsets[f + 1]):
            latest[point[s]] = value[s]
        for s in range(offsets[f], offsets[f + 1]):
            p = point[s]
            for k in range(indptr[p], indptr[p + 1]):
                i = indices[k]
                if mark[i] == stamp + f:
                    continue
                mark[i] = stamp + f
                instance[count] = i
                frame[count] = f
                for j in range(width):
                    q = slots[i, j]
                    values[count, j] = latest[q] if q >= 0 else np.nan
                count += 1
    return instance[:count], frame[:count], values[:count]


def _emit_numpy(offsets: Array, point: Array, value: Array, latest: Array, reads: Reads) -> Events:
    n = len(offsets) - 1
    p, v, f = point.astype(np.int64), value, np.repeat(np.arange(n), np.diff(offsets))
    fan = reads.indptr[p + 1] - reads.indptr[p]
    start = np.repeat(reads.indptr[p], fan)
    within = np.arange(int(fan.sum())) - np.repeat(np.cumsum(fan) - fan, fan)
    instance, sample = reads.indices[start + within].astype(np.int64), np.repeat(np.arange(len(p)), fan)
    # One evaluation per (frame, instance): the first sample of the frame that the instance reads gives its place in the order.
    _, first = np.unique(f[sample] * (len(reads.slots) + 1) + instance, return_index=True)
    first.sort()
    instance, frame = instance[first], f[sample][first]
    order = np.lexsort((f, p))
    key = p[order] * (n + 1) + f[order]
    values = np.full((len(instance), reads.slots.shape[1]), np.nan)
    for j in range(reads.slots.shape[1]):
        q = reads.slots[instance, j].astype(np.int64)
        at = np.searchsorted(key, q * (n + 1) + frame, side="right") - 1
        inside = (at >= 0) & (q >= 0)
        inside[inside] = p[order][at[inside]] == q[inside]
        values[:, j] = np.where(q >= 0, latest[np.maximum(q, 0)], np.nan) if len(latest) else np.nan
        values[inside, j] = v[order][at[inside]]
    latest[p] = v  # frame order: the last assignment to a repeated index stays
    return Events(instance, frame, values)


def emit_events(
    offsets: Array,
    point: Array,
    value: Array,
    latest: Array,
    reads: Reads,
    mark: Array,
    stamp: int,
    *,
    numba: bool = True,
) -> Events:
    """Which instance to evaluate at which frame, in journal order, with the values it reads carried forward.

    offsets (n+1,), point (m,), value (m,): samples of n frames. latest (points,) float64 moves
    forward in place. mark (instances,) int64 and stamp: scratch; the caller raises stamp by n after each call.
    """
    if not numba:
        return _emit_numpy(offsets, point, value, latest, reads)
    fan = reads.indptr[point.astype(np.int64) + 1] - reads.indptr[point]
    return Events(*_emit(offsets, point, value, latest, reads.indptr, reads.indices, reads.slots, mark, stamp, int(fan.sum())))


@_compile
def _timer_entry(entry_time: Array, due: int, set_at: int) -> int:
    """First entry before which a timer fires: its time has reached `due` and it comes after the entry that set it."""
    lo, hi = 0, len(entry_time)
    while lo < hi:
        mid = (lo + hi) // 2
        if entry_time[mid] < due:
            lo = mid + 1
        else:
            hi = mid
    return max(lo, set_at + 1)


@_compile
def _conditions(
    instance: Array,
    entry: Array,
    time_ns: Array,
    entry_time: Array,
    when: Array,
    clear: Array,
    value: Array,
    demand: Array,
    rule_of: Array,
    on_delay: Array,
    off_delay: Array,
    silence: Array,
    step: Array,
    phase: Array,
    since: Array,
    due: Array,
    last_value: Array,
    last_demand: Array,
    set_at: Array,
) -> tuple[int, Array, Array, Array, Array, Array, Array, Array]:
    n = len(instance)
    room = 2 * n
    c_instance, c_entry = np.empty(room, np.int64), np.empty(room, np.int64)
    c_phase, c_on = np.empty(room, np.uint8), np.empty(room, np.uint8)
    c_time = np.empty(room, np.int64)
    c_value, c_demand = np.empty(room, np.float64), np.empty(room, np.float64)
    c = 0
    for e in range(n):
        i = instance[e]
        r = rule_of[i]
        if due[i] != NEVER:
            at = _timer_entry(entry_time, due[i], set_at[i])
            if at <= entry[e]:
                turned_on = phase[i] == PENDING_ON
                phase[i] = ON if turned_on else OFF
                since[i] = due[i]
                c_instance[c], c_entry[c], c_phase[c], c_time[c] = i, at, TIMER, due[i]
                c_on[c], c_value[c] = turned_on, last_value[i]
                if not turned_on:
                    last_demand[i] = np.nan
                c_demand[c] = last_demand[i]
                due[i] = NEVER
                c += 1
        w, c_now = when[e], clear[e]
        last_value[i] = value[e]
        t = time_ns[e]
        turned = -1
        if silence[r]:
            if phase[i] == ON:
                turned = 0
            phase[i], since[i], due[i], set_at[i] = PENDING_ON, t, t + on_delay[r], entry[e]
        elif phase[i] == OFF:
            if w == 1.0:
                if on_delay[r] == 0:
                    phase[i], since[i], turned = ON, t, 1
                else:
                    phase[i], since[i], due[i], set_at[i] = PENDING_ON, t, t + on_delay[r], entry[e]
        elif phase[i] == PENDING_ON:
            if w == 0.0:
                phase[i], due[i] = OFF, NEVER
        elif phase[i] == ON:
            if c_now == 1.0:
                if off_delay[r] == 0:
                    phase[i], since[i], turned = OFF, t, 0
                else:
                    phase[i], due[i], set_at[i] = PENDING_OFF, t + off_delay[r], entry[e]
        elif c_now == 0.0:
            phase[i], due[i] = ON, NEVER
        if phase[i] == OFF or phase[i] == PENDING_ON:
            if phase[i] == PENDING_ON and demand[e] == demand[e]:
                last_demand[i] = demand[e]  # what it will ask for when the delay ends
            elif turned == 0 or phase[i] == OFF:
                last_demand[i] = np.nan
        elif demand[e] == demand[e]:
            old = last_demand[i]
            moved = demand[e] != old and not (abs(demand[e] - old) < step[r])
            if turned == 1 or moved:
                last_demand[i] = demand[e]
                if turned != 1:
                    turned = 2
        if turned >= 0:
            c_instance[c], c_entry[c], c_phase[c], c_time[c] = i, entry[e], ENTRY, t
            c_on[c], c_value[c], c_demand[c] = turned, value[e], last_demand[i]
            c += 1
    return c, c_instance, c_entry, c_phase, c_time, c_on, c_value, c_demand


def _condition_rounds(
    events: dict[str, Array], entry_time: Array, rule: dict[str, Array], state: ConditionState, set_at: Array
) -> Changes:
    """The same machine in numpy: the k-th event of every instance at once, which is exact since instances are independent."""
    order = np.argsort(events["instance"], kind="stable")
    sorted_instance = events["instance"][order]
    starts = np.flatnonzero(np.r_[True, sorted_instance[1:] != sorted_instance[:-1]]) if len(order) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(order)])
    made: list[dict[str, Array]] = []
    for k in range(int(lengths.max()) if len(lengths) else 0):
        e = order[starts[lengths > k] + k]
        i = events["instance"][e]
        made += _fire(i, entry_time, events["entry"][e], state, set_at)
        made.append(_apply_round(e, i, events, rule, state, set_at))
    return _gather_changes(made)


def _fire(i: Array, entry_time: Array, limit: Array, state: ConditionState, set_at: Array) -> list[dict[str, Array]]:
    """Fire the timers of instances i whose place comes at or before entry `limit`."""
    due = state.due_ns[i]
    at = np.maximum(np.searchsorted(entry_time, due, side="left"), set_at[i] + 1)
    go = (due != NEVER) & (at <= limit)
    i, at, due = i[go], at[go], due[go]
    if not len(i):
        return []
    on = state.phase[i] == PENDING_ON
    state.phase[i] = np.where(on, ON, OFF)
    state.since_ns[i], state.due_ns[i] = due, NEVER
    state.demand[i[~on]] = np.nan
    return [
        {
            "instance": i,
            "entry": at,
            "phase": np.full(len(i), TIMER),
            "time_ns": due,
            "on": on.astype(np.int64),
            "value": state.value[i],
            "demand": state.demand[i],
        }
    ]


def _apply_round(
    e: Array, i: Array, events: dict[str, Array], rule: dict[str, Array], state: ConditionState, set_at: Array
) -> dict[str, Array]:
    t, w, r, d = events["time_ns"][e], events["when"][e], events["clear"][e], events["demand"][e]
    of = rule["of"][i]
    phase, on_delay, off_delay = state.phase[i].copy(), rule["on_delay"][of], rule["off_delay"][of]
    silence = rule["silence"][of]
    state.value[i] = events["value"][e]
    turned = np.full(len(i), -1)
    turned[silence & (phase == ON)] = 0
    begins = ~silence & (phase == OFF) & (w == 1.0)
    ends = ~silence & (phase == ON) & (r == 1.0)
    turned[begins & (on_delay == 0)] = 1
    turned[ends & (off_delay == 0)] = 0
    arm_on, arm_off = silence | (begins & (on_delay != 0)), ends & (off_delay != 0)
    drop_on, drop_off = ~silence & (phase == PENDING_ON) & (w == 0.0), ~silence & (phase == PENDING_OFF) & (r == 0.0)
    new = phase.copy()
    new[arm_on], new[arm_off], new[drop_on], new[drop_off] = PENDING_ON, PENDING_OFF, OFF, ON
    new[~silence & (turned == 1)], new[~silence & (turned == 0)] = ON, OFF
    state.phase[i] = new
    started = arm_on | (begins & (on_delay == 0)) | (ends & (off_delay == 0))
    state.since_ns[i[started]] = t[started]
    state.due_ns[i[drop_on | drop_off]] = NEVER
    state.due_ns[i[arm_on]] = (t + on_delay)[arm_on]
    state.due_ns[i[arm_off]] = (t + off_delay)[arm_off]
    set_at[i[arm_on | arm_off]] = events["entry"][e][arm_on | arm_off]
    asked = ~np.isnan(d)
    state.demand[i[(new == OFF) | ((new == PENDING_ON) & ~asked & (turned == 0))]] = np.nan
    waiting = (new == PENDING_ON) & asked
    state.demand[i[waiting]] = d[waiting]
    active = ((new == ON) | (new == PENDING_OFF)) & asked
    old = state.demand[i]
    moved = active & ((turned == 1) | ((d != old) & ~(np.abs(d - old) < rule["step"][of])))
    state.demand[i[moved]] = d[moved]
    turned[moved & (turned != 1)] = 2
    out = turned >= 0
    return {
        "instance": i[out],
        "entry": events["entry"][e][out],
        "phase": np.full(int(out.sum()), ENTRY),
        "time_ns": t[out],
        "on": turned[out],
        "value": events["value"][e][out],
        "demand": state.demand[i[out]],
    }


def _gather_changes(parts: list[dict[str, Array]]) -> Changes:
    columns = {name: np.concatenate([part[name] for part in parts]) if parts else np.zeros(0, np.int64) for name in Changes._fields}
    return Changes(**columns)


def run_conditions(
    events: dict[str, Array], entry_time: Array, rule: dict[str, Array], state: ConditionState, set_at: Array, *, numba: bool = True
) -> Changes:
    """Move conditions through the evaluations `events` and then fire every timer that is due by the last entry.

    events: instance, entry, time_ns, when, clear, value, demand (e,) in journal order. entry_time (k,) of the run's entries.
    rule: of (i,) the rule of each instance; by rule on_delay, off_delay ns, silence, step = smallest change of a demand.
    set_at (i,) int64 scratch, all
    NO_ENTRY on entry and on return. The result is in canonical order: entry, phase, time (timers only), instance.
    """
    if numba:
        count, *columns = _conditions(
            events["instance"],
            events["entry"],
            events["time_ns"],
            entry_time,
            events["when"],
            events["clear"],
            events["value"],
            events["demand"],
            rule["of"],
            rule["on_delay"],
            rule["off_delay"],
            rule["silence"],
            rule["step"],
            state.phase,
            state.since_ns,
            state.due_ns,
            state.value,
            state.demand,
            set_at,
        )
        changes = Changes(*(column[:count] for column in columns))
    else:
        changes = _condition_rounds(events, entry_time, rule, state, set_at)
    last = entry_time[-1] if len(entry_time) else 0
    waiting = np.flatnonzero(state.due_ns <= last)
    rest = _fire(waiting, entry_time, np.full(len(waiting), len(entry_time) - 1), state, set_at)
    set_at[events["instance"]] = NO_ENTRY
    if rest:
        late = _gather_changes(rest)
        changes = Changes(*(np.concatenate((a, b)) for a, b in zip(changes, late, strict=True)))
    timer_time = np.where(changes.phase == TIMER, changes.time_ns, 0)
    order = np.lexsort((changes.instance, timer_time, changes.phase, changes.entry))
    return Changes(*(column[order] for column in changes))
