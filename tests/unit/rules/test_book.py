"""Binding of rules to devices: scope, links, what cannot be bound, what moves, and state over changes."""

import gc
import json
from typing import Any

import pytest

from app.wiring import build_engine
from ingest.decode import Directory, Gather
from rules import book, loop, panes
from rules.book import bind
from rules.cohort import Cohort, Rule, Rulebook, Virtual
from rules.engine import Engine
from telemetry.decision import Decision
from telemetry.plan import Plan
from telemetry.record import Config, Start
from telemetry.site import AreaSpec, DemandSpec, DeviceSpec, PointSpec, RuleSpec, SiteConfig
from tests.unit.rules.histories import T0, site
from tests.unit.rules.house import House
from tests.unit.rules.house import config as house_config

S = 1_000_000_000


def plan_of(*configs: SiteConfig) -> Plan:
    plan = Plan()
    for config in configs:
        plan.apply(config)
    return plan


def book_of(*rules: RuleSpec, links: dict[str, str] | None = None) -> Rulebook:
    config = site(rules=[], extra=list(rules))
    if links is not None:
        config = config.model_copy(update={"areas": [config.areas[0].model_copy(update={"links": links})]})
    return bind(plan_of(config))


def devices_of(book: Rulebook, plan: Plan, rule: str) -> list[str]:
    return sorted(d.name for r in book.rules if r.spec.id == rule for d in r.cohort.devices if r.covers(d.number))


def test_a_rule_stands_on_the_devices_of_its_scope() -> None:
    rules = [
        RuleSpec(id="ALL", profile="p", when="temp_c > 1"),
        RuleSpec(id="SOME", profile="p", devices=["d-1", "d-3"], when="temp_c > 1"),
        RuleSpec(id="ELSE", profile="p", area="nowhere", when="temp_c > 1"),
        RuleSpec(id="OFF", profile="p", enabled=False, when="temp_c > 1"),
        RuleSpec(id="SIL", when="silent(20 s)"),
    ]
    plan = plan_of(site(rules=[], extra=rules))
    book = bind(plan)
    assert [devices_of(book, plan, r.id) for r in rules] == [
        ["d-0", "d-1", "d-2", "d-3"], ["d-1", "d-3"], [], [], ["d-0", "d-1", "d-2", "d-3", "w"],
    ]  # fmt: skip


def test_rules_that_look_at_the_same_window_share_it() -> None:
    book = book_of(*(RuleSpec(id=f"R{k}", profile="p", when=f"mean(temp_c, 10 min) > {k}") for k in range(20)))
    (cohort,) = [c for c in book.cohorts if c.profile is not None and c.profile.name == "p"]
    assert [v.key for v in cohort.virtual] == ["mean(temp_c, 10 min)"]


def test_a_group_that_a_demand_reads_shares_no_window_with_an_alarm() -> None:
    """Late samples enter the windows of alarms, and what is old never moves an actuator."""
    when = "max(peers: mean(temp_c, 10 min)) > 30"
    demand = DemandSpec(actuator="vent", value=100, level="temperature")
    book = book_of(RuleSpec(id="A", profile="p", when=when), RuleSpec(id="B", profile="p", when=when, demand=demand))
    (cohort,) = [c for c in book.cohorts if c.profile is not None and c.profile.name == "p"]
    windows = {v.column: v.live_only for v in cohort.virtual if v.kind == loop.PANES}
    groups = {v.column: v.sources[0][0][1] for v in cohort.virtual if v.kind == loop.GROUP}
    rules = {rule.spec.id: rule.codes[0][0][1] for rule in book.rules if rule.cohort is cohort}
    assert {name: windows[groups[column]] for name, column in rules.items()} == {"A": False, "B": True}


def test_a_rule_of_the_site_replaces_the_profile_rule_of_its_id() -> None:
    plan = plan_of(site(extra=[RuleSpec(id="COLD", profile="p", devices=["d-0"], when="temp_c < 1")]))
    assert devices_of(bind(plan), plan, "COLD") == ["d-0"]
    plan = plan_of(site(extra=[RuleSpec(id="COLD", when="temp_c < 1", enabled=False)]))
    assert devices_of(bind(plan), plan, "COLD") == []


