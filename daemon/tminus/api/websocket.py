"""One WebSocket, as endpoints use it."""

import asyncio

from starlette.types import Message, Receive, Send

from tminus.api.request_context import RequestContext
from tminus.api.response import Response

IS_OURS = "tminus.is_ours"
"""Key in the ASGI message `websocket.disconnect`: whether the daemon, and not the client, has ended the WebSocket."""


class WebSocketClosed(Exception):
    """The WebSocket is over. `code` is its close code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the WebSocket was closed with {code}")
        self.code = code


class WebSocket:
    """One WebSocket. One task may receive while others send; messages are sent whole, in the order of the calls.

    The server limits what it receives: messages of at most 64 KiB, and a number of messages and bytes a second.

    Parameters
    ----------
    context
        The context of the upgrade.
    receive, send
        The functions of ASGI.
    """

    def __init__(self, context: RequestContext, receive: Receive, send: Send) -> None:
        self.context = context
        self.subprotocol: str | None = None
        """The subprotocol that `accept` selects, or None."""
        self.accepted = False
        self.closed: int | None = None
        """The close code, once the WebSocket is over: 1005 if the client sent none, 1006 if its connection was lost."""
        self.is_ours = False
        """Whether the daemon chose the close code, and not the client."""
        self.close_reason = ""
        """Why the daemon has closed it, if it has; never text of the client."""
        self._receive = receive
        self._send = send

    async def accept(self) -> None:
        """Accept the upgrade. Before that, an endpoint refuses it with a `RequestError`."""
        self.accepted = True
        self.context.code = 101
        headers = [(b"x-request-id", self.context.request_id.encode())]
        await self._send({"type": "websocket.accept", "subprotocol": self.subprotocol, "headers": headers})

    async def receive(self, seconds: float | None = None) -> str:
        """Return the next message. A binary message closes the WebSocket with 1003.

        Raises `TimeoutError` if there is none within `seconds`, and `WebSocketClosed` at the end.
        """
        if self.closed is not None:
            raise WebSocketClosed(self.closed)
        async with asyncio.timeout(seconds):
            message = await self._receive()
        text: str | None = message.get("text")
        if text is not None:
            return text
        if message["type"] == "websocket.disconnect":
            raise self._over(message)
        await self.close(1003, "only text messages are supported")
        raise WebSocketClosed(1003)

    async def send(self, text: str | bytes) -> None:
        """Send a text message. Bytes must be valid UTF-8.

        Waits while the client has more than 64 KiB to read; the server gives up a client that reads too slowly. Raises
        `WebSocketClosed` after the end.
        """
        if self.closed is not None:
            raise WebSocketClosed(self.closed)
        message: Message = {"type": "websocket.send", "text": text}
        try:
            await self._send(message)
        except ConnectionResetError:
            raise self._over(await self._ending()) from None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the WebSocket; do not wait for the client's answer. After the end this has no effect."""
        if self.closed is None and self.accepted:
            self.closed, self.is_ours, self.close_reason = code, True, self.close_reason or reason
            await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _ending(self) -> Message:
        """Return the message of the end, and drop the messages that were received before it."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                return message

    def _over(self, end: Message) -> WebSocketClosed:
        """Store the close code in the message of the end; return the exception for it."""
        if self.closed is None:
            self.closed = end["code"]
            if end.get(IS_OURS):
                self.is_ours, self.close_reason = True, end["reason"]
        return WebSocketClosed(self.closed)


async def refuse_websocket(response: Response, send: Send) -> None:
    """Refuse an upgrade with an HTTP response."""
    start = {"type": "websocket.http.response.start", "status": response.status_code, "headers": response.headers}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": response.body})
