"""Wrap every WebSocket: assign an id, check its origin, limit the number, and write a log line at its end."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

from starlette.types import Receive, Scope, Send

from tminus import clock
from tminus.api.browsers import origin_allowed
from tminus.api.errors import answer, status_of
from tminus.api.middleware import canonical, check_request, make_context, refuse_cross_site, response_headers
from tminus.api.request_context import RequestContext
from tminus.api.request_log import record, record_websocket
from tminus.api.routing import Table, WebSocketRoute, WebSocketTable
from tminus.api.services import Services
from tminus.api.websocket import WebSocket, WebSocketClosed, refuse_websocket
from tminus.config import Settings
from tminus.domain import errors
from tminus.domain.networks import client_network
from tminus.logs.output import error_fields, log
from tminus.logs.repeated import REPEATED

CLOSE_CODE_OFFSET = 4000
"""The close code of an error after the WebSocket was accepted is this number plus the error's HTTP status."""

_PORTS = {"http": 80, "https": 443}

_ORIGIN = re.compile(r"https?://[^/?#@\\\s,]+", re.IGNORECASE)
"""An origin as browsers send it, without path, query or user. Parsers disagree on where the host ends in other text."""


class WebSockets:
    """ASGI application for WebSockets. It calls the endpoint of the path.

    Parameters
    ----------
    websockets
        The WebSocket routes.
    routes
        The routes of requests, whose paths are no WebSockets.
    services
        The services of the daemon.
    """

    def __init__(self, websockets: WebSocketTable, routes: Table, services: Services) -> None:
        self._websockets = websockets
        self._routes = routes
        self._services = services
        self._by_address: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = clock.monotonic()
        scope = {**scope, "method": "GET", "path": canonical(scope["path"])}
        context = make_context(self._services, scope, "GET")
        await receive()  # `websocket.connect`
        websocket = WebSocket(context, receive, send)
        try:
            check_request(context, begun)
            _check_origin(context)
            route = self._route(context)
            websocket.subprotocol = _subprotocol(route, scope["subprotocols"])
            with self._counted(context):
                await route.endpoint(websocket)
                assert websocket.accepted, "the endpoint neither accepted nor refused the WebSocket"
        except WebSocketClosed:
            pass
        except errors.RequestError as refusal:
            await _refuse(websocket, refusal, send)
        except asyncio.CancelledError:
            # The drain time is over.
            await _refuse(websocket, errors.Draining(), send)
        except Exception as defect:
            log(
                "http.failed",
                method="GET",
                route=context.route,
                request_id=context.request_id,
                **error_fields(defect),
            )
            await _refuse(websocket, errors.InternalError(context.request_id), send)
        finally:
            seconds = clock.monotonic() - begun
            if websocket.accepted:
                await websocket.close()
                record_websocket(context, websocket, seconds)
            else:
                context.code = context.code or 499
                record(context, "GET", seconds)

    def _route(self, context: RequestContext) -> WebSocketRoute:
        """Return the route of the path. Raises `RequestError`."""
        path = context.scope["path"]
        found = self._websockets.find(path)
        if found is None:
            if not (routes := self._routes.find(path)[0]):
                raise errors.UnknownPath
            context.route = next(iter(routes.values())).path
            raise errors.InvalidRequest([errors.FieldError("Upgrade", "must be absent: this path is no WebSocket")])
        route, context.path_params = found
        context.route = route.path
        return route

    @contextmanager
    def _counted(self, context: RequestContext) -> Iterator[None]:
        """Count a WebSocket for its address and for the metrics during the `with` block. Raises `TooManyWebSockets`."""
        most = self._services.settings.limits.websockets_per_address
        network = client_network(context.remote_ip)
        own = self._by_address.get(network, 0)
        if most and own >= most and not context.local:
            context.logged = True
            REPEATED.log("websocket.crowded", context.remote_ip, remote_ip=context.remote_ip, limit=most)
            raise errors.TooManyWebSockets(most)
        self._by_address[network] = own + 1
        opened = self._services.metrics.websockets.labels(context.route)
        opened.inc()
        try:
            yield
        finally:
            opened.dec()
            self._by_address[network] -= 1
            if not self._by_address[network]:
                del self._by_address[network]


async def _refuse(websocket: WebSocket, refusal: errors.RequestError, send: Send) -> None:
    """Refuse a WebSocket: with an HTTP response, or, once it is accepted, with a close code."""
    context = websocket.context
    context.refuse(refusal)
    response = answer(refusal)
    if websocket.accepted:
        await websocket.close(_close_code(refusal), refusal.description)
    elif not context.code:
        context.code = response.status_code
        response.headers += response_headers(context)
        await refuse_websocket(response, send)


def _close_code(refusal: errors.RequestError) -> int:
    if isinstance(refusal, errors.Draining):
        return 1012  # service restart
    if isinstance(refusal, errors.InternalError):
        return 1011
    return CLOSE_CODE_OFFSET + status_of(type(refusal))


def _subprotocol(route: WebSocketRoute, offered: Sequence[str]) -> str | None:
    """Return the first of the route's subprotocols that the client offers; None if the route needs none."""
    for known in route.subprotocols:
        if known in offered:
            return known
    if not route.subprotocols:
        return None
    needed = " or ".join(route.subprotocols)
    raise errors.InvalidRequest([errors.FieldError("Sec-WebSocket-Protocol", f"must contain {needed}")])


def _check_origin(context: RequestContext) -> None:
    """Refuse the WebSocket of a page of another site. Browsers do not limit WebSockets to the page's own origin.

    Clients that are no browsers send no `Origin`.
    """
    origin = context.header(b"origin")
    settings = context.services.settings
    if origin and not origin_allowed(origin, settings) and not _is_own(origin, context.header(b"host"), settings):
        refuse_cross_site(context)


def _is_own(origin: str, host: str, settings: Settings) -> bool:
    """Return whether an origin is that of the daemon: the host of the request, or that of one of its public URLs.

    The public URLs count because a proxy may pass on the host without its port.
    """
    urls = settings.server.urls()
    if _ORIGIN.fullmatch(origin) is None:
        return False
    try:
        own = _location(origin)
        scheme = own[0]
        return scheme in _PORTS and (
            own[1:] == _location(f"{scheme}://{host}")[1:]
            or any(own == _location(url) for url in (urls.public, urls.user, urls.host))
        )
    except ValueError:
        return False


def _location(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of a URL. Raises `ValueError`."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError("no host")
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
