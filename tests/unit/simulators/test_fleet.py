"""The connection of a simulated device ends when it is told to."""

import asyncio
import time

import numpy as np

from simulators.device import Options
from simulators.fleet import Broker, DeviceClient, build_devices
from telemetry.clock import EngineClock
from tests.faults.process import DEADLINE_S, free_port
from tests.unit.simulators.shipped import load_site


async def test_device_that_is_woken_in_the_moment_of_its_end_ends() -> None:
    options = Options(boot=1, plant_start_s=0)
    [device] = build_devices(load_site("nursery"), seed=1, options=options, only=frozenset({"climate-1"}))
    clock = EngineClock(time.time_ns, time.monotonic_ns)
    nobody = Broker("127.0.0.1", free_port(), lambda _name: None)
    client = DeviceClient(device, nobody, clock=clock, random=np.random.default_rng(1))
    running = asyncio.create_task(client.run(asyncio.Event()))
    async with asyncio.timeout(DEADLINE_S):
        while not client._wake._waiters:  # noqa: ASYNC110 -- waiting is what it shall do
            await asyncio.sleep(0.001)
    client._wake.set()
    running.cancel()
    done, _ = await asyncio.wait((running,), timeout=DEADLINE_S)
    running.cancel()
    await asyncio.wait((running,))
    assert done
