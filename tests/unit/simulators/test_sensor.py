import math

import numpy as np
import pytest

from simulators.sensor import LIBRARY, YEAR_S, Sensors, SensorType


class Sensor:
    """One instrument of one house, read whenever its truth is told."""

    def __init__(self, kind: SensorType, random: np.random.Generator) -> None:
        self.units, self._random = Sensors([kind], [random]), random

    def read(self, true_value: float, dt_s: float) -> float:
        self.units.advance(np.array([[true_value]]), dt_s)
        return float(self.units.read(self._random.standard_normal((1, 1)))[0, 0])


def sensor(seed=1, **figures) -> Sensor:
    return Sensor(SensorType(**figures), np.random.default_rng(seed))


def test_exact_sensor_reads_the_truth():
    assert Sensor(LIBRARY["exact"], np.random.default_rng(1)).read(12.345, 1.0) == 12.345


def test_slow_sensor_shows_63_percent_of_a_step_after_its_time_constant():
    slow = sensor(tau_s=30)
    slow.read(0.0, 0.0)
    assert slow.read(10.0, 30.0) == pytest.approx(6.321, abs=1e-3)


def test_filter_does_not_depend_on_the_sample_rate():
    once, often = sensor(tau_s=30), sensor(tau_s=30)
    for unit in (once, often):
        unit.read(0.0, 0.0)
    for _ in range(10):
        last = often.read(10.0, 6.0)
    assert once.read(10.0, 60.0) == pytest.approx(last)


def test_noise_bias_and_gain_have_the_stated_size():
    readings = np.array([sensor(seed, bias_sd=0.2, gain_sd=0.01).read(100.0, 1.0) for seed in range(2000)])
    assert readings.std() == pytest.approx(math.hypot(0.2, 1.0), rel=0.1)
    noisy = sensor(sigma=0.05)
    assert np.std([noisy.read(20.0, 1.0) for _ in range(2000)]) == pytest.approx(0.05, rel=0.1)


def test_drift_grows_with_age():
    drifting = sensor(drift_per_year=1.0)
    assert drifting.read(20.0, YEAR_S / 2) == pytest.approx(20.5)


def test_reading_is_clamped_and_quantised():
    limited = sensor(low=0, high=100, quantum=0.5)
    assert limited.read(130.0, 1.0) == 100
    assert limited.read(-5.0, 1.0) == 0
    assert limited.read(20.3, 1.0) == 20.5


def test_unknown_truth_gives_nan_and_the_filter_starts_anew():
    slow = sensor(tau_s=1000)
    slow.read(0.0, 1.0)
    assert math.isnan(slow.read(math.nan, 1.0))
    assert slow.read(50.0, 1.0) == 50.0


def test_clogged_sensor_is_as_much_slower():
    slow = sensor(tau_s=30)
    slow.read(0.0, 0.0)
    slow.units.slow_down(0, 0, 10.0)
    assert slow.read(10.0, 300.0) == pytest.approx(6.321, abs=1e-3)
    slow.units.slow_down(0, 0, 1.0)
    assert slow.read(10.0, 300.0) > 9.99


def test_span_that_wears_grows_with_age():
    worn = sensor(drift_fraction_per_year=-0.2)
    assert worn.read(20.0, YEAR_S / 2) == pytest.approx(18.0)


def test_a_house_measures_the_same_however_many_others_there_are():
    kinds = list(LIBRARY.values())
    noise = np.random.default_rng(9).standard_normal((len(kinds), 5))
    many = Sensors(kinds, [np.random.default_rng(seed) for seed in range(5)])
    truth = np.full((len(kinds), 5), 20.0)
    many.advance(truth, 0.0)
    many.advance(truth + 1.0, 5.0)
    for house in range(5):
        alone = Sensors(kinds, [np.random.default_rng(house)])
        alone.advance(truth[:, :1], 0.0)
        alone.advance(truth[:, :1] + 1.0, 5.0)
        assert np.array_equal(alone.read(noise[:, [house]])[:, 0], many.read(noise)[:, house])


@pytest.mark.parametrize("kind", sorted(LIBRARY))
def test_every_instrument_of_the_library_reads_near_the_truth(kind):
    assert Sensor(LIBRARY[kind], np.random.default_rng(3)).read(10.0, 1.0) == pytest.approx(
        10.0, abs={"co2_ppm": 150, "load_kg": 120, "vwc_pct": 12}.get(kind, 5)
    )
