"""Execute the transitions of commands. Their events name the caller as the actor."""

from dataclasses import dataclass
from typing import Any

from tminus.config import Settings
from tminus.domain.errors import WrongStatus
from tminus.domain.events import LogEvent
from tminus.domain.lifecycle import Transition, transition_for
from tminus.domain.model import Event, Participant, Session
from tminus.domain.types import CLOCK_ACTOR, Caller, Status, Trigger
from tminus.storage import Transaction
from tminus.storage.transitions import Cause, Named, execute


@dataclass(frozen=True, slots=True)
class CreateResult:
    """The result of a command that creates a session or a participant."""

    session: Session
    replayed: bool = False
    """Whether an earlier request with the same `Idempotency-Key` created it."""
    participant_id: str = ""


def execute_transition(
    tx: Transaction,
    settings: Settings,
    session: Session,
    transition: Transition,
    caller: Caller,
    participant: Participant | None = None,
    **given: Any,
) -> Session:
    """Execute a transition of one session; return the session after it.

    `given`: the values for `Change.GIVEN`, by column. Raises `WrongStatus` if the session has changed since it was
    read.
    """
    cause = Cause(caller.actor, caller.request_id)
    return _execute(tx, settings, Named((transition,), [session], cause, given, participant))


def open_if_due(tx: Transaction, settings: Settings, caller: Caller, session: Session) -> Session:
    """Open a scheduled session that is due, without waiting for the scheduler. Raises `NoPinFree`."""
    if session.due_at is None or session.due_at > tx.now or session.status is not Status.SCHEDULED:
        return session
    transition = transition_for(Trigger.OPEN, session.status)
    pins = {session.id: tx.free_pin()} if session.type.has_pin else None
    # The event has the scheduler as its actor, as every opening has, and no lateness: the request made it due just now.
    cause = Cause(CLOCK_ACTOR, caller.request_id, due_at=tx.now)
    return _execute(tx, settings, Named((transition,), [session], cause), pins)


def _execute(tx: Transaction, settings: Settings, named: Named, pins: dict[str, int] | None = None) -> Session:
    changed = execute(tx, named, settings.lifecycle.timeouts, pins)
    if not changed:
        current = tx.session(named.sessions[0].id)
        raise WrongStatus(trigger=named.transitions[0].trigger.value, status=current.status if current else "removed")
    return changed[0]


def record_creation(tx: Transaction, session: Session, transition: Transition, caller: Caller) -> None:
    """Record the events of a new session."""
    for event_type in transition.events:
        event = Event(
            session_id=session.id,
            type=event_type,
            ts=tx.now,
            actor=caller.actor,
            status=session.status,
            start_time=session.start_time,
            expires_at=session.expires_at,
            request_id=caller.request_id,
        )
        tx.record(LogEvent(event, session))
