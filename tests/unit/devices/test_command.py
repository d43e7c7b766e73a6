"""The command table in motion: one situation per test."""

import pytest

from devices.command import Commands
from devices.lifecycle import FAULTS, STATES, TABLE
from telemetry.frame import Verdict
from telemetry.plan import NS_PER_S
from telemetry.quality import BAD
from telemetry.record import Ack, Event, Start
from tests.faults.command_world import T0, Step, World, plan_of

VENT, FAN, PUMP, DOSER, OLD = "farm/h-0/vent", "farm/h-0/fan", "farm/h-0/pump", "farm/h-0/doser", "farm/h-0/old"
DEVICE = "farm/h-0"


def at(second: float, **fields) -> Step:
    return Step(T0 + int(second * NS_PER_S), **fields)


def begun(**fields) -> World:
    world = World(**fields)
    world.run([at(0, record=Start(7)), at(0, record=Event("drained"))])
    return world


def ack(second: float, command: str, status: str = "accepted") -> Step:
    return at(second, record=Ack(DEVICE, command, status))


def ticks(start: int, stop: int) -> list[Step]:
    return [at(s) for s in range(start, stop)]


def test_table_is_closed_over_its_states() -> None:
    assert {s for s, _ in TABLE} | {after for after, _ in TABLE.values()} == set(STATES)
    assert set(FAULTS) <= set(STATES)


def test_command_is_confirmed_by_measured_feedback() -> None:
    world = begun()
    first = world.run([at(1).demand("R1", VENT, 50.0)])
    ((_, command),) = first.commands
    assert (command.id, command.epoch, command.expires_s, command.value) == (f"7-2-{VENT}", 7, 30.0, 50.0)
    result = world.run([
        ack(1.2, command.id),
        at(2, device=0, value=50.0, verdict=int(Verdict.LATE)),
        at(3, device=0, value=50.0, quality=BAD),
        at(4, device=0, value=30.0),
        at(15, device=0, value=48.0),
        *ticks(16, 200),
    ])  # fmt: skip
    assert first.states(VENT) + result.states(VENT) == ["sent", "accepted", "confirmed"]
    assert result.of("command")[-1].time_ns == T0 + 15 * NS_PER_S
    assert not result.commands
    assert not result.of("fault")


def test_a_measurement_from_before_the_command_confirms_nothing() -> None:
    world = begun()
    ((_, command),) = world.run([at(5).demand("R1", VENT, 50.0)]).commands
    result = world.run([ack(5.2, command.id), at(6, device=0, value=50.0, age_ns=2 * NS_PER_S)])
    assert result.states(VENT) == ["accepted"]
    assert world.run([at(7, device=0, value=50.0, age_ns=2 * NS_PER_S)]).states(VENT) == ["confirmed"]


def test_no_answer_is_sent_three_times_then_lost_with_fail_safe() -> None:
    result = begun().run([at(1).demand("R1", VENT, 50.0), *ticks(2, 33)])
    sent = [c for _, c in result.commands]
    assert [c.id for c in sent[:3]] == [f"7-2-{VENT}"] * 3
    assert [c.expires_s for c in sent[:3]] == [30.0, 20.0, 10.0]
    assert sent[3].value == 10.0
    assert sent[3].id != sent[0].id
    assert result.states(VENT) == ["sent", "sent", "sent", "lost", "failed_safe", "sent"]
    (fault,) = result.of("fault")
    assert fault.body["fault"] == "COMMAND_LOST"
    assert fault.time_ns == T0 + 31 * NS_PER_S


def test_late_answer_is_recorded_and_changes_nothing() -> None:
    world = begun()
    result = world.run([at(1).demand("R1", VENT, 50.0), *ticks(2, 33)])
    late = world.run([ack(33, result.commands[0][1].id)])
    assert late.states(VENT) == ["failed_safe"]
    assert late.decisions[0].body["late_answer"] == "accepted"
    assert world.stages[1].late_acks == 1


