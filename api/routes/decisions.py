"""The canonical decision log from history, for whoever compares two runs byte for byte."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from api import problem
from api.auth import GuardedRoute
from api.parts import Parts, UseParts
from api.problem import ProblemError
from api.routes.sites import Viewer
from store.decision_log import read_coverage, read_lines

router = APIRouter(tags=["history"], route_class=GuardedRoute)

MEDIA_TYPE: Final = "application/x-ndjson"
COVERAGE_HEADER: Final = "Fieldloom-Coverage"
TRIES: Final = 20  # of a page while others' queries fill the pool
TRY_AGAIN_S: Final = 0.5
EXAMPLE: Final = '[4711,1,1767225660000000000,40,"alarm","MS-T-HH@nursery/ms-1",{"from":"NORM","to":"UNACK"}]\n'


async def _page(parts: Parts, after: int, last: int) -> tuple[list[bytes], int]:
    """The next lines; patient, since an answer that has begun cannot say 503 any more."""
    for _ in range(TRIES - 1):
        try:
            return await parts.queries.run(lambda: read_lines(parts.history, after, last))
        except ProblemError:
            await asyncio.sleep(TRY_AGAIN_S)
    return await parts.queries.run(lambda: read_lines(parts.history, after, last))


async def _stream(parts: Parts, lines: list[bytes], after: int, last: int) -> AsyncIterator[bytes]:
    while lines:
        yield b"".join(lines)
        lines, after = await _page(parts, after, last)


@router.get(
    "/decisions",
    response_class=StreamingResponse,
    responses={
        200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}, "example": EXAMPLE}}},
        **problem.documented(401, 403, 422, 503, 504),
    },
)
async def decision_log(
    parts: UseParts,
    principal: Viewer,
    after: Annotated[int, Query(ge=-1, le=1 << 62, description="Journal position to go on after")] = -1,
) -> StreamingResponse:
    """Every decision in the history, one line each: [position, phase, time_ns, stage, kind, subject, evidence], in canonical order.

    The bytes are those of the journal's own log. The header Fieldloom-Coverage is {"position", "whole_from", "gaps"}: the last
    position, the first one with whole decisions, and the positions that history never had.
    """
    if principal.sites is not None:
        raise ProblemError(403, "forbidden", "This log covers all sites; you may see some.")
    coverage = await parts.queries.run(lambda: read_coverage(parts.history))
    lines, reached = await parts.queries.run(lambda: read_lines(parts.history, after, coverage.position))
    headers = {COVERAGE_HEADER: msgspec.json.encode(coverage._asdict()).decode()}
    return StreamingResponse(_stream(parts, lines, reached, coverage.position), media_type=MEDIA_TYPE, headers=headers)
