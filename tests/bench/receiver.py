"""A receiver of webhooks that uses little processor time: a separate process that answers 200 and stores the requests.

It reads commands from standard input, one per line, and writes each result to standard output as a line of JSON:

==========  ==========================================================================================
`up`        begins to answer; returns its port
`down`      drops all connections and refuses new ones on the same port; returns the port
`wait N`    waits for N events, at most `WAIT_SECONDS`; returns the number of events
`take`      returns the stored requests (a `Taken`) and removes them
==========  ==========================================================================================

At the start it is `down`. It parses the bodies only for `take`, after the measurement.
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

WAIT_SECONDS = 300.0
"""Maximum seconds that it waits for events."""

Row = list[Any]
"""The `seq`, type, session id and status of an event."""

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_EVENT = b'"eventId":"'  # unique: within a JSON string the quotes would be escaped


@dataclass
class Taken:
    """The received events and requests, in order."""

    events: list[Row]
    requests: int
    first: float
    """When the first request was complete (Unix time)."""
    first_events: int
    """Number of events in the first request."""
    last: float
    requests_at: list[list[float]]
    """For each request: when its connection was opened, and when it was complete (Unix times)."""

    @property
    def per_second(self) -> float:
        """Events per second from the first request to the last."""
        return (len(self.events) - self.first_events) / (self.last - self.first)


class Receiver:
    """The process, which ends with the context."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.bench.receiver"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.url = f"http://127.0.0.1:{self._command('down')}/"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.communicate()

    def up(self) -> None:
        self._command("up")

    def down(self) -> None:
        self._command("down")

    def wait(self, events: int) -> None:
        """Wait until it has this number of events. Raises `RuntimeError` after `WAIT_SECONDS`."""
        found = self._command(f"wait {events}")
        if found < events:
            raise RuntimeError(f"of {events} events {found} were delivered within {WAIT_SECONDS:.0f} s")

    def take(self) -> Taken:
        """Return what it received since the last call, at least one request."""
        return Taken(**self._command("take"))

    def _command(self, what: str) -> Any:
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
            result = await getattr(self, what)(*map(int, numbers))
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()

    async def down(self) -> int:
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.abort()
        # The port is bound without a listener, so connections are refused and no other process gets the port.
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
                await asyncio.wait_for(self._enough.wait(), WAIT_SECONDS)
        return self.events

    async def take(self) -> dict[str, Any]:
        batches = [orjson.loads(body) for _, _, body in self.bodies]
        taken = Taken(
            events=[[one["seq"], one["type"], one["id"], one["status"]] for events in batches for one in events],
            requests=len(batches),
            first=self.bodies[0][1],
            first_events=len(batches[0]),
            last=self.bodies[-1][1],
            requests_at=[[began, complete] for began, complete, _ in self.bodies],
        )
        self.bodies, self.events = [], 0
        return asdict(taken)

    def add_request(self, began: float, body: bytes) -> None:
        self.bodies.append((began, time.time(), body))
        self.events += body.count(_EVENT)
        if self.events >= self._wanted:
            self._enough.set()


class _Connection(asyncio.Protocol):
    def __init__(self, server: _Server) -> None:
        self._server = server
        self._received = bytearray()
        self._body = self._end = 0
        """Where the body of this request begins and ends; 0 until its head is complete."""

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
            self._server.add_request(self._began, bytes(self._received[self._body : self._end]))
            del self._received[: self._end]
            self._end = 0
            self._transport.write(_ANSWER)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self._transport)


if __name__ == "__main__":
    uvloop.run(_Server().run())
