"""Framing, whole and in pieces, and the id of a packet nobody can read."""

import random

import pytest

from ingest.packets import PACKET_MAX, ROOM, ReadBuffer, packet_size, poison_id
from telemetry.errors import LinkError
from tests.faults.scripted_broker import publish_bytes


def through(buffer, data, pieces):
    """Packets that come out when `data` arrives in pieces of these sizes, framed by packet_size alone."""
    seen, at = [], 0
    for size in pieces:
        piece = data[at : at + size]
        at += size
        while piece:
            room = buffer.room()
            take = min(len(room), len(piece))
            room[:take] = piece[:take]
            piece = piece[take:]
            if not buffer.filled(take):
                continue
            view, position, need = buffer.view(), 0, 0
            while position < len(view):
                need = packet_size(view, position)
                if not need or position + need > len(view):
                    break
                seen.append(bytes(view[position : position + need]))
                position, need = position + need, 0
            buffer.consumed(position, need=need)
    return seen


@pytest.mark.parametrize("seed", range(5))
def test_packets_come_out_whole_however_they_arrive(seed):
    rng = random.Random(seed)
    sizes = [0, 1, 100, 127, 128, 16_383, 16_384, ROOM - 30, ROOM, 3 * ROOM]
    packets = [publish_bytes(b"t", rng.randbytes(rng.choice(sizes)), number + 1) for number in range(30)]
    data = b"".join(packets)
    pieces = []
    while sum(pieces) < len(data):
        pieces.append(rng.choice([1, 2, 3, 1000, 50_000, ROOM]))
    assert through(ReadBuffer(), data, pieces) == packets


def test_byte_by_byte_with_a_half_packet_at_the_end():
    packets = [publish_bytes(b"t", b"x" * size, 7) for size in (0, 120, 130)]
    data = b"".join(packets) + packets[0][:-1]
    buffer = ReadBuffer()
    assert through(buffer, data, [1] * len(data)) == packets
    assert bytes(buffer.view()) == packets[0][:-1]


def test_the_buffer_shrinks_after_a_large_packet():
    buffer = ReadBuffer()
    large = publish_bytes(b"t", bytes(PACKET_MAX - 100), 1)
    assert through(buffer, large, [len(large)]) == [large]
    assert len(buffer.room()) == ROOM


def test_packet_size():
    assert packet_size(b"\xd0\x00", 0) == 2
    assert packet_size(b"\xd0", 0) == 0
    with pytest.raises(LinkError, match="limit"):
        packet_size(b"\x30\xff\xff\xff\x7f", 0)
    with pytest.raises(LinkError, match="not MQTT"):
        packet_size(b"\x30\xff\xff\xff\xff", 0)


def test_poison_id():
    assert poison_id(publish_bytes(b"\xff\xfe", b"x", 513)) == 513
    assert poison_id(publish_bytes(b"\xff\xfe", b"x" * 300, 513)) == 513
    assert poison_id(publish_bytes(b"\xff\xfe", b"x")) == 0
    assert poison_id(b"\x32\x02\x00\x09") == 0  # cut off before its id
    with pytest.raises(LinkError, match="not MQTT 5"):
        poison_id(b"\x40\x02\x00\x01")
