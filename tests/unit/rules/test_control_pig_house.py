"""The pig house controller: against the plant in a closed loop, and by itself."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.control import Loop, settle
from bench.control_pig_house import NOISE, SUMMER, SUMMER_S, WINTER, WINTER_S, Around, Day, loop_of
from bench.recordings import shipped_profile
from rules.control import pig_climate, pig_works
from rules.control.pig_house import CONTROLLER, State
from simulators import herd, pig_house
from simulators.plants import pig_house as plants
from telemetry.errors import CallerError
from telemetry.plan import NS_PER_S
from telemetry.site import LEVELS, MODES

SPECS = {spec.name: spec for spec in shipped_profile("pig_house").actuators}
POINTS = {point.name for point in shipped_profile("pig_house").points}
NIGHT = Day(WINTER_S + 5 * 3600.0, WINTER)  # the coldest hours
NOON = Day(SUMMER_S + 14 * 3600.0, SUMMER)


class House:
    """A closed loop of houses of 1,000 pigs of a weight, settled in at a temperature; positions of the first of them."""

    def __init__(self, at: Day, *, n: int = 1, weight_kg: float = 76.0, air_c: float | None = None) -> None:
        self.set_point_c = float(np.interp(weight_kg, [25, 35, 50, 70, 90, 110], [22, 21, 20, 19, 18, 17]))
        self.around = Around(at.weather())
        self.around.given["set.room_temp_c"] = self.set_point_c
        pigs = herd.Ledger(placed=np.full(n, 1000))
        herds = herd.book(herd.empty(n), pigs, age_d=np.full(n, 120.0), weight_kg=np.full(n, weight_kg))
        state = pig_house.initial_state(np.full(n, self.set_point_c if air_c is None else air_c), 65.0, co2_ppm=1500.0)
        random = [np.random.default_rng(k) for k in range(n)]
        self.plant = plants.PigHouses(self.around.weather, at.start_s, random, herds=herds, state=state)
        self.loop = loop_of(self.plant, CONTROLLER, self.around, at.start_s)
        self.air: list[float] = []
        self.co2: list[float] = []
        self.rows: list[dict[str, float]] = []

    def run(self, seconds: float) -> None:
        self.loop.run(seconds / 3600.0, self._note)

    def _note(self, loop: Loop) -> None:
        self.air.append(float(self.plant.state.air_c.max()))
        self.co2.append(float(self.plant.state.co2_ppm.max()))
        self.rows.append({name: float(position[0]) for name, position in loop.drives.position.items()})

    def forget(self) -> None:
        self.air, self.co2, self.rows = [], [], []

    def of(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self.rows])

    def at(self, *names: str) -> list[float]:
        return [self.rows[-1][name] for name in names]

    def asked(self, actuator: str, bound: str, level: str = "") -> float:
        return float(self.loop.turn.demands[_ask(actuator, bound, level)][0])

    def term(self, name: str) -> float:
        return float(self.loop.turn.terms[name][0])

    def outside_c(self) -> float:
        return self.around.weather.at(self.loop.unix_s).temp_c


# -- closed loop -----------------------------------------------------------------------------------------------------------


def test_winter_night_is_warm_enough_and_fresh_enough() -> None:
    house = House(NIGHT)
    house.run(900.0)
    house.forget()
    house.run(900.0)
    assert min(house.air) > 18.7 - 3.0
    assert max(house.air) < 18.7 + 1.0
    assert max(house.co2) < 3000.0
    assert 0.0 < house.of("heater").mean() < 1.0
    assert not house.of("fan_2").any()
    assert 8.0 < house.term("suction_pa") < 25.0


def test_summer_noon_goes_through_all_stages_into_the_tunnel_with_pad() -> None:
    house = House(NOON)
    house.run(1500.0)
    assert house.of("fan").max() == 100.0
    assert house.at("tunnel", "inlet", "fan_4") == [1.0, 0.0, 1.0]
    first_tunnel = int(np.argmax(house.of("tunnel") > 0.0))
    assert house.of("inlet")[first_tunnel : first_tunnel + 6].min() > 0.0  # change-over: inlets wait a minute
    assert house.of("pad_pump").max() == 1.0
    assert house.air[-1] < house.outside_c() + 3.0
    assert max(house.co2) < 3000.0
    assert not house.of("heater").any()
    assert not house.of("curtain").any()


@pytest.mark.torture
@pytest.mark.parametrize(
    ("day", "lowest_k", "over_outside_k"), [(Day(WINTER_S, WINTER), -3.0, 40.0), (Day(SUMMER_S, SUMMER), -2.5, 3.5)]
)
def test_day(day: Day, lowest_k: float, over_outside_k: float) -> None:
    house, over = House(day, n=2), []
    house.run(3600.0)
    house.forget()
    for _ in range(24):
        house.run(3600.0)
        over.append(max(house.air[-360:]) - max(house.set_point_c + 3.0, house.outside_c() + over_outside_k))
    ten_minutes = np.convolve(house.air, np.ones(60) / 60.0, "valid")
    assert ten_minutes.min() > house.set_point_c + lowest_k  # the alarm is 4 K below it for 10 min
    assert max(over) < 0.0
    assert max(house.co2) < 3300.0
    wanted = pig_works.ration_kg(house.plant.herds.weight_kg, np.full(2, 1000.0), house.loop.parameters)
    assert np.all(np.abs(house.plant.fed_kg / wanted - 1.0) < 0.1)


def power_failure(*faults: str) -> House:
    house = House(NOON, weight_kg=100.0, air_c=20.0)
    for name in faults:
        house.plant.fail(0, name, 1.0)
    house.run(600.0)
    return house


def test_power_failure_asks_for_curtains_in_two_minutes_and_they_keep_the_house_alive() -> None:
    house = power_failure("mains_lost", "generator_fails")
    assert float(np.argmax(house.of("curtain") > 0.0)) * 10.0 <= 140.0
    assert house.co2[-1] < 1500.0
    assert house.air[-1] < house.outside_c() + 6.0
    blocked = power_failure("mains_lost", "generator_fails", "curtain_blocked")
    assert blocked.co2[-1] > 3000.0
    assert blocked.asked("curtain", "at_least") == 1.0
    helped = power_failure("mains_lost")
    assert max(helped.co2) < 3000.0
    assert not helped.of("curtain").any()


def test_dead_fans_open_the_curtains_within_two_minutes() -> None:
    house = House(NOON, weight_kg=100.0)
    house.run(60.0)
    house.forget()
    house.plant.fail(0, "fans_dead", 1.0)
    house.run(240.0)
    assert float(np.argmax(house.of("curtain") > 0.0)) * 10.0 <= 90.0
    house.plant.fail(0, "fans_dead", 0.0)
    house.run(300.0)
    assert house.at("curtain") == [0.0]


def test_a_dead_staged_fan_is_replaced_by_another() -> None:
    house = House(NIGHT)
    house.loop.drives.stuck["fan_2"][:] = True
    house.around.given |= {"room_temp_c": 20.7, "room_temp_2_c": 20.7}  # one stage is wanted
    house.run(180.0)
    assert house.asked("fan_2", "value") == 0.0
    assert house.at("fan_3")[0] + house.at("fan_4")[0] == 1.0


def test_both_thermometers_gone_means_full_air_no_heat_and_no_pad() -> None:
    house = House(NIGHT)
    house.run(300.0)
    house.around.blind |= {"room_temp_c", "room_temp_2_c"}
    house.run(200.0)
    assert house.at("fan") == pytest.approx([100.0])
    assert house.at("heater", "pad_pump", "fan_2") == [0.0, 0.0, 0.0]  # it is cold outside
    house.around.blind.add("weather.temp_c")
    house.run(180.0)
    assert house.at("fan_2", "fan_3", "fan_4") == [1.0, 1.0, 1.0]


def test_one_thermometer_stuck_at_the_set_point_does_not_cook_the_house() -> None:
    house = House(NOON, air_c=24.0)
    house.around.given["room_temp_c"] = 18.7
    house.run(900.0)
    assert house.air[-1] < house.outside_c() + 3.0
    assert house.at("fan_2", "fan_3", "fan_4", "tunnel") == [1.0, 1.0, 1.0, 1.0]


def test_without_pressure_inlets_open_to_their_fail_safe() -> None:
    house = House(NIGHT)
    house.run(600.0)
    assert house.at("inlet")[0] < 25.0
    house.around.blind.add("static_pressure_pa")
    house.run(120.0)
    assert house.at("inlet")[0] >= 29.0


def test_fans_do_not_swing_with_the_air_and_the_noise_of_instruments() -> None:
    house = House(Day(WINTER_S + 13 * 3600.0, WINTER))
    house.loop.noise = NOISE
    house.run(600.0)
    before = house.loop.drives.moves["fan"].copy()
    house.run(1200.0)
    assert house.at("heater", "fan_2") == [0.0, 0.0]  # the first stage holds it alone
    assert (house.loop.drives.moves["fan"] - before)[0] <= 8.0


def test_heater_needs_moving_air() -> None:
    house = House(NIGHT, air_c=16.0)
    house.run(120.0)
    assert house.at("heater") == [1.0]
    house.around.blind.add("fan_rpm")
    house.run(200.0)
    assert house.at("heater") == [0.0]
    assert house.asked("heater", "at_most") == 0.0


def test_slurry_moves_only_after_ten_minutes_of_proven_air_and_is_stopped_by_a_person() -> None:
    house = House(NIGHT)
    house.plant.fail(0, "agitation_key", 1.0)
    house.run(500.0)
    assert not house.of("slurry_pump").any()
    assert house.at("fan") == pytest.approx([100.0])
    house.run(300.0)
    assert 600.0 <= int(np.argmax(house.of("slurry_pump") > 0.0)) * 10.0 <= 720.0
    house.run(60.0)
    assert house.at("fan_2", "fan_3", "fan_4") == [1.0, 1.0, 1.0]
    house.plant.fail(0, "person_inside", 1.0)
    house.run(20.0)
    assert house.at("slurry_pump") == [0.0]
    assert house.asked("slurry_pump", "at_most") == 0.0
    house.plant.fail(0, "agitation_key", 0.0)
    house.run(60.0)
    assert house.asked("fan", "at_least", "personnel_safety") == 100.0  # gas is still in the house


def test_feed_of_the_hour_is_measured_and_given_once() -> None:
    house = House(Day(WINTER_S + 6.99 * 3600.0, WINTER))
    house.run(1300.0)  # what is left of the plan at 7 h, and that of the hour from 7 to 8
    assert float(house.plant.fed_kg[0]) == pytest.approx(0.19 * house.term("feed_of_day_kg"), rel=0.03)
    assert (np.diff(house.of("auger")) > 0).sum() == 1  # after the one that ran from the first


def test_bridged_feed_is_seen_by_the_bin_and_the_auger_stops_after_its_longest_run() -> None:
    house = House(Day(WINTER_S + 6.99 * 3600.0, WINTER))
    house.plant.fail(0, "feed_bridging", 1.0)
    house.run(1200.0)
    assert 900.0 < (house.of("auger") > 0.5).sum() * 10.0 <= 960.0  # past the alarm of 15 min, then off
    assert house.term("feed_given_kg") == pytest.approx(0.08 * house.term("feed_of_day_kg"), rel=0.01)


def test_a_jammed_scraper_reverses_once_and_stays_until_it_is_freed() -> None:
    house = House(Day(WINTER_S + 5.49 * 3600.0, WINTER))
    house.plant.blade[:] = 0.3
    house.plant.fail(0, "scraper_jam", 1.0)
    house.run(300.0)
    assert house.of("scraper").sum() <= 2
    assert 1 <= house.of("scraper_back").sum() <= 3
    assert house.at("scraper", "scraper_back") == [0.0, 0.0]


# -- by itself -------------------------------------------------------------------------------------------------------------


PROOFS = {
    "slurry_request_bool": 1.0, "person_present_bool": 0.0, "door_locked_bool": 1.0, "beacon_bool": 1.0, "h2s_ppm": 1.0, "fan_rpm": 800.0,
    "fan_pct": 100.0, "fan_2_bool": 1.0, "fan_3_bool": 1.0, "tunnel_bool": 0.0, "slurry_pump_bool": 0.0,
}  # fmt: skip


def test_no_permit_without_every_proof() -> None:
    missing = ("person_present_bool", "door_locked_bool", "beacon_bool", "h2s_ppm", "fan_rpm", "slurry_request_bool")

    def values(_: int) -> dict[str, Any]:
        return {name: np.array([each, *(np.nan if name == gone else each for gone in missing)]) for name, each in PROOFS.items()}

    last = steps(values, 700, n=1 + len(missing))[-1]
    assert last.demands[_ask("slurry_pump", "value")].tolist() == [1.0] + [0.0] * len(missing)
    assert np.array_equal(last.demands[_ask("slurry_pump", "at_most")], [np.nan] + [0.0] * len(missing), equal_nan=True)


def test_gas_takes_the_permit_until_the_key_is_turned_back() -> None:
    def at(k: int) -> dict[str, float]:
        moves = {"slurry_pump_bool": 1.0} if 61 < k < 66 else {}
        gas = {"h2s_ppm": 40.0} if 62 <= k < 64 else {"h2s_ppm": 60.0} if k == 64 else {}
        return PROOFS | moves | gas | ({"slurry_request_bool": 0.0} if 80 <= k < 82 else {})

    permits = [float(turn.demands[_ask("slurry_pump", "value")][0]) for turn in steps(at, 900)]
    assert permits[61:64] == [1.0, 1.0, 1.0]  # 40 ppm while it moves
    assert permits[64:82] == [0.0] * 18
    assert permits[84] == 1.0


def _ask(actuator: str, bound: str, level: str = "") -> Any:
    asks = [ask for ask in _all_asks() if (ask.actuator, ask.bound) == (actuator, bound) and level in ("", ask.level)]
    return asks[0]


@functools.cache
def _all_asks() -> list[Any]:
    parameters = CONTROLLER.parameters({})
    inputs = {name: np.full(1, np.nan) for name in CONTROLLER.READS}
    return list(CONTROLLER.step(CONTROLLER.start(1, 0, parameters), 0, inputs, parameters).demands)


def steps(values: Callable[[int], dict[str, Any]], seconds: float, *, n: int = 1) -> list[Any]:
    """Runs of houses at the controller's period, with values by their number and everything else quiet."""
    quiet = {"room_temp_c": 19.0, "set.room_temp_c": 19.0, "fan_rpm": 400.0, "mode": float(MODES.index("OCCUPIED")), "hour": 12.0,
             "pig_count": 1000.0, "weight_kg": 76.0, "scraper_overload_bool": 0.0}  # fmt: skip
    parameters = CONTROLLER.parameters({})
    state, turns = CONTROLLER.start(n, 0, parameters), []
    for k in range(int(seconds / CONTROLLER.EVERY_S)):
        given_ = quiet | values(k)
        inputs = {name: np.broadcast_to(given_.get(name, np.nan), (n,)) for name in CONTROLLER.READS}
        turns.append(CONTROLLER.step(state, k * int(CONTROLLER.EVERY_S) * NS_PER_S, inputs, parameters))
        state = turns[-1].state
    return turns


