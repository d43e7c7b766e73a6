"""What every history store promises, run against every store: DuckDB, a real InfluxDB 1.6, and 2.x.

2.x is run through `v2_front` always, and against the real server of FIELDLOOM_TEST_INFLUX_URL, _ORG and _TOKEN when they are set.
"""

import itertools
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.duckdb_history import DuckDBHistory
from store.history import (
    ASIDE,
    BUCKETS_MAX,
    CHANGES,
    KEYFRAME,
    READ_ROWS_MAX,
    RECORDS_MAX,
    REJECTS_KEPT,
    AppendResult,
    History,
    HistoryFault,
    MemberRow,
    RecordRow,
    SampleRows,
    Series,
    decision_line,
    make_rows,
    no_rows,
)
from store.influx_history import InfluxHistory
from store.members import MemberReplay
from telemetry.decision import Decision, body_text, decode_decisions, encode_decisions, in_order, log_line
from telemetry.quality import BAD, NOT_A_NUMBER, UNCERTAIN
from tests.contract.conftest import INFLUX

T0 = 1_700_000_000_000
MS = 1_000_000  # ns
FOREVER = 4_000_000_000_000
POINTS = 64
SERIES = [Series(n, "farm", f"d{n % 4}", f"air_temp_{n}", "C") for n in range(POINTS)]
Opener = Callable[[], History]
STORES = ["duckdb", *INFLUX]


@pytest.fixture(params=STORES)
def opener(request: pytest.FixtureRequest, tmp_path: Path, make_database) -> Iterator[Opener]:
    """Opens the store under test; again and again the same one."""
    opened: list[History] = []
    if request.param == "duckdb":

        def make() -> History:
            return DuckDBHistory(tmp_path / "history.duckdb", memory_mb=64)
    else:
        database = make_database(request.param)

        def make() -> History:
            return InfluxHistory(tmp_path / "influx.sqlite", database.connect())

    def open_one() -> History:
        opened.append(make())
        return opened[-1]

    yield open_one
    for history in opened:
        history.close()


@pytest.fixture
def history(opener: Opener) -> History:
    store = opener()
    store.declare(SERIES)
    return store


def everything(history: History, point: int = 0) -> SampleRows:
    return history.read(point, 0, FOREVER, limit=READ_ROWS_MAX)


def test_empty_history_answers_everything_with_nothing(opener):
    history = opener()
    assert history.position() == -1
    assert history.saved_plan() is None
    assert (history.count(), history.series(), history.records()) == (0, [], [])
    assert (history.decisions(-1), history.decisions_from()) == ([], 0)
    assert len(everything(history)) == 0
    assert len(history.latest([0, 1], T0)) == 0
    assert len(history.downsample(0, 0, T0, 10)) == 0
    assert history.members(0, T0) is None
    assert history.member_state(0) is None


def test_samples_come_back_in_time_order_whole_and_inside_the_range(history):
    rows = make_rows([1, 0, 0, 0], [T0, T0 + 3, T0 + 1, T0 + 2], [9.0, 3.0, 1.0, 2.0], [0, 3, 1, 2])
    assert history.append(rows, [], 5) == AppendResult(4, 0, 0)
    got = everything(history)
    assert got.ts_ms.tolist() == [T0 + 1, T0 + 2, T0 + 3]
    assert got.value.tolist() == [1.0, 2.0, 3.0]
    assert got.quality.tolist() == [1, 2, 3]
    assert got.point.tolist() == [0, 0, 0]
    assert history.read(0, T0 + 1, T0 + 3, limit=9).value.tolist() == [1.0, 2.0]
    assert history.read(0, T0, T0 + 9, limit=2).value.tolist() == [1.0, 2.0]
    assert len(history.read(40, 0, FOREVER, limit=9)) == 0


def test_batches_out_of_time_order_are_read_in_order_also_at_the_limit(history):
    for position, start in enumerate([T0 + 100, T0, T0 + 200]):
        history.append(make_rows([0] * 50, np.arange(50) + start, np.arange(50.0)), [], position)
    assert everything(history).ts_ms.tolist() == [*range(T0, T0 + 50), *range(T0 + 100, T0 + 150), *range(T0 + 200, T0 + 250)]
    assert history.read(0, 0, FOREVER, limit=60).ts_ms.tolist() == [*range(T0, T0 + 50), *range(T0 + 100, T0 + 110)]


