"""Changes of alarms and floods out of a site's history, in the order in which they were decided."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from store.history import RECORDS_MAX, History, RecordRow
from telemetry.errors import CallerError

CHANGES_MAX: Final = 200_000  # of one question: some 2 s to read and measure, and 160 MB


class Change(NamedTuple):
    """One change of one alarm: "RULE@site/device", or "site/area" for a flood. priority and author are "" where there is none."""

    time_ns: int
    subject: str
    area: str
    event: str
    before: str
    after: str
    priority: str = ""
    author: str = ""


class _Body(msgspec.Struct):
    from_: str = msgspec.field(default="NORM", name="from")
    to: str = "NORM"
    event: str = ""
    area: str = ""
    priority: str | None = None
    author: str | None = None


_decode = msgspec.json.Decoder(_Body, strict=False).decode


def read_rows(
    history: History, kinds: Sequence[str], site: str, start_ms: int, end_ms: int, *, most: int = CHANGES_MAX
) -> list[RecordRow]:
    """Every decision of these kinds in [start_ms, end_ms), in the order of the journal. Blocking: for a query thread.

    Raises CallerError when there are more than `most` of a kind.
    """
    rows = []
    for kind in kinds:
        rows += _halved(history, kind, site, start_ms, end_ms, most)
    return sorted(rows, key=lambda r: (r.position, r.phase or 0, r.time_ns if r.phase == 0 else 0, r.stage or 0, r.subject))


def _halved(history: History, kind: str, site: str, start_ms: int, end_ms: int, most: int) -> list[RecordRow]:
    """A range that holds more than one answer of the store is read as two halves."""
    if start_ms >= end_ms:
        return []
    rows = history.records(kind=kind, site=site, start_ms=start_ms, end_ms=end_ms, limit=RECORDS_MAX, newest_first=False)
    if len(rows) == RECORDS_MAX:
        if end_ms - start_ms == 1:
            raise CallerError(f"{RECORDS_MAX:,} decisions of kind {kind} and more within one millisecond cannot be told apart")
        middle = (start_ms + end_ms) // 2
        rows = _halved(history, kind, site, start_ms, middle, most)
        rows += _halved(history, kind, site, middle, end_ms, most - len(rows))
    if len(rows) > most:
        raise CallerError(f"the range holds too many decisions of kind {kind} to be measured at once; ask for a shorter one")
    return rows


def change_of(row: RecordRow) -> Change:
    """What a decision of kind alarm, shadow or flood says."""
    body = _decode(row.body)
    area = body.area or ("" if "@" in row.subject else row.subject.rpartition("/")[2])
    return Change(row.time_ns, row.subject, area, body.event, body.from_, body.to, body.priority or "", body.author or "")
