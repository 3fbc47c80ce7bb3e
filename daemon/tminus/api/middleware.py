"""Wrap every request: assign an id, bound the body, convert errors to responses, and write a log line."""

import asyncio
import re
from collections.abc import Sequence
from typing import NoReturn

from starlette.types import Message, Receive, Scope, Send

from tminus import clock
from tminus.api.browsers import Cors, is_foreign
from tminus.api.client_address import remote_ip
from tminus.api.dispatch import Dispatcher
from tminus.api.errors import answer
from tminus.api.request_body import BATCH_PATHS, ClientDisconnected, read_body
from tminus.api.request_context import RequestContext, put
from tminus.api.request_log import DISCONNECTED, OPERATIONS, record
from tminus.api.response import RESPOND, Headers, Response
from tminus.api.services import Services
from tminus.domain import errors, ids
from tminus.domain.text import escape
from tminus.logs.output import error_fields, log
from tminus.logs.repeated import REPEATED

BEGUN = "tminus.begun"
"""Key in the state of an ASGI scope. If many requests are in flight, the HTTP server stores the start of the request
there, in monotonic seconds.
"""

MAX_LOOP_DELAY = 0.25
"""Maximum seconds that a request may wait for the event loop; the middleware refuses a request that waited longer."""

MAX_QUEUED = 128
"""Maximum number of queued requests; the middleware refuses a new request beyond it.

This is the size of the writer's batch: while the writer commits one batch, the next batch fills up. More requests would
only wait longer.
"""

QUERY_PAIRS = 100
"""Maximum number of query parameters. It bounds the time to parse them and the number of reported errors."""

MAX_ORIGIN = 200
"""Maximum characters of an `Origin` that the log repeats."""

DOCS_PATH = "/docs"
"""The documentation page; it has its own content security policy."""

OPENAPI_PATH = "/openapi.json"

_SEPARATORS = {
    b"accept": b",",
    b"accept-language": b",",
    b"access-control-request-headers": b",",
    b"connection": b",",
    b"content-encoding": b",",
    b"cookie": b"; ",
    b"if-match": b",",
    b"if-none-match": b",",
    b"upgrade": b",",
}
"""The fields that are lists, and may be split over several lines, with what separates their entries."""

