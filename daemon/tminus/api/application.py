"""The ASGI application: routes, CORS, the rim, and its own description."""

import base64
import hashlib
import re
from itertools import chain
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from tminus import __version__, errors
from tminus.api import (
    routes_callers,
    routes_events,
    routes_lookups,
    routes_operations,
    routes_sessions,
    routes_webhooks,
)
from tminus.api.errors import answer, on_defect, on_http_exception, on_invalid, on_request_error
from tminus.api.links import add_links
from tminus.api.rim import PAGE, Rim
from tminus.api.routing import Shortcut
from tminus.api.services import Services
from tminus.errors import Fault

_ROUTERS = (
    routes_sessions.router, routes_events.router, routes_lookups.router, routes_callers.router, routes_webhooks.router,
    routes_operations.router, routes_lookups.public, routes_callers.public,
)  # fmt: skip

_ASSETS = f"{PAGE}/assets"

_ALLOWED_HEADERS = [
    "Session-id", "client-app", "Authorization", "Content-Type", "Idempotency-Key", "If-Match", "X-Request-Id",
]  # fmt: skip

_SECURITY = {
    "session": {"type": "apiKey", "in": "header", "name": "Session-id"},
    "bearer": {"type": "http", "scheme": "bearer"},
}


_DISALLOWED = {
    "origin": Fault("Origin", "is none of server.cors_origins"),
    "method": Fault("Access-Control-Request-Method", "must be GET, POST, PUT or DELETE"),
    "headers": Fault("Access-Control-Request-Headers", "must be among Access-Control-Allow-Headers"),
    "private-network": Fault("Access-Control-Request-Private-Network", "is not allowed"),
}
"""What a preflight is refused for, by the framework's word for it."""


class _Cors(CORSMiddleware):
    """Asks the settings in force, not those of the start, which origins may call, and refuses in our shape."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        super().__init__(
            app,
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=_ALLOWED_HEADERS,
            expose_headers=["ETag", "Idempotency-Replayed", "Retry-After", "X-Request-Id"],
            max_age=3600,
        )  # fmt: skip
        self._services = services

    def is_allowed_origin(self, origin: str) -> bool:
        allowed = self._services.settings.server.cors_origins
        return "*" in allowed or origin in allowed

    def preflight_response(self, request_headers: Headers) -> Response:
        told = super().preflight_response(request_headers)
        if told.status_code == 200:
            return told
        causes = bytes(told.body).decode().removeprefix("Disallowed CORS ").split(", ")
        refusal = answer(errors.InvalidRequest([_DISALLOWED[cause] for cause in causes]))
        for name, value in told.headers.items():
            refusal.headers.setdefault(name, value)
        return refusal


def make_application(services: Services) -> ASGIApp:
    """The whole of what is served, on every listener alike."""
    api = FastAPI(
        title="tminus",
        version=__version__,
        summary="Remote-support and meeting sessions: scheduled, opened on time, closed.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # another path is no path, and a redirect would trust the Host header
        exception_handlers={
            errors.RequestError: on_request_error,
            RequestValidationError: on_invalid,
            HTTPException: on_http_exception,
            Exception: on_defect,
        },
    )
    for router in _ROUTERS:
        api.include_router(router)
    # The page's scripts come from here: a browser behind a firewall shows it as well.
    api.mount(_ASSETS, StaticFiles(packages=[("fastapi_swagger", "resources")]))

    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="tminus",
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS}/favicon-32x32.png",
    )
    page.headers["Content-Security-Policy"] = _policy(bytes(page.body).decode())

    @api.get(PAGE, include_in_schema=False)
    async def docs() -> Response:
        return page

    def describe() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = _truthful(get_openapi(title=api.title, version=api.version, routes=api.routes))
        return api.openapi_schema

    api.openapi = describe  # type: ignore[method-assign]  # the documented way to change the description
    routes = chain.from_iterable(router.routes for router in _ROUTERS)
    return Rim(Shortcut(_Cors(api, services), routes), services, lambda app: _Cors(app, services))


def _policy(page: str) -> str:
    """What a browser lets the page do: run our scripts and its own, which it names by their hashes, and ask us."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return "; ".join(
        [
            "default-src 'none'",
            " ".join(["script-src 'self'", *(f"'sha256-{one}'" for one in hashes)]),
            "style-src 'self' 'unsafe-inline'",  # Swagger UI writes styles into what it shows
            "img-src 'self' data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


def _truthful(schema: dict[str, Any]) -> dict[str, Any]:
    """The framework's description, without the 422 that we never answer, with our security, and with links."""
    for path in schema["paths"].values():
        for call in path.values():
            call["responses"].pop("422", None)
            if "401" in call["responses"] and "public" not in call["tags"]:
                call["security"] = [{name: []} for name in _SECURITY]
    add_links(schema["paths"])
    components = schema["components"]
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    components["securitySchemes"] = _SECURITY
    return schema
