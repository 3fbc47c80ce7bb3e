"""Remove old rows in batches: closed sessions, expired agent sessions and sign-in codes, old idempotency records."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Table, bindparam, delete, func, select, tuple_

from tminus.storage.tables import AGENT_SESSIONS, BATCH_RECORDS, EVENTS, IDEMPOTENCY, SESSIONS, SIGNIN_CODES
from tminus.storage.transaction import Transaction

_S = SESSIONS.c

_DEPENDENT: tuple[tuple[Table, ColumnElement[Any]], ...] = tuple(
    (table, list(table.primary_key)[-1])
    for table in SESSIONS.metadata.sorted_tables
    if any(key.column.table is SESSIONS for key in table.foreign_keys)
)
"""The tables with rows that belong to a session, and the column that identifies such a row."""

_closed = (
    select(_S.id, _S.closed_at)
    .where(_S.closed_at < bindparam("before", type_=_S.closed_at.type))
    .order_by(_S.closed_at)
    .limit(bindparam("candidates"))
    .subquery("closed")
)


def _number_of(table: Table, key: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the number of a table's rows that belong to a session, counted up to `most`."""
    some = select(key).where(table.c.session_id == _closed.c.id).limit(bindparam("most")).correlate(_closed)
    return select(func.count()).select_from(some.subquery()).correlate(_closed).scalar_subquery()


_OLDEST_CLOSED = select(_closed.c.id, *(_number_of(*one) for one in _DEPENDENT)).order_by(_closed.c.closed_at)


class Removed(NamedTuple):
    """The number of sessions that a batch removed, and whether there are more to remove."""

    sessions: int
    more: bool


def remove_closed(tx: Transaction, before: datetime, rows: int) -> Removed:
    """Remove the sessions that were closed first, and before a time, with all rows that belong to them.

    About `rows` rows are removed. If one session alone has more, only this number of its rows is removed.
    """
    values = {"before": before, "candidates": max(1, rows // 2), "most": rows}
    ids: list[str] = []
    left = rows
    for row in tx.rows(_OLDEST_CLOSED, **values):
        session_id, size = row[0], 1 + sum(row[1:])
        if size > left and ids:
            return Removed(_remove(tx, ids), more=True)
        if size > rows:
            return _remove_part(tx, session_id, rows)
        ids.append(session_id)
        left -= size
    return Removed(_remove(tx, ids), more=len(ids) == values["candidates"])


def _remove(tx: Transaction, ids: list[str]) -> int:
    return int(tx.execute(delete(SESSIONS).where(_S.id.in_(ids))).rowcount) if ids else 0


def _remove_part(tx: Transaction, session_id: str, rows: int) -> Removed:
    """Remove the first rows that belong to a session, but not its last event, which has the status of the session."""
    for table, key in _DEPENDENT:
        first = select(key).where(table.c.session_id == session_id).order_by(key).limit(rows)
        if table is EVENTS:
            last = select(func.max(EVENTS.c.seq)).where(EVENTS.c.session_id == session_id).scalar_subquery()
            first = first.where(key < last)
        removed = tx.execute(delete(table).where(table.c.session_id == session_id, key.in_(first))).rowcount
        if removed:
            return Removed(0, more=True)
    return Removed(_remove(tx, [session_id]), more=True)


def remove_agent_sessions(tx: Transaction, before: datetime, limit: int) -> int:
    """Remove up to `limit` agent sessions that expired before a time; return how many."""
    table = AGENT_SESSIONS.c
    some = select(table.sid).where(table.expires_at < before).order_by(table.expires_at).limit(limit)
    return int(tx.execute(delete(AGENT_SESSIONS).where(table.sid.in_(some))).rowcount)


def remove_signin_codes(tx: Transaction, before: datetime, limit: int) -> int:
    """Remove up to `limit` sign-in codes that expired before a time; return how many."""
    table = SIGNIN_CODES.c
    some = select(table.code_sha256).where(table.expires_at < before).order_by(table.expires_at).limit(limit)
    return int(tx.execute(delete(SIGNIN_CODES).where(table.code_sha256.in_(some))).rowcount)


def remove_idempotency_records(tx: Transaction, before: datetime, limit: int) -> int:
    """Remove up to `limit` idempotency records that are older than a time; return how many."""
    return _remove_records(tx, IDEMPOTENCY, before, limit)


def remove_batch_records(tx: Transaction, before: datetime, limit: int) -> int:
    """Remove up to `limit` idempotency records of batches that are older than a time; return how many."""
    return _remove_records(tx, BATCH_RECORDS, before, limit)


def _remove_records(tx: Transaction, kept: Table, before: datetime, limit: int) -> int:
    table = kept.c
    some = select(table.agent_id, table.key).where(table.created_at < before).order_by(table.created_at).limit(limit)
    return int(tx.execute(delete(kept).where(tuple_(table.agent_id, table.key).in_(some))).rowcount)
