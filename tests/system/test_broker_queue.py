"""The shipped mosquitto.conf keeps what arrives while the core is away for an hour at the site's design rate."""

# ruff: noqa: T201 - the figures of a proof are part of its result

import getpass
import time
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from app.broker import SERVICE, find_mosquitto, write_access
from tests.faults.process import Process, free_port, wait_until

pytestmark = pytest.mark.system
SHIPPED = Path(__file__).parents[2] / "mosquitto.conf"
RATE, PAYLOAD, AWAY_S = 1500, 120, 3600
SCALE = 2000  # the limit and the hour are both divided by it


def limit(text: str, name: str) -> int:
    [line] = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return int(line.split()[1])


def scaled(directory: Path) -> tuple[str, int, int]:
    """The shipped text with its queue scaled, and the ports of devices and core."""
    text, devices, core = SHIPPED.read_text(), free_port(), free_port()
    bytes_max = limit(text, "max_queued_bytes")
    for old, new in (
        ("/mosquitto/data", str(directory)),
        ("listener 1883", f"listener {devices}"),
        ("listener 1884", f"listener {core}"),
        (f"max_queued_bytes {bytes_max}", f"max_queued_bytes {bytes_max // SCALE}"),
    ):
        assert old in text
        text = text.replace(old, new)
    return text + f"user {getpass.getuser()}\n", devices, core


def client(name: str, port: int, *, session_s: int = 0, got: list[int] | None = None) -> paho.Client:
    made = paho.Client(paho.CallbackAPIVersion.VERSION2, name, protocol=paho.MQTTv5)
    made.username_pw_set(SERVICE if session_s else name, "secret")
    made.max_queued_messages_set(0)
    made.on_message = lambda _c, _u, message: [] if got is None else got.append(int(message.payload))
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = session_s
    made.connect("127.0.0.1", port, clean_start=not session_s, properties=properties)
    made.loop_start()
    wait_until(made.is_connected, what="connected")
    return made


def publish(port: int, count: int, *, first: int = 0) -> None:
    device = client("north/a", port)
    sent = [device.publish("fl/north/a/telemetry", b"%d".ljust(PAYLOAD) % n, qos=1) for n in range(first, first + count)]
    for info in sent:
        info.wait_for_publish(30)
    device.disconnect()
    device.loop_stop()


def received(port: int) -> list[int]:
    """What waited for the core, until nothing more comes."""
    got: list[int] = []
    core = client("fieldloom-core", port, session_s=3600, got=got)
    core.subscribe("fl/+/+/telemetry", qos=1)
    seen, quiet_since = -1, time.monotonic()
    while time.monotonic() < quiet_since + 1.0:
        if len(got) != seen:
            seen, quiet_since = len(got), time.monotonic()
        time.sleep(0.02)
    core.disconnect()
    core.loop_stop()
    return got


def test_an_hour_of_the_design_rate_waits_for_the_core(tmp_path: Path) -> None:
    text, devices, core = scaled(tmp_path)
    assert limit(SHIPPED.read_text(), "max_queued_messages") == 0
    write_access(tmp_path, {SERVICE: "secret", "north/a": "secret"})
    (tmp_path / "mosquitto.conf").write_text(text)
    with Process([find_mosquitto(), "-c", tmp_path / "mosquitto.conf"], log=tmp_path / "broker.log") as broker:
        broker.wait_port(core)
        assert received(core) == []
        hour = RATE * AWAY_S // SCALE
        publish(devices, hour)
        assert received(core) == list(range(hour))
        over = limit(text, "max_queued_bytes") // PAYLOAD + 100
        publish(devices, over)
        kept = received(core)
    print(
        f"{hour} messages of an hour / {SCALE}; at the limit {len(kept)} are kept: {limit(text, 'max_queued_bytes') / len(kept):.0f} B each"
    )
    assert hour <= len(kept) < over  # the limit was reached, so it is what held before
