"""The command line's way to a running service: its HTTP API. A person on the machine of the data needs no login of his own.

Without FIELDLOOM_TOKEN a token is made in the data directory's own session table, valid for a minute and ended afterwards: whoever
can write those files is the administrator already.
"""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx

from api.auth import Sessions
from app.settings import Settings
from telemetry.clock import EngineClock
from telemetry.errors import CallerError, CorruptError, EnvironmentFault, StoreError

TOKEN_LIFE_S: Final = 60.0
TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.1
ANSWER_S: Final = 15.0  # a request is journaled within 0.2 s; longer means that core does not run


class NoServiceError(EnvironmentFault):
    """Nobody listens at the service's address."""


class Client:
    """Calls of the API as plain values. Raises CallerError (the service refused, with its reason) or EnvironmentFault."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, path: str, **query: Any) -> Any:
        """The answer's JSON."""
        return self._call("GET", path, params={k: v for k, v in query.items() if v is not None})

    def post(self, path: str, body: Any) -> Any:
        """The answer's JSON."""
        return self._call("POST", path, json=body)

    def put(self, path: str, body: Any) -> Any:
        """The answer's JSON."""
        return self._call("PUT", path, json=body)

    def delete(self, path: str) -> Any:
        """The answer's JSON."""
        return self._call("DELETE", path)

    @contextlib.contextmanager
    def stream(self, path: str) -> Iterator[httpx.Response]:
        """A long answer while it arrives."""
        with self._explained(), self._http.stream("GET", f"/api/v1{path}") as answer:
            if not answer.is_success:
                answer.read()
                raise CallerError(_reason(answer))
            yield answer

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        url = self._http.base_url
        try:
            yield
        except httpx.TimeoutException as error:
            raise EnvironmentFault(f"{url} did not answer within {TIMEOUT_S:.0f} s; see `fieldloom doctor`") from error
        except httpx.ConnectError as error:
            message = f"no web process answers at {url}; start it with `fieldloom serve` or `fieldloom demo`"
            raise NoServiceError(message) from error
        except httpx.TransportError as error:
            raise EnvironmentFault(f"the answer of {url} broke off ({error}); see `fieldloom doctor`, then try again") from error

    def _call(self, method: str, path: str, **more: Any) -> Any:
        with self._explained():
            answer = self._http.request(method, f"/api/v1{path}", **more)
        if answer.is_success:
            return answer.json() if answer.content else None
        raise CallerError(_reason(answer))

    def wait_for(self, site: str, request: str) -> dict[str, Any]:
        """Until core has answered a request: done, or to be confirmed. Raises CallerError when it refused it, EnvironmentFault when it
        does not answer.

        A configuration that it takes comes into force: `wait_in_force`.
        """
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            found: dict[str, Any] = {}
            with contextlib.suppress(CallerError):  # 404 until the follower has seen it
                found = self.get(f"/sites/{site}/requests/{request}")
            if found.get("confirm") is not None:
                return found
            if found.get("accepted") is False:
                raise CallerError(f"core refused it: {found.get('reason')}")
            if found.get("accepted") is True or found.get("kind") == "config":
                return found
            time.sleep(POLL_S)
        raise EnvironmentFault(f"kept, but not answered within {ANSWER_S:.0f} s; is core running? see `fieldloom status`")

    def wait_in_force(self, site: str, sha256: str) -> None:
        """Until core has journaled this configuration. Raises EnvironmentFault when it does not within ANSWER_S."""
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            with contextlib.suppress(CallerError):  # 404 until the follower has seen a new site
                if self.get(f"/sites/{site}/config")["sha256"] == sha256:
                    return
            time.sleep(POLL_S)
        raise EnvironmentFault(f"kept, but not in force after {ANSWER_S:.0f} s; is core running? see `fieldloom status`")


def _reason(answer: httpx.Response) -> str:
    """The problem document as lines."""
    try:
        problem = answer.json()
    except json.JSONDecodeError:
        return f"the service answered {answer.status_code}"
    lines = [str(problem.get("detail") or problem.get("title") or answer.status_code)]
    lines += [f"  {item.get('path')}: {item.get('message')}" for item in problem.get("errors") or []]
    return "\n".join(lines)


def base_url(settings: Settings) -> str:
    """FIELDLOOM_URL, else what the web process of this data directory said when it started, else the configured address."""
    given = os.environ.get("FIELDLOOM_URL", "")
    if given:
        return given.rstrip("/")
    told = settings.data_dir / "run" / "web.ready"
    if told.is_file():
        return reachable(told.read_text("utf-8").strip())
    return reachable(f"http://{settings.web_host}:{settings.web_port}")


def reachable(address: str) -> str:
    """From this machine: a process that listens everywhere answers here on loopback, and to that name."""
    return address.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:").replace("//:::", "//[::1]:")


def page_url(settings: Settings) -> str:
    """Where people open the page: behind a TLS proxy under the first of `web_hosts`, else where it listens."""
    if settings.web_secure_cookie and settings.web_hosts:
        return f"https://{settings.web_hosts[0]}"
    return base_url(settings)


def open_sessions(data_dir: Path) -> Sessions:
    """The session table of a data directory. Raises StoreError or CorruptError with the fix."""
    file = data_dir / "web.sqlite"
    try:
        return Sessions(file, clock=EngineClock(time.time_ns, time.monotonic_ns))
    except sqlite3.OperationalError as error:
        raise StoreError(f"{file}: {error}; is it yours to write, and is there space?") from error
    except sqlite3.DatabaseError as error:
        raise CorruptError(
            f"{file}: the file is damaged ({error}); put back a copy, or move it aside: people then log in anew"
        ) from error
    except OSError as error:
        raise StoreError(f"{data_dir}: {error.strerror}; set FIELDLOOM_DATA_DIR to the service's own") from error


@contextlib.contextmanager
def connect(settings: Settings) -> Iterator[Client]:
    """A client that is logged in. Raises CallerError when there is no way to log in."""
    token, sessions = os.environ.get("FIELDLOOM_TOKEN", ""), None
    file = settings.data_dir / "web.sqlite"
    if not token:
        if not file.is_file():
            raise CallerError(f"no session table in {settings.data_dir}; give its data_dir, or FIELDLOOM_URL and FIELDLOOM_TOKEN")
        sessions = open_sessions(settings.data_dir)
        try:
            token, made = sessions.create("bearer", "local", "admin", None, life_s=TOKEN_LIFE_S, note="command line")
        except sqlite3.Error as error:
            sessions.close()
            raise StoreError(f"{file}: no session can be made: {error}; is the disk full? see `fieldloom doctor`") from error
    try:
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=base_url(settings), headers=headers, timeout=TIMEOUT_S, trust_env=False) as http:
            yield Client(http)
    finally:
        if sessions is not None:
            sessions.revoke(made.session)
            sessions.close()
