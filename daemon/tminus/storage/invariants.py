"""The invariants of all sessions, each checked by an SQL query."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    func,
    literal,
    not_,
    or_,
    select,
    type_coerce,
)  # fmt: skip
from sqlalchemy.exc import DBAPIError

from tminus.domain import timestamps
from tminus.domain.lifecycle import PIN_STATUSES
from tminus.domain.model import Instant
from tminus.domain.types import PIN_TYPES, Status, Timeouts, Trigger
from tminus.storage import meta
from tminus.storage.deadlines import plain, stored_deadline
from tminus.storage.tables import EVENTS, META, PARTICIPANTS, SESSIONS

MAX_PROBLEMS = 100
"""Maximum number of problems of one kind that are reported."""

_S, _E, _P = SESSIONS.c, EVENTS.c, PARTICIPANTS.c


@dataclass(frozen=True, slots=True)
class Problem:
    """A violation of a check."""

    check: str
    """The name of the check: `wal`, `integrity`, `foreign_keys`, `schema`, `deadline`, `events`, `status`, `pin`,
    `reminder` or `participants`.
    """
    text: str
    """A sentence for people, without secrets."""
    session: str | None = None


def check_sessions(connection: Connection, timeouts: Timeouts, now: datetime) -> Iterator[Problem]:
    """Check the invariants of all sessions; yield each violation.

    `timeouts`: those of the configuration. Deadlines have to follow from them, or from those stored in the database.
    """
    # Each check runs in a savepoint: after an error PostgreSQL would refuse all further queries of the transaction.
    for name, check in _CHECKS.items():
        try:
            with connection.begin_nested():
                yield from check(connection, timeouts, now)
        except DBAPIError as error:
            yield Problem(name, f"cannot be checked: {error.orig}")
        except (ValueError, TypeError, OverflowError) as error:  # a stored value has the wrong type
            yield Problem(name, f"cannot be checked: {error}")


def _problems(connection: Connection, check: str, wrong: Select[Any], words: Callable[[Any], str]) -> list[Problem]:
    """Return a problem for each of the first sessions that `wrong` selects, and one with the number of the others.

    The query's first column is the id. `words`: returns the sentence for a row, after "session ID".
    """
    rows = connection.execute(wrong.order_by(_S.id).limit(MAX_PROBLEMS)).all()
    problems = [Problem(check, f"session {row[0]} {words(row)}", row[0]) for row in rows]
    if len(rows) == MAX_PROBLEMS:
        more = connection.execute(select(func.count()).select_from(wrong.subquery())).scalar_one() - MAX_PROBLEMS
        problems += [Problem(check, f"and {more} sessions more")] if more else []
    return problems


def _deadlines(connection: Connection, timeouts: Timeouts, now: datetime) -> list[Problem]:
    """Check that each open session has the right deadline, by the time-outs in force or by the stored ones.

    While a reload recomputes the deadlines, some follow from the former and some from the latter.
    """
    expected = [stored_deadline(spans) for spans in (timeouts, *_stored_timeouts(connection))]
    due_at = plain("due_at")
    wrong: list[ColumnElement[bool]] = [
        or_(due_at.is_distinct_from(at), _S.due_trigger.is_distinct_from(trigger)) for at, trigger in expected
    ]
    # While no PIN is free, a session that should open is postponed by a few seconds, repeatedly.
    waits_for_pin = and_(
        _S.status == Status.SCHEDULED,
        _S.type.in_(PIN_TYPES),
        _S.due_trigger == Trigger.OPEN,
        due_at > expected[-1][0],
        expected[-1][0] <= literal(Instant.number(now), BigInteger),
    )
    at, trigger = expected[-1]
    columns = (
        _S.id,
        _S.status,
        _S.due_trigger,
        _S.due_at,
        trigger.label("trigger"),
        type_coerce(at, _S.due_at.type).label("at"),
    )
    return _problems(
        connection,
        "deadline",
        select(*columns).where(*wrong, not_(func.coalesce(waits_for_pin, False))),
        lambda row: (
            f"({row[1]}) has the deadline {_due_text(row[2], row[3])}, but should have {_due_text(row[4], row[5])}"
        ),
    )


def _due_text(trigger: str | None, at: datetime | None) -> str:
    return f"{trigger or 'nothing'} at {timestamps.text(at) if at else 'no time'}" if trigger or at else "none"


def _stored_timeouts(connection: Connection) -> Sequence[Timeouts]:
    """Return the time-outs from which the stored deadlines were computed; none if no daemon has used the database."""
    stored = connection.execute(select(META.c.value).where(META.c.key == meta.TIMEOUTS)).scalar()
    return () if stored is None else (meta.parse_timeouts(stored),)


def _histories(connection: Connection, _timeouts: Timeouts, _now: datetime) -> list[Problem]:
    """Check that each session has an event."""
    without = ~select(_E.seq).where(_E.session_id == _S.id).exists()
    return _problems(connection, "events", select(_S.id).where(without), lambda _row: "has no event")


def _statuses(connection: Connection, _timeouts: Timeouts, _now: datetime) -> list[Problem]:
    """Check that each session has the status of its last event."""
    last = select(func.max(_E.seq)).where(_E.session_id == _S.id).correlate(SESSIONS).scalar_subquery()
    joined = SESSIONS.join(EVENTS, _E.seq == last)
    wrong = select(_S.id, _S.status, _E.status, _E.seq).select_from(joined).where(_S.status != _E.status)
    return _problems(
        connection, "status", wrong, lambda row: f"is {row[1]}, but by its last event ({row[3]}) it is {row[2]}"
    )


def _pins(connection: Connection, _timeouts: Timeouts, _now: datetime) -> list[Problem]:
    """Check that open sessions of types with PINs have different PINs, and others have none. No text contains a PIN."""
    shared = select(_S.pin).where(_S.pin != 0).group_by(_S.pin).having(func.count() > 1)
    has = _S.status.in_(sorted(PIN_STATUSES)) & _S.type.in_(PIN_TYPES)
    return [
        *_problems(
            connection, "pin", select(_S.id).where(_S.pin.in_(shared)),
            lambda _row: "shares its PIN with another open session",
        ),
        *_problems(
            connection, "pin", select(_S.id, _S.status, _S.pin == 0).where((_S.pin != 0) != has),
            lambda row: f"({row[1]}) has no PIN" if row[2] else f"({row[1]}) has a PIN, and should have none",
        ),
    ]  # fmt: skip


def _reminders(connection: Connection, _timeouts: Timeouts, _now: datetime) -> list[Problem]:
    """Check that no next reminder is stored for a closed session, or for one without reminders."""
    wrong = _S.remind_at.is_not(None) & ((_S.status == Status.CLOSED) | _S.reminders.is_(None))
    return _problems(
        connection, "reminder", select(_S.id, _S.status, _S.remind_at).where(wrong),
        lambda row: f"({row[1]}) has a reminder at {timestamps.text(row[2])}, and should have none",
    )  # fmt: skip


def _participants(connection: Connection, _timeouts: Timeouts, _now: datetime) -> list[Problem]:
    """Check that each session stores the number of participants who are in it."""
    inside = _P.left_at.is_(None) & _P.waiting_since.is_(None)
    found = select(_P.session_id, func.count().label("number")).where(inside).group_by(_P.session_id).subquery()
    number = func.coalesce(found.c.number, 0)
    joined = SESSIONS.outerjoin(found, found.c.session_id == _S.id)
    wrong = select(_S.id, _S.participants, number).select_from(joined).where(_S.participants != number)
    return _problems(
        connection, "participants", wrong, lambda row: f"counts {row[1]} participants, but {row[2]} are in"
    )


_CHECKS: dict[str, Callable[[Connection, Timeouts, datetime], list[Problem]]] = {
    "deadline": _deadlines,
    "events": _histories,
    "status": _statuses,
    "pin": _pins,
    "reminder": _reminders,
    "participants": _participants,
}
