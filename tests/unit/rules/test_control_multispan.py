"""The controller of multi-span greenhouses against its plant, whole and broken, and against any input."""

from dataclasses import fields

import numpy as np
import pytest

from bench.control import Quality, settle
from bench.control_multispan import loop_of
from bench.recordings import shipped_profile
from rules.control import multispan
from rules.control import multispan_base as control
from rules.control.multispan import CONTROLLER
from rules.control.multispan_settings import Parameters
from telemetry.errors import CallerError
from telemetry.site import MODES

SPECS = {spec.name: spec for spec in shipped_profile("multispan").actuators}
T0 = 1_768_449_600 * 10**9  # 2026-01-15 12:00 in Shandong
S = 10**9
NAN = np.nan
NORMAL = {
    "air_temp_c": 21.0,
    "air_temp_2_c": 21.0,
    "leaf_temp_c": 20.0,
    "box_fan_bool": 1.0,
    "air_rh_pct": 70.0,
    "co2_ppm": 600.0,
    "par_umol_m2_s": 400.0,
    "pipe_supply_c": 35.0,
    "screen_temp_top_c": 18.0,
    "vent_lee_pct": 0.0,
    "vent_wind_pct": 0.0,
    "mixing_valve_pct": 0.0,
    "circulation_fan_bool": 1.0,
    "slab_weight_kg": 7.9,
    "drip_flow_l_min": 0.0,
    "tank_level_pct": 80.0,
    "drip_volume_l": 0.0,
    "drain_volume_l": 0.0,
    "drain_ec_ms_cm": 2.0,
    "weather.temp_c": 15.0,
    "weather.rh_pct": 60.0,
    "weather.rad_w_m2": 300.0,
    "weather.rad_sum_j_cm2": 500.0,
    "weather.wind_speed_m_s": 2.0,
    "weather.wind_gust_m_s": 3.0,
    "weather.wind_dir_deg": 0.0,
    "weather.rain_bool": 0.0,
    "hour": 12.0,
    "hours_after_sunrise": 5.0,
    "hours_before_sunset": 5.0,
    "mode": float(MODES.index("AUTO")),
}


def inputs(n=1, **given):
    values = {name: np.full(n, NORMAL.get(name, NAN)) for name in CONTROLLER.READS}
    return values | {name.replace("__", "."): np.broadcast_to(np.asarray(v, float), n).copy() for name, v in given.items()}


def steps(minutes, *, n=1, parameters=None, state=None, at_ns=T0, **given):
    """Go on with inputs that stand; (state, turn, time after)."""
    p = parameters or CONTROLLER.parameters({})
    state = CONTROLLER.start(n, at_ns, p) if state is None else state
    for k in range(round(minutes * 60 / CONTROLLER.EVERY_S)):
        turn = CONTROLLER.step(state, at_ns + round(k * CONTROLLER.EVERY_S) * S, inputs(n, **given), p)
        state = turn.state
    return state, turn, at_ns + round(minutes * 60) * S


def told(turn, actuator):
    """What arbitration would make of it, for one house."""
    n = len(turn.state.now_ns)
    values = settle(turn.demands, SPECS[actuator], n)
    return float(values[0]) if n == 1 else values


def demand(turn, asks, side=None):
    ask = asks if side is None else asks[side]
    return float(turn.demands[ask][0])


# ---- parts -----------------------------------------------------------------------------------------------------------------------


def test_cold_opens_the_valve_runs_the_pump_and_keeps_vents_shut():
    _, turn, _ = steps(
        20,
        air_temp_c=15.0,
        air_temp_2_c=15.0,
        weather__temp_c=-5.0,
        weather__rad_w_m2=0.0,
        pipe_supply_c=20.0,
        mixing_valve_pct=NAN,
    )
    assert told(turn, "mixing_valve") > 40
    assert told(turn, "circulation_pump") == 1
    assert told(turn, "vent_lee") == told(turn, "vent_wind") == 0
    assert turn.terms["pipe_setpoint_c"][0] > 45


def test_heat_opens_lee_before_wind_and_never_while_heating():
    for air in np.arange(18.0, 37.0, 2.0):
        _, turn, _ = steps(2, air_temp_c=air, air_temp_2_c=air, leaf_temp_c=air, pipe_supply_c=air, weather__rh_pct=85.0)
        assert told(turn, "vent_lee") >= told(turn, "vent_wind")
        assert not (told(turn, "vent_lee") > 0 and told(turn, "mixing_valve") > 0)
    assert told(turn, "vent_wind") == 100


