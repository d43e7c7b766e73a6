"""Everything that bounds what a client can cost: body size, host names, login attempts, query threads and their time.

At each limit the request is refused with its own status (413, 421, 429, 503, 504); nothing waits without a bound.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problem import ProblemError, problem_response
from store.history import QueryLimit
from telemetry.clock import Clock
from telemetry.errors import StoreError

T = TypeVar("T")

BODY_MAX: Final = 64 * 1024  # every body but a configuration, or the rules of a backtest
CONFIG_BODY_MAX: Final = 4 * 1024 * 1024  # a site of some thousand devices written one by one
QUERY_THREADS: Final = 2  # history must not take the machine from the core
QUERY_WAITING_MAX: Final = 16
QUERY_LIMIT_S: Final = 10.0
LOGINS_PER_MINUTE: Final = 10
ADDRESSES_MAX: Final = 10_000  # remembered by the login limit; the oldest is forgotten
NS_PER_S: Final = 1_000_000_000

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class LoginLimit:
    """At most LOGINS_PER_MINUTE attempts in any minute from one address. Asked on the event loop only."""

    def __init__(self, clock: Clock, attempts_max: int = LOGINS_PER_MINUTE) -> None:
        self._clock = clock
        self._attempts_max = attempts_max
        self._attempts: OrderedDict[str, deque[int]] = OrderedDict()

    def check(self, address: str) -> None:
        """Count an attempt. Raises 429 with Retry-After when there were too many."""
        now_ns = self._clock.now_ns()
        attempts = self._attempts.setdefault(address, deque(maxlen=self._attempts_max))
        self._attempts.move_to_end(address)
        if len(self._attempts) > ADDRESSES_MAX:
            self._attempts.popitem(last=False)
        wait_ns = attempts[0] + 60 * NS_PER_S - now_ns if len(attempts) == self._attempts_max else 0
        if wait_ns > 0:
            wait_s = -(-wait_ns // NS_PER_S)
            detail = f"Too many login attempts. Try again in {wait_s} s."
            raise ProblemError(429, "too-many-requests", detail, headers={"Retry-After": str(wait_s)})
        attempts.append(now_ns)


class QueryPool:
    """Runs history queries in QUERY_THREADS threads. A query over its time answers 504 and is interrupted.

    The store may end others that run at that moment with it: they answer 504 as well, and are asked again.
    """

    def __init__(
        self,
        *,
        threads: int = QUERY_THREADS,
        waiting_max: int = QUERY_WAITING_MAX,
        limit_s: float = QUERY_LIMIT_S,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        """`interrupt` stops the reads that run; it is called when one is over its time, and must not block."""
        self._interrupt = interrupt
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="query")
        self._places = threads + waiting_max
        self._limit_s = limit_s
        self._taken = 0
        self.results = dict.fromkeys(("answered", "failed", "refused", "timed_out"), 0)

    async def run(self, query: Callable[[], T]) -> T:
        """The query's result. 503 when too many wait or the store fails, 504 when it takes too long."""
        if self._taken >= self._places:
            self.results["refused"] += 1
            raise ProblemError(503, "unavailable", "Too many history queries are waiting. Try again.", headers={"Retry-After": "2"})
        self._taken += 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, query)
        future.add_done_callback(self._release)
        try:
            async with asyncio.timeout(self._limit_s):
                result = await asyncio.shield(future)
        except (TimeoutError, QueryLimit):
            self.results["timed_out"] += 1
            if not future.done():
                self._interrupt()
            detail = f"The query took over {self._limit_s:g} s. Ask for a shorter range or fewer points."
            raise ProblemError(504, "timeout", detail) from None
        except StoreError as error:
            self.results["failed"] += 1
            detail = "The history store cannot be read at the moment; live values and alarms are not affected."
            raise ProblemError(503, "unavailable", detail, headers={"Retry-After": "5"}) from error
        self.results["answered"] += 1
        return result

    @property
    def busy(self) -> int:
        """Queries that run or wait."""
        return self._taken

    def _release(self, future: asyncio.Future[T]) -> None:
        self._taken -= 1
        if not future.cancelled():
            future.exception()  # taken here: the caller may have left after its time limit

    def close(self) -> None:
        """Stop taking queries; running ones end by themselves."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class BodyLimit:
    """ASGI: refuses a body over the limit with 413, by its declared length or while it arrives."""

    def __init__(self, app: ASGIApp, *, body_max: int = BODY_MAX, config_max: int = CONFIG_BODY_MAX) -> None:
        self._app = app
        self._body_max = body_max
        self._config_max = config_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._config_max if scope["path"].endswith(("/config", "/backtests", "/warmings")) else self._body_max
        error = ProblemError(413, "too-large", f"The body may have at most {limit} bytes.")
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared) > limit:
            await problem_response(error)(scope, receive, send)
            return
        arrived, is_over = 0, False

        async def counted() -> Message:
            nonlocal arrived, is_over
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > limit:
                is_over = True
                raise error
            return message

        async def unless_over(message: Message) -> None:
            # The framework turns any failure while it reads a body into 400; ours is the answer that counts.
            if not is_over:
                await send(message)

        await self._app(scope, counted, unless_over)
        if is_over:
            await problem_response(error)(scope, receive, send)


class Guard:
    """ASGI: only the host names we serve (DNS rebinding), and security headers on every answer.

    hosts: names without port; "*" takes any, for a service behind a proxy that checks them.
    """

    def __init__(self, app: ASGIApp, *, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if "*" not in self._hosts and host_name(Headers(scope=scope).get("host", "")) not in self._hosts:
            error = ProblemError(421, "wrong-host", "This service does not answer to that host name.")
            await problem_response(error)(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, with_headers)


def host_name(host: str) -> str:
    """The host of a Host header or an origin without its port, in lower case."""
    if host.startswith("["):
        return host[: host.find("]") + 1].lower()
    return host.rsplit(":", 1)[0].lower() if ":" in host else host.lower()
