"""MQTT 5 over asyncio.Protocol and the `mqtt5` codec: persistent session, QoS 1, acknowledged only when the caller says so.

Two classes. `_Connection` is one TCP connection: bytes in, packets out, dead-peer detection. `MqttLink` outlives connections: it
reconnects as `Retry` says, keeps unacknowledged publishes, and reports changes of state once. Limits: packet PACKET_MAX, publishes
kept OUTGOING_MAX, bytes waiting in the socket WRITE_MAX; deliveries not acknowledged are bounded by the receive maximum.
"""

import asyncio
import os
import random
import ssl
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

import mqtt5
import structlog

from ingest.link import Delivery, OnBatch
from ingest.packets import PACKET_MAX, ROOM, ReadBuffer, packet_size, poison_id
from ingest.retry import Ending, Kind, Retry
from telemetry.clock import Clock
from telemetry.errors import LinkError

log = structlog.get_logger()

OUTGOING_MAX: Final = 10_000
WRITE_MAX: Final = 1 << 20
SESSION_EXPIRY_S: Final = 86_400
_PUBACK: Final = 0x4002_0000  # PUBACK, 2 bytes follow: the packet id; reason success
_REFUSALS: Final = {
    0x85: "the broker does not like the client id; change mqtt_client_id",
    0x86: "wrong user name or password; check mqtt_username and mqtt_password against the broker's password file",
    0x87: "not authorised; the broker refuses this user: check its password file and ACL",
    0x84: "the broker does not speak MQTT 5; use Mosquitto 2 or another MQTT 5 broker",
    0x8A: "this client is banned by the broker",
}


@dataclass(slots=True)
class _Outgoing:
    """A QoS 1 publish until its PUBACK. `dies_at`: loop time in s when its expiry is over; None = never."""

    topic: str
    payload: bytes
    retain: bool
    dies_at: float | None
    sent: bool = False


