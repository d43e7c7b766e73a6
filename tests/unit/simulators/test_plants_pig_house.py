"""Pig houses behind their profile: points, power, panel, feed line, scraper, faults."""

from pathlib import Path

import numpy as np
import pytest

from app.site_files import load_site
from bench.control_pig_house import SUMMER, SUMMER_S, WINTER, WINTER_S, Day
from bench.recordings import shipped_profile
from simulators import herd, pig_house
from simulators.device import Options
from simulators.fleet import build_world
from simulators.plants import pig_house as plants
from simulators.weather import Scenario
from telemetry.site import SiteConfig

SITES = Path(__file__).parents[3] / "sites"

# 9 h in China, when the pigs' heat is that of the day's mean.
MILD = Day(
    1_784_217_600.0 + 9 * 3600.0, Scenario(mean_temp_c=25.0, daily_range_k=0.0, dew_point_c=16.7, anomaly_sd_k=0.0, sky="clear")
)
SPECS = shipped_profile("pig_house").actuators
# Instruments of the handbook's table of sensors.
INSTRUMENTS = {
    "air_temp_c", "air_rh_pct", "co2_ppm", "nh3_ppm", "h2s_ppm", "pressure_pa", "wind_m_s", "current_a",
}  # fmt: skip


def finishers(n: int = 1, *, at: Day = MILD) -> plants.PigHouses:
    """1,000 pigs of 100 kg each, at 20 C, 65 %, 1,500 ppm: the handbook's power failure."""
    herds = herd.book(herd.empty(n), herd.Ledger(placed=np.full(n, 1000)), age_d=np.full(n, 146.0), weight_kg=np.full(n, 100.0))
    state = pig_house.initial_state(np.full(n, 20.0), 65.0, co2_ppm=1500.0)
    random = [np.random.default_rng(k) for k in range(n)]
    return plants.PigHouses(at.weather(), at.start_s, random, herds=herds, state=state)


def drives(houses: plants.PigHouses, **positions: float) -> dict[str, np.ndarray]:
    n = len(houses.places)
    return {spec.name: np.full(n, positions.get(spec.name, 0.0)) for spec in SPECS}


def run(houses: plants.PigHouses, seconds: float, at: dict[str, np.ndarray]) -> None:
    while seconds > 0.0:
        step_s = min(seconds, houses.STEP_S)
        houses.advance(houses._unix_s + step_s, step_s, at)
        seconds -= step_s


def test_every_point_of_the_profile_is_served_or_named_here() -> None:
    houses, spec = finishers(2), shipped_profile("pig_house")
    at = drives(houses, fan=0.5)
    truth, panel = houses.truth(at), houses.panel(at)
    feedback = {actuator.feedback for actuator in spec.actuators}
    served = set(truth) | set(panel) | feedback | {actuator.selector for actuator in spec.actuators}
    assert {point.name for point in spec.points if point.is_measured} <= served
    assert not (set(truth) & set(panel))
    assert not (feedback & (set(truth) | set(panel)))
    assert set(houses.SENSORS) == set(truth)
    assert set(houses.SENSORS.values()) <= INSTRUMENTS
    ranges = {point.name: (point.low, point.high) for point in spec.points}
    for name, values in (truth | panel).items():
        assert values.shape == (2,), name
        low, high = ranges[name]
        assert np.all(np.isnan(values) | ((values >= low) & (values <= high))), (name, values)


def test_power_failure_with_curtains_blocked_is_that_of_the_handbook() -> None:
    houses = finishers()
    for fault in ("mains_lost", "generator_fails", "curtain_blocked"):
        houses.fail(0, fault, 1.0)
    at = drives(houses, fan=1.0, fan_2=1.0, inlet=0.5, curtain=1.0)
    found = {}
    for minute in (1, 5, 10):
        run(houses, 60.0 * minute - (houses._unix_s - MILD.start_s), at)
        found[minute] = (float(houses.state.air_c[0]), float(houses.state.co2_ppm[0]))
    assert found[1][0] == pytest.approx(22.1, abs=0.5)
    assert found[5][0] == pytest.approx(27.3, abs=0.5)
    assert found[10][1] == pytest.approx(3282.0, rel=0.03)
    assert houses.panel(at)["fan_rpm"][0] == 0.0


