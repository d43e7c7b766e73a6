"""The route that says why: what it gives, and how it refuses."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from api.application import make_app
from tests.faults.web_world import World, fill, make_world

READ = {"air_temp_c": 39.5}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = make_world(tmp_path)
    fill(made)
    body = {"from": "NORM", "to": "UNACK", "event": "raise", "priority": "P2", "rule_version": 1, "read": READ}
    made.write(decisions=[("alarm", "HOT@north/house-1", body | {"since_ns": made.writer.now_ns, "value": 39.5})])
    yield made
    made.close()


def client(world: World, sites: list[str] | None = None) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {world.token('ann', 'viewer', sites)}"}
    transport = httpx.ASGITransport(make_app(world.parts), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers)


async def test_links_lead_to_the_samples_that_were_read(world: World) -> None:
    async with client(world) as http:
        why = (await http.get("/api/v1/sites/north/why", params={"subject": "HOT@north/house-1"})).json()
        assert (why["answer"], why["state"], why["cause"]["with_values"]) == ("alarm", "UNACK", "air_temp_c (39.5 °C) > 38")
        (link,) = why["cause"]["read"][0]["history"]
        samples = (await http.get(link)).json()["samples"]
        assert [row["value"] for row in samples] == [40.5]  # of house-1, as the world filled it
        earlier = await http.get("/api/v1/sites/north/why", params={"subject": "HOT@north/house-1", "at_ms": why["since_ms"] - 1})
        assert (earlier.json()["state"], earlier.json()["cause"]) == ("NORM", None)


@pytest.mark.parametrize(
    ("site", "subject", "status", "said"),
    [
        ("north", "HOT@north/house-7", 404, "has no device 'house-7'"),
        ("north", "north/house-0/vent", 404, "did you mean roof_vent"),
        ("north", "HOT@south/house-0", 404, "There is no such alarm or actuator, or you may not see it."),
        ("south", "HOT@south/house-0", 404, "There is no such site, or you may not see it."),
        ("north", "HOT", 422, "must be RULE@site/device, or site/device/actuator"),
        ("north", "x" * 301, 422, "at most 300"),
    ],
)
async def test_refusals(world: World, site: str, subject: str, status: int, said: str) -> None:
    async with client(world, ["north"]) as http:
        answer = await http.get(f"/api/v1/sites/{site}/why", params={"subject": subject})
    assert answer.status_code == status
    assert said in answer.text
