from statistics import NormalDist

import numpy as np
import pytest

from simulators import germination
from simulators.germination import (
    Inputs,
    Outside,
    Parameters,
    advance,
    air_flow_m3_s,
    coil,
    days_to_half,
    final_share,
    germinated_share,
    gradient_k,
    initial_state,
    loss_w_k,
    respiration_kg_s,
    tray_evaporation_kg_s,
    wall_c,
    wall_condensation_kg_s,
)
from simulators.multispan import co2_ppm, relative_humidity_pct, vapour_density_kg_m3, vapour_pressure_pa
from telemetry import psychrometrics
from telemetry.crops import CROP_NUMBER, CROPS, thermal_time_rate_c

ROOM = Parameters()
# The handbook's sums know neither the fan's heat nor water from trays and to walls.
DRY = Parameters(fan_w=0.0, tray_transfer_m_s=0.0, wall_transfer_m_s=0.0)
HALL = Outside(10, 70)
TOMATO, LETTUCE = CROP_NUMBER["tomato"], CROP_NUMBER["lettuce"]
# Days to emergence by temperature below the optimum, which the thermal times were fitted to.
TABLE = {
    "tomato": {15: 14, 20: 8, 25: 6},
    "pepper": {15: 25, 20: 13, 25: 8},
    "cucumber": {15: 13, 20: 6, 25: 4},
    "watermelon": {20: 12, 25: 5, 30: 4},
    "eggplant": {20: 13, 25: 8, 30: 5},
    "lettuce": {5: 15, 10: 7, 15: 4, 20: 3},
    "cabbage": {10: 15, 15: 9, 20: 6, 25: 5},
}


def run(state, hours, *, inputs=None, outside=HALL, parameters=ROOM):
    return advance(state, hours * 3600.0, inputs=inputs or Inputs(), outside=outside, parameters=parameters)


def test_check_1_what_holds_28_c_in_a_hall_of_10_c():
    assert loss_w_k(Inputs(), ROOM) * 18 == pytest.approx(602, rel=0.01)
    held = run(initial_state(28, 40), 24, inputs=Inputs(heater_1=0.602), parameters=DRY)
    assert held.air_c[0] == pytest.approx(28, abs=0.1)
    assert held.tray_c[0] == pytest.approx(28, abs=0.1)


def test_check_2_three_kilowatts_heat_the_lumped_room_in_under_four_hours():
    lumped = Parameters(fan_w=0, tray_transfer_m_s=0, wall_transfer_m_s=0, tray_w_k=60.0)
    state, minutes, mean = initial_state(15, 20), 0, [15.0]
    while mean[-1] < 28:
        state = run(state, 1 / 60, inputs=Inputs(1, 1, 1), parameters=lumped)
        minutes += 1
        mean.append((72e3 * state.air_c[0] + 2_711_600 * state.tray_c[0]) / 2_783_600)
    hours = (minutes - (mean[-1] - 28) / (mean[-1] - mean[-2])) / 60
    assert hours == pytest.approx(3.85, rel=0.01)


def test_check_3_water_that_raises_and_holds_humidity():
    assert 60e3 * (vapour_density_kg_m3(25, 95) - vapour_density_kg_m3(25, 60)) == pytest.approx(483, abs=1)
    lost = air_flow_m3_s(Inputs(), ROOM) * (vapour_density_kg_m3(25, 95) - vapour_density_kg_m3(10, 70))
    assert lost * 3.6e6 == pytest.approx(184, abs=1)
    heat = (loss_w_k(Inputs(), ROOM) * 15 + 2.45e6 * lost) / 1000
    held = run(initial_state(25, 95), 6, inputs=Inputs(heater_1=heat, fog=lost / ROOM.fog_kg_s), parameters=DRY)
    assert relative_humidity_pct(held)[0] == pytest.approx(95, abs=0.2)
    assert held.fog_kg[0] == pytest.approx(6 * 0.184, rel=0.01)


@pytest.mark.parametrize(("temp", "days"), [(25, 5.9), (22, 7.1), (28, 5.1), (7, np.inf)])
def test_check_4_tomato_at_constant_temperature(temp, days):
    assert days_to_half(temp, TOMATO) == pytest.approx(days, abs=0.05)


