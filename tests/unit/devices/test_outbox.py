"""The outbox publishes what it is told and nothing else."""

import msgspec

from devices.outbox import Outbox, ReceiptOut
from telemetry.clock import ManualClock
from telemetry.plan import NS_PER_S
from telemetry.span import CommandOut
from telemetry.wire import message

COMMAND = CommandOut("farm/h-0", "farm/h-0/vent", "7-1-farm/h-0/vent", 7, 50.0, 30.0, "warm")


class Broker:
    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, int, bool, int | None]] = []

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expiry_s: int | None = None) -> None:
        self.messages.append((topic, payload, qos, retain, expiry_s))


def outbox() -> tuple[Outbox, Broker, ManualClock]:
    broker, clock = Broker(), ManualClock(1_000 * NS_PER_S)
    return Outbox(broker.publish, clock, lambda: ["mill", "farm"]), broker, clock


def test_command_carries_what_is_left_of_its_expiry() -> None:
    box, broker, clock = outbox()
    clock.advance(2_500_000_000)
    box.send([COMMAND], decided_ns=1_000 * NS_PER_S)
    ((topic, payload, qos, retain, expiry_s),) = broker.messages
    assert (topic, qos, retain, expiry_s) == ("fl/farm/h-0/command", 1, False, 27)
    body = msgspec.json.decode(payload, type=message.Command)
    assert body == message.Command("7-1-farm/h-0/vent", 7, "vent", 50.0, 27.5, reason="warm")


def test_command_past_its_expiry_is_counted_and_not_published() -> None:
    box, broker, clock = outbox()
    clock.advance(30 * NS_PER_S)
    box.send([COMMAND], decided_ns=1_000 * NS_PER_S)
    assert not broker.messages
    assert (box.commands_published, box.commands_expired) == (0, 1)


def test_leases_of_all_sites_every_five_seconds_never_retained() -> None:
    box, broker, clock = outbox()
    for _ in range(11):
        box.lease(7)
        clock.advance(NS_PER_S)
    assert [m[0] for m in broker.messages] == ["fl/farm/lease", "fl/mill/lease"] * 3
    assert not any(m[3] for m in broker.messages)
    assert msgspec.json.decode(broker.messages[0][1], type=message.Lease) == message.Lease(7, 15.0)


def test_receipt_names_boot_and_sequence() -> None:
    box, broker, _ = outbox()
    box.receipts([ReceiptOut("farm/h-0", 3, 41)])
    assert broker.messages[0][0] == "fl/farm/h-0/receipt"
    assert msgspec.json.decode(broker.messages[0][1], type=message.Receipt) == message.Receipt(3, 41)
