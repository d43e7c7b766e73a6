"""One journal transaction: entries, what `step` decided on them, and the cumulative accounting, made durable together."""

from typing import Any

import msgspec

from telemetry.decision import Decision, decode_decisions
from telemetry.frame import Admission, Entries
from telemetry.wire.columns import decode_admission, decode_entries


class Accounting(msgspec.Struct):
    """received = stored + duplicate + rejected + pending, in messages and in samples, at every moment."""

    received: int = 0
    stored: int = 0
    duplicate: int = 0
    rejected: int = 0
    pending: int = 0
    samples_received: int = 0
    samples_stored: int = 0
    samples_duplicate: int = 0
    samples_rejected: int = 0
    samples_pending: int = 0
    rejected_by_reason: dict[str, int] = {}
    gaps: int = 0  # sequence numbers missing so far, over all devices
    late: int = 0
    future: int = 0
    changed: int = 0  # same point and time, other value: the first stays
    upgrade_count: int = 0  # transactions that the newest differing build would have decided otherwise; the journaled stay facts
    upgrade_first: int = -1  # position of the first such decision

    def is_balanced(self) -> bool:
        """True when both sums hold."""
        return (
            self.received == self.stored + self.duplicate + self.rejected + self.pending
            and self.samples_received == self.samples_stored + self.samples_duplicate + self.samples_rejected + self.samples_pending
        )


class Transaction(msgspec.Struct, frozen=True):
    """What the journal writes at once. `first`..`first + count - 1` are the positions of its entries."""

    first: int
    count: int
    epoch: int
    engine_ns: int  # engine time of its last entry
    entries: bytes  # telemetry.wire.columns.encode_entries
    admission: bytes  # telemetry.wire.columns.encode_admission
    decisions: bytes  # telemetry.decision.encode_decisions
    accounting: bytes  # JSON of Accounting
    rows: int = 0  # samples in it: readers bound their work by this

    @property
    def last(self) -> int:
        """Position of its last entry."""
        return self.first + self.count - 1

    def read_entries(self) -> Entries:
        """The entries."""
        return decode_entries(self.entries)

    def read_admission(self) -> Admission:
        """Verdict of each frame, quality of each sample."""
        return decode_admission(self.admission)

    def read_decisions(self) -> list[Decision]:
        """Decisions in canonical order."""
        return decode_decisions(self.decisions)

    def read_accounting(self) -> Accounting:
        """Counters after this transaction."""
        return msgspec.json.decode(self.accounting, type=Accounting)


def as_row(transaction: Transaction) -> dict[str, Any]:
    """Fields by name, for a store's insert."""
    return {name: getattr(transaction, name) for name in Transaction.__struct_fields__}
