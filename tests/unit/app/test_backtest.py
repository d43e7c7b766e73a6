"""A backtest decides what a lane over the same frames decides, however it is cut, and reports it truly."""

import contextlib
import csv
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml

from api.orders import BacktestAsked
from app.backtest import lane as backtest_lane
from app.backtest.desk import BacktestDesk
from app.backtest.job import Job, split
from app.backtest.lane import Seconds, by_time, run
from app.backtest.order import make_job, read_labels, time_ms
from app.backtest.report import Collector, Label, Report, Standing, peak
from app.backtest.worker import Backtest
from app.wiring import build_engine
from ingest.decode import Directory, Gather
from rules.lane import on_data_clock
from rules.recorded import opening
from store.duckdb_history import DuckDBHistory
from store.scan import FileScan
from telemetry.decision import Decision, LogHash
from telemetry.errors import CallerError, ConfigError
from telemetry.frame import Kind, slice_entries
from telemetry.plan import Plan
from telemetry.record import Config, Request
from telemetry.site import RuleSpec
from tests.faults.process import wait_until
from tests.unit.app.recorded_farm import END_MS, MINUTE_MS, RULES, T0_MS, farm, samples, write_farm


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("farm") / "history.duckdb"
    write_farm(made)
    return made


@pytest.fixture
def scan(file: Path) -> Iterator[FileScan]:
    made = FileScan(file)
    yield made
    made.close()


def job_of(scan: FileScan, rules: Any = "site", against: Any = None, *, people: bool = True) -> Job:
    return make_job(scan, "farm", rules=rules, against=against, start_ms=T0_MS, end_ms=END_MS, with_people=people)[0]


def blocks(job: Job, scan: FileScan, rows: int = 100_000) -> list[Decision]:
    return [d for block in run(job, scan, Seconds(), block_rows=rows) for d in block.decisions[0]]


def sha(decisions: list[Decision]) -> str:
    log = LogHash()
    log.add([msgspec.structs.replace(d, position=0) for d in decisions])
    return log.hexdigest()


def lane_over_the_frames(job: Job) -> list[Decision]:
    """What the rules' own lane decides on the frames as they were made, not as history gives them back."""
    rows = np.array(samples())
    new = np.append(True, (np.diff(rows[:, 0]) != 0) | (np.diff(rows[:, 1]) != 0))
    starts = np.flatnonzero(new)
    columns = {
        "ts_ns": rows[starts, 0].astype(np.int64) * 1_000_000, "device": rows[starts, 1].astype(np.int32),
        "point": rows[:, 2].astype(np.int32), "value": rows[:, 3], "quality": np.zeros(len(rows), np.uint16),
    }  # fmt: skip
    sizes = np.diff(np.append(starts, len(rows)))
    start_ns, end_ns = T0_MS * 1_000_000, END_MS * 1_000_000
    entries = on_data_clock(columns, sizes, first=1, after_ns=start_ns, until_ns=end_ns)
    engine = job.engine(job.variants[0])
    made = engine.step(opening(start_ns)).decisions + engine.step(entries).decisions
    return sorted(made, key=by_time)


def test_decides_what_a_lane_over_the_same_frames_decides(scan: FileScan) -> None:
    job = job_of(scan, people=False)
    expected = lane_over_the_frames(job)
    assert {d.subject.split("@")[0] for d in expected if d.kind == "alarm"} == {"HOT", "MEAN", "RAIN", "QUIET"}
    assert any(d.kind == "demand" for d in expected)
    found = blocks(job, scan)
    assert [msgspec.structs.replace(d, position=0) for d in found] == [msgspec.structs.replace(d, position=0) for d in expected]
    assert sha(found) == sha(expected)


