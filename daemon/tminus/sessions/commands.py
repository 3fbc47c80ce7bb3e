"""Commands: functions that change sessions.

The store's writer runs a command as a job. The first argument is the transaction; `tx.now` is the time. A command
decides, then writes the change and its events together.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson

from tminus import schemas
from tminus.config import Settings
from tminus.domain import ids, policy, timestamps
from tminus.domain.errors import BadStartTime, StaleVersion, TooManySessions
from tminus.domain.lifecycle import Change, fire, opens_at
from tminus.domain.model import Session
from tminus.domain.types import Caller, CreateSession, Role, Status, Trigger
from tminus.sessions.authorization import need, owns
from tminus.sessions.idempotency import KeyedRequest, find_record, store_record
from tminus.sessions.queries import found
from tminus.sessions.transitions import CreateResult, carry_out, open_if_due, record_creation
from tminus.storage import Transaction

PAST_GRACE = timedelta(seconds=60)
"""How far in the past a start time may lie, since a client's clock may be slow."""

AGENT_SESSION_SPAN = timedelta(hours=1)
"""How long an agent session lasts."""

IfMatch = frozenset[int] | None
"""The versions that an `If-Match` header lists; None: any."""


def create(
    tx: Transaction, settings: Settings, caller: Caller, order: CreateSession, keyed: KeyedRequest | None = None
) -> CreateResult:
    """Create a session. It opens at once, or is scheduled if `order.start_time` is set.

    If the start is within the lead time, the session is scheduled and opened in one transaction, with two events.

    Raises `Forbidden`, `BadStartTime`, `TooManySessions`, `KeyReused`, `NoPinFree`.
    """
    need(caller.has(Role.AGENT), "the role agent")
    if keyed is not None and (earlier := find_record(tx, caller, keyed)):
        return CreateResult(found(tx, earlier.session_id), replayed=True)
    limit = settings.limits.sessions_per_agent
    if limit and not tx.may_open_another(caller.agent_id, limit):
        raise TooManySessions(limit)

    now = tx.now
    if order.start_time is None:
        transition, expires_from = fire(Trigger.CREATE, None), now
    else:
        transition, expires_from = fire(Trigger.SCHEDULE, None), order.start_time
        _check_start(order.start_time, now, settings)
    timeouts = settings.lifecycle.timeouts
    session_id, host_auth_token, host_key = ids.base62_texts(order.type.id_length, ids.TOKEN, ids.TOKEN)
    effects = transition.effects.session
    pin = tx.free_pin() if effects.get("pin") is Change.PIN and order.type.has_pin else 0
    urls = settings.server.urls()
    session = Session(
        id=session_id,
        type=order.type,
        status=transition.dest,
        label=order.label,
        user_description=order.user_description or caller.name,
        scheduled=order.start_time is not None,
        agent_id=caller.agent_id,
        organization_id=settings.organization.id,
        created_by=_json(agent_session_shown(caller, now)),
        start_time=order.start_time,
        expires_at=expires_from + timeouts.new,
        created_at=now,
        updated_at=now,
        opened_at=now if effects.get("opened_at") is Change.NOW else None,
        pin=pin,
        host_auth_token=host_auth_token,
        host_key=host_key,
        external_session_object_id=ids.random_hex(),
        settings=_json(policy.effective_settings(order.type, settings.policy.modes(order.type), order.preferences)),
        user_url=f"{urls.pin_page}{pin}" if pin else f"{urls.user_page}?{session_id}",
        host_url=f"{urls.host_page}?{session_id}",
        external_mapping=order.external_mapping,
        parent_object=order.parent_object,
        meta_data=order.meta_data,
    )
    tx.add(session, transition, timeouts)
    record_creation(tx, session, transition, caller)
    if keyed is not None:
        store_record(tx, caller, keyed, session.id)
    if order.start_time is not None and opens_at(order.start_time, timeouts) <= now:
        tx.flush()
        session = open_if_due(tx, settings, caller, session)
    return CreateResult(session)


def _json(value: Mapping[str, Any]) -> str:
    return orjson.dumps(value).decode()


def _check_start(start: datetime, now: datetime, settings: Settings) -> None:
    if start < now - PAST_GRACE:
        raise BadStartTime(start, f"is in the past: it is {timestamps.text(now)} now")
    if start > now + settings.lifecycle.horizon:
        latest = timestamps.text(now + settings.lifecycle.horizon)
        raise BadStartTime(start, f"is too far away: the latest start allowed now is {latest}")


def roles_shown(caller: Caller) -> schemas.Roles:
    """Return the four roles that the original shows."""
    has = caller.roles.__contains__
    return {
        "api": has(Role.API),
        "agent": has(Role.AGENT),
        "supervisor": has(Role.SUPERVISOR),
        "group_admin": has(Role.GROUP_ADMIN),
    }


def agent_session_shown(caller: Caller, now: datetime) -> schemas.AgentSession:
    """Return `createdByAgentSession`. For a caller without an agent session, it shows one that starts now."""
    return {
        "sid": caller.sid,
        "roles": roles_shown(caller),
        "features": None,
        "providerExternalId": caller.external_id,
        "provider": caller.provider,
        "startedAt": timestamps.text(caller.started_at or now),
        "expiresAt": timestamps.text(caller.expires_at or now + AGENT_SESSION_SPAN),
        "clientApp": caller.client_app,
        "userAgent": caller.user_agent,
        "remoteIp": caller.remote_ip,
    }


def reschedule(
    tx: Transaction, settings: Settings, caller: Caller, session_id: str, start: datetime, if_match: IfMatch = None
) -> Session:
    """Move a scheduled session to another start; it opens at once if that is within the lead time.

    With its current start, nothing changes. Raises `UnknownSession`, `Forbidden`, `StaleVersion`, `WrongStatus`,
    `BadStartTime`.
    """
    session = found(tx, session_id)
    need(owns(caller, session) or caller.has(Role.GROUP_ADMIN), "the session's own agent, or the role group_admin")
    if if_match is not None and session.version not in if_match:
        raise StaleVersion(session.version)
    transition = fire(Trigger.RESCHEDULE, session.status)
    if start == session.start_time:
        return session
    _check_start(start, tx.now, settings)
    expires = start + settings.lifecycle.timeouts.new
    moved = carry_out(tx, settings, session, transition, caller, start_time=start, expires_at=expires)
    return open_if_due(tx, settings, caller, moved)


def close(tx: Transaction, settings: Settings, caller: Caller, session_id: str, if_match: IfMatch = None) -> None:
    """Close a session. Its participants leave it, and those who knocked stop waiting.

    For a closed session nothing changes, and `if_match` is not compared: the caller may repeat a request whose response
    was lost.

    Raises `UnknownSession`, `Forbidden`, `StaleVersion`.
    """
    session = found(tx, session_id)
    allowed = owns(caller, session) or caller.has(Role.SUPERVISOR)
    need(allowed, "the session's own agent, or the role supervisor")
    if session.status is Status.CLOSED:
        return
    if if_match is not None and session.version not in if_match:
        raise StaleVersion(session.version)
    carry_out(tx, settings, session, fire(Trigger.CLOSE, session.status), caller)
