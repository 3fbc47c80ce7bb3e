"""The Python client. Four of its methods have the names and the order of arguments of the original product's client.

::

    from tminus.client import ScreenMeet

    sm = ScreenMeet("https://sessions.example.com", token)
    result = sm.scheduleSession("2026-12-01T15:30:00.000Z", "live", "incident", sys_id, "Incident INC0000005",
                                "Call for INC0000005", {"record": True})

`errors` has the exceptions that the methods raise.
"""

import json as json_text
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import quote, urlencode, urlsplit

from tminus.client import validation
from tminus.client.errors import (
    NOT_EXECUTED,
    PERHAPS_EXECUTED,
    RETRIED,
    Conflict,
    InvalidRequest,
    NotAuthenticated,
    ScreenMeetError,
    Unavailable,
    error_of,
)
from tminus.client.transport import Body, CannotConnect, NoResponse, Received, Response, Transport
from tminus.domain import timestamps
from tminus.domain.hosts import ascii_url

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from tminus import schemas


SessionType = Literal["support", "cobrowse", "live", "replay"]

DEFAULT_URL = "http://127.0.0.1:8710"

BATCH_WAIT = 120.0
"""Seconds that the answer to a batch may take beyond `timeout`."""

PIECE = 100
"""Number of sessions of a batch that are sent between two calls of `progress`."""

MAX_PAUSE = 10.0
"""Maximum seconds between two attempts, even if `Retry-After` is longer."""


