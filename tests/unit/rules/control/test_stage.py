"""The stage that runs controllers: what they are told, when they run, what reaches an actuator, and what a changed site keeps."""

import json
import math
from typing import Any

import numpy as np
import pytest

from app.wiring import build_engine
from ingest.decode import Directory, Gather
from rules.check import control_mistakes
from rules.control.controller import Ask, Turn
from rules.control.kinds import KINDS
from rules.engine import Engine, Outcome
from telemetry.errors import CallerError
from telemetry.record import Config, Event, Request, Start
from telemetry.site import AreaSpec, ControllerSpec, SiteConfig

S = 1_000_000_000
T0 = 1_760_000_000 * S
VENT = "farm/h-0/vent"


class Probe:
    """Asks for what it reads, and counts its runs."""

    READS = ("temp_c", "weather.out_c", "set.air_c", "hour", "mode", "day_of_batch", "nothing_c")
    EVERY_S = 10.0
    ASKS = (
        Ask("vent", "value", "temperature", "warm air", "空气偏暖"),
        Ask("vent", "at_most", "equipment", "storm"),
        Ask("door", "value", "economy"),
    )
    told: dict[str, Any]

    def __init__(self) -> None:
        self.told = {}

    def parameters(self, given: Any) -> Any:
        if unknown := given.keys() - {"factor"}:
            raise CallerError(f"no parameter {min(unknown)!r}; there is factor")
        return {"factor": 1.0, **given}

    def start(self, n: int, time_ns: int, parameters: Any) -> tuple[Any, ...]:  # noqa: ARG002
        return (np.zeros(n),)

    def step(self, state: tuple[Any, ...], time_ns: int, inputs: Any, parameters: Any) -> Turn:
        self.told = {"time_ns": time_ns, **inputs}
        if np.any(inputs["temp_c"] == 66.0):
            raise ZeroDivisionError("no air")
        warm, storm, door = self.ASKS
        demand = {warm: parameters["factor"] * inputs["temp_c"], door: state[0]}  # this profile has no door
        if np.any(inputs["weather.out_c"] > 30.0):
            demand[storm] = np.full(len(state[0]), 20.0)
        return Turn((state[0] + 1,), demand, {"runs": state[0], "temp_c": inputs["temp_c"]})


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    made = Probe()
    monkeypatch.setitem(KINDS, "probe", made)
    return made


def site(count: int = 2, controllers: list[dict[str, Any]] | None = None, **area: Any) -> SiteConfig:
    points = [{"name": "temp_c", "unit": "C", "low": -40, "high": 80, "heartbeat_s": 20}]
    weather = {"name": "weather", "points": [{"name": "out_c", "unit": "C", "low": -40, "high": 80, "heartbeat_s": 20}]}
    house = {
        "name": "house", "points": points, "actuators": [{"name": "vent", "min_step": 2, "rest": 5}],
        "controllers": [{"id": "air", "kind": "probe"}] if controllers is None else controllers,
    }  # fmt: skip
    return SiteConfig.model_validate({
        "site": "farm", "zone": "Asia/Shanghai", "profiles": {"house": house, "weather": weather},
        "areas": [{"name": "a", "links": {"weather": "ws"}, **area}],
        "devices": [{"name": "ws", "profile": "weather", "area": "a"}, {"name": "h", "profile": "house", "area": "a", "count": count}],
    })  # fmt: skip


