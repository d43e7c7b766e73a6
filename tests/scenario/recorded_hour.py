"""One recorded hour of a site, made by driving the engine one entry at a time: measurements with commands obeyed or not, requests, a
restart, a lost broker and changes of the configuration. The recording can then be cut and driven in any other way."""

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from app.wiring import build_engine
from ingest.decode import Directory, Gather
from rules.control.controller import Ask, Turn
from rules.control.kinds import KINDS
from rules.engine import Engine
from telemetry.decision import LogHash
from telemetry.frame import Entries, slice_entries
from telemetry.plan import Plan
from telemetry.record import Ack, Clock, Config, Event, Request, Start
from telemetry.site import (
    COMMAND_ALARM,
    ActuatorSpec,
    AreaSpec,
    ControllerSpec,
    DemandSpec,
    DeviceSpec,
    PointSpec,
    Profile,
    RuleSpec,
    SetpointSpec,
    SiteConfig,
)
from telemetry.span import CommandOut

S = 1_000_000_000
T0 = 1_760_000_000 * S
Apply = Callable[[Gather], None]


def site(hot: float = 30.0, count: int = 18, version: int = 1) -> SiteConfig:
    rules = [
        RuleSpec(
            id="HOT", version=version, when=f"temp_c > {hot}", hysteresis=1, on_delay_s=20, off_delay_s=15, priority="P1",
            demand=DemandSpec(actuator="vent", bound="at_least", value=100, level="survival"),
        ),
        RuleSpec(id="AIR", when="mean(temp_c, 10 min) > 26", priority="P3", demand=DemandSpec(
            actuator="vent", value="clamp((temp_c - 20) * 5, 0, 80)", level="temperature")),
        RuleSpec(id="COLD", when="temp_c < 18", on_delay_s=30, priority="P2", latching=True,
                 demand=DemandSpec(actuator="heater", value=1, level="temperature")),
        RuleSpec(id="WIND", when="weather.out_c > temp_c", on_delay_s=40, priority="P4"),
        RuleSpec(id="SIL", when="silent(150 s)", priority="P2"),
    ]  # fmt: skip
    climate = Profile(
        name="climate",
        points=[
            PointSpec(name="temp_c", unit="C", low=-40, high=80, rate_per_min=60, stuck_s=600, heartbeat_s=60),
            PointSpec(name="vent_pct", unit="%", low=0, high=100, heartbeat_s=10),
        ],
        actuators=[
            ActuatorSpec(name="vent", travel_s=30, feedback="vent_pct", fail_safe=20, min_on_s=20, min_off_s=20),
            ActuatorSpec(name="heater", kind="switch", high=1, fail_safe=0, expiry_s=40),
        ],
        controllers=[ControllerSpec(id="air", kind="airing", parameters={"gain": hot / 10})],
        rules=rules,
    )  # fmt: skip
    air = SetpointSpec(unit="C", by_hour=[(0, 20), (24, 24)])
    weather = Profile(name="weather", points=[PointSpec(name="out_c", unit="C", low=-40, high=60, heartbeat_s=10)])
    return SiteConfig(
        site="farm", origin="SIMULATED", areas=[AreaSpec(name="house", links={"weather": "ws"}, setpoints={"air_c": air})],
        devices=[DeviceSpec(name="ws", profile="weather", area="house"),
                 DeviceSpec(name="h", profile="climate", area="house", count=count)],
        profiles={"climate": climate, "weather": weather},
    )  # fmt: skip


class Integral(NamedTuple):
    """State of `Airing`."""

    opened: Any  # (n,)
    runs: Any  # (n,) int64


