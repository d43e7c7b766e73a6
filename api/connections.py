"""Connections as we want them from the server: bounded in number and time, and errors of one shape below the application too.

A connection must bring its request, and take the answer, within REQUEST_LIMIT_S. A feed whose client does not read is cut off: an
orderly end would wait for the client to take what is buffered, which it never does.
"""

import asyncio
import os
import socket
import struct
from http import HTTPStatus
from typing import Any, Final, cast

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.http11 import Response

from api.problem import KINDS, ProblemError, problem_response

CONNECTIONS_MAX: Final = 2_000
WRITE_BUFFER: Final = 16 * 1024  # of one feed; over it the next message waits
REQUEST_LIMIT_S: Final = 60.0  # a history query may wait for its place, then takes up to 10 s


async def _crowded(scope: Scope, receive: Receive, send: Send) -> None:
    """The application of a connection too many."""
    headers = {"Retry-After": "2", "Connection": "close"}
    error = ProblemError(503, "unavailable", "Too many connections. Try again.", headers=headers)
    await problem_response(error)(scope, receive, send)


class HttpConnection(H11Protocol):
    """One HTTP connection."""

    connections_max = CONNECTIONS_MAX
    request_limit_s = REQUEST_LIMIT_S
    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is awaited."""
        super().connection_made(transport)
        if len(self.connections) > self.connections_max:
            self.app = cast("Any", _crowded)
        self._await_request()

    def data_received(self, data: bytes) -> None:
        """Bytes of the request that is awaited, or of the next one."""
        self._await_request()
        super().data_received(data)

    def on_response_complete(self) -> None:
        """From here on the server's own time limit between requests holds."""
        self._stop_waiting()
        super().on_response_complete()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """A feed has its own limits."""
        self._stop_waiting()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._stop_waiting()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP request."""
        answer = problem_response(ProblemError(400, KINDS[400], msg))
        headers = [*answer.raw_headers, (b"connection", b"close")]
        for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _await_request(self) -> None:
        if self._limit is None:
            self._limit = self.loop.call_later(self.request_limit_s, _cut, self.transport)

    def _stop_waiting(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None


class FeedConnection(WebSocketsSansIOProtocol):
    """One connection of the live feed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The saboteur of tests/unit/api/test_connections.py: whoever does not read keeps his connection and what it holds.
        self._keeps_slow_clients = os.environ.get("FIELDLOOM_SABOTAGE") == "keep_slow_clients"
        self.conn.reject = _refusal  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready, with little room for what its client has not taken."""
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER)

    async def send(self, message: Any) -> None:
        """Pass it on. A refusal completes the handshake too, or the server would log each as a defect."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and self.close_sent:
            self.handshake_complete = True

    async def run_asgi(self) -> None:
        """Serve it; what its client has not taken at the end is thrown away with the connection."""
        await super().run_asgi()
        if self.transport.get_write_buffer_size() and not self._keeps_slow_clients:
            _cut(self.transport)


def _cut(transport: asyncio.Transport) -> None:
    """End a connection at once; without the linger time of 0 the kernel would go on offering what it holds, for minutes."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _refusal(status: int | HTTPStatus, text: str) -> Response:
    """The answer to a handshake that is none."""
    answer = problem_response(ProblemError(int(status), KINDS.get(int(status), "bad-request"), text.strip()))
    headers = {name.decode(): value.decode() for name, value in answer.raw_headers}
    return Response(int(status), HTTPStatus(status).phrase, Headers({**headers, "Connection": "close"}), bytes(answer.body))
