"""The API's history over DuckDB and over a real InfluxDB 1.6: however few points are asked for, no spike is lost and none is invented."""

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from api.application import make_app
from api.routes.history import TIME_MAX_MS
from store.history import History, make_rows
from store.influx_history import InfluxHistory
from store.influx_server import InfluxV1
from telemetry.quality import BAD
from tests.faults.influx import influxd
from tests.faults.web_world import START_NS, World, make_world

ROWS = 50_000
STEP_MS = 1_000
BEGIN_MS = START_NS // 1_000_000 - ROWS * STEP_MS
PATH = "/api/v1/sites/north/devices/house-0/points/air_temp_c/history"
SEED = 11


@pytest.fixture(scope="module")
def influx_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = influxd(tmp_path_factory.mktemp("influxd"))
    if server is None:
        pytest.skip("influxd is not installed (Debian: influxdb)")
    server.start()
    yield server.url
    server.kill()


@pytest.fixture(params=["duckdb", "influx-1"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    history: History | None = None
    if request.param == "influx-1":
        history = InfluxHistory(tmp_path / "influx.sqlite", InfluxV1(request.getfixturevalue("influx_url"), tmp_path.name))
    made = make_world(tmp_path, history)
    yield made
    made.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {world.token('ann', 'viewer', None)}"}
    transport = httpx.ASGITransport(make_app(world.parts))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers) as made:
        yield made


def fill_with_spikes(world: World) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(times in ms, values): noise of 1, and spikes of one sample up and down, at edges too."""
    random = np.random.default_rng(SEED)
    values = 20 + random.uniform(-1, 1, ROWS)
    places = np.unique(np.concatenate([random.integers(0, ROWS, 40), [0, 1, ROWS - 2, ROWS - 1]]))
    values[places] = np.where(np.arange(len(places)) % 2, 55.0, -25.0) + np.arange(len(places)) / 100
    times = BEGIN_MS + STEP_MS * np.arange(ROWS)
    device = world.parts.state.plan.device("north/house-0")
    assert device is not None
    rows = make_rows(np.full(ROWS, device.point("air_temp_c")), times, values)
    world.parts.history.append(rows, [], world.parts.history.position() + 1)
    return times, values


async def test_every_spike_survives_every_number_of_points_and_every_range(world: World, client: httpx.AsyncClient) -> None:
    times, values = fill_with_spikes(world)
    end = int(times[-1]) + 1
    ranges = [
        (int(times[0]), end),
        (int(times[137]) + 3, int(times[-501]) + 7),
        (int(times[20_000]), int(times[20_003])),
        (0, end),
        (0, TIME_MAX_MS),
    ]
    for (start, stop), points in itertools.product(ranges, (1, 2, 7, 100, 1000, 5000)):
        answer = await client.get(PATH, params={"start_ms": start, "end_ms": stop, "points": points})
        assert answer.status_code == 200, answer.text
        found = answer.json()
        inside = (times >= start) & (times < stop)
        if found["samples"] is not None:
            assert [s["value"] for s in found["samples"]] == values[inside].tolist()
            continue
        buckets = found["buckets"]
        assert len(buckets) <= points
        assert sum(b["count"] for b in buckets) == np.count_nonzero(inside)
        owner = (times[inside] - start) // found["bucket_ms"]
        for bucket in buckets:
            mine = values[inside][owner == (bucket["t_ms"] - start) // found["bucket_ms"]]
            assert (bucket["min"], bucket["max"]) == (mine.min(), mine.max()), (start, stop, points, bucket)
            assert (bucket["first"], bucket["last"]) == (mine[0], mine[-1])


async def test_bad_sample_takes_part_and_is_marked(world: World, client: httpx.AsyncClient) -> None:
    device = world.parts.state.plan.device("north/house-0")
    assert device is not None
    times = BEGIN_MS + STEP_MS * np.arange(100)
    values = np.where(np.arange(100) == 50, 999.0, 20.0)
    rows = make_rows(np.full(100, device.point("air_temp_c")), times, values, np.where(values > 60, BAD, 0))
    world.parts.history.append(rows, [], world.parts.history.position() + 1)
    query = {"start_ms": BEGIN_MS, "end_ms": int(times[-1]) + 1, "points": 3}
    buckets = (await client.get(PATH, params=query)).json()["buckets"]
    assert [(b["max"], b["bad"]) for b in buckets] == [(20.0, 0), (999.0, 1), (20.0, 0)]
