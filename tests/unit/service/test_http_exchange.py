"""A response as it is written to the connection."""

import asyncio
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from tminus.api import RESPOND
from tminus.service.http_exchange import COPIED, SENT_TOGETHER, Exchange, SendQueue


async def _drained() -> None:
    """Wait for nothing: the client has read everything."""


@pytest.mark.parametrize(("size", "writes"), [(COPIED, 1), (COPIED + 1, 2)])
def test_only_a_small_body_is_copied(size: int, writes: int) -> None:
    channel: Any = Mock(default_headers=[], drain=_drained, sends=SendQueue())
    channel.transport.is_closing.return_value = False
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
    channel: Any = Mock(default_headers=[(b"date", b"today")], drain=_drained, sends=SendQueue())
    channel.transport.is_closing.return_value = False
    scope = {"type": "http", "method": method, "http_version": "1.1", "state": {}}
    made = Exchange(channel, scope, keep_alive=True, expects_continue=False)
    made.end_body()
    return made, channel


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


def in_one_iteration(exchanges: list[Exchange], then: Callable[[], None] = lambda: None) -> None:
    """Answer all requests in one iteration of the event loop, and call `then` in it."""

    async def application(scope: Any, _receive: Any, _send: Any) -> None:
        await scope["state"][RESPOND](200, HEADERS, MORE, b"{}")

    async def answer() -> None:
        running = [asyncio.ensure_future(one.run(application)) for one in exchanges]
        asyncio.get_running_loop().call_soon(then)
        await asyncio.wait(running)
        await asyncio.sleep(0)

    asyncio.run(answer())


def test_responses_of_one_iteration_are_sent_together_after_all_of_them_are_made() -> None:
    (one, first), (two, second) = exchange(), exchange()
    first.sends = second.sends
    sent: list[int] = []

    in_one_iteration([one, two], lambda: sent.append(first.transport.write.call_count))

    assert sent == [0]
    assert [channel.transport.write.call_count for channel in (first, second)] == [1, 1]
    assert [channel.response_sent.call_count for channel in (first, second)] == [1, 1]


def test_a_response_waits_for_a_limited_number_of_others() -> None:
    made = [exchange() for _ in range(SENT_TOGETHER + 1)]
    for _, channel in made:
        channel.sends = made[0][1].sends
    sent: list[int] = []

    in_one_iteration(
        [one for one, _ in made],
        lambda: sent.append(sum(channel.transport.write.call_count for _, channel in made)),
    )

    assert sent == [SENT_TOGETHER]
    assert all(one.complete for one, _ in made)


def test_a_connection_that_fails_does_not_keep_the_responses_of_others(caplog: pytest.LogCaptureFixture) -> None:
    (one, first), (two, second) = exchange(), exchange()
    first.sends = second.sends
    first.transport.write.side_effect = OSError("broken")

    in_one_iteration([one, two])

    assert first.transport.abort.called
    assert second.transport.write.called
    assert "A response could not be sent" in caplog.text


def test_nothing_is_sent_on_a_connection_that_was_lost_meanwhile() -> None:
    one, channel = exchange()
    in_one_iteration([one], one.disconnect)

    assert not channel.transport.write.called
    assert not one.complete


def is_last(one: Exchange) -> None:
    one.keep_alive = False


def has_more_body(one: Exchange) -> None:
    one.more_body = True


@pytest.mark.parametrize("make", [is_last, has_more_body])
def test_a_response_after_which_the_connection_may_end_is_sent_at_once(make: Callable[[Exchange], None]) -> None:
    one, channel = exchange()
    make(one)
    sent: list[int] = []

    in_one_iteration([one], lambda: sent.append(channel.transport.write.call_count))

    assert sent == [1]
    assert channel.finish.called is (make is is_last)


def test_a_connection_that_is_to_end_meanwhile_ends_after_the_response() -> None:
    one, channel = exchange()
    in_one_iteration([one], lambda: setattr(one, "keep_alive", False))

    calls = [call[0] for call in channel.method_calls if call[0] != "transport.is_closing"]
    assert calls == ["transport.write", "finish", "response_sent"]
