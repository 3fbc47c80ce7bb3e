"""Open the listening sockets of the configuration, or inherit them from systemd."""

import contextlib
import errno
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tminus.config import Address, Settings
from tminus.config.settings import Server
from tminus.domain.errors import CannotListen
from tminus.system import systemd

BACKLOG = 2048
"""Maximum number of connections that wait to be accepted, also during the start."""


class Listeners(NamedTuple):
    """The listening sockets and their settings."""

    tcp: tuple[socket.socket, ...]
    local: tuple[socket.socket, ...]
    configured: Server
    """The settings in the configuration."""
    bound: Server
    """The same settings with the addresses that the sockets are bound to."""
    inherited: tuple[str, ...]
    """The settings that sockets inherited from systemd replace: "listen", "socket"."""

    def with_bound_addresses(self, read: Server) -> Server:
        """Return settings after a reload, with the bound address of each socket whose setting has not changed.

        The bound address differs from the setting for port 0, and for sockets inherited from systemd.
        """
        kept = [
            name
            for name in ("listen", "socket")
            if name in self.inherited or getattr(read, name) == getattr(self.configured, name)
        ]
        return read.model_copy(update={name: getattr(self.bound, name) for name in kept})


def open_listeners(
    settings: Settings, state: Path, environ: Mapping[str, str], started: contextlib.ExitStack
) -> Listeners:
    """Open the listening sockets. This is the first step of a start: clients that connect meanwhile wait, and are not
    refused. Raises `CannotListen`.
    """
    given = systemd.inherited_sockets(environ)
    for one in given:
        started.callback(one.close)
    local = [one for one in given if one.family == socket.AF_UNIX]
    tcp = [one for one in given if one.family != socket.AF_UNIX]
    inherited = (*(["listen"] if tcp else []), *(["socket"] if local else []))
    server = settings.server
    if not tcp:
        tcp.append(_listen(server.listen, started))
    host, port = tcp[0].getsockname()[:2]
    listen = Address(host, port) if "listen" in inherited else Address(server.listen.host, port)
    bound = server.model_copy(update={"listen": listen})
    if local:
        bound = bound.model_copy(update={"socket": local[0].getsockname()})
    elif (path := server.socket_path(state)) is not None:
        local.append(_listen_locally(path, started))
    for one in (*tcp, *local):
        one.setblocking(False)  # also for its duplicates; a blocking `accept` would stop the event loop
    return Listeners(tuple(tcp), tuple(local), server, bound, inherited)


def _listen(address: Address, started: contextlib.ExitStack) -> socket.socket:
    try:
        tcp = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
        started.callback(tcp.close)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind((address.host, address.port))
        tcp.listen(BACKLOG)
    except OSError as error:
        raise CannotListen(str(address), f"cannot be listened on ({error.strerror or error})") from error
    return tcp


def _listen_locally(path: Path, started: contextlib.ExitStack) -> socket.socket:
    """Open the local socket with mode 0600, since its clients have all rights.

    It gets no group: the user's group may include all users of the machine. `tminus.socket` (systemd) can set a group.
    """
    try:
        local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        started.callback(local.close)
        _remove_stale(path)
        before = os.umask(0o177)
        try:
            local.bind(str(path))
        finally:
            os.umask(before)
        started.callback(path.unlink, missing_ok=True)
        local.listen(BACKLOG)
    except OSError as error:
        raise CannotListen(str(path), f"cannot be listened on ({error.strerror or error})") from error
    return local


def _remove_stale(path: Path) -> None:
    """Remove the socket of a killed daemon. Raises `OSError` if it is another file, or a process listens on it."""
    if not path.exists():
        return
    if not path.is_socket():
        raise OSError(errno.EEXIST, "there is another file with that name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise OSError(errno.EADDRINUSE, "another process listens there")
    path.unlink()
