"""The catalogue of events: their fields and messages in the feed, the history and the log."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest
from tests.support.clocks import NOW
from tests.support.factories import session

from tminus.domain.events import CATALOGUE, COMMON_FIELDS, EXTRA_FIELDS, FeedEvent
from tminus.domain.lifecycle import TABLE, transition_for
from tminus.domain.model import Event, Participant, Session
from tminus.domain.types import REMINDER_EVENTS, CloseReason, EventType, ParticipantRole, Status, Trigger
from tminus.logs.catalogue import LOG_LINES
from tminus.logs.event_fields import EVENT_FIELDS, log_fields
from tminus.logs.fields import FIELDS, fits

COMMON = {
    "seq", "eventId", "type", "ts", "message", "actor", "id", "label", "userDescription", "status", "previousStatus",
    "startTime", "expiresAt", "seconds", "user", "organization", "settings", "createdByAgentSession", "crmSyncTarget",
    "stats",
}  # fmt: skip

EXTRA_FIELDS_OF: dict[str, set[str]] = {
    "session.created": set(),
    "session.scheduled": set(),
    "session.rescheduled": {"previousStartTime"},
    "session.ready": {"lagMs"},
    "session.active": {"participant"},
    "session.closed": {"reason", "lagMs"},
    "session.reminder": {"before", "lagMs"},
    "session.reminder_skipped": {"before", "lagMs"},
    "participant.knocked": {"participant"},
    "participant.admitted": {"participant"},
    "participant.denied": {"participant"},
    "participant.joined": {"participant", "participants"},
    "participant.left": {"participant", "participants"},
}

PIN, HOST_TOKEN, HOST_KEY = 731_905, "HostTokenHostTokenHostTokenHostT", "HostKeyHostKeyHostKeyHostKeyHost"
GRACE = Participant(
    id="p-1", session_id="xoKwKRBrbwRF", role=ParticipantRole.GUEST, name="Grace", joined_at=NOW
)  # fmt: skip


def _event(event_type: EventType, **fields: Any) -> FeedEvent:
    """Return an event with all fields."""
    defaults: dict[str, Any] = {
        "seq": 41,
        "session_id": "xoKwKRBrbwRF",
        "type": event_type,
        "ts": NOW,
        "actor": "clock",
        "previous_status": Status.ACTIVE,
        "status": Status.CLOSED,
        "start_time": NOW,
        "previous_start_time": NOW - timedelta(hours=1),
        "expires_at": NOW + timedelta(hours=1),
        "due_at": NOW - timedelta(milliseconds=1234),
        "reason": CloseReason.EXPIRED,
        "participant_id": "p-1",
        "participants": 2,
        "request_id": "r-9",
    }
    return FeedEvent(Event(**defaults | fields), _session(), GRACE)


def _session() -> Session:
    return session(
        pin=PIN,
        host_auth_token=HOST_TOKEN,
        host_key=HOST_KEY,
        activated_at=NOW - timedelta(seconds=90, milliseconds=7),
        external_mapping="INC0010001",
        parent_object={"id": "1", "type": "incident", "name": "Incident INC0010001", "app": "servicenow"},
        user_url=f"https://user.example/{PIN}",
        host_url=f"https://host.example/?x#host={HOST_KEY}",
    )


def test_the_catalogue_has_every_event_type_and_its_fields() -> None:
    assert {event_type.value: set(entry.fields) for event_type, entry in CATALOGUE.items()} == EXTRA_FIELDS_OF, (
        "add the event to EXTRA_FIELDS_OF"
    )
    assert set(CATALOGUE) == set(EventType)
    assert set(COMMON_FIELDS) == COMMON
    assert set(EXTRA_FIELDS) == {"actorName"}.union(*EXTRA_FIELDS_OF.values())


@pytest.mark.parametrize("event_type", EventType)
def test_a_payload_has_the_common_fields_and_those_of_its_type_only(event_type: EventType) -> None:
    assert set(_event(event_type).payload("d1")) == COMMON | EXTRA_FIELDS_OF[event_type]


@pytest.mark.parametrize("event_type", EventType)
def test_neither_a_payload_nor_a_log_line_holds_a_pin_a_host_token_or_a_host_key(event_type: EventType) -> None:
    event = _event(event_type)
    text = orjson.dumps([event.payload("d1"), event.message, log_fields(event)]).decode()
    assert "xoKwKRBrbwRF" in text
    for secret in (str(PIN), HOST_TOKEN, HOST_KEY):
        assert secret not in text


def test_a_payload_has_the_values_at_the_time_of_the_event() -> None:
    payload = _event(EventType.CLOSED).payload("d1")
    assert orjson.loads(orjson.dumps(payload)) == {
        "seq": 41,
        "eventId": "d1-41",
        "type": "session.closed",
        "ts": "2030-01-07T09:00:00.000Z",
        "message": "Session xoKwKRBrbwRF “Ada’s meeting” expired, nobody joined in time",
        "actor": "clock",
        "id": "xoKwKRBrbwRF",
        "label": "Ada’s meeting",
        "userDescription": "Ada",
        "status": "closed",
        "previousStatus": "active",
        "startTime": "2030-01-07T09:00:00.000Z",
        "expiresAt": "2030-01-07T10:00:00.000Z",
        "seconds": 90,
        "user": {"id": 7, "name": "Ada", "externalId": "external-7"},
        "organization": 1,
        "settings": dict.fromkeys(("recording", "startwithadmin", "startwithrc", "knock", "audio"), False),
        "createdByAgentSession": {"sid": 3, "providerExternalId": "external-7"},
        "crmSyncTarget": {
            "id": "1",
            "type": "incident",
            "name": "Incident INC0010001",
            "app": "servicenow",
            "externalMapping": "INC0010001",
        },
        "stats": {"participants": 2},
        "reason": "expired",
        "lagMs": 1234,
    }


def test_an_extra_field_without_a_value_is_left_out() -> None:
    event = _event(EventType.CLOSED, due_at=None, previous_start_time=None)
    assert event.lag_ms is None
    assert "lagMs" not in event.payload("d1")


def test_the_lag_is_zero_for_a_punctual_transition_and_after_a_step_back() -> None:
    assert _event(EventType.READY, due_at=NOW).payload("d1")["lagMs"] == 0
    assert _event(EventType.READY, due_at=NOW + timedelta(hours=1)).payload("d1")["lagMs"] == 0


def test_seconds_is_0_for_a_session_that_was_never_active() -> None:
    event = FeedEvent(_event(EventType.CLOSED).event, session())
    assert event.payload("d1")["seconds"] == 0


@pytest.mark.parametrize(
    ("event_type", "sentence"),
    [
        (EventType.CREATED, "was created and is open"),
        (EventType.SCHEDULED, "was scheduled for 2030-01-07T09:00:00.000Z"),
        (EventType.RESCHEDULED, "was rescheduled from 2030-01-07T08:00:00.000Z to 2030-01-07T09:00:00.000Z"),
        (EventType.READY, "is open and starts at 2030-01-07T09:00:00.000Z"),
        (EventType.ACTIVE, "is active, with its first participant"),
        (EventType.CLOSED, "expired, nobody joined in time"),
        (EventType.KNOCKED, "has Grace waiting for admission"),
        (EventType.ADMITTED, "admitted Grace"),
        (EventType.DENIED, "did not admit Grace, whom nobody answered in time"),
        (EventType.JOINED, "was joined by Grace"),
        (EventType.LEFT, "was left by Grace, whose connection was lost"),
    ],
)
def test_a_message_is_a_sentence_about_a_session_by_id_and_label(event_type: EventType, sentence: str) -> None:
    assert _event(event_type).message == f"Session xoKwKRBrbwRF “Ada’s meeting” {sentence}"


@pytest.mark.parametrize(
    ("event_type", "actor", "sentence"),
    [
        (EventType.ADMITTED, "host:h-1", "admitted Grace, let in by Ada (host h-1)"),
        (EventType.ADMITTED, "room:9", "admitted Grace"),
        (EventType.DENIED, "host:h-1", "did not admit Grace, refused by Ada (host h-1)"),
        (EventType.DENIED, "room", "did not admit Grace, who stopped waiting"),
        (EventType.DENIED, "room:9", "did not admit Grace"),
        (EventType.LEFT, "host:h-1", "was left by Grace, put out by Ada (host h-1)"),
        (EventType.LEFT, "room", "was left by Grace"),
        (EventType.LEFT, "room:9", "was left by Grace"),
        (EventType.LEFT, "agent:7", "was left by Grace"),
    ],
)
def test_a_message_names_the_host_who_admitted_refused_or_removed_a_participant(
    event_type: EventType, actor: str, sentence: str
) -> None:
    event = _event(event_type, actor=actor)
    event = replace(event, host="Ada" if actor.startswith("host:") else None)
    assert event.payload("d1")["message"] == f"Session xoKwKRBrbwRF “Ada’s meeting” {sentence}"
    assert event.payload("d1").get("actorName") == event.host


@pytest.mark.parametrize("event_type", EventType)
def test_a_log_line_has_the_published_fields_that_have_a_value(event_type: EventType) -> None:
    full = log_fields(_event(event_type), "Ben Agent")
    only_reminders = set() if event_type in REMINDER_EVENTS else {"before"}
    assert set(full) == set(EVENT_FIELDS) - only_reminders
    bare = _event(event_type, due_at=None, reason=None, participant_id=None, request_id=None, previous_status=None)
    assert set(full) - set(log_fields(bare)) == {
        "actor_name", "lag_ms", "reason", "timeout", "participant_id", "request_id", "previous_status",
        *({"before"} - only_reminders),
    }  # fmt: skip
    assert all(fits(FIELDS[name].kind, value) for name, value in full.items())


def test_every_transition_records_an_event_and_only_joins_and_admissions_record_several() -> None:
    assert {(row.source, row.trigger): row.events for row in TABLE if len(row.events) != 1} == {
        (Status.NEW, Trigger.JOIN): (EventType.ACTIVE, EventType.JOINED),
        (Status.NEW, Trigger.ADMIT): (EventType.ACTIVE, EventType.ADMITTED, EventType.JOINED),
        (Status.ACTIVE, Trigger.ADMIT): (EventType.ADMITTED, EventType.JOINED),
    }
    assert {event_type for row in TABLE for event_type in row.events} == set(EventType) - REMINDER_EVENTS


@pytest.mark.parametrize(
    ("trigger", "status", "event_type"),
    [
        (Trigger.CREATE, None, EventType.CREATED),
        (Trigger.SCHEDULE, None, EventType.SCHEDULED),
        (Trigger.RESCHEDULE, Status.SCHEDULED, EventType.RESCHEDULED),
        (Trigger.OPEN, Status.SCHEDULED, EventType.READY),
        (Trigger.KNOCK, Status.NEW, EventType.KNOCKED),
        (Trigger.DENY, Status.ACTIVE, EventType.DENIED),
        (Trigger.JOIN, Status.ACTIVE, EventType.JOINED),
        (Trigger.LEAVE, Status.ACTIVE, EventType.LEFT),
        (Trigger.EXPIRE, Status.NEW, EventType.CLOSED),
        (Trigger.IDLE, Status.ACTIVE, EventType.CLOSED),
        (Trigger.TIME_LIMIT, Status.ACTIVE, EventType.CLOSED),
        (Trigger.CLOSE, Status.SCHEDULED, EventType.CLOSED),
    ],
)
def test_a_transition_is_recorded_under_its_own_event_type(
    trigger: Trigger, status: Status | None, event_type: EventType
) -> None:
    assert transition_for(trigger, status).events == (event_type,)


def test_no_log_line_has_the_name_of_an_event_type() -> None:
    assert not set(LOG_LINES) & {event_type.value for event_type in EventType}
