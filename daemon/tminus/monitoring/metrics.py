"""Prometheus metrics: counters of this process, and values that a scrape reads from the database.

No label has a value that a client has sent: triggers, statuses, routes and codes are fixed, and endpoints come from the
configuration. `docs/monitoring.md` lists all metrics, and a test compares the two.
"""

import errno
import os
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tminus import __version__, clock
from tminus.delivery import EndpointStatus
from tminus.domain.errors import StoreUnavailable
from tminus.domain.types import MailState, ReminderOutcome, Trigger
from tminus.logs import output
from tminus.oidc.errors import REFUSALS as OIDC_REFUSALS
from tminus.storage import Store, View
from tminus.storage.outbox import MAX_COUNT

LAGS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300)
"""Upper bounds of the histogram buckets for the lag, in seconds."""

JOBS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Upper bounds of the histogram buckets for jobs per commit; the last is the most that the writer commits at once."""

BACKLOG = 10_000
"""The backlog is counted up to this number, so that a scrape stays cheap when the backlog is large."""

MAIL_RESULTS: Sequence[MailState] = tuple(state for state in MailState if state is not MailState.SENDING)
"""The final states of an attempt to send a mail."""

ROOM_STATES = ("looking", "early", "entering", "waiting", "in")
"""The states of a connection to a room, as `rooms.visitor` names them."""

ROOM_MESSAGES = ("join", "leave", "admit", "deny", "remove", "end")
"""The types of messages that rooms receive."""

K = TypeVar("K")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The daemon's metrics, in a registry of their own."""

    def __init__(self, store: Store, endpoint_statuses: Callable[[View], Sequence[EndpointStatus]]) -> None:
        """Create all metrics. `endpoint_statuses` returns the status of each endpoint."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # otherwise each counter would have a second series, `_created`
        self._registry = registry = CollectorRegistry()
        Info("tminus_build", "The running version", registry=registry).info({"version": __version__})
        self._config = Info(
            "tminus_config",
            "The fingerprint of the configuration that was read last; `tminus check` prints it, too",
            registry=registry,
        )
        registry.register(_Log())
        self.log_seq = Gauge(
            "tminus_log_seq", "Number of the last event that was logged; if it stays behind tminus_last_event_seq, the "
            "log cannot be written", registry=registry,
        )  # fmt: skip
        """`service.daemon` sets the function that a scrape calls."""
        registry.register(_Process(registry=None))
        registry.register(_Stored(store, endpoint_statuses))
        self.heartbeat_age = Gauge(
            "tminus_heartbeat_age_seconds",
            "Seconds since the scheduler last completed a sweep, which it starts every second", registry=registry,
        )  # fmt: skip
        """`service.daemon` sets the function that a scrape calls."""
        moves = Counter("tminus_moves", "Committed transitions of sessions", ["trigger"], registry=registry)
        # All series exist from the start: Prometheus would not see the first increment of a series that begins at 1.
        self._moves = {trigger.value: moves.labels(trigger.value) for trigger in Trigger}
        self._reminders = _series(
            registry,
            "tminus_reminders",
            "Reminders of sessions that were due: sent, or skipped because the session had opened or started",
            "outcome",
            {ReminderOutcome.SENT: "sent", ReminderOutcome.SKIPPED: "skipped"},
        )
        self.blocked = Counter(
            "tminus_writes_blocked_seconds", "Seconds for which writes were blocked for more than a second",
            registry=registry,
        )  # fmt: skip
        self.config_rejected = Gauge(
            "tminus_config_rejected", "1 if the last reload was rejected, and the previous configuration is in force",
            registry=registry,
        )  # fmt: skip
        self.crashed, self.test_clock = (
            Gauge(name, text, registry=registry)
            for name, text in (
                ("tminus_previous_run_crashed", "1 if the previous run did not stop cleanly"),
                ("tminus_test_clock", "1 if the daemon runs on a test clock, which is not for production"),
            )
        )
        self.lag = Histogram(
            "tminus_clock_lag_seconds", "Largest delay of a transition in a sweep", buckets=LAGS, registry=registry
        )
        Gauge(
            "tminus_clock_offset_seconds", "Seconds by which this machine's clock is ahead of the shared database's",
            registry=registry,
        ).set_function(lambda: _ahead(store))  # fmt: skip
        self._commits = Counter("tminus_commits", "Transactions that the writer committed", registry=registry)
        self._commit_jobs = Histogram(
            "tminus_commit_jobs", "Jobs that shared one commit", buckets=JOBS, registry=registry
        )
        self._requests = Counter(
            "tminus_http_requests", "Requests answered, without /healthz, /readyz and /metrics",
            ["method", "route", "code"], registry=registry,
        )  # fmt: skip
        self._answers: dict[tuple[str, str, int], Counter] = {}
        """The series of `_requests`: to look one up in the library takes longer than to increment it."""
        self.websockets = Gauge("tminus_websockets", "Open WebSockets", ["route"], registry=registry)
        self._websockets_closed = Counter(
            "tminus_websockets_closed", "Closed WebSockets, by close code", ["route", "code"], registry=registry
        )
        guesses = Counter(
            "tminus_guesses",
            "Refused as wrong or by the rate limit: tokens, sign-in codes, returns from the issuer, PINs, ids and keys "
            "of rooms, addresses of calendars",
            ["kind", "outcome"], registry=registry,
        )  # fmt: skip
        names = ("token", "code", "oidc", "pin", "room", "calendar")
        kinds = [(kind, outcome) for kind in names for outcome in ("wrong", "limited")]
        self._guesses = {one: guesses.labels(*one) for one in kinds}  # all series exist from the start, as above
        challenges = Counter(
            "tminus_challenges", "Challenges after too many wrong PINs: made, solved, and answers that were refused",
            ["outcome"], registry=registry,
        )  # fmt: skip
        self.challenges = {outcome: challenges.labels(outcome) for outcome in ("made", "solved", "refused")}
        sign_ins = Counter(
            "tminus_sign_ins", "Agent sessions that were started, by way: token (authWithToken), page, oidc or code",
            ["via"], registry=registry,
        )  # fmt: skip
        self._sign_ins = {via: sign_ins.labels(via) for via in ("token", "page", "oidc", "code")}
        refused = Counter(
            "tminus_oidc_refused", "Sign-ins by OpenID Connect that were refused, by reason", ["refusal"],
            registry=registry,
        )  # fmt: skip
        self.oidc_refused = {refusal: refused.labels(refusal) for refusal in OIDC_REFUSALS}
        self.agents_shut_out = Gauge(
            "tminus_agents_shut_out", "Agents whom an operator has shut out", registry=registry
        )
        """`api.services` sets the function that a scrape calls."""
        self.shut_out_refused = Counter(
            "tminus_shut_out_refused", "Requests and sign-ins of agents who are shut out", registry=registry
        )
        self._deliveries, self._events_delivered, self._mails = _delivery_counters(registry)

        connections = Gauge(
            "tminus_room_connections", "Connections to rooms, by their state", ["state"], registry=registry
        )
        self.room_connections = {state: connections.labels(state) for state in ROOM_STATES}
        """`rooms.hub` sets the functions that a scrape calls."""
        messages = Counter("tminus_room_messages", "Messages that rooms received", ["type"], registry=registry)
        self.room_messages = {kind: messages.labels(kind) for kind in ROOM_MESSAGES}
        self.rooms_lost = Counter("tminus_room_lost", "Lost connections of people in rooms", registry=registry)
        self.rooms_resumed = Counter(
            "tminus_room_resumed", "People who reconnected to a room with their resume key", registry=registry
        )
        self.hosts_revoked = Counter(
            "tminus_room_hosts_revoked", "Hosts disconnected because their session's agent may not act any more",
            registry=registry,
        )  # fmt: skip

    def set_config(self, fingerprint: str) -> None:
        """Set the fingerprint of the configuration that was read last."""
        self._config.info({"fingerprint": fingerprint})

    def committed(
        self, transitions: Mapping[str, int], jobs: int, reminders: Mapping[ReminderOutcome, int] = MappingProxyType({})
    ) -> None:
        """Count one commit of the writer: its transitions and reminders, and the jobs that shared it."""
        self._commits.inc()
        self._commit_jobs.observe(jobs)
        for trigger, number in transitions.items():
            self._moves[trigger].inc(number)
        for outcome, number in reminders.items():
            self._reminders[outcome].inc(number)

    def attempted(self, endpoint: str, ok: bool, events: int) -> None:
        """Count one attempt to deliver events to an endpoint."""
        self._deliveries.labels(endpoint, "delivered" if ok else "failed").inc()
        if ok:
            self._events_delivered.labels(endpoint).inc(events)

    def mailed(self, state: MailState) -> None:
        """Count one mail to an invitee."""
        self._mails[state].inc()

    def guessed(self, kind: str, outcome: str) -> None:
        """Count one wrong `token`, `code`, `oidc`, `pin`, `room` or `calendar`. `outcome`: `wrong` or `limited`."""
        self._guesses[kind, outcome].inc()

    def signed_in(self, via: str) -> None:
        """Count one agent session that was started by `token`, `page`, `oidc` or `code`."""
        self._sign_ins[via].inc()

    def answered(self, method: str, route: str, code: int) -> None:
        """Count one request. `route` is the template of its path; unusual methods count as `(other)`."""
        answers = self._answers.get((method, route, code))
        if answers is None:
            answers = self._requests.labels(method if method in _METHODS else "(other)", route, code)
            if method in _METHODS:
                self._answers[method, route, code] = answers
        answers.inc()

    def websocket_closed(self, route: str, code: int | None) -> None:
        """Count one WebSocket that is over. Code None: an unusual code that the client chose."""
        self._websockets_closed.labels(route, "(other)" if code is None else code).inc()

    def scrape(self) -> bytes:
        """Return the metrics in Prometheus's text format, without those of the database if it cannot be read."""
        return generate_latest(self._registry)


