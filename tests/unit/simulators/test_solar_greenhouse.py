import numpy as np
import pytest

from simulators import multispan, solar_greenhouse
from simulators.multispan import Outside, co2_ppm, relative_humidity_pct
from simulators.solar_greenhouse import (
    Inputs,
    Parameters,
    advance,
    air_flow_m_s,
    evaporated_kg_m2_s,
    film_c,
    film_w_m2_k,
    initial_state,
    solar_gain_w_m2,
    transpired_kg_m2_s,
)

HOUSE = Parameters()
MINUTE_S, DAY_S = 60.0, 86400.0
# Houses that stand side by side in the ten days of the checks.
BASE, BARE, STUCK_OPEN, OVERCAST, LATE, EARLY, STUCK_HALF = range(7)
FAULT_DAY = 7  # the night of stuck blankets
OVERCAST_DAYS = (8, 9)


def start(air=14.0, rh=80.0):
    return initial_state(air, rh, wall_c=16.0, topsoil_c=15.0, deep_soil_c=15.0)


def weather(hour, peak=450.0):
    """Sinus of -11 C at 02:00 to +1 C at 14:00, half-sine of sun from 07:30 to 16:30."""
    sun = np.maximum(0.0, np.sin(np.pi * (hour - 7.5) / 9.0)) if 7.5 < hour < 16.5 else 0.0
    return Outside(-5.0 + 6.0 * np.cos(2.0 * np.pi * (hour - 14.0) / 24.0), 60.0, peak * sun, 2.0)


def vented(state, blanket_open):
    """Top vents in proportion, from 26 C to 30 C, while the blanket is up."""
    return Inputs(blanket_open, np.clip((state.air_c - 26.0) / 4.0, 0.0, 1.0) * (blanket_open == 1.0))


def blankets(day, hour):
    by_day = 8.5 <= hour < 16.0
    usual = np.full(7, float(by_day))
    usual[BARE] = 1.0
    usual[LATE] = float(10.5 <= hour < 16.0)
    usual[EARLY] = float(8.5 <= hour < 14.5)
    if day == FAULT_DAY:
        usual[STUCK_OPEN] = 1.0
        usual[STUCK_HALF] = max(0.5, float(by_day))
    return usual


@pytest.fixture(scope="module")
def days():
    """Highest and lowest air, the hour of the lowest, each (day, house)."""
    state, results = start(np.full(7, 14.0)), []
    for day in range(10):
        airs = []
        for minute in range(1440):
            hour = minute / 60.0
            peak = np.full(7, 450.0)
            if day in OVERCAST_DAYS:
                peak[OVERCAST] *= 0.15
            inputs = vented(state, blankets(day, hour))
            state = advance(state, MINUTE_S, inputs=inputs, outside=weather(hour, peak), parameters=HOUSE)
            airs.append(state.air_c)
        results.append((np.max(airs, axis=0), np.min(airs, axis=0), np.argmin(airs, axis=0) / 60.0))
    return [np.array(kind) for kind in zip(*results, strict=True)]


@pytest.mark.days
def test_check_1_clear_winter_days(days):
    highest, lowest, when = (kind[FAULT_DAY, BASE] for kind in days)
    assert highest == pytest.approx(23.6, abs=0.5)
    assert lowest == pytest.approx(11.0, abs=0.5)
    assert when == pytest.approx(8.9, abs=0.1)  # just after the blanket has gone up


@pytest.mark.days
def test_check_2_without_a_blanket(days):
    assert days[0][FAULT_DAY, BARE] == pytest.approx(18.1, abs=0.5)
    assert days[1][FAULT_DAY, BARE] == pytest.approx(1.1, abs=0.5)


@pytest.mark.days
def test_check_3_blanket_left_open_one_night(days):
    assert days[1][FAULT_DAY, STUCK_OPEN] == pytest.approx(4.6, abs=0.5)
    assert days[1][FAULT_DAY, STUCK_OPEN] < days[1][FAULT_DAY, STUCK_HALF] < days[1][FAULT_DAY, BASE]


