"""Convert model objects to JSON responses: the names of fields, and who may see them."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import orjson

from tminus import schemas
from tminus.config import Settings
from tminus.delivery import EndpointStatus
from tminus.domain import policy, timestamps
from tminus.domain.intervals import Interval
from tminus.domain.model import Delivery, Session
from tminus.domain.types import Caller, SessionType, Status
from tminus.sessions.authorization import may_see_secrets
from tminus.sessions.batches import Plan
from tminus.sessions.commands import public_agent_session, public_roles
from tminus.storage import Active


def session(session: Session, caller: Caller, now: datetime) -> schemas.Session:
    """Return a session with the fields that this caller may see."""
    text = timestamps.text
    sees_secrets = may_see_secrets(caller, session)
    user = session.user_url if sees_secrets else _link_without_pin(session)
    shown: schemas.Session = {
        "unattended": False,
        "scheduled": session.scheduled,
        "id": session.id,
        "type": session.type.value,
        "label": session.label,
        "userDescription": session.user_description,
        "ExternalUserId": session.agent_id,
        "OrganizationId": session.organization_id,
        "createdByAgentSession": orjson.Fragment(session.created_by),  # type: ignore[typeddict-item]  # stored as it is shown
        "status": session.status.value,
        "updatedAt": text(session.updated_at),
        "createdAt": text(session.created_at),
        "pin": session.pin,
        "expiresAt": text(session.expires_at),
        "settings": orjson.Fragment(session.settings),  # type: ignore[typeddict-item]  # likewise
        "externalSessionObjectId": session.external_session_object_id,
        "urls": {"user": user},
        "version": session.version,
        "openedAt": _text(session.opened_at),
        "activatedAt": _text(session.activated_at),
        "closedAt": _text(session.closed_at),
        "closeReason": session.close_reason.value if session.close_reason else None,
        "durationSeconds": session.active_seconds(now),
        "externalMapping": session.external_mapping,
        "parentObject": _as_stored(session.parent_object),
        "metaData": _as_stored(session.meta_data),
        "reminders": orjson.Fragment(session.reminders or "[]"),  # type: ignore[typeddict-item]  # likewise
        "seriesId": session.series_id,
        "seriesStart": session.series_start,
        "participants": session.participants,
    }
    if session.start_time is not None:
        shown["startTime"] = text(session.start_time)
    if session.status is Status.SCHEDULED and session.due_at is not None:
        shown["opensAt"] = text(session.due_at)
    if sees_secrets:
        shown["hostAuthToken"] = session.host_auth_token
        shown["urls"]["host"] = host_link(session)
        shown["invitees"] = [] if session.invitees is None else orjson.Fragment(session.invitees)  # type: ignore[typeddict-item]
    else:
        shown["pin"] = 0  # the PIN admits to the session
    return shown


def host_link(session: Session) -> str:
    """Return the link with which a host joins. Only callers who `may_see_secrets` may get it."""
    return f"{session.host_url}#host={session.host_key}"


def user_link(session: Session, caller: Caller) -> str:
    """Return the link with which users join, without a PIN for callers who may see the session but not join it."""
    return session.user_url if may_see_secrets(caller, session) else _link_without_pin(session)


def _link_without_pin(session: Session) -> str:
    return f"{_users_page(session)}?{session.id}"


def planned(plan: Plan) -> schemas.PlannedSession:
    """Return a session as it would be after a batch."""
    return {
        "id": plan.id,
        "type": plan.type.value,
        "label": plan.label,
        "status": plan.status.value,
        "startTime": _text(plan.start_time),
        "opensAt": _text(plan.opens_at),
        "expiresAt": timestamps.text(plan.expires_at),
    }


def _users_page(session: Session) -> str:
    """Return the URL of the users' page without the PIN or session id at its end."""
    head, mark, _ = session.user_url.partition("?")
    return head if mark else f"{head.rpartition('/')[0]}/"


