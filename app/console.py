"""What a terminal shows: the status table, the journal in words, and the demo's live view. Reads the journal, writes nothing."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from app.settings import Settings
from store.journal_reader import Gap, JournalReader
from telemetry.decision import Decision
from telemetry.plan import NS_PER_S, Plan
from telemetry.record import Ack, Clock, Config, Event, Request, Start
from telemetry.site import SiteConfig
from telemetry.transaction import Accounting, Transaction

LINES_KEPT: Final = 12
REFRESH_S: Final = 0.5
QUIET_LINE_S: Final = 10.0
RATE_OVER_S: Final = 10.0
STALE_S: Final = 5.0
EVENT_WORDS: Final = {
    "birth": "is online",
    "offline": "is offline",
    "broker_up": "reached the broker",
    "broker_lost": "lost the broker",
    "drained": "has read the broker's backlog",
    "upgrade": "was upgraded:",
}
OPEN_STATES: Final = ("UNACK", "ACKED", "RTNUN")


def status_table(settings: Settings, last: Transaction, *, now_ns: int) -> Table:
    """State of the service as its journal tells it."""
    accounting, age_s = last.read_accounting(), (now_ns - last.engine_ns) / NS_PER_S
    table = Table(title="Fieldloom", show_header=False)
    table.add_row("data directory", str(settings.data_dir))
    running = "[green]running[/]" if age_s < STALE_S else f"[red]silent for {age_s:.0f} s[/] (see `fieldloom doctor`)"
    table.add_row("core", running)
    told = settings.data_dir / "run" / "web.ready"
    table.add_row("web", told.read_text("utf-8").strip() if told.is_file() else "[yellow]not started[/]")
    table.add_row("journal position", f"{last.last} (epoch {last.epoch})")
    table.add_row("messages", _sum_line(accounting, ""))
    table.add_row("samples", _sum_line(accounting, "samples_"))
    is_balanced = accounting.is_balanced()
    table.add_row(
        "accounting", "[green]received = stored + duplicate + rejected + pending[/]" if is_balanced else "[red]does not add up[/]"
    )
    for reason, count in sorted(accounting.rejected_by_reason.items()):
        table.add_row("  rejected", f"{reason}: {count}")
    table.add_row("late, future, gaps, changed", f"{accounting.late}, {accounting.future}, {accounting.gaps}, {accounting.changed}")
    if accounting.upgrade_count:
        table.add_row(
            "decided otherwise by a new build",
            f"[yellow]{accounting.upgrade_count} transactions from {accounting.upgrade_first} on[/]",
        )
    return table


def _sum_line(accounting: Accounting, prefix: str) -> str:
    names = ("received", "stored", "duplicate", "rejected", "pending")
    return ", ".join(f"{getattr(accounting, prefix + name)} {name}" for name in names)


def clock_text(time_ns: int) -> str:
    """Time of day in UTC."""
    return datetime.fromtimestamp(time_ns / NS_PER_S, UTC).strftime("%H:%M:%S")


class Narrator:
    """Transactions as lines for people."""

    def __init__(self, *, with_samples: bool = False) -> None:
        self._with_samples = with_samples
        self._plan = Plan()

    def learn(self, transactions: Iterable[Transaction]) -> None:
        """Take names of points from what was before; only samples need them."""
        if self._with_samples:
            for transaction in transactions:
                self._configure(record for _, record in transaction.read_entries().records)

    def _configure(self, records: Iterable[Any]) -> None:
        for record in records:
            if isinstance(record, Config):
                self._plan.apply(SiteConfig.model_validate_json(record.text))

    def lines(self, transaction: Transaction) -> Iterator[str]:
        """Records, samples when asked for, then decisions."""
        entries = transaction.read_entries()
        self._configure(record for _, record in entries.records)
        for index, record in entries.records:
            line = record_line(record)
            if line:
                yield f"{clock_text(int(entries.time_ns[index]))} {line}"
        if self._with_samples:
            frames = entries.frames
            times = frames.ts_ns[frames.frame_of_sample]
            for point, value, ts_ns in zip(frames.point.tolist(), frames.value.tolist(), times.tolist(), strict=True):
                is_known = 0 <= point < len(self._plan.point_owner)
                yield f"{clock_text(ts_ns)} {self._plan.point_name(point) if is_known else f'point {point}'} = {value:g}"
        for decision in transaction.read_decisions():
            line = decision_line(decision)
            if line:
                yield f"{clock_text(decision.time_ns)} {line}"


def record_line(record: Any) -> str:
    """A record in words; "" for what says nothing to a person."""
    match record:
        case Start():
            return f"core began, epoch {record.epoch}"
        case Config():
            return f"configuration of {record.site}/ in force, {record.sha256[:12]}"
        case Request():
            return f"{record.author} asks {record.kind} {record.body.get('alarm') or record.body.get('actuator') or ''}"
        case Clock():
            return f"the wall clock jumped by {record.jump_ns / NS_PER_S:.1f} s"
        case Event(name="records"):  # that accounting counted an acknowledgement or a birth
            return ""
        case Event():
            name = EVENT_WORDS.get(record.name, record.name)
            return f"{record.device or 'service'} {name} {record.body.get('reason', '')}".rstrip()
        case Ack(status="accepted" | "done"):  # the command's own line says so
            return ""
        case Ack():
            return f"{record.device}/ answers {record.command}: {record.status} {record.reason}".rstrip()
        case _:
            return ""


def decision_line(decision: Decision) -> str:
    """An alarm or command in words; "" for the rest."""
    body = decision.body
    if decision.kind == "alarm":
        change = f"{body.get('from')} -> {body.get('to')}"
        return f"ALARM {body.get('priority', '')} {decision.subject} {change}  {alarm_text(decision)}".rstrip()
    if decision.kind == "command" and body.get("state") in ("sent", "confirmed", "refused", "lost", "failed_safe", "expired"):
        return f"command {decision.subject} = {_number(body.get('value'))} {body['state']} ({because(body)})"
    if decision.kind == "answer" and not body.get("accepted", True):
        return f"{decision.subject} refused: {body.get('reason', '')}"
    return f"{decision.kind} {decision.subject}" if decision.kind in ("fault", "clock_wrong") else ""


def because(body: dict[str, Any]) -> str:
    """Why a command was given: the rule and its condition; a rule's message has places that only its alarm fills in."""
    source, reason = str((body.get("winner") or {}).get("source", "")), str(body.get("reason", ""))
    rule = source.partition("@")[0]
    if "@" not in source:
        return reason
    return rule if "{" in reason else f"{rule}: {reason}"


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "nothing"