class Run:
    """An engine that is told things at seconds after T0."""

    def __init__(self, config: SiteConfig) -> None:
        self.engine = build_engine()
        self.gather = Gather(Directory(self.engine.plan))
        self.decisions: list[Any] = []
        self.put(0, Start(1))
        self.configure(0, config)
        self.put(0, Event("drained"))

    def configure(self, second: float, config: SiteConfig) -> None:
        self.put(second, Config(config.site, config.sha256(), config.canonical()))
        self.gather.directory = Directory(self.engine.plan)

    def put(self, second: float, record: Any) -> Outcome:
        self.gather.add(record, T0 + int(second * S))
        return self._step(second)

    def say(self, second: float, device: str, **values: float | None) -> Outcome:
        body = json.dumps({"boot": 1, "seq": int(second * 10), "ts": T0 // 1_000_000 + int(second * 1000), "p": values}).encode()
        self.gather.take(f"fl/farm/{device}/telemetry", body, False, T0 + int(second * S))
        return self._step(second)

    def tick(self, second: float) -> Outcome:
        self.gather.tick(T0 + int(second * S))
        return self._step(second)

    def _step(self, second: float) -> Outcome:
        outcome = self.engine.step(self.gather.build(self.engine.position + 1, T0 + int(second * S), 0))
        self.decisions += outcome.decisions
        return outcome

    def asked(self, actuator: str = VENT) -> list[float]:
        return [d.body["value"] for d in self.decisions if d.kind == "demand" and d.subject == actuator]


def test_it_runs_at_multiples_of_its_period_and_sees_what_came_before(probe: Probe) -> None:
    run = Run(site())
    run.say(3, "h-0", temp_c=21.0)
    assert not run.asked()
    run.say(10, "h-0", temp_c=50.0)  # at the moment itself: after it
    assert probe.told["time_ns"] == T0 + 10 * S
    assert run.asked() == [21.0]
    run.tick(19.9)
    assert run.asked() == [21.0]
    outcome = run.tick(20.1)
    demand = next(d for d in outcome.decisions if d.kind == "demand" and d.subject == VENT)
    assert (demand.body["value"], demand.time_ns) == (50.0, T0 + 20 * S)
    winner = demand.body["winner"]
    assert (winner["source"], winner["level"], winner["read"]) == ("air.warm_air@farm/h-0", 6, {"runs": 1.0, "temp_c": 50.0})


def test_what_it_is_told(probe: Probe) -> None:
    run = Run(site(setpoints={"air_c": {"unit": "C", "by_hour": [[0, 10.0], [24, 34.0]]}}))
    run.put(1, Request("r1", "mode", "ann", {"area": "farm/a", "mode": "OCCUPIED"}))
    run.put(1, Request("r2", "batch", "ann", {"area": "farm/a", "day": 12, "name": "b"}))
    run.say(2, "h-0", temp_c=20.0)
    run.say(2, "h-1", temp_c=None)
    run.say(3, "ws", out_c=9.0)
    run.tick(11)
    hour = (T0 // S + 10 + 8 * 3600) % 86_400 / 3600
    assert probe.told["hour"] == pytest.approx([hour, hour])
    assert probe.told["set.air_c"] == pytest.approx([10 + hour] * 2)
    assert probe.told["temp_c"].tolist()[0] == 20.0
    assert math.isnan(probe.told["temp_c"][1])
    assert probe.told["weather.out_c"].tolist() == [9.0, 9.0]
    assert probe.told["day_of_batch"].tolist() == [12.0, 12.0]
    assert probe.told["mode"].tolist() == [5.0, 5.0]
    assert np.isnan(probe.told["nothing_c"]).all()


def test_a_sample_is_held_for_three_heartbeats(probe: Probe) -> None:
    run = Run(site())
    run.say(1, "h-0", temp_c=20.0)
    for second in range(5, 60, 5):
        run.tick(second)
    run.say(31, "h-0", temp_c=200.0)  # out of range: says nothing
    run.tick(61)
    assert probe.told["temp_c"][0] == 20.0
    run.tick(70)
    assert probe.told["time_ns"] == T0 + 70 * S
    assert math.isnan(probe.told["temp_c"][0])
    assert run.asked() == [20.0, 5.0]  # nobody asks any more: rest


def test_late_repeated_and_foreign_samples_move_nothing(probe: Probe) -> None:
    run = Run(site())
    run.say(1, "h-0", temp_c=20.0)
    body = json.dumps({"boot": 1, "seq": 7, "ts": T0 // 1_000_000 - 600_000, "p": {"temp_c": 44.0}}).encode()
    for channel in ("backfill", "telemetry"):
        run.gather.take(f"fl/farm/h-0/{channel}", body, False, T0 + 2 * S)
    run.tick(12)
    assert probe.told["temp_c"][0] == 20.0


def test_small_changes_are_not_told_but_ends_are(probe: Probe) -> None:
    run = Run(site())
    for k, value in enumerate([20.0, 21.9, 22.0, 0.5, 0.0, 0.4]):
        run.say(10 * k + 1, "h-0", temp_c=value)
    run.tick(60)
    assert run.asked() == [20.0, 22.0, 0.5, 0.0]


def test_a_bound_of_equipment_wins_and_names_the_loser(probe: Probe) -> None:
    run = Run(site())
    run.say(1, "ws", out_c=35.0)
    run.say(2, "h-0", temp_c=70.0)
    run.tick(10)
    demand = next(d for d in run.decisions if d.kind == "demand" and d.subject == VENT)
    assert demand.body["value"] == 20.0
    assert demand.body["winner"]["source"] == "air.storm@farm/h-0"
    assert [loser["reason"] for loser in demand.body["losers"]] == ["warm air"]
    for second in range(20, 70, 5):
        run.say(second, "h-0", temp_c=70.0)
        run.say(second, "ws", out_c=10.0)
    assert run.asked()[-1] == 70.0


def test_nothing_runs_in_blindness(probe: Probe) -> None:
    run = Run(site())
    run.say(1, "h-0", temp_c=20.0)
    run.tick(11)
    run.put(12, Event("broker_lost"))
    run.tick(25)
    assert probe.told["time_ns"] == T0 + 10 * S
    run.put(30.5, Event("drained"))
    run.tick(40)
    assert probe.told["time_ns"] == T0 + 40 * S


def test_after_a_gap_only_the_last_minute_is_run(probe: Probe) -> None:
    run = Run(site())
    run.say(1, "h-0", temp_c=20.0)
    run.tick(11)
    run.tick(100_000)
    runs = run.engine.snapshot()["stages"]["Control"]["cohorts"][0]["state"][0]
    assert runs[0] == 1 + 7
    assert probe.told["time_ns"] == T0 + 100_000 * S


def test_what_a_change_of_the_site_keeps(probe: Probe) -> None:
    def runs_of(engine: Engine) -> dict[str, float]:
        parts = engine.snapshot()["stages"]["Control"]["cohorts"]
        return {key: value for part in parts if part["state"] for key, value in zip(part["devices"], part["state"][0], strict=True)}

    run = Run(site())
    run.say(1, "h-0", temp_c=20.0)
    run.tick(11)
    run.configure(12, site(3, control={"air": {"factor": 2.0}}))
    run.tick(21)
    assert runs_of(run.engine) == {"farm/h-0": 2.0, "farm/h-1": 2.0, "farm/h-2": 1.0}
    assert run.asked() == [20.0, 40.0]
    run.configure(22, site(3, control={"air": {"enabled": False}}))
    run.tick(23)
    assert run.asked() == [20.0, 40.0, 5.0]
    assert not runs_of(run.engine)


def test_one_that_fails_is_told_and_lets_go(probe: Probe) -> None:
    run = Run(site())
    run.say(1, "h-0", temp_c=20.0)
    run.say(11, "h-0", temp_c=66.0)
    run.tick(20)
    faults = [d for d in run.decisions if d.kind == "fault"]
    assert {d.subject for d in faults} == {"air@farm/h-0", "air@farm/h-1"}
    assert faults[0].body["reason"] == "controller air failed: ZeroDivisionError: no air"
    assert run.asked() == [20.0, 5.0]
    engine = build_engine()
    engine.restore(run.engine.snapshot())
    run.engine = engine
    run.say(31, "h-0", temp_c=21.0)
    run.tick(40)
    assert run.asked() == [20.0, 5.0]  # not before its configuration is another


def test_controllers_of_faster_plants_go_by_the_plants_clock(probe: Probe) -> None:
    def fast(wall_s: float) -> SiteConfig:
        clock = {"speed": 60.0, "wall_s": wall_s, "plant_s": 1_700_000_000.0}
        return site(controllers=[{"id": "air", "kind": "probe", "plant_clock": clock}])

    run = Run(fast(T0 / S))
    run.say(1, "h-0", temp_c=20.0)
    run.tick(3.5)
    assert probe.told["time_ns"] == (1_700_000_000 + 180) * S
    assert probe.told["hour"][0] == pytest.approx((1_700_000_000 + 180 + 8 * 3600) % 86_400 / 3600)
    assert run.engine.snapshot()["stages"]["Control"]["cohorts"][0]["state"][0][0] == 3.0
    run.configure(4, fast(T0 / S + 1))  # another clock: begins anew
    run.tick(5)
    assert run.engine.snapshot()["stages"]["Control"]["cohorts"][0]["state"][0][0] == 1.0


def test_mistakes_are_told_with_their_place_and_fix(probe: Probe) -> None:
    config = site(controllers=[{"id": "air", "kind": "probe", "parameters": {"factr": 2}}, {"id": "feed", "kind": "prob"}])
    area = config.areas[0].model_copy(update={"control": {"feed": {}, "fed": {}, "air": {"enabled": "no"}}})
    found = {mistake.path: mistake.message for mistake in control_mistakes(config.model_copy(update={"areas": [area]}))}
    assert found["profiles", "house", "controllers", 0] == "controller air: no parameter 'factr'; there is factor"
    assert "no kind of controller 'prob'" in found["profiles", "house", "controllers", 1]
    assert "no device of this area has a controller 'fed'" in found["areas", 0, "control", "fed"]
    good = site(control={"air": {"enabled": "no"}})
    assert "`enabled` is true or false" in next(iter(control_mistakes(good))).message
    with pytest.raises(ValueError, match="declared twice"):
        site(controllers=[{"id": "air", "kind": "probe"}, {"id": "air", "kind": "probe"}])


def test_core_that_is_handed_a_bad_one_tells_it_and_goes_on(probe: Probe) -> None:
    run = Run(site(controllers=[{"id": "air", "kind": "nil"}]))
    run.tick(1)
    assert [d.subject for d in run.decisions if d.kind == "fault"] == ["air@farm/h-0", "air@farm/h-1"]
    assert AreaSpec(name="a").control == {}
    assert ControllerSpec(id="a", kind="b").enabled
