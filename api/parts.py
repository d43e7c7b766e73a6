"""What the routes are given: one object made by the composition root, kept in `app.state.parts`. No module has state."""

import asyncio
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

from fastapi import Depends
from pydantic import StringConstraints
from starlette.requests import HTTPConnection

from api.auth import Gate, Principal
from api.feed import FeedHub
from api.limits import LoginLimit, QueryPool
from api.orders import Backtests, Warmings
from api.problem import ProblemError
from api.state import LiveState
from store.history import History
from telemetry.clock import Clock
from telemetry.errors import StoreError
from telemetry.record import Request

RequestId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
NS_PER_MS: Final = 1_000_000


class RequestInbox(Protocol):
    """The part of `store.inbox.Inbox` that the web process writes."""

    def put(self, request: Request) -> bool:
        """Keep a request durably; False when its id is known already."""
        ...


class RequestDesk:
    """Puts requests into the inbox, in one thread. The author is the session's person; an id belongs to its author alone."""

    def __init__(self, inbox: RequestInbox) -> None:
        self._inbox = inbox
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="inbox")

    async def put(self, principal: Principal, kind: str, body: dict[str, Any], request_id: str | None) -> tuple[str, bool]:
        """(id of the request, True when it is new). Durable when it returns; 503 when the inbox cannot be written."""
        # Prefixed by the author: nobody can take, or find out, the id of somebody else's request.
        full_id = f"{principal.person}.{request_id or secrets.token_hex(12)}"
        request = Request(full_id, kind, principal.person, body)
        try:
            is_new = await asyncio.get_running_loop().run_in_executor(self._executor, lambda: self._inbox.put(request))
        except StoreError as error:
            raise ProblemError(503, "unavailable", "The request could not be kept; nothing was done. Try again.") from error
        return full_id, is_new

    def close(self) -> None:
        """End the thread."""
        self._executor.shutdown(wait=True)


@dataclass(slots=True)
class Lag:
    """How far the followers are behind and how late the event loop ran, for readiness and metrics."""

    live_ready: bool = False  # the live state has caught up once
    live_error: str = ""
    history_position: int = -1
    history_error: str = ""
    loop_lag_s: float = 0.0
    loop_lag_max_s: float = 0.0
    history_written: int = 0
    history_repeated: int = 0
    history_changed: int = 0


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a route may use. hosts: host names that are answered; metrics_open: /metrics needs no login;
    lanes: directory of lane results; notify: the delivery journal; backtests, warmings: None where nobody runs them."""

    state: LiveState
    history: History
    desk: RequestDesk
    gate: Gate
    clock: Clock
    queries: QueryPool
    hub: FeedHub
    logins: LoginLimit
    lag: Lag = field(default_factory=Lag)
    hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost", "[::1]"})
    metrics_open: bool = False
    secure_cookie: bool = False
    lanes: Path | None = None
    notify: Path | None = None
    backtests: Backtests | None = None
    warmings: Warmings | None = None

    def core_silent_ms(self) -> int:
        """How long the core has written nothing new."""
        return self.state.silent_ms(self.clock.now_ns())

    def now_ms(self) -> int:
        """The server's time in ms since 1970 UTC."""
        return self.clock.now_ns() // NS_PER_MS


def parts_of(connection: HTTPConnection) -> Parts:
    """The parts of the application that serves this request."""
    parts: Parts = connection.app.state.parts
    return parts


UseParts = Annotated[Parts, Depends(parts_of)]
