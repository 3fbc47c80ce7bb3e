"""Attacks by a hostile OpenID Connect issuer, or by somebody between it and the browser. The daemon refuses each."""

import base64
import gzip
import hashlib
import hmac
import json
import signal
import socketserver
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwk, jws

from tests.acceptance.conftest import StartDaemon, shared
from tests.acceptance.daemons import Daemon
from tests.support.oidc import CLIENT_ID, CLIENT_SECRET, Answer, Hostile, Visitor, as_json, hostile, use_issuer
from tests.support.signin import CALLBACK, receiver_url, text_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow


def _hour_ago() -> int:
    return int(time.time()) - 3600


def reload(daemon: Daemon) -> None:
    before = len(daemon.log_lines("config.reloaded"))
    daemon.signal(signal.SIGHUP)
    eventually(lambda: len(daemon.log_lines("config.reloaded")) > before)


@dataclass
class Attack:
    """A daemon, and an issuer that the test makes misbehave."""

    daemon: Daemon
    issuer: Hostile

    def attempt(self) -> tuple[Visitor, dict[str, str]]:
        """Begin a sign-in; return the browser, and the parameters of its authorization request."""
        browser = Visitor(self.daemon)
        request = dict(parse_qsl(urlsplit(browser.begin()).query))
        self.issuer.nonce = request["nonce"]
        return browser, request

    def callback(self, **query: str) -> str:
        return f"{self.daemon.url}/v3/auth/oidc/callback?{urlencode(query)}"

    def sign_in(self, **query: str) -> tuple[Visitor, httpx.Response]:
        """Go through a whole sign-in; `query` replaces parameters of the callback."""
        browser, request = self.attempt()
        return browser, browser.http.get(self.callback(**{"code": "c", "state": request["state"], **query}))

    def expect_refusal(self, refusal: str, **query: str) -> None:
        """Go through a sign-in that must be refused for this reason."""
        before = self.refused(refusal)
        browser, answer = self.sign_in(**query)
        assert answer.status_code == (503 if refusal == "issuer" else 403), (answer.status_code, text_of(answer))
        assert not browser.session()
        assert 'id="error"' in answer.text
        assert self.refused(refusal) == before + 1

    def refused(self, refusal: str) -> float:
        """Return how many sign-ins the daemon has refused for a reason."""
        text = self.daemon.http.get(f"{self.daemon.url}/metrics", headers={"Session-id": self.daemon.token}).text
        return next(
            float(line.split()[1])
            for line in text.splitlines()
            if line.startswith(f'tminus_oidc_refused_total{{refusal="{refusal}"}}')
        )


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    yield from shared(signin={"receivers": [CALLBACK]})


@pytest.fixture
def attack(daemon: Daemon) -> Iterator[Attack]:
    """The daemon with a new issuer for each test, so that it has cached nothing from the issuer of an earlier one."""
    with hostile() as issuer:
        use_issuer(daemon, issuer.issuer)
        reload(daemon)
        yield Attack(daemon, issuer)


def test_without_a_replacement_the_issuer_signs_somebody_in(attack: Attack) -> None:
    browser, answer = attack.sign_in()
    assert answer.status_code == 303
    assert browser.me().json()["user"]["name"] == "Mallory"
    [sent] = [form for path, form in attack.issuer.requests if path == "/token"]
    assert set(sent) == {"grant_type", "code", "redirect_uri", "code_verifier", "client_id", "client_secret"}
    assert sent["client_secret"] == CLIENT_SECRET


# --- the ID token -----------------------------------------------------------------------------------------------------

NOW = time.time

