"""The log fields of session events."""

from typing import Any

import orjson

from tminus.domain import timestamps
from tminus.domain.events import LogEvent, NamedSession, timeout_setting
from tminus.domain.types import LOCAL_AGENT_ID

EVENT_FIELDS = (
    "seq", "session_id", "session_type", "label", "owner", "owner_name", "external_key", "record_table", "record_id",
    "record_name", "previous_status", "status", "start", "previous_start", "reason", "timeout", "before", "lag_ms",
    "participant_id", "participant_name", "participant_role", "participants", "actor", "actor_name",
    "request_id",
)  # fmt: skip
"""The fields of the log line of a session event. Fields without a value are absent."""


def parsed_record(parent_object: str | None) -> dict[str, Any]:
    """Parse the `parentObject` of a session: the record that it belongs to. Empty if there is none."""
    record: dict[str, Any] = orjson.loads(parent_object) if parent_object else {}
    return record


def session_fields(session: NamedSession) -> dict[str, str | None]:
    """Return the fields by which operators look for a session, for lines that are not events."""
    return {
        "label": session.label,
        "external_key": session.external_mapping,
        "record_name": parsed_record(session.parent_object).get("name"),
    }


def log_fields(recorded: LogEvent, actor_name: str | None = None) -> dict[str, Any]:
    """Return the log fields of an event, by the names in `EVENT_FIELDS`."""
    event, session, participant = recorded.event, recorded.session, recorded.participant
    record = parsed_record(session.parent_object)
    fields = {
        "seq": event.seq,
        "session_id": event.session_id,
        "session_type": session.type,
        "label": session.label,
        "owner": "local" if session.agent_id == LOCAL_AGENT_ID else f"agent:{session.agent_id}",
        "owner_name": session.user_description,
        "external_key": session.external_mapping,
        "record_table": record.get("type"),
        "record_id": record.get("id"),
        "record_name": record.get("name"),
        "previous_status": event.previous_status,
        "status": event.status,
        "start": event.start_time and timestamps.text(event.start_time),
        "previous_start": event.previous_start_time and timestamps.text(event.previous_start_time),
        "reason": event.reason,
        "timeout": timeout_setting(event),
        "before": recorded.before,
        "lag_ms": recorded.lag_ms,
        "participant_id": event.participant_id,
        "participant_name": participant.name if participant else None,
        "participant_role": participant.role if participant else None,
        "participants": event.participants if participant else None,
        "actor": event.actor,
        "actor_name": actor_name,
        "request_id": event.request_id,
    }
    return {name: value for name, value in fields.items() if value is not None}
