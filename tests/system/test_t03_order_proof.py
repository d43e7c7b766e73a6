"""Order proof from the kernel's side: no acknowledgement leaves before the sync that covers its rows.

Core runs under strace. From the trace: PUBLISH packets as they came from the MQTT sockets, page writes of the journal's WAL, syncs
of the WAL, PUBACK packets as they went out. A message is covered when a page that holds one of its values (48 random bits each)
has been written and a sync of that file has ended since. Saboteurs: ack_early, no_fsync.
"""

# ruff: noqa: T201 - the figures of a proof are part of its result

import bisect
import json
import re
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.faults.broker import RealBroker
from tests.faults.process import Process, wait_until
from tests.system.core_process import CoreProcess
from tests.system.ledger import POINTS, ROWS, VerifiableDevices, ledger_site, value_of

pytestmark = pytest.mark.system
CALLS = "fdatasync,fsync,pwrite64,sendto,sendmsg,write,writev,read,recvfrom,recvmsg"
LINE = re.compile(r"^(\d+) +\d+\.\d+ (?:<\.\.\. (\w+) resumed>|(\w+)\(\d+<([^>]*(?:->[^>]*)?)>)(.*)$", re.DOTALL)
HEX = re.compile(r"(?:\\x[0-9a-f]{2})+")
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
ACKS_MIN = 1000


@dataclass(slots=True)
class Call:
    """One system call; `entered` and `left` are line numbers of the trace, which strace writes in the order things happened."""

    name: str
    path: str
    entered: int
    left: int = -1
    data: bytes = b""
    failed: bool = False


@dataclass(slots=True)
class Proof:
    """What the trace shows."""

    acks: int = 0
    uncovered: list[int] = field(default_factory=list)  # sequence numbers acknowledged too early
    syncs: int = 0


def plain(text: str) -> bytes:
    """Bytes of a string that strace -xx printed."""
    return bytes.fromhex(text.replace("\\x", ""))


def parse(trace: Path) -> list[Call]:
    """Completed calls, in the order in which they were entered."""
    calls: list[Call] = []
    unfinished: dict[str, Call] = {}
    with trace.open() as lines:
        for number, line in enumerate(lines):
            match = LINE.match(line)
            if match is None:
                continue
            thread, resumed, name, path, rest = match.groups()
            if resumed:
                call = unfinished.pop(thread, None)
                if call is None:
                    continue
            else:
                call = Call(name, HEX.sub(lambda found: plain(found[0]).decode(errors="replace"), path), number)
                calls.append(call)
            call.data += b"".join(plain(text) for text in TEXT.findall(rest))
            if "<unfinished ...>" in rest:
                unfinished[thread] = call
            else:
                call.left = number
                call.failed = "= -1 " in rest
    return [call for call in calls if call.left >= 0 and not call.failed]


def packets(calls: list[Call]) -> Iterator[tuple[Call, bytes]]:
    """(call that completed it, packet) of one direction of one connection."""
    rest = b""
    for call in calls:
        rest += call.data
        while len(rest) >= 2:
            length, at = 0, 1
            while at < len(rest):
                length |= (rest[at] & 0x7F) << 7 * (at - 1)
                at += 1
                if rest[at - 1] < 0x80:
                    break
            else:
                break
            if len(rest) < at + length:
                break
            yield call, rest[: at + length]
            rest = rest[at + length :]


def published(packet: bytes) -> tuple[int, str, int] | None:
    """(packet id, device, seq) of a telemetry PUBLISH at QoS 1."""
    if packet[0] >> 4 != 3 or not packet[0] & 0x06:
        return None
    at = next(i for i in range(1, 5) if packet[i] < 0x80) + 1
    size = struct.unpack_from(">H", packet, at)[0]
    topic = packet[at + 2 : at + 2 + size].decode().split("/")
    if topic[-1] != "telemetry":
        return None
    packet_id = struct.unpack_from(">H", packet, at + 2 + size)[0]
    message = json.loads(packet[packet.index(b"{", at + 4 + size) :])
    return packet_id, topic[2], message["seq"]


