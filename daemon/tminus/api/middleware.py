"""The outermost layer: every request gets an id, a bounded body, an answer in our shape, and a line in the log."""

import asyncio
import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tminus import clock
from tminus.api.browsers import is_foreign
from tminus.api.errors import answer
from tminus.api.request_context import RequestContext, put
from tminus.api.services import Services
from tminus.config import Settings
from tminus.domain import errors, ids
from tminus.logs.catalogue import record_of
from tminus.logs.output import error_fields, log, log_debug
from tminus.logs.repeated import REPEATED

BODY_SECONDS = 20
"""How long a request's body may take to arrive."""

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

SLOW = 1.0
"""Seconds from which on an answer is a line in any case."""

_REFUSED = 400

PAGE = "/docs"
"""The one page for people; it comes with a policy of its own."""

DESCRIPTION = "/openapi.json"

_BESIDE_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}|\[([^\[\]]+)\](?::[0-9]{1,5})?")
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
_OPERATIONS = ("/healthz", "/readyz", "/metrics")


class Rim:
    """ASGI middleware around the whole application. `cors` is put around what the rim itself answers: a page in a
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
                    response.headers["Connection"] = "close"  # the rest of the body may still come, or never
                await self._cors(response)(scope, receive, send_with_headers)

        try:
            self._check(scope, method, context, begun)
            context.body = await _read_body(context.headers, receive, self._services.settings.server.max_body)
            await self._app(scope, _replay(context.body, receive), send_with_headers)
        except errors.RequestError as refusal:
            await refuse(refusal)
        except _ClientGone:
            code = 499
        except asyncio.CancelledError:
            # The time for draining is over. What was begun may yet be done: whoever asks again will see.
            await refuse(errors.Draining())
        except Exception as defect:
            log(
                "http.failed",
                method=method,
                route=_route(scope),
                request_id=context.request_id,
                **error_fields(defect),
            )
            await refuse(errors.InternalError(context.request_id))
        finally:
            self._tell(scope, method, context, code, clock.monotonic() - begun)

    def _look_at(self, scope: Scope, method: str) -> RequestContext:
        """What is to be known of where a request comes from."""
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        if b"if-match" in headers:  # a list, which may be sent in several lines
            headers[b"if-match"] = b",".join(value for name, value in scope["headers"] if name == b"if-match")
        # A socket in the file system has a path where one of TCP has a port.
        local = scope["server"] is not None and scope["server"][1] is None
        remote_ip = "local" if local else _remote_ip(scope, headers, self._services.settings)
        scope["query_string"] = _without_empty_values(scope["query_string"])
        return RequestContext(self._services, _request_id(headers), local, remote_ip, headers, head=method == "HEAD")

    def _check(self, scope: Scope, method: str, context: RequestContext, begun: float) -> None:
        if is_foreign(method, context.headers, self._services.settings):
            context.said = True
            REPEATED.log(
                "http.cross_site", context.remote_ip, remote_ip=context.remote_ip, request_id=context.request_id
            )
            raise errors.CrossSite
        if "\0" in scope["path"]:
            raise errors.UnknownPath  # no database has such a key, and some fail on it
        if scope["query_string"].count(b"&") >= QUERY_PAIRS:
            raise errors.InvalidRequest(
                [errors.FieldError("query", f"must not have more than {QUERY_PAIRS} parameters")]
            )
        if b"%00" in scope["query_string"]:
            names = [pair.partition(b"=")[0] for pair in scope["query_string"].split(b"&") if b"%00" in pair]
            faults = [errors.FieldError(name.decode("latin-1"), "must not contain NUL") for name in names]
            raise errors.InvalidRequest(faults)
        if scope["path"] in _OPERATIONS:
            return
        if self._services.draining:
            context.said = True  # who called is not looked up any more, and `daemon.draining` says that it stops
            raise errors.Draining
        waited = begun - scope["state"].get(BEGUN, begun)
        if (waited > LATE or self._services.waiting(scope["method"]) >= WAITING) and not context.local:
            raise errors.Overloaded

    def _tell(self, scope: Scope, method: str, context: RequestContext, code: int, seconds: float) -> None:
        if scope["path"] in _OPERATIONS:
            return
        route = _route(scope)
        self._services.requests += 1
        self._services.metrics.answered(method, route, code)
        self._services.unavailable += context.refcode == errors.StoreUnavailable.refcode
        if context.actor is None and not context.said:
            REPEATED.log(
                "http.anonymous",
                context.remote_ip,
                "refused" if code >= _REFUSED else "",
                method=method,
                route=route,
                code=code,
                refcode=context.refcode,
                remote_ip=context.remote_ip,
                request_id=context.request_id,
            )
            return
        # What is in another line already, and what the operator's own command reads, is no line by default.
        quiet = context.said or (
            code < _REFUSED and seconds < SLOW and (context.recorded or _only_reads(context, method))
        )
        order = None if quiet else context.order
        (log_debug if quiet else log)(
            "http.request",
            method=method,
            route=route,
            code=code,
            refcode=context.refcode,
            ms=round(seconds * 1000),
            actor=context.actor,
            session_id=context.session_id or _session_id(scope, code),
            replayed="yes" if context.replayed else None,
            label=order.label if order else None,
            external_key=order.external_mapping if order else None,
            record_name=record_of(order.parent_object).get("name") if order else None,
            remote_ip=context.remote_ip,
            request_id=context.request_id,
        )


def _session_id(scope: Scope, code: int) -> str | None:
    """The session that the path names, if there is one: else it may be a secret in the wrong place."""
    found: str | None = scope.get("path_params", {}).get("session_id")
    return found if code < _REFUSED or code in (409, 412) else None


def _only_reads(context: RequestContext, method: str) -> bool:
    return context.local and method in ("GET", "HEAD")


class _ClientGone(Exception):
    """The client hung up before its request had arrived."""


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


def _route(scope: Scope) -> str:
    """The path's template: the path itself may hold a PIN."""
    return getattr(scope.get("route"), "path", "(none)")


