"""Expressions as code for a small stack machine, and the formulas it knows; scalar, compiled, the same with and without numba.

Unknown is NaN: what is not finite, a division by zero, an overflow. Conditions are 1.0, 0.0 or NaN, joined by Kleene's logic.
Derived values are rounded to 2^-20 of their unit, so that thresholds are compared above the noise of exp and log.
"""

from math import exp, lgamma, log
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.psychrometrics import GAS_CONSTANT_VAPOUR, MOLAR_RATIO, PRESSURE_PA, PSYCHROMETER_PER_K, ZERO_C_K
from telemetry.quality import BAD, DISAGREEMENT, GOOD, LEVEL_MASK, NOT_A_NUMBER, REASON_MASK, SUBSTITUTED, UNCERTAIN

Array = NDArray[Any]
_compile = njit(cache=True, nogil=True)
_inline = njit(cache=True, nogil=True, inline="always")
bare: Any = njit  # its published type does not know the two words
# For what only compiled code calls: wrappers that take the loop's arrays from Python would double the time of compilation.
inner = bare(cache=True, nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=False, forceinline=True)

(
    CONST, LOAD, QUALITY, NEGATE, ADD, SUBTRACT, MULTIPLY, DIVIDE, ABS, MIN, MAX, CLAMP, CHOOSE, LESS, LESS_EQUAL, GREATER,
    GREATER_EQUAL, EQUAL, NOT_EQUAL, AND, OR, NOT, VPD, DEW_POINT, ABS_HUMIDITY, ENTHALPY, WET_BULB, THI, POISSON, KNOWN, MEMBER,
) = range(31)  # fmt: skip
READS: Final = (LOAD, QUALITY, KNOWN, MEMBER)  # whose argument is a column
STACK: Final = 64  # deeper than any expression may be nested

# Of a group of cells, or of members: G_WORST is the number of the greatest, G_FIRST of the first that is true.
G_ANY, G_ALL, G_COUNT, G_SUM, G_MEAN, G_MIN, G_MAX, G_MEDIAN, G_SPREAD, G_WORST, G_FIRST, G_VOTE = range(12)

# The formulas of telemetry/psychrometrics.py for one value at a time; a test holds that both give the same after rounding.


@_compile
def _saturation(t: float) -> float:
    return 610.8 * exp(17.27 * t / (t + 237.3)) if t > -237.3 else np.nan


@_compile
def _vpd(t: float, rh: float) -> float:
    return _saturation(t) * (1.0 - rh / 100.0) / 1000.0


@_compile
def _dew_point(t: float, rh: float) -> float:
    vapour = _saturation(t) * rh / 100.0
    if not vapour > 0.0:
        return np.nan
    y = log(vapour / 610.8)
    return 237.3 * y / (17.27 - y)


@_compile
def _abs_humidity(t: float, rh: float) -> float:
    return 1000.0 * (_saturation(t) * rh / 100.0) / (GAS_CONSTANT_VAPOUR * (t + ZERO_C_K))


@_compile
def _enthalpy(t: float, rh: float) -> float:
    vapour = _saturation(t) * rh / 100.0
    dry = PRESSURE_PA - vapour
    return 1.006 * t + MOLAR_RATIO * vapour / dry * (2501.0 + 1.86 * t) if dry > 0.0 else np.nan


@_compile
def _wet_bulb(t: float, rh: float) -> float:
    gamma = PSYCHROMETER_PER_K * PRESSURE_PA
    vapour = _saturation(t) * rh / 100.0
    wet = t
    for _ in range(16):
        saturation = _saturation(wet)
        slope = saturation * 17.27 * 237.3 / (wet + 237.3) ** 2
        wet = wet - (saturation - gamma * (t - wet) - vapour) / (slope + gamma)
    return wet


@_compile
def _thi(t: float, rh: float) -> float:
    return 0.8 * t + rh / 100.0 * (t - 14.4) + 46.4


@_inline
def compare(op: int, a: float, b: float) -> float:
    """A comparison by its operator: 1.0, 0.0, or NaN when either side is unknown."""
    if np.isnan(a) or np.isnan(b):
        return np.nan
    if op == GREATER:
        return 1.0 if a > b else 0.0
    if op == LESS:
        return 1.0 if a < b else 0.0
    if op == GREATER_EQUAL:
        return 1.0 if a >= b else 0.0
    if op == LESS_EQUAL:
        return 1.0 if a <= b else 0.0
    if op == EQUAL:
        return 1.0 if a == b else 0.0
    return 1.0 if a != b else 0.0


@_inline
def _finite(x: float) -> float:
    return x if np.isfinite(x) else np.nan


