"""Measures of an alarm system after IEC 62682 and EEMUA 191, of a site and of each of its areas. Pure: changes in, figures out.

An alarm is *raised* each time it becomes unacknowledged (UNACK) from another state; what is shelved, suppressed or out of service
is not raised. It *stands* while its condition holds and it is shown: UNACK or ACKED. Times are cut to the range that is asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from people.changes import Change
from telemetry.plan import NS_PER_S

Array = NDArray[Any]
STANDING: Final = ("UNACK", "ACKED")
WAITING: Final = ("UNACK", "RTNUN")  # for an acknowledgement
PRIORITIES: Final = ("P1", "P2", "P3", "P4")
# EEMUA 191, IEC 62682: about 80 % of alarms of low priority, 15 % medium, 5 % high. Of our four the last two are low.
TARGETS: Final = {"high": (("P1",), 0.05), "medium": (("P2",), 0.15), "low": (("P3", "P4"), 0.80)}
RATE_NS: Final = 600 * NS_PER_S
STALE_NS: Final = 86_400 * NS_PER_S
CHATTER_CHANGES, CHATTER_NS = 3, 60 * NS_PER_S
FREQUENT_MAX: Final = 10
LISTED_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Delay:
    """Times from raised to acknowledged: how many, their median and 90th percentile [s]; None without any."""

    count: int
    median_s: float | None
    p90_s: float | None


@dataclass(frozen=True, slots=True)
class Share:
    """An alarm, how often it was raised (or changed), and its share of all, 0..1."""

    subject: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Mix:
    """Alarms raised of one level of priority, their share, and the share they should have, 0..1."""

    level: str
    priorities: tuple[str, ...]
    count: int
    share: float | None
    target: float


@dataclass(frozen=True, slots=True)
class Standing:
    """An alarm that stands at the end of the range; since_ns None: since before everything that is known."""

    subject: str
    since_ns: int | None


@dataclass(frozen=True, slots=True)
class Measures:
    """Figures of a site or area over a range. Rates are alarms per 10 min; *_s are alarm-seconds, flood_s seconds."""

    raised: int
    per_day: float
    average_rate: float
    peak_rate: int
    peak_ns: int | None  # when the busiest 10 min began; None when nothing was raised
    standing: int
    stale: tuple[Standing, ...]  # standing for more than 24 h, oldest first
    chattering: tuple[Share, ...]  # changed three times within 60 s; count and share of their changes
    frequent: tuple[Share, ...]  # the ten that were raised most often
    mix: tuple[Mix, ...]
    acknowledged: Delay
    by_priority: dict[str, Delay]
    by_operator: dict[str, Delay]
    flood_s: float
    floods: int
    shelved_s: float
    suppressed_s: float
    out_of_service_s: float


class _Columns:
    """Changes by subject, each subject's in the order they were decided. Texts are codes into `names`; all columns (n,)."""

    def __init__(self, names: dict[str, list[str]], codes: dict[str, Array], time_ns: Array) -> None:
        self.names, self.codes, self.time_ns = names, codes, time_ns
        self.subject, self.subjects = codes["subject"], names["subject"]
        self.is_last = np.append(self.subject[1:] != self.subject[:-1], True)[: len(time_ns)]
        self.is_first = np.roll(self.is_last, 1)

    @classmethod
    def of(cls, changes: Sequence[Change]) -> "_Columns":
        """From changes in the order they were decided."""
        names, codes = {}, {}
        columns = dict(zip(Change._fields, zip(*changes, strict=True) if changes else [()] * len(Change._fields), strict=True))
        times = np.array(columns.pop("time_ns"), np.int64)
        for name, values in columns.items():
            numbers: dict[str, int] = {}
            codes[name] = np.fromiter((numbers.setdefault(value, len(numbers)) for value in values), np.int64, len(values))
            names[name] = list(numbers)
        order = np.argsort(codes["subject"], kind="stable")
        return cls(names, {name: column[order] for name, column in codes.items()}, times[order])

    def of_area(self, area: str) -> "_Columns":
        """Those of one area."""
        chosen = self.has("area", (area,))
        return _Columns(self.names, {name: column[chosen] for name, column in self.codes.items()}, self.time_ns[chosen])

    def has(self, column: str, wanted: Sequence[str]) -> Array:
        """(n,) True where a column holds one of these texts."""
        return np.array([name in wanted for name in self.names[column]], np.bool_)[self.codes[column]]

    def enters(self, states: Sequence[str]) -> Array:
        """(n,) True where a change leads into these states from outside."""
        return self.has("after", states) & ~self.has("before", states)

    def spans(self, states: Sequence[str], start_ns: int, end_ns: int) -> tuple[Array, Array]:
        """Begin and end [ns] of every stretch between changes that was spent in these states, cut to the range."""
        until = np.where(self.is_last, end_ns, np.append(self.time_ns[1:], end_ns)[: len(self.time_ns)])
        begun, inside = self.is_first & self.has("before", states), self.has("after", states)
        begin = np.concatenate([np.full(int(begun.sum()), start_ns), self.time_ns[inside]])
        end = np.concatenate([self.time_ns[begun], until[inside]])
        begin, end = np.clip(begin, start_ns, end_ns), np.clip(end, start_ns, end_ns)
        return begin, np.maximum(begin, end)

    def seconds(self, state: str, start_ns: int, end_ns: int) -> float:
        """Alarm-seconds in a state."""
        begin, end = self.spans((state,), start_ns, end_ns)
        return float((end - begin).sum()) / NS_PER_S

    def last_entry(self, states: Sequence[str]) -> Array:
        """(n,) index of the last change up to each one that led its subject into these states; -1 when there was none."""
        index = np.arange(len(self.subject))
        found = np.maximum.accumulate(np.where(self.enters(states), index, -1)) if len(index) else index
        return np.where((found >= 0) & (self.subject[found] == self.subject), found, -1)


