"""The wire format, both ends."""

import json
import math
import struct

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.wire import message as wire


def decode(payload: bytes) -> tuple[wire.Message | wire.Reject, list[wire.Reject]]:
    bad: list[wire.Reject] = []
    return wire.decode_message(payload, bad), bad


@pytest.mark.parametrize(
    "made",
    [
        wire.Message(p={"a": 1.5, "b": None, "c": [1.0, 2.0]}, ts=5, boot=0, seq=2**32 - 1, u={"a": "C"}, q={"a": "BAD"}),
        wire.Message(rows=[wire.Row(p={"a": 1.0}), wire.Row(p={"a": -0.0}, ts=7)]),
    ],
)
def test_what_is_encoded_decodes(made: wire.Message) -> None:
    assert decode(wire.encode(made)) == (made, [])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False)))
def test_every_finite_number_keeps_its_bits(values: dict[str, float]) -> None:
    message, bad = decode(wire.encode(wire.Message(p=dict(values))))
    assert isinstance(message, wire.Message)
    assert message.p is not None
    assert bad == []
    assert {k: struct.pack("<d", v) for k, v in values.items()} == {k: struct.pack("<d", v) for k, v in message.p.items()}


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_words_of_some_encoders_are_no_numbers(word: str) -> None:
    message, _ = decode(b'{"p": {"a": %s, "b": 1}}' % word.encode())
    assert isinstance(message, wire.Reject)
    assert message.reason == "malformed"


@pytest.mark.parametrize("value", ["1e999", "-1e999", '"1"', "true", "{}", "[true]", '["x"]', str(2**53), str(-(2**70)), "[[1]]"])
def test_a_bad_value_is_refused_and_the_rest_kept(value: str) -> None:
    message, bad = decode(b'{"p": {"a": %s, "b": 1}}' % value.encode())
    if isinstance(message, wire.Reject):
        assert message.reason == "malformed"
        return
    assert message.p is not None
    kept = {k: v for k, v in message.p.items() if k != "a"}
    assert kept == {"b": 1.0}
    assert [b.reason for b in bad] == ["value"] or all(math.isfinite(x) for x in np.ravel(message.p["a"]))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"v": 2, "p": {}}, "version"), ({"boot": 1, "p": {}}, "sequence"), ({"seq": 1, "p": {}}, "sequence"),
        ({"boot": -1, "seq": 1, "p": {}}, "sequence"), ({"boot": 1, "seq": 2**32, "p": {}}, "sequence"), ({}, "malformed"),
        ({"p": {}, "rows": []}, "malformed"), ({"rows": []}, "too_many_rows"), ({"p": {}, "x": 1}, "malformed"),
        ({"rows": [{"p": {}}] * 10_001}, "too_many_rows"), ([], "malformed"), ({"ts": 1.5, "p": {}}, "malformed"),
    ],
)  # fmt: skip
def test_shapes_that_are_refused_whole(body: object, reason: str) -> None:
    message, _ = decode(json.dumps(body).encode())
    assert isinstance(message, wire.Reject)
    assert message.reason == reason


@pytest.mark.parametrize("dtype", wire.PACKED_DTYPES.values(), ids=lambda d: d.name)
def test_packed_goes_there_and_back(dtype: np.dtype) -> None:
    for members in (0, 1, 1824):
        values = np.arange(members).astype(dtype)
        packed = wire.decode_packed(wire.encode_packed("x", values, ts_ms=0, boot=0, seq=2**32 - 1))
        assert isinstance(packed, wire.Packed)
        assert (packed.point, packed.boot, packed.seq, packed.has_seq, packed.ts_ms) == ("x", 0, 2**32 - 1, True, 0)
        assert (packed.values.dtype, packed.values.tobytes()) == (dtype, values.tobytes())
    bare = wire.decode_packed(wire.encode_packed("x", np.zeros(1, dtype)))
    assert isinstance(bare, wire.Packed)
    assert (bare.has_seq, bare.ts_ms) == (False, None)


def test_packed_cut_or_changed_anywhere_never_raises() -> None:
    payload = wire.encode_packed("temp", np.arange(5, dtype=np.float32), ts_ms=1, boot=1, seq=1)
    for size in range(len(payload)):
        assert isinstance(wire.decode_packed(payload[:size]), wire.Reject)
    for at in range(4, len(payload)):
        for value in (0, 1, 127, 128, 255):
            changed = bytearray(payload)
            changed[at] = value
            assert isinstance(wire.decode_packed(bytes(changed)), wire.Packed | wire.Reject)
    assert isinstance(wire.decode_packed(payload + b"\0"), wire.Reject)


@pytest.mark.parametrize(
    ("ts", "valid"), [(0, True), (-1, False), (9_223_372_036_853, True), (9_223_372_036_854, False), (1 << 53, False)]
)
def test_time_stamps_fit_ns(ts: int, valid: bool) -> None:
    assert wire.is_valid_ts(ts) is valid


@pytest.mark.parametrize(
    "made",
    [
        wire.Command("1-2-s/d/vent", 1, "vent", 40.0, 30.0), wire.CommandAck("1-2", "accepted"), wire.Receipt(1, 2),
        wire.Status("online", boot=3, lost_to=4), wire.Lease(1, 15.0),
    ],
)  # fmt: skip
def test_other_messages_go_there_and_back_and_refuse_what_they_do_not_know(made: msgspec.Struct) -> None:
    data = wire.encode(made)
    assert msgspec.json.decode(data, type=type(made)) == made
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(data[:-1] + b',"x":1}', type=type(made))
