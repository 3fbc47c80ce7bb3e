"""Examples of requests and responses, by schema. Those of a session and its events show one support session."""

from typing import Any

from tminus.api.errors import status_of
from tminus.domain.errors import RequestError

_SYS_ID = "e8e875b0c0a80164009dc852b4d677d5"
_MAPPING = f"incident:{_SYS_ID}"
_MADE, _JOINED, _EXPIRES = "2027-03-01T09:12:31.204Z", "2027-03-01T09:14:02.871Z", "2027-03-01T10:12:31.204Z"

_ROLES = {"api": True, "agent": True, "supervisor": False, "group_admin": False}
_SETTINGS = {"recording": True, "startwithadmin": False, "startwithrc": True, "knock": False, "audio": True}
_PREFERENCES = {"record": True, "prerequestrc": True}
_PARENT = {"id": _SYS_ID, "app": "servicenow", "type": "incident", "name": "INC0000005"}
_AGENT = {
    "id": 7,
    "name": "Anna Agent",
    "email": "anna@example.com",
    "roles": ["agent", "api"],
    "source": "configuration",
    "issuer": None,
    "subject": None,
    "signedInAt": _MADE,
    "shutOutAt": None,
}
_AGENT_SESSION = {
    "sid": 0,
    "roles": _ROLES,
    "features": None,
    "providerExternalId": "aagent",
    "provider": "tminus",
    "startedAt": _MADE,
    "expiresAt": _EXPIRES,
    "clientApp": "",
    "userAgent": "curl/8.5.0",
    "remoteIp": "192.0.2.17",
}
_INVITEE = {"email": "joe@example.com", "name": "Joe Employee", "role": "guest"}
_SESSION = {
    "unattended": False,
    "scheduled": False,
    "id": "kX3wQz",
    "type": "support",
    "label": "Remote support for INC0000005",
    "userDescription": "Anna Agent",
    "ExternalUserId": 7,
    "OrganizationId": 1,
    "createdByAgentSession": _AGENT_SESSION,
    "status": "new",
    "updatedAt": _MADE,
    "createdAt": _MADE,
    "pin": 459453,
    "hostAuthToken": "Vb2yJt0QeXn7RkLs4DmA9GcZ",
    "expiresAt": _EXPIRES,
    "settings": _SETTINGS,
    "externalSessionObjectId": "8d2f7c1e5b0a4e9d9a372f6c1b8e4d05",
    "urls": {
        "user": "https://support.example.com/459453",
        "host": "https://support.example.com/?kX3wQz#host=6f81coHeAt6WwWZNqtmEXdmcknjZrqrn",
    },
    "version": 1,
    "openedAt": _MADE,
    "activatedAt": None,
    "closedAt": None,
    "closeReason": None,
    "durationSeconds": 0,
    "externalMapping": _MAPPING,
    "parentObject": _PARENT,
    "metaData": {"priority": 2},
    "reminders": [],
    "seriesId": None,
    "seriesStart": None,
    "invitees": [_INVITEE],
    "participants": 0,
}
_PLANNED = {
    "id": None,
    "type": "live",
    "label": "Onboarding 1",
    "status": "scheduled",
    "startTime": "2027-03-02T09:00:00.000Z",
    "opensAt": "2027-03-02T08:50:00.000Z",
    "expiresAt": "2027-03-02T10:00:00.000Z",
}
_PARTICIPANT = {"id": "p7RkLs4DmA9G", "role": "guest", "name": "Joe Employee"}
_EVENT = {
    "seq": 1042,
    "eventId": "x7Qm2kVd-1042",
    "type": "session.active",
    "ts": _JOINED,
    "message": "Session kX3wQz “Remote support for INC0000005” is active: Joe Employee joined",
    "actor": "room:12",
    "id": "kX3wQz",
    "label": "Remote support for INC0000005",
    "userDescription": "Anna Agent",
    "status": "active",
    "previousStatus": "new",
    "startTime": None,
    "expiresAt": _EXPIRES,
    "seconds": 0,
    "user": {"id": 7, "name": "Anna Agent", "externalId": "aagent"},
    "organization": 1,
    "settings": _SETTINGS,
    "createdByAgentSession": _AGENT_SESSION,
    "crmSyncTarget": _PARENT | {"externalMapping": _MAPPING},
    "stats": {"participants": 1},
    "participant": _PARTICIPANT,
}
_COUNTS = {"sessions": 15, "attended": 12, "noShows": 2, "cancelled": 1}
_NUMBERS = {"count": 12, "mean": 43.5, "p50": 31, "p99": 190, "max": 190}
_CLIENT_INFO = dict.fromkeys(
    ("win_download_url", "mac_download_url", "ios_itunes_url", "android_package_id"), "https://support.example.com/"
)
_DELIVERY = {
    "id": 311,
    "kind": "events",
    "webhookId": "msg_0f6d1c9be2a54b7f8c3e90d1a7b65c24",
    "firstSeq": 1042,
    "lastSeq": 1042,
    "events": 1,
    "at": "2027-03-01T09:14:02.880Z",
    "ok": True,
    "status": 204,
    "ms": 38,
    "error": None,
    "answer": "",
}
_WEBHOOK = {
    "name": "desk",
    "url": "https://desk.example.com/hooks/tminus",
    "state": "idle",
    "events": ["*"],
    "sessionTypes": [],
    "cursor": 1042,
    "backlog": 0,
    "oldestUndelivered": None,
    "failures": 0,
    "failingSince": None,
    "retryAt": None,
    "lastError": None,
    "deliveredAt": "2027-03-01T09:14:02.918Z",
    "pausedAt": None,
    "pauseReason": None,
    "replays": 0,
}
_OWN_AGENT_SESSION = _AGENT_SESSION | {
    "id": "Qm9Jt2xVb7Rk4Ls0DmA8GcZ1nXeYhPwU",
    "ExternalUserId": 7,
    "OrganizationId": 1,
    "CustomerId": 1,
    "name": "Anna Agent",
    "isActive": True,
    "lastActiveAt": _MADE,
    "createdAt": _MADE,
    "updatedAt": _MADE,
}
_ORGANIZATION = {"provider": "tminus", "name": "Example Ltd", "externalId": "1", "id": 1, "CustomerId": 1}
_USER = {"name": "Anna Agent", "email": "anna@example.com", "externalId": "aagent", "id": 7}
_SERVER = {"region": "local", "endpoint": "https://support.example.com", "serverInstanceId": "b1Zt8nQe"}
_DOOR_SERVER = _SERVER | {"id": 1}
_WIDGET_CONFIG = {
    "remote_support": True,
    "cobrowse": True,
    "live": True,
    "replay": True,
    "viewer_base_url": "https://support.example.com/",
    "activation_base_url": "https://support.example.com/",
    "vanity_url": "https://support.example.com",
    "agent_portal_base_url": "https://support.example.com",
    "replay_url": "https://support.example.com/?",
    "live_url": "https://support.example.com/",
    "embedded_live_url": "https://support.example.com/",
}
_FAULT = {"field": "startTime", "message": "must have Z or an offset such as +02:00"}

