import math

import numpy as np
import pytest

from simulators.sensor import LIBRARY, YEAR_S, Sensor, SensorType


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


def test_stuck_sensor_repeats_itself():
    noisy = sensor(sigma=1.0)
    frozen = noisy.read(20.0, 1.0)
    noisy.stuck = True
    assert {noisy.read(30.0, 1.0) for _ in range(5)} == {frozen}


@pytest.mark.parametrize("kind", sorted(LIBRARY))
def test_every_instrument_of_the_library_reads_near_the_truth(kind):
    assert Sensor(LIBRARY[kind], np.random.default_rng(3)).read(10.0, 1.0) == pytest.approx(
        10.0, abs=150 if kind == "co2_ppm" else 5
    )
