"""Files of a history that an earlier or a later version wrote."""

import contextlib
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest

from store.duckdb_history import DuckDBHistory
from store.history import SCHEMA, History, HistoryFault, RecordRow, no_rows
from store.influx_history import InfluxHistory
from store.influx_server import InfluxV1

# The tables of schema 1 that schema 2 changed, with what a service of then had written up to position 7.
FIRST = [
    "CREATE TABLE records(position BIGINT, time_ms BIGINT, kind VARCHAR, site VARCHAR, device VARCHAR, subject VARCHAR, body VARCHAR)",
    "INSERT INTO records VALUES (3, 1700000000123, 'alarm', 'farm', 'd1', 'HOT@farm/d1', '{\"to\":\"UNACK\"}')",
    "INSERT INTO records VALUES (7, 1700000000456, 'event', 'farm', 'd1', 'offline', '{}')",
]
PROGRESS = {
    "duckdb": ["CREATE TABLE progress(position BIGINT NOT NULL)", "INSERT INTO progress VALUES (7)"],
    "sqlite": [
        "CREATE TABLE progress(only INTEGER PRIMARY KEY CHECK (only = 0), position INTEGER NOT NULL)",
        "INSERT INTO progress VALUES (0, 7)",
    ],
}
OLD = [
    RecordRow(3, 1_700_000_000_123_000_000, "alarm", "farm", "d1", "HOT@farm/d1", '{"to":"UNACK"}'),
    RecordRow(7, 1_700_000_000_456_000_000, "event", "farm", "d1", "offline", "{}"),
]


class Store(NamedTuple):
    """One kind of history in a file of its own."""

    kind: str
    path: Path

    def open(self) -> History:
        if self.kind == "duckdb":
            return DuckDBHistory(self.path, memory_mb=64)
        return InfluxHistory(self.path, InfluxV1("http://127.0.0.1:1", "unused"))  # records need no server

    def run(self, statements: list[str]) -> None:
        connect: Any = duckdb.connect if self.kind == "duckdb" else sqlite3.connect
        with contextlib.closing(connect(str(self.path))) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()


@pytest.fixture(params=["duckdb", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(request.param, tmp_path / f"history.{request.param}")


def test_old_file_is_brought_to_the_present_and_keeps_what_it_knows(store):
    store.run(FIRST + PROGRESS[store.kind])
    new = RecordRow(8, 1_700_000_001_000_000_001, "alarm", "farm", "d1", "HOT@farm/d1", "{}", 1, 40)
    for is_first in (True, False):
        history = store.open()
        assert (history.position(), history.decisions_from()) == (7 if is_first else 8, 8)
        assert history.records(newest_first=False) == (OLD if is_first else [*OLD, new])
        assert history.records(kind="alarm", end_ms=1_700_000_000_124) == OLD[:1]
        if is_first:
            assert history.decisions(-1) == []  # what was written then is not whole
            history.append(no_rows(), [new], 8)
        assert history.decisions(-1) == [new]
        history.close()


def test_file_of_a_later_version_is_refused_with_the_remedy(store):
    store.open().close()
    store.run([f"UPDATE about SET schema = {SCHEMA + 1}"])
    with pytest.raises(HistoryFault, match=r"newer version.* use the newer program") as raised:
        store.open()
    assert not raised.value.retryable


def test_new_file_has_whole_decisions_from_the_beginning(store):
    for _ in range(2):
        history = store.open()
        assert history.decisions_from() == 0
        history.close()
