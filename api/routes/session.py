"""Login, logout, who am I, tokens for programs, and the audit."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from api import problem
from api.auth import (
    BEARER_LIFE_MAX_S,
    COOKIE,
    COOKIE_LIFE_S,
    LINK_LIFE_S,
    RANKS,
    GuardedRoute,
    Principal,
    Requires,
    Role,
    SessionRow,
    client_address,
    same_origin,
)
from api.parts import UseParts
from api.problem import ProblemError, not_found
from api.routes.sites import Viewer
from api.views import View
from telemetry.site import Name

router = APIRouter(tags=["session"], route_class=GuardedRoute)
Admin = Annotated[Principal, Depends(Requires("admin"))]
Person = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]


class Login(BaseModel):
    """A one-time link's token, or a program's token."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"token": "lF3v...43 characters"}]})

    token: str = Field(min_length=20, max_length=200)


class Me(View):
    """Who is logged in. sites is null for all sites."""

    person: str = Field(examples=["wang"])
    role: Role = Field(examples=["operator"])
    sites: list[str] | None = Field(examples=[["nursery"]])
    expires_ms: int = Field(examples=[1767268860000])


class TokenRequest(BaseModel):
    """A token for a program (`bearer`) or a one-time login link for a person (`link`), never stronger than your own."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"person": "scada", "role": "viewer", "sites": ["nursery"], "way": "bearer", "days": 90}]},
    )

    person: Person
    role: Role
    sites: list[Name] | None = Field(default=None, max_length=1000, description="null: all sites")
    way: Annotated[str, StringConstraints(pattern="^(bearer|link)$")] = "bearer"
    days: float = Field(default=90, gt=0, le=BEARER_LIFE_MAX_S / 86400, allow_inf_nan=False, description="Life of a bearer token")
    note: str = Field(default="", max_length=200)


class TokenMade(View):
    """The token itself: shown once, kept only as a hash."""

    token: str = Field(examples=["lF3v..."])
    session: str = Field(examples=["5f70bf18a086007016e948b04aed3b82"])
    expires_ms: int = Field(examples=[1767268860000])


class SessionView(View):
    """A session, link or token."""

    session: str = Field(examples=["5f70bf18a086007016e948b04aed3b82"])
    way: str = Field(examples=["bearer"])
    person: str = Field(examples=["scada"])
    role: str = Field(examples=["viewer"])
    sites: list[str] | None = Field(examples=[["nursery"]])
    note: str = Field(examples=["reports"])
    created_ms: int = Field(examples=[1767225660000])
    expires_ms: int = Field(examples=[1767268860000])
    revoked_ms: int | None = Field(examples=[None])


class SessionList(View):
    """Newest first."""

    items: list[SessionView]


class AuditView(View):
    """One mutating call."""

    number: int = Field(examples=[12])
    time_ms: int = Field(examples=[1767225660000])
    person: str = Field(examples=["wang"])
    address: str = Field(examples=["127.0.0.1"])
    action: str = Field(examples=["POST /api/v1/sites/nursery/alarms/ms-1/MS-T-HH/acknowledge"])
    site: str = Field(examples=["nursery"])
    body: str = Field(examples=['{"id":"8c1f0a7e2b94"}'])
    status: int = Field(examples=[202])
    result: str = Field(examples=["done"])


class AuditList(View):
    """Newest first."""

    items: list[AuditView]


def _me(principal: Principal) -> Me:
    sites = None if principal.sites is None else sorted(principal.sites)
    return Me(person=principal.person, role=principal.role, sites=sites, expires_ms=principal.expires_ms)


@router.post("/session", responses=problem.documented(401, 403, 422, 429))
async def login(asked: Login, request: Request, response: Response, parts: UseParts) -> Me:
    """Log in a browser: a one-time link's token (it ends with this) or a program's token gives a session cookie."""
    if not same_origin(request):
        raise ProblemError(403, "forgery", "A login must come from our own page.")
    parts.logins.check(client_address(request))
    made = await parts.gate.run(lambda: parts.gate.sessions.redeem(asked.token))
    if made is None:
        raise ProblemError(
            401, "unauthenticated", "This link or token does not hold: wrong, used, expired or revoked. Ask for a new one."
        )
    token, principal = made
    request.state.principal = principal
    response.set_cookie(
        COOKIE, token, max_age=COOKIE_LIFE_S, path="/", httponly=True, samesite="strict", secure=parts.secure_cookie
    )
    return _me(principal)


@router.get("/session", responses=problem.documented(401))
async def me(principal: Viewer) -> Me:
    """Who you are, and what you may see."""
    return _me(principal)


@router.delete("/session", status_code=204, responses=problem.documented(401, 403))
async def logout(response: Response, parts: UseParts, principal: Viewer) -> None:
    """End this session or token at once, its live feeds too."""
    await parts.gate.run(lambda: parts.gate.sessions.revoke(principal.session))
    response.delete_cookie(COOKIE, path="/")


def _covers(principal: Principal, sites: frozenset[str] | None) -> bool:
    """True when every one of the sites is in the principal's scope."""
    return principal.sites is None or (sites is not None and sites <= principal.sites)


