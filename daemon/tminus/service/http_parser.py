"""Parse HTTP/1.1 requests strictly (RFC 9112). The parser does no I/O.

A proxy and the daemon must find the same end of each request. Otherwise bytes of one client could become a request of
another (request smuggling). So the parser refuses everything that another server could read differently, and the
connection is closed. Trailers are parsed and ignored, since proxies do not check them as they check the head. An
`Upgrade` (RFC 9110, 7.8) to anything but a WebSocket is ignored, too. After the head of a valid WebSocket upgrade all
bytes are passed on unparsed. A request with an invalid WebSocket upgrade is an ordinary one, but the last of its
connection: what follows could be frames.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

HEAD_BYTES = 65_536
"""Maximum bytes of a request's head."""

FIELDS = 128
"""Maximum number of fields in a head. Each takes about a hundred bytes of memory, however short it is."""

CHUNK_LINE = 256
"""Maximum bytes of the line before a chunk, with its extensions."""

CHUNK_EXTENSIONS = 16_384
"""Maximum bytes of the extensions of all chunks of a body. Extensions are ignored."""

TRAILER_BYTES = 16_384
"""Maximum bytes of the trailers of a body."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "QUERY", "REPORT"})
"""The accepted methods. Others are refused, since each would add a label value to a metric."""

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb"{1,32}) ([\x21-\x7e]++) HTTP/([0-9])\.([0-9])")
_FIELD_LINES = re.compile(rb"(?:" + _TOKEN + rb"++:[^\x00-\x08\x0a-\x1f\x7f]*+\r\n)*+")
_FIRST_BYTE = re.compile(_TOKEN)
_BARE = re.compile(rb"(?<!\r)\n|\r[^\n]|\x00")
_ABSOLUTE = re.compile(rb"https?://([^/?#]+)(.*)", re.IGNORECASE)
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*+|\[[0-9A-Fa-f:.]++(?:%25[A-Za-z0-9._~-]++)?\])(?::[0-9]*+)?")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,12})(;[\t\x20-\x7e\x80-\xff]*+)?\r\n")

_WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")
"""16 bytes in base64."""

_DECIDING = frozenset(
    {
        b"content-length", b"transfer-encoding", b"connection", b"host", b"expect", b"upgrade", b"sec-websocket-key",
        b"sec-websocket-version",
    }
)  # fmt: skip
"""The fields that the parser itself evaluates."""

_NONE: list[bytes] = []


class Malformed(Exception):
    """The bytes are not an HTTP request, or servers could parse them differently.

    The message is a predicate whose subject is the request, such as `has no request line`.
    """


class HeadTooLarge(Malformed):
    """The head has too many bytes, or too many fields."""

    def __init__(self) -> None:
        super().__init__(f"has a head of more than {HEAD_BYTES} bytes or {FIELDS} fields")


@dataclass(slots=True)
class Head:
    """The head of a request: request line and fields."""

    method: str
    path: bytes
    """The path as it was sent, percent-encoded."""
    query: bytes
    version: str
    """`1.0` or `1.1`."""
    headers: list[tuple[bytes, bytes]]
    """Fields with names in lower case, in the order of the request."""
    keep_alive: bool
    """Whether another request may follow."""
    expects_continue: bool
    """Whether the client waits for `100 Continue` before it sends the body."""
    length: int | None
    """The length of the body in bytes; None if it is chunked."""
    websocket: bool
    """Whether this is a valid WebSocket upgrade (RFC 6455, 4.2.1). No other request follows."""


class Reader(Protocol):
    """The receiver of parsed requests."""

    def on_head(self, head: Head) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_upgraded(self, data: bytes) -> None:
        """Take bytes that follow the head of a WebSocket upgrade."""


class Parser:
    """Split the bytes of a connection into requests, and call a `Reader` with their parts.

    `feed` raises `Malformed`; after that the parser must not be used.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._take: Callable[[bytes, int], int] = self._take_head
        self._partial = bytearray()
        """The beginning of a head or line whose end has not arrived yet."""
        self._left = 0
        """Bytes of the body or chunk that have not arrived yet."""
        self._extensions = self._trailers = 0
        self._blank = 0
        self._keep_alive = True
        self._websocket = False

    @property
    def is_between_requests(self) -> bool:
        """Whether no part of another request has arrived since the end of the last one."""
        return self._take == self._take_head and not self._partial and not self._blank

    def feed(self, data: bytes) -> None:
        if len(self._partial) == 1 and self._partial == b"\r":  # the first half of an empty line, or of a chunk's end
            data = b"\r" + data
            self._partial.clear()
        at, end = 0, len(data)
        while at < end:
            at = self._take(data, at)

    # --- the head -----------------------------------------------------------------------------------------------------

    def _take_head(self, data: bytes, at: int) -> int:
        if not self._partial:
            while data.startswith(b"\r\n", at):  # some old clients send an empty line after a body
                at += 2
                self._blank += 2
            if self._blank > HEAD_BYTES:
                raise Malformed("has no request line")
            if at == len(data):
                return at
            end = data.find(b"\r\n\r\n", at)
            if end >= 0:
                self._begin(data[at : end + 2])
                return end + 4
            if data[at:] != b"\r" and not _FIRST_BYTE.match(data, at):
                raise Malformed("has no request line")
        before = len(self._partial)
        self._partial += data[at:]
        end = self._partial.find(b"\r\n\r\n", max(before - 3, 0))
        if end < 0:
            if wrong := _BARE.search(self._partial, max(before - 1, 0)):
                raise Malformed("must not contain NUL" if wrong[0] == b"\0" else "must end each line with CRLF")
            if len(self._partial) > HEAD_BYTES:
                raise HeadTooLarge
            return len(data)
        head = bytes(self._partial[: end + 2])
        self._partial.clear()
        self._begin(head)
        return at + end + 4 - before

    def _begin(self, raw: bytes) -> None:
        if len(raw) > HEAD_BYTES or raw.count(b"\n") > FIELDS + 1:
            raise HeadTooLarge
        head = parse_head(raw)
        self._blank = 0
        self._keep_alive = head.keep_alive
        self._websocket = head.websocket
        self._reader.on_head(head)
        if head.length is None:
            self._extensions = self._trailers = 0
            self._take = self._take_chunk_line
        elif head.length:
            self._left = head.length
            self._take = self._take_body
        else:
            self._end()

    def _end(self) -> None:
        if self._websocket:
            self._take = self._take_upgraded
        else:
            self._take = self._take_head if self._keep_alive else self._take_nothing
        self._reader.on_end()

    def _take_upgraded(self, data: bytes, at: int) -> int:
        self._reader.on_upgraded(data[at:])
        return len(data)

    def _take_nothing(self, data: bytes, _at: int) -> int:
        """Ignore bytes after the last request of the connection."""
        return len(data)

    # --- the body -----------------------------------------------------------------------------------------------------

    def _take_body(self, data: bytes, at: int) -> int:
        part = data[at : at + self._left]
        self._left -= len(part)
        self._reader.on_body(part)
        if not self._left:
            self._end()
        return at + len(part)

    def _take_chunk_line(self, data: bytes, at: int) -> int:
        line, at = self._line(data, at, CHUNK_LINE)
        if line is None:
            return at
        found = _CHUNK.fullmatch(line)
        if found is None:
            raise Malformed("has an invalid chunk size (RFC 9112, section 7.1)")
        self._extensions += len(found[2] or b"")
        if self._extensions > CHUNK_EXTENSIONS:
            raise Malformed("has too many chunk extensions")
        self._left = int(found[1], 16)
        self._take = self._take_chunk if self._left else self._take_trailers
        return at

    def _take_chunk(self, data: bytes, at: int) -> int:
        part = data[at : at + self._left]
        self._left -= len(part)
        self._reader.on_body(part)
        if not self._left:
            self._take = self._take_chunk_end
        return at + len(part)

    def _take_chunk_end(self, data: bytes, at: int) -> int:
        line, at = self._line(data, at, 2)
        if line is not None:
            if line != b"\r\n":
                raise Malformed("has a chunk that is longer than its size")
            self._take = self._take_chunk_line
        return at

    def _take_trailers(self, data: bytes, at: int) -> int:
        """Check the trailers, and ignore them: proxies that change fields of the head do not change trailers."""
        line, at = self._line(data, at, TRAILER_BYTES)
        if line is None:
            return at
        if line == b"\r\n":
            self._end()
            return at
        if not _FIELD_LINES.fullmatch(line):
            raise Malformed("has an invalid trailer field")
        self._trailers += len(line)
        if self._trailers > TRAILER_BYTES:
            raise Malformed("has too many trailer fields")
        return at

    def _line(self, data: bytes, at: int, most: int) -> tuple[bytes | None, int]:
        """Return the next line with its end, or None if it is incomplete; and the index of the rest."""
        end = data.find(b"\n", at, at + most)
        part = data[at : end + 1] if end >= 0 else data[at:]
        if len(self._partial) + len(part) > most:
            raise Malformed("has a chunk line or trailer field that does not end within its limit")
        if end < 0:
            self._partial += part
            return None, len(data)
        line = bytes(self._partial) + part
        self._partial.clear()
        return line, end + 1


