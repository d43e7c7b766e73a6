import math
from dataclasses import replace

import numpy as np
import pytest

from simulators import pig_house
from simulators.multispan import relative_humidity_pct
from simulators.pig_house import (
    AIR_J_M3_K,
    VAPORISATION_J_KG,
    Inputs,
    Outside,
    Parameters,
    State,
    activity,
    advance,
    air_m3_s,
    air_speed_m_s,
    ammonia_mg_s,
    animal_heat_w,
    dry_sow_heat_w,
    fans_m3_s,
    feeding_level,
    finisher_heat_w,
    initial_state,
    lactating_sow_heat_w,
    natural_m3_s,
    opening_m3_s,
    skin_evaporation_kg_s,
    supply,
    weaner_heat_w,
)
from telemetry import psychrometrics
from telemetry.psychrometrics import MG_M3_PER_PPM

ROOM = Parameters()
# Fans that no pressure slows and a house without cracks: the flow is what the check says.
EXACT = Parameters(fan_pa=1e9, leak_m3_h=0.0)
FINISHER_W = float(finisher_heat_w(100, 2.71))
FULL = Inputs(heat_20_w=FINISHER_W, animals=1)
COLD, MILD, HOT = Outside(-5, 80, 2), Outside(15, 70, 2), Outside(34, 40, 2)
MILD_RATE = FULL._replace(fan_variable=1, inlets=0.6)


def run(state, seconds, *, inputs=FULL, outside=MILD, parameters=ROOM):
    return advance(state, seconds, inputs=inputs, outside=outside, parameters=parameters)