class ScreenMeet:
    """A client of a tminus daemon. Threads may share it. Close it, or use it as a context manager.

    Raises `ScreenMeetError` if url or token is not valid, or if the environment names a proxy or certificates that
    cannot be used.

    Parameters
    ----------
    url
        The daemon's URL, with or without `/v3`; by default `$TMINUS_URL`, else `http://127.0.0.1:8710`.
    token
        An agent's token; by default `$TMINUS_TOKEN`.
    socket
        The daemon's local socket, in place of url and token.
    socket_owners
        User ids that the process listening on the socket may have; by default any.
    user_description
        The agent's name as users see it; by default the name in the daemon's configuration.
    timeout
        Seconds that connecting, and each wait for more of the response, may take.
    retries
        Maximum number of times that a call is repeated after no response, or after a response that allows a later
        retry. A retry never creates a second session, since each call that creates one has an idempotency key. After a
        lost response, other calls are repeated only if executing them twice does no harm.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        socket: str | Path | None = None,
        socket_owners: Collection[int] | None = None,
        user_description: str | None = None,
        timeout: float = 10.0,
        retries: int = 3,
    ) -> None:
        self.url = _base_url(url or os.environ.get("TMINUS_URL") or DEFAULT_URL)
        token = token or os.environ.get("TMINUS_TOKEN")
        self._where = str(socket) if socket else self.url
        self._user_description = user_description
        self._retries = retries
        self._headers = {"client-app": "tminus-python", "Accept": "application/json"}
        if token and socket is None:
            if not _fits_header(token):
                raise NotAuthenticated(
                    "No valid token: it contains characters that no token has; check what was copied"
                )
            self._headers["Session-id"] = token
        self._transport = _transport(self.url, socket, socket_owners, timeout)

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    # --- the original's methods ---------------------------------------------------------------------------------------

    def createSession(  # noqa: N802 - the original's name and arguments
        self,
        type: SessionType,  # noqa: A002
        parent_object_table: str | None = None,
        parent_object_sys_id: str | None = None,
        parent_object_display_name: str | None = None,
        screenmeet_session_name: str = "",
        agent_prefs: Mapping[str, bool] | None = None,
        *,
        invitees: Sequence["schemas.Invitee"] = (),
        idempotency_key: str | None = None,
    ) -> "schemas.Session":
        """Create a session that is open at once."""
        parent = (parent_object_table, parent_object_sys_id, parent_object_display_name)
        return self._create(None, type, parent, screenmeet_session_name, agent_prefs, invitees, idempotency_key)

    def scheduleSession(  # noqa: N802 - likewise
        self,
        startTime: str,  # noqa: N803
        type: SessionType,  # noqa: A002
        parent_object_table: str | None = None,
        parent_object_sys_id: str | None = None,
        parent_object_display_name: str | None = None,
        screenmeet_session_name: str = "",
        agent_prefs: Mapping[str, bool] | None = None,
        *,
        invitees: Sequence["schemas.Invitee"] = (),
        reminders: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> "schemas.Session":
        """Schedule a session. `startTime` is RFC 3339, with `Z` or an offset.

        `reminders`: how long before the start people are reminded, such as `["1d", "15m"]`; None: the daemon's default.
        """
        parent = (parent_object_table, parent_object_sys_id, parent_object_display_name)
        key = idempotency_key
        return self._create(startTime, type, parent, screenmeet_session_name, agent_prefs, invitees, key, reminders)

    def rescheduleSession(  # noqa: N802
        self,
        ScreenMeetSessionId: str,  # noqa: N803
        startTime: str,  # noqa: N803
        *,
        if_version: int | None = None,
    ) -> "schemas.Session":
        """Move a scheduled session to another start; with `if_version`, only if it has not changed since."""
        headers = _if_match(if_version)
        path = f"/supportsession/{_quoted(ScreenMeetSessionId)}"
        try:
            return cast("schemas.Session", self.request("PUT", path, json={"startTime": startTime}, headers=headers))
        except Conflict as conflict:
            # An earlier attempt whose response was lost may have moved the session, which may be open now.
            if not conflict.retried:
                raise
            session = self.getSession(ScreenMeetSessionId)
            if "startTime" not in session or timestamps.parse(session["startTime"]) != timestamps.parse(startTime):
                raise
            return session

    def closeSession(  # noqa: N802
        self,
        ScreenMeetSessionId: str,  # noqa: N803
        *,
        if_version: int | None = None,
    ) -> "schemas.Success":
        """Close a session and disconnect its participants; with `if_version`, only if it has not changed since."""
        path = f"/supportsession/{_quoted(ScreenMeetSessionId)}"
        return cast("schemas.Success", self.request("DELETE", path, json={}, headers=_if_match(if_version)))

    # --- many at once -------------------------------------------------------------------------------------------------

    def scheduleSessions(  # noqa: N802
        self,
        sessions: Sequence[Mapping[str, Any]],
        *,
        dry_run: bool = False,
        idempotency_key: str | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> "schemas.SessionBatch":
        """Create or schedule up to 10,000 sessions, all or none. Each is a body of `POST /v3/supportsessions`.

        With `dry_run` nothing is created, and `planned` of the answer shows what would be.

        `progress` is called with the number of steps that are done and of all steps. Each session is two steps: it is
        sent, and its answer arrives. A retry begins again at 0. The sessions are then sent as NDJSON.
        """
        if progress is None:
            return self._batch("", {"sessions": list(sessions)}, dry_run, idempotency_key)
        return self._schedule_lines([_body(one) + b"\n" for one in sessions], dry_run, idempotency_key, progress)

    def _schedule_lines(
        self, lines: Sequence[bytes], dry_run: bool, key: str | None, progress: Callable[[int, int], object]
    ) -> "schemas.SessionBatch":
        path, steps, answered = "/supportsessions/batch", 2 * len(lines), 0

        def body() -> Iterator[bytes]:
            nonlocal answered
            answered = 0
            for first in range(0, len(lines), PIECE):
                progress(first, steps)
                yield b"".join(lines[first : first + PIECE])
            progress(len(lines), steps)

        def received(part: bytes) -> None:
            nonlocal answered
            answered += part.count(b"\n")
            progress(min(len(lines) + answered, steps), steps)

        headers = _keyed(key) | dict.fromkeys(("Accept", "Content-Type"), "application/x-ndjson")
        headers["Content-Length"] = str(sum(map(len, lines)))
        answer = self._call("POST", path, {"dryRun": dry_run}, headers, body, BATCH_WAIT, received)
        if answer.headers.get("content-type", "").startswith("application/x-ndjson"):
            start = b'"dryRun":true,"planned"' if dry_run else b'"sessions"'
            answer = answer._replace(body=b"{%b:[%b]}" % (start, answer.body.strip().replace(b"\n", b",")))
        result = self._result(answer, "POST", path)
        progress(steps, steps)
        return cast("schemas.SessionBatch", result)

    def rescheduleSessions(  # noqa: N802
        self,
        sessions: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the API's name
        by: str | None = None,
        dry_run: bool = False,
        idempotency_key: str | None = None,
    ) -> "schemas.SessionBatch":
        """Move up to 10,000 scheduled sessions, all or none.

        Pass `sessions` with the `id` and the new `startTime` of each; or `ids` or a `filter`, with the time `by` which
        they move, such as `30m` or `-1h`.
        """
        body = {"sessions": sessions, "ids": ids, "filter": filter, "by": by}
        return self._batch("/reschedule", body, dry_run, idempotency_key)

    def closeSessions(  # noqa: N802
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - likewise
        dry_run: bool = False,
        idempotency_key: str | None = None,
    ) -> "schemas.SessionBatch":
        """Close up to 10,000 sessions, all or none: those in `ids`, or those that match `filter` and are not closed."""
        return self._batch("/close", {"ids": ids, "filter": filter}, dry_run, idempotency_key)

    def _batch(self, path: str, body: Mapping[str, Any], dry_run: bool, key: str | None) -> "schemas.SessionBatch":
        sent = {name: value for name, value in body.items() if value is not None} | {"dryRun": dry_run}
        headers = _keyed(key)
        answer = self.request("POST", f"/supportsessions/batch{path}", json=sent, headers=headers, wait=BATCH_WAIT)
        return cast("schemas.SessionBatch", answer)

    # --- series -------------------------------------------------------------------------------------------------------

    def createSeries(  # noqa: N802
        self, series: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> "schemas.Series":
        """Create a series of sessions. `series` is a body of `POST /v3/series`: `dtstart`, `timezone`, `session`, …"""
        return cast(
            "schemas.Series", self.request("POST", "/series", json=dict(series), headers=_keyed(idempotency_key))
        )

    def changeSeries(  # noqa: N802
        self, series_id: str, series: Mapping[str, Any], *, from_here: str | None = None
    ) -> "schemas.Series":
        """Replace a series from now on. `series` is a body of `PUT /v3/series/{id}`.

        With `from_here`, a local time, the series ends there, and the result is a new series that `follows` it.
        """
        path, params = f"/series/{_quoted(series_id)}", _from_here(from_here)
        return cast("schemas.Series", self.request("PUT", path, json=dict(series), params=params))

    def endSeries(self, series_id: str, *, from_here: str | None = None) -> "schemas.Series":  # noqa: N802
        """End a series and cancel its sessions that have not opened, from now on or from a local time on."""
        path, params = f"/series/{_quoted(series_id)}", _from_here(from_here)
        return cast("schemas.Series", self.request("DELETE", path, params=params))

    def getSeries(self, series_id: str) -> "schemas.Series":  # noqa: N802
        """Return a series with its next sessions, at most 100."""
        return cast("schemas.Series", self.request("GET", f"/series/{_quoted(series_id)}"))

    def listSeries(  # noqa: N802
        self, *, scope: str = "mine", after: str = "", limit: int = 100
    ) -> "schemas.SeriesList":
        """Return one page of series, including ended ones. For the next page, pass `next` as `after`."""
        params = {"scope": scope, "after": after, "limit": limit}
        return cast("schemas.SeriesList", self.request("GET", "/series", params=params))

    # --- more ---------------------------------------------------------------------------------------------------------

    def getSession(self, ScreenMeetSessionId: str) -> "schemas.Session":  # noqa: N802, N803
        """Return the current state of a session, also if it is closed."""
        return cast("schemas.Session", self.request("GET", f"/supportsession/{_quoted(ScreenMeetSessionId)}"))

    def listSessions(self, **criteria: Any) -> "schemas.SessionList":  # noqa: N802
        """Return one page of the sessions that match all criteria.

        The criteria: `status` (one or several), `type`, `scope`, `startFrom`, `startTo`, `search`, `limit`, `offset`,
        `orderby`, `orderdir`. With `search`, pass `next` as the next `offset` until it is None.
        """
        params = {name: value for name, value in criteria.items() if value is not None}
        return cast("schemas.SessionList", self.request("GET", "/supportsessions", params=params))

    def getEvents(self, ScreenMeetSessionId: str, after: int = 0) -> "schemas.History":  # noqa: N802, N803
        """Return the events of a session after event number `after`, the oldest first."""
        path = f"/supportsession/{_quoted(ScreenMeetSessionId)}/events"
        return cast("schemas.History", self.request("GET", path, params={"after": after}))

    def feed(
        self,
        after: int | Literal["now"] = 0,
        *,
        type: Sequence[str] = (),  # noqa: A002
        wait: float = 0,
        limit: int = 100,
        scope: Literal["mine", "all"] = "all",
    ) -> "schemas.History":
        """Return the events after event number `after`, the oldest first, of your own sessions or of all.

        `type` selects events; `session.*` is a pattern. If there are no events, wait up to `wait` seconds (at most 60)
        for one. Pass `next` as the next `after`: then no event is missed or returned twice.
        """
        params = {"after": after, "type": list(type), "wait": wait, "limit": limit, "scope": scope}
        return cast("schemas.History", self.request("GET", "/events", params=params, wait=wait))

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        wait: float = 0,
    ) -> Any:
        """Call any path of the API, given without `/v3`, and return the JSON of the response.

        `wait` is the number of seconds that the response may take beyond `timeout`. The call is repeated if the daemon
        has not executed it. If its response was lost, it is repeated only if that cannot execute it twice: a `POST`
        needs the header `Idempotency-Key`, which the API accepts for creating sessions, series and participants.

        Raises `ScreenMeetError`.
        """
        body = None if json is None else _body(json)
        content_type = {} if body is None else {"Content-Type": "application/json"}
        response = self._call(method, path, params, dict(headers or {}) | content_type, lambda: body, wait)
        return self._result(response, method, path)

    def _result(self, response: Response, method: str, path: str) -> Any:
        return _result(response, method, path, f"{self._where}/v3{path}")

    def _call(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        body: Callable[[], Body],
        wait: float,
        received: Received = None,
    ) -> Response:
        """Return the response with status 200 to a call, which is repeated as `request` says.

        Each attempt sends a new result of `body`.
        """
        all_headers, target = self._headers | dict(headers), f"/v3{path}{_query(params)}"
        repeatable = method != "POST" or any(name.lower() == "idempotency-key" for name in all_headers)
        for attempt in range(self._retries + 1):
            try:
                response = self._transport.request(method, target, all_headers, body(), wait, received)
            except NoResponse as error:
                failure: ScreenMeetError = Unavailable(f"No answer from {self._where}: {error}")
                failure.__cause__, failure.permanent = error, error.permanent
                if error.permanent or (error.sent and not repeatable):
                    raise failure  # noqa: B904 - its cause is set above
                pause = 0.0
            else:
                if response.status == 200:
                    return response
                failure = error_of(response)
                failure.retried = attempt > 0
                may_pass = isinstance(failure, Unavailable) and (repeatable or failure.refcode not in PERHAPS_EXECUTED)
                if not may_pass or response.status not in (RETRIED if repeatable else NOT_EXECUTED):
                    raise failure
                pause = _retry_after(response)
            if attempt < self._retries:
                import random  # noqa: PLC0415 - slow to load, since it loads OpenSSL; few calls are repeated

                # Full jitter, so that many clients do not retry at the same moment.
                time.sleep(min(MAX_PAUSE, pause + random.uniform(0, 0.2 * 2**attempt)))  # noqa: S311
        raise failure

    def _create(
        self,
        start: str | None,
        session_type: str,
        parent: tuple[str | None, str | None, str | None],
        label: str,
        preferences: Mapping[str, bool] | None,
        invitees: Sequence["schemas.Invitee"],
        key: str | None,
        reminders: Sequence[str] | None = None,
    ) -> "schemas.Session":
        body: dict[str, Any] = {"type": session_type, "label": label, "agentPrefs": dict(preferences or {})}
        if start is not None:
            body["startTime"] = start
        if reminders is not None:
            body["reminders"] = list(reminders)
        if self._user_description is not None:
            body["userDescription"] = self._user_description
        if invitees:
            body["invitees"] = [dict(one) for one in invitees]
        table, sys_id, name = parent
        if table is not None and sys_id is not None:
            body["externalMapping"] = f"{table}.{sys_id}"
            body["parentObject"] = {"id": sys_id, "type": table, "name": name, "sync": False, "provider": "tminus"}
        return cast("schemas.Session", self.request("POST", "/supportsessions", json=body, headers=_keyed(key)))


def _body(value: Any) -> bytes:
    """Return a value as JSON. Raises `InvalidRequest` if it cannot be written, such as NaN or a datetime."""
    try:
        return json_text.dumps(value, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"The request cannot be written as JSON: {error}") from None


def _base_url(text: str) -> str:
    """Return the URL without `/v3` at its end, which the ServiceNow Script Include requires there."""
    try:
        url = urlsplit(text)
        is_url = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        found = ascii_url(text) if is_url and "@" not in url.netloc else text
    except ValueError as error:
        raise InvalidRequest(f"{text} is not a URL such as {DEFAULT_URL}: {error}") from None
    if not is_url or not _fits_header(found) or " " in found:
        raise InvalidRequest(f"{text} is not a URL such as {DEFAULT_URL}")
    return found.rstrip("/").removesuffix("/v3").rstrip("/")


def _transport(url: str, socket: str | Path | None, socket_owners: Collection[int] | None, timeout: float) -> Transport:
    """Return the transport. Its module is imported only when it is used: loading httpx takes longer than a call."""
    if socket is not None:
        from tminus.client.transport.local import LocalTransport  # noqa: PLC0415

        return LocalTransport(str(socket), socket_owners, timeout)
    from tminus.client.transport.network import NetworkTransport  # noqa: PLC0415

    try:
        return NetworkTransport(url, timeout)
    except CannotConnect as error:
        raise InvalidRequest(f"Cannot connect to {url}: {error}") from None


def _keyed(key: str | None) -> dict[str, str]:
    """Return the header with an idempotency key, by default a random one."""
    if key is not None and not _fits_header(key):
        raise InvalidRequest("The idempotency key must be printable ASCII characters")
    return {"Idempotency-Key": _random_key() if key is None else key}


def _random_key() -> str:
    """Return 128 random bits as an idempotency key."""
    return os.urandom(16).hex()


def _quoted(text: str) -> str:
    """Return one part of a path, percent-encoded. Bytes of a command line that are not UTF-8 are preserved."""
    return quote(text, safe="", errors="surrogateescape")


def _query(params: Mapping[str, Any] | None) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in (params or {}).items():
        values = value if isinstance(value, list | tuple) else (value,)
        pairs += [(name, str(one).lower() if isinstance(one, bool) else str(one)) for one in values]
    return f"?{urlencode(pairs, errors='surrogateescape')}" if pairs else ""


def _from_here(local: str | None) -> dict[str, str]:
    return {} if local is None else {"fromHere": local}


def _if_match(version: int | None) -> dict[str, str]:
    return {} if version is None else {"If-Match": f'"{version}"'}


def _fits_header(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _result(response: Response, method: str, path: str, where: str) -> Any:
    """Return the JSON of a response. Raises `InvalidRequest` if another server than tminus has sent it."""
    content_type = response.headers.get("content-type", "something")
    try:
        result = json_text.loads(response.body)
    except (ValueError, RecursionError):
        problem = f"{content_type} that is not JSON"
    else:
        found = validation.problem(method, path, result)
        if not found:
            return result
        problem = f"JSON that {found}"
    raise InvalidRequest(f"The server at {where} is not tminus: it sent {problem}; check the URL", response.status)


def _retry_after(response: Response) -> float:
    """Return the seconds that `Retry-After` asks to wait. A date, which only proxies send, counts as 0."""
    try:
        return max(0.0, float(response.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0