def test_band_widens_in_cold_and_wind_up_to_its_end():
    bands = [
        steps(1, weather__temp_c=to, weather__wind_speed_m_s=w)[1].terms["ventilation_band_k"][0]
        for to, w in ((20, 1), (5, 1), (20, 7), (5, 7), (-40, 20))
    ]
    assert bands == pytest.approx([4, 8, 6, 10, 20])


def test_frost_shuts_vents_and_opens_the_valve_as_survival():
    _, turn, _ = steps(2, air_temp_c=6.5, air_temp_2_c=6.5, weather__temp_c=-5.0)
    assert demand(turn, control.FROST) == pytest.approx(75)
    assert demand(turn, control.COLD, 0) == demand(turn, control.COLD, 1) == 0
    assert demand(turn, control.PUMP_FROST) == 1


@pytest.mark.parametrize(
    ("given", "lee", "wind"),
    [
        ({"weather__wind_gust_m_s": 11.5}, 100, 50),
        ({"weather__wind_gust_m_s": 13.5}, 50, 21.4),
        ({"weather__wind_gust_m_s": 15.0}, 0, 0),
        ({"weather__wind_gust_m_s": 18.0}, 0, 0),
        ({"weather__wind_speed_m_s": 12.5, "weather__wind_gust_m_s": 5.0}, 0, 0),
        ({"weather__wind_speed_m_s": 12.5, "weather__wind_gust_m_s": NAN}, 0, 0),
        ({"weather__rain_bool": 1.0}, 10, 2),
        ({"weather__wind_speed_m_s": NAN, "weather__wind_gust_m_s": NAN}, 25, 0),
        ({"mode": float(MODES.index("STORM"))}, 0, 0),
        ({"mode": float(MODES.index("SPRAYING"))}, 0, 0),
    ],
)
def test_wind_rain_and_work_limit_hot_vents_at_once(given, lee, wind):
    hot = {"air_temp_c": 36.0, "air_temp_2_c": 36.0, "leaf_temp_c": 36.0, "weather__temp_c": 30.0, "weather__rh_pct": 85.0}
    state, before, at = steps(5, **hot)
    assert told(before, "vent_lee") == told(before, "vent_wind") == 100
    _, turn, _ = steps(0.5, state=state, at_ns=at, **(hot | given))
    assert (told(turn, "vent_lee"), told(turn, "vent_wind")) == pytest.approx((lee, wind), abs=0.1)


def test_after_a_storm_vents_wait_for_15_min_of_calm_at_every_gust():
    hot = {"air_temp_c": 36.0, "air_temp_2_c": 36.0, "leaf_temp_c": 36.0, "weather__temp_c": 30.0, "weather__rh_pct": 85.0}
    state, _, at = steps(5, **hot, weather__wind_gust_m_s=18.0)
    state, turn, at = steps(10, state=state, at_ns=at, **hot)
    assert told(turn, "vent_lee") == 0
    state, _, at = steps(0.5, state=state, at_ns=at, **hot, weather__wind_gust_m_s=14.0)  # not calm: under 13 m/s it is
    state, turn, at = steps(14.5, state=state, at_ns=at, **hot)
    assert told(turn, "vent_lee") == 0
    state, turn, at = steps(16, state=state, at_ns=at, **hot)
    assert told(turn, "vent_lee") == told(turn, "vent_wind") == 100


def test_a_storm_that_took_the_anemometer_with_it_stands():
    state, _, at = steps(5, weather__wind_gust_m_s=18.0)
    _, turn, _ = steps(20, state=state, at_ns=at, weather__wind_gust_m_s=NAN, weather__wind_speed_m_s=NAN)
    assert demand(turn, control.STORM, 0) == 0


