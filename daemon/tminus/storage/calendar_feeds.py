"""The addresses of agents' calendars, and the sessions that a calendar shows.

An agent has at most one address. Only the SHA-256 of the secret in it is stored, so a copy of the database opens no
calendar.
"""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import bindparam, delete, insert, select

from tminus.domain.model import CalendarFeed
from tminus.domain.types import OPEN_STATUSES, CloseReason, Status
from tminus.storage.listing import SessionFilter, listing
from tminus.storage.tables import CALENDAR_FEEDS, SESSIONS
from tminus.storage.transaction import Transaction
from tminus.storage.view import STREAMED, View

_F, _S = CALENDAR_FEEDS.c, SESSIONS.c


class Planned(NamedTuple):
    """The part of a session that a calendar shows."""

    id: str
    version: int
    label: str
    user_description: str
    user_url: str
    external_session_object_id: str
    start_time: datetime
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    close_reason: CloseReason | None


_BY_SECRET = select(CALENDAR_FEEDS).where(_F.secret_sha256 == bindparam("secret_sha256"))
_PLANNED = select(*(_S[name] for name in Planned._fields)).where(_S.id.in_(bindparam("ids", expanding=True)))


# --- reading ----------------------------------------------------------------------------------------------------------


def by_secret(view: View, secret_sha256: str) -> CalendarFeed | None:
    """Return the address with this secret; None if it does not exist or has ended."""
    return view.one(CalendarFeed, _BY_SECRET, secret_sha256=secret_sha256)


def planned(view: View, agent_id: int, since: datetime, limit: int) -> list[Planned]:
    """Return an agent's sessions with a start at `since` or later, at most `limit`, in the order of their starts.

    If there are more, the result contains open sessions before closed ones, and of each those with the first starts. A
    cancelled session is in it only if it was cancelled after `since`.
    """
    found = _planned(view, agent_id, since, limit, *OPEN_STATUSES)
    if len(found) < limit:
        closed = _planned(view, agent_id, since, limit - len(found), Status.CLOSED)
        found += [one for one in closed if one.close_reason != CloseReason.CANCELLED or _closed_after(one, since)]
    return sorted(found, key=lambda one: (one.start_time, one.id))


def _closed_after(session: Planned, since: datetime) -> bool:
    return session.closed_at is not None and session.closed_at > since


def _planned(view: View, agent_id: int, since: datetime, limit: int, *statuses: Status) -> list[Planned]:
    wanted = SessionFilter(agent_id, statuses, start_from=since, order_by="start_time", descending=False, limit=limit)
    page = listing(wanted)
    ids = [row.id for row in view.rows(page.page, **page.values)]
    found = []
    for first in range(0, len(ids), STREAMED):
        found += [Planned._make(row) for row in view.rows(_PLANNED, ids=ids[first : first + STREAMED])]
    return found


# --- writing ----------------------------------------------------------------------------------------------------------


def replace(tx: Transaction, feed: CalendarFeed) -> None:
    """Store the address of an agent. An earlier one ends."""
    remove(tx, feed.agent_id)
    tx.execute(insert(CALENDAR_FEEDS), feed.model_dump())


def remove(tx: Transaction, agent_id: int) -> bool:
    """End the address of an agent; return False if there was none."""
    return bool(tx.execute(delete(CALENDAR_FEEDS).where(_F.agent_id == agent_id)).rowcount)
