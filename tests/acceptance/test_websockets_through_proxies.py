"""WebSockets through real proxies with the samples of `config/`, in front of a server with endpoints of the tests."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import cast

import pytest

from tests.acceptance.daemons import Daemon, token_of
from tests.acceptance.test_proxies import (
    BYSTANDER,
    CLIENT,
    FLOOD,
    FORGED,
    GUESSER,
    KINDS,
    NAME,
    TRAILER,
    Front,
    fronted,
    program,
)  # fmt: skip
from tests.support.websocket_server import CLOSE, PONG, TEXT, Raw, Served, frame, head, seen, serving
from tminus.config import Limits

pytestmark = pytest.mark.slow

SOCKETS = 3
"""WebSockets that one address may have in the tests of WebSockets."""


@pytest.fixture(scope="module")
def websocket_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("websockets"), Limits(websockets_per_address=SOCKETS)) as served:
        yield served


@pytest.fixture(scope="module", params=KINDS)
def websockets(
    request: pytest.FixtureRequest, websocket_server: Served, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """A proxy in front of a server with endpoints of the tests."""
    both = cast("tuple[Daemon, Daemon]", (websocket_server, websocket_server))
    with fronted(KINDS[request.param], both, tmp_path_factory.mktemp(request.param)) as one:
        yield one


@contextmanager
def upgraded(front: Front, source: str, path: str = "/v3/echo/x", **headers: str) -> Iterator[Raw]:
    """Yield a connection through the proxy that has sent an upgrade."""
    with front.connect(source) as connection:
        connection.sendall(head(path, **{"Host": NAME, "X_Forwarded_For": FORGED} | headers))
        yield Raw(connection)


def test_a_websocket_works_through_the_proxy(websockets: Front) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(upgraded(websockets, CLIENT)) for _ in range(SOCKETS)]
        for one in opened:
            assert one.head().startswith(b"HTTP/1.1 101 ")
            for text in ("größer", "x" * 60_000):
                one.socket.sendall(frame(TEXT, text.encode()))
                assert one.frame() == (TEXT, text.encode())
        assert {context.remote_ip for context in seen.contexts[-SOCKETS:]} == {CLIENT}
        with upgraded(websockets, CLIENT) as more:
            assert b" 429 " in more.head()
        with upgraded(websockets, GUESSER) as other:
            assert b" 101 " in other.head()
        opened[0].socket.sendall(frame(CLOSE, b"\x0f\xa1"))
        assert opened[0].frame() == (CLOSE, b"\x0f\xa1")
        opened[1].socket.sendall(frame(TEXT, b"x", masked=False))
        assert opened[1].closed() == 1002
        opened[2].socket.sendall(frame(PONG) * 1000)
        assert opened[2].closed() == 1008


def test_the_answer_to_a_client_that_closes_at_once_arrives_through_the_proxy(websockets: Front) -> None:
    with upgraded(websockets, BYSTANDER, "/v3/idle") as one:
        assert b" 101 " in one.head()
        assert one.frame() == (TEXT, b"nothing came")
        assert one.frame() == (CLOSE, (4410).to_bytes(2, "big") + b"over")
        one.socket.sendall(frame(CLOSE, b"\x11\x3a"))
        with pytest.raises(EOFError):
            one.frame()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example.com"}, b" 403 "),
        ({"Origin": f"https://{NAME}"}, b" 101 "),
        ({"Origin": f"https://{NAME}:8443"}, b" 101 "),
        ({"Sec_WebSocket_Version": "8"}, b" 426 "),
        ({"Sec_WebSocket_Key": "x"}, b" 400 "),
        ({"Upgrade": "h2c"}, b" 426 "),
    ],
)
def test_a_refused_upgrade_through_the_proxy_gets_its_response(
    websockets: Front, headers: dict[str, str], status: bytes
) -> None:
    with upgraded(websockets, TRAILER, **headers) as one:
        assert status in one.head().partition(b"\r\n")[0]


def test_nothing_after_a_refused_upgrade_reaches_the_daemon_past_the_rules_of_the_proxy(websockets: Front) -> None:
    hidden = f"GET /metrics HTTP/1.1\r\nHost: {NAME}\r\nSession-id: {token_of('monitor')}\r\n\r\n".encode()
    for headers in ({"Sec_WebSocket_Version": "8"}, {"Upgrade": "h2c"}, {"Sec_WebSocket_Key": ""}):
        with upgraded(websockets, FLOOD, **headers) as one:
            with suppress(OSError):
                one.socket.sendall(hidden)
            one.socket.settimeout(2)
            with suppress(TimeoutError):
                one.rest()
            assert b"tminus_" not in one._data
            assert b"401 Unauthorized" not in one._data, "the daemon did not read the rest as a request without a token"


def test_a_request_over_http_2_for_a_websocket_is_refused_by_the_daemon(websockets: Front) -> None:
    done = subprocess.run(
        [program("curl", "curl"), "--silent", "--http2", "--insecure", "--noproxy", "*", "--max-time", "20",
         "--write-out", " %{http_version} %{http_code}", "--resolve", f"{NAME}:{websockets.port}:127.0.0.1",
         f"{websockets.url}/v3/echo/x"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.endswith(" 2 426"), (done.returncode, done.stdout)
