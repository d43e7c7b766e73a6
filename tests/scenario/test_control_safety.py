"""What no controller may do, and what no hand may do against one: silence, bounds of people, machines and animals, restarts, data that
may not act. Each unit is a shipped one with its profile, its controllers and arbitration.

Saboteurs: controllers_*, of rules/control/stage.py.
"""

import random
from collections.abc import Mapping

import pytest

from tests.faults.control_world import EVERY_S, HOUSE, ControlWorld

MOVED_BY_HEAT = ("fan", "fan_2", "fan_3", "fan_4", "tunnel", "curtain", "pad_pump", "sprinkler")
HELD_S = 180  # three heartbeats of a minute
PIGS = {
    "room_temp_c": 19.0, "room_temp_2_c": 19.2, "rh_pct": 60.0, "co2_ppm": 1500.0, "nh3_ppm": 8.0, "h2s_ppm": 0.0,
    "static_pressure_pa": -15.0, "fan_rpm": 500.0, "fan_pct": 45.0, "fan_2_bool": 0.0, "fan_3_bool": 0.0, "fan_4_bool": 0.0,
    "tunnel_bool": 0.0, "inlet_pct": 30.0, "hopper_full_bool": 0.0, "bin_lid_open_bool": 0.0, "scraper_run_bool": 0.0,
    "scraper_back_bool": 0.0, "scraper_overload_bool": 0.0, "scraper_end_bool": 0.0, "scraper_home_bool": 1.0, "gate_open_bool": 0.0,
    "slurry_pump_bool": 0.0, "slurry_request_bool": 0.0, "beacon_bool": 0.0, "door_locked_bool": 0.0, "person_present_bool": 0.0,
    "pig_count": 1000.0, "weight_kg": 76.0, "mains_bool": 1.0, "generator_bool": 0.0, "weather.temp_c": 2.0, "weather.rh_pct": 60.0,
}  # fmt: skip
PERMITTED = {
    "slurry_request_bool": 1.0, "beacon_bool": 1.0, "door_locked_bool": 1.0, "h2s_ppm": 1.0, "fan_rpm": 800.0, "fan_pct": 100.0,
    "fan_2_bool": 1.0, "fan_3_bool": 1.0, "fan_4_bool": 1.0,
}  # fmt: skip
SOLAR = {
    "air_temp_c": 24.0, "air_temp_east_c": 24.0, "air_temp_west_c": 24.0, "air_rh_pct": 70.0, "soil_temp_c": 15.0,
    "soil_vwc_pct": 30.0, "blanket_pos_pct": 100.0, "vent_top_pct": 0.0, "snow_bool": 0.0, "person_present_bool": 0.0,
    "weather.temp_c": 5.0, "weather.rad_w_m2": 450.0, "weather.wind_speed_m_s": 2.0, "weather.wind_gust_m_s": 3.0,
    "weather.rain_bool": 0.0,
}  # fmt: skip
ROOM = {
    "air_temp_c": 20.0, "air_temp_top_c": 20.1, "air_temp_bottom_c": 19.9, "air_rh_pct": 80.0, "air_rh_2_pct": 80.0,
    "tray_temp_c": 20.0, "wall_temp_c": 18.0, "co2_ppm": 600.0, "door_open_bool": 0.0, "person_present_bool": 0.0, "fan_rpm": 900.0,
}  # fmt: skip
SPAN = {
    "air_temp_c": 20.0, "air_temp_2_c": 20.0, "leaf_temp_c": 20.0, "box_fan_bool": 1.0, "air_rh_pct": 75.0, "co2_ppm": 600.0,
    "pipe_supply_c": 40.0, "vent_lee_pct": 0.0, "vent_wind_pct": 0.0, "mixing_valve_pct": 0.0, "circulation_fan_bool": 1.0,
    "person_present_bool": 0.0, "weather.temp_c": 5.0, "weather.rh_pct": 70.0, "weather.rad_w_m2": 300.0,
    "weather.wind_speed_m_s": 2.0, "weather.wind_gust_m_s": 3.0, "weather.wind_dir_deg": 0.0, "weather.rain_bool": 0.0,
}  # fmt: skip
USUAL = {"pig_house": PIGS, "solar_greenhouse": SOLAR, "germination_room": ROOM, "multispan": SPAN}


