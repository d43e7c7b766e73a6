from hypothesis import given
from hypothesis import strategies as st

from simulators.backlog import BURST_MAX, RESENDS_MAX, Backlog

RESEND_NS = 30_000_000_000


def payload(seq: int) -> bytes:
    return str(seq).encode()


def test_message_is_kept_until_its_receipt():
    backlog = Backlog(10)
    for seq in range(3):
        backlog.keep(seq, payload(seq), sent_ns=0)
    assert backlog.receipt(1) == 2
    assert backlog.receipt(1) == 0
    assert len(backlog) == 1


def test_what_waited_for_the_link_goes_to_backfill_once():
    backlog = Backlog(10)
    backlog.keep(0, payload(0), sent_ns=None)
    assert backlog.due(5, may_resend=True) == [b"0"]
    assert backlog.due(6, may_resend=True) == []


def test_lost_link_makes_everything_uncovered_due_again_in_order():
    backlog = Backlog(10)
    for seq in range(4):
        backlog.keep(seq, payload(seq), sent_ns=0)
    backlog.receipt(1)
    backlog.reconnected()
    assert backlog.due(1, may_resend=False) == [b"2", b"3"]


def test_silent_service_is_asked_three_times_then_the_message_is_declared_lost():
    backlog = Backlog(10)
    backlog.keep(7, payload(7), sent_ns=0)
    now = 0
    for _ in range(RESENDS_MAX):
        assert backlog.due(now + RESEND_NS - 1, may_resend=True) == []
        now += RESEND_NS
        assert backlog.due(now, may_resend=True) == [b"7"]
    assert backlog.take_lost_to() is None
    assert backlog.due(now + RESEND_NS, may_resend=True) == []
    assert backlog.take_lost_to() == 7
    assert backlog.take_lost_to() is None
    assert (len(backlog), backlog.given_up) == (0, 1)


def test_patience_is_an_option():
    backlog = Backlog(10, resend_s=6)
    backlog.keep(7, payload(7), sent_ns=0)
    assert backlog.due(5_999_999_999, may_resend=True) == []
    assert backlog.due(6_000_000_000, may_resend=True) == [b"7"]


def test_stopped_service_costs_no_sample():
    backlog = Backlog(10)
    backlog.keep(0, payload(0), sent_ns=0)
    assert backlog.due(10**6 * RESEND_NS, may_resend=False) == []
    assert len(backlog) == 1


def test_repeated_link_losses_use_up_no_tries():
    backlog = Backlog(10)
    backlog.keep(0, payload(0), sent_ns=0)
    for now in range(10):
        backlog.reconnected()
        assert backlog.due(now, may_resend=True) == [b"0"]
    assert backlog.take_lost_to() is None


def test_full_ring_drops_the_oldest_and_says_so():
    backlog = Backlog(3)
    for seq in range(3):
        backlog.keep(seq, payload(seq), sent_ns=None)
    assert backlog.take_lost_to() is None
    backlog.keep(3, payload(3), sent_ns=None)
    assert len(backlog) == 3
    assert backlog.take_lost_to() == 0


def test_one_step_sends_a_bounded_burst():
    backlog = Backlog(1000)
    for seq in range(BURST_MAX + 1):
        backlog.keep(seq, payload(seq), sent_ns=None)
    assert len(backlog.due(0, may_resend=True)) == BURST_MAX
    assert len(backlog.due(0, may_resend=True)) == 1


@given(st.lists(st.tuples(st.sampled_from(["keep", "keep offline", "link", "due", "receipt"]), st.integers(0, 40)), max_size=80))
def test_every_message_is_kept_received_or_declared_lost(actions):
    backlog, seq, now, receipted, lost_to = Backlog(8), 0, 0, -1, -1
    for action, number in actions:
        now += number * RESEND_NS // 10
        if action == "keep":
            backlog.keep(seq, payload(seq), sent_ns=now)
            seq += 1
        elif action == "keep offline":
            backlog.keep(seq, payload(seq), sent_ns=None)
            seq += 1
        elif action == "link":
            backlog.reconnected()
        elif action == "due":
            backlog.due(now, may_resend=number % 2 == 0)
        elif seq:
            receipted = max(receipted, number % seq)
            backlog.receipt(receipted)
        lost_to = max(lost_to, backlog.take_lost_to() if backlog._undeclared else -1)
        assert len(backlog) <= 8
        assert len(backlog) >= seq - 1 - max(receipted, lost_to)
