"""Commands that ran out on their way are never executed: device offline, queued in the broker, core restarted, clocks wrong by an
hour, a switch that may not move yet.

The devices are the simulator's, on a real broker; core takes overrides from its inbox. Saboteur: device_ignores_expiry.
"""

# ruff: noqa: T201 - the figures of a proof are part of its result

import asyncio
import os
import time
from contextlib import closing, suppress

import numpy as np
import pytest

from simulators.device import Options, SimulatedDevice
from simulators.fleet import Broker, DeviceClient, build_devices
from store.inbox import Inbox
from telemetry.clock import EngineClock
from telemetry.record import Request
from telemetry.site import SiteConfig
from tests.faults.broker import RealBroker
from tests.faults.process import until
from tests.system.core_process import CoreProcess

pytestmark = pytest.mark.system
DEVICES, POSITIONS, SWITCHES = 5, 10, 10
EXPIRY_S = 2
WALL_OFFSETS_S = (0.0, 3600.0, -3600.0, 0.0, 3600.0)
TRANSIT_S = 0.05  # what a message may take on loopback after core has counted its expiry


def site(*, busy_s: float) -> SiteConfig:
    """`busy_s`: how long a switch keeps its state. Core is told 0, so the devices have a reason of their own to wait."""
    positions = [{"name": f"p{i}", "expiry_s": EXPIRY_S} for i in range(POSITIONS)]
    switches = [
        {"name": f"s{i}", "kind": "switch", "high": 1, "min_step": 1, "expiry_s": EXPIRY_S, "min_on_s": busy_s, "min_off_s": busy_s}
        for i in range(SWITCHES)
    ]
    points = [{"name": "x", "unit": "1", "low": 0, "high": 10, "heartbeat_s": 1}]
    return SiteConfig.model_validate(
        {
            "site": "farm", "areas": [{"name": "a"}],
            "devices": [{"name": "d", "profile": "busy", "area": "a", "count": DEVICES}],
            "profiles": {"busy": {"name": "busy", "points": points, "actuators": positions + switches, "receipts": False}},
        }
    )  # fmt: skip


class Devices:
    """The site's devices, going on and off line together."""

    def __init__(self, broker: RealBroker) -> None:
        self._broker = Broker(broker.host, broker.port, lambda _name: None)
        self._clock = EngineClock(time.time_ns, time.monotonic_ns)
        self._task: asyncio.Task[None] | None = None
        self.devices: list[SimulatedDevice] = []
        for number, offset_s in enumerate(WALL_OFFSETS_S):
            options = Options(
                boot=1, plant_start_s=0, sample_s=1, wall_offset_s=offset_s, sabotage=os.environ.get("FIELDLOOM_SABOTAGE", "")
            )
            self.devices += build_devices(site(busy_s=3.5), seed=1, options=options, only=frozenset({f"d-{number}"}))

    def go_online(self) -> None:
        async def run() -> None:
            async with asyncio.TaskGroup() as group:
                for number, device in enumerate(self.devices):
                    client = DeviceClient(device, self._broker, clock=self._clock, random=np.random.default_rng(number))
                    group.create_task(client.run(asyncio.Event()))

        self._task = asyncio.create_task(run())

    async def go_offline(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def executed(self) -> dict[str, int]:
        return {name: at for device in self.devices for name, at in device.obedience.executed.items()}


def override_all(core: CoreProcess, turn: int) -> None:
    with closing(Inbox(core.data / "inbox.sqlite")) as inbox:
        for device in range(DEVICES):
            for name in [f"p{i}" for i in range(POSITIONS)] + [f"s{i}" for i in range(SWITCHES)]:
                value = turn % 2 if name.startswith("s") else 10 * turn
                body = {"actuator": f"farm/d-{device}/{name}", "value": value, "seconds": 600, "reason": "proof"}
                inbox.put(Request(f"o{turn}-{device}-{name}", "override", "test", body))


def deadlines(core: CoreProcess) -> dict[str, int]:
    """When each command ends, by id: first sent and its expiry."""
    sent: dict[str, int] = {}
    for decision in core.decisions("command"):
        if decision.body["state"] == "sent":
            sent.setdefault(decision.body["id"], decision.time_ns)
    return {name: at + EXPIRY_S * 10**9 for name, at in sent.items()}


def last_states(core: CoreProcess) -> dict[str, str]:
    return {d.body["id"]: d.body["state"] for d in core.decisions("command") if "late_answer" not in d.body}


def all_closed(core: CoreProcess, at_least: int) -> bool:
    states = last_states(core)
    return len(states) >= at_least and not {"requested", "queued", "sent"} & set(states.values())


async def test_no_command_is_executed_after_its_expiry(tmp_path):
    every = DEVICES * (POSITIONS + SWITCHES)
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
        await asyncio.to_thread(lambda: core.configure(site(busy_s=0)).start().wait_configured("farm"))
        devices = Devices(broker)
        devices.go_online()
        try:
            await until(lambda: all(d.obedience.epoch for d in devices.devices), what="leases")
            override_all(core, 1)
            await until(lambda: len(devices.executed()) >= every, what="executed while online")
            override_all(core, 2)  # the switches may not move yet: theirs must run out inside the devices
            await until(lambda: all_closed(core, 2 * every), what="second turn settled")
            await devices.go_offline()
            override_all(core, 3)
            await until(lambda: len(deadlines(core)) >= 3 * every, what="sent to the broker's queue")
            core.kill()
            await asyncio.to_thread(core.start)
            await until(lambda: all_closed(core, 3 * every), what="third turn lost")
            before = set(last_states(core))
            devices.go_online()
            await until(lambda: len(devices.executed().keys() - before) > 0, what="obeying again")
        finally:
            await devices.go_offline()
        core.stop()
        executed, ends = devices.executed(), deadlines(core)
        assert executed.keys() <= ends.keys()
        late = {name: (at - ends[name]) / 1e9 for name, at in executed.items() if at > ends[name] + TRANSIT_S * 1e9}
        print(len(ends), "commands,", len(executed), "executed,", len(late), "late; latest", max(late.values(), default=0))
        assert len(ends) >= 100
        assert late == {}
