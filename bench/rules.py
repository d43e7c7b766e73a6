"""Decoding and rules in one process: what the parts cost beside the bare library they stand on."""

import time
from typing import Any

import msgspec
import numpy as np

from app.wiring import build_engine
from bench.e2e import POINTS, row, site_config
from ingest.decode import Directory, Gather
from telemetry.frame import Entries
from telemetry.record import Config, Event, Start

NS = 1_000_000_000
T0 = 1_760_000_000 * NS


class _Bare(msgspec.Struct):
    v: int
    boot: int
    seq: int
    ts: int
    p: dict[str, float]


def messages(count: int, devices: int) -> list[tuple[str, bytes]]:
    """One-reading messages, each device's in order."""
    return [
        (
            f"fl/bench/dev-{i % devices}/telemetry",
            b'{"v":1,"boot":1760000000,"seq":%d,"ts":%d,"p":{"%s":%.2f}}'
            % (i // devices, T0 // 1_000_000 + i // devices, POINTS[0].encode(), 50 + (i % 1000) * 0.01),
        )
        for i in range(count)
    ]


def best(function: Any, repeats: int = 5) -> float:
    """Seconds of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def bench_decode(count: int) -> list[dict[str, Any]]:
    """Messages to columns, beside msgspec's typed decoder alone."""
    sent = messages(count, 1000)
    engine = configured()
    gather = Gather(Directory(engine.plan))

    def ours() -> None:
        for topic, payload in sent:
            gather.take(topic, payload, False, T0)
        gather.build(0, T0, 0)

    decoder = msgspec.json.Decoder(_Bare)

    def bare() -> None:
        for _, payload in sent:
            decoder.decode(payload)

    us, reference = best(ours) / count * 1e6, best(bare) / count * 1e6
    return [row("rules.decode_us", us, "us/message", reference)]


def configured() -> Any:
    """An engine with the bench site in force, no longer blind."""
    engine, config = build_engine(), site_config(devices=1000)
    gather = Gather(Directory(engine.plan))
    for record in (Start(1), Config("bench", config.sha256(), config.canonical()), Event("drained")):
        gather.add(record, T0)
    engine.step(gather.build(0, T0, 0))
    return engine


def bench_step(count: int) -> list[dict[str, Any]]:
    """`step` over `count` frames, 5 rules each, beside one numpy comparison per rule on the same columns."""
    engine = configured()
    gather = Gather(Directory(engine.plan))
    for i, (topic, payload) in enumerate(messages(count, 1000)):
        gather.take(topic, payload, False, T0 + i * 1000)
    entries: Entries = gather.build(engine.position + 1, T0, 0)
    began = time.perf_counter()
    engine.step(entries)
    seconds = time.perf_counter() - began
    values = entries.frames.value
    limits = np.linspace(90, 100, 5)
    reference = best(lambda: [values > limit for limit in limits])
    return [
        row("rules.step_us", seconds / count * 1e6, "us/frame"),
        row("rules.evaluations_s", 5 * count / seconds, "1/s", 5 * count / reference),
    ]


def run(*, short: bool) -> list[dict[str, Any]]:
    """All figures of this group."""
    count = 20_000 if short else 100_000
    return [*bench_decode(count), *bench_step(count)]
