"""History in one DuckDB file, owned by one process: rows, records and journal position commit together.

New rows go to `recent` in the order they came, sorted by (point, ts_ms) inside each batch; `compact` moves finished days to
`packed`, wholly sorted, where a series' day is a few blocks. Reads see both through the view `samples` and sort afterwards in
numpy, because a scan in stored order is several times faster than ORDER BY. Appends take a lock; each read has its own cursor.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from store.duckdb_tables import make_tables
from store.history import (
    ASIDE,
    KEYFRAME,
    READ_ROWS_MAX,
    RECORDS_MAX,
    REJECTS_KEPT,
    RUNS_MAX,
    AppendResult,
    Buckets,
    HistoryFault,
    MemberRow,
    MemberState,
    Order,
    PackedMember,
    QueryLimit,
    RecordRow,
    Rows,
    Run,
    SampleRows,
    Series,
    bucket_width_ms,
    check_limit,
    clipped_ns,
    is_reject,
    make_rows,
    no_rows,
)
from store.members import pack_members, replay_members, unique_members
from store.scan import MEMBERS, SENT
from store.scan import QUERY as SCAN
from store.uniqueness import HighWater, drop_repeats, row_order, same_value, without_infinities
from telemetry.errors import StoreError
from telemetry.quality import BAD, LEVEL_MASK

DAY_MS: Final = 86_400_000
MEMORY_MB: Final = 256  # DuckDB's own buffers; sorting beyond it spills beside the file
THREADS: Final = 2
QUERY_LIMIT_S: Final = 10.0
PACK_ROWS: Final = 1_000_000  # one step of compaction: about half a second, during which appends wait
_SPAN_MIN_MS: Final = 60_000
_SABOTAGE: Final = os.environ.get("FIELDLOOM_SABOTAGE", "")

_FORGET_REJECTS: Final = f"""
DELETE FROM records WHERE kind = 'event' AND subject = 'reject' AND rowid NOT IN
    (SELECT rowid FROM records WHERE kind = 'event' AND subject = 'reject' ORDER BY position DESC, rowid DESC LIMIT {REJECTS_KEPT})
"""
_DOWNSAMPLE: Final = f"""
SELECT (ts_ms - $start) // $width AS bucket, min(value) FILTER (number), max(value) FILTER (number), avg(value) FILTER (number),
    count(*) FILTER (number), arg_min(value, ts_ms) FILTER (number), arg_max(value, ts_ms) FILTER (number),
    count(*) FILTER (NOT number OR (quality & {LEVEL_MASK}) >= {BAD})
FROM (SELECT ts_ms, value, quality, NOT isnan(value) AS number FROM samples
    WHERE point = $point AND ts_ms >= $start AND ts_ms < $end)
