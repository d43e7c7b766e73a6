"""What can be wrong with an installation, looked at one by one; each finding says how to mend it. Changes nothing."""

import asyncio
import importlib.metadata
import json
import os
import resource
import secrets
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, Literal, NamedTuple

import aiomqtt

from app.broker import find_mosquitto
from app.client import base_url
from app.console import newest
from app.narrator import known, length
from app.notify_file import load_notify, notify_file
from app.settings import Settings, load_settings, settings_file
from app.site_files import notes
from app.supervisor import answers
from people.delivery import DeliveryReader
from simulators.fleet import retrieve_disconnection
from store.place import check_place
from telemetry.errors import ConfigError, EnvironmentFault, FieldloomError
from telemetry.plan import NS_PER_S

CONNECT_S: Final = 2.0
TAKEOVER_S: Final = 0.5  # a broker that takes over a session closes the old one at once
SILENT_S: Final = 10.0
LATENESS_S: Final = 1.0
NAMES_SHOWN: Final = 5
FILES_SPARE: Final = 100
DATABASES: Final = {  # with what is lost without it
    "web.sqlite": "people then log in anew",
    "inbox.sqlite": "requests that core has not taken are lost",
    "notify.sqlite": "alarms of the past may be told again",
    "history.sqlite": "the history of records begins anew",
}


class Finding(NamedTuple):
    """One thing looked at."""

    verdict: Literal["good", "warn", "bad"]
    subject: str
    text: str


def examine() -> Iterator[Finding]:
    """Every finding, in the order in which they build on each other."""
    yield _python()
    yield from _packages()
    try:
        settings = load_settings()
    except ConfigError as error:
        yield from (Finding("bad", "settings", str(problem)) for problem in error.problems)
        return
    where = settings_file()
    yield Finding("good", "settings", f"{where} and environment" if where.is_file() else "defaults and environment")
    yield _disk(settings)
    yield _broker(settings)
    yield from _files(settings)
    yield from _journal(settings)
    yield _web(settings)
    yield _exposure(settings)
    yield from _notifications(settings)


def _notifications(settings: Settings) -> Iterator[Finding]:
    """Who is told, whether the channels take what they are given, and whether the alarm path passed its newest test."""
    try:
        config = load_notify(settings)
    except ConfigError as error:
        yield from (Finding("bad", "notifications", str(problem)) for problem in error.problems)
        return
    if notify_file(settings) is None:
        yield Finding("warn", "notifications", "no notify.yaml: alarms are told in the log only; see docs/notifications.md")
        return
    reader = DeliveryReader(settings.data_dir / "notify.sqlite")
    dead = [channel for channel in reader.channels() if channel.failures and channel.name in config.channels]
    yield from (Finding("bad", "notifications", f"channel {c.name}: {c.failures} failures in a row: {c.error}") for c in dead)
    tested = next(iter(reader.tests(1)), None)
    if tested is None:
        yield Finding("warn", "notifications", "the alarm path was never tested; run `fieldloom notify test`")
    elif tested.state == "failed":
        yield Finding("bad", "notifications", f"the newest test of the alarm path failed: {tested.detail}")
    elif not dead:
        yield Finding("good", "notifications", f"{len(config.channels)} channels, {len(config.contacts)} contacts")


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("good", "python", version)


def _packages() -> Iterator[Finding]:
    wanted = importlib.metadata.requires("fieldloom") or []
    names = [text.split(";")[0] for text in wanted if "extra ==" not in text]
    missing = []
    for text in names:
        name = text.split(">")[0].split("<")[0].split("=")[0].split("[")[0].strip()
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("bad", "packages", f"missing: {', '.join(missing)}; run `make setup`")
    else:
        yield Finding("good", "packages", f"fieldloom {importlib.metadata.version('fieldloom')} with {len(names)} packages")


def _disk(settings: Settings) -> Finding:
    try:
        place = check_place(settings.data_dir, free_bytes_min=settings.disk_free_mb << 20)
    except FieldloomError as error:
        return Finding("bad", "data directory", str(error))
    free_pct = 100 * place.free_bytes / max(1, place.disk_bytes)
    text = f"{settings.data_dir.resolve()} on {place.kind}, {place.free_bytes >> 30} GB free ({free_pct:.0f} %)"
    if free_pct < settings.disk_free_pct:
        return Finding(
            "warn", "data directory", f"{text}: below {settings.disk_free_pct:.0f} % slow followers are cut off; free some"
        )
    return Finding("good", "data directory", text)


