"""Projection: what of the journal becomes history, and that each transaction does so exactly once."""

import json

import numpy as np
import pytest

from store.duckdb_history import DuckDBHistory
from store.history import ASIDE, CHANGES, KEYFRAME, MEMBER_BASE, AppendResult, HistoryFault, decision_line
from store.journal_reader import Gap
from store.members import KEYFRAME_MS, MemberTracker, summary_number
from store.projection import DAY_MS, REJECT_BODY_MAX, Projector, decode_plan, encode_plan, project
from telemetry.decision import Decision, encode_decisions, in_order, log_line
from telemetry.errors import CorruptError
from telemetry.frame import Admission, Entries, Flag, Kind, MemberArray, Verdict, make_frames, no_frames
from telemetry.plan import Plan
from telemetry.quality import BAD, NOT_A_NUMBER, REPEATED, UNCERTAIN
from telemetry.record import Ack, Clock, Config, Event, Request, Start
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, SiteConfig
from telemetry.transaction import Transaction
from telemetry.wire.columns import encode_admission, encode_entries

T0_NS = 1_700_000_000_000_000_000
T0 = T0_NS // 1_000_000
LIVE_SEQ = int(Flag.HAS_SEQ | Flag.HAS_TS)


def site(*, site_name="farm", points=("air_temp_c", "air_rh"), devices=("d1", "d2"), members=None, deadband=0.0):
    specs = [PointSpec(name=name, unit="C", low=-50, high=80) for name in points]
    if members:
        specs.append(PointSpec(name="spindle_speed_rpm", unit="rpm", low=0, high=30000, members=members, deadband=deadband))
    return SiteConfig(
        site=site_name,
        areas=[AreaSpec(name="a")],
        devices=[DeviceSpec(name=name, profile="p", area="a") for name in devices],
        profiles={"p": Profile(name="p", points=specs)},
    )


def records_transaction(first, records, *, decisions=()):
    entries = Entries(
        first,
        np.full(len(records), Kind.EVENT, np.uint8),
        T0_NS + np.arange(len(records)) * 1_000_000,
        no_frames(),
        tuple(enumerate(records)),
    )
    return transaction(entries, Admission(np.zeros(0, np.uint8), np.zeros(0, np.uint16)), decisions)


def config(config_):
    return Config(config_.site, config_.sha256(), config_.canonical(), "anna")


def frames_transaction(first, frames, *, verdict=None, quality=None, decisions=()):
    n, m = len(frames), len(frames.point)
    entries = Entries(first, np.full(n, Kind.FRAME, np.uint8), np.full(n, T0_NS), frames)
    admission = Admission(
        np.array(verdict if verdict is not None else [Verdict.LIVE] * n, np.uint8),
        np.array(quality if quality is not None else [0] * m, np.uint16),
    )
    return transaction(entries, admission, decisions)


def transaction(entries, admission, decisions):
    return Transaction(
        entries.first,
        len(entries),
        1,
        int(entries.time_ns[-1]),
        encode_entries(entries),
        encode_admission(admission),
        encode_decisions(list(decisions)),
        b"{}",
        len(entries.frames.point),
    )


def frames(ts_ms, points, values, *, flags=LIVE_SEQ, arrays=()):
    """One frame per time with the given points each."""
    n, k = len(ts_ms), len(points)
    return make_frames(
        {
            "entry": range(n),
            "device": [0] * n,
            "ts_ns": [t * 1_000_000 for t in ts_ms],
            "boot": [1] * n,
            "seq": range(n),
            "flags": [flags] * n,
            "offsets": np.arange(n + 1) * k,
            "point": list(points) * n,
            "value": values,
            "quality": [0] * (n * k),
        },
        tuple(arrays),
    )


class Source:
    """A journal in a list."""

    def __init__(self, transactions):
        self.transactions = transactions

    def read(self, after, *, rows_max=1000):  # noqa: ARG002
        if self.transactions and after + 1 < self.transactions[0].first:
            raise Gap(after, self.transactions[0].first)
        return [t for t in self.transactions if t.first > after][:2]


class Time:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def history(tmp_path):
    store = DuckDBHistory(tmp_path / "history.duckdb", memory_mb=64)
    yield store
    store.close()


def follow_all(projector, source):
    while projector.follow(source):
        pass
    projector.flush()


def test_samples_keep_point_time_value_and_admitted_quality():
    plan = Plan()
    plan.apply(site())
    given = frames([T0, T0 + 10], [0, 1], [1.0, 2.0, 3.0, np.nan])
    rows = project(frames_transaction(0, given, quality=[0, 4, 0, BAD | NOT_A_NUMBER]), plan).rows
    assert rows.point.tolist() == [0, 1, 0, 1]
    assert rows.ts_ms.tolist() == [T0, T0, T0 + 10, T0 + 10]
    assert rows.value.tolist()[:3] == [1.0, 2.0, 3.0]
    assert np.isnan(rows.value[3])
    assert rows.quality.tolist() == [0, 4, 0, BAD | NOT_A_NUMBER]


