"""Which connections may be open, and which gives way to one more."""

import resource
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Protocol

from tminus import clock
from tminus.domain.networks import client_network
from tminus.logs.repeated import REPEATED

KEPT = 128
"""File descriptors that connections never take: a quarter for listening, a quarter for those that come in one turn of
the event loop, before those that make room for them are gone, the others for the database, webhooks, the local socket
and the log. Once they are used up, new connections are closed without a word before anybody here hears of them, local
ones too.
"""


class Member(Protocol):
    """A connection, as it is counted."""

    peer: str
    """The address that it comes from."""
    address: str
    """Whose share it counts for."""

    def give_way(self) -> None: ...
    def check(self, now: float) -> None: ...


class OpenConnections:
    """All connections of a server.

    When there is no room for one more, a connection whose client is waited for gives way, the oldest first: one that is
    idle, sends a head or a body, or does not read its answer. If there is none, the oldest that waits for events does.
    One whose request is in work never does.

    Parameters
    ----------
    most
        How many connections may be open; None: any number.
    share
        How many of them one address may have; None: any number.
    """

    def __init__(self, most: int | None, share: Callable[[str], int | None]) -> None:
        self._most = most
        self._share = share
        self._open: dict[Member, None] = {}
        self._by_address: dict[str, dict[Member, None]] = {}
        self._waiting: dict[Member, None] = {}
        """Those whose client is waited for, the longest first."""
        self._held: dict[Member, None] = {}
        """Those whose request waits for events, the longest first."""

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, member: Member) -> bool:
        """Take one more; another may have to give way to it. False: there is no room, and none can be made."""
        share = self._share(member.peer)
        if share is not None and len(self._by_address.get(member.address, ())) >= share:
            REPEATED.log("http.crowded", member.address, remote_ip=member.address, connections=share)
            gives_way = self._oldest(self._by_address[member.address])
        elif self._is_full():
            gives_way = self._oldest(self._open)
        else:
            self._add(member)
            return True
        if gives_way is None:
            REPEATED.log("http.refused", "", connections=len(self))
            return False
        self.remove(gives_way)
        gives_way.give_way()
        self._add(member)
        return True

    def _oldest(self, among: Mapping[Member, None]) -> Member | None:
        return next((one for one in chain(self._waiting, self._held) if one in among), None)

    def _add(self, member: Member) -> None:
        self._open[member] = None
        self._by_address.setdefault(member.address, {})[member] = None
        self._waiting[member] = None

    def remove(self, member: Member) -> None:
        """It is gone, or about to. Again and again does no harm."""
        if self._open.pop(member, self) is self:
            return
        own = self._by_address[member.address]
        del own[member]
        if not own:
            del self._by_address[member.address]
        self._waiting.pop(member, None)
        self._held.pop(member, None)

    def mark_waiting(self, member: Member) -> None:
        """Its client is waited for, from now on if it was not before."""
        if member in self._open and member not in self._waiting:
            self._held.pop(member, None)
            self._waiting[member] = None

    def mark_working(self, member: Member) -> None:
        """Its request is in work."""
        self._waiting.pop(member, None)
        self._held.pop(member, None)

    def mark_holding(self, member: Member) -> None:
        """Its request waits for events."""
        if member in self._open and member not in self._held:
            self._waiting.pop(member, None)
            self._held[member] = None

    def sweep(self) -> None:
        """Let those go whose time is over."""
        now = clock.monotonic()
        for member in tuple(self._open):
            member.check(now)

    def _is_full(self) -> bool:
        """Whether there are as many connections as may be, or as the process has file descriptors for."""
        is_open = len(self._open)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files != resource.RLIM_INFINITY and is_open >= max(files - KEPT, 1):
            REPEATED.log("http.full", "", connections=is_open, limit=files)
            return True
        return self._most is not None and is_open >= self._most


def log_malformed(address: str, error: str) -> None:
    """Write a line about what came from an address and is no request, at most one a minute and address."""
    remote_ip = client_network(address) if "." in address else address.partition("%")[0]
    REPEATED.log("http.malformed", remote_ip, remote_ip=remote_ip, error=error)
