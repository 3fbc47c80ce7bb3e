"""The fields of log lines: the type and the meaning of each, which are the same in every line that has the field.

`docs/events.md` is generated from this module, and `config/elasticsearch` and `config/promtail` are tested against it.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from tminus.domain import timestamps


class Kind(StrEnum):
    """The type of a field's value in JSON."""

    KEYWORD = "keyword"
    """A short text that is searched for as a whole, such as an id, a name or an address."""
    TEXT = "text"
    """A sentence, or text that a person has written."""
    INTEGER = "integer"
    TIME = "time"
    """A text: an instant in UTC with milliseconds."""
    KEYWORDS = "keywords"
    """A list of short texts."""
    OBJECT = "object"


@dataclass(frozen=True, slots=True)
class Field:
    """The type and the meaning of a field."""

    kind: Kind
    means: str


def _keyword(means: str) -> Field:
    return Field(Kind.KEYWORD, means)


def _text(means: str) -> Field:
    return Field(Kind.TEXT, means)


def _integer(means: str) -> Field:
    return Field(Kind.INTEGER, means)


def _time(means: str) -> Field:
    return Field(Kind.TIME, means)


HEAD = ("ts", "level", "event", "instance", "message")
"""The fields of every line. They come first and in this order, so that a truncated line still has its name."""

