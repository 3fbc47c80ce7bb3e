"""Sign in as a browser does: follow the page's form, keep its cookies, read codes from redirects."""

import html
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import httpx

from tests.acceptance.daemons import Daemon
from tests.support.plain_http import NO_TLS
from tminus.api import browser_session

CALLBACK = "https://desk.example.com/signed-in.html"
"""A receiver, as the configuration lists it."""

INTENT = "q1w2e3r4"

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def receiver_url(callback: str = CALLBACK, intent: str = INTENT) -> str:
    """Return a `receiver_url` as the original's client makes it."""
    return f"{callback}?&login_intent_token={intent}"


@dataclass
class Redirect:
    """A redirect to a receiver."""

    location: str

    @property
    def page(self) -> str:
        return self.location.partition("#")[0]

    @property
    def fragment(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.location).fragment, keep_blank_values=True))

    @property
    def code(self) -> str:
        return self.fragment["code"]


class Browser:
    """A browser that a person uses to sign in at a daemon."""

    def __init__(self, daemon: Daemon, provider: str = "azure", instance: str = "*") -> None:
        self.daemon = daemon
        self.provider = provider
        self.instance = instance
        # It keeps no connection, so nothing has to be closed.
        self.http = httpx.Client(verify=NO_TLS, timeout=20, limits=httpx.Limits(max_keepalive_connections=0))

    def url(self, receiver: str | None = None) -> str:
        """Return the address of the sign-in page, with the query that the original's client sends."""
        address = f"{self.daemon.url}/v3/auth/{self.provider}/goToAuth?instance_url={quote(self.instance, safe='')}"
        return address if receiver is None else f"{address}&receiver_url={quote(receiver, safe='')}"

    def open(self, receiver: str | None = None, **headers: str) -> httpx.Response:
        return self.http.get(self.url(receiver), headers=headers)

    def submit(
        self, receiver: str | None = None, *, headers: dict[str, str] | None = None, **fields: str
    ) -> httpx.Response:
        """Open the page and send its form with these fields."""
        fields = {"key": key_of(self.open(receiver)), **fields}
        return self.http.post(self.url(receiver), data=fields, headers=headers or SAME_ORIGIN)

    def sign_in(self, who: str = "anna", receiver: str | None = None) -> Redirect:
        """Sign in with an agent's token; return the redirect."""
        return redirect(self.submit(receiver, action="sign_in", token=self.daemon.tokens[who]))

    def code(self, who: str = "anna") -> str:
        """Sign in for the usual receiver; return the code."""
        return self.sign_in(who, receiver_url()).code

    def exchange(self, code: str, *, origin: str | None = "https://desk.example.com", **changed: str) -> httpx.Response:
        """Exchange a code, as the original's client does from the page of the receiver."""
        sent = {"provider": self.provider, "instance_url": self.instance, **changed}
        provider = sent.pop("provider")
        return httpx.get(
            f"{self.daemon.url}/v3/auth/{provider}/exchangeCode",
            params={"code": code, **sent, "state": ""},
            headers={"Origin": origin} if origin else {},
            timeout=20,
            verify=NO_TLS,
        )

    def me_by_cookie(self, cookie: str) -> httpx.Response:
        """Request `/me` as one of the daemon's own pages does."""
        headers = {"Cookie": f"tminus={cookie}", "X-CSRF-Token": browser_session.key_of(cookie)}
        return self.daemon.get("/me", by=None, headers=headers)

    def me(self, secret: str) -> httpx.Response:
        return self.daemon.get("/me", by=None, headers={"Session-id": secret})

    def secret(self, code: str) -> str:
        """Exchange a code; return the secret of the agent session."""
        answer = self.exchange(code)
        assert answer.status_code == 200, answer.text
        begun: Any = answer.json()["session"]["id"]
        return str(begun)


def key_of(page: httpx.Response) -> str:
    """Return the key in the form of the page."""
    found = re.search('name="key" value="([0-9a-f]{64})"', page.text)
    assert found, page.text
    return found[1]


def text_of(page: httpx.Response) -> str:
    """Return the text of a page without tags and style."""
    without_style = re.sub("<style>.*?</style>", "", page.text, flags=re.DOTALL)
    return html.unescape(" ".join(re.sub("<[^>]*>", " ", without_style).split()))


def redirect(answer: httpx.Response) -> Redirect:
    assert answer.status_code == 303, (answer.status_code, answer.text)
    return Redirect(answer.headers["Location"])
