import math

import numpy as np
import pytest

from rules.window import COVERED, PANES, STATS, PaneWindows

PANE_NS = 10_000_000_000


def samples(seed: int, *, count: int = 5, events: int = 600):
    """Sorted by instance, with jumps back, gaps, NaN, infinities, denormals and zeros of both signs."""
    rng = np.random.default_rng(seed)
    instance = np.sort(rng.integers(0, count, events))
    step = rng.choice(
        [0, 1, 3_000_000_000, 30_000_000_000, -70_000_000_000, 700_000_000_000], events, p=[0.1, 0.1, 0.4, 0.35, 0.04, 0.01]
    )
    ts = 1_700_000_000_000_000_000 + np.cumsum(step)
    value = rng.normal(20, 5, events)
    odd = rng.random(events) < 0.1
    value[odd] = rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0, 5e-324, 2.0**63], int(odd.sum()))
    return instance, ts, value


def naive(instance, ts, value):
    """The definition, one sample at a time with whole lists."""
    out = {stat: [] for stat in STATS}
    state: dict[int, dict] = {}
    for i, t, v in zip(instance.tolist(), ts.tolist(), value.tolist(), strict=True):
        p = t // PANE_NS
        s = state.setdefault(i, {"head": None, "first": None, "kept": []})
        if s["head"] is None or p - s["head"] >= PANES:
            s["first"] = None
        s["head"] = p if s["head"] is None else max(s["head"], p)
        if math.isfinite(v) and p > s["head"] - PANES:
            s["first"] = p if s["first"] is None else min(s["first"], p)
            s["kept"].append((p, v))
        inside = [x for q, x in s["kept"] if q > s["head"] - PANES]
        covered = s["first"] is not None and s["head"] - s["first"] >= COVERED
        known = covered and len(inside) > 0
        out["mean"].append(math.fsum(inside) / len(inside) if known else math.nan)
        out["min"].append(min(inside) if known else math.nan)
        out["max"].append(max(inside) if known else math.nan)
        out["std"].append(float(np.std(inside)) if covered and len(inside) > 1 else math.nan)
        out["count"].append(len(inside) if covered else math.nan)
    return out


@pytest.mark.parametrize("seed", range(8))
def test_same_as_the_definition(seed):
    instance, ts, value = samples(seed)
    got = PaneWindows(5, PANE_NS, STATS).update(instance, ts, value)
    want = naive(instance, ts, value)
    assert np.isfinite(got["mean"]).any()
    for stat in STATS:
        rtol = 1e-6 if stat == "std" else 1e-12
        np.testing.assert_allclose(got[stat], want[stat], rtol=rtol, atol=1e-4 if stat == "std" else 1e-9, err_msg=stat)


@pytest.mark.parametrize("stats", [STATS, ("mean",), ("min", "count"), ("std",), ("max",)])
@pytest.mark.parametrize("seed", range(3))
def test_fall_back_is_equal_bit_for_bit_and_cuts_do_not_matter(stats, seed):
    instance, ts, value = samples(seed + 100)
    whole = PaneWindows(5, PANE_NS, stats)
    rounds = PaneWindows(5, PANE_NS, stats, numba=False)
    a, b = whole.update(instance, ts, value), rounds.update(instance, ts, value)
    for stat in stats:
        assert np.array_equal(np.isnan(a[stat]), np.isnan(b[stat]))
        known = ~np.isnan(a[stat])
        assert a[stat][known].tobytes() == b[stat][known].tobytes()
    one, parts = PaneWindows(5, PANE_NS, stats), []
    for k in range(len(instance)):
        parts.append(one.update(instance[k : k + 1], ts[k : k + 1], value[k : k + 1])[stats[0]])
        if k % 97 == 0:
            saved, one = one.snapshot(), PaneWindows(5, PANE_NS, stats)
            one.restore(saved)
    assert np.array_equal(np.concatenate(parts), a[stats[0]], equal_nan=True)
    for name, array in whole.snapshot().items():
        assert np.array_equal(array, one.snapshot()[name], equal_nan=True)
        assert np.array_equal(array, rounds.snapshot()[name], equal_nan=True)


def test_unknown_until_four_fifths_are_covered():
    ts = np.arange(60, dtype=np.int64) * PANE_NS
    got = PaneWindows(1, PANE_NS, ("mean",)).update(np.zeros(60, np.int64), ts, np.ones(60))["mean"]
    assert np.flatnonzero(~np.isnan(got))[0] == COVERED


def test_resize_keeps_chosen_rows():
    instance, ts, value = samples(7)
    windows = PaneWindows(5, PANE_NS, ("mean", "min"))
    windows.update(instance, ts, value)
    before = windows.snapshot()
    windows.resize(np.array([3, -1, 0]))
    after = windows.snapshot()
    for name in before:
        assert np.array_equal(after[name][[0, 2]], before[name][[3, 0]], equal_nan=True)
    assert after["count"][1].sum() == 0


def test_memory_of_ten_thousand_devices_with_ten_windows():
    assert PaneWindows(1_000, PANE_NS, ("mean",)).nbytes * 100 < 70e6


@pytest.mark.parametrize("numba", [True, False])
def test_limits_of_time(numba):
    ts = np.array([np.iinfo(np.int64).min, 0, np.iinfo(np.int64).max, -1], np.int64)
    got = PaneWindows(1, PANE_NS, STATS, numba=numba).update(np.zeros(4, np.int64), ts, np.ones(4))
    assert all(np.isnan(column).all() for column in got.values())


def test_unknown_statistic_is_refused():
    with pytest.raises(ValueError, match="median"):
        PaneWindows(1, PANE_NS, ("median",))
