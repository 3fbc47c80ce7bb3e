"""Series of sessions, and the session of each occurrence."""

from collections.abc import Collection, Iterator
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, delete, func, insert, select, update

from tminus.domain.model import Occurrence, Series
from tminus.domain.types import Status
from tminus.storage.tables import OCCURRENCES, SERIES, SESSIONS
from tminus.storage.transaction import Transaction
from tminus.storage.view import PAGE_BYTES, View

_R, _O, _S = SERIES.c, OCCURRENCES.c, SESSIONS.c

_NEXT = select(func.min(_R.next_at, type_=_R.next_at.type)).where(_R.next_at.is_not(None))
_DUE = (
    select(SERIES)
    .where(_R.next_at <= bindparam("until", type_=_R.next_at.type))
    .order_by(_R.next_at, _R.id)
    .limit(bindparam("limit"))
)
_ONE = select(SERIES).where(_R.id == bindparam("id"))
_BY_KEY = select(SERIES).where(
    _R.agent_id == bindparam("agent_id"), _R.idempotency_key == bindparam("key"), _R.idempotency_key.is_not(None)
)
_PAGE = select(SERIES).where(_R.id > bindparam("after")).order_by(_R.id).limit(bindparam("limit"))
_PAGE_OF = (
    select(SERIES)
    .where(_R.agent_id == bindparam("agent_id"), _R.id > bindparam("after"))
    .order_by(_R.id)
    .limit(bindparam("limit"))
)
_OF_CONFIGURATION = select(SERIES).where(_R.entry.is_not(None), _R.ended_at.is_(None)).order_by(_R.entry)
_OF_ENTRY = select(SERIES).where(_R.entry == bindparam("entry"), _R.entry.is_not(None), _R.ended_at.is_(None))
_FOLLOWER = (
    select(SERIES)
    .where(
        _R.agent_id == bindparam("agent_id"),
        _R.follows == bindparam("followed"),
        _R.ended_at.is_(None),
        _R.id > bindparam("after"),
    )
    .order_by(_R.id)
    .limit(1)
)
_NAME = (
    update(SESSIONS)
    .where(_S.id == bindparam("session"))
    .values(series_id=bindparam("series"), series_start=bindparam("local"))
)
_OPEN = (
    select(_R.id).where(_R.agent_id == bindparam("agent_id"), _R.ended_at.is_(None)).limit(bindparam("most")).subquery()
)
_NUMBER = select(func.count()).select_from(_OPEN)


class MadeOccurrence(NamedTuple):
    """An occurrence whose session was made, and the present state of the session."""

    local_start: str
    session_id: str
    given: datetime
    """The start that the series gave to the session."""
    start_time: datetime
    status: Status


_MADE = (
    select(_O.local_start, _O.session_id, _O.start_time.label("given"), _S.start_time, _S.status)
    .join_from(OCCURRENCES, SESSIONS, _S.id == _O.session_id)
    .where(_O.series_id == bindparam("series_id"), _O.local_start >= bindparam("since"))
    .order_by(_O.local_start)
    .limit(bindparam("limit"))
)


def next_due(view: View) -> datetime | None:
    """Return when the next occurrences are to be made; None if no series will have more."""
    due: datetime | None = view.scalar(_NEXT)
    return due


def due(tx: Transaction, until: datetime, limit: int) -> list[Series]:
    """Return the first series whose next occurrences are to be made at `until` or before."""
    return tx.all(Series, _DUE, until=until, limit=limit)


def find(view: View, series_id: str) -> Series | None:
    """Return a series; None if there is none with this id."""
    return view.one(Series, _ONE, id=series_id)


def find_by_key(view: View, agent_id: int, key: str) -> Series | None:
    """Return the series that an agent created with this `Idempotency-Key`; None if there is none."""
    return view.one(Series, _BY_KEY, agent_id=agent_id, key=key)


def of_configuration(view: View) -> list[Series]:
    """Return the series of the configuration that have not ended, by name."""
    return view.all(Series, _OF_CONFIGURATION)


def find_by_entry(view: View, entry: str) -> Series | None:
    """Return the series of an entry of the configuration that has not ended; None if there is none."""
    return view.one(Series, _OF_ENTRY, entry=entry)


def followers(view: View, agent_id: int, series_id: str) -> Iterator[Series]:
    """Yield the series that continue another one of an agent and have not ended, in the order of their ids.

    Each is read alone, since it can be large.
    """
    after = ""
    while (found := view.one(Series, _FOLLOWER, agent_id=agent_id, followed=series_id, after=after)) is not None:
        yield found
        after = found.id


def listed(
    view: View, agent_id: int | None, after: str, limit: int, max_bytes: int = PAGE_BYTES
) -> tuple[list[Series], bool]:
    """Return one page of series with at most `max_bytes`, of one agent or of all, in the order of their ids.

    Also returns whether there may be more.
    """
    statement, values = _PAGE, {"after": after, "limit": limit}
    if agent_id is not None:
        statement, values = _PAGE_OF, values | {"agent_id": agent_id}
    rows, more = view.rows_within(statement, values, limit, max_bytes)
    found = [Series.model_validate(dict(zip(SERIES.c.keys(), row, strict=True))) for row in rows]
    return found, more or len(rows) == limit


def count(view: View, agent_id: int, most: int) -> int:
    """Return how many series of an agent have not ended, counted up to `most`."""
    return int(view.scalar(_NUMBER, agent_id=agent_id, most=most))


def made(view: View, series_id: str, since: str, limit: int) -> list[MadeOccurrence]:
    """Return the first occurrences of a series at a local time or later, with their sessions."""
    return [
        MadeOccurrence(row.local_start, row.session_id, row.given, row.start_time, Status(row.status))
        for row in view.rows(_MADE, series_id=series_id, since=since, limit=limit)
    ]


def add(tx: Transaction, series: Series) -> None:
    """Store a new series."""
    tx.execute(insert(SERIES), series.model_dump())
    tx.note_due(series.next_at)


def change(tx: Transaction, series: Series) -> None:
    """Store the fields of a series that can change."""
    values = series.model_dump(exclude={"id", "agent_id", "caller", "created_at"})
    tx.execute(update(SERIES).where(_R.id == series.id).values(values))
    tx.note_due(series.next_at)


def add_occurrences(tx: Transaction, occurrences: Collection[Occurrence]) -> None:
    """Store occurrences, with the sessions that were made for them."""
    if occurrences:
        tx.execute(insert(OCCURRENCES), [one.model_dump() for one in occurrences])


def name_in_sessions(tx: Transaction, occurrences: Collection[Occurrence]) -> None:
    """Store, in the rows of the sessions, the occurrences that they were made for."""
    if occurrences:
        named = [{"session": one.session_id, "series": one.series_id, "local": one.local_start} for one in occurrences]
        tx.execute(_NAME, named)


def remove_occurrences(tx: Transaction, series_id: str, since: str) -> None:
    """Remove the occurrences of a series at a local time or later. Their sessions stay."""
    tx.execute(delete(OCCURRENCES).where(_O.series_id == series_id, _O.local_start >= since))
