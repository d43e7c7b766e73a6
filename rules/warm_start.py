"""Memory of windows that a configuration brings along: computed from history by a worker, carried inside the CONFIG entry.

A window that a configuration asks for the first time would be unknown until four fifths of it are covered. `missing` says which
columns that are and how far back their samples lie, `collect` takes their memory out of an engine that has seen these, `take` gives
it to the engine that applies the entry. What a column remembers of its own is never replaced, and windows of rules with a demand
begin empty: history does not say what of it had come in time, and what came late never moves an actuator.
"""

from collections.abc import Iterable
from math import ceil
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from rules import calculate, loop, panes
from rules.cohort import Cohort, Rulebook, Virtual
from rules.condition import Conditions
from telemetry.errors import CallerError, CorruptError
from telemetry.plan import NS_PER_S, Plan

MEMORY_MAX: Final = 16 << 20  # bytes of memory in one configuration: core copies them while it does nothing else
LOOK_BACK: Final = 2  # window lengths: a sample of the one before the last decides whether the last counts as covered
FADED: Final = 37  # time constants: what was before weighs less than the last bit of a double (2^-53) in an `ewma`
ENDLESS_NS: Final = 366 * 86_400 * NS_PER_S  # `cusum` forgets only where it comes down to 0, which may be long ago
NAMED: Final = 3  # columns that a message names


class Column(msgspec.Struct, array_like=True, frozen=True):
    """A virtual column of some devices. Its memory is (devices, words) int64, of which most may be 0: `mask` has a bit for each that is
    not (numpy.packbits), `state` their bytes, little-endian."""

    cohort: str
    key: str
    words: int
    devices: list[str]
    mask: bytes
    state: bytes

    @property
    def size(self) -> int:
        """Words of its memory."""
        return self.words * len(self.devices)

    def memory(self) -> NDArray[np.int64]:
        """(devices, words)."""
        whole = np.zeros(self.size, np.int64)
        there = np.unpackbits(np.frombuffer(self.mask, np.uint8), count=self.size).view(np.bool_)
        whole[there] = np.frombuffer(self.state, np.int64)
        return whole.reshape(len(self.devices), self.words)


class WarmStart(msgspec.Struct, array_like=True, frozen=True):
    """Everything one CONFIG brings. layout: that of the program that made it; reached_ms: history was read up to there."""

    layout: int
    reached_ms: int
    columns: list[Column]


_decoder = msgspec.msgpack.Decoder(WarmStart)


def encode(found: WarmStart) -> bytes:
    """What `Config.warm` carries: msgpack."""
    return msgspec.msgpack.encode(found)


def decode(data: bytes) -> WarmStart:
    """Inverse of `encode`. Raises CorruptError for anything else."""
    try:
        made = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise CorruptError(f"the memory of windows cannot be read: {error}") from error
    for column in made.columns:
        filled = int(np.bitwise_count(np.frombuffer(column.mask, np.uint8)).sum())
        if column.words <= 0 or len(column.mask) != -(-column.size // 8) or len(column.state) != 8 * filled:
            raise CorruptError(f"the memory of {column.key} does not fit its {len(column.devices)} devices")
    if sum(8 * column.size for column in made.columns) > MEMORY_MAX:
        raise CorruptError(f"the memory of windows is larger than {MEMORY_MAX >> 20} MiB")
    return made


# -- what is missing -----------------------------------------------------------------------------------------------------------


class Missing(NamedTuple):
    """Columns of the new configuration without a memory in the running one: device numbers by (cohort, key).

    reach_ns: how far back their samples lie; cohorts: whose samples they are made of.
    """

    columns: dict[tuple[str, str], set[int]]
    reach_ns: int
    cohorts: frozenset[str]


def missing(before: Plan, old: Rulebook, new: Rulebook, site: str) -> Missing:
    """Raises CallerError when their memory is larger than a configuration may bring. before: the plan of `old`."""
    known = {(cohort.name, made.key): set(cohort.place) for cohort in old.cohorts for made in cohort.virtual if made.words}
    found: dict[tuple[str, str], set[int]] = {}
    sizes: dict[str, int] = {}
    reach, cohorts, reaches = 0, set[str](), _Reaches()
    for cohort in (c for c in new.cohorts if c.site == site):
        there = {number for number in cohort.place if number < len(before.devices)}
        for made in (v for v in cohort.virtual if v.words and not v.live_only):
            seats = there - known.get((cohort.name, made.key), set())
            if seats:
                found[cohort.name, made.key] = seats
                sizes[f"{made.key} of {cohort.name}"] = 8 * made.words * len(seats)
                back_ns, whose = reaches.of(cohort, made.column)
                reach, cohorts = max(reach, back_ns), cohorts | whose
    _check_size(sizes)
    return Missing(found, reach, frozenset(cohorts))


def _check_size(sizes: dict[str, int]) -> None:
    total = sum(sizes.values())
    if total > MEMORY_MAX:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:NAMED]
        raise CallerError(
            f"the memory of {len(sizes)} new windows is {total / (1 << 20):.0f} MiB, a configuration brings at most "
            f"{MEMORY_MAX >> 20} MiB; the largest are {', '.join(f'{name} ({sizes[name] / (1 << 20):.1f} MiB)' for name in largest)}; "
            "put fewer of these rules in force at a time, or leave out --warm"
        )


