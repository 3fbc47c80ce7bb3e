"""Malicious, broken and slow receivers and addresses: every effect on the sender is bounded."""

import asyncio
import errno
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing, closing, contextmanager
from datetime import timedelta
from typing import Any

import pytest
import trustme
from tests.support.receivers import RawReceiver, Receiver, read_request, status
from tests.support.waiting import eventually

from tminus.config.addresses import parse_endpoint
from tminus.delivery import client, happy_eyeballs
from tminus.delivery.client import Client
from tminus.delivery.connection import ANSWER_BYTES
from tminus.delivery.resolver import Target
from tminus.delivery.sender import Outcome
from tminus.delivery.tls import Trust

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def send(url: str, times: int = 1, *, patience: float = 10, trust: Trust | None = None) -> list[Outcome]:
    """Send requests with one client, one after another; return the outcomes."""

    async def send() -> list[Outcome]:
        async with aclosing(Client(url, trust)) as client:
            return [await client.post(b"[]", {}, timedelta(seconds=patience)) for _ in range(times)]

    return asyncio.run(send())


def forever(part: bytes, begin: bytes = b"") -> Callable[[socket.socket], None]:
    """Send a beginning, then the same bytes repeatedly until the connection is closed."""

    def play(connection: socket.socket) -> None:
        connection.sendall(begin)
        while True:
            connection.sendall(part * 100)

    return play


