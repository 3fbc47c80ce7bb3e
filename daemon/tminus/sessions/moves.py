"""A move of a session as all verbs make it: the change, its new deadline, its events."""

from dataclasses import dataclass
from typing import Any

from tminus.config import Settings
from tminus.domain import policy
from tminus.domain.events import News, told_by
from tminus.domain.lifecycle import Transition, fire
from tminus.domain.model import Event, Participant, Session
from tminus.domain.types import CLOCK_ACTOR, Caller, Status, Trigger
from tminus.storage import Transaction


@dataclass(frozen=True, slots=True)
class CreateResult:
    """What a creating verb answers: `replayed` if an earlier request with the same key had made it."""

    session: Session
    replayed: bool = False
    participant_id: str = ""


def change(
    tx: Transaction,
    settings: Settings,
    session: Session,
    move: Transition,
    caller: Caller,
    participant: Participant | None = None,
    **changes: Any,
) -> Session:
    """A move with its new deadline and its events."""
    planned = session.model_copy(update={"status": move.dest, **changes})
    set_deadline(planned, settings)
    changed = tx.change(session, move, due_at=planned.due_at, due_trigger=planned.due_trigger, **changes)
    tell(tx, changed, move, session, caller, participant)
    return changed


def open_if_due(tx: Transaction, settings: Settings, caller: Caller, session: Session) -> Session:
    """Opens a session that was scheduled or moved into the lead time: now, not at the clock's next look."""
    if session.due_at is None or session.due_at > tx.now or session.status is not Status.SCHEDULED:
        return session
    move = fire(Trigger.OPEN, session.status)
    pin = tx.free_pin() if session.type.has_pin else 0
    planned = session.model_copy(update={"status": move.dest})
    set_deadline(planned, settings)
    opened = tx.change(session, move, due_at=planned.due_at, due_trigger=planned.due_trigger, opened_at=tx.now, pin=pin)
    tell(tx, opened, move, session, caller, in_time=True)
    return opened


def set_deadline(session: Session, settings: Settings) -> None:
    deadline = policy.deadline(session, settings.lifecycle.timeouts)
    session.due_at, session.due_trigger = (deadline.at, deadline.trigger) if deadline else (None, None)


def tell(
    tx: Transaction,
    session: Session,
    move: Transition,
    before: Session | None,
    caller: Caller,
    participant: Participant | None = None,
    *,
    in_time: bool = False,
) -> None:
    """Records the events of a move. `in_time`: it is the clock's, made in time, as the caller's request caused it."""
    for event_type in told_by(move):
        event = Event(
            session_id=session.id,
            type=event_type,
            ts=tx.now,
            actor=CLOCK_ACTOR if in_time else caller.actor,
            previous_status=before.status if before else None,
            status=session.status,
            start_time=session.start_time,
            previous_start_time=before.start_time if before and before.start_time != session.start_time else None,
            expires_at=session.expires_at,
            due_at=tx.now if in_time else None,
            reason=move.reason,
            participant_id=participant.id if participant else None,
            participants=session.participants,
            request_id=caller.request_id,
        )
        tx.tell(News(event, session, participant))
