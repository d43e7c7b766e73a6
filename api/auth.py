"""Who may do what: sessions, roles, sites, and the audit of every change.

One table holds all ways in: one-time login links, browser sessions and bearer tokens of programs, each only as the SHA-256 of a
random 256-bit token (no password, so nothing to stretch). A principal has one role and a set of sites; a site outside it does not
exist for him: 404, never 403. The calls block (SQLite); `Gate` runs them in one thread.
"""

import asyncio
import hashlib
import json
import os
import secrets
import sqlite3
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from fastapi import Request, Response, WebSocket
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection

from api.problem import ProblemError, not_found
from telemetry.clock import Clock

T = TypeVar("T")
Role = Literal["viewer", "operator", "engineer", "admin"]
Way = Literal["link", "cookie", "bearer"]

RANKS: Final[dict[str, int]] = {"viewer": 0, "operator": 1, "engineer": 2, "admin": 3}
COOKIE: Final = "fieldloom_session"
CSRF_HEADER: Final = "X-Fieldloom"  # a custom header needs a CORS preflight, which this service never grants
LINK_LIFE_S: Final = 15 * 60
COOKIE_LIFE_S: Final = 12 * 3600  # a shift
BEARER_LIFE_MAX_S: Final = 366 * 86400
ENDED_KEPT_S: Final = 30 * 86400
AUDIT_ROWS_MAX: Final = 1000  # rows of one answer
SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS session (
    hash TEXT PRIMARY KEY, way TEXT NOT NULL, person TEXT NOT NULL, role TEXT NOT NULL, sites TEXT NOT NULL,
    note TEXT NOT NULL, created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, revoked_ms INTEGER, parent TEXT) STRICT;
