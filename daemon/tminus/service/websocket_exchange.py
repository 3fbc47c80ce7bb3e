"""Connect one WebSocket to an ASGI application."""

import asyncio
import base64
import hashlib
import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Scope
from websockets.frames import Frame, Opcode
from websockets.protocol import SEND_EOF, State
from websockets.server import ServerProtocol

from tminus import clock
from tminus.api import IS_OURS
from tminus.service.http_exchange import FIELDS, Channel, Exchange

MESSAGE_BYTES = 65_536
"""Maximum bytes of a message of the client, in all its frames. The head of a frame that exceeds it closes the WebSocket
with 1009; the frame's content is not awaited.
"""

QUEUED_MESSAGES = 16
"""Messages that wait for the application; beyond it the connection pauses reading."""

QUEUED_BYTES = 65_536
"""Bytes of messages that wait for the application, or that arrived before it accepted; beyond it the connection pauses
reading.
"""

SLICE_BYTES = 4096
"""Bytes that are parsed between two checks of the rates. One read of the transport can contain 40,000 frames, and to
parse them all would hold up all other connections.
"""

BURST_SECONDS = 5
"""A client may send at once what its rates allow for this many seconds. A browser sends dozens of messages at once, for
example the candidates of a call.
"""

PING_SECONDS = 5
"""Seconds between pings. Proxies close a connection without traffic, most of them after 60 s."""

SILENT_SECONDS = 15
"""Seconds after which a silent client counts as gone; it has then left three pings unanswered."""

CLOSE_SECONDS = 2
"""Maximum seconds for the client to answer a close frame and to close the connection. Must be well below the server's
`DRAIN_SECONDS`.
"""

REASON_BYTES = 123
"""Maximum bytes of the reason in a close frame (RFC 6455, 5.5)."""

