"""Commands that create, reschedule and close many sessions: all of a batch or none.

As in `commands`, the store's writer runs each as a job. The errors of all items are collected, with their index.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

import orjson

from tminus.config import Settings
from tminus.domain import timestamps
from tminus.domain.errors import (
    BadStartTime,
    BatchConflict,
    BatchRefused,
    FieldError,
    KeyReused,
    NoPinFree,
    TooManySessions,
    UnknownSession,
    WrongStatus,
)
from tminus.domain.lifecycle import opens_at, transition_for
from tminus.domain.model import BatchRecord, Session
from tminus.domain.types import MAX_SESSIONS, OPEN_STATUSES, Caller, CreateSession, Role, SessionType, Status, Trigger
from tminus.sessions import commands
from tminus.sessions.authorization import owns, require
from tminus.sessions.idempotency import RECORD_LIFETIME, KeyedRequest
from tminus.sessions.mail_limit import count_mails, mails_of, refuse_mails
from tminus.sessions.overlaps import refused_overlaps
from tminus.sessions.transitions import execute_transition, open_sessions, record_creation
from tminus.storage import SessionFilter, Transaction, View


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
    mails = ((caller.agent_id, mails_of(one.invitees, commands.reminders_of(settings, one))) for one in requests)
    refuse_mails(view, settings, mails, now)
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

    Raises `Forbidden`, `BatchRefused`, `BatchConflict`, `TooManySessions`, `TooManyMails`, `KeyReused`, `NoPinFree`.
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
    count_mails(tx, settings, ((caller.agent_id, mails_of(one.invitees, one.reminders)) for one, _ in made))
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


# --- existing sessions ------------------------------------------------------------------------------------------------

AT_ONCE = 1000
"""Number of sessions that one statement moves. It bounds the memory for the values that are passed to it."""


class Target(NamedTuple):
    """A session that a batch moves or closes."""

    session_id: str
    start: datetime | None = None
    """The new start; None: `by` moves it, or the session is closed."""
    version: int | None = None
    """The version that the caller has seen; None: any."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The sessions of a batch: those of a list, or all that match a filter."""

    name: str
    """The member of the request that has the list, for errors."""
    listed: Sequence[Target] = ()
    matching: SessionFilter | None = None
    by: timedelta | None = None
    """The time by which starts move, for sessions without a new start."""


class _Found(NamedTuple):
    """A session of a batch, and the field that names it."""

    session: Session
    target: Target
    field: str


def reschedule(
    tx: Transaction, settings: Settings, caller: Caller, targets: Targets, keyed: KeyedRequest | None = None
) -> BatchResult:
    """Move many scheduled sessions, each as `commands.reschedule` does.

    Raises `Forbidden`, `BatchConflict`, `BatchRefused`, `TooManyMails`, `KeyReused`, `NoPinFree`.
    """
    if keyed is not None and (earlier := _find_record(tx, caller, keyed)) is not None:
        return BatchResult(earlier, replayed=True)
    moves = _moves(tx, settings, caller, targets, tx.now)
    count_mails(tx, settings, _mails_of(moves))
    sessions = [session for session, _ in moves]
    due: list[Session] = []
    for first in range(0, len(moves), AT_ONCE):
        for session, start in moves[first : first + AT_ONCE]:
            if start != session.start_time:
                expires = start + settings.lifecycle.timeouts.new
                row = transition_for(Trigger.RESCHEDULE, session.status)
                execute_transition(tx, settings, session, row, caller, start_time=start, expires_at=expires)
                due += [session] if opens_at(start, settings.lifecycle.timeouts) <= tx.now else []
        tx.flush()
    if keyed is not None:
        _store_record(tx, caller, keyed, sessions)
    open_sessions(tx, settings, caller, due)
    return BatchResult(sessions)


def plan_reschedule(view: View, settings: Settings, caller: Caller, targets: Targets, now: datetime) -> list[Plan]:
    """Return the sessions as `reschedule` would leave them. Raises the same errors, but not those of keys and PINs."""
    timeouts = settings.lifecycle.timeouts
    plans = []
    moves = _moves(view, settings, caller, targets, now)
    refuse_mails(view, settings, _mails_of(moves), now)
    for session, start in moves:
        at = opens_at(start, timeouts)
        waits = start == session.start_time or at > now
        status = Status.SCHEDULED if waits else Status.NEW
        expires = session.expires_at if start == session.start_time else start + timeouts.new
        plans.append(Plan(session.id, session.type, session.label, status, start, at if waits else None, expires))
    return plans


def close(
    tx: Transaction, settings: Settings, caller: Caller, targets: Targets, keyed: KeyedRequest | None = None
) -> BatchResult:
    """Close many sessions, each as `commands.close` does; those that are closed already stay as they are.

    Raises `Forbidden`, `BatchConflict`, `KeyReused`.
    """
    if keyed is not None and (earlier := _find_record(tx, caller, keyed)) is not None:
        return BatchResult(earlier, replayed=True)
    sessions = _to_close(tx, caller, targets)
    for first in range(0, len(sessions), AT_ONCE):
        for session in sessions[first : first + AT_ONCE]:
            if session.status is not Status.CLOSED:
                execute_transition(tx, settings, session, transition_for(Trigger.CLOSE, session.status), caller)
        tx.flush()
    if keyed is not None:
        _store_record(tx, caller, keyed, sessions)
    return BatchResult(sessions)


