"""Callers, requests, settings and sessions with defaults: a test sets only the fields that matter to it."""

from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import insert

from tests.support.clocks import NOW
from tminus.config import Settings
from tminus.config.settings import Lifecycle, Limits
from tminus.domain.lifecycle import transition_for
from tminus.domain.model import Session
from tminus.domain.types import Caller, CreateSession, Role, SessionType, Setting, Status, Timeouts, Trigger
from tminus.storage import Transaction
from tminus.storage.tables import SESSIONS

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def caller(*roles: Role, agent_id: int = 7, **fields: Any) -> Caller:
    """Return a caller with these roles; by default an agent."""
    return Caller(
        agent_id=agent_id,
        name=fields.pop("name", f"Agent {agent_id}"),
        external_id=fields.pop("external_id", f"external-{agent_id}"),
        roles=frozenset(roles or (Role.AGENT,)),
        **fields,
    )


AGENT = caller()
OTHER_AGENT = caller(agent_id=8)
SUPERVISOR = caller(Role.SUPERVISOR, agent_id=20)
GROUP_ADMIN = caller(Role.GROUP_ADMIN, agent_id=21)
MONITOR = caller(Role.MONITOR, agent_id=22)
ROOM = caller(Role.ROOM, agent_id=30)


def as_stored(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a session, with objects as JSON text, as they are stored."""
    return {
        name: orjson.dumps(value).decode() if isinstance(value, dict) and name != "preferences" else value
        for name, value in fields.items()
    }


def order(session_type: SessionType = SessionType.LIVE, **fields: Any) -> CreateSession:
    """Return a request to create a session, or to schedule it at `start_time`."""
    return CreateSession(type=session_type, label=fields.pop("label", "Ada’s meeting"), **as_stored(fields))


def settings(
    *, sessions_per_agent: int = 0, participants_per_session: int = 1000, **lifecycle: timedelta | None
) -> Settings:
    """Return the default settings except for `lead`, `new_timeout`, `empty_timeout`, `max_active`, `horizon`."""
    limits = Limits(sessions_per_agent=sessions_per_agent, participants_per_session=participants_per_session)
    return Settings(lifecycle=Lifecycle.model_validate(lifecycle), limits=limits)


def session(**fields: Any) -> Session:
    """Return a session as it is stored; by default a live session that is scheduled for an hour from now."""
    start: datetime | None = fields.get("start_time", NOW + HOUR)
    known: dict[str, Any] = {
        "id": "xoKwKRBrbwRF",
        "type": SessionType.LIVE,
        "status": Status.SCHEDULED,
        "label": "Ada’s meeting",
        "user_description": "Ada",
        "scheduled": start is not None,
        "agent_id": 7,
        "organization_id": 1,
        "created_by": {"sid": 3, "providerExternalId": "external-7"},
        "start_time": start,
        "expires_at": (start or NOW) + HOUR,
        "created_at": NOW,
        "updated_at": NOW,
        "host_auth_token": "T" * 32,
        "host_key": "K" * 32,
        "external_session_object_id": "0" * 32,
        "settings": {setting.value: False for setting in Setting},
        "user_url": "https://user.example/?xoKwKRBrbwRF",
        "host_url": "https://host.example/?xoKwKRBrbwRF",
    }
    return Session(**as_stored(known | fields))


def put(tx: Transaction, *sessions: Session) -> None:
    """Store sessions as they are, with the deadlines that they have, and without events."""
    tx.execute(insert(SESSIONS), [one.model_dump() for one in sessions])
    for one in sessions:
        tx.note_due(one.due_at)


def add(tx: Transaction, new: Session) -> None:
    """Store a new session as a command does, but without its event."""
    trigger = Trigger.SCHEDULE if new.status is Status.SCHEDULED else Trigger.CREATE
    tx.add(new, transition_for(trigger, None), Timeouts())
