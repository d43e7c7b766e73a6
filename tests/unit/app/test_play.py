"""Playing recordings without a service: what is read, what is sent, how fates are booked, what is refused."""

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from app.play import (
    BrokerLogin,
    Fates,
    Recording,
    broker_login,
    check_local,
    connected,
    load_mapping,
    load_recording,
    row_messages,
    run_play,
    shifted_site,
)
from app.recorded import ROWS_MAX, Trace, lane_columns, make_trace, read_point
from app.settings import Settings
from ingest.mapping import ROWS_PER_MESSAGE, Row
from rules.lane import run_lane
from telemetry.errors import CallerError, ConfigError, EnvironmentFault
from telemetry.plan import Plan
from telemetry.wire import message as wire
from tests.faults.process import DEADLINE_S, free_port

SITE = """
v: 1
site: old
origin: REPLAY
zone: Europe/Amsterdam
profiles: [kind]
areas: [{name: house, links: {other: b}}]
devices: [{name: a, profile: kind, area: house}, {name: b, profile: kind, area: house}]
"""
PROFILE = """
name: kind
lateness_s: 86400
points:
  - {name: air_c, unit: C, low: -10, high: 60, rate_per_min: 1}
  - {name: rh_pct, unit: "%", low: 0, high: 100}
rules:
  - {id: HOT, when: air_c > 30 and other.rh_pct < 50, on_delay_s: 600, off_delay_s: 300, priority: P2}
"""
MAPPING = """
site: old
device: a
time: {column: t, format: "%Y-%m-%d %H:%M", zone: UTC}
columns: {x: air_c, y: rh_pct}
"""
CSV = "t,x,y\n2022-02-01 00:00,20,\n2022-02-01 00:05,cold,61\n2022-02-01 00:10,21.5,62\n2022-02-01 00:05,22,60\n"
T0 = 1_643_673_600_000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A site with a mapping, and a recording beside it."""
    (tmp_path / "old/profiles").mkdir(parents=True)
    (tmp_path / "old/mappings").mkdir()
    (tmp_path / "old/site.yaml").write_text(SITE)
    (tmp_path / "old/profiles/kind.yaml").write_text(PROFILE)
    (tmp_path / "old/mappings/m.yaml").write_text(MAPPING)
    (tmp_path / "r.csv").write_text(CSV)
    return tmp_path


def load(directory: Path, device: str | None = None) -> Recording:
    return load_recording(directory / "r.csv", directory / "old/mappings/m.yaml", device)


def test_a_recording_is_rows_of_a_device(directory: Path) -> None:
    recording = load(directory)
    assert (recording.key, load(directory, "b").key) == ("old/a", "old/b")
    assert recording.range_ms == (T0, T0 + 600_001)
    traces = recording.traces()
    assert traces["air_c"].ts_ms.tolist() == [T0, T0 + 300_000, T0 + 600_000]
    assert traces["rh_pct"].value.tolist() == [61, 60, 62], "of a time that stands twice, the first row first"
    report = recording.report
    assert (report.cells, report.samples, report.missing, report.unreadable) == (8, 6, 1, 1)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("mappings/m.yaml", "device: a", "device: z", "has no device 'z'; it has a, b"),
        ("mappings/m.yaml", "site: old", "site: new", "is for site 'new'"),
        ("mappings/m.yaml", "y: rh_pct", "y: gone", "profile 'kind' has no point 'gone'"),
        ("mappings/m.yaml", "y: rh_pct", "y: air_c", "point 'air_c' is mapped twice"),
        ("mappings/m.yaml", "time:", "tine:", "tine: is not a known field; did you mean time?"),
        ("mappings/m.yaml", "columns: {", "columns: {{", "YAML"),
        ("mappings/m.yaml", "columns: {x", "columns: {gone: air_c, x", "point 'air_c' is mapped twice"),
        ("profiles/kind.yaml", "low: -10", "low: 90", "must be below"),
    ],
)
def test_mistakes_are_named(directory: Path, file: str, old: str, new: str, message: str) -> None:
    path = directory / "old" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(CallerError, match=message):
        load(directory)


def test_a_mapping_outside_a_site_and_a_file_that_is_no_text(directory: Path) -> None:
    loose = directory / "m.yaml"
    loose.write_text(MAPPING)
    with pytest.raises(CallerError, match="must lie in the `mappings` folder of its site"):
        load_recording(directory / "r.csv", loose, None)
    (directory / "r.csv").write_bytes(b"t,x,y\n\xff\xfe\n")
    with pytest.raises(CallerError, match="not UTF-8"):
        load(directory)


def test_an_empty_mapping_is_a_mistake_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"m\.yaml"):
        load_mapping(tmp_path / "m.yaml")


def test_every_mistake_of_a_mapping_is_told_with_its_line(directory: Path) -> None:
    path = directory / "old/mappings/m.yaml"
    path.write_text(
        "site: old\ndevice: a\ntime: {column: t, formt: x, zone: Europa/Paris}\ncolumns:\n  x: air_c\n  y: {pont: rh_pct}\n  z: 3\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_mapping(path)
    said = [str(problem).removeprefix(str(path)) for problem in caught.value.problems]
    assert ":3: time.formt: is not a known field; did you mean format?" in said
    assert ":6: columns.y.pont: is not a known field; did you mean point?" in said
    assert ":6: columns.y.point: is missing" in said
    assert any(line.startswith(":7: columns.z: ") and line.endswith("(it is 3)") for line in said), said


def test_a_mapping_that_names_other_points_has_each_column_with_its_line(directory: Path) -> None:
    path = directory / "old/mappings/m.yaml"
    path.write_text(MAPPING.replace("columns: {x: air_c, y: rh_pct}", "columns:\n  x: air_temp\n  y: rh_pct\n  z: rh_pct\n"))
    with pytest.raises(ConfigError) as caught:
        load(directory)
    said = [str(problem).removeprefix(str(path)) for problem in caught.value.problems]
    assert said[0].startswith(":6: columns.x: profile 'kind' has no point 'air_temp'")
    assert said[1] == ":8: columns.z: point 'rh_pct' is mapped twice"


def test_an_empty_recording_and_a_speed_at_original_are_refused(directory: Path) -> None:
    (directory / "r.csv").write_text("")
    with pytest.raises(CallerError, match="its first line must name the columns"):
        load(directory)
    with pytest.raises(CallerError, match="--speed goes with --at now"):
        asyncio.run(run_play(Settings(), directory / "r.csv", mapping=directory / "old/mappings/m.yaml", speed=3.0))


def test_messages_hold_every_row_once_in_order_without_numbers() -> None:
    rows = [Row(k * 300_000, {"air_c": k / 8}) for k in range(2 * ROWS_PER_MESSAGE + 3)]
    messages = [msgspec.json.decode(payload, type=wire.Message) for payload in row_messages(rows)]
    assert [len(message.rows or ()) for message in messages] == [ROWS_PER_MESSAGE, ROWS_PER_MESSAGE, 3]
    assert all(message.boot is None and message.seq is None for message in messages)
    assert [(row.ts, row.p) for message in messages for row in message.rows or ()] == [(row.ts_ms, row.values) for row in rows]
    assert row_messages([]) == []


def trace(*pairs: tuple[int, float]) -> Trace:
    return make_trace([ts for ts, _ in pairs], [value for _, value in pairs])


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (trace(), trace((1, 5.0), (2, 6.0), (4, 7.0)), Fates(added=3, repeated=1)),
        (trace((1, 5.0), (2, 6.0), (4, 7.0)), trace((1, 5.0), (2, 6.0), (4, 7.0)), Fates(repeated=4)),
        (trace((1, 9.0)), trace((1, 9.0), (2, 6.0), (3, 1.0), (4, 7.0)), Fates(added=2, repeated=1, changed=1)),
        (trace(), trace((1, 5.0)), Fates(added=1, lost=3)),
        (trace(), trace(), Fates(lost=4)),
        (trace(), trace((1, 5.0), (2, float("nan")), (4, 7.0)), Fates(added=2, changed=2)),
    ],
)
def test_every_sample_has_one_fate(before: Trace, after: Trace, expected: Fates) -> None:
    given = trace((1, 5.0), (2, 6.0), (2, 6.0), (4, 7.0))
    fates = Fates()
    fates.compare(given, before, after)
    assert fates == expected
    assert fates.added + fates.repeated + fates.changed + fates.lost == len(given.ts_ms)


class FakeApi:
    """History of one point with the answers of the real route: raw rows when they fit, else buckets."""

    def __init__(self, times: Sequence[int], bad: frozenset[int] = frozenset()) -> None:
        self.times, self.bad, self.calls = sorted(times), bad, 0

    def get(self, path: str, *, start_ms: int, end_ms: int, points: int) -> dict[str, Any]:
        assert path == "/sites/s/devices/d/points/p/history"
        self.calls += 1
        found = [t for t in self.times if start_ms <= t < end_ms]
        if len(found) <= points:
            return {"samples": [{"t_ms": t, "value": None if t in self.bad else t / 8} for t in found], "buckets": None}
        width = -(-(end_ms - start_ms) // points)
        groups = itertools.groupby(found, key=lambda t: (t - start_ms) // width)
        buckets = []
        for index, group in groups:
            members = list(group)
            bad = sum(t in self.bad for t in members)
            buckets.append({"t_ms": start_ms + index * width, "count": len(members) - bad, "bad": bad})
        return {"samples": None, "buckets": buckets, "bucket_ms": width}


@pytest.mark.parametrize(
    "times",
    [
        [],
        [0],
        list(range(0, 10_000_000, 500)),
        [*range(7_000), 10**12, 10**12 + 1, *range(1_650_000_000_000, 1_650_000_009_000)],  # a burst of one bucket
    ],
)
def test_reading_back_misses_nothing_however_it_is_spread(times: list[int]) -> None:
    api = FakeApi(times, bad=frozenset(times[3:5]))
    found = read_point(api, "s", "d", "p", 0, 1_700_000_000_000)  # type: ignore[arg-type]
    assert found.ts_ms.tolist() == times
    assert np.isnan(found.value).tolist() == [t in api.bad for t in times]
    assert api.calls <= 10 + 3 * len(times) / ROWS_MAX


def test_lane_reads_across_devices_and_stamps_the_due_time(directory: Path) -> None:
    """Hot from minute 5 on, the other device's humidity falls in minute 20: due ten minutes later, between two rows."""
    from app.wiring import build_engine

    site, minute = load(directory).site, 60_000
    engine = build_engine()
    engine.configure(site)
    air = make_trace([T0, T0 + 5 * minute, T0 + 36 * minute, T0 + 50 * minute], [25.0, 33.0, 34.0, 29.0])
    humidity = make_trace([T0, T0 + 20 * minute], [70.0, 40.0])
    columns, sizes = lane_columns(engine.plan, "old", {"a": {"air_c": air}, "b": {"rh_pct": humidity}})
    assert sizes.tolist() == [1] * 6
    alarms = [d for d in run_lane(engine, columns, sizes) if d.kind == "alarm" and d.subject == "HOT@old/a"]
    seen = [(d.body["event"], (d.time_ns // 1_000_000 - T0) // minute) for d in alarms]
    assert seen == [("raise", 30), ("clear", 55)]


def test_frames_are_what_one_device_recorded_at_one_time(directory: Path) -> None:
    plan = Plan()
    plan.apply(load(directory).site)
    both = {"air_c": make_trace([1, 2], [5.0, float("nan")]), "rh_pct": make_trace([1, 3], [6.0, 7.0])}
    columns, sizes = lane_columns(plan, "old", {"a": both, "b": {"rh_pct": make_trace([1], [8.0])}})
    assert sizes.tolist() == [2, 1, 1]
    assert columns["device"].tolist() == [0, 1, 0]
    assert columns["ts_ns"].tolist() == [1_000_000, 1_000_000, 3_000_000]
    assert columns["value"].tolist() == [5.0, 6.0, 8.0, 7.0]


def test_now_is_a_simulated_site_of_its_own_with_delays_as_fast_as_its_data(directory: Path) -> None:
    site = shifted_site(load(directory).site, 60.0)
    assert (site.site, site.origin) == ("old-now", "SIMULATED")
    assert site.profiles["kind"].rules[0].on_delay_s == 10
    assert site.profiles["kind"].points[0].rate_per_min == 60


def test_where_a_played_device_logs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FIELDLOOM_DEVICE_PASSWORD", raising=False)
    own = Settings(data_dir=tmp_path)
    with pytest.raises(CallerError, match="no broker to play to"):
        broker_login(own, "old/a")
    (tmp_path / "broker").mkdir()
    (tmp_path / "broker/mosquitto.conf").write_text("allow_anonymous false\nlistener 4711 127.0.0.1\nlistener 4712 127.0.0.1\n")
    (tmp_path / "broker/devices.json").write_text('{"old/a": "secret"}')
    assert broker_login(own, "old/a") == BrokerLogin("127.0.0.1", 4711, "old/a", "secret")
    with pytest.raises(CallerError, match="no password for 'old/b'"):
        broker_login(own, "old/b")
    other = Settings(data_dir=tmp_path / "x", mqtt_host="broker.example", mqtt_port=1)
    assert broker_login(other, "old/b") == BrokerLogin("broker.example", 1, "old/b", None)
    with pytest.raises(CallerError, match="there is no journal"):
        check_local(other)


async def test_a_broker_that_is_not_there_is_one_sentence() -> None:
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(EnvironmentFault, match="play again: what is stored stays"):
            async with connected(BrokerLogin("127.0.0.1", free_port(), "old/a", None)):
                pass
