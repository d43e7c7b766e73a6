"""Store-and-forward of a device: every message is kept until the service's receipt covers it, or given up and declared.

A PUBACK proves nothing about the service, only the receipt does. A message is sent once live; after a lost link, and whenever no
receipt covers it in time, it goes again on `backfill` under its old sequence number. After `RESENDS_MAX` repeats, or when the ring
is full, the oldest is given up and `lost_to` says so: a gap that is known is no silent loss.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

RESENDS_MAX: Final = 3
BURST_MAX: Final = 50  # messages of the backlog in one step: live data must not queue behind it


@dataclass(slots=True)
class _Kept:
    payload: bytes
    sends: int = 0
    sent_ns: int = 0
    is_due: bool = False


class Backlog:
    """Messages of one boot by sequence number, oldest first. At `messages_max` the oldest is dropped and declared lost.

    Receipts come within 5 s or half a window: `resend_s` of silence mean that the message went missing.
    """

    def __init__(self, messages_max: int, *, resend_s: float = 30.0) -> None:
        assert messages_max > 0
        assert resend_s > 5
        self._messages_max = messages_max
        self._resend_ns = int(resend_s * 1e9)
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._lost_to: int | None = None
        self._undeclared = False
        self.given_up = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, seq: int, payload: bytes, *, sent_ns: int | None) -> None:
        """Keep a new message; `sent_ns` None = there was no link, it waits for the next one."""
        if len(self._kept) >= self._messages_max:
            self._give_up(next(iter(self._kept)))
        if sent_ns is None:
            self._kept[seq] = _Kept(payload, is_due=True)
        else:
            self._kept[seq] = _Kept(payload, sends=1, sent_ns=sent_ns)

    def receipt(self, seq: int) -> int:
        """All up to and including `seq` are stored or rejected; returns how many could be forgotten."""
        covered = [kept for kept in self._kept if kept <= seq]
        for kept in covered:
            del self._kept[kept]
        return len(covered)

    def reconnected(self) -> None:
        """The link was lost and is back: whatever is not covered may have been lost with it."""
        for kept in self._kept.values():
            kept.is_due = True

    def due(self, now_ns: int, *, may_resend: bool) -> list[bytes]:
        """The next messages for `backfill`, oldest first, at most BURST_MAX. `may_resend` False (no sign of a service that could
        answer) holds back repeats, so that a stopped service costs no sample."""
        burst: list[bytes] = []
        for seq in list(self._kept):
            kept = self._kept[seq]
            is_late = kept.sends > 0 and may_resend and now_ns - kept.sent_ns >= self._resend_ns
            if not kept.is_due and not is_late:
                continue
            if is_late and kept.sends > RESENDS_MAX:
                self._give_up(seq)
                continue
            kept.is_due, kept.sent_ns = False, now_ns
            # A repeat after a lost link is not the service's silence: it does not use up a try.
            kept.sends += 1 if is_late or kept.sends == 0 else 0
            burst.append(kept.payload)
            if len(burst) >= BURST_MAX:
                break
        return burst

    def take_lost_to(self) -> int | None:
        """The highest sequence number given up that was not declared yet, once; None when there is none."""
        if not self._undeclared:
            return None
        self._undeclared = False
        return self._lost_to

    def _give_up(self, seq: int) -> None:
        # Receipts are cumulative, so what is lost is declared as "everything up to": older ones go with it.
        for kept in [kept for kept in self._kept if kept <= seq]:
            del self._kept[kept]
            self.given_up += 1
        self._lost_to = seq if self._lost_to is None else max(seq, self._lost_to)
        self._undeclared = True
