"""How well a site's alarms serve its operators: measures after IEC 62682 and EEMUA 191, out of history."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Query
from pydantic import Field

from api import problem
from api.alarm import Alarm
from api.auth import GuardedRoute
from api.parts import Parts, UseParts
from api.problem import FieldError, ProblemError
from api.routes.sites import Viewer, site_config
from api.views import NS_PER_MS, View
from people.changes import Change, change_of, read_rows
from people.measures import STANDING, Measures, measure
from store.history import History
from telemetry.errors import CallerError

router = APIRouter(tags=["alarms"], route_class=GuardedRoute)
T = TypeVar("T")

DAY_MS: Final = 86_400_000
RANGE_MAX_MS: Final = 366 * DAY_MS
LOOKBACK_MS: Final = 7 * DAY_MS  # before a range: what stood, and since when, when it began
TIME_MAX_MS: Final = 1 << 53
Millisecond = Annotated[int | None, Query(ge=0, le=TIME_MAX_MS)]


class DelayView(View):
    """Times from raised to acknowledged. Null without any that is known."""

    count: int = Field(examples=[42], description="Acknowledgements")
    median_s: float | None = Field(examples=[48.0])
    p90_s: float | None = Field(examples=[190.0])


class ShareView(View):
    """An alarm and its part of all."""

    subject: str = Field(examples=["MS-T-HH@nursery/ms-1"])
    count: int = Field(examples=[12])
    share: float = Field(examples=[0.18], description="Of all, 0 to 1")


class StaleView(View):
    """An alarm that stands for more than 24 h."""

    subject: str = Field(examples=["MS-W-BATT@nursery/ms-2"])
    since_ms: int | None = Field(examples=[1767039000000], description="Null: longer than is known")


class MixView(View):
    """Alarms of one level of priority beside the share they should have."""

    level: str = Field(examples=["high"], description="high, medium, low")
    priorities: list[str] = Field(examples=[["P1"]])
    count: int = Field(examples=[3])
    share: float | None = Field(examples=[0.04], description="Of all, 0 to 1; null when nothing was raised")
    target: float = Field(examples=[0.05])


class MeasuresView(View):
    """Figures of a site or of one area. Raised: became unacknowledged; shelved, suppressed, out of service are not raised."""

    raised: int = Field(examples=[67])
    per_day: float = Field(examples=[67.0])
    average_rate: float = Field(examples=[0.465], description="Alarms per 10 min")
    peak_rate: int = Field(examples=[6], description="Most alarms within any 10 min")
    peak_ms: int | None = Field(examples=[1767222600000], description="When these 10 min began; null when nothing was raised")
    standing: int = Field(examples=[4], description="At the end of the range: condition holds and is shown (UNACK, ACKED)")
    stale: list[StaleView] = Field(description="Standing for more than 24 h, oldest first")
    chattering: list[ShareView] = Field(description="Changed 3 times within 60 s; count and share of changes; at most 100")
    frequent: list[ShareView] = Field(description="The ten raised most often")
    mix: list[MixView]
    acknowledged: DelayView
    by_priority: dict[str, DelayView] = Field(examples=[{"P1": {"count": 3, "median_s": 20.0, "p90_s": 31.0}}])
    by_operator: dict[str, DelayView] = Field(examples=[{"wang": {"count": 42, "median_s": 48.0, "p90_s": 190.0}}])
    flood_s: float = Field(examples=[0.0], description="Seconds in flood: over 10 alarms in 10 min, until fewer than 5")
    floods: int = Field(examples=[0])
    shelved_s: float = Field(examples=[3600.0], description="Alarm-seconds")
    suppressed_s: float = Field(examples=[14400.0], description="Alarm-seconds suppressed by design")
    out_of_service_s: float = Field(examples=[0.0], description="Alarm-seconds")


class AreaMeasures(MeasuresView):
    """Figures of one area."""

    area: str = Field(examples=["ms"])


class SiteMeasures(View):
    """Figures of [start_ms, end_ms), of the site and of each of its areas."""

    site: str = Field(examples=["nursery"])
    start_ms: int = Field(examples=[1767139200000])
    end_ms: int = Field(examples=[1767225600000])
    whole: MeasuresView = Field(description="Of the whole site")
    areas: list[AreaMeasures] = Field(description="In the order of the configuration")
    history_position: int = Field(examples=[4711], description="Journal position up to which the history is complete")


def time_range(parts: Parts, start_ms: int | None, end_ms: int | None) -> tuple[int, int]:
    """The range that is asked for, by default the last 24 h; it ends now at the latest."""
    now_ms = parts.now_ms() + 1
    end = now_ms if end_ms is None else min(end_ms, now_ms)
    start = max(0, end - DAY_MS) if start_ms is None else start_ms
    if start >= end:
        errors = [FieldError(path="query.start_ms", message="must be before end_ms and before now")]
    elif end - start > RANGE_MAX_MS:
        errors = [FieldError(path="query.start_ms", message="may be at most 366 days before end_ms")]
    else:
        return start, end
    raise ProblemError(422, "invalid", "The range is not valid.", errors=errors)


async def in_query(parts: Parts, read: Callable[[], T]) -> T:
    """What `read` gives in a query thread; 422 when the range holds too much."""

    def tried() -> T | CallerError:
        try:
            return read()
        except CallerError as error:
            return error

    found = await parts.queries.run(tried)
    if isinstance(found, CallerError):
        raise ProblemError(
            422, "invalid", "The range is not valid.", errors=[FieldError(path="query.start_ms", message=str(found))]
        )
    return found


def _read(history: History, site: str, start_ms: int, end_ms: int) -> tuple[int, list[Change], list[Change]]:
    """Position, changes of alarms and of floods."""
    position = history.position()
    changes, floods = (
        [change_of(row) for row in read_rows(history, (kind,), site, max(0, start_ms - LOOKBACK_MS), end_ms)]
        for kind in ("alarm", "flood")
    )
    return position, changes, floods


def _older(alarms: list[Alarm], known: set[str], before_ns: int) -> list[Change]:
    """Alarms that have stood without any change since before what was read."""
    return [
        Change(
            alarm.raised_ns if alarm.state in STANDING else alarm.changed_ns,
            alarm.subject, str(alarm.body.get("area", "")), "", "NORM", alarm.state, alarm.priority,
        )
        for alarm in alarms
        if alarm.changed_ns < before_ns and alarm.subject not in known
    ]  # fmt: skip


def _plain(found: Measures) -> dict[str, Any]:
    """Fields of its view."""
    plain = asdict(found)
    peak_ns = plain.pop("peak_ns")
    plain["peak_ms"] = None if peak_ns is None else peak_ns // NS_PER_MS
    plain["stale"] = [
        {"subject": one.subject, "since_ms": None if one.since_ns is None else one.since_ns // NS_PER_MS} for one in found.stale
    ]
    return plain


@router.get("/sites/{site}/alarms/measures", responses=problem.documented(401, 404, 422, 504))
async def alarm_measures(
    site: str, parts: UseParts, principal: Viewer, start_ms: Millisecond = None, end_ms: Millisecond = None
) -> SiteMeasures:
    """Rates, standing, stale, chattering and frequent alarms, priorities, times to acknowledge, floods; by default of 24 h.

    An alarm that has stood without a change since 7 days before the range is seen while it stands, and not once it has ended.
    """
    del principal
    config = site_config(parts, site)
    start, end = time_range(parts, start_ms, end_ms)
    alarms = [alarm for alarm in parts.state.alarms.values() if alarm.site == site]

    def figures() -> tuple[int, Measures, dict[str, Measures]]:
        position, changes, floods = _read(parts.history, site, start, end)
        before_ns = max(0, start - LOOKBACK_MS) * NS_PER_MS
        older = _older(alarms, {change.subject for change in changes}, before_ns)
        areas = [area.name for area in config.areas]
        return position, *measure([*older, *changes], floods, areas=areas, start_ns=start * NS_PER_MS, end_ns=end * NS_PER_MS)

    position, whole, areas = await in_query(parts, figures)
    return SiteMeasures(
        site=site,
        start_ms=start,
        end_ms=end,
        whole=MeasuresView.model_validate(_plain(whole)),
        areas=[AreaMeasures.model_validate({"area": name} | _plain(found)) for name, found in areas.items()],
        history_position=position,
    )
