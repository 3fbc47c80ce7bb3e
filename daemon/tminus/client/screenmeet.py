"""The Python client: the original's four methods, by name and argument order, and a few more.

::

    from tminus.client import ScreenMeet

    sm = ScreenMeet("https://sessions.example.com", token)
    result = sm.scheduleSession("2026-12-01T15:30:00.000Z", "live", "incident", sys_id, "Incident INC0000005",
                                "Call for INC0000005", {"record": True})

Errors::

    ScreenMeetError                an answer that is not 200: code, refcode, description, errors
    ├── InvalidRequest        400  also 413 and the like: sending it again will not help
    ├── NotAuthenticated      401  no token, or one that is unknown, expired or revoked
    ├── Forbidden             403
    ├── NotFound              404
    ├── Conflict              409  also 412: the session is not what the caller took it for
    └── Unavailable           503  also 429, and no answer at all: the same call may succeed later
"""

import json as json_text
import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import quote, urlencode, urlsplit

from tminus.client import shapes
from tminus.client.transport import Answer, CannotConnect, NoAnswer, Transport
from tminus.domain import timestamps
from tminus.domain.hosts import ascii_url

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from tminus import schemas


SessionType = Literal["support", "cobrowse", "live", "replay"]

DEFAULT_URL = "http://127.0.0.1:8710"
RETRIED = frozenset({429, 502, 503, 504})
"""Answers after which the same request may succeed."""

NOT_DONE = frozenset({429, 503})
"""Those of them after which it was not done; with the others what is in between may have lost the daemon's answer."""

PERHAPS_DONE = frozenset({107503, 108503})
"""But for these refcodes: the database was lost, perhaps at the commit; or the daemon stopped, perhaps meanwhile."""

LONGEST_PAUSE = 10.0
"""Seconds that the client waits between two tries at the most, whatever the daemon asks for."""


class ScreenMeetError(Exception):
    """A call that was not done. `code` is the HTTP status, 0 if there was no answer; switch on `refcode`."""

    def __init__(
        self, description: str, code: int = 0, refcode: int = 0, errors: Sequence[Mapping[str, str]] = ()
    ) -> None:
        super().__init__(description)
        self.description = description
        self.code = code
        self.refcode = refcode
        self.errors = list(errors)
        """Every fault of the request: `{"field": …, "message": …}`."""
        self.retried = False
        """Whether this answered a retry: an earlier try may have been done."""
        self.lasting = False
        """Whether no answer came for a reason that waiting does not change, such as a socket's permissions."""


class InvalidRequest(ScreenMeetError):
    """The request is wrong in itself."""


class NotAuthenticated(ScreenMeetError):
    """No valid token."""


class Forbidden(ScreenMeetError):
    """The caller may not do this."""


class NotFound(ScreenMeetError):
    """There is no such session."""


class Conflict(ScreenMeetError):
    """The session's status or version does not allow this."""


class Unavailable(ScreenMeetError):
    """No answer, or one that asks to come back later; every retry has been made."""


_ERRORS = {401: NotAuthenticated, 403: Forbidden, 404: NotFound, 409: Conflict, 412: Conflict}


