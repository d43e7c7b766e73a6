"""Every kind's worst fault once live: a farm with a house of each kind, over a real broker, its faults ordered as `fieldloom fault` does.

The handbook's times are those of the plants, which live SPEED times as fast as the clock. All faults come at once, and what follows is
read from the journal: alarms at their time, what drives are measured to do, and what the air came to. `pigs-2` is the control of the
pig house's limits: its curtains are blocked, and its air must be far worse.
"""

# ruff: noqa: T201 - the figures of a proof are part of its result

import time
from collections.abc import Iterator

import numpy as np
import pytest

from devices.outbox import LEASE_LIFETIME_S
from tests.faults.process import wait_until
from tests.system.live_farm import HEARTBEAT_S, LiveFarm, is_small_disk, live_farm
from tests.system.test_commit_failures import fill_up

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.days]
SPEED = 30.0
STORM_M_S = 25.0  # more than is blowing: all gusts are over 17 m/s
TEN_MIN_S = 600.0
BACK_S = 120.0  # devices try a broker again after at most 30 s, core what failed meanwhile after a minute more
ALONE_S = LEASE_LIFETIME_S + 0.4 * 120.0 / SPEED + 1.5 * HEARTBEAT_S  # a lease, the travel of the valve, and its word
HOT_C, STALE_PPM = 27.0, 3000.0  # what a sealed house of fattening pigs passes within 10 min (handbook, 4.6)


def order_faults(farm: LiveFarm) -> None:
    """Vents stand open by hand and a heater is on when it begins."""
    for vent in ("climate-1/vent_lee", "climate-1/vent_wind", "sun-1/vent_top"):
        farm.override(vent, 40.0)
    farm.override("germ-1/heater", 60.0)
    farm.override("climate-1/mixing_valve", 40.0)
    for point in ("climate-1/vent_lee_pct", "climate-1/vent_wind_pct", "sun-1/vent_top_pct"):
        farm.reaches(point, 37.0, 43.0, within_s=30.0)
    farm.reaches("germ-1/heater_pct", 57.0, 63.0, within_s=30.0)
    farm.fail("climate-1/exhaust_fan", "feedback_frozen")
    frozen = time.time_ns()
    farm.fail("weather-1/wind_gust_m_s", "bias", strength=STORM_M_S)
    farm.fail("germ-1", "belt_slip", strength=1.0)
    farm.fail("pigs-2", "curtain_blocked")
    for house in ("pigs-1", "pigs-2"):
        farm.fail(house, "generator_fails")
        farm.fail(house, "mains_lost")
    wait_until(lambda: len(farm.measured("climate-1/exhaust_fan_pct", from_ns=frozen)) > 0, what="what it froze at")
    farm.override("climate-1/exhaust_fan", 50.0)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFarm]:
    with live_farm(tmp_path_factory.mktemp("farm"), speed=SPEED) as running:
        order_faults(running)
        yield running


def check_pigs_are_called_and_get_air(farm: LiveFarm) -> None:
    for house in ("pigs-1", "pigs-2"):
        farm.alarm_within(f"PH-POWER@{house}", "mains_lost", 60.0)
    farm.reaches("pigs-1/curtain_bool", 1.0, 1.0, within_s=(120.0 + 30.0 + 30.0) / SPEED + 3.0)


def check_a_storm_shuts_what_is_open(farm: LiveFarm) -> None:
    farm.alarm_within("WS-STORM@weather-1", "bias", 60.0)
    farm.faults["sun-1", "bias"] = farm.faults["weather-1", "bias"]
    farm.alarm_within("SG-WIND@sun-1", "bias", 60.0)
    for point in ("climate-1/vent_lee_pct", "climate-1/vent_wind_pct", "sun-1/vent_top_pct"):
        farm.reaches(point, -3.0, 3.0, within_s=450.0 / SPEED)


def check_a_dead_fan_stops_the_heat(farm: LiveFarm) -> None:
    farm.alarm_within("GR-FAN@germ-1", "belt_slip", 60.0)
    farm.reaches("germ-1/heater_pct", -3.0, 3.0, within_s=180.0 / SPEED)
    assert farm.measured("germ-1/air_temp_c").max() < 32.0  # the crop's limit