def test_answer_with_an_unknown_id_or_of_another_device_is_counted() -> None:
    world = begun()
    command = world.run([at(1).demand("R1", VENT, 50.0)]).commands[0][1]
    result = world.run([ack(2, "nonsense"), at(2, record=Ack("farm/h-1", command.id, "accepted")), ack(2, command.id, "odd")])
    assert world.stages[1].unknown_acks == 3
    assert not result.decisions


def test_accepted_but_not_moved_fails_safe() -> None:
    world = begun()
    command = world.run([at(1).demand("R1", VENT, 50.0)]).commands[0][1]
    result = world.run([ack(2, command.id), at(3, device=0, value=0.0), *ticks(4, 49)])
    (fault,) = result.of("fault")
    assert fault.body["fault"] == "FAIL_TO_MOVE"
    assert fault.time_ns == T0 + int((2 + 1.5 * 20 + 10 + 5) * NS_PER_S)
    assert [c.value for _, c in result.commands] == [10.0]


def test_failed_position_is_tried_again_after_a_minute() -> None:
    world = begun()
    result = world.run([at(1).demand("R1", VENT, 50.0), *ticks(2, 33)])
    fail_safe = result.commands[-1][1]
    result = world.run([ack(33, fail_safe.id), at(40, device=0, value=10.0), *ticks(41, 93)])
    assert [(c.value, c.expires_s) for _, c in result.commands][:1] == [(50.0, 30.0)]


@pytest.mark.parametrize("status", ["refused", "expired", "superseded"])
def test_answer_other_than_accepted_is_a_fault_and_fails_safe_once(status: str) -> None:
    world = begun()
    command = world.run([at(1).demand("R1", VENT, 50.0)]).commands[0][1]
    result = world.run([ack(2, command.id, status)])
    assert result.states(VENT) == [status, "failed_safe", "sent"]
    assert [d.body["fault"] for d in result.of("fault")] == [f"COMMAND_{status.upper()}"]
    ((_, order),) = result.commands
    assert order.value == 10.0
    again = world.run([ack(3, order.id, status), *ticks(4, 50)])
    assert again.states(VENT) == [status]
    assert not again.commands


def test_new_target_supersedes_and_waits_for_the_travel() -> None:
    world = begun()
    world.run([at(1).demand("R1", VENT, 100.0)])
    result = world.run([at(2).demand("R1", VENT, 20.0), *ticks(3, 30)])
    assert [(d.body["state"], d.time_ns) for d in result.of("command", VENT)][:3] == [
        ("sent", T0 + 11 * NS_PER_S), ("superseded", T0 + 21 * NS_PER_S), ("sent", T0 + 21 * NS_PER_S),
    ]  # fmt: skip


def test_equipment_protection_does_not_wait_for_the_travel() -> None:
    world = begun()
    world.run([at(1).demand("R1", VENT, 100.0)])
    result = world.run([at(2).demand("R2", VENT, 0.0, level=2)])
    assert [c.value for _, c in result.commands] == [0.0]


def test_small_step_is_not_sent_but_an_end_is() -> None:
    world = begun()
    world.run([at(1).demand("R1", VENT, 50.0)])
    command = f"7-2-{VENT}"
    world.run([ack(2, command), at(20, device=0, value=50.0)])
    assert not world.run([at(60).demand("R1", VENT, 51.0)]).commands
    second = world.run([at(61).demand("R1", VENT, 1.0)]).commands[0][1]
    world.run([ack(62, second.id), at(80, device=0, value=1.0)])
    assert [c.value for _, c in world.run([at(100).demand("R1", VENT, 0.0)]).commands] == [0.0]


def test_switch_respects_minimum_on_and_off_times() -> None:
    world = begun()
    on = world.run([at(1).demand("R1", FAN, 1.0)]).commands[0][1]
    result = world.run([ack(1, on.id), at(2).demand("R1", FAN, None), *ticks(3, 30)])
    off = result.of("command", FAN)
    assert [(d.body["state"], d.time_ns) for d in off][1:3] == [("queued", T0 + 2 * NS_PER_S), ("sent", T0 + 21 * NS_PER_S)]
    result = world.run([ack(30, off[2].body["id"]), at(31).demand("R1", FAN, 1.0), *ticks(32, 60)])
    assert [d.time_ns for d in result.of("command", FAN) if d.body["state"] == "sent"] == [T0 + 51 * NS_PER_S]


