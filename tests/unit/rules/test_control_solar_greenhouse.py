"""The controller of solar greenhouses: promises, blanket, vents, heat, water, and the closed loop with its plant."""

import math
from typing import Any

import numpy as np
import pytest

from bench.closed_loop import SUMMER, SUMMER_S, WINTER, WINTER_S, Loop, site_weather
from rules.control.solar_greenhouse import (
    BLANKET,
    BOTTOM,
    BOTTOM_COLD,
    BOTTOM_WIND,
    CONTROLLER,
    HEAT,
    NET,
    NET_WIND,
    PERMIT,
    PERMIT_BLIND,
    PERMIT_PERSON,
    PERMIT_WIND,
    STIR,
    TOP,
    TOP_COLD,
    TOP_DRY,
    TOP_RAIN,
    TOP_WIND,
    WATER,
)
from simulators.plants.solar_greenhouse import SolarGreenhouses, make
from telemetry.errors import CallerError
from telemetry.site import MODES
from tests.unit.rules.control.promises import NAN, Bench, each_as_alone, never_outside

# A clear winter morning two hours after sunrise with the blanket down.
MORNING = {
    "air_temp_c": 12.0, "air_temp_east_c": 12.1, "air_temp_west_c": 11.9, "air_rh_pct": 92.0, "soil_temp_c": 15.0, "soil_vwc_pct": 30.0,
    "blanket_pos_pct": 0.0, "vent_top_pct": 0.0, "snow_bool": 0.0, "person_present_bool": 0.0, "weather.temp_c": -5.0,
    "weather.rad_w_m2": 60.0, "weather.wind_speed_m_s": 2.0, "weather.wind_gust_m_s": 3.0, "weather.rain_bool": 0.0, "hour": 9.0,
    "hours_after_sunrise": 1.7, "hours_before_sunset": 7.8, "mode": 0.0,
}  # fmt: skip
NOON = MORNING | {
    "air_temp_c": 24.0, "air_temp_east_c": 24.0, "air_temp_west_c": 24.0, "air_rh_pct": 70.0, "blanket_pos_pct": 100.0,
    "weather.temp_c": 5.0, "weather.rad_w_m2": 450.0, "hour": 12.0, "hours_after_sunrise": 4.9, "hours_before_sunset": 4.9,
}  # fmt: skip
SUNNY = {"weather__rad_w_m2": 150.0}
BRIGHT = {"weather__rad_w_m2": 300.0}


def at(usual: dict[str, float], **given: Any) -> Bench:
    return Bench(CONTROLLER, usual, given)


def warm(air_c: float) -> dict[str, float]:
    return {"air_temp_c": air_c, "air_temp_east_c": air_c, "air_temp_west_c": air_c}


# -- promises ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_inputs_never_lead_outside_a_range(seed: int) -> None:
    never_outside(CONTROLLER, "solar_greenhouse", seed)


def test_houses_together_are_as_each_alone() -> None:
    each_as_alone(CONTROLLER, 4)


def test_nothing_known_moves_no_blanket_and_shuts_what_wind_could_take() -> None:
    house = Bench(CONTROLLER, {}).run(600)
    assert math.isnan(house.asks(BLANKET))
    assert [house.asks(ask) for ask in (PERMIT, PERMIT_PERSON, PERMIT_WIND, PERMIT_BLIND)] == [0, 0, 0, 0]
    assert [house.asks(ask) for ask in (TOP, BOTTOM, BOTTOM_WIND, BOTTOM_COLD, NET_WIND, WATER)] == [0, 0, 0, 0, 0, 0]
    assert house.asks(TOP_WIND) == 30
    assert math.isnan(house.asks(HEAT))


# -- blanket -------------------------------------------------------------------------------------------------------------


def test_it_opens_in_two_steps_after_ten_minutes_above_the_break_even() -> None:
    house = at(MORNING).run(600)
    assert house.term("break_even_w_m2") == pytest.approx(79.5, abs=0.5)
    assert house.asks(BLANKET) == 0
    house.run(570, **SUNNY)
    assert house.asks(BLANKET) == 0
    house.run(60)
    assert house.asks(BLANKET) == 40
    assert house.asks(PERMIT) == 1
    house.run(blanket_pos_pct=40.0)
    assert house.asks(PERMIT) == 0
    house.run(1380)
    assert house.asks(BLANKET) == 40
    assert house.run(120).asks(BLANKET) == 100
    assert house.run(**SUNNY).asks(PERMIT) == 1