def parse_head(raw: bytes) -> Head:
    """Parse a head. `raw` has all lines with their CRLF, without the final empty line. Raises `Malformed`."""
    line, _, fields = raw.partition(b"\r\n")
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise Malformed("has a request line that is not a method, a target and a version, separated by single spaces")
    if found[3] != b"1" or found[4] not in (b"0", b"1"):
        raise Malformed("must have the version HTTP/1.1 or HTTP/1.0")
    method = found[1].decode()
    if method not in METHODS:
        raise Malformed("has an unknown method")
    if not _FIELD_LINES.fullmatch(fields):
        raise Malformed("has a header line that is not a name, a colon and a value")
    is_1_0 = found[4] == b"0"
    headers: list[tuple[bytes, bytes]] = []
    deciding: dict[bytes, list[bytes]] = {}
    for field in fields.split(b"\r\n")[:-1]:
        name, _, value = field.partition(b":")
        name = name.lower()
        value = value.strip(b" \t")
        headers.append((name, value))
        if name in _DECIDING:
            deciding.setdefault(name, []).append(value)
    _check_host(deciding.get(b"host", _NONE), is_1_0=is_1_0)
    path, query = _target(found[2])
    length = _length(deciding, is_1_0=is_1_0)
    options = _listed(deciding, b"connection")
    to_websocket = b"upgrade" in deciding and b"websocket" in _listed(deciding, b"upgrade")
    return Head(
        method=method,
        path=path,
        query=query,
        version="1.0" if is_1_0 else "1.1",
        headers=headers,
        keep_alive=not is_1_0 and not to_websocket and b"close" not in options,
        expects_continue=not is_1_0
        and length != 0
        and any(value.lower() == b"100-continue" for value in deciding.get(b"expect", _NONE)),
        length=length,
        websocket=to_websocket
        and not is_1_0
        and method == "GET"
        and length == 0
        and b"upgrade" in options
        and deciding.get(b"sec-websocket-version") == [b"13"]
        and len(keys := deciding.get(b"sec-websocket-key", _NONE)) == 1
        and _WEBSOCKET_KEY.fullmatch(keys[0]) is not None,
    )