def prove(calls: list[Call]) -> Proof:
    """Check every PUBACK of a telemetry message."""
    proof = Proof()
    pages = [call for call in calls if call.name == "pwrite64" and call.path.endswith(".sqlite-wal") and "/journal/" in call.path]
    syncs = [call for call in calls if call.name in {"fdatasync", "fsync"} and call.path.endswith(".sqlite-wal")]
    proof.syncs = len(syncs)
    sockets = {call.path for call in calls if call.path.startswith("TCP:")}
    for socket in sorted(sockets):
        mine = [call for call in calls if call.path == socket]
        incoming = packets([call for call in mine if call.name in {"read", "recvfrom", "recvmsg"}])
        outgoing = packets([call for call in mine if call.name not in {"read", "recvfrom", "recvmsg"}])
        arrivals = [(call.left, *found) for call, packet in incoming if (found := published(packet)) is not None]
        acks = [(call.entered, struct.unpack(">H", p[2:4])[0]) for call, p in outgoing if p[0] == 0x40]
        _judge(proof, arrivals, acks, pages, syncs)
    return proof


def _judge(
    proof: Proof, arrivals: list[tuple[int, int, str, int]], acks: list[tuple[int, int]], pages: list[Call], syncs: list[Call]
) -> None:
    open_ids: dict[int, tuple[int, str, int]] = {}
    events = sorted([(line, 0, a) for line, *a in arrivals] + [(line, 1, [packet_id]) for line, packet_id in acks])
    for line, is_ack, what in events:
        if not is_ack:
            open_ids[what[0]] = (line, what[1], what[2])
            continue
        message = open_ids.pop(what[0], None)
        if message is None:
            continue  # the acknowledgement of something else
        proof.acks += 1
        if not _is_covered(*message, line, pages, syncs):
            proof.uncovered.append(message[2])


def _is_covered(arrived: int, device: str, seq: int, acked: int, pages: list[Call], syncs: list[Call]) -> bool:
    """Was a page with one of the message's values written, and then synced, before the acknowledgement left?"""
    values = [struct.pack("<d", value_of(device, seq, i)) for i in range(ROWS * POINTS)]
    low, high = (bisect.bisect(pages, line, key=lambda page: page.entered) for line in (arrived, acked))
    for page in pages[low:high]:
        if page.left < acked and any(value in page.data for value in values):
            return any(page.left < sync.entered and sync.left < acked for sync in syncs)
    return False


def test_no_acknowledgement_leaves_before_its_rows_are_synced(tmp_path):
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed (Debian: apt install strace)")
    trace = tmp_path / "trace"
    with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
        core.configure(ledger_site(10)).start().wait_configured("farm")
        watch = [
            strace,
            "-f",
            "-ttt",
            "-yy",
            "-xx",
            "-s",
            "70000",
            "-o",
            trace,
            "-e",
            f"trace={CALLS}",
            "-p",
            str(core.process.pid),
        ]
        spy = Process(watch, log=tmp_path / "strace.log").start()
        try:
            spy.wait_line("attached")
        except RuntimeError:
            pytest.skip(f"strace may not attach to a process here: {spy.output[-200:]}")
        devices = VerifiableDevices(broker.host, broker.port)
        try:
            devices.run(rate=400)
            wait_until(lambda: len(devices.book.sent) >= ACKS_MIN + 200, what="messages sent")
            sent = len(devices.finish().sent)
        finally:
            devices.close()
        wait_until(lambda: core.last().read_accounting().stored >= sent, what="everything stored")
        core.stop()
        spy.wait_exit()
    proof = prove(parse(trace))
    print(proof.acks, "acknowledgements,", proof.syncs, "syncs")
    assert proof.acks >= ACKS_MIN
    assert proof.uncovered == []
