"""Commands about rules: what runs at a site, their versions and what differs, switching one on and off, and their scenarios."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.settings import load_settings
from app.words import say
from telemetry.errors import CallerError

if TYPE_CHECKING:
    from app.client import Client
    from app.scenarios import Suite
    from telemetry.site import SiteConfig

WORDS: Final = {word: word for word in ("enabled", "disabled", "shadow", "added", "removed", "changed")}

Rule = Annotated[str, typer.Argument(help="Name of a rule.")]
Site = Annotated[str, typer.Option(help="Name of a site of the service; not needed where there is one only.")]
Shadow = Annotated[bool, typer.Option("--shadow", help="Of the shadow of that name.")]
Comment = Annotated[str, typer.Option(help="Why; it stays with the version.")]

app = typer.Typer(
    name="rules", help="Rules of a site: what runs, their versions, on and off, what their scenarios say.", no_args_is_help=True
)


@app.callback()
def group() -> None:
    """Rules of a site: what runs, their versions, on and off, what their scenarios say."""


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
    before: Annotated[str, typer.Argument(help="A rule; or directory with site.yaml, or the name of a site of the service.")],
    after: Annotated[str | None, typer.Argument(help="The same, of the version to compare with. Not for a rule.")] = None,
    since: Annotated[int | None, typer.Option("--from", help="Version of the rule; without it the one before --to.")] = None,
    to: Annotated[int | None, typer.Option(help="Version of the rule; without it the newest.")] = None,
    site: Site = "",
    shadow: Shadow = False,
) -> None:
    """What differs between two versions of a rule over time, or between all rules of two sites: both values of each field."""
    from rules.versions import changes

    if after is None:
        _diff_versions(before, site, {"from_version": since, "to_version": to, "shadow": shadow})
        return
    if since is not None or to is not None or site or shadow:
        raise CallerError("--from, --to, --site and --shadow belong to the versions of one rule; leave the second name out")
    found = changes(_config(before), _config(after))
    for change in found:
        _print_change(change.what, change.rule, change.profile, change.fields, is_shadow=change.shadow)
    if not found:
        print(say("No rule differs."))


def _diff_versions(rule: str, site: str, query: dict[str, Any]) -> None:
    from app.client import connect

    with connect(load_settings()) as client:
        where = _site(client, site)
        found, zone = client.get(f"/sites/{where}/rules/{rule}/diff", **query), client.get(f"/sites/{where}")["zone"]
    for version in (found["before"], found["after"]):
        if version is not None:
            print(f"{say('version')} {version['version']}: {_origin(version, zone)}")
    if found["before"] is None:
        print(say("There is no version before it."))
    for change in found["fields"]:
        print(f"    {change['field']}: {_shown(change['before'])} -> {_shown(change['after'])}")


def _origin(version: dict[str, Any], zone: str) -> str:
    """When a version came into force, who wrote it and why."""
    from app.tables import site_time

    author = version["author"] or version["sender"]
    return " | ".join(filter(None, [site_time(version["time_ms"] / 1000, zone), author, version["comment"]]))


def _print_change(what: Any, rule: str, profile: str, fields: Any, *, is_shadow: bool) -> None:
    print(" ".join(filter(None, [say(WORDS[what]), rule, f"({profile})" if profile else "", say("shadow") if is_shadow else ""])))
    for name, old, new in fields:
        print(f"    {name}: {_shown(old)} -> {_shown(new)}")


@app.command("versions")
def list_versions(rule: Rule, site: Site = "", shadow: Shadow = False) -> None:
    """Every version of a rule, newest first: since when, whether it ran, who wrote it and why. Also of one that is gone."""
    from rich.text import Text

    from app.client import connect
    from app.tables import console, grid, heading

    with connect(load_settings()) as client:
        where = _site(client, site)
        found = client.get(f"/sites/{where}/rules/{rule}/versions", shadow=shadow)["items"]
        zone = client.get(f"/sites/{where}")["zone"]
    table = grid(say("version"), say("state"))
    table.add_column("", no_wrap=True)
    for version in found:
        is_there = version["version"] is not None
        state = say(WORDS[version["state"] if is_there else "removed"])
        table.add_row(str(version["version"]) if is_there else "-", state, Text(_origin(version, zone)))
    console().print(heading(f"{where}/{rule}"))
    console().print(table)


@app.command("enable")
def enable(rule: Rule, comment: Comment = "", site: Site = "") -> None:
    """Switch a rule on. One that runs as a shadow only takes its place."""
    _switch(rule, site, "enabled", comment)


@app.command("disable")
def disable(rule: Rule, comment: Comment = "", site: Site = "") -> None:
    """Switch a rule off at this site, with its shadow. One of a profile is replaced by a copy that is off."""
    _switch(rule, site, "disabled", comment)


@app.command("shadow")
def run_as_shadow(rule: Rule, comment: Comment = "", site: Site = "") -> None:
    """Put a rule on trial: it says what it would do, and nothing of its name acts."""
    _switch(rule, site, "shadow", comment)


def _switch(rule: str, site: str, state: str, comment: str) -> None:
    from app.client import connect

    with connect(load_settings()) as client:
        where = _site(client, site)
        told = client.put(f"/sites/{where}/rules/{rule}/state", {"state": state, "comment": comment})
        client.wait_for(where, told["request"])
        client.wait_in_force(where, told["sha256"])
    for change in told["changes"]:
        fields = [field.values() for field in change["fields"]]
        _print_change(change["what"], change["rule"], change["profile"], fields, is_shadow=change["shadow"])


def _site(client: "Client", name: str) -> str:
    """The site that is meant: the one that is named, or the only one there is."""
    if name:
        return name
    known = [item["site"] for item in client.get("/sites")["items"]]
    if len(known) != 1:
        raise CallerError(f"say which site with --site; known: {', '.join(known) or 'none'}")
    return str(known[0])


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


@app.command("test")
def run_scenarios(
    what: Annotated[
        list[Path] | None, typer.Argument(help="Directory of a site, or scenario files; without them, those that are shipped.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the results as JUnit XML, which build servers read.")] = None,
    mutations: Annotated[
        bool, typer.Option("--mutations", help="Change every figure of the rules and tell which change no scenario notices.")
    ] = False,
) -> None:
    """Run scenarios of rules through the engine: what points read, which alarms and demands follow, and nothing else.

    Exit code 1 when anything differs.
    """
    from app.mutations import survivors
    from app.scenario_run import Result, judge, run_cases, write_junit
    from app.tables import slow_progress

    began = time.monotonic()
    suites = _suites(what or [])
    total = sum(len(suite.cases) for suite in suites)
    results: list[Result] = []
    with slow_progress(say("running {count} scenarios", count=total), total) as advance:
        for suite in suites:
            seen = run_cases(suite.cases, suite.sites)
            results += [Result(case, judge(case, one)) for case, one in zip(suite.cases, seen, strict=True)]
            advance(len(results))
    failed = [result for result in results if result.differences]
    for result in failed:
        document, index = result.case.document, result.case.index
        print(f"{document.file}:{document.line(('scenarios', index))}: {result.case.title}")
        for difference in result.differences:
            print(f"    {difference}")
    if junit is not None:
        write_junit(junit, results, time.monotonic() - began)
    passed = say("{passed} of {total} scenarios pass, {seconds:.1f} s", passed=total - len(failed), total=total,
                 seconds=time.monotonic() - began)  # fmt: skip
    print(passed)
    alive: list[str] = []
    if mutations and not failed:
        with slow_progress(say("changing figures of rules"), len(suites)) as advance:
            count, alive = survivors(suites, advance)
        for line in alive:
            print(line)
        noticed = say("{count} changed figures, {alive} that no scenario notices", count=count, alive=len(alive))
        print(noticed)
    if total == 0:
        print(say("there are no scenarios here; docs/rules-testing.md shows how they are written"), file=sys.stderr)
    if failed or alive or total == 0:
        raise typer.Exit(1)


def _suites(what: list[Path]) -> "list[Suite]":
    from app.scenarios import load_all, load_site_suites, shipped_files
    from app.site_files import SHIPPED, load_site

    files = [path for path in what if not path.is_dir()]
    suites = load_all(files if what else shipped_files(), SHIPPED)
    for directory in what:
        if directory.is_dir():
            suites += load_site_suites(load_site(directory), directory)
    return suites
