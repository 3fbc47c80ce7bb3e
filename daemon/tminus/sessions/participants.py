"""Commands by which a room reports participants who join, knock and leave.

As in `commands`, each is a job for the store's writer.
"""

import orjson

from tminus.config import Settings
from tminus.domain import ids
from tminus.domain.errors import NoKnocking, OtherPresence, TooManyParticipants, UnknownParticipant
from tminus.domain.lifecycle import transition_for
from tminus.domain.model import Participant, Session
from tminus.domain.types import ROOM_ACTOR, Caller, ParticipantRole, Role, Setting, Status, Trigger
from tminus.sessions.authorization import require
from tminus.sessions.idempotency import KeyedRequest, find_record, store_record
from tminus.sessions.queries import load_session
from tminus.sessions.transitions import CreateResult, execute_transition
from tminus.storage import Transaction, presence

MAX_TOTAL = 10_000
"""Maximum number of participants of a session in total, including those who knocked. A room that reports joins without
end must neither fill the disk nor make closing and removing the session slow.
"""


def join_or_knock(
    tx: Transaction,
    settings: Settings,
    caller: Caller,
    session_id: str,
    trigger: Trigger,
    role: ParticipantRole,
    name: str,
    keyed: KeyedRequest | None = None,
) -> CreateResult:
    """Record that a participant joined (`trigger` is JOIN) or waits to be admitted (KNOCK).

    Raises `UnknownSession`, `Forbidden`, `WrongStatus`, `KeyReused`, `NoKnocking`, `OtherPresence`,
    `TooManyParticipants`.
    """
    require(caller.has(Role.ROOM), "the role room")
    session = load_session(tx, session_id)
    if keyed is not None and (earlier := find_record(tx, caller, keyed)):
        return CreateResult(session, replayed=True, participant_id=earlier.participant_id or "")
    transition = transition_for(trigger, session.status)
    if trigger is Trigger.KNOCK and not orjson.loads(session.settings)[Setting.KNOCK]:
        raise NoKnocking("Nobody can knock in this session, because its setting knock is off: report a join")
    _check_not_full(session, settings)
    own = caller.actor == ROOM_ACTOR
    if presence.has_other_source(tx, session_id, own=own):
        raise OtherPresence(own=not own)
    # Each participant has incremented the version of the session, so a version below the limit needs no count.
    if session.version > MAX_TOTAL and tx.participants_ever(session_id, MAX_TOTAL) >= MAX_TOTAL:
        raise TooManyParticipants(MAX_TOTAL, at_once=False)
    participant = Participant(id=ids.base62(12), session_id=session_id, role=role, name=name, joined_at=tx.now)
    execute_transition(tx, settings, session, transition, caller, participant)
    if keyed is not None:
        store_record(tx, caller, keyed, session_id, participant.id)
    return CreateResult(session, participant_id=participant.id)


def _check_not_full(session: Session, settings: Settings) -> None:
    most = settings.limits.participants_per_session
    if session.participants >= most:
        raise TooManyParticipants(most, at_once=True)


def admit(tx: Transaction, settings: Settings, caller: Caller, session_id: str, participant_id: str) -> None:
    """Record that a participant who knocked was admitted. If that is already recorded, nothing changes.

    Raises `UnknownSession`, `UnknownParticipant`, `Forbidden`, `WrongStatus`, `NoKnocking`, `TooManyParticipants`.
    """
    session, participant = _participant(tx, caller, session_id, participant_id)
    if participant.waiting_since is None:
        return
    transition = transition_for(Trigger.ADMIT, session.status)
    if participant.left_at is not None:
        raise NoKnocking(f"Participant {participant_id} is no longer waiting: they would have to knock again")
    _check_not_full(session, settings)
    execute_transition(tx, settings, session, transition, caller, participant)


def deny(tx: Transaction, settings: Settings, caller: Caller, session_id: str, participant_id: str) -> None:
    """Record that a participant who knocked was denied.

    If that is already recorded, or the session is closed, nothing changes: nobody waits for a closed session.

    Raises `UnknownSession`, `UnknownParticipant`, `Forbidden`, `WrongStatus`, `NoKnocking`.
    """
    session, participant = _participant(tx, caller, session_id, participant_id)
    if participant.waiting_since is None:
        raise NoKnocking(f"Participant {participant_id} is not waiting to be admitted: they have joined")
    if participant.left_at is None and session.status is not Status.CLOSED:
        execute_transition(tx, settings, session, transition_for(Trigger.DENY, session.status), caller, participant)


def leave(tx: Transaction, settings: Settings, caller: Caller, session_id: str, participant_id: str) -> None:
    """Record that a participant left or stopped waiting. If that is already recorded, nothing changes.

    Raises `UnknownSession`, `UnknownParticipant`, `Forbidden`.
    """
    session, participant = _participant(tx, caller, session_id, participant_id)
    if participant.left_at is not None or session.status is Status.CLOSED:
        return
    trigger = Trigger.LEAVE if participant.waiting_since is None else Trigger.DENY
    execute_transition(tx, settings, session, transition_for(trigger, session.status), caller, participant)


def _participant(tx: Transaction, caller: Caller, session_id: str, participant_id: str) -> tuple[Session, Participant]:
    """Return a session and one of its participants.

    Raises `Forbidden` unless the caller is a room, `UnknownSession`, `UnknownParticipant`.
    """
    require(caller.has(Role.ROOM), "the role room")
    session = load_session(tx, session_id)
    participant = tx.participant(session_id, participant_id)
    if participant is None:
        raise UnknownParticipant(participant_id)
    return session, participant
