"""People in the daemons' own rooms, and the second source of deadlines: when people who lost their connection leave.

When a connection is lost, `gone_at` of the person's row is set to a later time. If they reconnect before that time, it
is cleared, and no event is recorded. If not, the scheduler then executes the transition by which they leave.

The executor removes the rows of whoever leaves, in whichever way: the resume key is invalid from then on.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Select, bindparam, delete, exists, func, insert, literal, select, update

from tminus.domain.errors import WrongStatus
from tminus.domain.lifecycle import transition_for
from tminus.domain.model import Participant, Presence, Session
from tminus.domain.types import CLOCK_ACTOR, ROOM_ACTOR, Status, Timeouts, Trigger
from tminus.storage.deadlines import DueBatch
from tminus.storage.due import Recomputed
from tminus.storage.json_rows import look_up
from tminus.storage.tables import EVENTS, LEASES, PARTICIPANTS, PRESENCE, SESSIONS
from tminus.storage.transaction import Transaction
from tminus.storage.transitions import Cause, Named, Requested, execute
from tminus.storage.view import View

LEAVING = 64
"""Maximum number of people who leave in one transaction of `do_due`. Each takes about a millisecond."""

CLOSED = 50
"""Number of closed sessions whose last events are read by one query. Each event is in another page of the file."""

LEASE = timedelta(seconds=30)
"""How long a daemon counts as alive after it has renewed its lease."""

_S, _E, _P, _R, _L = SESSIONS.c, EVENTS.c, PARTICIPANTS.c, PRESENCE.c, LEASES.c

_NEXT_GONE = select(func.min(_R.gone_at, type_=_R.gone_at.type)).where(_R.gone_at.is_not(None))
_GONE = (
    select(_R.participant_id, _R.session_id, _R.gone_at)
    .where(_R.gone_at.is_not(None), _R.gone_at <= bindparam("until", type_=_R.gone_at.type))
    .order_by(_R.gone_at, _R.participant_id)
    .limit(bindparam("limit"))
)
_BY_KEY = select(PRESENCE).where(
    _R.resume_sha256 == bindparam("resume_sha256"), _R.session_id == bindparam("session_id")
)
_HAS_ROWS = select(literal(1)).where(_R.session_id == bindparam("session_id")).limit(1)
_HAS_PEOPLE = select(literal(1)).where(_P.session_id == bindparam("session_id"), _P.left_at.is_(None)).limit(1)
_OF_SESSION = select(_R.participant_id).where(_R.session_id == bindparam("session_id")).limit(bindparam("most"))
_NUMBER = select(func.count()).select_from(_OF_SESSION.subquery())
_CHANGED = (
    select(EVENTS.c.seq, EVENTS.c.session_id)
    .where(EVENTS.c.seq > bindparam("after"))
    .order_by(EVENTS.c.seq)
    .limit(bindparam("limit"))
)


# --- the source of deadlines ------------------------------------------------------------------------------------------


def next_due(view: View) -> datetime | None:
    """Return when the next person counts as having left; None if nobody is gone."""
    due: datetime | None = view.scalar(_NEXT_GONE)
    return due


def do_due(tx: Transaction, timeouts: Timeouts, limit: int, until: datetime | None = None) -> DueBatch:
    """Let the first `limit` people leave whose `gone_at` is not after `until` (None: now), in order of `gone_at`."""
    until = min(tx.now, until or tx.now)
    most = min(limit, LEAVING)
    rows = tx.execute(_GONE, {"until": until, "limit": most}).all()
    batch = DueBatch(more=len(rows) == most)
    if not rows:
        return batch
    # In any case, also if one has left already: otherwise the row would stay due for ever.
    tx.execute(delete(PRESENCE).where(_R.participant_id.in_([row.participant_id for row in rows])))
    sessions: dict[str, Session | None] = {}
    for row in rows:
        if row.session_id not in sessions:
            sessions[row.session_id] = tx.session(row.session_id)
        session, participant = sessions[row.session_id], tx.participant(row.session_id, row.participant_id)
        trigger = Trigger.LEAVE
        if session is not None and participant is not None and participant.left_at is None:
            trigger = Trigger.LEAVE if participant.waiting_since is None else Trigger.DENY
            _leave(tx, timeouts, session, participant, trigger)
        batch.done[trigger] += 1
        batch.worst_lag = max(batch.worst_lag, tx.now - row.gone_at)
    batch.waited = tx.waited
    return batch


def _leave(tx: Transaction, timeouts: Timeouts, session: Session, participant: Participant, trigger: Trigger) -> None:
    try:
        transition = transition_for(trigger, session.status)
    except WrongStatus:
        return  # the session has closed meanwhile, so everybody has left it
    # If somebody loses the connection while waiting to be admitted, the event is as if the room had reported that they
    # left.
    actor = CLOCK_ACTOR if trigger is Trigger.LEAVE else ROOM_ACTOR
    execute(tx, Named((transition,), [Requested(session, Cause(actor))], participant), timeouts)


def recompute_deadlines(tx: Transaction, timeouts: Timeouts, after: str, limit: int) -> Recomputed:  # noqa: ARG001
    """Change nothing: these deadlines do not depend on the time-outs of sessions."""
    return Recomputed(None, 0)


def warm_up(tx: Transaction, timeouts: Timeouts) -> None:  # noqa: ARG001
    """Compile the query of `do_due`."""
    tx.execute(_GONE, {"until": tx.now, "limit": 0})


# --- who is connected -------------------------------------------------------------------------------------------------


def add(tx: Transaction, presence: Presence) -> None:
    """Store that somebody is connected."""
    tx.execute(insert(PRESENCE), presence.model_dump())


def by_resume_key(view: View, session_id: str, resume_sha256: str) -> Presence | None:
    """Return the person with this resume key; None if it is unknown, expired, or of another session."""
    return view.one(Presence, _BY_KEY, session_id=session_id, resume_sha256=resume_sha256)


def reconnect(tx: Transaction, participant_id: str, daemon: str, connection: str) -> None:
    """Store that somebody is connected again, by this connection of this daemon."""
    values = {"gone_at": None, "daemon": daemon, "connection": connection}
    tx.execute(update(PRESENCE).where(_R.participant_id == participant_id).values(values))


def set_gone(tx: Transaction, lost: Mapping[str, str], gone_at: datetime) -> None:
    """Store that these connections (participant -> connection) are lost, unless newer ones have replaced them."""
    are_lost = (_R.participant_id.in_(lost), _R.connection.in_(lost.values()), _R.gone_at.is_(None))
    if tx.execute(update(PRESENCE).where(*are_lost).values(gone_at=gone_at)).rowcount:
        tx.note_due(gone_at)


def clear_gone(tx: Transaction, participants: Collection[str], daemon: str) -> None:
    """Clear `gone_at` of these people of a daemon, who are still connected."""
    tx.execute(update(PRESENCE).where(_R.participant_id.in_(participants), _R.daemon == daemon).values(gone_at=None))


def await_reconnects(tx: Transaction, daemon: str, until: datetime) -> int:
    """Set the time until which everybody who was connected to a daemon may reconnect; return how many they are."""
    people = int(tx.execute(update(PRESENCE).where(_R.daemon == daemon).values(gone_at=until)).rowcount)
    if people:
        tx.note_due(until)
    return people


def count(view: View, session_id: str, most: int) -> int:
    """Return how many people are in a daemon's room or wait to be admitted, counted up to `most`."""
    return int(view.scalar(_NUMBER, session_id=session_id, most=most))


