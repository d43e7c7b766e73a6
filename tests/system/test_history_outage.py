"""InfluxDB stops answering while everything runs: core's commits stay as they were, and afterwards the history has every sample once."""

# ruff: noqa: T201 - the figures of a proof are part of its result

import sys
import time
from pathlib import Path

import pytest

from store.influx_history import InfluxHistory
from store.influx_server import InfluxV1
from tests.faults.broker import RealBroker
from tests.faults.influx import influxd
from tests.faults.process import Process, wait_until
from tests.system.core_process import ROOT, CoreProcess
from tests.system.ledger import StoreReader, VerifiableDevices, ledger_site
from tests.system.test_t33_hung_parts import commit_gaps_ms

pytestmark = pytest.mark.system


def wait_for_samples(core: CoreProcess, url: str, samples: int) -> None:
    """Until history holds that many, which `web` writes."""
    history = InfluxHistory(core.data / "history.sqlite", InfluxV1(url, "outage"))
    try:
        wait_until(lambda: history.count() == samples, what=f"{samples} samples in history")
    finally:
        history.close()


def outage(tmp_path: Path, *, seconds: float, rate: float) -> None:
    server = influxd(tmp_path / "influxd")
    if server is None:
        pytest.skip("influxd is not installed (Debian: influxdb)")
    server.start()
    try:
        with RealBroker(tmp_path / "broker") as broker, CoreProcess(tmp_path / "core", broker) as core:
            core.env |= {
                "FIELDLOOM_WEB_PORT": "0", "FIELDLOOM_HISTORY": "influx", "FIELDLOOM_INFLUX_VERSION": "1",
                "FIELDLOOM_INFLUX_URL": server.url, "FIELDLOOM_INFLUX_BUCKET": "outage",
            }  # fmt: skip
            core.configure(ledger_site(10)).start().wait_configured("farm")
            devices = VerifiableDevices(broker.host, broker.port)
            argv = [sys.executable, "-m", "app.cli", "serve", "web"]
            try:
                with Process(argv, log=tmp_path / "web.log", env=core.env, cwd=ROOT) as web:
                    web.wait_ready((core.data / "run" / "web.ready").is_file)
                    devices.run(rate=rate)
                    first = core.last().last
                    time.sleep(seconds / 2)
                    before = commit_gaps_ms(core, first)
                    with server.frozen():
                        began, middle = time.monotonic(), core.last().last
                        wait_until(lambda: "cannot be reached" in web.output, what="web notices")
                        time.sleep(max(0.0, began + seconds - time.monotonic()))
                        during = commit_gaps_ms(core, middle)
                    wait_until(lambda: "history_follow_recovered" in web.output, what="history goes on")
                    web.freeze()  # so that it is behind: what it has not read when it is told to end, only its next run would write
                    book = devices.finish()
                    wait_until(lambda: core.last().read_accounting().stored >= len(book.sent), what="everything stored")
                    samples = core.last().read_accounting().samples_stored
                    assert core.stop() == 0
                    web.thaw()
                    wait_for_samples(core, server.url, samples)
                    web.terminate()
            finally:
                devices.close()
            found = StoreReader().take(core.transactions()).check(book)
            usual, meanwhile = before[len(before) // 2], during[len(during) // 2]
            print(f"median {usual:.1f} -> {meanwhile:.1f} ms, longest {during[-1]:.0f} ms, {samples} samples")
            assert found.violations() == {}
            assert meanwhile <= 2 * usual + 5
            assert during[-1] <= max(1000.0, 3 * before[-1])
            assert "cannot" not in core.log
    finally:
        server.kill()


@pytest.mark.alone
def test_core_does_not_notice_that_influxdb_is_down(tmp_path: Path) -> None:
    outage(tmp_path, seconds=4, rate=500)


@pytest.mark.torture
@pytest.mark.timeout(300)
def test_core_does_not_notice_minutes_without_influxdb(tmp_path: Path) -> None:
    outage(tmp_path, seconds=90, rate=1500)
