"""The shipped sites by hand: what is dangerous asks for its second word, and the selector at a panel wins."""

from pathlib import Path

import pytest

from app.site_files import load_site
from telemetry.plan import Plan
from telemetry.record import Event, Start
from tests.faults.command_world import World
from tests.unit.devices.test_command import at
from tests.unit.rules.test_hand import answers, asked, told

SITES = Path(__file__).parents[3] / "sites"
DANGEROUS = {
    ("pig-farm", "pigs-1/auger"), ("pig-farm", "pigs-1/slurry_pump"), ("nursery", "sun-1/blanket"), ("nursery", "sun-1/blanket_permit"),
}  # fmt: skip


def begun(site: str) -> World:
    plan = Plan()
    plan.apply(load_site(SITES / site))
    world = World(plan)
    world.run([at(0, record=Start(7)), at(0, record=Event("drained"))])
    return world


@pytest.mark.parametrize(("site", "actuator"), sorted(DANGEROUS))
def test_a_dangerous_override_waits_for_its_second_word(site: str, actuator: str) -> None:
    world, name = begun(site), f"{site}/{actuator}"
    first = world.run([asked(1, "override", name, value=1.0, seconds=600, reason="repair", id="r-1")])
    (answer,) = first.of("answer")
    assert answer.body["confirm"]["zh"]
    assert answer.body["reason"].startswith("confirm it within 60 s")
    assert not first.commands
    assert told(first, name) == []
    assert answers(world.run([asked(5, "confirm", name, author="zhao", request="r-1")]))[0][0] is False
    second = world.run([asked(9, "confirm", name, request="r-1")])
    assert answers(second) == [(True, "")]
    assert told(second, name) == [1.0]


@pytest.mark.parametrize("site", ["nursery", "pig-farm"])
def test_only_what_is_dangerous_asks_and_a_declared_program_never_gets_it(site: str) -> None:
    config = load_site(SITES / site)
    assert config.programs == ["scada"]
    found = {
        (site, f"{device.name}/{spec.name}")
        for device in config.devices
        for spec in config.profiles[device.profile].actuators
        if spec.confirm is not None and device.name in {"pigs-1", "sun-1"}
    }
    assert found == {one for one in DANGEROUS if one[0] == site}
    name = f"{site}/{min(found)[1]}"
    refused = begun(site).run([asked(1, "override", name, author="program:scada", value=1.0, seconds=60)])
    assert [accepted for accepted, _ in answers(refused)] == [False]
    plain = {"nursery": "nursery/sun-1/vent_top", "pig-farm": "pig-farm/pigs-1/medicator"}[site]
    taken = begun(site).run([asked(1, "override", plain, author="program:scada", value=1.0, seconds=60)])
    assert answers(taken) == [(True, "")]


def test_every_machine_that_shares_a_selector_is_local_with_it() -> None:
    world = begun("pig-farm")
    device = world.plan.device("pig-farm/pigs-1")
    assert device is not None
    point = next(k for k, spec in enumerate(device.profile.points) if spec.name == "scraper_selector")
    result = world.run([at(1, device=device.number, point=point, value=1.0)])
    panels = {d.subject: d.body["panel"] for d in result.of("mode") if "panel" in d.body}
    assert panels == {"pig-farm/pigs-1/scraper": "LOCAL", "pig-farm/pigs-1/scraper_back": "LOCAL"}
