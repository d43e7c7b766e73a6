"""Memory of windows that a new configuration asks for, out of history: a process of low priority.

It runs the same `step` as a backtest over as much of the past as the new windows look back, and then once more over what was written
meanwhile, so that little is missed between what it read and the entry that applies the result. docs/rules.md says what is.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import connection
from threading import Event
from typing import Any, Final, NamedTuple

import numpy as np

from app.backtest.job import Job, with_rules
from app.backtest.lane import BLOCK_ROWS, arrays_read, blocks
from app.backtest.order import config_of, people_of
from app.backtest.worker import POLL_S, Asked, answer, heard, stand_back, started
from rules import warm_start
from rules.book import bind
from rules.condition import Conditions
from rules.engine import Engine
from rules.recorded import NS_PER_MS, Places, opening, places, recorded_entries
from rules.warm_start import Missing, WarmStart
from store.history import RECORDS_MAX, RecordRow
from store.projection import decode_plan
from store.scan import Past, Scan
from telemetry.errors import CallerError, FieldloomError
from telemetry.frame import Kind
from telemetry.site import SiteConfig

SETTLE_MS: Final = 10_000  # history holds a sample within seconds; what is younger is read at the very end


class WarmJob(NamedTuple):
    """job: the new configuration over the time its new windows look back; missing: these windows."""

    job: Job
    missing: Missing


def make_warm_job(past: Past, config: SiteConfig, now_ms: int) -> WarmJob:
    """What has to be read for the windows that `config` has and the configuration in force has not. Raises CallerError."""
    plan = past.saved_plan()
    configs = past.records(kind="config", site=config.site, limit=RECORDS_MAX) if plan is not None else []
    if plan is None or not configs:
        raise CallerError(f"history knows no site {config.site!r}, so there is nothing to warm it with; apply it without --warm")
    before = decode_plan(plan)
    whole = Job(config.site, before.snapshot(), (with_rules(config, None),), now_ms, now_ms)
    missing = warm_start.missing(before, bind(before), bind(whole.plan(whole.variants[0])), config.site)
    start_ms = _same_since(configs, config, now_ms - missing.reach_ns // NS_PER_MS)
    people = people_of(past, config, start_ms * NS_PER_MS, now_ms * NS_PER_MS)
    return WarmJob(replace(whole, start_ms=start_ms, requests=people), missing)


def _same_since(configs: Sequence[RecordRow], config: SiteConfig, start_ms: int) -> int:
    """From when on, at or after `start_ms`, samples have the origin and the units that they have in `config`; configs: newest first."""
    since_ms = start_ms
    for row in configs:
        if not _means_the_same(config_of(row.body), config):
            if row is configs[0]:
                raise CallerError(
                    "the configuration changes the site's origin or a point's unit: history is of another; leave out --warm"
                )
            break
        since_ms = -(-row.time_ns // NS_PER_MS)
        if since_ms <= start_ms:
            break
    else:
        since_ms = start_ms
    return max(since_ms, start_ms)


def _means_the_same(old: SiteConfig, new: SiteConfig) -> bool:
    """Whether samples of both are the same thing: the site's origin, and the units of points that both have."""
    units = {(name, point.name): point.unit for name, profile in old.profiles.items() for point in profile.points}
    points = [((name, point.name), point.unit) for name, profile in new.profiles.items() for point in profile.points]
    return old.origin == new.origin and all(units.get(key, unit) == unit for key, unit in points)


# -- the process ---------------------------------------------------------------------------------------------------------------


def warm(order: WarmJob, source: Scan, now_ms: Callable[[], int]) -> Iterator[tuple[int, int, WarmStart | None]]:
    """(reached, samples) as it goes on; with the last one the result, which then reaches to the present."""
    job, first, told = order.job, 1, 0
    engine = job.engine(job.variants[0])
    stage = next(stage for stage in engine.stages if isinstance(stage, Conditions))
    where = _read(engine, order)
    engine.step(opening(job.start_ms * NS_PER_MS))
    at, is_last = job.start_ms, False
    while not is_last:
        end, is_last = now_ms() - SETTLE_MS, False
        if end - at < SETTLE_MS:
            end, is_last = max(now_ms(), at + 1), True
        for start_ms, end_ms, rows, arrays in blocks(replace(job, start_ms=at, end_ms=end), source, engine.plan, where, BLOCK_ROWS):
            until = told
            while until < len(job.requests) and job.requests[until][0] < end_ms * NS_PER_MS:
                until += 1
            records = tuple((time_ns, request, Kind.REQUEST) for time_ns, request in job.requests[told:until])
            entries = recorded_entries(
                rows, where, first=first, start_ms=start_ms, end_ms=end_ms, records=records, arrays=arrays
            )  # fmt: skip
            first, told = first + len(entries), until
            engine.step(entries)
            yield end_ms, len(entries.frames.point) + len(arrays), None
        at = end
    yield at, 0, warm_start.collect(stage, order.missing.columns, at)


def _read(engine: Engine, order: WarmJob) -> Places:
    """Points of the devices that the new windows look at. Numbers that the past had not given may be another's by now."""
    plan = engine.plan
    where = places(plan, arrays_read([engine]))
    wanted = np.array([f"{d.site}/{d.profile.name}" in order.missing.cohorts for d in plan.devices], np.bool_)
    for column in (where.rank, where.owner):
        column[len(order.job.numbers["points"][0]) :] = -1
        column[~wanted[plan.columns.device]] = -1
    return where


def _work(pipe: Any, order: WarmJob) -> None:
    """It says "at" .. "at" "done", or "failed"."""
    stand_back()
    try:
        for reached_ms, samples, found in warm(order, Asked(pipe), lambda: time.time_ns() // NS_PER_MS):
            pipe.send(("at", (reached_ms, samples, None)) if found is None else ("done", (reached_ms, 0, warm_start.encode(found))))
    except FieldloomError as error:
        pipe.send(("failed", error))
    except (BrokenPipeError, EOFError):
        return  # the parent is gone


def results(order: WarmJob, history: Scan, cancelled: Event) -> Iterator[tuple[int, int, bytes | None]]:
    """(reached, samples) as such a process goes on, for which history is read here; with the last one the encoded result."""
    with started(_work, order) as pipe:
        while not cancelled.is_set():
            if not connection.wait([pipe], POLL_S):
                continue
            word, what = heard(pipe)
            if word == "read":
                answer(pipe, history, what)
                continue
            yield what
            if word == "done":
                return