def measure(
    changes: Iterable[Change], floods: Iterable[Change], *, areas: Sequence[str], start_ns: int, end_ns: int
) -> tuple[Measures, dict[str, Measures]]:
    """Figures of [start_ns, end_ns) of the site and of its `areas`, from changes in the order they were decided.

    Changes before the range say what stood when it began: an alarm that is not among them was in the state that its first change
    names as the one before.
    """
    assert start_ns < end_ns
    known, flooded = (_Columns.of([change for change in group if change.time_ns < end_ns]) for group in (changes, floods))
    of_areas = {area: _measures(known.of_area(area), flooded.of_area(area), start_ns, end_ns) for area in areas}
    return _measures(known, flooded, start_ns, end_ns), of_areas


def _measures(columns: _Columns, flooded: _Columns, start_ns: int, end_ns: int) -> Measures:
    inside = columns.time_ns >= start_ns
    raised = columns.enters(("UNACK",)) & inside
    count, length_ns = int(raised.sum()), end_ns - start_ns
    peak, peak_ns = _peak(columns.time_ns[raised])
    stands = columns.is_last & columns.has("after", STANDING)
    delays, by_priority, by_operator = _delays(columns, inside)
    return Measures(
        raised=count,
        per_day=count * 86_400 * NS_PER_S / length_ns,
        average_rate=count * RATE_NS / length_ns,
        peak_rate=peak,
        peak_ns=peak_ns,
        standing=int(stands.sum()),
        stale=_stale(columns, stands, end_ns),
        chattering=_chattering(columns, inside),
        frequent=_most(columns, raised, FREQUENT_MAX),
        mix=_mix(columns, raised),
        acknowledged=delays,
        by_priority=by_priority,
        by_operator=by_operator,
        flood_s=_union_s(*flooded.spans(("UNACK",), start_ns, end_ns)),
        floods=int((flooded.enters(("UNACK",)) & (flooded.time_ns >= start_ns)).sum()),
        shelved_s=columns.seconds("SHLVD", start_ns, end_ns),
        suppressed_s=columns.seconds("DSUPR", start_ns, end_ns),
        out_of_service_s=columns.seconds("OOSRV", start_ns, end_ns),
    )


def _peak(times_ns: Array) -> tuple[int, int | None]:
    """The most alarms within any 10 min, wherever they begin, and when the first such 10 min begin."""
    if not len(times_ns):
        return 0, None
    times_ns = np.sort(times_ns)
    counts = np.searchsorted(times_ns, times_ns + RATE_NS, side="left") - np.arange(len(times_ns))
    return int(counts.max()), int(times_ns[counts.argmax()])


