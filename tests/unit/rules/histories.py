"""Random histories of a small site for the oracle of the rule stage, and the engine that is compared with it."""

import json
import random
from typing import Any

import numpy as np

from ingest.admit import Admit
from ingest.decode import Directory, Gather
from rules.area import Areas
from rules.condition import Conditions
from rules.engine import Engine
from telemetry.frame import Entries
from telemetry.plan import Plan
from telemetry.record import Config, Event, Start
from telemetry.site import ActuatorSpec, AreaSpec, DemandSpec, DeviceSpec, PointSpec, Profile, RuleSpec, SiteConfig
from telemetry.span import Span
from telemetry.wire.message import encode_packed
from tests.unit.rules.oracle import Transition, known

S = 1_000_000_000
T0 = 1_760_000_000 * S

RULES = [
    RuleSpec(
        id="HOT", when="temp_c > 30", hysteresis=1, on_delay_s=5, off_delay_s=3, priority="P1",
        demand=DemandSpec(actuator="vent", value=100, level="survival"),
    ),
    RuleSpec(
        id="NOW", when="temp_c > 30",
        demand=DemandSpec(actuator="vent", value="clamp((temp_c - 25) * 10, 0, 100)", level="temperature"),
    ),
    RuleSpec(id="COLD", when="temp_c < 5", off_delay_s=10, priority="P2"),
    RuleSpec(id="WET", when="temp_c > 28 and rh_pct > 80", clear="temp_c < 26 or rh_pct < 70", on_delay_s=1.5),
    RuleSpec(id="LINK", when="temp_c > weather.out_c + 5", on_delay_s=2, priority="P3"),
    RuleSpec(id="MEAN", when="mean(temp_c, 60 s) > 24", priority="P3"),
    RuleSpec(id="SPAN", when="max(temp_c, 60 s) - min(temp_c, 60 s) > 20", hysteresis=2, on_delay_s=3),
    RuleSpec(id="STD", when="std(temp_c, 30 s) > 12", off_delay_s=2),
    RuleSpec(id="FEW", when="count(rh_pct, 30 s) < 4"),
    RuleSpec(id="FAR", when="mean(weather.out_c, 60 s) > 20 and temp_c > 20", on_delay_s=6),
    RuleSpec(
        id="FAN", when="mean(temp_c, 60 s) > 22",
        demand=DemandSpec(actuator="vent", value="mean(temp_c, 60 s)", bound="at_least", level="humidity_gas"),
    ),
    RuleSpec(id="SIL", when="silent(7 s)", priority="P2", demand=DemandSpec(actuator="vent", value=30, level="equipment")),
    RuleSpec(id="KLEENE", when="not (temp_c / rh_pct > 0.5) or if(rh_pct > 50, temp_c > 10, rh_pct == 0)"),
    RuleSpec(id="VPD", when="vpd_kpa(temp_c, rh_pct) > 1.5", on_delay_s=4, off_delay_s=4),
    RuleSpec(
        id="FINE", when="rh_pct != 70", off_delay_s=4, demand=DemandSpec(actuator="fogger", value="rh_pct / 3", level="economy"),
    ),
    RuleSpec(id="SLOW", when="count(members: rpm < 100) > 2", hysteresis=1, on_delay_s=2, off_delay_s=1),
    RuleSpec(id="SLIP", when="worst(members: rpm > 10 and rpm < 0.9 * mean(members.rpm)) > 0", priority="P3"),
    RuleSpec(id="IDLE", when="worst(members: held(rpm < 100, 3 s)) > 1"),
    RuleSpec(id="ROGUE", when="max(members: rise(ends, 12 s)) > 4", off_delay_s=2),
    RuleSpec(id="UNLIKE", when="any(members: poisson(rise(ends, 12 s), mean(members: rise(ends, 12 s))) > 1)"),
    RuleSpec(id="EVEN", when="all(members: rpm > temp_c or ends < 5) and spread(members: if(ends > 3, rpm, temp_c)) < 500"),
    RuleSpec(id="MIDDLE", when="median(members: clamp(rpm, 50, 400)) > mean(temp_c, 60 s) * 5", on_delay_s=1),
    RuleSpec(
        id="LEAD", when="worst(members: -rpm) > 2 or min(members: abs(rpm - 50)) > 100",
        demand=DemandSpec(actuator="fogger", value="worst(members: rpm + mean(temp_c, 60 s))", level="economy"),
    ),
    RuleSpec(id="TWICE", when="mean(members: rise(if(held(rpm < 100, 2 s), 1, 0), 24 s)) > 0.3"),
]  # fmt: skip
PROFILE = Profile(
    name="p", lateness_s=10, receipts=True,
    points=[
        PointSpec(name="temp_c", unit="C", low=-40, high=80, heartbeat_s=5),
        PointSpec(name="rh_pct", unit="%", low=0, high=100),
        PointSpec(name="rpm", unit="1", low=0, high=1000, members=5, heartbeat_s=2),
        PointSpec(name="ends", unit="1", low=0, high=1000, members=5),
    ],
    actuators=[ActuatorSpec(name="vent"), ActuatorSpec(name="fogger", min_step=0)],
    rules=RULES,
)  # fmt: skip
WEATHER = Profile(
    name="wx", lateness_s=20, points=[PointSpec(name="out_c", unit="C", low=-40, high=60)],
    rules=[RuleSpec(id="FROST", when="out_c < 0", on_delay_s=5), RuleSpec(id="GONE", when="silent(20 s)")],
)  # fmt: skip


