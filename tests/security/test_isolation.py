"""Isolation of devices on the shipped broker configuration, judged at the receiver: PUBACK and SUBACK say yes to everything."""

import itertools
import queue
import socket
import time
from collections.abc import Iterator

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from app.broker import SERVICE, SIM_CONSOLE, Broker, BrokerAddress, password_line
from telemetry.topic import CHANNELS
from tests.faults.process import DEADLINE_S, wait_until

pytestmark = pytest.mark.security
DEVICES = ["north/a", "north/b", "south/a"]
WRITABLE = {"telemetry", "backfill", "status", "event", "ack"}
READABLE = {"command", "receipt"}
AUDITOR = "auditor"
OUTSIDE = [
    "x", "fl", "fl/x", "fl/", "/fl/north/a/telemetry", "fl//north/a/telemetry", "FL/north/a/telemetry", "ｆｌ/north/a/telemetry",
    "fl/north/а/telemetry", "fl-core", "fl-core/x", "fl-core/fieldloom-core/drained", "fl-core/fieldloom-core/drained/x",
    "uagv/v2/x/y/order", "spBv1.0/g/DCMD/e/d", "homeassistant/x/config", "$SYS/x", "$SYS/broker/uptime", "$x/y",
    "sim/north/a/fault", "sim/north/a/answer", "$CONTROL/dynamic-security/v1", "$share/g/fl/north/b/telemetry", "$share/g/x",
]  # fmt: skip
VERSIONS = [paho.MQTTv311, paho.MQTTv5]


class Client:
    """A paho client that remembers (topic, payload, retained). `session_s`: how long an MQTT 5 broker keeps its session."""

    def __init__(self, port, user, password, *, version=paho.MQTTv5, client_id=None, will=None, session_s=0):
        self.got = []
        self.connected, self.down, self.answers = queue.Queue(), queue.Queue(), queue.Queue()
        self.paho = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id or user, protocol=version, reconnect_on_failure=False)
        self.paho.username_pw_set(user, password)
        if will:
            topic, payload, retain = will
            self.paho.will_set(topic, payload, qos=1, retain=retain)
        self.paho.on_message = lambda _c, _u, message: self.got.append((message.topic, bytes(message.payload)))
        self.paho.on_connect = lambda _c, _u, _f, code, _p: self.connected.put(not code.is_failure)
        self.paho.on_disconnect = lambda *_: self.down.put(True)
        self.paho.on_publish = lambda _c, _u, mid, *_: self.answers.put(mid)
        self.paho.on_subscribe = lambda _c, _u, mid, *_: self.answers.put(mid)
        if session_s:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = session_s
            self.paho.connect("127.0.0.1", port, clean_start=False, properties=properties)
        else:
            self.paho.connect("127.0.0.1", port)
        self.paho.loop_start()
        self.accepted = self.connected.get(timeout=DEADLINE_S)

    def publish(self, topic, payload, *, retain=False):
        self.paho.publish(topic, payload, qos=1, retain=retain)  # answers prove nothing; later messages prove order

    def settled(self):
        """The broker has answered the publish, or ended the connection."""
        end = time.monotonic() + DEADLINE_S
        while self.answers.empty() and self.down.empty():
            assert time.monotonic() < end, "the broker neither answered nor hung up"
            time.sleep(0.002)

    def subscribe(self, pattern):
        self.paho.subscribe(pattern, qos=1)
        self.settled()
        return self.down.empty()

    def heard(self, payload):
        end = time.monotonic() + DEADLINE_S
        while all(got[1] != payload for got in self.got):
            assert time.monotonic() < end, f"{payload!r} never came"
            time.sleep(0.005)

    def cut(self):
        """End the connection without DISCONNECT: the broker sends the will."""
        self.paho._sock.shutdown(socket.SHUT_RDWR)
        self.down.get(timeout=DEADLINE_S)

    def close(self):
        self.paho.disconnect()
        self.paho.loop_stop()
        self.paho._reset_sockets()  # its wake-up pair too: some hundred clients would pass what select() can watch


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[Broker]:
    """As shipped, and one user more on the core's side, who hears everything: what lands outside of `fl` must be seen to be denied."""
    directory = tmp_path_factory.mktemp("isolation") / "broker"
    made = Broker(directory, DEVICES)
    made.address = made._configure()
    (directory / "auditor").write_text(f"{password_line(AUDITOR, AUDITOR)}\n")
    passwords, acl = directory / "core.passwords", directory / "core.acl"
    passwords.write_text(passwords.read_text() + (directory / "auditor").read_text())
    acl.write_text(acl.read_text() + f"\nuser {AUDITOR}\ntopic read #\ntopic read $SYS/#\ntopic read $CONTROL/#\ntopic read $x/#\n")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def address(broker) -> BrokerAddress:
    return broker.address


