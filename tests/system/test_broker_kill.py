"""The broker killed again and again, without persistence: devices that keep their samples until the receipt lose none."""

# ruff: noqa: T201 - the figures of a proof are part of its result

import asyncio
import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest

from simulators.device import Options
from simulators.fleet import Broker, DeviceClient, build_devices
from telemetry.clock import EngineClock
from telemetry.frame import Verdict
from telemetry.plan import Plan
from telemetry.record import Config
from telemetry.site import SiteConfig
from tests.faults.broker import RealBroker
from tests.faults.process import until
from tests.system.core_process import CoreProcess, log_lines
from tests.system.ledger import drawn

pytestmark = pytest.mark.system
RECONNECT_S = 5.0
RESEND_S = 6.0  # receipts come within 5 s


def keeping_site(devices: int) -> SiteConfig:
    points = [{"name": "x", "unit": "1", "low": 0, "high": 10, "heartbeat_s": 0.05}]
    return SiteConfig.model_validate(
        {
            "site": "farm", "areas": [{"name": "a"}], "profiles": {"keeping": {"name": "keeping", "points": points}},
            "devices": [{"name": "k", "profile": "keeping", "area": "a", "count": devices}],
        }
    )  # fmt: skip


def stored(core: CoreProcess, after: int = -1) -> list[tuple[str, int]]:
    """(device, seq) of every frame that is not a duplicate."""
    plan, found = Plan(), []
    for transaction in core.transactions(after):
        entries, verdicts = transaction.read_entries(), transaction.read_admission().verdict
        for _, record in entries.records:
            if isinstance(record, Config):
                plan.apply(SiteConfig.model_validate_json(record.text))
        frames = entries.frames
        fresh = np.flatnonzero(verdicts != Verdict.DUPLICATE)
        found += [(plan.devices[int(frames.device[i])].name, int(frames.seq[i])) for i in fresh]
    return found


async def kill_broker(tmp_path: Path, *, kills: int, count: int) -> list[float]:
    """Run the proof; after how many seconds core and all devices were back, for each kill."""
    rng, back_s = drawn(), list[float]()
    site = keeping_site(count)
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
        await asyncio.to_thread(lambda: core.configure(site).start().wait_configured("farm"))
        devices = build_devices(site, seed=1, options=Options(boot=1, plant_start_s=0, sample_s=0.1, resend_s=RESEND_S))
        clock, address, stop = (
            EngineClock(time.time_ns, time.monotonic_ns),
            Broker(broker.host, broker.port, lambda _n: None),
            asyncio.Event(),
        )
        clients = [DeviceClient(d, address, clock=clock, random=np.random.default_rng(i)) for i, d in enumerate(devices)]
        tasks = [asyncio.create_task(client.run(stop)) for client in clients]
        try:
            for _ in range(kills):
                moment = time.monotonic() + rng.uniform(0.5, 1.5)
                await until(lambda due=moment: time.monotonic() > due and all(d.is_connected for d in devices), what="running")
                ups = core.log.count("broker up")
                await asyncio.to_thread(broker.kill)
                await asyncio.to_thread(broker.start)
                began = time.monotonic()
                await until(lambda n=ups: core.log.count("broker up") > n, what="core connected again")
                await until(lambda: all(d.is_connected for d in devices), what="devices connected again")
                back_s.append(time.monotonic() - began)
            for device in devices:
                device.options = dataclasses.replace(device.options, sample_s=3600)  # no more samples: drain
                device._next_sample_ns = clock.now_ns() + 3_600_000_000_000
            sent = {(d.name, seq) for d in devices for seq in range(d._seq)}
            await until(lambda: sent <= set(stored(core)), deadline_s=45, what="all stored")
        finally:
            stop.set()
            await asyncio.gather(*tasks, return_exceptions=True)
        core.stop()
        once = stored(core)
        assert len(once) == len(set(once))
        assert set(once) == sent
        assert sum(line["event"] == "broker lost" for line in log_lines(core.log)) == kills
        resent = sum(d.counters.resent for d in devices)
        print(f"{len(sent)} messages, {kills} kills, {resent} sent again, back after {sorted(back_s)} s")
        return back_s


@pytest.mark.alone  # a machine shared with other tests stretches a return
async def test_two_kills_of_the_broker_lose_nothing(tmp_path):
    assert max(await kill_broker(tmp_path, kills=2, count=10)) <= RECONNECT_S


@pytest.mark.torture
@pytest.mark.timeout(600)
async def test_twenty_kills_of_the_broker_lose_nothing(tmp_path):
    assert max(await kill_broker(tmp_path, kills=20, count=50)) <= RECONNECT_S
