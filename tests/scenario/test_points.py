"""Virtual, redundant and calibrated points on their whole way: engine, journal, projection, history, live state, and back in a backtest."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from api.state import LiveState, parse
from app.backtest.lane import Seconds, by_time, run
from app.backtest.order import make_job
from app.core import make_transaction
from app.wiring import build_engine
from ingest.decode import Directory, Gather
from store.duckdb_history import DuckDBHistory
from store.journal import Journal
from store.journal_reader import JournalReader
from store.projection import Projector
from store.scan import FileScan
from telemetry.clock import ManualClock
from telemetry.decision import Decision
from telemetry.psychrometrics import vpd_kpa
from telemetry.quality import CALIBRATION_EXPIRED, SUBSTITUTED, UNCERTAIN
from telemetry.record import Config, Event, Record, Start
from telemetry.site import SiteConfig
from telemetry.transaction import Accounting
from telemetry.wire.columns import encode_admission

S: Final = 1_000_000_000
T0_S: Final = 1_767_196_800  # 2026-01-01 00:00 in Shanghai
MINUTES: Final = 300
FIRST_OFFSET, SECOND_OFFSET, CHANGED_AT, BROKEN = 0.5, -1.0, 120, range(150, 200)  # minutes


def site(offset: float) -> SiteConfig:
    measured = [
        {"name": name, "unit": unit, "low": -40, "high": 110, "heartbeat_s": 60}
        for name, unit in (("air_temp_c", "C"), ("air_temp_2_c", "C"), ("air_rh_pct", "%"), ("fogger_pct", "%"))
    ]
    computed = [
        {"name": "best_temp_c", "unit": "C", "low": -40, "high": 80, "redundant": ["air_temp_c", "air_temp_2_c"], "tolerance": 3},
        {"name": "air_vpd_kpa", "unit": "kPa", "low": 0, "high": 10, "expression": "vpd_kpa(best_temp_c, air_rh_pct)"},
    ]
    rules = [
        {"id": "DRY", "when": "air_vpd_kpa > 1.2", "hysteresis": 0.1, "on_delay_s": 120, "priority": "P3",
         "demand": {"actuator": "fogger", "value": "clamp(air_vpd_kpa * 50, 0, 100)", "level": "humidity_gas"}},
        {"id": "MEAN", "when": "mean(air_vpd_kpa, 15 min) > 1.1", "priority": "P4"},
    ]  # fmt: skip
    calibrations = [
        {"device": "room-0", "point": "air_temp_c", "offset": offset, "date": "2025-12-01", "expires": "2026-12-01", "by": "li"},
        {
            "device": "room-1",
            "point": "air_rh_pct",
            "points": [[0, 1], [100, 97]],
            "date": "2025-01-01",
            "expires": "2025-12-31",
            "by": "li",
        },
    ]
    return SiteConfig.model_validate({
        "site": "farm", "areas": [{"name": "a"}], "devices": [{"name": "room", "profile": "room", "area": "a", "count": 2}],
        "profiles": {"room": {
            "name": "room", "points": [*measured, *computed], "rules": rules,
            "actuators": [{"name": "fogger", "feedback": "fogger_pct"}],
        }},
        "calibrations": calibrations,
    })  # fmt: skip


def sent(minute: int, room: int) -> dict[str, float | None]:
    wave = float(np.sin(minute / 40 + room))
    first = None if room == 0 and minute in BROKEN else round(24 + 4 * wave, 2)
    return {"air_temp_c": first, "air_temp_2_c": round(24.5 + 4 * wave, 2), "air_rh_pct": round(60 + 10 * wave, 1)}


class World:
    """Engine and journal of a core, and what follows them; five messages make a transaction."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "history.duckdb"
        self.engine, self.now, self.live = build_engine(commands=False), T0_S * S, LiveState()
        self.journal = Journal(directory / "journal", clock=ManualClock(self.now))
        self.journal.begin(1)
        self.reader = JournalReader(directory / "journal")
        self.decisions: list[Decision] = []
        self.gather = Gather(Directory(self.engine.plan))
        self.say(Start(1), Event("drained"))
        self.configure(FIRST_OFFSET)

    def configure(self, offset: float) -> None:
        config = site(offset)
        self.say(Config(config.site, config.sha256(), config.canonical(), "li"))

    def say(self, *records: Record) -> None:
        for record in records:
            self.gather.add(record, self.now)
        self.commit()

    def commit(self) -> None:
        entries = self.gather.build(self.engine.position + 1, self.now, 0)
        if len(entries):
            outcome = self.engine.step(entries)
            self.decisions += outcome.decisions
            self.journal.append(make_transaction(entries, outcome, 1, Accounting()))
        self.gather.directory = Directory(self.engine.plan)

    def tell(self) -> None:
        for minute in range(MINUTES):
            if minute == CHANGED_AT:  # in the middle of a transaction
                config = site(SECOND_OFFSET)
                self.gather.add(Config(config.site, config.sha256(), config.canonical(), "li"), self.now)
            self.now = (T0_S + 60 * minute) * S
            for room in (0, 1):
                body = {"ts": self.now // 1_000_000, "boot": 1, "seq": minute, "p": sent(minute, room)}
                self.gather.take(f"fl/farm/room-{room}/telemetry", json.dumps(body).encode(), False, self.now)
            if minute % 5 == 3:
                self.commit()
        self.commit()

    def follow(self) -> None:
        history = DuckDBHistory(self.file)
        projector = Projector(history, now_s=lambda: 0.0)
        while projector.follow(self.reader):
            pass
        projector.flush()
        history.close()
        position = -1
        while transactions := self.reader.read(position):
            for transaction in transactions:
                self.live.apply(parse(transaction))
                position = transaction.last


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("points"))
    made.tell()
    made.follow()
    yield made
    made.reader.close()
    made.journal.close()


