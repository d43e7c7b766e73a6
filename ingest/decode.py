"""From topic and payload to columns and records. Pure: bytes, times and a directory in; rows, records and rejects out.

`Gather` collects everything that arrives while the last commit runs and builds one `Entries` from it. Nothing is dropped: what
cannot be stored becomes a reject record with its reason, its topic and the head of its payload, within a bound per gather.
"""

import base64
import math
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np

from telemetry import quality, topic
from telemetry.frame import COLUMNS, DTYPES, Entries, Flag, Frames, Kind, MemberArray
from telemetry.plan import Device, Plan
from telemetry.record import Ack, Clock, Config, Event, Record, Request, Start
from telemetry.wire import message as wire

REJECTS_KEPT: Final = 50  # with payload, per gather; more are counted by reason only
PAYLOAD_KEPT: Final = 1024  # bytes of a rejected payload that the operator sees
EVENT_BODY_MAX: Final = 8 * 1024
NS_PER_MS: Final = 1_000_000
_KINDS: Final = {Event: Kind.EVENT, Ack: Kind.ACK, Request: Kind.REQUEST, Config: Kind.CONFIG, Clock: Kind.CLOCK, Start: Kind.START}
_QUALITY_WORDS: Final = {
    "GOOD": quality.GOOD,
    "UNCERTAIN": quality.UNCERTAIN | quality.DEVICE_UNCERTAIN,
    "BAD": quality.BAD | quality.DEVICE_BAD,
}
_NULL: Final = quality.BAD | quality.DEVICE_BAD
# Plain numbers: an operation on an IntFlag costs a microsecond.
_FIRST, _HAS_SEQ, _HAS_TS = int(Flag.FIRST), int(Flag.HAS_SEQ), int(Flag.HAS_TS)
_SIMPLE_FLAGS: Final = _FIRST | _HAS_SEQ | _HAS_TS
_UINT: Final = 1 << 32
_TS_END_MS: Final = wire.TS_END_MS

_row_decoder = msgspec.json.Decoder(wire.Message)
_status_decoder = msgspec.json.Decoder(wire.Status)
_ack_decoder = msgspec.json.Decoder(wire.CommandAck)
_object_decoder = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class Source:
    """What one topic stands for: the device, how its frames are flagged, and its points."""

    key: str
    channel: str
    is_telemetry: bool
    device: int
    flags: int
    points: dict[str, int]
    units: dict[str, str]
    members: dict[str, int]
    virtual: frozenset[str]  # points that are computed, never sent


