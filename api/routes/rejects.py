"""What was received and not stored, with its reason and the bytes themselves, shown inert."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from api import problem
from api.auth import GuardedRoute
from api.parts import UseParts
from api.problem import not_found
from api.routes.sites import Viewer
from api.views import RejectView, View, reject_view

router = APIRouter(tags=["rejects"], route_class=GuardedRoute)


class RejectList(View):
    """Newest first; the newest 1,000 of the whole service are kept here. Counts are cumulative, for principals of all sites."""

    items: list[RejectView]
    counts: dict[str, int] | None = Field(examples=[{"malformed": 3}])


@router.get("/rejects", responses=problem.documented(401, 404, 422))
async def rejects(
    parts: UseParts,
    principal: Viewer,
    site: str | None = None,
    reason: str | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> RejectList:
    """Rejects of the sites you may see; those of no site only for principals of all sites."""
    if site is not None and not (principal.may_see(site) and site in parts.state.plan.sites):
        raise not_found("site")
    found = []
    for reject in reversed(parts.state.rejects):
        if principal.may_see(reject.site) and site in (None, reject.site) and reason in (None, reject.reason):
            found.append(reject_view(reject))
        if len(found) >= limit:
            break
    counts = parts.state.accounting.rejected_by_reason if principal.sites is None else None
    return RejectList(items=found, counts=counts)
