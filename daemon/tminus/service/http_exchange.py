"""Connect one HTTP request and its response to an ASGI application."""

import asyncio
import http
import logging
import re
from collections.abc import Callable, Sequence
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope

from tminus.api import CUT_OFF, HOLD, MALFORMED, RESPOND, WHOLE

BODY_BUFFER = 65_536
"""Maximum bytes of a body that wait for the application; beyond it the connection pauses reading."""

COPIED = 16_384
"""Maximum bytes of a body that is copied behind its head, to write both at once. A larger one may be the same for many
clients that do not read it, and must not be in memory once for each of them.
"""

FIELDS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[^\x00-\x08\x0a-\x1f\x7f]*+\r\n)*+")
"""The header fields of a valid response."""

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in http.HTTPStatus
}

SENT_TOGETHER = 16
"""Maximum number of responses that are sent together: the first of them waits for the last."""

_log = logging.getLogger(__name__)


class SendQueue:
    """Complete responses of all connections, which are sent together after the callbacks that the event loop has ready.

    After each system call that sends, the processor has to load code and data of the interpreter again. So to process
    all requests that have arrived first, and to send their responses then, takes a fifth less processor time.
    """

    def __init__(self) -> None:
        self._waiting: list[Exchange] = []

    def add(self, exchange: "Exchange") -> None:
        """Send the response of an exchange soon."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting.append(exchange)
        if len(self._waiting) >= SENT_TOGETHER:
            self._send()

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for exchange in waiting:
            try:
                exchange.finish()
            except Exception:  # the other connections must get their responses
                _log.exception("A response could not be sent")
                exchange.drop()


class Channel(Protocol):
    """The methods of a connection that an exchange uses."""

    transport: asyncio.Transport
    sends: SendQueue

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]: ...
    async def drain(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def finish(self) -> None: ...
    def set_wait(self, end_wait: Callable[[], None] | None) -> None: ...
    def response_sent(self) -> None: ...


class Exchange:
    """One request and its response.

    Parameters
    ----------
    channel
        The connection of the request.
    scope
        The ASGI scope of the request.
    keep_alive
        Whether another request may follow on the connection.
    expects_continue
        Whether the client waits for `100 Continue` before it sends the body.
    """

    def __init__(self, channel: Channel, scope: Scope, *, keep_alive: bool, expects_continue: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.disconnected = False
        self.more_body = True
        """Whether the end of the body has not arrived yet."""
        self.complete = False
        """Whether the complete response was written to the transport."""
        self._answered = False
        """Whether the application has sent the complete response, which may wait in the `SendQueue`."""
        self._last = b""
        """The end of the response, which waits in the `SendQueue`."""
        self._channel = channel
        self._expects_continue = expects_continue
        self._body = bytearray()
        self._broken: str | None = None
        """What is wrong with the body, if it is malformed."""
        self._changed = False
        """Whether the application has not yet received the latest part of the body, its end or the disconnect."""
        self._receiving: asyncio.Future[None] | None = None
        self._begun = False
        self._cut_off = False
        self._held = False
        """Whether the request waits, or has waited, for events."""
        self._head = b""
        """The head of the response, which is written together with the first part of its body."""
        self._chunked = False
        self._bodyless = scope.get("method") == "HEAD"
        self._left = 0
        """Bytes of the response's body that are not sent yet; -1 if its length is unknown."""
        scope["state"] |= {
            CUT_OFF: self._is_cut_off, HOLD: self._hold, RESPOND: self._respond, WHOLE: self._whole
        }  # fmt: skip

    # --- called by the connection -------------------------------------------------------------------------------------

    def add_body(self, data: bytes) -> None:
        if not self.complete:
            self._body += data
            if len(self._body) > BODY_BUFFER:
                self._channel.pause_reading()
            self._change()

    def end_body(self) -> None:
        self.more_body = False
        self._change()

    def break_body(self, error: str) -> None:
        """Note that the rest of the body is malformed. The application learns it when it reads the body.

        `error`: a predicate whose subject is the request.
        """
        self.keep_alive = self.more_body = False
        self._broken = error
        self._change()

    def disconnect(self) -> None:
        """Note that the connection is lost: nothing more can be read or written."""
        self.disconnected = True
        self._change()

    def _change(self) -> None:
        self._changed = True
        if self._receiving is not None and not self._receiving.done():
            self._receiving.set_result(None)

    # --- called by the application ------------------------------------------------------------------------------------

    async def run(self, application: ASGIApp) -> None:
        """Run the application until it has responded. Exceptions are logged, and never raised."""
        try:
            await application(self.scope, self.receive, self.send)
        except BaseException:
            _log.exception("Exception in ASGI application")
        if not self._answered and not self.disconnected:
            if self._begun:  # so that the client does not take the partial response for a complete one
                self.drop()
            else:
                _log.error("ASGI callable returned without a response")
                await self.send({"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]})
                await self.send({"type": "http.response.body"})

    async def receive(self) -> Message:
        if self._expects_continue and not self._begun and not self._channel.transport.is_closing():
            self._channel.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._expects_continue = False
        if not self.disconnected and not self._answered:
            self._channel.resume_reading()
            if not self._changed and self._broken is None:
                self._receiving = asyncio.get_running_loop().create_future()
                await self._receiving
            self._changed = False
        if self.disconnected or self._answered:
            return {"type": "http.disconnect"}
        if self._broken is not None:
            return {"type": "http.disconnect", MALFORMED: self._broken}
        body, self._body = bytes(self._body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    def _whole(self) -> bytes | None:
        """Return the complete body if it has arrived; otherwise None."""
        if self.more_body or self._broken or self.disconnected or self._expects_continue:
            return None
        self._channel.resume_reading()
        self._changed = False
        body, self._body = bytes(self._body), bytearray()
        return body

    def _is_cut_off(self) -> bool:
        """Return whether the connection was lost before the client had read all but the end of the response. The
        client of a stream of events ends it in this way.
        """
        return self._cut_off or (self.disconnected and not self.complete and not self._held)

    async def send(self, message: Message) -> None:
        if not self.disconnected:
            await self._channel.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start" and not self._begun:
            self._begin(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body" and self._begun and not self._answered:
            self._send_body(message.get("body", b""), more=message.get("more_body", False))
            if self._answered:
                await self._wait_for_client()
        else:
            raise RuntimeError(f"unexpected ASGI message {message['type']}")

    async def _respond(self, status: int, headers: Sequence[tuple[bytes, bytes]], more: bytes, body: bytes) -> None:
        """Send a complete response, in one step instead of two messages. `more`: further header fields, encoded."""
        if not self.disconnected:
            await self._channel.drain()
        if self.disconnected:
            return
        if self._begun:
            raise RuntimeError("the response has already begun")
        self._begin(status, headers, more)
        self._send_body(body, more=False)
        await self._wait_for_client()

    async def _wait_for_client(self) -> None:
        """Wait for the client to read all but the end of a large response: the log line says if it did not."""
        await self._channel.drain()
        self._cut_off = self.disconnected

    def _begin(self, status: int, headers: Sequence[tuple[bytes, bytes]], more: bytes = b"") -> None:
        self._begun = True
        lines = []
        has_length = says_close = False
        for name, value in (*self._channel.default_headers, *headers):
            if name == b"content-length":
                has_length, self._left = True, int(value)
            elif name == b"connection" and value.lower() == b"close":
                self.keep_alive, says_close = False, True
            lines.append(b"%b: %b\r\n" % (name, value))
        fields = b"".join(lines)
        if not FIELDS.fullmatch(fields) or fields.count(b"\n") != len(lines):
            raise RuntimeError("the response has an invalid header")
        fields += more
        self._bodyless = self._bodyless or status in {204, 304}
        if self._expects_continue:
            # The client may or may not send the body now: the next bytes could be the body or another request.
            self.keep_alive = False
        if not has_length and not self._bodyless:
            if self.scope["http_version"] == "1.0":
                self.keep_alive = False  # HTTP/1.0 has no chunks: the end of the connection ends the response
            else:
                self._chunked = True
                fields += b"transfer-encoding: chunked\r\n"
        if not self.keep_alive and not says_close:
            fields += b"connection: close\r\n"
        self._left = self._left if has_length else -1
        line = _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        self._head = b"%b%b\r\n" % (line, fields)

    def _send_body(self, body: bytes, *, more: bool) -> None:
        head, self._head = self._head, b""
        if self._bodyless:
            written = head
        elif self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            written = head + chunk + (b"" if more else b"0\r\n\r\n")
        else:
            if self._left >= 0:
                self._left -= len(body)
                if self._left < 0 or (self._left and not more):
                    raise RuntimeError("the length of the response differs from its Content-Length")
            written = body
            if head and len(body) <= COPIED:
                written = head + body
            elif head:
                self._channel.transport.write(head)
        if more:
            self._write(written)
            return
        self._answered, self._last = True, written
        if self.keep_alive and not self.more_body and len(body) <= COPIED:
            self._channel.sends.add(self)
        else:
            self.finish()

    def drop(self) -> None:
        """Abort the connection."""
        self._channel.transport.abort()

    def finish(self) -> None:
        """Write the end of the response, and let the connection continue."""
        last, self._last = self._last, b""
        if self.disconnected:
            return
        self._write(last)
        self.complete = True
        self._body.clear()
        self._change()
        if not self.keep_alive:
            self._channel.finish()
        self._channel.response_sent()

    def _write(self, data: bytes) -> None:
        if data and not self._channel.transport.is_closing():
            self._channel.transport.write(data)

    def _hold(self, end_wait: Callable[[], None] | None) -> None:
        self._held = True
        if self.disconnected:
            if end_wait is not None:
                end_wait()  # the client disconnected before its request began to wait
        elif not self.complete:
            self._channel.set_wait(end_wait)
