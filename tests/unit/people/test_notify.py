"""Deliveries are exactly as many as alarms, across kills and failures; a silent core is an alarm of its own."""

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from people.channels import DeliveryError
from people.delivery import TRIES_MAX, DeliveryJournal
from people.notices import CUT_OFF
from people.notify import DEAD, DEAD_AFTER, TEST_FAILED, WATCHDOG, Watch, deliver, run
from people.roster import NotifyConfig, log_only
from people.self_test import ANSWER_MS
from store.journal import Journal
from store.journal_reader import JournalReader
from telemetry.clock import ManualClock
from telemetry.record import Event, Start
from tests.faults.disk import fill, small_disk
from tests.faults.process import DEADLINE_S
from tests.faults.web_world import SECOND_NS, START_NS, Writer, config_record, site

RAISE = (
    "alarm",
    "HOT@north/house-0",
    {"from": "NORM", "to": "UNACK", "event": "raise", "priority": "P2", "message": {"en": "hot"}},
)
ACK = ("alarm", "HOT@north/house-0", {"from": "UNACK", "to": "ACKED", "event": "acknowledge", "priority": "P2"})
CLEAR = ("alarm", "HOT@north/house-0", {"from": "ACKED", "to": "NORM", "event": "clear", "priority": "P2"})


