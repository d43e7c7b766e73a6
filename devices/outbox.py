"""The outbox: publishes what `step` decided, nothing else, after the commit that holds it. It retries nothing and decides nothing.

A command older than its expiry is not published: it is counted, and `step` will call it lost by itself. Leases tell the devices of
a site that this epoch lives; who misses three goes local.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from telemetry import topic
from telemetry.clock import Clock
from telemetry.plan import NS_PER_S
from telemetry.span import CommandOut
from telemetry.wire import message

LEASE_EVERY_NS: Final = 5 * NS_PER_S
LEASE_LIFETIME_S: Final = 15.0  # three leases missed


class Publish(Protocol):
    """The publishing half of a link."""

    def __call__(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expiry_s: int | None = None) -> object:
        """Hand one message to the broker; delivery is proven by the answer of the device, not by this call."""
        ...


class ReceiptOut(NamedTuple):
    """Everything of `boot` up to `seq` of a device "site/device" is stored or rejected."""

    device: str
    boot: int
    seq: int


class Outbox:
    """Counts what it published. `clock` is the engine's."""

    def __init__(self, publish: Publish, clock: Clock, sites: Callable[[], Iterable[str]]) -> None:
        self._publish = publish
        self._clock = clock
        self._sites = sites
        self._lease_due_ns = 0
        self.commands_published = 0
        self.commands_expired = 0
        self.receipts_published = 0
        self.leases_published = 0

    def send(self, commands: Sequence[CommandOut], decided_ns: int) -> None:
        """Publish commands decided at engine time `decided_ns` (the last entry of their transaction), in order."""
        if not commands:
            return
        waited_s = max(0.0, (self._clock.now_ns() - decided_ns) / NS_PER_S)
        for command in commands:
            left_s = command.expires_s - waited_s
            if left_s <= 0:
                self.commands_expired += 1
                continue
            site, _, device = command.device.partition("/")
            actuator = command.actuator.rpartition("/")[2]
            body = message.Command(command.id, command.epoch, actuator, command.value, left_s, reason=command.reason)
            where = topic.topic(site, device, "command")
            # Mosquitto counts whole seconds of its clock and delivers up to one second past the interval, then without the property.
            self._publish(where, message.encode(body), qos=1, expiry_s=max(1, math.ceil(left_s) - 1))
            self.commands_published += 1

    def receipts(self, receipts: Iterable[ReceiptOut]) -> None:
        """Publish receipts of what a commit made durable. A lost receipt is repeated by a later one, so QoS 0 would do; 1 saves
        the device's resends."""
        for receipt in receipts:
            site, _, device = receipt.device.partition("/")
            payload = message.encode(message.Receipt(receipt.boot, receipt.seq))
            self._publish(topic.topic(site, device, "receipt"), payload, qos=1)
            self.receipts_published += 1

    def lease(self, epoch: int) -> None:
        """Publish the lease of every site when it is due; call at least once a second."""
        now_ns = self._clock.now_ns()
        if now_ns < self._lease_due_ns:
            return
        self._lease_due_ns = now_ns + LEASE_EVERY_NS
        payload = message.encode(message.Lease(epoch, LEASE_LIFETIME_S))
        for site in sorted(self._sites()):
            # Expires in the broker: a lease of a core that died must not reach a device that comes back later.
            self._publish(topic.lease_topic(site), payload, qos=1, expiry_s=int(LEASE_LIFETIME_S))
            self.leases_published += 1
