"""Parts that hang: core frozen, its event loop blocked, its MQTT task dead (devices go local, the watchdog alarms, no burst afterwards);
web frozen inside an insert and inside a read (core goes on as before). Saboteur: deaf_core.
"""

# ruff: noqa: T201 - the figures of a proof are part of its result

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from app.core import Core
from app.settings import Settings
from devices.outbox import LEASE_LIFETIME_S
from simulators.device import Options, SimulatedDevice
from simulators.fleet import Broker, DeviceClient, lone_place
from telemetry.clock import EngineClock
from telemetry.site import SiteConfig
from tests.faults.broker import RealBroker
from tests.faults.process import DEADLINE_S, Process, until, wait_until
from tests.faults.room import Room
from tests.system.core_process import ROOT, CoreProcess, sabotage
from tests.system.ledger import StoreReader, VerifiableDevices, ledger_site

pytestmark = pytest.mark.system
WATCHDOG_S = 10.0
WAL_MAX = 64 << 20


def house_site() -> SiteConfig:
    house = {
        "name": "house",
        "receipts": False,
        "points": [{"name": "temp_c", "unit": "°C", "low": -30, "high": 60, "heartbeat_s": 2}],
        "actuators": [{"name": "vent", "expiry_s": 5, "fail_safe": 20.0}],
    }
    rule = {
        "id": "HOT",
        "profile": "house",
        "when": "temp_c > 30",
        "demand": {"actuator": "vent", "value": 80, "level": "temperature"},
    }
    return SiteConfig.model_validate(
        {
            "site": "farm", "areas": [{"name": "a"}], "profiles": {"house": house}, "rules": [rule],
            "devices": [{"name": name, "profile": "house", "area": "a"} for name in ("live", "quick")],
        }
    )  # fmt: skip


class QuickClock:
    """Runs `speed` times as fast: a device on it lives its lease in less of our time."""

    def __init__(self, speed: float) -> None:
        self._begin_ns, self._speed = time.monotonic_ns(), speed

    def now_ns(self) -> int:
        return self._begin_ns + int((time.monotonic_ns() - self._begin_ns) * self._speed)


def device(name: str, room: Room, *, sample_s: float) -> SimulatedDevice:
    options = Options(boot=1, plant_start_s=0, sample_s=sample_s)
    profile = house_site().profiles["house"]
    return SimulatedDevice("farm", name, profile, lone_place(profile, room), options=options)


class Spy:
    """Everybody's commands as they leave the broker: (monotonic s, device, id)."""

    def __init__(self, broker: RealBroker) -> None:
        self.commands: list[tuple[float, str, str]] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="spy", protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_message = lambda _c, _u, message: self.commands.append(
            (time.monotonic(), message.topic.split("/")[2], json.loads(message.payload)["id"])
        )
        self._client.connect(broker.host, broker.port)
        self._client.subscribe("fl/farm/+/command", qos=1)
        self._client.loop_start()
        wait_until(self._client.is_connected, what="spy connected")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Hang(Protocol):
    """A way for core to hang, and back."""

    def begin(self, core: CoreProcess) -> None:
        """From now on core does nothing."""

    def end(self, core: CoreProcess) -> None:
        """Core works again, or soon."""


class Frozen:
    """The whole process stands still."""

    def begin(self, core: CoreProcess) -> None:
        core.process.freeze()

    def end(self, core: CoreProcess) -> None:
        core.process.thaw()


class Blocked:
    """The event loop stands still in the product's own path, with a command decided and journaled but not yet published."""

    def __init__(self, armed: Path, seconds: float) -> None:
        self.env = {"FIELDLOOM_FAILPOINT": f"sending=block {seconds}", "FIELDLOOM_FAILPOINT_ARMED": str(armed)}
        self._armed = armed

    def begin(self, core: CoreProcess) -> None:
        assert core.process.running
        self._armed.touch()

    def end(self, core: CoreProcess) -> None:
        """By itself."""


