"""What the rule language says of devices around it: peers, children, parents, areas, clocks, quality, silence and missing data."""

import datetime as dt
import json
from typing import Any

import numpy as np
import pytest

from ingest.decode import Directory, Gather
from rules.area import AreaState
from rules.clock import area_value
from rules.expression import parse
from telemetry.record import Event, Request, Start
from telemetry.site import AreaSpec, DeviceSpec, PointSpec, Profile, RuleSpec, SetpointSpec, SiteConfig
from tests.unit.rules.histories import record_of
from tests.unit.rules.histories import rule_engine as engine_of

S = 1_000_000_000
MIDNIGHT = int(dt.datetime(2026, 3, 20, 16, 0, tzinfo=dt.UTC).timestamp()) * S  # 21 March 00:00 in Shanghai
POINTS = [
    PointSpec(name="temp_c", unit="C", low=-40, high=80),
    PointSpec(name="rh_pct", unit="%", low=0, high=100, heartbeat_s=60),
    PointSpec(name="rpm", unit="1/min", low=0, high=2000),
    PointSpec(name="state", unit="", low=0, high=9, labels={0: "IDLE", 1: "RUN", 2: "FAULT"}),
    PointSpec(name="breaks", unit="", low=0, high=1000),
]


class Field:
    """A house of three rooms, one of which has two fans as parts of it; another area with one room; a weather station."""

    def __init__(self, *whens: str, start_ns: int = MIDNIGHT, **spec: Any) -> None:
        rules = [RuleSpec.model_validate({"id": f"R{k}", "profile": "room", "when": when, **spec}) for k, when in enumerate(whens)]
        setpoints = {
            "heating_c": SetpointSpec(unit="C", by_day=[(1, 30.0), (11, 20.0)]),
            "low_c": SetpointSpec(unit="C", by_hour=[(6, 15.0), (7, 20.0)]),
            "rest_c": SetpointSpec(unit="C", value=12.5),
        }
        self.site = SiteConfig(
            site="s", latitude=36.7, longitude=118.0, zone="Asia/Shanghai", rules=rules,
            areas=[AreaSpec(name="a", links={"weather": "w"}, setpoints=setpoints), AreaSpec(name="b", links={"weather": "w"})],
            devices=[
                DeviceSpec(name="r", profile="room", area="a", count=3), DeviceSpec(name="far", profile="room", area="b"),
                DeviceSpec(name="fan", profile="fan", area="a", count=2, parent="r-0"), DeviceSpec(name="w", profile="wx", area="a"),
            ],
            profiles={
                "room": Profile(name="room", points=POINTS),
                "fan": Profile(name="fan", points=[p for p in POINTS if p.name == "rpm"]),
                "wx": Profile(name="wx", points=[PointSpec(name="out_c", unit="C", low=-40, high=60)]),
            },
        )  # fmt: skip
        self.engine, self.probe = engine_of()
        self.now = self.start = start_ns
        self.gather = Gather(Directory(self.engine.plan))
        self.gather.add(Start(1), start_ns)
        self.gather.add(record_of(self.site), start_ns)
        self.gather.add(Event("drained"), start_ns)
        self._step()
        assert not self.engine.stages[-2].book.faults  # type: ignore[attr-defined]
        self.gather.directory = Directory(self.engine.plan)

    def _step(self) -> None:
        entries = self.gather.build(self.engine.position + 1, self.now, 0)
        if len(entries):
            self.engine.step(entries)

    def at(self, seconds: float, device: str = "", **values: Any) -> "Field":
        """A message of a device, or with none a tick, so many seconds after the start."""
        self.now = self.start + int(seconds * S)
        if device:
            body = {"ts": self.now // 1_000_000, "p": values}
            self.gather.take(f"fl/s/{device}/telemetry", json.dumps(body).encode(), False, self.now)
        else:
            self.gather.tick(self.now)
        self._step()
        return self

    def ask(self, seconds: float, kind: str, **body: Any) -> "Field":
        self.now = self.start + int(seconds * S)
        self.gather.add(Request(f"q{self.now}", kind, "ann", body), self.now)
        self._step()
        return self

    @property
    def said(self) -> list[tuple[float, str, int]]:
        """(seconds, rule@device, 1 = on, 0 = off) in order."""
        return [((t.time_ns - self.start) / S, t.subject.replace("@s/", "@"), t.on) for t in self.probe.out]


def test_median_of_peers_leaves_the_room_itself_out_and_other_areas_too() -> None:
    field = Field("abs(temp_c - median(peers.temp_c)) > 5")
    field.at(1, "far", temp_c=70).at(2, "r-0", temp_c=20).at(3, "r-1", temp_c=21).at(4, "r-2", temp_c=22)
    assert field.said == []
    field.at(10, "r-2", temp_c=40)
    assert field.said == [(10, "R0@r-0", 1), (10, "R0@r-1", 1), (10, "R0@r-2", 1)]  # of two others the median is their middle
    field.at(11, "r-1", temp_c=41)
    assert field.said[3:] == []


def test_groups_of_children_and_their_parent() -> None:
    field = Field(
        "count(children: rpm < 10) >= 2", "any(children: rpm > 1500)", "all(children: rpm > 100)", "sum(children.rpm) > 2000",
        "spread(children.rpm) > 500", "max(children.rpm) - min(children.rpm) > 500",
    )  # fmt: skip
    field.at(1, "fan-0", rpm=5)
    assert field.said == []
    field.at(2, "fan-1", rpm=5).at(3, "fan-0", rpm=1600).at(4, "fan-1", rpm=1200)
    assert [(t, s, on) for t, s, on in field.said if s.endswith("r-0")] == [
        (2, "R0@r-0", 1), (3, "R0@r-0", 0), (3, "R1@r-0", 1), (3, "R4@r-0", 1), (3, "R5@r-0", 1),
        (4, "R2@r-0", 1), (4, "R3@r-0", 1), (4, "R4@r-0", 0), (4, "R5@r-0", 0),
    ]  # fmt: skip


def test_a_part_reads_what_it_is_a_part_of() -> None:
    field = Field(profile="fan", *["rpm < 10 and parent.temp_c > 28"])  # noqa: B026
    field.at(1, "r-0", temp_c=30).at(2, "fan-1", rpm=3).at(3, "r-0", temp_c=20)
    assert field.said == [(2, "R0@fan-1", 1), (3, "R0@fan-1", 0)]


def test_quality_and_a_value_out_of_its_range() -> None:
    field = Field("quality(temp_c) >= 2")
    field.at(1, "r-0", temp_c=20).at(2, "r-0", temp_c=500).at(3, "r-0", temp_c=20)
    assert field.said == [(2, "R0@r-0", 1), (3, "R0@r-0", 0)]


def test_labels_of_a_state() -> None:
    field = Field("is(state, FAULT, IDLE)")
    field.at(1, "r-0", state=1).at(2, "r-0", state=2).at(3, "r-0", state=0).at(4, "r-0", state=1)
    assert field.said == [(2, "R0@r-0", 1), (4, "R0@r-0", 0)]


def test_a_point_that_is_silent_while_its_device_speaks_is_stale() -> None:
    field = Field("stale(temp_c, 30 s)", "silent(30 s)")
    field.at(1, "r-0", temp_c=20, rh_pct=50)
    for second in range(10, 60, 10):
        field.at(second, "r-0", rh_pct=50)
    field.at(61, "r-0", temp_c=20)
    assert [s for s in field.said if s[1].endswith("r-0")] == [(31, "R0@r-0", 1), (61, "R0@r-0", 0)]
    assert (30, "R1@far", 1) in field.said


def test_values_older_than_three_heartbeats_are_unknown_and_neither_raise_nor_clear() -> None:
    field = Field("temp_c > 30 and rh_pct > 50", on_delay_s=100)
    field.at(1, "r-0", temp_c=40, rh_pct=60)
    for second in range(20, 400, 20):
        field.at(second, "r-0", temp_c=40)  # rh_pct is 60 s old, 120 s old, and unknown from 181 s on
    assert field.said == [(101, "R0@r-0", 1)]
    field.at(400, "r-0", temp_c=40, rh_pct=10)
    assert field.said[1:] == [(400, "R0@r-0", 0)]


def test_a_gap_does_not_count_as_held() -> None:
    field = Field("temp_c > 30", on_delay_s=60)
    field.at(0.5, "r-0", temp_c=40).at(30.5, "r-0", temp_c=None).at(100.5, "r-0", temp_c=40).at(140, "")
    assert field.said == [(130.5, "R0@r-0", 1)]  # 30 s before the gap, 30 s after it


@pytest.mark.parametrize(("missing", "said"), [("hold", []), ("alarm", [(4, "R0@r-0", 1)]), ("clear", [])])
def test_a_rule_chooses_what_missing_data_means(missing: str, said: list[Any]) -> None:
    field = Field("temp_c > 30", missing=missing)
    field.at(1, "r-0", temp_c=20).at(4, "r-0", temp_c=None)
    assert field.said == said


@pytest.mark.parametrize(("missing", "ends"), [("hold", []), ("alarm", []), ("clear", [(4, "R0@r-0", 0)])])
def test_and_whether_it_ends_an_alarm(missing: str, ends: list[Any]) -> None:
    field = Field("temp_c > 30", missing=missing)
    field.at(1, "r-0", temp_c=40).at(4, "r-0", temp_c=None)
    assert field.said == [(1, "R0@r-0", 1), *ends]


def test_true_for_ten_of_the_last_fifteen_minutes() -> None:
    field = Field("held(temp_c > 30, 10 min, 15 min)")
    for minute in range(60):
        field.at(minute * 60, "r-0", temp_c=40 if minute % 4 != 0 or minute > 40 else 20)
    (begin, subject, on) = field.said[0]
    assert (subject, on) == ("R0@r-0", 1)
    assert 13 * 60 <= begin <= 15 * 60


def test_a_window_over_an_expression_and_a_window_of_a_linked_point() -> None:
    field = Field("mean(temp_c - weather.out_c, 3 min) > 10", "mean(weather.out_c, 3 min) > 15")
    for k in range(110):
        field.at(k * 3, "w", out_c=10 if k < 60 else 20).at(k * 3 + 1, "r-0", temp_c=25)
    assert [s for s in field.said if s[1] == "R0@r-0"] == [(144, "R0@r-0", 1), (268, "R0@r-0", 0)]  # at samples of either
    assert [s for s in field.said if s[1].startswith("R1")] == [(270, f"R1@{d}", 1) for d in ("r-0", "r-1", "r-2", "far")]


def test_hours_of_the_day_are_those_of_the_site_also_over_midnight() -> None:
    field = Field("temp_c > 0 and between(22, 6.5)", "temp_c > 0 and weekday() >= 6", start_ns=MIDNIGHT - 7_200 * S)  # Friday 22:00
    for minute in range(0, 11 * 60, 2):
        field.at(minute * 60 + 1, "r-0", temp_c=1)
    assert field.said == [(60, "R0@r-0", 1), (7_200, "R1@r-0", 1), (8.5 * 3600, "R0@r-0", 0)]


def test_sunrise_at_the_equinox() -> None:
    field = Field("temp_c > 0 and sun_up()", "temp_c > 0 and hours_after_sunrise() > 2", "temp_c > 0 and hours_before_sunset() < 1")
    for minute in range(0, 20 * 60, 2):
        field.at(minute * 60 + 1, "r-0", temp_c=1)
    hours = {(s.split("@")[0], on): t / 3600 for t, s, on in field.said}
    assert hours["R0", 1] == pytest.approx(6.2, abs=0.1)  # 21 March, 118 E: true noon is at 12:15
    assert hours["R1", 1] == pytest.approx(hours["R0", 1] + 2, abs=0.05)
    assert hours["R2", 1] == pytest.approx(hours["R0", 0] - 1, abs=0.05)


def test_mode_of_the_area_and_day_of_the_batch() -> None:
    field = Field("temp_c > 30 and not mode_is(EMPTY, WASHDOWN)", "temp_c > 0 and day_of_batch() >= 8")
    field.at(61, "r-0", temp_c=40)
    assert field.said == [(61, "R0@r-0", 1)]
    field.ask(70, "mode", area="s/a", mode="WASHDOWN").ask(80, "batch", area="s/a", day=7, name="B12")
    assert field.said[1:] == [(70, "R0@r-0", 0)]
    field.ask(90, "mode", area="s/a", mode="AUTO")
    for minute in range(2, 24 * 60 + 10, 2):
        field.at(minute * 60 + 1, "r-0", temp_c=40)
    assert field.said[2:] == [(90, "R0@r-0", 1), (86_400, "R1@r-0", 1)]
    field.ask(90_000, "batch", area="s/a", ends=True).at(90_001, "r-0", temp_c=40)
    assert field.said[4:] == []  # without a batch its day is unknown


def test_set_points_are_plain_or_curves_over_the_day_of_the_batch_or_the_hour() -> None:
    field = Field("temp_c < set.heating_c", "temp_c < set.low_c", "temp_c < set.rest_c")
    field.ask(1, "batch", area="s/a", day=6, name="B")  # day 6 at midnight: 30 - 5 * (30 - 20) / 10 = 25
    field.at(61, "r-0", temp_c=24).at(62, "r-0", temp_c=26)
    assert field.said == [(61, "R0@r-0", 1), (62, "R0@r-0", 0)]
    field.at(63, "r-0", temp_c=13)
    assert field.said[2:] == [(63, "R0@r-0", 1), (63, "R1@r-0", 1)]
    field.at(64, "r-0", temp_c=12)
    assert field.said[4:] == [(64, "R2@r-0", 1)]


@pytest.mark.parametrize(
    ("knots", "values"),
    [
        # 7 h to 6 h of the next day, 23 h: 20 down to 15.
        ([(6, 15.0), (7, 20.0)], {6: 15.0, 6.5: 17.5, 7: 20.0, 18.5: 17.5, 0: 20.0 - 5.0 * 17 / 23, 3: 20.0 - 5.0 * 20 / 23}),
        ([(0, 10.0), (12, 22.0)], {0: 10.0, 12: 22.0, 18: 16.0, 23.999: 10.0}),
        ([(12, 22.0), (24, 10.0)], {0: 10.0, 6: 16.0, 12: 22.0, 23.999: 10.0}),
        ([(0, 10.0), (24, 34.0)], {0: 10.0, 12: 22.0, 23.999: 34.0}),  # both ends given: it jumps
        ([(5, 18.0)], {0: 18.0, 12: 18.0}),
    ],
)
def test_a_curve_over_the_hour_leads_across_midnight(knots: list[tuple[float, float]], values: dict[float, float]) -> None:
    spec = SetpointSpec(unit="C", by_hour=knots)
    config = Field("temp_c < set.low_c").site.model_copy(update={"areas": [AreaSpec(name="a", setpoints={"low_c": spec})]})
    midnight_ns = config.midnight_ns(1_700_000_000 * 10**9)
    times = np.array([midnight_ns + int(hour * 3600e9) for hour in values])
    assert area_value(config, "a", AreaState(), "set.low_c", times) == pytest.approx(np.array(list(values.values())), abs=0.02)
    assert SetpointSpec.model_validate(spec.model_dump()) == spec  # said once more it is the same


def test_hours_beyond_the_day_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 24"):
        SetpointSpec(unit="C", by_hour=[(6, 15.0), (25, 20.0)])


def test_significance_of_a_count() -> None:
    field = Field("poisson(breaks, 2.5) > 3")
    for second, breaks in enumerate((2, 5, 9, 10, 4)):
        field.at(second + 1, "r-0", breaks=breaks)
    # P(X >= 9 | 2.5) = 1.14e-3 and P(X >= 10 | 2.5) = 2.77e-4, by summing the Poisson series.
    assert field.said == [(4, "R0@r-0", 1), (5, "R0@r-0", 0)]


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        ("mode", {"area": "s/nowhere", "mode": "EMPTY"}, "site/area"), ("mode", {"area": "s/a", "mode": "ASLEEP"}, "AUTO, EMPTY"),
        ("batch", {"area": "s/a", "day": 1.5}, "whole number"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_of_an_area_is_refused_with_the_fix(kind: str, body: dict[str, Any], reason: str) -> None:
    field = Field("temp_c > 0")
    field.gather.add(Request("q", kind, "ann", body), field.now)
    (answer,) = [d for d in field.engine.step(field.gather.build(field.engine.position + 1, 0, 0)).decisions if d.subject == "q"]
    assert not answer.body["accepted"]
    assert reason in answer.body["reason"]


def test_text_of_a_tree_reads_as_itself() -> None:
    for written in ("count(children: rpm < 10) >= 2", "held(a > 1, 10 min, 15 min)", "quantile(a, 0.9, 1 h) > set.x"):
        from rules.tree import text

        assert parse(text(parse(written))) == parse(written)