@pytest.fixture
def connect(address):
    clients = []

    def make(user, **options):
        door = options.pop("door", user)
        port = address.port if door in (SERVICE, AUDITOR) else address.device_port
        known = {**address.passwords, AUDITOR: AUDITOR}
        client = Client(port, user, options.pop("password", known.get(user, "x")), **options)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


def all_topics():
    yield from (f"fl/{device}/{channel}" for device, channel in itertools.product(DEVICES, CHANNELS))
    yield from (
        f"fl/{device}{rest}" for device, rest in itertools.product(DEVICES[:2], ("", "/", "/x", "/telemetry/x", "/telemetry/"))
    )
    yield from (f"fl/{site}/{rest}" for site, rest in itertools.product(("north", "south"), ("lease", "lease/x", "", "a")))
    yield from OUTSIDE


def hear_all(connect):
    """Everything that arrives anywhere in the broker."""
    auditor = connect(AUDITOR, client_id="auditor")
    for pattern in ("#", "$SYS/#", "$CONTROL/#", "$x/#"):
        assert auditor.subscribe(pattern)
    return auditor


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("retain", [False, True])
def test_a_device_writes_only_its_own_channels(connect, version, retain):
    auditor = hear_all(connect)
    for device in DEVICES:
        auditor.got.clear()
        for topic in all_topics():
            client = connect(device, version=version)  # a refused publish may end the connection: one for each
            client.publish(topic, f"{device} {topic}".encode(), retain=retain)
            client.settled()
            client.close()
        client = connect(device, version=version)
        client.publish(f"fl/{device}/ack", b"last")
        auditor.heard(b"last")
        arrived = {topic for topic, payload in auditor.got if payload != b"last" and payload.startswith(device.encode())}
        assert arrived == {f"fl/{device}/{channel}" for channel in WRITABLE}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("retain", [False, True])