def test_check_4_in_a_room_half_of_what_emerges_has_emerged_at_its_hour():
    still = Outside(25, 50)
    almost = initial_state(25, 50)._replace(thermal_time_c_d=np.array([[5.4322 * 17.7]]))  # theta50 is 5.9322 d at 25 C
    half = run(almost, 12, inputs=Inputs(crop=TOMATO), outside=still, parameters=DRY)
    assert half.thermal_time_c_d[0, 0] == pytest.approx(105, abs=0.01)
    expected = 0.97 * (0.5 - NormalDist().cdf((5.4322 * 17.7 - 105) / (0.15 * 105)))
    assert half.emerged[0, 0] == pytest.approx(expected, abs=1e-4)


def test_check_5_vapour_deficit_of_near_saturated_air():
    state = initial_state(25, 95)
    deficit = psychrometrics.saturation_vapour_pressure_pa(25.0) - vapour_pressure_pa(state)[0]
    assert deficit == pytest.approx(158, abs=1)


@pytest.mark.parametrize(
    ("crop", "days"),
    [
        ("tomato", 5.9),
        ("pepper", 8.1),
        ("cucumber", 4.0),
        ("watermelon", 5.6),
        ("eggplant", 7.5),
        ("cabbage", 4.9),
        ("lettuce", 2.7),
    ],
)
def test_days_at_25_c(crop, days):
    assert days_to_half(25, CROP_NUMBER[crop]) == pytest.approx(days, abs=0.11)  # lettuce goes no faster than at 22 C


@pytest.mark.parametrize("crop", TABLE)
def test_thermal_times_reproduce_the_table_they_were_fitted_to(crop):
    for temp, days in TABLE[crop].items():
        assert days_to_half(temp, CROP_NUMBER[crop]) == pytest.approx(days, rel=0.15)


def test_final_shares_of_the_table_and_between_and_beyond_it():
    assert final_share(25, TOMATO) == pytest.approx(0.97)
    assert final_share(27.5, TOMATO) == pytest.approx(0.90)
    assert final_share([25, 30, 35, 50], LETTUCE) == pytest.approx([0.99, 0.12, 0, 0])
    assert final_share(0, TOMATO) == pytest.approx(0.98)
    assert final_share([[45.0, 15.0]], [[TOMATO, CROP_NUMBER["eggplant"]]]) == pytest.approx(np.zeros((1, 2)))
    for crop in CROPS:
        assert crop.base_c < crop.optimum_c <= crop.stop_above_c


def test_thermal_time_stops_below_the_base_and_at_the_optimum():
    assert thermal_time_rate_c([5, 25, 30, 40], TOMATO) == pytest.approx([0, 17.7, 22.7, 22.7])


def test_seeds_come_up_as_a_normal_distribution():
    times = np.linspace(0, 200, 41)
    expected = [NormalDist(105, 0.15 * 105).cdf(t) for t in times]
    assert germinated_share(times, TOMATO) == pytest.approx(expected, abs=1e-7)


def test_lettuce_that_gets_hot_stays_down_and_cool_lettuce_comes_up():
    crops, trays = np.array([[LETTUCE, TOMATO]]), np.array([[75, 75]])
    ripe = initial_state(20, 50, batches=2)._replace(thermal_time_c_d=np.array([[50.0, 50.0]]))
    for temp, lettuce in ((20, 0.99), (30, 0.12)):
        state = ripe._replace(air_c=np.array([float(temp)]), tray_c=np.array([float(temp)]))
        after = run(state, 12, inputs=Inputs(crop=crops, trays=trays), outside=Outside(temp, 50), parameters=DRY)
        gained = germinated_share(after.thermal_time_c_d[0, 0], LETTUCE) - germinated_share(50, LETTUCE)
        assert gained > 0.3
        assert after.emerged[0, 0] == pytest.approx(lettuce * gained, abs=1e-3)
        assert after.emerged[0, 1] < 0.01


