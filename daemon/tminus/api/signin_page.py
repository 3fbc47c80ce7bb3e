"""Render the sign-in page: HTML without scripts, in the language of the browser."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined, Template

from tminus.api.receivers import Receiver, form_action
from tminus.api.response import Headers, Response
from tminus.pages import best_language, read_texts

_FOLDER = Path(__file__).parent / "signin"


class SignInPage:
    """The page. Its files are read when the daemon starts."""

    def __init__(self) -> None:
        self._texts: Mapping[str, Mapping[str, str]] = read_texts(_FOLDER)
        self._style = (_FOLDER / "page.css").read_text("utf-8")
        self._source = (_FOLDER / "page.html").read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(self._style.encode()).digest()).decode()
        self._policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; frame-ancestors 'none'"

    @cached_property
    def _template(self) -> Template:
        """The compiled template. Compiling it takes 12 ms, and many sites never show the page."""
        environment = Environment(
            loader=DictLoader({"page.html": self._source}), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        return environment.get_template("page.html")

    def form(
        self,
        accept_language: str,
        organization: str,
        key: str,
        *,
        receiver: Receiver | None,
        agent: str = "",
        problem: str = "",
        oidc: bool = False,
        target: str = "",
        seconds: int = 0,
    ) -> str:
        """Return the page with its form. `agent` is the name of the agent who is signed in; `problem` names a text.

        `oidc`: whether agents can sign in at the issuer, too. `target`: where the form is sent; "": to its own address.
        """
        text = self._texts[best_language(accept_language)]
        title = text["title_signed_in" if agent else "title"].format(organization=organization)
        return self._render(
            accept_language, title, key=key, receiver=receiver, agent=agent, refused=None,
            error=text[problem].format(seconds=seconds) if problem else "", oidc=oidc, target=target,
            is_wrong=problem == "wrong",
        )  # fmt: skip

    def refused(self, accept_language: str, receiver: str) -> str:
        """Return the page for a receiver that is not listed."""
        title = self._texts[best_language(accept_language)]["title_refused"]
        return self._render(accept_language, title, refused=receiver, error="")

    def leaving(self, accept_language: str, url: str) -> str:
        """Return the page that sends the browser to the issuer.

        Not a redirect: browsers apply `form-action` to redirects after a form, also to those among the issuer's hosts.
        """
        title = self._texts[best_language(accept_language)]["title_leaving"]
        return self._render(accept_language, title, refused=None, error="", leaving=url)

    def answer(self, html: str, status: int, receiver: Receiver | None, headers: Headers) -> Response:
        """Return the page as a response. No site may frame it; its form leads only here or to the receiver."""
        allowed = f"; form-action 'self'{f' {form_action(receiver)}' if receiver else ''}"
        own: Headers = [
            (b"content-security-policy", f"{self._policy}{allowed}".encode()),
            # With `no-referrer` browsers would send `Origin: null` with the form.
            (b"referrer-policy", b"same-origin"),
        ]
        return Response(html.encode(), "text/html; charset=utf-8", status, [*own, *headers])

    def _render(self, accept_language: str, title: str, **values: Any) -> str:
        chosen = best_language(accept_language)
        values.setdefault("leaving", "")
        return self._template.render(
            language=chosen, text=self._texts[chosen], style=self._style, title=title, **values
        )