def test_decides_what_a_live_core_decided_when_nothing_came_late(scan: FileScan) -> None:
    """The whole live engine, with commands, fed frame by frame as they came and cut anywhere, with a tick each 10 s."""
    job = job_of(scan, people=False)
    end_ms = T0_MS + 86_400_000
    directory, engine = Directory(Plan()), build_engine(commands=False)
    gather, config = Gather(directory), job.variants[0]
    gather.add(Config(config.site, config.sha256(), config.canonical(), "anna"), T0_MS * 1_000_000)
    made = engine.step(gather.build(0, T0_MS * 1_000_000, T0_MS * 1_000_000)).decisions
    gather.directory = Directory(engine.plan)
    by_time_of_frame = itertools.groupby(samples(), key=lambda row: row[:2])
    frames = [(ts, engine.plan.devices[d], [row[2:] for row in rows]) for (ts, d), rows in by_time_of_frame if ts < end_ms]
    coming = [
        *((ts, 1, device, own) for ts, device, own in frames),
        *((ts, 0, None, []) for ts in range(T0_MS, end_ms + 1, 10_000)),
    ]
    rng = np.random.default_rng(2)
    for seq, (ts_ms, _, device, own) in enumerate(sorted(coming, key=lambda row: row[:2])):
        if device is None:
            gather.tick(ts_ms * 1_000_000)
        else:
            values = {engine.plan.point_owner[point][1]: value for point, value in own}
            body = msgspec.json.encode({"v": 1, "boot": 1, "seq": seq, "ts": ts_ms, "p": values})
            gather.take(f"fl/{device.key}/telemetry", body, False, ts_ms * 1_000_000)
        if rng.random() < 0.05 or ts_ms == end_ms:
            made += engine.step(gather.build(engine.position + 1, ts_ms * 1_000_000, engine.last_time_ns)).decisions
    live = sorted((d for d in made if d.kind in {"alarm", "demand"} and d.time_ns < end_ms * 1_000_000), key=by_time)
    found = [
        d for d in blocks(replace(job, end_ms=end_ms), scan) if d.kind in {"alarm", "demand"} and d.time_ns < end_ms * 1_000_000
    ]
    assert len(live) > 300
    assert [msgspec.structs.replace(d, position=0) for d in found] == [msgspec.structs.replace(d, position=0) for d in live]
    assert sha(found) == sha(live)


def test_the_hash_sees_one_changed_bit_and_one_lost_frame(scan: FileScan) -> None:
    class Changed:
        def __init__(self, lost: bool) -> None:
            self.lost = lost

        def scan(self, *args: int, limit: int) -> Any:
            point, ts_ms, value, quality = (np.concatenate(c) for c in zip(*scan.scan(*args, limit=limit), strict=True))
            hot = np.flatnonzero((point == 1) & (value > 28.2))
            if self.lost:
                kept = np.delete(np.arange(len(point)), hot[3:4])
                return [(point[kept], ts_ms[kept], value[kept], quality[kept])]
            value = value.copy()
            value[hot[3:4]] = np.nextafter(value[hot[3:4]], 99)
            return [(point, ts_ms, value, quality)]

    job = job_of(scan)
    true = sha(blocks(job, scan))
    for lost in (True, False):
        found = [d for block in run(job, Changed(lost), Seconds()) for d in block.decisions[0]]
        assert sha(found) != true, lost


