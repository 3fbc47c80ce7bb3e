"""The web pages to which a browser returns after the sign-in (`signin.receivers`).

The URL to which the daemon redirects begins with text from the configuration. The caller gives only the query and a
value in the fragment, in characters that are allowed there. So no spelling of a URL leads to another page.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

MAX_URL = 2048
"""Maximum characters of a `receiver_url`."""

_QUERY = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*")
_INTENT = "login_intent_token="
MAX_INTENT = 256
"""Maximum characters of a `login_intent_token`. The original's client sends 43."""


class Receiver(NamedTuple):
    """A listed page, with the query that the caller added."""

    url: str
    """As `signin.receivers` has it."""
    query: str
    intent: str
    """`login_intent_token` from the query, percent-encoded as it was sent; "" if there is none."""

    @property
    def origin(self) -> str:
        return origin_of(self.url)

    def accepted(self, code: str) -> str:
        """Return the URL that passes a sign-in code to the page, in the fragment: servers do not see or log it."""
        return self._with_fragment(f"code={code}", "success=true")

    def cancelled(self) -> str:
        """Return the URL that reports to the page that the agent did not sign in."""
        return self._with_fragment("", "success=false")

    def _with_fragment(self, before: str, after: str) -> str:
        intent = f"{_INTENT}{self.intent}" if self.intent else ""
        page = f"{self.url}?{self.query}" if self.query else self.url
        return f"{page}#{'&'.join(filter(None, (before, intent, after)))}"


def origin_of(url: str) -> str:
    """Return the origin of a listed page, as browsers send it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def form_action(receiver: Receiver) -> str:
    """Return the source for `form-action` that allows a form to be redirected to a page."""
    # A content security policy cannot name an IPv6 address.
    return f"{urlsplit(receiver.url).scheme}:" if "[" in receiver.url else receiver.origin


def find_receiver(receiver_url: str, receivers: Sequence[str]) -> Receiver | None:
    """Return the listed page that a caller's `receiver_url` names; None if it is not listed or not well formed."""
    url, _, query = receiver_url.partition("?")
    if len(receiver_url) > MAX_URL or url not in receivers or not _QUERY.fullmatch(query):
        return None
    intent = next((pair.removeprefix(_INTENT) for pair in query.split("&") if pair.startswith(_INTENT)), "")
    if len(intent) > MAX_INTENT:
        return None
    return Receiver(url, query, intent)
