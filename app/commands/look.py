"""Commands that look and change nothing: status, the live stream, history, the decision log."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app.settings import Settings, load_settings
from telemetry.decision import Decision, LogHash, in_order, log_line
from telemetry.errors import CallerError
from telemetry.transaction import Transaction

FOLLOW_POLL_S = 0.1
PROGRESS_AFTER_S = 2.0


def status() -> None:
    """What runs, what is wrong, and whether every message is accounted for."""
    from app.console import status_table
    from store.journal_reader import JournalReader

    settings = load_settings()
    with contextlib.closing(JournalReader(settings.data_dir / "journal")) as reader:
        last = reader.last()
    if last is None:
        raise CallerError(f"nothing was ever journaled in {settings.data_dir}; start with `fieldloom demo` or `fieldloom serve`")
    Console().print(status_table(settings, last, now_ns=time.time_ns()))


def tail(
    site: Annotated[str, typer.Option(help="Only this site.")] = "",
    samples: Annotated[bool, typer.Option("--samples", help="Every sample too, not only what was decided.")] = False,
    count: Annotated[int, typer.Option(help="End after so many lines; 0: never.", min=0)] = 0,
) -> None:
    """The live stream in words: alarms, commands, events. Ctrl-C ends it."""
    from app.console import Narrator
    from store.journal_reader import JournalReader

    directory = load_settings().data_dir / "journal"
    with contextlib.closing(JournalReader(directory)) as reader, contextlib.suppress(KeyboardInterrupt):
        narrator, printed = Narrator(with_samples=samples), 0
        last = reader.last()
        position = -1 if last is None else last.last
        narrator.learn(_configurations(directory))
        while True:
            found = reader.read(position)
            for transaction in found:
                for line in narrator.lines(transaction):
                    if not site or f"{site}/" in line:
                        print(line, flush=True)
                        printed += 1
                        if count and printed >= count:
                            return
                position = transaction.last
            if not found:
                time.sleep(FOLLOW_POLL_S)


def _configurations(directory: Path) -> Iterator[Transaction]:
    """Every transaction before now, for the names of points."""
    return _transactions(directory)


def query(
    point: Annotated[str, typer.Argument(help="site/device/point.")],
    last: Annotated[str, typer.Option(help="How far back: 90s, 30min, 6h, 7d.")] = "1h",
    points: Annotated[
        int, typer.Option(help="At most so many rows; more are condensed without losing extremes.", min=1, max=5000)
    ] = 40,
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated, for other programs.")] = False,
) -> None:
    """History of a point."""
    from app.client import connect

    site, device, name = _point(point)
    end = datetime.now(UTC)
    start_ms = int((end - _duration(last)).timestamp() * 1000)
    with connect(load_settings()) as client:
        found = client.get(f"/sites/{site}/devices/{device}/points/{name}/history", start_ms=start_ms, points=points)
    rows = found["samples"] if found["samples"] is not None else found["buckets"]
    _print_rows(rows, title=f"{point} [{found['unit']}]", is_csv=csv)


def _print_rows(rows: list[dict[str, Any]], *, title: str, is_csv: bool) -> None:
    names = list(rows[0]) if rows else ["t_ms"]
    if is_csv:
        print(",".join(names))
        for row in rows:
            print(",".join("" if row[n] is None else str(row[n]) for n in names))
        return
    table = Table(title=title, caption=f"{len(rows)} rows")
    for name in names:
        table.add_column("time (UTC)" if name == "t_ms" else name, justify="left" if name == "t_ms" else "right")
    for row in rows:
        moment = datetime.fromtimestamp(row["t_ms"] / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        table.add_row(*(moment if n == "t_ms" else _short(row[n]) for n in names))
    Console().print(table)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _point(text: str) -> tuple[str, str, str]:
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):
        raise CallerError(f"{text!r} is not a point; write site/device/point, such as nursery/climate-1/air_temp_c")
    return parts[0], parts[1], parts[2]


def _duration(text: str) -> timedelta:
    units = {"min": 60.0, "s": 1.0, "h": 3600.0, "d": 86400.0}
    for unit, seconds in units.items():
        digits = text.removesuffix(unit).strip()
        if text.endswith(unit) and digits.replace(".", "", 1).isdigit():
            return timedelta(seconds=float(digits) * seconds)
    raise CallerError(f"{text!r} is not a length of time; write a number and s, min, h or d, such as 30min")


def decisions(
    journal: Annotated[bool, typer.Option("--journal", help="As the journal has them (the default).")] = False,
    history: Annotated[bool, typer.Option("--history", help="As the history has them.")] = False,
    lane: Annotated[str, typer.Option(help="As a lane decides on the same entries now: live, or another lane's name.")] = "",
    only_hash: Annotated[bool, typer.Option("--hash", help="Only the count and the SHA-256 of the canonical log.")] = False,
) -> None:
    """The canonical decision log: one JSON line each, in one order, so that two runs can be compared byte for byte."""
    if sum((journal, history, bool(lane))) > 1:
        raise CallerError("choose one of --journal, --history and --lane")
    settings = load_settings()
    source: Iterable[list[Decision]] = _journaled(settings.data_dir / "journal")
    if lane:
        source = _recomputed(settings.data_dir / "journal") if lane == "live" else _lane(lane)
    log_hash = LogHash()
    for lines in _stored(settings) if history else (list(map(log_line, batch)) for batch in source):
        log_hash.add_lines(lines)
        if not only_hash:
            sys.stdout.buffer.writelines(lines)
    if only_hash:
        print(f"{log_hash.count} decisions sha256 {log_hash.hexdigest()}")


def _stored(settings: Settings) -> Iterator[list[bytes]]:
    """The log's lines as the history has them; what it does not have is said on standard error."""
    from app.history_log import open_log, position_of

    with open_log(settings) as log:
        for note in log.notes:
            print(f"note: {note}", file=sys.stderr)
        with slow_progress("reading the history", log.last + 1) as advance:
            for lines in log.pages:
                yield lines
                advance(position_of(lines[-1]) + 1)


