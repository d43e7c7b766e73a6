"""What the demo's terminal shows: how it starts, where to log in, and live what flows. Reads the journal, writes nothing."""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from app.narrator import Known, Narrator, known
from app.words import say
from store.journal_reader import Gap, JournalReader
from telemetry.plan import NS_PER_S
from telemetry.transaction import Accounting, Transaction

LINES_KEPT: Final = 12
REFRESH_S: Final = 0.5
QUIET_LINE_S: Final = 10.0
RATE_OVER_S: Final = 10.0
STALE_S: Final = 5.0
LOG_TAIL: Final = 4_000  # bytes
READ_BACK: Final = 2000  # positions before now that the view begins with


def newest(journal: Path) -> Transaction | None:
    """The journal's newest transaction; None when nothing was ever journaled. Raises CorruptError when its end is gone."""
    with contextlib.closing(JournalReader(journal)) as reader:
        last = reader.last()
        reader.read(-1 if last is None else last.last)  # a reader checks there that what was durable is still there
    return last


def last_complaint(log: Path) -> str:
    """What a process warned of in its newest lines; "" when it did not."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in ("warning", "error"):
            return str(entry.get("error") or entry.get("reason") or entry.get("event"))
        return ""
    return ""


class Pulse:
    """What flowed lately, for the live view."""

    def __init__(self, log: Path, now: Known) -> None:
        self.accounting = Accounting()
        self._now = now
        self.commands = 0
        self.heard_ns = 0  # engine time of the newest transaction; 0: none yet
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._log = log
        self._seen: deque[tuple[float, int, int]] = deque()
        self._narrator = Narrator(now.plan)

    def take(self, transaction: Transaction) -> None:
        """Count a transaction."""
        self.accounting, self.heard_ns = transaction.read_accounting(), transaction.engine_ns
        now_s = transaction.engine_ns / NS_PER_S
        self._seen.append((now_s, self.accounting.received, self.accounting.samples_received))
        while self._seen[0][0] < now_s - RATE_OVER_S and len(self._seen) > 2:
            self._seen.popleft()
        self.lines.extend(text for _, text in self._narrator.lines(transaction))
        self._now.take(transaction)
        self.commands += sum(d.kind == "command" and d.body.get("state") == "sent" for d in transaction.read_decisions())

    def rates(self) -> tuple[float, float]:
        """Messages and samples per second over the last seconds."""
        if len(self._seen) < 2:
            return 0.0, 0.0
        (t1, m1, s1) = self._seen[-1]
        t0, m0, s0 = next(seen for seen in self._seen if seen[0] >= t1 - RATE_OVER_S)
        return (m1 - m0) / max(t1 - t0, 1e-3), (s1 - s0) / max(t1 - t0, 1e-3)

    def silence(self, now_ns: int) -> str:
        """A sentence when core has written nothing lately, else ""."""
        silent_s = (now_ns - self.heard_ns) / NS_PER_S
        if not self.heard_ns or silent_s < STALE_S:
            return ""
        if reason := last_complaint(self._log / "core.log"):
            return say("The core has written nothing for {seconds:.0f} s: {reason}", seconds=silent_s, reason=reason)
        return say(
            "The core has written nothing for {seconds:.0f} s; its reason stands in {log}.",
            seconds=silent_s,
            log=self._log / "core.log",
        )

    def flow(self) -> str:
        """What flows, in one line."""
        messages, samples = self.rates()
        return say(
            "{messages:,.1f} messages/s   {samples:,.1f} samples/s   {alarms} alarms   {commands} commands",
            messages=messages,
            samples=samples,
            alarms=self._now.standing(),
            commands=self.commands,
        )

    def sum(self) -> str:
        """Where every message is."""
        a = self.accounting
        return say(
            "{received:,} messages received = {stored:,} stored + {duplicate:,} duplicate + {rejected:,} rejected + {pending:,} pending",
            received=a.received,
            stored=a.stored,
            duplicate=a.duplicate,
            rejected=a.rejected,
            pending=a.pending,
        )

    def panel(self, heading: str) -> Group:
        """The block that a terminal shows and refreshes."""
        head = [Text(heading, style="bold"), Text(self.flow(), style="green"), Text(self.sum()), Text("")]
        return Group(*head, *(Text(text, no_wrap=True, overflow="ellipsis") for text in self.lines))


def command() -> str:
    """How this program is called where it runs: with its path, unless the shell finds it."""
    called = sys.argv[0]
    return called if called.endswith("/fieldloom") and shutil.which("fieldloom") is None else "fieldloom"


class DemoScreen:
    """The demo's terminal: a block that refreshes itself, or, where there is no terminal (or `quiet`), a line every ten seconds."""

    def __init__(self, data_dir: Path, *, quiet: bool) -> None:
        self._data_dir, self._console = data_dir, Console(highlight=False, soft_wrap=True)
        self._is_live = self._console.is_terminal and not quiet
        self._starting = True
        self._troubles: deque[str] = deque()
        self._told: dict[str, str] = {}

    def greet(self, *, devices: int, speed: float) -> None:
        """What is about to run."""
        print(
            say(
                "A nursery and a pig farm with {count} simulated devices, living {speed:g} times as fast as the clock.",
                count=devices,
                speed=speed,
            )
        )
        print(say("Starting"), end="", flush=True)

    def part_ready(self, name: str) -> None:
        """A part serves."""
        print(f"  {say(name)}", end="", flush=True)

    def part_restarted(self, name: str, code: int, words: str) -> None:
        """A part died."""
        self._troubles.append(
            say("{part} ended (code {code}) and is started again: {words}", part=say(name), code=code, words=words)
        )

    def ready(self, link: str, *, seconds: float, minutes: int) -> None:
        """Everything runs; how to log in."""
        self._starting = False
        print(
            "\n\n"
            + say(
                "Fieldloom is ready after {seconds:.1f} s. Log in once, within {minutes} minutes:", seconds=seconds, minutes=minutes
            )
        )
        print(f"\n    {link}\n")
        print(say("Data: {data}", data=self._data_dir.resolve()))
        print(say("Ctrl-C stops everything. Another login link: {command} login", command=command()), flush=True)

    def stopped(self) -> None:
        """Before anything is said after an early end: the line of parts is still open."""
        if self._starting:
            print(flush=True)
            self._starting = False

    async def show(self, address: str) -> None:
        """What flows, until cancelled."""
        journal = self._data_dir / "journal"
        pulse = Pulse(self._data_dir / "log", await asyncio.to_thread(known, self._data_dir))
        with contextlib.closing(JournalReader(journal)) as reader, contextlib.ExitStack() as stack:
            last = reader.last()
            position = -1 if last is None else max(-1, last.last - READ_BACK)
            live = stack.enter_context(Live(console=self._console, auto_refresh=False, transient=True)) if self._is_live else None
            told_at = time.monotonic()
            while True:
                position = await asyncio.to_thread(_catch_up, reader, position, pulse)
                warning = pulse.silence(time.time_ns())
                troubles = [self._troubles.popleft() for _ in range(len(self._troubles))]
                if live is not None:
                    pulse.lines.extend(troubles)
                    live.update(pulse.panel(warning or address), refresh=True)
                else:
                    for trouble in troubles:
                        print(trouble, flush=True)
                    if time.monotonic() - told_at > QUIET_LINE_S:
                        told_at = time.monotonic()
                        print(warning or f"{pulse.flow()}   {pulse.sum()}", flush=True)
                await asyncio.sleep(REFRESH_S)


def _catch_up(reader: JournalReader, position: int, pulse: Pulse) -> int:
    try:
        while found := reader.read(position, rows_max=5000):
            for transaction in found:
                pulse.take(transaction)
                position = transaction.last
    except Gap as gap:
        return gap.available - 1
    return position