_SLASHES = re.compile(r"^/+(v3/+)?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
_NOTHING_ALLOWED = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
HEADERS = [*_ALWAYS, (b"cache-control", b"no-store"), _NOTHING_ALLOWED]
"""Headers of most responses, which no cache may store."""
_NAMES = frozenset({b"x-request-id", *(name for name, _ in HEADERS)})
"""The names of the headers of most responses."""
_DOCS_HEADERS = [*_ALWAYS, (b"cache-control", b"no-cache")]
"""Headers of the documentation page, which adds its own policy. Browsers may keep it, but must revalidate it."""
_ASSETS_HEADERS = [*_DOCS_HEADERS, _NOTHING_ALLOWED]
"""Headers of the files that the page loads: about a megabyte, the same for all callers."""


def _encoded(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


_FIELDS = _encoded(HEADERS)


class Middleware:
    """ASGI middleware around the dispatcher. It stores a `RequestContext` in the scope of each request.

    CORS applies to requests with an `Origin`, and to refusals that the middleware itself sends, so that pages in
    browsers can read the error.
    """

    def __init__(self, dispatcher: Dispatcher, services: Services) -> None:
        self._dispatcher = dispatcher
        self._with_cors = Cors(dispatcher, services)
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = clock.monotonic()
        method = scope["method"]
        # HEAD is handled like GET. The HTTP server has the original scope, omits the body, and may keep the scope until
        # the next request, so it must not refer to the context of this one.
        scope = {**scope, "method": "GET" if method == "HEAD" else method, "path": canonical(scope["path"])}
        context = make_context(self._services, scope, method)
        try:
            if b"sec-fetch-site" in context.headers and is_foreign(method, context.headers, self._services.settings):
                refuse_cross_site(context)
            check_request(context, begun)
            if scope["path"].startswith(BATCH_PATHS):
                context.receive = receive
            else:
                limit = self._services.settings.server.max_body
                context.body = await read_body(scope, context.headers, receive, limit)
            await self._answer(context, receive, send)
        except errors.RequestError as refusal:
            await self._refuse(context, refusal, receive, send)
        except ClientDisconnected:
            context.code, context.error = DISCONNECTED, "the client closed the connection before the answer"
        except asyncio.CancelledError:
            # The drain time is over. The writer may still complete the command; a client that retries sees the result.
            await self._refuse(context, errors.Draining(), receive, send)
        except Exception as defect:
            log(
                "http.failed",
                method=method,
                route=context.route,
                request_id=context.request_id,
                **error_fields(defect),
            )
            await self._refuse(context, errors.InternalError(context.request_id), receive, send)
        finally:
            record(context, method, clock.monotonic() - begun)

    async def _answer(self, context: RequestContext, receive: Receive, send: Send) -> None:
        scope = context.scope
        # Only browsers send `Origin`, and only their requests need CORS. Responses that caches may keep need
        # `Vary: Origin` in every case.
        if b"origin" in context.headers or scope["path"].startswith((DOCS_PATH, OPENAPI_PATH)):
            await self._with_cors(scope, receive, _sending(context, send))
            return
        response = await self._dispatcher.respond(context, scope["path"], scope["method"])
        if isinstance(response, Response):
            context.code = response.status_code
            more = _missing_fields(context, response.headers)
            await scope["state"][RESPOND](response.status_code, response.headers, more, response.body)
        else:
            await response(scope, receive, _sending(context, send))

    async def _refuse(
        self, context: RequestContext, refusal: errors.RequestError, receive: Receive, send: Send
    ) -> None:
        if context.code:
            return  # the response has started and cannot be changed
        context.refuse(refusal)
        context.route = self._dispatcher.route_of(context.scope["path"]) or context.route
        response = answer(refusal)
        if isinstance(refusal, errors.RequestTimeout):
            response.headers.append((b"connection", b"close"))  # the rest of the body may still arrive
        await Cors(response, self._services)(context.scope, receive, _sending(context, send))


def make_context(services: Services, scope: Scope, method: str) -> RequestContext:
    """Return the context of a request, with the address of its client, and store it in the scope."""
    headers = fields_by_name(scope["headers"])
    # The address of a Unix socket is a path and has no port.
    local = scope["server"] is not None and scope["server"][1] is None
    context = RequestContext(
        services,
        _request_id(headers),
        local,
        "local" if local else remote_ip(scope, headers, services.settings),
        headers,
        scope,
        _without_empty_values(scope["query_string"]),
        head=method == "HEAD",
    )
    put(scope, context)
    return context


def fields_by_name(fields: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the value of each field of a head. Of a repeated field the first value counts; lists are joined."""
    values = dict(reversed(fields))
    if len(values) < len(fields):
        for name in _SEPARATORS.keys() & values.keys():
            values[name] = _SEPARATORS[name].join(value for other, value in fields if other == name)
    return values


def check_request(context: RequestContext, begun: float) -> None:
    """Refuse a request that the daemon cannot serve now, or that no endpoint could. Raises `RequestError`."""
    scope, services = context.scope, context.services
    if "\0" in scope["path"]:
        raise errors.UnknownPath  # no stored key contains NUL, and PostgreSQL fails on it
    if context.query_string.count(b"&") >= QUERY_PAIRS:
        raise errors.InvalidRequest([errors.FieldError("query", f"must not have more than {QUERY_PAIRS} parameters")])
    if b"%00" in context.query_string:
        names = [pair.partition(b"=")[0] for pair in context.query_string.split(b"&") if b"%00" in pair]
        raise errors.InvalidRequest(
            [errors.FieldError(name.decode("latin-1"), "must not contain NUL") for name in names]
        )
    if scope["path"] in OPERATIONS:
        return
    if services.draining:
        # The caller is not authenticated, so each refusal would be logged as an anonymous request. The log already
        # has `daemon.draining`.
        context.logged = True
        raise errors.Draining
    waited = begun - scope["state"].get(BEGUN, begun)
    if (waited > MAX_LOOP_DELAY or services.waiting(scope["method"]) >= MAX_QUEUED) and not context.local:
        raise errors.Overloaded


def refuse_cross_site(context: RequestContext) -> NoReturn:
    """Refuse a request that a page of another site caused."""
    context.logged = True
    REPEATED.log(
        "http.cross_site",
        context.remote_ip,
        # Browsers omit `Origin` from some requests; a program may send any text.
        origin=escape(context.header(b"origin")[:MAX_ORIGIN]) or None,
        remote_ip=context.remote_ip,
        request_id=context.request_id,
    )
    raise errors.CrossSite


def _sending(context: RequestContext, send: Send) -> Send:
    """Return a `send` that adds the headers of every response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            context.code = message["status"]
            message = {**message, "headers": [*message["headers"], *_missing_headers(context, message["headers"])]}
        await send(message)

    return send_with_headers


def _missing_headers(context: RequestContext, own: Sequence[tuple[bytes, bytes]]) -> Headers:
    """Return the headers of every response, without those that the response sets itself."""
    names = {name for name, _ in own}
    return [header for header in response_headers(context) if header[0] not in names]


def _missing_fields(context: RequestContext, own: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return what `_missing_headers` returns, encoded. Paths that need other headers than `HEADERS` go through CORS."""
    if _NAMES.isdisjoint([name for name, _ in own]):
        return b"x-request-id: %b\r\n%b" % (context.request_id.encode(), _FIELDS)
    return _encoded(_missing_headers(context, own))


def response_headers(context: RequestContext) -> Headers:
    """Return the headers that every response gets; they depend on its path and status."""
    path, always = context.scope["path"], HEADERS
    if path.startswith((DOCS_PATH, OPENAPI_PATH)) and context.code in (200, 304):
        always = _DOCS_HEADERS if path == DOCS_PATH else _ASSETS_HEADERS
    return [(b"x-request-id", context.request_id.encode()), *always]


def canonical(path: str) -> str:
    """Return the path without repeated slashes at its beginning, which a base URL with a final slash causes.

    Later slashes stay, since they may belong to the key of a look-up.
    """
    return _SLASHES.sub(lambda found: "/v3/" if found[1] else "/", path, count=1) if "//" in path else path


def _request_id(headers: dict[bytes, bytes]) -> str:
    """Return the client's request id if it is valid, so that both logs share it; otherwise a new one."""
    sent = headers.get(b"x-request-id", b"")
    return sent.decode() if _REQUEST_ID.fullmatch(sent) else ids.request_id()


def _without_empty_values(query: bytes) -> bytes:
    """Return a query without pairs such as `state=`, which clients send for parameters that are not set."""
    if not query or (b"=&" not in query and not query.endswith(b"=") and query.count(b"=") > query.count(b"&")):
        return query
    return b"&".join(pair for pair in query.split(b"&") if pair.partition(b"=")[2])