def test_it_stays_at_the_step_while_the_air_falls_and_goes_on_when_the_sun_is_strong() -> None:
    house = at(MORNING).run(660, **SUNNY).run(3600, blanket_pos_pct=40.0, **warm(10.0))
    assert house.asks(BLANKET) == 40
    assert house.run(**BRIGHT).asks(BLANKET) == 100


@pytest.mark.parametrize(
    "against",
    [
        {"hours_after_sunrise": 0.3}, {"hours_before_sunset": 0.5}, {"snow_bool": 1.0}, {"weather__rain_bool": 1.0},
        {"weather__wind_gust_m_s": 10.5}, {"weather__rad_w_m2": 80.0}, {"weather__rad_w_m2": NAN}, {"weather__temp_c": NAN},
        {"snow_bool": NAN}, {"weather__wind_gust_m_s": NAN}, {"weather__rain_bool": NAN}, {"hours_after_sunrise": NAN},
        {"blanket_pos_pct": NAN}, {"air_temp_c": NAN, "air_temp_east_c": NAN, "air_temp_west_c": NAN},
    ],
)  # fmt: skip
def test_each_condition_must_hold_to_open(against: dict[str, float]) -> None:
    house = at(MORNING).run(1200, **(SUNNY | against))
    assert not house.asks(BLANKET) > 0


def test_a_gust_is_waited_out_for_a_quarter_of_an_hour() -> None:
    house = at(MORNING).run(1200, **SUNNY, weather__wind_gust_m_s=11.0).run(870, weather__wind_gust_m_s=3.0)
    assert house.asks(PERMIT_WIND) == 0
    assert house.asks(BLANKET) == 0
    house.run(60)
    assert math.isnan(house.asks(PERMIT_WIND))
    assert house.asks(BLANKET) == 40


@pytest.mark.parametrize(
    "change", [{"person_present_bool": 1.0}, {"person_present_bool": NAN}, {"weather__wind_gust_m_s": 13.0}, {"snow_bool": 1.0}]
)
def test_what_forbids_a_move_stops_it_where_it_is(change: dict[str, float]) -> None:
    house = at(MORNING).run(660, **SUNNY)
    assert house.run(blanket_pos_pct=17.0).asks(PERMIT) == 1
    house.run(**change)
    assert house.asks(PERMIT) == 0
    assert house.asks(BLANKET) == 17
    assert house.run(600).asks(BLANKET) == 17
    house.run(960, person_present_bool=0.0, weather__wind_gust_m_s=3.0, snow_bool=0.0)
    assert house.asks(BLANKET) == 100  # the time of the first step has passed
    assert house.asks(PERMIT) == 1


def test_the_permit_ends_after_one_and_a_half_travels() -> None:
    house = at(MORNING).run(660, **SUNNY)
    permits = [house.run(blanket_pos_pct=20.0).asks(PERMIT) for _ in range(40)]
    assert 15 <= sum(permits) <= 18
    assert permits[-1] == 0


def test_it_closes_when_the_afternoon_cools_and_at_the_latest_at_sunset() -> None:
    late = {"hours_before_sunset": 1.5, "hours_after_sunrise": 8.0, "hour": 15.5}
    assert at(NOON).run(60).run(60, **late, **warm(18.5)).asks(BLANKET) == 100
    assert at(NOON).run(60).run(60, **late, **warm(17.5)).asks(BLANKET) == 0
    assert at(NOON).run(60).run(60, hours_before_sunset=-0.1, hours_after_sunrise=9.9).asks(BLANKET) == 0
    assert at(NOON).run(60).run(60, **warm(17.5)).asks(BLANKET) == 100


