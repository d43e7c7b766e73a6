"""Everything on one machine: `fieldloom serve` (all processes of a real site) and `fieldloom demo` (with a simulated nursery and farm).

Start order: broker, core, web, notify, devices: nobody speaks before somebody listens. Stop order: see STOP_ORDER.
"""

import asyncio
import contextlib
import errno
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import devices
from api.auth import BEARER_LIFE_MAX_S, LINK_LIFE_S, Role, Way
from app import serving
from app.broker import SERVICE, Broker, broker_users, find_mosquitto, write_private
from app.client import open_sessions, page_url, reachable
from app.console import DemoScreen, newest
from app.narrator import length
from app.notify_file import load_notify
from app.playable import playable_sites
from app.settings import Settings
from app.site_files import load_site
from app.supervisor import CONNECT_S, Part, Supervisor, fieldloom
from app.words import say
from simulators.fleet import DEMO_START_S, at_speed
from store.inbox import Inbox
from store.place import owned
from telemetry.errors import CallerError, EnvironmentFault
from telemetry.plan import NS_PER_S
from telemetry.record import Request
from telemetry.site import PlantClock, SiteConfig

SITES: Final = Path(devices.__file__).parents[1] / "sites"
DEMO_SITES: Final = (SITES / "nursery", SITES / "pig-farm")  # the first is what the page opens with
# Devices first: their last samples are still journaled, and they say goodbye instead of being cut off. Notify before core: a
# planned stop is no reason to alarm that core is silent. Core before web: web follows the journal to its end. The broker last:
# until then core hands back its acknowledgements.
STOP_ORDER: Final = (*(site.name for site in DEMO_SITES), "notify", "core", "web", "broker")
PORTS_TRIED: Final = 50
DEMO_SAMPLE_S: Final = 1.0
CLOCK_BEHIND_S: Final = 1.0


