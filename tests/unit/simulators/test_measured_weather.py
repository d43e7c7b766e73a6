"""Recorded weather answers as the generator does, and bridges what is missing."""

import numpy as np
import pytest

from simulators.measured_weather import COLUMNS, MeasuredWeather, read_agc2022, read_beijing
from tests.shared_data import recording

DAY = 86_400.0


def lines(name):
    return recording(name).read_text("utf-8").splitlines()


def plain(**columns):
    base = {"temp_c": [10.0, 20.0, 30.0], "rh_pct": [50.0] * 3, "rad_w_m2": [0.0, 100.0, 300.0], "wind_m_s": [2.0, 4.0, 4.0]}
    base |= {"wind_dir_deg": [350.0, 10.0, 20.0], "rain": [0.0, 1.0, 0.0]}
    return base | columns


def test_between_readings_values_are_straight_lines_and_rain_is_that_of_the_last():
    weather = MeasuredWeather([0.0, 100.0, 200.0], plain())
    now = weather.at(50.0)
    assert (now.temp_c, now.rad_w_m2, now.wind_m_s, now.gust_m_s) == (15.0, 50.0, 3.0, 4.5)
    assert (now.wind_dir_deg, now.rain) == (350.0, False)
    assert weather.at(100.0).rain is True
    assert weather.at(200.0).temp_c == 30.0
    assert weather.at(200.0).rain is False
    assert now.sky_temp_c < now.temp_c - 10
    assert weather.missing == dict.fromkeys(COLUMNS[:-1], 0)


def test_holes_are_bridged_and_counted():
    weather = MeasuredWeather([0.0, 100.0, 200.0], plain(temp_c=[10.0, np.nan, 30.0], rain=[np.nan, 1.0, np.nan]))
    assert weather.at(100.0).temp_c == 20.0
    assert weather.at(200.0).rain is True
    assert (weather.missing["temp_c"], weather.missing["rain"], weather.missing["rh_pct"]) == (1, 2, 0)


@pytest.mark.parametrize(
    ("times", "columns", "says"),
    [
        ([0.0, 0.0, 1.0], plain(), "rise"),
        ([0.0], plain(), "at least two"),
        ([0.0, 1.0, 2.0], {k: v for k, v in plain().items() if k != "rain"}, "rain is not there"),
        ([0.0, 1.0, 2.0], plain(temp_c=[1.0, 2.0]), "one value for each of the 3"),
        ([0.0, 1.0, 2.0], plain(temp_c=[np.nan] * 3), "at least one that is a number"),
    ],
)
def test_a_recording_that_is_none_is_refused(times, columns, says):
    with pytest.raises(ValueError, match=says):
        MeasuredWeather(times, columns)


@pytest.mark.parametrize("moment", [-1.0, 201.0, np.nan])
def test_outside_of_the_recording_there_is_no_weather(moment):
    with pytest.raises(ValueError, match="begin within it"):
        MeasuredWeather([0.0, 100.0, 200.0], plain()).at(moment)


def test_a_file_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="no column Rhout"):
        read_agc2022(["Date,Tout", "2/1/2022 0:00,1"])


def test_greenhouse_challenge_weather():
    weather = read_agc2022(lines("greenhouse/agc2022_lettuce/weather.csv"))
    first, last = weather.span_s
    assert (last - first) / DAY == pytest.approx(48, abs=0.1)
    assert first == 1_643_670_000.0  # 2022-02-01 00:00 in the Netherlands
    now = weather.at(first)
    assert (now.temp_c, now.rh_pct, now.wind_m_s, now.wind_dir_deg) == (5.1, 77.1, 4.4, 128.0)
    assert now.sky_temp_c == pytest.approx(-12.0, abs=1.5)  # net -78 W/m2
    noon = [weather.at(first + d * DAY + 12.5 * 3600).rad_w_m2 for d in range(40)]
    assert 100 < np.mean(noon) < 400
    assert max(weather.missing.values()) < 100


def test_beijing_weather_has_nights_and_no_more_sun_than_a_clear_sky():
    weather = read_beijing(lines("weather/beijing_prsa/PRSA_Data_Dongsi_20130301-20170228.csv"))
    first, _ = weather.span_s
    assert first == 1_362_067_200.0  # 2013-03-01 00:00 UTC+8
    july, january = ((d * DAY + first + 12 * 3600) for d in (137, 320))
    assert weather.at(july).temp_c > 22
    assert weather.at(january).temp_c < 8
    assert 300 < np.mean([weather.at(july + d * DAY).rad_w_m2 for d in range(20)]) < 900
    assert weather.at(july + 12 * 3600).rad_w_m2 == 0.0
    assert 0 <= weather.at(july).rh_pct <= 100