WRONG: list[dict[str, Any]] = [
    {"when": "humidity > 1"},
    {"when": "temp_c >"},
    {"when": "temp_c"},
    {"when": "nowhere.out_c > 1"},
    {"when": "weather.nothing > 1"},
    {"when": "temp_c > 1", "clear": "temp_c"},
    {"when": "temp_c > 1", "demand": {"actuator": "rocket", "value": 1, "level": "economy"}},
    {"when": "temp_c > 1", "demand": {"actuator": "vent", "value": "temp_c > 3", "level": "economy"}},
    {"when": "silent(20 s)", "hysteresis": 1},
    {"when": "parent.temp_c > 1"},
    {"when": "any(children: temp_c > 1)"},
    {"when": "set.heating_c > 1"},
]


@pytest.mark.parametrize("spec", WRONG, ids=lambda s: str(s)[:60])
def test_a_rule_that_cannot_be_bound_is_a_fault_and_the_others_go_on(spec: dict[str, Any]) -> None:
    wrong = RuleSpec.model_validate({"id": "BAD", "profile": "p", **spec})
    book = book_of(wrong, RuleSpec(id="GOOD", profile="p", when="temp_c > 1"))
    assert {fault.key for fault in book.faults} == {"s/BAD@1"}
    assert [r.spec.id for r in book.rules if r.site == "s" and r.spec.profile == "p"] == ["GOOD"]


def nested(levels: int) -> str:
    return "mean(" * levels + "temp_c" + ", 1 min)" * levels + " > 1"


@pytest.mark.parametrize(
    ("devices", "when", "says"),
    [
        (2, nested(17), "stands on more than 16 levels of other columns"),
        (1_002, "median(peers.temp_c) > 1", "peers of s/d-0 are 1001 devices; at most 1000 are allowed"),
        (100, "median(temp_c, 1 h) > 1", "of 100 devices needs 1.7 MiB; all rules may have 1 MiB and have 0.0"),
    ],
)
def test_what_would_take_the_machine_is_refused_with_its_limit(
    monkeypatch: pytest.MonkeyPatch, devices: int, when: str, says: str
) -> None:
    assert book.MEMORY_MAX == 1 << 30
    monkeypatch.setattr(book, "MEMORY_MAX", 1 << 20)
    [fault] = bind(plan_of(site(devices, rules=[], extra=[RuleSpec(id="BAD", profile="p", when=when)]))).faults
    assert (fault.key, fault.field, says in fault.message) == ("s/BAD@1", "when", True), fault


def test_memory_is_that_of_all_rules_together_and_shared_windows_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    size = {fn: 8 * 100 * panes.words(fn) for fn in (panes.MEAN, panes.MIN)}
    monkeypatch.setattr(book, "MEMORY_MAX", 8 * size[panes.MEAN] + 6 * size[panes.MIN])
    means = [f"mean(temp_c, {3 * k} min) > 1" for k in (1, 1, 2, 3, 4, 5, 6, 7, 8)]
    rules = [RuleSpec(id=f"R{n}", profile="p", when=when) for n, when in enumerate(means * 2)]
    rules += [RuleSpec(id=f"S{n}", profile="p", when=f"min(temp_c, {3 * n} min) > 1") for n in range(1, 9)]
    faults = bind(plan_of(site(100, rules=[], extra=rules))).faults
    assert [fault.key for fault in faults] == ["s/S7@1", "s/S8@1"]


def other_site(origin: str) -> SiteConfig:
    return site(1).model_copy(update={"site": "other", "origin": origin})


@pytest.mark.parametrize(
    ("own", "far", "moves"),
    [("LIVE", "LIVE", True), ("LIVE", "SIMULATED", False), ("LIVE", "REPLAY", False), ("SIMULATED", "SIMULATED", True),
     ("SIMULATED", "LIVE", False), ("REPLAY", "REPLAY", False)],
)  # fmt: skip
def test_a_demand_moves_only_where_all_inputs_have_the_origin_of_the_site(own: str, far: str, moves: bool) -> None:
    rule = RuleSpec.model_validate(
        {
            "id": "CROSS", "profile": "p", "when": "temp_c > 1 and far.temp_c > 1",
            "demand": {"actuator": "vent", "value": 1, "level": "economy"},
        }
    )  # fmt: skip
    config = site(rules=[], extra=[rule])
    config = config.model_copy(
        update={"origin": own, "areas": [config.areas[0].model_copy(update={"links": {"far": "other/d-0", "weather": "w"}})]}
    )
    plan = plan_of(other_site(far), config)
    rule = next(r for r in bind(plan).rules if r.spec.id == "CROSS")
    assert {rule.moves(device) for device in rule.cohort.devices} == {moves}


