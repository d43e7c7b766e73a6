"""The biosecurity log: badges at doors, out of the history of their points."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from api.application import make_app
from api.routes.entries import badges_shown
from store.history import make_rows
from telemetry.quality import BAD
from tests.faults.web_world import START_NS, World, config_record, make_world, site

NAMES = ("badge_no", "entry_in_bool", "pig_free_h", "disinfected_bool")
START_MS = START_NS // 10**6


def door() -> Any:
    config = site("north").model_dump(exclude={"zone_offsets"})
    config["profiles"]["house"]["points"] += [{"name": name, "unit": "1", "low": 0, "high": 1e6} for name in NAMES]
    return type(site("north")).model_validate(config)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = make_world(tmp_path)
    made.write(records=[config_record(door())])
    yield made
    made.close()


def client(world: World, sites: list[str] | None = None) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {world.token('ann', 'viewer', sites)}"}
    transport = httpx.ASGITransport(make_app(world.parts))
    return httpx.AsyncClient(transport=transport, base_url="http://testserver/api/v1", headers=headers)


def shows(world: World, device: str, *values: float, after_s: float = 60.0) -> None:
    world.write(frames=[(f"north/{device}", dict(zip(NAMES, values, strict=False)), 0.0)], after_s=after_s)


async def test_entries_tell_who_which_way_and_how_long_after_other_pigs(world: World) -> None:
    shows(world, "house-0", 0, 0, 0, 0)
    shows(world, "house-0", 1001, 1, 72, 1)
    shows(world, "house-0", 1001)  # a heartbeat is no second entry
    shows(world, "house-0", 0)
    shows(world, "house-1", 7, 1, 5, 0)
    shows(world, "house-0", 1001, 0, 72, 1)
    async with client(world) as http:
        answer = (await http.get("/sites/north/entries", params={"start_ms": START_MS})).json()
        cut = (await http.get("/sites/north/entries", params={"start_ms": START_MS, "limit": 1})).json()
        later = (await http.get("/sites/north/entries", params={"start_ms": answer["items"][2]["t_ms"] + 1})).json()
    told = [(e["device"], e["badge"], e["is_in"], e["pig_free_h"], e["disinfected"]) for e in answer["items"]]
    assert told == [("house-0", 1001, False, None, True), ("house-1", 7, True, 5.0, False), ("house-0", 1001, True, 72.0, True)]
    assert answer["is_whole"]
    assert (len(cut["items"]), cut["is_whole"]) == (1, False)
    assert [e["badge"] for e in later["items"]] == [1001, 7]  # who stood at the door before comes in no second time


async def test_a_terminal_that_tells_the_badge_alone_leaves_the_rest_open(world: World) -> None:
    shows(world, "house-0", 1001)
    async with client(world) as http:
        (entry,) = (await http.get("/sites/north/entries", params={"start_ms": START_MS})).json()["items"]
    assert (entry["is_in"], entry["pig_free_h"], entry["disinfected"]) == (None, None, None)


async def test_what_is_not_there_or_not_to_be_seen(world: World) -> None:
    async with client(world, ["south"]) as http:
        assert (await http.get("/sites/north/entries")).status_code == 404
        assert (await http.get("/sites/south/entries")).json() == {"items": [], "is_whole": True}  # no door with a reader
        wrong = await http.get("/sites/south/entries", params={"start_ms": 5, "end_ms": 5})
    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (422, "query.start_ms")


def test_bad_samples_are_no_badge() -> None:
    rows = make_rows([1] * 5, np.arange(5), [5.0, 6.0, np.nan, 5.0, 0.0], [0, BAD, 0, 0, 0])
    assert badges_shown(rows, 0.0) == [(0, 5)]
    assert badges_shown(rows, 5.0) == []