def test_generator_takes_over_and_curtains_fall_where_it_fails() -> None:
    houses = finishers(3)
    for house in range(3):
        houses.fail(house, "mains_lost", 1.0)
    for house in (1, 2):
        houses.fail(house, "generator_fails", 1.0)
    at = drives(houses, fan=1.0, inlet=0.5)
    run(houses, 15.0, at)
    assert houses.panel(at)["generator_bool"].tolist() == [1.0, 0.0, 0.0]
    assert (houses.panel(at)["fan_rpm"] > 0.0).tolist() == [True, False, False]
    assert np.isnan(houses.interlock()["curtain"]).all()
    run(houses, 110.0, at)
    assert houses.interlock()["curtain"].tolist()[1:] == [1.0, 1.0]
    assert np.isnan(houses.interlock()["curtain"][0])
    at["curtain"] = np.array([0.0, 1.0, 1.0])
    houses.fail(2, "curtain_blocked", 1.0)
    run(houses, 600.0, at)
    assert houses.state.air_c[1] < 29.0
    assert houses.state.co2_ppm[1] < 1500.0
    assert houses.state.co2_ppm[2] > 3000.0


def test_thermostat_past_the_controller_and_bypass_in_the_cold() -> None:
    houses = finishers()
    assert np.isnan(houses.interlock()["fan"][0])
    assert np.isnan(houses.local()["fan"][0])
    houses.state = houses.state._replace(air_c=np.array([28.5]))
    assert [houses.interlock()[name][0] for name in ("fan", "fan_2", "fan_3", "fan_4")] == [100.0, 1.0, 1.0, 1.0]
    houses.state = houses.state._replace(air_c=np.array([14.0]))
    assert [houses.local()[name][0] for name in ("fan", "fan_2")] == [40.0, 0.0]


@pytest.mark.parametrize(
    ("day", "lowest_c", "over_outside_k"),
    [(Day(WINTER_S + 5 * 3600.0, WINTER), 9.0, 40.0), (Day(SUMMER_S + 14 * 3600.0, SUMMER), 20.0, 4.0)],
)
def test_left_alone_with_its_fail_safes_and_bypass_the_house_is_safe(day: Day, lowest_c: float, over_outside_k: float) -> None:
    houses = finishers(at=day)
    rest = {spec.name: spec.fail_safe if spec.fail_safe != "hold" else spec.rest for spec in SPECS}
    highs = {spec.name: spec.high for spec in SPECS}
    air, co2 = [], []
    for _ in range(360):
        order = {name: values[0] for name, values in houses.local().items() if np.isfinite(values[0])}
        order |= {name: values[0] for name, values in houses.interlock().items() if np.isfinite(values[0])}
        run(houses, 5.0, {name: np.full(1, value / highs[name]) for name, value in (rest | order).items()})
        air.append(houses.state.air_c[0])
        co2.append(houses.state.co2_ppm[0])
    assert min(air) > lowest_c
    assert max(air) < max(22.0, day.weather().at(day.start_s).temp_c + over_outside_k)
    assert max(co2) < 3000.0


def test_feed_is_carried_counted_and_eaten() -> None:
    houses = finishers()
    at = drives(houses, fan=0.8, inlet=0.4, auger=1.0)
    before = (houses.bin_kg[0], houses.hopper_kg[0])
    run(houses, 600.0, at)
    panel = houses.panel(at)
    assert panel["feed_total_kg"][0] == pytest.approx(300.0)
    assert panel["bin_weight_kg"][0] == pytest.approx(before[0] - 300.0)
    assert houses.hopper_kg[0] == pytest.approx(before[1] + 300.0 - houses.herds.feed_kg[0])
    assert houses.herds.feed_kg[0] > 0.0
    assert houses.truth(at)["auger_current_a"][0] == pytest.approx(6.0)
    houses.fail(0, "feed_bridging", 1.0)
    run(houses, 60.0, at)
    assert houses.panel(at)["feed_total_kg"][0] == pytest.approx(330.0)  # the auger turns
    assert houses.panel(at)["bin_weight_kg"][0] == pytest.approx(before[0] - 300.0)
    assert houses.truth(at)["auger_current_a"][0] == pytest.approx(2.5)
    houses.hopper_kg[:] = 1e4
    assert houses.interlock()["auger"][0] == 0.0