def test_reads_and_asks_are_of_the_profile_and_have_words() -> None:
    outer = {"hour", "day_of_batch", "mode"}
    assert {n for n in CONTROLLER.READS if "." not in n} - outer <= POINTS
    for ask in _all_asks():
        assert ask.actuator in SPECS
        assert ask.level in LEVELS
        assert LEVELS[ask.level] > LEVELS["manual"] or ask.bound != "value"
        assert ask.en
        assert ask.zh
    assert {ask.actuator for ask in _all_asks()} == set(SPECS)


VALUE = st.one_of(st.just(np.nan), st.floats(-1e6, 1e6), st.floats(-50, 120), st.sampled_from([0.0, 1.0, 20.0, np.inf, -np.inf]))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_inputs_never_leave_the_range_of_an_actuator(seed: int) -> None:
    random = np.random.default_rng(seed)
    n, parameters = 8, CONTROLLER.parameters({})
    state, time_ns = CONTROLLER.start(n, 0, parameters), 0
    for _ in range(12):
        time_ns += int(random.integers(1, 4000)) * NS_PER_S
        inputs = {name: _wild(random, n) for name in CONTROLLER.READS}
        turn = CONTROLLER.step(state, time_ns, inputs, parameters)
        state = turn.state
        for ask, value in turn.demands.items():
            spec = SPECS[ask.actuator]
            assert value.shape == (n,)
            assert value.dtype == np.float64
            assert np.all(np.isnan(value) | ((value >= spec.low) & (value <= spec.high))), (ask, value)
        for name, spec in SPECS.items():
            assert np.isfinite(settle(turn.demands, spec, n)).all(), name
        assert np.all(settle(turn.demands, SPECS["water_valve"], n) == 1.0)


