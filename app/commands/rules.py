"""Commands about rules: what runs at a site, what differs between two versions of its rules, and their scenarios."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from app.settings import load_settings
from app.words import say

if TYPE_CHECKING:
    from app.scenarios import Suite
    from telemetry.site import SiteConfig

WORDS: Final = {word: word for word in ("enabled", "disabled", "shadow", "added", "removed", "changed")}

app = typer.Typer(name="rules", help="Rules of a site: what runs, what differs, what their scenarios say.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Rules of a site: what runs, what differs, what their scenarios say."""


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
