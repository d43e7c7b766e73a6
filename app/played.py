"""What `fieldloom play` prints: what became of every cell, and the alarms with the recording's own times."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table

from app.lanes import LaneResult
from telemetry.decision import Decision
from telemetry.plan import NS_PER_S
from telemetry.site import SiteConfig

if TYPE_CHECKING:
    from app.play import Fates, Recording, Tally

SHOWN: Final = 40  # alarms; the rest is in the lane's log


def print_report(recording: "Recording", tally: "Tally", fates: "Fates", *, applied: bool) -> None:
    """Every cell's fate. Both sums hold: cells = samples + missing + unreadable, samples = stored + rejected + lost."""
    report = recording.report
    table = Table(title=f"{recording.key}: {report.rows:,} rows, {report.cells:,} cells", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = [
        ("samples", report.samples),
        ("missing (declared codes)", report.missing),
        ("unreadable cells", report.unreadable),
        ("  of rows without a time", report.rows_without_time),
        ("stored now", fates.added),
        ("already there", fates.repeated),
        ("changed (the first value stays)", fates.changed),
        *((f"rejected: {reason}", count) for reason, count in sorted(tally.rejected.items())),
        *((f"stored, marked {mark}", count) for mark, count in sorted(tally.marked.items()) if count),
        ("LOST", fates.lost),
    ]
    for name, count in rows:
        table.add_row(name, f"{count:,}")
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    for place in report.examples:
        console.print(f"  unreadable: {place}", markup=False)
    if report.unreadable > len(report.examples):
        console.print(f"  ... and {report.unreadable - len(report.examples)} more")
    if applied:
        console.print(f"The configuration of site {recording.site.site} was put in force.")


def print_alarms(site: SiteConfig, key: str, result: LaneResult, alarms: Sequence[Decision]) -> None:
    """Alarms that the lane raised for this device, in the site's own time, and where the whole log is."""
    raised = [alarm for alarm in alarms if alarm.body["event"] == "raise"]
    own = [alarm for alarm in raised if alarm.subject.endswith(f"@{key}")]
    table = Table("raised", "alarm", "priority", "value", title=f"{key}: {len(own)} alarms on the data's clock ({site.zone})")
    for alarm in own[:SHOWN]:
        value = alarm.body["value"]
        text = "" if value is None else f"{value:.2f}"
        table.add_row(moment(alarm.time_ns, site.zone), alarm.subject.split("@")[0], str(alarm.body["priority"]), text)
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    if len(own) > SHOWN:
        console.print(f"... and {len(own) - SHOWN} more")
    console.print(f"Lane {site.site}: {result.decisions} decisions, {len(raised)} alarms raised by all its devices")
    console.print(f"{result.path} sha256 {result.sha256}")


def print_now(recording: "Recording", tally: "Tally", sent: int) -> None:
    """What the live lane took and raised."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{recording.key}: {sent:,} samples sent, {tally.samples:,} journaled, {sum(tally.rejected.values()):,} rejected")
    for alarm in tally.alarms[:SHOWN]:
        words = f"{alarm.body['event']} {alarm.body['priority']} {alarm.subject}"
        console.print(f"  {moment(alarm.time_ns, recording.site.zone)} {words}", markup=False)


def moment(time_ns: int, zone: str) -> str:
    """A time as clocks at the site show it."""
    return datetime.fromtimestamp(time_ns // NS_PER_S, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S")