@dataclass(frozen=True)
class Airing:
    """A controller with memory that reads all that one can read."""

    READS = ("temp_c", "vent_pct", "weather.out_c", "set.air_c", "hour", "mode", "day_of_batch")
    EVERY_S = 60.0
    ASKS = (
        Ask("vent", "value", "temperature", "temperature"),
        Ask("vent", "at_most", "equipment", "warm outside"),
        Ask("heater", "value", "economy", "night", "夜间"),
    )

    def parameters(self, given: Any) -> Any:
        return {"gain": 4.0, **given}

    def start(self, n: int, time_ns: int, parameters: Any) -> Integral:  # noqa: ARG002
        return Integral(np.zeros(n), np.zeros(n, np.int64))

    def step(self, state: Integral, time_ns: int, inputs: Any, parameters: Any) -> Turn:  # noqa: ARG002
        error = inputs["temp_c"] - np.where(np.isnan(inputs["set.air_c"]), 22.0, inputs["set.air_c"]) - 2.0 * inputs["mode"]
        opened = np.clip(state.opened + np.nan_to_num(error) * 0.2, 0.0, 60.0)
        values = (
            opened + parameters["gain"] * error,
            np.where(inputs["weather.out_c"] > 30.0, 40.0, np.nan),
            np.where(inputs["hour"] % 1.0 < 0.5, 0.0, np.nan),
        )
        demands = dict(zip(self.ASKS, values, strict=True))
        return Turn(Integral(opened, state.runs + 1), demands, {"error_k": error, "runs": state.runs.astype(np.float64)})


KINDS["airing"] = Airing()


