"""A simulated device on a real Mosquitto: birth, telemetry, command, measured feedback, link loss, goodbye."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiomqtt
import msgspec
import numpy as np
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from app.faults import order_fault
from app.settings import load_settings
from simulators.device import Options
from simulators.fleet import Broker, DeviceClient, build_devices, retrieve_disconnection, run_fleet
from telemetry.clock import EngineClock
from telemetry.errors import CallerError, EnvironmentFault
from telemetry.wire import message as wire
from tests.faults.process import DEADLINE_S
from tests.unit.simulators.shipped import load_site

pytestmark = pytest.mark.system
SITE = load_site("nursery")
DEVICE = "climate-1"


class Mosquitto:
    """A broker on a port that stays the same over kills. Anonymous: access control has tests of its own."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._config = directory / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        binary = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")
        if binary is None:
            pytest.skip("mosquitto is not installed")
        self._process = subprocess.Popen([binary, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
        pytest.fail("mosquitto did not start")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    mosquitto = Mosquitto(tmp_path)
    mosquitto.start()
    yield mosquitto
    mosquitto.kill()


class Listener:
    """The service's end: everything a device said, by channel."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self.client = client
        self.rows: dict[int, wire.Message] = {}
        self.channels: dict[int, str] = {}
        self.acks: dict[str, wire.CommandAck] = {}
        self.statuses: list[wire.Status] = []
        self.latest: dict[str, float] = {}
        self._heard = asyncio.Event()

    async def listen(self) -> None:
        async for message in self.client.messages:
            channel = message.topic.value.rsplit("/", 1)[1]
            if channel == "ack":
                ack = msgspec.json.decode(message.payload, type=wire.CommandAck)
                self.acks[ack.id] = ack
            elif channel == "status":
                self.statuses.append(msgspec.json.decode(message.payload, type=wire.Status))
            elif channel in ("telemetry", "backfill"):
                row = wire.decode_message(message.payload, [])
                assert isinstance(row, wire.Message)
                self.rows.setdefault(row.seq, row)
                self.channels.setdefault(row.seq, channel)
                self.latest |= row.p
            self._heard.set()

    async def until(self, holds: Callable[[], bool], what: str, *, within_s: float = DEADLINE_S) -> None:
        try:
            async with asyncio.timeout(within_s):
                while not holds():
                    self._heard.clear()
                    await self._heard.wait()
        except TimeoutError:
            pytest.fail(f"not within {within_s} s: {what}; status {self.statuses[-3:]}, acks {self.acks}, latest {self.latest}")

    async def command(self, identity: str, actuator: str, value: float, *, epoch: int = 5, queued_s: float = 30) -> None:
        command = wire.Command(id=identity, epoch=epoch, actuator=actuator, value=value, expires_s=queued_s)
        properties = Properties(PacketTypes.PUBLISH)
        properties.MessageExpiryInterval = int(queued_s)
        await self.client.publish(f"fl/nursery/{DEVICE}/command", wire.encode(command), qos=1, properties=properties)


@contextlib.asynccontextmanager
async def listening(broker: Mosquitto) -> AsyncIterator[Listener]:
    async with aiomqtt.Client("127.0.0.1", broker.port, identifier="service", protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe(f"fl/nursery/{DEVICE}/#", qos=1)
        listener = Listener(client)
        task = asyncio.create_task(listener.listen(), name="listener")
        try:
            yield listener
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, aiomqtt.MqttError):
                await task
            retrieve_disconnection(client)


@contextlib.asynccontextmanager
async def fleet(broker: Mosquitto, *, speed: float = 60.0) -> AsyncIterator[None]:
    stop = asyncio.Event()
    running = asyncio.create_task(
        run_fleet(
            SITE,
            host="127.0.0.1",
            port=broker.port,
            password_of=lambda _: None,
            seed=1,
            clock=EngineClock(time.time_ns, time.monotonic_ns),
            speed=speed,
            sample_s=0.2,
            only=frozenset({DEVICE}),
            stop=stop,
        ),
        name="fleet",
    )
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(DEADLINE_S):
            await running


async def test_command_opens_the_vent_and_the_drive_says_so(broker):
    async with listening(broker) as service:
        async with fleet(broker):
            await service.until(lambda: service.statuses[-1:] != [], "birth")
            assert service.statuses[0].state == "online"
            await service.until(lambda: "vent_lee_pct" in service.latest, "telemetry")
            await service.command("5-1-vent_lee", "vent_lee", 80)
            await service.until(lambda: "5-1-vent_lee" in service.acks, "acknowledgement")
            assert service.acks["5-1-vent_lee"].status == "accepted"
            assert service.latest["vent_lee_pct"] < 60, "the drive takes 4 s at this speed; the acknowledgement is earlier"
            await service.until(lambda: service.latest["vent_lee_pct"] > 77, "feedback near 80")
            await service.command("4-9-vent_lee", "vent_lee", 0, epoch=4)
            await service.until(lambda: "4-9-vent_lee" in service.acks, "refusal")
            assert service.acks["4-9-vent_lee"].status == "refused"
        await service.until(lambda: service.statuses[-1].state == "offline", "goodbye")


async def test_nothing_is_lost_when_the_broker_is_killed(broker):
    async with fleet(broker):
        async with listening(broker) as service:
            await service.until(lambda: len(service.rows) > 5, "telemetry")
            before = dict(service.rows)
            broker.kill()
        broker.start()
        async with listening(broker) as service:
            service.rows |= before
            await service.until(lambda: "backfill" in service.channels.values(), "backlog")
            newest = max(service.rows)
            await service.until(lambda: max(service.rows) > newest + 5, "live telemetry again")
            await service.until(lambda: set(range(max(service.rows) + 1)) <= set(service.rows), "every sequence number")
            boot = service.statuses[-1].boot
            receipt = wire.Receipt(boot=boot, seq=max(service.rows))
            await service.client.publish(f"fl/nursery/{DEVICE}/receipt", wire.encode(receipt), qos=1)


async def test_command_queued_past_its_expiry_is_not_executed(broker):
    async with listening(broker) as service:
        async with fleet(broker):
            await service.until(lambda: "vent_lee_pct" in service.latest, "telemetry")
        # The device is away with its session kept; one command outlives the absence, one does not.
        await service.command("5-1-shade_screen", "shade_screen", 50, queued_s=1)
        await service.command("5-2-vent_wind", "vent_wind", 50, queued_s=60)
        with contextlib.suppress(TimeoutError):  # real seconds of a real broker: there is no condition to wait for
            await asyncio.wait_for(asyncio.Event().wait(), 2.1)
        async with fleet(broker):
            await service.until(lambda: "5-2-vent_wind" in service.acks, "the queued command")
            assert service.acks["5-2-vent_wind"].status == "accepted"
            assert "5-1-shade_screen" not in service.acks, "the broker dropped it"


async def test_command_that_expires_while_a_switch_keeps_its_minimum_time_is_not_executed(broker):
    async with listening(broker) as service, fleet(broker, speed=10.0):
        await service.until(lambda: "vent_lee_pct" in service.latest, "telemetry")
        await service.command("5-1-pump", "circulation_pump", 1)
        await service.command("5-2-pump", "circulation_pump", 0, queued_s=1)  # 60 s of plant time on are 6 s here
        await service.until(lambda: "5-2-pump" in service.acks, "the answer")
        assert service.acks["5-2-pump"].status == "expired"
        assert service.latest["circulation_pump_bool"] == 1


async def test_fleet_of_a_site_runs_every_device_as_its_own_client(broker):
    names: set[str] = set()
    stop = asyncio.Event()
    async with aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        await client.subscribe("fl/nursery/+/telemetry", qos=1)
        clock = EngineClock(time.time_ns, time.monotonic_ns)
        run = run_fleet(
            SITE, host="127.0.0.1", port=broker.port, password_of=lambda _: None, seed=1, clock=clock, sample_s=0.5, stop=stop
        )
        running = asyncio.create_task(run, name="fleet")
        async with asyncio.timeout(DEADLINE_S):
            async for message in client.messages:
                names.add(message.topic.value.split("/")[2])
                if len(names) == sum(len(device.names()) for device in SITE.devices):
                    break
            stop.set()
            devices = await running
    assert {device.name for device in devices} == names
    assert all(device.counters.sent > 0 for device in devices)


async def test_device_that_is_told_to_end_while_answers_come_ends(broker):
    """The loop is late, so that the broker's answer to a publish and the cancellation come in one of its turns."""
    clock = EngineClock(time.time_ns, time.monotonic_ns)
    options = Options(boot=1, plant_start_s=0, sample_s=0.01)
    for attempt in range(10):
        [device] = build_devices(SITE, seed=1, options=options, only=frozenset({DEVICE}))
        address = Broker("127.0.0.1", broker.port, lambda _name: None)
        client = DeviceClient(device, address, clock=clock, random=np.random.default_rng(attempt))
        running = asyncio.create_task(client.run(asyncio.Event()))
        async with asyncio.timeout(DEADLINE_S):
            while not device.is_connected:  # noqa: ASYNC110 -- it lives behind a socket
                await asyncio.sleep(0.01)
        for _ in range(300):
            client._put(device.will())  # one after the other: there is always an answer to wait for
        await asyncio.sleep(0.01)
        time.sleep(0.02)  # noqa: ASYNC251 -- on purpose: the loop stands still
        running.cancel()
        done, _ = await asyncio.wait((running,), timeout=DEADLINE_S)
        running.cancel()
        await asyncio.wait((running,), timeout=DEADLINE_S)
        assert done, f"attempt {attempt}"


async def test_faults_by_command_are_measured_answered_and_over_in_time(broker, monkeypatch):
    monkeypatch.setenv("FIELDLOOM_MQTT_HOST", "127.0.0.1")
    monkeypatch.setenv("FIELDLOOM_MQTT_PORT", str(broker.port))

    async def fail(where: str, name: str, for_s: float | None = None, strength: float | None = None) -> None:
        await order_fault(load_settings(), f"nursery/{where}", name, strength=strength, for_s=for_s, passwords=None)

    async with listening(broker) as service:
        async with fleet(broker):
            await service.until(lambda: "air_temp_c" in service.latest, "telemetry")
            await fail(f"{DEVICE}/air_temp_c", "dead")
            await service.until(lambda: service.latest["air_temp_c"] == 0, "a dead sensor says 0")
            await fail(f"{DEVICE}/air_temp_c", "dead", strength=0.0)
            await service.until(lambda: service.latest["air_temp_c"] > 15, "and is well again")
            with pytest.raises(CallerError, match="multispan has no actuator 'vent'"):
                await fail(f"{DEVICE}/vent", "drive_stuck")
            boots = [status.boot for status in service.statuses]
            await fail(DEVICE, "power_dip", for_s=60.0)  # a second at this speed
            await service.until(lambda: service.statuses[-1].state == "offline", "the last will")
            await service.until(lambda: service.statuses[-1].state == "online", "another birth")
            assert service.statuses[-1].boot == boots[-1] + 1
        with pytest.raises(EnvironmentFault, match="no simulated device nursery/climate-1 answered"):
            await fail(f"{DEVICE}/air_temp_c", "dead")
