"""Who is told what and when, on a virtual clock, with kills at every place; and nothing lost, nothing twice, for any interleaving."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from people.escalation import LINES_KEPT, Change, Escalation, Ladder, Line, Message
from people.roster import MS_PER_MIN, NotifyConfig

ZONE = ZoneInfo("Asia/Shanghai")
START_MS = int(datetime(2026, 1, 5, 12, tzinfo=ZONE).timestamp() * 1000)  # a Monday at noon
EVENTS = {
    "raise": {"NORM": "UNACK", "RTNUN": "UNACK"},
    "acknowledge": {"UNACK": "ACKED", "RTNUN": "NORM"},
    "clear": {"UNACK": "RTNUN", "ACKED": "NORM"},
    "shelve": {"UNACK": "SHLVD", "ACKED": "SHLVD", "RTNUN": "SHLVD"},
    "unshelve": {"SHLVD": "UNACK"},
}


def config(**more: Any) -> NotifyConfig:
    made = NotifyConfig.model_validate(
        {
            "channels": {"log": {"kind": "log"}},
            "contacts": {name: {"via": [{"channel": "log"}], **more.pop(name, {})} for name in ("wang", "li", "boss")},
            "rosters": {
                "duty": {
                    "weekly": [{"days": ["mon", "tue"], "start": "20:00", "end": "06:00", "contact": "li"}],
                    "otherwise": "wang",
                }
            },
            "policies": [
                {"site": "farm", "area": "pen", "steps": {"P2": [{"tell": ["boss"]}]}},
                {
                    "steps": {
                        "P1": [{"tell": ["wang"]}, {"after_min": 5, "tell": ["boss"]}],
                        "P2": [{"tell": ["wang"]}, {"after_min": 15, "tell": ["li"]}],
                        "P3": [{"tell": ["wang"]}],
                    }
                },
            ],
            **more,
        }
    )
    assert list(made.problems()) == []
    return made


@dataclass
class Desk:
    """Alarms of a little plant, and whoever tells of them. Kept as notify keeps it: state and messages together, or neither."""

    config: NotifyConfig = field(default_factory=config)
    now_ms: int = START_MS
    rows: dict[str, bytes] = field(default_factory=dict)
    told: list[Message] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.escalation = Escalation(self.config, self.rows)

    def change(self, event: str, alarm: str = "HOT", priority: str = "P2", area: str = "house") -> Change | None:
        """One change, as core would decide it; None where it does nothing."""
        before = self.states.get(alarm, "NORM")
        to = EVENTS[event].get(before)
        if to is None:
            return None
        self.states[alarm], self.count = to, self.count + 1
        texts = {"en": alarm}
        change = Change(f"{self.count}", alarm, "farm", area, priority, event, to, self.now_ms, self.now_ms, texts)
        self.escalation.take(change, self.now_ms)
        return change

    def pass_min(self, minutes: float) -> list[str]:
        """Let time pass in steps of a second or more; what was told in it."""
        before, end_ms = len(self.told), self.now_ms + int(minutes * MS_PER_MIN)
        while self.now_ms < end_ms:
            self.now_ms += min(1000 if minutes < 5 else 10_000, end_ms - self.now_ms)
            self.keep()
        return [words(message) for message in self.told[before:]]

    def keep(self) -> list[str]:
        messages = self.escalation.advance(self.now_ms)
        for key, row in self.escalation.unsaved().items():
            if row is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = row
        self.told += messages
        return [words(message) for message in messages]

    def kill(self) -> None:
        """Go on from what was kept."""
        self.escalation = Escalation(self.config, self.rows)


def words(message: Message) -> str:
    lines = ", ".join(f"{line.alarm} {line.change}" for line in message.lines)
    return f"{message.contact}: {lines}" + (f" +{message.more}" if message.more else "")


def test_steps_follow_until_it_is_acknowledged() -> None:
    desk = Desk()
    desk.change("raise")
    assert desk.pass_min(0.9) == []
    assert desk.pass_min(0.2) == ["wang: HOT raise"]
    assert desk.pass_min(13.7) == []
    assert desk.pass_min(1.3) == ["li: HOT raise"]
    assert desk.pass_min(60) == []
    desk.change("acknowledge")
    desk.change("clear")
    assert desk.pass_min(2) == ["wang: HOT clear", "li: HOT clear"]
    assert desk.rows.keys() == {"box:wang", "box:li"}


def ladder(desk: Desk, alarm: str = "HOT") -> tuple[list[str], int, float | None, list[str]]:
    """(told, steps taken, minutes from the start until the next, whom it tells), as others read it."""
    found = msgspec.json.decode(desk.rows[f"alarm:{alarm}"], type=Ladder)
    return found.told, found.step, None if found.next_ms is None else (found.next_ms - START_MS) / MS_PER_MIN, found.next_to


def test_what_is_kept_says_who_was_told_and_what_comes_next() -> None:
    desk = Desk()
    desk.change("raise")
    desk.keep()
    assert ladder(desk) == ([], 1, 15, ["li"])
    desk.pass_min(1.1)
    assert ladder(desk) == (["wang"], 1, 15, ["li"])
    desk.config = config(
        policies=[{"steps": {"P1": [{"tell": ["wang"]}], "P2": [{"tell": ["wang"]}, {"after_min": 9, "tell": ["duty"]}]}}]
    )
    desk.kill()
    desk.keep()
    assert ladder(desk) == (["wang"], 1, 9, ["duty"])  # another configuration, at once
    desk.pass_min(10)
    assert ladder(desk) == (["wang"], 2, None, [])
    desk.change("acknowledge")
    desk.keep()
    assert ladder(desk) == (["wang"], 2, None, [])


def test_a_p1_says_when_it_is_told_again_and_a_cleared_alarm_says_nothing_more() -> None:
    desk = Desk()
    desk.change("raise", "FIRE", "P1")
    desk.change("raise", "HOT")
    desk.pass_min(5.1)
    assert ladder(desk, "FIRE")[2:] == (5 + desk.config.repeat_min, ["wang", "boss"])
    desk.change("clear")
    desk.pass_min(1)
    assert ladder(desk) == (["wang"], 1, None, [])


def test_acknowledged_in_time_stops_the_next_step() -> None:
    desk = Desk()
    desk.change("raise")
    desk.pass_min(2)
    desk.change("acknowledge")
    assert desk.pass_min(60) == []


@pytest.mark.parametrize("event", ["acknowledge", "shelve"])
def test_taken_in_hand_before_anybody_was_told_is_not_told(event: str) -> None:
    desk = Desk()
    desk.change("raise")
    desk.keep()
    desk.change(event)
    assert desk.pass_min(60) == []


def test_p1_is_told_at_once_and_again_until_it_is_acknowledged_even_when_it_has_cleared() -> None:
    desk = Desk()
    desk.change("raise", priority="P1")
    assert desk.keep() == ["wang: HOT raise"]
    assert desk.pass_min(5) == ["boss: HOT raise"]
    assert desk.pass_min(5) == ["wang: HOT repeat", "boss: HOT repeat"]
    desk.change("clear", priority="P1")
    assert desk.keep() == ["wang: HOT clear", "boss: HOT clear"]
    assert desk.pass_min(5) == ["wang: HOT repeat", "boss: HOT repeat"]
    desk.change("acknowledge", priority="P1")
    assert desk.pass_min(30) == []
    assert "alarm:HOT" not in desk.rows


def test_chattering_p1_still_reaches_its_second_step() -> None:
    desk = Desk()
    for _ in range(4):
        desk.change("raise", priority="P1")
        desk.pass_min(1)
        desk.change("clear", priority="P1")
        desk.pass_min(1)
    assert "boss: HOT raise" in [words(message) for message in desk.told]


def test_p2_that_cleared_rests_and_goes_on_when_it_comes_back() -> None:
    desk = Desk()
    desk.change("raise")
    desk.pass_min(2)
    desk.change("clear")
    assert desk.pass_min(20) == ["wang: HOT clear"]
    desk.change("raise")
    assert desk.pass_min(2) == ["wang: HOT raise", "li: HOT raise"]


def test_alarm_that_cleared_within_its_group_time_is_one_line_with_both() -> None:
    desk = Desk()
    desk.change("raise")
    desk.pass_min(0.5)
    desk.change("clear")
    assert desk.pass_min(2) == ["wang: HOT clear"]
    line = desk.told[0].lines[0]
    assert line.time_ms - line.raised_ms == 30_000


def test_alarms_of_one_area_within_a_minute_are_one_message() -> None:
    desk = Desk()
    desk.change("raise", "A")
    desk.pass_min(0.5)
    desk.change("raise", "B")
    desk.change("raise", "C", area="other")
    assert desk.pass_min(0.55) == ["wang: A raise, B raise"]
    assert desk.pass_min(0.5) == ["wang: C raise"]


def test_first_policy_that_fits_decides() -> None:
    desk = Desk()
    desk.change("raise", area="pen")
    desk.change("raise", "LOW", priority="P4", area="pen")
    assert desk.pass_min(2) == ["boss: HOT raise"]


def test_shelved_alarm_that_comes_back_is_told() -> None:
    desk = Desk()
    desk.change("raise")
    desk.pass_min(2)
    desk.change("shelve")
    desk.pass_min(60)
    desk.change("unshelve")
    assert desk.pass_min(2) == ["wang: HOT raise"]


def test_quiet_hours_hold_p3_for_one_summary_and_never_p1_and_p2() -> None:
    desk = Desk(config(quiet={"start": "22:00", "end": "06:30"}, li={"quiet": False}))
    desk.pass_min(10 * 60 + 30)  # half past ten in the evening
    desk.change("raise", "A", "P3")
    desk.change("raise", "B", "P3", area="other")
    desk.change("raise", "C", "P3")
    desk.change("raise", "D", "P2")
    desk.change("raise", "E", "P1")
    assert desk.pass_min(2) == ["wang: E raise", "wang: D raise"]
    desk.change("acknowledge", "C", "P3")
    for name in ("D", "E"):
        desk.change("acknowledge", name)
    assert desk.pass_min(7 * 60 + 57) == []
    assert desk.pass_min(2) == ["wang: A raise, B raise"]


def test_rate_limit_ends_in_a_summary_and_p1_passes() -> None:
    desk = Desk(config(wang={"rate": {"messages": 3, "minutes": 60}}, group_s=0))
    for number in range(50):
        desk.change("raise", f"N{number}", "P3", area=f"area-{number}")
        desk.pass_min(0.02)
    desk.change("raise", "FIRE", "P1")
    desk.keep()
    assert [words(m) for m in desk.told] == [*(f"wang: N{number} raise" for number in range(3)), "wang: FIRE raise"]
    desk.change("acknowledge", "FIRE", "P1")
    desk.pass_min(61)
    assert len(desk.told) == 5
    assert len(desk.told[-1].lines) == 47


def test_more_than_is_kept_is_counted_and_the_most_urgent_stay() -> None:
    desk = Desk(config(quiet={"start": "11:00", "end": "13:00"}))
    for number in range(LINES_KEPT + 37):
        desk.change("raise", f"N{number}", "P3")
        desk.keep()
    desk.change("raise", "LAST", "P2")
    desk.pass_min(2)
    assert words(desk.told[0]) == "wang: LAST raise +38"
    desk.pass_min(62)
    assert len(desk.told[-1].lines) == LINES_KEPT - 1


def test_message_of_many_p1_is_bounded_and_counts_them_all() -> None:
    desk = Desk()
    for number in range(LINES_KEPT + 37):
        desk.change("raise", f"N{number}", "P1")
    desk.keep()
    [message] = desk.told
    assert (len(message.lines), message.more) == (LINES_KEPT, 37)
    desk.change("clear", f"N{LINES_KEPT + 36}", "P1")
    assert desk.keep() == [f"wang: N{LINES_KEPT + 36} clear"], "who was only counted was told too"


def test_time_that_went_back_keeps_nobody_waiting() -> None:
    desk = Desk(config(wang={"rate": {"messages": 1, "minutes": 60}}))
    desk.change("raise", "FIRE", "P1")
    desk.pass_min(6)
    desk.change("raise", "OLD", "P3")
    desk.pass_min(2)
    desk.change("raise", "HOT", "P2", area="other")
    desk.keep()
    told = len(desk.told)
    desk.now_ms -= 86_400_000
    desk.kill()
    assert desk.pass_min(1.1) == ["wang: HOT raise"], "neither its group nor the rate waits for a time of tomorrow"
    assert desk.pass_min(5) == ["wang: FIRE repeat", "boss: FIRE repeat"]
    assert len(desk.told) == told + 3


def test_flood_holds_p3_and_not_p2() -> None:
    desk = Desk()
    desk.escalation.flood("farm/house", is_on=True)
    desk.change("raise", "A", "P3")
    desk.change("raise", "B", "P2")
    desk.change("raise", "C", "P3", area="other")
    assert desk.pass_min(5) == ["wang: B raise", "wang: C raise"]
    desk.kill()
    assert desk.pass_min(5) == []
    desk.escalation.flood("farm/house", is_on=False)
    assert desk.pass_min(1) == ["wang: A raise"]


def test_row_of_another_build_is_forgotten_and_the_rest_goes_on() -> None:
    desk = Desk()
    desk.change("raise")
    desk.change("raise", "OTHER")
    desk.keep()
    desk.rows |= {"alarm:HOT": b'{"cause":1}', "box:boss": b"no json", "box:nobody": b"{}"}
    desk.kill()
    assert desk.escalation.unreadable == ["alarm:HOT", "box:boss"]
    assert desk.pass_min(16) == ["wang: HOT raise, OTHER raise", "li: OTHER raise"]


@pytest.mark.parametrize(
    ("when", "who"),
    [
        ((2026, 1, 5, 19, 59), "wang"), ((2026, 1, 5, 20, 0), "li"), ((2026, 1, 6, 5, 59), "li"), ((2026, 1, 6, 6, 0), "wang"),
        ((2026, 1, 7, 3, 0), "li"), ((2026, 1, 7, 21, 0), "wang"), ((2026, 1, 8, 3, 0), "wang"), ((2026, 1, 12, 21, 0), "boss"),
    ],
)  # fmt: skip
def test_roster_by_week_over_midnight_and_override(when: tuple[int, ...], who: str) -> None:
    made = config()
    duty = made.rosters["duty"].model_dump() | {"overrides": [{"day": "2026-01-10", "until": "2026-01-12", "contact": "boss"}]}
    made = NotifyConfig.model_validate(made.model_dump() | {"rosters": {"duty": duty}})
    year, month, day, hour, minute = when
    now_ms = int(datetime(year, month, day, hour, minute, tzinfo=ZONE).timestamp() * 1000)
    assert made.on_duty(["duty", "boss"], now_ms) == list(dict.fromkeys([who, "boss"]))


STEPS = st.one_of(
    st.tuples(st.sampled_from(list(EVENTS)), st.sampled_from(["A1", "B2", "C2", "D3", "E3"])),
    st.tuples(st.just("wait"), st.sampled_from([1, 20, 61, 301, 901])),
    st.tuples(st.just("wait"), st.sampled_from([61, 301, 901])),
    st.tuples(st.just("flood"), st.booleans()),
)


def play(steps: list[tuple[tuple[str, Any], bool]], *, kills: bool) -> Desk:
    """With `kills`: killed after each step that is marked so."""
    desk = Desk(config(quiet={"start": "12:10", "end": "12:40"}, wang={"rate": {"messages": 4, "minutes": 10}}))
    for (what, which), is_killed in steps:
        if what == "wait":
            desk.now_ms += which * 1000
        elif what == "flood":
            desk.escalation.flood("farm/house", is_on=which)
        else:
            desk.change(what, which, f"P{which[1]}", "other" if which == "E3" else "house")
        desk.keep()
        if is_killed and kills:
            desk.kill()
    return desk


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(STEPS, st.booleans()), max_size=60))
def test_any_interleaving_loses_nothing_and_tells_nothing_twice(steps: list[tuple[tuple[str, Any], bool]]) -> None:
    desk, whole = play(steps, kills=True), play(steps, kills=False)
    assert [(m.id, words(m)) for m in desk.told] == [(m.id, words(m)) for m in whole.told], "a kill changed what was told"
    assert desk.rows == whole.rows, "a kill changed what is remembered"
    covers = Counter((message.contact, cover) for message in desk.told for line in message.lines for cover in line.covers)
    assert not [cover for cover, count in covers.items() if count > 1]
    assert len({message.id for message in desk.told}) == len(desk.told)
    desk.escalation.flood("farm/house", is_on=False)
    told_before = len(desk.told)
    desk.pass_min(120)  # quiet hours, rates and steps are over
    later = {(line.alarm) for message in desk.told[told_before:] for line in message.lines}
    for alarm, state in desk.states.items():
        if state == "UNACK":  # it still waits for somebody: everybody of its steps has heard of it
            for contact in {"1": ("wang", "boss"), "2": ("wang", "li"), "3": ("wang",)}[alarm[1]]:
                assert _last(desk, contact, alarm) in {"raise", "repeat"}, (contact, alarm)
        if state in {"ACKED", "SHLVD"}:
            assert alarm not in later or _is_only_clear(desk.told[told_before:], alarm)


def _last(desk: Desk, contact: str, alarm: str) -> str:
    lines: list[Line] = [line for m in desk.told if m.contact == contact for line in m.lines if line.alarm == alarm]
    return lines[-1].change if lines else "never"


def _is_only_clear(messages: list[Message], alarm: str) -> bool:
    return all(line.change == "clear" for message in messages for line in message.lines if line.alarm == alarm)
