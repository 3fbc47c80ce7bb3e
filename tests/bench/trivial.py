"""The floor of requests: a process with an ASGI application that does nothing, on the same server as the daemon.

`python -m tests.bench.trivial` serves it on a free port of 127.0.0.1, and writes the port to standard output.
"""

import socket
import subprocess
import sys
from typing import Self

import uvloop
from starlette.types import Receive, Scope, Send

from tminus.service.http_server import Server

_HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"15")],
}
_BODY = {"type": "http.response.body", "body": b'{"status":"ok"}'}


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the whole body, if the method allows one, and send a constant answer."""
    if scope["method"] != "GET":
        while (await receive()).get("more_body"):
            pass
    await send(_HEAD)
    await send(_BODY)


class Trivial:
    """The trivial application as a process, which ends with the context."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, "-m", "tests.bench.trivial"], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.communicate()


async def _serve() -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    server = Server(application, [listener], 1000)
    print(listener.getsockname()[1], flush=True)
    await server.serve_all()


if __name__ == "__main__":
    uvloop.run(_serve())
