"""Find the agent of a person whom the OpenID Connect issuer has signed in."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson

from tminus import clock
from tminus.api.authentication import SignedIn, by_issuer
from tminus.api.known_agents import as_agent
from tminus.api.request_context import RequestContext
from tminus.config import Agent
from tminus.config.settings import Oidc
from tminus.domain.types import Role
from tminus.logs.repeated import REPEATED
from tminus.oidc.errors import SignInRefused
from tminus.storage import agents
from tminus.storage.agents import Person

MAX_NAME = 255
MAX_EMAIL = 254
MAX_GROUPS = 5000

GUESSES = ("state", "code", "mix_up", "id_token")
"""Refusals that count towards `limits.failed_tokens`: a browser can cause any number of them."""


async def agent_of(context: RequestContext, claims: Mapping[str, Any]) -> SignedIn:
    """Return the agent with these claims. Raises `SignInRefused`.

    A configured agent whom the claim finds has the roles of the configuration. Anybody else has those that the groups
    give now, and the same number each time.
    """
    services = context.services
    oidc = services.settings.signin.oidc
    found = [agent for agent in services.settings.agents if _is_person(agent, oidc, claims)]
    if len(found) > 1:
        raise SignInRefused("agent", f"{oidc.agent_claim} finds {len(found)} configured agents")
    if found and found[0].has_expired(clock.now()):
        raise SignInRefused("agent", f"agent {found[0].id} has expired")
    if found:
        return SignedIn(found[0], by_issuer(oidc.issuer, oidc.identity_of(found[0])))
    roles = oidc.roles.of(_groups(claims.get(oidc.groups_claim)))
    person = Person(
        oidc.issuer,
        claims["sub"],
        _name(claims),
        _text(claims.get("email"), MAX_EMAIL),
        orjson.dumps([role.value for role in Role if role in roles]).decode(),
    )
    known = await services.transact(partial(agents.find_or_add, person=person))
    await services.known_agents.refresh()
    if known is None or not roles:
        raise SignInRefused("roles", _why_no_role(oidc.groups_claim, claims))
    return SignedIn(as_agent(known, roles), by_issuer(oidc.issuer))


def note_refusal(context: RequestContext, refused: SignInRefused) -> None:
    """Count and log a sign-in that was refused."""
    services = context.services
    context.logged = True
    services.metrics.oidc_refused[refused.refusal].inc()
    if refused.refusal in GUESSES:
        services.failed_tokens.count(context.remote_ip)
        services.metrics.guessed("oidc", "wrong")
    REPEATED.log(
        "auth.oidc_refused", context.remote_ip, refused.refusal, refusal=refused.refusal, error=refused.detail,
        remote_ip=context.remote_ip, request_id=context.request_id,
    )  # fmt: skip


def _is_person(agent: Agent, oidc: Oidc, claims: Mapping[str, Any]) -> bool:
    """Return whether a configured agent is the person with these claims."""
    value = claims.get(oidc.agent_claim)
    if not isinstance(value, str) or not value:
        return False
    if oidc.agent_claim != "email":
        return agent.external_id == value
    # An address that the issuer has not verified may be anybody's.
    return claims.get("email_verified") is True and _comparable(agent.email) == _comparable(value)


def _comparable(address: str) -> str:
    """Return a mail address in lower case if it is ASCII, otherwise unchanged.

    Other alphabets have different letters that become equal in lower case.
    """
    return address.lower() if address.isascii() else address


def _groups(value: object) -> list[str]:
    """Return the groups in a claim, which is a list of texts; some issuers send one text for one group."""
    listed = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return [one for one in listed[:MAX_GROUPS] if isinstance(one, str)]


def _why_no_role(claim: str, claims: Mapping[str, Any]) -> str:
    elsewhere = claims.get("_claim_names")
    if claim not in claims and (claims.get("hasgroups") or (isinstance(elsewhere, dict) and claim in elsewhere)):
        return f"the person is in too many groups: the issuer leaves them out of {claim}"
    return f"no group in {claim} gives a role"


def _name(claims: Mapping[str, Any]) -> str:
    """Return what people see of an agent: the first of several claims that has a visible text."""
    names = (_text(claims.get(claim), MAX_NAME) for claim in ("name", "preferred_username", "email", "sub"))
    return next((name for name in names if name.strip()), "?")


def _text(value: object, most: int) -> str:
    """Return a claim as one line of text; "" if it is not text."""
    text = value[:most] if isinstance(value, str) else ""
    return "".join(char for char in text if char.isprintable())
