"""The lines of the log, once: their names, how grave they are, what they say. Pure.

A session event is a line, too, named by its type. `docs/events.md` is made from this; `log_fields` has the fields.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from string import Formatter
from typing import Any

import orjson

from tminus.domain import timestamps
from tminus.domain.events import News, timeout_of
from tminus.domain.types import LOCAL_AGENT_ID

_PART = re.compile(r"\[([^\]]*)\]|([^\[]+)")


@dataclass(frozen=True)
class Line:
    """A kind of log line that is no session event: its level, its sentence, its fields."""

    level: str
    says: str
    """The sentence. `{name}` stands for a field, `{name:event}` for a number of something (1 event, 2 events). What
    stands in brackets is left out where one of its fields is; the other fields are always there. Of alternatives in
    brackets, separated by `|`, the first counts whose fields are all there.
    """
    fields: tuple[str, ...] = ()

    def sentence(self, given: Mapping[str, Any]) -> str:
        """Return the sentence of a line with these fields."""
        return "".join(text for part in self._parts for text in part.text(given))

    @property
    def named(self) -> list[str]:
        """The fields that the sentence names."""
        return [name for part in self._parts for pieces in part.alternatives for _, name, _ in pieces if name]

    @cached_property
    def _parts(self) -> "list[_Part]":
        return [
            _Part(found[1].split("|"), may_be_left_out=True) if found[1] is not None else _Part([found[2]])
            for found in _PART.finditer(self.says)
        ]


@dataclass(frozen=True)
class _Part:
    """A part of a sentence, which may be left out as a whole."""

    templates: list[str]
    may_be_left_out: bool = False
    alternatives: list[list[tuple[str, str, str]]] = field(init=False)
    """Of each alternative: text, the field that follows it, and what it is a number of."""

    def __post_init__(self) -> None:
        alternatives = [
            [(text, name or "", noun or "") for text, name, noun, _ in Formatter().parse(template)]
            for template in self.templates
        ]
        object.__setattr__(self, "alternatives", alternatives)

    def text(self, given: Mapping[str, Any]) -> Iterator[str]:
        for pieces in self.alternatives:
            if self.may_be_left_out and any(name and name not in given for _, name, _ in pieces):
                continue
            for text, name, noun in pieces:
                yield text
                if name:
                    yield _shown(given[name], noun)
            return


def _shown(value: Any, noun: str) -> str:
    if noun:
        return f"{value} {noun}" if value == 1 else f"{value} {noun}s"
    return ", ".join(map(str, value)) if isinstance(value, list | dict) else str(value)


_WAITING = "[, {undelivered_events:event} waiting since {oldest_undelivered}]"
_UNDELIVERED = ("undelivered_events", "oldest_undelivered")

_COUNTED = ("network", "request_id", "count", "since")
_MANY = ("count", "since")

LOG_LINES = {
    "daemon.crashed": Line(
        "error",
        "previous run[ (process {previous_pid})] did not stop cleanly: {cause}; last sign of life at {last_alive}, "
        "{away_s:second} ago",
        ("previous_pid", "previous_version", "cause", "last_alive", "away_s"),
    ),
    "daemon.starting": Line(
        "info",
        "tminus {version} starting with configuration {config} ({config_fingerprint}), state in {state}",
        ("version", "pid", "host", "config", "config_files", "config_fingerprint", "state"),
    ),
    "daemon.ready": Line(
        "info",
        "ready, listening on {url}; try: {hint}",
        ("url", "socket", "inherited", "next_due", "sessions", "hint"),
    ),
    "daemon.heartbeat": Line(
        "info",
        "running, {requests:request} answered since the last heartbeat[; next deadline {next_due}]"
        "[, overdue by {overdue_s:second}]"
        "[; {undelivered_events:event} waiting for {undelivered}, the oldest since {oldest_undelivered}]"
        "[; database not readable ({unreadable})][; database not writable ({unwritable})]",
        (
            "sessions",
            "next_due",
            "overdue_s",
            "worst_lag_ms",
            "requests",
            "undelivered",
            *_UNDELIVERED,
            "unreadable",
            "unwritable",
        ),
    ),
    "daemon.frozen": Line(
        "warning",
        "daemon did not run for {frozen_s:second}: stopped by a signal, or its machine was suspended or overloaded",
        ("frozen_s",),
    ),
    "daemon.draining": Line(
        "info", "stopping on {signal}: finishing running requests, accepting no new ones", ("signal",)
    ),
    "daemon.stopped": Line("info", "stopped, everything acknowledged is stored"),
    "daemon.failed": Line("critical", "{error}", ("error",)),
    "log.behind": Line("info", "{events:event} not logged yet, the next start logs them", ("events",)),
    "log.resumed": Line(
        "info",
        "logging {events:event} after number {after} that the previous run may not have logged",
        ("events", "after"),
    ),
    "log.dropped": Line(
        "error",
        "{lines:log line} dropped since {since}: standard output or the journal did not accept them",
        ("lines", "since"),
    ),
    "config.reloaded": Line(
        "info",
        "configuration {config} ({config_fingerprint}) in force, {changes:setting} changed",
        ("changes", "config", "config_files", "config_fingerprint"),
    ),
    "config.failed": Line("error", "reload failed, internal error: {error}", ("error", "traceback")),
    "config.changed": Line(
        "info", "{key}[ changed from {old} to {new}| added: {new}| removed, it was {old}]", ("key", "old", "new")
    ),
    "config.needs_restart": Line(
        "warning",
        "{key}[ changed from {old} to {new}| added: {new}| removed, it was {old}]; in force after the next start",
        ("key", "old", "new"),
    ),
    "config.rejected": Line("error", "reload rejected ({faults:error}), previous configuration kept", ("faults",)),
    "config.fault": Line("error", "{where}: {key} {error}", ("where", "key", "error")),
    "storage.waiting": Line("info", "waiting for another process that uses or migrates the database"),
    "storage.migrated": Line(
        "info", "database schema migrated[ from {previous_schema}] to {schema}", ("previous_schema", "schema")
    ),
    "storage.unavailable": Line("error", "database not writable ({error}), retrying", ("error",)),
    "storage.recovered": Line(
        "info", "database writable again after {away_s} s, {refused:request} refused meanwhile", ("away_s", "refused")
    ),
    "storage.blocked": Line(
        "warning",
        "a write has been held up for {blocked_ms} ms, since {since}: the database is locked or slow",
        ("blocked_ms", "since"),
    ),
    "storage.unblocked": Line("info", "writes go on, one was held up for {blocked_ms} ms", ("blocked_ms",)),
    "storage.damaged": Line(
        "error",
        "database damaged ({error}): run `tminus db check` and restore a backup (docs/backup.md)",
        ("error",),
    ),
    "clock.late": Line(
        "warning", "{moves:session} opened or closed late, by up to {lag_ms} ms ({cause})", ("lag_ms", "moves", "cause")
    ),
    "clock.stepped": Line("warning", "wall clock set by {step_ms} ms, timers set again", ("step_ms",)),
    "clock.differs": Line(
        "warning", "this machine's clock differs by {off_ms} ms from the database's clock, which counts", ("off_ms",)
    ),
    "clock.agrees": Line("info", "this machine's clock agrees with the database's again"),
    "clock.failed": Line("error", "{job} failed ({error}), retrying", ("job", "error", "traceback")),
    "clock.recovered": Line("info", "{job} works again", ("job",)),
    "clock.no_pin": Line("error", "{waiting:session} cannot open: every PIN is in use, retrying", ("waiting",)),
    "thread.failed": Line("error", "thread {thread} failed ({error}), restarting it", ("thread", "error", "traceback")),
    "deadlines.moved": Line("info", "{moved:deadline} changed to the new lifecycle settings", ("moved",)),
    "retention.held": Line(
        "warning",
        "clock is {ahead_s} s ahead of the last run of retention, nothing is removed before {until}",
        ("ahead_s", "until"),
    ),
    "retention.removed": Line("info", "{removed:closed session} older than `storage.retention` removed", ("removed",)),
    "auth.failed": Line(
        "warning",
        "wrong token from {remote_ip} ({token_state}), attempts: {count}[ since {since}]",
        ("remote_ip", "token", "token_state", *_COUNTED),
    ),
    "auth.limited": Line(
        "warning",
        "too many wrong tokens from {remote_ip}, requests refused: {count}[ since {since}]",
        ("remote_ip", *_COUNTED),
    ),
    "auth.signed_in": Line("info", "{actor} signed in from {remote_ip}", ("actor", "sid", "remote_ip", "request_id")),
    "auth.signed_out": Line("info", "{actor} signed out", ("actor", "sid", "remote_ip", "request_id")),
    "pin.unknown": Line(
        "warning",
        "unknown PIN from {remote_ip}, attempts: {count}[ since {since}]",
        ("remote_ip", *_COUNTED),
    ),
    "pin.limited": Line(
        "warning",
        "too many PIN look-ups from {remote_ip}, requests refused: {count}[ since {since}]",
        ("remote_ip", *_COUNTED),
    ),
    "webhook.added": Line(
        "info", "endpoint {endpoint} added, receives events from {begins_at}", ("endpoint", "begins_at")
    ),
    "webhook.secret": Line("info", "secrets of endpoint {endpoint} changed", ("endpoint",)),
    "webhook.failed": Line(
        "warning",
        "endpoint {endpoint} did not accept events ({error}), attempt {attempts}, next at {retry_at}" + _WAITING,
        ("endpoint", "error", "attempts", "since", "retry_at", "code", *_UNDELIVERED),
    ),
    "webhook.recovered": Line(
        "info",
        "endpoint {endpoint} accepts events again, attempt {attempts} since {since}" + _WAITING,
        ("endpoint", "attempts", "since", *_UNDELIVERED),
    ),
    "webhook.caught_up": Line(
        "info",
        "endpoint {endpoint} has accepted all that waited, {events:event} since {since}",
        ("endpoint", "events", "since"),
    ),
    "webhook.paused": Line(
        "error",
        "endpoint {endpoint} PAUSED ({pause_reason})[: {error}]; events wait until `tminus webhooks resume {endpoint}`"
        f"{_WAITING}",
        ("endpoint", "pause_reason", "error", "attempts", "since", *_UNDELIVERED),
    ),
    "webhook.resumed": Line("info", "endpoint {endpoint} resumed where it was paused", ("endpoint",)),
    "webhook.replayed": Line("info", "replay {replay} to endpoint {endpoint} finished", ("endpoint", "replay")),
    "webhook.replay_ended": Line(
        "error", "replay {replay} to endpoint {endpoint} given up: {error}", ("endpoint", "replay", "error")
    ),
    "webhook.defect": Line(
        "error", "internal error, endpoint {endpoint} not served: {error}", ("endpoint", "error", "traceback")
    ),
    "http.request": Line(
        "info",
        "{method} {route} answered with {code} in {ms} ms",
        (
            "method",
            "route",
            "code",
            "refcode",
            "ms",
            "actor",
            "session_id",
            "replayed",
            "label",
            "external_key",
            "record_name",
            "remote_ip",
            "request_id",
        ),
    ),
    "http.anonymous": Line(
        "info",
        "requests of unknown callers from {remote_ip}: {count}[ since {since}]; last: {method} {route} answered with "
        "{code}",
        ("method", "route", "code", "refcode", "remote_ip", *_COUNTED),
    ),
    "http.cross_site": Line(
        "info",
        "requests that pages of other sites sent from {remote_ip}, refused: {count}[ since {since}]",
        ("remote_ip", *_COUNTED),
    ),
    "http.failed": Line(
        "error",
        "{method} {route}: internal error: {error}",
        ("method", "route", "error", "traceback", "request_id"),
    ),
    "http.full": Line(
        "error",
        "{connections} connections open, no more allowed with {limit} open files (LimitNOFILE=)"
        ", times: {count}[ since {since}]",
        ("connections", "limit", *_MANY),
    ),
    "http.refused": Line(
        "warning",
        "connections refused with 503: {connections} open, none of them waiting for its client"
        ", times: {count}[ since {since}]",
        ("connections", *_MANY),
    ),
    "http.crowded": Line(
        "warning",
        "{remote_ip} has {connections} connections, the most that one address may have "
        "(limits.connections_per_address): the oldest waiting ones are closed for new ones"
        ", times: {count}[ since {since}]",
        ("remote_ip", "connections", "network", *_MANY),
    ),
    "feed.crowded": Line(
        "warning",
        "{actor} or its address {remote_ip} has {limit} streams and long polls, the most that it may have "
        "(limits.streams_per_agent, limits.streams_per_address): the oldest are ended for new ones"
        ", times: {count}[ since {since}]",
        ("actor", "remote_ip", "limit", "network", *_MANY),
    ),
    "http.malformed": Line(
        "warning",
        "malformed request from {remote_ip} refused, connection closed: it {error}, times: {count}[ since {since}]",
        ("remote_ip", "error", "network", *_MANY),
    ),
    "library.said": Line("warning", "{logger}: {error}", ("logger", "error", "traceback")),
}

EVENT_FIELDS = (
    "seq", "session_id", "session_type", "label", "owner", "owner_name", "external_key", "record_table", "record_id",
    "record_name", "previous_status", "status", "start", "previous_start", "reason", "timeout", "lag_ms",
    "participant_id", "participant_name", "participant_role", "participants", "actor", "actor_name",
    "request_id",
)  # fmt: skip
"""The fields of the line that a session event is printed as; absent where there is nothing to say."""


def record_of(parent_object: str | None) -> dict[str, Any]:
    """Return the record that a session is about, from its JSON; empty if there is none."""
    record: dict[str, Any] = orjson.loads(parent_object) if parent_object else {}
    return record


def log_fields(told: News, actor_name: str | None = None) -> dict[str, Any]:
    """Return the fields of the line of an event, by the names of `EVENT_FIELDS`."""
    event, session, participant = told.event, told.session, told.participant
    record = record_of(session.parent_object)
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
        "timeout": timeout_of(event),
        "lag_ms": told.lag_ms,
        "participant_id": event.participant_id,
        "participant_name": participant.name if participant else None,
        "participant_role": participant.role if participant else None,
        "participants": event.participants if participant else None,
        "actor": event.actor,
        "actor_name": actor_name,
        "request_id": event.request_id,
    }
    return {name: value for name, value in fields.items() if value is not None}
