"""The real server and middleware with WebSocket endpoints of the tests, and clients for it."""

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop
from websockets.sync.client import ClientConnection, connect

from tminus import clock
from tminus.api import Services, application, make_application
from tminus.api.routing import Router
from tminus.api.websocket import WebSocket, WebSocketClosed
from tminus.config import Limits, Settings
from tminus.config.settings import Server as ServerSettings
from tminus.delivery import Webhooks
from tminus.domain.errors import UnknownSession
from tminus.service.http_server import Server
from tminus.service.websocket_exchange import Rates
from tminus.storage import Store

MOST = 40
"""Connections that may be open."""

PER_ADDRESS = 20
"""WebSockets that one address may have."""

RATES = Rates(20, 65_536)

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
"""The example key of RFC 6455, and the header with which a server accepts it."""
ACCEPTED = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

PAGE = "https://desk.example.com"
"""The origin of a page that may call the API."""

router = Router("/v3", "tests")


class Seen:
    """What the endpoints received."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.contexts: list[Any] = []
        self.messages: list[str] = []


seen = Seen()


@router.websocket("/echo/{name}")
async def echo(websocket: WebSocket) -> None:
    seen.contexts.append(websocket.context)
    websocket.context.actor = "agent:7"
    await websocket.accept()
    try:
        while True:
            text = await websocket.receive()
            seen.messages.append(text)
            await websocket.send(text)
    except WebSocketClosed as closed:
        seen.codes.append(closed.code)
        raise


@router.websocket("/chosen", subprotocols=("v2", "v1"))
async def chosen(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send(str(websocket.subprotocol).encode())


@router.websocket("/refused")
async def refused(websocket: WebSocket) -> None:
    raise UnknownSession("x")


@router.websocket("/late")
async def late(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive()
    raise UnknownSession("x")


@router.websocket("/broken")
async def broken(websocket: WebSocket) -> None:
    await websocket.accept()
    raise ValueError("a defect")


@router.websocket("/idle")
async def idle(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        await websocket.receive(0.05)
    except TimeoutError:
        await websocket.send("nothing came")
    await websocket.close(4410, "over")


@router.websocket("/pours")
async def pours(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send("x" * 50_000)
    except WebSocketClosed as closed:
        seen.codes.append(closed.code)
        raise


@router.websocket("/deaf")
async def deaf(websocket: WebSocket) -> None:
    """Receive nothing until the test sets `hearing`."""
    await websocket.accept()
    await asyncio.to_thread(hearing.wait, 20)
    try:
        while True:
            seen.messages.append(await websocket.receive())
    except WebSocketClosed as closed:
        seen.codes.append(closed.code)


hearing = threading.Event()


@dataclass
class Served:
    """The server of the tests."""

    address: tuple[str, int]
    services: Services
    serving: Server

    @property
    def url(self) -> str:
        return f"ws://{self.address[0]}:{self.address[1]}"

    def open_websockets(self) -> float:
        """Return the number of WebSockets whose endpoint has not returned."""
        return sum(one.value for metric in self.services.metrics.websockets.collect() for one in metric.samples)

    def open(self, path: str, **options: Any) -> ClientConnection:
        client: ClientConnection = connect(self.url + path, compression=None, ping_interval=None, proxy=None, **options)
        return client

    def raw(self, path: str = "/v3/echo/x", more: str = "", **changes: str) -> "Raw":
        """Return a connection that has sent an upgrade. `changes`: other headers; "" omits one."""
        one = Raw(socket.create_connection(self.address, timeout=10))
        one.socket.sendall(head(path, **changes) + more.encode("latin-1"))
        return one


def head(path: str = "/v3/echo/x", line: str = "", **changes: str) -> bytes:
    headers = {
        "Host": "a",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
    } | {name.replace("_", "-"): value for name, value in changes.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
    return f"{line or f'GET {path} HTTP/1.1'}\r\n{lines}\r\n".encode()


class Raw:
    """A connection on which the test writes each byte itself."""

    def __init__(self, one: socket.socket) -> None:
        self.socket = one
        self._data = b""

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def head(self) -> bytes:
        """Return the head of the response."""
        while b"\r\n\r\n" not in self._data:
            more = self.socket.recv(65_536)
            assert more, self._data
            self._data += more
        found, _, self._data = self._data.partition(b"\r\n\r\n")
        return found

    def _exactly(self, size: int) -> bytes:
        while len(self._data) < size:
            more = self.socket.recv(65_536)
            if not more:
                raise EOFError
            self._data += more
        found, self._data = self._data[:size], self._data[size:]
        return found

    def frame(self) -> tuple[int, bytes]:
        """Return opcode and content of the next frame. Raises `EOFError`."""
        first, second = self._exactly(2)
        size = second & 127
        if size == 126:
            [size] = struct.unpack("!H", self._exactly(2))
        elif size == 127:
            [size] = struct.unpack("!Q", self._exactly(8))
        return first & 15, self._exactly(size)

    def closed(self) -> int:
        """Return the close code that the server sends, after any other frames; then its connection must end."""
        while True:
            opcode, content = self.frame()
            if opcode == 8:
                break
        with pytest.raises(EOFError):
            self.frame()
        return int.from_bytes(content[:2], "big")

    def rest(self) -> bytes:
        """Return everything until the end of the connection."""
        with suppress(ConnectionResetError):
            while more := self.socket.recv(65_536):
                self._data += more
        return self._data


def frame(
    opcode: int, content: bytes = b"", *, fin: bool = True, masked: bool = True, size: int | None = None
) -> bytes:
    """Return a frame of a client. `size`: the length in its header, if it differs from the real one."""
    named = len(content) if size is None else size
    first, bit = opcode | (128 if fin else 0), 128 if masked else 0
    if named < 126:
        start = struct.pack("!BB", first, bit | named)
    elif named < 65_536:
        start = struct.pack("!BBH", first, bit | 126, named)
    else:
        start = struct.pack("!BBQ", first, bit | 127, named)
    return start + (b"\0\0\0\0" if masked else b"") + content


TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


@contextmanager
def serving(state: Path, limits: Limits, rates: Rates = RATES, most: int = MOST) -> Iterator[Served]:
    """Serve the real middleware with the endpoints of the tests."""
    store = Store(f"sqlite:///{Path(state, 'tminus.db')}", clock.now)
    webhooks = Webhooks(store, state, lambda *_: None)
    webhooks.start()
    settings = Settings(
        limits=limits,
        server=ServerSettings(
            public_url="https://support.example.com:8443", cors_origins=(PAGE,), trusted_proxies=("127.0.0.1",)
        ),
    )
    services = Services(store, settings, webhooks, list, "here")
    try:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            server = Server(
                make_application(services, [*application._ROUTERS, router]), [listening], most, rates=lambda: rates
            )
            thread = threading.Thread(target=lambda: uvloop.run(server.serve_all()))
            thread.start()
            try:
                yield Served(listening.getsockname(), services, server)
            finally:
                server.should_exit = True
                thread.join()
    finally:
        services.close()
        webhooks.stop()
        store.close()
