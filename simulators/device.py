"""A simulated device without I/O: bytes and times in, messages out. `simulators/fleet.py` puts it on MQTT, a lab on anything else.

It knows the wire format and its own profile, nothing of the service. Two clocks: the device lives in wall time (stamps, heartbeats,
expiry, lease), its plant may run `speed` times faster. Feedback is read from where the actuator is, never from a command.
"""

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import numpy as np

from simulators.actuator import Actuator
from simulators.backlog import Backlog
from simulators.obedience import Obedience
from simulators.plant import Plant
from telemetry import topic
from telemetry.site import Profile
from telemetry.wire import message as wire

PLANT_STEP_S_MAX: Final = 10.0
CATCH_UP_S_MAX: Final = 86_400.0  # plant time made up for in one step; a longer pause is skipped
ACK_EXPIRY_S: Final = 300.0

_command_decoder = msgspec.json.Decoder(wire.Command)
_receipt_decoder = msgspec.json.Decoder(wire.Receipt)
_lease_decoder = msgspec.json.Decoder(wire.Lease)


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
    """How a device runs. `plant_start_s`: what time it is in its world at the first step (seconds since 1970 UTC)."""

    boot: int
    plant_start_s: float
    speed: float = 1.0
    sample_s: float = 10.0
    messages_max: int = 10_000
    resend_s: float = 30.0  # after so long without a receipt a message goes again
    wall_offset_s: float = 0.0  # how wrong its clock is; durations are not affected
    sabotage: str = ""


