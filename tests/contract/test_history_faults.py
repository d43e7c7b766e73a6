"""A history whose server is down in every way: prompt, clear, and nothing lost or doubled once it is back."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from store.history import HistoryFault, RecordRow, Series, make_rows
from store.influx_history import LINES_MAX, REPORTED_MAX, InfluxHistory
from store.influx_lines import build_lines, line_prefix
from store.influx_server import InfluxV1, InfluxV2, Refused
from tests.faults.influx import (
    Server,
    black_hole,
    free_port,
    full_backlog,
    influxd,
    no_http,
    picky,
    v2_front,
    victoria_metrics,
    wrong_answers,
)

T0 = 1_700_000_000_000
SERIES = [Series(n, "farm", f"d{n}", "air_temp_c", "C") for n in range(8)]
QUICK = {"connect_s": 0.3, "read_s": 0.5}


@pytest.fixture(scope="module")
def influx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = influxd(tmp_path_factory.mktemp("influxd"))
    if server is None:
        pytest.skip("influxd is not installed (Debian: influxdb)")
    server.start()
    yield server
    server.kill()


def v1(url: str, name: str = "faults") -> InfluxV1:
    return InfluxV1(url, name, **QUICK)


def v2(url: str, name: str = "faults") -> InfluxV2:
    return InfluxV2(url, org="org", bucket=name, token="wrong", **QUICK)


def open_history(path: Path, server: InfluxV1 | InfluxV2) -> InfluxHistory:
    history = InfluxHistory(path / "influx.sqlite", server)
    history.declare(SERIES)
    return history


def append_fails(history: InfluxHistory) -> HistoryFault:
    """Append within 5 s into a server that is down; the position must not move."""
    before = history.position()
    began = time.monotonic()
    with pytest.raises(HistoryFault) as raised:
        history.append(make_rows([0], T0, 1.0), [], before + 1)
    assert time.monotonic() - began < 5.0
    assert history.position() == before
    return raised.value


@pytest.mark.parametrize("connect", [v1, v2])
@pytest.mark.parametrize("down", [black_hole, full_backlog])
def test_silent_server_is_given_up_promptly_and_may_be_tried_again(tmp_path, connect, down):
    with down() as url:
        history = open_history(tmp_path, connect(url))
        fault = append_fails(history)
        history.close()
    assert fault.retryable
    assert "cannot be reached" in str(fault)


@pytest.mark.parametrize("connect", [v1, v2])
def test_stranger_that_speaks_no_http_is_retryable(tmp_path, connect):
    with no_http() as url:
        history = open_history(tmp_path, connect(url))
        fault = append_fails(history)
        history.close()
    assert fault.retryable
    assert "cannot be reached" in str(fault)


@pytest.mark.parametrize("connect", [v1, v2])
def test_refused_connection_is_retryable(tmp_path, connect):
    history = open_history(tmp_path, connect(f"http://127.0.0.1:{free_port()}"))
    fault = append_fails(history)
    history.close()
    assert fault.retryable
    assert "cannot be reached" in str(fault)


@pytest.mark.parametrize("connect", [v1, v2])
@pytest.mark.parametrize(
    ("status", "body", "retryable", "words"),
    [
        (200, b"<html>login</html>", True, "not as InfluxDB does"),
        (200, b"", True, "not as InfluxDB does"),
        (200, b'{"ok": true}', True, "not as InfluxDB does"),
        (204, b"", True, "not as InfluxDB does"),
        (401, b'{"error":"authorization failed"}', False, "token rejected: set FIELDLOOM_INFLUX_TOKEN"),
        (403, b"", False, "token rejected: set FIELDLOOM_INFLUX_TOKEN"),
        (404, b"page not found", False, "no such database, bucket or path: page not found"),
        (429, b"", True, "cannot answer now"),
        (500, b'{"error":"engine: cannot write"}', True, "500: engine: cannot write"),
        (503, b"", True, "cannot answer now"),
        (200, b"\xff\xfe", True, "not as InfluxDB does"),
        (302, b"", False, "refused the request"),
    ],
)
def test_wrong_answer_counts_nothing_as_written_and_says_why(tmp_path, connect, status, body, retryable, words):
    with wrong_answers(status, body) as url:
        history = open_history(tmp_path, connect(url))
        fault = append_fails(history)
        history.close()
    assert (fault.retryable, words in str(fault)) == (retryable, True), str(fault)


@pytest.mark.parametrize("connect", [v1, v2])
@pytest.mark.parametrize(("status", "body"), [(200, b"<html>login</html>"), (200, b""), (202, b"")])
def test_write_answered_by_a_stranger_is_not_stored(connect, status, body):
    """The check `influx_trusts_any_answer` removes: a proxy's login page must not pass for a stored write."""
    with wrong_answers(status, body) as url:
        server = connect(url)
        with pytest.raises(HistoryFault, match="nothing counts as written") as raised:
            server.write(b"sample value=1 1\n")
        server.close()
    assert raised.value.retryable


