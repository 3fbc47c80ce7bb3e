"""Declare routes. One declaration serves requests and the OpenAPI document."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError
from starlette.types import ASGIApp

from tminus.api import bodies
from tminus.api.errors import invalid
from tminus.api.parameters import Body, Problem, Signature, located, query_problems, signature
from tminus.api.request_context import RequestContext
from tminus.api.websocket import WebSocket
from tminus.domain.errors import MAX_FIELD_ERRORS

_PARAMETER = re.compile(r"\{(\w+)(:path|:pin)?\}")

_VALUES = {"": "[^/]+", ":path": ".*", ":pin": r"[0-9](?:[ -]*[0-9]){5}"}
"""Patterns of path parameters by kind. A path that matches no pattern has no route."""


Answer = ASGIApp
"""What an endpoint returns: an ASGI application that sends the response."""

Endpoint = Callable[..., Awaitable[Answer]]

Refusals = Callable[[], Mapping[int, Mapping[str, Any]]]
"""Returns the error responses of a route by status, for the OpenAPI document."""


class Route(NamedTuple):
    """A route: method, path, endpoint, and its description."""

    method: str
    path: str
    """The template for log lines and metrics. A parameter ends at a slash unless it is written `{name:path}`;
    `{name:pin}` matches only six digits, with spaces and hyphens between them.
    """
    template: str
    """The template for the OpenAPI document, with each parameter as `{name}`."""
    endpoint: Endpoint
    signature: Signature
    summary: str
    tag: str
    answers: Any
    """The type of the body of a successful response; None for text."""
    media_type: str
    """The media type of a text."""
    refusals: Refusals
    described: bool
    """Whether the OpenAPI document has the route."""
    reads: TypeAdapter[Any] | None = None
    """The type of a body that the endpoint reads itself, for the OpenAPI document."""

    async def respond(self, context: RequestContext) -> Answer:
        """Validate a request and return the endpoint's response. Raises `RequestError`."""
        takes = self.signature
        arguments: dict[str, Any] = {} if takes.context is None else {takes.context: context}
        for name, call in takes.depends:
            arguments[name] = await call(context)
        problems: list[Problem] = []
        for parameter in takes.path:
            problems += parameter.read(context.path_params[parameter.name], arguments)
        if takes.query:
            problems += query_problems(takes.query, context.query_string, arguments)
        for parameter, header in takes.headers:
            if header in context.headers:
                problems += parameter.read(context.header(header), arguments)
            else:
                problems += parameter.missing
        if takes.body is not None:
            arguments[takes.body.argument], found = _validated(takes.body, context)
            problems += found
        if problems:
            raise invalid(problems)
        answering = self.endpoint(**arguments)
        del arguments  # free the parsed body, which takes up to twenty times its size, before the endpoint waits
        return await answering


WebSocketEndpoint = Callable[[WebSocket], Awaitable[None]]


class WebSocketRoute(NamedTuple):
    """A route that is a WebSocket: path, endpoint, and its description."""

    path: str
    """The template, as that of `Route`."""
    template: str
    """The template for descriptions, with each parameter as `{name}`."""
    endpoint: WebSocketEndpoint
    """Is called with each WebSocket, and returns at its end. Raises `RequestError` to refuse it."""
    subprotocols: tuple[str, ...]
    """The subprotocols, of which the client must offer one; empty: none is needed."""
    summary: str
    tag: str


