"""The appointments of an agent: open sessions that were created with a start. They are found by index entries alone."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Select, bindparam, select

from tminus.domain.types import OPEN_STATUSES, SessionType, Status
from tminus.storage.tables import SESSIONS
from tminus.storage.view import View

_S = SESSIONS.c
_INSTANT = _S.start_time.type


class ActiveTimes(NamedTuple):
    """The start of an active session, if it was created with one, and the time at which the first person joined."""

    start_time: datetime | None
    activated_at: datetime


def _appointments(*columns: Any) -> Select[Any]:
    """Select columns of an agent's appointments that start after one time and before another."""
    return (
        select(*columns)
        .where(
            _S.agent_id == bindparam("agent_id"),
            _S.status.in_(OPEN_STATUSES),
            _S.type.in_(SessionType),  # the index has it before the start
            _S.start_time > bindparam("after", type_=_INSTANT),
            _S.start_time < bindparam("before", type_=_INSTANT),
        )
        .order_by(_S.start_time, _S.id)
        .limit(bindparam("limit"))
    )


_STARTS = _appointments(_S.start_time)
_IDS = _appointments(_S.id)
_ACTIVE = (
    select(_S.start_time, _S.activated_at)
    .where(_S.agent_id == bindparam("agent_id"), _S.status == Status.ACTIVE, _S.type.in_(SessionType))
    .limit(bindparam("limit"))
)


def starts(view: View, agent_id: int, after: datetime, before: datetime, limit: int) -> list[datetime]:
    """Return the first starts of an agent's appointments between two times, at most `limit`."""
    values = {"agent_id": agent_id, "after": after, "before": before, "limit": limit}
    return [row.start_time for row in view.rows(_STARTS, **values)]


def active(view: View, agent_id: int, limit: int) -> list[ActiveTimes]:
    """Return the times of an agent's active sessions, of at most `limit` of them."""
    rows = view.rows(_ACTIVE, agent_id=agent_id, limit=limit)
    return [ActiveTimes(row.start_time, row.activated_at) for row in rows if row.activated_at is not None]


def between(view: View, agent_id: int, after: datetime, before: datetime, limit: int) -> Sequence[str]:
    """Return the ids of an agent's first appointments that start between two times, at most `limit`."""
    values = {"agent_id": agent_id, "after": after, "before": before, "limit": limit}
    return [row.id for row in view.rows(_IDS, **values)]
