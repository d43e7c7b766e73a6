"""Backtests of a site: ordered, watched, cancelled, and their reports. They change nothing and send nothing."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from api import problem
from api.auth import GuardedRoute
from api.order_routes import Engineer, begun, present, viewed, watch
from api.orders import BacktestAsked, Backtests, LabelAsked
from api.parts import Parts, UseParts
from api.problem import not_found
from api.routes.sites import Viewer, site_config
from api.views import View
from telemetry.site import RuleSpec

router = APIRouter(tags=["backtests"], route_class=GuardedRoute)
TIME_MAX = 4_102_444_800_000  # the year 2100
TimeMs = Annotated[int, Field(ge=0, le=TIME_MAX)]
Word = Annotated[str, Field(pattern=r"^(site|[0-9a-f]{6,64})$")]
Rules = Annotated[list[RuleSpec], Field(min_length=1, max_length=2_000)]


class LabelBody(BaseModel):
    """An event that somebody labelled."""

    model_config = ConfigDict(extra="forbid")

    from_ms: TimeMs = Field(examples=[1767225600000])
    to_ms: TimeMs = Field(examples=[1767229200000])
    label: str = Field(default="", max_length=200, examples=["fan failed"])
    rule: str = Field(default="", max_length=64, examples=["MS-T-HH"])
    device: str = Field(default="", max_length=64, examples=["ms-1"])


class BacktestBody(BaseModel):
    """What to run. Rules are the ones given and no others; "site" stands for the site's own, a hash for those of that version."""

    model_config = ConfigDict(extra="forbid")

    rules: Rules | Word = Field(default="site", examples=["site"])
    against: Rules | Word | None = Field(default=None, examples=["9f86d081"])
    start_ms: TimeMs = Field(examples=[1767225600000])
    end_ms: TimeMs = Field(examples=[1769904000000])
    labels: list[LabelBody] = Field(default=[], max_length=10_000, examples=[[]])
    people: bool = Field(default=True, description="With the modes, batches and overrides that people set", examples=[True])


class BacktestView(View):
    """How far a backtest is."""

    id: str = Field(examples=["4f1c2a7b9d3e"])
    author: str = Field(examples=["wang"])
    state: str = Field(examples=["running"], description="running, done, cancelled, failed")
    start_ms: int = Field(examples=[1767225600000])
    end_ms: int = Field(examples=[1769904000000])
    reached_ms: int = Field(examples=[1768000000000], description="Up to where it is decided")
    samples: int = Field(examples=[12000000])
    problem: str = Field(examples=[""])


def _desk(parts: Parts) -> Backtests:
    return present(parts.backtests, "This service runs no backtests.")


@router.post("/sites/{site}/backtests", status_code=202, responses=problem.documented(401, 403, 404, 422, 504))
async def start_backtest(site: str, body: BacktestBody, parts: UseParts, principal: Engineer) -> BacktestView:
    """Begin one, beside the service and at low priority. 503 while too many run."""
    site_config(parts, site)
    desk, labels = _desk(parts), tuple(LabelAsked(**label.model_dump()) for label in body.labels)
    asked = BacktestAsked(body.rules, body.against, body.start_ms, body.end_ms, labels, body.people)
    start = partial(desk.start, site, principal.person, asked)
    state = await begun(parts, start, "Too many backtests run. Wait for one, or cancel it.")
    return viewed(state, BacktestView, "backtest")


watch(router, "backtest", BacktestView, _desk, ended="End it; what is done so far stays as its report.")
REPORT: dict[str, Any] = {
    "type": "object",
    "description": "As `fieldloom backtest --json` writes it (docs/backtest.md)",
    "properties": {"rules": {"type": "array", "items": {"type": "object"}, "examples": [[]]}},
    "required": ["rules"],
}


@router.get(
    "/sites/{site}/backtests/{backtest}/report",
    responses={200: {"content": {"application/json": {"schema": REPORT}}}, **problem.documented(401, 404, 504)},
    response_class=Response,
)
async def backtest_report(site: str, backtest: str, parts: UseParts, principal: Viewer) -> Response:
    """What it found; of a cancelled one what was done so far. 404 while it runs."""
    del principal
    site_config(parts, site)
    desk = _desk(parts)
    found = await parts.queries.run(lambda: desk.report(site, backtest))
    if found is None:
        raise not_found("report")
    return Response(found, media_type="application/json")
