"""A full disk under core: nothing is acknowledged that is not stored, reads still work, and it goes on by itself when there is room."""

# ruff: noqa: T201 - the figures of a proof are part of its result

import contextlib
import time
from pathlib import Path

import pytest

from tests.faults.broker import RealBroker
from tests.faults.disk import small_disk
from tests.faults.process import wait_until
from tests.system.core_process import CoreProcess
from tests.system.ledger import StoreReader, VerifiableDevices, ledger_site

pytestmark = pytest.mark.system
FULL_S = 2.5
RECOVERY_S = 5.0


def fill_up(directory: Path) -> Path:
    """Take all that is left, while core takes some too; returns the file that holds it."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass
    return filler


@pytest.mark.parametrize("is_killed", [False, True], ids=["survives", "killed while full"])
def test_full_disk(tmp_path, is_killed):
    """`is_killed`: core is killed while the disk is full, so that whatever it acknowledged too early is gone."""
    with small_disk(tmp_path / "core", 128) as disk, RealBroker(tmp_path / "broker") as broker, CoreProcess(disk, broker) as core:
        core.configure(ledger_site(10)).start().wait_configured("farm")
        devices = VerifiableDevices(broker.host, broker.port)
        try:
            devices.run(rate=300)
            wait_until(lambda: core.last().read_accounting().stored > 300, what="storing")
            filler = fill_up(disk)
            wait_until(lambda: "commit failed" in core.log, what="the disk is full")
            full_since, held = time.monotonic(), core.last().last
            wait_until(lambda: time.monotonic() > full_since + FULL_S, what="full for a while")
            assert core.process.running
            assert core.last().last == held
            if is_killed:
                core.kill()
            filler.unlink()
            freed_at = time.monotonic()
            if is_killed:
                core.start()
            wait_until(lambda: core.last().last > held, deadline_s=RECOVERY_S, what="commits again")
            recovered_s = time.monotonic() - freed_at
            book = devices.finish()
        finally:
            devices.close()
        wait_until(lambda: core.last().read_accounting().stored >= len(book.sent), what="everything stored")
        assert core.stop() == 0
        found = StoreReader().take(core.transactions()).check(book)
        print(f"recovered after {recovered_s:.1f} s; {found.stored} stored, {found.repeats} repeats")
        assert found.violations() == {}
