"""What each process does between its start and its end: checks, wiring of its own parts, a file that says it is ready."""

import asyncio
import contextlib
import functools
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TextIO

import structlog

from app.settings import Settings
from app.site_files import load_site
from store.history import History
from store.place import check_place, owned
from telemetry.clock import EngineClock
from telemetry.errors import CallerError, ConfigError, CorruptError, EnvironmentFault

log = structlog.get_logger()
FILES_MAX: Final = 65_536
WEB_NICE: Final = 10  # pages and queries may be slow; on a busy machine control comes first

READY_POLL_S: Final = 0.02


class LineLogger:
    """Log lines on a stream. A full disk or a closed terminal loses the line, never the process that speaks."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, message: str) -> None:
        """One line."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
            print(message, file=self._stream, flush=True)

    debug = info = warning = error = critical = exception = log = msg


@contextlib.contextmanager
def log_in_file(settings: Settings) -> Iterator[None]:
    """Events of the supervisor go into log/supervisor.log while the block runs: its terminal shows what flows."""
    directory = settings.data_dir / "log"
    directory.mkdir(exist_ok=True)
    before = structlog.get_config()
    with (directory / "supervisor.log").open("a", encoding="utf-8", buffering=1) as stream:
        set_up_log(settings, stream)
        try:
            yield
        finally:
            structlog.configure(**before)


def set_up_log(settings: Settings, stream: TextIO | None = None) -> None:
    """One line per event on standard error (or `stream`): for people on a terminal, JSON otherwise."""
    stream = stream or sys.stderr
    is_terminal = stream.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if is_terminal else structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=lambda *_names: LineLogger(stream),
        cache_logger_on_first_use=False,
    )


def allow_open_files() -> None:
    """Each connection of the web process, and of our own broker's devices, is an open file: take what the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_MAX if hard == resource.RLIM_INFINITY else min(FILES_MAX, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_start(settings: Settings) -> None:
    """Refuse to start where the promises cannot be kept. Raises StoreError with the fix."""
    allow_open_files()
    check_place(settings.data_dir, free_bytes_min=settings.disk_free_mb << 20)
    (settings.data_dir / "run").mkdir(exist_ok=True)


def clock() -> EngineClock:
    """The clock of a process that is not core."""
    return EngineClock(time.time_ns, time.monotonic_ns)


async def serve_core(settings: Settings) -> int:
    """The core until it is told to stop; its exit code."""
    from app.core import run_core

    if not settings.mqtt_host:
        message = "no broker is configured; set FIELDLOOM_MQTT_HOST (and _PORT), or run `fieldloom serve`, which starts its own"
        raise CallerError(message)
    directory = settings.data_dir / "journal"
    before = await asyncio.to_thread(last_epoch, directory)
    telling = asyncio.create_task(_tell_first_commit(directory, before, settings.data_dir / "run" / "core.ready"), name="ready")
    try:
        return int(await run_core(settings) or 0)
    finally:
        telling.cancel()


async def _tell_first_commit(directory: Path, before: int, ready: Path) -> None:
    """Core is ready when it has journaled its START: it owns the journal, and the disk takes what it writes."""
    while (epoch := await asyncio.to_thread(last_epoch, directory)) <= before:  # noqa: ASYNC110 -- another process's file
        await asyncio.sleep(READY_POLL_S)
    _tell(ready, str(epoch))


def last_epoch(directory: Path) -> int:
    """Epoch of the journal's newest transaction; -1 when there is none yet."""
    from store.journal_reader import JournalReader

    if not directory.is_dir():
        return -1
    reader = JournalReader(directory)
    try:
        last = reader.last()
    except CorruptError:
        return -1  # core says so itself, and ends
    finally:
        reader.close()
    return -1 if last is None else last.epoch


async def serve_web(settings: Settings) -> int:
    """The web process until it is told to stop."""
    from api.serve import WebSettings, serve
    from app.backtest.desk import BacktestDesk, WarmingDesk

    os.nice(WEB_NICE)
    allow_open_files()
    ready = settings.data_dir / "run" / "web.ready"
    web = WebSettings(
        settings.data_dir,
        host=settings.web_host,
        port=settings.web_port,
        hosts=frozenset(settings.web_hosts),
        metrics_open=settings.web_metrics_open,
        secure_cookie=settings.web_secure_cookie,
        keep_s=None if settings.history_days is None else settings.history_days * 86_400,
    )
    try:
        history = open_history(settings)
        reading: dict[str, Any] = {"backtests": BacktestDesk(history), "warmings": WarmingDesk(history)}
        await serve(web, history=history, clock=clock(), **reading, on_ready=lambda address: _tell(ready, address))
    finally:
        ready.unlink(missing_ok=True)  # the command line reads our address there
    return 0


