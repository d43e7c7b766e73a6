"""Where and when a thing happens inside a span."""

from typing import NamedTuple

from telemetry.span import ENTRY, Span

Key = tuple[int, int, int]  # entry, phase, due time of a timer or 0: the order of the journal


class Moment(NamedTuple):
    """Where a thing happens. time_ns is stamped on decisions; now_ns is the engine time, at_ns that of the entry."""

    entry: int
    phase: int
    time_ns: int
    now_ns: int
    at_ns: int


def moment_at(span: Span, key: Key, last_ns: int) -> Moment:
    """The moment of a key. last_ns: time of the last entry before this span.

    A timer set by a sample may be due before the entry that carried it; engine time does not go back for it.
    """
    entry, phase, due = key
    times = span.entries.time_ns
    at = int(times[entry])
    if phase == ENTRY:
        return Moment(entry, phase, at, at, at)
    return Moment(entry, phase, due, max(due, int(times[entry - 1]) if entry else last_ns), at)