CLAIMS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "of another client": lambda: {"aud": "another"},
    "of no client": lambda: {"aud": []},
    "without an audience": lambda: {"aud": None},
    "with an audience that is a number": lambda: {"aud": 7},
    "of two clients": lambda: {"aud": [CLIENT_ID, "another"]},
    "of two clients, for the other one": lambda: {"aud": [CLIENT_ID, "another"], "azp": "another"},
    "for another party": lambda: {"azp": "another"},
    "for a party that is a list": lambda: {"azp": []},
    "for an empty party": lambda: {"azp": ""},
    "of another issuer": lambda: {"iss": "https://evil.example"},
    "of an issuer with one more slash": lambda: {"iss": "http://127.0.0.1/"},
    "without an issuer": lambda: {"iss": None},
    "with the nonce of another sign-in": lambda: {"nonce": "x" * 43},
    "without a nonce": lambda: {"nonce": None},
    "with a nonce that is a list": lambda: {"nonce": []},
    "that has expired": lambda: {"exp": int(NOW()) - 61},
    "that never expires": lambda: {"exp": None},
    "that expires at a text": lambda: {"exp": "never"},
    "that expires at infinity": lambda: {"exp": float("inf")},
    "that expires at no number": lambda: {"exp": float("nan")},
    "that expires at true": lambda: {"exp": True},
    "that expires in a million years": lambda: {"exp": 10**14},
    "that is not valid yet": lambda: {"nbf": int(NOW()) + 120},
    "that was made in the future": lambda: {"iat": int(NOW()) + 120},
    "that was made an hour ago": lambda: {"iat": _hour_ago()},
    "without a time": lambda: {"iat": None},
    "about nobody": lambda: {"sub": None},
    "about an empty name": lambda: {"sub": ""},
    "about a number": lambda: {"sub": 7},
    "about a name that is too long": lambda: {"sub": "s" * 256},
    "about a name with a line end": lambda: {"sub": "a\nb"},
    "of another access token": lambda: {"at_hash": "xxxxxxxxxxxxxxxxxxxxxx"},
    "of an access token with a hash that is a list": lambda: {"at_hash": []},
    "of an access token with an empty hash": lambda: {"at_hash": ""},
}


@pytest.mark.parametrize("which", CLAIMS)
def test_an_id_token_is_refused(which: str, attack: Attack) -> None:
    attack.issuer.claims = CLAIMS[which]()
    attack.expect_refusal("id_token")


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": [CLIENT_ID]},
        {"aud": [CLIENT_ID, "another"], "azp": CLIENT_ID},
        {"exp": "soon"},
        {"nbf": "now"},
        {"iat": "old"},
    ],
    ids=str,
)
def test_an_id_token_that_is_right_or_nearly_in_time_is_accepted(claims: dict[str, Any], attack: Attack) -> None:
    now = int(time.time())
    times = {"soon": now - 20, "now": now + 30, "old": now - 300}
    attack.issuer.claims = {name: times.get(str(value), value) for name, value in claims.items()}
    assert attack.sign_in()[1].status_code == 303


def token(issuer: Hostile, header: dict[str, Any], signature: str | None = None) -> str:
    """Return an ID token with this header, and with this signature or none."""
    return f"{encoded(header, issuer.right_claims())}.{signature or ''}"


def encoded(*parts: Mapping[str, Any]) -> str:
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)


