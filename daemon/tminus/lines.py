"""The lines of the log, once: their names, how grave they are, what they say. Pure.

A session event is a line, too, named by its type. `docs/events.md` is made from this.
"""

from dataclasses import dataclass
from typing import Any

from tminus import instants
from tminus.events import News


@dataclass(frozen=True, slots=True)
class Line:
    """A kind of log line that is no session event: what it says, how grave it is, which fields it has."""

    level: str
    says: str
    """The sentence; `{name}` stands for a field of the line that is always there."""
    fields: tuple[str, ...] = ()


LOG_LINES = {
    "daemon.crashed": Line(
        "error",
        "the previous run (process {previous_pid}) did not stop cleanly: {cause}; "
        "its last sign of life was at {last_alive}, {away_s} s ago",
        ("previous_pid", "previous_version", "cause", "last_alive", "away_s"),
    ),
    "daemon.starting": Line(
        "info",
        "tminus {version} starts: configuration {config} ({config_fingerprint}), state in {state}",
        ("version", "pid", "host", "config", "config_files", "config_fingerprint", "state"),
    ),
    "daemon.ready": Line(
        "info",
        "listening on {url}, and all that was due is done; try: {hint}",
        ("url", "socket", "passed", "next_due", "sessions", "hint"),
    ),
    "daemon.heartbeat": Line(
        "info",
        "the daemon lives; sent every `log.heartbeat`",
        ("sessions", "next_due", "worst_lag_ms", "requests", "oldest_undelivered", "unreadable", "unwritable"),
    ),
    "daemon.draining": Line("info", "told to stop ({signal}): no new work, running requests finish", ("signal",)),
    "daemon.stopped": Line("info", "everything acknowledged is stored, the daemon ends"),
    "daemon.failed": Line("critical", "{error}", ("error",)),
    "log.behind": Line("info", "{events} events are not in the log yet: the next start goes on there", ("events",)),
    "log.resumed": Line(
        "info",
        "{events} events that the previous run may not have logged follow, from number {after} on",
        ("events", "after"),
    ),
    "log.dropped": Line(
        "error",
        "{lines} lines of the log were dropped since {since}: standard output or the journal took none",
        ("lines", "since"),
    ),
    "config.reloaded": Line(
        "info",
        "configuration {config} ({config_fingerprint}) is in force, {changes} settings changed",
        ("changes", "config", "config_files", "config_fingerprint"),
    ),
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
    "clock.differs": Line(
        "warning",
        "this machine's clock is off by {off_ms} ms: the database's clock counts, and nothing is early or late",
        ("off_ms",),
    ),
    "clock.agrees": Line("info", "this machine's clock agrees with the database's again"),
    "clock.failed": Line("error", "{job} failed ({error}); it is tried again", ("job", "error", "traceback")),
    "clock.recovered": Line("info", "{job}, which had failed, is done again", ("job",)),
    "clock.no_pin": Line(
        "error", "{waiting} sessions cannot open, every PIN is in use; it is tried again", ("waiting",)
    ),
    "thread.failed": Line("error", "thread {thread} failed ({error}), restarting it", ("thread", "error", "traceback")),
    "deadlines.moved": Line("info", "{moved} stored deadlines follow the new lifecycle settings", ("moved",)),
    "retention.held": Line(
        "warning",
        "the clock is {ahead_seconds} s ahead of when retention last ran: nothing is removed before {until}",
        ("ahead_seconds", "until"),
    ),
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
    "webhook.secret": Line("info", "what endpoint {endpoint} is told is signed with other secrets", ("endpoint",)),
    "webhook.failed": Line(
        "warning",
        "endpoint {endpoint} took nothing ({error}), for the {tries}. time since {since}; tried again at {retry_at}",
        ("endpoint", "error", "tries", "since", "retry_at", "status"),
    ),
    "webhook.recovered": Line(
        "info",
        "endpoint {endpoint} takes events again, at try {tries}; it took none since {since}",
        ("endpoint", "tries", "since"),
    ),
    "webhook.paused": Line(
        "error",
        "endpoint {endpoint} is PAUSED ({reason}: {error}): nothing is sent or lost until `tminus webhooks resume`",
        ("endpoint", "reason", "error", "tries", "since"),
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
    "http.refused": Line(
        "warning",
        "connections are refused with 503: {connections} are open, and none of them waits for its client",
        ("connections",),
    ),
    "http.crowded": Line(
        "warning",
        "{remote_ip} has {connections} connections, all that one address may have (limits.connections_per_address): "
        "the oldest that wait are closed for new ones",
        ("remote_ip", "connections"),
    ),
    "feed.crowded": Line(
        "warning",
        "agent {agent} or its address {remote_ip} holds {limit} streams and waiting requests, all that it may "
        "(limits.streams_per_agent, limits.streams_per_address): the oldest end for new ones",
        ("agent", "remote_ip", "limit"),
    ),
    "http.malformed": Line(
        "warning",
        "a request from {remote_ip} {error}: it was refused, and the connection closed",
        ("remote_ip", "error"),
    ),
    "library.said": Line("warning", "{logger}: {error}", ("logger", "error", "traceback")),
}

EVENT_FIELDS = (
    "seq", "session_id", "external_key", "from", "to", "start", "reason", "lag_ms", "participant", "actor",
    "request_id",
)  # fmt: skip
"""The fields of the line that a session event is printed as; absent where there is nothing to say."""

FIELDS = {
    "ts": "when, in UTC with milliseconds, as all other times; of an event: when it happened, not when it was logged",
    "level": "`debug`, `info`, `warning`, `error` or `critical`",
    "instance": "which daemon: its host, `/`, and the number of its process",
    "event": "the name of the line",
    "message": "the sentence",
    "seq": "number of the event, as in the feed",
    "session_id": "the session",
    "external_key": "its `externalMapping`: the ticket",
    "from": "the status before; the schema before, absent for a new database; "
    "where an endpoint begins: `now` or `beginning`",
    "to": "the status after; the schema after",
    "start": "when the session starts, if it was scheduled",
    "reason": "why a session was closed; why an endpoint was paused",
    "lag_ms": "how many milliseconds late the clock was",
    "participant": "the participant's id",
    "actor": "who did it, as in the feed",
    "request_id": "the request that caused it: the caller's `X-Request-Id`, else one that was drawn",
    "after": "number of the last event that is known to have been logged",
    "agent": "the agent's id: 0 is the local operator; absent if nobody is known to have called",
    "away_s": "seconds from then to this start",
    "cause": "whether the process or the host ended",
    "changes": "how many settings have changed",
    "code": "the answer's HTTP status; 499 if the client hung up before its request had arrived",
    "config": "the configuration file, or `built-in defaults`",
    "config_files": "the files that were read, in order",
    "config_fingerprint": "of what they and the environment set; also in `/metrics` and in `tminus check`",
    "connections": "how many are open",
    "endpoint": "the webhook's name",
    "error": "what went wrong",
    "events": "how many events",
    "faults": "how many faults the file has",
    "hint": "what to try first",
    "host": "its name",
    "job": "what the clock was to do",
    "key": "the setting",
    "last_alive": "when the previous run last gave a sign of life, give or take two seconds",
    "limit": "how many open files the process may have; how many streams and waiting requests a caller may hold",
    "lines": "how many lines",
    "logger": "the library that said it",
    "method": "of the request",
    "moved": "how many deadlines",
    "moves": "how many sessions",
    "ms": "how long the answer took, in milliseconds",
    "new": "the setting's new value; a secret's is never told",
    "next_due": "the earliest deadline; absent if there is none",
    "off_ms": "by how many milliseconds this machine's clock is ahead of the database's; negative: behind",
    "old": "the setting's value before",
    "oldest_undelivered": "when the oldest event happened that a webhook has not been told yet",
    "passed": "the settings (`listen`, `socket`) in whose place systemd handed a socket over",
    "pid": "number of the process",
    "previous_pid": "number of the process that ran before",
    "previous_version": "of the tminus that ran before",
    "refcode": "of a refusal ([api.md](api.md#errors)); absent if it is none",
    "remote_ip": "where the caller is; `local`: at the local socket",
    "removed": "how many sessions",
    "replay": "number of the replay",
    "requests": "how many were answered since the heartbeat before, operations aside",
    "retry_at": "when it is tried again",
    "route": "the path's template, `(none)` if there is no such path: the path itself may hold a PIN",
    "sessions": "how many are open, by status",
    "sid": "number of the agent session",
    "signal": "the signal's name",
    "since": "when the first try in a row that failed was made; when the first line was dropped",
    "socket": "the local socket; absent if there is none",
    "state": "the state directory",
    "status": "the receiver's HTTP status; absent if it gave no answer",
    "step_ms": "by how many milliseconds the wall clock was set",
    "thread": "which of the daemon's threads",
    "traceback": "where it went wrong, the innermost place first",
    "tries": "how often in a row it was tried; absent if an operator paused it",
    "unreadable": "why the database cannot be read; absent if it can",
    "unwritable": "why the last write failed; absent if it did not",
    "url": "where it listens",
    "version": "of tminus",
    "waiting": "how many sessions",
    "where": "file and line",
    "worst_lag_ms": "how late a move of the clock was at most since the heartbeat before",
    "ahead_seconds": "seconds by which the clock was ahead of when retention last ran",
    "until": "before when retention removes nothing",
}
"""Every field that a line may have. Name -> what it is, for the reference."""


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
