"""Recordings of others through a real Mosquitto, core and web: all of it arrives, twice changes nothing, alarms are the data's own.

What the lettuce data show (both compartments, 12,384 rows each): the two temperature sensors of a compartment disagree by more than
3 K on most nights of the reference (the second one hangs near the crop), humidity of the Koala compartment passes 88 % for half an
hour in the nights of February, its CO2 falls to 415 ppm under lamps on 3 February (a dosing failure), and on sunny March days the
air passes 27 C. So each rule of the profile must be raised by one of them, and none where the data give no reason.

The judge is independent: csv and datetime from the standard library, one loop over rows, and SQL on the stopped store's file. The
short form plays the rows in which that happens; the whole files are in the torture run.
"""

import csv
import datetime as dt
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pytest

from tests.faults.broker import RealBroker
from tests.faults.process import Process
from tests.shared_data import recording

ROOT = Path(__file__).parents[2]
AMSTERDAM = ZoneInfo("Europe/Amsterdam")
LETTUCE, TOMATO = ROOT / "sites/agc-lettuce/mappings", ROOT / "sites/agc-tomato/mappings"


@dataclass
class Installation:
    """Broker, core and web over one data directory, driven by the command line alone."""

    directory: Path
    broker: RealBroker
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def env(self) -> dict[str, str]:
        return {
            "FIELDLOOM_DATA_DIR": str(self.data),
            "FIELDLOOM_MQTT_HOST": self.broker.host,
            "FIELDLOOM_MQTT_PORT": str(self.broker.port),
            "FIELDLOOM_WEB_PORT": "0",
            "FIELDLOOM_DISK_FREE_MB": "64",
            "FIELDLOOM_CONFIG": "/dev/null",
            "COLUMNS": "200",
        }

    def start(self) -> None:
        (self.data / "run").mkdir(parents=True, exist_ok=True)
        for name in ("core", "web"):
            ready = self.data / "run" / f"{name}.ready"
            ready.unlink(missing_ok=True)
            argv = [sys.executable, "-m", "app.cli", "serve", name]
            process = Process(argv, log=self.directory / f"{name}.log", env=self.env, cwd=ROOT)
            self.processes[name] = process.start().wait_ready(ready.is_file)

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()

    def fieldloom(self, *words: str | Path, expect: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "app.cli", *map(str, words)],
            capture_output=True, text=True, cwd=ROOT, check=False, timeout=300, env=os.environ | self.env,
        )  # fmt: skip
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout

    def play(self, file: Path, mapping: Path, device: str | None = None) -> dict[str, int]:
        """The printed table of one play as numbers."""
        words = ["play", file, "--mapping", mapping, *(["--device", device] if device else [])]
        return printed_table(self.fieldloom(*words))

    def play_over_a_kill(self, file: Path, mapping: Path) -> dict[str, int]:
        """Play while core is dead and comes back: the broker keeps the rows for its session."""
        core, ready = self.processes["core"], self.data / "run/core.ready"
        core.kill()
        ready.unlink()
        argv = [sys.executable, "-m", "app.cli", "play", file, "--mapping", mapping]
        with Process(argv, log=self.directory / "play.log", env=self.env, cwd=ROOT) as play:
            core.start().wait_ready(ready.is_file)
            assert play.wait_exit(deadline_s=100) == 0, play.output
            return printed_table(play.output)

    def lane(self, name: str) -> list[list[object]]:
        return [json.loads(line) for line in self.fieldloom("decisions", "--lane", name).splitlines()]

    def stored(self) -> dict[str, dict[int, float]]:
        """ "site/device/point" -> ts_ms -> value of everything in the store, by its file; only while web is stopped."""
        with duckdb.connect(str(self.data / "history.duckdb"), read_only=True) as connection:
            names = dict(connection.execute("SELECT number, site || '/' || device || '/' || point FROM series").fetchall())
            found: dict[str, dict[int, float]] = {}
            for point, ts_ms, value in connection.execute(STORED).fetchall():
                series = found.setdefault(names[point], {})
                assert ts_ms not in series, f"{names[point]} at {ts_ms} is stored twice"
                series[ts_ms] = value
            return found


