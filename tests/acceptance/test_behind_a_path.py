"""The documentation page, the OpenAPI document and calls behind a real nginx and HAProxy that remove a path."""

import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urljoin

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.test_proxies import program
from tests.support.databases import PostgresServer
from tests.support.signin import CALLBACK, SAME_ORIGIN, Browser, key_of, receiver_url, redirect
from tests.support.waiting import eventually
from tminus.client import ScreenMeet

SERVED_BY = "X-Served-By"
"""The header in which the proxies of these tests name the daemon that served a request."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


def nginx(folder: Path, port: int, upstreams: Sequence[str]) -> list[str]:
    """Configure nginx to serve `/tminus/` on this port from the root of each upstream in turn; return its command."""
    config = folder / "nginx.conf"
    servers = " ".join(f"server {one};" for one in upstreams)
    config.write_text(
        f"pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; daemon off; events {{}}\n"
        f"http {{ access_log off; merge_slashes off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n"
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f"map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}\n"
        f"upstream tminus {{ {servers} }}\n"
        f"server {{ listen 127.0.0.1:{port}; add_header {SERVED_BY} $upstream_addr always;\n"
        f"location /tminus/ {{ proxy_pass http://tminus/; proxy_set_header Host $http_host; proxy_http_version 1.1;\n"
        f"proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; }} }} }}\n"
    )
    return [program("nginx", "nginx-light"), "-e", f"{folder}/error.log", "-c", str(config), "-p", str(folder)]


def haproxy(folder: Path, port: int, upstreams: Sequence[str]) -> list[str]:
    """Configure HAProxy to serve `/tminus/` on this port from the root of each upstream in turn; return its command."""
    config = folder / "haproxy.cfg"
    servers = "".join(f"    server {one} {one}\n" for one in upstreams)
    config.write_text(
        "global\n    maxconn 200\n"
        "defaults\n    mode http\n    timeout connect 5s\n    timeout client 90s\n    timeout server 90s\n"
        f"frontend plain\n    bind 127.0.0.1:{port}\n    use_backend tminus if {{ path_beg /tminus/ }}\n"
        "backend tminus\n    balance roundrobin\n    http-request replace-path ^/tminus(/.*) \\1\n"
        f"    http-response set-header {SERVED_BY} %s\n{servers}"
    )
    return [program("haproxy", "haproxy"), "-f", str(config)]


Kind = Callable[[Path, int, Sequence[str]], list[str]]
"""Writes the configuration of a proxy; returns the command that runs it."""

PROXIES: dict[str, Kind] = {"nginx": nginx, "HAProxy": haproxy}


@contextmanager
def proxied(kind: Kind, folder: Path, port: int, daemons: Sequence[Daemon]) -> Iterator[None]:
    """Run a proxy in front of the daemons until the block ends."""
    command = kind(folder, port, [one.url.removeprefix("http://") for one in daemons])
    with (folder / "said").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)

    def listens() -> bool:
        assert process.poll() is None, (folder / "said").read_text()
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually(listens)
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(params=[1, pytest.param(2, marks=pytest.mark.slow)], ids=["one daemon", "two daemons"])
def storages(request: pytest.FixtureRequest) -> Iterator[list[JSON]]:
    """The `[storage]` section of each daemon: SQLite for one daemon, one database of PostgreSQL for two."""
    if request.param == 1:
        yield [{}]
        return
    server: PostgresServer = request.getfixturevalue("pg_server")
    with server.database(empty=True) as database:
        yield [{"url": database.configured}] * request.param


@pytest.mark.parametrize("proxy", PROXIES)
def test_the_page_and_the_description_work_behind_a_proxy_that_removes_a_path(
    proxy: str, storages: list[JSON], start_daemon: StartDaemon, tmp_path: Path
) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}/tminus"
    daemons = [start_daemon(server={"public_url": f"{base}/"}, storage=one) for one in storages]

    def from_each(address: str, **headers: str) -> httpx.Response:
        """Get an address through the proxy from each daemon; check that all answer the same, and return an answer."""
        answers = [httpx.get(address, headers=headers) for _ in daemons]
        assert [one.status_code for one in answers] == [200] * len(daemons), address
        assert len({one.headers[SERVED_BY] for one in answers}) == len(daemons), "the proxy alternates"
        assert len({one.headers.get("ETag") for one in answers}) == 1, address
        return answers[0]

    places: list[tuple[str, Callable[[str], httpx.Response]]] = [(f"{base}/docs", from_each)]
    places += [(f"{one.url}/docs", httpx.get) for one in daemons]
    with proxied(PROXIES[proxy], tmp_path, port, daemons):
        for address, get in places:
            page = get(address)
            loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
            described = re.findall(r"url: '([^']+)'", page.text)
            assert len(loaded) >= 3
            assert len(described) == 1
            for path in loaded + described:
                assert get(urljoin(address, path)).status_code == 200, path
        description = from_each(f"{base}/openapi.json").json()
        assert [server["url"] for server in description["servers"]] == [base]
        for server in (*(one["url"] for one in description["servers"]), f"{base}/"):
            for me in ("/v3/me", "/v3//me"):
                mine = from_each(f"{server}{me}", **{"Session-id": daemons[0].token}).json()
                assert mine["user"]["id"] == 32593, (server, me)
        for url in (base, f"{base}/", f"{base}/v3", f"{base}/v3/"):
            with ScreenMeet(url, daemons[0].token) as sm:
                assert sm.request("GET", "/me")["user"]["id"] == 32593, url
        for one in daemons:
            made = one.make()
            assert made["urls"]["user"] == f"{base}/?{made['id']}"
            assert one.get("/discovery").json() == {}


@pytest.mark.parametrize("proxy", PROXIES)
def test_an_agent_signs_in_behind_a_proxy_that_removes_a_path(
    proxy: str, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}/tminus"
    daemon = start_daemon(server={"public_url": base}, signin={"receivers": [CALLBACK]})
    page = f"{base}/v3/auth/azure/goToAuth?receiver_url={quote(receiver_url(), safe='')}"
    headers = {**SAME_ORIGIN, "Origin": f"http://127.0.0.1:{port}"}
    with proxied(PROXIES[proxy], tmp_path, port, [daemon]), httpx.Client() as http:

        def submit(**fields: str) -> httpx.Response:
            # The form has no `action`: the browser sends it to the address of the page.
            return http.post(page, data={"key": key_of(http.get(page)), **fields}, headers=headers)

        redirected = redirect(submit(action="sign_in", token=daemon.token))
        assert Browser(daemon, instance="").exchange(redirected.code).status_code == 200
        out = submit(action="sign_out")
        assert urljoin(page, out.headers["Location"]) == page
        assert "Your token" in http.get(page).text
