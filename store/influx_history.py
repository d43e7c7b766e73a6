"""History with its samples in InfluxDB (1.x or 2.x) and everything else in a small file beside it.

InfluxDB has no transaction that could hold the journal position, so an append writes the samples first and commits position,
plan, records and member rows to `RecordFile` after the server answered 204. A crash between the two is harmless: the same
lines are found there, or overwrite themselves. Rows that are not newer than all that is stored of their point are read back first, since
InfluxDB would let the last value win where history promises the first.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from store.history import (
    READ_ROWS_MAX,
    RECORDS_MAX,
    AppendResult,
    Buckets,
    HistoryFault,
    MemberRow,
    MemberState,
    Order,
    PackedMember,
    RecordRow,
    Rows,
    Run,
    SampleRows,
    Series,
    bucket_width_ms,
    check_limit,
    clipped_ns,
    join_rows,
    make_rows,
    no_rows,
)
from store.influx_lines import MEASUREMENT, Lines, build_lines, line_prefix
from store.influx_server import InfluxServer, Refused, Table
from store.record_file import RecordFile
from store.uniqueness import HighWater, drop_repeats, is_first, same_value, sort_rows
from telemetry.quality import BAD, LEVEL_MASK

LINES_MAX: Final = 5000  # one write: 0.5 MB of lines, the batch both servers were measured with
WRITES_MAX: Final = 1000  # of one append while bad lines are searched; above it the suspects are given up together
STATEMENTS_MAX: Final = 100  # of one query request
REPORTED_MAX: Final = 20  # rejected rows of one append that are kept one by one; the rest is counted
TORN_TRIES: Final = 4  # reads of an answer that a write runs through
RUN_GAP_MS: Final = 3_600_000  # stored rows are read back in runs without a longer gap
TIME_MAX_MS: Final = 9_223_372_036_854  # InfluxDB keeps int64 ns


class InfluxHistory:
    """`store.history.History` over an `InfluxServer`; `path` is the file for all that is not a sample.

    Opening needs no server: records can be read while it is down. One process and one thread append. A line the server refuses
    for good is counted in AppendResult.rejected and kept as a record of kind "fault", subject "history"; it is not tried again.
    """

    def __init__(self, path: Path, server: InfluxServer) -> None:
        self._server = server
        self._file = RecordFile(path)
        self._position = self._file.position()
        self._series = {row.number: row for row in self._file.series()}
        self._prefixes = {number: line_prefix(row) for number, row in self._series.items()}
        self._water: HighWater | None = None  # None: not yet asked of the server
        self._writes = 0  # odd while one runs
        self._is_prepared = False
        self._preparing = threading.Lock()

    def position(self) -> int:
        """See History."""
        return self._position

    def saved_plan(self) -> bytes | None:
        """See History."""
        return self._file.saved_plan()

    def declare(self, series: Sequence[Series]) -> None:
        """See History. CallerError when a name cannot be an InfluxDB tag."""
        prefixes = {row.number: line_prefix(row) for row in series}
        self._file.declare(series)
        # New dictionaries: other threads read the old ones meanwhile.
        self._prefixes = self._prefixes | prefixes
        self._series = self._series | {row.number: row for row in series}

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
        """See History. Samples first, then the rest; a repeat after a crash may count rows as repeated that were written."""
        del order  # samples on a server are not of one transaction with what would say in which order they came
        if position <= self._position:
            return AppendResult(0, 0, 0)
        unknown, repeated, changed = self._drop_stored(sort_rows(rows))
        unique = drop_repeats(unknown)
        fresh = unique.rows
        refused = self._write(fresh)
        reports = _report(fresh, refused, self._series, position)
        self._file.commit(position, plan, [*records, *reports], members)
        self._position = position
        if self._water is not None:
            self._water.rise(fresh.take(np.setdiff1d(np.arange(len(fresh)), list(refused))) if refused else fresh)
        written = len(fresh) - len(refused)
        return AppendResult(written, unique.repeated + repeated, unique.changed + changed, len(refused))

    def _write(self, rows: SampleRows) -> dict[int, str]:
        """Write all rows that can be written; {row: reason} of those that never will be."""
        known = np.isin(rows.point, np.fromiter(self._prefixes, np.int32, len(self._prefixes)))
        refused = dict.fromkeys(np.flatnonzero(~known).tolist(), "no series is declared for this point number")
        places = np.flatnonzero(known)
        if not len(places):
            return refused
        lines = build_lines(rows.take(places), self._prefixes)
        self._writes += 1
        try:
            return refused | {int(places[row]): reason for row, reason in self._write_lines(lines).items()}
        finally:
            self._writes += 1

    def _write_lines(self, lines: Lines) -> dict[int, str]:
        """Write all lines that can be written; {line: reason} of those the server will never take."""
        waiting = [(start, min(start + LINES_MAX, len(lines))) for start in range(0, len(lines), LINES_MAX)][::-1]
        refused: dict[int, str] = {}
        writes = 0
        self._prepare()
        while waiting:
            start, stop = waiting.pop()
            writes += 1
            try:
                self._server.write(lines.part(start, stop))
            except Refused as error:
                if stop - start == 1 or error.dropped == stop - start or (writes > WRITES_MAX and not error.is_too_large):
                    refused |= dict.fromkeys(range(start, stop), error.reason)
                else:
                    middle = (start + stop) // 2
                    waiting += [(middle, stop), (start, middle)]
            except HistoryFault:
                self._is_prepared = False  # the database may have been dropped: make it again next time
                raise
        return refused

    def _drop_stored(self, rows: SampleRows) -> tuple[SampleRows, int, int]:
        """Rows that are not stored yet; how many were stored with the same and with another value."""
        if not len(rows):  # records alone need no server
            return rows, 0, 0
        if self._water is None:
            self._water = self._newest()
        doubtful = np.flatnonzero(self._water.may_exist(rows))
        if not len(doubtful):
            return rows, 0, 0
        stored = drop_repeats(sort_rows(self._stored(rows.take(doubtful)))).rows
        at = _find(stored, rows)
        keep = at < 0
        equal = int(np.count_nonzero(same_value(rows.value[~keep], stored.value[at[~keep]])))
        return rows.take(keep), equal, int(np.count_nonzero(~keep)) - equal

    def _newest(self) -> HighWater:
        """The newest stored time of every series, by one query."""
        (tables,) = self._query([f"SELECT last(quality) FROM {MEASUREMENT} GROUP BY site, device, point"])
        number = {(row.site, row.device, row.point): row.number for row in self._series.values()}
        found = [(number.get(_place(table)), table.values[0][0]) for table in tables]
        known = [(n, t) for n, t in found if n is not None and t is not None]
        return HighWater(np.array([n for n, _ in known], np.int32), np.array([t for _, t in known], np.int64))

    def _stored(self, rows: SampleRows) -> SampleRows:
        """Stored samples near `rows` (sorted): of each point, every run of times without a long gap."""
        cut = (rows.point[1:] != rows.point[:-1]) | (np.diff(rows.ts_ms) > RUN_GAP_MS)
        starts = np.flatnonzero(np.append(True, cut))
        ends = np.append(starts[1:], len(rows)) - 1
        runs = [(int(rows.point[a]), int(rows.ts_ms[a]), int(rows.ts_ms[b]) + 1) for a, b in zip(starts, ends, strict=True)]
        return join_rows([part for part in self._ranges(runs) if len(part)])

    def _ranges(self, runs: Sequence[tuple[int, int, int]]) -> list[SampleRows]:
        """Samples of each (point, start, end)."""
        statements = [f"SELECT value, quality FROM {MEASUREMENT} {self._where(*run)}" for run in runs]
        return [_sample_rows(run[0], _columns(tables, 3)) for run, tables in zip(runs, self._query(statements), strict=True)]

    def read(self, point: int, start_ms: int, end_ms: int, *, limit: int) -> SampleRows:
        """See History."""
        check_limit(limit, READ_ROWS_MAX)
        if point not in self._series:
            return no_rows()
        statement = f"SELECT value, quality FROM {MEASUREMENT} {self._where(point, start_ms, end_ms)} LIMIT {limit}"
        return _sample_rows(point, self._whole_columns([statement])[0])

    def scan(self, low: int, high: int, start_ms: int, end_ms: int, *, limit: int) -> list[Rows]:
        """See store.scan.Scan. One statement per point, or several where it has more than one may return."""
        parts, left = [], limit
        for point in sorted(number for number in self._series if low <= number <= high):
            at_ms = start_ms
            while left > 0:
                asked = min(left, READ_ROWS_MAX)
                parts.append(self.read(point, at_ms, end_ms, limit=asked))
                left -= len(parts[-1])
                if len(parts[-1]) < asked:
                    break
                at_ms = int(parts[-1].ts_ms[-1]) + 1
        return [(rows.point, rows.ts_ms, rows.value, rows.quality) for rows in parts]

    def member_rows(self, points: Sequence[int], start_ms: int, end_ms: int, *, limit: int) -> list[PackedMember]:
        """See History. Served from the file, also while the server is down."""
        return self._file.member_rows(points, start_ms, end_ms, limit=limit)

    def sent(self, after: int, start_ms: int, *, limit: int) -> list[Run]:
        """See History. Never any: the order is not kept."""
        del after, start_ms, limit
        return []

    def latest(self, points: Sequence[int], at_ms: int) -> SampleRows:
        """See History. One statement per point."""
        known = sorted({int(point) for point in points} & self._series.keys())
        end_ms = at_ms + 1
        tail = "ORDER BY time DESC LIMIT 1"
        statements = [f"SELECT value, quality FROM {MEASUREMENT} {self._where(p, -TIME_MAX_MS, end_ms)} {tail}" for p in known]
        return join_rows([_sample_rows(p, found) for p, found in zip(known, self._whole_columns(statements), strict=True)])

    def _whole_columns(self, statements: Sequence[str]) -> list[NDArray[np.float64]]:
        """(n, 3) time, value and quality of each statement, of whole samples only.

        InfluxDB reads field by field: while a write runs, a sample may show one field without the other. Such an answer is
        asked for again; in the end a sample without its quality is not there yet.
        """
        for _ in range(TORN_TRIES):
            writes = self._writes
            found = [_columns(tables, 3) for tables in self._query(statements)]
            if writes % 2 == 0 and writes == self._writes:
                break
            if not any(_may_be_torn(columns) for columns in found):
                break
        return [columns[~np.isnan(columns[:, 2])] for columns in found]

    def downsample(self, point: int, start_ms: int, end_ms: int, buckets: int) -> Buckets:
        """See History. One request of three statements: the numbers, how many samples are good, and how many there are."""
        width = bucket_width_ms(start_ms, end_ms, buckets)
        if point not in self._series:
            return _merge_buckets(width, [], [], [])
        where = self._where(point, start_ms, end_ms)
        group = f"GROUP BY time({width}ms, {start_ms % width}ms) fill(none)"
        wanted = "min(value), max(value), mean(value), count(value), first(value), last(value)"
        numbers, good, every = self._query(
            [
                f"SELECT {wanted} FROM {MEASUREMENT} {where} {group}",
                f"SELECT count(value) FROM {MEASUREMENT} {where} AND quality & {LEVEL_MASK} < {BAD} {group}",
                f"SELECT count(quality) FROM {MEASUREMENT} {where} {group}",
            ]
        )
        return _merge_buckets(width, numbers, good, every)

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
        """See History. Served from the file, also while the server is down."""
        tests = {"kind": kind, "site": site, "subject": subject, "start": clipped_ns(start_ms), "end": clipped_ns(end_ms)}
        return self._file.records(tests, limit=limit, newest_first=newest_first)

    def decisions(self, after: int, *, limit: int = RECORDS_MAX) -> list[RecordRow]:
        """See History. Served from the file, also while the server is down."""
        return self._file.decisions(after, limit=limit)

    def decisions_from(self) -> int:
        """See History."""
        return self._file.decisions_from()

    def members(self, point: int, at_ms: int) -> MemberState | None:
        """See History."""
        return self._file.members(point, at_ms)

    def member_state(self, point: int) -> MemberState | None:
        """See History."""
        return self._file.member_state(point)

    def count(self, *, point: int | None = None, start_ms: int | None = None, end_ms: int | None = None) -> int:
        """See History."""
        if point is not None and point not in self._series:
            return 0
        start, end = -TIME_MAX_MS if start_ms is None else start_ms, TIME_MAX_MS if end_ms is None else end_ms
        (tables,) = self._query([f"SELECT count(quality) FROM {MEASUREMENT} {self._where(point, start, end)}"])
        return int(tables[0].values[0][1] or 0) if tables else 0

    def series(self) -> list[Series]:
        """See History."""
        return self._file.series()

    def delete_before(self, ts_ms: int) -> None:
        """See History."""
        self._prepare()
        self._server.delete_before(_clip(ts_ms))
        self._file.delete_before(ts_ms)

    def compact(self, before_ms: int) -> int:  # noqa: ARG002
        """See History. The server does it by itself."""
        return 0

    def interrupt(self) -> None:
        """See History. Reads end by themselves at the server's read time limit (5 s)."""

    def close(self) -> None:
        """See History."""
        self._server.close()
        self._file.close()

    def _prepare(self) -> None:
        with self._preparing:  # two threads must not both create the bucket
            if not self._is_prepared:
                self._server.prepare()
                self._is_prepared = True

    def _query(self, statements: Sequence[str]) -> list[list[Table]]:
        """Tables of each statement, asked in requests of at most STATEMENTS_MAX."""
        self._prepare()
        answers: list[list[Table]] = []
        for start in range(0, len(statements), STATEMENTS_MAX):
            try:
                answers += self._server.query(statements[start : start + STATEMENTS_MAX])
            except HistoryFault:
                self._is_prepared = False
                raise
        return answers

    def _where(self, point: int | None, start_ms: int, end_ms: int) -> str:
        tests = [f"time >= {_clip(start_ms)}ms", f"time < {_clip(end_ms)}ms"]
        if point is not None:
            series = self._series[point]
            tests += [f"{tag} = {_quote(getattr(series, tag))}" for tag in ("site", "device", "point")]
        return f"WHERE {' AND '.join(tests)}"


