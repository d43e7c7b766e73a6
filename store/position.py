"""How far a follower is: a small text file, from which core learns what of the journal nobody needs any more."""

import contextlib
from pathlib import Path
from typing import Final

from telemetry.clock import Clock
from telemetry.plan import NS_PER_S

TOLD_EVERY_S: Final = 5.0


class PositionFile:
    """Written whole or not at all, at most every TOLD_EVERY_S. It lags: after a kill the journal keeps a little more than needed."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._told = -1
        self._due_ns = 0

    def tell(self, position: int) -> None:
        """Everything up to `position` is safely ours. Never raises: on a full disk the journal is merely kept for longer."""
        now_ns = self._clock.now_ns()
        if position == self._told or now_ns < self._due_ns:
            return
        self._due_ns = now_ns + int(TOLD_EVERY_S * NS_PER_S)
        draft = self._path.with_suffix(".position.new")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(str(position), "utf-8")
            draft.replace(self._path)
            self._told = position
