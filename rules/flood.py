"""Alarm floods: more alarms in an area than one person can answer become one parent alarm.

A flood begins with the eleventh alarm raised within 10 min and ends when fewer than five were (EEMUA 191, IEC 62682).
"""

from typing import Any, Final

import numpy as np

from telemetry.plan import NS_PER_S
from telemetry.span import TIMER, Span

WINDOW_NS: Final = 600 * NS_PER_S
BEGINS, ENDS = 11, 5  # alarms within the window


class Floods:
    """Times of alarms by area, and which areas are flooded. Part of the alarm stage."""

    def __init__(self) -> None:
        self._times: dict[str, list[int]] = {}  # "site/area" -> times of the newest alarms, ascending
        self._flooded: dict[str, int] = {}  # "site/area" -> alarms so far
        self._noted: list[tuple[int, int, int, str]] = []

    def note(self, entry: int, phase: int, time_ns: int, area: str) -> None:
        """An alarm was raised."""
        self._noted.append((entry, phase, time_ns, area))

    def run(self, span: Span) -> None:
        """Begin and end floods in the order of the journal."""
        noted, self._noted = self._noted, []
        for entry, phase, time_ns, area in noted:
            self._end_before(span, area, entry, phase, time_ns)
            # All of the newest are kept, however old: samples' times may run ahead of the entries that end a flood.
            times = self._times[area] = sorted([*self._times.get(area, []), time_ns])[-BEGINS:]
            if area in self._flooded:
                self._flooded[area] += 1
            elif len(times) == BEGINS and times[0] > time_ns - WINDOW_NS:
                self._flooded[area] = BEGINS
                self._tell(span, (entry, phase, time_ns), area, {"from": "NORM", "to": "UNACK", "event": "raise", "count": BEGINS})
        if len(span.entries):
            for area in sorted(self._flooded):
                self._end_before(span, area, len(span.entries), 0, 0)

    def _end_before(self, span: Span, area: str, entry: int, phase: int, time_ns: int) -> None:
        """End an area's flood when its time comes before an entry (or with the phase's timers of it)."""
        if area not in self._flooded:
            return
        due, times = self._times[area][-ENDS] + WINDOW_NS, span.entries.time_ns
        at = int(np.searchsorted(times, due, side="left"))
        if at >= len(times) or (at, TIMER, due) > (entry, phase, time_ns if phase == TIMER else 0):
            return
        body = {"from": "UNACK", "to": "NORM", "event": "clear", "count": self._flooded.pop(area)}
        self._tell(span, (at, TIMER, due), area, body)

    @staticmethod
    def _tell(span: Span, at: tuple[int, int, int], area: str, body: dict[str, Any]) -> None:
        entry, phase, time_ns = at
        span.decide(entry=entry, phase=phase, time_ns=time_ns, stage=41, kind="flood", subject=area, body=body)

    def snapshot(self) -> dict[str, Any]:
        """Times by area, flooded areas."""
        return {"times": {area: list(times) for area, times in self._times.items()}, "flooded": dict(self._flooded)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Inverse of `snapshot`."""
        self._times = {area: list(times) for area, times in saved["times"].items()}
        self._flooded = dict(saved["flooded"])
