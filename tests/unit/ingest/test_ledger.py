"""The ledger against a set of numbers: what is missing, what is a duplicate, what a receipt may say."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.ledger import DUPLICATE, GAPS_MAX, NEW, REORDERED, Ledger
from telemetry.frame import Flag

SEEN = int(Flag.HAS_SEQ | Flag.FIRST)


def book(ledger: Ledger, sequences: list[int], boot: int = 1, device: int = 0) -> list[int]:
    n = len(sequences)
    columns = (
        np.full(n, device, np.int32),
        np.full(n, boot, np.uint32),
        np.array(sequences, np.uint32),
        np.full(n, SEEN, np.uint8),
    )
    return ledger.book(*columns).tolist()


def make(*, numba: bool = True) -> Ledger:
    ledger = Ledger(numba=numba)
    ledger.grow(2)
    return ledger


def test_consecutive_numbers_are_new_and_receipted() -> None:
    ledger = make()
    assert book(ledger, [0, 1, 2]) == [NEW] * 3
    assert ledger.receipt(0) == (1, 2)
    assert ledger.receipt(1) is None


def test_what_came_before_the_first_contact_holds_the_receipt_until_it_arrives_or_is_given_up() -> None:
    ledger = make()
    book(ledger, [5, 6])
    assert ledger.receipt(0) is None, "a receipt would let the device drop its backlog"
    assert book(ledger, [0, 1, 2]) == [REORDERED] * 3
    assert ledger.receipt(0) == (1, 2)
    ledger.give_up(0, 1, 4)
    assert ledger.receipt(0) == (1, 6)


def test_gap_holds_the_receipt_until_it_is_filled() -> None:
    ledger = make()
    book(ledger, [0, 1, 4])
    assert ledger.receipt(0) == (1, 1)
    assert ledger.counts[0].tolist() == [2, 0, 0, 0]
    assert book(ledger, [3, 2]) == [REORDERED, REORDERED]
    assert ledger.receipt(0) == (1, 4)
    assert ledger.counts[0].tolist() == [0, 0, 0, 2]


def test_frames_of_one_message_share_its_verdict() -> None:
    ledger = make()
    flags = np.array([SEEN, int(Flag.HAS_SEQ), SEEN, int(Flag.HAS_SEQ)], np.uint8)
    same = np.zeros(4, np.int32), np.ones(4, np.uint32), np.full(4, 9, np.uint32), flags
    assert ledger.book(*same).tolist() == [NEW, NEW, DUPLICATE, DUPLICATE]


def test_new_boot_starts_at_zero_and_the_old_boot_may_still_drain() -> None:
    ledger = make()
    book(ledger, [10, 12], boot=1)
    assert book(ledger, [1], boot=2) == [NEW]
    assert ledger.receipt(0) is None, "number 0 of the new boot is missing"
    assert book(ledger, [11, 11], boot=1) == [REORDERED, DUPLICATE]
    assert book(ledger, [0], boot=2) == [REORDERED]
    assert ledger.receipt(0) == (2, 1)


def test_device_that_gives_up_closes_its_gaps() -> None:
    ledger = make()
    book(ledger, [0, 4, 9])
    assert ledger.give_up(0, 1, 6) == 5
    assert ledger.receipt(0) == (1, 6)
    assert ledger.counts[0].tolist() == [2, 5, 0, 0]


def test_more_gaps_than_room_declares_the_oldest_lost() -> None:
    ledger = make()
    book(ledger, list(range(0, 2 * (GAPS_MAX + 2), 2)))
    assert ledger.counts[0].tolist()[:2] == [GAPS_MAX, 1]


def test_what_was_declared_lost_and_comes_after_all_is_no_duplicate() -> None:
    ledger = make()
    book(ledger, list(range(0, 2 * (GAPS_MAX + 2), 2)))
    assert book(ledger, [1, 3, 3]) == [NEW, REORDERED, DUPLICATE]
    ledger = make()
    book(ledger, [0, 4, 9])
    ledger.give_up(0, 1, 6)
    assert book(ledger, [2, 7, 9]) == [NEW, REORDERED, DUPLICATE]


def test_what_was_given_up_before_anything_of_it_came_leaves_no_gap() -> None:
    """A device whose memory was full declares on its birth what it dropped, then sends what it kept."""
    ledger = make()
    book(ledger, [0, 1, 3])
    assert ledger.give_up(0, 1, 9) == 7
    assert ledger.receipt(0) == (1, 9)
    assert book(ledger, [10, 11, 5]) == [NEW] * 3
    assert ledger.receipt(0) == (1, 11)
    assert ledger.counts[0].tolist() == [0, 7, 0, 0]


def test_a_senseless_declaration_changes_nothing() -> None:
    ledger = make()
    book(ledger, [0, 1, 3])
    assert [ledger.give_up(0, 1, seq) for seq in (-1, 1 << 32, 10**30)] == [0, 0, 0]
    assert ledger.receipt(0) == (1, 1)


def test_a_backlog_that_drains_after_the_first_live_message_is_new() -> None:
    ledger = make()
    assert book(ledger, [100, 0, 1, 2, 101, 100]) == [NEW, REORDERED, REORDERED, REORDERED, NEW, DUPLICATE]


def test_a_gap_without_room_to_split_loses_nothing_that_still_comes() -> None:
    ledger = make()
    book(ledger, [0, *range(10, 10 + 2 * GAPS_MAX, 2)])
    book(ledger, [5])
    assert book(ledger, [3, 5, 7, 10]) == [NEW, DUPLICATE, REORDERED, DUPLICATE]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 7))
def test_any_order_equals_a_set_of_numbers(sequences: list[int], cut: int) -> None:
    """Compiled and plain loops, cut anywhere, agree with the obvious model."""
    ledger, plain = make(), make(numba=False)
    verdicts = [v for k in range(0, len(sequences), cut) for v in book(ledger, sequences[k : k + cut])]
    assert verdicts == book(plain, sequences)
    for name, column in ledger.snapshot().items():
        np.testing.assert_array_equal(column, plain.snapshot()[name])
    if not sequences or ledger.counts[0, 1]:
        return
    seen: set[int] = set()
    high = -1
    for s, verdict in zip(sequences, verdicts, strict=True):
        assert verdict == (NEW if s > high else DUPLICATE if s in seen else REORDERED)
        seen.add(s)
        high = max(high, s)
    missing = [s for s in range(high) if s not in seen]
    assert ledger.counts[0, 0] == len(missing)
    first = min(missing, default=high + 1)
    assert ledger.receipt(0) == ((1, first - 1) if first > 0 else None)
