"""Commands: functions that change sessions.

The store's writer runs a command as a job. The first argument is the transaction; `tx.now` is the time. A command first
checks whether the change is allowed, then writes it together with its events.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson

from tminus import schemas
from tminus.config import Settings
from tminus.domain import ids, policy, timestamps
from tminus.domain.errors import BadStartTime, StaleVersion, TooManySessions
from tminus.domain.lifecycle import Change, Transition, opens_at, transition_for
from tminus.domain.model import Session
from tminus.domain.reminders import next_reminder, reminders_text
from tminus.domain.types import Caller, CreateSession, Role, SessionType, Status, Trigger
from tminus.sessions.authorization import owns, require
from tminus.sessions.idempotency import KeyedRequest, find_record, store_record
from tminus.sessions.mail_limit import count_mails, mails_of
from tminus.sessions.overlaps import refuse_overlap
from tminus.sessions.queries import load_session
from tminus.sessions.transitions import CreateResult, execute_transition, open_if_due, record_creation
from tminus.storage import Transaction

START_GRACE = timedelta(seconds=60)
"""Time by which a start may lie in the past, since a client's clock may be slow."""

AGENT_SESSION_LIFETIME = timedelta(hours=1)
"""How long an agent session lasts."""

IfMatch = frozenset[int] | None
"""The versions that an `If-Match` header lists; None: any."""


def create(
    tx: Transaction,
    settings: Settings,
    caller: Caller,
    request: CreateSession,
    keyed: KeyedRequest | None = None,
    *,
    opens: bool = True,
) -> CreateResult:
    """Create a session. It opens at once, or is scheduled if `request.start_time` is set.

    If the start is within the lead time, the session is scheduled and opened in one transaction, with two events.
    `opens`: False leaves the opening to the scheduler, which waits for a free PIN.

    Raises `Forbidden`, `BadStartTime`, `Overlap`, `TooManySessions`, `TooManyMails`, `KeyReused`, `NoPinFree`.
    """
    require(caller.has(Role.AGENT), "the role agent")
    if keyed is not None and (earlier := find_record(tx, caller, keyed)):
        return CreateResult(load_session(tx, earlier.session_id), replayed=True)
    limit = settings.limits.sessions_per_agent
    if limit and not tx.may_open_more(caller.agent_id, limit):
        raise TooManySessions(limit)

    check_start(request.start_time, tx.now, settings)
    if request.start_time is not None:
        refuse_overlap(tx, settings, caller, caller.agent_id, request.start_time)
    session, transition = _new_session(tx, settings, caller, request)
    count_mails(tx, settings, [(caller.agent_id, mails_of(session.invitees, session.reminders))])
    if needs_pin(session.type, transition):
        give_pin(settings, session, tx.free_pin())
    tx.add(session, transition, settings.lifecycle.timeouts)
    record_creation(tx, session, transition, caller)
    if keyed is not None:
        store_record(tx, caller, keyed, session.id)
    if opens:
        open_if_due(tx, settings, caller, session, request.start_time)
    return CreateResult(session)


def _new_session(
    tx: Transaction, settings: Settings, caller: Caller, request: CreateSession
) -> tuple[Session, Transition]:
    """Return a new session without a PIN and without a deadline, and the transition that creates it."""
    first, texts = tx.allowances.id_prefix.take(request.type.id_length), tx.allowances.random_texts
    created_by = created_by_text(caller, tx.now)
    values, transition = session_values(settings, caller, request, tx.now, created_by, first, texts)
    return Session(**values), transition


def session_values(
    settings: Settings,
    caller: Caller,
    request: CreateSession,
    now: datetime,
    created_by: str,
    first: str,
    random_texts: Callable[..., list[str]],
) -> tuple[dict[str, Any], Transition]:
    """Return what `_new_session` returns, as the values of the model's fields.

    `created_by`: what `created_by_text` returns for the caller. `first`: the first characters of the id; the others are
    random. `random_texts`: the `texts` of a `Supply`.
    """
    start = request.start_time
    transition = transition_for(Trigger.CREATE if start is None else Trigger.SCHEDULE, None)
    lengths = request.type.id_length - len(first), ids.TOKEN_LENGTH, ids.TOKEN_LENGTH
    rest, host_auth_token, host_key = random_texts(*lengths)
    session_id = first + rest
    urls = settings.server.urls()
    reminders = reminders_of(settings, request)
    values = {
        "id": session_id,
        "type": request.type,
        "status": transition.dest,
        "label": request.label,
        "user_description": request.user_description or caller.name,
        "scheduled": start is not None,
        "agent_id": caller.agent_id,
        "organization_id": settings.organization.id,
        "created_by": created_by,
        "start_time": start,
        "expires_at": (start or now) + settings.lifecycle.timeouts.new,
        "late_since": now if start is not None and opens_at(start, settings.lifecycle.timeouts) < now else None,
        "created_at": now,
        "updated_at": now,
        "opened_at": now if transition.effects.session.get("opened_at") is Change.NOW else None,
        "host_auth_token": host_auth_token,
        "host_key": host_key,
        "external_session_object_id": ids.random_hex(),
        "settings": settings.policy.settings_text(request.type, policy.wishes(request.preferences)),
        "user_url": f"{urls.user_page}?{session_id}",
        "host_url": f"{urls.host_page}?{session_id}",
        "external_mapping": request.external_mapping,
        "parent_object": request.parent_object,
        "meta_data": request.meta_data,
        "invitees": request.invitees,
        "reminders": reminders,
        "remind_at": next_reminder(reminders, start, now),
        "series_id": request.series_id,
        "series_start": request.series_start,
    }
    return values, transition