def test_it_closes_after_half_an_hour_below_the_break_even_and_stays_up_in_warm_nights() -> None:
    dull = {"weather__rad_w_m2": 30.0}
    assert at(NOON).run(60).run(1740, **dull, **warm(18.0)).asks(BLANKET) == 100
    assert at(NOON).run(60).run(1860, **dull, **warm(18.0)).asks(BLANKET) == 0
    mild = at(NOON).run(60).run(60, hours_before_sunset=-0.1, hours_after_sunrise=9.9, weather__temp_c=13.0)
    assert mild.asks(BLANKET) == 100
    assert mild.run(60, weather__temp_c=11.0).asks(BLANKET) == 0


def test_at_most_six_moves_a_day_and_the_last_is_kept_for_the_night() -> None:
    house, position, moves = at(NOON).run(60), 100.0, 0
    for hour in range(4):
        for light, air in ((20.0, 15.0), (450.0, 15.0)):
            house.run(1950, weather__rad_w_m2=light, **warm(air), hour=11.0 + hour / 2)
            goal = house.asks(BLANKET)
            moves, position = moves + (goal != position), goal
            house.run(blanket_pos_pct=goal)
    assert 3 <= moves <= 5
    night = house.run(120, hours_before_sunset=-0.2, hours_after_sunrise=10.0, weather__rad_w_m2=0.0)
    assert night.asks(BLANKET) == 0
    assert night.term("blanket_moves_count") <= 6


def test_after_two_dark_days_it_opens_around_noon_anyway() -> None:
    house = at(MORNING).run(60)
    for _ in range(2):
        house.run(60, hours_after_sunrise=4.0, hours_before_sunset=5.0)
        house.run(60, hours_after_sunrise=10.0, hours_before_sunset=-0.5)
    assert house.term("dark_days_d") == 2
    dull = {"hours_after_sunrise": 2.5, "hours_before_sunset": 7.0, "weather__rad_w_m2": 40.0}
    assert house.run(600, hour=9.5, **dull).asks(BLANKET) == 0
    assert house.run(600, hour=10.0, **dull).asks(BLANKET) == 40
    house.run(60, blanket_pos_pct=100.0, hour=12.0, **dull)
    assert house.run(60, hour=15.0, **(dull | {"hours_before_sunset": 1.0})).asks(BLANKET) == 0


# -- vents ---------------------------------------------------------------------------------------------------------------


def test_the_top_vent_opens_in_its_band_and_only_bare() -> None:
    assert at(NOON).run(60, **warm(26.9)).asks(TOP) == 0
    assert at(NOON).run(60, **warm(29.0)).asks(TOP) == pytest.approx(50)
    assert at(NOON).run(60, set__ventilation_c=24.0, **warm(26.0)).asks(TOP) == pytest.approx(50)
    assert at(NOON).run(60, blanket_pos_pct=0.0, **warm(33.0)).asks(TOP) == 0


def test_the_bottom_vent_waits_for_the_top_and_for_mild_still_air() -> None:
    hot = warm(33.0) | {"weather__temp_c": 20.0}
    assert at(NOON).run(60, vent_top_pct=50.0, **hot).asks(BOTTOM) == 0
    house = at(NOON).run(60, vent_top_pct=100.0, **hot)
    assert house.asks(BOTTOM) == 100
    assert math.isnan(house.asks(BOTTOM_WIND))
    assert at(NOON).run(60, vent_top_pct=100.0, weather__temp_c=11.0, **warm(33.0)).asks(BOTTOM) == 0
    assert at(NOON).run(60, weather__temp_c=4.9).asks(BOTTOM_COLD) == 0
    assert at(NOON).run(60, weather__wind_speed_m_s=8.1).asks(BOTTOM_WIND) == 0
    assert at(NOON).run(60, weather__wind_speed_m_s=NAN).asks(BOTTOM_WIND) == 0


@pytest.mark.parametrize(("gust", "most"), [(7.9, NAN), (9.0, 80), (11.9, 20), (12.1, 0), (NAN, 30)])
def test_gusts_bound_the_top_vent(gust: float, most: float) -> None:
    assert at(NOON).run(60, weather__wind_gust_m_s=gust).asks(TOP_WIND) == pytest.approx(most, nan_ok=True)


