"""Members of array points (1,824 spindles): expressions over all of them, and what is remembered of each.

An expression is evaluated operation by operation over a block of members, so that each operation is one pass that the processor does
several members at a time. What is remembered lies member by member in rows, for the same reason.

A seat's state is a header and rows of one word per member. HELD: for how long the condition has held [ns], as -1 - that while it is
not true. RISE: pane of the first value that counted, last value, sum of the closed panes, and the rise in each pane.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rules import calculate
from rules.calculate import ABS, CHOOSE, CLAMP, CONST, KNOWN, LOAD, MEMBER, NEGATE, NOT, QUALITY
from rules.panes import NONE

Array = NDArray[Any]
_compile = calculate.inner
_apart = calculate.bare(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False, error_model="numpy")

HELD, RISE = 0, 1
BLOCK: Final = 256
PANES: Final = 12  # of a rise
COVERED: Final = 10  # of them, before it is known
HEADER: Final = 8  # words: time of the last look (HELD), newest pane (RISE)
_ROWS: Final = {HELD: 1, RISE: 3 + PANES}  # words for each member


def words(fn: int, members: int) -> int:
    """Length of one seat's state in words of 8 bytes."""
    return HEADER + members * _ROWS[fn]


def specification(fn: int, length_ns: int, first_word: int, members: int, gap_ns: int) -> list[int]:
    """What `update` needs to know of a column whose seats lie from `first_word` on; begins as that of rules/panes.py."""
    return [fn, length_ns if fn == HELD else length_ns // PANES, first_word, words(fn, members), members, gap_ns, 0, 0, 0]


def clean(fn: int, state: Array) -> None:
    """Set seats to "nothing seen". state: (seats, words) int64."""
    state[...] = 0
    state[:, 0] = NONE
    members = (state.shape[1] - HEADER) // _ROWS[fn]
    state[:, HEADER : HEADER + members] = -1 if fn == HELD else NONE


# -- expressions -------------------------------------------------------------------------------------------------------------


def _pass_of(op: int) -> Callable[[Array, Array], None]:
    """One operation of two rows, compiled by itself: the operation is a constant, and the loop has no branches."""

    @_apart
    def run(x: Array, y: Array) -> None:
        for k in range(len(x)):
            x[k] = calculate.simple(op, x[k], y[k])

    return run


_add, _subtract, _multiply = (_pass_of(op) for op in (calculate.ADD, calculate.SUBTRACT, calculate.MULTIPLY))
_less, _less_equal, _greater, _greater_equal = (_pass_of(op) for op in range(calculate.LESS, calculate.GREATER_EQUAL + 1))
_and, _or = _pass_of(calculate.AND), _pass_of(calculate.OR)


@_apart
def _combine(op: int, x: Array, y: Array) -> None:
    """x becomes x op y. The usual operations have a pass of their own."""
    if op == calculate.ADD:
        _add(x, y)
    elif op == calculate.SUBTRACT:
        _subtract(x, y)
    elif op == calculate.MULTIPLY:
        _multiply(x, y)
    elif op == calculate.LESS:
        _less(x, y)
    elif op == calculate.LESS_EQUAL:
        _less_equal(x, y)
    elif op == calculate.GREATER:
        _greater(x, y)
    elif op == calculate.GREATER_EQUAL:
        _greater_equal(x, y)
    elif op == calculate.AND:
        _and(x, y)
    elif op == calculate.OR:
        _or(x, y)
    else:
        for k in range(len(x)):
            x[k] = calculate.combine(op, x[k], y[k])


@_apart
def _copy(x: Array, into: Array) -> None:
    for k in range(len(into)):
        into[k] = x[k]


@_apart
def _evaluate(b: Any, m: Any, start: int, stop: int, cohort: int, local: int, first: int, n: int, rows: Array) -> None:
    """Run code[start:stop] for n members of a seat from `first` on, into rows[0]."""
    top = 0
    for pc in range(start, stop):
        op, arg = b.op[pc], b.argument[pc]
        if op == MEMBER:
            row = rows[top, :n]
            if np.isnan(m.latest[b.base[cohort] + local * b.stride[cohort] + arg]):  # never came, or grew old
                row[:] = np.nan
            else:
                _copy(m.member[b.member_at[arg] + local * b.member_count[arg] + first :], row)
            top += 1
        elif op == LOAD or op == CONST or op == QUALITY or op == KNOWN:
            rows[top, :n] = calculate.read(b, m, op, arg, cohort, local)
            top += 1
        elif op == NEGATE or op == ABS or op == NOT:
            row = rows[top - 1, :n]
            for k in range(n):
                row[k] = calculate.alone(op, row[k])
        elif op == CLAMP or op == CHOOSE:
            top -= 2
            row = rows[top - 1, :n]
            for k in range(n):
                row[k] = calculate.of_three(op, row[k], rows[top, k], rows[top + 1, k])
        else:
            top -= 1
            _combine(op, rows[top - 1, :n], rows[top, :n])


# -- what is remembered of each member ---------------------------------------------------------------------------------------


@_apart
def take(values: Array, into: Array, low: float, high: float) -> int:
    """Members of a new array; what is no number or out of the point's range is unknown. Returns how many are known."""
    known = 0
    for k in range(len(into)):
        x = values[k]
        is_good = low <= x <= high and np.isfinite(x)
        into[k] = x if is_good else np.nan
        known += is_good
    return known


@_apart
def update(b: Any, m: Any, w: Any, v: int, cohort: int, local: int, time_ns: int, is_sample: bool) -> float:
    """The value of a column that looks at members: of a group function over them, those that are unknown counting neither way, or, of
    what is remembered of each, how many are known; they go into the column's members.

    What grew old is no sample: it makes members unknown, and nothing is counted.
    """
    spec, to = b.v_pane[v], b.member_at[b.v_out[v]]
    fn, at, members = spec[0], spec[2] + local * spec[3], spec[4]
    waited, moved = 0, False
    if to >= 0 and is_sample and fn == HELD:
        waited = _wait(m, at, time_ns, spec[5])
    elif to >= 0 and is_sample:
        moved = _advance(m, at, members, time_ns // spec[1])
    n, total, low, high, place = 0, 0.0, np.inf, -np.inf, 0
    for first in range(0, members, BLOCK):
        size = min(BLOCK, members - first)
        _evaluate(b, m, b.v_code[v, 0], b.v_code[v, 1], cohort, local, first, size, w.rows)
        x, rows = w.rows[0, :size], at + HEADER + first
        if to >= 0:
            out = m.member[to + local * members + first : to + local * members + first + size]
            if not is_sample:
                _blank(x, out)
            elif fn == HELD:
                _hold(x, out, m.pane_i[rows : rows + size], waited, spec[1])
            else:
                _rise(m, x, out, rows, members, time_ns // spec[1], m.pane_i[at], moved)
            n += _count(out)
            continue
        for k in range(size):
            if np.isnan(x[k]):
                continue
            if fn == calculate.G_MEDIAN:
                w.known[n] = x[k]
            n += 1
            total += x[k]
            low = min(low, x[k])
            if x[k] > high:
                high, place = x[k], first + k
    return float(n) if to >= 0 else calculate.summary(fn, n, members - n, total, low, high, place, w.known)


@_apart
def _count(x: Array) -> int:
    known = 0
    for k in range(len(x)):
        known += not np.isnan(x[k])
    return known


@_apart
def _blank(x: Array, out: Array) -> None:
    for k in range(len(x)):
        out[k] = np.nan if np.isnan(x[k]) else out[k]


@_apart
def _wait(m: Any, at: int, time_ns: int, longest: int) -> int:
    """How long a seat's conditions held since the last look, which is now; a gap does not count."""
    last = m.pane_i[at]
    m.pane_i[at] = max(last, time_ns)
    return time_ns - last if last != NONE and 0 < time_ns - last <= longest else 0


@_apart
def _hold(c: Array, out: Array, held: Array, waited: int, wanted: int) -> None:
    """For how long conditions have been true without a break; the time stands still while one is unknown."""
    for k in range(len(c)):
        so_far = held[k] + waited if held[k] >= 0 else -1 - held[k]
        held[k] = so_far if c[k] == 1.0 else -1 if c[k] == 0.0 else -1 - so_far
        out[k] = np.nan if np.isnan(c[k]) else 1.0 if c[k] == 1.0 and so_far >= wanted else 0.0


@_apart
def _advance(m: Any, at: int, members: int, pane: int) -> bool:
    """Empty the panes that left a seat's window; True when the closed ones have to be added up anew."""
    head, rows = m.pane_i[at], at + HEADER
    if head == NONE:
        m.pane_i[at] = pane
        return True
    if pane <= head:
        return pane < head
    for p in range(max(head + 1, pane - PANES + 1), pane + 1):
        row = rows + (3 + p % PANES) * members
        m.pane_f[row : row + members] = 0.0
    if pane - head >= PANES:
        m.pane_i[rows : rows + members] = NONE
    m.pane_i[at] = pane
    return True


@_apart
def _rise(m: Any, x: Array, out: Array, rows: int, members: int, pane: int, head: int, moved: bool) -> None:
    """What counters rose in the window; one that fell was reset, and nothing counts."""
    n, counts = len(x), pane > head - PANES
    begun, last, closed = m.pane_i[rows : rows + n], m.pane_f[rows + members :], m.pane_f[rows + 2 * members :]
    mine, newest = m.pane_f[rows + (3 + pane % PANES) * members :], m.pane_f[rows + (3 + head % PANES) * members :]
    for k in range(n if counts else 0):
        if np.isnan(x[k]):
            continue
        if begun[k] == NONE:
            begun[k] = pane
        elif x[k] > last[k]:
            mine[k] += x[k] - last[k]
        last[k] = x[k]
    if moved:
        closed[:n] = 0.0
        for slot in range(PANES):
            if slot != head % PANES:
                row = rows + (3 + slot) * members
                for k in range(n):
                    closed[k] += m.pane_f[row + k]
    for k in range(n):
        is_covered = begun[k] != NONE and head - begun[k] >= COVERED
        out[k] = closed[k] + newest[k] if is_covered and not np.isnan(x[k]) else np.nan