def test_a_device_hears_only_its_own(connect, version, retain):
    """Also what was retained before it subscribed; the core's own topics; shared subscriptions, which would take messages away."""
    service, auditor = connect(SERVICE, client_id="speak"), hear_all(connect)
    topics = [topic for topic in all_topics() if topic.startswith(("fl/", "fl-core/"))]
    for topic in topics if retain else ():
        service.publish(topic, topic.encode(), retain=True)
    hostile = ["#", "+/#", "/#", "fl/#", "fl/+/+/+", "+/+/+/command", "fl-core/#", "$SYS/#", "$CONTROL/#", "$x/#",
               "$share/g/#", "$share/g/fl/#", "$share/g/fl/+/+/command", "$share/g/fl-core/#", *all_topics()]  # fmt: skip
    clients = {device: connect(device, version=version) for device in DEVICES}
    for device, pattern in itertools.product(DEVICES, hostile):
        if not clients[device].subscribe(pattern):  # the broker hung up on a malformed one
            clients[device] = connect(device, version=version)
            for lost in ("#", f"fl/{device}/command", f"fl/{device.partition('/')[0]}/lease"):
                assert clients[device].subscribe(lost)
    for topic in topics if not retain else ():
        service.publish(topic, topic.encode())
    for device, client in clients.items():
        service.publish(f"fl/{device}/receipt", b"last")
        client.heard(b"last")
        site = device.partition("/")[0]
        allowed = {f"fl/{device}/{channel}" for channel in READABLE} | {f"fl/{site}/lease"}
        heard = {topic for topic, _ in client.got}
        assert heard - allowed == set()
        assert {f"fl/{device}/command", f"fl/{site}/lease"} <= heard
    assert set(topics) <= {topic for topic, _ in auditor.got}  # they were there to be heard
    for topic in topics if retain else ():
        service.publish(topic, b"", retain=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("retain", [False, True])
def test_a_will_reaches_only_what_its_device_may_write(connect, version, retain):
    auditor = hear_all(connect)
    for topic in all_topics():
        if topic.startswith("$share") or topic.endswith("/"):
            continue
        client = connect("north/a", version=version, will=(topic, b"will " + topic.encode(), retain))
        client.cut()
        client.close()
    connect("south/a", version=version, will=("fl/south/a/status", b"own", False)).cut()
    auditor.heard(b"own")
    arrived = {topic for topic, payload in auditor.got if payload.startswith(b"will")}
    assert arrived == {f"fl/north/a/{channel}" for channel in WRITABLE}


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
def test_a_device_cannot_come_in_by_the_door_of_the_core(connect, version):
    """There client ids are free: it could take over the core's session and what waits in it."""
    core = connect(SERVICE, client_id="fieldloom-core")
    assert not connect("north/a", version=version, door=SERVICE, client_id="fieldloom-core").accepted
    core.subscribe("fl/north/a/ack")
    connect("north/a").publish("fl/north/a/ack", b"still here")
    core.heard(b"still here")
    assert core.down.empty()
    assert not connect(SERVICE, version=version, door="north/a", client_id="x").accepted


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("user", "password"), [("north/a", "wrong"), ("nobody/x", "x"), ("", None), (SERVICE, SERVICE)])
def test_strangers_are_refused(connect, version, user, password):
    assert not connect(user, version=version, password=password, client_id="x").accepted


def test_what_comes_while_the_core_is_away_waits_over_a_restart_of_the_broker(tmp_path):
    """Access is checked per listener: a session without a connection must still be known as the core's."""
    broker = Broker(tmp_path / "broker", ["north/a"])
    address = broker.start()
    try:
        core = Client(address.port, SERVICE, address.passwords[SERVICE], client_id="core", session_s=3600)
        core.subscribe("fl/+/+/telemetry")
        core.close()
        for number in range(3):
            device = Client(address.device_port, "north/a", address.passwords["north/a"])
            device.publish("fl/north/a/telemetry", b"%d" % number)
            device.settled()
            device.close()
            broker.stop()
            broker.start()
        core = Client(address.port, SERVICE, address.passwords[SERVICE], client_id="core", session_s=3600)
        core.heard(b"2")
        core.close()
        assert [payload for _, payload in core.got] == [b"0", b"1", b"2"]
    finally:
        broker.stop()


def test_where_there_are_simulated_sites_only_their_console_has_devices_fail(tmp_path):
    made = Broker(tmp_path / "broker", [*DEVICES, SIM_CONSOLE])
    address = made.start()
    clients = []
    try:
        clients += [Client(address.device_port, user, address.passwords[user]) for user in ("north/a", "north/b", SIM_CONSOLE)]
        target, other, console = clients
        for client in clients:
            client.subscribe("sim/#")
            client.subscribe("sim/north/a/fault")
            client.subscribe("sim/north/a/answer")
            client.subscribe("fl/#")
        wait_until(lambda: all(client.answers.qsize() >= 4 for client in clients), what="subscribed")
        console.publish("sim/north/a/fault", b"console")
        target.heard(b"console")
        target.publish("sim/north/a/answer", b"target")
        console.heard(b"target")
        refused = [(other, "sim/north/a/fault"), (other, "sim/north/a/answer"), (target, "sim/north/a/fault")]
        for client, topic in [*refused, (target, "sim/north/b/answer"), (console, "fl/north/a/command")]:
            answered = client.answers.qsize()
            client.publish(topic, b"refused")
            wait_until(lambda c=client, n=answered: c.answers.qsize() > n or not c.down.empty(), what="answered or ended")
        assert {topic for topic, _ in target.got} == {"sim/north/a/fault"}
        assert {payload for _, payload in target.got + console.got} == {b"console", b"target"}
        assert other.got == []
    finally:
        for client in clients:
            client.close()
        made.stop()
