"""A history whose server is down in every way: prompt, clear, and nothing lost or doubled once it is back."""

import json
import re
import time
from pathlib import Path

import pytest
import urllib3
from influxdb_client import InfluxDBClient

from store.history import HistoryFault, QueryLimit, RecordRow, Series, make_rows
from store.influx_history import LINES_MAX, REPORTED_MAX, InfluxHistory
from store.influx_lines import build_lines, line_prefix
from store.influx_server import WAIT_S_MAX, InfluxServer, InfluxV1, InfluxV2, Refused
from tests.contract.conftest import INFLUX
from tests.faults.influx import (
    ORG_ID,
    Database,
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


def v1(url: str, name: str = "faults") -> InfluxV1:
    return InfluxV1(url, name, **QUICK)


def v2(url: str, name: str = "faults") -> InfluxV2:
    return InfluxV2(url, org="org", bucket=name, token="wrong", **QUICK)


def open_history(path: Path, server: InfluxServer) -> InfluxHistory:
    history = InfluxHistory(path / "influx.sqlite", server)
    history.declare(SERIES)
    return history


def append_fails(history: InfluxHistory) -> HistoryFault:
    """Append within 15 s into a server that is down; the position must not move."""
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
    assert history.append(make_rows([0, 0], [T0 + 2, T0], [3.0, 9.0]), [], 2) == (1, 0, 1, 0)
    assert history.read(0, 0, T0 * 2, limit=10).value.tolist() == [1.0, 2.0, 3.0]
    history.close()


def die_after_writing(server: InfluxServer) -> InfluxServer:
    """The process ends between the server's 204 and the commit of the position."""
    write = server.write

    def write_and_die(lines: bytes) -> None:
        write(lines)
        raise KeyboardInterrupt

    server.write = write_and_die  # type: ignore[method-assign]
    return server


def test_crash_between_samples_and_position_is_repeated_without_a_trace(database, tmp_path):
    rows = make_rows([0, 1, 0], [T0, T0, T0 + 1], [1.0, 2.0, 3.0])
    record = RecordRow(0, T0 * 1_000_000, "alarm", "farm", "d0", "HOT@farm/d0", "{}")
    dying = open_history(tmp_path, die_after_writing(database.connect()))
    with pytest.raises(KeyboardInterrupt):
        dying.append(rows, [record], 0)
    dying.close()
    again = open_history(tmp_path, database.connect())
    assert again.position() == -1
    assert again.records() == []
    again.append(rows, [record], 0)
    assert (again.count(), again.records(), again.position()) == (3, [record], 0)
    again.close()


def test_dropped_database_is_made_again(database, tmp_path):
    history = open_history(tmp_path, database.connect())
    history.append(make_rows([0], T0, 1.0), [], 0)
    database.drop()
    assert re.search("no such database|database not found", str(append_fails(history)))
    assert history.append(make_rows([0], T0 + 1, 1.0), [], 1).written == 1
    assert history.read(0, 0, T0 * 2, limit=9).ts_ms.tolist() == [T0 + 1]
    history.close()


def poison(database: Database, ts_ms: int) -> None:
    """Make the week of `ts_ms` hold `value` as a string, so that numbers are refused there."""
    server = database.connect()
    server.prepare()
    server.write(f'sample,site=x,device=x,point=x value="text" {ts_ms}\n'.encode())
    server.close()


def test_rows_the_server_never_takes_are_set_aside_and_reported_once(database, tmp_path):
    month = 31 * 86_400_000
    poison(database, T0)
    history = open_history(tmp_path, database.connect())
    rows = make_rows([0, 1, 2, 3], [T0 + month, T0, T0 + month, T0 + 1], [1.0, 2.0, 3.0, 4.0])
    assert history.append(rows, [], 0) == (2, 0, 0, 2)
    assert history.read(0, 0, T0 * 2, limit=9).value.tolist() == [1.0]
    reports = history.records(kind="fault", subject="history")
    assert [(r.device, r.time_ms) for r in reports] == [("d3", T0 + 1), ("d1", T0)]
    assert "field type conflict" in reports[0].body
    assert history.position() == 0
    history.close()


def test_samples_older_than_the_servers_own_retention_are_reported_and_the_others_stored(database, tmp_path):
    database.make(keep_s=3600)
    history = open_history(tmp_path, database.connect())
    now_ms = time.time_ns() // 1_000_000
    assert history.append(make_rows([0, 0, 1], [T0, now_ms, T0], [1.0, 2.0, 3.0]), [], 0) == (1, 0, 0, 2)
    assert history.read(0, 0, now_ms + 1, limit=9).value.tolist() == [2.0]
    assert ["retention policy" in row.body for row in history.records(kind="fault")] == [True, True]
    history.close()


def test_row_of_an_undeclared_point_is_reported_and_stops_nobody(database, tmp_path):
    history = open_history(tmp_path, database.connect())
    assert history.append(make_rows([0, 77], T0, 1.0), [], 0) == (1, 0, 0, 1)
    assert "no series is declared" in history.records(kind="fault")[0].body
    assert history.append(make_rows([77], T0, 1.0), [], 1) == (0, 0, 0, 1)
    history.close()


@pytest.mark.alone
def test_thousands_of_refused_rows_need_few_requests_and_few_reports(database, tmp_path):
    poison(database, T0)
    history = open_history(tmp_path, database.connect())
    n = LINES_MAX + 1
    began = time.monotonic()
    assert history.append(make_rows([0] * n, range(T0, T0 + n), 1.0), [], 0) == (0, 0, 0, n)
    assert time.monotonic() - began < 5.0
    assert len(history.records(kind="fault")) == REPORTED_MAX
    history.close()


def test_failed_statement_is_told_with_its_own_reason(database, tmp_path):
    history = open_history(tmp_path, server := database.connect())
    history.append(make_rows([0], T0, 1.0), [], 0)
    good, bad = "SELECT value FROM sample", "SELECT nonsense(value) FROM sample"
    for statements in ([bad], [bad, good], [good, bad], [good, bad, good]):
        with pytest.raises(HistoryFault, match="undefined function nonsense"):
            server.query(statements)
    assert [len(tables) for tables in server.query([good, good])] == [1, 1]
    history.close()


def test_line_that_cannot_be_parsed_is_refused_for_good(database):
    server = database.connect()
    server.prepare()
    with pytest.raises(Refused, match="unable to parse"):
        server.write(b"sample,site=a value=oops 1\n")
    with pytest.raises(Refused, match="time"):
        server.write(b"sample,site=a value=1 9300000000000\n")  # behind 2262, what ns in an int64 can tell
    server.close()


@pytest.mark.parametrize("kind", INFLUX[1:])
@pytest.mark.parametrize("suffix", ["", "/raw", "/a/b", ".x-1 温室"])
def test_bucket_of_any_name_is_written_and_read(make_database, tmp_path, kind, suffix):
    database = make_database(kind)
    named = database._replace(name=database.name + suffix)
    history = open_history(tmp_path, named.connect())
    try:
        assert history.append(make_rows([0, 1], T0, [1.0, 2.0]), [], 0).written == 2
        assert (history.count(), history.read(1, 0, T0 * 2, limit=9).value.tolist()) == (2, [2.0])
    finally:
        history.close()
        named.drop()


@pytest.mark.parametrize("kind", INFLUX[1:])
def test_organisation_is_known_by_its_id_too(make_database, tmp_path, kind):
    database = make_database(kind)
    second = database.second
    with InfluxDBClient(url=second.url, org=second.org, token=second.token) as client:
        org_id = client.organizations_api().find_organizations(org=second.org)[0].id
    history = open_history(tmp_path, database._replace(second=second._replace(org=org_id)).connect())
    history.append(make_rows([0], T0, 1.0), [], 0)
    history.delete_before(T0)
    assert history.count() == 1
    history.close()


@pytest.mark.parametrize("kind", INFLUX[1:])
@pytest.mark.parametrize(("wrong", "words"), [("token", "set FIELDLOOM_INFLUX_TOKEN"), ("org", "set FIELDLOOM_INFLUX_ORG")])
def test_wrong_token_and_organisation_are_told_with_the_setting(make_database, tmp_path, kind, wrong, words):
    database = make_database(kind)
    history = open_history(tmp_path, database._replace(second=database.second._replace(**{wrong: "no-such-bucket-here"})).connect())
    fault = append_fails(history)
    history.close()
    assert not fault.retryable
    assert words in str(fault)
    assert database.second.token not in str(fault)


def test_server_that_does_not_map_buckets_by_itself_is_told_the_mapping(influx, tmp_path):
    with v2_front(influx.url, org="org", token="t", maps_by_itself=False) as url:
        for path in (tmp_path / "1", tmp_path / "2"):  # the mapping is there the second time
            history = open_history(path, InfluxV2(url, org="org", bucket="old", token="t"))
            history.append(make_rows([0], T0, 1.0), [], 0)
            assert history.count() == 1
            history.close()


def test_mapping_to_another_bucket_is_refused_before_anything_is_read_or_written(influx, tmp_path):
    with v2_front(influx.url, org="org", token="t") as url:
        with InfluxDBClient(url=url, org="org", token="t") as client:
            other = client.buckets_api().create_bucket(bucket_name="other")
        mapping = {"orgID": ORG_ID, "bucketID": other.id, "database": "mine", "retention_policy": "autogen", "default": True}
        with urllib3.PoolManager() as pool:
            headers = {"Authorization": "Token t"}
            assert pool.request("POST", f"{url}/api/v2/dbrps", json=mapping, headers=headers).status == 201
        history = open_history(tmp_path, InfluxV2(url, org="org", bucket="mine", token="t"))
        fault = append_fails(history)
        history.close()
    assert not fault.retryable
    assert "mine/autogen is mapped to another bucket than 'mine'" in str(fault)


@pytest.mark.parametrize("connect", [v1, v2])
@pytest.mark.parametrize(
    ("header", "wait_s"), [("7", 7.0), ("100000", WAIT_S_MAX), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), (None, 0.0)]
)
@pytest.mark.parametrize("status", [429, 503])
def test_patience_that_the_server_asks_for_is_told(tmp_path, connect, header, wait_s, status):
    with wrong_answers(status, b"", {} if header is None else {"Retry-After": header}) as url:
        server = connect(url)
        for call in (server.prepare, lambda: server.write(b"sample value=1 1\n"), lambda: server.query(["SELECT 1"])):
            with pytest.raises(HistoryFault) as raised:
                call()
            assert (raised.value.retryable, raised.value.wait_s) == (True, wait_s)
        server.close()


