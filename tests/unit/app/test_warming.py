"""A window that is warmed from history is the window that had been there all along, up to the samples that nobody counted."""

import asyncio
import base64
import dataclasses
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from api.application import make_app
from api.serve import Server
from api.serve import bind as listen
from app.backtest.desk import WarmingDesk
from app.backtest.lane import arrays_read, blocks
from app.backtest.warming import WarmJob, make_warm_job, warm
from app.client import Client
from app.commands.sites import _warmed
from app.core import Core
from app.settings import Settings
from rules import panes, warm_start
from rules.book import bind
from rules.condition import Conditions
from rules.engine import Engine
from rules.recorded import opening, places, recorded_entries
from rules.warm_start import WarmStart
from store.scan import FileScan
from telemetry.errors import CallerError
from telemetry.frame import Entries, Kind
from telemetry.plan import Plan
from telemetry.record import Config, Request
from telemetry.site import RuleSpec, SiteConfig
from telemetry.wire.columns import decode_entries, encode_entries
from tests.faults.web_world import START_NS, World, make_world
from tests.faults.web_world import site as world_site
from tests.unit.app.recorded_farm import END_MS, MINUTE_MS, RULES, T0_MS, farm, samples, write_farm
from tests.unit.app.recorded_mill import mill, write_mill

NOW_MS = END_MS - 34_567  # inside a pane of every window
MORE_MIN = 90
WINDOWS = (
    "mean(air_temp_c, 15 min)", "min(air_temp_c, 2 h)", "max(vent_pct, 12 h)", "std(air_temp_c, 1 h)", "count(air_temp_c, 1 h)",
    "median(air_temp_c, 1 h)", "robust_z(air_temp_c, 3 h)", "rate(vent_pct, 1 h)", "delta(air_temp_c, 1 h)", "slope(air_temp_c, 1 h)",
    "shift(air_temp_c, 2 h)", "mean(max(air_temp_c, 30 min), 1 h)", "mean(air_temp_c - 20 * vent_pct, 1 h)",
)  # fmt: skip
NEW: list[dict[str, Any]] = [
    *({"id": f"W{k}", "profile": "house", "when": f"{text} > 1000"} for k, text in enumerate(WINDOWS)),
    {"id": "HELD", "profile": "house", "when": "held(air_temp_c > 22, 20 min, 1 h)"},
    {"id": "WIND", "profile": "house", "area": "a", "when": "mean(weather.wind_m_s, 1 h) > 100"},
    {"id": "HIGH", "profile": "house", "when": "mean(air_temp_c, 3 h) > -40", "priority": "P3"},  # true as soon as it is known
    {"id": "SMOOTH", "profile": "house", "when": "ewma(air_temp_c, 30 min) > 100"},
    {"id": "DRIVE", "profile": "house", "when": "mean(air_temp_c, 45 min) > 20",
     "demand": {"actuator": "vent", "value": 50, "level": "temperature"}},
]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("farm") / "history.duckdb"
    write_farm(made)
    return made


@pytest.fixture
def scan(file: Path) -> Iterator[FileScan]:
    made = FileScan(file)
    yield made
    made.close()


def new_farm() -> SiteConfig:
    return farm([*RULES, *NEW])


def stage_of(engine: Engine) -> Conditions:
    return next(stage for stage in engine.stages if isinstance(stage, Conditions))


def columns(engine: Engine) -> dict[tuple[str, str], Any]:
    """What every function over time says now, by cohort and text."""
    saved = stage_of(engine).snapshot()["cohorts"]
    return {
        (cohort.name, made.key): saved[cohort.name]["columns"][made.key]["latest"].copy()
        for cohort, made, _ in stage_of(engine).windows()
    }


def memories(engine: Engine) -> dict[tuple[str, str], Any]:
    return {(cohort.name, made.key): block.rows(np.arange(cohort.width)) for cohort, made, block in stage_of(engine).windows()}


