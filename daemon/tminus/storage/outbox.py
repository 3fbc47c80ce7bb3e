"""What webhooks need of the store: how far each endpoint is, what is due to it, what became of it."""

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, bindparam, delete, func, insert, select, update

from tminus.events import Told
from tminus.model import Delivery, Endpoint, Replay
from tminus.storage.tables import DELIVERIES, ENDPOINTS, EVENTS, REPLAYS, SESSIONS
from tminus.storage.transaction import Transaction
from tminus.storage.view import EventFilter, View, asked, conditions

COUNTED = 100_000
"""A backlog is counted no further than this."""

_N, _R, _D = ENDPOINTS.c, REPLAYS.c, DELIVERIES.c
_DELIVERY_COLUMNS = [column.name for column in DELIVERIES.c if column.name != "id"]
_REPLAY_COLUMNS = [column.name for column in REPLAYS.c if column.name != "id"]

_ENDPOINT = select(ENDPOINTS).where(_N.name == bindparam("name"))
_NEXT_REPLAY = select(REPLAYS).where(_R.endpoint == bindparam("name")).order_by(_R.id).limit(1)


@dataclass(frozen=True, slots=True)
class Page:
    """Events that an endpoint is to be told, and how far that brings it: what does not match is passed over."""

    told: list[Told]
    through: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What an endpoint has not been told yet: how many events (at most `COUNTED`), and when the first happened."""

    events: int
    oldest: datetime | None


# --- looking ----------------------------------------------------------------------------------------------------------


def endpoint(view: View, name: str) -> Endpoint | None:
    return view.one(Endpoint, _ENDPOINT, name=name)


def next_replay(view: View, name: str) -> Replay | None:
    """The oldest replay that is not done."""
    return view.one(Replay, _NEXT_REPLAY, name=name)


def page(view: View, after: int, limit: int, only: EventFilter) -> Page:
    """The next events after a sequence number that match."""
    newest = view.last_seq()
    until = newest if only.until is None else min(only.until, newest)
    told = view.events(after, limit, EventFilter(only.types, only.session_types, only.session_id, until))
    return Page(told, told[-1].event.seq if len(told) == limit else max(after, until))


def backlog(view: View, after: int, only: EventFilter) -> Backlog:
    """What matches after a sequence number."""
    values = asked(only)
    oldest, count = _backlog(tuple(values))
    first = view.scalar(oldest, after=after, limit=1, **values)
    return Backlog(int(view.scalar(count, after=after, limit=COUNTED, **values)) if first is not None else 0, first)


@cache
def _backlog(names: tuple[str, ...]) -> tuple[Select[Any], Select[Any]]:
    later = select(EVENTS.c.ts).where(EVENTS.c.seq > bindparam("after"), *conditions(names))
    if "session_types" in names:
        later = later.join(SESSIONS, SESSIONS.c.id == EVENTS.c.session_id)
    some = later.limit(bindparam("limit"))
    return some.order_by(EVENTS.c.seq), select(func.count()).select_from(some.subquery())


def replays(view: View, name: str) -> int:
    """How many replays are not done."""
    return int(view.scalar(select(func.count()).select_from(REPLAYS).where(_R.endpoint == name)))


def deliveries(view: View, name: str, *, failed: bool, before: int | None, limit: int) -> list[Delivery]:
    """The delivery log of an endpoint, the newest first; only what failed, if `failed`; those before an id."""
    wanted = select(DELIVERIES).where(_D.endpoint == name).order_by(_D.id.desc()).limit(limit)
    if failed:
        wanted = wanted.where(_D.ok.is_(False))
    if before is not None:
        wanted = wanted.where(_D.id < before)
    return view.all(Delivery, wanted)


def seq_before(view: View, instant: datetime) -> int:
    """The number after which everything is that happened then or later. Of two daemons the clocks may differ, so an
    event may bear an earlier time than the one before it: then more is meant rather than less.
    """
    first = view.scalar(select(func.min(EVENTS.c.seq)).where(EVENTS.c.ts >= instant))
    return int(first) - 1 if first is not None else view.last_seq()


# --- writing ----------------------------------------------------------------------------------------------------------


def enlist(tx: Transaction, name: str, *, from_beginning: bool) -> bool:
    """Gives a webhook its place, if it has none: at the newest event, or before the first. Returns whether it had
    none.
    """
    if endpoint(tx, name) is not None:
        return False
    cursor = 0 if from_beginning else tx.last_seq()
    tx.execute(insert(ENDPOINTS), {"name": name, "cursor": cursor, "failures": 0})
    return True


def note(tx: Transaction, delivery: Delivery) -> int:
    """Adds a row to the delivery log; returns its id."""
    values = {name: getattr(delivery, name) for name in _DELIVERY_COLUMNS}
    return int(tx.execute(insert(DELIVERIES).returning(_D.id), values).scalar_one())


def change(tx: Transaction, name: str, seen: int | None = None, **values: Any) -> None:
    """Sets fields of an endpoint; with `seen`, only while its cursor is there: another daemon may have taken over."""
    still = () if seen is None else (_N.cursor == seen,)
    tx.execute(update(ENDPOINTS).where(_N.name == name, *still).values(values))


def add_replay(tx: Transaction, replay: Replay) -> int:
    """Queues a replay; returns its id."""
    values = {name: getattr(replay, name) for name in _REPLAY_COLUMNS}
    return int(tx.execute(insert(REPLAYS).returning(_R.id), values).scalar_one())


def change_replay(tx: Transaction, replay: Replay, **values: Any) -> None:
    """Sets fields of a replay, only while its cursor is where it was seen."""
    tx.execute(update(REPLAYS).where(_R.id == replay.id, _R.cursor == replay.cursor).values(values))


def end_replay(tx: Transaction, replay: Replay) -> None:
    """Removes a replay, only while its cursor is where it was seen."""
    tx.execute(delete(REPLAYS).where(_R.id == replay.id, _R.cursor == replay.cursor))


def wait_no_more(tx: Transaction) -> None:
    """All that is to be tried again later is to be tried now."""
    for table in (ENDPOINTS, REPLAYS):
        tx.execute(update(table).where(table.c.retry_at.is_not(None)).values(retry_at=None))


def remove_deliveries(tx: Transaction, before: datetime, limit: int) -> int:
    """Removes rows of the delivery log that are older; returns how many."""
    some = select(_D.id).where(_D.at < before).order_by(_D.at).limit(limit)
    return int(tx.execute(delete(DELIVERIES).where(_D.id.in_(some))).rowcount)
