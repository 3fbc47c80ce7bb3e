"""From a request to an endpoint and back: JSON taken to the letter, all faults told at once, and no detours."""

import inspect
import re
from collections.abc import Callable, Coroutine, Iterable
from itertools import islice
from typing import Any

from fastapi._compat import ModelField
from fastapi.routing import APIRoute
from starlette.convertors import StringConvertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from tminus.api import bodies
from tminus.api.errors import invalid, on_request_error
from tminus.api.request_context import RequestContext, context_of
from tminus.domain.errors import MAX_FIELD_ERRORS, RequestError

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class StrictRoute(APIRoute):
    """A route whose endpoint takes at most a caller, parts of the path, headers and a JSON body; no query.

    It is declared, described and checked as FastAPI has it, and served by a `Shortcut`.
    """

    direct: Handler | None = None
    """Asks the endpoint; None where FastAPI has to. Raises `RequestError`."""

    def get_route_handler(self) -> Handler:
        endpoint, wanted = self.endpoint, self.dependant
        if wanted.query_params or not inspect.iscoroutinefunction(endpoint):
            assert not wanted.body_params, "FastAPI reads JSON less strictly"
            return super().get_route_handler()
        dependencies = [(dependency.name or "", dependency.call) for dependency in wanted.dependencies]
        path = [(field, field.alias) for field in wanted.path_params]
        headers = [(field, field.alias.lower().encode()) for field in wanted.header_params]
        left_out = {field.name: field.get_default() for field, _ in headers}
        body = wanted.body_params[0] if wanted.body_params else None

        async def direct(request: Request) -> Response:
            context = context_of(request)
            arguments: dict[str, Any] = {"request": request, **left_out}
            for name, call in dependencies:
                arguments[name] = await call(request)  # type: ignore[misc]  # ours: they take the request, no more
            faults = []
            for field, name in path:
                arguments[field.name], found = field.validate(request.path_params[name], loc=("path", name))
                faults += found
            for field, header in headers:
                if header in context.headers:
                    arguments[field.name], found = field.validate(context.header(header), loc=("header", field.alias))
                    faults += found
            if body is not None:
                arguments[body.name], found = _validated(body, context)
                faults += found
            if faults:
                raise invalid(faults)
            answering = endpoint(**arguments)
            del arguments  # or what a body becomes, twenty times its size, would be held until all is written
            answer: Response = await answering
            return answer

        self.direct = direct
        return direct


class Shortcut:
    """ASGI: serves the strict routes by itself, and leaves everything else, and what pages in browsers ask, to FastAPI
    with CORS around it.

    FastAPI's own way to an endpoint is made for every case there is; it took a third of the event loop's time for a new
    session.
    """

    def __init__(self, api: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        self._api = api
        self._plain: dict[tuple[str, str], StrictRoute] = {}
        """By method and path."""
        self._patterns: dict[str, list[tuple[re.Pattern[str], StrictRoute]]] = {}
        """By method, those that have parameters in their path."""
        for route in routes:
            if isinstance(route, StrictRoute) and route.direct is not None:
                assert all(type(one) is StringConvertor for one in route.param_convertors.values())
                for method in route.methods or ():
                    if route.param_convertors:
                        self._patterns.setdefault(method, []).append((route.path_regex, route))
                    else:
                        self._plain[method, route.path] = route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        route = self._find(scope) if b"origin" not in context_of(request).headers else None
        if route is None or route.direct is None:
            await self._api(scope, receive, send)
            return
        scope["route"] = route
        try:
            answer = await route.direct(request)
        except RequestError as refusal:
            answer = await on_request_error(request, refusal)
        await answer(scope, receive, send)

    def _find(self, scope: Scope) -> StrictRoute | None:
        """The route of a request; what its path says is left in the scope."""
        method, path = scope["method"], scope["path"]
        route = self._plain.get((method, path))
        if route is not None:
            scope["path_params"] = {}
            return route
        for pattern, candidate in self._patterns.get(method, ()):
            if matched := pattern.match(path):
                scope["path_params"] = matched.groupdict()
                return candidate
        return None


def _validated(body: ModelField, context: RequestContext) -> tuple[Any, list[Any]]:
    """What an endpoint takes as its body, and all that is wrong with it."""
    sent, faults = bodies.parse(context.body, context.header(b"content-type"), context.header(b"content-encoding"))
    if faults:
        return None, faults
    taken, faults = body.validate(sent, loc=("body",))
    if not faults and b"\\u0000" in context.body:  # in JSON it is written in no other way
        kept = type(taken).model_fields
        found = bodies.nuls({name: member for name, member in sent.items() if name in kept})
        faults = list(islice(found, MAX_FIELD_ERRORS + 1))
    return taken, faults