class Deaf:
    """The MQTT task alone dies. Core must not live on without it; here nobody starts it again."""

    def __init__(self, armed: Path) -> None:
        self.env = {"FIELDLOOM_FAILPOINT": "received=raise", "FIELDLOOM_FAILPOINT_ARMED": str(armed)}
        self._armed = armed

    def begin(self, core: CoreProcess) -> None:
        assert core.process.running
        self._armed.touch()

    def end(self, core: CoreProcess) -> None:
        assert core.process.wait_exit() == 1
        assert '"core stops"' in core.process.output
        assert "the MQTT task failed: FailpointReached" in core.process.output
        self._armed.unlink()
        core.start()


async def hang_core(tmp_path: Path, hang: Hang, *, seconds: float, speed: float) -> None:
    """`speed` is that of the quick device's clock; the hang must outlast the lease on it."""
    assert seconds * speed > LEASE_LIFETIME_S
    env = getattr(hang, "env", {})
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker, env=env) as core:
        await asyncio.to_thread(lambda: core.configure(house_site()).start().wait_configured("farm"))
        argv = [sys.executable, "-m", "app.cli", "serve", "notify"]
        room, still, spy = Room(), Room(), Spy(broker)
        live, quick = device("live", room, sample_s=0.2), device("quick", still, sample_s=60)
        address = Broker(broker.host, broker.port, lambda _name: None)
        clients = [
            DeviceClient(live, address, clock=EngineClock(time.time_ns, time.monotonic_ns), random=np.random.default_rng(1)),
            DeviceClient(quick, address, clock=QuickClock(speed), random=np.random.default_rng(2)),
        ]
        tasks = [asyncio.create_task(client.run(asyncio.Event())) for client in clients]
        try:
            with Process(argv, log=tmp_path / "notify.log", env=core.env, cwd=ROOT) as notify:
                room.temp_c = 40.0
                await until(lambda: live.actuators["vent"].target == 80, what="vent opens")
                await until(lambda: quick.obedience.epoch > 0 and not quick.obedience.is_local, what="lease")
                hang.begin(core)
                room.temp_c = 20.0  # the command that shuts the vent is decided in the moment the loop is blocked
                began_at = time.monotonic()
                await until(lambda: "NOTIFY-CORE-SILENT" in notify.output, deadline_s=WATCHDOG_S, what="watchdog alarm")
                alarmed_s = time.monotonic() - began_at
                await until(lambda: quick.obedience.is_local, deadline_s=seconds + 2, what="goes local")
                local_s = time.monotonic() - began_at
                while time.monotonic() < began_at + seconds - 1:  # the rule would open and shut the vent all the time
                    room.temp_c = 60.0 - room.temp_c
                    await asyncio.sleep(0.3)
                room.temp_c = 20.0
                await asyncio.sleep(began_at + seconds - time.monotonic())
                await asyncio.to_thread(hang.end, core)
                await until(lambda: live.actuators["vent"].target == 0, what="controls again")
                await until(lambda: not quick.obedience.is_local, what="lease again")
                await until(lambda: '"change": "clear"' in notify.output, what="watchdog clears")
                late = [name for at, where, name in spy.commands if at > began_at + 1 and where == "live"]
                print(f"alarm after {alarmed_s:.1f} s, local after {local_s:.1f} s, {len(late)} commands afterwards")
                assert local_s <= LEASE_LIFETIME_S / speed + 1.0
                assert len(late) <= 2
                began_ns = time.time_ns() - int((time.monotonic() - began_at) * 1e9)
                decided_ns = {d.body["id"]: d.time_ns for d in core.decisions("command") if d.body["state"] == "sent"}
                assert all(decided_ns[name] > began_ns + (seconds - 1) * 1e9 for name in late), "a command of before"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            spy.close()