def test_position_plan_rows_and_series_survive_reopening(opener):
    first = opener()
    first.declare(SERIES[:2])
    first.append(make_rows([0], T0, 1.0), [], 7, plan=b"\x00plan")
    first.append(no_rows(), [], 8)
    first.close()
    again = opener()
    assert (again.position(), again.saved_plan(), again.count()) == (8, b"\x00plan", 1)
    assert again.series() == SERIES[:2]
    assert again.append(make_rows([0], T0, 1.0), [], 9) == AppendResult(0, 1, 0)


def test_append_at_or_before_the_stored_position_changes_nothing(history):
    record = RecordRow(3, T0 * MS, "alarm", "farm", "d1", "HOT@farm/d1", "{}")
    history.append(make_rows([0], T0, 1.0), [record], 3)
    for position in (3, 2):
        assert history.append(make_rows([0], T0 + 1, 2.0), [record], position, plan=b"no") == AppendResult(0, 0, 0)
    assert (history.position(), history.count(), len(history.records()), history.saved_plan()) == (3, 1, 1, None)


def test_first_value_stays_equal_is_repeated_other_is_changed(history):
    history.append(make_rows([0, 0, 1], [T0, T0 + 1, T0], [1.0, np.nan, 5.0], [0, BAD, 0]), [], 1)
    again = make_rows([0, 0, 1, 0], [T0, T0 + 1, T0, T0 + 2], [1.0, np.nan, 6.0, 3.0], [0, BAD, 0, 0])
    assert history.append(again, [], 2) == AppendResult(1, 2, 1)
    assert everything(history, 1).value.tolist() == [5.0]
    np.testing.assert_array_equal(everything(history).value, [1.0, np.nan, 3.0])


def test_a_live_sample_that_contradicts_a_stored_one_is_counted_and_stays_out(history):
    """It came by another way, or ahead of its time: admission may not know it, the history does."""
    history.append(make_rows([0, 0, 1], [T0, T0 + 10, T0], [1.0, 2.0, 5.0]), [], 1)
    assert history.append(make_rows([0, 0, 1], [T0, T0 + 5, T0], [9.0, 3.0, 5.0]), [], 2) == AppendResult(1, 1, 1)
    assert everything(history).value.tolist() == [1.0, 3.0, 2.0]


def test_number_after_no_number_is_a_change_and_stays_out(history):
    history.append(make_rows([0, 0], [T0, T0 + 1], [np.nan, 2.0], [BAD, 0]), [], 1)
    assert history.append(make_rows([0, 0], [T0, T0 + 1], [1.0, np.nan]), [], 2) == AppendResult(0, 0, 2)
    np.testing.assert_array_equal(everything(history).value, [np.nan, 2.0])


def test_repeats_inside_a_batch_are_settled_by_their_order(history):
    rows = make_rows([0, 0, 0, 1], [T0, T0, T0, T0], [1.0, 2.0, 1.0, 4.0])
    assert history.append(rows, [], 1) == AppendResult(2, 1, 1)
    assert everything(history).value.tolist() == [1.0]


def test_sample_without_a_number_keeps_its_time_and_quality(history):
    history.append(make_rows([0, 0], [T0, T0 + 1], [np.nan, np.inf], [BAD | NOT_A_NUMBER, UNCERTAIN]), [], 1)
    got = everything(history)
    assert np.isnan(got.value).all()
    assert got.quality.tolist() == [BAD | NOT_A_NUMBER, UNCERTAIN]
    assert history.count() == 2


def test_extreme_numbers_and_times_come_back_exactly(history):
    values = [1.7976931348623157e308, -5e-324, -0.0, 0.1, 1 / 3, 1e21, -123456789.125, 2.0**53]
    times = [0, 1, T0, T0 + 1, T0 + 2, T0 + 3, 4_000_000_000_000, 7_000_000_000_000]
    history.append(make_rows([0] * 8, times, values), [], 1)
    got = history.read(0, 0, 8_000_000_000_000, limit=10)
    assert got.ts_ms.tolist() == times
    np.testing.assert_array_equal(got.value, values)  # exact; only the sign of zero may be lost (InfluxDB's JSON)


@pytest.mark.parametrize("name", ["a b", "x,y=z", "it's", 'say "x"', "温室", "back\\slash", "'; DROP SERIES FROM sample; --"])
def test_any_name_of_a_series_finds_its_own_samples(history, name):
    history.declare([Series(100, name, name, name, "C")])
    history.append(make_rows([0, 100], T0, [1.0, 2.0]), [], 1)
    assert everything(history, 100).value.tolist() == [2.0]
    assert everything(history).value.tolist() == [1.0]
    assert history.append(make_rows([100], T0, 2.0), [], 2) == AppendResult(0, 1, 0)