def _remote_ip(scope: Scope, headers: dict[bytes, bytes], settings: Settings) -> str:
    """The client's address. What a proxy says of it counts only if the proxy is trusted, and so on to the left."""
    address = _plain(scope["client"][0]) if scope["client"] else "unknown"
    if not settings.server.trusted_proxies or b"x-forwarded-for" not in headers:
        return address
    # Each proxy may have added a line of its own.
    lines = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
    for hop in reversed([hop.strip() for hop in ",".join(lines).split(",")]):
        if not trusted(address, settings):
            break
        try:
            address = _plain(_without_port(hop))
        except ValueError:
            break
    return address


def _without_port(hop: str) -> str:
    """Some proxies write the client's port behind its address, and the address of IPv6 in brackets."""
    found = _BESIDE_PORT.fullmatch(hop)
    return hop if found is None else found[1] or found[2]


def _plain(address: str) -> str:
    """An address as people write it: a listener on `[::]` sees IPv4 clients as `::ffff:192.0.2.1`. The zone that may
    follow a `%` is left out: it can be any text, and what a header says must not write sentences in the log, nor be
    remembered, however long it is.
    """
    return _without_zone(address.partition("%")[0])


@lru_cache(maxsize=1024)
def _without_zone(address: str) -> str:
    parsed = ipaddress.ip_address(address)
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def trusted(address: str, settings: Settings) -> bool:
    """Return whether an address is that of a trusted proxy."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in settings.server.trusted_proxies)


def _without_empty_values(query: bytes) -> bytes:
    """`instance_url=&state=` says nothing; clients send such pairs for what is not set."""
    if not query or (b"=&" not in query and not query.endswith(b"=") and query.count(b"=") > query.count(b"&")):
        return query
    return b"&".join(pair for pair in query.split(b"&") if pair.partition(b"=")[2])


async def _read_body(headers: dict[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """The whole body: it is small by rule, and whoever waits for the rest of it holds nothing else up.

    Raises `BodyTooLarge`, `RequestTimeout`.
    """
    announced = headers.get(b"content-length")
    if announced is None and b"transfer-encoding" not in headers:
        return b""
    if announced is not None and int(announced) > limit:
        raise errors.BodyTooLarge(limit)
    body = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _ClientGone
                body += bytes(message.get("body", b""))
                if len(body) > limit:
                    raise errors.BodyTooLarge(limit)
                if not message.get("more_body", False):
                    return body
    except TimeoutError:
        raise errors.RequestTimeout from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands on a body which was read already."""
    handed_on = False

    async def replay() -> Message:
        nonlocal handed_on
        if handed_on:
            return await receive()
        handed_on = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
