"""The way of a command: a sample trips a rule, core decides, commits and publishes, the device answers and measures, core confirms.

Core on the real broker against 1,000 devices that answer at once and measure what they were told. Counted at both ends: what the devices
received, once each, is what the journal says was sent, and all of it is confirmed.
"""

import asyncio
import json
import random
import statistics
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import uvloop

from bench.e2e import Row, row, write_site
from bench.rig import BUILD, Rig, rig, run_json, wait_until
from ingest.link import Delivery
from ingest.mqtt import MqttLink
from store.journal_reader import JournalReader
from telemetry.clock import EngineClock
from telemetry.site import SiteConfig

DEVICES = 1000
RATE = 2000  # commands/s
DRAIN_S = 15.0


def site_config() -> SiteConfig:
    """Devices with a relay that follows one point, and with its feedback."""
    points = [
        {"name": "air_temperature_c", "unit": "C", "low": -50, "high": 150, "heartbeat_s": 60},
        {"name": "relay_pct", "unit": "%", "low": -5, "high": 105, "heartbeat_s": 60},
    ]
    profile: Row = {
        "name": "bench", "receipts": False, "points": points,
        "actuators": [{"name": "relay", "feedback": "relay_pct", "min_step": 1, "fail_safe": "hold", "expiry_s": 30}],
        "rules": [{"id": "HOT", "when": "air_temperature_c > 90", "demand": {"actuator": "relay", "value": 100, "level": "temperature"}}],
    }  # fmt: skip
    return SiteConfig.model_validate({
        "v": 1, "site": "bench", "origin": "LIVE", "areas": [{"name": "hall"}], "profiles": {"bench": profile},
        "devices": [{"name": "dev", "profile": "bench", "area": "hall", "count": DEVICES}],
    })  # fmt: skip


class Fleet:
    """All devices on one connection. A device is told hot and cold in turn, no sooner than it has obeyed the last command."""

    def __init__(self, port: int) -> None:
        self.received: Counter[str] = Counter()
        self.latencies_ms: list[float] = []
        self.late = 0  # turns that came while the device had not been commanded yet
        self.up = asyncio.Event()
        self._asked: dict[int, tuple[float, float]] = {}  # device: (when, the value it must be told)
        self._hot = [False] * DEVICES
        self.link = MqttLink(
            host="127.0.0.1", port=port, client_id="bench-fleet", filters=("fl/bench/+/command",), rng=random.Random(1),
            clock=EngineClock(time.time_ns, time.monotonic_ns), on_batch=self._on_batch, on_up=self.up.set, session_expiry_s=0,
        )  # fmt: skip

    async def run(self, *, rate: float, seconds: float) -> float:
        """Ask for `rate` commands a second; how long it took until the last was received [s]."""
        began, made = time.perf_counter(), 0
        free = deque(range(DEVICES))
        while (now := time.perf_counter() - began) < seconds:
            due = int(now * rate) - made
            for _ in range(due):
                device = free[0]
                free.rotate(-1)
                made += 1
                if device in self._asked:
                    self.late += 1
                else:
                    self._turn(device)
            await asyncio.sleep(0.001)
        for _ in range(int(DRAIN_S / 0.01)):
            if not self._asked:
                break
            await asyncio.sleep(0.01)
        return time.perf_counter() - began

    def _turn(self, device: int) -> None:
        self._hot[device] = not self._hot[device]
        self._asked[device] = time.perf_counter(), 100.0 if self._hot[device] else 0.0
        self._say(device, "telemetry", {"p": {"air_temperature_c": 95.0 if self._hot[device] else 20.0}})

    def _say(self, device: int, channel: str, body: Row) -> None:
        self.link.publish(f"fl/bench/dev-{device}/{channel}", json.dumps(body).encode())

    def _on_batch(self, batch: Sequence[Delivery]) -> None:
        now, tokens = time.perf_counter(), []
        for name, payload, _, _, token in batch:
            device, command = int(name.split("/")[2].removeprefix("dev-")), json.loads(payload)
            self.received[command["id"]] += 1
            self._say(device, "ack", {"id": command["id"], "status": "accepted"})
            self._say(device, "telemetry", {"p": {"relay_pct": command["value"]}})
            asked = self._asked.get(device)
            if asked is not None and asked[1] == command["value"]:
                self.latencies_ms.append(1000 * (now - asked[0]))
                del self._asked[device]
            if token:
                tokens.append(token)
        self.link.acknowledge(tokens)