def _ahead(store: Store) -> float:
    return store.clock_difference.total_seconds()


def _series(
    registry: CollectorRegistry, name: str, words: str, label: str, values: Mapping[K, str]
) -> dict[K, Counter]:
    """Return a counter's series by key. `values` has the value of the label for each key."""
    counter = Counter(name, words, [label], registry=registry)
    return {key: counter.labels(value) for key, value in values.items()}


class _Log(Collector):
    def collect(self) -> Iterator[Metric]:
        text = "Log lines that were dropped because standard output or the journal did not accept them"
        yield CounterMetricFamily("tminus_log_dropped_lines", text, output.dropped())


class _Process(ProcessCollector):
    def _boot_time(self) -> float:
        """Return the boot time. /proc/stat, which the library reads, may be hidden by a service manager; without it the
        library would report no process metrics at all.
        """
        return clock.booted()

    def collect(self) -> Iterator[Metric]:
        """Yield the library's metrics, and the number of open files also when all are in use.

        The library opens files to count them, so it would omit the number just when the alert needs it.
        """
        found = list(super().collect())
        yield from found
        if f"{self._prefix}open_fds" in {metric.name for metric in found}:
            return
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if error.errno == errno.EMFILE:
                limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
                yield GaugeMetricFamily(f"{self._prefix}open_fds", "Number of open file descriptors.", limit)
                yield GaugeMetricFamily(f"{self._prefix}max_fds", "Maximum number of open file descriptors.", limit)


