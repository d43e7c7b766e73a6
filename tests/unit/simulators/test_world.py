"""Worlds: a house lives alike however many others there are, and faults do what they say."""

import math

import numpy as np
import pytest

from simulators.device import Options
from simulators.fault import GENERAL, NAMES, Injection, problem
from simulators.fleet import DEMO_START_S, build_world, lone_place
from simulators.plant import PLANTS
from simulators.world import World
from telemetry.site import Profile
from tests.faults.room import Told
from tests.unit.simulators.shipped import ROOT, load_site

SITE = load_site("nursery")
MULTISPAN = SITE.profiles["multispan"]
OWN = PLANTS["multispan"].faults
OPTIONS = Options(boot=1, plant_start_s=DEMO_START_S)
THREE = frozenset({"climate-1", "climate-2", "climate-3"})


def nursery(*injections: Injection, only: frozenset[str] | set[str] = THREE) -> World:
    world = build_world(SITE, seed=1, options=OPTIONS, only=frozenset(only))
    world.plan([i._replace(at_s=DEMO_START_S + i.at_s) for i in injections])
    return world


def readings(world: World, device: str, point: str, *, seconds: int = 600, every_s: int = 10) -> np.ndarray:
    place = world.places[device]
    row = [spec.name for spec in place.points].index(point)
    values = []
    for at in range(0, seconds + 1, every_s):
        world.advance_to(max(world.now_s, DEMO_START_S + at))
        values.append(place.read()[row])
    return np.array(values)


def test_a_house_lives_and_measures_alike_in_a_fleet_of_any_size_and_whoever_looks():
    alone, together = nursery(only={"climate-2"}), nursery(only={"weather-1", *THREE})
    random, now_s = np.random.default_rng(1), DEMO_START_S
    for _ in range(30):
        before_s, now_s = now_s, now_s + float(random.uniform(1, 40))
        vent, valve = random.uniform(0, 100, 2)
        for looked_at_s in np.linspace(before_s, now_s, 4)[1:3]:
            together.advance_to(float(looked_at_s))
            together.places["climate-1"].read()
            together.places["climate-1"].actuators["vent_lee"].command(float(valve))
        for world in (alone, together):
            world.advance_to(now_s)
            world.places["climate-2"].actuators["vent_lee"].command(float(vent))
            world.places["climate-2"].actuators["mixing_valve"].command(float(valve))
        assert np.array_equal(alone.places["climate-2"].read(), together.places["climate-2"].read(), equal_nan=True)


def test_reading_all_houses_at_once_is_reading_each():
    each, at_once = nursery(), nursery()
    for at in range(0, 700, 10):
        for world in (each, at_once):
            world.advance_to(DEMO_START_S + at)
        (group,) = [group for group in at_once.groups if group.profile.name == "multispan"]
        one_by_one = [each.places[f"climate-{number}"].read() for number in (1, 2, 3)]
        assert np.array_equal(group.read(), np.stack(one_by_one, axis=1), equal_nan=True)


def test_longer_pause_than_is_made_up_for_is_skipped(monkeypatch):
    monkeypatch.setattr("simulators.world.CATCH_UP_S_MAX", 3600.0)
    world = nursery(only={"weather-1"})
    world.advance(0)
    world.advance(10 * 86_400 * 10**9)
    assert world.now_s == pytest.approx(DEMO_START_S + 3600)
    world.advance(10 * 86_400 * 10**9 + 10**10)
    assert world.now_s == pytest.approx(DEMO_START_S + 3610)


# -- faults of points ----------------------------------------------------------------------------------------------------------


def difference(fault: str, point: str, strength: float | None = None, *, after_s: int = 300) -> np.ndarray:
    """What a fault changes of what a point says, from its begin on; the noise is the same in both worlds."""
    spoilt = nursery(Injection(fault, "climate-1", point, strength, at_s=after_s), only={"climate-1"})
    sound = nursery(only={"climate-1"})
    changed = readings(spoilt, "climate-1", point) - readings(sound, "climate-1", point)
    begin = after_s // 10
    assert not changed[:begin].any(), "nothing before it begins"
    return changed[begin:]