def with_secret(issuer: Hostile, secret: bytes) -> str:
    """Return an ID token that is signed with HS256 and this secret instead of the issuer's private key."""
    signed = encoded({"alg": "HS256", "kid": "k1"}, issuer.right_claims())
    signature = hmac.digest(secret, signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def other_key(kid: str) -> jwk.RSAKey:
    return jwk.RSAKey.generate_key(2048, {"kid": kid}, private=True)


def signed_by(issuer: Hostile, key: jwk.RSAKey, header: Mapping[str, Any]) -> str:
    signed = encoded({"alg": "RS256", **header}, issuer.right_claims())
    signature = key.private_key.sign(signed.encode(), PKCS1v15(), SHA256())  # type: ignore[union-attr]  # is not None
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def with_payload(issuer: Hostile, payload: bytes) -> str:
    """Return an ID token with these bytes for its claims, and a valid signature."""
    return jws.serialize_compact({"alg": "RS256", "kid": "k1"}, payload, issuer.key, algorithms=["RS256"])


def with_member(issuer: Hostile, value: str) -> bytes:
    """Return the right claims and one more, whose value is this JSON."""
    return (json.dumps(issuer.right_claims())[:-1] + f', "x": {value}}}').encode()


def embedded(issuer: Hostile) -> str:
    key = other_key("k1")
    return signed_by(issuer, key, {"kid": "k1", "jwk": key.as_dict(private=False)})


def tampered(issuer: Hostile) -> str:
    head, _, signature = issuer.id_token().split(".")
    claims = json.dumps({**issuer.right_claims(), "sub": "admin"}).encode()
    return f"{head}.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.{signature}"


TOKENS: Mapping[str, Callable[[Hostile], Any]] = {
    "alg none": lambda issuer: token(issuer, {"alg": "none"}),
    "alg None": lambda issuer: token(issuer, {"alg": "None", "kid": "k1"}),
    "alg nOnE with a signature": lambda issuer: token(issuer, {"alg": "nOnE"}, "c2ln"),
    "no alg": lambda issuer: token(issuer, {"kid": "k1"}),
    "alg that is a list": lambda issuer: token(issuer, {"alg": ["RS256"]}),
    "alg that nobody knows": lambda issuer: token(issuer, {"alg": "XX999"}, "c2ln"),
    "HS256 with the public key as PEM": lambda issuer: with_secret(issuer, issuer.key.as_pem(private=False)),
    "HS256 with the public key as DER": lambda issuer: with_secret(issuer, issuer.key.as_der(private=False)),
    "HS256 with the modulus": lambda issuer: with_secret(issuer, str(issuer.key.as_dict()["n"]).encode()),
    "HS256 with the client secret": lambda issuer: with_secret(issuer, CLIENT_SECRET.encode()),
    "another key under the same name": lambda issuer: signed_by(issuer, other_key("k1"), {"kid": "k1"}),
    "a key under an unknown name": lambda issuer: signed_by(issuer, other_key("k9"), {"kid": "k9"}),
    "a key that the token brings along": embedded,
    "a key at an address that the token names": lambda issuer: signed_by(
        issuer, other_key("k1"), {"kid": "k1", "jku": f"{issuer.issuer}/evil"}
    ),
    "other claims under the signature": tampered,
    "no signature": lambda issuer: issuer.id_token().rpartition(".")[0] + ".",
    "critical extensions": lambda issuer: signed_by(issuer, issuer.key, {"kid": "k1", "crit": ["x"], "x": 1}),
    "an encrypted token": lambda _issuer: "a.b.c.d.e",
    "one part": lambda _issuer: "abc",
    "no base64": lambda _issuer: "ä.ö.ü",
    "a header that is a list": lambda _issuer: f"{base64.urlsafe_b64encode(b'[1]').decode()}.e30.e30",
    "a number": lambda _issuer: 7,
    "nothing": lambda _issuer: None,
    "claims with 20,000 lists in each other": lambda issuer: with_payload(
        issuer, with_member(issuer, "[" * 20_000 + "]" * 20_000)
    ),
    "claims with 5,000 objects in each other": lambda issuer: with_payload(
        issuer, with_member(issuer, '{"a":' * 5000 + "1" + "}" * 5000)
    ),
    "claims that are only brackets": lambda issuer: with_payload(issuer, b"[" * 40_000),
    "claims that are a list": lambda issuer: with_payload(issuer, b"[]"),
    "claims that are no UTF-8": lambda issuer: with_payload(
        issuer, with_member(issuer, '"\u00ff"').replace(b"\xc3", b"")
    ),
    "claims with half a character": lambda issuer: with_payload(issuer, with_member(issuer, '"\\ud800"')),
    "no claims": lambda issuer: with_payload(issuer, b""),
    "a header with 900 lists in each other": lambda _issuer: (
        base64.urlsafe_b64encode(b'{"alg": "RS256", "kid": "k1", "x": ' + b"[" * 900 + b"]" * 900 + b"}").decode()
        + ".e30.e30"
    ),
    "70 KB": lambda issuer: issuer.id_token() + "A" * 70_000,
}


@pytest.mark.parametrize("which", TOKENS)
def test_a_token_with_another_signature_is_refused(which: str, attack: Attack) -> None:
    issuer = attack.issuer
    issuer.replaced["/token"] = lambda _form: as_json({"access_token": "a", "id_token": TOKENS[which](issuer)})
    attack.expect_refusal("id_token")
    assert issuer.count("/evil") == 0


@pytest.mark.parametrize("alg", ["Ed25519", "EdDSA"])
def test_an_id_token_of_an_edwards_curve_is_accepted_with_the_hash_of_its_access_token(
    alg: str, attack: Attack
) -> None:
    issuer, key = attack.issuer, jwk.OKPKey.generate_key("Ed25519", {"kid": "k1"}, private=True)
    issuer.replaced["/jwks"] = lambda _form: as_json({"keys": [{**key.as_dict(private=False), "kid": "k1"}]})
    right = base64.urlsafe_b64encode(hashlib.sha512(b"a").digest()[:32]).decode().rstrip("=")
    made: dict[str, str] = {}

    def sign(at_hash: str) -> None:
        signed = encoded({"alg": alg, "kid": "k1"}, {**issuer.right_claims(), "at_hash": at_hash})
        assert key.private_key is not None
        signature = key.private_key.sign(signed.encode())  # type: ignore[union-attr]  # it is an Ed25519 key
        made["token"] = f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"

    issuer.replaced["/token"] = lambda _form: as_json({"access_token": "a", "id_token": made["token"]})
    for at_hash, code in ((right, 303), (right[:-2] + "AA", 403)):
        browser, request = attack.attempt()
        sign(at_hash)
        assert browser.http.get(attack.callback(code="c", state=request["state"])).status_code == code


def encoded_number(value: int) -> str:
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).decode().rstrip("=")


