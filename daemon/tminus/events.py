"""The catalogue: every name that tminus tells others, once. Pure.

A name here is the same name in the history, in the feed and in the log. `docs/events.md` is checked against it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from tminus import instants
from tminus.lifecycle import Transition
from tminus.model import Event, Participant
from tminus.vocabulary import EventType, Status, Trigger


@dataclass(frozen=True, slots=True)
class Entry:
    """A kind of event: when it happens, what a person is told, and what it carries besides the common fields."""

    when: str
    says: str
    """What follows "Session ID LABEL"."""
    carries: tuple[str, ...] = ()


CATALOGUE = {
    EventType.CREATED: Entry("a session is made to start now", "was created and is open"),
    EventType.SCHEDULED: Entry("a session is made for later", "was scheduled for {start}"),
    EventType.RESCHEDULED: Entry(
        "a scheduled session is moved", "was moved from {previous_start} to {start}", ("previousStartTime",)
    ),
    EventType.READY: Entry("a scheduled session opens", "is open, it starts at {start}", ("lagMs",)),
    EventType.ACTIVE: Entry("the first participant joins", "is active: {who} joined", ("participant",)),
    EventType.CLOSED: Entry("a session is over", "is closed ({reason})", ("reason", "lagMs")),
    EventType.KNOCKED: Entry("somebody waits to be let in", "has {who} waiting to be let in", ("participant",)),
    EventType.ADMITTED: Entry(
        "somebody who knocked is let in; `participant.joined` follows", "let {who} in", ("participant",)
    ),
    EventType.DENIED: Entry(
        "somebody who knocked is not let in, or has gone away", "did not let {who} in", ("participant",)
    ),
    EventType.JOINED: Entry("somebody joins", "was joined by {who}", ("participant", "participants")),
    EventType.LEFT: Entry("somebody leaves", "was left by {who}", ("participant", "participants")),
}

COMMON_FIELDS = (
    "seq", "eventId", "type", "ts", "message", "actor", "id", "label", "userDescription", "status", "previousStatus",
    "startTime", "expiresAt", "seconds", "user", "organization", "settings", "createdByAgentSession", "crmSyncTarget",
    "stats",
)  # fmt: skip

_EVENTS_OF = {
    Trigger.CREATE: (EventType.CREATED,),
    Trigger.SCHEDULE: (EventType.SCHEDULED,),
    Trigger.RESCHEDULE: (EventType.RESCHEDULED,),
    Trigger.OPEN: (EventType.READY,),
    Trigger.KNOCK: (EventType.KNOCKED,),
    Trigger.ADMIT: (EventType.ADMITTED, EventType.JOINED),
    Trigger.DENY: (EventType.DENIED,),
    Trigger.JOIN: (EventType.JOINED,),
    Trigger.LEAVE: (EventType.LEFT,),
    Trigger.EXPIRE: (EventType.CLOSED,),
    Trigger.IDLE: (EventType.CLOSED,),
    Trigger.TIME_LIMIT: (EventType.CLOSED,),
    Trigger.CLOSE: (EventType.CLOSED,),
}


def told_by(move: Transition) -> tuple[EventType, ...]:
    """The events that a move is told by, in order: first that it makes the session active, if it does."""
    if move.source is Status.NEW and move.dest is Status.ACTIVE:
        return (EventType.ACTIVE, *_EVENTS_OF[move.trigger])
    return _EVENTS_OF[move.trigger]


class Named(Protocol):
    """All that a line of the log says of a session."""

    @property
    def label(self) -> str: ...

    @property
    def external_mapping(self) -> str | None: ...


class About(Named, Protocol):
    """All that an event says of its session: a `Session`, or as much of one."""

    @property
    def user_description(self) -> str: ...

    @property
    def agent_id(self) -> int: ...

    @property
    def organization_id(self) -> int: ...

    @property
    def created_by(self) -> dict[str, Any]: ...

    @property
    def settings(self) -> dict[str, bool]: ...

    @property
    def parent_object(self) -> dict[str, Any] | None: ...

    @property
    def activated_at(self) -> datetime | None: ...


@dataclass(frozen=True, slots=True)
class News:
    """An event with as much as the log tells: every event is read for it, most of them for nothing else."""

    event: Event
    session: Named
    participant: Participant | None = None

    @property
    def lag_ms(self) -> int | None:
        """How late the clock was; None where somebody else made the move."""
        if self.event.due_at is None:
            return None
        return max(0, instants.milliseconds(self.event.ts - self.event.due_at))

    @property
    def message(self) -> str:
        """A sentence for people. It names no secret."""
        event = self.event
        said = CATALOGUE[event.type].says.format(
            who=self.participant.name if self.participant else "somebody",
            start=_instant(event.start_time),
            previous_start=_instant(event.previous_start_time),
            reason=event.reason,
        )
        return f"Session {event.session_id} “{self.session.label}” {said}"


@dataclass(frozen=True, slots=True)
class Told(News):
    """An event with all that it is about: as the store hands it to history, feed and webhooks."""

    session: About

    def payload(self, database_id: str) -> dict[str, Any]:
        """The event as JSON has it: flat, in the original's spelling. Never a PIN, a host's token or key, a token."""
        event, session = self.event, self.session
        told: dict[str, Any] = {
            "seq": event.seq,
            "eventId": f"{database_id}-{event.seq}",
            "type": event.type,
            "ts": instants.text(event.ts),
            "message": self.message,
            "actor": event.actor,
            "id": event.session_id,
            "label": session.label,
            "userDescription": session.user_description,
            "status": event.status,
            "previousStatus": event.previous_status,
            "startTime": event.start_time and instants.text(event.start_time),
            "expiresAt": instants.text(event.expires_at),
            "seconds": self._seconds(),
            "user": {
                "id": session.agent_id,
                "name": session.user_description,
                "externalId": session.created_by["providerExternalId"],
            },
            "organization": session.organization_id,
            "settings": session.settings,
            "createdByAgentSession": session.created_by,
            "crmSyncTarget": session.parent_object
            and {**session.parent_object, "externalMapping": session.external_mapping},
            "stats": {"participants": event.participants},
        }
        extra: dict[str, Any] = {
            "previousStartTime": event.previous_start_time and instants.text(event.previous_start_time),
            "lagMs": self.lag_ms,
            "reason": event.reason,
            "participant": self.participant
            and {"id": self.participant.id, "role": self.participant.role, "name": self.participant.name},
            "participants": event.participants,
        }
        told.update((name, extra[name]) for name in CATALOGUE[event.type].carries if extra[name] is not None)
        return told

    def _seconds(self) -> int:
        """Whole seconds in `active` at that moment."""
        since = self.session.activated_at
        return 0 if since is None else max(0, int((self.event.ts - since).total_seconds()))


def _instant(instant: Any) -> str:
    return instants.text(instant) if instant else "an unknown time"


# --- the log ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """A kind of log line that is no session event: what it says, how grave it is, which fields it has."""

    level: str
    says: str
    """The sentence; `{name}` stands for a field of the line that is always there."""
    fields: tuple[str, ...] = ()


LOG_LINES = {
    "daemon.starting": Line(
        "info", "tminus {version} starts: configuration {config}, state in {state}", ("version", "config", "state")
    ),
    "daemon.ready": Line(
        "info",
        "listening on {url}, and all that was due is done; try: {hint}",
        ("url", "socket", "passed", "next_due", "sessions", "hint"),
    ),
    "daemon.heartbeat": Line(
        "info",
        "the daemon lives; sent every `log.heartbeat`",
        ("sessions", "next_due", "worst_lag_ms", "requests", "oldest_undelivered", "unreadable"),
    ),
    "daemon.draining": Line("info", "told to stop ({signal}): no new work, running requests finish", ("signal",)),
    "daemon.stopped": Line("info", "everything acknowledged is stored, the daemon ends"),
    "daemon.failed": Line("critical", "{error}", ("error",)),
    "log.behind": Line("info", "{events} events are not in the log yet: the next start goes on there", ("events",)),
    "config.reloaded": Line("info", "a new configuration is in force", ("changes",)),
    "config.failed": Line("error", "the configuration could not be put in force ({error})", ("error", "traceback")),
    "config.changed": Line("info", "{key} was {old}, now is {new}", ("key", "old", "new")),
    "config.needs_restart": Line(
        "warning", "{key} stays {old} until the next start, then is {new}", ("key", "old", "new")
    ),
    "config.rejected": Line(
        "error", "the new configuration has {faults} faults: the old one stays in force", ("faults",)
    ),
    "config.fault": Line("error", "{where}: {key} {error}", ("where", "key", "error")),
    "storage.waiting": Line("info", "others use the tables, or bring the schema up to date; this one waits to do so"),
    "storage.migrated": Line("info", "the database's schema was brought up to date", ("from", "to")),
    "storage.unavailable": Line("error", "the database cannot be written ({error}); it is tried again", ("error",)),
    "storage.recovered": Line("info", "the database can be written again"),
    "storage.damaged": Line(
        "error",
        "the database is damaged ({error}): see what `tminus db check` says, and restore a backup (docs/backup.md)",
        ("error",),
    ),
    "clock.late": Line("warning", "{moves} sessions were moved late, by up to {lag_ms} ms", ("lag_ms", "moves")),
    "clock.stepped": Line("warning", "the wall clock was set by {step_ms} ms: the timers were set anew", ("step_ms",)),
    "clock.failed": Line("error", "{job} failed ({error}); it is tried again", ("job", "error", "traceback")),
    "clock.no_pin": Line(
        "error", "{waiting} sessions cannot open, every PIN is in use; it is tried again", ("waiting",)
    ),
    "deadlines.moved": Line("info", "{moved} stored deadlines follow the new lifecycle settings", ("moved",)),
    "retention.removed": Line(
        "info", "{removed} closed sessions, older than `storage.retention`, were removed", ("removed",)
    ),
    "auth.failed": Line("warning", "a wrong, expired or revoked token from {remote_ip}", ("remote_ip", "request_id")),
    "auth.limited": Line(
        "warning", "too many wrong tokens from {remote_ip}: it has to wait", ("remote_ip", "request_id")
    ),
    "auth.signed_in": Line(
        "info", "agent {agent} signed in from {remote_ip}", ("agent", "sid", "remote_ip", "request_id")
    ),
    "auth.signed_out": Line("info", "agent {agent} signed out", ("agent", "sid", "remote_ip", "request_id")),
    "pin.unknown": Line(
        "warning", "a look-up of a PIN that no open session has, from {remote_ip}", ("remote_ip", "request_id")
    ),
    "pin.limited": Line(
        "warning", "too many PIN look-ups from {remote_ip}: it has to wait", ("remote_ip", "request_id")
    ),
    "webhook.added": Line("info", "endpoint {endpoint} is told what happens, from {from}", ("endpoint", "from")),
    "webhook.failed": Line(
        "warning",
        "endpoint {endpoint} was not reached ({error}), for the {tries}. time; tried again at {retry_at}",
        ("endpoint", "error", "tries", "retry_at", "status"),
    ),
    "webhook.recovered": Line("info", "endpoint {endpoint} is reached again, at try {tries}", ("endpoint", "tries")),
    "webhook.paused": Line(
        "error",
        "endpoint {endpoint} is PAUSED ({reason}: {error}): nothing is sent or lost until `tminus webhooks resume`",
        ("endpoint", "reason", "error", "tries"),
    ),
    "webhook.resumed": Line("info", "endpoint {endpoint} is told again, from where it was", ("endpoint",)),
    "webhook.replayed": Line("info", "replay {replay} to endpoint {endpoint} is done", ("endpoint", "replay")),
    "webhook.replay_ended": Line(
        "error", "replay {replay} to endpoint {endpoint} was given up: {error}", ("endpoint", "replay", "error")
    ),
    "webhook.defect": Line(
        "error", "serving endpoint {endpoint} met a defect of tminus: {error}", ("endpoint", "error", "traceback")
    ),
    "http.request": Line(
        "info",
        "{method} {route} was answered with {code} in {ms} ms",
        ("method", "route", "code", "refcode", "ms", "agent", "remote_ip", "request_id"),
    ),
    "http.failed": Line(
        "error",
        "{method} {route} met a defect of tminus: {error}",
        ("method", "route", "error", "traceback", "request_id"),
    ),
    "http.full": Line(
        "error",
        "{connections} connections are open, and no more may be with {limit} open files at the most (LimitNOFILE=)",
        ("connections", "limit"),
    ),
    "library.said": Line("warning", "{logger}: {error}", ("logger", "error", "traceback")),
}

EVENT_FIELDS = (
    "seq", "session_id", "external_key", "from", "to", "start", "reason", "lag_ms", "participant", "actor",
    "request_id",
)  # fmt: skip
"""The fields of the line that a session event is printed as; absent where there is nothing to say."""


def log_fields(told: News) -> dict[str, Any]:
    """What the log says of an event, by the names of `EVENT_FIELDS`."""
    event = told.event
    fields = {
        "seq": event.seq,
        "session_id": event.session_id,
        "external_key": told.session.external_mapping,
        "from": event.previous_status,
        "to": event.status,
        "start": event.start_time and instants.text(event.start_time),
        "reason": event.reason,
        "lag_ms": told.lag_ms,
        "participant": event.participant_id,
        "actor": event.actor,
        "request_id": event.request_id,
    }
    return {name: value for name, value in fields.items() if value is not None}