@pytest.mark.parametrize("rows", [300, 2_345])
def test_where_blocks_are_cut_changes_nothing(scan: FileScan, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = blocks(job_of(scan), scan)
    monkeypatch.setattr(backtest_lane, "BLOCK_ROWS_MAX", rows)
    assert sha(blocks(job_of(scan), scan, rows)) == sha(expected)


def test_areas_that_a_rule_joins_stay_together(scan: FileScan) -> None:
    parts = split(job_of(scan), 4)
    areas = sorted(sorted(area.name for area in part.variants[0].areas) for part in parts)
    assert areas == [["a", "sky"], ["b"], ["c"]]
    assert [len(part.requests) for part in parts if part.variants[0].areas[0].name == "b"] == [1]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_together_decide_the_same(file: Path, scan: FileScan, processes: int) -> None:
    job = job_of(scan)
    expected = blocks(job, scan)
    collector, found = Collector(job.variants, T0_MS, END_MS), []
    for piece in Backtest(job, file=file, processes=processes).pieces():
        collector.add(piece)
        found += piece.decisions[0]
    assert [d.time_ns for d in found] == sorted(d.time_ns for d in found)
    assert sha(found) == sha(expected) == collector.report().sha256
    assert collector.report().complete


def test_people_count_unless_they_are_left_out(scan: FileScan) -> None:
    with_them, without = blocks(job_of(scan), scan), blocks(job_of(scan, people=False), scan)
    days = {d.subject: d.time_ns for d in reversed(with_them) if d.kind == "alarm" and d.subject.startswith("DAY")}
    assert set(days) == {"DAY@farm/house-a", "DAY@farm/house-b"}  # a was occupied before the beginning, b from the second day on
    assert days["DAY@farm/house-b"] > (T0_MS + 86_400_000) * 1_000_000 > days["DAY@farm/house-a"]
    assert not [d for d in without if d.subject.startswith("DAY")]


def test_a_batch_is_carried_to_the_beginning_with_its_age(file: Path, tmp_path: Path) -> None:
    class Past:
        def __init__(self, scan: FileScan) -> None:
            self.scan, self.saved_plan, self._records = scan.scan, scan.saved_plan, scan.records

        def records(self, *, kind: str, site: str, limit: int) -> Any:
            found = self._records(kind=kind, site=site, limit=limit)
            if kind == "request":
                body = json.dumps({"kind": "batch", "author": "anna", "body": {"area": "farm/a", "day": 3, "name": "x"}})
                found = [found[0]._replace(time_ns=(T0_MS - 5 * 86_400_000) * 1_000_000, subject="r9", body=body)]
            return found

    scan = FileScan(file)
    job = job_of(Past(scan))  # type: ignore[arg-type]
    scan.close()
    assert job.requests == ((T0_MS * 1_000_000, Request("r9", "batch", "anna", {"area": "farm/a", "day": 8, "name": "x"})),)


def test_rows_of_any_order_and_in_any_parts_give_the_same_frames(scan: FileScan) -> None:
    class Shuffled:
        def scan(self, *args: int, limit: int) -> Any:
            columns = [np.concatenate(c) for c in zip(*scan.scan(*args, limit=limit), strict=True)]
            orders = np.array_split(np.random.default_rng(1).permutation(len(columns[0])), 3)
            return [tuple(column[order] for column in columns) for order in orders]

    job = job_of(scan)
    found = [d for block in run(job, Shuffled(), Seconds()) for d in block.decisions[0]]
    assert sha(found) == sha(blocks(job, scan))


def report_of(scan: FileScan, rules: Any = "site", against: Any = None, labels: Any = ()) -> Report:
    job = job_of(scan, rules, against)
    collector = Collector(job.variants, T0_MS, END_MS)
    for block in run(job, scan, Seconds()):
        collector.add(block)
    return collector.report(labels=labels, against="x" if against else "")


def hot(limit: float) -> list[RuleSpec]:
    return [RuleSpec.model_validate(RULES[0] | {"when": f"air_temp_c > {limit}"})]


def test_alarms_have_their_true_times(scan: FileScan) -> None:
    report = report_of(scan, hot(28))
    values: dict[str, list[tuple[int, float]]] = {}
    for ts_ms, device, point, value in samples():
        if device and point % 2:
            values.setdefault(f"house-{'abc'[device - 1]}", []).append((ts_ms, value))
    expected = []  # the rule by hand: over 28 for 10 min, until 27 or less for 2 min; samples come each minute
    for name, own in values.items():
        since, low, on = None, None, None
        for ts_ms, value in own:
            if on is None:
                since = (since or ts_ms) if value > 28 else since if since and ts_ms - since >= 600_000 else None
                if since and ts_ms - since >= 600_000:
                    on, since, low = since + 600_000, None, None
            if on is not None:
                if low is not None and ts_ms - low >= 120_000:
                    expected.append((name, on, low + 120_000))
                    on = low = None
                    since = ts_ms if value > 28 else None
                else:
                    low = (low or ts_ms) if value <= 27 else None
    mine = [(a.device, a.raised_ms, a.cleared_ms) for a in report.alarms]
    assert sorted(mine) == sorted(expected)
    assert len(mine) == report.rules[0].alarms > 3
    assert report.rules[0].standing_s == sum((end or 0) - start for _, start, end in mine) / 1000
    assert sum(report.rules[0].by_day) == len(mine)
    assert report.rules[0].alarms_per_day == pytest.approx(len(mine) / 3)


def test_against_another_version(scan: FileScan) -> None:
    same = report_of(scan, hot(28), hot(28))
    assert (same.rules[0].new, same.rules[0].gone) == (0, 0)
    tighter = report_of(scan, hot(27), "site")
    rule = next(rule for rule in tighter.rules if rule.rule == "HOT")
    assert rule.alarms > 0
    assert rule.gone == 0
    assert rule.new == sum(a.change == "new" for a in tighter.alarms if a.rule == "HOT")
    looser = next(rule for rule in report_of(scan, hot(60), "site").rules if rule.rule == "HOT")
    assert looser.alarms == 0
    assert looser.gone == report_of(scan, "site").rules[[r.rule for r in report_of(scan, "site").rules].index("HOT")].alarms
    sha256 = farm().sha256()
    assert [rule.gone for rule in report_of(scan, "site", sha256[:8]).rules] == [0] * len(report_of(scan).rules)


def test_labelled_events(scan: FileScan) -> None:
    first = report_of(scan, hot(28)).alarms[0]
    labels = [
        Label(first.raised_ms - 60_000, first.raised_ms + 60_000, "fan", device=first.device),
        Label(T0_MS, T0_MS + 60_000, "nothing was hot then"),
    ]
    rule = report_of(scan, hot(28), labels=labels).rules[0]
    assert (rule.hits, rule.misses, rule.false_alarms) == (1, 1, rule.alarms - 1)


def test_peak_counts_any_ten_minutes() -> None:
    times = [0, 100, 599_999, 600_000, 600_050, 2_000_000]
    assert peak([Standing("R", "d", t, None, "P3", None) for t in times]) == 4
    assert peak([]) == 0


def test_actuators_told_beside_measured(scan: FileScan) -> None:
    report = report_of(scan)
    told = {a.actuator: a for a in report.actuators}
    assert report.control
    assert set(told) == {f"house-{x}/vent" for x in "abc"}
    for k, name in enumerate(sorted(told)):
        assert told[name].measured_mean == pytest.approx(10 * k)
        assert told[name].stood_mean == pytest.approx(told[name].told_mean)  # a vent without a travel time stands where it is told
        assert 0 < told[name].moves <= told[name].changes
        assert 0 < (told[name].told_mean or 0) < 100
    assert not report_of(scan, hot(28)).control


def test_a_recording_shows_what_it_would_have_moved(tmp_path: Path) -> None:
    write_farm(tmp_path / "history.duckdb", farm(origin="REPLAY"))
    scan = FileScan(tmp_path / "history.duckdb")
    assert len(report_of(scan).actuators) == 3
    scan.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"site": "nowhere"}, "knows no site 'nowhere'"),
        ({"end_ms": T0_MS}, "--from has to be before --to"),
        ({"end_ms": T0_MS + 10**13}, "not more than 20 years"),
        ({"rules": "deadbeef"}, "no version of this site's configuration; the newest are"),
        ({"against": "abc"}, "no rule file"),
        ({"rules": [RuleSpec(id="X", profile="house", when="no_such_point > 1")]}, "do not fit site farm"),
    ],
)
def test_orders_that_cannot_be_carried_out(scan: FileScan, change: dict[str, Any], words: str) -> None:
    order: dict[str, Any] = {
        "site": "farm",
        "rules": "site",
        "against": None,
        "start_ms": T0_MS,
        "end_ms": END_MS,
        "with_people": True,
    }
    order |= change
    with pytest.raises(CallerError, match=words):
        make_job(scan, order.pop("site"), **order)