@_inline
def _rounded(x: float) -> float:
    y = x * 1048576.0
    return np.rint(y) / 1048576.0 if np.isfinite(y) else np.nan


@_compile
def poisson_significance(count: float, expected: float) -> float:
    """-log10 of the chance that a Poisson process of mean `expected` gives `count` or more: 3 = one in a thousand."""
    if np.isnan(count) or np.isnan(expected) or expected < 0.0:
        return np.nan
    k = np.ceil(count)
    if k <= 0.0:
        return 0.0
    if expected == 0.0:
        return 300.0
    # The tail from k on, relative to its first term: sum of products expected / (k + j).
    term, total, j = 1.0, 1.0, 1.0
    if k > expected:
        while term > 1e-17 * total and j < 10_000.0:
            term *= expected / (k + j)
            total += term
            j += 1.0
        return -(k * log(expected) - expected - lgamma(k + 1.0) + log(total)) / log(10.0)
    term, total = exp(-expected) if expected < 700.0 else 0.0, 0.0
    if term == 0.0:
        return 0.0
    for n in range(int(k)):
        total += term
        term *= expected / (n + 1.0)
    return -log(max(1.0 - total, 1e-300)) / log(10.0)


@inner
def read(b: Any, m: Any, op: int, arg: int, cohort: int, local: int) -> float:
    """What LOAD, QUALITY, KNOWN and CONST put on the stack for one seat of a cohort."""
    if op == CONST:
        return b.constant[arg]
    at = b.import_at[arg]
    cell = b.base[cohort] + local * b.stride[cohort] + arg if at < 0 else b.import_cells[at + local]
    if op == LOAD:
        return _finite(m.latest[cell])
    if op == QUALITY:
        return float(m.quality[cell] & LEVEL_MASK)
    return 0.0 if np.isnan(m.latest[cell]) else 1.0


@inner
def simple(op: int, x: float, y: float) -> float:
    """Comparison, logic or arithmetic."""
    if LESS <= op <= NOT_EQUAL:
        return compare(op, x, y)
    if op == AND or op == OR:
        decisive = 1.0 if op == OR else 0.0
        return decisive if x == decisive or y == decisive else np.nan if np.isnan(x) or np.isnan(y) else 1.0 - decisive
    if op == ADD:
        return _finite(x + y)
    if op == SUBTRACT:
        return _finite(x - y)
    if op == MULTIPLY:
        return _finite(x * y)
    return _finite(x / y) if y != 0.0 else np.nan


@inner
def formula(op: int, x: float, y: float) -> float:
    """MIN, MAX, psychrometrics, significance: unknown when either value is."""
    if np.isnan(x) or np.isnan(y):
        return np.nan
    if op == MIN:
        return min(x, y)
    if op == MAX:
        return max(x, y)
    if op == VPD:
        return _rounded(_vpd(x, y))
    if op == DEW_POINT:
        return _rounded(_dew_point(x, y))
    if op == ABS_HUMIDITY:
        return _rounded(_abs_humidity(x, y))
    if op == ENTHALPY:
        return _rounded(_enthalpy(x, y))
    if op == WET_BULB:
        return _rounded(_wet_bulb(x, y))
    if op == THI:
        return _rounded(_thi(x, y))
    return _rounded(poisson_significance(x, y))


@inner
def combine(op: int, x: float, y: float) -> float:
    """An operation on two values."""
    return simple(op, x, y) if op < MIN or LESS <= op <= OR else formula(op, x, y)


@inner
def alone(op: int, x: float) -> float:
    """NEGATE, ABS or NOT of one value."""
    return -x if op == NEGATE else abs(x) if op == ABS else 1.0 - x


@inner
def of_three(op: int, x: float, y: float, z: float) -> float:
    """CLAMP: x moved into y..z; CHOOSE: y where x is true, z where it is false."""
    if op == CLAMP:
        return np.nan if np.isnan(x) or np.isnan(y) or np.isnan(z) else min(max(x, y), z)
    return y if x == 1.0 else z if x == 0.0 else np.nan


@inner
def evaluate(b: Any, m: Any, start: int, stop: int, cohort: int, local: int, stack: Array) -> float:
    """Run code[start:stop] for one seat of a cohort."""
    n = 0
    for pc in range(start, stop):
        op, arg = b.op[pc], b.argument[pc]
        if op == LOAD or op == CONST or op == QUALITY or op == KNOWN:
            stack[n] = read(b, m, op, arg, cohort, local)
            n += 1
        elif op == NEGATE or op == ABS or op == NOT:
            stack[n - 1] = alone(op, stack[n - 1])
        elif op == CLAMP or op == CHOOSE:
            n -= 2
            stack[n - 1] = of_three(op, stack[n - 1], stack[n], stack[n + 1])
        else:
            n -= 1
            stack[n - 1] = combine(op, stack[n - 1], stack[n])
    return stack[0]


