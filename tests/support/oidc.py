"""OpenID providers for tests: the real `oidc-provider` from npm, and one that sends what no real provider sends."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx
from joserfc import jwk, jws

from tests.acceptance.daemons import Daemon
from tests.support.signin import SAME_ORIGIN, key_of

VERSION = "9.13.3"
PACKAGE = Path(
    os.environ.get("TMINUS_TEST_OIDC_PROVIDER") or Path.home() / ".cache" / "tminus" / f"oidc-provider-{VERSION}"
)
"""Where `.ci/run` installs the package."""

CLIENT_ID = "tminus desk"
CLIENT_SECRET = "s3cret+ /%=:&-of-the-client"
"""With characters that are escaped differently in forms, headers and URLs."""

NODE = shutil.which("node")
LIBRARY = PACKAGE / "node_modules" / "oidc-provider"
MISSING = (
    "" if NODE and LIBRARY.is_dir() else f"the npm package oidc-provider is not in {PACKAGE}: .ci/run installs it there"
)
"""Why the real provider cannot run; "" if it can."""

ACCOUNTS: Mapping[str, Mapping[str, Any]] = {
    "olga": {
        "name": "Olga Oidc",
        "email": "olga@example.org",
        "email_verified": True,
        "groups": ["support", "all"],
    },
    "lea": {"name": "Lea Lead", "email": "lea@example.org", "email_verified": True, "groups": ["leads"]},
    "sam": {"name": "Sam Stranger", "email": "sam@example.org", "email_verified": True, "groups": ["sales"]},
    "aagent": {"name": "Anna by Issuer", "email": "anna@example.com", "email_verified": True, "groups": ["leads"]},
    "fake": {"name": "Fake Anna", "email": "anna@example.com", "email_verified": False, "groups": []},
}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def settings(issuer: str, secret_file: Path, **more: Any) -> str:
    """Return the tables of the configuration for an issuer, as text."""
    oidc = {
        "issuer": issuer,
        "client_id": CLIENT_ID,
        "client_secret_file": str(secret_file),
        "scopes": ["openid", "profile", "email", "groups"],
        **more,
    }
    roles = {"agent": ["support"], "supervisor": ["leads"]}
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in oidc.items())
    return f"[signin.oidc]\n{lines}[signin.oidc.roles]\n" + "".join(
        f"{key} = {json.dumps(value)}\n" for key, value in roles.items()
    )


def use_issuer(daemon: Daemon, issuer: str, **more: Any) -> None:
    """Add an issuer to a daemon's configuration file."""
    secret = daemon.home / "client-secret"
    secret.write_text(f"{CLIENT_SECRET}\n")
    secret.chmod(0o600)
    kept = re.sub(r"(?ms)^\[signin\.oidc\b.*?(?=^\[\[|^\[(?!signin\.oidc)|\Z)", "", daemon.config.read_text())
    daemon.config.write_text(settings(issuer, secret, **more) + kept)


# --- the real provider ------------------------------------------------------------------------------------------------


def signing_key(kid: str) -> dict[str, Any]:
    """Return a new private key."""
    key: dict[str, Any] = dict(jwk.RSAKey.generate_key(2048, private=True).as_dict(private=True))
    return {**key, "kid": kid, "use": "sig", "alg": "RS256"}


