"""The decision log of a real run with alarms and commands: the journal's, the history's through web, and the history's own file are
the same bytes."""

# ruff: noqa: T201 - the figures of a proof are part of its result

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from simulators.device import Options, SimulatedDevice
from simulators.fleet import Broker, DeviceClient, lone_place
from store.duckdb_history import DuckDBHistory
from telemetry.clock import EngineClock
from telemetry.record import Event, Request
from telemetry.site import SiteConfig
from tests.faults.broker import RealBroker
from tests.faults.older_build import OlderBuild
from tests.faults.process import Process, until, wait_until
from tests.faults.room import Room
from tests.system.core_process import ROOT, CoreProcess

pytestmark = pytest.mark.system


def hot_site() -> SiteConfig:
    house = {
        "name": "house",
        "points": [{"name": "temp_c", "unit": "°C", "low": -30, "high": 60, "heartbeat_s": 2}],
        "actuators": [{"name": "vent", "expiry_s": 5, "fail_safe": 20.0}],
    }
    rule = {
        "id": "HOT",
        "profile": "house",
        "when": "temp_c > 30",
        "priority": "P2",
        "message": {"en": "{device} is too hot: {value}", "zh": "{device} 太热：{value}"},
        "demand": {"actuator": "vent", "value": 80, "level": "temperature"},
    }
    return SiteConfig.model_validate(
        {
            "site": "farm", "areas": [{"name": "a"}], "profiles": {"house": house}, "rules": [rule],
            "devices": [{"name": "live", "profile": "house", "area": "a"}],
        }
    )  # fmt: skip


def log_of(core: CoreProcess, source: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """What `fieldloom decisions` prints."""
    command = [sys.executable, "-m", "app.cli", "decisions", source, *words]
    done = subprocess.run(command, cwd=ROOT, env=core.env, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done


async def test_history_prints_the_decision_log_of_the_journal(tmp_path: Path) -> None:
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
        core.env["FIELDLOOM_WEB_PORT"] = "0"
        await asyncio.to_thread(lambda: core.configure(hot_site()).start().wait_configured("farm"))
        room = Room()
        profile = hot_site().profiles["house"]
        options = Options(boot=1, plant_start_s=0, sample_s=0.2)
        device = SimulatedDevice("farm", "live", profile, lone_place(profile, room), options=options)
        address = Broker(broker.host, broker.port, lambda _name: None)
        client = DeviceClient(device, address, clock=EngineClock(time.time_ns, time.monotonic_ns), random=np.random.default_rng(1))
        running = asyncio.create_task(client.run(asyncio.Event()))
        argv = [sys.executable, "-m", "app.cli", "serve", "web"]
        ready = core.data / "run" / "web.ready"
        try:
            with Process(argv, log=tmp_path / "web.log", env=core.env, cwd=ROOT) as web:
                await asyncio.to_thread(web.wait_ready, ready.is_file)
                for warm, position in ((40.0, 80), (20.0, 0)):  # there and back: raised and returned, opened and shut
                    room.temp_c = warm
                    await until(lambda wanted=position: device.actuators["vent"].target == wanted, what="vent moves")
                core.ask(Request("ack-1", "acknowledge", "王", {"alarm": "HOT@farm/live"}))
                await until(lambda: core.decisions("answer", "ack-1"), what="acknowledged")
                running.cancel()
                assert core.stop() == 0
                kinds = {kind: len(core.decisions(kind)) for kind in ("alarm", "command", "demand", "answer")}
                print(f"decided: {kinds}")
                assert min(kinds.values()) > 0
                journal = log_of(core, "--journal")
                wait_until(lambda: b"behind" not in log_of(core, "--history").stderr, what="history has it all")
                through_web = log_of(core, "--history")
                assert log_of(core, "--history", "--hash").stdout == log_of(core, "--journal", "--hash").stdout
                assert ready.is_file()
                web.terminate()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert not ready.is_file()
        from_file = log_of(core, "--history")
        assert through_web.stdout == from_file.stdout == journal.stdout
        assert (through_web.stderr, from_file.stderr) == (b"", b"")


def upgrades(core: CoreProcess) -> list[tuple[int, Event]]:
    """The journal's events of that name with their positions."""
    return [
        (transaction.first + index, record)
        for transaction in core.transactions()
        for index, record in transaction.read_entries().records
        if isinstance(record, Event) and record.name == "upgrade"
    ]


def test_new_build_that_decides_otherwise_says_so_in_journal_status_and_history(tmp_path: Path) -> None:
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
        core.env["FIELDLOOM_WEB_PORT"] = "0"
        older = OlderBuild(core.data)
        for invents in (False, True, True, False):
            older.write(invents=invents)
        older.journal.close()
        facts = b"".join(transaction.decisions for transaction in core.transactions())
        for start in (1, 2):
            core.start()
            wait_until(lambda: upgrades(core), what="the difference is journaled")
            wait_until(lambda n=start: len([1 for t in core.transactions() if t.epoch > 1]) > n, what="it goes on")
            assert core.stop() == 0
        [(position, event)] = upgrades(core)  # once, though it started twice
        assert event.body.items() >= {"transactions": 2, "first": 3, "last": 4}.items()
        assert b"".join(transaction.decisions for transaction in core.transactions()).startswith(facts)
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", "status"],
            cwd=ROOT,
            env=core.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert re.search(r"decides otherwise, from position 3 on +2\b", done.stdout)
        argv = [sys.executable, "-m", "app.cli", "serve", "web"]
        with Process(argv, log=tmp_path / "web.log", env=core.env, cwd=ROOT) as web:
            web.wait_ready((core.data / "run" / "web.ready").is_file)
            wait_until(lambda: b"behind" not in log_of(core, "--history").stderr, what="history has it all")
            assert log_of(core, "--history").stdout == log_of(core, "--journal").stdout
            web.terminate()
        history = DuckDBHistory(core.data / "history.duckdb")
        try:
            assert [row.position for row in history.records(kind="event", subject="upgrade")] == [position]
        finally:
            history.close()
