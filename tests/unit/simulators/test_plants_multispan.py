"""Compartments and masts behind their profiles: every point is served, faults show, houses do not know of each other."""

import numpy as np
import pytest

from bench.recordings import shipped_profile
from simulators.plants import multispan, weather_station
from simulators.weather import Scenario, Weather

NOON = 1_768_449_600.0  # 2026-01-15 12:00 in Shandong


def weather(*, mean=0.0, sky="clear", start=NOON, **more):
    scenario = Scenario(mean, 8.0, mean - 5.0, sky=sky, **more)
    return Weather(start_s=start, latitude=36.7, longitude=118.8, scenario=scenario, random=np.random.default_rng(3))


def compartments(n=1, *, seeds=None, **kind):
    return multispan.make(n, weather(**kind), kind.get("start", NOON), [np.random.default_rng(s) for s in seeds or range(n)])


def drives(n=1, **positions):
    rest = {spec.name: spec.rest / (spec.high - spec.low) for spec in shipped_profile("multispan").actuators}
    return {name: np.full(n, float(value)) for name, value in (rest | positions).items()}


def run(houses, hours, at, *, start=NOON, step=30.0):
    for k in range(round(hours * 3600 / step)):
        houses.advance(start + (k + 1) * step, step, at)
    return houses.truth(at) | houses.panel(at)


@pytest.mark.parametrize(
    ("profile", "houses"), [("multispan", compartments(2)), ("weather_station", weather_station.make(2, weather(), NOON, []))]
)
def test_every_point_of_the_profile_is_served(profile, houses):
    spec = shipped_profile(profile)
    at = {a.name: np.full(2, 0.5) for a in spec.actuators}
    houses.advance(NOON + 30, 30.0, at)
    truth, panel = houses.truth(at), houses.panel(at)
    of_drives = {a.feedback for a in spec.actuators} | {f"{a.name}_target_pct" for a in spec.actuators}
    assert set(houses.SENSORS) == set(truth)
    assert {p.name for p in spec.points} - of_drives == set(truth) | set(panel)
    for name, values in (truth | panel).items():
        low, high = next((p.low, p.high) for p in spec.points if p.name == name)
        assert values.shape == (2,), name
        assert np.all((values >= low) & (values <= high)), name
    names = {a.name for a in spec.actuators}
    assert set(houses.local()) <= names
    assert set(houses.interlock()) <= names


def test_houses_together_are_houses_alone():
    at = {
        "vent_lee": 0.3,
        "mixing_valve": 0.5,
        "circulation_pump": 1,
        "fog": 1,
        "exhaust_fan": 0.5,
        "pad_pump": 1,
        "irrigation_valve": 1,
    }
    three = compartments(3, seeds=[5, 6, 7])
    three.fail(1, "drippers_clogged", 0.3)
    together = run(three, 0.1, drives(3, **at))
    for k, seed in enumerate([5, 6, 7]):
        one = compartments(1, seeds=[seed])
        if k == 1:
            one.fail(0, "drippers_clogged", 0.3)
        for name, alone in run(one, 0.1, drives(1, **at)).items():
            assert alone[0] == together[name][k], name


def both(fault, strength, hours, *, start=NOON, mean=0.0, **positions):
    """Points of a sound house and of one with a fault."""
    houses = compartments(2, seeds=[1, 1], start=start, mean=mean)
    houses.fail(1, fault, strength)
    return run(houses, hours, drives(2, **positions), start=start), houses


NIGHT = NOON + 10 * 3600


@pytest.mark.parametrize(
    ("fault", "strength", "hours", "positions", "point", "least", "most"),
    [
        ("screen_torn", 0.5, 1, {"thermal_screen": 1}, "air_temp_c", -4, -0.5),
        ("boiler_lockout", 1, 1, {"circulation_pump": 1, "mixing_valve": 1}, "pipe_supply_c", -60, -20),
        ("boiler_overheat", 15, 2, {"circulation_pump": 1, "mixing_valve": 1, "thermal_screen": 1}, "pipe_supply_c", 0, 20),
        ("ec_probe_fouled", 0.3, 0.5, {"irrigation_valve": 1, "dosing": 1}, "drain_ec_ms_cm", 0.05, 1),
        ("drippers_clogged", 0.3, 0.5, {"irrigation_valve": 1}, "drain_volume_l", 1, 500),
        ("co2_bottle_empty", 1, 0.5, {"co2_valve": 1}, "co2_ppm", -2000, -200),
        ("box_fan_off", 4, 0.1, {}, "box_fan_bool", -1, -1),
        ("person_inside", 1, 0.1, {}, "person_present_bool", 1, 1),
    ],
)
def test_a_fault_shows_and_ends(fault, strength, hours, positions, point, least, most):
    told, houses = both(fault, strength, hours, start=NIGHT, mean=-5.0, **positions)
    assert least <= told[point][1] - told[point][0] <= most
    houses.fail(1, fault, 0.0)
    assert houses._parameters.screen_saving[1] == houses._parameters.screen_saving[0]
    assert houses.panel(drives(2))["box_fan_bool"][1] == 1.0


