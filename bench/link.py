"""The MQTT link alone: messages a second and CPU per message, acknowledged in batches as core does, on asyncio and uvloop.

`python -m bench.link [messages] [runs] [rest after a read, ms] [messages/s, 0 = flat out]`. Broker and publisher share the
machine: CPU per message travels, the rate does not.
"""

import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import uvloop

from bench.rig import BUILD, Rig, compile_c, rig
from ingest.link import Delivery
from ingest.mqtt import MqttLink
from telemetry.clock import EngineClock

TOPIC = "fl/bench/dev-1/telemetry"
FILTER = "fl/bench/+/telemetry"
GATHER_S = 0.005  # core's shortest time between commits


async def receive(port: int, count: int, gap_s: float = 0.0, rate: int = 0) -> tuple[float, float]:
    """One run: (messages a second, CPU microseconds a message), from the first message to the last acknowledgement."""
    loop, up, done = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    tokens: list[int] = []
    began: list[float] = []
    received = 0

    def on_batch(batch: list[Delivery]) -> None:
        nonlocal received
        if not began:
            began.extend((time.perf_counter(), time.process_time()))
        if not tokens:
            loop.call_later(GATHER_S, acknowledge)
        tokens.extend([delivery.token for delivery in batch])
        received += len(batch)

    def acknowledge() -> None:
        link.acknowledge(tokens)
        tokens.clear()
        if received >= count:
            done.set()

    link = MqttLink(
        host="127.0.0.1",
        port=port,
        client_id=f"bench-{random.getrandbits(32)}",
        filters=(FILTER,),
        clock=EngineClock(time.time_ns, time.monotonic_ns),
        rng=random.Random(1),
        on_batch=on_batch,
        on_up=up.set,
        session_expiry_s=0,
        read_gap_s=gap_s,
    )
    running = asyncio.create_task(link.run())
    await asyncio.wait_for(up.wait(), 10)
    publisher = subprocess.Popen(_publisher(port, count, rate), stdout=subprocess.DEVNULL)  # noqa: ASYNC220 - returns at once
    await asyncio.wait_for(done.wait(), 120)
    wall_s, cpu_s = time.perf_counter() - began[0], time.process_time() - began[1]
    publisher.wait(10)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return count / wall_s, cpu_s / count * 1e6


def _publisher(port: int, count: int, rate: int) -> list[str]:
    if not rate:
        return [str(BUILD / "publisher"), "127.0.0.1", str(port), TOPIC, str(count)]
    return [
        str(BUILD / "loadgen"),
        "--port",
        str(port),
        "--rate",
        str(rate),
        "--seconds",
        str(count / rate + 0.1),
        "--drain",
        "0.1",
    ]


def measure(
    name: str, new_loop: Callable[[], asyncio.AbstractEventLoop], broker: Rig, count: int, runs: int, gap_s: float, rate: int
) -> None:
    """Print medians and all runs."""
    rates, costs = [], []
    for _ in range(runs):
        with asyncio.Runner(loop_factory=new_loop) as runner:
            rate, cost = runner.run(receive(broker.port, count, gap_s, rate))
        rates.append(rate)
        costs.append(cost)
    shown = " ".join(f"{cost:.1f}" for cost in costs)
    print(f"{name}: {statistics.median(rates):,.0f} messages/s, {statistics.median(costs):.1f} us CPU a message (runs: {shown})")


def main(count: int, runs: int, gap_s: float, rate: int) -> None:
    """asyncio, then uvloop."""
    if not (BUILD / "publisher").exists():
        compile_c()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with rig() as broker:
        measure("asyncio", asyncio.new_event_loop, broker, count, runs, gap_s, rate)
        measure("uvloop", uvloop.new_event_loop, broker, count, runs, gap_s, rate)


if __name__ == "__main__":
    given = [float(word) for word in sys.argv[1:]] + [100_000, 3, 0.0, 0][len(sys.argv) - 1 :]
    main(int(given[0]), int(given[1]), given[2] / 1e3, int(given[3]))
