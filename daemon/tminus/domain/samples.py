"""Sample events: one of each type, with all its fields, about a session that does not exist."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from tminus.domain.events import CATALOGUE, FeedEvent
from tminus.domain.lifecycle import TABLE
from tminus.domain.model import Event, Participant
from tminus.domain.types import CLOCK_ACTOR, ROOM_ACTOR, EventType, ParticipantRole, SessionType, Status, Timeouts

SESSION = "sample-session"
"""The id of the session of all sample events. Random ids contain no hyphen."""

REMINDED = timedelta(minutes=15)
"""How long before the start the reminder of a sample event is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSession:
    """The fields of the session that a sample event contains."""

    agent_id: int
    organization_id: int
    user_description: str
    created_by: str
    """The agent session of the agent, as JSON."""
    settings: str
    """The settings of the session, as JSON."""
    activated_at: datetime | None = None
    type: SessionType = SessionType.LIVE
    label: str = "Sample"
    external_mapping: str | None = "incident:sample"
    parent_object: str | None = '{"id":"sample","app":"servicenow","type":"incident","name":"INC0000000"}'


def sample(kind: EventType, session: SampleSession, now: datetime, timeouts: Timeouts, actor: str) -> FeedEvent:
    """Return a sample event that happens now.

    `actor`: the agent who causes it, if an agent causes such events.
    """
    row = next((row for row in TABLE if kind in row.events), None)
    is_reminder = row is None  # no transition records it
    by_clock = is_reminder or (row is not None and row.actor == CLOCK_ACTOR)
    start = now + (REMINDED if is_reminder else timeouts.lead)
    entry = CATALOGUE[kind]
    person = None
    if "participant" in entry.fields:
        person = Participant(id=SESSION, session_id=SESSION, role=ParticipantRole.GUEST, name="Grace", joined_at=now)
    event = Event(
        session_id=SESSION,
        type=kind,
        ts=now,
        actor=CLOCK_ACTOR if by_clock else ROOM_ACTOR if row is not None and row.actor == ROOM_ACTOR else actor,
        previous_status=Status.SCHEDULED if row is None else row.source,
        status=Status.SCHEDULED if row is None else row.dest,
        start_time=start,
        previous_start_time=start - timedelta(hours=1) if "previousStartTime" in entry.fields else None,
        expires_at=start + timeouts.new,
        due_at=now if by_clock else None,
        reason=None if row is None else row.reason,
        participant_id=None if person is None else person.id,
        participants=0 if person is None else 1,
    )
    return FeedEvent(event, session, person)
