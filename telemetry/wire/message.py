"""The device wire format, version 1: JSON messages and the packed form, for both ends. `docs/wire.md` is the contract.

Decoding never raises on bad bytes: it returns a `Reject` with a reason code. Encoding is what simulators and outbox use.
"""

import struct
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

VERSION: Final = 1
PAYLOAD_MAX: Final = 256 * 1024  # one message; twice the 64 KiB a 10,000-member float32 array with head needs
ROWS_MAX: Final = 10_000  # rows of one message: what one commit takes
UINT32: Final = range(1 << 32)
POINTS_MAX: Final = 1024  # points of one row
PACKED_MAGIC: Final = b"FL1\x00"
PACKED_DTYPES: Final[dict[int, np.dtype[Any]]] = {
    0: np.dtype("<f4"),
    1: np.dtype("<f8"),
    2: np.dtype("<i2"),
    3: np.dtype("<u2"),
    4: np.dtype("<i4"),
    5: np.dtype("u1"),
}
_PACKED_HEAD: Final = struct.Struct("<4sBBHIIqII")  # magic, dtype, flags, point name bytes, boot, seq, ts ms, members, reserved
_TS_LIMIT_MS: Final = 1 << 53  # integers a double holds exactly; beyond it JSON numbers are not portable
TS_END_MS: Final = min(_TS_LIMIT_MS, (1 << 63) // 1_000_000)  # and the time in ns must fit int64

Value = float | list[float] | None


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """Samples of one device time. ts: ms since 1970 UTC, or None = arrival time. p: values; u: units; q: quality words."""

    p: dict[str, Value]
    ts: int | None = None
    u: dict[str, str] | None = None
    q: dict[str, str] | None = None


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """One telemetry message: either one row inline (`p`, `ts`) or `rows`. boot and seq together, or neither."""

    v: int = VERSION
    boot: int | None = None
    seq: int | None = None
    ts: int | None = None
    p: dict[str, Value] | None = None
    u: dict[str, str] | None = None
    q: dict[str, str] | None = None
    rows: list[Row] | None = None


class Command(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Core to device. expires_s counts from receipt: a device's wall clock is never trusted for expiry."""

    id: str
    epoch: int
    actuator: str
    value: float
    expires_s: float
    v: int = VERSION
    reason: str = ""


ACK_STATUSES: Final = ("accepted", "refused", "expired", "superseded")


class CommandAck(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Device to core. status: accepted, refused, expired, superseded."""

    id: str
    status: str
    v: int = VERSION
    reason: str = ""


class ProgramRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A program to core. kind: override {value, seconds, reason} or release; actuator: "device/actuator" of its own site."""

    id: str
    kind: str
    actuator: str
    value: float | None = None
    seconds: float | None = None
    reason: str = ""
    v: int = VERSION


class ProgramAnswer(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Core to a program. reason: why it was refused."""

    id: str
    accepted: bool
    v: int = VERSION
    reason: str = ""


class Receipt(msgspec.Struct, forbid_unknown_fields=True):
    """Core to device: every message of `boot` up to and including `seq` is stored or rejected."""

    boot: int
    seq: int
    v: int = VERSION


STATES: Final = ("online", "offline")


class Status(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Birth and last will. state: online, offline."""

    state: str
    v: int = VERSION
    boot: int | None = None
    lost_to: int | None = None  # the device gave up resending: everything up to this sequence is lost


class Lease(msgspec.Struct, forbid_unknown_fields=True):
    """Core to all devices of a site, every 5 s; three missed: the device goes to its local fail-safe."""

    epoch: int
    lifetime_s: float
    v: int = VERSION


class Reject(msgspec.Struct, frozen=True):
    """Why bytes or a part of them were refused; `samples` counts what was lost with it when that is known."""

    reason: str
    detail: str = ""
    samples: int = 0


REASONS: Final[dict[str, str]] = {
    "topic": "the topic is not fl/{site}/{device}/{channel} with valid names",
    "unknown_device": "no site configuration names this device",
    "unknown_point": "the device's profile has no such point",
    "virtual_point": "the service computes this point; a device sends only what it measures",
    "too_large": "payload over the size limit",
    "too_many_rows": "more rows or points than a message may hold",
    "malformed": "not valid JSON, not the message's shape, or an unknown `state` or `status`",
    "version": "unsupported version",
    "value": "a value is not a finite number",
    "unit": "the unit is not the point's unit",
    "timestamp": "the time stamp is not an integer of ms in the representable range",
    "sequence": "boot and seq must both be integers 0..4294967295, or both be absent",
    "members": "the array's length is not the point's number of members",
    "retained": "a retained acknowledgement or event says nothing about now",
    "packed": "the packed form's head or length is wrong",
}

_message_decoder = msgspec.json.Decoder(Message)
_object_decoder = msgspec.json.Decoder(dict[str, Any])
_encoder = msgspec.json.Encoder()


def encode(message: Any) -> bytes:
    """JSON bytes of any of the structs above."""
    return _encoder.encode(message)


def decode_message(payload: bytes, bad: list[Reject]) -> Message | Reject:
    """A JSON telemetry message, or why it is none. Values that are not numbers go to `bad`, one reject each, and the rest is kept.

    Checks shape, version, sequence and limits; points, units and time stamps are the caller's.
    """
    if len(payload) > PAYLOAD_MAX:
        return Reject("too_large", f"{len(payload)} bytes, limit {PAYLOAD_MAX}")
    try:
        message = _message_decoder.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        salvaged = _salvage(payload, Reject("malformed", str(error)[:200]), bad)
        if isinstance(salvaged, Reject):
            return salvaged
        message = salvaged
    if message.v != VERSION:
        return Reject("version", f"version {message.v}, supported {VERSION}")
    boot, seq = message.boot, message.seq
    if (boot is None) != (seq is None) or (boot is not None and seq is not None and not (boot in UINT32 and seq in UINT32)):
        return Reject("sequence", "boot and seq must come together, each 0..4294967295")
    if (message.p is None) == (message.rows is None):
        return Reject("malformed", "exactly one of `p` and `rows` is needed")
    if message.rows is not None and not 0 < len(message.rows) <= ROWS_MAX:
        return Reject("too_many_rows", f"{len(message.rows)} rows, allowed 1..{ROWS_MAX}")
    return message


def _salvage(payload: bytes, problem: Reject, bad: list[Reject]) -> Message | Reject:
    """What is sound of a message with bad values; a wrong shape is refused whole with `problem`."""
    try:
        raw = _object_decoder.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return problem
    rows = raw.get("rows", [raw])
    if not isinstance(rows, list):
        return problem
    found: list[Reject] = []
    for row in rows:
        values = row.get("p") if isinstance(row, dict) else None
        if not isinstance(values, dict):
            return problem
        wrong = [name for name, value in values.items() if not _is_value(value)]
        found += [Reject("value", f"{name[:100]}: {str(values.pop(name))[:40]!r} is not a finite number", 1) for name in wrong]
    try:
        message = msgspec.convert(raw, Message)
    except msgspec.ValidationError:
        return problem
    bad += found
    return message


def _is_value(value: Any) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return value is None or all(type(x) is float or (type(x) is int and abs(x) < _TS_LIMIT_MS) for x in numbers)


class Packed(msgspec.Struct):
    """One array of one point in its wire type."""

    point: str
    boot: int
    seq: int
    has_seq: bool
    ts_ms: int | None
    values: Any


def encode_packed(
    point: str, values: NDArray[Any], *, ts_ms: int | None = None, boot: int | None = None, seq: int | None = None
) -> bytes:
    """The packed form: 36-byte head, point name, raw little-endian members."""
    code = next(code for code, dtype in PACKED_DTYPES.items() if dtype == values.dtype.newbyteorder("<"))
    name = point.encode()
    flags = (1 if boot is not None else 0) | (2 if ts_ms is not None else 0)
    head = _PACKED_HEAD.pack(PACKED_MAGIC, code, flags, len(name), boot or 0, seq or 0, ts_ms or 0, len(values), 0)
    return head + name + values.astype(PACKED_DTYPES[code]).tobytes()


def is_packed(payload: bytes) -> bool:
    """True when the payload begins like the packed form; JSON cannot begin so."""
    return payload[:4] == PACKED_MAGIC


def decode_packed(payload: bytes) -> Packed | Reject:
    """The packed form, or why it is none. Values view the payload."""
    if len(payload) > PAYLOAD_MAX:
        return Reject("too_large", f"{len(payload)} bytes, limit {PAYLOAD_MAX}")
    if len(payload) < _PACKED_HEAD.size:
        return Reject("packed", "shorter than its head")
    _, code, flags, name_size, boot, seq, ts_ms, members, _reserved = _PACKED_HEAD.unpack_from(payload)
    dtype = PACKED_DTYPES.get(code)
    if dtype is None or flags > 3:
        return Reject("packed", f"unknown type code {code} or flags {flags}")
    at = _PACKED_HEAD.size + name_size
    if len(payload) != at + members * dtype.itemsize:
        return Reject("packed", f"{len(payload)} bytes, head says {at + members * dtype.itemsize}")
    try:
        point = payload[_PACKED_HEAD.size : at].decode("ascii")
    except UnicodeDecodeError:
        return Reject("packed", "point name is not ASCII")
    values = np.frombuffer(payload, dtype, members, at)
    return Packed(point, boot, seq, bool(flags & 1), ts_ms if flags & 2 else None, values)


def is_valid_ts(ts_ms: int) -> bool:
    """True when a ms time stamp fits int64 ns and is not before 1970."""
    return 0 <= ts_ms < TS_END_MS
