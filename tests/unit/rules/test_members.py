"""What rules say of the members of arrays: who counts, what is remembered of each, what arrives too late, and what a snapshot keeps."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from ingest.decode import Directory, Gather
from rules import members
from rules.book import bind
from rules.engine import Engine
from rules.expression import Names, parse
from rules.tree import text
from store.snapshot import read_snapshot, write_snapshot
from telemetry.errors import ExpressionError
from telemetry.plan import Plan
from telemetry.record import Event, Start
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, RuleSpec, SiteConfig
from telemetry.wire.message import encode_packed
from tests.unit.rules.histories import T0, S, record_of, rule_engine

POINTS = [
    PointSpec(name="rpm", unit="rpm", low=0, high=20_000, members=6, heartbeat_s=60),
    PointSpec(name="breaks", unit="end", low=0, high=1e6, members=6, heartbeat_s=600),
    PointSpec(name="pair", unit="rpm", low=0, high=20_000, members=2),
    PointSpec(name="speed_rpm", unit="rpm", low=0, high=20_000),
]
NAMES = Names(points={p.name: p for p in POINTS}, links={"weather": {"rpm": POINTS[0]}})
ALL = [17_000.0] * 6


def with_one(place: int, value: float, others: Sequence[float] = ALL) -> list[float]:
    return [value if k == place - 1 else x for k, x in enumerate(others)]


class Frame:
    """A ring frame of six spindles with some conditions; what they said is `told`: (rule, second, on, value)."""

    def __init__(self, *whens: str, **spec: Any) -> None:
        rules = [RuleSpec.model_validate({"id": f"R{k}", "when": when, **spec}) for k, when in enumerate(whens)]
        self.site = self.with_points(POINTS, rules)
        self.engine, self.probe = rule_engine()
        self.now = T0
        self.gather = Gather(Directory(self.engine.plan))
        self.gather.add(Start(1), T0)
        self.configure(self.site)
        self.gather.add(Event("drained"), T0)
        self.step()
        assert self.faults() == []

    @staticmethod
    def with_points(points: list[PointSpec], rules: list[RuleSpec]) -> SiteConfig:
        profile = Profile(name="frame", lateness_s=20, receipts=True, points=points, rules=rules)
        devices = [DeviceSpec(name="f", profile="frame", area="a"), DeviceSpec(name="g", profile="frame", area="a")]
        return SiteConfig(site="s", areas=[AreaSpec(name="a")], devices=devices, profiles={"frame": profile})

    def configure(self, site: SiteConfig) -> None:
        self.gather.add(record_of(site), self.now)
        self.step()
        self.gather.directory = Directory(self.engine.plan)

    def step(self) -> None:
        self.engine.step(self.gather.build(self.engine.position + 1, self.now, 0))

    def faults(self) -> list[Any]:
        return self.engine.stages[2].book.faults  # type: ignore[attr-defined, no-any-return]

    def at(self, second: float, seq: int | None = None, late_s: float = 0, **values: Any) -> "Frame":
        """The frame sends so many seconds after the begin; without values only time goes on."""
        self.now = T0 + int(second * S)
        if values:
            body = {"ts": (self.now - int(late_s * S)) // 1_000_000, "p": values}
            body |= {} if seq is None else {"boot": 1, "seq": seq}
            self.gather.take("fl/s/f/telemetry", json.dumps(body).encode(), False, self.now)
        else:
            self.gather.tick(self.now)
        self.step()
        return self

    def packed(self, second: float, values: Any) -> "Frame":
        self.now = T0 + int(second * S)
        self.gather.take("fl/s/f/telemetry", encode_packed("rpm", values, ts_ms=self.now // 1_000_000), False, self.now)
        self.step()
        return self

    @property
    def told(self) -> list[tuple[str, float, int, float | None]]:
        return [(t.subject.partition("@")[0], (t.time_ns - T0) / S, t.on, t.value) for t in self.probe.out]


# -- the language ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "column", "message"),
    [
        ("rpm > 3", 1, "rpm has 6 members; say what of them, such as count(members: rpm > 3)"),
        ("mean(rpm, 1 h) > 3", 6, "rpm has 6 members"),
        ("quality(rpm) > 1", 9, "rpm has 6 members"),
        ("count(members: rpm > pair) > 3", 22, "pair has 2 members, the other point 6"),
        ("count(members: speed_rpm > 3) > 1", 16, "reads no point that has members; there are rpm, breaks, pair"),
        ("count(members: weather.rpm > 3) > 1", 24, "belongs to another device"),
        ("count(members: mean(rpm, 1 h) > 3) > 1", 16, "there are held(condition, 30 s) and rise(counter, 1 d)"),
        ("count(members: held(rpm > 3, 1 min, 3 min)) > 1", 16, "there are held(condition, 30 s)"),
        ("count(members: ewma(rpm, 0.5) > 1) > 1", 16, "there are held(condition, 30 s)"),
        ("held(speed_rpm > 3, 1 min)", 1, "elsewhere take on_delay_s"),
        ("rise(speed_rpm, 1 h) > 3", 1, "elsewhere take rate"),
        ("count(members: rise(speed_rpm, 1 h) > rpm) > 3", 16, "elsewhere take rate"),
        ("count(members: rise(breaks, 10 s) > 1) > 3", 16, "multiple of 3 s"),
        ("worst(peers: speed_rpm) > 3", 1, "worst is of members"),
        ("worst(speed_rpm) > 3", 1, "worst is of peers, children or members"),
        ("count(members: rpm) > 3", 16, "joins conditions"),
        ("mean(members: rpm > 3) > 3", 15, "takes numbers"),
        ("max(members: rpm) > max(members: breaks)", 19, "mixes units: end and rpm"),
        ("members > 3", 1, "members are many"),
    ],
)
def test_errors_name_the_place_and_the_fix(given: str, column: int, message: str) -> None:
    with pytest.raises(ExpressionError, match=re.escape(message)) as caught:
        parse(given, NAMES, want="condition")
    assert caught.value.column == column


@pytest.mark.parametrize(
    "given",
    [
        "count(members: rpm > 3) > 1", "worst(members: held(rpm < 0.97 * mean(members: rpm), 30 s)) > 0",
        "max(members: rise(breaks, 1 d)) > 5", "worst(members: poisson(rise(breaks, 1 d), mean(members: rise(breaks, 1 d))) > 4) > 0",
        "stale(rpm, 3 min)", "any(children: count(members: rpm > 3) > 1)",
    ],
)  # fmt: skip
def test_the_text_of_a_tree_is_that_tree(given: str) -> None:
    names = Names(points=NAMES.points, children=NAMES.points)
    tree = parse(given, names, want="condition")
    assert parse(text(tree), names) == tree == parse(given)


# -- who counts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("count(members: rpm > 2)", 3.0), ("sum(members: rpm)", 15.0), ("mean(members.rpm)", 3.0), ("min(members: -rpm)", -5.0),
        ("max(members.rpm)", 5.0), ("median(members.rpm)", 3.0), ("spread(members.rpm)", 4.0), ("worst(members.rpm)", 6.0),
        ("worst(members: rpm > 2)", 4.0), ("worst(members: rpm > 100)", 0.0), ("worst(members: -rpm)", 1.0),
        ("any(members: rpm > 4)", 1.0), ("any(members: rpm > 100)", None), ("all(members: rpm > 4)", 0.0),
        ("all(members: rpm > 0)", None), ("sum(members: if(rpm > 2, rpm, speed_rpm))", 20.0),
        ("sum(members: clamp(rpm, 2, 4) + min(rpm, 3))", 27.0), ("count(members: not (rpm > 2 and breaks < 5))", 4.0),
        ("count(members: rpm / (rpm - 3) > 0)", 2.0),
    ],
)  # fmt: skip
def test_a_member_that_is_not_known_counts_neither_way(expression: str, value: float | None) -> None:
    """Member 3 is beyond the range of its point."""
    is_truth = expression.startswith(("any", "all"))
    frame = Frame(f"if({expression}, 1, 0) > -1" if is_truth else f"{expression} > -1e9")
    frame.at(1, speed_rpm=4, rpm=[1, 2, -7, 3, 4, 5], breaks=[0, 0, 0, 0, 9, 90])
    assert [told[3] for told in frame.told] == ([] if value is None else [value])


def test_an_array_of_which_nothing_is_known_is_unknown() -> None:
    frame = Frame("count(members: rpm > 2) < 1", "any(members: rpm > 2) or speed_rpm > 0")
    frame.at(1, rpm=[-1] * 6).packed(2, np.full(6, np.nan, np.float32)).packed(3, np.full(6, 60_000, np.uint16))
    assert frame.told == []
    assert frame.at(4, rpm=[0] * 6).told == [("R0", 4, 1, 0.0)]


def test_single_values_are_those_of_the_moment_when_the_array_comes() -> None:
    frame = Frame("count(members: rpm < 0.9 * speed_rpm) > 3").at(1, speed_rpm=17_000, rpm=ALL)
    assert frame.at(2, speed_rpm=20_000).at(3).told == [], "the spindles are still those of the slower frame"
    assert frame.at(4, rpm=ALL).told == [("R0", 4, 1, 6.0)]


def test_an_array_grows_old_as_a_whole() -> None:
    frame = Frame("worst(members: rpm < 100) > 0", missing="clear").at(1, rpm=with_one(4, 50))
    assert frame.at(500).told == [("R0", 1, 1, 4.0), ("R0", 181, 0, None)]


def test_arrays_that_are_late_or_come_twice_do_not_decide() -> None:
    frame = Frame("worst(members: rpm < 100) > 0", "count(members: rise(breaks, 12 s) > 1) > 0")
    frame.at(10, seq=0, rpm=ALL, breaks=[0] * 6)
    frame.at(12, seq=1, late_s=5, rpm=with_one(2, 0), breaks=[5] * 6)
    frame.at(13, seq=0, late_s=3, rpm=with_one(2, 0))
    frame.at(14, late_s=4, rpm=with_one(2, 0))
    frame.at(15, late_s=5, rpm=with_one(2, 0), speed_rpm=3)
    assert frame.told == []
    frame.gather.take(
        "fl/s/f/backfill", b'{"ts": %d, "p": {"rpm": [0,0,0,0,0,0]}}' % ((T0 + 20 * S) // 1_000_000), False, T0 + 20 * S
    )
    assert frame.at(21).told == []
    assert frame.at(22, rpm=with_one(2, 0)).told == [("R0", 22, 1, 2.0)]


# -- what is remembered of each ----------------------------------------------------------------------------------------------


def test_a_member_has_to_hold_by_itself() -> None:
    """Two spindles stand by turns, a third for 30 s on end."""
    frame = Frame("worst(members: held(rpm < 100, 30 s)) > 0")
    for second in range(0, 40, 10):
        frame.at(second, rpm=with_one(1 + second // 10 % 2, 0))
    assert frame.told == []
    for second in range(40, 90, 10):
        frame.at(second, rpm=with_one(5, 0))
    assert frame.told == [("R0", 70, 1, 5.0)]


def test_holding_stands_still_while_a_member_is_unknown_and_over_a_gap() -> None:
    frame = Frame("worst(members: held(rpm < 100, 30 s)) > 0").at(0, rpm=with_one(3, 0)).at(10, rpm=with_one(3, 0))
    frame.at(20, rpm=with_one(3, -1)).at(100, rpm=with_one(3, 0))  # 20 s, then unknown for 80 s
    frame.at(400, rpm=with_one(3, 0))  # three heartbeats are 180 s
    assert frame.told == []
    assert frame.at(410, rpm=with_one(3, 0)).told == [("R0", 410, 1, 3.0)]


def test_a_rise_counts_what_each_counter_rose() -> None:
    frame = Frame("max(members: rise(breaks, 1 h)) > 4", "worst(members: rise(breaks, 1 h) > 4) > 0")
    for minute in range(0, 50, 5):
        frame.at(minute * 60, breaks=with_one(2, 100 + minute / 10, [7] * 6))
    assert frame.told == [], "known after ten of its twelve parts"
    frame.at(3_000, breaks=with_one(2, 105, [7] * 6))
    assert frame.told == [("R0", 3_000, 1, 5.0), ("R1", 3_000, 1, 2.0)]
    frame.at(3_010, breaks=with_one(2, 0, [7] * 6)).at(3_020, breaks=with_one(2, 1, [7] * 6))
    assert len(frame.told) == 2, "a counter that fell began anew"
    for minute in range(55, 110, 5):
        frame.at(minute * 60, breaks=with_one(2, 1, [7] * 6))
    assert [(rule, on) for rule, _, on, _ in frame.told[2:]] == [("R0", 0), ("R1", 0)]


def test_after_a_gap_as_long_as_its_window_a_rise_begins_anew() -> None:
    frame = Frame("min(members: rise(breaks, 12 s)) < 1")
    for second in range(11):
        frame.at(second, breaks=[second] * 6)
    frame.at(100, breaks=[11] * 6).at(101, breaks=[11] * 6)
    assert frame.told == []


def test_memory_is_what_the_documentation_says() -> None:
    assert [8 * (members.words(fn, 1_824) - members.HEADER) / 1_824 for fn in (members.HELD, members.RISE)] == [8, 120]


def test_too_many_members_to_remember_are_refused() -> None:
    point = PointSpec(name="x", unit="1", low=0, high=1, members=65_536)
    rule = RuleSpec(id="R", when="count(members: rise(x, 60 s) > 0) > 1")
    plan = Plan()
    plan.apply(
        SiteConfig(
            site="s", areas=[AreaSpec(name="a")], devices=[DeviceSpec(name="d", profile="p", area="a", count=140)],
            profiles={"p": Profile(name="p", points=[point], rules=[rule])},
        )
    )  # fmt: skip
    (fault,) = bind(plan).faults
    assert "rise(x, 1 min) of 140 devices needs 1050" in fault.message


# -- configuration and snapshots ---------------------------------------------------------------------------------------------

WHENS = ("worst(members: held(rpm < 100, 30 s)) > 0", "max(members: rise(breaks, 24 s)) > 3", "median(members.rpm) < 16000")


def course(after: Callable[[Frame], None]) -> list[Any]:
    frame = Frame(*WHENS, on_delay_s=2)
    for second in range(0, 60, 2):
        rpm = with_one(1 + second // 40, 0) if second % 3 else [15_000] * 6
        frame.at(second, rpm=rpm, breaks=with_one(4, second // 6, [0] * 6))
        after(frame)
    return frame.told


def test_snapshots_and_the_same_configuration_again_change_nothing(tmp_path: Any) -> None:
    def restart(frame: Frame) -> None:
        path = write_snapshot(tmp_path, frame.engine.position, frame.engine.snapshot())
        fresh, probe = rule_engine()
        fresh.restore(read_snapshot(path).state)
        probe.out += frame.probe.out
        frame.engine, frame.probe = fresh, probe

    expected = course(lambda _: None)
    assert len(expected) > 4
    assert course(restart) == expected
    assert course(lambda frame: frame.configure(frame.site)) == expected


def saved_members(engine: Engine) -> dict[str, Any]:
    columns = engine.snapshot()["stages"]["Conditions"]["cohorts"]["s/frame"]["columns"]
    return {key: column["members"].tolist() for key, column in columns.items() if "members" in column}


def test_members_are_saved_by_the_name_of_their_point_and_only_where_somebody_reads_them() -> None:
    frame = Frame("count(members: held(rpm < 100, 30 s)) > 1").at(0, rpm=with_one(2, -1), breaks=[1] * 6)
    saved = saved_members(frame.engine)
    assert list(saved) == ["rpm", "held(rpm < 100, 30 s)"]
    np.testing.assert_array_equal(saved["rpm"][0], with_one(2, float("nan")))


def test_an_array_that_changes_its_length_is_unknown_until_it_comes_again() -> None:
    frame = Frame("count(members: rpm < 100) > 0").at(0, rpm=ALL)
    longer = [POINTS[0].model_copy(update={"members": 8}), *POINTS[1:]]
    frame.configure(frame.with_points(longer, frame.site.profiles["frame"].rules))
    assert np.isnan(saved_members(frame.engine)["rpm"]).all()
    assert frame.at(1, rpm=[0] * 8).told == [("R0", 1, 1, 8.0)]