def test_number_keeps_its_name_but_may_change_its_unit(history):
    history.declare([SERIES[3]._replace(unit="K")])
    assert history.series()[3].unit == "K"
    with pytest.raises(HistoryFault, match=r"point 3 is farm/d3/air_temp_3 .* farm/d3/other in the journal") as raised:
        history.declare([SERIES[2], SERIES[3]._replace(point="other")])
    assert not raised.value.retryable
    assert history.series()[3].point == "air_temp_3"


def test_scan_gives_every_row_of_a_band_of_points_and_a_stretch_of_time(history, monkeypatch):
    monkeypatch.setattr("store.influx_history.READ_ROWS_MAX", 70)  # a series may be longer than one read returns
    given = [make_rows([p] * 200, np.arange(200) * 3 + T0 + p, np.arange(200.0) + p, p) for p in (3, 1, 2, 5)]
    for position, rows in enumerate(given):
        history.append(rows, [], position)

    def scanned(limit):
        parts = history.scan(1, 3, T0 + 30, T0 + 600, limit=limit)
        assert all([column.dtype for column in part] == [np.int32, np.int64, np.float64, np.uint16] for part in parts)
        return [row for part in parts for row in zip(*(column.tolist() for column in part), strict=True)]

    wanted = {(p, T0 + p + 3 * k, float(k + p), p) for p in (1, 2, 3) for k in range(200) if 30 <= p + 3 * k < 600}
    rows = scanned(10_000)
    assert set(rows) == wanted
    assert len(rows) == len(wanted)
    for limit in (1, 70, 140, 250, len(wanted), len(wanted) + 1):  # as many as asked for: then there may be more
        rows = scanned(limit)
        assert len(rows) == len(set(rows)) == min(limit, len(wanted))
        assert set(rows) <= wanted
    assert sum(len(part[0]) for part in history.scan(6, 50, T0, FOREVER, limit=9)) == 0


def test_latest_is_the_last_sample_at_or_before_the_time(history):
    history.append(make_rows([0, 0, 1, 2], [T0, T0 + 10, T0 + 20, T0 + 1], [1.0, 2.0, 3.0, np.nan], [0, 1, 0, BAD]), [], 1)
    got = history.latest([2, 1, 0, 63], T0 + 15)
    assert got.point.tolist() == [0, 2]
    assert got.ts_ms.tolist() == [T0 + 10, T0 + 1]
    assert got.quality.tolist() == [1, BAD]
    assert history.latest([0, 0], T0 + 9).value.tolist() == [1.0]
    assert history.latest(range(POINTS), FOREVER).point.tolist() == [0, 1, 2]
    assert len(history.latest([], T0)) == 0


def test_count_by_point_and_range(history):
    history.append(make_rows([0, 0, 1], [T0, T0 + 1, T0 + 1], 1.0), [], 1)
    assert (history.count(), history.count(point=0), history.count(point=63), history.count(point=999)) == (3, 2, 0, 0)
    assert history.count(start_ms=T0 + 1) == 2
    assert history.count(end_ms=T0 + 1) == 1
    assert history.count(point=0, start_ms=T0, end_ms=T0 + 1) == 1


def test_records_are_filtered_and_ordered_by_position(history):
    rows = [
        RecordRow(1, T0 * MS, "event", "farm", "d1", "offline", '{"为":"雨"}'),
        RecordRow(2, (T0 + 5) * MS + 999_999, "alarm", "farm", "d1", "HOT@farm/d1", '{"to":"UNACK"}', 0, 40),
        RecordRow(2, (T0 + 4) * MS, "demand", "farm", "d1", "farm/d1/vent", "{}", 1, 60),
        RecordRow(3, (T0 + 9) * MS, "alarm", "barn", "p1", "HOT@barn/p1", "{}", 1, 40),
    ]
    history.append(no_rows(), rows[:2], 1)
    history.append(no_rows(), rows[2:], 3)
    assert history.records() == rows[::-1]
    assert history.records(newest_first=False) == rows
    assert history.records(newest_first=False, limit=1) == rows[:1]
    assert history.records(kind="alarm") == [rows[3], rows[1]]
    assert history.records(kind="alarm", site="farm") == [rows[1]]
    assert history.records(subject="farm/d1/vent") == [rows[2]]
    assert history.records(start_ms=T0 + 4, end_ms=T0 + 9, newest_first=False) == [rows[1], rows[2]]
    assert history.records(subject="x' OR '1'='1") == []
    assert history.records(start_ms=-(1 << 53), end_ms=1 << 53, newest_first=False) == rows
    assert history.records(start_ms=1 << 53) == []


