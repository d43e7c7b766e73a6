"""The controller of germination rooms: promises, recipe, fog, and the closed loop with its plant."""

import math
from typing import Any

import numpy as np
import pytest

from bench.closed_loop import SUMMER, SUMMER_S, WINTER, WINTER_S, Loop, site_weather
from rules.control.germination_room import (
    CONTROLLER,
    COOL,
    DAMPER_HOT,
    DRY,
    FAN,
    FAN_LEAST,
    FLUSH,
    FLUSH_BLIND,
    FOG,
    FOG_AIR,
    FOG_DOOR,
    FOG_HEATER,
    FOG_PERSON,
    HEAT,
    HEAT_AIR,
    HEAT_HOT,
    LIGHT,
    Stage,
    recipe,
)
from simulators.multispan import relative_humidity_pct
from simulators.plants.germination_room import Rooms, make
from telemetry.crops import CROPS
from telemetry.errors import CallerError
from telemetry.site import MODES
from tests.unit.rules.control.promises import NAN, Bench, each_as_alone, never_outside

USUAL = {
    "air_temp_c": 26.5, "air_temp_top_c": 26.6, "air_temp_bottom_c": 26.4, "air_rh_pct": 90.0, "air_rh_2_pct": 90.0, "tray_temp_c": 26.0,
    "wall_temp_c": 26.4, "co2_ppm": 800.0, "door_open_bool": 0.0, "person_present_bool": 0.0, "fan_rpm": 840.0, "emerged_pct": 0.0,
    "hour": 12.0, "day_of_batch": 0.0, "mode": 0.0,
}  # fmt: skip
COLD = {"air_temp_c": 23.0, "air_temp_top_c": 23.2, "air_temp_bottom_c": 22.8}


def bench(**given: Any) -> Bench:
    return Bench(CONTROLLER, USUAL, given)


# -- promises ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_inputs_never_lead_outside_a_range(seed: int) -> None:
    never_outside(CONTROLLER, "germination_room", seed)


def test_rooms_together_are_as_each_alone() -> None:
    each_as_alone(CONTROLLER, 4)


def test_nothing_known_asks_for_nothing_that_heats_wets_or_lights() -> None:
    room = Bench(CONTROLLER, {}).run(60)
    assert [room.asks(ask) for ask in (HEAT, COOL, FOG, LIGHT)] == [0, 0, 0, 0]
    assert [room.asks(ask) for ask in (HEAT_AIR, FOG_AIR, FOG_PERSON, FOG_DOOR)] == [0, 0, 0, 0]
    assert room.asks(FLUSH_BLIND) == 10
    assert room.asks(FAN) == 60
    assert room.asks(FAN_LEAST) == 30


@pytest.mark.parametrize("missing", ["door_open_bool", "person_present_bool", "fan_rpm"])
def test_fog_ends_at_once_when_its_guards_are_unknown(missing: str) -> None:
    room = bench().run(60)
    assert room.asks(FOG) == 1
    assert room.run(**{missing: NAN}).asks(FOG) == 0


def test_fog_ends_when_both_hygrometers_are_unknown_and_goes_on_with_one() -> None:
    one = bench().run(60, air_rh_pct=NAN)
    assert one.term("air_rh_pct") == 90
    assert one.asks(FOG) == 1
    assert one.run(air_rh_2_pct=NAN).asks(FOG) == 0


def test_heat_ends_when_all_thermometers_are_unknown_and_goes_on_with_one() -> None:
    room = bench().run(600, **COLD)
    before = room.asks(HEAT)
    assert before > 10
    assert room.run(air_temp_c=NAN, air_temp_top_c=NAN).asks(HEAT) >= before
    assert room.run(air_temp_bottom_c=NAN).asks(HEAT) == 0


# -- heat and cold -------------------------------------------------------------------------------------------------------


def test_heat_below_and_cold_above_the_set_point_never_both() -> None:
    room = bench().run(1200, **COLD)
    assert room.asks(HEAT) > 20
    assert room.asks(COOL) == 0
    room.run(3600, air_temp_c=29.5, air_temp_top_c=29.6, air_temp_bottom_c=29.4)
    assert room.asks(HEAT) == 0
    assert room.asks(COOL) > 30


def test_one_thermometer_that_lies_is_outvoted() -> None:
    room = bench().run(600, air_temp_c=60.0)
    assert room.asks(COOL) == 0
    assert math.isnan(room.asks(HEAT_HOT))
    assert room.term("air_temp_c") == pytest.approx(26.6)


