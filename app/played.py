"""What `fieldloom play` prints: what became of every cell, and the alarms with the recording's own times."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from app.lanes import LaneResult
from app.narrator import alarm_text, alarm_words
from app.tables import console, grid, heading, site_time
from app.words import say
from telemetry.decision import Decision
from telemetry.plan import NS_PER_S
from telemetry.site import SiteConfig

if TYPE_CHECKING:
    from app.play import Fates, Recording, Tally

SHOWN: Final = 20  # alarms, the newest; all of them are in the lane's log


def print_report(recording: "Recording", tally: "Tally", fates: "Fates", *, applied: bool) -> None:
    """Every cell's fate. Both sums hold: cells = samples + missing + unreadable, samples = stored + rejected + lost."""
    report, screen = recording.report, console()
    table = grid()
    table.add_column(justify="right")
    rows = [
        (say("samples"), report.samples),
        (say("missing (declared codes)"), report.missing),
        (say("unreadable cells"), report.unreadable),
        ("  " + say("of rows without a time"), report.rows_without_time),
        (say("stored now"), fates.added),
        (say("already there"), fates.repeated),
        (say("changed (the first value stays)"), fates.changed),
        *((say("rejected") + f": {reason}", count) for reason, count in sorted(tally.rejected.items())),
        *((say("stored with a doubt") + f": {mark}", count) for mark, count in sorted(tally.marked.items()) if count),
        (say("LOST"), fates.lost),
    ]
    for name, count in rows:
        table.add_row(name, f"{count:,}")
    screen.print(
        heading(say("{device}: {rows:,} rows, {cells:,} cells", device=recording.key, rows=report.rows, cells=report.cells))
    )
    screen.print(table)
    for place in report.examples:
        screen.print(f"  {say('unreadable')}: {place}", markup=False)
    if report.unreadable > len(report.examples):
        screen.print("  " + say("... and {count:,} more", count=report.unreadable - len(report.examples)))
    if applied:
        screen.print(say("The configuration of site {site} was put in force.", site=recording.site.site))
    screen.print()


def print_alarms(site: SiteConfig, key: str, result: LaneResult, alarms: Sequence[Decision]) -> None:
    """Alarms that the lane raised for this device, in the site's own time, and where the whole log is."""
    raised = [alarm for alarm in alarms if alarm.body["event"] == "raise"]
    own = [alarm for alarm in raised if alarm.subject.endswith(f"@{key}")]
    screen = console()
    screen.print(heading(say("{device}: {count:,} alarms on the data's own clock", device=key, count=len(own))))
    if own:
        _print_kinds(own)
        _print_times(own, site.zone)
    screen.print(
        say("Lane {site}: {decisions:,} decisions, {alarms:,} alarms raised by all its devices",
            site=site.site, decisions=result.decisions, alarms=len(raised))
    )  # fmt: skip
    screen.print(f"{result.path} sha256 {result.sha256}")


def _print_kinds(alarms: Sequence[Decision]) -> None:
    table = grid(say("alarm"), say("count"))
    table.add_column(say("priority"))
    table.add_column("")
    counts = Counter(alarm.subject.split("@")[0] for alarm in alarms)
    newest = {alarm.subject.split("@")[0]: alarm for alarm in alarms}
    for rule, count in counts.most_common():
        table.add_row(rule, f"{count:,}", str(newest[rule].body["priority"]), alarm_text(newest[rule]))
    console().print(table)
    console().print()


def _print_times(alarms: Sequence[Decision], zone: str) -> None:
    table = grid(say("time ({zone})", zone=zone))
    table.add_column(say("alarm"))
    table.add_column("")
    for alarm in alarms[-SHOWN:]:
        table.add_row(site_time(alarm.time_ns / NS_PER_S, zone), alarm.subject.split("@")[0], alarm_text(alarm))
    if len(alarms) > SHOWN:
        console().print(say("the newest {count}:", count=SHOWN))
    console().print(table)
    console().print()


def print_now(recording: "Recording", tally: "Tally", sent: int) -> None:
    """What the live lane took and raised."""
    screen, zone = console(), recording.site.zone
    counts = {"sent": sent, "journaled": tally.samples, "rejected": sum(tally.rejected.values())}
    screen.print(
        say("{device}: {sent:,} samples sent, {journaled:,} journaled, {rejected:,} rejected", device=recording.key, **counts)
    )
    for alarm in tally.alarms[-SHOWN:]:
        screen.print(f"  {site_time(alarm.time_ns / NS_PER_S, zone)}  {alarm_words(alarm)}", markup=False)
