"""Read the body of a request, at once or in parts, within limits of size and time."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from starlette.types import Receive, Scope

from tminus import clock
from tminus.domain.errors import BodyTooLarge, FieldError, InvalidRequest, RequestTimeout

BODY_SECONDS = 20
"""Maximum seconds for a request's body to arrive."""

BATCH_SECONDS = 120
"""The same for a batch: about as long as a body of 16 MiB, the default maximum, takes over a link of 1 Mbit/s."""

BATCH_PATHS = "/v3/supportsessions/batch"
"""Beginning of the paths whose endpoints read the body themselves, after they have authenticated the caller."""

WHOLE = "tminus.whole"
"""Key in the state of an ASGI scope. Its value is a function of the HTTP server that returns the complete body, or None
if it has not arrived yet.
"""

MALFORMED = "tminus.malformed"
"""Key in the ASGI message `http.disconnect`: what is wrong with a body whose end the HTTP server cannot find."""


class ClientDisconnected(Exception):
    """The client disconnected before its request was complete."""


async def read_body(
    scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, limit: int, seconds: float | None = None
) -> bytes:
    """Return the complete body, which is at most `limit` bytes. Waiting for it blocks no other request.

    It must arrive within `seconds`; None: `BODY_SECONDS`.

    Raises `BodyTooLarge`, `InvalidRequest`, `RequestTimeout`, `ClientDisconnected`.
    """
    complete = whole_body(scope, headers, limit)
    if complete is not None:
        return complete
    return b"".join([part async for part in body_parts(receive, limit, BODY_SECONDS if seconds is None else seconds)])


def whole_body(scope: Scope, headers: Mapping[bytes, bytes], limit: int) -> bytes | None:
    """Return the body if all of it has arrived, b"" if the request has none; otherwise None. Raises `BodyTooLarge`."""
    announced = headers.get(b"content-length")
    if announced is None and b"transfer-encoding" not in headers:
        return b""
    if announced is not None and int(announced) > limit:
        raise BodyTooLarge(limit)
    complete: bytes | None = scope["state"].get(WHOLE, _no_complete_body)()
    if complete is not None and len(complete) > limit:
        raise BodyTooLarge(limit)
    return complete


async def body_parts(receive: Receive, limit: int, seconds: float) -> AsyncIterator[bytes]:
    """Yield the parts of the body as they arrive, within the same limits, and raise the same errors as `read_body`."""
    size, until = 0, clock.monotonic() + seconds
    while True:
        try:
            async with asyncio.timeout(max(0.0, until - clock.monotonic())):
                message = await receive()
        except TimeoutError:
            raise RequestTimeout from None
        if message["type"] == "http.disconnect":
            if MALFORMED in message:
                raise InvalidRequest([FieldError("request", message[MALFORMED])])
            raise ClientDisconnected
        part = bytes(message.get("body", b""))
        size += len(part)
        if size > limit:
            raise BodyTooLarge(limit)
        yield part
        if not message.get("more_body", False):
            return


def _no_complete_body() -> None:
    """Return None: this HTTP server does not offer complete bodies."""
