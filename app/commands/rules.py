"""Commands about rules: what runs at a site, and what differs between two versions of its rules."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.settings import load_settings
from app.words import say

if TYPE_CHECKING:
    from telemetry.site import SiteConfig

WORDS: Final = {word: word for word in ("enabled", "disabled", "shadow", "added", "removed", "changed")}

app = typer.Typer(name="rules", help="Rules of a site: what runs, what differs.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Rules of a site: what runs, what differs."""


@app.command("list")
def list_rules(site: Annotated[str, typer.Argument(help="Name of a site of the service.")]) -> None:
    """Every rule with its version, whether it runs, and how many alarms of it stand."""
    from app.client import connect
    from app.tables import console, grid, heading, site_time

    with connect(load_settings()) as client:
        rules, zone = client.get(f"/sites/{site}/rules")["items"], client.get(f"/sites/{site}")["zone"]
    for profile in dict.fromkeys(rule["profile"] for rule in rules):
        table = grid(say("rule"), say("version"), say("state"), say("priority"), say("standing"), say("last change"))
        for rule in (rule for rule in rules if rule["profile"] == profile):
            changed = "" if rule["alarm_changed_ms"] is None else site_time(rule["alarm_changed_ms"] / 1000, zone)
            row = (str(rule["version"]), say(WORDS[rule["state"]]), rule["priority"] or "", str(rule["standing"] or ""))
            table.add_row(rule["rule"], *row, changed or rule["changed"])
        console().print(heading(profile or site))
        console().print(table)


@app.command("diff")
def diff(
    before: Annotated[str, typer.Argument(help="Directory with site.yaml, or the name of a site of the service.")],
    after: Annotated[str, typer.Argument(help="The same, of the version to compare with.")],
) -> None:
    """Rules that were added, removed or changed from one version to the other, with both values of each field."""
    from rules.versions import changes

    found = changes(_config(before), _config(after))
    for change in found:
        print(f"{say(WORDS[change.what])} {change.rule}{f' ({change.profile})' if change.profile else ''}")
        for name, old, new in change.fields:
            print(f"    {name}: {_shown(old)} -> {_shown(new)}")
    if not found:
        print(say("No rule differs."))


def _config(name: str) -> "SiteConfig":
    from app.client import connect
    from app.site_files import load_site
    from telemetry.site import SiteConfig

    if Path(name).is_dir():
        return load_site(Path(name))
    with connect(load_settings()) as client:
        return SiteConfig.model_validate(client.get(f"/sites/{name}/config")["config"])


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)
