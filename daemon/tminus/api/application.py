"""The ASGI application: routes, CORS, the rim, and its own description."""

from collections import defaultdict

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from tminus import __version__
from tminus.api import (
    routes_callers,
    routes_events,
    routes_lookups,
    routes_operations,
    routes_sessions,
    routes_webhooks,
)
from tminus.api.browsers import Cors
from tminus.api.description import add_description
from tminus.api.errors import on_defect, on_http_exception, on_invalid, on_request_error
from tminus.api.middleware import Rim
from tminus.api.routing import Shortcut
from tminus.api.services import Services
from tminus.domain import errors

_ROUTERS = (
    routes_sessions.router, routes_events.router, routes_lookups.router, routes_callers.router, routes_webhooks.router,
    routes_operations.router, routes_lookups.public, routes_callers.public,
)  # fmt: skip


def make_application(services: Services) -> ASGIApp:
    """The whole of what is served, on every listener alike."""
    api = FastAPI(
        title="tminus",
        version=__version__,
        summary="Remote-support and meeting sessions: scheduled, opened on time, closed.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
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
    add_description(api, lambda: services.settings.server.public_url)
    routes = [route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    api.state.methods = defaultdict[str, set[str]](set)
    """By path, for the `Allow` of a 405."""
    for route in routes:
        api.state.methods[route.path] |= route.methods
    return Rim(Shortcut(Cors(api, services), routes), services, lambda app: Cors(app, services))
