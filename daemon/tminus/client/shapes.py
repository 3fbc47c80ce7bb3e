"""What an answer must hold for the client and the command to use it; anything else is no answer of tminus.

`wire` has the whole shapes; loading those takes longer than a command's request, so those fields that are read here
have their types here, and a test holds the two together. A field that a later release adds is not looked for until no
older daemon answers any more.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tminus.domain import timestamps

MOST = 2**63 - 1
"""The largest number that a database counts to."""

MOST_SECONDS = 10**12
"""The longest span that is written out: some thirty thousand years."""

Check = Callable[[Any], str]
"""Returns what is wrong with a value, in words that follow its name, or nothing."""


def text(value: Any) -> str:
    return "" if isinstance(value, str) else "is not a text"


def yes_or_no(value: Any) -> str:
    return "" if isinstance(value, bool) else "is not true or false"


def number(value: Any) -> str:
    return "" if type(value) is int and abs(value) <= MOST else "is not a whole number"


def seconds(value: Any) -> str:
    return "" if type(value) is int and 0 <= value <= MOST_SECONDS else "is not a number of seconds"


def instant(value: Any) -> str:
    try:
        timestamps.parse(value)
    except (TypeError, ValueError):
        return "is not a date and time"
    return ""


def anything(value: Any) -> str:
    return "" if isinstance(value, dict) else "is not an object"


def or_null(check: Check) -> Check:
    return lambda value: "" if value is None else check(value)


def list_of(check: Check) -> Check:
    def checked(value: Any) -> str:
        if not isinstance(value, list):
            return "is not a list"
        return next((f"holds something that {problem}" for one in value if (problem := check(one))), "")

    return checked


def shape(fields: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these fields; it may hold others."""
    may_be = optional or {}

    def checked(value: Any) -> str:
        if not isinstance(value, dict):
            return "is not an object"
        for name, check in fields.items():
            if name not in value:
                return f"has no {name}"
            if problem := check(value[name]):
                return f"has {name}, which {problem}"
        for name, check in may_be.items():
            if name in value and (problem := check(value[name])):
                return f"has {name}, which {problem}"
        return ""

    return checked


SESSION_FIELDS: Mapping[str, Check] = {
    "id": text,
    "type": text,
    "label": text,
    "userDescription": text,
    "status": text,
    "createdAt": instant,
    "pin": number,
    "expiresAt": instant,
    "settings": anything,
    "urls": shape({"user": text}, {"host": text}),
    "version": number,
    "openedAt": or_null(instant),
    "activatedAt": or_null(instant),
    "closedAt": or_null(instant),
    "closeReason": or_null(text),
    "durationSeconds": seconds,
    "externalMapping": or_null(text),
    "parentObject": or_null(anything),
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
    "ok": yes_or_no,
    "status": or_null(number),
    "ms": number,
    "error": or_null(text),
    "answer": or_null(text),
}

SESSION = shape(SESSION_FIELDS, {"startTime": instant, "opensAt": instant})
EVENT = shape(EVENT_FIELDS, {"lagMs": number, "actorName": text, "participant": shape({"name": text})})
WEBHOOK = shape(WEBHOOK_FIELDS)
DELIVERY = shape(DELIVERY_FIELDS)


def done(value: Any) -> str:
    return "" if isinstance(value, dict) and value.get("success") is True else "does not say success"


_ANSWERS: tuple[tuple[str, re.Pattern[str], Check], ...] = tuple(
    (method, re.compile(path), check)
    for method, path, check in (
        ("GET", "/supportsessions", shape({"count": number, "rows": list_of(SESSION)}, {"next": or_null(number)})),
        ("POST", "/supportsessions", SESSION),
        ("GET", "/supportsession/[^/]+", SESSION),
        ("PUT", "/supportsession/[^/]+", SESSION),
        ("DELETE", "/supportsession/[^/]+", done),
        ("GET", "/supportsession/[^/]+/events", shape({"events": list_of(EVENT), "next": number})),
        ("GET", "/events", shape({"events": list_of(EVENT), "next": number})),
        ("GET", "/webhooks", shape({"webhooks": list_of(WEBHOOK)})),
        ("GET", "/webhooks/[^/]+/deliveries", shape({"deliveries": list_of(DELIVERY)})),
        ("POST", "/webhooks/[^/]+/ping", DELIVERY),
        ("POST", "/webhooks/[^/]+/(?:pause|resume)", WEBHOOK),
        ("POST", "/webhooks/[^/]+/replay", shape({"toSeq": number})),
    )
)


def problem(method: str, path: str, answer: Any) -> str:
    """Return what is wrong with the answer to this call, in words that follow "it sent JSON that", or nothing.

    Of calls that neither the client nor the command makes only this is asked: that the answer is an object.
    """
    for its_method, its_path, check in _ANSWERS:
        if its_method == method and its_path.fullmatch(path):
            return check(answer)
    return shape({})(answer)
