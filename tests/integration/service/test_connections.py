"""Limits of one connection and of all connections, with the real server and application, and shorter time-outs."""

import asyncio
import inspect
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.support.waiting import eventually
from uvicorn.server import ServerState

from tminus import clock
from tminus.api import HOLD, Services, make_application, request_body
from tminus.config import Settings
from tminus.delivery import Webhooks
from tminus.logs.repeated import REPEATED
from tminus.service import http_server
from tminus.service.http_parser import HEAD_BYTES
from tminus.service.http_server import MAX_PIPELINED, Server
from tminus.storage import Store

MAX_CONNECTIONS = 10
"""Maximum number of open connections."""

ASK = b"GET /v3/me HTTP/1.1\r\nHost: a\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = b"POST /v3/supportsessions HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"


@contextmanager
def served(application: ASGIApp, share: int | None = None) -> Iterator[tuple[str, int]]:
    """Serve an application with the real server; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = Server(application, [listening], MAX_CONNECTIONS, lambda _peer: share)
        thread = threading.Thread(target=lambda: uvloop.run(serving.serve_all()))
        thread.start()
        try:
            yield listening.getsockname()
        finally:
            serving.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The address of the real application, with time limits of a quarter of a second for a head and for a body."""
    state = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(http_server, "HEAD_SECONDS", 0.25)
        patched.setattr(request_body, "BODY_SECONDS", 0.25)
        store = Store(f"sqlite:///{Path(state, 'tminus.db')}", clock.now)
        webhooks = Webhooks(store, state, lambda *_: None)
        webhooks.start()
        services = Services(store, Settings(), webhooks, list, "here")
        try:
            with served(make_application(services)) as where:
                yield where
        finally:
            services.close()
            webhooks.stop()
            store.close()


def sent(address: tuple[str, int], data: bytes) -> socket.socket:
    connection = socket.create_connection(address, timeout=10)
    connection.sendall(data)
    return connection


def answer(connection: socket.socket) -> bytes:
    """Return the next response, which ends in a brace."""
    received = b""
    while not received.endswith(b"}"):
        more = connection.recv(65_536)
        assert more, received
        received += more
    return received


def answer_head(connection: socket.socket) -> bytes:
    """Return the status line of the next response, which has no body."""
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        received += connection.recv(1) or pytest.fail("the server closed the connection")
    return received.partition(b"\r\n")[0]


