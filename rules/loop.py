"""The decision loop of rules, compiled: entries in journal order, timers between them, then columns, then conditions.

This file *is* the meaning of the rule stage: for each entry, first every timer that is due before it, in order of due time and
stamped with it; then the entry whole: all columns that read something it changed, by level, and each rule that reads something
changed, once. Everything is arrays (rules/book.py lays them out), so a changed rule compiles nothing. Without numba the same
functions run uncompiled.

Times are int64 ns since 1970 UTC. An unknown number is NaN; a condition is 1.0, 0.0 or NaN (unknown).
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rules import calculate, members
from rules.calculate import evaluate
from rules.panes import is_index, pane_at, update_column
from telemetry import quality

Array = NDArray[Any]
_compile = calculate.inner
_entry = calculate.bare(cache=True, nogil=True, _nrt=False)

NEVER: Final = np.iinfo(np.int64).max
OFF, RAISING, ON, CLEARING = 0, 1, 2, 3
TIMER, ENTRY = 0, 1
NS_PER_MS: Final = 1_000_000
TURNED_OFF, TURNED_ON, MOVED = 0, 1, 2  # what a change says: `MOVED` = stayed on with another demand
IGNORED, DECIDES, COUNTS, SPOKE = 0, 1, 2, 3  # a frame: live; late with a number of its own; no more than a sign of life
HOLD, CLEAR, ALARM = 0, 1, 2  # what a rule does while its condition is unknown
LEAVES: Final = 8  # columns kept as evidence of a change
# Timers by class; of those due at one moment, held conditions come before the clock, and that before silence.
CONDITION, SEAT, COLUMN = 0, 1, 2
# Kinds of virtual columns.
EXPRESSION, PANES, GROUP, STALE, SILENT, MEMBERS, MEMBERWISE = 0, 1, 2, 3, 4, 5, 6


class Book(NamedTuple):
    """The configuration as arrays.

    A *cohort* is all devices of one profile of a site, a *seat* one of them, a *cell* one value: local * stride + column, from the
    cohort's base, so that the cells of a seat lie together. Columns (g) are numbered over all cohorts. An imported column stands for
    cells of other seats.
    """

    seat_of_device: Array  # (devices,) int32, -1 none
    column_of_point: Array  # (points,) int32, -1 none
    column_of_array: Array  # (points,) int32: of points with members that somebody reads; -1 none
    cohort_of: Array  # (seats,) int32
    local_of: Array  # (seats,) int32
    base: Array  # (cohorts,) int64, such that the cell of a column of the first seat is base + g
    stride: Array  # (cohorts,) int64: cells of a seat
    has_windows: Array  # (cohorts,) uint8: over measured columns
    real: Array  # (cohorts, 2) int32: first and one past the last column that measurements fill
    import_at: Array  # (g,) int64 into import_cells, -1: the column is the cohort's own
    import_cells: Array  # int64
    member_at: Array  # (g,) int64 first of the members of the column's first seat, -1 none
    member_count: Array  # (g,) int64 for each seat
    member_range: Array  # (g, 2) float64: beyond it a member is unknown
    stale_ns: Array  # (g,) int64; 0 = values never grow old
    is_read: Array  # (g,) uint8: 0 by nobody, 1 by plain rules only, 2 by others too
    reader_v_ptr: Array  # (g+1,) int32
    reader_v: Array  # virtual columns that read a column, and wait for their turn
    window_ptr: Array  # (g+1,) int32
    window_v: Array  # functions over time of a measured column: they need not wait, since they read nothing else
    reader_r_ptr: Array
    reader_r: Array  # rules that read a column
    plain_ptr: Array  # (g,) int32: where among reader_r the plain rules of a column begin, which compare it with a number by < or >
    export_ptr: Array  # (seats+1,) int64
    export_seat: Array
    export_from: Array  # column of the exporting seat
    export_to: Array  # imported column of the other seat
    v_kind: Array  # (v,) uint8
    v_out: Array  # column it fills
    v_in: Array  # column it follows; -1
    v_level: Array  # (v,) int32: columns of a lower level are up to date before it
    v_code: Array  # (v, 2) int32
    v_start: Array  # (v,) int64 first instance
    v_length: Array  # (v,) int64 ns
    v_live_only: Array  # uint8
    v_pane: Array  # (v, 9) int64: see rules/panes.py and rules/members.py
    v_parameter: Array  # (v, 4) float64
    v_group: Array  # (v,) int64 into group_ptr, -1
    v_timer: Array  # (v,) int64 first timer, -1
    v_is_asked: Array  # (v,) uint8: its quality goes into that of a virtual point or a vote
    v_point: Array  # (v,) int64: it is a virtual point; first into point_of, -1 none
    v_beat: Array  # (v,) int64 ns
    v_deadband: Array  # (v,) float64
    point_of: Array  # int32 numbers of virtual points
    timer_v: Array  # (timers,) int32
    timer_seat: Array
    silent_ptr: Array  # (cohorts+1,) int32: virtual columns that wait for any word of a seat
    silent_v: Array
    group_ptr: Array  # int64
    group_cells: Array  # int64
    op: Array  # int16
    argument: Array  # int32
    constant: Array  # float64
    r_start: Array  # (r,) int64 first instance
    r_when: Array  # (r, 2) int32
    r_clear: Array  # (r, 2) int32; empty: the complement of `when`
    r_value: Array  # (r, 2) int32; empty: r_constant
    r_constant: Array  # demanded value, NaN none
    r_fast: Array  # (r, 5) int32: column, operator of when, of clear (0 = complement), 1 = usable, 1 = without a demand
    r_limit: Array  # (r, 2) float64
    r_on: Array  # int64 ns
    r_off: Array
    r_step: Array  # float64, smallest change of a demand
    r_missing: Array  # uint8
    r_mask: Array  # (r,) int64 into mask, -1 = every seat
    mask: Array  # uint8 by local number
    r_leaf: Array  # (r, LEAVES) int32, -1
    c_cell: Array  # cells that the clock fills
    c_seat: Array
    c_column: Array


class Memory(NamedTuple):
    """The state. Pool rows are conditions that are not OFF; `slot` says which row an instance has."""

    latest: Array  # (cells,) float64; of a column with members: how many are known
    member: Array  # float64 members of those columns, NaN = unknown
    quality: Array  # (cells,) uint16, of what `latest` holds, or of what made it unknown
    low: Array  # (cells,) float64: between these two all plain rules of the seat's column stay as they are
    high: Array
    last_ns: Array  # (cells,) int64, of the newest sample that decided
    pane_f: Array  # float64
    pane_i: Array  # int64
    pane_u: Array  # uint16
    slot: Array  # (instances,) int32
    p_rule: Array
    p_seat: Array
    p_phase: Array
    p_since: Array
    p_due: Array
    p_left: Array  # what is left of a delay that stands still while the condition is unknown
    p_value: Array
    p_demand: Array
    p_heap: Array  # time of the row's place in the heap
    free: Array  # int32 stack of unused rows
    s_due: Array  # (seats,) int64: no value of the seat grows old before
    s_heap: Array
    t_due: Array  # timers of virtual columns
    t_heap: Array
    d_value: Array  # what each virtual point said last; NaN: that it is not known
    d_ns: Array
    d_quality: Array  # uint16
    heap_time: Array
    heap_key: Array
    mark_v: Array  # int64 scratch
    mark_r: Array
    tally: Array  # int64: free rows, heap size, stamp, sight


class Input(NamedTuple):
    """A run of entries, with frames as the rules see them."""

    time_ns: Array  # (k,) of entries
    is_frame: Array  # (k,) uint8
    device: Array  # (n,)
    ts_ns: Array  # (n,)
    use: Array  # (n,) uint8: IGNORED .. SPOKE
    offsets: Array  # (n+1,)
    point: Array  # (m,), -1 = seen before
    value: Array  # (m,) NaN = unknown
    quality: Array  # (m,) uint16
    array_ptr: Array  # (n+1,) arrays of each frame
    array_point: Array
    array_at: Array  # (arrays+1,) into member
    member: Array  # float64, all arrays one after another
    clock_ns: Array  # (c,) when the clock's cells change
    clock_value: Array  # (c, cells)
    said_entry: Array  # (s,) an entry that changes a cell of the clock
    said_cell: Array  # (s,) which one
    said_value: Array
    blind: int


class Output(NamedTuple):
    """Changes as they are made; `tally[0]` of them."""

    rule: Array
    seat: Array
    entry: Array
    phase: Array
    time_ns: Array
    what: Array
    since: Array
    value: Array
    demand: Array
    leaf: Array  # (capacity, LEAVES)
    tally: Array


class Work(NamedTuple):
    """Scratch of one moment: touched (seat, column) pairs, and virtual columns that wait, as one list for each level."""

    t_seat: Array
    t_column: Array
    w_v: Array
    w_seat: Array
    w_next: Array
    head: Array  # (levels,)
    tail: Array
    tally: Array  # touched, waiting, samples of virtual points, the entry, how many such samples one moment may make
    stack: Array
    pane: Array  # (clocks,) int64 pane met last, of columns with panes of one length
    known: Array  # values of a group
    rows: Array  # (STACK, BLOCK) of expressions over members
    d_entry: Array  # samples of virtual points as they are made
    d_at: Array  # which point: into point_of
    d_ns: Array
    d_value: Array
    d_quality: Array


# -- the heap of timers: each at most once, at or before its due time --------------------------------------------------------


@_compile
def _before(t1: int, k1: int, t2: int, k2: int) -> bool:
    return t1 < t2 or (t1 == t2 and ((k1 & 3) < (k2 & 3) or ((k1 & 3) == (k2 & 3) and k1 < k2)))


@_compile
def _push(m: Memory, time_ns: int, key: int) -> None:
    i = m.tally[1]
    m.tally[1] += 1
    while i > 0:
        up = (i - 1) >> 1
        if not _before(time_ns, key, m.heap_time[up], m.heap_key[up]):
            break
        m.heap_time[i], m.heap_key[i] = m.heap_time[up], m.heap_key[up]
        i = up
    m.heap_time[i], m.heap_key[i] = time_ns, key


@_compile
def _pop(m: Memory) -> None:
    m.tally[1] -= 1
    n = m.tally[1]
    if n == 0:
        return
    time_ns, key = m.heap_time[n], m.heap_key[n]
    i = 0
    while True:
        down = 2 * i + 1
        if down >= n:
            break
        if down + 1 < n and _before(m.heap_time[down + 1], m.heap_key[down + 1], m.heap_time[down], m.heap_key[down]):
            down += 1
        if not _before(m.heap_time[down], m.heap_key[down], time_ns, key):
            break
        m.heap_time[i], m.heap_key[i] = m.heap_time[down], m.heap_key[down]
        i = down
    m.heap_time[i], m.heap_key[i] = time_ns, key


@_compile
def _arm(m: Memory, due_ns: int, key: int) -> None:
    """Set a timer. A later place in the heap than the one it has is found when that one comes up."""
    index, kind = key >> 2, key & 3
    due, heap = (m.p_due, m.p_heap) if kind == CONDITION else (m.s_due, m.s_heap) if kind == SEAT else (m.t_due, m.t_heap)
    due[index] = due_ns
    if due_ns < heap[index]:
        heap[index] = due_ns
        _push(m, due_ns, key)


# -- columns -----------------------------------------------------------------------------------------------------------------


@_compile
def _cell(b: Book, column: int, cohort: int, local: int) -> int:
    at = b.import_at[column]
    return b.base[cohort] + local * b.stride[cohort] + column if at < 0 else b.import_cells[at + local]


@_compile
def _own_cell(b: Book, column: int, cohort: int, local: int) -> int:
    """The seat's own cell, also of a column that it imports: what its rules are like."""
    return b.base[cohort] + local * b.stride[cohort] + column


