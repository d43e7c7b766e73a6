"""Random calls of control primitives, and what every primitive with memory has to keep: purity, snapshots, any grouping of calls."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]
S = 1_000_000_000
T0 = 1_700_000_000 * S
NAN = float("nan")
N, SAMPLE_S = 7, 10  # units, period of samples
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.torture) for seed in range(1, 8))]
# (state, time of the call, number of the call whose modes stand, whether its input comes now) -> (state, output)
Step = Callable[[Any, int, int, bool], tuple[Any, Array]]


def part(value: Any, unit: int | None) -> Any:
    """Parameters of one unit."""
    return value[unit : unit + 1] if unit is not None and isinstance(value, np.ndarray) else value


def times(rng: np.random.Generator, steps: int, period_s: int) -> Array:
    """Times of calls [ns], mostly a period apart, sometimes several, now and then twice the same."""
    apart = rng.choice([0, 1, 2, 3, 4, 8], steps, p=[0.03, 0.72, 0.1, 0.06, 0.05, 0.04])
    return T0 + np.cumsum(apart * period_s) * S


def walk(rng: np.random.Generator, steps: int, n: int, low: float, high: float, unknown: float = 0.15) -> Array:
    """(steps, n) values in 1/64 that wander and jump between limits, unknown in stretches."""
    out = np.empty((steps, n))
    x = rng.uniform(low, high, n)
    for k in range(steps):
        jumps = rng.random(n) < 0.1
        x = np.where(jumps, rng.uniform(low, high, n), np.clip(x + rng.normal(0.0, (high - low) / 40.0, n), low, high))
        out[k] = np.round(x * 64.0) / 64.0
    gone = rng.random((steps, n)) < unknown
    for k in range(1, steps):
        gone[k] |= gone[k - 1] & (rng.random(n) < 0.6)
    return np.where(gone, NAN, out)


def leaves(state: Any) -> Iterator[Array]:
    for part in state:
        if isinstance(part, tuple):
            yield from leaves(part)
        else:
            yield part


def rebuilt(state: Any, make: Callable[[Array], Array]) -> Any:
    return type(state)(*(rebuilt(part, make) if isinstance(part, tuple) else make(part) for part in state))


def frozen(state: Any) -> Any:
    for leaf in leaves(state):
        leaf.flags.writeable = False
    return state


def restored(leaf: Array) -> Array:
    """Through bytes, as a snapshot keeps it."""
    file = io.BytesIO()
    np.save(file, leaf, allow_pickle=False)
    file.seek(0)
    return np.asarray(np.load(file, allow_pickle=False))


def outputs(step: Step, state: Any, times_ns: Array) -> tuple[Array, Any]:
    """Every call with input; arrays of every state are read-only, so that a step that writes into one fails."""
    out = []
    for k, time_ns in enumerate(times_ns):
        state, shown = step(frozen(state), int(time_ns), k, True)
        out.append(shown)
    return np.array(out), state


def outputs_with_more_calls(step: Step, state: Any, times_ns: Array, rng: np.random.Generator) -> tuple[Array, Any]:
    """The same with calls that bring nothing in between, and the state through bytes now and then."""
    out = []
    for k, time_ns in enumerate(times_ns):
        if k:
            before = int(times_ns[k - 1])
            between = rng.integers(before, int(time_ns) + 1, rng.integers(0, 4))
            for quiet in sorted({*between.tolist(), *([int(time_ns)] if rng.random() < 0.3 else [])}):
                state, _ = step(frozen(state), quiet, k - 1, False)
        if rng.random() < 0.05:
            state = rebuilt(state, restored)
        state, shown = step(frozen(state), int(time_ns), k, True)
        out.append(shown)
    return np.array(out), state


def agree_in_any_grouping(step: Step, one: Callable[[int], Step], state: Any, times_ns: Array, rng: np.random.Generator) -> Array:
    """Outputs of all calls; equal with more calls in between, and for each unit alone (`one(unit)` is its step)."""
    whole, last = outputs(step, state, times_ns)
    more, last_of_more = outputs_with_more_calls(step, state, times_ns, rng)
    np.testing.assert_array_equal(more, whole)
    for a, b in zip(leaves(last), leaves(last_of_more), strict=True):
        np.testing.assert_array_equal(a, b)
    for leaf in leaves(last):
        assert isinstance(leaf, np.ndarray)
        assert leaf.dtype.kind in "fib"
        assert len(leaf) == whole.shape[1]
    for unit in range(0, whole.shape[1], 4):
        alone, _ = outputs(one(unit), rebuilt(state, lambda leaf, u=unit: leaf[u : u + 1].copy()), times_ns)
        np.testing.assert_array_equal(alone[:, 0], whole[:, unit])
    return whole