UNUSABLE: Mapping[str, Mapping[str, Any]] = {
    "with exponent 1": {"e": "AQ"},
    "with an exponent of 2,000 bits": {"e": encoded_number(2**2000 + 1)},
    "with an exponent of 100,000 characters": {"e": "A" * 100_000},
    "with an exponent that is a list": {"e": []},
    "with a modulus of junk": {"n": "!*"},
    "with a modulus that is no ASCII": {"n": "\N{SNOWMAN}" * 300},
    "for encryption": {"use": "enc"},
    "for several uses": {"use": ["sig"]},
    "for another algorithm": {"alg": "RS512"},
    "for algorithms in a list": {"alg": ["RS256"]},
    "with a number for its name": {"kid": 1},
    "of another kind": {"kty": "rsa"},
    "on a curve": {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
    "on a curve that is a list": {"kty": "EC", "crv": [], "x": "AAAA", "y": "AAAA"},
    "on a curve for the exchange of keys": {"kty": "OKP", "crv": "X25519", "x": "A" * 43},
}


@pytest.mark.parametrize("which", UNUSABLE)
def test_an_unusable_key_is_left_out_and_the_others_work(which: str, attack: Attack) -> None:
    [right] = attack.issuer.keys()["keys"]
    attack.issuer.replaced["/jwks"] = lambda _form: as_json({"keys": [{**right, **UNUSABLE[which]}, right, right]})
    assert attack.sign_in()[1].status_code == 303
    attack.issuer.replaced["/jwks"] = lambda _form: as_json({"keys": [{**right, **UNUSABLE[which]}]})
    reload(attack.daemon)
    _, answer = attack.sign_in()
    assert answer.status_code in (403, 503)


def test_other_members_of_a_key_are_ignored_and_no_url_in_them_is_requested(attack: Attack) -> None:
    [right] = attack.issuer.keys()["keys"]
    more = {"x5u": f"{attack.issuer.issuer}/evil", "jku": f"{attack.issuer.issuer}/evil", "x5c": ["AAAA"], "x5t": 7}
    attack.issuer.replaced["/jwks"] = lambda _form: as_json({"keys": [{**right, **more, "alg": None}]})
    assert attack.sign_in()[1].status_code == 303
    assert attack.issuer.count("/evil") == 0


@pytest.mark.parametrize(
    "access_token", ["\u00e4", "\N{SNOWMAN}", "a\r\nX: y", " a ", "\0", "", 7, None, [], "x" * 17_000]
)
def test_an_access_token_that_no_header_can_have_is_not_sent(access_token: Any, attack: Attack) -> None:
    issuer = attack.issuer
    issuer.metadata = {"userinfo_endpoint": f"{issuer.issuer}/userinfo"}
    issuer.claims = {"name": None}
    issuer.replaced["/token"] = lambda _form: as_json({"access_token": access_token, "id_token": issuer.id_token()})
    assert attack.sign_in()[1].status_code == 303
    assert issuer.count("/userinfo") == 0


ADDRESSES: Mapping[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "verified in the ID token": ({"email": "anna@example.com", "email_verified": True}, {}, 7),
    "verified in the user information": ({}, {"email": "anna@example.com", "email_verified": True}, 7),
    "the same in both, verified in one": (
        {"email": "anna@example.com"}, {"email": "anna@example.com", "email_verified": True}, 7,
    ),
    "another one is verified": ({"email": "anna@example.com"}, {"email": "m@example.org", "email_verified": True}, 0),
    "verified is none": ({"email": "anna@example.com"}, {"email_verified": True}, 0),
    "verified was another one": ({"email_verified": True}, {"email": "anna@example.com"}, 0),
    "not verified in the ID token": (
        {"email": "anna@example.com", "email_verified": False},
        {"email": "anna@example.com", "email_verified": True}, 0,
    ),
    "verified is a text": ({"email": "anna@example.com", "email_verified": "true"}, {}, 0),
    "a letter that looks alike": ({"email": "ann\u0430@example.com", "email_verified": True}, {}, 0),
    "an invisible letter": ({"email": "anna\u200b@example.com", "email_verified": True}, {}, 0),
}  # fmt: skip


@pytest.mark.parametrize("which", ADDRESSES)
def test_an_address_finds_an_agent_only_if_it_is_itself_verified(which: str, attack: Attack) -> None:
    """The ID token and the user information may contain different addresses, of which only one is verified."""
    issuer, (in_token, in_information, agent) = attack.issuer, ADDRESSES[which]
    use_issuer(attack.daemon, issuer.issuer, agent_claim="email")
    reload(attack.daemon)
    issuer.metadata = {"userinfo_endpoint": f"{issuer.issuer}/userinfo"}
    issuer.claims = {"email": None, **in_token}
    issuer.replaced["/userinfo"] = lambda _form: as_json({"sub": "mallory", **in_information})
    browser, answer = attack.sign_in()
    assert answer.status_code == 303
    assert (browser.me().json()["user"]["id"] == 7) is bool(agent)


def test_keys_that_are_too_weak_or_secret_are_not_used(attack: Attack) -> None:
    issuer = attack.issuer
    with warnings.catch_warnings(action="ignore"):
        issuer.key = jwk.RSAKey.generate_key(1024, {"kid": "k1"}, private=True)
    attack.expect_refusal("issuer")
    secret = {"kty": "oct", "kid": "k1", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMw"}
    issuer.replaced["/jwks"] = lambda _form: as_json({"keys": [secret, 7, {"kty": []}, {"kty": "RSA", "n": 1}]})
    attack.expect_refusal("issuer")


def test_a_token_without_a_key_name_needs_the_only_key(attack: Attack) -> None:
    issuer = attack.issuer
    issuer.header = {"kid": None}
    assert attack.sign_in()[1].status_code == 303
    more = other_key("k2").as_dict(private=False)
    issuer.replaced["/jwks"] = lambda _form: as_json({"keys": [*issuer.keys()["keys"], {**more, "kid": "k2"}]})
    reload(attack.daemon)
    attack.expect_refusal("id_token")


def test_a_key_for_another_algorithm_is_not_used(attack: Attack) -> None:
    key = {**attack.issuer.keys()["keys"][0], "alg": "RS512"}
    attack.issuer.replaced["/jwks"] = lambda _form: as_json({"keys": [key]})
    attack.expect_refusal("id_token")


def test_tokens_with_invented_keys_cause_one_more_request_a_minute(attack: Attack) -> None:
    issuer = attack.issuer
    assert attack.sign_in()[1].status_code == 303
    for number in range(8):
        issuer.header = {"kid": f"invented {number}"}
        attack.expect_refusal("id_token")
    assert issuer.count("/jwks") == 2
    issuer.header = {}
    assert attack.sign_in()[1].status_code == 303


# --- mix-up, and what the browser brings back -------------------------------------------------------------------------


def test_another_issuer_cannot_send_the_browser_back(attack: Attack) -> None:
    attack.expect_refusal("mix_up", iss="https://evil.example")
    assert attack.issuer.count("/token") == 0  # the code was not sent anywhere
    assert attack.sign_in(iss=attack.issuer.issuer)[1].status_code == 303


def test_an_issuer_that_announces_the_parameter_iss_must_send_it(attack: Attack) -> None:
    attack.issuer.metadata = {"authorization_response_iss_parameter_supported": True}
    attack.expect_refusal("mix_up")
    assert attack.issuer.count("/token") == 0


def test_a_code_of_one_issuer_is_not_sent_to_another(attack: Attack) -> None:
    """A reload changes the issuer while the browser is at the first one."""
    browser, request = attack.attempt()
    with hostile() as other:
        use_issuer(attack.daemon, other.issuer)
        reload(attack.daemon)
        answer = browser.http.get(attack.callback(code="c", state=request["state"]))
        assert answer.status_code == 403
        assert not other.requests


def test_claims_of_one_issuer_find_no_agent_of_another(attack: Attack) -> None:
    """A reload changes the issuer while the first one answers."""
    requested, reloaded = threading.Event(), threading.Event()

    def answer(_form: Mapping[str, str]) -> Answer:
        requested.set()
        assert reloaded.wait(8)
        return as_json({"access_token": "a", "id_token": attack.issuer.id_token()})

    attack.issuer.replaced["/token"] = answer
    with hostile() as other, ThreadPoolExecutor(1) as people:
        done = people.submit(lambda: attack.sign_in()[1])
        assert requested.wait(20)
        use_issuer(attack.daemon, other.issuer)
        reload(attack.daemon)
        reloaded.set()
        assert done.result(20).status_code == 503


def test_a_number_that_gets_another_owner_ends_what_the_first_one_has(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    with hostile() as issuer:
        use_issuer(daemon, issuer.issuer)
        reload(daemon)
        attack = Attack(daemon, issuer)
        issuer.claims = {"sub": "aagent"}
        browser, _ = attack.sign_in()
        assert browser.me().json()["user"]["id"] == 7
        text = daemon.config.read_text()
        daemon.config.write_text(text.replace('"aagent"', '"successor"'))
        reload(daemon)
        assert browser.me().status_code == 401


def test_a_role_that_no_group_gives_any_more_ends_with_the_reload(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    with hostile() as issuer:
        use_issuer(daemon, issuer.issuer)
        reload(daemon)
        attack = Attack(daemon, issuer)
        issuer.claims = {"groups": ["leads", "support"]}
        browser, _ = attack.sign_in()
        assert browser.me().json()["roles"]["supervisor"] is True
        daemon.config.write_text(daemon.config.read_text().replace('supervisor = ["leads"]', ""))
        reload(daemon)
        assert browser.me().json()["roles"]["supervisor"] is False
        daemon.config.write_text(daemon.config.read_text().replace('agent = ["support"]', ""))
        reload(daemon)
        assert browser.me().status_code == 401


def test_a_changed_cookie_is_refused(attack: Attack) -> None:
    browser, request = attack.attempt()
    cookie = browser.http.cookies["tminus-oidc"]
    parts = json.loads(base64.urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4)))
    parts[4] = receiver_url()
    forged = base64.urlsafe_b64encode(json.dumps(parts, separators=(",", ":")).encode()).decode().rstrip("=")
    browser.http.cookies.clear()
    browser.http.cookies.set("tminus-oidc", forged)
    answer = browser.http.get(attack.callback(code="c", state=request["state"]))
    assert answer.status_code == 403
    assert attack.issuer.count("/token") == 0


@pytest.mark.parametrize("state", ["", "x", "x" * 43, "x" * 4000, "\N{SNOWMAN}"])
def test_a_foreign_state_is_refused(state: str, attack: Attack) -> None:
    attack.expect_refusal("state", state=state)
    assert attack.issuer.count("/token") == 0


@pytest.mark.parametrize("cookie", ["", "x", "W10", "W251bGwsMSwiIiwiIiwiIiwiIl0", "x" * 5000])
def test_an_odd_cookie_is_refused(cookie: str, attack: Attack) -> None:
    headers = {"Cookie": f"tminus-oidc={cookie}"}
    answer = httpx.get(attack.callback(code="c", state="s"), headers=headers)
    assert answer.status_code == 403
    assert attack.issuer.count("/token") == 0


def test_the_error_of_the_issuer_is_only_text(attack: Attack) -> None:
    _, answer = attack.sign_in(error="<script>alert(1)</script>")
    assert answer.status_code == 403
    assert "<script>" not in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_names_of_the_issuer_are_only_text(attack: Attack) -> None:
    attack.issuer.claims = {"sub": "x", "name": "\u202e<b>Eve\n</b>" + "x" * 300, "email": "e\r\n@x"}
    browser, answer = attack.sign_in()
    assert answer.status_code == 303
    shown = browser.me().json()["user"]["name"]
    assert shown.startswith("<b>Eve</b>")
    assert len(shown) <= 255
    assert "<b>" not in browser.http.get(browser.page()).text


@pytest.mark.parametrize(
    "groups", [None, 7, {"support": 1}, [["support"]], ["Support"], "sales", ["support "]], ids=str
)
def test_malformed_and_unknown_groups_give_no_role(groups: Any, attack: Attack) -> None:
    attack.issuer.claims = {"groups": groups, "sub": "nobody"}
    attack.expect_refusal("roles")


def test_groups_that_the_issuer_leaves_out_because_there_are_too_many_give_no_role(start_daemon: StartDaemon) -> None:
    daemon = start_daemon()
    with hostile() as issuer:
        use_issuer(daemon, issuer.issuer)
        reload(daemon)
        source = {"endpoint": f"{issuer.issuer}/evil"}
        issuer.claims = {"groups": None, "_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": source}}
        Attack(daemon, issuer).expect_refusal("roles")
        assert "too many groups" in daemon.logged("auth.oidc_refused", refusal="roles")["error"]
        assert issuer.count("/evil") == 0


# --- an issuer that is slow, large, or sends elsewhere ----------------------------------------------------------------

WELL_KNOWN = "/.well-known/openid-configuration"
LARGE = json.dumps({"keys": [], "id_token": "x" * 300_000}).encode()

BAD_ANSWERS: Mapping[str, Answer] = {
    "300 KB": (200, {}, LARGE),
    "no JSON": (200, {}, b"<html>"),
    "nothing": (200, {}, b""),
    "a list": (200, {}, b"[]"),
    "100,000 brackets": (200, {}, b"[" * 100_000),
    "no UTF-8": (200, {}, b'{"a": "\xff"}'),
    "compressed": (200, {"Content-Encoding": "gzip"}, gzip.compress(b'{"a": "' + b"x" * 10_000_000 + b'"}')),
    "a redirect": (302, {"Location": "/elsewhere"}, b""),
    "a redirect that keeps the form": (307, {"Location": "/elsewhere"}, b""),
    "an error": (500, {}, b"{}"),
}


@pytest.mark.parametrize("answer", BAD_ANSWERS)
@pytest.mark.parametrize("path", [WELL_KNOWN, "/jwks", "/token"])
def test_a_bad_answer_is_refused(path: str, answer: str, attack: Attack) -> None:
    attack.issuer.replaced[path] = lambda _form: BAD_ANSWERS[answer]
    if path == WELL_KNOWN:
        browser = Visitor(attack.daemon)
        response = browser.leave()
        assert response.status_code == 503
        assert "does not answer as it should" in text_of(response)
    else:
        attack.expect_refusal("issuer")
    assert attack.issuer.count("/elsewhere") == 0


def test_an_answer_in_many_parts_is_refused(attack: Attack) -> None:
    """Chunks of one byte take the daemon much longer to read than they take to arrive."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            with suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
                self.wfile.write(b"1\r\n \r\n" * 50_000 + b"1\r\n}\r\n0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_address[1]}"
        use_issuer(attack.daemon, attack.issuer.issuer, hosts=[host])
        reload(attack.daemon)
        attack.issuer.metadata = {"token_endpoint": f"http://{host}/token"}
        attack.expect_refusal("issuer")
        server.shutdown()


def test_a_slow_issuer_blocks_nobody_else_and_not_for_long(attack: Attack) -> None:
    released = threading.Event()

    def slow(_form: Mapping[str, str]) -> Answer:
        released.wait(60)
        return as_json({})

    attack.issuer.replaced[WELL_KNOWN] = slow
    answers: list[httpx.Response] = []
    waiting = [threading.Thread(target=lambda: answers.append(Visitor(attack.daemon).leave())) for _ in range(12)]
    try:
        for one in waiting:
            one.start()
        eventually(lambda: attack.issuer.count(WELL_KNOWN))
        for _ in range(20):
            assert attack.daemon.get("/me", by="anna").status_code == 200
            attack.daemon.make(by="anna")
        assert not answers
        for one in waiting:
            one.join(60)
    finally:
        released.set()
    assert [one.status_code for one in answers] == [503] * 12
    assert attack.issuer.count(WELL_KNOWN) == 1  # all share one request


def test_sign_ins_share_a_request_for_keys_that_gets_no_answer(attack: Attack) -> None:
    """If each sent its own request, it would wait ten seconds for the one before it."""
    issuer, released = attack.issuer, threading.Event()

    def slow(_form: Mapping[str, str]) -> Answer:
        released.wait(60)
        return as_json({})

    issuer.replaced["/jwks"] = slow
    browsers = [attack.attempt() for _ in range(6)]

    def come_back(one: tuple[Visitor, dict[str, str]]) -> int:
        return one[0].http.get(attack.callback(code="c", state=one[1]["state"])).status_code

    try:
        with ThreadPoolExecutor(6) as people:
            waiting = people.map(come_back, browsers)
            eventually(lambda: issuer.count("/jwks"))
            assert Visitor(attack.daemon).leave().status_code == 200, "a sign-in that begins meanwhile does not wait"
            assert list(waiting) == [503] * 6
    finally:
        released.set()
    assert issuer.count("/jwks") == 1


ELSEWHERE: Mapping[str, str] = {
    "another port of the host": "http://127.0.0.1:{port}/token",
    "another host": "http://localhost:{port}/token",
    "a metadata service": "http://169.254.169.254/latest/meta-data",
    "https": "https://127.0.0.1:{port}/token",
    "a user in front of the host": "http://{own}@127.0.0.1:{port}/token",
    "a file": "file:///etc/passwd",
    "a path": "/token",
    "a fragment": "http://{own}/token#x",
    "a backslash": "http://{own}\\@127.0.0.1:{port}/token",
    "a line end": "http://{own}/token\r\nX: y",
    "no text": "",
}


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("endpoint", ["authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"])
def test_a_discovery_document_cannot_send_the_daemon_or_a_browser_elsewhere(
    endpoint: str, where: str, attack: Attack
) -> None:
    with hostile() as other:
        own = attack.issuer.issuer.removeprefix("http://")
        attack.issuer.metadata = {endpoint: ELSEWHERE[where].format(port=other.port, own=own)}
        assert Visitor(attack.daemon).leave().status_code == 503
        assert not other.requests


def test_a_host_that_the_configuration_lists_is_used(attack: Attack) -> None:
    with hostile() as other:
        use_issuer(attack.daemon, attack.issuer.issuer, hosts=[f"127.0.0.1:{other.port}"])
        reload(attack.daemon)
        attack.issuer.metadata = {"token_endpoint": f"{other.issuer}/token", "jwks_uri": f"{other.issuer}/jwks"}
        other.replaced["/token"] = lambda _form: as_json({"access_token": "a", "id_token": attack.issuer.id_token()})
        other.replaced["/jwks"] = lambda _form: as_json(attack.issuer.keys())
        assert attack.sign_in()[1].status_code == 303


@pytest.mark.parametrize("issuer", ["https://evil.example", "{own}/", "", None])
def test_a_discovery_document_of_another_issuer_is_refused(issuer: str | None, attack: Attack) -> None:
    attack.issuer.metadata = {"issuer": issuer.format(own=attack.issuer.issuer) if issuer else issuer}
    assert Visitor(attack.daemon).leave().status_code == 503


def test_user_information_about_somebody_else_is_refused(attack: Attack) -> None:
    issuer = attack.issuer
    issuer.metadata = {"userinfo_endpoint": f"{issuer.issuer}/userinfo"}
    issuer.claims = {"groups": None}
    issuer.replaced["/userinfo"] = lambda _form: as_json({"sub": "admin", "groups": ["support"]})
    attack.expect_refusal("id_token")
    issuer.replaced["/userinfo"] = lambda _form: as_json({"sub": "mallory", "groups": ["support"], "iss": "x"})
    assert attack.sign_in()[1].status_code == 303


def test_wrong_returns_of_one_address_are_limited_and_its_neighbours_get_in(start_daemon: StartDaemon) -> None:
    """Any web page can make a visitor's browser send invalid callbacks, with an image whose URL is the callback."""
    daemon = start_daemon(limits={"failed_tokens": "3/hour"})
    with hostile() as issuer:
        use_issuer(daemon, issuer.issuer)
        reload(daemon)
        attack = Attack(daemon, issuer)
        foreign = [httpx.get(attack.callback(code="c", state="x")).status_code for _ in range(6)]
        assert foreign == [403] * 3 + [429] * 3
        assert issuer.count("/token") == 0
        browser, answer = attack.sign_in()
        assert answer.status_code == 303
        assert browser.me().status_code == 200
        # A callback with a valid state is not refused at the limit, but waits in a queue.
        issuer.claims = {"aud": "another"}
        begun = time.monotonic()
        with ThreadPoolExecutor(10) as guessers:
            codes = list(guessers.map(lambda _: attack.sign_in()[1].status_code, range(10)))
        assert codes == [403] * 10
        assert time.monotonic() - begun >= 1.9, "the queue admits five a second"


def test_a_foreign_state_ends_no_attempt(attack: Attack) -> None:
    """The callback may come from another tab of the same person, or from a page of another site."""
    browser, first = attack.attempt()
    second = dict(parse_qsl(urlsplit(browser.begin()).query))
    assert browser.http.get(attack.callback(code="c", state=first["state"])).status_code == 403
    assert browser.http.get(attack.callback(code="c", state="x")).status_code == 403
    attack.issuer.nonce = second["nonce"]
    assert browser.http.get(attack.callback(code="c", state=second["state"])).status_code == 303
    again = browser.http.get(attack.callback(code="c", state=second["state"]))
    assert again.status_code == 403
    assert "did not begin in this browser" in text_of(again)
