"""The tables of endpoints (webhooks and mail): the position, the replays, the backlog and the delivery log of each."""

import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Select, bindparam, delete, false, func, insert, literal, or_, select, update

from tminus import clock
from tminus.domain.model import Delivery, Endpoint, Replay
from tminus.storage.tables import DELIVERIES, ENDPOINTS, EVENTS, REPLAYS, SESSIONS
from tminus.storage.transaction import Transaction
from tminus.storage.view import PAGE_BYTES, WINDOW, EventFilter, View, conditions, parameters_of

NO_FAILURE: dict[str, Any] = {"failures": 0, "failing_since": None, "retry_at": None}
"""The fields of an endpoint or a replay whose last attempt did not fail, or failed for something else."""

MAX_COUNT = 100_000
"""The number at which counting a backlog ends."""

MAX_READ = 100_000
"""Maximum number of events that one call reads to count the backlogs of all endpoints."""

COUNT_LIFETIME = 600.0
"""Seconds after which a backlog is counted again from its beginning, because retention may have removed events."""

_N, _R, _D = ENDPOINTS.c, REPLAYS.c, DELIVERIES.c
_DELIVERY_COLUMNS = [column.name for column in DELIVERIES.c if column.name != "id"]
_REPLAY_COLUMNS = [column.name for column in REPLAYS.c if column.name != "id"]

_ENDPOINT = select(ENDPOINTS).where(_N.name == bindparam("name"))
_NEXT_REPLAY = select(REPLAYS).where(_R.endpoint == bindparam("name")).order_by(_R.id).limit(1)
_EARLIEST_REPLAY = (
    select(REPLAYS)
    .where(_R.endpoint == bindparam("name"))
    .order_by(func.coalesce(_R.retry_at, literal(0, BigInteger)), _R.id)
    .limit(1)
)


class Backlog(NamedTuple):
    """The events that an endpoint has not received: their number (at most `MAX_COUNT`) and the time of the oldest."""

    events: int
    oldest: datetime | None


# --- reading ----------------------------------------------------------------------------------------------------------


def endpoint(view: View, name: str) -> Endpoint | None:
    """Return the position of an endpoint; None if it is not registered."""
    return view.one(Endpoint, _ENDPOINT, name=name)


def next_replay(view: View, name: str, *, in_order: bool = True) -> Replay | None:
    """Return the oldest unfinished replay of an endpoint; None if there is none.

    If not `in_order`, return the one with the earliest next attempt, so that a replay that waits for a retry does not
    delay the others.
    """
    return view.one(Replay, _NEXT_REPLAY if in_order else _EARLIEST_REPLAY, name=name)


class Backlogs:
    """The backlogs of all endpoints. Any thread.

    A backlog is counted once. Later counts add new events and subtract delivered ones. Otherwise each scrape would read
    all events that wait for a paused endpoint again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: dict[str, _Counted] = {}

    def count(self, view: View, wanted: Iterable[tuple[str, int, EventFilter]]) -> list[Backlog]:
        """Return the backlog of each endpoint.

        `wanted`: for each endpoint its name, its cursor and its filter. A call reads at most `MAX_READ` events; the
        next call counts the rest.
        """
        with self._lock:
            left = MAX_READ
            found = []
            for name, after, only in wanted:
                counted = self._count_from(view, name, after, only)
                left = counted.count_on(view, left)
                found.append(Backlog(counted.events, counted.oldest))
            return found

    def _count_from(self, view: View, name: str, after: int, only: EventFilter) -> "_Counted":
        counted = self._counted.get(name)
        if counted is None or not counted.is_valid_for(after, only) or not counted.move_to(view, after):
            counted = self._counted[name] = _Counted(only, after, after, clock.monotonic() + COUNT_LIFETIME)
        return counted


@dataclass(slots=True)
class _Counted:
    """The number of matching events from one event number to another: after `after`, up to `through`."""

    only: EventFilter
    after: int
    through: int
    until: float
    """When the count becomes invalid, on the monotonic clock."""
    events: int = 0
    oldest: datetime | None = None

    def is_valid_for(self, after: int, only: EventFilter) -> bool:
        return self.only == only and self.after <= after <= self.through and clock.monotonic() < self.until

    def move_to(self, view: View, after: int) -> bool:
        """Move the beginning to a later event and subtract the events before it.

        Return False, and change nothing, if that would read too many events.
        """
        if after == self.after or not self.events:
            self.after = after
            return True
        if not view.window_end(self.after, after).is_last:
            return False
        self.events -= _matches(view, self.after, after, self.only)[0]
        self.after = after
        self.oldest = self._first(view) if self.events else None
        return True

    def _first(self, view: View) -> datetime | None:
        after = self.after
        while after < self.through:
            end = view.window_end(after, self.through)
            if (first := _matches(view, after, end.seq, self.only)[1]) is not None:
                return first
            after = end.seq
        return None

    def count_on(self, view: View, left: int) -> int:
        """Count the events after `through`, but read about `left` events at most; return how many may still be read."""
        while left > 0 and self.events < MAX_COUNT:
            end = view.window_end(self.through)
            if end.seq <= self.through:
                break
            number, first = _matches(view, self.through, end.seq, self.only)
            self.events = min(self.events + number, MAX_COUNT)
            self.oldest = self.oldest or first
            self.through = end.seq
            left -= WINDOW
            if end.is_last:
                break
        return left


def _matches(view: View, after: int, until: int, only: EventFilter) -> tuple[int, datetime | None]:
    """Return the number of matching events between two event numbers, and the time of the first."""
    values = parameters_of(replace(only, until=until)) | {"after": after}
    count, first = _counting(tuple(name for name in values if name != "after"))
    number = int(view.scalar(count, **values))
    return number, view.scalar(first, **values) if number else None


@cache
def _counting(names: tuple[str, ...]) -> tuple[Select[Any], Select[Any]]:
    matching = select(EVENTS.c.ts).where(EVENTS.c.seq > bindparam("after"), *conditions(names))
    if "session_types" in names or "invited" in names:
        matching = matching.join(SESSIONS, SESSIONS.c.id == EVENTS.c.session_id)
    return matching.with_only_columns(func.count()), matching.order_by(EVENTS.c.seq).limit(1)


def replays(view: View, name: str) -> int:
    """Return the number of an endpoint's unfinished replays."""
    return int(view.scalar(select(func.count()).select_from(REPLAYS).where(_R.endpoint == name)))


