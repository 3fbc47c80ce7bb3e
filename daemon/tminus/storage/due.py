"""Sessions that are due: the scheduler's first source of deadlines.

The executor moves thousands of them with a few statements. Loading and moving each one alone takes 0.25 ms.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import NamedTuple

import orjson
from sqlalchemy import BigInteger, Update, and_, bindparam, case, func, literal, null, or_, select, text, true, update

from tminus.domain.lifecycle import CLOCK_TRANSITIONS, Change, Transition
from tminus.domain.model import Instant
from tminus.domain.types import PIN_TYPES, Timeouts, Trigger
from tminus.storage.deadlines import DueBatch, plain, stored_deadline
from tminus.storage.json_rows import look_up
from tminus.storage.tables import SESSIONS
from tminus.storage.transaction import Transaction
from tminus.storage.transitions import LATE_SINCE, Due, due, execute
from tminus.storage.view import View

PIN_RETRY = timedelta(seconds=5)
"""Time by which the opening of a session is postponed while every PIN is in use."""

_S = SESSIONS.c
_OPENS = [row.trigger for row in CLOCK_TRANSITIONS if row.effects.session.get("pin") is Change.PIN]


_some = due(
    CLOCK_TRANSITIONS, _S.due_trigger, _S.due_at, _S.expires_at, _S.type, LATE_SINCE.label("late_since")
).subquery().c  # fmt: skip
_opening = _some.due_trigger.in_(_OPENS)
_PROBE = select(
    _some.due_trigger,
    func.count().label("sessions"),
    func.min(_some.due_at, type_=_S.due_at.type).label("first"),
    func.max(_some.due_at, type_=_S.due_at.type).label("last"),
    func.min(case((_opening, _some.expires_at)), type_=_S.due_at.type).label("expires"),
    func.sum(case((and_(_opening, _some.type.in_(PIN_TYPES)), 1), else_=0)).label("need_pins"),
    func.min(_some.late_since, type_=_S.due_at.type).label("late_since"),
).group_by(_some.due_trigger)
"""What the next batch would contain, for each trigger."""

_opened = due(CLOCK_TRANSITIONS, _S.id, _S.due_trigger, _S.type).subquery().c
_NEED_PIN = select(_opened.id).where(_opened.due_trigger.in_(_OPENS), _opened.type.in_(PIN_TYPES))


@cache
def _postpone(dialect: str) -> Update:
    """Return the statement that postpones the sessions whose ids are the keys of the JSON object `waiting`."""
    waiting = look_up(dialect, "waiting", _S.id)
    late_since = func.coalesce(_S.late_since, _S.due_at)
    return update(SESSIONS).where(waiting.is_in).values(due_at=bindparam("again"), late_since=late_since)


def next_due(view: View) -> datetime | None:
    """Return the earliest deadline of all sessions; None if there is none."""
    return view.next_due()


def do_due(tx: Transaction, timeouts: Timeouts, limit: int, until: datetime | None = None) -> DueBatch:
    """Move the first `limit` sessions that are due at `until` (None: now), in the order of their deadlines.

    If a session opens so late that its expiry is due too, a later batch expires it, after everything that fell due in
    between.
    """
    until = end = min(tx.now, until or tx.now)
    while True:
        rows = tx.execute(_PROBE, {"until": until, "limit": limit}).all()
        if not rows:
            return DueBatch()
        expires = min((row.expires for row in rows if row.expires is not None), default=None)
        # The batch ends where the first session that it opens expires. It contains at least the session that is due
        # first, because one that waited for a PIN may open after its expiry.
        bound = until if expires is None else max(expires, min(row.first for row in rows))
        if bound >= max(row.last for row in rows):
            break
        until = bound

    expires_next = expires is not None and expires <= end
    batch = DueBatch(more=until < end or sum(row.sessions for row in rows) == limit or expires_next)
    pins: dict[str, int] = {}
    if any(row.need_pins for row in rows):
        pins, batch.without_pin = _draw_pins(tx, until, limit)
    if batch.without_pin:
        # Otherwise later sessions, for which no PINs were drawn, would take the places of the postponed ones.
        limit -= batch.without_pin
        rows = tx.execute(_PROBE, {"until": until, "limit": limit}).all()
        batch.more = True
    if rows:
        execute(tx, Due(_transitions([row.due_trigger for row in rows]), until, limit), timeouts, pins)
    for row in rows:
        batch.done[Trigger(row.due_trigger)] += row.sessions
        batch.worst_lag = max(batch.worst_lag, tx.now - row.late_since)
    batch.waited = tx.waited
    tx.transitions += batch.done
    return batch


def _transitions(triggers: Sequence[str]) -> tuple[Transition, ...]:
    """Return the rows of the transition table for the triggers of a batch.

    Most batches have one trigger, and then the statements need no CASE.
    """
    return (
        tuple(row for row in CLOCK_TRANSITIONS if row.trigger == triggers[0])
        if len(triggers) == 1
        else CLOCK_TRANSITIONS
    )


def _draw_pins(tx: Transaction, until: datetime, limit: int) -> tuple[dict[str, int], int]:
    """Choose a PIN for each session of a batch that needs one, and postpone the sessions for which none is free.

    Return the PINs by session id, and the number of postponed sessions.
    """
    waiting = tx.execute(_NEED_PIN, {"until": until, "limit": limit}).scalars().all()
    pins = dict(zip(waiting, tx.free_pins(len(waiting)), strict=False))
    without = waiting[len(pins) :]
    if without:
        ids = orjson.dumps(dict.fromkeys(without)).decode()
        tx.execute(_postpone(tx.dialect), {"waiting": ids, "again": tx.now + PIN_RETRY})
    return pins, len(without)


def warm_up(tx: Transaction, timeouts: Timeouts) -> None:
    """Run the statements of a batch on no sessions.

    Otherwise the first sessions after a start would open 15 ms later, the time to compile the statements.
    """
    tx.execute(_PROBE, {"until": tx.now, "limit": 0})
    execute(tx, Due(_transitions([Trigger.OPEN]), tx.now, 0), timeouts)


class Recomputed(NamedTuple):
    """The result of a page of recomputed deadlines."""

    last: str | None
    """The last id of the page; None: there are no more sessions."""
    changed: int


def recompute_deadlines(tx: Transaction, timeouts: Timeouts, after: str, limit: int) -> Recomputed:
    """Recompute the deadlines of the `limit` open sessions whose ids follow `after`.

    `expires_at` does not change, because callers have received it. The version does not change either, because nothing
    that a caller can see has changed. A session that is overdue only by the new time-outs is late from now on.
    """
    # The condition is spelled as in the index `session_open_id`: SQLite uses a partial index for no other spelling.
    ahead = select(_S.id).where(_S.id > after, text("status <> 'closed'")).order_by(_S.id)
    last = tx.execute(ahead.offset(limit - 1).limit(1)).scalar()
    due_at, due_trigger = stored_deadline(timeouts)
    now = literal(Instant.number(tx.now), BigInteger)
    was_due = plain("due_at")
    changed = tx.execute(
        update(SESSIONS)
        .where(
            _S.id > after,
            _S.id <= last if last is not None else true(),
            text("status <> 'closed'"),
            or_(was_due.is_distinct_from(due_at), _S.due_trigger.is_distinct_from(due_trigger)),
        )
        .values(
            due_at=due_at,
            due_trigger=due_trigger,
            late_since=case(
                (or_(due_at.is_(None), due_at > now), null()),
                (or_(was_due.is_(None), was_due > now), now),
                else_=plain("late_since"),
            ),
        )
    ).rowcount
    return Recomputed(last, int(changed))
