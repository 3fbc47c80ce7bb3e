"""Responses as ASGI applications, with a status, headers and a complete body."""

from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

Headers = list[tuple[bytes, bytes]]

RESPOND = "tminus.respond"
"""Key in the state of an ASGI scope. Its value is a function of the HTTP server that sends a complete response: status,
headers, further header fields that are encoded already, and the body.
"""


class Response:
    """A response with a complete body. `headers` are added to `Content-Length` and `Content-Type`."""

    __slots__ = ("body", "headers", "status_code")

    def __init__(
        self,
        body: bytes = b"",
        media_type: str | None = None,
        status_code: int = 200,
        headers: Headers | None = None,
    ) -> None:
        self.body = body
        self.status_code = status_code
        self.headers = [*headers] if headers else []
        if status_code not in {204, 304}:
            self.headers.append((b"content-length", b"%d" % len(body)))
        if media_type is not None:
            self.headers.append((b"content-type", media_type.encode("latin-1")))

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


class Json(Response):
    """A response in JSON. Content of type bytes is sent unchanged."""

    __slots__ = ()

    def __init__(self, content: Any, status_code: int = 200, headers: Headers | None = None) -> None:
        body = content if isinstance(content, bytes) else orjson.dumps(content)
        super().__init__(body, "application/json", status_code, headers)