@pytest.mark.days
def test_check_4_two_overcast_days(days):
    assert days[1][OVERCAST_DAYS, OVERCAST] == pytest.approx([8.7, 5.4], abs=0.5)
    assert days[0][OVERCAST_DAYS, OVERCAST] == pytest.approx([16.7, 9.4], abs=0.5)


@pytest.mark.days
def test_check_5_late_opening_and_early_closing(days):
    assert days[0][FAULT_DAY, LATE] == pytest.approx(20.2, abs=0.5)
    assert days[1][FAULT_DAY, LATE] == pytest.approx(11.3, abs=0.5)
    assert days[0][FAULT_DAY, EARLY] == pytest.approx(23.5, abs=0.5)
    assert days[1][FAULT_DAY, EARLY] == pytest.approx(10.3, abs=0.5)


def test_break_even_of_the_blanket_is_94_w_m2():
    cost = (film_w_m2_k(1, HOUSE) - film_w_m2_k(0, HOUSE)) * HOUSE.film_area * 20
    assert cost / solar_gain_w_m2(Inputs(blanket_open=1), 1.0, HOUSE) == pytest.approx(94, abs=0.5)


def test_each_equation_gives_its_known_value():
    assert film_c(1, 15, -10, HOUSE) == pytest.approx(1.25)
    assert film_c(0, 15, -10, HOUSE) == pytest.approx(11.425)
    assert air_flow_m_s(Inputs(1), 3, HOUSE) == pytest.approx(4.833e-4, rel=1e-3)
    assert air_flow_m_s(Inputs(1, vent_top=1), 3, HOUSE) == pytest.approx(20.6 * 2.9 / 3600)
    assert air_flow_m_s(Inputs(0, vent_top=1, vent_bottom=1), 3, HOUSE) == pytest.approx(0.3 * 2.9 / 3600)
    assert air_flow_m_s(Inputs(1, torn=1), 6, HOUSE) == pytest.approx(10.6 * 2.9 / 3600)
    assert solar_gain_w_m2(Inputs(1, snow=0.6), 500, HOUSE) == pytest.approx(0.4 * 1.3 * 0.7 * 500)
    assert solar_gain_w_m2(Inputs(1, shade_net=1), 500, HOUSE) == pytest.approx(0.5 * 1.3 * 0.7 * 500)
    assert solar_gain_w_m2(Inputs(0), 500, HOUSE) == 0
    soil = initial_state([12, 20], [90, 100], wall_c=12, topsoil_c=15)
    assert evaporated_kg_m2_s(soil, HOUSE) == pytest.approx([6.4e-6, 0], rel=0.01)