_BUSY = {"start": "2030-08-10T15:30:00.000Z", "end": "2030-08-10T16:30:00.000Z"}

_DEFINITION = {
    "rrule": "FREQ=WEEKLY;BYDAY=TU",
    "dtstart": "2027-03-02T09:00:00",
    "timezone": "Europe/Berlin",
    "exdates": ["2027-04-06"],
    "rdates": [],
    "horizon": "30d",
}
_OCCURRENCE = {
    "localStart": "2027-03-02T09:00:00",
    "session": "oY9Hqk2ZtLwA",
    "startTime": "2027-03-02T08:00:00.000Z",
    "status": "scheduled",
    "moved": False,
}
_SERIES = {
    "id": "rT5mXc8LpQ2v",
    **_DEFINITION,
    "session": {"type": "live", "label": "Stand-up"},
    "ends": None,
    "ExternalUserId": 7,
    "version": 1,
    "createdAt": _MADE,
    "updatedAt": _MADE,
    "endedAt": None,
    "follows": None,
    "entry": None,
    "occurrences": [_OCCURRENCE],
}

EXAMPLES: dict[str, dict[str, Any]] = {
    "Admission": {"admitted": True},
    "AgentPrefs": _PREFERENCES,
    "AgentSession": _AGENT_SESSION,
    "Challenge": {
        "uuid": "69274e50-5f0c-8a11-9d3e-0b7f6ad0c2e4",
        "challengeDisplay": '<svg xmlns="http://www.w3.org/2000/svg"/>',
        "createdAt": _MADE,
    },
    "ClientInfo": _CLIENT_INFO,
    "CobrowseDeployment": {
        "id": 1,
        "key": "tminus",
        "name": "Example Ltd",
        "OrganizationId": 1,
        "entrypoint": "support.example.com",
        "is_multidomain": False,
        "CobrowseDomains": [],
        "createdAt": "2027-02-27T22:00:04.310Z",
        "updatedAt": "2027-02-28T08:30:00.117Z",
    },
    "Clock": {"now": _JOINED, "test": True, "nextDeadline": "2027-03-02T14:20:00.000Z"},
    "ClockMove": {
        "from": _MADE,
        "now": _JOINED,
        "target": _JOINED,
        "reached": True,
        "nextDeadline": "2027-03-02T14:20:00.000Z",
        "events": [_EVENT],
        "next": 1042,
    },
    "ClockOrder": {"advance": "10m"},
    "Deliveries": {"deliveries": [_DELIVERY], "next": None},
    "Delivery": _DELIVERY,
    "Discovered": {"id": "kX3wQz", "type": "support", "ts": 1803892442871, "servers": {"support": _SERVER}},
    "DoorServer": _DOOR_SERVER,
    "EndpointConfig": {"widgetConfig": _WIDGET_CONFIG},
    "Error": {"code": 404, "refcode": 101404, "description": "Session not found kX3wQz", "errors": []},
    "Event": _EVENT,
    "EventParticipant": _PARTICIPANT,
    "EventStats": {"participants": 1},
    "EventUser": {"id": 7, "name": "Anna Agent", "externalId": "aagent"},
    "FieldError": _FAULT,
    "Health": {"status": "ok"},
    "History": {"events": [_EVENT], "next": 1042},
    "Invitee": _INVITEE,
    "Joined": {"participantId": "p7RkLs4DmA9G"},
    "LiveConnect": {"code": "kX3wQz"},
    "LiveConnection": {
        "id": "kX3wQz",
        "label": "Remote support for INC0000005",
        "servers": {"live": _DOOR_SERVER},
    },
    "LiveServers": {"live": _DOOR_SERVER},
    "Me": {
        "session": _OWN_AGENT_SESSION,
        "roles": _ROLES,
        "org": _ORGANIZATION,
        "user": _USER,
        "products": {
            "support": {"record": True, "prerequestrc": True, "prerequestadmin": True},
            "cobrowse": {"record": True},
            "live": {"record": True, "knock": True, "audio": False},
            "replay": {},
            "beam": {},
        },
    },
    "NewParticipant": {"role": "guest", "name": "Joe Employee"},
    "NewSession": {
        "type": "support",
        "label": "Remote support for INC0000005",
        "agentPrefs": _PREFERENCES,
        "externalMapping": _MAPPING,
        "parentObject": _PARENT,
        "metaData": {"priority": 2},
        "invitees": [_INVITEE],
    },
    "NewInvitee": _INVITEE,
    "BatchFilter": {"startFrom": "2027-03-02T00:00:00Z", "startTo": "2027-03-03T00:00:00Z"},
    "ClosedSessions": {"ids": ["kX3wQz"]},
    "MovedSession": {"id": "kX3wQz", "startTime": "2027-03-02T14:30:00Z"},
    "MovedSessions": {"ids": ["kX3wQz"], "by": "30m"},
    "NewSessions": {
        "sessions": [
            {"type": "live", "label": "Onboarding 1", "startTime": "2027-03-02T09:00:00Z"},
            {"type": "live", "label": "Onboarding 2", "startTime": "2027-03-02T09:30:00Z"},
        ],
    },
    "PlannedSession": _PLANNED,
    "SessionBatch": {"sessions": [_SESSION]},
    "Report": {
        **_COUNTS,
        "since": "2027-02-01T00:00:00.000Z",
        "until": "2027-03-01T00:00:00.000Z",
        "zone": "Europe/Berlin",
        "byType": [{"type": "support", **_COUNTS}],
        "byAgent": [{"agent": 7, "name": "Anna Agent", **_COUNTS}],
        "moreAgents": 0,
        "byReason": [{"reason": "closed", "sessions": 12}],
        "byHour": [0] * 9 + [12] + [0] * 14,
        "waitingSeconds": _NUMBERS,
        "lengthSeconds": _NUMBERS,
        "lagMs": _NUMBERS,
    },
    "ReportNumbers": _NUMBERS,
    "ReportOfAgent": {"agent": 7, "name": "Anna Agent", **_COUNTS},
    "ReportOfReason": {"reason": "closed", "sessions": 12},
    "ReportOfType": {"type": "support", **_COUNTS},
    "SampleOrder": {"type": "session.ready"},
    "NewStart": {"startTime": "2027-03-02T14:30:00Z"},
    "Organization": _ORGANIZATION,
    "OwnAgentSession": _OWN_AGENT_SESSION,
    "ParentObject": _PARENT,
    "PinMeta": {
        "id": "kX3wQz",
        "pin": 459453,
        "type": "support",
        "label": "Remote support for INC0000005",
        "userDescription": "Anna Agent",
        "status": "new",
        "settings": _SETTINGS,
        "expiresAt": _EXPIRES,
        "OrganizationId": 1,
        "client_info": _CLIENT_INFO,
    },
    "Readiness": {"ready": True, "reasons": [], "notes": []},
    "Replay": {"replay": 3, "fromSeq": 1001, "toSeq": 1042, "session": None},
    "ReplayOrder": {"fromSeq": 1001},
    "Roles": _ROLES,
    "Server": _SERVER,
    "Session": _SESSION,
    "NewSeries": _DEFINITION | {"session": {"type": "live", "label": "Stand-up"}},
    "Occurrence": _OCCURRENCE,
    "Series": _SERIES,
    "SeriesList": {"series": [_SERIES], "next": None},
    "SeriesSession": {"type": "live", "label": "Stand-up"},
    "SessionList": {"count": 1, "rows": [_SESSION]},
    "SessionUrls": _SESSION["urls"],  # type: ignore[dict-item]  # a dictionary in one of mixed values
    "Settings": _SETTINGS,
    "Success": {"success": True},
    "SupportConnect": {"code": "459453"},
    "SupportConnection": {
        "id": "kX3wQz",
        "pin": 459453,
        "label": "Remote support for INC0000005",
        "userDescription": "Anna Agent",
        "hostAuthToken": "",
        "servers": {"support": _DOOR_SERVER},
        "settings": _SETTINGS,
    },
    "SupportServers": {"support": _DOOR_SERVER},
    "TokenSignIn": {"session_token": "3jW0aZk9QmVb2yJt0QeXn7RkLs4DmA9GcZ1nXeYhPwU"},
    "User": _USER,
    "Agent": _AGENT,
    "Agents": {"agents": [_AGENT], "next": None},
    "BusyInterval": _BUSY,
    "CalendarAddress": {
        "url": "https://sessions.example.com/v3/calendars/mYsFrC1Zq7nVwT0bLxJd5GkR8eHaUoPi.ics",
        "createdAt": "2030-08-09T08:00:00.000Z",
    },
    "FreeBusy": {
        "agent": 7,
        "start": "2030-08-10T00:00:00.000Z",
        "end": "2030-08-11T00:00:00.000Z",
        "busy": [_BUSY],
    },
    "Webhook": _WEBHOOK,
    "Webhooks": {"webhooks": [_WEBHOOK]},
    "WidgetConfig": _WIDGET_CONFIG,
}
"""Examples by the name of their schema."""


def refusal(cause: type[RequestError], meaning: str) -> dict[str, Any]:
    """Return an example of the response to a request that this error refused."""
    code = status_of(cause)
    errors = [_FAULT] if cause.refcode == 100400 else []
    return {"code": code, "refcode": cause.refcode, "description": meaning, "errors": errors}
