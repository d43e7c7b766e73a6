"""The alarm path as real processes: broker, core, web, notify; a webhook's receiver that checks signatures; a siren that needs nobody."""

# ruff: noqa: T201 - the figures of a proof are part of its result

import asyncio
import hashlib
import hmac
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import devices
from simulators.device import Options, SimulatedDevice
from simulators.fleet import Broker, DeviceClient, lone_place
from telemetry.clock import EngineClock
from telemetry.record import Request
from telemetry.site import SiteConfig
from tests.faults.broker import RealBroker
from tests.faults.process import Process, until, wait_until
from tests.faults.room import Room, Told
from tests.system.core_process import ROOT, CoreProcess

pytestmark = pytest.mark.system
SIREN = yaml.safe_load((Path(devices.__file__).parent / "profiles" / "siren.yaml").read_text("utf-8"))
ALARM = "HOT@farm/room"
NOTIFY = """\
channels:
  hook: {{kind: webhook, url: "http://127.0.0.1:{port}/", secret: {{env: HOOK_SECRET}}}}
  local: {{kind: command, argv: [{python}, -c, "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())", "{{address}}"], test: false}}
contacts:
  wang: {{language: en, via: [{{channel: hook}}]}}
  boss: {{language: en, via: [{{channel: hook}}, {{channel: local, address: {file}}}]}}
policies:
  - steps:
      P1: [{{tell: [wang]}}, {{after_min: 0.05, tell: [boss]}}]
      P2: [{{tell: [wang]}}, {{after_min: 0.05, tell: [boss]}}]
repeat_min: 60
self_test: {{at: "00:00", tell: [wang, boss]}}
"""


class Receiver(ThreadingHTTPServer):
    """Takes what is signed right; everything else is a failure of the test."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.got: list[dict[str, Any]] = []
        self.bad = 0

    def told(self, contact: str) -> list[str]:
        """What a contact was told, each message once, however often it came."""
        messages = {m["id"]: m for m in self.got}.values()
        return [f"{line['alarm']} {line['change']}" for m in messages if m["contact"] == contact for line in m["lines"]]


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        signed = self.headers["X-Fieldloom-Timestamp"].encode() + b"." + body
        is_good = self.headers["X-Fieldloom-Signature"] == "v1=" + hmac.new(b"canary-secret", signed, hashlib.sha256).hexdigest()
        self.server.bad += not is_good
        if is_good:
            self.server.got.append(json.loads(body))
        self.send_response(204 if is_good else 403)
        self.end_headers()

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def farm(priority: str) -> SiteConfig:
    """A room, and a siren in the same area that sounds while it is too hot."""
    room = {
        "name": "room",
        "receipts": False,
        "points": [{"name": "temp_c", "unit": "C", "low": -30, "high": 60, "heartbeat_s": 2}],
    }
    return SiteConfig.model_validate(
        {
            "site": "farm", "areas": [{"name": "a", "links": {"room": "room"}}], "profiles": {"room": room, "siren": SIREN},
            "devices": [{"name": name, "profile": name, "area": "a"} for name in ("room", "siren")],
            "rules": [
                {"id": "HOT", "profile": "room", "when": "temp_c > 30", "priority": priority, "message": {"en": "{device} has {value} C"}},
                {"id": "HOT-SIREN", "profile": "siren", "when": "room.temp_c > 30",
                 "demand": {"actuator": "siren", "value": 1, "level": "personnel_safety"}},
            ],
        }
    )  # fmt: skip


class Horn(Told):
    """The siren's own measurement."""

    def __init__(self) -> None:
        self.mains_bool, self.battery_v = 1.0, 12.7


class Farm:
    """Devices, processes and files of one run."""

    def __init__(self, directory: Path, broker: RealBroker, core: CoreProcess, receiver: Receiver) -> None:
        self.core, self.receiver, self.directory = core, receiver, directory
        self.local = directory / "local.txt"
        file = directory / "notify.yaml"
        file.write_text(NOTIFY.format(port=receiver.server_port, python=sys.executable, file=self.local))
        self.env = core.env | {"FIELDLOOM_NOTIFY_FILE": str(file), "HOOK_SECRET": "canary-secret", "FIELDLOOM_WEB_PORT": "0"}
        self.room = Room()
        profiles, options = farm("P1").profiles, Options(boot=1, plant_start_s=0, sample_s=0.2)
        address, random = Broker(broker.host, broker.port, lambda _name: None), np.random.default_rng(1)
        self.siren = SimulatedDevice("farm", "siren", profiles["siren"], lone_place(profiles["siren"], Horn()), options=options)
        room = SimulatedDevice("farm", "room", profiles["room"], lone_place(profiles["room"], self.room), options=options)
        self.clients = [
            DeviceClient(room, address, clock=EngineClock(time.time_ns, time.monotonic_ns), random=random),
            DeviceClient(self.siren, address, clock=EngineClock(time.time_ns, time.monotonic_ns), random=random),
        ]

    def process(self, name: str) -> Process:
        number = len(list(self.directory.glob(f"{name}-*.log")))
        argv = [sys.executable, "-m", "app.cli", "serve", name]
        return Process(argv, log=self.directory / f"{name}-{number}.log", env=self.env, cwd=ROOT)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "app.cli", *words]
        env = os.environ | self.env | {"LC_ALL": "C.UTF-8"}
        return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)

    def acknowledge(self) -> None:
        self.core.ask(Request(f"wang.{time.time_ns()}", "acknowledge", "wang", {"alarm": ALARM}))

    def state(self) -> str:
        found = self.core.decisions("alarm", ALARM)
        return str(found[-1].body["to"]) if found else "NORM"


