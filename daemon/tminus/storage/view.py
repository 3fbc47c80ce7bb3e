"""Queries. Frequent statements are built once, because building one costs more than running it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, TypeVar

import orjson
from sqlalchemy import Boolean, ColumnElement, Connection, Integer, Row, Select, bindparam, case, func, select
from sqlmodel import SQLModel

from tminus.domain.events import FeedEvent, LogEvent
from tminus.domain.model import AgentSession, BatchRecord, Event, IdempotencyRecord, Participant, Session
from tminus.domain.types import OPEN_STATUSES, BatchKind, EventType, SessionType, Status, host_actor
from tminus.storage.json_rows import look_up
from tminus.storage.listing import SessionFilter, listing
from tminus.storage.tables import (
    AGENT_SESSIONS,
    BATCH_RECORDS,
    BATCHES,
    EVENTS,
    IDEMPOTENCY,
    META,
    PARTICIPANTS,
    SESSIONS,
    SIGNIN_CODES,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """The events to read. None: no such condition."""

    types: frozenset[EventType] | None = None
    session_types: frozenset[SessionType] | None = None
    session_id: str | None = None
    agent_id: int | None = None
    until: int | None = None
    """The highest event number."""
    invited: bool | None = None
    """Whether the session has invitees."""


EVERY_EVENT = EventFilter()

PAGE_BYTES = 2 * 1024 * 1024
"""Maximum size of a page in bytes of JSON, in addition to its limit of rows: the size of 1,000 ordinary sessions or
events, or of a hundred of the largest ones.
"""

ROW_BYTES = 1000
"""The estimated size of a row in JSON without its texts: names, numbers, times."""

STREAMED = 100
"""Rows that are fetched at a time, so that a large result is never in memory as a whole."""

SEARCHED = 500
"""Number of sessions whose texts a search has in memory at a time: at most 2 MB, because a record has at most 4 KiB."""

WINDOW = 5000
"""Maximum number of events that a filter without an index examines in one query. This takes a few milliseconds, however
rare a match is. A search examines the same number of sessions, which takes a tenth of a second.
"""


class Page(NamedTuple):
    """Matching events, and the event number up to which no other event matches."""

    events: list[FeedEvent]
    through: int
    more: bool = False
    """Whether there are events after `through` that were not examined."""
    full: bool = False
    """Whether the page has reached its limit of events or of bytes."""


M = TypeVar("M", bound=SQLModel)

_S, _E, _P = SESSIONS.c, EVENTS.c, PARTICIPANTS.c

_SESSION_COLUMNS, _EVENT_COLUMNS = SESSIONS.c.keys(), EVENTS.c.keys()

SESSION = select(SESSIONS).where(_S.id == bindparam("id"))
_OPEN_BY_PIN = select(SESSIONS).where(_S.pin == bindparam("pin"), _S.pin != 0)
_PARTICIPANT = select(PARTICIPANTS).where(_P.session_id == bindparam("session_id"), _P.id == bindparam("id"))
_AGENT_SESSION = select(AGENT_SESSIONS).where(AGENT_SESSIONS.c.secret_sha256 == bindparam("secret_sha256"))
_SIGNIN_CODES = (
    select(func.count()).select_from(SIGNIN_CODES).where(SIGNIN_CODES.c.code_sha256 == bindparam("code_sha256"))
)
_IDEMPOTENCY_RECORD = select(IDEMPOTENCY).where(
    IDEMPOTENCY.c.agent_id == bindparam("agent_id"), IDEMPOTENCY.c.key == bindparam("key")
)
_BATCH_RECORD = select(BATCH_RECORDS).where(
    BATCH_RECORDS.c.agent_id == bindparam("agent_id"), BATCH_RECORDS.c.key == bindparam("key")
)
_META = select(META.c.value).where(META.c.key == bindparam("key"))
_METAS = select(META.c.key, META.c.value).where(META.c.key.startswith(bindparam("prefix"), autoescape=False))
_NEXT_DUE = select(func.min(_S.due_at, type_=_S.due_at.type)).where(_S.due_at.is_not(None))
_DUE = select(_S.id).where(_S.due_at <= bindparam("now", type_=_S.due_at.type)).limit(bindparam("at_most"))
_BACKLOG = select(func.count()).select_from(_DUE.subquery())
_COUNTS = select(_S.status, func.count()).where(_S.status.in_(OPEN_STATUSES)).group_by(_S.status)
_LAST_SEQ = select(func.coalesce(func.max(_E.seq), 0))
_WINDOW_END = (
    select(_E.seq)
    .where(_E.seq > bindparam("after"))
    .order_by(_E.seq)
    .limit(1)
    .offset(bindparam("passed", type_=Integer))
)
_HOSTS = PARTICIPANTS.alias("host")
# NULL for other actors: then the databases look for no participant.
_HOST_ID = case((_E.actor.like(f"{host_actor('')}%"), func.substr(_E.actor, len(host_actor("")) + 1)))
_PAGE = (
    select(
        EVENTS,
        _P.id.label("p_id"), _P.role.label("p_role"), _P.name.label("p_name"), _P.joined_at.label("p_joined_at"),
        _HOSTS.c.name.label("host"),
    )
    .select_from(
        EVENTS.join(SESSIONS, _S.id == _E.session_id)
        .outerjoin(PARTICIPANTS, _P.id == _E.participant_id)
        .outerjoin(_HOSTS, _HOSTS.c.id == _HOST_ID)
    )
    .where(_E.seq > bindparam("after"))
    .order_by(_E.seq)
    .limit(bindparam("limit"))
)  # fmt: skip
_CONDITIONS = {
    "types": _E.type.in_(bindparam("types", expanding=True)),
    "session_types": _S.type.in_(bindparam("session_types", expanding=True)),
    "session_id": _E.session_id == bindparam("session_id"),
    # The sum keeps databases from beginning with all sessions of the agent: the window bounds only the events.
    "agent_id": _S.agent_id + 0 == bindparam("agent_id"),
    "until": _E.seq <= bindparam("until"),
    "invited": _S.invitees.is_not(None) == bindparam("invited", type_=Boolean),
}
"""Field of an `EventFilter` -> its condition."""


class WindowEnd(NamedTuple):
    """The last event number that a query examines, and whether there is no later one to examine."""

    seq: int
    is_last: bool


class _LoggedSession(NamedTuple):
    """The fields of a session that a log line needs."""

    label: str
    type: SessionType
    agent_id: int
    user_description: str
    parent_object: str | None
    external_mapping: str | None


class Active(NamedTuple):
    """An active session, as `/discovery` lists it."""

    id: str
    type: SessionType
    agent_id: int


class _EventSession(NamedTuple):
    """The fields of a session that an event contains. Reading whole sessions took most of the time of a page."""

    label: str
    type: SessionType
    user_description: str
    agent_id: int
    organization_id: int
    created_by: str
    settings: str
    external_mapping: str | None
    parent_object: str | None
    activated_at: datetime | None


_LOG_EVENTS = _PAGE.add_columns(*(_S[name].label(f"s_{name}") for name in _LoggedSession._fields))
_FEED_EVENTS = _PAGE.add_columns(*(_S[name].label(f"s_{name}") for name in _EventSession._fields))
_SESSIONS_OF = select(SESSIONS).where(_S.id.in_(bindparam("ids", expanding=True)))
_TEXTS_OF = select(_S.id, _S.label, _S.external_mapping, _S.parent_object).where(
    _S.id.in_(bindparam("ids", expanding=True))
)
_ACTIVE_AMONG = select(_S.id, _S.type, _S.agent_id).where(
    _S.id.in_(bindparam("ids", expanding=True)), _S.status == Status.ACTIVE
)


class View:
    """A snapshot of the database, and the queries on it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._read_ahead: dict[str, Session] = {}
        """Sessions that were read by `read_ahead`."""

    @property
    def dialect(self) -> str:
        """The name of the database: sqlite or postgresql."""
        return self._connection.dialect.name

    def _run(self, statement: Any, values: Any = None, *, stream: bool = False) -> Any:
        options = {"stream_results": True, "max_row_buffer": STREAMED} if stream else None
        return self._connection.execute(statement, values, execution_options=options)

    def one(self, kind: type[M], statement: Select[Any], **values: Any) -> M | None:
        """Return the only row of a statement as a model object; None if there is none."""
        result = self._run(statement, values)
        names = tuple(result.keys())
        row = result.one_or_none()
        return None if row is None else kind.model_validate(dict(zip(names, row, strict=True)))

    def all(self, kind: type[M], statement: Select[Any], **values: Any) -> list[M]:
        """Return all rows of a statement as model objects."""
        result = self._run(statement, values)
        names = tuple(result.keys())
        # `mappings()` would look each value up by its name.
        return [kind.model_validate(dict(zip(names, row, strict=True))) for row in result]

    def rows(self, statement: Select[Any], **values: Any) -> list[Row[Any]]:
        """Return all rows of a statement."""
        return list(self._run(statement, values))

    def scalar(self, statement: Select[Any], **values: Any) -> Any:
        """Return the first value of the first row; None if there is no row."""
        return self._run(statement, values).scalar()

    def read_ahead(self, ids: Collection[str]) -> None:
        """Read these sessions by one statement, since `session` will be called for each of them."""
        self._read_ahead = self.sessions_with(ids)

    def sessions_with(self, ids: Collection[str]) -> dict[str, Session]:
        """Return those of these sessions that exist, by id."""
        wanted = orjson.dumps(dict.fromkeys(ids)).decode()
        return {one.id: one for one in self.all(Session, _sessions_in(self._connection.dialect.name), ids=wanted)}

    def session(self, session_id: str) -> Session | None:
        """Return a session; None if there is none with this id."""
        return self._read_ahead.get(session_id) or self.one(Session, SESSION, id=session_id)

    def open_session_by_pin(self, pin: int) -> Session | None:
        """Return the open session with this PIN; None for 0, which means that a session has none."""
        return self.one(Session, _OPEN_BY_PIN, pin=pin)

    def rows_within(
        self, statement: Any, values: Any, limit: int, max_bytes: int | None
    ) -> tuple[list[Row[Any]], bool]:
        """Return the first rows of a statement, as many as have at most `max_bytes` in JSON, but at least one.

        Also returns whether the statement has more rows. These are not fetched. `limit`: the statement's own limit of
        rows. `max_bytes`: None for no limit.
        """
        result = self._run(statement, values, stream=max_bytes is not None and limit > STREAMED)
        rows: list[Row[Any]] = []
        bytes_left = max_bytes
        for row in result:
            if bytes_left is not None:
                bytes_left -= _bytes(row)
                if bytes_left < 0 and rows:
                    result.close()
                    return rows, True
            rows.append(row)
        return rows, False

    def sessions(self, wanted: SessionFilter, max_bytes: int = PAGE_BYTES) -> tuple[int, list[Session]]:
        """Return the number of all matching sessions, and one page of them with at most `max_bytes`."""
        statements = listing(wanted)
        ids = self._run(statements.page, statements.values).scalars().all()
        rows = self._sessions_by_id(ids, max_bytes)
        if len(ids) < wanted.limit and (ids or not wanted.offset):
            return wanted.offset + len(ids), rows  # the last page determines the number without a count
        return int(self.scalar(statements.number, **statements.values)), rows

    def matching(self, wanted: SessionFilter) -> list[str]:
        """Return the ids of one page of the matching sessions, in order."""
        statements = listing(wanted)
        return list(self._run(statements.page, statements.values).scalars())

    def search(
        self, wanted: SessionFilter, words: str, max_bytes: int = PAGE_BYTES
    ) -> tuple[list[Session], int | None]:
        """Return the sessions of a list whose label or record contains a text, and the offset of the next call.

        The offset is None at the end.

        No index contains parts of words, so a call examines at most `WINDOW` sessions of the list. `offset` counts all
        of them, whether they match or not. The text is compared here, because the databases treat upper and lower case
        beyond ASCII differently.
        """
        statements = listing(wanted._replace(limit=WINDOW))
        ids = self._run(statements.page, statements.values).scalars().all()
        positions = self._positions_with(words.casefold(), ids, wanted.limit)
        rows = self._sessions_by_id([ids[position] for position in positions], max_bytes)
        is_full = len(positions) == wanted.limit or len(rows) < len(positions)
        end = positions[len(rows) - 1] + 1 if is_full else len(ids)
        return rows, None if end == len(ids) < WINDOW else wanted.offset + end

    def _positions_with(self, words: str, ids: Sequence[str], limit: int) -> list[int]:
        """Return the positions in a list of ids of the first `limit` sessions whose texts contain these words."""
        positions: list[int] = []
        for first in range(0, len(ids), SEARCHED):
            some = ids[first : first + SEARCHED]
            texts = {session_id: row for session_id, *row in self._run(_TEXTS_OF, {"ids": list(some)})}
            for position, session_id in enumerate(some, first):
                label, mapping, parent = texts[session_id]
                if any(words in text.casefold() for text in (label, mapping, _name(parent)) if text):
                    positions.append(position)
                    if len(positions) == limit:
                        return positions
        return positions

    def _sessions_by_id(self, ids: Sequence[str], max_bytes: int) -> list[Session]:
        """Return sessions in the order of their ids in the list: at most `max_bytes`, but at least one session."""
        rows: list[Session] = []
        bytes_left = max_bytes
        for first in range(0, len(ids), STREAMED):
            some = ids[first : first + STREAMED]
            found = {row.id: row for row in self._run(_SESSIONS_OF, {"ids": list(some)})}
            for session_id in some:
                row = found[session_id]
                bytes_left -= _bytes(row)
                if bytes_left < 0 and rows:
                    return rows
                # Plain dictionaries: pydantic reads a row's own mapping field by field, which is slower.
                rows.append(Session.model_validate(dict(zip(_SESSION_COLUMNS, row, strict=True))))
        return rows

    def active_among(self, ids: Sequence[str]) -> list[Active]:
        """Return which of these sessions are active."""
        rows = self._run(_ACTIVE_AMONG, {"ids": list(ids)})
        return [Active(row.id, SessionType(row.type), row.agent_id) for row in rows]

    def open_sessions_of(self, agent_id: int, at_most: int) -> int:
        """Return the number of an agent's open sessions, counted up to `at_most`, plus those that batches create."""
        some = select(_S.id).where(_S.agent_id == agent_id, _S.status.in_(OPEN_STATUSES)).limit(at_most).subquery()
        coming = select(func.coalesce(func.sum(BATCHES.c.remaining), 0)).where(
            BATCHES.c.agent_id == agent_id, BATCHES.c.kind == BatchKind.CREATE.value
        )
        return int(self.scalar(select(func.count()).select_from(some))) + int(self.scalar(coming))

    def participant(self, session_id: str, participant_id: str) -> Participant | None:
        return self.one(Participant, _PARTICIPANT, session_id=session_id, id=participant_id)

    def participants_ever(self, session_id: str, at_most: int) -> int:
        """Return how many participants a session has had, including those who knocked, counted up to `at_most`."""
        some = select(_P.id).where(_P.session_id == session_id).limit(at_most).subquery()
        return int(self.scalar(select(func.count()).select_from(some)))

    def agent_session(self, secret_sha256: str) -> AgentSession | None:
        return self.one(AgentSession, _AGENT_SESSION, secret_sha256=secret_sha256)

    def has_signin_code(self, code_sha256: str) -> bool:
        """Return whether a sign-in code is stored; it may have expired."""
        return bool(self.scalar(_SIGNIN_CODES, code_sha256=code_sha256))

    def idempotency_record(self, agent_id: int, key: str) -> IdempotencyRecord | None:
        return self.one(IdempotencyRecord, _IDEMPOTENCY_RECORD, agent_id=agent_id, key=key)

    def batch_record(self, agent_id: int, key: str) -> BatchRecord | None:
        return self.one(BatchRecord, _BATCH_RECORD, agent_id=agent_id, key=key)

    def events(self, after: int, limit: int, only: EventFilter = EVERY_EVENT) -> list[FeedEvent]:
        """Return the events after a number, in order."""
        return self._events(after, limit, only, None)[0]

    def _events(self, after: int, limit: int, only: EventFilter, max_bytes: int | None) -> tuple[list[FeedEvent], bool]:
        """Return the first `limit` events, or fewer with at most `max_bytes`, and whether bytes were the reason."""
        values = parameters_of(only)
        statement = _feed_events(tuple(values))
        rows, cut = self.rows_within(statement, {"after": after, "limit": limit, **values}, limit, max_bytes)
        events = [
            FeedEvent(
                _event(row),
                _EventSession._make(row[-len(_EventSession._fields) :]),
                row.p_id and _participant(row),
                row.host,
            )
            for row in rows
        ]
        return events, cut

    def page(self, after: int, limit: int, only: EventFilter = EVERY_EVENT, max_bytes: int = PAGE_BYTES) -> Page:
        """Return the next matching events after a number.

        If no index finds them, at most `WINDOW` events are examined, and the caller continues from `Page.through`. A
        page has at most `max_bytes`.
        """
        if only.session_id is None and (
            only.types or only.session_types or only.agent_id is not None or only.invited is not None
        ):
            end = self.window_end(after, only.until)
        else:  # all events match, or an index finds those that do
            newest = self.last_seq()
            end = WindowEnd(newest if only.until is None else min(only.until, newest), True)
        events, cut = self._events(after, limit, replace(only, until=end.seq), max_bytes)
        if cut or len(events) == limit:
            return Page(events, events[-1].event.seq, more=True, full=True)
        return Page(events, max(after, end.seq), more=not end.is_last)

    def window_end(self, after: int, until: int | None = None) -> WindowEnd:
        """Return where a query after a number ends: `WINDOW` events later, at `until`, or at the newest event."""
        newest = self.last_seq()
        last = newest if until is None else min(until, newest)
        end = self.scalar(_WINDOW_END, after=after, passed=WINDOW - 1)
        return WindowEnd(last, True) if end is None or end >= last else WindowEnd(end, False)

    def log_events(self, after: int, limit: int) -> list[LogEvent]:
        """Return the events after a number, in order, with the fields that the log needs."""
        return [
            LogEvent(
                _event(row),
                _LoggedSession._make(row[-len(_LoggedSession._fields) :]),
                row.p_id and _participant(row),
                row.host,
            )
            for row in self._run(_LOG_EVENTS, {"after": after, "limit": limit})
        ]

    def last_seq(self) -> int:
        """Return the number of the newest event; 0 if there is none."""
        return int(self.scalar(_LAST_SEQ))

    def next_due(self) -> datetime | None:
        """Return the earliest deadline of all sessions; None if there is none."""
        due: datetime | None = self.scalar(_NEXT_DUE)
        return due

    def backlog(self, now: datetime, at_most: int) -> int:
        """Return the number of sessions that are due, counted up to `at_most`."""
        return int(self.scalar(_BACKLOG, now=now, at_most=at_most))

    def counts(self) -> dict[Status, int]:
        """Return the number of open sessions per status."""
        found = {row[0]: row[1] for row in self._run(_COUNTS)}
        return {status: found.get(status, 0) for status in OPEN_STATUSES}

    def meta(self, key: str) -> str | None:
        """Return the value of a key of the table `meta`; None if it has none. `meta` has the keys."""
        value: str | None = self.scalar(_META, key=key)
        return value

    def metas(self, prefix: str) -> dict[str, str]:
        """Return the keys that begin with a prefix, and their values."""
        return {row.key: row.value for row in self._run(_METAS, {"prefix": prefix})}