def once(answer: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(answer)


NO_ANSWER = {
    "interim answers for ever": (forever(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"), "interim answers"),
    "interim answers of a megabyte": (
        forever(b"x" * 999 + b"\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: "),
        "RemoteProtocolError",
    ),
    "a switch of protocols": (once(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"), "RemoteProtocolError"),
    "a header for ever": (forever(b"x" * 1000, b"HTTP/1.1 200 OK\r\nX: "), "RemoteProtocolError"),
    "headers for ever": (forever(b"X: y\r\n", b"HTTP/1.1 200 OK\r\n"), "RemoteProtocolError"),
    "a status line for ever": (forever(b"x" * 1000, b"HTTP/1.1 200 "), "RemoteProtocolError"),
    "empty lines for ever": (forever(b"\r\n"), "RemoteProtocolError"),
    "another protocol": (once(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), "RemoteProtocolError"),
    "no answer": (once(b""), "closed the connection without an answer"),
    "half a head": (once(b"HTTP/1.1 200 OK\r\nX:"), "within the head"),
    "two lengths": (
        once(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
        "RemoteProtocolError",
    ),
    "no number": (once(b"HTTP/1.1 2000 OK\r\n\r\n"), "RemoteProtocolError"),
}


@pytest.mark.parametrize(("play", "error"), NO_ANSWER.values(), ids=NO_ANSWER)
def test_an_attempt_without_a_valid_response_ends_soon(play: Callable[[socket.socket], None], error: str) -> None:
    with RawReceiver(play) as receiver:
        begun = time.process_time()
        [outcome] = send(receiver.url, patience=300)
        assert (outcome.ok, outcome.status) == (False, None)
        assert error in (outcome.error or "")
        assert time.process_time() - begun < 5, "CPU seconds, including those of the receiver's thread"


ENDLESS_BODIES = {
    "of a length": forever(b"x" * 1000, b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n"),
    "in chunks of a byte": forever(b"1\r\nx\r\n", CHUNKED),
    "with an extension for ever": forever(b"x" * 1000, CHUNKED + b"1;"),
    "with a trailer for ever": forever(b"X: y\r\n", CHUNKED + b"0\r\n"),
    "of another length than it says": once(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nshort"),
    "of chunks that are none": once(CHUNKED + b"zzz\r\n"),
    "compressed": forever(b"\x1f\x8b\x08" + b"\0" * 997, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"),
}


@pytest.mark.parametrize("play", ENDLESS_BODIES.values(), ids=ENDLESS_BODIES)
def test_a_response_body_is_read_up_to_a_limit_and_does_not_affect_the_outcome(
    play: Callable[[socket.socket], None],
) -> None:
    with RawReceiver(play) as receiver:
        [outcome] = send(receiver.url, patience=300)
        assert (outcome.ok, outcome.error) == (True, None)
        assert len(outcome.answer or "") <= ANSWER_BYTES


def test_a_response_after_interim_responses_counts() -> None:
    with RawReceiver(once(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" + OK)) as receiver:
        [outcome] = send(receiver.url)
        assert (outcome.status, outcome.answer) == (200, "ok")


def test_a_response_that_arrives_before_the_request_was_sent_completely_counts() -> None:
    def play(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        connection.recv(1)

    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        async def post() -> Outcome:
            client = Client(f"http://127.0.0.1:{server.getsockname()[1]}/", None)
            sending = asyncio.create_task(client.post(b"x" * 10_000_000, {}, timedelta(seconds=60)))
            connection, _ = await asyncio.to_thread(server.accept)
            with connection:
                await asyncio.to_thread(play, connection)
                return await sending

        assert asyncio.run(post()).status == 413


def test_a_response_that_arrived_during_a_pause_of_the_process_counts() -> None:
    received, blocked, answered = threading.Event(), threading.Event(), threading.Event()

    def play(connection: socket.socket) -> None:
        received.set()
        blocked.wait()
        connection.sendall(OK)
        answered.set()
        connection.recv(1)

    async def block_loop(url: str) -> Outcome:
        client = Client(url, None)
        sending = asyncio.create_task(client.post(b"[]", {}, timedelta(seconds=1)))
        await asyncio.to_thread(received.wait)
        blocked.set()
        answered.wait()
        time.sleep(1.1)  # noqa: ASYNC251 - it blocks the loop for longer than the time-out
        outcome = await sending
        await client.aclose()
        return outcome

    with RawReceiver(play) as receiver:
        outcome = asyncio.run(block_loop(receiver.url))
        assert (outcome.status, outcome.error) == (200, None)


# --- persistent connections -------------------------------------------------------------------------------------------


def test_the_next_request_reuses_the_connection() -> None:
    def play(connection: socket.socket) -> None:
        connection.sendall(OK)
        while True:
            read_request(connection)
            connection.sendall(OK)

    with RawReceiver(play) as receiver:
        assert all(outcome.ok for outcome in send(receiver.url, 5))
        assert len(receiver.connections) == 1


def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "KEEP_ALIVE", 0.01)
    closed = threading.Event()

    def play(connection: socket.socket) -> None:
        connection.sendall(OK)
        if not connection.recv(1):
            closed.set()

    async def wait(url: str) -> None:
        async with aclosing(Client(url, None)) as client:
            assert (await client.post(b"[]", {}, timedelta(seconds=10))).ok
            assert await asyncio.to_thread(closed.wait, 30)

    with RawReceiver(play) as receiver:
        asyncio.run(wait(receiver.url))


@pytest.mark.parametrize(
    "play",
    [
        once(OK),  # closed without notice
        once(OK.replace(b"Content-Length: 2", b"Connection: close\r\nContent-Length: 2")),
        once(OK.replace(b"Content-Length: 2\r\n", b"")),  # the close ends the body
        once(OK.replace(b"1.1", b"1.0")),
        once(OK + b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"),  # a response to a request that was not sent yet
        once(OK + b"\n"),
    ],
)
def test_the_next_request_never_gets_the_response_of_an_earlier_one(
    play: Callable[[socket.socket], None],
) -> None:
    with RawReceiver(play) as receiver:
        assert [(outcome.status, outcome.error) for outcome in send(receiver.url, 5)] == [(200, None)] * 5
        assert len(receiver.connections) == 5


def test_a_request_on_a_connection_that_the_receiver_closed_is_repeated_at_once() -> None:
    def play(connection: socket.socket) -> None:
        connection.sendall(OK)
        read_request(connection)  # then the receiver closes the connection

    with RawReceiver(play) as receiver:
        assert [outcome.ok for outcome in send(receiver.url, 5)] == [True] * 5
        assert len(receiver.connections) == 5


# --- addresses --------------------------------------------------------------------------------------------------------


@contextmanager
def silent(address: str, port: int) -> Iterator[None]:
    """Make an address not respond to connection attempts: its queue is full."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(0)
        for _ in range(3):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex((address, port))
        yield


def resolve(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Make the name `twofold` resolve to these addresses, in this order."""
    lookup = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **more: Any) -> Any:
        if host != "twofold" or more.get("flags"):
            return lookup(host, port, *args, **more)
        return [entry for address in addresses for entry in lookup(address, port, *args, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the addresses that were tried, in order."""
    addresses: list[str] = []
    connected = happy_eyeballs._connected

    def record(target: Target) -> Any:
        addresses.append(target.address)
        return connected(target)

    monkeypatch.setattr(happy_eyeballs, "_connected", record)
    return addresses


def test_an_address_that_does_not_respond_is_tried_last_the_next_time(
    monkeypatch: pytest.MonkeyPatch, tried: list[str]
) -> None:
    resolve(monkeypatch, "127.0.0.2", "127.0.0.1")
    with Receiver() as receiver, silent("127.0.0.2", receiver.port):
        receiver.answer = status(200, Connection="close")
        outcomes = send(f"http://twofold:{receiver.port}/", 3, patience=20)
        assert [outcome.ok for outcome in outcomes] == [True] * 3
        assert tried == ["127.0.0.2", "127.0.0.1", "127.0.0.1", "127.0.0.1"]
        assert outcomes[0].ms >= happy_eyeballs.DELAY * 1000 > 0


def test_a_refusing_address_causes_no_delay_and_the_attempt_fails_if_all_addresses_fail(
    monkeypatch: pytest.MonkeyPatch, tried: list[str]
) -> None:
    monkeypatch.setattr(happy_eyeballs, "DELAY", 60)
    resolve(monkeypatch, "127.0.0.2", "::1", "127.0.0.3", "127.0.0.1")
    with Receiver() as receiver:
        [outcome] = send(f"http://twofold:{receiver.port}/")
        assert outcome.ok
        assert tried == ["127.0.0.2", "::1", "127.0.0.3", "127.0.0.1"]
    [outcome] = send(f"http://twofold:{receiver.port}/")
    assert "refused" in (outcome.error or "").lower()


def test_the_last_working_address_is_tried_first_until_it_does_not_respond(
    monkeypatch: pytest.MonkeyPatch, tried: list[str]
) -> None:
    resolve(monkeypatch, "127.0.0.2", "127.0.0.1")
    with Receiver() as receiver:
        receiver.answer = status(200, Connection="close")

        async def go() -> None:
            client = Client(f"http://twofold:{receiver.port}/", None)
            assert (await client.post(b"[]", {}, timedelta(seconds=20))).ok
            assert client._last is not None
            assert client._last.address == "127.0.0.1"
            resolve(monkeypatch, "127.0.0.3", "127.0.0.1")  # the name server's order changes
            assert (await client.post(b"[]", {}, timedelta(seconds=20))).ok

        asyncio.run(go())
    assert tried == ["127.0.0.2", "127.0.0.1", "127.0.0.1"]


def test_the_reported_error_is_that_of_an_address_that_responded(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, "192.0.2.1", "127.0.0.1")  # an address without a route
    connected = happy_eyeballs._connected

    async def unreachable(target: Target) -> Any:
        if target.address == "192.0.2.1":
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        return await connected(target)

    monkeypatch.setattr(happy_eyeballs, "_connected", unreachable)
    [outcome] = send("http://twofold:1/")
    assert outcome.error == "connection refused"


def test_address_families_alternate() -> None:
    six = [Target(socket.AF_INET6, (f"2001:db8::{number}", 1, 0, 0)) for number in range(3)]
    four = [Target(socket.AF_INET, (f"192.0.2.{number}", 1)) for number in range(2)]
    assert happy_eyeballs.in_order([*six, *four], None) == [six[0], four[0], six[1], four[1], six[2]]
    assert happy_eyeballs.in_order([*four, *six], six[2]) == [six[2], four[0], six[0], four[1], six[1]]


def test_the_connection_uses_the_address_that_was_checked_although_the_name_resolves_differently_later(
    monkeypatch: pytest.MonkeyPatch, tried: list[str]
) -> None:
    lookup, answers = socket.getaddrinfo, iter(("127.0.0.1", "169.254.169.254", "169.254.169.254"))

    def rebinding(host: str, port: int, *args: Any, **more: Any) -> Any:
        return lookup(next(answers) if host == "rebinds" and not more.get("flags") else host, port, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with Receiver() as receiver:
        receiver.answer = status(200, Connection="close")
        first, second = send(f"http://rebinds:{receiver.port}/", 2)
    assert first.ok
    assert "allow_link_local" in (second.error or "")
    assert tried == ["127.0.0.1"]


# --- names ------------------------------------------------------------------------------------------------------------


def test_look_up_certificate_and_host_header_use_the_same_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    looked_up: list[str] = []
    lookup = socket.getaddrinfo

    def record(host: str, port: int, *args: Any, **more: Any) -> Any:
        if more.get("flags"):
            return lookup(host, port, *args, **more)
        looked_up.append(host)
        return lookup("127.0.0.1", port, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", record)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("xn--strae-oqa.test").configure_cert(context)
    names: list[str] = []
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    with Receiver(context) as receiver:
        url = parse_endpoint(f"https://Straße.test.:{receiver.port}/")
        [outcome] = send(url, trust=Trust.of(tmp_path / "ca.pem"))
        assert outcome.ok, outcome.error
        assert looked_up == ["xn--strae-oqa.test."]
        assert names == ["xn--strae-oqa.test"]
        assert receiver.requests[0].headers["host"] == f"xn--strae-oqa.test:{receiver.port}"


def test_a_url_is_sent_unchanged() -> None:
    with Receiver() as receiver:
        [outcome] = send(f"http://127.0.0.1:{receiver.port}/straße%2Fx?key=ü&a=%20b")
        assert outcome.ok
        eventually(lambda: receiver.requests)
        assert receiver.requests[0].path == "/stra%C3%9Fe%2Fx?key=%C3%BC&a=%20b"