def world(kind: str, **changed: float | None) -> ControlWorld:
    """A unit that has run for a minute, with pigs where it is for them."""
    made = ControlWorld(kind, USUAL[kind])
    if kind == "pig_house":
        made.ask("mode", area="", mode="OCCUPIED")
        made.ask("batch", area="", day=60, name="b")
    return made.run(60, **changed)


# -- silence -------------------------------------------------------------------------------------------------------------


SILENT = [  # kind, points that fall silent, actuator, from where, to where
    ("pig_house", {"room_temp_c", "room_temp_2_c"}, "fan", (0.0, 99.0), (100.0, 100.0)),
    ("solar_greenhouse", {"weather.wind_gust_m_s"}, "vent_top", (31.0, 100.0), (0.0, 30.0)),
    ("germination_room", {"fan_rpm"}, "heater", (1.0, 100.0), (0.0, 0.0)),
    ("multispan", {"weather.wind_gust_m_s", "weather.wind_speed_m_s"}, "vent_wind", (5.0, 100.0), (0.0, 0.0)),
]
WARM = {"solar_greenhouse": 34.0, "multispan": 30.0}
AIR = ("air_temp_c", "air_temp_2_c", "air_temp_east_c", "air_temp_west_c", "leaf_temp_c")


@pytest.mark.parametrize(("kind", "silent", "actuator", "before", "after"), SILENT)
def test_what_falls_silent_is_held_for_three_heartbeats_and_then_made_safe(
    kind: str, silent: set[str], actuator: str, before: tuple[float, float], after: tuple[float, float]
) -> None:
    """T24, as far as controllers act on it."""
    unit = world(kind)
    unit.values |= {name: WARM[kind] for name in AIR if kind in WARM and name in unit.values}
    unit.run(1000)  # vents of a multi-span may wait for 15 min
    low, high = before
    assert low <= unit.where[actuator] <= high
    unit.values |= dict.fromkeys(silent)
    unit.run(HELD_S - EVERY_S)
    assert low <= unit.where[actuator] <= high
    unit.run(EVERY_S + 40)  # the period of the slowest controller, and a sample's age
    assert after[0] <= unit.where[actuator] <= after[1]


def test_what_comes_back_acts_from_its_third_good_sample_on() -> None:
    """T24: top vents stay bounded until the wind has been told three times without a silence, also over a restart of core."""
    unit = world("solar_greenhouse")
    unit.values |= {name: WARM["solar_greenhouse"] for name in AIR if name in unit.values}
    told, silent = {"weather.wind_gust_m_s": 3.0}, {"weather.wind_gust_m_s": None}
    unit.run(300)
    assert unit.where["vent_top"] > 30.0
    for spoken in (0, 2, 1, 2):  # each time silent again before the third: they do not add up
        unit.values |= told
        unit.run(spoken * EVERY_S)
        unit.values |= silent
        for _ in range(0, HELD_S + 60, EVERY_S):
            unit.run(EVERY_S)
            assert spoken == 0 or unit.where["vent_top"] <= 30.0, spoken
    unit.values |= told
    unit.run(EVERY_S)
    unit.restart()
    unit.run(EVERY_S)
    unit.values |= silent
    unit.run(60)
    assert unit.where["vent_top"] <= 30.0
    unit.run(EVERY_S, weather__wind_gust_m_s=3.0)
    unit.run(60)
    assert unit.where["vent_top"] > 30.0