def test_minimum_times_hold_over_a_restart() -> None:
    world = begun()
    ((_, command),) = world.run([at(1).demand("R1", FAN, 1.0)]).commands
    world.run([ack(1.2, command.id)])
    world.restart_from_snapshot()
    steps = [at(3, record=Start(8)), at(4, record=Event("drained")), at(5), at(6).demand("R1", FAN, 0.0), *ticks(7, 30)]
    sent = [d for d in world.run(steps).of("command", FAN) if d.body.get("sends") == 1]
    assert [(d.body["value"], d.time_ns) for d in sent] == [(1.0, T0 + 5 * NS_PER_S), (0.0, T0 + 21 * NS_PER_S)]


def test_nothing_is_sent_while_blind_and_the_current_target_after() -> None:
    world = World()
    result = world.run([
        at(0, record=Start(7)), at(1).demand("R1", VENT, 30.0), at(2).demand("R1", VENT, 60.0),
        at(3, record=Event("drained")), at(4),
    ])  # fmt: skip
    assert [(i, c.value) for i, c in result.commands] == [(4, 60.0)]
    assert result.states(VENT) == ["queued", "superseded", "queued", "sent"]


def test_unanswered_pulse_without_dedupe_is_lost_and_never_sent_twice() -> None:
    world = begun()
    result = world.run([at(1).demand("R1", DOSER, 5.0), *ticks(2, 300)])
    assert len(result.commands) == 1
    assert result.states(DOSER) == ["sent", "lost", "failed_safe"]
    assert result.of("fault")[0].body["fault"] == "COMMAND_LOST"


def test_pulse_is_given_when_its_demand_begins_and_not_when_another_ends() -> None:
    world = begun()
    first = world.run([at(1).demand("R1", PUMP, 5.0)]).commands
    world.run([ack(1, first[0][1].id)])
    assert not world.run([at(2).demand("R2", PUMP, 3.0)]).commands
    assert not world.run([at(3).demand("R1", PUMP, None)]).commands
    assert len(world.run([at(4).demand("R2", PUMP, None), at(5).demand("R2", PUMP, 3.0)]).commands) == 1


def test_restart_resends_a_pulse_under_its_own_id_only_when_the_device_dedupes() -> None:
    world = begun()
    sent = world.run([at(1).demand("R1", PUMP, 5.0).demand("R1", DOSER, 5.0)]).commands
    pump = next(c for _, c in sent if c.actuator == PUMP)
    result = world.run([at(3, record=Start(8)), at(4, record=Event("drained")), *ticks(5, 20)])
    assert {(c.id, c.epoch, c.expires_s) for _, c in result.commands} == {(pump.id, 8, 26.0), (pump.id, 8, 16.0)}
    assert result.states(DOSER) == ["lost", "failed_safe"]
    assert len(result.of("fault", DOSER)) == 1


def test_restart_says_positions_again_under_the_new_epoch() -> None:
    world = begun()
    first = world.run([at(1).demand("R1", VENT, 50.0)]).commands[0][1]
    result = world.run([at(3, record=Start(8)), at(4, record=Event("drained")), at(30)])
    assert result.states(VENT)[:1] == ["superseded"]
    ((_, again),) = [c for c in result.commands if c[1].actuator == VENT]
    assert again.epoch == 8
    assert again.id.startswith("8-")
    assert again.id != first.id


def test_timer_in_the_gap_before_start_publishes_nothing_under_the_old_epoch() -> None:
    world = begun()
    world.run([at(1).demand("R1", VENT, 50.0)])
    result = world.run([at(35, record=Start(8)), at(36), at(37, record=Event("drained")), *ticks(38, 60)])
    assert "lost" in result.states(VENT)
    assert {c.epoch for _, c in result.commands} == {8}