def test_duplicate_frames_and_repeated_samples_are_left_out():
    given = frames([T0, T0 + 1, T0 + 2], [0], [1.0, 2.0, 3.0])
    verdict = [Verdict.LIVE, Verdict.DUPLICATE, Verdict.LATE]
    rows = project(frames_transaction(0, given, verdict=verdict, quality=[REPEATED, 0, 0]), Plan()).rows
    assert rows.value.tolist() == [3.0]


def test_config_gives_series_with_the_cores_numbers_also_after_a_change():
    plan = Plan()
    first = project(records_transaction(0, [config(site())]), plan).series
    assert [(s.number, s.device, s.point) for s in first] == [
        (0, "d1", "air_temp_c"),
        (1, "d1", "air_rh"),
        (2, "d2", "air_temp_c"),
        (3, "d2", "air_rh"),
    ]
    changed = project(records_transaction(1, [config(site(points=("co2_ppm", "air_rh"), devices=("d2", "d3")))]), plan).series
    assert [(s.number, s.device, s.point) for s in changed] == [
        (4, "d2", "co2_ppm"),
        (3, "d2", "air_rh"),
        (5, "d3", "co2_ppm"),
        (6, "d3", "air_rh"),
    ]


def test_plan_survives_with_numbers_of_what_left_the_configuration():
    plan = Plan()
    plan.apply(site())
    plan.apply(site(points=("co2_ppm",), devices=("d2",)))
    again = decode_plan(encode_plan(plan))
    for later in (plan, again):
        later.apply(site(points=("air_rh", "lux"), devices=("d3", "d1", "d2")))
    assert again.snapshot() == plan.snapshot()
    assert [d.points for d in again.devices] == [d.points for d in plan.devices]
    assert again.active == plan.active
    assert again.device("farm/d2").points == (3, 8)


def test_unreadable_plan_is_reported_as_corrupt():
    with pytest.raises(CorruptError, match="plan saved with the history"):
        decode_plan(b'{"sites": 3}')


def test_every_record_and_decision_becomes_a_row_with_its_place():
    plan = Plan()
    plan.apply(site())
    records = [
        Start(7, "v1"),
        Event("offline", "farm/d1", {"why": "will"}),
        Ack("farm/d1", "7-12-vent", "accepted"),
        Request("r1", "acknowledge", "anna", {"alarm": "HOT@farm/d2"}),
        Request("r2", "override", "anna", {"actuator": "farm/d1/vent", "value": 3}),
        Clock(5_000_000_000),
    ]
    decisions = [
        Decision(1, 0, T0_NS + 5, 3, "alarm", "HOT@farm/d1", {"to": "UNACK"}),
        Decision(3, 1, T0_NS, 6, "answer", "farm/anna/1", {"accepted": True}),
        Decision(4, 1, T0_NS, 5, "command", "farm/d1/vent", {"id": "7-4-vent", "state": "sent"}),
        Decision(5, 1, T0_NS, 0, "clock_wrong", "farm/d2", {}),
        Decision(5, 1, T0_NS, 0, "blind", "", {"from": 0}),
    ]
    rows = project(records_transaction(0, records, decisions=decisions), plan).records
    assert [(r.position, r.kind, r.site, r.device, r.subject) for r in rows] == [
        (0, "start", "", "", "7"),
        (1, "event", "farm", "d1", "offline"),
        (1, "alarm", "farm", "d1", "HOT@farm/d1"),
        (2, "ack", "farm", "d1", "7-12-vent"),
        (3, "request", "farm", "d2", "r1"),
        (3, "answer", "", "", "farm/anna/1"),
        (4, "request", "farm", "d1", "r2"),
        (4, "command", "farm", "d1", "farm/d1/vent"),
        (5, "clock", "", "", ""),
        (5, "blind", "", "", ""),
        (5, "clock_wrong", "farm", "d2", "farm/d2"),
    ]
    assert json.loads(rows[4].body) == {"kind": "acknowledge", "author": "anna", "body": {"alarm": "HOT@farm/d2"}}
    whole = [decision_line(row) for row in rows if row.phase is not None]
    assert whole == [log_line(decision) for decision in in_order(decisions)]


def test_config_record_keeps_the_full_text():
    given = site()
    (row,) = project(records_transaction(0, [config(given)]), Plan()).records
    assert (row.kind, row.site, row.subject) == ("config", "farm", given.sha256())
    assert json.loads(row.body) == {"author": "anna", "config": json.loads(given.canonical())}