def computed(order: WarmJob, scan: FileScan, now_ms: int = NOW_MS) -> WarmStart:
    *_, (reached_ms, _, found) = warm(order, scan, lambda: now_ms)
    assert found is not None
    assert reached_ms == found.reached_ms == now_ms
    return found


def applied(order: WarmJob, found: WarmStart, first: int, at_ms: int) -> Entries:
    """The CONFIG entry as the journal gives it back."""
    config = order.job.variants[0]
    record = Config(config.site, config.sha256(), config.canonical(), "anna", warm_start.encode(found))
    entries = Entries(first, np.array([Kind.CONFIG], np.uint8), np.array([at_ms * 1_000_000]), opening(0).frames, ((0, record),))
    return decode_entries(encode_entries(entries))


@functools.cache
def all_rows() -> Any:
    """Samples of the farm, three days more than history has: (m, 4) of time [ms], device, point, value."""
    return np.array([*samples(), *((t + END_MS - T0_MS, d, p, x) for t, d, p, x in samples(5))])


def rows_between(start_ms: int, end_ms: int) -> tuple[Any, ...]:
    low, high = np.searchsorted(all_rows()[:, 0], [start_ms, end_ms])
    ts_ms, _, point, value = all_rows()[low:high].T
    return point.astype(np.int32), ts_ms.astype(np.int64), value.copy(), np.zeros(high - low, np.uint16)


def feed(engine: Engine, start_ms: int, end_ms: int) -> list[Any]:
    rows = rows_between(start_ms, end_ms)
    entries = recorded_entries([rows], places(engine.plan), first=engine.position + 1, start_ms=start_ms, end_ms=end_ms)  # type: ignore[arg-type]
    return engine.step(entries).decisions


def all_along(order: WarmJob, end_ms: int) -> Engine:
    """An engine that has had the new configuration since the beginning of history."""
    engine = order.job.engine(order.job.variants[0])
    engine.step(opening(T0_MS * 1_000_000))
    feed(engine, T0_MS, end_ms)
    return engine


def running(order: WarmJob, end_ms: int) -> Engine:
    """The engine of a core that knows the old configuration only."""
    engine = order.job.engine(farm())
    engine.step(opening(T0_MS * 1_000_000))
    feed(engine, T0_MS, end_ms)
    return engine


@pytest.mark.parametrize("gap_min", [0, 7])
def test_equals_one_that_had_been_there_all_along(scan: FileScan, gap_min: int) -> None:
    order = make_warm_job(scan, new_farm(), NOW_MS)
    assert order.job.start_ms == NOW_MS - 2 * 12 * 60 * MINUTE_MS  # twice the longest window
    live_from = NOW_MS + gap_min * MINUTE_MS
    old, other = all_along(order, NOW_MS), running(order, live_from)
    other.step(applied(order, computed(order, scan), other.position + 1, live_from))
    assert all(np.isnan(columns(other)[key]).all() for key in order.missing.columns)  # nothing is known before a sample comes
    compared = 0
    for k in range(MORE_MIN):
        for engine in (old, other):
            feed(engine, live_from + k * MINUTE_MS, live_from + (k + 1) * MINUTE_MS)
        want, found = columns(old), columns(other)
        for key in order.missing.columns:
            # Sums of std stand around the first sample it ever saw; what an ewma began with has faded to the last bits.
            tolerance = 1e-9 if "std" in key[1] else 1e-13 if "ewma" in key[1] else 0.0
            heard = ~np.isnan(found[key]) if k < 3 else np.ones(len(want[key]), np.bool_)  # some minutes bring nothing
            np.testing.assert_allclose(found[key][heard], want[key][heard], rtol=tolerance, err_msg=f"{key} after {k} min")
            compared += int((~np.isnan(found[key])).sum())
    assert compared > 3_000


ENDLESS = (
    "cusum_high(air_temp_c, 22, 2, 0.2, 1 h)", "cusum_low(air_temp_c, 23, 2, 0.1, 30 min)",
    "max(cusum_high(air_temp_c, 22, 2, 0.2, 1 h), 2 h)",
)  # fmt: skip


