"""systemd: what it is told of the daemon, and the sockets that it hands over.

The protocols are text in datagrams and in the environment: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).
Where no systemd started the process all of this does nothing.
"""

import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress

from tminus import clock
from tminus.domain.errors import CannotListen

FIRST_SOCKET = 3
"""The number of the first file descriptor that is handed over."""

PATIENCE = 1.0
"""Seconds that a message may take: a service manager that hangs must not stop the clock."""


class ServiceManager:
    """Tells systemd how the daemon is. Any thread; nothing here raises."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = datagram_socket(PATIENCE)
        self.watches = self.listens and _watchdog(environ)
        """Whether it kills a daemon that stays silent."""
        self._status = ""

    @property
    def listens(self) -> bool:
        """Whether there is anybody to tell."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        self._tell("READY=1", f"STATUS={status}")
        self._status = status

    def reloading(self) -> None:
        """A reload begins; `reloaded` ends it."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={int(clock.monotonic() * 1_000_000)}")

    def reloaded(self) -> None:
        self._tell("READY=1")

    def stopping(self) -> None:
        self._tell("STOPPING=1", "STATUS=stopping: no new work, running requests finish")

    def status(self, status: str) -> None:
        """One line for `systemctl status`; told only if it is another than before."""
        if status != self._status:
            self._status = status
            self._tell(f"STATUS={status}")

    def alive(self) -> None:
        """Feeds the watchdog."""
        if self.watches:
            self._tell("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _tell(self, *assignments: str) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.sendto(
                    "\n".join(" ".join(one.splitlines()) for one in assignments).encode(), self._address
                )


def datagram_socket(patience: float) -> socket.socket:
    """A socket whose sending gives up, with `BlockingIOError`, after so many seconds.

    Not Python's own time-out: it waits until the socket can be written, which one that is not connected always can, and
    so would spin while the other side's queue is full.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    seconds, fraction = divmod(patience, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(seconds), int(fraction * 1_000_000)))
    return made


def _watchdog(environ: Mapping[str, str]) -> bool:
    return _number(environ, "WATCHDOG_USEC") > 0 and _is_ours(environ, "WATCHDOG_PID", absent=True)


def inherited_sockets(environ: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets that systemd has opened for this process, in the order of the socket unit.

    Raises `CannotListen` if one is no listening stream socket, or is one that anybody may reach who should not.
    """
    if not _is_ours(environ, "LISTEN_PID", absent=False):
        return []
    count = _number(environ, "LISTEN_FDS")
    names = environ.get("LISTEN_FDNAMES", "").split(":") + [""] * count
    return [_inherited(FIRST_SOCKET + index, names[index] or "a socket from systemd") for index in range(count)]


def _inherited(descriptor: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        given = socket.socket(fileno=descriptor)
        listens = given.type == socket.SOCK_STREAM and given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise CannotListen(name, f"cannot be listened on ({error.strerror or error})") from error
    if not listens or given.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        raise CannotListen(name, "is no socket of ListenStream= with Accept=no")
    if given.family == socket.AF_UNIX and not str(given.getsockname()).startswith("/"):
        # Whoever reaches the local socket has every right, and an abstract one has no owner and no mode.
        raise CannotListen(name, "is a local socket without a path: anybody could connect to it")
    return given


def _is_ours(environ: Mapping[str, str], name: str, *, absent: bool) -> bool:
    """Whether the variable names this process: its parent may have been meant."""
    return environ[name] == str(os.getpid()) if name in environ else absent


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0
