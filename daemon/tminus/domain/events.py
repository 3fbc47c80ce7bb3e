"""The catalogue of events, and their text and JSON. No I/O.

The log, the history, the feed and webhooks use the names of this catalogue. `docs/events.md` is generated from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Protocol

import orjson

from tminus.domain import durations, timestamps
from tminus.domain.model import Event, Participant
from tminus.domain.types import REMINDER_EVENTS, CloseReason, EventType, SessionType

ActorNames = Mapping[str, str]
"""Actor as events contain it, such as `agent:7` -> name."""

NO_NAMES: ActorNames = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Entry:
    """The description of an event type."""

    when: str
    """When it happens."""
    sentence: str
    """The message of an event, after the words "Session ID LABEL"."""
    fields: tuple[str, ...] = ()
    """The fields that it has in addition to `COMMON_FIELDS`."""
    sentences: Mapping[str, str] = field(default_factory=dict)
    """Other sentences, by the kind of the actor: `host`, `room` (somebody in the daemon's own room) or `clock`."""


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
    EventType.REMINDER: Entry("a reminder of a session is due", "starts at {start}, in {before}", ("before", "lagMs")),
    EventType.REMINDER_SKIPPED: Entry(
        "a reminder is not sent, because the session has opened or started since it was due",
        "was not announced {before} before its start, because the scheduler was late",
        ("before", "lagMs"),
    ),
    EventType.KNOCKED: Entry("somebody waits to be admitted", "has {who} waiting for admission", ("participant",)),
    EventType.ADMITTED: Entry(
        "the host admits somebody who knocked; `participant.joined` follows",
        "admitted {who}",
        ("participant",),
        {"host": "admitted {who}, let in by {actor}"},
    ),
    EventType.DENIED: Entry(
        "the host denies somebody who knocked, or they stop waiting",
        "did not admit {who}",
        ("participant",),
        {
            "host": "did not admit {who}, refused by {actor}",
            "room": "did not admit {who}, who stopped waiting",
            "clock": "did not admit {who}, whom nobody answered in time",
        },
    ),
    EventType.JOINED: Entry("somebody joins", "was joined by {who}", ("participant", "participants")),
    EventType.LEFT: Entry(
        "somebody leaves, is removed, or does not reconnect in time after their connection was lost",
        "was left by {who}",
        ("participant", "participants"),
        {
            "host": "was left by {who}, put out by {actor}",
            "clock": "was left by {who}, whose connection was lost",
        },
    ),
}

COMMON_FIELDS = {
    "seq": "number of the event, in the order in which changes were committed; increases, and is never reused",
    "eventId": "unique id of the event: the id of the database and `seq`",
    "type": "the type of the event, such as `session.ready`",
    "ts": "when it happened",
    "message": "a sentence for people",
    "actor": "who caused it: `clock` (the scheduler), `agent:<id>`, `room:<id>`, `local` (the local socket), "
    "`room` (somebody in the daemon's own room), `host:<participant>` (a host in it)",
    "id": "id of the session",
    "label": "label of the session",
    "userDescription": "the agent's name, unless the request that created the session had another",
    "status": "the session's status after the event, not when the event is read",
    "previousStatus": "the session's status before the event; null for a new session",
    "startTime": "the session's `startTime` at the time of the event; null if it was not scheduled",
    "expiresAt": "the session's `expiresAt` at the time of the event",
    "seconds": "whole seconds that the session had been `active`",
    "user": "the agent whose session it is: `id`, `name`, `externalId`",
    "organization": "as in the session",
    "settings": "as in the session",
    "createdByAgentSession": "as in the session",
    "crmSyncTarget": "the parent object with its `externalMapping`; null if there is none",
    "stats": "`participants`: the number of people in the session after the event",
}
"""The fields of every event. Name -> description; times are in UTC with milliseconds, as everywhere."""

EXTRA_FIELDS = {
    "previousStartTime": "the start before the reschedule; absent if it is not known",
    "lagMs": "milliseconds by which the scheduler was late; absent if it did not cause the event",
    "before": "how long before the start the reminder was due: a duration such as `15m` or `1d`",
    "reason": "`cancelled`, `closed`, `expired`, `empty` or `time_limit`",
    "actorName": "the name of `actor`: of an agent in the present configuration, or of a host",
    "participant": "the participant: `id`, `role`, `name`",
    "participants": "the number of people in the session after the event",
}
"""The fields of some events; `Entry.fields` lists them for each type. Name -> description."""

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


def timeout_setting(event: Event) -> str | None:
    """Return the name of the time-out that closed the session; None if no time-out did."""
    return None if event.reason is None else _TIMEOUTS.get(event.reason)


class NamedSession(Protocol):
    """The fields by which people know a session."""

    @property
    def label(self) -> str: ...

    @property
    def parent_object(self) -> str | None: ...

    @property
    def external_mapping(self) -> str | None: ...


