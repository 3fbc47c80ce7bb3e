"""Find the endpoint of each request and call it."""

from collections.abc import Iterable

from starlette.types import Receive, Scope, Send

from tminus.api.errors import answer
from tminus.api.request_context import RequestContext, context_of
from tminus.api.routing import Answer, Route, Table
from tminus.domain.errors import MethodNotAllowed, RequestError, UnknownPath


class Dispatcher:
    """ASGI application that answers requests by the routes. Exceptions other than `RequestError` propagate."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._table = Table(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self.respond(context_of(scope), scope["path"], scope["method"])
        await response(scope, receive, send)

    async def respond(self, context: RequestContext, path: str, method: str) -> Answer:
        """Return the response to a request, which may be a refusal. `path` and `method` are written as in routes."""
        routes, context.path_params = self._table.find(path)
        route = routes.get(method)
        try:
            if route is not None:
                context.route = route.path
                return await route.respond(context)
            if not routes:
                raise UnknownPath
            context.route = next(iter(routes.values())).path
            raise MethodNotAllowed(method)
        except RequestError as refusal:
            context.refcode = refusal.refcode
            refused = answer(refusal)
            if isinstance(refusal, MethodNotAllowed):
                allowed = sorted({*routes, "HEAD"} if "GET" in routes else routes)
                refused.headers.append((b"allow", ", ".join(allowed).encode()))
            return refused
