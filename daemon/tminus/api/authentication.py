"""Identify the caller of a request by its token, its agent session or the local socket.

Tokens are not compared with each other: the SHA-256 of a token is looked up. The time of a look-up may depend on how
many bytes of the digest match, but not on how many characters of the token do. So timing does not help to guess a token
character by character.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

from tminus import clock
from tminus.api import browser_session
from tminus.api.parameters import Depends
from tminus.api.request_context import RequestContext
from tminus.api.services import Services
from tminus.config import Agent, fingerprint
from tminus.domain.errors import AgentShutOut, NotAuthenticated, TooManyAttempts, UnknownCalendar
from tminus.domain.model import AgentSession, CalendarFeed
from tminus.domain.types import LOCAL_AGENT_ID, Caller, Role, actor_of
from tminus.logs.repeated import REPEATED
from tminus.storage import calendar_feeds

LOCAL_NAME = "local operator"
GUESSABLE = 16
"""Length in characters below which a token counts as guessable. 16 random characters have 95 bits."""


def header_token(context: RequestContext) -> str:
    """Return the token in the headers of a request, or "" if they have none."""
    token = context.header(b"session-id")
    if not token:
        scheme, _, credentials = context.header(b"authorization").partition(" ")
        token = credentials.strip() if scheme.lower() == "bearer" else ""
    return token


def sent_token(context: RequestContext) -> str:
    """Return the token of a request, or "" if it has none.

    The cookie of the sign-in page counts only if the request proves that one of the daemon's own pages sent it.
    """
    if token := header_token(context):
        return token
    proven = browser_session.proven(context)
    return page_token(proven) if proven else ""


def page_token(secret: str) -> str:
    """Return the token of the agent session whose secret is in a browser's cookie.

    Token and secret differ, so that the secret of no other agent session works as a cookie. Otherwise whoever has such
    a secret could use the page to start one agent session after another, without the configured token.
    """
    return f"page {secret}"


async def feed_owner(context: RequestContext, secret: str) -> Agent:
    """Return the agent whose calendar has the address with this secret. Raises `UnknownCalendar`, `TooManyAttempts`.

    As with tokens, a right address is never limited, and it is valid only as long as its agent may act.
    """
    services, address = context.services, context.remote_ip
    digest = token_digest(secret)

    async def look_up() -> CalendarFeed | None:
        return await services.query(lambda view: calendar_feeds.by_secret(view, digest))

    if services.failed_tokens.retry_after(address) is None:
        feed = await look_up()
    else:
        async with services.suspect_lookup:
            feed = await look_up()
    agent = services.agent(feed.agent_id) if feed is not None and services.may_act(feed.agent_id) else None
    if agent is not None:
        context.actor = actor_of(agent.id, agent.roles)
        return agent
    check_attempts(context, "calendar")
    services.failed_tokens.count(address)
    context.logged = True
    services.metrics.guessed("calendar", "wrong")
    REPEATED.log("calendar.unknown", address, remote_ip=address, request_id=context.request_id)
    raise UnknownCalendar


async def identify(context: RequestContext) -> Caller:
    """Return the caller. Raises `NotAuthenticated`, `TooManyAttempts`."""
    caller = _local(context) if context.local else await _by_token(context, sent_token(context))
    context.actor = caller.actor
    return caller


CurrentCaller = Annotated[Caller, Depends(identify)]


_ISSUER = "oidc "
"""The beginning of the credential of an agent whom an issuer has signed in."""


def by_issuer(issuer: str, identity: str = "") -> str:
    """Return the credential of a sign-in by an OpenID Connect issuer, which is stored in place of a token's SHA-256.

    `identity`: for an agent of the configuration, `Oidc.identity_of`.
    """
    return f"{_ISSUER}{issuer} {identity}" if identity else f"{_ISSUER}{issuer}"


class SignedIn(NamedTuple):
    """An agent who has signed in."""

    agent: Agent
    credential: str
    """The SHA-256 of the configured token, or the result of `by_issuer`."""


@dataclass(frozen=True, slots=True)
class BrowserSession:
    """The agent session of a browser, and how its agent signed in."""

    caller: Caller
    signed_in: SignedIn
    token: str = field(repr=False)
    """The token of the agent session, as `page_token` returns it."""


def agent_of_token(context: RequestContext, token: str) -> SignedIn:
    """Return the agent of a configured token. Raises `NotAuthenticated`, `AgentShutOut`, `TooManyAttempts`."""
    services, digest = context.services, token_digest(token)
    _check_short(context, len(token))
    agent = _agent_of(services, digest)
    if agent is None:
        raise _wrong_token(context, len(token), digest, _state(services, digest, None))
    _check_shut_out(context, agent.id)
    return SignedIn(agent, digest)


async def caller_of_page(context: RequestContext) -> BrowserSession | None:
    """Return the browser's agent session; None if it has none.

    Only for the sign-in page: a cookie alone proves nothing about who sent the request. A cookie that is no longer
    valid does not count as a wrong token.
    """
    secret = browser_session.secret(context)
    if not secret:
        return None
    services, token = context.services, page_token(secret)
    found = await _agent_session(services, token_digest(token))
    agent = None if found is None else _agent_in(services, found)
    if found is None or agent is None or services.known_agents.is_shut_out(agent.id):
        return None
    caller = caller_of(context, agent, found)
    context.actor = caller.actor
    return BrowserSession(caller, SignedIn(agent, found.token_sha256), token)


async def _by_token(context: RequestContext, token: str) -> Caller:
    if not token:
        raise NotAuthenticated
    services, digest = context.services, token_digest(token)
    _check_short(context, len(token))
    agent, agent_session = _agent_of(services, digest), None
    if agent is None:
        if services.failed_tokens.retry_after(context.remote_ip) is None:
            agent_session = await _agent_session(services, digest)
        else:
            # One look-up at a time: otherwise addresses that guess tokens could occupy all reader threads.
            async with services.suspect_lookup:
                agent_session = await _agent_session(services, digest)
        if agent_session is not None:
            agent = _agent_in(services, agent_session)
    if agent is None:
        raise _wrong_token(context, len(token), digest, _state(services, digest, agent_session))
    _check_shut_out(context, agent.id)
    return caller_of(context, agent, agent_session)


async def _agent_session(services: Services, digest: str) -> AgentSession | None:
    """Return the agent session with this secret, or None; it may have expired."""
    return await services.query(lambda view: view.agent_session(digest))


def _state(services: Services, digest: str, agent_session: AgentSession | None) -> str:
    """Return why a token is invalid, for the log: "expired", "revoked" or "unknown".

    A token that was revoked before the daemon started is "unknown", unless it started an agent session.
    """
    if agent_session is not None and agent_session.expires_at <= clock.now():
        return "expired"
    if agent_session is not None:
        digest = agent_session.token_sha256
    if digest in services.agent_of_token:
        return "expired"
    return "revoked" if agent_session is not None or digest in services.revoked else "unknown"


def _agent_of(services: Services, digest: str) -> Agent | None:
    """Return the agent whose token has this SHA-256, or None if there is none or the token has expired."""
    agent = services.agent_of_token.get(digest)
    if agent is None or agent.expires is None:
        return agent
    return None if agent.has_expired(clock.now()) else agent


def _agent_in(services: Services, agent_session: AgentSession) -> Agent | None:
    """Return the agent of an agent session; None if the agent session has expired, or its credential is not valid."""
    if agent_session.expires_at <= clock.now():
        return None
    return agent_of_credential(services, agent_session.token_sha256, agent_session.agent_id)


def agent_of_credential(services: Services, credential: str, agent_id: int) -> Agent | None:
    """Return the agent who signed in with this credential; None if it is not valid any more for this agent.

    The configuration must still have the token, for the same agent, or name the issuer.
    """
    if credential.startswith(_ISSUER):
        issuer, _, identity = credential.removeprefix(_ISSUER).partition(" ")
        return services.agent_of_issuer(agent_id, issuer, identity)
    agent = _agent_of(services, credential)
    return agent if agent is not None and agent.id == agent_id else None


def _check_shut_out(context: RequestContext, agent_id: int) -> None:
    """Raise `AgentShutOut`, and count and log it, if an operator has shut the agent out."""
    if not context.services.known_agents.is_shut_out(agent_id):
        return
    context.logged = True
    context.services.metrics.shut_out_refused.inc()
    REPEATED.log(
        "auth.shut_out", f"{agent_id}", agent=agent_id, remote_ip=context.remote_ip, request_id=context.request_id
    )
    raise AgentShutOut(agent_id)


def _check_short(context: RequestContext, length: int) -> None:
    """Raise `TooManyAttempts` if a token of this length is guessable and its address sent too many wrong ones."""
    if length < GUESSABLE:
        check_attempts(context)


def check_attempts(context: RequestContext, kind: str = "token", /, **known: str | None) -> None:
    """Raise `TooManyAttempts` if the address has sent too many wrong tokens and codes.

    `kind`: for the metrics; `known`: log fields of a token that was once valid.
    """
    wait = context.services.failed_tokens.retry_after(context.remote_ip)
    if wait is not None:
        context.logged = True
        context.services.metrics.guessed(kind, "limited")
        REPEATED.log(
            "auth.limited",
            context.remote_ip,
            f"{known}" if known else "",
            **known,
            remote_ip=context.remote_ip,
            request_id=context.request_id,
        )
        raise TooManyAttempts("wrong tokens", wait)


def _wrong_token(context: RequestContext, length: int, digest: str, state: str) -> NotAuthenticated:
    """Count and log a wrong token of this length; return the refusal. Raises `TooManyAttempts` after too many.

    The check and the count are one step on the event loop, so that concurrent guesses cannot exceed the limit.
    """
    # For a guessable token no fingerprint is logged: a few bytes of the hash are enough to find the token.
    about = {"token": None if length < GUESSABLE else fingerprint(digest), "token_state": state}
    # Tokens that were once valid are few, and each has an owner: the log lists them separately.
    known = {} if state == "unknown" else about
    check_attempts(context, **known)
    context.services.failed_tokens.count(context.remote_ip)
    context.logged = True
    context.services.metrics.guessed("token", "wrong")
    REPEATED.log(
        "auth.failed",
        context.remote_ip,
        f"{known}" if known else "",
        remote_ip=context.remote_ip,
        **about,
        route=context.route,
        request_id=context.request_id,
    )
    return NotAuthenticated(was_sent=True)


def token_digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def client_header(context: RequestContext, name: bytes) -> str:
    """Return a header for storage: at most 255 printable characters."""
    text = context.header(name)[:255]
    return text if text.isprintable() else "".join(char for char in text if char.isprintable())


def _local(context: RequestContext) -> Caller:
    return Caller(
        agent_id=LOCAL_AGENT_ID,
        name=LOCAL_NAME,
        external_id="",
        roles=frozenset({Role.GROUP_ADMIN}),
        provider=context.services.settings.organization.provider,
        client_app=client_header(context, b"client-app"),
        user_agent=client_header(context, b"user-agent"),
        remote_ip="local",
        request_id=context.request_id,
    )


def caller_of(context: RequestContext, agent: Agent, agent_session: AgentSession | None) -> Caller:
    """Return the caller for an agent. In an agent session, the client data are those of its start."""
    return Caller(
        agent_id=agent.id,
        name=agent.name,
        external_id=agent.external_id,
        roles=agent.roles,
        sid=agent_session.sid if agent_session else 0,
        provider=context.services.settings.organization.provider,
        started_at=agent_session.started_at if agent_session else None,
        expires_at=agent_session.expires_at if agent_session else None,
        client_app=agent_session.client_app if agent_session else client_header(context, b"client-app"),
        user_agent=agent_session.user_agent if agent_session else client_header(context, b"user-agent"),
        remote_ip=agent_session.remote_ip if agent_session else context.remote_ip,
        request_id=context.request_id,
    )
