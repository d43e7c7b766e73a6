import numpy as np
import pytest

from simulators.multispan import (
    KG_M3_PER_PPM,
    Inputs,
    Outside,
    Parameters,
    advance,
    behind_screen_m_s,
    co2_ppm,
    initial_state,
    leakage_m_s,
    photosynthesis_kg_m2_s,
    pipe_heat_w_m2,
    relative_humidity_pct,
    sky_pull_k,
    transpiration_w_m2,
    vent_flow_m_s,
)

HOUSE = Parameters()
SUMMER = Parameters(leaf_area_index=2.0, soil_c=22.0)
# The water of idle pipes stores half as much heat as the air; the reference has none.
NO_PIPES = Parameters(pipe_length_m_m2=1e-6)
AIR_CHANGES = 3600 / HOUSE.height_m


def run(state, hours, *, inputs=None, outside, parameters=HOUSE):
    return advance(state, hours * 3600.0, inputs=inputs or Inputs(), outside=outside, parameters=parameters)


@pytest.mark.parametrize(("screen", "expected"), [(0.0, 151.3), (1.0, 88.2)])
def test_check_1_heat_demand_is_the_design_boiler(screen, expected):
    loss = HOUSE.cover_w_m2_k * (1 - HOUSE.screen_saving * screen) + 1200 * leakage_m_s(4.0)
    assert loss * 23 == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("hours", "air", "ppm"), [(1, 15.5, 279), (3, 18.5, 143), (6, 21.6, 102)])
def test_check_2_closed_house_in_winter_sun(hours, air, ppm):
    state = run(initial_state(12, 70, 14), hours, outside=Outside(-5, 60, 600, 2))
    assert state.air_c[0] == pytest.approx(air, abs=0.5)
    assert co2_ppm(state)[0] == pytest.approx(ppm, abs=5)


@pytest.mark.parametrize(("hours", "air"), [(1, 7.7), (3, 3.8), (6, 2.3)])
def test_check_3_unheated_winter_night(hours, air):
    state = run(initial_state(18, 80, 18), hours, outside=Outside(-5, 80, 0, 2), parameters=NO_PIPES)
    assert state.air_c[0] == pytest.approx(air, abs=0.5)


def test_check_3b_heated_winter_night():
    state = run(initial_state(18, 80, 18), 6, outside=Outside(-5, 80, 0, 2), inputs=Inputs(heat_w_m2=110), parameters=NO_PIPES)
    assert state.air_c[0] == pytest.approx(13.1, abs=0.5)


@pytest.mark.parametrize(("wind", "changes"), [(3, 29.9), (0, 7.6)])
def test_check_4_air_changes_of_open_vents(wind, changes):
    assert vent_flow_m_s(1.0, 27.5, 22.5, wind) * AIR_CHANGES == pytest.approx(changes, abs=0.1)


@pytest.mark.parametrize(("opening", "air"), [(1.0, 33.6), (0.2, 39.2)])
def test_check_5_summer_with_vents(opening, air):
    state = run(initial_state(30, 60, 28), 3, outside=Outside(30, 50, 800, 2), inputs=Inputs(opening, opening), parameters=SUMMER)
    assert state.air_c[0] == pytest.approx(air, abs=0.5)


def test_check_6_pipe_heat():
    assert pipe_heat_w_m2(60, 20, Parameters(pipe_emissivity=0.0)) == pytest.approx(77.9, abs=0.1)
    assert pipe_heat_w_m2(60, 20, HOUSE) == pytest.approx(77.9 + 73.9, abs=0.2)
    assert pipe_heat_w_m2(20, 20, HOUSE) == 0
    assert pipe_heat_w_m2(10, 20, HOUSE) < 0


@pytest.mark.parametrize(("rad", "uptake"), [(100, 0.278), (300, 0.583), (600, 0.802), (0, 0.0)])
def test_check_7_photosynthesis(rad, uptake):
    assert photosynthesis_kg_m2_s(20, 7.2e-4, rad) * 1e6 == pytest.approx(uptake, abs=5e-4)


@pytest.mark.parametrize(("light", "co2", "vpd", "latent"), [(300, 400, 1000, 100.5), (300, 400, 500, 80.8), (0, 400, 300, 17.7)])
def test_check_8_transpiration(light, co2, vpd, latent):
    assert transpiration_w_m2(2, light, co2, vpd) == pytest.approx(latent, abs=0.05)