def _wild(random: np.random.Generator, n: int) -> np.ndarray:
    kinds = np.array(
        [
            random.uniform(-50, 120, n),
            random.uniform(-1, 2, n),
            np.full(n, np.nan),
            random.normal(0, 1e5, n),
            random.integers(0, 10, n) * 1.0,
        ]
    )
    return kinds[random.integers(0, len(kinds), n), np.arange(n)]


def test_n_houses_are_each_house_alone() -> None:
    random, n, parameters = np.random.default_rng(1), 6, CONTROLLER.parameters({})
    many, ones = CONTROLLER.start(n, 0, parameters), [CONTROLLER.start(1, 0, parameters) for _ in range(n)]
    base = {name: random.uniform(0, 1, n) for name in CONTROLLER.READS} | {
        "room_temp_c": np.full(n, 20.0),
        "weight_kg": random.uniform(20, 110, n),
        "pig_count": np.full(n, 1000.0),
    }
    for k in range(1, 25):
        inputs = {name: np.where(random.random(n) < 0.05, np.nan, value) for name, value in base.items()}
        inputs["room_temp_c"] = 18.0 + random.uniform(-3, 9, n)
        inputs["hour"], inputs["mode"] = np.full(n, k * 0.1), np.full(n, 5.0)
        inputs["static_pressure_pa"] = random.uniform(-40, 0, n)
        turn = CONTROLLER.step(many, k * 10 * NS_PER_S, inputs, parameters)
        many = turn.state
        for i in range(n):
            alone = CONTROLLER.step(
                ones[i], k * 10 * NS_PER_S, {name: value[i : i + 1] for name, value in inputs.items()}, parameters
            )
            ones[i] = alone.state
            for ask, value in turn.demands.items():
                assert np.array_equal(value[i], alone.demands[ask][0], equal_nan=True), (ask, i, k)
            for one, all_ in zip(leaves(alone.state), leaves(many), strict=True):
                assert np.array_equal(one[0], all_[i], equal_nan=one.dtype.kind == "f")


