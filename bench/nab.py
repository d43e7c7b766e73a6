"""The statistical rules of the profile `watched_series` on the labelled series of NAB, scored by `fieldloom backtest --labels`.

    python -m bench --only nab

One rule set for all series, nothing tuned to one of them. Each series is one device; it is brought to usual spreads from usual by
the median and the standard deviation of its first 15 %, which NAB itself gives for learning, and cut at +-10. Only `robust_z` (its
bins) and the plain limits beside the rules need that. Times have no zone and are taken for UTC. Weeks are those of the series.
"""

import csv
import json
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.backtest.report import Label, Report, Standing
from bench.recordings import DATA, backtest, shipped_profile, write_history
from ingest.mapping import ROWS_PER_MESSAGE
from telemetry import topic
from telemetry.site import RuleSpec, SiteConfig
from telemetry.wire import message as wire

NAB: Final = DATA / "anomaly" / "nab"
PROFILE: Final = "watched_series"
LEARNED: Final = 0.15
LIMIT: Final = 10.0
WEEK_MS: Final = 604_800_000
# What one would write without statistics: a limit at three spreads, as it is and with the delays of the rules.
PLAIN: Final = [
    RuleSpec(id="PLAIN", profile=PROFILE, when="abs(value) > 3", priority="P3"),
    RuleSpec(id="PLAIN-DELAYED", profile=PROFILE, when="abs(value) > 3", on_delay_s=3600, off_delay_s=43_200, priority="P3"),
    RuleSpec(id="PLAIN-HELD", profile=PROFILE, when="abs(value) > 3", off_delay_s=43_200, priority="P3"),
]


class Recorded(NamedTuple):
    """A series: times (n,) [ms], values (n,) in usual spreads from usual, and its labelled windows."""

    device: str
    ts_ms: NDArray[np.int64]
    value: NDArray[np.float64]
    labels: list[Label]

    @property
    def weeks(self) -> float:
        """Its length."""
        return float(self.ts_ms[-1] - self.ts_ms[0]) / WEEK_MS


def _ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def normalised(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) in spreads from the median, both of the first 15 %; a series that stands still there keeps its unit."""
    first = value[: int(LEARNED * len(value))]
    return np.clip((value - np.median(first)) / (first.std() or 1.0), -LIMIT, LIMIT)


def read_series() -> list[Recorded]:
    """All series that are there."""
    windows = json.loads((NAB / "labels" / "combined_windows.json").read_text())
    found = []
    for file in sorted(NAB.glob("data/*/*.csv")):
        with file.open(newline="") as stream:
            rows = [(_ms(row["timestamp"]), float(row["value"])) for row in csv.DictReader(stream)]
        device = file.stem.replace("_", "-")
        labels = [
            Label(_ms(a), _ms(b), f"{device} {k}", device=device)
            for k, (a, b) in enumerate(windows[f"{file.parent.name}/{file.name}"])
        ]
        found.append(Recorded(device, np.array([t for t, _ in rows]), normalised(np.array([x for _, x in rows])), labels))
    return found


def messages(series: list[Recorded]) -> Iterator[tuple[str, bytes]]:
    """Telemetry as a played recording sends it: no boot, no sequence number."""
    for one in series:
        where = topic.topic("nab", one.device, "telemetry")
        pairs = list(zip(one.ts_ms.tolist(), one.value.tolist(), strict=True))
        for k in range(0, len(pairs), ROWS_PER_MESSAGE):
            yield (
                where,
                wire.encode(wire.Message(rows=[wire.Row(p={"value": x}, ts=ts) for ts, x in pairs[k : k + ROWS_PER_MESSAGE]])),
            )


def site(series: list[Recorded]) -> SiteConfig:
    """A device of the shipped profile for each series."""
    return SiteConfig.model_validate({
        "site": "nab", "origin": "REPLAY", "zone": "UTC", "areas": [{"name": "series"}], "profiles": {PROFILE: shipped_profile(PROFILE)},
        "devices": [{"name": one.device, "profile": PROFILE, "area": "series"} for one in series],
    })  # fmt: skip


def measure(directory: Path) -> tuple[list[Recorded], Report]:
    """Series and the report of one backtest over them."""
    series = read_series()
    config = site(series)
    accounting = write_history(directory / "history.duckdb", config, messages(series))
    if accounting.samples_stored != sum(len(one.ts_ms) for one in series):
        raise RuntimeError(f"{accounting.samples_stored} samples stored of {sum(len(one.ts_ms) for one in series)}: no figure")
    rules = [rule.model_copy(update={"profile": PROFILE}) for rule in config.profiles[PROFILE].rules] + PLAIN
    (directory / "rules.yaml").write_text(json.dumps([rule.model_dump(mode="json", exclude_defaults=True) for rule in rules]))
    events = [msgspec.to_builtins(label) for one in series for label in one.labels]
    for event in events:
        event |= {end: datetime.fromtimestamp(event[f"{end}_ms"] / 1000, UTC).isoformat() for end in ("from", "to")}
    (directory / "labels.yaml").write_text(json.dumps(events))
    ends = [datetime.fromtimestamp(f(one.ts_ms[k] for one in series) / 1000 + k % 2, UTC) for f, k in ((min, 0), (max, -1))]
    told = backtest(
        directory, str(directory / "rules.yaml"), "nab", *(end.strftime("%Y-%m-%dT%H:%M:%SZ") for end in ends),
        "--labels", str(directory / "labels.yaml"),
    )  # fmt: skip
    return series, msgspec.convert(told, Report)


def standing_share(series: list[Recorded], alarms: list[Standing]) -> float:
    """Part of the series' time for which these alarms stood; none stands longer than its series is."""
    last = {one.device: int(one.ts_ms[-1]) for one in series}
    stood = sum(min(a.cleared_ms or last[a.device], last[a.device]) - a.raised_ms for a in alarms)
    return stood / WEEK_MS / sum(one.weeks for one in series)


