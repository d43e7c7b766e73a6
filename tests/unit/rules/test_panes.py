"""Functions over time against their definitions, one sample at a time with whole lists."""

import hashlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rules import calculate, panes
from rules.panes import (
    AGO,
    COUNT,
    COVERED,
    CUSUM_HIGH,
    CUSUM_LOW,
    DELTA,
    EWMA,
    HELD,
    MAX,
    MEAN,
    MIN,
    NEAR,
    PANES,
    QUANTILE,
    RATE,
    ROBUST_Z,
    SHAPES,
    SHIFT,
    SIZES,
    SLOPE,
    STD,
)

FUNCTIONS = sorted({*SIZES, *SHAPES})
PANE_NS = 10_000_000_000
T0 = 1_700_000_000_000_000_000
LOW, SPAN = -40.0, 120.0
BIN = SPAN / panes.BINS


@calculate.bare(_nrt=False)
def update(
    spec: Any, parameter: Any, clocks: Any, f: Any, i: Any, u: Any, seat: int, time_ns: int, x: float, decides: bool
) -> float:
    """What only compiled code may call."""
    pane = panes.pane_at(spec, clocks, time_ns)
    value: float = panes.update_column(spec, parameter, f, i, u, seat, time_ns, pane, x, decides)
    return value


class Column:
    """One seat of one column, as the loop keeps it; three seats lie side by side to show that they stay apart."""

    def __init__(self, fn: int, parameters: tuple[float, ...] = (), pane_ns: int = PANE_NS, width: int = 3) -> None:
        self.spec = np.array(panes.specification(fn, pane_ns, 0, width), np.int64)
        self.parameter = np.zeros(4)
        self.parameter[: len(parameters)] = parameters
        self.clocks = np.zeros(1, np.int64)
        self.words = np.zeros(panes.block_words(width, panes.shape(fn)), np.int64)
        self.block = panes.Block(self.words, width, panes.shape(fn))
        panes.clean(fn, self.block)

    def take(self, time_ns: int, x: float, *, decides: bool = True, seat: int = 1) -> float:
        views = (self.words.view(np.float64), self.words, self.words.view(np.uint16))
        return float(update(self.spec, self.parameter, self.clocks, *views, seat, time_ns, x, decides))


def samples(seed: int, count: int = 1_500, *, back: bool = True) -> list[tuple[int, float]]:
    """Jumps back, gaps, NaN, infinities, denormals and zeros of both signs."""
    rng = np.random.default_rng(seed)
    chance = [0.1, 0.2, 0.47, 0.2, 0.02 if back else 0.0, 0.01]
    chance[2] += 1 - sum(chance)
    steps = rng.choice([1, 500_000_000, 3_000_000_000, 30_000_000_000, -70_000_000_000, 700_000_000_000], count, p=chance)
    value = rng.normal(20, 5, count)
    odd = rng.random(count) < 0.1
    value[odd] = rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0, 5e-324], int(odd.sum()))
    return list(zip((T0 + np.cumsum(steps)).tolist(), value.tolist(), strict=True))


class Naive:
    """What a window holds: (pane, time, value) of every sample counted since it began anew."""

    def __init__(self) -> None:
        self.head: int | None = None
        self.kept: list[tuple[int, int, float]] = []

    def take(self, time_ns: int, x: float) -> None:
        pane = time_ns // PANE_NS
        if self.head is None or pane - self.head >= PANES:
            self.kept = []
        self.head = pane if self.head is None else max(self.head, pane)
        if math.isfinite(x) and pane > self.head - PANES:
            self.kept.append((pane, time_ns, x))

    @property
    def is_covered(self) -> bool:
        return self.head is not None and bool(self.kept) and self.head - min(p for p, _, _ in self.kept) >= COVERED

    @property
    def inside(self) -> list[tuple[int, int, float]]:
        assert self.head is not None
        return [s for s in self.kept if s[0] > self.head - PANES]

    def mean_of(self, newest: int, oldest: int) -> float:
        assert self.head is not None
        values = [x for p, _, x in self.inside if newest <= self.head - p < oldest]
        return math.fsum(values) / len(values) if values else math.nan

    def rate(self) -> float:
        """Increments, each in the pane of the sample that showed it."""
        assert self.head is not None
        up = [(b[0], b[2] - a[2]) for a, b in zip(self.kept, self.kept[1:], strict=False) if b[2] > a[2]]
        return math.fsum(d for p, d in up if p > self.head - PANES) / (PANES * PANE_NS / 60e9)

    def slope(self) -> float:
        if len({p for p, _, _ in self.inside}) < 2:
            return math.nan
        at = np.array([p for p, _, _ in self.inside], np.float64) * PANE_NS / 60e9
        return float(np.polyfit(at - at.mean(), [x for _, _, x in self.inside], 1)[0])

    def delta(self, x: float) -> float:
        oldest = min((p for p, _, _ in self.inside), default=None)
        first = next((v for p, _, v in self.inside if p == oldest), math.nan)
        return x - first

    def ago(self) -> float:
        assert self.head is not None
        oldest = min((p for p, _, _ in self.inside), default=self.head)
        near = self.head - oldest >= PANES - NEAR
        return next(v for p, _, v in self.inside if p == oldest) if near else math.nan