@pytest.mark.parametrize("gap_min", [0, 7])
def test_a_sum_without_an_end_is_that_of_all_history(scan: FileScan, gap_min: int) -> None:
    new = [{"id": f"E{k}", "profile": "house", "when": f"{text} > 1000"} for k, text in enumerate(ENDLESS)]
    order = make_warm_job(scan, farm([*RULES, *new]), NOW_MS)
    assert order.job.start_ms < T0_MS - 300 * 86_400_000
    old, other = all_along(order, NOW_MS), running(order, NOW_MS)
    other.step(applied(order, computed(order, scan), other.position + 1, NOW_MS))
    want, found = memories(old), memories(other)
    sums = [key for key in order.missing.columns if not key[1].startswith("max")]
    assert len(sums) == len(ENDLESS) - 1
    assert all(found[key].any() for key in sums)
    for key in sums:
        np.testing.assert_array_equal(found[key], want[key])
    live_from = NOW_MS + gap_min * MINUTE_MS
    for engine in (old, other):
        feed(engine, live_from, live_from + 90 * MINUTE_MS)
    for key in order.missing.columns:
        np.testing.assert_array_equal(columns(other)[key], columns(old)[key])
        assert not np.isnan(columns(other)[key]).any()


def test_a_smoothed_value_is_that_of_all_history(scan: FileScan) -> None:
    texts = ("ewma(air_temp_c, 30 min)", "ewma(air_temp_c, 0.05)", "ewma(mean(air_temp_c, 1 h), 20 min)")
    new = [{"id": f"E{k}", "profile": "house", "when": f"{text} > 1000"} for k, text in enumerate(texts)]
    order = make_warm_job(scan, farm([*RULES, *new]), NOW_MS)
    assert NOW_MS - order.job.start_ms == 37 * 30 * MINUTE_MS  # the beginning weighs less than the last bit
    old, other = all_along(order, NOW_MS), running(order, NOW_MS)
    other.step(applied(order, computed(order, scan), other.position + 1, NOW_MS))
    for engine in (old, other):
        feed(engine, NOW_MS, NOW_MS + 3 * MINUTE_MS)
    compared = [key for key in order.missing.columns if "ewma" in key[1]]
    assert len(compared) == len(texts)
    for key in compared:
        assert not np.isnan(columns(other)[key]).any()
        np.testing.assert_allclose(columns(other)[key], columns(old)[key], rtol=1e-13)


def test_what_moves_an_actuator_is_not_warmed(scan: FileScan) -> None:
    order = make_warm_job(scan, new_farm(), NOW_MS)
    keys = {key for _, key in order.missing.columns}
    assert "mean(air_temp_c, 3 h)" in keys
    assert not [key for key in keys if "45 min" in key]
    found = computed(order, scan)
    column = next(c for c in found.columns if c.key == "mean(air_temp_c, 3 h)")
    forged = msgspec.structs.replace(column, key="mean(air_temp_c, 45 min) live")  # a CONFIG that says so is not believed
    given = WarmStart(panes.LAYOUT, found.reached_ms, [forged])
    engine = running(order, NOW_MS)
    engine.step(applied(order, given, engine.position + 1, NOW_MS))
    state = memories(engine)["farm/house", "mean(air_temp_c, 45 min) live"]
    assert (state[:, 0] == panes.NONE).all()


def test_no_condition_turns_before_a_sample_and_then_with_its_own_time(scan: FileScan) -> None:
    order = make_warm_job(scan, new_farm(), NOW_MS)
    engine = running(order, NOW_MS)
    told = engine.step(applied(order, computed(order, scan), engine.position + 1, NOW_MS)).decisions
    tick = Entries(engine.position + 1, np.array([Kind.TICK], np.uint8), np.array([NOW_MS * 1_000_000 + 1]), opening(0).frames)
    told += engine.step(tick).decisions
    assert not [d for d in told if d.subject.startswith("HIGH@")]
    told = feed(engine, NOW_MS + 1, NOW_MS + 2 * MINUTE_MS)
    raised = {d.subject: d for d in told if d.kind == "alarm" and d.subject.startswith("HIGH@")}
    assert set(raised) == {f"HIGH@farm/house-{x}" for x in "abc"}
    assert all(d.time_ns > NOW_MS * 1_000_000 for d in raised.values())


