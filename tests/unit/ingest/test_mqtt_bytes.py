"""What no real broker sends, or not on demand: poison, pieces, duplicates, refusals; seen from the link."""

import asyncio
import contextlib
import random
import time

import mqtt5
import pytest
import uvloop

from ingest import mqtt
from ingest.mqtt import MqttLink
from telemetry.clock import EngineClock
from tests.faults.process import until
from tests.faults.scripted_broker import CONNACK_PRESENT, DISCONNECT_TAKEN_OVER, ScriptedBroker, publish_bytes


async def nothing(say, number):
    pass


class Ears:
    """A running link with a memory. `acknowledging` = at once, inside on_batch."""

    def __init__(self, port, *, acknowledging=True, **options):
        self.heard, self.ups, self.downs = [], [], []
        self._acknowledging = acknowledging
        defaults = {"client_id": "core", "filters": ("t",), "keepalive_s": 30.0, "on_batch": self._take}
        self.link = MqttLink(
            host="127.0.0.1",
            port=port,
            clock=EngineClock(time.time_ns, time.monotonic_ns),
            rng=random.Random(1),
            on_up=lambda: self.ups.append(1),
            on_down=self.downs.append,
            **(defaults | options),
        )

    def _take(self, batch):
        self.heard.extend(batch)
        if self._acknowledging:
            self.link.acknowledge([delivery.token for delivery in batch if delivery.token])

    @contextlib.asynccontextmanager
    async def running(self):
        self.task = asyncio.create_task(self.link.run())
        try:
            yield self
        finally:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)


def acknowledged(packets):
    return [packet.packet_id for packet in packets if isinstance(packet, mqtt5.PubAckPacket)]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request):
    """Runs a coroutine on one of the two event loops."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runs(coroutine):
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(coroutine, 30))

    return runs


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the codec's panic leaves a decoding error behind
@pytest.mark.parametrize("byte_by_byte", [False, True])
def test_poison_is_delivered_raw_and_acknowledged_and_ends_nothing(run, byte_by_byte):
    poison = publish_bytes(b"t\xff\xfe", b"payload", 9)

    async def script(say, number):
        await say(publish_bytes(b"t", b"before", 8) + poison + publish_bytes(b"t", b"after", 10) + publish_bytes(b"t", b"zero"))

    async def scenario():
        async with ScriptedBroker(script, byte_by_byte=byte_by_byte) as broker, Ears(broker.port).running() as ears:
            await until(lambda: len(ears.heard) == 4 and len(acknowledged(broker.heard[0])) == 3)
            assert [(d.topic, d.payload) for d in ears.heard] == [("t", b"before"), ("", poison), ("t", b"after"), ("t", b"zero")]
            assert acknowledged(broker.heard[0]) == [8, 9, 10]
            assert ears.heard[3].token == 0
            assert ears.link.malformed == 1
            assert len(broker.heard) == 1
            assert ears.downs == []

    run(scenario())


@pytest.mark.parametrize("read_gap_s", [0.0, 0.002])
def test_pieces_cut_anywhere_give_the_same_deliveries(run, read_gap_s):
    payloads = [bytes([65 + n % 26]) * n for n in (0, 1, 100, 120, 127, 128, 200, 70_000, 3)]

    async def script(say, number):
        data = b"".join(publish_bytes(b"t", payload, n + 1) for n, payload in enumerate(payloads))
        at, rng = 0, random.Random(2)
        while at < len(data):
            size = rng.choice([1, 2, 3, 130, 20_000])
            await say(data[at : at + size])
            at += size

    async def scenario():
        async with ScriptedBroker(script) as broker, Ears(broker.port, read_gap_s=read_gap_s).running() as ears:
            await until(lambda: len(ears.heard) == len(payloads))
            assert [d.payload for d in ears.heard] == payloads
            await until(lambda: acknowledged(broker.heard[0]) == list(range(1, len(payloads) + 1)))

    run(scenario())


@pytest.mark.parametrize(
    "garbage", [b"HTTP/1.1 400 Bad Request\r\n" * 9, b"\x30\xff\xff\xff\xff\xff", b"\xf0\x00" * 3, b"\xc0\x00"]
)
async def test_garbage_ends_the_connection_and_it_is_tried_again(garbage):
    async def script(say, number):
        await say(garbage if number == 1 else b"\xd0\x00")

    async with ScriptedBroker(script) as broker, Ears(broker.port).running() as ears:
        await until(lambda: len(ears.ups) == 2)
        assert len(ears.downs) == 1
        assert not ears.task.done()


async def test_acknowledged_before_the_subscription_stands():
    """A session's messages may come before the SUBACK: their acknowledgement must not be lost."""

    async with ScriptedBroker(nothing, connack=CONNACK_PRESENT + publish_bytes(b"t", b"early", 5)) as broker:
        ears = Ears(broker.port)
        async with ears.running():
            await until(lambda: ears.heard)
            await until(lambda: acknowledged(broker.heard[0]) == [5])