def test_token_and_password_never_stand_in_an_error():
    with wrong_answers(401, b"") as url:
        for server in (InfluxV1(url, "db", username="u", password="hunter2"), InfluxV2(url, org="o", bucket="b", token="hunter2")):
            with pytest.raises(HistoryFault) as raised:
                server.write(b"sample value=1 1\n")
            server.close()
            assert "hunter2" not in str(raised.value)


def test_wrong_token_at_a_server_of_the_second_kind(influx, tmp_path):
    with v2_front(influx.url, org="org", token="right") as url:
        history = open_history(tmp_path, v2(url))
        fault = append_fails(history)
        history.close()
    assert not fault.retryable
    assert "FIELDLOOM_INFLUX_TOKEN" in str(fault)


def test_unknown_organisation_is_named_with_the_setting(influx, tmp_path):
    with v2_front(influx.url, org="other", token="wrong") as url:
        history = open_history(tmp_path, v2(url))
        fault = append_fails(history)
        history.close()
    assert not fault.retryable
    assert "set FIELDLOOM_INFLUX_ORG" in str(fault)


def test_frozen_then_killed_server_loses_nothing_and_doubles_nothing(influx, tmp_path):
    history = open_history(tmp_path, v1(influx.url, "frozen"))
    record = RecordRow(0, T0 * 1_000_000, "alarm", "farm", "d0", "HOT@farm/d0", "{}")
    assert history.append(make_rows([0], T0, 1.0), [record], 0).written == 1
    with influx.frozen():
        assert append_fails(history).retryable
        assert history.records() == [record]  # decisions are there while the server is not
        with pytest.raises(HistoryFault):
            history.read(0, 0, T0 * 2, limit=10)
    assert history.append(make_rows([0], T0 + 1, 2.0), [], 1).written == 1
    influx.kill()
    assert append_fails(history).retryable
    influx.start()
    assert history.append(make_rows([0, 0], [T0 + 2, T0], [3.0, 9.0], check=True), [], 2) == (1, 0, 1, 0)
    assert history.read(0, 0, T0 * 2, limit=10).value.tolist() == [1.0, 2.0, 3.0]
    history.close()


class DiesAfterWriting(InfluxV1):
    """The process ends between the server's 204 and the commit of the position."""

    def write(self, lines: bytes) -> None:
        super().write(lines)
        raise KeyboardInterrupt


@pytest.mark.parametrize("check", [False, True])
def test_crash_between_samples_and_position_is_repeated_without_a_trace(influx, tmp_path, check):
    name = f"crash_{check}"
    rows = make_rows([0, 1, 0], [T0, T0, T0 + 1], [1.0, 2.0, 3.0], check=check)
    record = RecordRow(0, T0 * 1_000_000, "alarm", "farm", "d0", "HOT@farm/d0", "{}")
    dying = open_history(tmp_path, DiesAfterWriting(influx.url, name))
    with pytest.raises(KeyboardInterrupt):
        dying.append(rows, [record], 0)
    dying.close()
    again = open_history(tmp_path, v1(influx.url, name))
    assert again.position() == -1
    assert again.records() == []
    again.append(rows, [record], 0)
    assert (again.count(), again.records(), again.position()) == (3, [record], 0)
    again.close()


def test_dropped_database_is_made_again(influx, tmp_path):
    history = open_history(tmp_path, v1(influx.url, "dropped"))
    history.append(make_rows([0], T0, 1.0), [], 0)
    with urllib3.PoolManager() as pool:
        pool.request("POST", f"{influx.url}/query", fields={"q": "DROP DATABASE dropped"}, encode_multipart=False)
    assert "no such database" in str(append_fails(history))
    assert history.append(make_rows([0], T0 + 1, 1.0), [], 1).written == 1
    history.close()


