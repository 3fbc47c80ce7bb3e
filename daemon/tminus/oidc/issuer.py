"""The OpenID Connect issuer: its discovery document, its keys, and the exchange of a code for a person's claims."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, urlsplit

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.discovery import get_well_known_url
from joserfc import jwk

from tminus import clock
from tminus.oidc import id_token
from tminus.oidc.attempt import Attempt
from tminus.oidc.cache import Cached
from tminus.oidc.errors import Refusal, SignInRefused
from tminus.oidc.fetch import Fetcher
from tminus.oidc.settings import Access

MAX_URL = 2048

_ACCESS_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")
"""An access token that can be sent in a header."""


@dataclass(frozen=True)
class Metadata:
    """The part of the discovery document that the daemon uses."""

    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str
    """"" if there is none."""
    auth_method: str
    sends_issuer: bool
    """Whether the issuer names itself when it sends the browser back (RFC 9207)."""


class Issuer:
    """One issuer. Everything runs on the daemon's event loop."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._oidc = access.settings
        self._fetcher = Fetcher(access.trust)
        self._metadata: Cached[Metadata] = Cached()
        self._keys: Cached[list[jwk.Key]] = Cached()

    @property
    def name(self) -> str:
        """The issuer's URL."""
        return self._oidc.issuer

    async def authorization_url(self, attempt: Attempt, redirect_uri: str) -> str:
        """Return the URL at the issuer to which the browser goes. Raises `SignInRefused`."""
        metadata = await self._discover()
        try:
            url: str = prepare_grant_uri(
                metadata.authorization_endpoint,
                client_id=self._oidc.client_id,
                response_type="code",
                redirect_uri=redirect_uri,
                scope=" ".join(dict.fromkeys(("openid", *self._oidc.scopes))),
                state=attempt.state,
                nonce=attempt.nonce,
                code_challenge=create_s256_code_challenge(attempt.verifier),
                code_challenge_method="S256",
            )
        except ValueError:  # authlib reads the endpoint's query, and refuses what it would not write itself
            raise SignInRefused("issuer", "authorization_endpoint has a query that is not percent-encoded") from None
        return url

    async def claims(self, attempt: Attempt, code: str, sent_issuer: str | None, redirect_uri: str) -> dict[str, Any]:
        """Exchange a code; return the claims of the person, from the ID token and the issuer's user information.

        `sent_issuer`: the parameter `iss` with which the browser came back, or None. Raises `SignInRefused`.
        """
        metadata = await self._discover()
        if sent_issuer is None and metadata.sends_issuer:
            raise SignInRefused("mix_up", "iss is missing, although the discovery document announces it")
        if sent_issuer is not None and sent_issuer != self._oidc.issuer:
            raise SignInRefused("mix_up", f"{sent_issuer} has sent the browser")
        answer = await self._redeem(metadata, attempt, code, redirect_uri)
        access_token = answer.get("access_token")
        if not isinstance(access_token, str) or not _ACCESS_TOKEN.fullmatch(access_token):
            access_token = ""
        claims = await self._checked(metadata, attempt, answer.get("id_token"), access_token)
        wanted = {self._oidc.agent_claim, self._oidc.groups_claim, "name", "email"}
        if self._oidc.agent_claim == "email":
            wanted.add("email_verified")
        if access_token and metadata.userinfo_endpoint and not all(name in claims for name in wanted):
            claims = await self._with_userinfo(metadata, claims, access_token)
        return claims

    # --- the steps of an exchange -------------------------------------------------------------------------------------

    async def _redeem(self, metadata: Metadata, attempt: Attempt, code: str, redirect_uri: str) -> dict[str, Any]:
        body = prepare_token_request(
            "authorization_code", code=code, redirect_uri=redirect_uri, code_verifier=attempt.verifier
        )
        name, secret = self._oidc.client_id, self.access.client_secret
        if metadata.auth_method == "client_secret_basic":
            # RFC 6749, 2.3.1: as in a form. authlib does not do this itself.
            name, secret = quote_plus(name), quote_plus(secret)
        auth = ClientAuth(name, secret, metadata.auth_method)
        url, headers, body = auth.prepare("POST", metadata.token_endpoint, {}, body)
        status, answer = await self._fetcher.post(url, headers, body)
        if status != 200 or "error" in answer:
            error = answer.get("error")
            kind: Refusal = "code" if error == "invalid_grant" else "issuer"
            raise SignInRefused(kind, f"the token endpoint answered {status} {error if isinstance(error, str) else ''}")
        return answer

    async def _checked(self, metadata: Metadata, attempt: Attempt, token: object, access_token: str) -> dict[str, Any]:
        """Return the claims of an ID token, after all checks. Raises `SignInRefused`."""
        header = id_token.header_of(token)
        keys, is_fresh = await self._keys.get(metadata.jwks_uri, self._fetch_keys)
        rules: dict[str, Any] = {
            "issuer": self._oidc.issuer,
            "client_id": self._oidc.client_id,
            "nonce": attempt.nonce,
            "access_token": access_token,
            "now": int(clock.outside().timestamp()),
        }
        assert isinstance(token, str), "`header_of` has checked it"
        with suppress(id_token.UnknownKey):
            return id_token.check(token, header, keys, **rules)
        # `refresh` limits the fetches: otherwise each token with an invented key would cause one.
        more = None if is_fresh else await self._keys.refresh(metadata.jwks_uri, self._fetch_keys)
        with suppress(id_token.UnknownKey):
            if more is not None:
                return id_token.check(token, header, more, **rules)
        raise SignInRefused("id_token", "it is signed with an unknown key")

    async def _with_userinfo(self, metadata: Metadata, claims: dict[str, Any], access_token: str) -> dict[str, Any]:
        """Return the claims, completed by those of the user information. Those of the ID token win, since it is signed.

        An address and `email_verified` are taken from the same source: the ID token and the user information may name
        different addresses.
        """
        more = await self._fetcher.get(metadata.userinfo_endpoint, {"Authorization": f"Bearer {access_token}"})
        if more.get("sub") != claims["sub"]:
            raise SignInRefused("id_token", "the user information is about somebody else")
        merged = {**more, **claims}
        source = claims if "email_verified" in claims or more.get("email") != claims.get("email") else more
        if "email" not in claims:
            source = more
        merged["email_verified"] = source.get("email_verified")
        return merged

    # --- what is cached -----------------------------------------------------------------------------------------------

    async def _discover(self) -> Metadata:
        metadata, _ = await self._metadata.get(
            get_well_known_url(self._oidc.issuer, external=True), self._fetch_metadata
        )
        return metadata

    async def _fetch_metadata(self, url: str) -> Metadata:
        return self._parse(await self._fetcher.get(url))

    def _parse(self, document: Mapping[str, Any]) -> Metadata:
        if document.get("issuer") != self._oidc.issuer:
            raise SignInRefused("issuer", f"the discovery document is that of {document.get('issuer')}")
        methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        methods = methods if isinstance(methods, list) else []
        method = next((one for one in ("client_secret_basic", "client_secret_post") if one in methods), None)
        if method is None:
            raise SignInRefused("issuer", "it accepts neither client_secret_basic nor client_secret_post")
        return Metadata(
            self._endpoint(document, "authorization_endpoint"),
            self._endpoint(document, "token_endpoint"),
            self._endpoint(document, "jwks_uri"),
            self._endpoint(document, "userinfo_endpoint") if "userinfo_endpoint" in document else "",
            method,
            document.get("authorization_response_iss_parameter_supported") is True,
        )

    def _endpoint(self, document: Mapping[str, Any], name: str) -> str:
        """Return the URL of an endpoint. It must be at the issuer's host, or at one that the configuration lists.

        Otherwise a discovery document could send the client secret, or the daemon, to any address.
        """
        url = document.get(name)
        own = urlsplit(self._oidc.issuer)
        try:
            parts = urlsplit(url) if isinstance(url, str) and len(url) <= MAX_URL else None
        except ValueError:
            parts = None
        if parts is None or not isinstance(url, str) or not url.isascii() or not url.isprintable() or " " in url:
            raise SignInRefused("issuer", f"{name} is no URL")
        allowed = {own.netloc.lower(), *(host.lower() for host in self._oidc.hosts)}
        if parts.scheme != own.scheme or parts.netloc.lower() not in allowed or parts.fragment or "\\" in url:
            raise SignInRefused("issuer", f"{name} is at {parts.netloc}, which signin.oidc.hosts does not list")
        return url

    async def _fetch_keys(self, url: str) -> list[jwk.Key]:
        keys = id_token.usable_keys(await self._fetcher.get(url))
        if not keys:
            raise SignInRefused("issuer", "its key set has no key that can check a signature")
        return keys
