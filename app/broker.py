"""Mosquitto: the one template of its configuration, access control and passwords, and the supervised broker of a site without one.

User names. A device logs in as "site/device", so that `%u` in the ACL is its topic prefix; the core as SERVICE. Two listeners: the
device listener turns the user name into the client id, so nobody can take over another's session; the service listener is for the
core, which holds two sessions under one user name. Each takes its own users only.
"""

import base64
import contextlib
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from telemetry.errors import CallerError, EnvironmentFault
from telemetry.topic import NAME, NAME_RULE

SERVICE: Final = "fieldloom"
OWN_CHANNELS_WRITE: Final = ("telemetry", "backfill", "status", "event", "ack")
OWN_CHANNELS_READ: Final = ("command", "receipt")
# An hour without the core: 1,500 messages/s x 3,600 s x 200 B of payload = 1.08 GB per session.
QUEUE_BYTES: Final = 1500 * 3600 * 200
PASSWORD_ROUNDS: Final = 101  # Mosquitto's own
PACKET_MAX: Final = 1 << 20
READY_S: Final = 10.0
STOP_S: Final = 10.0
_PATH: Final = os.defpath + ":/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"

TEMPLATE: Final = """\
# Mosquitto for Fieldloom (2.0.11 and later). Written by `app/broker.py`, which also generates the embedded broker's from it.
# Use 2.0.16 or later, or a distribution's patched 2.0.11: CVE-2023-0809, CVE-2023-3592, CVE-2023-28366.

# Each listener has users of its own: a device that came in by the core's could take over its session and what waits in it.
per_listener_settings true

# Devices. The user name "site/device" becomes the client id: no device can throw another out by taking its client id.
listener {device_port} {device_host}
allow_anonymous false
password_file {directory}/devices.passwords
acl_file {directory}/devices.acl
use_username_as_clientid true
max_connections 10000
{device_tls}
# The core: two sessions under one user name, so the client id is its own. Keep this listener on loopback or a private network.
listener {service_port} {service_host}
allow_anonymous false
password_file {directory}/core.passwords
acl_file {directory}/core.acl

# Nothing is dropped while the core is away. Per session, one hour: 1500 messages/s x 3600 s x 200 B of payload = 1.08 GB. With payloads
# of 120 B that hour takes 2.7 GB of the broker's memory and 1.2 GB of its disk (measured: 500 B and 220 B a message).
max_queued_messages 0
max_queued_bytes {queue_bytes}
max_inflight_messages 1000
# A larger packet ends the connection (MQTT 5 tells the device why) instead of vanishing behind a PUBACK.
max_packet_size {packet_max}
max_keepalive 300
persistent_client_expiration 7d
retain_available true

# Sessions survive a restart. A killed broker loses what came since the last save: devices keep it until our receipt.
persistence true
persistence_location {directory}/
autosave_interval 60
sys_interval 0

log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages false
{user}"""

_TLS: Final = """\
# Beyond one machine: TLS. Put the three files there, readable for user mosquitto, and take the marks off these lines.
# listener 8883 0.0.0.0
# allow_anonymous false
# password_file {directory}/devices.passwords
# acl_file {directory}/devices.acl
# use_username_as_clientid true
# max_connections 10000
# cafile {certs}/ca.crt
# certfile {certs}/server.crt
# keyfile {certs}/server.key
# tls_version tlsv1.2
"""


def production_config(directory: str = "/mosquitto/data", certs: str = "/mosquitto/certs") -> str:
    """The text of a broker's own configuration; with the defaults that of the shipped `mosquitto.conf`, as its image has it."""
    return TEMPLATE.format(
        directory=directory,
        device_port=1883,
        device_host="127.0.0.1",
        device_tls=_TLS.format(directory=directory, certs=certs),
        service_port=1884,
        service_host="127.0.0.1",
        queue_bytes=QUEUE_BYTES,
        packet_max=PACKET_MAX,
        user="",
    )


ACCESS_FILES: Final = ("devices.passwords", "devices.acl", "core.passwords", "core.acl")
CORE_ACL: Final = f"user {SERVICE}\ntopic readwrite fl/#\ntopic readwrite fl-core/#\n"


