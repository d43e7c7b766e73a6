"""The one error shape of the API: RFC 9457 problem details, `application/problem+json`.

Every answer that is not a success passes here, also 404 and 405 of the router, 422 of validation and 500. A detail says what to do
about it; it never carries a secret, a stack or the name of something the caller may not see.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

MEDIA_TYPE: Final = "application/problem+json"
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
ERRORS_MAX: Final = 200  # mistakes named in one answer; a hostile body must not make a huge one


class FieldError(BaseModel):
    """One mistake in what was sent."""

    path: str = Field(examples=["body.seconds"])
    message: str = Field(examples=["Input should be greater than 0"])


class ProblemBody(BaseModel):
    """What every error answer holds."""

    type: str = Field(examples=["/problems/not-found"], description="Names the kind of problem; stable, for programs")
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str = Field(default="", examples=["There is no such site, or you may not see it."])
    errors: list[FieldError] = Field(default=[], description="Every mistake found in the request")


class ProblemError(Exception):
    """Raised by a route; becomes a problem answer. `kind` is the last part of the problem's type."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        errors: list[FieldError] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.errors = errors or []
        self.headers = dict(headers or {})


def not_found(what: str) -> ProblemError:
    """404 for what is absent and for what the caller may not see, word for word the same."""
    return ProblemError(404, "not-found", f"There is no such {what}, or you may not see it.")


def problem_response(error: ProblemError) -> Response:
    """The answer for an error."""
    body: dict[str, Any] = {
        "type": f"/problems/{error.kind}",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
    }
    if error.errors:
        body["errors"] = [{"path": e.path, "message": e.message} for e in error.errors[:ERRORS_MAX]]
    return Response(msgspec.json.encode(body), error.status, error.headers, MEDIA_TYPE)


def field_errors(errors: list[Any], prefix: str = "") -> list[FieldError]:
    """Errors of pydantic as paths and messages. What was sent is not repeated: it may be a secret or very large."""
    return [
        FieldError(path=".".join(filter(None, [prefix, *(str(part) for part in e["loc"])])), message=str(e["msg"])[:500])
        for e in errors
    ]


KINDS: Final[dict[int, str]] = {
    400: "bad-request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    409: "conflict",
    413: "too-large",
    421: "wrong-host",
    422: "invalid",
    429: "too-many-requests",
    500: "internal",
    503: "unavailable",
    504: "timeout",
}


DETAILS: Final = {
    404: "There is no such address.",
    405: "This address does not take this method.",
    422: "The body is not JSON in UTF-8, or nested too deeply.",
}


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return problem_response(error)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status, headers = error.status_code, dict(error.headers or {})
    if status == 400:  # the framework's word for a body that is no JSON text
        status = 422
    if status == 405:
        headers["Allow"] = ", ".join(_methods(request))
    detail = DETAILS.get(status, str(error.detail))
    return problem_response(ProblemError(status, KINDS.get(status, "error"), detail, headers=headers))


def _methods(request: Request) -> list[str]:
    """Every method that this address takes; the router itself names those of the first route that fits."""
    routes = request.app.routes

    def is_taken(method: str) -> bool:
        return any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)

    return [method for method in METHODS if is_taken(method)]


async def _on_validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return problem_response(ProblemError(422, "invalid", "What was sent is not valid.", errors=field_errors(list(error.errors()))))


async def _on_failure(_: Request, error: Exception) -> Response:
    del error  # logged by the server; its text may name files or contain secrets
    return problem_response(
        ProblemError(500, "internal", "The service failed on this request. It is in the log of the web process.")
    )


def install(app: FastAPI) -> None:
    """Make every error of the application a problem answer."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(Exception, _on_failure)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries of the problem answers an operation can give."""
    return {status: {"model": ProblemBody, "description": HTTPStatus(status).phrase} for status in statuses}
