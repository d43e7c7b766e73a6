"""Solar greenhouses behind their profile: every point is made, the roller's panel, the soil's water, faults, together as alone."""

import numpy as np
import pytest

from bench.closed_loop import WINTER, WINTER_S, site_weather, specs_of
from simulators.plants.solar_greenhouse import SolarGreenhouses, make
from simulators.weather import Scenario
from telemetry.errors import CallerError
from tests.unit.simulators.points import KINDS, drives_at, points_of

NOON_S = WINTER_S + 12 * 3600
REST = {
    "vent_top": 0.0, "vent_bottom": 0.0, "shade_net": 0.0, "blanket": 1.0, "blanket_permit": 0.0, "heater": 0.0, "circulation_fan": 0.0,
    "irrigation_valve": 0.0, "co2_valve": 0.0,
}  # fmt: skip


def houses(n=1, start_s=NOON_S, scenario=WINTER):
    return make(n, site_weather(scenario, start_s), start_s, [np.random.default_rng(house) for house in range(n)])


class Site:
    """Houses with drives that a test sets."""

    def __init__(self, plant=None, start_s=NOON_S):
        self.plant = plant or houses()
        self.unix_s, self.positions = start_s, drives_at(REST, len(self.plant.state.air_c))

    def run(self, seconds, **drives):
        self.positions |= drives_at(drives, len(self.plant.state.air_c))
        for _ in range(round(seconds / 10)):
            self.unix_s += 10.0
            self.plant.advance(self.unix_s, 10.0, self.positions)
        return self.plant.truth(self.positions) | self.plant.panel(self.positions)


def test_every_point_of_the_profile_is_made_and_nothing_else():
    of_drives = [name for spec in specs_of("solar_greenhouse").values() for name in (spec.feedback, spec.selector) if name]
    made = Site().run(60) | dict.fromkeys(of_drives, 0)
    assert set(made) == points_of("solar_greenhouse")
    assert set(SolarGreenhouses.SENSORS) == set(houses().truth(drives_at(REST, 1)))
    assert set(SolarGreenhouses.SENSORS.values()) <= KINDS
    assert SolarGreenhouses.PROFILE == "solar_greenhouse"


def test_light_comes_in_as_the_blanket_is_up():
    bare, half, shut = (Site().run(600, blanket=up) for up in (1.0, 0.5, 0.0))
    assert bare["rad_in_w_m2"] == pytest.approx(0.7 * 461, rel=0.02)
    assert half["rad_in_w_m2"] == pytest.approx(bare["rad_in_w_m2"] / 2)
    assert shut["rad_in_w_m2"] == 0
    assert bare["air_temp_c"] > shut["air_temp_c"] + 0.8
    netted = Site().run(600, shade_net=1.0)
    assert netted["rad_in_w_m2"] == pytest.approx(bare["rad_in_w_m2"] / 2)


def test_the_roller_stands_without_permit_and_sounds_its_siren_first():
    site = Site()
    site.run(20, blanket=0.3)
    assert site.plant.interlock()["blanket"] == pytest.approx(30)
    shown = site.run(10, blanket_permit=1.0)
    assert shown["blanket_siren_bool"] == 1
    assert shown["blanket_moving_bool"] == 0
    assert site.plant.interlock()["blanket"] == pytest.approx(30)
    shown = site.run(10)
    assert shown["blanket_siren_bool"] == 0
    assert np.isnan(site.plant.interlock()["blanket"]).all()
    moving = site.run(10, blanket=0.33)
    assert moving["blanket_moving_bool"] == 1
    assert moving["blanket_current_a"] == 8
    assert site.run(10, blanket=0.31)["blanket_current_a"] == 6
    site.run(10, blanket_permit=0.0)
    assert site.plant.interlock()["blanket"] == pytest.approx(31)


def test_a_blanket_that_jams_stalls_trips_and_is_repaired():
    site = Site()
    site.run(30, blanket=0.2, blanket_permit=1.0)
    site.plant.fail(0, "blanket_stuck", 0.5)
    assert site.run(10, blanket=0.4)["blanket_current_a"] == 8
    stalled = site.run(10, blanket=0.52)
    assert stalled["blanket_current_a"] > 13
    assert stalled["blanket_moving_bool"] == 1
    assert stalled["rad_in_w_m2"] == pytest.approx(0.5 * 0.7 * 461, rel=0.03)
    tripped = site.run(20)
    assert tripped["blanket_current_a"] == 0
    assert tripped["blanket_moving_bool"] == 0
    assert site.plant.interlock()["blanket"] == pytest.approx(52)
    site.plant.fail(0, "blanket_stuck", 0.0)
    site.run(10)
    assert np.isnan(site.plant.interlock()["blanket"]).all()


