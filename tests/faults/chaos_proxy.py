"""A TCP proxy whose network turns bad on command: pass, blackhole, refuse, trickle, cut."""

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from typing import Literal, Self

Mode = Literal["pass", "blackhole", "refuse", "trickle"]
CHUNK = 65536
TRICKLE_S = 0.01
POLL_S = 0.01


class ChaosProxy:
    """Runs in the test's event loop. `mode` may be changed at any time and holds for open connections too.

    blackhole: bytes are neither forwarded nor refused. trickle: one byte each 10 ms. refuse: new connections are reset at once.
    """

    def __init__(self, target_port: int, *, target_host: str = "127.0.0.1") -> None:
        self._target = (target_host, target_port)
        self.mode: Mode = "pass"
        self.port = 0
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> Self:
        """Listen on a free loopback port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def cut(self) -> None:
        """Reset every open connection; new ones are treated by `mode`."""
        for writer in self._writers:
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.mode == "refuse":
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._join(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # a cancelled task would be logged as an error by the stream's own callback
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        ends = {writer, far_writer}
        self._writers |= ends
        pumps = [asyncio.ensure_future(self._pump(reader, far_writer)), asyncio.ensure_future(self._pump(far_reader, writer))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for end in ends:
                end.transport.abort()
            self._writers -= ends
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(CHUNK):
                await self._forward(data, writer)

    async def _forward(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        sent = 0
        while sent < len(data):
            if self.mode == "blackhole":
                await asyncio.sleep(POLL_S)
            elif self.mode == "trickle":
                writer.write(data[sent : sent + 1])
                sent += 1
                await asyncio.sleep(TRICKLE_S)
            else:
                writer.write(data[sent:])
                sent = len(data)
            await writer.drain()

    async def close(self) -> None:
        """Stop listening and reset everything."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN: an end that nobody wished for."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
