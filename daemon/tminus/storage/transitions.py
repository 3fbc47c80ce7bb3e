"""The executor: the only module that executes transitions of stored sessions.

`execute` does it for the sessions that commands name, and for the first sessions that are due. In each case the same
statements write the participants, the events, and the sessions with their next deadlines. The transition table
determines what is written. Whoever leaves by a transition also has no row in `presence` any more.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import cache, partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CursorResult,
    Delete,
    Insert,
    Integer,
    Select,
    String,
    Update,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    update,
)  # fmt: skip
from sqlalchemy.types import TypeEngine

from tminus.domain.events import LogEvent
from tminus.domain.lifecycle import Change, Transition
from tminus.domain.model import Event, Instant, Participant, Session
from tminus.domain.reminders import next_reminder
from tminus.domain.types import CLOCK_ACTOR, CloseReason, Status, Timeouts, Trigger
from tminus.storage.deadlines import deadline, plain
from tminus.storage.json_rows import Lookup, look_up
from tminus.storage.tables import EVENTS, PARTICIPANTS, PRESENCE, SESSIONS

if TYPE_CHECKING:
    from tminus.storage.transaction import Transaction

_S, _P, _R = SESSIONS.c, PARTICIPANTS.c, PRESENCE.c
_NOW = bindparam("now", type_=BigInteger)


class Cause(NamedTuple):
    """The cause of a transition, as its events contain it."""

    actor: str
    request_id: str | None = None
    due_at: datetime | None = None
    """When the transition was due, if the scheduler caused it."""
    host: str | None = None
    """The name of the host in the session's room who caused it, if one did."""


class Requested(NamedTuple):
    """A transition of one session that a command requests."""

    session: Session
    """The session, as this transaction has read it. The executor updates the object."""
    cause: Cause
    given: Mapping[str, Any] = MappingProxyType({})
    """Column -> value, for each `Change.GIVEN`."""


class Named(NamedTuple):
    """Sessions that commands have read in this transaction. A session that has changed since then is not moved."""

    transitions: tuple[Transition, ...]
    """The rows of the transition table by which they move: one for each of their statuses."""
    requested: Sequence[Requested]
    participant: Participant | None = None
    """The participant whom the transition is about. Then there is one session."""


class Due(NamedTuple):
    """The first `limit` sessions whose deadlines are not after `until`, in the order of their deadlines."""

    transitions: tuple[Transition, ...]
    """The rows of the transition table by which they move: one for each trigger."""
    until: datetime
    limit: int


def execute(
    tx: "Transaction", sessions: Named | Due, timeouts: Timeouts, pins: Mapping[str, int] | None = None
) -> list[Session]:
    """Execute the transitions of these sessions.

    The sessions of a `Named` are updated and returned. Of a `Due` none are returned, because reading thousands would
    take longer than their transitions. `pins`: session id -> PIN, for those that get one.
    """
    named = sessions if isinstance(sessions, Named) else None
    statements = _statements(sessions.transitions, timeouts, tx.dialect, is_named=named is not None)
    values: dict[str, Any] = {"now": Instant.number(tx.now)}
    if isinstance(sessions, Due):
        values |= {"until": sessions.until, "limit": sessions.limit}
    else:
        values |= _values(sessions, tx.now)
    if statements.freed is not None and tx.allowances.pins.scarce:
        freed = tx.execute(statements.freed, values).scalars().all()
    else:
        freed = ()
    for statement in statements.participants:
        tx.execute(statement, values)
    participant = None if named is None else _participant(tx, named)
    events = [tx.execute(statement, values) for statement in statements.events]
    changed = tx.execute(statements.sessions, values)
    if pins:  # last: on PostgreSQL an earlier update would leave dead row versions, which all later statements read
        tx.execute(_give_pins(tx.dialect), {"pins": orjson.dumps(pins).decode()})
    tx.allowances.pins.freed(freed)
    tx.has_events = True
    return [] if named is None else _results(tx, named, events, changed, participant, pins or {})


_ENUMS: dict[str, type[StrEnum]] = {"status": Status, "due_trigger": Trigger, "close_reason": CloseReason}
"""Columns that a transition writes -> the enumeration of their values."""


