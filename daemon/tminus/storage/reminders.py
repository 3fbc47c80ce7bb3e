"""Reminders that are due: the third source of deadlines.

A session stores the time of its next reminder in `remind_at`. A transition that moves its start moves this time, and
one that closes it clears it. The statement that changes the session does this, so no reminder of a cancelled session
remains, and sessions without reminders need no extra statement.
"""

from datetime import datetime
from functools import cache
from typing import Any

import orjson
from sqlalchemy import BigInteger, Insert, Row, String, Update, bindparam, func, insert, select, type_coerce, update

from tminus.domain.lifecycle import opens_at
from tminus.domain.model import Instant
from tminus.domain.reminders import next_reminder, parse_stored
from tminus.domain.types import CLOCK_ACTOR, EventType, ReminderOutcome, Status, Timeouts
from tminus.storage.deadlines import DueBatch, plain
from tminus.storage.due import Recomputed
from tminus.storage.json_rows import look_up
from tminus.storage.tables import EVENTS, SESSIONS
from tminus.storage.transaction import Transaction
from tminus.storage.transitions import enum_literal
from tminus.storage.view import View

_S = SESSIONS.c
_IN_ORDER = (_S.remind_at, _S.created_at, _S.id)

_NEXT = select(func.min(_S.remind_at, type_=_S.remind_at.type)).where(_S.remind_at.is_not(None))
_DUE = (
    select(_S.id, _S.status, _S.start_time, _S.due_at, _S.reminders, _S.remind_at)
    .where(_S.remind_at <= bindparam("until", type_=_S.remind_at.type))
    .order_by(*_IN_ORDER)
    .limit(bindparam("limit"))
)

_EVENT_TYPES = {ReminderOutcome.SENT: EventType.REMINDER, ReminderOutcome.SKIPPED: EventType.REMINDER_SKIPPED}


@cache
def _record(dialect: str) -> Insert:
    """Return the statement that records the events. Its parameter `types` is a JSON object: session id -> type."""
    types = look_up(dialect, "types", _S.id)
    values = {
        "session_id": _S.id,
        "type": types.member("type", String()),
        "ts": bindparam("now", type_=BigInteger),
        "actor": enum_literal(CLOCK_ACTOR),
        "previous_status": _S.status,
        "status": _S.status,
        "start_time": plain("start_time"),
        "expires_at": plain("expires_at"),
        "due_at": plain("remind_at"),
        "participants": _S.participants,
    }
    return insert(EVENTS).from_select(list(values), select(*values.values()).where(types.is_in).order_by(*_IN_ORDER))


@cache
def _set_next(dialect: str) -> Update:
    """Return the statement that stores the next reminders. Its parameter `following`: session id -> time."""
    following = look_up(dialect, "following", _S.id)
    at = type_coerce(following.member("at", BigInteger()), _S.remind_at.type)
    return update(SESSIONS).where(following.is_in).values(remind_at=at)


def next_due(view: View) -> datetime | None:
    """Return when the next reminder is due; None if there is none."""
    due: datetime | None = view.scalar(_NEXT)
    return due


def do_due(tx: Transaction, timeouts: Timeouts, limit: int, until: datetime | None = None) -> DueBatch:
    """Record the first `limit` reminders that are due at `until` (None: now), in the order in which they fell due.

    A batch ends before the second reminder of a session.
    """
    end = min(tx.now, until or tx.now)
    rows = tx.execute(_DUE, {"until": end, "limit": limit}).all()
    batch = DueBatch(more=len(rows) == limit)
    following: dict[str, datetime | None] = {}
    types: dict[str, dict[str, str]] = {}
    for row in rows:
        again = min((at for at in following.values() if at is not None), default=None)
        if again is not None and again < row.remind_at:
            batch.more = True
            break
        is_closed = row.status == Status.CLOSED  # by a daemon of an earlier release, which left the reminder
        following[row.id] = None if is_closed else next_reminder(row.reminders, row.start_time, row.remind_at)
        outcome = _outcome(row, tx.now, timeouts)
        if outcome is None:
            continue
        types[row.id] = {"type": _EVENT_TYPES[outcome]}
        batch.done[outcome] += 1
        tx.reminders[outcome] += 1
        batch.worst_lag = max(batch.worst_lag, tx.now - row.remind_at)
    if types:
        tx.execute(_record(tx.dialect), {"types": orjson.dumps(types).decode(), "now": Instant.number(tx.now)})
        tx.has_events = True
    if following:
        ats = {one: {"at": None if at is None else Instant.number(at)} for one, at in following.items()}
        tx.execute(_set_next(tx.dialect), {"following": orjson.dumps(ats).decode()})
    batch.more |= any(at is not None and at <= end for at in following.values())
    batch.waited = tx.waited
    return batch


def _outcome(row: Row[Any], now: datetime, timeouts: Timeouts) -> ReminderOutcome | None:
    """Return what becomes of a reminder that is due.

    It is skipped if it is too late: the session has opened since it was due, or should have started. None: it is not a
    reminder of the session, because a daemon of an earlier release has rescheduled or closed the session.
    """
    if row.status == Status.CLOSED or row.start_time - row.remind_at not in parse_stored(row.reminders):
        return None
    has_opened = row.status != Status.SCHEDULED or (row.due_at is not None and row.due_at <= now)
    if now >= row.start_time or (has_opened and row.remind_at < opens_at(row.start_time, timeouts)):
        return ReminderOutcome.SKIPPED
    return ReminderOutcome.SENT


def recompute_deadlines(tx: Transaction, timeouts: Timeouts, after: str, limit: int) -> Recomputed:  # noqa: ARG001
    """Change nothing: a session keeps the reminders with which it was created."""
    return Recomputed(None, 0)


def warm_up(tx: Transaction, timeouts: Timeouts) -> None:  # noqa: ARG001
    """Run the statements of `do_due` on no rows, so that they are compiled."""
    tx.execute(_DUE, {"until": tx.now, "limit": 0})
    tx.execute(_record(tx.dialect), {"types": "{}", "now": Instant.number(tx.now)})
    tx.execute(_set_next(tx.dialect), {"following": "{}"})
