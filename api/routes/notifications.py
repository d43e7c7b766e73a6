"""What people were told of alarms, what did not arrive, and tests of the alarm path. Read from notify's own file, which it alone writes."""

from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from api import problem
from api.auth import GuardedRoute, Principal, Requires
from api.parts import RequestId, UseParts
from api.problem import not_found
from api.routes.alarms import Submitted
from api.routes.sites import Viewer
from api.views import View
from people.delivery import Delivery, DeliveryReader, PathTest
from people.notices import TEST_REQUEST
from people.self_test import cause_of

router = APIRouter(tags=["notifications"], route_class=GuardedRoute)
Operator = Annotated[Principal, Depends(Requires("operator"))]
READ_MAX = 2000  # deliveries that are looked through for one answer


class LineView(View):
    """One alarm in a message."""

    alarm: str = Field(examples=["MS-T-HH@nursery/ms-1"])
    site: str = Field(examples=["nursery"])
    area: str = Field(examples=["house-1"])
    priority: str = Field(examples=["P2"])
    change: str = Field(examples=["raise"], description="raise, repeat (P1 that nobody acknowledges), clear, test")
    step: int = Field(examples=[1], description="How many escalation steps were taken")
    raised_ms: int = Field(examples=[1767225600000])
    time_ms: int = Field(examples=[1767225660000])
    text: dict[str, str] = Field(examples=[{"en": "Air is too hot", "zh": "气温过高"}])


class DeliveryView(View):
    """A message on its way to one contact over one channel. Addresses are not shown."""

    number: int = Field(examples=[17])
    message: str = Field(
        examples=["wang/4711/1/1767225600000000000/MS-T-HH@nursery/ms-1/0"], description="Its id, also for receivers"
    )
    contact: str = Field(examples=["wang"])
    channel: str = Field(examples=["mail"])
    state: str = Field(examples=["delivered"], description="waiting, delivered, failed")
    tries: int = Field(examples=[1])
    error: str = Field(examples=[""], description="Of the newest try that failed")
    made_ms: int = Field(examples=[1767225660000])
    due_ms: int = Field(examples=[1767225660000], description="When the next try is due, while it waits")
    done_ms: int | None = Field(examples=[1767225661000], description="Of the newest try")
    lines: list[LineView]
    more: int = Field(examples=[0], description="Alarms that are only counted")


class ChannelView(View):
    """How a channel does."""

    channel: str = Field(examples=["mail"])
    failures: int = Field(examples=[0], description="In a row; at 3 it is dead, which is an alarm over the others")
    changed_ms: int = Field(examples=[1767225661000])
    error: str = Field(examples=[""])


class Notifications(View):
    """Newest first. Channels are shown to principals of all sites only."""

    items: list[DeliveryView]
    channels: list[ChannelView] | None


class TestView(View):
    """A test of the alarm path and what arrived."""

    id: str = Field(examples=["notify.test-1767225600000"])
    planned_ms: int | None = Field(examples=[1767225600000], description="null: a person asked for it")
    asked_ms: int = Field(examples=[1767225600100])
    answered_ms: int | None = Field(examples=[1767225600400], description="When core's answer was read from the journal")
    done_ms: int | None = Field(examples=[1767225601000])
    state: str = Field(examples=["passed"], description="waiting, passed, failed")
    detail: str = Field(examples=["3 of 3 arrived"])
    arrivals: list[DeliveryView]


class TestList(View):
    """Newest first."""

    items: list[TestView]


class TestRequest(BaseModel):
    """`id` makes a repeated call harmless."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"id": "8c1f0a7e2b94"}]})

    id: RequestId | None = None


@router.get("/notifications", responses=problem.documented(401, 404, 422, 503, 504))
async def notifications(
    parts: UseParts,
    principal: Viewer,
    site: str | None = None,
    fate: Literal["waiting", "delivered", "failed"] | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Notifications:
    """Messages of which you may see every site; those of the service itself for principals of all sites only."""
    if site is not None and not (principal.may_see(site) and site in parts.state.plan.sites):
        raise not_found("site")
    reader = _reader(parts.notify)
    if reader is None:
        return Notifications(items=[], channels=None)
    found = await parts.queries.run(lambda: reader.deliveries(state=fate, limit=READ_MAX))
    seen = [item for item in found if _may_see(principal, item) and site in (None, *item.sites)]
    channels = await parts.queries.run(reader.channels) if principal.sites is None else None
    return Notifications(
        items=[_view(item) for item in seen[:limit]],
        channels=None
        if channels is None
        else [ChannelView(channel=c.name, failures=c.failures, changed_ms=c.changed_ms, error=c.error) for c in channels],
    )


@router.get("/notifications/tests", responses=problem.documented(401, 422, 503, 504))
async def list_tests(parts: UseParts, principal: Viewer, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> TestList:
    """Tests of the alarm path; none for principals of some sites only, since the path is that of all."""
    reader = _reader(parts.notify)
    if reader is None or principal.sites is not None:
        return TestList(items=[])

    def read() -> list[tuple[PathTest, list[Delivery]]]:
        return [(test, reader.deliveries(cause=cause_of(test.id), limit=READ_MAX)) for test in reader.tests(limit)]

    found = await parts.queries.run(read)
    return TestList(items=[TestView(**test._asdict(), arrivals=[_view(item) for item in arrived]) for test, arrived in found])


@router.post("/notifications/tests", status_code=202, responses=problem.documented(401, 403, 404, 422, 503))
async def begin_test(parts: UseParts, principal: Operator, asked: TestRequest | None = None) -> Submitted:
    """Test the alarm path now: through core and the journal to every channel that takes part. For principals of all sites."""
    if principal.sites is not None:
        raise not_found("test")
    request, is_new = await parts.desk.put(principal, TEST_REQUEST, {}, (asked or TestRequest()).id)
    return Submitted(request=request, is_new=is_new)


def _reader(file: Path | None) -> DeliveryReader | None:
    return None if file is None else DeliveryReader(file)


def _may_see(principal: Principal, item: Delivery) -> bool:
    return principal.sites is None or all(site and principal.may_see(site) for site in item.sites)


def _view(item: Delivery) -> DeliveryView:
    return DeliveryView(
        number=item.number,
        message=item.cause,
        contact=item.contact,
        channel=item.channel,
        state=item.state,
        tries=item.tries,
        error=item.error,
        made_ms=item.made_ms,
        due_ms=item.due_ms,
        done_ms=item.done_ms,
        lines=[LineView(**line) for line in item.message["lines"]],
        more=item.message["more"],
    )
