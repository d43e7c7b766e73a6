import numpy as np
import pytest

from simulators.actuator import Actuator, Drives
from telemetry.site import ActuatorSpec


class Drive(Actuator):
    """One drive alone, with a clock of its own."""

    def __init__(self, spec: ActuatorSpec, seed: int = 1) -> None:
        random = np.random.default_rng(seed)
        super().__init__(Drives([spec], [random]), spec.name, 0)
        self.random = random

    def advance(self, seconds: float) -> None:
        self._drives.now_s += seconds

    def measured(self) -> float:
        return float(self._drives.measured(self.random.standard_normal(), self._at))


def vent(**changes) -> Drive:
    return Drive(ActuatorSpec(name="vent", **{"travel_s": 300, **changes}))


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
    actuator = vent(kind="switch", unit="bool", high=1.0, min_on_s=60, min_off_s=120, travel_s=0)
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
    readings = [Drive(ActuatorSpec(name="v"), seed).measured() for seed in range(2)]
    assert readings[0] != readings[1]


def switch() -> Drive:
    return vent(kind="switch", unit="bool", high=1.0, travel_s=0, min_on_s=60)


def test_drive_goes_on_where_it_stood_when_it_comes_free():
    actuator = vent()
    actuator.command(100)
    actuator.advance(90)
    actuator.stuck = True
    actuator.advance(1000)
    actuator.stuck = False
    actuator.advance(30)
    assert actuator.position == pytest.approx(40)


@pytest.mark.parametrize("without", ["power", "tripped", "OFF"])
def test_without_power_a_drive_stands_still_and_a_contactor_drops_out(without):
    for actuator, at_60_s, later in ((vent(), 20, 100), (switch(), 1, 1)):

        def has_power(given: bool, actuator=actuator) -> None:
            if without == "power":
                actuator._drives.powered[:] = given
                actuator._drives.aim()
            elif without == "OFF":
                actuator.mode = "AUTO" if given else "OFF"
            else:
                actuator.flag("tripped", not given)

        actuator.command(actuator.spec.high)
        actuator.advance(60)
        assert actuator.position == pytest.approx(at_60_s)
        has_power(False)
        actuator.advance(1000)
        assert actuator.position == pytest.approx(at_60_s if actuator.spec.kind == "position" else 0)
        has_power(True)
        actuator.advance(1000)
        assert actuator.position == pytest.approx(later)


def test_welded_contactor_runs_whatever_it_is_told():
    actuator = switch()
    actuator.flag("welded", True)
    actuator.command(0)
    actuator.advance(1)
    assert actuator.measured() == 1
    actuator.flag("welded", False)
    actuator.advance(1)
    assert actuator.measured() == 0


def test_interlock_of_the_panel_wins_over_commands_and_gives_them_back():
    actuator = vent()
    actuator._drives.force("vent", np.array([100.0]))
    actuator.command(10)
    actuator.advance(300)
    assert actuator.position == pytest.approx(100)
    assert actuator.target == 10
    actuator._drives.force("vent", np.array([np.nan]))
    actuator.advance(300)
    assert actuator.position == pytest.approx(10)


def test_thermostat_leaves_alone_what_is_local_and_waits_for_minimum_times():
    specs = [ActuatorSpec(name="pump", kind="switch", unit="bool", high=1.0, min_on_s=60)]
    drives = Drives(specs, [np.random.default_rng(seed) for seed in range(3)])
    drives.command(1.0, np.s_[0, :])
    Actuator(drives, "pump", 1).mode = "LOCAL"
    drives.now_s = 30.0
    for _ in range(2):
        drives.order("pump", np.array([0.0, 0.0, np.nan]), where=np.ones(3, bool))
        assert drives.target[0].tolist() == [0.0 if drives.now_s > 60 else 1.0, 1.0, 1.0]
        drives.now_s = 61.0


def test_a_house_moves_the_same_however_many_others_there_are_and_however_often_one_looks():
    specs = [ActuatorSpec(name=f"d{i}", travel_s=30.0 + 7 * i) for i in range(4)]
    many = Drives(specs, [np.random.default_rng(seed) for seed in range(6)])
    alone = Drives(specs, [np.random.default_rng(3)])
    random, orders = np.random.default_rng(5), np.random.default_rng(6)
    for _ in range(200):
        drive, value = int(orders.integers(4)), float(orders.uniform(0, 100))
        many.command(value, (drive, 3))
        alone.command(value, (drive, 0))
        for _ in range(int(random.integers(4))):
            many.now_s += float(random.uniform(0, 5))
            many.command(float(random.uniform(0, 100)), (int(random.integers(4)), int(random.integers(3))))
            many.aim()
        alone.now_s = many.now_s
        assert np.array_equal(many.position()[:, 3], alone.position()[:, 0])
    assert np.array_equal(many.moves[:, 3], alone.moves[:, 0])
