"""Serve HTTP on open sockets, with uvicorn's server and the project's own connection class."""

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
from tminus.domain.errors import FieldError, HeadTooLarge, InvalidRequest, Overloaded, RequestError, WebSocketsFull
from tminus.domain.networks import client_network
from tminus.service import http_parser
from tminus.service.connections import OpenConnections, log_malformed, log_unread
from tminus.service.http_exchange import Exchange, SendQueue
from tminus.service.http_parser import Head, Malformed, Parser
from tminus.service.sockets import BACKLOG
from tminus.service.websocket_exchange import Rates, WebSocketExchange

LAST_REQUESTS = 0.1
"""Seconds for which the server continues after it stopped listening, for connections that it had just accepted."""

DRAIN_SECONDS = 6
"""Maximum seconds for running requests to finish after the daemon received a signal to stop."""

KEEP_ALIVE_SECONDS = 75
"""Seconds after which the server closes an idle connection. Common proxies close theirs earlier, so that no proxy
sends a request on a connection that the server is closing.
"""

HEAD_SECONDS = 20
"""Maximum seconds for a request's head to arrive, from its first byte; for the first request, from the connection's
start. The same limit holds for the rest of a body after its response.
"""

WRITE_SECONDS = 20
"""Maximum seconds for a client to read `WRITE_BYTES` of a response, or its rest; then the connection is aborted."""

WRITE_BYTES = 16_384
"""Bytes that a client must read in `WRITE_SECONDS`: together they are the minimum rate."""

WRITE_BUFFER = 65_536
"""Maximum bytes of responses buffered for a connection; beyond it the application waits."""

KERNEL_BUFFER = 65_536
"""Bytes of the kernel's send buffer for a connection; Linux doubles the value. By default the kernel buffers megabytes
for each client that does not read, which can exhaust its memory for all connections.
"""

UNACKNOWLEDGED_SECONDS = 60
"""Maximum seconds without acknowledgement of sent data. The limit detects clients that have lost their network."""

MAX_PIPELINED = 64
"""Maximum number of pipelined requests that wait on one connection."""

ACCEPTED = 32
"""Connections that are accepted in one iteration of the event loop.

The loop accepts one connection from each socket, so the server listens on as many duplicates. Under load iterations are
long: with eight duplicates, the last of 800 concurrent connections waited two seconds, even to be refused.
"""

MANY_REQUESTS = 64
"""Number of requests in flight above which queueing delay is limited. With fewer, a delay means a slow machine."""

SWEEP_TURNS = 5
"""Iterations of uvicorn's main loop, a tenth of a second each, between checks of all connections' time-outs."""


