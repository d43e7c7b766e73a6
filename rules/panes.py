"""Statistics over event time: 60 panes aligned to UTC, and what else remembers a series in a bounded place.

One sample costs the same however many the window holds, and mostly touches one cache line. Sums and extremes stand on two stacks: of the
60 panes from the last multiple of 60 on, *young* is the sum of those before the newest, *open*; of the 60 before, sums from each pane to
the last were made when these were over, and *old* is the one from the window's oldest pane on. The sum over the window is old + young +
open: nothing is ever subtracted from a sum, and the order of additions follows from pane numbers and the order of samples, not from how
these were cut into calls. Counts are integers, and may be subtracted.

The state of all columns is one block of memory, seen as int64, float64 and uint16: what a sample touches lies together. See docs/rules.md
for the meaning of each function.
"""

from math import exp, sqrt
from typing import Any, Final

import numpy as np
from numba.cpython.unsafe.numbers import leading_zeros, trailing_zeros
from numba.extending import overload
from numpy.typing import NDArray

from rules import calculate

Array = NDArray[Any]
_compile = calculate.inner

LAYOUT: Final = (
    3  # of a seat's state: raise it when its words mean something else, because journals carry them (rules/warm_start.py)
)
PANES: Final = 60
LEAVES: Final = 64  # a ring of panes where each is kept by itself
NEAR: Final = 4  # panes, the oldest of the window, in which a sample stands for "that long ago"
COVERED: Final = 48  # panes between the first counted sample and the newest: four fifths of the window
COUNT_MAX: Final = 65_535  # samples beyond that in one pane are not counted
BINS: Final = 128
NONE: Final = np.iinfo(np.int64).min
FAR: Final = 1 << 48  # beyond every memory
COPIED: Final = 4096  # places at a time

MEAN, MIN, MAX, STD, COUNT, RATE, DELTA, SLOPE, SHIFT, QUANTILE, ROBUST_Z, EWMA, CUSUM_HIGH, CUSUM_LOW, HELD, AGO = range(16)
# A seat's state begins with a cache line: newest pane, first counted pane, samples of the panes before the newest (RATE and HELD: what they
# saw last), those of the newest pane (HELD: time of the last sample), then of a stack open, young and old, and which slots hold anything.
# STD has a second line: of the stack of squares the same three, and the centre.
HEADER: Final = 8
LAST, OPEN, YOUNG, OLD, MASK, CENTRE = 2, 4, 5, 6, 7, 3
# Words of a seat's state that lie together, rows of 60 panes as float64, and rows of counts as uint16. Of the latter two a pane of all
# seats lies together, since devices that sample at one time move on to it at one time. Columns of one shape and pane share a block in
# which those of a seat stand side by side, since it mostly samples all of them: memory is read from one end to the other.
SHAPES: Final = {
    MEAN: (HEADER, PANES, PANES),
    MIN: (HEADER, PANES, 0),
    MAX: (HEADER, PANES, 0),
    STD: (2 * HEADER, 2 * PANES, PANES),
    RATE: (HEADER, PANES, 0),
    HELD: (HEADER, PANES, 0),
}
# Of the others everything lies together: words of float64, and numbers of uint16; int64 beyond the header.
SIZES: Final = {
    COUNT: (0, LEAVES, 0),
    DELTA: (LEAVES, 0, 0),
    AGO: (LEAVES, 0, 0),
    SLOPE: (LEAVES, LEAVES, 0),
    SHIFT: (LEAVES, LEAVES, 0),
    QUANTILE: (0, LEAVES * BINS, BINS),
    ROBUST_Z: (0, LEAVES * BINS, BINS),
    EWMA: (1, 0, 0),
    CUSUM_HIGH: (2, 0, 0),
    CUSUM_LOW: (2, 0, 0),
}
TAKES_LATE: Final = (MEAN, MIN, MAX, STD, COUNT, QUANTILE)  # the others need samples in order