async def drive(port: int, *, rate: float, seconds: float) -> tuple[Fleet, float]:
    """A warm-up of two seconds, then the run that counts."""
    fleet = Fleet(port)
    running = asyncio.create_task(fleet.link.run(), name="fleet")
    await asyncio.wait_for(fleet.up.wait(), 10)
    await fleet.run(rate=min(rate, 500), seconds=2)
    fleet.latencies_ms.clear()
    fleet.late = 0
    took_s = await fleet.run(rate=rate, seconds=seconds)
    await asyncio.sleep(1)  # what was answered last is confirmed
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return fleet, took_s


def journaled(directory: Path) -> dict[str, str]:
    """The last state of every command by its id."""
    states: dict[str, str] = {}
    with closing(JournalReader(directory / "data" / "journal")) as reader:
        after = -1
        while found := reader.read(after, rows_max=50_000):
            for transaction in found:
                for decision in transaction.read_decisions():
                    if decision.kind == "command":
                        states[decision.body["id"]] = decision.body["state"]
                after = transaction.last
    return states


def check(fleet: Fleet, states: dict[str, str]) -> str:
    """Why the figures of a run do not count; "" when they do."""
    lost = len(states) - len(fleet.received.keys() & states.keys())
    doubled = sum(1 for count in fleet.received.values() if count > 1)
    unconfirmed = Counter(state for state in states.values() if state != "confirmed")
    if lost or doubled or unconfirmed or fleet.received.keys() - states.keys():
        return f"{lost} lost, {doubled} doubled, not confirmed: {dict(unconfirmed)}"
    return f"{fleet.late} turns came before the command of the last one" if fleet.late else ""


def p99(values: list[float]) -> float:
    """The value that 1 % are over."""
    return statistics.quantiles(values, n=100)[98] if len(values) > 100 else max(values, default=0.0)


def one(*, rate: float, seconds: float, raw: str) -> tuple[Fleet, dict[str, Any]]:
    """One run on a fresh service."""
    with rig(broker_cpu=0, service_cpu=1) as r:
        r.start_service(write_site(r.directory / "site", site_config()))
        wait_until(lambda: _is_configured(r), "core does not know the site", 60)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            fleet, took_s = runner.run(drive(r.port, rate=rate, seconds=seconds))
        states = journaled(r.directory)
    (BUILD / f"{raw}.txt").write_text("\n".join(["latency_ms", *(f"{value:.3f}" for value in fleet.latencies_ms)]))
    return fleet, {"states": states, "rate": len(fleet.latencies_ms) / min(took_s, seconds), "problem": check(fleet, states)}


def _is_configured(r: Rig) -> bool:
    with closing(JournalReader(r.directory / "data" / "journal")) as reader:
        last = reader.last()
    return last is not None and last.last > 5


def run(*, short: bool) -> list[Row]:
    """Figures of the command path; the rate is what was asked for and held, or a problem."""
    probe = run_json([str(BUILD / "probe"), "1", "2"], timeout_s=30)
    fleet, made = one(rate=RATE, seconds=10 if short else 60, raw="commands")
    problem = made["problem"]
    return [
        row("commands.rate", None if problem else made["rate"], "1/s", RATE, problem),
        row("commands.p99_ms", None if problem else p99(fleet.latencies_ms), "ms", probe["p99_ms"], problem),
        row("commands.p50_ms", None if problem else statistics.median(fleet.latencies_ms), "ms", None, problem),
        row("commands.confirmed", float(Counter(made["states"].values())["confirmed"]), "1", float(sum(fleet.received.values()))),
    ]