@_compile
def _touch(b: Book, m: Memory, w: Work, seat: int, column: int) -> None:
    """Note that a column of a seat changed, and let the virtual columns that read it wait for their level."""
    n = w.tally[0]
    w.t_seat[n], w.t_column[n] = seat, column
    w.tally[0] += 1
    stamp, local = m.tally[2], b.local_of[seat]
    for k in range(b.reader_v_ptr[column], b.reader_v_ptr[column + 1]):
        v = b.reader_v[k]
        instance = b.v_start[v] + local
        if m.mark_v[instance] == stamp:
            continue
        m.mark_v[instance] = stamp
        i = w.tally[1]
        w.tally[1] += 1
        w.w_v[i], w.w_seat[i], w.w_next[i] = v, seat, -1
        level = b.v_level[v]
        if w.head[level] < 0:
            w.head[level] = i
        else:
            w.w_next[w.tail[level]] = i
        w.tail[level] = i


@_compile
def _export(b: Book, m: Memory, w: Work, seat: int, column: int) -> None:
    """Tell the seats that import a column of this one."""
    for k in range(b.export_ptr[seat], b.export_ptr[seat + 1]):
        if b.export_from[k] == column:
            _touch(b, m, w, b.export_seat[k], b.export_to[k])


@_compile
def _is_news(b: Book, m: Memory, column: int, cell: int, x: float) -> bool:
    """Whether a value of a column has to be looked at. Most rules compare a column with a number, are off or on, and stay so."""
    if b.is_read[column] == 0:
        return False
    return b.is_read[column] == 2 or not m.low[cell] < x < m.high[cell]


