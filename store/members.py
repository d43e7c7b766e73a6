"""Member arrays (1,824 spindles as one point) in history: a summary as five series, and the members that changed.

A point's rows form chains: a KEYFRAME holds all members, CHANGES only those that moved by more than the deadband since they
were last recorded. Recorded, not seen: so a slow drift is recorded too, and the chain alone gives back the tracker's state
after a restart. A sample that arrives out of time order stands ASIDE with all its members.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from store.history import ASIDE, CHANGES, KEYFRAME, MEMBER_BASE, MemberRow, MemberState, PackedMember

SUMMARIES: Final = ("count", "mean", "min", "max", "spread")
KEYFRAME_MS: Final = 3_600_000  # at most an hour of changes is read to know an array
_PER_POINT: Final = 8


class ArraySample(NamedTuple):
    """One sample of a member array: values (members,) in their wire type."""

    point: int
    ts_ms: int
    values: NDArray[Any]


def summary_number(point: int, k: int) -> int:
    """Number of the series SUMMARIES[k] of a member point."""
    assert point < MEMBER_BASE // _PER_POINT
    return MEMBER_BASE + _PER_POINT * point + k


def raw_number(point: NDArray[np.int32] | int) -> Any:
    """Number of the series of what a calibrated point's device sent."""
    return MEMBER_BASE + _PER_POINT * point + _PER_POINT - 1


def summarise(values: NDArray[Any]) -> NDArray[np.float64]:
    """(5,) count of finite members, their mean, min, max and spread (standard deviation of the population); NaN when none is."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not len(finite):
        return np.array([0.0, np.nan, np.nan, np.nan, np.nan])
    return np.array([len(finite), finite.mean(), finite.min(), finite.max(), finite.std()])


class MemberTracker:
    """Turns each array into its row. `load` gives a point's state from history when the tracker does not know it yet."""

    def __init__(self, load: Callable[[int], MemberState | None]) -> None:
        self._load = load
        self._state: dict[int, MemberState | None] = {}

    def know(self, points: Iterable[int]) -> None:
        """Load what is not known yet of these points; after it `row` cannot fail. StoreError."""
        for point in points:
            if point not in self._state:
                self._state[point] = self._load(point)

    def row(self, point: int, ts_ms: int, values: NDArray[Any], deadband: float) -> MemberRow:
        """The row of one sample of a known point; (members,) values in their wire type."""
        state = self._state[point]
        everybody = np.arange(len(values), dtype=np.int32)
        if state is not None and ts_ms <= state.ts_ms:
            return MemberRow(point, ts_ms, ASIDE, everybody, values)
        starts_anew = state is None or len(state.values) != len(values) or state.values.dtype != values.dtype
        if state is None or starts_anew or ts_ms - state.keyframe_ms >= KEYFRAME_MS:
            self._state[point] = MemberState(ts_ms, ts_ms, values.copy())
            return MemberRow(point, ts_ms, KEYFRAME, everybody, values)
        moved = np.flatnonzero(_has_moved(values, state.values, deadband)).astype(np.int32)
        recorded = state.values
        recorded[moved] = values[moved]
        self._state[point] = MemberState(ts_ms, state.keyframe_ms, recorded)
        return MemberRow(point, ts_ms, CHANGES, moved, values[moved])


def _has_moved(values: NDArray[Any], recorded: NDArray[Any], deadband: float) -> NDArray[np.bool_]:
    """True where a member moved by more than the deadband, or became or stopped being a number."""
    now, was = values.astype(np.float64), recorded.astype(np.float64)
    both = np.isfinite(now) & np.isfinite(was)
    step = np.abs(np.where(both, now, 0.0) - np.where(both, was, 0.0))
    has_moved: NDArray[np.bool_] = (both & (step > deadband)) | (np.isfinite(now) != np.isfinite(was))
    return has_moved


def unique_members(rows: Sequence[MemberRow]) -> list[MemberRow]:
    """Of rows with the same point and time the first."""
    return list({(row.point, row.ts_ms): row for row in reversed(rows)}.values())[::-1]


def pack_members(row: MemberRow) -> PackedMember:
    """For a table; a whole array needs no indices."""
    member = row.member.tobytes() if row.form == CHANGES else b""
    return PackedMember(row.point, row.ts_ms, row.form, row.value.dtype.str, member, row.value.tobytes())


class MemberReplay:
    """Whole arrays out of packed rows, which come in order of time."""

    def __init__(self) -> None:
        self._last: dict[int, NDArray[Any]] = {}  # the end of each point's chain

    def take(self, row: PackedMember) -> ArraySample | None:
        """The array of a row; None of changes whose keyframe was not seen."""
        values = np.frombuffer(row.value, np.dtype(row.dtype))
        if row.form == CHANGES:
            last = self._last.get(row.point)
            if last is None:
                return None
            changed = last.copy()
            changed[np.frombuffer(row.member, np.int32)] = values
            values = changed
        if row.form != ASIDE:
            self._last[row.point] = values
        return ArraySample(row.point, row.ts_ms, values)


def replay_members(rows: Sequence[tuple[Any, ...]]) -> MemberState | None:
    """The state after packed rows in time order, the first of them a whole array; None without rows."""
    state: MemberState | None = None
    for _, ts_ms, form, dtype, member, value in rows:
        values = np.frombuffer(value, np.dtype(dtype))
        if form != CHANGES:
            state = MemberState(ts_ms, ts_ms, values.copy())
            continue
        assert state is not None
        state.values[np.frombuffer(member, np.int32)] = values
        state = MemberState(ts_ms, state.keyframe_ms, state.values)
    return state