CREATE TABLE IF NOT EXISTS audit (
    number INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, person TEXT NOT NULL, address TEXT NOT NULL, action TEXT NOT NULL,
    site TEXT NOT NULL, body TEXT NOT NULL, status INTEGER NOT NULL, result TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS audit_site ON audit (site, number);
"""
_STANDS: Final = """hash = :hash AND revoked_ms IS NULL AND expires_ms > :now AND NOT EXISTS (
    SELECT 1 FROM session AS p WHERE p.hash = session.parent AND p.revoked_ms IS NOT NULL)"""


@dataclass(frozen=True, slots=True)
class Principal:
    """Someone who is logged in. `sites` is None for all sites, now and later. `session` names the row, not the token."""

    person: str
    role: Role
    sites: frozenset[str] | None
    way: Way
    session: str
    expires_ms: int

    def may_see(self, site: str) -> bool:
        """True when the site is in scope."""
        return self.sites is None or site in self.sites

    def has(self, role: Role) -> bool:
        """True when his role is `role` or stronger."""
        return RANKS[self.role] >= RANKS[role]


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A session or token as an administrator sees it."""

    session: str
    way: Way
    person: str
    role: Role
    sites: frozenset[str] | None
    note: str
    created_ms: int
    expires_ms: int
    revoked_ms: int | None  # None: not revoked


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One mutating call: who, from where, what, when, and what came of it."""

    number: int
    time_ms: int
    person: str
    address: str
    action: str
    site: str
    body: str
    status: int
    result: str


def token_hash(token: str) -> str:
    """What is stored of a token, and what names its row."""
    return hashlib.sha256(token.encode()).hexdigest()


def _sites_text(sites: frozenset[str] | None) -> str:
    return "*" if sites is None else json.dumps(sorted(sites))


def _sites_of(text: str) -> frozenset[str] | None:
    return None if text == "*" else frozenset(json.loads(text))


_ROW: Final = "hash, way, person, role, sites, note, created_ms, expires_ms, revoked_ms"


def _session_row(row: tuple[Any, ...]) -> SessionRow:
    session, way, person, role, sites, note, created_ms, expires_ms, revoked_ms = row
    return SessionRow(session, way, person, role, _sites_of(sites), note, created_ms, expires_ms, revoked_ms)


class Sessions:
    """The session and audit tables of `web.sqlite`. Blocking; one thread at a time."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._clock = clock
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
        path.chmod(0o600)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_SCHEMA)
        # What ended long ago helps nobody; what it did is in the audit.
        self._database.execute("DELETE FROM session WHERE expires_ms < ?", (self._now_ms() - ENDED_KEPT_S * 1000,))
        # The saboteur of tests/security/test_bola.py: everybody sees every site.
        self._skips_scope = os.environ.get("FIELDLOOM_SABOTAGE") == "skip_scope"

    def _now_ms(self) -> int:
        return self._clock.now_ns() // 1_000_000

    def create(
        self,
        way: Way,
        person: str,
        role: Role,
        sites: frozenset[str] | None,
        *,
        life_s: float,
        note: str = "",
        parent: str | None = None,
    ) -> tuple[str, Principal]:
        """A new token, told once and never again, and its principal. It ends with its `parent` (None: it has none). Durable."""
        token = secrets.token_urlsafe(32)
        now_ms = self._now_ms()
        principal = Principal(person, role, sites, way, token_hash(token), now_ms + int(life_s * 1000))
        self._database.execute(
            "INSERT INTO session VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, ?)",
            (principal.session, way, person, role, _sites_text(sites), note, now_ms, principal.expires_ms, parent),
        )
        return token, principal

    def resolve(self, token: str, ways: tuple[Way, ...]) -> Principal | None:
        """The principal of a token; None when it is unknown, expired, revoked or not of these ways."""
        query = f"SELECT person, role, sites, way, hash, expires_ms FROM session WHERE {_STANDS}"
        row = self._database.execute(query, {"hash": token_hash(token), "now": self._now_ms()}).fetchone()
        if row is None or row[3] not in ways:
            return None
        sites = None if self._skips_scope else _sites_of(row[2])
        return Principal(row[0], row[1], sites, row[3], row[4], row[5])

    def redeem(self, token: str) -> tuple[str, Principal] | None:
        """Change a login link (once) or a bearer token for a browser session; None when it does not hold."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            entrance = self.resolve(token, ("link", "bearer"))
            made = None
            if entrance is not None:
                if entrance.way == "link":
                    self.revoke(entrance.session)
                    life_s, parent = float(COOKIE_LIFE_S), None
                else:
                    life_s, parent = min(COOKIE_LIFE_S, (entrance.expires_ms - self._now_ms()) / 1000), entrance.session
                made = self.create("cookie", entrance.person, entrance.role, entrance.sites, life_s=life_s, parent=parent)
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        return made

    def revoke(self, session: str) -> bool:
        """End a session or token by its name; False when there is none that stands."""
        cursor = self._database.execute(
            "UPDATE session SET revoked_ms = ? WHERE hash = ? AND revoked_ms IS NULL", (self._now_ms(), session)
        )
        return cursor.rowcount > 0

    def stands(self, session: str) -> bool:
        """True while a session is neither expired nor revoked."""
        query = f"SELECT 1 FROM session WHERE {_STANDS}"
        return self._database.execute(query, {"hash": session, "now": self._now_ms()}).fetchone() is not None

    def rows(self) -> list[SessionRow]:
        """The newest AUDIT_ROWS_MAX sessions and tokens, newest first."""
        query = f"SELECT {_ROW} FROM session ORDER BY created_ms DESC, hash LIMIT ?"
        return [_session_row(row) for row in self._database.execute(query, (AUDIT_ROWS_MAX,))]

    def find(self, session: str) -> SessionRow | None:
        """A session or token by its name; None when there is none."""
        row = self._database.execute(f"SELECT {_ROW} FROM session WHERE hash = ?", (session,)).fetchone()
        return None if row is None else _session_row(row)

    def audit(self, person: str, address: str, action: str, site: str, body: str, status: int, result: str) -> None:
        """Record a mutating call. Durable when it returns."""
        self._database.execute(
            "INSERT INTO audit (time_ms, person, address, action, site, body, status, result) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (self._now_ms(), person, address, action, site, body, status, result),
        )

    def audit_rows(self, sites: frozenset[str] | None, limit: int) -> list[AuditRow]:
        """Audit rows of these sites (None: all), newest first."""
        query = "SELECT number, time_ms, person, address, action, site, body, status, result FROM audit"
        values: list[Any] = []
        if sites is not None:
            query += " WHERE site IN (SELECT value FROM json_each(?))"
            values.append(json.dumps(sorted(sites)))
        query += " ORDER BY number DESC LIMIT ?"
        return [AuditRow(*row) for row in self._database.execute(query, (*values, min(limit, AUDIT_ROWS_MAX)))]

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def first_login_link(path: Path, *, clock: Clock, base_url: str, person: str = "admin") -> str:
    """A one-time login link of an administrator of all sites. The token stands after `#`, so it reaches no log and no proxy."""
    sessions = Sessions(path, clock=clock)
    try:
        token, _ = sessions.create("link", person, "admin", None, life_s=LINK_LIFE_S, note="login link")
    finally:
        sessions.close()
    return f"{base_url.rstrip('/')}/login#{token}"


class Gate:
    """Sessions for the event loop: every call runs in one thread, so SQLite never blocks a request of somebody else."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="sessions")

    async def run(self, call: Callable[[], T]) -> T:
        """The result of a call on `sessions`."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def principal(self, connection: HTTPConnection) -> Principal | None:
        """Who sent this request or opened this socket; None when nobody we know. A bearer header goes before the cookie."""
        scheme, _, credentials = connection.headers.get("authorization", "").partition(" ")
        if scheme:
            if scheme.lower() != "bearer":
                return None
            return await self.run(lambda: self.sessions.resolve(credentials.strip(), ("bearer",)))
        cookie = connection.cookies.get(COOKIE)
        return None if cookie is None else await self.run(lambda: self.sessions.resolve(cookie, ("cookie",)))

    def close(self) -> None:
        """End the thread and close the file."""
        self._executor.shutdown(wait=True)
        self.sessions.close()


def same_origin(connection: HTTPConnection) -> bool:
    """False when a browser says that another origin's page sent this. Programs send no Origin."""
    origin = connection.headers.get("origin")
    if origin is None:
        return connection.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
    return origin.partition("://")[2].lower() == connection.headers.get("host", "").lower()


