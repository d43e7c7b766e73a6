"""Bytes that others hold: wire messages, the packed form, journal columns and decisions. A change here breaks devices or old journals."""

import hashlib

import numpy as np

from telemetry.decision import Decision, decode_decisions, encode_decisions, log_line
from telemetry.frame import Admission, Entries, Flag, Kind, MemberArray, make_frames
from telemetry.record import Ack, Clock, Config, Event, Request, Start
from telemetry.wire import message as wire
from telemetry.wire.columns import decode_admission, decode_entries, encode_admission, encode_entries

PACKED = bytes.fromhex(
    "464c310005030a00070000002a00000000c02cc8990100000400000000000000656e645f627265616b7300010003"
)  # fmt: skip


def entries() -> Entries:
    frames = make_frames(
        {
            "entry": [0, 3], "device": [1, 2], "ts_ns": [1_760_000_000_000_000_000, 5], "boot": [7, 0], "seq": [42, 0],
            "flags": [Flag.HAS_SEQ | Flag.HAS_TS | Flag.FIRST, Flag.FIRST], "offsets": [0, 2, 2], "point": [3, 4],
            "value": [24.5, -0.0], "quality": [0, 1025],
        },
        (MemberArray(1, 9, np.array([1, 2, 3], np.int16)),),
    )  # fmt: skip
    records = (
        (1, Start(9, "b")), (2, Config("s", "00", "{}", "ann")), (4, Event("birth", "s/d", {"boot": 7})), (5, Ack("s/d", "1", "accepted")),
        (6, Request("q", "reset", "ann", {"alarm": "R@s/d"})), (7, Clock(-1)),
    )  # fmt: skip
    kinds = [Kind.FRAME, Kind.START, Kind.CONFIG, Kind.FRAME, Kind.EVENT, Kind.ACK, Kind.REQUEST, Kind.CLOCK, Kind.TICK]
    return Entries(100, np.array(kinds, np.uint8), np.arange(9) * 10, frames, records)


def test_messages() -> None:
    made = [
        wire.Message(boot=7, seq=42, ts=1, p={"a": 1.5}), wire.Command("1-2-s/d/v", 1, "v", 40.0, 30.0, reason="hot"),
        wire.CommandAck("1", "refused", reason="manual"), wire.Receipt(7, 42), wire.Status("online", boot=7), wire.Lease(1, 15.0),
    ]  # fmt: skip
    assert [wire.encode(m) for m in made] == [
        b'{"v":1,"boot":7,"seq":42,"ts":1,"p":{"a":1.5},"u":null,"q":null,"rows":null}',
        b'{"id":"1-2-s/d/v","epoch":1,"actuator":"v","value":40.0,"expires_s":30.0,"reason":"hot"}',
        b'{"id":"1","status":"refused","reason":"manual"}',
        b'{"boot":7,"seq":42,"v":1}',
        b'{"state":"online","boot":7}',
        b'{"epoch":1,"lifetime_s":15.0,"v":1}',
    ]


def test_packed() -> None:
    assert wire.encode_packed("end_breaks", np.array([0, 1, 0, 3], np.uint8), ts_ms=1_760_000_000_000, boot=7, seq=42) == PACKED
    packed = wire.decode_packed(PACKED)
    assert isinstance(packed, wire.Packed)
    assert (packed.point, packed.boot, packed.seq, packed.ts_ms) == ("end_breaks", 7, 42, 1_760_000_000_000)


def test_journal_entries() -> None:
    data = encode_entries(entries())
    assert (len(data), hashlib.sha256(data).hexdigest()) == (ENTRIES_SIZE, ENTRIES_SHA)
    assert encode_entries(decode_entries(data)) == data


def test_journal_admission() -> None:
    data = encode_admission(Admission(np.array([0, 3], np.uint8), np.array([0, 1024], np.uint16)))
    assert data.hex() == ADMISSION
    assert decode_admission(data).quality.tolist() == [0, 1024]


def test_decisions() -> None:
    decision = Decision(5, 1, 7, 40, "alarm", "R@s/d", {"to": "UNACK", "value": 1.5, "message": {"zh": "热"}})
    assert log_line(decision) == '[5,1,7,40,"alarm","R@s/d",{"message":{"zh":"热"},"to":"UNACK","value":1.5}]\n'.encode()
    data = encode_decisions([decision])
    assert data.hex() == DECISIONS
    assert decode_decisions(data) == [decision]


ENTRIES_SIZE, ENTRIES_SHA = 618, "0967d503b5bf647270fe2d95654d6d9d465f0a5b67a6005006457c287a419cc3"
ADMISSION = "464c43312100000094009293a776657264696374a37c75310293a77175616c697479a33c7532029090000300000004"
DECISIONS = "919705010728a5616c61726da55240732f6483a76d65737361676581a27a68a3e783ada2746fa5554e41434ba576616c7565cb3ff8000000000000"
