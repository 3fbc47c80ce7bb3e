"""Aggregates of the sessions that closed in a period, for reports. One range of an index bounds each query."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Select, bindparam, case, func, select, type_coerce

from tminus.domain import timestamps
from tminus.domain.model import Instant
from tminus.domain.types import CloseReason, SessionType
from tminus.storage.tables import EVENTS, SESSIONS
from tminus.storage.view import View

_S, _E = SESSIONS.c, EVENTS.c

SECOND = 1000
"""Milliseconds in a second. Durations are grouped by seconds, so that a million sessions have some thousand groups."""

QUARTER = 15 * 60 * SECOND
"""Milliseconds in a quarter of an hour. The offsets of all time zones are multiples of it."""

EXACT_LAG = 10 * SECOND
"""Lags below this number of milliseconds are exact; longer ones are cut to the second, which limits their groups."""


class Period(NamedTuple):
    """The period of a report, and the agent whom it is about."""

    since: datetime
    until: datetime
    agent_id: int | None
    """Only the sessions of this agent; None: of all."""


class Group(NamedTuple):
    """The number of sessions with these properties."""

    type: SessionType
    agent_id: int
    reason: CloseReason | None
    came: bool
    """Whether somebody joined."""
    sessions: int


Counted = list[tuple[int, int]]
"""Pairs: a number, and how often it occurs."""


def _number(column: Any) -> Any:
    """Return the stored integer of a column of times: milliseconds since 1970."""
    return type_coerce(column, BigInteger)


def _closed(*columns: Any) -> Select[Any]:
    at = _S.closed_at
    return select(*columns).where(at >= bindparam("since", type_=at.type), at < bindparam("until", type_=at.type))


def _counted(value: ColumnElement[Any], *conditions: Any) -> Select[Any]:
    number = value.label("number")
    return _closed(number, func.count()).where(*conditions).group_by(number)


_CAME = _S.activated_at.is_not(None)
_GROUPS = (
    _closed(_S.type, _S.agent_id, _S.close_reason, case((_CAME, 1), else_=0).label("came"), func.count())
    .group_by(_S.type, _S.agent_id, _S.close_reason, "came")
)  # fmt: skip
_WAITING = _counted((_number(_S.activated_at) - _number(_S.opened_at)) // SECOND, _CAME, _S.opened_at.is_not(None))
_LENGTHS = _counted((_number(_S.closed_at) - _number(_S.activated_at)) // SECOND, _CAME)
_BEGINNINGS = _counted(_number(_S.activated_at) // QUARTER, _CAME)

_SIZE = select(func.count()).select_from(_closed(_S.closed_at).limit(bindparam("limit")).subquery())

_PART = _closed(_S.closed_at).order_by(_S.closed_at).offset(bindparam("sessions")).limit(1)

_LAG = _number(_E.ts) - _number(_E.due_at)
_LAGS = (
    select(case((_LAG < EXACT_LAG, _LAG), else_=_LAG // SECOND * SECOND).label("number"), func.count())
    .where(
        _E.ts >= bindparam("since", type_=_E.ts.type),
        _E.ts < bindparam("until", type_=_E.ts.type),
        _E.due_at.is_not(None),
    )
    .group_by("number")
)


def size(view: View, period: Period, limit: int) -> int:
    """Return how many sessions of all agents closed in the period, counted up to `limit`."""
    return int(view.scalar(_SIZE, since=period.since, until=period.until, limit=limit))


def first_part(view: View, period: Period, sessions: int) -> Period:
    """Return the first part of a period, in which `sessions` sessions closed, or all of it if fewer closed in it."""
    at: datetime | None = view.scalar(_PART, since=period.since, until=period.until, sessions=sessions)
    if at is None:
        return period
    # Any number of sessions may have closed in one millisecond.
    return period._replace(until=min(period.until, max(at, period.since + timestamps.MILLISECOND)))


def groups(view: View, period: Period) -> list[Group]:
    """Return the sessions that closed in the period, by type, agent, close reason, and whether somebody came."""
    rows = _rows(view, _GROUPS, period)
    return [
        Group(SessionType(kind), agent, None if reason is None else CloseReason(reason), bool(came), sessions)
        for kind, agent, reason, came, sessions in rows
    ]


def waiting_seconds(view: View, period: Period) -> Counted:
    """Return for how many seconds sessions were open before the first person joined."""
    return _numbers(view, _WAITING, period)


def length_seconds(view: View, period: Period) -> Counted:
    """Return how many seconds passed from the first person's joining to the close."""
    return _numbers(view, _LENGTHS, period)


def beginnings(view: View, period: Period) -> list[tuple[datetime, int]]:
    """Return the quarters of an hour in which first persons joined, and in how many sessions."""
    return [(Instant.instant(number * QUARTER), count) for number, count in _numbers(view, _BEGINNINGS, period)]


def lags_ms(view: View, period: Period) -> Counted:
    """Return by how many milliseconds the scheduler was late with what it did in the period."""
    statement = _LAGS
    if period.agent_id is not None:
        statement = statement.join_from(EVENTS, SESSIONS, _E.session_id == _S.id)
    return _numbers(view, statement, period)


def _numbers(view: View, statement: Select[Any], period: Period) -> Counted:
    return [(int(number), count) for number, count in _rows(view, statement, period)]


def _rows(view: View, statement: Select[Any], period: Period) -> Sequence[Any]:
    values: dict[str, Any] = {"since": period.since, "until": period.until}
    if period.agent_id is not None:
        # An expression, so that the range of time is used, and not the index of the agent's whole history.
        statement = statement.where(_S.agent_id + 0 == bindparam("agent_id"))
        values["agent_id"] = period.agent_id
    return view.rows(statement, **values)
