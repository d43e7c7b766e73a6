"""Decisions of `step`: what it concluded at which journal position, in one canonical order and with one hash.

Every decision names its subject in words ("MS-T-HH@nursery/ms-1"), never by an index, so that it means the same in every
process and build.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

import msgspec


class Decision(msgspec.Struct, frozen=True, array_like=True):
    """One conclusion.

    position: the entry it was made at. phase: 0 a timer that fired before the entry, 1 the entry itself. time_ns: the timer's
    due time, the sample's time or the entry's time. stage: order inside one phase (rank of the stage that made it). kind:
    condition, alarm, flood, demand, shadow, shadow_demand, area, command, fault, mode, clock_wrong, calibration, blind, answer.
    subject: who or what it is about. body: evidence.
    """

    position: int
    phase: int
    time_ns: int
    stage: int
    kind: str
    subject: str
    body: dict[str, Any]


_encoder = msgspec.json.Encoder(order="deterministic")
_list_encoder = msgspec.msgpack.Encoder(order="deterministic")
_list_decoder = msgspec.msgpack.Decoder(list[Decision])


def in_order(decisions: Iterable[Decision]) -> list[Decision]:
    """The canonical order: position, phase, time, stage, subject; equal keys keep the order in which they were made."""
    return sorted(decisions, key=lambda d: (d.position, d.phase, d.time_ns if d.phase == 0 else 0, d.stage, d.subject))


def encode_decisions(decisions: list[Decision]) -> bytes:
    """Bytes for the journal; equal lists give equal bytes."""
    return _list_encoder.encode(decisions) if decisions else b""


def decode_decisions(data: bytes) -> list[Decision]:
    """Inverse of `encode_decisions`."""
    return _list_decoder.decode(data) if data else []


def log_line(decision: Decision) -> bytes:
    """One canonical JSON line of the decision log."""
    return _encoder.encode(decision) + b"\n"


def body_text(decision: Decision) -> str:
    """Its evidence as it stands in the canonical line, for a store that keeps the parts apart."""
    return _encoder.encode(decision.body).decode()


def log_line_of(position: int, phase: int, time_ns: int, stage: int, kind: str, subject: str, body: str) -> bytes:
    """`log_line` of a decision that was kept in parts; `body` is its `body_text`."""
    return _encoder.encode([position, phase, time_ns, stage, kind, subject, msgspec.Raw(body.encode())]) + b"\n"


class LogHash:
    """Running SHA-256 of the canonical decision log, with its count."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.count = 0

    def add(self, decisions: Iterable[Decision]) -> None:
        """Take decisions that are already in canonical order."""
        self.add_lines(map(log_line, decisions))

    def add_lines(self, lines: Iterable[bytes]) -> None:
        """Take lines of the canonical log, each with its line end."""
        for line in lines:
            self._hash.update(line)
            self.count += 1

    def hexdigest(self) -> str:
        """SHA-256 of all lines so far."""
        return self._hash.hexdigest()