def reminders_of(settings: Settings, request: CreateSession) -> str | None:
    """Return the reminders of a new session, as they are stored."""
    if request.start_time is None:
        return None
    return reminders_text(settings.lifecycle.reminders if request.reminders is None else request.reminders)


def needs_pin(session_type: SessionType, transition: Transition) -> bool:
    """Return whether the transition that creates a session of this type assigns a PIN."""
    return transition.effects.session.get("pin") is Change.PIN and session_type.has_pin


def give_pin(settings: Settings, session: Session, pin: int) -> None:
    """Give a new session its PIN, which is also part of the users' link."""
    session.pin, session.user_url = pin, f"{settings.server.urls().pin_page}{pin}"


def created_by_text(caller: Caller, now: datetime) -> str:
    """Return `createdByAgentSession` of the sessions that a caller creates now, as JSON."""
    return _json(public_agent_session(caller, now))


def _json(value: Mapping[str, Any]) -> str:
    return orjson.dumps(value).decode()


def check_start(start: datetime | None, now: datetime, settings: Settings) -> None:
    """Raise `BadStartTime` if a session cannot start at `start`. None: it opens at once, which is always possible."""
    if start is None:
        return
    if start < now - START_GRACE:
        raise BadStartTime(start, f"is in the past: it is {timestamps.text(now)} now")
    if start > now + settings.lifecycle.horizon:
        latest = timestamps.text(now + settings.lifecycle.horizon)
        raise BadStartTime(start, f"is too far away: the latest start allowed now is {latest}")


def public_roles(caller: Caller) -> schemas.Roles:
    """Return the caller's roles as an answer shows them: the four roles of the original API."""
    has = caller.roles.__contains__
    return {
        "api": has(Role.API),
        "agent": has(Role.AGENT),
        "supervisor": has(Role.SUPERVISOR),
        "group_admin": has(Role.GROUP_ADMIN),
    }


def public_agent_session(caller: Caller, now: datetime) -> schemas.AgentSession:
    """Return the caller's agent session as an answer shows it, without the secret.

    For a caller without an agent session, it describes one that starts now.
    """
    return {
        "sid": caller.sid,
        "roles": public_roles(caller),
        "features": None,
        "providerExternalId": caller.external_id,
        "provider": caller.provider,
        "startedAt": timestamps.text(caller.started_at or now),
        "expiresAt": timestamps.text(caller.expires_at or now + AGENT_SESSION_LIFETIME),
        "clientApp": caller.client_app,
        "userAgent": caller.user_agent,
        "remoteIp": caller.remote_ip,
    }


def reschedule(
    tx: Transaction, settings: Settings, caller: Caller, session_id: str, start: datetime, if_match: IfMatch = None
) -> Session:
    """Move a scheduled session to another start; it opens at once if that is within the lead time.

    If `start` is its current start, nothing changes.

    Raises `UnknownSession`, `Forbidden`, `StaleVersion`, `WrongStatus`, `BadStartTime`, `Overlap`, `TooManyMails`,
    `NoPinFree`.
    """
    session = load_session(tx, session_id)
    require(owns(caller, session) or caller.has(Role.GROUP_ADMIN), "the session's own agent, or the role group_admin")
    if if_match is not None and session.version not in if_match:
        raise StaleVersion(session.version)
    transition = transition_for(Trigger.RESCHEDULE, session.status)
    if start == session.start_time:
        return session
    check_start(start, tx.now, settings)
    refuse_overlap(tx, settings, caller, session.agent_id, start, session.id)
    count_mails(tx, settings, [(session.agent_id, mails_of(session.invitees, session.reminders))])
    expires = start + settings.lifecycle.timeouts.new
    execute_transition(tx, settings, session, transition, caller, start_time=start, expires_at=expires)
    open_if_due(tx, settings, caller, session, start)
    return session


def close(tx: Transaction, settings: Settings, caller: Caller, session_id: str, if_match: IfMatch = None) -> None:
    """Close a session. Its participants leave it, and those who knocked stop waiting.

    For a closed session nothing changes, and `if_match` is not compared: the caller may repeat a request whose response
    was lost.

    Raises `UnknownSession`, `Forbidden`, `StaleVersion`.
    """
    session = load_session(tx, session_id)
    allowed = owns(caller, session) or caller.has(Role.SUPERVISOR)
    require(allowed, "the session's own agent, or the role supervisor")
    if session.status is Status.CLOSED:
        return
    if if_match is not None and session.version not in if_match:
        raise StaleVersion(session.version)
    execute_transition(tx, settings, session, transition_for(Trigger.CLOSE, session.status), caller)