class Connection(asyncio.Protocol):
    """One connection. It answers requests in their order.

    uvicorn passes the first four arguments, calls `shutdown`, and reads `ServerState`.

    Parameters
    ----------
    open_connections
        All connections of the server.
    rates
        Returns what the client of a WebSocket may send.
    sends
        Receives the responses of all connections.
    """

    transport: asyncio.Transport

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # noqa: ARG002  # uvicorn passes it by name
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        open_connections: OpenConnections,
        rates: Callable[[], Rates],
        sends: SendQueue,
    ) -> None:
        self.sends = sends
        self.peer = self.address = "local"
        self._application: ASGIApp = config.loaded_app
        self._loop = _loop or asyncio.get_running_loop()
        self._state = server_state
        self._open_connections = open_connections
        self._rates = rates
        self._parser = Parser(self)
        self._running: Exchange | None = None
        """The request that is being answered."""
        self._latest: Exchange | None = None
        """The latest request; its body may be incomplete."""
        self._pipelined: deque[Exchange] = deque()
        """Pipelined requests that wait for earlier responses."""
        self._refusal: bytes | None = None
        """The refusal of a malformed head. It is sent after all earlier responses; then the connection is closed."""
        self._is_broken = False
        """Whether a request was malformed: no other request can follow, and what arrives is discarded."""
        self._is_finishing = False
        """Whether the last response is written, and the connection waits until the client closes its side."""
        self._stops = False
        """Whether the daemon is stopping."""
        self._deadline = math.inf
        """Monotonic time by which the client must have sent the next request or the rest of a body."""
        self._idle = False
        """Whether the deadline is that of an idle connection."""
        self._unread: tuple[int, float] | None = None
        """A measure of what the client has read, and the monotonic time by which it must have increased."""
        self._writable = asyncio.Event()
        self._writable.set()
        self._is_reading = True
        self._ended = False
        """Whether the client has closed its sending side."""
        self._end_wait: Callable[[], None] | None = None

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        return self._state.default_headers

    # --- called by the transport --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # always a socket transport
        self.transport = transport
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        # The address of a Unix socket is a path; that of TCP has a host and a port.
        self._client = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) else None
        self._server = (str(own[0]), int(own[1])) if isinstance(own, tuple) else (str(own), None)
        if self._client:
            self.peer, self.address = self._client[0], client_network(self._client[0])
        if not self._open_connections.admit(self):
            transport.write(self._complete_answer(Overloaded()))
            transport.close()
            self._loop.call_later(WRITE_SECONDS, transport.abort)
            return
        self._state.connections.add(self)  # type: ignore[arg-type]  # uvicorn's annotation has only its own classes
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        if self._client:
            _set_options(transport.get_extra_info("socket"))
        self._deadline = clock.monotonic() + HEAD_SECONDS

    def connection_lost(self, _exc: Exception | None) -> None:
        self._state.connections.discard(self)
        self._open_connections.remove(self)
        for exchange in {self._running, self._latest, *self._pipelined} - {None}:
            exchange.disconnect()  # type: ignore[union-attr]
        self._pipelined.clear()
        self._release()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._is_broken or self._is_finishing or self.transport.is_closing():
            return
        try:
            self._parser.feed(data)
        except Malformed as error:
            self._refuse(error)
        self._settle()

    def eof_received(self) -> bool:
        """Keep the connection open if requests of the client are unanswered.

        A client may close its sending side right after its request; without a response, a created session would look
        refused. A client that waits for events counts as disconnected.
        """
        self._ended = True
        last = self._latest
        if last is not None and last.more_body and last in self._pipelined:
            self._pipelined.remove(last)
            last.disconnect()
        elif self._running is None or self._end_wait is not None or (last is not None and last.more_body):
            return False
        return not self.transport.is_closing()

    def pause_writing(self) -> None:
        self._writable.clear()
        self._settle()

    def resume_writing(self) -> None:
        self._writable.set()
        self._unread = None
        self._settle()

    # --- called by the parser -----------------------------------------------------------------------------------------

    def on_head(self, head: Head) -> None:
        if len(self._pipelined) >= MAX_PIPELINED:
            raise Malformed(f"is one of more than {MAX_PIPELINED} pipelined requests")
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
        exchange: Exchange
        if head.websocket:
            del scope["method"]
            scope.update(type="websocket", scheme="ws", subprotocols=_subprotocols(head.headers))
            exchange = WebSocketExchange(self, scope, dict(head.headers)[b"sec-websocket-key"], self._rates)
        else:
            exchange = Exchange(self, scope, keep_alive=head.keep_alive, expects_continue=head.expects_continue)
        self._latest = exchange
        if self._running is None:
            self._start(exchange)
        else:
            self.pause_reading()
            self._pipelined.append(exchange)

    def on_body(self, data: bytes) -> None:
        assert self._latest is not None
        self._latest.add_body(data)

    def on_end(self) -> None:
        assert self._latest is not None
        self._latest.end_body()

    def on_upgraded(self, data: bytes) -> None:
        assert isinstance(self._latest, WebSocketExchange)
        self._latest.feed(data)

    # --- called by the exchange ---------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Wait until the write buffer is below its limit."""
        if not self._writable.is_set():
            await self._writable.wait()

    def pause_reading(self) -> None:
        if self._is_reading and not self.transport.is_closing():
            self._is_reading = False
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._is_reading and not self._ended and not self.transport.is_closing():
            self._is_reading = True
            self.transport.resume_reading()

    def set_wait(self, end_wait: Callable[[], None] | None) -> None:
        """Note that the request waits for events; call `end_wait` if the connection ends. None: the wait is over."""
        self._end_wait = end_wait
        if self._ended and end_wait is not None:
            self.transport.close()
        self._settle()

    def response_sent(self) -> None:
        """Start the next request, since the response to the current one is written."""
        self._state.total_requests += 1
        self._end_wait = None
        self._running = None
        if not self._is_finishing and not self.transport.is_closing():
            if self._pipelined:
                self._start(self._pipelined.popleft())
            elif self._refusal is not None:
                self._end_with_refusal()
            elif self._ended:
                self.transport.close()
            if not self._pipelined:
                self.resume_reading()
        self._settle()

    def finish(self) -> None:
        """Close the connection, because its last response is written.

        If the client may still be sending, it is not closed at once: for bytes that nobody reads the kernel would reset
        the connection, and the client, or a proxy, would lose the response. What arrives is discarded until the client
        closes its side, or the deadline for the rest of a body has passed.
        """
        sends = self._is_broken or (self._latest is not None and self._latest.more_body)
        if not sends or self._ended or self._stops or self.transport.is_closing():
            self.transport.close()
            return
        self._is_finishing = True
        self.transport.write_eof()
        self.resume_reading()

    # --- internal -----------------------------------------------------------------------------------------------------

    def _start(self, exchange: Exchange) -> None:
        self._running = exchange
        if isinstance(exchange, WebSocketExchange) and not self._open_connections.admit_websocket(self):
            self.transport.write(self._complete_answer(WebSocketsFull()))
            self.transport.close()
            return
        if len(self._state.tasks) - self._open_connections.websockets >= MANY_REQUESTS:
            exchange.scope["state"][BEGUN] = clock.monotonic()
        task = self._loop.create_task(exchange.run(self._application))
        task.add_done_callback(self._state.tasks.discard)
        self._state.tasks.add(task)

    def _refuse(self, error: Malformed) -> None:
        self._is_broken = True
        log_malformed(self.peer, str(error))
        latest = self._latest
        if latest is None or not latest.more_body:
            cause: RequestError = InvalidRequest([FieldError("request", str(error))])
            if isinstance(error, http_parser.HeadTooLarge):
                cause = HeadTooLarge(http_parser.HEAD_BYTES, http_parser.FIELDS)
            self._refusal = self._complete_answer(cause)
            self.pause_reading()
            if self._running is None:
                self._end_with_refusal()
        elif latest.complete:
            self.finish()
        else:
            latest.break_body(str(error))

    def _end_with_refusal(self) -> None:
        assert self._refusal is not None
        self.transport.write(self._refusal)
        self.finish()

    def _complete_answer(self, refusal: RequestError) -> bytes:
        """Return a complete response for a refusal that the connection sends without the application."""
        refused = answer(refusal)
        head = b"HTTP/1.1 %d %s\r\n" % (refused.status_code, http.HTTPStatus(refused.status_code).phrase.encode())
        every = (*self.default_headers, *refused.headers, *HEADERS, (b"connection", b"close"))
        return head + b"".join(b"%s: %s\r\n" % pair for pair in every) + b"\r\n" + refused.body

    def _settle(self) -> None:
        """Update the state in `OpenConnections`, and the deadline of the client."""
        running = self._running
        if running is None:
            idle = self._parser.is_between_requests and not self._is_broken and not self._is_finishing
            if self._deadline == math.inf or idle != self._idle:
                self._idle = idle
                self._deadline = clock.monotonic() + (KEEP_ALIVE_SECONDS if idle else HEAD_SECONDS)
            self._open_connections.mark_waiting(self)
            return
        self._deadline = math.inf
        if isinstance(running, WebSocketExchange):
            self._open_connections.mark_working(self)  # it is never closed for another connection
        elif (running is self._latest and running.more_body) or not self._writable.is_set():
            self._open_connections.mark_waiting(self)
        elif self._end_wait is not None:
            self._open_connections.mark_holding(self)
        else:
            self._open_connections.mark_working(self)

    def check(self, now: float) -> None:
        """Close the connection if its client has sent or read too little for too long."""
        unsent = self.transport.get_write_buffer_size()
        websocket = self._running if isinstance(self._running, WebSocketExchange) else None
        # What a WebSocket writes must be counted, since it may write more before the client has read all.
        read = (websocket.written if websocket is not None else 0) - unsent
        if not unsent:
            self._unread = None
        elif self._unread is None or (now >= self._unread[1] and read >= self._unread[0] + WRITE_BYTES):
            self._unread = (read, now + WRITE_SECONDS)
        elif now >= self._unread[1]:
            if websocket is not None:
                websocket.abort(f"less than {WRITE_BYTES // 1024} KiB were read in {WRITE_SECONDS} s")
            else:
                log_unread(self.peer)
                self.transport.abort()
        if websocket is not None:
            websocket.check(now)
        if now >= self._deadline and not self.transport.is_closing():
            self.transport.close()

    def evict(self) -> None:
        """Abort the connection, since the server is full and a new connection replaces this one."""
        self.transport.abort()

    def shutdown(self) -> None:
        """Close the connection after the responses to all received requests."""
        self._stops = True
        if self._running is None:
            self.transport.close()
        elif self._latest is not None:
            self._latest.keep_alive = False
            if isinstance(self._latest, WebSocketExchange):
                self._latest.shutdown()

    def _release(self) -> None:
        end_wait, self._end_wait = self._end_wait, None
        if end_wait is not None:
            end_wait()