async def test_a_publish_without_puback_is_sent_again_as_duplicate_with_its_id():
    async def script(say, number):
        if number == 1:
            await until(lambda: any(isinstance(p, mqtt5.PublishPacket) for p in broker.heard[0]))
            await say(b"\xe0\x00")  # DISCONNECT

    async with ScriptedBroker(script, connack=CONNACK_PRESENT) as broker, Ears(broker.port).running() as ears:
        await until(lambda: ears.ups)
        assert ears.link.publish("x", b"once")
        await until(lambda: len(broker.heard) == 2 and any(isinstance(p, mqtt5.PublishPacket) for p in broker.heard[1]))
        first, second = [next(p for p in heard if isinstance(p, mqtt5.PublishPacket)) for heard in broker.heard]
        assert not first.duplicate
        assert second.duplicate
        assert (first.packet_id, first.payload) == (second.packet_id, second.payload)
        assert ears.link.unsent == 1


async def test_a_lost_session_gets_the_publish_anew():
    async def script(say, number):
        if number == 1:
            await until(lambda: any(isinstance(p, mqtt5.PublishPacket) for p in broker.heard[0]))
            await say(b"\xe0\x00")

    async with ScriptedBroker(script) as broker, Ears(broker.port).running() as ears:
        await until(lambda: ears.ups)
        assert ears.link.publish("x", b"once")
        await until(lambda: len(broker.heard) == 2 and any(isinstance(p, mqtt5.PublishPacket) for p in broker.heard[1]))
        assert not next(p for p in broker.heard[1] if isinstance(p, mqtt5.PublishPacket)).duplicate


async def test_what_expires_while_queued_is_not_sent():
    async with ScriptedBroker(nothing) as broker:
        ears = Ears(broker.port)
        assert ears.link.publish("x", b"too late", expiry_s=0)
        assert ears.link.publish("x", b"in time", expiry_s=60)
        async with ears.running():
            await until(lambda: any(isinstance(p, mqtt5.PublishPacket) for p in broker.heard[0]) if broker.heard else False)
            sent = [p for p in broker.heard[0] if isinstance(p, mqtt5.PublishPacket)]
            assert [p.payload for p in sent] == [b"in time"]
            assert 58 <= sent[0].message_expiry_interval <= 60
            assert ears.link.refused == 1


async def test_publishes_are_bounded(monkeypatch):
    monkeypatch.setattr(mqtt, "OUTGOING_MAX", 3)
    async with ScriptedBroker(nothing) as broker, Ears(broker.port).running() as ears:
        await until(lambda: ears.ups)
        assert [ears.link.publish("x", b"%d" % n) for n in range(4)] == [True, True, True, False]
        assert ears.link.refused == 1
        assert not ears.link.publish("x", bytes(mqtt.PACKET_MAX))


async def test_a_broker_that_does_not_read_bounds_the_write_buffer(monkeypatch):
    monkeypatch.setattr(mqtt, "WRITE_MAX", 50_000)

    async def deaf(reader, writer):
        await reader.read(1000)
        writer.write(b"\x20\x03\x00\x00\x00")
        await reader.read(1000)
        writer.write(b"\x90\x04\x00\x01\x00\x01")
        await gate.wait()
        writer.transport.abort()

    gate = asyncio.Event()
    server = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1000)
    async with Ears(server.sockets[0].getsockname()[1], keepalive_s=30.0).running() as ears:
        await until(lambda: ears.ups)
        sent = 0
        while ears.link.publish("x", bytes(60_000), qos=0):
            sent += 1
            assert sent < 1000, "the write buffer has no bound"
            await asyncio.sleep(0)
        assert ears.link.refused == 1
        gate.set()
    server.close()


async def test_a_takeover_the_broker_speaks_of_is_said_with_the_client_id():
    async def script(say, number):
        await say(DISCONNECT_TAKEN_OVER)

    async with ScriptedBroker(script) as broker, Ears(broker.port, client_id="core-7").running() as ears:
        await until(lambda: ears.downs)
        assert "another core uses this client id (core-7)" in ears.downs[0]
        assert len(broker.heard) == 1


def test_an_exception_in_on_batch_ends_run(run):
    async def script(say, number):
        await say(publish_bytes(b"t", b"x", 1))

    def broken(batch):
        raise ZeroDivisionError("our own mistake")

    async def scenario():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        async with ScriptedBroker(script) as broker:
            ears = Ears(broker.port, on_batch=broken)
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(ears.link.run(), 30)

    run(scenario())


@pytest.mark.parametrize("read_gap_s", [0.0, 0.002])
def test_pause_stops_reading_at_the_socket_and_resume_goes_on(run, read_gap_s):
    """A paused link takes at most the read already under way; the broker's writes stall."""
    payload = bytes(50_000)

    async def script(say, number):
        for n in range(600):
            await say(publish_bytes(b"t", payload, n + 1))
            said.append(n)

    said = []

    async def scenario():
        async with ScriptedBroker(script) as broker:
            ears = Ears(broker.port, keepalive_s=0.4, read_gap_s=read_gap_s)

            def take(batch):
                ears.heard.extend(batch)
                if len(ears.heard) < 20:
                    ears.link.pause()

            ears.link.on_batch = take
            async with ears.running():
                await until(lambda: len(said) == 600)
                assert 1 <= len(ears.heard) <= 3
                began = time.monotonic()
                await until(lambda: time.monotonic() - began > 1.0)  # more than two keepalives: silence while paused is no death
                assert 1 <= len(ears.heard) <= 3
                assert ears.downs == []
                ears.link.on_batch = ears.heard.extend
                ears.link.resume()
                await until(lambda: len(ears.heard) == 600)
                assert len({d.token for d in ears.heard}) == 600

    run(scenario())
