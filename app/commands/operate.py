"""Commands for whoever looks after an installation."""

import typer

from app.settings import Settings, load_settings


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


def login(person: str = typer.Argument("admin", help="Who will be logged in.")) -> None:
    """A one-time login link for an administrator, for whoever owns the data directory."""
    from app.client import base_url
    from app.demo import login_token

    settings = load_settings()
    print(f"{base_url(settings)}/login#{login_token(settings.data_dir, person=person)}")


def settings() -> None:
    """The settings in force, secrets masked."""
    found = load_settings()
    for name in Settings.model_fields:
        print(f"{name} = {getattr(found, name)}")


def warm() -> None:
    """Compile the kernels into their cache, as the installation does."""
    from app.commands.run import part

    part("rules.kernels", "warm")()
