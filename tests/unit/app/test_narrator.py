"""The journal in words: alarms, commands and faults as a person reads them, with units, in his language."""

from pathlib import Path

import pytest
from rich.cells import cell_len

from app.narrator import Narrator, clock_text, known, length, line, record_words
from app.site_files import load_site
from telemetry.decision import Decision
from telemetry.plan import Plan
from telemetry.record import Ack, Event, Request
from tests.faults.web_process import CoreStub

S = 1_000_000_000
SITES = Path(__file__).parents[3] / "sites"


@pytest.fixture(scope="module")
def narrator() -> Narrator:
    plan = Plan()
    plan.apply(load_site(SITES / "nursery"))
    return Narrator(plan)


def decision(kind: str, subject: str, body: dict[str, object]) -> Decision:
    return Decision(1, 0, 5 * S, 0, kind, subject, body)


def test_an_alarm_is_told_with_its_value_and_device(narrator: Narrator, monkeypatch: pytest.MonkeyPatch) -> None:
    message = {"en": "Gust {value} m/s at {device}", "zh": "{device} 阵风 {value} m/s"}
    body = {"event": "raise", "from": "NORM", "to": "UNACK", "priority": "P1", "value": 17.53, "message": message}
    alarm = decision("alarm", "MS-STORM@farm/house-1", body)
    assert narrator.decision_words(alarm) == "ALARM P1 raised: Gust 17.5 m/s at house-1 [MS-STORM]"
    cleared = decision("alarm", "MS-STORM@farm/house-1", body | {"event": "clear", "to": "RTNUN"})
    assert narrator.decision_words(cleared).startswith("ALARM P1 cleared, not yet acknowledged: ")
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert narrator.decision_words(alarm) == "报警 P1 触发：house-1 阵风 17.5 m/s [MS-STORM]"


@pytest.mark.parametrize(
    ("kind", "body", "en", "zh"),
    [
        ("alarm", {"event": "suppress", "to": "DSUPR"}, "suppressed by design", "按设计抑制"),
        ("alarm", {"event": "chatter", "to": "SHLVD"}, "shelved for a while: it chatters", "频繁抖动，暂时搁置"),
        (
            "alarm",
            {"event": "comment", "author": "bob", "text": "slack belt"},
            "commented (bob: slack belt)",
            "备注 (bob: slack belt)",
        ),
        ("alarm", {"event": "assign", "author": "bob", "assignee": ""}, "assigned (bob: -)", "已指派 (bob: -)"),
        ("area", {"author": "li", "to": {"mode": "STORM", "batch_ns": None}}, "li says: mode STORM", "li 设定模式 STORM"),
        ("area", {"author": "li", "to": {"mode": "AUTO", "batch_ns": 5, "batch": "B7"}}, "li says: mode AUTO, batch B7", "批次 B7"),
        ("flood", {"event": "raise", "count": 11}, "FLOOD of alarms: 11 in 10 min", "报警洪流：10 分钟内 11 条"),
        ("flood", {"event": "clear", "count": 30}, "the flood of alarms is over: 30 in all", "报警洪流结束：共 30 条"),
    ],
)
def test_what_people_and_design_do_to_alarms_and_areas_is_told(
    narrator: Narrator, monkeypatch: pytest.MonkeyPatch, kind: str, body: dict[str, object], en: str, zh: str
) -> None:
    told = decision(kind, "HOT@farm/house-1" if kind == "alarm" else "farm/ms", body)
    assert en in narrator.decision_words(told)
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert zh in narrator.decision_words(told)


@pytest.mark.parametrize(
    ("winner", "reason", "said"),
    [
        ({"source": "HOT@farm/a"}, "air_temp_c > 30", "HOT: air_temp_c > 30"),
        ({"source": "STORM@farm/a"}, "Gust {value} m/s", "STORM"),
        ({"source": "request:ann.1"}, "ann: inspection", "ann: inspection"),
        (None, "nobody asks: rest", "nobody asks: rest"),
    ],
)
def test_a_command_says_its_unit_and_why(narrator: Narrator, winner: dict[str, str] | None, reason: str, said: str) -> None:
    body = {"state": "sent", "value": 41.42857, "reason": reason, "winner": winner}
    assert narrator.decision_words(decision("command", "nursery/climate-1/vent_lee", body)) == f"41.4 % sent  {said}"