def leaves(state: Any) -> list[np.ndarray]:
    return [leaf for part in state for leaf in leaves(part)] if isinstance(state, tuple) else [state]


def test_state_is_arrays_with_the_house_first() -> None:
    state = CONTROLLER.start(3, 0, CONTROLLER.parameters({}))
    assert isinstance(state, State)
    assert all(isinstance(leaf, np.ndarray) and leaf.shape[0] == 3 for leaf in leaves(state))


def test_minimum_ventilation_is_that_of_the_handbook_and_rises_with_gas() -> None:
    def minimum(**values: float) -> tuple[float, float]:
        turn = steps(lambda _: values, 20)[-1]
        return float(turn.terms["minimum_by_weight_m3_h"][0]), float(turn.terms["minimum_by_co2_m3_h"][0])

    assert minimum(weight_kg=100.0)[0] == pytest.approx(17_000.0)
    assert minimum(weight_kg=100.0)[1] == pytest.approx(16_100.0, rel=0.01)
    assert minimum(weight_kg=24.0, pig_count=500.0)[0] == pytest.approx(2550.0)
    trims = [
        float(steps(lambda _, v=v: v, 20)[-1].terms["trims_pct"][0])
        for v in ({"co2_ppm": 3300.0}, {"rh_pct": 78.0}, {"nh3_ppm": 18.0}, {})
    ]
    assert trims == pytest.approx([10.0, 10.0, 10.0, 0.0])
    cold = steps(lambda _: {"room_temp_c": 10.0, "weight_kg": 100.0}, 300)[-1]
    assert cold.demands[_ask("fan", "at_least", "survival")][0] > 40.0  # never below it to save heat