def test_the_same_live_in_replay_and_over_a_restart(scan: FileScan) -> None:
    order = make_warm_job(scan, new_farm(), NOW_MS)
    found = computed(order, scan)
    assert warm_start.encode(found) == warm_start.encode(computed(order, scan))
    engines = [running(order, NOW_MS) for _ in range(2)]
    for engine in engines:
        engine.step(applied(order, found, engine.position + 1, NOW_MS))
    saved = engines[1].snapshot()
    again = order.job.engine(farm())
    again.restore(saved)
    logs = [[feed(engine, NOW_MS + 1, NOW_MS + 240 * MINUTE_MS)] for engine in (engines[0], again)]
    assert logs[0] == logs[1]
    assert len(logs[0][0]) > 3
    for key, state in memories(engines[0]).items():
        np.testing.assert_array_equal(memories(again)[key], state)


def test_a_memory_of_its_own_is_never_replaced(scan: FileScan) -> None:
    order = make_warm_job(scan, new_farm(), NOW_MS)
    found = computed(order, scan, NOW_MS - 3_600_000)
    engine = all_along(order, NOW_MS)
    before = memories(engine)
    engine.step(applied(order, found, engine.position + 1, NOW_MS))
    for key, state in memories(engine).items():
        np.testing.assert_array_equal(state, before[key])


def test_a_memory_of_another_layout_is_left_alone(scan: FileScan) -> None:
    order = make_warm_job(scan, new_farm(), NOW_MS)
    other = msgspec.structs.replace(computed(order, scan), layout=panes.LAYOUT + 1)
    engine = running(order, NOW_MS)
    engine.step(applied(order, other, engine.position + 1, NOW_MS))
    assert all((memories(engine)[key][:, 0] == panes.NONE).all() for key in order.missing.columns)


def test_only_what_is_new_is_read(scan: FileScan) -> None:
    only_wind = farm([*RULES, {"id": "W", "profile": "weather", "when": "mean(wind_m_s, 1 h) > 100"}])
    order = make_warm_job(scan, only_wind, NOW_MS)
    assert (set(order.missing.columns), order.missing.cohorts) == ({("farm/weather", "mean(wind_m_s, 1 h)")}, {"farm/weather"})
    *parts, (_, _, found) = warm(order, scan, lambda: NOW_MS)
    assert found is not None
    assert [column.devices for column in found.columns] == [["station"]]
    assert sum(samples for _, samples, _ in parts) == 120
    assert not make_warm_job(scan, farm(), NOW_MS).missing.columns


def test_a_change_of_unit_or_origin_is_refused(scan: FileScan) -> None:
    config = new_farm()
    house = config.profiles["house"]
    other = house.model_copy(update={"points": [house.points[0].model_copy(update={"unit": "K"}), *house.points[1:]]})
    for changed in (
        config.model_copy(update={"profiles": {**config.profiles, "house": other}}), config.model_copy(update={"origin": "SIMULATED"}),
    ):  # fmt: skip
        with pytest.raises(CallerError, match="history is of another"):
            make_warm_job(scan, changed, NOW_MS)
    with pytest.raises(CallerError, match="history knows no site 'elsewhere'"):
        make_warm_job(scan, config.model_copy(update={"site": "elsewhere"}), NOW_MS)


