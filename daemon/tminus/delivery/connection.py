"""Send one request at a time over a connection to a receiver, and limit all that the receiver may send."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import h11

ANSWER_BYTES = 2048
"""Maximum bytes of a response's body that are read and stored."""

HEAD_BYTES = 32 * 1024
"""Maximum bytes of a response's head."""

MAX_INTERIM = 16
"""Maximum number of interim responses (`1xx`) before the final one."""

EXCHANGE_BYTES = 4 * HEAD_BYTES
"""Maximum bytes that are read for one response, including interim responses and framing."""

PARSE_BYTES = 16 * 1024
"""Maximum bytes that the parser gets at a time."""

UNREAD_BYTES = 64 * 1024
"""Maximum bytes that are buffered before they are parsed; beyond it, TCP flow control stops the receiver."""


class BadResponse(Exception):
    """The bytes are not an HTTP response, or the response is too long."""


class ConnectionClosed(BadResponse):
    """The receiver closed the connection before it had sent the head of its response."""


class ByteStream(asyncio.Protocol):
    """The receiving side of a connection: buffers bytes as they arrive."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.received = bytearray()
        self.ended = False
        """Whether no more bytes will arrive."""
        self._error: Exception | None = None
        self._arrived = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        if len(self.received) > UNREAD_BYTES:
            self.transport.pause_reading()
        self._arrived.set()

    def eof_received(self) -> None:
        self.ended = True
        self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._error = exc
        self._arrived.set()

    async def wait(self) -> None:
        """Wait until there are bytes to take, or no more will arrive. Raises `OSError`."""
        while not self.received and not self.ended:
            self._arrived.clear()
            await self._arrived.wait()
        if self._error is not None and not self.received:
            raise self._error

    def take(self) -> bytes:
        """Remove and return the first of the buffered bytes."""
        data = bytes(self.received[:PARSE_BYTES])
        del self.received[:PARSE_BYTES]
        if not self.received and not self.transport.is_closing():
            self.transport.resume_reading()
        return data


@dataclass(slots=True)
class Response:
    """The part of a response that has arrived. `status` is None until its head is complete."""

    status: int | None = None
    retry_after: str | None = None
    body: bytearray = field(default_factory=bytearray)


class Connection:
    """A connection to a receiver, on which requests are sent one after the other."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self._bytes_read = 0
        self._interim_responses = 0
        self._ended = False
        self.used = False
        """Whether the connection carried another request before the current one."""
        self.response = Response()

    @property
    def is_usable(self) -> bool:
        """Whether it can carry another request: the last response is complete, and nothing has arrived since."""
        stream = self._stream
        return (
            self._http.our_state is h11.IDLE
            and not stream.ended
            and not stream.received
            and not stream.transport.is_closing()
            and not stream.transport.get_write_buffer_size()
        )

    @property
    def is_silent(self) -> bool:
        """Whether nothing has arrived since the request."""
        return self._bytes_read == 0

    def abort(self) -> None:
        self._stream.transport.abort()  # not `close`, which would wait for a receiver that does not read

    def close(self) -> None:
        """Close an idle connection in the way that TCP and TLS prescribe."""
        self._stream.transport.close()

    async def send(self, request: h11.Request, body: bytes) -> None:
        """Send a request and read its response into `response`.

        Raises `OSError`, `BadResponse`, `h11.ProtocolError`.
        """
        self.response, self._bytes_read, self._interim_responses = Response(), 0, 0
        parts = (self._http.send(request), self._http.send(h11.Data(body)), self._http.send(h11.EndOfMessage()))
        # One write, without waiting until it is sent: a receiver may respond before it has read the whole body.
        self._stream.transport.write(b"".join(part for part in parts if part))
        while not self.advance():
            await self._stream.wait()

    def advance(self) -> bool:
        """Parse the bytes that have arrived; return whether the response is complete. Raises as `send` does."""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if not self._feed():
                    return False
            elif isinstance(event, h11.InformationalResponse):
                self._interim_responses += 1
                if self._interim_responses > MAX_INTERIM:
                    raise BadResponse(f"more than {MAX_INTERIM} interim answers")
            elif isinstance(event, h11.Response):
                self.response.status = event.status_code
                self.response.retry_after = _first(event.headers, b"retry-after")
            elif isinstance(event, h11.Data):
                self.response.body += event.data[: ANSWER_BYTES - len(self.response.body)]
                if len(self.response.body) >= ANSWER_BYTES:
                    return True  # the rest is not read, so the connection cannot be used again
            else:  # the end of the message
                if not self._http.trailing_data[0]:
                    with suppress(h11.ProtocolError):  # the receiver closes the connection
                        self._http.start_next_cycle()
                        self.used = True
                return True

    def _feed(self) -> bool:
        """Pass bytes that have arrived to the parser; return whether there were any."""
        stream = self._stream
        if stream.received:
            data = stream.take()
            self._bytes_read += len(data)
            if self._bytes_read > EXCHANGE_BYTES:
                raise BadResponse(f"an answer of more than {EXCHANGE_BYTES // 1024} KiB without an end")
            self._http.receive_data(data)
            return True
        if stream.ended and not self._ended:
            self._ended = True
            if self.response.status is None:
                where = "without an answer" if self.is_silent else "within the head of its answer"
                raise ConnectionClosed(f"it closed the connection {where}")
            self._http.receive_data(b"")
            return True
        return False


def _first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in headers if key == name), None)