class _Stored(Collector):
    """Metrics that a scrape reads from the database, which is more reliable than counters in this process."""

    def __init__(self, store: Store, endpoint_statuses: Callable[[View], Sequence[EndpointStatus]]) -> None:
        self._store = store
        self._statuses = endpoint_statuses

    def describe(self) -> list[Metric]:
        return []  # otherwise the registry would read the database when this is registered

    def collect(self) -> Iterator[Metric]:
        writable = GaugeMetricFamily(
            "tminus_storage_writable", "1 if the last write was stored and the database can be read, else 0"
        )
        now = clock.now()
        try:
            counts = self._store.counts()
            due, backlog, seq, endpoints = self._store.read(
                lambda view: (view.next_due(), view.backlog(now, BACKLOG), view.last_seq(), self._statuses(view))
            )
        except StoreUnavailable:
            # The other metrics are still reported: a failed scrape would look like a daemon that is down.
            writable.add_metric([], 0)
            yield writable
            return
        writable.add_metric([], self._store.failing is None)
        yield writable
        sessions = GaugeMetricFamily("tminus_sessions", "Open sessions", labels=["status"])
        for status, number in counts.items():
            sessions.add_metric([status], number)
        yield sessions
        if due is not None:
            next_due = "The earliest deadline of all sessions, in seconds since 1970"
            yield GaugeMetricFamily("tminus_next_deadline_timestamp_seconds", next_due, due.timestamp())
        late = f"Sessions whose deadline has passed but whose transition is not done, counted up to {BACKLOG}"
        yield GaugeMetricFamily("tminus_due_backlog", late, backlog)
        yield GaugeMetricFamily("tminus_last_event_seq", "Number of the newest event", seq)
        yield from _endpoints(endpoints, now)


