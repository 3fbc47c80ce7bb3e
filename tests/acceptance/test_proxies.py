"""Real proxies (nginx, HAProxy, Caddy) with the samples of `config/`, in front of two daemons on one PostgreSQL."""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

from tests.acceptance import test_dates as dates
from tests.acceptance import test_http_edges as edges
from tests.acceptance.conftest import StartDaemon, check_health
from tests.acceptance.daemons import Daemon, token_of
from tests.acceptance.test_http_errors import fields, refused
from tests.acceptance.test_readiness import administrator, not_ready
from tests.acceptance.times import from_now
from tests.support.databases import PostgresServer
from tests.support.poolers import free_port
from tests.support.waiting import eventually
from tests.unit.service.test_framing import NEXT, NOT_READ, READ

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "config"

CLIENT, GUESSER, BYSTANDER, FLOOD, TRAILER = (f"127.0.0.{number}" for number in range(5, 10))
"""Source addresses of the tests' clients. The daemons do not trust them as proxies."""

OTHERS = [f"127.0.1.{number}" for number in range(1, 100)]
"""Source addresses for tests that reuse tests of other modules. Each has its own, so that it does not share limits."""

CLIENTS = {CLIENT, GUESSER, BYSTANDER, FLOOD, TRAILER, *OTHERS, "local"}

_next_other = iter(OTHERS)

FORGED = "203.0.113.66"
"""The address that clients send in `X-Forwarded-For`. No log line may contain it."""

LOOK_UPS = 5
"""Number of PINs that one address may look up."""

GUESSES = 4
"""Number of wrong tokens that one address may send."""

CONNECTIONS = 48
"""Number of connections that each daemon accepts."""

HOLDERS = 60
"""Number of clients of each kind that hold a connection: together more than both daemons accept."""

HELD = 4
"""Number of streams and waiting requests that one agent may hold at each daemon."""

PAGE = "https://desk.example.com"
"""The origin of a web page that may call the API."""

NAME = "support.example.com"


@dataclass
class Front:
    """A proxy and the daemons behind it."""

    port: int
    trust: ssl.SSLContext
    daemons: tuple[Daemon, Daemon]
    folder: Path
    """The files of the proxy, with its logs, and `authority.pem`, the certificate of its authority."""
    scheme: str = "https"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{NAME}:{self.port}"

    def connect(self, source: str = CLIENT) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=20, source_address=(source, 0))
        return self.trust.wrap_socket(plain, server_hostname=NAME)

    @contextmanager
    def http(self, source: str = CLIENT, token: str | None = token_of("admin")) -> Iterator[httpx.Client]:
        """Yield a client with the address `source` that sends another address in `X-Forwarded-For`."""
        headers = {"X-Forwarded-For": FORGED, "Host": NAME} | ({"Session-id": token} if token else {})
        transport = httpx.HTTPTransport(verify=self.trust, local_address=source)
        with httpx.Client(
            base_url=f"{self.scheme}://127.0.0.1:{self.port}", transport=transport, headers=headers, timeout=20
        ) as client:
            yield client

    @contextmanager
    def daemon(self) -> Iterator[Daemon]:
        """Yield a daemon whose calls go through the proxy, for tests that take a daemon."""
        with self.http(next(_next_other), token=None) as http:
            one = copy(self.daemons[0])
            one.url, one.http = f"https://127.0.0.1:{self.port}", http
            yield one

    def addresses(self) -> set[str]:
        """Return the client addresses in the logs of the daemons."""
        return {
            line["remote_ip"]
            for one in self.daemons
            for line in one.log_lines()
            if "remote_ip" in line
            and line["event"] != "http.malformed"  # if no request can be parsed, only the proxy is known
        }


def program(name: str, package: str) -> str:
    path = shutil.which(name, path="/usr/bin:/usr/sbin")
    if path is None:
        pytest.skip(f"NOT TESTED: no {name} here (Debian package {package})")
    return path