SERVICE_RESTART = 1012
"""The close code when the daemon stops. Clients then connect again."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

_log = logging.getLogger(__name__)

_library_log = logging.getLogger("tminus.websockets")
"""The library logs the content of frames at level debug, which may contain secrets, and each connection at info."""
_library_log.setLevel(logging.WARNING)


class Rates(NamedTuple):
    """What one client may send on average, in frames and bytes a second."""

    frames: int = 20
    bytes: int = 65_536


class WebSocketExchange(Exchange):
    """One WebSocket, from its upgrade to its end; or the HTTP response that refuses it.

    Parameters
    ----------
    channel
        The connection of the upgrade.
    scope
        The ASGI scope, of type `websocket`.
    key
        The client's `Sec-WebSocket-Key`.
    rates
        Returns the rates in force.
    """

    def __init__(self, channel: Channel, scope: Scope, key: bytes, rates: Callable[[], Rates]) -> None:
        # ASGI's extension for the refusal of a WebSocket with any HTTP response.
        scope["extensions"] = {"websocket.http.response": {}}
        super().__init__(channel, scope, keep_alive=False, expects_continue=False)
        self.written = 0
        """Bytes that were passed to the transport since the upgrade."""
        self._key = key
        self._rates = rates
        self._protocol: ServerProtocol | None = None
        """The frames of an accepted WebSocket."""
        self._connecting = True
        """Whether the application has not received `websocket.connect`."""
        self._early = bytearray()
        """Bytes that arrived before the application accepted."""
        self._queue: deque[Message] = deque()
        """Messages that wait for the application."""
        self._queued = 0
        """Bytes of the messages that were queued since the queue was empty."""
        self._message = bytearray()
        """The frames of a message whose end has not arrived."""
        self._is_text = True
        self._end: Message | None = None
        """The ASGI message of the end, once the WebSocket is over."""
        self._aborting: asyncio.TimerHandle | None = None
        self._discards = False
        """Whether what still arrives is discarded, since the daemon has closed its side."""
        self._stops = False
        """Whether the daemon stops."""
        self._aborted = ""
        """Why the daemon has aborted the connection; "" if it has not."""
        self._paused = False
        self._received_at = self._pinged_at = clock.monotonic()
        self._measured = self._received_at
        """When the rates were last measured, on the monotonic clock."""
        self._frames_left = self._bytes_left = 0.0

    # --- called by the connection -------------------------------------------------------------------------------------

    def end_body(self) -> None:
        """Do nothing: until the client closes its side, more can arrive. So `more_body` stays true."""

    def feed(self, data: bytes) -> None:
        """Process bytes that follow the head of the upgrade."""
        if self._answered or self._discards:
            return
        if self._protocol is None:
            self._early += data
            if len(self._early) > QUEUED_BYTES:
                self._pause()
            return
        self._received_at = clock.monotonic()
        view = memoryview(data)
        for at in range(0, len(data), SLICE_BYTES):
            self._parse(self._protocol, bytes(view[at : at + SLICE_BYTES]))
            if self._discards or self._channel.transport.is_closing():
                return
        if self._end is None and (len(self._queue) > QUEUED_MESSAGES or self._queued > QUEUED_BYTES):
            self._pause()

    def disconnect(self) -> None:
        super().disconnect()
        if self._aborting is not None:
            self._aborting.cancel()
        self._set_end(1006, self._aborted, is_ours=bool(self._aborted))

    def abort(self, reason: str) -> None:
        """Abort the connection without a close frame. `reason` is for the log."""
        self._aborted = reason
        self._channel.transport.abort()

    def check(self, now: float) -> None:
        """Send a ping if it is time, and abort a connection whose client is silent."""
        if self._protocol is None or self._protocol.state is not State.OPEN:
            return
        if self._paused:
            self._received_at = now  # nothing is read, so the client may have sent something
        if now - self._received_at >= SILENT_SECONDS:
            self.abort(f"nothing arrived for {SILENT_SECONDS} s")
        elif now - self._pinged_at >= PING_SECONDS:
            self._pinged_at = now
            self._protocol.send_ping(b"")
            self._flush(self._protocol)

    def shutdown(self) -> None:
        """Close the WebSocket, since the daemon stops."""
        self._stops = True
        if self._protocol is not None:
            self._close(self._protocol, SERVICE_RESTART, "the daemon stops")

    # --- frames -------------------------------------------------------------------------------------------------------

    def _parse(self, protocol: ServerProtocol, data: bytes) -> None:
        is_open = protocol.state is State.OPEN
        protocol.receive_data(data)
        frames = protocol.events_received()
        if not self._allowed(len(data), len(frames)):
            if not is_open:
                # The daemon has sent its close frame, but would still have to answer each ping of this flood.
                self._channel.transport.abort()
                return
            self._fail(protocol, 1008, "too many messages or bytes a second")
        elif self._end is None:
            for frame in frames:
                assert isinstance(frame, Frame)
                self._take(protocol, frame)
        self._flush(protocol)
        if protocol.state is not State.OPEN:
            is_ours = protocol.close_rcvd is None
            closing = protocol.close_sent if is_ours else protocol.close_rcvd
            if closing is None:
                self._set_end(1006)
            else:
                self._set_end(closing.code, closing.reason, is_ours=is_ours)

    def _allowed(self, size: int, frames: int) -> bool:
        """Count frames and bytes; return whether the client stays within its rates (token bucket)."""
        rates, now = self._rates(), clock.monotonic()
        elapsed, self._measured = now - self._measured, now
        self._frames_left = min(self._frames_left + elapsed * rates.frames, rates.frames * BURST_SECONDS) - frames
        self._bytes_left = min(self._bytes_left + elapsed * rates.bytes, rates.bytes * BURST_SECONDS) - size
        return self._frames_left >= 0 and self._bytes_left >= 0

    def _take(self, protocol: ServerProtocol, frame: Frame) -> None:
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) or self._end is not None:
            return
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._message += frame.data
        frame.data = b""  # the protocol keeps the latest frame until the next one arrives, which can be hours
        if not frame.fin:
            return
        message, self._message = bytes(self._message), bytearray()
        if self._is_text:
            try:
                text = message.decode()
            except UnicodeDecodeError:
                self._fail(protocol, 1007, "text that is not UTF-8")
                return
            self._queue.append({"type": "websocket.receive", "text": text})
        else:
            self._queue.append({"type": "websocket.receive", "bytes": message})
        self._queued += len(message)
        self._change()

    def _fail(self, protocol: ServerProtocol, code: int, reason: str) -> None:
        """Close the WebSocket because of what the client sent. Messages that wait for the application are dropped."""
        protocol.fail(code, reason)
        self._queue.clear()
        self._queued = 0

    def _close(self, protocol: ServerProtocol, code: int, reason: str) -> None:
        if protocol.state is State.OPEN:
            protocol.send_close(code, _shortened(reason))
            self._set_end(code, reason, is_ours=True)
            self._flush(protocol)

    def _set_end(self, code: int, reason: str = "", *, is_ours: bool = False) -> None:
        """Note the end. `is_ours`: the daemon has closed the WebSocket, and the reason is not text of the client."""
        if self._end is None:
            self._end = {"type": "websocket.disconnect", "code": int(code), "reason": reason, IS_OURS: is_ours}
            self._message.clear()
            self._change()
            # The client's answer to the close frame may follow messages that the application will not receive.
            self._resume()

    def _flush(self, protocol: ServerProtocol) -> None:
        """Write what the protocol has to send."""
        transport = self._channel.transport
        for data in protocol.data_to_send():
            if transport.is_closing():
                return
            if data is not SEND_EOF:
                self.written += len(data)
                transport.write(data)
            elif transport.can_write_eof():
                # Not `close`: the kernel would reset the connection because of unread bytes, and the client would not
                # receive the close frame. What still arrives is discarded until the client closes its side.
                transport.write_eof()
                self._discards = True
        if protocol.state is not State.OPEN and self._aborting is None:
            self._aborting = asyncio.get_running_loop().call_later(CLOSE_SECONDS, transport.abort)

    def _pause(self) -> None:
        self._paused = True
        self._channel.pause_reading()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._received_at = clock.monotonic()
            self._channel.resume_reading()

    # --- called by the application ------------------------------------------------------------------------------------

    async def run(self, application: ASGIApp) -> None:
        """Run the application until the WebSocket is over or refused. Exceptions are logged, and never raised."""
        code = 1000
        try:
            await application(self.scope, self.receive, self.send)
        except BaseException:
            _log.exception("Exception in ASGI application")
            code = 1011
        if self._protocol is not None:
            self._close(self._protocol, code, "")
        elif not self._answered and not self.disconnected:
            if self._begun:
                self._channel.transport.abort()
            else:
                await super().send(
                    {"type": "http.response.start", "status": 500, "headers": [(b"content-length", b"0")]}
                )
                await super().send({"type": "http.response.body"})

    async def receive(self) -> Message:
        if self._connecting:
            self._connecting = False
            return {"type": "websocket.connect"}
        while not self._queue and self._end is None:
            self._receiving = asyncio.get_running_loop().create_future()
            await self._receiving
        if self._queue:
            message = self._queue.popleft()
            if not self._queue:
                self._queued = 0
                self._resume()
            return message
        assert self._end is not None
        return self._end

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self._protocol is None:
            if kind == "websocket.accept" and not self._begun:
                self._accept(message)
            elif kind == "websocket.close":
                await super().send(
                    {"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]}
                )
                await super().send({"type": "http.response.body"})
            else:
                await super().send({**message, "type": kind.removeprefix("websocket.")})
        elif kind == "websocket.send":
            await self._channel.drain()
            if self._end is not None:
                raise ConnectionResetError("the WebSocket is closed")
            text = message.get("text")
            if text is not None:
                self._protocol.send_text(text.encode() if isinstance(text, str) else text)
            else:
                self._protocol.send_binary(message["bytes"])
            self._flush(self._protocol)
        elif kind == "websocket.close":
            self._close(self._protocol, message.get("code", 1000), message.get("reason") or "")
        else:
            raise RuntimeError(f"unexpected ASGI message {kind}")

    def _accept(self, message: Message) -> None:
        if self.disconnected or self._end is not None:
            return
        self._begun = True
        headers = [
            *self._channel.default_headers,
            (b"upgrade", b"websocket"),
            (b"connection", b"Upgrade"),
            (
                b"sec-websocket-accept",
                base64.b64encode(hashlib.sha1(self._key + _GUID, usedforsecurity=False).digest()),
            ),
            *message.get("headers", ()),
        ]
        if (subprotocol := message.get("subprotocol")) is not None:
            headers.append((b"sec-websocket-protocol", subprotocol.encode()))
        fields = b"".join(b"%b: %b\r\n" % pair for pair in headers)
        if not FIELDS.fullmatch(fields) or fields.count(b"\n") != len(headers):
            raise RuntimeError("the response has an invalid header")
        self._protocol = ServerProtocol(state=State.OPEN, max_size=MESSAGE_BYTES, logger=_library_log)
        self._received_at = self._pinged_at = self._measured = clock.monotonic()
        rates = self._rates()
        self._frames_left, self._bytes_left = rates.frames * BURST_SECONDS, rates.bytes * BURST_SECONDS
        self._channel.transport.write(b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % fields)
        early, self._early = bytes(self._early), bytearray()
        self._resume()
        if self._stops:
            self.shutdown()
        elif early:
            self.feed(early)


def _shortened(reason: str) -> str:
    """Return the longest beginning of a reason that fits into a close frame."""
    return reason.encode()[:REASON_BYTES].decode(errors="ignore")
