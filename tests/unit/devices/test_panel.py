"""The selector at the panel wins: nothing is sent in LOCAL and OFF, and back in AUTO we go on from where the actuator stands."""

import pytest

from telemetry.frame import Verdict
from telemetry.plan import NS_PER_S
from telemetry.quality import BAD
from telemetry.record import Event, Start
from telemetry.site import SiteConfig
from tests.faults.command_world import ACTUATORS, T0, Step, World, plan_of
from tests.unit.devices.test_command import VENT, ack, at, begun, ticks

LOCAL, OFF, AUTO = 1.0, 2.0, 0.0
SELECTED_FAN = {**ACTUATORS[1], "selector": "panel", "feedback": "vent_pct", "tolerance": 0.5}


def turned(second: float, value: float, **fields) -> Step:
    return at(second, device=0, point=1, value=value, **fields)


def test_nothing_is_sent_in_local_and_the_wish_of_the_moment_when_it_is_back() -> None:
    world = begun()
    told = world.run([turned(1, LOCAL), at(2).demand("R1", VENT, 50.0), at(3).demand("R1", VENT, 80.0), *ticks(4, 300)])
    assert not told.commands
    assert not told.of("fault")
    assert [d.body for d in told.of("mode", VENT)] == [{"panel": "LOCAL", "from": "AUTO"}]
    assert told.states(VENT) == ["requested", "superseded", "requested"]
    assert told.of("command", VENT)[0].body["withheld"] == "the panel says LOCAL"
    back = world.run([turned(301, AUTO)])
    assert [c.value for _, c in back.commands] == [80.0]


@pytest.mark.parametrize("where", [LOCAL, OFF, 7.0])
def test_command_under_way_is_neither_expected_nor_failed(where: float) -> None:
    """A hand at the panel is no fault of the drive: no alarm, no fail-safe against it."""
    world = begun()
    command = world.run([at(1).demand("R1", VENT, 50.0)]).commands[0][1]
    result = world.run([ack(2, command.id), turned(3, where), at(4, device=0, value=5.0), *ticks(5, 200)])
    assert result.states(VENT)[:2] == ["accepted", "superseded"]
    assert not result.of("fault")
    assert not result.commands


def test_back_in_auto_nothing_moves_where_it_already_stands() -> None:
    world = begun()
    world.run([at(1).demand("R1", VENT, 50.0), ack(2, f"7-2-{VENT}"), at(20, device=0, value=50.0)])
    world.run([turned(30, LOCAL), at(31, device=0, value=20.0), at(60, device=0, value=49.6)])
    assert not world.run([turned(70, AUTO), *ticks(71, 90)]).commands


def test_back_in_auto_it_goes_on_from_the_measured_position() -> None:
    """The hand left it at 40 of 100: the way to 50 takes a tenth of the 20 s, and then the next step may follow."""
    world = begun()
    world.run([at(1).demand("R1", VENT, 50.0), ack(2, f"7-2-{VENT}"), at(20, device=0, value=50.0)])
    world.run([turned(30, LOCAL), at(60, device=0, value=40.0)])
    result = world.run([turned(70, AUTO), at(70.5).demand("R1", VENT, 90.0), *ticks(71, 80)])
    sent = [(d.time_ns - T0) / NS_PER_S for d in result.of("command", VENT) if d.body["state"] == "sent" and d.body["sends"] == 1]
    assert sent == [70, 72]


def test_minimum_times_of_a_switch_count_what_the_hand_did() -> None:
    world = World(plan_of([SELECTED_FAN]))
    fan = "farm/h-0/fan"
    world.run([at(0, record=Start(7)), at(0, record=Event("drained"))])
    world.run([turned(1, LOCAL), at(50, device=0, value=1.0), at(90, device=0, value=0.0)])
    result = world.run([turned(95, AUTO).demand("R1", fan, 1.0), *ticks(96, 130)])
    assert [d.time_ns - T0 for d in result.of("command", fan) if d.body["state"] == "sent"][:1] == [120 * NS_PER_S]


def test_late_bad_and_repeated_samples_turn_nothing() -> None:
    world = begun()
    result = world.run([turned(1, LOCAL, verdict=int(Verdict.LATE)), turned(2, LOCAL, quality=BAD), at(3).demand("R1", VENT, 50.0)])
    assert [c.value for _, c in result.commands] == [50.0]
    assert not result.of("mode")


def test_dose_under_way_is_still_answered_for() -> None:
    pump = {"name": "pump", "kind": "pulse", "unit": "ml", "dedupes": False, "selector": "panel"}
    world = World(plan_of([pump]))
    world.run([at(0, record=Start(7)), at(0, record=Event("drained"))])
    result = world.run([at(1).demand("R1", "farm/h-0/pump", 5.0), turned(2, LOCAL), *ticks(3, 40)])
    assert [d.body["fault"] for d in result.of("fault")] == ["COMMAND_LOST"]


def test_selector_must_be_a_measured_point_of_the_profile() -> None:
    profile = {
        "name": "p",
        "points": [{"name": "a", "unit": "", "low": 0, "high": 2}],
        "actuators": [{"name": "v", "selector": "b"}],
    }
    config = {"site": "s", "areas": [{"name": "a"}], "devices": [], "profiles": {"p": profile}}
    with pytest.raises(ValueError, match="selector 'b', which is not one of the points"):
        SiteConfig.model_validate(config)
    profile["points"].append({"name": "b", "unit": "", "low": 0, "high": 2, "expression": "a"})
    with pytest.raises(ValueError, match="only what is measured counts"):
        SiteConfig.model_validate(config)
