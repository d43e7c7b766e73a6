"""Journal columns: what goes in comes out, and damaged bytes are refused."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.errors import CorruptError
from telemetry.frame import (
    COLUMNS,
    DTYPES,
    Admission,
    Entries,
    Frames,
    Kind,
    MemberArray,
    join_entries,
    make_derived,
    slice_entries,
)  # fmt: skip
from telemetry.record import Ack, Clock, Config, Event, Request, Start
from telemetry.wire.columns import decode_admission, decode_entries, encode_admission, encode_entries

RECORDS = (
    Event("birth", "s/d", {"boot": 1}),
    Ack("s/d", "1-2-s/d/vent", "accepted"),
    Request("q1", "acknowledge", "安娜", {"alarm": "HOT@s/d"}),
    Config("s", "00", "{}"),
    Clock(-5),
    Start(9, "x"),
)
KINDS = (Kind.EVENT, Kind.ACK, Kind.REQUEST, Kind.CONFIG, Kind.CLOCK, Kind.START)


@st.composite
def entries(draw: st.DrawFn) -> Entries:
    sizes = draw(st.lists(st.integers(0, 4), max_size=8))
    kinds = draw(st.permutations([*[(Kind.FRAME, None)] * len(sizes), (Kind.TICK, None), *zip(KINDS, RECORDS, strict=True)]))
    n, m = len(sizes), sum(sizes)
    floats = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)
    columns = {
        "entry": [i for i, (kind, _) in enumerate(kinds) if kind is Kind.FRAME],
        "device": draw(st.lists(st.integers(0, 2**31 - 1), min_size=n, max_size=n)),
        "ts_ns": draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=n, max_size=n)),
        "boot": draw(st.lists(st.integers(0, 2**32 - 1), min_size=n, max_size=n)),
        "seq": draw(st.lists(st.integers(0, 2**32 - 1), min_size=n, max_size=n)),
        "flags": draw(st.lists(st.integers(0, 255), min_size=n, max_size=n)),
        "offsets": np.concatenate([[0], np.cumsum(sizes)]),
        "point": draw(st.lists(st.integers(0, 2**31 - 1), min_size=m, max_size=m)),
        "value": draw(st.lists(floats, min_size=m, max_size=m)),
        "quality": draw(st.lists(st.integers(0, 65_535), min_size=m, max_size=m)),
    }
    arrays = tuple(MemberArray(f, 3, np.arange(f, dtype=np.int16)) for f in range(n))
    frames = Frames(**{name: np.array(columns[name], DTYPES[name]) for name in COLUMNS}, arrays=arrays)
    records = tuple((i, record) for i, (_, record) in enumerate(kinds) if record is not None)
    return Entries(draw(st.integers(0, 2**62)), np.array([k for k, _ in kinds], np.uint8), np.arange(len(kinds)), frames, records)


def assert_same(a: Entries, b: Entries) -> None:
    assert (a.first, a.records) == (b.first, b.records)
    assert a.kind.tobytes() == b.kind.tobytes()
    assert a.time_ns.tobytes() == b.time_ns.tobytes()
    for name in COLUMNS:
        x, y = getattr(a.frames, name), getattr(b.frames, name)
        assert (x.dtype, x.tobytes()) == (y.dtype, y.tobytes()), name
    arrays = [[(m.frame, m.point, m.values.dtype, m.values.tobytes()) for m in e.frames.arrays] for e in (a, b)]
    assert arrays[0] == arrays[1]


@settings(max_examples=60, deadline=None)
@given(entries())
def test_entries_survive_the_journal(made: Entries) -> None:
    data = encode_entries(made)
    back = decode_entries(data)
    assert_same(back, made)
    assert encode_entries(back) == data


@settings(max_examples=40, deadline=None)
@given(entries(), st.data())
def test_a_slice_holds_whole_entries(made: Entries, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(made)))
    parts = [slice_entries(made, 0, cut), slice_entries(made, cut, len(made))]
    assert [len(p) for p in parts] == [cut, len(made) - cut]
    assert sum(len(p.frames) for p in parts) == len(made.frames)
    assert b"".join(p.frames.value.tobytes() for p in parts) == made.frames.value.tobytes()
    assert [r for p in parts for _, r in p.records] == [r for _, r in made.records]
    assert sum(len(p.frames.arrays) for p in parts) == len(made.frames.arrays)


@settings(max_examples=40, deadline=None)
@given(entries(), st.data())
def test_slices_join_to_what_they_were_cut_from(made: Entries, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(made)), max_size=3)))
    joined = join_entries([slice_entries(made, a, b) for a, b in itertools.pairwise([0, *cuts, len(made)])])
    assert_same(joined, made)
    assert encode_entries(joined) == encode_entries(made)


def test_admission_survives_the_journal() -> None:
    made = Admission(np.array([0, 3, 6], np.uint8), np.array([0, 1024, 65_535], np.uint16))
    back = decode_admission(encode_admission(made))
    assert (back.verdict.tolist(), back.quality.tolist()) == ([0, 3, 6], [0, 1024, 65_535])


def test_samples_of_virtual_points_survive_the_journal() -> None:
    said = make_derived([0, 3], [7, 9], [5, 1 << 60], [1.5, np.nan], [0, 34])
    back = decode_admission(encode_admission(Admission(np.array([0], np.uint8), np.zeros(2, np.uint16), said)))
    assert (back.verdict.tolist(), back.quality.tolist()) == ([0], [0, 0])
    assert [column.tolist() for column in back.derived][:3] == [[0, 3], [7, 9], [5, 1 << 60]]
    assert str(back.derived.value.tolist()) == "[1.5, nan]"
    assert back.derived.quality.tolist() == [0, 34]
    assert [column.dtype for column in back.derived] == [column.dtype for column in said]


def test_damage_is_refused() -> None:
    data = encode_admission(Admission(np.zeros(3, np.uint8), np.zeros(3, np.uint16)))
    for damaged in (b"XXXX" + data[4:], data + b"\x00"):
        with pytest.raises(CorruptError):
            decode_admission(damaged)


def test_what_was_decoded_cannot_be_written_to() -> None:
    frames = Frames(**{name: np.zeros(1 if name == "offsets" else 0, DTYPES[name]) for name in COLUMNS})
    back = decode_entries(encode_entries(Entries(0, np.zeros(1, np.uint8), np.zeros(1, np.int64), frames)))
    with pytest.raises(ValueError, match="read-only"):
        back.time_ns[0] = 1