def has_other_source(view: View, session_id: str, *, own: bool) -> bool:
    """Return whether another source already reports the people of a session.

    `own`: the caller is the daemon's own room, and the other source is a system that reports people over the API. If it
    is False, the caller is such a system, and the other source is the daemon's own room.
    """
    has_rows = view.scalar(_HAS_ROWS, session_id=session_id) is not None
    return not has_rows and view.scalar(_HAS_PEOPLE, session_id=session_id) is not None if own else has_rows


# --- what a hub reads -------------------------------------------------------------------------------------------------


class RoomState(NamedTuple):
    """A session, and the people who are in it or wait to be admitted, in the order in which they came."""

    session: Session
    people: list[Participant]
    closed_by: str = ""
    """The actor who closed the session; "" while it is open."""


class Connected(NamedTuple):
    """The connection of a person, which may be lost."""

    participant_id: str
    daemon: str
    connection: str
    gone_at: datetime | None


def changed_since(view: View, after: int, limit: int) -> tuple[set[str], int, bool]:
    """Return the sessions with events after a number, the number of the last event examined, and whether there may be
    later ones.
    """
    rows = view.rows(_CHANGED, after=after, limit=limit)
    return {row.session_id for row in rows}, rows[-1].seq if rows else after, len(rows) == limit


