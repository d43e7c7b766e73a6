"""The order of entries beside a history: what goes in comes out, bit for bit, with the values and records the history's own rows give."""

from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.recompute import read_history
from store.duckdb_history import DuckDBHistory
from store.history import HistoryFault, Run, no_rows
from store.order import decode_order, encode_order
from store.projection import Projector
from telemetry.decision import encode_decisions
from telemetry.errors import CallerError, CorruptError
from telemetry.frame import Admission, Entries, Flag, Kind, MemberArray, Verdict, join_entries, make_frames, no_frames
from telemetry.quality import BAD, REPEATED
from telemetry.record import Ack, Clock, Event, Request, Start
from telemetry.transaction import Transaction
from telemetry.wire.columns import encode_admission, encode_entries

T0 = 1_700_000_000_000_000_000
MS = 1_000_000
SEQ = int(Flag.HAS_SEQ | Flag.HAS_TS)
RECORDS = [
    Start(4, "fieldloom 9"), Clock(-5), Ack("farm/d1", "c-1", "accepted"), Ack("elsewhere", "c-2", "refused", "why"),
    Event("offline", "farm/d1", {"boot": 7}), Event("device_event", "nowhere/d9", {"ratio": 1 / 3, "word": "开"}),
    Request("r1", "shelve", "ann", {"alarm": "HOT@farm/d1", "seconds": 3.0}),
Event("records", "", {"messages": 3}),
]  # fmt: skip


def frames(rows: list[tuple[int, int, list[tuple[int, float, int]]]], *, first_entry: int = 0, arrays: Any = ()) -> Any:
    """(device, ts_ns, samples of (point, value, quality)) each, one entry a frame."""
    samples = [sample for _, _, row in rows for sample in row]
    n = len(rows)
    return make_frames(
        {
            "entry": np.arange(n) + first_entry, "device": [d for d, _, _ in rows], "ts_ns": [ts for _, ts, _ in rows],
            "boot": [9] * n, "seq": [1 << 31] * n, "flags": [SEQ] * n, "offsets": np.cumsum([0, *(len(row) for _, _, row in rows)]),
            "point": [p for p, _, _ in samples], "value": [v for _, v, _ in samples], "quality": [q for _, _, q in samples],
        },
        tuple(arrays),
    )  # fmt: skip


def entries_of(columns: Any, *, first: int = 0) -> Entries:
    n = len(columns)
    return Entries(first, np.full(n, Kind.FRAME, np.uint8), T0 + np.arange(n) * MS, columns)


def records_of(records: list[Any], *, first: int = 0) -> Entries:
    kind = np.full(len(records), Kind.EVENT, np.uint8)
    return Entries(first, kind, np.full(len(records), T0), no_frames(), tuple(enumerate(records)))


def transaction(entries: Entries, *, verdict: Any = Verdict.LIVE, quality: Any = None) -> Transaction:
    f = entries.frames
    admission = Admission(
        np.broadcast_to(np.uint8(verdict), len(f)).copy(), f.quality.copy() if quality is None else np.array(quality, np.uint16)
    )
    return Transaction(
        entries.first, len(entries), 1, int(entries.time_ns[-1]), encode_entries(entries), encode_admission(admission),
        encode_decisions([]), b"{}", len(f.point),
    )  # fmt: skip


@pytest.fixture
def history(tmp_path):
    with closing(DuckDBHistory(tmp_path / "history.duckdb", memory_mb=64)) as store:
        yield store


def through(history: DuckDBHistory, *transactions: Transaction) -> Entries:
    """What a history gives back, each transaction in a flush of its own."""
    projector = Projector(history, now_s=lambda: 0.0)
    for one in transactions:
        projector.take(one)
        projector.flush()
    return join_entries(list(read_history(history)))


def test_awkward_values_come_back_bit_for_bit(history):
    values = [0.0, -0.0, 5e-324, -1.7976931348623157e308, np.inf, -np.inf, np.nan, 1 / 3]
    given_ = entries_of(frames([(0, T0 + k * MS, [(3, value, BAD if k % 2 else 0)]) for k, value in enumerate(values)]))
    back = through(history, transaction(given_))
    assert encode_entries(back) == encode_entries(given_)
    assert decode_order(history.runs(-1)[0]).is_stored.tolist() == [np.isfinite(v) or np.isnan(v) for v in values]


