"""The sign-in page in Debian's Chromium. A page of another origin opens it, as the original's client does."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import Daemon

CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or find_spec("playwright") is None or find_spec("axe_playwright_python") is None,
        reason="NOT TESTED IN A BROWSER: chromium, playwright or axe-playwright-python is not installed",
    ),
]

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
TIMEOUT = 30_000
"""Milliseconds after which an operation in the browser fails."""

DESK = """<!DOCTYPE html><title>Desk</title><button id="go">Sign in</button><script>
const intent = crypto.randomUUID().replaceAll('-', '');
const api = new URLSearchParams(location.search).get('api');
const receiver = encodeURIComponent(location.origin + '/cb.html?') + encodeURIComponent('&login_intent_token') + '=';
const address = `${api}/auth/azure/goToAuth?instance_url=*&receiver_url=${receiver}${intent}`;
document.getElementById('go').onclick = () => {
  window.popup = window.open(address, 'popup', 'width=500,height=700');
};
window.arrived = async (sent) => {
  window.sent = {...sent, same: sent.login_intent_token === intent};
  if (sent.success === 'true') {
    const answer = await fetch(`${api}/auth/azure/exchangeCode?code=${sent.code}&instance_url=*&state=`);
    window.me = await answer.json();
  }
  window.popup.close();
};
</script>"""

CALLBACK = """<!DOCTYPE html><title>Signing in</title><script>
window.opener.arrived(Object.fromEntries(new URLSearchParams(location.hash.slice(1))));
</script>"""

FRAME = """<!DOCTYPE html><title>Frame</title><iframe id="frame" width="500" height="500"></iframe><script>
document.getElementById('frame').src = new URLSearchParams(location.search).get('url');
</script>"""

FORGERY = """<!DOCTYPE html><title>Forgery</title>
<form method="post"><input name="action" value="sign_out"></form><script>
const form = document.querySelector('form');
form.action = new URLSearchParams(location.search).get('url');
form.submit();
</script>"""

FILES = {"/desk.html": DESK, "/cb.html": CALLBACK, "/frame.html": FRAME, "/forgery.html": FORGERY}


@contextmanager
def site() -> Iterator[str]:
    """Serve the pages of another site; yield its origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = FILES.get(self.path.partition("?")[0])
            self.send_response(200 if page else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write((page or "").encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        # For browsers, localhost is another site than 127.0.0.1, where the daemon is.
        yield f"http://localhost:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with import_module("playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def origin() -> Iterator[str]:
    with site() as one:
        yield one


@pytest.fixture
def daemon_for(start_daemon: StartDaemon, origin: str) -> Daemon:
    return start_daemon(
        server={"cors_origins": [origin]}, signin={"receivers": [f"{origin}/cb.html"]}, organization={"name": "Acme"}
    )


@contextmanager
def window(chromium: Any, *, blocks: str = "nothing", **options: Any) -> Iterator[Any]:
    """Open a window with a profile of its own; fail if a content security policy blocks anything except `blocks`."""
    context = chromium.new_context(**{"locale": "en-GB", **options})
    context.set_default_timeout(TIMEOUT)
    blocked: list[str] = []
    context.on("console", lambda line: blocked.append(line.text) if "Content Security Policy" in line.text else None)
    try:
        yield context.new_page()
        assert [line for line in blocked if blocks not in line] == []
    finally:
        context.close()


def pop_up(page: Any) -> Any:
    with page.expect_popup() as opened:
        page.click("#go")
    opened.value.wait_for_load_state()
    return opened.value


def test_a_page_of_another_origin_gets_an_agent_session(chromium: Any, daemon_for: Daemon, origin: str) -> None:
    daemon = daemon_for
    with window(chromium) as page:
        requests: list[str] = []
        page.context.on("request", lambda request: requests.append(request.url))
        page.goto(f"{origin}/desk.html?api={daemon.url}/v3")
        popup = pop_up(page)
        assert popup.title() == "Sign in to Acme"
        popup.get_by_label("Your token").fill("wrong")
        popup.keyboard.press("Enter")
        popup.wait_for_selector("[role=alert]")
        assert "wrong, expired or revoked" in popup.inner_text("[role=alert]")
        popup.keyboard.type(daemon.tokens["anna"])  # the field has the focus
        popup.keyboard.press("Enter")
        page.wait_for_function("window.me")

        assert page.evaluate("me.user.name") == "Anna Agent"
        assert page.evaluate("[sent.same, sent.success]") == [True, "true"]
        cookies = {one["name"]: one for one in page.context.cookies(daemon.url)}
        assert (cookies["tminus"]["httpOnly"], cookies["tminus"]["sameSite"]) == (True, "Lax")
        # The second time, one click is enough.
        page.evaluate("window.me = null")
        popup = pop_up(page)
        assert "Anna Agent" in popup.inner_text("main")
        popup.get_by_role("button", name="Continue").click()
        page.wait_for_function("window.me")
        assert page.evaluate("me.user.name") == "Anna Agent"
        assert {url.split("/")[2] for url in requests} == {origin.split("/")[2], daemon.url.split("/")[2]}


def test_a_page_of_another_origin_receives_a_cancellation(chromium: Any, daemon_for: Daemon, origin: str) -> None:
    with window(chromium) as page:
        page.goto(f"{origin}/desk.html?api={daemon_for.url}/v3")
        pop_up(page).get_by_role("link", name="Cancel").click()
        page.wait_for_function("window.sent")

        assert page.evaluate("[sent.same, sent.success, sent.code]") == [True, "false", None]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(360, 740), (1280, 800)], ids=["phone", "desktop"])
