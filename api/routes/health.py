"""Is the process alive, and can it be used? Open to everybody, so it names no site and shows no figure of one."""

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field

from api import problem
from api.parts import UseParts
from api.problem import ProblemError
from api.views import View

router = APIRouter(tags=["health"])
CORE_SILENT_MS = 5_000  # ticks come once a second


class Health(View):
    """The process answers."""

    status: str = Field(examples=["alive"])


class Ready(View):
    """The live state is complete, and the core writes its journal."""

    status: str = Field(examples=["ready"])
    position: Annotated[int, Field(description="Last journal position applied", examples=[4711])]


@router.get("/health")
async def health() -> Health:
    """Alive: 200 as long as the process answers at all."""
    return Health(status="alive")


@router.get("/ready", responses=problem.documented(503))
async def ready(parts: UseParts, response: Response) -> Ready:
    """Ready: 200 when live values, alarms and commands are complete and the core is writing; else 503 with the reason."""
    silent_ms = parts.core_silent_ms()
    reason = ""
    if not parts.lag.live_ready:
        reason = "The journal is still being read."
    elif parts.lag.live_error:
        reason = "The journal cannot be read."
    elif not parts.state.heard_ns:
        reason = "The core has written nothing since this process began."
    elif silent_ms > CORE_SILENT_MS:
        reason = f"The core has written nothing for {silent_ms // 1000} s."
    elif parts.lag.history_error:
        reason = "The history store cannot be written; live values and alarms are not affected."
    if reason:
        raise ProblemError(503, "unavailable", reason, headers={"Retry-After": "2"})
    response.headers["Cache-Control"] = "no-store"
    return Ready(status="ready", position=parts.state.position)