def test_water_of_leak_lost_pulses_and_a_shut_line() -> None:
    houses = finishers(4)
    houses.fail(1, "nipple_leak", 600.0)
    houses.fail(2, "pulses_lost", 0.5)
    houses.fail(3, "water_off", 1.0)
    at = drives(houses, fan=0.8, inlet=0.4)
    run(houses, 1200.0, at)
    water = houses.panel(at)["water_total_l"]
    assert water[0] > 50.0
    assert water[1] == pytest.approx(water[0] + 200.0, abs=2.0)
    assert water[2] == pytest.approx(water[0] / 2.0, abs=2.0)
    assert water[3] == 0.0
    assert houses.panel(at)["water_pressure_kpa"].tolist() == [200.0, 200.0, 200.0, 0.0]


def test_scraper_goes_there_and_back_and_a_jam_is_latched_until_it_is_freed() -> None:
    houses = finishers()
    at = drives(houses, fan=0.8, inlet=0.4, scraper=1.0)
    run(houses, 305.0, at)
    assert houses.panel(at)["scraper_end_bool"][0] == 1.0
    assert houses.interlock()["scraper"][0] == 0.0
    assert houses.state.manure_age_s[0] < 100.0
    at |= drives(houses, fan=0.8, inlet=0.4, scraper_back=1.0)
    run(houses, 305.0, at)
    assert houses.panel(at)["scraper_home_bool"][0] == 1.0
    houses.fail(0, "scraper_jam", 1.0)
    at |= drives(houses, fan=0.8, inlet=0.4, scraper=1.0)
    run(houses, 5.0, at)
    at |= drives(houses, fan=0.8, inlet=0.4)
    run(houses, 60.0, at)
    assert houses.panel(at)["scraper_overload_bool"][0] == 1.0
    houses.fail(0, "scraper_jam", 0.0)
    run(houses, 5.0, at)
    assert houses.panel(at)["scraper_overload_bool"][0] == 0.0


def test_faults_of_the_air() -> None:
    names = ["", "belt_slip", "shutter_stuck", "inlet_frozen", "fans_dead", "door_open", "heater_lockout", "pull_plug"]
    houses = finishers(len(names))
    for house, name in enumerate(names):
        if name:
            houses.fail(house, name, houses.FAULTS[name].usual)
    at = drives(houses, fan=0.6, inlet=0.12, heater=1.0)
    run(houses, 120.0, at)
    truth, panel = houses.truth(at), houses.panel(at)
    by = {name: house for house, name in enumerate(names)}
    suction = -truth["static_pressure_pa"]
    assert panel["fan_rpm"][by["belt_slip"]] == pytest.approx(0.8 * panel["fan_rpm"][0])
    assert suction[by["shutter_stuck"]] < 1.0
    assert panel["fan_rpm"][by["shutter_stuck"]] == panel["fan_rpm"][0]
    assert suction[by["inlet_frozen"]] > 1.5 * suction[0]
    assert panel["fan_rpm"][by["fans_dead"]] == 0.0
    assert panel["fan_demand_pct"][by["fans_dead"]] == pytest.approx(60.0)
    assert suction[by["door_open"]] < 0.6 * suction[0]
    assert panel["door_open_bool"][by["door_open"]] == 1.0
    assert panel["flame_bool"][by["heater_lockout"]] == 0.0
    assert panel["flame_bool"][0] == 1.0
    assert truth["h2s_ppm"][by["pull_plug"]] > 50.0 > truth["h2s_ppm"][0]


def test_an_illness_shows_in_water_before_feed() -> None:
    houses = finishers(2)
    houses.fail(1, "disease", 1.0)
    at = drives(houses, fan=0.8, inlet=0.4)
    run(houses, 60.0, at)
    assert houses.herds.severity.tolist() == [0.0, 1.0]
    assert houses.faults["disease"].tolist() == [0.0, 0.0]  # it began, and runs its course


