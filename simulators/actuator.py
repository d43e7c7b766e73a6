"""Things that move, of n houses at once: target, true position, measured position. Time drives a position, never a command.

A positioned drive runs at (high - low) / travel_s towards its target once the difference exceeds its dead zone, and stops when it
arrives. A switch keeps its minimum on and off times. The potentiometer adds offset and noise of its own. Where a drive stands is a
function of its last order and of time, so it does not matter how often anybody looks.

Whoever commands, these come first, in this order: a stuck drive, no power (power cut, switch of the panel at OFF, thermal trip: a drive
stands still, a contactor drops out), a welded contactor, an interlock of the panel.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from telemetry.site import ActuatorSpec

Array = NDArray[np.float64]
DEAD_ZONE_FRACTION: Final = 0.01  # of the range: drives do not start for less
POT_NOISE_FRACTION: Final = 0.0015
POT_OFFSET_FRACTION: Final = 0.003
AT_ONCE_S: Final = 1e-9
ARRIVED_S: Final = 1e-3  # after its time a drive has arrived, whatever rounding says
Mode = Literal["AUTO", "LOCAL", "OFF"]
MODES: Final[tuple[Mode, ...]] = ("AUTO", "LOCAL", "OFF")


class Drives:
    """The drives of n houses, arrays (actuators, houses), units as their specifications'; `random[i]` is house i's.

    `now_s` is moved by the owner, never back. `at` in the methods is any index of such an array: one drive, or all.
    """

    def __init__(self, specs: Sequence[ActuatorSpec], random: Sequence[np.random.Generator], now_s: float = 0.0) -> None:
        def column(name: str) -> Array:
            return np.repeat(np.array([getattr(spec, name) for spec in specs], float)[:, None], len(random), axis=1)

        self._specs = tuple(specs)
        self.specs = {spec.name: spec for spec in specs}
        self.numbers = {spec.name: number for number, spec in enumerate(specs)}
        self.now_s = now_s
        self._low, self._range = column("low"), column("high") - column("low")
        self._rate = self._range / np.maximum(column("travel_s"), AT_ONCE_S)
        self._is_switch = np.array([[spec.kind == "switch"] * len(random) for spec in specs], bool).reshape(self._low.shape)
        self.target = column("rest")  # of the last order
        self.forced = np.full_like(self.target, np.nan)  # by an interlock of the panel; NaN: none
        self.changed_s = np.full_like(self.target, -1e9)  # when a switch got another order
        self.moves = np.zeros(self.target.shape, np.int64)
        self.mode = np.zeros(self.target.shape, np.int8)  # index into MODES
        self.stuck, self.tripped, self.welded = (np.zeros(self.target.shape, bool) for _ in range(3))
        self.powered = np.ones(self.target.shape, bool)
        self._goal, self._from = self.target.copy(), self.target.copy()
        self._since_s = np.full_like(self.target, now_s)
        self._rest_s: float | None = None  # when all have arrived; None: not known
        self._at_rest: Mapping[str, Array] | None = None  # their fractions from then on
        own = np.array([generator.standard_normal(len(specs)) for generator in random]).reshape(len(random), len(specs))
        self._offset = POT_OFFSET_FRACTION * self._range * own.T

    def position(self, at: Any = np.s_[:, :]) -> Any:
        """Where they truly are now."""
        reach = self._rate[at] * (self.now_s - self._since_s[at])
        way = self._goal[at] - self._from[at]
        return np.where(np.abs(way) <= reach, self._goal[at], self._from[at] + np.sign(way) * reach)

    def fractions(self) -> Mapping[str, Array]:
        """True positions 0..1 of their ranges by actuator, (houses,) each: what the physics sees."""
        if self._at_rest is not None:
            return self._at_rest
        if self._rest_s is None:
            takes_s = np.abs(self._goal - self._from) / self._rate
            self._rest_s = float(np.max(self._since_s + takes_s, initial=-np.inf)) + ARRIVED_S
        shares = dict(zip(self.numbers, (self.position() - self._low) / self._range, strict=True))
        if self.now_s >= self._rest_s:
            self._at_rest = shares
        return shares

    def measured(self, noise: Any, at: Any = np.s_[:, :]) -> Any:
        """What feedback says, with this standard normal noise: a potentiometer's reading, or the contact of a switch."""
        position = self.position(at)
        pot = position + self._offset[at] + POT_NOISE_FRACTION * self._range[at] * noise
        return np.where(self._is_switch[at], np.rint(position), pot)

    def command(self, value: Any, at: Any) -> None:
        """A new target; the caller has checked range and permission (`waits_s` for switches)."""
        self.changed_s[at] = np.where(self._is_switch[at] & (self.target[at] != value), self.now_s, self.changed_s[at])
        self.target[at] = value
        self.aim(at)

    def order(self, name: str, targets: Array, *, where: NDArray[np.bool_]) -> None:
        """Orders of a thermostat to houses; NaN leaves alone. A switch that must keep its state is asked again later."""
        number = self.numbers[name]
        for house in np.flatnonzero(where & np.isfinite(targets) & (self.target[number] != targets)).tolist():
            at = (number, house)
            if MODES[self.mode[at]] == "AUTO" and self.waits_s(float(targets[house]), at) <= 0:
                self.command(targets[house], at)

    def force(self, name: str, targets: Array) -> None:
        """What the panel forces whoever commands; NaN = nothing any more. It does not wait for minimum times."""
        number = self.numbers[name]
        if self.forced[number].tobytes() != targets.tobytes():  # NaN is equal to itself here
            self.forced[number] = targets
            self.aim(np.s_[number, :])

    def stop(self, at: Any) -> None:
        """Stop where it is: the fail-safe "hold"."""
        position = self.position(at)
        self.target[at] = np.clip(position, self._low[at], self._low[at] + self._range[at])
        self._go(at, self.target[at], position)

    def waits_s(self, value: float, at: tuple[int, int]) -> float:
        """How long a switch must still keep its state before it may take `value`; 0 for now, and for positioned drives."""
        if not self._is_switch[at] or value == self.target[at]:
            return 0.0
        spec = self._specs[at[0]]
        least_s = spec.min_on_s if self.target[at] > self._low[at] else spec.min_off_s
        return max(0.0, least_s - (self.now_s - float(self.changed_s[at])))

    def aim(self, at: Any = np.s_[:, :]) -> None:
        """Take up anew where drives go: after an order, or after a flag changed."""
        position, goal = self.position(at), self._goal[at]
        without = ~self.powered[at] | self.tripped[at] | (self.mode[at] == MODES.index("OFF"))
        wanted = np.where(np.isnan(self.forced[at]), self.target[at], self.forced[at])
        wanted = np.where(self.welded[at], self._low[at] + self._range[at], wanted)
        wanted = np.where(without & self._is_switch[at] & ~self.welded[at], self._low[at], wanted)
        holds = self.stuck[at] | (without & ~self._is_switch[at])
        is_moving = position != goal
        starts = is_moving | (np.abs(wanted - position) > DEAD_ZONE_FRACTION * self._range[at])
        self.moves[at] += starts & ~is_moving & ~holds
        self._go(at, np.where(holds, position, np.where(starts, wanted, goal)), position)

    def _go(self, at: Any, goal: Any, position: Any) -> None:
        # What keeps its goal keeps its way: rounding must not depend on who else was looked at.
        is_new = goal != self._goal[at]
        self._from[at] = np.where(is_new, position, self._from[at])
        self._since_s[at] = np.where(is_new, self.now_s, self._since_s[at])
        self._goal[at] = goal
        self._rest_s = self._at_rest = None


