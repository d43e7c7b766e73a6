"""T31: data that are old, replayed, retained, of another origin or BAD trip no command, and no live alarm where they are not live."""

import numpy as np
import pytest

from app.wiring import build_engine
from rules.engine import Engine
from telemetry import quality
from telemetry.decision import Decision
from telemetry.frame import DTYPES, Entries, Flag, Frames, Kind, Verdict
from telemetry.record import Config, Event, Start
from telemetry.site import ActuatorSpec, AreaSpec, DemandSpec, DeviceSpec, Origin, PointSpec, Profile, RuleSpec, SiteConfig

S = 1_000_000_000
T0 = 1_760_000_000 * S
DEVICES = 50
ALL = Flag.HAS_TS | Flag.FIRST


def demand(level: str = "survival") -> DemandSpec:
    return DemandSpec.model_validate({"actuator": "vent", "value": 100, "level": level})


def profile(link: str = "") -> Profile:
    """Rules that one value of 75 trips in every way there is: at once, after a delay, over a window, by an expression."""
    point = f"{link}temp_c"
    rules = [
        RuleSpec(id="NOW", when=f"{point} > 30", priority="P1", demand=demand()),
        RuleSpec(id="DELAYED", when=f"{point} > 30", on_delay_s=1, priority="P2", demand=demand("equipment")),
        RuleSpec(id="WINDOW", when=f"max({point}, 3 s) > 30", priority="P3", demand=demand("temperature")),
        RuleSpec(
            id="TEXT", when=f"not ({point} < 30)", priority="P4",
            demand=DemandSpec(actuator="vent", value=f"{point} + 10", level="economy"),
        ),
    ]  # fmt: skip
    return Profile(
        name="p", points=[PointSpec(name="temp_c", unit="C", low=-40, high=80)], actuators=[ActuatorSpec(name="vent")], rules=rules
    )


def site(name: str, origin: Origin, link: str | None = None) -> SiteConfig:
    made = profile("" if link is None else "far.")
    if link == "":
        made = made.model_copy(update={"rules": []})
    return SiteConfig(
        site=name, origin=origin, areas=[AreaSpec(name="a", links={} if not link else {"far": link})],
        devices=[DeviceSpec(name="d", profile="p", area="a", count=DEVICES)], profiles={"p": made},
    )  # fmt: skip


def frames(rows: int, *, flags: int, age_ns: int, value: float, q: int, first_device: int) -> Entries:
    """One frame of one sample every 10 ms, devices in turn, `age_ns` old, and a tick every 100 frames."""
    period = 101
    entries = rows + rows // 100 + 1
    is_tick = np.arange(entries) % period == 100
    is_frame = ~is_tick
    is_frame[np.flatnonzero(is_frame)[rows:]] = False
    times = T0 + 5 * S + np.arange(entries) * 10_000_000
    entry = np.flatnonzero(is_frame)
    device = first_device + np.arange(rows) % DEVICES
    made = {
        "entry": entry, "device": device, "ts_ns": times[entry] - age_ns, "boot": np.zeros(rows), "seq": np.zeros(rows),
        "flags": np.full(rows, flags), "offsets": np.arange(rows + 1), "point": device, "value": np.full(rows, value),
        "quality": np.full(rows, q),
    }  # fmt: skip
    kind = np.where(is_frame, Kind.FRAME, Kind.TICK).astype(np.uint8)
    return Entries(3, kind, times, Frames(**{name: np.array(column, DTYPES[name]) for name, column in made.items()}))


def prepared(*sites: SiteConfig, sabotage: frozenset[str] = frozenset()) -> Engine:
    engine = build_engine(sabotage=sabotage)
    records = [Start(1), *(Config(s.site, s.sha256(), s.canonical()) for s in sites), Event("drained")]
    for k, record in enumerate(records):
        kind = Kind.START if k == 0 else Kind.CONFIG if isinstance(record, Config) else Kind.EVENT
        none = Frames(**{n: np.zeros(1 if n == "offsets" else 0, t) for n, t in DTYPES.items()})
        engine.step(Entries(k, np.array([kind], np.uint8), np.array([T0 + k]), none, ((0, record),)))
    return engine


def decided(engine: Engine, entries: Entries) -> tuple[list[Decision], int, set[int]]:
    entries = Entries(engine.position + 1, entries.kind, entries.time_ns, entries.frames)
    outcome = engine.step(entries)
    return outcome.decisions, len(outcome.commands), set(outcome.admission.verdict.tolist())


