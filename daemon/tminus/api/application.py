"""Assemble the ASGI application: routes, their description, dispatcher and middleware."""

from collections.abc import Awaitable, Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from tminus.api import (
    routes_agents,
    routes_batches,
    routes_calendars,
    routes_callers,
    routes_clock,
    routes_events,
    routes_joining,
    routes_lookups,
    routes_operations,
    routes_reports,
    routes_rooms,
    routes_series,
    routes_sessions,
    routes_webhooks,
)
from tminus.api.description import description_routes
from tminus.api.dispatch import Dispatcher
from tminus.api.middleware import Middleware
from tminus.api.routes_pages import missing_page, page_routes
from tminus.api.routes_signin import signin_routes
from tminus.api.routing import Router, Table, WebSocketTable
from tminus.api.services import Services
from tminus.api.websocket_middleware import WebSockets

_ROUTERS = (
    routes_sessions.router, routes_events.router, routes_lookups.router, routes_callers.router, routes_agents.router,
    routes_calendars.router, routes_calendars.public, routes_webhooks.router, routes_clock.router,
    routes_reports.router, routes_operations.router, routes_rooms.router, routes_joining.public,
    routes_joining.below_api, routes_callers.public, routes_batches.router, routes_series.router,
)  # fmt: skip


def make_application(services: Services, routers: Sequence[Router] = _ROUTERS) -> ASGIApp:
    """Return the application that all listeners serve."""
    routes = [route for router in routers for route in router.routes]
    described = description_routes(routes, lambda: services.settings.server.public_url)
    served = Table([*routes, *signin_routes(), *described, *page_routes()])
    websocket_routes = WebSocketTable(route for router in routers for route in router.websockets)
    requests = Middleware(Dispatcher(served, websocket_routes, missing_page), services)
    websockets = WebSockets(websocket_routes, served, services)

    def application(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return (websockets if scope["type"] == "websocket" else requests)(scope, receive, send)

    return application
