"""What people say of areas and alarms: modes, batches, comments, assignees; floods and shadows beside them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.application import make_app
from telemetry.record import Request
from tests.faults.web_feed import collect_feed
from tests.faults.web_world import SECOND_NS, START_NS, World, config_record, make_world, site

HOT = "HOT@north/house-0"
DAY_NS = 86_400 * SECOND_NS


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


def change(event: str, before: str, after: str, **more: Any) -> tuple[str, str, dict[str, Any]]:
    return "alarm", HOT, {"event": event, "from": before, "to": after, "priority": "P2", "area": "ms", **more}


def area_of(answer: httpx.Response) -> Any:
    return answer.json()["areas"][0]


async def test_an_area_nobody_spoke_of_is_automatic_without_a_batch(client: httpx.AsyncClient) -> None:
    area = area_of(await client.get("/sites/north"))
    assert [area[name] for name in ("mode", "batch", "day_of_batch", "flood_since_ms")] == ["AUTO", None, None, None]


async def test_mode_and_batch_of_an_area_follow_the_journal(world: World, client: httpx.AsyncClient) -> None:
    said: dict[str, Any] = {
        "mode": "OCCUPIED",
        "batch_ns": START_NS - 8 * 3600 * SECOND_NS,
        "batch": "B7",
    }  # midnight of its day 0 by the site
    world.write(decisions=[("area", "north/ms", {"from": {}, "to": said})])
    area = area_of(await client.get("/sites/north"))
    assert [area[name] for name in ("mode", "batch", "day_of_batch")] == ["OCCUPIED", "B7", 0]
    older = {**said, "batch_ns": said["batch_ns"] - 3 * DAY_NS}
    world.write(decisions=[("area", "north/ms", {"from": said, "to": older})])
    assert area_of(await client.get("/sites/north"))["day_of_batch"] == 3
    assert area_of(await client.get("/sites/south"))["mode"] == "AUTO"
    world.write(decisions=[("area", "north/ms", {"from": said, "to": {**said, "batch_ns": None, "batch": ""}})])
    area = area_of(await client.get("/sites/north"))
    assert [area[name] for name in ("mode", "batch", "day_of_batch")] == ["OCCUPIED", None, None]


async def test_a_flood_of_an_area_begins_and_ends_and_leaves_its_mode(world: World, client: httpx.AsyncClient) -> None:
    world.write(decisions=[("area", "north/ms", {"to": {"mode": "STORM", "batch_ns": None, "batch": ""}})])
    world.write(decisions=[("flood", "north/ms", {"from": "NORM", "to": "UNACK", "event": "raise", "count": 11})])
    began_ms = world.writer.now_ns // 1_000_000
    area = area_of(await client.get("/sites/north"))
    assert (area["mode"], area["flood_since_ms"]) == ("STORM", began_ms)
    assert not world.parts.state.alarms
    world.write(decisions=[("flood", "north/ms", {"from": "UNACK", "to": "NORM", "event": "clear", "count": 30})])
    assert area_of(await client.get("/sites/north"))["flood_since_ms"] is None


async def test_the_feed_tells_a_changed_area(world: World) -> None:
    def changes() -> None:
        world.write(decisions=[("area", "north/ms", {"to": {"mode": "FROST", "batch_ns": START_NS, "batch": "x"}})])

    messages = await collect_feed(world, world.token("eve", "viewer", ["north"]), change=changes)
    [told] = [message["item"] for message in messages if message["type"] == "area"]
    assert (told["site"], told["name"], told["mode"], told["batch"], told["day_of_batch"]) == ("north", "ms", "FROST", "x", 0)


@pytest.mark.parametrize(
    ("path", "asked", "journaled"),
    [
        ("mode", {"mode": "WASHDOWN"}, {"area": "north/ms", "mode": "WASHDOWN"}),
        ("batch", {"day": 12, "name": "B7"}, {"area": "north/ms", "day": 12, "name": "B7"}),
        ("batch", {}, {"area": "north/ms", "day": 1, "name": ""}),
        ("batch", {"ends": True}, {"area": "north/ms", "ends": True}),
    ],
)
async def test_an_area_is_told_once_with_its_author(
    world: World, client: httpx.AsyncClient, path: str, asked: Any, journaled: Any
) -> None:
    url = f"/sites/north/areas/ms/{path}"
    answers = [await client.post(url, json={"id": "same-identity", **asked}) for _ in range(2)]
    assert [(a.status_code, a.json()["is_new"]) for a in answers] == [(202, True), (202, False)]
    [request] = world.inbox.requests.values()
    assert (request.kind, request.author, request.body) == (path, "ann", journaled)
    world.write(records=[request], decisions=[("answer", request.id, {"accepted": True, "reason": ""})])
    assert (await client.get(f"/sites/north/requests/{request.id}")).json()["accepted"] is True
    assert (await client.get(f"/sites/south/requests/{request.id}")).status_code == 404
    rows = world.parts.gate.sessions.audit_rows(None, 10)
    assert [(row.person, row.action, row.site, row.status) for row in rows] == [("ann", f"POST /api/v1{url}", "north", 202)] * 2


@pytest.mark.parametrize(
    ("path", "asked", "field"),
    [
        ("mode", {"mode": "PARTY"}, "body.mode"),
        ("mode", {}, "body.mode"),
        ("batch", {"day": 5000}, "body.day"),
        ("batch", {"ends": True, "day": 1}, "body.day"),
        ("batch", {"ends": True, "name": ""}, "body.name"),
    ],
)
async def test_nonsense_of_an_area_is_422_with_its_field(client: httpx.AsyncClient, path: str, asked: Any, field: str) -> None:
    answer = await client.post(f"/sites/north/areas/ms/{path}", json=asked)
    assert answer.status_code == 422
    assert [error["path"] for error in answer.json()["errors"]] == [field]
    assert (
        await client.post(f"/sites/north/areas/attic/{path}", json={"mode": "AUTO"} if path == "mode" else {})
    ).status_code == 404


async def test_comments_and_an_assignee_stand_beside_the_alarm_and_leave_its_state(world: World, client: httpx.AsyncClient) -> None:
    world.write(decisions=[change("raise", "NORM", "UNACK", value=39.5, message={"en": "hot", "zh": "热"})])
    raised_ms = world.writer.now_ns // 1_000_000
    world.write(decisions=[change("comment", "UNACK", "UNACK", author="bob", text="belt is slack", value=39.5)])
    world.write(decisions=[change("assign", "UNACK", "UNACK", author="bob", assignee="li", value=39.5)])
    world.write(decisions=[change("clear", "UNACK", "RTNUN", value=36.0)])
    [alarm] = (await client.get("/alarms", params={"site": "north"})).json()["items"]
    assert (alarm["state"], alarm["assignee"], alarm["raised_ms"]) == ("RTNUN", "li", raised_ms)
    assert [(c["author"], c["text"]) for c in alarm["comments"]] == [("bob", "belt is slack")]
    assert (alarm["evidence"]["event"], alarm["evidence"]["value_at_raise"], alarm["message"]["en"]) == ("clear", 39.5, "hot")
    world.write(decisions=[change("acknowledge", "RTNUN", "NORM"), change("comment", "NORM", "NORM", author="bob", text="done")])
    assert not world.parts.state.alarms
    world.write(decisions=[change("raise", "NORM", "UNACK")])
    [alarm] = (await client.get("/alarms", params={"site": "north"})).json()["items"]
    assert (alarm["assignee"], alarm["comments"]) == (None, [])


async def test_suppression_and_chatter_are_states_of_the_alarm(world: World, client: httpx.AsyncClient) -> None:
    async def state() -> str:
        return str((await client.get("/alarms", params={"site": "north"})).json()["items"][0]["state"])

    world.write(decisions=[change("raise", "NORM", "UNACK")])
    world.write(decisions=[change("suppress", "UNACK", "DSUPR")])
    assert await state() == "DSUPR"
    world.write(decisions=[change("unsuppress", "DSUPR", "UNACK")])
    assert await state() == "UNACK"
    world.write(decisions=[change("chatter", "UNACK", "SHLVD")])
    assert await state() == "SHLVD"


@pytest.mark.parametrize(
    ("action", "asked", "journaled"),
    [
        ("comment", {"text": "belt is slack"}, {"text": "belt is slack"}),
        ("assign", {"to": "li"}, {"to": "li"}),
        ("assign", {"to": ""}, {"to": ""}),
    ],
)
async def test_comment_and_assign_become_requests(
    world: World, client: httpx.AsyncClient, action: str, asked: Any, journaled: Any
) -> None:
    answer = await client.post(f"/sites/north/alarms/house-0/HOT/{action}", json=asked)
    assert answer.status_code == 202
    [request] = world.inbox.requests.values()
    assert (request.kind, request.body) == (action, {"alarm": HOT, **journaled})


@pytest.mark.parametrize(
    ("action", "asked", "fields"),
    [
        ("comment", {}, ["body.text"]),
        ("comment", {"text": ""}, ["body.text"]),
        ("comment", {"text": "x", "to": "li"}, ["body.to"]),
        ("assign", {}, ["body.to"]),
        ("acknowledge", {"text": "x"}, ["body.text"]),
    ],
)
async def test_a_field_of_another_action_is_422(client: httpx.AsyncClient, action: str, asked: Any, fields: list[str]) -> None:
    answer = await client.post(f"/sites/north/alarms/house-0/HOT/{action}", json=asked)
    assert (answer.status_code, [error["path"] for error in answer.json()["errors"]]) == (422, fields)


def test_what_a_shadow_rule_says_stands_apart_until_the_rule_is_gone(world: World) -> None:
    state = world.parts.state
    config = site("north").model_dump(mode="json")
    config["rules"].append({**config["rules"][0], "version": 2, "shadow": True})
    shadowed = type(site("north")).model_validate(config)
    world.write(records=[config_record(shadowed)])
    world.write(
        decisions=[
            ("shadow", HOT, {"event": "raise", "from": "NORM", "to": "UNACK", "priority": "P2"}),
            ("shadow_demand", "north/house-0/roof_vent", {"rule": "HOT", "rule_version": 2, "bound": "value", "value": 60.0}),
            ("shadow_demand", "north/house-1/roof_vent", {"rule": "HOT", "rule_version": 2, "bound": "value", "value": 50.0}),
            ("shadow_demand", "north/house-1/roof_vent", {"rule": "HOT", "rule_version": 2, "bound": "value", "value": None}),
        ]
    )
    assert (list(state.alarms), list(state.shadows), state.commands) == ([], [HOT], {})
    assert state.shadow_demands == {("HOT", "north/house-0/roof_vent"): 60.0}
    world.write(records=[config_record(site("south"))])
    assert state.shadows
    world.write(records=[config_record(site("north"))])
    assert (state.shadows, state.shadow_demands) == ({}, {})


def test_requests_and_decisions_of_an_area_are_history_of_its_site_and_of_no_device(world: World) -> None:
    world.write(
        records=[Request("bob.1", "mode", "bob", {"area": "north/ms", "mode": "STORM"})],
        decisions=[("area", "north/ms", {"to": {"mode": "STORM"}}), ("flood", "north/ms", {"event": "raise"})],
    )
    for kind in ("request", "area", "flood"):
        [row] = world.parts.history.records(kind=kind)
        assert (row.site, row.device) == ("north", ""), kind
