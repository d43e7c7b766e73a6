"""The whole web process on a real journal, inbox, history and socket."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from api.serve import bind, newest_plan
from store.snapshot import write_snapshot
from telemetry.errors import EnvironmentFault
from telemetry.plan import Plan
from tests.faults.process import DEADLINE_S
from tests.faults.web_process import CoreStub, WebProcess, web_process

ACKNOWLEDGE = "/api/v1/sites/north/alarms/house-0/HOT/acknowledge"
RAISE = [("alarm", "HOT@north/house-0", {"from": "NORM", "to": "UNACK", "event": "raise", "priority": "P2"})]


async def until(check: Callable[[], Awaitable[Any]], limit_s: float = DEADLINE_S) -> Any:
    """The first true answer of `check`."""
    async with asyncio.timeout(limit_s):
        while not (found := await check()):  # noqa: ASYNC110 -- what is waited for happens behind a socket
            await asyncio.sleep(0.05)
    return found


def client(web: WebProcess, token: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=web.base_url, headers={"Authorization": f"Bearer {token}"}, timeout=DEADLINE_S)


async def test_journal_becomes_live_values_history_and_readiness(tmp_path: Path) -> None:
    async with web_process(tmp_path) as web, client(web, web.token("ann", "viewer", None)) as http:
        web.core.write(frames=[("north/house-0", {"air_temp_c": 21.5}, 0.0)])

        async def latest() -> bool:
            web.core.write()
            answer = await http.get("/api/v1/sites/north/devices/house-0/points/air_temp_c")
            return answer.status_code == 200 and answer.json()["latest"]["value"] == 21.5

        await until(latest)

        async def ready() -> bool:
            web.core.write()
            return (await http.get("/ready")).status_code == 200

        await until(ready)

        async def stored() -> Any:
            return (await http.get("/api/v1/sites/north/devices/house-0/points/air_temp_c/history")).json()["samples"]

        assert [row["value"] for row in await until(stored)] == [21.5]
        metrics = (await http.get("/metrics")).text
        assert 'fieldloom_history_rows_total{result="written"} 1' in metrics
        position = tmp_path / "run" / "web.position"

        async def told() -> bool:
            return position.is_file() and int(position.read_text()) >= 0

        await until(told)


def test_the_plan_of_cores_snapshot_is_found_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    assert newest_plan(tmp_path) is None
    plan = Plan()
    write_snapshot(tmp_path / "snapshots", 5, {"engine": {"plan": plan.snapshot()}}, build="of another day")
    found = newest_plan(tmp_path)
    assert found is not None
    assert found.snapshot() == plan.snapshot()
    write_snapshot(tmp_path / "snapshots", 6, {"engine": {}})
    assert newest_plan(tmp_path) is None


async def test_acknowledge_goes_through_inbox_and_journal_to_the_feed(tmp_path: Path) -> None:
    async with web_process(tmp_path) as web:
        token = web.token("ann", "operator", ["north"])
        web.core.write(decisions=RAISE)

        async def standing() -> Any:
            return (await http.get("/api/v1/alarms")).json()["items"]

        async with client(web, token) as http:
            await until(standing)
            address = web.base_url.replace("http", "ws") + "/api/v1/feed?site=north"
            async with websockets.connect(address, additional_headers={"Authorization": f"Bearer {token}"}) as feed:
                answer = await http.post(ACKNOWLEDGE, json={"id": "first-press"})
                assert answer.json() == {"request": "ann.first-press", "is_new": True}
                assert [r.author for r in web.core.acknowledge_all()] == ["ann"]  # type: ignore[union-attr]
                seen = []
                async with asyncio.timeout(DEADLINE_S):
                    while not (seen and seen[-1]["type"] == "alarm"):
                        seen.append(json.loads(await feed.recv()))
                assert seen[0]["items"][0]["state"] == "UNACK"
                assert seen[-1]["item"]["state"] == "ACKED"
            answer = await http.get("/api/v1/sites/north/requests/ann.first-press")
            assert answer.json()["accepted"] is True


async def test_restart_keeps_live_state_without_reading_the_journal_again(tmp_path: Path) -> None:
    core = CoreStub.begin(tmp_path)
    core.write(frames=[("north/house-0", {"air_temp_c": 21.5, "air_rh_pct": 60.0}, 0.0)], decisions=RAISE)
    async with web_process(tmp_path, core) as web, client(web, web.token("ann", "viewer", None)) as http:

        async def standing() -> Any:
            return (await http.get("/api/v1/alarms")).json()["items"]

        before = await until(standing)
    assert list((tmp_path / "web").glob("*.snap"))
    async with web_process(tmp_path, core) as web, client(web, web.token("ann", "viewer", None)) as http:
        core.write(frames=[("north/house-0", {"air_temp_c": 22.0}, 0.0)])

        async def latest() -> Any:
            points = (await http.get("/api/v1/sites/north/points", params={"device": "house-0"})).json().get("items", [])
            values = {p["point"]: p["latest"]["value"] for p in points}
            return values if values.get("air_temp_c") == 22.0 else None

        assert (await until(latest))["air_rh_pct"] == 60.0
        assert await standing() == before
    core.journal.close()


async def test_core_that_falls_silent_is_told_to_everybody(tmp_path: Path) -> None:
    async with web_process(tmp_path) as web, client(web, web.token("ann", "viewer", None)) as http:

        async def ready() -> bool:
            web.core.write()
            return (await http.get("/ready")).status_code == 200

        await until(ready)

        async def unready() -> bool:
            return (await http.get("/ready")).status_code == 503

        await until(unready)
        assert "has written nothing" in (await http.get("/ready")).json()["detail"]


def test_taken_port_is_one_clear_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(EnvironmentFault, match="stop what uses it, or set another port"):
            bind("127.0.0.1", taken.getsockname()[1])
