"""The live feed's address. What it sends is in `docs/api.md`."""

from fastapi import APIRouter
from starlette.websockets import WebSocket

from api.feed import serve_feed
from api.parts import parts_of

router = APIRouter()


@router.websocket("/feed")
async def feed(socket: WebSocket) -> None:
    """Live values, alarms and commands of the sites the caller may see."""
    parts = parts_of(socket)
    await serve_feed(socket, gate=parts.gate, hub=parts.hub, state=parts.state)