def _values(named: Named, now: datetime) -> dict[str, Any]:
    moves_reminders = any("remind_at" in row.effects.session for row in named.transitions)
    wanted = {
        session.id: {
            "version": session.version,
            "actor": cause.actor,
            "request_id": cause.request_id,
            "was_due": _number(cause.due_at),
            **{name: _number(value) for name, value in given.items()},
        }
        for session, cause, given in named.requested
    }
    if moves_reminders:
        for session, _, given in named.requested:
            start = given.get("start_time", session.start_time)
            wanted[session.id]["remind_at"] = _number(next_reminder(session.reminders, start, now))
    participant = named.participant
    return {"wanted": orjson.dumps(wanted).decode(), "of_participant": participant and participant.id}


def _number(value: Any) -> Any:
    return Instant.number(value) if isinstance(value, datetime) else value


def _participant(tx: "Transaction", named: Named) -> Participant | None:
    """Write the row of the participant whom a transition is about; return it."""
    participant, effects = named.participant, named.transitions[0].effects
    if participant is None:
        return None
    changed = {name: tx.now if change is Change.NOW else None for name, change in effects.participant.items()}
    participant = participant.model_copy(update=changed)
    if effects.adds_participant:
        tx.execute(insert(PARTICIPANTS), participant.model_dump())
    else:
        tx.execute(update(PARTICIPANTS).where(_P.id == participant.id).values(changed))
    if participant.left_at is not None:
        tx.execute(delete(PRESENCE).where(_R.participant_id == participant.id))
    return participant


def _results(
    tx: "Transaction",
    named: Named,
    events: Sequence[CursorResult[Any]],
    changed: CursorResult[Any],
    participant: Participant | None,
    pins: Mapping[str, int],
) -> list[Session]:
    before = {session.id: session for session, _, _ in named.requested}
    names = [name for name in changed.keys() if name != "id"]  # noqa: SIM118 - a result is no mapping
    found: dict[str, Session] = {}
    for row in changed.all():
        values: dict[str, Any] = dict(zip(names, row[1:], strict=True))
        values |= {name: enum(values[name]) for name, enum in _ENUMS.items() if values.get(name) is not None}
        if row.id in pins:
            values["pin"] = pins[row.id]
        # Columns that were not written are as they were read, because a session that has changed is not in the result.
        session = found[row.id] = before[row.id]
        vars(session).update(values)
        tx.note_due(session.due_at)
        tx.note_due(session.remind_at)
    recorded = [Event.model_validate(dict(row)) for result in events for row in result.mappings()]
    recorded.sort(key=lambda event: event.seq or 0)  # no database guarantees the order of the returned rows
    hosts = {session.id: cause.host for session, cause, _ in named.requested}
    tx.add_inserted_events(
        [LogEvent(event, found[event.session_id], participant, hosts[event.session_id]) for event in recorded]
    )
    tx.transitions[named.transitions[0].trigger] += len(found)
    return list(found.values())


# --- which sessions ---------------------------------------------------------------------------------------------------

# An expression, so that no index is used for it: with the index that begins with the status, SQLite would read every
# scheduled session.
_status = _S.status.concat("")

LATE_SINCE = func.coalesce(_S.late_since, _S.due_at, type_=_S.due_at.type)
"""The time since when a session that is due is late."""

# Sessions that were created one after the other are adjacent in the file. In this order a batch of sessions with the
# same deadline writes each page once. Ids are random: in their order nearly every batch would write all pages.
_IN_ORDER = (_S.due_at, _S.created_at, _S.id)


def due(rows: tuple[Transition, ...], *columns: ColumnElement[Any]) -> Select[Any]:
    """Select columns of the first `limit` sessions that are due at `until` and move by one of these rows, in order.

    A session that is due by a trigger that its status does not allow is never selected.
    """
    is_due = _S.due_at <= bindparam("until", type_=_S.due_at.type)
    return select(*columns).where(is_due, _may_move(rows)).order_by(*_IN_ORDER).limit(bindparam("limit"))


def _may_move(rows: tuple[Transition, ...]) -> ColumnElement[bool]:
    return or_(*(and_(_S.due_trigger == enum_literal(row.trigger), _is_in(row)) for row in rows))


def _is_in(row: Transition) -> ColumnElement[bool]:
    assert row.source is not None, "a session that does not exist yet cannot be selected"
    return _status == enum_literal(row.source)


