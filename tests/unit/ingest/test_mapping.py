"""Recordings become rows: every cell is a sample, missing or unreadable, and the report says which."""

from pathlib import Path

import pytest
import yaml

from ingest.mapping import Mapping, Report, read_rows
from telemetry.errors import CallerError
from tests.shared_data import recording

SITES = Path(__file__).parents[3] / "sites"
TIME = {"column": "t", "format": "%m/%d/%Y %H:%M", "zone": "Europe/Amsterdam"}


def load(name: str) -> Mapping:
    return Mapping.model_validate(yaml.safe_load((SITES / name).read_text()))


def test_cells_add_up_and_bad_ones_are_kept_with_their_place() -> None:
    mapping = Mapping(site="s", device="d", time=TIME, columns={"a": "a_c", "b": {"point": "b_kpa", "scale": 0.1}})
    report = Report()
    rows = list(read_rows("t,a,b\n2/1/2022 0:00,1.5,20\nyesterday,1,2\n2/1/2022 0:04,wet,\n", mapping, report))
    assert [(row.ts_ms, row.values) for row in rows] == [(1643670000000, {"a_c": 1.5, "b_kpa": 2.0})]
    assert (report.rows, report.cells, report.samples, report.missing, report.unreadable) == (3, 6, 2, 1, 3)
    assert report.cells == report.samples + report.missing + report.unreadable
    assert report.examples == ["line 3, t: 'yesterday'", "line 4, a: 'wet'"]


def test_column_that_nobody_decided_about_is_an_error() -> None:
    mapping = Mapping(site="s", device="d", time=TIME, columns={"a": "a_c", "gone": "g_c"})
    with pytest.raises(CallerError, match=r"no column gone; nothing is said about column b: name each under"):
        list(read_rows("t,a,b\n", mapping, Report()))


FILES = [
    ("agc-lettuce/mappings/climate.yaml", "greenhouse/agc2022_lettuce/Reference/GreenhouseClimate.csv", 12384),
    ("agc-lettuce/mappings/climate.yaml", "greenhouse/agc2022_lettuce/Koala/GreenhouseClimate.csv", 12384),
    ("agc-lettuce/mappings/controls.yaml", "greenhouse/agc2022_lettuce/Reference/GreenhouseControls.csv", 12384),
    ("agc-lettuce/mappings/weather.yaml", "greenhouse/agc2022_lettuce/weather.csv", 13825),
    ("agc-tomato/mappings/weather.yaml", "greenhouse/agc2019_tomato/Weather.csv", 47809),
    ("agc-tomato/mappings/slab.yaml", "greenhouse/agc2019_tomato/Reference/GrodanSens.csv", 47809),
    ("agc-tomato/mappings/resources.yaml", "greenhouse/agc2019_tomato/Reference/Resources.csv", 166),
    ("agc-tomato/mappings/lab.yaml", "greenhouse/agc2019_tomato/Reference/LabAnalysis.csv", 10),
]


@pytest.mark.parametrize(("mapping", "file", "rows"), FILES)
def test_every_cell_of_the_recordings_is_accounted_for(mapping: str, file: str, rows: int) -> None:
    report = Report()
    times = [row.ts_ms for row in read_rows(recording(file).read_text(encoding="utf-8-sig"), load(mapping), report)]
    assert report.rows == rows
    assert report.cells == report.samples + report.missing
    assert (report.unreadable, report.rows_without_time) == (0, 0)
    assert times == sorted(set(times)), "times of a recording ascend and are unique"
