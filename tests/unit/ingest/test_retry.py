"""The retry schedule: jitter within its ceilings, and the suspicion of a second core."""

import random

from ingest.retry import BACKOFF_MAX_S, QUIET_S, REST_MAX_S, REST_S, STABLE_S, TAKEN_OVER_S, Ending, Retry

ORDERLY, BROKEN = Ending("closed", "orderly"), Ending("reset", "reset")


def lives(retry, lived_s, ending, at_s, session_present=True):
    retry.up(at_s, session_present=session_present)
    return retry.after(ending, at_s + lived_s)


def test_waits_double_up_to_the_limit_and_start_anew_after_a_stable_connection():
    retry = Retry("core", random.Random(1))
    for attempt in range(1, 30):
        reason, wait_s = retry.after(BROKEN, float(attempt))
        assert reason == "reset"
        assert 0.0 <= wait_s <= min(BACKOFF_MAX_S, 0.1 * 2**attempt)
    assert lives(retry, STABLE_S, BROKEN, 100.0)[1] <= 0.1


def test_three_early_orderly_closes_are_another_core():
    retry = Retry("core-7", random.Random(1))
    assert [lives(retry, 0.1, ORDERLY, at)[0] for at in (0.0, 1.0)] == ["closed", "closed"]
    reason, wait_s = lives(retry, 0.1, ORDERLY, 2.0)
    assert "another core" in reason
    assert "core-7" in reason
    assert wait_s >= REST_S
    reason, wait_s = lives(retry, 0.1, ORDERLY, 100.0)  # after the rest once is enough
    assert "another core" in reason
    assert wait_s >= 2 * REST_S
    for number in range(20):
        wait_s = lives(retry, 0.1, ORDERLY, 1000.0 + number)[1]
    assert REST_MAX_S <= wait_s <= REST_MAX_S + BACKOFF_MAX_S


def test_resets_count_when_one_close_among_them_was_orderly():
    retry = Retry("core", random.Random(1))
    endings = (BROKEN, ORDERLY, BROKEN)
    assert "another core" in [lives(retry, 0.1, ending, float(at))[0] for at, ending in enumerate(endings)][-1]


def test_a_quiet_connection_ends_the_suspicion():
    retry = Retry("core", random.Random(1))
    for at in (0.0, 1.0, 2.0):
        lives(retry, 0.1, ORDERLY, at)
    lives(retry, QUIET_S, ORDERLY, 100.0)
    assert lives(retry, 0.1, ORDERLY, 200.0)[0] == "closed"


def test_slow_cuts_and_resets_are_no_other_core():
    retry = Retry("core", random.Random(1))
    assert {lives(retry, STABLE_S, ORDERLY, at * 6.0)[0] for at in range(10)} == {"closed"}
    assert {lives(retry, 0.1, BROKEN, 100.0 + at)[0] for at in range(10)} == {"reset"}
    assert {lives(retry, 0.1, ORDERLY, 200.0 + 20 * at)[0] for at in range(10)} == {"closed"}


def test_attempts_that_never_came_up_are_no_other_core():
    retry = Retry("core", random.Random(1))
    assert {retry.after(ORDERLY, float(at))[0] for at in range(10)} == {"closed"}


def test_a_broker_that_restarts_again_and_again_is_no_other_core():
    retry = Retry("core", random.Random(1))
    assert {lives(retry, 0.1, ORDERLY, float(at), session_present=False)[0] for at in range(10)} == {"closed"}
    for at in range(10, 20):  # one that keeps sessions, and refuses us while it is away
        assert lives(retry, 0.1, ORDERLY, float(at))[0] == "closed"
        retry.after(Ending("refused"), at + 0.2)


def test_what_the_broker_says_counts_at_once():
    retry = Retry("core", random.Random(1))
    retry.up(0.0, session_present=True)
    reason, wait_s = retry.after(Ending("another core uses this client id", "taken_over"), 1.0)
    assert "another core" in reason
    assert wait_s >= TAKEN_OVER_S
