"""HTTP over the daemon's local socket, with one connection for each request."""

import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from tminus.client.transport import NoResponse, Response

MAX_HEAD = 65_536
"""Maximum bytes of a response's head."""

MAX_BODY = 256 * 1024 * 1024
"""Maximum bytes of a response's body; tminus sends no larger ones."""

_PEER = struct.Struct("3i")
"""The value of `SO_PEERCRED`: process id, user id, group id."""

NOT_HTTP = "the process that listens there does not speak HTTP"


class LocalTransport:
    """Sends requests over a Unix socket.

    Parameters
    ----------
    path
        The path of the socket.
    owners
        User ids that the listening process may have; None: any.
    timeout
        Seconds that connecting, and each wait for more bytes, may take.
    """

    def __init__(self, path: str, owners: Collection[int] | None, timeout: float) -> None:
        self._path = path
        self._owners = owners
        self._timeout = timeout

    def close(self) -> None:
        """Do nothing: there is no open connection between requests."""

    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, wait: float
    ) -> Response:
        """Send a request and return its response. Raises `NoResponse`."""
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        message = "\r\n".join([*lines, "", ""]).encode("ascii") + (body or b"")
        with self._connected() as connection:
            try:
                connection.sendall(message)
            except (BrokenPipeError, ConnectionResetError):
                pass  # a daemon that refuses a long body responds before it has read all of it
            except OSError as error:
                raise NoResponse(_reason(error), sent=True) from error
            connection.settimeout(self._timeout + wait)
            try:
                return _response(connection)
            except OSError as error:
                raise NoResponse(_reason(error), sent=True) from error

    @contextmanager
    def _connected(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(self._timeout)
            try:
                connection.connect(self._path)
            except PermissionError as error:
                raise NoResponse("you are not permitted to use it", sent=False, permanent=True) from error
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NoResponse("there is no such socket", sent=False) from error
            except ConnectionRefusedError as error:
                raise NoResponse("no daemon listens there", sent=False) from error
            except OSError as error:  # such as a path that is too long for a socket
                raise NoResponse(_reason(error), sent=False, permanent=not isinstance(error, TimeoutError)) from error
            self._check_peer(connection)
            yield connection

    def _check_peer(self, connection: socket.socket) -> None:
        """Check the user of the listening process, as the kernel reports it: the owner of the file may differ."""
        if self._owners is None:
            return
        _, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if user not in self._owners:
            raise NoResponse(
                f"user {_name(user)}, who listens there, may not run the daemon", sent=False, permanent=True
            )


def _name(user: int) -> str:
    import pwd  # noqa: PLC0415 - needed only for this error

    try:
        return f"{pwd.getpwuid(user).pw_name} ({user})"
    except KeyError:
        return str(user)


def _response(connection: socket.socket) -> Response:
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        if len(received) > MAX_HEAD:
            raise NoResponse(NOT_HTTP, sent=True, permanent=True)
        if not (part := connection.recv(65_536)):
            reason = NOT_HTTP if received else "it closed the connection"
            raise NoResponse(reason, sent=True)
        received += part
    first, *lines = received[:end].decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    code, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit() and len(code) == 3):
        raise NoResponse(NOT_HTTP, sent=True, permanent=True)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    del received[: end + 4]
    return Response(int(code), reason, headers, _body(connection, received, headers))


def _body(connection: socket.socket, received: bytearray, headers: Mapping[str, str]) -> bytes:
    """Read a body as long as its Content-Length, which the daemon sends with every response that is not a stream."""
    text = headers.get("content-length", "0" if "transfer-encoding" not in headers else "")
    if not (text.isascii() and text.isdigit() and len(text) < 16) or int(text) > MAX_BODY:
        raise NoResponse("its answer has no valid length, or is too long", sent=True, permanent=True)
    length = int(text)
    while len(received) < length:
        if not (part := connection.recv(min(1 << 20, length - len(received)))):
            raise NoResponse("it closed the connection in the middle of its answer", sent=True)
        received += part
    return bytes(received[:length])


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    return os.strerror(error.errno).lower() if error.errno else str(error)