class LoggedSession(NamedSession, Protocol):
    """The fields of a session that the log line of an event needs."""

    @property
    def type(self) -> SessionType: ...

    @property
    def agent_id(self) -> int: ...

    @property
    def user_description(self) -> str: ...


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
    """An event with the fields that the log needs. Most events are read only for the log."""

    event: Event
    session: LoggedSession
    participant: Participant | None = None
    host: str | None = None
    """The name of the host who caused it; None if no host did."""

    @property
    def lag_ms(self) -> int | None:
        """Milliseconds from the deadline to the transition; None if the scheduler did not cause it."""
        if self.event.due_at is None:
            return None
        return max(0, timestamps.milliseconds(self.event.ts - self.event.due_at))

    @property
    def before(self) -> str | None:
        """How long before the start a reminder was due, such as `15m`; None for other events."""
        start, due = self.event.start_time, self.event.due_at
        if self.event.type not in REMINDER_EVENTS or start is None or due is None:
            return None
        return durations.duration_text(start - due)

    @property
    def message(self) -> str:
        """A sentence for people, without secrets."""
        return self.sentence()

    def actor_name(self, names: ActorNames) -> str | None:
        """Return the name of the actor: that of the host, or one of `names`; None if it is not known."""
        return self.host or names.get(self.event.actor)

    def sentence(self, actor_name: str | None = None) -> str:
        """Return the message, with the name of the actor if it is known."""
        event, entry = self.event, CATALOGUE[self.event.type]
        sentence = entry.sentences.get(event.actor.partition(":")[0], entry.sentence)
        if event.actor.startswith("room:"):
            sentence = entry.sentence  # another system reports that it happened, but not why
        sentence = sentence.format(
            who=self.participant.name if self.participant else "somebody",
            actor=_actor(event.actor, actor_name),
            start=_time(event.start_time),
            previous_start=_time(event.previous_start_time),
            before=self.before,
            reason=event.reason and _CLOSED[event.reason].format(actor=_actor(event.actor, actor_name)),
        )
        return f"Session {event.session_id} “{self.session.label}” {sentence}"


@dataclass(frozen=True, slots=True)
class FeedEvent(LogEvent):
    """An event with all its fields, for history, feed and webhooks."""

    session: EventSession

    def payload(self, database_id: str, names: ActorNames = NO_NAMES) -> dict[str, Any]:
        """Return the event as a flat JSON object with the field names of the original API and without secrets.

        `names`: the names of the known actors. Stored JSON is not parsed; it is inserted as text.
        """
        event, session = self.event, self.session
        actor_name = self.actor_name(names)
        payload: dict[str, Any] = {
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
                "externalId": orjson.loads(session.created_by)["providerExternalId"],  # small JSON that tminus wrote
            },
            "organization": session.organization_id,
            "settings": orjson.Fragment(session.settings),
            "createdByAgentSession": orjson.Fragment(session.created_by),
            "crmSyncTarget": _target(session),
            "stats": {"participants": event.participants},
        }
        extra: dict[str, Any] = {
            "previousStartTime": event.previous_start_time and timestamps.text(event.previous_start_time),
            "before": self.before,
            "lagMs": self.lag_ms,
            "reason": event.reason,
            "participant": self.participant
            and {"id": self.participant.id, "role": self.participant.role, "name": self.participant.name},
            "participants": event.participants,
        }
        if actor_name is not None:
            payload["actorName"] = actor_name
        payload.update((name, extra[name]) for name in CATALOGUE[event.type].fields if extra[name] is not None)
        return payload

    def json(self, database_id: str, names: ActorNames = NO_NAMES) -> bytes:
        """Return `payload` as bytes."""
        return orjson.dumps(self.payload(database_id, names))

    def _seconds(self) -> int:
        """Return the whole seconds that the session had been active when the event happened."""
        since = self.session.activated_at
        return 0 if since is None else max(0, int((self.event.ts - since).total_seconds()))


def _target(session: EventSession) -> orjson.Fragment | None:
    """Return the parent object with `externalMapping` as its last member, combined as text."""
    parent = session.parent_object
    if parent is None:
        return None
    mapping = orjson.dumps({"externalMapping": session.external_mapping}).decode()
    # The object may already have this member, or contain the name in a text. No name may occur twice, so it is parsed.
    if '"externalMapping"' in parent:
        return orjson.Fragment(orjson.dumps(orjson.loads(parent) | orjson.loads(mapping)))
    return orjson.Fragment(f"{parent.rstrip()[:-1]},{mapping[1:]}")


def _actor(actor: str, name: str | None) -> str:
    """Return an actor as words for a sentence: `agent 6`, or `Ben Agent (agent 6)`."""
    if actor == "local":
        return "the local operator"
    number = actor.replace(":", " ")
    return f"{name} ({number})" if name else number


def _time(instant: datetime | None) -> str:
    return timestamps.text(instant) if instant else "an unknown time"