@_compile
def _fill(b: Book, m: Memory, w: Work, seat: int, column: int, value: float) -> None:
    """A virtual column has a value of this moment, perhaps the same as before: what remembers a series counts it again."""
    cell = _own_cell(b, column, b.cohort_of[seat], b.local_of[seat])
    m.latest[cell] = value
    if _is_news(b, m, column, cell, value):
        _touch(b, m, w, seat, column)
    _export(b, m, w, seat, column)


@_compile
def _weigh(b: Book, m: Memory, v: int, cohort: int, local: int, value: float) -> bool:
    """Give a virtual column its quality, where that goes into a virtual point; True when it is another one."""
    if not b.v_is_asked[v]:
        return False
    kind, q = b.v_kind[v], quality.GOOD
    if kind == EXPRESSION:
        q = calculate.code_quality(b, m, b.v_code[v, 0], b.v_code[v, 1], cohort, local)
    elif kind == PANES:
        source = _cell(b, b.v_in[v], cohort, local)
        q = quality.UNCERTAIN if np.isnan(m.latest[source]) else m.quality[source]
    elif kind == GROUP:
        at = b.v_group[v] + local
        q = calculate.group_quality(b.group_cells[b.group_ptr[at] : b.group_ptr[at + 1]], m.latest, m.quality)
    return _grade(b, m, v, cohort, local, value, q)