def test_a_failed_limit_lets_the_motor_run_on():
    site = Site()
    site.plant.fail(0, "limit_failed", 1.0)
    shown = site.run(30, blanket_permit=1.0)
    assert shown["blanket_moving_bool"] == 1
    assert shown["blanket_current_a"] == 8
    assert site.run(10, blanket_permit=0.0)["blanket_moving_bool"] == 0


def test_each_other_fault_shows():
    def shown(fault=None, strength=1.0, seconds=900, **drives):
        site = Site()
        if fault:
            site.plant.fail(0, fault, strength)
        return site.run(seconds, **drives), site.plant

    sound, _ = shown()
    torn, _ = shown("film_torn")
    assert torn["air_temp_c"] < sound["air_temp_c"] - 0.4
    snow, _ = shown("snow_on_film", 0.6)
    assert snow["snow_bool"] == 1
    assert snow["rad_in_w_m2"] == pytest.approx(0.4 * sound["rad_in_w_m2"])
    vented, _ = shown(vent_top=0.4)
    slipped, _ = shown("vent_slip", 1.0, vent_top=0.4)
    assert slipped["air_temp_c"] == pytest.approx(sound["air_temp_c"])
    assert vented["air_temp_c"] < sound["air_temp_c"] - 2
    sunny, _ = shown("sensor_in_sun", 5.0)
    assert sunny["air_temp_east_c"] - sunny["air_temp_west_c"] == pytest.approx(5 * sunny["rad_in_w_m2"] / 400)
    dark, plant = shown("mains_lost", vent_top=0.4)
    assert dark["mains_bool"] == 0
    held = plant.interlock()
    assert held["vent_top"] == pytest.approx(40)
    assert held["blanket"] == pytest.approx(100)
    assert held["heater"] == held["irrigation_valve"] == 0
    assert shown("person_at_blanket")[0]["person_present_bool"] == 1
    assert shown("person_inside")[0]["person_inside_bool"] == 1
    assert shown("slack_rope")[0]["slack_rope_bool"] == 1
    assert shown("blanket_skew", 15.0)[0]["blanket_skew_pct"] == 15
    with pytest.raises(CallerError, match=r"no fault 'snow'; it has blanket_stuck, limit_failed"):
        houses().fail(0, "snow", 1.0)


def test_the_frost_thermostat_of_the_panel():
    plant = houses(2)
    plant.state = plant.state._replace(air_c=np.array([4.9, 5.1]))
    assert plant.local()["heater"].tolist() == pytest.approx([1, np.nan], nan_ok=True)


def test_the_root_zone_gains_what_drips_and_loses_what_rises_and_drains():
    site = Site()
    before = site.plant.soil.water_mm[0]
    dried = site.run(3600)
    lost = before - site.plant.soil.water_mm[0]
    assert 0.05 < lost < 0.6
    assert dried["soil_vwc_pct"] == pytest.approx(100 * site.plant.soil.water_mm / 300)
    wetted = site.run(3600, irrigation_valve=1.0)
    assert site.plant.soil.water_mm[0] == pytest.approx(before - 2 * lost + 4.0, abs=0.3)
    assert wetted["soil_ec_ms_cm"] < dried["soil_ec_ms_cm"]
    site.plant.soil = site.plant.soil._replace(water_mm=np.array([120.0]))
    site.run(3600)
    assert site.plant.soil.water_mm[0] < 117


def test_it_snows_where_rain_would_freeze():
    rainy = Scenario(mean_temp_c=-5.0, daily_range_k=2.0, rain_per_day=5000.0, sky="overcast")
    assert Site(houses(scenario=rainy)).run(60)["snow_bool"] == 1
    mild = Scenario(mean_temp_c=8.0, daily_range_k=2.0, rain_per_day=5000.0, sky="overcast")
    assert Site(houses(scenario=mild)).run(60)["snow_bool"] == 0


def test_houses_together_are_as_each_alone_bit_for_bit():
    together = houses(5)
    together.fail(3, "film_torn", 1.0)
    several = Site(together).run(900, vent_top=0.3, irrigation_valve=1.0)
    for house in range(5):
        alone = make(1, site_weather(WINTER, NOON_S), NOON_S, [np.random.default_rng(house)])
        if house == 3:
            alone.fail(0, "film_torn", 1.0)
        for point, value in Site(alone).run(900, vent_top=0.3, irrigation_valve=1.0).items():
            assert value[0] == several[point][house], point