def printed_table(text: str) -> dict[str, int]:
    """The table of fates as numbers."""
    rows = re.findall(r"^ *(\S.*?) {2,}([\d,]+)$", text, re.MULTILINE)
    return {name: int(count.replace(",", "")) for name, count in rows}


STORED = "SELECT point, ts_ms, value FROM samples"


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    with RealBroker(tmp_path / "broker") as broker:
        made = Installation(tmp_path, broker)
        made.start()
        try:
            yield made
        finally:
            for process in made.processes.values():
                process.kill()


# -- the independent reading ---------------------------------------------------------------------------------------------------


def cut(source: Path, target: Path, *parts: slice) -> Path:
    """Header and some rows of a recording."""
    header, *rows = source.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    target.write_text(header + "".join(row for part in parts for row in rows[part]), "utf-8")
    return target


def lettuce_ms(text: str) -> int:
    return int(dt.datetime.strptime(text, "%m/%d/%Y %H:%M").replace(tzinfo=AMSTERDAM).timestamp() * 1000)


def excel_ms(text: str) -> int:
    minutes = round(float(text) * 1440)
    return int((dt.datetime(1899, 12, 30, tzinfo=AMSTERDAM) + dt.timedelta(minutes=minutes)).timestamp() * 1000)  # wall arithmetic


def read(file: Path, clock: str, time_ms: Callable[[str], int], columns: dict[str, str]) -> list[tuple[int, dict[str, float]]]:
    with file.open(encoding="utf-8-sig", newline="") as lines:
        return [
            (
                time_ms(row[clock]),
                {point: float(row[name]) for name, point in columns.items() if row[name].strip() not in {"", "NaN"}},
            )
            for row in ({name.strip(): cell for name, cell in row.items()} for row in csv.DictReader(lines))
        ]


Values = dict[str, float]
STALE_MS = 900_000  # three heartbeats of 300 s


@dataclass
class Naive:
    """One rule in the plainest way: on when `on` has held for its delay, off when `off` has.

    A value that is not renewed for 15 min is unknown. Unknown values decide nothing, and the time does not count as held.
    """

    points: tuple[str, ...]
    on: Callable[[Values], bool | None]
    off: Callable[[Values], bool | None]
    on_s: int
    off_s: int

    def events(self, rows: list[tuple[int, Values]]) -> list[tuple[int, str]]:
        known: Values = {}
        renewed: dict[str, int] = {}
        found: list[tuple[int, str]] = []
        is_on, due, left = False, None, None
        changes = [(ts_ms, values) for ts_ms, values in rows if values]
        for ts_ms, values in [*changes, (rows[-1][0] + 86_400_000, {})]:
            old = [(renewed[p] + STALE_MS, p) for p in self.points if p in known and renewed[p] + STALE_MS <= ts_ms]
            for at, gone in [*sorted(old), (ts_ms, "")]:
                if due is not None and due <= at:
                    found.append((due, "clear" if is_on else "raise"))
                    is_on, due, left = not is_on, None, None
                if gone:
                    del known[gone]
                else:
                    known.update(values)
                    renewed.update(dict.fromkeys(values, ts_ms))
                holds = self.off(known) if is_on else self.on(known)
                if holds is None:
                    due, left = None, due - at if due is not None else left
                elif not holds:
                    due = left = None
                elif due is None:
                    due, left = at + (left if left is not None else 1000 * (self.off_s if is_on else self.on_s)), None
        return found


def compared(v: Values, point: str, limit: float) -> bool | None:
    """Whether a point is above a limit; None when it is unknown."""
    return v[point] > limit if point in v else None


def both(a: bool | None, b: bool | None) -> bool | None:
    return False if a is False or b is False else None if a is None or b is None else True


def flipped(a: bool | None) -> bool | None:
    return None if a is None else not a


