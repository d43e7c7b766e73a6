"""A simulated device without I/O: bytes and times in, messages out. `simulators/fleet.py` puts it on MQTT, a lab on anything else.

It knows the wire format and its own profile, nothing of the service. Two clocks: the device lives in wall time (stamps, heartbeats,
expiry, lease), its place in the world may run faster. Feedback is read from where the actuator is, never from a command.
"""

import math
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import msgspec
import numpy as np

from simulators.backlog import Backlog
from simulators.fault import LINKLESS, Injection
from simulators.obedience import Obedience
from simulators.world import Place
from telemetry import topic
from telemetry.site import Profile
from telemetry.wire import message as wire

ACK_EXPIRY_S: Final = 300.0

_command_decoder = msgspec.json.Decoder(wire.Command)
_receipt_decoder = msgspec.json.Decoder(wire.Receipt)
_lease_decoder = msgspec.json.Decoder(wire.Lease)


class FaultOrder(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Somebody wants a fault of this simulated device, now. `strength` None: as usual; 0 ends it. `for_s` None: until it is ended."""

    id: str
    fault: str
    part: str = ""
    strength: float | None = None
    for_s: float | None = None


class FaultAnswer(msgspec.Struct, omit_defaults=True):
    """What became of it; "" = it stands."""

    id: str
    problem: str = ""


_fault_decoder = msgspec.json.Decoder(FaultOrder)


def fault_topic(site: str, device: str, channel: str = "fault") -> str:
    """Where a simulated device takes faults, or (channel "answer") answers. The service knows nothing of it."""
    return f"sim/{site}/{device}/{channel}"


class Incoming(NamedTuple):
    """A message for the device. `left_s`: what the broker left of its expiry; `received_ns` None = now."""

    topic: str
    payload: bytes
    retained: bool = False
    received_ns: int | None = None
    left_s: float | None = None


class Outgoing(NamedTuple):
    """A message from the device."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False
    expiry_s: float | None = None


@dataclass(slots=True)
class Counters:
    """What a device did, for tests and the fleet's summary."""

    sampled: int = 0
    sent: int = 0
    resent: int = 0
    receipts: int = 0
    malformed: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """How devices run. `plant_start_s`: what time it is in their world at the first step (seconds since 1970 UTC)."""

    boot: int
    plant_start_s: float
    speed: float = 1.0  # of the world
    sample_s: float = 10.0
    messages_max: int = 10_000
    resend_s: float = 30.0  # after so long without a receipt a message goes again
    wall_offset_s: float = 0.0  # how wrong its clock is; durations are not affected
    sabotage: str = ""


class SimulatedDevice:
    """One device of one boot. Call `connected`, `disconnected` as the link changes and `step` in rising time."""

    def __init__(self, site: str, name: str, profile: Profile, place: Place, *, options: Options) -> None:
        assert options.sample_s > 0
        self.site, self.name, self.profile, self.place = site, name, profile, place
        self.options = options
        self.actuators = place.actuators
        self.obedience = Obedience(self.actuators, sabotage=options.sabotage)
        self.backlog = Backlog(options.messages_max, resend_s=options.resend_s)
        self.counters = Counters()
        self.is_connected = False
        self._seq = 0
        self._now_ns: int | None = None
        self._next_sample_ns = 0
        self._was_powered = True
        self._names = [spec.name for spec in place.points]
        self._decimals = 10.0 ** np.array([spec.decimals for spec in place.points])
        self._deadband = np.array([spec.deadband for spec in place.points])
        # On the sample nearest to it: a clock that is early by a microsecond shall not make a heartbeat late by a sample.
        self._beat_ns = np.array([(spec.beat_s - options.sample_s / 2) * 1e9 for spec in place.points], np.int64)
        self._forget_reports()

    def _forget_reports(self) -> None:
        self._said, self._said_ns = np.full(len(self._names), np.inf), np.zeros(len(self._names), np.int64)

    @property
    def wants_link(self) -> bool:
        """Whether it has power and a way to the broker."""
        return self.place.is_powered and not self.place.wire.is_cut

    def topic(self, channel: str) -> str:
        """The device's topic of a channel."""
        return topic.topic(self.site, self.name, channel)

    def subscriptions(self) -> list[str]:
        """What it listens to."""
        return [self.topic("command"), self.topic("receipt"), topic.lease_topic(self.site), fault_topic(self.site, self.name)]

    def will(self) -> Outgoing:
        """The last will for the next connection."""
        return self._status("offline")

    def connected(self) -> list[Outgoing]:
        """The link is up: birth. What waited is sent by the next steps."""
        self.is_connected = True
        self.backlog.reconnected()
        return [self._status("online", lost_to=self.backlog.take_lost_to())]

    def disconnected(self) -> None:
        """The link is down: samples are kept from now on."""
        self.is_connected = False

    def next_due_ns(self) -> int:
        """When the next sample is due."""
        return self._next_sample_ns

    def step(self, now_ns: int, inbox: list[Incoming] | None = None) -> list[Outgoing]:
        """Everything up to `now_ns` (monotonic, ns): plant, commands, sample. Returns what to publish, in order.

        Without a link the answers to nothing are lost and telemetry is kept.
        """
        if self._now_ns is None:
            self._now_ns = self._next_sample_ns = now_ns
        assert now_ns >= self._now_ns, "time went backwards"
        self._now_ns = now_ns
        self.place.advance(now_ns)
        if not self.place.is_powered:
            self._was_powered, self._next_sample_ns = False, now_ns + int(self.options.sample_s * 1e9)
            return []
        if not self._was_powered:
            self._start_anew(now_ns)
        answers = [answer for incoming in inbox or [] for answer in self._receive(incoming, now_ns)]
        outgoing = [*answers, *map(self._ack, self.obedience.advance(now_ns)), *self._forward(now_ns)]
        self.place.set_local(is_local=self.obedience.is_local)
        if now_ns >= self._next_sample_ns:
            outgoing += self._sample(now_ns)
            period_ns = int(self.options.sample_s * 1e9)
            self._next_sample_ns += period_ns * ((now_ns - self._next_sample_ns) // period_ns + 1)
        return self.place.wire.carry(outgoing, now_ns) if self.is_connected else []

    def _start_anew(self, now_ns: int) -> None:
        """Power is back: another boot, whose memory of samples is empty; drives take their fail-safe until somebody commands."""
        self._was_powered = True
        self.options = replace(self.options, boot=(self.options.boot + 1) % len(wire.UINT32))
        self.backlog = Backlog(self.options.messages_max, resend_s=self.options.resend_s)
        self.obedience.start_anew()
        self._seq, self._next_sample_ns = 0, now_ns
        self._forget_reports()

    def _ack(self, ack: wire.CommandAck) -> Outgoing:
        return Outgoing(self.topic("ack"), wire.encode(ack), expiry_s=ACK_EXPIRY_S)

    def _receive(self, incoming: Incoming, now_ns: int) -> list[Outgoing]:
        """Answers to one message; a retained one says what was once, not what is."""
        try:
            if incoming.topic == fault_topic(self.site, self.name):
                return [] if incoming.retained else [self._fail(_fault_decoder.decode(incoming.payload))]
            if self.place.wire.is_kept:
                return []  # the gateway has no way in, either
            if incoming.topic == topic.lease_topic(self.site):
                if not incoming.retained:
                    self.obedience.lease(_lease_decoder.decode(incoming.payload), now_ns)
            elif incoming.topic == self.topic("receipt"):
                receipt = _receipt_decoder.decode(incoming.payload)
                if receipt.boot == self.options.boot and not incoming.retained:
                    self.counters.receipts += 1
                    self.backlog.receipt(receipt.seq)
            elif incoming.topic == self.topic("command"):
                return list(map(self._ack, self._obey(_command_decoder.decode(incoming.payload), incoming, now_ns)))
        except msgspec.DecodeError:
            self.counters.malformed += 1
        return []

    def _obey(self, command: wire.Command, incoming: Incoming, now_ns: int) -> list[wire.CommandAck]:
        if self.place.wire.is_lost(command.actuator):
            return []
        if incoming.retained:
            return [wire.CommandAck(id=command.id, status="refused", reason="retained")]
        received_ns = now_ns if incoming.received_ns is None else incoming.received_ns
        return self.obedience.receive(command, received_ns=received_ns, now_ns=now_ns, left_s=incoming.left_s)

    def _fail(self, order: FaultOrder) -> Outgoing:
        for_s = math.inf if order.for_s is None else order.for_s
        if order.fault in LINKLESS and order.strength != 0 and not math.isfinite(for_s):
            problem = f"say for how long: without a link nobody can tell {self.name} that {order.fault} is over"
        else:
            problem = self.place.fail(Injection(order.fault, self.name, order.part, order.strength, for_s=for_s))
        return Outgoing(fault_topic(self.site, self.name, "answer"), wire.encode(FaultAnswer(order.id, problem)), qos=0)

    def _forward(self, now_ns: int) -> list[Outgoing]:
        if not self.is_connected or not self.profile.receipts:
            return []
        burst = self.backlog.due(now_ns, may_resend=self.obedience.has_lease(now_ns))
        self.counters.resent += len(burst)
        outgoing = [Outgoing(self.topic("backfill"), payload) for payload in burst]
        lost_to = self.backlog.take_lost_to()
        return outgoing if lost_to is None else [*outgoing, self._status("online", lost_to=lost_to)]

    def _sample(self, now_ns: int) -> list[Outgoing]:
        values = self._changed(now_ns)
        if not values:
            return []
        stamp_ms = (now_ns + int((self.options.wall_offset_s + self.place.wire.skew_s) * 1e9)) // 1_000_000
        payload = wire.encode(wire.Message(boot=self.options.boot, seq=self._seq, ts=stamp_ms, p=values))
        if self.profile.receipts:
            self.backlog.keep(self._seq, payload, sent_ns=now_ns if self.is_connected else None)
        self._seq = (self._seq + 1) % len(wire.UINT32)
        self.counters.sampled += 1
        if not self.is_connected:
            return []
        self.counters.sent += 1
        return [Outgoing(self.topic("telemetry"), payload)]

    def _changed(self, now_ns: int) -> dict[str, wire.Value]:
        # Report by exception: a change over the deadband, or the heartbeat.
        values = np.rint(self.place.read() * self._decimals) / self._decimals
        is_due = (np.abs(values - self._said) > self._deadband) | (now_ns - self._said_ns >= self._beat_ns)
        rows = np.flatnonzero(is_due & ~np.isnan(values))
        self._said[rows], self._said_ns[rows] = values[rows], now_ns
        return dict(zip([self._names[row] for row in rows], values[rows].tolist(), strict=True))

    def _status(self, state: str, *, lost_to: int | None = None) -> Outgoing:
        status = wire.Status(state=state, boot=self.options.boot, lost_to=lost_to)
        return Outgoing(self.topic("status"), wire.encode(status), retain=True)
