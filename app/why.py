"""`fieldloom why`: where the answer comes from (web while it runs, else the history file, else the journal), and its sentences."""

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from api.why import CauseView, Records, Subject, WhyView, config_of, explain
from app.client import NoServiceError, connect
from app.commands.look import duration
from app.history_log import journal_last
from app.narrator import ALARM_WORDS, COMMAND_WORDS, configure, known, length
from app.serving import open_history
from app.settings import Settings
from app.tables import site_time, slow_progress
from app.words import say, text_of
from store.decision_log import read_coverage
from store.history import RecordRow
from store.journal_reader import Gap, JournalReader
from store.projection import record_rows
from telemetry.errors import CallerError
from telemetry.plan import Plan
from telemetry.site import SiteConfig

STATE_WORDS: Final = {
    "NORM": "normal",
    "UNACK": "active, not acknowledged",
    "ACKED": "active, acknowledged",
    "RTNUN": "cleared, not yet acknowledged",
    "LATCH": "cleared, waits for a reset",
    "SHLVD": "shelved",
    "DSUPR": "suppressed by design",
    "OOSRV": "out of service",
}
LINKS_MAX: Final = 8  # lines of links of one cause; a controller reads thirty points
CLEARED: Final = ("NORM", "RTNUN", "LATCH")
BOUND_WORDS: Final = {"at_least": "at least {value}", "at_most": "at most {value}", "value": "exactly {value}"}
LEVEL_WORDS: Final = {
    "personnel_safety": "safety of people",
    "equipment": "equipment",
    "survival": "survival",
    "manual": "by hand",
    "humidity_gas": "humidity and gas",
    "temperature": "temperature",
    "economy": "economy",
}


class JournalRecords:
    """Records of a journal about one subject, its site's configurations and all people's requests, kept in memory."""

    def __init__(self, directory: Path, subject: Subject) -> None:
        """Reads all of the journal once. Raises CallerError without one, CorruptError, StoreError."""
        if not directory.is_dir():
            raise CallerError(f"there is no journal in {directory}; set FIELDLOOM_DATA_DIR to the data directory")
        self._rows = list(self._read(directory, subject))

    @staticmethod
    def _read(directory: Path, subject: Subject) -> Iterator[RecordRow]:
        plan, position = Plan(), -1
        with contextlib.closing(JournalReader(directory)) as reader:
            newest = reader.last()
            with slow_progress("reading the journal", 0 if newest is None else newest.last + 1) as advance:
                while newest is not None and position < newest.last:
                    try:
                        transactions = reader.read(position, rows_max=10_000)
                    except Gap as gap:
                        position = gap.available - 1
                        continue
                    for transaction in transactions:
                        entries, position = transaction.read_entries(), transaction.last
                        configure(plan, (record for _, record in entries.records))
                        for row in record_rows(entries, transaction.read_decisions(), plan):
                            is_of_site = row.site == subject.site and row.kind in {"config", "request"}
                            if is_of_site or row.subject == subject.name or row.kind == "blind":
                                yield row
                    advance(position + 1)

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
        """See `store.history.History`."""
        found = [
            row
            for row in self._rows
            if kind in {None, row.kind}
            and site in {None, row.site}
            and subject in {None, row.subject}
            and (start_ms is None or row.time_ms >= start_ms)
            and (end_ms is None or row.time_ms < end_ms)
        ]
        return (found[::-1] if newest_first else found)[:limit]


def ask(settings: Settings, subject: Subject, at: str) -> WhyView:
    """The answer for a moment as `moment_ms` reads it. Raises CallerError, EnvironmentFault or StoreError, each with its fix."""
    is_elsewhere = bool(os.environ.get("FIELDLOOM_URL"))
    if is_elsewhere or (settings.data_dir / "web.sqlite").is_file():
        try:
            with connect(settings) as client:
                zone = client.get(f"/sites/{subject.site}")["zone"]
                query: dict[str, Any] = {"subject": subject.name, "at_ms": moment_ms(at, zone)}
                return WhyView.model_validate(client.get(f"/sites/{subject.site}/why", **query))
        except NoServiceError:
            if is_elsewhere:
                raise
    file = settings.data_dir / ("history.duckdb" if settings.history == "duckdb" else "history.sqlite")
    with contextlib.ExitStack() as stack:
        records: Records
        if file.is_file():
            history = stack.enter_context(contextlib.closing(open_history(settings)))
            for note in read_coverage(history).notes(journal_last(settings)):
                print(f"note: {note}", file=sys.stderr)
            records, current = history, None
        else:
            records = JournalRecords(settings.data_dir / "journal", subject)
            current = _of_snapshot(settings, subject.site)
        return explain(records, subject, moment_ms(at, _zone(records, subject.site, current)), current=current)