def hits(labels: list[Label], alarms: list[Standing]) -> int:
    """Labelled windows that an alarm met."""
    return sum(any(label.fits(alarm) for alarm in alarms) for label in labels)


def chance(series: list[Recorded], alarms: list[Standing]) -> float:
    """Hits if the windows lay elsewhere: the mean over 19 moves round the series, each by another twentieth of it."""
    found = []
    for k in range(1, 20):
        moved = []
        for one in series:
            first, length = int(one.ts_ms[0]), int(one.ts_ms[-1] - one.ts_ms[0])
            for label in one.labels:
                at = first + (label.from_ms - first + k * length // 20) % length
                moved.append(msgspec.structs.replace(label, from_ms=at, to_ms=at + label.to_ms - label.from_ms))
        found.append(hits(moved, alarms))
    return float(np.mean(found))


def run(*, short: bool) -> list[dict[str, Any]]:
    """Hits, false alarms a week and standing share of every rule, beside those of a plain limit."""
    del short
    if not NAB.is_dir():
        print(f"nab: skipped, there is no {NAB.resolve()}", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(prefix="fieldloom-nab-") as directory:
        series, report = measure(Path(directory))
    weeks, labels = sum(one.weeks for one in series), [label for one in series for label in one.labels]
    plain = next(rule for rule in report.rules if rule.rule == "PLAIN")
    rows = []

    def add(name: str, value: float, unit: str, reference: float | None) -> None:
        rows.append(
            {"name": name, "value": value, "unit": unit, "reference": reference, "ratio": value / reference if reference else None}
        )

    shipped = [alarm for alarm in report.alarms if not alarm.rule.startswith("PLAIN")]
    for name, alarms in [
        *((rule.rule, [a for a in report.alarms if a.rule == rule.rule]) for rule in report.rules),
        ("any", shipped),
    ]:
        add(f"nab.{name}.hits", hits(labels, alarms), f"of {len(labels)}", plain.hits)
        add(f"nab.{name}.chance", chance(series, alarms), f"of {len(labels)}", None)
        add(f"nab.{name}.false_week", sum(not a.label for a in alarms) / weeks, "1/week", (plain.false_alarms or 0) / weeks)
        add(f"nab.{name}.standing", standing_share(series, alarms), "1", None)
    if any(hits(labels, [a for a in report.alarms if a.rule == rule.rule]) != rule.hits for rule in report.rules):
        raise RuntimeError("the report counts other hits than its alarms show: no figure")
    add("nab.labelled", sum(label.to_ms - label.from_ms for label in labels) / WEEK_MS / weeks, "1", None)
    add("nab.weeks", weeks, "week", None)
    return rows
