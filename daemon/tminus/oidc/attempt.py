"""One attempt to sign in: what the browser keeps in a cookie while it is at the issuer.

All values that the protocol needs are derived from one random secret, so nothing is stored at the daemon: an attempt
can begin at one daemon and end at another, and nobody can fill the database with attempts.
"""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson

from tminus.domain import ids
from tminus.oidc.errors import SignInRefused

LIFETIME = timedelta(minutes=10)
"""How long a person may take to sign in at the issuer."""

MAX_COOKIE = 3900
"""Maximum characters of the cookie's value: browsers drop a cookie whose name and value exceed 4,096."""


@dataclass(frozen=True)
class Attempt:
    """An attempt, and the query of the sign-in page with which it began."""

    provider: str
    instance: str
    receiver_url: str
    back: str
    """Where to go after the sign-in, if not to a receiver: `agent` for the agents' page, or ""."""
    expires: int
    """In seconds since 1970."""
    issuer: str = field(kw_only=True)
    """The issuer at which the attempt began. The state depends on it, so no other issuer gets the code."""
    secret: str = field(default_factory=ids.token, repr=False)

    def cookie(self) -> str:
        """Return the value of the cookie: characters that need no escaping."""
        parts = [self.secret, self.expires, self.provider, self.instance, self.receiver_url, self.back]
        return base64.urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")

    @property
    def state(self) -> str:
        """The state, which also proves that nobody has changed the cookie's other values since the attempt began."""
        return self._derived(f"state {self.issuer} {self.cookie()}")

    @property
    def nonce(self) -> str:
        return self._derived("nonce")

    @property
    def verifier(self) -> str:
        """The code verifier of PKCE."""
        return self._derived("verifier")

    def is_state(self, sent: str) -> bool:
        """Return whether the issuer sent the browser back with this attempt's state. Compares in constant time."""
        return hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), self.state.encode())

    def _derived(self, purpose: str) -> str:
        made = hmac.new(self.secret.encode(), f"tminus oidc {purpose}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(made).decode().rstrip("=")


def begin(now: datetime, issuer: str, provider: str, instance: str, receiver_url: str, back: str) -> Attempt:
    """Return a new attempt at an issuer. Raises `SignInRefused` if its cookie would be too long."""
    attempt = Attempt(provider, instance, receiver_url, back, int((now + LIFETIME).timestamp()), issuer=issuer)
    if len(attempt.cookie()) > MAX_COOKIE:
        raise SignInRefused("state", "the receiver's URL is too long for a cookie")
    return attempt


def parse(cookie: str, now: datetime, issuer: str) -> Attempt | None:
    """Return the attempt at an issuer in a cookie; None if there is none, or it has expired."""
    parts = _parts(cookie) if cookie and len(cookie) <= MAX_COOKIE else None
    if not isinstance(parts, list) or len(parts) != 6:
        return None
    secret, expires, provider, instance, receiver_url, back = parts
    if not isinstance(expires, int) or not all(
        isinstance(text, str) for text in (secret, provider, instance, receiver_url, back)
    ):
        return None
    if len(secret) != ids.TOKEN_LENGTH or expires <= now.timestamp():
        return None
    return Attempt(provider, instance, receiver_url, back, expires, secret, issuer=issuer)


def _parts(cookie: str) -> Any:
    try:
        return orjson.loads(base64.urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4)))
    except (binascii.Error, ValueError):
        return None
