"""Execute the transitions of commands. Their events have the caller as the actor."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from tminus.config import Settings
from tminus.domain.errors import WrongStatus
from tminus.domain.events import LogEvent
from tminus.domain.lifecycle import Transition, opens_at, transition_for
from tminus.domain.model import Event, Participant, Session
from tminus.domain.types import CLOCK_ACTOR, Caller, Status, Trigger
from tminus.storage import Transaction
from tminus.storage.transitions import Cause, Named, Requested, execute


class CreateResult(NamedTuple):
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
) -> None:
    """Execute a transition of one session, at the latest before the commit; `session` is updated then.

    `given`: the values for `Change.GIVEN`, by column. If the session has changed since it was read, `WrongStatus` is
    raised, here or when the transition is executed.
    """
    host = caller.name if caller.is_host else None
    requested = Requested(session, Cause(caller.actor, caller.request_id, host=host), given)
    if participant is None:
        tx.request(transition, requested, settings.lifecycle.timeouts)
    else:
        _execute(tx, settings, Named((transition,), [requested], participant))


def open_if_due(tx: Transaction, settings: Settings, caller: Caller, session: Session, start: datetime | None) -> None:
    """Open a session that is scheduled for `start` if that is due now, without waiting for the scheduler.

    Raises `NoPinFree`.
    """
    if start is None or opens_at(start, settings.lifecycle.timeouts) > tx.now:
        return
    tx.flush()
    pins = {session.id: tx.free_pin()} if session.type.has_pin else None
    # The event has the scheduler as its actor, as every opening has, and no lateness: the request made it due just now.
    cause = Cause(CLOCK_ACTOR, caller.request_id, due_at=tx.now)
    _execute(tx, settings, Named((transition_for(Trigger.OPEN, session.status),), [Requested(session, cause)]), pins)


def open_sessions(
    tx: Transaction, settings: Settings, request_id: str | None, sessions: Sequence[Session], pins: list[int]
) -> None:
    """Open many sessions that are due now, as `open_if_due` does.

    `pins`: PINs for those that need one; used ones are removed. Sessions for which it has none stay scheduled, and the
    scheduler opens them.
    """
    tx.flush()
    given: dict[str, int] = {}
    cause = Cause(CLOCK_ACTOR, request_id, due_at=tx.now)
    requested = []
    for session in sessions:
        if session.type.has_pin:
            if not pins:
                continue
            given[session.id] = pins.pop()
        requested.append(Requested(session, cause))
    if requested:
        _execute(tx, settings, Named((transition_for(Trigger.OPEN, Status.SCHEDULED),), requested), given or None)


def _execute(tx: Transaction, settings: Settings, named: Named, pins: dict[str, int] | None = None) -> None:
    if len(execute(tx, named, settings.lifecycle.timeouts, pins)) < len(named.requested):
        present = tx.session(named.requested[0].session.id)
        raise WrongStatus(trigger=named.transitions[0].trigger.value, status=present.status if present else "removed")


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