class Recorder:
    """Makes the actions of one entry each; knows what the engine decided so far, as devices and people do."""

    def __init__(self, seed: int, seconds: int) -> None:
        self.rng = random.Random(seed)
        self.actions: list[Apply] = []
        self.configs: dict[int, Plan] = {}
        self.engine = build_engine()
        self.gather = Gather(Directory(self.engine.plan))
        self.now = T0
        self.hash = LogHash()
        self.alarms: list[str] = []
        self.commands: list[CommandOut] = []
        self.vent: dict[str, float] = {}
        self.seq: dict[str, int] = {}
        self.base: dict[str, float] = {}
        self.add(Start(1))
        self.add(site_record(site()))
        self.add(Event("drained"))
        for second in range(1, seconds):
            self.second(second, seconds)

    def put(self, action: Apply) -> None:
        self.actions.append(action)
        action(self.gather)
        entries = self.gather.build(self.engine.position + 1, self.now, 0)
        assert len(entries) == 1
        outcome = self.engine.step(entries)
        self.gather.directory = Directory(self.engine.plan)
        self.hash.add(outcome.decisions)
        raised = [d.subject for d in outcome.decisions if d.kind == "alarm"]
        self.alarms += [name for name in raised if not name.startswith(COMMAND_ALARM)]  # people answer those of rules here
        self.commands += outcome.commands
        self.answer(outcome.commands)

    def add(self, record: Any) -> None:
        now, place = self.now, len(self.actions)
        self.put(lambda gather: gather.add(record, now))
        if isinstance(record, Config):
            # Later messages are resolved with the configuration that then holds, as in a core.
            plan = Plan.from_snapshot(self.engine.plan.snapshot())
            self.actions[place] = lambda gather: reconfigure(gather, record, now, plan)

    def answer(self, commands: list[CommandOut]) -> None:
        for command in commands:
            status = self.rng.choice(["accepted"] * 6 + ["refused", ""])
            if status:
                self.add(Ack(command.device, command.id, status))
            if status == "accepted" and self.rng.random() < 0.9:
                self.vent[f"{command.device}/{command.actuator}"] = command.value

    def second(self, second: int, seconds: int) -> None:
        rng = self.rng
        self.now += S
        if second % 10 == 0:
            now = self.now
            self.put(lambda gather: gather.tick(now))
        for k in range(18):
            if (second + k * 7) % 60 == 0 and rng.random() < 0.93 and not (k == 3 and 900 < second < 1200):
                self.measure(f"h-{k}")
        if second % 30 == 11:
            self.send("ws", {"out_c": round(rng.uniform(15, 35), 1)}, 0)
        if rng.random() < 0.04 and self.alarms:
            self.ask(second)
        events: dict[int, Any] = {
            seconds // 3: site_record(site(hot=28.0, version=2)), seconds // 2: Start(2), seconds // 2 + 9: Event("drained"),
            seconds * 3 // 5: site_record(site(hot=28.0, version=2, count=12)), seconds * 2 // 3: Event("broker_lost"),
            seconds * 3 // 4: Clock(-3600 * S), seconds * 4 // 5: site_record(site()),
        }  # fmt: skip
        if second in events:
            self.add(events[second])

    def measure(self, device: str) -> None:
        rng = self.rng
        if self.engine.plan.device(f"farm/{device}") is None and rng.random() < 0.9:
            return  # some go on sending: rejects
        temp = self.base.get(device, 24.0) + rng.uniform(-3, 3)
        self.base[device] = min(max(temp, 14.0), 36.0)
        values: dict[str, Any] = {"temp_c": round(self.base[device], 2), "vent_pct": self.vent.get(f"farm/{device}/vent", 0.0)}
        if rng.random() < 0.03:
            values["temp_c"] = rng.choice([None, 300, 30.0, 29.0])
        self.send(device, values, rng.choice([0, 0, 0, 400, 1500, 60_000, -1900, -8000]))
        if rng.random() < 0.04:
            self.send(device, values, 90_000, "backfill")

    def send(self, device: str, values: dict[str, Any], age_ms: int, channel: str = "telemetry") -> None:
        now = self.now
        self.seq[device] = self.seq.get(device, -1) + self.rng.choice([1] * 20 + [0, 2])
        body = {"boot": 1, "seq": max(self.seq[device], 0), "ts": now // 1_000_000 - age_ms, "p": values}
        payload = json.dumps(body).encode()
        self.put(lambda gather: gather.take(f"fl/farm/{device}/{channel}", payload, False, now))

    def ask(self, second: int) -> None:
        rng = self.rng
        rare = ["unshelve", "reset", "out_of_service", "in_service", "override", "release", "mode"]
        kind = rng.choice(["acknowledge"] * 4 + ["shelve"] * 3 + rare)
        body: dict[str, Any] = {"alarm": rng.choice(self.alarms[-6:])}
        if kind == "shelve":
            body |= {"seconds": rng.choice([3, 20, 200]), "reason": "known"}
        if kind in {"override", "release"}:
            actuator = f"farm/h-{rng.randrange(18)}/{rng.choice(['vent', 'heater'])}"
            body = {"actuator": actuator, "value": 1, "seconds": 45, "reason": "test"}
        if kind == "mode":
            body = {"area": "farm/house", "mode": rng.choice(["AUTO", "EMPTY"])}
        self.add(Request(f"r{second - rng.choice([0, 0, 0, 30])}", kind, "ann", body))


def site_record(config: SiteConfig) -> Config:
    return Config(config.site, config.sha256(), config.canonical())


def reconfigure(gather: Gather, record: Config, now: int, plan: Plan) -> None:
    gather.add(record, now)
    gather.directory = Directory(plan)


def replay_entries(actions: list[Apply]) -> Entries:
    """All actions as one run."""
    gather = Gather(Directory(Plan()))
    for action in actions:
        action(gather)
    return gather.build(0, 0, 0)


def drive(
    entries: Entries, cuts: list[int], engine: Engine, between: Callable[[Engine], Engine] | None = None
) -> tuple[str, list[CommandOut]]:
    """Hash of the decision log and the commands, with the run cut before each index of `cuts`."""
    log, commands = LogHash(), []
    bounds = [0, *sorted(set(cuts) - {0, len(entries)}), len(entries)]
    for a, b in itertools.pairwise(bounds):
        outcome = engine.step(slice_entries(entries, a, b))
        log.add(outcome.decisions)
        commands += outcome.commands
        if between is not None:
            engine = between(engine)
    return log.hexdigest(), commands
