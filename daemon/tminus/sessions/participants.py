"""Commands for the reports of rooms: participants who join, knock and leave.

As in `commands`, each is a job for the store's writer.
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
"""Maximum number of participants in a session at a time. It bounds a room that never reports who left."""

MOST_EVER = 10_000
"""Maximum number of participants of a session in total, those who knocked included. A room that reports joins without
end must not fill the disk, and closing and removing the session must stay fast.
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
    """Record that a participant joined (`trigger` is JOIN), or waits to be let in (KNOCK).

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
    # Each participant has incremented the version of the session: below the limit no count is needed.
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
    """Record that a participant who knocked was let in. If that is already recorded, nothing changes.

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
    """Record that a participant who knocked was not let in.

    If that is already recorded, or the session is closed, nothing changes: closing a session ends all waiting.

    Raises `UnknownSession`, `UnknownParticipant`, `Forbidden`, `WrongStatus`, `NoKnocking`.
    """
    session, participant = _participant(tx, caller, session_id, participant_id)
    if participant.waiting_since is None:
        raise NoKnocking(f"Participant {participant_id} does not wait to be let in: they have joined")
    if participant.left_at is None and session.status is not Status.CLOSED:
        carry_out(tx, settings, session, fire(Trigger.DENY, session.status), caller, participant)


def leave(tx: Transaction, settings: Settings, caller: Caller, session_id: str, participant_id: str) -> None:
    """Record that a participant left or stopped waiting. If that is already recorded, nothing changes.

    Raises `UnknownSession`, `UnknownParticipant`, `Forbidden`.
    """
    session, participant = _participant(tx, caller, session_id, participant_id)
    if participant.left_at is not None or session.status is Status.CLOSED:
        return
    trigger = Trigger.LEAVE if participant.waiting_since is None else Trigger.DENY
    carry_out(tx, settings, session, fire(trigger, session.status), caller, participant)


def _participant(tx: Transaction, caller: Caller, session_id: str, participant_id: str) -> tuple[Session, Participant]:
    """Return a session and one of its participants.

    Raises `Forbidden` unless the caller is a room, `UnknownSession`, `UnknownParticipant`.
    """
    need(caller.has(Role.ROOM), "the role room")
    session = found(tx, session_id)
    participant = tx.participant(session_id, participant_id)
    if participant is None:
        raise UnknownParticipant(participant_id)
    return session, participant