def rest_of(connection: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    received = b""
    with connection:
        try:
            while more := connection.recv(65_536):
                received += more
        except ConnectionResetError:
            pass  # the server closed before it had read everything
    return received


@pytest.mark.parametrize(
    ("before", "first"),
    [(b"", b""), (b"", b"G"), (b"", b"\r\n"), (HEALTH, b"GET / HTTP/1.1\r\nHo"), (HEALTH, b"\r\n")],
)
def test_a_connection_without_a_complete_head_is_closed(address: tuple[str, int], before: bytes, first: bytes) -> None:
    connection = sent(address, before)
    if before:
        assert answer(connection).startswith(b"HTTP/1.1 200")
    connection.sendall(first)
    assert rest_of(connection) == b""


def test_single_bytes_do_not_extend_the_time_limit_of_a_head(address: tuple[str, int]) -> None:
    with sent(address, b"G") as connection:
        eventually(lambda: _is_gone(connection))


def _is_gone(connection: socket.socket) -> bool:
    """Return whether the server has closed a connection, after sending a byte on it."""
    try:
        connection.sendall(b"E")
    except OSError:
        return True
    return False


def test_a_body_that_does_not_arrive_is_408(address: tuple[str, int]) -> None:
    with sent(address, BODY) as connection:
        response = rest_of(connection)
    assert response.startswith(b"HTTP/1.1 408")
    assert b'"refcode":100408' in response
    assert b"\r\nconnection: close\r\n" in response, "otherwise single bytes could keep the connection open for ever"


@pytest.mark.parametrize("line", [b"X: " + b"x" * 70, b"X: y"], ids=["long", "many"])
def test_a_head_without_end_is_refused(address: tuple[str, int], line: bytes) -> None:
    head = b"GET / HTTP/1.1\r\n" + (line + b"\r\n") * (HEAD_BYTES // len(line))
    assert b"431" in rest_of(sent(address, head)).partition(b"\r\n")[0]


def test_a_pipelined_head_without_end_is_refused() -> None:
    go_on = threading.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.to_thread(go_on.wait, 20)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with served(waits) as address:
        more = b"GET / HTTP/1.1\r\nHost: a\r\nX: "
        with sent(address, HEALTH + more) as small, sent(address, HEALTH + more) as endless:
            small.sendall(b"y" * 1000)
            with suppress(OSError):
                endless.sendall(b"y" * (2 * HEAD_BYTES))
                endless.sendall(b"y" * (2 * HEAD_BYTES))
            small.sendall(b"\r\n\r\n")
            go_on.set()
            assert [answer_head(small), answer_head(small)] == [b"HTTP/1.1 200 OK"] * 2
            assert answer_head(endless) == b"HTTP/1.1 200 OK", "the earlier request is answered first"
            assert rest_of(endless).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def test_pipelined_requests_are_answered_in_order_up_to_a_limit(address: tuple[str, int]) -> None:
    connection = sent(address, HEALTH * MAX_PIPELINED + HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    answers = rest_of(connection).split(b"HTTP/1.1 ")[1:]
    assert [one[:3] for one in answers] == [b"200"] * (MAX_PIPELINED + 1)

    answers = rest_of(sent(address, HEALTH * (MAX_PIPELINED + 3))).split(b"HTTP/1.1 ")[1:]
    assert [one[:3] for one in answers] == [b"200"] * (MAX_PIPELINED + 1) + [b"400"]


def test_an_idle_connection_makes_room_for_a_new_one(address: tuple[str, int]) -> None:
    idle = [sent(address, HEALTH) for _ in range(MAX_CONNECTIONS)]
    for one in idle:
        assert answer(one).startswith(b"HTTP/1.1 200")
    with sent(address, HEALTH) as newcomer:
        assert answer(newcomer).startswith(b"HTTP/1.1 200")
        assert rest_of(idle[0]) == b""  # only the oldest is closed
        for one in idle[1:]:
            one.sendall(HEALTH)
            assert answer(one).startswith(b"HTTP/1.1 200")
            one.close()


def test_an_upgrade_request_is_answered_in_http_1_1_and_logs_no_advice_to_install_a_library(
    address: tuple[str, int], log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    upgrade = b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n"
    with sent(address, HEALTH.replace(b"\r\n\r\n", upgrade)) as connection:
        assert answer(connection).startswith(b"HTTP/1.1 200")
    assert not [line for line in log_lines() if line["event"] == "library.said"]


def test_a_forwarded_address_in_a_trailer_is_ignored() -> None:
    seen: list[Scope] = []

    async def record_scope(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        seen.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    trailer = b"X-Forwarded-For: 203.0.113.1\r\nSession-id: x\r\nContent-Length: 9\r\nIdempotency-Key: y\r\n"
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with served(record_scope) as address, sent(address, head + b"1\r\n{\r\n0\r\n" + trailer + b"\r\n") as connection:
        assert answer(connection).startswith(b"HTTP/1.1 200")
    assert seen[0]["headers"] == [(b"host", b"a"), (b"transfer-encoding", b"chunked")]


def test_the_body_of_an_upgrade_request_is_read_as_its_body(address: tuple[str, int]) -> None:
    hidden = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAA\r\n"
    head = b"POST /v3/supportsessions HTTP/1.1\r\nHost: a\r\n" + upgrade + b"Content-Length: %d\r\n\r\n" % len(hidden)
    with sent(address, head + hidden + HEALTH) as connection:
        answers = [answer(connection)]
        if b"/1.1 200" not in answers[0]:
            answers.append(answer(connection))
    received = b"".join(answers)
    assert received.count(b"HTTP/1.1 401") == 1
    assert received.count(b"HTTP/1.1 ") == 2, "the text of the body is not answered as a request"


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
def test_a_connection_is_closed_after_a_refusal_before_100_continue(address: tuple[str, int], expect: bytes) -> None:
    head = b"POST /v3/supportsessions HTTP/1.1\r\nHost: a\r\n" + expect + b"Content-Length: 1000000\r\n\r\n"
    with sent(address, head) as connection:
        refused = answer(connection)
        assert refused.startswith(b"HTTP/1.1 413")
        assert (b"\r\nconnection: close\r\n" in refused) is bool(expect)
        if expect:
            assert rest_of(connection) == b""


def test_a_malformed_request_gets_a_400_of_the_api_and_its_address_is_logged(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    REPEATED.clear()
    for _ in range(3):
        refused = rest_of(sent(address, HEALTH.replace(b"Host: a", b"Host: a\r\nHost: b") + HEALTH))
        head, _, body = refused.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert json.loads(body)["errors"] == [{"field": "request", "message": "must have exactly one Host header"}]
    logged = eventually(
        lambda: [(line["remote_ip"], line["error"]) for line in log_lines() if line["event"] == "http.malformed"]
    )
    assert logged == [("127.0.0.1", "must have exactly one Host header")], "at most once a minute"


def test_the_log_names_the_reason_if_a_head_is_too_large(
    address: tuple[str, int], log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    REPEATED.clear()
    with sent(address, HEALTH.replace(b"Host: a", b"Host: a" + b"\r\nX: 1" * 200)) as connection:
        assert answer(connection).startswith(b"HTTP/1.1 431")
    [line] = eventually(lambda: [line for line in log_lines() if line["event"] == "http.malformed"])
    assert line["error"] == "has a head of more than 65536 bytes or 128 fields"
    assert f"it {line['error']}, times: 1" in line["message"]


CHUNKED = b"POST /v3/supportsessions%b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_malformed_body_is_refused_by_its_request_and_logged_with_it(
    address: tuple[str, int], log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    REPEATED.clear()
    refused = rest_of(sent(address, CHUNKED % b"" + b"1\r\n{\r\nzz\r\n" + HEALTH))
    head, _, body = refused.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nconnection: close" in head
    assert json.loads(body)["errors"][0]["field"] == "request"
    [line] = eventually(lambda: [line for line in log_lines() if line["event"] == "http.anonymous"])
    assert (line["code"], line["refcode"]) == (400, 100400)
    assert f"x-request-id: {line['request_id']}\r\n".encode() in head
    assert [line["error"] for line in log_lines() if line["event"] == "http.malformed"] == [
        "has an invalid chunk size (RFC 9112, section 7.1)"
    ]


def test_a_client_that_half_closes_after_a_malformed_body_gets_the_refusal(address: tuple[str, int]) -> None:
    with sent(address, HEALTH + CHUNKED % b"" + b"zz\r\n") as connection:
        connection.shutdown(socket.SHUT_WR)
        received = rest_of(connection)
    assert [one[:3] for one in received.split(b"HTTP/1.1 ")[1:]] == [b"200", b"400"]


def test_a_malformed_rest_of_a_body_that_is_answered_already_ends_the_connection(
    address: tuple[str, int], log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    REPEATED.clear()
    for _ in range(3):
        with sent(address, CHUNKED % b"/batch") as connection:
            assert answer(connection).startswith(b"HTTP/1.1 401")
            connection.sendall(b"zz\r\n")
            assert rest_of(connection) == b"", "one request has one response"
    eventually(lambda: [line for line in log_lines() if line["event"] == "http.malformed"])
    assert {line["event"] for line in log_lines()} <= {"http.malformed", "http.anonymous", "auth.failed"}


async def _refuses(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse a request without reading its body."""
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


UPLOAD = 8 * 2**20
"""Bytes of a body that is larger than the buffers of the system."""


@pytest.mark.parametrize(
    ("more", "status"),
    [(b"Connection: close", b"401"), (b"Expect: 100-continue", b"401"), (b"Transfer-Encoding: chunked", b"400")],
    ids=["close", "expect", "malformed"],
)
def test_a_client_that_sends_a_large_body_gets_an_early_refusal(more: bytes, status: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\nContent-Length: %d\r\n\r\n" % (more, UPLOAD)
    with served(_refuses) as address, sent(address, head) as connection:
        connection.sendall(b"x" * UPLOAD)  # like many clients, it reads only when it has sent everything
        response = answer(connection)
        assert response.startswith(b"HTTP/1.1 " + status)
        assert b"\r\nconnection: close\r\n" in response
        assert connection.recv(1) == b""


def test_a_refused_client_that_never_stops_sending_is_cut_off(address: tuple[str, int]) -> None:
    head = (CHUNKED % b"/batch").replace(b"Host: a", b"Host: a\r\nConnection: close")
    with sent(address, head) as connection:
        assert rest_of(connection.dup()).startswith(b"HTTP/1.1 401")
        eventually(lambda: _is_gone(connection))


def test_a_refused_websocket_whose_client_does_not_close_it_takes_no_place_of_another() -> None:
    async def accepts_one(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept" if scope["path"] == "/yes" else "websocket.close"})
        while scope["path"] == "/yes" and (await receive())["type"] != "websocket.disconnect":
            pass

    upgrade = (
        b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with served(accepts_one) as address, ExitStack() as opened:
        for _ in range(MAX_CONNECTIONS):
            assert b" 403 " in answer_head(opened.enter_context(sent(address, upgrade % b"no")))
        assert b" 101 " in answer_head(opened.enter_context(sent(address, upgrade % b"yes")))


def test_a_response_to_http_1_0_has_no_chunks_and_ends_with_the_connection() -> None:
    async def streams(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"a", b"b"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    with served(streams) as address:
        old = rest_of(sent(address, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"))
        new = rest_of(sent(address, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
    assert old.endswith(b"\r\nconnection: close\r\n\r\nab")
    assert new.endswith(b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n")


@pytest.mark.parametrize("cut", [b"", b"GET / HT", BODY], ids=["nothing", "half a head", "half a body"])
def test_a_client_that_half_closes_its_connection_gets_every_response(address: tuple[str, int], cut: bytes) -> None:
    with sent(address, HEALTH + ASK * 3 + cut) as connection:
        connection.shutdown(socket.SHUT_WR)
        received = rest_of(connection)
    assert received.count(b"HTTP/1.1 200") == 1
    assert received.count(b"HTTP/1.1 401") == 3


def test_a_long_poll_whose_client_half_closes_its_connection_ends() -> None:
    ended = threading.Event()

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        released = asyncio.Event()
        scope["state"][HOLD](released.set)
        await released.wait()
        ended.set()

    with served(waits) as address, sent(address, ASK) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert rest_of(connection) == b""
        assert ended.wait(10)


LARGE = 64 * 2**20
"""Bytes of a response that is larger than the buffers of the system."""


async def _large(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]})
    for _ in range(LARGE // 2**20):
        await send({"type": "http.response.body", "body": b"x" * 2**20, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("parts", [LARGE // 2**20, 1], ids=["in parts", "at once"])
@pytest.mark.parametrize("option", [b"", b"Connection: close\r\n"])
def test_a_connection_whose_client_does_not_read_is_aborted(
    monkeypatch: pytest.MonkeyPatch, log_lines: Callable[[], list[dict[str, Any]]], parts: int, option: bytes
) -> None:
    REPEATED.clear()
    monkeypatch.setattr(http_server, "WRITE_SECONDS", 2.0)
    content = b"x" * (LARGE // parts)

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]})
        for number in range(parts):
            await send({"type": "http.response.body", "body": content, "more_body": number < parts - 1})

    head = HEALTH.replace(b"\r\n\r\n", b"\r\n" + option + b"\r\n")
    with served(answers) as address, sent(address, head) as not_reading, sent(address, head) as reading:
        taken = 0
        while taken < LARGE:
            taken += len(reading.recv(2**20)) or pytest.fail("the connection of a client that reads was closed")

        def is_cut_off() -> bool:
            try:
                not_reading.send(b"\r\n")
            except OSError:
                return True
            return False

        eventually(is_cut_off)
        assert eventually(lambda: [line["remote_ip"] for line in log_lines() if line["event"] == "http.unread"]) == [
            "127.0.0.1"
        ]


@pytest.mark.parametrize("kind", ["idle", "head", "body", "unread"])
def test_the_connection_that_has_waited_longest_for_its_client_is_evicted_first(
    kind: str, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    REPEATED.clear()
    begun = {"idle": b"", "head": b"GET / HT", "body": BODY, "unread": HEALTH}[kind]
    answering = threading.Semaphore(0)

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        answering.release()
        if scope["path"] == "/healthz":
            await _large(scope, receive, send)
        elif scope["method"] == "POST":
            while (await receive()).get("more_body"):
                pass
        else:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"{}"})

    with served(answers) as address, ExitStack() as held:
        first = [held.enter_context(sent(address, begun)) for _ in range(MAX_CONNECTIONS)]
        if kind in ("body", "unread"):
            for _ in first:
                assert answering.acquire(timeout=10)
        for number in range(3):
            honest = held.enter_context(sent(address, ASK))
            assert answer(honest).startswith(b"HTTP/1.1 200")
            with suppress(OSError):
                first[number].settimeout(10)
                while first[number].recv(2**20):
                    pass  # until the connection ends
        with suppress(BlockingIOError):
            first[3].setblocking(False)
            assert first[3].recv(1), "the other connections stay open"
    [line] = eventually(lambda: [line for line in log_lines() if line["event"] == "http.at_limit"])  # one for all
    assert (line["connections"], line["busiest"]) == (MAX_CONNECTIONS, "127.0.0.1")


def test_a_new_connection_replaces_the_one_held_longest_if_all_wait_for_events() -> None:
    holding = threading.Semaphore(0)

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        released = asyncio.Event()
        scope["state"][HOLD](released.set)
        holding.release()
        await released.wait()

    def hold(connection: socket.socket) -> None:
        connection.sendall(ASK)
        assert holding.acquire(timeout=10)

    with served(waits) as address, ExitStack() as opened:
        all_opened = [opened.enter_context(sent(address, b"")) for _ in range(MAX_CONNECTIONS)]
        held = all_opened[::-1]  # the connection that was opened last is held first
        for one in held:
            hold(one)
        for oldest in held[:3]:
            newcomer = opened.enter_context(sent(address, b""))
            hold(newcomer)
            assert rest_of(oldest) == b""
            held.append(newcomer)
        for one in held[3:]:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(1)  # it is still open


def test_an_address_at_its_limit_evicts_only_its_own_connections(
    address: tuple[str, int], log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    REPEATED.clear()

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})

    def from_elsewhere(where: tuple[str, int]) -> socket.socket:
        return socket.create_connection(where, timeout=10, source_address=("127.0.0.2", 0))

    with served(answers, share=4) as where, sent(where, ASK) as honest, ExitStack() as held:
        assert answer(honest).startswith(b"HTTP/1.1 200")
        many = [held.enter_context(from_elsewhere(where)) for _ in range(3 * MAX_CONNECTIONS)]
        for one in many[:-4]:
            assert rest_of(one) == b""
        for one in (honest, *many[-4:]):
            one.sendall(ASK)
            assert answer(one).startswith(b"HTTP/1.1 200"), "the newest ones and that of the other address stay open"
    logged = eventually(
        lambda: [(line["remote_ip"], line["connections"]) for line in log_lines() if line["event"] == "http.crowded"]
    )
    assert logged == [("127.0.0.2", 4)]


def test_a_new_connection_is_refused_while_all_others_are_processing_requests(
    monkeypatch: pytest.MonkeyPatch, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    REPEATED.clear()
    go_on, begun = threading.Event(), threading.Semaphore(0)

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        begun.release()
        await asyncio.to_thread(go_on.wait, 20)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    with served(waits) as address, ExitStack() as held:
        held.callback(go_on.set)
        for _ in range(MAX_CONNECTIONS):
            held.enter_context(sent(address, ASK))
            assert begun.acquire(timeout=10)
        refused = [rest_of(sent(address, ASK)) for _ in range(3)]
    head, _, body = refused[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nretry-after: 1\r\n" in head
    assert b"\r\nconnection: close" in head
    assert json.loads(body)["refcode"] == 105503
    [line] = eventually(lambda: [line for line in log_lines() if line["event"] == "http.refused"])  # one for all
    assert (line["level"], line["connections"]) == ("warning", MAX_CONNECTIONS)
    assert (line["busiest"], line["busiest_connections"]) == ("127.0.0.1", MAX_CONNECTIONS)


def test_a_server_stopped_before_its_start_accepts_no_connection() -> None:
    async def application(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise AssertionError("the application was called")

    async def serve(listening: socket.socket) -> None:
        serving = Server(application, [listening.dup()], MAX_CONNECTIONS)
        serving.stop_listening()
        running = asyncio.create_task(serving.serve_all())
        await serving.begun.wait()
        with socket.create_connection(listening.getsockname(), timeout=1):
            await asyncio.sleep(0.1)
            left = select.select([listening], [], [], 0)[0]  # the connection is still in the backlog
        serving.should_exit = True
        await running
        assert left

    with socket.create_server(("127.0.0.1", 0)) as listening:
        uvloop.run(serve(listening))


def test_uvicorn_has_the_attributes_that_connections_use() -> None:
    """They are not public. If this fails, change `http_server.Connection` before the bound in pyproject.toml."""
    state = ServerState()
    for name, kind in (("connections", set), ("tasks", set), ("default_headers", list), ("total_requests", int)):
        assert isinstance(getattr(state, name), kind), name
    source = inspect.getsource(uvicorn.Server.startup)
    for name in ("config=", "server_state=", "app_state=", "_loop="):
        assert name in source, f"uvicorn passes other arguments to a connection: {name}"
    assert "connection.shutdown()" in inspect.getsource(uvicorn.Server.shutdown)
    assert list(inspect.signature(uvicorn.Server.on_tick).parameters) == ["self", "counter"]