def test_a_day_loses_and_makes_no_energy_water_or_co2():
    state = first = start(rh=105)  # supersaturated, so that mist falls in the first step
    energy_in = water_in = co2_in = energy_through = water_through = co2_through = 0.0
    for step in range(8640):
        hour = step * 10 / 3600
        outside, open_now = weather(hour), float(8.5 <= hour < 16)
        lit = 12 <= hour < 13
        inputs = Inputs(open_now, 0.3 * (13 <= hour < 15), 0.1 * (hour >= 14), lamp=1.0 * (hour < 1), heater=0.5 * (hour < 6))
        inputs = inputs._replace(co2_valve=0.2 * lit, snow=0.1, torn=0.05)
        solar = 1.3 * 0.7 * 0.9 * open_now * outside.rad_w_m2
        cracks = 0.6 * open_now + 0.3 * (1 - open_now) + open_now * 20 * (inputs.vent_top + inputs.vent_bottom)
        flow = (cracks + 5 * 0.05 * 2 / 3) * 2.9 / 3600
        warmer = state.air_c[0] - outside.temp_c
        film = (5.0 * open_now + 1.3 * (1 - open_now)) * 1.15
        given = 0.9 * solar + 80 * inputs.heater + 60 * inputs.lamp
        lost = (film + 1200 * flow + 0.1) * warmer + 0.33 * 0.35 * (state.wall_c[0] - outside.temp_c)
        lost += 1.7 * (state.deep_soil_c[0] - 13)
        vapour_out = flow * (state.vapour_kg_m3[0] - multispan.vapour_density_kg_m3(outside.temp_c, 60))
        transpired = transpired_kg_m2_s(state, solar, HOUSE)[0]
        transpired += 0.002 * max(0.0, multispan.vapour_density_kg_m3(state.topsoil_c[0]) - state.vapour_kg_m3[0])
        sun = solar / 0.7
        uptake = multispan.co2_uptake_kg_m2_s(state.air_c, state.co2_kg_m3, sun, 1 - np.exp(-0.7))[0]
        gas = 1.5e-7 + 1.4e-6 * inputs.co2_valve - uptake - flow * (state.co2_kg_m3[0] - 7.4e-4)
        energy_in, energy_through = energy_in + 10 * (given - lost), energy_through + 10 * (given + abs(lost))
        water_in, water_through = water_in + 10 * (transpired - vapour_out), water_through + 10 * transpired
        co2_in, co2_through = co2_in + 10 * gas, co2_through + 10 * abs(gas)
        state = advance(state, 10.0, inputs=inputs, outside=outside, parameters=HOUSE)
    gained = [after[0] - before[0] for after, before in zip(state, first, strict=True)]
    air, vapour, co2, wall, top, deep, condensed, heat, given_off = gained
    stored = (2.9 * 1200 + 8000) * air + 0.33 * 240e3 * wall + 173e3 * top + 520e3 * deep
    assert stored == pytest.approx(energy_in, abs=1e-6 * energy_through)
    assert 2.9 * vapour + condensed == pytest.approx(water_in, abs=1e-6 * water_through)
    assert given_off == pytest.approx(water_through)
    assert 2.9 * co2 == pytest.approx(co2_in, abs=1e-6 * co2_through)
    assert condensed > 0
    assert heat == pytest.approx(40 * 6 * 3600 + 60 * 3600)


def test_a_thousand_houses_together_equal_houses_alone():
    random = np.random.default_rng(1)
    airs, humidities = random.uniform(5, 30, 1000), random.uniform(40, 100, 1000)
    positions = random.uniform(0, 1, (9, 1000))
    outside = Outside(*(random.uniform(low, high, 1000) for low, high in ((-15, 20), (30, 100), (0, 800), (0, 12))))
    together = advance(start(airs, humidities), 1800, inputs=Inputs(*positions), outside=outside, parameters=HOUSE)
    for i in range(0, 1000, 50):
        alone = advance(
            start(airs[i], humidities[i]),
            1800,
            inputs=Inputs(*positions[:, i]),
            outside=Outside(*(v[i] for v in outside[:4])),
            parameters=HOUSE,
        )
        for field, value in zip(together, alone, strict=True):
            assert field[i] == pytest.approx(value[0], rel=1e-12)


def test_half_the_step_gives_the_same_day(monkeypatch):
    coarse = fine = start()
    for minute in range(1440):
        hour = minute / 60
        outside, open_now = weather(hour, 700.0), float(8.5 <= hour < 16)
        inputs = Inputs(open_now, vent_top=float(11 <= hour < 14), heater=float(hour < 3))
        monkeypatch.setattr(solar_greenhouse, "STEP_S_MAX", 10.0)
        coarse = advance(coarse, MINUTE_S, inputs=inputs, outside=outside, parameters=HOUSE)
        monkeypatch.setattr(solar_greenhouse, "STEP_S_MAX", 5.0)
        fine = advance(fine, MINUTE_S, inputs=inputs, outside=outside, parameters=HOUSE)
        assert coarse.air_c[0] == pytest.approx(fine.air_c[0], abs=0.1)
        assert coarse.wall_c[0] == pytest.approx(fine.wall_c[0], abs=0.1)
        assert coarse.topsoil_c[0] == pytest.approx(fine.topsoil_c[0], abs=0.1)
    assert relative_humidity_pct(coarse)[0] == pytest.approx(relative_humidity_pct(fine)[0], abs=0.5)


