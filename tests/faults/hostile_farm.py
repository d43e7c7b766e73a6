"""A farm that does whatever devices, networks and people do, at any rate: what a proof of equal decisions is run on.

Frames come many to a message. Temperatures swing through thresholds; numbers, sequences and times go missing, repeat, contradict, come
late, early or by the back door; devices fall silent and burst; commands are answered, refused or ignored.
"""

import json
import math
import random
import threading
import time
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from telemetry.record import Request
from telemetry.site import SiteConfig
from tests.faults.process import wait_until

ROWS = 20  # frames of one message
PAUSE_S, PAUSE_EVERY_S = 1.5, 10.0
RULES = ("HOT", "AIR", "COLD", "DRY", "SIL")


def farm(*, version: int = 1, houses: int = 40) -> SiteConfig:
    """The site; another version has other thresholds, and every version the same kinds of timers."""
    hot = {"actuator": "vent", "bound": "at_least", "value": 100, "level": "survival"}
    follow = {"actuator": "vent", "value": "clamp((temp_c - 20) * 5, 0, 80)", "level": "temperature"}
    rules: list[dict[str, Any]] = [
        {"id": "HOT", "version": version, "when": f"temp_c > {29 + version % 3}", "hysteresis": 1, "priority": "P1", "demand": hot},
        {"id": "AIR", "when": "mean(temp_c, 1 min) > 25", "priority": "P2", "devices": ["h-0", "h-1"], "demand": follow},
        {"id": "COLD", "when": "temp_c < 18", "on_delay_s": 1.5, "off_delay_s": 0.5, "priority": "P2", "latching": True,
         "demand": {"actuator": "heater", "value": 1, "level": "temperature"}},
        {"id": "DRY", "when": "air_rh < 40", "hysteresis": 2, "on_delay_s": 0.3, "priority": "P2"},
        {"id": "SIL", "when": "silent(4 s)", "priority": "P3"},
    ]  # fmt: skip
    house = {
        "name": "house",
        "points": [{"name": "temp_c", "unit": "°C", "low": -30, "high": 60, "heartbeat_s": 2, "rate_per_min": 100_000},
                   {"name": "air_rh", "unit": "%", "low": 0, "high": 100, "heartbeat_s": 2}],
        "actuators": [{"name": "vent", "expiry_s": 5, "fail_safe": 20.0, "min_on_s": 1},
                      {"name": "heater", "kind": "switch", "high": 1, "fail_safe": 0, "expiry_s": 5}],
    }  # fmt: skip
    return SiteConfig.model_validate(
        {
            "site": "farm", "areas": [{"name": "a"}], "profiles": {"house": house},
            "rules": [{"profile": "house", **rule} for rule in rules],
            "devices": [{"name": "h", "profile": "house", "area": "a", "count": houses}],
        }
    )  # fmt: skip


