"""`fieldloom status`: what runs, what wants somebody, and where every message is. The journal tells it; the web process adds details."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.text import Text

from app.client import Client, base_url, connect
from app.narrator import clock_text, known, length
from app.settings import Settings
from app.tables import grid, heading
from app.words import say
from people.delivery import DeliveryReader
from telemetry.errors import FieldloomError
from telemetry.plan import NS_PER_S
from telemetry.transaction import Accounting, Transaction

SILENT_S: Final = 5.0  # core writes a tick every second
NAMES_SHOWN: Final = 5
LABELS: Final = {"messages": "", "samples": "samples_"}  # prefix of their counters
MARKS: Final = {
    "rows that came late or as backfill": "late",
    "rows from the future": "future",
    "sequence numbers missing": "gaps",
    "repeats with another value (the first stays)": "changed",
}
PRIORITIES: Final = ("P1", "P2", "P3", "P4")
FATES: Final = ("delivered", "waiting", "failed")
DAY_MS: Final = 86_400_000
Part = tuple[RenderableType, ...]
SUMS: Final = ("received", "stored", "duplicate", "rejected", "pending")


def print_status(settings: Settings, last: Transaction) -> None:
    """Everything, as tables."""
    accounting = last.read_accounting()
    with web(settings) as (client, problem):
        parts: list[Any] = [_processes(settings, last, client, problem)]
        if client is not None:
            sites = client.get("/sites")["items"]
            parts += [_sites(sites), _modes(client, [site["site"] for site in sites])]
        parts.append(_accounting(accounting))
        if accounting.rejected_by_reason:
            parts.append(_rejects(accounting, client))
    parts.append(_notifications(settings))
    parts.append(_marks(accounting, sorted(known(settings.data_dir).wrong_clocks)))
    Console(highlight=False).print(Group(*(line for part in parts for line in (*part, ""))))


@contextlib.contextmanager
def web(settings: Settings) -> Iterator[tuple[Client | None, str]]:
    """A client of the web process, or why there is none."""
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(connect(settings))
            client.get("/sites")
        except FieldloomError as error:
            yield None, str(error)
        else:
            yield client, ""


def _processes(settings: Settings, last: Transaction, client: Client | None, problem: str) -> Part:
    age_s = (time.time_ns() - last.engine_ns) / NS_PER_S
    if age_s < -1:
        core = Text(say("this machine's clock is {length} behind the journal; set the time", length=length(-age_s)), "red")
    elif age_s < SILENT_S:
        core = Text(say("runs, wrote {seconds:.1f} s ago", seconds=age_s), "green")
    else:
        core = Text(say("has written nothing for {length}; see `fieldloom doctor`", length=length(age_s)), "red")
    table = grid()
    table.add_row(say("data"), str(settings.data_dir.resolve()))
    table.add_row(say("core"), core)
    table.add_row(say("web"), Text(problem, "yellow") if client is None else Text(base_url(settings), "green"))
    table.add_row(say("journal"), say("position {position:,}, epoch {epoch}", position=last.last, epoch=last.epoch))
    return (table,)


def _sites(sites: list[dict[str, Any]]) -> Part:
    table = grid(say("site"), say("origin"), say("devices"), say("silent"), *PRIORITIES, say("unacknowledged"))
    for site in sites:
        alarms = (str(site["alarms"][priority]) for priority in PRIORITIES)
        counts = (f"{site['devices']:,}", f"{site['devices_silent']:,}", *alarms, str(site["unacknowledged"]))
        table.add_row(site["site"], site["origin"], *counts)
    return (table,)


def _modes(client: Client, sites: list[str]) -> Part:
    """Actuators that the rules do not work now."""
    found = [item for site in sites for item in client.get(f"/sites/{site}/modes")["items"]]
    if not found:
        return ()
    table = grid(say("actuator"), say("mode"), say("until"), say("reason"))
    for item in found[:NAMES_SHOWN]:
        until = "" if item["manual_until_ms"] is None else clock_text(item["manual_until_ms"] * 1_000_000)
        name, mode = f"{item['site']}/{item['device']}/{item['actuator']}", say(item["mode"])
        table.add_row(name, Text(mode, "red" if item["is_unsafe"] else "yellow"), until, Text(item["manual_reason"]))
    more = [f"... {len(found):,}"] if len(found) > NAMES_SHOWN else []
    return heading(say("Not in AUTO")), table, *more


def _accounting(accounting: Accounting) -> Part:
    holds = Text(say("holds"), "green") if accounting.is_balanced() else Text(say("DOES NOT HOLD; please report this"), "red")
    table = grid("", *(say(name) for name in SUMS))
    for label, prefix in LABELS.items():
        table.add_row(say(label), *(f"{getattr(accounting, prefix + name):,}" for name in SUMS))
    return Text.assemble(heading(say("received = stored + duplicate + rejected + pending")), " ", holds), table


def _rejects(accounting: Accounting, client: Client | None) -> Part:
    """By reason, each with its newest example. Of a message of which only parts were rejected the rest is stored."""
    newest: dict[str, dict[str, Any]] = {}
    for item in [] if client is None else client.get("/rejects", limit=200)["items"]:
        newest.setdefault(item["reason"], item)
    table = grid(say("reason"), say("count"))
    table.expand = True
    table.add_column(say("newest"), overflow="ellipsis", no_wrap=True, ratio=1)
    for reason, count in sorted(accounting.rejected_by_reason.items(), key=lambda item: -item[1]):
        item = newest.get(reason)
        example = "" if item is None else f"{item['topic']}  {item['evidence'].get('detail', '')!s}"
        table.add_row(reason, f"{count:,}", Text(example))
    return heading(say("Rejected messages and values")), table


def _notifications(settings: Settings) -> Part:
    """Of the last day: what arrived, waits and failed; channels that are dead; the newest test of the alarm path."""
    reader = DeliveryReader(settings.data_dir / "notify.sqlite")
    counts = reader.counts(time.time_ns() // 1_000_000 - DAY_MS)
    table = grid("", *(say(state) for state in FATES))
    table.add_row(say("of the last day"), *(f"{counts.get(state, 0):,}" for state in FATES))
    lines: list[RenderableType] = [table]
    for channel in reader.channels():
        if channel.failures:
            text = say(
                "channel {name}: {count} failures in a row: {error}", name=channel.name, count=channel.failures, error=channel.error
            )
            lines.append(Text(text, "red"))
    for test in reader.tests(1):
        age = length(time.time() - test.asked_ms / 1000)
        text = say(
            "newest test of the alarm path, {age} ago: {state}, {detail}", age=age, state=say(test.state), detail=test.detail
        )
        lines.append(Text(text, {"passed": "green", "failed": "red"}.get(test.state, "yellow")))
    return heading(say("Notifications")), *lines


def _marks(accounting: Accounting, wrong_clocks: list[str]) -> Part:
    """What was kept with a doubt."""
    table = grid()
    table.add_column(justify="right")
    for label, counter in MARKS.items():
        table.add_row(say(label), f"{getattr(accounting, counter):,}")
    if accounting.upgrade_count:
        text = say("transactions that a new build decides otherwise, from position {first:,} on", first=accounting.upgrade_first)
        table.add_row(text, Text(f"{accounting.upgrade_count:,}", "yellow"))
    names = ", ".join(wrong_clocks[:NAMES_SHOWN]) + (f" ... {len(wrong_clocks):,}" if len(wrong_clocks) > NAMES_SHOWN else "")
    table.add_row(say("devices whose clock is wrong"), Text(names, "red") if wrong_clocks else "0")
    return heading(say("Stored, but with a doubt")), table
