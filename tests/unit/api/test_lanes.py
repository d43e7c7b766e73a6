"""Alarms of a lane over HTTP: newest first, with the data's times, for whoever may see the site."""

import dataclasses
from pathlib import Path

import httpx

from api.application import make_app
from app.lanes import write_lane
from telemetry.decision import Decision
from tests.faults.web_world import make_world


def decision(position: int, kind: str, **body: object) -> Decision:
    return Decision(position, 0, 1_646_000_000_000_000_000 + position * 1_000_000, 40, kind, "HOT@north/house-0", dict(body))


async def test_lane_alarms_are_the_newest_of_the_log(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    parts = dataclasses.replace(world.parts, lanes=tmp_path / "lanes")
    app = make_app(parts)
    headers = {"Authorization": f"Bearer {world.token('ann', 'viewer', ['north'])}"}
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver", headers=headers) as client:
            path = "/api/v1/sites/north/lane/alarms"
            assert (await client.get(path)).json() == {"items": [], "alarms": 0, "decisions": 0}
            mixed = [decision(k, kind, event="raise") for k in range(10) for kind in ("condition", "alarm")]
            write_lane(tmp_path, "north", mixed)
            found = (await client.get(path, params={"limit": 3})).json()
            assert (found["alarms"], found["decisions"]) == (10, 20)
            assert [item["position"] for item in found["items"]] == [9, 8, 7]
            assert found["items"][0] | {"position": 0} == {
                "position": 0, "time_ms": 1_646_000_000_009, "subject": "HOT@north/house-0", "device": "house-0",
                "evidence": {"event": "raise"},
            }  # fmt: skip
            assert (await client.get("/api/v1/sites/south/lane/alarms")).status_code == 404
    finally:
        world.close()