def _of_snapshot(settings: Settings, site: str) -> SiteConfig | None:
    """The configuration as core's newest snapshot and what came after it have it; the journal's own beginning may be trimmed."""
    return known(settings.data_dir).plan.sites.get(site)


def _zone(records: Records, site: str, current: SiteConfig | None) -> str:
    if current is not None:
        return current.zone
    found = config_of(records.records(kind="config", site=site, limit=1))
    return "UTC" if found is None else found.zone


def moment_ms(text: str, zone: str) -> int:
    """A moment of the site's clock: "2026-01-13 06:12", "06:12" of today, "30min" ago, "" now; with an offset, of that clock."""
    now = datetime.now(ZoneInfo(zone))
    if not text:
        return int(now.timestamp() * 1000)
    if text.endswith(("s", "min", "h", "d")):
        return int((now - duration(text)).timestamp() * 1000)
    try:
        found = datetime.fromisoformat(text if len(text) > len("06:12:00") else f"{now:%Y-%m-%d} {text}")
    except ValueError as error:
        raise CallerError(f"{text!r} is not a moment; write 2026-01-13 06:12, 06:12 for today, or 30min for so long ago") from error
    found = found if found.tzinfo is not None else found.replace(tzinfo=ZoneInfo(zone))
    return int(found.timestamp() * 1000)


def sentences(why: WhyView) -> Iterator[str]:
    """The answer in the reader's language."""
    yield say("{subject} at {time} ({zone}):", subject=why.subject, time=_time(why, why.at_ms), zone=why.zone)
    match why.answer:
        case "unrecorded":
            yield say("Nothing was recorded then; records of this site begin at {time}.", time=_time(why, why.first_ms or 0))
        case "unconfigured":
            yield say("It was not configured then.")
        case "alarm":
            yield from _alarm(why)
        case _:
            yield from _actuator(why)


def _alarm(why: WhyView) -> Iterator[str]:
    state = say(STATE_WORDS.get(str(why.state), str(why.state)))
    if why.since_ms is None:
        yield say("Normal: it was never raised before.")
        return
    named = f"{why.state}, {why.priority}" if why.priority else why.state
    yield say("Alarm {state} ({named}) since {time}.", state=state, named=named, time=_time(why, why.since_ms))
    message = text_of(why.message).replace("{device}", why.subject.rpartition("/")[2])
    if message and why.state in {"UNACK", "ACKED"}:
        yield message.replace("{value}", "" if why.value is None else f"{round(why.value, 1):.6g}")
    if why.event not in {None, "raise", "clear"}:
        yield say("Last change: {happened}", happened=say(ALARM_WORDS.get(str(why.event), str(why.event))))
    if why.person:
        yield say("By {person}: {note}", person=why.person, note=why.note or say("no reason given"))
    if why.until_ms is not None:
        yield say("Until {time}.", time=_time(why, why.until_ms))
    if why.cause is not None:
        yield from _rule(why, why.cause)


def _actuator(why: WhyView) -> Iterator[str]:
    value = _value(why, why.value)
    if why.answer == "rest":
        since = "" if why.since_ms is None else say(" since {time}", time=_time(why, why.since_ms))
        yield say("Nobody asked{since}: rest position {value}.", since=since, value=value)
    elif why.answer == "fail_safe":
        yield from _fail_safe(why, value)
    elif why.cause is not None:
        yield say("Asked: {value} since {time}.", value=value, time=_time(why, why.since_ms or 0))
        yield from _asked(why, why.cause)
    for loser in why.losers:
        yield say("Not followed:")
        yield from _asked(why, loser)
    if why.command is not None:
        yield _command(why)
    if why.blind_since_ms is not None:
        yield say(
            "Core was blind since {time}: it moved nothing, and a device without a lease for 15 s was on its own.",
            time=_time(why, why.blind_since_ms),
        )