class ScreenMeet:
    """A connection to a tminus daemon. Safe to share between threads; close it, or use it as a context.

    Raises `ScreenMeetError` if url or token cannot be right, or if the environment names a proxy or certificates that
    cannot be used.

    Parameters
    ----------
    url
        Where the daemon is, with `/v3` or without; by default `$TMINUS_URL`, else `http://127.0.0.1:8710`.
    token
        An agent's token; by default `$TMINUS_TOKEN`.
    socket
        The daemon's local socket, in place of url and token.
    socket_owners
        User ids of which the process behind the socket must have one; by default any will do.
    user_description
        The agent's name as users see it; by default the one in the daemon's configuration.
    timeout
        Seconds that one try may take.
    retries
        How often a call is tried again when there was no answer, or one that asks to come back later. A retry never
        makes a second session: each creating call carries an idempotency key of its own. What else could be done twice
        is not tried again when its answer was lost.
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
                raise NotAuthenticated("No valid token: it holds characters that no token has; look at what was copied")
            self._headers["Session-id"] = token
        self._transport = _transport(self.url, socket, socket_owners, timeout)

    def __enter__(self) -> "Self":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
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
        idempotency_key: str | None = None,
    ) -> "schemas.Session":
        """Creates a session that is open at once."""
        parent = (parent_object_table, parent_object_sys_id, parent_object_display_name)
        return self._make(None, type, parent, screenmeet_session_name, agent_prefs, idempotency_key)

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
        idempotency_key: str | None = None,
    ) -> "schemas.Session":
        """Schedules a session; `startTime` is RFC 3339, with `Z` or an offset."""
        parent = (parent_object_table, parent_object_sys_id, parent_object_display_name)
        return self._make(startTime, type, parent, screenmeet_session_name, agent_prefs, idempotency_key)

    def rescheduleSession(  # noqa: N802
        self,
        ScreenMeetSessionId: str,  # noqa: N803
        startTime: str,  # noqa: N803
        *,
        if_version: int | None = None,
    ) -> "schemas.Session":
        """Moves a scheduled session to another start; with `if_version`, only if it has not changed since."""
        headers = _if_match(if_version)
        path = f"/supportsession/{_quoted(ScreenMeetSessionId)}"
        try:
            return cast("schemas.Session", self.request("PUT", path, json={"startTime": startTime}, headers=headers))
        except Conflict as conflict:
            # A try whose answer was lost may have moved it, and it may have opened since: then all is as wanted.
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
        """Closes a session; everybody in it is disconnected. With `if_version`, only if it has not changed since."""
        path = f"/supportsession/{_quoted(ScreenMeetSessionId)}"
        return cast("schemas.Success", self.request("DELETE", path, json={}, headers=_if_match(if_version)))

    # --- more ---------------------------------------------------------------------------------------------------------

    def getSession(self, ScreenMeetSessionId: str) -> "schemas.Session":  # noqa: N802, N803
        """One session, as it is now; a closed one too."""
        return cast("schemas.Session", self.request("GET", f"/supportsession/{_quoted(ScreenMeetSessionId)}"))

    def listSessions(self, **criteria: Any) -> "schemas.SessionList":  # noqa: N802
        """Sessions that match: `status` (one or several), `type`, `scope`, `startFrom`, `startTo`, `search`, `limit`,
        `offset`, `orderby`, `orderdir`. With `search`, go on at the offset `next` until that is None.
        """
        params = {name: value for name, value in criteria.items() if value is not None}
        return cast("schemas.SessionList", self.request("GET", "/supportsessions", params=params))

    def getEvents(self, ScreenMeetSessionId: str, after: int = 0) -> "schemas.History":  # noqa: N802, N803
        """What happened to a session after the event numbered `after`, oldest first."""
        path = f"/supportsession/{_quoted(ScreenMeetSessionId)}/events"
        return cast("schemas.History", self.request("GET", path, params={"after": after}))

    def feed(
        self,
        after: int | Literal["now"] = 0,
        *,
        type: Sequence[str] = (),  # noqa: A002
        wait: float = 0,
        limit: int = 100,
    ) -> "schemas.History":
        """The events of all sessions after that one, oldest first; waits so many seconds (at most 60) for one.

        Keep `next`, and give it as `after` the next time: no event is then missed, and none comes twice.
        """
        params = {"after": after, "type": list(type), "wait": wait, "limit": limit}
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
        """Any call of the API, its path below `/v3`. `wait`: seconds that the answer may take, by what was asked for,
        longer than others.

        Tried again if it was not done, and if its answer was lost where that does not do it twice: of `POST` only with
        an `Idempotency-Key` in the headers, which the API takes for what makes a session or a participant.

        Raises `ScreenMeetError`.
        """
        sent = self._headers | dict(headers or {})
        body = None if json is None else json_text.dumps(json, allow_nan=False).encode()
        if body is not None:
            sent["Content-Type"] = "application/json"
        target = f"/v3{path}{_query(params)}"
        repeatable = method != "POST" or any(name.lower() == "idempotency-key" for name in sent)
        for tried in range(self._retries + 1):
            try:
                answer = self._transport.request(method, target, sent, body, wait)
            except NoAnswer as error:
                failure: ScreenMeetError = Unavailable(f"No answer from {self._where}: {error}")
                failure.__cause__, failure.lasting = error, error.lasting
                if error.lasting or (error.sent and not repeatable):
                    raise failure  # noqa: B904 - it has its cause
                pause = 0.0
            else:
                if answer.status == 200:
                    return _answered(answer, method, path, f"{self._where}/v3{path}")
                failure = _error(answer)
                failure.retried = tried > 0
                if answer.status not in (RETRIED if repeatable else NOT_DONE):
                    raise failure
                if not repeatable and failure.refcode in PERHAPS_DONE:
                    raise failure
                pause = _retry_after(answer)
            if tried < self._retries:
                import random  # noqa: PLC0415 - it loads the hashes of OpenSSL, and few calls are tried again

                # Full jitter, so that many clients do not come back at the same moment.
                time.sleep(min(LONGEST_PAUSE, pause + random.uniform(0, 0.2 * 2**tried)))  # noqa: S311
        raise failure

    def _make(
        self,
        start: str | None,
        session_type: str,
        parent: tuple[str | None, str | None, str | None],
        label: str,
        preferences: Mapping[str, bool] | None,
        key: str | None,
    ) -> "schemas.Session":
        body: dict[str, Any] = {"type": session_type, "label": label, "agentPrefs": dict(preferences or {})}
        if start is not None:
            body["startTime"] = start
        if self._user_description is not None:
            body["userDescription"] = self._user_description
        table, sys_id, name = parent
        if table is not None and sys_id is not None:
            body["externalMapping"] = f"{table}.{sys_id}"
            body["parentObject"] = {"id": sys_id, "type": table, "name": name, "sync": False, "provider": "tminus"}
        if key is not None and not _fits_header(key):
            raise InvalidRequest("The idempotency key must be printable ASCII characters")
        headers = {"Idempotency-Key": _drawn_key() if key is None else key}
        return cast("schemas.Session", self.request("POST", "/supportsessions", json=body, headers=headers))


def _base_url(text: str) -> str:
    """Where `/v3` begins: it may stand at the end, as ServiceNow wants it there."""
    try:
        url = urlsplit(text)
        is_one = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        found = ascii_url(text) if is_one and "@" not in url.netloc else text
    except ValueError as error:
        raise InvalidRequest(f"{text} is not a URL such as {DEFAULT_URL}: {error}") from None
    if not is_one or not _fits_header(found) or " " in found:
        raise InvalidRequest(f"{text} is not a URL such as {DEFAULT_URL}")
    return found.rstrip("/").removesuffix("/v3").rstrip("/")


def _transport(url: str, socket: str | Path | None, socket_owners: Collection[int] | None, timeout: float) -> Transport:
    """What carries the requests. Each is loaded where it is used: httpx takes longer to load than a call takes."""
    if socket is not None:
        from tminus.client.transport.local import LocalTransport  # noqa: PLC0415

        return LocalTransport(str(socket), socket_owners, timeout)
    from tminus.client.transport.network import NetworkTransport  # noqa: PLC0415

    try:
        return NetworkTransport(url, timeout)
    except CannotConnect as error:
        raise InvalidRequest(f"Cannot connect to {url}: {error}") from None


def _drawn_key() -> str:
    """A key that nobody else draws."""
    return os.urandom(16).hex()


def _quoted(text: str) -> str:
    """A part of a path. Bytes of a command line that are no UTF-8 stay those bytes."""
    return quote(text, safe="", errors="surrogateescape")


def _query(params: Mapping[str, Any] | None) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in (params or {}).items():
        values = value if isinstance(value, list | tuple) else (value,)
        pairs += [(name, str(one).lower() if isinstance(one, bool) else str(one)) for one in values]
    return f"?{urlencode(pairs, errors='surrogateescape')}" if pairs else ""


def _if_match(version: int | None) -> dict[str, str]:
    return {} if version is None else {"If-Match": f'"{version}"'}


def _fits_header(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _answered(answer: Answer, method: str, path: str, where: str) -> Any:
    """Return what was answered. Raises `InvalidRequest` if no tminus answers so: something else is at that address."""
    kind = answer.headers.get("content-type", "something")
    try:
        told = json_text.loads(answer.body)
    except (ValueError, RecursionError):
        problem = f"{kind} that is not JSON"
    else:
        found = shapes.problem(method, path, told)
        if not found:
            return told
        problem = f"JSON that {found}"
    raise InvalidRequest(f"What answers at {where} is not tminus: it sent {problem}; look at the URL", answer.status)


_ERROR = shapes.shape(
    {
        "description": shapes.text,
        "refcode": shapes.number,
        "errors": shapes.list_of(shapes.shape({"field": shapes.text, "message": shapes.text})),
    }
)


def _error(answer: Answer) -> ScreenMeetError:
    """The error that an answer stands for, also one that something in between has made up."""
    code = answer.status
    kind = _ERRORS.get(code, Unavailable if code in RETRIED or code >= 500 else InvalidRequest)
    try:
        told = json_text.loads(answer.body)
    except (ValueError, RecursionError):
        told = None
    if _ERROR(told):
        return kind(f"HTTP {code} {answer.reason}".rstrip(), code)
    return kind(told["description"], code, told["refcode"], told["errors"])


def _retry_after(answer: Answer) -> float:
    try:
        return max(0.0, float(answer.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0  # a date: no proxy is worth reading the clock for
