import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.actuator import Drives, actuators
from simulators.obedience import REMEMBERED_MAX, Obedience
from telemetry.site import ActuatorSpec
from telemetry.wire.message import Command, Lease

S = 1_000_000_000
SPECS = [
    ActuatorSpec(name="vent", travel_s=100, fail_safe="hold"),
    ActuatorSpec(name="valve", travel_s=10, fail_safe=0),
    ActuatorSpec(name="pump", kind="switch", unit="bool", high=1, min_on_s=60, min_off_s=60, fail_safe=1),
]


SABOTAGE = os.environ.get("FIELDLOOM_SABOTAGE", "")


def device(sabotage=SABOTAGE) -> Obedience:
    return Obedience(actuators(Drives(SPECS, [np.random.default_rng(0)]), 0), sabotage=sabotage)


def pass_time(obedience, seconds):
    obedience._actuators["pump"]._drives.now_s += seconds


def command(number=0, actuator="vent", value=50.0, epoch=10, expires_s=30.0) -> Command:
    return Command(id=f"{epoch}-{number}", epoch=epoch, actuator=actuator, value=value, expires_s=expires_s)


def give(obedience, order, now_s=0.0, received_s=None, left_s=None):
    received_s = now_s if received_s is None else received_s
    return obedience.receive(order, received_ns=int(received_s * S), now_ns=int(now_s * S), left_s=left_s)


def outcome(answers):
    return [(answer.status, answer.reason) for answer in answers]


def test_accepted_command_moves_the_target():
    obedience = device()
    assert outcome(give(obedience, command())) == [("accepted", "")]
    assert obedience._actuators["vent"].target == 50


def test_repeated_id_is_answered_the_same_and_executed_once():
    obedience = device()
    give(obedience, command())
    obedience._actuators["vent"].command(0)
    assert outcome(give(obedience, command(), now_s=5)) == [("accepted", "")]
    assert obedience._actuators["vent"].target == 0


@pytest.mark.parametrize(("received_s", "left_s"), [(0.0, None), (40.0, 0.0), (39.0, 1.0)])
def test_command_that_waited_past_its_expiry_is_not_executed(received_s, left_s):
    obedience = device()
    assert [a.status for a in give(obedience, command(), now_s=40, received_s=received_s, left_s=left_s)] == ["expired"]
    assert obedience._actuators["vent"].target == 0


def test_lower_epoch_is_refused_after_a_higher_command_or_lease():
    obedience = device()
    obedience.lease(Lease(epoch=11, lifetime_s=15), 0)
    assert outcome(give(obedience, command(epoch=10))) == [("refused", "epoch 10 below 11")]
    assert [a.status for a in give(obedience, command(epoch=12))] == ["accepted"]
    assert outcome(give(obedience, command(1, epoch=11))) == [("refused", "epoch 11 below 12")]


def test_ghost_of_an_old_core_does_not_renew_the_lease():
    obedience = device()
    obedience.lease(Lease(epoch=11, lifetime_s=15), 0)
    obedience.lease(Lease(epoch=10, lifetime_s=15), 14 * S)
    obedience.advance(16 * S)
    assert obedience.is_local


def test_after_three_missed_leases_each_actuator_takes_its_fail_safe():
    obedience = device()
    obedience.lease(Lease(epoch=10, lifetime_s=15), 0)
    give(obedience, command(0, "vent", 100))
    give(obedience, command(1, "valve", 80))
    pass_time(obedience, 10)
    obedience.advance(15 * S - 1)
    assert not obedience.is_local
    obedience.advance(15 * S)
    assert obedience.is_local
    assert {name: a.target for name, a in obedience._actuators.items()} == {"vent": pytest.approx(10), "valve": 0, "pump": 1}
    assert outcome(give(obedience, command(2), now_s=16)) == [("refused", "no lease")]
    obedience.lease(Lease(epoch=10, lifetime_s=15), 20 * S)
    assert not obedience.is_local
    assert [a.status for a in give(obedience, command(3), now_s=20)] == ["accepted"]


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (command(actuator="door"), "unknown actuator door"),
        (command(value=101.0), "value outside 0.0..100.0"),
        (command(value=math.nan), "value outside 0.0..100.0"),
        (command(expires_s=math.inf), "expiry is not a number of seconds"),
    ],
)
def test_nonsense_is_refused_with_its_reason(order, reason):
    assert outcome(give(device(), order)) == [("refused", reason)]


def test_panel_switch_wins_over_commands_and_fail_safe():
    obedience = device()
    obedience._actuators["valve"].mode = "LOCAL"
    obedience._actuators["valve"].command(40)
    assert outcome(give(obedience, command(actuator="valve"))) == [("refused", "switched to local at the panel")]
    obedience.lease(Lease(epoch=10, lifetime_s=1), 0)
    obedience.advance(2 * S)
    assert obedience._actuators["valve"].target == 40