@pytest.fixture(scope="module")
def daemons(pg_server: PostgresServer) -> Iterator[tuple[Daemon, Daemon]]:
    with ExitStack() as stack:
        database = stack.enter_context(pg_server.database(empty=True))
        both = tuple(
            Daemon(
                storage={"url": database.configured},
                server={
                    "trusted_proxies": ["127.0.0.1"],
                    "public_url": f"https://{NAME}",
                    "cors_origins": [PAGE],
                },
                limits={
                    "pin_lookups": f"{LOOK_UPS}/hour",
                    "failed_tokens": f"{GUESSES}/hour",
                    "connections": CONNECTIONS,
                    "streams_per_agent": HELD,
                },
            )
            for _ in range(2)
        )
        for one in both:
            stack.callback(one.remove)
            one.start()
        yield both[0], both[1]
        for one in both:
            check_health(one)


def sample(path: str, changes: dict[str, str]) -> str:
    """Return a sample with other addresses; fail if one of the replaced addresses is missing."""
    text = (CONFIG / path).read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx(folder: Path, port: int, ports: tuple[str, str]) -> tuple[list[str], list[str]]:
    path = program("nginx", "nginx-light")
    (folder / "tminus.conf").write_text(
        sample(
            "nginx/tminus.conf",
            {
                "listen 443": f"listen 127.0.0.1:{port}",
                "/var/log/nginx/access.log": f"{folder}/access.log",
                "/etc/ssl/certs/support.example.com.pem": f"{folder}/chain.pem",
                "/etc/ssl/private/support.example.com.key": f"{folder}/key.pem",
                "server 127.0.0.1:8710": f"server 127.0.0.1:{ports[0]}",
                "# server 127.0.0.1:8711": f"server 127.0.0.1:{ports[1]}",
            },
        )
    )
    paths = "".join(f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""  # its worker processes must be able to read the folder
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;\n"
        "events { worker_connections 2000; }\n"
        f"http {{ access_log off; {paths} include {folder}/tminus.conf; }}\n"
    )
    command = [path, "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log", "-p", str(folder)]
    return [*command, "-t"], command


def haproxy(folder: Path, port: int, ports: tuple[str, str]) -> tuple[list[str], list[str]]:
    path = program("haproxy", "haproxy")
    (folder / "haproxy.cfg").write_text(
        sample(
            "haproxy/haproxy.cfg",
            {
                "bind :443": f"bind 127.0.0.1:{port}",
                "/etc/haproxy/certs/support.example.com.pem": f"{folder}/both.pem",
                "server one 127.0.0.1:8710": f"server one 127.0.0.1:{ports[0]}",
                "# server two 127.0.0.1:8711": f"server two 127.0.0.1:{ports[1]}",
                "maxconn 10000": "maxconn 500",
            },
        )
    )
    command = [path, "-f", f"{folder}/haproxy.cfg"]
    return [*command, "-c"], command


def caddy(folder: Path, port: int, ports: tuple[str, str]) -> tuple[list[str], list[str]]:
    path = program("caddy", "caddy")
    text = sample(
        "caddy/Caddyfile",
        {
            "support.example.com {": f"{NAME}:{port} {{\n\ttls {folder}/chain.pem {folder}/key.pem",
            "reverse_proxy 127.0.0.1:8710": f"reverse_proxy 127.0.0.1:{ports[0]} 127.0.0.1:{ports[1]}",
        },
    )
    options = f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tstorage file_system {folder}\n}}\n"
    (folder / "Caddyfile").write_text(options + text)
    files = ["--config", f"{folder}/Caddyfile", "--adapter", "caddyfile"]
    return [path, "validate", *files], [path, "run", *files]


def haproxy_that_checks_often(folder: Path, port: int, ports: tuple[str, str]) -> tuple[list[str], list[str]]:
    """Configure `haproxy` with a shorter interval of health checks: three failures remove a server."""
    commands = haproxy(folder, port, ports)
    path = folder / "haproxy.cfg"
    path.write_text(path.read_text().replace("check inter 2s", "check inter 200ms"))
    return commands


Kind = Callable[[Path, int, tuple[str, str]], tuple[list[str], list[str]]]
"""Writes the files of a proxy; returns the command that checks them and the one that runs it."""

KINDS: dict[str, Kind] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "caddy": caddy,
}