def _stale(columns: _Columns, stands: Array, end_ns: int) -> tuple[Standing, ...]:
    entries = columns.last_entry(STANDING)
    found = []
    for k in np.flatnonzero(stands):
        since_ns = int(columns.time_ns[entries[k]]) if entries[k] >= 0 else None
        if since_ns is None or end_ns - since_ns > STALE_NS:
            found.append(Standing(columns.subjects[columns.subject[k]], since_ns))
    return tuple(sorted(found, key=lambda s: (s.since_ns or 0, s.subject)))


def _chattering(columns: _Columns, inside: Array) -> tuple[Share, ...]:
    """Alarms whose condition changed three times within 60 s at least once, by how often it changed in all."""
    changed = np.flatnonzero(inside & columns.has("event", ("raise", "clear")))
    subject, times, more = columns.subject[changed], columns.time_ns[changed], CHATTER_CHANGES - 1
    quick = (subject[more:] == subject[:-more]) & (times[more:] - times[:-more] <= CHATTER_NS)
    chattered = np.union1d(subject[more:][quick], columns.subject[inside & columns.has("event", ("chatter",))])
    is_changed = np.zeros(len(columns.subject), np.bool_)
    is_changed[changed] = True
    return _most(columns, is_changed, LISTED_MAX, of=chattered)


def _most(columns: _Columns, chosen: Array, most: int, of: Array | None = None) -> tuple[Share, ...]:
    """Subjects (of some) with the most chosen changes, and their share of all chosen ones."""
    counts = np.bincount(columns.subject[chosen], minlength=len(columns.subjects))
    listed = np.flatnonzero(counts) if of is None else of
    shares = [Share(columns.subjects[k], int(counts[k]), float(counts[k] / max(1, counts.sum()))) for k in listed]
    return tuple(sorted(shares, key=lambda share: (-share.count, share.subject))[:most])


def _mix(columns: _Columns, raised: Array) -> tuple[Mix, ...]:
    found, total = [], int(raised.sum())
    for level, (members, target) in TARGETS.items():
        count = int((raised & columns.has("priority", members)).sum())
        found.append(Mix(level, members, count, count / total if total else None, target))
    return tuple(found)


def _delays(columns: _Columns, inside: Array) -> tuple[Delay, dict[str, Delay], dict[str, Delay]]:
    """Times to acknowledge of all, of each priority and of each operator. One waits from when the alarm began to wait."""
    answered = np.flatnonzero(inside & columns.has("event", ("acknowledge",)) & columns.has("before", WAITING))
    begun = columns.last_entry(WAITING)[answered]
    # A sample may be up to 2 s ahead of the clock by which a request is taken: that is no delay below 0.
    waited_ns = np.where(begun >= 0, np.maximum(columns.time_ns[answered] - columns.time_ns[begun], 0), -1)
    authors = {columns.names["author"][code] for code in np.unique(columns.codes["author"][answered])}
    return (
        _delay(waited_ns),
        {priority: _delay(waited_ns[columns.has("priority", (priority,))[answered]]) for priority in PRIORITIES},
        {author: _delay(waited_ns[columns.has("author", (author,))[answered]]) for author in sorted(authors)},
    )


def _delay(waited_ns: Array) -> Delay:
    """All are counted; a delay whose beginning is not known (below 0) is none."""
    known = waited_ns[waited_ns >= 0] / NS_PER_S
    if not len(known):
        return Delay(len(waited_ns), None, None)
    median, p90 = np.percentile(known, (50, 90))
    return Delay(len(waited_ns), float(median), float(p90))


def _union_s(begin: Array, end: Array) -> float:
    """Seconds in which at least one of the stretches runs."""
    order = np.argsort(begin, kind="stable")
    begin, end = begin[order], end[order]
    if not len(begin):
        return 0.0
    reached = np.concatenate([[begin[0]], np.maximum.accumulate(end)[:-1]])
    return float(np.maximum(end - np.maximum(begin, reached), 0).sum()) / NS_PER_S
