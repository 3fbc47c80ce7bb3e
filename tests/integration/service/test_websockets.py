"""WebSockets with the real server and middleware, test endpoints and shorter time-outs."""

import base64
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support.waiting import eventually
from tests.support.websocket_server import (
    ACCEPTED,
    BINARY,
    CLOSE,
    CONT,
    KEY,
    PAGE,
    PER_ADDRESS,
    PING,
    PONG,
    RATES,
    TEXT,
    Raw,
    Served,
    frame,
    head,
    hearing,
    seen,
    serving,
)  # fmt: skip
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from tminus.config import Limits
from tminus.logs.repeated import REPEATED
from tminus.service import http_server, websocket_exchange
from tminus.service.websocket_exchange import MESSAGE_BYTES


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("state"), Limits(websockets_per_address=PER_ADDRESS)) as one:
        yield one


@pytest.fixture(autouse=True)
def cleared(served: Served) -> None:
    """Wait until the WebSockets of other tests have ended, then clear what the endpoints have recorded."""
    eventually(lambda: not served.open_websockets())
    seen.__init__()  # type: ignore[misc]
    hearing.clear()
    REPEATED.clear()


def closed_with(client: ClientConnection) -> int:
    """Return the close code that a client receives, after any messages."""
    try:
        while True:
            client.recv(10)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 1006


def refusal(answer: InvalidStatus | bytes) -> tuple[int, int]:
    """Return status and refcode of an HTTP response."""
    if isinstance(answer, bytes):
        start, _, body = answer.partition(b"\r\n\r\n")
        return int(start.split(b" ", 2)[1]), json.loads(body)["refcode"]
    return answer.response.status_code, json.loads(answer.response.body or b"{}")["refcode"]


def refused_with(served: Served, path: str, **options: Any) -> tuple[int, int]:
    with pytest.raises(InvalidStatus) as error:
        served.open(path, **options)
    assert error.value.response.headers["X-Request-Id"]
    return refusal(error.value)


# --- the upgrade ------------------------------------------------------------------------------------------------------


def test_messages_are_exchanged_after_the_upgrade_of_rfc_6455(served: Served) -> None:
    with served.raw("/v3/echo/a%20b?key=secret") as raw:
        response = raw.head()
        assert response.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"\r\nsec-websocket-accept: " + ACCEPTED in response
        raw.socket.sendall(frame(TEXT, "größer".encode()))
        assert raw.frame() == (TEXT, "größer".encode())
    assert seen.contexts[0].path_params == {"name": "a b"}


def test_the_largest_message_is_accepted_whole_and_in_fragments(served: Served) -> None:
    text = "x" * MESSAGE_BYTES
    with served.open("/v3/echo/x") as client:
        client.send(text)
        assert client.recv() == text
        client.send([text[at : at + 4096] for at in range(0, MESSAGE_BYTES, 4096)])
        assert client.recv() == text


@pytest.mark.parametrize(
    ("offered", "answer"), [(["v1"], "v1"), (["x", "v1", "v2"], "v2"), (["x"], None), (None, None)]
)
def test_the_client_must_offer_a_known_subprotocol(served: Served, offered: Any, answer: str | None) -> None:
    if answer is None:
        assert refused_with(served, "/v3/chosen", subprotocols=offered) == (400, 100400)
        return
    with served.open("/v3/chosen", subprotocols=offered) as client:
        assert client.subprotocol == answer
        assert client.recv() == answer


