"""Batches that are decided but not done for all of their sessions: their rows, their parts, and what they reserve.

The parts of a batch are stored first, in transactions of their own. The row in `batch` is the commit point: with it the
batch will be done, and without it the parts are removed. Each part is done and removed by one transaction.
"""

from collections import namedtuple
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

import orjson
from sqlalchemy import Integer, and_, bindparam, delete, func, insert, or_, select, update
from sqlalchemy import cast as sql_cast

from tminus.domain.model import Batch, BatchPart, Event, Instant, Session
from tminus.domain.types import BatchKind, SessionType, Status
from tminus.storage.inserts import stored_values
from tminus.storage.json_rows import look_up
from tminus.storage.tables import BATCH_PARTS, BATCH_RECORDS, BATCHES, SESSIONS
from tminus.storage.transaction import EVENT_COLUMNS, Transaction
from tminus.storage.view import View

COLUMNS = tuple(Session.model_fields)
"""The columns of a row that `new_row` returns."""

_DEFAULTS = {name: field.default for name, field in Session.model_fields.items() if not field.is_required()}
_EVENT_DEFAULTS = {name: Event.model_fields[name].get_default() for name in EVENT_COLUMNS}
_EVENT_PLACES = {name: place for place, name in enumerate(EVENT_COLUMNS)}
_session_values = stored_values(SESSIONS, COLUMNS)
_TYPE, _STATUS = COLUMNS.index("type"), COLUMNS.index("status")
_INSTANTS = [place for place, name in enumerate(COLUMNS) if isinstance(SESSIONS.c[name].type, Instant)]

_B, _PART = BATCHES.c, BATCH_PARTS.c

_STATE = select(_B.id, _B.kind, _B.caller, _B.pins, _B.remaining, _B.created_at).where(_B.id == bindparam("batch_id"))
_UNFINISHED = select(_B.id, _B.remaining).order_by(_B.created_at, _B.id).limit(bindparam("limit"))
_WITH_KEY = select(_B.id).where(_B.agent_id == bindparam("agent_id"), _B.key == bindparam("key"))
_NEXT_PARTS = (
    select(_PART.number, _PART.content)
    .where(_PART.batch_id == bindparam("batch_id"))
    .order_by(_PART.number)
    .limit(bindparam("limit"))
)
_PARTS = select(func.count()).select_from(BATCH_PARTS).where(_PART.batch_id == bindparam("batch_id"))
_COMING = select(_B.kind, _B.session_ids, _B.starts, _B.remaining).where(
    or_(_B.agent_id == bindparam("agent_id"), _B.kind == BatchKind.RESCHEDULE.value), _B.starts.is_not(None)
)
_LEFTOVERS = (
    select(_PART.batch_id, _PART.number)
    .where(_PART.created_at < bindparam("before", type_=_PART.created_at.type), _PART.batch_id.not_in(select(_B.id)))
    .order_by(_PART.created_at)
    .limit(bindparam("limit"))
)

_REMOVE_PART = delete(BATCH_PARTS).where(_PART.batch_id == bindparam("of"), _PART.number == bindparam("one"))


NewRow = list[Any]
"""The values of a new session as JSON can hold them, in the order of `COLUMNS`."""


class State(NamedTuple):
    """What is left of a batch."""

    id: str
    kind: BatchKind
    caller: dict[str, str | None]
    pins: dict[str, list[int]]
    remaining: int
    created_at: datetime


def new_row(values: dict[str, Any]) -> list[Any]:
    """Return the row of a new session, as JSON can hold it, from the values that it does not have by default."""
    return _session_values({**_DEFAULTS, **values})


def current_rows(columns: list[str], rows: list[list[Any]]) -> list[list[Any]]:
    """Return rows of new sessions that were stored with these columns, perhaps by another release."""
    if columns == list(COLUMNS):
        return rows
    return [
        [stored.get(name, _DEFAULTS.get(name)) for name in COLUMNS]
        for stored in (dict(zip(columns, row, strict=True)) for row in rows)
    ]


class CreatedSession(namedtuple("CreatedSession", COLUMNS)):  # type: ignore[misc]  # noqa: PYI024 - fields of another
    """A session that a batch has just created, with the attributes of `Session`.

    To construct a `Session` from a row takes three times as long.
    """

    __slots__ = ()

    def active_seconds(self, _now: datetime) -> int:
        """Return 0, as `Session.active_seconds` does for a session that was never active."""
        return 0


def session(row: NewRow) -> Session:
    """Return the session that has this row, which this daemon has just written. It must only be read."""
    values = list(row)
    for place in _INSTANTS:
        if (number := values[place]) is not None:
            values[place] = Instant.instant(number)
    values[_TYPE], values[_STATUS] = SessionType(values[_TYPE]), Status(values[_STATUS])
    return cast("Session", CreatedSession._make(values))


def new_event(**values: Any) -> list[Any]:
    """Return the row of an event, as JSON can hold it, from the values that it does not have by default."""
    row = list(_EVENT_DEFAULTS.values())
    for name, value in values.items():
        row[_EVENT_PLACES[name]] = value
    return row


# --- the parts --------------------------------------------------------------------------------------------------------


def add_parts(tx: Transaction, batch_id: str, first: int, contents: Sequence[str]) -> None:
    """Store parts of a batch that is not decided yet, or is decided by this transaction. `first`: the first number."""
    rows = [
        BatchPart(batch_id=batch_id, number=number, content=content, created_at=tx.now).model_dump()
        for number, content in enumerate(contents, first)
    ]
    tx.execute(insert(BATCH_PARTS), rows)