def test_sides_change_with_the_wind_where_the_house_says_how_it_lies():
    p = CONTROLLER.parameters({"wind_side_deg": 315})
    gusty = {"weather__wind_gust_m_s": 11.5, "weather__wind_speed_m_s": 7.0}
    state, turn, at = steps(10, parameters=p, **gusty, weather__wind_dir_deg=300.0)
    assert (demand(turn, control.GUST, 0), demand(turn, control.GUST, 1)) == pytest.approx((NAN, 50), nan_ok=True)
    state, turn, at = steps(10, parameters=p, state=state, at_ns=at, **gusty, weather__wind_dir_deg=130.0)
    assert (demand(turn, control.GUST, 0), demand(turn, control.GUST, 1)) == pytest.approx((50, NAN), nan_ok=True)
    _, turn, _ = steps(10, parameters=p, state=state, at_ns=at, **gusty, weather__wind_dir_deg=225.0)  # along the ridge: as it was
    assert turn.terms["lee_and_wind_swapped"][0] == 1
    _, turn, _ = steps(10, **gusty, weather__wind_dir_deg=130.0)
    assert turn.terms["lee_and_wind_swapped"][0] == 0


def test_humidity_cracks_lee_and_raises_the_pipe():
    _, turn, _ = steps(10, air_rh_pct=87.0, weather__temp_c=5.0, weather__rad_w_m2=0.0)
    assert demand(turn, control.HUMID, 0) == 2
    assert np.isnan(demand(turn, control.HUMID, 1))
    _, turn, _ = steps(10, air_rh_pct=92.5, weather__temp_c=5.0, pipe_supply_c=22.0)
    assert turn.terms["minimum_pipe_c"][0] == pytest.approx(30)
    assert told(turn, "vent_lee") == 5
    assert demand(turn, control.MIN_PIPE) > 0
    assert np.isnan(demand(turn, control.HEAT))
    assert told(steps(10, air_rh_pct=92.5, weather__temp_c=20.0)[1], "vent_lee") == 40  # warm air may come in
    _, turn, _ = steps(10, air_rh_pct=96.0, air_temp_c=16.0, air_temp_2_c=16.0)
    assert told(turn, "vent_lee") == 0  # too cold for it


def test_energy_screen_closes_in_the_dark_and_opens_by_a_gap():
    night = {"weather__rad_w_m2": 0.0, "weather__temp_c": -2.0, "hours_after_sunrise": 14.0, "hours_before_sunset": -4.0}
    state, turn, at = steps(6, **night)
    assert told(turn, "thermal_screen") == 100
    day = {"weather__rad_w_m2": 150.0, "weather__temp_c": -2.0}
    state, turn, at = steps(8, state=state, at_ns=at, **day)
    assert told(turn, "thermal_screen") == 97
    state, turn, at = steps(10, state=state, at_ns=at, **day, screen_temp_top_c=10.0)
    assert told(turn, "thermal_screen") == 97
    _, turn, _ = steps(4, state=state, at_ns=at, **day, screen_temp_top_c=18.0)
    assert told(turn, "thermal_screen") == 0


def test_screen_keeps_a_gap_in_humid_air_opens_in_heat_and_goes_by_the_clock_without_light():
    night = {"weather__temp_c": -2.0, "hours_after_sunrise": 14.0, "hours_before_sunset": -4.0}
    state, turn, at = steps(12, **night, weather__rad_w_m2=NAN, air_rh_pct=90.0)
    assert told(turn, "thermal_screen") == 95
    _, turn, _ = steps(0.5, state=state, at_ns=at, **night, air_temp_c=39.0, air_temp_2_c=39.0, vent_lee_pct=50.0)
    assert told(turn, "thermal_screen") == 0


def test_shade_waits_for_its_delays():
    state, turn, at = steps(7, weather__rad_w_m2=650.0)
    assert told(turn, "shade_screen") == 0
    state, turn, at = steps(2, state=state, at_ns=at, weather__rad_w_m2=650.0)
    assert told(turn, "shade_screen") == 70
    state, turn, at = steps(16, state=state, at_ns=at, weather__rad_w_m2=450.0)
    assert told(turn, "shade_screen") == 70
    _, turn, _ = steps(3, state=state, at_ns=at, weather__rad_w_m2=NAN)
    assert told(turn, "shade_screen") == 0