def test_no_heat_without_ten_seconds_of_proven_air() -> None:
    room = bench().run(600, fan_rpm=0.0, **COLD)
    assert room.asks(HEAT) == 0
    assert room.asks(HEAT_AIR) == 0
    room.run(10, fan_rpm=840.0)
    assert room.asks(HEAT_AIR) == 0
    room.run(10)
    assert math.isnan(room.asks(HEAT_AIR))
    assert room.run(60).asks(HEAT) > 3


def test_the_crops_limit_stops_heat_and_opens_the_damper() -> None:
    hot = {"air_temp_c": 25.3, "air_temp_top_c": 25.4, "air_temp_bottom_c": 25.2}
    assert math.isnan(bench().run(10, **hot).asks(HEAT_HOT))
    lettuce = bench(crop="lettuce").run(10, **hot)
    assert lettuce.asks(HEAT_HOT) == 0
    assert lettuce.asks(DAMPER_HOT) == 100
    area = bench().run(10, set__stop_above_c=25.0, **hot)
    assert area.asks(HEAT_HOT) == 0
    assert area.term("air_temp_setpoint_c") == 24


def test_heat_stays_as_it_is_for_five_minutes_after_the_door() -> None:
    room = bench().run(1200, **COLD)
    before = room.asks(HEAT)
    room.run(280, door_open_bool=1.0, air_temp_c=15.0, air_temp_top_c=15.0, air_temp_bottom_c=15.0)
    assert room.asks(HEAT) == before
    assert room.run(60).asks(HEAT) > before + 20


def test_an_area_set_point_is_in_force_and_is_reached_by_a_ramp() -> None:
    room = bench().run(60)
    room.run(1200, set__air_temp_c=27.5)
    assert room.term("air_temp_setpoint_c") == pytest.approx(27.0, abs=0.01)
    room.run(1220)
    assert room.term("air_temp_setpoint_c") == pytest.approx(27.5)


def test_a_slipping_belt_brings_the_fan_to_full_speed() -> None:
    room = bench().run(60)
    assert room.asks(FAN) == 60
    assert room.run(600, air_temp_top_c=28.5, air_temp_bottom_c=26.0).asks(FAN) == 100


# -- fog and fresh air ---------------------------------------------------------------------------------------------------


def test_fog_follows_the_dew_point_and_leaves_pauses() -> None:
    room = bench()
    on = [room.run(air_rh_pct=95.5, air_rh_2_pct=95.5).asks(FOG) for _ in range(120)]
    assert np.mean(on) == pytest.approx(0.43, abs=0.05)
    pulses = "".join(str(int(v)) for v in on).split("1")
    assert all(len(pause) >= 2 for pause in pulses[1:-1] if pause)  # 20 s: two runs
    assert bench().run(600, air_rh_pct=99.0, air_rh_2_pct=99.0).asks(FOG) == 0


def test_the_wall_stays_dry() -> None:
    room = bench().run(60, wall_temp_c=25.0, air_rh_pct=91.5, air_rh_2_pct=91.5)
    assert room.term("rh_setpoint_pct") == pytest.approx(89.88, abs=0.1)
    assert room.term("dew_point_setpoint_c") == pytest.approx(24.7, abs=0.01)
    assert room.asks(FOG) == 0
    assert bench().run(60, wall_temp_c=NAN).term("wall_c") == pytest.approx(25.5)


def test_fresh_air_dries_what_is_too_humid() -> None:
    assert math.isnan(bench().run(60, air_rh_pct=97.0, air_rh_2_pct=97.0).asks(DRY))
    assert bench().run(60, set__air_rh_pct=94.0, air_rh_pct=98.0, air_rh_2_pct=98.0).asks(DRY) == 20
    assert 0 < bench().run(60, air_rh_pct=99.5, air_rh_2_pct=99.5).asks(DRY) < 20
    assert math.isnan(bench().run(60, air_rh_pct=NAN, air_rh_2_pct=NAN).asks(DRY))


def test_a_wetted_hygrometer_is_left_out() -> None:
    room = bench().run(60, air_rh_pct=100.0)
    assert room.term("air_rh_pct") == 90
    assert room.asks(FOG) == 1
    assert bench().run(60, air_rh_pct=94.0).term("air_rh_pct") == 92


