"""Webhook receivers: real HTTP servers on loopback with configurable responses, good and bad."""

import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from standardwebhooks import Webhook

SECRET = "whsec_" + "c2VjcmV0IG9mIGEgcmVjZWl2ZXIgaW4gdGVzdHMu"
OTHER_SECRET = "whsec_" + "YW5vdGhlciBzZWNyZXQsIGEgbmV3ZXIgb25lLi4="


@dataclass
class Received:
    """A received request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.body)
        return found

    @property
    def seqs(self) -> list[int]:
        return [event["seq"] for event in self.events]

    def verify(self, secret: str = SECRET) -> None:
        """Verify the signature with the library that receivers use. Raises if it was made with another secret."""
        Webhook(secret).verify(self.body, self.headers)


Answer = Callable[["Handler"], None]


def status(code: int, **headers: str) -> Answer:
    """Return a handler that responds with this status."""

    def answer(handler: "Handler") -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"ok" if code == 200 else b"no")

    return answer


def hang_up(handler: "Handler") -> None:
    """Close the connection in the middle of a response."""
    handler.wfile.write(b"HTTP/1.1 20")
    handler.wfile.flush()
    handler.connection.shutdown(2)


def trickle(handler: "Handler") -> None:
    """Send a response that does not end, one byte at a time."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(200):
        if handler.receiver.closing.wait(0.05):
            return
        try:
            handler.wfile.write(b"x")
        except OSError:
            return


def flood(handler: "Handler") -> None:
    """Respond with 200 and ten megabytes, or as much as the client reads."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(10_000_000))
    handler.end_headers()
    try:
        handler.wfile.write(b"x" * 10_000_000)
    except OSError:
        handler.close_connection = True


class RawReceiver:
    """A receiver that reads a request and then calls `play`, which may send valid HTTP or anything else."""

    def __init__(self, play: "Callable[[socket.socket], None]") -> None:
        self._play = play
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                connection, _ = self._listening.accept()
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            read_request(connection)
            self._play(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def read_request(connection: socket.socket) -> bytes:
    """Read one request. Raises `OSError` if there is none."""
    read = b""
    while b"\r\n\r\n" not in read:
        if not (part := connection.recv(65_536)):
            raise ConnectionResetError
        read += part
    head, _, body = read.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65_536)
    return head


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    receiver: "Receiver"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        received = Received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        answer = self.receiver.took(received)
        answer(self)

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass  # some tests make the sender close the connection


class Receiver:
    """A receiver. `answers` has the responses to the next requests, in order; `answer` responds to all later ones."""

    def __init__(self, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.answer: Answer = status(200)
        self.answers: list[Answer] = []
        self.requests: list[Received] = []
        self.closing = threading.Event()
        handler = type("Bound", (Handler,), {"receiver": self})
        self._server = _Server(("127.0.0.1", port), handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"http{'s' if tls else ''}://localhost:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def took(self, received: Received) -> Answer:
        answer = self.answers.pop(0) if self.answers else self.answer
        self.requests.append(received)
        return answer

    @property
    def seqs(self) -> list[int]:
        """Return the numbers of all received events, in order."""
        return [seq for request in tuple(self.requests) for seq in request.seqs]

    @property
    def types(self) -> list[str]:
        """Return the types of all received events, in order."""
        return [event["type"] for request in tuple(self.requests) for event in request.events]

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