def test_co2_falls_with_the_vents_and_never_flows_beside_people():
    points = [steps(0.5, vent_lee_pct=v)[1].terms["co2_setpoint_ppm"][0] for v in (0, 12.5, 25, 60)]
    assert points == pytest.approx([1000, 710, 420, 420])
    assert told(steps(0.5)[1], "co2_valve") == 100
    for given in (
        {"weather__rad_w_m2": 30.0},
        {"co2_ppm": NAN},
        {"vent_wind_pct": NAN},
        {"circulation_fan_bool": 0.0},
        {"vent_lee_pct": 30.0, "co2_ppm": 300.0},
        {"mode": float(MODES.index("MAINTENANCE"))},
        {"person_present_bool": 1.0},
    ):
        assert told(steps(0.5, **given)[1], "co2_valve") == 0, given
    assert demand(steps(0.5, person_present_bool=1.0)[1], control.CO2_PEOPLE) == 0
    assert control.CO2_PEOPLE.level == "personnel_safety"


def test_fans_then_pad_then_roof_vents_nearly_shut_in_dry_heat_only():
    hot = {"air_temp_c": 35.5, "air_temp_2_c": 35.5, "leaf_temp_c": 35.5, "weather__temp_c": 34.0, "weather__rad_w_m2": 800.0}
    _, turn, _ = steps(5, **hot, weather__rh_pct=40.0)
    assert told(turn, "exhaust_fan") == 100
    assert told(turn, "pad_pump") == 1
    assert told(turn, "vent_lee") == 10
    _, turn, _ = steps(5, **hot, weather__rh_pct=85.0)
    assert told(turn, "pad_pump") == 0
    assert told(turn, "vent_lee") == 100
    _, turn, _ = steps(5, **(hot | {"weather__temp_c": 37.0}), weather__rh_pct=85.0)
    assert told(turn, "exhaust_fan") == 0  # fans would only bring hotter air


def test_fog_in_dry_warm_air_and_not_beside_people():
    dry = {"air_temp_c": 28.0, "air_temp_2_c": 28.0, "air_rh_pct": 40.0}
    assert told(steps(3, **dry)[1], "fog") == 1
    assert told(steps(3, **dry, mode=float(MODES.index("SPRAYING")))[1], "fog") == 0
    assert told(steps(3, **(dry | {"air_rh_pct": NAN}))[1], "fog") == 0


def test_lamps_fill_a_dull_day_and_stop_at_its_sum():
    dull = {"weather__rad_w_m2": 60.0, "par_umol_m2_s": 260.0}
    state, turn, at = steps(6, **dull)
    assert told(turn, "grow_light") == 1
    p = CONTROLLER.parameters({"dli_mol_m2": 0.5})
    _, turn, _ = steps(45, parameters=p, **dull)
    assert turn.terms["light_mol_m2"][0] > 0.5
    assert told(turn, "grow_light") == 0
    for given in ({"hour": 22.0}, {"hour": NAN}, {"weather__rad_w_m2": NAN}):
        assert told(steps(6, **(dull | given))[1], "grow_light") == 0, given
    sunny_before = state._replace(yesterday_mol=np.array([40.0]), lamp=multispan.start_switch(1))
    assert told(steps(6, state=sunny_before, at_ns=at, **dull)[1], "grow_light") == 0


def test_a_cold_day_is_made_good_at_night():
    def after(day_c):
        state, _, at = steps(0.5)
        return steps(0.5, state=state._replace(means=state.means._replace(hours_c=np.full((1, 24), day_c))), at_ns=at)[1].terms

    cold, warm = after(16.5), after(27.0)
    assert cold["mean_compensation_k"][0] == pytest.approx(1.0)
    assert warm["mean_compensation_k"][0] == pytest.approx(-2.0)
    assert warm["heating_setpoint_c"][0] < cold["heating_setpoint_c"][0]
    assert warm["ventilation_setpoint_c"][0] > 24  # heating waits, vents do not open for it


def test_mean_of_the_day_takes_whole_hours_and_forgets_them():
    means, mean = CONTROLLER.start(1, T0, CONTROLLER.parameters({})).means, NAN
    for hour in range(40):
        for part in range(4):
            time_ns = T0 + (hour * 3600 + part * 900) * S
            means, mean = multispan._mean_24h(means, time_ns, np.array([float(hour)]), np.array([90.0]))
        assert np.isnan(mean[0]) == (hour < 12)
    assert mean[0] == pytest.approx(np.mean(range(15, 39)))


