"""The verbs that change something, each as one straight function.

A verb is a job for the store's writer: it takes the transaction first, reads the time from `tx.now`, decides, then
writes the change and its events together.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tminus import draws, instants, policy, wire
from tminus.config import Settings
from tminus.errors import BadStartTime, NoKnocking, StaleVersion, TooManySessions, UnknownParticipant
from tminus.events import News, told_by
from tminus.lifecycle import Transition, fire
from tminus.model import Event, Participant, Session
from tminus.sessions.reads import found
from tminus.sessions.retries import RetryKey, made_before, remember
from tminus.sessions.rights import need, owns
from tminus.storage import Transaction
from tminus.vocabulary import CLOCK_ACTOR, Caller, Order, ParticipantRole, Role, Setting, Status, Trigger

PAST_GRACE = timedelta(seconds=60)
"""How far in the past a start time may lie: a client's clock may be slow."""

AGENT_SESSION_SPAN = timedelta(hours=1)
"""How long an agent session lasts."""

IfMatch = frozenset[int] | None
"""The versions that an `If-Match` header names; None: any."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a creating verb answers: `replayed` if an earlier request with the same key had made it."""

    session: Session
    replayed: bool = False
    participant_id: str = ""


def create(tx: Transaction, settings: Settings, caller: Caller, order: Order, retry: RetryKey | None = None) -> Made:
    """Makes a session: open at once, or scheduled if `order.start_time` is set.

    A start within the lead time of now is scheduled and opened in one go, and told as both.

    Raises `Forbidden`, `BadStartTime`, `TooManySessions`, `KeyReused`, `NoPinFree`.
    """
    need(caller.has(Role.AGENT), "the role agent")
    if retry is not None and (earlier := made_before(tx, caller, retry)):
        return Made(found(tx, earlier.session_id), replayed=True)
    limit = settings.limits.sessions_per_agent
    if limit and tx.open_sessions_of(caller.agent_id, limit) >= limit:
        raise TooManySessions(limit)

    now = tx.now
    if order.start_time is None:
        move, expires_from = fire(Trigger.CREATE, None), now
    else:
        move, expires_from = fire(Trigger.SCHEDULE, None), order.start_time
        _check_start(order.start_time, now, settings)
    timeouts = settings.lifecycle.timeouts
    session_id, host_auth_token, host_key = draws.base62_each(order.type.id_length, draws.TOKEN, draws.TOKEN)
    opens_now = move.dest is Status.NEW
    pin = tx.free_pin() if opens_now and order.type.has_pin else 0
    user_path = f"{pin}" if pin else f"?{session_id}"
    urls = settings.server.urls()
    session = Session(
        id=session_id,
        type=order.type,
        status=move.dest,
        label=order.label,
        user_description=order.user_description or caller.name,
        scheduled=order.start_time is not None,
        agent_id=caller.agent_id,
        organization_id=settings.organization.id,
        created_by=dict(agent_session_shown(caller, now)),
        start_time=order.start_time,
        expires_at=expires_from + timeouts.new,
        created_at=now,
        updated_at=now,
        opened_at=now if opens_now else None,
        pin=pin,
        host_auth_token=host_auth_token,
        host_key=host_key,
        external_session_object_id=draws.hex32(),
        settings=policy.effective_settings(order.type, settings.policy.modes(order.type), order.preferences),
        user_url=f"{urls.user}/{user_path}",
        host_url=f"{urls.host}/?{session_id}",
        external_mapping=order.external_mapping,
        parent_object=order.parent_object,
        meta_data=order.meta_data,
    )
    _set_deadline(session, settings)
    tx.add(session, move)
    _tell(tx, session, move, None, caller)
    if retry is not None:
        remember(tx, caller, retry, session.id)
    return Made(_open_if_due(tx, settings, caller, session))


def _check_start(start: datetime, now: datetime, settings: Settings) -> None:
    if start < now - PAST_GRACE:
        raise BadStartTime(start, f"is in the past: it is {instants.text(now)} now")
    if start > now + settings.lifecycle.horizon:
        latest = instants.text(now + settings.lifecycle.horizon)
        raise BadStartTime(start, f"is too far away: the latest start allowed now is {latest}")


def roles_shown(caller: Caller) -> wire.Roles:
    """The four roles that the original shows."""
    has = caller.roles.__contains__
    return {
        "api": has(Role.API),
        "agent": has(Role.AGENT),
        "supervisor": has(Role.SUPERVISOR),
        "group_admin": has(Role.GROUP_ADMIN),
    }


