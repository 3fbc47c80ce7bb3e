"""Requests to one receiver: each bounded in time and size, and what became of it."""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from urllib.parse import quote, urlsplit

import h11

from tminus import __version__, clock
from tminus.delivery.backoff import retry_after
from tminus.delivery.connecting import connect, in_order
from tminus.delivery.exchange import Answer, Closed, Connection, Wire
from tminus.delivery.resolver import Resolver, Target, allowed
from tminus.delivery.trust import Trust

USER_AGENT = f"tminus/{__version__}"

AT_ONCE = 2
"""Requests to one receiver at a time: a delivery, and a ping beside it."""

KEPT = 4.0
"""Seconds that a connection without a request is kept: many servers close it after five."""

CLOSING = 1.0
"""Seconds that a receiver has to agree to the end of TLS."""

_CODES = re.compile(r"^\[SSL[^\]]*\] | \(_ssl\.c:\d+\)$")
"""What Python puts around the reason of a failure of TLS."""

_PATH = "/%:@!$&'()*+,;=~"
_QUERY = f"{_PATH}?"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request. `status` None: there was no answer, and `error` says why."""

    status: int | None
    error: str | None
    answer: str | None
    ms: int
    asked: timedelta | None = None
    """The receiver's `Retry-After`."""
    cut_off: bool = False
    """Whether it was this side that waited no longer: that is no failure of the receiver's."""

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status <= 299

    @property
    def gone(self) -> bool:
        """Whether the receiver says that it is there no more."""
        return self.status == HTTPStatus.GONE


class Client:
    """Sends requests to one URL, over a connection that is kept for a few seconds.

    Parameters
    ----------
    url
        The receiver, with its host in ASCII.
    trust
        Whom TLS trusts; None if the URL is not of https.
    link_local
        Whether link-local and metadata addresses may be sent to.
    """

    def __init__(self, url: str, trust: Trust | None, *, link_local: bool = False) -> None:
        self.trust = trust
        self._link_local = link_local
        parts = urlsplit(url)
        name, _, zone = (parts.hostname or "").partition("%")
        self._look_up = f"{name}%{zone.removeprefix('25')}" if zone else name
        self._name = name.rstrip(".")
        """In TLS and `Host`: without a zone, which only this machine knows, and without the dot of the root."""
        usual = 443 if parts.scheme == "https" else 80
        self._port = parts.port or usual
        host = f"[{self._name}]" if ":" in self._name else self._name
        self._host = host if self._port == usual else f"{host}:{self._port}"
        query = f"?{quote(parts.query, _QUERY)}" if parts.query else ""
        self._target = f"{quote(parts.path, _PATH) or '/'}{query}"
        self._resolver = Resolver()
        self._room = asyncio.Semaphore(AT_ONCE)
        self._context: ssl.SSLContext | None = None
        self._last: Target | None = None
        self._kept: Connection | None = None
        self._expiry: asyncio.TimerHandle | None = None

    async def post(self, body: bytes, headers: Mapping[str, str], patience: timedelta) -> Outcome:
        """Send a request and wait for its answer, so long at the most, however it trickles.

        Never raises. Cancelled, it returns what became of the request until then, so that it can be recorded.
        """
        begun = clock.monotonic()
        sending = _Sending()
        error = None
        cut_off = False
        seconds = patience.total_seconds()
        limit = asyncio.timeout(seconds)
        try:
            async with limit, self._room:
                await self._send(sending, body, headers)
        except TimeoutError as failure:  # the system has one, too
            sending.look_again()
            error = f"no answer within {seconds:g} s" if limit.expired() else _said(failure)
        except asyncio.CancelledError:
            sending.look_again()
            cut_off = sending.answer.status is None
            error = "cut off: the daemon was stopping, or the endpoint was changed"
        except Exception as failure:  # a receiver can fail in any way
            error = _said(failure)
        finally:
            sending.close()
        answer = sending.answer
        if answer.status is not None:
            error = None if 200 <= answer.status <= 299 else f"answered {answer.status}"
        text = answer.body.decode(errors="replace").replace("\0", "\ufffd") if answer.status is not None else None
        ms = round((clock.monotonic() - begun) * 1000)
        return Outcome(answer.status, error, text, ms, retry_after(answer.retry_after, clock.now()), cut_off)

    async def aclose(self) -> None:
        """Close the connection that is kept."""
        if (kept := self._take()) is not None:
            kept.close()

    async def _send(self, sending: "_Sending", body: bytes, headers: Mapping[str, str]) -> None:
        fields = {"Host": self._host, "User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        fields |= {**headers, "Content-Length": str(len(body))}
        request = h11.Request(method="POST", target=self._target, headers=list(fields.items()))
        connection = sending.connection = self._take() or await self._connected()
        try:
            await connection.send(request, body)
        except (OSError, Closed):
            if not (connection.used and connection.silent):
                raise
            # The receiver has closed a connection that was kept, as it may: this says nothing about the request.
            connection.close()
            connection = sending.connection = await self._connected()
            await connection.send(request, body)
        if connection.usable and self._kept is None:
            sending.connection = None
            self._kept = connection
            self._expiry = asyncio.get_running_loop().call_later(KEPT, self._expire)
        sending.answered = connection.answer

    def _take(self) -> Connection | None:
        """The connection that was kept, if it is still good."""
        kept, self._kept = self._kept, None
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if kept is not None and not kept.usable:
            kept.close()
            return None
        return kept

    def _expire(self) -> None:
        self._expiry = None
        if self._kept is not None:
            self._kept.leave()
            self._kept = None

    async def _connected(self) -> Connection:
        """A new connection, to an address that has been checked."""
        targets = await allowed(self._resolver, self._look_up, self._port, link_local=self._link_local)
        if self.trust is not None and self._context is None:
            self._context = await asyncio.to_thread(self.trust.context)
        raw, target = await connect(in_order(targets, self._last))
        self._last = target
        loop = asyncio.get_running_loop()
        if self._context is None:
            _, wire = await loop.create_connection(Wire, sock=raw)
        else:
            _, wire = await loop.create_connection(
                Wire, sock=raw, ssl=self._context, server_hostname=self._name, ssl_shutdown_timeout=CLOSING
            )
        return Connection(wire)


@dataclass(slots=True)
class _Sending:
    """A request on its way: what has come of its answer, and the connection unless that is kept."""

    connection: Connection | None = None
    answered: Answer | None = None

    @property
    def answer(self) -> Answer:
        if self.answered is not None:
            return self.answered
        return self.connection.answer if self.connection is not None else Answer()

    def look_again(self) -> None:
        """Read what has come while this process had no time to look: it counts as answered in time."""
        if self.connection is not None and self.answer.status is None:
            try:
                self.connection.advance()
            except Exception:  # what came is no answer: then there was none
                self.answered = self.answer

    def close(self) -> None:
        if self.connection is not None:
            self.answered = self.answer
            self.connection.close()
            self.connection = None


def _said(failure: BaseException) -> str:
    """What went wrong, in the words of what went wrong first: "connection refused", not "all attempts failed"."""
    while (cause := failure.__cause__ or failure.__context__) is not None:
        failure = cause
    if isinstance(failure, ssl.SSLError):
        return f"TLS failed: {_CODES.sub('', str(failure))}"[:500]
    if isinstance(failure, socket.gaierror):
        return f"name not found: {failure.strerror}"[:500]
    if isinstance(failure, OSError) and failure.errno:
        return os.strerror(failure.errno).lower()
    return f"{type(failure).__name__}: {' '.join(str(failure).split())}"[:500]
