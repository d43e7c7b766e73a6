"""Commands that look and change nothing: status, the live stream, history, the decision log."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.settings import Settings, load_settings
from app.words import say
from telemetry.decision import Decision, LogHash, in_order, log_line
from telemetry.errors import CallerError
from telemetry.frame import Entries
from telemetry.transaction import Transaction

if TYPE_CHECKING:
    from app.client import Client


class Recompute(StrEnum):
    """Where the entries of a recomputation come from, and how they are taken."""

    JOURNAL = "journal"
    HISTORY = "history"
    PLAINLY = "plainly"


FOLLOW_POLL_S: Final = 0.1
NAMES_SHOWN: Final = 20


def status() -> None:
    """What runs, what is wrong, and whether every message is accounted for."""
    from app.console import newest
    from app.status import print_status

    settings = load_settings()
    last = newest(settings.data_dir / "journal")
    if last is None:
        raise CallerError(f"nothing was ever journaled in {settings.data_dir}; start with `fieldloom demo` or `fieldloom serve`")
    print_status(settings, last)


def tail(
    site: Annotated[str, typer.Option(help="Only this site.")] = "",
    samples: Annotated[bool, typer.Option("--samples", help="Every sample too, not only what was decided.")] = False,
    count: Annotated[int, typer.Option(help="End after so many lines; 0: never.", min=0)] = 0,
) -> None:
    """The live stream in words: alarms, commands, events. Ctrl-C ends it."""
    from app.narrator import Narrator, known

    data_dir = load_settings().data_dir
    if not (data_dir / "journal").is_dir():
        raise CallerError(f"there is no journal in {data_dir}; set FIELDLOOM_DATA_DIR to the data directory of the service")
    plan = known(data_dir).plan
    if site and site not in plan.sites:
        raise CallerError(f"there is no site {site!r}; known: {', '.join(sorted(plan.sites)) or 'none yet'}")
    narrator, printed = Narrator(plan, with_samples=samples), 0
    with contextlib.suppress(KeyboardInterrupt):
        for transaction in _coming(data_dir / "journal"):
            for subject, line in narrator.lines(transaction):
                if site and subject.partition("/")[0] != site:
                    continue
                print(line, flush=True)
                printed += 1
                if count and printed >= count:
                    return


def _coming(journal: Path) -> Iterator[Transaction]:
    """Transactions from now on, without end."""
    from store.journal_reader import Gap, JournalReader

    with contextlib.closing(JournalReader(journal)) as reader:
        last = reader.last()
        position = -1 if last is None else last.last
        while True:
            try:
                found = reader.read(position)
            except Gap as gap:
                position = gap.available - 1
                continue
            for transaction in found:
                yield transaction
                position = transaction.last
            if not found:
                time.sleep(FOLLOW_POLL_S)


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
    start_ms = int((end - duration(last)).timestamp() * 1000)
    with connect(load_settings()) as client:
        try:
            found = client.get(f"/sites/{site}/devices/{device}/points/{name}/history", start_ms=start_ms, points=points)
        except CallerError:
            raise CallerError(_what_there_is(client, site, device, name)) from None
        zone = client.get(f"/sites/{site}")["zone"]
    rows = found["samples"] if found["samples"] is not None else found["buckets"]
    _print_rows(rows, title=f"{point} [{found['unit']}]", zone=zone, last=last, is_csv=csv)


def _what_there_is(client: "Client", site: str, device: str, point: str) -> str:
    """Why there is no such point: the part of its name that is wrong, and what there is instead."""
    sites = [item["site"] for item in client.get("/sites")["items"]]
    if site not in sites:
        return f"there is no site {site!r}; known: {', '.join(sites) or 'none yet'}"
    try:
        points = [item["point"] for item in client.get(f"/sites/{site}/points", device=device, limit=1000)["items"]]
    except CallerError:
        devices = [item["device"] for item in client.get(f"/sites/{site}/devices", limit=NAMES_SHOWN)["items"]]
        return (
            f"site {site!r} has no device {device!r}; it has {', '.join(devices)}{', ...' if len(devices) == NAMES_SHOWN else ''}"
        )
    near = get_close_matches(point, points, n=1)
    return f"{site}/{device} has no point {point!r}; " + (f"did you mean {near[0]}?" if near else f"it has {', '.join(points)}")


def _print_rows(rows: list[dict[str, Any]], *, title: str, zone: str, last: str, is_csv: bool) -> None:
    from app.tables import console, grid, heading, site_time

    names = list(rows[0]) if rows else ["t_ms"]
    if is_csv:
        print(",".join(names))
        for row in rows:
            print(",".join(_csv_cell(row[name]) for name in names))
        return
    console().print(heading(title))
    if not rows:
        print(say("no sample in the last {length}", length=last))
        return
    table = grid(say("time ({zone})", zone=zone), *(say(name) for name in names if name != "t_ms"))
    for row in rows:
        table.add_row(site_time(row["t_ms"] / 1000, zone), *(_short(row[name]) for name in names if name != "t_ms"))
    console().print(table)


def entries(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    last: Annotated[str, typer.Option(help="How far back: 6h, 7d, 30d.")] = "7d",
    csv: Annotated[bool, typer.Option("--csv", help="Comma-separated, for other programs.")] = False,
) -> None:
    """Who came into the houses and went out: badge, hours since other pigs, disinfected or not."""
    from app.client import connect

    start_ms = int((datetime.now(UTC) - duration(last)).timestamp() * 1000)
    with connect(load_settings()) as client:
        zone = client.get(f"/sites/{site}")["zone"]
        found = client.get(f"/sites/{site}/entries", start_ms=start_ms, limit=1000)
    rows = found["items"]
    if csv or not rows:
        _print_rows(rows, title=say("Entries of {site}", site=site), zone=zone, last=last, is_csv=csv)
        return
    words = {None: "", True: say("yes"), False: say("no")}
    ways = {None: "", True: say("in"), False: say("out")}
    shown = [
        {
            "t_ms": row["t_ms"],
            say("device"): row["device"],
            say("badge"): row["badge"],
            say("way"): ways[row["is_in"]],
            say("hours since other pigs"): row["pig_free_h"],
            say("disinfected"): words[row["disinfected"]],
        }
        for row in rows
    ]
    _print_rows(shown, title=say("Entries of {site}", site=site), zone=zone, last=last, is_csv=False)
    if not found["is_whole"]:
        print(say("Only the newest {count} are shown.", count=len(rows)))


def _csv_cell(value: Any) -> str:
    return "" if value is None else "|".join(map(str, value)) if isinstance(value, list) else str(value)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    return ", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)


def _point(text: str) -> tuple[str, str, str]:
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):
        raise CallerError(f"{text!r} is not a point; write site/device/point, such as nursery/climate-1/air_temp_c")
    return parts[0], parts[1], parts[2]


def duration(text: str) -> timedelta:
    """A length of time such as 30min. Raises CallerError."""
    units = {"min": 60.0, "s": 1.0, "h": 3600.0, "d": 86400.0}
    for unit, seconds in units.items():
        digits = text.removesuffix(unit).strip()
        if text.endswith(unit) and digits.replace(".", "", 1).isdigit():
            return timedelta(seconds=float(digits) * seconds)
    raise CallerError(f"{text!r} is not a length of time; write a number and s, min, h or d, such as 30min")


def why(
    subject: Annotated[str, typer.Argument(help="RULE@site/device for an alarm, site/device/actuator for a position.")],
    at: Annotated[
        str, typer.Option(help="The moment by the site's clock: 2026-01-13 06:12, 06:12 of today, 30min ago. Now without it.")
    ] = "",
) -> None:
    """Why an alarm stood, or an actuator was where it was, at any past moment."""
    from api.why import subject_of
    from app.why import ask, sentences

    for sentence in sentences(ask(load_settings(), subject_of(subject), at)):
        print(sentence)


def decisions(
    journal: Annotated[bool, typer.Option("--journal", help="As the journal has them (the default).")] = False,
    history: Annotated[bool, typer.Option("--history", help="As the history has them.")] = False,
    lane: Annotated[str, typer.Option(help="As the lane of this name decided.")] = "",
    recompute: Annotated[
        Recompute | None,
        typer.Option(help="As this build decides: on the journal's entries, on the history's, or on the journal's one at a time."),
    ] = None,
    only_hash: Annotated[bool, typer.Option("--hash", help="Only the count and the SHA-256 of the canonical log.")] = False,
) -> None:
    """The canonical decision log: one JSON line each, in one order, so that two runs can be compared byte for byte."""
    if sum((journal, history, bool(lane), recompute is not None)) > 1:
        raise CallerError("choose one of --journal, --history, --lane and --recompute")
    settings = load_settings()
    source: Iterable[list[Decision]] = _journaled(settings.data_dir / "journal")
    if lane:
        source = _lane(lane)
    elif recompute is not None:
        source = _recomputed(settings, recompute)
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
    from app.tables import slow_progress

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
    from app.tables import slow_progress
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


def _journaled(directory: Path) -> Iterator[list[Decision]]:
    for transaction in _transactions(directory):
        yield in_order(transaction.read_decisions())


def _recomputed(settings: Settings, source: Recompute) -> Iterator[list[Decision]]:
    """What this build decides from the beginning. Raises CallerError when that is not there."""
    from app.recompute import decide, decide_plainly, open_ordered, read_history
    from app.tables import slow_progress

    if source is not Recompute.HISTORY:
        entries = _from_beginning(_transactions(settings.data_dir / "journal"))
        yield from decide_plainly(entries) if source is Recompute.PLAINLY else decide(entries)
        return
    with open_ordered(settings) as history, slow_progress("deciding on the history", history.position() + 1) as advance:
        yield from decide(_advancing(read_history(history), advance))


def _advancing(runs: Iterable[Entries], advance: Callable[[int], None]) -> Iterator[Entries]:
    for entries in runs:
        yield entries
        advance(entries.first + len(entries))


def _from_beginning(transactions: Iterable[Transaction]) -> Iterator[Entries]:
    position = -1
    for transaction in transactions:
        if transaction.first != position + 1:
            raise CallerError("the beginning of this journal was trimmed; a recomputation needs it whole")
        yield transaction.read_entries()
        position = transaction.last
