"""Identify the caller of a request by its token, its agent session or the local socket.

Tokens are not compared with each other: the SHA-256 of a token is looked up. The time of a look-up may depend on how
many bytes of the digest match, but an attacker cannot choose a token for the beginning of its digest. So timing does
not help to guess a token character by character.
"""

import hashlib
from typing import Annotated

from tminus import clock
from tminus.api.parameters import Depends
from tminus.api.request_context import RequestContext
from tminus.api.services import Services
from tminus.config import Agent, fingerprint
from tminus.domain import ids
from tminus.domain.errors import NotAuthenticated, TooManyAttempts
from tminus.domain.model import AgentSession
from tminus.domain.types import LOCAL_AGENT_ID, Caller, Role
from tminus.logs.output import log
from tminus.logs.repeated import REPEATED
from tminus.sessions.commands import AGENT_SESSION_LIFETIME

LOCAL_NAME = "local operator"
GUESSABLE = 16
"""Length in characters below which a token counts as guessable. 16 random characters have 95 bits."""


def sent_token(context: RequestContext) -> str:
    """Return the token of a request, or "" if it has none."""
    token = context.header(b"session-id")
    if not token:
        scheme, _, credentials = context.header(b"authorization").partition(" ")
        token = credentials.strip() if scheme.lower() == "bearer" else ""
    return token


async def identify(context: RequestContext) -> Caller:
    """Return the caller. Raises `NotAuthenticated`, `TooManyAttempts`."""
    caller = _local(context) if context.local else await _by_token(context, sent_token(context))
    context.actor = caller.actor
    return caller


CurrentCaller = Annotated[Caller, Depends(identify)]


async def sign_in(context: RequestContext, token: str) -> tuple[Caller, str]:
    """Start an agent session for a configured token; return its caller and its secret.

    Raises `NotAuthenticated`, `TooManyAttempts`.
    """
    services, digest = context.services, _digest(token)
    _check_short(context, len(token))
    agent = _agent_of(services, digest)
    if agent is None:
        raise _wrong_token(context, len(token), digest, _state(services, digest, None))
    secret, now = ids.token(), clock.now()
    agent_session = AgentSession(
        secret_sha256=_digest(secret),
        agent_id=agent.id,
        token_sha256=digest,
        started_at=now,
        expires_at=now + AGENT_SESSION_LIFETIME,
        client_app=_header(context, b"client-app"),
        user_agent=_header(context, b"user-agent"),
        remote_ip=context.remote_ip,
    )
    agent_session.sid = await services.transact(lambda tx: tx.add_agent_session(agent_session))
    caller = _caller(context, agent, agent_session)
    context.actor = caller.actor
    log(
        "auth.signed_in",
        actor=caller.actor,
        sid=agent_session.sid,
        remote_ip=agent_session.remote_ip,
        request_id=context.request_id,
    )
    return caller, secret


async def sign_out(context: RequestContext, caller: Caller) -> None:
    """End the agent session of the request. A configured token stays valid."""
    if caller.sid:
        digest = _digest(sent_token(context))
        await context.services.transact(lambda tx: tx.end_agent_session(digest))
        where = {"remote_ip": context.remote_ip, "request_id": caller.request_id}
        log("auth.signed_out", actor=caller.actor, sid=caller.sid, **where)


async def _by_token(context: RequestContext, token: str) -> Caller:
    if not token:
        raise NotAuthenticated
    services, digest = context.services, _digest(token)
    _check_short(context, len(token))
    agent, agent_session = _agent_of(services, digest), None
    if agent is None:
        if services.failed_tokens.retry_after(context.remote_ip) is None:
            agent_session = await _agent_session(services, digest)
        else:
            # One look-up at a time: otherwise addresses that guess tokens could occupy all reader threads.
            async with services.suspect_lookup:
                agent_session = await _agent_session(services, digest)
        # The agent session is valid only as long as the configuration has the token that started it.
        if agent_session is not None and agent_session.expires_at > clock.now():
            agent = _agent_of(services, agent_session.token_sha256)
    if agent is None:
        raise _wrong_token(context, len(token), digest, _state(services, digest, agent_session))
    return _caller(context, agent, agent_session)


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
    if agent is None or (agent.expires is not None and agent.expires <= clock.now()):
        return None
    return agent


def _check_short(context: RequestContext, length: int) -> None:
    """Raise `TooManyAttempts` if a token of this length is guessable and its address sent too many wrong ones."""
    if length < GUESSABLE:
        _check_attempts(context)


def _check_attempts(context: RequestContext) -> None:
    """Raise `TooManyAttempts` if the address has sent too many wrong tokens."""
    wait = context.services.failed_tokens.retry_after(context.remote_ip)
    if wait is not None:
        context.logged = True
        context.services.metrics.guessed("token", "limited")
        REPEATED.log("auth.limited", context.remote_ip, remote_ip=context.remote_ip, request_id=context.request_id)
        raise TooManyAttempts("wrong tokens", wait)


def _wrong_token(context: RequestContext, length: int, digest: str, state: str) -> NotAuthenticated:
    """Count and log a wrong token of this length; return the refusal. Raises `TooManyAttempts` after too many.

    The check and the count are one step on the event loop, so that concurrent guesses cannot exceed the limit.
    """
    _check_attempts(context)
    context.services.failed_tokens.count(context.remote_ip)
    context.logged = True
    context.services.metrics.guessed("token", "wrong")
    # For a guessable token no fingerprint is logged: a few bytes of the hash are enough to find the token.
    logged_token = None if length < GUESSABLE else fingerprint(digest)
    REPEATED.log(
        "auth.failed",
        context.remote_ip,
        # Tokens that were once valid are few, and each has an owner: the log lists them separately.
        "" if state == "unknown" else f"{logged_token}",
        remote_ip=context.remote_ip,
        token=logged_token,
        token_state=state,
        request_id=context.request_id,
    )
    return NotAuthenticated(was_sent=True)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _header(context: RequestContext, name: bytes) -> str:
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
        client_app=_header(context, b"client-app"),
        user_agent=_header(context, b"user-agent"),
        remote_ip="local",
        request_id=context.request_id,
    )


def _caller(context: RequestContext, agent: Agent, agent_session: AgentSession | None) -> Caller:
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
        client_app=agent_session.client_app if agent_session else _header(context, b"client-app"),
        user_agent=agent_session.user_agent if agent_session else _header(context, b"user-agent"),
        remote_ip=agent_session.remote_ip if agent_session else context.remote_ip,
        request_id=context.request_id,
    )