class SimulatedDevice:
    """One device of one boot. Call `connected`, `disconnected` as the link changes and `step` in rising time."""

    def __init__(
        self, site: str, name: str, profile: Profile, plant: Plant, *, options: Options, random: np.random.Generator
    ) -> None:
        assert options.speed > 0
        assert options.sample_s > 0
        self.site, self.name, self.profile, self.plant = site, name, profile, plant
        self.options = options
        self.actuators = {spec.name: Actuator(spec, random) for spec in profile.actuators}
        self.obedience = Obedience(self.actuators, sabotage=options.sabotage)
        self.backlog = Backlog(options.messages_max, resend_s=options.resend_s)
        self.counters = Counters()
        self.is_connected = False
        self._seq = 0
        self._start_ns: int | None = None
        self._now_ns = 0
        self._plant_s = options.plant_start_s
        self._next_sample_ns = 0
        self._reported: dict[str, tuple[float, int]] = {}

    def topic(self, channel: str) -> str:
        """The device's topic of a channel."""
        return topic.topic(self.site, self.name, channel)

    def subscriptions(self) -> list[str]:
        """What it listens to."""
        return [self.topic("command"), self.topic("receipt"), topic.lease_topic(self.site)]

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
        if self._start_ns is None:
            self._start_ns = self._now_ns = self._next_sample_ns = now_ns
        assert now_ns >= self._now_ns, "time went backwards"
        acks: list[wire.CommandAck] = []
        # A plant nobody looks at or touches need not be computed at every look at the clock.
        if inbox or now_ns >= self._next_sample_ns or self.obedience.will_act(now_ns) or self._behind_s(now_ns) >= PLANT_STEP_S_MAX:
            self._advance_plant(now_ns)
        for incoming in inbox or []:
            acks += self._receive(incoming, now_ns)
        acks += self.obedience.advance(now_ns)
        if self.obedience.is_local:
            self.plant.local(self.actuators)
        outgoing = [Outgoing(self.topic("ack"), wire.encode(ack), expiry_s=ACK_EXPIRY_S) for ack in acks]
        outgoing += self._forward(now_ns)
        if now_ns >= self._next_sample_ns:
            outgoing += self._sample(now_ns)
            period_ns = int(self.options.sample_s * 1e9)
            self._next_sample_ns += period_ns * ((now_ns - self._next_sample_ns) // period_ns + 1)
        return outgoing if self.is_connected else []

    def _behind_s(self, now_ns: int) -> float:
        return (now_ns - self._now_ns) * 1e-9 * self.options.speed

    def _advance_plant(self, now_ns: int) -> None:
        left_s = min(CATCH_UP_S_MAX, self._behind_s(now_ns))
        self._now_ns = now_ns
        while left_s > 1e-9:
            dt_s = min(PLANT_STEP_S_MAX, left_s)
            self._plant_s += dt_s
            left_s -= dt_s
            for actuator in self.actuators.values():
                actuator.advance(dt_s)
            self.plant.advance(self._plant_s, dt_s, self.actuators)

    def _receive(self, incoming: Incoming, now_ns: int) -> list[wire.CommandAck]:
        try:
            if incoming.topic == topic.lease_topic(self.site):
                # A retained lease says that a core lived once, not that one lives now.
                if not incoming.retained:
                    self.obedience.lease(_lease_decoder.decode(incoming.payload), now_ns)
                return []
            if incoming.topic == self.topic("receipt"):
                receipt = _receipt_decoder.decode(incoming.payload)
                if receipt.boot == self.options.boot and not incoming.retained:
                    self.counters.receipts += 1
                    self.backlog.receipt(receipt.seq)
                return []
            if incoming.topic != self.topic("command"):
                return []
            command = _command_decoder.decode(incoming.payload)
        except msgspec.DecodeError:
            self.counters.malformed += 1
            return []
        if incoming.retained:
            return [wire.CommandAck(id=command.id, status="refused", reason="retained")]
        received_ns = now_ns if incoming.received_ns is None else incoming.received_ns
        return self.obedience.receive(command, received_ns=received_ns, now_ns=now_ns, left_s=incoming.left_s)

    def _forward(self, now_ns: int) -> list[Outgoing]:
        if not self.is_connected or not self.profile.receipts:
            return []
        burst = self.backlog.due(now_ns, may_resend=self.obedience.has_lease(now_ns))
        self.counters.resent += len(burst)
        outgoing = [Outgoing(self.topic("backfill"), payload) for payload in burst]
        lost_to = self.backlog.take_lost_to()
        return outgoing if lost_to is None else [*outgoing, self._status("online", lost_to=lost_to)]

    def _sample(self, now_ns: int) -> list[Outgoing]:
        values = self._changed(self.plant.read(self.actuators), now_ns)
        if not values:
            return []
        stamp_ms = (now_ns + int(self.options.wall_offset_s * 1e9)) // 1_000_000
        payload = wire.encode(wire.Message(boot=self.options.boot, seq=self._seq, ts=stamp_ms, p=values))
        if self.profile.receipts:
            self.backlog.keep(self._seq, payload, sent_ns=now_ns if self.is_connected else None)
        self._seq = (self._seq + 1) % len(wire.UINT32)
        self.counters.sampled += 1
        if not self.is_connected:
            return []
        self.counters.sent += 1
        return [Outgoing(self.topic("telemetry"), payload)]

    def _changed(self, readings: dict[str, float], now_ns: int) -> dict[str, wire.Value]:
        # Report by exception: a change over the deadband, or the heartbeat.
        values: dict[str, wire.Value] = {}
        for spec in self.profile.points:
            value = round(readings.get(spec.name, math.nan), spec.decimals)
            if math.isnan(value):
                continue
            last, last_ns = self._reported.get(spec.name, (math.inf, 0))
            is_due = now_ns - last_ns >= spec.beat_s * 1e9
            if abs(value - last) > spec.deadband or is_due:
                self._reported[spec.name] = (value, now_ns)
                values[spec.name] = value
        return values

    def _status(self, state: str, *, lost_to: int | None = None) -> Outgoing:
        status = wire.Status(state=state, boot=self.options.boot, lost_to=lost_to)
        return Outgoing(self.topic("status"), wire.encode(status), retain=True)