def test_reject_payload_is_cut_at_its_limit_and_stays_json():
    fits = "x" * (REJECT_BODY_MAX - len('{"p":""}'))
    for payload, is_cut in ((fits, False), (fits + "x", True)):
        (row,) = project(records_transaction(0, [Event("reject", "", {"p": payload})]), Plan()).records
        assert ("cut" in json.loads(row.body)) is is_cut
        assert len(row.body) < REJECT_BODY_MAX + 200


def test_member_array_becomes_five_series_and_its_changed_members():
    plan = Plan()
    plan.apply(site(members=4, devices=("d1",)))
    values = np.array([10, np.nan, 30, 20], np.float32)
    given = frames([T0], [], [], arrays=[MemberArray(0, 2, values)])
    part = project(frames_transaction(0, given), plan)
    numbers = [MEMBER_BASE + 16 + k for k in range(5)]
    assert part.rows.point.tolist() == numbers
    np.testing.assert_allclose(part.rows.value, [3, 20, 10, 30, np.std([10, 20, 30])])
    assert part.rows.quality.tolist() == [UNCERTAIN | NOT_A_NUMBER] * 5
    assert part.arrays[0].point == 2
    names = {s.number: s.point for s in project(records_transaction(1, [config(site(members=4, devices=("d1",)))]), Plan()).series}
    assert [names[n] for n in numbers] == [f"spindle_speed_rpm.{k}" for k in ("count", "mean", "min", "max", "spread")]


def test_slow_drift_of_a_member_is_recorded_once_it_passes_the_deadband():
    tracker = MemberTracker(lambda _point: None)
    tracker.know([2])
    forms = []
    for k, speed in enumerate([100.0, 100.6, 101.2, 101.4]):
        row = tracker.row(2, T0 + k, np.array([speed, 50.0]), 1.0)
        forms.append((row.form, row.member.tolist()))
    assert forms == [(KEYFRAME, [0, 1]), (CHANGES, []), (CHANGES, [0]), (CHANGES, [])]
    assert tracker.row(2, T0 + 2, np.array([1.0, 2.0]), 1.0).form == ASIDE
    assert tracker.row(2, T0 + KEYFRAME_MS, np.array([1.0, 2.0]), 1.0).form == KEYFRAME


def mill(values_list, first=1):
    return [
        frames_transaction(first + k, frames([T0 + 1000 * k], [], [], arrays=[MemberArray(0, 2, np.array(values, np.int16))]))
        for k, values in enumerate(values_list)
    ]


def test_members_at_any_time_are_what_was_recorded_also_across_a_restart(history):
    arrays = [[1, 2, 3], [1, 2, 4], [9, 2, 4], [9, 9, 9]]
    journal = [records_transaction(0, [config(site(members=3, devices=("d1",)))]), *mill(arrays)]
    follow_all(Projector(history, now_s=Time()), Source(journal[:3]))
    follow_all(Projector(history, now_s=Time()), Source(journal))
    for k, values in enumerate(arrays):
        assert history.members(2, T0 + 1000 * k + 500).values.tolist() == values
    assert history.members(2, T0 - 1) is None
    assert history.count(point=summary_number(2, 1)) == 4


def test_array_out_of_order_stands_aside_and_spoils_no_later_state(history):
    journal = [records_transaction(0, [config(site(members=2, devices=("d1",)))]), *mill([[1, 1], [1, 2]])]
    late = frames([T0 + 500], [], [], arrays=[MemberArray(0, 2, np.array([7, 7], np.int16))])
    journal.append(frames_transaction(3, late, verdict=[Verdict.BACKFILL]))
    follow_all(Projector(history, now_s=Time()), Source(journal))
    assert history.members(2, T0 + 600).values.tolist() == [7, 7]
    assert history.members(2, T0 + 1000).values.tolist() == [1, 2]
    assert history.member_state(2).ts_ms == T0 + 1000


def recording(first, *, verdict=Verdict.REPLAY):
    given = frames([T0 + 60_000 * k for k in range(50)], [0, 1], np.arange(100.0))
    return frames_transaction(first, given, verdict=[verdict] * 50)


def test_same_recording_played_twice_leaves_samples_unchanged(history):
    journal = [records_transaction(0, [config(site())]), recording(1)]
    projector = Projector(history, now_s=Time())
    follow_all(projector, Source(journal))
    before = history.read(0, 0, T0 * 2, limit=1000)
    for part in [recording(51)]:
        projector.take(part)
    assert projector.flush() == AppendResult(0, 100, 0)
    after = history.read(0, 0, T0 * 2, limit=1000)
    assert after.value.tolist() == before.value.tolist()
    assert history.count() == 100