def acl_text(devices: Iterable[str], *, programs: Iterable[str] = (), open_to_all: bool = False) -> str:
    """Access control for users "site/device" and "site/program". A device writes its own channels, reads its own commands and receipts,
    and its lease; a program writes its requests and reads its answers.

    The pattern rules hold for every device; the lease needs a line per device, as an ACL has no word for "my site".
    """
    if open_to_all:
        return "pattern readwrite #\n"
    lines = []
    for device in sorted(devices):
        _check_name(device)
        site = device.partition("/")[0]
        lines += [f"user {device}", f"topic read fl/{site}/lease", ""]
    for program in sorted(programs):
        _check_name(program)
        lines += [f"user {program}", f"topic write fl/{program}/request", f"topic read fl/{program}/answer", ""]
    lines += [f"pattern write fl/%u/{channel}" for channel in OWN_CHANNELS_WRITE]
    lines += [f"pattern read fl/%u/{channel}" for channel in OWN_CHANNELS_READ]
    return "\n".join([*lines, ""])


def find_mosquitto(name: str = "mosquitto") -> Path:
    """The program's path; EnvironmentFault saying how to get it when it is absent."""
    found = shutil.which(name) or shutil.which(name, path=_PATH)
    if found is None:
        raise EnvironmentFault(
            f"{name} is not installed: install it (Debian, Ubuntu: apt install mosquitto; macOS: brew install mosquitto), "
            "or set FIELDLOOM_MQTT_HOST and FIELDLOOM_MQTT_PORT to a broker you have"
        )
    return Path(found)


def write_private(path: Path, text: str) -> None:
    """Write a file only its owner can read; complete or not at all."""
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def write_access(
    directory: Path,
    passwords: Mapping[str, str],
    *,
    kept: Mapping[str, str] | None = None,
    programs: Collection[str] = (),
    open_to_all: bool = False,
    one_door: bool = False,
) -> None:
    """Users and access control of both listeners. `passwords` of new users by name; `kept`: lines of known ones. The core is among
    them; those of `programs` are no devices. The flags are saboteurs."""
    lines = dict(kept or {}) | {user: password_line(user, password) for user, password in passwords.items()}
    others = [user for user in lines if user != SERVICE]
    acl = acl_text([user for user in others if user not in programs], programs=programs, open_to_all=open_to_all)
    write_private(directory / "devices.acl", acl)
    write_private(directory / "core.acl", CORE_ACL)
    write_private(directory / "devices.passwords", "".join(f"{lines[user]}\n" for user in others))
    write_private(directory / "core.passwords", "".join(f"{lines[user]}\n" for user in (lines if one_door else [SERVICE])))


