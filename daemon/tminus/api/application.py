"""The ASGI application: routes, CORS, middleware, and its own description."""

from starlette.types import ASGIApp, Receive, Scope, Send

from tminus.api import (
    routes_callers,
    routes_events,
    routes_lookups,
    routes_operations,
    routes_sessions,
    routes_webhooks,
)
from tminus.api.browsers import Cors
from tminus.api.description import description_routes
from tminus.api.dispatch import Dispatcher
from tminus.api.middleware import DESCRIPTION, PAGE, Middleware
from tminus.api.request_context import context_of
from tminus.api.services import Services

_ROUTERS = (
    routes_sessions.router, routes_events.router, routes_lookups.router, routes_callers.router, routes_webhooks.router,
    routes_operations.router, routes_lookups.public, routes_callers.public,
)  # fmt: skip


def make_application(services: Services) -> ASGIApp:
    """Return all that is served, on every listener alike."""
    routes = [route for router in _ROUTERS for route in router.routes]
    served = [*routes, *description_routes(routes, lambda: services.settings.server.public_url)]
    dispatcher = Dispatcher(served)
    cors = Cors(dispatcher, services)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        # Only pages in browsers send an origin, and only their requests need CORS. What a cache may keep says that it
        # depends on the origin, also to those who sent none.
        needed = b"origin" in context_of(scope).headers or scope["path"].startswith((PAGE, DESCRIPTION))
        chosen = cors if needed else dispatcher
        await chosen(scope, receive, send)

    return Middleware(application, services, lambda app: Cors(app, services))