class Directory:
    """Topics of the plan, resolved once each; bounded by the number of configured devices and channels."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: dict[str, Source] = {}
        self._profiles: dict[int, tuple[dict[str, str], dict[str, int], frozenset[str]]] = {}

    def get(self, name: str) -> Source | wire.Reject:
        """The source behind a topic, or why there is none."""
        source = self._known.get(name)
        return source if source is not None else self._resolve(name)

    def _resolve(self, name: str) -> Source | wire.Reject:
        address = topic.parse(name)
        if address is None or address.channel in {"command", "receipt"}:
            return wire.Reject("topic", name[:200])
        device = self._plan.device(f"{address.site}/{address.device}")
        if device is None:
            return wire.Reject("unknown_device", f"{address.site}/{address.device}"[:200])
        flags = Flag.BACKFILL if address.channel == "backfill" else Flag(0)
        if device.origin == "REPLAY":
            flags |= Flag.REPLAY
        units, members, virtual = self._of_profile(device)
        numbered = zip(device.profile.points, device.points, strict=True)
        points = {spec.name: number for spec, number in numbered if not spec.is_virtual}
        is_telemetry = address.channel in {"telemetry", "backfill"}
        source = Source(device.key, address.channel, is_telemetry, device.number, int(flags), points, units, members, virtual)
        self._known[name] = source
        return source

    def _of_profile(self, device: Device) -> tuple[dict[str, str], dict[str, int], frozenset[str]]:
        known = self._profiles.get(id(device.profile))
        if known is None:
            units = {spec.name: spec.unit for spec in device.profile.points}
            members = {spec.name: spec.members for spec in device.profile.points if spec.members is not None}
            virtual = frozenset(spec.name for spec in device.profile.points if spec.is_virtual)
            known = self._profiles[id(device.profile)] = (units, members, virtual)
        return known


class Gather:
    """What arrived since the last commit began. Fill it with `take` and `add`, then `build`."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory  # replaced when the configuration changes
        self.clear()

    def clear(self) -> None:
        """Forget everything gathered."""
        self._times: list[int] = []
        self._records: list[tuple[int, Record]] = []
        self._entry: list[int] = []
        self._device: list[int] = []
        self._ts_ns: list[int] = []
        self._boot: list[int] = []
        self._seq: list[int] = []
        self._flags: list[int] = []
        self._size: list[int] = []
        self._point: list[int] = []
        self._value: list[float] = []
        self._quality: dict[int, int] = {}
        self._arrays: list[MemberArray] = []
        self._rejects = 0
        self._more: dict[str, list[int]] = {}
        self._array_samples = 0
        self.messages = 0

    @property
    def rows(self) -> int:
        """Samples and records gathered: what a commit is bounded by."""
        return len(self._value) + len(self._records) + len(self._arrays)

    @property
    def samples(self) -> int:
        """Samples gathered, members of arrays included."""
        return len(self._value) + self._array_samples

    def add(self, record: Record, time_ns: int) -> None:
        """A record of the service's own: request, configuration, clock, start, broker event."""
        self._records.append((len(self._times), record))
        self._times.append(time_ns)

    def tick(self, time_ns: int) -> None:
        """One TICK."""
        self._times.append(time_ns)

    def take(self, name: str, payload: bytes, retained: bool, received_ns: int) -> None:
        """One message. Bad bytes become a reject record; nothing is raised."""
        source = self.directory.get(name)
        if isinstance(source, wire.Reject):
            self._reject(source, name, payload, received_ns)
        elif source.is_telemetry:
            if retained or not self._take_simple(source, payload, received_ns):
                self._take_telemetry(source, name, payload, retained, received_ns)
        else:
            problem = self._take_record(source, payload, retained, received_ns)
            if problem is not None:
                self._reject(problem, name, payload, received_ns, device=source.key)

    def _take_simple(self, source: Source, payload: bytes, received_ns: int) -> bool:
        """The common message, one row of plain numbers of known points, without the general path's calls: half the time of it.

        False, with nothing taken, for everything else; the general path then decides and says why.
        """
        if len(payload) > wire.PAYLOAD_MAX:
            return False
        try:
            message = _row_decoder.decode(payload)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return False
        values, ts, boot, seq = message.p, message.ts, message.boot, message.seq
        if not values or message.rows is not None or message.q is not None or message.u is not None or message.v != wire.VERSION:
            return False
        if ts is None or not 0 <= ts < _TS_END_MS or boot is None or seq is None or not (0 <= boot < _UINT and 0 <= seq < _UINT):
            return False
        points, scalars = source.points, source.members
        for name, value in values.items():
            if type(value) is not float or name not in points or name in scalars:
                return False
        if len(values) > wire.POINTS_MAX:
            return False
        for name, value in values.items():
            self._point.append(points[name])
            self._value.append(value)  # type: ignore[arg-type]  # checked above
        self._add_frame(source.device, ts * NS_PER_MS, boot, seq, source.flags | _SIMPLE_FLAGS, len(values), received_ns)
        self.messages += 1
        return True

    # -- telemetry -------------------------------------------------------------------------------------------------------

    def _take_telemetry(self, source: Source, name: str, payload: bytes, retained: bool, received_ns: int) -> None:
        flags = source.flags | int(Flag.RETAINED) if retained else source.flags
        if payload[:4] == wire.PACKED_MAGIC:
            problem = self._take_packed(source, payload, flags, received_ns)
            if problem is not None:
                packed = wire.decode_packed(payload)
                numbers = None if isinstance(packed, wire.Reject) or not packed.has_seq else (packed.boot, packed.seq)
                self._reject(problem, name, payload, received_ns, device=source.key, sequence=numbers)
            return
        bad: list[wire.Reject] = []
        message = wire.decode_message(payload, bad)
        if isinstance(message, wire.Reject):
            self._reject(message, name, payload, received_ns, device=source.key)
            return
        if message.boot is not None:
            flags |= _HAS_SEQ
        rows = message.rows if message.rows is not None else (message,)
        first = _FIRST
        for row in rows:
            if self._take_row(source, message, row, flags | first, received_ns, bad):
                first = 0
        if first and not bad:
            bad.append(wire.Reject("malformed", "no samples"))
        if bad:
            samples = sum(reject.samples for reject in bad)
            whole = 1 if first else 0
            reject = wire.Reject(bad[0].reason, bad[0].detail, samples)
            sequence = (message.boot, message.seq) if whole and message.boot is not None else None
            self._reject(reject, name, payload, received_ns, device=source.key, messages=whole, sequence=sequence)
        if not first:
            self.messages += 1

    def _take_row(
        self, source: Source, message: wire.Message, row: Any, flags: int, received_ns: int, bad: list[wire.Reject]
    ) -> bool:
        """One row as a frame; False when nothing of it could be kept."""
        values = row.p
        if row.ts is None:
            ts_ns = received_ns
        elif wire.is_valid_ts(row.ts):
            ts_ns = row.ts * NS_PER_MS
            flags |= _HAS_TS
        else:
            bad.append(wire.Reject("timestamp", f"ts {row.ts}", len(values)))
            return False
        if len(values) > wire.POINTS_MAX:
            bad.append(wire.Reject("too_many_rows", f"{len(values)} points, allowed {wire.POINTS_MAX}", len(values)))
            return False
        points, units, words = source.points, row.u, row.q
        start, arrays = len(self._value), len(self._arrays)
        frame = len(self._entry)
        for name, value in values.items():
            number = points.get(name)
            if number is None:
                bad.append(_no_such_point(source, name, len(value) if isinstance(value, list) else 1))
                continue
            if units is not None and name in units and units[name] != source.units[name]:
                bad.append(wire.Reject("unit", f"{name}: {units[name][:20]!r} is not {source.units[name]!r}", 1))
                continue
            if isinstance(value, list):
                self._take_array(source, frame, name, np.array(value, np.float64), bad)
                continue
            if name in source.members:
                bad.append(wire.Reject("members", f"{name}: one number where {source.members[name]} are due", 1))
                continue
            mark = _NULL if value is None else quality.GOOD
            if words is not None and name in words:
                if words[name] not in _QUALITY_WORDS:
                    bad.append(wire.Reject("malformed", f"quality {words[name][:20]!r}", 1))
                    continue
                mark |= _QUALITY_WORDS[words[name]]
            if mark:
                self._quality[len(self._value)] = min(mark & 3, quality.BAD) | (mark & ~3)
            self._point.append(number)
            self._value.append(math.nan if value is None else value)
        if len(self._value) == start and len(self._arrays) == arrays:
            return False
        self._add_frame(source.device, ts_ns, message.boot or 0, message.seq or 0, flags, len(self._value) - start, received_ns)
        return True

    def _add_frame(self, device: int, ts_ns: int, boot: int, seq: int, flags: int, size: int, received_ns: int) -> None:
        times = self._times
        self._entry.append(len(times))
        self._device.append(device)
        self._ts_ns.append(ts_ns)
        self._boot.append(boot)
        self._seq.append(seq)
        self._flags.append(flags)
        self._size.append(size)
        times.append(received_ns)

    def _take_array(self, source: Source, frame: int, name: str, values: Any, bad: list[wire.Reject]) -> None:
        expected = source.members.get(name)
        if expected != len(values):
            due = "one number" if expected is None else f"{expected} members"
            bad.append(wire.Reject("members", f"{name}: {len(values)} where {due} are due", len(values)))
            return
        self._arrays.append(MemberArray(frame, source.points[name], values))
        self._array_samples += len(values)

    def _take_packed(self, source: Source, payload: bytes, flags: int, received_ns: int) -> wire.Reject | None:
        packed = wire.decode_packed(payload)
        if isinstance(packed, wire.Reject):
            return packed
        if packed.point not in source.points:
            return _no_such_point(source, packed.point, len(packed.values))
        ts_ns = received_ns
        if packed.ts_ms is not None:
            if not wire.is_valid_ts(packed.ts_ms):
                return wire.Reject("timestamp", f"ts {packed.ts_ms}", len(packed.values))
            ts_ns, flags = packed.ts_ms * NS_PER_MS, flags | _HAS_TS
        bad: list[wire.Reject] = []
        self._take_array(source, len(self._entry), packed.point, packed.values, bad)
        if bad:
            return bad[0]
        if packed.has_seq:
            flags |= _HAS_SEQ
        self._add_frame(source.device, ts_ns, packed.boot, packed.seq, flags | _FIRST, 0, received_ns)
        self.messages += 1
        return None

    # -- records and rejects ---------------------------------------------------------------------------------------------

    def _take_record(self, source: Source, payload: bytes, retained: bool, received_ns: int) -> wire.Reject | None:
        if len(payload) > EVENT_BODY_MAX:
            return wire.Reject("too_large", f"{len(payload)} bytes, limit {EVENT_BODY_MAX}")
        if retained and source.channel != "status":
            return wire.Reject("retained")
        record = _read_record(source, payload)
        if isinstance(record, wire.Reject):
            return record
        self.add(record, received_ns)
        self._more.setdefault("", [0, 0])[0] += 1  # messages that are records count as stored, without samples
        self.messages += 1
        return None

    def _reject(
        self,
        reject: wire.Reject,
        name: str,
        payload: bytes,
        received_ns: int,
        *,
        device: str = "",
        messages: int = 1,
        sequence: tuple[int | None, int | None] | None = None,
    ) -> None:
        self.messages += messages
        if self._rejects >= REJECTS_KEPT and sequence is None:
            count = self._more.setdefault(reject.reason, [0, 0])
            count[0] += messages
            count[1] += reject.samples
            return
        self._rejects += 1
        body: dict[str, Any] = {
            "reason": reject.reason,
            "detail": reject.detail,
            "topic": name[:200],
            "payload": base64.b64encode(payload[:PAYLOAD_KEPT]).decode(),
            "size": len(payload),
            "messages": messages,
            "samples": reject.samples,
        }
        if sequence is not None:
            body["boot"], body["seq"] = sequence  # the ledger books it: a receipt covers what was rejected
        self.add(Event("reject", device, body), received_ns)

    # -- building --------------------------------------------------------------------------------------------------------

    def build(self, first: int, now_ns: int, not_before_ns: int) -> Entries:
        """Everything gathered as one run of entries that begins at position `first`; the gather is empty afterwards.

        Engine times are made non-decreasing from `not_before_ns`.
        """
        for reason, (messages, samples) in self._more.items():
            body: dict[str, Any] = {"messages": messages}
            if reason:
                body |= {"reason": reason, "samples": samples, "detail": "more of the same, without payload"}
            self.add(Event("reject" if reason else "records", "", body), now_ns)
        times = np.array(self._times, np.int64)
        if len(times):
            times[0] = max(int(times[0]), not_before_ns)
            np.maximum.accumulate(times, out=times)
        kind = np.full(len(times), Kind.TICK, np.uint8)
        kind[self._entry] = Kind.FRAME
        for index, record in self._records:
            kind[index] = _KINDS[type(record)]
        offsets = np.zeros(len(self._entry) + 1, np.int64)
        np.cumsum(self._size, out=offsets[1:])
        marks = np.zeros(len(self._value), np.uint16)
        for sample, mark in self._quality.items():
            marks[sample] = mark
        made: dict[str, Any] = {
            "entry": self._entry, "device": self._device, "ts_ns": self._ts_ns, "boot": self._boot, "seq": self._seq,
            "flags": self._flags, "offsets": offsets, "point": self._point, "value": self._value, "quality": marks,
        }  # fmt: skip
        columns = {name: np.array(made[name], DTYPES[name]) for name in COLUMNS}
        entries = Entries(first, kind, times, Frames(**columns, arrays=tuple(self._arrays)), tuple(self._records))
        self.clear()
        return entries