def test_fog_and_heater_start_a_minute_apart() -> None:
    room = bench().run(60)
    assert room.asks(FOG) == 1
    room.run(**COLD)
    assert room.asks(FOG_HEATER) == 0
    assert room.asks(FOG) == 0
    waited = 0
    while room.asks(HEAT) == 0:
        waited += 10
        assert room.run().asks(FOG) == 0
    assert waited == pytest.approx(60, abs=10)
    for _ in range(5):
        assert room.run().asks(FOG_HEATER) == 0
    assert math.isnan(room.run(20).asks(FOG_HEATER))


def test_nobody_is_fogged() -> None:
    room = bench().run(60, person_present_bool=1.0)
    assert room.asks(FOG_PERSON) == 0
    assert FOG_PERSON.level == "personnel_safety"
    assert room.asks(FOG) == 0
    assert bench().run(60, door_open_bool=1.0).asks(FOG_DOOR) == 0


def test_a_flush_of_three_minutes_and_a_pause_of_ten() -> None:
    room = bench().run(60)
    on = [room.run(co2_ppm=3100.0).asks(FLUSH) for _ in range(100)]
    assert on[:18] == [50.0] * 18
    assert all(math.isnan(v) for v in on[18:78])
    assert on[78:96] == [50.0] * 18
    assert math.isnan(bench().run(600, co2_ppm=2900.0).asks(FLUSH))


# -- recipe --------------------------------------------------------------------------------------------------------------


def test_stages_end_by_hours_then_by_thermal_time_and_the_batch_waits() -> None:
    room = bench(stages=[
        {"name": "a", "hours": 0.25}, {"name": "b", "air_rh_pct": 93.0, "thermal_time_c_d": 0.5},
        {"name": "c", "air_temp_c": 23.0, "light_umol_m2_s": 50.0, "light_h": 14.0},
    ])  # fmt: skip
    room.run(890)
    assert room.term("stage_number") == 1
    assert room.run(20).term("stage_number") == 2
    assert room.term("rh_setpoint_pct") == 93
    room.run(1400)  # (26 - 7.3) / 24 = 0.779 C d an hour: 0.5 after 38 min
    assert room.term("stage_number") == 2
    assert math.isnan(room.term("overdue_h"))
    room.run(100)
    assert room.term("stage_number") == 3
    assert room.asks(LIGHT) == 50
    assert room.run(1200).term("overdue_h") == pytest.approx(1 / 3, abs=0.05)
    assert room.run(hour=2.0).asks(LIGHT) == 0


def test_a_stage_ends_by_what_the_camera_sees() -> None:
    room = bench(stages=[{"name": "a", "emerged_pct": 60.0}, {"name": "b"}]).run(600, emerged_pct=59.0)
    assert room.term("stage_number") == 1
    assert room.run(emerged_pct=60.0).term("stage_number") == 2


def test_thermal_time_is_integrated_through_a_gap_and_a_batch_that_is_older_than_the_memory_is_guessed() -> None:
    room = bench().run(1200)
    before = room.term("thermal_time_c_d")
    assert before == pytest.approx(18.7 / 72, rel=0.01)
    room.time_ns += 2 * 3600 * 10**9
    assert room.run().term("thermal_time_c_d") == pytest.approx(7 * 18.7 / 72, rel=0.01)
    late = bench().run(20, day_of_batch=3.0)
    assert late.term("thermal_time_c_d") == pytest.approx(3 * (26.5 - 7.3), rel=0.01)
    assert late.term("stage_number") == 2


def test_a_shorter_recipe_in_the_middle_of_a_batch_leads_to_its_last_stage() -> None:
    room = bench().run(60, emerged_pct=70.0, day_of_batch=2.0)
    assert room.term("stage_number") == 3
    room.parameters = CONTROLLER.parameters({"stages": [{"name": "a", "hours": 1.0}, {"name": "b", "air_rh_pct": 80.0}]})
    assert room.run(60).term("stage_number") == 2
    assert room.term("rh_setpoint_pct") == 80


def test_a_new_batch_begins_anew_and_none_stands_still() -> None:
    room = bench().run(600, day_of_batch=4.0)
    assert room.run(day_of_batch=0.0).term("thermal_time_c_d") == 0
    assert room.run(600).term("stage_number") == 1
    assert room.run(600, day_of_batch=NAN).term("thermal_time_c_d") == 0


@pytest.mark.parametrize("mode", ["EMPTY", "WASHDOWN", "DISINFECT", "MAINTENANCE"])
def test_an_empty_room_is_left_alone(mode: str) -> None:
    room = bench().run(60, mode=float(MODES.index(mode)), **COLD)  # type: ignore[arg-type]
    assert all(math.isnan(room.asks(ask)) for ask in (HEAT, COOL, FOG, FAN, FAN_LEAST, LIGHT))