def test_rows_wait_for_company_but_not_longer_than_told(history):
    clock = Time()
    projector = Projector(history, now_s=clock, rows_max=150, wait_s=1.0)
    source = Source([records_transaction(0, [config(site())]), recording(1)])
    projector.follow(source)
    assert history.position() == -1
    clock.now_s = 0.99
    projector.follow(source)
    assert history.position() == -1
    clock.now_s = 1.0
    projector.follow(source)
    assert history.position() == 50
    source.transactions += [recording(51), recording(101)]
    projector.follow(source)
    assert history.position() == 150  # 200 rows wait: over rows_max


class FailingOnce:
    """A history whose append fails once, before or after it took effect."""

    def __init__(self, history, *, after):
        self._history, self._after, self._failed = history, after, False

    def __getattr__(self, name):
        return getattr(self._history, name)

    def append(self, *given, **named):
        if self._failed:
            return self._history.append(*given, **named)
        self._failed = True
        if self._after:
            self._history.append(*given, **named)
        raise HistoryFault("gone for a while", retryable=True)


@pytest.mark.parametrize("after", [False, True])
def test_failed_append_loses_and_doubles_nothing(history, after):
    journal = [records_transaction(0, [config(site())]), recording(1, verdict=Verdict.LIVE)]
    projector = Projector(FailingOnce(history, after=after), now_s=Time())
    projector.follow(Source(journal))
    with pytest.raises(HistoryFault, match="gone"):
        projector.flush()
    assert projector.rows_waiting == 101
    follow_all(projector, Source([*journal, recording(51)]))
    assert history.count() == 100
    assert len(history.records()) == 1
    assert history.position() == 100


def test_restart_goes_on_behind_the_written_position_with_the_same_numbers(history):
    journal = [records_transaction(0, [config(site())]), recording(1)]
    lost = Projector(history, now_s=Time())
    follow_all(lost, Source(journal[:1]))
    lost.follow(Source(journal))  # taken, never written: the process dies here
    again = Projector(history, now_s=Time())
    assert again.position == 0
    assert again.plan.snapshot() == lost.plan.snapshot()
    follow_all(again, Source(journal))
    assert history.count() == 100


def test_hole_in_the_journal_is_refused(history):
    with pytest.raises(CorruptError, match="at journal position -1, the next transaction begins at 5"):
        Projector(history, now_s=Time()).take(recording(5))


def test_gap_in_the_journal_is_kept_and_the_numbers_of_the_missed_configuration_are_learnt(history):
    plan = Plan()
    plan.apply(site(devices=("d0", "d1", "d2")))
    projector = Projector(history, now_s=Time(), newest_plan=lambda: plan)
    follow_all(projector, Source([records_transaction(0, [config(site(devices=("d0",)))])]))
    follow_all(projector, Source([recording(10)]))
    (gap,) = history.records(kind="gap")
    assert json.loads(gap.body) == {"first": 1, "last": 9, "plan_known": True}
    assert (gap.position, history.position(), history.count()) == (9, 59, 100)
    assert [row.number for row in history.series()] == list(range(6))
    assert Projector(history, now_s=Time()).plan.snapshot() == plan.snapshot()


def test_gap_without_a_snapshot_goes_on_while_the_numbers_agree(history):
    projector = Projector(history, now_s=Time())
    follow_all(projector, Source([records_transaction(0, [config(site(devices=("d0",)))])]))
    follow_all(projector, Source([recording(10)]))
    assert json.loads(history.records(kind="gap")[0].body)["plan_known"] is False
    assert history.count() == 100


def test_gap_without_a_snapshot_refuses_numbers_it_cannot_know(history):
    plans: list[Plan] = []
    projector = Projector(history, now_s=Time(), newest_plan=lambda: plans[0] if plans else None)
    with pytest.raises(CorruptError, match="cannot know what its point numbers mean"):
        projector.follow(Source([recording(10)]))
    assert (history.count(), history.position()) == (0, 9)
    plans.append(Plan())
    plans[0].apply(site())
    follow_all(projector, Source([recording(10)]))
    assert (history.count(), len(history.series())) == (100, 4)
    assert Projector(history, now_s=Time()).plan.snapshot() == plans[0].snapshot()


def test_finished_days_are_sorted_and_old_ones_forgotten_on_the_way(history):
    clock = Time()
    clock.now_s = T0 / 1000
    projector = Projector(history, now_s=clock, keep_ms=3 * DAY_MS)
    source = Source([records_transaction(0, [config(site())]), recording(1)])
    follow_all(projector, source)
    clock.now_s += 1.5 * 86_400
    projector.follow(source)
    assert history.compact(T0 + DAY_MS) == 0  # already done
    assert history.count() == 100
    clock.now_s += 5 * 86_400
    projector.follow(source)
    assert (history.count(), len(history.records())) == (0, 1)
