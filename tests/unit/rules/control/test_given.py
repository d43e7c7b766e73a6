"""What controllers are given: redundant sensors as one value."""

import numpy as np

from rules.control.given import is_in, known_or, middle
from telemetry.site import MODES


def test_middle_is_the_median_of_what_is_known() -> None:
    """As numpy's median without the unknown ones, whichever of three are known."""
    rng = np.random.default_rng(0)
    sensors = np.where(rng.random((3, 2000)) < 0.4, np.nan, rng.normal(20.0, 5.0, (3, 2000)))
    some = np.isfinite(sensors).any(axis=0)
    assert not some.all()
    found = middle(*sensors)
    assert np.array_equal(np.isnan(found), ~some)
    np.testing.assert_allclose(found[some], np.nanmedian(sensors[:, some], axis=0), rtol=1e-15)


def test_a_mode_is_one_of_some_and_an_unknown_one_is_none() -> None:
    """Numbers of modes against their names; a value stands in for what is unknown."""
    mode = np.array([*range(len(MODES)), np.nan])
    assert is_in(mode, ("EMPTY", "STORM")).tolist() == [*(name in {"EMPTY", "STORM"} for name in MODES), False]
    assert known_or(np.array([1.0, np.nan]), 7.0).tolist() == [1.0, 7.0]
