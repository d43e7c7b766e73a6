"""Numbers of devices and points: given once, in order of appearance, never reused."""

import numpy as np
import pytest

from telemetry.plan import Plan
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, SiteConfig


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
