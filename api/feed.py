"""The live feed: what changed, to each client that may see it, never more than it can take.

A client owns one mark per point ("changed since you last took it") and a bounded list of alarms, commands and rejects. A point that
changes again before the client took it is sent once, with its newest value; the older one is dropped and counted. So a slow client
costs its own marks and nothing else, and a client that does not take anything for TAKE_LIMIT_S is disconnected.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.websockets import WebSocket, WebSocketDisconnect

from api.alarm import Alarm
from api.auth import Gate, Principal, feed_principal
from api.problem import ProblemError, not_found
from api.state import NEVER, Command, Delta, LiveState
from api.views import (
    AlarmView,
    AreaItem,
    CommandView,
    ModeItem,
    alarm_view,
    area_now,
    command_view,
    mode_view,
    reject_view,
    request_view,
)
from telemetry.clock import Clock

CLIENTS_MAX: Final = 1_000
ITEMS_MAX: Final = 2_000  # alarms, commands and rejects waiting for one client; over it the client is disconnected
# What one message may hold: a client that does not read costs its last message and WRITE_BUFFER, not more.
POINTS_PER_MESSAGE: Final = 1_000
ITEMS_PER_MESSAGE: Final = 25
COMMANDS_AT_FIRST: Final = 200
INTERVAL_S: Final = 0.25  # between two messages to one client: people read, programs that need more read the history
BEAT_S: Final = 1.0  # a client that hears nothing for some beats must say so on its screen
TAKE_LIMIT_S: Final = 10.0
NS_PER_MS: Final = 1_000_000

FAREWELL_S: Final = 1.0
CLOSE_LOGIN: Final = 4401
CLOSE_SLOW: Final = 4408


class FeedClient:
    """What one client has not taken yet. `sites` is None for all, now and later."""

    def __init__(self, sites: frozenset[str] | None) -> None:
        self.sites = sites
        self.allowed = np.zeros(0, np.bool_)  # (points,) True for points of its sites
        self.devices = np.zeros(0, np.bool_)  # (devices,) of its sites
        self.dirty = np.zeros(0, np.bool_)
        self.items: deque[dict[str, Any]] = deque()
        self.is_overrun = False

    def sees(self, site: str) -> bool:
        """True for a site of its own."""
        return self.sites is None or site in self.sites

    def mark(self, points: NDArray[np.int64]) -> int:
        """Points changed; returns how many of them replace a change that the client had not taken."""
        mine = points[self.allowed[points]]
        replaced = int(np.count_nonzero(self.dirty[mine]))
        self.dirty[mine] = True
        return replaced

    def add(self, item: dict[str, Any]) -> None:
        """An alarm, command or reject; over the limit the client is given up, because a lost alarm change would look like calm."""
        if len(self.items) >= ITEMS_MAX:
            self.is_overrun = True
            return
        self.items.append(item)

    def take_points(self) -> NDArray[np.int64]:
        """At most POINTS_PER_MESSAGE changed points, unmarked."""
        points = np.flatnonzero(self.dirty)[:POINTS_PER_MESSAGE]
        self.dirty[points] = False
        return points


class FeedHub:
    """All clients of the live feed. Used on the event loop only."""

    def __init__(
        self, state: LiveState, clock: Clock, *, clients_max: int = CLIENTS_MAX, take_limit_s: float = TAKE_LIMIT_S
    ) -> None:
        self._state = state
        self._clock = clock
        self.clients_max = clients_max
        self.take_limit_s = take_limit_s
        self._clients: set[FeedClient] = set()
        self._making = asyncio.Lock()
        self.sent_points = self.replaced_points = 0
        self.opened = self.disconnected_slow = 0

    def __len__(self) -> int:
        return len(self._clients)

    def open(self, sites: frozenset[str] | None) -> FeedClient | None:
        """A client that will be sent everything of its sites, from what stands now on; None when there are too many clients."""
        if len(self._clients) >= self.clients_max:
            return None
        client = FeedClient(sites)
        self._allow(client)
        known = np.flatnonzero(self._state.ts_ns[: len(client.allowed)] != NEVER)
        client.dirty[known] = client.allowed[known]
        self._clients.add(client)
        self.opened += 1
        return client

    def close(self, client: FeedClient) -> None:
        """Forget a client."""
        self._clients.discard(client)

    def _allow(self, client: FeedClient) -> None:
        """Compute the points of the client's sites again; marks it has stay."""
        plan = self._state.plan
        of_site = np.array([client.sees(d.site) for d in plan.devices], np.bool_)
        owners = np.array([owner for owner, _ in plan.point_owner], np.int64)
        client.devices = of_site
        client.allowed = of_site[owners] if len(owners) else np.zeros(0, np.bool_)
        dirty = np.zeros(len(client.allowed), np.bool_)
        dirty[: len(client.dirty)] = client.dirty
        client.dirty = dirty

    def publish(self, delta: Delta) -> None:
        """Hand a change to every client that may see it."""
        items = list(_items(delta, self._state))
        for client in self._clients:
            if delta.sites:
                self._allow(client)
            self.replaced_points += client.mark(delta.points)
            for site, item in items:
                if client.sees(site):
                    client.add(item)

    def now_ms(self) -> int:
        """The server's time."""
        return self._clock.now_ns() // NS_PER_MS

    def beat(self, client: FeedClient) -> dict[str, Any]:
        """What proves that both this process and the core are alive, and how many messages the client's sites have sent so far."""
        state = self._state
        return {
            "type": "beat",
            "now_ms": self.now_ms(),
            "core_silent_ms": state.silent_ms(self._clock.now_ns()),
            "messages": int(state.device_messages[: len(client.devices)][client.devices].sum()),
            "engine_ms": state.engine_ns // NS_PER_MS,
            "blind": state.blind is not None,
            "position": state.position,
            "epoch": state.epoch,
        }

    def point_rows(self, points: NDArray[np.int64]) -> list[tuple[int, float, int, int]]:
        """[number, value, time in ms, quality] of each point; NaN becomes null in JSON."""
        state = self._state
        return list(
            zip(
                points.tolist(),
                state.value[points].tolist(),
                (state.ts_ns[points] // NS_PER_MS).tolist(),
                state.quality[points].tolist(),
                strict=True,
            )
        )

    async def standing(self, client: FeedClient) -> AsyncIterator[dict[str, Any]]:
        """The messages a new client begins with: all standing alarms and the newest commands, in parts.

        One part is made in one turn of the loop, whoever asks: a crowd that comes at once must not keep others waiting.
        """
        alarms = [alarm for alarm in self._state.alarms.values() if client.sees(alarm.site)]
        seen = (command for command in reversed(self._state.commands.values()) if client.sees(command.site))
        for kind, things in (("alarms", alarms), ("commands", list(itertools.islice(seen, COMMANDS_AT_FIRST)))):
            for first in range(0, max(1, len(things)), ITEMS_PER_MESSAGE):
                async with self._making:
                    items = [_view(thing).model_dump(mode="json") for thing in things[first : first + ITEMS_PER_MESSAGE]]
                    await asyncio.sleep(0)
                yield {"type": kind, "is_first": first == 0, "items": items}


def _view(thing: Alarm | Command) -> AlarmView | CommandView:
    return alarm_view(thing) if isinstance(thing, Alarm) else command_view(thing)


def _items(delta: Delta, state: LiveState) -> Iterable[tuple[str, dict[str, Any]]]:
    for alarm in delta.alarms:
        yield alarm.site, {"type": "alarm", "item": alarm_view(alarm).model_dump(mode="json")}
    for command in delta.commands:
        yield command.site, {"type": "command", "item": command_view(command).model_dump(mode="json")}
    for reject in delta.rejects:
        yield reject.site, {"type": "reject", "item": reject_view(reject).model_dump(mode="json")}
    for request in delta.requests:
        yield request.site, {"type": "request", "item": request_view(request).model_dump(mode="json")}
    for mode in delta.modes:
        shown = ModeItem(site=mode.site, device=mode.device, actuator=mode.actuator, **mode_view(mode).model_dump())
        yield mode.site, {"type": "mode", "item": shown.model_dump(mode="json")}
    for area in delta.areas:
        config = state.plan.sites.get(area.site)
        if config is not None:
            item = AreaItem(site=area.site, name=area.name, **area_now(state, config, area.name).model_dump())
            yield area.site, {"type": "area", "item": item.model_dump(mode="json")}
    for site in delta.sites:
        yield site, {"type": "config", "site": site}


_encode = msgspec.json.Encoder().encode


async def serve_feed(socket: WebSocket, *, gate: Gate, hub: FeedHub, state: LiveState) -> None:
    """One client from its handshake to its end. `?site=` (repeated) chooses sites; none means all the principal may see.

    Raises ProblemError instead of opening: 401, 403 for a foreign page, 404, 429.
    """
    principal = await feed_principal(socket, gate)
    wanted = frozenset(socket.query_params.getlist("site"))
    if not all(principal.may_see(site) and site in state.plan.sites for site in wanted):
        raise not_found("site")
    client = hub.open(wanted or principal.sites)
    if client is None:
        raise ProblemError(429, "too-many-requests", "Too many live feeds are open. Try again.", headers={"Retry-After": "10"})
    try:
        await socket.accept()
        await _serve_until_gone(socket, principal, client, gate=gate, hub=hub)
    finally:
        hub.close(client)


async def _serve_until_gone(socket: WebSocket, principal: Principal, client: FeedClient, *, gate: Gate, hub: FeedHub) -> None:
    sender = asyncio.create_task(_send(socket, principal, client, gate=gate, hub=hub), name="feed-sender")
    listener = asyncio.create_task(_listen(socket), name="feed-listener")
    try:
        await asyncio.wait((sender, listener), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (sender, listener):
            task.cancel()
        results = await asyncio.gather(sender, listener, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect | RuntimeError | OSError):
            raise result


async def _listen(socket: WebSocket) -> None:
    """Clients have nothing to say: what they send is read, so that a close is seen, and ignored."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return


async def _send(socket: WebSocket, principal: Principal, client: FeedClient, *, gate: Gate, hub: FeedHub) -> None:
    loop = asyncio.get_running_loop()
    try:
        async for message in hub.standing(client):
            await _send_one(socket, message, hub)
        beat_due = loop.time()
        while not client.is_overrun:
            if loop.time() >= beat_due:
                beat_due = loop.time() + BEAT_S
                if not await gate.run(lambda: gate.sessions.stands(principal.session)):
                    await _close(socket, CLOSE_LOGIN, "The session has ended.")
                    return
                await _send_one(socket, hub.beat(client), hub)
            while client.items:
                await _send_one(socket, client.items.popleft(), hub)
            waiting = np.count_nonzero(client.dirty)  # what changes meanwhile comes the next time
            while waiting > 0 and len(points := client.take_points()):
                await _send_one(socket, {"type": "points", "now_ms": hub.now_ms(), "rows": hub.point_rows(points)}, hub)
                hub.sent_points += len(points)
                waiting -= len(points)
            await asyncio.sleep(INTERVAL_S)
    except TimeoutError:
        client.is_overrun = True
    hub.disconnected_slow += 1
    await _close(socket, CLOSE_SLOW, "You take the data too slowly.")


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    """Say why, when the client takes it within FAREWELL_S; the connection ends in any case."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_S):
            await socket.close(code, reason)


async def _send_one(socket: WebSocket, message: dict[str, Any], hub: FeedHub) -> None:
    """Send, waiting at most the hub's limit for the client to take it."""
    async with asyncio.timeout(hub.take_limit_s):
        await socket.send_text(_encode(message).decode())