def test_more_than_a_configuration_may_bring_is_told_with_the_largest() -> None:
    few, many = farm([]), farm([{"id": "Q", "profile": "house", "when": "median(air_temp_c, 7 d) > 1000"}])
    plans = []
    for config in (few, many):
        plan = Plan()
        houses = config.devices[1].model_copy(update={"name": "h", "count": 1_000})
        plan.apply(config.model_copy(update={"devices": [config.devices[0], houses]}))
        plans.append(plan)
    with pytest.raises(
        CallerError, match=r"is 17 MiB, a configuration brings at most 16 MiB.*median\(air_temp_c, 7 d\) of farm/house"
    ):
        warm_start.missing(plans[0], bind(plans[0]), bind(plans[1]), "farm")


# -- members of arrays ---------------------------------------------------------------------------------------------------------

MILL_NOW_MS = T0_MS + 5 * 60 * MINUTE_MS + 12_345
MEMBERS = (
    "worst(members: held(spindle_rpm < 0.98 * mean(members: spindle_rpm), 5 min))", "max(members: rise(breaks, 80 min))",
    "sum(members: rise(if(held(spindle_rpm < 16990, 2 min), 1, 0), 30 min))", "mean(count(members: spindle_rpm < 17000), 30 min)",
)  # fmt: skip


@pytest.fixture(scope="module")
def mill_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("mill") / "history.duckdb"
    write_mill(made)
    return made


def feed_mill(engine: Engine, order: WarmJob, scan: FileScan, start_ms: int, end_ms: int) -> None:
    """Out of history: what a core hears, as tests of backtests show."""
    job, where = dataclasses.replace(order.job, start_ms=start_ms, end_ms=end_ms), places(engine.plan, arrays_read([engine]))
    for low, high, rows, arrays in blocks(job, scan, engine.plan, where, 100_000):
        engine.step(recorded_entries(rows, where, first=engine.position + 1, start_ms=low, end_ms=high, arrays=arrays))


def member_values(engine: Engine) -> dict[tuple[str, str], Any]:
    """What is remembered of members, as it is read: (frames, members) by cohort and text."""
    saved = stage_of(engine).snapshot()["cohorts"]["mill/frame"]["columns"]
    return {key: saved[key[1]]["members"].copy() for key in memories(engine) if "members" in saved[key[1]]}


@pytest.mark.parametrize("gap_min", [0, 4])
def test_what_is_remembered_of_members_equals_what_had_been_there_all_along(mill_file: Path, gap_min: int) -> None:
    new = [{"id": f"M{k}", "profile": "frame", "when": f"{text} > 1000"} for k, text in enumerate(MEMBERS)]
    scan = FileScan(mill_file)
    order = make_warm_job(scan, mill(new), MILL_NOW_MS)
    assert MILL_NOW_MS - order.job.start_ms == (2 * 80 + 3) * MINUTE_MS  # the longest `rise`, and a gap
    old, other = (order.job.engine(config) for config in (order.job.variants[0], mill()))
    for engine, until in ((old, MILL_NOW_MS), (other, MILL_NOW_MS + gap_min * MINUTE_MS)):
        engine.step(opening(T0_MS * 1_000_000))
        feed_mill(engine, order, scan, T0_MS, until)
    found = computed(order, scan, MILL_NOW_MS)
    assert {column.devices == ["frame-a", "frame-b"] for column in found.columns} == {True}
    live_from = MILL_NOW_MS + gap_min * MINUTE_MS
    other.step(applied(order, found, other.position + 1, live_from))
    assert all(np.isnan(values).all() for values in member_values(other).values())
    seen = 0.0
    for k in range(20):
        for engine in (old, other):
            feed_mill(engine, order, scan, live_from + k * MINUTE_MS, live_from + (k + 1) * MINUTE_MS)
        want, got = member_values(old), member_values(other)
        assert set(want) == set(got)
        for key, values in got.items():
            heard = ~np.isnan(values) if k < 3 else np.ones(values.shape, np.bool_)
            np.testing.assert_array_equal(values[heard], want[key][heard], err_msg=f"{key} after {k} min")
            seen += float(np.nansum(values))
        for key, values in columns(other).items():
            heard = ~np.isnan(values) if k < 3 else np.ones(values.shape, np.bool_)
            np.testing.assert_array_equal(values[heard], columns(old)[key][heard], err_msg=f"{key} after {k} min")
    assert seen > 200
    assert len(order.missing.columns) == 5
    scan.close()


