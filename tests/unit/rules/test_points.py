"""Virtual, redundant and calibrated points in the rule stage, against the loop that defines it."""

import itertools
import json
import random
from typing import Any

import numpy as np
import pytest

from app.wiring import build_engine
from ingest.decode import Directory, Gather
from rules.book import bind
from telemetry.decision import Decision
from telemetry.frame import Admission, Derived, Entries, join_derived, slice_entries
from telemetry.plan import Plan
from telemetry.quality import (
    BAD,
    CALIBRATION_EXPIRED,
    DEVICE_UNCERTAIN,
    DISAGREEMENT,
    GOOD,
    NOT_A_NUMBER,
    OUT_OF_RANGE,
    SUBSTITUTED,
    UNCERTAIN,
)
from telemetry.record import Config, Event, Record, Start
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, RuleSpec, SiteConfig, Text
from tests.unit.rules.histories import T0, S, Story, computed_variants, rule_engine
from tests.unit.rules.oracle import Oracle, Said, Transition, known
from tests.unit.rules.test_condition import order


def decided(entries: Entries, cuts: list[int], *, restarts: bool = False) -> tuple[list[Transition], Admission]:
    """By the engine, in pieces; between two of them its state goes through a snapshot when `restarts`."""
    engine, probe = rule_engine()
    out, parts, starts = [], [], []
    for a, b in itertools.pairwise([0, *sorted(cuts), len(entries)]):
        parts.append(engine.step(slice_entries(entries, a, b)).admission)
        starts.append(a)
        if restarts:
            saved, out = engine.snapshot(), out + probe.out
            engine, probe = rule_engine()
            engine.restore(saved)
    verdict, quality = (np.concatenate([getattr(p, name) for p in parts]) for name in ("verdict", "quality"))
    return out + probe.out, Admission(verdict, quality, join_derived([p.derived for p in parts], starts))


def said(derived: Derived, first: int) -> list[Said]:
    rows = zip(*(column.tolist() for column in derived), strict=True)
    return [Said(first + entry, point, ts_ns, known(value), quality) for entry, point, ts_ns, value, quality in rows]


def agree(entries: Entries, seed: int) -> tuple[list[Transition], list[Said]]:
    whole, admission = decided(entries, [])
    oracle = Oracle()
    oracle.step(entries, admission)
    made = said(admission.derived, entries.first)
    assert sorted(made, key=str) == sorted(oracle.said, key=str)
    assert sorted(whole, key=order) == sorted(oracle.out, key=order)
    cuts = random.Random(seed).sample(range(1, len(entries)), min(12, len(entries) - 1))
    for restarts in (False, True):
        again, other = decided(entries, cuts, restarts=restarts)
        assert again == whole, f"cut at {sorted(cuts)}"
        assert said(other.derived, entries.first) == made
    return whole, made


def story(seed: int, length: int) -> Entries:
    made = Story(seed, computed_variants())
    for _ in range(length):
        made.act()
    return made.end()


@pytest.mark.parametrize("seed", range(6))
def test_random_histories_equal_the_oracle(seed: int) -> None:
    transitions, samples = agree(story(seed, 300), seed)
    assert {"DEW", "BEST", "OVER", "VOTE"} <= {t.subject.partition("@")[0] for t in transitions}
    assert {0, 1} <= {sample.quality & 3 for sample in samples}


