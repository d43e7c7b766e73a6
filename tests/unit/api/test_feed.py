"""The live feed's bounds: newest value per point, counted drops, slow clients cut off."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.websockets import WebSocket

from api.feed import CLOSE_SLOW, ITEMS_MAX, POINTS_PER_MESSAGE, FeedClient, FeedHub, serve_feed
from api.state import Delta, LiveState
from telemetry.clock import ManualClock
from tests.faults.process import DEADLINE_S
from tests.faults.web_feed import collect_feed
from tests.faults.web_world import World, config_record, fill, make_world, site


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path)
    fill(made)
    yield made
    made.close()


def test_point_that_changed_again_is_sent_once_and_the_drop_is_counted(world: World) -> None:
    client = world.parts.hub.open(frozenset({"north"}))
    assert client is not None
    client.take_points()
    for value in (1.0, 2.0, 3.0):
        world.write(frames=[("north/house-0", {"air_temp_c": value}, 0.0)])
    [row] = world.parts.hub.point_rows(client.take_points())
    assert row[1] == 3.0
    assert world.parts.hub.replaced_points == 2


def test_message_is_bounded_at_its_limit_and_the_rest_follows() -> None:
    client = FeedClient(frozenset({"north"}))
    client.allowed = np.ones(POINTS_PER_MESSAGE + 1, np.bool_)
    client.dirty = np.ones(POINTS_PER_MESSAGE + 1, np.bool_)
    assert [len(client.take_points()) for _ in range(3)] == [POINTS_PER_MESSAGE, 1, 0]


def test_alarms_are_never_dropped_the_client_is(world: World) -> None:
    client = FeedClient(frozenset({"north"}))
    for i in range(ITEMS_MAX):
        client.add({"i": i})
    assert not client.is_overrun
    client.add({"one": "more"})
    assert client.is_overrun


def test_one_client_too_many_is_refused(world: World) -> None:
    hub = FeedHub(world.parts.state, world.clock, clients_max=2)
    opened = [hub.open(frozenset({"north"})) for _ in range(3)]
    assert [client is not None for client in opened] == [True, True, False]
    assert opened[0] is not None
    hub.close(opened[0])
    assert hub.open(frozenset({"north"})) is not None


def test_new_points_of_a_changed_configuration_are_sent(world: World) -> None:
    client = world.parts.hub.open(frozenset({"north"}))
    assert client is not None
    world.write(records=[config_record(site("north", devices=4))])
    client.take_points()
    world.write(frames=[("north/house-3", {"air_temp_c": 7.0}, 0.0)])
    assert [row[1] for row in world.parts.hub.point_rows(client.take_points())] == [7.0]
    assert client.items[0] == {"type": "config", "site": "north"}


def test_new_site_reaches_who_may_see_all_sites_and_nobody_else(world: World) -> None:
    everywhere, here = world.parts.hub.open(None), world.parts.hub.open(frozenset({"north"}))
    assert everywhere is not None
    assert here is not None
    world.write(records=[config_record(site("east"))])
    everywhere.take_points()
    here.take_points()
    world.write(frames=[("east/house-0", {"air_temp_c": 7.0}, 0.0)])
    assert [row[1] for row in world.parts.hub.point_rows(everywhere.take_points())] == [7.0]
    assert len(here.take_points()) == 0
    assert (list(everywhere.items), list(here.items)) == ([{"type": "config", "site": "east"}], [])


def test_thousand_slow_clients_cost_the_publisher_little() -> None:
    state = LiveState()
    hub = FeedHub(state, ManualClock(0))
    for _ in range(1000):
        assert hub.open(frozenset({"north"})) is not None
    began = time.process_time()
    hub.publish(Delta())
    assert time.process_time() - began < 0.05


async def test_client_that_takes_nothing_is_disconnected_and_counted(world: World) -> None:
    world.parts.hub.take_limit_s = 0.1
    token, sent = world.token("ann", "viewer", None), list[dict[str, Any]]()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "websocket.send":
            await asyncio.Event().wait()  # the peer's window is full for ever

    received = iter([{"type": "websocket.connect"}])

    async def receive() -> dict[str, Any]:
        for message in received:
            return message
        await asyncio.Event().wait()
        return {}

    headers = [(b"host", b"testserver"), (b"authorization", f"Bearer {token}".encode())]
    scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1), "server": None}
    parts = world.parts
    async with asyncio.timeout(DEADLINE_S):
        socket = WebSocket(scope, receive, send)
        await serve_feed(socket, gate=parts.gate, hub=parts.hub, state=parts.state)
    assert sent[-1]["code"] == CLOSE_SLOW
    assert (parts.hub.disconnected_slow, len(parts.hub)) == (1, 0)


async def test_feed_begins_with_everything_that_stands(world: World) -> None:
    messages = await collect_feed(world, world.token("ann", "viewer", None), query="?site=north")
    kinds = [message["type"] for message in messages]
    assert kinds[:2] == ["alarms", "commands"]
    assert {"beat", "points"} <= set(kinds)
    assert [alarm["subject"] for alarm in messages[0]["items"]] == ["HOT@north/house-0"]
    beat = next(message for message in messages if message["type"] == "beat")
    assert (beat["core_silent_ms"], beat["messages"]) == (0, 2)