def test_n_houses_are_each_house_alone() -> None:
    def made(seeds: list[int]) -> plants.PigHouses:
        houses = plants.make(len(seeds), MILD.weather(), MILD.start_s, [np.random.default_rng(seed) for seed in seeds])
        run(houses, 900.0, drives(houses, fan=0.7, fan_2=1.0, inlet=0.5, auger=1.0))
        return houses

    together = made([1, 2, 3])
    at = drives(together, fan=0.7, fan_2=1.0, inlet=0.5, auger=1.0)
    for k, seed in enumerate((1, 2, 3)):
        alone = made([seed])
        one = drives(alone, fan=0.7, fan_2=1.0, inlet=0.5, auger=1.0)
        pairs = zip((together.truth(at) | together.panel(at)).items(), (alone.truth(one) | alone.panel(one)).values(), strict=True)
        assert all(np.array_equal(many[k], single[0], equal_nan=True) for (_, many), single in pairs)


def test_a_wrong_fault_is_refused() -> None:
    houses = finishers()
    for house, name, strength in ((0, "fire", 1.0), (1, "mains_lost", 1.0), (0, "mains_lost", np.nan), (0, "mains_lost", -1.0)):
        with pytest.raises(ValueError, match=r"fault|house|strength"):
            houses.fail(house, name, strength)
    assert not any(each.any() for each in houses.faults.values())


def test_a_visit_shows_a_badge_a_shower_and_a_way_in_and_out() -> None:
    houses = finishers(2)
    at = drives(houses, fan=0.5)
    names = ("badge_no", "entry_in_bool", "disinfected_bool", "door_open_bool", "person_present_bool")

    def shown() -> list[float]:
        return [float(houses.panel(at)[name][0]) for name in names]

    assert shown() == [0.0] * 5
    houses.fail(0, "visit", 30.0)
    run(houses, 30.0, at)
    assert shown() == [1001.0, 1.0, 1.0, 1.0, 1.0]
    assert houses.panel(at)["pig_free_h"][0] == 30.0
    assert houses.panel(at)["pig_free_h"][1] == 0.0
    assert houses.panel(at)["badge_no"][1] == 0.0
    run(houses, 60.0, at)
    assert shown() == [0.0, 1.0, 0.0, 0.0, 1.0]  # inside, door shut
    assert houses.interlock()["slurry_pump"][0] == 0.0
    houses.fail(0, "visit", 0.0)
    run(houses, 30.0, at)
    assert shown() == [1001.0, 0.0, 1.0, 1.0, 0.0]
    run(houses, 60.0, at)
    assert shown() == [0.0] * 5
    houses.fail(0, "door_open", 1.0)
    assert shown() == [0.0, 0.0, 0.0, 1.0, 0.0]  # no badge, no shower


def test_an_open_lid_stops_the_auger_and_an_open_gate_the_scraper() -> None:
    houses = finishers(2)
    houses.fail(1, "lid_open", 1.0)
    houses.fail(1, "gate_open", 1.0)
    orders = houses.interlock()
    assert np.isnan(orders["auger"][0])
    assert [orders[name][1] for name in ("auger", "scraper", "scraper_back")] == [0.0, 0.0, 0.0]
    at = drives(houses)
    assert houses.panel(at)["bin_lid_open_bool"].tolist() == houses.panel(at)["gate_open_bool"].tolist() == [0.0, 1.0]


def test_pigs_live_by_the_clock_of_their_site() -> None:
    site = load_site(SITES / "pig-farm")
    options = Options(boot=1, plant_start_s=MILD.start_s)
    hours = []
    for zone in ("Asia/Shanghai", "Europe/Amsterdam"):  # summer: +8 h and +2 h
        moved = SiteConfig.model_validate({**site.model_dump(exclude={"zone_offsets"}), "zone": zone})
        world = build_world(moved, seed=1, options=options, only=frozenset({"pigs-1"}))
        hours.append(world.places["pigs-1"].houses.hour())
    assert hours == [9.0, 3.0]