def silence_referee(seed: int, steps: int) -> None:
    """Thermometers of a pig house that come and go: full air and no heat while both are unknown, own air while they are not."""
    draw, unit = random.Random(seed), world("pig_house", room_temp_c=18.0, room_temp_2_c=18.0)
    last, heard = {"room_temp_c": unit.now_ns, "room_temp_2_c": unit.now_ns}, 0
    good = dict.fromkeys(last, 3)
    for _ in range(steps):
        speaks = {name: draw.random() < 0.4 for name in last}
        for _ in range(draw.choice([1, 3, 12, 17, 18, 19, 25])):
            unit.run(EVERY_S, **{name: 18.0 if speaks[name] else None for name in last})
            for name in (name for name, is_heard in speaks.items() if is_heard):
                good[name] = 1 if unit.now_ns - last[name] > HELD_S * 1e9 else min(good[name] + 1, 3)
                last[name] = unit.now_ns
            ages_s = [(unit.now_ns - at) / 1e9 for at in last.values()]
            heard = heard + 1 if any(speaks[name] and good[name] == 3 for name in speaks) else 0
            if min(ages_s) > HELD_S + EVERY_S:
                assert unit.where["fan"] == 100.0, (seed, ages_s)
                assert unit.where["heater"] == 0.0, (seed, ages_s)
            elif heard > 2:  # the controller has run since
                assert unit.where["fan"] < 100.0, (seed, ages_s)


def test_sensors_that_come_and_go() -> None:
    silence_referee(1, 12)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 110))
def test_sensors_that_come_and_go_for_days(seed: int) -> None:
    silence_referee(seed, 200)


# -- bounds, against every hand ------------------------------------------------------------------------------------------


BARRED: list[tuple[str, str, float, Mapping[str, float], float]] = [
    # kind, actuator, what a hand asks for, what stands against it, for how long [s]
    ("pig_house", "heater", 1.0, {"fan_rpm": 0.0}, 400.0),
    ("pig_house", "slurry_pump", 1.0, {"slurry_request_bool": 1.0}, 30.0),
    ("pig_house", "auger", 1.0, {"bin_lid_open_bool": 1.0}, 30.0),
    ("pig_house", "scraper", 1.0, {"gate_open_bool": 1.0}, 30.0),
    ("solar_greenhouse", "blanket_permit", 1.0, {"weather.wind_gust_m_s": 10.5}, 60.0),
    ("solar_greenhouse", "vent_bottom", 100.0, {"weather.rain_bool": 1.0}, 60.0),
    ("germination_room", "humidifier", 1.0, {"person_present_bool": 1.0}, 30.0),
    ("germination_room", "heater", 100.0, {"fan_rpm": 0.0}, 30.0),
    ("multispan", "vent_wind", 100.0, {"weather.wind_gust_m_s": 30.0}, 60.0),
    ("multispan", "co2_valve", 100.0, {"person_present_bool": 1.0}, 60.0),
]


@pytest.mark.parametrize(("kind", "actuator", "value", "against", "seconds"), BARRED, ids=[f"{k}-{a}" for k, a, *_ in BARRED])
def test_no_hand_and_no_program_goes_against_an_interlock(
    kind: str, actuator: str, value: float, against: Mapping[str, float], seconds: float
) -> None:
    unit = world(kind)
    unit.values |= against
    unit.run(seconds)
    for author in ("ann", "program:scada"):
        unit.by_hand(actuator, value, author)
        unit.run(20)
        assert unit.where[actuator] == 0.0


def test_nobody_takes_air_and_water_from_animals() -> None:
    unit = world("pig_house")
    for author in ("ann", "program:scada"):
        for actuator in ("fan", "water_valve"):
            assert unit.by_hand(actuator, 0.0, author)
        unit.run(300)
        assert unit.where["fan"] > 0.0
        assert unit.where["water_valve"] == 1.0


def test_a_house_without_power_opens_whoever_holds_it_shut() -> None:
    unit = world("pig_house")
    assert unit.by_hand("curtain", 0.0)
    unit.run(100, mains_bool=0.0)
    assert unit.where["curtain"] == 0.0
    unit.run(40)
    assert unit.where["curtain"] == 1.0


