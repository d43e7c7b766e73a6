"""Staging: how many machines of a unit run, and which, with hysteresis, delay, minimum times, rotation, starts per hour and stagger.

Stage k is wanted from the moment its error reaches `on_at[k]` until the error has been below `on_at[k] - hysteresis[k]` for `down_s`.
As many machines as stages wanted run, as soon as each machine's own limits permit. A unit has s machines; state and limits are
(n, s). Time, bad input and grouping of calls as in rules/control/memory.py.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rules.control.memory import DAY_S, LONG_AGO, NEVER, Guard, Heard, fitted, listen, nanoseconds, noted, require, start_hold
from telemetry.plan import NS_PER_S

Array = NDArray[Any]

HOUR_NS: Final = 3600 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Stages:
    """When stages are wanted.

    on_at : (s,) of all units or (n, s), ascending: error at which each stage comes on
    hysteresis : (s,) or (n, s) or one: below `on_at` by this it may go, at least 0; on_at - hysteresis ascending too
    down_s : (n, 1) or one: how long the error stays below before it goes, at most a day [s]; 60 to 120 s for fans of pig houses
    """

    on_at: ArrayLike
    hysteresis: ArrayLike
    down_s: ArrayLike = 0.0

    def __post_init__(self) -> None:
        """Refuse stages out of order: a later one would run before an earlier one."""
        on_at = np.asarray(self.on_at, np.float64)
        require(on_at.ndim in {1, 2} and on_at.shape[-1] > 0, "on_at is one value for each stage, for all units or for each")
        require(np.asarray(self.hysteresis) >= 0.0, "hysteresis is at least 0")
        require(np.diff(on_at, axis=-1) >= 0.0, "on_at must ascend from stage to stage; sort the stages")
        require(np.diff(self.off_at, axis=-1) >= 0.0, "on_at - hysteresis must ascend too: give later stages no wider hysteresis")
        require((np.asarray(self.down_s) >= 0.0) & (np.asarray(self.down_s) <= DAY_S), "down_s is 0 to 86400")

    @property
    def off_at(self) -> Array:
        """Error below which each stage may go."""
        return np.asarray(self.on_at, np.float64) - np.asarray(self.hysteresis, np.float64)


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """What the machines of a unit bear.

    min_on_s, min_off_s : (s,), (n, s) or one, at most a day [s]
    stagger_s : (n,) or one: between the starts of two machines of a unit, at most a day [s]
    starts_per_hour : most starts of a machine in any hour, at least 1, for all
    rotates : (n,) or one, bool: the machine with the least run time starts and the one with the most stops; False: machine k is stage k
    """

    min_on_s: ArrayLike = 0.0
    min_off_s: ArrayLike = 0.0
    stagger_s: ArrayLike = 0.0
    starts_per_hour: int = 30
    rotates: ArrayLike = False

    def __post_init__(self) -> None:
        """Refuse times that are none."""
        for name in ("min_on_s", "min_off_s", "stagger_s"):
            time = np.asarray(getattr(self, name))
            require((time >= 0.0) & (time <= DAY_S), f"{name} is 0 to 86400")
        require(1 <= self.starts_per_hour <= 3600, "starts_per_hour is 1 to 3600")


class Machines(NamedTuple):
    """What the machines of each unit do."""

    wanted: Array  # (n,) int64, how many shall run
    available: Array  # (n, s) bool, ours to switch
    on: Array  # (n, s) bool
    changed_ns: Array  # (n, s) int64, last start or stop
    starts_ns: Array  # (n, s, starts_per_hour) int64, the newest last
    run_ns: Array  # (n, s) int64, run time up to the last stop
    now_ns: Array  # (n,) int64


class Staging(NamedTuple):
    """Memory of `staging`."""

    heard: Heard  # errors
    latched: Array  # (n, s) bool, stages wanted
    below_ns: Array  # (n, s) int64, since when the error has been below the stage's end; NEVER when it is not
    machines: Machines


def start_staging(n: int, machines: int, time_ns: ArrayLike, limits: MachineLimits) -> Staging:
    """State for n units of so many machines each: all off, never started, free to start."""
    shape = (n, machines)
    heard = start_hold(np.full(n, np.nan), time_ns)
    idle = Machines(
        wanted=np.zeros(n, np.int64),
        available=np.ones(shape, np.bool_),
        on=np.zeros(shape, np.bool_),
        changed_ns=np.full(shape, LONG_AGO),
        starts_ns=np.full((*shape, limits.starts_per_hour), LONG_AGO),
        run_ns=np.zeros(shape, np.int64),
        now_ns=heard.now_ns,
    )
    return Staging(heard, np.zeros(shape, np.bool_), np.full(shape, NEVER), idle)


def staging(
    state: Staging,
    time_ns: ArrayLike,
    error: ArrayLike,
    stages: Stages,
    limits: MachineLimits,
    guard: Guard,
    *,
    available: ArrayLike = True,
) -> tuple[Staging, Array]:
    """Stages with hysteresis and stage-down delay, and the machines that serve them.

    Parameters
    ----------
    state : of `start_staging`
    time_ns : (n,) time of the call [ns]
    error : (n,) measured - set point (cooling) or set point - measured (heating); NaN unknown: the stages hold for at most three
        sample periods, then the fail-safe number of stages is wanted at once
    stages : where stages come and go
    limits : of the machines; they hold for the fail-safe too, and a late error never undoes a start
    guard : sample period of the error; the fail-safe is a number of stages
    available : (n, s) bool; False for a machine in fault or in local mode: it counts as off; where machines rotate another takes its
        place

    Returns
    -------
    (state, on (n, s) bool)

    Raises
    ------
    CallerError : the number of stages is not that of the machines
    """
    stages_given, numbers = stages.off_at.shape[-1], np.arange(state.latched.shape[1])
    require(stages_given == len(numbers), f"{stages_given} stages for {len(numbers)} machines; give one stage for each machine")
    turn = listen(state.heard, time_ns, error, guard)
    machines = state.machines._replace(starts_ns=fitted(state.machines.starts_ns, limits.starts_per_hour))
    latched, below_ns = state.latched, state.below_ns
    if turn.lapses.any():
        latched, below_ns, machines = _until(latched, below_ns, machines, turn.lapse_ns, stages, limits)
        lapses = turn.lapses[:, None]
        latched = np.where(lapses, numbers < np.asarray(guard.fail_safe, np.float64).reshape(-1, 1), latched)
        below_ns = np.where(lapses, NEVER, below_ns)
        machines = _want(machines, latched, turn.lapse_ns, limits)
    latched, below_ns, machines = _until(latched, below_ns, machines, turn.heard.now_ns, stages, limits)

    fresh, value = turn.fresh[:, None], turn.heard.value[:, None]
    below = np.where(value < stages.off_at, np.minimum(below_ns, turn.heard.now_ns[:, None]), NEVER)
    below_ns = np.where(fresh, below, below_ns)
    latched = latched | (fresh & (value >= np.asarray(stages.on_at)))
    latched = latched & ~(below_ns + nanoseconds(stages.down_s) <= turn.heard.now_ns[:, None])
    machines = _offer(machines, np.broadcast_to(np.asarray(available, np.bool_), latched.shape))
    machines = _want(machines, latched, turn.heard.now_ns, limits)
    return Staging(turn.heard, latched, below_ns, machines), machines.on


def run_time_s(state: Staging) -> Array:
    """Run time of each machine at the last call, (n, s) [s]."""
    machines = state.machines
    return (machines.run_ns + _running_ns(machines, machines.now_ns)) / NS_PER_S


def _until(
    latched: Array, below_ns: Array, machines: Machines, until_ns: Array, stages: Stages, limits: MachineLimits
) -> tuple[Array, Array, Machines]:
    """Let stages go whose delay ends, each at its own time, and serve the machines up to then."""
    ends_ns = below_ns + nanoseconds(stages.down_s)
    for _ in range(latched.shape[1]):
        due_ns = np.where(latched, ends_ns, NEVER).min(axis=1)
        goes = due_ns <= until_ns
        if not goes.any():
            break
        latched = latched & ~(goes[:, None] & (ends_ns <= due_ns[:, None]))
        machines = _want(machines, latched, np.where(goes, due_ns, machines.now_ns), limits)
    return latched, below_ns, _serve(machines, until_ns, limits)


def _want(machines: Machines, latched: Array, at_ns: Array, limits: MachineLimits) -> Machines:
    """Serve up to a time as before, from then on as many machines as stages are latched."""
    served = _serve(machines, at_ns, limits)
    return _serve(served._replace(wanted=latched.sum(axis=1, dtype=np.int64)), at_ns, limits)


def _offer(machines: Machines, available: Array) -> Machines:
    """Take note of which machines are ours; one that runs and is no longer ours counts as stopped now."""
    lost = machines.on & ~available
    run_ns = machines.run_ns + np.where(lost, _running_ns(machines, machines.now_ns), 0)
    changed_ns = np.where(lost, machines.now_ns[:, None], machines.changed_ns)
    return machines._replace(available=available, on=machines.on & available, run_ns=run_ns, changed_ns=changed_ns)


def _running_ns(machines: Machines, at_ns: Array) -> Array:
    return np.where(machines.on, at_ns[:, None] - machines.changed_ns, 0)


def _serve(machines: Machines, until_ns: Array, limits: MachineLimits) -> Machines:
    """Start and stop machines, each at the time its limits permit, until so many run as are wanted.

    While the number wanted stands every machine changes at most once, so there are no more turns than machines.
    """
    rotates = np.reshape(limits.rotates, (-1, 1))
    for _ in range(machines.on.shape[1]):
        event_ns = _events_ns(machines, limits, rotates)
        if event_ns is None:
            break
        due_ns = event_ns.min(axis=1)
        goes = due_ns <= until_ns
        if not goes.any():
            break
        chosen = _chosen(machines, event_ns, np.where(goes, due_ns, NEVER), rotates)
        machines = _switch(machines, chosen, due_ns)
    return machines._replace(now_ns=np.maximum(machines.now_ns, until_ns))


def _events_ns(machines: Machines, limits: MachineLimits, rotates: Array) -> Array | None:
    """(n, s) when each machine that should change may do so; NEVER for the others, None where no machine should."""
    now, wanted, running = machines.now_ns[:, None], machines.wanted[:, None], machines.on.sum(axis=1)[:, None]
    numbers = np.arange(machines.on.shape[1])
    should_run = np.where(rotates, machines.on | (running < wanted), numbers < wanted)
    should_rest = np.where(rotates, running > wanted, numbers >= wanted)
    starts, stops = ~machines.on & machines.available & should_run, machines.on & should_rest
    if not (starts | stops).any():
        return None
    after_another = machines.starts_ns[:, :, -1].max(axis=1) + nanoseconds(limits.stagger_s)
    start_ns = np.maximum(machines.changed_ns + nanoseconds(limits.min_off_s), machines.starts_ns[:, :, 0] + HOUR_NS)
    start_ns = np.maximum(np.maximum(start_ns, after_another[:, None]), now)
    stop_ns = np.maximum(machines.changed_ns + nanoseconds(limits.min_on_s), now)
    return np.where(starts, start_ns, np.where(stops, stop_ns, NEVER))


def _chosen(machines: Machines, event_ns: Array, due_ns: Array, rotates: Array) -> Array:
    """(n, s) the one machine of each unit that changes at `due_ns`; none where that is NEVER."""
    run_ns = machines.run_ns + _running_ns(machines, np.minimum(due_ns, NEVER // 2))
    preference = np.where(rotates, np.where(machines.on, -run_ns, run_ns), np.arange(machines.on.shape[1]))
    ready = (event_ns == due_ns[:, None]) & (due_ns < NEVER)[:, None]
    first = np.argmin(np.where(ready, preference, NEVER), axis=1)
    return np.asarray(ready & (np.arange(machines.on.shape[1]) == first[:, None]))


def _switch(machines: Machines, chosen: Array, at_ns: Array) -> Machines:
    """Start or stop the chosen machines."""
    at = np.broadcast_to(at_ns[:, None], chosen.shape)
    run_ns = machines.run_ns + np.where(chosen, _running_ns(machines, np.minimum(at_ns, NEVER // 2)), 0)
    now_ns = np.where(chosen.any(axis=1), at_ns, machines.now_ns)
    return machines._replace(
        on=machines.on ^ chosen,
        changed_ns=np.where(chosen, at, machines.changed_ns),
        starts_ns=noted(machines.starts_ns, at, chosen & ~machines.on),
        run_ns=run_ns,
        now_ns=now_ns,
    )