async def test_alarm_reaches_people_through_kills_of_notify_until_it_is_acknowledged(tmp_path: Path, receiver: Receiver) -> None:
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
        await asyncio.to_thread(lambda: core.configure(farm("P1")).start().wait_configured("farm"))
        run = Farm(tmp_path, broker, core, receiver)
        stop = asyncio.Event()
        tasks = [asyncio.create_task(client.run(stop)) for client in run.clients]
        try:
            for number in range(4):  # each time killed at another moment of the same work
                with run.process("notify") as notify:
                    await until(lambda: "notify_ready" in notify.output, what="notify ready")
                    run.room.temp_c = 40.0
                    await until(lambda: run.state() == "UNACK", what="raised")
                    await until(lambda: run.siren.actuators["siren"].target == 1, what="the siren sounds")
                    await asyncio.sleep(number * 0.12)
                    notify.kill()
                with run.process("notify"):
                    wanted = number + 1
                    told = lambda contact: receiver.told(contact).count(f"{ALARM} raise")  # noqa: E731
                    await until(lambda: told("wang") >= wanted, what="told to the first")  # noqa: B023
                    await until(lambda: told("boss") >= wanted, what="told to the second")  # noqa: B023
                    run.acknowledge()
                    run.room.temp_c = 20.0
                    await until(lambda: run.state() == "NORM", what="back to normal")
                    cleared = lambda: min(receiver.told(contact).count(f"{ALARM} clear") for contact in ("wang", "boss"))  # noqa: E731
                    await until(lambda: cleared() >= wanted, what="cleared")  # noqa: B023
                    by_program = lambda: run.local.read_text().count("room has 40 C")  # noqa: E731
                    await until(lambda: by_program() >= 2 * wanted, what="told by the program too")  # noqa: B023
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    ids = [message["id"] for message in receiver.got]
    print(f"{len(ids)} arrived, {len(ids) - len(set(ids))} of them again after a kill")
    assert receiver.bad == 0
    told: dict[tuple[str, str, int], set[str]] = {}
    for message in receiver.got:
        for line in message["lines"]:
            if line["alarm"] == ALARM:
                told.setdefault((message["contact"], line["change"], line["raised_ms"]), set()).add(message["id"])
    assert len(told) == 4 * 2 * 2, "each of 4 alarms: raise and clear to two contacts"
    assert {len(found) for found in told.values()} == {1}, "what came twice is the same message again"


async def test_hung_core_is_told_by_program_and_siren_without_core_or_network(tmp_path: Path, receiver: Receiver) -> None:
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
        await asyncio.to_thread(lambda: core.configure(farm("P2")).start().wait_configured("farm"))
        run = Farm(tmp_path, broker, core, receiver)
        stop = asyncio.Event()
        tasks = [asyncio.create_task(client.run(stop)) for client in run.clients]
        try:
            with run.process("notify") as notify:
                await until(lambda: run.siren.obedience.epoch > 0 and not run.siren.obedience.is_local, what="lease")
                await until(lambda: "notify_ready" in notify.output, what="notify ready")
                receiver.shutdown()
                receiver.server_close()  # the internet is gone too
                core.process.freeze()
                await until(lambda: run.siren.actuators["siren"].target == 1, what="the siren sounds by itself")
                await until(lambda: run.local.is_file() and "core writes nothing" in run.local.read_text(), what="program")
                core.process.thaw()
                await until(lambda: run.siren.actuators["siren"].target == 0, what="the siren is told to be silent")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def test_self_test_by_command_goes_through_core_to_the_channels(tmp_path: Path, receiver: Receiver) -> None:
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
        core.configure(farm("P1")).start().wait_configured("farm")
        run = Farm(tmp_path, broker, core, receiver)
        with run.process("web"), run.process("notify") as notify:
            ready = core.data / "run" / "web.ready"
            wait_until(lambda: "notify_ready" in notify.output and ready.is_file(), what="processes ready")
            passed = run.command("notify", "test")
            assert passed.returncode == 0, passed.stdout + passed.stderr
            assert "passed: 1 of 1 arrived" in passed.stdout
            assert [m["contact"] for m in receiver.got] == ["wang"], "two contacts of one address: it is tested once"
            assert core.decisions("answer")[-1].body["request"] == "alarm_test"
            shown = run.command("notify", "log").stdout
            assert "1 of 1 arrived" in shown
            assert run.command("notify", "log", "--failed").stdout == "nothing here: everything arrived\n"
            kept = [
                core.data / "notify.sqlite",
                *core.data.glob("*.sqlite-wal"),
                *tmp_path.glob("*.log"),
                *tmp_path.glob("core/*.log"),
            ]
            assert [file for file in kept if b"canary-secret" in file.read_bytes()] == []
            status = run.command("status")
            assert "newest test of the alarm path" in status.stdout, status.stderr
            core.process.freeze()
            failed = run.command("notify", "test")
            core.process.thaw()
        assert failed.returncode == 1
        assert "the test has no result" in failed.stderr
