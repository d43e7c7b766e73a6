"""The web process inside the test's event loop, following a real journal that a stand-in for the core writes."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api.auth import Role, Sessions
from api.serve import WebSettings, serve
from store.duckdb_history import DuckDBHistory
from store.inbox import Inbox
from store.journal import Journal
from telemetry.clock import EngineClock
from telemetry.record import Record, Request, Start
from telemetry.site import SiteConfig
from tests.faults.process import DEADLINE_S
from tests.faults.web_world import Writer, config_record, site


@dataclass(slots=True)
class CoreStub:
    """Writes the journal and takes requests from the inbox, on the real clock. It decides nothing by itself."""

    data_dir: Path
    clock: EngineClock
    journal: Journal
    writer: Writer = field(default_factory=Writer)
    taken: int = 0

    @classmethod
    def begin(cls, data_dir: Path, *, segment_s: float = 3600.0, ahead_s: int = 0) -> "CoreStub":
        """Claim the journal and write the configuration of two sites, on a clock that is `ahead_s` fast."""
        clock = EngineClock(lambda: time.time_ns() + ahead_s * 1_000_000_000, time.monotonic_ns)
        stub = cls(data_dir, clock, Journal(data_dir / "journal", clock=clock, segment_s=segment_s))
        stub.journal.begin(1)
        stub.write(records=[Start(1, "stub"), config_record(site("north")), config_record(site("south"))])
        return stub

    def write(self, *args: Any, **kwargs: Any) -> None:
        """Append one transaction now."""
        self.writer.now_ns = self.clock.now_ns()
        self.journal.append(self.writer.write(*args, after_s=0.0, **kwargs))

    def requests(self) -> Sequence[Request]:
        """Requests since the last call."""
        reader = Inbox.open_reader(self.data_dir / "inbox.sqlite")
        try:
            found = reader.take(self.taken, 100)
        finally:
            reader.close()
        self.taken = max([number for number, _ in found], default=self.taken)
        return [request for _, request in found]

    def acknowledge_all(self) -> list[Record]:
        """Journal every request, grant every acknowledgement, and put every configuration in force."""
        requests = list(self.requests())
        for request in requests:
            decisions = [("answer", request.id, {"accepted": True, "reason": ""})]
            if request.kind == "acknowledge":
                body = {"from": "UNACK", "to": "ACKED", "event": "acknowledge", "priority": "P2", "author": request.author}
                decisions.append(("alarm", request.body["alarm"], body))
            records: list[Record] = [request]
            if request.kind == "config":
                records.append(config_record(SiteConfig.model_validate_json(request.body["text"])))
            self.write(records=records, decisions=decisions)
        return list(requests)


@dataclass(slots=True)
class WebProcess:
    """A served web process."""

    base_url: str
    data_dir: Path
    core: CoreStub
    stop: asyncio.Event
    task: asyncio.Task[None]

    def token(self, person: str, role: Role, sites: list[str] | None, *, way: str = "bearer") -> str:
        """A token, made beside the running process as the command line does."""
        sessions = Sessions(self.data_dir / "web.sqlite", clock=self.core.clock)
        try:
            made = "link" if way == "link" else "bearer"
            return sessions.create(made, person, role, None if sites is None else frozenset(sites), life_s=3600)[0]  # type: ignore[arg-type]
        finally:
            sessions.close()


@asynccontextmanager
async def web_process(data_dir: Path, core: CoreStub | None = None, *, port: int = 0) -> AsyncIterator[WebProcess]:
    """Serve on a free port, or on this one, until the block ends; an existing core goes on, else one begins and is closed at the end."""
    stub = core or CoreStub.begin(data_dir)
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    history = DuckDBHistory(data_dir / "history.duckdb")
    task = asyncio.create_task(
        serve(WebSettings(data_dir, port=port), history=history, clock=stub.clock, stop=stop, on_ready=ready.set_result), name="web"
    )
    try:
        await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED, timeout=DEADLINE_S)
        if task.done():
            task.result()
        yield WebProcess(ready.result(), data_dir, stub, stop, task)
    finally:
        stop.set()
        async with asyncio.timeout(DEADLINE_S):
            await task
        if core is None:
            stub.journal.close()