def test_stuck_sensor_repeats_itself():
    values = readings(nursery(Injection("stuck", "climate-1", "air_temp_c", at_s=300)), "climate-1", "air_temp_c")
    assert len(set(values[30:])) == 1
    assert len(set(values[:30])) > 10


def test_bias_ramp_and_calibration_are_as_large_as_they_say():
    assert difference("bias", "air_temp_c", 4.0) == pytest.approx(4.0)
    ramp = difference("ramp", "air_temp_c", 60.0)
    assert (ramp[0], ramp[-1]) == (pytest.approx(0.0), pytest.approx(5.0))
    co2 = readings(nursery(only={"climate-1"}), "climate-1", "co2_ppm")[30:]
    assert difference("miscalibrated", "co2_ppm") == pytest.approx(0.1 * co2)
    assert difference("low_reading", "co2_ppm") == pytest.approx(-0.2 * co2)


def test_usual_strength_is_a_part_of_the_points_range():
    assert difference("bias", "air_temp_c") == pytest.approx(0.05 * 70)


def test_noise_is_as_many_times_as_large():
    noise = difference("noise", "co2_ppm", 5.0, after_s=0)
    assert np.std(noise) == pytest.approx(10.0 * np.sqrt(5.0**2 - 1.0), rel=0.25), "beside the 10 ppm it has"


def test_spikes_are_rare_and_as_large_as_they_say():
    changed = difference("spike", "air_temp_c", 15.0, after_s=10)
    long = np.concatenate([changed, difference("spike", "air_rh_pct", 15.0, after_s=20)])
    assert set(np.round(np.abs(long), 6)) == {0.0, 15.0}
    assert 0 < np.count_nonzero(long) < 12


def test_dropout_is_silence():
    assert np.isnan(difference("dropout", "air_temp_c")).all()
    assert 10 < np.isnan(difference("dropout", "air_temp_c", 0.5, after_s=10)).sum() < 50


def test_mixed_up_unit_is_fahrenheit_and_a_fraction():
    alone = {"climate-1"}
    true = readings(nursery(only=alone), "climate-1", "air_temp_c", seconds=60)
    said = readings(nursery(Injection("unit", "climate-1", "air_temp_c"), only=alone), "climate-1", "air_temp_c", seconds=60)
    assert said == pytest.approx(true * 1.8 + 32)
    humidity = readings(nursery(Injection("unit", "climate-1", "air_rh_pct"), only=alone), "climate-1", "air_rh_pct", seconds=60)
    assert 0.3 < humidity.max() <= 1.0


def test_swapped_sensors_say_each_others_values():
    true, said = nursery(), nursery(Injection("swapped", "climate-1", "air_temp_2_c"))
    partner = "leaf_temp_c"
    row = [spec.name for spec in said.places["climate-1"].points].index
    said.advance_to(DEMO_START_S + 60)
    true.advance_to(DEMO_START_S + 60)
    a, b = said.places["climate-1"].read(), true.places["climate-1"].read()
    assert (a[row("air_temp_2_c")], a[row(partner)]) == (b[row(partner)], b[row("air_temp_2_c")])


def test_counter_begins_at_nothing_again():
    values = readings(nursery(Injection("counter_reset", "climate-1", "elec_kwh", at_s=300)), "climate-1", "elec_kwh", seconds=900)
    assert values[29] > 0.05
    assert values[30] == 0.0
    assert (np.diff(values[30:]) >= 0).all()
    assert values[-1] > 0.1


@pytest.mark.parametrize(
    ("fault", "strength", "said"), [("wetted", None, 100), ("open_circuit", None, 100), ("open_circuit", -1, 0), ("dead", None, 0)]
)
def test_wet_cut_and_dead_sensors(fault, strength, said):
    values = readings(nursery(Injection(fault, "climate-1", "air_rh_pct", strength)), "climate-1", "air_rh_pct")
    assert set(values) == {said}


def test_sun_heats_a_sensor_with_the_light():
    group = nursery().groups[0]
    sun = np.array([group._sun_w_m2(DEMO_START_S + at) for at in range(0, 601, 10)])
    assert difference("sun_heated", "air_temp_c", 5.0, after_s=300) == pytest.approx(5.0 * sun[30:] / 800, abs=0.02)