def test_what_history_did_not_store_travels(history):
    """The same ms with another value, in one flush and in another, as a duplicate, as repeated, and live after it came too early."""
    first = entries_of(frames([(0, T0, [(1, 1.0, 0)]), (0, T0 + 400, [(1, 2.0, 0), (2, 7.0, 0)])]))
    early = entries_of(frames([(0, T0 + 9 * MS, [(1, 8.0, 0)])]), first=2)
    live = entries_of(frames([(0, T0 + 9 * MS, [(1, 9.0, 0)]), (0, T0 + 700, [(2, 6.0, 0)])]), first=3)
    twice = entries_of(frames([(0, T0 + 1, [(1, 1.5, 0), (1, 1.75, 0)])]), first=5)
    back = through(
        history, transaction(first), transaction(early, verdict=Verdict.FUTURE), transaction(live),
        transaction(twice, quality=[REPEATED, REPEATED]),
    )  # fmt: skip
    assert encode_entries(back) == encode_entries(join_entries([first, early, live, twice]))
    assert history.count() == 3  # one value for each point and ms
    repeated = entries_of(frames([(0, T0, [(1, 1.0, 0)])]), first=6)
    back = through(history, transaction(repeated, verdict=Verdict.DUPLICATE))
    assert encode_entries(back) == encode_entries(join_entries([first, early, live, twice, repeated]))


def test_records_come_back_whether_their_rows_tell_all_or_not(history):
    given_ = records_of(RECORDS)
    assert through(history, transaction(given_)).records == given_.records
    carried = decode_order(Run(0, len(given_) - 1, history.runs(-1)[0].data, []))
    assert {index for index, _ in carried.entries.records} >= {3, 5}  # of places that no configuration names


def test_rejects_come_back_without_their_payload_and_without_their_rows(history):
    body = {"reason": "malformed", "boot": 3, "seq": 8, "messages": 1, "samples": 0}
    back = through(history, transaction(records_of([Event("reject", "farm/d1", {**body, "payload": "x" * 9000})])))
    assert back.records == ((0, Event("reject", "farm/d1", body)),)


def test_member_arrays_travel_whole():
    rng = np.random.default_rng(1)
    arrays = [MemberArray(k, 5, rng.integers(0, 9, 300).astype(dtype)) for k, dtype in enumerate(["<u2", "<u2", "<f4"])]
    given_ = entries_of(frames([(0, T0 + k * MS, []) for k in range(3)], arrays=arrays))
    packed = decode_order(Run(0, 2, encode_order(given_, np.zeros(0, np.bool_), {}), []))
    assert encode_entries(packed.entries) == encode_entries(given_)


def test_a_changed_bit_of_a_stored_value_is_read(history):
    given_ = entries_of(frames([(0, T0, [(1, 1.0, 0)])]))
    through(history, transaction(given_))
    with history._transaction() as connection:
        connection.execute("UPDATE recent SET value = ?", [float(np.nextafter(1.0, 2.0))])
    assert next(iter(read_history(history))).frames.value.tolist() == [np.nextafter(1.0, 2.0)]
    with history._transaction() as connection:
        connection.execute("DELETE FROM recent")
    with pytest.raises(HistoryFault, match="no longer has a sample of point 1"):
        list(read_history(history))


def test_a_gap_of_the_history_is_refused(history):
    through(history, transaction(entries_of(frames([(0, T0, [(1, 1.0, 0)])]))))
    history.append(no_rows(), [], 4)  # as a version without order, or a gap, leaves it
    with pytest.raises(CallerError, match=r"lacks the order of journal positions 1 to 4"):
        list(read_history(history))


@pytest.mark.parametrize("spoil", [lambda d: d[:-3], lambda d: d[:20] + b"\x00" * 4 + d[24:], lambda _: b""])
def test_damaged_bytes_are_told(spoil):
    data = encode_order(entries_of(frames([(0, T0, [(1, 1.0, 0)])])), np.zeros(1, np.bool_), {})
    with pytest.raises(CorruptError, match="order of entries 0 to 0"):
        decode_order(Run(0, 0, spoil(data), []))


ROW = st.tuples(
    st.integers(0, 3), st.integers(-(10**12), 10**12).map(lambda d: T0 + d),
    st.lists(st.tuples(st.integers(0, 9), st.floats(allow_nan=False), st.integers(0, 0xFFFF)), max_size=3),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=20), st.data())
def test_any_run_survives(rows, data):
    entries = entries_of(frames(rows))
    entries = replace(entries, time_ns=entries.time_ns.copy())
    m = len(entries.frames.point)
    is_stored = np.array(data.draw(st.lists(st.booleans(), min_size=m, max_size=m)), np.bool_)
    packed = decode_order(Run(0, len(entries) - 1, encode_order(entries, is_stored, {}), []))
    assert packed.is_stored.tolist() == is_stored.tolist()
    assert encode_entries(packed.fill(entries.frames.value[is_stored])) == encode_entries(entries)


def test_bytes_are_few():
    """Ten points of a device each second: what is alike costs next to nothing."""
    rows = [(d, T0 + s * 1000 * MS, [(d * 10 + p, 20.0, 0) for p in range(10)]) for s in range(20) for d in range(50)]
    entries = entries_of(frames(rows))
    assert len(encode_order(entries, np.ones(10_000, np.bool_), {})) < 5_000
