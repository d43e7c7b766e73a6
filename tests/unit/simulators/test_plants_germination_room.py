"""Germination rooms behind their profile: every point is made, faults show where they should, rooms together are as alone."""

import numpy as np
import pytest

from bench.closed_loop import WINTER, WINTER_S, site_weather, specs_of
from simulators.multispan import relative_humidity_pct
from simulators.plants import germination_room
from simulators.plants.germination_room import Rooms, make
from telemetry.errors import CallerError
from tests.unit.simulators.points import KINDS, drives_at, points_of

REST = {"heater": 0.0, "cooler": 0.0, "humidifier": 0.0, "circulation_fan": 0.6, "fresh_air_damper": 0.0, "led_light": 0.0}


def rooms(n=1, seed=0):
    return make(n, site_weather(WINTER, WINTER_S), WINTER_S, [np.random.default_rng(seed + house) for house in range(n)])


def run(room: Rooms, minutes: float, **drives: float) -> dict[str, np.ndarray]:
    positions = drives_at(REST | drives, len(room.state.air_c))
    for step in range(round(minutes * 12)):
        room.advance(WINTER_S + (step + 1) * 5.0, 5.0, positions)
    return room.truth(positions) | room.panel(positions)


def test_every_point_of_the_profile_is_made_and_nothing_else():
    made = run(rooms(), 1) | {spec.feedback: 0 for spec in specs_of("germination_room").values()}
    assert set(made) == points_of("germination_room")
    assert set(Rooms.SENSORS) == set(rooms().truth(drives_at(REST, 1)))
    assert set(Rooms.SENSORS.values()) <= KINDS
    assert Rooms.PROFILE == "germination_room"


def test_values_are_those_of_the_room():
    shown = run(rooms(), 10, heater=0.3, led_light=1.0, humidifier=1.0, fresh_air_damper=0.5)
    assert shown["air_temp_top_c"] - shown["air_temp_bottom_c"] == pytest.approx(900 / (1200 * 0.6 * 0.68), rel=0.01)
    assert shown["supply_air_temp_c"] - shown["air_temp_c"] == pytest.approx(900 / (1200 * 0.6 * 0.68), rel=0.01)
    assert shown["fan_rpm"] == pytest.approx(840)
    assert shown["fan_command_pct"] == pytest.approx(60)
    assert shown["heater_current_a"] == pytest.approx(1.35)
    assert shown["humidifier_water_kpa"] == 280
    assert 80 < shown["light_umol_m2_s"] < 130
    assert shown["o2_pct"] == pytest.approx(20.95 - shown["co2_ppm"] / 1e4)
    assert -300 < shown["overdue_h"] < -100
    assert shown["wall_temp_c"] < shown["air_temp_c"]
    assert 60 < shown["substrate_vwc_pct"] < 80


def test_the_hall_keeps_half_of_the_weather_away():
    hall = rooms()._hall(WINTER_S)
    assert 7 < hall.temp_c < 9
    assert 10 < hall.rh_pct < 95


def test_the_panel_counts_from_the_exit_and_the_camera_looks_once_an_hour():
    room = rooms()
    due = 1.04 * 105
    room.state = room.state._replace(thermal_time_c_d=np.array([[due - 0.001]]), emerged=np.array([[0.5]]))
    shown = run(room, 30)
    assert 0.4 < shown["overdue_h"] < 0.5
    assert shown["emerged_pct"] == 0
    room._unix_s = WINTER_S - 3600.0
    assert run(room, 1)["emerged_pct"] > 45


def test_each_fault_shows():
    shown = run(rooms(), 10)

    def failed(fault, strength, minutes=10.0, **drives):
        room = rooms()
        room.fail(0, fault, strength)
        return run(room, minutes, **drives), room

    leak, room = failed("fog_leak", 0.5)
    assert leak["air_rh_pct"] > shown["air_rh_pct"] + 5
    assert room.state.fog_kg[0] == pytest.approx(0.3)
    welded, _ = failed("heater_welded", 1.0)
    assert welded["heater_current_a"] == pytest.approx(4.5)
    assert welded["air_temp_c"] > shown["air_temp_c"] + 2
    door, room = failed("door_left_open", 1.0)
    assert door["door_open_bool"] == 1
    assert door["air_temp_c"] < shown["air_temp_c"] - 3
    assert relative_humidity_pct(room.state)[0] < shown["air_rh_pct"] - 10
    slip, _ = failed("belt_slip", 0.8, heater=0.3)
    sound = run(rooms(), 10, heater=0.3)
    assert slip["air_temp_top_c"] - slip["air_temp_bottom_c"] > 2 * (sound["air_temp_top_c"] - sound["air_temp_bottom_c"])
    assert slip["fan_current_a"] == pytest.approx(0.68 * sound["fan_current_a"])
    torn, _ = failed("belt_slip", 1.0, heater=1.0)
    assert torn["fan_rpm"] == 0
    assert torn["heater_current_a"] == 0  # the panel's switch
    dry, room = failed("water_lost", 1.0, humidifier=1.0)
    assert dry["humidifier_water_kpa"] == 0
    assert room.state.fog_kg[0] == 0
    assert failed("drain_blocked", 1.0)[0]["drain_level_bool"] == 1
    visit, _ = failed("visit", 0.3)
    assert visit["person_present_bool"] == visit["door_open_bool"] == 1


def test_lettuce_in_a_room_for_tomato_ripens_at_another_time():
    room, usual = rooms(), rooms()
    room.fail(0, "wrong_crop", 6.0)
    run(room, 5)
    run(usual, 5)
    assert room.state.thermal_time_c_d[0, 0] > usual.state.thermal_time_c_d[0, 0] * 1.05


def test_a_fault_ends_and_a_wrong_name_is_refused():
    room = rooms()
    room.fail(0, "door_left_open", 1.0)
    room.fail(0, "door_left_open", 0.0)
    assert run(room, 1)["door_open_bool"] == 0
    with pytest.raises(CallerError, match=r"no fault 'door'; it has fog_leak, heater_welded"):
        room.fail(0, "door", 1.0)


def test_the_cut_out_holds_the_heater_off():
    room = rooms()
    assert np.isnan(room.interlock()["heater"]).all()
    room.state = room.state._replace(air_c=np.array([46.0]))
    shown = run(room, 0.2, heater=1.0)
    assert room.interlock()["heater"] == 0
    assert shown["heater_current_a"] == 0


def test_rooms_together_are_as_each_alone_bit_for_bit():
    together = rooms(5)
    together.fail(2, "fog_leak", 0.5)
    several = run(together, 8, heater=0.4, humidifier=0.2)
    for house in range(5):
        alone = make(1, site_weather(WINTER, WINTER_S), WINTER_S, [np.random.default_rng(house)])
        if house == 2:
            alone.fail(0, "fog_leak", 0.5)
        for point, value in run(alone, 8, heater=0.4, humidifier=0.2).items():
            assert value[0] == several[point][house], point


def test_rooms_differ_by_their_own_draws_only():
    drawn = germination_room.make(3, site_weather(WINTER, WINTER_S), WINTER_S, [np.random.default_rng(7) for _ in range(3)])
    assert len(set(drawn.state.air_c.tolist())) == 1
    assert len(set(rooms(3).state.air_c.tolist())) == 3
