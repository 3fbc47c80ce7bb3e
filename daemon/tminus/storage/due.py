"""The clock's moves, thousands at once, and the deadlines of all stored sessions: `policy.deadline`, said in SQL.

Loading ten thousand sessions that are due at 09:00 to fire a trigger on each would cost a quarter of a millisecond
apiece; two statements move them all. Guard, destination and reason come from the transition table.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    text,
    true,
    type_coerce,
    update,
)  # fmt: skip

from tminus.domain import timestamps
from tminus.domain.events import told_by
from tminus.domain.lifecycle import CLOCK_MOVES
from tminus.domain.types import CLOCK_ACTOR, PIN_TYPES, Status, Timeouts, Trigger
from tminus.storage.tables import EVENTS, PARTICIPANTS, SESSIONS
from tminus.storage.transaction import Transaction

PIN_RETRY = timedelta(seconds=5)
"""When every PIN is in use, a session that should open is tried again after this."""

_S = SESSIONS.c


@dataclass(slots=True)
class Moved:
    """What one batch did."""

    moves: Counter[Trigger] = field(default_factory=Counter)
    worst_lag: timedelta = timedelta(0)
    without_pin: int = 0
    waited: float = 0.0
    """Seconds that it has waited for other daemons."""
    more: bool = False
    """Whether something is still due."""

    @property
    def total(self) -> int:
        return self.moves.total()


def _by_trigger(values: dict[Trigger, Any], otherwise: Any) -> ColumnElement[Any]:
    return case(values, value=_S.due_trigger, else_=otherwise)


_SOURCE_OF = {move.trigger: move.source for move in CLOCK_MOVES}
_DEST = _by_trigger({move.trigger: move.dest.value for move in CLOCK_MOVES}, _S.status)
_REASON = _by_trigger({m.trigger: m.reason.value for m in CLOCK_MOVES if m.reason}, null())
_EVENT = _by_trigger({move.trigger: told_by(move)[0].value for move in CLOCK_MOVES}, null())
_OPENS = [move.trigger for move in CLOCK_MOVES if move.dest is Status.NEW]
_CLOSES = [move.trigger for move in CLOCK_MOVES if move.dest is Status.CLOSED]
# An expression, which no index has: by the index that begins with the status SQLite would read every scheduled session.
_status = _S.status.concat("")
_LEGAL = or_(
    *(and_(_S.due_trigger == move.trigger, _status == move.source.value) for move in CLOCK_MOVES if move.source)
)

_DUE = and_(_S.due_at <= bindparam("until", type_=_S.due_at.type), _LEGAL)
# Of a herd, those that were made one after the other lie side by side in the file: in this order each page of it is
# written in one batch; in the order of their ids, which are drawn by lot, nearly every batch would write all of them.
_IN_ORDER = (_S.due_at, _S.created_at, _S.id)


def _due(*columns: ColumnElement[Any]) -> Any:
    """The first sessions that are due, in the order in which they fell due."""
    return select(*columns).where(_DUE).order_by(*_IN_ORDER).limit(bindparam("limit"))


_LATE_SINCE = func.coalesce(_S.late_since, _S.due_at, type_=_S.due_at.type)
_some = _due(
    _S.due_trigger, _S.due_at, _S.expires_at, _S.type, _LATE_SINCE.label("late_since")
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

_WAITING_FOR_PIN = _due(_S.id, _S.due_trigger, _S.type).subquery()
_NEED_PIN = select(_WAITING_FOR_PIN.c.id).where(
    _WAITING_FOR_PIN.c.due_trigger.in_(_OPENS), _WAITING_FOR_PIN.c.type.in_(PIN_TYPES)
)
_GIVE_PIN = update(SESSIONS).where(_S.id == bindparam("of_session")).values(pin=bindparam("new_pin"))
_POSTPONE = (
    update(SESSIONS)
    .where(_S.id == bindparam("of_session"))
    .values(due_at=bindparam("new_due"), late_since=func.coalesce(_S.late_since, _S.due_at))
)
_closing = _due(_S.pin, _S.due_trigger).subquery().c
_FREED = select(_closing.pin).where(_closing.pin != 0, _closing.due_trigger.in_(_CLOSES))
_DISCONNECT = (
    update(PARTICIPANTS)
    .where(PARTICIPANTS.c.left_at.is_(None), PARTICIPANTS.c.session_id.in_(_due(_S.id)))
    .values(left_at=bindparam("now"))
)


# The one statement that tells of a batch, before it is moved.
_TELL = insert(EVENTS).from_select(
    [
        "session_id", "type", "ts", "actor", "previous_status", "status", "start_time", "expires_at", "due_at",
        "reason", "participants",
    ],
    _due(
        _S.id, _EVENT, bindparam("now", type_=_S.due_at.type), literal(CLOCK_ACTOR), _S.status, _DEST,
        _S.start_time, _S.expires_at, _LATE_SINCE, _REASON, literal(0),
    ),
)  # fmt: skip


def deadline(status: ColumnElement[Any], timeouts: Timeouts) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
    """`due_at` and `due_trigger` of a session in `status`: what `policy.deadline` says, as SQL."""

    def after(column: ColumnElement[Any], span: timedelta) -> ColumnElement[Any]:
        return type_coerce(type_coerce(column, BigInteger) + timestamps.milliseconds(span), _S.due_at.type)

    opens = after(_S.start_time, -timeouts.lead)
    idle = after(_S.empty_since, timeouts.empty)
    if timeouts.max_active is None:
        active, active_trigger = idle, case((_S.empty_since.is_not(None), Trigger.IDLE.value))
    else:
        limit = after(_S.activated_at, timeouts.max_active)
        idle_first = and_(_S.empty_since.is_not(None), idle <= limit)
        active = case((idle_first, idle), else_=limit)
        active_trigger = case((idle_first, Trigger.IDLE.value), else_=Trigger.TIME_LIMIT.value)
    return (
        case(
            {Status.SCHEDULED.value: opens, Status.NEW.value: _S.expires_at, Status.ACTIVE.value: active},
            value=status, else_=null(),
        ),
        case(
            {
                Status.SCHEDULED.value: Trigger.OPEN.value,
                Status.NEW.value: Trigger.EXPIRE.value,
                Status.ACTIVE.value: active_trigger,
            },
            value=status, else_=null(),
        ),
    )  # fmt: skip


def move_due(tx: Transaction, timeouts: Timeouts, limit: int) -> Moved:
    """Makes at most `limit` moves that are due at `tx.now`, in the order in which they fell due, and tells each.

    A session that is opened so late that its expiry is due as well is opened here and expired by a later batch, never
    before something that fell due in between.
    """
    until = tx.now
    while True:
        rows = tx.execute(_PROBE, {"until": until, "limit": limit}).all()
        if not rows:
            return Moved()
        expires = min((row.expires for row in rows if row.expires is not None), default=None)
        # One that has waited for a PIN may open after it should have expired: at least the first move is always made.
        bound = until if expires is None else max(expires, min(row.first for row in rows))
        if bound >= max(row.last for row in rows):
            break
        until = bound

    batch: dict[str, Any] = {"until": until, "limit": limit, "now": tx.now}
    expires_next = expires is not None and expires <= tx.now
    moved = Moved(more=until < tx.now or sum(row.sessions for row in rows) == limit or expires_next)
    pins: dict[str, int] = {}
    if any(row.need_pins for row in rows):
        pins = _draw_pins(tx, batch, moved)
    if moved.without_pin:
        batch["limit"] -= moved.without_pin  # or others would move up, for whom no PIN was drawn
        rows = tx.execute(_PROBE, batch).all()
        moved.more = True
    tx.execute(_TELL, batch)
    freed: list[int] = []
    if any(row.due_trigger in _CLOSES for row in rows):
        if tx.allowances.pins.scarce:
            freed = list(tx.execute(_FREED, batch).scalars())
        tx.execute(_DISCONNECT, batch)
    tx.execute(_move(timeouts), batch)
    tx.allowances.pins.freed(freed)
    if pins:
        tx.execute(_GIVE_PIN, [{"of_session": session_id, "new_pin": pin} for session_id, pin in pins.items()])
    for row in rows:
        moved.moves[Trigger(row.due_trigger)] += row.sessions
        moved.worst_lag = max(moved.worst_lag, tx.now - row.late_since)
    moved.waited = tx.waited
    tx.moves += moved.moves
    tx.told = True
    return moved


def _draw_pins(tx: Transaction, batch: dict[str, Any], moved: Moved) -> dict[str, int]:
    """A PIN for each session of the batch that needs one; those for which there is none are put off."""
    waiting = list(tx.execute(_NEED_PIN, batch).scalars())
    pins = dict(zip(waiting, tx.free_pins(len(waiting)), strict=False))
    put_off = waiting[len(pins) :]
    if put_off:
        moved.without_pin = len(put_off)
        again = tx.now + PIN_RETRY
        tx.execute(_POSTPONE, [{"of_session": session_id, "new_due": again} for session_id in put_off])
    return pins


@cache
def _move(timeouts: Timeouts) -> Any:
    """The one statement that moves a batch: status, times, version and the next deadline together."""
    now = bindparam("now", type_=_S.due_at.type)
    due_at, due_trigger = deadline(_DEST, timeouts)
    closes = _S.due_trigger.in_(_CLOSES)
    return (
        update(SESSIONS)
        .where(_S.id.in_(_due(_S.id)))
        .values(
            status=_DEST,
            version=_S.version + 1,
            updated_at=now,
            opened_at=case((_S.due_trigger.in_(_OPENS), now), else_=_S.opened_at),
            closed_at=case((closes, now), else_=_S.closed_at),
            close_reason=_REASON,
            pin=case((closes, 0), else_=_S.pin),
            participants=case((closes, 0), else_=_S.participants),
            due_at=due_at,
            due_trigger=due_trigger,
            late_since=null(),
        )
    )


def rehearse(tx: Transaction, timeouts: Timeouts) -> None:
    """Runs the statements of a move on no session at all: compiling them takes 15 ms, and the first herd after a start
    should not open that much later than its time.
    """
    for statement in (_PROBE, _TELL, _move(timeouts)):
        tx.execute(statement, {"until": tx.now, "limit": 0, "now": tx.now})


def move_deadlines(tx: Transaction, timeouts: Timeouts, after: str, limit: int) -> tuple[str | None, int]:
    """Reckons anew the deadlines of the `limit` open sessions whose ids follow `after`.

    Returns the last id looked at (None: there are no more) and how many deadlines changed. `expires_at` was told to
    somebody and stays; so does the version: nothing that a caller sees has changed. What is overdue only by the new
    time-outs is late from now on.
    """
    # In the very words of the index `session_open_id`: SQLite uses a partial index for no others.
    ahead = select(_S.id).where(_S.id > after, text("status <> 'closed'")).order_by(_S.id)
    last = tx.execute(ahead.offset(limit - 1).limit(1)).scalar()
    due_at, due_trigger = deadline(_S.status, timeouts)
    now = literal(tx.now, _S.due_at.type)
    moved = tx.execute(
        update(SESSIONS)
        .where(
            _S.id > after,
            _S.id <= last if last is not None else true(),
            text("status <> 'closed'"),
            or_(_S.due_at.is_distinct_from(due_at), _S.due_trigger.is_distinct_from(due_trigger)),
        )
        .values(
            due_at=due_at,
            due_trigger=due_trigger,
            late_since=case(
                (or_(due_at.is_(None), due_at > now), null()),
                (or_(_S.due_at.is_(None), _S.due_at > now), now),
                else_=_S.late_since,
            ),
        )
    ).rowcount
    return last, int(moved)