def agent_session_shown(caller: Caller, now: datetime) -> wire.AgentSession:
    """`createdByAgentSession`. A token used directly has no agent session: it is shown as one that begins now."""
    return {
        "sid": caller.sid,
        "roles": roles_shown(caller),
        "features": None,
        "providerExternalId": caller.external_id,
        "provider": caller.provider,
        "startedAt": instants.text(caller.started_at or now),
        "expiresAt": instants.text(caller.expires_at or now + AGENT_SESSION_SPAN),
        "clientApp": caller.client_app,
        "userAgent": caller.user_agent,
        "remoteIp": caller.remote_ip,
    }


# --- moving -----------------------------------------------------------------------------------------------------------


def reschedule(
    tx: Transaction, settings: Settings, caller: Caller, session_id: str, start: datetime, if_match: IfMatch = None
) -> Session:
    """Moves a scheduled session to another start; into the lead time, it opens at once.

    To the start that it has: nothing happens. Raises `UnknownSession`, `Forbidden`, `StaleVersion`, `WrongStatus`,
    `BadStartTime`.
    """
    session = found(tx, session_id)
    need(owns(caller, session) or caller.has(Role.GROUP_ADMIN), "the session's own agent, or the role group_admin")
    if if_match is not None and session.version not in if_match:
        raise StaleVersion(session.version)
    move = fire(Trigger.RESCHEDULE, session.status)
    if start == session.start_time:
        return session
    _check_start(start, tx.now, settings)
    expires = start + settings.lifecycle.timeouts.new
    moved = _change(tx, settings, session, move, caller, start_time=start, expires_at=expires)
    return _open_if_due(tx, settings, caller, moved)


def close(tx: Transaction, caller: Caller, session_id: str) -> None:
    """Closes a session and disconnects everybody; nothing happens if it is closed.

    Raises `UnknownSession`, `Forbidden`.
    """
    session = found(tx, session_id)
    allowed = owns(caller, session) or caller.has(Role.SUPERVISOR)
    need(allowed, "the session's own agent, or the role supervisor")
    if session.status is Status.CLOSED:
        return
    move = fire(Trigger.CLOSE, session.status)
    if session.participants:
        tx.everybody_out(session.id)
    changed = tx.change(
        session, move, due_at=None, due_trigger=None, closed_at=tx.now, close_reason=move.reason, pin=0, participants=0
    )
    _tell(tx, changed, move, session, caller)


def join(
    tx: Transaction,
    settings: Settings,
    caller: Caller,
    session_id: str,
    role: ParticipantRole,
    name: str,
    retry: RetryKey | None = None,
) -> Made:
    """A room reports that somebody joined. Raises `UnknownSession`, `Forbidden`, `WrongStatus`, `KeyReused`."""
    return _arrive(tx, settings, caller, session_id, Trigger.JOIN, role, name, retry)


def knock(
    tx: Transaction,
    settings: Settings,
    caller: Caller,
    session_id: str,
    role: ParticipantRole,
    name: str,
    retry: RetryKey | None = None,
) -> Made:
    """A room reports that somebody waits to be let in.

    Raises `UnknownSession`, `Forbidden`, `WrongStatus`, `KeyReused`, `NoKnocking`.
    """
    return _arrive(tx, settings, caller, session_id, Trigger.KNOCK, role, name, retry)


def _arrive(
    tx: Transaction,
    settings: Settings,
    caller: Caller,
    session_id: str,
    trigger: Trigger,
    role: ParticipantRole,
    name: str,
    retry: RetryKey | None,
) -> Made:
    """Somebody is there who was not before: in the session, or at its door."""
    need(caller.has(Role.ROOM), "the role room")
    session = found(tx, session_id)
    if retry is not None and (earlier := made_before(tx, caller, retry)):
        return Made(session, replayed=True, participant_id=earlier.participant_id or "")
    move = fire(trigger, session.status)
    waits = trigger is Trigger.KNOCK
    if waits and not session.settings[Setting.KNOCK]:
        raise NoKnocking("In this session nobody knocks, as its setting knock is off: report a join")
    participant = Participant(
        id=draws.base62(12), session_id=session_id, role=role, name=name, joined_at=tx.now,
        waiting_since=tx.now if waits else None,
    )  # fmt: skip
    tx.add_participant(participant)
    if retry is not None:
        remember(tx, caller, retry, session_id, participant.id)
    entered = {} if waits else _entered(session, tx.now)
    changed = _change(tx, settings, session, move, caller, participant, **entered)
    return Made(changed, participant_id=participant.id)


