import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry import sun

LATITUDE, LONGITUDE = 36.7, 118.0


def unix_s(text: str) -> float:
    return float(np.datetime64(text, "s").astype(np.int64))


@pytest.mark.parametrize(
    ("day", "elevation", "ghi", "sum_mj"), [(355, 29.9, 485, 10.2), (80, 52.9, 813, 21.5), (172, 76.7, 1006, 31.6)]
)
def test_check_values_at_latitude_36_7(day, elevation, ghi, sum_mj):
    noon = sun.elevation_deg(LATITUDE, day, 12)
    assert noon == pytest.approx(elevation, abs=0.05)
    assert sun.clear_sky_ghi_w_m2(noon) == pytest.approx(ghi, abs=0.5)
    minutes = np.arange(1440) / 60
    total = sun.clear_sky_ghi_w_m2(sun.elevation_deg(LATITUDE, day, minutes)).sum() * 60 / 1e6
    assert total == pytest.approx(sum_mj, abs=0.05)


def test_night_is_dark_and_nan_stays_nan():
    assert sun.clear_sky_ghi_w_m2([-90.0, -0.1, 0.0, np.nan]).tolist()[:3] == [0, 0, 0]
    assert np.isnan(sun.clear_sky_ghi_w_m2(np.nan))
    assert 0 <= sun.clear_sky_ghi_w_m2(1e-9) < 1e-9


def test_day_of_year_counts_from_one_and_knows_leap_years():
    assert sun.day_of_year(unix_s("2026-01-01T00:00:00")) == 1
    assert sun.day_of_year(unix_s("2026-12-31T12:00:00")) == 365.5
    assert sun.day_of_year(unix_s("2024-12-31T00:00:00")) == 366
    assert sun.day_of_year(-1.0) == pytest.approx(366, abs=1e-4)
    assert np.isnan(sun.day_of_year(np.nan))


def almanac_elevation_deg(at_s: float) -> float:
    """The Astronomical Almanac's low-precision sun (0.01 degrees), written independently of the product's equations."""
    days = at_s / 86400 - 10957.5  # since J2000
    anomaly = np.radians(357.528 + 0.9856003 * days)
    longitude = np.radians(280.460 + 0.9856474 * days + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    obliquity = np.radians(23.439 - 4e-7 * days)
    ascension = np.arctan2(np.cos(obliquity) * np.sin(longitude), np.cos(longitude))
    declination = np.arcsin(np.sin(obliquity) * np.sin(longitude))
    sidereal = np.radians(280.46062 + 360.98564737 * days + LONGITUDE)
    latitude = np.radians(LATITUDE)
    hour_angle = np.cos(sidereal - ascension)
    sine = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * hour_angle
    return float(np.degrees(np.arcsin(sine)))


@pytest.mark.parametrize("date", ["2026-01-15", "2026-03-20", "2026-06-21", "2026-09-10", "2026-12-21"])
def test_at_sunrise_and_sunset_the_almanacs_sun_is_at_the_horizon(date):
    for at in sun.sunrise_sunset_s(unix_s(f"{date}T04:00:00"), LATITUDE, LONGITUDE):
        assert almanac_elevation_deg(at) == pytest.approx(sun.HORIZON_DEG, abs=0.6)  # 0.6 degrees are 3 minutes here


def test_elevation_follows_the_almanac_through_the_year():
    for at in unix_s("2026-01-01T00:00:00") + np.arange(0, 365 * 86400, 7.3 * 3600):
        assert sun.elevation_at_deg(at, LATITUDE, LONGITUDE) == pytest.approx(almanac_elevation_deg(at), abs=1.5)


def test_sun_stands_at_the_horizon_angle_at_sunrise_and_sunset():
    for at in sun.sunrise_sunset_s(unix_s("2026-03-05T00:00:00"), LATITUDE, LONGITUDE):
        assert sun.elevation_at_deg(at, LATITUDE, LONGITUDE) == pytest.approx(sun.HORIZON_DEG, abs=0.2)


def test_polar_day_and_night_have_no_sunrise():
    assert sun.day_length_h(80, 172) == 24
    assert sun.day_length_h(80, 355) == 0
    assert all(np.isnan(sun.sunrise_sunset_s(unix_s("2026-06-21T00:00:00"), 80, 0)))


def test_solar_noon_is_the_highest_point():
    start = unix_s("2026-05-01T00:00:00")
    times = start + np.arange(0, sun.DAY_S, 60)
    highest = times[np.argmax(sun.elevation_at_deg(times, LATITUDE, LONGITUDE))]
    assert sun.solar_hour(highest, LONGITUDE) == pytest.approx(12, abs=0.05)


def test_equation_of_time_reaches_its_known_extremes():
    days = np.arange(1, 366)
    minutes = sun.equation_of_time_min(days)
    assert minutes.max() == pytest.approx(16.4, abs=0.2)
    assert minutes.min() == pytest.approx(-14.3, abs=0.2)


@given(st.floats(-90, 90), st.floats(1, 366), st.floats(0, 24))
def test_elevation_is_symmetric_about_noon_and_bounded(latitude, day, hour):
    elevation = sun.elevation_deg(latitude, day, hour)
    assert -90 <= elevation <= 90
    assert elevation == pytest.approx(sun.elevation_deg(latitude, day, 24 - hour), abs=1e-6)


def test_arrays_broadcast_over_places_and_times():
    assert sun.elevation_at_deg(np.zeros((3, 1)), np.array([0.0, 36.7]), 118.0).shape == (3, 2)