@_compile
def _grade(b: Book, m: Memory, v: int, cohort: int, local: int, value: float, q: int) -> bool:
    """Write a quality down; what is not known is BAD."""
    cell = _cell(b, b.v_out[v], cohort, local)
    q = quality.BAD | quality.NOT_A_NUMBER if np.isnan(value) else q
    is_new = m.quality[cell] != q
    m.quality[cell] = q
    return is_new


@_compile
def _derive(b: Book, m: Memory, w: Work, v: int, cohort: int, local: int, time_ns: int, value: float) -> None:
    """A virtual point says what is new: another quality, a step beyond its deadband, or after its heartbeat the same again.

    Its times rise by 1 ms at least, so that each is a sample of its own; that it is not known it says once.
    """
    at, q = b.v_point[v] + local, m.quality[_cell(b, b.v_out[v], cohort, local)]
    if np.isnan(value):
        if np.isnan(m.d_value[at]):
            return
    elif q == m.d_quality[at] and abs(value - m.d_value[at]) <= b.v_deadband[v] and time_ns - m.d_ns[at] < b.v_beat[v]:
        return
    m.d_value[at], m.d_quality[at], m.d_ns[at] = value, q, max(time_ns, m.d_ns[at] + NS_PER_MS)
    n = w.tally[2]
    w.tally[2] += 1
    w.d_entry[n], w.d_at[n], w.d_ns[n], w.d_value[n], w.d_quality[n] = w.tally[3], at, m.d_ns[at], value, q


@_compile
def _settle(b: Book, m: Memory, w: Work, time_ns: int, is_sample: bool) -> None:
    """Bring every waiting virtual column up to date, from the lowest level up. What grew old is no sample for a window."""
    for level in range(len(w.head)):
        i = w.head[level]
        while i >= 0:
            v, seat = w.w_v[i], w.w_seat[i]
            cohort, local = b.cohort_of[seat], b.local_of[seat]
            kind = b.v_kind[v]
            if kind == EXPRESSION:
                value = evaluate(b, m, b.v_code[v, 0], b.v_code[v, 1], cohort, local, w.stack)
                _weigh(b, m, v, cohort, local, value)
                if b.v_point[v] >= 0:
                    _derive(b, m, w, v, cohort, local, time_ns, value)
                _fill(b, m, w, seat, b.v_out[v], value)
            elif kind == PANES and is_sample:
                x = m.latest[_cell(b, b.v_in[v], cohort, local)]
                spec, pane = b.v_pane[v], pane_at(b.v_pane[v], w.pane, time_ns)
                value = update_column(spec, b.v_parameter[v], m.pane_f, m.pane_i, m.pane_u, local, time_ns, pane, x, True)
                _weigh(b, m, v, cohort, local, value)
                _fill(b, m, w, seat, b.v_out[v], value)
            elif kind == GROUP:
                at = b.v_group[v] + local
                cells = b.group_cells[b.group_ptr[at] : b.group_ptr[at + 1]]
                if b.v_pane[v, 0] == calculate.G_VOTE:
                    value, q = calculate.vote(cells, b.v_parameter[v, 0], m.latest, m.quality, w.known)
                    _grade(b, m, v, cohort, local, value, q)
                    is_news = True
                else:
                    value = calculate.gather(b.v_pane[v, 0], cells, m.latest, w.known)
                    old = m.latest[_cell(b, b.v_out[v], cohort, local)]
                    # Or every word of one would be news to all.
                    is_news = _weigh(b, m, v, cohort, local, value) or (value != old and not (np.isnan(value) and np.isnan(old)))
                if is_news:
                    _fill(b, m, w, seat, b.v_out[v], value)
            elif kind == STALE and is_sample:
                timer = b.v_timer[v] + local
                _arm(m, time_ns + b.v_length[v], timer << 2 | COLUMN)
                _fill(b, m, w, seat, b.v_out[v], 0.0)
            elif kind >= MEMBERS:
                value = members.update(b, m, w, v, cohort, local, time_ns, bool(is_sample))
                _fill(b, m, w, seat, b.v_out[v], value)
            i = w.w_next[i]
        w.head[level] = -1


# -- conditions --------------------------------------------------------------------------------------------------------------