class Actuator:
    """One drive of one house."""

    __slots__ = ("_at", "_drives", "spec")

    def __init__(self, drives: Drives, name: str, house: int) -> None:
        self.spec = drives.specs[name]
        self._drives, self._at = drives, (drives.numbers[name], house)

    @property
    def position(self) -> float:
        """Where it truly is."""
        return float(self._drives.position(self._at))

    @property
    def target(self) -> float:
        """Of its last order."""
        return float(self._drives.target[self._at])

    @property
    def moves(self) -> int:
        """How often it started."""
        return int(self._drives.moves[self._at])

    @property
    def mode(self) -> Mode:
        """The switch of the panel."""
        return MODES[int(self._drives.mode[self._at])]

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._drives.mode[self._at] = MODES.index(mode)
        self._drives.aim(self._at)

    @property
    def stuck(self) -> bool:
        """It stands where it is, whatever the motor does."""
        return bool(self._drives.stuck[self._at])

    @stuck.setter
    def stuck(self, stuck: bool) -> None:
        self.flag("stuck", stuck)

    def flag(self, name: Literal["stuck", "tripped", "welded"], value: bool) -> None:
        """Set or clear what is wrong with it."""
        getattr(self._drives, name)[self._at] = value
        self._drives.aim(self._at)

    def command(self, value: float) -> None:
        """A new target; the caller has checked range and permission (`waits_s` for switches)."""
        assert self.spec.low <= value <= self.spec.high
        self._drives.command(value, self._at)

    def stop(self) -> None:
        """Stop where it is: the fail-safe "hold"."""
        self._drives.stop(self._at)

    def waits_s(self, value: float) -> float:
        """How long a switch must still keep its state before it may take `value`; 0 for now, and for positioned drives."""
        return self._drives.waits_s(value, self._at)


def actuators(drives: Drives, house: int) -> Mapping[str, Actuator]:
    """The drives of one house by name."""
    return {name: Actuator(drives, name, house) for name in drives.numbers}
