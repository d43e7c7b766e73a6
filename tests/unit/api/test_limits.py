"""Every limit at its edge and one over it."""

import asyncio
import threading

import pytest

from api.limits import LoginLimit, QueryPool, host_name
from api.problem import ProblemError
from store.history import HistoryFault, QueryLimit
from telemetry.clock import ManualClock
from tests.faults.process import DEADLINE_S


async def test_query_over_its_time_is_504_and_its_thread_stays_counted() -> None:
    pool, release = QueryPool(threads=1, waiting_max=0, limit_s=0.05), threading.Event()
    with pytest.raises(ProblemError) as slow:
        await pool.run(lambda: release.wait(DEADLINE_S))
    with pytest.raises(ProblemError) as full:
        await pool.run(lambda: None)
    assert (slow.value.status, full.value.status, pool.results["timed_out"], pool.results["refused"]) == (504, 503, 1, 1)
    assert full.value.headers["Retry-After"]
    release.set()
    async with asyncio.timeout(DEADLINE_S):
        while pool.busy:  # noqa: ASYNC110 -- the thread ends by itself
            await asyncio.sleep(0.01)
    assert await pool.run(lambda: 7) == 7
    pool.close()


async def test_query_over_its_time_is_interrupted_and_one_that_ends_with_it_is_504() -> None:
    interrupted = threading.Event()

    def query() -> None:
        assert interrupted.wait(DEADLINE_S)
        raise QueryLimit("interrupted")

    pool = QueryPool(limit_s=0.05, interrupt=interrupted.set)
    answers = await asyncio.gather(pool.run(query), pool.run(query), return_exceptions=True)
    assert [isinstance(one, ProblemError) and one.status for one in answers] == [504, 504]
    assert interrupted.is_set()
    pool.close()


async def test_at_most_two_queries_run_at_once() -> None:
    pool, lock, running, most = QueryPool(), threading.Lock(), 0, 0

    def query() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.02)
        with lock:
            running -= 1

    await asyncio.gather(*(pool.run(query) for _ in range(10)))
    assert most == 2
    pool.close()


async def test_store_that_fails_is_503_not_500() -> None:
    def query() -> None:
        raise HistoryFault("disk", retryable=True)

    pool = QueryPool()
    with pytest.raises(ProblemError) as failed:
        await pool.run(query)
    assert (failed.value.status, "disk" in failed.value.detail) == (503, False)
    await pool.run(lambda: None)
    assert pool.results == {"answered": 1, "failed": 1, "refused": 0, "timed_out": 0}
    pool.close()


def test_login_limit_is_per_address() -> None:
    limit = LoginLimit(ManualClock(0), attempts_max=2)
    for _ in range(2):
        limit.check("10.0.0.1")
    limit.check("10.0.0.2")
    with pytest.raises(ProblemError) as refused:
        limit.check("10.0.0.1")
    assert refused.value.status == 429


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost:8080", "localhost"),
        ("LOCALHOST", "localhost"),
        ("[::1]:80", "[::1]"),
        ("", ""),
        ("evil.example:8080", "evil.example"),
    ],
)
def test_host_name_is_without_port(host: str, name: str) -> None:
    assert host_name(host) == name
