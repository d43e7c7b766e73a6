"""A backtest decides the same whichever store the history is kept in."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from app.backtest.job import Job
from app.backtest.lane import Seconds, run
from app.backtest.order import make_job
from app.backtest.report import Report
from store.duckdb_history import DuckDBHistory
from store.history import Run
from store.influx_history import InfluxHistory
from telemetry.decision import Decision
from telemetry.site import COMMAND_ALARM
from tests.contract.conftest import INFLUX
from tests.unit.app.recorded_farm import T0_MS, fill_farm, write_farm
from tests.unit.app.recorded_mill import END_MS, fill_mill

WORDS = ("site", "--site", "farm", "--from", "2025-01-01", "--to", "2025-01-04")


def backtest(data_dir: Path, **settings: str) -> Report:
    """The installed command, by its report."""
    out = data_dir / "report.json"
    told = {**os.environ, "FIELDLOOM_DATA_DIR": str(data_dir), **settings}
    program = [str(Path(sys.executable).parent / "fieldloom"), "backtest", *WORDS, "--json", str(out)]
    done = subprocess.run(program, env=told, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(out.read_bytes(), type=Report)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", INFLUX[:1])
def test_a_backtest_reads_any_store(kind: str, make_database, tmp_path: Path) -> None:
    database = make_database(kind)
    kept = {name: tmp_path / name for name in ("duckdb", "influx")}
    for place in kept.values():
        place.mkdir()
    write_farm(kept["duckdb"] / "history.duckdb")
    history = InfluxHistory(kept["influx"] / "history.sqlite", database.connect())
    fill_farm(history)
    history.close()
    expected = backtest(kept["duckdb"])
    found = backtest(
        kept["influx"], FIELDLOOM_HISTORY="influx", FIELDLOOM_INFLUX_VERSION="1", FIELDLOOM_INFLUX_URL=database.url,
        FIELDLOOM_INFLUX_BUCKET=database.name,
    )  # fmt: skip
    assert expected.transitions > 50
    assert (found.samples, found.sha256) == (expected.samples, expected.sha256)
    assert found.actuators == expected.actuators
    assert found.complete


class WithoutOrder(DuckDBHistory):
    """As a store is that keeps no order of entries."""

    def sent(self, after: int, start_ms: int, *, limit: int) -> list[Run]:
        del after, start_ms, limit
        return []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", INFLUX[:1])
def test_arrays_of_any_store(kind: str, make_database, tmp_path: Path) -> None:
    """What each keeps of members is the same; where the order is known, too, it is what was sent."""
    histories = [
        WithoutOrder(tmp_path / "without.duckdb"), InfluxHistory(tmp_path / "history.sqlite", make_database(kind).connect()),
        DuckDBHistory(tmp_path / "history.duckdb"),
    ]  # fmt: skip
    found: list[list[Decision]] = []
    for history in histories:
        live = fill_mill(history)
        asked = make_job(history, "mill", rules="site", against=None, start_ms=T0_MS, end_ms=END_MS, with_people=False)
        job: Job = asked[0]
        found.append([d for block in run(job, history, Seconds()) for d in block.decisions[0]])
        history.close()
    assert len(found[0]) > 50
    assert found[0] == found[1]
    live = [d for d in live if not d.subject.startswith(COMMAND_ALARM)]  # a backtest commands nothing
    alarms = [[(d.time_ns, d.subject) for d in made if d.kind == "alarm" and d.time_ns < END_MS * 10**6] for made in (*found, live)]
    assert sorted(alarms[2]) == sorted(alarms[3]) != sorted(alarms[0])
