"""Connects to the first address of a host that answers (RFC 8305): one that is silent costs a quarter of a second."""

import asyncio
import errno
import socket
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest

from tminus.delivery.resolver import Target

DELAY = 0.25
"""Seconds that an address has before the next is tried beside it, as RFC 8305 advises."""

_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors of an address whose family this machine does not reach: what the others met is the reason."""


def in_order(targets: Sequence[Target], last: Target | None) -> list[Target]:
    """The addresses in the order in which they are tried: the one that was connected to last, then the two families in
    turn, as one of them may be routed nowhere.
    """
    first = targets[0].family
    same = [one for one in targets if one.family == first]
    other = [one for one in targets if one.family != first]
    found = [one for one in chain.from_iterable(zip_longest(same, other)) if one is not None]
    if last in found:
        found.remove(last)
        found.insert(0, last)
    return found


async def connect(targets: Sequence[Target]) -> tuple[socket.socket, Target]:
    """Return a socket that is connected to one of the addresses. Raises the `OSError` of the first that was reached."""
    left: Iterator[Target] = iter(targets)
    begun: dict[asyncio.Task[socket.socket], Target] = {}
    failed: BaseException | None = None
    upcoming = next(left, None)
    try:
        while True:
            if upcoming is not None:
                begun[asyncio.create_task(_connected(upcoming))] = upcoming
                upcoming = next(left, None)
            if not begun:
                assert failed is not None  # there was one address at least
                raise failed
            wait = DELAY if upcoming is not None else None
            done, _ = await asyncio.wait(begun, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if (error := task.exception()) is None:
                    return task.result(), begun.pop(task)
                failed = error if failed is None or _has_no_route(failed) else failed
                del begun[task]
    finally:
        for task in begun:
            if not task.cancel() and not task.cancelled() and task.exception() is None:
                task.result().close()  # it was connected at the same moment


def _has_no_route(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _NO_ROUTE


async def _connected(target: Target) -> socket.socket:
    connection = socket.socket(target.family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connection, target.where)
    except BaseException:
        connection.close()
        raise
    return connection