def test_slow_sensor_lags_and_is_quick_again_afterwards():
    world = nursery(Injection("slow", "climate-1", "air_temp_c", 100.0, for_s=600), only={"climate-1"})
    plant = world.places["climate-1"].houses
    world.advance_to(DEMO_START_S + 5)
    plant.state = plant.state._replace(air_c=plant.state.air_c + 10)
    slow = readings(world, "climate-1", "air_temp_c", seconds=300)
    assert slow[-1] < slow[0] + 3
    quick = readings(world, "climate-1", "air_temp_c", seconds=900)
    assert abs(quick[-1] - plant.state.air_c[0]) < 1.5


def test_night_offset_is_seen_in_the_dark_only():
    profile = Profile.model_validate(
        {"name": "p", "points": [{"name": "rad_w_m2", "unit": "W/m2", "low": -20, "high": 1500, "deadband": 1}]}
    )
    house = Told()
    house.rad_w_m2 = 0.0
    place = lone_place(profile, house)
    assert place.fail(Injection("night_offset", "", "rad_w_m2", -3.0)) == ""
    assert place.read()[0] == -3.0
    house.rad_w_m2 = 400.0
    place._world.advance_to(10.0)
    assert place.read()[0] == 400.0


# -- faults of drives and devices ----------------------------------------------------------------------------------------------


def test_stuck_drive_and_frozen_feedback_look_alike_and_are_not():
    def after(fault: str) -> tuple[float, float]:
        world = nursery(Injection(fault, "climate-1", "vent_lee", at_s=1))
        world.advance_to(DEMO_START_S + 5)
        place = world.places["climate-1"]
        row = [spec.name for spec in place.points].index("vent_lee_pct")
        place.read()
        place.actuators["vent_lee"].command(100)
        world.advance_to(DEMO_START_S + 400)
        return place.actuators["vent_lee"].position, place.read()[row]

    assert after("drive_stuck") == (0, pytest.approx(0, abs=2))
    assert after("feedback_frozen") == (100, pytest.approx(0, abs=2))


def test_power_dip_stops_drives_and_gives_them_back():
    world = nursery(Injection("power_dip", "climate-1", at_s=100, for_s=60))
    place = world.places["climate-1"]
    place.actuators["vent_lee"].command(100)
    world.advance_to(DEMO_START_S + 159)
    assert not place.is_powered
    assert place.actuators["vent_lee"].position == pytest.approx(100 / 3)
    assert place.actuators["circulation_fan"].position == 0
    assert world.places["climate-2"].actuators["circulation_fan"].position == 1
    world.advance_to(DEMO_START_S + 190)
    assert place.is_powered
    assert place.actuators["circulation_fan"].position == 1
    assert place.actuators["vent_lee"].position == pytest.approx(100 / 3 + 10)


def test_fault_of_a_kind_reaches_its_house_alone():
    world = nursery(Injection("boiler_lockout", "climate-2", at_s=0, for_s=3600))
    for name in ("climate-1", "climate-2"):
        for actuator, value in (("mixing_valve", 100), ("circulation_pump", 1)):
            world.places[name].actuators[actuator].command(value)
    pipes = {name: readings(world, name, "pipe_supply_c", seconds=1200)[-1] for name in ("climate-1", "climate-2")}
    assert pipes["climate-1"] > pipes["climate-2"] + 8


@pytest.mark.parametrize("mode", ["panel_local", "panel_off", "overload", "welded"])
def test_drive_faults_come_and_go(mode):
    world = nursery(Injection(mode, "climate-1", "fog", at_s=10, for_s=50))
    world.advance_to(DEMO_START_S + 20)
    fog = world.places["climate-1"].actuators["fog"]
    assert fog.mode == {"panel_local": "LOCAL", "panel_off": "OFF"}.get(mode, "AUTO")
    fog.command(1.0)
    world.advance_to(DEMO_START_S + 30)
    assert fog.position == (1 if mode in ("panel_local", "welded") else 0)
    fog.command(0.0)
    world.advance_to(DEMO_START_S + 40)
    assert fog.position == (mode == "welded")
    world.advance_to(DEMO_START_S + 70)
    assert (fog.mode, fog.position) == ("AUTO", 0)


