"""A month and a half of two recorded greenhouse compartments under the shipped rules, by `fieldloom backtest`.

    python -m bench --only agc

The rules are those of the recorded site and, word for word, the alarms of the profile `multispan`. What its points are called in the
recording stands in RECORDED_AS; a rule that reads what was not recorded cannot run and is named.
"""

import json
import re
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from app.backtest.job import with_rules
from app.backtest.report import Report
from app.play import load_recording, row_messages
from app.site_files import all_rules, load_site
from bench.recordings import DATA, backtest, shipped_profile, write_history
from bench.rig import ROOT
from rules.book import bind
from telemetry import topic
from telemetry.plan import Plan
from telemetry.site import RuleSpec, SiteConfig

AGC: Final = DATA / "greenhouse" / "agc2022_lettuce"
SITE: Final = ROOT / "sites" / "agc-lettuce"
START, END = "2022-02-01", "2022-03-16"
RECORDINGS: Final = (
    ("weather.csv", "weather", "weather"),
    ("Reference/GreenhouseClimate.csv", "climate", "climate-reference"),
    ("Reference/GreenhouseControls.csv", "controls", "controls-reference"),
    ("Koala/GreenhouseClimate.csv", "climate", "climate-koala"),
    ("Koala/GreenhouseControls.csv", "controls", "controls-koala"),
)
RECORDED_AS: Final = {
    r"set\.heating_c": "controls.heating_set_c",  # a curve there, a plain value in the profile
    r"weather\.wind_gust_m_s": "weather.wind_speed_m_s",  # means of five minutes only
    r"\bpipe_supply_c": "pipe_temp_c",
    r"silent\(3 min\)": "silent(15 min)",  # three heartbeats of a recorder that writes every five minutes
}


def messages() -> Iterator[tuple[str, bytes]]:
    """The five files as `fieldloom play` would send them."""
    for file, mapping, device in RECORDINGS:
        recording = load_recording(AGC / file, SITE / "mappings" / f"{mapping}.yaml", device)
        for payload in row_messages(sorted(recording.rows, key=lambda row: row.ts_ms)):
            yield topic.topic(recording.site.site, device, "telemetry"), payload


def recorded(rule: RuleSpec) -> RuleSpec:
    """An alarm of `multispan` on the points of the recording, without its demand: nothing is controlled there."""
    texts = {}
    for name in ("when", "clear", "suppress_when"):
        text = getattr(rule, name)
        for ours, theirs in RECORDED_AS.items():
            text = text and re.sub(ours, theirs, text)
        texts[name] = text
    return rule.model_copy(update={**texts, "profile": "recorded_climate", "demand": None})


def rules(site: SiteConfig) -> tuple[list[RuleSpec], list[str]]:
    """What can run on the recording, and the names of what cannot."""
    ours = [recorded(rule) for rule in shipped_profile("multispan").rules if rule.priority is not None]
    plan = Plan()
    plan.apply(with_rules(site, ours))
    idle = {fault.key.partition("/")[2].partition("@")[0] for fault in bind(plan).faults}
    return [*all_rules(site), *(rule for rule in ours if rule.id not in idle)], sorted(idle)


def measure(directory: Path) -> tuple[Report, list[str]]:
    """The report of one backtest, and the rules that cannot run."""
    site = load_site(SITE)
    able, idle = rules(site)
    accounting = write_history(directory / "history.duckdb", site, messages())
    if accounting.samples_stored != accounting.samples_received or accounting.samples_rejected:
        raise RuntimeError(f"{accounting.samples_stored} samples stored of {accounting.samples_received}: no figure")
    (directory / "rules.yaml").write_text(json.dumps([rule.model_dump(mode="json", exclude_defaults=True) for rule in able]))
    told = backtest(directory, str(directory / "rules.yaml"), site.site, START, END)
    return msgspec.convert(told, Report), idle


def run(*, short: bool) -> list[dict[str, Any]]:
    """For every rule how often it came a day, how long it stood in all, and how long in the middle."""
    del short
    if not AGC.is_dir():
        print(f"agc: skipped, there is no {AGC.resolve()}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(prefix="fieldloom-agc-") as directory:
        report, idle = measure(Path(directory))
    print(f"agc: cannot run on what was recorded: {', '.join(idle)}", file=sys.stderr)
    rows = []
    for rule in report.rules:
        lengths = [((a.cleared_ms or report.end_ms) - a.raised_ms) / 60_000 for a in report.alarms if a.rule == rule.rule]
        figures = [("alarms_day", rule.alarms_per_day, "1/d"), ("standing_h", rule.standing_s / 3600, "h")]
        if lengths:
            figures.append(("median_min", statistics.median(lengths), "min"))
        rows += [
            {"name": f"agc.{rule.rule}.{name}", "value": value, "unit": unit, "reference": None, "ratio": None}
            for name, value, unit in figures
        ]
    return rows
