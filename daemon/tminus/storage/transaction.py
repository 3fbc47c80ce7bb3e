"""The write transaction: changes and their events are stored together or not at all."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import cache, partial
from itertools import chain
from typing import Any

import orjson
from sqlalchemy import Connection, Table, bindparam, delete, false, insert, select, update  # fmt: skip
from sqlmodel import SQLModel

from tminus import clock
from tminus.domain import timestamps
from tminus.domain.errors import NoPinFree, WrongStatus
from tminus.domain.events import LogEvent
from tminus.domain.lifecycle import Transition
from tminus.domain.model import AgentSession, BatchRecord, IdempotencyRecord, Instant, Session, SignInCode
from tminus.domain.types import ReminderOutcome, Timeouts, Trigger
from tminus.storage import meta, transitions
from tminus.storage.allowances import Allowances
from tminus.storage.inserts import Values, insert_rows, insert_values
from tminus.storage.locks import LOCK_WRITER
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
from tminus.storage.transitions import Named, Requested
from tminus.storage.view import SESSION, View

_S, _P = SESSIONS.c, PARTICIPANTS.c

EVENT_COLUMNS = tuple(column.name for column in EVENTS.c if column.name != "seq")  # the database assigns it
_AGENT_SESSION_COLUMNS = [column.name for column in AGENT_SESSIONS.c if column.name != "sid"]

_RESERVED_PINS = select(BATCHES.c.pins).where(BATCHES.c.pins.is_not(None))

AGENT_SESSIONS_KEPT = 1000
"""Maximum number of agent sessions of an agent. When another one begins, the oldest ends. A script that signs in for
each call never uses an old one, and must not fill the table.
"""

_EXCESS_AGENT_SESSIONS = (
    select(AGENT_SESSIONS.c.sid)
    .where(AGENT_SESSIONS.c.agent_id == bindparam("of_agent"))
    .order_by(AGENT_SESSIONS.c.sid.desc())
    .offset(AGENT_SESSIONS_KEPT)
    .limit(100)  # an agent that has more, from before there was a limit, loses some with each new one
)

CODES_KEPT = 20
"""Maximum number of sign-in codes of an agent. When another one is stored, the one that expires first is removed."""

_EXCESS_CODES = (
    select(SIGNIN_CODES.c.code_sha256)
    .where(SIGNIN_CODES.c.agent_id == bindparam("of_agent"))
    .order_by(SIGNIN_CODES.c.expires_at.desc())
    .offset(CODES_KEPT)
    .limit(100)
)


@cache
def _no_op_writes(table: Table) -> tuple[Any, ...]:
    """Return an INSERT, an UPDATE and a DELETE of no rows."""
    column = next(iter(table.c))
    return (
        insert(table).from_select(list(table.c.keys()), select(table).where(false())),
        update(table).where(false()).values({column.name: column}),
        delete(table).where(false()),
    )


class Transaction(View):
    """A write transaction, shared by all jobs of a batch and committed by the writer.

    New sessions, idempotency records, events and requested transitions are collected. They are written together before
    the next statement that could depend on them, or before the commit. So sixteen jobs take only a few statements.
    """

    def __init__(self, connection: Connection, now: datetime, allowances: Allowances | None = None) -> None:
        super().__init__(connection)
        self.allowances = allowances or Allowances()
        """What the writer keeps in memory between transactions."""
        self.now = now
        """The time of this transaction, and of every change in it."""
        self.earliest_due: datetime | None = None
        """The earliest deadline that this transaction has set."""
        self.writes = 0
        """Number of writes, by which the writer detects whether a failed job had begun to write."""
        self.transitions: Counter[str] = Counter()
        """Trigger -> the number of its transitions."""
        self.reminders: Counter[ReminderOutcome] = Counter()
        """Outcome -> the number of reminders that were due."""
        self.jobs = 0
        """The number of jobs that share this transaction; the writer sets it."""
        self.has_events = False
        """Whether this transaction has events, or another change that all daemons on this database have to read."""
        self.has_bulk_events = False
        """Whether some of the events are not in `recorded`."""
        self.newest_seq: int | None = None
        """The number of the newest event, if `has_events`; the writer sets it before the commit."""
        self.loaded: Session | None = None
        """The session that `session` returned first in this job, for the log line of a refused request."""
        self.waited = 0.0
        """Seconds that this transaction has waited for those of other daemons."""
        self._requested: dict[tuple[Transition, Timeouts], dict[str, Requested]] = {}
        """(transition, time-outs) -> session id -> a requested transition that is not executed yet."""
        self._sessions: list[Session] = []
        self._timeouts = Timeouts()
        """The time-outs from which the deadlines of `_sessions` follow."""
        self.recorded: list[LogEvent] = []
        """The events, without those of bulk transitions, which are only in the database."""
        self._inserted = 0
        """How many of the events in `recorded` have been inserted."""
        self._new_records: dict[tuple[int, str], IdempotencyRecord] = {}
        self._has_writer_lock = connection.dialect.name != "postgresql"

    # --- inserting ----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what was collected.

        Raises `WrongStatus` if a session has changed since its transition was requested.
        """
        self._insert_sessions()
        records, self._new_records = self._new_records, {}
        if records:
            insert_rows(self._connection, IDEMPOTENCY, tuple(IdempotencyRecord.model_fields), list(records.values()))
        events = [recorded.event for recorded in self.recorded[self._inserted :]]
        if events:
            self._inserted += len(events)
            self._lock_writers()
            inserted = insert_rows(self._connection, EVENTS, EVENT_COLUMNS, events)
            # Under the writer's lock no other transaction takes numbers: these events have the last ones, in order.
            last = max(seq for (seq,) in inserted.rows) if inserted.rows else inserted.last_row
            for number, event in enumerate(events, last - len(events) + 1):
                vars(event)["seq"] = number  # assignment through pydantic takes as long as inserting the row
        while self._requested:
            (transition, timeouts), requested = self._requested.popitem()
            writes = self.writes  # `request` has counted these writes, so those of the executor do not count
            moved = transitions.execute(self, Named((transition,), list(requested.values())), timeouts)
            if len(moved) < len(requested):
                # Another job may have caused this flush, and gets the error. As `writes` has changed, each job runs
                # again, alone.
                not_moved = requested.keys() - {session.id for session in moved}
                present = self.session(not_moved.pop())
                raise WrongStatus(trigger=transition.trigger.value, status=present.status if present else "removed")
            self.writes = writes

    def _insert_sessions(self) -> None:
        """Insert the collected sessions, not the events, since no statement of this transaction reads those."""
        sessions, self._sessions = self._sessions, []
        if sessions:
            stored = {one.id: one for one in sessions}
            columns = tuple(Session.model_fields)
            inserted = insert_rows(self._connection, SESSIONS, columns, sessions, self._timeouts)
            for session_id, number, trigger in inserted.rows:
                due = None if number is None else Instant.instant(number)
                vars(stored[session_id]).update(due_at=due, due_trigger=trigger and Trigger(trigger))
                self.note_due(due)
                self.note_due(stored[session_id].remind_at)

    def _lock_writers(self) -> None:
        """Lock out the writers of other daemons until the commit.

        Event numbers must become visible in order, because a reader with a cursor would miss a late one. Jobs read
        under the same lock what their decisions depend on. Only new sessions are inserted before it, because no other
        transaction can depend on them yet.
        """
        if not self._has_writer_lock:
            begun = clock.monotonic()
            self._connection.execute(LOCK_WRITER)
            self.waited = clock.monotonic() - begun
            self._has_writer_lock = True

    def _run(self, statement: Any, values: Any = None, *, stream: bool = False) -> Any:
        if self._requested:
            self.flush()
        self._insert_sessions()
        self._lock_writers()
        return super()._run(statement, values, stream=stream)

    def execute(self, statement: Any, values: Any = None) -> Any:
        """Run a statement that writes, after inserting what was collected; return SQLAlchemy's result."""
        self.flush()
        self.writes += 1
        self._read_ahead.clear()  # the statement may change these sessions
        return self._run(statement, values)

    # --- sessions -----------------------------------------------------------------------------------------------------

    def session(self, session_id: str) -> Session | None:
        """Return a session; None if there is none with this id. Each call returns an object of its own."""
        if any(session_id in requested for requested in self._requested.values()):
            self.flush()
        found = self._read_ahead.pop(session_id, None) or self.one(Session, SESSION, id=session_id)
        self.loaded = self.loaded or found
        return found

    def request(self, transition: Transition, requested: Requested, timeouts: Timeouts) -> None:
        """Request a transition. The next `flush` executes it and updates the session object."""
        self.writes += 1
        self.has_events = True
        self._requested.setdefault((transition, timeouts), {})[requested.session.id] = requested

    def add(self, session: Session, transition: Transition, timeouts: Timeouts) -> None:
        """Add a new session. Its deadline is computed when it is inserted, and is then set in the object."""
        self.writes += 1
        self.transitions[transition.trigger] += 1
        if timeouts != self._timeouts:
            self._insert_sessions()
            self._timeouts = timeouts
        self._sessions.append(session)

    def add_rows(
        self,
        triggers: Sequence[Trigger],
        sessions: Sequence[Values],
        events: Sequence[Values],
        timeouts: Timeouts,
    ) -> None:
        """Add the rows of new sessions, in the order of the model's fields, and of their events.

        `triggers`: the trigger that creates each session.

        The event log reads these events from the database afterwards, as those of bulk transitions.
        """
        self.flush()
        self.writes += 1
        self.has_events = self.has_bulk_events = True
        self.transitions.update(triggers)
        columns = tuple(Session.model_fields)
        insert_values(self._connection, SESSIONS, columns, sessions, timeouts, returning=False)
        remind = columns.index("remind_at")
        if reminders := [row[remind] for row in sessions if row[remind] is not None]:
            self.note_due(Instant.instant(min(reminders)))
        self.note_due(self.next_due())  # of all sessions: a deadline that others know already does no harm
        self._lock_writers()
        insert_values(self._connection, EVENTS, EVENT_COLUMNS, events)

    def record(self, event: LogEvent) -> None:
        """Add an event. It gets its number when it is inserted, in the order of these calls."""
        self.writes += 1
        self.has_events = True
        self.recorded.append(event)

    def add_inserted_events(self, events: Sequence[LogEvent]) -> None:
        """Add events that a statement of the executor has inserted."""
        assert self._inserted == len(self.recorded), "a statement runs after all earlier events were inserted"
        self.recorded += events
        self._inserted = len(self.recorded)

    def note_due(self, due: datetime | None) -> None:
        """Record a deadline that this transaction has stored, for `earliest_due`."""
        if due is not None and (self.earliest_due is None or due < self.earliest_due):
            self.earliest_due = due

    # --- PINs ---------------------------------------------------------------------------------------------------------

    def free_pin(self) -> int:
        """Return a PIN that no open session has. Raises `NoPinFree`."""
        pins = self.free_pins(1)
        if not pins:
            raise NoPinFree
        return pins[0]

    def free_pins(self, count: int) -> list[int]:
        """Return `count` different PINs that no open session has; fewer if there are no more."""
        return self.allowances.pins.draw(self._run, count, self._reserved_pins)

    def _reserved_pins(self) -> set[int]:
        """Return the PINs that are reserved for sessions of batches."""
        reserved = (orjson.loads(row.pins) for row in self.rows(_RESERVED_PINS))
        return {pin for pins in reserved for pin in chain.from_iterable(pins.values())}

    def may_open_more(self, agent_id: int, limit: int, number: int = 1) -> bool:
        """Return whether an agent may open `number` more sessions; if so, count them as open.

        `limit`: the agent's maximum number of open sessions.
        """
        return self.allowances.quotas.take(agent_id, limit, partial(self.open_sessions_of, agent_id, limit), number)

    # --- callers ------------------------------------------------------------------------------------------------------

    def add_agent_session(self, begun: AgentSession) -> int:
        """Store an agent session, and end the agent's oldest ones if it has too many; return the new `sid`."""
        values = {column: getattr(begun, column) for column in _AGENT_SESSION_COLUMNS}
        sid = int(self.execute(insert(AGENT_SESSIONS).returning(AGENT_SESSIONS.c.sid), values).scalar_one())
        # Two statements: for one, PostgreSQL would read the whole table.
        oldest = self._run(_EXCESS_AGENT_SESSIONS, {"of_agent": begun.agent_id}).scalars().all()
        if oldest:
            self.execute(delete(AGENT_SESSIONS).where(AGENT_SESSIONS.c.sid.in_(oldest)))
        return sid

    def end_agent_session(self, secret_sha256: str) -> None:
        """Remove an agent session."""
        self.execute(delete(AGENT_SESSIONS).where(AGENT_SESSIONS.c.secret_sha256 == secret_sha256))

    def end_agent_sessions_of(self, agent_id: int) -> int:
        """Remove all agent sessions and sign-in codes of an agent; return the number of agent sessions."""
        self.execute(delete(SIGNIN_CODES).where(SIGNIN_CODES.c.agent_id == agent_id))
        return int(self.execute(delete(AGENT_SESSIONS).where(AGENT_SESSIONS.c.agent_id == agent_id)).rowcount)

    def add_signin_code(self, code: SignInCode) -> None:
        """Store a sign-in code, and remove the agent's oldest ones if it has too many."""
        self.execute(insert(SIGNIN_CODES), code.model_dump())
        oldest = self._run(_EXCESS_CODES, {"of_agent": code.agent_id}).scalars().all()
        if oldest:
            self.execute(delete(SIGNIN_CODES).where(SIGNIN_CODES.c.code_sha256.in_(oldest)))

    def take_signin_code(self, code_sha256: str) -> SignInCode | None:
        """Remove a sign-in code and return it; None if there is none. It may have expired."""
        taken = delete(SIGNIN_CODES).where(SIGNIN_CODES.c.code_sha256 == code_sha256).returning(*SIGNIN_CODES.c)
        row = self.execute(taken).mappings().first()
        return None if row is None else SignInCode.model_validate(row)

    def idempotency_record(self, agent_id: int, key: str) -> IdempotencyRecord | None:
        return self._new_records.get((agent_id, key)) or super().idempotency_record(agent_id, key)

    def add_idempotency_record(self, record: IdempotencyRecord) -> None:
        """Add an idempotency record."""
        self.writes += 1
        self._new_records[record.agent_id, record.key] = record

    def add_batch_record(self, record: BatchRecord) -> None:
        """Add the idempotency record of a batch."""
        self.execute(insert(BATCH_RECORDS), record.model_dump())

    def remove_batch_record(self, agent_id: int, key: str) -> None:
        """Remove the idempotency record of a batch."""
        self.execute(delete(BATCH_RECORDS).where(BATCH_RECORDS.c.agent_id == agent_id, BATCH_RECORDS.c.key == key))

    def remove_idempotency_record(self, agent_id: int, key: str) -> None:
        """Remove an idempotency record."""
        self.execute(delete(IDEMPOTENCY).where(IDEMPOTENCY.c.agent_id == agent_id, IDEMPOTENCY.c.key == key))

    # --- housekeeping -------------------------------------------------------------------------------------------------

    def set_meta(self, key: str, value: str) -> None:
        """Set a value in the table `meta`. `storage.meta` has the keys."""
        if self.execute(update(META).where(META.c.key == key).values(value=value)).rowcount == 0:
            self.execute(insert(META), {"key": key, "value": value})

    def remove_meta(self, key: str) -> None:
        """Remove a key from the table `meta`."""
        self.execute(delete(META).where(META.c.key == key))

    def try_to_write(self) -> None:
        """Raise if a table cannot be written.

        One table may be writable and another not. Each is tried with statements that need the rights and locks of a
        write but change no row. One row is written.
        """
        for table in SQLModel.metadata.sorted_tables:
            for statement in _no_op_writes(table):
                self._run(statement)
        self.set_meta(meta.WRITE_TEST, timestamps.text(self.now))
