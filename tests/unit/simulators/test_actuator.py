import numpy as np
import pytest

from simulators.actuator import Actuator
from telemetry.site import ActuatorSpec


def vent(**changes) -> Actuator:
    return Actuator(ActuatorSpec(name="vent", travel_s=300, **changes), np.random.default_rng(1))


def test_position_lags_the_command_by_the_travel_time():
    actuator = vent()
    actuator.command(100)
    assert actuator.position == 0
    actuator.advance(150)
    assert actuator.position == pytest.approx(50)
    assert actuator.measured() == pytest.approx(50, abs=2)
    actuator.advance(149)
    assert actuator.position < 100
    actuator.advance(1)
    assert actuator.position == pytest.approx(100)


def test_drive_does_not_start_inside_its_dead_zone_but_finishes_what_it_began():
    actuator = vent()
    actuator.command(0.8)
    actuator.advance(1000)
    assert (actuator.position, actuator.moves) == (0, 0)
    actuator.command(1.2)
    for _ in range(100):
        actuator.advance(0.5)
    assert actuator.position == pytest.approx(1.2)
    assert actuator.moves == 1


def test_stuck_drive_shows_its_true_position_not_its_target():
    actuator = vent()
    actuator.command(100)
    actuator.advance(90)
    actuator.stuck = True
    actuator.advance(1000)
    assert actuator.position == pytest.approx(30)
    assert actuator.measured() == pytest.approx(30, abs=2)
    assert actuator.target == 100


def test_hold_stops_where_it_is():
    actuator = vent()
    actuator.command(100)
    actuator.advance(90)
    actuator.stop()
    actuator.advance(1000)
    assert actuator.position == pytest.approx(30)


def test_step_size_does_not_change_the_way():
    whole, cut = vent(), vent()
    for actuator in (whole, cut):
        actuator.command(77)
    whole.advance(120)
    for _ in range(120):
        cut.advance(1)
    assert whole.position == pytest.approx(cut.position)


def test_switch_keeps_its_minimum_times():
    actuator = vent(kind="switch", unit="bool", high=1.0, min_on_s=60, min_off_s=120)
    actuator = Actuator(actuator.spec.model_copy(update={"travel_s": 0.0}), np.random.default_rng(1))
    assert actuator.waits_s(1) == 0
    actuator.command(1)
    actuator.advance(1)
    assert actuator.measured() == 1
    assert actuator.waits_s(1) == 0
    assert actuator.waits_s(0) == pytest.approx(59)
    actuator.advance(59)
    assert actuator.waits_s(0) == 0
    actuator.command(0)
    assert actuator.waits_s(1) == 120


def test_two_potentiometers_disagree():
    readings = [Actuator(ActuatorSpec(name="v"), np.random.default_rng(seed)).measured() for seed in range(2)]
    assert readings[0] != readings[1]
