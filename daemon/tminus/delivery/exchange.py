"""One connection to a receiver, and a request and its answer on it: all that a receiver sends is bounded."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import h11

ANSWER_BYTES = 2048
"""As much of an answer's body as is read, and kept."""

HEAD_BYTES = 32 * 1024
"""As long as the head of an answer may be; and, with the heads before it (`103`), four times as long."""

INTERIM = 16
"""Interim answers (`1xx`) that may come before the final one."""

EXCHANGE_BYTES = 4 * HEAD_BYTES
"""Bytes that are read for one answer at most, framing and all."""

AT_A_TIME = 16 * 1024
"""Bytes that the parser is given at a time."""

UNREAD = 64 * 1024
"""Bytes that may have come and were not parsed yet: beyond it the receiver's bytes wait in the network."""


class BadAnswer(Exception):
    """What came is no answer, or longer than one may be."""


class Closed(BadAnswer):
    """The receiver closed the connection before the head of its answer had come."""


class Wire(asyncio.Protocol):
    """The bytes of a connection as they come."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.received = bytearray()
        self.ended = False
        """Whether nothing more comes."""
        self._error: Exception | None = None
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        if len(self.received) > UNREAD:
            self.transport.pause_reading()
        self._news.set()

    def eof_received(self) -> None:
        self.ended = True
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._error = exc
        self._news.set()

    async def more(self) -> None:
        """Wait until something has come that was not taken yet, or nothing more comes. Raises `OSError`."""
        while not self.received and not self.ended:
            self._news.clear()
            await self._news.wait()
        if self._error is not None and not self.received:
            raise self._error

    def take(self) -> bytes:
        """Some of the bytes that have come."""
        data = bytes(self.received[:AT_A_TIME])
        del self.received[:AT_A_TIME]
        if not self.received and not self.transport.is_closing():
            self.transport.resume_reading()
        return data


@dataclass(slots=True)
class Answer:
    """What has come of an answer until now. `status` None: not even its head."""

    status: int | None = None
    retry_after: str | None = None
    body: bytearray = field(default_factory=bytearray)


class Connection:
    """A connection to a receiver, for one request after the other."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self._read = 0
        self._interim = 0
        self._ended = False
        self.used = False
        """Whether it has carried a request before the one that is on its way."""
        self.answer = Answer()

    @property
    def usable(self) -> bool:
        """Whether it can carry another request: the answer was read to its end, and nothing has come since."""
        wire = self._wire
        return (
            self._http.our_state is h11.IDLE
            and not wire.ended
            and not wire.received
            and not wire.transport.is_closing()
            and not wire.transport.get_write_buffer_size()
        )

    @property
    def silent(self) -> bool:
        """Whether nothing has come since the request."""
        return self._read == 0

    def close(self) -> None:
        self._wire.transport.abort()  # not `close`, which waits for a receiver that reads nothing

    def leave(self) -> None:
        """Close a connection that is not in use, as the protocols want it."""
        self._wire.transport.close()

    async def send(self, request: h11.Request, body: bytes) -> None:
        """Send a request; `answer` fills until this returns. Raises `OSError`, `BadAnswer`, `h11.ProtocolError`."""
        self.answer, self._read, self._interim = Answer(), 0, 0
        parts = (self._http.send(request), self._http.send(h11.Data(body)), self._http.send(h11.EndOfMessage()))
        # All of it at once, so that an answer that comes before the body has gone is read.
        self._wire.transport.write(b"".join(part for part in parts if part))
        while not self.advance():
            await self._wire.more()

    def advance(self) -> bool:
        """Read what has come; return whether that is all of the answer that is wanted. Raises as `send` does."""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if not self._feed():
                    return False
            elif isinstance(event, h11.InformationalResponse):
                self._interim += 1
                if self._interim > INTERIM:
                    raise BadAnswer(f"more than {INTERIM} interim answers")
            elif isinstance(event, h11.Response):
                self.answer.status = event.status_code
                self.answer.retry_after = _first(event.headers, b"retry-after")
            elif isinstance(event, h11.Data):
                self.answer.body += event.data[: ANSWER_BYTES - len(self.answer.body)]
                if len(self.answer.body) >= ANSWER_BYTES:
                    return True  # the rest is not read, so that nothing else is sent on this connection
            else:  # the end of the message
                if not self._http.trailing_data[0]:
                    with suppress(h11.ProtocolError):  # the receiver closes it
                        self._http.start_next_cycle()
                        self.used = True
                return True

    def _feed(self) -> bool:
        """Give the parser what has come; return whether that was anything."""
        wire = self._wire
        if wire.received:
            data = wire.take()
            self._read += len(data)
            if self._read > EXCHANGE_BYTES:
                raise BadAnswer(f"an answer of more than {EXCHANGE_BYTES // 1024} KiB without its end")
            self._http.receive_data(data)
            return True
        if wire.ended and not self._ended:
            self._ended = True
            if self.answer.status is None:
                where = "without an answer" if self.silent else "within the head of its answer"
                raise Closed(f"it closed the connection {where}")
            self._http.receive_data(b"")
            return True
        return False


def _first(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in headers if key == name), None)
