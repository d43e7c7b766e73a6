"""From what somebody asks to a job: which rules, which site as history knows it, whose words count, which events are labelled."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from app.backtest.job import PEOPLE, Job, check_span, faults, with_rules
from app.backtest.report import Label
from app.documents import Reading
from app.site_files import all_rules
from store.history import RECORDS_MAX
from store.projection import decode_plan
from store.scan import Past
from telemetry.errors import CallerError, ConfigError, Problem
from telemetry.record import Request
from telemetry.site import RuleSpec, SiteConfig

OWN: Final = "site"  # stands for the site's own rules
PREFIX_MIN: Final = 6
LABELS_MAX: Final = 10_000
DAY_NS: Final = 86_400_000_000_000
Rules = list[RuleSpec] | str  # given rules, "site", or the beginning of a configuration's hash


def make_job(
    past: Past, site: str, *, rules: Rules, against: Rules | None, start_ms: int, end_ms: int, with_people: bool
) -> tuple[Job, list[str]]:
    """The job, and which of its rules cannot run. Raises CallerError, each with its fix."""
    check_span(start_ms, end_ms)
    plan = past.saved_plan()
    configs = past.records(kind="config", site=site, limit=RECORDS_MAX) if plan is not None else []
    if plan is None or not configs:
        raise CallerError(f"history knows no site {site!r}; it has what `web` has written since the site was applied")
    config = config_of(configs[0].body)
    chosen = [_chosen(rules, config, configs)] + ([] if against is None else [_chosen(against, config, configs)])
    people = people_of(past, config, start_ms * 1_000_000, end_ms * 1_000_000) if with_people else ()
    variants = tuple(with_rules(config, own) for own in chosen)
    job = Job(site, decode_plan(plan).snapshot(), variants, start_ms, end_ms, people)
    wrong = faults(job)
    if wrong and not isinstance(rules, str):  # the site's own may hold rules for devices that are not there
        raise CallerError(f"the rules do not fit site {site}: " + "; ".join(wrong[:5]))
    for k in range(1, len(variants)):
        wrong += [f"{OWN if against == OWN else 'against'}: {fault}" for fault in faults(replace(job, variants=variants[k:]))]
    return job, wrong


def zone_of(past: Past, site: str) -> str:
    """The site's time zone; UTC of one that history does not know, which `make_job` tells."""
    configs = past.records(kind="config", site=site, limit=1)
    return config_of(configs[0].body).zone if configs else "UTC"


def config_of(body: str) -> SiteConfig:
    """The configuration of a record of history."""
    return SiteConfig.model_validate(msgspec.json.decode(body)["config"])


def _chosen(rules: Rules, newest: SiteConfig, configs: Sequence[Any]) -> list[RuleSpec]:
    if not isinstance(rules, str):
        return rules
    if rules == OWN:
        return all_rules(newest)
    found = {row.subject: row for row in configs if len(rules) >= PREFIX_MIN and row.subject.startswith(rules)}
    if len(found) != 1:
        known = ", ".join(
            f"{row.subject[:10]} ({datetime.fromtimestamp(row.time_ns / 1e9, UTC):%Y-%m-%d %H:%M})" for row in configs[:5]
        )
        raise CallerError(f"{rules!r} is no rule file, and no version of this site's configuration; the newest are {known}")
    return all_rules(config_of(next(iter(found.values())).body))


def people_of(past: Past, config: SiteConfig, start_ns: int, end_ns: int) -> tuple[tuple[int, Request], ...]:
    """What people said in the interval, and at its start the modes and batches that held then."""
    before: dict[tuple[str, str], Request] = {}
    inside: list[tuple[int, Request]] = []
    for row in reversed(past.records(kind="request", site=config.site, limit=RECORDS_MAX)):
        told = msgspec.json.decode(row.body)
        if told["kind"] not in PEOPLE or row.time_ns >= end_ns:
            continue
        request = Request(row.subject, told["kind"], told["author"], told["body"])
        if row.time_ns >= start_ns:
            inside.append((row.time_ns, request))
        elif request.kind in {"mode", "batch"}:
            before[request.kind, str(request.body.get("area"))] = _carried(request, config, row.time_ns, start_ns)
    return (*((start_ns, request) for request in before.values()), *inside)


def _carried(request: Request, config: SiteConfig, from_ns: int, to_ns: int) -> Request:
    """The request as if it were said later: a batch is by then so many days older."""
    if request.kind != "batch" or not isinstance(request.body.get("day", 1), int):
        return request
    days = (config.midnight_ns(to_ns) - config.midnight_ns(from_ns) + DAY_NS // 2) // DAY_NS
    return msgspec.structs.replace(request, body={**request.body, "day": request.body.get("day", 1) + days})


def time_ms(text: str, zone: str) -> int:
    """A day or a time as clocks at the site show it (2025-01-31, 2025-01-31T06:30), or with an offset or Z of its own; ms since 1970."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise CallerError(f"{text[:60]!r} is no time; write 2025-01-31 or 2025-01-31T06:30, by the site's clock") from None
    found = found if found.tzinfo is not None else found.replace(tzinfo=ZoneInfo(zone))
    return (found - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def read_labels(file: Path, zone: str) -> list[Label]:
    """Labelled events of a CSV file (with a head) or a YAML list: from, to, label; and rule and device where an event is of one."""
    reading = Reading()
    if file.suffix.lower() in {".yaml", ".yml"}:
        document = reading.load(file)
        rows = document.value if document is not None else None
        if document is None:
            raise ConfigError(reading.problems)
        numbered = [(document.line((k,)), row) for k, row in enumerate(rows)] if isinstance(rows, list) else []
    else:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            table = csv.DictReader(stream)
            numbered = [(table.line_num, row) for row in table]
    problems: list[Problem] = []
    labels = [label for line, row in numbered if (label := _read_label(file, line, row, zone, problems.append)) is not None]
    if problems:
        raise ConfigError(problems)
    if not 0 < len(labels) <= LABELS_MAX:
        raise CallerError(f"{file}: {len(labels)} events; give 1 to {LABELS_MAX:,}, each with from, to and label")
    return labels


def _read_label(file: Path, line: int, row: Any, zone: str, note: Callable[[Problem], None]) -> Label | None:
    given = {str(key).strip(): str(value or "").strip() for key, value in row.items()} if isinstance(row, dict) else {}
    try:
        label = Label(
            time_ms(given["from"], zone),
            time_ms(given["to"], zone),
            given.get("label", ""),
            given.get("rule", ""),
            given.get("device", ""),
        )
    except KeyError as error:
        note(Problem(str(file), line, "event", f"has no {error.args[0]!r}; an event has from, to and label"))
        return None
    except CallerError as error:
        note(Problem(str(file), line, "event", str(error)))
        return None
    if label.to_ms < label.from_ms:
        note(Problem(str(file), line, "event", "ends before it begins"))
        return None
    return label