def deliveries(
    view: View, name: str, *, failed: bool, before: int | None, limit: int
) -> tuple[list[Delivery], int | None]:
    """Return a page of an endpoint's delivery log, newest first, and the `before` of the next page (None: no more).

    `failed`: only failed attempts. `before`: only attempts with a lower id. A page may be shorter than `limit`, so that
    it has at most `PAGE_BYTES`.
    """
    wanted = select(DELIVERIES).where(_D.endpoint == name).order_by(_D.id.desc()).limit(limit)
    if failed:
        wanted = wanted.where(_D.ok == false())
    if before is not None:
        wanted = wanted.where(_D.id < before)
    rows, cut = view.rows_within(wanted, None, limit, PAGE_BYTES)
    found = [Delivery.model_validate(dict(zip(DELIVERIES.c.keys(), row, strict=True))) for row in rows]
    return found, found[-1].id if cut or len(found) == limit else None


def seq_before(view: View, instant: datetime) -> int:
    """Return the number of the event before the first one that happened at this time or later.

    If two daemons write at the same time, an event may have an earlier time than the event with the previous number.
    A replay from the result then contains too many events rather than too few.
    """
    # For plain `seq`, both databases search in the order of the key and read every event before the result.
    first = view.scalar(select(func.min(EVENTS.c.seq + 0)).where(EVENTS.c.ts >= instant))
    return int(first) - 1 if first is not None else view.last_seq()


# --- writing ----------------------------------------------------------------------------------------------------------


def register(tx: Transaction, name: str, *, from_beginning: bool) -> bool:
    """Register an endpoint, unless it is registered already; return whether it is new.

    It then receives only later events, or with `from_beginning` all events.
    """
    if endpoint(tx, name) is not None:
        return False
    cursor = 0 if from_beginning else tx.last_seq()
    tx.execute(insert(ENDPOINTS), {"name": name, "cursor": cursor, "failures": 0})
    return True


def add_delivery(tx: Transaction, delivery: Delivery) -> int:
    """Add a row to the delivery log; return its id."""
    values = {name: getattr(delivery, name) for name in _DELIVERY_COLUMNS}
    return int(tx.execute(insert(DELIVERIES).returning(_D.id), values).scalar_one())


def update_endpoint(tx: Transaction, name: str, seen: int | None = None, **values: Any) -> None:
    """Set fields of an endpoint.

    `seen`: only if this is still its cursor, because another daemon may serve the endpoint by now.
    """
    unchanged = () if seen is None else (_N.cursor == seen,)
    tx.execute(update(ENDPOINTS).where(_N.name == name, *unchanged).values(values))


def forget_failures(tx: Transaction, moved: Collection[str], configured: Collection[str]) -> None:
    """Clear the failures of endpoints and of their replays that say nothing about the present receiver.

    These are the endpoints that have `moved` to another receiver, and those that are not `configured`: if one is added
    again, it may be another. A paused endpoint stays as it is, until an operator resumes it.
    """
    failing = select(_N.name).where(_N.paused_at.is_(None), or_(_N.failures > 0, _N.last_error.is_not(None)))
    repeating = select(_R.endpoint).where(_R.failures > 0).distinct()
    for table, column, query, changes in (
        (ENDPOINTS, _N.name, failing, {**NO_FAILURE, "last_error": None}),
        (REPLAYS, _R.endpoint, repeating, NO_FAILURE),
    ):
        for name in tx.execute(query).scalars().all():
            if name in moved or name not in configured:
                tx.execute(update(table).where(column == name).values(changes))


def add_replay(tx: Transaction, replay: Replay) -> int:
    """Queue a replay; return its id."""
    values = {name: getattr(replay, name) for name in _REPLAY_COLUMNS}
    return int(tx.execute(insert(REPLAYS).returning(_R.id), values).scalar_one())


def update_replay(tx: Transaction, replay: Replay, **values: Any) -> None:
    """Set fields of a replay, if its cursor has not moved."""
    tx.execute(update(REPLAYS).where(_R.id == replay.id, _R.cursor == replay.cursor).values(values))


def end_replay(tx: Transaction, replay: Replay) -> None:
    """Remove a replay, if its cursor has not moved."""
    tx.execute(delete(REPLAYS).where(_R.id == replay.id, _R.cursor == replay.cursor))


def retry_now(tx: Transaction) -> None:
    """End the wait of all endpoints and replays for their next attempt."""
    for table in (ENDPOINTS, REPLAYS):
        tx.execute(update(table).where(table.c.retry_at.is_not(None)).values(retry_at=None))


def remove_deliveries(tx: Transaction, before: datetime, limit: int) -> int:
    """Remove up to `limit` rows of the delivery log that are older than `before`; return their number."""
    some = select(_D.id).where(_D.at < before).order_by(_D.at).limit(limit)
    return int(tx.execute(delete(DELIVERIES).where(_D.id.in_(some))).rowcount)
