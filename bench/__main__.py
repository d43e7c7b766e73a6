"""`make bench`: runs the groups asked for, prints a table and writes build/bench.json, a list of {name, value, unit, reference, ratio}.

`make bench ONLY=e2e,history` picks groups; `--short` runs each briefly. Raw samples stay in build/bench/.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import agc, agc_model, backtest, closed_day, commands, control_multispan, e2e, greenlight, history, nab, plants, rules
from bench.rig import BUILD, ROOT, compile_c

GROUPS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "rules": rules.run,
    "history": history.run,
    "backtest": backtest.run,
    "nab": nab.run,
    "agc": agc.run,
    "plants": plants.run,
    "closed_day": closed_day.run,
    "agc_model": agc_model.run,
    "greenlight": greenlight.run,
    "control_multispan": control_multispan.run,
    "e2e": e2e.run,
    "commands": commands.run,
}


def main() -> int:
    """Exit code 1 when a figure has a problem instead of a value."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", default="", help=f"groups, separated by commas: {', '.join(GROUPS)}")
    parser.add_argument("--short", action="store_true", help="seconds instead of minutes; figures are rougher")
    given = parser.parse_args()
    only = [name for name in given.only.split(",") if name]
    if unknown := [name for name in only if name not in GROUPS]:
        print(f"no group {', '.join(unknown)}; there are {', '.join(GROUPS)}", file=sys.stderr)
        return 2
    BUILD.mkdir(parents=True, exist_ok=True)
    compile_c()
    rows = [row for name, group in GROUPS.items() if not only or name in only for row in group(short=given.short)]
    (ROOT / "build" / "bench.json").write_text(json.dumps(rows, indent=1))
    table = Table("name", "value", "unit", "reference", "ratio", "problem")
    for row in rows:
        numbers = [f"{row[key]:.4g}" if row[key] is not None else "-" for key in ("value", "reference", "ratio")]
        table.add_row(row["name"], numbers[0], row["unit"], numbers[1], numbers[2], row.get("problem", ""))
    Console().print(table)
    return 1 if any("problem" in row for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