UPGRADES = {
    "no key": (head(Sec_WebSocket_Key=""), 400),
    "a short key": (head(Sec_WebSocket_Key="dGVzdA=="), 400),
    "a key with other bits": (head(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZR=="), 400),
    "two keys": (head().replace(b"\r\n\r\n", f"\r\nSec-WebSocket-Key: {KEY}\r\n\r\n".encode()), 400),
    "version 8": (head(Sec_WebSocket_Version="8"), 426),
    "two versions": (head(Sec_WebSocket_Version="13, 8"), 426),
    "no version": (head(Sec_WebSocket_Version=""), 426),
    "no Connection": (head(Connection=""), 426),
    "no Upgrade": (head(Upgrade=""), 426),
    "h2c": (head(Upgrade="h2c"), 426),
    "HTTP/1.0": (head(line="GET /v3/echo/x HTTP/1.0"), 426),
    "POST": (head(line="POST /v3/echo/x HTTP/1.1"), 405),
    "a body": (head(Content_Length="5") + b"hello", 400),
    "chunks": (head(Transfer_Encoding="chunked") + b"0\r\n\r\n", 400),
    "another path": (head("/v3/none"), 404),
    "a path with NUL": (head("/v3/echo/%00"), 404),
    "the path of a request": (head("/healthz"), 400),
}


@pytest.mark.parametrize("name", UPGRADES)
def test_an_invalid_upgrade_is_refused_in_the_apis_error_format(served: Served, name: str) -> None:
    sent, status = UPGRADES[name]
    with Raw(socket.create_connection(served.address, timeout=10)) as raw:
        raw.socket.sendall(sent)
        if name in ("no Upgrade", "h2c"):  # an ordinary request, after which the connection stays open
            raw.socket.shutdown(socket.SHUT_WR)
        answer = raw.rest()
    code, refcode = refusal(answer)
    assert code == status
    assert refcode % 1000 == status
    assert b"\r\nx-request-id: " in answer
    if status == 426:
        assert b"\r\nsec-websocket-version: 13\r\n" in answer
        assert (b"\r\nupgrade: websocket\r\n" in answer) is (name != "no Upgrade")
    if status == 405:
        assert b"\r\nallow: GET\r\n" in answer
    assert not seen.contexts


@pytest.mark.parametrize("name", [name for name in UPGRADES if name not in ("no Upgrade", "h2c")])
def test_no_request_is_read_after_a_refused_upgrade(served: Served, name: str) -> None:
    # A proxy that assumes that the upgrade succeeded forwards the client's bytes unread.
    with Raw(socket.create_connection(served.address, timeout=10)) as raw:
        raw.socket.sendall(UPGRADES[name][0] + b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = raw.rest()
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"\r\nconnection: close\r\n" in answer


def test_an_upgrade_after_other_requests_of_a_connection_is_accepted(served: Served) -> None:
    with Raw(socket.create_connection(served.address, timeout=10)) as raw:
        request = b"GET /v3/none HTTP/1.1\r\nHost: a\r\n\r\n"
        raw.socket.sendall(request + request + head() + frame(TEXT, b"early"))
        answer = b""
        while b"101 Switching" not in answer:
            answer += raw.head()
        assert answer.count(b"404 Not Found") == 2
        assert raw.frame() == (TEXT, b"early"), "bytes after the upgrade are its first frames"


def test_a_head_that_arrives_byte_by_byte_is_an_upgrade(served: Served) -> None:
    with Raw(socket.create_connection(served.address, timeout=10)) as raw:
        for byte in head() + frame(TEXT, b"slow"):
            raw.socket.send(bytes([byte]))
        assert b" 101 " in raw.head()
        assert raw.frame() == (TEXT, b"slow")


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("", "a", True),
        ("http://a", "a", True),
        ("http://a:8710", "a:8710", True),
        ("https://a", "a:443", True),
        (PAGE, "a", True),
        ("https://support.example.com:8443", "support.example.com", True),
        ("https://evil.example.com", "a", False),
        ("http://a:1", "a", False),
        ("http://a.evil.example.com", "a", False),
        ("http://a@evil.example.com", "a", False),
        ("http://evil.example.com\\@a", "a", False),
        ("http://evil.example.com@a", "a", False),
        ("http://a/https://b", "a", False),
        ("http://a#https://b", "a", False),
        ("null", "a", False),
        ("http://a:x", "a", False),
        ("file://", "a", False),
    ],
)
def test_a_page_of_another_site_opens_no_websocket(served: Served, origin: str, host: str, allowed: bool) -> None:
    with served.raw(Origin=origin, Host=host) as raw:
        if allowed:
            assert b" 101 " in raw.head()
        else:
            assert refusal(raw.rest()) == (403, 100403)
            assert not seen.contexts


# --- the end ----------------------------------------------------------------------------------------------------------


def test_an_endpoint_refuses_with_any_error_before_and_after_it_accepts(served: Served) -> None:
    assert refused_with(served, "/v3/refused") == (404, 101404)
    with served.open("/v3/late") as client:
        client.send("x")
        assert closed_with(client) == 4404
        assert client.protocol.close_rcvd is not None
        assert client.protocol.close_rcvd.reason == "Session not found x"


def test_a_defect_of_an_endpoint_closes_with_1011_and_is_logged(
    served: Served, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    with served.open("/v3/broken") as client:
        assert closed_with(client) == 1011
    eventually(lambda: [line for line in log_lines() if line["event"] == "http.failed"])


def test_a_receive_with_a_time_limit_loses_no_message(served: Served) -> None:
    with served.open("/v3/idle") as client:
        assert client.recv() == "nothing came"
        assert closed_with(client) == 4410


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(CLOSE, b"\x03\xe8bye"), 1000),
        (frame(CLOSE), 1005),
        (frame(CLOSE, b"\x0f\xa1"), 4001),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, b"\x03\xed"), 1002),
        (frame(CLOSE, b"\x03\xe8\xff"), 1007),
        (frame(TEXT, b"x", masked=False), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(CONT, b"("), 1007),
        (frame(BINARY, b"x"), 1003),
        (frame(TEXT, size=MESSAGE_BYTES + 1), 1009),
        (frame(TEXT, size=10_000_000), 1009),
        (frame(TEXT, size=2**62), 1009),
        (frame(TEXT, b"x" * 40_000, fin=False) + frame(CONT, b"x" * 40_000), 1009),
        (frame(PING, b"x" * 126), 1002),
        (frame(PING, fin=False), 1002),
        (frame(CONT, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
        (frame(3, b"x"), 1002),
        (frame(11), 1002),
        (b"\xc1\x80\0\0\0\0", 1002),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1002),
    ],
)
@pytest.mark.parametrize("size", [1, 100_000], ids=["bytes", "whole"])
def test_what_the_protocol_forbids_closes_with_its_code(served: Served, sent: bytes, code: int, size: int) -> None:
    if size == 1 and len(sent) > 1000:
        size = 1000
    with served.raw() as raw:
        raw.head()
        with suppress(OSError):
            for at in range(0, len(sent), size):
                raw.socket.sendall(sent[at : at + size])
        assert raw.closed() in (code, {1005: 0}.get(code, code))
        eventually(lambda: seen.codes == [code])


