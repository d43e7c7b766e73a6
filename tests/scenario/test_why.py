"""Why an alarm stood or an actuator was where it was: each kind of answer through the engine, out of a history and out of a journal."""

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from api.why import WhyView, explain, subject_of
from app.settings import Settings
from app.why import ask, moment_ms, sentences
from app.wiring import build_engine
from ingest.decode import Directory, Gather
from rules.control.controller import Ask, Turn
from rules.control.kinds import KINDS, MODULES
from store.duckdb_history import DuckDBHistory
from store.journal import Journal
from store.projection import Projector
from telemetry.clock import ManualClock
from telemetry.decision import encode_decisions
from telemetry.errors import CallerError
from telemetry.record import Ack, Config, Event, Record, Request, Start
from telemetry.site import ControllerSpec, SiteConfig
from telemetry.topic import topic
from telemetry.transaction import Accounting, Transaction
from telemetry.wire.columns import encode_admission, encode_entries

S = 1_000_000_000
T0 = 1_767_222_000 * S  # 2026-01-01 07:00 in Weifang
VENT, HOT, STUFFY = "farm/h-0/vent", "HOT@farm/h-0", "STUFFY@farm/h-0"
RULES: list[dict[str, Any]] = [
    {"id": "HOT", "version": 3, "when": "temp_c > 38 and weather.wind_m_s < 17", "on_delay_s": 300, "priority": "P2",
     "message": {"en": "{device} is {value} C hot", "zh": "{device} 气温 {value} C"},
     "demand": {"actuator": "vent", "bound": "at_least", "value": 80, "level": "survival"}},
    {"id": "WARM", "when": "temp_c > 30", "demand": {"actuator": "vent", "value": 40, "level": "temperature"}},
    {"id": "STUFFY", "when": "mean(co2_ppm, 10 min) > 1500 or quality(co2_ppm) >= 2 or is(state, STUCK)", "priority": "P3"},
    {"id": "TRIED", "when": "temp_c > 35", "priority": "P3", "shadow": True},
]  # fmt: skip


def farm(rules: list[dict[str, Any]] | None = None, *, fail_safe: float | str = 10.0) -> SiteConfig:
    points = [
        {"name": "temp_c", "unit": "C", "low": -40, "high": 80, "heartbeat_s": 60},
        {"name": "co2_ppm", "unit": "ppm", "low": 0, "high": 5000, "heartbeat_s": 60},
        {"name": "state", "unit": "", "low": 0, "high": 9, "labels": {0: "RUN", 4: "STUCK"}},
        {"name": "vent_pct", "unit": "%", "low": -5, "high": 105, "heartbeat_s": 60},
    ]
    vent = {"name": "vent", "feedback": "vent_pct", "fail_safe": fail_safe, "travel_s": 20}
    return SiteConfig.model_validate(
        {
            "site": "farm", "areas": [{"name": "a", "links": {"weather": "mast"}}],
            "devices": [{"name": "h", "profile": "house", "area": "a", "count": 2}, {"name": "mast", "profile": "mast", "area": "a"}],
            "profiles": {
                "house": {"name": "house", "points": points, "actuators": [vent]},
                "mast": {"name": "mast", "points": [{"name": "wind_m_s", "unit": "m/s", "low": 0, "high": 60, "heartbeat_s": 60}]},
            },
            "rules": [{"profile": "house", **rule} for rule in (RULES if rules is None else rules)],
        }
    )  # fmt: skip


WARM = Ask("vent", "value", "temperature", "warm air", "空气偏暖")


class Airer:
    """A controller that opens the vent by the warmth of the air."""

    READS = ("temp_c", "weather.wind_m_s", "hour")
    EVERY_S = 30.0

    def parameters(self, given: Any) -> Any:
        return given

    def start(self, n: int, time_ns: int, parameters: Any) -> tuple[Any, ...]:  # noqa: ARG002
        return (np.zeros(n),)

    def step(self, state: tuple[Any, ...], time_ns: int, inputs: Any, parameters: Any) -> Turn:  # noqa: ARG002
        opened = (inputs["temp_c"] - 20.0) * 4.0
        return Turn(state, {WARM: opened}, {"temp_c": inputs["temp_c"], "band_k": np.full(len(opened), 25.0)})


