"""Shipped rules on recordings of others: what `python -m bench --only nab,agc` prints is what the rules say of these rows."""

import csv
import datetime as dt
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from bench import agc, nab
from tests.shared_data import recording


@pytest.mark.days
def test_labelled_series(tmp_path: Path) -> None:
    recording("anomaly/nab")
    series, report = nab.measure(tmp_path)
    assert report.complete
    assert report.samples > 110_000
    assert report.labels == 25
    for one in series:  # the plain limit, counted without the engine: an alarm begins where the value goes over it
        over = np.abs(one.value) > 3
        told = [alarm.raised_ms for alarm in report.alarms if (alarm.rule, alarm.device) == ("PLAIN", one.device)]
        order = np.argsort(one.ts_ms, kind="stable")
        first = np.append(True, np.diff(one.ts_ms[order]) > 0)  # of a time that stands twice the first value stays
        over, times = over[order][first], one.ts_ms[order][first]
        assert told == times[over & ~np.append(False, over[:-1])].tolist(), one.device
    quiet = {"art-daily-no-noise", "art-daily-small-noise", "art-daily-perfect-square-wave", "art-flatline", "art-noisy"}
    wrong = {alarm.rule for alarm in report.alarms if alarm.device in quiet}
    assert wrong <= {"SR-ROBUST-Z"}, "a series without an anomaly fools the robust z alone"
    labels = [label for one in series for label in one.labels]
    for rule in (rule for rule in report.rules if rule.rule.startswith("SR-")):
        own = [alarm for alarm in report.alarms if alarm.rule == rule.rule]
        assert nab.hits(labels, own) == rule.hits > nab.chance(series, own), f"{rule.rule} finds no more than chance"


@pytest.mark.days
def test_two_compartments(tmp_path: Path) -> None:
    file = recording("greenhouse/agc2022_lettuce/Reference/GreenhouseClimate.csv")
    report, idle = agc.measure(tmp_path)
    assert report.complete
    assert not report.faults
    assert "MS-T-L" not in idle
    apart = [alarm for alarm in report.alarms if alarm.rule == "MS-MEAS-SPREAD"]
    assert {alarm.device for alarm in apart} == {"climate-reference"}, "an evening of open vents is no fault of a sensor"
    zone, rows = ZoneInfo("Europe/Amsterdam"), []
    with file.open(newline="") as stream:
        for row in csv.DictReader(stream):
            at = dt.datetime.strptime(row["Date"], "%m/%d/%Y %H:%M").replace(tzinfo=zone)
            cells = (row["Tair"].strip(), row["Tair_sigrow"].strip())
            if all(cell not in {"", "NaN"} for cell in cells):
                rows.append((int(at.timestamp() * 1000), abs(float(cells[0]) - float(cells[1]))))
    times, spread = np.array([t for t, _ in rows]), np.array([x for _, x in rows])
    for alarm in apart:
        before = (times >= alarm.raised_ms - 7_200_000) & (times < alarm.raised_ms)
        assert before.sum() > 10, alarm
        assert (spread[before] > 2.5).all(), alarm
