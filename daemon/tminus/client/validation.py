"""Check that a response has the fields that the client and the command use; otherwise another server has sent it.

`tminus.schemas` defines all fields, but loading it takes longer than a command's request. So this module repeats the
types of the fields that are used, and a test compares the two. A field that a release adds stays optional here as long
as daemons of older releases are in use.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tminus.domain import timestamps

MAX_NUMBER = 2**63 - 1
"""The largest integer in the database."""

MAX_SECONDS = 10**12
"""The longest duration that can be formatted: about thirty thousand years."""

Check = Callable[[Any], str]
"""Returns a message that follows the value's name, or `""` if the value is valid."""


def text(value: Any) -> str:
    return "" if isinstance(value, str) else "is not text"


def boolean(value: Any) -> str:
    return "" if isinstance(value, bool) else "is not true or false"


def number(value: Any) -> str:
    return "" if type(value) is int and abs(value) <= MAX_NUMBER else "is not a whole number"


def seconds(value: Any) -> str:
    return "" if type(value) is int and 0 <= value <= MAX_SECONDS else "is not a number of seconds"


def instant(value: Any) -> str:
    try:
        timestamps.parse(value)
    except (TypeError, ValueError):
        return "is not a date and time"
    return ""


def quantity(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return "" if is_number and abs(value) <= MAX_NUMBER else "is not a number"


def any_object(value: Any) -> str:
    return "" if isinstance(value, dict) else "is not an object"


def or_null(check: Check) -> Check:
    return lambda value: "" if value is None else check(value)


def list_of(check: Check) -> Check:
    def checked(value: Any) -> str:
        if not isinstance(value, list):
            return "is not a list"
        return next((f"has an entry that {problem}" for one in value if (problem := check(one))), "")

    return checked


def shape(fields: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """Return a check for an object with these fields, which may have other fields, too."""
    may_have = optional or {}

    def checked(value: Any) -> str:
        if not isinstance(value, dict):
            return "is not an object"
        for name, check in fields.items():
            if name not in value:
                return f"has no {name}"
            if problem := check(value[name]):
                return f"has {name}, which {problem}"
        for name, check in may_have.items():
            if name in value and (problem := check(value[name])):
                return f"has {name}, which {problem}"
        return ""

    return checked


_INVITEE = shape({"email": text, "name": text, "role": text})

SESSION_FIELDS: Mapping[str, Check] = {
    "id": text,
    "type": text,
    "label": text,
    "userDescription": text,
    "status": text,
    "createdAt": instant,
    "pin": number,
    "expiresAt": instant,
    "settings": any_object,
    "urls": shape({"user": text}, {"host": text}),
    "version": number,
    "openedAt": or_null(instant),
    "activatedAt": or_null(instant),
    "closedAt": or_null(instant),
    "closeReason": or_null(text),
    "durationSeconds": seconds,
    "externalMapping": or_null(text),
    "parentObject": or_null(any_object),
    "participants": number,
}

EVENT_FIELDS: Mapping[str, Check] = {
    "seq": number,
    "type": text,
    "ts": instant,
    "message": text,
    "actor": text,
    "id": text,
}

WEBHOOK_FIELDS: Mapping[str, Check] = {
    "name": text,
    "url": text,
    "state": text,
    "backlog": number,
    "oldestUndelivered": or_null(instant),
    "retryAt": or_null(instant),
    "lastError": or_null(text),
    "pauseReason": or_null(text),
}

DELIVERY_FIELDS: Mapping[str, Check] = {
    "kind": text,
    "firstSeq": or_null(number),
    "lastSeq": or_null(number),
    "events": number,
    "at": instant,
    "ok": boolean,
    "status": or_null(number),
    "ms": number,
    "error": or_null(text),
    "answer": or_null(text),
}

AGENT_FIELDS: Mapping[str, Check] = {
    "id": number,
    "name": text,
    "email": text,
    "roles": list_of(text),
    "source": text,
    "subject": or_null(text),
    "signedInAt": or_null(instant),
    "shutOutAt": or_null(instant),
}

SERIES_FIELDS: Mapping[str, Check] = {
    "id": text,
    "rrule": or_null(text),
    "dtstart": text,
    "timezone": text,
    "exdates": list_of(text),
    "rdates": list_of(text),
    "horizon": text,
    "session": shape(
        {"type": text, "label": text}, {"invitees": list_of(shape({"email": text})), "reminders": list_of(text)}
    ),
    "ends": or_null(text),
    "ExternalUserId": number,
    "version": number,
    "endedAt": or_null(instant),
    "follows": or_null(text),
}

CLOCK_FIELDS: Mapping[str, Check] = {"now": instant, "test": boolean, "nextDeadline": or_null(instant)}

SESSION = shape(
    SESSION_FIELDS,
    {
        "startTime": instant,
        "opensAt": instant,
        "invitees": list_of(_INVITEE),
        "reminders": list_of(text),
        "seriesId": or_null(text),
        "seriesStart": or_null(text),
    },
)
EVENT = shape(EVENT_FIELDS, {"lagMs": number, "actorName": text, "participant": shape({"name": text})})
WEBHOOK = shape(WEBHOOK_FIELDS)
DELIVERY = shape(DELIVERY_FIELDS)
AGENT = shape(AGENT_FIELDS)
_OCCURRENCE = shape({"localStart": text, "session": text, "startTime": instant, "status": text, "moved": boolean})
SERIES = shape(SERIES_FIELDS, {"entry": or_null(text), "occurrences": list_of(_OCCURRENCE)})

_MOVE = shape(
    {
        "now": instant,
        "target": instant,
        "reached": boolean,
        "nextDeadline": or_null(instant),
        "events": list_of(EVENT),
    }
)

_COUNTS: Mapping[str, Check] = dict.fromkeys(("sessions", "attended", "noShows", "cancelled"), number)
_NUMBERS = shape({"count": number, **dict.fromkeys(("mean", "p50", "p99", "max"), or_null(quantity))})


def _hours(value: Any) -> str:
    return list_of(number)(value) or ("" if len(value) == 24 else "has not 24 entries")


REPORT_FIELDS: Mapping[str, Check] = {
    **_COUNTS,
    "since": instant,
    "until": instant,
    "byType": list_of(shape({**_COUNTS, "type": text})),
    "byAgent": list_of(shape({**_COUNTS, "agent": number, "name": or_null(text)})),
    "moreAgents": number,
    "byReason": list_of(shape({"reason": text, "sessions": number})),
    "byHour": _hours,
    "waitingSeconds": _NUMBERS,
    "lengthSeconds": _NUMBERS,
    "lagMs": _NUMBERS,
}


def success(value: Any) -> str:
    return "" if isinstance(value, dict) and value.get("success") is True else "has no success: true"


_PLANNED = shape({"id": or_null(text), "type": text, "label": text, "status": text, "startTime": or_null(instant)})


def _batch(value: Any) -> str:
    if not isinstance(value, dict) or not ("sessions" in value or "planned" in value):
        return "has neither sessions nor planned"
    return shape({}, {"sessions": list_of(SESSION), "planned": list_of(_PLANNED)})(value)


_RESPONSES: tuple[tuple[str, re.Pattern[str], Check], ...] = tuple(
    (method, re.compile(path), check)
    for method, path, check in (
        ("GET", "/supportsessions", shape({"count": number, "rows": list_of(SESSION)}, {"next": or_null(number)})),
        ("POST", "/supportsessions", SESSION),
        ("POST", "/supportsessions/batch(?:/reschedule|/close)?", _batch),
        ("GET", "/supportsession/[^/]+", SESSION),
        ("PUT", "/supportsession/[^/]+", SESSION),
        ("DELETE", "/supportsession/[^/]+", success),
        ("GET", "/supportsession/[^/]+/events", shape({"events": list_of(EVENT), "next": number})),
        ("GET", "/events", shape({"events": list_of(EVENT), "next": number})),
        ("GET", "/series", shape({"series": list_of(SERIES), "next": or_null(text)})),
        ("POST", "/series", SERIES),
        ("GET", "/series/[^/]+", SERIES),
        ("PUT", "/series/[^/]+", SERIES),
        ("DELETE", "/series/[^/]+", SERIES),
        ("GET", "/webhooks", shape({"webhooks": list_of(WEBHOOK)})),
        ("GET", "/webhooks/[^/]+/deliveries", shape({"deliveries": list_of(DELIVERY)})),
        ("POST", "/webhooks/[^/]+/(?:ping|sample)", DELIVERY),
        ("POST", "/webhooks/[^/]+/(?:pause|resume)", WEBHOOK),
        ("POST", "/webhooks/[^/]+/replay", shape({"toSeq": number})),
        ("GET", "/agents", shape({"agents": list_of(AGENT), "next": or_null(number)})),
        ("POST", "/agents/[^/]+/(?:shutOut|readmit)", AGENT),
        ("POST", "/agents/[^/]+/calendar", shape({"url": text})),
        ("DELETE", "/agents/[^/]+/calendar", success),
        ("GET", "/clock", shape(CLOCK_FIELDS)),
        ("POST", "/clock", _MOVE),
        ("GET", "/report", shape(REPORT_FIELDS)),
    )
)


def problem(method: str, path: str, body: Any) -> str:
    """Return what is wrong with the response to a call, in words that follow "it sent JSON that", or `""`.

    For other calls, which only users of `ScreenMeet.request` make, any object is valid.
    """
    for known_method, known_path, check in _RESPONSES:
        if known_method == method and known_path.fullmatch(path):
            return check(body)
    return shape({})(body)