@_compile
def _calm(b: Book, m: Memory, column: int, cell: int, local: int) -> None:
    """Between which two values the plain rules of a cell, as they are now, have nothing to do."""
    low, high = -np.inf, np.inf
    for k in range(b.plain_ptr[column], b.reader_r_ptr[column + 1]):
        rule = b.reader_r[k]
        row = m.slot[b.r_start[rule] + local]
        is_above, limit = b.r_fast[rule, 1] >= calculate.GREATER, b.r_limit[rule, 0]
        if row < 0:
            if b.r_mask[rule] >= 0 and not b.mask[b.r_mask[rule] + local]:
                continue
        elif m.p_phase[row] != ON or b.r_fast[rule, 4] == 0:  # a delay runs, or a demand may move
            low = np.inf
        elif b.r_fast[rule, 2] == 0:
            is_above = not is_above
        else:
            is_above, limit = b.r_fast[rule, 2] >= calculate.GREATER, b.r_limit[rule, 1]
        if is_above:
            high = min(high, limit)
        else:
            low = max(low, limit)
    m.low[cell], m.high[cell] = low, high


@_compile
def _release(m: Memory, row: int, instance: int) -> None:
    m.slot[instance] = -1
    m.p_due[row], m.p_heap[row] = NEVER, NEVER
    m.free[m.tally[0]] = row
    m.tally[0] += 1


@_compile
def _say(b: Book, m: Memory, out: Output, row: int, entry: int, phase: int, time_ns: int, what: int) -> None:
    n = out.tally[0]
    out.tally[0] += 1
    rule, seat = m.p_rule[row], m.p_seat[row]
    out.rule[n], out.seat[n], out.entry[n], out.phase[n], out.time_ns[n], out.what[n] = rule, seat, entry, phase, time_ns, what
    out.since[n], out.value[n], out.demand[n] = m.p_since[row], m.p_value[row], m.p_demand[row]
    cohort, local = b.cohort_of[seat], b.local_of[seat]
    for j in range(LEAVES):
        column = b.r_leaf[rule, j]
        out.leaf[n, j] = m.latest[_cell(b, column, cohort, local)] if column >= 0 else np.nan


@_compile
def _end_delay(b: Book, m: Memory, out: Output, row: int, entry: int) -> None:
    """A delay has run out: the condition turns on or off, at its due time."""
    due, rule, seat = m.p_due[row], m.p_rule[row], m.p_seat[row]
    m.p_due[row] = NEVER
    if b.r_fast[rule, 3]:
        m.low[_own_cell(b, b.r_fast[rule, 0], b.cohort_of[seat], b.local_of[seat])] = np.inf  # the next value is looked at
    if m.p_phase[row] == RAISING:
        m.p_phase[row] = ON
        _say(b, m, out, row, entry, TIMER, due, TURNED_ON)
        return
    m.p_demand[row], m.p_phase[row] = np.nan, OFF
    _say(b, m, out, row, entry, TIMER, due, TURNED_OFF)
    _release(m, row, b.r_start[rule] + b.local_of[seat])


@_compile
def _hold(m: Memory, row: int, wants: bool, unknown: bool, time_ns: int, delay: int) -> int:
    """A running or standing delay at an evaluation: 0 goes on, 1 is over, -1 is cancelled."""
    if unknown:
        if m.p_due[row] != NEVER:  # a gap does not count as held
            m.p_left[row], m.p_due[row] = max(m.p_due[row] - time_ns, 0), NEVER
        return 0
    if not wants:
        m.p_due[row] = NEVER
        return -1
    if m.p_due[row] == NEVER:
        _arm(m, time_ns + min(m.p_left[row], delay), row << 2 | CONDITION)
    return 0


@_compile
def _begin(m: Memory, rule: int, seat: int, instance: int, phase: int, time_ns: int, value: float) -> int:
    m.tally[0] -= 1
    row = m.free[m.tally[0]]
    m.slot[instance] = row
    m.p_rule[row], m.p_seat[row], m.p_phase[row], m.p_since[row] = rule, seat, phase, time_ns
    m.p_due[row], m.p_heap[row], m.p_value[row], m.p_demand[row] = NEVER, NEVER, value, np.nan
    return row