async def run_demo(settings: Settings, *, speed: float, seed: int, quiet: bool) -> int:
    """Start all, print the address and a login link, show what flows; the exit code. Raises EnvironmentFault, ConfigError."""
    began = time.monotonic()
    serving.check_start(settings)
    if settings.mqtt_host:  # the demo brings its own where none is set
        require_broker(settings.mqtt_host, settings.mqtt_port)
    else:
        find_mosquitto()
    with (
        owned(settings.data_dir / "run", "fieldloom"),
        clock_told(settings.data_dir, speed) as clock,
        serving.log_in_file(settings),
    ):
        port = free_port(settings.web_host, settings.web_port, must="web_port" in settings.model_fields_set)
        sites = [at_speed(load_site(place), speed, clock) for place in DEMO_SITES]
        warn_of_clock(settings.data_dir)
        for site in sites:
            ask_for(settings.data_dir, site)
        address = reachable(f"http://{settings.web_host}:{port}")
        link = f"{address}/login#{login_token(settings.data_dir)}"
        known = [*sites, *playable_sites(SITES)]
        parts = await service_parts(settings.model_copy(update={"web_port": port}), known)
        parts += [fleet_part(settings, place, parts[-1].environment, seed=seed, speed=speed) for place in DEMO_SITES]
        screen = DemoScreen(settings.data_dir, quiet=quiet)
        if port != settings.web_port != 0:
            print(say("Port {wanted} is in use; this demo takes {port}.", wanted=settings.web_port, port=port))
        screen.greet(devices=sum(len(device.names()) for site in sites for device in site.devices), speed=speed)
        supervisor = Supervisor(parts, stop_order=STOP_ORDER, on_ready=screen.part_ready, on_restart=screen.part_restarted)

        def view() -> "asyncio.Future[None]":
            screen.ready(link, seconds=time.monotonic() - began, minutes=LINK_LIFE_S // 60)
            return asyncio.ensure_future(screen.show(address))

        code = await supervisor.run(while_up=view)
        screen.stopped()
        return ended(code, supervisor)


@contextlib.contextmanager
def clock_told(data_dir: Path, speed: float) -> Iterator[PlantClock]:
    """`demo_clock` answers a clock that starts now, while the block runs."""
    clock = PlantClock(speed=speed, wall_s=round(time.time(), 3), plant_s=DEMO_START_S)
    clock_file(data_dir).write_text(clock.model_dump_json(), "utf-8")
    try:
        yield clock
    finally:
        clock_file(data_dir).unlink(missing_ok=True)


def clock_file(data_dir: Path) -> Path:
    """The clock of the plants of a running demo; absent otherwise."""
    return data_dir / "run" / "demo.clock"


def demo_clock(data_dir: Path) -> PlantClock | None:
    """None unless a demo runs over this data directory: its site files hold true times, its service those of its fast plants."""
    file = clock_file(data_dir)
    return PlantClock.model_validate_json(file.read_text("utf-8")) if file.is_file() else None


async def run_service(settings: Settings) -> int:
    """All processes of a real site under supervision; the exit code. Raises CallerError without a broker that devices can reach."""
    if not settings.mqtt_host:
        raise CallerError(
            "no broker is configured; set FIELDLOOM_MQTT_HOST and FIELDLOOM_MQTT_PORT to the one your devices use, or try `fieldloom demo`"
        )
    serving.check_start(settings)
    with owned(settings.data_dir / "run", "fieldloom"):
        clock_file(settings.data_dir).unlink(missing_ok=True)  # of a demo that was killed
        free_port(settings.web_host, settings.web_port, must=True)
        warn_of_clock(settings.data_dir)
        try:
            require_broker(settings.mqtt_host, settings.mqtt_port)
        except EnvironmentFault as error:  # it may come later, and core goes on trying
            print(f"fieldloom: {error}; core goes on trying", file=sys.stderr)
        parts = await service_parts(settings, [])
        supervisor = Supervisor(parts, stop_order=STOP_ORDER)

        def tell() -> None:
            address = page_url(settings)
            print(say("Fieldloom serves at {address}. `fieldloom login` prints a link to log in.", address=address), flush=True)

        return ended(await supervisor.run(while_up=tell), supervisor)


def ended(code: int, supervisor: Supervisor) -> int:
    """Say why when it was not asked for."""
    if supervisor.failure:
        print(f"fieldloom: {supervisor.failure}", file=sys.stderr)
    else:
        print(say("Fieldloom has stopped; what it learned is kept."))
    return code


def require_broker(host: str, port: int) -> None:
    """Raises EnvironmentFault when nothing listens there."""
    try:
        with socket.create_connection((host, port), CONNECT_S):
            pass
    except OSError as error:
        raise EnvironmentFault(
            f"the broker at {host}:{port} cannot be reached ({error.strerror or error}); start it, or correct FIELDLOOM_MQTT_HOST and "
            "FIELDLOOM_MQTT_PORT"
        ) from error


def warn_of_clock(data_dir: Path) -> None:
    """Say it when this machine's clock is behind what the journal holds: until it has caught up, all samples are late, and no rule
    decides. Raises CorruptError when the journal is damaged."""
    last = newest(data_dir / "journal")
    behind_s = 0.0 if last is None else (last.engine_ns - time.time_ns()) / NS_PER_S
    if behind_s > CLOCK_BEHIND_S:
        print(
            f"fieldloom: this machine's clock is {length(behind_s)} behind the newest entry in {data_dir / 'journal'}: samples count "
            "as late and move nothing; set the time (chrony, NTP), or take another FIELDLOOM_DATA_DIR",
            file=sys.stderr,
        )


async def service_parts(settings: Settings, sites: list[SiteConfig]) -> list[Part]:
    """Broker (when none is configured), core, web, notify. Raises ConfigError when notify.yaml is wrong, before anything starts."""
    load_notify(settings)
    run, logs = settings.data_dir / "run", settings.data_dir / "log"
    logs.mkdir(parents=True, exist_ok=True)
    parts = []
    environment = {"FIELDLOOM_DATA_DIR": str(settings.data_dir.resolve()), "FIELDLOOM_WEB_PORT": str(settings.web_port)}
    if not settings.mqtt_host:
        broker, login = await asyncio.to_thread(own_broker, settings.data_dir, sites)
        parts.append(broker)
        environment |= login
    parts.append(Part("core", fieldloom("serve", "core"), run / "core.ready", environment, logs / "core.log"))
    parts.append(Part("web", fieldloom("serve", "web"), run / "web.ready", environment, logs / "web.log"))
    parts.append(Part("notify", fieldloom("serve", "notify"), None, environment, logs / "notify.log"))
    return parts


def own_broker(data_dir: Path, sites: list[SiteConfig]) -> tuple[Part, dict[str, str]]:
    """Mosquitto for the sites' devices on free loopback ports, and the core's login. Raises EnvironmentFault when it is missing.

    Passwords are new at every start; the devices' lie in broker/devices.json for our own user alone.
    """
    directory = (data_dir / "broker").absolute()
    broker = Broker(directory, broker_users(sites))
    address = broker._configure()
    devices_only = {user: password for user, password in address.passwords.items() if user != SERVICE}
    write_private(directory / "devices.json", json.dumps(devices_only))
    command = [str(find_mosquitto()), "-c", str(directory / "mosquitto.conf")]
    login = {
        "FIELDLOOM_MQTT_HOST": address.host,
        "FIELDLOOM_MQTT_PORT": str(address.port),
        "FIELDLOOM_MQTT_USERNAME": SERVICE,
        "FIELDLOOM_MQTT_PASSWORD": address.passwords[SERVICE],
    }
    part = Part("broker", command, None, {}, data_dir / "log" / "broker.log", ready_ports=(address.port, address.device_port))
    return part, login


def fleet_part(settings: Settings, site: Path, environment: dict[str, str], *, seed: int, speed: float) -> Part:
    """The devices of a site of the demo, at the broker that the others use."""
    words = ("simulate", str(site), "--seed", str(seed), "--speed", str(speed), "--sample-s", str(DEMO_SAMPLE_S))
    login = dict(environment)
    file = settings.data_dir / "broker" / "mosquitto.conf"
    if not settings.mqtt_host:
        login["FIELDLOOM_MQTT_PORT"] = device_port(file.read_text("utf-8"))
    return Part(site.name, fieldloom(*words), None, login, settings.data_dir / "log" / f"{site.name}.log")


def device_port(config: str) -> str:
    """The devices' listener: the first one in our own broker's configuration."""
    return next(line.split()[1] for line in config.splitlines() if line.startswith("listener "))


def free_port(host: str, port: int, *, must: bool) -> int:
    """`port` when it is free; else the next free one, unless `must`. Raises EnvironmentFault with the fix."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise EnvironmentFault(
            f"web_host {host!r} is no address of this machine ({error.strerror}); correct FIELDLOOM_WEB_HOST"
        ) from error
    for candidate in [port] if must or port == 0 else range(port, min(port + PORTS_TRIED, 65_536)):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address[0], candidate))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise EnvironmentFault(f"this machine has no address {host}; correct FIELDLOOM_WEB_HOST") from error
                if error.errno == errno.EACCES:
                    raise EnvironmentFault(f"port {candidate} is for root alone; choose one above 1023") from error
                continue
            return int(probe.getsockname()[1])
    raise EnvironmentFault(
        f"port {port} on {host} is in use; choose another one with --port or FIELDLOOM_WEB_PORT, or stop what uses it"
    )


def ask_for(data_dir: Path, site: SiteConfig) -> None:
    """Ask core to put the demo's configuration in force. Before web runs, only we write the inbox; a repeat changes nothing."""
    inbox = Inbox(data_dir / "inbox.sqlite")
    try:
        inbox.put(Request(f"demo-{site.sha256()[:24]}", "config", "demo", {"site": site.site, "text": site.canonical()}))
    finally:
        inbox.close()


def login_token(data_dir: Path, *, person: str = "demo", role: Role = "admin", days: float | None = None) -> str:
    """A token for a one-time login link, or, with `days`, one that a program sends for so long. All sites."""
    way: Way = "link" if days is None else "bearer"
    life_s = LINK_LIFE_S if days is None else min(days * 86_400, BEARER_LIFE_MAX_S)
    sessions = open_sessions(data_dir)
    try:
        return sessions.create(way, person, role, None, life_s=life_s, note="command line")[0]
    finally:
        sessions.close()