def test_times_are_of_the_site(tmp_path: Path) -> None:
    assert time_ms("2025-01-01", "UTC") == T0_MS
    assert time_ms("2025-01-01T08:00", "Asia/Shanghai") == T0_MS == time_ms("2025-01-01T00:00:00Z", "Asia/Shanghai")
    with pytest.raises(CallerError, match="is no time"):
        time_ms("yesterday", "UTC")


def test_labels_are_read_and_every_mistake_is_told(tmp_path: Path) -> None:
    good = tmp_path / "events.csv"
    good.write_text("from,to,label,device\n2025-01-01,2025-01-02,fan,house-a\n2025-01-02T06:00,2025-01-02T07:00,door,\n", "utf-8")
    assert read_labels(good, "UTC")[0] == Label(T0_MS, T0_MS + 86_400_000, "fan", "", "house-a")
    same = tmp_path / "events.yaml"
    same.write_text(
        "- {from: '2025-01-01', to: '2025-01-02', label: fan, device: house-a}\n"
        "- {from: 2025-01-02T06:00:00, to: 2025-01-02T07:00:00, label: door}\n"
    )
    assert read_labels(same, "UTC") == read_labels(good, "UTC")
    bad = tmp_path / "bad.csv"
    bad.write_text("from,to,label\nx,2025-01-02,a\n2025-01-03,2025-01-02,b\n", "utf-8")
    with pytest.raises(ConfigError) as told:
        read_labels(bad, "UTC")
    assert [problem.line for problem in told.value.problems] == [2, 3]
    bad.write_text("begin,end\n1,2\n", "utf-8")
    with pytest.raises(ConfigError):
        read_labels(bad, "UTC")


