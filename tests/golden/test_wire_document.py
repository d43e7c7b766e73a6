"""Every example of docs/wire.md goes through the service's own decoding, and every reason and limit stands there."""

import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from ingest.decode import EVENT_BODY_MAX, PAYLOAD_KEPT, Directory, Gather
from ingest.receipt import HALF_WINDOW, INTERVAL_NS
from telemetry import topic
from telemetry.plan import NS_PER_S, Plan
from telemetry.record import Event
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, SiteConfig
from telemetry.wire import message as wire

TEXT = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()
EXAMPLES = re.findall(r"^```(json|hex) (?:reject:(\w+) )?(\S+)\n(.*?)\n```", TEXT, re.MULTILINE | re.DOTALL)
FROM_SERVICE = {"command": wire.Command, "receipt": wire.Receipt, "answer": wire.ProgramAnswer}


def gather() -> Gather:
    climate = Profile(
        name="climate",
        points=[
            PointSpec(name="air_temp_c", unit="C", low=-40, high=80),
            PointSpec(name="rh_pct", unit="%", low=0, high=100),
        ],
    )
    frame = Profile(name="frame", points=[PointSpec(name="end_breaks", unit="1", low=0, high=255, members=4)])
    plan = Plan()
    plan.apply(
        SiteConfig(
            site="nursery",
            areas=[AreaSpec(name="a")],
            devices=[
                DeviceSpec(name="bench-1", profile="climate", area="a"),
                DeviceSpec(name="frame-1", profile="frame", area="a"),
            ],
            profiles={"climate": climate, "frame": frame},
        )
    )
    return Gather(Directory(plan))


def test_there_are_examples_of_every_channel() -> None:
    assert {name.rsplit("/", 1)[1] for _, _, name, _ in EXAMPLES} == {*topic.CHANNELS, "lease", "request", "answer"}
    assert TEXT.count("```json") + TEXT.count("```hex") == len(EXAMPLES)


@pytest.mark.parametrize(("form", "reason", "name", "body"), EXAMPLES, ids=lambda x: str(x)[:50])
def test_every_example_decodes(form: str, reason: str, name: str, body: str) -> None:
    payload = bytes.fromhex(body) if form == "hex" else body.encode()
    if name == topic.lease_topic("nursery"):
        msgspec.json.decode(payload, type=wire.Lease)
        return
    channel = name.rsplit("/", 1)[1]
    if channel == "request":
        assert topic.is_request(name)
        msgspec.json.decode(payload, type=wire.ProgramRequest)
        return
    if channel in FROM_SERVICE:
        decoded = msgspec.json.decode(payload, type=FROM_SERVICE[channel])
        assert json.loads(wire.encode(decoded)) == json.loads(body), "as the service writes it"
        return
    taken = gather()
    taken.take(name, payload, False, NS_PER_S)
    entries = taken.build(0, NS_PER_S, 0)
    rejects = [r.body["reason"] for _, r in entries.records if isinstance(r, Event) and r.name == "reject"]
    assert rejects == ([reason] if reason else [])
    if not reason and channel in {"telemetry", "backfill"}:
        assert len(entries.frames) >= 1


def test_every_reason_stands_there_with_its_meaning() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", TEXT.split("## Rejects")[1], re.MULTILINE))
    assert rows == wire.REASONS


def test_every_channel_and_limit_stands_there() -> None:
    for channel in topic.CHANNELS:
        assert f"`fl/{{site}}/{{device}}/{channel}`" in TEXT
    for limit in (wire.PAYLOAD_MAX, wire.ROWS_MAX, wire.POINTS_MAX, EVENT_BODY_MAX, PAYLOAD_KEPT, HALF_WINDOW):
        assert re.search(rf"(?<![\d,]){limit:,}(?![\d,])", TEXT), limit
    assert f"{INTERVAL_NS // NS_PER_S} s" in TEXT


@pytest.mark.parametrize(
    "payload",
    [
        b'{"boot": 7, "seq": 9, "p": {"nothing": 1}}',
        wire.encode_packed("end_breaks", np.zeros(3, np.uint8), boot=7, seq=9),
        wire.encode_packed("nothing", np.zeros(4, np.uint8), boot=7, seq=9),
        wire.encode_packed("end_breaks", np.zeros(4, np.uint8), boot=7, seq=9, ts_ms=-1),
    ],
    ids=["json", "members", "point", "time"],
)
def test_a_rejected_message_with_readable_numbers_is_booked(payload: bytes) -> None:
    taken = gather()
    taken.take("fl/nursery/frame-1/telemetry", payload, False, NS_PER_S)
    ((_, record),) = taken.build(0, NS_PER_S, 0).records
    assert isinstance(record, Event)
    assert (record.body["boot"], record.body["seq"], record.body["messages"]) == (7, 9, 1)


def test_the_byte_table_is_the_head() -> None:
    kinds = {0: "float32", 1: "float64", 2: "int16", 3: "uint16", 4: "int32", 5: "uint8"}
    assert {code: dtype.name for code, dtype in wire.PACKED_DTYPES.items()} == kinds
    for code, name in kinds.items():
        assert f"{code} {name}" in TEXT