def test_members_of_a_rule_that_moves_an_actuator_are_not_warmed(mill_file: Path) -> None:
    scan = FileScan(mill_file)
    new = {
        "id": "M",
        "profile": "frame",
        "when": f"{MEMBERS[0]} > 0",
        "demand": {"actuator": "drive", "value": 0, "level": "equipment"},
    }
    assert not make_warm_job(scan, mill([new]), MILL_NOW_MS).missing.columns
    scan.close()


# -- through web and core ------------------------------------------------------------------------------------------------------

WARM = RuleSpec.model_validate({"id": "MEAN", "profile": "house", "when": "mean(air_temp_c, 60 s) > 30", "priority": "P3"})


def warmer() -> SiteConfig:
    config = world_site("north")
    return config.model_copy(update={"rules": [*config.rules, WARM]})


def order_and_apply(port: int, token: str) -> str:
    """What the command line does; in a thread, beside the server."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=30) as http:
        client, config = Client(http), warmer()
        warming = _warmed(client, config)
        body = config.model_dump(mode="json")
        with pytest.raises(CallerError, match="of another configuration"):
            client.post(f"/sites/north/config?warm={warming}", world_site("north").model_dump(mode="json"))
        with pytest.raises(CallerError, match="of another configuration"):
            client.post("/sites/north/config?warm=0123456789abcdef", body)
        return str(client.post(f"/sites/north/config?warm={warming}", body)["request"])


async def ask(world: World, desk: WarmingDesk) -> Request:
    """The request that core would find in the inbox."""
    listener = listen("127.0.0.1", 0)
    server = Server(make_app(dataclasses.replace(world.parts, warmings=desk)))
    task = asyncio.create_task(server.serve([listener]), name="server")
    try:
        await server.is_up.wait()
        request = await asyncio.to_thread(order_and_apply, listener.getsockname()[1], world.token("ann", "engineer", ["north"]))
    finally:
        server.should_exit = True
        await task
        listener.close()
        desk.close()
    return world.inbox.requests[request]  # type: ignore[no-any-return, attr-defined]


@pytest.mark.timeout(120)
async def test_ordered_over_http_and_taken_by_core(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    for k in range(90):
        world.write(frames=[("north/house-0", {"air_temp_c": 20.0 + k % 7}, 0.0)])
    request = await ask(world, WarmingDesk(world.parts.history, now_s=lambda: START_NS / 1e9 + 91))
    world.close()
    core = Core(Settings(data_dir=tmp_path / "core", mqtt_host="127.0.0.1", disk_free_mb=64))
    told = [Request("first", "config", "ann", {"text": world_site("north").canonical()}), request]
    broken = base64.b64encode(b"no such thing").decode()
    for row, one in enumerate([*told, Request("bad", "config", "ann", {**request.body, "warm": broken})], start=1):
        await core._take_request(one, row)
    entries = core._gather.build(0, time.time_ns(), 0)
    answers = {d.subject: d.body for d in core.engine.step(entries).decisions if d.kind == "answer"}
    core._close()
    assert (answers[request.id]["accepted"], answers["bad"]["accepted"]) == (True, False)
    assert "memory of windows" in answers["bad"]["reason"]
    assert "warm" not in next(r for _, r in entries.records if isinstance(r, Request) and r.id == request.id).body
    state = memories(core.engine)["north/house", "mean(air_temp_c, 1 min)"]
    assert (state[0, 0] != panes.NONE, state[1, 0] == panes.NONE) == (True, True)
    assert int(state[0, 2] + state[0, 3]) == 60  # samples in the window: of closed panes and of the newest
    assert not [v for v in columns(core.engine)["north/house", "mean(air_temp_c, 1 min)"] if not np.isnan(v)]
