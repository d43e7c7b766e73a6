"""The task that follows the journal into history: what it missed is recorded, and a server that asks for patience gets it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.follower import RETRY_S, HistoryFollower
from api.parts import Lag
from store.duckdb_history import DuckDBHistory
from store.history import History, HistoryFault
from store.journal_reader import Gap
from store.projection import Projector
from telemetry.record import Event
from telemetry.transaction import Transaction
from tests.faults.process import DEADLINE_S
from tests.faults.web_world import Writer


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    store = DuckDBHistory(tmp_path / "history.duckdb", memory_mb=64)
    yield store
    store.close()


class TrimmedWhileRead:
    """A journal that is trimmed again each time a follower has gone on behind the last trim."""

    def __init__(self, firsts: list[int]) -> None:
        self.firsts = firsts
        self.writer = Writer(first=firsts[-1])
        self.made = [self.writer.write(records=[Event("offline", "")])]

    def read(self, after: int, *, rows_max: int = 1000) -> list[Transaction]:
        del rows_max
        if len(self.firsts) > 1 and after + 1 == self.firsts[0]:
            self.firsts.pop(0)
        if after + 1 < self.firsts[0]:
            raise Gap(after, self.firsts[0])
        return [transaction for transaction in self.made if transaction.first > after]


async def until(follower: HistoryFollower, history: History, position: int) -> None:
    task = asyncio.create_task(follower.run())
    async with asyncio.timeout(DEADLINE_S):
        while history.position() < position:  # noqa: ASYNC110 - the follower's thread moves it
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_every_gap_is_recorded_also_when_the_journal_is_trimmed_meanwhile(history: History) -> None:
    journal = TrimmedWhileRead([10, 20, 30])
    follower = HistoryFollower(lambda: journal, lambda: Projector(history, now_s=lambda: 0.0, wait_s=0.0), Lag())
    await until(follower, history, 30)
    gaps = [json.loads(row.body) for row in history.records(kind="gap", newest_first=False)]
    assert [(gap["first"], gap["last"]) for gap in gaps] == [(0, 9), (10, 19), (20, 29)]


@pytest.mark.parametrize(("asked_s", "waited_s"), [(0.0, RETRY_S), (7.0, 7.0)])
async def test_follower_waits_as_long_as_the_server_asks(
    history: History, monkeypatch: pytest.MonkeyPatch, asked_s: float, waited_s: float
) -> None:
    lag, waits, sleep = Lag(), list[float](), asyncio.sleep

    async def counted(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    class Busy(Projector):
        def follow(self, journal: object) -> int:  # noqa: ARG002
            if waits:
                return 0
            raise HistoryFault("429", retryable=True, wait_s=asked_s)

    monkeypatch.setattr("api.follower.asyncio.sleep", counted)
    follower = HistoryFollower(lambda: TrimmedWhileRead([0]), lambda: Busy(history, now_s=lambda: 0.0), lag)
    task = asyncio.create_task(follower.run())
    while len(waits) < 3:
        await sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert waits[0] == waited_s
    assert max(waits[1:]) < RETRY_S  # it works again