@pytest.mark.alone
@pytest.mark.timeout(120)
async def test_core_frozen_blocked_or_deaf_for_a_while(tmp_path):
    """Three cores side by side, each with its broker, devices and event loop: they wait most of the time."""
    ways = {
        "frozen": (Frozen(), 7.0),
        "blocked": (Blocked(tmp_path / "blocked.armed", 10.0), 10.0),
        "deaf": (Deaf(tmp_path / "deaf.armed"), 7.0),
    }

    RealBroker(tmp_path / "none")  # skips here, not in a thread, where there is no broker

    async def hang_one(name: str) -> None:
        hang, seconds = ways[name]
        (tmp_path / name).mkdir()
        await asyncio.to_thread(asyncio.run, hang_core(tmp_path / name, hang, seconds=seconds, speed=2.5))

    async with asyncio.TaskGroup() as group:
        for name in ways:
            group.create_task(hang_one(name), name=name)


@pytest.mark.parametrize("name", ["link", "tick", "inbox", "commit"])
async def test_core_ends_when_one_of_its_tasks_is_gone_without_a_word(tmp_path, name):
    with RealBroker(tmp_path / "broker") as broker:
        (tmp_path / "data").mkdir()
        core = Core(Settings(data_dir=tmp_path / "data", mqtt_host=broker.host, mqtt_port=broker.port, sabotage=sabotage()))
        running = asyncio.create_task(core.run(), name="core")
        await until(lambda: core._links[0]._connection is not None, what="connected")
        next(task for task in asyncio.all_tasks() if task.get_name() == name).cancel()
        done, _ = await asyncio.wait((running,), timeout=DEADLINE_S)
        if not done:
            running.cancel()
            await asyncio.wait((running,))
        assert done, "core lives on"
        [error] = running.exception().exceptions
        assert str(error) == f"a task of core ended by itself: {name}"


async def test_supervisor_starts_core_again_when_its_mqtt_task_dies(tmp_path):
    armed, room = tmp_path / "armed", Room()
    with RealBroker(tmp_path / "broker") as broker:
        core = CoreProcess(tmp_path / "core", broker, env=Deaf(armed).env).configure(house_site())
        live, spy = device("live", room, sample_s=0.2), Spy(broker)
        client = DeviceClient(
            live,
            Broker(broker.host, broker.port, lambda _name: None),
            clock=EngineClock(time.time_ns, time.monotonic_ns),
            random=np.random.default_rng(1),
        )
        task = asyncio.create_task(client.run(asyncio.Event()))
        argv = [sys.executable, "-m", "app.cli", "serve"]
        try:
            with Process(argv, log=tmp_path / "serve.log", env=core.env | {"FIELDLOOM_WEB_PORT": "0"}, cwd=ROOT) as service:
                room.temp_c = 40.0
                await until(lambda: live.actuators["vent"].target == 80, what="vent opens")
                epoch, before = live.obedience.epoch, len(spy.commands)
                armed.touch()
                await until(lambda: '"ended"' in service.output, what="core ends")
                armed.unlink()
                died_at = time.monotonic()
                await until(lambda: live.obedience.epoch > epoch, what="a new core holds the lease")
                back_s = time.monotonic() - died_at
                room.temp_c = 20.0
                await until(lambda: live.actuators["vent"].target == 0, what="controls again")
                assert '"part": "core"' in service.output
                assert "the MQTT task failed: FailpointReached" in (core.data / "log" / "core.log").read_text()
                print(f"a new core after {back_s:.1f} s, {len(spy.commands) - before} commands since")
                assert len(spy.commands) - before <= 3  # 80 said again under the new epoch, then 0
                assert await asyncio.to_thread(service.terminate) == 0
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            spy.close()


