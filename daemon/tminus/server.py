"""uvicorn, as the daemon runs it: on sockets that are open already, under the daemon's own signals."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tminus import clock
from tminus.api import BEGUN
from tminus.api.errors import answer
from tminus.errors import Overloaded
from tminus.listeners import BACKLOG
from tminus.logs import say

LAST_REQUESTS = 0.1
"""Seconds in which connections that were taken just before it stopped listening are still served."""

DRAIN_SECONDS = 6
"""How long running requests may take to finish once the daemon was told to stop."""

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than common proxies keep theirs, so that they close first."""

KEPT = 128
"""File descriptors that connections never take: a quarter for listening, a quarter for those that come in one turn of
the event loop, before those that make room for them are gone, the others for the database, webhooks, the local socket
and the log. Once they are used up, new connections are closed without a word before anybody here hears of them, local
ones too.
"""

TOLD_AGAIN = 60
"""Seconds after which it is told again that no more connections are taken, or that some are refused."""

HEAD_SECONDS = 20
"""How long a request's head may take to arrive, from its first byte; the first of a connection, from its beginning."""

HEAD_BYTES = 65_536
"""How large a request's head may grow while its end has not arrived."""

AHEAD = 64
"""Requests that a client may send ahead of their turn on one connection."""

ACCEPTED = 32
"""Connections that are accepted in one turn of the event loop. It takes one a turn from each socket, and when it has
much to do its turns are long: with eight, the last of 800 that came at once waited for two seconds, also to be refused.
"""

CROWD = 64
"""Requests in work from which on it counts how long one waits for its turn: among fewer it is the machine that is slow.
"""


class _Connection(HttpToolsProtocol):
    """uvicorn's own, with bounds on what it takes without end: heads, requests sent ahead, connections.

    Parameters
    ----------
    idle
        All connections of the server that wait for a request, the oldest first.
    most
        How many connections may be open, None: any number. One more takes the place of the oldest idle one, and is
        refused if there is none; so is one that would take the last file descriptors.
    """

    _tell_from = 0.0
    _tell_refusal_from = 0.0

    def __init__(self, *args: Any, idle: "dict[_Connection, None]", most: int | None, **more: Any) -> None:
        super().__init__(*args, **more)
        self._idle = idle
        self._most = most
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        if self._is_full():
            oldest = next(iter(self._idle), None)
            if oldest is None:
                self._tell_refusal()
                self.transport = transport
                transport.write(_refusal())
                transport.close()
                return
            oldest.give_way()
        super().connection_made(transport)
        self._idle[self] = None
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _is_full(self) -> bool:
        """Whether there are as many connections as may be, or as the process has file descriptors for."""
        is_open = len(self.connections)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files != resource.RLIM_INFINITY and is_open >= max(files - KEPT, 1):
            if clock.monotonic() >= _Connection._tell_from:
                _Connection._tell_from = clock.monotonic() + TOLD_AGAIN
                say("http.full", connections=is_open, limit=files)
            return True
        return self._most is not None and is_open >= self._most

    def _tell_refusal(self) -> None:
        """Nobody else does: what is refused here is in no counter, and no request that has a line."""
        is_open = len(self.connections)
        if self._most is not None and is_open >= self._most and clock.monotonic() >= _Connection._tell_refusal_from:
            _Connection._tell_refusal_from = clock.monotonic() + TOLD_AGAIN
            say("http.refused", connections=is_open)

    def give_way(self) -> None:
        """Closes it for the sake of another."""
        del self._idle[self]
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._idle.pop(self, None)
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        scope, cycle = self.scope, self.cycle
        in_body = cycle is not None and cycle.more_body
        super().data_received(data)
        is_running = self.cycle is not None and not self.cycle.response_complete
        if is_running:
            self._idle.pop(self, None)
            self._stop_timer()
        elif self._head_timer is None:
            # What has arrived is no whole head, or the rest of a body that was refused.
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)
        if self.cycle is not None and self.cycle.scope is self.scope:
            self._head_bytes = 0
            return
        if self.scope is scope:
            self._head_bytes += len(data)
        else:  # a head has begun, and these may hold more than that
            self._head_bytes = 0 if in_body or self.cycle is not cycle else len(data)
        if self._head_bytes > HEAD_BYTES:
            if not is_running:  # else it would stand in the middle of that answer
                self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= AHEAD:
            raise ValueError("too many requests sent ahead")  # uvicorn answers 400, and hangs up
        super().on_message_begin()

    def _unsupported_upgrade_warning(self) -> None:
        """What asks for another protocol is answered in this one. uvicorn would have the operator install something."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if len(self.tasks) >= CROWD:
            cycle.scope["state"][BEGUN] = clock.monotonic()
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self._idle[self] = None


def _refusal() -> bytes:
    refused = answer(Overloaded())
    headers = b"".join(b"%s: %s\r\n" % pair for pair in (*refused.raw_headers, (b"connection", b"close")))
    return b"HTTP/1.1 503 Service Unavailable\r\n" + headers + b"\r\n" + bytes(refused.body)


class Server(uvicorn.Server):
    """Serves an application on listening sockets. Without uvicorn's signal handlers: it would raise SIGTERM again after
    its own graceful stop.

    Parameters
    ----------
    application, sockets
        What is served, and where.
    connections
        How many may be open at a time; None: any number.
    """

    def __init__(self, application: ASGIApp, sockets: Sequence[socket.socket], connections: int | None) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http=partial(_Connection, idle={}, most=connections),  # type: ignore[arg-type]  # it is called, no more
                ws="none",
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        accepted = ACCEPTED if connections is not None else 1  # nobody overloads the local socket
        self._sockets = [one for given in sockets for one in (given, *(given.dup() for _ in range(accepted - 1)))]
        self._listens = True
        self.begun = asyncio.Event()
        """Set when it takes connections."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.begun.set()
        if not self._listens:
            self.stop_listening()

    async def serve_all(self) -> None:
        """Serves its sockets until it is told to exit."""
        await self.serve(self._sockets)

    def stop_listening(self) -> None:
        """Takes no more connections, and none if it has not begun yet; those that it has go on."""
        self._listens = False
        for one in self.servers if self.begun.is_set() else ():
            one.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