def _session_view(row: SessionRow) -> SessionView:
    return SessionView(
        session=row.session,
        way=row.way,
        person=row.person,
        role=row.role,
        sites=None if row.sites is None else sorted(row.sites),
        note=row.note,
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        revoked_ms=row.revoked_ms,
    )


@router.post("/tokens", status_code=201, responses=problem.documented(401, 403, 404, 422))
async def make_token(asked: TokenRequest, parts: UseParts, principal: Admin) -> TokenMade:
    """Make a token for a program or a login link for a person, within your own scope."""
    sites = None if asked.sites is None else frozenset(asked.sites)
    if not _covers(principal, sites):
        raise not_found("site")
    assert RANKS[asked.role] <= RANKS[principal.role]  # an administrator is the strongest
    sessions, life_s = parts.gate.sessions, float(LINK_LIFE_S) if asked.way == "link" else asked.days * 86400
    way: Any = asked.way
    token, made = await parts.gate.run(
        lambda: sessions.create(way, asked.person, asked.role, sites, life_s=life_s, note=asked.note)
    )
    return TokenMade(token=token, session=made.session, expires_ms=made.expires_ms)


@router.get("/tokens", responses=problem.documented(401, 403))
async def tokens(parts: UseParts, principal: Admin) -> SessionList:
    """Sessions and tokens whose whole scope is within yours."""
    rows = await parts.gate.run(parts.gate.sessions.rows)
    return SessionList(items=[_session_view(row) for row in rows if _covers(principal, row.sites)])


@router.delete("/tokens/{session}", status_code=204, responses=problem.documented(401, 403, 404))
async def revoke(session: str, parts: UseParts, principal: Admin) -> None:
    """End a session or token; its live feeds close within seconds."""
    sessions = parts.gate.sessions
    row = await parts.gate.run(lambda: sessions.find(session))
    if row is None or not _covers(principal, row.sites):
        raise not_found("session")
    await parts.gate.run(lambda: sessions.revoke(session))


@router.get("/audit", responses=problem.documented(401, 403, 422))
async def audit(parts: UseParts, principal: Admin, limit: Annotated[int, Query(ge=1, le=1000)] = 200) -> AuditList:
    """Who changed what. Calls that name no site are seen by administrators of all sites only."""
    rows = await parts.gate.run(lambda: parts.gate.sessions.audit_rows(principal.sites, limit))
    return AuditList(
        items=[
            AuditView(
                number=r.number,
                time_ms=r.time_ms,
                person=r.person,
                address=r.address,
                action=r.action,
                site=r.site,
                body=r.body,
                status=r.status,
                result=r.result,
            )
            for r in rows
        ]
    )
