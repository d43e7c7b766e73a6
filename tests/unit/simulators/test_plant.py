"""Every kind of plant keeps to the interface of houses, and stands behind its profile whole."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from simulators.device import Options
from simulators.fault import GENERAL
from simulators.fleet import DEMO_START_S, build_world
from simulators.plant import PLANTS
from simulators.sensor import LIBRARY
from simulators.world import Group
from telemetry.site import SiteConfig

PROFILES = Path(__file__).parents[3] / "devices" / "profiles"
HOUSES = 3
# What somebody does at a door, of which a plant knows nothing; a pen that fattening pigs have not.
ABSENT = {"badge_no", "disinfected_bool", "bin_lid_open_bool", "gate_open_bool", "creep_temp_c"}


@cache
def document(profile: str) -> Any:
    return yaml.safe_load((PROFILES / f"{profile}.yaml").read_text(encoding="utf-8"))


def site(profile: str, count: int = HOUSES) -> SiteConfig:
    return SiteConfig.model_validate(
        {
            "site": "s", "areas": [{"name": "a"}], "origin": "SIMULATED",
            "profiles": {profile: document(profile)},
            "devices": [{"name": "d", "profile": profile, "area": "a", "count": count}],
        }
    )  # fmt: skip


def group_of(profile: str, count: int = HOUSES) -> Group:
    world = build_world(site(profile, count), seed=1, options=Options(boot=1, plant_start_s=DEMO_START_S))
    world.advance_to(DEMO_START_S + 120)
    return world.groups[0]


@pytest.mark.parametrize("profile", sorted(PLANTS))
def test_every_measured_point_of_the_profile_says_something_inside_its_range(profile):
    group = group_of(profile)
    assert profile == group.houses.PROFILE
    values = group.read()
    assert {spec.name for spec in group.points if np.isnan(values[group.rows[spec.name]]).any()} <= ABSENT
    outside = [
        (spec.name, values[group.rows[spec.name]].tolist())
        for spec in group.points
        if spec.name not in ABSENT
        and not ((spec.low <= values[group.rows[spec.name]]) & (values[group.rows[spec.name]] <= spec.high)).all()
    ]
    assert outside == []


@pytest.mark.parametrize("profile", sorted(PLANTS))
def test_instruments_are_those_of_the_library_and_faults_have_names_of_their_own(profile):
    houses = group_of(profile, 1).houses
    assert set(houses.SENSORS.values()) <= set(LIBRARY)
    assert PLANTS[profile].faults == houses.FAULTS
    assert not set(houses.FAULTS) & set(GENERAL)
    assert all(fault.text for fault in houses.FAULTS.values())


@pytest.mark.parametrize("profile", sorted(PLANTS))
def test_one_house_of_many_lives_as_it_does_alone_through_faults_of_others(profile):
    many, alone = group_of(profile), group_of(profile, 1)
    names = list(many.houses.FAULTS)
    many.houses.fail(HOUSES - 1, names[0], many.houses.FAULTS[names[0]].usual)
    drives = np.random.default_rng(1).random(len(many.profile.actuators))
    for number, spec in enumerate(many.profile.actuators):
        target = spec.low + drives[number] * (spec.high - spec.low) if spec.kind == "position" else spec.high
        many.drives.command(target, (number, 0))
        alone.drives.command(target, (number, 0))
    for group in (many, alone):
        group.advance(DEMO_START_S + 900)
    assert many.read()[:, 0].tolist() == pytest.approx(alone.read()[:, 0].tolist(), abs=0, nan_ok=True)


@pytest.mark.parametrize("profile", sorted(PLANTS))
def test_orders_of_the_panel_are_for_drives_that_there_are_in_their_ranges(profile):
    group = group_of(profile)
    specs = {spec.name: spec for spec in group.profile.actuators}
    for orders in (group.houses.local(), group.houses.interlock()):
        for name, targets in orders.items():
            finite = targets[np.isfinite(targets)]
            assert targets.shape == (HOUSES,)
            assert ((specs[name].low <= finite) & (finite <= specs[name].high)).all()