def rooms(view: View, sessions: Sequence[str]) -> dict[str, RoomState]:
    """Return the rooms of these sessions; a session that does not exist is missing."""
    if not sessions:
        return {}
    view.read_ahead(sessions)
    found = {session.id: RoomState(session, []) for one in sessions if (session := view.session(one)) is not None}
    ids = orjson.dumps(dict.fromkeys(found)).decode()
    for person in view.all(Participant, _present(view.dialect), ids=ids):
        found[person.session_id].people.append(person)
    closed = [one for one, room in found.items() if room.session.status is Status.CLOSED]
    for first in range(0, len(closed), CLOSED):
        ids = orjson.dumps(dict.fromkeys(closed[first : first + CLOSED])).decode()
        for row in view.rows(_closed_by(view.dialect), ids=ids):
            found[row.id] = found[row.id]._replace(closed_by=row.actor or "")
    return found


def _closed_by(dialect: str) -> Select[Any]:
    """Return the query of the actors who closed some sessions. The event of the close is a session's last one."""
    last = select(_E.actor).where(_E.session_id == _S.id).order_by(_E.seq.desc()).limit(1)
    return select(_S.id, last.scalar_subquery().label("actor")).where(look_up(dialect, "ids", _S.id).is_in)


def _present(dialect: str) -> Select[Any]:
    found = look_up(dialect, "ids", _P.session_id).is_in
    return select(PARTICIPANTS).where(found, _P.left_at.is_(None)).order_by(_P.joined_at, _P.id)


def connections(view: View, daemon: str, others: Collection[str] = ()) -> list[Connected]:
    """Return everybody who is, or was, connected to a daemon, and these other participants."""
    columns = select(_R.participant_id, _R.daemon, _R.connection, _R.gone_at)
    rows = view.rows(columns.where(_R.daemon == daemon))
    if others:
        rows += view.rows(columns.where(_R.participant_id.in_(others), _R.daemon != daemon))
    return [Connected(row.participant_id, row.daemon, row.connection, row.gone_at) for row in rows]


# --- leases -----------------------------------------------------------------------------------------------------------


def renew_lease(tx: Transaction, daemon: str, until: datetime) -> None:
    """Store the time until which a daemon counts as alive."""
    if tx.execute(update(LEASES).where(_L.daemon == daemon).values(until=until)).rowcount == 0:
        tx.execute(insert(LEASES), {"daemon": daemon, "until": until})


def end_lease(tx: Transaction, daemon: str) -> None:
    """Remove the lease of a daemon, unless somebody is connected to it, who may have entered just now."""
    connected = exists().where(_R.daemon == daemon, _R.gone_at.is_(None))
    tx.execute(delete(LEASES).where(_L.daemon == daemon, ~connected))


def lost_daemons(view: View, now: datetime) -> list[str]:
    """Return the daemons that have people, but no valid lease."""
    valid = {row.daemon for row in view.rows(select(_L.daemon).where(_L.until > now))}
    lost: list[str] = []
    # One look into the index for each daemon: a DISTINCT would read the rows of all people.
    name = view.scalar(select(func.min(_R.daemon)))
    while name is not None:
        if name not in valid:
            lost.append(name)
        name = view.scalar(select(func.min(_R.daemon)).where(_R.daemon > name))
    return lost


def expire_lease(tx: Transaction, daemon: str, gone_at: datetime) -> int | None:
    """Set `gone_at` of the people of a daemon without a valid lease; return how many they are.

    None: it has renewed its lease meanwhile.
    """
    tx.execute(delete(LEASES).where(_L.daemon == daemon, _L.until <= tx.now))
    if tx.scalar(select(_L.daemon).where(_L.daemon == daemon)) is not None:
        return None
    gone = update(PRESENCE).where(_R.daemon == daemon, _R.gone_at.is_(None)).values(gone_at=gone_at)
    number = int(tx.execute(gone).rowcount)
    tx.note_due(gone_at)
    return number
