"""InfluxDB for the contract suites: a real 1.6, 2.x as its source answers in front of it, and a real 2.x where one is given."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.faults.influx import Database, Second, Server, influxd, second_server, v2_front

INFLUX = ["influx-1", "influx-2-front", "influx-2"]


@pytest.fixture(scope="module")
def influx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = influxd(tmp_path_factory.mktemp("influxd"))
    if server is None:
        pytest.skip("influxd is not installed (Debian: influxdb)")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def front(influx: Server) -> Iterator[Second]:
    with v2_front(influx.url, org="org", token="secret") as url:
        yield Second(url, "org", "secret")


@pytest.fixture
def make_database(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Database]]:
    """By kind: a database with a name of its own, removed at the end, so that suites may share a server at the same time."""
    with ExitStack() as stack:

        def make(kind: str) -> Database:
            name = f"fieldloom_test_{uuid.uuid4().hex[:12]}"
            if kind == "influx-1":
                made = Database(name, request.getfixturevalue("influx").url)
            elif kind == "influx-2-front":
                second = request.getfixturevalue("front")
                made = Database(name, second.url, second)
            else:
                real = second_server()
                if real is None:
                    pytest.skip("no InfluxDB 2.x: FIELDLOOM_TEST_INFLUX_URL, _ORG and _TOKEN are not set")
                made = Database(name, real.url, real)
            stack.callback(made.drop)
            return made

        yield make


@pytest.fixture(params=INFLUX)
def database(request: pytest.FixtureRequest, make_database: Callable[[str], Database]) -> Database:
    """Each InfluxDB there is."""
    return make_database(request.param)