@inner
def _sort(values: Array, n: int) -> None:
    """The first n values in place (Shell's way: no memory, and quick for the few devices of a group)."""
    gap = n // 2
    while gap > 0:
        for i in range(gap, n):
            x, j = values[i], i
            while j >= gap and values[j - gap] > x:
                values[j] = values[j - gap]
                j -= gap
            values[j] = x
        gap = gap // 2 if gap != 2 else 1


@inner
def summary(fn: int, n: int, unknown: int, total: float, low: float, high: float, place: int, known: Array) -> float:
    """A function of n known values: their sum, extremes, the place of the (first) greatest, and for the median themselves."""
    if fn == G_ANY:
        return 1.0 if high == 1.0 else np.nan if unknown or n == 0 else 0.0
    if fn == G_ALL:
        return 0.0 if low == 0.0 else np.nan if unknown or n == 0 else 1.0
    if n == 0:
        return np.nan
    if fn == G_COUNT or fn == G_SUM:
        return total
    if fn == G_MEAN:
        return total / n
    if fn == G_MIN or fn == G_MAX:
        return low if fn == G_MIN else high
    if fn == G_SPREAD:
        return high - low
    if fn == G_WORST or fn == G_FIRST:
        return 0.0 if fn == G_FIRST and high != 1.0 else place + 1.0
    return _median(known, n)


@inner
def _median(known: Array, n: int) -> float:
    _sort(known, n)
    return known[n // 2] if n % 2 else 0.5 * (known[n // 2 - 1] + known[n // 2])


@inner
def vote(cells: Array, tolerance: float, latest: Array, quality: Array, known: Array) -> tuple[float, int]:
    """(value, quality) of redundant sensors in the order of preference.

    Three GOOD ones or more: their median. Two: the first, doubted when they differ by more than the tolerance. One: that one. None: the
    first UNCERTAIN one. What the first sensor has no part in is a substitute, and UNCERTAIN.
    """
    n, first, doubtful = 0, -1, -1
    for k in range(len(cells)):
        x = latest[cells[k]]
        if not np.isfinite(x):
            continue
        if quality[cells[k]] & LEVEL_MASK == GOOD:
            known[n] = x
            n += 1
            first = k if first < 0 else first
        elif doubtful < 0:
            doubtful = k
    if n == 0 and doubtful < 0:
        return np.nan, BAD | NOT_A_NUMBER
    used = first if n > 0 else doubtful
    q = GOOD if used == 0 else UNCERTAIN | SUBSTITUTED
    if n == 0:
        return latest[cells[used]], join_quality(q, quality[cells[used]])
    if n == 2 and abs(known[0] - known[1]) > tolerance:
        q |= UNCERTAIN | DISAGREEMENT
    return (_median(known, n) if n > 2 else known[0]), q


@inner
def join_quality(a: int, b: int) -> int:
    """The worse level, with the reasons of both."""
    return (a | b) & REASON_MASK | max(a & LEVEL_MASK, b & LEVEL_MASK)


@inner
def code_quality(b: Any, m: Any, start: int, stop: int, cohort: int, local: int) -> int:
    """The quality of what code[start:stop] gives on a seat: that of all known values it reads, together."""
    q = GOOD
    for pc in range(start, stop):
        if b.op[pc] == LOAD or b.op[pc] == QUALITY or b.op[pc] == KNOWN:
            column = b.argument[pc]
            at = b.import_at[column]
            cell = b.base[cohort] + local * b.stride[cohort] + column if at < 0 else b.import_cells[at + local]
            if not np.isnan(m.latest[cell]):
                q = join_quality(q, m.quality[cell])
    return q


@inner
def group_quality(cells: Array, latest: Array, quality: Array) -> int:
    """The quality of the known values of a group, together."""
    q = GOOD
    for k in range(len(cells)):
        if not np.isnan(latest[cells[k]]):
            q = join_quality(q, quality[cells[k]])
    return q


@inner
def gather(fn: int, cells: Array, latest: Array, known: Array) -> float:
    """A function of the known values of a group; NaN when none is known. G_ANY and G_ALL by Kleene's logic over all of them."""
    n, unknown, total, low, high = 0, 0, 0.0, np.inf, -np.inf
    for k in range(len(cells)):
        x = latest[cells[k]]
        if not np.isfinite(x):
            unknown += 1
            continue
        if fn == G_MEDIAN:
            known[n] = x
        n += 1
        total += x
        low, high = min(low, x), max(high, x)
    return summary(fn, n, unknown, total, low, high, 0, known)
