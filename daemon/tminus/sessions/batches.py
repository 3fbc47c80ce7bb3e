"""Commands that create, reschedule and close many sessions: all of a batch or none.

As in `commands`, the store's writer runs each as a job. The errors of all items are collected, with their index.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import orjson

from tminus.config import Settings
from tminus.domain.errors import (
    BadStartTime,
    BatchConflict,
    BatchRefused,
    FieldError,
    KeyReused,
    NoPinFree,
    TooManySessions,
)
from tminus.domain.lifecycle import opens_at
from tminus.domain.model import BatchRecord, Session
from tminus.domain.types import Caller, CreateSession, Role, SessionType, Status
from tminus.sessions import commands
from tminus.sessions.authorization import require
from tminus.sessions.idempotency import RECORD_LIFETIME, KeyedRequest
from tminus.sessions.overlaps import refused_overlaps
from tminus.sessions.transitions import open_sessions, record_creation
from tminus.storage import Transaction, View


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The sessions of a batch, in its order."""

    sessions: Sequence[Session]
    replayed: bool = False
    """Whether an earlier request with the same `Idempotency-Key` has done it."""


class Plan(NamedTuple):
    """A session as it would be after a batch."""

    id: str | None
    """None if the batch would create it."""
    type: SessionType
    label: str
    status: Status
    start_time: datetime | None
    opens_at: datetime | None
    """When it opens; None if it is not scheduled."""
    expires_at: datetime


def require_agent(caller: Caller) -> None:
    """Raise `Forbidden` unless the caller may create sessions."""
    require(caller.has(Role.AGENT), "the role agent")


def plan_creation(
    view: View, settings: Settings, caller: Caller, requests: Sequence[CreateSession], now: datetime
) -> list[Plan]:
    """Return the sessions that `create` would create. Raises the same errors, except those about keys and PINs."""
    require_agent(caller)
    if errors := start_errors(settings, requests, now):
        raise BatchRefused(errors)
    _refuse_overlaps(view, settings, caller, requests)
    limit = settings.limits.sessions_per_agent
    if limit and view.open_sessions_of(caller.agent_id, limit) + len(requests) > limit:
        raise TooManySessions(limit, len(requests))
    timeouts = settings.lifecycle.timeouts
    plans = []
    for request in requests:
        start = request.start_time
        at = None if start is None else opens_at(start, timeouts)
        waits = at is not None and at > now
        status = Status.SCHEDULED if waits else Status.NEW
        plans.append(
            Plan(None, request.type, request.label, status, start, at if waits else None, (start or now) + timeouts.new)
        )
    return plans


def start_errors(settings: Settings, requests: Sequence[CreateSession | None], now: datetime) -> list[FieldError]:
    """Return an error for each session of a batch that cannot start at its time. None: an item that is not valid."""
    errors = []
    for number, request in enumerate(requests):
        try:
            commands.check_start(None if request is None else request.start_time, now, settings)
        except BadStartTime as error:
            errors.append(FieldError(f"sessions.{number}.startTime", error.problem))
    return errors


def _refuse_overlaps(view: View, settings: Settings, caller: Caller, requests: Sequence[CreateSession]) -> None:
    """Raise `BatchConflict` if sessions would overlap, and the policy refuses that."""
    refused = refused_overlaps(view, settings, caller.agent_id, [request.start_time for request in requests])
    if refused:
        raise BatchConflict([FieldError(f"sessions.{number}.startTime", problem) for number, problem in refused])


def create(
    tx: Transaction,
    settings: Settings,
    caller: Caller,
    requests: Sequence[CreateSession],
    keyed: KeyedRequest | None = None,
) -> BatchResult:
    """Create or schedule many sessions, each as `commands.create` does.

    Raises `Forbidden`, `BatchRefused`, `BatchConflict`, `TooManySessions`, `KeyReused`, `NoPinFree`.
    """
    require_agent(caller)
    if keyed is not None and (earlier := _find_record(tx, caller, keyed)) is not None:
        return BatchResult(earlier, replayed=True)
    if errors := start_errors(settings, requests, tx.now):
        raise BatchRefused(errors)
    _refuse_overlaps(tx, settings, caller, requests)
    limit = settings.limits.sessions_per_agent
    if limit and not tx.may_open_more(caller.agent_id, limit, len(requests)):
        raise TooManySessions(limit, len(requests))
    created_by = commands.created_by_text(caller, tx.now)
    made = [commands.new_session(settings, caller, request, tx.now, created_by) for request in requests]
    with_pin = [session for session, transition in made if commands.needs_pin(session, transition)]
    pins = tx.free_pins(len(with_pin)) if with_pin else []
    if len(pins) < len(with_pin):
        raise NoPinFree
    for session, pin in zip(with_pin, pins, strict=True):
        commands.give_pin(settings, session, pin)
    for session, transition in made:
        tx.add(session, transition, settings.lifecycle.timeouts)
        record_creation(tx, session, transition, caller)
    sessions = [session for session, _ in made]
    if keyed is not None:
        _store_record(tx, caller, keyed, sessions)
    open_sessions(tx, settings, caller, [one for one in sessions if _is_due(one, settings, tx.now)])
    return BatchResult(sessions)


def _is_due(session: Session, settings: Settings, now: datetime) -> bool:
    """Return whether a new session that was scheduled is due to open now."""
    return session.start_time is not None and opens_at(session.start_time, settings.lifecycle.timeouts) <= now


# --- idempotency ------------------------------------------------------------------------------------------------------


def _find_record(tx: Transaction, caller: Caller, keyed: KeyedRequest) -> list[Session] | None:
    """Return the sessions of an earlier batch with this key, as they are now; None if there is none of the last day.

    Raises `KeyReused` if the body of that request was different.
    """
    earlier = tx.batch_record(caller.agent_id, keyed.key)
    if earlier is None:
        return None
    if earlier.created_at < tx.now - RECORD_LIFETIME:
        tx.remove_batch_record(caller.agent_id, keyed.key)
        return None
    session_ids: list[str] = orjson.loads(earlier.session_ids)
    if earlier.body_sha256 != keyed.body_sha256:
        raise KeyReused(session_ids[0], batch=True)
    found = tx.sessions_with(session_ids)
    return [found[one] for one in session_ids if one in found]


def _store_record(tx: Transaction, caller: Caller, keyed: KeyedRequest, sessions: Sequence[Session]) -> None:
    tx.add_batch_record(
        BatchRecord(
            agent_id=caller.agent_id,
            key=keyed.key,
            body_sha256=keyed.body_sha256,
            session_ids=orjson.dumps([session.id for session in sessions]).decode(),
            created_at=tx.now,
        )
    )
