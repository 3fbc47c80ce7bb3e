"""Transitions as commands make them: with the caller as their cause."""

from dataclasses import dataclass
from typing import Any

from tminus.config import Settings
from tminus.domain.errors import WrongStatus
from tminus.domain.events import LogEvent
from tminus.domain.lifecycle import Transition, fire
from tminus.domain.model import Event, Participant, Session
from tminus.domain.types import CLOCK_ACTOR, Caller, Status, Trigger
from tminus.storage import Transaction
from tminus.storage.transitions import Cause, Named, execute


@dataclass(frozen=True, slots=True)
class CreateResult:
    """What a creating command answers: `replayed` if an earlier request with the same key had made it."""

    session: Session
    replayed: bool = False
    participant_id: str = ""


def carry_out(
    tx: Transaction,
    settings: Settings,
    session: Session,
    transition: Transition,
    caller: Caller,
    participant: Participant | None = None,
    **given: Any,
) -> Session:
    """Carry out a transition of one session; return it as it is afterwards.

    Raises `WrongStatus` if the session has changed since it was read.
    """
    cause = Cause(caller.actor, caller.request_id)
    return _execute(tx, settings, Named((transition,), [session], cause, given, participant))


def open_if_due(tx: Transaction, settings: Settings, caller: Caller, session: Session) -> Session:
    """Open a scheduled session that is due: now, not when the clock looks next. Raises `NoPinFree`."""
    if session.due_at is None or session.due_at > tx.now or session.status is not Status.SCHEDULED:
        return session
    transition = fire(Trigger.OPEN, session.status)
    pins = {session.id: tx.free_pin()} if session.type.has_pin else None
    # It is the clock's, made in time, as the caller's request has caused it.
    cause = Cause(CLOCK_ACTOR, caller.request_id, due_at=tx.now)
    return _execute(tx, settings, Named((transition,), [session], cause), pins)


def _execute(tx: Transaction, settings: Settings, named: Named, pins: dict[str, int] | None = None) -> Session:
    changed = execute(tx, named, settings.lifecycle.timeouts, pins)
    if not changed:
        present = tx.session(named.sessions[0].id)
        raise WrongStatus(trigger=named.transitions[0].trigger.value, status=present.status if present else "removed")
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