def test_storm_and_rain_bound_vents_until_a_quarter_of_an_hour_after() -> None:
    house = at(NOON).run(60, weather__wind_gust_m_s=13.0, weather__rain_bool=1.0)
    house.run(840, weather__wind_gust_m_s=3.0, weather__rain_bool=0.0)
    assert [house.asks(ask) for ask in (TOP_WIND, TOP_RAIN, BOTTOM_WIND)] == [0, 5, 0]
    house.run(120)
    assert all(math.isnan(house.asks(ask)) for ask in (TOP_WIND, TOP_RAIN, BOTTOM_WIND))


def test_humid_air_is_let_out_by_day_and_by_a_pulse_after_opening() -> None:
    assert at(NOON).run(60, air_rh_pct=90.0).asks(TOP_DRY) == pytest.approx(10)
    assert math.isnan(at(NOON).run(60, air_rh_pct=90.0, **warm(20.0)).asks(TOP_DRY))
    house = at(MORNING).run(660, **BRIGHT).run(60, blanket_pos_pct=100.0, **warm(16.0))
    assert math.isnan(house.run(2400).asks(TOP_DRY))
    assert house.run(600).asks(TOP_DRY) == 10
    assert math.isnan(house.run(900).asks(TOP_DRY))


def test_without_a_thermometer_the_sun_outside_opens_the_top_vent() -> None:
    blind = {"air_temp_c": NAN, "air_temp_east_c": NAN, "air_temp_west_c": NAN}
    assert at(NOON).run(60, weather__temp_c=15.0, **blind).asks(TOP) == 50
    assert at(NOON).run(60, weather__temp_c=5.0, **blind).asks(TOP) == 0


def test_a_sensor_in_the_sun_is_outvoted() -> None:
    assert at(NOON).run(60, air_temp_east_c=33.0).asks(TOP) == 0


def test_the_net_is_drawn_in_heat_and_sun() -> None:
    assert at(NOON).run(60, **warm(33.0)).asks(NET) == pytest.approx(40)
    assert at(NOON).run(60, weather__rad_w_m2=300.0, **warm(33.0)).asks(NET) == 0
    assert at(NOON).run(60, weather__wind_speed_m_s=9.0).asks(NET_WIND) == 0


# -- heat and water ------------------------------------------------------------------------------------------------------


def test_heat_comes_a_degree_above_frost_and_shuts_the_vent() -> None:
    house = at(MORNING).run(60, **warm(6.1))
    assert math.isnan(house.asks(HEAT))
    house.run(60, **warm(5.9))
    assert house.asks(HEAT) == 1
    assert house.asks(TOP_COLD) == 0
    assert house.asks(STIR) == 1
    assert house.run(60, **warm(7.9)).asks(HEAT) == 1
    assert math.isnan(house.run(60, **warm(8.1)).asks(HEAT))
    assert at(MORNING).run(60, set__frost_c=8.0, **warm(8.9)).asks(HEAT) == 1
    assert HEAT.level == TOP_COLD.level == "survival"


def test_water_on_sunny_mornings_for_dry_warm_soil_up_to_its_share() -> None:
    day = NOON | {"soil_vwc_pct": 23.0, "hours_after_sunrise": 2.0}
    assert at(day).run(60).asks(WATER) == 1
    for against in (
        {"weather__rad_w_m2": 100.0}, {"soil_temp_c": 11.0}, {"soil_vwc_pct": 25.0}, {"hours_after_sunrise": 5.5}, {"soil_vwc_pct": NAN},
        {"soil_temp_c": NAN}, {"weather__rad_w_m2": NAN}, {"hours_after_sunrise": NAN}, {"blanket_pos_pct": 0.0},
    ):  # fmt: skip
        assert at(day).run(60, **against).asks(WATER) == 0
    house = at(day).run(60)
    assert house.run(60, soil_vwc_pct=27.0).asks(WATER) == 1
    assert house.run(60, soil_vwc_pct=28.1).asks(WATER) == 0
    thirsty = at(day, water_s=600)
    assert sum(thirsty.run().asks(WATER) for _ in range(60)) * 30 == pytest.approx(600, abs=30)