def _lane(name: str) -> Iterable[list[Decision]]:
    from app.commands.run import part

    found: Iterable[list[Decision]] = part("app.lanes", "lane_decisions")(load_settings(), name)
    return found


def _transactions(directory: Path) -> Iterator[Transaction]:
    """All of the journal, oldest first, with a progress bar when it takes longer than two seconds."""
    from store.journal_reader import Gap, JournalReader

    if not directory.is_dir():
        raise CallerError(f"there is no journal in {directory}; set FIELDLOOM_DATA_DIR to the data directory")
    with contextlib.closing(JournalReader(directory)) as reader:
        newest = reader.last()
        end, position = -1 if newest is None else newest.last, -1
        with slow_progress("reading the journal", end + 1) as advance:
            while position < end:
                try:
                    found = reader.read(position, rows_max=10_000)
                except Gap as gap:
                    position = gap.available - 1
                    continue
                if not found:
                    return
                for transaction in found:
                    yield transaction
                    position = transaction.last
                advance(position + 1)


@contextlib.contextmanager
def slow_progress(what: str, total: int) -> Iterator[Any]:
    """`advance(done)` shows a bar on standard error once the work has taken two seconds."""
    from rich.progress import Progress

    began, shown = time.monotonic(), False
    with contextlib.ExitStack() as stack:
        progress = Progress(console=Console(stderr=True), transient=True)
        task = progress.add_task(what, total=total)

        def advance(done: int) -> None:
            nonlocal shown
            if not shown and time.monotonic() - began > PROGRESS_AFTER_S:
                shown = True
                stack.enter_context(progress)
            progress.update(task, completed=done)

        yield advance


def _journaled(directory: Path) -> Iterator[list[Decision]]:
    for transaction in _transactions(directory):
        yield in_order(transaction.read_decisions())


def _recomputed(directory: Path) -> Iterator[list[Decision]]:
    """What this build decides on the journal's entries from the beginning. Raises CallerError when the beginning was trimmed."""
    from app.wiring import build_engine

    engine = build_engine()
    for transaction in _transactions(directory):
        if engine.position < 0 < transaction.first:
            raise CallerError("the beginning of this journal was trimmed; a recomputation needs it whole")
        yield in_order(engine.step(transaction.read_entries()).decisions)
