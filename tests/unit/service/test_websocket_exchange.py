"""Limits of a WebSocket, tested with a fake transport and given times."""

import asyncio
import tracemalloc
from types import SimpleNamespace
from typing import Any, cast

import pytest
from starlette.types import Receive, Scope, Send
from tests.support.websocket_server import CLOSE, PING, TEXT, frame, head
from uvicorn.server import ServerState

from tminus import clock
from tminus.service import websocket_exchange
from tminus.service.connections import OpenConnections
from tminus.service.http_exchange import SendQueue
from tminus.service.http_server import HEAD_SECONDS, KEEP_ALIVE_SECONDS, WRITE_BYTES, WRITE_SECONDS, Connection
from tminus.service.websocket_exchange import MESSAGE_BYTES, PING_SECONDS, QUEUED_MESSAGES, SILENT_SECONDS, Rates


class Transport:
    """A fake transport. The test sets how many bytes its client has not read."""

    def __init__(self) -> None:
        self.written = b""
        self.unread = 0
        self.is_reading = True
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unread

    def get_extra_info(self, _name: str) -> None:
        return None

    def set_write_buffer_limits(self, *, high: int) -> None: ...
    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...
    def abort(self) -> None:
        self.aborted = True


class Opened:
    """An open WebSocket, and its application, which waits for `accepts` and `receives`."""

    def __init__(self) -> None:
        self.transport = Transport()
        self.accepts = asyncio.Event()
        self.accepts.set()
        self.receives = asyncio.Event()
        self.connection = Connection(
            cast("Any", SimpleNamespace(loaded_app=self._application)),
            ServerState(),
            {},
            open_connections=OpenConnections(None, lambda _address: None),
            rates=Rates,
            sends=SendQueue(),
        )
        self.received: list[str] = []

    async def _application(self, _scope: Scope, receive: Receive, send: Send) -> None:
        self.send = send
        await receive()
        await self.accepts.wait()
        await send({"type": "websocket.accept"})
        await self.receives.wait()
        while (message := await receive())["type"] == "websocket.receive":
            self.received.append(message["text"])

    async def __aenter__(self) -> "Opened":
        self.connection.connection_made(cast("Any", self.transport))
        self.connection.data_received(head())
        await asyncio.sleep(0)
        assert b" 101 " in self.transport.written
        self.transport.written = b""
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.transport.aborted = True
        self.connection.connection_lost(None)
        self.receives.set()
        await asyncio.sleep(0)


@pytest.mark.parametrize("reads", [True, False])
def test_a_client_must_read_at_a_minimum_rate_while_more_is_sent(reads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with Opened() as one:
            monkeypatch.setattr(websocket_exchange, "SILENT_SECONDS", 1000)
            now = clock.monotonic()
            one.transport.unread = 60_000
            for _ in range(5):
                one.connection.check(now)
                await one.send({"type": "websocket.send", "text": "x" * WRITE_BYTES})
                if not reads:
                    one.transport.unread += WRITE_BYTES
                now += WRITE_SECONDS + 0.1
            assert one.transport.aborted is not reads

    asyncio.run(run())


def test_a_ping_is_sent_and_a_silent_client_is_disconnected() -> None:
    async def run() -> None:
        async with Opened() as one:
            now = clock.monotonic()
            one.connection.check(now)
            assert not one.transport.written
            one.connection.check(now + PING_SECONDS)
            assert one.transport.written == bytes([128 | PING, 0])
            one.connection.check(now + SILENT_SECONDS - 1)
            assert not one.transport.aborted
            one.connection.check(now + SILENT_SECONDS + 0.1)
            assert one.transport.aborted

    asyncio.run(run())


def test_a_client_is_not_silent_while_its_application_does_not_receive() -> None:
    async def run() -> None:
        async with Opened() as one:
            one.connection.data_received(b"".join(frame(TEXT, b"%d" % number) for number in range(QUEUED_MESSAGES + 1)))
            assert not one.transport.is_reading
            one.connection.check(clock.monotonic() + SILENT_SECONDS + 1)
            assert not one.transport.aborted
            one.receives.set()
            await asyncio.sleep(0)
            assert one.transport.is_reading
            assert len(one.received) == QUEUED_MESSAGES + 1

    asyncio.run(run())


def test_a_websocket_that_is_accepted_while_the_daemon_stops_is_closed_with_1012() -> None:
    async def run() -> None:
        one = Opened()
        one.accepts.clear()
        one.connection.connection_made(cast("Any", one.transport))
        one.connection.data_received(head())
        await asyncio.sleep(0)
        one.connection.shutdown()
        assert not one.transport.written
        one.accepts.set()
        one.receives.set()
        await asyncio.sleep(0)
        response, _, rest = one.transport.written.partition(b"\r\n\r\n")
        assert b" 101 " in response
        assert rest[:4] == bytes([128 | CLOSE, len(rest) - 2]) + (1012).to_bytes(2, "big")
        one.connection.connection_lost(None)

    asyncio.run(run())


@pytest.mark.parametrize("sent", [frame(PING, b"x" * 125), frame(TEXT, b"x" * 1000)], ids=["pings", "messages"])
def test_a_flood_after_the_close_frame_of_the_daemon_ends_the_connection(sent: bytes) -> None:
    async def run() -> None:
        async with Opened() as one:
            await one.send({"type": "websocket.close", "code": 4410})
            for _ in range(100):
                one.connection.data_received(sent * 100)
            assert one.transport.aborted
            assert len(one.transport.written) < 20_000

    asyncio.run(run())


def test_the_end_of_a_connection_is_read_although_its_messages_still_wait() -> None:
    async def run() -> None:
        async with Opened() as one:
            one.connection.data_received(frame(TEXT, b"x") * (QUEUED_MESSAGES + 2) + frame(CLOSE, b"\x03\xe8"))
            assert one.transport.is_reading
            one.receives.set()
            await asyncio.sleep(0)
            assert len(one.received) == QUEUED_MESSAGES + 2

    asyncio.run(run())


def test_the_time_limits_of_requests_do_not_apply_to_a_websocket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_exchange, "SILENT_SECONDS", 1000)

    async def run() -> None:
        async with Opened() as one:
            one.connection.data_received(frame(TEXT, b"x"))
            one.connection.check(clock.monotonic() + HEAD_SECONDS + KEEP_ALIVE_SECONDS)
            assert not one.transport.aborted

    asyncio.run(run())


def test_the_content_of_a_message_is_freed_once_it_is_received() -> None:
    async def run() -> None:
        async with Opened() as one:
            one.receives.set()
            tracemalloc.start()
            try:
                one.connection.data_received(frame(TEXT, b"x" * MESSAGE_BYTES))
                await asyncio.sleep(0)
                assert len(one.received.pop()) == MESSAGE_BYTES
                left, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            # The test's application still holds its last message, once.
            assert left < 1.5 * MESSAGE_BYTES

    asyncio.run(run())
