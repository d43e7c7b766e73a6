"""`fieldloom backtest`: what rules would have said about recorded history."""

import csv
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.settings import Settings, load_settings
from app.words import say
from telemetry.errors import CallerError

if TYPE_CHECKING:
    from app.backtest.order import Rules
    from app.backtest.report import Label, Report

POLL_S: Final = 0.5
SHOWN: Final = 20


def backtest(
    rules: Annotated[str, typer.Argument(help="A rule file, a directory of them, a site's directory; or `site`: the site's own.")],
    site: Annotated[str, typer.Option(help="The site, as history knows it.")],
    from_: Annotated[str, typer.Option("--from", help="Begin: 2025-01-31 or 2025-01-31T06:30, by the site's clock.")],
    to: Annotated[str, typer.Option(help="End, the same way; not included.")],
    against: Annotated[
        str | None, typer.Option(help="Compare with: a file or directory, `site`, or the beginning of a configuration's sha256.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Events (CSV or YAML: from, to, label) to count hits, misses and false alarms by.", exists=True),
    ] = None,
    without_people: Annotated[
        bool, typer.Option("--without-people", help="Leave out modes, batches and overrides that people set.")
    ] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Every alarm with its times.", dir_okay=False)] = None,
    html: Annotated[Path | None, typer.Option(help="A report with charts, in one file.", dir_okay=False)] = None,
    json: Annotated[Path | None, typer.Option(help="All numbers.", dir_okay=False)] = None,
) -> None:
    """Rules over history: alarms, their times, what differs from another version. Nothing is sent, nothing is changed. Ctrl-C ends it
    with what is done so far."""
    began, settings = time.perf_counter(), load_settings()
    asked: dict[str, Any] = {
        "rules": _rules(rules), "against": None if against is None else _rules(against), "from": from_, "to": to,
        "labels": labels, "people": not without_people,
    }  # fmt: skip
    report = _run(settings, site, asked)
    report.wall_s = round(time.perf_counter() - began, 3)
    _print(report)
    if csv_file is not None:
        write_csv(csv_file, report)
    if html is not None:
        from app.backtest.html import page

        html.write_text(page(report), "utf-8")
    if json is not None:
        import msgspec

        json.write_bytes(msgspec.json.encode(report))
    if not report.complete:
        raise typer.Exit(130)


def _rules(word: str) -> "Rules":
    """Rules of a file or a directory; other words name versions."""
    from app.site_files import load_rules

    return load_rules(Path(word)) if Path(word).exists() and word != "site" else word


def _run(settings: Settings, site: str, asked: dict[str, Any]) -> "Report":
    """Through `web` where it runs, because it alone may open the history then; else from the file."""
    from app.client import NoServiceError, connect

    is_elsewhere = bool(os.environ.get("FIELDLOOM_URL"))
    if is_elsewhere or (settings.data_dir / "web.sqlite").is_file():
        try:
            with connect(settings) as client:
                return _remote(client, site, asked)
        except NoServiceError:
            if is_elsewhere:
                raise
    return _local(settings, site, asked)


def _ends(asked: dict[str, Any], zone: str) -> "tuple[int, int, list[Label]]":
    from app.backtest.order import read_labels, time_ms

    events = [] if asked["labels"] is None else read_labels(asked["labels"], zone)
    return time_ms(asked["from"], zone), time_ms(asked["to"], zone), events


def _local(settings: Settings, site: str, asked: dict[str, Any]) -> "Report":
    from app.backtest.order import make_job, zone_of
    from app.backtest.report import Collector
    from app.backtest.worker import Backtest
    from app.serving import open_history
    from app.tables import slow_progress
    from store.scan import FileScan, Past

    file = settings.data_dir / "history.duckdb" if settings.history == "duckdb" else None
    if file is not None and not file.is_file():
        raise CallerError(f"there is no history in {settings.data_dir}; `fieldloom serve web` writes {file.name}")
    past: Past = FileScan(file) if file is not None else open_history(settings)
    start_ms, end_ms, events = _ends(asked, zone_of(past, site))
    given: dict[str, Any] = {"rules": asked["rules"], "against": asked["against"], "with_people": asked["people"]}
    job, faults = make_job(past, site, start_ms=start_ms, end_ms=end_ms, **given)
    if isinstance(past, FileScan):
        past.close()
    run = Backtest(job, file=file, history=None if file is not None else past)
    found = Collector(job.variants, start_ms, end_ms)
    with slow_progress(say("Backtest"), end_ms - start_ms) as advance:
        try:
            for piece in run.pieces():
                found.add(piece)
                advance(piece.reached_ms - start_ms)
        except KeyboardInterrupt:
            print(say("Stopped; what follows is what was done so far."), file=sys.stderr)
    report = found.report(labels=events, against=_name(asked["against"]), faults=faults)
    report.reading_s, report.framing_s, report.evaluating_s, report.rss_mb = (round(x, 3) for x in run.spent)
    return report