GROUP BY bucket ORDER BY bucket
"""


class DuckDBHistory:
    """`store.history.History` in the file `path`. Opening it twice, in any process, raises StoreError.

    Durable on return of `append` (write-ahead log, fsync). Crash at any moment: rows, records, members, plan and position are
    all of the same append. A read longer than `query_limit_s` raises QueryLimit.
    """

    def __init__(
        self, path: Path, *, memory_mb: int = MEMORY_MB, threads: int = THREADS, query_limit_s: float = QUERY_LIMIT_S
    ) -> None:
        self._path = path
        self._config: dict[str, str | bool | int | float | list[str]] = {"memory_limit": f"{memory_mb}MB", "threads": threads}
        self._query_limit_s = query_limit_s
        self._write = threading.Lock()
        self._pool = threading.Lock()  # guards the two below
        self._idle: list[Any] = []
        self._busy: set[Any] = set()
        self._held = no_rows()
        self._open()

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = duckdb.connect(str(self._path), config=self._config)
            self._decisions_from = make_tables(self._connection, self._path)
            self._position = int(self._connection.execute("SELECT position FROM progress").fetchall()[0][0])
            self._water = HighWater(*self._select(self._connection, "SELECT point, max(ts_ms) FROM samples GROUP BY point"))
        except duckdb.Error as error:
            raise self._fault(error) from error
        self._is_broken = False

    def position(self) -> int:
        """See History."""
        return self._position

    def saved_plan(self) -> bytes | None:
        """See History."""
        rows = self._rows("SELECT plan FROM saved", {})
        return bytes(rows[0][0]) if rows else None

    def declare(self, series: Sequence[Series]) -> None:
        """See History."""
        if not series:
            return
        given = pa.table([pa.array(column) for column in zip(*series, strict=True)], names=Series._fields)
        with self._transaction() as connection:
            connection.register("given", given)
            clash = connection.execute(
                "SELECT g.number, s.site, s.device, s.point, g.site, g.device, g.point FROM given g JOIN series s USING (number) "
                "WHERE (s.site, s.device, s.point) IS DISTINCT FROM (g.site, g.device, g.point) LIMIT 1"
            ).fetchall()
            if clash:
                number, *names = clash[0]
                raise HistoryFault(
                    f"point {number} is {'/'.join(names[:3])} in {self._path}, {'/'.join(names[3:])} in the journal: "
                    "this history belongs to another journal; move it away",
                    retryable=False,
                )
            connection.execute("INSERT OR REPLACE INTO series SELECT * FROM given")
            connection.unregister("given")

    def append(
        self,
        rows: SampleRows,
        records: Sequence[RecordRow],
        position: int,
        *,
        plan: bytes | None = None,
        members: Sequence[MemberRow] = (),
        order: Order | None = None,
    ) -> AppendResult:
        """See History. One transaction."""
        if _SABOTAGE == "history_position_first":  # rows follow with the next append: a crash between loses them
            rows, self._held = self._held, rows
        index, given = row_order(rows), rows
        rows = without_infinities(rows.take(index))
        with self._transaction() as connection:
            if position <= self._position:
                return AppendResult(0, 0, 0)
            keep, repeated, changed = self._find_stored(connection, rows)
            unique = drop_repeats(rows.take(keep))
            fresh = unique.rows
            _insert(
                connection, "recent", ["point", "ts_ms", "value", "quality"], [fresh.point, fresh.ts_ms, fresh.value, fresh.quality]
            )
            if records:
                _insert(connection, "records", RecordRow._fields, list(zip(*records, strict=True)))
            if any(is_reject(record) for record in records):
                connection.execute(_FORGET_REJECTS)
            self._insert_members(connection, members)
            if order is not None:
                written = np.zeros(len(given), np.bool_)
                written[index[np.flatnonzero(keep)[unique.kept]]] = True
                data = order.encode(written & ~np.isinf(given.value))
                connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", [order.first, position, order.time_ns, data])
            connection.execute("UPDATE progress SET position = ?", [position])
            if plan is not None:
                connection.execute("DELETE FROM saved")
                connection.execute("INSERT INTO saved VALUES (?)", [plan])
        self._water.rise(fresh)
        self._position = position
        return AppendResult(len(fresh), unique.repeated + repeated, unique.changed + changed)

    def _find_stored(self, connection: Any, rows: SampleRows) -> tuple[NDArray[np.bool_], int, int]:
        """(n,) rows that are not stored yet; how many were stored with the same and with another value."""
        keep = np.ones(len(rows), np.bool_)
        doubtful = np.flatnonzero(self._water.may_exist(rows))
        if not len(doubtful) or _SABOTAGE == "history_compares_nothing":
            return keep, 0, 0
        found, value = self._look_up(connection, rows.point[doubtful], rows.ts_ms[doubtful])
        found = doubtful[found]
        keep[found] = False
        equal = int(np.count_nonzero(same_value(rows.value[found], value)))
        return keep, equal, len(found) - equal

    def _look_up(
        self, connection: Any, point: NDArray[np.int32], ts_ms: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Which of the (n,) wanted samples there are, ascending, and their values."""
        found, value = self._select(
            connection,
            "SELECT w.row, s.value FROM wanted w JOIN samples s ON s.point = w.point AND s.ts_ms = w.ts_ms "
            "WHERE s.ts_ms BETWEEN $low AND $high AND s.point BETWEEN $first AND $last",
            {"low": int(ts_ms.min()), "high": int(ts_ms.max()), "first": int(point.min()), "last": int(point.max())},
            wanted=pa.table([np.arange(len(point)), point, ts_ms], names=["row", "point", "ts_ms"]),
        )
        found, one = np.unique(found, return_index=True)
        return found, value[one]

    @staticmethod
    def _insert_members(connection: Any, members: Sequence[MemberRow]) -> None:
        members = unique_members(members)
        if not members:
            return
        names = ["point", "ts_ms", "form", "dtype", "member", "value"]
        new = "NOT EXISTS (SELECT 1 FROM members m WHERE m.point = given.point AND m.ts_ms = given.ts_ms)"
        _insert(connection, "members", names, list(zip(*map(pack_members, members), strict=True)), where=new)

    def read(self, point: int, start_ms: int, end_ms: int, *, limit: int) -> SampleRows:
        """See History."""
        check_limit(limit, READ_ROWS_MAX)
        query = "SELECT ts_ms, value, quality FROM samples WHERE point = $point AND ts_ms >= $start AND ts_ms < $end"
        asked = {"point": point, "start": start_ms, "end": end_ms}
        ts_ms, value, quality = self._columns(f"{query} LIMIT {limit + 1}", asked)
        if len(ts_ms) > limit:  # only then the store must sort to know which rows are the first
            ts_ms, value, quality = self._columns(f"{query} ORDER BY ts_ms LIMIT {limit}", asked)
        order = np.argsort(ts_ms, kind="stable")
        return make_rows(np.full(len(order), point), ts_ms[order], value[order], quality[order])

    def scan(self, low: int, high: int, start_ms: int, end_ms: int, *, limit: int) -> list[Rows]:
        """See store.scan.Scan."""
        asked = {"start": start_ms, "end": end_ms, "low": low, "high": high, "limit": limit}
        point, ts_ms, value, quality = self._columns(SCAN, asked)
        return [(point, ts_ms, value, quality)]

    def member_rows(self, points: Sequence[int], start_ms: int, end_ms: int, *, limit: int) -> list[PackedMember]:
        """See History."""
        asked = {"points": list(points), "start": start_ms, "end": end_ms, "limit": limit}
        return [PackedMember(*row) for row in self._rows(MEMBERS, asked)]

    def sent(self, after: int, start_ms: int, *, limit: int) -> list[Run]:
        """See History."""
        asked = {"after": after, "start": clipped_ns(start_ms), "limit": limit}
        return [Run(first, last, data, []) for first, last, data in sorted(self._rows(SENT, asked))]

    def latest(self, points: Sequence[int], at_ms: int) -> SampleRows:
        """See History. Scans what it must: 0.5 s for 10,000 series in 50 M rows; hold what is needed often in memory."""
        query = (
            "SELECT point, max(ts_ms), arg_max(value, ts_ms), arg_max(quality, ts_ms) FROM samples "
            "WHERE point IN (SELECT unnest($points)) AND ts_ms <= $at GROUP BY point ORDER BY point"
        )
        return make_rows(*self._columns(query, {"points": [int(p) for p in points], "at": at_ms}))

    def downsample(self, point: int, start_ms: int, end_ms: int, buckets: int) -> Buckets:
        """See History."""
        width = bucket_width_ms(start_ms, end_ms, buckets)
        asked = {"point": point, "start": start_ms, "end": end_ms, "width": width}
        bucket, least, most, mean, count, first, last, bad = self._columns(_DOWNSAMPLE, asked)
        t_ms = start_ms + bucket.astype(np.int64) * width
        return Buckets(width, t_ms, least, most, mean, count.astype(np.int64), first, last, bad.astype(np.int64))

    def records(
        self,
        *,
        kind: str | None = None,
        site: str | None = None,
        subject: str | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 1000,
        newest_first: bool = True,
    ) -> list[RecordRow]:
        """See History."""
        check_limit(limit, RECORDS_MAX)
        asked = {"kind": kind, "site": site, "subject": subject, "start": clipped_ns(start_ms), "end": clipped_ns(end_ms)}
        tests = {"kind": "kind = $kind", "site": "site = $site", "subject": "subject = $subject"}
        tests |= {"start": "time_ns >= $start", "end": "time_ns < $end"}
        order = "DESC" if newest_first else "ASC"
        query = f"SELECT * FROM records {_where(tests, asked)} ORDER BY position {order}, rowid {order} LIMIT {limit}"
        return [RecordRow(*row) for row in self._rows(query, {name: v for name, v in asked.items() if v is not None})]

    def decisions(self, after: int, *, limit: int = RECORDS_MAX) -> list[RecordRow]:
        """See History."""
        check_limit(limit, RECORDS_MAX)
        later = "FROM records WHERE phase IS NOT NULL AND position > $after"
        # Rows are stored in order of position: the inner scan ends early. (ORDER BY .. LIMIT reads all the rest for each page.)
        last = f"(SELECT max(position) FROM (SELECT position {later} LIMIT {limit}))"
        rows = self._rows(f"SELECT * {later} AND position <= {last} ORDER BY position, rowid", {"after": after})
        return [RecordRow(*row) for row in rows]

    def runs(self, after: int, *, limit: int = RUNS_MAX) -> list[Run]:
        """See History."""
        check_limit(limit, RUNS_MAX)
        found = self._rows(f"SELECT first, last, data FROM runs WHERE last > $after ORDER BY first LIMIT {limit}", {"after": after})
        if not found:
            return []
        query = "SELECT * FROM records WHERE phase IS NULL AND position BETWEEN $first AND $last ORDER BY position, rowid"
        told = [RecordRow(*row) for row in self._rows(query, {"first": found[0][0], "last": found[-1][1]})]
        return [
            Run(first, last, data, [row for row in told if first <= row.position <= last and row.kind != "gap"])
            for first, last, data in found
        ]

    def values(self, point: NDArray[np.int32], ts_ms: NDArray[np.int64]) -> NDArray[np.float64]:
        """See History."""
        if not len(point):
            return np.zeros(0)
        with self._cursor() as cursor:
            found, value = self._look_up(cursor, point, ts_ms)
        if len(found) < len(point):
            missing = int(np.setdiff1d(np.arange(len(point)), found)[0])
            lost = f"a sample of point {point[missing]} at {ts_ms[missing]} ms (of {len(point) - len(found)})"
            raise HistoryFault(f"{self._path} no longer has {lost} that it had", retryable=False)
        return (value.view(np.int64) ^ 1).view(np.float64) if _SABOTAGE == "history_changes_last_bits" else value

    def decisions_from(self) -> int:
        """See History."""
        return self._decisions_from

    def members(self, point: int, at_ms: int) -> MemberState | None:
        """See History."""
        newest = self._rows(
            "SELECT ts_ms, form FROM members WHERE point = $point AND ts_ms <= $at ORDER BY ts_ms DESC LIMIT 1",
            {"point": point, "at": at_ms},
        )
        if not newest:
            return None
        ts_ms, form = newest[0]
        return self._chain(point, ts_ms, only_at=form == ASIDE)

    def member_state(self, point: int) -> MemberState | None:
        """See History."""
        newest = self._rows(f"SELECT max(ts_ms) FROM members WHERE point = $point AND form <> {ASIDE}", {"point": point})
        return None if newest[0][0] is None else self._chain(point, newest[0][0], only_at=False)

    def _chain(self, point: int, ts_ms: int, *, only_at: bool) -> MemberState | None:
        """The state at the row `ts_ms`, from the keyframe before it, or from that row alone."""
        keyframe = f"(SELECT max(ts_ms) FROM members WHERE point = $point AND form = {KEYFRAME} AND ts_ms <= $at)"
        start = "$at" if only_at else keyframe
        test = "true" if only_at else f"form <> {ASIDE}"
        rows = self._rows(
            "SELECT point, ts_ms, form, dtype, member, value FROM members "
            f"WHERE point = $point AND ts_ms BETWEEN {start} AND $at AND {test} ORDER BY ts_ms",
            {"point": point, "at": ts_ms},
        )
        return replay_members(rows)

    def count(self, *, point: int | None = None, start_ms: int | None = None, end_ms: int | None = None) -> int:
        """See History."""
        asked = {"point": point, "start": start_ms, "end": end_ms}
        where = _where({"point": "point = $point", "start": "ts_ms >= $start", "end": "ts_ms < $end"}, asked)
        rows = self._rows(f"SELECT count(*) FROM samples {where}", {name: v for name, v in asked.items() if v is not None})
        return int(rows[0][0])

    def series(self) -> list[Series]:
        """See History."""
        return [Series(*row) for row in self._rows("SELECT * FROM series ORDER BY number", {})]

    def delete_before(self, ts_ms: int) -> None:
        """See History. Space is reused for new rows; the file does not shrink."""
        with self._transaction() as connection:
            for table in ("recent", "packed", "members"):
                connection.execute(f"DELETE FROM {table} WHERE ts_ms < ?", [ts_ms])
            connection.execute("DELETE FROM runs WHERE time_ns < ?", [clipped_ns(ts_ms)])

    def compact(self, before_ms: int, *, rows_max: int = PACK_ROWS) -> int:
        """Sort one chunk of rows before `before_ms` into `packed`: at most a day and about `rows_max` rows. 0: nothing left to do.

        Appends wait meanwhile; call it from a background thread until it returns 0.
        """
        oldest = self._rows("SELECT min(ts_ms) FROM recent WHERE ts_ms < $before", {"before": before_ms})[0][0]
        if oldest is None:
            return 0
        low, high = oldest, min((oldest // DAY_MS + 1) * DAY_MS, before_ms)
        inside = "ts_ms >= $low AND ts_ms < $high"
        while True:
            count = int(self._rows(f"SELECT count(*) FROM recent WHERE {inside}", {"low": low, "high": high})[0][0])
            if count <= rows_max or high - low <= _SPAN_MIN_MS:
                break
            high = low + (high - low) // 2
        with self._transaction() as connection:
            asked = {"low": low, "high": high}
            connection.execute(f"INSERT INTO packed SELECT * FROM recent WHERE {inside} ORDER BY point, ts_ms", asked)
            connection.execute(f"DELETE FROM recent WHERE {inside}", asked)
        return count

    def interrupt(self) -> None:
        """See History."""
        with self._pool:
            for cursor in self._busy:
                cursor.interrupt()

    def close(self) -> None:
        """See History."""
        with self._write:
            self._shut()

    def _shut(self) -> None:
        with self._pool:
            for cursor in self._idle:
                cursor.close()
            self._idle = []
            self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """The writer's connection inside BEGIN .. COMMIT; any error rolls back."""
        with self._write:
            if self._is_broken:
                self._shut()
                self._open()
            try:
                self._connection.begin()
                yield self._connection
                self._connection.commit()
            except duckdb.Error as error:
                self._roll_back()
                raise self._fault(error) from error
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        try:
            self._connection.rollback()
        except duckdb.Error:
            self._is_broken = True  # a failed commit ends the transaction itself, a fatal error the connection: open it again

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        """A cursor of its own for one read, interrupted when the read takes too long."""
        with self._pool:
            idle = self._idle
            cursor = idle.pop() if idle else self._connection.cursor()
            self._busy.add(cursor)
        watch = threading.Timer(self._query_limit_s, cursor.interrupt)
        watch.daemon = True
        watch.start()
        try:
            yield cursor
        except duckdb.InterruptException as error:
            raise QueryLimit(f"the query was stopped after at most {self._query_limit_s:g} s; ask for a shorter range") from error
        except duckdb.Error as error:
            raise self._fault(error) from error
        finally:
            watch.cancel()
            with self._pool:
                self._busy.discard(cursor)
                if idle is self._idle:
                    idle.append(cursor)
                else:  # the file was opened again meanwhile
                    cursor.close()

    def _columns(self, query: str, asked: dict[str, Any]) -> list[NDArray[Any]]:
        with self._cursor() as cursor:
            return self._select(cursor, query, asked)

    def _rows(self, query: str, asked: dict[str, Any]) -> list[tuple[Any, ...]]:
        with self._cursor() as cursor:
            rows: list[tuple[Any, ...]] = cursor.execute(query, asked).fetchall()
            return rows

    @staticmethod
    def _select(connection: Any, query: str, asked: dict[str, Any] | None = None, **tables: pa.Table) -> list[NDArray[Any]]:
        """The result's columns; NULL is NaN."""
        for name, table in tables.items():
            connection.register(name, table)
        result = connection.sql(query, params=asked or {}).to_arrow_table()
        for name in tables:
            connection.unregister(name)
        return [column.to_numpy() for column in result.columns]

    def _fault(self, error: Exception) -> StoreError:
        text = str(error)
        if "lock" in text and isinstance(error, duckdb.IOException):
            message = f"{self._path} is open in another process; only one `fieldloom serve web` may own it: stop the other one"
            return HistoryFault(message, retryable=False)
        if "Corrupt database" in text or "not a valid DuckDB" in text:
            way_on = "put back a copy, or move it aside: a new one is filled from what the journal still has"
            return HistoryFault(f"{self._path} is damaged; {way_on} ({text.splitlines()[0]})", retryable=False)
        if isinstance(error, duckdb.InterruptException):
            return QueryLimit("the operation was interrupted")
        return HistoryFault(f"{self._path}: {text}", retryable=isinstance(error, (duckdb.IOException, duckdb.OutOfMemoryException)))


def _insert(connection: Any, table: str, names: Sequence[str], columns: Sequence[Any], *, where: str = "true") -> None:
    """Insert columns (arrays or sequences) through Arrow, in their order."""
    if len(columns[0]) == 0:
        return
    connection.register("given", pa.table([pa.array(column) for column in columns], names=list(names)))
    connection.execute(f"INSERT INTO {table} SELECT * FROM given WHERE {where}")
    connection.unregister("given")


def _where(tests: dict[str, str], asked: dict[str, Any]) -> str:
    """WHERE with the tests whose value is given, or nothing."""
    chosen: list[str] = [test for name, test in tests.items() if asked[name] is not None]
    return f"WHERE {' AND '.join(chosen)}" if chosen else ""