def unauthenticated() -> ProblemError:
    """401 for somebody we do not know."""
    return ProblemError(401, "unauthenticated", "Log in, or send a token.", headers={"WWW-Authenticate": "Bearer"})


def _check_forgery(request: Request) -> None:
    """Cookies travel with requests of foreign pages too: a change needs our own header and our own origin."""
    if request.headers.get(CSRF_HEADER) is None or not same_origin(request):
        raise ProblemError(403, "forgery", f"A change by cookie needs the header {CSRF_HEADER} and must come from our own page.")


class Requires:
    """A dependency: the principal, with at least a role. A `{site}` outside his scope is 404 before anything else."""

    def __init__(self, role: Role) -> None:
        self._role = role

    async def __call__(self, request: Request) -> Principal:
        """Who asks is looked up once for a request; what he may do is asked each time."""
        principal: Principal | None = getattr(request.state, "principal", None)
        if principal is None:
            gate: Gate = request.app.state.parts.gate
            principal = await gate.principal(request)
            if principal is None:
                raise unauthenticated()
            request.state.principal = principal
        if principal.way == "cookie" and request.method not in SAFE_METHODS:
            _check_forgery(request)
        site = request.path_params.get("site")
        if site is not None and not principal.may_see(site):
            raise not_found("site")
        if not principal.has(self._role):
            raise ProblemError(403, "forbidden", f"This needs the role {self._role}; you are {principal.role}.")
        return principal


class GuardedRoute(APIRoute):
    """Who asks, and what he may do, is settled before his body is read: the framework itself would read it first."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind its guards."""
        handler = super().get_route_handler()
        guards = [dependency.call for dependency in self.dependant.dependencies if isinstance(dependency.call, Requires)]

        async def guarded(request: Request) -> Response:
            for guard in guards:
                await guard(request)
            return await handler(request)

        return guarded


async def feed_principal(socket: WebSocket, gate: Gate) -> Principal:
    """Who opens the live feed. Raises 403 when a foreign page opens it, 401 when nobody we know does."""
    if not same_origin(socket):
        raise ProblemError(403, "forgery", "The live feed is opened by our own page, or by a program.")
    principal = await gate.principal(socket)
    if principal is None:
        raise unauthenticated()
    return principal


def client_address(connection: HTTPConnection) -> str:
    """The peer's address; forwarded headers are not believed."""
    return connection.client.host if connection.client is not None else ""


__all__ = [
    "AuditRow",
    "Gate",
    "GuardedRoute",
    "Principal",
    "Requires",
    "Role",
    "SessionRow",
    "Sessions",
    "client_address",
    "feed_principal",
    "first_login_link",
    "token_hash",
]
