"""The body of a request, read whole: within a size and a time."""

import asyncio
from collections.abc import Mapping

from starlette.types import Receive, Scope

from tminus.domain.errors import BodyTooLarge, RequestTimeout

BODY_SECONDS = 20
"""How long a request's body may take to arrive."""


WHOLE = "tminus.whole"
"""Under this key of a scope's state the server leaves a function that returns the whole body; None if it has not come.
"""


class ClientGone(Exception):
    """The client hung up before its request had arrived."""


async def read_body(scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """Return the whole body: it is small by rule, and whoever waits for the rest of it holds nothing else up.

    Raises `BodyTooLarge`, `RequestTimeout`, `ClientGone`.
    """
    announced = headers.get(b"content-length")
    if announced is None and b"transfer-encoding" not in headers:
        return b""
    if announced is not None and int(announced) > limit:
        raise BodyTooLarge(limit)
    come: bytes | None = scope["state"].get(WHOLE, _not_known)()
    if come is not None:
        if len(come) > limit:
            raise BodyTooLarge(limit)
        return come
    body: bytes = b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += bytes(message.get("body", b""))
                if len(body) > limit:
                    raise BodyTooLarge(limit)
                if not message.get("more_body", False):
                    return body
    except TimeoutError:
        raise RequestTimeout from None


def _not_known() -> None:
    """Whoever serves it does not tell whether a body has come."""