def test_compartments_together_equal_compartments_alone():
    airs, vents = np.array([12.0, 20.0, 31.0]), np.array([0.0, 0.3, 1.0])
    outside = Outside(8, 60, 500, 3)
    together = run(initial_state(airs, 70, 15), 1, outside=outside, inputs=Inputs(vents, vents, mixing_valve=0.5, pump=1))
    for i in range(3):
        alone = run(initial_state(airs[i], 70, 15), 1, outside=outside, inputs=Inputs(vents[i], vents[i], mixing_valve=0.5, pump=1))
        for field, value in zip(together, alone, strict=True):
            assert field[i] == pytest.approx(value[0], rel=1e-12)


def test_half_the_step_gives_the_same_climate():
    state, outside, inputs = initial_state(20, 60, 18), Outside(5, 70, 400, 4), Inputs(0.5, 0.5, 1, 1, fog=1, co2_valve=1)
    coarse = run(state, 1, outside=outside, inputs=inputs)
    fine = state
    for _ in range(1800):
        fine = advance(fine, 2.0, inputs=inputs, outside=outside, parameters=HOUSE)
    assert coarse.air_c[0] == pytest.approx(fine.air_c[0], abs=0.05)
    assert relative_humidity_pct(coarse)[0] == pytest.approx(relative_humidity_pct(fine)[0], abs=0.5)


def test_pipes_warm_only_with_valve_and_pump_and_carry_what_the_boiler_gave():
    cold = Outside(0, 80, 0, 2)
    idle = run(initial_state(15, 80, 15), 1, outside=cold, inputs=Inputs(mixing_valve=1))
    warm = run(initial_state(15, 80, 15), 1, outside=cold, inputs=Inputs(mixing_valve=1, pump=1))
    assert idle.heat_j_m2[0] == 0
    assert warm.pipe_c[0] > idle.pipe_c[0] + 20
    assert warm.air_c[0] > idle.air_c[0] + 2
    assert warm.heat_j_m2[0] <= HOUSE.boiler_w_m2 * 3600 * 1.0001


def test_vents_cool_fog_moistens_screen_saves_shade_cuts_co2_doses():
    sunny, night = Outside(20, 40, 700, 2), Outside(-5, 80, 0, 2)
    base = run(initial_state(26, 50, 22), 1, outside=sunny)
    assert run(initial_state(26, 50, 22), 1, outside=sunny, inputs=Inputs(1, 1)).air_c[0] < base.air_c[0] - 3
    foggy = run(initial_state(26, 50, 22), 1, outside=sunny, inputs=Inputs(fog=1))
    assert relative_humidity_pct(foggy)[0] > relative_humidity_pct(base)[0] + 3
    assert foggy.air_c[0] < base.air_c[0]
    assert run(initial_state(26, 50, 22), 1, outside=sunny, inputs=Inputs(shade_screen=1)).air_c[0] < base.air_c[0] - 1
    assert co2_ppm(run(initial_state(26, 50, 22), 1, outside=sunny, inputs=Inputs(co2_valve=1)))[0] > co2_ppm(base)[0] + 100
    open_night = run(initial_state(18, 80, 18), 3, outside=night)
    assert run(initial_state(18, 80, 18), 3, outside=night, inputs=Inputs(thermal_screen=1)).air_c[0] > open_night.air_c[0] + 1


def test_fans_bring_outside_air_and_a_wet_pad_cools_it():
    hot = Outside(34, 30, 800, 0)
    closed, blown, padded = (
        run(initial_state(34, 40, 30), 1, outside=hot, inputs=inputs, parameters=SUMMER)
        for inputs in (Inputs(), Inputs(exhaust_fan=1), Inputs(exhaust_fan=1, pad_pump=1))
    )
    assert blown.air_c[0] < closed.air_c[0] - 3
    # 34 C and 30 % have a wet bulb of 21 C: air comes in 8.6 K colder, and the crop transpires less in it.
    assert blown.air_c[0] - 8.6 < padded.air_c[0] < blown.air_c[0] - 4
    assert relative_humidity_pct(padded)[0] > relative_humidity_pct(blown)[0] + 15


def test_lamps_heat_and_a_stopped_boiler_does_not():
    night = Outside(-5, 80, 0, 2)
    heated = Inputs(mixing_valve=1, pump=1)
    dark = run(initial_state(18, 80, 18), 3, outside=night, inputs=heated)
    lit = run(initial_state(18, 80, 18), 3, outside=night, inputs=heated._replace(lamp=1))
    assert lit.air_c[0] > dark.air_c[0] + 2
    assert co2_ppm(lit)[0] < co2_ppm(dark)[0] - 50  # the crop grows by it
    off = run(initial_state(18, 80, 18), 3, outside=night, inputs=heated._replace(boiler=0))
    assert off.heat_j_m2[0] == 0
    assert off.air_c[0] < dark.air_c[0] - 5


def test_air_never_holds_more_than_saturation():
    state = run(initial_state(20, 99, 20), 2, outside=Outside(5, 100, 0, 0), inputs=Inputs(fog=1))
    assert relative_humidity_pct(state)[0] <= 100.0 + 1e-6


