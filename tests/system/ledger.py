"""The verifiable device and the verifiable store reader: what was sent against what the journal shows.

Every value follows from (device, seq, index), so an invented or torn message is seen without keeping what was sent. A message is
ROWS rows of POINTS points: ten samples. `check` compares; it knows nothing of how the service works inside.
"""

# ruff: noqa: T201 - the figures of a proof are part of its result

import hashlib
import json
import random
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties

from telemetry.frame import Verdict
from telemetry.plan import Plan
from telemetry.record import Config
from telemetry.site import SiteConfig
from telemetry.transaction import Transaction
from tests.faults.process import DEADLINE_S, wait_until

ROWS, POINTS = 2, 5
BOOT = 77


def value_of(device: str, seq: int, index: int) -> float:
    """A number of 48 bits that looks like no other."""
    digest = hashlib.blake2s(f"{device}/{seq}/{index}".encode(), digest_size=8).digest()
    return float(struct.unpack("<Q", digest)[0] >> 16 | 1)


def ledger_site(devices: int, *, site: str = "farm") -> SiteConfig:
    """A site of verifiable devices `v-0` ..."""
    points = [{"name": f"p{i}", "unit": "1", "low": 0, "high": 2**48} for i in range(POINTS)]
    return SiteConfig.model_validate(
        {
            "site": site, "areas": [{"name": "a"}],
            "devices": [{"name": "v", "profile": "verifiable", "area": "a", "count": devices}],
            "profiles": {"verifiable": {"name": "verifiable", "points": points}},
        }
    )  # fmt: skip


@dataclass(slots=True)
class Book:
    """What the devices of one client sent and what the broker confirmed: (device, seq)."""

    sent: set[tuple[str, int]] = field(default_factory=set)
    confirmed: set[tuple[str, int]] = field(default_factory=set)