class MqttLink:
    """A Link over TCP or TLS. `clock` stamps arrivals, `rng` draws the jitter, `will` is (topic, payload) at QoS 1.

    `read_gap_s`: after a read the socket rests so long, so that many messages come in one read: half the CPU at 10,000 messages/s, for
    at most so much more latency. A message after a quiet time is read at once; so is a backlog. 0 = no rest.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        client_id: str,
        filters: Sequence[str],
        clock: Clock,
        rng: random.Random,
        on_batch: OnBatch,
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[str], None] = lambda _reason: None,
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
        receive_max: int = 10_000,
        keepalive_s: float = 5.0,
        session_expiry_s: int = SESSION_EXPIRY_S,
        will: tuple[str, bytes] | None = None,
        read_gap_s: float = 0.0,
    ) -> None:
        assert 1 <= receive_max <= 65_535
        assert keepalive_s > 0
        self._address = (host, port)
        self._tls = tls
        self.client_id = client_id
        self.filters = tuple(filters)
        self.keepalive_s = keepalive_s
        self.clock = clock
        self._retry = Retry(client_id, rng)
        self.on_batch = on_batch
        self._on_up = on_up
        self._on_down = on_down
        self._connect = mqtt5.ConnectPacket(
            client_id,
            username=username,
            password=None if password is None else password.encode(),
            clean_start=False,
            will=None if will is None else mqtt5.Will(will[0], payload=will[1], qos=mqtt5.QoS.AT_LEAST_ONCE),
            keep_alive=max(1, round(keepalive_s)),
            session_expiry_interval=session_expiry_s,
            receive_max=receive_max,
            max_packet_size=PACKET_MAX,
        ).write()
        self.ack_early = "ack_early" in os.environ.get("FIELDLOOM_SABOTAGE", "").split(",")
        self._newest: _Connection | None = None  # from its first byte on: a session delivers before it is up
        self.read_gap_s = read_gap_s
        self._connection: _Connection | None = None  # set while up
        self._connections = 0
        self._down_reported = False
        self._waiting: deque[_Outgoing] = deque()
        self._inflight: dict[int, _Outgoing] = {}
        self._last_id = 1  # 1 is the SUBSCRIBE's
        self.paused = False
        self.malformed = 0  # packets the codec could not read
        self.refused = 0  # publishes the broker or a bound refused, or that expired unsent

    # -- the Link protocol ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """See Link.run. An exception out of `on_batch` ends it: that is our own mistake, not the network's."""
        loop = asyncio.get_running_loop()
        while True:
            ending = await self._one_connection(loop)
            reason, wait_s = self._retry.after(ending, loop.time())
            if not self._down_reported:
                self._down_reported = True
                self._on_down(reason)
            await asyncio.sleep(wait_s)

    def acknowledge(self, tokens: Sequence[int]) -> None:
        """See Link.acknowledge."""
        connection = self._newest
        if connection is not None:
            mine = connection.generation
            connection.acknowledge([token for token in tokens if token >> 16 == mine])

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, expiry_s: int | None = None) -> bool:
        """See Link.publish."""
        assert qos in {0, 1}
        connection = self._connection
        if qos == 0:
            if connection is None or not connection.writable:
                self.refused += 1
                return False
            connection.write(mqtt5.PublishPacket(topic, payload, retain=retain, message_expiry_interval=expiry_s).write())
            return True
        too_large = connection is not None and len(payload) + len(topic) + 32 > connection.packet_max
        if too_large or len(self._waiting) + len(self._inflight) >= OUTGOING_MAX:
            self.refused += 1
            return False
        dies_at = None if expiry_s is None else asyncio.get_running_loop().time() + expiry_s
        self._waiting.append(_Outgoing(topic, payload, retain, dies_at))
        self.flush()
        return True

    def pause(self) -> None:
        """See Link.pause."""
        self.paused = True
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """See Link.resume."""
        if self.paused:
            self.paused = False
            if self._connection is not None:
                self._connection.resume()

    @property
    def unsent(self) -> int:
        """QoS 1 publishes the broker has not confirmed."""
        return len(self._waiting) + len(self._inflight)

    # -- one connection after another ------------------------------------------------------------------------------------------

    async def _one_connection(self, loop: asyncio.AbstractEventLoop) -> Ending:
        self._connections += 1
        self._newest = connection = _Connection(self, self._connections, loop)
        host, port = self._address
        try:
            async with asyncio.timeout(2 * self.keepalive_s):
                await loop.create_connection(lambda: connection, host, port, ssl=self._tls)
                await connection.ready
            return await connection.closed
        except TimeoutError:
            return Ending(f"{host}:{port} did not answer in {2 * self.keepalive_s:g} s; is it an MQTT broker?")
        except OSError as error:
            return Ending(f"cannot reach the broker at {host}:{port}: {error}; start it, or correct mqtt_host and mqtt_port")
        except LinkError as error:
            return Ending(str(error))
        finally:
            self._newest = self._connection = None
            connection.hang_up()

    @property
    def connect_packet(self) -> bytes:
        """The CONNECT to begin with."""
        return self._connect

    def came_up(self, connection: "_Connection", *, session_present: bool) -> None:
        """Subscribed: from now on publishes go out. Those of the session before are repeated first, in order, as duplicates."""
        self._connection = connection
        self._retry.up(connection.loop.time(), session_present=session_present)
        self._down_reported = False
        before, self._inflight = self._inflight, {}
        if session_present:
            for packet_id, item in before.items():
                self._send(connection, packet_id, item)
        else:
            for item in before.values():
                item.sent = False  # a broker without the session knows neither the id nor the message: no duplicates
            self._waiting.extendleft(reversed(before.values()))
        if self.paused:
            connection.pause()
        self._on_up()
        self.flush()

    def flush(self) -> None:
        """Send waiting publishes as far as the broker's window and our write buffer allow."""
        connection = self._connection
        if connection is None:
            return
        while self._waiting and len(self._inflight) < connection.window and connection.writable:
            self._send(connection, self._next_id(), self._waiting.popleft())

    def _send(self, connection: "_Connection", packet_id: int, item: _Outgoing) -> None:
        left_s = None
        if item.dies_at is not None:
            left_s = int(item.dies_at - connection.loop.time())
            if left_s <= 0 and item.sent:
                left_s = 1  # the id is taken in the broker's session: it must be completed; devices check expiry themselves
            elif left_s <= 0 and connection.loop.time() >= item.dies_at:
                self.refused += 1
                return
            left_s = max(1, left_s)
        packet = mqtt5.PublishPacket(
            item.topic,
            item.payload,
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            retain=item.retain,
            packet_id=packet_id,
            duplicate=item.sent,
            message_expiry_interval=left_s,
        )
        item.sent = True
        self._inflight[packet_id] = item
        connection.write(packet.write())

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % 65_535 + 1
            if self._last_id != 1 and self._last_id not in self._inflight:
                return self._last_id

    def published(self, packet: mqtt5.PubAckPacket) -> None:
        """The broker has it, or refused it."""
        item = self._inflight.pop(packet.packet_id, None)
        if item is not None and int(packet.reason_code) >= 0x80:
            self.refused += 1
            log.warning("the broker refused a message", topic=item.topic, reason=packet.reason_code.name)
        self.flush()


