"""The WebSocket of the daemon's own rooms. `tminus.rooms` has the protocol."""

from tminus.api.routing import Router
from tminus.api.websocket import WebSocket, WebSocketClosed
from tminus.rooms import Visitor
from tminus.rooms.protocol import SUBPROTOCOL

router = Router("/v3", "rooms")


@router.websocket("/rooms/{session_id}", subprotocols=(SUBPROTOCOL,), summary="Join a session's room")
async def room(websocket: WebSocket) -> None:
    context = websocket.context
    services, session_id = context.services, context.path_params["session_id"]

    await websocket.accept()
    visitor = Visitor(
        services.rooms,
        websocket,
        WebSocketClosed,
        session_id,
        context.remote_ip,
        context.request_id,
        services.id_guesses,
    )
    try:
        await visitor.serve()
    finally:
        context.actor = visitor.actor
        context.refcode = visitor.refcode
        context.about = visitor.log_fields()
        websocket.close_reason = visitor.close_reason or websocket.close_reason
