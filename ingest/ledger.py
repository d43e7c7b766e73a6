"""The ledger: per device and boot, which sequence numbers arrived, which are missing, and what a receipt may say.

A device counts its messages with a uint32 that starts at 0 with every boot; boot ids grow. Everything up to `high` has arrived
except the numbers inside at most `GAPS_MAX` open gaps. A number inside a gap fills it (reordered or resent), any other known
number is a duplicate. When there are more gaps than room, the oldest is declared lost. Two boots are kept, so that a device may
drain what it stored before it restarted.

Nothing that was never seen is called a duplicate: below `base` (what was declared lost) the book does not
know every number, so one that comes there is new, and repetitions are found by point and time instead.
"""

from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from telemetry.frame import Flag

Array = NDArray[Any]
GAPS_MAX: Final = 16
BOOTS: Final = 2
HAS_SEQ, FIRST = int(Flag.HAS_SEQ), int(Flag.FIRST)
_SEQUENCES: Final = range(1 << 32)
_COLUMNS: Final = ("boots", "high", "base", "gaps", "last", "counts")
_WRAP_HIGH, _WRAP_LOW = (1 << 32) - (1 << 20), 1 << 20
_compile = njit(cache=True, nogil=True)

NEW, DUPLICATE, REORDERED = 0, 1, 2


def book_messages(
    device: Array, boot: Array, seq: Array, flags: Array, boots: Array, high: Array, base: Array, gaps: Array, last: Array,
    counts: Array,
) -> Array:  # fmt: skip
    """Verdict of every frame's message: NEW, DUPLICATE or REORDERED (fills a gap); frames of one message share it.

    device, boot, seq, flags (n,). State, moved in place: boots (d, 2) int64 (-1 none, column 0 is current), high, base (d, 2) int64,
    gaps (d, 2, GAPS_MAX, 2) int64 inclusive [from, to] sorted, -1 none; last (d,) verdict of the message begun last;
    counts (d, 4): missing now, lost for good, duplicates, reordered.
    """
    n = len(device)
    verdict = np.zeros(n, np.uint8)
    for f in range(n):
        d = device[f]
        if not flags[f] & FIRST:
            verdict[f] = last[d]
            continue
        last[d] = NEW
        if not flags[f] & HAS_SEQ:
            continue
        b, s = np.int64(boot[f]), np.int64(seq[f])
        slot = 0
        if boots[d, 0] != b:
            if boots[d, 1] == b:
                slot = 1
            elif b > boots[d, 0]:
                boots[d, 1], high[d, 1], base[d, 1] = boots[d, 0], high[d, 0], base[d, 0]
                gaps[d, 1] = gaps[d, 0]
                boots[d, 0] = b
                gaps[d, 0] = -1
                # Numbers before the first one that arrives are missing, also at the first contact ever: a receipt that covered them
                # would let the device drop a backlog that is still on its way.
                high[d, 0], base[d, 0] = -1, 0
            else:
                continue  # an older boot than both: no book is kept, history compares the rows
        top = high[d, slot]
        if top >= _WRAP_HIGH and s < _WRAP_LOW:
            gaps[d, slot] = -1
            high[d, slot], base[d, slot] = s, s
            continue
        if s == top + 1:
            high[d, slot] = s
        elif s > top:
            counts[d, 0] += s - top - 1
            if gaps[d, slot, GAPS_MAX - 1, 0] != -1:
                lost = gaps[d, slot, 0, 1] - gaps[d, slot, 0, 0] + 1
                base[d, slot] = max(base[d, slot], gaps[d, slot, 0, 1] + 1)
                counts[d, 0] -= lost
                counts[d, 1] += lost
                for k in range(GAPS_MAX - 1):
                    gaps[d, slot, k] = gaps[d, slot, k + 1]
                gaps[d, slot, GAPS_MAX - 1] = -1
            for k in range(GAPS_MAX):
                if gaps[d, slot, k, 0] == -1:
                    gaps[d, slot, k, 0], gaps[d, slot, k, 1] = top + 1, s - 1
                    break
            high[d, slot] = s
        else:
            filled = False
            for k in range(GAPS_MAX):
                lo, hi = gaps[d, slot, k, 0], gaps[d, slot, k, 1]
                if lo == -1 or s < lo:
                    break
                if s > hi:
                    continue
                filled = True
                counts[d, 0] -= 1
                if lo == hi:
                    for j in range(k, GAPS_MAX - 1):
                        gaps[d, slot, j] = gaps[d, slot, j + 1]
                    gaps[d, slot, GAPS_MAX - 1] = -1
                elif s == lo:
                    gaps[d, slot, k, 0] = s + 1
                elif s == hi:
                    gaps[d, slot, k, 1] = s - 1
                elif gaps[d, slot, GAPS_MAX - 1, 0] == -1:
                    for j in range(GAPS_MAX - 1, k, -1):
                        gaps[d, slot, j] = gaps[d, slot, j - 1]
                    gaps[d, slot, k, 1] = s - 1
                    gaps[d, slot, k + 1, 0] = s + 1
                else:
                    # No room to split: the older half is declared lost, the younger half stays open.
                    counts[d, 0] -= s - lo
                    counts[d, 1] += s - lo
                    gaps[d, slot, k, 0] = s + 1
                    base[d, slot] = max(base[d, slot], s)
                break
            last[d] = REORDERED if filled else NEW if s < base[d, slot] else DUPLICATE
            if last[d] != NEW:
                counts[d, 3 if filled else 2] += 1
        verdict[f] = last[d]
    return verdict