@_compile
def _judge(b: Book, m: Memory, w: Work, out: Output, rule: int, seat: int, entry: int, phase: int, time_ns: int) -> None:
    """Evaluate one rule on one seat and move its condition."""
    cohort, local = b.cohort_of[seat], b.local_of[seat]
    if b.r_mask[rule] >= 0 and not b.mask[b.r_mask[rule] + local]:
        return
    instance = b.r_start[rule] + local
    row = m.slot[instance]
    if b.r_fast[rule, 3]:
        x = m.latest[_cell(b, b.r_fast[rule, 0], cohort, local)]
        when = calculate.compare(b.r_fast[rule, 1], x, b.r_limit[rule, 0])
        if row < 0 and when == 0.0:
            return
        clear = 1.0 - when if b.r_fast[rule, 2] == 0 else calculate.compare(b.r_fast[rule, 2], x, b.r_limit[rule, 1])
    else:
        when = evaluate(b, m, b.r_when[rule, 0], b.r_when[rule, 1], cohort, local, w.stack)
        if row < 0 and when == 0.0:
            return
        if b.r_clear[rule, 1] > b.r_clear[rule, 0]:
            clear = evaluate(b, m, b.r_clear[rule, 0], b.r_clear[rule, 1], cohort, local, w.stack)
        else:
            clear = 1.0 - when
    if b.r_missing[rule] != HOLD and (np.isnan(when) or np.isnan(clear)):
        is_alarm = b.r_missing[rule] == ALARM
        when = (1.0 if is_alarm else 0.0) if np.isnan(when) else when
        clear = (0.0 if is_alarm else 1.0) if np.isnan(clear) else clear
    leaf = b.r_leaf[rule, 0]
    value = m.latest[_cell(b, leaf, cohort, local)] if leaf >= 0 else np.nan
    if row >= 0 and m.p_due[row] <= time_ns:  # it had held for its whole delay before this
        _end_delay(b, m, out, row, entry)
        row = m.slot[instance]
    if row < 0:
        if when != 1.0:
            return
        row = _begin(m, rule, seat, instance, RAISING if b.r_on[rule] > 0 else ON, time_ns, value)
        _demand(b, m, w, row, rule, cohort, local)
        if b.r_on[rule] > 0:
            _arm(m, time_ns + b.r_on[rule], row << 2 | CONDITION)
        else:
            _say(b, m, out, row, entry, phase, time_ns, TURNED_ON)
        return
    m.p_value[row] = value
    state = m.p_phase[row]
    if state == RAISING:
        if _hold(m, row, when == 1.0, np.isnan(when), time_ns, b.r_on[rule]) < 0:
            _release(m, row, instance)
            return
        _demand(b, m, w, row, rule, cohort, local)
        return
    if state == CLEARING:
        if _hold(m, row, clear == 1.0, np.isnan(clear), time_ns, b.r_off[rule]) < 0:
            m.p_phase[row] = ON
    elif clear == 1.0:
        if b.r_off[rule] == 0:
            m.p_since[row], m.p_demand[row], m.p_phase[row] = time_ns, np.nan, OFF
            _say(b, m, out, row, entry, phase, time_ns, TURNED_OFF)
            _release(m, row, instance)
            return
        m.p_phase[row] = CLEARING
        _arm(m, time_ns + b.r_off[rule], row << 2 | CONDITION)
    if _demand(b, m, w, row, rule, cohort, local):
        _say(b, m, out, row, entry, phase, time_ns, MOVED)


@_compile
def _demand(b: Book, m: Memory, w: Work, row: int, rule: int, cohort: int, local: int) -> bool:
    """Keep what the rule asks for; True when that moved by a step or more."""
    asked = b.r_constant[rule]
    if b.r_value[rule, 1] > b.r_value[rule, 0]:
        asked = evaluate(b, m, b.r_value[rule, 0], b.r_value[rule, 1], cohort, local, w.stack)
    old = m.p_demand[row]
    if np.isnan(asked) or asked == old:
        return False
    if m.p_phase[row] == RAISING or np.isnan(old) or abs(asked - old) >= b.r_step[rule]:
        m.p_demand[row] = asked
        return m.p_phase[row] != RAISING
    return False


@_compile
def _judge_touched(b: Book, m: Memory, w: Work, out: Output, entry: int, phase: int, time_ns: int) -> None:
    """Every rule that reads something touched, once for each seat."""
    n = w.tally[0]
    done = 0
    while done < n:
        # Pairs of one seat mostly stand together; those of a seat met before are judged again, which changes nothing.
        seat = w.t_seat[done]
        m.tally[2] += 1
        stamp = m.tally[2]
        cohort, local = b.cohort_of[seat], b.local_of[seat]
        while done < n and w.t_seat[done] == seat:
            column = w.t_column[done]
            cell = _own_cell(b, column, cohort, local)
            is_calm = m.low[cell] < m.latest[_cell(b, column, cohort, local)] < m.high[cell]
            last = b.plain_ptr[column] if is_calm else b.reader_r_ptr[column + 1]
            for k in range(b.reader_r_ptr[column], last):
                rule = b.reader_r[k]
                if m.mark_r[rule] != stamp:
                    m.mark_r[rule] = stamp
                    _judge(b, m, w, out, rule, seat, entry, phase, time_ns)
            if not is_calm:
                _calm(b, m, column, cell, local)
            done += 1
    w.tally[0] = w.tally[1] = 0
    m.tally[2] += 1


@_compile
def _is_full(m: Memory, w: Work, out: Output) -> bool:
    """One more moment might not find room: for what it says, for conditions that begin, for timers."""
    room = out.tally[1]
    if w.tally[2] + w.tally[4] > len(w.d_entry):
        return True
    return out.tally[0] + room > len(out.rule) or m.tally[0] < room or m.tally[1] + room > len(m.heap_time)


# -- timers ------------------------------------------------------------------------------------------------------------------


