"""The web process: puts its parts together, follows the journal, answers, and ends cleanly. Everything it needs is an argument."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
import uvicorn
from fastapi import FastAPI

from api.application import make_app
from api.auth import Gate, Sessions
from api.connections import FeedConnection, HttpConnection
from api.feed import FeedHub
from api.follower import CountingProjector, HistoryFollower, LiveFollower, probe_lag, tell_position
from api.limits import LoginLimit, QueryPool
from api.orders import Backtests, Warmings
from api.parts import Lag, Parts, RequestDesk
from api.state import LiveState
from store.history import History
from store.inbox import Inbox
from store.journal_reader import JournalReader
from store.position import PositionFile
from store.projection import Projector
from store.snapshot import newest_snapshot, remove_drafts, write_snapshot
from telemetry.clock import Clock
from telemetry.errors import EnvironmentFault, StoreError
from telemetry.plan import Plan

log = structlog.get_logger()
SNAPSHOT_BUILD: Final = "live-state-1"  # to be raised when the shape of `LiveState.snapshot` changes
KEEP_ALIVE_S: Final = 30
SEND_BUFFER: Final = 256 * 1024  # of the kernel; left to itself it keeps 3 MB for a client that does not read
STOP_S: Final = 5


@dataclass(frozen=True, slots=True)
class WebSettings:
    """What the web process needs to know. port 0 takes a free one. hosts: further names it answers to (or "*")."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8080
    hosts: frozenset[str] = frozenset()
    metrics_open: bool = False
    secure_cookie: bool = False
    keep_s: float | None = None  # samples older than that leave the history; None: never


class SnapshotFiles:
    """Live state on disk, beside the journal but the web's own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        remove_drafts(directory)

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest valid snapshot; None when there is none."""
        return newest_snapshot(self._directory, build=SNAPSHOT_BUILD)

    def write(self, position: int, saved: dict[str, Any]) -> None:
        """Keep a snapshot."""
        write_snapshot(self._directory, position, saved, build=SNAPSHOT_BUILD)


def newest_plan(data_dir: Path) -> Plan | None:
    """The plan of the core's newest snapshot, whatever build wrote it; None when there is none that can be read."""
    try:
        found = newest_snapshot(data_dir / "snapshots", is_other_build_allowed=True)
        return None if found is None else Plan.from_snapshot(found[1]["engine"]["plan"])
    except (StoreError, KeyError, TypeError, ValueError) as error:
        log.warning("core_snapshot_unreadable", error=str(error))
        return None


class Server(uvicorn.Server):
    """Signals belong to whoever runs the process, so that history and sessions are closed before it ends."""

    def __init__(self, app: FastAPI, *, http: type[HttpConnection] = HttpConnection) -> None:
        config = uvicorn.Config(
            app,
            http=http,
            ws=FeedConnection,
            ws_max_size=1024,  # clients have nothing to say
            ws_per_message_deflate=False,  # memory and CPU per client, for numbers that shrink little
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S,
            lifespan="off",
        )
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when requests are answered."""
        await super().startup(sockets)
        self.is_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. EnvironmentFault with the remedy when the address is taken or foreign."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # its connections inherit it
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise EnvironmentFault(
            f"cannot listen on {host}:{port} ({error.strerror}); stop what uses it, or set another port"
        ) from error
    listener.setblocking(False)
    return listener


def make_parts(
    settings: WebSettings, *, history: History, clock: Clock, backtests: Backtests | None = None, warmings: Warmings | None = None
) -> Parts:
    """Every part over the files of the data directory."""
    state = LiveState()
    names = {"127.0.0.1", "localhost", "[::1]"} | ({settings.host} if settings.host not in ("0.0.0.0", "::") else set())
    return Parts(
        state=state,
        history=history,
        desk=RequestDesk(Inbox(settings.data_dir / "inbox.sqlite")),
        gate=Gate(Sessions(settings.data_dir / "web.sqlite", clock=clock)),
        clock=clock,
        queries=QueryPool(interrupt=history.interrupt),
        hub=FeedHub(state, clock),
        logins=LoginLimit(clock),
        lag=Lag(),
        hosts=frozenset(names) | settings.hosts,
        metrics_open=settings.metrics_open,
        secure_cookie=settings.secure_cookie,
        lanes=settings.data_dir / "lanes",
        notify=settings.data_dir / "notify.sqlite",
        backtests=backtests,
        warmings=warmings,
    )


async def serve(
    settings: WebSettings,
    *,
    history: History,
    clock: Clock,
    backtests: Backtests | None = None,
    warmings: Warmings | None = None,
    stop: asyncio.Event | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until `stop` is set (None: until SIGTERM or SIGINT). `on_ready` gets the base address once requests are answered.

    The history is the caller's to open and is closed here. Raises EnvironmentFault when the address cannot be bound.
    """
    listener = bind(settings.host, settings.port)
    parts = make_parts(settings, history=history, clock=clock, backtests=backtests, warmings=warmings)
    base_url = f"http://{settings.host if ':' not in settings.host else f'[{settings.host}]'}:{listener.getsockname()[1]}"
    server = Server(make_app(parts))
    try:
        await _run(server, listener, parts, settings, stop or _signalled(), lambda: (on_ready or _told)(base_url))
    finally:
        listener.close()
        for reading in (backtests, warmings):  # before the history that they read
            if reading is not None:
                reading.close()
        for close in (parts.queries.close, parts.desk.close, parts.gate.close, parts.history.close):
            close()


def _signalled() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def _told(base_url: str) -> None:
    log.info("web_ready", address=base_url)


async def _run(
    server: Server,
    listener: socket.socket,
    parts: Parts,
    settings: WebSettings,
    stop: asyncio.Event,
    ready: Callable[[], None],
) -> None:
    journal, clock = settings.data_dir / "journal", parts.clock

    def projector() -> Projector:
        return CountingProjector(
            parts.history,
            parts.lag,
            now_s=lambda: clock.now_ns() / 1e9,
            newest_plan=lambda: newest_plan(settings.data_dir),
            keep_ms=None if settings.keep_s is None else int(settings.keep_s * 1000),
        )

    keeper = SnapshotFiles(settings.data_dir / "web")
    live = LiveFollower(lambda: JournalReader(journal), parts.state, parts.hub, parts.lag, clock=clock, keeper=keeper)
    past = HistoryFollower(lambda: JournalReader(journal), projector, parts.lag)
    told = PositionFile(settings.data_dir / "run" / "web.position", clock=clock)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(live.run(), name="follow-live"),
            group.create_task(past.run(), name="follow-history"),
            group.create_task(tell_position(told, parts.state, parts.history), name="tell-position"),
            group.create_task(probe_lag(parts.lag), name="probe-lag"),
        ]
        serving = group.create_task(server.serve([listener]), name="serve")
        started = group.create_task(server.is_up.wait(), name="started")
        await asyncio.wait((started, serving), return_when=asyncio.FIRST_COMPLETED)
        if server.started:
            ready()
        stopping = group.create_task(stop.wait(), name="stop")
        await asyncio.wait((stopping, serving), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await asyncio.wait((serving,))
        for task in (*tasks, started, stopping):
            task.cancel()