def trace(world: World, device: str, point: str) -> list[tuple[int, float, int]]:
    """(minute, value, quality) of what history holds."""
    with contextlib.closing(DuckDBHistory(world.file)) as history:
        number = next(s.number for s in history.series() if (s.device, s.point) == (device, point))
        rows = history.read(number, 0, 1 << 60, limit=100_000)
    minutes = ((rows.ts_ms - T0_S * 1000) / 60_000).tolist()
    return list(zip(map(round, minutes), rows.value.tolist(), rows.quality.tolist(), strict=True))


def rounded(value: float) -> float:
    return float(np.rint(value * 2**20) / 2**20)


def test_history_holds_the_calibrated_value_and_the_raw_one_beside_it(world: World) -> None:
    raw, true = trace(world, "room-0", "air_temp_c.raw"), trace(world, "room-0", "air_temp_c")
    told = [(m, v) for m in range(MINUTES) if (v := sent(m, 0)["air_temp_c"]) is not None]
    assert [(m, v) for m, v, _ in raw if np.isfinite(v)] == told
    offsets = {m: FIRST_OFFSET if m < CHANGED_AT else SECOND_OFFSET for m in range(MINUTES)}
    assert [(m, v) for m, v, _ in true if np.isfinite(v)] == [(m, rounded(v + offsets[m])) for m, v in told]
    assert {q & 3 for m, _, q in true if m not in BROKEN} == {0}


def test_what_is_past_its_calibration_is_stored_so_and_told_once(world: World) -> None:
    rows = trace(world, "room-1", "air_rh_pct")
    assert {q for _, _, q in rows} == {UNCERTAIN | CALIBRATION_EXPIRED}
    assert [d.subject for d in world.decisions if d.kind == "calibration"] == ["farm/room-1/air_rh_pct"]
    assert {q for _, _, q in trace(world, "room-1", "air_vpd_kpa")} == {UNCERTAIN | CALIBRATION_EXPIRED}


def test_a_virtual_point_stands_in_history_as_it_was_computed(world: World) -> None:
    best, vpd = trace(world, "room-0", "best_temp_c"), trace(world, "room-0", "air_vpd_kpa")
    assert len(best) >= MINUTES - 1
    for minute, value, quality in best:
        said = sent(minute, 0)
        first, second = said["air_temp_c"], said["air_temp_2_c"]
        if first is None:
            assert (value, quality) == (second, UNCERTAIN | SUBSTITUTED)
        else:
            assert (value, quality) == (rounded(first + (FIRST_OFFSET if minute < CHANGED_AT else SECOND_OFFSET)), 0)
    temperature = {m: v for m, v, _ in best}
    for minute, value, _ in vpd:
        rh = sent(minute, 0)["air_rh_pct"]
        assert value == pytest.approx(float(vpd_kpa(temperature[minute], rh)), abs=2**-19), minute


def test_the_live_state_ends_where_history_ends(world: World) -> None:
    for room in (0, 1):
        for point in ("best_temp_c", "air_vpd_kpa", "air_temp_c", "air_rh_pct"):
            device = world.live.plan.device(f"farm/room-{room}")
            assert device is not None
            number = device.point(point)
            assert number is not None
            _, value, quality = trace(world, f"room-{room}", point)[-1]
            assert (float(world.live.value[number]), int(world.live.quality[number])) == (value, quality), point


def test_what_is_recomputed_from_the_journal_is_what_the_journal_holds(world: World) -> None:
    engine, position, samples = build_engine(commands=False), -1, 0
    while transactions := world.reader.read(position):
        for transaction in transactions:
            admission = engine.step(transaction.read_entries()).admission
            assert encode_admission(admission) == transaction.admission
            samples += len(admission.derived.point)
            position = transaction.last
    assert samples > 3 * MINUTES


class Spoilt:
    """A history in which virtual points said something else."""

    def __init__(self, scan: FileScan, virtual: set[int]) -> None:
        self._scan, self._virtual = scan, np.array(sorted(virtual))

    def scan(self, *args: int, limit: int) -> Any:
        return [
            (point, ts_ms, np.where(np.isin(point, self._virtual), 99.0, value), quality)
            for point, ts_ms, value, quality in self._scan.scan(*args, limit=limit)
        ]


def test_a_backtest_computes_virtual_points_anew_and_calibrates_nothing_twice(world: World) -> None:
    virtual = {n for d in world.engine.plan.devices for spec, n in zip(d.profile.points, d.points, strict=True) if spec.is_virtual}
    with contextlib.closing(FileScan(world.file)) as scan:
        start_ms, end_ms = T0_S * 1000, (T0_S + 60 * MINUTES) * 1000
        job, faults = make_job(scan, "farm", rules="site", against=None, start_ms=start_ms, end_ms=end_ms, with_people=False)
        assert faults == []
        decided = [
            [d for block in run(job, source, Seconds()) for d in block.decisions[0] if d.kind in {"alarm", "demand"}]
            for source in (scan, Spoilt(scan, virtual))
        ]
    assert decided[0] == decided[1]
    live = sorted((d for d in world.decisions if d.kind in {"alarm", "demand"}), key=by_time)
    assert {d.subject.partition("@")[0] for d in live if d.kind == "alarm"} == {"DRY", "MEAN", "SENSORS-best_temp_c"}
    assert [(d.time_ns, d.subject, d.body) for d in decided[0]] == [(d.time_ns, d.subject, d.body) for d in live]
