"""A thing that moves: target, true position, measured position. The position is driven by time, never set by a command.

A positioned drive runs at (high - low) / travel_s towards its target once the difference exceeds its dead zone, and stops when it
arrives. A switch follows at once but keeps its minimum on and off times. The potentiometer adds offset and noise of its own.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from telemetry.site import ActuatorSpec

DEAD_ZONE_FRACTION: Final = 0.01  # of the range: drives do not start for less
POT_NOISE_FRACTION: Final = 0.0015
POT_OFFSET_FRACTION: Final = 0.003
Mode = Literal["AUTO", "LOCAL"]


@dataclass(slots=True)
class Actuator:
    """One actuator. Units as its specification's; `stuck` holds the true position where it is, whatever the motor does."""

    spec: ActuatorSpec
    random: np.random.Generator
    position: float = 0.0
    target: float = 0.0
    mode: Mode = "AUTO"
    stuck: bool = False
    moves: int = 0
    _offset: float = 0.0
    _moving: bool = False
    _since_change_s: float = 1e9

    def __post_init__(self) -> None:
        """Start at rest with a potentiometer of its own."""
        self.position = self.target = self.spec.rest
        self._offset = POT_OFFSET_FRACTION * self._range() * float(self.random.standard_normal())

    def _range(self) -> float:
        return self.spec.high - self.spec.low

    def command(self, value: float) -> None:
        """A new target; the caller has checked range and permission (`waits_s` for switches)."""
        assert self.spec.low <= value <= self.spec.high
        if self.spec.kind == "switch" and value != self.target:
            self._since_change_s = 0.0
        self.target = value

    def stop(self) -> None:
        """Stop where it is: the fail-safe "hold"."""
        self.target = min(self.spec.high, max(self.spec.low, self.position))
        self._moving = False

    def waits_s(self, value: float) -> float:
        """How long a switch must still keep its state before it may take `value`; 0 for now, and for positioned drives."""
        if self.spec.kind != "switch" or value == self.target:
            return 0.0
        least_s = self.spec.min_on_s if self.target > self.spec.low else self.spec.min_off_s
        return max(0.0, least_s - self._since_change_s)

    def advance(self, dt_s: float) -> None:
        """Let `dt_s` pass."""
        self._since_change_s += dt_s
        if self.stuck:
            return
        error = self.target - self.position
        if not self._moving and abs(error) > DEAD_ZONE_FRACTION * self._range():
            self._moving = True
            self.moves += 1
        if not self._moving:
            return
        reach = abs(error) if self.spec.travel_s <= 0 else self._range() * dt_s / self.spec.travel_s
        self.position += min(reach, abs(error)) * (1 if error > 0 else -1)
        if reach >= abs(error):
            self._moving = False

    def measured(self) -> float:
        """What the feedback point says: a potentiometer's reading, or the contact of a switch."""
        if self.spec.kind == "switch":
            return round(self.position)
        return self.position + self._offset + POT_NOISE_FRACTION * self._range() * float(self.random.standard_normal())

    def fraction(self) -> float:
        """True position 0..1 of the range: what the physics sees."""
        return (self.position - self.spec.low) / self._range()
