"""Deliveries are exactly as many as alarms, across kills and failures; a silent core is an alarm of its own."""

import asyncio
import sqlite3
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec
import pytest

from people.notify import CUT_OFF, TRIES_MAX, WATCHDOG, DeliveryError, DeliveryJournal, Watch, WebhookChannel, deliver, run
from store.journal import Journal
from store.journal_reader import JournalReader
from telemetry.clock import ManualClock
from telemetry.record import Event, Start
from tests.faults.disk import fill, small_disk
from tests.faults.web_world import SECOND_NS, START_NS, Writer, config_record, site

RAISE = (
    "alarm",
    "HOT@north/house-0",
    {"from": "NORM", "to": "UNACK", "event": "raise", "priority": "P2", "message": {"en": "hot"}},
)
ACK = ("alarm", "HOT@north/house-0", {"from": "UNACK", "to": "ACKED", "event": "acknowledge", "priority": "P2"})
CLEAR = ("alarm", "HOT@north/house-0", {"from": "ACKED", "to": "NORM", "event": "clear", "priority": "P2"})


class Recorder:
    name = "log"

    def __init__(self, failures: int = 0) -> None:
        self.sent: list[dict[str, Any]] = []
        self.failures = failures

    def send(self, message: dict[str, Any]) -> None:
        if self.failures:
            self.failures -= 1
            raise DeliveryError("no")
        self.sent.append(message)


class Desk:
    """A journal, a clock and a notify process that can be killed and started."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = ManualClock(START_NS)
        self.journal = Journal(directory / "journal", clock=self.clock)
        self.journal.begin(1)
        self.writer = Writer()
        self.channel = Recorder()
        self.write(records=[Start(1, "test"), config_record(site("north"))])
        self.start()

    def start(self) -> None:
        self.deliveries = DeliveryJournal(self.directory / "notify.sqlite")
        journal = self.directory / "journal"
        self.watch = Watch(lambda: JournalReader(journal), self.deliveries, [self.channel.name], clock=self.clock)

    def write(self, **kwargs: Any) -> None:
        self.journal.append(self.writer.write(**kwargs))

    def rounds(self) -> list[str]:
        while self.watch.round():
            pass
        deliver(self.channel, self.deliveries, self.clock)
        return [f"{m['alarm']} {m['change']}" for m in self.channel.sent]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.deliveries.close()
    made.journal.close()


def test_raise_and_clear_are_told_once_and_an_acknowledgement_is_not(desk: Desk) -> None:
    for decision in (RAISE, ACK, CLEAR):
        desk.write(decisions=[decision])
    assert desk.rounds() == desk.rounds() == ["HOT@north/house-0 raise", "HOT@north/house-0 clear"]


def test_journal_deleted_before_it_was_read_is_an_alarm(desk: Desk) -> None:
    desk.write(records=[Event("follower_cut_off", "", {"before": 4711}), Event("follower_cut_off", "north/house-0", {})])
    assert desk.rounds() == desk.rounds() == [f"{CUT_OFF} raise"]
    text = desk.channel.sent[0]["text"]
    assert "4711" in text["en"]
    assert "4711" in text["zh"]


def test_journal_deleted_before_notify_read_it_is_told_by_itself(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.journal.close()
    desk.journal = Journal(tmp_path / "journal", clock=desk.clock, segment_bytes=1)
    desk.journal.begin(2)
    for _ in range(3):
        desk.journal.append(msgspec.structs.replace(desk.writer.write(decisions=[RAISE]), epoch=2))
    desk.journal.trim(before=desk.journal.last_position)
    assert desk.rounds() == [f"{CUT_OFF} raise", "HOT@north/house-0 raise"]
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
    for _ in range(TRIES_MAX + 2):
        desk.rounds()
        desk.clock.advance(600 * SECOND_NS)
    with sqlite3.connect(desk.directory / "notify.sqlite") as database:
        states = database.execute("SELECT state, tries FROM delivery WHERE cause NOT LIKE 'own/%' ORDER BY number").fetchall()
    database.close()
    assert states == [("delivered", 3), ("failed", TRIES_MAX)]


def test_silent_core_is_alarmed_within_the_limit_and_cleared_when_it_returns(desk: Desk) -> None:
    desk.rounds()
    desk.clock.advance(4 * SECOND_NS)
    assert desk.rounds() == []
    desk.clock.advance(2 * SECOND_NS)
    assert desk.rounds() == desk.rounds() == [f"{WATCHDOG} raise"]
    desk.write()
    assert desk.rounds() == [f"{WATCHDOG} raise", f"{WATCHDOG} clear"]
    assert desk.deliveries.standing_own(WATCHDOG) is None


def test_a_full_disk_neither_ends_it_nor_keeps_the_watchdog_silent(tmp_path: Path) -> None:
    """A disk that is full for notify is full for core too: the alarm that core is silent goes out all the same, once."""
    with small_disk(tmp_path / "disk", 4) as disk:
        desk = Desk(tmp_path)
        desk.deliveries.close()
        desk.deliveries = DeliveryJournal(disk / "notify.sqlite")
        told: list[str] = []
        journal = desk.directory / "journal"
        desk.watch = Watch(
            lambda: JournalReader(journal), desk.deliveries, ["log"], clock=desk.clock, unkept=lambda m: told.append(m["change"])
        )
        desk.write(decisions=[RAISE])
        while desk.watch.round():
            pass
        filler = fill(disk)
        sent: set[int] = set()
        for _ in range(3):  # it arrives once, though nobody can note that it did
            assert not deliver(desk.channel, desk.deliveries, desk.clock, sent)
        assert [message["alarm"] for message in desk.channel.sent] == ["HOT@north/house-0"]
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
        while deliver(desk.channel, desk.deliveries, desk.clock, sent):
            pass
        assert [message["change"] for message in desk.channel.sent] == ["raise", "clear"]
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


class _Hook(BaseHTTPRequestHandler):
    answers: list[int]
    bodies: list[bytes]

    def do_POST(self) -> None:
        type(self).bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        status = type(self).answers.pop(0)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/inside")
        self.end_headers()

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[HTTPServer]:
    _Hook.answers, _Hook.bodies = [], []
    server = HTTPServer(("127.0.0.1", 0), _Hook)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_webhook_takes_2xx_and_refuses_errors_and_redirects(hook: HTTPServer) -> None:
    channel = WebhookChannel(f"http://127.0.0.1:{hook.server_port}/alarm")
    _Hook.answers = [204, 500, 302]
    channel.send({"alarm": "热"})
    for _ in range(2):
        with pytest.raises(DeliveryError):
            channel.send({"alarm": "热"})
    assert _Hook.bodies[0].decode() == '{"alarm": "热"}'


def test_webhook_of_a_strange_scheme_is_refused() -> None:
    with pytest.raises(DeliveryError, match="http"):
        WebhookChannel("file:///etc/passwd")


async def test_process_delivers_and_stops(desk: Desk) -> None:
    desk.write(decisions=[RAISE])
    stop = asyncio.Event()
    desk.deliveries.close()
    task = asyncio.create_task(run(desk.directory, clock=desk.clock, stop=stop))
    async with asyncio.timeout(5):
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