def enum_literal(value: str | None) -> ColumnElement[Any]:
    """Return a value of an enumeration, such as a status, as an SQL literal, which is faster than a parameter."""
    return null() if value is None else literal_column(f"'{value}'", String)


@cache
def _give_pins(dialect: str) -> Update:
    """Return the statement that stores PINs. Its parameter `pins` is a JSON object: session id -> PIN."""
    pins = look_up(dialect, "pins", _S.id)
    return update(SESSIONS).where(pins.is_in).values(pin=cast(pins.value, Integer))


# --- the statements ---------------------------------------------------------------------------------------------------


class _Statements(NamedTuple):
    """The statements that execute some rows of the transition table, in the order of execution."""

    freed: Select[Any] | None
    """Selects the PINs that become free; None if no PIN can become free."""
    participants: list[Update | Delete]
    events: list[Insert]
    sessions: Update


@cache
def _statements(rows: tuple[Transition, ...], timeouts: Timeouts, dialect: str, *, is_named: bool) -> _Statements:
    chosen = _Chosen(rows, dialect, is_named=is_named)

    def part(of: Callable[[Transition], bool]) -> "_Chosen | None":
        some = tuple(row for row in rows if of(row))
        return _Chosen(some, dialect, is_named=is_named, of_batch=rows) if some else None

    closing = part(lambda row: row.effects.session.get("pin") is Change.ZERO)
    leaving = part(lambda row: bool(row.effects.all_participants))
    most = max(len(row.events) for row in rows)
    recording = [part(lambda row, index=index: len(row.events) > index) for index in range(most)]  # type: ignore[misc]
    values = _new_values(chosen, timeouts)
    sessions = update(SESSIONS).where(chosen.condition).values(values)
    return _Statements(
        None if closing is None else closing.select(_S.pin).where(_S.pin != 0),
        [] if leaving is None else [_everybody(leaving), _connections(leaving)],
        [_event(one, index, is_named=is_named) for index, one in enumerate(recording) if one is not None],
        sessions.returning(_S.id, *(_S[name] for name in values)) if is_named else sessions,
    )


class _Chosen:
    """The sessions that move by some rows of the transition table, and the values that the rows write, as SQL.

    `of_batch`: all rows of the batch; None: `rows` are all. Only sessions that are due first by any of these move.
    """

    def __init__(
        self,
        rows: tuple[Transition, ...],
        dialect: str,
        *,
        is_named: bool,
        of_batch: tuple[Transition, ...] | None = None,
    ) -> None:
        self.rows = rows
        self._wanted: Lookup | None = None
        self._key = _S.status if is_named else _S.due_trigger
        """The column that determines by which of the rows a session moves."""
        if is_named:
            wanted = self._wanted = look_up(dialect, "wanted", _S.id)
            unchanged = _S.version == wanted.member("version", Integer())
            self.condition = and_(wanted.is_in, unchanged, or_(*map(_is_in, rows)))
            self.select: Callable[..., Select[Any]] = lambda *columns: select(*columns).where(self.condition)
        elif of_batch in (None, rows):
            self.select = lambda *columns: due(rows, *columns)
            self.condition = _S.id.in_(due(rows, _S.id))
        else:
            self.condition = and_(_S.id.in_(due(of_batch, _S.id)), _may_move(rows))
            self.select = lambda *columns: select(*columns).where(self.condition).order_by(*_IN_ORDER)

    def pick(self, of: Callable[[Transition], ColumnElement[Any]]) -> ColumnElement[Any]:
        """Return an expression: for each session, `of(row)` for the row of the transition table by which it moves."""
        if len(self.rows) == 1:
            return of(self.rows[0])
        is_named = self._key is _S.status
        names = [row.source if is_named else row.trigger for row in self.rows]
        return case({name.value: of(row) for name, row in zip(names, self.rows, strict=True) if name}, value=self._key)

    def after(self, name: str) -> ColumnElement[Any]:
        """Return the value of a column after the transition."""
        return self.pick(lambda row: self.after_row(row, name))

    def after_row(self, row: Transition, name: str) -> ColumnElement[Any]:
        """Return the value of a column of `session` after this transition; a time as an integer."""
        if name == "updated_at":  # every transition writes it
            return _NOW
        change = row.effects.session.get(name)
        return plain(name) if change is None else _SQL[change](self, name, row)

    def given(self, name: str, kind: TypeEngine[Any]) -> ColumnElement[Any]:
        """Return the value with this name that the command passes for each session."""
        assert self._wanted is not None, "no command passes values for a transition that the scheduler causes"
        return self._wanted.member(name, kind)