def _entered(session: Session, now: datetime) -> dict[str, Any]:
    """What changes when one more is in."""
    return {
        "activated_at": session.activated_at or now, "empty_since": None, "participants": session.participants + 1,
    }  # fmt: skip


def admit(tx: Transaction, settings: Settings, caller: Caller, session_id: str, participant_id: str) -> None:
    """A room reports that somebody who knocked was let in; nothing happens if that is known.

    Raises `UnknownSession`, `UnknownParticipant`, `Forbidden`, `WrongStatus`, `NoKnocking`.
    """
    session, participant = _participant(tx, caller, session_id, participant_id)
    if participant.waiting_since is None:
        return
    if participant.left_at is not None:
        raise NoKnocking(f"Participant {participant_id} does not wait any more: they would have to knock again")
    move = fire(Trigger.ADMIT, session.status)
    tx.participant_admitted(participant_id)
    _change(tx, settings, session, move, caller, participant, **_entered(session, tx.now))


def deny(tx: Transaction, settings: Settings, caller: Caller, session_id: str, participant_id: str) -> None:
    """A room reports that somebody who knocked was not let in; nothing happens if that is known.

    Raises `UnknownSession`, `UnknownParticipant`, `Forbidden`, `WrongStatus`, `NoKnocking`.
    """
    session, participant = _participant(tx, caller, session_id, participant_id)
    if participant.waiting_since is None:
        raise NoKnocking(f"Participant {participant_id} does not wait to be let in: they have joined")
    if participant.left_at is None:
        _turn_away(tx, settings, caller, session, participant)


def leave(tx: Transaction, settings: Settings, caller: Caller, session_id: str, participant_id: str) -> None:
    """A room reports that somebody left, or waits no more; nothing happens if they have already.

    Raises `UnknownSession`, `UnknownParticipant`, `Forbidden`.
    """
    session, participant = _participant(tx, caller, session_id, participant_id)
    if participant.left_at is not None or session.status is Status.CLOSED:
        return
    if participant.waiting_since is not None:
        _turn_away(tx, settings, caller, session, participant)
        return
    move = fire(Trigger.LEAVE, session.status)
    tx.participant_left(participant_id)
    left = session.participants - 1
    empty_since = None if left else tx.now
    _change(tx, settings, session, move, caller, participant, empty_since=empty_since, participants=left)


def _turn_away(tx: Transaction, settings: Settings, caller: Caller, session: Session, participant: Participant) -> None:
    """Somebody waits no more, and was not let in."""
    move = fire(Trigger.DENY, session.status)
    tx.participant_left(participant.id)
    _change(tx, settings, session, move, caller, participant)


def _participant(tx: Transaction, caller: Caller, session_id: str, participant_id: str) -> tuple[Session, Participant]:
    """A session and one of its participants, for a room. Raises `Forbidden`, `UnknownSession`, `UnknownParticipant`."""
    need(caller.has(Role.ROOM), "the role room")
    session = found(tx, session_id)
    participant = tx.participant(session_id, participant_id)
    if participant is None:
        raise UnknownParticipant(participant_id)
    return session, participant


def _change(
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
    _set_deadline(planned, settings)
    changed = tx.change(session, move, due_at=planned.due_at, due_trigger=planned.due_trigger, **changes)
    _tell(tx, changed, move, session, caller, participant)
    return changed


def _open_if_due(tx: Transaction, settings: Settings, caller: Caller, session: Session) -> Session:
    """Opens a session that was scheduled or moved into the lead time: now, not at the clock's next look."""
    if session.due_at is None or session.due_at > tx.now or session.status is not Status.SCHEDULED:
        return session
    move = fire(Trigger.OPEN, session.status)
    pin = tx.free_pin() if session.type.has_pin else 0
    planned = session.model_copy(update={"status": move.dest})
    _set_deadline(planned, settings)
    opened = tx.change(session, move, due_at=planned.due_at, due_trigger=planned.due_trigger, opened_at=tx.now, pin=pin)
    _tell(tx, opened, move, session, caller, in_time=True)
    return opened


def _set_deadline(session: Session, settings: Settings) -> None:
    deadline = policy.deadline(session, settings.lifecycle.timeouts)
    session.due_at, session.due_trigger = (deadline.at, deadline.trigger) if deadline else (None, None)


def _tell(
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
