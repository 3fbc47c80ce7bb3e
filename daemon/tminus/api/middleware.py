"""The outermost layer: every request gets an id, a bounded body, an answer in our shape, and a line in the log."""

import asyncio
import re
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tminus import clock
from tminus.api.browsers import is_foreign
from tminus.api.client_address import remote_ip
from tminus.api.errors import answer
from tminus.api.request_body import ClientGone, read_body
from tminus.api.request_context import RequestContext, put
from tminus.api.request_log import OPERATIONS, record
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
    """ASGI middleware around the whole application. `cors` is put around what it answers itself, so that a page in a
    browser can read why it was refused.

    What it finds out, it leaves in the scope as an `RequestContext`.
    """

    def __init__(self, app: ASGIApp, services: Services, cors: Callable[[ASGIApp], ASGIApp]) -> None:
        self._app = app
        self._cors = cors
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = clock.monotonic()
        method = scope["method"]
        # Answered like GET; the server leaves the body out, as it sees the scope that it made.
        scope = {**scope, "method": "GET" if method == "HEAD" else method, "path": _canonical(scope["path"])}
        context = self._look_at(scope, method)
        put(scope, context)
        code = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                request_id = (b"x-request-id", context.request_id.encode())
                message = {**message, "headers": [*message["headers"], request_id, *_headers(scope["path"], code)]}
            await send(message)

        async def refuse(refusal: errors.RequestError) -> None:
            if not code:  # else the answer has begun, and stays what it is
                context.refcode = refusal.refcode
                response = answer(refusal)
                if isinstance(refusal, errors.RequestTimeout):
                    response.headers.append((b"connection", b"close"))  # the rest of the body may still come, or never
                await self._cors(response)(scope, receive, send_with_headers)

        try:
            self._check(scope, method, context, begun)
            context.body = await read_body(context.headers, receive, self._services.settings.server.max_body)
            await self._app(scope, receive, send_with_headers)
        except errors.RequestError as refusal:
            await refuse(refusal)
        except ClientGone:
            code = 499
        except asyncio.CancelledError:
            # The time for draining is over. What was begun may yet be done: whoever asks again will see.
            await refuse(errors.Draining())
        except Exception as defect:
            log(
                "http.failed",
                method=method,
                route=context.route,
                request_id=context.request_id,
                **error_fields(defect),
            )
            await refuse(errors.InternalError(context.request_id))
        finally:
            record(context, method, code, clock.monotonic() - begun)

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
        if is_foreign(method, context.headers, self._services.settings):
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


def _headers(path: str, code: int) -> list[tuple[bytes, bytes]]:
    """The headers that every answer gets, by what is answered."""
    if code in (200, 304) and path.startswith((PAGE, DESCRIPTION)):
        return _OF_PAGE if path == PAGE else _OF_ASSETS
    return HEADERS


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
