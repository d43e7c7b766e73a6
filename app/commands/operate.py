"""Commands for whoever looks after an installation."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from app.settings import Settings, load_settings


class Role(StrEnum):
    """What a person or program may do; each includes the one before."""

    viewer = "viewer"
    operator = "operator"
    engineer = "engineer"
    admin = "admin"


def doctor() -> None:
    """Find what is wrong with this installation; each finding with its fix. Exit code 1 when something must be mended."""
    from rich.console import Console

    from app.doctor import examine

    failed = False
    console = Console(soft_wrap=True, highlight=False)
    for finding in examine():
        failed |= finding.verdict == "bad"
        mark = {"good": "[green]ok  [/]", "warn": "[yellow]note[/]", "bad": "[red]bad [/]"}[finding.verdict]
        console.print(f"{mark} {finding.subject}: {finding.text}", markup=True)
    raise typer.Exit(1 if failed else 0)


def broker(
    directory: Annotated[
        Path, typer.Argument(help="Mosquitto's directory for Fieldloom, such as /var/lib/fieldloom-broker.", file_okay=False)
    ],
    sites: Annotated[
        list[Path],
        typer.Argument(help="Directories with site.yaml: all sites whose devices and programs may log in.", file_okay=False),
    ],
) -> None:
    """Write a broker's passwords, access control and, once, its mosquitto.conf. Prints user and password of those who are new.

    The core's password is FIELDLOOM_MQTT_PASSWORD where that is set.
    """
    from app.broker import provision
    from app.site_files import load_site

    configs = [load_site(site) for site in sites]
    devices = [f"{config.site}/{name}" for config in configs for device in config.devices for name in device.names()]
    programs = [f"{config.site}/{name}" for config in configs for name in config.programs]
    given = load_settings().mqtt_password
    new = provision(directory, devices, programs=programs, service_password=None if given is None else given.get_secret_value())
    for user, password in new.items():
        print(f"{user}\t{password}")
    print(
        f"{directory}: {len(devices) + len(programs) + 1} users, {len(new)} of them new; Mosquitto reads it when it starts or gets SIGHUP",
        file=sys.stderr,
    )


def login(
    person: Annotated[str, typer.Argument(help="Who will be logged in.")] = "admin",
    role: Annotated[Role, typer.Option(help="What he may do.")] = Role.admin,
    token: Annotated[bool, typer.Option("--token", help="Print a bearer token for a program instead of a link.")] = False,
    days: Annotated[float, typer.Option(help="With --token: how long it holds.", min=0.001, max=366)] = 1.0,
) -> None:
    """A one-time login link for a person, or a token for a program (FIELDLOOM_TOKEN), for whoever owns the data directory."""
    from app.client import page_url
    from app.demo import login_token

    settings = load_settings()
    if "FIELDLOOM_URL" not in os.environ and not (settings.data_dir / "run" / "web.ready").is_file():
        print("note: no web process runs on this data directory; start it, then open the link within 15 minutes", file=sys.stderr)
    made = login_token(settings.data_dir, person=person, role=role.value, days=days if token else None)
    print(made if token else f"{page_url(settings)}/login#{made}")


def settings() -> None:
    """The settings in force and where each comes from; secrets masked."""
    from app.settings import PREFIX, read_file, settings_file
    from app.tables import console, grid

    found, file = load_settings(), settings_file()
    in_file = read_file(file)
    table = grid()
    table.add_column(overflow="fold")
    table.add_column(style="dim")
    for name in Settings.model_fields:
        source = PREFIX + name.upper() if PREFIX + name.upper() in os.environ else str(file) if name in in_file else "default"
        table.add_row(name, _plain(getattr(found, name)), source)
    console().print(table)


def _plain(value: Any) -> str:
    """As it would stand in the environment."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(sorted(value)) if isinstance(value, list | frozenset) else str(value)


def warm() -> None:
    """Compile the kernels into their cache, as the installation does."""
    from app.commands.run import part

    part("app.warm", "warm")()