def test_an_empty_house_is_left_alone_but_its_bounds_stand() -> None:
    house = at(NOON).run(60, mode=float(MODES.index("EMPTY")), person_present_bool=1.0, **warm(33.0))
    assert all(math.isnan(house.asks(ask)) for ask in (BLANKET, PERMIT, TOP, BOTTOM, NET, HEAT, STIR, WATER))
    assert house.asks(PERMIT_PERSON) == 0
    assert PERMIT_PERSON.level == "personnel_safety"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"close": 18}, "a solar greenhouse has no 'close'; it has open_after_sunrise_h"),
        ({"close_c": 50}, "close_c of a solar greenhouse is 50; give 5 to 30"),
        ({"close_c": True}, "close_c of a solar greenhouse is a number, such as 18; got True"),
        ({"wet_pct": 20}, "dry_pct of a solar greenhouse is 24; give at most wet_pct, 20"),
        ({"closed_w_m2_k": 6}, "closed_w_m2_k of a solar greenhouse is 6; give at most open_w_m2_k, 5"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(CallerError) as error:
        CONTROLLER.parameters(given)
    assert message in str(error.value)


# -- closed loop ---------------------------------------------------------------------------------------------------------


def loop(n: int, *, winter: bool, hour: float = 0.0) -> tuple[Loop, SolarGreenhouses]:
    scenario, start_s = (WINTER, WINTER_S) if winter else (SUMMER, SUMMER_S)
    start_s += hour * 3600.0
    weather = site_weather(scenario, start_s)
    houses = make(n, weather, start_s, [np.random.default_rng(house) for house in range(n)])
    return Loop(houses, CONTROLLER, weather, start_s, n), houses


def test_a_winter_opening_and_its_faults() -> None:
    sound, stuck, person, dark, askew = range(5)
    run, houses = loop(5, winter=True, hour=8.0)
    for house, fault, strength in ((stuck, "blanket_stuck", 0.2), (person, "person_at_blanket", 1), (dark, "mains_lost", 1)):
        houses.fail(house, fault, strength)
    houses.fail(askew, "vent_slip", 1.0)
    run.run(1.0)
    up = houses.roller.drive
    assert up[sound] == pytest.approx(0.4, abs=0.02) or up[sound] > 0.95
    assert up[stuck] == pytest.approx(0.2, abs=0.05)
    assert houses.roller.tripped[stuck]
    assert up[person] == up[dark] == 0.0
    assert run.turn is not None
    assert run.turn.demands[PERMIT_PERSON][person] == 0
    assert up[askew] == up[sound]


def test_cold_calls_the_heater_within_a_minute() -> None:
    run, houses = loop(2, winter=True)
    houses.state = houses.state._replace(air_c=np.array([5.5, 14.0]), wall_c=np.array([5.5, 15.0]), topsoil_c=np.array([6.0, 15.0]))
    run.run(1 / 60)
    assert run.drives.position["heater"].tolist() == [1, 0]
    run.run(0.5)
    assert houses.state.air_c[0] > 6.3


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_winter_days_stay_above_frost_without_heat_and_spare_the_blanket() -> None:
    run, houses = loop(3, winter=True)
    airs = np.array(run.run(42.0, lambda _: houses.state.air_c))
    assert airs.min() > 5.0  # the first night begins from a cold house
    assert airs[2880:].min() > 8.0
    assert airs.max() < 30.0
    assert run.drives.moves["heater"].max() == 0
    blanket = run.turn.terms["blanket_moves_count"]  # type: ignore[union-attr]
    assert blanket.max() <= 4


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_a_summer_day_stays_below_scorch() -> None:
    run, houses = loop(3, winter=False, hour=5.0)
    airs = np.array(run.run(15.0, lambda _: houses.state.air_c))
    assert airs.max() < 38.0
    assert run.drives.moves["shade_net"].min() > 0


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_a_winter_night_with_the_blanket_stuck_open_is_held_by_the_heater() -> None:
    run, houses = loop(2, winter=True, hour=12.0)
    run.run(0.6)
    houses.fail(1, "blanket_stuck", 0.9)
    airs = np.array(run.run(20.0, lambda _: houses.state.air_c))
    assert houses.roller.tripped[1]
    assert airs[:, 0].min() > 8.0
    assert airs[:, 1].min() > 4.0
    assert run.drives.moves["heater"][1] > 0