def test_each_equation_gives_its_known_value():
    assert wall_c(28, 10, ROOM) == pytest.approx(27.325)
    wet = vapour_density_kg_m3(25, 95)
    assert tray_evaporation_kg_s(25, wet, 22.5, 0.003) * 3.6e6 == pytest.approx(280, abs=2)
    assert tray_evaporation_kg_s(20, wet, 22.5, 0.003) < 0
    sensible, water = coil(25, wet, 1.0, ROOM)
    assert sensible == pytest.approx(1360)
    assert water == pytest.approx(9.06e-4, rel=0.01)
    assert coil(5, 0.001, 1.0, ROOM) == (0, 0)
    assert wall_condensation_kg_s(wet, 24.2, ROOM) == 0  # dew point 24.14 C
    assert wall_condensation_kg_s(wet, 23.0, ROOM) > 0
    assert air_flow_m3_s(Inputs(door=1), ROOM) == pytest.approx(60 * 20 / 3600)
    assert air_flow_m3_s(Inputs(fresh_air_damper=0.5), ROOM) == pytest.approx(60 * 5.2 / 3600)
    emerged = respiration_kg_s(np.array([25.0]), np.ones((1, 1)), 150.0, ROOM)
    assert 420 + emerged[0] / air_flow_m3_s(Inputs(), ROOM) / 1.83e-6 == pytest.approx(2018, abs=5)
    assert respiration_kg_s(np.array([35.0]), np.ones((1, 1)), 150.0, ROOM) == pytest.approx(2 * emerged)


def test_a_slipping_fan_belt_stretches_the_gradient_to_five_times():
    state = initial_state(25, 90)
    assert gradient_k(state, Inputs(0.6), ROOM)[0] == pytest.approx(0.83, abs=0.01)
    assert gradient_k(state, Inputs(0.6, circulation_fan=0), ROOM)[0] == pytest.approx(4.17, abs=0.01)
    assert gradient_k(state._replace(cut_out=np.ones(1)), Inputs(0.6), ROOM)[0] == 0


@pytest.mark.days
def test_a_day_loses_and_makes_no_energy_water_or_co2():
    crops, trays = np.array([[TOMATO, LETTUCE]]), np.array([[100.0, 50.0]])
    # Supersaturated, so that mist falls in the first step.
    state = first = initial_state(22, 105, tray_c=16, co2_ppm=800, batches=2)._replace(thermal_time_c_d=np.array([[80.0, 30.0]]))
    heat_in = water_in = co2_in = heat_through = water_through = co2_through = 0.0
    for step in range(17280):
        hour = step * 5 / 3600
        inputs = Inputs(
            1, 1.0 * (hour < 4), 0.5 * (hour < 2), 1.0 * (6 <= hour < 9), 0.4 * (hour < 20), 0.8, 0.5 * (10 <= hour < 10.1)
        )
        inputs = inputs._replace(door=1.0 * (14 <= hour < 14.2), lamp=1.0 * (hour > 18), crop=crops, trays=trays)
        flow = 60 / 3600 * (0.2 + 19.8 * inputs.door + 10 * inputs.fresh_air_damper)
        air, vapour = state.air_c[0], state.vapour_kg_m3[0]
        heater = 1000 * (inputs.heater_1 + inputs.heater_2 + inputs.heater_3) * (air < 45)
        given = heater + 150 * 0.8**3 + 800 * inputs.lamp
        sensible = (0.3 * 98 + 1200 * flow) * (air - 10) + 80 * inputs.cooler * 0.84 * max(0.0, air - 8)
        vented = flow * (vapour - vapour_density_kg_m3(10, 70))
        gas = respiration_kg_s(state.tray_c, state.emerged, trays, ROOM)[0] - flow * (state.co2_kg_m3[0] - 420 * 1.83e-6)
        heat_in += 5 * (given - sensible - 2.45e6 * vented)
        heat_through += 5 * (given + abs(sensible))
        water_in, water_through = water_in + 5 * (0.4e-3 * (hour < 20) - vented), water_through + 5 * (4e-4 + abs(vented))
        co2_in, co2_through = co2_in + 5 * gas, co2_through + 5 * abs(gas)
        state = advance(state, 5.0, inputs=inputs, outside=HALL, parameters=ROOM)
    gained = {name: getattr(state, name)[0] - getattr(first, name)[0] for name in state._fields}
    stored = 72e3 * gained["air_c"] + (200e3 + 600 * 4186) * gained["tray_c"]
    # Water that left as a liquid left its heat of vaporisation on trays, coil or wall; that on trays and in air stayed in the room.
    latent = 2.45e6 * (60 * gained["vapour_kg_m3"] + gained["condensed_kg"])
    assert stored + latent == pytest.approx(heat_in, abs=1e-6 * heat_through)
    water = 60 * gained["vapour_kg_m3"] + gained["condensed_kg"] + gained["tray_water_kg"]
    assert water == pytest.approx(water_in, abs=1e-6 * water_through)
    assert 60 * gained["co2_kg_m3"] == pytest.approx(co2_in, abs=1e-6 * co2_through)
    assert gained["condensed_kg"] > 0.5
    assert gained["fog_kg"] == pytest.approx(0.4e-3 * 20 * 3600)


