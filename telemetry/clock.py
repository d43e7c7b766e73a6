"""Time as an argument: the Clock everybody is given, and the engine's time built from a wall and a monotonic source."""

from collections.abc import Callable
from typing import Protocol

JUMP_LIMIT_NS = 1_000_000_000  # a wall jump over 1 s is journaled as CLOCK


class Clock(Protocol):
    """Something that tells the time in ns since 1970 UTC."""

    def now_ns(self) -> int:
        """Now. Never decreases."""
        ...


class ManualClock:
    """A clock that moves only when told: the lab's and the tests'."""

    def __init__(self, start_ns: int) -> None:
        self._now_ns = start_ns

    def now_ns(self) -> int:
        """The time it was last set to."""
        return self._now_ns

    def advance(self, delta_ns: int) -> None:
        """Move forward by delta_ns >= 0."""
        assert delta_ns >= 0
        self._now_ns += delta_ns


class EngineClock:
    """Engine time = wall at start + monotonic, never backwards, never before `not_before_ns` (the last journal entry)."""

    def __init__(self, wall_ns: Callable[[], int], monotonic_ns: Callable[[], int], not_before_ns: int = 0) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns
        self._offset_ns = max(wall_ns(), not_before_ns) - monotonic_ns()
        self._last_skew_ns = wall_ns() - self.now_ns()

    def now_ns(self) -> int:
        """Engine time; a jump of the wall clock does not move it."""
        return self._monotonic_ns() + self._offset_ns

    def jump_ns(self) -> int:
        """How far the wall clock jumped since the last call, or 0 when it moved less than 1 s."""
        skew_ns = self._wall_ns() - self.now_ns()
        jump_ns = skew_ns - self._last_skew_ns
        if abs(jump_ns) <= JUMP_LIMIT_NS:
            return 0
        self._last_skew_ns = skew_ns
        return jump_ns
