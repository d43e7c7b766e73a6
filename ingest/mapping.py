"""Recordings of others as device frames: which column is which point, what their clock and their missing codes are. Pure.

A mapping names every column of the file, as a point or under `ignore`: a column that nobody decided about is an error, so that
nothing is lost in silence. Cells are counted as samples, missing (a declared code) or unreadable (kept with line and text).
"""

import csv
import datetime as dt
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, model_validator

from telemetry.errors import CallerError
from telemetry.site import Name, PointName

EXCEL_EPOCH: Final = dt.datetime(1899, 12, 30)  # noqa: DTZ001 -- day 0 of spreadsheets, local time of the recording
UNREADABLE_KEPT: Final = 20
ROWS_PER_MESSAGE: Final = 50


class TimeColumn(BaseModel):
    """Where the time stands and how it is written: a strptime `format`, or spreadsheet days since 1899-12-30."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    column: str
    format: str | None = None
    excel_days: bool = False
    zone: str = "UTC"
    round_s: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _one_form(self) -> "TimeColumn":
        if (self.format is None) != self.excel_days:
            message = "give either `format` or `excel_days: true`"
            raise ValueError(message)
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            message = f"no time zone {self.zone!r}; write it like Europe/Amsterdam"
            raise ValueError(message) from error
        return self

    def read_ms(self, text: str) -> int:
        """ms since 1970 UTC; raises ValueError when the text is not a time."""
        if self.excel_days:
            local = EXCEL_EPOCH + dt.timedelta(seconds=round(float(text) * 86400 / self.round_s) * self.round_s)
        else:
            local = dt.datetime.strptime(text.strip(), self.format or "")  # noqa: DTZ007 -- the zone is the mapping's
        return round(local.replace(tzinfo=ZoneInfo(self.zone)).timestamp() * 1000)


class Column(BaseModel):
    """A column's point, and a linear change of unit: value = cell * scale + offset."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    point: PointName
    scale: float = 1.0
    offset: float = 0.0


class Mapping(BaseModel):
    """How one kind of recording becomes one device."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    site: Name
    device: Name
    time: TimeColumn
    columns: dict[str, PointName | Column]
    ignore: list[str] = []
    missing: list[str] = ["", "NaN"]
    delimiter: str = ","


@dataclass(slots=True)
class Report:
    """What became of every cell of a recording: cells = samples + missing + unreadable."""

    rows: int = 0
    cells: int = 0
    samples: int = 0
    missing: int = 0
    unreadable: int = 0
    rows_without_time: int = 0
    examples: list[str] = field(default_factory=list)

    def refuse(self, line: int, column: str, text: str) -> None:
        """Count one unreadable cell and keep the first few with their place."""
        self.unreadable += 1
        if len(self.examples) < UNREADABLE_KEPT:
            self.examples.append(f"line {line}, {column}: {text[:40]!r}")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: device time in ms and the values present."""

    ts_ms: int
    values: dict[str, float]


def read_rows(text: str, mapping: Mapping, report: Report) -> Iterator[Row]:
    """Rows of a recording in file order. Raises CallerError when a column is neither mapped nor ignored, or is missing."""
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff")), delimiter=mapping.delimiter)
    header = [name.strip() for name in next(reader, [])]
    wanted = _columns(header, mapping)
    clock = header.index(mapping.time.column.strip())
    missing = {code.strip() for code in mapping.missing}
    for line, cells in enumerate(reader, start=2):
        report.rows += 1
        report.cells += len(wanted)
        try:
            ts_ms = mapping.time.read_ms(cells[clock])
        except (ValueError, IndexError):
            report.rows_without_time += 1
            report.unreadable += len(wanted) - 1
            report.refuse(line, mapping.time.column, cells[clock] if clock < len(cells) else "")
            continue
        values: dict[str, float] = {}
        for index, column in wanted.items():
            cell = cells[index].strip() if index < len(cells) else ""
            if cell in missing:
                report.missing += 1
                continue
            number = _number(cell)
            if number is None:
                report.refuse(line, header[index], cell)
                continue
            values[column.point] = number * column.scale + column.offset
        report.samples += len(values)
        if values:
            yield Row(ts_ms, values)


def _number(cell: str) -> float | None:
    """The finite number a cell holds; None when it holds none."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _columns(header: list[str], mapping: Mapping) -> dict[int, Column]:
    named = {name.strip(): c if isinstance(c, Column) else Column(point=c) for name, c in mapping.columns.items()}
    ignored = {name.strip() for name in mapping.ignore} | {mapping.time.column.strip()}
    absent = [name for name in (*named, mapping.time.column.strip()) if name not in header]
    undecided = [name for name in header if name not in named and name not in ignored]
    if not any(header):
        raise CallerError("the recording is empty: its first line must name the columns")
    problems = [f"the file has no column{_several(absent)}"] if absent else []
    if undecided:
        problems.append(f"nothing is said about column{_several(undecided)}: name each under `columns` or `ignore`")
    if problems:
        raise CallerError("the mapping does not fit the file; " + "; ".join(problems))
    return {header.index(name): column for name, column in named.items()}


def _several(names: list[str]) -> str:
    return f"{'s' if len(names) > 1 else ''} {', '.join(names)}"
