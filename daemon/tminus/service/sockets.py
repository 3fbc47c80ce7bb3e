"""The listening sockets: those of the configuration, or in their place those that systemd hands over."""

import contextlib
import errno
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tminus.config import Address, Settings
from tminus.config.settings import Server
from tminus.domain.errors import CannotListen
from tminus.system import systemd

BACKLOG = 2048
"""Connections that wait to be accepted: those that come while the daemon starts, too."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """What is listened on."""

    tcp: tuple[socket.socket, ...]
    local: tuple[socket.socket, ...]
    configured: Server
    """The settings as they were read."""
    bound: Server
    """The same with the addresses that were really taken."""
    inherited: tuple[str, ...]
    """The settings in whose place systemd handed a socket over: "listen", "socket"."""

    def with_bound_addresses(self, read: Server) -> Server:
        """Settings read anew, with the addresses that were taken where they ask for no other than before. Port 0 became
        a real port, and where systemd opens the sockets its unit says which.
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
    """Opens the listening sockets before anything else is begun, so that whoever calls meanwhile waits, and is not
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
        one.setblocking(False)  # for all copies alike: one that blocks would have an event loop hang in `accept`
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
    """The local socket, for its owner only: whoever the file system lets in has every right.

    A group would be the one that all users of a machine share as often as one of operators: `tminus.socket` names one.
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
    """Removes the socket that a killed daemon has left behind; nothing else, and none that somebody listens on."""
    if not path.exists():
        return
    if not path.is_socket():
        raise OSError(errno.EEXIST, "there is another file of that name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(str(path)) == 0:
            raise OSError(errno.EADDRINUSE, "somebody listens there")
    path.unlink()
