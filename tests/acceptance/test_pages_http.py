"""The page for people who were invited, as HTTP serves it. `test_pages.py` opens it in a browser."""

import re
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon
from tests.acceptance.test_behind_a_path import free_port, nginx, proxied
from tests.support.plain_http import NO_TLS

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def fetch(daemon: Daemon, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    return httpx.request(method, f"{daemon.url}{path}", headers={**BROWSER, **headers}, verify=NO_TLS)


@pytest.mark.parametrize(
    "path", ["/", "/?HUiUti", "/?HUiUti&utm_source=mail", "/123456", "/123-456", "/123%20456", "//"]
)
def test_every_form_of_a_link_shows_the_same_page(daemon: Daemon, path: str) -> None:
    page = fetch(daemon, path)

    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.content == fetch(daemon, "/").content
    assert page.headers["etag"] == fetch(daemon, "/").headers["etag"]


def test_the_page_keeps_scripts_frames_and_links_of_others_out(daemon: Daemon) -> None:
    headers = fetch(daemon, "/").headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))

    assert policy.pop("connect-src") == f"'self' {daemon.url.replace('http:', 'ws:')}"
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob:",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_has_the_language_of_the_browser(daemon: Daemon) -> None:
    german, english = fetch(daemon, "/", **{"Accept-Language": "de-AT,de;q=0.9"}), fetch(daemon, "/")

    assert '<html lang="de">' in german.text
    assert '<html lang="en">' in english.text
    assert (german.headers["content-language"], german.headers["vary"]) == ("de", "Accept-Language")
    assert german.headers["etag"] != english.headers["etag"]


def test_browsers_can_cache_the_page_and_its_files(daemon: Daemon) -> None:
    page = fetch(daemon, "/")
    again = fetch(daemon, "/", **{"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert page.headers["cache-control"] == "no-cache"
    for path in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        found = fetch(daemon, f"/{path}")
        assert found.status_code == 200
        assert found.headers["cache-control"] == "public, max-age=31536000, immutable"
        # During an upgrade, a page may request the file of another release. It gets this one, which is not cached.
        other = fetch(daemon, f"/{re.sub('[0-9a-f]{16}', '0' * 16, path)}")
        assert (other.content, other.headers["cache-control"]) == (found.content, "no-cache")
    assert fetch(daemon, "/assets/0/nothing.js").status_code == 404
    assert fetch(daemon, "/assets/0/..%2f__init__.py").status_code == 404


def test_the_page_can_only_be_read(daemon: Daemon) -> None:
    head = fetch(daemon, "/123456", "HEAD")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(fetch(daemon, "/").content))
    for method in ("POST", "PUT", "DELETE"):
        refused = fetch(daemon, "/", method)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/12345", "/1234567", "/nothing", "/123456.", "/HUiUti"])
def test_a_path_that_is_no_link_is_a_page_for_people_and_an_error_for_programs(daemon: Daemon, path: str) -> None:
    page = fetch(daemon, path)
    assert page.status_code == 404
    assert 'data-start="missing"' in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for accept in ("*/*", "application/json", "application/json, text/html;q=0.5"):
        error = httpx.get(f"{daemon.url}{path}", headers={"Accept": accept})
        assert (error.status_code, error.json()["refcode"]) == (404, 100404)
    assert fetch(daemon, "/v3/nothing").json()["refcode"] == 100404
    assert fetch(daemon, "/nothing", "POST").json()["refcode"] == 100404


def test_looking_at_the_page_of_a_pin_does_not_count_as_a_guess(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits={"pin_lookups": "3/hour"})
    for number in range(100000, 100020):
        assert fetch(daemon, f"/{number}").status_code == 200
    assert fetch(daemon, "/v3/support/100000/meta").status_code == 404


def test_the_log_has_no_pin_and_no_id_of_a_link(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    fetch(daemon, "/482913")
    fetch(daemon, "/?HUiUti")
    daemon.logged("http.anonymous")
    routes = [line.get("route") for line in daemon.log_lines() if line["event"] == "http.anonymous"]
    assert set(routes) <= {"/{pin:pin}", "/"}
    assert "482913" not in daemon.log_text
    assert "HUiUti" not in daemon.log_text


def test_the_configured_file_shows_the_page(start_daemon: StartDaemon) -> None:
    """The proxy removes `/viewer` from the path, and keeps the name of the file."""
    daemon = start_daemon(
        server={"host_url": "https://example.com/viewer/index.html", "user_url": "https://meet.example.org/join.php"}
    )
    for path in ("/index.html?HUiUti", "/join.php?123456"):
        page = httpx.get(f"{daemon.url}{path}")
        assert page.content == fetch(daemon, "/").content
    own = daemon.url.replace("http:", "ws:")
    allowed = f"connect-src 'self' {own} wss://example.com wss://meet.example.org;"
    assert allowed in page.headers["content-security-policy"]
    assert httpx.get(f"{daemon.url}/other.html").status_code == 404
    made = daemon.make(type="support")
    assert made["urls"]["user"] == f"https://meet.example.org/join.php?{made['pin']}"
    assert made["urls"]["host"].startswith(f"https://example.com/viewer/index.html?{made['id']}#host=")


def test_the_page_works_behind_a_proxy_that_removes_a_path(start_daemon: StartDaemon, tmp_path: Path) -> None:
    port = free_port()
    base = f"http://127.0.0.1:{port}/tminus"
    daemon = start_daemon(server={"public_url": base, "host_url": f"{base}/index.html"})
    made = daemon.make(type="support")
    with proxied(nginx, tmp_path, port, [daemon]):
        for link in made["urls"].values():
            page = httpx.get(link)
            assert page.status_code == 200
            for path in re.findall(r'(?:src|href)="([^"]+)"', page.text):
                assert httpx.get(urljoin(link.partition("#")[0], path)).status_code == 200, path
        assert made["urls"]["host"].startswith(f"{base}/index.html?{made['id']}#host=")


def test_check_notes_links_that_the_original_cannot_build(make_daemon: StartDaemon) -> None:
    for server, noted in (
        ({"public_url": "https://example.com"}, False),
        ({"public_url": "http://example.com"}, True),
        ({"public_url": "http://example.com", "user_url": "https://example.com/meet"}, False),
        ({}, False),
    ):
        checked = make_daemon(server=server).command("check")
        assert checked.returncode == 0
        assert ("note: server.public_url begins with http:" in checked.stdout) == noted, server
