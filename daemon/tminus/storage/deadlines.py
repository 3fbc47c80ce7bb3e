"""A session's next deadline, as SQL: the only place where it is computed.

Every statement that stores a deadline uses it: for new sessions, for transitions, and after new time-outs.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Dialect, FromClause, String, and_, case, cast, null, or_, type_coerce

from tminus.domain import timestamps
from tminus.domain.lifecycle import DEADLINES
from tminus.domain.model import Instant
from tminus.domain.types import Status, Timeouts
from tminus.storage.tables import SESSIONS


@dataclass(slots=True)
class DueBatch:
    """What a source of deadlines has done in one transaction."""

    done: Counter[str] = field(default_factory=Counter)
    """Trigger, or outcome of reminders -> how often."""
    worst_lag: timedelta = timedelta(0)
    """The greatest lateness."""
    without_pin: int = 0
    """Number of sessions that were postponed, because no PIN was free."""
    waited: float = 0.0
    """Seconds that the transaction waited for other daemons."""
    more: bool = False
    """Whether something is still due."""

    def __bool__(self) -> bool:
        """Return whether anything was done."""
        return bool(self.done or self.without_pin)


Column = Callable[[str], ColumnElement[Any]]
"""Column name -> an expression for its value."""


def plain(name: str, of: FromClause = SESSIONS) -> ColumnElement[Any]:
    """Return a column of `session` without conversion: a time is the stored integer, to which numbers can be added."""
    column = of.c[name]
    return type_coerce(column, BigInteger) if isinstance(column.type, Instant) else column


def deadline(status: Status, timeouts: Timeouts, column: Column = plain) -> tuple[ColumnElement[Any], ...]:
    """Return the expressions for `due_at` (an integer) and `due_trigger` of a session in this status.

    `column`: returns the expression for the value of a column.
    """
    # With a type, because PostgreSQL treats a CASE of which all values are NULL as text.
    due_at: ColumnElement[Any] = cast(null(), BigInteger)
    trigger: ColumnElement[Any] = cast(null(), String)
    found = False
    for one in reversed(DEADLINES):
        span = one.span(timeouts)
        if one.status is not status or span is None:
            continue
        since = column(one.since)
        at = since + timestamps.milliseconds(span) if span else since
        if found:
            is_first = and_(at.is_not(None), or_(due_at.is_(None), at <= due_at))
            due_at, trigger = case((is_first, at), else_=due_at), case((is_first, one.trigger.value), else_=trigger)
        else:
            due_at, trigger, found = at, case((since.is_not(None), one.trigger.value)), True
    return due_at, trigger


def stored_deadline(timeouts: Timeouts, of: FromClause = SESSIONS) -> tuple[ColumnElement[Any], ...]:
    """Return the expressions for the `due_at` (an integer) and `due_trigger` that each row of `of` should have."""
    column = partial(plain, of=of)
    of_status = {status.value: deadline(status, timeouts, column) for status in {one.status for one in DEADLINES}}
    return (
        case({status: due_at for status, (due_at, _) in of_status.items()}, value=of.c.status),
        case({status: trigger for status, (_, trigger) in of_status.items()}, value=of.c.status),
    )


def deadline_sql(dialect: Dialect, timeouts: Timeouts, name: str) -> dict[str, str]:
    """Return the expressions for both columns of a deadline as SQL text. `name`: the alias of the rows of sessions."""
    options = {"literal_binds": True}
    due_at, due_trigger = (
        str(part.compile(dialect=dialect, compile_kwargs=options))
        for part in stored_deadline(timeouts, SESSIONS.alias(name))
    )
    return {"due_at": due_at, "due_trigger": due_trigger}
