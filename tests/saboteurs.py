"""`make saboteurs`: every test of the table in saboteurs.md is green as it is, and red with its switch. Exit code 1 otherwise.

Arguments: names of saboteurs; none = all. `--short` leaves out the runs without a switch, which `make test` has made already.
"""

# ruff: noqa: T201 - the figures of a proof are part of its result

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".md")
SHORT = "not torture and (alone or not days)"  # what ends in a minute or so
FAILED = 1  # pytest: tests ran and some failed; any other code is no proof


class Saboteur(NamedTuple):
    """A line of the table."""

    name: str
    place: str
    breaks: str
    test: str


def saboteurs() -> list[Saboteur]:
    """The table."""
    rows = [line.strip("| \n").split(" | ") for line in TABLE.read_text("utf-8").splitlines() if line.startswith("| ")]
    return [Saboteur(*(cell.strip() for cell in row)) for row in rows[1:]]


def run(test: str, name: str = "") -> tuple[int, str, float]:
    """Run a test, with a switch; (exit code of pytest, its output, seconds)."""
    environment = {key: value for key, value in os.environ.items() if key != "FIELDLOOM_SABOTAGE"}
    if name:
        environment["FIELDLOOM_SABOTAGE"] = name
    # A test that hangs under sabotage is red too, but must not eat the budget.
    argv = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--durations=0", "--timeout=120", "-m", SHORT, *test.split()]
    began = time.monotonic()
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr, time.monotonic() - began


def main(names: list[str]) -> int:
    """Both runs of everything chosen; 1 when a test is red by itself or stays green under its saboteur."""
    is_short, names = "--short" in names, [name for name in names if name != "--short"]
    chosen = [saboteur for saboteur in saboteurs() if not names or saboteur.name in names]
    wrong = 0
    for test in [] if is_short else sorted({saboteur.test for saboteur in chosen}):
        code, output, seconds = run(test)
        print(f"{'green' if code == 0 else 'RED'}  {seconds:5.1f} s  {test}", flush=True)
        if code != 0:
            wrong += 1
            print(output[-3000:])
    for saboteur in chosen:
        code, output, seconds = run(saboteur.test, saboteur.name)
        is_caught, is_skipped = code == FAILED, code == 0 and " skipped" in output and " passed" not in output
        verdict = (
            "caught" if is_caught else "not run" if is_skipped else "NOT CAUGHT"
        )  # a test skips where its recordings are absent
        print(f"{verdict}  {seconds:5.1f} s  {saboteur.name}: {saboteur.test}", flush=True)
        if not is_caught and not is_skipped:
            wrong += 1
            print(output[-3000:])
    print(f"{len(chosen)} saboteurs, {wrong} mistakes")
    return 1 if wrong or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