def check_a_frozen_feedback_is_told(farm: LiveFarm) -> None:
    farm.alarm_within("COMMAND-exhaust_fan@climate-1", "feedback_frozen", 20.0 * SPEED)


CHECKS = (
    check_pigs_are_called_and_get_air,
    check_a_storm_shuts_what_is_open,
    check_a_dead_fan_stops_the_heat,
    check_a_frozen_feedback_is_told,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_worst_fault(farm, check):
    check(farm)


@pytest.mark.timeout(360)
def test_a_broker_that_is_gone_leaves_every_house_to_its_fail_safe(farm):
    farm.reaches("climate-1/mixing_valve_pct", 37.0, 43.0, within_s=10.0)
    began = time.time_ns()
    farm.broker.kill()
    wait_until(lambda: time.time_ns() - began > ALONE_S * 1e9, what="the lease is over, drives have gone")
    back = time.time_ns()
    farm.broker.start()
    farm.reaches("climate-1/mixing_valve_pct", 37.0, 43.0, within_s=BACK_S, from_ns=back)  # where somebody had set it

    def alone(point: str) -> np.ndarray:
        return farm.measured(point, from_ns=back - int(1.2e9 * HEARTBEAT_S), to_ns=back)

    wait_until(
        lambda: len(alone("climate-1/mixing_valve_pct")) and len(alone("pigs-3/fan_pct")),
        deadline_s=BACK_S,
        what="what devices kept",
    )
    assert alone("climate-1/mixing_valve_pct").max() < 3.0
    assert alone("pigs-3/fan_pct").min() > 37.0  # full speed, or what the bypass makes of it in the cold
    assert farm.core.process.running
    assert farm.core.last().read_accounting().is_balanced()


def test_pigs_without_power_keep_air_through_their_curtains_alone(farm):
    began = farm.faults["pigs-1", "mains_lost"]
    farm.wait_plant(began, TEN_MIN_S)

    def worst(point: str) -> float:
        wait_until(lambda: len(farm.measured(point, from_ns=began + int(0.9 * TEN_MIN_S / SPEED * 1e9))) > 0, what=point)
        return float(farm.measured(point, from_ns=began, to_ns=began + int(TEN_MIN_S / SPEED * 1e9)).max())

    found = {
        f"{house}/{point}": worst(f"{house}/{point}") for house in ("pigs-1", "pigs-2") for point in ("room_temp_c", "co2_ppm")
    }
    print(found)
    assert found["pigs-1/room_temp_c"] < HOT_C
    assert found["pigs-1/co2_ppm"] < STALE_PPM
    assert found["pigs-2/room_temp_c"] > found["pigs-1/room_temp_c"] + 3.0
    assert found["pigs-2/co2_ppm"] > found["pigs-1/co2_ppm"] + 500.0


def test_a_killed_core_goes_on_where_it_was(farm):
    before, epoch, raised = farm.standing(), farm.core.last().epoch, len(farm.raised("PH-POWER@pigs-1"))
    farm.core.kill()
    farm.core.start()
    wait_until(lambda: farm.core.last().epoch > epoch, what="a new epoch")
    farm.fail("pigs-3", "fans_dead")
    farm.alarm_within("PH-FANALL@pigs-3", "fans_dead", 90.0)
    assert {subject for subject in before if subject.startswith("PH-POWER")} <= farm.standing()
    assert len(farm.raised("PH-POWER@pigs-1")) == raised
    farm.reaches("pigs-1/curtain_bool", 1.0, 1.0, within_s=5.0)


def test_a_full_store_acknowledges_nothing_and_calls_when_there_is_room(farm):
    if not is_small_disk(farm.core.data):
        pytest.skip("a small disk can be mounted by root only")
    filler = fill_up(farm.core.data)
    wait_until(lambda: "commit failed" in farm.core.log, what="the disk is full")
    held = farm.core.last().last
    farm.fail("pigs-3", "mains_lost")
    wait_until(lambda: farm.plant_s(farm.faults["pigs-3", "mains_lost"]) > 60.0, what="a minute of the plants")
    assert farm.core.last().last == held
    filler.unlink()
    freed = time.time_ns()
    wait_until(lambda: farm.raised("PH-POWER@pigs-3") != [], what="the alarm")
    assert time.time_ns() - freed < 5e9
    assert farm.core.last().read_accounting().is_balanced()


@pytest.mark.torture
@pytest.mark.parametrize("check", CHECKS[:3], ids=lambda check: check.__name__.removeprefix("check_"))
def test_without_its_rules_the_farm_is_not_held(tmp_path, check):
    """The control of the checks above: each of them sees it when nothing watches the farm."""
    with live_farm(tmp_path, speed=SPEED, watched=False) as farm:
        order_faults(farm)
        with pytest.raises(AssertionError):
            check(farm)


@pytest.mark.torture
def test_an_hour_without_broker_a_vent_that_sticks_and_a_device_that_is_silent(tmp_path):
    """A quiet farm, one fault after the other; limits are those of the alarms."""
    limits = {
        "germ-1/air_temp_c": (15.0, 32.0), "sun-1/air_temp_c": (5.0, 42.0), "climate-1/air_temp_c": (8.0, 38.0),
        "pigs-1/room_temp_c": (13.0, 30.0), "pigs-1/co2_ppm": (0.0, 5000.0),
    }  # fmt: skip
    with live_farm(tmp_path, speed=SPEED) as farm:
        farm.override("climate-1/vent_lee", 40.0)
        farm.reaches("climate-1/vent_lee_pct", 37.0, 43.0, within_s=30.0)
        farm.fail("climate-1/vent_lee", "drive_stuck")
        farm.override("climate-1/vent_lee", 0.0)
        farm.alarm_within(
            "COMMAND-vent_lee@climate-1", "drive_stuck", 1.5 * 300.0 + 7.0 * SPEED
        )  # travel, then the margin of the wall

        farm.broker.kill()
        gone = time.time_ns()
        farm.wait_plant(gone, 3600.0)
        back = time.time_ns()
        farm.broker.start()
        for point, (low, high) in limits.items():
            wait_until(lambda at=point: len(farm.measured(at, from_ns=back)) > 0, deadline_s=BACK_S, what=f"{point} again")
            kept = farm.measured(point, from_ns=gone, to_ns=back)
            print(f"{point} {kept.min():.1f} to {kept.max():.1f}, {len(kept)} values of the hour")
            assert low < kept.min() <= kept.max() < high, point
        wait_until(lambda: farm.core.last().read_accounting().is_balanced(), what="every message has its place")

        farm.fail("pigs-3", "broker_restart", for_s=260.0 * SPEED)
        farm.alarm_within("PH-SILENT@pigs-3", "broker_restart", 190.0 * SPEED)  # silence is of the wall


@pytest.mark.torture
def test_a_store_that_stays_full_ends_core_and_devices_go_alone(tmp_path):
    with live_farm(tmp_path, speed=SPEED) as farm:
        if not is_small_disk(farm.core.data):
            pytest.skip("a small disk can be mounted by root only")
        farm.override("climate-1/mixing_valve", 40.0)
        farm.reaches("climate-1/mixing_valve_pct", 37.0, 43.0, within_s=30.0)
        filler = fill_up(farm.core.data)
        assert farm.core.process.wait_exit(deadline_s=60.0) == 1
        ended = time.time_ns()
        wait_until(lambda: time.time_ns() - ended > ALONE_S * 1e9, what="the lease is over, drives have gone")
        alone = time.time_ns()
        filler.unlink()
        farm.core.start()
        farm.reaches("climate-1/mixing_valve_pct", 37.0, 43.0, within_s=BACK_S, from_ns=alone)
        kept = farm.measured("climate-1/mixing_valve_pct", from_ns=alone - int(1.2e9 * HEARTBEAT_S), to_ns=alone)
        assert len(kept)
        assert kept.max() < 3.0