def _listed(deciding: dict[bytes, list[bytes]], name: bytes) -> list[bytes]:
    """Return the entries of a list header in lower case."""
    return [entry.strip(b" \t") for entry in b",".join(deciding.get(name, _NONE)).lower().split(b",")]


def _check_host(hosts: list[bytes], *, is_1_0: bool) -> None:
    if len(hosts) != 1 and (hosts or not is_1_0):
        raise Malformed("must have exactly one Host header")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise Malformed("has an invalid Host header")


def _target(target: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a request's target."""
    if not target.startswith(b"/") and target != b"*":
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Malformed("has a target that is neither a path nor a URL")
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    if b"#" in target:
        raise Malformed("has a target with a fragment")
    path, _, query = target.partition(b"?")
    return path, query


def _length(deciding: dict[bytes, list[bytes]], *, is_1_0: bool) -> int | None:
    """Return the length of the body in bytes; None if it is chunked."""
    lengths = deciding.get(b"content-length", _NONE)
    codings = deciding.get(b"transfer-encoding", _NONE)
    if codings:
        if lengths:
            raise Malformed("has both Content-Length and Transfer-Encoding")
        if is_1_0:
            raise Malformed("has a Transfer-Encoding, which HTTP/1.0 does not define")
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise Malformed("has a Transfer-Encoding other than chunked")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise Malformed("must have a single Content-Length of at most 15 digits")
    return int(lengths[0])