def test_a_ping_is_answered_between_the_fragments_of_a_message(served: Served) -> None:
    with served.raw() as raw:
        raw.head()
        raw.socket.sendall(frame(TEXT, b"a", fin=False) + frame(PING, b"now") + frame(PONG) + frame(CONT, b"b"))
        assert raw.frame() == (PONG, b"now")
        assert raw.frame() == (TEXT, b"ab")


def test_a_lost_connection_ends_the_websocket_with_1006(served: Served) -> None:
    for linger in (False, True):
        raw = served.raw()
        raw.head()
        if linger:  # a reset instead of an orderly end
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.socket.close()
    eventually(lambda: seen.codes == [1006, 1006])


def test_a_client_that_never_answers_the_close_frame_is_disconnected(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket_exchange, "CLOSE_SECONDS", 0.1)
    with served.raw("/v3/idle") as raw:
        raw.head()
        assert raw.frame() == (TEXT, b"nothing came")
        assert raw.frame()[0] == CLOSE
        assert raw.rest() == b""


def test_a_silent_client_is_pinged_and_then_disconnected(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket_exchange, "PING_SECONDS", 0.2)
    monkeypatch.setattr(websocket_exchange, "SILENT_SECONDS", 5.0)
    with served.raw() as raw, served.raw() as alive:
        raw.head()
        alive.head()
        assert raw.frame() == (PING, b"")
        while not seen.codes:
            with suppress(TimeoutError):
                alive.socket.settimeout(5)
                alive.frame()
            alive.socket.sendall(frame(PONG))
        assert seen.codes == [1006]
        alive.socket.sendall(frame(TEXT, b"here"))
        while (answer := alive.frame())[0] == PING:
            pass
        assert answer == (TEXT, b"here")


# --- limits -----------------------------------------------------------------------------------------------------------

