"""Count and log each request after its response."""

from collections.abc import Callable
from typing import Any

from tminus.api.request_context import RequestContext
from tminus.api.websocket import WebSocket
from tminus.domain.errors import StoreUnavailable
from tminus.logs.event_fields import session_fields
from tminus.logs.output import log, log_debug
from tminus.logs.repeated import REPEATED

SLOW = 1.0
"""Seconds after which a request counts as slow, and is always logged."""

OPERATIONS = ("/healthz", "/readyz", "/metrics")
"""Paths that monitoring systems read every few seconds. These requests are neither counted nor logged."""

CUT_OFF = "tminus.cut_off"
"""Key in the state of an ASGI scope. Its value is a function of the HTTP server, which returns whether the connection
ended before the response was complete. The end of a stream of events is no such end.
"""

DISCONNECTED = 499
"""The status in the log of a request whose client closed the connection before it had sent all, as in nginx."""

_REFUSED = 400

_USUAL = frozenset({1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1012})
"""The close codes of clients that the metrics count separately; all others count together."""


def record(context: RequestContext, method: str, seconds: float) -> None:
    """Count a request that took `seconds`, and write its log line."""
    if context.scope["path"] in OPERATIONS:
        return
    services, code = context.services, context.code
    is_cut_off = _is_cut_off(context)
    if is_cut_off:
        happened = "the connection ended before the client had the complete answer"
        context.error = f"{context.error}; {happened}" if context.error else happened
    services.requests += 1
    services.metrics.answered(method, context.route, code)
    services.unavailable += context.refcode == StoreUnavailable.refcode
    if context.actor is None and not context.logged:
        REPEATED.log(
            "http.anonymous",
            context.remote_ip,
            "refused" if code >= _REFUSED else "",
            method=method,
            route=context.route,
            code=code,
            refcode=context.refcode,
            error=context.error,
            remote_ip=context.remote_ip,
            request_id=context.request_id,
        )
        return
    # At level debug: requests whose outcome another line logs, and reads through the local socket.
    quiet = context.logged or (
        code < _REFUSED and seconds < SLOW and not is_cut_off and (context.recorded or _only_reads(context, method))
    )
    named = None if quiet else context.named
    (log_debug if quiet else log)(
        "http.request",
        method=method,
        route=context.route,
        code=code,
        refcode=context.refcode,
        error=context.error,
        ms=round(seconds * 1000),
        actor=context.actor,
        session_id=context.session_id or _session_id(context, code),
        replayed="yes" if context.replayed else None,
        **(session_fields(named) if named else {}),
        remote_ip=context.remote_ip,
        request_id=context.request_id,
    )


def record_websocket(context: RequestContext, websocket: WebSocket, seconds: float) -> None:
    """Count a WebSocket that was open for `seconds`, and write its log line."""
    services, close_code, is_ours = context.services, websocket.closed or 1000, websocket.is_ours
    services.requests += 1
    services.metrics.answered("GET", context.route, 101)
    services.metrics.websocket_closed(context.route, close_code if is_ours or close_code in _USUAL else None)
    fields: dict[str, Any] = {
        "route": context.route,
        "close_code": close_code,
        "close_reason": websocket.close_reason or None,
        "open_s": round(seconds),
        "refcode": context.refcode,
        **context.about,
        "remote_ip": context.remote_ip,
        "request_id": context.request_id,
    }
    if context.actor is None:
        # Each reason and each session is counted separately, so that no line hides another one.
        about = f"{close_code} {context.refcode} {context.about.get('session_id')}"
        REPEATED.log("http.websocket", context.remote_ip, about, **fields)
    else:
        log("http.websocket", **fields, actor=context.actor)


def _is_cut_off(context: RequestContext) -> bool:
    """Return whether the client did not get the complete response, although it has begun or was ready."""
    is_cut_off: Callable[[], bool] | None = context.scope["state"].get(CUT_OFF)
    return is_cut_off is not None and context.code != DISCONNECTED and is_cut_off()


def _session_id(context: RequestContext, code: int) -> str | None:
    """Return the id in the path if that session exists; other text may be a secret in the wrong place."""
    return context.path_params.get("session_id") if code < _REFUSED or code in (409, 412) else None


def _only_reads(context: RequestContext, method: str) -> bool:
    return context.local and method in ("GET", "HEAD")