def _name(rules: "Rules | None") -> str:
    return "" if rules is None else rules if isinstance(rules, str) else "file"


def _remote(client: Any, site: str, asked: dict[str, Any]) -> "Report":
    import msgspec

    from app.backtest.report import Report
    from app.tables import slow_progress

    start_ms, end_ms, events = _ends(asked, client.get(f"/sites/{site}")["zone"])

    def plain(rules: "Rules | None") -> Any:
        return [rule.model_dump(mode="json") for rule in rules] if isinstance(rules, list) else rules

    body = {
        "rules": plain(asked["rules"]), "against": plain(asked["against"]), "start_ms": start_ms, "end_ms": end_ms,
        "labels": msgspec.to_builtins(events), "people": asked["people"],
    }  # fmt: skip
    path = f"/sites/{site}/backtests/{client.post(f'/sites/{site}/backtests', body)['id']}"
    with slow_progress(say("Backtest"), end_ms - start_ms) as advance:
        try:
            while (state := client.get(path))["state"] == "running":
                advance(state["reached_ms"] - start_ms)
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            client.delete(path)
            print(say("Stopped; what follows is what was done so far."), file=sys.stderr)
            while (state := client.get(path))["state"] == "running":
                time.sleep(POLL_S)
    if state["state"] == "failed":
        raise CallerError(state["problem"])
    return msgspec.convert(client.get(f"{path}/report"), Report)


def _print(report: "Report") -> None:
    from app.backtest.html import actuator_cells, actuator_columns, alarm_cells, cells, columns, notices
    from app.tables import console, grid, heading, site_time

    screen = console()
    for sentence in notices(report):
        screen.print(sentence, markup=False)
    ends = [site_time(at / 1000, report.zone) for at in (report.start_ms, report.reached_ms)]
    words = say(
        "{start} to {end} ({zone}), {samples:,} samples", start=ends[0], end=ends[1], zone=report.zone, samples=report.samples
    )
    screen.print(heading(f"{say('Backtest of {site}', site=report.site)}: {words}"))
    table = grid(say("rule"), *columns(report))
    for rule in report.rules:
        table.add_row(rule.rule, *cells(rule, report))
    screen.print(table)
    shown = report.alarms[-SHOWN:]
    if shown:
        table = grid(say("alarm"))
        for name in (say("device"), say("raised"), say("cleared"), say("change"), say("event")):
            table.add_column(name)
        for alarm in shown:
            table.add_row(*alarm_cells(alarm, report))
        screen.print()
        screen.print(say("the newest {count}:", count=len(shown)))
        screen.print(table)
    if report.actuators:
        table = grid(say("actuator"), *actuator_columns())
        for actuator in report.actuators:
            table.add_row(actuator.actuator, *actuator_cells(actuator))
        screen.print()
        screen.print(table)
    screen.print(f"{report.decisions:,} {say('decisions')}, sha256 {report.sha256}")


def write_csv(file: Path, report: "Report") -> None:
    """Every alarm: times in ms since 1970 and by the site's clock."""
    from app.backtest.html import alarm_cells

    with file.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["rule", "device", "raised", "cleared", "change", "event", "raised_ms", "cleared_ms", "priority", "value"])
        for alarm in report.alarms:
            times = [alarm.raised_ms, alarm.cleared_ms, alarm.priority, alarm.value]
            out.writerow([*alarm_cells(alarm, report), *("" if x is None else x for x in times)])