def _clip(ts_ms: int) -> int:
    return max(-TIME_MAX_MS, min(TIME_MAX_MS, ts_ms))


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _place(table: Table) -> tuple[str, str, str]:
    return table.tags["site"], table.tags["device"], table.tags["point"]


def _columns(tables: list[Table], width: int) -> NDArray[np.float64]:
    """(n, width) numbers of the only table, NULL as NaN; no table is no rows."""
    if not tables:
        return np.empty((0, width))
    return np.array(tables[0].values, np.float64).reshape(-1, width)


def _may_be_torn(columns: NDArray[np.float64]) -> bool:
    """True when a sample lacks its quality, or lacks its number without being BAD."""
    _, value, quality = columns.T
    level = np.nan_to_num(quality).astype(np.int64) & LEVEL_MASK
    return bool((np.isnan(quality) | (np.isnan(value) & (level < BAD))).any())


def _sample_rows(point: int, columns: NDArray[np.float64]) -> SampleRows:
    time, value, quality = columns.T
    return make_rows(np.full(len(time), point), time, value, quality)


def _find(stored: SampleRows, rows: SampleRows) -> NDArray[np.intp]:
    """(n,) index in `stored` (unique) of each row's point and time, -1 where there is none."""
    both = join_rows([stored, rows])
    order = np.lexsort((both.ts_ms, both.point))  # stable: a stored row stands before its equals
    group = np.cumsum(is_first(both.take(order))) - 1
    stored_of_group = np.full(len(both), -1, np.intp)
    is_stored = order < len(stored)
    stored_of_group[group[is_stored]] = order[is_stored]
    found = np.full(len(both), -1, np.intp)
    found[order] = stored_of_group[group]
    return found[len(stored) :]


