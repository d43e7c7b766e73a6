"""The rule stage against the loop that defines it."""

import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rules import loop
from telemetry.frame import Admission, Entries, slice_entries
from tests.unit.rules.histories import S, Story, rule_engine
from tests.unit.rules.oracle import Oracle, Transition


def decided(entries: Entries, cuts: list[int]) -> tuple[list[Transition], Admission]:
    engine, probe = rule_engine()
    bounds = [0, *sorted(cuts), len(entries)]
    parts = [engine.step(slice_entries(entries, a, b)).admission for a, b in itertools.pairwise(bounds) if a < b]
    return probe.out, Admission(np.concatenate([p.verdict for p in parts]), np.concatenate([p.quality for p in parts]))


def agree(entries: Entries, seed: int) -> list[Transition]:
    rng = random.Random(seed)
    whole, admission = decided(entries, [])
    oracle = Oracle()
    oracle.step(entries, admission)
    expected = sorted(oracle.out, key=order)
    assert sorted(whole, key=order) == expected
    cuts = rng.sample(range(1, len(entries)), min(12, len(entries) - 1))
    assert decided(entries, cuts)[0] == whole, f"cut at {sorted(cuts)}"
    return whole


def order(t: Transition) -> tuple[int, int, int, str]:
    return (t.position, t.phase, t.time_ns if t.phase == 0 else 0, t.subject)


def story(seed: int, length: int) -> Entries:
    made = Story(seed)
    for _ in range(length):
        made.act()
    return made.end()


@pytest.mark.parametrize("seed", range(8))
def test_random_histories_equal_the_oracle(seed: int) -> None:
    assert agree(story(seed, 400), seed)


def test_a_burst_of_one_device_equals_the_oracle() -> None:
    made = Story(7)
    for _ in range(40):
        made.act()
    made.now += 10 * S
    made.burst("d-1", 1000)
    for _ in range(40):
        made.act()
    assert agree(made.end(), 7)


PRINT = """
import sys
from tests.unit.rules.test_condition import decided, story
for seed in range(3):
    print(decided(story(seed, 200), [50, 51, 120])[0])
"""


def test_without_the_compiler_the_same_loop_decides_the_same() -> None:
    """numba off: plain Python over the same arrays, slow and equal."""
    ran = subprocess.run(
        [sys.executable, "-c", PRINT], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert ran.stdout.splitlines() == [str(decided(story(seed, 200), [50, 51, 120])[0]) for seed in range(3)]


def test_one_compilation_serves_every_kind_of_run() -> None:
    """Whole runs, slices, empty ones, read-only columns: another signature would stop core for a minute while it is compiled."""
    for seed in range(3):
        agree(story(seed, 100), seed)
    assert len(loop.run.signatures) == 1


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(1000, 1300))
def test_many_random_histories_equal_the_oracle(seed: int) -> None:
    assert agree(story(seed, 1500), seed)