def values(naive: Naive) -> list[float]:
    return [x for _, _, x in naive.inside]


DEFINITIONS: dict[int, tuple[Callable[[Naive, float], float], float, bool]] = {  # meaning, tolerance, defined with times going back
    MEAN: (lambda n, _: math.fsum(values(n)) / len(values(n)) if values(n) else math.nan, 1e-11, True),
    MIN: (lambda n, _: min(values(n), default=math.nan), 0.0, True),
    MAX: (lambda n, _: max(values(n), default=math.nan), 0.0, True),
    STD: (lambda n, _: float(np.std(values(n))) if len(values(n)) > 1 else math.nan, 1e-5, True),
    COUNT: (lambda n, _: float(len(values(n))), 0.0, True),
    RATE: (lambda n, _: n.rate(), 1e-9, False),
    DELTA: (lambda n, x: n.delta(x), 1e-12, False),
    AGO: (lambda n, _: n.ago(), 0.0, False),
    SLOPE: (lambda n, _: n.slope(), 1e-8, True),
    SHIFT: (lambda n, _: n.mean_of(0, 30) - n.mean_of(30, 60), 1e-9, True),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fn", DEFINITIONS)
def test_same_as_the_definition(fn: int, seed: int) -> None:
    meaning, tolerance, back = DEFINITIONS[fn]
    column, naive, known = Column(fn), Naive(), 0
    for time_ns, x in samples(seed, back=back):
        naive.take(time_ns, x)
        if fn == DELTA and not math.isfinite(x):
            column.take(time_ns, x)
            continue
        want = meaning(naive, x) if naive.is_covered else math.nan
        assert column.take(time_ns, x) == pytest.approx(want, rel=tolerance, abs=tolerance, nan_ok=True)
        known += not math.isnan(want)
    assert known > (100 if fn == AGO else 300)  # gaps leave the oldest panes without a sample


@pytest.mark.parametrize("q", [0.05, 0.5, 0.9])
def test_a_quantile_is_within_a_bin_of_the_exact_one(q: float) -> None:
    column, naive, known = Column(QUANTILE, (q, LOW, SPAN)), Naive(), 0
    for time_ns, x in samples(1):
        naive.take(time_ns, x)
        got = column.take(time_ns, x)
        inside = sorted(values(naive))
        if not naive.is_covered or not inside:
            assert math.isnan(got)
            continue
        rank = max(0, math.ceil(q * len(inside)) - 1)
        assert inside[rank] - BIN <= got <= inside[rank] + BIN
        known += 1
    assert known > 300


def test_robust_z_counts_deviations_and_is_not_moved_by_outliers() -> None:
    rng, column = np.random.default_rng(5), Column(ROBUST_Z, (0.0, LOW, SPAN))
    for k in range(400):
        column.take(T0 + k * PANE_NS, float(rng.normal(20, 5)) if k % 10 else 75.0)
    z = column.take(T0 + 400 * PANE_NS, 45.0)
    assert z == pytest.approx(5.0, abs=1.2)  # 25 above the median, of standard deviation 5
    assert column.take(T0 + 401 * PANE_NS, 20.0) == pytest.approx(0.0, abs=0.4)


def test_robust_z_of_a_constant_series_does_not_divide_by_nothing() -> None:
    column = Column(ROBUST_Z, (0.0, LOW, SPAN))
    got = [column.take(T0 + k * PANE_NS, 20.0) for k in range(60)][-1]
    assert abs(got) < 0.6745
    assert column.take(T0 + 60 * PANE_NS, 21.0) == pytest.approx(0.6745 * 1.0 / BIN, abs=0.7)


def test_ewma_by_time_constant_and_by_weight() -> None:
    by_time, by_weight, smooth, fixed, last = Column(EWMA, (0.0, 300.0)), Column(EWMA, (0.2, 0.0)), math.nan, math.nan, 0
    for time_ns, x in samples(2, back=False):
        if math.isfinite(x):
            smooth = x if math.isnan(smooth) else smooth + (1 - math.exp(-(time_ns - last) * 1e-9 / 300.0)) * (x - smooth)
            fixed = x if math.isnan(fixed) else fixed + 0.2 * (x - fixed)
            last = time_ns
        assert by_time.take(time_ns, x) == pytest.approx(smooth, rel=1e-12, nan_ok=True)
        assert by_weight.take(time_ns, x) == pytest.approx(fixed, rel=1e-12, nan_ok=True)


def test_cusum_sums_what_the_means_of_periods_are_beyond_k() -> None:
    high, low = (Column(fn, (20.0, 2.0, 0.5), 60_000_000_000) for fn in (CUSUM_HIGH, CUSUM_LOW))
    means, c_high, c_low = [20.5, 24.0, 24.0, 15.0, 20.0, 26.0], 0.0, 0.0
    for k, mean in enumerate(means):
        got = [(high.take(T0 + k * 60_000_000_000 + j * PANE_NS, mean + d), low.take(T0 + k * 60_000_000_000 + j * PANE_NS, mean + d))
               for j, d in enumerate((-1.0, 1.0))]  # fmt: skip
        assert got == (
            [(pytest.approx(c_high), pytest.approx(c_low))] * 2 if k else [(pytest.approx(math.nan, nan_ok=True),) * 2] * 2
        )
        u = (mean - 20.0) / 2.0
        c_high, c_low = max(0.0, c_high + u - 0.5), max(0.0, c_low - u - 0.5)
    assert c_high == 2.5


def test_held_adds_up_the_time_a_condition_was_true() -> None:
    """True for 10 of the last 15 min: panes of 15 s, a gap of three minutes does not count."""
    pane_ns, wanted, gap = 15_000_000_000, 600.0, 180.0
    column = Column(HELD, (wanted, gap), pane_ns)
    rng, at, spans, last, first = np.random.default_rng(3), T0, [], None, None
    seen = set()
    for _ in range(4_000):
        at += int(rng.choice([1, 5, 20, 200], p=[0.3, 0.4, 0.29, 0.01])) * 1_000_000_000
        phase = (at // 900_000_000_000) % 3
        x = math.nan if rng.random() < 0.01 else float(rng.random() < (0.1, 0.67, 0.95)[phase])
        if last is not None and last[1] == 1.0 and at - last[0] <= gap * 1e9:
            spans.append((last[0], at))
        if first is None or at // pane_ns - last[0] // pane_ns >= PANES:
            first = at // pane_ns if not math.isnan(x) else None
        last = (at, x)
        begin = (at // pane_ns - PANES + 1) * pane_ns
        held = sum(max(0, b - max(a, begin)) for a, b in spans[-2000:]) * 1e-9
        got = column.take(at, x)
        if held >= wanted + 1e-6:
            assert got == 1.0
        elif held < wanted - 1e-6 and first is not None and at // pane_ns - first >= COVERED:
            assert got == 0.0
        seen.add(got)
    assert {0.0, 1.0} <= seen


@pytest.mark.parametrize("fn", panes.TAKES_LATE)
def test_a_late_sample_counts_in_its_pane_and_decides_nothing(fn: int) -> None:
    parameters = (0.5, LOW, SPAN)
    late, live = Column(fn, parameters), Column(fn, parameters)
    for k in range(60):
        late.take(T0 + k * PANE_NS, 20.0 + k % 3)
        live.take(T0 + k * PANE_NS, 20.0 + k % 3)
    assert math.isnan(late.take(T0 + 30 * PANE_NS, 50.0, decides=False))
    assert math.isnan(late.take(T0 - 90 * PANE_NS, 50.0, decides=False))
    live.take(T0 + 30 * PANE_NS, 50.0)
    assert late.take(T0 + 60 * PANE_NS, 21.0) == live.take(T0 + 60 * PANE_NS, 21.0)


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_seats_of_a_column_do_not_know_of_each_other(fn: int) -> None:
    parameters: tuple[float, ...] = (20.0, 2.0, 0.5) if fn in (CUSUM_HIGH, CUSUM_LOW) else (0.5, LOW, SPAN)
    alone, among = Column(fn, parameters), Column(fn, parameters)
    for (time_ns, x), (other_ns, y) in zip(samples(6, 500), samples(7, 500), strict=True):
        among.take(other_ns, y, seat=0)
        among.take(other_ns, -y, seat=2)
        assert np.array_equal(alone.take(time_ns, x), among.take(time_ns, x), equal_nan=True)


def test_unknown_until_four_fifths_are_covered() -> None:
    column = Column(MEAN)
    known = [k for k in range(60) if not math.isnan(column.take(T0 + k * PANE_NS, 1.0))]
    assert known[0] == COVERED


@pytest.mark.parametrize("fn", [fn for fn in FUNCTIONS if fn not in (EWMA, CUSUM_HIGH, CUSUM_LOW)])
def test_limits_of_time_and_of_counting(fn: int) -> None:
    column: Any = Column(fn, (0.5, LOW, SPAN))
    for time_ns in (np.iinfo(np.int64).min, 0, np.iinfo(np.int64).max, -1):
        column.take(time_ns, 1.0)
    many = Column(COUNT)
    for _ in range(70_000):
        many.take(T0, 1.0)
    assert many.take(T0 + 48 * PANE_NS, 1.0) == panes.COUNT_MAX + 1


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_the_state_of_a_seat_goes_on_in_another_place(fn: int) -> None:
    """A seat of a wider block, filled with what another one remembers, says the same from there on."""
    one, parameters = Column(fn, PARAMETERS.get(fn, ())), PARAMETERS.get(fn, ())
    given = [(t, float(x > 20) if fn == HELD else x) for t, x in samples(3)]
    for time_ns, x in given[:700]:
        one.take(time_ns, x)
    other = Column(fn, parameters, width=5)
    other.block.put(np.array([4, 2]), one.block.rows(np.array([1, 1])))
    assert other.block.is_new.tolist() == [True, True, False, True, False]
    assert (other.block.rows(np.array([2])) == one.block.rows(np.array([1]))).all()
    for time_ns, x in given[700:]:
        said = one.take(time_ns, x)
        assert other.take(time_ns, x, seat=2) == pytest.approx(said, abs=0, nan_ok=True)
    assert (other.block.rows(np.array([2])) == one.block.rows(np.array([1]))).all()
    assert other.block.is_new.tolist() == [True, True, False, True, False]


PARAMETERS: dict[int, tuple[float, ...]] = {
    QUANTILE: (0.5, LOW, SPAN), ROBUST_Z: (0.5, LOW, SPAN), HELD: (30.0, 100.0), EWMA: (0.0, 600.0), CUSUM_HIGH: (20.0, 1.0, 0.5),
    CUSUM_LOW: (20.0, 1.0, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_unknown_until_four_fifths_of_the_window_are_covered(fn: int) -> None:
    """Of `held` only "no" must wait; `ewma` and `cusum` have no window; `ago` waits for its oldest panes."""
    column = Column(fn, PARAMETERS.get(fn, ()))
    x = 0.0 if fn == HELD else 20.0
    said = [column.take(T0 // PANE_NS * PANE_NS + pane * PANE_NS + 1, x) for pane in range(PANES)]
    first = {EWMA: 0, CUSUM_HIGH: 1, CUSUM_LOW: 1, AGO: PANES - 4}.get(fn, COVERED)
    assert [math.isnan(value) for value in said] == [True] * first + [False] * (PANES - first)
    gone = column.take(T0 + 3 * PANES * PANE_NS, x)  # a gap as long as the window starts this anew
    assert math.isnan(gone) == (first >= COVERED)


def test_held_long_enough_is_true_before_the_window_is_covered() -> None:
    column = Column(HELD, PARAMETERS[HELD])
    said = [column.take(T0 + k * PANE_NS, 1.0) for k in range(6)]
    assert [math.isnan(value) for value in said] == [True, True, True, False, False, False]
    assert said[-1] == 1.0


def test_a_changed_layout_has_a_new_number() -> None:
    """Configurations in journals carry the state of windows: when this changes, raise panes.LAYOUT."""
    log = hashlib.sha256()
    for fn in sorted(set(FUNCTIONS) - {EWMA, CUSUM_HIGH, CUSUM_LOW}):
        column = Column(fn, PARAMETERS.get(fn, ()))
        for k in range(200):
            column.take(T0 + k * 7 * PANE_NS // 10, float(k % 2) if fn == HELD else float(k * 37 % 101) - 50)
        log.update(column.block.rows(np.array([1])).tobytes())
    assert (panes.LAYOUT, log.hexdigest()[:16]) == (3, "672f10d74c982e91")


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_columns_of_a_block_do_not_know_of_each_other(fn: int) -> None:
    """Two columns of three seats in one block; of each a seat that the other leaves alone, and one that both use."""
    parameters, shape = PARAMETERS.get(fn, ()), panes.shape(fn)
    apart, among = ([Column(fn, parameters) for _ in range(2)] for _ in range(2))
    words = np.zeros(panes.block_words(6, shape), np.int64)
    for number, column in enumerate(among):
        column.words, column.block = words, panes.Block(words, 3, shape, 2, number)
        column.spec = np.array(panes.specification(fn, PANE_NS, 0, 3, 0, 2, number), np.int64)
        panes.clean(fn, column.block)
    for given in zip(samples(8, 400), samples(9, 400), strict=True):
        for number, (time_ns, x) in enumerate(given):
            for seat in (1 + number, 0):
                said = apart[number].take(time_ns, x, seat=seat)
                assert np.array_equal(among[number].take(time_ns, x, seat=seat), said, equal_nan=True)
    for one, other in zip(among, apart, strict=True):
        assert np.array_equal(one.block.rows(np.arange(3)), other.block.rows(np.arange(3)))
    assert [column.block.is_new.tolist() for column in among] == [[False, False, True], [False, True, False]]