def test_device_without_expiry_gets_nothing_until_it_is_proven_online() -> None:
    world = begun()
    result = world.run([at(1).demand("R1", OLD, 40.0), *ticks(2, 40)])
    assert not result.commands
    assert result.states(OLD) == ["queued", "expired"]
    assert result.of("fault")[0].body["fault"] == "COMMAND_EXPIRED"
    assert [c.value for _, c in world.run([at(50, device=0, value=0.0), at(51)]).commands] == [40.0]
    world.run([at(52, record=Event("offline", DEVICE))])
    assert not world.run([at(90).demand("R1", OLD, 80.0)]).commands
    assert [c.value for _, c in world.run([at(91, record=Event("birth", DEVICE))]).commands if c.actuator == OLD] == [80.0]


def test_reborn_device_is_told_its_positions_again() -> None:
    world = begun()
    command = world.run([at(1).demand("R1", VENT, 50.0)]).commands[0][1]
    world.run([ack(2, command.id), at(20, device=0, value=50.0)])
    assert [c.value for _, c in world.run([at(60, record=Event("birth", DEVICE))]).commands] == [50.0]


def test_long_blindness_makes_every_position_be_said_again() -> None:
    world = begun()
    command = world.run([at(1).demand("R1", VENT, 50.0)]).commands[0][1]
    world.run([ack(2, command.id), at(20, device=0, value=50.0)])
    result = world.run([at(60, record=Event("broker_lost")), at(80, record=Event("drained")), at(81)])
    assert [c.value for _, c in result.commands] == [50.0]


@pytest.mark.parametrize("back_s", [12, 40])
def test_what_failed_while_we_were_away_is_tried_again_when_sight_returns(back_s: int) -> None:
    """Core stood still: its command ran out unheard, and so did the fail-safe. Neither says anything about the device."""
    world = begun(plan=plan_of([{"name": "vent", "expiry_s": 5, "fail_safe": 10.0}]))
    world.run([at(1).demand("R1", VENT, 50.0)])
    result = world.run([at(back_s, record=Event("broker_lost")), at(back_s + 1, record=Event("drained")), at(back_s + 2)])
    assert result.states(VENT) == ["lost", "failed_safe", "sent", "lost", "sent"]
    assert [c.value for _, c in result.commands] == [50.0]
    assert len(result.of("fault")) == 2


def test_what_failed_before_we_were_away_waits_for_its_minute() -> None:
    world = begun()
    lost = world.run([at(1).demand("R1", VENT, 50.0), *ticks(2, 63)])
    assert lost.states(VENT)[-1] == "lost"
    result = world.run([at(64, record=Event("broker_lost")), at(65, record=Event("drained")), *ticks(66, 100)])
    assert not result.commands


def test_silent_device_is_reported_although_targets_keep_changing() -> None:
    steps = [at(1).demand("R1", FAN, 1.0)]
    steps += [at(2 + 5 * i).demand("R2", VENT, 20.0 + 10 * (i % 7), level=3) for i in range(7)]
    result = begun().run(sorted(steps, key=lambda s: s.time_ns))
    assert [d.time_ns for d in result.of("fault", VENT)] == [T0 + 32 * NS_PER_S]


def test_actuator_that_leaves_the_configuration_ends_its_command() -> None:
    world = begun()
    world.run([at(1).demand("R1", VENT, 50.0)])
    smaller = plan_of([{"name": "fan", "kind": "switch", "high": 1}])
    world.plan = smaller
    for stage in world.stages:
        stage.configure(smaller)
    result = world.run([at(2), *ticks(3, 60)])
    assert result.states(VENT) == ["superseded"]
    assert not world.stages[1].open_commands()


def test_recorded_site_is_never_moved() -> None:
    world = World(plan_of(origin="REPLAY"))
    world.run([at(0, record=Start(7)), at(0, record=Event("drained"))])
    result = world.run([at(1).demand("R1", VENT, 50.0), *ticks(2, 20)])
    assert not result.decisions
    assert not result.commands


def test_unknown_saboteur_is_no_saboteur() -> None:
    assert Commands(sabotage=frozenset({"nonsense"}))._sabotage == frozenset()