def password_line(user: str, password: str) -> str:
    """A line of a Mosquitto password file: PBKDF2 with SHA-512, as Mosquitto 2 writes it. Ours are random: its few rounds are enough."""
    if not password or ":" in user or set(user + password) & set("\r\n"):
        raise ValueError(f"user {user!r}: empty password, colon in the name, or a line break in either")
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, PASSWORD_ROUNDS, 64)
    return f"{user}:$7${PASSWORD_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def provision(
    directory: Path, devices: Iterable[str], *, programs: Collection[str] = (), service_password: str | None = None
) -> dict[str, str]:
    """What Mosquitto needs for the core, these devices ("site/device") and programs: ACCESS_FILES and, once, mosquitto.conf.

    Known users keep their password, users that are no longer named lose theirs; returns the passwords of new users. The core gets
    `service_password` when it is given, which is then not among the returned. Run as root, the files belong to user mosquitto where
    there is one, who Mosquitto becomes. Raises CallerError for a name that is none.
    """
    users = [SERVICE, *sorted({*devices, *programs})]
    acl_text(users[1:])  # refuses wrong names before anything is written
    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / name for name in ACCESS_FILES]
    known: dict[str, str] = {}
    for file in files:
        if file.suffix == ".passwords" and file.is_file():
            known |= {line.partition(":")[0]: line for line in file.read_text("utf-8").splitlines()}
    if service_password is not None:
        known[SERVICE] = password_line(SERVICE, service_password)
    new = {user: secrets.token_urlsafe(24) for user in users if user not in known}
    write_access(directory, new, kept={user: known[user] for user in users if user in known}, programs=programs)
    config = directory / "mosquitto.conf"
    if not config.exists():  # from then on it is the operator's
        write_private(config, production_config(str(directory.resolve()), str(directory.resolve() / "certs")))
    if os.geteuid() == 0:
        with contextlib.suppress(LookupError):  # there is no such user
            for path in (directory, *files, config):
                shutil.chown(path, "mosquitto", "mosquitto")
    return new


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where to connect, as whom. `port` is the core's listener, `device_port` the devices'; passwords by user name."""

    host: str
    port: int
    device_port: int
    passwords: Mapping[str, str]


class Broker:
    """A Mosquitto child in `directory` for these devices ("site/device"), on free loopback ports with random passwords."""

    def __init__(self, directory: Path, devices: Iterable[str], *, sabotage: frozenset[str] | None = None) -> None:
        chosen = os.environ.get("FIELDLOOM_SABOTAGE", "").split(",") if sabotage is None else sabotage
        self._open_acl = "open_acl" in chosen
        self._one_door = "one_door" in chosen
        self._directory = directory.absolute()
        self._devices = sorted(set(devices))
        for device in self._devices:
            _check_name(device)
        self._child: subprocess.Popen[bytes] | None = None
        self.log_path = self._directory / "mosquitto.log"
        self.address: BrokerAddress | None = None

    def start(self) -> BrokerAddress:
        """Write the configuration, start, and return once both listeners answer. A restart keeps the ports."""
        binary = find_mosquitto()
        if self.address is None:
            self.address = self._configure()
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                [binary, "-c", self._directory / "mosquitto.conf"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._wait_ready()
        return self.address

    def _configure(self) -> BrokerAddress:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        passwords = {user: secrets.token_urlsafe(24) for user in (SERVICE, *self._devices)}
        port, device_port = self._ports()
        write_access(self._directory, passwords, open_to_all=self._open_acl, one_door=self._one_door)
        config = TEMPLATE.format(
            directory=self._directory,
            device_port=device_port,
            device_host="127.0.0.1",
            device_tls="",
            service_port=port,
            service_host="127.0.0.1",
            queue_bytes=QUEUE_BYTES,
            packet_max=PACKET_MAX,
            user="user root\n" if os.geteuid() == 0 else "",  # else Mosquitto would become a user who cannot read this directory
        )
        write_private(self._directory / "mosquitto.conf", config)
        return BrokerAddress("127.0.0.1", port, device_port, passwords)

    def _ports(self) -> tuple[int, int]:
        """Of core and devices: those of the last time when they are free, as the saved sessions belong to their listeners."""
        config = self._directory / "mosquitto.conf"
        lines = config.read_text("utf-8").splitlines() if config.is_file() else []
        before = [int(line.split()[1]) for line in lines if line.startswith("listener ")]
        if len(before) == 2:
            with contextlib.suppress(OSError):
                device_port, port = _free_ports(*before)
                return port, device_port
        port, device_port = _free_ports(0, 0)
        return port, device_port

    def _wait_ready(self) -> None:
        assert self.address is not None
        assert self._child is not None
        end = time.monotonic() + READY_S
        for port in (self.address.port, self.address.device_port):
            while not _answers(port):
                if self._child.poll() is not None or time.monotonic() > end:
                    self.stop()
                    tail = self.log_path.read_text(errors="replace")[-500:].strip()
                    raise EnvironmentFault(f"mosquitto did not start; its last words: {tail}")
                time.sleep(0.02)

    @property
    def running(self) -> bool:
        """Is the child alive?"""
        return self._child is not None and self._child.poll() is None

    @property
    def pid(self) -> int | None:
        """Process id of the child, or None."""
        return None if self._child is None else self._child.pid

    def stop(self) -> None:
        """End it orderly: sessions and queues are saved. Safe to call twice."""
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child = None


def _check_name(device: str) -> None:
    """A name with a wildcard or line break would open the ACL."""
    site, _, name = device.partition("/")
    if not NAME.fullmatch(site) or not NAME.fullmatch(name):
        raise CallerError(f"{device!r} is not a device name: write site/device, each {NAME_RULE}")


def _free_ports(*wanted: int) -> list[int]:
    """These ports, 0 for any. Raises OSError when one is taken."""
    sockets = [socket.socket() for _ in wanted]
    try:
        for sock, port in zip(sockets, wanted, strict=True):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last run may still be fading away
            sock.bind(("127.0.0.1", port))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def _answers(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(0.5)
        return sock.connect_ex(("127.0.0.1", port)) == 0
