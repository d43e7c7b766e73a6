"""Samples of a stretch of time in stored order: what reads history in bulk (a backtest) instead of asking for series.

Sorting in the store costs several times the reading, so nothing is sorted here. `FileScan` opens a DuckDB file for reading, beside
other readers and beside no writer; a process that has the history open anyway scans it through its own `History.scan`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import duckdb

from store.history import HistoryFault, PackedMember, RecordRow, Rows, Run, check_schema, clipped_ns

MEMORY_MB: Final = 64
BATCH: Final = 122_880  # rows: those of a group in the file
QUERY: Final = """
SELECT point, ts_ms, value, quality FROM samples
WHERE ts_ms >= $start AND ts_ms < $end AND point BETWEEN $low AND $high LIMIT $limit
"""
MEMBERS: Final = "SELECT * FROM members WHERE point IN (SELECT unnest($points)) AND ts_ms >= $start AND ts_ms < $end LIMIT $limit"
# Runs are stored in order: the scan ends early, where ORDER BY would read all that follow.
SENT: Final = "SELECT first, last, data FROM runs WHERE first > $after AND time_ns >= $start LIMIT $limit"


class Scan(Protocol):
    """Bulk reading."""

    def scan(self, low: int, high: int, start_ms: int, end_ms: int, *, limit: int) -> list[Rows]:
        """At most `limit` rows of points low..high (both inclusive) in [start, end), in any order and in parts as the store has them;
        `limit` of them: there may be more."""
        ...

    def member_rows(self, points: Sequence[int], start_ms: int, end_ms: int, *, limit: int) -> list[PackedMember]:
        """See History."""
        ...

    def sent(self, after: int, start_ms: int, *, limit: int) -> list[Run]:
        """See History."""
        ...


class Past(Scan, Protocol):
    """What a backtest reads of a history."""

    def saved_plan(self) -> bytes | None:
        """See History."""
        ...

    def records(self, *, kind: str, site: str, limit: int) -> list[RecordRow]:
        """The newest records of a kind and site, newest first."""
        ...


def _rows(batch: Any) -> Rows:
    """The columns of an Arrow batch, without a copy."""
    point, ts_ms, value, quality = (column.to_numpy() for column in batch.columns)
    return point, ts_ms, value, quality


class FileScan:
    """`Past` of a DuckDB file that no process writes. Raises HistoryFault with the way on when it cannot be opened."""

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        config: dict[str, Any] = {"memory_limit": f"{MEMORY_MB}MB", "threads": threads}
        try:
            self._connection = duckdb.connect(str(path), read_only=True, config=config)
            schema = self._connection.execute("SELECT schema FROM about").fetchall()[0][0]
            tables = self._connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
            self._has_order = ("runs",) in tables  # an older version wrote none
        except duckdb.Error as error:
            message = f"{path} cannot be read: {str(error).splitlines()[0]}; if `web` runs, let it do the work (`fieldloom status`)"
            raise HistoryFault(message, retryable=False) from error
        check_schema(path, schema)

    def scan(self, low: int, high: int, start_ms: int, end_ms: int, *, limit: int) -> list[Rows]:
        """See Scan."""
        asked = {"start": start_ms, "end": end_ms, "low": low, "high": high, "limit": limit}
        try:
            batches = list(self._connection.sql(QUERY, params=asked).to_arrow_reader(BATCH))
        except duckdb.Error as error:
            raise HistoryFault(f"history: {error}", retryable=False) from error
        return [_rows(batch) for batch in batches]

    def member_rows(self, points: Sequence[int], start_ms: int, end_ms: int, *, limit: int) -> list[PackedMember]:
        """See Scan."""
        asked = {"points": list(points), "start": start_ms, "end": end_ms, "limit": limit}
        return [PackedMember(*row) for row in self._rows(MEMBERS, asked)]

    def sent(self, after: int, start_ms: int, *, limit: int) -> list[Run]:
        """See Scan."""
        if not self._has_order:
            return []
        asked = {"after": after, "start": clipped_ns(start_ms), "limit": limit}
        return [Run(first, last, data, []) for first, last, data in sorted(self._rows(SENT, asked))]

    def _rows(self, query: str, asked: dict[str, Any]) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, asked).fetchall()
        except duckdb.Error as error:
            raise HistoryFault(f"history: {error}", retryable=False) from error

    def saved_plan(self) -> bytes | None:
        """See History."""
        rows = self._connection.execute("SELECT plan FROM saved").fetchall()
        return bytes(rows[0][0]) if rows else None

    def records(self, *, kind: str, site: str, limit: int) -> list[RecordRow]:
        """The newest records of a kind and site, newest first."""
        query = "SELECT * FROM records WHERE kind = ? AND site = ? ORDER BY position DESC, rowid DESC LIMIT ?"
        return [RecordRow(*row) for row in self._connection.execute(query, [kind, site, limit]).fetchall()]

    def close(self) -> None:
        """Release the file."""
        self._connection.close()