@_compile
def _grow_old(b: Book, m: Memory, w: Work, seat: int, time_ns: int) -> None:
    """Values of a seat that were not renewed become unknown; its timer is set to the next one that will."""
    cohort, local = b.cohort_of[seat], b.local_of[seat]
    soonest = NEVER
    for column in range(b.real[cohort, 0], b.real[cohort, 1]):
        cell = _own_cell(b, column, cohort, local)
        length = b.stale_ns[column]
        if length == 0 or np.isnan(m.latest[cell]):
            continue
        due = max(m.last_ns[cell], m.tally[3]) + length
        if due <= time_ns:
            m.latest[cell] = np.nan
            _touch(b, m, w, seat, column)
            _export(b, m, w, seat, column)
        elif due < soonest:
            soonest = due
    m.s_due[seat] = NEVER
    if soonest != NEVER:
        _arm(m, soonest, seat << 2 | SEAT)


@_compile
def _fall_silent(b: Book, m: Memory, w: Work, timer: int, time_ns: int) -> None:
    """A point or a device has said nothing for the length its column asks about; while blind that did not count."""
    v, seat = b.timer_v[timer], b.timer_seat[timer]
    due = m.tally[3] + b.v_length[v]
    m.t_due[timer] = NEVER
    if due > time_ns:
        _arm(m, due, timer << 2 | COLUMN)
    else:
        _fill(b, m, w, seat, b.v_out[v], 1.0)


@_compile
def _ring(b: Book, m: Memory, w: Work, out: Output, entry: int) -> None:
    """The first timer of the heap is due: end the delay of a condition, or touch what has changed by it."""
    time_ns, key = m.heap_time[0], m.heap_key[0]
    _pop(m)
    index, kind = key >> 2, key & 3
    due, heap = (m.p_due, m.p_heap) if kind == CONDITION else (m.s_due, m.s_heap) if kind == SEAT else (m.t_due, m.t_heap)
    if heap[index] != time_ns:
        return  # a place given up for an earlier one
    heap[index] = NEVER
    if due[index] == NEVER:
        return
    if due[index] > time_ns:
        heap[index] = due[index]
        _push(m, due[index], key)
    elif kind == CONDITION:
        _end_delay(b, m, out, index, entry)
    elif kind == SEAT:
        _grow_old(b, m, w, index, time_ns)
    else:
        _fall_silent(b, m, w, index, time_ns)


@_compile
def _say_cell(b: Book, m: Memory, w: Work, k: int, value: float) -> None:
    """Give a cell of the clock its value; what reads it is touched when that is another one."""
    old = m.latest[b.c_cell[k]]
    if value != old and not (np.isnan(value) and np.isnan(old)):
        m.latest[b.c_cell[k]] = value
        _touch(b, m, w, b.c_seat[k], b.c_column[k])
        _export(b, m, w, b.c_seat[k], b.c_column[k])


# -- frames ------------------------------------------------------------------------------------------------------------------


@_compile
def _hear(b: Book, m: Memory, w: Work, seat: int, time_ns: int) -> bool:
    """A device said something, whatever it was; True when that ended a silence."""
    cohort, local, broken = b.cohort_of[seat], b.local_of[seat], False
    for k in range(b.silent_ptr[cohort], b.silent_ptr[cohort + 1]):
        v = b.silent_v[k]
        _arm(m, time_ns + b.v_length[v], (b.v_timer[v] + local) << 2 | COLUMN)
        was = m.latest[_cell(b, b.v_out[v], cohort, local)]
        if was != 0.0:
            _fill(b, m, w, seat, b.v_out[v], 0.0)
            broken |= was == 1.0
    return broken


@_compile
def _frame(b: Book, m: Memory, i: Input, w: Work, f: int, entry: int) -> int:
    """Apply one frame whole; returns the time at which conditions change by it."""
    seat, time_ns = b.seat_of_device[i.device[f]], i.ts_ns[f]
    if seat < 0 or i.use[f] == IGNORED:
        return time_ns
    if _hear(b, m, w, seat, i.time_ns[entry]):
        time_ns = max(time_ns, i.time_ns[entry])
    decides = i.use[f] == DECIDES
    if decides:
        _take(b, m, i, w, f, seat)
    cohort = b.cohort_of[seat]
    if b.has_windows[cohort] and (decides or i.use[f] == COUNTS):
        _count(b, m, i, w, f, seat, decides)
    return time_ns


