"""Core killed at random while devices publish at QoS 1: what the broker was told to forget is in the journal, once and whole.

Saboteurs: ack_early loses messages here, skip_dedup shows some of them twice.
"""

# ruff: noqa: T201 - the figures of a proof are part of its result

import contextlib
import time
from pathlib import Path

import pytest

from tests.faults.broker import RealBroker
from tests.faults.process import wait_until
from tests.system.core_process import CoreProcess
from tests.system.ledger import ROWS, Findings, StoreReader, VerifiableDevices, drawn, ledger_site

pytestmark = [pytest.mark.system, pytest.mark.alone]
READY_S = 2.0
RATE = 900.0


def kill_and_check(directory: Path, *, kills: int, messages: int) -> tuple[Findings, list[float]]:
    """Run the proof; the findings and the seconds from start to ready of every start after a kill."""
    rng = drawn()
    with RealBroker(directory / "broker") as broker, CoreProcess(directory / "core", broker) as core:
        core.configure(ledger_site(10)).start().wait_configured("farm")
        devices = VerifiableDevices(broker.host, broker.port)
        try:
            devices.run(rate=RATE)
            for _ in range(kills):
                # Half of the kills hit the burst after a start, when the broker delivers what waited.
                alive_until = time.monotonic() + (rng.uniform(0.0, 0.15) if rng.random() < 0.5 else rng.uniform(0.15, 0.9))
                wait_until(lambda until=alive_until: time.monotonic() >= until, what="moment of the kill")
                core.kill()
                core.start()
            wait_until(lambda: len(devices.book.sent) >= messages, deadline_s=300, what="messages sent")
            book = devices.finish(deadline_s=60)
        finally:
            devices.close()
        reader, position = StoreReader(), -1

        def drained() -> bool:
            nonlocal position
            for transaction in core.transactions(position):
                reader.take([transaction])
                position = transaction.last
            return all(reader.has(message) for message in book.confirmed)

        with contextlib.suppress(TimeoutError):  # what is missing is counted below
            wait_until(drained, what="everything stored")
        assert core.stop() == 0
        reader.take(core.transactions(position))
        found, accounting = reader.check(book), core.last().read_accounting()
        assert accounting.stored == found.stored
        assert accounting.duplicate * ROWS == found.repeats
        assert accounting.samples_stored == found.stored * 10
        assert "decides otherwise" not in core.log
        print(f"{len(book.sent)} messages, {kills} kills, {found.repeats // ROWS} repeats, starts {sorted(core.ready_s)}")
        return found, core.ready_s[1:]


def test_ten_kills_lose_nothing(tmp_path):
    found, ready_s = kill_and_check(tmp_path, kills=10, messages=10_000)
    assert found.violations() == {}
    assert found.stored >= 10_000
    # A machine shared with other tests stretches single starts; the long form on its own machine holds the bound for every one.
    assert sorted(ready_s)[len(ready_s) // 2] <= READY_S


@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_a_hundred_kills_lose_nothing(tmp_path):
    found, ready_s = kill_and_check(tmp_path, kills=100, messages=100_000)
    assert found.violations() == {}
    assert max(ready_s) <= READY_S
