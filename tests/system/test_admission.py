"""What may decide, on the real service: a fresh sample does; an old, a future, a repeated and a backfilled one do not.

Saboteurs: admit_late lets old samples decide, skip_dedup stores a repeated message twice.
"""

import json
import time

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.faults.broker import RealBroker
from tests.faults.process import DEADLINE_S, wait_until
from tests.system.core_process import CoreProcess
from tests.system.test_t29_crash_around_command import dosing_site

pytestmark = pytest.mark.system


def test_only_fresh_samples_decide(tmp_path):
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
        core.configure(dosing_site()).start().wait_configured("farm")
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id="careful", protocol=MQTTProtocolVersion.MQTTv5)
        client.connect(broker.host, broker.port)
        client.loop_start()
        published = 0

        def publish(ec: float, seq: int, *, age_s: float = 0.0, channel: str = "telemetry") -> None:
            nonlocal published
            body = {"v": 1, "boot": 1, "seq": seq, "ts": int((time.time() - age_s) * 1000), "p": {"ec": ec}}
            client.publish(f"fl/farm/careful/{channel}", json.dumps(body), qos=1).wait_for_publish(DEADLINE_S)
            published += 1
            wait_until(lambda: core.last().read_accounting().received >= published, what="message booked")

        try:
            publish(1.0, 0)
            publish(9.0, 1, age_s=600)
            publish(9.0, 2, age_s=-600)
            publish(9.0, 3, age_s=5, channel="backfill")
            publish(9.0, 1, age_s=590)
            assert core.decisions("demand") == []
            assert core.last().read_accounting().duplicate == 1
            publish(9.0, 4)
            wait_until(lambda: len(core.decisions("demand")) == 1, what="fresh sample decides")
        finally:
            client.disconnect()
            client.loop_stop()
        assert core.stop() == 0
        assert core.last().read_accounting().stored == 5