_book_compiled = _compile(book_messages)


class Ledger:
    """State of every device by number; grows with the configuration."""

    def __init__(self, *, numba: bool = True) -> None:
        self._book = _book_compiled if numba else book_messages
        self._allocate(0)

    def _allocate(self, count: int) -> None:
        self.boots = np.full((count, BOOTS), -1, np.int64)
        self.high = np.full((count, BOOTS), -1, np.int64)
        self.base = np.zeros((count, BOOTS), np.int64)
        self.gaps = np.full((count, BOOTS, GAPS_MAX, 2), -1, np.int64)
        self.last = np.zeros(count, np.uint8)
        self.counts = np.zeros((count, 4), np.int64)

    def grow(self, count: int) -> None:
        """Make room for `count` devices; known ones keep their books."""
        old = self.snapshot()
        if count > len(self.last):
            self._allocate(count)
            self.restore(old)

    def book(self, device: Array, boot: Array, seq: Array, flags: Array) -> Array:
        """See `book_messages`."""
        return self._book(device, boot, seq, flags, self.boots, self.high, self.base, self.gaps, self.last, self.counts)

    def receipt(self, device: int) -> tuple[int, int] | None:
        """(boot, seq): every message of the current boot up to seq is stored or rejected; None before the first one."""
        boot = int(self.boots[device, 0])
        first_gap = int(self.gaps[device, 0, 0, 0])
        seq = int(self.high[device, 0]) if first_gap == -1 else first_gap - 1
        return None if boot == -1 or seq < 0 else (boot, seq)

    def give_up(self, device: int, boot: int, seq: int) -> int:
        """The device declares everything up to `seq` lost; returns how many numbers that closes."""
        lost = 0
        for slot in range(BOOTS):
            if int(self.boots[device, slot]) != boot or boot not in _SEQUENCES or seq not in _SEQUENCES:
                continue
            kept = []
            for lo, hi in self.gaps[device, slot].tolist():
                if lo == -1 or lo > seq:
                    kept += [(lo, hi)] if lo != -1 else []
                    continue
                lost += min(hi, seq) - lo + 1
                self.base[device, slot] = max(self.base[device, slot], min(hi, seq) + 1)
                if hi > seq:
                    kept.append((max(lo, seq + 1), hi))
            self.gaps[device, slot] = -1
            for k, gap in enumerate(kept):
                self.gaps[device, slot, k] = gap
            self.counts[device, 0] -= lost
            beyond = seq - int(self.high[device, slot])
            if beyond > 0:  # lost before anything of it came: the next number leaves no gap
                self.high[device, slot], self.base[device, slot] = seq, seq + 1
                lost += beyond
        self.counts[device, 1] += lost
        return lost

    def snapshot(self) -> dict[str, Any]:
        """Arrays by device number."""
        return {name: getattr(self, name) for name in _COLUMNS}

    def restore(self, saved: dict[str, Any]) -> None:
        """Inverse of `snapshot`; devices beyond it stay unknown."""
        for name in _COLUMNS:
            getattr(self, name)[: len(saved[name])] = saved[name]