def site(count: int = 4, rules: list[RuleSpec] | None = None, extra: list[RuleSpec] | None = None) -> SiteConfig:
    profile = PROFILE if rules is None else PROFILE.model_copy(update={"rules": rules})
    return SiteConfig(
        site="s", areas=[AreaSpec(name="a", links={"weather": "w"})],
        devices=[DeviceSpec(name="w", profile="wx", area="a"), DeviceSpec(name="d", profile="p", area="a", count=count)],
        profiles={"p": profile, "wx": WEATHER}, rules=extra or [],
    )  # fmt: skip


def record_of(config: SiteConfig) -> Config:
    return Config(config.site, config.sha256(), config.canonical())


def variants() -> list[SiteConfig]:
    """Configurations to change between: rules removed, added, changed with and without state, devices gone and come."""
    warmer = RULES[0].model_copy(update={"version": 2, "when": "temp_c > 25"})
    colder = RULES[2].model_copy(update={"version": 2, "when": "temp_c < 21"})  # goes on from version 1
    worded = RULES[2].model_copy(update={"version": 2, "priority": "P3"})
    other = RULES[2].model_copy(update={"off_delay_s": 1.0})  # the same version keeps its state
    return [
        site(), site(2), site(6), site(rules=RULES[3:]), site(rules=[warmer, *RULES[1:]]), site(rules=[*RULES[:2], other, *RULES[3:]]),
        site(rules=[*RULES[:2], colder, *RULES[3:]]), site(rules=[*RULES[:2], worded, *RULES[3:]]),
        site(extra=[RuleSpec(id="MORE", profile="p", when="temp_c > 25 or rh_pct < 55", on_delay_s=2)]),
        site(extra=[RuleSpec(id="HOT", profile="p", when="temp_c > 20", enabled=False)]),
    ]  # fmt: skip


COMPUTED = [
    PointSpec(name="dew_c", unit="C", low=-60, high=80, expression="dew_point_c(temp_c, rh_pct)", heartbeat_s=20),
    PointSpec(
        name="over_c", unit="C", low=-100, high=100, deadband=0.5, expression="best_c - mean(weather.out_c, 30 s) + 0 * dew_c"
    ),
    PointSpec(name="best_c", unit="C", low=-40, high=80, redundant=["temp_c", "weather.out_c", "spare_c"], tolerance=4),
    PointSpec(name="is_wet", unit="bool", low=0, high=1, expression="best_c - dew_c < 4 or rh_pct > 85"),
    PointSpec(name="spare_c", unit="C", low=-40, high=80, heartbeat_s=5),
    PointSpec(name="calm_c", unit="C", low=-40, high=80, expression="max(best_c, 30 s)"),
]
READING = [
    RuleSpec(id="DEW", when="dew_c > 15", hysteresis=1, on_delay_s=2, priority="P3"),
    RuleSpec(id="BEST", when="best_c > 28 or quality(best_c) > 0.5", on_delay_s=1),
    RuleSpec(
        id="OVER", when="over_c > 5 and is_wet < 0.5", demand=DemandSpec(actuator="vent", value="over_c * 4", level="temperature"),
    ),
    RuleSpec(id="LONG", when="mean(best_c, 60 s) > 22 or max(dew_c, 30 s) > 25", off_delay_s=3),
    RuleSpec(id="VOTE", when="vote(2, spare_c, temp_c) > 25"),
]  # fmt: skip