def test_inputs_of_no_time_change_nothing():
    state = initial_state([20.0, 21.0], 60, 18, co2_ppm=500)
    assert advance(state, 0.0, inputs=Inputs(), outside=Outside(0, 50, 0, 1), parameters=HOUSE) is state
    assert state.co2_kg_m3 == pytest.approx(500 * KG_M3_PER_PPM)


def test_shade_keeps_light_from_the_crop_too():
    sunny = Outside(20, 60, 600, 2)
    open_, shaded = (
        run(initial_state(24, 70, 22), 0.5, outside=sunny, inputs=Inputs(vent_lee=0.3, shade_screen=s)) for s in (0.0, 1.0)
    )
    assert co2_ppm(shaded)[0] > co2_ppm(open_)[0] + 5


@pytest.mark.parametrize("field", [f for f in Inputs._fields if f != "heat_w_m2"])
def test_a_position_that_is_no_number_is_refused_by_name_and_one_beyond_its_range_is_held(field):
    state, outside = initial_state([20, 20], 60, 18), Outside(10, 60, 400, 2)
    with pytest.raises(ValueError, match=rf"{field} of house 1 is not a number"):
        advance(state, 5, inputs=Inputs(**{field: [0.5, np.nan]}), outside=outside, parameters=HOUSE)
    held, full = (advance(state, 60, inputs=Inputs(**{field: v}), outside=outside, parameters=HOUSE) for v in (7.0, 1.0))
    assert all(np.array_equal(a, b) for a, b in zip(held, full, strict=True))


@pytest.mark.parametrize("field", Outside._fields)
def test_weather_that_is_no_number_is_refused_by_name(field):
    outside = Outside(10, 60, 400, 2)._replace(**{field: np.inf})
    with pytest.raises(ValueError, match=rf"{field} of house 0 is not a number"):
        advance(initial_state(20, 60, 18), 5, inputs=Inputs(), outside=outside, parameters=HOUSE)


def test_a_crop_that_is_none_is_refused():
    with pytest.raises(ValueError, match="leaf_area_index of house 0"):
        advance(
            initial_state(20, 60, 18),
            5,
            inputs=Inputs(),
            outside=Outside(10, 60, 400, 2),
            parameters=Parameters(leaf_area_index=np.nan),
        )


def test_a_clear_sky_takes_heat_by_radiation_and_wind_takes_from_that():
    assert sky_pull_k(0.0, -20.0, 2.5) == pytest.approx(7.6, abs=0.05)
    assert sky_pull_k(5.0, 5.0, 3.0) == 0.0
    assert sky_pull_k(0.0, -20.0, 10.0) < sky_pull_k(0.0, -20.0, 0.0) < 20.0
    # Of a cover that air and sky alone cool, what goes to both is what comes from inside: 0.85 sigma (Tc^4 - Tsky^4) + h (Tc - To) = 0.
    cover_k = 273.15 - sky_pull_k(0.0, -20.0, 2.5)
    assert 0.85 * 5.67e-8 * (cover_k**4 - 253.15**4) == pytest.approx(-5.8 * (cover_k - 273.15), rel=0.1)


def test_a_house_under_a_clear_sky_is_colder_and_a_screen_halves_that():
    sky, screen = np.array([-5.0, -30.0, -30.0]), np.array([0.0, 0.0, 1.0])
    begin, inputs = initial_state(15, 70, 15), Inputs(heat_w_m2=90.0, thermal_screen=screen)
    even, clear, covered = run(begin, 3, outside=Outside(-5, 80, 0, 2, sky), inputs=inputs, parameters=NO_PIPES).air_c
    assert 3.0 < even - clear < 9.0
    assert covered > clear + 5.0
    unsaid = run(begin, 3, outside=Outside(-5, 80, 0, 2), inputs=Inputs(heat_w_m2=90.0), parameters=NO_PIPES)
    assert unsaid.air_c[0] == even


def test_vents_behind_a_drawn_screen_give_little_air():
    assert behind_screen_m_s(0.03, 0.0, 10.0) == 0.03
    assert behind_screen_m_s(0.03, 0.95, 10.0) == pytest.approx(0.0017, abs=5e-5)
    assert behind_screen_m_s(1e-5, 1.0, 10.0) == 1e-5  # no more than the vents give
    begin, outside = initial_state(20, 80, 20), Outside(5, 70, 0, 3)
    free, behind = (
        run(begin, 1, outside=outside, inputs=Inputs(vent_lee=0.3, thermal_screen=screen)).air_c[0] for screen in (0.0, 1.0)
    )
    assert behind > free + 2.0
