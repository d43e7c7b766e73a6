"""MQTT framing without a codec: where packets end, the buffer they arrive in, and what can be saved of one that cannot be read.

Pure. The buffer is O(bytes received): an incomplete packet is moved to the front once per read, and not at all while it is known
to be incomplete.
"""

from typing import Final

from telemetry.errors import LinkError

PACKET_MAX: Final = 1 << 20  # told to the broker; it drops what is larger
ROOM: Final = (
    1 << 16
)  # bytes one read can take; a fresh 256 KiB per read, as the event loop would take, costs more than the parsing
PUBLISH: Final = 3


class ReadBuffer:
    """Bytes that arrived and are not consumed. Write into `room()`, say `filled(n)`, parse `view()`, say `consumed(n)`."""

    def __init__(self) -> None:
        self._bytes = bytearray(ROOM)
        self._end = 0
        self._need = 0  # bytes of the incomplete packet at the front, when known

    def room(self) -> memoryview:
        """Where the next bytes go; never empty."""
        size = max(self._need, self._end + 1)
        if size > len(self._bytes):
            grown = bytearray(size + ROOM)
            grown[: self._end] = memoryview(self._bytes)[: self._end]
            self._bytes = grown
        return memoryview(self._bytes)[self._end :]

    def filled(self, count: int) -> bool:
        """So many bytes were written; can a packet be complete now?"""
        self._end += count
        return self._end >= self._need

    def view(self) -> memoryview:
        """All bytes not consumed, in order."""
        return memoryview(self._bytes)[: self._end]

    def consumed(self, count: int, *, need: int) -> None:
        """The first `count` bytes are done with; a packet of `need` bytes follows (0 = not known yet)."""
        rest = self._end - count
        self._need = need
        if rest == 0 and len(self._bytes) > 4 * ROOM:
            self._bytes = bytearray(ROOM)  # one large packet must not be paid for ever
        elif count and rest:
            self._bytes[:rest] = bytes(memoryview(self._bytes)[count : self._end])
        self._end = rest


def packet_size(data: bytes | memoryview, position: int) -> int:
    """Bytes of the packet that begins at `position`, header included; 0 when its header is not complete yet.

    Raises LinkError when the length field is malformed or over PACKET_MAX (MQTT 5, section 2.1.4).
    """
    length, shift = 0, 0
    for index in range(position + 1, min(position + 5, len(data))):
        byte = data[index]
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            size = index + 1 - position + length
            if size > PACKET_MAX:
                raise LinkError(f"the broker sent a packet of {size} bytes; the limit is {PACKET_MAX}")
            return size
    if len(data) - position >= 5:
        raise LinkError("the broker sent bytes that are not MQTT; is something else listening there?")
    return 0


def poison_id(packet: bytes) -> int:
    """The packet id of a whole packet that the codec cannot read; 0 when it has none (QoS 0, or too broken).

    Raises LinkError when it is no PUBLISH: then the peer speaks another protocol.
    """
    if packet[0] >> 4 != PUBLISH:
        raise LinkError("the broker sent a packet that is not MQTT 5; is something else listening there?")
    body = 1
    while packet[body] >= 0x80:  # the remaining length: at most 4 bytes, checked by packet_size
        body += 1
    id_at = body + 3 + int.from_bytes(packet[body + 1 : body + 3], "big")
    return int.from_bytes(packet[id_at : id_at + 2], "big") if packet[0] & 0x06 else 0
