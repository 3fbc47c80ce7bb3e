"""The checks of an ID token (OpenID Connect Core 1.0, 3.1.3.7). authlib and joserfc do most of them."""

import base64
import binascii
import hashlib
import hmac
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from authlib.oidc.core.claims import CodeIDToken
from joserfc import jwk, jws
from joserfc.errors import JoseError, SecurityWarning

from tminus.oidc.errors import SignInRefused

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519",
)  # fmt: skip
"""The accepted algorithms: neither `none` nor those with a shared secret (`HS256` and others)."""

LEEWAY = 60
"""Seconds by which the issuer's clock may differ from the daemon's."""

MAX_AGE = 600
"""Seconds after which an ID token is too old to have been made for this sign-in, whenever it expires."""

MAX_TOKEN = 64 * 1024
MAX_SUBJECT = 255

RSA_BITS = range(2048, 8193)
"""Sizes of RSA keys: a smaller one can be broken, a larger one takes long to check."""

RSA_EXPONENT_BITS = range(2, 65)
"""Sizes of RSA exponents: with 1 anybody can sign, and a large one takes long to check."""

MAX_KEYS = 100

_MEMBERS = ("kty", "kid", "alg", "key_ops", "n", "e", "crv", "x", "y")
"""The members of a key that are used: none that is secret, and none that leads to another address."""

_FAMILIES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""The beginning of an algorithm -> the type of its keys."""


class UnknownKey(Exception):
    """None of the issuer's known keys can have made the signature."""


def usable_keys(key_set: Mapping[str, Any]) -> list[jwk.Key]:
    """Return the keys of a key set that can check signatures. Others are left out: a set may contain new kinds."""
    listed = key_set.get("keys")
    keys: dict[tuple[str, Any, Any], jwk.Key] = {}  # some issuers list a key twice
    for one in listed[:MAX_KEYS] if isinstance(listed, list) else ():
        if isinstance(one, dict) and one.get("use", "sig") == "sig" and one.get("kty") in _FAMILIES.values():
            key = _import(one)
            if key is not None:
                keys.setdefault((key.thumbprint(), key.as_dict().get("kid"), key.as_dict().get("alg")), key)
    return list(keys.values())


def _import(one: dict[str, Any]) -> jwk.Key | None:
    try:
        if one["kty"] == "RSA" and (_bits(one["n"]) not in RSA_BITS or _bits(one["e"]) not in RSA_EXPONENT_BITS):
            return None
        key = jwk.import_key({name: one[name] for name in _MEMBERS if one.get(name) is not None})
        _ = key.public_key  # joserfc reads the numbers now, not when it checks the first signature
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    else:
        return key


def _bits(number: object) -> int:
    if not isinstance(number, str) or len(number) > 4096:
        return 0
    return int.from_bytes(base64.urlsafe_b64decode(number + "=" * (-len(number) % 4))).bit_length()


def header_of(token: object) -> dict[str, Any]:
    """Return the header of an ID token, whose signature is not checked yet. Raises `SignInRefused`."""
    if not isinstance(token, str) or len(token) > MAX_TOKEN or token.count(".") != 2:
        raise SignInRefused("id_token", "it is missing, too long, or not a signed token")
    head = token.partition(".")[0]
    try:
        header = orjson.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (binascii.Error, ValueError):
        header = None
    if not isinstance(header, dict) or header.get("alg") not in ALGORITHMS:
        raise SignInRefused("id_token", f"alg {header.get('alg') if isinstance(header, dict) else None!r} not allowed")
    if "crit" in header:
        raise SignInRefused("id_token", "its header has crit")
    return header