def bounds_referee(kind: str, seed: int, steps: int) -> int:
    """T30 with controllers: points that change and fall silent, hands, programs and restarts at random. How often something was barred."""
    draw, unit, barred = random.Random(seed), world(kind), 0
    specs = {a.name: a for a in unit.site.profiles[kind].actuators}
    rules = [(actuator, against, seconds + 50, (0.0, 0.0)) for of, actuator, _, against, seconds in BARRED if of == kind]
    rules += [(name, dict.fromkeys(silent), HELD_S + 60, after) for of, silent, name, _, after in SILENT if of == kind]
    stood_s = [0] * len(rules)
    for _ in range(steps):
        if draw.random() < 0.2:
            unit.values |= draw.choice(rules)[1]
        elif draw.random() < 0.15:
            unit.values |= USUAL[kind]
        if draw.random() < 0.5:
            name, *_, (low, _) = draw.choice([rule for rule, s in zip(rules, stood_s, strict=True) if s] or rules)
            unit.by_hand(
                name, specs[name].high if low == specs[name].low else specs[name].low, draw.choice(["ann", "program:scada"])
            )
        if draw.random() < 0.03:
            unit.restart()
        for _ in range(draw.choice([1, 2, 12])):
            unit.run(EVERY_S)
            for k, (actuator, against, seconds, (low, high)) in enumerate(rules):
                stands = all(unit.values[name] == value for name, value in against.items())
                stood_s[k] = stood_s[k] + EVERY_S if stands else 0
                if stood_s[k] > seconds:
                    barred += 1
                    assert low <= unit.where[actuator] <= high, (seed, actuator, against)
            assert all(specs[name].low <= value <= specs[name].high for name, value in unit.where.items())
            assert unit.where.get("water_valve", 1.0) == 1.0
    return barred


@pytest.mark.parametrize("kind", USUAL)
def test_bounds_hold_whatever_happens(kind: str) -> None:
    assert bounds_referee(kind, 1, 30) > 10


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 103))
@pytest.mark.parametrize("kind", USUAL)
def test_bounds_hold_whatever_happens_for_days(kind: str, seed: int) -> None:
    assert bounds_referee(kind, seed, 500) > 500


# -- what may not act ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "age_s", "value"),
    [
        ("backfill", 600.0, 35.0),
        ("backfill", 1.0, 35.0),
        ("telemetry", 7200.0, 35.0),
        ("telemetry", -7200.0, 35.0),
        ("telemetry", 0.0, 500.0),
    ],
)
def test_data_that_are_not_live_or_not_good_move_no_controller(channel: str, age_s: float, value: float) -> None:
    """T31, for controllers: heat that was, will be or cannot be opens no vent and starts no fan."""
    unit = world("pig_house").run(240)
    before = [unit.where[name] for name in MOVED_BY_HEAT]
    unit.values |= {"room_temp_c": None, "room_temp_2_c": None}
    for _ in range(12):
        unit.say(HOUSE, {"room_temp_c": value, "room_temp_2_c": value}, channel=channel, age_s=age_s)
        unit.run(EVERY_S)
    assert [unit.where[name] for name in MOVED_BY_HEAT] == before


def test_nothing_runs_in_blindness() -> None:
    unit = world("pig_house").run(240)
    before = dict(unit.where)
    unit.event("broker_lost")
    unit.run(40, room_temp_c=35.0, room_temp_2_c=35.0)
    assert unit.where == before
    unit.event("drained")
    unit.run(40)
    assert unit.where["fan"] == 100.0


# -- restarts ------------------------------------------------------------------------------------------------------------


def test_gas_that_stopped_the_slurry_still_stops_it_after_a_restart() -> None:
    unit = world("pig_house", **PERMITTED).run(700)
    assert unit.where["slurry_pump"] == 1.0
    unit.run(30, slurry_pump_bool=1.0)
    unit.run(20, h2s_ppm=60.0)
    assert unit.where["slurry_pump"] == 0.0
    unit.run(20, slurry_pump_bool=0.0, h2s_ppm=1.0)
    unit.restart()
    unit.run(700)
    assert unit.where["slurry_pump"] == 0.0
    unit.run(20, slurry_request_bool=0.0).run(40, slurry_request_bool=1.0)
    assert unit.where["slurry_pump"] == 1.0
