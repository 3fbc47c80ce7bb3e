"""Who calls: from a token, an agent session or the local socket to a `Caller`."""

import hashlib
import hmac
from collections import OrderedDict
from typing import Annotated

from fastapi import Depends, Request

from tminus import clock, draws
from tminus.api.services import Services
from tminus.config import Agent
from tminus.errors import NotAuthenticated, TooManyAttempts
from tminus.logs import say
from tminus.model import AgentSession
from tminus.sessions.verbs import AGENT_SESSION_SPAN
from tminus.vocabulary import LOCAL_AGENT_ID, Caller, Role

LOCAL_NAME = "local operator"
PROVEN = 10_000
"""How many pairs of token and address are remembered as good."""


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def presented(request: Request) -> str:
    """The token that came with the request, "" if none did."""
    token = request.headers.get("session-id", "")
    if not token:
        scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
        token = credentials.strip() if scheme.lower() == "bearer" else ""
    return token


async def identify(request: Request) -> Caller:
    """The caller. Raises `NotAuthenticated`, `TooManyAttempts`."""
    if request.state.local:
        caller = _local(request)
    else:
        caller = await _by_token(request, presented(request))
    request.state.agent = caller.agent_id
    return caller


CurrentCaller = Annotated[Caller, Depends(identify)]


async def sign_in(request: Request, token: str) -> tuple[Caller, str]:
    """Begins an agent session for a configured token; returns the caller in it, and its secret.

    Raises `NotAuthenticated`, `TooManyAttempts`.
    """
    services, digest = services_of(request), _digest(token)
    _check_attempts(request, digest)
    agent = _agent_of(services, digest)
    if agent is None:
        raise _failed(request)
    secret, now = draws.token(), clock.now()
    begun = AgentSession(
        secret_sha256=_digest(secret),
        agent_id=agent.id,
        token_sha256=digest,
        started_at=now,
        expires_at=now + AGENT_SESSION_SPAN,
        client_app=_header(request, "client-app"),
        user_agent=_header(request, "user-agent"),
        remote_ip=request.state.remote_ip,
    )
    begun.sid = await services.write(lambda tx: tx.add_agent_session(begun))
    request.state.agent = agent.id
    say("auth.signed_in", agent=agent.id, sid=begun.sid, remote_ip=begun.remote_ip, request_id=request.state.request_id)
    return _caller(request, agent, begun), secret


async def sign_out(request: Request, caller: Caller) -> None:
    """Ends the agent session that the request came in by; a token used directly stays what it is."""
    if caller.sid:
        digest = _digest(presented(request))
        await services_of(request).write(lambda tx: tx.end_agent_session(digest))
        where = {"remote_ip": request.state.remote_ip, "request_id": caller.request_id}
        say("auth.signed_out", agent=caller.agent_id, sid=caller.sid, **where)


async def _by_token(request: Request, token: str) -> Caller:
    if not token:
        raise NotAuthenticated
    services, digest = services_of(request), _digest(token)
    _check_attempts(request, digest)
    begun = None
    agent = _agent_of(services, digest)
    if agent is None:
        begun = await services.read(lambda view: view.agent_session(digest))
        if begun is not None and hmac.compare_digest(begun.secret_sha256, digest) and begun.expires_at > clock.now():
            # The token that it was begun with must still be good: out of the config, out of the house.
            agent = _agent_of(services, begun.token_sha256)
    if agent is None:
        raise _failed(request)
    _remember(services, digest, request.state.remote_ip)
    return _caller(request, agent, begun)


def _agent_of(services: Services, digest: str) -> Agent | None:
    """The agent whose token has this SHA-256. Looked up by digest: what is compared tells nothing of the token."""
    agent = services.agent_of_token.get(digest)
    if agent is None or (agent.expires is not None and agent.expires <= clock.now()):
        return None
    return agent


def _check_attempts(request: Request, digest: str) -> None:
    """An address that guesses has to wait, right or wrong; but not who has been right from there before: a
    neighbour's broken script locks nobody out.
    """
    services, address = services_of(request), request.state.remote_ip
    if (digest, address) in services.proven:
        return
    wait = services.failed_tokens.exhausted(address)
    if wait is not None:
        say("auth.limited", remote_ip=address, request_id=request.state.request_id)
        raise TooManyAttempts("wrong tokens", wait)


def _remember(services: Services, digest: str, address: str) -> None:
    proven: OrderedDict[tuple[str, str], None] = services.proven
    proven[digest, address] = None
    if len(proven) > PROVEN:
        proven.popitem(last=False)


def _failed(request: Request) -> NotAuthenticated:
    address = request.state.remote_ip
    services_of(request).failed_tokens.count(address)
    say("auth.failed", remote_ip=address, request_id=request.state.request_id)
    return NotAuthenticated()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _header(request: Request, name: str) -> str:
    """A header as it is recorded: bounded, printable."""
    text = request.headers.get(name, "")[:255]
    return text if text.isprintable() else "".join(char for char in text if char.isprintable())


def _local(request: Request) -> Caller:
    return Caller(
        agent_id=LOCAL_AGENT_ID,
        name=LOCAL_NAME,
        external_id="",
        roles=frozenset({Role.GROUP_ADMIN}),
        provider=services_of(request).settings.organization.provider,
        client_app=_header(request, "client-app"),
        user_agent=_header(request, "user-agent"),
        remote_ip="local",
        request_id=request.state.request_id,
    )


def _caller(request: Request, agent: Agent, begun: AgentSession | None) -> Caller:
    """The agent as it calls now; in an agent session, with what that one recorded when it began."""
    return Caller(
        agent_id=agent.id,
        name=agent.name,
        external_id=agent.external_id,
        roles=agent.roles,
        sid=begun.sid if begun else 0,
        provider=services_of(request).settings.organization.provider,
        started_at=begun.started_at if begun else None,
        expires_at=begun.expires_at if begun else None,
        client_app=begun.client_app if begun else _header(request, "client-app"),
        user_agent=begun.user_agent if begun else _header(request, "user-agent"),
        remote_ip=begun.remote_ip if begun else request.state.remote_ip,
        request_id=request.state.request_id,
    )