def _bytes(row: Row[Any]) -> int:
    """Return the estimated size of a row in JSON."""
    texts = [value for value in row if isinstance(value, str)]
    return ROW_BYTES + sum(len(text) if text.isascii() else len(text.encode(errors="surrogatepass")) for text in texts)


def parameters_of(only: EventFilter) -> dict[str, Any]:
    """Return the parameters of a statement for the fields of a filter that are set."""
    values = {name: getattr(only, name) for name in _CONDITIONS}
    return {
        name: list(value) if isinstance(value, frozenset) else value
        for name, value in values.items()
        if value is not None
    }


def conditions(names: tuple[str, ...]) -> list[ColumnElement[bool]]:
    """Return the conditions for these fields of a filter."""
    return [_CONDITIONS[name] for name in names]


@cache
def _sessions_in(dialect: str) -> Select[Any]:
    """Select the sessions whose ids are the keys of the JSON object `ids`."""
    return select(SESSIONS).where(look_up(dialect, "ids", _S.id).is_in)


@cache
def _feed_events(names: tuple[str, ...]) -> Select[Any]:
    return _FEED_EVENTS.where(*conditions(names))


def _event(row: Row[Any]) -> Event:
    return Event.model_validate(dict(zip(_EVENT_COLUMNS, row, strict=False)))  # an event's columns come first


def _participant(row: Row[Any]) -> Participant:
    return Participant(
        id=row.p_id, session_id=row.session_id, role=row.p_role, name=row.p_name, joined_at=row.p_joined_at
    )


def _name(parent: str | None) -> str | None:
    """Return the name of a session's parent object."""
    name = orjson.loads(parent).get("name") if parent else None
    return name if isinstance(name, str) else None
