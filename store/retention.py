"""Which journal segments may go. Pure: sizes, ages and positions in, a plan out; `Journal.trim` carries it out.

Normal: a segment goes when every follower is past it and it is older than `keep_s`, or more than `keep_bytes` lie between it and
the slowest follower. Short of space (under `free_min` of the disk): the oldest go first whatever the followers say, since
control outlives history; what restart needs (the older kept snapshot) and the newest segment never go.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from store.segment import list_segments, segment_path

KEEP_S: Final = 7 * 86_400.0
KEEP_BYTES: Final = 20 << 30
FREE_MIN: Final = 0.10


class SegmentFacts(NamedTuple):
    """One segment: first position, bytes on disk with its WAL, and when it was last written, ns since 1970."""

    first: int
    size: int
    written_ns: int


class TrimPlan(NamedTuple):
    """before: trim positions below it. is_cutting_off: a follower loses positions `slowest + 1 .. before - 1`: journal the gap."""

    before: int
    is_cutting_off: bool


def list_facts(directory: Path) -> list[SegmentFacts]:
    """Facts of all segments, oldest first."""
    facts = []
    for first in list_segments(directory):
        path = segment_path(directory, first)
        status = path.stat()
        wal = path.with_name(path.name + "-wal")
        facts.append(SegmentFacts(first, status.st_size + (wal.stat().st_size if wal.exists() else 0), status.st_mtime_ns))
    return facts


def plan_trim(
    segments: Sequence[SegmentFacts],
    *,
    slowest: int,
    needed: int,
    now_ns: int,
    free_bytes: int,
    disk_bytes: int,
    keep_s: float = KEEP_S,
    keep_bytes: int = KEEP_BYTES,
    free_min: float = FREE_MIN,
) -> TrimPlan:
    """Plan for `segments` (oldest first).

    slowest: last position that every follower has. needed: position of the oldest kept snapshot, from which a restart may read.
    Give the plan's `before` to `Journal.trim`; 0 trims nothing.
    """
    before, free = 0, free_bytes
    behind = sum(segment.size for segment, following in pairwise(segments) if following.first <= slowest + 1)
    for segment, following in pairwise(segments):
        if following.first > needed + 1:
            break
        is_followed = following.first <= slowest + 1
        is_old = now_ns - segment.written_ns > keep_s * 1e9
        is_short = free < free_min * disk_bytes
        if not (is_short or (is_followed and (is_old or behind > keep_bytes))):
            break
        before = following.first
        free += segment.size
        behind -= segment.size if is_followed else 0
    return TrimPlan(before, before > slowest + 1)
