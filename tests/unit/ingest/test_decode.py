"""Decoding: every input becomes rows or a counted reject, never an exception; identity comes from the topic."""

import gzip
import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.admit import Admit
from ingest.decode import REJECTS_KEPT, Directory, Gather
from telemetry import quality
from telemetry.frame import Entries, Flag, Kind
from telemetry.plan import Plan
from telemetry.record import Ack, Event
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, SiteConfig
from telemetry.span import Span
from telemetry.wire.message import PAYLOAD_MAX, REASONS, encode_packed

NOW = 1_760_000_000_000_000_000
TOPIC = "fl/farm/dev-0/telemetry"
POINTS = [
    PointSpec(name="air_temp_c", unit="C", low=-40, high=80),
    PointSpec(name="air_rh_pct", unit="%", low=0, high=100),
    PointSpec(name="speed_rpm", unit="rpm", low=0, high=20000, members=4),
    PointSpec(name="air_vpd_kpa", unit="kPa", low=0, high=10, expression="vpd_kpa(air_temp_c, air_rh_pct)"),
]


def make_plan() -> Plan:
    plan = Plan()
    plan.apply(
        SiteConfig(
            site="farm",
            areas=[AreaSpec(name="a")],
            devices=[DeviceSpec(name="dev", profile="p", area="a", count=2)],
            profiles={"p": Profile(name="p", points=POINTS)},
        )
    )
    return plan


def take(*messages: tuple[str, bytes], retained: bool = False) -> Entries:
    gather = Gather(Directory(make_plan()))
    for topic, payload in messages:
        gather.take(topic, payload, retained, NOW)
    return gather.build(0, NOW, 0)


def reasons(entries: Entries) -> list[str]:
    return [r.body["reason"] for _, r in entries.records if isinstance(r, Event) and r.name == "reject"]