BACK = int(Flag.BACKFILL)
GATES = {
    "backfill": (ALL | BACK, 0, 75.0, 0, Verdict.BACKFILL),
    "retained": (ALL | Flag.RETAINED, 0, 75.0, 0, Verdict.RETAINED),
    "replay": (ALL | Flag.REPLAY, 0, 75.0, 0, Verdict.REPLAY),
    "late": (ALL, 3600 * S, 75.0, 0, Verdict.LATE),
    "future": (ALL, -3600 * S, 75.0, 0, Verdict.FUTURE),
    "bad by the device": (ALL, 0, 75.0, quality.BAD | quality.DEVICE_BAD, Verdict.LIVE),
    "bad by range": (ALL, 0, 5000.0, 0, Verdict.LIVE),
    "not a number": (ALL, 0, float("nan"), 0, Verdict.LIVE),
    "infinite": (ALL, 0, float("inf"), 0, Verdict.LIVE),
}


def gate(name: str, rows: int, sabotage: frozenset[str] = frozenset()) -> None:
    flags, age_ns, value, q, verdict = GATES[name]
    engine = prepared(site("s", "LIVE"), sabotage=sabotage)
    made, commands, verdicts = decided(engine, frames(rows, flags=int(flags), age_ns=age_ns, value=value, q=q, first_device=0))
    assert commands == 0
    assert [d for d in made if d.kind in {"alarm", "demand", "command"}] == []
    assert verdicts == {int(verdict)}


def cross_site(origin: Origin, rows: int) -> tuple[int, int]:
    """Commands and alarms of a LIVE area whose rules read a device of a site of `origin`."""
    engine = prepared(site("far", origin, ""), site("s", "LIVE", "far/d-0"))
    flags = ALL | Flag.REPLAY if origin == "REPLAY" else ALL
    made, commands, _ = decided(engine, frames(rows, flags=int(flags), age_ns=0, value=75.0, q=0, first_device=0))
    return commands, len([d for d in made if d.kind == "alarm"])


@pytest.mark.parametrize("name", GATES)
def test_data_that_are_not_live_or_not_good_move_nothing(name: str) -> None:
    gate(name, 11_000)


@pytest.mark.parametrize("origin", ["SIMULATED", "REPLAY"])
def test_a_demand_with_an_input_of_another_origin_moves_nothing(origin: Origin) -> None:
    commands, _ = cross_site(origin, 5_000)
    assert commands == 0


def test_replayed_data_of_another_site_raise_nothing_here() -> None:
    assert cross_site("REPLAY", 5_000) == (0, 0)


def test_the_same_data_when_live_trip_every_rule() -> None:
    engine = prepared(site("s", "LIVE"))
    made, commands, _ = decided(engine, frames(5_000, flags=int(ALL), age_ns=0, value=75.0, q=0, first_device=0))
    assert commands >= DEVICES
    raised = {d.subject.partition("@")[0] for d in made if d.kind == "alarm"} - {"COMMAND-vent"}  # nobody answers here
    assert raised == {"NOW", "DELAYED", "WINDOW", "TEXT"}
    commands, alarms = cross_site("LIVE", 5_000)
    assert commands >= DEVICES
    assert alarms >= 4 * DEVICES


def test_late_samples_explain_an_alarm_and_move_nothing() -> None:
    """Half a minute of heat that comes late fills the windows; the next live sample is cool, and only the alarm sees the mean."""
    rules = [
        RuleSpec(id="SEEN", when="mean(temp_c, 60 s) > 30", priority="P3"),
        RuleSpec(id="MOVES", when="mean(temp_c, 60 s) > 30", demand=demand()),
    ]
    config = site("s", "LIVE")
    config = config.model_copy(update={"profiles": {"p": config.profiles["p"].model_copy(update={"rules": rules})}})
    engine = prepared(config)
    numbered = int(ALL | Flag.HAS_SEQ)
    made = []
    for seq, (age_s, value, flags) in enumerate(
        [(0, 20.0, numbered), *((60 - k, 75.0, numbered | BACK) for k in range(1, 30)), (0, 20.0, numbered)]
    ):
        second = 0 if seq == 0 else 60
        one = frames(1, flags=flags, age_ns=age_s * S, value=value, q=0, first_device=0)
        columns = {name: getattr(one.frames, name) + (second * S if name == "ts_ns" else 0) for name in DTYPES}
        columns["seq"] = np.array([seq], np.uint32)
        entries = Entries(engine.position + 1, one.kind[:1], one.time_ns[:1] + second * S, Frames(**columns))
        outcome = engine.step(entries)
        assert outcome.commands == []
        made += outcome.decisions
    assert [(d.subject, d.body["to"]) for d in made if d.kind == "alarm"] == [("SEEN@s/d-0", "UNACK")]


@pytest.mark.torture
@pytest.mark.parametrize("name", GATES)
def test_a_million_rows_move_nothing(name: str) -> None:
    gate(name, 1_000_000)


@pytest.mark.torture
def test_a_million_rows_of_another_origin_move_nothing() -> None:
    assert cross_site("SIMULATED", 1_000_000)[0] == 0


@pytest.mark.parametrize("name", ["backfill", "retained", "replay", "late"])
def test_admitting_late_data_is_noticed(name: str) -> None:
    with pytest.raises(AssertionError):
        gate(name, 1_000, frozenset({"admit_late"}))
