"""When receipts are sent: soon after half a window, else at most every five seconds, and never more than the ledger says."""

import numpy as np

from ingest.ledger import Ledger
from ingest.receipt import HALF_WINDOW, INTERVAL_NS, Receipts
from telemetry.frame import Flag
from telemetry.plan import Plan
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, SiteConfig

T0 = 1_760_000_000_000_000_000
Sent = list[tuple[str, int, int]]


class Desk:
    def __init__(self) -> None:
        point = PointSpec(name="x", unit="", low=0, high=1)
        profiles = {"p": Profile(name="p", points=[point]), "mute": Profile(name="mute", receipts=False, points=[point])}
        devices = [DeviceSpec(name="d", profile="p", area="a", count=2), DeviceSpec(name="m", profile="mute", area="a")]
        self.plan = Plan()
        self.plan.apply(SiteConfig(site="s", areas=[AreaSpec(name="a")], devices=devices, profiles=profiles))
        self.ledger, self.receipts = Ledger(), Receipts()
        self.ledger.grow(3)
        self.receipts.configure(self.plan)

    def arrive(self, device: int, first: int, last: int, boot: int = 1) -> None:
        n = last - first + 1
        seen = np.full(n, Flag.HAS_SEQ | Flag.FIRST, np.uint8)
        seq = np.arange(first, last + 1, dtype=np.uint32)
        self.ledger.book(np.full(n, device, np.int32), np.full(n, boot, np.uint32), seq, seen)
        self.receipts.note(np.array([device]))

    def due(self, after_ns: int) -> Sent:
        return list(self.receipts.due(T0 + after_ns, self.ledger, self.plan))


def test_a_receipt_says_what_is_complete() -> None:
    desk = Desk()
    desk.arrive(0, 0, 4)
    desk.arrive(0, 7, 9)
    assert desk.due(0) == [("s/d-0", 1, 4)]
    desk.arrive(0, 5, 6)
    assert desk.due(INTERVAL_NS) == [("s/d-0", 1, 9)]


def test_at_most_one_in_five_seconds() -> None:
    desk = Desk()
    desk.arrive(0, 0, 4)
    assert desk.due(0)
    desk.arrive(0, 5, 5)
    assert desk.due(INTERVAL_NS - 1) == []
    assert desk.due(INTERVAL_NS) == [("s/d-0", 1, 5)]
    assert desk.due(3 * INTERVAL_NS) == [], "nothing new, nothing owed"


def test_half_a_window_does_not_wait() -> None:
    desk = Desk()
    desk.arrive(0, 0, 0)
    desk.due(0)
    desk.arrive(0, 1, HALF_WINDOW - 1)
    assert desk.due(1) == []
    desk.arrive(0, HALF_WINDOW, HALF_WINDOW)
    assert desk.due(2) == [("s/d-0", 1, HALF_WINDOW)]


def test_half_a_window_after_a_restart_of_the_device_does_not_wait() -> None:
    desk = Desk()
    desk.arrive(0, 0, 5000)
    desk.due(0)
    desk.arrive(0, 0, HALF_WINDOW, boot=2)
    assert desk.due(1) == [("s/d-0", 2, HALF_WINDOW)]


def test_a_profile_without_receipts_gets_none() -> None:
    desk = Desk()
    desk.arrive(2, 0, 9)
    assert desk.due(0) == []


def test_what_was_receipted_survives_a_change_of_the_configuration() -> None:
    desk = Desk()
    desk.arrive(0, 0, 4)
    desk.due(0)
    desk.receipts.configure(desk.plan)
    desk.arrive(0, 5, 5)
    desk.arrive(1, 0, 0)
    assert desk.due(1) == [("s/d-1", 1, 0)]
