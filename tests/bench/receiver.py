"""A receiver of webhooks that costs next to nothing: a process of its own that answers 200 and keeps what it was sent.

It does as it is told on standard input, a line each, and says what came of it on standard output, as a line of JSON:

==========  ==========================================================================================
`up`        answers from now on; says its port
`down`      drops every connection and refuses new ones, on the same port; says its port
`wait N`    says how many events it has once they are N, or after `PATIENCE`
`take`      says what it has (a `Taken`), and forgets it
==========  ==========================================================================================

It begins `down`. What it was sent is only read when it is taken, after the clock has stopped.
"""

import asyncio
import json
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

import orjson
import uvloop

PATIENCE = 300.0
"""Seconds that it waits for events."""

Row = list[Any]
"""Of an event: seq, type, session id, status, as it was told."""

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_EVENT = b'"eventId":"'  # inside a text its quotes would be escaped


@dataclass
class Taken:
    """What came, in the order in which it came."""

    events: list[Row]
    requests: int
    first: float
    """When the first request was there as a whole (Unix time)."""
    first_events: int
    """How many events that one told."""
    last: float
    requests_at: list[list[float]]
    """Of each request: when its connection began, and when it was there as a whole (Unix times)."""

    @property
    def per_second(self) -> float:
        """From the first request to the last."""
        return (len(self.events) - self.first_events) / (self.last - self.first)


class Receiver:
    """The process. A context: leaving it ends it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.bench.receiver"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.url = f"http://127.0.0.1:{self._ask('down')}/"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.communicate()

    def up(self) -> None:
        self._ask("up")

    def down(self) -> None:
        self._ask("down")

    def wait(self, events: int) -> None:
        """Returns when it has so many events. Raises `RuntimeError` if they do not come."""
        found = self._ask(f"wait {events}")
        if found < events:
            raise RuntimeError(f"of {events} events {found} were delivered within {PATIENCE:.0f} s")

    def take(self) -> Taken:
        """What came since it was last taken; there must be something."""
        return Taken(**self._ask("take"))

    def _ask(self, what: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what.encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


# --- in the receiver's process ----------------------------------------------------------------------------------------


class _Server:
    def __init__(self) -> None:
        self.port = 0
        self.connections: set[asyncio.Transport] = set()
        self.bodies: list[tuple[float, float, bytes]] = []
        self.events = 0
        self._wanted = 0
        self._enough = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._bound = socket.socket()

    async def run(self) -> None:
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        async for line in lines:
            what, *numbers = line.decode().split()
            said = await getattr(self, what)(*map(int, numbers))
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()

    async def down(self) -> int:
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.abort()
        # Bound, but nobody listens: a connection is refused, and nobody else gets the port.
        self._bound.close()
        self._bound = socket.socket()
        self._bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._bound.bind(("127.0.0.1", self.port))
        self.port = self._bound.getsockname()[1]
        return self.port

    async def up(self) -> int:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), sock=self._bound)
        return self.port

    async def wait(self, events: int) -> int:
        self._wanted = events
        self._enough.clear()
        if self.events < events:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), PATIENCE)
        return self.events

    async def take(self) -> dict[str, Any]:
        told = [orjson.loads(body) for _, _, body in self.bodies]
        taken = Taken(
            events=[[one["seq"], one["type"], one["id"], one["status"]] for events in told for one in events],
            requests=len(told),
            first=self.bodies[0][1],
            first_events=len(told[0]),
            last=self.bodies[-1][1],
            requests_at=[[began, came] for began, came, _ in self.bodies],
        )
        self.bodies, self.events = [], 0
        return asdict(taken)

    def came(self, began: float, body: bytes) -> None:
        self.bodies.append((began, time.time(), body))
        self.events += body.count(_EVENT)
        if self.events >= self._wanted:
            self._enough.set()


class _Connection(asyncio.Protocol):
    def __init__(self, server: _Server) -> None:
        self._server = server
        self._received = bytearray()
        self._body = self._end = 0
        """Where the body of this request begins and ends; 0 while its head is not there."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._began = time.time()
        self._server.connections.add(transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._end:
            head = self._received.find(b"\r\n\r\n")
            if head < 0:
                return
            length = self._received[:head].lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            self._body = head + 4
            self._end = self._body + int(length)
        if len(self._received) >= self._end:
            self._server.came(self._began, bytes(self._received[self._body : self._end]))
            del self._received[: self._end]
            self._end = 0
            self._transport.write(_ANSWER)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self._transport)


if __name__ == "__main__":
    uvloop.run(_Server().run())
