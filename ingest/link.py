"""What the rest of Fieldloom knows of MQTT: deliveries in batches, acknowledgement when the caller says so, publishing."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class Delivery(NamedTuple):
    """One message as it arrived. `token` acknowledges it; 0 = needs none (QoS 0). `received_ns`: the link's clock, one per read.

    A message the codec cannot read comes with topic "" and the raw packet as payload, so that it is booked as a reject.
    """

    topic: str
    payload: bytes
    retained: bool
    received_ns: int
    token: int


OnBatch = Callable[[list[Delivery]], None]


class Link(Protocol):
    """A narrow MQTT session, used from one event loop. Messages are delivered at least once, per publisher in order."""

    async def run(self) -> None:
        """Connect, subscribe, deliver and reconnect until cancelled. Raises nothing the network can cause."""
        ...

    def acknowledge(self, tokens: Sequence[int]) -> None:
        """Acknowledge deliveries, in one write. Tokens of an earlier connection are ignored: those come again."""
        ...

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expiry_s: int | None = None) -> bool:
        """Hand a message over. QoS 1 is kept and re-sent until the broker has it, within bounds; False = refused, bounds reached.

        Without a connection QoS 0 is refused too.
        """
        ...

    def pause(self) -> None:
        """Stop reading from the network: the broker keeps what it cannot send."""
        ...

    def resume(self) -> None:
        """Read again."""
        ...