@pytest.mark.torture
@pytest.mark.timeout(180)
@pytest.mark.parametrize("way", ["frozen", "blocked", "deaf"])
async def test_core_hangs_for_longer_than_a_lease(tmp_path, way):
    armed = tmp_path / "armed"
    hang = {"frozen": Frozen(), "blocked": Blocked(armed, 30.0), "deaf": Deaf(armed)}[way]
    await hang_core(tmp_path, hang, seconds=30.0, speed=1.0)


INSERT = """
import os, signal, sys
from pathlib import Path
from store.inbox import Inbox
from telemetry.record import Request
inbox = Inbox(Path(sys.argv[1]) / "inbox.sqlite")
inbox._connection.execute("BEGIN IMMEDIATE")
inbox.put(Request("held", "acknowledge", "web", {"alarm": "NONE@farm/v-0"}))
os.kill(os.getpid(), signal.SIGSTOP)
inbox._connection.execute("COMMIT")
"""
READ = """
import os, signal, sys
from pathlib import Path
from store import journal_reader
real, seen = journal_reader.from_row, []
def from_row(*args, **kwargs):
    seen.append(1)
    if len(seen) == 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    return real(*args, **kwargs)
journal_reader.from_row = from_row
journal_reader.JournalReader(Path(sys.argv[1]) / "journal").read(-1)
"""


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@contextmanager
def frozen_inside(script: str, core: CoreProcess, directory: Path) -> Iterator[Process]:
    """A stand-in for web that stopped itself in the middle of its work on core's files."""
    argv = [sys.executable, "-c", script, str(core.data)]
    with Process(argv, log=directory / "web.log", env={"PYTHONPATH": str(ROOT)}) as web:
        web.wait_ready(lambda: is_stopped(web.pid))
        yield web


def commit_gaps_ms(core: CoreProcess, after: int) -> list[float]:
    """Times between the commits after a position."""
    times = np.array([transaction.engine_ns for transaction in core.transactions(after)])
    return sorted((np.diff(times) / 1e6).tolist())


def freeze_web(tmp_path: Path, script: str, *, seconds: float, rate: float) -> None:
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
        core.configure(ledger_site(10)).start().wait_configured("farm")
        devices = VerifiableDevices(broker.host, broker.port)
        try:
            devices.run(rate=rate)
            first = core.last().last
            time.sleep(seconds / 2)
            before = commit_gaps_ms(core, first)
            with frozen_inside(script, core, tmp_path) as web:
                middle = core.last().last
                time.sleep(seconds)
                during = commit_gaps_ms(core, middle)
                wal = max(path.stat().st_size for path in (core.data / "journal").glob("*-wal"))
                web.thaw()
                web.wait_exit()
            if script is INSERT:
                wait_until(lambda: len(core.decisions("answer", "held")) == 1, what="the request that was held is answered")
            book = devices.finish()
        finally:
            devices.close()
        wait_until(lambda: core.last().read_accounting().stored >= len(book.sent), what="everything stored")
        assert core.stop() == 0
        found = StoreReader().take(core.transactions()).check(book)
        print(
            f"median {before[len(before) // 2]:.1f} -> {during[len(during) // 2]:.1f} ms, longest {during[-1]:.0f} ms, WAL {wal} bytes"
        )
        assert found.violations() == {}
        assert during[len(during) // 2] <= 2 * before[len(before) // 2] + 5
        assert during[-1] <= max(1000.0, 3 * before[-1])
        assert wal < WAL_MAX


@pytest.mark.alone
def test_web_frozen_inside_an_insert(tmp_path):
    freeze_web(tmp_path, INSERT, seconds=3, rate=500)


@pytest.mark.alone
def test_web_frozen_inside_a_read(tmp_path):
    freeze_web(tmp_path, READ, seconds=3, rate=500)


@pytest.mark.torture
@pytest.mark.timeout(300)
@pytest.mark.parametrize("script", [INSERT, READ], ids=["insert", "read"])
def test_web_frozen_for_a_minute(tmp_path, script):
    freeze_web(tmp_path, script, seconds=60, rate=1500)