class VerifiableDevices:
    """`count` devices over one MQTT 5 connection, publishing in turn at QoS 1 from a thread of their own."""

    def __init__(self, host: str, port: int, *, count: int = 10, site: str = "farm", session: str = "verifiable") -> None:
        self.book = Book()
        self._site, self._count = site, count
        self._seq = [0] * count
        self._stamp_ms = [0] * count
        self._open: dict[int, tuple[str, int] | None] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=session, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.max_inflight_messages_set(1000)
        self._client.on_publish = self._on_publish
        self._client.connect(host, port, clean_start=False)
        self._client.loop_start()
        wait_until(self._client.is_connected, what="verifiable devices connected")

    def _on_publish(self, _client: Any, _user: Any, mid: int, _reason: Any, _properties: Properties | None) -> None:
        # Two threads meet here without a lock, which paho would hold while it calls us: who comes second has both halves.
        message = self._open.setdefault(mid, None)
        if message is not None:
            self._confirm(mid, message)

    def _confirm(self, mid: int, message: tuple[str, int]) -> None:
        self.book.confirmed.add(message)
        del self._open[mid]

    def publish(self, turn: int) -> None:
        """The next message of device `turn` modulo count."""
        number = turn % self._count
        name, seq = f"v-{number}", self._seq[number]
        self._seq[number] += 1
        self._stamp_ms[number] = stamp = max(time.time_ns() // 1_000_000, self._stamp_ms[number] + 2)
        rows = [
            {"ts": stamp - 1 + row, "p": {f"p{i}": value_of(name, seq, row * POINTS + i) for i in range(POINTS)}}
            for row in range(ROWS)
        ]
        payload = json.dumps({"v": 1, "boot": BOOT, "seq": seq, "rows": rows})
        self.book.sent.add((name, seq))
        mid = self._client.publish(f"fl/{self._site}/{name}/telemetry", payload, qos=1).mid
        if self._open.setdefault(mid, (name, seq)) is None:  # confirmed before `publish` returned
            self._confirm(mid, (name, seq))

    def run(self, *, rate: float) -> None:
        """Publish at `rate` messages/s until `finish`."""

        def publish_on_time() -> None:
            began, turn = time.monotonic(), 0
            while not self._stop.is_set():
                due = int((time.monotonic() - began) * rate)
                while turn < due:
                    self.publish(turn)
                    turn += 1
                self._stop.wait(0.01)

        self._thread = threading.Thread(target=publish_on_time, name="verifiable devices", daemon=True)
        self._thread.start()

    def finish(self, *, deadline_s: float = DEADLINE_S) -> Book:
        """Stop publishing and wait until the broker has confirmed everything."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)
        wait_until(lambda: len(self.book.confirmed) == len(self.book.sent), deadline_s=deadline_s, what="all confirmed")
        return self.book

    def close(self) -> None:
        """Disconnect."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(10)
        self._client.disconnect()
        self._client.loop_stop()


@dataclass(slots=True)
class Findings:
    """Violations by kind; `stored` is what the journal shows once, `repeats` what it rightly marked as duplicate."""

    lost: list[tuple[str, int]] = field(default_factory=list)
    duplicate: list[tuple[str, int]] = field(default_factory=list)
    torn: list[tuple[str, int]] = field(default_factory=list)
    invented: list[tuple[str, int]] = field(default_factory=list)
    out_of_order: list[tuple[str, int]] = field(default_factory=list)
    unbalanced: list[int] = field(default_factory=list)
    stored: int = 0
    repeats: int = 0

    def violations(self) -> dict[str, int]:
        """Count of each kind that is not zero."""
        kinds = ("lost", "duplicate", "torn", "invented", "out_of_order", "unbalanced")
        return {kind: len(getattr(self, kind)) for kind in kinds if getattr(self, kind)}


class StoreReader:
    """Follows journal transactions and keeps what `check` needs."""

    def __init__(self) -> None:
        self.found = Findings()
        self._plan = Plan()
        self._rows: dict[tuple[str, int], int] = {}
        self._last: dict[str, int] = {}

    def has(self, message: tuple[str, int]) -> bool:
        """Is a message stored?"""
        return message in self._rows

    def take(self, transactions: Iterable[Transaction]) -> "StoreReader":
        """Read transactions in order."""
        for transaction in transactions:
            entries = transaction.read_entries()
            for _, record in entries.records:
                if isinstance(record, Config):
                    self._plan.apply(SiteConfig.model_validate_json(record.text))
            self._take_frames(transaction, entries.frames)
            if not transaction.read_accounting().is_balanced():
                self.found.unbalanced.append(transaction.first)
        return self

    def _take_frames(self, transaction: Transaction, frames: Any) -> None:
        verdicts = transaction.read_admission().verdict
        here: dict[tuple[str, int], int] = {}
        for i in range(len(frames)):
            device = self._plan.devices[int(frames.device[i])]
            message = (device.name, int(frames.seq[i]))
            if verdicts[i] == Verdict.DUPLICATE:
                self.found.repeats += 1
                continue
            row = here.get(message, 0)
            here[message] = row + 1
            low, high = int(frames.offsets[i]), int(frames.offsets[i + 1])
            wanted = [value_of(*message, row * POINTS + k) for k in range(POINTS)]
            if (
                frames.boot[i] != BOOT
                or list(frames.value[low:high]) != wanted
                or list(frames.point[low:high]) != list(device.points)
            ):
                self.found.invented.append(message)
        for message, rows in here.items():
            self._take_message(message, rows)

    def _take_message(self, message: tuple[str, int], rows: int) -> None:
        name, seq = message
        if message in self._rows or rows > ROWS:
            self.found.duplicate.append(message)
        elif rows != ROWS:
            self.found.torn.append(message)
        elif seq < self._last.get(name, -1):
            self.found.out_of_order.append(message)
        self._rows[message] = rows
        self._last[name] = max(seq, self._last.get(name, -1))

    def check(self, book: Book) -> Findings:
        """Everything against what was sent: confirmed but not stored is lost, stored but not sent is invented."""
        self.found.lost = sorted(book.confirmed - self._rows.keys())
        self.found.invented += sorted(self._rows.keys() - book.sent)
        self.found.stored = len(self._rows)
        return self.found


def drawn(seed: int | None = None) -> random.Random:
    """A generator whose seed is printed, so that a failing run can be repeated."""
    chosen = time.time_ns() & 0xFFFF_FFFF if seed is None else seed
    print(f"seed {chosen}")
    return random.Random(chosen)
