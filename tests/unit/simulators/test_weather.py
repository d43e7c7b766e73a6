import numpy as np
import pytest

from simulators.weather import GRID_S, HISTORY_MAX, Scenario, Weather

START_S = 1_775_750_400.0  # 2026-04-09 16:00 UTC, midnight in Shandong


def weather(seed=1, **scenario) -> Weather:
    return Weather(
        start_s=START_S, latitude=36.7, longitude=118.0, scenario=Scenario(**scenario), random=np.random.default_rng(seed)
    )


def day(generator: Weather, step_s: float = 60.0) -> list:
    return [generator.at(START_S + s) for s in np.arange(0, 86400, step_s)]


def test_same_seed_same_weather_however_often_it_is_asked():
    often, seldom = weather(), weather()
    hourly = [seldom.at(START_S + h * 3600) for h in range(24)]
    for s in np.arange(0, 86400, 7.0):
        sample = often.at(START_S + s)
        if s % 3600 == 0:
            assert sample == hourly[int(s // 3600)]
    assert weather(2).at(START_S + 3600) != hourly[1]


def test_values_are_physical():
    for sample in day(weather(rain_per_day=20, wind_sd_m_s=3)):
        assert -30 < sample.temp_c < 45
        assert 0 < sample.rh_pct <= 100
        assert 0 <= sample.rad_w_m2 < 1100
        assert 0 <= sample.wind_m_s <= sample.gust_m_s < 60
        assert 0 <= sample.wind_dir_deg < 360
        assert sample.sky_temp_c < sample.temp_c


def test_clear_day_has_the_suns_radiation_and_the_afternoons_warmth():
    samples = day(weather(sky="clear", anomaly_sd_k=0))
    radiation = [s.rad_w_m2 for s in samples]
    assert radiation[0] == 0
    assert 800 < max(radiation) < 1000
    assert 11.5 < np.argmax(radiation) / 60 < 12.7
    assert 14 < np.argmax([s.temp_c for s in samples]) / 60 < 15.2
    assert max(s.temp_c for s in samples) - min(s.temp_c for s in samples) == pytest.approx(12, abs=0.1)


def test_overcast_is_dark_and_skies_change():
    assert max(s.rad_w_m2 for s in day(weather(sky="overcast"))) < 300
    skies = weather(5)
    ratios = {round(s.sky_temp_c - s.temp_c) < -6 for s in day(skies)}
    assert ratios == {True, False}


def test_it_rains_from_covered_skies_only():
    assert not any(s.rain for s in day(weather(sky="clear", rain_per_day=100)))
    assert any(s.rain for s in day(weather(sky="overcast", rain_per_day=20)))


def test_gale_comes_at_its_hour():
    gusts = [s.gust_m_s for s in day(weather(wind_peak_m_s=12, wind_peak_hour=17.5))]
    assert max(gusts) > 17
    assert 17 < np.argmax(gusts) / 60 < 18.5
    assert max(gusts[: 12 * 60]) < 12


def test_late_question_is_answered_from_memory_and_memory_is_bounded():
    generator = weather()
    early = generator.at(START_S + 100)
    generator.at(START_S + 200)
    assert generator.at(START_S + 100) == early
    generator.at(START_S + 100_000)
    assert generator.at(START_S + 100) == generator.at(START_S + (100_000 // GRID_S - HISTORY_MAX + 1) * GRID_S)
