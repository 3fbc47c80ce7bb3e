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


def _k(means: str) -> Field:
    return Field(Kind.KEYWORD, means)


def _t(means: str) -> Field:
    return Field(Kind.TEXT, means)


def _i(means: str) -> Field:
    return Field(Kind.INTEGER, means)


def _at(means: str) -> Field:
    return Field(Kind.TIME, means)


HEAD = ("ts", "level", "event", "instance", "message")
"""The fields of every line. They come first and in this order, so that a truncated line still has its name."""

FIELDS = {
    "ts": _at("time of the line; of a session event: when it happened, not when it was logged"),
    "left": _i("number of sessions"),
    "level": _k("`debug`, `info`, `warning`, `error` or `critical`"),
    "event": _k("name of the line"),
    "instance": _k("the daemon: its host, `/`, and its process number"),
    "message": _t("the sentence"),
    "seq": _i("number of the session event, as in the feed"),
    "session_id": _k("the session"),
    "session_type": _k("its type: `support`, `cobrowse`, …"),
    "label": _t("its label"),
    "owner": _k("the agent whose session it is, written as `actor` is"),
    "owner_name": _t("its `userDescription`: the owner's name, unless it was created with another"),
    "external_key": _k("its `externalMapping`: the ticket"),
    "record_table": _k("`type` of its `parentObject`: the table of the record"),
    "record_id": _k("`id` of its `parentObject`: the record's sys_id"),
    "record_name": _t("`name` of its `parentObject`: the record's display name"),
    "previous_status": _k("status of the session before the event; absent for a new session"),
    "status": _k("status of the session after the event"),
    "start": _at("when the session starts, if it was scheduled"),
    "previous_start": _at("the start before the reschedule"),
    "reason": _k("why the session was closed: `cancelled`, `closed`, `expired`, `empty` or `time_limit`"),
    "timeout": _k("the time-out that closed the session: `lifecycle.new_timeout`, `…empty_timeout` or `…max_active`"),
    "outcome": _k("what was done with it: `created`, `changed` or `ended`"),
    "series": _k("id of the series of sessions"),
    "before": _k("how long before the start a reminder was due, such as `15m`"),
    "lag_ms": _i("milliseconds by which the scheduler was late"),
    "participant_id": _k("the participant"),
    "invitee": _i("position of the invitee in the session's list, counted from 1"),
    "participant_name": _t("the participant's name"),
    "participant_role": _k("the participant's role"),
    "origin": _t("the `Origin` of a request from a page of another site, at most 200 characters; not every one has it"),
    "overdue_s": _i("seconds since the earliest deadline passed; absent if it has not passed"),
    "participants": _i("number of participants; of a session event: in the session after it"),
    "actor": _k(
        "who did it: `clock`, `agent:<id>`, `room:<id>`, `local` (the local socket), `room` (somebody in the daemon's "
        "own room), `host:<participant>` (a host in it); absent if unknown"
    ),
    "actor_name": _t("the name of `actor`: of an agent in the configuration in force, or of a host"),
    "request_id": _k(
        "the request that caused the line, or the last of several: the caller's `X-Request-Id`, or a random id"
    ),
    "after": _i("number of the last session event that is known to have been logged"),
    "agent": _i("number of the agent"),
    "agent_sessions": _i("number of agent sessions"),
    "ahead_s": _i("seconds by which the clock was ahead of the last run of retention"),
    "attempts": _i("number of the attempt, counted from the last success"),
    "away_s": _i("seconds for which the daemon or the database was unavailable"),
    "begins_at": _k("which event an endpoint receives first: `now` or `beginning`"),
    "blocked_ms": _i("milliseconds for which a write has been blocked"),
    "cause": _k("why it happened"),
    "changes": _i("number of changed settings"),
    "code": _i("HTTP status of an answer of the daemon or of a receiver; 499: the client closed the connection"),
    "config": _k("the configuration file, or `built-in defaults`"),
    "config_files": Field(Kind.KEYWORDS, "the configuration files that were read, in order"),
    "config_fingerprint": _k("fingerprint of files and environment; also in `/metrics` and in `tminus check`"),
    "connections": _i("number of open connections"),
    "close_code": _i(
        "close code of a WebSocket: of the daemon or of the client; 1005: the client sent none, 1006: the connection "
        "was lost"
    ),
    "close_reason": _t(
        "why the daemon closed a WebSocket: the error, or how the visit to a room ended; absent if the client closed it"
    ),
    "count": _i("how often it happened since the last such line about the same address"),
    "daemon": _k("the daemon, as the database names it: its host and state directory"),
    "endpoint": _k("the name of the webhook"),
    "error": _t("what went wrong"),
    "events": _i("number of session events"),
    "faults": _i("number of errors in the configuration"),
    "frozen_s": _i("seconds for which the daemon did not run"),
    "hint": _t("a command to try first"),
    "host": _k("name of the host"),
    "inherited": Field(Kind.KEYWORDS, "the settings (`listen`, `socket`) whose sockets systemd handed over"),
    "job": _k("the periodic job: `clock tick`, `retention`, `heartbeat`, …"),
    "key": _k("the setting"),
    "last": _at("time of the last of the occurrences in `count`; absent if the line reports a single occurrence"),
    "last_alive": _at("last sign of life of the previous run, accurate to two seconds"),
    "limit": _i("the limit that was reached"),
    "lines": _i("number of log lines"),
    "logger": _k("the library that logged it"),
    "method": _k("HTTP method of the request"),
    "moved": _i("number of deadlines"),
    "moved_from": _at("where the test clock stood before the move"),
    "moves": _i("number of transitions of sessions"),
    "ms": _i("milliseconds until the request was answered"),
    "network": _k("the /64 network of `remote_ip`, which counts as one caller; absent for IPv4"),
    "new": _t("the setting's new value as text, lists and tables as JSON; absent if there is none; no secret"),
    "next_due": _at("the earliest deadline; absent if there is none"),
    "now": _at("where the test clock stands"),
    "open_s": _i("seconds for which the WebSocket was open"),
    "off_ms": _i("milliseconds by which this machine's clock is ahead of the database's; negative: behind"),
    "old": _t("the setting's previous value, written as `new` is"),
    "oldest_undelivered": _at("time of the oldest event that waits for delivery"),
    "pause_reason": _k("why an endpoint was paused: `operator`, `gone` or `gave_up`"),
    "pid": _i("process number"),
    "previous_pid": _i("process number of the previous run"),
    "previous_schema": _k("the database's schema before; absent for a new database"),
    "previous_version": _k("version of the previous run"),
    "receiver": _t("a URL that a caller sent as `receiver_url`, without its query, at most 200 characters"),
    "refcode": _i("reason for which a request was refused ([api.md](api.md#errors))"),
    "refusal": _k(
        "`unknown` (or already used), `expired`, `revoked`, or `foreign` (of another provider, instance or receiver)"
    ),
    "refused": _i("number of requests that were refused meanwhile"),
    "remote_ip": _k("address of the caller; `local`: the local socket; `unknown`"),
    "removed": _i("number of sessions"),
    "replay": _i("number of the replay"),
    "replayed": _k(
        "`yes` if the answer to an earlier request with the same `Idempotency-Key` was repeated; else absent"
    ),
    "requests": _i(
        "number of requests answered since the last heartbeat, without `/healthz`, `/readyz` and `/metrics`"
    ),
    "retry_at": _at("when the next attempt is made"),
    "route": _k("template of the path, as the path itself may contain a PIN; `(none)` if there is no such path"),
    "schema": _k("the database's schema"),
    "sessions": Field(Kind.OBJECT, "number of open sessions by status"),
    "sid": _i("number of the agent session"),
    "signal": _k("name of the signal"),
    "since": _at("when it began"),
    "socket": _k("the local socket; absent if there is none"),
    "source": _k(
        "the system that reports the people of a session: `room` (the daemon's own room) or `participants` (the API)"
    ),
    "state": _k("the state directory"),
    "step_ms": _i("milliseconds by which the wall clock was set"),
    "thread": _k("name of the daemon's thread"),
    "token": _k("fingerprint of the token: the first 12 hexadecimal digits of its SHA-256"),
    "token_state": _k("`unknown`, `expired` or `revoked`"),
    "traceback": _t("the stack of the error, the innermost call first"),
    "undelivered": Field(Kind.OBJECT, "number of events that wait for delivery, by endpoint"),
    "undelivered_events": _i("number of events that wait for delivery"),
    "unreadable": _t("why the database cannot be read; absent if it can"),
    "until": _at("time until which nothing is removed, or until which people may reconnect"),
    "unwritable": _t("why the last write failed; absent if it did not"),
    "url": _k("where the daemon listens"),
    "via": _k("how an agent session began or ended: `token` (the API), `page` (the sign-in page), `code`"),
    "version": _k("version of tminus"),
    "waiting": _i("number of sessions that wait for a PIN"),
    "where": _k("file and line"),
    "worst_lag_ms": _i("greatest lateness of a transition since the last heartbeat, in milliseconds"),
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
