"""Core killed at every named place around a dose: each demand gives one dose, or a fault that says why not; never two.

Two dosing pumps: one executes an id at most once (so core may send again), one executes whatever comes (so core must not).
Saboteur: double_send_pulse.
"""

# ruff: noqa: T201 - the figures of a proof are part of its result

import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from app.failpoint import NAMES
from telemetry.site import SiteConfig
from tests.faults.broker import RealBroker
from tests.faults.process import DEADLINE_S, wait_until
from tests.system.core_process import CoreProcess

pytestmark = pytest.mark.system
DOSE_S = 2.0
CLOSED = {"confirmed", "accepted", "refused", "expired", "superseded", "lost", "failed_safe"}


def dosing_site() -> SiteConfig:
    profiles = {
        name: {
            "name": name,
            "points": [{"name": "ec", "unit": "1", "low": 0, "high": 10, "heartbeat_s": 5}],
            "actuators": [{"name": "pump", "kind": "pulse", "unit": "ml", "dedupes": name == "careful", "expiry_s": 5}],
            "rules": [
                {
                    "id": f"DOSE-{name}",
                    "profile": name,
                    "when": "ec > 5",
                    "demand": {"actuator": "pump", "value": 5, "level": "economy"},
                }
            ],
        }
        for name in ("careful", "simple")
    }
    devices = [{"name": name, "profile": name, "area": "a"} for name in profiles]
    return SiteConfig.model_validate({"site": "farm", "areas": [{"name": "a"}], "devices": devices, "profiles": profiles})


class Pump:
    """A dosing pump on MQTT. `doses` counts what really ran through it, by command id."""

    def __init__(self, broker: RealBroker, name: str, *, dedupes: bool) -> None:
        self.name, self._dedupes, self._seq = name, dedupes, 0
        self.doses: Counter[str] = Counter()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_message = self._on_message
        self._client.connect(broker.host, broker.port)
        self._client.subscribe(f"fl/farm/{name}/command", qos=1)
        self._client.loop_start()
        wait_until(self._client.is_connected, what=f"{name} connected")

    def _on_message(self, _client: Any, _user: Any, message: paho.MQTTMessage) -> None:
        command = json.loads(message.payload)
        if not self._dedupes or not self.doses[command["id"]]:
            self.doses[command["id"]] += 1
        # The simple one answers when its dose has run: an answer that is still to come is when a second dose would be tempting.
        threading.Timer(0.0 if self._dedupes else DOSE_S, self._answer, (command["id"],)).start()

    def _answer(self, command_id: str) -> None:
        self._client.publish(f"fl/farm/{self.name}/ack", json.dumps({"id": command_id, "status": "accepted"}), qos=1)

    def measure(self, ec: float) -> None:
        body = {"v": 1, "boot": 1, "seq": self._seq, "ts": time.time_ns() // 1_000_000, "p": {"ec": ec}}
        self._seq += 1
        self._client.publish(f"fl/farm/{self.name}/telemetry", json.dumps(body), qos=1).wait_for_publish(DEADLINE_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def open_and_closed(core: CoreProcess, pump: Pump) -> tuple[dict[str, str], Counter[str]]:
    """(last state by command id, faults by command id) of a pump, from the journal."""
    subject = f"farm/{pump.name}/pump"
    states: dict[str, str] = {}
    for decision in core.decisions("command", subject):
        if "late_answer" not in decision.body:
            states[decision.body["id"]] = decision.body["state"]
    return states, Counter(d.body["id"] for d in core.decisions("fault", subject))


def one_demand(core: CoreProcess, pumps: list[Pump], armed: Any, place: str, restart: dict[str, str]) -> None:
    """Ask for a dose of both, with core killed at `place`; restart it and wait until both are settled."""
    before = [len(open_and_closed(core, pump)[0]) for pump in pumps]
    armed.touch()
    for pump in pumps:
        pump.measure(9.0)

    def gone() -> bool:
        """A later pass of some places needs more to come; what is asked for already is not asked for again."""
        if core.process.running:
            time.sleep(0.2)
            pumps[0].measure(9.0)
        return not core.process.running

    wait_until(gone, what=f"kill at {place}")
    armed.unlink()
    core.start(**restart)

    def settled() -> bool:
        for pump, count in zip(pumps, before, strict=True):
            states, _ = open_and_closed(core, pump)
            if len(states) <= count or not set(states.values()) <= CLOSED:
                return False
        return True

    wait_until(settled, what=f"doses settled after a kill at {place}")
    for pump in pumps:
        pump.measure(1.0)
    wait_until(lambda: all(demand_cleared(core, pump) for pump in pumps), what="demands cleared")


def demand_cleared(core: CoreProcess, pump: Pump) -> bool:
    demands = core.decisions("demand", f"farm/{pump.name}/pump")
    return bool(demands) and demands[-1].body["value"] == 0


def run(tmp_path: Any, places: list[str]) -> Counter[str]:
    """One demand of both pumps for every place; violations by kind."""
    tmp_path.mkdir()
    armed = tmp_path / "armed"
    environments = [{"FIELDLOOM_FAILPOINT": place, "FIELDLOOM_FAILPOINT_ARMED": str(armed)} for place in places] + [{}]
    wrong: Counter[str] = Counter()
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
        core.configure(dosing_site()).start(**environments[0]).wait_configured("farm")
        pumps = [Pump(broker, "careful", dedupes=True), Pump(broker, "simple", dedupes=False)]
        try:
            for pump in pumps:
                pump.measure(1.0)
            for place, restart in zip(places, environments[1:], strict=True):
                one_demand(core, pumps, armed, place, restart)
                assert max([*pumps[0].doses.values(), *pumps[1].doses.values()], default=0) <= 1, f"double dose at {place}"
        finally:
            for pump in pumps:
                pump.close()
        core.stop()
        for pump in pumps:
            states, faults = open_and_closed(core, pump)
            print(pump.name, dict(Counter(states.values())), "doses", sum(pump.doses.values()), "faults", sum(faults.values()))
            wrong["demands"] += len(states) != len(places)
            wrong["double"] += sum(1 for count in pump.doses.values() if count > 1)
            wrong["unasked"] += len(pump.doses.keys() - states.keys())
            wrong["silent"] += sum(1 for name in states if not pump.doses[name] and not faults[name])
    return +wrong


def run_side_by_side(tmp_path: Any, places: list[str]) -> Counter[str]:
    """Three cores share the places, each with its broker and pumps: they wait most of the time."""
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(run, (tmp_path / str(n) for n in range(3)), (places[n::3] for n in range(3))))
    return sum(found, Counter())


def test_one_dose_for_each_demand_whenever_core_is_killed(tmp_path):
    assert run_side_by_side(tmp_path, [*(f"{name}:1" for name in NAMES), "appended:2", "published:2"]) == {}


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("_turn", range(10))
def test_one_dose_for_each_demand_in_the_long_form(tmp_path, _turn):
    """50 demands; what is sent is sent once a demand."""
    places = [f"{name}:{count}" for name in NAMES for count in (1, 2, 3, 4) if name != "sending" or count == 1]
    assert run_side_by_side(tmp_path, places) == {}