def text(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_one_row_becomes_one_frame() -> None:
    entries = take((TOPIC, text(v=1, boot=3, seq=4, ts=1_760_000_000_000, p={"air_temp_c": 21.5, "air_rh_pct": 60})))
    frames = entries.frames
    assert (len(frames), frames.point.tolist(), frames.value.tolist()) == (1, [0, 1], [21.5, 60.0])
    assert frames.flags[0] == Flag.FIRST | Flag.HAS_SEQ | Flag.HAS_TS
    assert (frames.boot[0], frames.seq[0], frames.ts_ns[0]) == (3, 4, NOW)


def test_rows_become_frames_of_one_message() -> None:
    rows = [{"ts": 1_760_000_000_000 + i, "p": {"air_temp_c": i}} for i in range(3)]
    entries = take((TOPIC, text(boot=1, seq=1, rows=rows)))
    assert [(int(f) & Flag.FIRST) != 0 for f in entries.frames.flags] == [True, False, False]


def test_missing_time_stamp_is_arrival_time() -> None:
    entries = take((TOPIC, text(p={"air_temp_c": 1.0})))
    assert entries.frames.ts_ns[0] == NOW
    assert not entries.frames.flags[0] & Flag.HAS_TS


def test_null_is_a_bad_sample_and_quality_words_are_kept() -> None:
    entries = take((TOPIC, text(p={"air_temp_c": None, "air_rh_pct": 50}, q={"air_rh_pct": "UNCERTAIN"})))
    assert math.isnan(entries.frames.value[0])
    assert [quality.level(int(q)) for q in entries.frames.quality] == ["BAD", "UNCERTAIN"]


def test_good_values_of_a_message_survive_a_bad_one() -> None:
    entries = take((TOPIC, b'{"boot":1,"seq":2,"p":{"air_temp_c":21.5,"air_rh_pct":"wet","nonsense":3}}'))
    assert entries.frames.value.tolist() == [21.5]
    (event,) = [r for _, r in entries.records]
    assert isinstance(event, Event)
    assert (event.body["messages"], event.body["samples"]) == (0, 2)


def test_packed_array_keeps_its_wire_type() -> None:
    values = np.array([1, 2, 3, 4], np.float32)
    entries = take((TOPIC, encode_packed("speed_rpm", values, ts_ms=1_760_000_000_000, boot=1, seq=9)))
    (array,) = entries.frames.arrays
    assert array.values.dtype == np.float32
    assert array.values.tolist() == [1, 2, 3, 4]


def test_retained_telemetry_is_flagged() -> None:
    entries = take((TOPIC, text(p={"air_temp_c": 1})), retained=True)
    assert entries.frames.flags[0] & Flag.RETAINED


def test_acknowledgement_becomes_a_record_of_the_topics_device() -> None:
    entries = take(("fl/farm/dev-1/ack", b'{"id":"1-2-x","status":"accepted"}'))
    assert entries.records[0][1] == Ack("farm/dev-1", "1-2-x", "accepted")
    assert entries.kind[0] == Kind.ACK


HOSTILE = {
    "topic": [
        ("fl/farm/dev-0", b"{}"),
        ("fl/farm/<img onerror=1>/telemetry", b"{}"),
        ("x/y/z/telemetry", b"{}"),
        ("fl/farm/dev-0/command", b"{}"),
    ],
    "unknown_device": [("fl/farm/nobody/telemetry", b'{"p":{"air_temp_c":1}}'), ("fl/other/dev-0/telemetry", b"{}")],
    "unknown_point": [(TOPIC, b'{"p":{"co2_ppm":400}}'), (TOPIC, encode_packed("co2_ppm", np.zeros(4, np.float32)))],
    "too_large": [(TOPIC, b'{"p":{"air_temp_c":1}}' + b" " * PAYLOAD_MAX)],
    "too_many_rows": [(TOPIC, b'{"rows":[]}'), (TOPIC, text(rows=[{"p": {"air_temp_c": 1}}] * 10_001))],
    "malformed": [
        ("fl/farm/dev-0/status", b'{"state":"party"}'),
        ("fl/farm/dev-0/ack", b'{"id":"x","status":"maybe"}'),
        (TOPIC, b""),
        (TOPIC, b"\xff\xfe"),
        (TOPIC, b"[1]"),
        (TOPIC, b"{"),
        (TOPIC, b"[" * 100_000),
        (TOPIC, b'{"p":{}}'),
        (TOPIC, b'{"p":{"air_temp_c":NaN}}'),
        (TOPIC, b'{"p":{"air_temp_c":1e999}}'),
        (TOPIC, b'{"p":{"air_temp_c":1},"role":"admin"}'),
        (TOPIC, b'{"p":{"air_temp_c":1},"device":"dev-1"}'),
        (TOPIC, gzip.compress(b" " * 1_000_000)),
        (TOPIC, b'{"p":{"\\ud800":1}}'),
        (TOPIC, b'{"p":{"air_temp_c":1},"rows":[{"p":{"air_temp_c":1}}]}'),
        (TOPIC, b'{"ts":1.5,"p":{"air_temp_c":1}}'),
        (TOPIC, b'{"p":{"air_temp_c":' + b"9" * 5000 + b"}}"),
    ],
    "version": [(TOPIC, b'{"v":2,"p":{"air_temp_c":1}}')],
    "value": [(TOPIC, b'{"p":{"air_temp_c":true}}'), (TOPIC, b'{"p":{"air_temp_c":"21"}}'), (TOPIC, b'{"p":{"air_temp_c":{}}}')],
    "virtual_point": [(TOPIC, b'{"p":{"air_vpd_kpa":0.4}}'), (TOPIC, encode_packed("air_vpd_kpa", np.zeros(4, np.float32)))],
    "unit": [(TOPIC, b'{"p":{"air_temp_c":70},"u":{"air_temp_c":"F"}}')],
    "timestamp": [(TOPIC, b'{"ts":-1,"p":{"air_temp_c":1}}'), (TOPIC, b'{"ts":99999999999999999,"p":{"air_temp_c":1}}')],
    "sequence": [(TOPIC, b'{"boot":1,"p":{"air_temp_c":1}}'), (TOPIC, b'{"boot":1,"seq":4294967296,"p":{"air_temp_c":1}}')],
    "members": [(TOPIC, b'{"p":{"speed_rpm":[1,2]}}'), (TOPIC, b'{"p":{"speed_rpm":5}}'), (TOPIC, b'{"p":{"air_temp_c":[1]}}')],
    "packed": [
        (TOPIC, b"FL1\x00"),
        (TOPIC, encode_packed("speed_rpm", np.zeros(4, np.float32))[:-1]),
        (TOPIC, b"FL1\x00" + b"\xff" * 60),
    ],
    "retained": [],
}


def test_every_reason_is_documented_and_has_a_case() -> None:
    assert set(HOSTILE) == set(REASONS)


@pytest.mark.parametrize(("reason", "topic", "payload"), [(r, t, p) for r, cases in HOSTILE.items() for t, p in cases])
def test_hostile_input_is_rejected_with_its_reason(reason: str, topic: str, payload: bytes) -> None:
    entries = take((topic, payload))
    assert reasons(entries) == [reason]
    assert len(entries.frames) == 0


def test_retained_ack_is_rejected() -> None:
    assert reasons(take(("fl/farm/dev-0/ack", b'{"id":"x","status":"accepted"}'), retained=True)) == ["retained"]


def test_flood_of_rejects_keeps_some_payloads_and_counts_all() -> None:
    entries = take(*[(TOPIC, b"{")] * 1000)
    assert len(entries.records) == REJECTS_KEPT + 1
    assert sum(r.body["messages"] for _, r in entries.records if isinstance(r, Event)) == 1000


def test_engine_times_never_decrease() -> None:
    gather = Gather(Directory(make_plan()))
    for received in (NOW, NOW - 5, NOW + 3):
        gather.take(TOPIC, b'{"p":{"air_temp_c":1}}', False, received)
    assert gather.build(7, NOW, NOW + 1).time_ns.tolist() == [NOW + 1, NOW + 1, NOW + 3]


json_like = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers(-(1 << 70), 1 << 70) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=12) | st.sampled_from(["p", "ts", "rows", "air_temp_c"]), inner, max_size=4)
    ),
    max_leaves=12,
)
GOOD = text(v=1, boot=1, seq=2, ts=1_760_000_000_000, p={"air_temp_c": 21.5}, q={"air_temp_c": "GOOD"}, u={"air_temp_c": "C"})
PACKED = encode_packed("speed_rpm", np.arange(4, dtype=np.float32), boot=1, seq=3)
bytes_like = (
    st.binary(max_size=200)
    | json_like.map(lambda value: json.dumps(value).encode())
    | st.integers(0, len(GOOD)).map(lambda n: GOOD[:n])
    | st.integers(0, len(PACKED)).map(lambda n: PACKED[:n])
    | st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)).map(lambda t: GOOD[: t[0]] + bytes([t[1]]) + GOOD[t[0] + 1 :])
    | st.tuples(st.integers(4, len(PACKED) - 1), st.integers(0, 255)).map(
        lambda t: PACKED[: t[0]] + bytes([t[1]]) + PACKED[t[0] + 1 :]
    )
)
topics = st.sampled_from([TOPIC, *(f"fl/farm/dev-1/{channel}" for channel in ("backfill", "ack", "event", "status"))]) | st.text(
    max_size=30
)


