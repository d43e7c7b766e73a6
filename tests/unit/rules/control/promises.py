"""What every controller promises: demands inside the actuators' ranges whatever it reads, and each unit as if it were alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.closed_loop import specs_of
from rules.control.controller import Ask, Controller, Turn
from rules.control.stage import source_of
from telemetry.site import LEVELS, MODES

Array = npt.NDArray[Any]
NAN = np.nan
S = 10**9
T0 = 1_766_246_400 * S
RANGES = {  # of points by the end of their names; wider than physics
    "_c": (-60.0, 70.0), "_pct": (-5.0, 120.0), "_bool": (0.0, 1.0), "_ppm": (-100.0, 25_000.0), "_rpm": (0.0, 3000.0),
    "_w_m2": (-20.0, 1500.0), "_m_s": (-1.0, 60.0), "hour": (0.0, 24.0), "hours_after_sunrise": (-12.0, 20.0),
    "hours_before_sunset": (-12.0, 20.0), "day_of_batch": (0.0, 20.0), "mode": (0.0, len(MODES) - 1.0),
}  # fmt: skip


def any_inputs(controller: Controller, n: int, random: np.random.Generator, missing: float = 0.2) -> dict[str, Array]:
    """Values over and beyond what is possible, some of them unknown."""
    out = {}
    for name in controller.READS:
        low, high = next(limits for end, limits in RANGES.items() if name.endswith(end))
        value = random.uniform(low, high, n)
        if name in {"mode", "day_of_batch"} or name.endswith("_bool"):
            value = np.round(value)
        out[name] = np.where(random.uniform(size=n) < missing, NAN, value)
    return out


def walk(controller: Controller, n: int, steps: int, seed: int) -> list[tuple[int, dict[str, Array]]]:
    """(time, inputs): some stay for a while, so that delays pass; and gaps between runs."""
    random, time_ns, out = np.random.default_rng(seed), T0, []
    inputs = any_inputs(controller, n, random)
    for _ in range(steps):
        fresh = any_inputs(controller, n, random)
        changes = {name: random.uniform(size=n) < 0.1 for name in inputs}
        inputs = {name: np.where(changes[name], fresh[name], inputs[name]) for name in inputs}
        time_ns += int(controller.EVERY_S * S) * int(random.choice([1, 1, 1, 20, 400]))
        out.append((time_ns, inputs))
    return out


def inside_ranges(controller: Controller, turn: Turn, profile: str) -> None:
    """Demands and their levels are such as the profile's actuators have."""
    specs = specs_of(profile)
    assert set(turn.demands) == set(controller.ASKS)
    assert len({(ask.actuator, source_of("c", ask)) for ask in controller.ASKS}) == len(controller.ASKS)
    for ask, value in turn.demands.items():
        spec = specs[ask.actuator]
        assert ask.bound in {"at_least", "at_most", "value"}
        assert ask.level in LEVELS
        assert ask.en, ask.zh
        assert np.all(np.isnan(value) | ((value >= spec.low) & (value <= spec.high))), (ask, value)
    for name, value in turn.terms.items():
        assert not np.isinf(value).any(), name


def leaves(state: Any) -> list[Array]:
    """Arrays of a state."""
    return [array for part in state for array in leaves(part)] if isinstance(state, tuple) else [state]


def part_of(state: Any, unit: int) -> Any:
    """The state of one unit."""
    if isinstance(state, tuple):
        return type(state)(*(part_of(part, unit) for part in state))
    return state[unit : unit + 1]


def never_outside(controller: Controller, profile: str, seed: int, *, n: int = 40, steps: int = 60) -> None:
    """Random inputs."""
    parameters = controller.parameters({})
    state = controller.start(n, T0, parameters)
    for time_ns, inputs in walk(controller, n, steps, seed):
        turn = controller.step(state, time_ns, inputs, parameters)
        inside_ranges(controller, turn, profile)
        state = turn.state
        assert all(array.shape[0] == n for array in leaves(state))


def each_as_alone(controller: Controller, seed: int, *, n: int = 8, steps: int = 40) -> None:
    """All at once and each alone, bit for bit."""
    parameters = controller.parameters({})
    together = controller.start(n, T0, parameters)
    alone = [controller.start(1, T0, parameters) for _ in range(n)]
    for time_ns, inputs in walk(controller, n, steps, seed):
        turn = controller.step(together, time_ns, inputs, parameters)
        together = turn.state
        for unit in range(n):
            single = controller.step(alone[unit], time_ns, {k: v[unit : unit + 1] for k, v in inputs.items()}, parameters)
            alone[unit] = single.state
            for ask, value in turn.demands.items():
                assert np.array_equal(value[unit : unit + 1], single.demands[ask], equal_nan=True), ask
    for unit in range(n):
        for a, b in zip(leaves(part_of(together, unit)), leaves(alone[unit]), strict=True):
            assert a.dtype == b.dtype
            assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


class Bench:
    """A controller of one unit whose inputs a test sets by name."""

    def __init__(self, controller: Controller, usual: Mapping[str, float], given: Mapping[str, Any] | None = None) -> None:
        self.controller, self.parameters = controller, controller.parameters(given or {})
        self.inputs = dict.fromkeys(controller.READS, NAN) | dict(usual)
        self.state, self.time_ns = controller.start(1, T0, self.parameters), T0
        self.turn: Turn | None = None

    def run(self, seconds: float = 0.0, **changed: float) -> "Bench":
        """Runs for so many seconds, at least one, with inputs changed from now on (dots of names as two underscores)."""
        self.inputs |= {name.replace("__", "."): value for name, value in changed.items()}
        assert set(self.inputs) == set(self.controller.READS)
        for _ in range(max(1, round(seconds / self.controller.EVERY_S))):
            self.time_ns += int(self.controller.EVERY_S * S)
            self.turn = self.controller.step(
                self.state, self.time_ns, {k: np.array([v]) for k, v in self.inputs.items()}, self.parameters
            )
            self.state = self.turn.state
        return self

    def asks(self, ask: Ask) -> float:
        """What is asked; NaN nothing."""
        assert self.turn is not None
        return float(self.turn.demands[ask][0])

    def term(self, name: str) -> float:
        """A term."""
        assert self.turn is not None
        return float(self.turn.terms[name][0])