def test_drive_that_is_off_at_the_panel_takes_neither_commands_nor_fail_safe():
    obedience = device()
    obedience._actuators["pump"].mode = "OFF"
    assert outcome(give(obedience, command(actuator="pump", value=1))) == [("refused", "switched off at the panel")]
    obedience.lease(Lease(epoch=10, lifetime_s=1), 0)
    obedience.advance(2 * S)
    assert obedience._actuators["pump"].target == 0


def test_after_a_power_cut_drives_take_their_fail_safe_and_no_command_is_done_twice():
    obedience = device()
    give(obedience, command(0, "valve", 80))
    give(obedience, command(1, "pump", 1))
    assert give(obedience, command(2, "pump", 0)) == []
    obedience.start_anew()
    assert {name: a.target for name, a in obedience._actuators.items()} == {"vent": 0, "valve": 0, "pump": 1}
    assert outcome(give(obedience, command(0, "valve", 80))) == [("accepted", "")]
    assert obedience._actuators["valve"].target == 0
    assert outcome(give(obedience, command(3, "valve", 80, epoch=9))) == [("refused", "epoch 9 below 10")]


def test_switch_waits_for_its_minimum_time_then_obeys_expires_or_is_superseded():
    obedience = device()
    pump = obedience._actuators["pump"]
    assert [a.status for a in give(obedience, command(0, "pump", 1))] == ["accepted"]
    pass_time(obedience, 10)
    assert give(obedience, command(1, "pump", 0, expires_s=20), now_s=10) == []
    assert give(obedience, command(1, "pump", 0, expires_s=20), now_s=11) == []
    assert outcome(give(obedience, command(2, "pump", 0, expires_s=100), now_s=12)) == [("superseded", "10-2")]
    assert obedience.advance(31 * S) == []
    pass_time(obedience, 50)
    assert [(a.id, a.status) for a in obedience.advance(62 * S)] == [("10-2", "accepted")]
    pass_time(obedience, 1)
    assert give(obedience, command(3, "pump", 1, expires_s=20), now_s=63) == []
    assert [(a.id, a.status) for a in obedience.advance(83 * S)] == [("10-3", "expired")]
    assert pump.target == 0


def test_memory_of_ids_is_bounded():
    obedience = device()
    for number in range(REMEMBERED_MAX + 5):
        give(obedience, command(number))
    assert len(obedience._answers) == len(obedience.executed) == REMEMBERED_MAX


@pytest.mark.parametrize(
    ("sabotage", "order"), [("device_ignores_expiry", command(expires_s=0.0)), ("device_ignores_epoch", command(epoch=1))]
)
def test_each_saboteur_breaks_its_promise(sabotage, order):
    for name, status in (("", {"expired", "refused"}), (sabotage, {"accepted"})):
        obedience = device(name)
        obedience.lease(Lease(epoch=5, lifetime_s=15), 0)
        order_of_epoch = order if order.epoch == 1 else command(expires_s=0.0, epoch=5)
        assert {a.status for a in give(obedience, order_of_epoch)} <= status


def test_of_ten_thousand_queued_commands_none_is_executed_after_its_expiry():
    random = np.random.default_rng(27)
    obedience, now_s = device(), 1000.0
    for number in range(10_000):
        now_s += 1.0
        expires_s, lay_s, left_s = random.uniform(0, 30), random.uniform(0, 60), random.uniform(0, 30)
        order = command(number, "vent", 1.0, expires_s=expires_s)
        (answer,) = give(obedience, order, now_s=now_s, received_s=now_s - lay_s, left_s=left_s)
        assert (answer.status == "accepted") == (lay_s < min(expires_s, left_s))
        assert (order.id in obedience.executed) == (answer.status == "accepted")


steps = st.lists(
    st.tuples(
        st.integers(0, 8),  # command number: repeats happen
        st.sampled_from(["vent", "valve", "pump"]),
        st.integers(1, 4),  # epoch
        st.floats(0, 40),  # expires_s
        st.floats(0, 60),  # how long it lay between receipt and handling
        st.floats(0, 20),  # time that passes before
        st.sampled_from(["command", "lease", "nothing"]),
    ),
    max_size=40,
)


@given(steps)
def test_never_executed_twice_late_fenced_or_without_lease(actions):
    obedience, now_s, deadlines = device(), 100.0, {}
    for number, actuator, epoch, expires_s, lay_s, passes_s, kind in actions:
        now_s += passes_s
        pass_time(obedience, passes_s)
        before = dict(obedience.executed)
        leased = obedience.has_lease(int(now_s * S))
        if kind == "lease":
            obedience.lease(Lease(epoch=epoch, lifetime_s=15), int(now_s * S))
        elif kind == "command":
            order = command(number, actuator, 1.0, epoch, expires_s)
            deadlines.setdefault(order.id, now_s - lay_s + expires_s)
            give(obedience, order, now_s=now_s, received_s=now_s - lay_s)
        else:
            obedience.advance(int(now_s * S))
        for executed in set(obedience.executed) - set(before):
            assert int(executed.split("-")[0]) == obedience.epoch
            assert deadlines[executed] > now_s - 1e-6
            assert leased or kind == "lease"
        for executed, at in before.items():
            assert obedience.executed[executed] == at