class Router:
    """Declare routes that share a path prefix and a tag, with one decorator for each method."""

    def __init__(self, prefix: str, tag: str) -> None:
        self.routes: list[Route] = []
        self.websockets: list[WebSocketRoute] = []
        self._prefix = prefix
        self._tag = tag

    def route(
        self,
        method: str,
        path: str,
        *,
        summary: str = "",
        answers: Any = None,
        media_type: str = "text/plain",
        refusals: Refusals = dict,
        described: bool = True,
        reads: Any = None,
    ) -> Callable[[Endpoint], Endpoint]:
        """Declare a route; the annotations of the endpoint declare its parameters."""

        def declare(endpoint: Endpoint) -> Endpoint:
            whole = self._prefix + path
            takes = signature(endpoint, [name for name, _ in _PARAMETER.findall(whole)])
            template = _PARAMETER.sub(r"{\1}", whole)
            read = None if reads is None else TypeAdapter(reads)
            about = (summary, self._tag, answers, media_type, refusals, described, read)
            self.routes.append(Route(method, whole, template, endpoint, takes, *about))
            return endpoint

        return declare

    def websocket(
        self, path: str, *, subprotocols: tuple[str, ...] = (), summary: str = ""
    ) -> Callable[[WebSocketEndpoint], WebSocketEndpoint]:
        """Declare a WebSocket. Its parameters are in `path_params` of its context."""

        def declare(endpoint: WebSocketEndpoint) -> WebSocketEndpoint:
            whole = self._prefix + path
            template = _PARAMETER.sub(r"{\1}", whole)
            self.websockets.append(WebSocketRoute(whole, template, endpoint, subprotocols, summary, self._tag))
            return endpoint

        return declare

    def get(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        return self.route("GET", path, **options)

    def post(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        return self.route("POST", path, **options)

    def put(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        return self.route("PUT", path, **options)

    def delete(self, path: str, **options: Any) -> Callable[[Endpoint], Endpoint]:
        return self.route("DELETE", path, **options)


class Table:
    """All routes, by path and method."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._plain: dict[str, dict[str, Route]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Route]]] = []
        """Routes with path parameters."""
        by_template: dict[str, dict[str, Route]] = {}
        for route in routes:
            if route.path not in by_template:
                by_template[route.path] = self._plain[route.path] = {}
                if _PARAMETER.search(route.path):
                    self._patterns.append((_pattern(route.path), self._plain.pop(route.path)))
            by_template[route.path][route.method] = route

    def find(self, path: str) -> tuple[Mapping[str, Route], dict[str, str]]:
        """Return the routes of a path by method, empty for an unknown path, and the values of path parameters."""
        plain = self._plain.get(path)
        if plain is not None:
            return plain, {}
        for pattern, routes in self._patterns:
            if matched := pattern.fullmatch(path):
                return routes, matched.groupdict()
        return {}, {}


class WebSocketTable:
    """All WebSocket routes, by path."""

    def __init__(self, routes: Iterable[WebSocketRoute]) -> None:
        self._patterns = [(_pattern(route.path), route) for route in routes]

    def find(self, path: str) -> tuple[WebSocketRoute, dict[str, str]] | None:
        """Return the route of a path and the values of its parameters; None for an unknown path."""
        for pattern, route in self._patterns:
            if matched := pattern.fullmatch(path):
                return route, matched.groupdict()
        return None


def _pattern(path: str) -> re.Pattern[str]:
    parts, at = [], 0
    for found in _PARAMETER.finditer(path):
        parts += [re.escape(path[at : found.start()]), f"(?P<{found[1]}>{_VALUES[found[2] or '']})"]
        at = found.end()
    return re.compile("".join([*parts, re.escape(path[at:])]))


def _validated(body: Body, context: RequestContext) -> tuple[Any, list[Problem]]:
    """Return the validated body for an endpoint, and the errors."""
    sent, problems = bodies.parse(context.body, context.header(b"content-type"), context.header(b"content-encoding"))
    if problems:
        return None, problems
    try:
        taken = body.adapter.validate_python(sent)
    except ValidationError as error:
        return None, located(error, ("body",))
    if b"\\u0000" in context.body:  # JSON has no other way to write NUL
        kept = body.model.model_fields
        found = bodies.nuls({name: member for name, member in sent.items() if name in kept})
        return taken, list(islice(found, MAX_FIELD_ERRORS + 1))
    return taken, []