def _merge_buckets(width: int, numbers: list[Table], good: list[Table], every: list[Table]) -> Buckets:
    """Buckets from the three answers. A bucket whose samples all lack a number is in the third only."""
    n, g, e = _columns(numbers, 7), _columns(good, 2), _columns(every, 2)
    t_ms = e[:, 0].astype(np.int64)
    columns = np.full((len(t_ms), 6), np.nan)
    columns[np.searchsorted(t_ms, n[:, 0].astype(np.int64))] = n[:, 1:]
    least, most, mean, count, first, last = columns.T
    bad = e[:, 1].astype(np.int64)
    bad[np.searchsorted(t_ms, g[:, 0].astype(np.int64))] -= g[:, 1].astype(np.int64)
    return Buckets(width, t_ms, least, most, mean, np.nan_to_num(count).astype(np.int64), first, last, np.maximum(bad, 0))


def _report(rows: SampleRows, refused: dict[int, str], series: dict[int, Series], position: int) -> list[RecordRow]:
    """Records of refused rows: the first REPORTED_MAX one by one, then one with the number of all."""
    reports = []
    for row in list(refused)[:REPORTED_MAX]:
        number = int(rows.point[row])
        place = series.get(number, Series(number, "", "", str(number), ""))
        body: dict[str, Any] = {
            "reason": refused[row],
            "point": place.point,
            "value": float(rows.value[row]),
            "total": len(refused),
        }
        text = msgspec.json.encode(body).decode()
        reports.append(RecordRow(position, int(rows.ts_ms[row]) * 1_000_000, "fault", place.site, place.device, "history", text))
    return reports