def test_one_thermometer_that_lies_is_outvoted_and_a_box_without_fan_is_not_read():
    air = [
        steps(0.5, **given)[1].terms["air_c"][0]
        for given in (
            {"air_temp_c": 20.0, "air_temp_2_c": 21.0},
            {"air_temp_c": 20.0, "air_temp_2_c": 35.0, "leaf_temp_c": 34.0},
            {"air_temp_c": 20.0, "air_temp_2_c": 35.0, "leaf_temp_c": NAN},
            {"air_temp_c": 26.0, "air_temp_2_c": 22.0, "leaf_temp_c": NAN, "box_fan_bool": 0.0},
            {"air_temp_c": NAN, "air_temp_2_c": 22.0},
        )
    ]
    assert air == [20.5, 34.0, 27.5, 22.0, 22.0]


def test_without_any_air_temperature_vents_follow_the_outside_and_frost_is_kept_out():
    blind = {"air_temp_c": NAN, "air_temp_2_c": NAN}
    _, warm, _ = steps(10, **blind, weather__temp_c=25.0)
    assert told(warm, "vent_lee") == 50
    assert told(warm, "exhaust_fan") == 30
    assert told(warm, "mixing_valve") == 0
    for outside in (-3.0, NAN):
        _, cold, _ = steps(10, **blind, weather__temp_c=outside)
        assert (told(cold, "mixing_valve"), told(cold, "circulation_pump")) == (30, 1)
        assert told(cold, "vent_lee") == 0
    state, _, at = steps(10, air_temp_c=30.0, air_temp_2_c=30.0, leaf_temp_c=30.0)
    assert told(steps(10, state=state, at_ns=at, **blind, weather__temp_c=5.0)[1], "vent_lee") == 0  # does not stay where it was


def test_an_empty_house_is_kept_from_freezing_and_gets_nothing_else():
    empty = {"mode": float(MODES.index("EMPTY"))}
    _, turn, _ = steps(10, **empty, air_temp_c=12.0, air_temp_2_c=12.0, slab_weight_kg=5.0, weather__rad_w_m2=60.0)
    assert [told(turn, name) for name in ("mixing_valve", "co2_valve", "grow_light", "irrigation_valve", "vent_lee")] == [
        0,
        0,
        0,
        0,
        0,
    ]
    _, turn, _ = steps(5, **empty, air_temp_c=3.0, air_temp_2_c=3.0)
    assert told(turn, "mixing_valve") == 100


# ---- irrigation --------------------------------------------------------------------------------------------------------------------


def shots(hours, *variants):
    """Begins of shots in minutes of one house for each of `variants`, with flow as the valve says."""
    n, p = len(variants), CONTROLLER.parameters({})
    state, begun, was = CONTROLLER.start(n, T0, p), [[] for _ in variants], np.zeros(n)
    read = inputs(n, weather__rad_w_m2=600.0)
    for i, given in enumerate(variants):
        for name, value in given.items():
            read[name][i] = value
    flow = np.array([given.get("drip_flow_l_min", 96.0) for given in variants])
    for k in range(round(hours * 120)):
        turn = CONTROLLER.step(state, T0 + k * 30 * S, read | {"drip_flow_l_min": flow * was}, p)
        state, now = turn.state, settle(turn.demands, SPECS["irrigation_valve"], n)
        np.testing.assert_array_equal(settle(turn.demands, SPECS["dosing"], n), now)
        for i in np.flatnonzero(now > was):
            begun[i].append(k / 2)
        was = now
    return begun


def test_shots_follow_the_sun_and_the_weight():
    bright, dull, light, unknown, early, late, empty, work = shots(
        3,
        {},
        {"weather.rad_w_m2": 100.0},
        {"weather.rad_w_m2": 0.0, "slab_weight_kg": 6.5},
        {"weather.rad_w_m2": NAN},
        {"hours_after_sunrise": 1.0},
        {"hours_before_sunset": 1.0},
        {"tank_level_pct": 10.0},
        {"mode": float(MODES.index("MAINTENANCE"))},
    )
    assert len(bright) == 2  # 300 J/cm2 each
    assert light[0] == 0  # light trays do not wait for the sun
    assert len(unknown) == 1  # counts as an ordinary sun
    assert not dull + early + late + empty + work