def hour_by_hour(step_s):
    """A day of changing weather, stages and heat in rooms of three kinds, as the hours of a day bring them."""
    for hour in range(24):
        outside = Outside(10 + 12 * math.cos(2 * math.pi * (hour - 15) / 24), 70, 2 + hour % 3)
        inputs = Inputs(
            heat_20_w=np.array([1.0, 0.3, 0.0]) * FINISHER_W * activity(hour),
            animals=np.array([1.0, 0.9, 0.0]),
            fan_variable=[0.4, 0.8, 1.0][hour % 3],
            fan_staged=[0.0, 0.2, 0.7][hour // 8],
            inlets=np.array([0.2, 0.5, 1.0]),
            tunnel=float(hour // 8 == 2),
            pad_pump=float(hour == 17),
            heater=np.array([0.0, 1.0, 0.5]) * (hour < 8),
            sprinkler=float(hour == 18),
            emergency=float(hour == 20),
            power=float(hour != 20),
            slurry=float(hour == 9),
            scraper=float(hour % 6 == 0),
        )
        yield from ((inputs, outside, step_s) for _ in range(round(3600 / step_s)))


@pytest.mark.parametrize(
    ("heat_20", "temp", "expected"),
    [
        (weaner_heat_w(10, 3.0), 28, (68, 61, 34, 27)),
        (weaner_heat_w(20, 3.0), 24, (104, 99, 59, 40)),
        (finisher_heat_w(50, 3.2), 20, (176, 176, 108, 68)),
        (finisher_heat_w(100, 2.71), 20, (224, 224, 137, 87)),
        (finisher_heat_w(100, 2.71), 28, (224, 203, 113, 89)),
        (dry_sow_heat_w(200, 80), 18, (299, 306, 189, 117)),
        (lactating_sow_heat_w(220, 8), 20, (501, 501, 307, 194)),
    ],
)
def test_heat_of_every_kind_of_animal(heat_20, temp, expected):
    assert [heat_20, *animal_heat_w(heat_20, temp)] == pytest.approx(expected, abs=0.5)


def test_check_1_heat_water_and_co2_of_a_thousand_finishers():
    assert feeding_level(100, 2.9) == pytest.approx(2.7095, abs=1e-4)
    total, sensible, latent = animal_heat_w(1000 * finisher_heat_w(100, 2.71), 20)
    assert [total / 1e3, sensible / 1e3, latent / 1e3] == pytest.approx([224, 137, 87], rel=0.01)
    assert latent / VAPORISATION_J_KG * 3600 == pytest.approx(128, rel=0.01)
    assert pig_house.CO2_M3_J * total * 3600 == pytest.approx(41.5, rel=0.01)


def test_check_2_air_that_keeps_co2_at_3000_ppm():
    co2 = pig_house.CO2_M3_J * animal_heat_w(FINISHER_W, 20)[0] * 3600
    assert co2 * 1e6 / (3000 - 420) == pytest.approx(16.1, abs=0.2)


def test_check_3_winter_needs_17_w_of_heater_and_holds_67_pct():
    inputs = FULL._replace(fan_variable=17 / 60, inlets=1, heater=0.17)
    unscraped = initial_state(18, 67, co2_ppm=2900)._replace(manure_age_s=np.array([86_400.0]))
    state = run(unscraped, 6 * 3600, inputs=inputs, outside=COLD, parameters=EXACT)
    assert state.air_c[0] == pytest.approx(18, abs=0.1)
    assert relative_humidity_pct(state)[0] == pytest.approx(67, abs=1)
    assert state.co2_ppm[0] == pytest.approx(2919, rel=0.01)
    assert state.nh3_ppm[0] == pytest.approx(24, abs=1)
    assert state.heat_j[0] == pytest.approx(17 * 6 * 3600)


def test_check_3_summer_at_the_hot_rate_is_1_4_k_warmer_than_outside():
    inputs = FULL._replace(fan_variable=1, fan_staged=0.8, inlets=1, tunnel=1)
    state = run(initial_state(31, 58), 12 * 3600, inputs=inputs, outside=Outside(30, 60, 2), parameters=EXACT)
    assert state.air_c[0] == pytest.approx(31.4, abs=0.1)
    assert relative_humidity_pct(state)[0] == pytest.approx(58, abs=1)
    assert state.co2_ppm[0] == pytest.approx(596, rel=0.01)


@pytest.mark.parametrize(
    ("minutes", "temp", "ppm", "humidity"),
    [(1, 22.1, 1701, 61), (5, 27.3, 2444, 56), (10, 29.9, 3282, 59), (30, 31.8, 6121, 92), (60, 32.8, 9333, 100)],
)
def test_check_4_power_failure(minutes, temp, ppm, humidity):
    inputs = FULL._replace(fan_variable=1, fan_staged=1, inlets=1, heater=1, power=0)
    state = run(initial_state(20, 65, co2_ppm=1500), minutes * 60, inputs=inputs, outside=Outside(25, 60, 0))
    assert state.air_c[0] == pytest.approx(temp, abs=0.5)
    assert state.co2_ppm[0] == pytest.approx(ppm, rel=0.03)
    assert relative_humidity_pct(state)[0] == pytest.approx(humidity, abs=2)


def test_check_5_water_of_a_54_kg_pig_at_15_c():
    water_g_h = animal_heat_w(finisher_heat_w(54, 3.0), 15)[2] / VAPORISATION_J_KG * 3.6e6
    assert water_g_h == pytest.approx(105, abs=0.5)


def test_check_6_no_sensible_heat_at_body_temperature():
    total, sensible, latent = animal_heat_w(224, np.array([20.0, 39.0, 40.0, 45.0]))
    assert sensible[0] > 100
    assert sensible[1] > sensible[2] == pytest.approx(0, abs=0.2)
    assert sensible[3] == sensible[2]
    assert total == pytest.approx(sensible + latent)


def test_a_day_conserves_heat_water_and_gases(monkeypatch):
    # What a room gains and loses is summed here from the published equations, step by step. Longer steps conserve as well as short ones.
    monkeypatch.setattr(pig_house, "STEP_S_MAX", 15.0)
    state, p = initial_state([18.0, 24.0, 15.0], 65), ROOM
    start, gained, given = state, np.zeros((5, 3)), np.zeros((5, 3))
    for inputs, outside, step_s in hour_by_hour(pig_house.STEP_S_MAX):
        drawn = supply(inputs, outside, p)
        air = air_m3_s(state, drawn, inputs, outside, p)
        total, sensible, latent = animal_heat_w(inputs.heat_20_w, state.air_c)
        skin, ammonia = skin_evaporation_kg_s(state, p), ammonia_mg_s(inputs.animals, state.air_c, air, state.manure_age_s, p)
        gained += step_s * np.stack(
            [
                sensible - VAPORISATION_J_KG * skin + inputs.heater * np.asarray(inputs.power) * p.heater_w,
                latent / VAPORISATION_J_KG + skin,
                pig_house.CO2_M3_J * total,
                ammonia,
                p.h2s_mg_h / 3600 + (p.slurry_h2s_mg - state.slurry_h2s_mg) / p.slurry_fill_s,
            ]
        )
        warmer = state.air_c - outside.temp_c
        given += step_s * np.stack(
            [
                p.loss_w_k * warmer + AIR_J_M3_K * air * (state.air_c - drawn.temp_c),
                air * (state.vapour_kg_m3 - drawn.vapour_kg_m3),
                air * (state.co2_ppm - 420) / 1e6,
                air * state.nh3_ppm * MG_M3_PER_PPM["nh3"],
                air * state.h2s_ppm * MG_M3_PER_PPM["h2s"],
            ]
        )
        state = advance(state, step_s, inputs=inputs, outside=outside, parameters=p)
    stored = _stored(state, p) - _stored(start, p)
    turned_over = np.maximum(np.abs(gained), np.abs(given))
    assert (turned_over[:, 0] > 0).all()
    assert np.all(np.abs(gained - given - stored) <= 1e-6 * turned_over)


def _stored(state: State, p: Parameters):
    return np.stack(
        [
            AIR_J_M3_K * p.volume_m3 * state.air_c + p.structure_j_k * state.structure_c,
            p.volume_m3 * state.vapour_kg_m3 + state.condensed_kg,
            p.volume_m3 * state.co2_ppm / 1e6,
            p.volume_m3 * state.nh3_ppm * MG_M3_PER_PPM["nh3"],
            p.volume_m3 * state.h2s_ppm * MG_M3_PER_PPM["h2s"] + state.slurry_h2s_mg,
        ]
    )


def test_half_the_step_gives_the_same_day(monkeypatch):
    # A minute after every change of inputs steps differ most.
    days = []
    for step_s_max in (5.0, 2.5):
        monkeypatch.setattr(pig_house, "STEP_S_MAX", step_s_max)
        state, temps = initial_state([18.0, 24.0, 15.0], 65), []
        for inputs, outside, step_s in hour_by_hour(3600):
            for part_s in (60, step_s - 60):
                state = advance(state, part_s, inputs=inputs, outside=outside, parameters=ROOM)
                temps.append(state.air_c)
        days.append((state, np.array(temps)))
    (coarse, coarse_c), (fine, fine_c) = days
    worst = np.abs(coarse_c - fine_c).max()
    assert 0 < worst < 0.1
    assert coarse.co2_ppm == pytest.approx(fine.co2_ppm, rel=0.01)
    assert relative_humidity_pct(coarse) == pytest.approx(relative_humidity_pct(fine), abs=0.5)


def test_a_thousand_rooms_together_equal_each_alone():
    random = np.random.default_rng(4)
    air, humidity = random.uniform(5, 35, 1000), random.uniform(30, 100, 1000)
    drives = {name: random.uniform(0, 1, 1000) for name in Inputs._fields}
    drives["heat_20_w"] *= 300
    drives["power"] = np.round(drives["power"])
    outside = [random.uniform(low, high, 1000) for low, high in ((-15, 38), (20, 100), (0, 10))]
    together = run(initial_state(air, humidity), 60, inputs=Inputs(**drives), outside=Outside(*outside))
    for i in range(1000):
        inputs = Inputs(**{name: value[i] for name, value in drives.items()})
        alone = run(initial_state(air[i], humidity[i]), 60, inputs=inputs, outside=Outside(*(value[i] for value in outside)))
        for one, all_of_them in zip(alone, together, strict=True):
            assert all_of_them[i] == pytest.approx(one[0], rel=1e-12, abs=1e-15)


def test_fans_and_openings_agree_on_one_pressure():
    speed, staged, area = np.meshgrid([0.0, 0.3, 0.7, 1.0], [0.0, 0.25, 1.0], [0.0005, 0.004, 0.05])
    air, static = fans_m3_s(speed, staged, area, ROOM)
    first = 60 / 3600 * np.maximum(0, speed - static / 150 / np.maximum(speed, 1e-9)) * (speed > 0)
    others = 180 / 3600 * staged * (1 - static / 150)
    assert air == pytest.approx(first + others, abs=1e-12)
    assert air == pytest.approx(opening_m3_s(area) * np.sqrt(static))
    assert air[(speed == 0) & (staged == 0)] == pytest.approx(0)
    assert fans_m3_s(1, 1, 0.008 + 0.04 + 4.8e-4, ROOM) == pytest.approx((0.0653, 3.0), rel=0.01)


def test_inlets_set_the_pressure_and_frozen_ones_let_it_rise():
    half, narrow, frozen = (supply(MILD_RATE._replace(inlets=opening), MILD, ROOM) for opening in (0.55, 0.3, 0.0))
    assert 12 < half.static_pa < 25
    assert 25 < narrow.static_pa < 60 < frozen.static_pa
    assert half.air_m3_s > narrow.air_m3_s > frozen.air_m3_s > 0


def test_a_slow_fan_does_not_blow_backwards_when_others_overpower_it():
    area = 0.003
    alone, _ = fans_m3_s(0, 1, area, ROOM)
    both, static = fans_m3_s(0.3, 1, area, ROOM)
    assert static > ROOM.fan_pa * 0.3**2
    assert both == pytest.approx(alone)
    assert fans_m3_s(1, 1, area, ROOM)[0] > alone


def test_panels_that_fall_open_keep_a_house_without_power():
    shut = run(initial_state(20, 65), 3600, inputs=FULL._replace(power=0), outside=Outside(25, 60, 2))
    fallen = run(initial_state(20, 65), 3600, inputs=FULL._replace(power=0, emergency=1), outside=Outside(25, 60, 2))
    assert natural_m3_s(0, 25, 20, 2, ROOM) * 3600 == pytest.approx(2)
    assert natural_m3_s(1, 25, 20, 2, ROOM) * 3600 == pytest.approx(72, abs=0.5)
    assert fallen.air_c[0] < 30 < shut.air_c[0]
    assert fallen.co2_ppm[0] < 2500 < shut.co2_ppm[0]


def test_pad_sprinklers_and_heater_do_their_work():
    tunnel = FULL._replace(fan_variable=1, fan_staged=1, tunnel=1)
    dry, padded, sprinkled = (
        run(initial_state(34, 45), 3600, inputs=inputs, outside=HOT)
        for inputs in (tunnel, tunnel._replace(pad_pump=1), tunnel._replace(sprinkler=1))
    )
    # 34 C and 40 % have a wet bulb of 23 C.
    assert dry.air_c[0] - 8 < padded.air_c[0] < dry.air_c[0] - 5
    assert relative_humidity_pct(padded)[0] > relative_humidity_pct(dry)[0] + 15
    assert sprinkled.air_c[0] < dry.air_c[0] - 0.5
    assert sprinkled.skin_kg[0] == ROOM.skin_kg
    assert air_speed_m_s(supply(tunnel, HOT, ROOM).air_m3_s, ROOM) == pytest.approx(1.8, abs=0.1)
    no_power = run(
        initial_state(15, 60), 600, inputs=Inputs(heater=1, sprinkler=1, pad_pump=1, fan_staged=1, power=0), outside=COLD
    )
    assert no_power.heat_j[0] == no_power.skin_kg[0] == 0
    assert run(initial_state(15, 60), 600, inputs=Inputs(heater=1), outside=COLD).air_c[0] > no_power.air_c[0] + 3


def test_fans_and_natural_flow_add_as_squares():
    inputs, outside = MILD_RATE._replace(emergency=1), Outside(10, 60, 3)
    state, drawn = initial_state(20, 60), supply(inputs, outside, ROOM)
    natural = natural_m3_s(1, 20, 10, 3, ROOM)
    assert air_m3_s(state, drawn, inputs, outside, ROOM)[0] == pytest.approx(math.sqrt(drawn.air_m3_s**2 + natural**2))


def test_only_air_through_the_curtain_is_cooled_by_the_pad():
    inputs = FULL._replace(fan_staged=1, pad_pump=1)
    shut, half, whole = (
        supply(inputs._replace(inlets=inlets, tunnel=tunnel), HOT, ROOM).temp_c for inlets, tunnel in ((1, 0), (1, 0.2), (0, 1))
    )
    wet_bulb = float(psychrometrics.wet_bulb_c(34, 40))
    assert shut == 34
    assert half == pytest.approx(34 - 0.68 * (34 - wet_bulb) * 0.008 / (0.008 + 0.008 + ROOM.leak_m2))
    assert whole == pytest.approx(34 - 0.68 * (34 - wet_bulb) * 0.04 / (0.04 + ROOM.leak_m2))


def test_a_wet_herd_dries_and_an_empty_floor_holds_no_skin_water():
    wet = run(initial_state(28, 50), 120, inputs=MILD_RATE._replace(sprinkler=1), outside=HOT)
    assert wet.skin_kg[0] == pytest.approx(ROOM.skin_kg)
    assert 0 < run(wet, 3600, inputs=MILD_RATE, outside=HOT).skin_kg[0] < 0.3 * ROOM.skin_kg
    assert run(initial_state(28, 50), 120, inputs=Inputs(sprinkler=1), outside=HOT).skin_kg[0] == 0


def test_a_heater_without_chimney_adds_co2_and_water():
    inputs = FULL._replace(fan_variable=17 / 60, inlets=1, heater=1)
    vented, unvented = (
        run(initial_state(18, 60), 3600, inputs=inputs, outside=COLD, parameters=replace(EXACT, unvented=share))
        for share in (0.0, 1.0)
    )
    assert unvented.co2_ppm[0] - vented.co2_ppm[0] == pytest.approx(100 * 3.0e-8 / (17 / 3600) * 1e6, rel=0.02)
    assert unvented.vapour_kg_m3[0] > vented.vapour_kg_m3[0]


def test_ammonia_by_temperature_air_and_age_of_manure():
    base = ammonia_mg_s(1, 20, 59 / 3600, 6 * 3600, ROOM)
    assert base * 3.6 == pytest.approx(0.29)
    assert base / MG_M3_PER_PPM["nh3"] / (17 / 3600) == pytest.approx(24.1, abs=0.05)
    assert ammonia_mg_s(1, 30, 59 / 3600, 6 * 3600, ROOM) / base == pytest.approx(1.06**10)
    assert ammonia_mg_s(1, 20, 118 / 3600, 6 * 3600, ROOM) / base == pytest.approx(2**0.25)
    assert ammonia_mg_s(1, 20, 59 / 3600, 240 * 3600, ROOM) / base == pytest.approx(4**0.3)
    scraped = run(initial_state(20, 60), 600, inputs=MILD_RATE._replace(scraper=1))
    assert scraped.manure_age_s[0] == 0
    assert run(scraped, 3600, inputs=MILD_RATE).nh3_ppm[0] < run(initial_state(20, 60), 4200, inputs=MILD_RATE).nh3_ppm[0]


@pytest.mark.parametrize("rate", [17, 59, 204])
def test_moving_slurry_bursts_with_h2s_that_ventilation_takes_away(rate):
    inputs = FULL._replace(fan_variable=min(1, rate / 60), fan_staged=max(0, rate - 60) / 180, inlets=1, slurry=1)
    state, course = initial_state(20, 60), []
    for _ in range(60):
        state = run(state, 30, inputs=inputs, parameters=EXACT)
        course.append(state.h2s_ppm[0])
    peak = int(np.argmax(course))
    assert 50 < course[peak] < 500
    assert 60 <= (peak + 1) * 30 <= 300
    assert course[-1] < course[peak] * (0.5 if rate < 20 else 0.05)
    assert state.slurry_h2s_mg[0] < 0.05 * ROOM.slurry_h2s_mg


def test_slurry_at_rest_gives_little_and_gathers_its_gas_again():
    state = run(initial_state(20, 60, slurry_h2s_mg=0.0), 86_400, inputs=MILD_RATE)
    assert 0 < state.h2s_ppm[0] < 2
    assert 0.15 < state.slurry_h2s_mg[0] / ROOM.slurry_h2s_mg < 0.2


def test_activity_follows_the_day_about_its_mean():
    assert activity(15) == pytest.approx(1.2)
    assert activity(3) == pytest.approx(0.8)
    assert activity(np.arange(24)).mean() == pytest.approx(1)


def test_air_never_holds_more_than_saturation_and_mist_is_counted():
    state = run(initial_state(20, 99), 2 * 3600, inputs=FULL, outside=Outside(20, 100, 0))
    assert relative_humidity_pct(state)[0] <= 100.0 + 1e-6
    assert state.condensed_kg[0] > 0.05


def test_what_is_no_number_is_refused_with_its_name_and_positions_end_at_full():
    state = initial_state([20.0, 20.0], 60)
    with pytest.raises(ValueError, match=r"inlets of house 1 is not a number: give a value of 0 to 1"):
        run(state, 5.0, inputs=MILD_RATE._replace(inlets=[0.5, math.nan]))
    with pytest.raises(ValueError, match=r"wind_m_s of house 0 is not a number"):
        run(state, 5.0, outside=MILD._replace(wind_m_s=math.inf))
    over, full = (run(state, 60.0, inputs=MILD_RATE._replace(inlets=opening)) for opening in (7.0, 1.0))
    assert over.air_c == pytest.approx(full.air_c, rel=1e-15)


def test_no_time_changes_nothing():
    state = initial_state([20.0, 21.0], 60)
    assert run(state, 0.0) is state
    assert run(initial_state(20, 60), 3600, inputs=Inputs(), outside=Outside(20, 60, 0)).air_c[0] == pytest.approx(20)
