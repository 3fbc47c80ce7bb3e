"""Send requests to one receiver, limited in time and size, and report the outcome of each."""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import quote, urlsplit

import h11

from tminus import __version__, clock
from tminus.delivery.backoff import retry_after
from tminus.delivery.connection import ByteStream, Connection, ConnectionClosed, Response
from tminus.delivery.happy_eyeballs import connect, in_order
from tminus.delivery.resolver import Resolver, Target, allowed
from tminus.delivery.sender import Outcome
from tminus.delivery.tls import Trust

USER_AGENT = f"tminus/{__version__}"

CONCURRENT_REQUESTS = 2
"""Maximum requests to one receiver at a time: a delivery and a ping."""

KEEP_ALIVE = 4.0
"""Seconds for which an idle connection is kept open. Many servers close idle connections after five seconds."""

TLS_CLOSE_TIMEOUT = 1.0
"""Seconds that a receiver has to confirm the end of a TLS connection."""

_CODES = re.compile(r"^\[SSL[^\]]*\] | \(_ssl\.c:\d+\)$")
"""Error codes and source lines, which Python adds to the reason of a TLS error."""

_PATH = "/%:@!$&'()*+,;=~"
_QUERY = f"{_PATH}?"


class Client:
    """Sends requests to one URL over a persistent connection, which is closed after a few seconds without a request.

    Parameters
    ----------
    url
        The receiver's URL, with its host in ASCII.
    trust
        The certificate authorities that TLS trusts; None if the URL is not https.
    link_local
        Whether the receiver may have a link-local or metadata address.
    """

    def __init__(self, url: str, trust: Trust | None, *, link_local: bool = False) -> None:
        self.trust = trust
        self._link_local = link_local
        parts = urlsplit(url)
        name, _, zone = (parts.hostname or "").partition("%")
        self._lookup_name = f"{name}%{zone.removeprefix('25')}" if zone else name
        self._name = name.rstrip(".")
        """The host for TLS and the header `Host`: without a trailing dot, and without a zone, which has a meaning only
        on this machine."""
        usual = 443 if parts.scheme == "https" else 80
        self._port = parts.port or usual
        host = f"[{self._name}]" if ":" in self._name else self._name
        self._host = host if self._port == usual else f"{host}:{self._port}"
        query = f"?{quote(parts.query, _QUERY)}" if parts.query else ""
        self._target = f"{quote(parts.path, _PATH) or '/'}{query}"
        self._resolver = Resolver()
        self._slots = asyncio.Semaphore(CONCURRENT_REQUESTS)
        self._context: ssl.SSLContext | None = None
        self._last: Target | None = None
        self._idle: Connection | None = None
        self._expiry: asyncio.TimerHandle | None = None

    async def post(self, body: bytes, headers: Mapping[str, str], timeout: timedelta) -> Outcome:  # noqa: ASYNC109 - not raised but reported
        """Send a request and wait for its response, at most for `timeout` in all.

        Never raises. If it is cancelled, it returns the outcome so far, so that the caller can record it.
        """
        begun = clock.monotonic()
        sending = _Sending()
        error = None
        cancelled = False
        seconds = timeout.total_seconds()
        limit = asyncio.timeout(seconds)
        try:
            async with limit, self._slots:
                await self._send(sending, body, headers)
        except TimeoutError as failure:  # from `limit`, or from the operating system
            sending.read_arrived()
            error = f"no answer within {seconds:g} s" if limit.expired() else _reason(failure)
        except asyncio.CancelledError:
            sending.read_arrived()
            cancelled = sending.response.status is None
            error = "cancelled: the daemon was stopping, or the endpoint was changed"
        except Exception as failure:  # a receiver can cause any exception
            error = _reason(failure)
        finally:
            sending.close()
        response = sending.response
        if response.status is not None:
            error = None if 200 <= response.status <= 299 else f"answered {response.status}"
        text = response.body.decode(errors="replace").replace("\0", "\ufffd") if response.status is not None else None
        ms = round((clock.monotonic() - begun) * 1000)
        return Outcome(response.status, error, text, ms, retry_after(response.retry_after, clock.outside()), cancelled)

    async def aclose(self) -> None:
        """Close the idle connection."""
        if (idle := self._take()) is not None:
            idle.abort()

    async def _send(self, sending: "_Sending", body: bytes, headers: Mapping[str, str]) -> None:
        fields = {"Host": self._host, "User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
        fields |= {**headers, "Content-Length": str(len(body))}
        request = h11.Request(method="POST", target=self._target, headers=list(fields.items()))
        connection = sending.connection = self._take() or await self._connected()
        try:
            await connection.send(request, body)
        except (OSError, ConnectionClosed):
            if not (connection.used and connection.is_silent):
                raise
            # The receiver may close an idle connection just as the request is sent. So send the request again.
            connection.abort()
            connection = sending.connection = await self._connected()
            await connection.send(request, body)
        if connection.is_usable and self._idle is None:
            sending.connection = None
            self._idle = connection
            self._expiry = asyncio.get_running_loop().call_later(KEEP_ALIVE, self._expire)
        sending.received = connection.response

    def _take(self) -> Connection | None:
        """Return the idle connection, if it can still be used."""
        idle, self._idle = self._idle, None
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        if idle is not None and not idle.is_usable:
            idle.abort()
            return None
        return idle

    def _expire(self) -> None:
        self._expiry = None
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    async def _connected(self) -> Connection:
        """Return a new connection to an address that events may be sent to."""
        targets = await allowed(self._resolver, self._lookup_name, self._port, link_local=self._link_local)
        if self.trust is not None and self._context is None:
            self._context = await asyncio.to_thread(self.trust.context)
        raw, target = await connect(in_order(targets, self._last))
        self._last = target
        loop = asyncio.get_running_loop()
        if self._context is None:
            _, stream = await loop.create_connection(ByteStream, sock=raw)
        else:
            _, stream = await loop.create_connection(
                ByteStream,
                sock=raw,
                ssl=self._context,
                server_hostname=self._name,
                ssl_shutdown_timeout=TLS_CLOSE_TIMEOUT,
            )
        return Connection(stream)


@dataclass(slots=True)
class _Sending:
    """A request in flight: the response so far, and the connection, unless that is idle again."""

    connection: Connection | None = None
    received: Response | None = None

    @property
    def response(self) -> Response:
        if self.received is not None:
            return self.received
        return self.connection.response if self.connection is not None else Response()

    def read_arrived(self) -> None:
        """Parse bytes that arrived while this process was busy, so that they count as received in time."""
        if self.connection is not None and self.response.status is None:
            try:
                self.connection.advance()
            except Exception:  # the bytes are not a response, so there was none
                self.received = self.response

    def close(self) -> None:
        if self.connection is not None:
            self.received = self.response
            self.connection.abort()
            self.connection = None


def _reason(failure: BaseException) -> str:
    """Return the message of the first exception in the chain: "connection refused", not "all attempts failed"."""
    while (cause := failure.__cause__ or failure.__context__) is not None:
        failure = cause
    if isinstance(failure, ssl.SSLError):
        return f"TLS failed: {_CODES.sub('', str(failure))}"[:500]
    if isinstance(failure, socket.gaierror):
        return f"name not found: {failure.strerror}"[:500]
    if isinstance(failure, OSError) and failure.errno:
        return os.strerror(failure.errno).lower()
    return f"{type(failure).__name__}: {' '.join(str(failure).split())}"[:500]
