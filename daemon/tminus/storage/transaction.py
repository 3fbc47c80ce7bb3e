"""What can be written: a change and its events, together or not at all."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache, partial
from typing import Any, NamedTuple

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Dialect,
    Table,
    bindparam,
    delete,
    false,
    func,
    insert,
    select,
    tuple_,
    update,
)  # fmt: skip
from sqlalchemy.types import TypeEngine
from sqlmodel import SQLModel

from tminus import clock
from tminus.domain import timestamps
from tminus.domain.errors import NoPinFree
from tminus.domain.events import LogEvent
from tminus.domain.lifecycle import Transition
from tminus.domain.model import AgentSession, IdempotencyRecord, Instant, JsonText, Session
from tminus.domain.types import Timeouts, Trigger
from tminus.storage import meta
from tminus.storage.allowances import Allowances
from tminus.storage.deadlines import deadline_sql
from tminus.storage.locks import LOCK_WRITER
from tminus.storage.tables import AGENT_SESSIONS, EVENTS, IDEMPOTENCY, META, PARTICIPANTS, SESSIONS
from tminus.storage.view import View

_S, _P = SESSIONS.c, PARTICIPANTS.c

_EVENT_COLUMNS = tuple(column.name for column in EVENTS.c if column.name != "seq")  # the database draws it
_AGENT_SESSION_COLUMNS = [column.name for column in AGENT_SESSIONS.c if column.name != "sid"]

AGENT_SESSIONS_KEPT = 1000
"""Agent sessions that one agent may have: the oldest ends when another begins. A script that signs in for each call
never needs an old one, and its rows must not grow with its calls.
"""

ROWS = 16
"""Rows that one statement stores on SQLite, at most."""

_TOO_MANY = (
    select(AGENT_SESSIONS.c.sid)
    .where(AGENT_SESSIONS.c.agent_id == bindparam("of_agent"))
    .order_by(AGENT_SESSIONS.c.sid.desc())
    .offset(AGENT_SESSIONS_KEPT)
    .limit(100)  # an agent that had more of them before there was a limit loses them bit by bit
)

Bind = Callable[[Sequence[SQLModel]], Any]
"""Makes what a driver takes of the rows of an insertion."""

# SQLAlchemy is asked once how a column is written: it takes about as long over such a row as the database does.


@cache
def _values(
    dialect: Dialect, table: Table, columns: tuple[str, ...], rows: int, timeouts: Timeouts | None
) -> tuple[str, Bind]:
    """An insertion of so many rows, for SQLite. One statement for several: each lets another thread have the
    interpreter, and to get it back takes longer than to store a row.
    """
    binders = [(name, table.c[name].type.dialect_impl(dialect).bind_processor(dialect)) for name in columns]

    def bind(rows: Sequence[SQLModel]) -> tuple[Any, ...]:
        found = map(vars, rows)
        return tuple([binder(row[name]) if binder else row[name] for row in found for name, binder in binders])

    row = f"({', '.join('?' * len(columns))})"
    given = f"VALUES {', '.join([row] * rows)}"
    name, listed = _quoted(dialect, table, columns)
    if timeouts is None:
        return f"INSERT INTO {name} ({listed}) {given}", bind
    selected, returned = _with_deadlines(dialect, columns, timeouts)
    return f"INSERT INTO {name} ({listed}) WITH given ({listed}) AS ({given}) {selected} FROM given {returned}", bind


@cache
def _recordset(dialect: Dialect, table: Table, columns: tuple[str, ...], timeouts: Timeouts | None) -> tuple[str, Bind]:
    """All rows as one value of one statement, for PostgreSQL: a statement a row cost more than all else together."""
    name, listed = _quoted(dialect, table, columns)
    binders = [(column, _in_json(table.c[column].type, dialect)) for column in columns]

    def value(row: dict[str, Any]) -> dict[str, Any]:
        return {column: binder(row[column]) if binder else row[column] for column, binder in binders}

    def bind(rows: Sequence[SQLModel]) -> tuple[str]:
        return (orjson.dumps([value(vars(row)) for row in rows]).decode(),)

    selected, returned = f"SELECT {listed}", "RETURNING seq" if table is EVENTS else ""
    if timeouts is not None:
        selected, returned = _with_deadlines(dialect, columns, timeouts)
    rows = f"json_populate_recordset(NULL::{name}, %s::json) AS given"
    return f"INSERT INTO {name} ({listed}) {selected} FROM {rows} {returned}", bind


def _with_deadlines(dialect: Dialect, columns: tuple[str, ...], timeouts: Timeouts) -> tuple[str, str]:
    """What selects new sessions with their deadlines, and what returns these."""
    expressions = deadline_sql(dialect, timeouts, "given")
    quote = dialect.identifier_preparer.quote
    return (
        f"SELECT {', '.join(expressions.get(name, quote(name)) for name in columns)}",
        "RETURNING id, due_at, due_trigger",
    )


def _in_json(kind: TypeEngine[Any], dialect: Dialect) -> Callable[[Any], Any] | None:
    """How a value of such a column is written in JSON, if not as it is."""
    if isinstance(kind, Instant):
        return partial(kind.process_bind_param, dialect=dialect)
    if isinstance(kind, JsonText):
        return lambda text: None if text is None else orjson.Fragment(text)
    return None


def _quoted(dialect: Dialect, table: Table, columns: tuple[str, ...]) -> tuple[str, str]:
    """The names of a table and of columns, as they stand in a statement."""
    quote = dialect.identifier_preparer.quote
    return quote(table.name), ", ".join(map(quote, columns))


@cache
def _attempts(table: Table) -> tuple[Any, ...]:
    """An insertion, a change and a removal of no rows."""
    column = next(iter(table.c))
    return (
        insert(table).from_select(list(table.c.keys()), select(table).where(false())),
        update(table).where(false()).values({column.name: column}),
        delete(table).where(false()),
    )


# Writers of several daemons draw event numbers one after the other, so that numbers become visible in the order in
# which they were drawn: a reader with a cursor would skip for ever one that appears late. What a job decides on is read
# under the same lock. New sessions alone are stored before it: nobody else can have to do with them yet.
_ONE_WRITER = LOCK_WRITER


_BELONGS: tuple[tuple[Table, ColumnElement[Any]], ...] = tuple(
    (table, list(table.primary_key)[-1])
    for table in SESSIONS.metadata.sorted_tables
    if any(key.column.table is SESSIONS for key in table.foreign_keys)
)
"""What is removed with a session, and a column by which to name a row of it."""

_closed = (
    select(_S.id, _S.closed_at)
    .where(_S.closed_at < bindparam("before", type_=_S.closed_at.type))
    .order_by(_S.closed_at)
    .limit(bindparam("candidates"))
    .subquery("closed")
)


def _number_of(table: Table, key: ColumnElement[Any]) -> ColumnElement[Any]:
    """How many rows of a table belong to a session, counted no further than `most`."""
    some = select(key).where(table.c.session_id == _closed.c.id).limit(bindparam("most")).correlate(_closed)
    return select(func.count()).select_from(some.subquery()).correlate(_closed).scalar_subquery()


_OLDEST_CLOSED = select(_closed.c.id, *(_number_of(*one) for one in _BELONGS)).order_by(_closed.c.closed_at)


class Removed(NamedTuple):
    """How many sessions a batch removed, and whether it left some that are to be removed."""

    sessions: int
    more: bool


class Transaction(View):
    """A write transaction: shared by all jobs of a batch, committed by the writer.

    New sessions, retries and events are kept back and sent together before the next statement that could miss them, at
    the latest before the commit: one round for sixteen schedules, not thirty-two.
    """

    def __init__(self, connection: Connection, now: datetime, allowances: Allowances | None = None) -> None:
        super().__init__(connection)
        self.allowances = allowances or Allowances()
        """What is remembered from transaction to transaction, so that it need not be counted in each."""
        self.now = now
        """The instant of this transaction; every change in it happened now."""
        self.earliest_due: datetime | None = None
        """The earliest deadline that this transaction set."""
        self.writes = 0
        """Grows with each write, so that the writer can tell whether a job that failed had begun to write."""
        self.transitions: Counter[str] = Counter()
        """How many transitions are in it, by trigger."""
        self.jobs = 0
        """How many jobs share it; the writer says."""
        self.has_events = False
        """Whether there are events in it, or something else that other daemons should look at."""
        self.newest_seq: int | None = None
        """The number of the newest event there is, if `has_events`; the writer sets it before the commit."""
        self.waited = 0.0
        """Seconds that it has waited for other daemons."""
        self._sessions: list[Session] = []
        self._timeouts = Timeouts()
        """Those by which the deadlines of `_sessions` are computed."""
        self.recorded: list[LogEvent] = []
        """Those of its events that were told one by one; a bulk move's are only in the database."""
        self._sent = 0
        """How many of them have been sent."""
        self._new_records: dict[tuple[int, str], IdempotencyRecord] = {}
        self._has_turn = connection.dialect.name != "postgresql"

    @property
    def dialect(self) -> str:
        """The name of the database: sqlite or postgresql."""
        return self._connection.dialect.name

    # --- sending ------------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Sends what was kept back."""
        self._send_sessions()
        records, self._new_records = self._new_records, {}
        if records:
            self._insert(IDEMPOTENCY, tuple(IdempotencyRecord.model_fields), list(records.values()))
        events = [told.event for told in self.recorded[self._sent :]]
        if events:
            self._sent += len(events)
            self._take_turn()
            drawn = self._insert(EVENTS, _EVENT_COLUMNS, events)[-1]
            # Nobody else draws numbers until this is committed: these have drawn the last ones, in their order.
            last = max(drawn.scalars()) if drawn.returns_rows else drawn.lastrowid
            for number, event in enumerate(events, last - len(events) + 1):
                event.seq = number

    def _send_sessions(self) -> None:
        """Send the sessions alone: what is read in a transaction, or changed, is never an event."""
        sessions, self._sessions = self._sessions, []
        if sessions:
            stored = {one.id: one for one in sessions}
            for result in self._insert(SESSIONS, tuple(Session.model_fields), sessions, self._timeouts):
                for row in result:
                    due = None if row.due_at is None else Instant.instant(row.due_at)
                    stored[row.id].due_at = due
                    stored[row.id].due_trigger = row.due_trigger and Trigger(row.due_trigger)
                    self.note_due(due)

    def _insert(
        self, table: Table, columns: tuple[str, ...], rows: Sequence[SQLModel], timeouts: Timeouts | None = None
    ) -> list[CursorResult[Any]]:
        """Store rows, at least one; return the results of the statements that did. `timeouts`: the rows are sessions,
        which get the deadlines that follow from these.
        """
        dialect = self._connection.dialect
        if dialect.name == "postgresql":
            statement, bind = _recordset(dialect, table, columns, timeouts)
            return [self._connection.exec_driver_sql(statement, bind(rows))]
        results = []
        for first in range(0, len(rows), ROWS):
            some = rows[first : first + ROWS]
            statement, bind = _values(dialect, table, columns, len(some), timeouts)
            results.append(self._connection.exec_driver_sql(statement, bind(some)))
        return results

    def _take_turn(self) -> None:
        """From here to the commit no other daemon reads in order to write, or draws a number."""
        if not self._has_turn:
            begun = clock.monotonic()
            self._connection.execute(_ONE_WRITER)
            self.waited = clock.monotonic() - begun
            self._has_turn = True

    def _ask(self, statement: Any, values: Any = None, *, stream: bool = False) -> Any:
        self._send_sessions()
        self._take_turn()
        return super()._ask(statement, values, stream=stream)

    def execute(self, statement: Any, values: Any = None) -> Any:
        """Runs a statement that writes, after what was kept back; returns SQLAlchemy's result."""
        self.flush()
        self.writes += 1
        return self._ask(statement, values)

    # --- sessions -----------------------------------------------------------------------------------------------------

    def add(self, session: Session, transition: Transition, timeouts: Timeouts) -> None:
        """Store a new session. Its deadline is computed when it is sent, and stands in the object then."""
        self.writes += 1
        self.transitions[transition.trigger] += 1
        if timeouts != self._timeouts:
            self._send_sessions()
            self._timeouts = timeouts
        self._sessions.append(session)

    def record(self, news: LogEvent) -> None:
        """Record an event; its number is drawn when it is sent, in the order of recording."""
        self.writes += 1
        self.has_events = True
        self.recorded.append(news)

    def recorded_already(self, news: Sequence[LogEvent]) -> None:
        """These events were recorded by a statement that has just run."""
        assert self._sent == len(self.recorded), "all that came before them is sent before a statement runs"
        self.recorded += news
        self._sent = len(self.recorded)

    def note_due(self, due: datetime | None) -> None:
        """A deadline has been stored."""
        if due is not None and (self.earliest_due is None or due < self.earliest_due):
            self.earliest_due = due

    # --- PINs ---------------------------------------------------------------------------------------------------------

    def free_pin(self) -> int:
        """A PIN that no open session has. Raises `NoPinFree` when there is none."""
        pins = self.free_pins(1)
        if not pins:
            raise NoPinFree
        return pins[0]

    def free_pins(self, count: int) -> list[int]:
        """So many different PINs that no open session has; fewer only when there are no more."""
        return self.allowances.pins.draw(self._ask, count)

    def may_open_another(self, agent_id: int, limit: int) -> bool:
        """Whether an agent has fewer than `limit` open sessions, for one that is about to be made."""
        return self.allowances.quotas.take(agent_id, limit, partial(self.open_sessions_of, agent_id, limit))

    # --- callers ------------------------------------------------------------------------------------------------------

    def add_agent_session(self, begun: AgentSession) -> int:
        """Stores an agent session, and ends the agent's oldest one if it has too many; returns the new one's `sid`."""
        values = {column: getattr(begun, column) for column in _AGENT_SESSION_COLUMNS}
        sid = int(self.execute(insert(AGENT_SESSIONS).returning(AGENT_SESSIONS.c.sid), values).scalar_one())
        # In two steps: in one, PostgreSQL prefers to read the whole table.
        oldest = self._ask(_TOO_MANY, {"of_agent": begun.agent_id}).scalars().all()
        if oldest:
            self.execute(delete(AGENT_SESSIONS).where(AGENT_SESSIONS.c.sid.in_(oldest)))
        return sid

    def end_agent_session(self, secret_sha256: str) -> None:
        self.execute(delete(AGENT_SESSIONS).where(AGENT_SESSIONS.c.secret_sha256 == secret_sha256))

    def idempotency_record(self, agent_id: int, key: str) -> IdempotencyRecord | None:
        return self._new_records.get((agent_id, key)) or super().idempotency_record(agent_id, key)

    def add_idempotency_record(self, record: IdempotencyRecord) -> None:
        self.writes += 1
        self._new_records[record.agent_id, record.key] = record

    def remove_idempotency_record(self, agent_id: int, key: str) -> None:
        self.execute(delete(IDEMPOTENCY).where(IDEMPOTENCY.c.agent_id == agent_id, IDEMPOTENCY.c.key == key))

    # --- housekeeping -------------------------------------------------------------------------------------------------

    def set_meta(self, key: str, value: str) -> None:
        if self.execute(update(META).where(META.c.key == key).values(value=value)).rowcount == 0:
            self.execute(insert(META), {"key": key, "value": value})

    def remove_meta(self, key: str) -> None:
        self.execute(delete(META).where(META.c.key == key))

    def try_to_write(self) -> None:
        """Find out whether writing works: write one row, and what needs the same rights and locks as all other writes
        but changes nothing. A table that cannot be written must not look well because another one can.
        """
        for table in SQLModel.metadata.sorted_tables:
            for statement in _attempts(table):
                self._ask(statement)
        self.set_meta(meta.WRITE_TEST, timestamps.text(self.now))

    def remove_closed(self, before: datetime, rows: int) -> Removed:
        """Removes the sessions that were closed first, of those closed before then, with all that belongs to them: as
        many as have about `rows` rows together. Of one that has more rows alone, it removes so many of them.
        """
        values = {"before": before, "candidates": max(1, rows // 2), "most": rows}
        ids: list[str] = []
        left = rows
        for session_id, *belong in self._ask(_OLDEST_CLOSED, values).all():
            size = 1 + sum(belong)
            if size > left and ids:
                return Removed(self._remove(ids), more=True)
            if size > rows:
                return self._remove_part(session_id, rows)
            ids.append(session_id)
            left -= size
        return Removed(self._remove(ids), more=len(ids) == values["candidates"])

    def _remove(self, ids: list[str]) -> int:
        return int(self.execute(delete(SESSIONS).where(_S.id.in_(ids))).rowcount) if ids else 0

    def _remove_part(self, session_id: str, rows: int) -> Removed:
        """Removes the first rows of what belongs to a session. Its last event stays: it must agree with the session."""
        for table, key in _BELONGS:
            first = select(key).where(table.c.session_id == session_id).order_by(key).limit(rows)
            if table is EVENTS:
                last = select(func.max(EVENTS.c.seq)).where(EVENTS.c.session_id == session_id).scalar_subquery()
                first = first.where(key < last)
            removed = self.execute(delete(table).where(table.c.session_id == session_id, key.in_(first))).rowcount
            if removed:
                return Removed(0, more=True)
        return Removed(self._remove([session_id]), more=True)

    def remove_agent_sessions(self, before: datetime, limit: int) -> int:
        """Forgets agent sessions that expired before then; returns how many."""
        table = AGENT_SESSIONS.c
        some = select(table.sid).where(table.expires_at < before).order_by(table.expires_at).limit(limit)
        return int(self.execute(delete(AGENT_SESSIONS).where(table.sid.in_(some))).rowcount)

    def remove_idempotency_records(self, before: datetime, limit: int) -> int:
        """Forgets retries made before then, which nobody will send again; returns how many."""
        table = IDEMPOTENCY.c
        some = (
            select(table.agent_id, table.key).where(table.created_at < before).order_by(table.created_at).limit(limit)
        )
        return int(self.execute(delete(IDEMPOTENCY).where(tuple_(table.agent_id, table.key).in_(some))).rowcount)
