"""Commands that create, reschedule and close many sessions: all of a batch or none.

A batch is prepared outside the store's writer, in parts. One small transaction then checks everything that may refuse
it, and decides it: `create`, `reschedule` and `close`. A batch of one part is done by that transaction. Of a larger one
`do_next` does a few parts at a time, so that other jobs get their turn between them. It cannot be refused any more:
after a kill the next start, or another daemon, continues with it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from tminus.config import Settings
from tminus.domain import ids, timestamps
from tminus.domain.errors import (
    BadStartTime,
    BatchConflict,
    BatchRefused,
    FieldError,
    KeyReused,
    NoPinFree,
    StoreUnavailable,
    TooManySessions,
    UnknownSession,
    WrongStatus,
)
from tminus.domain.lifecycle import Transition, opens_at, transition_for
from tminus.domain.model import Batch, BatchRecord, Instant, Session
from tminus.domain.reminders import next_reminder
from tminus.domain.types import (
    MAX_SESSIONS,
    OPEN_STATUSES,
    BatchKind,
    Caller,
    CreateSession,
    OverlapPolicy,
    Role,
    SessionType,
    Status,
    Trigger,
)
from tminus.sessions import commands
from tminus.sessions.authorization import owns, require
from tminus.sessions.idempotency import RECORD_LIFETIME, KeyedRequest
from tminus.sessions.mail_limit import count_mails, mails_of, refuse_mails
from tminus.sessions.overlaps import refused_overlaps
from tminus.sessions.transitions import open_sessions
from tminus.storage import SessionFilter, Transaction, View, batches, presence, reminders
from tminus.storage.batches import NewRow
from tminus.storage.transitions import Cause, Requested

PART = 100
"""Number of sessions of a part. Other writes wait while a part is done: about 10 ms."""

PARTS = 4
"""Maximum number of parts that one transaction stores, or does if nothing else waits for it: each commit takes as long
as a third of a part.
"""

NEAR = timedelta(milliseconds=250)
"""Time before the next deadline from which on a transaction does one part only."""

SOON = timedelta(minutes=1)
"""PINs are reserved for the sessions that open within this time, since they may have to open before they are stored."""

LEFTOVER_AGE = timedelta(hours=1)
"""Age at which the parts of a batch that was never decided are removed. A request takes minutes at most."""


class Decided(NamedTuple):
    """A batch that is done, or will be done by `do_next`."""

    session_ids: Sequence[str]
    """The ids of its sessions, in its order."""
    unfinished: str | None = None
    """The id of the batch if it is not done yet."""
    replayed: bool = False
    """Whether an earlier request with the same `Idempotency-Key` has decided it."""
    key: str | None = None
    """Its `Idempotency-Key`."""


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
    starts = [request.start_time for request in requests]
    if errors := start_errors(settings, starts, now):
        raise BatchRefused(errors)
    _refuse_overlaps(view, settings, caller, starts)
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


def start_errors(
    settings: Settings, starts: Sequence[datetime | None], now: datetime, first: int = 0
) -> list[FieldError]:
    """Return an error for each session that cannot start at its time. `first`: the index of the first one."""
    errors = []
    for number, start in enumerate(starts, first):
        try:
            commands.check_start(start, now, settings)
        except BadStartTime as error:
            errors.append(FieldError(f"sessions.{number}.startTime", error.problem))
    return errors


def _refuse_overlaps(view: View, settings: Settings, caller: Caller, starts: Sequence[datetime | None]) -> None:
    """Raise `BatchConflict` if sessions would overlap, and the policy refuses that."""
    refused = refused_overlaps(view, settings, caller.agent_id, starts)
    if refused:
        raise BatchConflict([FieldError(f"sessions.{number}.startTime", problem) for number, problem in refused])


# --- new sessions -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class NewBatch:
    """The new sessions of a batch, without what is stored of them."""

    id: str = dataclasses.field(default_factory=ids.random_hex)
    session_ids: dict[str, None] = dataclasses.field(default_factory=dict)
    """The ids in the order of the sessions, none twice."""
    starts: list[datetime | None] = dataclasses.field(default_factory=list)
    has_pin: list[bool] = dataclasses.field(default_factory=list)
    """Whether the type of each session has PINs."""
    mails: int = 0
    """Number of mails that the sessions cause."""
    stored: int = 0
    """Number of parts that are stored."""
    content: str | None = None
    """The content of the only part, if it is not stored."""


def prepare(new: NewBatch, settings: Settings, caller: Caller, requests: Sequence[CreateSession], now: datetime) -> str:
    """Add a part to a batch, and return its content, which is stored.

    The times that depend on `now` are set when the sessions are stored.
    """
    # Ids with a common beginning are close together in the indexes; see `SharedPrefix`. Short ids, which it leaves out,
    # share one character.
    prefix, short = ids.SharedPrefix(), ids.base62(1)
    supply = ids.Supply(sum(request.type.id_length + 2 * ids.TOKEN_LENGTH for request in requests))
    rows: list[NewRow] = []
    for request in requests:
        first = prefix.take(request.type.id_length) or short
        values, _ = commands.session_values(settings, caller, request, now, "", first, supply.texts)
        while values["id"] in new.session_ids:  # an id of a session with a PIN has only six characters
            values, _ = commands.session_values(settings, caller, request, now, "", first, supply.texts)
        new.session_ids[values["id"]] = None
        rows.append(batches.new_row(values))
    new.starts += [request.start_time for request in requests]
    new.has_pin += [request.type.has_pin for request in requests]
    new.mails += sum(mails_of(row[_INVITEES], row[_REMINDERS]) for row in rows)
    created_by = commands.created_by_text(caller, now)
    return _json({"at": Instant.number(now), "created_by": created_by, "columns": batches.COLUMNS, "rows": rows})


def store_parts(tx: Transaction, batch_id: str, first: int, contents: Sequence[str]) -> None:
    """Store parts of a batch that is not decided yet. `first`: the number of the first one."""
    batches.add_parts(tx, batch_id, first, contents)


def discard(tx: Transaction, batch_id: str) -> None:
    """Remove the parts of a batch, unless it is decided."""
    batches.remove_parts(tx, batch_id)


def create(
    tx: Transaction, settings: Settings, caller: Caller, new: NewBatch, keyed: KeyedRequest | None = None
) -> Decided:
    """Decide to create or schedule many sessions, each as `commands.create` does.

    Raises `Forbidden`, `BatchRefused`, `BatchConflict`, `TooManySessions`, `TooManyMails`, `KeyReused`, `NoPinFree`.
    """
    require_agent(caller)
    if keyed is not None and (earlier := find_decided(tx, caller, keyed, tx.now)) is not None:
        return earlier
    if errors := start_errors(settings, new.starts, tx.now):
        raise BatchRefused(errors)
    _refuse_overlaps(tx, settings, caller, new.starts)
    if batches.parts(tx, new.id) != new.stored:
        raise StoreUnavailable  # the clock was moved by an hour while they were stored
    limit = settings.limits.sessions_per_agent
    if limit and not tx.may_open_more(caller.agent_id, limit, len(new.starts)):
        raise TooManySessions(limit, len(new.starts))
    count_mails(tx, settings, [(caller.agent_id, new.mails)])
    at_once = sum(has_pin and start is None for start, has_pin in zip(new.starts, new.has_pin, strict=True))
    due = _soon(settings, new.starts, new.has_pin, tx.now)
    contents = [] if new.content is None else [new.content]
    return _decide(
        tx, settings, caller, BatchKind.CREATE, list(new.session_ids), contents, keyed,
        batch_id=new.id, starts=new.starts, pins=_reserve(tx, new=at_once, due=due),
    )  # fmt: skip


def _soon(settings: Settings, starts: Sequence[datetime | None], has_pin: Sequence[bool], now: datetime) -> int:
    """Return how many sessions with a PIN open soon."""
    latest, timeouts = now + SOON, settings.lifecycle.timeouts
    return sum(
        one and start is not None and opens_at(start, timeouts) <= latest
        for start, one in zip(starts, has_pin, strict=True)
    )


def _reserve(tx: Transaction, **numbers: int) -> dict[str, list[int]]:
    """Return this number of free PINs under each name. Raises `NoPinFree`."""
    wanted = sum(numbers.values())
    pins = tx.free_pins(wanted) if wanted else []
    if len(pins) < wanted:
        raise NoPinFree
    return {name: [pins.pop() for _ in range(number)] for name, number in numbers.items() if number}


_COLUMN = {name: place for place, name in enumerate(batches.COLUMNS)}
_ID, _TYPE, _PIN = _COLUMN["id"], _COLUMN["type"], _COLUMN["pin"]
_USER_URL, _HOST_URL = _COLUMN["user_url"], _COLUMN["host_url"]
_CREATED_AT, _UPDATED_AT, _OPENED_AT = _COLUMN["created_at"], _COLUMN["updated_at"], _COLUMN["opened_at"]
_CREATED_BY, _START, _EXPIRES_AT = _COLUMN["created_by"], _COLUMN["start_time"], _COLUMN["expires_at"]
_REMINDERS, _REMIND_AT = _COLUMN["reminders"], _COLUMN["remind_at"]
_DUE_AT = _COLUMN["due_at"]
_STATUS, _INVITEES = _COLUMN["status"], _COLUMN["invitees"]


@cache
def _creation(scheduled: bool) -> Transition:
    return transition_for(Trigger.SCHEDULE if scheduled else Trigger.CREATE, None)


def _create_parts(tx: Transaction, settings: Settings, batch: batches.State, contents: Sequence[str]) -> "_Done":
    """Store parts of new sessions with their events."""
    now = Instant.number(tx.now)
    rows = [row for content in contents for row in _rows(content, now)]
    renamed = _rename_taken(tx, rows)
    # Milliseconds from the opening to the start, the same for every session.
    lead = now - Instant.number(opens_at(tx.now, settings.lifecycle.timeouts))
    types = {one.value: one for one in SessionType}
    triggers, events = [], []
    due: list[str] = []
    for row in rows:
        start = row[_START]
        if start is not None:
            row[_DUE_AT] = start - lead  # as the insertion computes it
            if row[_DUE_AT] <= now:
                due.append(row[_ID])
        if row[_REMIND_AT] is not None and row[_REMIND_AT] <= now:
            remind_at = next_reminder(row[_REMINDERS], Instant.instant(start), tx.now)
            row[_REMIND_AT] = None if remind_at is None else Instant.number(remind_at)
        transition = _creation(start is not None)
        if commands.needs_pin(types[row[_TYPE]], transition):
            row[_PIN] = batch.pins["new"].pop()
            row[_USER_URL] = f"{settings.server.urls().pin_page}{row[_PIN]}"
        triggers.append(transition.trigger)
        events += [
            batches.new_event(
                session_id=row[_ID],
                type=event_type.value,
                ts=now,
                actor=batch.caller["actor"],
                status=row[_STATUS],
                expires_at=row[_EXPIRES_AT],
                start_time=start,
                request_id=batch.caller["request_id"],
            )
            for event_type in transition.events
        ]
    tx.add_rows(triggers, rows, events, settings.lifecycle.timeouts)
    if due:
        found = tx.sessions_with(due)
        open_sessions(tx, settings, batch.caller["request_id"], [found[one] for one in due], batch.pins.get("due", []))
    return _Done(len(rows), renamed, {} if due else {row[_ID]: row for row in rows})


def _rows(content: str, now: int) -> list[NewRow]:
    """Return the rows of a part, with the times that depend on `now`, the stored time at which they are created."""
    part = orjson.loads(content)
    rows = batches.current_rows(part["columns"], part["rows"])
    for row in rows:
        row[_CREATED_BY], row[_CREATED_AT], row[_UPDATED_AT] = part["created_by"], now, now
        if row[_OPENED_AT] is not None:
            row[_OPENED_AT] = now
        if row[_START] is None:
            row[_EXPIRES_AT] += now - part["at"]
    return rows


def _rename_taken(tx: Transaction, rows: Sequence[list[Any]]) -> dict[str, str]:
    """Give new ids to those of these new sessions whose ids other sessions have; return the new ids by the old ones.

    An id of a session with a PIN has only six characters.
    """
    renamed: dict[str, str] = {}
    taken = batches.existing(tx, [row[_ID] for row in rows])
    for row in rows:
        old = row[_ID]
        while row[_ID] in taken:
            row[_ID] = ids.base62(len(old))
            taken |= batches.existing(tx, [row[_ID]])
        if row[_ID] != old:
            renamed[old] = row[_ID]
            for column in (_USER_URL, _HOST_URL):
                row[column] = row[column].removesuffix(old) + row[_ID]
        taken.add(row[_ID])
    return renamed


# --- existing sessions ------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """A session that a batch moves or closes."""

    session_id: str
    start: datetime | None = None
    """The new start; None: `by` moves it, or the session is closed."""
    version: int | None = None
    """The version that the caller has seen; None: any."""


class Targets(NamedTuple):
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
    """Without its long texts, as `_read` returns it."""
    mails: int
    """Number of mails that a move of the session causes."""
    target: Target
    field: str


class Move(NamedTuple):
    """A session of a batch with its new start, and the field that names it."""

    session: Session
    """Without its long texts, as `_read` returns it."""
    mails: int
    """Number of mails that the move causes."""
    start: datetime
    field: str


def reschedule(
    tx: Transaction, settings: Settings, caller: Caller, moves: Sequence[Move], keyed: KeyedRequest | None = None
) -> Decided | None:
    """Decide to move many scheduled sessions, each as `commands.reschedule` does.

    `moves`: what `find_moves` has found. None: one of the sessions has changed since, so find them again.

    Raises `BatchConflict`, `BatchRefused`, `TooManyMails`, `KeyReused`, `NoPinFree`.
    """
    if keyed is not None and (earlier := find_decided(tx, caller, keyed, tx.now)) is not None:
        return earlier
    versions = {move.session.id: move.session.version for move in moves}
    if batches.unchanged(tx, versions) != len(moves):
        return None
    if errors := _overlapping_moves(tx, settings, moves):
        raise BatchConflict(errors)
    count_mails(tx, settings, _mails_of(moves))
    moved = [move for move in moves if move.start != move.session.start_time]
    has_pin = [move.session.type.has_pin for move in moved]
    due = _soon(settings, [move.start for move in moved], has_pin, tx.now)
    rows = [
        [
            move.session.id,
            move.session.version,
            None if move.start == move.session.start_time else Instant.number(move.start),
        ]
        for move in moves
    ]
    return _decide(
        tx, settings, caller, BatchKind.RESCHEDULE, list(versions), _contents(rows), keyed,
        starts=[move.start for move in moves], pins=_reserve(tx, due=due),
    )  # fmt: skip


def _move_parts(tx: Transaction, settings: Settings, batch: batches.State, contents: Sequence[str]) -> "_Done":
    """Move the sessions of parts, except those that have changed since the batch was decided."""
    rows: list[tuple[str, int, int | None]] = [row for content in contents for row in orjson.loads(content)]
    timeouts, row = settings.lifecycle.timeouts, transition_for(Trigger.RESCHEDULE, Status.SCHEDULED)
    found = tx.sessions_with([session_id for session_id, _, start in rows if start is not None])
    cause = Cause(batch.caller["actor"] or "", batch.caller["request_id"])
    due: list[Session] = []
    for session_id, version, number in rows:
        session = found.get(session_id)
        if number is not None and session is not None and session.version == version:
            start = Instant.instant(number)
            given = {"start_time": start, "expires_at": start + timeouts.new}
            tx.request(row, Requested(session, cause, given), timeouts)
            due += [session] if opens_at(start, timeouts) <= tx.now else []
    open_sessions(tx, settings, batch.caller["request_id"], due, batch.pins.get("due", []))
    return _Done(len(rows), {})


def plan_reschedule(view: View, settings: Settings, caller: Caller, targets: Targets, now: datetime) -> list[Plan]:
    """Return the sessions as `reschedule` would leave them. Raises the same errors, but not those of keys and PINs."""
    timeouts = settings.lifecycle.timeouts
    plans = []
    moves = find_moves(view, settings, caller, targets, now)
    refuse_mails(view, settings, _mails_of(moves), now)
    for session, _, start, _ in moves:
        at = opens_at(start, timeouts)
        waits = start == session.start_time or at > now
        status = Status.SCHEDULED if waits else Status.NEW
        expires = session.expires_at if start == session.start_time else start + timeouts.new
        plans.append(Plan(session.id, session.type, session.label, status, start, at if waits else None, expires))
    return plans


def close(
    tx: Transaction, settings: Settings, caller: Caller, sessions: Sequence[Session], keyed: KeyedRequest | None = None
) -> Decided:
    """Decide to close many sessions, each as `commands.close` does; those that are closed already stay as they are.

    `sessions`: what `find_open` has found. Raises `KeyReused`.
    """
    if keyed is not None and (earlier := find_decided(tx, caller, keyed, tx.now)) is not None:
        return earlier
    session_ids = [session.id for session in sessions]
    return _decide(tx, settings, caller, BatchKind.CLOSE, session_ids, _contents(session_ids), keyed)


def _close_parts(tx: Transaction, settings: Settings, batch: batches.State, contents: Sequence[str]) -> "_Done":
    """Close those of the sessions of parts that are still open."""
    session_ids: list[str] = [session_id for content in contents for session_id in orjson.loads(content)]
    cause = Cause(batch.caller["actor"] or "", batch.caller["request_id"])
    found = tx.sessions_with(session_ids)
    for session in [found[one] for one in session_ids if one in found]:
        if session.status is not Status.CLOSED:
            row = transition_for(Trigger.CLOSE, session.status)
            tx.request(row, Requested(session, cause), settings.lifecycle.timeouts)
    tx.flush()
    return _Done(len(session_ids), {})


def _contents(rows: Sequence[Any]) -> list[str]:
    """Return the parts of a batch of existing sessions."""
    return [orjson.dumps(rows[first : first + PART]).decode() for first in range(0, len(rows), PART)]


def plan_close(view: View, caller: Caller, targets: Targets) -> list[Plan]:
    """Return the sessions as `close` would leave them. Raises the same errors, except those about keys."""
    return [
        Plan(one.id, one.type, one.label, Status.CLOSED, one.start_time, None, one.expires_at)
        for one in find_open(view, caller, targets)
    ]


def find_moves(view: View, settings: Settings, caller: Caller, targets: Targets, now: datetime) -> list[Move]:
    """Return the sessions to move, each with its new start. Raises `Forbidden`, `BatchConflict`, `BatchRefused`."""
    found, conflicts = _found(view, caller, targets, Role.GROUP_ADMIN, (Status.SCHEDULED,))
    refused: list[FieldError] = []
    moves = []
    for session, mails, target, field in found:
        try:
            transition_for(Trigger.RESCHEDULE, session.status)
            start = target.start or _moved(session, targets.by)
            if start != session.start_time:
                commands.check_start(start, now, settings)
            moves.append(Move(session, mails, start, field))
        except WrongStatus as error:
            conflicts.append(FieldError(field, f"{session.id}: {error.description}"))
        except BadStartTime as error:
            refused.append(
                FieldError(field, f"{session.id}: the start {timestamps.text(error.start_time)} {error.problem}")
            )
    if not refused and not conflicts:
        conflicts = _overlapping_moves(view, settings, moves)
    if conflicts:
        raise BatchConflict([*conflicts, *refused])
    if refused:
        raise BatchRefused(refused)
    return moves


def _mails_of(moves: Sequence[Move]) -> Iterator[tuple[int, int]]:
    """Return how many mails the moves cause, and of which agents."""
    for session, mails, start, _ in moves:
        if start != session.start_time:
            yield session.agent_id, mails


def _overlapping_moves(view: View, settings: Settings, moves: Sequence["Move"]) -> list[FieldError]:
    """Return the errors of the moves that the policy on overlaps refuses."""
    of_agent: dict[int, list[Move]] = {}
    for move in moves:
        of_agent.setdefault(move.session.agent_id, []).append(move)
    return [
        FieldError(some[index].field, f"{some[index].session.id} {problem}")
        for agent_id, some in of_agent.items()
        for index, problem in refused_overlaps(
            view, settings, agent_id, [move.start for move in some], [move.session.start_time for move in some]
        )
    ]


def _moved(session: Session, by: timedelta | None) -> datetime:
    assert session.start_time is not None, "a scheduled session has a start"
    assert by is not None, "a request without new starts has a time by which they move"
    try:
        return session.start_time + by
    except OverflowError:
        raise BadStartTime(session.start_time, "would move beyond the calendar") from None


def find_open(view: View, caller: Caller, targets: Targets) -> list[Session]:
    """Return the sessions to close. Raises `Forbidden`, `BatchConflict`, `BatchRefused`."""
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
        ids = view.matching(wanted._replace(statuses=some, limit=MAX_SESSIONS + 1)) if some else []
        if len(ids) > MAX_SESSIONS:
            raise BatchRefused([FieldError("filter", f"matches more than {MAX_SESSIONS} sessions: add conditions")])
        by_id = _read(view, ids)
        return [_Found(*by_id[one], Target(one), f"filter.{number}") for number, one in enumerate(ids)], []
    sessions = _read(view, [target.session_id for target in targets.listed])
    found: list[_Found] = []
    errors: list[FieldError] = []
    places: dict[str, str] = {}
    for number, target in enumerate(targets.listed):
        field = f"{targets.name}.{number}"
        session, mails = sessions.get(target.session_id, (None, 0))
        if session is None:
            errors.append(FieldError(field, UnknownSession(target.session_id).description))
        elif target.session_id in places:
            errors.append(FieldError(field, f"names the same session as {places[target.session_id]}"))
        elif not (may_all or owns(caller, session)):
            errors.append(FieldError(field, f"{session.id} belongs to another agent: this needs the role {everybody}"))
        elif target.version is not None and session.version != target.version:
            errors.append(FieldError(field, f"{session.id} is at version {session.version} now"))
        else:
            found.append(_Found(session, mails, target, field))
        places.setdefault(target.session_id, field)
    return found, errors


def _read(view: View, session_ids: Sequence[str]) -> dict[str, tuple[Session, int]]:
    """Return those of these sessions that exist, by id, each with the number of mails that a move of it causes.

    They are read in parts, and without their long texts: those of 10,000 sessions can have 700 MB.
    """
    found = {}
    for first in range(0, len(session_ids), PART):
        for session in view.sessions_with(session_ids[first : first + PART]).values():
            mails = mails_of(session.invitees, session.reminders)
            session.parent_object = session.meta_data = session.invitees = None
            found[session.id] = session, mails
    return found


# --- deciding and doing -----------------------------------------------------------------------------------------------


class _Done(NamedTuple):
    """Parts that are done."""

    sessions: int
    """The number of its sessions."""
    renamed: dict[str, str]
    """New ids of sessions, by the ids that were decided, because other sessions have those."""
    created: Mapping[str, NewRow] = MappingProxyType({})
    """The rows of new sessions by id; empty if some of them have opened already."""


def _decide(
    tx: Transaction,
    settings: Settings,
    caller: Caller,
    kind: BatchKind,
    session_ids: list[str],
    contents: Sequence[str],
    keyed: KeyedRequest | None,
    *,
    batch_id: str | None = None,
    starts: Sequence[datetime | None] = (),
    pins: dict[str, list[int]] | None = None,
) -> Decided:
    """Record the decision, and do a batch of one part at once.

    `contents`: the parts that are not stored yet.
    """
    cause, batch_id = {"actor": caller.actor, "request_id": caller.request_id}, batch_id or ids.random_hex()
    if len(session_ids) <= PART:
        state = batches.State(batch_id, kind, cause, pins or {}, len(session_ids), tx.now)
        renamed = _DO[kind](tx, settings, state, contents).renamed if contents else {}
        session_ids = [renamed.get(one, one) for one in session_ids]
        unfinished = None
    else:
        if contents:
            batches.add_parts(tx, batch_id, 0, contents)
        refuses = settings.policy.overlap is OverlapPolicy.REFUSE and starts
        numbers = [None if start is None else Instant.number(start) for start in starts]
        batches.add(
            tx,
            Batch(
                id=batch_id,
                kind=kind,
                agent_id=caller.agent_id,
                key=None if keyed is None else keyed.key,
                caller=_json(cause),
                session_ids=_json(session_ids),
                starts=_json(numbers) if refuses else None,
                pins=_json(pins) if pins else None,
                remaining=len(session_ids),
                created_at=tx.now,
            ),
        )
        unfinished = batch_id
    if keyed is not None:
        tx.remove_batch_record(caller.agent_id, keyed.key)  # one of yesterday
        tx.add_batch_record(
            BatchRecord(
                agent_id=caller.agent_id,
                key=keyed.key,
                body_sha256=keyed.body_sha256,
                session_ids=_json(session_ids),
                created_at=tx.now,
            )
        )
    return Decided(session_ids, unfinished, key=None if keyed is None else keyed.key)


_DO: dict[BatchKind, Callable[[Transaction, Settings, batches.State, Sequence[str]], _Done]] = {
    BatchKind.CREATE: _create_parts,
    BatchKind.RESCHEDULE: _move_parts,
    BatchKind.CLOSE: _close_parts,
}


class Progress(NamedTuple):
    """What a transaction has done of a batch."""

    remaining: int
    """Number of sessions for which the batch is not done yet."""
    renamed: dict[str, str]
    """As in `_Done`."""
    done: int = 0
    """Number of sessions that it has done."""
    created: Mapping[str, NewRow] = MappingProxyType({})
    """As in `_Done`."""


def do_next(tx: Transaction, settings: Settings, batch_id: str) -> Progress:
    """Do the next part of a batch that is decided, or the next `PARTS` if nothing waits for this transaction.

    Several daemons may do this at the same time.
    """
    batch = batches.state(tx, batch_id)
    parts = batches.next_parts(tx, batch_id, PARTS if _is_alone(tx) else 1)
    if batch is None or not parts:
        return Progress(0, {})
    numbers, contents = zip(*parts, strict=True)
    done = _DO[batch.kind](tx, settings, batch, contents)
    if done.renamed:
        batches.rename(tx, batch_id, done.renamed)
    remaining = batches.record_done(tx, batch, numbers, done.sessions)
    return Progress(remaining, done.renamed, done.sessions, done.created)


def _is_alone(tx: Transaction) -> bool:
    """Return whether no other job shares this transaction, and no deadline is near."""
    if tx.jobs > 1:
        return False
    deadlines = (tx.next_due(), reminders.next_due(tx), presence.next_due(tx))
    return all(at is None or at > tx.now + NEAR for at in deadlines)


def current_ids(view: View, caller: Caller, key: str) -> list[str]:
    """Return the ids of the sessions of a batch with a key, as they are now; an empty list if there is none."""
    record = view.batch_record(caller.agent_id, key)
    return [] if record is None else list(orjson.loads(record.session_ids))


def find_decided(view: View, caller: Caller, keyed: KeyedRequest, now: datetime) -> Decided | None:
    """Return the batch of an earlier request with this key; None if there is none of the last day.

    Raises `KeyReused` if the body of that request was different.
    """
    earlier = view.batch_record(caller.agent_id, keyed.key)
    if earlier is None or earlier.created_at < now - RECORD_LIFETIME:
        return None
    session_ids: list[str] = orjson.loads(earlier.session_ids)
    if earlier.body_sha256 != keyed.body_sha256:
        raise KeyReused(session_ids[0] if session_ids else "", batch=True)
    return Decided(session_ids, batches.with_key(view, caller.agent_id, keyed.key), replayed=True, key=keyed.key)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
