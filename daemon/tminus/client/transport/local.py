"""HTTP over the daemon's local socket: a connection for each request."""

import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from tminus.client.transport import Answer, NoAnswer

LONGEST_HEAD = 65_536
"""Bytes that the head of an answer may have."""

LONGEST_BODY = 256 * 1024 * 1024
"""Bytes that the body of an answer may have: what is larger is no answer of tminus."""

_PEER = struct.Struct("3i")
"""What `SO_PEERCRED` gives: process, user, group."""


class LocalTransport:
    """Connects to a Unix socket.

    Parameters
    ----------
    path
        The socket.
    owners
        User ids of which the listening process must have one; None: any.
    timeout
        Seconds that connecting, and each wait for the next bytes, may take.
    """

    def __init__(self, path: str, owners: Collection[int] | None, timeout: float) -> None:
        self._path = path
        self._owners = owners
        self._timeout = timeout

    def close(self) -> None:
        """Do nothing: no connection is kept."""

    def request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, wait: float) -> Answer:
        """Send a request and read its answer. Raises `NoAnswer`."""
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        message = "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")
        with self._connected() as connection:
            try:
                connection.sendall(message)
            except (BrokenPipeError, ConnectionResetError):
                pass  # a daemon that refuses a long body answers before it has read it all
            except OSError as error:
                raise NoAnswer(_reason(error), sent=True) from error
            connection.settimeout(self._timeout + wait)
            try:
                return _answer(connection)
            except OSError as error:
                raise NoAnswer(_reason(error), sent=True) from error

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(self._timeout)
            try:
                connection.connect(self._path)
            except PermissionError as error:
                raise NoAnswer("you are not permitted to use it", sent=False, lasting=True) from error
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NoAnswer("there is no such socket", sent=False) from error
            except ConnectionRefusedError as error:
                raise NoAnswer("no daemon listens there", sent=False) from error
            except OSError as error:  # also a path that is longer than a socket's may be
                raise NoAnswer(_reason(error), sent=False, lasting=not isinstance(error, TimeoutError)) from error
            self._check_peer(connection)
            yield connection

    def _check_peer(self, connection: socket.socket) -> None:
        """Who listens is asked of the kernel: a file's owner may have changed since, and a link's says nothing."""
        if self._owners is None:
            return
        _, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if user not in self._owners:
            raise NoAnswer(
                f"user {_name(user)} listens there, whom nothing makes the daemon's", sent=False, lasting=True
            )


def _name(user: int) -> str:
    import pwd  # noqa: PLC0415 - loaded only where somebody is refused

    try:
        return f"{pwd.getpwuid(user).pw_name} ({user})"
    except KeyError:
        return str(user)


def _answer(connection: socket.socket) -> Answer:
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        if len(received) > LONGEST_HEAD:
            raise NoAnswer("what answers there does not speak HTTP", sent=True, lasting=True)
        if not (part := connection.recv(65_536)):
            reason = "what answers there does not speak HTTP" if received else "it closed the connection"
            raise NoAnswer(reason, sent=True)
        received += part
    first, *lines = received[:end].decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    code, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit() and len(code) == 3):
        raise NoAnswer("what answers there does not speak HTTP", sent=True, lasting=True)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    del received[: end + 4]
    return Answer(int(code), reason, headers, _body(connection, received, headers))


def _body(connection: socket.socket, received: bytearray, headers: Mapping[str, str]) -> bytes:
    """The body: as long as the head says. The daemon says it of every answer that is not a stream."""
    text = headers.get("content-length", "0" if "transfer-encoding" not in headers else "")
    if not (text.isascii() and text.isdigit() and len(text) < 16) or int(text) > LONGEST_BODY:
        raise NoAnswer("its answer is not as long as an answer may be", sent=True, lasting=True)
    length = int(text)
    while len(received) < length:
        if not (part := connection.recv(min(1 << 20, length - len(received)))):
            raise NoAnswer("it closed the connection within its answer", sent=True)
        received += part
    return bytes(received[:length])


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    return os.strerror(error.errno).lower() if error.errno else str(error)
