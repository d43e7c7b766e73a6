"""The link and a real Mosquitto: TLS, will, takeover, black hole, trickle, cuts, restart, and the early acknowledgement."""

import asyncio
import random
import ssl
import time

import pytest
import trustme
import uvloop

from ingest.mqtt import MqttLink
from telemetry.clock import EngineClock
from tests.faults.broker import RealBroker
from tests.faults.chaos_proxy import ChaosProxy
from tests.faults.process import free_port, until

FILTERS = ("fl/+/+/telemetry",)
TOPIC = "fl/site/device/telemetry"


class Session:
    """A running link with a memory; acknowledges at once unless told otherwise. `stored` keeps each payload once, as a store does."""

    def __init__(self, port, client_id, *, filters=FILTERS, acknowledging=True, **options):
        self.heard, self.stored, self.downs, self.ups = [], {}, [], 0
        self._acknowledging = acknowledging
        self.link = MqttLink(
            host="127.0.0.1",
            port=port,
            client_id=client_id,
            filters=filters,
            clock=EngineClock(time.time_ns, time.monotonic_ns),
            rng=random.Random(client_id),
            on_batch=self._take,
            on_up=self._up,
            on_down=self.downs.append,
            **({"keepalive_s": 2.0} | options),
        )

    def _take(self, batch):
        self.heard.extend(delivery.payload for delivery in batch)
        self.stored |= dict.fromkeys(delivery.payload for delivery in batch)
        if self._acknowledging:
            self.link.acknowledge([delivery.token for delivery in batch if delivery.token])

    def _up(self):
        self.ups += 1

    async def __aenter__(self):
        self._task = asyncio.create_task(self.link.run())
        await until(lambda: self.ups)
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def die(self):
        """End as a killed process does: no DISCONNECT."""
        self.link._connection._transport.abort()
        await self.__aexit__()


@pytest.fixture
def broker(tmp_path):
    with RealBroker(tmp_path / "broker") as running:
        yield running


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def tls_broker(tmp_path, authority):
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "server.key")
    port = free_port()
    listener = [f"listener {port} 127.0.0.1", f"certfile {tmp_path}/server.pem", f"keyfile {tmp_path}/server.key"]
    with RealBroker(tmp_path / "broker", extra="\n".join(listener)) as running:
        yield running, port


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("read_gap_s", [0.0, 0.002])
def test_tls_carries_both_ways(tls_broker, authority, new_loop, read_gap_s):
    broker, port = tls_broker
    context = ssl.create_default_context()
    authority.configure_trust(context)
    payloads = [b"%d" % n + bytes(n * 37 % 5000) for n in range(500)]

    async def scenario():
        async with (
            Session(port, "core", tls=context, read_gap_s=read_gap_s) as core,
            Session(broker.port, "device", filters=("x",)) as device,
        ):
            for payload in payloads:
                assert device.link.publish(TOPIC, payload)
            await until(lambda: len(core.heard) == 500)
            assert core.heard == payloads
            assert core.link.publish("x", bytes(300_000))
            await until(lambda: device.heard == [bytes(300_000)])
            core.link.pause()
            device.link.publish(TOPIC, b"while paused")
            core.link.resume()
            await until(lambda: core.heard[-1] == b"while paused")
            assert core.downs == []

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


async def test_a_broker_whose_certificate_nobody_vouches_for_is_refused_and_said(tls_broker):
    _broker, port = tls_broker
    session = Session(port, "core", tls=ssl.create_default_context())
    task = asyncio.create_task(session.link.run())
    await until(lambda: session.downs)
    assert "certificate verify failed" in session.downs[0]
    assert session.ups == 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_the_will_speaks_for_the_dead_and_not_for_those_who_leave(broker):
    async with Session(broker.port, "watcher", filters=("will/#",)) as watcher:
        async with Session(broker.port, "leaver", will=("will/leaver", b"gone")):
            pass
        async with Session(broker.port, "victim", will=("will/victim", b"dead")) as victim:
            await victim.die()
            await until(lambda: watcher.heard)
        assert watcher.heard == [b"dead"]


