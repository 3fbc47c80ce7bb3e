"""Agents sign in on a page in the browser, and web pages exchange codes for agent sessions."""

import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from tests.acceptance.conftest import StartDaemon, shared
from tests.acceptance.daemons import Daemon, Section
from tests.acceptance.test_http_callers import refused
from tests.support.databases import KINDS
from tests.support.plain_http import NO_TLS
from tests.support.signin import CALLBACK, INTENT, SAME_ORIGIN, Browser, key_of, receiver_url, redirect, text_of
from tminus.api import browser_session
from tminus.pages import best_language

DESK = "https://desk.example.com"
OTHER = "https://other.example.com/cb"
SETTINGS: dict[str, Section] = {
    "signin": {"receivers": [CALLBACK, OTHER, "http://127.0.0.1:7001/cb", "http://[::1]:7001/cb"]},
    "server": {"cors_origins": [DESK, "https://other.example.com"]},
    "organization": {"name": "Acme & Söhne"},
}


@pytest.fixture(scope="module")
def desk() -> Iterator[Daemon]:
    """A daemon with receivers that the tests of this module share."""
    yield from shared(**SETTINGS)


@pytest.fixture(scope="module")
def pg_desk(pg_server: Any) -> Iterator[Daemon]:
    with pg_server.database(empty=True) as database:
        yield from shared(**SETTINGS, storage={"url": database.configured})


@pytest.fixture(params=KINDS)
def each_desk(request: pytest.FixtureRequest) -> Daemon:
    one: Daemon = request.getfixturevalue("desk" if request.param == "sqlite" else "pg_desk")
    return one


@pytest.fixture
def browser(desk: Daemon) -> Iterator[Browser]:
    one = Browser(desk)
    yield one
    one.http.close()


# --- the sequence of the original's client ----------------------------------------------------------------------------


def test_an_agent_signs_in_and_the_page_of_the_receiver_gets_an_agent_session(each_desk: Daemon) -> None:
    browser = Browser(each_desk)
    redirection = browser.sign_in("anna", receiver_url())

    assert redirection.page == f"{CALLBACK}?&login_intent_token={INTENT}"
    assert list(redirection.fragment) == ["code", "login_intent_token", "success"]
    assert (redirection.fragment["login_intent_token"], redirection.fragment["success"]) == (INTENT, "true")

    answer = browser.exchange(redirection.code)
    assert answer.headers["Access-Control-Allow-Origin"] == DESK
    me = answer.json()
    assert set(me) == {"session", "roles", "org", "user", "products"}
    assert me["user"]["name"] == "Anna Agent"
    by_token = each_desk.post("/auth/token/authWithToken", {"session_token": each_desk.tokens["anna"]}, by=None).json()
    assert me["session"].keys() == by_token["session"].keys()
    assert browser.me(me["session"]["id"]).json()["session"]["sid"] == me["session"]["sid"]


def test_the_requests_of_the_original_client_in_their_order(each_desk: Daemon) -> None:
    """Sign in, load the configuration, create, list, look up, poll, close and sign out, as its JavaScript does."""
    browser = Browser(each_desk)
    code = browser.code()
    with httpx.Client(
        base_url=f"{each_desk.url}/v3",
        headers={"Content-Type": "application/json", "client-app": "screenmeet-js-sdk", "Origin": DESK},
    ) as client:

        def call(method: str, path: str, body: Any = None) -> Any:
            preflight = client.options(
                path,
                headers={
                    "Access-Control-Request-Method": method,
                    "Access-Control-Request-Headers": "client-app,content-type,session-id",
                },
            )
            assert preflight.status_code == 200, preflight.text
            answer = client.request(method, path, json=body)
            assert answer.status_code == 200, answer.text
            assert answer.headers["Access-Control-Allow-Origin"] == DESK
            return answer.json()

        client.headers["Session-id"] = ""
        me = call("GET", f"/auth/azure/exchangeCode?code={code}&instance_url=*&state=")
        client.headers["Session-id"] = me["session"]["id"]
        organization = me["org"]["id"]
        assert call("GET", f"/organization/{organization}/remotewidgetconfig?")["widgetConfig"]["live"] is True
        assert call("GET", f"/organization/{organization}/cobrowsedeployments?")[0]["OrganizationId"] == organization
        made = call("POST", "/supportsessions", {"type": "support", "label": "My support session", "agentPrefs": {}})
        assert made["createdByAgentSession"]["clientApp"] == "screenmeet-js-sdk"
        rows = call("GET", "/supportsessions?limit=20&orderdir=DESC&orderby=createdAt&offset=0")["rows"]
        assert rows[0]["id"] == made["id"]
        assert call("GET", f"/supportsession/{made['id']}?")["status"] == "new"
        assert call("GET", f"/discovery?ids={made['id']}%2Cb") == {}
        assert call("GET", "/configuration/3?") == {}
        assert call("GET", "/me?")["user"]["name"] == "Anna Agent"
        assert call("DELETE", f"/supportsession/{made['id']}", {}) == {"success": True}
        assert call("GET", "/auth/signout?") == {"success": True}
        refused(client.get("/me?"), 401, 104401)


