"""Bounds and errors of real connections: who never reads, never asks, asks nonsense, or comes as one too many.

Saboteur: keep_slow_clients.
"""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from api.application import make_app
from api.connections import HttpConnection
from api.serve import Server, bind
from tests.faults.process import DEADLINE_S
from tests.faults.web_world import World, config_record, fill, make_world, site

PROBLEM = "application/problem+json"
HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nAuthorization: Bearer {token}\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Small(HttpConnection):
    """With limits that a test can wait for."""

    connections_max = 25
    request_limit_s = 0.3


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = make_world(tmp_path)
    fill(made)
    yield made
    made.close()


@asynccontextmanager
async def served(world: World, http: type[HttpConnection] = HttpConnection) -> AsyncIterator[int]:
    """The port of the application on a real socket."""
    listener = bind("127.0.0.1", 0)
    server = Server(make_app(world.parts), http=http)
    task = asyncio.create_task(server.serve([listener]), name="server")
    try:
        await server.is_up.wait()
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task
        listener.close()


async def connected(port: int, data: bytes) -> socket.socket:
    """A client that has sent something and has not read yet; its own buffer is small."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, data)
    return client


def files_open() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def read_all(client: socket.socket, limit_s: float = 5.0) -> bytes:
    """Everything until the other side ends the connection, orderly or not."""
    found = b""
    with client, contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(limit_s):
            while part := await asyncio.get_running_loop().sock_recv(client, 65_536):
                found += part
    return found


def problem_in(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert f"content-type: {PROBLEM}".encode() in head.lower(), answer
    problem: dict[str, Any] = json.loads(body)
    assert head.split()[1] == str(problem["status"]).encode()
    return problem


@pytest.mark.parametrize("data", [b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/9.9\r\nX\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n"])
async def test_what_is_no_request_is_a_problem(world: World, data: bytes) -> None:
    async with served(world) as port:
        assert problem_in(await read_all(await connected(port, data)))["status"] == 400


async def test_handshake_that_is_none_is_a_problem(world: World) -> None:
    async with served(world) as port:
        data = HANDSHAKE.format(path="/api/v1/feed", host=f"127.0.0.1:{port}", token="x").replace("Version: 13", "Version: 12")
        assert problem_in(await read_all(await connected(port, data.encode())))["status"] == 400


@pytest.mark.parametrize(
    ("path", "status", "more"),
    [
        ("/api/v1/feed", 401, {}),
        ("/api/v1/feed?site=nowhere", 404, {"who": "ann"}),
        ("/api/v1/feed?site=south", 404, {"who": "ann"}),
        ("/api/v1/feed", 403, {"who": "ann", "Origin": "http://evil.example"}),
        ("/api/v1/feed", 421, {"who": "ann", "Host": "evil.example"}),
        ("/nowhere", 404, {"who": "ann"}),
        ("/api/v1/sites", 404, {"who": "ann"}),
    ],
)
async def test_feed_is_refused_by_a_problem(world: World, path: str, status: int, more: dict[str, str], caplog: Any) -> None:
    async with served(world) as port:
        who, host = more.pop("who", None), more.pop("Host", f"127.0.0.1:{port}")
        token = "x" * 43 if who is None else world.token(who, "viewer", ["north"])
        data = HANDSHAKE.format(path=path, host=host, token=token)
        head = "".join(f"{name}: {value}\r\n" for name, value in more.items())
        problem = problem_in(await read_all(await connected(port, data.replace("Upgrade: web", f"{head}Upgrade: web").encode())))
        assert problem["status"] == status
        assert caplog.text == ""  # strangers do not fill the log
        assert "south" not in json.dumps(problem)


async def test_feed_too_many_is_refused_and_a_place_is_free_again(world: World) -> None:
    world.parts.hub.clients_max = 1
    async with served(world) as port:
        address, headers = f"ws://127.0.0.1:{port}/api/v1/feed", {"Authorization": f"Bearer {world.token('ann', 'viewer', None)}"}
        async with websockets.connect(address, additional_headers=headers):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(address, additional_headers=headers)
            assert refused.value.response.status_code == 429
            assert refused.value.response.headers["Retry-After"]
        async with asyncio.timeout(DEADLINE_S):
            while len(world.parts.hub):  # noqa: ASYNC110 -- the server notices behind a socket
                await asyncio.sleep(0.01)
        async with websockets.connect(address, additional_headers=headers) as feed:
            assert json.loads(await feed.recv())["type"] == "alarms"


@pytest.mark.alone
async def test_clients_that_never_read_are_cut_and_cost_the_others_nothing(world: World) -> None:
    hub, slow_count = world.parts.hub, 20
    world.write(records=[config_record(site("north", devices=500))])
    hub.take_limit_s = 0.5
    async with served(world) as port:
        token = world.token("ann", "viewer", ["north"])
        data = HANDSHAKE.format(path="/api/v1/feed", host=f"127.0.0.1:{port}", token=token).encode()
        files = files_open()
        slow = [await connected(port, data) for _ in range(slow_count)]
        address, headers = f"ws://127.0.0.1:{port}/api/v1/feed?site=north", {"Authorization": f"Bearer {token}"}
        async with websockets.connect(address, additional_headers=headers, max_size=None) as good:
            beats, longest_s, values, n = 0, 0.0, dict[int, float](), 0
            async with asyncio.timeout(30):
                while len(hub) > 1:
                    n += 1
                    world.write(frames=[(f"north/house-{i}", {"air_temp_c": n % 30 + i / 1000}, 0.0) for i in range(500)])
                    began = time.monotonic()
                    while (message := json.loads(await good.recv()))["type"] != "points":
                        beats += message["type"] == "beat"
                    longest_s = max(longest_s, time.monotonic() - began)
                    values.update({row[0]: row[1] for row in message["rows"]})
            assert hub.disconnected_slow == slow_count
            assert beats
            assert longest_s < 2.0  # its interval is 0.25 s
            assert len(values) > 500
            async with asyncio.timeout(DEADLINE_S):
                while files_open() > files + slow_count + 2:  # noqa: ASYNC110 -- the kernel's table
                    await asyncio.sleep(0.01)
        for client in slow:
            client.close()
        async with websockets.connect(address, additional_headers=headers, max_size=None) as again:
            message = json.loads(await again.recv())
            assert [alarm["subject"] for alarm in message["items"]] == ["HOT@north/house-0"]


async def test_client_that_never_reads_is_kept_little_for(world: World) -> None:
    for i in range(400):
        evidence = {"id": f"c{i}", "state": "sent", "value": 80.0, "reason": "x" * 1_000}
        world.write(decisions=[("command", "north/house-0/roof_vent", evidence)])
    world.write(records=[config_record(site("north", devices=2_000))])
    world.write(frames=[(f"north/house-{i}", {"air_temp_c": 20.0}, 0.0) for i in range(2_000)])
    world.parts.hub.take_limit_s = 1.0
    listener = bind("127.0.0.1", 0)
    server = Server(make_app(world.parts))
    task = asyncio.create_task(server.serve([listener]), name="server")
    await server.is_up.wait()
    port = listener.getsockname()[1]
    token = world.token("ann", "viewer", ["north"])
    client = await connected(port, HANDSHAKE.format(path="/api/v1/feed", host=f"127.0.0.1:{port}", token=token).encode())
    most = 0
    async with asyncio.timeout(DEADLINE_S):
        while not world.parts.hub.disconnected_slow:
            world.write(frames=[(f"north/house-{i}", {"air_temp_c": float(i % 30)}, 0.0) for i in range(2_000)])
            most = max([most, *(c.transport.get_write_buffer_size() for c in server.server_state.connections)])
            await asyncio.sleep(0.02)
    assert 16 * 1024 < most < 100_000
    client.close()
    server.should_exit = True
    await task
    listener.close()


@pytest.mark.alone
async def test_connection_without_a_request_is_cut(world: World) -> None:
    async with served(world, Small) as port:
        for data in (
            b"",
            b"GET /health HTTP/1.1\r\nHost: 127",
            b"POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
        ):
            began = time.monotonic()
            assert await read_all(await connected(port, data)) == b""
            assert 0.25 < time.monotonic() - began < 3.0
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            for _ in range(3):  # each request has the whole time again
                await asyncio.sleep(0.2)
                assert (await http.get("/health")).status_code == 200


async def test_connection_too_many_is_refused_by_a_problem_and_the_others_go_on(world: World) -> None:
    async with served(world, Small) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        assert (await http.get("/health")).status_code == 200
        idle = [await connected(port, b"") for _ in range(Small.connections_max)]
        late = await connected(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert problem_in(await read_all(late))["status"] == 503
        assert (await http.get("/health")).status_code == 200
        for client in idle:
            client.close()
