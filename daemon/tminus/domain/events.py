"""The catalogue of events, and what is told of one. Pure.

A name here is the same name in the history, in the feed, in webhooks and in the log. `docs/events.md` is made from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol

import orjson

from tminus.domain import timestamps
from tminus.domain.model import Event, Participant
from tminus.domain.types import CloseReason, EventType, SessionType

ActorNames = Mapping[str, str]
"""Actor, as an event has it -> name."""

NOBODY: ActorNames = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Entry:
    """A kind of event: when it happens, what a person is told, and what it carries besides the common fields."""

    when: str
    says: str
    """What follows "Session ID LABEL"."""
    carries: tuple[str, ...] = ()


CATALOGUE = {
    EventType.CREATED: Entry("a session is created to start at once", "was created and is open"),
    EventType.SCHEDULED: Entry("a session is scheduled", "was scheduled for {start}"),
    EventType.RESCHEDULED: Entry(
        "a scheduled session gets another start",
        "was rescheduled from {previous_start} to {start}",
        ("previousStartTime",),
    ),
    EventType.READY: Entry("a scheduled session opens", "is open and starts at {start}", ("lagMs",)),
    EventType.ACTIVE: Entry("the first participant joins", "is active, with its first participant", ("participant",)),
    EventType.CLOSED: Entry("a session closes", "{reason}", ("reason", "lagMs")),
    EventType.KNOCKED: Entry("somebody waits to be admitted", "has {who} waiting for admission", ("participant",)),
    EventType.ADMITTED: Entry(
        "the host admits somebody who knocked; `participant.joined` follows", "admitted {who}", ("participant",)
    ),
    EventType.DENIED: Entry(
        "the host denies somebody who knocked, or they stop waiting", "did not admit {who}", ("participant",)
    ),
    EventType.JOINED: Entry("somebody joins", "was joined by {who}", ("participant", "participants")),
    EventType.LEFT: Entry("somebody leaves", "was left by {who}", ("participant", "participants")),
}

COMMON_FIELDS = {
    "seq": "number of the event, in the order in which changes were committed; increases, and is never reused",
    "eventId": "unique id of the event: the id of the database and `seq`",
    "type": "a type of the table above",
    "ts": "when it happened",
    "message": "a sentence for people",
    "actor": "who caused it: `clock` (the scheduler), `agent:<id>`, `room:<id>`, `local` (the local socket)",
    "id": "the session's",
    "label": "the session's",
    "userDescription": "the session's: the agent's name, unless the request had another",
    "status": "the session's status after the event, not when the event is read",
    "previousStatus": "the session's status before the event; null for a new session",
    "startTime": "the session's start at the time of the event; null if it was not scheduled",
    "expiresAt": "the session's, at the time of the event",
    "seconds": "whole seconds that the session had been `active`",
    "user": "the agent whose session it is: `id`, `name`, `externalId`",
    "organization": "as in the session",
    "settings": "as in the session",
    "createdByAgentSession": "as in the session",
    "crmSyncTarget": "the parent object with its `externalMapping`; null if there is none",
    "stats": "`participants`: the number of people in the session after the event",
}
"""Every event has them. Name -> what it is; times are in UTC with milliseconds, as everywhere."""

EXTRA_FIELDS = {
    "previousStartTime": "the start before the reschedule; absent if it is not known",
    "lagMs": "by how many milliseconds the scheduler was late; absent if it did not cause the event",
    "reason": "`cancelled`, `closed`, `expired`, `empty` or `time_limit`",
    "actorName": "the name of `actor`, if the present configuration has that agent",
    "participant": "the participant: `id`, `role`, `name`",
    "participants": "the number of people in the session after the event",
}
"""Some have these: `Entry.carries` says which."""

_CLOSED = {
    CloseReason.CANCELLED: "was cancelled by {actor}",
    CloseReason.CLOSED: "was closed by {actor}",
    CloseReason.EXPIRED: "expired, nobody joined in time",
    CloseReason.EMPTY: "was closed, it was empty for too long",
    CloseReason.TIME_LIMIT: "was closed, its time limit was reached",
}
_TIMEOUTS = {
    CloseReason.EXPIRED: "lifecycle.new_timeout",
    CloseReason.EMPTY: "lifecycle.empty_timeout",
    CloseReason.TIME_LIMIT: "lifecycle.max_active",
}


def timeout_of(event: Event) -> str | None:
    """Return the setting whose time was over, if that closed the session."""
    return None if event.reason is None else _TIMEOUTS.get(event.reason)


class LoggedSession(Protocol):
    """The fields of a session that a log line needs."""

    @property
    def label(self) -> str: ...

    @property
    def type(self) -> SessionType: ...

    @property
    def agent_id(self) -> int: ...

    @property
    def user_description(self) -> str: ...

    @property
    def parent_object(self) -> str | None: ...

    @property
    def external_mapping(self) -> str | None: ...


class EventSession(LoggedSession, Protocol):
    """The fields of a session that an event contains: a `Session`, or a part of one."""

    @property
    def organization_id(self) -> int: ...

    @property
    def created_by(self) -> str: ...

    @property
    def settings(self) -> str: ...

    @property
    def activated_at(self) -> datetime | None: ...


@dataclass(frozen=True, slots=True)
class LogEvent:
    """An event with the fields that the log needs. Every event is read for the log, most of them for nothing else."""

    event: Event
    session: LoggedSession
    participant: Participant | None = None

    @property
    def lag_ms(self) -> int | None:
        """Milliseconds from the deadline to the transition; None if the scheduler did not cause it."""
        if self.event.due_at is None:
            return None
        return max(0, timestamps.milliseconds(self.event.ts - self.event.due_at))

    @property
    def message(self) -> str:
        """A sentence for people, without secrets."""
        return self.sentence()

    def sentence(self, actor_name: str | None = None) -> str:
        """Return the message, with the name of the actor if it is known."""
        event = self.event
        said = CATALOGUE[event.type].says.format(
            who=self.participant.name if self.participant else "somebody",
            start=_instant(event.start_time),
            previous_start=_instant(event.previous_start_time),
            reason=event.reason and _CLOSED[event.reason].format(actor=_actor(event.actor, actor_name)),
        )
        return f"Session {event.session_id} “{self.session.label}” {said}"


@dataclass(frozen=True, slots=True)
class FeedEvent(LogEvent):
    """An event with all its fields, for history, feed and webhooks."""

    session: EventSession

    def payload(self, database_id: str, names: ActorNames = NOBODY) -> dict[str, Any]:
        """Return the event as JSON: flat, with the names of the original API, and without secrets.

        `names`: of the known actors. Stored JSON is not parsed; it is inserted as text.
        """
        event, session = self.event, self.session
        actor_name = names.get(event.actor)
        told: dict[str, Any] = {
            "seq": event.seq,
            "eventId": f"{database_id}-{event.seq}",
            "type": event.type,
            "ts": timestamps.text(event.ts),
            "message": self.sentence(actor_name),
            "actor": event.actor,
            "id": event.session_id,
            "label": session.label,
            "userDescription": session.user_description,
            "status": event.status,
            "previousStatus": event.previous_status,
            "startTime": event.start_time and timestamps.text(event.start_time),
            "expiresAt": timestamps.text(event.expires_at),
            "seconds": self._seconds(),
            "user": {
                "id": session.agent_id,
                "name": session.user_description,
                "externalId": orjson.loads(session.created_by)["providerExternalId"],  # small, and made by us
            },
            "organization": session.organization_id,
            "settings": orjson.Fragment(session.settings),
            "createdByAgentSession": orjson.Fragment(session.created_by),
            "crmSyncTarget": _target(session),
            "stats": {"participants": event.participants},
        }
        extra: dict[str, Any] = {
            "previousStartTime": event.previous_start_time and timestamps.text(event.previous_start_time),
            "lagMs": self.lag_ms,
            "reason": event.reason,
            "participant": self.participant
            and {"id": self.participant.id, "role": self.participant.role, "name": self.participant.name},
            "participants": event.participants,
        }
        if actor_name is not None:
            told["actorName"] = actor_name
        told.update((name, extra[name]) for name in CATALOGUE[event.type].carries if extra[name] is not None)
        return told

    def json(self, database_id: str, names: ActorNames = NOBODY) -> bytes:
        """Return `payload` as bytes."""
        return orjson.dumps(self.payload(database_id, names))

    def _seconds(self) -> int:
        """Return the whole seconds that the session had been active when the event happened."""
        since = self.session.activated_at
        return 0 if since is None else max(0, int((self.event.ts - since).total_seconds()))


def _target(session: EventSession) -> orjson.Fragment | None:
    """Return the parent object with its mapping, combined as text."""
    parent = session.parent_object
    if parent is None:
        return None
    mapping = orjson.dumps({"externalMapping": session.external_mapping}).decode()
    if '"externalMapping"' in parent:  # a member that the caller has sent, or part of a text: no name may occur twice
        return orjson.Fragment(orjson.dumps(orjson.loads(parent) | orjson.loads(mapping)))
    return orjson.Fragment(f"{parent.rstrip()[:-1]},{mapping[1:]}")


def _actor(actor: str, name: str | None) -> str:
    """Return an actor as it stands in a sentence: `agent 6`, or `Ben Agent (agent 6)`."""
    if actor == "local":
        return "the local operator"
    number = actor.replace(":", " ")
    return f"{name} ({number})" if name else number


def _instant(instant: Any) -> str:
    return timestamps.text(instant) if instant else "an unknown time"
