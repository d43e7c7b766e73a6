"""What every Link promises, on a real Mosquitto and on the lab's broker."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import pytest

from ingest.link import Delivery, Link
from ingest.memory_link import MemoryBroker, MemoryLink
from ingest.mqtt import MqttLink
from telemetry.clock import EngineClock
from tests.faults.broker import RealBroker
from tests.faults.process import until

FILTERS = ("fl/+/+/telemetry",)
TOPIC = "fl/site/device/telemetry"


class Session:
    """A link with a memory of what it heard. `start` connects, `stop` loses the connection and keeps the session."""

    def __init__(self, make: Callable[..., Link], **options: Any) -> None:
        self._make, self._options = make, options
        self.heard: list[Delivery] = []
        self.ups = 0
        self.downs: list[str] = []
        self.link = make(on_batch=self.heard.extend, on_up=self._up, on_down=self.downs.append, **options)
        self._task: asyncio.Task[None] | None = None

    def _up(self) -> None:
        self.ups += 1

    @property
    def payloads(self) -> list[bytes]:
        return [delivery.payload for delivery in self.heard]

    def acknowledge_all(self) -> None:
        self.link.acknowledge([delivery.token for delivery in self.heard])

    async def start(self) -> "Session":
        ups = self.ups
        self._task = asyncio.create_task(self.link.run())
        await until(lambda: self.ups > ups)
        return self

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None


class World(Protocol):
    def __call__(self, client_id: str, filters: tuple[str, ...], **options: Any) -> Session: ...


@pytest.fixture(params=["mosquitto", "memory"])
async def world(request, tmp_path) -> AsyncIterator[World]:
    sessions: list[Session] = []
    clock = EngineClock(time.time_ns, time.monotonic_ns)
    broker = RealBroker(tmp_path / "broker").start() if request.param == "mosquitto" else None
    memory = MemoryBroker(clock)

    def make(client_id: str, filters: tuple[str, ...], **options: Any) -> Session:
        if broker is None:
            session = Session(lambda **hooks: MemoryLink(memory, **hooks), client_id=client_id, filters=filters, **options)
        else:
            constants = {"host": broker.host, "port": broker.port, "clock": clock, "rng": random.Random(1), "keepalive_s": 2.0}
            session = Session(lambda **hooks: MqttLink(**constants, **hooks), client_id=client_id, filters=filters, **options)
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        await session.stop()
    if broker is not None:
        broker.kill()


async def test_delivers_in_order_with_tokens(world: World):
    core, device = await world("core", FILTERS).start(), await world("device", ("x",)).start()
    sent = [str(number).encode() for number in range(2_000)]
    for payload in sent:
        assert device.link.publish(TOPIC, payload)
    await until(lambda: len(core.heard) == 2_000)
    assert core.payloads == sent
    assert all(delivery.token and delivery.topic == TOPIC and not delivery.retained for delivery in core.heard)
    assert len({delivery.token for delivery in core.heard}) == 2_000


async def test_what_was_not_acknowledged_comes_again_and_first(world: World):
    core, device = await world("core", FILTERS).start(), await world("device", ("x",)).start()
    device.link.publish(TOPIC, b"one")
    await until(lambda: core.heard)
    await core.stop()
    device.link.publish(TOPIC, b"two")
    await core.start()
    await until(lambda: len(core.heard) == 3)
    assert core.payloads == [b"one", b"one", b"two"]


async def test_what_was_acknowledged_does_not_come_again(world: World):
    core, device = await world("core", FILTERS).start(), await world("device", ("mark",)).start()
    for number in range(100):
        device.link.publish(TOPIC, b"%d" % number)
    await until(lambda: len(core.heard) == 100)
    core.acknowledge_all()
    core.link.publish("mark", b"the broker has read the acknowledgements before this")
    await until(lambda: device.heard)
    await core.stop()
    await core.start()
    device.link.publish(TOPIC, b"last")
    await until(lambda: core.payloads[-1] == b"last")
    assert len(core.heard) == 101


async def test_tokens_of_an_earlier_connection_are_ignored(world: World):
    core, device = await world("core", FILTERS).start(), await world("device", ("x",)).start()
    device.link.publish(TOPIC, b"one")
    await until(lambda: core.heard)
    old = [core.heard[0].token]
    await core.stop()
    await core.start()
    await until(lambda: len(core.heard) == 2)
    core.link.acknowledge(old)
    await core.stop()
    await core.start()
    await until(lambda: len(core.heard) == 3)


async def test_the_window_bounds_what_is_not_acknowledged(world: World):
    core, device = await world("core", FILTERS, receive_max=10).start(), await world("device", ("x",)).start()
    probe = await world("probe", FILTERS).start()
    for number in range(30):
        device.link.publish(TOPIC, b"%d" % number)
    await until(lambda: len(probe.heard) == 30)
    await until(lambda: len(core.heard) == 10)
    core.acknowledge_all()
    await until(lambda: len(core.heard) >= 20)  # Mosquitto 2.0.11 overshoots its window once acknowledgements flow


async def test_pause_stops_and_resume_loses_nothing(world: World):
    core, device = await world("core", FILTERS).start(), await world("device", ("x",)).start()
    probe = await world("probe", FILTERS).start()
    core.link.pause()
    for number in range(50):
        device.link.publish(TOPIC, b"%d" % number)
    await until(lambda: len(probe.heard) == 50)
    assert core.heard == []
    core.link.resume()
    await until(lambda: len(core.heard) == 50)


async def test_retained_messages_say_so(world: World):
    device = await world("device", ("x",)).start()
    watcher = await world("watcher", FILTERS).start()
    device.link.publish(TOPIC, b"kept", retain=True)
    await until(lambda: watcher.heard)
    core = await world("core", FILTERS).start()
    await until(lambda: core.heard)
    assert core.heard[0].retained
    assert not watcher.heard[0].retained


async def test_publishes_made_while_down_arrive_later(world: World):
    core, device = await world("core", FILTERS).start(), world("device", ("x",))
    assert not device.link.publish(TOPIC, b"zero", qos=0)
    assert device.link.publish(TOPIC, b"one")
    assert device.link.publish(TOPIC, b"two")
    await device.start()
    await until(lambda: len(core.heard) == 2)
    assert core.payloads == [b"one", b"two"]


async def test_qos_0_needs_no_acknowledgement(world: World):
    core, device = await world("core", FILTERS).start(), await world("device", ("x",)).start()
    assert device.link.publish(TOPIC, b"zero", qos=0)
    await until(lambda: core.heard)
    assert core.heard[0].token == 0
