"""Statistics over event time: 60 panes aligned to UTC, and what else remembers a series in a bounded place.

One sample costs the same however many the window holds: panes lie in a ring of 64 leaves under 8 groups, and a result adds up the 8
groups. The order of additions is fixed by pane numbers, so it does not hang on how samples were cut into calls, and nothing is ever
subtracted from a sum. Counts are integers, and may be.

The state of all columns is one block of memory, seen as int64, float64 and uint16: what a sample touches lies together. See docs/rules.md
for the meaning of each function.
"""

from math import exp, sqrt
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rules import calculate

Array = NDArray[Any]
_compile = calculate.inner

PANES: Final = 60
LEAVES: Final = 64
GROUPS: Final = 8
TREE: Final = LEAVES + GROUPS
COVERED: Final = 48  # panes between the first counted sample and the newest: four fifths of the window
COUNT_MAX: Final = 65_535  # samples beyond that in one pane are not counted
BINS: Final = 128
NONE: Final = np.iinfo(np.int64).min

MEAN, MIN, MAX, STD, COUNT, RATE, DELTA, SLOPE, SHIFT, QUANTILE, ROBUST_Z, EWMA, CUSUM_HIGH, CUSUM_LOW, HELD = range(15)
HEADER: Final = 8  # words of int64: newest pane, first counted pane, samples counted; a cache line, as are the groups after it
# Words of float64, and numbers of uint16, of a seat's state; int64 beyond the header.
SIZES: Final = {
    MEAN: (TREE, LEAVES, 0),
    MIN: (TREE, 0, 0),
    MAX: (TREE, 0, 0),
    STD: (2 * TREE + 1, LEAVES, 0),
    COUNT: (0, LEAVES, 0),
    RATE: (TREE + 1, 0, 0),
    DELTA: (LEAVES, 0, 0),
    SLOPE: (TREE, LEAVES, 0),
    SHIFT: (TREE, LEAVES, 0),
    QUANTILE: (0, LEAVES * BINS, BINS),
    ROBUST_Z: (0, LEAVES * BINS, BINS),
    EWMA: (1, 0, 0),
    CUSUM_HIGH: (2, 0, 0),
    CUSUM_LOW: (2, 0, 0),
    HELD: (TREE + 1, 0, 0),
}
TAKES_LATE: Final = (MEAN, MIN, MAX, STD, COUNT, QUANTILE)  # the others need samples in order


