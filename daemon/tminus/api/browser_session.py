"""The cookies of the sign-in page, and the key that proves that one of the daemon's own pages sent a request.

A browser also sends cookies with requests that pages of other sites cause. A cookie therefore proves nothing without
the key, which is derived from it: only the daemon's own pages contain the key, and other pages cannot read them.
"""

import hashlib
import hmac
import re
from urllib.parse import urlsplit

from tminus.api.request_context import RequestContext
from tminus.config import Settings
from tminus.domain import ids
from tminus.oidc.attempt import LIFETIME
from tminus.sessions.commands import AGENT_SESSION_LIFETIME

NAME = "tminus"
"""The cookie with the secret of the agent session."""

FORM_NAME = "tminus-form"
"""The cookie with a random value, for the form of a browser that is not signed in."""

ATTEMPT_NAME = "tminus-oidc"
"""The cookie with an attempt to sign in by OpenID Connect."""

KEY_HEADER = b"x-csrf-token"
"""The header with the key, for API calls that are authenticated by the cookie."""

_VALUE = re.compile(f"[0-9A-Za-z]{{{ids.TOKEN_LENGTH}}}")
_ATTEMPT = re.compile("[0-9A-Za-z_-]+")


def secret(context: RequestContext) -> str:
    """Return the secret of the agent session in the cookie, or "". By itself it does not authenticate a request."""
    return _cookie(context, NAME)


def visitor(context: RequestContext) -> str:
    """Return the value of the form's cookie, or ""."""
    return _cookie(context, FORM_NAME)


def attempt(context: RequestContext) -> str:
    """Return the attempt to sign in by OpenID Connect in the cookie, or ""."""
    return _cookie(context, ATTEMPT_NAME, _ATTEMPT)


def proven(context: RequestContext) -> str:
    """Return the secret in the cookie if the request has the key in a header and comes from the daemon's own page."""
    key = context.header(KEY_HEADER)
    found = secret(context) if key else ""
    return found if found and is_key(key, found) and is_own_page(context) else ""


def key_of(value: str) -> str:
    """Return the key that belongs to the value of a cookie."""
    return hmac.new(value.encode(), b"tminus form", hashlib.sha256).hexdigest()


def is_key(key: str, value: str) -> bool:
    """Return whether a key belongs to the value of a cookie, in a time that reveals nothing about the right key."""
    return hmac.compare_digest(key.encode("utf-8", "surrogateescape"), key_of(value).encode())


def is_own_page(context: RequestContext) -> bool:
    """Return whether a page of the daemon's own origin sent the request, or the browser does not report the origin."""
    if context.header(b"sec-fetch-site") not in ("", "same-origin", "none"):
        return False
    origin = context.header(b"origin")
    if not origin:
        return True
    settings = context.services.settings
    public, host = urlsplit(settings.server.urls().public), context.header(b"host")
    own = {f"{public.scheme}://{public.netloc}", f"https://{host}"}
    if not _is_secure(settings):  # if the pages have TLS, anybody on the network could forge one without
        own.add(f"http://{host}")
    return origin in own


def set_session(settings: Settings, value: str) -> tuple[bytes, bytes]:
    """Return the header that stores the secret of an agent session for as long as that lasts."""
    return _set_cookie(settings, NAME, value, int(AGENT_SESSION_LIFETIME.total_seconds()))


def remove_session(settings: Settings) -> tuple[bytes, bytes]:
    """Return the header that removes the cookie with the secret."""
    return _set_cookie(settings, NAME, "", 0)


def set_visitor(settings: Settings, value: str) -> tuple[bytes, bytes]:
    """Return the header that stores the form's cookie until the browser is closed."""
    return _set_cookie(settings, FORM_NAME, value, None)


def set_attempt(settings: Settings, value: str) -> tuple[bytes, bytes]:
    """Return the header that stores an attempt to sign in by OpenID Connect."""
    return _set_cookie(settings, ATTEMPT_NAME, value, int(LIFETIME.total_seconds()))


def remove_attempt(settings: Settings) -> tuple[bytes, bytes]:
    """Return the header that removes the cookie with the attempt."""
    return _set_cookie(settings, ATTEMPT_NAME, "", 0)


def _is_secure(settings: Settings) -> bool:
    return settings.server.urls().public.startswith("https://")


def _full_name(settings: Settings, name: str) -> str:
    # With this prefix browsers refuse a cookie that another host of the domain, or a page without TLS, tries to set.
    return f"__Host-{name}" if _is_secure(settings) else name


def _set_cookie(settings: Settings, name: str, value: str, seconds: int | None) -> tuple[bytes, bytes]:
    text = f"{_full_name(settings, name)}={value}; Path=/; HttpOnly; SameSite=Lax"
    if seconds is not None:
        text += f"; Max-Age={seconds}"
    if _is_secure(settings):
        text += "; Secure"
    return b"set-cookie", text.encode()


def _cookie(context: RequestContext, name: str, pattern: re.Pattern[str] = _VALUE) -> str:
    """Return the value of a cookie, or "" if the browser sends none, or several: another host may have set one."""
    full = _full_name(context.services.settings, name)
    # Browsers allow other blanks in a name, so a host of the domain could set one that `strip()` makes equal to ours.
    pairs = [pair.strip(" \t").partition("=") for pair in context.header(b"cookie").split(";")]
    values = {value for found, _, value in pairs if found == full and pattern.fullmatch(value)}
    return values.pop() if len(values) == 1 else ""