def above(point: str, limit: float, hysteresis: float, on_s: int, off_s: int) -> Naive:
    return Naive(
        (point,), lambda v: compared(v, point, limit), lambda v: flipped(compared(v, point, limit - hysteresis)), on_s, off_s
    )


def apart(v: Values) -> Values:
    pair = ("air_temp_c", "air_temp_2_c")
    return {"apart": abs(v[pair[0]] - v[pair[1]])} if all(p in v for p in pair) else {}


def starved(v: Values) -> bool | None:
    low = None if "co2_ppm" not in v else v["co2_ppm"] < 420
    return both(low, compared(v, "par_umol_m2_s", 200))


CLIMATE_RULES = {
    "RC-T-H": above("air_temp_c", 27, 1, 900, 600),
    "RC-RH-H": above("air_rh_pct", 88, 3, 1800, 900),
    "RC-CO2-L": Naive(("co2_ppm", "par_umol_m2_s"), starved, lambda v: flipped(starved(v)), 1200, 3600),
    "RC-T-SPREAD": Naive(
        ("air_temp_c", "air_temp_2_c"), lambda v: compared(apart(v), "apart", 3),
        lambda v: flipped(compared(apart(v), "apart", 1)), 7200, 10800,
    ),
}  # fmt: skip
CLIMATE_COLUMNS = {
    "Tair": "air_temp_c", "Rhair": "air_rh_pct", "CO2air": "co2_ppm", "HumDef": "humidity_deficit_g_m3", "VentLee": "vent_lee_pct",
    "VentWind": "vent_wind_pct", "AssimLight": "lamps_pct", "EnScr": "thermal_screen_pct", "BlckScr": "blackout_screen_pct",
    "Tpipe": "pipe_temp_c", "CO2reg": "co2_dosing_code", "PARin": "par_umol_m2_s", "Tair_sigrow": "air_temp_2_c",
    "Rhair_sigrow": "air_rh_2_pct", "PARin_sigrow": "par_2_umol_m2_s", "stomata_cond": "stomatal_conductance",
    "Netrad_ridder": "net_radiation_w_m2", "Transp_ridder": "transpiration_g_m2_h", "Tleaf_ridder": "leaf_temp_c",
}  # fmt: skip
SLAB_COLUMNS = {
    "EC_slab1": "slab_1_ec_ms_cm", "WC_slab1": "slab_1_vwc_pct", "t_slab1": "slab_1_temp_c",
    "EC_slab2": "slab_2_ec_ms_cm", "WC_slab2": "slab_2_vwc_pct", "t_slab2": "slab_2_temp_c",
}  # fmt: skip
WEATHER_COLUMNS = {
    "Tout": "temp_c", "Rhout": "rh_pct", "Iglob": "rad_w_m2", "Windsp": "wind_speed_m_s", "RadSum": "rad_sum_j_cm2",
    "Winddir": "wind_dir_deg", "Rain": "rain_bool", "PARout": "par_umol_m2_s", "Pyrgeo": "sky_radiation_w_m2",
    "AbsHumOut": "abs_humidity_g_m3",
}  # fmt: skip


def expected_alarms(device: str, rules: dict[str, Naive], rows: list[tuple[int, dict[str, float]]]) -> set[tuple[str, int, str]]:
    return {(f"{rule}@{device}", ts_ms, event) for rule, naive in rules.items() for ts_ms, event in naive.events(rows)}


