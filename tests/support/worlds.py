"""A store with its clock and settings, on which tests run commands."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import delete, select

from tests.support.clocks import SettableClock
from tests.support.factories import AGENT, ROOM, order, put, settings
from tminus.domain.events import FeedEvent
from tminus.domain.model import Participant, Session
from tminus.domain.types import Caller, CreateSession, EventType, ParticipantRole, SessionType, Trigger
from tminus.scheduler import sweeps
from tminus.scheduler.sweeps import SweepResult
from tminus.sessions import commands, participants
from tminus.sessions.batches import NewBatch, prepare
from tminus.sessions.commands import IfMatch
from tminus.sessions.idempotency import KeyedRequest
from tminus.sessions.transitions import CreateResult
from tminus.storage import EventFilter, Store, Transaction
from tminus.storage.tables import IDEMPOTENCY, META, OCCURRENCES, PARTICIPANTS, SERIES, SESSIONS

T = TypeVar("T")


class World:
    """The commands with everything that they need, so that a test contains only what it is about."""

    def __init__(self, store: Store, clock: SettableClock) -> None:
        self.store = store
        self.clock = clock
        self.settings = settings()

    @property
    def now(self) -> datetime:
        return self.clock.time

    def run(self, job: Callable[[Transaction], T]) -> T:
        """Run a job of the writer; return its result, or raise its exception, after the commit."""
        return self.store.submit(job).result(timeout=30)

    # --- commands ---------------------------------------------------------------------------------------------------

    def make(
        self,
        session_type: SessionType = SessionType.LIVE,
        *,
        by: Caller = AGENT,
        keyed: KeyedRequest | None = None,
        **fields: Any,
    ) -> CreateResult:
        wanted = order(session_type, **fields)
        return self.run(lambda tx: commands.create(tx, self.settings, by, wanted, keyed))

    def create(self, session_type: SessionType = SessionType.LIVE, *, by: Caller = AGENT, **fields: Any) -> Session:
        return self.make(session_type, by=by, **fields).session

    def schedule(
        self, ahead: timedelta, session_type: SessionType = SessionType.LIVE, *, by: Caller = AGENT, **fields: Any
    ) -> Session:
        """Schedule a session that starts after a time span."""
        return self.create(session_type, by=by, start_time=self.now + ahead, **fields)

    def reschedule(self, session: Session, start: datetime, *, by: Caller = AGENT, if_match: IfMatch = None) -> Session:
        return self.run(lambda tx: commands.reschedule(tx, self.settings, by, session.id, start, if_match))

    def join(
        self,
        session: Session,
        name: str = "Grace",
        *,
        role: ParticipantRole = ParticipantRole.GUEST,
        by: Caller = ROOM,
        keyed: KeyedRequest | None = None,
    ) -> str:
        """Let a participant join; return the participant's id."""
        return self.run(
            lambda tx: participants.join_or_knock(tx, self.settings, by, session.id, Trigger.JOIN, role, name, keyed)
        ).participant_id

    def knock(
        self, session: Session, name: str = "Grace", *, by: Caller = ROOM, keyed: KeyedRequest | None = None
    ) -> str:
        """Let a participant knock; return the participant's id."""
        guest = ParticipantRole.GUEST
        return self.run(
            lambda tx: participants.join_or_knock(tx, self.settings, by, session.id, Trigger.KNOCK, guest, name, keyed)
        ).participant_id

    def admit(self, session: Session, participant_id: str, *, by: Caller = ROOM) -> None:
        self.run(lambda tx: participants.admit(tx, self.settings, by, session.id, participant_id))

    def deny(self, session: Session, participant_id: str, *, by: Caller = ROOM) -> None:
        self.run(lambda tx: participants.deny(tx, self.settings, by, session.id, participant_id))

    def leave(self, session: Session, participant_id: str, *, by: Caller = ROOM) -> None:
        self.run(lambda tx: participants.leave(tx, self.settings, by, session.id, participant_id))

    def close(self, session: Session, *, by: Caller = AGENT) -> None:
        self.run(lambda tx: commands.close(tx, self.settings, by, session.id))

    # --- time ---------------------------------------------------------------------------------------------------------

    def advance(self) -> SweepResult:
        return sweeps.do_all_due(self.store.submit, self.settings.lifecycle.timeouts, settings=self.settings)

    def passes(self, span: timedelta | None = None, **units: float) -> SweepResult:
        """Advance the clock, then run what is due."""
        self.clock.passes(span, **units)
        return self.advance()

    # --- reading ------------------------------------------------------------------------------------------------------

    def stored(self, session: Session | str) -> Session:
        session_id = session if isinstance(session, str) else session.id
        found = self.store.read(lambda view: view.session(session_id))
        assert found is not None, f"session {session_id} is not stored"
        return found

    def all_sessions(self) -> dict[str, Session]:
        rows = self.run(lambda tx: tx.execute(select(SESSIONS)).mappings().all())
        return {row["id"]: Session.model_validate(row) for row in rows}

    def participants(self, session: Session) -> list[Participant]:
        """Return all participants, in the order of joining."""
        of_session = select(PARTICIPANTS).where(PARTICIPANTS.c.session_id == session.id)
        rows = self.run(lambda tx: tx.execute(of_session.order_by(PARTICIPANTS.c.joined_at)).mappings().all())
        return [Participant.model_validate(row) for row in rows]

    def events(self, session: Session | None = None) -> list[FeedEvent]:
        """Return the events of one session or of all, in order."""
        only = EventFilter(session_id=session.id if session else None)
        return self.store.read(lambda view: view.events(0, 1_000_000, only))

    def told(self, session: Session | None = None) -> list[EventType]:
        """Return the types of the events."""
        return [recorded.event.type for recorded in self.events(session)]

    # --- resetting ----------------------------------------------------------------------------------------------------

    def clear(self, time: datetime | None = None) -> None:
        """Empty the database, for the next example of a property-based test."""

        def remove(tx: Transaction) -> None:
            for table in (OCCURRENCES, SERIES, SESSIONS, IDEMPOTENCY):
                tx.execute(delete(table))
            tx.execute(delete(META).where(META.c.key == "timeouts"))

        self.run(remove)
        if time is not None:
            self.clock.time = time

    def put(self, *sessions: Session) -> None:
        """Store sessions as they are, without events."""

        if sessions:
            self.run(lambda tx: put(tx, *sessions))


def new_batch(world: World, requests: Sequence[CreateSession]) -> NewBatch:
    """Return a batch of one part."""
    new = NewBatch()
    new.content = prepare(new, world.settings, AGENT, requests, world.now)
    return new
