"""A backtest ordered over the API with the real desk, by the code of the command line."""

import asyncio
import dataclasses
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.application import make_app
from api.serve import Server, bind
from app.backtest.desk import BacktestDesk
from app.client import Client
from app.commands.backtest import _remote
from telemetry.errors import CallerError
from telemetry.site import RuleSpec
from tests.faults.web_world import START_NS, make_world

START_MS = START_NS // 1_000_000
HOT = RuleSpec.model_validate({"id": "HOT", "profile": "house", "when": "air_temp_c > 38", "priority": "P2"})
ASKED: dict[str, Any] = {
    "rules": [HOT], "against": "site", "from": "2026-01-01T00:00Z", "to": "2026-01-02T00:00Z", "labels": None, "people": True,
}  # fmt: skip


def order(port: int, token: str) -> None:
    """What the command line and other programs do; in a thread, beside the server."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=30) as http:
        client = Client(http)
        report = _remote(client, "north", ASKED)
        assert report.complete
        [alarm] = report.alarms
        assert (alarm.rule, alarm.device, alarm.change) == ("HOT", "house-0", "same")
        assert START_MS < alarm.raised_ms < (alarm.cleared_ms or 0)
        with pytest.raises(CallerError, match="do not fit site north"):
            _remote(client, "north", ASKED | {"rules": [HOT.model_copy(update={"when": "no_such > 1"})]})
        hourly = HOT.model_copy(update={"when": "hour() > 30"}).model_dump(mode="json")  # each minute of 19 years is looked at
        body = {"start_ms": START_MS, "end_ms": START_MS + 19 * 366 * 86_400_000, "rules": [hourly]}
        path = f"/sites/north/backtests/{client.post('/sites/north/backtests', body)['id']}"
        with pytest.raises(CallerError, match="Too many backtests"):
            client.post("/sites/north/backtests", body)
        client.delete(path)
        deadline = time.monotonic() + 60
        while (state := client.get(path))["state"] == "running":
            assert time.monotonic() < deadline
        assert state["state"] == "cancelled"
        assert client.get(f"{path}/report")["complete"] is False
        with pytest.raises(CallerError):
            client.get("/sites/north/backtests/unknown")


@pytest.mark.timeout(120)
async def test_ordered_watched_and_fetched_over_http(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    desk = BacktestDesk(world.parts.history)
    for k in range(20):
        world.write(frames=[("north/house-0", {"air_temp_c": 39.0 if 5 <= k < 9 else 20.0, "vent_pct": 0.0}, 0.0)])
    listener = bind("127.0.0.1", 0)
    server = Server(make_app(dataclasses.replace(world.parts, backtests=desk)))
    task = asyncio.create_task(server.serve([listener]), name="server")
    try:
        await server.is_up.wait()
        await asyncio.to_thread(order, listener.getsockname()[1], world.token("ann", "engineer", ["north"]))
    finally:
        server.should_exit = True
        await task
        listener.close()
        desk.close()
        world.close()
