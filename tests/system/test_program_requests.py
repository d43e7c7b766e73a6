"""A program's request over the real broker and core: the device is commanded with the program's name, and the program is answered."""

import asyncio
import json
from typing import Any

import aiomqtt
import pytest

from telemetry.site import SiteConfig
from tests.faults.broker import RealBroker
from tests.faults.process import DEADLINE_S
from tests.system.core_process import CoreProcess

pytestmark = pytest.mark.system
ASKED = {"id": "a1", "kind": "override", "actuator": "d/vent", "value": 40.0, "seconds": 60, "reason": "drying"}


def site() -> SiteConfig:
    profile = {"name": "p", "points": [{"name": "x", "unit": "1", "low": 0, "high": 10}], "actuators": [{"name": "vent"}]}
    return SiteConfig.model_validate({
        "site": "farm", "areas": [{"name": "a"}], "devices": [{"name": "d", "profile": "p", "area": "a"}],
        "profiles": {"p": profile}, "programs": ["scada"],
    })  # fmt: skip


async def test_override_of_a_program_is_done_once_and_answered(tmp_path):
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
        await asyncio.to_thread(lambda: core.configure(site()).start().wait_configured("farm"))
        async with aiomqtt.Client(broker.host, broker.port) as client, asyncio.timeout(DEADLINE_S):
            for name in ("fl/farm/scada/answer", "fl/farm/d/command"):
                await client.subscribe(name, qos=1)
            got: dict[str, list[dict[str, Any]]] = {"answer": [], "command": []}
            messages = aiter(client.messages)
            while not any(answer["accepted"] for answer in got["answer"]):  # what comes before core sees is refused as too old
                await client.publish("fl/farm/scada/request", json.dumps({**ASKED, "id": f"a{len(got['answer'])}"}), qos=1)
                await take(messages, got, until="answer")
            answers = len(got["answer"])
            accepted = next(answer["id"] for answer in got["answer"] if answer["accepted"])
            await client.publish("fl/farm/scada/request", json.dumps({**ASKED, "id": accepted}), qos=1)
            while len(got["answer"]) == answers or not got["command"]:
                await take(messages, got)
        assert [answer for answer in got["answer"] if answer["id"] == accepted] == [{"id": accepted, "accepted": True}] * 2
        assert {command["id"] for command in got["command"]} == {got["command"][0]["id"]}
        assert (got["command"][0]["value"], got["command"][0]["reason"]) == (40.0, "program:scada: drying")
        assert [d.body["winner"]["level"] for d in core.decisions("demand", "farm/d/vent")] == [4]


async def take(messages: Any, got: dict[str, list[dict[str, Any]]], until: str = "") -> None:
    """The next message, or all up to one of a channel."""
    while True:
        message = await anext(messages)
        channel = str(message.topic).rsplit("/", 1)[1]
        got[channel].append(json.loads(message.payload))
        if channel == until or not until:
            return