def _fail_safe(why: WhyView, value: str) -> Iterator[str]:
    assert why.command is not None
    if isinstance(why.command.fail_safe, float):
        safe = _value(why, why.command.fail_safe)
        yield say("Fail-safe: a command was not answered or not obeyed. Sent to {safe}; asked was {value}.", safe=safe, value=value)
    else:
        yield say("Fail-safe: a command was not answered or not obeyed. It stays where it is; asked was {value}.", value=value)
    if why.cause is not None:
        yield say("Asked until then:")
        yield from _asked(why, why.cause)


def _asked(why: WhyView, cause: CauseView) -> Iterator[str]:
    """Who asked for what, and on what grounds."""
    bound = say(BOUND_WORDS.get(str(cause.bound), "exactly {value}"), value=_value(why, cause.value))
    if cause.kind == "override":
        yield say("  {bound} by hand: {reason}", bound=bound, reason=cause.reason)
        if cause.until_ms is not None:
            yield say("  It ends by itself at {time}.", time=_time(why, cause.until_ms))
        return
    level = say(LEVEL_WORDS.get(str(cause.level), str(cause.level)))
    if cause.kind == "controller":
        words = text_of(cause.words) or cause.reason
        yield say(
            "  {bound} by controller {controller}: {words} ({level})",
            bound=bound,
            controller=cause.controller,
            words=words,
            level=level,
        )
        told = [f"{one.text} {one.shown} {one.unit}".rstrip() for one in cause.read if one.shown]
        if told:
            yield f"    {', '.join(told)}"
        yield from _links(cause, _site(why))
        return
    yield say("  {bound} by rule {rule} ({level})", bound=bound, rule=cause.rule, level=level)
    yield from _rule(why, cause)


def _rule(why: WhyView, cause: CauseView) -> Iterator[str]:
    """The rule, its expression with values, how long it had held, and where the samples are."""
    if cause.with_values is None:
        yield say(
            "  The text of version {version} of rule {rule} is not known any more.", version=cause.rule_version, rule=cause.rule
        )
    elif why.state in CLEARED:
        yield say(
            "  Rule {rule}, version {version}, does not hold any more: {when}",
            rule=cause.rule,
            version=cause.rule_version,
            when=cause.with_values,
        )
    else:
        yield say("  Rule {rule}, version {version}: {when}", rule=cause.rule, version=cause.rule_version, when=cause.with_values)
    if cause.since_ms is not None:
        held = length(max(0, why.at_ms - cause.since_ms) / 1000)
        waits = say(", of which the rule waits for {length}", length=length(cause.on_delay_s)) if cause.on_delay_s else ""
        yield say("  It began to hold at {time}, {held} before{waits}.", time=_time(why, cause.since_ms), held=held, waits=waits)
    yield from _links(cause, _site(why))


def _links(cause: CauseView, site: str) -> Iterator[str]:
    links = [f"    {reading.text}: {link}" for reading in cause.read for link in reading.history]
    shown = links if len(links) <= LINKS_MAX else links[: LINKS_MAX - 1]
    yield from shown
    if len(links) > len(shown):
        yield say("    ... and {count} more; GET /sites/{site}/why gives them all", count=len(links) - len(shown), site=site)


def _site(why: WhyView) -> str:
    return why.subject.rpartition("@")[2].partition("/")[0]


def _command(why: WhyView) -> str:
    command = why.command
    assert command is not None
    measured = "" if command.measured is None else say(" (measured {value})", value=_value(why, command.measured))
    detail = f" [{command.detail}]" if command.detail else ""
    return say(
        "Command {id}: {value} {state} at {time}{measured}{detail}",
        id=command.id,
        value=_value(why, command.value),
        state=say(COMMAND_WORDS.get(command.state, command.state)),
        time=_time(why, command.changed_ms),
        measured=measured,
        detail=detail,
    )


def _value(why: WhyView, value: float | None) -> str:
    return say("nothing") if value is None else f"{value:g} {why.unit}".rstrip()


def _time(why: WhyView, time_ms: int) -> str:
    return site_time(time_ms / 1000, why.zone)