def computed_variants() -> list[SiteConfig]:
    """Sites with virtual, redundant and calibrated points; calibrations and formulas change, devices go and come."""
    day = {"date": "2025-01-01", "expires": "2099-01-01", "by": "li"}
    over = {**day, "expires": "2025-06-01"}
    turned = [p.model_copy(update={"redundant": ["spare_c", "temp_c", "weather.out_c"]}) if p.redundant else p for p in COMPUTED]
    plain = [p.model_copy(update={"expression": "temp_c - 5"}) if p.name == "dew_c" else p for p in COMPUTED]

    def made(count: int, points: list[PointSpec], *calibrations: dict[str, Any]) -> SiteConfig:
        rules = [*RULES[:4], *(READING if points else [])]
        profile = Profile(name="p", lateness_s=10, points=[*PROFILE.points, *points], actuators=PROFILE.actuators, rules=rules)
        text = site(count).model_dump() | {"calibrations": list(calibrations)}
        return SiteConfig.model_validate(text | {"profiles": {"p": profile.model_dump(), "wx": WEATHER.model_dump()}})

    shifted = {"device": "d-0", "point": "temp_c", "points": [(0.0, 1.25), (40.0, 39.5)], **day}
    old = {"device": "d-1", "point": "spare_c", "offset": -0.1, **over}
    mast = {"device": "w", "point": "out_c", "gain": 1.02, **over}
    return [
        made(4, COMPUTED, shifted, old), made(4, COMPUTED, mast), made(2, COMPUTED, shifted), made(4, turned, shifted, old, mast),
        made(4, plain, old), made(4, []),
    ]  # fmt: skip


