"""Look up the addresses of a receiver, and keep those that events may be sent to."""

import asyncio
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple

from tminus.delivery.forbidden import is_forbidden

MAX_ADDRESSES = 16
"""Maximum number of addresses that are tried: a name server may return thousands."""


class Target(NamedTuple):
    """An address to connect to, as the socket functions take it."""

    family: socket.AddressFamily
    where: tuple[Any, ...]

    @property
    def address(self) -> str:
        return str(self.where[0])


class Resolver:
    """Resolves the host name of one endpoint. At most one look-up runs at a time, on a thread of its own; callers that
    come while it runs share its result.
    """

    def __init__(self) -> None:
        self._lookup: Future[list[Target]] | None = None

    async def targets(self, host: str, port: int) -> list[Target]:
        """Return all addresses of a host, in the system's order. Raises `OSError`."""
        with suppress(socket.gaierror):  # it is a name and not an IP address
            return _targets(host, port, socket.AI_NUMERICHOST)
        if self._lookup is None or self._lookup.done():
            lookup = Future[list[Target]]()
            lookup.set_running_or_notify_cancel()  # so that a caller who is cancelled does not cancel it for the others
            # Not in a thread pool: a name server that does not respond would block the threads of other endpoints, and
            # the process could not end before them. A daemon thread does not keep the process alive.
            threading.Thread(target=_look_up, args=(lookup, host, port), name="resolver", daemon=True).start()
            self._lookup = lookup
        return await asyncio.wrap_future(self._lookup)


def _look_up(lookup: Future[list[Target]], host: str, port: int) -> None:
    try:
        lookup.set_result(_targets(host, port))
    except Exception as error:
        lookup.set_exception(error)


def _targets(host: str, port: int, flags: int = 0) -> list[Target]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(Target(entry[0], entry[4]) for entry in found))


async def allowed(resolver: Resolver, host: str, port: int, *, link_local: bool) -> list[Target]:
    """Return the addresses of a host that events may be sent to. Raises `OSError` if there are none.

    The caller connects to these addresses and does not resolve the name again. So a name server cannot bypass the check
    by returning another address the second time (DNS rebinding).
    """
    targets = await resolver.targets(host, port)
    good = [target for target in targets if link_local or not is_forbidden(target.address)]
    if not good:
        address = targets[0].address
        raise OSError(f"{host} is {address}: a link-local or metadata address, and allow_link_local is not set")
    return good[:MAX_ADDRESSES]
