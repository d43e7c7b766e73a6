import os
import signal
import subprocess
import sys
import time

import pytest

from store.inbox import Inbox
from telemetry.record import Request

STOPPED_WRITER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("INSERT INTO request (id, body) VALUES ('half', x'00')")
print("inside", flush=True)
sys.stdin.read()
"""


def make_request(name: str) -> Request:
    return Request(name, "acknowledge", "wang", {"alarm": "MS-T-HH@nursery/ms-1"})


def test_requests_are_taken_in_order_once_and_known_ids_refused(tmp_path):
    inbox, reader = Inbox(tmp_path / "inbox.sqlite"), Inbox.open_reader(tmp_path / "inbox.sqlite")
    assert inbox.put(make_request("a"))
    assert inbox.put(make_request("b"))
    assert not inbox.put(make_request("a"))
    assert reader.take(0, 10) == [(1, make_request("a")), (2, make_request("b"))]
    assert reader.take(0, 1) == [(1, make_request("a"))]
    assert reader.take(2, 10) == []
    reader.close()
    inbox.close()


def test_numbers_are_not_used_again_after_forgetting(tmp_path):
    inbox = Inbox(tmp_path / "inbox.sqlite")
    inbox.put(make_request("a"))
    assert inbox.forget(1) == 1
    inbox.put(make_request("b"))
    reader = Inbox.open_reader(tmp_path / "inbox.sqlite")
    assert [number for number, _ in reader.take(0, 10)] == [2]
    reader.close()
    inbox.close()


def test_reader_before_the_writer_finds_nothing(tmp_path):
    reader = Inbox.open_reader(tmp_path / "inbox.sqlite")
    assert reader.take(0, 10) == []
    (tmp_path / "inbox.sqlite").touch()
    assert reader.take(0, 10) == []


@pytest.mark.alone
def test_writer_stopped_inside_an_insert_does_not_block_the_reader(tmp_path):
    path = tmp_path / "inbox.sqlite"
    inbox, reader = Inbox(path), Inbox.open_reader(path)
    inbox.put(make_request("a"))
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED_WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        try:
            assert writer.stdout.readline() == "inside\n"
            os.kill(writer.pid, signal.SIGSTOP)
            for _ in range(20):
                before = time.perf_counter()
                assert len(reader.take(0, 10)) == 1
                assert time.perf_counter() - before < 0.05
            fresh = Inbox.open_reader(path)
            assert len(fresh.take(0, 10)) == 1
            fresh.close()
        finally:
            writer.kill()
    assert inbox.put(make_request("b"))  # a killed writer's lock is gone
    assert len(reader.take(0, 10)) == 2
    reader.close()
    inbox.close()