class Story:
    """Builds a run of entries from random actions. `entries` are what a core would have journaled."""

    def __init__(self, seed: int, configs: list[SiteConfig] | None = None) -> None:
        self.rng = random.Random(seed)
        self.plan = Plan()
        self.now = T0
        self.gather = Gather(Directory(self.plan))
        self.seq: dict[str, int] = {}
        self.configs = variants() if configs is None else configs
        self.ends: dict[str, list[float]] = {}
        self.gather.add(Start(1), self.now)
        self.config(self.configs[0])

    def config(self, config: SiteConfig) -> None:
        self.gather.add(record_of(config), self.now)
        self.plan.apply(config)
        self.gather.directory = Directory(self.plan)

    def send(self, device: str, ts: int, values: dict[str, Any], channel: str = "telemetry") -> None:
        body: dict[str, Any] = {"ts": ts // 1_000_000, "p": values}
        if self.rng.random() < 0.7:
            self.seq[device] = self.seq.get(device, -1) + 1
            body |= {"boot": 1, "seq": self.seq[device]}
        payload = json.dumps(body).encode()
        for _ in range(2 if self.rng.random() < 0.05 else 1):
            self.gather.take(f"fl/s/{device}/{channel}", payload, self.rng.random() < 0.01, self.now)

    def values(self, device: str) -> dict[str, Any]:
        pick = self.rng.choice
        if device == "w":
            return {"out_c": pick([-1, 0, 15, 20, 21, 25, None, self.rng.uniform(-5, 30)])}
        temp = pick([4, 5, 20, 28, 28.5, 29, 29.5, 30, 30.0000001, 31, 50, -0.0, 5e-324, None, 200, self.rng.uniform(0, 45)])
        rh = pick([0, 50, 60, 70, 75, 80, 81, 90, None, 300, self.rng.uniform(0, 100)])
        found = pick([{"temp_c": temp}, {"temp_c": temp, "rh_pct": rh}, {"rh_pct": rh}, {"temp_c": temp, "rh_pct": rh}])
        if "spare_c" in self.gather.directory.get(f"fl/s/{device}/telemetry").points:
            found = pick([found, {**found, "spare_c": pick([20, 25, 26, 28, 31, None, self.rng.uniform(0, 45)])}])
        if self.rng.random() < 0.5:
            found["rpm"] = [pick([0, 0, 50, 99, 100, 300, 300, 300, -1, self.rng.uniform(0, 1000)]) for _ in range(5)]
        if self.rng.random() < 0.4:
            self.ends[device] = [pick([n, n, n + 1, n + 2, n + 0.1, 0]) for n in self.ends.get(device, [0.0] * 5)]
            found["ends"] = [pick([n, n, n, 5_000]) for n in self.ends[device]]
        return found

    def send_packed(self, device: str, ts: int) -> None:
        """An array in its wire type, by itself."""
        values = np.array(
            [self.rng.choice([0, 50, 99, 300, 1_000, 2_000]) for _ in range(5)], self.rng.choice(["<u2", "<f4", "<f8"])
        )
        payload = encode_packed("rpm", values, ts_ms=ts // 1_000_000)
        self.gather.take(f"fl/s/{device}/telemetry", payload, False, self.now)

    def burst(self, device: str, count: int) -> None:
        """So many frames of one device in one read."""
        start = self.now - 9 * S
        for k in range(count):
            self.send(device, start + k * 9_000_000_000 // count, self.values(device))

    def act(self) -> None:
        rng = self.rng
        self.now += rng.choice([0, 0, 10_000_000, 300_000_000, S, S, 2 * S, 5 * S])
        devices = sorted(d.name for d in self.plan.devices if d.number in self.plan.active)
        roll = rng.random()
        if roll < 0.80:
            ts = self.now - rng.choice([0, 0, 0, 100_000_000, S, 3 * S, 8 * S, 30 * S, -S, -5 * S])
            ts -= ts % 100_000_000
            device = rng.choice(devices)
            self.send(device, ts, self.values(device), "backfill" if rng.random() < 0.03 else "telemetry")
            if device != "w" and rng.random() < 0.1:
                self.send_packed(device, ts + rng.choice([0, 100_000_000]))
        elif roll < 0.93:
            self.gather.tick(self.now)
        elif roll < 0.95:
            self.gather.add(rng.choice([Start(2), Event("broker_lost")]), self.now)
        elif roll < 0.975:
            self.gather.add(Event("drained"), self.now)
        elif roll < 0.985:
            self.config(rng.choice(self.configs))
        elif roll < 0.99:
            self.now += rng.choice([20, 70]) * S
        else:
            self.burst(rng.choice(devices), 20)

    def end(self) -> Entries:
        for _ in range(30):
            self.now += S
            self.gather.tick(self.now)
        return self.gather.build(0, self.now, 0)


class Probe:
    """A last stage that writes the condition changes down by name."""

    rank = 99

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._plan = Plan()
        self.out: list[Transition] = []

    def configure(self, plan: Plan) -> None:
        self._plan = plan

    def run(self, span: Span) -> None:
        rules, changes = self._conditions.book.rules, span.transitions
        for c in range(len(changes.rule)):
            rule, device = rules[int(changes.rule[c])], self._plan.devices[int(changes.device[c])]
            self.out.append(
                Transition(
                    span.entries.first + int(changes.entry[c]), int(changes.phase[c]), int(changes.time_ns[c]),
                    f"{rule.spec.id}@{device.key}", int(changes.what[c]), known(float(changes.value[c])), known(float(changes.demand[c])),
                )
            )  # fmt: skip

    def snapshot(self) -> dict[str, Any]:
        return {}

    def restore(self, saved: dict[str, Any]) -> None:
        pass


def rule_engine() -> tuple[Engine, Probe]:
    conditions = Conditions()
    probe = Probe(conditions)
    return Engine([Admit(), Areas(), conditions, probe]), probe