class _Reaches:
    """How far back columns look [ns] and at whose samples, by column."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[int, frozenset[str]]] = {}

    def of(self, cohort: Cohort, column: int) -> tuple[int, frozenset[str]]:
        key = (id(cohort), column)
        if key not in self._known:
            self._known[key] = self._of(cohort, column)
        return self._known[key]

    def _of(self, cohort: Cohort, column: int) -> tuple[int, frozenset[str]]:
        made = next((v for v in cohort.virtual if v.column == column), None)
        sources = dict(cohort.imports).get(column)
        if made is None:
            if sources is None:
                return 0, frozenset([cohort.name])
            return self._most(self._elsewhere(sources, (cohort, column)), 0)
        if made.kind in (loop.EXPRESSION, loop.MEMBERS, loop.MEMBERWISE):
            return self._most([(cohort, argument) for op, argument in made.code if op in calculate.READS], _memory_ns(cohort, made))
        if made.kind == loop.GROUP:
            return self._most(self._elsewhere((s for group in made.sources for s in group), None), 0)
        if made.kind == loop.SILENT:
            return made.length_ns, frozenset([cohort.name])
        if made.kind == loop.STALE:
            return self._most([(cohort, made.follows)], made.length_ns)
        return self._most([(cohort, made.follows)], _memory_ns(cohort, made))

    @staticmethod
    def _elsewhere(sources: Iterable[tuple[Cohort, int, int]], but: tuple[Cohort, int] | None) -> list[tuple[Cohort, int]]:
        """Each column once that some seats import; not the one that stands for "no link"."""
        found = {(id(home), column): (home, column) for home, column, _ in sources}
        if but is not None:
            found.pop((id(but[0]), but[1]), None)
        return list(found.values())

    def _most(self, columns: list[tuple[Cohort, int]], more_ns: int) -> tuple[int, frozenset[str]]:
        reach, cohorts = 0, frozenset[str]()
        for cohort, column in columns:
            back_ns, whose = self.of(cohort, column)
            reach, cohorts = max(reach, back_ns), cohorts | whose
        return reach + more_ns, cohorts


def _memory_ns(cohort: Cohort, made: Virtual) -> int:
    """How far back what a function remembers comes from; 0 of what remembers nothing."""
    if made.kind == loop.MEMBERWISE:
        return LOOK_BACK * made.length_ns + int(made.parameters[0] * NS_PER_S)
    if made.kind != loop.PANES:
        return 0
    if made.fn == panes.EWMA:
        weight, constant_s = made.parameters
        assert cohort.profile is not None
        if weight > 0:  # of each sample: they come with a heartbeat at least
            constant_s = max((point.beat_s for point in cohort.profile.points), default=0.0) / weight
        return min(ceil(FADED * constant_s) * NS_PER_S, ENDLESS_NS)
    if made.fn in (panes.CUSUM_HIGH, panes.CUSUM_LOW):
        return ENDLESS_NS
    gap_s = made.parameters[1] if made.fn == panes.HELD else 0.0
    return LOOK_BACK * panes.PANES * made.pane_ns + int(gap_s * NS_PER_S)


# -- out of one engine, into another -------------------------------------------------------------------------------------------


def collect(stage: Conditions, columns: dict[tuple[str, str], set[int]], reached_ms: int) -> WarmStart:
    """The memory of columns (device numbers by cohort and key), as far as they have seen anything."""
    made = []
    for cohort, virtual, block in stage.windows():
        numbers = columns.get((cohort.name, virtual.key))
        if numbers is None:
            continue
        seats = [k for k, device in enumerate(cohort.devices) if device.number in numbers and not block.is_new[k]]
        if seats:
            names = [cohort.devices[k].name for k in seats]
            memory = block.rows(np.array(seats)).reshape(-1)
            there = memory != 0
            mask = np.packbits(there).tobytes()
            made.append(Column(cohort.name, virtual.key, virtual.words, names, mask, memory[there].tobytes()))
    return WarmStart(panes.LAYOUT, reached_ms, made)


def take(stage: Conditions, plan: Plan, given: WarmStart) -> None:
    """Fill what has seen nothing yet. No condition changes before the next sample: a column's value stays unknown until then.

    What a program with another layout made is left alone: its journal is read, with these windows cold.
    """
    if given.layout != panes.LAYOUT:
        return
    wanted = {(column.cohort, column.key): column for column in given.columns}
    for cohort, virtual, block in stage.windows():
        column = wanted.get((cohort.name, virtual.key))
        if column is None or virtual.live_only or column.words != virtual.words:
            continue
        numbers = [plan.device_number.get(f"{cohort.site}/{name}", -1) for name in column.devices]
        place = np.array([cohort.place.get(number, -1) for number in numbers], np.int64)
        rows = np.flatnonzero(place >= 0)
        rows = rows[block.is_new[place[rows]]]
        block.put(place[rows], column.memory()[rows])
