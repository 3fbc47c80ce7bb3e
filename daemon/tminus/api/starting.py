"""What is answered while the daemon starts, before there is a database to ask."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from tminus.api.errors import answer
from tminus.api.middleware import HEADERS
from tminus.api.response import Json, Response
from tminus.domain import errors


def make_starting_application(doing: Callable[[], str]) -> ASGIApp:
    """Says at `/readyz` what the daemon is doing, lives at `/healthz`, and refuses everything else for now."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        response: Response
        if scope["path"] == "/healthz":
            response = Json({"status": "ok"})
        elif scope["path"] == "/readyz":
            response = Json({"ready": False, "reasons": [doing()], "notes": []}, status_code=503)
        else:
            response = answer(errors.Starting())
        # A connection that stays would outlive this application.
        response.headers += [*HEADERS, (b"connection", b"close")]
        await response(scope, receive, send)

    return application
