"""HTTP as the daemon serves it: uvicorn's server, on sockets that are open already, with connections of our own."""

import asyncio
import contextlib
import http
import math
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from urllib.parse import unquote

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.server import ServerState

from tminus import clock
from tminus.api import BEGUN, HEADERS
from tminus.api.errors import answer
from tminus.domain.errors import FieldError, HeadTooLarge, InvalidRequest, Overloaded, RequestError
from tminus.domain.networks import client_network
from tminus.service import http_parser
from tminus.service.connections import OpenConnections, log_malformed
from tminus.service.http_exchange import Exchange
from tminus.service.http_parser import Head, Malformed, Parser
from tminus.service.sockets import BACKLOG

LAST_REQUESTS = 0.1
"""Seconds in which connections that were taken just before it stopped listening are still served."""

DRAIN_SECONDS = 6
"""How long running requests may take to finish once the daemon was told to stop."""

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than common proxies keep theirs, so that they close first."""

HEAD_SECONDS = 20
"""How long a request's head may take to arrive, from its first byte; the first of a connection, from its beginning.
So long also may the rest of a body take whose request is answered already.
"""

WRITE_SECONDS = 20
"""How long a client may take to read `WRITE_BYTES` of an answer, or the rest of it; then the connection is cut."""

WRITE_BYTES = 16_384
"""See `WRITE_SECONDS`: together they are the slowest that a client may read."""

WRITE_BUFFER = 65_536
"""Bytes of answers that wait to be sent on a connection; at more the application waits."""

KERNEL_BUFFER = 65_536
"""Bytes of answers that the kernel keeps for a connection; it takes twice that. Left to itself it keeps megabytes for
each client that does not read, until it has no memory left for anybody's connections.
"""

SILENT_SECONDS = 60
"""How long a client may leave what was sent to it unconfirmed, as one that has lost its network does."""

AHEAD = 64
"""Requests that a client may send ahead of their turn on one connection."""

ACCEPTED = 32
"""Connections that are accepted in one turn of the event loop. It takes one a turn from each socket, and when it has
much to do its turns are long: with eight, the last of 800 that came at once waited for two seconds, also to be refused.
"""

CROWD = 64
"""Requests in work from which on it counts how long one waits for its turn: among fewer it is the machine that is slow.
"""

SWEEP_TURNS = 5
"""Turns of uvicorn's main loop, a tenth of a second each, from one look at all connections' time-outs to the next."""


class Connection(asyncio.Protocol):
    """One connection: requests come in, and are answered in order.

    uvicorn calls it with the first four arguments, counts on `shutdown`, and reads what is in `ServerState`.

    Parameters
    ----------
    open_connections
        All connections of the server.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # noqa: ARG002  # uvicorn gives it by name
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        open_connections: OpenConnections,
    ) -> None:
        self.peer = self.address = "local"
        self._application: ASGIApp = config.loaded_app
        self._loop = _loop or asyncio.get_running_loop()
        self._state = server_state
        self._open_connections = open_connections
        self._parser = Parser(self)
        self._running: Exchange | None = None
        """The request that is being answered."""
        self._coming: Exchange | None = None
        """The request that has come last; its body may not be whole yet."""
        self._ahead: deque[Exchange] = deque()
        """Requests that have to wait until those before them are answered."""
        self._refusal: bytes | None = None
        """What is to be said once all before it is answered: then the connection ends."""
        self._deadline = math.inf
        """When the client must have sent what is waited for."""
        self._idle = False
        """Whether the deadline is that of a connection between two requests."""
        self._unsent: tuple[int, float] | None = None
        """How much was not read by the client, and when it must be less."""
        self._writable = asyncio.Event()
        self._writable.set()
        self._reads = True
        self._ended = False
        """Whether the client has said that it sends no more."""
        self._let_go: Callable[[], None] | None = None

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        return self._state.default_headers

    # --- what the transport calls -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as of TCP
        self.transport = transport
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        # A socket in the file system has a path where one of TCP has an address and a port.
        self._client = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None
        self._server = (str(own[0]), int(own[1])) if isinstance(own, tuple) else (str(own), None)
        if self._client:
            self.peer, self.address = self._client[0], client_network(self._client[0])
        if not self._open_connections.admit(self):
            transport.write(_answer(Overloaded()))
            transport.close()
            self._loop.call_later(WRITE_SECONDS, transport.abort)
            return
        self._state.connections.add(self)  # type: ignore[arg-type]  # it names its own classes
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        if self._client:
            _bound(transport.get_extra_info("socket"))
        self._deadline = clock.monotonic() + HEAD_SECONDS

    def connection_lost(self, _exc: Exception | None) -> None:
        self._state.connections.discard(self)
        self._open_connections.remove(self)
        for exchange in {self._running, self._coming, *self._ahead} - {None}:
            exchange.disconnect()  # type: ignore[union-attr]
        self._ahead.clear()
        self._release()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None or self.transport.is_closing():
            return
        try:
            self._parser.feed(data)
        except Malformed as error:
            self._refuse(error)
        self._settle()

    def eof_received(self) -> bool:
        """The client sends no more. What it has sent is answered all the same: a client may close its side as soon as
        its request is out, and a session that was made for it must not look refused. Who waits for events is gone.
        """
        self._ended = True
        last = self._coming
        if last is not None and last.more_body and last in self._ahead:
            self._ahead.remove(last)
            last.disconnect()
        elif self._running is None or self._let_go is not None or (last is not None and last.more_body):
            return False
        return not self.transport.is_closing()

    def pause_writing(self) -> None:
        self._writable.clear()
        self._settle()

    def resume_writing(self) -> None:
        self._writable.set()
        self._unsent = None
        self._settle()

    # --- what the parser calls ----------------------------------------------------------------------------------------

    def on_head(self, head: Head) -> None:
        if len(self._ahead) >= AHEAD:
            raise Malformed("comes before too many others were answered")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": head.version,
            "server": self._server,
            "client": self._client,
            "scheme": "http",
            "method": head.method,
            "root_path": "",
            "path": unquote(head.path.decode()) if b"%" in head.path else head.path.decode(),
            "raw_path": head.path,
            "query_string": head.query,
            "headers": head.headers,
            "state": {},
        }
        exchange = Exchange(self, scope, keep_alive=head.keep_alive, expects_continue=head.expects_continue)
        self._coming = exchange
        if self._running is None:
            self._start(exchange)
        else:
            self.pause_reading()
            self._ahead.append(exchange)

    def on_body(self, data: bytes) -> None:
        assert self._coming is not None
        self._coming.add_body(data)

    def on_end(self) -> None:
        assert self._coming is not None
        self._coming.end_body()

    # --- what the exchange calls --------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Wait until the client has read enough for more to be written."""
        if not self._writable.is_set():
            await self._writable.wait()

    def pause_reading(self) -> None:
        if self._reads and not self.transport.is_closing():
            self._reads = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._reads and not self._ended and not self.transport.is_closing():
            self._reads = True
            self.transport.resume_reading()

    def held(self, let_go: Callable[[], None] | None) -> None:
        """The request waits for events; `let_go` is called if the connection ends. None: it waits no longer."""
        self._let_go = let_go
        if self._ended and let_go is not None:
            self.transport.close()
        self._settle()

    def answered(self) -> None:
        """The answer to the request that is running is written."""
        self._state.total_requests += 1
        self._let_go = None
        self._running = None
        if not self.transport.is_closing():
            if self._ahead:
                self._start(self._ahead.popleft())
            elif self._refusal is not None:
                self._end_with_refusal()
            elif self._ended:
                self.transport.close()
            if not self._ahead:
                self.resume_reading()
        self._settle()

    # --- its own ------------------------------------------------------------------------------------------------------

    def _start(self, exchange: Exchange) -> None:
        self._running = exchange
        if len(self._state.tasks) >= CROWD:
            exchange.scope["state"][BEGUN] = clock.monotonic()
        task = self._loop.create_task(exchange.run(self._application))
        task.add_done_callback(self._state.tasks.discard)
        self._state.tasks.add(task)

    def _refuse(self, error: Malformed) -> None:
        cause: RequestError
        if isinstance(error, http_parser.HeadTooLarge):
            cause = HeadTooLarge(http_parser.HEAD_BYTES, http_parser.FIELDS)
        else:
            cause = InvalidRequest([FieldError("request", str(error))])
        log_malformed(self.peer, str(error))
        self._refusal = _answer(cause)
        self.pause_reading()
        if self._coming is not None and self._coming.more_body:
            # Its body never ends. If its answer has begun, nothing can be said any more.
            self._coming.disconnect()
            if self._coming is self._running:
                self._running = None
            else:
                self._ahead.remove(self._coming)
        if self._running is None:
            self._end_with_refusal()

    def _end_with_refusal(self) -> None:
        assert self._refusal is not None
        self.transport.write(self._refusal)
        self.transport.close()

    def _settle(self) -> None:
        """Tell the crowd who is waited for, and set the time in which it must come."""
        running = self._running
        if running is None:
            idle = self._parser.between and self._refusal is None
            if self._deadline == math.inf or idle != self._idle:
                self._idle = idle
                self._deadline = clock.monotonic() + (KEEP_ALIVE_SECONDS if idle else HEAD_SECONDS)
            self._open_connections.mark_waiting(self)
            return
        self._deadline = math.inf
        if (running is self._coming and running.more_body) or not self._writable.is_set():
            self._open_connections.mark_waiting(self)
        elif self._let_go is not None:
            self._open_connections.mark_holding(self)
        else:
            self._open_connections.mark_working(self)

    def check(self, now: float) -> None:
        """Let the client go that has sent or read too little for too long."""
        unsent = self.transport.get_write_buffer_size()
        if not unsent:
            self._unsent = None
        elif self._unsent is None or (now >= self._unsent[1] and unsent + WRITE_BYTES <= self._unsent[0]):
            self._unsent = (unsent, now + WRITE_SECONDS)
        elif now >= self._unsent[1]:
            self.transport.abort()
        if now >= self._deadline and not self.transport.is_closing():
            self.transport.close()

    def give_way(self) -> None:
        """End at once, for the sake of another."""
        self.transport.abort()

    def shutdown(self) -> None:
        """End as soon as what has come is answered."""
        if self._running is None:
            self.transport.close()
        elif self._coming is not None:
            self._coming.keep_alive = False

    def _release(self) -> None:
        let_go, self._let_go = self._let_go, None
        if let_go is not None:
            let_go()


