"""Controllers of 1,000 houses in one `step`, and a closed-loop day of both demo sites in the lab.

    python -m bench --only closed_day

The houses are those of bench/plants.py under their shipped controllers, each in an area of its own kind; every point is read each half
minute of plant time, and drives go where arbitration wants them. `control.step_1000_ms` is the process time of the control stage in a
call in which every controller runs once, the least of some (what else the machine does is not ours); `control.arbitrate_1000_ms` that of
arbitration of what changed. `closedloop.day_s` is how long 24 h of both demo sites take side by side, each in a process of its own, a
sample each 30 s; `closedloop.day_cpu_s` is the process time of both together.
"""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from app.lab import Lab
from app.site_files import load_site
from app.wiring import build_engine
from bench.e2e import row
from bench.plants import mixed_site
from rules.engine import Engine
from simulators.device import Options
from simulators.fleet import DEMO_START_S, build_world
from simulators.world import World
from telemetry.frame import COLUMNS, Entries, Kind, make_frames
from telemetry.plan import NS_PER_S
from telemetry.record import Config, Event, Start

ROUND_S: Final = 30.0
NO_FRAMES: Final = make_frames({name: [0] if name == "offsets" else [] for name in COLUMNS})
SITES: Final = Path(__file__).parents[1] / "sites"


def entries_of(engine: Engine, world: World, time_ns: int, records: tuple[Any, ...] = ()) -> Entries:
    """One frame of all points for every house, or records alone."""
    if records:
        kinds = [Kind.START if isinstance(r, Start) else Kind.CONFIG if isinstance(r, Config) else Kind.EVENT for r in records]
        times, frames = np.full(len(records), time_ns), NO_FRAMES
        return Entries(engine.position + 1, np.array(kinds, np.uint8), times, frames, tuple(enumerate(records)))
    device, point, value, lengths = [], [], [], []
    for group in engine.plan.groups:
        place = next(g for g in world.groups if g.profile.name == group.profile.name)
        columns = [group.profile.points.index(spec) for spec in place.points]
        said = place.read()
        for house, number in enumerate(group.number.tolist()):
            known = np.flatnonzero(np.isfinite(said[:, house]))
            device.append(number)
            point.append(group.points[house, columns][known])
            value.append(said[known, house])
            lengths.append(len(known))
    order = np.argsort(device)
    columns_of = {
        "entry": np.arange(len(device)), "device": np.array(device)[order], "ts_ns": np.full(len(device), time_ns),
        "boot": np.zeros(len(device)), "seq": np.zeros(len(device)), "flags": np.zeros(len(device)),
        "offsets": np.concatenate([[0], np.cumsum(np.array(lengths)[order])]),
        "point": np.concatenate([point[k] for k in order]), "value": np.concatenate([value[k] for k in order]),
        "quality": np.zeros(sum(lengths)),
    }  # fmt: skip
    kinds = np.full(len(device), Kind.FRAME, np.uint8)
    return Entries(engine.position + 1, kinds, np.full(len(device), time_ns), make_frames(columns_of), ())


def tick(engine: Engine, time_ns: int) -> Entries:
    """The moment at which controllers run."""
    return Entries(engine.position + 1, np.array([Kind.TICK], np.uint8), np.array([time_ns]), NO_FRAMES, ())


def timed(engine: Engine, names: tuple[str, ...]) -> dict[str, list[float]]:
    """Process seconds of each `run` of some stages."""
    spent: dict[str, list[float]] = {name: [] for name in names}
    for stage in engine.stages:
        name = type(stage).__name__
        if name in spent:
            stage.run = _timed(stage.run, spent[name])  # type: ignore[method-assign]
    return spent


def _timed(run: Any, spent: list[float]) -> Any:
    def timed_run(span: Any) -> None:
        began = time.process_time()
        run(span)
        spent.append(time.process_time() - began)

    return timed_run


def obey(world: World, outcome: Any) -> int:
    """Drives go where arbitration wants them; how many."""
    wanted = [d for d in outcome.decisions if d.kind == "demand"]
    for decision in wanted:
        _, name, actuator = decision.subject.split("/")
        world.places[name].actuators[actuator].command(decision.body["value"])
    return len(wanted)


def bench_step(*, short: bool) -> list[dict[str, Any]]:
    """The control stage over 1,000 houses."""
    config = mixed_site()
    world = build_world(config, seed=1, options=Options(boot=1, plant_start_s=DEMO_START_S))
    engine = build_engine(commands=False)
    now_ns = int(DEMO_START_S) * NS_PER_S
    engine.step(
        entries_of(engine, world, now_ns, (Start(1), Config("many", config.sha256(), config.canonical()), Event("drained")))
    )
    spent, moved = timed(engine, ("Control", "Arbitration")), 0
    for _ in range(20 if short else 60):
        world.advance_to(world.now_s + ROUND_S)
        now_ns += int(ROUND_S * NS_PER_S)
        obey(world, engine.step(entries_of(engine, world, now_ns - NS_PER_S)))
        for seconds in spent.values():
            seconds.pop()
        moved += obey(world, engine.step(tick(engine, now_ns)))
    settled = {name: seconds[len(seconds) // 2 :] for name, seconds in spent.items()}
    problem = "" if moved > 1_000 else "nothing was asked of the drives"
    return [
        row("control.step_1000_ms", None if problem else min(settled["Control"]) * 1e3, "ms", 10.0, problem),
        row("control.step_1000_median_ms", float(np.median(settled["Control"])) * 1e3, "ms"),
        row("control.arbitrate_1000_ms", float(np.median(settled["Arbitration"])) * 1e3, "ms"),
    ]


def live_through(name: str, hours: float) -> tuple[float, float, int]:
    """Wall and process seconds of a run of a demo site in the lab, and how many decisions it made."""
    lab = Lab(load_site(SITES / name), hours=hours, sample_s=ROUND_S)
    lab.begin()  # loads the compiled loops, which a day does once
    began, spent = time.perf_counter(), time.process_time()
    while not lab.is_over:
        lab.advance()
    return time.perf_counter() - began, time.process_time() - spent, lab.log_hash.count


def bench_day(*, short: bool) -> list[dict[str, Any]]:
    """A day of each demo site, side by side."""
    hours = 2.0 if short else 24.0
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(live_through, name, hours) for name in ("nursery", "pig-farm")]
        walls, spent, decided = zip(*(run.result() for run in runs), strict=True)
    problem = "" if min(decided) > 50 else "nothing was decided"
    return [
        row("closedloop.day_s", None if problem else max(walls) * 24.0 / hours, "s", 30.0, problem),
        row("closedloop.day_cpu_s", sum(spent) * 24.0 / hours, "s"),
    ]


def run(*, short: bool) -> list[dict[str, Any]]:
    """Both figures."""
    return [*bench_step(short=short), *bench_day(short=short)]
