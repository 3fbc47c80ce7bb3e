"""systemd's protocols: readiness notification, the watchdog, and socket activation.

They are text in datagrams and in environment variables: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3). If
systemd did not start the process, nothing here has any effect.
"""

import os
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress

from tminus import clock
from tminus.domain.errors import CannotListen

FIRST_SOCKET = 3
"""The number of the first inherited file descriptor."""

SEND_TIMEOUT = 1.0
"""Seconds that sending a message may take. A service manager that hangs must not stop the scheduler."""


class ServiceManager:
    """Notifies systemd of the daemon's state. Any thread may call it; nothing here raises."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = datagram_socket(SEND_TIMEOUT)
        self.has_watchdog = self.is_present and _has_watchdog(environ)
        """Whether systemd kills the daemon unless it calls `alive` regularly."""
        self._status = ""

    @property
    def is_present(self) -> bool:
        """Whether systemd started this process and accepts notifications."""
        return self._socket is not None

    def ready(self, status: str) -> None:
        self._notify("READY=1", f"STATUS={status}")
        self._status = status

    def reloading(self) -> None:
        """Notify systemd that a reload begins; `reloaded` ends it."""
        self._notify("RELOADING=1", f"MONOTONIC_USEC={int(clock.monotonic() * 1_000_000)}")

    def reloaded(self) -> None:
        self._notify("READY=1")

    def stopping(self) -> None:
        self._notify("STOPPING=1", "STATUS=stopping: no new work, running requests finish")

    def status(self, status: str) -> None:
        """Set the line that `systemctl status` shows. Sent only if it has changed."""
        if status != self._status:
            self._status = status
            self._notify(f"STATUS={status}")

    def alive(self) -> None:
        """Reset the watchdog."""
        if self.has_watchdog:
            self._notify("WATCHDOG=1")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _notify(self, *assignments: str) -> None:
        if self._socket is not None:
            message = "\n".join(" ".join(assignment.splitlines()) for assignment in assignments)
            with suppress(OSError):
                self._socket.sendto(message.encode(), self._address)


def datagram_socket(timeout: float) -> socket.socket:
    """Return a Unix datagram socket on which a send raises `BlockingIOError` after `timeout` seconds.

    This uses SO_SNDTIMEO, not Python's `settimeout`: that waits until the socket is writable, which an unconnected
    socket always is, so Python would spin while the receiver's queue is full.
    """
    found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    seconds, fraction = divmod(timeout, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(seconds), int(fraction * 1_000_000)))
    return found


def _has_watchdog(environ: Mapping[str, str]) -> bool:
    return _number(environ, "WATCHDOG_USEC") > 0 and _is_for_this_process(environ, "WATCHDOG_PID", if_unset=True)


def inherited_sockets(environ: Mapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets that systemd has opened for this process, in the order of the socket unit.

    Raises `CannotListen` if one is not a listening stream socket, or has no file permissions to protect it.
    """
    if not _is_for_this_process(environ, "LISTEN_PID", if_unset=False):
        return []
    count = _number(environ, "LISTEN_FDS")
    names = environ.get("LISTEN_FDNAMES", "").split(":") + [""] * count
    return [_inherited(FIRST_SOCKET + index, names[index] or "a socket from systemd") for index in range(count)]


def _inherited(descriptor: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        found = socket.socket(fileno=descriptor)
        listens = found.type == socket.SOCK_STREAM and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise CannotListen(name, f"cannot be listened on ({error.strerror or error})") from error
    if not listens or found.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        raise CannotListen(name, "is not a ListenStream= socket with Accept=no")
    if found.family == socket.AF_UNIX and not str(found.getsockname()).startswith("/"):
        # A client of the local socket has all rights, and an abstract socket has no owner and no mode.
        raise CannotListen(name, "is a local socket without a path: any user could connect to it")
    return found


def _is_for_this_process(environ: Mapping[str, str], name: str, *, if_unset: bool) -> bool:
    """Return whether the variable contains this process's id; otherwise its protocol is meant for another process.

    `if_unset`: the result if there is no such variable.
    """
    return environ[name] == str(os.getpid()) if name in environ else if_unset


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0
