"""Calibration: raw to true by a plan, with its end, across a change of the configuration."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from telemetry.calibration import Calibrator, calibrate
from telemetry.frame import Flag, Frames, make_frames
from telemetry.plan import Plan
from telemetry.quality import BAD, CALIBRATION_EXPIRED, DEVICE_BAD, RATE, UNCERTAIN
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, SiteConfig

S = 1_000_000_000
DAY = {"date": "2026-01-01", "expires": "2026-06-30", "by": "li wei"}
END_NS = 1_782_835_200 * S  # 2026-06-30 24:00 in Shanghai
POINTS = [
    PointSpec(name="air_temp_c", unit="C", low=-40, high=80),
    PointSpec(name="air_rh_pct", unit="%", low=0, high=100),
    PointSpec(name="door_bool", unit="bool", low=0, high=1, labels={0: "closed", 1: "open"}),
    PointSpec(name="speed_rpm", unit="rpm", low=0, high=9, members=4),
    PointSpec(name="dew_c", unit="C", low=-40, high=80, expression="dew_point_c(air_temp_c, air_rh_pct)"),
]


def site(*calibrations: dict[str, Any], zone: str = "Asia/Shanghai") -> SiteConfig:
    return SiteConfig(
        site="s", zone=zone, areas=[AreaSpec(name="a")], devices=[DeviceSpec(name="d", profile="p", area="a", count=2)],
        profiles={"p": Profile(name="p", points=POINTS)}, calibrations=[{**DAY, **given} for given in calibrations],
    )  # fmt: skip


def plan_of(*calibrations: dict[str, Any]) -> Plan:
    plan = Plan()
    plan.apply(site(*calibrations))
    return plan


def frames(values: list[float], *, ts_ns: int = END_NS - S, quality: int = 0, flags: int = 0) -> Frames:
    """Frames of d-0, each with its temperature and humidity 50."""
    n = len(values)
    return make_frames({
        "entry": range(n), "device": [0] * n, "ts_ns": [ts_ns] * n, "boot": [1] * n, "seq": range(n), "flags": [flags] * n,
        "offsets": np.arange(n + 1) * 2, "point": [0, 1] * n, "value": [x for value in values for x in (value, 50.0)],
        "quality": [quality] * (2 * n),
    })  # fmt: skip


def test_two_points_make_a_straight_line_through_both() -> None:
    made = calibrate(
        frames([0.4, 99.6, 50.0]), plan_of({"device": "d-0", "point": "air_temp_c", "points": [(0.4, 0.0), (99.6, 100.0)]})
    )
    assert made.value[[0, 2, 4]] == pytest.approx([0.0, 100.0, 50.0], abs=2**-20)
    assert made.value[[1, 3, 5]].tolist() == [50.0] * 3, "nobody else is touched"


def test_gain_and_offset_are_applied_and_rounded() -> None:
    made = calibrate(frames([20.3]), plan_of({"device": "d-0", "point": "air_temp_c", "gain": 1.01, "offset": 0.1}))
    assert made.value[0] == round((20.3 * 1.01 + 0.1) * 2**20) / 2**20


def test_another_device_of_the_line_keeps_its_values() -> None:
    given = frames([20.0])
    assert calibrate(given, plan_of({"device": "d-1", "point": "air_temp_c", "offset": 1})) is given
    assert calibrate(given, plan_of()) is given


def test_what_is_no_number_stays_none() -> None:
    made = calibrate(frames([np.nan, np.inf]), plan_of({"device": "d-0", "point": "air_temp_c", "offset": 1}))
    assert np.isnan(made.value[0])
    assert made.value[2] == np.inf


@pytest.mark.parametrize(("before_s", "expired"), [(1, False), (0, True), (-1, True)])
def test_past_the_last_day_by_the_sites_clock_values_are_uncertain(before_s: int, expired: bool) -> None:
    plan = plan_of({"device": "d-0", "point": "air_temp_c", "offset": 1})
    made = calibrate(frames([20.0], ts_ns=END_NS - before_s * S, quality=RATE | UNCERTAIN), plan)
    assert made.value[0] == 21.0, "the correction itself goes on"
    assert made.quality.tolist() == [RATE | UNCERTAIN | (CALIBRATION_EXPIRED if expired else 0), RATE | UNCERTAIN]


def test_what_was_bad_stays_bad_past_the_end() -> None:
    plan = plan_of({"device": "d-0", "point": "air_temp_c", "offset": 1})
    made = calibrate(frames([20.0], ts_ns=END_NS, quality=BAD | DEVICE_BAD), plan)
    assert made.quality[0] == BAD | DEVICE_BAD | CALIBRATION_EXPIRED


def test_what_history_gives_back_is_not_corrected_twice() -> None:
    given = frames([20.0], flags=int(Flag.CALIBRATED))
    assert calibrate(given, plan_of({"device": "d-0", "point": "air_temp_c", "offset": 1})) is given


def test_a_change_of_the_calibration_holds_from_its_entry_on() -> None:
    given = frames([20.0, 20.0, 20.0])
    calibrator, plan = Calibrator(given), plan_of({"device": "d-0", "point": "air_temp_c", "offset": 1})
    calibrator.until(1, plan)
    plan.apply(site({"device": "d-0", "point": "air_temp_c", "offset": -2}))
    calibrator.until(2, plan)
    plan.apply(site())
    calibrator.until(3, plan)
    assert calibrator.frames.value[[0, 2, 4]].tolist() == [21.0, 18.0, 20.0]
    assert calibrator.corrected.tolist() == [True, False, True, False, False, False]
    assert given.value[0] == 20.0


def test_a_plan_out_of_a_snapshot_corrects_alike() -> None:
    plan = plan_of({"device": "d-0", "point": "air_temp_c", "offset": 1})
    again = Plan.from_snapshot(plan.snapshot())
    assert calibrate(frames([20.0]), again).value.tolist() == calibrate(frames([20.0]), plan).value.tolist() == [21.0, 50.0]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"device": "d-9", "point": "air_temp_c", "offset": 1}, "device 'd-9' does not exist"),
    ({"device": "d-0", "point": "co2_ppm", "offset": 1}, "point 'co2_ppm' does not exist"),
    ({"device": "d-0", "point": "dew_c", "offset": 1}, "is computed"),
    ({"device": "d-0", "point": "speed_rpm", "offset": 1}, "is an array"),
    ({"device": "d-0", "point": "door_bool", "offset": 1}, "is a code"),
    ({"device": "d-0", "point": "air_temp_c"}, "either `offset` and `gain`, or `points`"),
    ({"device": "d-0", "point": "air_temp_c", "offset": 1, "points": [(0, 0), (1, 1)]}, "either `offset` and `gain`, or `points`"),
    ({"device": "d-0", "point": "air_temp_c", "points": [(5, 0), (5, 1)]}, "two different ones"),
    ({"device": "d-0", "point": "air_temp_c", "points": [(5, 1), (6, 1)]}, "other than 0"),
    ({"device": "d-0", "point": "air_temp_c", "gain": 0}, "other than 0"),
    ({"device": "d-0", "point": "air_temp_c", "offset": 1, "expires": "2025-12-31"}, "lies before date"),
    ({"device": "d-0", "point": "air_temp_c", "offset": 1, "expires": "soon"}, "write it such as 2026-03-20"),
    ({"device": "d-0", "point": "air_temp_c", "offset": 1, "by": ""}, "at least 1 character"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_calibration_is_refused_with_the_reason(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        site(given)


def test_a_point_is_calibrated_once() -> None:
    with pytest.raises(ValidationError, match="declared twice"):
        site({"device": "d-0", "point": "air_temp_c", "offset": 1}, {"device": "d-0", "point": "air_temp_c", "offset": 2})


POINTS_WRONG: list[tuple[dict[str, Any], str]] = [
    ({"expression": "1", "redundant": ["a", "b"], "tolerance": 1}, "either `expression` or `redundant`"),
    ({"redundant": ["a", "b"]}, "belong together"),
    ({"expression": "1", "tolerance": 1}, "belong together"),
    ({"redundant": ["a", "a"], "tolerance": 1}, "stands twice"),
    ({"redundant": ["a"], "tolerance": 1}, "at least 2"),
    ({"redundant": ["a", "b c"], "tolerance": 1}, "pattern"),
    ({"expression": "1", "stuck_s": 5}, "has no stuck_s"),
    ({"expression": "1", "members": 5}, "has no members"),
]


@pytest.mark.parametrize(("given", "message"), POINTS_WRONG, ids=[message for _, message in POINTS_WRONG])
def test_a_wrong_virtual_point_is_refused_with_the_reason(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PointSpec(name="x", unit="C", low=0, high=1, **given)


def test_what_is_computed_confirms_no_actuator() -> None:
    with pytest.raises(ValidationError, match="which is computed"):
        Profile(name="p", points=POINTS, actuators=[{"name": "vent", "feedback": "dew_c"}])


def test_redundant_sensors_bring_their_alarm_once() -> None:
    voted = PointSpec(name="best_c", unit="C", low=0, high=50, redundant=["a_c", "b_c"], tolerance=1)
    profile = Profile(name="p", points=[voted])
    assert [rule.id for rule in profile.rules] == ["SENSORS-best_c"]
    assert Profile.model_validate(profile.model_dump()) == profile
    own = profile.rules[0].model_copy(update={"priority": "P2"})
    assert Profile(name="p", points=[voted], rules=[own]).rules == [own]