def test_a_thousand_rooms_together_equal_rooms_alone():
    random = np.random.default_rng(2)
    airs, humidities = random.uniform(5, 35, 1000), random.uniform(40, 100, 1000)
    positions = random.uniform(0, 1, (10, 1000))
    crops, trays = random.integers(0, len(CROPS), (1000, 3)), random.uniform(0, 80, (1000, 3))
    hall = Outside(random.uniform(-5, 30, 1000), random.uniform(30, 100, 1000))
    together = run(
        initial_state(airs, humidities, tray_c=20, batches=3), 0.5, inputs=Inputs(*positions, crops, trays), outside=hall
    )
    for i in range(0, 1000, 50):
        alone = run(
            initial_state(airs[i], humidities[i], tray_c=20, batches=3),
            0.5,
            inputs=Inputs(*positions[:, i], crops[i], trays[i]),
            outside=Outside(hall.temp_c[i], hall.rh_pct[i]),
        )
        for field, value in zip(together, alone, strict=True):
            assert field[i] == pytest.approx(value[0], rel=1e-12)


def test_half_the_step_gives_the_same_hours(monkeypatch):
    coarse = fine = initial_state(22, 80, tray_c=18)
    for minute in range(480):
        hour = minute / 60
        inputs = Inputs(
            1, heater_2=float(hour < 3), cooler=float(4 <= hour < 6), fog=float(minute % 5 == 0), door=float(minute == 400)
        )
        monkeypatch.setattr(germination, "STEP_S_MAX", 5.0)
        coarse = run(coarse, 1 / 60, inputs=inputs)
        monkeypatch.setattr(germination, "STEP_S_MAX", 2.5)
        fine = run(fine, 1 / 60, inputs=inputs)
        assert coarse.air_c[0] == pytest.approx(fine.air_c[0], abs=0.1)
        assert coarse.tray_c[0] == pytest.approx(fine.tray_c[0], abs=0.1)
    assert relative_humidity_pct(coarse)[0] == pytest.approx(relative_humidity_pct(fine)[0], abs=0.5)


def test_an_open_door_lets_warmth_and_vapour_fall_in_three_minutes():
    bare = Parameters(panels_w_k=0, wall_transfer_m_s=0, fan_w=0)
    start, hall = initial_state(25, 90), Outside(10, 70)
    after = run(start, 1 / 20, inputs=Inputs(door=1, trays=0), outside=hall, parameters=bare)
    left = (after.vapour_kg_m3 - vapour_density_kg_m3(10, 70)) / (start.vapour_kg_m3 - vapour_density_kg_m3(10, 70))
    assert left[0] == pytest.approx(np.exp(-1), abs=0.02)
    assert after.air_c[0] == pytest.approx(10 + 15 * np.exp(-180 * (1 / 180 + 29.4 / 72e3)), abs=0.3)
    assert run(start, 1 / 20, inputs=Inputs(door=1)).air_c[0] > after.air_c[0] + 2  # warm trays hold on


def test_fog_moistens_and_cools_and_what_finds_no_room_wets_the_trays():
    dry = run(initial_state(25, 60), 0.25, inputs=Inputs(fog=1), outside=Outside(25, 60), parameters=DRY)
    assert relative_humidity_pct(dry)[0] > 75
    assert dry.air_c[0] < 25
    pinned = run(initial_state(25, 99), 3, inputs=Inputs(fog=1), outside=Outside(25, 60))
    assert relative_humidity_pct(pinned)[0] > 98
    assert pinned.tray_water_kg[0] > 5
    assert pinned.fog_kg[0] == pytest.approx(10.8)