FIELDS = {
    "ts": _time("time of the line; of a session event: when it happened, not when it was logged"),
    "left": _integer("number of sessions"),
    "level": _keyword("`debug`, `info`, `warning`, `error` or `critical`"),
    "event": _keyword("name of the line"),
    "instance": _keyword("the daemon: its host, `/`, and its process number"),
    "message": _text("the line in words"),
    "seq": _integer("number of the session event, as in the feed"),
    "session_id": _keyword("the session"),
    "session_type": _keyword("the session's type: `support`, `cobrowse`, …"),
    "label": _text("the session's label"),
    "owner": _keyword("the agent whose session it is, written as `actor` is"),
    "owner_name": _text(
        "the session's `userDescription`: the owner's name, unless another was given when it was created"
    ),
    "external_key": _keyword("the session's `externalMapping`: the ticket"),
    "record_table": _keyword("`type` of the session's `parentObject`: the table of the record"),
    "record_id": _keyword("`id` of the session's `parentObject`: the record's sys_id"),
    "record_name": _text("`name` of the session's `parentObject`: the record's display name"),
    "previous_status": _keyword("status of the session before the event; absent for a new session"),
    "status": _keyword("status of the session after the event"),
    "start": _time("when the session starts, if it was scheduled"),
    "previous_start": _time("the start before the reschedule"),
    "reason": _keyword("why the session was closed: `cancelled`, `closed`, `expired`, `empty` or `time_limit`"),
    "timeout": _keyword(
        "the time-out that closed the session: `lifecycle.new_timeout`, `…empty_timeout` or `…max_active`"
    ),
    "outcome": _keyword("what was done with the series: `created`, `changed` or `ended`"),
    "series": _keyword("id of the series of sessions"),
    "before": _keyword("how long before the start a reminder was due, such as `15m`"),
    "lag_ms": _integer("milliseconds by which the scheduler was late"),
    "participant_id": _keyword("the participant"),
    "invitee": _integer("position of the invitee in the session's list, counted from 1"),
    "participant_name": _text("the participant's name"),
    "participant_role": _keyword("the participant's role"),
    "origin": _text(
        "the `Origin` of a request from a page of another site, at most 200 characters; absent if it had none"
    ),
    "overdue_s": _integer("seconds since the earliest deadline passed; absent if it has not passed"),
    "participants": _integer("number of participants; of a session event: in the session after it"),
    "actor": _keyword(
        "who did it: `clock`, `agent:<id>`, `room:<id>`, `local` (the local socket), `room` (somebody in the daemon's "
        "own room), `host:<participant>` or `guest:<participant>` (a host or guest in it); absent if unknown"
    ),
    "actor_name": _text("the name of `actor`: of an agent in the configuration in force, or of a host"),
    "request_id": _keyword(
        "the request that caused the line, or the last of several: the caller's `X-Request-Id`, or a random id"
    ),
    "after": _integer("number of the last session event that is known to have been logged"),
    "agent": _integer("number of the agent"),
    "agent_name": _text("the agent's name"),
    "agent_sessions": _integer("number of agent sessions"),
    "ahead_s": _integer("seconds by which the clock was ahead of the last run of retention"),
    "attempts": _integer("number of the attempt, counted from the last success"),
    "away_s": _integer("seconds for which the daemon or the database was unavailable"),
    "begins_at": _keyword("which event an endpoint receives first: `now` or `beginning`"),
    "blocked_ms": _integer("milliseconds for which a write has been blocked"),
    "busiest": _keyword("address with the most connections"),
    "busiest_connections": _integer("number of its connections"),
    "cause": _keyword("why it happened"),
    "changes": _integer("number of changed settings"),
    "code": _integer("HTTP status of an answer of the daemon (499: the client closed the connection) or of a receiver"),
    "smtp_code": _integer("reply code of the mail server"),
    "config": _keyword("the configuration file, or `built-in defaults`"),
    "config_files": Field(Kind.KEYWORDS, "the configuration files that were read, in order"),
    "config_fingerprint": _keyword("fingerprint of files and environment; also in `/metrics` and in `tminus check`"),
    "connections": _integer("number of open connections"),
    "close_code": _integer(
        "close code of a WebSocket: of the daemon or of the client; 1005: the client sent none, 1006: the connection "
        "was lost"
    ),
    "close_reason": _text(
        "why the daemon closed a WebSocket: the error, or how the visit to a room ended; absent if the client closed it"
    ),
    "count": _integer("how often it happened since the last such line about the same address"),
    "daemon": _keyword("the daemon, as the database names it: its host and state directory"),
    "damaged": _text("the error with which the database reported damage; absent if it has not"),
    "endpoint": _keyword("the name of the webhook"),
    "error": _text("what went wrong"),
    "events": _integer("number of session events"),
    "faults": _integer("number of errors in the configuration"),
    "frozen_s": _integer("seconds for which the daemon did not run"),
    "hint": _text("a command to try first"),
    "host": _keyword("name of the host"),
    "inherited": Field(Kind.KEYWORDS, "the settings (`listen`, `socket`) whose sockets systemd handed over"),
    "job": _keyword("the periodic job: `clock tick`, `retention`, `heartbeat`, …"),
    "key": _keyword("the setting"),
    "last": _time("time of the last of the occurrences in `count`; absent if the line reports a single occurrence"),
    "last_alive": _time("last sign of life of the previous run, accurate to two seconds"),
    "limit": _integer("the limit that was reached"),
    "lines": _integer("number of log lines"),
    "logger": _keyword("the library that logged it"),
    "method": _keyword("HTTP method of the request"),
    "moved": _integer("number of deadlines"),
    "moved_from": _time("where the test clock stood before the move"),
    "moves": _integer("number of deadlines that the scheduler met then, also those on time"),
    "ms": _integer("milliseconds until the request was answered"),
    "network": _keyword("the /64 network of `remote_ip`, which counts as one caller; absent for IPv4"),
    "new": _text("the setting's new value as text, lists and tables as JSON; absent if there is none; no secret"),
    "next_due": _time("the earliest deadline; absent if there is none"),
    "now": _time("where the test clock stands"),
    "open_s": _integer("seconds for which the WebSocket was open"),
    "off_ms": _integer("milliseconds by which this machine's clock is ahead of the database's; negative: behind"),
    "old": _text("the setting's previous value, written as `new` is"),
    "oldest_undelivered": _time("time of the oldest event that waits for delivery"),
    "pause_reason": _keyword("why an endpoint was paused: `operator`, `gone` or `gave_up`"),
    "pid": _integer("process number"),
    "previous_pid": _integer("process number of the previous run"),
    "previous_schema": _keyword("the database's schema before; absent for a new database"),
    "previous_version": _keyword("version of the previous run"),
    "receiver": _text("a URL that a caller sent as `receiver_url`, without its query, at most 200 characters"),
    "refcode": _integer("reason for which a request was refused ([api.md](api.md#errors))"),
    "refusal": _keyword(
        "of a code: `unknown` (or already used), `expired`, `revoked`, or `foreign` (of another provider, instance or "
        "receiver); of a sign-in by OpenID Connect: see [api.md](api.md#sign-in-by-openid-connect)"
    ),
    "refused": _integer("number of requests that were refused meanwhile"),
    "remote_ip": _keyword("address of the caller; `local`: the local socket; `unknown`"),
    "removed": _integer("number of sessions"),
    "replay": _integer("number of the replay"),
    "replayed": _keyword(
        "`yes` if the answer to an earlier request with the same `Idempotency-Key` was repeated; else absent"
    ),
    "requests": _integer(
        "number of requests answered since the last heartbeat, without `/healthz`, `/readyz` and `/metrics`"
    ),
    "retry_at": _time("when the next attempt is made"),
    "route": _keyword("template of the path, as the path itself may contain a PIN; `(none)` if there is no such path"),
    "schema": _keyword("the database's schema"),
    "sessions": Field(Kind.OBJECT, "number of open sessions by status"),
    "sid": _integer("number of the agent session"),
    "signal": _keyword("name of the signal"),
    "since": _time("when it began"),
    "socket": _keyword("the local socket; absent if there is none"),
    "source": _keyword(
        "the system that reports the people of a session: `room` (the daemon's own room) or `participants` (the API)"
    ),
    "state": _keyword("the state directory"),
    "step_ms": _integer("milliseconds by which the wall clock was stepped"),
    "thread": _keyword("name of the daemon's thread"),
    "token": _keyword("fingerprint of the token: the first 12 hexadecimal digits of its SHA-256"),
    "token_state": _keyword("`unknown`, `expired` or `revoked`"),
    "traceback": _text("the stack of the error, the innermost call first"),
    "undelivered": Field(Kind.OBJECT, "number of events that wait for delivery, by endpoint"),
    "undelivered_events": _integer("number of events that wait for delivery"),
    "unreadable": _text("why the database cannot be read; absent if it can"),
    "until": _time("time until which nothing is removed, or until which people may reconnect"),
    "unwritable": _text("why the last write failed; absent if it did not"),
    "url": _keyword("where the daemon listens"),
    "via": _keyword(
        "how an agent session began or ended: `token` (the API), `page` (the sign-in page), `oidc` or `code`"
    ),
    "version": _keyword("version of tminus"),
    "waiting": _integer("number of sessions that wait for a PIN"),
    "wrong": _integer("number of unknown PINs that the address has sent, since the last minute without any"),
    "where": _keyword("file and line"),
    "worst_lag_ms": _integer("greatest lateness of a transition since the last heartbeat, in milliseconds"),
}
"""Every field that a line may have."""


def fits(kind: Kind, value: Any) -> bool:
    """Return whether a value has the type of a field."""
    match kind:
        case Kind.INTEGER:
            return type(value) is int
        case Kind.KEYWORDS:
            return isinstance(value, list) and all(isinstance(one, str) for one in value)
        case Kind.OBJECT:
            return isinstance(value, dict) and all(type(one) is int for one in value.values())
        case Kind.TIME:
            return isinstance(value, str) and _is_time(value)
        case _:
            return isinstance(value, str)


def _is_time(value: str) -> bool:
    try:
        return timestamps.text(datetime.fromisoformat(value)) == value
    except ValueError:
        return False