class Farm:
    """The real engine over a real journal and a history that follows it. Each call of `flush` is one transaction."""

    def __init__(self, directory: Path) -> None:
        self.engine, self.now, self.settings = build_engine(), T0, Settings(data_dir=directory)
        self.gather = Gather(Directory(self.engine.plan))
        self.clock = ManualClock(T0)
        self.journal = Journal(directory / "journal", clock=self.clock)
        self.journal.begin(1)
        self.history = DuckDBHistory(directory / "history.duckdb")
        self.projector = Projector(self.history, now_s=lambda: self.now / S)
        self.add(Start(1), Event("broker_up"))
        self.configure(farm())
        self.add(Event("drained"))
        self.is_obeyed, self.vent_pct = True, 0.0

    def close(self) -> None:
        self.journal.close()
        self.history.close()

    def flush(self) -> None:
        entries = self.gather.build(self.engine.position + 1, self.now, 0)
        outcome = self.engine.step(entries)
        transaction = Transaction(
            entries.first, len(entries), 1, int(entries.time_ns[-1]), encode_entries(entries), encode_admission(outcome.admission),
            encode_decisions(outcome.decisions), msgspec.json.encode(Accounting()), len(entries.frames.point),
        )  # fmt: skip
        self.journal.append(transaction)
        self.projector.take(transaction)
        self.projector.flush()
        self.gather.directory = Directory(self.engine.plan)

    def add(self, *records: Record) -> None:
        for record in records:
            self.gather.add(record, self.now)
        self.flush()

    def configure(self, site: SiteConfig) -> None:
        self.add(Config(site.site, site.sha256(), site.canonical(), "chen"))

    def live(self, minutes: float, wind: float = 3.0, **values: float) -> int:
        """Every half minute a sample of each value; the time [ms] at the end."""
        for _ in range(int(minutes * 2)):
            self.now += 30 * S
            for device, points in (("h-0", values | {"vent_pct": self.vent_pct}), ("mast", {"wind_m_s": wind})):
                payload = json.dumps({"ts": self.now // 1_000_000, "p": points}).encode()
                self.gather.take(topic("farm", device, "telemetry"), payload, False, self.now)
            self.flush()
            self.obey()
        return self.now // 1_000_000

    def ask(self, kind: str, **body: Any) -> None:
        self.now += S
        self.add(Request(f"q{self.now}", kind, "wang", body))

    def obey(self) -> None:
        """The device answers the newest command and moves, but a little less."""
        for row in self.history.records(kind="command", subject=VENT, limit=1):
            command = json.loads(row.body)
            if self.is_obeyed and command["state"] == "sent":
                self.vent_pct = max(0.0, command["value"] - 1)
                self.add(Ack("farm/h-0", command["id"], "accepted"))

    def why(self, subject: str, at_ms: int | None = None) -> WhyView:
        return explain(self.history, subject_of(subject), self.now // 1_000_000 if at_ms is None else at_ms)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Farm]:
    with closing(Farm(tmp_path)) as made:
        yield made


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")


def said(why: WhyView) -> str:
    return "\n".join(sentences(why))


def test_an_alarm_names_rule_values_duration_and_samples(world: Farm) -> None:
    world.live(2, temp_c=25)
    began = world.live(0.5, temp_c=38.4)
    end = world.live(6, temp_c=38.4)
    why = world.why(HOT)
    assert (why.answer, why.state, why.priority, why.since_ms) == ("alarm", "UNACK", "P2", began + 300_000)
    cause = why.cause
    assert cause is not None
    assert (cause.rule, cause.rule_version, cause.since_ms, cause.on_delay_s) == ("HOT", 3, began, 300)
    assert cause.with_values == "(temp_c (38.4 C) > 38) and (weather.wind_m_s (3 m/s) < 17)"
    assert cause.when == RULES[0]["when"]
    assert [(r.text, r.value, r.unit) for r in cause.read] == [("temp_c", 38.4, "C"), ("weather.wind_m_s", 3.0, "m/s")]
    assert cause.read[0].history == [
        f"/api/v1/sites/farm/devices/h-0/points/temp_c/history?start_ms={began - 180_000}&end_ms={began + 300_001}"
    ]
    assert "/devices/mast/points/wind_m_s/" in cause.read[1].history[0]
    text = said(why)
    assert "h-0 is 38.4 C hot" in text
    assert "Rule HOT, version 3: (temp_c (38.4 C) > 38) and (weather.wind_m_s (3 m/s) < 17)" in text
    assert "It began to hold at 2026-01-01 07:02:30, 6 min before, of which the rule waits for 5 min." in text
    assert end == began + 360_000


def test_a_controller_tells_its_terms_and_the_points_that_it_reads(
    world: Farm, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setitem(KINDS, "airer", Airer())
    monkeypatch.setitem(MODULES, "airer", sys.modules[__name__])
    site = farm()
    house = site.profiles["house"].model_copy(update={"controllers": [ControllerSpec(id="climate", kind="airer")]})
    world.configure(site.model_copy(update={"profiles": site.profiles | {"house": house}}))
    world.live(2, temp_c=28)
    why = world.why(VENT)
    assert (why.answer, why.value) == ("controller", 32.0)
    cause = why.cause
    assert cause is not None
    assert (cause.controller, cause.rule, cause.level, cause.words["zh"]) == ("climate", None, "temperature", "空气偏暖")
    assert [(r.text, r.value, r.unit) for r in cause.read] == [
        ("temp_c", 28.0, "C"), ("weather.wind_m_s", None, "m/s"), ("band_k", 25.0, ""),
    ]  # fmt: skip
    assert "/devices/mast/points/wind_m_s/" in cause.read[1].history[0]
    text = said(why)
    assert "exactly 32 % by controller climate: warm air (temperature)" in text
    assert "temp_c 28 C, band_k 25" in text
    world.live(7, temp_c=39)  # a rule's survival bound is above it
    why = world.why(VENT)
    assert (why.answer, [loser.source for loser in why.losers]) == ("rule", ["WARM@farm/h-0", "climate.warm_air@farm/h-0"])
    request.getfixturevalue("chinese")
    assert "控制器 climate：空气偏暖" in said(why)


def test_an_alarm_is_as_it_was_at_the_moment_asked_for_and_by_the_version_of_then(world: Farm) -> None:
    before = world.live(1, temp_c=25)
    hot = world.live(7, temp_c=39)
    world.ask("acknowledge", alarm=HOT)
    world.configure(farm([RULES[0] | {"version": 4, "when": "temp_c > 35"}]))
    world.live(1, temp_c=20)
    assert [(w.state, w.event) for w in (world.why(HOT, before), world.why(HOT, hot), world.why(HOT))] == [
        ("NORM", None), ("UNACK", "raise"), ("NORM", "rule_removed"),
    ]  # fmt: skip
    assert "Last change: ended: its rule was removed" in said(world.why(HOT))
    world.live(6, temp_c=36)
    then, now = world.why(HOT, hot).cause, world.why(HOT).cause
    assert then is not None
    assert now is not None
    assert (then.rule_version, then.with_values) == (3, "(temp_c (39 C) > 38) and (weather.wind_m_s (3 m/s) < 17)")
    assert (now.rule_version, now.with_values) == (4, "temp_c (36 C) > 35")
    assert "it was never raised before" in said(world.why(HOT, before))


def test_a_shelved_alarm_says_who_why_and_until_when(world: Farm) -> None:
    world.live(7, temp_c=39)
    world.ask("shelve", alarm=HOT, seconds=1800, reason="sensor swap")
    assert "temp_c (39 C) > 38" in said(world.why(HOT))
    why = world.why(HOT)
    assert (why.state, why.person, why.note, why.until_ms) == ("SHLVD", "wang", "sensor swap", world.now // 1_000_000 + 1_800_000)
    assert why.cause is not None
    assert "By wang: sensor swap" in said(why)


def test_what_an_earlier_alarm_stood_on_is_not_told_of_a_later_shelf(world: Farm) -> None:
    world.live(7, temp_c=39)
    world.ask("acknowledge", alarm=HOT)
    world.live(1, temp_c=20)
    assert world.why(HOT).state == "NORM"
    assert "Rule HOT, version 3, does not hold any more: (temp_c (20 C) > 38) and" in said(world.why(HOT))
    world.ask("shelve", alarm=HOT, seconds=1800, reason="sensor swap")
    why = world.why(HOT)
    assert (why.state, why.note, why.cause) == ("SHLVD", "sensor swap", None)


def test_windows_qualities_and_labels_are_filled_in(world: Farm) -> None:
    end = world.live(15, co2_ppm=1600, state=0, temp_c=20)
    cause = world.why(STUFFY).cause
    assert cause is not None
    assert cause.with_values == "(mean(co2_ppm, 10 min) (1600 ppm) > 1500) or (quality(co2_ppm) >= 2) or (state (RUN) == 4)"
    window = cause.read[0].history[0]
    assert window.startswith("/api/v1/sites/farm/devices/h-0/points/co2_ppm/history?start_ms=")
    assert end - int(window.partition("start_ms=")[2].partition("&")[0]) >= 600_000


def test_a_shadow_alarm_has_a_why_too(world: Farm) -> None:
    world.live(1, temp_c=36)
    why = world.why("TRIED@farm/h-0")
    assert (why.state, why.cause is not None and why.cause.with_values) == ("UNACK", "temp_c (36 C) > 35")


def test_a_position_names_the_rule_that_won_and_those_that_lost(world: Farm) -> None:
    world.live(7, temp_c=39)
    why = world.why(VENT)
    assert (why.answer, why.value, why.unit) == ("rule", 80, "%")
    assert why.cause is not None
    assert (why.cause.rule, why.cause.bound, why.cause.level, why.cause.rule_version) == ("HOT", "at_least", "survival", 3)
    assert why.cause.with_values == "(temp_c (39 C) > 38) and (weather.wind_m_s (3 m/s) < 17)"
    (loser,) = why.losers
    assert (loser.rule, loser.value, loser.with_values) == ("WARM", 40, "temp_c (39 C) > 30")
    assert why.command is not None
    assert (why.command.state, why.command.measured) == ("confirmed", 79)
    text = said(why)
    assert "Asked: 80 % since" in text
    assert "at least 80 % by rule HOT (survival)" in text
    assert "Not followed:\n  exactly 40 % by rule WARM (temperature)\n  Rule WARM, version 1: temp_c (39 C) > 30" in text
    assert "80 % confirmed at" in text
    assert "(measured 79 %)" in text


def test_an_override_names_the_person_and_its_end(world: Farm) -> None:
    world.live(1, temp_c=31)
    world.ask("override", actuator=VENT, value=55, seconds=1200, reason="inspection")
    asked_ms = world.now // 1_000_000
    why = world.why(VENT)
    assert (why.answer, why.value, [loser.rule for loser in why.losers]) == ("override", 55, ["WARM"])
    assert why.cause is not None
    assert (why.cause.reason, why.cause.since_ms, why.cause.until_ms) == ("wang: inspection", asked_ms, asked_ms + 1_200_000)
    assert "exactly 55 % by hand: wang: inspection\n  It ends by itself at 2026-01-01 07:21:01." in said(why)
    world.live(21, temp_c=31)
    assert world.why(VENT).answer == "rule"
    assert world.why(VENT, asked_ms).answer == "override"


def test_nobody_asked(world: Farm) -> None:
    never = world.live(1, temp_c=20)
    assert (world.why(VENT).answer, world.why(VENT).value, world.why(VENT).since_ms) == ("rest", 0, None)
    world.live(1, temp_c=31)
    world.live(1, temp_c=20)
    why = world.why(VENT)
    assert (why.answer, why.value, why.cause) == ("rest", 0, None)
    assert why.since_ms is not None
    assert "Nobody asked since 2026-01-01 07:02:30: rest position 0 %." in said(why)
    assert "Nobody asked: rest position 0 %." in said(world.why(VENT, never))


@pytest.mark.parametrize(
    ("fail_safe", "said_of_it"),
    [(10.0, "Sent to 10 %; asked was 40 %."), ("hold", "It stays where it is; asked was 40 %.")],
)
def test_a_command_without_an_answer_ends_in_the_fail_safe_position(world: Farm, fail_safe: float | str, said_of_it: str) -> None:
    world.configure(farm(fail_safe=fail_safe))
    world.is_obeyed = False
    world.live(1.5, temp_c=31)
    why = world.why(VENT)
    assert (why.answer, why.value) == ("fail_safe", 40)
    assert why.cause is not None
    assert why.cause.rule == "WARM"
    assert why.command is not None
    assert why.command.fail_safe == fail_safe
    text = said(why)
    assert said_of_it in text
    assert "Asked until then:\n  exactly 40 % by rule WARM" in text


def test_blind_time_is_told(world: Farm) -> None:
    world.live(1, temp_c=31)
    world.now += 10 * S
    world.add(Event("broker_lost"))
    world.now += 5 * S
    why = world.why(VENT)
    assert why.blind_since_ms is not None
    assert "Core was blind since" in said(why)
    world.add(Event("drained"))
    assert world.why(VENT).blind_since_ms is None


def test_chinese(world: Farm, chinese: None) -> None:
    del chinese
    world.live(7, temp_c=39)
    alarm, vent = said(world.why(HOT)), said(world.why(VENT))
    assert "报警状态：触发，未确认（UNACK, P2）" in alarm
    assert "h-0 气温 39 C" in alarm
    assert "规则 HOT，第 3 版：(temp_c (39 C) > 38) and (weather.wind_m_s (3 m/s) < 17)" in alarm
    assert "不低于 80 %，规则 HOT（生存）" in vent
    assert "未被采纳：\n  定为 40 %，规则 WARM（温度）" in vent
    early = said(world.why(HOT, T0 // 1_000_000 - 60_000))
    assert "当时没有任何记录；本场地的记录始于 2026-01-01 07:00:00。" in early


def test_a_moment_before_the_first_entry(world: Farm) -> None:
    world.live(7, temp_c=39)
    for subject in (HOT, VENT):
        why = world.why(subject, T0 // 1_000_000 - 60_000)
        assert (why.answer, why.first_ms, why.cause) == ("unrecorded", T0 // 1_000_000, None)
    assert "Nothing was recorded then; records of this site begin at 2026-01-01 07:00:00." in said(world.why(HOT, 1))


def test_a_rule_that_came_later_was_not_configured_then(world: Farm) -> None:
    then = world.live(1, temp_c=20)
    world.configure(farm([*RULES, {"id": "NEW", "when": "temp_c > 1", "priority": "P4"}]))
    assert world.why("NEW@farm/h-0", then - 1).answer == "unconfigured"
    world.live(1, temp_c=20)
    assert world.why("NEW@farm/h-0").state == "UNACK"


@pytest.mark.parametrize(
    ("subject", "error"),
    [
        ("HOTT@farm/h-0", "farm/h-0 has no rule 'HOTT'; did you mean HOT"),
        ("HOT@farm/h-2", "site 'farm' has no device 'h-2'; did you mean h-"),
        ("farm/h-0/vnt", "farm/h-0 has no actuator 'vnt'; did you mean vent"),
        ("HOT@elsewhere/h-0", "nothing is recorded of a site 'elsewhere'"),
        ("vent", "'vent' is neither an alarm nor an actuator; write RULE@site/device or site/device/actuator"),
        ("@farm/h-0", "is neither"),
    ],
)
def test_an_unknown_subject_is_refused_with_what_there_is(world: Farm, subject: str, error: str) -> None:
    world.live(1, temp_c=20)
    with pytest.raises(CallerError, match=error):
        world.why(subject)


def test_decisions_of_an_older_version_say_what_they_have(world: Farm) -> None:
    world.live(7, temp_c=39)
    row = world.history.records(kind="alarm", subject=HOT)[0]
    body = {name: value for name, value in json.loads(row.body).items() if name not in {"read", "since_ns"}}

    class Older:
        def records(self, **asked: Any) -> Any:
            return [r._replace(body=json.dumps(body)) if r.kind == "alarm" else r for r in world.history.records(**asked)]

    why = explain(Older(), subject_of(HOT), world.now // 1_000_000)
    assert (why.state, why.cause) == ("UNACK", None)
    assert "Alarm active, not acknowledged (UNACK, P2)" in said(why)


def test_journal_and_history_give_the_same_answer(tmp_path: Path) -> None:
    with closing(Farm(tmp_path)) as world:
        hot = world.live(7, temp_c=39)
        world.ask("override", actuator=VENT, value=55, seconds=1200, reason="inspection")
        asked = {subject: world.why(subject) for subject in (HOT, VENT)}
        at = f"{world.now / S:.0f}"
    settings = Settings(data_dir=tmp_path)
    moment = "2026-01-01 07:07:01"
    assert moment_ms(moment, "Asia/Shanghai") == int(at) * 1000 == hot + 1000
    for subject, why in asked.items():
        assert ask(settings, subject_of(subject), moment) == why
    (tmp_path / "history.duckdb").unlink()
    for subject, why in asked.items():
        assert ask(settings, subject_of(subject), moment) == why
