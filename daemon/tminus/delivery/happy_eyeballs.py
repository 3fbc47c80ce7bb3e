"""Connect to the first address of a host that accepts (Happy Eyeballs, RFC 8305).

An address that does not respond delays the connection by a quarter of a second.
"""

import asyncio
import errno
import socket
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest

from tminus.delivery.resolver import Target

DELAY = 0.25
"""Seconds after which the next address is tried in parallel, as RFC 8305 recommends."""

_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""Errors that occur if this machine has no route for an address family. Errors of other addresses explain more."""


def in_order(targets: Sequence[Target], last: Target | None) -> list[Target]:
    """Return the addresses in the order in which to try them: first the last one that worked, then IPv4 and IPv6 in
    turn, since this machine may have no route for one of them.
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
    """Return a socket that is connected to one of the addresses, and that address.

    If none accepts, raise the first `OSError` other than a missing route.
    """
    remaining: Iterator[Target] = iter(targets)
    running: dict[asyncio.Task[socket.socket], Target] = {}
    failure: BaseException | None = None
    upcoming = next(remaining, None)
    try:
        while True:
            if upcoming is not None:
                running[asyncio.create_task(_connected(upcoming))] = upcoming
                upcoming = next(remaining, None)
            if not running:
                assert failure is not None  # there is at least one address
                raise failure
            wait = DELAY if upcoming is not None else None
            done, _ = await asyncio.wait(running, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if (error := task.exception()) is None:
                    return task.result(), running.pop(task)
                failure = error if failure is None or _has_no_route(failure) else failure
                del running[task]
    finally:
        for task in running:
            if not task.cancel() and not task.cancelled() and task.exception() is None:
                task.result().close()  # it connected at the same time as the one that is returned


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