def _as_stored(text: str | None) -> Any:
    """Return stored JSON text for output without parsing it again."""
    return None if text is None else orjson.Fragment(text)


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else timestamps.text(instant)


def session_page(count: int, sessions: Iterable[Session], caller: Caller, now: datetime) -> bytes:
    """Return a page of a session list as JSON."""
    return orjson.dumps({"count": count, "rows": [session(one, caller, now) for one in sessions]})


def search_page(sessions: Sequence[Session], following: int | None, caller: Caller, now: datetime) -> bytes:
    """Return a page of search results as JSON; `following` is the offset of the next page."""
    rows = [session(one, caller, now) for one in sessions]
    return orjson.dumps({"count": len(rows), "rows": rows, "next": following})


def history(events: Iterable[bytes], following: int) -> bytes:
    """Return a page of events as JSON; `following` is the cursor of the next page."""
    return b'{"events":[%s],"next":%d}' % (b",".join(events), following)


def free_busy(agent_id: int, busy: Iterable[Interval], start: datetime, end: datetime) -> schemas.FreeBusy:
    """Return the times between `start` and `end` at which an agent is busy."""
    text = timestamps.text
    times: list[schemas.BusyInterval] = [{"start": text(one.start), "end": text(one.end)} for one in busy]
    return {"agent": agent_id, "start": text(start), "end": text(end), "busy": times}


def pin_meta(session: Session) -> schemas.PinMeta:
    """Return the data of a session that everybody with its PIN may see. Clients append the PIN to the download URLs."""
    page = _users_page(session)
    if not page.endswith("/"):
        page += "?"
    return {
        "id": session.id,
        "pin": session.pin,
        "type": session.type.value,
        "label": session.label,
        "userDescription": session.user_description,
        "status": session.status.value,
        "settings": orjson.Fragment(session.settings),  # type: ignore[typeddict-item]  # stored as it is shown
        "expiresAt": timestamps.text(session.expires_at),
        "OrganizationId": session.organization_id,
        "client_info": {
            "win_download_url": page,
            "mac_download_url": page,
            "ios_itunes_url": page,
            "android_package_id": page,
        },
    }


def discovered(session: Active, settings: Settings, instance: str, now: datetime) -> schemas.Discovered:
    """Return the server of an active session, which is this daemon."""
    server: schemas.Server = {
        "region": "local",
        "endpoint": settings.server.urls().public,
        "serverInstanceId": instance,
    }
    return {
        "id": session.id,
        "type": session.type.value,
        "ts": (now - timestamps.EPOCH) // timestamps.MILLISECOND,
        "servers": {session.type.value: server},
    }


def _door_server(settings: Settings, instance: str) -> schemas.DoorServer:
    return {"id": 1, "region": "local", "endpoint": settings.server.urls().public, "serverInstanceId": instance}


def support_connection(session: Session, settings: Settings, instance: str) -> schemas.SupportConnection:
    """Return the answer to a mobile client that joins with a PIN."""
    return {
        "id": session.id,
        "pin": session.pin,
        "label": session.label,
        "userDescription": session.user_description,
        "hostAuthToken": "",
        "servers": {"support": _door_server(settings, instance)},
        "settings": orjson.Fragment(session.settings),  # type: ignore[typeddict-item]  # stored as it is shown
    }


def live_connection(session: Session, settings: Settings, instance: str) -> schemas.LiveConnection:
    """Return the answer to a mobile client that joins with a session's id."""
    return {"id": session.id, "label": session.label, "servers": {"live": _door_server(settings, instance)}}