def test_a_shot_that_does_not_flow_ends_and_is_tried_again_later():
    begun = shots(1.2, {"slab_weight_kg": 6.5, "drip_flow_l_min": 0.0})[0]
    assert np.all(np.diff(begun) >= 30)
    assert len(begun) >= 2


def test_more_salt_or_less_drain_brings_shots_closer():
    def need(**given):
        p, state = CONTROLLER.parameters({}), CONTROLLER.start(1, T0, CONTROLLER.parameters({}))
        for k in range(4):
            meters = {"drip_volume_l": 500.0 * (k > 1), "drain_volume_l": given.get("drained", 0.0) * (k > 1)}
            read = inputs(1, **meters, weather__rad_sum_j_cm2=1200.0, drain_ec_ms_cm=given.get("salt", 2.25))
            turn = CONTROLLER.step(state, T0 + k * 30 * S, read, p)
            state = turn.state
        return turn.terms["sun_to_shot_j_cm2"][0]

    assert need(drained=120.0) == pytest.approx(300)  # 24 % drain is what 1200 J/cm2 want
    assert need(drained=0.0) < 200
    assert need(drained=250.0) > 300
    assert need(drained=120.0, salt=3.25) < need(drained=120.0)


# ---- any input ---------------------------------------------------------------------------------------------------------------------

EXTREMES = (
    NAN,
    NAN,
    -np.inf,
    np.inf,
    -1e9,
    1e9,
    -40.0,
    -1.0,
    0.0,
    0.5,
    1.0,
    5.0,
    12.0,
    20.0,
    30.0,
    60.0,
    95.0,
    100.0,
    1000.0,
    5000.0,
)


def wild(random, n):
    """Inputs of which each is normal, anything at all, or unknown."""
    read = {}
    for name in CONTROLLER.READS:
        usual = NORMAL.get(name, 0.0) + random.normal(0.0, 10.0, n)
        read[name] = np.where(random.random(n) < 0.6, usual, random.choice(EXTREMES, n))
    return read


@pytest.mark.parametrize("rounds", [60, pytest.param(20_000, marks=pytest.mark.torture)])
def test_any_input_gives_demands_within_the_range_of_the_actuator(rounds):
    random, n, p = np.random.default_rng(7), 50, CONTROLLER.parameters({})
    state, time_ns = CONTROLLER.start(n, T0, p), T0
    for _ in range(rounds):
        time_ns += int(random.choice([30, 30, 30, 60, 3600, 86_400])) * S
        turn = CONTROLLER.step(state, time_ns, wild(random, n), p)
        state = turn.state
        for ask, values in turn.demands.items():
            spec = SPECS[ask.actuator]
            asked = values[~np.isnan(values)]
            assert values.shape == (n,)
            assert np.all((asked >= spec.low) & (asked <= spec.high)), ask


def test_houses_together_are_houses_alone():
    random, n, p = np.random.default_rng(3), 6, CONTROLLER.parameters({})
    together, alone = CONTROLLER.start(n, T0, p), [CONTROLLER.start(1, T0, p) for _ in range(n)]
    for k in range(15):
        read = wild(random, n)
        turn = CONTROLLER.step(together, T0 + k * 30 * S, read, p)
        together = turn.state
        for i in range(n):
            one = CONTROLLER.step(alone[i], T0 + k * 30 * S, {name: values[i : i + 1] for name, values in read.items()}, p)
            alone[i] = one.state
            for ask, values in turn.demands.items():
                np.testing.assert_array_equal(one.demands[ask][0], values[i], str(ask))
            for name, values in turn.terms.items():
                np.testing.assert_array_equal(one.terms[name][0], values[i], name)


def test_every_actuator_demand_and_word_is_known_to_the_profile():
    _, turn, _ = steps(1)
    for ask in turn.demands:
        assert ask.actuator in SPECS
        assert ask.en
        assert ask.zh
    points = {p.name for p in shipped_profile("multispan").points}
    mast = {f"weather.{p.name}" for p in shipped_profile("weather_station").points}
    own = {name for name in CONTROLLER.READS if "." not in name} - {"hour", "hours_after_sunrise", "hours_before_sunset", "mode"}
    assert own <= points
    assert {name for name in CONTROLLER.READS if name.startswith("weather.")} <= mast


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"heatin_c": 20}, "has no 'heatin_c'"),
        ({"heating_c": "warm"}, "is a number"),
        ({"heating_c": 60}, "give 5 to 35"),
        ({"gust_from_m_s": 16}, "below gust_shut_m_s"),
        ({"light_from_w_m2": 700}, "below light_to_w_m2"),
    ],
)
def test_parameters_that_cannot_be_meant_are_refused(given, says):
    with pytest.raises(CallerError, match=says):
        CONTROLLER.parameters(given)
    assert CONTROLLER.parameters({}) == Parameters()
    assert all(isinstance(getattr(Parameters(), field.name), float) for field in fields(Parameters))