def alarm_text(decision: Decision) -> str:
    """The alarm's English message with its value and device filled in."""
    value = decision.body.get("value")
    text = str(decision.body.get("message", {}).get("en", ""))
    shown = f"{value:.1f}" if isinstance(value, float) else ""
    return text.replace("{value}", shown).replace("{device}", decision.subject.rpartition("@")[2].rpartition("/")[2])


class Pulse:
    """What flowed lately, for the live view."""

    def __init__(self) -> None:
        self.accounting = Accounting()
        self.alarms: dict[str, Decision] = {}
        self.commands = 0
        self.heard_ns = 0  # engine time of the newest transaction; 0: none yet
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._seen: deque[tuple[float, int, int]] = deque()
        self._narrator = Narrator()

    def take(self, transaction: Transaction, now_s: float) -> None:
        """Count a transaction."""
        self.accounting, self.heard_ns = transaction.read_accounting(), transaction.engine_ns
        self._seen.append((now_s, self.accounting.received, self.accounting.samples_received))
        while self._seen[0][0] < now_s - RATE_OVER_S and len(self._seen) > 2:
            self._seen.popleft()
        self.lines.extend(self._narrator.lines(transaction))
        for decision in transaction.read_decisions():
            if decision.kind == "alarm":
                self.alarms[decision.subject] = decision
            self.commands += decision.kind == "command" and decision.body.get("state") == "sent"

    def rates(self) -> tuple[float, float]:
        """Messages and samples per second over the last seconds."""
        if len(self._seen) < 2:
            return 0.0, 0.0
        (t1, m1, s1) = self._seen[-1]
        t0, m0, s0 = next(seen for seen in self._seen if seen[0] >= t1 - RATE_OVER_S)
        return (m1 - m0) / max(t1 - t0, 1e-3), (s1 - s0) / max(t1 - t0, 1e-3)

    def open_alarms(self) -> int:
        """Alarms that want somebody."""
        return sum(alarm.body.get("to") in OPEN_STATES for alarm in self.alarms.values())

    def silence(self, now_ns: int) -> str:
        """A sentence when core has written nothing lately, else ""."""
        silent_s = (now_ns - self.heard_ns) / NS_PER_S
        if not self.heard_ns or silent_s < STALE_S:
            return ""
        return f"The core has written nothing for {silent_s:.0f} s; its reason stands in log/core.log of the data directory."

    def line(self) -> str:
        """Everything in one line."""
        messages, samples = self.rates()
        a = self.accounting
        return (
            f"{messages:.1f} messages/s, {samples:.1f} samples/s, {self.open_alarms()} alarms, {self.commands} commands sent; "
            f"{a.received} received = {a.stored} stored + {a.duplicate} duplicate + {a.rejected} rejected + {a.pending} pending"
        )

    def panel(self, heading: str) -> Group:
        """The view of the whole screen."""
        return Group(
            Text(heading, style="bold"), Text(self.line()), *(Text(line, no_wrap=True, overflow="ellipsis") for line in self.lines)
        )


async def show_flow(journal: Path, heading: Callable[[], str], *, quiet: bool) -> None:
    """The live view until cancelled. On a terminal a refreshed block, otherwise (or when quiet) a line every ten seconds."""
    pulse, console = Pulse(), Console()
    with contextlib.closing(JournalReader(journal)) as reader:
        last = reader.last()
        position = -1 if last is None else max(-1, last.last - 2000)
        with contextlib.ExitStack() as stack:
            is_live = console.is_terminal and not quiet
            live = stack.enter_context(Live(console=console, auto_refresh=False, transient=True)) if is_live else None
            told_at = time.monotonic()
            while True:
                position = await asyncio.to_thread(_catch_up, reader, position, pulse)
                warning = pulse.silence(time.time_ns())
                if live is not None:
                    live.update(pulse.panel(warning or heading()), refresh=True)
                elif time.monotonic() - told_at > QUIET_LINE_S:
                    told_at = time.monotonic()
                    print(warning or pulse.line(), flush=True)
                await asyncio.sleep(REFRESH_S)


def _catch_up(reader: JournalReader, position: int, pulse: Pulse) -> int:
    try:
        while found := reader.read(position, rows_max=5000):
            for transaction in found:
                pulse.take(transaction, float(np.float64(transaction.engine_ns) / NS_PER_S))
                position = transaction.last
    except Gap as gap:
        return gap.available - 1
    return position
