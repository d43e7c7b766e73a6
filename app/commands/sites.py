"""Commands about a site's configuration: check the files, send them to the service, take them back out."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
import yaml

from app.settings import Settings, load_settings
from app.words import say

if TYPE_CHECKING:
    from app.client import Client
    from telemetry.site import PlantClock, SiteConfig

WARMING_POLL_S: Final = 0.3
SiteDirectory = Annotated[Path, typer.Argument(help="Directory with site.yaml.", file_okay=False)]


def check(site: SiteDirectory) -> None:
    """Read a site's files and print every mistake with file, line and what was expected. Exit code 1 when there is one."""
    from app.site_files import load_site, notes
    from app.tables import slow_progress
    from telemetry.errors import ConfigError

    try:
        with slow_progress(say("checking {what}", what=site)):
            config = load_site(site)
            told = notes(config)
    except ConfigError as error:
        for problem in error.problems:
            print(problem)
        print(f"{len(error.problems)} mistake{'s' if len(error.problems) != 1 else ''} in {site}", file=sys.stderr)
        raise typer.Exit(1) from None
    for note in told:
        print(f"note: {note}", file=sys.stderr)
    names = [name for device in config.devices for name in device.names()]
    rules = len(config.rules) + sum(len(profile.rules) for profile in config.profiles.values())
    print(f"{config.site}: {len(config.areas)} areas, {len(names)} devices, {rules} rules; sha256 {config.sha256()}")


def apply(
    site: SiteDirectory,
    warm: Annotated[
        bool, typer.Option("--warm", help="First compute from history what windows remember that are new in it (docs/rules.md).")
    ] = False,
) -> None:
    """Check a site's files and put them in force: journaled, with your name, from one journal position on."""
    from app.client import connect
    from app.site_files import load_site, notes
    from app.tables import slow_progress
    from simulators.fleet import at_speed

    settings = load_settings()
    with slow_progress(say("checking {what}", what=site)):
        config = load_site(site)
        told = notes(config)
    for note in told:
        print(f"note: {note}", file=sys.stderr)
    clock = _clock(settings, config)
    speed = 1.0 if clock is None else clock.speed
    config = at_speed(config, speed, clock)
    with connect(settings) as client:
        end = f"?warm={_warmed(client, config)}" if warm else ""
        with slow_progress(say("putting {site} in force", site=config.site)):
            client.post(f"/sites/{config.site}/config{end}", config.model_dump(mode="json"))
            client.wait_in_force(config.site, config.sha256())
    note = f" (times as for plants that live {speed:g} times as fast)" if speed != 1 else ""
    print(f"{config.site} is in force: sha256 {config.sha256()}{note}")


def _warmed(client: "Client", config: "SiteConfig") -> str:
    """The id of a warming of this configuration that is done. Raises CallerError with the reason when it cannot be; then, and when
    Ctrl-C ends it, nothing is in force."""
    from app.tables import slow_progress
    from telemetry.errors import CallerError

    state = client.post(f"/sites/{config.site}/warmings", config.model_dump(mode="json"))
    path = f"/sites/{config.site}/warmings/{state['id']}"
    with slow_progress(say("computing what new windows remember"), state["end_ms"] - state["start_ms"]) as advance:
        try:
            while state["state"] == "running":
                time.sleep(WARMING_POLL_S)
                state = client.get(path)
                advance(state["reached_ms"] - state["start_ms"])
        except KeyboardInterrupt:
            client.delete(path)
            raise
    if state["state"] != "done":
        raise CallerError(state["problem"] or "it was cancelled; nothing is in force")
    told = say(
        "{windows} new windows, {samples:,} samples, {size:,} bytes",
        windows=state["windows"],
        samples=state["samples"],
        size=state["bytes"],
    )
    print(told)
    return str(state["id"])


def _clock(settings: Settings, config: "SiteConfig") -> "PlantClock | None":
    """How the plants of this site live here, where that is not as the wall: only in a demo."""
    from app.demo import demo_clock

    return demo_clock(settings.data_dir) if config.origin == "SIMULATED" else None


def export(
    site: Annotated[str, typer.Argument(help="Name of the site.")],
    to: Annotated[
        Path | None, typer.Option(help="Directory to write as site files; without it, one document on standard output.")
    ] = None,
) -> None:
    """The configuration in force, as files that `apply` takes again."""
    from app.client import connect
    from simulators.fleet import at_speed
    from telemetry.site import SiteConfig

    settings = load_settings()
    with connect(settings) as client:
        found = SiteConfig.model_validate(client.get(f"/sites/{site}/config")["config"])
    clock = _clock(settings, found)
    config = found.model_dump(mode="json")
    if clock is not None:
        config = _rounded(at_speed(found, 1 / clock.speed).model_dump(mode="json"))
    if to is None:
        print(_yaml(config), end="")
        return
    profiles = config.pop("profiles")
    (to / "profiles").mkdir(parents=True, exist_ok=True)
    for name, profile in profiles.items():
        (to / "profiles" / f"{name}.yaml").write_text(_yaml(profile), "utf-8")
    (to / "site.yaml").write_text(_yaml(config | {"profiles": sorted(profiles)}), "utf-8")
    print(f"{to}: site.yaml and {len(profiles)} profiles")


def _rounded(value: Any) -> Any:
    """Times that were divided and multiplied again, as they were written."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=120)
