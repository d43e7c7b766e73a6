"""An in-memory broker for the lab: the same promises as the real link, no sockets, no tasks of its own.

Sessions are persistent, deliveries stay until acknowledged and come again on the next connection. Nothing moves between two
calls of `pump()`, so the lab decides when the network works.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from ingest.link import Delivery, OnBatch
from telemetry.clock import Clock

BATCH_MAX: Final = 1_000


def matches(pattern: str, topic: str) -> bool:
    """Does a topic filter match? `+` one level, trailing `#` the rest; wildcards do not match topics beginning with `$`."""
    if topic.startswith("$") and pattern[:1] in {"+", "#"}:
        return False
    wanted, given = pattern.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(given) or level not in {"+", given[index]}:
            return False
    return len(wanted) == len(given)


class MemoryBroker:
    """Keeps sessions by client id, and retained messages. Without a network: `publish` is a device speaking."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._links: dict[str, MemoryLink] = {}
        self._routes: dict[str, list[MemoryLink]] = {}  # by topic, as it was last found
        self._retained: dict[str, bytes] = {}

    def attach(self, link: "MemoryLink") -> None:
        """Make a link known; it receives what it subscribed to, connected or not."""
        self._links[link.client_id] = link
        self._routes.clear()
        for topic, payload in self._retained.items():
            if link.wants(topic):
                link.offer(topic, payload, retained=True, qos=1)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Route one message into every matching session."""
        if retain:
            if payload:
                self._retained[topic] = payload
            else:
                self._retained.pop(topic, None)
        if topic not in self._routes:
            self._routes[topic] = [link for link in self._links.values() if link.wants(topic)]
        for link in self._routes[topic]:
            link.offer(topic, payload, retained=False, qos=qos)

    def pump(self) -> int:
        """Deliver everything deliverable now; how many messages."""
        return sum([link.pump() for link in self._links.values() if link.has_mail])


class MemoryLink:
    """A Link on a MemoryBroker. `connect`/`disconnect` are the lab's; `run` does both for code that expects a task."""

    def __init__(
        self,
        broker: MemoryBroker,
        *,
        client_id: str,
        filters: Sequence[str],
        on_batch: OnBatch,
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda _reason: None,
        receive_max: int = 10_000,
    ) -> None:
        self.client_id = client_id
        self._broker = broker
        self._filters = tuple(filters)
        self._on_batch, self._on_up, self._on_down = on_batch, on_up, on_down
        self._receive_max = receive_max
        self._queue: deque[tuple[str, bytes, bool, int]] = deque()
        self._unacknowledged: dict[int, tuple[str, bytes, bool, int]] = {}
        self._outgoing: deque[tuple[str, bytes, bool]] = deque()
        self._generation = 0
        self._next = 0
        self._connected = False
        self._paused = False
        broker.attach(self)

    async def run(self) -> None:
        """Connect, pump, disconnect when cancelled. The lab calls `connect` and `pump` itself instead."""
        self.connect()
        try:
            while True:
                self._broker.pump()
                await asyncio.sleep(0)
        finally:
            self.disconnect("stopped")

    def connect(self) -> None:
        """Open a connection: what was not acknowledged comes again, first."""
        assert not self._connected
        self._connected = True
        self._generation += 1
        self._queue.extendleft(reversed(self._unacknowledged.values()))
        self._unacknowledged.clear()
        self._on_up()
        while self._outgoing:
            topic, payload, retain = self._outgoing.popleft()
            self._broker.publish(topic, payload, retain=retain)

    def disconnect(self, reason: str) -> None:
        """Lose the connection."""
        if self._connected:
            self._connected = False
            self._on_down(reason)

    def wants(self, topic: str) -> bool:
        """Whether it subscribed to a topic."""
        return any(matches(pattern, topic) for pattern in self._filters)

    def offer(self, topic: str, payload: bytes, *, retained: bool, qos: int) -> None:
        """From the broker: queue what was subscribed to; QoS 0 only while connected."""
        if self._connected or qos:
            self._queue.append((topic, payload, retained, qos))

    @property
    def has_mail(self) -> bool:
        """Whether anything waits for it."""
        return bool(self._queue)

    def pump(self) -> int:
        """Deliver one batch, as far as the window allows; its size."""
        batch: list[Delivery] = []
        now_ns = self._broker.clock.now_ns()
        while self._can_deliver() and len(batch) < BATCH_MAX:
            item = self._queue.popleft()
            token = 0
            if item[3]:
                self._next += 1
                token = self._generation << 40 | self._next
                self._unacknowledged[token] = item
            batch.append(Delivery(item[0], item[1], item[2], now_ns, token))
        if batch:
            self._on_batch(batch)
        return len(batch)

    def _can_deliver(self) -> bool:
        return self._connected and not self._paused and bool(self._queue) and len(self._unacknowledged) < self._receive_max

    def acknowledge(self, tokens: Sequence[int]) -> None:
        """See Link.acknowledge."""
        for token in tokens:
            self._unacknowledged.pop(token, None)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expiry_s: int | None = None) -> bool:
        """See Link.publish. Expiry is not kept: in the lab the devices judge it."""
        del expiry_s
        if self._connected:
            self._broker.publish(topic, payload, qos=qos, retain=retain)
        elif qos:
            self._outgoing.append((topic, payload, retain))
        return self._connected or qos > 0

    def pause(self) -> None:
        """See Link.pause."""
        self._paused = True

    def resume(self) -> None:
        """See Link.resume."""
        self._paused = False
