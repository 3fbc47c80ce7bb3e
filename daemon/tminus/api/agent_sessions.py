"""Start agent sessions, by a token, in a browser or by a sign-in code, and end them."""

from datetime import datetime, timedelta
from functools import partial

from tminus import clock
from tminus.api.authentication import (
    SignedIn,
    agent_of_credential,
    agent_of_token,
    caller_of,
    check_attempts,
    client_header,
    page_token,
    sent_token,
    token_digest,
)
from tminus.api.receivers import origin_of
from tminus.api.request_context import RequestContext
from tminus.config import Agent
from tminus.domain import ids
from tminus.domain.errors import AgentShutOut, WrongCode
from tminus.domain.model import AgentSession, SignInCode
from tminus.domain.types import Caller
from tminus.logs.output import log
from tminus.logs.repeated import REPEATED
from tminus.sessions.commands import AGENT_SESSION_LIFETIME
from tminus.storage import Transaction, agents

CODE_LIFETIME = timedelta(seconds=60)
"""How long a sign-in code may be exchanged. The receiver's page does it at once."""


async def sign_in(context: RequestContext, token: str) -> tuple[Caller, str]:
    """Start an agent session for a configured token; return its caller and its secret.

    Raises `NotAuthenticated`, `AgentShutOut`, `TooManyAttempts`.
    """
    signed_in, secret = agent_of_token(context, token), ids.token()
    begun = new_agent_session(context, signed_in, secret, clock.now())
    begun.sid = await context.services.transact(partial(_store, begun=begun))
    return note_sign_in(context, signed_in.agent, begun, "token"), secret


def new_agent_session(context: RequestContext, signed_in: SignedIn, secret: str, now: datetime) -> AgentSession:
    """Return an agent session of one hour with this secret. The caller stores it."""
    return AgentSession(
        secret_sha256=token_digest(secret),
        agent_id=signed_in.agent.id,
        token_sha256=signed_in.credential,
        started_at=now,
        expires_at=now + AGENT_SESSION_LIFETIME,
        client_app=client_header(context, b"client-app"),
        user_agent=client_header(context, b"user-agent"),
        remote_ip=context.remote_ip,
    )


def _store(tx: Transaction, begun: AgentSession) -> int:
    """Store an agent session; return its `sid`. Raises `AgentShutOut`.

    The transaction also checks whether the agent is shut out, since an operator may do that at this moment.
    """
    agents.note_sign_in(tx, begun.agent_id)
    return tx.add_agent_session(begun)


def note_sign_in(context: RequestContext, agent: Agent, begun: AgentSession, via: str) -> Caller:
    """Count and log an agent session that was stored; return its caller. `via` is `token`, `page`, `oidc` or `code`."""
    caller = caller_of(context, agent, begun)
    context.actor = caller.actor
    context.services.metrics.signed_in(via)
    log(
        "auth.signed_in",
        actor=caller.actor,
        actor_name=caller.name,
        sid=begun.sid,
        via=via,
        remote_ip=begun.remote_ip,
        request_id=context.request_id,
    )
    return caller


async def start_in_browser(context: RequestContext, signed_in: SignedIn, before: str, via: str = "page") -> str:
    """Start an agent session in place of the one with the token `before`, if there is one; return the new secret.

    `via` is `page` or `oidc`. Raises `AgentShutOut`.
    """
    secret, ended = ids.token(), token_digest(before)
    begun = new_agent_session(context, signed_in, page_token(secret), clock.now())

    def start(tx: Transaction) -> int:
        if before:
            tx.end_agent_session(ended)
        return _store(tx, begun)

    begun.sid = await context.services.transact(start)
    if before:
        _end_streams(context)
    note_sign_in(context, signed_in.agent, begun, via)
    return secret


async def sign_out(context: RequestContext, caller: Caller) -> None:
    """End the agent session of the request. A configured token stays valid."""
    if caller.sid:
        await end_agent_session(context, caller, sent_token(context), "token")


async def end_agent_session(context: RequestContext, caller: Caller, secret: str, via: str) -> None:
    """End the agent session with this secret. `via` is `token` or `page`."""
    digest = token_digest(secret)
    await context.services.transact(lambda tx: tx.end_agent_session(digest))
    _end_streams(context)
    where = {"remote_ip": context.remote_ip, "request_id": context.request_id}
    log("auth.signed_out", actor=caller.actor, actor_name=caller.name, sid=caller.sid, via=via, **where)