# ---- closed loop -------------------------------------------------------------------------------------------------------------------


def closed(season, from_h, hours, faults):
    """One house per fault, the first whole; (loop, quality). A fault changes what is read, a drive, or the plant."""
    loop = loop_of(season, CONTROLLER, len(faults) + 1, from_h=from_h)
    quality = Quality({"air_temp_2_c": (17.0, 33.0), "air_rh_pct": (30.0, 92.0), "co2_ppm": (300.0, 1200.0)})
    spoilt = {}

    def spoil(_unix_s, read):
        for house, (names, value) in spoilt.items():
            for name in names:
                read[name][house] = value

    if season == "winter":  # a night that goes on, not one that begins with cold pipes
        loop.houses.state = loop.houses.state._replace(pipe_c=np.full(loop.drives.n, 55.0))
        loop.drives.position["thermal_screen"][:] = 100.0
    loop.run(1.0)  # from the start of the plant to where the controller holds it
    for house, (kind, name, value) in enumerate(faults, 1):
        if kind == "plant":
            loop.houses.fail(house, name, value)
        elif kind == "stuck":
            loop.drives.position[name][house], loop.drives.stuck[name][house] = value, True
        else:
            spoilt[house] = (name, value)
    loop.spoil = spoil
    loop.run(hours - 1.0, quality.note)
    return loop, quality


AIR = ("air_temp_c", "air_temp_2_c")
WINTER = [
    ("stuck", "vent_lee", 30.0),
    ("plant", "screen_torn", 0.5),
    ("read", ("air_temp_c",), 20.0),
    ("read", AIR, NAN),
    ("read", ("pipe_supply_c",), NAN),
    ("read", tuple(name for name in CONTROLLER.READS if name.startswith("weather.")), NAN),
    ("plant", "boiler_lockout", 1.0),
]
SUMMER = [
    ("stuck", "vent_lee", 0.0),
    ("stuck", "exhaust_fan", 0.0),
    ("read", ("air_temp_c",), 20.0),
    ("read", AIR, NAN),
    ("plant", "box_fan_off", 4.0),
    ("read", tuple(name for name in CONTROLLER.READS if name.startswith("weather.")), NAN),
    ("read", ("weather.rain_bool",), 1.0),
]


@pytest.mark.parametrize(("from_h", "hours"), [(1.0, 2.0), pytest.param(0.0, 24.0, marks=pytest.mark.torture)])
def test_a_winter_night_whole_and_broken(from_h, hours):
    loop, quality = closed("winter", from_h, hours, WINTER)
    low = quality.lowest["air_temp_2_c"]
    assert low[0] > 16.5
    assert np.all(low[1:7] > 8.0)  # the crop lives, whatever one fault takes away
    assert loop.turn.terms["air_c"][7] < 16  # no heat at all: nothing holds that, so
    assert settle(loop.turn.demands, SPECS["mixing_valve"], 8)[7] > 90  # everything is asked for
    assert np.all(settle(loop.turn.demands, SPECS["circulation_pump"], 8) == 1)
    assert quality.in_band_h["air_temp_2_c"][0] > 0.95 * (hours - 1)


@pytest.mark.parametrize(("from_h", "hours"), [(12.0, 2.0), pytest.param(0.0, 24.0, marks=pytest.mark.torture)])
def test_a_summer_noon_whole_and_broken(from_h, hours):
    loop, quality = closed("summer", from_h, hours, SUMMER)
    high = quality.highest["air_temp_2_c"]
    assert high[0] < 33.5
    assert np.all(high < 38.0)  # MS-T-HH
    assert np.all(loop.drives.moves["vent_lee"] / hours < 100 / 12)  # by day, of 100 a day
