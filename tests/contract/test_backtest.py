"""A backtest decides the same whichever store the history is kept in."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from app.backtest.report import Report
from store.influx_history import InfluxHistory
from tests.contract.conftest import INFLUX
from tests.unit.app.recorded_farm import fill_farm, write_farm

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