def test_a_switch_is_on_or_off_and_a_confirmation_says_what_was_measured(narrator: Narrator) -> None:
    pump = decision("command", "nursery/climate-1/circulation_pump", {"state": "sent", "value": 1.0, "reason": "x"})
    assert narrator.decision_words(pump) == "on sent  x"
    vent = decision(
        "command", "nursery/climate-1/vent_lee", {"state": "confirmed", "value": 40.0, "measured": 38.24, "reason": "x"}
    )
    assert narrator.decision_words(vent) == "40 % confirmed (measured 38.2 %)  x"


def test_a_wrong_clock_a_fault_and_a_reject_are_told(narrator: Narrator) -> None:
    slow = decision("clock_wrong", "farm/a", {"wrong": True, "skew_s": -3600.0})
    assert narrator.decision_words(slow) == "CLOCK WRONG: 1 h slow; its samples are kept and move nothing"
    assert narrator.decision_words(decision("clock_wrong", "farm/a", {"wrong": False, "skew_s": 0.0})) == "clock is right again"
    fault = decision("fault", "farm/HOT@1", {"error": "line 1, column 1: no point 'x'"})
    assert narrator.decision_words(fault) == "FAULT: line 1, column 1: no point 'x'"
    reject = Event("reject", "farm/a", {"reason": "unit", "detail": "temp_c: 'F' is not 'C'"})
    assert record_words(reject) == ("farm/a", "REJECTED unit: temp_c: 'F' is not 'C'")


def test_what_says_nothing_to_a_person_is_left_out() -> None:
    assert record_words(Ack("farm/a", "1", "accepted", ""))[1] == ""
    assert record_words(Ack("farm/a", "1", "refused", "locked")) == ("farm/a", "answers refused locked")
    assert record_words(Event("records", "", {}))[1] == ""
    assert record_words(Event("birth", "farm/a", {})) == ("farm/a", "online")
    acknowledged = Request("r", "acknowledge", "ann", {"alarm": "HOT@farm/a"})
    assert record_words(acknowledged) == ("farm/a", "ann: acknowledge HOT")


def test_lines_stand_under_each_other_in_both_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cell_len(line(5 * S, "", "x")) == cell_len(line(5 * S, "farm/a", "x")) == len(line(5 * S, "farm/a", "x"))
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert cell_len(line(5 * S, "", "x")) == cell_len(line(5 * S, "farm/a", "x"))


def test_times_are_those_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Shanghai")
    time.tzset()
    try:
        assert clock_text(5 * S) == "08:00:05"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (119, "119 s"),
        (600, "10 min"),
        (3600, "1 h"),
        (7300, "2 h"),
        (86400 * 2.5, "2.5 days"),
        (2.3e9, "26,620 days"),
    ],
)
def test_lengths_are_told_to_two_figures(seconds: float, text: str) -> None:
    assert length(seconds) == text


def test_the_journal_knows_configuration_and_state_without_a_snapshot(tmp_path: Path) -> None:
    CoreStub.begin(tmp_path).journal.close()
    now = known(tmp_path)
    assert now.plan.sites
    assert now.standing() == 0
    assert now.wrong_clocks == set()


def test_an_expired_calibration_is_told_and_its_end_too(narrator: Narrator, monkeypatch: pytest.MonkeyPatch) -> None:
    def words(expired: bool) -> str:
        return narrator.decision_words(
            decision("calibration", "nursery/climate-1/air_temp_c", {"expired": expired, "expires_ns": 1})
        )

    assert words(True) == "CALIBRATION EXPIRED: the values are kept and marked UNCERTAIN until it is renewed"
    assert words(False) == "calibration is in force again"
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert words(True).startswith("校准过期")


@pytest.mark.parametrize(
    ("body", "en", "zh"),
    [
        ({"panel": "LOCAL", "from": "AUTO"}, "the panel says LOCAL", "现场选择开关：就地"),
        ({"mode": "MANUAL", "reason": "wang: belt"}, "by hand: wang: belt", "手动：wang: belt"),
        (
            {"mode": "MANUAL", "reason": "x", "unsafe": True},
            "UNSAFE by hand, under survival limits: x",
            "手动（不安全，低于存活下限）：x",
        ),
        ({"mode": "AUTO"}, "override over: the rules have it again", "手动结束：恢复自动"),
    ],
)
def test_who_works_an_actuator_is_told(
    narrator: Narrator, monkeypatch: pytest.MonkeyPatch, body: dict[str, object], en: str, zh: str
) -> None:
    told = decision("mode", "farm/h/vent", body)
    monkeypatch.setenv("LC_ALL", "C")
    assert narrator.decision_words(told) == en
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert narrator.decision_words(told) == zh