def _subprotocols(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    """Return the subprotocols that a client offers, in its order."""
    offered = b",".join(value for name, value in headers if name == b"sec-websocket-protocol").decode("latin-1")
    return [one for part in offered.split(",") if (one := part.strip(" \t"))]


def _set_options(one: socket.socket) -> None:
    """Limit the kernel's buffer for a client, and detect a client that is unreachable.

    Keep-alive probes detect it also while nothing is sent.
    """
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, UNACKNOWLEDGED_SECONDS // 2)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, UNACKNOWLEDGED_SECONDS // 6)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_SECONDS * 1000)


class Server(uvicorn.Server):
    """Serve an application on listening sockets.

    uvicorn's signal handlers are not installed: they would raise SIGTERM again after the graceful stop.

    Parameters
    ----------
    application, sockets
        The application, and the listening sockets.
    connections
        Maximum number of open connections; None: no limit.
    most_per_address
        Returns the maximum for one client address; None: no limit.
    rates
        Returns what the client of a WebSocket may send.
    """

    def __init__(
        self,
        application: ASGIApp,
        sockets: Sequence[socket.socket],
        connections: int | None,
        most_per_address: Callable[[str], int | None] = lambda _address: None,
        rates: Callable[[], Rates] = Rates,
    ) -> None:
        self._open_connections = OpenConnections(connections, most_per_address)
        super().__init__(
            uvicorn.Config(
                application,
                http=partial(Connection, open_connections=self._open_connections, rates=rates, sends=SendQueue()),  # type: ignore[arg-type]  # uvicorn only calls it
                interface="asgi3",
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
        accepted = ACCEPTED if connections is not None else 1  # the local socket has few clients
        self._sockets = [one for given in sockets for one in (given, *(given.dup() for _ in range(accepted - 1)))]
        self._listens = True
        self.begun = asyncio.Event()
        """Set when the server accepts connections."""

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
        """Serve the sockets until `should_exit` is set."""
        await self.serve(self._sockets)

    def stop_listening(self) -> None:
        """Accept no more connections, even if the server has not started yet. Open connections continue."""
        self._listens = False
        for one in self.servers if self.begun.is_set() else ():
            one.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
