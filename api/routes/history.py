"""History of a point, in at most as many points as asked for, with every extreme and every gap kept."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import Field

from api import problem
from api.auth import GuardedRoute
from api.parts import Parts, UseParts
from api.problem import FieldError, ProblemError, not_found
from api.routes.sites import Viewer, site_config
from api.views import View, finite
from store.history import Buckets, History, SampleRows, Series
from telemetry import quality as quality_bits

router = APIRouter(tags=["history"], route_class=GuardedRoute)

POINTS_MAX: Final = 5_000
TIME_MAX_MS: Final = 9_223_372_036_854  # year 2262: no later sample exists, times are int64 ns in the journal
GAP_HEARTBEATS: Final = 3


class RawRow(View):
    """One stored sample."""

    t_ms: int = Field(examples=[1767225660000])
    value: float | None = Field(examples=[24.3])
    quality: str = Field(examples=["GOOD"])
    reasons: list[str] = Field(examples=[[]])


class BucketRow(View):
    """All samples of one stretch of time. Numbers are null when none of them was a number."""

    t_ms: int = Field(examples=[1767225600000], description="Start of the stretch")
    min: float | None = Field(examples=[23.9])
    max: float | None = Field(examples=[24.8])
    mean: float | None = Field(examples=[24.3])
    first: float | None = Field(examples=[24.0])
    last: float | None = Field(examples=[24.6])
    count: int = Field(examples=[60])
    bad: int = Field(examples=[0], description="Samples of BAD quality or without a number")


class HistoryView(View):
    """Either `samples` (all of them fit) or `buckets`; the other is null. Gaps are [from, to] in ms without any sample."""

    site: str = Field(examples=["nursery"])
    device: str = Field(examples=["ms-1"])
    point: str = Field(examples=["air_temp_c"])
    unit: str = Field(examples=["°C"])
    start_ms: int = Field(examples=[1767222000000])
    end_ms: int = Field(examples=[1767225600000])
    samples: list[RawRow] | None
    buckets: list[BucketRow] | None
    bucket_ms: int | None = Field(examples=[7200])
    gaps: list[tuple[int, int]] = Field(examples=[[[1767222100000, 1767222400000]]])
    history_position: int = Field(examples=[4711], description="Journal position up to which the history is complete")


def _find_series(parts: Parts, site: str, device: str, point: str) -> tuple[Series, float]:
    """The series and its heartbeat in s; also derived ones (`spindle.mean`). Members show as their mean."""
    base = point.partition(".")[0]
    owner_number = parts.state.plan.device_number.get(f"{site}/{device}")
    if owner_number is not None:
        owner = parts.state.plan.devices[owner_number]
        for spec, number in zip(owner.profile.points, owner.points, strict=True):
            if spec.name == base:
                if spec.members is not None and point == base:
                    return Series(-1, site, device, f"{point}.mean", spec.unit), spec.beat_s
                return Series(number if point == base else -1, site, device, point, spec.unit), spec.beat_s
    raise not_found("point")


def _series_number(history: History, wanted: Series) -> int:
    """The number of a derived series; -1 when history has none."""
    found = (s.number for s in history.series() if (s.site, s.device, s.point) == (wanted.site, wanted.device, wanted.point))
    return next(found, -1)


def _range(parts: Parts, start_ms: int | None, end_ms: int | None) -> tuple[int, int]:
    end = parts.now_ms() + 1 if end_ms is None else end_ms
    start = end - 3_600_000 if start_ms is None else start_ms
    if start >= end:
        errors = [FieldError(path="query.start_ms", message="must be before end_ms")]
        raise ProblemError(422, "invalid", "The range is not valid.", errors=errors)
    return start, end


def _query(history: History, wanted: Series, start_ms: int, end_ms: int, points: int) -> tuple[SampleRows | Buckets, int]:
    """Raw samples when they fit into `points`, else buckets; with the position the history stood at before. For a query thread."""
    position = history.position()
    number = wanted.number if wanted.number >= 0 else _series_number(history, wanted)
    rows = history.read(max(number, 0), start_ms, end_ms, limit=points + 1)
    if len(rows) <= points or number < 0:
        return (rows if number >= 0 else rows.take(rows.point < 0)), position
    return history.downsample(number, start_ms, end_ms, points), position


def _gaps(times: list[int], width_ms: int, limit_ms: float, start_ms: int, end_ms: int) -> list[tuple[int, int]]:
    """Stretches longer than `limit_ms` without a sample, at both ends too. A sample or bucket at t covers [t, t + width)."""
    edges = [start_ms, *(t + width_ms for t in times)]
    following = [*times, end_ms]
    return [(a, b) for a, b in zip(edges, following, strict=True) if b - a > limit_ms]


def _raw_rows(rows: SampleRows) -> list[RawRow]:
    columns = zip(rows.ts_ms.tolist(), rows.value.tolist(), rows.quality.tolist(), strict=True)
    return [
        RawRow(t_ms=t, value=finite(v), quality=quality_bits.level(int(q)), reasons=quality_bits.reasons(int(q)))
        for t, v, q in columns
    ]


def _bucket_rows(buckets: Buckets) -> list[BucketRow]:
    names = ("t_ms", "min", "max", "mean", "first", "last", "count", "bad")
    columns = zip(*(getattr(buckets, name).tolist() for name in names), strict=True)
    rows: list[dict[str, Any]] = [dict(zip(names, row, strict=True)) for row in columns]
    return [BucketRow.model_validate({k: finite(v) if isinstance(v, float) else v for k, v in row.items()}) for row in rows]


@router.get("/sites/{site}/devices/{device}/points/{point}/history", responses=problem.documented(401, 404, 422, 503, 504))
async def history(
    site: str,
    device: str,
    point: str,
    parts: UseParts,
    principal: Viewer,
    start_ms: Annotated[int | None, Query(ge=0, le=TIME_MAX_MS, description="Default: an hour before the end")] = None,
    end_ms: Annotated[int | None, Query(ge=0, le=TIME_MAX_MS, description="Exclusive; default: now")] = None,
    points: Annotated[int, Query(ge=1, le=POINTS_MAX)] = 500,
) -> HistoryView:
    """Samples of [start_ms, end_ms), or their minima, maxima, means, first and last in at most `points` stretches."""
    del principal
    site_config(parts, site)
    wanted, heartbeat_s = _find_series(parts, site, device, point)
    start, end = _range(parts, start_ms, end_ms)
    found, position = await parts.queries.run(lambda: _query(parts.history, wanted, start, end, points))
    gap_ms = GAP_HEARTBEATS * heartbeat_s * 1000
    is_raw = isinstance(found, SampleRows)
    width_ms = 0 if isinstance(found, SampleRows) else found.width_ms
    times = (found.ts_ms if isinstance(found, SampleRows) else found.t_ms).tolist()
    return HistoryView(
        site=site,
        device=device,
        point=point,
        unit=wanted.unit,
        start_ms=start,
        end_ms=end,
        samples=_raw_rows(found) if isinstance(found, SampleRows) else None,
        buckets=None if isinstance(found, SampleRows) else _bucket_rows(found),
        bucket_ms=None if is_raw else width_ms,
        gaps=_gaps(times, width_ms, gap_ms, start, end),
        history_position=position,
    )