class Recorder:
    """Keeps what is sent; fails as often as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.sent: list[dict[str, Any]] = []
        self.failures = failures

    def send(self, message: dict[str, Any], _address: str, _language: str) -> None:
        if self.failures:
            self.failures -= 1
            raise DeliveryError("no")
        self.sent.append(message)

    def lines(self) -> list[dict[str, Any]]:
        return [line for message in self.sent for line in message["lines"]]

    def told(self) -> list[str]:
        return [f"{line['alarm']} {line['change']}" for line in self.lines()]


class Desk:
    """A journal, a clock and a notify process that can be killed and started."""

    def __init__(self, directory: Path, config: NotifyConfig | None = None) -> None:
        self.directory = directory
        self.config = config or log_only()
        self.requests: list[str] = []
        self.skew_ns = 0  # by which the wall clock is ahead
        self.clock = ManualClock(START_NS)
        self.journal = Journal(directory / "journal", clock=self.clock)
        self.journal.begin(1)
        self.writer = Writer()
        self.channel = Recorder()
        self.others = {name: Recorder() for name in self.config.channels if name != "log"}
        self.write(records=[Start(1, "test"), config_record(site("north"))])
        self.start()

    def start(self) -> None:
        self.deliveries = DeliveryJournal(self.directory / "notify.sqlite")
        journal = self.directory / "journal"
        self.watch = Watch(
            lambda: JournalReader(journal),
            self.deliveries,
            self.config,
            clock=self.clock,
            wall=lambda: self.clock.now_ns() + self.skew_ns,
            ask=lambda request: self.requests.append(request.id),
        )

    def write(self, **kwargs: Any) -> None:
        self.journal.append(self.writer.write(**kwargs))

    def rounds(self) -> list[str]:
        while self.watch.round():
            pass
        for name, recorder in [("log", self.channel), *self.others.items()]:
            deliver(name, recorder, self.deliveries, self.clock)
        return self.channel.told()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.deliveries.close()
    made.journal.close()


def test_raise_and_clear_are_told_once_and_an_acknowledgement_is_not(desk: Desk) -> None:
    for decision in (RAISE, ACK, CLEAR):
        desk.write(decisions=[decision])
        desk.rounds()
    assert desk.rounds() == ["HOT@north/house-0 raise", "HOT@north/house-0 clear"]


def test_what_was_acknowledged_before_notify_started_is_not_told(desk: Desk) -> None:
    for decision in (RAISE, ACK):
        desk.write(decisions=[decision])
    assert desk.rounds() == []


def test_shadow_comments_and_suppression_are_not_told(desk: Desk) -> None:
    name = "HOT@north/house-0"
    desk.write(decisions=[("shadow", name, {"from": "NORM", "to": "UNACK", "event": "raise", "priority": "P1"})])
    desk.write(decisions=[("alarm", name, {"from": "NORM", "to": "DSUPR", "event": "suppress", "priority": "P2"})])
    desk.write(decisions=[("alarm", name, {"from": "DSUPR", "to": "NORM", "event": "unsuppress", "priority": "P2"})])
    desk.write(decisions=[("alarm", name, {"from": "UNACK", "to": "UNACK", "event": "comment", "priority": "P2"})])
    assert desk.rounds() == []


def test_journal_deleted_before_it_was_read_is_an_alarm(desk: Desk) -> None:
    desk.write(records=[Event("follower_cut_off", "", {"before": 4711}), Event("follower_cut_off", "north/house-0", {})])
    assert desk.rounds() == desk.rounds() == [f"{CUT_OFF} raise"]
    text = desk.channel.lines()[0]["text"]
    assert "4711" in text["en"]
    assert "4711" in text["zh"]


def test_journal_deleted_before_notify_read_it_is_told_by_itself(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.write(decisions=[("alarm", "OLD@north/house-0", {"from": "NORM", "to": "UNACK", "event": "raise", "priority": "P1"})])
    desk.rounds()
    desk.journal.close()
    desk.journal = Journal(tmp_path / "journal", clock=desk.clock, segment_bytes=1)
    desk.journal.begin(2)
    for _ in range(3):
        desk.journal.append(msgspec.structs.replace(desk.writer.write(decisions=[RAISE]), epoch=2))
    desk.journal.trim(before=desk.journal.last_position)
    assert desk.rounds()[1:] == [f"{CUT_OFF} raise", "HOT@north/house-0 raise"]
    for _ in range(3):
        desk.clock.advance(300 * SECOND_NS)
        desk.journal.append(msgspec.structs.replace(desk.writer.write(), epoch=2))
        desk.rounds()
    assert "OLD@north/house-0 repeat" not in desk.channel.told(), "it may have ended in the gap"
    desk.deliveries.close()
    desk.journal.close()


def test_kill_between_rounds_neither_loses_nor_doubles(desk: Desk) -> None:
    desk.write(decisions=[RAISE])
    desk.rounds()
    desk.deliveries.close()
    desk.write(decisions=[CLEAR])
    desk.start()
    assert desk.rounds() == ["HOT@north/house-0 raise", "HOT@north/house-0 clear"]


def test_failed_delivery_is_tried_again_with_backoff_and_then_given_up(desk: Desk) -> None:
    desk.channel.failures = 2
    desk.write(decisions=[RAISE])
    assert desk.rounds() == []
    for _ in range(3):
        desk.clock.advance(4 * SECOND_NS)
        desk.write()
        desk.rounds()
    assert desk.rounds() == ["HOT@north/house-0 raise"]
    desk.channel.failures = 10**6
    desk.write(decisions=[CLEAR])
    for _ in range(300):
        desk.write()
        desk.rounds()
        desk.clock.advance(2 * SECOND_NS)
    with sqlite3.connect(desk.directory / "notify.sqlite") as database:
        states = database.execute("SELECT state, tries FROM delivery WHERE cause NOT LIKE '%own/%' ORDER BY number").fetchall()
    database.close()
    assert states == [("delivered", 3), ("failed", TRIES_MAX)]


def test_of_a_first_out_group_the_first_is_told_and_every_p1(desk: Desk) -> None:
    for name, first, priority in [("FIRST", True, "P2"), ("SECOND", False, "P2"), ("WORST", False, "P1")]:
        body = {"from": "NORM", "to": "UNACK", "event": "raise", "priority": priority, "first_out": first}
        desk.write(decisions=[("alarm", f"{name}@north/house-0", body)])
        desk.rounds()
    desk.write(decisions=[("alarm", "SECOND@north/house-0", {"from": "UNACK", "to": "RTNUN", "event": "clear", "priority": "P2"})])
    assert desk.rounds() == ["FIRST@north/house-0 raise", "WORST@north/house-0 raise"]


def test_alarm_that_stands_when_its_suppression_ends_is_told(desk: Desk) -> None:
    name = "HOT@north/house-0"
    desk.write(decisions=[("alarm", name, {"from": "UNACK", "to": "DSUPR", "event": "suppress", "priority": "P2"})])
    assert desk.rounds() == []
    desk.write(decisions=[("alarm", name, {"from": "DSUPR", "to": "UNACK", "event": "unsuppress", "priority": "P2"})])
    assert desk.rounds() == [f"{name} raise"]


TWO_WAYS = {
    "channels": {"log": {"kind": "log"}, "sms": {"kind": "command", "argv": ["/bin/true"], "test": False}},
    "contacts": {"wang": {"via": [{"channel": "log"}]}, "li": {"via": [{"channel": "log"}, {"channel": "sms", "address": "138"}]}},
    "policies": [{"steps": {"P1": [{"tell": ["li"]}], "P2": [{"tell": ["li"]}], "P3": [{"tell": ["wang"]}]}}],
    "group_s": 0,
    "self_test": {"at": "08:30", "tell": ["li"]},
}


@pytest.fixture
def two_ways(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, NotifyConfig.model_validate(TWO_WAYS))
    yield made
    made.deliveries.close()
    made.journal.close()


def test_dead_channel_is_an_alarm_over_the_others_until_something_arrives_again(two_ways: Desk) -> None:
    desk, name = two_ways, f"{DEAD}@sms"
    desk.others["sms"].failures = DEAD_AFTER
    desk.write(decisions=[RAISE])
    for _ in range(10):
        desk.rounds()
        desk.clock.advance(2 * SECOND_NS)
        desk.write()
    assert desk.rounds() == ["HOT@north/house-0 raise", f"{name} raise", f"{name} clear"]
    assert desk.others["sms"].told() == ["HOT@north/house-0 raise"]
    assert "sms" in desk.channel.lines()[1]["text"]["en"]


def test_flood_is_told_in_place_of_its_p3(two_ways: Desk) -> None:
    desk = two_ways
    desk.write(decisions=[("flood", "north/ms", {"event": "raise", "from": "NORM", "to": "UNACK", "count": 11})])
    for number in range(3):
        body = {"from": "NORM", "to": "UNACK", "event": "raise", "priority": "P3", "area": "ms"}
        desk.write(decisions=[("alarm", f"DRY@north/house-{number}", body)])
        desk.rounds()
    assert desk.rounds() == ["FLOOD@north/ms raise"]
    desk.write(
        decisions=[("alarm", "DRY@north/house-1", {"from": "UNACK", "to": "ACKED", "event": "acknowledge", "priority": "P3"})]
    )
    desk.write(decisions=[("flood", "north/ms", {"event": "clear", "from": "UNACK", "to": "NORM", "count": 14})])
    assert sorted(desk.rounds()[1:]) == ["DRY@north/house-0 raise", "DRY@north/house-2 raise", "FLOOD@north/ms clear"]
    assert len([m for m in desk.channel.sent if m["contact"] == "wang"]) == 1


def answer(desk: Desk, request: str) -> None:
    desk.write(decisions=[("answer", request, {"accepted": True, "reason": "", "request": "alarm_test"})])


def test_planned_self_test_goes_through_core_and_is_recorded(two_ways: Desk) -> None:
    desk = two_ways  # its clock begins at 08:00 in Shanghai
    desk.rounds()
    assert desk.requests == []
    desk.clock.advance(1800 * SECOND_NS)
    desk.write()
    desk.rounds()
    desk.rounds()
    assert len(desk.requests) == 1
    assert not [line for line in desk.channel.told() if line.startswith("TEST")]
    answer(desk, desk.requests[0])
    desk.rounds()
    desk.rounds()
    [test] = desk.deliveries.tests()
    assert (test.state, test.detail) == ("passed", "1 of 1 arrived")
    assert desk.channel.told().count("TEST test") == 1
    assert desk.others["sms"].told() == [], "a channel that takes no part in tests"


def test_wall_clock_that_is_set_moves_the_plan(two_ways: Desk) -> None:
    desk = two_ways
    desk.rounds()
    desk.skew_ns = 1800 * SECOND_NS  # somebody sets the clock, and it is half past eight
    desk.write()
    desk.rounds()
    assert len(desk.requests) == 1


def test_deliveries_dated_by_a_clock_that_was_ahead_do_not_wait_for_it(desk: Desk) -> None:
    desk.channel.failures = 1
    desk.write(decisions=[RAISE])
    desk.rounds()
    desk.deliveries.close()
    desk.clock = ManualClock(START_NS - 86_400 * SECOND_NS)  # the machine's clock was a day ahead
    desk.start()
    assert "HOT@north/house-0 raise" in desk.rounds()


def test_self_test_that_core_does_not_answer_is_an_alarm_until_one_passes(two_ways: Desk) -> None:
    desk = two_ways
    desk.clock.advance(1800 * SECOND_NS)
    desk.write()
    desk.rounds()
    for _ in range(ANSWER_MS // 4000 + 2):
        desk.write()
        desk.rounds()
        desk.clock.advance(4 * SECOND_NS)
    assert f"{TEST_FAILED} raise" in desk.rounds()
    answer(desk, "wang.0123456789")  # a person asks for another one
    for _ in range(3):
        desk.rounds()
    assert [test.state for test in desk.deliveries.tests()] == ["passed", "failed"]
    assert desk.rounds()[-1] == f"{TEST_FAILED} clear"


def test_self_test_that_should_have_run_while_notify_was_down_runs_late_and_is_an_alarm(two_ways: Desk) -> None:
    desk = two_ways
    desk.clock.advance(1800 * SECOND_NS)
    desk.write()
    desk.rounds()
    answer(desk, desk.requests[0])
    desk.rounds()
    desk.rounds()
    desk.deliveries.close()
    desk.clock.advance((86_400 + 3600) * SECOND_NS)
    desk.start()
    desk.write()
    desk.rounds()
    desk.rounds()
    assert f"{TEST_FAILED} raise" in desk.channel.told()
    answer(desk, desk.requests[-1])
    desk.rounds()
    desk.rounds()
    desk.rounds()
    assert desk.channel.told()[-1] == f"{TEST_FAILED} clear"
    assert desk.deliveries.tests()[0].detail.startswith("began 60 min after its time")


def test_tests_of_long_ago_are_not_run_again_by_a_new_file(two_ways: Desk) -> None:
    desk = two_ways
    answer(desk, "wang.0123456789")
    desk.clock.advance((ANSWER_MS // 1000 + 60) * SECOND_NS)
    desk.rounds()
    assert desk.deliveries.tests() == []


def test_channel_that_swallows_the_test_fails_it(two_ways: Desk) -> None:
    desk = two_ways
    answer(desk, "wang.0123456789")
    desk.channel.failures = 10**6
    for _ in range(40):
        desk.write()
        desk.rounds()
        desk.clock.advance(4 * SECOND_NS)
    [test] = desk.deliveries.tests()
    assert (test.state, test.detail) == ("failed", "not arrived: log (li)")


def test_silent_core_is_alarmed_within_the_limit_and_cleared_when_it_returns(desk: Desk) -> None:
    desk.rounds()
    desk.clock.advance(4 * SECOND_NS)
    assert desk.rounds() == []
    desk.clock.advance(2 * SECOND_NS)
    assert desk.rounds() == desk.rounds() == [f"{WATCHDOG} raise"]
    desk.write()
    assert desk.rounds() == [f"{WATCHDOG} raise", f"{WATCHDOG} clear"]
    assert desk.deliveries.standing_own() == set()


def test_a_full_disk_neither_ends_it_nor_keeps_the_watchdog_silent(tmp_path: Path) -> None:
    """A disk that is full for notify is full for core too: the alarm that core is silent goes out all the same, once."""
    with small_disk(tmp_path / "disk", 4) as disk:
        desk = Desk(tmp_path)
        desk.deliveries.close()
        desk.deliveries = DeliveryJournal(disk / "notify.sqlite")
        told: list[str] = []
        journal = desk.directory / "journal"
        desk.watch = Watch(
            lambda: JournalReader(journal),
            desk.deliveries,
            desk.config,
            clock=desk.clock,
            unkept=lambda message: told.extend(line.change for line in message.lines),
        )
        desk.write(decisions=[RAISE])
        while desk.watch.round():
            pass
        filler = fill(disk)
        sent: set[int] = set()
        for _ in range(3):  # it arrives once, though nobody can note that it did
            assert not deliver("log", desk.channel, desk.deliveries, desk.clock, sent)
        assert desk.channel.told() == ["HOT@north/house-0 raise"]
        for _ in range(3):
            desk.clock.advance(4 * SECOND_NS)
            assert not desk.watch.round()
        assert told == ["raise"]
        filler.unlink()
        desk.clock.advance(SECOND_NS)
        desk.write(decisions=[CLEAR])
        while desk.watch.round():
            pass
        assert told == ["raise", "clear"]
        while deliver("log", desk.channel, desk.deliveries, desk.clock, sent):
            pass
        assert desk.channel.told() == ["HOT@north/house-0 raise", "HOT@north/house-0 clear"]
        desk.deliveries.close()
        desk.journal.close()


def test_watchdog_alarm_survives_a_restart_of_notify(desk: Desk) -> None:
    desk.rounds()
    desk.clock.advance(6 * SECOND_NS)
    desk.rounds()
    desk.deliveries.close()
    desk.start()
    for _ in range(3):
        assert desk.rounds() == [f"{WATCHDOG} raise"]
        desk.clock.advance(6 * SECOND_NS)
    desk.write()
    assert desk.rounds() == [f"{WATCHDOG} raise", f"{WATCHDOG} clear"]


async def test_process_delivers_and_stops(desk: Desk) -> None:
    desk.write(decisions=[RAISE])
    stop = asyncio.Event()
    desk.deliveries.close()
    task = asyncio.create_task(
        run(desk.directory, log_only(), lambda _secret: "", clock=desk.clock, wall=desk.clock.now_ns, stop=stop)
    )
    async with asyncio.timeout(DEADLINE_S):
        while not _delivered(desk.directory):  # noqa: ASYNC110 -- what is waited for happens in another thread's file
            await asyncio.sleep(0.02)
        stop.set()
        await task
    desk.start()


def _delivered(directory: Path) -> int:
    database = sqlite3.connect(directory / "notify.sqlite")
    try:
        return int(database.execute("SELECT count(*) FROM delivery WHERE state = 'delivered'").fetchone()[0])
    finally:
        database.close()
