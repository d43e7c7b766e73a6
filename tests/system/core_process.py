"""The real core process on a real broker: configured, started with its start time measured, killed, frozen, its journal read."""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from store.inbox import Inbox
from store.journal_reader import JournalReader
from telemetry.decision import Decision
from telemetry.record import Request
from telemetry.site import SiteConfig
from telemetry.transaction import Transaction
from tests.faults.broker import RealBroker
from tests.faults.process import DEADLINE_S, Process, wait_until

ROOT = Path(__file__).parents[2]
READY = '"core ready"'


class CoreProcess:
    """`fieldloom serve core` over one data directory; `prefix` runs it under another program (strace, faketime)."""

    def __init__(
        self, directory: Path, broker: RealBroker, *, prefix: Sequence[str] = (), env: dict[str, str] | None = None
    ) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.ready_s: list[float] = []
        self.env = {
            "FIELDLOOM_DATA_DIR": str(self.data),
            "FIELDLOOM_MQTT_HOST": broker.host,
            "FIELDLOOM_MQTT_PORT": str(broker.port),
            "FIELDLOOM_CONFIG": "/dev/null",
            "FIELDLOOM_DISK_FREE_MB": "64",
            "PYTHONPATH": str(ROOT),
            **(env or {}),
        }
        self._prefix = list(prefix)
        self._decisions: list[Decision] = []
        self._after = -1
        self._process: Process | None = None

    def configure(self, site: SiteConfig) -> Self:
        """Hand in a site as `fieldloom apply` does; taken when core runs."""
        with closing(Inbox(self.data / "inbox.sqlite")) as inbox:
            assert inbox.put(Request(f"config-{site.sha256()[:12]}", "config", "test", {"text": site.canonical()}))
        return self

    def ask(self, request: Request) -> None:
        """Put a request into the inbox, as web does."""
        with closing(Inbox(self.data / "inbox.sqlite")) as inbox:
            assert inbox.put(request)

    @property
    def process(self) -> Process:
        """The running child."""
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        """What all its runs have written."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("core-*.log")))

    def start(self, *, wait: bool = True, deadline_s: float = DEADLINE_S, **env: str) -> Self:
        """Start; ready means that it says so, and has connected when the broker is up."""
        number = len(list(self.directory.glob("core-*.log")))
        argv = [*self._prefix, sys.executable, "-m", "app.cli", "serve", "core"]
        self._process = Process(argv, log=self.directory / f"core-{number:03}.log", env=self.env | env, cwd=ROOT)
        self._process.start()
        self._began = time.monotonic()
        return self.wait_ready(deadline_s=deadline_s) if wait else self

    def wait_ready(self, *, deadline_s: float = DEADLINE_S) -> Self:
        """Wait for its word, and note how long the start took."""
        self.process.wait_ready(lambda: READY in self.process.output, deadline_s=deadline_s)
        self.ready_s.append(time.monotonic() - self._began)
        return self

    def wait_configured(self, site: str, *, deadline_s: float = DEADLINE_S) -> Self:
        """Wait until the journal holds a site's configuration and the broker session stands."""

        def settled() -> bool:
            records = [record for t in self.transactions() for _, record in t.read_entries().records]
            return any(getattr(r, "text", "") and r.site == site for r in records) and '"broker up"' in self.process.output

        wait_until(settled, deadline_s=deadline_s, what=f"site {site} configured")
        return self

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        return self.process.terminate()

    def transactions(self, after: int = -1) -> Iterator[Transaction]:
        """The journal from a position on, read while core runs or not."""
        if not (self.data / "journal").is_dir():
            return
        with closing(JournalReader(self.data / "journal")) as reader:
            while found := reader.read(after, rows_max=50_000):
                yield from found
                after = found[-1].last

    def decisions(self, kind: str, subject: str | None = None) -> list[Decision]:
        """Decisions of a kind in the journal so far. Cheap to ask again: only what is new is read."""
        for transaction in self.transactions(self._after):
            self._decisions += transaction.read_decisions()
            self._after = transaction.last
        return [d for d in self._decisions if d.kind == kind and subject in {None, d.subject}]

    def last(self) -> Transaction:
        """The newest transaction."""
        with closing(JournalReader(self.data / "journal")) as reader:
            found = reader.last()
        assert found is not None
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()


def log_lines(text: str) -> list[dict[str, Any]]:
    """Structured log lines; others are left out."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def sabotage() -> frozenset[str]:
    """Switches this test run was given; children inherit them."""
    return frozenset(filter(None, os.environ.get("FIELDLOOM_SABOTAGE", "").split(",")))