def test_an_agent_who_cancels_returns_without_a_code(browser: Browser) -> None:
    page = browser.open(receiver_url())
    link = re.search('<a class="button" href="([^"]*)">Cancel</a>', page.text)

    assert link
    target = link[1].replace("&amp;", "&")
    assert target == f"{CALLBACK}?&login_intent_token={INTENT}#login_intent_token={INTENT}&success=false"


def test_a_receiver_without_an_intent_token_gets_none(browser: Browser) -> None:
    redirection = browser.sign_in("anna", CALLBACK)

    assert (redirection.page, list(redirection.fragment)) == (CALLBACK, ["code", "success"])


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_needs_no_script_and_can_be_framed_by_no_site(browser: Browser) -> None:
    page = browser.open(receiver_url())

    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
    assert policy.pop("style-src").startswith("'sha256-")
    assert policy == {
        "default-src": "'none'", "base-uri": "'none'", "frame-ancestors": "'none'",
        "form-action": "'self' https://desk.example.com",
    }  # fmt: skip
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert len(page.headers.get_list("Content-Security-Policy")) == 1
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers.get_list("Referrer-Policy") == ["same-origin"]
    assert "Cross-Origin-Opener-Policy" not in page.headers, "the page that opened the window needs its answer"
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert not re.search(r"<script|http-equiv|\sstyle=|\son\w+=|<link|<img", page.text)


def test_the_form_may_lead_to_a_receiver_with_an_ipv6_address(browser: Browser) -> None:
    policy = browser.open("http://[::1]:7001/cb").headers["Content-Security-Policy"]

    assert policy.endswith("form-action 'self' http:")


def test_without_a_receiver_the_form_leads_nowhere_else(browser: Browser) -> None:
    assert browser.open().headers["Content-Security-Policy"].endswith("form-action 'self'")


@pytest.mark.parametrize(
    ("header", "language", "words"),
    [
        ("", "en", "Sign in to Acme & Söhne"),
        ("de-AT,de;q=0.9,en;q=0.8", "de", "Anmelden bei Acme & Söhne"),
        ("en;q=0.7, de;q=0.2", "en", "Sign in"),
        ("fr, de;q=0.5", "de", "Anmelden"),
        ("de;q=0, fr", "en", "Sign in"),
        ("*", "en", "Sign in"),
        ("de;q=x,,;;=", "en", "Sign in"),
        ("de," * 5000, "de", "Anmelden"),
    ],
)
def test_the_page_has_the_language_of_the_browser(browser: Browser, header: str, language: str, words: str) -> None:
    page = browser.open(receiver_url(), **{"Accept-Language": header})

    assert f'<html lang="{language}">' in page.text
    assert words in text_of(page)


def test_a_wrong_token_is_reported_on_the_page(browser: Browser) -> None:
    page = browser.submit(receiver_url(), action="sign_in", token="wrong")

    assert page.status_code == 403
    assert "This token is wrong, expired or revoked" in text_of(page)
    assert 'value="wrong"' not in page.text
    assert "tminus" not in browser.http.cookies
    for token in ("", "  ", browser.daemon.tokens["expired"], "x" * 5000, "\N{SNOWMAN}"):
        assert browser.submit(receiver_url(), action="sign_in", token=token).status_code == 403


def test_spaces_around_a_pasted_token_do_not_matter(browser: Browser) -> None:
    token = browser.daemon.tokens["anna"]

    assert redirect(browser.submit(receiver_url(), action="sign_in", token=f"  {token}\n")).code


# --- the session of the browser ---------------------------------------------------------------------------------------


def test_an_agent_who_is_signed_in_returns_with_one_click(browser: Browser) -> None:
    browser.sign_in("anna", receiver_url())
    page = browser.open(receiver_url())

    assert "You are signed in as Anna Agent" in text_of(page)
    assert "You return to https://desk.example.com" in text_of(page)
    assert 'type="password"' not in page.text
    again = redirect(browser.submit(receiver_url(), action="continue"))
    assert browser.exchange(again.code).json()["user"]["name"] == "Anna Agent"


