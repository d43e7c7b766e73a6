"""Simulated devices of a site as ordinary MQTT v5 clients, each with its own connection, client id and user name "site/device".

The edge of `simulators/device.py`: sockets, the clock and FIELDLOOM_SABOTAGE live here. A lost broker is met with backoff and
jitter for ever; meanwhile the device goes on living and keeps its samples.
"""

import asyncio
import contextlib
import os
import ssl
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import aiomqtt
import numpy as np
import structlog
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from simulators.device import Incoming, Options, Outgoing, SimulatedDevice
from simulators.fault import Injection
from simulators.houses import Houses
from simulators.plant import make_houses
from simulators.weather import Scenario, Weather
from simulators.world import Group, Place, World
from telemetry.clock import Clock
from telemetry.site import PlantClock, Profile, RuleSpec, SiteConfig

KEEPALIVE_S: Final = 10
SESSION_EXPIRY_S: Final = 300  # commands wait that long in the broker; each dies earlier by its own expiry
BACKOFF_S: Final = (0.5, 30.0)  # first and longest pause between attempts
OUTBOX_MAX: Final = 1000  # messages waiting for the socket; beyond it they are dropped: telemetry is kept, commands are asked again
INBOX_MAX: Final = 1000
IDLE_S_MAX: Final = 0.5  # plants and leases are looked at at least so often
GOODBYE_S: Final = 2.0
LINK_LOOK_S: Final = 0.1

# A clear spring morning, 09:00 in Shandong: closed houses warm up past the vent set point within an hour; before noon a gale shuts
# the vents, the houses heat up, and cool when it has passed.
DEMO_START_S: Final = 1_775_782_800.0  # 2026-04-10 01:00 UTC
DEMO: Final = Scenario(mean_temp_c=13.0, daily_range_k=10.0, dew_point_c=5.0, wind_peak_m_s=12.0, wind_peak_hour=11.0, sky="clear")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is and how to log in; `password_of` gets the user name "site/device", None = no password."""

    host: str
    port: int
    password_of: Callable[[str], str | None]
    tls: ssl.SSLContext | None = None


def at_speed(site: SiteConfig, speed: float, clock: PlantClock | None = None) -> SiteConfig:
    """The site as its plants look when they run `speed` times faster than the wall: what a service fed by such a fleet is given.

    Travel times, minimum on and off times and the delays of rules shrink, rates of change grow; without it a service rightly calls
    every change impossible and waits whole travel times between moves. What lives in wall time stays: heartbeats, expiry, silence
    and window lengths inside expressions. Controllers go by the plants' `clock`, where one is given. The fleet itself is built from the
    site as it is.
    """
    profiles = {name: _profile_at(profile, speed, clock) for name, profile in site.profiles.items()}
    return site.model_copy(update={"profiles": profiles, "rules": [_rule_at(rule, speed) for rule in site.rules]})


def _profile_at(profile: Profile, speed: float, clock: PlantClock | None) -> Profile:
    points = [
        point if point.rate_per_min is None else point.model_copy(update={"rate_per_min": point.rate_per_min * speed})
        for point in profile.points
    ]
    actuators = [
        actuator.model_copy(update={name: getattr(actuator, name) / speed for name in ("travel_s", "min_on_s", "min_off_s")})
        for actuator in profile.actuators
    ]
    controllers = [controller.model_copy(update={"plant_clock": clock}) for controller in profile.controllers]
    rules = [_rule_at(rule, speed) for rule in profile.rules]
    return profile.model_copy(update={"points": points, "actuators": actuators, "controllers": controllers, "rules": rules})


def _rule_at(rule: RuleSpec, speed: float) -> RuleSpec:
    return rule.model_copy(update={"on_delay_s": rule.on_delay_s / speed, "off_delay_s": rule.off_delay_s / speed})


def build_devices(
    site: SiteConfig,
    *,
    seed: int,
    options: Options,
    scenario: Scenario = DEMO,
    only: frozenset[str] | None = None,
    faults: Sequence[Injection] = (),
) -> list[SimulatedDevice]:
    """The site's devices in one world, deterministic by seed and name. `only` names those wanted; None = all."""
    world = build_world(site, seed=seed, options=options, scenario=scenario, only=only)
    world.plan([injection for injection in faults if injection.device in world.places])
    profiles = {name: site.profiles[device.profile] for device in site.devices for name in device.names()}
    return [SimulatedDevice(site.site, name, profiles[name], world.places[name], options=options) for name in world.places]


