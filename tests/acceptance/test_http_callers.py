"""Authentication of callers, and the limits on wrong tokens and PINs.

Most tests use SQLite only: tokens are in the configuration, and the daemon counts attempts in memory. Tests in which
requests arrive during a look-up in the database run on both databases; so do the tests of permissions, in
test_rights.py.
"""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import pytest

from tests.acceptance.conftest import StartDaemon
from tests.acceptance.daemons import JSON, Daemon
from tests.acceptance.times import from_now, parsed


def refused(answer: Any, code: int, refcode: int) -> str:
    """Check that a response is an error in the common format; return its description."""
    assert answer.status_code == code, answer.text
    body = answer.json()
    assert (body["code"], body["refcode"]) == (code, refcode)
    assert set(body) == {"code", "refcode", "description", "errors"}
    description: str = body["description"]
    return description


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Session-id": "nobodys-token"},
        {"Session-id": ""},
        {"Authorization": "Bearer nobodys-token"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer"},
    ],
    ids=str,
)
def test_without_a_valid_token_every_call_is_401(daemon: Daemon, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/me"), ("POST", "/supportsessions"), ("DELETE", "/supportsession/x")):
        answer = daemon.call(method, path, by=None, headers=headers)
        assert "token" in refused(answer, 401, 104401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_an_expired_token_is_401(daemon: Daemon) -> None:
    refused(daemon.get("/me", by="expired"), 401, 104401)
    answer = daemon.post("/auth/token/authWithToken", {"session_token": daemon.tokens["expired"]}, by=None)
    refused(answer, 401, 104401)


def test_a_token_becomes_an_agent_session_of_one_hour(daemon: Daemon) -> None:
    answer = daemon.post(
        "/auth/token/authWithToken",
        {"session_token": daemon.tokens["anna"]},
        by=None,
        headers={"client-app": "desk", "User-Agent": "Browser/1"},
    )
    assert answer.status_code == 200
    me = answer.json()
    assert set(me) == {"session", "roles", "org", "user", "products"}
    begun = me["session"]
    assert (parsed(begun["expiresAt"]) - parsed(begun["startedAt"])).total_seconds() == 3600
    assert (begun["clientApp"], begun["userAgent"], begun["ExternalUserId"]) == ("desk", "Browser/1", 7)
    assert begun["sid"] > 0
    assert me["roles"] == {"api": True, "agent": True, "supervisor": False, "group_admin": False}
    assert me["user"] == {"name": "Anna Agent", "email": "anna@example.com", "externalId": "aagent", "id": 7}

    headers = {"Session-id": begun["id"]}
    assert begun["CustomerId"] == me["org"]["CustomerId"] == me["org"]["id"]
    assert begun["createdAt"] == begun["startedAt"] <= begun["lastActiveAt"] == begun["updatedAt"]
    later = daemon.get("/me", by=None, headers=headers).json()
    moved = {name: later["session"].pop(name) for name in ("lastActiveAt", "updatedAt")}
    assert all(begun.pop(name) <= instant for name, instant in moved.items())
    assert later == me
    made = daemon.post("/supportsessions", {"type": "live", "label": "A"}, by=None, headers=headers).json()
    assert made["createdByAgentSession"]["sid"] == begun["sid"]
    assert begun["id"] not in str(made)

    assert daemon.get("/auth/signout", by=None, headers=headers).json() == {"success": True}
    refused(daemon.get("/me", by=None, headers=headers), 401, 104401)
    assert daemon.get("/me", by="anna").status_code == 200, "the token itself stays valid"


def test_a_wrong_token_starts_no_agent_session(daemon: Daemon) -> None:
    refused(daemon.post("/auth/token/authWithToken", {"session_token": "wrong"}, by=None), 401, 104401)
    refused(daemon.post("/auth/token/authWithToken", {}, by=None), 400, 100400)


def test_products_list_the_preferences_that_the_agent_may_choose(start_daemon: StartDaemon) -> None:
    viewer = "https://integration.example.com/viewer/index.html"
    daemon = start_daemon(
        policy={"recording": "always", "audio": "agent"},
        organization={"id": 1336, "name": "Acme"},
        server={"user_url": "https://meet.example.com/support/", "host_url": viewer},
    )
    me = daemon.get("/me", by="anna").json()
    assert me["products"] == {
        "support": {"record": False, "prerequestrc": True, "prerequestadmin": True},
        "cobrowse": {"record": False},
        "live": {"record": False, "knock": True, "audio": True},
        "replay": {},
        "beam": {},
    }
    assert me["org"]["id"] == me["session"]["OrganizationId"] == 1336
    assert me["org"]["name"] == "Acme"
    made = daemon.make(agentPrefs={"record": False, "audio": True})
    assert made["OrganizationId"] == 1336
    assert made["settings"]["recording"] is True
    assert made["settings"]["audio"] is True
    widget = daemon.get("/organization/1336/remotewidgetconfig?").json()["widgetConfig"]
    assert widget["vanity_url"] == "https://meet.example.com/support"
    assert made["urls"]["user"] == f"{widget['live_url']}?{made['id']}" == f"{widget['vanity_url']}/?{made['id']}"
    assert made["urls"]["host"].startswith(f"{viewer}?{made['id']}#host=")
    support = daemon.make(type="support")
    assert support["urls"]["user"] == f"{widget['activation_base_url']}{support['pin']}"
    assert support["urls"]["host"].startswith(f"{widget['viewer_base_url']}?{support['id']}#host=")
    deployments = daemon.get("/organization/1336/cobrowsedeployments").json()
    assert [one["OrganizationId"] for one in deployments] == [1336]
    assert [one["entrypoint"] for one in deployments] == ["meet.example.com/support/"]
    assert all(parsed(one["createdAt"]) <= parsed(one["updatedAt"]) for one in deployments)
    refused(daemon.get("/organization/1/remotewidgetconfig"), 404, 106404)
    refused(daemon.get("/organization/1/cobrowsedeployments"), 404, 106404)
    refused(daemon.get("/organization/one/cobrowsedeployments"), 400, 100400)


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_a_monitor_sees_no_secret(daemon: Daemon) -> None:
    session = daemon.make(by="anna", type="support")
    secrets = (session["hostAuthToken"], session["urls"]["host"].partition("#host=")[2], str(session["pin"]))
    one = f"/supportsession/{session['id']}"
    # Search only the row of this session: the sessions of other tests may contain anything.
    seen = daemon.get(one, by="monitor")
    rows = daemon.get("/supportsessions?scope=all&limit=1000", by="monitor").json()["rows"]
    in_list = next(row for row in rows if row["id"] == session["id"])
    for text in (seen.text, str(in_list), daemon.get(f"{one}/events", by="monitor").text):
        for secret in secrets:
            assert secret not in text
    assert "hostAuthToken" not in seen.json()
    assert seen.json()["pin"] == 0
    assert set(seen.json()["urls"]) == {"user"}
    for row in rows:
        assert "hostAuthToken" not in row
    for by in ("anna", "supervisor", "admin"):
        assert daemon.session(session["id"], by=by)["hostAuthToken"] == secrets[0]


def test_histories_contain_no_secret(daemon: Daemon) -> None:
    session = daemon.make(by="anna", type="support", startTime=from_now(minutes=1))
    daemon.join(session["id"])
    daemon.delete(f"/supportsession/{session['id']}")
    text = daemon.get(f"/supportsession/{session['id']}/events").text
    assert session["hostAuthToken"] not in text
    assert session["urls"]["host"].partition("#host=")[2] not in text
    assert not re.search(rf"\b{session['pin']}\b", text)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_guessing_pins_and_tokens_is_limited(start_daemon: StartDaemon) -> None:
    """Each address has its own limit; `X-Forwarded-For` is used because the proxy is trusted."""
    daemon = start_daemon(
        limits={"pin_lookups": "5/minute", "failed_tokens": "4/minute", "sessions_per_agent": 3},
        server={"trusted_proxies": ["127.0.0.1"]},
    )

    def look_up(address: str) -> Any:
        return daemon.get("/support/123456/meta", by=None, headers={"X-Forwarded-For": address})

    assert [look_up("192.0.2.1").status_code for _ in range(7)] == [404] * 5 + [400] * 2
    limited = look_up("192.0.2.1")
    assert "PIN" in refused(limited, 400, 169400)
    assert 1 <= int(limited.headers["Retry-After"]) <= 60
    assert look_up("192.0.2.2").status_code == 404, "another address has its own limit"
    assert look_up("2001:db8::1").status_code == 404
    codes = [look_up(f"2001:db8:0:7:{number:x}::1").status_code for number in range(1, 8)]
    assert codes == [404] * 5 + [400] * 2, "the addresses of a /64 network share one limit"
    assert look_up("2001:db8:0:8::1").status_code == 404
    assert look_up("198.51.100.9, 192.0.2.3").status_code == 404, "only the last address is from the proxy"
    daemon.logged("pin.unknown", remote_ip="192.0.2.3")  # wait for the last line: it may follow the response
    addresses = {line["remote_ip"] for line in daemon.log_lines("pin.unknown")}
    assert {"192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:7:1::1"} <= addresses
    assert "198.51.100.9" not in addresses
    assert daemon.logged("pin.limited")

    def guess(address: str, by: str | None = None, token: str = "wrong") -> Any:
        return daemon.get("/me", by=by, headers={"X-Forwarded-For": address, **({} if by else {"Session-id": token})})

    assert guess("192.0.2.9", by="anna").status_code == 200
    assert [guess("192.0.2.9").status_code for _ in range(6)] == [401] * 4 + [429] * 2
    assert int(guess("192.0.2.9").headers["Retry-After"]) >= 1
    assert guess("192.0.2.9", by="ben").status_code == 200, "valid tokens are accepted, even when they are first used"
    assert guess("192.0.2.9").status_code == 429, "a valid token does not end the limit for wrong ones"
    assert guess("192.0.2.8").status_code == 401
    signing_in = daemon.post(
        "/auth/token/authWithToken", {"session_token": "x"}, by=None, headers={"X-Forwarded-For": "192.0.2.9"}
    )
    assert signing_in.status_code == 429

    made = [daemon.make(by="anna", startTime=from_now(days=1))["id"] for _ in range(3)]
    fourth = daemon.post("/supportsessions", {"type": "live", "label": "A"}, by="anna")
    assert "3 open sessions" in refused(fourth, 429, 101429)
    assert int(fourth.headers["Retry-After"]) >= 1
    daemon.delete(f"/supportsession/{made[0]}", by="anna")
    assert daemon.make(by="anna")["status"] == "new"
    assert daemon.make(by="ben")["status"] == "new"


def test_concurrent_guesses_have_the_same_limit_and_lock_nobody_out(storage: JSON, start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits={"failed_tokens": "5/minute"}, storage=storage)
    guesses = [f"guess {number} of a token that is long" for number in range(60)]
    # One client: creating a client reads all CA certificates of the machine.
    with ThreadPoolExecutor(60) as guessers:
        answers = guessers.map(
            lambda token: daemon.get("/me", by=None, headers={"Session-id": token}),
            [*guesses[:30], daemon.tokens["anna"], *guesses[30:]],
        )
        codes = Counter(answer.status_code for answer in answers)
    assert codes == {200: 1, 401: 5, 429: 55}


def test_a_valid_token_is_accepted_from_an_address_at_its_limit(storage: JSON, start_daemon: StartDaemon) -> None:
    daemon = start_daemon(limits={"failed_tokens": "2/minute"}, storage=storage)

    def me(token: str) -> int:
        return daemon.get("/me", by=None, headers={"Session-id": token}).status_code

    def sign_in(name: str) -> str:
        answer = daemon.post("/auth/token/authWithToken", {"session_token": daemon.tokens[name]}, by=None)
        assert answer.status_code == 200
        secret: str = answer.json()["session"]["id"]
        return secret

    begun = sign_in("anna")
    daemon.restart()
    assert [me("an agent session that has ended") for _ in range(3)] == [401, 401, 429]
    assert me(begun) == 200, "the agent session began before the restart"
    assert me(sign_in("ben")) == 200
    assert me(daemon.tokens["supervisor"]) == 200
    assert daemon.get("/auth/signout", by=None, headers={"Session-id": begun}).status_code == 200
    assert me(begun) == 429, "after the sign-out, the secret is unknown"


def test_a_guessable_token_is_refused_while_its_address_is_at_its_limit(start_daemon: StartDaemon) -> None:
    word, long = "hunter2", "hunter2 in a long sentence"
    agents = [
        {"id": number, "name": token, "roles": ["agent"], "token_sha256": [sha256(token.encode()).hexdigest()]}
        for number, token in enumerate((word, long), 900)
    ]
    daemon = start_daemon(limits={"failed_tokens": "2/minute"}, agents=agents)

    def codes(token: str) -> list[int]:
        me = daemon.get("/me", by=None, headers={"Session-id": token})
        return [me.status_code, daemon.post("/auth/a/authWithToken", {"session_token": token}, by=None).status_code]

    assert codes(word) == codes(long) == [200, 200]
    assert codes("password") == [401, 401]
    assert codes(word) == [429, 429], "the response does not show that the token is valid"
    assert codes(long) == [200, 200]


def test_a_forwarded_address_counts_only_from_a_trusted_proxy(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(
        limits={"pin_lookups": "2/minute", "failed_tokens": "4/minute"}, server={"trusted_proxies": ["10.0.0.0/8"]}
    )
    # Addresses that a client could forge, and texts that are not addresses.
    forged = ("192.0.2.1", "192.0.2.2, 10.0.0.1", "10.0.0.1", "127.0.0.2", "::1", "unknown", "")
    sent = [{"X-Forwarded-For": address, "X-Real-IP": "192.0.2.8", "Forwarded": "for=192.0.2.9"} for address in forged]
    pins = [daemon.get("/support/123456/meta", by=None, headers=headers).status_code for headers in sent]
    assert pins == [404, 404, 400, 400, 400, 400, 400]
    me = [
        daemon.get("/me", by=None, headers={"Session-id": f"guess {number}", **headers}).status_code
        for number, headers in enumerate(sent[:2])
    ]
    # Calls and sign-ins share one count, so an agent session's secret is no easier to guess than a token.
    signing_in = [
        daemon.post("/auth/token/authWithToken", {"session_token": "guess"}, by=None, headers=headers).status_code
        for headers in sent
    ]
    assert (me, signing_in) == ([401, 401], [401, 401, 429, 429, 429, 429, 429])
    for event in ("pin.unknown", "pin.limited", "auth.failed", "auth.limited"):
        daemon.logged(event)
        assert {line["remote_ip"] for line in daemon.log_lines(event)} == {"127.0.0.1"}
    assert daemon.command("list").returncode == 0, "the local socket has no limit"
