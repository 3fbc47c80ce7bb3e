"""Find the endpoint of each request and call it."""

from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from tminus.api.errors import answer
from tminus.api.request_context import RequestContext, context_of
from tminus.api.routing import Answer, Table, WebSocketTable
from tminus.domain.errors import (
    FieldError,
    InvalidRequest,
    MethodNotAllowed,
    RequestError,
    UnknownPath,
    UpgradeRequired,
)
from tminus.logs.repeated import REPEATED


class Dispatcher:
    """ASGI application that answers requests by the routes. Exceptions other than `RequestError` propagate.

    `missing_page` returns the response to a GET request for an unknown path; None: the API's error in JSON.
    """

    def __init__(
        self,
        routes: Table,
        websockets: WebSocketTable,
        missing_page: Callable[[RequestContext], Answer | None] = lambda _: None,
    ) -> None:
        self._table = routes
        self._websockets = websockets
        self._missing_page = missing_page

    def route_of(self, path: str) -> str | None:
        """Return the template of a path; None for an unknown path."""
        routes, _ = self._table.find(path)
        return next((route.path for route in routes.values()), None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.respond(context_of(scope), scope["path"], scope["method"])
        await response(scope, receive, send)

    async def respond(self, context: RequestContext, path: str, method: str) -> Answer:
        """Return the response to a request, which may be a refusal. `path` is canonical; `method` is GET for HEAD."""
        routes, context.path_params = self._table.find(path)
        route = routes.get(method)
        try:
            if route is not None:
                context.route = route.path
                return await route.respond(context)
            if not routes:
                raise self._refusal_without_route(context, path, method)
            context.route = next(iter(routes.values())).path
            raise MethodNotAllowed(method)
        except RequestError as refusal:
            context.refuse(refusal)
            if not routes and method == "GET" and (page := self._missing_page(context)) is not None:
                return page
            refused = answer(refusal)
            if isinstance(refusal, MethodNotAllowed):
                supported = {*routes, "HEAD"} if "GET" in routes else {*routes}
                allowed = sorted(supported - {refusal.method}) or ["GET"]
                refused.headers.append((b"allow", ", ".join(allowed).encode()))
            if isinstance(refusal, UpgradeRequired):
                refused.headers.append((b"sec-websocket-version", b"13"))
                if b"upgrade" in context.headers:
                    # RFC 9110 requires `Upgrade` in every 426. But nginx would pass it on over HTTP/2, where it is an
                    # error. So only clients that sent `Upgrade`, which HTTP/2 does not have, get it.
                    refused.headers.append((b"upgrade", b"websocket"))
            return refused

    def _refusal_without_route(self, context: RequestContext, path: str, method: str) -> RequestError:
        """Return the refusal of a request for a path without routes; the path may be a WebSocket's."""
        found = self._websockets.find(path)
        if found is None:
            return UnknownPath()
        context.route = found[0].path
        if method != "GET":
            return MethodNotAllowed(method)
        refusal = _refusal_of_upgrade(context)
        context.logged = True
        REPEATED.log(
            "websocket.no_upgrade",
            context.remote_ip,
            route=context.route,
            error=refusal.problem if isinstance(refusal, UpgradeRequired) else refusal.description,
            remote_ip=context.remote_ip,
            request_id=context.request_id,
        )
        return refusal


def _refusal_of_upgrade(context: RequestContext) -> RequestError:
    """Return the refusal of a request for a WebSocket's path that is no valid upgrade."""
    if context.scope["http_version"] != "1.1":
        return UpgradeRequired("it needs HTTP/1.1")
    if "websocket" not in context.header(b"upgrade").lower() or "upgrade" not in context.header(b"connection").lower():
        return UpgradeRequired("it needs the headers Connection: Upgrade and Upgrade: websocket")
    if context.header(b"sec-websocket-version") != "13":
        return UpgradeRequired("Sec-WebSocket-Version must be 13")
    if b"transfer-encoding" in context.headers or context.headers.get(b"content-length", b"0").strip(b"0"):
        return InvalidRequest([FieldError("body", "must be absent from an upgrade to a WebSocket")])
    return InvalidRequest([FieldError("Sec-WebSocket-Key", "must be present once, and contain 16 bytes in base64")])