def build_world(
    site: SiteConfig, *, seed: int, options: Options, scenario: Scenario = DEMO, only: frozenset[str] | None = None
) -> World:
    """All houses of a site in one weather; places in the order of the site's devices."""
    start_s = options.plant_start_s
    weather = Weather(
        start_s=start_s,
        latitude=site.latitude,
        longitude=site.longitude,
        scenario=scenario,
        random=_generator(seed, site.site),
        ahead_s=_clock_of(site),
    )
    named = {name: device.profile for device in site.devices for name in device.names() if only is None or name in only}
    world = World(start_s=start_s, speed=options.speed)
    for profile in dict.fromkeys(named.values()):
        names = [name for name, of in named.items() if of == profile]
        # Each keyed by name: adding a device to a site leaves the others as they were.
        random = [_generator(seed, f"{site.site}/{name}") for name in names]
        houses = make_houses(site.profiles[profile], weather, start_s, random)
        instruments = [_generator(seed, f"{site.site}/{name}/instruments") for name in names]
        group = Group(
            site.profiles[profile], houses, instruments, start_s=start_s, sun_w_m2=lambda unix_s: weather.at(unix_s).rad_w_m2
        )
        world.add(group, names, lambda name: _generator(seed, f"{site.site}/{name}/faults"))
    world.places = {name: world.places[name] for name in named}
    return world


def _clock_of(site: SiteConfig) -> Callable[[float], float]:
    """By how much the site's clock is ahead of UTC at a Unix time [s]."""
    starts, ahead = zip(*site.zone_offsets, strict=True)
    return lambda unix_s: float(ahead[max(0, bisect_right(starts, unix_s) - 1)])


def lone_place(profile: Profile, houses: Houses, *, seed: int = 1, start_s: float = 0.0) -> Place:
    """A world of one house that the caller made."""
    world = World(start_s=start_s)
    group = Group(profile, houses, [_generator(seed, profile.name)], start_s=start_s)
    world.add(group, [profile.name], lambda name: _generator(seed, f"{name}/faults"))
    return world.places[profile.name]


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