_SQL: dict[Change, Callable[[_Chosen, str, Transition], ColumnElement[Any]]] = {
    Change.NOW: lambda _chosen, _name, _row: _NOW,
    Change.NOW_IF_UNSET: lambda _chosen, name, _row: func.coalesce(plain(name), _NOW),
    Change.NOW_IF_EMPTY: lambda _chosen, _name, _row: case((_S.participants <= 1, _NOW)),
    Change.NULL: lambda _chosen, name, _row: cast(null(), plain(name).type),
    Change.ZERO: lambda _chosen, _name, _row: literal_column("0", Integer),
    Change.INCREMENT: lambda _chosen, name, _row: plain(name) + 1,
    Change.DECREMENT: lambda _chosen, name, _row: plain(name) - 1,
    Change.REASON: lambda _chosen, _name, row: enum_literal(row.reason),
    Change.PIN: lambda _chosen, name, _row: plain(name),  # a statement of its own writes it
    Change.GIVEN: lambda chosen, name, _row: chosen.given(name, plain(name).type),
    Change.REMINDER: lambda chosen, name, _row: chosen.given(name, plain(name).type),
}
"""Change -> what it writes to a column, as SQL."""


def _new_values(chosen: _Chosen, timeouts: Timeouts) -> dict[str, Any]:
    """Return the values that the transitions write to `session`: column -> expression."""

    def next_deadline(row: Transition) -> tuple[ColumnElement[Any], ...]:
        return deadline(row.dest, timeouts, partial(chosen.after_row, row))

    changed = {name for row in chosen.rows for name, change in row.effects.session.items() if change is not Change.PIN}
    return {
        **{name: chosen.after(name) for name in sorted(changed)},
        "status": chosen.pick(_dest),
        "version": _S.version + 1,
        "updated_at": _NOW,
        "due_at": chosen.pick(lambda row: next_deadline(row)[0]),
        "due_trigger": chosen.pick(lambda row: next_deadline(row)[1]),
        "late_since": null(),
    }


def _everybody(leaving: _Chosen) -> Update:
    """Return the update of the rows of all participants who are in the sessions or wait to be admitted."""
    (changes,) = {tuple(row.effects.all_participants.items()) for row in leaving.rows}
    assert all(change is Change.NOW for _, change in changes), "nothing else is written to all participants"
    present = and_(_P.left_at.is_(None), _P.session_id.in_(leaving.select(_S.id)))
    return update(PARTICIPANTS).where(present).values({name: _NOW for name, _ in changes})


def _connections(leaving: _Chosen) -> Delete:
    """Return the deletion of what is stored about the connections of everybody in the sessions."""
    return delete(PRESENCE).where(_R.session_id.in_(leaving.select(_S.id)))


def _dest(row: Transition) -> ColumnElement[Any]:
    return enum_literal(row.dest)


def _event(chosen: _Chosen, index: int, *, is_named: bool) -> Insert:
    """Return the statement that records one event of each session. It runs before the sessions are changed."""
    values: dict[str, ColumnElement[Any]] = {
        "session_id": _S.id,
        "type": chosen.pick(lambda row: enum_literal(row.events[index])),
        "ts": _NOW,
        "actor": chosen.given("actor", String()) if is_named else enum_literal(CLOCK_ACTOR),
        "previous_status": _S.status,
        "status": chosen.pick(_dest),
        "start_time": chosen.after("start_time"),
        "expires_at": chosen.after("expires_at"),
        "due_at": chosen.given("was_due", BigInteger()) if is_named else LATE_SINCE,
        "reason": chosen.pick(lambda row: enum_literal(row.reason)),
        "participants": chosen.after("participants"),
    }
    if is_named:
        moves_start = any("start_time" in row.effects.session for row in chosen.rows)
        values |= {
            "previous_start_time": _S.start_time if moves_start else null(),
            "participant_id": bindparam("of_participant", type_=String),
            "request_id": chosen.given("request_id", String()),
        }
    recorded = insert(EVENTS).from_select(list(values), chosen.select(*values.values()))
    return recorded.returning(*EVENTS.c) if is_named else recorded