async def serve_notify(settings: Settings) -> int:
    """The notify process until it is told to stop."""
    from app.notify_file import load_notify, notify_file, reveal
    from people import notify

    directory = (notify_file(settings) or Path()).parent
    with owned(settings.data_dir / "run", "notify"):  # two would tell everything twice
        try:
            config = load_notify(settings)
        except ConfigError as error:  # no exit code 2: a mistake in who is told must not end control under supervision
            for problem in error.problems:
                log.error("notify_configuration_wrong", problem=str(problem))
            raise EnvironmentFault(f"{error.problems[0]}; see `fieldloom notify check`") from error
        secret_of = functools.partial(reveal, directory=directory)
        await notify.run(settings.data_dir, config, secret_of, clock=clock(), wall=time.time_ns, stop=stop_on_signal())
    return 0


def _tell(ready: Path, address: str) -> None:
    """Leave our address for the supervisor and the command line; whole or not at all."""
    partial = ready.with_suffix(".part")
    partial.write_text(address, "utf-8")
    partial.replace(ready)


def open_history(settings: Settings) -> History:
    """The configured store. One process may open the embedded one."""
    if settings.history == "duckdb":
        from store.duckdb_history import DuckDBHistory

        return DuckDBHistory(settings.data_dir / "history.duckdb")
    from store.influx_history import InfluxHistory
    from store.influx_server import InfluxServer, InfluxV1, InfluxV2

    secret = settings.influx_token.get_secret_value()
    server: InfluxServer
    if settings.influx_version == 1:
        server = InfluxV1(settings.influx_url, settings.influx_bucket, username=settings.influx_username, password=secret)
    else:
        server = InfluxV2(settings.influx_url, org=settings.influx_org, bucket=settings.influx_bucket, token=secret)
    return InfluxHistory(settings.data_dir / "history.sqlite", server)


def stop_on_signal() -> asyncio.Event:
    """Set by SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def simulate(
    settings: Settings, site: Path, *, seed: int, speed: float, sample_s: float, faults: Path | None, passwords: Path | None
) -> int:
    """Simulated devices of a site until a signal. The site must be configured as SIMULATED: nothing else may obey them."""
    from app.demo import demo_clock
    from app.faults import load_faults
    from simulators.fleet import DEMO_START_S, run_fleet

    config = load_site(site)
    if config.origin != "SIMULATED":
        raise CallerError(f"site {config.site!r} has origin {config.origin}; simulated devices may only stand for a SIMULATED site")
    told, now_s = demo_clock(settings.data_dir), time.time()
    # At real time it is as late there as here; beside a demo as late as its service takes it to be.
    start_s = now_s if speed == 1.0 else DEMO_START_S
    if told is not None:
        start_s = told.plant_s + (now_s - told.wall_s) * told.speed
    planned = [] if faults is None else load_faults(faults, config, start_s)
    count = sum(len(device.names()) for device in config.devices)
    where = f"{settings.mqtt_host}:{settings.mqtt_port}"
    log.info("simulating", site=config.site, devices=count, broker=where, sample_s=sample_s, speed=speed)
    await run_fleet(
        config,
        host=settings.mqtt_host,
        port=settings.mqtt_port,
        password_of=device_passwords(settings, passwords),
        seed=seed,
        clock=clock(),
        speed=speed,
        sample_s=sample_s,
        plant_start_s=start_s,
        faults=planned,
        tls=settings.mqtt_tls_context(),
        stop=stop_on_signal(),
    )
    return 0


def device_passwords(settings: Settings, file: Path | None = None) -> Callable[[str], str | None]:
    """Passwords of devices by user name "site/device": from `file` (user, tab, password: as `fieldloom broker` prints them), else the
    one that FIELDLOOM_DEVICE_PASSWORD gives to all, else those of our own broker. Raises CallerError for a line that is none."""
    import msgspec

    shared, known = os.environ.get("FIELDLOOM_DEVICE_PASSWORD"), dict[str, str]()
    own = settings.data_dir / "broker" / "devices.json"
    if file is not None:
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1):
            user, tab, password = line.partition("\t")
            if not tab:
                raise CallerError(f"{file}:{number}: expected user, a tab, and the password, as `fieldloom broker` prints them")
            known[user] = password
    elif shared is None and own.is_file():
        known = msgspec.json.decode(own.read_bytes(), type=dict[str, str])
    return lambda name: known.get(name, shared)