FLOODS = {
    "messages": frame(TEXT, b"x"),
    "pings": frame(PING),
    "pongs": frame(PONG),
    "empty fragments": frame(CONT, fin=False),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_thousand_frames_at_once_close_with_1008(served: Served, kind: str) -> None:
    with served.raw() as raw:
        raw.head()
        before = frame(TEXT, b"x", fin=False) if kind == "empty fragments" else b""
        with suppress(OSError):
            raw.socket.sendall(before + FLOODS[kind] * 1000)
        assert raw.closed() == 1008
    eventually(lambda: seen.codes == [1008])
    assert len(seen.messages) <= RATES.frames * websocket_exchange.BURST_SECONDS


def test_more_bytes_than_allowed_close_with_1008(served: Served) -> None:
    with served.raw() as raw:
        raw.head()
        with suppress(OSError):
            for _ in range(20):
                raw.socket.sendall(frame(TEXT, b"x" * 50_000))
        assert raw.closed() == 1008


def test_a_burst_within_the_rates_is_accepted(served: Served) -> None:
    with served.open("/v3/echo/x") as client:
        for number in range(RATES.frames * websocket_exchange.BURST_SECONDS - 1):
            client.send(str(number))
        for number in range(RATES.frames * websocket_exchange.BURST_SECONDS - 1):
            assert client.recv() == str(number)


def test_a_client_that_does_not_read_is_disconnected(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "WRITE_SECONDS", 0.5)
    with served.raw("/v3/pours"):
        eventually(lambda: seen.codes == [1006])


def test_ten_megabytes_in_a_frame_are_not_read(served: Served) -> None:
    with served.raw() as raw:
        raw.head()
        with suppress(OSError):
            raw.socket.sendall(frame(TEXT, b"x" * 10_000_000))
        assert raw.closed() == 1009


def test_an_endpoint_that_does_not_receive_stops_the_client(served: Served) -> None:
    with served.raw("/v3/deaf") as raw:
        raw.head()
        messages = [frame(TEXT, b"%04d" % number + b"x" * 996) for number in range(90)]
        for message in messages:
            raw.socket.sendall(message)
        raw.socket.sendall(frame(CLOSE, b"\x03\xe8"))
        hearing.set()
        eventually(lambda: seen.codes == [1000])
    assert [int(text[:4]) for text in seen.messages] == list(range(90)), "none is lost"


def test_an_address_at_its_limit_opens_no_further_websocket(
    served: Served, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(served.open("/v3/echo/x")) for _ in range(PER_ADDRESS)]
        assert refused_with(served, "/v3/echo/x") == (429, 111429)
        with served.open("/v3/echo/x", source_address=("127.0.0.8", 0)) as other:
            other.send("another address")
            assert other.recv() == "another address"
        # Each client of the proxy has its own address.
        headers = {"X-Forwarded-For": "192.0.2.7"}
        with served.open("/v3/echo/x", additional_headers=headers):
            eventually(lambda: seen.contexts[-1].remote_ip == "192.0.2.7")
        for client in clients:
            client.send("still here")
            assert client.recv() == "still here"
        clients[0].close()
        eventually(lambda: opened(served))
    assert eventually(lambda: [line for line in log_lines() if line["event"] == "websocket.crowded"])


def test_of_500_websockets_from_one_address_the_default_limit_accepts_200(tmp_path: Path) -> None:
    with serving(tmp_path, Limits(), most=2000) as served, ExitStack() as stack:
        codes = []
        for _ in range(500):
            raw = served.raw()
            codes.append(int(raw.head().split(b" ", 2)[1]))
            if codes[-1] == 101:
                stack.enter_context(raw)
            else:
                raw.socket.close()
        assert codes == [101] * 200 + [429] * 300
        with Raw(socket.create_connection(served.address, timeout=10)) as raw:
            raw.socket.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b" 200 " in raw.head()


def opened(served: Served) -> bool:
    with suppress(InvalidStatus), served.open("/v3/echo/x"):
        return True
    return False


def test_websockets_leave_a_quarter_of_the_connections_to_requests(
    tmp_path: Path, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    REPEATED.clear()
    with serving(tmp_path, Limits(websockets_per_address=0), most=8) as served, ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(served.open("/v3/echo/x"))
        with served.raw() as raw:
            assert refusal(raw.rest()) == (503, 111503)
        [line] = eventually(lambda: [line for line in log_lines() if line["event"] == "websocket.refused"])
        assert (line["connections"], line["busiest"]) == (6, "127.0.0.1")
        idle = [socket.create_connection(served.address, timeout=10) for _ in range(10)]
        with Raw(socket.create_connection(served.address, timeout=10)) as raw:
            raw.socket.sendall(b"GET /v3/none HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b" 404 " in raw.head(), "an idle connection is evicted, and no WebSocket"
        for one in idle:
            one.close()
        assert not seen.codes


def test_other_websockets_are_served_during_a_flood(served: Served) -> None:
    over = threading.Event()

    def flood() -> None:
        while not over.is_set():
            with suppress(OSError, EOFError), served.raw(Host="b") as raw:
                raw.head()
                raw.socket.sendall(frame(TEXT, fin=False) + frame(CONT, fin=False) * 40_000)
                raw.closed()

    flooding = [threading.Thread(target=flood) for _ in range(3)]
    for one in flooding:
        one.start()
    try:
        with served.open("/v3/echo/x") as client:
            for number in range(20):
                client.send(str(number))
                assert client.recv(10) == str(number)
    finally:
        over.set()
        for one in flooding:
            one.join()


# --- log and metrics --------------------------------------------------------------------------------------------------


def test_the_end_of_a_websocket_is_logged_without_its_query(
    served: Served, log_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    secret = base64.b16encode(os.urandom(8)).decode()
    with served.open(f"/v3/echo/{secret}?key={secret}") as client:
        client.close(4001)

    def ended() -> list[dict[str, Any]]:
        return [line for line in log_lines() if line["event"] == "http.websocket"]

    eventually(ended)
    [line] = ended()
    assert line["route"] == "/v3/echo/{name}"
    assert (line["close_code"], line["actor"]) == (4001, "agent:7")
    assert 0 <= line["open_s"] < 60
    assert secret not in json.dumps(log_lines())
    text = served.services.metrics.scrape().decode()
    assert 'tminus_websockets_closed_total{code="(other)",route="/v3/echo/{name}"}' in text
    assert 'tminus_websockets{route="/v3/echo/{name}"} 0.0' in text


def test_the_log_has_the_reason_of_the_daemon_but_no_text_of_the_client(
    served: Served, log_lines: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reasons() -> list[tuple[int, str | None]]:
        lines = [line for line in log_lines() if line["event"] == "http.websocket"]
        return [(line["close_code"], line.get("close_reason")) for line in lines]

    with served.open("/v3/echo/x") as client:
        client.close(4001, "words of the client")
    eventually(lambda: reasons() == [(4001, None)])
    with served.raw() as raw:
        raw.head()
        with suppress(OSError):
            raw.socket.sendall(frame(PING) * 1000)
        raw.closed()
    eventually(lambda: reasons()[1:] == [(1008, "too many messages or bytes a second")])
    with served.raw() as raw:
        raw.head()
        monkeypatch.setattr(websocket_exchange, "SILENT_SECONDS", 0)
        eventually(lambda: reasons()[2:] == [(1006, "nothing arrived for 0 s")])
    monkeypatch.undo()
    monkeypatch.setattr(http_server, "WRITE_SECONDS", 0.5)
    with served.raw("/v3/pours"):
        eventually(lambda: reasons()[3:] == [(1006, "less than 16 KiB were read in 0.5 s")])


# --- the stop of the daemon -------------------------------------------------------------------------------------------


def test_a_stop_closes_all_websockets_with_1012(tmp_path: Path) -> None:
    with serving(tmp_path, Limits(websockets_per_address=0)) as served, ExitStack() as stack:
        clients = [stack.enter_context(served.open("/v3/echo/x")) for _ in range(5)]
        silent = stack.enter_context(served.raw())
        silent.head()
        pouring = stack.enter_context(served.raw("/v3/pours"))
        pouring.head()
        served.services.draining = True
        assert refused_with(served, "/v3/echo/x") == (503, 108503)
        begun = time.monotonic()
        served.serving.should_exit = True
        assert [closed_with(client) for client in clients] == [1012] * 5
        assert silent.closed() == 1012
        eventually(lambda: sorted(seen.codes)[-6:] == [1012] * 6)
        pouring.rest()
    assert time.monotonic() - begun < http_server.DRAIN_SECONDS
