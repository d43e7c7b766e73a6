"""What is alike in all that reads the past for somebody: begun beside the service, looked at, ended."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path

from api import problem
from api.auth import Principal, Requires
from api.orders import Orders, OrderState
from api.parts import Parts, UseParts
from api.problem import ProblemError, not_found
from api.routes.sites import Viewer, site_config
from api.views import View
from telemetry.errors import CallerError

Engineer = Annotated[Principal, Depends(Requires("engineer"))]
T = TypeVar("T")
V = TypeVar("V", bound=View)


def present(desk: T | None, missing: str) -> T:
    """A desk; 503 where the service has none."""
    if desk is None:
        raise ProblemError(503, "unavailable", missing)
    return desk


def viewed(state: OrderState | None, view: type[V], noun: str) -> V:
    """How far an order is, as it is sent; 404 without one."""
    if state is None:
        raise not_found(noun)
    return view(**{name: getattr(state, name) for name in view.model_fields})


async def begun(parts: Parts, start: Callable[[], OrderState | None], busy: str) -> OrderState:
    """The order that `start` begins, in a query thread; 422 when it cannot be carried out, 503 while another runs."""
    try:
        state = await parts.queries.run(start)
    except CallerError as error:
        raise ProblemError(422, "invalid-request", str(error)) from error
    if state is None:
        raise ProblemError(503, "unavailable", busy, headers={"Retry-After": "30"})
    return state


def watch(router: APIRouter, noun: str, view: type[View], desk: Callable[[Parts], Orders[OrderState]], *, ended: str) -> None:
    """Routes that tell how far an order is and that end it; `ended`: what ending does."""
    path, Order = f"/sites/{{site}}/{noun}s/{{{noun}}}", Annotated[str, Path(alias=noun)]  # noqa: N806

    async def state(site: str, order: Order, parts: UseParts, principal: Viewer) -> Any:  # type: ignore[valid-type]
        del principal
        site_config(parts, site)
        return viewed(desk(parts).state(site, order), view, noun)

    async def cancel(site: str, order: Order, parts: UseParts, principal: Engineer) -> Any:  # type: ignore[valid-type]
        del principal
        site_config(parts, site)
        return viewed(desk(parts).cancel(site, order), view, noun)

    router.add_api_route(
        path, state, response_model=view, name=f"{noun}_state", description="How far it is.", responses=problem.documented(401, 404)
    )
    router.add_api_route(
        path, cancel, methods=["DELETE"], response_model=view, name=f"cancel_{noun}", description=ended,
        responses=problem.documented(401, 403, 404),
    )  # fmt: skip