def faulty() -> tuple[Engine, list[Decision], Gather]:
    engine = build_engine()
    gather = Gather(Directory(engine.plan))
    config = site(extra=[RuleSpec(id="BAD", profile="p", when="humidity > 1")])
    gather.add(Start(1), T0)
    gather.add(Config("s", config.sha256(), config.canonical()), T0)
    return engine, engine.step(gather.build(0, T0, 0)).decisions, gather


def test_a_fault_is_told_once_also_over_restarts() -> None:
    engine, told, gather = faulty()
    for k in range(1, 5):
        saved, engine = engine.snapshot(), build_engine()
        engine.restore(saved)
        gather.tick(T0 + k * S)
        told += engine.step(gather.build(engine.position + 1, T0, 0)).decisions
    assert [(d.kind, d.subject) for d in told if d.kind == "fault"] == [("fault", "s/BAD@1")]


def test_numbers_of_devices_and_points_survive_what_leaves_and_comes_back() -> None:
    plan = plan_of(site(4))
    before = {d.key: (d.number, d.points) for d in plan.devices}
    plan.apply(site(1))
    plan.apply(site(6))
    assert {d.key: (d.number, d.points) for d in plan.devices[:5]} == before
    again = Plan.from_snapshot(json.loads(json.dumps(plan.snapshot())))
    assert [(d.key, d.points) for d in again.devices] == [(d.key, d.points) for d in plan.devices]


def test_a_rulebook_that_was_replaced_needs_no_collection_of_garbage() -> None:
    """Core never looks for garbage among what a large configuration makes: nothing of the old rules may hold itself."""
    house = House()
    rules = [
        RuleSpec(id="PEERS", when="max(peers.temp_c) > 3 or weather.temp_c > 2"),
        RuleSpec(id="OWN", when="mean(temp_c, 3 min) > 3"),
    ]
    base = house_config(latching=False)
    broken = PointSpec(name="broken_c", unit="C", low=0, high=1, expression="nowhere.temp_c + 1")
    profile = base.profiles["p"].model_copy(update={"points": [*base.profiles["p"].points, broken]})
    areas = [AreaSpec(name="a", links={"weather": "d-0"}), AreaSpec(name="b")]
    devices = [DeviceSpec(name="d", profile="p", area="a", count=3), DeviceSpec(name="e", profile="p", area="b", count=2)]
    gc.collect()
    gc.disable()
    try:
        counts = []
        for k in range(4):
            spec = {"profiles": {"p": profile}, "areas": areas, "devices": devices, "organisation": str(k)}
            house.configure(base.model_copy(update=spec | {"rules": [one.model_copy(update={"version": k + 1}) for one in rules]}))
            counts.append(sum(isinstance(made, Cohort | Virtual | Rule) for made in gc.get_objects()))
    finally:
        gc.enable()
    assert counts == counts[:1] * 4


@pytest.mark.parametrize(
    "when", ["max(peers: other.temp_c) > 30", "any(peers: mean(other.temp_c, 3 min) > 30)", "max(peers: hour()) > 23"]
)
def test_a_group_over_a_link_moves_when_what_is_linked_does(when: str) -> None:
    """The peers themselves say nothing; what they see of others is news to who asks them."""
    house = House()
    rule = RuleSpec(id="PEERS", area="a", when=when.replace("> 23", ">= 0"), priority="P2")
    areas = [AreaSpec(name="a", links={"other": "x"}), AreaSpec(name="b")]
    devices = [DeviceSpec(name="d", profile="p", area="a", count=3), DeviceSpec(name="x", profile="p", area="b")]
    spec = {"areas": areas, "devices": devices, "rules": [rule]}
    house.configure(house_config(latching=False).model_copy(update=spec))
    for _ in range(200):
        house.send("x", temp_c=35.0)
        house.flush()
    raised = {d.subject for d in house.decisions if d.kind == "alarm" and d.subject.startswith("PEERS")}
    assert raised == {f"PEERS@s/d-{k}" for k in range(3)}
