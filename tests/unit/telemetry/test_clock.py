"""Engine time: wall at start plus monotonic, and nothing else moves it."""

import pytest

from telemetry.clock import EngineClock, ManualClock

S = 1_000_000_000


class Machine:
    def __init__(self, wall: int) -> None:
        self.wall, self.monotonic = wall, 77

    def run(self, ns: int) -> None:
        self.wall += ns
        self.monotonic += ns

    def clock(self, not_before: int = 0) -> EngineClock:
        return EngineClock(lambda: self.wall, lambda: self.monotonic, not_before)


def test_it_runs_with_the_machine() -> None:
    machine = Machine(1000 * S)
    clock = machine.clock()
    machine.run(5 * S)
    assert (clock.now_ns(), clock.jump_ns()) == (1005 * S, 0)


@pytest.mark.parametrize("jump_s", [-3 * 3600, 3 * 3600, 2, -2])
def test_a_jump_of_the_wall_is_told_once_and_moves_nothing(jump_s: int) -> None:
    machine = Machine(10**6 * S)
    clock = machine.clock()
    machine.wall += jump_s * S
    machine.run(S)
    assert clock.now_ns() == (10**6 + 1) * S
    assert [clock.jump_ns(), clock.jump_ns()] == [jump_s * S, 0]


def test_small_steps_add_up_to_a_jump() -> None:
    machine = Machine(1000 * S)
    clock = machine.clock()
    told = []
    for _ in range(5):
        machine.wall += S // 2
        told.append(clock.jump_ns())
    assert sum(told) == 3 * S // 2
    assert told.count(0) == 4


def test_it_begins_no_earlier_than_the_journal_ends() -> None:
    machine = Machine(1000 * S)
    clock = machine.clock(not_before=2000 * S)
    assert clock.now_ns() == 2000 * S
    assert clock.jump_ns() == 0
    machine.run(S)
    assert clock.now_ns() == 2001 * S


def test_the_manual_clock_moves_forward_only() -> None:
    clock = ManualClock(5)
    clock.advance(3)
    assert clock.now_ns() == 8
    with pytest.raises(AssertionError):
        clock.advance(-1)
