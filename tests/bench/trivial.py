"""The floor of requests and WebSockets: an ASGI application that does nothing, on the same server as the daemon.

A WebSocket gets each message back. The message `end` closes all of them.

`python -m tests.bench.trivial` serves it on a free port of 127.0.0.1, and writes the port to standard output.
"""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Self

import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from tminus.service.http_server import Server

_HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"15")],
}
_BODY = {"type": "http.response.body", "body": b'{"status":"ok"}'}


CONNECTIONS = 4000
"""Connections that the server accepts; three quarters of them may be WebSockets."""

END = "end"

_ended = asyncio.Event()


async def _echo(receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
    closing = asyncio.create_task(_close(send))
    try:
        while (message := await receive())["type"] == "websocket.receive":
            if message["text"] == END:
                _ended.set()
            else:
                await send({"type": "websocket.send", "text": message["text"]})
    finally:
        closing.cancel()


async def _close(send: Send) -> None:
    await _ended.wait()
    await send({"type": "websocket.close", "code": 4410, "reason": "closed"})


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the whole body, if the method allows one, and send a constant answer."""
    if scope["type"] == "websocket":
        await _echo(receive, send)
        return
    if scope["method"] != "GET":
        while (await receive()).get("more_body"):
            pass
    await answer(send)


async def answer(send: Send) -> None:
    """Send the constant answer."""
    await send(_HEAD)
    await send(_BODY)


class Trivial:
    """The trivial application as a process, which ends with the context."""

    _command: Sequence[str] = ("tests.bench.trivial",)
    """The module that serves, and its arguments."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, "-m", *self._command], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.pid = self._process.pid
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.communicate()


async def serve(application: ASGIApp) -> None:
    """Serve an application on the daemon's server, and write its port to standard output."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    server = Server(application, [listener], CONNECTIONS)
    print(listener.getsockname()[1], flush=True)
    await server.serve_all()


if __name__ == "__main__":
    uvloop.run(serve(application))
