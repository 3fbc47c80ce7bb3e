"""Agents sign in by OpenID Connect at a provider of another project: `oidc-provider` from npm."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from playwright.sync_api import sync_playwright

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.support import browsers
from tests.support.databases import KINDS, PostgresServer
from tests.support.oidc import CLIENT_SECRET, MISSING, Provider, Visitor, free_port, provider, signing_key, use_issuer
from tests.support.rooms import Person
from tests.support.signin import CALLBACK, INTENT, receiver_url, redirect, text_of
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

FIRST = 2_000_000_000


@dataclass
class Desk:
    """A daemon, and the provider at which its agents sign in."""

    daemon: Daemon
    provider: Provider

    def visitor(self) -> Visitor:
        return Visitor(self.daemon)

    def agents(self) -> dict[str, JSON]:
        """Return the agents who are not in the configuration, by their subject."""
        found = self.daemon.get(f"/agents?after={FIRST - 1}&limit=1000").json()["agents"]
        return {one["subject"]: one for one in found}


@contextlib.contextmanager
def desk_with(start: Any, **sections: Any) -> Iterator[Desk]:
    port = free_port()
    with provider([f"http://127.0.0.1:{port}/v3/auth/oidc/callback"]) as issuer:
        daemon = start(server={"listen": f"127.0.0.1:{port}"}, signin={"receivers": [CALLBACK]}, **sections)
        use_issuer(daemon, issuer.issuer)
        daemon.restart()
        yield Desk(daemon, issuer)
        daemon.terminate()


@pytest.fixture(params=KINDS)
def each(request: pytest.FixtureRequest, start_daemon: StartDaemon, pg_server: PostgresServer) -> Iterator[Desk]:
    with contextlib.ExitStack() as stack:
        sections: dict[str, Any] = {}
        if request.param != "sqlite":
            sections["storage"] = {"url": stack.enter_context(pg_server.database(empty=True)).configured}
        yield stack.enter_context(desk_with(start_daemon, **sections))


@pytest.fixture
def desk(start_daemon: StartDaemon) -> Iterator[Desk]:
    with desk_with(start_daemon) as one:
        yield one


def reload(daemon: Daemon) -> None:
    before = len(daemon.log_lines("config.reloaded"))
    daemon.signal(signal.SIGHUP)
    eventually(lambda: len(daemon.log_lines("config.reloaded")) > before)


def refused(answer: httpx.Response, text: str, status: int = 403) -> None:
    assert answer.status_code == status, (answer.status_code, text_of(answer))
    assert text in text_of(answer)
    assert "tminus=" not in answer.headers.get("Set-Cookie", "")


# --- signing in -------------------------------------------------------------------------------------------------------


def test_somebody_who_is_not_configured_gets_a_number_that_stays(each: Desk) -> None:
    olga = each.visitor()
    answer = olga.sign_in("olga")
    assert redirect(answer).location == "../azure/goToAuth"
    assert "Olga Oidc" in text_of(olga.http.get(olga.page()))
    me = olga.me().json()
    assert (me["user"]["id"], me["user"]["name"]) == (FIRST, "Olga Oidc")
    assert me["roles"] == {"api": False, "agent": True, "supervisor": False, "group_admin": False}
    each.visitor().sign_in("lea")
    again = each.visitor()
    again.sign_in("olga")
    assert again.me().json()["user"]["id"] == FIRST
    found = each.agents()
    assert {subject: (one["id"], one["roles"], one["source"]) for subject, one in found.items()} == {
        "olga": (FIRST, ["agent"], "oidc"),
        "lea": (FIRST + 1, ["supervisor"], "oidc"),
    }
    assert found["olga"]["issuer"] == each.provider.issuer
    assert found["olga"]["signedInAt"]
    each.daemon.restart()
    later = each.visitor()
    later.sign_in("olga")
    assert later.me().json()["user"]["id"] == FIRST
    assert "Olga Oidc" in each.daemon.command("agents").stdout
    each.daemon.logged("auth.signed_in", via="oidc", actor=f"agent:{FIRST}")


def test_the_page_of_a_receiver_gets_an_agent_session(each: Desk) -> None:
    olga = each.visitor()
    answer = olga.sign_in("olga", instance_url="*", receiver_url=receiver_url())
    redirected = redirect(answer)
    assert redirected.page == f"{CALLBACK}?&login_intent_token={INTENT}"
    assert (redirected.fragment["login_intent_token"], redirected.fragment["success"]) == (INTENT, "true")
    exchanged = httpx.get(
        f"{each.daemon.url}/v3/auth/azure/exchangeCode",
        params={"code": redirected.code, "instance_url": "*"},
        headers={"Origin": "https://desk.example.com"},
    )
    secret = exchanged.json()["session"]["id"]
    headers = {"Session-id": secret}
    made = each.daemon.post("/supportsessions", {"type": "live", "label": "Mine"}, by=None, headers=headers)
    assert (made.status_code, made.json()["ExternalUserId"]) == (200, FIRST)
    created = each.daemon.events(made.json()["id"])[0]
    assert created["actor"] == f"agent:{FIRST}"
    # Signing out works as with a token.
    assert each.daemon.get("/auth/signout", by=None, headers=headers).status_code == 200
    assert each.daemon.get("/me", by=None, headers=headers).status_code == 401
    assert olga.me().status_code == 200


def test_a_sign_in_leads_back_to_the_agents_page_and_to_no_other_address(desk: Desk) -> None:
    answer = desk.visitor().sign_in("olga", back="agent")
    assert redirect(answer).location == "../../../agent"
    for foreign in ("https://evil.example/", "//evil.example", "/\\evil.example", "agent@evil.example"):
        answer = desk.visitor().sign_in("olga", back=foreign)
        assert redirect(answer).location == "../azure/goToAuth"


def test_the_claim_finds_a_configured_agent_with_the_roles_of_the_configuration(desk: Desk) -> None:
    anna = desk.visitor()
    anna.sign_in("aagent")  # the external_id of agent 7
    me = anna.me().json()
    assert (me["user"]["id"], me["user"]["name"]) == (7, "Anna Agent")
    assert me["roles"]["supervisor"] is False
    assert not desk.agents()
    # The claim `email` finds the agent only if the issuer has verified the address.
    use_issuer(desk.daemon, desk.provider.issuer, agent_claim="email")
    reload(desk.daemon)
    by_address = desk.visitor()
    by_address.sign_in("aagent")
    assert by_address.me().json()["user"]["id"] == 7
    refused(desk.visitor().sign_in("fake"), "no group of yours")


def test_roles_follow_the_groups_at_each_sign_in(desk: Desk) -> None:
    refused(desk.visitor().sign_in("sam"), "no group of yours")
    assert not desk.agents()  # an account without a role gets no id
    olga, again = desk.visitor(), desk.visitor()
    olga.sign_in("olga")
    desk.provider.stop()
    desk.provider.accounts["olga"]["groups"] = ["leads", "support"]
    desk.provider.start()
    again.sign_in("olga")
    for one in (olga, again):
        assert one.me().json()["roles"]["supervisor"] is True
    desk.provider.stop()
    desk.provider.accounts["olga"]["groups"] = []
    desk.provider.start()
    refused(desk.visitor().sign_in("olga"), "no group of yours")
    for one in (olga, again):
        assert one.me().status_code == 401
    assert desk.agents()["olga"]["roles"] == []


@pytest.mark.parametrize("method", ["client_secret_post", "client_secret_basic"])
def test_each_way_to_authenticate_the_client_works(method: str, desk: Desk) -> None:
    desk.provider.stop()
    desk.provider.start(methods=[method])
    assert desk.visitor().sign_in("olga").status_code == 303


# --- shutting out -----------------------------------------------------------------------------------------------------


def test_shutting_out_ends_the_browser_session_and_the_rooms_and_refuses_the_next_sign_in(each: Desk) -> None:
    olga = each.visitor()
    olga.sign_in("olga")
    cookie = olga.session()
    from tminus.api import browser_session

    headers = {"Cookie": f"tminus={cookie}", "X-CSRF-Token": browser_session.key_of(cookie)}
    made = each.daemon.post("/supportsessions", {"type": "live", "label": "Mine"}, by=None, headers=headers).json()
    host = Person(each.daemon.url, made)
    try:
        host.host("Olga")
        done = each.daemon.command("agents", "shut-out", f"{FIRST}")
        assert done.stdout == f"agent {FIRST} (Olga Oidc) is shut out\n"
        assert host.wait_for_end() == 4403
        assert host.last == {"type": "removed", "reason": "revoked"}
    finally:
        host.close()
    assert olga.me().status_code == 401
    refused(each.visitor().sign_in("olga"), "Your account is shut out")
    each.daemon.command("agents", "readmit", f"{FIRST}")
    again = each.visitor()
    again.sign_in("olga")
    assert again.me().json()["user"]["id"] == FIRST


def test_without_the_issuer_nobody_is_signed_in_by_it_any_more(desk: Desk) -> None:
    olga = desk.visitor()
    olga.sign_in("olga")
    assert olga.me().status_code == 200
    text = desk.daemon.config.read_text()
    desk.daemon.config.write_text(text.replace(desk.provider.issuer, ""))
    reload(desk.daemon)
    assert olga.me().status_code == 401
    assert "organization's account" not in text_of(olga.http.get(olga.page()))
    desk.daemon.config.write_text(text)
    reload(desk.daemon)
    assert olga.me().status_code == 200


# --- attacks and faults with the real provider ------------------------------------------------------------------------


def test_a_code_serves_once_and_a_foreign_state_never(desk: Desk) -> None:
    olga, eve = desk.visitor(), desk.visitor()
    callback = olga.callback(olga.begin(), "olga")
    # Eve's browser cannot use Olga's callback URL, before or after Eve has begun a sign-in of her own.
    refused(eve.http.get(callback), "did not begin in this browser")
    eve.begin()
    refused(eve.http.get(callback), "did not begin in this browser")
    cookie = olga.http.cookies["tminus-oidc"]
    assert olga.http.get(callback).status_code == 303
    refused(desk.visitor().http.get(callback), "did not begin in this browser")
    # With the cookie that the daemon has removed, the attempt is valid again, but the provider refuses the used code.
    again = desk.visitor()
    again.http.cookies.set("tminus-oidc", cookie)
    refused(again.http.get(callback), "could not be signed in safely")
    desk.daemon.logged("auth.oidc_refused", refusal="code")


def test_somebody_else_cannot_be_signed_in_to_an_attackers_account(desk: Desk) -> None:
    """Login CSRF: the victim's browser, which has begun a sign-in of its own, opens the attacker's callback URL."""
    attacker, victim = desk.visitor(), desk.visitor()
    callback = attacker.callback(attacker.begin(), "lea")
    victim.begin()
    refused(victim.http.get(callback), "did not begin in this browser")
    assert not victim.session()


def test_the_page_reports_that_the_person_has_declined(desk: Desk) -> None:
    olga = desk.visitor()
    state = dict(parse_qsl(urlsplit(olga.begin()).query))["state"]
    answer = olga.http.get(f"{desk.daemon.url}/v3/auth/oidc/callback?error=access_denied&state={state}")
    refused(answer, "cancelled or refused")
    assert 'action="../azure/goToAuth"' in answer.text
    # A second attempt works: relative to the callback, the action of the form is the sign-in page.
    assert olga.sign_in("olga").status_code == 303


def test_a_head_request_does_not_use_up_the_code(desk: Desk) -> None:
    olga = desk.visitor()
    callback = olga.callback(olga.begin(), "olga")
    assert olga.http.head(callback).status_code == 405
    assert olga.http.get(callback).status_code == 303


def test_rotated_keys_are_fetched_again(desk: Desk) -> None:
    assert desk.visitor().sign_in("olga").status_code == 303
    desk.provider.stop()
    desk.provider.keys = [signing_key("second")]
    desk.provider.start()
    assert desk.visitor().sign_in("olga").status_code == 303


def test_an_issuer_that_is_down_is_reported_on_the_page_and_logged_and_tokens_still_work(desk: Desk) -> None:
    desk.provider.stop()
    olga = desk.visitor()
    refused(olga.leave(), "does not answer as it should", 503)
    line = desk.daemon.logged("auth.oidc_refused", refusal="issuer")
    assert "openid-configuration" in line["error"]
    assert desk.daemon.get("/me", by="anna").status_code == 200
    desk.provider.start()
    eventually(lambda: desk.visitor().leave().status_code == 200, deadline=30)
    assert desk.visitor().sign_in("olga").status_code == 303


def test_no_secret_is_in_the_log_or_the_database(desk: Desk) -> None:
    olga = desk.visitor()
    at_issuer = olga.begin()
    cookie = olga.http.cookies["tminus-oidc"]
    callback = olga.callback(at_issuer, "olga")
    assert olga.http.get(callback).status_code == 303
    query = dict(parse_qsl(urlsplit(callback).query))
    parameters = dict(parse_qsl(urlsplit(at_issuer).query))
    assert set(parameters) == {
        "response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge",
        "code_challenge_method",
    }  # fmt: skip
    assert parameters["code_challenge_method"] == "S256"
    desk.daemon.logged("auth.signed_in", via="oidc")
    desk.daemon.terminate()
    stored = desk.daemon.log.read_bytes() + desk.daemon.errors.read_bytes()
    stored += b"".join(file.read_bytes() for file in desk.daemon.state.iterdir() if file.is_file())
    for secret in (CLIENT_SECRET, query["code"], query["state"], parameters["nonce"], cookie, olga.session()):
        assert secret.encode() not in stored


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(browsers.CHROMIUM is None, reason=browsers.MISSING)
def test_a_real_browser_signs_in(desk: Desk) -> None:
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browsers.CHROMIUM, args=["--no-sandbox"])
        try:
            page = chromium.new_page()
            problems: list[str] = []
            page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
            page.goto(desk.visitor().page())
            page.get_by_role("button", name="Sign in with your organization's account").click()
            page.wait_for_url(f"{desk.provider.issuer}/interaction/**")
            # Ignore other errors: the provider's page requests a font that does not exist.
            assert not [problem for problem in problems if "Content Security Policy" in problem]
            page.locator("[name=login]").fill("olga")
            page.locator("[name=password]").fill("any")
            page.locator("[type=submit]").click()
            page.get_by_text("Authorize").wait_for()
            page.locator("[type=submit]").click()
            page.get_by_text("You are signed in as").wait_for()
            assert page.get_by_text("Olga Oidc").is_visible()
            page.get_by_role("button", name="Sign out", exact=True).click()
            # The second time, the provider recognizes the browser by its cookie, and shows no form.
            page.get_by_role("button", name="Sign in with your organization's account").click()
            page.get_by_text("Olga Oidc").wait_for()
            page.get_by_role("button", name="Sign out", exact=True).click()
            page.get_by_role("button", name="Sign in with your organization's account").wait_for()
            # A sign-in that begins at the agents' page ends there.
            page.goto(f"{desk.daemon.url}/agent")
            page.get_by_role("button", name="Sign in with your organization's account").click()
            page.wait_for_url(f"{desk.daemon.url}/agent")
            page.locator('[data-field="agent"]', has_text="Olga Oidc").wait_for()
        finally:
            chromium.close()