def test_snow_darkens_holes_chill_heater_warms():
    noon, windy_night = Outside(0, 60, 450, 2), Outside(-10, 60, 0, 9)

    def air(outside, **inputs):
        return advance(start(), 3600, inputs=Inputs(**inputs), outside=outside, parameters=HOUSE)

    clear, snowy = air(noon, blanket_open=1), air(noon, blanket_open=1, snow=0.6)
    assert snowy.air_c[0] < clear.air_c[0] - 2
    whole, torn = air(windy_night), air(windy_night, torn=1)
    assert torn.air_c[0] < whole.air_c[0] - 4
    assert torn.vapour_kg_m3[0] < whole.vapour_kg_m3[0] - 1e-3
    heated = air(windy_night, heater=1)
    assert heated.air_c[0] > whole.air_c[0] + 3
    assert heated.heat_j_m2[0] == pytest.approx(80 * 3600)
    assert air(windy_night, heater=1, lamp=1).air_c[0] > heated.air_c[0] + 2


def test_vents_dry_and_cool_and_a_shut_house_uses_up_its_co2():
    noon = Outside(0, 60, 600, 2)
    shut, top, both, dosed, shaded = (
        advance(start(25, 80), 7200, inputs=inputs, outside=noon, parameters=HOUSE)
        for inputs in (Inputs(1), Inputs(1, 1), Inputs(1, 1, 1), Inputs(1, co2_valve=1), Inputs(1, shade_net=1))
    )
    assert shut.air_c[0] > top.air_c[0] + 5 > both.air_c[0] + 6
    assert relative_humidity_pct(shut)[0] > relative_humidity_pct(top)[0] + 10
    assert co2_ppm(shut)[0] < 300 < co2_ppm(top)[0]
    assert co2_ppm(dosed)[0] > co2_ppm(shut)[0] + 500
    assert shaded.air_c[0] < shut.air_c[0] - 2


def test_a_long_night_under_the_blanket_is_humid_and_rich_in_co2():
    dawn = advance(start(15, 80), 15 * 3600, inputs=Inputs(), outside=Outside(-8, 60, 0, 2), parameters=HOUSE)
    assert 90 < relative_humidity_pct(dawn)[0] < 100
    assert 700 < co2_ppm(dawn)[0] < 1500
    assert dawn.condensed_kg_m2[0] > 0


def test_air_never_holds_more_than_saturation():
    state = advance(start(20, 100), 3600, inputs=Inputs(1), outside=Outside(-20, 100, 0, 0), parameters=HOUSE)
    assert relative_humidity_pct(state)[0] <= 100.0 + 1e-6


def test_positions_beyond_their_ends_count_as_the_ends():
    def run(inputs, outside):
        return advance(start(), 600, inputs=inputs, outside=outside, parameters=HOUSE)

    beyond, at_end = run(Inputs(1.2, -0.3, snow=-1), Outside(0, 103, -3, -1)), run(Inputs(1, 0, snow=0), Outside(0, 100, 0, 0))
    assert [float(v[0]) for v in beyond] == [float(v[0]) for v in at_end]


def test_what_is_no_number_is_refused_with_its_name():
    state, outside = start(np.array([14.0, 15.0])), Outside(0, 60, 0, 2)
    with pytest.raises(ValueError, match=r"vent_top of house 1 is not a number: give a value of 0 to 1"):
        advance(state, 10, inputs=Inputs(1, np.array([0.0, np.nan])), outside=outside, parameters=HOUSE)
    with pytest.raises(ValueError, match=r"wind_m_s of house 0 is not a number"):
        advance(state, 10, inputs=Inputs(), outside=outside._replace(wind_m_s=np.inf), parameters=HOUSE)


def test_no_time_changes_nothing():
    state = start()
    assert advance(state, 0.0, inputs=Inputs(), outside=Outside(0, 50, 0, 1), parameters=HOUSE) is state
