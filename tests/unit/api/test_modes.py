"""Who works an actuator, and the second word for a dangerous override, as the API shows them."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from api.application import make_app
from api.state import LiveState
from telemetry.record import Request
from tests.faults.web_world import START_NS, World, make_world

VENT = "north/house-0/roof_vent"
PATH = "/sites/north/devices/house-0/actuators/roof_vent"
UNTIL_NS = START_NS + 600 * 10**9
WHY = {"en": "the roof moves", "zh": "天窗将动作"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = make_world(tmp_path)
    yield made
    made.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {world.token('ann', 'operator', None)}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(make_app(world.parts)), base_url="http://testserver/api/v1", headers=headers
    ) as made:
        yield made


async def shown(client: httpx.AsyncClient) -> tuple[str, int | None, str, bool]:
    actuator = (await client.get("/sites/north/devices/house-0")).json()["actuators"][0]
    return actuator["mode"], actuator["manual_until_ms"], actuator["manual_reason"], actuator["is_unsafe"]


async def test_mode_follows_hand_and_panel_and_the_panel_wins(world: World, client: httpx.AsyncClient) -> None:
    assert await shown(client) == ("AUTO", None, "", False)
    manual = {"mode": "MANUAL", "until_ns": UNTIL_NS, "reason": "ann: inspection", "unsafe": True}
    delta = world.write(decisions=[("mode", VENT, manual)])
    assert [m.mode for m in delta.modes] == ["MANUAL"]
    assert await shown(client) == ("MANUAL", UNTIL_NS // 10**6, "ann: inspection", True)
    world.write(decisions=[("mode", VENT, {"panel": "LOCAL", "from": "AUTO"})])
    assert (await shown(client))[0] == "LOCAL"
    assert [i["mode"] for i in (await client.get("/sites/north/modes")).json()["items"]] == ["LOCAL"]
    assert (await client.get("/sites/south/modes")).json()["items"] == []
    again = LiveState()
    again.restore(world.parts.state.position, world.parts.state.snapshot()())
    assert again.modes == world.parts.state.modes
    world.write(decisions=[("mode", VENT, {"panel": "AUTO", "from": "LOCAL"}), ("mode", VENT, {"mode": "AUTO"})])
    assert await shown(client) == ("AUTO", None, "", False)
    assert (await client.get("/sites/north/modes")).json()["items"] == []


async def test_dangerous_override_shows_its_danger_and_takes_a_second_word(world: World, client: httpx.AsyncClient) -> None:
    sent = await client.post(f"{PATH}/override", json={"value": 50, "seconds": 600, "reason": "x", "id": "override-1"})
    asked = world.inbox.requests[sent.json()["request"]]
    loser = {"source": "R@north/house-0", "bound": "value", "level": 6, "value": 10.0, "reason": "too cold"}
    answer = {"accepted": False, "reason": "confirm it", "confirm": WHY, "confirm_until_ns": UNTIL_NS, "displaces": [loser]}
    world.write(records=[asked], decisions=[("answer", asked.id, answer)])
    found = (await client.get(f"/sites/north/requests/{asked.id}")).json()
    assert (found["accepted"], found["confirm"], found["confirm_until_ms"]) == (False, WHY, UNTIL_NS // 10**6)
    assert found["displaces"] == [loser]
    assert (await client.post(f"{PATH}/confirm", json={"request": asked.id, "id": "confirm-1"})).status_code == 202
    assert world.inbox.requests["ann.confirm-1"] == Request(
        "ann.confirm-1", "confirm", "ann", {"actuator": VENT, "request": asked.id}
    )
    assert (await client.post(f"{PATH}/confirm", json={})).status_code == 422


async def test_only_an_engineer_asks_for_an_unsafe_override(world: World, client: httpx.AsyncClient) -> None:
    body = {"value": 0, "seconds": 600, "reason": "belt", "unsafe": True, "id": "unsafe-01"}
    assert (await client.post(f"{PATH}/override", json=body)).status_code == 403
    headers = {"Authorization": f"Bearer {world.token('eve', 'engineer', None)}"}
    assert (await client.post(f"{PATH}/override", json=body, headers=headers)).status_code == 202
    assert [r.body.get("unsafe") for r in world.inbox.requests.values()] == [True]