def test_a_leaking_valve_warms_the_pipe_to_some_35_c():
    told, _ = both("mixing_valve_leak", 0.1, 2.5, start=NIGHT, mean=2.0, circulation_pump=1, thermal_screen=1)
    assert 27 < told["pipe_supply_c"][1] < 40


def test_a_measuring_box_without_fan_reads_too_warm_at_noon_and_right_at_night():
    told, houses = both("box_fan_off", 4.0, 0.1)
    assert 1.5 < told["air_temp_c"][1] - told["air_temp_2_c"][1] < 4
    assert told["air_rh_pct"][1] < told["air_rh_pct"][0]
    dark, _ = both("box_fan_off", 4.0, 0.1, start=NIGHT)
    assert dark["air_temp_c"][1] == dark["air_temp_2_c"][1]
    assert set(houses.FAULTS) == set(houses._faults)


def test_panel_forces_heat_off_over_90_c_until_it_is_reset_and_co2_off_beside_people():
    houses = compartments(1, start=NIGHT)
    houses.state = houses.state._replace(pipe_c=np.array([95.0]))
    run(houses, 0.01, drives(1), start=NIGHT)
    assert houses.interlock()["mixing_valve"] == houses.interlock()["boiler"] == 0.0
    houses.state = houses.state._replace(pipe_c=np.array([75.0]))
    run(houses, 0.01, drives(1), start=NIGHT)
    assert houses.interlock()["boiler"] == 0.0
    houses.state = houses.state._replace(pipe_c=np.array([55.0]))
    run(houses, 0.01, drives(1), start=NIGHT)
    assert np.isnan(houses.interlock()["boiler"])
    assert np.isnan(houses.interlock()["co2_valve"])
    houses.fail(0, "person_inside", 1.0)
    run(houses, 0.01, drives(1), start=NIGHT)
    houses.fail(0, "person_inside", 0.0)
    run(houses, 0.05, drives(1), start=NIGHT)
    assert houses.interlock()["co2_valve"] == 0.0  # for 5 min after
    run(houses, 0.1, drives(1), start=NIGHT)
    assert np.isnan(houses.interlock()["co2_valve"])


def test_thermostats_of_the_panel_keep_from_frost_and_heat():
    houses = compartments(3)
    houses.state = houses.state._replace(air_c=np.array([4.0, 20.0, 39.0]))
    local = houses.local()
    assert local["mixing_valve"][0] == 30.0
    assert local["circulation_pump"][0] == 1.0
    assert local["exhaust_fan"][2] == 100.0
    assert local["thermal_screen"][2] == 0.0
    assert np.isnan([local[name][1] for name in local]).all()


def test_tank_empties_and_fills_by_its_float_and_gives_nothing_when_empty():
    houses = compartments(1)
    at = drives(1, irrigation_valve=1)
    levels = [run(houses, 0.25, at, start=NOON + k * 900)["tank_level_pct"][0] for k in range(8)]
    assert min(levels) < 0.5
    assert run(houses, 0.01, at, start=NOON + 7200)["drip_flow_l_min"][0] == pytest.approx(48.0)  # what the supply gives
    assert 4000 + 0.8 * 5000 < houses.panel(at)["drip_volume_l"][0] < 4000 + 0.8 * 7236  # never more than there was
    assert run(houses, 1.5, drives(1), start=NOON + 7300)["tank_level_pct"][0] > 85


def test_a_mast_sums_the_sun_from_sunrise_and_has_faults():
    masts = weather_station.make(4, weather(wind_m_s=6.0), NOON, [])
    for k, fault in enumerate(("pyranometer_dirty", "wind_frozen", "rain_stuck_wet")):
        masts.fail(k + 1, fault, 0.2 if k == 0 else 1.0)
    for k in range(360):
        masts.advance(NOON + (k + 1) * 10, 10.0, {})
    told = masts.truth({}) | masts.panel({})
    assert 150 < told["rad_sum_j_cm2"][0] < 190  # an hour at some 480 W/m2
    assert told["rad_sum_j_cm2"][1] == pytest.approx(0.8 * told["rad_sum_j_cm2"][0])
    assert told["wind_speed_m_s"][2] == told["wind_gust_m_s"][2] == 0.0 < told["wind_speed_m_s"][0]
    assert list(told["rain_bool"]) == [0, 0, 0, 1]
    sums = []
    for k in range(0, 24 * 60, 10):
        masts.advance(NOON + 3600 + k * 60.0, 600.0, {})
        sums.append(masts.panel({})["rad_sum_j_cm2"][0])
    assert 10 * np.argmin(sums) == pytest.approx(18.3 * 60, abs=30)  # the next sunrise, 07:20
