"""Commands for whoever looks after an installation."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

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
        list[Path], typer.Argument(help="Directories with site.yaml: all sites whose devices may log in.", file_okay=False)
    ],
) -> None:
    """Write a broker's passwords, access control and, once, its mosquitto.conf. Prints user and password of those who are new."""
    from app.broker import provision
    from app.site_files import load_site

    configs = [load_site(site) for site in sites]
    devices = [f"{config.site}/{name}" for config in configs for device in config.devices for name in device.names()]
    new = provision(directory, devices)
    for user, password in new.items():
        print(f"{user}\t{password}")
    print(
        f"{directory}: {len(devices) + 1} users, {len(new)} of them new; Mosquitto reads it when it starts or gets SIGHUP",
        file=sys.stderr,
    )


def login(
    person: Annotated[str, typer.Argument(help="Who will be logged in.")] = "admin",
    role: Annotated[Role, typer.Option(help="What he may do.")] = Role.admin,
    token: Annotated[bool, typer.Option("--token", help="Print a bearer token for a program instead of a link.")] = False,
    days: Annotated[float, typer.Option(help="With --token: how long it holds.", min=0.001, max=366)] = 1.0,
) -> None:
    """A one-time login link for a person, or a token for a program (FIELDLOOM_TOKEN), for whoever owns the data directory."""
    from app.client import base_url
    from app.demo import login_token

    settings = load_settings()
    made = login_token(settings.data_dir, person=person, role=role.value, days=days if token else None)
    print(made if token else f"{base_url(settings)}/login#{made}")


def settings() -> None:
    """The settings in force, secrets masked."""
    found = load_settings()
    for name in Settings.model_fields:
        print(f"{name} = {getattr(found, name)}")


def warm() -> None:
    """Compile the kernels into their cache, as the installation does."""
    from app.commands.run import part

    part("app.warm", "warm")()
