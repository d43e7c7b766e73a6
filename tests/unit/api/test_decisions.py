"""The canonical decision log over HTTP: the journal's own bytes, for principals of all sites, with what is missing said."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.application import make_app
from api.limits import QueryPool
from api.problem import ProblemError
from store.history import RecordRow, no_rows
from telemetry.decision import LogHash, in_order, log_line
from tests.faults.web_world import World, fill, make_world

PATH = "/api/v1/decisions"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = make_world(tmp_path)
    fill(made)
    yield made
    made.close()


def client_of(world: World, sites: list[str] | None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(make_app(world.parts), raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {world.token('ann', 'viewer', sites)}"}
    return httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers)


async def test_log_is_that_of_the_journal_in_pages_of_any_size(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {"温": [0.1, -0.0, 1e21, None, {}], "empty": {}, "b": True, "a": 2**62}
    journaled = []
    for k in range(40):
        decisions = [("answer", "r1", {}), *(("alarm", f"HOT@north/house-{2 - n}", odd | {"k": k}) for n in range(3))]
        world.projector.take(transaction := world.writer.write(decisions=decisions))
        journaled += in_order(transaction.read_decisions())
    world.projector.flush()
    before = len((await (client := client_of(world, None)).get(PATH)).content.splitlines()) - len(journaled)
    assert before > 0  # what `fill` decided
    real = type(world.parts.history).decisions
    monkeypatch.setattr(type(world.parts.history), "decisions", lambda self, after: real(self, after, limit=7))
    answer = await client.get(PATH)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.content.splitlines(keepends=True)[before:] == [log_line(decision) for decision in journaled]
    expected = LogHash()
    expected.add_lines(answer.content.splitlines(keepends=True))
    assert expected.count == before + len(journaled)
    coverage = json.loads(answer.headers["Fieldloom-Coverage"])
    assert coverage == {"position": world.parts.history.position(), "whole_from": 0, "gaps": []}
    later = await client.get(PATH, params={"after": journaled[-5].position})
    assert later.content == b"".join(map(log_line, [d for d in journaled if d.position > journaled[-5].position]))
    assert (await client.get(PATH, params={"after": coverage["position"]})).content == b""
    await client.aclose()


async def test_gap_of_the_history_stands_in_the_coverage(world: World) -> None:
    last = world.parts.history.position()
    row = RecordRow(last + 9, 1, "gap", "", "", "journal", json.dumps({"first": last + 1, "last": last + 9, "plan_known": True}))
    world.parts.history.append(no_rows(), [row], last + 9)
    async with client_of(world, None) as client:
        coverage = json.loads((await client.get(PATH)).headers["Fieldloom-Coverage"])
    assert coverage["gaps"] == [[last + 1, last + 9]]
    assert coverage["position"] == last + 9


async def test_principal_of_some_sites_gets_none_of_it(world: World) -> None:
    async with client_of(world, ["north"]) as client:
        answer = await client.get(PATH)
    assert answer.status_code == 403
    assert "all sites" in answer.json()["detail"]


async def test_pool_full_of_others_queries_delays_a_page_and_loses_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(30):
        world.write(decisions=[("alarm", "HOT@north/house-1", {"to": "UNACK"})])
    history, pool, asked = type(world.parts.history), type(world.parts.queries), []
    read, run = history.decisions, pool.run

    async def run_if_free(self: QueryPool, query: Callable[[], Any]) -> Any:
        asked.append(query)
        if len(asked) > 2 and len(asked) % 3:  # once the answer has begun, two of three times
            raise ProblemError(503, "unavailable", "Too many history queries are waiting. Try again.")
        return await run(self, query)

    monkeypatch.setattr(history, "decisions", lambda self, after: read(self, after, limit=10))
    monkeypatch.setattr("api.routes.decisions.TRY_AGAIN_S", 0.01)
    async with client_of(world, None) as client:
        whole = (await client.get(PATH)).content
        monkeypatch.setattr(pool, "run", run_if_free)
        assert (await client.get(PATH)).content == whole
    assert len(asked) > 6