ODD_BODIES = [
    {}, {"a": None, "b": [], "c": {}}, {"x": [0.1, 1 / 3, -0.0, 5e-324, 1.7976931348623157e308, 1e21, 1.0, 2**53 + 0.0]},
    {"n": [2**63 - 1, -(2**63), 0, True]}, {"nan": math.nan, "inf": -math.inf},
    {"温度": "太热 🌡", "q": '"\\ \n\t\x00\u2028', "z": 1, "A": 2}, {"deep": {"b": {"d": 1, "c": [{}]}, "a": ""}}, {"long": "x" * 100_000},
]  # fmt: skip


def odd_decisions() -> list[Decision]:
    """Decisions in canonical order, several at one position, with everything a body may hold."""
    made = [
        Decision(position, phase, T0 * MS + 7 * position + 1, stage, kind, subject, body)
        for position in (0, 5, 2**53)
        for phase, stage, kind, subject in (
            (0, 30, "condition", "HOT@farm/d1"),
            (1, 40, "alarm", "夏@farm/d1"),
            (1, 90, "answer", ""),
        )
        for body in ODD_BODIES
    ]
    return in_order(made)


def test_decisions_come_back_as_the_lines_of_the_canonical_log(opener):
    history = opener()
    made = odd_decisions()
    rows = [
        RecordRow(d.position, d.time_ns, d.kind, "farm", "d1", d.subject, body_text(d), d.phase, d.stage)
        for d in (decode_decisions(encode_decisions(made)))  # as the journal gives them
    ]
    entry = RecordRow(5, T0 * MS, "fault", "", "", "history", "{}")  # of an entry: it is no decision, whatever its kind
    history.append(no_rows(), [rows[0]], 0)
    history.append(no_rows(), [entry, *rows[1:]], 2**53)
    assert [decision_line(row) for row in history.decisions(-1)] == [log_line(d) for d in made]
    assert history.decisions_from() == 0
    history.close()
    again = opener()
    read, after = [], -1
    while page := again.decisions(after, limit=5):  # under the 24 of one position: positions are never cut
        assert {row.position for row in page} == {page[0].position}
        read, after = read + page, page[-1].position
    assert [decision_line(row) for row in read] == [log_line(d) for d in made]
    assert len(again.decisions(5, limit=RECORDS_MAX)) == len(made) // 3
    assert again.decisions(2**53) == []


def test_page_of_decisions_ends_with_a_whole_position(history):
    rows = [
        RecordRow(position, T0 * MS, "alarm", "farm", "d1", f"R{k}@farm/d1", "{}", 1, 40) for position in range(9) for k in range(3)
    ]
    history.append(no_rows(), rows, 8)
    assert history.decisions(-1, limit=7) == rows[:9]
    assert history.decisions(-1, limit=9) == rows[:9]
    assert history.decisions(1, limit=27) == rows[6:]
    with pytest.raises(ValueError, match="limit must be"):
        history.decisions(-1, limit=RECORDS_MAX + 1)


def test_rejects_are_kept_up_to_their_limit_and_other_records_for_ever(history):
    history.append(no_rows(), [RecordRow(0, T0 * MS, "event", "", "", name, "{}") for name in ("reject", "offline")], 0)
    history.append(no_rows(), [RecordRow(1, T0 * MS, "event", "", "", "reject", "{}")] * (REJECTS_KEPT - 1), 1)
    assert len(history.records(subject="reject", limit=RECORDS_MAX)) == REJECTS_KEPT
    history.append(no_rows(), [RecordRow(2, T0 * MS, "event", "", "", "reject", "{}")], 2)
    kept = history.records(subject="reject", limit=RECORDS_MAX, newest_first=False)
    assert (len(kept), kept[0].position, kept[-1].position) == (REJECTS_KEPT, 1, 2)
    assert len(history.records(subject="offline")) == 1