@pytest.fixture(scope="module", params=KINDS)
def front(
    request: pytest.FixtureRequest, daemons: tuple[Daemon, Daemon], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    with fronted(KINDS[request.param], daemons, tmp_path_factory.mktemp(request.param)) as one:
        yield one


@contextmanager
def fronted(kind: Kind, daemons: tuple[Daemon, Daemon], folder: Path, scheme: str = "https") -> Iterator[Front]:
    """Run a proxy in front of two daemons while the block lasts; its files are in `folder`."""
    authority = trustme.CA()
    certificate = authority.issue_cert(NAME, "127.0.0.1")
    chain = b"".join(one.bytes() for one in certificate.cert_chain_pems)
    (folder / "chain.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(certificate.private_key_pem.bytes())
    (folder / "both.pem").write_bytes(chain + certificate.private_key_pem.bytes())
    (folder / "authority.pem").write_bytes(authority.cert_pem.bytes())
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    port = free_port()
    ports = (daemons[0].url.rpartition(":")[2], daemons[1].url.rpartition(":")[2])
    check, run = kind(folder, port, ports)
    environ = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    checked = subprocess.run(check, capture_output=True, text=True, check=False, cwd=folder, env=environ)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    with (folder / "said").open("wb") as output:
        process = subprocess.Popen(run, cwd=folder, stdout=output, stderr=output, env=environ)
    one = Front(port, trust, daemons, folder, scheme)
    try:
        with one.http() as http:

            def serves() -> bool:
                assert process.poll() is None, (folder / "said").read_text()
                with suppress(httpx.TransportError):
                    return http.get("/readyz").status_code == 200
                return False

            eventually(serves)
        yield one
    finally:
        process.terminate()
        process.wait(60)


def test_both_daemons_serve_a_session_and_record_the_address_that_the_proxy_saw(
    front: Front,
) -> None:
    with front.http() as http:
        made = http.post("/v3/supportsessions", json={"type": "live", "label": "Łódź"})
        assert made.status_code == 200, (made.text, made.headers)
        for _ in range(4):
            shown = http.get(f"/v3/supportsession/{made.json()['id']}")
            assert (shown.status_code, shown.json()["label"]) == (200, "Łódź")
            assert shown.headers["cache-control"] == "no-store"
        assert http.get(f"/v3/supportsession/{made.json()['id']}", headers={"Session-id": "x" * 40}).status_code == 401
        assert http.get("/metrics").status_code == 404
        assert http.put("/v3/supportsession/x", content=b"x" * 200_000).status_code == 413
    assert front.addresses() <= CLIENTS


def test_the_proxy_logs_no_address_of_a_calendar(front: Front) -> None:
    with front.http() as http:
        file = http.post("/v3/agents/7/calendar").json()["url"].rpartition("/")[2]
        for path in ("v3/calendars", "/v3/calendars"):
            answer = http.get(f"https://127.0.0.1:{front.port}/{path}/{file}")
            assert answer.status_code == 200, (answer.url, answer.text)
        assert http.get(f"/calendars/{file}").status_code == 404
        assert http.get("/v3/me").status_code == 200
    logs = [path.read_text(errors="replace") for path in front.folder.iterdir() if path.is_file()]
    assert not [line for log in logs for line in log.splitlines() if file in line]
    log = front.folder / "access.log"
    assert not log.exists() or "/v3/me" in log.read_text()


def test_the_proxy_forwards_each_event_of_a_stream_at_once(front: Front) -> None:
    made: list[str] = []
    with front.http() as reader, front.http() as http:
        headers = {"Accept": "text/event-stream"}
        with reader.stream("GET", "/v3/events?after=now", headers=headers, timeout=20) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.iter_lines()
            assert next(lines).startswith("id:")
            making = threading.Thread(
                target=lambda: made.append(
                    http.post("/v3/supportsessions", json={"type": "live", "label": "x"}).json()["id"]
                )
            )
            making.start()
            event = next(json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))
            making.join(10)
        assert event["id"] == made[0]
        held = reader.get("/v3/events?after=now&wait=0.2", timeout=20)
        assert held.json()["events"] == []


def exchanged(front: Front, requests: list[bytes], wait: float = 2, source: str = CLIENT) -> list[bytes]:
    """Send each request on its own connection, all at the same time; return the beginnings of the responses.

    The response to a request that never ends is empty after `wait` seconds.
    """
    with ExitStack() as opened:
        connections = [opened.enter_context(front.connect(source)) for _ in requests]
        for one, data in zip(connections, requests, strict=True):
            one.sendall(data)
        give_up = time.monotonic() + wait
        answers = []
        for one in connections:
            received = b""
            try:
                one.settimeout(max(give_up - time.monotonic(), 0.02))
                while b"\r\n\r\n" not in received and (more := one.recv(65_536)):
                    received += more
            except OSError:
                pass
            answers.append(received)
        return answers


def test_a_forwarded_address_in_a_trailer_does_not_avoid_the_limit_of_guesses(front: Front) -> None:
    requests = [
        (
            f"GET /v3/support/{number:06}/meta HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: chunked\r\n"
            f"Trailer: X-Forwarded-For\r\n\r\n1\r\n \r\n0\r\nX-Forwarded-For: 203.0.113.{number}\r\n\r\n"
        ).encode()
        for number in range(100, 100 + 3 * LOOK_UPS)
    ]
    answers = [one for request in requests for one in exchanged(front, [request], 30, TRAILER)]
    codes = [int(found[1]) for one in answers if (found := re.match(rb"HTTP/1\.1 (\d+)", one))]
    assert len(codes) == len(requests)
    needed = sum(b'"refcode":169400' in one for one in answers)
    assert needed >= LOOK_UPS, "two daemons, each with a limit of its own"
    assert front.addresses() <= CLIENTS


def test_proxy_and_daemon_find_the_same_end_of_every_request(front: Front) -> None:
    # The proxy replaces the client address in every request that it parses. A hidden request would keep this one.
    hidden = f"GET /hidden HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {FORGED}\r\nSession-id: {token_of('admin')}\r\n\r\n"
    cases = {**NOT_READ, **{name: text for name, (text, _) in READ.items()}}
    requests = [
        text.replace(NEXT, hidden).replace("Host: a\r\n", f"Host: {NAME}\r\nX-Forwarded-For: {FORGED}\r\n", 1)
        + ("" if NEXT in text else hidden)
        for text in cases.values()
    ]
    # A proxy could take these for a body, and the daemon for a request.
    requests += [
        f"POST /v3/me HTTP/1.1\r\nHost: {NAME}\r\n{lengths}\r\n{hidden}"
        for lengths in (
            f"Content-Length: {len(hidden)}\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n",
            f"Content-Length: {len(hidden)}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
            f"Content-Length: {len(hidden)}\r\nExpect: 100-continue\r\n",
            f"Content-Length: {len(hidden)}\r\nConnection: Content-Length\r\n",
            f"Content-Length: {len(hidden)}\r\nContent-Length : 0\r\n",
            f"Content-Length: {len(hidden)}\r\nTransfer-Encoding: x\r\n",
            f"Content-Length: {len(hidden)}\r\nTransfer_Encoding: chunked\r\n",
        )
    ]
    chunk = f"{len(hidden):x}\r\n{hidden}\r\n0\r\n\r\n"
    requests += [
        f"POST /v3/me HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: chunked\r\n{more}\r\n{chunk}"
        for more in ("", "Connection: Upgrade\r\nUpgrade: h2c\r\n", "Connection: Transfer-Encoding\r\n")
    ]
    answers = exchanged(front, [text.encode("latin-1") for text in requests])
    assert sum(answer.startswith(b"HTTP/1.") for answer in answers) > len(answers) // 2
    with front.http() as http:
        for _ in range(2):
            assert http.get("/v3/me").status_code == 200, "no other client gets a response to one of these requests"
    assert front.addresses() <= CLIENTS


def test_the_http_contract_holds_through_a_proxy(front: Front) -> None:
    with front.daemon() as through:
        described = through.http.get(f"{through.url}/openapi.json").json()
        del described["paths"]["/metrics"]  # the proxy's own 404
        edges.test_head_is_supported_wherever_get_is(through, described)
        edges.test_head_of_a_stream_or_long_poll_returns_at_once(through)
        edges.test_a_close_is_refused_for_a_version_that_if_match_does_not_list(through)
        edges.test_static_responses_have_an_entity_tag_and_are_revalidated_with_304(through)
        edges.test_a_compressed_body_is_415(through)
        edges.test_a_page_may_send_every_header_of_the_contract_and_read_every_one(through, described)
        for sent, field in edges.UNKEPT.items():
            edges.test_a_value_that_cannot_be_stored_unchanged_is_refused_by_the_name_of_its_field(through, sent, field)
        edges.test_a_byte_order_mark_before_a_body_is_ignored(through)
        for text in dates.READ:
            assert through.make(startTime=text)["startTime"] == dates.MEANT
        for text in dates.REFUSED:
            body = {"type": "live", "label": "A", "startTime": text}
            assert fields(through.post("/supportsessions", body)) == {"startTime"}
        for media in ("text/plain", "application/x-www-form-urlencoded"):
            answer = through.post("/supportsessions", content=b"{}", headers={"Content-Type": media})
            refused(answer, 415, 100415)


def test_if_match_works_through_a_proxy(front: Front) -> None:
    with front.daemon() as through:
        made = through.make(startTime=from_now(days=1))
        one, version = f"/supportsession/{made['id']}", made["version"]
        for stale in (f'W/"{version}"', '"x"'):
            answer = through.put(one, {"startTime": from_now(days=2)}, headers={"If-Match": stale})
            refused(answer, 412, 101412)
        shown = through.get(one)
        tag = shown.headers["ETag"]
        assert through.get(one, headers={"If-None-Match": tag}).status_code in (200, 304)
        moved = through.put(one, {"startTime": from_now(days=2)}, headers={"If-Match": tag})
        assert moved.status_code == 200, (tag, moved.text)


def test_the_proxy_keeps_slashes_in_look_up_keys(front: Front) -> None:
    with front.daemon() as through:
        described = through.http.get(f"{through.url}/openapi.json").json()
        edges.test_a_base_url_may_end_in_a_slash(through, described)


PATHS = (
    "/metrics", "//metrics", "///metrics", "/%6detrics", "/%6Detric%73", "/%2fmetrics", "/./metrics",
    "/v3/../metrics", "/%2e/metrics", "/v3/%2e%2e/metrics", "/metrics/", "/metrics?x=1", "/metrics;x",
    "https://support.example.com/metrics", "https://support.example.com//metrics",
)  # fmt: skip


def test_the_proxy_refuses_metrics_in_every_spelling_of_the_path(front: Front) -> None:
    requests = [
        f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\nSession-id: {token_of('monitor')}\r\n\r\n".encode() for path in PATHS
    ]
    answers = exchanged(front, requests, 20)
    codes = {path: answer.partition(b"\r\n")[0] for path, answer in zip(PATHS, answers, strict=True)}
    assert all(re.match(rb"HTTP/1\.[01] (30[18]|40[04]) ?", line) for line in codes.values()), codes
    assert not any(b"text/plain; version" in answer for answer in answers)


def test_a_valid_token_is_accepted_through_the_proxy_from_an_address_at_its_limit(front: Front) -> None:
    with front.http(GUESSER, None) as http, front.http(BYSTANDER, None) as other:

        def me(client: httpx.Client, token: str) -> httpx.Response:
            return client.get("/v3/me", headers={"Session-id": token})

        codes: list[int] = []
        while codes[-4:] != [429] * 4 and len(codes) < 50:
            answer = me(http, f"a guess of a token that is long {len(codes)}")
            codes.append(answer.status_code)
        assert set(codes) <= {401, 429}
        assert codes.count(401) <= 2 * GUESSES, "two daemons, each with a limit of its own"
        assert 1 <= int(answer.headers["Retry-After"]) <= 3600
        for name in ("anna", "ben") * 2:
            assert me(http, token_of(name)).status_code == 200
            signed = http.post("/v3/auth/token/authWithToken", json={"session_token": token_of(name)})
            assert signed.status_code == 200
            assert me(http, signed.json()["session"]["id"]).status_code == 200
        # By now, the limit may admit one or two more guesses.
        again = [
            me(http, f"another guess of a token that is long {number}").status_code for number in range(2 * GUESSES)
        ]
        assert set(again) <= {401, 429}
        assert 429 in again
        assert me(other, token_of("anna")).status_code == 200
        assert me(other, f"another guess {front.port}").status_code in (401, 429)
    assert front.addresses() <= CLIENTS


def test_clients_that_hold_connections_do_not_block_other_clients(front: Front) -> None:
    asset = f"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: {NAME}\r\n\r\n"
    stream = (
        f"GET /v3/events HTTP/1.1\r\nHost: {NAME}\r\nAccept: text/event-stream\r\n"
        f"Session-id: {token_of('monitor')}\r\n\r\n"
    )
    poll = f"GET /v3/events?after=now&wait=60 HTTP/1.1\r\nHost: {NAME}\r\nSession-id: {token_of('monitor')}\r\n\r\n"
    body = (
        f"POST /v3/supportsessions HTTP/1.1\r\nHost: {NAME}\r\nContent-Type: application/json\r\n"
        f"Session-id: {token_of('anna')}\r\nContent-Length: 1000\r\n\r\n{{"
    )
    kinds = [text.encode() for text in (asset * 4, stream, poll, body)]
    with ExitStack() as held:
        for number in range(len(kinds) * HOLDERS):
            one = held.enter_context(front.connect(FLOOD))
            one.sendall(kinds[number % len(kinds)])
            if number % (len(kinds) * 10) == 0:
                check_calls(front)
        check_calls(front)
        # At least one daemon has closed streams of the agent. The proxy may have sent all streams to the same one.
        eventually(lambda: any(daemon.log_lines("feed.crowded") for daemon in front.daemons))


def check_calls(front: Front) -> None:
    """Check that calls get responses through the proxy and from each daemon."""
    with front.http() as http:
        made = http.post("/v3/supportsessions", json={"type": "live", "label": "x"})
        assert made.status_code == 200, made.text
        for _ in front.daemons:
            assert http.get(f"/v3/supportsession/{made.json()['id']}").status_code == 200
    for one in front.daemons:
        assert one.session(made.json()["id"], headers={"X-Forwarded-For": CLIENT})["label"] == "x"


def test_the_samples_health_check_removes_a_daemon_that_is_not_ready_and_adds_it_again(
    daemons: tuple[Daemon, Daemon], pg_server: PostgresServer, make_daemon: StartDaemon, tmp_path: Path
) -> None:
    with pg_server.database(empty=True) as database, pg_server.member(database, "porter") as url:
        unready = make_daemon(storage={"url": url}, server={"trusted_proxies": ["127.0.0.1"]})
        unready.start()
        with fronted(haproxy_that_checks_often, (daemons[0], unready), tmp_path) as front, front.http() as http:

            def ready(times: int) -> list[bool]:
                return [http.get("/readyz").status_code == 200 for _ in range(times)]

            def unready_serves() -> bool:
                made = http.post("/v3/supportsessions", json={"type": "live", "label": "x"}).json()
                return unready.get(f"/supportsession/{made.get('id')}").status_code == 200

            eventually(unready_serves)
            with administrator(database) as other:
                other.execute("REVOKE SELECT ON event FROM porter")
                other.commit()
                assert not_ready(unready)
                assert unready.http.get(f"{unready.url}/healthz").status_code == 200
                eventually(lambda: all(ready(8)))  # the proxy alternates, so otherwise half would be refused
                assert unready.http.get(f"{unready.url}/readyz").status_code == 503
                other.execute("GRANT SELECT ON event TO porter")
                other.commit()
            eventually(unready_serves)


def test_a_request_of_curl_with_an_upgrade_to_http_2_and_a_body_gets_a_response(daemons: tuple[Daemon, Daemon]) -> None:
    curl = program("curl", "curl")
    # With the address of a client, since `addresses` accepts no other in the logs of these daemons.
    headers = ["--header", f"Session-id: {token_of('admin')}", "--header", f"X-Forwarded-For: {CLIENT}"]
    done = subprocess.run(
        [curl, "--silent", "--http2", "--fail-with-body", "--max-time", "20", "--noproxy", "*",
         *headers, "--json", '{"type": "live", "label": "x"}', f"{daemons[0].url}/v3/supportsessions", "--next",
         "--silent", "--http2", "--noproxy", "*", *headers, f"{daemons[0].url}/v3/me"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"status":"new"' in done.stdout
    assert '"roles"' in done.stdout or '"agent' in done.stdout