def test_small_pigs_get_their_minimum_in_pulses_of_the_slowest_speed() -> None:
    turns = steps(lambda _: {"weight_kg": 15.0, "room_temp_c": 20.0, "set.room_temp_c": 25.0, "pig_count": 600.0}, 2400)
    speed = np.array([np.nan_to_num(turn.demands[_ask("fan", "at_least", "survival")][0]) for turn in turns])
    assert set(speed) == {0.0, 40.0}
    parameters = CONTROLLER.parameters({})
    wanted = float(turns[-1].terms["first_stage_air_pct"][0]) / 100.0 / parameters.lowest_share
    assert (speed > 0).mean() == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize(
    ("mode", "fan", "heater"), [("EMPTY", 0.1, 1.0), ("WASHDOWN", 0.6, 0.0), ("PREHEAT", 0.1, 1.0), ("DISINFECT", 0.0, 0.0)]
)
def test_modes(mode: str, fan: float, heater: float) -> None:
    turn = steps(lambda _: {"mode": float(MODES.index(mode)), "room_temp_c": 3.0}, 60)[-1]
    assert np.isnan(turn.demands[_ask("fan", "at_least", "survival")][0])
    assert turn.demands[_ask("heater", "value")][0] == heater
    assert turn.demands[_ask("auger", "value")][0] == 0.0
    assert turn.terms["first_stage_air_pct"][0] == pytest.approx(100.0 * fan)
    assert np.isnan(turn.demands[_ask("water_valve", "at_least")][0])