any_messages = st.lists(
    st.tuples(
        st.sampled_from([TOPIC, "fl/farm/dev-1/backfill", "fl/farm/dev-0/ack", "fl/farm/dev-0/event", "fl/farm/dev-0/status"])
        | st.text(max_size=30),
        bytes_like,
    ),
    min_size=1,
    max_size=8,
)


def account(messages: list[tuple[str, bytes]]) -> None:
    """received = stored + duplicate + rejected + pending, whatever arrives."""
    plan = make_plan()
    gather = Gather(Directory(plan))
    for topic, payload in messages:
        gather.take(topic, payload, False, NOW)
    pending = gather.messages
    span = Span(gather.build(0, NOW, 0), plan)
    admit = Admit()
    admit.configure(plan)
    admit.run(span)
    assert admit.accounting.is_balanced()
    assert admit.accounting.received == pending == len(messages)


@settings(max_examples=1500, deadline=None)
@given(any_messages)
def test_any_bytes_give_rows_or_a_counted_reject(messages: list[tuple[str, bytes]]) -> None:
    account(messages)


@pytest.mark.torture
@settings(max_examples=20_000, deadline=None)
@given(any_messages)
def test_very_many_bytes_give_rows_or_a_counted_reject(messages: list[tuple[str, bytes]]) -> None:
    account(messages)


@pytest.mark.alone
def test_work_is_linear_in_size() -> None:
    """The slowest 64 KiB shapes stay far below the time at which one message would delay the others."""
    deep = b'{"p":{"air_temp_c":' + b"[" * 32_000 + b"]" * 32_000 + b"}}"
    wide = b'{"p":{' + b",".join(b'"x%d":1' % i for i in range(7000)) + b"}}"
    long = b'{"p":{"air_temp_c":' + b"1" * 65_000 + b"}}"
    for payload in (deep, wide, long):
        began = time.perf_counter()
        take((TOPIC, payload))
        assert time.perf_counter() - began < 0.25