async def test_two_cores_with_one_client_id_stop_fighting_say_so_and_lose_nothing(broker):
    """Mosquitto 2.0.11 closes without a word; the loser rests after three early closes. A device speaks all the time."""
    async with (
        Session(broker.port, "device", filters=("x",)) as device,
        Session(broker.port, "core-7") as first,
        Session(broker.port, "core-7") as second,
    ):
        sent = 0

        async def speak():
            nonlocal sent
            while True:
                sent += device.link.publish(TOPIC, b"%d" % sent)
                await asyncio.sleep(0.005)

        speaking = asyncio.create_task(speak())
        await until(lambda: any("another core" in reason for session in (first, second) for reason in session.downs))
        speaking.cancel()
        assert any("core-7" in reason for session in (first, second) for reason in session.downs)
        fights = first.ups + second.ups
        assert fights <= 8
        await until(lambda: device.link.unsent == 0 and len(first.stored | second.stored) == sent)
        assert first.ups + second.ups <= fights + 1, "they still fight"


@pytest.mark.alone
async def test_a_black_hole_is_noticed_within_two_keepalives_and_a_second(broker):
    async with ChaosProxy(broker.port) as proxy, Session(proxy.port, "core", keepalive_s=1.0) as core:
        proxy.mode = "blackhole"
        began = time.monotonic()
        await until(lambda: core.downs)
        assert time.monotonic() - began <= 2 * 1.0 + 1.0
        proxy.mode = "pass"
        await until(lambda: core.ups == 2)
        assert len(core.downs) == 1


async def test_a_trickle_is_slow_and_alive(broker):
    async with ChaosProxy(broker.port) as proxy, Session(proxy.port, "core", keepalive_s=1.0) as core:
        proxy.mode = "trickle"
        async with Session(broker.port, "device", filters=("x",)) as device:
            for n in range(5):
                device.link.publish(TOPIC, b"%d" % n)
            await until(lambda: len(core.heard) == 5)
        assert core.heard == [b"0", b"1", b"2", b"3", b"4"]
        assert core.downs == []


async def test_cut_every_second_the_stored_set_is_that_of_a_clean_run(broker):
    """The short form of a bad link: every connection is reset each second while a device speaks 200 times a second."""
    payloads = [b"%d" % n for n in range(1000)]
    async with (
        ChaosProxy(broker.port) as proxy,
        Session(broker.port, "clean") as clean,
        Session(proxy.port, "core") as core,
        Session(proxy.port, "device", filters=("x",)) as device,
    ):
        began, cuts = time.monotonic(), 0
        for n, payload in enumerate(payloads):
            assert device.link.publish(TOPIC, payload)
            await until(lambda n=n: time.monotonic() >= began + n / 200)
            if time.monotonic() - began > cuts + 1:
                cuts += 1
                proxy.cut()
        await until(lambda: len(clean.stored) == 1000)
        await until(lambda: len(core.stored) == 1000)
        assert cuts >= 4
        assert core.ups >= 3
        assert core.stored == clean.stored == dict.fromkeys(payloads)
        assert len(core.downs) <= core.ups  # one line when it breaks, one when it is back
        assert not any("another core" in reason for reason in core.downs + device.downs)


async def test_what_the_link_published_survives_a_restart_of_the_broker(broker):
    async with Session(broker.port, "core", filters=("x",)) as core, Session(broker.port, "ear") as ear:
        for n in range(300):
            assert core.link.publish(TOPIC, b"%d" % n)
            if n == 150:
                broker.restart()
        await until(lambda: core.link.unsent == 0)
        await until(lambda: len(ear.stored) == 300)


async def test_the_sabotaged_link_loses_what_was_not_stored(broker, monkeypatch):
    """Proof that the promise can be broken: acknowledged early, a message does not come again."""
    monkeypatch.setenv("FIELDLOOM_SABOTAGE", "ack_early")
    async with Session(broker.port, "device", filters=("x",)) as device:
        async with Session(broker.port, "core", acknowledging=False) as core:
            device.link.publish(TOPIC, b"one")
            await until(lambda: core.heard)
            core.link.publish("x", b"the broker has read the acknowledgement before this")
            await until(lambda: device.heard)
        async with Session(broker.port, "core", acknowledging=False) as core:
            device.link.publish(TOPIC, b"two")
            await until(lambda: core.heard)
            assert core.heard == [b"two"]
