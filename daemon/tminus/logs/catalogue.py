"""The catalogue of log lines that are not session events: the name, level, message and fields of each.

A session event is a log line, too; its name is its type. `docs/events.md` is generated from this module. The module
`fields` defines the fields.
"""

from tminus.logs.templates import LineTemplate

_WAITING = "[, {undelivered_events:event} waiting since {oldest_undelivered}]"
_UNDELIVERED = ("undelivered_events", "oldest_undelivered")

_NAMES = ("label", "external_key", "record_name")
_SESSION = ("session_id", *_NAMES)
_MAIL = (*_SESSION, "invitee", "seq")
_CALLER_COUNT = ("network", "request_id", "count", "since", "last")
_COUNT = ("count", "since", "last")
_VISIT = (*_SESSION, "participant_name")

LOG_LINES = {
    "daemon.crashed": LineTemplate(
        "error",
        "previous run[ (process {previous_pid})] did not stop cleanly: {cause}; last sign of life at {last_alive}, "
        "{away_s:second} ago",
        ("previous_pid", "previous_version", "cause", "last_alive", "away_s"),
    ),
    "daemon.starting": LineTemplate(
        "info",
        "tminus {version} starting with configuration {config} ({config_fingerprint}), state in {state}",
        ("version", "pid", "host", "config", "config_files", "config_fingerprint", "state"),
    ),
    "daemon.ready": LineTemplate(
        "info",
        "ready, listening on {url}; try: {hint}",
        ("url", "socket", "inherited", "next_due", "sessions", "hint"),
    ),
    "daemon.heartbeat": LineTemplate(
        "info",
        "running, {requests:request} answered since the last heartbeat[; next deadline {next_due}]"
        "[, overdue by {overdue_s:second}]"
        "[; {undelivered_events:event} waiting for {undelivered}, the oldest since {oldest_undelivered}]"
        "[; database not readable ({unreadable})][; database not writable ({unwritable})]"
        "[; database damaged ({damaged})]",
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
            "damaged",
        ),
    ),
    "daemon.frozen": LineTemplate(
        "warning",
        "daemon did not run for {frozen_s:second}: stopped by a signal, or its machine was suspended or overloaded",
        ("frozen_s",),
    ),
    "daemon.draining": LineTemplate(
        "info", "stopping on {signal}: finishing running requests, accepting no new ones", ("signal",)
    ),
    "daemon.stopped": LineTemplate("info", "stopped, everything acknowledged is stored"),
    "daemon.failed": LineTemplate("critical", "{error}", ("error",)),
    "log.behind": LineTemplate("info", "{events:event} not logged yet, the next start logs them", ("events",)),
    "log.resumed": LineTemplate(
        "info",
        "logging {events:event} after number {after} that the previous run may not have logged",
        ("events", "after"),
    ),
    "log.dropped": LineTemplate(
        "error",
        "{lines:log line} dropped since {since}: standard output or the journal did not accept them",
        ("lines", "since"),
    ),
    "config.reloaded": LineTemplate(
        "info",
        "configuration {config} ({config_fingerprint}) in force, {changes:setting} changed",
        ("changes", "config", "config_files", "config_fingerprint"),
    ),
    "config.failed": LineTemplate("error", "reload failed, internal error: {error}", ("error", "traceback")),
    "config.changed": LineTemplate(
        "info",
        "{key}[ of {agent_name}][ changed from {old} to {new}| added: {new}| removed, it was {old}]",
        ("key", "agent_name", "old", "new"),
    ),
    "config.needs_restart": LineTemplate(
        "warning",
        "{key}[ changed from {old} to {new}| added: {new}| removed, it was {old}]; in force after the next start",
        ("key", "old", "new"),
    ),
    "config.rejected": LineTemplate(
        "error", "reload rejected ({faults:error}), previous configuration kept", ("faults",)
    ),
    "config.fault": LineTemplate("error", "{where}:[ {key}] {error}", ("where", "key", "error")),
    "storage.waiting": LineTemplate("info", "waiting for another process that uses or migrates the database"),
    "storage.migrated": LineTemplate(
        "info", "database schema migrated[ from {previous_schema}] to {schema}", ("previous_schema", "schema")
    ),
    "storage.unavailable": LineTemplate("error", "database not writable ({error}), retrying", ("error",)),
    "storage.recovered": LineTemplate(
        "info",
        "database writable again since {since}, after {away_s} s, {refused:request} refused meanwhile",
        ("since", "away_s", "refused"),
    ),
    "storage.blocked": LineTemplate(
        "warning",
        "a write has been blocked for {blocked_ms} ms, since {since}: the database is locked or slow",
        ("blocked_ms", "since"),
    ),
    "storage.unblocked": LineTemplate("info", "the blocked write has ended, after {blocked_ms} ms", ("blocked_ms",)),
    "storage.damaged": LineTemplate(
        "error",
        "database damaged ({error}): run `tminus db check` and restore a backup (docs/backup.md)",
        ("error",),
    ),
    "clock.test": LineTemplate(
        "warning",
        "TEST CLOCK at {now}: it stands until `tminus clock` moves it; not for production",
        ("now",),
    ),
    "clock.moved": LineTemplate("warning", "test clock moved from {moved_from} to {now}", ("moved_from", "now")),
    "clock.late": LineTemplate(
        "warning",
        "the scheduler was up to {lag_ms} ms late with {moves:deadline} ({cause})",
        ("lag_ms", "moves", "cause"),
    ),
    "clock.stepped": LineTemplate("warning", "wall clock stepped by {step_ms} ms, timers set again", ("step_ms",)),
    "clock.differs": LineTemplate(
        "warning",
        "this machine's clock is {off_ms} ms ahead of the database's clock, which is used (below 0: behind)",
        ("off_ms",),
    ),
    "clock.agrees": LineTemplate("info", "this machine's clock agrees with the database's again"),
    "clock.failed": LineTemplate("error", "{job} failed ({error}), retrying", ("job", "error", "traceback")),
    "clock.recovered": LineTemplate("info", "{job} works again", ("job",)),
    "clock.no_pin": LineTemplate("error", "{waiting:session} cannot open: every PIN is in use, retrying", ("waiting",)),
    "series.failed": LineTemplate(
        "warning",
        "no sessions made for series {series} ({error}), retrying",
        ("series", "owner", *_NAMES, "error", "traceback"),
    ),
    "series.skipped": LineTemplate(
        "warning",
        "no session of series {series} at {start}: it would overlap[ session {session_id}]",
        ("series", "owner", *_NAMES, "start", "session_id"),
    ),
    "series.configured": LineTemplate(
        "info", "{key} of the configuration: series {series} {outcome}", ("key", "series", "outcome")
    ),
    "series.refused": LineTemplate(
        "warning",
        "{key} not applied ({error}), retrying at {retry_at} and every five minutes",
        ("key", "error", "traceback", "retry_at"),
    ),
    "thread.failed": LineTemplate(
        "error", "thread {thread} failed ({error}), restarting it", ("thread", "error", "traceback")
    ),
    "deadlines.moved": LineTemplate("info", "{moved:deadline} changed to the new lifecycle settings", ("moved",)),
    "retention.held": LineTemplate(
        "warning",
        "clock is {ahead_s} s ahead of the last run of retention, nothing is removed before {until}",
        ("ahead_s", "until"),
    ),
    "batches.finished": LineTemplate("info", "unfinished batches completed, {left:session} done", ("left",)),
    "retention.removed": LineTemplate(
        "info", "{removed:closed session} older than `storage.retention` removed", ("removed",)
    ),
    "auth.failed": LineTemplate(
        "warning",
        "wrong token from {remote_ip} ({token_state}), attempts: {count}[ since {since}]",
        ("remote_ip", "token", "token_state", "route", *_CALLER_COUNT),
    ),
    "auth.limited": LineTemplate(
        "warning",
        "too many wrong tokens from {remote_ip}[, among them {token_state} token {token}], requests refused: {count}"
        "[ since {since}]",
        ("remote_ip", "token", "token_state", *_CALLER_COUNT),
    ),
    "auth.code_refused": LineTemplate(
        "warning",
        "sign-in code from {remote_ip} refused ({refusal}), attempts: {count}[ since {since}]",
        ("remote_ip", "refusal", *_CALLER_COUNT),
    ),
    "auth.signed_in": LineTemplate(
        "info",
        "{actor_name} ({actor}) signed in from {remote_ip} ({via})",
        ("actor", "actor_name", "sid", "via", "remote_ip", "request_id"),
    ),
    "auth.signed_out": LineTemplate(
        "info",
        "{actor_name} ({actor}) signed out",
        ("actor", "actor_name", "sid", "via", "remote_ip", "request_id"),
    ),
    "auth.signed_out_everywhere": LineTemplate(
        "info",
        "{actor_name} ({actor}) signed out everywhere, {agent_sessions:agent session} ended",
        ("actor", "actor_name", "sid", "agent_sessions", "remote_ip", "request_id"),
    ),
    "auth.receiver_refused": LineTemplate(
        "warning",
        "redirect to {receiver} refused (not in signin.receivers), requested from {remote_ip}, times: {count}"
        "[ since {since}]",
        ("receiver", "remote_ip", *_CALLER_COUNT),
    ),
    "auth.forgery_refused": LineTemplate(
        "warning",
        "sign-in form from {remote_ip} refused (no valid form key), times: {count}[ since {since}]",
        ("remote_ip", *_CALLER_COUNT),
    ),
    "pin.unknown": LineTemplate(
        "warning",
        "unknown PIN from {remote_ip}, attempts: {count}[ since {since}]",
        ("remote_ip", *_CALLER_COUNT),
    ),
    "pin.found": LineTemplate(
        "info",
        "session {session_id} found by its PIN from {remote_ip} after {wrong:unknown PIN}, times: {count}"
        "[ since {since}]",
        (*_SESSION, "wrong", "remote_ip", *_CALLER_COUNT),
    ),
    "pin.limited": LineTemplate(
        "warning",
        "too many wrong PINs or challenges from {remote_ip}, requests refused: {count}[ since {since}]",
        ("remote_ip", *_CALLER_COUNT),
    ),
    "pin.challenge_refused": LineTemplate(
        "warning",
        "wrong, late or used answers to challenges from {remote_ip}: {count}[ since {since}]",
        ("remote_ip", *_CALLER_COUNT),
    ),
    "auth.oidc_refused": LineTemplate(
        "warning",
        "sign-ins by OpenID Connect refused ({refusal}: {error}), from {remote_ip}: {count}[ since {since}]",
        ("refusal", "error", "remote_ip", *_CALLER_COUNT),
    ),
    "auth.shut_out": LineTemplate(
        "info",
        "agent {agent} is shut out, requests and sign-ins refused: {count}[ since {since}]",
        ("agent", "remote_ip", *_CALLER_COUNT),
    ),
    "agent.shut_out": LineTemplate(
        "warning",
        "agent {agent} ({agent_name}) shut out by {actor}, {agent_sessions:agent session} ended",
        ("agent", "agent_name", "actor", "agent_sessions", "remote_ip", "request_id"),
    ),
    "agent.readmitted": LineTemplate(
        "warning",
        "agent {agent} ({agent_name}) readmitted by {actor}",
        ("agent", "agent_name", "actor", "remote_ip", "request_id"),
    ),
    "calendar.address_made": LineTemplate(
        "info",
        "{actor} made an address for the calendar of agent {agent}; an earlier address has ended",
        ("agent", "actor", "remote_ip", "request_id"),
    ),
    "calendar.address_revoked": LineTemplate(
        "info",
        "{actor} revoked the address of the calendar of agent {agent}",
        ("agent", "actor", "remote_ip", "request_id"),
    ),
    "calendar.unknown": LineTemplate(
        "warning",
        "wrong or revoked addresses of calendars from {remote_ip}: {count}[ since {since}]",
        ("remote_ip", *_CALLER_COUNT),
    ),
    "agent.failed": LineTemplate("error", "internal error, agents not updated: {error}", ("error", "traceback")),
    "room.unknown": LineTemplate(
        "warning",
        "connections to unknown sessions from {remote_ip}: {count}[ since {since}]",
        ("remote_ip", *_CALLER_COUNT),
    ),
    "room.wrong_key": LineTemplate(
        "warning",
        "wrong host keys for session {session_id} from {remote_ip}: {count}[ since {since}]",
        ("remote_ip", *_VISIT, *_CALLER_COUNT),
    ),
    "room.limited": LineTemplate(
        "warning",
        "too many wrong session ids or keys from {remote_ip}, connections refused: {count}[ since {since}]",
        ("remote_ip", *_CALLER_COUNT),
    ),
    "room.other_source": LineTemplate(
        "warning",
        "join of session {session_id} refused, its people are reported by {source}, times: {count}[ since {since}]",
        ("source", *_VISIT, *_COUNT),
    ),
    "room.replaced": LineTemplate(
        "info",
        "session {session_id}: another connection took the place of {participant_name}",
        ("participant_id", *_VISIT),
    ),
    "room.host_revoked": LineTemplate(
        "warning",
        "session {session_id}: host {participant_name} disconnected, since the session's agent was shut out or "
        "removed, or has no valid token",
        ("participant_id", *_VISIT),
    ),
    "room.returning": LineTemplate(
        "info",
        "{participants:participant} of the previous run may reconnect until {until}",
        ("participants", "until"),
    ),
    "room.lease_lost": LineTemplate(
        "warning",
        "daemon {daemon} does not answer, its {participants:participant} will leave unless they reconnect",
        ("daemon", "participants"),
    ),
    "room.failed": LineTemplate("error", "internal error, rooms not updated: {error}", ("error", "traceback")),
    "webhook.added": LineTemplate(
        "info", "endpoint {endpoint} added, receives events from {begins_at}", ("endpoint", "begins_at")
    ),
    "webhook.secret": LineTemplate("info", "secrets of endpoint {endpoint} changed", ("endpoint",)),
    "webhook.failed": LineTemplate(
        "warning",
        "delivery to {endpoint} failed ({error}), attempt {attempts}, retrying at {retry_at}" + _WAITING,
        ("endpoint", "error", "attempts", "since", "retry_at", "code", *_UNDELIVERED),
    ),
    "webhook.recovered": LineTemplate(
        "info",
        "delivery to {endpoint} works again, attempt {attempts} since {since}" + _WAITING,
        ("endpoint", "attempts", "since", *_UNDELIVERED),
    ),
    "webhook.caught_up": LineTemplate(
        "info",
        "endpoint {endpoint} has caught up, {events:event} since {since}",
        ("endpoint", "events", "since"),
    ),
    "webhook.paused": LineTemplate(
        "error",
        "endpoint {endpoint} PAUSED ({pause_reason})[ by {actor}][: {error}]; "
        "events wait until `tminus webhooks resume {endpoint}`"
        f"{_WAITING}",
        ("endpoint", "pause_reason", "actor", "error", "attempts", "since", "remote_ip", "request_id", *_UNDELIVERED),
    ),
    "webhook.resumed": LineTemplate(
        "info",
        "endpoint {endpoint} resumed[ by {actor}] where it was paused",
        ("endpoint", "actor", "remote_ip", "request_id"),
    ),
    "webhook.replayed": LineTemplate("info", "replay {replay} to endpoint {endpoint} finished", ("endpoint", "replay")),
    "webhook.replay_ended": LineTemplate(
        "error", "replay {replay} to endpoint {endpoint} given up: {error}", ("endpoint", "replay", "error")
    ),
    "webhook.defect": LineTemplate(
        "error", "internal error, endpoint {endpoint} not served: {error}", ("endpoint", "error", "traceback")
    ),
    "mail.sent": LineTemplate("info", "mail to invitee {invitee} of session {session_id} sent", _MAIL),
    "mail.refused": LineTemplate(
        "warning",
        "mail to invitee {invitee} of session {session_id} refused by the mail server: {error}",
        (*_MAIL, "error", "smtp_code"),
    ),
    "mail.deferred": LineTemplate(
        "warning",
        "mail to invitee {invitee} of session {session_id} not accepted now, retrying later: {error}",
        (*_MAIL, "error", "smtp_code"),
    ),
    "mail.unknown": LineTemplate(
        "warning",
        "mail to invitee {invitee} of session {session_id} may have been accepted, not sent again: {error}",
        (*_MAIL, "error", "smtp_code"),
    ),
    "http.request": LineTemplate(
        "info",
        "{method} {route} answered with {code} in {ms} ms[: {error}]",
        (
            "method",
            "route",
            "code",
            "refcode",
            "error",
            "ms",
            "actor",
            "session_id",
            "replayed",
            *_NAMES,
            "remote_ip",
            "request_id",
        ),
    ),
    "http.anonymous": LineTemplate(
        "info",
        "unauthenticated requests from {remote_ip}: {count}[ since {since}]; last: {method} {route} answered with "
        "{code}[: {error}]",
        ("method", "route", "code", "refcode", "error", "remote_ip", *_CALLER_COUNT),
    ),
    "http.websocket": LineTemplate(
        "info",
        "WebSocket {route} of[ {participant_name} at] {remote_ip} closed with {close_code}[ ({close_reason})] after "
        "{open_s:second}[, {count} since {since}]",
        ("route", "close_code", "close_reason", "open_s", "refcode", "actor", *_VISIT, "remote_ip", *_CALLER_COUNT),
    ),
    "websocket.no_upgrade": LineTemplate(
        "warning",
        "request for WebSocket {route} from {remote_ip} refused ({error}): check that the proxy passes on WebSockets"
        ", times: {count}[ since {since}]",
        ("route", "error", "remote_ip", *_CALLER_COUNT),
    ),
    "websocket.crowded": LineTemplate(
        "warning",
        "WebSockets from {remote_ip} refused: it has {limit}, the maximum for one address "
        "(limits.websockets_per_address), times: {count}[ since {since}]",
        ("remote_ip", "limit", "network", *_COUNT),
    ),
    "websocket.refused": LineTemplate(
        "warning",
        "WebSockets refused with 503: {connections} open, three quarters of all connections allowed; "
        "{busiest_connections} connections are from {busiest}, times: {count}[ since {since}]",
        ("connections", "busiest", "busiest_connections", *_COUNT),
    ),
    "http.cross_site": LineTemplate(
        "info",
        "requests that pages of other sites sent from {remote_ip}, refused: {count}[ since {since}]"
        "[; {origin} is not in server.cors_origins]",
        ("origin", "remote_ip", *_CALLER_COUNT),
    ),
    "http.failed": LineTemplate(
        "error",
        "{method} {route}: internal error: {error}",
        ("method", "route", "error", "traceback", "request_id"),
    ),
    "http.full": LineTemplate(
        "error",
        "{connections} connections open, {busiest_connections} of them from {busiest}, no more allowed with {limit} "
        "open files (LimitNOFILE=), times: {count}[ since {since}]",
        ("connections", "busiest", "busiest_connections", "limit", *_COUNT),
    ),
    "http.at_limit": LineTemplate(
        "warning",
        "{connections} connections open, {busiest_connections} of them from {busiest}, no more allowed "
        "(limits.connections): those that have waited longest are closed for new ones, times: {count}[ since {since}]",
        ("connections", "busiest", "busiest_connections", *_COUNT),
    ),
    "http.refused": LineTemplate(
        "warning",
        "connections refused with 503: {connections} open, {busiest_connections} of them from {busiest}, none of them "
        "waiting for its client, times: {count}[ since {since}]",
        ("connections", "busiest", "busiest_connections", *_COUNT),
    ),
    "http.crowded": LineTemplate(
        "warning",
        "{remote_ip} has {connections} connections, the maximum for one address "
        "(limits.connections_per_address): those that have waited longest are closed for new ones"
        ", times: {count}[ since {since}]",
        ("remote_ip", "connections", "network", *_COUNT),
    ),
    "http.unread": LineTemplate(
        "warning",
        "connection from {remote_ip} closed: it did not read its answer at the minimum rate, times: {count}"
        "[ since {since}]",
        ("remote_ip", "network", *_COUNT),
    ),
    "feed.crowded": LineTemplate(
        "warning",
        "{actor} at {remote_ip}: {limit} streams and long polls, the maximum ({key}): the oldest are ended for new ones"
        ", times: {count}[ since {since}]",
        ("key", "actor", "remote_ip", "limit", "network", *_COUNT),
    ),
    "http.malformed": LineTemplate(
        "warning",
        "malformed request from {remote_ip} refused, connection closed: it {error}, times: {count}[ since {since}]",
        ("remote_ip", "error", "network", *_COUNT),
    ),
    "library.said": LineTemplate("warning", "{logger}: {error}", ("logger", "error", "traceback")),
}
