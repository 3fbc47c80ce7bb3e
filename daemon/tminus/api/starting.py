"""Answer requests during the start, before the database is open."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from tminus.api.errors import answer
from tminus.api.middleware import HEADERS
from tminus.api.response import Json, Response
from tminus.api.websocket import refuse_websocket
from tminus.domain import errors


def make_starting_application(doing: Callable[[], str]) -> ASGIApp:
    """Return an application that reports the step of the start at `/readyz`, and 200 at `/healthz`.

    It refuses all other requests with `Starting`.
    """

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        response: Response
        if scope["path"] == "/healthz":
            response = Json({"status": "ok"})
        elif scope["path"] == "/readyz":
            response = Json({"ready": False, "reasons": [doing()], "notes": []}, status_code=503)
        else:
            response = answer(errors.Starting())
        # Close the connection: the next request must reach the application that replaces this one.
        response.headers += [*HEADERS, (b"connection", b"close")]
        if scope["type"] == "websocket":
            await refuse_websocket(response, send)
        else:
            await response(scope, receive, send)

    return application
