"""Changes out of a store that answers in parts come whole, once, and in the order of the journal."""

from pathlib import Path

import pytest

from people.changes import Change, change_of, read_rows
from store.duckdb_history import DuckDBHistory
from store.history import RECORDS_MAX, RecordRow, no_rows
from telemetry.errors import CallerError

MS = 1_000_000


def row(position: int, time_ms: float, kind: str = "alarm", site: str = "north") -> RecordRow:
    body = '{"event":"raise","from":"NORM","to":"UNACK","area":"ms","priority":"P2"}'
    return RecordRow(position, int(time_ms * MS), kind, site, "d", f"HOT@{site}/d", body, 1, 40)


def test_a_range_of_more_rows_than_one_answer_is_read_whole(tmp_path: Path) -> None:
    history = DuckDBHistory(tmp_path / "h.duckdb")
    count = RECORDS_MAX + 500
    rows = [row(k, 1000 + k // 3 + 0.1 * (k % 3)) for k in range(count)]
    history.append(no_rows(), [*rows, row(count, 1500, site="south"), row(count + 1, 1500, kind="flood")], count + 1)
    try:
        found = read_rows(history, ("alarm",), "north", 0, 1 << 40)
        assert [r.position for r in found] == list(range(count))
        assert [r.position for r in read_rows(history, ("alarm",), "north", 1001, 1002)] == [3, 4, 5]
        assert [r.kind for r in read_rows(history, ("alarm", "flood"), "north", 1499, 1501)][-1] == "flood"
        assert read_rows(history, ("alarm",), "north", 5, 5) == []
    finally:
        history.close()


def test_more_than_can_be_told_is_an_error_with_its_fix(tmp_path: Path) -> None:
    history = DuckDBHistory(tmp_path / "h.duckdb")
    history.append(no_rows(), [row(k, 1000 + k) for k in range(21)], 20)
    try:
        assert len(read_rows(history, ("alarm",), "north", 0, 1020, most=20)) == 20
        with pytest.raises(CallerError, match="ask for a shorter one"):
            read_rows(history, ("alarm",), "north", 0, 1021, most=20)
    finally:
        history.close()


def test_a_row_says_its_change_and_a_flood_its_area() -> None:
    assert change_of(row(1, 5)) == Change(5 * MS, "HOT@north/d", "ms", "raise", "NORM", "UNACK", "P2", "")
    flood = RecordRow(1, 5, "flood", "north", "", "north/ms", '{"from":"NORM","to":"UNACK","event":"raise","count":11}', 0, 41)
    assert change_of(flood) == Change(5, "north/ms", "ms", "raise", "NORM", "UNACK", "", "")
    strange = RecordRow(1, 5, "alarm", "north", "", "HOT@north/d", '{"to":"NORM","priority":null,"value":[1]}', None, None)
    assert change_of(strange) == Change(5, "HOT@north/d", "", "", "NORM", "NORM", "", "")