def test_limits_are_taken_and_one_over_them_is_refused(history):
    history.read(0, 0, 1, limit=READ_ROWS_MAX)
    history.records(limit=RECORDS_MAX)
    history.downsample(0, 0, BUCKETS_MAX, BUCKETS_MAX)
    for call in (
        lambda: history.read(0, 0, 1, limit=READ_ROWS_MAX + 1),
        lambda: history.read(0, 0, 1, limit=0),
        lambda: history.records(limit=RECORDS_MAX + 1),
        lambda: history.downsample(0, 0, 10, BUCKETS_MAX + 1),
        lambda: history.downsample(0, 0, 10, 0),
        lambda: history.downsample(0, 10, 10, 5),
    ):
        with pytest.raises(ValueError, match="must be"):
            call()


def test_retention_forgets_samples_and_keeps_records(history):
    record = RecordRow(1, T0 * MS, "alarm", "farm", "d1", "HOT@farm/d1", "{}")
    whole = np.array([1, 2], np.int16)
    members = [MemberRow(5, T0, KEYFRAME, np.arange(2, dtype=np.int32), whole)]
    history.append(make_rows([0, 0, 1], [T0, T0 + 1000, T0], 1.0), [record], 1, members=members)
    history.delete_before(T0 + 1000)
    assert (history.count(), len(everything(history)), len(history.records())) == (1, 1, 1)
    assert history.members(5, T0) is None


def test_compaction_ends_and_changes_no_answer(history):
    history.append(make_rows([0, 1, 0], [T0 + 1, T0, T0], [2.0, 9.0, 1.0]), [], 1)
    for _ in range(10):
        if history.compact(T0 + 10) == 0:
            break
    assert history.compact(T0 + 10) == 0
    assert everything(history).value.tolist() == [1.0, 2.0]
    assert history.append(make_rows([0], T0, 3.0), [], 2) == AppendResult(0, 0, 1)


def test_members_follow_their_chain_and_first_row_stays(history):
    def row(ts_ms, form, member, value):
        return MemberRow(5, ts_ms, form, np.array(member, np.int32), np.array(value, np.float32))

    chain = [row(T0, KEYFRAME, [0, 1], [1, 2]), row(T0 + 1, CHANGES, [1], [5]), row(T0 + 3, CHANGES, [], [])]
    history.append(no_rows(), [], 1, members=[*chain, row(T0 + 1, ASIDE, [0, 1], [8, 8])])
    history.append(no_rows(), [], 2, members=[row(T0 + 2, ASIDE, [0, 1], [7, 7]), row(T0 + 1, ASIDE, [0, 1], [9, 9])])
    assert history.members(5, T0).values.tolist() == [1, 2]
    assert history.members(5, T0 + 1).values.tolist() == [1, 5]
    assert history.members(5, T0 + 2).values.tolist() == [7, 7]
    assert history.members(5, T0 + 3).values.tolist() == [1, 5]
    state = history.member_state(5)
    assert (state.ts_ms, state.keyframe_ms, state.values.dtype, state.values.tolist()) == (T0 + 3, T0, np.float32, [1, 5])


def test_member_rows_in_bulk_give_back_every_array(history):
    def row(point, ts_ms, form, member, value):
        return MemberRow(point, ts_ms, form, np.array(member, np.int32), np.array(value, np.float32))

    chain = [row(5, T0, KEYFRAME, [0, 1], [1, 2]), row(6, T0 + 1, KEYFRAME, [0], [3]), row(5, T0 + 3, CHANGES, [1], [5])]
    history.append(no_rows(), [], 1, members=[*chain, row(5, T0 + 2, ASIDE, [0, 1], [7, 7]), row(5, T0 + 4, CHANGES, [], [])])
    rows, replay = sorted(history.member_rows([5, 7], T0, T0 + 4, limit=10), key=lambda r: r.ts_ms), MemberReplay()
    assert [(r.point, r.ts_ms, r.form) for r in rows] == [(5, T0, KEYFRAME), (5, T0 + 2, ASIDE), (5, T0 + 3, CHANGES)]
    assert [replay.take(r).values.tolist() for r in rows] == [[1, 2], [7, 7], [1, 5]]
    assert MemberReplay().take(rows[2]) is None  # nobody knows what the others were
    assert [len(history.member_rows([5, 6], T0, T0 + 9, limit=n)) for n in (2, 4, 5, 9)] == [2, 4, 5, 5]
    assert history.member_rows([], T0, T0 + 9, limit=9) == []


