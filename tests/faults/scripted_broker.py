"""An MQTT 5 broker that says exactly the bytes a test wants, for what a real broker never sends."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import mqtt5

CONNACK = b"\x20\x03\x00\x00\x00"
CONNACK_PRESENT = b"\x20\x03\x01\x00\x00"
SUBACK = b"\x90\x04\x00\x01\x00\x01"
DISCONNECT_TAKEN_OVER = b"\xe0\x02\x8e\x00"

Say = Callable[[bytes], Awaitable[None]]


def publish_bytes(topic: bytes, payload: bytes, packet_id: int = 0) -> bytes:
    """A PUBLISH by hand, so that the topic may be anything; QoS 1 when it has a packet id."""
    body = len(topic).to_bytes(2, "big") + topic + (packet_id.to_bytes(2, "big") if packet_id else b"") + b"\x00" + payload
    length, size = b"", len(body)
    while True:
        size, digit = divmod(size, 128)
        length += bytes([digit | 0x80 if size else digit])
        if not size:
            return bytes([0x32 if packet_id else 0x30]) + length + body


class ScriptedBroker:
    """Answers CONNECT and SUBSCRIBE, then runs `script(say, number of the connection)`. `heard` holds packets per connection."""

    def __init__(
        self, script: Callable[[Say, int], Awaitable[None]], *, connack: bytes = CONNACK, byte_by_byte: bool = False
    ) -> None:
        self._script, self._connack, self._byte_by_byte = script, connack, byte_by_byte
        self.heard: list[list[object]] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        heard: list[object] = []
        self.heard.append(heard)
        number = len(self.heard)

        async def say(data: bytes) -> None:
            for part in [data[i : i + 1] for i in range(len(data))] if self._byte_by_byte else [data]:
                writer.write(part)
                await asyncio.sleep(0)
                await asyncio.sleep(0)

        try:
            scripts: list[asyncio.Task[None]] = []
            rest = b""
            while data := await reader.read(65_536):
                rest += data
                while rest:
                    try:
                        packet, size = mqtt5.read(memoryview(rest))
                    except (IndexError, ValueError):
                        break
                    rest = rest[size:]
                    heard.append(packet)
                    if isinstance(packet, mqtt5.ConnectPacket):
                        await say(self._connack)
                    elif isinstance(packet, mqtt5.SubscribePacket):
                        await say(SUBACK)
                        scripts.append(asyncio.ensure_future(self._script(say, number)))  # type: ignore[arg-type]
                    elif isinstance(packet, mqtt5.PingReqPacket):
                        await say(b"\xd0\x00")
        except (ConnectionError, asyncio.CancelledError):
            pass  # swallowed: the stream's own callback would log a cancelled task as an error
        finally:
            for script in scripts:
                script.cancel()
            writer.transport.abort()
            self._tasks.discard(task)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