class Provider:
    """`oidc-provider` in a separate process, which can be stopped and started again with other keys."""

    def __init__(self, redirect_uris: list[str]) -> None:
        self.port = free_port()
        self.issuer = f"http://127.0.0.1:{self.port}"
        self.redirect_uris = redirect_uris
        self.keys = [signing_key("first")]
        self.accounts: dict[str, Any] = {name: dict(claims) for name, claims in ACCOUNTS.items()}
        self.process: subprocess.Popen[str] | None = None

    def start(self, methods: Sequence[str] = ("client_secret_basic", "client_secret_post")) -> None:
        """Start it. `methods`: how a client may authenticate."""
        client = {
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            "redirect_uris": self.redirect_uris,
            "grant_types": ["authorization_code"],
            "response_types": ["code"],
            "token_endpoint_auth_method": methods[0],
        }
        given = {
            "package": str(LIBRARY), "port": self.port, "issuer": self.issuer, "clients": [client],
            "accounts": self.accounts, "keys": {"keys": self.keys}, "settings": {"clientAuthMethods": methods},
        }  # fmt: skip
        assert NODE is not None
        script = Path(__file__).with_name("oidc_provider.mjs")
        self.process = subprocess.Popen(
            [NODE, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(given))
        self.process.stdin.close()
        assert self.process.stdout.readline() == "listening\n", "oidc-provider did not start"

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@contextmanager
def provider(redirect_uris: list[str]) -> Iterator[Provider]:
    """Run the real provider for the `with` block."""
    one = Provider(redirect_uris)
    one.start()
    try:
        yield one
    finally:
        one.stop()


class Visitor:
    """A browser at the sign-in page and at the issuer, with the cookies of both."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.http = httpx.Client(timeout=30, limits=httpx.Limits(max_keepalive_connections=0))

    def page(self, **query: str) -> str:
        return f"{self.daemon.url}/v3/auth/azure/goToAuth{'?' if query else ''}{urlencode(query)}"

    def leave(self, **query: str) -> httpx.Response:
        """Press the button of the sign-in page; return the answer."""
        page = self.page(**query)
        return self.http.post(page, data={"key": key_of(self.http.get(page)), "action": "oidc"}, headers=SAME_ORIGIN)

    def begin(self, **query: str) -> str:
        """Press the button of the sign-in page; return the URL at the issuer."""
        answer = self.leave(**query)
        assert answer.status_code == 200, answer.text
        found = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', answer.text)
        assert found, answer.text
        return found[1].replace("&amp;", "&")

    def callback(self, at_issuer: str, login: str) -> str:
        """Sign in at the real provider; return the URL of the daemon to which it sends the browser."""
        url, answer = at_issuer, self.http.get(at_issuer)
        for _ in range(20):
            if answer.is_redirect:
                url = urljoin(url, answer.headers["Location"])
                if url.startswith(f"{self.daemon.url}/v3/auth/oidc/callback"):
                    return url
                answer = self.http.get(url)
                continue
            form = re.search(r'<form[^>]*action="([^"]+)"', answer.text)
            assert form, (answer.status_code, answer.text[:2000])
            fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', answer.text))
            if 'name="login"' in answer.text:
                fields |= {"login": login, "password": "any"}
            url = urljoin(url, form[1])
            answer = self.http.post(url, data=fields)
        raise AssertionError("the provider does not send the browser back")

    def sign_in(self, login: str, **query: str) -> httpx.Response:
        """Sign in with this login; return the daemon's answer to the callback."""
        return self.http.get(self.callback(self.begin(**query), login))

    def session(self) -> str:
        """Return the cookie with the agent session, or ""."""
        return self.http.cookies.get("tminus") or ""

    def me(self) -> httpx.Response:
        """Request `/me` as one of the daemon's own pages does."""
        from tminus.api import browser_session

        cookie = self.session()
        headers = {"Cookie": f"tminus={cookie}", "X-CSRF-Token": browser_session.key_of(cookie)}
        return self.daemon.get("/me", by=None, headers=headers)


# --- the hostile provider ---------------------------------------------------------------------------------------------

Answer = tuple[int, Mapping[str, str], bytes]


def as_json(value: Any, status: int = 200, **headers: str) -> Answer:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode()


@dataclass
class Hostile:
    """An issuer with responses that a test can replace: `replaced` has a function of the sent form for each path.

    Without replacements it behaves correctly.
    """

    port: int
    key: jwk.RSAKey = field(default_factory=lambda: jwk.RSAKey.generate_key(2048, {"kid": "k1"}, private=True))
    replaced: dict[str, Callable[[Mapping[str, str]], Answer]] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    """Claims that differ from the correct ones; None: the claim is missing."""
    header: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    nonce: str = ""
    """The nonce of the attempt for which a code is exchanged."""

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, path: str) -> int:
        return sum(one == path for one, _ in self.requests)

    def document(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/auth",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            **self.metadata,
        }

    def right_claims(self) -> dict[str, Any]:
        now = int(time.time())
        return {
            "iss": self.issuer, "sub": "mallory", "aud": CLIENT_ID, "exp": now + 300, "iat": now, "nonce": self.nonce,
            "groups": ["support"], "name": "Mallory", "email": "m@example.org",
        }  # fmt: skip

    def id_token(self) -> str:
        claims = {name: value for name, value in {**self.right_claims(), **self.claims}.items() if value is not None}
        header = {"alg": "RS256", "kid": "k1", **self.header}
        return jws.serialize_compact(
            {name: value for name, value in header.items() if value is not None},
            json.dumps(claims).encode(),
            self.key,
            algorithms=[header["alg"]],
        )

    def keys(self) -> dict[str, Any]:
        return {"keys": [{**self.key.as_dict(private=False), "kid": "k1", "use": "sig"}]}

    def answer(self, path: str, form: Mapping[str, str]) -> Answer:
        self.requests.append((path, dict(form)))
        if path in self.replaced:
            return self.replaced[path](form)
        if path == "/.well-known/openid-configuration":
            return as_json(self.document())
        if path == "/jwks":
            return as_json(self.keys())
        if path == "/token":
            return as_json({"access_token": "a", "token_type": "Bearer", "id_token": self.id_token()})
        return as_json({}, 404)


@contextmanager
def hostile() -> Iterator[Hostile]:
    """Run a hostile issuer for the `with` block."""
    one = Hostile(free_port())

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: Any) -> None:
            pass

        def _respond(self, form: Mapping[str, str]) -> None:
            status, headers, body = one.answer(urlsplit(self.path).path, form)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):  # the daemon may disconnect before the end of the body
                self.wfile.write(body)

        def do_GET(self) -> None:
            self._respond({})

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self._respond({name: values[0] for name, values in parse_qs(sent).items()})

    server = ThreadingHTTPServer(("127.0.0.1", one.port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield one
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
