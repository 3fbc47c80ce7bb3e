"""Attacks on the WebSockets of a real daemon, by clients that write raw frames."""

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.acceptance.conftest import shared
from tests.acceptance.daemons import Daemon
from tests.support.rooms import SUBPROTOCOL
from tests.support.waiting import eventually
from tests.support.websocket_server import CLOSE, TEXT, Raw, frame, head

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    yield from shared()


def upgraded(daemon: Daemon, session_id: str, query: str = "", **headers: str) -> Raw:
    """Return a connection that has sent an upgrade for the room of a session."""
    host, _, port = daemon.url.removeprefix("http://").partition(":")
    raw = Raw(socket.create_connection((host, int(port)), timeout=20))
    raw.socket.sendall(head(f"/v3/rooms/{session_id}{query}", Sec_WebSocket_Protocol=SUBPROTOCOL, **headers))
    return raw


def status(raw: Raw) -> int:
    return int(raw.head().split(b" ", 2)[1])


def test_of_500_websockets_from_one_address_200_are_accepted_and_requests_are_served(daemon: Daemon) -> None:
    session_id = daemon.make()["id"]
    with ExitStack() as stack:
        opened = [stack.enter_context(upgraded(daemon, session_id)) for _ in range(500)]
        codes = [status(one) for one in opened]
        assert (codes.count(101), codes.count(429)) == (200, 300)
        assert daemon.session(session_id)["status"] == "new"
    eventually(lambda: accepts(daemon, session_id))
    assert daemon.logged("websocket.crowded")


def accepts(daemon: Daemon, session_id: str) -> bool:
    with upgraded(daemon, session_id) as one:
        return status(one) == 101


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"x" * 10_000_000), 1009),
        (frame(TEXT, b"{}") * 1000, 1008),
        (frame(TEXT, b"x", masked=False), 1002),
    ],
    ids=["10 MB in a frame", "1,000 messages", "no mask"],
)
def test_a_client_that_sends_too_much_or_violates_the_protocol_is_disconnected(
    daemon: Daemon, sent: bytes, code: int
) -> None:
    session_id = daemon.make()["id"]
    with upgraded(daemon, session_id) as one:
        assert status(one) == 101
        with suppress(OSError):
            one.socket.sendall(sent)
        closed = one.closed()
        # A room may end the connection first, because the first message is no `join`.
        assert closed == code or (code == 1008 and closed == 4400)
    assert daemon.session(session_id)["status"] == "new"


def test_a_page_of_another_site_cannot_enter_a_room(daemon: Daemon) -> None:
    session_id = daemon.make()["id"]
    with upgraded(daemon, session_id, Origin="https://evil.example.com") as one:
        assert status(one) == 403
    with upgraded(daemon, session_id, Origin="http://a") as one:
        assert status(one) == 101


def test_a_query_of_an_upgrade_is_not_logged(daemon: Daemon) -> None:
    session_id = daemon.make()["id"]
    with upgraded(daemon, session_id, "?key=a-secret-in-a-query") as one:
        assert status(one) == 101
        one.socket.sendall(frame(CLOSE, b"\x03\xe8"))
        one.closed()
    assert daemon.logged("http.websocket")
    assert "a-secret-in-a-query" not in daemon.log_text


def test_a_stop_closes_websockets_with_1012_even_if_clients_do_not_answer() -> None:
    for one_daemon in shared():
        session_id = one_daemon.make()["id"]
        with ExitStack() as stack:
            opened = [stack.enter_context(upgraded(one_daemon, session_id)) for _ in range(20)]
            assert {status(one) for one in opened} == {101}
            assert one_daemon.process is not None
            one_daemon.process.send_signal(signal.SIGTERM)
            assert {one.closed() for one in opened} == {1012}
            assert one_daemon.process.wait(20) == 0