def words(fn: int) -> int:
    """Length of one seat's state in words of 8 bytes, a whole number of cache lines."""
    f, u, i = SIZES[fn]
    return -(-(HEADER + i + f + u // 4) // 8) * 8


def specification(fn: int, pane_ns: int, first_word: int) -> list[int]:
    """What `update_column` needs to know of a column whose seats lie from `first_word` on."""
    f, _, i = SIZES[fn]
    return [fn, pane_ns, first_word, words(fn), HEADER + i, 4 * (HEADER + i + f), 0, 0]


def clean(fn: int, state: Array) -> None:
    """Set seats to "nothing seen". state: (seats, words) int64, which also holds the float64 and uint16 parts."""
    f, _, i = SIZES[fn]
    numbers = state[:, HEADER + i : HEADER + i + f].view(np.float64)
    state[...] = 0
    if fn in (MIN, MAX):
        numbers[...] = np.inf if fn == MIN else -np.inf
    elif fn in (DELTA, EWMA):
        numbers[...] = np.nan
    if fn in (RATE, HELD):
        numbers[:, TREE] = np.nan
    state[:, : 1 if fn in (CUSUM_HIGH, CUSUM_LOW, EWMA) else 2] = NONE


@_compile
def _of_eight(f: Array, at: int, fn: int) -> float:
    """Sum, least or greatest of eight numbers, pair by pair: the order is a part of the result."""
    a, b, c, d = f[at], f[at + 1], f[at + 2], f[at + 3]
    e, g, h, k = f[at + 4], f[at + 5], f[at + 6], f[at + 7]
    if fn == MIN:
        return min(min(min(a, b), min(c, d)), min(min(e, g), min(h, k)))
    if fn == MAX:
        return max(max(max(a, b), max(c, d)), max(max(e, g), max(h, k)))
    return ((a + b) + (c + d)) + ((e + g) + (h + k))


@_compile
def _group(f: Array, at: int, slot: int, fn: int) -> None:
    """Bring the group over a leaf up to date."""
    g = slot >> 3
    f[at + g] = _of_eight(f, at + GROUPS + (g << 3), fn)


@_compile
def _root(f: Array, at: int, fn: int) -> float:
    return _of_eight(f, at, fn)


@_compile
def _empty(slot: int, fn: int, f: Array, fo: int, i: Array, io: int, u: Array, uo: int) -> None:
    """Forget one pane."""
    if fn == QUANTILE or fn == ROBUST_Z:
        for k in range(BINS):
            n = u[uo + slot * BINS + k]
            if n:
                i[io + 2] -= n
                i[io + HEADER + k] -= n
                u[uo + slot * BINS + k] = 0
        return
    if fn == MEAN or fn == STD or fn == COUNT or fn == SLOPE or fn == SHIFT:
        i[io + 2] -= u[uo + slot]
        u[uo + slot] = 0
    if fn == DELTA:
        f[fo + slot] = np.nan
    elif fn == MIN or fn == MAX:
        f[fo + GROUPS + slot] = np.inf if fn == MIN else -np.inf
    elif fn != COUNT:
        f[fo + GROUPS + slot] = 0.0
        if fn == STD:
            f[fo + TREE + GROUPS + slot] = 0.0


@_compile
def _advance(fn: int, pane: int, f: Array, fo: int, i: Array, io: int, u: Array, uo: int) -> None:
    """Move the window's newest pane on: panes that left it are emptied, groups over them recounted."""
    head = i[io]
    leaving = min(pane - head, PANES) if head != NONE else PANES
    if leaving == PANES:
        i[io + 1] = NONE
    first = head - PANES + 1 if head != NONE else 0
    touched = 0
    for k in range(leaving if head != NONE else 0):
        slot = (first + k) & (LEAVES - 1)
        _empty(slot, fn, f, fo, i, io, u, uo)
        touched |= 1 << (slot >> 3)
    has_tree = fn != COUNT and fn != DELTA and fn != QUANTILE and fn != ROBUST_Z
    if has_tree:
        for g in range(GROUPS):
            if touched >> g & 1:
                _group(f, fo, g << 3, fn)
                if fn == STD:
                    _group(f, fo + TREE, g << 3, fn)
    i[io] = pane


@_compile
def _insert(fn: int, slot: int, x: float, parameter: Array, f: Array, fo: int, i: Array, io: int, u: Array, uo: int) -> None:
    """Count one finite sample in a pane."""
    if fn == MIN or fn == MAX:
        at = fo + GROUPS + slot
        if (fn == MIN and x < f[at]) or (fn == MAX and x > f[at]):
            f[at] = x
            _group(f, fo, slot, fn)
        return
    if fn == DELTA:
        if np.isnan(f[fo + slot]):
            f[fo + slot] = x
        return
    if fn == QUANTILE or fn == ROBUST_Z:
        k = _bin(x, parameter)
        if u[uo + slot * BINS + k] < COUNT_MAX:
            u[uo + slot * BINS + k] += 1
            i[io + HEADER + k] += 1
            i[io + 2] += 1
        return
    if fn == RATE:
        last = f[fo + TREE]
        f[fo + TREE] = x
        if x > last:  # a counter that fell was reset: what it counted meanwhile is not known
            f[fo + GROUPS + slot] += x - last
            _group(f, fo, slot, fn)
        return
    if u[uo + slot] == COUNT_MAX:
        return
    u[uo + slot] += 1
    i[io + 2] += 1
    if fn == COUNT:
        return
    if fn == STD:
        d = x - f[fo + 2 * TREE]
        f[fo + GROUPS + slot] += d
        f[fo + TREE + GROUPS + slot] += d * d
        _group(f, fo, slot, fn)
        _group(f, fo + TREE, slot, fn)
    else:
        f[fo + GROUPS + slot] += x
        _group(f, fo, slot, fn)


@_compile
def _bin(x: float, parameter: Array) -> int:
    return min(max(int((x - parameter[1]) / parameter[2] * BINS), 0), BINS - 1)


@calculate.bare(cache=True, nogil=True, _nrt=False)
def update_column(
    spec: Array, parameter: Array, f: Array, i: Array, u: Array, local: int, time_ns: int, x: float, decides: bool
) -> float:
    """Take a sample of one seat, and give the function's value after it (NaN = unknown; always for one that does not decide).

    A sample that is not finite moves time on and is not counted. One that does not decide (late) is counted in its pane, if the
    window still holds that.
    """
    fn, io = spec[0], spec[2] + local * spec[3]
    fo, uo = io + spec[4], 4 * io + spec[5]
    if fn == EWMA:
        return _smooth(parameter, f, fo, i, io, time_ns, x)
    if fn == CUSUM_HIGH or fn == CUSUM_LOW:
        return _cusum(fn, spec[1], parameter, f, fo, i, io, time_ns, x)
    pane = i[io]
    if pane == NONE or time_ns < pane * spec[1] or time_ns - pane * spec[1] >= spec[1]:
        pane = time_ns // spec[1]
    if fn == HELD:
        return _held(spec, parameter, f, fo, i, io, u, uo, time_ns, pane, x)
    if i[io] == NONE or pane > i[io]:
        _advance(fn, pane, f, fo, i, io, u, uo)
    if np.isfinite(x) and pane > i[io] - PANES:
        if i[io + 1] == NONE:
            if fn == STD:
                f[fo + 2 * TREE] = x
            if fn == RATE:
                f[fo + TREE] = x
        if i[io + 1] == NONE or pane < i[io + 1]:
            i[io + 1] = pane
        _insert(fn, pane & (LEAVES - 1), x, parameter, f, fo, i, io, u, uo)
    if not decides or i[io + 1] == NONE or i[io] - i[io + 1] < COVERED:
        return np.nan
    return _result(fn, spec, parameter, f, fo, i, io, u, uo, x)


@_compile
def _result(fn: int, spec: Array, parameter: Array, f: Array, fo: int, i: Array, io: int, u: Array, uo: int, x: float) -> float:
    n = i[io + 2]
    if fn == MEAN:
        return _root(f, fo, fn) / n if n > 0 else np.nan
    if fn == MIN or fn == MAX:
        extreme = _root(f, fo, fn)
        return extreme if np.isfinite(extreme) else np.nan
    if fn == COUNT:
        return float(n)
    if fn == STD:
        if n < 2:
            return np.nan
        m = _root(f, fo, fn) / n
        return sqrt(max(_root(f, fo + TREE, fn) / n - m * m, 0.0))
    if fn == RATE:
        return _root(f, fo, fn) / (PANES * spec[1] / 60e9)
    if fn == DELTA:
        for k in range(PANES - 1, -1, -1):
            first = f[fo + ((i[io] - k) & (LEAVES - 1))]
            if not np.isnan(first):
                return x - first
        return np.nan
    if fn == SLOPE:
        return _slope(spec, f, fo, i, io, u, uo)
    if fn == SHIFT:
        return _mean_of(f, fo, i, io, u, uo, 0, PANES // 2) - _mean_of(f, fo, i, io, u, uo, PANES // 2, PANES)
    if n == 0:
        return np.nan
    if fn == QUANTILE:
        return _quantile(i, io, n, parameter[0], parameter)
    return _robust_z(i, io, n, parameter, x)


@_compile
def _mean_of(f: Array, fo: int, i: Array, io: int, u: Array, uo: int, newest: int, oldest: int) -> float:
    """Mean of the panes from `newest` to before `oldest`, counted back from the newest."""
    n, total = 0, 0.0
    for k in range(newest, oldest):
        slot = (i[io] - k) & (LEAVES - 1)
        n += u[uo + slot]
        total += f[fo + GROUPS + slot]
    return total / n if n > 0 else np.nan


@_compile
def _slope(spec: Array, f: Array, fo: int, i: Array, io: int, u: Array, uo: int) -> float:
    """Least squares through the panes' means, weighted by their samples; per minute."""
    n, st, sx, stt, stx = 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(PANES):
        slot = (i[io] - k) & (LEAVES - 1)
        w = float(u[uo + slot])
        n += w
        st -= k * w
        stt += k * k * w
        x = f[fo + GROUPS + slot]
        sx += x
        stx -= k * x
    spread = n * stt - st * st
    return (n * stx - st * sx) / spread / (spec[1] / 60e9) if spread > 0.0 else np.nan


@_compile
def _quantile(i: Array, io: int, n: int, q: float, parameter: Array) -> float:
    """The q-th quantile from the bins, straight lines within one; off by at most a bin (1/128 of the range)."""
    wanted, seen = q * n, 0
    for k in range(BINS):
        m = i[io + HEADER + k]
        if m > 0 and seen + m >= wanted:
            return parameter[1] + parameter[2] * (k + (wanted - seen) / m) / BINS
        seen += m
    return np.nan


@_compile
def _robust_z(i: Array, io: int, n: int, parameter: Array, x: float) -> float:
    """0.6745 (x - median) / MAD, with at least one bin for the MAD."""
    median = _quantile(i, io, n, 0.5, parameter)
    width = parameter[2] / BINS
    centre = (median - parameter[1]) / width - 0.5
    low, high, seen, reach = int(np.floor(centre)), int(np.floor(centre)) + 1, 0, 0.0
    while 2 * seen < n and (low >= 0 or high < BINS):
        if high >= BINS or (low >= 0 and centre - low <= high - centre):
            seen += i[io + HEADER + low]
            reach = centre - low
            low -= 1
        else:
            seen += i[io + HEADER + high]
            reach = high - centre
            high += 1
    return 0.6745 * (x - median) / (max(reach, 1.0) * width)


@_compile
def _smooth(parameter: Array, f: Array, fo: int, i: Array, io: int, time_ns: int, x: float) -> float:
    """Exponentially weighted mean: by time constant (parameter 1, s), or by a fixed weight of each sample (parameter 0)."""
    if not np.isfinite(x):
        return f[fo]
    if i[io] == NONE or np.isnan(f[fo]):
        f[fo] = x
    elif time_ns > i[io]:
        weight = parameter[0] if parameter[0] > 0.0 else 1.0 - exp(-(time_ns - i[io]) * 1e-9 / parameter[1])
        f[fo] += weight * (x - f[fo])
    i[io] = max(i[io], time_ns)
    return f[fo]


@_compile
def _cusum(fn: int, period_ns: int, parameter: Array, f: Array, fo: int, i: Array, io: int, time_ns: int, x: float) -> float:
    """Page's one-sided sum of (mean of a period - target) / sigma beyond k. Parameters: target, sigma, k."""
    if not np.isfinite(x):
        return f[fo] if i[io + 2] > 0 else np.nan
    period = time_ns // period_ns if period_ns > 0 else time_ns
    if i[io] == NONE:
        i[io] = period
    if period_ns == 0:
        f[fo] = _cusum_step(fn, f[fo], x, parameter)
        i[io + 2] += 1
        return f[fo]
    if period > i[io]:
        f[fo] = _cusum_step(fn, f[fo], f[fo + 1] / i[io + 1], parameter) if i[io + 1] > 0 else f[fo]
        i[io + 2] += 1
        i[io], i[io + 1], f[fo + 1] = period, 0, 0.0
    if period == i[io]:
        i[io + 1] += 1
        f[fo + 1] += x
    return f[fo] if i[io + 2] > 0 else np.nan


@_compile
def _cusum_step(fn: int, c: float, x: float, parameter: Array) -> float:
    u = (x - parameter[0]) / parameter[1]
    return max(0.0, c + (u if fn == CUSUM_HIGH else -u) - parameter[2])


@_compile
def _held(
    spec: Array, parameter: Array, f: Array, fo: int, i: Array, io: int, u: Array, uo: int, time_ns: int, pane: int, x: float
) -> float:
    """For how long a condition was true in the window, in seconds, against parameter 0. Parameter 1: longest gap that counts [s]."""
    last_ns, was = i[io + 3], f[fo + TREE]
    if i[io] == NONE or pane > i[io]:
        _advance(HELD, pane, f, fo, i, io, u, uo)
    if was == 1.0 and time_ns > last_ns and time_ns - last_ns <= parameter[1] * 1e9:
        at = max(last_ns, (pane - PANES + 1) * spec[1])
        while at < time_ns:
            p = at // spec[1]
            until = min(time_ns, (p + 1) * spec[1])
            slot = p & (LEAVES - 1)
            f[fo + GROUPS + slot] += (until - at) * 1e-9
            _group(f, fo, slot, HELD)
            at = until
    if time_ns >= last_ns or np.isnan(was):
        i[io + 3], f[fo + TREE] = time_ns, x
    if i[io + 1] == NONE and not np.isnan(x):
        i[io + 1] = pane
    if _root(f, fo, HELD) >= parameter[0]:
        return 1.0
    return 0.0 if i[io + 1] != NONE and i[io] - i[io + 1] >= COVERED else np.nan