def me(caller: Caller, secret: str, settings: Settings, email: str, now: datetime) -> schemas.Me:
    """Return the caller. `secret` is the one that the caller sent, or that it gets with this answer."""
    organization, shown = settings.organization, public_agent_session(caller, now)
    return {
        "session": {
            **shown,
            "id": secret,
            "ExternalUserId": caller.agent_id,
            "OrganizationId": organization.id,
            "CustomerId": organization.id,
            "name": caller.name,
            "isActive": True,
            # This request counts as the latest activity of the agent session.
            "lastActiveAt": timestamps.text(now),
            "createdAt": shown["startedAt"],
            "updatedAt": timestamps.text(now),
        },
        "roles": public_roles(caller),
        "org": {
            "provider": organization.provider,
            "name": organization.name,
            "externalId": str(organization.id),
            "id": organization.id,
            "CustomerId": organization.id,
        },
        "user": {"name": caller.name, "email": email, "externalId": caller.external_id, "id": caller.agent_id},
        "products": {
            **{
                session_type.value: policy.agent_choices(session_type, settings.policy.modes(session_type))
                for session_type in SessionType
            },
            "beam": {},  # a product of the original that has no options and is not a session type
        },
    }


def widget_config(settings: Settings) -> schemas.EndpointConfig:
    """Return the URLs from which clients of the original build their links."""
    urls = settings.server.urls()
    return {
        "widgetConfig": {
            "remote_support": True,
            "cobrowse": True,
            "live": True,
            "replay": True,
            "viewer_base_url": urls.host_page,
            "activation_base_url": urls.pin_page,
            "vanity_url": urls.user,
            "agent_portal_base_url": urls.host,
            "replay_url": f"{urls.user_page}?",
            "live_url": urls.user_page,  # the client builds the links of users and hosts from this one URL
            "embedded_live_url": urls.user_page,
        }
    }


def cobrowse_deployments(settings: Settings, created: datetime, updated: datetime) -> list[schemas.CobrowseDeployment]:
    """Return the only cobrowse deployment: the site of the users' page.

    `created` is the start of the daemon; `updated` is when these settings took effect.
    """
    organization = settings.organization
    page = urlsplit(settings.server.urls().user_page)
    return [
        {
            "id": organization.id,
            "key": organization.provider,
            "name": organization.name,
            "OrganizationId": organization.id,
            # Clients always prepend `https://`.
            "entrypoint": page.netloc + ("" if page.path == "/" else page.path),
            "is_multidomain": False,
            "CobrowseDomains": [],
            "createdAt": timestamps.text(created),
            "updatedAt": timestamps.text(updated),
        }
    ]


def webhook(status: EndpointStatus) -> schemas.Webhook:
    """Return an endpoint for operators, without the query of its URL, which often holds a key."""
    configured, state, backlog = status.endpoint, status.state, status.backlog
    if state.paused_at is not None:
        condition: schemas.EndpointState = "paused"
    elif state.failures:
        condition = "failing"
    else:
        condition = "behind" if backlog.events else "idle"
    return {
        "name": configured.name,
        "url": configured.url,
        "state": condition,
        "events": list(configured.events),
        "sessionTypes": [session_type.value for session_type in configured.session_types],
        "cursor": state.cursor,
        "backlog": backlog.events,
        "oldestUndelivered": _text(backlog.oldest),
        "failures": state.failures,
        "failingSince": _text(state.failing_since),
        "retryAt": _text(state.retry_at),
        "lastError": state.last_error,
        "deliveredAt": _text(state.delivered_at),
        "pausedAt": _text(state.paused_at),
        "pauseReason": state.pause_reason.value if state.pause_reason else None,
        "replays": status.replays,
    }


def delivery(tried: Delivery) -> schemas.Delivery:
    """Return a row of the delivery log."""
    return {
        "id": tried.id,
        "kind": tried.kind.value,
        "webhookId": tried.webhook_id,
        "firstSeq": tried.first_seq,
        "lastSeq": tried.last_seq,
        "events": tried.events,
        "at": timestamps.text(tried.at),
        "ok": tried.ok,
        "status": tried.status,
        "ms": tried.ms,
        "error": tried.error,
        "answer": tried.answer,
    }