def test_the_cookie_is_an_agent_session_that_scripts_cannot_read(browser: Browser) -> None:
    answer = browser.submit(action="sign_in", token=browser.daemon.tokens["anna"])

    assert (answer.status_code, answer.headers["Location"]) == (303, "goToAuth?instance_url=%2A")
    [cookie] = answer.headers.get_list("Set-Cookie")
    name, _, rest = cookie.partition("=")
    assert name == "tminus"
    assert rest.partition(";")[2] == " Path=/; HttpOnly; SameSite=Lax; Max-Age=3600"
    assert browser.me_by_cookie(rest.partition(";")[0]).json()["user"]["name"] == "Anna Agent"
    refused(browser.me(rest.partition(";")[0]), 401, 104401)  # the cookie is no token


def test_where_the_public_url_is_https_the_cookie_belongs_to_this_host_alone(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(server={"public_url": "https://support.example.com/meet"})
    browser = Browser(daemon)
    page = browser.open()
    [visitor] = page.headers.get_list("Set-Cookie")
    headers = {"Cookie": visitor.partition(";")[0], "Origin": "https://support.example.com", **SAME_ORIGIN}

    fields = {"key": key_of(page), "action": "sign_in", "token": daemon.tokens["anna"]}
    answer = httpx.post(browser.url(), data=fields, headers=headers)

    assert visitor.startswith("__Host-tminus-form=")
    [cookie] = answer.headers.get_list("Set-Cookie")
    assert re.fullmatch("__Host-tminus=[0-9A-Za-z]{32}; Path=/; HttpOnly; SameSite=Lax; Max-Age=3600; Secure", cookie)
    assert "Domain" not in cookie


def test_signing_out_ends_the_session_of_this_browser_only(browser: Browser) -> None:
    browser.sign_in("anna")
    secret = browser.http.cookies["tminus"]
    other = Browser(browser.daemon)
    other.sign_in("anna")

    assert redirect(browser.submit(action="sign_out")).location == "goToAuth?instance_url=%2A"
    assert "tminus" not in browser.http.cookies
    refused(browser.me_by_cookie(secret), 401, 104401)
    assert "Your token" in text_of(browser.open())
    assert "signed in as Anna" in text_of(other.open())
    line = browser.daemon.logged("auth.signed_out", actor="agent:7", via="page")
    assert line["sid"] > 0


def test_signing_out_everywhere_ends_all_agent_sessions_and_codes(each_desk: Daemon) -> None:
    browser, other, third = Browser(each_desk), Browser(each_desk), Browser(each_desk)
    for one in (browser, other):
        one.sign_in("ben")
    third.sign_in("anna")
    session = browser.secret(browser.code("ben"))
    pending = other.code("ben")
    by_token = each_desk.post("/auth/token/authWithToken", {"session_token": each_desk.tokens["ben"]}, by=None).json()

    redirect(browser.submit(action="sign_out_everywhere"))

    for secret in (session, by_token["session"]["id"]):
        refused(browser.me(secret), 401, 104401)
    assert "Your token" in text_of(other.open())
    refused(browser.exchange(pending), 400, 104400)
    assert "signed in as Anna" in text_of(third.open()), "other agents stay signed in"
    assert each_desk.get("/me", by="ben").status_code == 200, "the token stays valid"
    assert each_desk.logged("auth.signed_out_everywhere", actor="agent:8")["agent_sessions"] >= 4


def test_signing_in_ends_the_session_that_the_browser_had(browser: Browser) -> None:
    browser.sign_in("anna")
    before = browser.http.cookies["tminus"]
    browser.sign_in("ben")

    refused(browser.me_by_cookie(before), 401, 104401)
    assert "signed in as Ben" in text_of(browser.open())


def test_a_session_that_ended_elsewhere_is_not_continued(browser: Browser) -> None:
    browser.sign_in("anna")
    key = key_of(browser.open(receiver_url()))
    secret = browser.http.cookies["tminus"]
    own = {"Cookie": f"tminus={secret}", "X-CSRF-Token": key}
    assert browser.daemon.get("/auth/signout", by=None, headers=own).status_code == 200

    page = browser.http.post(browser.url(receiver_url()), data={"key": key, "action": "continue"}, headers=SAME_ORIGIN)

    assert page.status_code == 403
    assert "You are no longer signed in" in text_of(page)


def test_a_revoked_token_ends_the_session_of_the_browser_and_its_codes(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(**SETTINGS)
    browser = Browser(daemon)
    code = browser.code()
    config = daemon.config.read_text()
    anna = re.search(r'id = 7\n.*?token_sha256 = \["([0-9a-f]{64})"\]', config, re.DOTALL)
    assert anna

    daemon.config.write_text(config.replace(anna[1], "0" * 64))
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.reloaded")

    assert "Your token" in text_of(browser.open())
    refused(browser.exchange(code), 400, 104400)
    assert daemon.logged("auth.code_refused")["refusal"] == "revoked"


# --- codes ------------------------------------------------------------------------------------------------------------


def test_a_code_serves_once(each_desk: Daemon) -> None:
    browser = Browser(each_desk)
    code = browser.code()

    secret = browser.secret(code)
    refused(browser.exchange(code), 400, 104400)
    assert browser.me(secret).status_code == 200, "the second exchange does not end the agent session"


@pytest.mark.parametrize(
    "changed",
    [
        {"origin": "https://other.example.com"},
        {"provider": "sfdc"},
        {"instance_url": "https://acme.example.com"},
        {"instance_url": ""},
    ],
    ids=str,
)
def test_a_code_of_another_receiver_provider_or_instance_is_refused_and_ends(
    browser: Browser, changed: dict[str, Any]
) -> None:
    code = browser.code()

    refused(browser.exchange(code, **changed), 400, 104400)
    refused(browser.exchange(code), 400, 104400)
    browser.daemon.logged("auth.code_refused", refusal="foreign")


def test_a_page_that_may_not_call_the_api_cannot_exchange_a_code(browser: Browser) -> None:
    code = browser.code()
    url = f"{browser.daemon.url}/v3/auth/azure/exchangeCode?code={code}&instance_url=*"
    headers = {"Origin": "https://evil.example.com", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}

    refused(httpx.get(url, headers=headers), 403, 100403)
    assert browser.exchange(code).status_code == 200


def test_a_server_exchanges_the_code_that_its_page_got(browser: Browser) -> None:
    assert browser.exchange(browser.code(), origin=None).status_code == 200


def test_of_parallel_exchanges_of_a_code_exactly_one_succeeds(each_desk: Daemon) -> None:
    browser = Browser(each_desk)
    for _ in range(5):
        code, answers = browser.code(), list[int]()
        start = threading.Barrier(8)

        def exchange(code: str = code, answers: list[int] = answers, start: threading.Barrier = start) -> None:
            start.wait(20)
            answers.append(browser.exchange(code).status_code)

        threads = [threading.Thread(target=exchange) for _ in range(8)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(30)
        assert sorted(answers) == [200] + [400] * 7


def test_two_daemons_exchange_a_code_once(start_daemon: StartDaemon, sections: dict[str, Section]) -> None:
    one, two = (start_daemon(**{**SETTINGS, "storage": sections["storage"]}) for _ in range(2))
    here, there = Browser(one), Browser(two)
    for _ in range(5):
        code, answers = here.code(), list[int]()
        start = threading.Barrier(4)

        def exchange(
            browser: Browser, code: str = code, answers: list[int] = answers, start: threading.Barrier = start
        ) -> None:
            start.wait(20)
            answers.append(browser.exchange(code).status_code)

        threads = [threading.Thread(target=exchange, args=(browser,)) for browser in (here, there) * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(answers) == [200, 400, 400, 400]

    there.http.cookies.set("tminus", here.http.cookies["tminus"])
    assert "signed in as Anna" in text_of(there.open()), "a browser is signed in at every daemon"
    for daemon in (one, two):
        assert daemon.terminate() == 0


def test_codes_and_secrets_are_in_neither_the_database_nor_the_log(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(**SETTINGS)
    browser = Browser(daemon)
    pending = browser.code()
    used = browser.code()
    secret, cookie = browser.secret(used), browser.http.cookies["tminus"]
    browser.exchange("wrongcode1234567")
    key = key_of(browser.open(receiver_url()))
    assert daemon.terminate() == 0

    stored = b"".join(file.read_bytes() for file in daemon.state.iterdir() if file.is_file())
    stored += daemon.log.read_bytes()
    for one in (pending, used, secret, cookie, key, daemon.tokens["anna"], "wrongcode1234567", INTENT):
        assert one.encode() not in stored


@pytest.mark.parametrize("query", ["", "?code=", "?state=x", "?code=" + "x" * 256])
def test_an_exchange_needs_a_code(browser: Browser, query: str) -> None:
    refused(browser.daemon.get(f"/auth/azure/exchangeCode{query}", by=None), 400, 100400)


def test_signing_in_is_logged_and_counted_by_its_method(browser: Browser) -> None:
    code = browser.code("lister")
    browser.exchange(code)

    page = browser.daemon.logged("auth.signed_in", actor="agent:9", via="page")
    by_code = browser.daemon.logged("auth.signed_in", actor="agent:9", via="code")
    assert by_code["sid"] > page["sid"]
    metrics = httpx.get(f"{browser.daemon.url}/metrics", headers={"Session-id": browser.daemon.tokens["monitor"]}).text
    for via in ("page", "code"):
        assert re.search(rf'tminus_sign_ins_total{{via="{via}"}} [1-9]', metrics)


# --- attacks: receivers -----------------------------------------------------------------------------------------------

EVASIONS = [
    "https://evil.example.com/",
    "https://desk.example.com/",
    "https://desk.example.com/signed-in.html/",
    "https://desk.example.com/signed-in.html/../steal",
    "https://desk.example.com/x/../signed-in.html",
    "https://desk.example.com/%73igned-in.html",
    "https://desk.example.com//signed-in.html",
    "https://desk.example.com/SIGNED-IN.html",
    "https://DESK.example.com/signed-in.html",
    "HTTPS://desk.example.com/signed-in.html",
    "http://desk.example.com/signed-in.html",
    "https://desk.example.com:443/signed-in.html",
    "https://desk.example.com:8443/signed-in.html",
    "https://desk.example.com./signed-in.html",
    "https://desk.example.com@evil.example.com/signed-in.html",
    "https://evil.example.com@desk.example.com/signed-in.html",
    "https://user:pass@desk.example.com/signed-in.html",
    "https://evil.example.com\\@desk.example.com/signed-in.html",
    "https:\\\\desk.example.com\\signed-in.html",
    "https:/desk.example.com/signed-in.html",
    "//desk.example.com/signed-in.html",
    "/signed-in.html",
    "https://desk.example.com/signed-in.html;x",
    "https://desk.example.com/signed-in.html#x",
    "https://desk.example.com/signed-in.html#?x",
    "https://desk.example.com/signed-in.html?x#y",
    "https://desk.example.com/signed-in.html?x\r\nSet-Cookie: a=b",
    "https://desk.example.com/signed-in.html?x y",
    "https://desk.example.com/signed-in.html?\N{FULLWIDTH SOLIDUS}",
    "https://desk.example\N{IDEOGRAPHIC FULL STOP}com/signed-in.html",
    "https://de\N{SOFT HYPHEN}sk.example.com/signed-in.html",
    "https://d\N{CYRILLIC SMALL LETTER IE}sk.example.com/signed-in.html",
    " https://desk.example.com/signed-in.html",
    "https://desk.example.com/signed-in.html\t",
    "java\tscript:alert(1)",
    "javascript:alert(1)//https://desk.example.com/signed-in.html",
    "data:text/html,<script>alert(1)</script>",
    f"{CALLBACK}?login_intent_token={'x' * 257}",
    f"{CALLBACK}?{'x' * 2048}",
]


@pytest.mark.parametrize("receiver", EVASIONS)
def test_the_browser_goes_to_no_page_that_is_not_listed(browser: Browser, receiver: str) -> None:
    browser.sign_in("anna")
    key = key_of(browser.open())
    fields = {"key": key, "action": "continue", "token": browser.daemon.tokens["anna"]}
    pages = [browser.open(receiver)]
    for action in ("continue", "sign_in", "sign_out"):
        fields["action"] = action
        pages.append(browser.http.post(browser.url(receiver), data=fields, headers=SAME_ORIGIN))

    for page in pages:
        assert page.status_code == 400
        assert "Location" not in page.headers
        assert "Set-Cookie" not in page.headers
        assert "signin.receivers" in text_of(page)
        assert "href" not in page.text
        assert "<form" not in page.text


def test_the_page_for_an_unknown_receiver_and_the_log_name_it_and_the_key(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    page = Browser(daemon).open("https://crm.example.com/cb?&login_intent_token=verysecret")

    assert "https://crm.example.com/cb" in text_of(page)
    assert "signin.receivers" in text_of(page)
    assert "verysecret" not in page.text
    assert daemon.logged("auth.receiver_refused")["receiver"] == "https://crm.example.com/cb"


def test_the_last_of_several_receivers_counts_for_the_page_and_for_its_form(browser: Browser) -> None:
    twice = f"{browser.url(receiver_url())}&receiver_url={quote('https://evil.example.com/')}"

    assert browser.http.get(twice).status_code == 400
    assert browser.http.post(twice, data={}, headers=SAME_ORIGIN).status_code == 400


HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(1)'>"


def test_what_a_caller_controls_is_text_on_the_page(browser: Browser) -> None:
    odd = Browser(browser.daemon, provider=quote(HOSTILE.replace("/", ""), safe="")[:64], instance=HOSTILE)
    hostile = [
        odd.open(receiver_url()),
        odd.open(HOSTILE),
        odd.open(f"{CALLBACK}?{HOSTILE}"),
        odd.open(receiver_url(intent="a'b(c)")),
        odd.open("\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}https://x/"),
    ]

    assert hostile[0].status_code == 200
    for page in hostile:
        assert "<script" not in page.text
        assert "<img" not in page.text
        assert "\x1b" not in page.text
        assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page.text
    assert "login_intent_token=a&#39;b(c)" in hostile[3].text


def test_an_instance_or_provider_that_is_too_long_is_refused(browser: Browser) -> None:
    long = Browser(browser.daemon, instance="x" * 256)
    refused(long.open(receiver_url()), 400, 100400)
    long = Browser(browser.daemon, provider="x" * 65)
    refused(long.open(receiver_url()), 400, 100400)


# --- attacks: forged requests -----------------------------------------------------------------------------------------

FORGED = {
    "another site": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    "a page of a neighbouring host": {"Sec-Fetch-Site": "same-site", "Origin": "https://wiki.example.com"},
    "another origin": {"Origin": "https://evil.example.com"},
    "a sandboxed frame": {"Origin": "null"},
    "another port": {"Origin": "http://127.0.0.1:1"},
}


@pytest.mark.parametrize("headers", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("action", ["sign_in", "continue", "sign_out", "sign_out_everywhere"])
def test_a_form_that_another_page_sends_does_nothing(browser: Browser, action: str, headers: dict[str, str]) -> None:
    browser.sign_in("anna")
    secret = browser.http.cookies["tminus"]

    answer = browser.submit(receiver_url(), headers=headers, action=action, token=browser.daemon.tokens["ben"])

    assert answer.status_code == 403
    assert "Location" not in answer.headers
    assert browser.me_by_cookie(secret).json()["user"]["name"] == "Anna Agent"


@pytest.mark.parametrize("key", ["", "0" * 64, "\N{SNOWMAN}", "x" * 5000], ids=["none", "wrong", "odd", "long"])
def test_a_form_without_the_right_key_does_nothing(browser: Browser, key: str) -> None:
    browser.sign_in("anna")
    secret = browser.http.cookies["tminus"]
    for action in ("sign_in", "continue", "sign_out", "sign_out_everywhere"):
        page = browser.submit(receiver_url(), key=key, action=action, token=browser.daemon.tokens["ben"])
        assert (page.status_code, "Location" in page.headers) == (403, False)
    assert browser.me_by_cookie(secret).json()["user"]["name"] == "Anna Agent"
    browser.daemon.logged("auth.forgery_refused")


def test_nobody_is_signed_in_as_the_attacker(browser: Browser) -> None:
    """The attacker has a key of their own browser, and a token, but cannot set the victim's cookie."""
    attacker = Browser(browser.daemon)
    key = key_of(attacker.open())
    browser.open()

    page = browser.submit(key=key, action="sign_in", token=browser.daemon.tokens["ben"], headers={})

    assert page.status_code == 403
    assert "tminus" not in browser.http.cookies


def test_a_form_without_a_cookie_does_nothing_and_is_shown_again(browser: Browser) -> None:
    page = browser.open()
    fields = {"key": key_of(page), "action": "sign_in", "token": browser.daemon.tokens["anna"]}

    answer = httpx.post(browser.url(), data=fields, headers=SAME_ORIGIN)

    assert answer.status_code == 403
    assert "allow cookies" in text_of(answer)
    assert "tminus-form=" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "multipart/form-data; boundary=x"])
def test_a_body_that_is_no_form_does_nothing(browser: Browser, kind: str) -> None:
    browser.open()
    answer = browser.http.post(browser.url(), content=b"\xff{}", headers={"Content-Type": kind, **SAME_ORIGIN})

    assert answer.status_code == 403


@pytest.mark.parametrize(
    "body", [b"\xff=\xff", b"&" * 60_000, b"a=1&" * 20, b"key=%ff%00&action=%00", b"action=dance&key=1"]
)
def test_an_odd_form_does_nothing(browser: Browser, body: bytes) -> None:
    browser.open()
    headers = {"Content-Type": "application/x-www-form-urlencoded", **SAME_ORIGIN}

    assert browser.http.post(browser.url(), content=body, headers=headers).status_code == 403


def test_the_cookie_alone_authenticates_no_call_of_the_api(browser: Browser) -> None:
    browser.sign_in("anna")
    api = f"{browser.daemon.url}/v3"
    body = {"type": "live", "label": "Forged"}

    refused(browser.http.get(f"{api}/me"), 401, 104401)
    refused(browser.http.get(f"{api}/auth/signout"), 401, 104401)
    refused(browser.http.post(f"{api}/supportsessions", json=body), 401, 104401)
    refused(browser.http.post(f"{api}/supportsessions", json=body, headers={"X-CSRF-Token": "0" * 64}), 401, 104401)
    assert "signed in as Anna" in text_of(browser.open())


def test_the_cookie_with_its_key_authenticates_the_daemons_own_pages(browser: Browser) -> None:
    browser.sign_in("anna")
    api, key = f"{browser.daemon.url}/v3", {"X-CSRF-Token": key_of(browser.open())}

    me = browser.http.get(f"{api}/me", headers=key).json()
    assert (me["user"]["name"], me["session"]["id"]) == ("Anna Agent", ""), "scripts do not get the secret"
    made = browser.http.post(f"{api}/supportsessions", json={"type": "live", "label": "Mine"}, headers=key).json()
    assert made["createdByAgentSession"]["sid"] == me["session"]["sid"]
    for forged in FORGED.values():
        answer = browser.http.delete(f"{api}/supportsession/{made['id']}", headers={**key, **forged})
        assert answer.status_code in (401, 403)
    assert browser.http.delete(f"{api}/supportsession/{made['id']}", headers=key).json() == {"success": True}
    assert browser.http.get(f"{api}/auth/signout", headers=key).json() == {"success": True}
    refused(browser.http.get(f"{api}/me", headers=key), 401, 104401)


def test_pages_of_other_origins_may_not_send_the_key(browser: Browser) -> None:
    answer = httpx.options(
        f"{browser.daemon.url}/v3/supportsessions",
        headers={
            "Origin": DESK,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-csrf-token",
        },
    )

    assert answer.status_code == 400
    assert "Access-Control-Allow-Credentials" not in answer.headers


# --- attacks: guessing ------------------------------------------------------------------------------------------------


def test_guessing_on_the_page_and_by_codes_is_limited_as_for_tokens(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(**SETTINGS, limits={"failed_tokens": "4/hour"})
    browser = Browser(daemon)
    good = browser.code()
    for _ in range(2):
        assert browser.submit(action="sign_in", token="wrong").status_code == 403
    for guess in ("guess1", "guess2"):
        refused(browser.exchange(guess), 400, 104400)

    page = browser.submit(action="sign_in", token="wrong")
    assert page.status_code == 429
    assert "Too many wrong tokens" in text_of(page)
    assert int(page.headers["Retry-After"]) > 0
    refused(browser.exchange("guess3"), 429, 104429)
    refused(daemon.get("/me", by=None, headers={"Session-id": "wrong"}), 429, 104429)
    assert browser.exchange(good).status_code == 200, "a valid code is never refused because of the limit"
    assert browser.sign_in("anna", receiver_url()).code
    metrics = httpx.get(f"{daemon.url}/metrics", headers={"Session-id": daemon.tokens["monitor"]}).text
    assert 'tminus_guesses_total{kind="code",outcome="wrong"} 2.0' in metrics
    assert 'tminus_guesses_total{kind="code",outcome="limited"} 1.0' in metrics


# --- configuration ----------------------------------------------------------------------------------------------------


def test_a_wrong_receiver_is_reported_with_file_and_line(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    daemon.config.write_text('[signin]\nreceivers = ["https://a.example.com/cb",\n  "http://b.example.com/cb"]\n')

    checked = daemon.command("check")

    assert checked.returncode == 1
    assert f"{daemon.config}:2: signin.receivers" in checked.stdout + checked.stderr
    assert "must contain URLs with https; http is only for localhost" in checked.stdout + checked.stderr


def test_a_reload_changes_the_receivers(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    browser = Browser(daemon)
    assert browser.open(receiver_url()).status_code == 400

    daemon.configure(signin={"receivers": [CALLBACK]})
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.reloaded")

    assert browser.open(receiver_url()).status_code == 200


# --- attacks ----------------------------------------------------------------------------------------------------------


def test_a_header_of_many_blanks_does_not_hold_up_the_daemon() -> None:
    """The time to read the header grows in proportion to its length."""
    header = "a" + " " * 60_000 + "x"
    begun = time.process_time()
    assert best_language(header) == "en"
    assert best_language(",".join([f"a{' ' * 190}x"] * 300)) == "en"
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("way", ["token", "code"])
def test_an_agent_session_of_the_api_is_no_session_of_the_page(browser: Browser, way: str) -> None:
    token = {"session_token": browser.daemon.tokens["anna"]}
    by_token = browser.daemon.post("/auth/token/authWithToken", token, by=None).json()["session"]["id"]
    secret = by_token if way == "token" else browser.secret(browser.code())

    page = httpx.post(
        browser.url(receiver_url()),
        data={"key": browser_session.key_of(secret), "action": "continue"},
        headers={"Cookie": f"tminus={secret}", **SAME_ORIGIN},
    )

    assert (page.status_code, "Location" in page.headers) == (403, False)


@pytest.mark.parametrize("prefix", ["\x85", "\xa0", "\x1f", "\x0b"])
def test_a_sibling_host_cannot_plant_a_cookie_with_odd_blanks(start_daemon: StartDaemon, prefix: str) -> None:
    daemon = start_daemon(server={"public_url": "https://support.example.com"})
    with socket.create_connection((urlsplit(daemon.url).hostname, urlsplit(daemon.url).port), timeout=20) as raw:
        cookie = f"{prefix}__Host-tminus={'a' * 32}; {prefix}__Host-tminus-form={'b' * 32}"
        head = f"GET /v3/auth/x/goToAuth HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
        raw.sendall(head.encode("latin-1"))
        page = b""
        while part := raw.recv(65536):
            page += part
    if page.startswith(b"HTTP/1.1 200"):
        assert browser_session.key_of("b" * 32).encode() not in page
        assert b"__Host-tminus-form=" in page, "the daemon sets a new cookie"
    else:  # a header with control characters is refused
        assert page.startswith(b"HTTP/1.1 400")


def test_two_cookies_with_the_same_name_are_both_ignored(browser: Browser) -> None:
    browser.sign_in("anna")
    secret = browser.http.cookies["tminus"]

    page = httpx.get(browser.url(), headers={"Cookie": f"tminus={'a' * 32}; tminus={secret}"})

    assert "Your token" in text_of(page)


def test_a_page_without_tls_cannot_send_the_form_of_one_with_tls(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(server={"public_url": "https://support.example.com"})
    browser = Browser(daemon)
    page = browser.open()
    cookie = page.headers["Set-Cookie"].partition(";")[0]
    fields = {"key": key_of(page), "action": "sign_in", "token": daemon.tokens["anna"]}

    for scheme, code in (("http", 403), ("https", 303)):
        headers = {"Cookie": cookie, "Host": "support.example.com", "Origin": f"{scheme}://support.example.com"}
        assert httpx.post(browser.url(), data=fields, headers=headers).status_code == code


def test_head_does_not_use_up_a_code(browser: Browser) -> None:
    code = browser.code()
    path = f"{browser.daemon.url}/v3/auth/azure/exchangeCode?code={code}&instance_url=%2A"

    answer = httpx.head(path)

    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")
    assert browser.exchange(code).status_code == 200


def test_sign_out_everywhere_wins_against_a_return_at_the_same_time(each_desk: Daemon) -> None:
    for _ in range(10):
        browser = Browser(each_desk)
        browser.sign_in("ben")
        secret = browser.http.cookies["tminus"]
        headers = {"Cookie": f"tminus={secret}", **SAME_ORIGIN}

        def send(action: str, headers: dict[str, str] = headers, secret: str = secret) -> httpx.Response:
            fields = {"key": browser_session.key_of(secret), "action": action}
            address = browser.url(receiver_url())  # noqa: B023
            return httpx.post(address, data=fields, headers=headers, timeout=20, verify=NO_TLS)

        with ThreadPoolExecutor(4) as pool:
            out = pool.submit(send, "sign_out_everywhere")
            returns = list(pool.map(send, ["continue"] * 3))
            assert out.result().status_code == 303
        for answer in returns:
            if "code=" in answer.headers.get("Location", ""):
                refused(browser.exchange(redirect(answer).code), 400, 104400)


def test_a_code_for_a_receiver_that_was_removed_is_refused(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(**SETTINGS)
    browser = Browser(daemon)
    code = browser.code()
    daemon.configure(**{**SETTINGS, "signin": {"receivers": ["https://other.example.com/"]}})
    daemon.signal(signal.SIGHUP)
    daemon.logged("config.reloaded")

    refused(browser.exchange(code), 400, 104400)
