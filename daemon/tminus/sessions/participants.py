"""What a room reports of those who come and go.

Verbs like those in `verbs`: each is a job for the store's writer.
"""

import orjson

from tminus.config import Settings
from tminus.domain import ids
from tminus.domain.errors import NoKnocking, TooManyParticipants, UnknownParticipant
from tminus.domain.lifecycle import fire
from tminus.domain.model import Participant, Session
from tminus.domain.types import Caller, ParticipantRole, Role, Setting, Status, Trigger
from tminus.sessions.authorization import need
from tminus.sessions.idempotency import KeyedRequest, find_record, store_record
from tminus.sessions.queries import found
from tminus.sessions.transitions import CreateResult, carry_out
from tminus.storage import Transaction

MOST_PRESENT = 1000
"""Participants that may be in a session at once: a room that never reports who left adds no more."""

MOST_EVER = 10_000
"""Participants, with those who knocked, that a session may have in its life: a room that reports joins without end must
not fill the disk, and closing the session and removing it must stay quick.
"""


def arrive(
    tx: Transaction,
    settings: Settings,
    caller: Caller,
    session_id: str,
    trigger: Trigger,
    role: ParticipantRole,
    name: str,
    keyed: KeyedRequest | None = None,
) -> CreateResult:
    """A room reports that somebody joined (`trigger`: JOIN), or waits to be let in (KNOCK).

    Raises `UnknownSession`, `Forbidden`, `WrongStatus`, `KeyReused`, `NoKnocking`, `TooManyParticipants`.
    """
    need(caller.has(Role.ROOM), "the role room")
    session = found(tx, session_id)
    if keyed is not None and (earlier := find_record(tx, caller, keyed)):
        return CreateResult(session, replayed=True, participant_id=earlier.participant_id or "")
    transition = fire(trigger, session.status)
    if trigger is Trigger.KNOCK and not orjson.loads(session.settings)[Setting.KNOCK]:
        raise NoKnocking("In this session nobody knocks, as its setting knock is off: report a join")
    _check_present(session)
    # Each of them has made a version of the session: before there are so many, nobody needs to be counted.
    if session.version > MOST_EVER and tx.participants_ever(session_id, MOST_EVER) >= MOST_EVER:
        raise TooManyParticipants(MOST_EVER, at_once=False)
    participant = Participant(id=ids.base62(12), session_id=session_id, role=role, name=name, joined_at=tx.now)
    changed = carry_out(tx, settings, session, transition, caller, participant)
    if keyed is not None:
        store_record(tx, caller, keyed, session_id, participant.id)
    return CreateResult(changed, participant_id=participant.id)


def _check_present(session: Session) -> None:
    if session.participants >= MOST_PRESENT:
        raise TooManyParticipants(MOST_PRESENT, at_once=True)


def admit(tx: Transaction, settings: Settings, caller: Caller, session_id: str, participant_id: str) -> None:
    """A room reports that somebody who knocked was let in; nothing happens if that is known.

    Raises `UnknownSession`, `UnknownParticipant`, `Forbidden`, `WrongStatus`, `NoKnocking`, `TooManyParticipants`.
    """
    session, participant = _participant(tx, caller, session_id, participant_id)
    if participant.waiting_since is None:
        return
    transition = fire(Trigger.ADMIT, session.status)
    if participant.left_at is not None:
        raise NoKnocking(f"Participant {participant_id} does not wait any more: they would have to knock again")
    _check_present(session)
    carry_out(tx, settings, session, transition, caller, participant)


def deny(tx: Transaction, settings: Settings, caller: Caller, session_id: str, participant_id: str) -> None:
    """A room reports that somebody who knocked was not let in; nothing happens if that is known, or the session is
    closed: closing has ended their waiting.

    Raises `UnknownSession`, `UnknownParticipant`, `Forbidden`, `WrongStatus`, `NoKnocking`.
    """
    session, participant = _participant(tx, caller, session_id, participant_id)
    if participant.waiting_since is None:
        raise NoKnocking(f"Participant {participant_id} does not wait to be let in: they have joined")
    if participant.left_at is None and session.status is not Status.CLOSED:
        carry_out(tx, settings, session, fire(Trigger.DENY, session.status), caller, participant)


def leave(tx: Transaction, settings: Settings, caller: Caller, session_id: str, participant_id: str) -> None:
    """A room reports that somebody left, or waits no more; nothing happens if they have already.

    Raises `UnknownSession`, `UnknownParticipant`, `Forbidden`.
    """
    session, participant = _participant(tx, caller, session_id, participant_id)
    if participant.left_at is not None or session.status is Status.CLOSED:
        return
    trigger = Trigger.LEAVE if participant.waiting_since is None else Trigger.DENY
    carry_out(tx, settings, session, fire(trigger, session.status), caller, participant)


def _participant(tx: Transaction, caller: Caller, session_id: str, participant_id: str) -> tuple[Session, Participant]:
    """A session and one of its participants, for a room. Raises `Forbidden`, `UnknownSession`, `UnknownParticipant`."""
    need(caller.has(Role.ROOM), "the role room")
    session = found(tx, session_id)
    participant = tx.participant(session_id, participant_id)
    if participant is None:
        raise UnknownParticipant(participant_id)
    return session, participant