@_compile
def _take(b: Book, m: Memory, i: Input, w: Work, f: int, seat: int) -> None:
    """Samples of a frame that decides, into their cells."""
    cohort, local, ts_ns, soonest = b.cohort_of[seat], b.local_of[seat], i.ts_ns[f], NEVER
    own = b.base[cohort] + local * b.stride[cohort]  # by hand: to the compiler any of these may change with the state
    is_exporting = b.export_ptr[seat + 1] > b.export_ptr[seat]
    for s in range(i.offsets[f], i.offsets[f + 1]):
        column = b.column_of_point[i.point[s]] if i.point[s] >= 0 else -1
        if column < 0:
            continue
        cell, x = own + column, i.value[s]
        m.latest[cell], m.quality[cell], m.last_ns[cell] = x, i.quality[s], ts_ns
        if b.stale_ns[column] > 0:
            soonest = min(soonest, ts_ns + b.stale_ns[column])
        if _is_news(b, m, column, cell, x):
            _touch(b, m, w, seat, column)
        if is_exporting:
            _export(b, m, w, seat, column)
    for a in range(i.array_ptr[f], i.array_ptr[f + 1]):
        column = b.column_of_array[i.array_point[a]]
        if column < 0:
            continue
        cell, count = _own_cell(b, column, cohort, local), b.member_count[column]
        if i.array_at[a + 1] - i.array_at[a] != count or m.last_ns[cell] == ts_ns:  # of another configuration; a repetition
            continue
        to = b.member_at[column] + local * count
        values, into = i.member[i.array_at[a] : i.array_at[a + 1]], m.member[to : to + count]
        m.latest[cell] = members.take(values, into, b.member_range[column, 0], b.member_range[column, 1])
        m.last_ns[cell] = ts_ns
        if b.stale_ns[column] > 0:
            soonest = min(soonest, ts_ns + b.stale_ns[column])
        _touch(b, m, w, seat, column)
    if soonest < m.s_due[seat]:
        _arm(m, soonest, seat << 2 | SEAT)


@_compile
def _count(b: Book, m: Memory, i: Input, w: Work, f: int, seat: int, decides: bool) -> None:
    """Samples of a frame into the windows over their points. A late one only where it may be counted, and it decides nothing."""
    cohort, local, ts_ns = b.cohort_of[seat], b.local_of[seat], i.ts_ns[f]
    own = b.base[cohort] + local * b.stride[cohort]
    is_exporting = b.export_ptr[seat + 1] > b.export_ptr[seat]
    for s in range(i.offsets[f], i.offsets[f + 1]):
        column = b.column_of_point[i.point[s]] if i.point[s] >= 0 else -1
        if column < 0:
            continue
        x = i.value[s]
        for k in range(b.window_ptr[column], b.window_ptr[column + 1]):
            v = b.window_v[k]
            out = b.v_out[v] if is_index(v) else -1
            cell = own + out
            if not (is_index(out) and is_index(cell)) or (b.v_live_only[v] and not decides):
                continue
            spec = b.v_pane[v]
            pane = pane_at(spec, w.pane, ts_ns)
            value = update_column(spec, b.v_parameter[v], m.pane_f, m.pane_i, m.pane_u, local, ts_ns, pane, x, decides)
            if decides:
                _weigh(b, m, v, cohort, local, value)
                m.latest[cell] = value
                if _is_news(b, m, out, cell, value):
                    _touch(b, m, w, seat, out)
                if is_exporting:
                    _export(b, m, w, seat, out)


@_entry
def run(b: Book, m: Memory, i: Input, w: Work, out: Output, entry: int, frame: int, clock: int) -> tuple[int, int, int]:
    """Walk entries from `entry`, frames from `frame`, moments of the clock from `clock`; stops early when `out` or the pool is full.

    Returns where it stopped; the caller empties `out`, makes room and goes on from there. `out.tally[1]` is the room that one
    moment may need.
    """
    said = np.searchsorted(i.said_entry, entry)
    while entry < len(i.time_ns):
        if _is_full(m, w, out):
            break
        # One moment: what is due before the entry, in order, then the entry itself. All end alike, so that there is one copy of that.
        now, phase, is_sample, until_ns = entry, TIMER, True, i.time_ns[entry]
        w.tally[3] = now
        has_timer = m.tally[1] > 0 and not i.blind and m.heap_time[0] <= until_ns
        has_clock = clock < len(i.clock_ns) and i.clock_ns[clock] <= until_ns
        if has_clock and (
            not has_timer
            or i.clock_ns[clock] < m.heap_time[0]
            or (i.clock_ns[clock] == m.heap_time[0] and m.heap_key[0] & 3 != CONDITION)
        ):
            seen_ns = time_ns = i.clock_ns[clock]
            for k in range(len(b.c_cell)):
                _say_cell(b, m, w, k, i.clock_value[clock, k])
            clock += 1
        elif has_timer:
            seen_ns = time_ns = m.heap_time[0]
            _ring(b, m, w, out, now)
            is_sample = False
        else:
            phase, seen_ns, time_ns = ENTRY, until_ns, until_ns
            while said < len(i.said_entry) and i.said_entry[said] == now:
                _say_cell(b, m, w, i.said_cell[said], i.said_value[said])
                said += 1
            if i.is_frame[now]:
                seen_ns, time_ns = i.ts_ns[frame], _frame(b, m, i, w, frame, now)
                frame += 1
            entry += 1
        if w.tally[0]:
            _settle(b, m, w, seen_ns, is_sample)
            _judge_touched(b, m, w, out, now, phase, time_ns)
    return entry, frame, clock
