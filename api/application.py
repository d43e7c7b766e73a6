"""The web application: routes, middleware and error shape put together from parts that are given. Nothing here is a singleton."""

from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from api import problem, schema
from api.audit import Audit
from api.limits import BodyLimit, Guard
from api.parts import Parts
from api.routes import (
    alarms,
    areas,
    backtests,
    commands,
    config,
    decisions,
    devices,
    entries,
    health,
    history,
    lanes,
    measures,
    metrics,
    notifications,
    points,
    rejects,
    rule_changes,
    rules,
    session,
    shadows,
    sites,
    stream,
    why,
)

PREFIX: Final = "/api/v1"
STATIC: Final = Path(__file__).with_name("static")
DESCRIPTION: Final = """
Live values, history, alarms, commands and configuration of Fieldloom.

Log in with `POST /api/v1/session` (browser cookie), or send `Authorization: Bearer <token>`. Times are ms since 1970 UTC.
Every error is `application/problem+json` (RFC 9457). What lies outside your sites does not exist for you: 404.
"""


class _Application(FastAPI):
    """FastAPI, but its schema names our one error shape wherever the framework would name its own."""

    def openapi(self) -> dict[str, Any]:
        """The schema, made once."""
        if self.openapi_schema is None:
            schema.describe(super().openapi())
        assert self.openapi_schema is not None
        return self.openapi_schema


def make_app(parts: Parts) -> FastAPI:
    """The application over `parts`. The caller runs the followers and closes the parts."""
    app = _Application(
        title="Fieldloom",
        version="1",
        description=DESCRIPTION,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # its page loads scripts from elsewhere, which our content policy forbids
        redoc_url=None,
    )
    app.state.parts = parts
    problem.install(app)
    routed = APIRouter(prefix=PREFIX)
    modules = (
        sites,
        devices,
        points,
        history,
        entries,
        why,
        alarms,
        measures,
        notifications,
        areas,
        shadows,
        lanes,
        backtests,
        commands,
        decisions,
        rejects,
        config,
        rules,
        rule_changes,
        session,
    )
    for module in modules:
        routed.include_router(module.router)
    for module in (health, metrics):
        routed.include_router(module.router)
        app.include_router(module.router, include_in_schema=False)  # where probes and scrapers look first
    routed.include_router(stream.router)
    app.include_router(routed)
    _pages(app)
    app.add_api_websocket_route("/{path:path}", _no_feed)
    app.add_middleware(Audit)
    app.add_middleware(BodyLimit)
    app.add_middleware(Guard, hosts=parts.hosts)
    return app


async def _no_feed(path: str) -> None:
    """A WebSocket anywhere else: the framework's own refusal has no words."""
    del path
    raise HTTPException(404)


def _pages(app: FastAPI) -> None:
    """The overview page and its login; plain files without a build."""

    async def overview() -> Any:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    async def login() -> Any:
        return FileResponse(STATIC / "login.html", headers={"Cache-Control": "no-cache"})

    app.add_api_route("/", overview, include_in_schema=False)
    app.add_api_route("/login", login, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC, check_dir=False), name="static")