def _endpoints(endpoints: Sequence[EndpointStatus], now: datetime) -> Iterator[Metric]:
    paused = GaugeMetricFamily("tminus_webhook_paused", "1 while the endpoint is paused, else 0", labels=["endpoint"])
    waiting = GaugeMetricFamily(
        "tminus_webhook_backlog_events",
        f"Events that wait for the endpoint, counted up to {MAX_COUNT}",
        labels=["endpoint"],
    )
    oldest = GaugeMetricFamily(
        "tminus_webhook_oldest_undelivered_seconds",
        "Age of the oldest event that waits for the endpoint, 0 if there is none",
        labels=["endpoint"],
    )
    failing = GaugeMetricFamily(
        "tminus_webhook_failing_seconds",
        "Seconds since the first of the current consecutive failed attempts, 0 if the last attempt succeeded",
        labels=["endpoint"],
    )
    for one in endpoints:
        name = [one.endpoint.name]
        since = one.state.failing_since
        failing.add_metric(name, max(0.0, (now - since).total_seconds()) if since is not None else 0)
        paused.add_metric(name, one.state.paused_at is not None)
        waiting.add_metric(name, one.backlog.events)
        age = (now - one.backlog.oldest).total_seconds() if one.backlog.oldest is not None else 0
        oldest.add_metric(name, max(0.0, age))
    yield from (paused, waiting, oldest, failing)


def _delivery_counters(registry: CollectorRegistry) -> tuple[Counter, Counter, dict[MailState, Counter]]:
    """Return the counters of delivery attempts, of delivered events, and of mails by result."""
    means = "Delivery attempts, by outcome: delivered or failed"
    attempts = Counter("tminus_deliveries", means, ["endpoint", "outcome"], registry=registry)
    means = "Events that an endpoint has accepted"
    delivered = Counter("tminus_events_delivered", means, ["endpoint"], registry=registry)
    means = "Mails to invitees, by result: sent, refused, deferred or unknown"
    mails = Counter("tminus_mails", means, ["result"], registry=registry)
    by_state: dict[MailState, Counter] = {state: mails.labels(state.value) for state in MAIL_RESULTS}
    return attempts, delivered, by_state