def check(
    token: str,
    header: Mapping[str, Any],
    keys: Sequence[jwk.Key],
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    access_token: str,
    now: int,
) -> dict[str, Any]:
    """Return the claims of an ID token. Raises `UnknownKey`, `SignInRefused`."""
    key = _key_for(header, keys)
    try:
        with warnings.catch_warnings(
            category=SecurityWarning, action="ignore"
        ):  # about the name `EdDSA`, which is only old
            signed = jws.deserialize_compact(token, key, algorithms=[header["alg"]])
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise SignInRefused("id_token", f"its signature is not valid ({type(error).__name__})") from None
    claims = _claims(signed.payload)
    sent = claims.get("nonce")
    # Compared here in constant time: authlib's comparison takes longer the more characters are right.
    if not isinstance(sent, str) or not hmac.compare_digest(sent.encode("utf-8", "replace"), nonce.encode()):
        raise SignInRefused("id_token", "nonce is not that of this sign-in")
    for name in ("exp", "iat", "nbf"):
        if name in claims and (type(claims[name]) not in (int, float) or not 0 <= claims[name] < 2**40):
            raise SignInRefused("id_token", f"{name} is no time")
    checked = CodeIDToken(
        claims,
        dict(header),
        options={"iss": {"essential": True, "value": issuer}, "aud": {"essential": True, "value": client_id}},
        params={"nonce": nonce, "client_id": client_id},
    )
    try:
        checked.validate(now=now, leeway=LEEWAY)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SignInRefused("id_token", f"{type(error).__name__}: {error}") from None
    _check_more(claims, issuer, client_id, now)
    at_hash = claims.get("at_hash")
    if at_hash is not None and access_token and at_hash != _at_hash(access_token, header["alg"], key):
        raise SignInRefused("id_token", "at_hash is that of another access token")
    return claims


def _claims(payload: bytes | None) -> dict[str, Any]:
    # orjson, unlike the parser of joserfc, has a limit for nested lists, and accepts only UTF-8.
    try:
        claims = orjson.loads(payload or b"")
    except orjson.JSONDecodeError:
        claims = None
    if not isinstance(claims, dict):
        raise SignInRefused("id_token", "its claims are not a JSON object")
    return claims


def _at_hash(access_token: str, alg: str, key: jwk.Key) -> str:
    """Return the `at_hash` of an access token. authlib does not support `Ed25519` and Ed448 keys."""
    sent = access_token.encode("ascii", "replace")
    if not alg.startswith("Ed"):
        digest = hashlib.new(f"sha{alg[2:]}", sent).digest()
    elif key.as_dict().get("crv") == "Ed448":
        digest = hashlib.shake_256(sent).digest(114)
    else:
        digest = hashlib.sha512(sent).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).decode().rstrip("=")


def _check_more(claims: Mapping[str, Any], issuer: str, client_id: str, now: int) -> None:
    """Check the most important claims again, in case a library stops checking them. Raises `SignInRefused`."""
    audience = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
    subject = claims["sub"]
    if claims["iss"] != issuer:
        raise SignInRefused("id_token", "iss is another issuer")
    party = claims.get("azp")
    if client_id not in audience or (party != client_id and (len(audience) > 1 or party is not None)):
        raise SignInRefused("id_token", "aud is another client")
    if claims["exp"] + LEEWAY <= now:
        raise SignInRefused("id_token", "it has expired")
    if claims.get("nbf", 0) > now + LEEWAY or claims["iat"] > now + LEEWAY:
        raise SignInRefused("id_token", "it is not valid yet")
    if claims["iat"] < now - MAX_AGE - LEEWAY:
        raise SignInRefused("id_token", "it is too old")
    if not isinstance(subject, str) or not 1 <= len(subject) <= MAX_SUBJECT or not subject.isprintable():
        raise SignInRefused("id_token", "sub is no text of 1 to 255 characters")


def _key_for(header: Mapping[str, Any], keys: Sequence[jwk.Key]) -> jwk.Key:
    """Return the key with which the issuer has signed. Raises `UnknownKey`."""
    family, kid, alg = _FAMILIES[header["alg"][:2]], header.get("kid"), header["alg"]
    fitting = [key for key in keys if key.key_type == family and key.as_dict().get("alg", alg) == alg]
    named = [key for key in fitting if key.as_dict().get("kid") == kid] if kid is not None else fitting
    # Without a `kid`, only one key may fit: the standard forbids trying several.
    if len(named) != 1:
        raise UnknownKey
    return named[0]