class HostileFarm:
    """All houses over one MQTT 5 connection at QoS 1, from a thread of their own, `rate` messages/s until `close`."""

    def __init__(self, host: str, port: int, *, rate: float, seed: int = 1, houses: int = 40) -> None:
        self.houses, self.answered = houses, 0
        self._rng, self._answers = random.Random(seed), random.Random(seed + 1)
        self._rate = rate
        self._seq = [0] * houses
        self._stamp_ms = [0] * houses
        self._silent_until = [0.0] * houses
        self._last = ["", b""]
        self._stop = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id="farm", protocol=MQTTProtocolVersion.MQTTv5)
        self._client.max_inflight_messages_set(1000)
        self._client.on_message = self._on_command
        self._client.connect(host, port, clean_start=False)
        self._client.subscribe("fl/farm/+/command", qos=1)
        self._client.loop_start()
        wait_until(self._client.is_connected, what="farm connected")
        self._thread = threading.Thread(target=self._run, name="farm", daemon=True)
        self._thread.start()

    def _on_command(self, _client: Any, _user: Any, message: Any) -> None:
        status = self._answers.choice(["accepted"] * 8 + ["refused", ""])
        if status:
            self.answered += 1
            ack = {"id": json.loads(message.payload)["id"], "status": status}
            self._client.publish(message.topic.replace("/command", "/ack"), json.dumps(ack), qos=1)

    def _run(self) -> None:
        began = before = time.monotonic()
        due = 0.0
        while not self._stop.wait(0.02):
            now = time.monotonic()
            if (now - began) % PAUSE_EVERY_S < PAUSE_EVERY_S - PAUSE_S:  # else nobody speaks: only ticks move the time
                due += (now - before) * self._rate + (20 if self._rng.random() < 0.02 else 0)  # a burst
            before = now
            while due >= 1:
                self._speak(self._rng.randrange(self.houses))
                due -= 1

    def _speak(self, k: int) -> None:
        rng, now = self._rng, time.time()
        if now < self._silent_until[k]:
            return
        if rng.random() < 0.001:
            self._silent_until[k] = now + 6
        body = self._body(k, now)
        channel = "telemetry"
        kind = rng.random()
        if kind < 0.02:
            self._publish(*self._last)  # again
        elif kind < 0.03:
            self._seq[k] += rng.randrange(1, 4)  # some are missing
        elif kind < 0.04:
            channel, body = "backfill", self._shifted(body, -90_000)
        elif kind < 0.05:
            body = self._shifted(body, rng.choice([-30_000, -12_000]))
        elif kind < 0.06:
            body = self._shifted(body, 30_000)
        elif kind < 0.065:
            del body["boot"], body["seq"]
        elif kind < 0.07:
            body = {"p": body["rows"][-1]["p"]}  # no numbers, no time
        elif kind < 0.075:
            body["rows"][-1]["p"] |= {"nonsense": 1}
        elif kind < 0.08:
            body["rows"].append({**body["rows"][-1], "p": {"temp_c": 29.5}})  # contradicts
        if kind > 0.998:
            self._publish(f"fl/farm/h-{k}/telemetry", b"{not json")
        elif kind > 0.996:
            self._publish(f"fl/farm/h-{k}/status", json.dumps({"state": rng.choice(["online", "offline"]), "boot": 1}).encode())
        elif kind > 0.994:
            self._publish(f"fl/farm/h-{k}/event", json.dumps({"door": "open", "times": rng.randrange(9)}).encode())
        self._publish(f"fl/farm/h-{k}/{channel}", json.dumps(body).encode())

    def _body(self, k: int, now: float) -> dict[str, Any]:
        rng, end = self._rng, max(int(now * 1000), self._stamp_ms[k] + ROWS)
        start = max(self._stamp_ms[k], end - 1000)
        self._stamp_ms[k] = end
        rows = []
        for row in range(1, ROWS + 1):
            ts = start + (end - start) * row // ROWS
            phase = ts / 1000 / (1.5 + k % 5) + k
            values: dict[str, Any] = {"temp_c": round(24 + 9 * math.sin(phase * 2 * math.pi) + rng.random() / 7, 3)}
            if row % 4 == 0:
                values["air_rh"] = round(50 + 15 * math.sin(phase * 1.3) + rng.random(), 1)
            if rng.random() < 0.01:
                values["temp_c"] = rng.choice([None, 300.0, 30.0, -0.0])
            rows.append({"ts": ts, "p": values})
        self._seq[k] += 1
        return {"boot": 1, "seq": self._seq[k], "rows": rows}

    @staticmethod
    def _shifted(body: dict[str, Any], ms: int) -> dict[str, Any]:
        return {**body, "rows": [{**row, "ts": row["ts"] + ms} for row in body["rows"]]}

    def _publish(self, topic: str, payload: bytes) -> None:
        if topic:
            self._client.publish(topic, payload, qos=1)
        self._last = [topic, payload]

    def close(self) -> None:
        """Stop and disconnect."""
        self._stop.set()
        self._thread.join(10)
        self._client.disconnect()
        self._client.loop_stop()


def ask(number: int, rng: random.Random, houses: int) -> Request:
    """What a person asks next."""
    kind = rng.choice(["acknowledge"] * 4 + ["shelve"] * 3 + ["unshelve", "comment", "override", "release", "reset"])
    device = f"farm/h-{rng.randrange(houses)}"
    body: dict[str, Any] = {"alarm": f"{rng.choice(RULES)}@{device}"}
    if kind == "shelve":
        body |= {"seconds": rng.choice([1, 4, 9]), "reason": "known"}
    elif kind == "comment":
        body |= {"text": "seen"}
    elif kind in {"override", "release"}:
        body = {
            "actuator": f"{device}/{rng.choice(['vent', 'heater'])}",
            "value": 1,
            "seconds": rng.choice([2, 7]),
            "reason": "test",
        }
    return Request(f"ask-{number}", kind, "ann", body)