def _read_record(source: Source, payload: bytes) -> Record | wire.Reject:
    """The record a status, event or ack message carries."""
    try:
        if source.channel == "ack":
            ack = _ack_decoder.decode(payload)
            if ack.v != wire.VERSION:
                return _version(ack.v)
            if ack.status not in wire.ACK_STATUSES:
                return wire.Reject("malformed", f"status {ack.status[:20]!r} is none of {', '.join(wire.ACK_STATUSES)}")
            return Ack(source.key, ack.id[:200], ack.status, ack.reason[:200])
        if source.channel == "status":
            status = _status_decoder.decode(payload)
            if status.v != wire.VERSION:
                return _version(status.v)
            if status.state not in wire.STATES:
                return wire.Reject("malformed", f"state {status.state[:20]!r} is neither online nor offline")
            body = {"boot": status.boot} | ({} if status.lost_to is None else {"lost_to": status.lost_to})
            return Event("birth" if status.state == "online" else "offline", source.key, body)
        return Event("device_event", source.key, _object_decoder.decode(payload))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return wire.Reject("malformed", str(error)[:200])


def _no_such_point(source: Source, name: str, samples: int) -> wire.Reject:
    return wire.Reject("virtual_point" if name in source.virtual else "unknown_point", name[:100], samples)


def _version(version: int) -> wire.Reject:
    return wire.Reject("version", f"version {version}, supported {wire.VERSION}")
