"""The outermost layer: every request gets an id, a bounded body, an answer in our shape, and a line in the log."""

import asyncio
import re

from starlette.types import Message, Receive, Scope, Send

from tminus import clock
from tminus.api.browsers import Cors, is_foreign
from tminus.api.client_address import remote_ip
from tminus.api.dispatch import Dispatcher
from tminus.api.errors import answer
from tminus.api.request_body import ClientGone, read_body
from tminus.api.request_context import RequestContext, put
from tminus.api.request_log import OPERATIONS, record
from tminus.api.response import Headers, Response
from tminus.api.services import Services
from tminus.domain import errors, ids
from tminus.logs.output import error_fields, log
from tminus.logs.repeated import REPEATED

BEGUN = "tminus.begun"
"""Under this key of a scope's state the server says when the request was read whole, on the monotonic clock, if it
was one of many.
"""

LATE = 0.25
"""Seconds for which a request may have waited for its turn on the event loop; after more it is refused at once."""

WAITING = 128
"""Requests that may be before another one; if there are more it is refused at once.

As many as the writer takes at once: while it writes, the next batch is full, and more would only wait for longer.
"""

QUERY_PAIRS = 100
"""Parameters that a query may have: each is read, and each may be at fault."""

PAGE = "/docs"
"""The one page for people; it comes with a policy of its own."""

DESCRIPTION = "/openapi.json"

_SLASHES = re.compile(r"^/+(v3/+)?")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
_NO_PAGE = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
HEADERS = [*_ALWAYS, (b"cache-control", b"no-store"), _NO_PAGE]
"""For answers that belong to their caller."""
_OF_PAGE = [*_ALWAYS, (b"cache-control", b"no-cache")]
"""For the one page that there is: it says itself what it needs. A browser may keep it, and asks whether it changed."""
_OF_ASSETS = [*_OF_PAGE, _NO_PAGE]
"""For what the page loads, which are the same megabyte for everybody."""


class Middleware:
    """ASGI middleware around the dispatcher; what it finds out, it leaves in the scope as a `RequestContext`.

    CORS is around the dispatcher where it matters, and around each refusal made here, so that a page in a browser can
    read why it was refused.
    """

    def __init__(self, dispatcher: Dispatcher, services: Services) -> None:
        self._dispatcher = dispatcher
        self._with_cors = Cors(dispatcher, services)
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = clock.monotonic()
        method = scope["method"]
        # Answered like GET; the server leaves the body out, as it sees the scope that it made.
        scope = {**scope, "method": "GET" if method == "HEAD" else method, "path": _canonical(scope["path"])}
        context = self._look_at(scope, method)
        put(scope, context)
        try:
            self._check(scope, method, context, begun)
            context.body = await read_body(scope, context.headers, receive, self._services.settings.server.max_body)
            await self._answer(context, receive, send)
        except errors.RequestError as refusal:
            await self._refuse(context, refusal, receive, send)
        except ClientGone:
            context.code = 499
        except asyncio.CancelledError:
            # The time for draining is over. What was begun may yet be done: whoever asks again will see.
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
        # Only pages in browsers send an origin, and only their requests need CORS. What a cache may keep says that it
        # depends on the origin, also to those who sent none.
        if b"origin" in context.headers or scope["path"].startswith((PAGE, DESCRIPTION)):
            await self._with_cors(scope, receive, _sending(context, send))
            return
        response = await self._dispatcher.respond(context, scope["path"], scope["method"])
        if isinstance(response, Response):
            context.code = response.status_code
            response.headers += _headers(context)
            await response(scope, receive, send)
        else:
            await response(scope, receive, _sending(context, send))

    async def _refuse(
        self, context: RequestContext, refusal: errors.RequestError, receive: Receive, send: Send
    ) -> None:
        if context.code:
            return  # the answer has begun, and stays what it is
        context.refcode = refusal.refcode
        response = answer(refusal)
        if isinstance(refusal, errors.RequestTimeout):
            response.headers.append((b"connection", b"close"))  # the rest of the body may still come, or never
        await Cors(response, self._services)(context.scope, receive, _sending(context, send))

    def _look_at(self, scope: Scope, method: str) -> RequestContext:
        """What is to be known of where a request comes from."""
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        if b"if-match" in headers:  # a list, which may be sent in several lines
            headers[b"if-match"] = b",".join(value for name, value in scope["headers"] if name == b"if-match")
        # A socket in the file system has a path where one of TCP has a port.
        local = scope["server"] is not None and scope["server"][1] is None
        return RequestContext(
            self._services,
            _request_id(headers),
            local,
            "local" if local else remote_ip(scope, headers, self._services.settings),
            headers,
            scope,
            _without_empty_values(scope["query_string"]),
            head=method == "HEAD",
        )

    def _check(self, scope: Scope, method: str, context: RequestContext, begun: float) -> None:
        if b"sec-fetch-site" in context.headers and is_foreign(method, context.headers, self._services.settings):
            context.said = True
            REPEATED.log(
                "http.cross_site", context.remote_ip, remote_ip=context.remote_ip, request_id=context.request_id
            )
            raise errors.CrossSite
        if "\0" in scope["path"]:
            raise errors.UnknownPath  # no database has such a key, and some fail on it
        if context.query_string.count(b"&") >= QUERY_PAIRS:
            raise errors.InvalidRequest(
                [errors.FieldError("query", f"must not have more than {QUERY_PAIRS} parameters")]
            )
        if b"%00" in context.query_string:
            names = [pair.partition(b"=")[0] for pair in context.query_string.split(b"&") if b"%00" in pair]
            faults = [errors.FieldError(name.decode("latin-1"), "must not contain NUL") for name in names]
            raise errors.InvalidRequest(faults)
        if scope["path"] in OPERATIONS:
            return
        if self._services.draining:
            context.said = True  # who called is not looked up any more, and `daemon.draining` says that it stops
            raise errors.Draining
        waited = begun - scope["state"].get(BEGUN, begun)
        if (waited > LATE or self._services.waiting(scope["method"]) >= WAITING) and not context.local:
            raise errors.Overloaded


def _sending(context: RequestContext, send: Send) -> Send:
    """A `send` that adds the headers that every answer gets."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            context.code = message["status"]
            message = {**message, "headers": [*message["headers"], *_headers(context)]}
        await send(message)

    return send_with_headers


def _headers(context: RequestContext) -> Headers:
    """The headers that every answer gets, by what is answered."""
    path, always = context.scope["path"], HEADERS
    if path.startswith((PAGE, DESCRIPTION)) and context.code in (200, 304):
        always = _OF_PAGE if path == PAGE else _OF_ASSETS
    return [(b"x-request-id", context.request_id.encode()), *always]


def _canonical(path: str) -> str:
    """The path without the slashes that come of a base URL with one at its end. Those further on are the caller's:
    they may belong to the key of a look-up.
    """
    return _SLASHES.sub(lambda found: "/v3/" if found[1] else "/", path, count=1) if "//" in path else path


def _request_id(headers: dict[bytes, bytes]) -> str:
    """The client's own, if it sent a sane one, so that its log and ours name the same thing."""
    sent = headers.get(b"x-request-id", b"")
    return sent.decode() if _REQUEST_ID.fullmatch(sent) else ids.request_id()


def _without_empty_values(query: bytes) -> bytes:
    """`instance_url=&state=` says nothing; clients send such pairs for what is not set."""
    if not query or (b"=&" not in query and not query.endswith(b"=") and query.count(b"=") > query.count(b"&")):
        return query
    return b"&".join(pair for pair in query.split(b"&") if pair.partition(b"=")[2])
