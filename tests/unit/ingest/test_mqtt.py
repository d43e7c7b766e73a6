"""Hostile brokers and dead networks, seen from the link."""

import asyncio
import random
import time

import pytest

from ingest.mqtt import MqttLink
from telemetry.clock import EngineClock
from tests.faults.broker import RealBroker
from tests.faults.process import free_port, until


def link(port, **options):
    defaults = {"client_id": "core", "filters": ("t",), "on_batch": lambda _batch: None, "keepalive_s": 0.5}
    clock = EngineClock(time.time_ns, time.monotonic_ns)
    return MqttLink(host="127.0.0.1", port=port, clock=clock, rng=random.Random(1), **(defaults | options))


@pytest.mark.alone
async def test_a_frozen_broker_is_found_within_two_keepalives_and_comes_back(tmp_path):
    downs, ups = [], []
    with RealBroker(tmp_path / "broker") as broker:
        task = asyncio.create_task(link(broker.port, on_up=lambda: ups.append(1), on_down=downs.append).run())
        await until(lambda: ups)
        broker.freeze()
        began = time.monotonic()
        await until(lambda: downs)
        assert time.monotonic() - began < 1.5
        broker.thaw()
        await until(lambda: len(ups) == 2)
        assert len(downs) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_no_broker_is_said_once_with_the_fix():
    downs = []
    task = asyncio.create_task(link(free_port(), on_down=downs.append).run())
    await until(lambda: downs)
    assert "cannot reach the broker" in downs[0]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_wrong_password_is_said_with_the_fix(tmp_path):
    downs = []
    with RealBroker(tmp_path / "broker", passwords={"core": "right"}) as broker:
        task = asyncio.create_task(link(broker.port, username="core", password="wrong", on_down=downs.append).run())
        await until(lambda: downs)
        assert "refused us" in downs[0]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
