"""The documentation page, the OpenAPI document and calls behind a real nginx that removes a path prefix."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urljoin

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.support.signin import CALLBACK, SAME_ORIGIN, Browser, key_of, receiver_url, redirect
from tests.support.waiting import eventually
from tminus.client import ScreenMeet

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


@contextmanager
def nginx(folder: Path, port: int, upstream: str) -> Iterator[None]:
    """Serve `/tminus/` on this port from the upstream's root, until the block ends."""
    config = folder / "nginx.conf"
    config.write_text(
        f"pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; daemon off; events {{}}\n"
        f"http {{ access_log off; merge_slashes off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;\n"
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f"map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}\n"
        f"server {{ listen 127.0.0.1:{port};\n"
        f"location /tminus/ {{ proxy_pass {upstream}/; proxy_set_header Host $http_host; proxy_http_version 1.1;\n"
        f"proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade; }} }} }}\n"
    )
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-e", f"{folder}/error.log", "-c", config, "-p", folder])
    try:
        eventually(lambda: _listens(port))
        yield
    finally:
        process.terminate()
        process.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(NGINX is None, reason="NOT TESTED BEHIND A PROXY: nginx is not installed")
def test_the_page_and_the_description_work_behind_a_proxy_that_removes_a_path(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}/tminus"
    daemon = start_daemon(server={"public_url": f"{base}/"})
    with nginx(tmp_path, port, daemon.url):
        for address in (f"{base}/docs", f"{daemon.url}/docs"):
            page = httpx.get(address)
            loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
            described = re.findall(r"url: '([^']+)'", page.text)
            assert len(loaded) >= 3
            assert len(described) == 1
            for path in loaded + described:
                answer = httpx.get(urljoin(address, path))
                assert answer.status_code == 200, path
        description = httpx.get(f"{base}/openapi.json").json()
        assert [server["url"] for server in description["servers"]] == [base]
        for server in (*(one["url"] for one in description["servers"]), f"{base}/"):
            mine = httpx.get(f"{server}/v3/me", headers={"Session-id": daemon.token})
            assert mine.status_code == 200, server
        for url in (base, f"{base}/", f"{base}/v3", f"{base}/v3/"):
            with ScreenMeet(url, daemon.token) as sm:
                assert sm.request("GET", "/me")["user"]["id"] == 32593, url
        made = daemon.make()
        assert made["urls"]["user"] == f"{base}/?{made['id']}"
        assert daemon.get("/discovery").json() == {}


@pytest.mark.skipif(NGINX is None, reason="NOT TESTED BEHIND A PROXY: nginx is not installed")
def test_an_agent_signs_in_behind_a_proxy_that_removes_a_path(start_daemon: StartDaemon, tmp_path: Path) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}/tminus"
    daemon = start_daemon(server={"public_url": base}, signin={"receivers": [CALLBACK]})
    page = f"{base}/v3/auth/azure/goToAuth?receiver_url={quote(receiver_url(), safe='')}"
    headers = {**SAME_ORIGIN, "Origin": f"http://127.0.0.1:{port}"}
    with nginx(tmp_path, port, daemon.url), httpx.Client() as http:

        def submit(**fields: str) -> httpx.Response:
            # The form has no `action`: the browser sends it to the address of the page.
            return http.post(page, data={"key": key_of(http.get(page)), **fields}, headers=headers)

        redirected = redirect(submit(action="sign_in", token=daemon.token))
        assert Browser(daemon, instance="").exchange(redirected.code).status_code == 200
        out = submit(action="sign_out")
        assert urljoin(page, out.headers["Location"]) == page
        assert "Your token" in http.get(page).text
