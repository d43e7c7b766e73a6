"""When to send end-to-end receipts: at most every 5 s a device, or after half the window a device keeps unreceipted.

A receipt is taken from the ledger after the commit, so it never says more than what is on disk.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingest.ledger import Ledger
from telemetry.plan import NS_PER_S, Plan

INTERVAL_NS: Final = 5 * NS_PER_S
HALF_WINDOW: Final = 500  # devices keep at least 1,000 messages


class Receipts:
    """Which devices are owed a receipt."""

    def __init__(self) -> None:
        self._owed = np.zeros(0, np.bool_)
        self._sent_ns = np.zeros(0, np.int64)
        self._sent_seq = np.zeros(0, np.int64)
        self._sent_boot = np.zeros(0, np.int64)

    def configure(self, plan: Plan) -> None:
        """Make room for all devices."""
        more = len(plan.devices) - len(self._owed)
        if more > 0:
            self._owed = np.concatenate([self._owed, np.zeros(more, np.bool_)])
            self._sent_ns = np.concatenate([self._sent_ns, np.zeros(more, np.int64)])
            self._sent_seq = np.concatenate([self._sent_seq, np.full(more, -1, np.int64)])
            self._sent_boot = np.concatenate([self._sent_boot, np.full(more, -1, np.int64)])

    def note(self, devices: NDArray[Any]) -> None:
        """Frames with sequence numbers of these devices were committed."""
        self._owed[devices] = True

    def due(self, now_ns: int, ledger: Ledger, plan: Plan) -> Iterator[tuple[str, int, int]]:
        """("site/device", boot, seq) of every receipt to send now; marks them sent."""
        owed = np.flatnonzero(self._owed)
        sent = np.where(ledger.boots[owed, 0] == self._sent_boot[owed], self._sent_seq[owed], -1)
        ahead = ledger.high[owed, 0] - sent >= HALF_WINDOW
        for number in owed[(now_ns - self._sent_ns[owed] >= INTERVAL_NS) | ahead].tolist():
            device, receipt = plan.devices[number], ledger.receipt(number)
            self._owed[number] = False
            if receipt is None or not device.profile.receipts:
                continue
            self._sent_ns[number], (self._sent_boot[number], self._sent_seq[number]) = now_ns, receipt
            yield device.key, *receipt