def poison(influx: Server, name: str, ts_ms: int) -> None:
    """Make the week of `ts_ms` hold `value` as a string, so that numbers are refused there."""
    with urllib3.PoolManager() as pool:
        pool.request("POST", f"{influx.url}/query", fields={"q": f"CREATE DATABASE {name}"}, encode_multipart=False)
        line = f'sample,site=x,device=x,point=x value="text" {ts_ms}'
        answer = pool.request("POST", f"{influx.url}/write?db={name}&precision=ms", body=line.encode())
        assert answer.status == 204


def test_rows_the_server_never_takes_are_set_aside_and_reported_once(influx, tmp_path):
    month = 31 * 86_400_000
    poison(influx, "poisoned", T0)
    history = open_history(tmp_path, v1(influx.url, "poisoned"))
    rows = make_rows([0, 1, 2, 3], [T0 + month, T0, T0 + month, T0 + 1], [1.0, 2.0, 3.0, 4.0])
    assert history.append(rows, [], 0) == (2, 0, 0, 2)
    assert history.read(0, 0, T0 * 2, limit=9).value.tolist() == [1.0]
    reports = history.records(kind="fault", subject="history")
    assert [(r.device, r.time_ms) for r in reports] == [("d3", T0 + 1), ("d1", T0)]
    assert "field type conflict" in reports[0].body
    assert history.position() == 0
    history.close()


def test_row_of_an_undeclared_point_is_reported_and_stops_nobody(influx, tmp_path):
    history = open_history(tmp_path, v1(influx.url, "undeclared"))
    assert history.append(make_rows([0, 77], T0, 1.0), [], 0) == (1, 0, 0, 1)
    assert "no series is declared" in history.records(kind="fault")[0].body
    assert history.append(make_rows([77], T0, 1.0, check=True), [], 1) == (0, 0, 0, 1)
    history.close()


def test_thousands_of_refused_rows_need_few_requests_and_few_reports(influx, tmp_path):
    poison(influx, "flooded", T0)
    history = open_history(tmp_path, v1(influx.url, "flooded"))
    n = LINES_MAX + 1
    began = time.monotonic()
    assert history.append(make_rows([0] * n, range(T0, T0 + n), 1.0), [], 0) == (0, 0, 0, n)
    assert time.monotonic() - began < 5.0
    assert len(history.records(kind="fault")) == REPORTED_MAX
    history.close()


def test_batch_too_large_for_the_server_is_halved_until_it_fits(influx, tmp_path):
    with picky(influx.url, lines_max=300) as url:
        history = open_history(tmp_path, InfluxV1(url, "picky"))
        assert history.append(make_rows([0] * 1000, range(T0, T0 + 1000), 1.0), [], 0).written == 1000
        history.close()
    with picky(influx.url, lines_max=0) as url:
        history = InfluxHistory(tmp_path / "influx.sqlite", InfluxV1(url, "picky"))
        assert history.append(make_rows([0] * 3, range(T0, T0 + 3), 1.0), [], 1).rejected == 3
        history.close()


def test_write_of_influxdb_client_is_read_back_from_victoria_metrics(tmp_path):
    server = victoria_metrics(tmp_path / "vm")
    if server is None:
        pytest.skip("victoria-metrics is not installed")
    server.start()
    try:
        link = InfluxV2(server.url, org="org", bucket="bucket", token="any")
        rows = make_rows([0, 1], [T0, T0 + 5], [21.5, -3.25], [0, 2])
        link.write(build_lines(rows, {row.number: line_prefix(row) for row in SERIES}).text)
        link.close()
        with urllib3.PoolManager() as pool:
            flush = pool.request("GET", f"{server.url}/internal/force_flush")
            assert flush.status == 200
            exported = pool.request("GET", f"{server.url}/api/v1/export", fields={"match[]": '{__name__=~"sample_.*"}'})
            lines = sorted(map(parse, exported.data.splitlines()))
    finally:
        server.kill()
    assert lines == [
        ("sample_quality", "d0", [0], [T0]),
        ("sample_quality", "d1", [2], [T0 + 5]),
        ("sample_value", "d0", [21.5], [T0]),
        ("sample_value", "d1", [-3.25], [T0 + 5]),
    ]


def parse(line: bytes) -> tuple[str, str, list[float], list[int]]:
    series = json.loads(line)
    return series["metric"]["__name__"], series["metric"]["device"], series["values"], series["timestamps"]


def test_line_no_server_of_the_first_kind_can_parse_is_refused(influx):
    server = v1(influx.url, "parse")
    server.prepare()
    with pytest.raises(Refused, match="unable to parse"):
        server.write(b"sample,site=a value=oops 1\n")
    server.close()