def test_a_cold_hall_makes_the_wall_drip_and_a_mild_one_does_not():
    def condensed(hall_c):
        warm = Inputs(heater_1=1, fog=0.2)
        return run(initial_state(25, 95), 1, inputs=warm, outside=Outside(hall_c, 70)).condensed_kg[0]

    assert condensed(-15) > 0.1
    assert condensed(22) == 0


def test_the_cooler_cools_and_dries():
    free, cooled = (run(initial_state(28, 90), 1, inputs=Inputs(cooler=duty), outside=Outside(28, 60)) for duty in (0, 1))
    assert cooled.air_c[0] < free.air_c[0] - 1.5
    assert relative_humidity_pct(cooled)[0] < relative_humidity_pct(free)[0] - 5
    assert cooled.condensed_kg[0] > 0.5


def test_seeds_make_co2_and_the_damper_flushes_it():
    ripe = initial_state(25, 90, co2_ppm=500)._replace(emerged=np.full((1, 1), 0.97))
    shut = run(ripe, 12, outside=Outside(20, 60))
    assert co2_ppm(shut)[0] > 1400
    flushed = run(shut, 0.05, inputs=Inputs(fresh_air_damper=0.5), outside=Outside(20, 60))
    assert co2_ppm(flushed)[0] < 0.85 * co2_ppm(shut)[0]


def test_a_welded_contactor_is_stopped_by_the_cut_out_until_somebody_resets_it_in_a_cool_room():
    welded = Inputs(1, 1, 1, trays=0)
    warm = run(initial_state(30, 40), 2, inputs=welded, outside=Outside(25, 50))
    assert warm.cut_out[0] == 1
    assert warm.air_c[0] < 46
    hot = warm._replace(air_c=np.array([46.0]), tray_c=np.array([46.0]))
    assert run(hot, 5 / 3600, inputs=welded._replace(reset=1)).cut_out[0] == 1
    cool = run(warm, 6, inputs=welded, outside=Outside(15, 50))
    assert cool.cut_out[0] == 1
    assert cool.air_c[0] < 40
    assert cool.heat_j[0] == warm.heat_j[0]
    again = run(cool, 1 / 60, inputs=welded._replace(reset=1), outside=Outside(15, 50))
    assert again.cut_out[0] == 0
    assert again.heat_j[0] > cool.heat_j[0]


def test_air_never_holds_more_than_saturation():
    state = initial_state(25, 99)
    for _ in range(60):
        state = run(state, 1 / 60, inputs=Inputs(fog=1, cooler=1), outside=Outside(-10, 100))
        assert relative_humidity_pct(state)[0] <= 100.0 + 1e-9


def test_positions_beyond_their_ends_count_as_the_ends():
    start = initial_state(25, 80)
    beyond = run(start, 0.1, inputs=Inputs(1.5, fog=-1, trays=-3), outside=Outside(10, 120))
    at_end = run(start, 0.1, inputs=Inputs(1, fog=0, trays=0), outside=Outside(10, 100))
    assert [v.tolist() for v in beyond] == [v.tolist() for v in at_end]


def test_what_is_no_number_is_refused_with_its_name():
    state = initial_state([25.0, 26.0], 80, batches=2)
    with pytest.raises(ValueError, match=r"trays of house 1 is not a number"):
        run(state, 1, inputs=Inputs(trays=np.array([[10, 10], [10, np.nan]])))
    with pytest.raises(ValueError, match=r"door of house 0 is not a number: give a value of 0 to 1"):
        run(state, 1, inputs=Inputs(door=np.nan))
    for crop in (-1, len(CROPS), 0.5, np.nan):
        with pytest.raises(ValueError, match=r"crop is not a number of CROPS: give a whole number of 0 to 6"):
            run(state, 1, inputs=Inputs(crop=crop))
    with pytest.raises(ValueError, match="temp_c"):
        run(state, 1, outside=Outside(np.nan, 70))


def test_no_time_changes_nothing():
    state = initial_state(25, 80)
    assert advance(state, 0.0, inputs=Inputs(), outside=HALL, parameters=ROOM) is state
