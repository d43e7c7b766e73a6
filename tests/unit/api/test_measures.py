"""Measures and the comparison with a shadow rule over the API, from what was journaled."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.application import make_app
from telemetry.site import SiteConfig
from tests.faults.web_world import START_NS, World, config_record, make_world, site

START_MS = START_NS // 1_000_000
MEASURES = "/sites/north/alarms/measures"
SHADOW = "/sites/north/rules/HOT/shadow"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = make_world(tmp_path)  # one second after START_NS
    yield made
    made.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {world.token('ann', 'viewer', ['north'])}"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(make_app(world.parts)), base_url="http://testserver/api/v1", headers=headers
    ) as made:
        yield made


def says(world: World, event: str, before: str, after: str, *, kind: str = "alarm", after_s: float = 10, **more: Any) -> int:
    """One change of HOT at house-0; its time [ms]."""
    body = {"event": event, "from": before, "to": after, "priority": "P2", "area": "ms", **more}
    world.write(decisions=[(kind, "HOT@north/house-0", body)], after_s=after_s)
    return world.writer.now_ns // 1_000_000


async def test_measures_of_the_last_day_by_default(world: World, client: httpx.AsyncClient) -> None:
    raised_ms = says(world, "raise", "NORM", "UNACK")
    says(world, "acknowledge", "UNACK", "ACKED", author="li", after_s=25)
    world.write(decisions=[("alarm", "HOT@south/house-0", {"event": "raise", "from": "NORM", "to": "UNACK", "area": "ms"})])
    found = (await client.get(MEASURES)).json()
    assert (found["site"], found["end_ms"] - found["start_ms"]) == ("north", 86_400_000)
    assert found["history_position"] == world.parts.history.position()
    whole = found["whole"]
    assert (whole["raised"], whole["per_day"], whole["peak_rate"], whole["peak_ms"]) == (1, 1.0, 1, raised_ms)
    assert whole["average_rate"] == pytest.approx(1 / 144)
    assert (whole["standing"], whole["stale"], whole["chattering"]) == (1, [], [])
    assert whole["frequent"] == [{"subject": "HOT@north/house-0", "count": 1, "share": 1.0}]
    assert whole["acknowledged"] == {"count": 1, "median_s": 25.0, "p90_s": 25.0}
    assert whole["by_operator"] == {"li": {"count": 1, "median_s": 25.0, "p90_s": 25.0}}
    assert whole["by_priority"]["P1"] == {"count": 0, "median_s": None, "p90_s": None}
    assert whole["mix"][1] == {"level": "medium", "priorities": ["P2"], "count": 1, "share": 1.0, "target": 0.15}
    assert [area.pop("area") for area in found["areas"]] == ["ms"]
    assert found["areas"] == [whole]


async def test_a_flood_is_time_of_its_area(world: World, client: httpx.AsyncClient) -> None:
    world.write(decisions=[("flood", "north/ms", {"from": "NORM", "to": "UNACK", "event": "raise", "count": 11})])
    world.write(decisions=[("flood", "north/ms", {"from": "UNACK", "to": "NORM", "event": "clear", "count": 14})], after_s=90)
    found = (await client.get(MEASURES)).json()
    assert [(part["flood_s"], part["floods"]) for part in (found["whole"], *found["areas"])] == [(90.0, 1)] * 2


async def test_what_stood_before_the_range_and_still_stands_is_stale(world: World, client: httpx.AsyncClient) -> None:
    raised_ms = says(world, "raise", "NORM", "UNACK")
    says(world, "comment", "UNACK", "UNACK", author="li", text="still there")
    world.clock.advance(9 * 86_400 * 1_000_000_000)  # the change is older than what is looked back
    client.headers["Authorization"] = f"Bearer {world.token('ann', 'viewer', ['north'])}"
    whole = (await client.get(MEASURES)).json()["whole"]
    assert (whole["raised"], whole["standing"]) == (0, 1)
    assert whole["stale"] == [{"subject": "HOT@north/house-0", "since_ms": raised_ms}]


@pytest.mark.parametrize("path", [MEASURES, SHADOW])
@pytest.mark.parametrize(
    "query",
    [
        {"start_ms": START_MS, "end_ms": START_MS}, {"start_ms": START_MS + 10**9}, {"start_ms": 0, "end_ms": START_MS},
        {"start_ms": -1}, {"end_ms": "x"}, {"end_ms": 0},
    ],
)  # fmt: skip
async def test_an_impossible_range_is_422_with_its_field(client: httpx.AsyncClient, path: str, query: dict[str, Any]) -> None:
    answer = await client.get(path, params=query)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"].startswith("query.")


async def test_measures_end_now_at_the_latest(world: World, client: httpx.AsyncClient) -> None:
    found = (await client.get(MEASURES, params={"start_ms": START_MS, "end_ms": 1 << 50})).json()
    assert found["end_ms"] == world.parts.now_ms() + 1


def shadowed() -> SiteConfig:
    config = site("north").model_dump(mode="json")
    config["rules"].append({**config["rules"][0], "version": 2, "shadow": True})
    return SiteConfig.model_validate(config)


async def test_a_shadow_stands_beside_the_rule_of_its_name(world: World, client: httpx.AsyncClient) -> None:
    world.write(records=[config_record(shadowed())])
    begins = [says(world, "raise", "NORM", "UNACK"), says(world, "raise", "NORM", "UNACK", kind="shadow")]
    ends = [says(world, "clear", "UNACK", "RTNUN"), says(world, "clear", "UNACK", "RTNUN", kind="shadow", after_s=20)]
    again_ms = says(world, "raise", "RTNUN", "UNACK", kind="shadow")
    vent, demand = "north/house-0/roof_vent", {"rule": "HOT", "rule_version": 2, "bound": "value"}
    own = {"source": "HOT@north/house-0", "bound": "at_least", "level": 6, "value": 40.0, "reason": "hot"}
    manual = {"source": "wang", "bound": "value", "level": 4, "value": 70.0, "reason": "x"}
    world.write(decisions=[("demand", vent, {"value": 40.0, "winner": own, "losers": []}),
                           ("shadow_demand", vent, {**demand, "value": 60.0}),
                           ("shadow_demand", "north/house-1/roof_vent", {**demand, "rule": "OTHER", "value": 60.0})])  # fmt: skip
    world.write(decisions=[("demand", vent, {"value": 70.0, "winner": manual, "losers": [own]})])
    world.write(decisions=[("shadow_demand", vent, {**demand, "value": None})])
    found = (await client.get(SHADOW)).json()
    assert [found[name] for name in ("both", "only_real", "only_shadow")] == [1, 0, 1]
    assert found["real"] == {"alarms": 1, "on_s": 20.0, "version": 1}
    on_s = 30.0 + (found["end_ms"] - again_ms) / 1000
    assert found["shadow"] == {"alarms": 2, "on_s": pytest.approx(on_s), "version": 2}
    assert [(one["by"], one["real"], one["shadow"]) for one in found["episodes"]] == [
        ("shadow", [], [[again_ms, found["end_ms"]]]),
        ("both", [[begins[0], ends[0]]], [[begins[1], ends[1]]]),
    ]
    real, hypothetical = {"bound": "at_least", "value": 40.0}, {"bound": "value", "value": 60.0}
    assert [(one["actuator"], one["real"], one["shadow"], one["told"]) for one in found["demands"]] == [
        (vent, real, None, 70.0), (vent, real, hypothetical, 40.0), (vent, real, None, 40.0),
    ]  # fmt: skip
    assert found["standing"] == ["HOT@north/house-0"]


async def test_demands_before_the_range_are_known_in_it(world: World, client: httpx.AsyncClient) -> None:
    world.write(records=[config_record(shadowed())])
    own = {"source": "HOT@north/house-0", "bound": "value", "level": 6, "value": 40.0, "reason": "hot"}
    world.write(decisions=[("demand", "north/house-0/roof_vent", {"value": 40.0, "winner": own, "losers": []})])
    body = {"rule": "HOT", "bound": "value", "value": 60.0}
    world.write(decisions=[("shadow_demand", "north/house-0/roof_vent", body)], after_s=60)
    [step] = (await client.get(SHADOW, params={"start_ms": world.writer.now_ns // 1_000_000 - 1000})).json()["demands"]
    assert (step["real"], step["shadow"], step["told"]) == (
        {"bound": "value", "value": 40.0},
        {"bound": "value", "value": 60.0},
        40.0,
    )


async def test_a_rule_that_is_none_is_404_and_one_without_a_shadow_is_compared_with_nothing(client: httpx.AsyncClient) -> None:
    assert (await client.get("/sites/north/rules/COLD/shadow")).status_code == 404
    found = (await client.get(SHADOW)).json()
    assert (found["real"]["version"], found["shadow"]["version"]) == (1, None)
    assert (found["episodes"], found["demands"], found["standing"]) == ([], [], [])
