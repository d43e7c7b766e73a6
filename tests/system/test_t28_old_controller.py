"""A controller that was replaced moves nothing: devices fence by epoch. Saboteur: device_ignores_epoch."""

import asyncio
import json
from typing import Any

import aiomqtt
import pytest

from tests.faults.broker import RealBroker
from tests.faults.process import DEADLINE_S, until
from tests.system.core_process import CoreProcess
from tests.system.test_t27_expired_commands import Devices, site

pytestmark = pytest.mark.system


async def test_commands_of_the_old_epoch_are_refused(tmp_path):
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
        await asyncio.to_thread(lambda: core.configure(site(busy_s=0)).start().wait_configured("farm"))
        old = core.last().epoch
        devices = Devices(broker)
        devices.go_online()
        core.kill()
        await asyncio.to_thread(core.start)
        try:
            await until(lambda: all(d.obedience.epoch > old for d in devices.devices), what="leases of the new epoch")
            answers = await ask_as_ghost(broker, [f"d-{i}" for i in range(len(devices.devices))], old)
        finally:
            await devices.go_offline()
        assert [answer["status"] for answer in answers] == ["refused"] * len(devices.devices)
        assert devices.executed() == {}


async def ask_as_ghost(broker: RealBroker, names: list[str], epoch: int) -> list[dict[str, Any]]:
    """Command every device as the controller of `epoch`; their answers."""
    async with aiomqtt.Client(broker.host, broker.port, identifier="ghost") as client, asyncio.timeout(DEADLINE_S):
        await client.subscribe("fl/farm/+/ack", qos=1)
        for name in names:
            body = {"v": 1, "id": f"{epoch}-1-farm/{name}/p0", "epoch": epoch, "actuator": "p0", "value": 50.0, "expires_s": 30.0}
            await client.publish(f"fl/farm/{name}/command", json.dumps(body), qos=1)
        answers = []
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            answers.append(json.loads(message.payload))
            if len(answers) == len(names):
                break
    return answers