def test_selector_of_the_panel_is_a_point():
    profile = Profile.model_validate(
        {
            "name": "p", "points": [{"name": "vent_mode", "unit": "1", "low": 0, "high": 2}],
            "actuators": [{"name": "vent", "selector": "vent_mode"}],
        }
    )  # fmt: skip
    place = lone_place(profile, Told())
    for fault, said in (("panel_local", 1), ("panel_off", 2)):
        assert place.fail(Injection(fault, "", "vent")) == ""
        assert place.read()[0] == said
        assert place.fail(Injection(fault, "", "vent", 0.0)) == ""
        assert place.read()[0] == 0


def test_machines_that_share_a_selector_are_turned_together():
    profile = Profile.model_validate(
        {
            "name": "p", "points": [{"name": "mode", "unit": "1", "low": 0, "high": 2}],
            "actuators": [{"name": "on", "selector": "mode"}, {"name": "back", "selector": "mode"}, {"name": "other"}],
        }
    )  # fmt: skip
    place = lone_place(profile, Told())
    for part in ("on", "back"):
        assert place.fail(Injection("panel_local", "", part)) == ""
        assert (place.read()[0], [one.mode for one in place.actuators.values()]) == (1, ["LOCAL", "LOCAL", "AUTO"])
        assert place.fail(Injection("panel_local", "", part, 0.0)) == ""
        assert (place.read()[0], [one.mode for one in place.actuators.values()]) == (0, ["AUTO", "AUTO", "AUTO"])


def test_fault_that_begins_again_lasts_as_long_as_the_newer_one():
    world = nursery(
        Injection("bias", "climate-1", "air_temp_c", 5.0, at_s=10, for_s=100),
        Injection("bias", "climate-1", "air_temp_c", 9.0, at_s=50, for_s=200),
        Injection("bias", "climate-1", "air_rh_pct", 5.0, at_s=10),
        Injection("bias", "climate-1", "air_rh_pct", 0.0, at_s=200),
    )
    changed = readings(world, "climate-1", "air_temp_c") - readings(nursery(), "climate-1", "air_temp_c")
    assert [round(changed[at // 10]) for at in (0, 10, 40, 50, 120, 240, 260)] == [0, 5, 5, 9, 9, 9, 0]
    assert not any(group._wrong for group in world.groups), "and one of strength 0 is over"


# -- what is wrong with a fault ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("injection", "told"),
    [
        (Injection("wet", "d"), "no fault 'wet'; there are stuck"),
        (Injection("stuck", "d"), "name the point, as in site/device/point"),
        (Injection("stuck", "d", "nothing_c"), "multispan has no point 'nothing_c'; there are air_temp_c"),
        (Injection("drive_stuck", "d", "air_temp_c"), "multispan has no actuator 'air_temp_c'; there are vent_lee"),
        (Injection("late", "d", "air_temp_c"), "late is of a whole device; leave out 'air_temp_c'"),
        (Injection("boiler_lockout", "d", "boiler"), "boiler_lockout is of the whole of d"),
        (Injection("dropout", "d", "air_temp_c", 5.0), "is a share, 0 to 1"),
        (Injection("bias", "d", "air_temp_c", math.nan), "must be a number"),
        (Injection("bias", "d", "air_temp_c", 1.0, for_s=0.0), "longer than nothing"),
        (Injection("unit", "d", "drip_ph"), "no other unit is known for pH"),
        (Injection("swapped", "d", "slab_weight_kg"), ""),
    ],
)
def test_wrong_faults_are_told_with_the_fix(injection, told):
    assert told in problem(injection, MULTISPAN, OWN)


def test_handbook_faults_are_all_there_and_in_the_document():
    document = (ROOT / "docs" / "simulators.md").read_text(encoding="utf-8")
    for name, general in GENERAL.items():
        code = f" ({general.code})" if general.code else ""
        assert f"| `{name}`{code} | {general.on} | {general.text} |" in document
    assert set(NAMES) == {f"F{number}" for number in range(1, 21)}
    assert all(general.text for general in GENERAL.values())
    for name, general in GENERAL.items():
        part = {"point": "air_temp_c", "drive": "vent_lee", "device": ""}[general.on]
        assert problem(Injection(name, "d", part), MULTISPAN, OWN) == "", name