async def run_fleet(
    site: SiteConfig,
    *,
    host: str,
    port: int,
    password_of: Callable[[str], str | None],
    seed: int,
    clock: Clock,
    speed: float = 1.0,
    sample_s: float = 10.0,
    plant_start_s: float = DEMO_START_S,
    scenario: Scenario = DEMO,
    only: frozenset[str] | None = None,
    faults: Sequence[Injection] = (),
    tls: ssl.SSLContext | None = None,
    stop: asyncio.Event | None = None,
) -> list[SimulatedDevice]:
    """Run the devices of a site until `stop` is set or the task is cancelled; returns them for their counters.

    `faults` are known to be right (`fault.problem`).

    `clock` gives wall time that never decreases. Every start is a new boot of every device. Nothing is durable here.
    """
    options = Options(
        boot=(clock.now_ns() // 1_000_000_000) & 0xFFFF_FFFF,
        plant_start_s=plant_start_s,
        speed=speed,
        sample_s=sample_s,
        sabotage=os.environ.get("FIELDLOOM_SABOTAGE", ""),
    )
    devices = build_devices(site, seed=seed, options=options, scenario=scenario, only=only, faults=faults)
    broker = Broker(host, port, password_of, tls)
    ending = stop or asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for device in devices:
            client = DeviceClient(device, broker, clock=clock, random=_generator(seed, f"{site.site}/{device.name}/link"))
            group.create_task(client.run(ending), name=f"device {site.site}/{device.name}")
    return devices


class DeviceClient:
    """One device on one MQTT connection."""

    def __init__(self, device: SimulatedDevice, broker: Broker, *, clock: Clock, random: np.random.Generator) -> None:
        self._device = device
        self._broker = broker
        self._clock = clock
        self._random = random
        self._inbox: list[Incoming] = []
        self._outbox: asyncio.Queue[Outgoing] = asyncio.Queue(OUTBOX_MAX)
        self._wake = asyncio.Event()
        self._client_now: aiomqtt.Client | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Live and stay connected until `stop`; then say goodbye and end."""
        name = f"{self._device.site}/{self._device.name}"
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._live(), name=f"live {name}"),
                group.create_task(self._stay_connected(), name=f"link {name}"),
            ]
            await stop.wait()
            for task in tasks:
                task.cancel()

    async def _live(self) -> None:
        while True:
            inbox, self._inbox = self._inbox, []
            for outgoing in self._device.step(self._clock.now_ns(), inbox):
                self._put(outgoing)
            # What it said before the cut still goes out.
            if self._client_now is not None and not self._device.wants_link and self._outbox.empty():
                cut(self._client_now)
            wait_s = min(IDLE_S_MAX, max(0.001, (self._device.next_due_ns() - self._clock.now_ns()) * 1e-9))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    wait_s
                ):  # not wait_for: in Python 3.11 that loses a cancellation that comes with the wake-up
                    await self._wake.wait()
            self._wake.clear()

    def _put(self, outgoing: Outgoing) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._outbox.put_nowait(outgoing)

    async def _stay_connected(self) -> None:
        pause_s = BACKOFF_S[0]
        is_reported = False
        # Spread the first attempts: a fleet that starts at one instant is a connection storm.
        await asyncio.sleep(float(self._random.uniform(0.0, 0.2)))
        while True:
            while not self._device.wants_link:  # noqa: ASYNC110 - plant time, which nobody announces
                await asyncio.sleep(LINK_LOOK_S)
            before = cancellations()
            try:
                async with self._client() as client:
                    end_if_told_since(before)
                    pause_s, is_reported = BACKOFF_S[0], False
                    await self._talk(client)
            except* (aiomqtt.MqttError, OSError) as errors:
                # One line per outage, not per attempt.
                if not is_reported:
                    log.warning(
                        "device_link_down", site=self._device.site, device=self._device.name, reason=str(errors.exceptions[0])
                    )
                is_reported = True
            self._device.disconnected()
            await asyncio.sleep(pause_s * float(self._random.uniform(0.5, 1.0)))
            pause_s = min(BACKOFF_S[1], pause_s * 2)

    def _client(self) -> aiomqtt.Client:
        name = f"{self._device.site}/{self._device.name}"
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = SESSION_EXPIRY_S
        will = self._device.will()
        return aiomqtt.Client(
            self._broker.host,
            self._broker.port,
            username=name,
            password=self._broker.password_of(name),
            identifier=name,
            protocol=aiomqtt.ProtocolVersion.V5,
            will=aiomqtt.Will(will.topic, will.payload, qos=will.qos, retain=will.retain),
            clean_start=False,
            properties=properties,
            keepalive=KEEPALIVE_S,
            tls_context=self._broker.tls,
            timeout=10,
        )

    async def _talk(self, client: aiomqtt.Client) -> None:
        before = cancellations()
        await client.subscribe([(name, 1) for name in self._device.subscriptions()])
        end_if_told_since(before)
        self._outbox = asyncio.Queue(OUTBOX_MAX)  # what an old link did not take is in the backlog or void
        for outgoing in self._device.connected():
            self._put(outgoing)
        try:
            self._client_now = client
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(client), name="read")
                group.create_task(self._write(client), name="write")
        except asyncio.CancelledError:
            # An orderly disconnect suppresses the last will, so the device says it itself.
            with contextlib.suppress(aiomqtt.MqttError, TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await _publish(client, self._device.will())
            raise
        finally:
            self._client_now = None
            retrieve_disconnection(client)

    async def _read(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            if len(self._inbox) >= INBOX_MAX or not isinstance(message.payload, bytes):
                continue  # a flood: the sender asks again
            left_s = getattr(message.properties, "MessageExpiryInterval", None)
            incoming = Incoming(message.topic.value, message.payload, message.retain, self._clock.now_ns(), left_s)
            self._inbox.append(incoming)
            self._wake.set()

    async def _write(self, client: aiomqtt.Client) -> None:
        while True:
            outgoing, before = await self._outbox.get(), cancellations()
            await _publish(client, outgoing)
            end_if_told_since(before)


def cancellations() -> int:
    """How often this task was told to end; not only now, in Python 3.11 an ended TaskGroup may leave one behind."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def end_if_told_since(before: int) -> None:
    """Raise a cancellation that aiomqtt's waiting may have lost: in Python 3.11 wait_for forgets one that comes with the answer."""
    if cancellations() > before:
        raise asyncio.CancelledError


def cut(client: aiomqtt.Client) -> None:
    """End a connection as a power cut does: the broker publishes the last will."""
    client._client.disconnect(reasoncode=ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))


def retrieve_disconnection(client: aiomqtt.Client) -> None:
    """Read the exception that aiomqtt 2.5 leaves in a future nobody awaits: asyncio would report it as never retrieved."""
    disconnection = client._disconnected
    if disconnection.done() and not disconnection.cancelled():
        disconnection.exception()


async def _publish(client: aiomqtt.Client, outgoing: Outgoing) -> None:
    properties = None
    if outgoing.expiry_s is not None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.MessageExpiryInterval = max(1, int(outgoing.expiry_s))
    await client.publish(outgoing.topic, outgoing.payload, qos=outgoing.qos, retain=outgoing.retain, properties=properties)