def _bound(one: socket.socket) -> None:
    """Bound what the kernel keeps for a client, and for how long: one that is gone without a word is found out, also
    while nothing is written to it.
    """
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, SILENT_SECONDS // 2)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, SILENT_SECONDS // 6)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_SECONDS * 1000)


def _answer(refusal: RequestError) -> bytes:
    """A refusal that no application gives, whole."""
    refused = answer(refusal)
    head = b"HTTP/1.1 %d %s\r\n" % (refused.status_code, http.HTTPStatus(refused.status_code).phrase.encode())
    headers = b"".join(b"%s: %s\r\n" % pair for pair in (*refused.headers, *HEADERS, (b"connection", b"close")))
    return head + headers + b"\r\n" + refused.body


class Server(uvicorn.Server):
    """Serves an application on listening sockets. Without uvicorn's signal handlers: it would raise SIGTERM again after
    its own graceful stop.

    Parameters
    ----------
    application, sockets
        What is served, and where.
    connections
        How many may be open at a time; None: any number.
    share
        How many of them one address may have; None: any number.
    """

    def __init__(
        self,
        application: ASGIApp,
        sockets: Sequence[socket.socket],
        connections: int | None,
        share: Callable[[str], int | None] = lambda _address: None,
    ) -> None:
        self._open_connections = OpenConnections(connections, share)
        super().__init__(
            uvicorn.Config(
                application,
                http=partial(Connection, open_connections=self._open_connections),  # type: ignore[arg-type]  # it is called, no more
                ws="none",
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=DRAIN_SECONDS,
            )
        )
        accepted = ACCEPTED if connections is not None else 1  # nobody overloads the local socket
        self._sockets = [one for given in sockets for one in (given, *(given.dup() for _ in range(accepted - 1)))]
        self._listens = True
        self.begun = asyncio.Event()
        """Set when it takes connections."""

    async def on_tick(self, counter: int) -> bool:
        if counter % SWEEP_TURNS == 0:
            self._open_connections.sweep()
        return await super().on_tick(counter)

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