def parts(view: View, batch_id: str) -> int:
    """Return how many parts of a batch are stored."""
    return int(view.scalar(_PARTS, batch_id=batch_id))


def next_parts(view: View, batch_id: str, limit: int) -> list[tuple[int, str]]:
    """Return the first parts that are stored, each with its number."""
    return [(row.number, row.content) for row in view.rows(_NEXT_PARTS, batch_id=batch_id, limit=limit)]


def remove_parts(tx: Transaction, batch_id: str) -> None:
    """Remove the parts of a batch, unless it is decided."""
    tx.execute(delete(BATCH_PARTS).where(_PART.batch_id == batch_id, _PART.batch_id.not_in(select(_B.id))))


def remove_leftovers(tx: Transaction, before: datetime, limit: int) -> int:
    """Remove up to `limit` parts that were stored before a time, and whose batch was never decided; return how many."""
    found = [{"of": row.batch_id, "one": row.number} for row in tx.rows(_LEFTOVERS, before=before, limit=limit)]
    if found:
        tx.execute(_REMOVE_PART, found)
    return len(found)


# --- the batches ------------------------------------------------------------------------------------------------------


def add(tx: Transaction, batch: Batch) -> None:
    """Store a batch: from the commit on it will be done."""
    tx.execute(insert(BATCHES), batch.model_dump())


def unfinished(view: View, limit: int = 100) -> dict[str, int]:
    """Return the ids of the batches that are not done, the oldest first, each with how many sessions remain."""
    return {row.id: row.remaining for row in view.rows(_UNFINISHED, limit=limit)}


def with_key(view: View, agent_id: int, key: str) -> str | None:
    """Return the id of an agent's batch with this key if it is not done; otherwise None."""
    return next((row.id for row in view.rows(_WITH_KEY, agent_id=agent_id, key=key)), None)


def state(view: View, batch_id: str) -> State | None:
    """Return what is left of a batch; None if it is done."""
    for row in view.rows(_STATE, batch_id=batch_id):
        pins = orjson.loads(row.pins or "{}")
        return State(row.id, BatchKind(row.kind), orjson.loads(row.caller), pins, row.remaining, row.created_at)
    return None


def record_done(tx: Transaction, batch: State, numbers: Sequence[int], sessions: int) -> int:
    """Record that these parts, with this many sessions, are done; return how many sessions remain.

    `batch`: with the PINs that are still reserved.
    """
    remaining = batch.remaining - sessions
    tx.execute(_REMOVE_PART, [{"of": batch.id, "one": number} for number in numbers])
    if remaining:
        values = {"remaining": remaining, "pins": orjson.dumps(batch.pins).decode() if batch.pins else None}
        tx.execute(update(BATCHES).where(_B.id == batch.id).values(values))
    else:
        tx.execute(delete(BATCHES).where(_B.id == batch.id))
    return remaining


def rename(tx: Transaction, batch_id: str, ids: dict[str, str]) -> None:
    """Replace ids of sessions of a batch, because other sessions have them."""
    for row in tx.rows(select(_B.agent_id, _B.key, _B.session_ids).where(_B.id == batch_id)):
        renamed = orjson.dumps([ids.get(one, one) for one in orjson.loads(row.session_ids)]).decode()
        tx.execute(update(BATCHES).where(_B.id == batch_id).values(session_ids=renamed))
        is_record = and_(BATCH_RECORDS.c.agent_id == row.agent_id, BATCH_RECORDS.c.key == row.key)
        tx.execute(update(BATCH_RECORDS).where(is_record).values(session_ids=renamed))


def coming(view: View, agent_id: int) -> list[tuple[datetime, str]]:
    """Return the starts, with the ids, of appointments that batches are about to give to an agent.

    New sessions are those of the caller; those that a batch moves may be those of others.
    """
    found = []
    for row in view.rows(_COMING, agent_id=agent_id):
        ids, starts = (orjson.loads(listed)[-row.remaining :] for listed in (row.session_ids, row.starts))
        wanted = existing(view, ids, agent_id) if row.kind == BatchKind.RESCHEDULE.value else set(ids)
        found += [
            (Instant.instant(start), session_id)
            for session_id, start in zip(ids, starts, strict=True)
            if start is not None and session_id in wanted
        ]
    return sorted(found)


def unchanged(view: View, versions: dict[str, int]) -> int:
    """Return how many of these sessions have the version that is given for them."""
    wanted = look_up(view.dialect, "wanted", SESSIONS.c.id)
    has_version = SESSIONS.c.version == sql_cast(wanted.value, Integer)
    counted = select(func.count()).select_from(SESSIONS).where(wanted.is_in, has_version)
    return int(view.scalar(counted, wanted=orjson.dumps(versions).decode()))


def existing(view: View, ids: Sequence[str], agent_id: int | None = None) -> set[str]:
    """Return those of these ids that sessions have. `agent_id`: the agent of these sessions; None: any."""
    wanted = look_up(view.dialect, "wanted", SESSIONS.c.id)
    statement = select(SESSIONS.c.id).where(wanted.is_in)
    if agent_id is not None:
        statement = statement.where(SESSIONS.c.agent_id == agent_id)
    found = view.rows(statement, wanted=orjson.dumps(dict.fromkeys(ids)).decode())
    return {row.id for row in found}
