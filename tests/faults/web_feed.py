"""A client of the live feed without a network: the ASGI protocol spoken by hand."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from api.application import make_app
from tests.faults.process import DEADLINE_S
from tests.faults.web_world import World

QUIET_S = 0.6  # longer than the feed's interval: nothing more is coming but beats
FIRST_S = 30.0  # until the first word, which always comes: on a busy machine the application takes its time to begin


async def collect_feed(
    world: World,
    token: str,
    *,
    query: str = "",
    change: Callable[[], object] | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> list[dict[str, Any]]:
    """Everything a client gets until only beats come; `change` is called after the first quiet. A close ends the list; a refusal
    is the whole of it, with its problem."""
    to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    scope = {
        "type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "ws", "path": "/api/v1/feed",
        "raw_path": b"/api/v1/feed", "query_string": query.lstrip("?").encode(), "root_path": "", "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
        "client": ("127.0.0.1", 5), "server": ("testserver", 80), "state": {},
        "headers": headers if headers is not None else [(b"host", b"testserver"), (b"authorization", f"Bearer {token}".encode())],
    }  # fmt: skip
    to_app.put_nowait({"type": "websocket.connect"})
    task = asyncio.create_task(make_app(world.parts)(scope, to_app.get, from_app.put))
    try:
        messages = await _until_quiet(from_app, FIRST_S)
        if change is not None:
            change()
            messages += await _until_quiet(from_app)
    finally:
        to_app.put_nowait({"type": "websocket.disconnect", "code": 1000})
        async with asyncio.timeout(DEADLINE_S):
            await task
    return messages


async def _until_quiet(from_app: asyncio.Queue[dict[str, Any]], wait_s: float = QUIET_S) -> list[dict[str, Any]]:
    loop, messages = asyncio.get_running_loop(), list[dict[str, Any]]()
    quiet_at = loop.time() + wait_s
    while loop.time() < quiet_at:
        try:
            async with asyncio.timeout(quiet_at - loop.time()):
                message = await from_app.get()
        except TimeoutError:
            break
        if message["type"] == "websocket.close":
            return [*messages, {"type": "close", "code": message["code"]}]
        if message["type"] == "websocket.http.response.body":
            return [json.loads(message["body"])]
        if message["type"] == "websocket.send":
            decoded = json.loads(message["text"])
            if decoded["type"] != "beat":
                quiet_at = loop.time() + QUIET_S
            messages.append(decoded)
    return messages
