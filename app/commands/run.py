"""Commands that run something: the demo, one process of the service, simulated devices, a lab, a recording."""

import asyncio
import importlib
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from app.settings import load_settings
from app.words import say
from telemetry.errors import CallerError


class Process(StrEnum):
    """The processes of one installation."""

    core = "core"
    notify = "notify"
    web = "web"


class At(StrEnum):
    """Whose times a played recording has."""

    original = "original"
    now = "now"


Passwords = Annotated[
    Path | None, typer.Option(help="The devices' passwords, as `fieldloom broker` printed them.", exists=True, dir_okay=False)
]
Faults = Annotated[
    Path | None,
    typer.Option("--faults", help="What shall go wrong, where and when (YAML; docs/simulators.md).", exists=True, dir_okay=False),
]
SiteDirectory = Annotated[Path, typer.Argument(help="Directory with site.yaml.", exists=True, file_okay=False)]


def part(module: str, name: str) -> Any:
    """A function of another part of the program; one clear line when this build does not contain it."""
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise CallerError(f"this build of fieldloom does not contain {module}; install a complete one with `make setup`") from None


def demo(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the web page; default 8080, or a free one when that is in use.")
    ] = None,
    speed: Annotated[float, typer.Option(help="How much faster than the wall clock the plants live.", min=1, max=120)] = 60.0,
    seed: Annotated[int, typer.Option(help="Seed of weather and sensors.")] = 1,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No live view; print the address, then one line every ten seconds.")
    ] = False,
) -> None:
    """Everything on this machine with a simulated nursery and pig farm: broker, core, notify, web, devices. Ctrl-C stops it."""
    settings = load_settings(**({} if port is None else {"web_port": port}))
    code = asyncio.run(part("app.demo", "run_demo")(settings, speed=speed, seed=seed, quiet=quiet))
    raise typer.Exit(code)


def serve(
    process: Annotated[Process | None, typer.Argument(help="One process; without it, all of them under supervision.")] = None,
) -> None:
    """The service for a real site: all processes, or the one that is named (as a service manager starts them)."""
    settings = load_settings()
    serving = importlib.import_module("app.serving")
    serving.set_up_log(settings)
    if process is None:
        raise typer.Exit(asyncio.run(part("app.demo", "run_service")(settings)))
    serving.check_start(settings)
    raise typer.Exit(_run(getattr(serving, f"serve_{process}")(settings)))


def _run(work: Any) -> int:
    uvloop = importlib.import_module("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return int(runner.run(work))


def simulate(
    site: SiteDirectory,
    seed: Annotated[int, typer.Option(help="Seed of weather and sensors.")] = 1,
    speed: Annotated[float, typer.Option(help="How much faster than the wall clock the plants live.", min=1, max=120)] = 1.0,
    sample_s: Annotated[float, typer.Option(help="Seconds between samples.", min=0.1)] = 10.0,
    faults: Faults = None,
    passwords: Passwords = None,
) -> None:
    """The devices of a site as simulated MQTT clients, each with its own connection, until Ctrl-C."""
    settings = load_settings()
    if not settings.mqtt_host:
        raise CallerError("no broker to publish to; set FIELDLOOM_MQTT_HOST and FIELDLOOM_MQTT_PORT, or use `fieldloom demo`")
    serving = importlib.import_module("app.serving")
    serving.set_up_log(settings)
    work = serving.simulate(settings, site, seed=seed, speed=speed, sample_s=sample_s, faults=faults, passwords=passwords)
    raise typer.Exit(_run(work))


def fault(
    where: Annotated[str, typer.Argument(help="site/device, or site/device/part with a point or an actuator.")],
    name: Annotated[str, typer.Argument(help="What shall go wrong, such as stuck, F13 or screen_torn (docs/simulators.md).")],
    strength: Annotated[float | None, typer.Option(help="How strong; without it as usual.")] = None,
    for_: Annotated[
        str | None, typer.Option("--for", help="How long in the plants' time, such as `10 min`; without it until --end.")
    ] = None,
    end: Annotated[bool, typer.Option("--end", help="It is over.")] = False,
    passwords: Passwords = None,
) -> None:
    """Have a running simulated device fail, now; beside `fieldloom demo` or `fieldloom simulate`."""
    if end and (strength is not None or for_ is not None):
        raise CallerError("--end takes no strength and no length")
    length_s = None if for_ is None else part("app.series", "length_ns")(for_) / 1e9
    order = part("app.faults", "order_fault")
    given = 0.0 if end else strength
    asyncio.run(order(load_settings(), where, name, strength=given, for_s=length_s, passwords=passwords))
    print(say("{where}: {name} ended", where=where, name=name) if end else say("{where}: {name} began", where=where, name=name))


def lab(
    site: SiteDirectory,
    hours: Annotated[float | None, typer.Option(help="Length of the run on the virtual clock; a day.", min=0.01)] = None,
    days: Annotated[float | None, typer.Option(help="The same in days.", min=0.001)] = None,
    seed: Annotated[int, typer.Option(help="Seed of weather, sensors and faults.")] = 1,
    kills: Annotated[int, typer.Option(help="Deaths of the engine at random places; none may change a decision.", min=0)] = 0,
    faults: Faults = None,
    record: Annotated[
        Path | None,
        typer.Option(help="A new data directory for the journal of the run: `fieldloom decisions` and others read it."),
    ] = None,
) -> None:
    """A site, its plants and the whole decision path in one process on a virtual clock: a day in seconds."""
    if hours is not None and days is not None:
        raise CallerError("give --hours or --days, not both")
    length = 24.0 * (days or 1.0) if hours is None else hours
    raise typer.Exit(part("app.lab", "run_lab")(site, hours=length, seed=seed, kills=kills, faults=faults, record=record))


def play(
    file: Annotated[Path, typer.Argument(help="The recording (CSV).", exists=True, dir_okay=False)],
    mapping: Annotated[
        Path, typer.Option("--mapping", "-m", help="Mapping file: columns to devices and points.", exists=True, dir_okay=False)
    ],
    at: Annotated[
        At, typer.Option(help="original: the data's own times, idempotent; now: shifted into a fresh simulated site.")
    ] = At.original,
    device: Annotated[str | None, typer.Option(help="Device to play it as, when the mapping is for several.")] = None,
    speed: Annotated[float | None, typer.Option(help="With --at now: how much faster than recorded.", min=0.01)] = None,
    passwords: Passwords = None,
) -> None:
    """A recording becomes MQTT devices; every row is stored, reported or already there."""
    settings = load_settings()
    more = {name: value for name, value in (("device", device), ("speed", speed), ("passwords", passwords)) if value is not None}
    try:
        code = asyncio.run(part("app.play", "run_play")(settings, file, mapping=mapping, at=at.value, **more))
    except KeyboardInterrupt:
        print(say("Stopped. What was sent is stored; play it again for the rest: nothing is stored twice."), file=sys.stderr)
        raise typer.Exit(130) from None
    raise typer.Exit(int(code or 0))