def command(file: Path, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "FIELDLOOM_DATA_DIR": str(file.parent), "LC_ALL": "C.UTF-8"}
    program = [str(Path(sys.executable).parent / "fieldloom"), "backtest", *words]
    return subprocess.run(program, env=given, capture_output=True, text=True, timeout=100, check=False, **more)


SPAN = ("--site", "farm", "--from", "2025-01-01", "--to", "2025-01-04")


@pytest.mark.timeout(120)
def test_the_command_writes_what_the_report_says(file: Path, scan: FileScan, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump([RULES[0], RULES[5]], allow_unicode=True), "utf-8")
    out = [tmp_path / name for name in ("a.csv", "a.html", "a.json")]
    done = command(file, str(rules), *SPAN, "--against", "site", "--csv", str(out[0]), "--html", str(out[1]), "--json", str(out[2]))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Backtest of control: the climate is the recorded one")
    report = msgspec.json.decode(out[2].read_bytes(), type=Report)
    assert report.complete
    assert report.sha256 == report_of(scan, [RuleSpec.model_validate(rule) for rule in (RULES[0], RULES[5])]).sha256
    with out[0].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["rule"], int(row["raised_ms"])) for row in rows] == [(a.rule, a.raised_ms) for a in report.alarms]
    page = out[1].read_text("utf-8")
    assert "<svg" in page
    assert "prefers-color-scheme:dark" in page
    assert not [word for word in ("http:", "https:", "src=", "@import", "<script") if word in page]
    assert "HOT" in done.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("words", "told"), [(("nothing.yaml", *SPAN), "is no rule file"), (("site", "--site", "x", *SPAN[2:]), "knows no site 'x'")]
)
def test_the_command_explains_itself(file: Path, words: tuple[str, ...], told: str) -> None:
    done = command(file, *words)
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cancelled_run_tells_what_is_done(file: Path, scan: FileScan, monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace(job_of(scan), end_ms=END_MS + 10 * 365 * 86_400_000)
    backtest, collector = Backtest(job, file=file), Collector(job.variants, job.start_ms, job.end_ms)
    for piece in backtest.pieces():
        collector.add(piece)
        backtest.cancel()
    report = collector.report()
    assert not report.complete
    assert T0_MS < report.reached_ms < job.end_ms


def process_group(leader: int) -> list[str]:
    """Who of a process group still runs."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(group) == leader and state != "Z":
                found.append(stat.parent.name)
    return found


@pytest.mark.timeout(120)
def test_ctrl_c_ends_the_command_with_what_is_done(file: Path, tmp_path: Path) -> None:
    given = {**os.environ, "FIELDLOOM_DATA_DIR": str(file.parent), "LC_ALL": "C.UTF-8"}
    words = [
        str(Path(sys.executable).parent / "fieldloom"),
        "backtest",
        "site",
        *SPAN[:5],
        "2044-01-01",
        "--json",
        str(tmp_path / "a.json"),
    ]
    process = subprocess.Popen(words, env=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not children.read_text().split():  # its processes are at work, for minutes
        assert time.monotonic() < deadline, "no process was started"
        assert process.poll() is None
        select.select([], [], [], 0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    wait_until(lambda: not process_group(process.pid), what="all processes of the group end")
    report = msgspec.json.decode((tmp_path / "a.json").read_bytes(), type=Report)
    assert not report.complete


@pytest.mark.timeout(120)
def test_the_service_runs_one_at_a_time_and_cancels(file: Path, scan: FileScan, tmp_path: Path) -> None:
    write_farm(tmp_path / "history.duckdb")
    history = DuckDBHistory(tmp_path / "history.duckdb")  # as web holds it: nobody else may open the file
    desk = BacktestDesk(history)
    asked = BacktestAsked("site", None, T0_MS, END_MS, (), people=True)
    try:
        first = desk.start("farm", "anna", asked)
        assert first is not None
        assert desk.start("farm", "ben", asked) is None
        join(desk, first.id)
        ended = desk.state("farm", first.id)
        assert ended is not None
        assert (ended.state, ended.reached_ms, ended.problem) == ("done", END_MS, "")
        found = desk.report("farm", first.id)
        assert found is not None
        assert msgspec.json.decode(found, type=Report).sha256 == report_of(scan).sha256
        assert desk.state("other", first.id) is None
        long = desk.start("farm", "ben", replace(asked, end_ms=END_MS + 18 * 365 * 86_400_000))
        assert long is not None
        desk.cancel("farm", long.id)
        join(desk, long.id)
        stopped = desk.state("farm", long.id)
        assert stopped is not None
        assert stopped.state == "cancelled"
        assert stopped.reached_ms < stopped.end_ms
        with pytest.raises(CallerError):
            desk.start("nowhere", "ben", asked)
    finally:
        desk.close()
        history.close()


def join(desk: BacktestDesk, backtest: str) -> None:
    thread = desk._runs[backtest].thread
    assert thread is not None
    thread.join(60)
    assert not thread.is_alive()


def test_records_and_ticks_stand_where_they_belong(scan: FileScan) -> None:
    from rules.recorded import places, recorded_entries

    job = job_of(scan)
    told = Request("r", "mode", "x", {"area": "farm/a", "mode": "EMPTY"})
    rows = scan.scan(0, 6, T0_MS, T0_MS + 10 * MINUTE_MS, limit=10**6)
    given = ((T0_MS * 1_000_000 + 300_000_000_000, told, Kind.REQUEST),)
    where = places(job.plan(job.variants[0]))
    entries = recorded_entries(rows, where, first=1, start_ms=T0_MS, end_ms=T0_MS + 10 * MINUTE_MS, records=given)
    assert (np.diff(entries.time_ns) >= 0).all()
    [(at, record)] = entries.records
    assert record is told
    assert entries.kind[at] == Kind.REQUEST
    assert entries.kind[at - 1] == Kind.TICK
    assert entries.time_ns[at] == entries.time_ns[at + 1] == given[0][0]
    assert (entries.time_ns[entries.frames.entry] == entries.frames.ts_ns).all()
    assert entries.time_ns[-1] == (T0_MS + 10 * MINUTE_MS) * 1_000_000
    assert len(slice_entries(entries, 0, len(entries))) == len(entries)