def test_a_disinfected_room_stays_shut_then_is_aired_and_nobody_breathes_it() -> None:
    disinfect = {"mode": float(MODES.index("DISINFECT"))}
    turns = steps(lambda k: disinfect | ({"person_present_bool": 1.0} if k == 30 else {}), 1900)
    fan = [float(turn.demands[_ask("fan", "value")][0]) for turn in turns]
    assert max(fan[:179]) == 0.0
    assert fan[-1] > 50.0
    assert turns[30].demands[_ask("fan", "at_least", "personnel_safety")][0] == 100.0


def test_medication_days_and_lamps_of_a_nest() -> None:
    parameters = CONTROLLER.parameters({"medication": [[3, 5]]})
    state = CONTROLLER.start(4, 0, parameters)
    inputs = {name: np.full(4, np.nan) for name in CONTROLLER.READS}
    inputs |= {"day_of_batch": np.array([2.0, 3.0, 5.0, 6.0]), "mode": np.full(4, 5.0), "weight_kg": np.full(4, 3.0)}
    inputs["creep_temp_c"] = np.array([20.0, 32.5, 40.0, np.nan])
    turn = CONTROLLER.step(state, 0, inputs, parameters)
    assert turn.demands[_ask("medicator", "value")].tolist() == [0.0, 1.0, 1.0, 0.0]
    lamp = turn.demands[_ask("heat_lamp", "value")]
    assert lamp[0] == 100.0
    assert 0.0 < lamp[1] < 50.0
    assert lamp[2] == 0.0
    assert np.isnan(lamp[3])


@pytest.mark.parametrize(
    "wrong",
    [
        {"room_temp_c": 20}, {"places": 0}, {"places": "many"}, {"fan_lowest_pct": float("nan")}, {"stages_k": [1, 2]},
        {"stages_k": [3, 2, 1]}, {"room_c_by_kg": [[50, 20], [25, 22]]}, {"room_c_by_kg": []}, {"heat_off_k": 2},
        {"feed_share_by_hour": [0] * 24}, {"suction_pa": 40, "fan_lowest_pct": 20}, {"scrape_h": [5, 4]}, {"medication": [3]},
        {"agitation_trip_ppm": 10, "agitation_start_ppm": 12}, {"curtain_k": 4}, {"places": True},
    ],
)  # fmt: skip
def test_parameters_that_cannot_be_meant_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(CallerError, match=next(iter(wrong)).split("_")[0]):
        CONTROLLER.parameters(wrong)
    assert pig_climate.PERIOD_S == CONTROLLER.EVERY_S
