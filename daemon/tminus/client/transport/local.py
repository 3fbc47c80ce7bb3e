"""HTTP over the daemon's local socket, with one connection for each request."""

import os
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

from tminus.client.transport import Body, NoResponse, Received, Response

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
        self, method: str, target: str, headers: Mapping[str, str], body: Body, wait: float, received: Received = None
    ) -> Response:
        """Send a request and return its response. Raises `NoResponse`."""
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if isinstance(body, bytes):
            lines.append(f"Content-Length: {len(body)}")
            body = (body,)
        head = "\r\n".join([*lines, "", ""]).encode("ascii")
        with self._connected() as connection:
            connection.settimeout(self._timeout + wait)
            for piece in chain((head,), body or ()):
                try:
                    connection.sendall(piece)
                except (BrokenPipeError, ConnectionResetError):
                    break  # a daemon that refuses a long body responds before it has read all of it
                except OSError as error:
                    raise NoResponse(_reason(error), sent=True) from error
            return _response(connection, received)

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


def _response(connection: socket.socket, listener: Received) -> Response:
    received = bytearray()
    while (end := received.find(b"\r\n\r\n")) < 0:
        if len(received) > MAX_HEAD:
            raise NoResponse(NOT_HTTP, sent=True, permanent=True)
        received += _more(connection, NOT_HTTP if received else "it closed the connection")
    first, *lines = received[:end].decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    code, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdigit() and len(code) == 3):
        raise NoResponse(NOT_HTTP, sent=True, permanent=True)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    del received[: end + 4]
    body = bytearray()
    for part in _body(connection, received, headers):
        body += part
        if listener is not None and code == "200":
            listener(part)
    return Response(int(code), reason, headers, bytes(body))


def _body(connection: socket.socket, received: bytearray, headers: Mapping[str, str]) -> Iterator[bytes]:
    """Yield the body: as long as its Content-Length, or in chunks, as the daemon sends long batches."""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        yield from _parts(connection, received, _length(headers.get("content-length", "0"), 10))
        return
    left, size = MAX_BODY, -1
    while size:
        while (end := received.find(b"\r\n")) < 0 and len(received) < MAX_HEAD:
            received += _more(connection)
        size = _length(received[: max(0, end)].decode("latin-1"), 16, left)
        del received[: end + 2]
        yield from _parts(connection, received, size)
        list(_parts(connection, received, 2))  # the end of its line
        left -= size


def _length(text: str, base: int, maximum: int = MAX_BODY) -> int:
    try:
        length = int(text, base) if text.isascii() and text.isalnum() and len(text) < 16 else -1
    except ValueError:
        length = -1
    if not 0 <= length <= maximum:
        raise NoResponse("its answer has no valid length, or is too long", sent=True, permanent=True)
    return length


def _parts(connection: socket.socket, received: bytearray, length: int) -> Iterator[bytes]:
    """Yield this many bytes as they arrive, and remove them from those that were received."""
    while length:
        if not received:
            received += _more(connection)
        part = bytes(received[:length])
        del received[:length]
        length -= len(part)
        yield part


def _more(connection: socket.socket, at_end: str = "it closed the connection in the middle of its answer") -> bytes:
    """Receive more bytes. Raises `NoResponse`, with the reason `at_end` if there are no more."""
    try:
        part = connection.recv(65_536)
    except OSError as error:
        raise NoResponse(_reason(error), sent=True) from error
    if not part:
        raise NoResponse(at_end, sent=True)
    return part


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    return os.strerror(error.errno).lower() if error.errno else str(error)
