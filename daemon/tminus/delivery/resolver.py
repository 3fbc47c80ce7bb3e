"""Which addresses a receiver has, and which of them events may be sent to."""

import asyncio
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tminus.delivery.forbidden import is_forbidden

ADDRESSES = 16
"""Addresses of a host that are tried: a name server may answer with thousands."""


@dataclass(frozen=True, slots=True)
class Target:
    """An address to connect to, as the system's calls take it."""

    family: socket.AddressFamily
    where: tuple[Any, ...]

    @property
    def address(self) -> str:
        return str(self.where[0])


class Resolver:
    """Asks what the name of an endpoint's host means. One an endpoint, as each asks for one name only: at most one
    question is open, on a thread of its own, and whoever asks meanwhile gets that one's answer.
    """

    def __init__(self) -> None:
        self._asked: Future[list[Target]] | None = None

    async def targets(self, host: str, port: int) -> list[Target]:
        """All addresses of a host, in the system's order. Raises `OSError`."""
        with suppress(socket.gaierror):  # a name, or no address in spite of its looks
            return _targets(host, port, socket.AI_NUMERICHOST)
        if self._asked is None or self._asked.done():
            asked = Future[list[Target]]()
            asked.set_running_or_notify_cancel()  # who waits no longer must not cancel it for those who do
            # No pool: a silent name server would have its threads from the other endpoints, and a process does not end
            # before a pool's threads do. A daemon thread is left where it is.
            threading.Thread(target=_answer, args=(asked, host, port), name="resolver", daemon=True).start()
            self._asked = asked
        return await asyncio.wrap_future(self._asked)


def _answer(asked: Future[list[Target]], host: str, port: int) -> None:
    try:
        asked.set_result(_targets(host, port))
    except Exception as error:
        asked.set_exception(error)


def _targets(host: str, port: int, flags: int = 0) -> list[Target]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(Target(entry[0], entry[4]) for entry in found))


async def allowed(resolver: Resolver, host: str, port: int, *, link_local: bool) -> list[Target]:
    """The addresses of a host that events may be sent to. What the name means is asked once, and the answer is what is
    connected to: a name that means another address a moment later leads nowhere else.

    Raises `OSError` where there is none: a link-local address is where clouds hand out their keys.
    """
    targets = await resolver.targets(host, port)
    good = [one for one in targets if link_local or not is_forbidden(one.address)]
    if not good:
        address = targets[0].address
        raise OSError(f"{host} is {address}: a link-local or metadata address, and allow_link_local is not set")
    return good[:ADDRESSES]
