"""Commands about rules: run their scenarios."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.words import say

if TYPE_CHECKING:
    from app.scenarios import Suite

app = typer.Typer(name="rules", help="Try rules on scenarios.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Try rules before they are put in force."""


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
