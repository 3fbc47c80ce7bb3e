"""Decide which requests of web pages are allowed: CORS, and requests from pages of other sites."""

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
    "If-None-Match", "Last-Event-ID", "X-Request-Id", "mobile-api-key",
)  # fmt: skip
"""All request headers of the API that need permission by CORS."""

EXPOSED_HEADERS = ("ETag", "Idempotency-Replayed", "Retry-After", "X-Request-Id", "Allow", "WWW-Authenticate")
"""All response headers of the API that pages may read only with permission by CORS."""

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")

_DISALLOWED = {
    "origin": FieldError("Origin", "is not in server.cors_origins"),
    "method": FieldError("Access-Control-Request-Method", f"must be one of {', '.join(METHODS)}"),
    "headers": FieldError("Access-Control-Request-Headers", "must be among Access-Control-Allow-Headers"),
    "private-network": FieldError("Access-Control-Request-Private-Network", "is not allowed"),
}
"""Errors of refused preflight requests, by Starlette's names of the causes."""


class Cors(CORSMiddleware):
    """Apply CORS with the current settings, which a reload may change, and refuse with the API's error format."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        super().__init__(
            app, allow_methods=METHODS, allow_headers=ALLOWED_HEADERS, expose_headers=EXPOSED_HEADERS, max_age=3600
        )
        self._services = services

    def is_allowed_origin(self, origin: str) -> bool:
        return origin_allowed(origin, self._services.settings)

    def preflight_response(self, request_headers: Headers) -> StarletteResponse:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        causes = bytes(response.body).decode().removeprefix("Disallowed CORS ").split(", ")
        refusal = answer(errors.InvalidRequest([_DISALLOWED[cause] for cause in causes]))
        response.status_code, response.body = refusal.status_code, refusal.body
        response.headers["Content-Length"] = str(len(refusal.body))
        response.headers["Content-Type"] = "application/json"
        return response


def origin_allowed(origin: str, settings: Settings) -> bool:
    """Return whether pages of this origin may call the API."""
    allowed = settings.server.cors_origins
    return "*" in allowed or origin in allowed


def is_foreign(method: str, headers: Mapping[bytes, bytes], settings: Settings) -> bool:
    """Return whether a page of another site caused this request without permission by CORS.

    Such a page cannot read the response, but its requests come from its visitor's address. If they counted as attempts,
    a page with some dozens of images could use up the rate limit of its visitors. A link that a person follows is
    allowed; frames, forms and prefetched links are not.
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