def shape(fn: int) -> tuple[int, int, int]:
    """Of a seat's state: words that lie together, panes of 8 bytes and of 2 bytes that lie with those of the other seats."""
    if fn in SHAPES:
        return SHAPES[fn]
    f, u, i = SIZES[fn]
    return -(-(HEADER + i + f + u // 4) // 8) * 8, 0, 0  # a whole number of cache lines


def words(fn: int) -> int:
    """Length of one seat's state in words of 8 bytes."""
    together, wide, small = shape(fn)
    return together + wide + small // 4


def specification(
    fn: int, pane_ns: int, first_word: int, width: int, clock: int = 0, columns: int = 1, column: int = 0
) -> list[int]:
    """What `update_column` needs to know of one of the columns of a block that begins at `first_word`. clock: which place of `pane_at`
    it uses."""
    together, wide, _ = shape(fn)
    own, step = first_word + column * together, columns * together
    if fn in SHAPES:
        places = width * columns
        wide_at = first_word + together * places
        return [fn, pane_ns, own, step, wide_at + column, 4 * (wide_at + wide * places) + column, places, clock, columns]
    f, _, i = SIZES[fn]
    return [fn, pane_ns, own, step, HEADER + i, 4 * (HEADER + i + f), 0, clock, columns]


class Block:
    """What one of the columns of a block remembers of all its seats: views into the block's words, (length,) int64.

    Without `columns`: what each *place* remembers, seat by seat, column by column.
    """

    def __init__(self, words: Array, width: int, shape: tuple[int, int, int], columns: int = 1, column: int = 0) -> None:
        together, wide, small = shape
        places = width * columns
        ends = together * places, (together + wide) * places
        self.together = words[: ends[0]].reshape(places, together)[column::columns]
        self.wide = words[ends[0] : ends[1]].reshape(wide, places)[:, column::columns]
        self.small = words[ends[1] :].view(np.uint16)[: small * places].reshape(small, places)[:, column::columns]

    @property
    def is_new(self) -> NDArray[np.bool_]:
        """Of each seat: it has seen nothing yet."""
        return np.asarray(self.together[:, 0] == NONE)

    def rows(self, seats: Array) -> Array:
        """(seats, words) int64: the state of some seats, each by itself."""
        small = np.ascontiguousarray(self.small[:, seats].T)
        counts = small.view(np.int64) if small.size else np.zeros((len(seats), 0), np.int64)
        return np.concatenate([self.together[seats], self.wide[:, seats].T, counts], axis=1)

    def put(self, seats: Array, rows: Array) -> None:
        """Inverse of `rows`."""
        ends = self.together.shape[1], self.together.shape[1] + len(self.wide)
        self.together[seats] = rows[:, : ends[0]]
        self.wide[:, seats] = rows[:, ends[0] : ends[1]].T
        if len(self.small):
            self.small[:, seats] = np.ascontiguousarray(rows[:, ends[1] :]).view(np.uint16).T

    def copy(self, places: Array, other: "Block", theirs: Array) -> None:
        """Take over what places of another block of this shape remember; little by little, for the sake of memory."""
        for k in range(0, len(places), COPIED):
            self.together[places[k : k + COPIED]] = other.together[theirs[k : k + COPIED]]
        for mine, its in zip((*self.wide, *self.small), (*other.wide, *other.small), strict=True):
            mine[places] = its[theirs]


def block_words(places: int, shape: tuple[int, int, int]) -> int:
    """Length of a block of so many seats times columns: a whole number of cache lines."""
    together, wide, small = shape
    return -(-(places * (together + wide) + -(-places * small // 4)) // 8) * 8


@_compile
def is_index(k: int) -> bool:
    """Always true: compiled code then need not ask, each time it uses k, whether that counts from the end."""
    return 0 <= k < FAR


@_compile
def pane_at(spec: Array, clocks: Array, time_ns: int) -> int:
    """The pane of a time. Columns with panes of one length share a place in `clocks`, where the last pane is found again: mostly it is
    that one still, and a division costs as much as all the rest."""
    pane = clocks[spec[7]]
    if not 0 <= time_ns - pane * spec[1] < spec[1]:
        pane = clocks[spec[7]] = time_ns // max(spec[1], 1)
    return int(pane)


def clean(fn: int, block: Block) -> None:
    """Set seats to "nothing seen"."""
    block.together[...] = block.wide[...] = block.small[...] = 0
    state, header = block.together, block.together[:, :HEADER].view(np.float64)
    if fn in (MIN, MAX):
        header[:, OPEN : OLD + 1] = np.inf if fn == MIN else -np.inf
    elif fn in (RATE, HELD):
        header[:, LAST] = np.nan
    elif fn in (DELTA, AGO, EWMA):
        f, _, i = SIZES[fn]
        state[:, HEADER + i : HEADER + i + f].view(np.float64)[...] = np.nan
    state[:, : 1 if fn in (CUSUM_HIGH, CUSUM_LOW, EWMA) else 2] = NONE


# -- two stacks: h is where the header's three words lie (OPEN, YOUNG, OLD), at where the 60 panes do. Which panes hold anything is a set
# of bits by slot (MASK), so that empty ones cost nothing: neither a pane that is skipped nor one that leaves.


def _lowest(bits: int) -> int:
    """Number of the lowest bit that is set."""
    return (int(bits) & -int(bits)).bit_length() - 1


def _highest(bits: int) -> int:
    """Number of the highest bit that is set."""
    return int(bits).bit_length() - 1


@overload(_lowest)
def _compiled_lowest(bits: Any) -> Any:  # noqa: ARG001
    def lowest(bits: Any) -> Any:
        return trailing_zeros(bits)  # type: ignore[call-arg]

    return lowest


@overload(_highest)
def _compiled_highest(bits: Any) -> Any:  # noqa: ARG001
    def highest(bits: Any) -> Any:
        return 63 - leading_zeros(bits)  # type: ignore[call-arg]

    return highest


@_compile
def _nothing(fn: int) -> float:
    return np.inf if fn == MIN else -np.inf if fn == MAX else 0.0


@_compile
def _join(fn: int, a: float, b: float) -> float:
    return min(a, b) if fn == MIN else max(a, b) if fn == MAX else a + b


@_compile
def _from(fn: int, f: Array, at: int, step: int, mask: int, slot: int) -> float:
    """The sum of old panes from a slot on."""
    later = mask >> slot
    if later & 1:
        return f[at + slot * step]
    return f[at + (slot + _lowest(later)) * step] if later else _nothing(fn)


@_compile
def _move_on(fn: int, f: Array, h: int, at: int, step: int, mask: int, slot: int, is_over: bool) -> None:
    """To another newest slot, less than a window later. Slots up to it hold panes, those after it sums of old ones."""
    if is_over:  # 60 panes are over: from each of them to the last
        total, left = _nothing(fn), mask
        while left:
            k = _highest(left)
            left ^= 1 << k
            total = _join(fn, f[at + k * step], total)
            f[at + k * step] = total
        f[h + 1] = _nothing(fn)
    else:
        f[h + 1] = _join(fn, f[h + 1], f[h])
    f[h] = _nothing(fn)
    f[h + 2] = _from(fn, f, at, step, mask, slot + 1)


@_compile
def _add(fn: int, f: Array, h: int, at: int, step: int, mask: int, head: int, pane: int, x: float) -> None:
    """Put a number into a pane of the window; the caller sets its bit."""
    if pane == head:
        f[h] = _join(fn, f[h], x)
        return
    slot, newest = pane % PANES, head % PANES
    if slot > newest:
        left = mask >> (newest + 1) << (newest + 1) & (2 << slot) - 1
        if not mask >> slot & 1:
            f[at + slot * step] = _join(fn, _from(fn, f, at, step, mask, slot), x)
        while left:
            k = at + _lowest(left) * step
            left &= left - 1
            f[k] = _join(fn, f[k], x)
        f[h + 2] = _join(fn, f[h + 2], x)
    else:
        k = at + slot * step
        f[k] = _join(fn, f[k], x) if mask >> slot & 1 else x
        f[h + 1] = _join(fn, f[h + 1], x)


@_compile
def _advance_stacked(fn: int, spec: Array, pane: int, f: Array, i: Array, io: int, u: Array, local: int) -> None:
    """Move the newest pane of a window on two stacks on."""
    at, step, few = spec[4] + local, spec[6], spec[5] + local
    if not (is_index(at) and is_index(few) and is_index(step)):
        return
    head, mask, counts, squares = i[io], i[io + MASK], fn == MEAN or fn == STD, io + HEADER
    i[io] = pane
    if head == NONE:
        return
    if pane - head >= PANES:
        i[io + 1], i[io + MASK] = NONE, 0
        for k in range(OPEN, OLD + 1):
            f[io + k] = _nothing(fn)
        if fn == STD:
            f[squares] = f[squares + 1] = f[squares + 2] = 0.0
        if counts:
            i[io + 2], i[io + 3] = 0, 0
        return
    was = head % PANES
    slot = was + pane - head
    if slot >= PANES:
        slot -= PANES
    if i[io + 3] > 0 if counts else f[io + OPEN] != _nothing(fn):
        f[at + was * step] = f[io + OPEN]
        mask |= 1 << was
        if fn == STD:
            f[at + (PANES + was) * step] = f[squares]
        if counts:
            u[few + was * step] = i[io + 3]
            i[io + 2] += i[io + 3]
            i[io + 3] = 0
    stay = ~0 << (slot + 1) | (1 << (was + 1)) - 1 if slot > was else (2 << was) - (2 << slot)
    if counts:
        gone, left = mask & ~stay, 0
        while gone:
            left += int(u[few + _lowest(gone) * step])
            gone &= gone - 1
        i[io + 2] -= left  # once: each time through memory would wait for the last
    mask &= stay
    i[io + MASK] = mask
    _move_on(fn, f, io + OPEN, at, step, mask, slot, slot < was)
    if fn == STD:
        _move_on(fn, f, squares, at + PANES * step, step, mask, slot, slot < was)


@_compile
def _insert_stacked(
    fn: int, spec: Array, head: int, pane: int, x: float, f: Array, i: Array, io: int, u: Array, local: int
) -> None:
    """Count one finite sample in a pane of a window on two stacks."""
    if fn == RATE:
        last = f[io + LAST]
        f[io + LAST] = x
        if x <= last:  # a counter that fell was reset: what it counted meanwhile is not known
            return
        x -= last
    elif pane == head and (fn == MEAN or fn == STD):
        if i[io + 3] == COUNT_MAX:
            return
        i[io + 3] += 1
    if fn == STD:
        x -= f[io + HEADER + CENTRE]
    if pane == head:
        f[io + OPEN] = _join(fn, f[io + OPEN], x)
        if fn == STD:
            f[io + HEADER] += x * x
        return
    at, step, mask, slot = spec[4] + local, spec[6], i[io + MASK], pane % PANES
    if fn == MEAN or fn == STD:
        count = spec[5] + slot * step + local
        n = int(u[count]) if mask >> slot & 1 else 0
        if n == COUNT_MAX:
            return
        u[count] = n + 1
        i[io + 2] += 1
    if fn == STD:
        _add(fn, f, io + HEADER, at + PANES * step, step, mask, head, pane, x * x)
    _add(fn, f, io + OPEN, at, step, mask, head, pane, x)
    i[io + MASK] = mask | 1 << slot


@_compile
def _on_stacks(
    fn: int, spec: Array, f: Array, i: Array, io: int, u: Array, local: int, pane: int, x: float, decides: bool
) -> float:
    """`update_column` of a window on two stacks: what most samples do takes the shortest way."""
    if not (is_index(io) and is_index(local)):
        return np.nan
    head = i[io]
    if pane > head:
        _advance_stacked(fn, spec, pane, f, i, io, u, local)
        head = pane
    first = i[io + 1]
    if np.isfinite(x) and pane > head - PANES:
        if first == NONE or pane < first:
            if first == NONE and fn == STD:
                f[io + HEADER + CENTRE] = x
            elif first == NONE and fn == RATE:
                f[io + LAST] = x
            first = i[io + 1] = pane
        _insert_stacked(fn, spec, head, pane, x, f, i, io, u, local)
    if not decides or first == NONE or head - first < COVERED:
        return np.nan
    total = _sum(fn, f, io + OPEN)
    if fn == MEAN or fn == STD:
        n = i[io + 2] + i[io + 3]
        if fn == MEAN:
            return total / n if n > 0 else np.nan
        m = total / max(n, 1)
        return sqrt(max(_sum(fn, f, io + HEADER) / n - m * m, 0.0)) if n > 1 else np.nan
    if fn == RATE:
        return total / (PANES * spec[1] / 60e9)
    return total if np.isfinite(total) else np.nan


@_compile
def _sum(fn: int, f: Array, h: int) -> float:
    """Over the whole window: old panes, young ones, and the newest."""
    return _join(fn, _join(fn, f[h + 2], f[h + 1]), f[h])


# -- panes kept one by one ----------------------------------------------------------------------------------------------------


@_compile
def _advance(fn: int, pane: int, f: Array, fo: int, i: Array, io: int, u: Array, uo: int) -> None:
    """Move the window's newest pane on: panes that left it are emptied."""
    head = i[io]
    i[io] = pane
    if head == NONE:
        return
    leaving = min(pane - head, PANES)
    if leaving == PANES:
        i[io + 1] = NONE
    for k in range(leaving):
        slot = (head - PANES + 1 + k) & (LEAVES - 1)
        if fn == QUANTILE or fn == ROBUST_Z:
            for b in range(BINS):
                n = u[uo + slot * BINS + b]
                if n:
                    i[io + 2] -= n
                    i[io + HEADER + b] -= n
                    u[uo + slot * BINS + b] = 0
        elif fn == DELTA or fn == AGO:
            f[fo + slot] = np.nan
        else:
            i[io + 2] -= u[uo + slot]
            u[uo + slot] = 0
            if fn != COUNT:
                f[fo + slot] = 0.0


@_compile
def _insert(fn: int, slot: int, x: float, parameter: Array, f: Array, fo: int, i: Array, io: int, u: Array, uo: int) -> None:
    """Count one finite sample in a pane."""
    if fn == DELTA or fn == AGO:
        if np.isnan(f[fo + slot]):
            f[fo + slot] = x
        return
    at = uo + (slot * BINS + _bin(x, parameter) if fn == QUANTILE or fn == ROBUST_Z else slot)
    if u[at] == COUNT_MAX:
        return
    u[at] += 1
    i[io + 2] += 1
    if fn == QUANTILE or fn == ROBUST_Z:
        i[io + HEADER + _bin(x, parameter)] += 1
    elif fn != COUNT:
        f[fo + slot] += x


@_compile
def _bin(x: float, parameter: Array) -> int:
    return min(max(int((x - parameter[1]) / parameter[2] * BINS), 0), BINS - 1)


@_compile
def update_column(
    spec: Array, parameter: Array, f: Array, i: Array, u: Array, local: int, time_ns: int, pane: int, x: float, decides: bool
) -> float:
    """Take a sample of one seat in a pane, and give the function's value after it (NaN = unknown; always for one that does not decide).

    A sample that is not finite moves time on and is not counted. One that does not decide (late) is counted in its pane, if the
    window still holds that.
    """
    fn, io = spec[0], spec[2] + local * spec[3]
    if spec[6]:
        place = local * spec[8]
        if fn == HELD:
            return _held(spec, parameter, f, i, io, u, place, time_ns, pane, x)
        if fn == MEAN:  # a constant: the commonest asks no more which function it is
            return _on_stacks(MEAN, spec, f, i, io, u, place, pane, x, decides)
        return _on_stacks(fn, spec, f, i, io, u, place, pane, x, decides)
    fo, uo = io + spec[4], 4 * io + spec[5]
    if fn == EWMA:
        return _smooth(parameter, f, fo, i, io, time_ns, x)
    if fn == CUSUM_HIGH or fn == CUSUM_LOW:
        return _cusum(fn, spec[1], parameter, f, fo, i, io, time_ns, x)
    if pane > i[io]:
        _advance(fn, pane, f, fo, i, io, u, uo)
    head, first = i[io], i[io + 1]
    if np.isfinite(x) and pane > head - PANES:
        if first == NONE or pane < first:
            first = i[io + 1] = pane
        _insert(fn, pane & (LEAVES - 1), x, parameter, f, fo, i, io, u, uo)
    if not decides or first == NONE or head - first < COVERED:
        return np.nan
    return _result(fn, spec, parameter, f, fo, i, io, u, uo, x)


@_compile
def _result(fn: int, spec: Array, parameter: Array, f: Array, fo: int, i: Array, io: int, u: Array, uo: int, x: float) -> float:
    n = i[io + 2]
    if fn == COUNT:
        return float(n)
    if fn == DELTA or fn == AGO:
        for k in range(PANES - 1, -1 if fn == DELTA else PANES - 1 - NEAR, -1):
            first = f[fo + ((i[io] - k) & (LEAVES - 1))]
            if not np.isnan(first):
                return x - first if fn == DELTA else first
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
        total += f[fo + slot]
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
        x = f[fo + slot]
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
    spec: Array, parameter: Array, f: Array, i: Array, io: int, u: Array, local: int, time_ns: int, pane: int, x: float
) -> float:
    """For how long a condition was true in the window [ns], against parameter 0 [s]. Parameter 1: longest gap that counts [s]."""
    last_ns, was = i[io + 3], f[io + LAST]
    if pane > i[io]:
        _advance_stacked(HELD, spec, pane, f, i, io, u, local)
    if was == 1.0 and time_ns > last_ns and time_ns - last_ns <= parameter[1] * 1e9:
        at = max(last_ns, (pane - PANES + 1) * spec[1])
        while at < time_ns:
            p = at // spec[1]
            until = min(time_ns, (p + 1) * spec[1])
            _add(HELD, f, io + OPEN, spec[4] + local, spec[6], i[io + MASK], pane, p, float(until - at))
            if p != pane:
                i[io + MASK] |= 1 << p % PANES
            at = until
    if time_ns >= last_ns or np.isnan(was):
        i[io + 3], f[io + LAST] = time_ns, x
    if i[io + 1] == NONE and not np.isnan(x):
        i[io + 1] = pane
    if _sum(HELD, f, io + OPEN) >= parameter[0] * 1e9:
        return 1.0
    return 0.0 if i[io + 1] != NONE and i[io] - i[io + 1] >= COVERED else np.nan