def test_every_state_of_the_page_is_accessible_and_fits(
    chromium: Any, daemon_for: Daemon, origin: str, size: tuple[int, int], scheme: str
) -> None:
    url = f"{daemon_for.url}/v3/auth/azure/goToAuth"
    listed = f"{url}?receiver_url={origin}/cb.html"
    axe = import_module("axe_playwright_python.base").AXE_FILE_PATH.read_text()
    options: dict[str, Any] = {
        "viewport": {"width": size[0], "height": size[1]},
        "color_scheme": scheme,
        "locale": "de-DE",
    }
    with window(chromium, **options) as page:

        def check(words: str) -> None:
            assert words in page.inner_text("h1")
            assert page.get_attribute("html", "lang") == "de"
            page.evaluate(axe)
            found = page.evaluate("axe.run().then(found => found.violations.map(one => one.id))")
            assert found == [], (words, found)
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

        page.goto(listed)
        check("Anmelden bei Acme")
        page.fill("#token", "falsch")
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=alert]")
        check("Anmelden bei Acme")
        page.goto(url)
        page.fill("#token", daemon_for.tokens["anna"])
        page.keyboard.press("Enter")
        page.wait_for_selector("button[value=sign_out_everywhere]")
        page.goto(listed)
        check("Sie sind bei Acme angemeldet")
        page.goto(f"{url}?receiver_url=https://evil.example.com/{'x' * 300}")
        check("können Sie sich nicht anmelden")


def test_the_page_works_without_scripts(chromium: Any, daemon_for: Daemon) -> None:
    with window(chromium, java_script_enabled=False) as page:
        page.goto(f"{daemon_for.url}/v3/auth/azure/goToAuth")
        page.fill("#token", daemon_for.tokens["anna"])
        page.click("button[value=sign_in]")
        page.wait_for_selector("button[value=sign_out]")
        page.click("button[value=sign_out]")
        page.wait_for_selector("#token")


def test_another_site_can_neither_frame_the_page_nor_send_its_form(
    chromium: Any, daemon_for: Daemon, origin: str
) -> None:
    url = f"{daemon_for.url}/v3/auth/azure/goToAuth"
    with window(chromium, blocks="frame-ancestors 'none'") as page:
        page.goto(url)
        page.fill("#token", daemon_for.tokens["anna"])
        page.click("button[value=sign_in]")
        page.wait_for_selector("button[value=sign_out]")

        with page.expect_response(url) as answered:
            page.goto(f"{origin}/forgery.html?url={url}")
        assert answered.value.status == 403
        with page.expect_response(url) as answered:
            page.goto(f"{origin}/frame.html?url={url}")
        assert answered.value.status == 403
        page.goto(url)
        assert "Anna Agent" in page.inner_text("main"), "the forged form did not sign the agent out"
