"""What can be wrong with an installation, looked at one by one; each finding says how to mend it. Changes nothing."""

import importlib.metadata
import json
import shutil
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, Literal, NamedTuple

from app.client import base_url
from app.settings import Settings, load_settings, settings_file
from store.journal_reader import JournalReader
from store.place import check_place
from telemetry.errors import ConfigError, FieldloomError

CONNECT_S: Final = 2.0
SILENT_S: Final = 10.0
LATENESS_S: Final = 1.0
MOSQUITTO_PATHS: Final = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"


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
    yield from _journal(settings)
    yield _web(settings)
    yield _exposure(settings)


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
        found = shutil.which("mosquitto") or shutil.which("mosquitto", path=MOSQUITTO_PATHS)
        if found is None:
            return Finding(
                "bad", "broker", "Mosquitto is not installed; run `apt-get install mosquitto`, or set FIELDLOOM_MQTT_HOST"
            )
        return Finding("good", "broker", f"own child process, {found}")
    try:
        with socket.create_connection((settings.mqtt_host, settings.mqtt_port), CONNECT_S):
            pass
    except OSError as error:
        fix = "start it, or correct FIELDLOOM_MQTT_HOST and FIELDLOOM_MQTT_PORT"
        return Finding(
            "bad", "broker", f"{settings.mqtt_host}:{settings.mqtt_port} cannot be reached ({error.strerror or error}); {fix}"
        )
    return Finding("good", "broker", f"{settings.mqtt_host}:{settings.mqtt_port} answers")


def _journal(settings: Settings) -> Iterator[Finding]:
    directory = settings.data_dir / "journal"
    if not directory.is_dir():
        yield Finding("warn", "core", "has never run here; start with `fieldloom demo` or `fieldloom serve`")
        return
    try:
        with closing(JournalReader(directory)) as reader:
            last = reader.last()
    except FieldloomError as error:
        yield Finding("bad", "journal", f"{error}; restore it from a backup (docs/operations.md)")
        return
    if last is None:
        yield Finding("warn", "journal", "is empty")
        return
    yield Finding("good", "journal", f"readable, position {last.last}")
    if not last.read_accounting().is_balanced():
        yield Finding("bad", "accounting", "received is not stored + duplicate + rejected + pending; please report this defect")
    age_s = (time.time_ns() - last.engine_ns) / 1e9
    if age_s > SILENT_S:
        yield Finding("warn", "core", f"has journaled nothing for {age_s:.0f} s; if it should run, see {settings.data_dir / 'log'}")
    elif age_s < -LATENESS_S:
        yield Finding("warn", "clock", f"the wall clock is {-age_s:.0f} s behind the journal; set the time (chrony, NTP)")
    else:
        yield Finding("good", "core", "runs")


def _web(settings: Settings) -> Finding:
    if not (settings.data_dir / "run" / "web.ready").is_file():
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