def _broker(settings: Settings) -> Finding:
    if not settings.mqtt_host:
        try:
            return Finding("good", "broker", f"own child process, {find_mosquitto()}")
        except EnvironmentFault as error:
            return Finding("bad", "broker", str(error))
    address = f"{settings.mqtt_host}:{settings.mqtt_port}"
    try:
        problem = asyncio.run(_log_in_twice(settings))
    except ConfigError as error:
        return Finding("bad", "broker", str(error.problems[0]))
    except (aiomqtt.MqttError, OSError, TimeoutError) as error:
        return Finding("bad", "broker", f"{address}: {_refusal(str(error), is_tls=settings.mqtt_tls)}")
    if problem:
        return Finding("bad", "broker", f"{address}: {problem}")
    return Finding("good", "broker", f"{address} lets {settings.mqtt_username or 'everybody'} in")


def _refusal(said: str, *, is_tls: bool) -> str:
    """The fix for what the broker, or the way to it, answered."""
    if "Not authorized" in said or "Bad user name" in said:
        return (
            "the broker refuses us; check FIELDLOOM_MQTT_USERNAME and FIELDLOOM_MQTT_PASSWORD against its password file, and that "
            "FIELDLOOM_MQTT_PORT is the core's own listener (1884 in mosquitto.conf; 1883 takes devices only)"
        )
    if is_tls and "refused" not in said and "Name or service" not in said:
        return f"TLS fails ({said}); check FIELDLOOM_MQTT_TLS, FIELDLOOM_MQTT_CA_FILE and the port: plain and TLS listeners differ"
    return f"cannot be reached ({said}); start it, or correct FIELDLOOM_MQTT_HOST and FIELDLOOM_MQTT_PORT"


async def _log_in_twice(settings: Settings) -> str:
    """Core holds two sessions under one user name: what keeps it from that, "" when nothing does. Raises MqttError or OSError."""
    password = settings.mqtt_password.get_secret_value() if settings.mqtt_password else None

    def client() -> aiomqtt.Client:
        return aiomqtt.Client(
            settings.mqtt_host, settings.mqtt_port, username=settings.mqtt_username, password=password,
            identifier=f"fieldloom-doctor-{secrets.token_hex(4)}", protocol=aiomqtt.ProtocolVersion.V5, clean_start=True,
            tls_context=settings.mqtt_tls_context(), timeout=CONNECT_S,
        )  # fmt: skip

    first, second = client(), client()
    try:
        async with first:
            async with second:
                done, _ = await asyncio.wait({first._disconnected}, timeout=TAKEOVER_S)
            retrieve_disconnection(second)
            if not done:
                return ""
    except aiomqtt.MqttError:
        if not first._disconnected.done() or first._disconnected.exception() is None:
            raise
    retrieve_disconnection(first)
    return (
        "this listener makes client ids of user names, so core's two sessions throw each other out; set FIELDLOOM_MQTT_PORT to the "
        "service's own listener (1884 in mosquitto.conf)"
    )


def _journal(settings: Settings) -> Iterator[Finding]:
    directory = settings.data_dir / "journal"
    if not directory.is_dir():
        yield Finding("warn", "core", "has never run here; start with `fieldloom demo` or `fieldloom serve`")
        return
    try:
        last = newest(directory)
    except FieldloomError as error:
        yield Finding("bad", "journal", f"{error}; put back a copy (docs/operations.md, Backup)")
        return
    if last is None:
        yield Finding("warn", "journal", "is empty")
        return
    yield Finding("good", "journal", f"readable, position {last.last}")
    if not last.read_accounting().is_balanced():
        yield Finding("bad", "accounting", "received is not stored + duplicate + rejected + pending; please report this defect")
    age_s = (time.time_ns() - last.engine_ns) / NS_PER_S
    if age_s < -LATENESS_S:
        text = f"this machine's is {length(-age_s)} behind the journal: every sample counts as late; set the time (chrony, NTP)"
        yield Finding("bad", "clock", text)
    elif age_s > SILENT_S:
        yield Finding(
            "warn", "core", f"has journaled nothing for {length(age_s)}; if it should run, see {settings.data_dir / 'log'}"
        )
    else:
        yield Finding("good", "core", "runs")
    yield from _configuration(settings)