def test_preheating_makes_no_fog() -> None:
    room = bench().run(600, mode=float(MODES.index("PREHEAT")), **COLD)
    assert room.asks(HEAT) > 3
    assert room.asks(FOG) == 0


def test_every_crop_has_a_recipe_below_its_limit() -> None:
    for crop in CROPS:
        parameters = CONTROLLER.parameters({"crop": crop.name})
        assert parameters.stages == recipe(crop.name)
        assert parameters.stop_above_c == crop.stop_above_c


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"crop": "maize"}, "crop of a germination room is 'maize'; give one of tomato, pepper"),
        ({"fog": 1}, "a germination room has no 'fog'; it has crop, stages"),
        ({"flush_pct": 500}, "flush_pct of a germination room is 500; give 5 to 100"),
        ({"flush_pct": "half"}, "flush_pct of a germination room is a number, such as 50; got 'half'"),
        ({"stages": [{"name": "a"}, {"name": "b"}]}, "each has an exit"),
        ({"stages": [{"name": "a", "hours": 1.0}]}, "the last, in which the batch waits"),
        ({"stages": "dark"}, "stages is a list"),
        ({"stages": [{"name": "a", "air_temp_c": 31.5}]}, "stage 'a' is 31.5 C; give at most stop_above_c - 1 = 31"),
        ({"stages": [{"name": "a", "warmth": 3}]}, "a stage has no 'warmth'"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(CallerError) as error:
        CONTROLLER.parameters(given)
    assert message in str(error.value)
    assert Stage().name == "imbibition"


# -- closed loop ---------------------------------------------------------------------------------------------------------


def loop(n: int, *, winter: bool, warm: bool = True) -> tuple[Loop, Rooms]:
    scenario, start_s = (WINTER, WINTER_S) if winter else (SUMMER, SUMMER_S)
    weather = site_weather(scenario, start_s)
    rooms = make(n, weather, start_s, [np.random.default_rng(house) for house in range(n)])
    if warm:
        state = rooms.state
        rooms.state = state._replace(air_c=np.full(n, 26.3), tray_c=np.full(n, 26.0), vapour_kg_m3=state.vapour_kg_m3 * 1.2)
    return Loop(rooms, CONTROLLER, weather, start_s, n, constants={"day_of_batch": 0.0}), rooms


def test_the_worst_faults_of_a_winter_night() -> None:
    sound, door, belt, welded, dry = range(5)
    names = ("", "door_left_open", "belt_slip", "heater_welded", "water_lost")
    run, rooms = loop(5, winter=True)
    run.run(0.1)
    for house, name in enumerate(names):
        if name:
            rooms.fail(house, name, 1.0)
    run.run(1 / 60)
    assert run.turn is not None
    assert run.turn.demands[HEAT_AIR][belt] == 0  # within 60 s; the panel's own switch is faster
    assert run.turn.demands[FOG_DOOR][door] == 0
    run.run(0.3)
    assert abs(rooms.state.air_c[sound] - 26.5) < 1.5  # from a cold start
    assert run.turn.demands[HEAT][welded] == 0
    assert run.turn.demands[COOL][welded] > 15
    assert run.drives.position["heater"][belt] == 0
    assert rooms.state.air_c[door] > 15
    assert rooms.state.fog_kg[dry] < rooms.state.fog_kg[sound] or relative_humidity_pct(rooms.state)[dry] > 90


@pytest.mark.torture
@pytest.mark.timeout(900)
@pytest.mark.parametrize("winter", [True, False])
def test_a_whole_day_stays_in_its_bands(winter: bool) -> None:
    run, rooms = loop(4, winter=winter, warm=False)
    shown = np.array(
        run.run(24.0, lambda at: (rooms.state.air_c, relative_humidity_pct(rooms.state), at.turn.terms["rh_setpoint_pct"]))
    )
    settled = shown[3 * 360 :]
    away = np.abs(settled[:, 0] - 26.5)
    assert (away < 1.0).mean() > 0.99
    assert away.max() < 1.5
    assert (np.abs(settled[:, 1] - settled[:, 2]) < 4.0).mean() > 0.95
    assert rooms.state.condensed_kg.max() < 0.5
    assert run.drives.moves["heater"].max() < 1500
