"""Isolation of devices on the shipped broker configuration, judged at the receiver: PUBACK and SUBACK say yes to everything."""

import itertools
import queue
import time
from collections.abc import Iterator

import paho.mqtt.client as paho
import pytest

from app.broker import SERVICE, Broker, BrokerAddress
from telemetry.topic import CHANNELS

pytestmark = pytest.mark.security
DEVICES = ["north/a", "north/b", "south/a"]
WRITABLE = {"telemetry", "backfill", "status", "event", "ack"}
READABLE = {"command", "receipt"}
VERSIONS = [paho.MQTTv311, paho.MQTTv5]


class Client:
    """A paho client that remembers (topic, payload)."""

    def __init__(self, port, user, password, *, version=paho.MQTTv5, client_id=None, will=None):
        self.got, self.marks = [], queue.Queue()
        self.connected, self.down, self.answers = queue.Queue(), queue.Queue(), queue.Queue()
        self.paho = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id or user, protocol=version, reconnect_on_failure=False)
        self.paho.username_pw_set(user, password)
        if will:
            self.paho.will_set(*will, qos=1)
        self.paho.on_message = lambda _c, _u, message: self.got.append((message.topic, bytes(message.payload)))
        self.paho.on_connect = lambda _c, _u, _f, code, _p: self.connected.put(not code.is_failure)
        self.paho.on_disconnect = lambda *_: self.down.put(True)
        self.paho.on_publish = lambda _c, _u, mid, *_: self.answers.put(mid)
        self.paho.on_subscribe = lambda _c, _u, mid, *_: self.answers.put(mid)
        self.paho.connect("127.0.0.1", port)
        self.paho.loop_start()
        self.accepted = self.connected.get(timeout=5)

    def publish(self, topic, payload, *, retain=False):
        self.paho.publish(topic, payload, qos=1, retain=retain)  # answers prove nothing; later messages prove order

    def settled(self):
        """The broker has answered the publish, or ended the connection."""
        end = time.monotonic() + 5.0
        while self.answers.empty() and self.down.empty():
            assert time.monotonic() < end, "the broker neither answered nor hung up"
            time.sleep(0.002)

    def subscribe(self, pattern):
        self.paho.subscribe(pattern, qos=1)
        self.answers.get(timeout=5)

    def heard(self, payload, deadline_s=5.0):
        end = time.monotonic() + deadline_s
        while all(got[1] != payload for got in self.got):
            assert time.monotonic() < end, f"{payload!r} never came"
            time.sleep(0.005)

    def cut(self):
        """Close the socket without DISCONNECT: the broker sends the will."""
        self.paho._sock.close()

    def close(self):
        self.paho.disconnect()
        self.paho.loop_stop()


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[BrokerAddress]:
    broker = Broker(tmp_path_factory.mktemp("isolation") / "broker", DEVICES)
    yield broker.start()
    broker.stop()


@pytest.fixture
def connect(address):
    clients = []

    def make(user, **options):
        port = address.port if user == SERVICE else address.device_port
        client = Client(port, user, options.pop("password", address.passwords.get(user, "x")), **options)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


def all_topics():
    yield from (f"fl/{device}/{channel}" for device, channel in itertools.product(DEVICES, CHANNELS))
    yield from (
        "fl/north/lease",
        "fl/south/lease",
        "fl/north/a",
        "fl/x",
        "x",
        "$SYS/x",
        "fl/north/a/telemetry/x",
        "fl-core/x",
        "fl/north/a/x",
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("retain", [False, True])
def test_a_device_writes_only_its_own_channels(connect, version, retain):
    service = connect(SERVICE, client_id="watch")
    service.subscribe("#")
    for device in DEVICES:
        service.got.clear()
        for topic in all_topics():
            client = connect(device, version=version)  # a refused publish may end the connection: one for each
            client.publish(topic, f"{device} {topic}".encode(), retain=retain)
            client.settled()
            client.close()
        client = connect(device, version=version)
        client.publish(f"fl/{device}/ack", b"last")
        service.heard(b"last")
        arrived = {topic for topic, payload in service.got if payload != b"last" and payload.startswith(device.encode())}
        assert arrived == {f"fl/{device}/{channel}" for channel in WRITABLE}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_device_hears_only_its_own(connect, version):
    service = connect(SERVICE, client_id="speak")
    hostile = ["#", "+/#", "fl/#", "fl/+/+/+", "$share/g/fl/#", "$share/g/fl/+/+/command", "$SYS/#", *all_topics()]
    clients = {device: connect(device, version=version) for device in DEVICES}
    for client in clients.values():
        for pattern in hostile:
            client.subscribe(pattern)
    for topic in all_topics():
        if topic.startswith("fl/"):
            service.publish(topic, topic.encode())
    for device, client in clients.items():
        service.publish(f"fl/{device}/receipt", b"last")
        client.heard(b"last")
        site = device.partition("/")[0]
        allowed = {f"fl/{device}/{channel}" for channel in READABLE} | {f"fl/{site}/lease"}
        heard = {topic for topic, _ in client.got}
        assert heard - allowed == set()
        assert {f"fl/{device}/command", f"fl/{site}/lease"} <= heard


@pytest.mark.parametrize("version", VERSIONS)
def test_a_will_reaches_only_what_its_device_may_write(connect, version):
    service = connect(SERVICE, client_id="watch")
    service.subscribe("#")
    connect("north/a", version=version, will=("fl/north/b/telemetry", b"foreign")).cut()
    connect("south/a", version=version, will=("fl/south/a/status", b"own")).cut()
    service.heard(b"own")
    assert all(payload != b"foreign" for _, payload in service.got)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_foreign_client_id_throws_nobody_out(connect, version):
    service = connect(SERVICE, client_id="speak")
    victim = connect("north/b", version=version)
    victim.subscribe("fl/north/b/command")
    core = connect(SERVICE, client_id="core")
    for stolen in ("north/b", "core"):
        connect("north/a", version=version, client_id=stolen)
    service.publish("fl/north/b/command", b"still here")
    victim.heard(b"still here")
    core.subscribe("fl/north/b/ack")
    assert victim.down.empty()
    assert core.down.empty()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("user", "password"), [("north/a", "wrong"), ("nobody/x", "x"), ("", None), (SERVICE, SERVICE)])
def test_strangers_are_refused(connect, version, user, password):
    assert not connect(user, version=version, password=password, client_id="x").accepted
