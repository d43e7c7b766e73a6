"""Numbers of devices and points: given once, in order of appearance, never reused."""

import random
from typing import Any

import numpy as np
import pytest

from telemetry.plan import Plan
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, SiteConfig, parse_site


def site(
    name: str = "s", *, devices: dict[str, str] | None = None, points: tuple[str, ...] = ("a", "b"), low: float = 0.0
) -> SiteConfig:
    profiles = {
        "p": Profile(name="p", points=[PointSpec(name=p, unit="", low=low, high=10, rate_per_min=60, stuck_s=2) for p in points]),
        "q": Profile(name="q", points=[PointSpec(name="z", unit="", low=-1, high=1)]),
    }
    made = [DeviceSpec(name=device, profile=profile, area="a") for device, profile in (devices or {"d": "p", "e": "q"}).items()]
    return SiteConfig(site=name, areas=[AreaSpec(name="a")], devices=made, profiles=profiles)


def numbers(plan: Plan) -> dict[str, int]:
    return {plan.point_name(k): k for k in range(len(plan.point_owner))}


def test_numbers_come_in_order_of_appearance() -> None:
    plan = Plan()
    plan.apply(site())
    plan.apply(site("t"))
    assert [d.key for d in plan.devices] == ["s/d", "s/e", "t/d", "t/e"]
    assert list(numbers(plan)) == ["s/d/a", "s/d/b", "s/e/z", "t/d/a", "t/d/b", "t/e/z"]


@pytest.mark.parametrize(
    "between",
    [site(devices={"e": "q"}), site(points=("b",)), site(points=("new", "b", "a")), site(devices={"d": "q", "f": "p", "e": "p"})],
    ids=["a device leaves", "a point leaves", "a point comes first", "profiles change"],
)
def test_numbers_survive_any_change(between: SiteConfig) -> None:
    plan = Plan()
    plan.apply(site())
    before = numbers(plan)
    plan.apply(between)
    plan.apply(site())
    assert before.items() <= numbers(plan).items()
    assert [plan.devices[0].point("a"), plan.devices[0].point("b")] == [0, 1]
    again = Plan.from_snapshot(plan.snapshot())
    assert (numbers(again), again.active, again.device_number) == (numbers(plan), plan.active, plan.device_number)


def test_what_left_is_inactive_and_keeps_its_name() -> None:
    plan = Plan()
    plan.apply(site())
    plan.apply(site(devices={"e": "q"}))
    assert plan.device("s/d") is None
    assert plan.device("s/e") is not None
    assert plan.point_name(0) == "s/d/a"
    again = Plan.from_snapshot(plan.snapshot())
    assert again.device("s/d") is None
    assert again.point_name(0) == "s/d/a"
    assert again.point_spec(0) is None, "the profile is gone with the device"


def test_limits_by_number_follow_the_configuration() -> None:
    plan = Plan()
    plan.apply(site())
    columns = plan.columns
    assert (columns.low.tolist(), columns.high.tolist()) == ([0, 0, -1], [10, 10, 1])
    assert columns.rate_per_s.tolist() == [1, 1, np.inf]
    assert columns.stuck_ns.tolist() == [2_000_000_000, 2_000_000_000, 0]
    assert columns.device.tolist() == [0, 0, 1]
    plan.apply(site(low=5.0))
    assert plan.columns.low.tolist() == [5, 5, -1]


def random_site(rng: random.Random) -> SiteConfig:
    """Devices that come, go, move, change profile, and belong to others; now and then only rules differ."""
    tags = [rng.choice(["x", "y"])] if rng.random() < 0.3 else []
    areas = [AreaSpec(name="a", tags=tags), AreaSpec(name="b")]
    made = [DeviceSpec(name="row", profile="p", area=rng.choice("ab"), count=rng.randint(1, 6))]
    for name in rng.sample(["d", "e", "f", "g"], rng.randint(0, 4)):
        parent = "row-0" if rng.random() < 0.3 else None
        made.append(DeviceSpec(name=name, profile=rng.choice("pq"), area=rng.choice("ab"), parent=parent))
    points = tuple(rng.choice([["a", "b"], ["a", "b"], ["b"], ["new", "b", "a"]]))
    base = site(points=points, low=rng.choice([0.0, 1.0]))
    return base.model_copy(update={"areas": areas, "devices": made, "origin": rng.choice(["LIVE", "LIVE", "SIMULATED"])})


def seen(plan: Plan) -> Any:
    """Everything a plan says of its active devices."""
    devices = [
        (d.number, d.key, d.area, d.origin, d.parent, d.tags, list(d.points)) for d in plan.devices if d.number in plan.active
    ]
    groups = [
        (g.site, g.profile.name, g.number.tolist(), g.points.tolist(), g.areas, [d.number for d in g.devices], g.place)
        for g in plan.groups
        if g.is_active
    ]
    limits = [plan.columns.low[points].tolist() for _, _, _, points, _, _, _ in groups]
    return devices, groups, limits, {d.number for d in plan.devices if d.profile is plan.sites[d.site].profiles.get(d.profile.name)}


@pytest.mark.parametrize("seed", range(8))
def test_any_change_leaves_the_plan_that_a_restart_makes(seed: int) -> None:
    rng, plan = random.Random(seed), Plan()
    for step in range(12):
        plan.apply(site("t"))
        plan.apply(random_site(rng))
        if step % 3 == 0:
            assert plan.groups is plan.groups
        if step % 4 == 1:
            same = plan.sites["s"].model_copy(
                update={"rules": [], "profiles": {n: p.model_copy() for n, p in plan.sites["s"].profiles.items()}}
            )
            plan.apply(same)
        again = Plan.from_snapshot(plan.snapshot())
        found, want = seen(plan), seen(again)
        assert found[:3] == want[:3]
        assert plan.active <= found[3]
        assert (numbers(again), again.active) == (numbers(plan), plan.active)


def test_a_snapshot_has_the_text_that_a_configuration_was_read_from() -> None:
    plan, text = Plan(), site().canonical()
    plan.apply(parse_site(text), text)
    plan.apply(site("t"))
    saved = plan.snapshot()["sites"]
    assert saved["s"] is text
    assert saved == {name: config.canonical() for name, config in plan.sites.items()}
    assert Plan.from_snapshot(plan.snapshot()).snapshot() == plan.snapshot()
