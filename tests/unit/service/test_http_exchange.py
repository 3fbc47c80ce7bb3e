"""A response as it is written to the connection."""

import asyncio
from typing import Any
from unittest.mock import Mock

import pytest

from tminus.api import RESPOND
from tminus.service.http_exchange import COPIED, Exchange


@pytest.mark.parametrize(("size", "writes"), [(COPIED, 1), (COPIED + 1, 2)])
def test_only_a_small_body_is_copied(size: int, writes: int) -> None:
    channel: Any = Mock(default_headers=[], drain=lambda: asyncio.sleep(0))
    body, scope = b"x" * size, {"type": "http", "method": "GET", "http_version": "1.1", "state": {}}

    async def answer(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        await send({"type": "http.response.body", "body": body})

    asyncio.run(Exchange(channel, scope, keep_alive=True, expects_continue=False).run(answer))

    written = [call.args[0] for call in channel.transport.write.call_args_list]
    assert len(written) == writes
    assert b"".join(written).endswith(body)
    assert (written[-1] is body) is (writes == 2)


HEADERS = [(b"content-length", b"2"), (b"etag", b'"1"')]
MORE = b"cache-control: no-store\r\n"


def exchange(method: str = "GET") -> tuple[Exchange, Any]:
    channel: Any = Mock(default_headers=[(b"date", b"today")], drain=lambda: asyncio.sleep(0))
    scope = {"type": "http", "method": method, "http_version": "1.1", "state": {}}
    return Exchange(channel, scope, keep_alive=True, expects_continue=False), channel


def respond(one: Exchange) -> None:
    async def application(scope: Any, _receive: Any, _send: Any) -> None:
        await scope["state"][RESPOND](200, HEADERS, MORE, b"{}")

    asyncio.run(one.run(application))


@pytest.mark.parametrize(("method", "body"), [("GET", b"{}"), ("HEAD", b"")])
def test_a_complete_response_is_written_at_once(method: str, body: bytes) -> None:
    one, channel = exchange(method)
    respond(one)

    head = b'HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\netag: "1"\r\ncache-control: no-store\r\n\r\n'
    assert [call.args[0] for call in channel.transport.write.call_args_list] == [head + body]
    assert one.complete


def test_a_client_that_has_disconnected_gets_no_complete_response() -> None:
    one, channel = exchange()
    one.disconnect()
    respond(one)

    assert not channel.transport.write.called


def test_a_request_gets_one_complete_response() -> None:
    one, channel = exchange()
    respond(one)
    with pytest.raises(RuntimeError, match="already begun"):
        asyncio.run(one.scope["state"][RESPOND](200, HEADERS, MORE, b"{}"))

    assert channel.transport.write.call_count == 1