def test_answer_that_the_server_cut_off_is_not_taken_for_a_whole_one(tmp_path):
    server = influxd(tmp_path / "influxd", rows_max=10)
    if server is None:
        pytest.skip("influxd is not installed (Debian: influxdb)")
    server.start()
    try:
        history = open_history(tmp_path, v1(server.url))
        history.append(make_rows([0] * 20, range(T0, T0 + 20), 1.0), [], 0)
        assert len(history.read(0, T0, T0 + 5, limit=100)) == 5
        with pytest.raises(QueryLimit, match="max-row-limit = 0"):
            history.read(0, 0, T0 * 2, limit=100)
        history.close()
    finally:
        server.kill()


def test_batch_too_large_for_the_server_is_halved_until_it_fits(influx, tmp_path):
    with picky(influx.url, lines_max=300) as url:
        history = open_history(tmp_path, InfluxV1(url, "picky"))
        assert history.append(make_rows([0] * 1000, range(T0, T0 + 1000), 1.0), [], 0).written == 1000
        history.close()
    with picky(influx.url, lines_max=0) as url:
        history = InfluxHistory(tmp_path / "influx.sqlite", InfluxV1(url, "picky"))
        assert history.append(make_rows([0] * 3, range(T0 + 2000, T0 + 2003), 1.0), [], 1).rejected == 3
        history.close()


@pytest.mark.alone
@pytest.mark.parametrize(("prefix", "end"), [("", ""), ("", "/"), ("/behind/a/proxy", ""), ("/behind/a/proxy", "/")])
def test_write_of_influxdb_client_is_read_back_from_victoria_metrics(tmp_path, prefix, end):
    server = victoria_metrics(tmp_path / "vm", prefix=prefix)
    if server is None:
        pytest.skip("victoria-metrics is not installed")
    server.start()
    try:
        base = server.url + prefix
        link = InfluxV2(base + end, org="org", bucket="bucket", token="any")
        rows = make_rows([0, 1], [T0, T0 + 5], [21.5, -3.25], [0, 2])
        link.write(build_lines(rows, {row.number: line_prefix(row) for row in SERIES}).text)
        link.close()
        with urllib3.PoolManager() as pool:
            flush = pool.request("GET", f"{base}/internal/force_flush")
            assert flush.status == 200
            exported = pool.request("GET", f"{base}/api/v1/export", fields={"match[]": '{__name__=~"sample_.*"}'})
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