def _end_streams(context: RequestContext) -> None:
    """End the streams and held requests of agent sessions that have ended.

    So a page in another tab shows no sessions any more. Other daemons end theirs within 15 s, when they read again.
    """
    context.services.notifier.notify()  # each of them authenticates its caller again


async def sign_out_everywhere(context: RequestContext, caller: Caller) -> None:
    """End all agent sessions and sign-in codes of the caller's agent. Its configured tokens stay valid."""
    ended = await context.services.transact(lambda tx: tx.end_agent_sessions_of(caller.agent_id))
    _end_streams(context)
    where = {"remote_ip": context.remote_ip, "request_id": context.request_id}
    log(
        "auth.signed_out_everywhere",
        actor=caller.actor, actor_name=caller.name, sid=caller.sid, agent_sessions=ended, **where,
    )  # fmt: skip


async def add_code(
    context: RequestContext, signed_in: SignedIn, token: str, receiver: str, provider: str, instance: str
) -> str | None:
    """Store a sign-in code for a receiver; return it. None: the browser's agent session, with this token, has ended."""
    code = ids.token()
    digest, of_page = token_digest(code), token_digest(token)

    def add(tx: Transaction) -> bool:
        # Read in the same transaction: the agent may sign out everywhere at this moment.
        if tx.agent_session(of_page) is None:
            return False
        tx.add_signin_code(
            SignInCode(
                code_sha256=digest,
                provider=provider,
                instance_url=instance,
                receiver=receiver,
                agent_id=signed_in.agent.id,
                token_sha256=signed_in.credential,
                expires_at=tx.now + CODE_LIFETIME,
            )
        )
        return True

    return code if await context.services.transact(add) else None


async def exchange_code(context: RequestContext, code: str, provider: str, instance: str) -> tuple[Caller, str]:
    """Start an agent session for a sign-in code; return its caller and its secret. The code ends in any case.

    Raises `WrongCode`, `TooManyAttempts`.
    """
    services, digest, secret = context.services, token_digest(code), ids.token()
    origin = context.header(b"origin")

    def take(tx: Transaction) -> tuple[Agent, AgentSession] | str:
        taken = tx.take_signin_code(digest)
        if taken is None:
            return "unknown"
        if taken.expires_at <= tx.now:
            return "expired"
        # Browsers send the origin of the page that calls. A request without one does not come from a foreign page.
        if (taken.provider, taken.instance_url) != (provider, instance) or (
            origin and origin != origin_of(taken.receiver)
        ):
            return "foreign"
        agent = agent_of_credential(services, taken.token_sha256, taken.agent_id)
        if agent is None or taken.receiver not in services.settings.signin.receivers:
            return "revoked"
        begun = new_agent_session(context, SignedIn(agent, taken.token_sha256), secret, tx.now)
        try:
            begun.sid = _store(tx, begun)
        except AgentShutOut:
            return "revoked"
        return agent, begun

    outcome: tuple[Agent, AgentSession] | str = "unknown"
    # A wrong code costs a read, not a write.
    if services.failed_tokens.retry_after(context.remote_ip) is None:
        known = await services.query(lambda view: view.has_signin_code(digest))
    else:
        async with services.suspect_lookup:
            known = await services.query(lambda view: view.has_signin_code(digest))
    if known:
        outcome = await services.transact(take)
    if isinstance(outcome, str):
        raise _wrong_code(context, outcome)
    return note_sign_in(context, *outcome, "code"), secret


def _wrong_code(context: RequestContext, state: str) -> WrongCode:
    """Count and log a wrong code; return the refusal. Raises `TooManyAttempts` after too many."""
    check_attempts(context, "code")
    context.services.failed_tokens.count(context.remote_ip)
    context.logged = True
    context.services.metrics.guessed("code", "wrong")
    REPEATED.log(
        "auth.code_refused",
        context.remote_ip,
        state,
        remote_ip=context.remote_ip,
        refusal=state,
        request_id=context.request_id,
    )
    return WrongCode()