def test_reads_run_while_another_thread_appends(history):
    errors: list[BaseException] = []

    def append() -> None:
        try:
            for k in range(20):
                history.append(make_rows([0] * 100, T0 + 100 * k + np.arange(100), 1.0), [], k)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    writer = threading.Thread(target=append)
    writer.start()
    counts = []
    while writer.is_alive():
        counts.append(len(everything(history)))
        history.records()
    writer.join()
    assert errors == []
    assert all(count % 100 == 0 for count in counts) or not isinstance(history, DuckDBHistory)  # whole appends only
    assert len(everything(history)) == 2000


numbers = st.one_of(st.floats(-1e9, 1e9, width=32), st.just(math.nan))
samples = st.lists(st.tuples(st.integers(0, 60), numbers, st.sampled_from([0, UNCERTAIN, BAD])), max_size=40)
fresh_point = itertools.count(1000)
few_examples = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def own_point(history: History) -> int:
    """A point nothing was written to yet."""
    point = next(fresh_point)
    history.declare([Series(point, "farm", "h", f"p{point}", "")])
    return point


@few_examples
@given(batches=st.lists(samples, min_size=1, max_size=3))
def test_property_first_value_stays_for_any_batches(history, batches):
    point = own_point(history)
    kept: dict[int, float] = {}
    for batch in batches:
        counts = [0, 0, 0]
        for ts, value, _ in batch:
            known = kept.setdefault(ts, value) if ts in kept else None
            if known is None:
                kept[ts] = value
                counts[0] += 1
            else:
                counts[1 if known == value or (math.isnan(known) and math.isnan(value)) else 2] += 1
        rows = make_rows([point] * len(batch), [T0 + ts for ts, _, _ in batch], [v for _, v, _ in batch], 0)
        assert history.append(rows, [], history.position() + 1) == AppendResult(*counts)
    got = everything(history, point)
    assert got.ts_ms.tolist() == [T0 + ts for ts in sorted(kept)]
    np.testing.assert_array_equal(got.value, [kept[ts] for ts in sorted(kept)])


def naive_buckets(batch, start, end, width):
    """(t, min, max, mean, count, first, last, bad) of each non-empty bucket, one sample at a time."""
    groups: dict[int, list] = {}
    for ts, value, quality in sorted(batch):
        if start <= ts < end:
            groups.setdefault((ts - start) // width, []).append((value, quality))
    for bucket, group in sorted(groups.items()):
        real = [v for v, _ in group if not math.isnan(v)]
        bad = sum(1 for v, q in group if math.isnan(v) or q == BAD)
        stats = (
            [min(real), max(real), math.fsum(real) / len(real), len(real), real[0], real[-1]]
            if real
            else [math.nan] * 3 + [0] + [math.nan] * 2
        )
        yield [start + bucket * width, *stats, bad]


@few_examples
@given(batch=samples, start=st.integers(-5, 30), length=st.integers(1, 70), buckets=st.integers(1, 40))
def test_property_downsample_equals_the_naive_loop(history, batch, start, length, buckets):
    point = own_point(history)
    batch = list({ts: (T0 + ts, value, quality) for ts, value, quality in batch}.values())
    history.append(
        make_rows([point] * len(batch), *map(list, zip(*batch, strict=True))) if batch else no_rows(), [], history.position() + 1
    )
    got = history.downsample(point, T0 + start, T0 + start + length, buckets)
    assert len(got) <= buckets
    assert got.width_ms == -(-length // buckets)
    expected = np.array([*naive_buckets(batch, T0 + start, T0 + start + length, got.width_ms)]).reshape(-1, 8)
    columns = (got.t_ms, got.min, got.max, got.mean, got.count, got.first, got.last, got.bad)
    for k, column in enumerate(columns):
        np.testing.assert_allclose(column, expected[:, k], rtol=1e-9, atol=1e-9 if k == 3 else 0)


def test_recording_of_ten_thousand_rows_played_twice_changes_nothing(history):
    random = np.random.default_rng(7)
    rows = make_rows(np.arange(10_000) % POINTS, T0 + 60_000 * (np.arange(10_000) // POINTS), random.normal(size=10_000))
    assert history.append(rows, [], 1) == AppendResult(10_000, 0, 0)
    shuffled = rows.take(random.permutation(10_000))
    assert history.append(shuffled, [], 2) == AppendResult(0, 10_000, 0)
    assert history.count() == 10_000
