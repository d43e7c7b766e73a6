"""1,000 simulated houses of mixed kind in one process on one core: physics, drives, instruments, faults.

    python -m bench --only plants

Each kind runs at its own step; every 10 s of plant time each house's points are read and one drive in fifty gets another order, one
by one as devices do it; one house in twenty has a fault of its sensors and one of its kind. The figure is plant time over the process's
own CPU time, so that what else the machine does counts little. The reference is the target of a hundred times real time.
"""

import time
from typing import Any, Final

import numpy as np

from bench.e2e import row
from bench.recordings import shipped_profile
from simulators.device import Options
from simulators.fault import Injection
from simulators.fleet import DEMO_START_S, build_world
from simulators.plant import PLANTS
from simulators.world import World
from telemetry.site import AreaSpec, DeviceSpec, SiteConfig

HOUSES: Final = 1_000
TARGET: Final = 100.0
READ_S: Final = 10
FAULTY: Final = 0.05
MASTS: Final = 4


def mixed_site(houses: int = HOUSES) -> SiteConfig:
    """So many houses of all kinds in equal parts, among them a few masts."""
    kinds = sorted(set(PLANTS) - {"weather_station"})
    counts = {kind: (houses - MASTS) // len(kinds) for kind in kinds}
    counts[kinds[0]] += houses - MASTS - sum(counts.values())
    return SiteConfig(
        site="many",
        origin="SIMULATED",
        areas=[AreaSpec(name="a")],
        profiles={kind: shipped_profile(kind) for kind in PLANTS},
        devices=[
            DeviceSpec(name=kind.replace("_", "-"), profile=kind, area="a", count=count)
            for kind, count in {**counts, "weather_station": MASTS}.items()
        ],
    )


def spoil(world: World, random: np.random.Generator) -> int:
    """Faults of one house in twenty; how many."""
    injections = []
    for name, place in world.places.items():
        if random.random() < FAULTY:
            points = [spec.name for spec in place.points]
            general = str(random.choice(["stuck", "bias", "noise", "dropout", "spike"]))
            injections.append(Injection(general, name, points[int(random.integers(len(points)))], at_s=world.now_s))
            own = list(place.houses.FAULTS)
            if own:
                injections.append(Injection(own[int(random.integers(len(own)))], name, at_s=world.now_s))
    world.plan(injections)
    return len(injections)


def command(world: World, random: np.random.Generator) -> None:
    """Another order for one drive in fifty."""
    for group in world.groups:
        low = np.array([[spec.low] for spec in group.profile.actuators])
        high = np.array([[spec.high] for spec in group.profile.actuators])
        if not len(low):
            continue
        chosen = random.random(group.drives.target.shape) < 0.02
        value = np.where(random.random(chosen.shape) < 0.5, low, high)
        for number, house in np.argwhere(chosen):
            group.drives.command(value[number, house], (int(number), int(house)))


def run(*, short: bool) -> list[dict[str, Any]]:
    """The figure, and the share of each kind."""
    random = np.random.default_rng(1)
    world = build_world(mixed_site(), seed=1, options=Options(boot=1, plant_start_s=DEMO_START_S))
    spoil(world, random)
    seconds, spent_s, orders_s, said = (300 if short else 1_800), 0.0, 0.0, 0
    for _ in range(seconds // READ_S):
        began = time.process_time()
        command(world, random)
        ordered = time.process_time()
        world.advance_to(world.now_s + READ_S)
        said += sum(int(np.isfinite(group.read()).sum()) for group in world.groups)
        spent_s += time.process_time() - began
        orders_s += ordered - began
    factor = seconds / spent_s
    problem = "" if said > HOUSES * 10 * seconds // READ_S else "points of plants say nothing"
    return [
        row("plants.realtime_factor_1000", None if problem else factor, "x", TARGET, problem),
        row("plants.orders_share", orders_s / spent_s, "1"),
        row("plants.readings_s", said / spent_s, "1/s"),
    ]