def lane_alarms(lines: list[list[object]]) -> list[tuple[str, int, str]]:
    # position, phase, time_ns, stage, kind, subject, body
    return [(line[5], line[2] // 1_000_000, line[6]["event"]) for line in lines if line[4] == "alarm"]  # type: ignore[operator,index,misc]


def expected_store(device: str, rows: list[tuple[int, dict[str, float]]]) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for ts_ms, values in rows:
        for point, value in values.items():
            found.setdefault(f"{device}/{point}", {})[ts_ms] = value
    return found


# -- the tests -----------------------------------------------------------------------------------------------------------------


def play_lettuce(installation: Installation, files: dict[str, Path]) -> None:
    expected, store = set[tuple[str, int, str]](), {}
    for device, file in files.items():
        rows = read(file, "Date", lettuce_ms, CLIMATE_COLUMNS)
        samples = sum(len(values) for _, values in rows)
        printed = installation.play(file, LETTUCE / "climate.yaml", device)
        assert printed["samples"] == printed["stored now"] == samples
        assert printed["missing (declared codes)"] == len(rows) * len(CLIMATE_COLUMNS) - samples
        assert printed["unreadable cells"] == printed["already there"] == printed["changed (the first value stays)"] == 0
        assert printed["LOST"] == 0
        expected |= expected_alarms(f"agc-lettuce/{device}", CLIMATE_RULES, rows)
        store |= expected_store(f"agc-lettuce/{device}", rows)
    raised = lane_alarms(installation.lane("agc-lettuce"))
    assert len(raised) == len(set(raised))
    assert set(raised) == expected
    assert {subject.split("@")[0] for subject, _, _ in expected} == set(CLIMATE_RULES), "each rule has its occasion in these rows"
    log_hash = (installation.data / "lanes/agc-lettuce.jsonl.sha256").read_text().split()[0]

    device, file = next(iter(files.items()))
    printed = installation.play(file, LETTUCE / "climate.yaml", device)
    assert printed["already there"] == printed["samples"] > 0
    assert printed["stored now"] == printed["changed (the first value stays)"] == printed["LOST"] == 0
    assert installation.fieldloom("decisions", "--lane", "agc-lettuce", "--hash").split()[-1] == log_hash

    installation.stop()
    assert {name: series for name, series in installation.stored().items() if series} == store


@pytest.mark.timeout(180)
@pytest.mark.days
def test_two_compartments_of_lettuce(installation: Installation, tmp_path: Path) -> None:
    """Three days of February, the warm days of March, and gaps between them."""
    parts = (slice(0, 1000), slice(8350, 8600), slice(10400, 10600))
    files = {
        device: cut(recording(f"greenhouse/agc2022_lettuce/{folder}/GreenhouseClimate.csv"), tmp_path / f"{device}.csv", *parts)
        for device, folder in (("climate-reference", "Reference"), ("climate-koala", "Koala"))
    }
    play_lettuce(installation, files)


@pytest.mark.torture
def test_two_whole_compartments_of_lettuce(installation: Installation) -> None:
    files = {
        device: recording(f"greenhouse/agc2022_lettuce/{folder}/GreenhouseClimate.csv")
        for device, folder in (("climate-reference", "Reference"), ("climate-koala", "Koala"))
    }
    play_lettuce(installation, files)


def play_tomato(installation: Installation, slab: Path, weather: Path) -> set[tuple[str, int, str]]:
    slab_rows, weather_rows = (
        read(file, "%time", excel_ms, columns) for file, columns in ((slab, SLAB_COLUMNS), (weather, WEATHER_COLUMNS))
    )
    for play, file, mapping, rows in (
        (installation.play, slab, "slab", slab_rows),
        (installation.play_over_a_kill, weather, "weather", weather_rows),
    ):
        printed = play(file, TOMATO / f"{mapping}.yaml")
        assert printed["samples"] == printed["stored now"] == sum(len(values) for _, values in rows)
        assert printed["LOST"] == printed["unreadable cells"] == 0
    expected = expected_alarms("agc-tomato/slab", {"RS-EC-H": above("slab_1_ec_ms_cm", 7, 0.3, 1800, 1800)}, slab_rows)
    expected |= expected_alarms("agc-tomato/weather", {"RW-STORM": above("wind_speed_m_s", 12, 4, 0, 900)}, weather_rows)
    assert set(lane_alarms(installation.lane("agc-tomato"))) == expected
    installation.stop()
    store = expected_store("agc-tomato/slab", slab_rows) | expected_store("agc-tomato/weather", weather_rows)
    stored = {name: series for name, series in installation.stored().items() if series}
    assert stored.keys() == store.keys()
    assert all(stored[name] == series for name, series in store.items())
    return expected


@pytest.mark.timeout(120)
@pytest.mark.days
def test_tomato_slab_and_weather(installation: Installation, tmp_path: Path) -> None:
    """Spreadsheet days, NaN padded with blanks; two devices of one site in one lane. In May the slab's EC passes 7 mS/cm once.
    The weather is played while core is dead; it comes back and nothing is missing."""
    folder = "greenhouse/agc2019_tomato"
    slab = cut(recording(f"{folder}/Reference/GrodanSens.csv"), tmp_path / "slab.csv", slice(4_600, 5_000), slice(44_900, 45_400))
    weather = cut(recording(f"{folder}/Weather.csv"), tmp_path / "weather.csv", slice(0, 600))
    alarms = play_tomato(installation, slab, weather)
    assert any(subject.startswith("RS-EC-H@") for subject, _, _ in alarms)


@pytest.mark.torture
def test_whole_tomato_slab_and_weather(installation: Installation) -> None:
    folder = "greenhouse/agc2019_tomato"
    play_tomato(installation, recording(f"{folder}/Reference/GrodanSens.csv"), recording(f"{folder}/Weather.csv"))


@pytest.mark.timeout(120)
def test_spoilt_recording_is_reported_cell_by_cell_and_a_changed_one_does_not_overwrite(
    installation: Installation, tmp_path: Path
) -> None:
    source = cut(recording("greenhouse/agc2019_tomato/Reference/GrodanSens.csv"), tmp_path / "a.csv", slice(45_000, 45_200))
    lines = source.read_text().splitlines()
    cells = lines[10].split(",")
    spoilt = tmp_path / "b.csv"
    spoilt.write_text(
        "\n".join([*lines[:10], ",".join([cells[0], "wet", *cells[2:]]), "never," + lines[11].split(",", 1)[1], *lines[12:]])
    )
    words = ["play", spoilt, "--mapping", TOMATO / "slab.yaml"]
    text = installation.fieldloom(*words)
    assert "line 11, EC_slab1: 'wet'" in text
    assert "line 12, %time: 'never'" in text
    changed = tmp_path / "c.csv"
    changed.write_text("\n".join([*lines[:20], ",".join([lines[20].split(",")[0], "9.9", *lines[20].split(",")[2:]]), *lines[21:]]))
    printed = installation.play(changed, TOMATO / "slab.yaml")
    assert printed["changed (the first value stays)"] == 1
    assert printed["stored now"] == 7, "what was unreadable before is added now: one cell and one row of six"
    assert printed["stored now"] + printed["already there"] + 1 == printed["samples"]
    installation.stop()
    series = installation.stored()["agc-tomato/slab/slab_1_ec_ms_cm"]
    assert series[excel_ms(lines[20].split(",")[0])] == float(lines[20].split(",")[1])


def test_now_is_decided_by_the_live_lane(installation: Installation, tmp_path: Path) -> None:
    """Eight hours in five seconds in a site of its own: the sensors disagree from the first row on, so two hours later the live lane
    raises the alarm, with a time of now; the recorded site is not touched."""
    file = cut(recording("greenhouse/agc2022_lettuce/Reference/GreenhouseClimate.csv"), tmp_path / "now.csv", slice(0, 96))
    began_ms = int(dt.datetime.now(tz=dt.UTC).timestamp() * 1000)
    words = ["play", file, "--mapping", LETTUCE / "climate.yaml", "--at", "now", "--speed", "5760"]
    text = installation.fieldloom(*words)
    assert "0 rejected" in text
    assert "ALARM P3 raised: Two sensors in climate-reference disagree [RC-T-SPREAD]" in text
    installation.stop()
    stored = installation.stored()
    assert {name.split("/")[0] for name, series in stored.items() if series} == {"agc-lettuce-now"}
    assert min(ts_ms for series in stored.values() for ts_ms in series) >= began_ms