def test_every_sample_of_a_point_is_later_than_the_one_before() -> None:
    _, samples = agree(story(21, 400), 21)
    by_point: dict[int, list[int]] = {}
    for sample in samples:
        by_point.setdefault(sample.point, []).append(sample.ts_ns // 1_000_000)
    assert len(by_point) > 10
    assert all(times == sorted(set(times)) for times in by_point.values())
    assert any(sample.value is None for sample in samples)


# -- one site at a time ------------------------------------------------------------------------------------------------------

SENSORS = [PointSpec(name=name, unit="C", low=-40, high=80, heartbeat_s=10) for name in ("a_c", "b_c", "c_c", "d_c")]
BEST = PointSpec(name="best_c", unit="C", low=-40, high=80, redundant=["a_c", "b_c", "c_c", "d_c"], tolerance=1)
OLD = {"date": "2020-01-01", "expires": "2020-12-31", "by": "li"}


def farm(points: list[PointSpec], *rules: RuleSpec, calibrations: list[dict[str, Any]] | None = None, **area: Any) -> SiteConfig:
    return SiteConfig.model_validate({
        "site": "s", "areas": [AreaSpec(name="a", **area)], "devices": [DeviceSpec(name="d", profile="p", area="a", count=2)],
        "profiles": {"p": Profile(name="p", points=[*SENSORS, *points], rules=list(rules), lateness_s=60)},
        "calibrations": calibrations or [],
    })  # fmt: skip


class Small:
    """A site with the whole engine; what `d-0` says second by second."""

    def __init__(self, config: SiteConfig) -> None:
        self.engine, self.now = build_engine(), T0
        self.decisions: list[Decision] = []
        self.entries: list[Entries] = []
        self.give(Start(1), Event("drained"))
        self.configure(config)

    def configure(self, config: SiteConfig) -> None:
        self.give(Config(config.site, config.sha256(), config.canonical()))

    def give(self, *records: Record) -> None:
        gather = Gather(Directory(self.engine.plan))
        for record in records:
            gather.add(record, self.now)
        self.step(gather)

    def step(self, gather: Gather) -> list[tuple[str, int, float | None, int]]:
        """(device/point, s after the start, value, quality) of what virtual points said."""
        entries = gather.build(self.engine.position + 1, self.now, 0)
        outcome = self.engine.step(entries)
        self.decisions += outcome.decisions
        rows = said(outcome.admission.derived, 0)
        return [(self.engine.plan.point_name(r.point).partition("/")[2], (r.ts_ns - T0) // S, r.value, r.quality) for r in rows]

    def send(self, second: float, device: str = "d-0", q: dict[str, str] | None = None, late_s: float = 0, **values: Any) -> Any:
        self.now = T0 + int(second * S)
        body: dict[str, Any] = {"ts": (self.now - int(late_s * S)) // 1_000_000, "p": values, "boot": 1, "seq": int(second * 10)}
        gather = Gather(Directory(self.engine.plan))
        gather.take(f"fl/s/{device}/telemetry", json.dumps(body | ({"q": q} if q else {})).encode(), False, self.now)
        return self.step(gather)

    def tick(self, second: float) -> Any:
        self.now = T0 + int(second * S)
        gather = Gather(Directory(self.engine.plan))
        gather.tick(self.now)
        return self.step(gather)

    def alarms(self, rule: str) -> list[tuple[str, float]]:
        return [
            (d.body["to"], (d.time_ns - T0) / S) for d in self.decisions if d.kind == "alarm" and d.subject.startswith(f"{rule}@")
        ]


VOTES: list[tuple[str, list[Any], list[str], float | None, int]] = [
    ("four: the mean of the two in the middle", [20, 21, 22, 79], [], 21.5, GOOD),
    ("three: the median", [20, 30, 21, None], [], 21, GOOD),
    ("two that agree: the first", [20, 21, None, None], [], 20, GOOD),
    ("two that disagree: the first, in doubt", [20, 21.5, None, None], [], 20, UNCERTAIN | DISAGREEMENT),
    ("the first alone", [20, None, None, None], [], 20, GOOD),
    ("another alone is a substitute", [None, None, 22, None], [], 22, UNCERTAIN | SUBSTITUTED),
    ("three without the first", [None, 21, 25, 22], [], 22, UNCERTAIN | SUBSTITUTED),
    ("two others that disagree", [None, 21, 25, None], [], 21, UNCERTAIN | SUBSTITUTED | DISAGREEMENT),
    ("an uncertain one does not vote", [20, 30, 21, 31], ["a_c"], 30, UNCERTAIN | SUBSTITUTED),
    ("all uncertain: the first", [20, 30, None, None], ["a_c", "b_c"], 20, UNCERTAIN | DEVICE_UNCERTAIN),
    ("all uncertain, without the first", [None, 30, 31, None], ["b_c", "c_c"], 30, UNCERTAIN | DEVICE_UNCERTAIN | SUBSTITUTED),
    ("none", [None, None, None, None], [], None, 0),
]


@pytest.mark.parametrize(("values", "doubtful", "value", "quality"), [v[1:] for v in VOTES], ids=[v[0] for v in VOTES])
def test_how_redundant_sensors_vote(values: list[Any], doubtful: list[str], value: float | None, quality: int) -> None:
    sent = dict(zip(("a_c", "b_c", "c_c", "d_c"), values, strict=True))
    made = Small(farm([BEST])).send(1, q=dict.fromkeys(doubtful, "UNCERTAIN"), **sent)
    assert made == ([] if value is None else [("d-0/best_c", 1, value, quality)])


def test_sensors_of_other_devices_vote_in_the_order_of_preference() -> None:
    best = BEST.model_copy(update={"redundant": ["a_c", "spare.a_c"]})
    small = Small(farm([best], links={"spare": "d-1"}))
    assert small.send(1, a_c=20) == [("d-0/best_c", 1, 20, GOOD)]
    assert small.send(2, "d-1", a_c=25) == [
        ("d-0/best_c", 2, 20, UNCERTAIN | DISAGREEMENT), ("d-1/best_c", 2, 25, GOOD),
    ]  # fmt: skip
    assert small.tick(35)[0] == ("d-0/best_c", 31, 25, UNCERTAIN | SUBSTITUTED), "a value that grew old votes no more"


def test_sensors_that_disagree_raise_the_alarm_that_they_bring() -> None:
    small = Small(farm([BEST]))
    for second in range(1, 100, 5):
        small.send(second, a_c=20, b_c=20)
    for second in range(100, 200, 5):
        small.send(second, a_c=20, b_c=25)
    for second in range(200, 300, 5):
        small.send(second, a_c=20, b_c=20.5)
    assert small.alarms("SENSORS-best_c") == [("UNACK", 160), ("RTNUN", 260)]


def test_a_value_is_said_when_it_moves_and_after_the_heartbeat_and_unknown_once() -> None:
    both = PointSpec(name="both_c", unit="C", low=0, high=99, expression="(a_c + b_c) / 2", deadband=0.5, heartbeat_s=6)
    small = Small(farm([both]))
    assert small.send(1, a_c=20) == [], "b_c is not known"
    assert small.send(2, b_c=22) == [("d-0/both_c", 2, 21, GOOD)]
    assert small.send(3, a_c=21) == [], "within the deadband"
    assert small.send(4, a_c=21.5) == [("d-0/both_c", 4, 21.75, GOOD)]
    assert small.send(9, a_c=21.5, b_c=22) == []
    assert small.send(10, a_c=21.5) == [("d-0/both_c", 10, 21.75, GOOD)]
    assert small.send(11, q={"a_c": "UNCERTAIN"}, a_c=21.5) == [("d-0/both_c", 11, 21.75, UNCERTAIN | DEVICE_UNCERTAIN)]
    assert small.send(12, a_c=None) == [("d-0/both_c", 12, None, BAD | NOT_A_NUMBER)]
    assert small.send(13, b_c=None) == small.send(14, a_c=None) == []
    assert small.send(15, a_c=20, b_c=20) == [("d-0/both_c", 15, 20, GOOD)]
    assert small.tick(60) == [("d-0/both_c", 45, None, BAD | NOT_A_NUMBER)], "what it is computed of grew old"


def test_two_inputs_at_one_time_are_two_samples_a_millisecond_apart() -> None:
    sum_c = PointSpec(name="sum_c", unit="C", low=-99, high=99, expression="a_c + other.a_c")
    small = Small(farm([sum_c], links={"other": "d-1"}))
    small.send(1, "d-1", a_c=1)
    small.send(2, a_c=5)
    gather = Gather(Directory(small.engine.plan))
    for device, value in (("d-0", 6), ("d-1", 2)):
        body = {"ts": (T0 + 3 * S) // 1_000_000, "p": {"a_c": value}}
        gather.take(f"fl/s/{device}/telemetry", json.dumps(body).encode(), False, T0 + 3 * S)
    derived = small.engine.step(gather.build(small.engine.position + 1, T0 + 3 * S, 0)).admission.derived
    own = [row for row in said(derived, 0) if small.engine.plan.point_name(row.point) == "s/d-0/sum_c"]
    assert [(row.value, row.ts_ns - T0 - 3 * S) for row in own] == [(7, 0), (8, 1_000_000)]


def test_what_comes_late_changes_no_virtual_point() -> None:
    mean = PointSpec(name="mean_c", unit="C", low=0, high=99, expression="mean(a_c, 60 s)")
    small, other = Small(farm([mean])), Small(farm([mean]))
    for second in range(1, 62):
        small.send(second, a_c=20)
        other.send(second, a_c=20)
    small.send(61.5, late_s=30, a_c=70)
    assert small.send(62, a_c=20) == other.send(62, a_c=20)


def test_a_changed_formula_starts_unknown_and_a_changed_word_does_not() -> None:
    over = PointSpec(name="over_c", unit="C", low=-99, high=99, expression="a_c - 5", heartbeat_s=1000)
    hot = RuleSpec(id="HOT", profile="p", when="over_c + 0 * b_c > 10", priority="P3")
    small = Small(farm([over], hot))
    small.send(1, a_c=20)
    small.configure(farm([over.model_copy(update={"label": Text(en="Over")})], hot))
    small.send(2, b_c=1)
    assert small.alarms("HOT") == [("UNACK", 2)]
    small.configure(farm([over.model_copy(update={"expression": "a_c - 50"})], hot))
    assert small.send(3, b_c=2) == []
    assert small.alarms("HOT") == [("UNACK", 2)], "not known by the new formula: neither raised nor cleared"
    assert small.send(4, a_c=20) == [("d-0/over_c", 4, -30, GOOD)]


def test_rules_and_range_checks_see_the_calibrated_value() -> None:
    hot = RuleSpec(id="HOT", when="a_c > 30", priority="P3")
    day = {"date": "2025-01-01", "expires": "2099-12-31", "by": "li"}
    small = Small(farm([], hot, calibrations=[{"device": "d-0", "point": "a_c", "offset": 2, **day}]))
    small.send(1, a_c=28.5)
    small.send(1.5, "d-1", a_c=28.5)
    assert small.alarms("HOT") == [("UNACK", 1)]
    gather = Gather(Directory(small.engine.plan))
    gather.take("fl/s/d-0/telemetry", b'{"p":{"a_c":79}}', False, T0 + 2 * S)
    quality = small.engine.step(gather.build(small.engine.position + 1, 0, 0)).admission.quality
    assert quality.tolist() == [BAD | OUT_OF_RANGE]


def test_an_expired_calibration_is_told_once_and_its_values_are_uncertain_everywhere() -> None:
    double = PointSpec(name="double_c", unit="C", low=-99, high=199, expression="a_c * 2")
    doubt = RuleSpec(id="DOUBT", when="quality(a_c) > 0.5", priority="P4")
    config = farm([double], doubt, calibrations=[{"device": "d-0", "point": "a_c", "gain": 1.5, **OLD}])
    small = Small(config)
    assert small.send(1, a_c=10) == [("d-0/double_c", 1, 30, UNCERTAIN | CALIBRATION_EXPIRED)]
    small.send(2, a_c=10)
    small.send(3, a_c=11)

    def told() -> list[tuple[str, bool, float]]:
        return [(d.subject, d.body["expired"], (d.time_ns - T0) / S) for d in small.decisions if d.kind == "calibration"]

    assert told() == [("s/d-0/a_c", True, 1)]
    saved = small.engine.snapshot()
    small.engine = build_engine()
    small.engine.restore(saved)
    small.send(4, a_c=12)
    assert told() == [("s/d-0/a_c", True, 1)]
    renewed = {"device": "d-0", "point": "a_c", "gain": 1.5, **OLD, "expires": "2099-01-01"}
    small.configure(farm([double], doubt, calibrations=[renewed]))
    assert small.send(5, a_c=13) == [("d-0/double_c", 5, 39, GOOD)]
    assert told() == [("s/d-0/a_c", True, 1), ("s/d-0/a_c", False, 5)]
    assert small.alarms("DOUBT") == [("UNACK", 1), ("RTNUN", 5)]


REFUSED: list[tuple[list[PointSpec], str]] = [
    ([PointSpec(name="x_c", unit="C", low=0, high=9, expression="x_c + 1")], "s/p/x_c -> s/p/x_c"),
    (
        [
            PointSpec(name="x_c", unit="C", low=0, high=9, expression="mean(y_c, 60 s)"),
            PointSpec(name="y_c", unit="C", low=0, high=9, expression="max(z_c, a_c)"),
            PointSpec(name="z_c", unit="C", low=0, high=9, redundant=["a_c", "x_c"], tolerance=1),
        ],
        "s/p/x_c -> s/p/y_c -> s/p/z_c -> s/p/x_c",
    ),
    ([PointSpec(name="x_c", unit="C", low=0, high=9, expression="median(peers.x_c) + a_c")], "s/p/x_c -> s/p/x_c"),
    ([PointSpec(name="x_c", unit="C", low=0, high=9, expression="neighbour.x_c")], "s/p/x_c -> s/p/x_c"),
    ([PointSpec(name="x_k", unit="kPa", low=0, high=9, expression="a_c + b_c")], "this gives C, and kPa is wanted"),
    ([PointSpec(name="x_k", unit="kPa", low=0, high=9, redundant=["a_c", "b_c"], tolerance=1)], "this gives C, and kPa is wanted"),
    ([PointSpec(name="x_k", unit="kPa", low=0, high=9, expression="a_c > 5")], "this gives bool, and kPa is wanted"),
    ([PointSpec(name="x_c", unit="C", low=0, high=9, expression="a_c +")], "the expression ends"),
    ([PointSpec(name="x_c", unit="C", low=0, high=9, redundant=["a_c", "e_c"], tolerance=1)], "no point 'e_c'"),
]


@pytest.mark.parametrize(("points", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_cannot_be_computed_is_told_and_the_rest_goes_on(points: list[PointSpec], words: str) -> None:
    reads = [RuleSpec(id=f"R{k}", when=f"{point.name} > 1") for k, point in enumerate(points)]
    fine = PointSpec(name="fine_c", unit="C", low=0, high=99, expression="a_c + 1")
    small = Small(farm([*points, fine], *reads, RuleSpec(id="HOT", when="a_c > 1", priority="P3"), links={"neighbour": "d-0"}))
    faults = {f.key: f.message for f in bind(small.engine.plan).faults}
    assert all(words in faults[f"s/p/{point.name}@point"] for point in points[:1])
    assert {f"s/R{k}@1" for k in range(len(points))} <= set(faults), "nor can a rule that reads it"
    assert small.send(1, a_c=5) == [("d-0/fine_c", 1, 6, GOOD)]
    assert small.alarms("HOT") == [("UNACK", 1)]


@pytest.mark.parametrize(("origin", "moves"), [("LIVE", True), ("SIMULATED", False)])
def test_a_demand_inherits_the_origin_of_every_sensor_that_votes(origin: str, moves: bool) -> None:
    """Also where the simulated sensor is only the last of them, and stands behind two virtual points."""
    points = [
        BEST.model_copy(update={"redundant": ["a_c", "spare.a_c"]}),
        PointSpec(name="mean_c", unit="C", low=0, high=99, expression="mean(best_c, 60 s)"),
    ]
    config = farm(points, links={"spare": "t/d-0"}).model_dump()
    config["profiles"]["p"]["actuators"] = [{"name": "vent"}]
    config["profiles"]["p"]["rules"].append(
        {"id": "OPEN", "when": "mean_c > 1", "demand": {"actuator": "vent", "value": 100, "level": "survival"}}
    )
    plan = Plan()
    plan.apply(SiteConfig.model_validate(farm([]).model_dump() | {"site": "t", "origin": origin}))
    plan.apply(SiteConfig.model_validate(config))
    (rule,) = [rule for rule in bind(plan).rules if rule.spec.id == "OPEN"]
    assert [rule.moves(device) for device in rule.cohort.devices] == [moves, moves]


@pytest.mark.parametrize("when", ["median(peers.a_c) > 1", "best_c > 1", "count(peers: best_c > 2) > 1"])
def test_a_moment_finds_room_for_all_that_it_touches(when: str) -> None:
    """Of 100 devices that look at each other one sample is news to all: written beyond its room it would damage memory."""
    config = farm([BEST], RuleSpec(id="G", when=when))
    plan = Plan()
    plan.apply(config.model_copy(update={"devices": [DeviceSpec(name="d", profile="p", area="a", count=100)]}))
    touched, judged = bind(plan).room
    peers = 99 if "peers" in when else 0
    assert touched >= 4 + 4 * 3 + 2 * peers if peers == 0 else touched >= 2 * peers
    assert judged >= max(peers, 1)