def _configuration(settings: Settings) -> Iterator[Finding]:
    """Rules in force that cannot run, devices whose clock is wrong."""
    now = known(settings.data_dir)
    for name, site in sorted(now.plan.sites.items()):
        for note in notes(site):
            yield Finding("warn", f"site {name}", f"{note}; `fieldloom check` its files")
    if now.wrong_clocks:
        names = ", ".join(sorted(now.wrong_clocks)[:NAMES_SHOWN]) + (" ..." if len(now.wrong_clocks) > NAMES_SHOWN else "")
        yield Finding("warn", "device clocks", f"wrong on {names}: their samples are kept and move nothing; set their time")
    files, devices = resource.getrlimit(resource.RLIMIT_NOFILE)[0], len(now.plan.active)
    if not settings.mqtt_host and devices > files - FILES_SPARE:
        yield Finding(
            "warn", "open files", f"{devices:,} devices, but only {files:,} files may be open; `ulimit -n {devices + 1000}`"
        )


def _files(settings: Settings) -> Iterator[Finding]:
    """Who owns the files of the data directory, and whether the databases in it are whole."""
    foreign = [path for pattern in ("*", "*/*") for path in settings.data_dir.glob(pattern) if not os.access(path, os.W_OK)]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        text = f"not yours to write: {foreign[0]}{more}; chown them, or run as their owner"
        yield Finding("bad", "files", text)
    damaged = []
    for name, loss in DATABASES.items():
        file = settings.data_dir / name
        if file.is_file() and (problem := _damage(file)):
            damaged.append(name)
            yield Finding("bad", name, f"is damaged ({problem}); put back a copy, or move it aside: {loss}")
    if not foreign and not damaged and settings.data_dir.is_dir():
        yield Finding("good", "files", "yours to write, databases whole")


def _damage(file: Path) -> str:
    """What is wrong with a SQLite file; "" when nothing is, or when a running process keeps it from being read."""
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=CONNECT_S)) as database:
            said = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError:
        return ""
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if said == "ok" else said.splitlines()[-1]


def _web(settings: Settings) -> Finding:
    if not (settings.data_dir / "run" / "web.ready").is_file():
        if answers(settings.web_port):
            return Finding("warn", "web", f"does not run, and another program has port {settings.web_port}; set FIELDLOOM_WEB_PORT")
        return Finding("warn", "web", "does not run; start it with `fieldloom demo` or `fieldloom serve`")
    address = base_url(settings)
    try:
        with urllib.request.urlopen(f"{address}/api/v1/ready", timeout=CONNECT_S) as answer:
            body = json.load(answer)
    except (urllib.error.HTTPError, json.JSONDecodeError) as error:
        return Finding("bad", "web", f"{address} is not ready ({error}); see {settings.data_dir / 'log' / 'web.log'}")
    except OSError:
        return Finding(
            "warn", "web", f"nothing answers at {address}; if it should run, see {settings.data_dir / 'log' / 'web.log'}"
        )
    return Finding("good", "web", f"{address} is ready at position {body.get('position')}")


def _exposure(settings: Settings) -> Finding:
    if settings.sabotage:
        return Finding("bad", "safety", f"FIELDLOOM_SABOTAGE={','.join(sorted(settings.sabotage))} breaks promises; unset it")
    is_open = settings.web_host not in ("127.0.0.1", "localhost", "::1")
    if is_open and not settings.web_secure_cookie:
        text = f"web listens on {settings.web_host} without TLS; put a TLS proxy in front and set FIELDLOOM_WEB_SECURE_COOKIE=true"
        return Finding("warn", "safety", text)
    if settings.mqtt_host not in ("", "127.0.0.1", "localhost", "::1") and not settings.mqtt_tls:
        return Finding(
            "warn", "safety", f"the broker at {settings.mqtt_host} is spoken to without TLS; set FIELDLOOM_MQTT_TLS=true"
        )
    if _is_readable_by_others(settings.data_dir / "web.sqlite"):
        return Finding("warn", "safety", f"{settings.data_dir / 'web.sqlite'} is readable by others; run chmod 600 on it")
    return Finding("good", "safety", "bound to loopback, secrets private")


def _is_readable_by_others(file: Path) -> bool:
    return file.is_file() and bool(file.stat().st_mode & 0o077)
