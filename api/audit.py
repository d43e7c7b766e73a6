"""Every mutating call is written down before its answer leaves: who, from where, what, when, and what came of it."""

import hashlib
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.auth import SAFE_METHODS, Principal, client_address
from api.parts import parts_of

BODY_KEPT_MAX: Final = 2_000  # bytes; a longer body is kept as its hash
SECRET_PATHS: Final = ("/api/v1/session",)  # a login's body is the secret itself


class Audit:
    """ASGI: one audit row per mutating call of somebody who is known, and per login attempt that passed the limits."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry."""
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS or not scope["path"].startswith("/api/"):
            await self._app(scope, receive, send)
            return
        body, digest, size = bytearray(), hashlib.sha256(), 0

        async def copied() -> Message:
            nonlocal size
            message = await receive()
            part = message.get("body", b"")
            size += len(part)
            digest.update(part)
            body.extend(part[: max(0, BODY_KEPT_MAX - len(body))])
            return message

        async def audited(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = (
                    bytes(body).decode("utf-8", "replace") if size <= BODY_KEPT_MAX else f"sha256:{digest.hexdigest()} {size} bytes"
                )
                await _write(scope, int(message["status"]), kept)
            await send(message)

        await self._app(scope, copied, audited)


async def _write(scope: Scope, status: int, body: str) -> None:
    principal: Principal | None = scope.get("state", {}).get("principal")
    is_login = scope["path"] in SECRET_PATHS
    if principal is None and not (is_login and status not in (413, 429)):
        return  # nobody known, nothing changed: an attacker must not fill the table
    connection = HTTPConnection(scope)
    gate = parts_of(connection).gate
    person = principal.person if principal is not None else ""
    site = str(scope.get("path_params", {}).get("site", ""))
    action, kept = f"{scope['method']} {scope['path']}", "" if is_login else body
    result = "done" if status < 400 else "refused"
    address = client_address(connection)
    await gate.run(lambda: gate.sessions.audit(person, address, action, site, kept, status, result))
