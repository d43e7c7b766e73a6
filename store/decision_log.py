"""The canonical decision log out of a history: what it covers, and its lines a page at a time.

A log ends at the position the history had when it was begun, so that it is a whole log although the history goes on.
"""

import json
from typing import NamedTuple

from store.history import RECORDS_MAX, History, decision_line


class Coverage(NamedTuple):
    """What a history's decision log covers, in journal positions.

    position: its last. whole_from: its first; before it an older version kept decisions that are not whole. gaps: [first, last]
    of entries that were trimmed from the journal before the history had them.
    """

    position: int
    whole_from: int
    gaps: list[tuple[int, int]]

    def notes(self, journal_last: int) -> list[str]:
        """Why this log may be shorter than that of a journal which ends at `journal_last`; [] when it is not."""
        said = []
        if self.whole_from > 0:
            said.append(
                f"history has whole decisions from journal position {self.whole_from} on; an older version kept those before"
            )
        said += [
            f"history has a gap: journal positions {first} to {last} were trimmed before it had them" for first, last in self.gaps
        ]
        if journal_last > self.position:
            behind = journal_last - self.position
            said.append(
                f"history is at journal position {self.position}, {behind} behind the journal; start web, or ask again later"
            )
        return said


def read_coverage(history: History) -> Coverage:
    """What its log covers now. Raises StoreError."""
    position = history.position()
    bodies = [json.loads(row.body) for row in history.records(kind="gap", limit=RECORDS_MAX, newest_first=False)]
    return Coverage(position, history.decisions_from(), [(body["first"], body["last"]) for body in bodies])


def read_lines(history: History, after: int, last: int) -> tuple[list[bytes], int]:
    """The next lines after a position and up to `last`, and the position they end at. No lines: that was all. Raises StoreError."""
    rows = [row for row in history.decisions(after) if row.position <= last]
    return [decision_line(row) for row in rows], rows[-1].position if rows else last