class _Connection(asyncio.BufferedProtocol):
    """One TCP connection. `ready` completes when subscribed, `closed` with the reason when it is over; both may raise LinkError."""

    def __init__(self, link: MqttLink, generation: int, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.generation = generation
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[Ending] = loop.create_future()
        self.writable = True
        self.window = 65_535
        self.packet_max = PACKET_MAX
        self._link = link
        self._transport: asyncio.Transport | None = None
        self._buffer = ReadBuffer()
        self._session_present = False
        self._reading = True
        self._last_received = loop.time()
        self._tick_due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce ourselves."""
        # uvloop's transports have the interface without the base class.
        stream = self._transport = cast("asyncio.Transport", transport)
        stream.set_write_buffer_limits(high=WRITE_MAX)
        stream.write(self._link.connect_packet)
        self._schedule()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        del sizehint
        return self._buffer.room()

    def buffer_updated(self, nbytes: int) -> None:
        """Everything one read produced becomes one batch."""
        self._last_received = self.loop.time()
        if not self._buffer.filled(nbytes):
            return
        batch: list[Delivery] = []
        try:
            self._read_packets(self._buffer.view(), batch)
        except LinkError as error:
            self._fail(error)
            return
        if batch:
            self._deliver(batch)
        if self._link.read_gap_s and nbytes < ROOM // 2 and self._reading and self._transport is not None:
            self._transport.pause_reading()
            self.loop.call_later(self._link.read_gap_s, self._read_on)

    def _read_on(self) -> None:
        """The rest after a read is over, unless the caller paused us meanwhile or it is all over."""
        if self._reading and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The reason of record: what we knew before, else what the socket says."""
        self.writable = False
        if self._timer is not None:
            self._timer.cancel()
        foreign = exc is not None and not isinstance(exc, OSError)
        if foreign and not self.closed.done():
            assert exc is not None
            self.closed.set_exception(exc)
        reason = f"the connection to the broker broke: {exc}" if exc else "the broker closed the connection"
        self._fail(LinkError(reason), "reset" if exc else "orderly")

    def pause_writing(self) -> None:
        """The broker does not keep up."""
        self.writable = False

    def resume_writing(self) -> None:
        """It does again."""
        self.writable = True
        self._link.flush()

    # -- packets in ------------------------------------------------------------------------------------------------------------

    def _read_packets(self, view: memoryview, batch: list[Delivery]) -> None:
        """Consume all whole packets; publishes go to `batch`."""
        position, end, need = 0, len(view), 0
        now_ns = self._link.clock.now_ns()
        base = self.generation << 16
        read, publish, append = mqtt5.read, mqtt5.PublishPacket, batch.append
        while position < end:
            try:
                packet, size = read(view[position:])
            except BaseException as error:
                # The codec panics (a BaseException of its own) on bytes that are not UTF-8, and runs out of bytes on half packets.
                if not isinstance(error, IndexError | ValueError) and type(error).__name__ != "PanicException":
                    raise
                size = packet_size(view, position)
                if not size or position + size > end:
                    need = size  # 0: the header itself is incomplete, try again with every byte
                    break
                raw = bytes(view[position : position + size])
                self._link.malformed += 1
                poison = poison_id(raw)  # handed on with its token: a poison message must not come back for ever
                append(Delivery("", raw, False, now_ns, base | poison if poison else 0))
                position += size
                continue
            position += size
            if type(packet) is publish:
                packet_id = packet.packet_id  # None at QoS 0; the codec's QoS is no int and always true
                append(Delivery(packet.topic, packet.payload, packet.retain, now_ns, base | packet_id if packet_id else 0))
            else:
                self._control(packet)
        self._buffer.consumed(position, need=need)

    def _deliver(self, batch: list[Delivery]) -> None:
        if self._link.ack_early:
            self.acknowledge([delivery.token for delivery in batch if delivery.token])
            batch = [delivery._replace(token=0) for delivery in batch]
        self._link.on_batch(batch)

    def _control(self, packet: mqtt5.Packet) -> None:
        match packet:
            case mqtt5.PubAckPacket():
                self._link.published(packet)
            case mqtt5.PingRespPacket():
                pass
            case mqtt5.ConnAckPacket():
                self._connected(packet)
            case mqtt5.SubAckPacket():
                self._subscribed(packet)
            case mqtt5.DisconnectPacket():
                self._disconnected(packet)
            case _:
                raise LinkError(f"the broker sent {type(packet).__name__}, which this session never asked for")

    def _connected(self, packet: mqtt5.ConnAckPacket) -> None:
        code = int(packet.reason_code)  # the codec's codes compare with ints only for equality, whatever its stub says
        if code >= 0x80:
            raise LinkError(f"the broker refused us: {_REFUSALS.get(code) or packet.reason_code.name.lower()}")
        self._session_present = packet.session_present
        self.window = packet.receive_max
        self.packet_max = min(PACKET_MAX, packet.max_packet_size or PACKET_MAX)
        filters = [
            mqtt5.TopicFilter(
                pattern,
                max_qos=mqtt5.QoS.AT_LEAST_ONCE,
                retain_as_published=False,  # so the retain flag of a delivery means: stored before we subscribed
                retain_handling=mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS,
            )
            for pattern in self._link.filters
        ]
        self.write(mqtt5.SubscribePacket(1, filters).write())

    def _subscribed(self, packet: mqtt5.SubAckPacket) -> None:
        for pattern, code in zip(self._link.filters, packet.reason_codes, strict=False):
            if int(code) >= 0x80:
                raise LinkError(
                    f"the broker refused the subscription {pattern} ({code.name.lower()}); allow it in the broker's ACL"
                )
        if not self.ready.done():
            self.ready.set_result(None)
            self._link.came_up(self, session_present=self._session_present)

    def _disconnected(self, packet: mqtt5.DisconnectPacket) -> None:
        if packet.reason_code == mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER:
            name = self._link.client_id
            reason = f"another core uses this client id ({name}); stop one of them, or give each its own mqtt_client_id"
            self._fail(LinkError(reason), "taken_over")
            return
        raise LinkError(f"the broker ended the session: {packet.reason_code.name.lower()}")

    # -- bytes out -------------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes; ignored when the connection is over."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def acknowledge(self, tokens: Sequence[int]) -> None:
        """PUBACK for every token, in one write."""
        if tokens:
            self.write(struct.pack(f">{len(tokens)}I", *[_PUBACK | token & 0xFFFF for token in tokens]))

    def pause(self) -> None:
        """Stop reading."""
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again; silence while we did not listen does not count."""
        if not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._last_received = self.loop.time()
            self._transport.resume_reading()

    # -- alive or not ------------------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        self._tick_due = self.loop.time() + self._link.keepalive_s / 2
        self._timer = self.loop.call_at(self._tick_due, self._tick)

    def _tick(self) -> None:
        """Every half keepalive: ping; silent for 1.5 keepalives = dead: found within 2. A late tick: we slept, not they."""
        now, keepalive_s = self.loop.time(), self._link.keepalive_s
        overslept = now - self._tick_due > keepalive_s / 2
        if self._reading and not overslept and now - self._last_received >= 1.5 * keepalive_s:
            self._fail(LinkError(f"the broker is silent for {now - self._last_received:.1f} s"))
            return
        if self.ready.done():
            self.write(mqtt5.PingReqPacket().write())
        self._schedule()

    def _fail(self, error: LinkError, kind: Kind = "broken") -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # retrieved: nobody may be waiting yet
        if not self.closed.done():
            self.closed.set_result(Ending(str(error), kind))
        self.writable = False
        if self._transport is not None:
            self._transport.abort()

    def hang_up(self) -> None:
        """Say goodbye when the connection still stands; the session stays in the broker."""
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(mqtt5.DisconnectPacket().write())
            if self._transport.get_write_buffer_size():
                self._transport.close()
            else:
                self._transport.abort()  # all is sent; closing TLS would wait for the broker's farewell
        if self.closed.done() and not self.closed.cancelled():
            self.closed.exception()
