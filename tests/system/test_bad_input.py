"""Hostile payloads, topics, clocks and configurations on the real service: each is refused with its reason or marked, everything is
accounted for, and a good device beside them notices nothing.
"""

import json
import time

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from telemetry.frame import Verdict
from telemetry.record import Event, Request
from tests.faults.broker import RealBroker
from tests.faults.process import DEADLINE_S, wait_until
from tests.system.core_process import CoreProcess
from tests.system.test_t29_crash_around_command import dosing_site

pytestmark = pytest.mark.system

YEAR_S = 365 * 86_400
HOSTILE = [
    ("fl/farm/careful/telemetry", b"\xff\xfe\x00", "malformed"),
    ("fl/farm/careful/telemetry", b'{"p":{"ec":NaN}}', "malformed"),
    ("fl/farm/careful/telemetry", b"[" * 100_000, "malformed"),
    ("fl/farm/careful/telemetry", b'{"p":{"ec":1}}' + b" " * 263_000, "too_large"),
    ("fl/farm/careful/telemetry", b'{"v":9,"p":{"ec":1}}', "version"),
    ("fl/farm/careful/telemetry", b'{"p":{"ec":"high"}}', "value"),
    ("fl/farm/careful/telemetry", b'{"p":{"ec":1},"u":{"ec":"F"}}', "unit"),
    ("fl/farm/careful/telemetry", b'{"p":{"no_such_point":1}}', "unknown_point"),
    ("fl/farm/careful/telemetry", b'{"ts":-5,"p":{"ec":1}}', "timestamp"),
    ("fl/farm/nobody/telemetry", b'{"p":{"ec":1}}', "unknown_device"),
    ("fl/farm/<img onerror=alert(1)>/telemetry", b'{"p":{"ec":1}}', "topic"),
    ("fl/farm/careful/ack", b"not json", "malformed"),
]


def test_every_hostile_input_is_refused_marked_and_accounted_for(tmp_path):
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
        core.configure(dosing_site())
        core.ask(Request("garbage-1", "config", "somebody", {"text": '{"site":"x"}'}))
        core.start().wait_configured("farm")
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="hostile", protocol=MQTTProtocolVersion.MQTTv5)
        client.connect(broker.host, broker.port)
        client.loop_start()
        try:
            for topic, payload, _ in HOSTILE:
                client.publish(topic, payload, qos=1).wait_for_publish(DEADLINE_S)
            for seq, age_s in enumerate((0.0, 3600.0, -3600.0, 50 * YEAR_S, -12 * YEAR_S)):
                body = {"v": 1, "boot": 1, "seq": seq, "ts": int((time.time() - age_s) * 1000), "p": {"ec": 1.0}}
                client.publish("fl/farm/careful/telemetry", json.dumps(body), qos=1).wait_for_publish(DEADLINE_S)
            sent = len(HOSTILE) + 5
            wait_until(lambda: core.last().read_accounting().received >= sent, what="all booked")
        finally:
            client.disconnect()
            client.loop_stop()
        assert core.stop() == 0
        counters = core.last().read_accounting()
        assert (counters.received, counters.rejected, counters.stored) == (sent, len(HOSTILE), 5)
        assert all(t.read_accounting().is_balanced() for t in core.transactions())
        records = [record for t in core.transactions() for _, record in t.read_entries().records]
        rejects = [r.body["reason"] for r in records if isinstance(r, Event) and r.name == "reject"]
        assert sorted(rejects) == sorted(reason for _, _, reason in HOSTILE)
        refused = [r for r in records if isinstance(r, Request) and r.id == "garbage-1"]
        assert "mistakes" in refused[0].body["refused"], "a broken configuration in the inbox is journaled as refused"
        verdicts = [Verdict(int(v)) for t in core.transactions() for v in t.read_admission().verdict]
        assert verdicts == [Verdict.LIVE, Verdict.LATE, Verdict.FUTURE, Verdict.LATE, Verdict.FUTURE]
        assert core.decisions("demand") == []
