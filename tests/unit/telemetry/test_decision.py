"""Decisions: one order, one log, one hash."""

import random

from telemetry.decision import Decision, LogHash, decode_decisions, encode_decisions, in_order, log_line


def made(position: int, phase: int, time_ns: int, stage: int, subject: str, **body: object) -> Decision:
    return Decision(position, phase, time_ns, stage, "alarm", subject, dict(body))


def test_the_order_is_position_timers_by_time_stage_subject() -> None:
    wanted = [
        made(1, 0, 5, 40, "b"), made(1, 0, 7, 30, "a"), made(1, 1, 9, 30, "z"), made(1, 1, 2, 40, "a"), made(1, 1, 1, 40, "b"),
        made(2, 0, 1, 10, "a"),
    ]  # fmt: skip
    shuffled = wanted.copy()
    random.Random(1).shuffle(shuffled)
    assert in_order(shuffled) == wanted


def test_equal_places_keep_the_order_in_which_they_were_made() -> None:
    two = [made(1, 1, 1, 40, "a", n=1), made(1, 1, 1, 40, "a", n=0)]
    assert in_order(two) == two


def test_the_journal_form_goes_there_and_back() -> None:
    decisions = [made(2**60, 1, -5, 40, "HOT@s/d", value=None, text="太热", list=[1, 2.5, {"a": True}])]
    assert decode_decisions(encode_decisions(decisions)) == decisions
    assert (encode_decisions([]), decode_decisions(b"")) == (b"", [])


def test_the_order_of_keys_does_not_matter_and_every_content_does() -> None:
    a, b = made(1, 1, 1, 40, "x", p=1, q=2), made(1, 1, 1, 40, "x", q=2, p=1)
    assert (log_line(a), encode_decisions([a])) == (log_line(b), encode_decisions([b]))
    hashes = set()
    for log in ([a], [a, a], [made(1, 1, 1, 40, "x", p=1, q=3)], [made(1, 1, 2, 40, "x", p=1, q=2)], []):
        digest = LogHash()
        digest.add(log)
        assert digest.count == len(log)
        hashes.add(digest.hexdigest())
    assert len(hashes) == 5


def test_the_hash_does_not_know_batches() -> None:
    decisions = [made(k, 1, k, 40, "x") for k in range(20)]
    whole, parts = LogHash(), LogHash()
    whole.add(decisions)
    for k in range(0, 20, 3):
        parts.add(decisions[k : k + 3])
    assert whole.hexdigest() == parts.hexdigest()
