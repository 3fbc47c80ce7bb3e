"""Assemble the ASGI application: routes, their description, dispatcher and middleware."""

from starlette.types import ASGIApp

from tminus.api import (
    routes_callers,
    routes_events,
    routes_lookups,
    routes_operations,
    routes_sessions,
    routes_webhooks,
)
from tminus.api.description import description_routes
from tminus.api.dispatch import Dispatcher
from tminus.api.middleware import Middleware
from tminus.api.routes_signin import signin_routes
from tminus.api.services import Services

_ROUTERS = (
    routes_sessions.router, routes_events.router, routes_lookups.router, routes_callers.router, routes_webhooks.router,
    routes_operations.router, routes_lookups.public, routes_callers.public,
)  # fmt: skip


def make_application(services: Services) -> ASGIApp:
    """Return the application that all listeners serve."""
    routes = [route for router in _ROUTERS for route in router.routes]
    served = [*routes, *signin_routes(), *description_routes(routes, lambda: services.settings.server.public_url)]
    return Middleware(Dispatcher(served), services)
