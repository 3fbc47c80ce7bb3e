"""What a browser may ask for on behalf of a web page: origins, CORS, and requests of pages of other sites."""

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response as StarletteResponse
from starlette.types import ASGIApp

from tminus.api.errors import answer
from tminus.api.services import Services
from tminus.config import Settings
from tminus.domain import errors
from tminus.domain.errors import FieldError

ALLOWED_HEADERS = (
    "Session-id", "client-app", "User-Agent", "Authorization", "Content-Type", "Idempotency-Key", "If-Match",
    "If-None-Match", "Last-Event-ID", "X-Request-Id",
)  # fmt: skip
"""Every request header that the contract names, and that browsers do not let pages send anyway."""

EXPOSED_HEADERS = ("ETag", "Idempotency-Replayed", "Retry-After", "X-Request-Id", "Allow", "WWW-Authenticate")
"""Every response header that the contract names, and that browsers do not show to pages anyway."""

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")

_DISALLOWED = {
    "origin": FieldError("Origin", "is none of server.cors_origins"),
    "method": FieldError("Access-Control-Request-Method", f"must be one of {', '.join(METHODS)}"),
    "headers": FieldError("Access-Control-Request-Headers", "must be among Access-Control-Allow-Headers"),
    "private-network": FieldError("Access-Control-Request-Private-Network", "is not allowed"),
}
"""What a preflight is refused for, by the framework's word for it."""


class Cors(CORSMiddleware):
    """CORS by the settings in force, not by those of the start, and with refusals in the one shape of errors."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        super().__init__(
            app, allow_methods=METHODS, allow_headers=ALLOWED_HEADERS, expose_headers=EXPOSED_HEADERS, max_age=3600
        )
        self._services = services

    def is_allowed_origin(self, origin: str) -> bool:
        return origin_allowed(origin, self._services.settings)

    def preflight_response(self, request_headers: Headers) -> StarletteResponse:
        told = super().preflight_response(request_headers)
        if told.status_code == 200:
            return told
        causes = bytes(told.body).decode().removeprefix("Disallowed CORS ").split(", ")
        refusal = answer(errors.InvalidRequest([_DISALLOWED[cause] for cause in causes]))
        told.status_code, told.body = refusal.status_code, refusal.body
        told.headers["Content-Length"] = str(len(refusal.body))
        told.headers["Content-Type"] = "application/json"
        return told


def origin_allowed(origin: str, settings: Settings) -> bool:
    """Whether pages of this origin may call the API."""
    allowed = settings.server.cors_origins
    return "*" in allowed or origin in allowed


def is_foreign(method: str, headers: Mapping[bytes, bytes], settings: Settings) -> bool:
    """Whether a page of another site makes the browser ask this, without being allowed to by CORS.

    Such a page cannot read the answer, but its requests come from its visitor's address: if they counted, a page with
    some dozens of images would have its visitors refused as guessers. Somebody who follows a link to here is let in; a
    frame is not, nor a form that is sent here, nor a link that the browser fetches before anybody follows it.
    """
    if headers.get(b"sec-fetch-site") != b"cross-site":
        return False
    if headers.get(b"sec-fetch-mode") == b"navigate":
        followed = headers.get(b"sec-fetch-dest", b"document") == b"document" and b"sec-purpose" not in headers
        return method not in ("GET", "HEAD") or not followed
    if b"origin" not in headers:
        return True
    preflight = method == "OPTIONS" and b"access-control-request-method" in headers
    return not preflight and not origin_allowed(headers[b"origin"].decode("latin-1"), settings)
