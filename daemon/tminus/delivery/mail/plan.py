"""Decide who gets a mail about an event, and which. No I/O.

A mail always shows the session as it is now, so an event that a later one has superseded needs no mail: after an hour
without a mail server, nobody gets an invitation and its cancellation in the same minute.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from tminus.domain.invitees import Invitee, from_json
from tminus.domain.model import Event, Mail, Session
from tminus.domain.types import CloseReason, EventType, MailState, Status

MAX_COPIES = 2
"""Maximum number of times that a mail is sent if each answer was lost and `mail.repeat_unanswered` is true."""


class Kind(StrEnum):
    """The kind of a mail."""

    INVITATION = "invitation"
    UPDATE = "update"
    CANCELLATION = "cancellation"
    REMINDER = "reminder"


CHANGES = frozenset({EventType.CREATED, EventType.SCHEDULED, EventType.RESCHEDULED, EventType.CLOSED})
"""The types of events that change a session for its invitees."""

TYPES = CHANGES | {EventType.REMINDER}
"""The types of events about which mails are sent."""


def superseded_by(event_type: EventType) -> frozenset[EventType]:
    """Return the types of later events that make a mail about an event needless."""
    return TYPES if event_type is EventType.REMINDER else CHANGES


@dataclass(frozen=True, slots=True)
class Task:
    """A mail to send."""

    position: int
    invitee: Invitee
    kind: Kind
    seen: Mail | None
    """The row of the invitee, as it was read."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done about an event."""

    session: Session
    tasks: tuple[Task, ...]
    lost: tuple[int, ...]
    """Positions of invitees whose mail about this event was sent without an answer, and is not sent again."""


def make(
    event: Event,
    session: Session,
    rows: Mapping[int, Mail],
    newest: int,
    changed: int,
    now: datetime,
    duration: timedelta,
    *,
    repeat: bool,
) -> Plan:
    """Return what is to be done about an event.

    `rows`: what became of earlier mails, by position. `newest`: the number of the session's last event of a type in
    `superseded_by`. `changed`: the number of the session's last change. `duration`: how long a session is planned to
    last after its start. `repeat`: whether a mail without an answer is sent again.
    """
    tasks, lost = [], []
    for position, invitee in enumerate(from_json(session.invitees)):
        row = rows.get(position)
        if row is not None and row.seq >= event.seq:
            if row.seq > event.seq or row.state not in (MailState.SENDING, MailState.DEFERRED):
                continue
            if row.state is MailState.SENDING and (not repeat or row.unanswered >= MAX_COPIES):
                lost.append(position)
                continue
        kind = _kind(event, session, row, newest, changed, now, duration)
        if kind is not None:
            tasks.append(Task(position, invitee, kind, row))
    return Plan(session, tuple(tasks), tuple(lost))


def _kind(
    event: Event,
    session: Session,
    row: Mail | None,
    newest: int,
    changed: int,
    now: datetime,
    duration: timedelta,
) -> Kind | None:
    """Return which mail an invitee gets; None if none is needed."""
    if event.seq < newest:
        return None  # a later event causes the mail
    was_sent = row is not None and row.sent_seq is not None
    if event.type is EventType.REMINDER:
        return _reminder(session, row, changed, now)
    if event.type is not EventType.CLOSED:
        if session.status is Status.CLOSED:
            return None
        return Kind.UPDATE if was_sent else Kind.INVITATION
    # Anyone who may have got the invitation needs the cancellation too.
    may_know = was_sent or (row is not None and row.state is MailState.UNKNOWN)
    return Kind.CANCELLATION if may_know and _will_not_take_place(event, session, now, duration) else None


def _will_not_take_place(event: Event, session: Session, now: datetime, duration: timedelta) -> bool:
    """Return whether a closed session had not begun, so that people still need the cancellation."""
    start = session.start_time
    if start is None or event.ts >= start or now > start + duration:
        return False
    # In these two cases people were there before the start, and have left.
    return event.reason not in (CloseReason.EMPTY, CloseReason.TIME_LIMIT)


def _reminder(session: Session, row: Mail | None, changed: int, now: datetime) -> Kind | None:
    """Return which mail reminds an invitee; None if none does.

    If the server has not accepted the mail about the session's last change, the invitee gets that mail, which has the
    calendar entry, in place of the reminder. Nobody is reminded after the start. But a mail about a change that the
    server has deferred is still sent then: the invitee's row is now about the reminder, so no other event sends it.
    """
    if session.status is Status.CLOSED or session.start_time is None:
        return None
    is_early = now < session.start_time
    if row is not None and row.sent_seq is not None and row.sent_seq >= changed:
        return Kind.REMINDER if is_early else None
    if not is_early and (row is None or row.state is not MailState.DEFERRED):
        return None
    return Kind.INVITATION if row is None or row.sent_seq is None else Kind.UPDATE