def plan_close(view: View, caller: Caller, targets: Targets) -> list[Plan]:
    """Return the sessions as `close` would leave them. Raises the same errors, except those about keys."""
    return [
        Plan(one.id, one.type, one.label, Status.CLOSED, one.start_time, None, one.expires_at)
        for one in _to_close(view, caller, targets)
    ]


def _moves(
    view: View, settings: Settings, caller: Caller, targets: Targets, now: datetime
) -> list[tuple[Session, datetime]]:
    """Return the sessions to move, each with its new start."""
    found, conflicts = _found(view, caller, targets, Role.GROUP_ADMIN, (Status.SCHEDULED,))
    refused: list[FieldError] = []
    moves = []
    for session, target, field in found:
        try:
            transition_for(Trigger.RESCHEDULE, session.status)
            start = target.start or _moved(session, targets.by)
            if start != session.start_time:
                commands.check_start(start, now, settings)
            moves.append((session, start))
        except WrongStatus as error:
            conflicts.append(FieldError(field, f"{session.id}: {error.description}"))
        except BadStartTime as error:
            refused.append(
                FieldError(field, f"{session.id}: the start {timestamps.text(error.start_time)} {error.problem}")
            )
    if not refused and not conflicts:
        conflicts = _overlapping_moves(view, settings, moves, [one.field for one in found])
    if conflicts:
        raise BatchConflict([*conflicts, *refused])
    if refused:
        raise BatchRefused(refused)
    return moves


def _mails_of(moves: Sequence[tuple[Session, datetime]]) -> Iterator[tuple[int, int]]:
    """Return how many mails the moves cause, and of which agents."""
    for session, start in moves:
        if start != session.start_time:
            yield session.agent_id, mails_of(session.invitees, session.reminders)


def _overlapping_moves(
    view: View, settings: Settings, moves: Sequence[tuple[Session, datetime]], fields: Sequence[str]
) -> list[FieldError]:
    """Return the errors of the moves that the policy on overlaps refuses. `fields` names each move."""
    of_agent: dict[int, list[int]] = {}
    for number, (session, _) in enumerate(moves):
        of_agent.setdefault(session.agent_id, []).append(number)
    return [
        FieldError(fields[numbers[index]], f"{moves[numbers[index]][0].id} {problem}")
        for agent_id, numbers in of_agent.items()
        for index, problem in refused_overlaps(
            view,
            settings,
            agent_id,
            [moves[number][1] for number in numbers],
            [moves[number][0].start_time for number in numbers],
        )
    ]


def _moved(session: Session, by: timedelta | None) -> datetime:
    assert session.start_time is not None, "a scheduled session has a start"
    assert by is not None, "a request without new starts has a time by which they move"
    try:
        return session.start_time + by
    except OverflowError:
        raise BadStartTime(session.start_time, "would move beyond the calendar") from None


def _to_close(view: View, caller: Caller, targets: Targets) -> list[Session]:
    found, conflicts = _found(view, caller, targets, Role.SUPERVISOR, OPEN_STATUSES)
    if conflicts:
        raise BatchConflict(conflicts)
    return [one.session for one in found]


def _found(
    view: View, caller: Caller, targets: Targets, everybody: Role, statuses: Sequence[Status]
) -> tuple[list[_Found], list[FieldError]]:
    """Return the sessions of a batch in its order, and the errors of those that the caller may not change.

    `everybody`: the role that may change the sessions of all agents; `statuses`: those that a filter matches.
    """
    may_all = caller.has(everybody)
    require(may_all or caller.has(Role.AGENT), f"the role agent or {everybody}")
    if targets.matching is not None:
        wanted = targets.matching
        require(may_all or wanted.agent_id == caller.agent_id, f"the role {everybody}")
        some = [status for status in statuses if status in wanted.statuses]
        ids = view.matching(replace(wanted, statuses=some, limit=MAX_SESSIONS + 1)) if some else []
        if len(ids) > MAX_SESSIONS:
            raise BatchRefused([FieldError("filter", f"matches more than {MAX_SESSIONS} sessions: add conditions")])
        by_id = view.sessions_with(ids)
        return [_Found(by_id[one], Target(one), f"filter.{number}") for number, one in enumerate(ids)], []
    sessions = view.sessions_with([target.session_id for target in targets.listed])
    found: list[_Found] = []
    errors: list[FieldError] = []
    places: dict[str, str] = {}
    for number, target in enumerate(targets.listed):
        field, session = f"{targets.name}.{number}", sessions.get(target.session_id)
        if session is None:
            errors.append(FieldError(field, UnknownSession(target.session_id).description))
        elif target.session_id in places:
            errors.append(FieldError(field, f"names the same session as {places[target.session_id]}"))
        elif not (may_all or owns(caller, session)):
            errors.append(FieldError(field, f"{session.id} belongs to another agent: this needs the role {everybody}"))
        elif target.version is not None and session.version != target.version:
            errors.append(FieldError(field, f"{session.id} is at version {session.version} now"))
        else:
            found.append(_Found(session, target, field))
        places.setdefault(target.session_id, field)
    return found, errors


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
        raise KeyReused(session_ids[0] if session_ids else "", batch=True)
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
