"""Virtual, redundant and calibrated points in the rule stage, against the loop that defines it."""

import itertools
import random

import numpy as np
import pytest

from telemetry.frame import Admission, Derived, Entries, join_derived, slice_entries
from tests.unit.rules.histories import Story, computed_variants, rule_engine
from tests.unit.rules.oracle import Oracle, Said, Transition, known
from tests.unit.rules.test_condition import order


def decided(entries: Entries, cuts: list[int], *, restarts: bool = False) -> tuple[list[Transition], Admission]:
    """By the engine, in pieces; between two of them its state goes through a snapshot when `restarts`."""
    engine, probe = rule_engine()
    out, parts, starts = [], [], []
    for a, b in itertools.pairwise([0, *sorted(cuts), len(entries)]):
        parts.append(engine.step(slice_entries(entries, a, b)).admission)
        starts.append(a)
        if restarts:
            saved, out = engine.snapshot(), out + probe.out
            engine, probe = rule_engine()
            engine.restore(saved)
    verdict, quality = (np.concatenate([getattr(p, name) for p in parts]) for name in ("verdict", "quality"))
    return out + probe.out, Admission(verdict, quality, join_derived([p.derived for p in parts], starts))


def said(derived: Derived, first: int) -> list[Said]:
    rows = zip(*(column.tolist() for column in derived), strict=True)
    return [Said(first + entry, point, ts_ns, known(value), quality) for entry, point, ts_ns, value, quality in rows]


def agree(entries: Entries, seed: int) -> tuple[list[Transition], list[Said]]:
    whole, admission = decided(entries, [])
    oracle = Oracle()
    oracle.step(entries, admission)
    made = said(admission.derived, entries.first)
    assert sorted(made, key=str) == sorted(oracle.said, key=str)
    assert sorted(whole, key=order) == sorted(oracle.out, key=order)
    cuts = random.Random(seed).sample(range(1, len(entries)), min(12, len(entries) - 1))
    for restarts in (False, True):
        again, other = decided(entries, cuts, restarts=restarts)
        assert again == whole, f"cut at {sorted(cuts)}"
        assert said(other.derived, entries.first) == made
    return whole, made


def story(seed: int, length: int) -> Entries:
    made = Story(seed, computed_variants())
    for _ in range(length):
        made.act()
    return made.end()


@pytest.mark.parametrize("seed", range(6))
def test_random_histories_equal_the_oracle(seed: int) -> None:
    transitions, samples = agree(story(seed, 300), seed)
    assert {"DEW", "BEST", "OVER", "VOTE"} <= {t.subject.partition("@")[0] for t in transitions}
    assert {0, 1} <= {sample.quality & 3 for sample in samples}


def test_every_sample_of_a_point_is_later_than_the_one_before() -> None:
    _, samples = agree(story(21, 400), 21)
    by_point: dict[int, list[int]] = {}
    for sample in samples:
        by_point.setdefault(sample.point, []).append(sample.ts_ns // 1_000_000)
    assert len(by_point) > 10
    assert all(times == sorted(set(times)) for times in by_point.values())
    assert any(sample.value is None for sample in samples)
