"""What Prometheus is told: what only this process knows, and what the database is asked for at a scrape.

No label value is what a client has sent: triggers, statuses, routes and codes are ours, endpoints the configuration's.
`docs/monitoring.md` has the table of all, and a test holds the two together.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

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
from tminus.domain.types import Trigger
from tminus.logs import output
from tminus.storage import Store, View
from tminus.storage.outbox import COUNTED

LAGS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300)
"""Upper bounds of the lag's buckets, in seconds."""

JOBS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Upper bounds of the buckets for jobs a commit; the last is the writer's largest batch."""

BACKLOG = 10_000
"""The backlog is counted no further: a scrape must stay cheap, above all when there is one."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """The daemon's metrics, in a registry of their own."""

    def __init__(self, store: Store, endpoint_statuses: Callable[[View], Sequence[EndpointStatus]]) -> None:
        """`endpoint_statuses`: returns how far each endpoint is."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # when a counter was made says nothing here, and would double what is kept
        self._registry = registry = CollectorRegistry()
        Info("tminus_build", "The version that runs", registry=registry).info({"version": __version__})
        self._config = Info(
            "tminus_config",
            "What was read last of the configuration: `tminus check` prints the same",
            registry=registry,
        )
        registry.register(_Log())
        self.log_seq = Gauge(
            "tminus_log_seq", "Number of the last event that was logged; behind tminus_last_event_seq: the log stands",
            registry=registry,
        )  # fmt: skip
        """Asked of the event log at a scrape: `daemon` says how."""
        registry.register(_Process(registry=None))
        registry.register(_Stored(store, endpoint_statuses))
        self.heartbeat_age = Gauge(
            "tminus_heartbeat_age_seconds", "Seconds since the clock last finished a look, one each second",
            registry=registry,
        )  # fmt: skip
        """Asked of the timers at a scrape: `daemon` says how."""
        moves = Counter("tminus_moves", "Moves committed, whoever made them", ["trigger"], registry=registry)
        # All of them from the start: of a series that begins at 1, Prometheus never sees the first move.
        self._moves = {trigger.value: moves.labels(trigger.value) for trigger in Trigger}
        self.blocked = Counter(
            "tminus_writes_blocked_seconds", "Seconds for which a write was held up that took over a second",
            registry=registry,
        )  # fmt: skip
        self.config_rejected = Gauge(
            "tminus_config_rejected", "1 if the last reload was rejected, and the configuration before it is in force",
            registry=registry,
        )  # fmt: skip
        self.crashed = Gauge(
            "tminus_previous_run_crashed", "1 if the run before this one did not stop cleanly", registry=registry
        )
        self.lag = Histogram(
            "tminus_clock_lag_seconds", "How late the latest move of a sweep was", buckets=LAGS, registry=registry
        )
        Gauge(
            "tminus_clock_offset_seconds", "By how much this machine's clock is ahead of the shared database's",
            registry=registry,
        ).set_function(lambda: _ahead(store))  # fmt: skip
        self._commits = Counter("tminus_commits", "Transactions that the writer committed", registry=registry)
        self._commit_jobs = Histogram(
            "tminus_commit_jobs", "Jobs that shared one commit", buckets=JOBS, registry=registry
        )
        self._requests = Counter(
            "tminus_http_requests", "Requests answered, operations aside", ["method", "route", "code"],
            registry=registry,
        )  # fmt: skip
        self._answers: dict[tuple[str, str, int], Counter] = {}
        """The series of the above, as the library takes longer to find one than to count it."""
        guesses = Counter(
            "tminus_guesses", "Wrong tokens, and look-ups of unknown PINs: refused as wrong, or as one too many",
            ["kind", "outcome"], registry=registry,
        )  # fmt: skip
        kinds = [(kind, outcome) for kind in ("token", "pin") for outcome in ("wrong", "limited")]
        self._guesses = {one: guesses.labels(*one) for one in kinds}  # all of them from the start, as above
        self._deliveries = Counter(
            "tminus_deliveries", "Attempts to deliver to a webhook: delivered or failed", ["endpoint", "outcome"],
            registry=registry,
        )  # fmt: skip
        self._events_delivered = Counter(
            "tminus_events_delivered", "Events that a webhook has taken", ["endpoint"], registry=registry
        )

    def set_config(self, fingerprint: str) -> None:
        """Remember which configuration was read last."""
        self._config.info({"fingerprint": fingerprint})

    def committed(self, moves: Mapping[str, int], jobs: int) -> None:
        """Counts one commit of the writer: the moves in it, and the jobs that shared it."""
        self._commits.inc()
        self._commit_jobs.observe(jobs)
        for trigger, number in moves.items():
            self._moves[trigger].inc(number)

    def tried(self, endpoint: str, ok: bool, events: int) -> None:
        """Counts one try to tell an endpoint so many events."""
        self._deliveries.labels(endpoint, "delivered" if ok else "failed").inc()
        if ok:
            self._events_delivered.labels(endpoint).inc(events)

    def guessed(self, kind: str, outcome: str) -> None:
        """Counts one guess: `token` or `pin`, `wrong` or `limited`."""
        self._guesses[kind, outcome].inc()

    def answered(self, method: str, route: str, code: int) -> None:
        """Counts one request. `route` is a template of ours; any method that is not usual counts as `(other)`."""
        answers = self._answers.get((method, route, code))
        if answers is None:
            answers = self._requests.labels(method if method in _METHODS else "(other)", route, code)
            if method in _METHODS:
                self._answers[method, route, code] = answers
        answers.inc()

    def scrape(self) -> bytes:
        """The metrics in Prometheus's text format; without those of the database while that cannot be read."""
        return generate_latest(self._registry)


def _ahead(store: Store) -> float:
    return store.clock_difference.total_seconds()


class _Log(Collector):
    def collect(self) -> Iterator[Metric]:
        text = "Lines of the log that were dropped, as standard output or the journal took none"
        yield CounterMetricFamily("tminus_log_dropped_lines", text, output.dropped())


class _Process(ProcessCollector):
    def _boot_time(self) -> float:
        """Not from /proc/stat: a service manager may hide it, and then the library would tell nothing at all."""
        return clock.booted()


class _Stored(Collector):
    """Asks the database: what is counted there cannot go wrong in a counter of ours."""

    def __init__(self, store: Store, endpoint_statuses: Callable[[View], Sequence[EndpointStatus]]) -> None:
        self._store = store
        self._statuses = endpoint_statuses

    def describe(self) -> list[Metric]:
        return []  # or the registry would ask the database when it is made

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
            # The rest is told all the same: a scrape that fails looks like a daemon that is down.
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
            next_due = "When the earliest deadline of all sessions is, in seconds since 1970"
            yield GaugeMetricFamily("tminus_next_deadline_timestamp_seconds", next_due, due.timestamp())
        late = f"Sessions that are due and not moved yet, counted no further than {BACKLOG}"
        yield GaugeMetricFamily("tminus_due_backlog", late, backlog)
        yield GaugeMetricFamily("tminus_last_event_seq", "Number of the newest event", seq)
        yield from _endpoints(endpoints, now)


def _endpoints(endpoints: Sequence[EndpointStatus], now: datetime) -> Iterator[Metric]:
    paused = GaugeMetricFamily("tminus_webhook_paused", "1 while the endpoint is paused, else 0", labels=["endpoint"])
    waiting = GaugeMetricFamily(
        "tminus_webhook_backlog_events",
        f"Events that wait for the endpoint, counted no further than {COUNTED}",
        labels=["endpoint"],
    )
    oldest = GaugeMetricFamily(
        "tminus_webhook_oldest_undelivered_seconds",
        "Age of the oldest event that waits for the endpoint, 0 if none does",
        labels=["endpoint"],
    )
    failing = GaugeMetricFamily(
        "tminus_webhook_failing_seconds",
        "Seconds since the first of the attempts in a row that have failed, 0 if the last one did not",
        labels=["endpoint"],
    )
    for one in endpoints:
        name = [one.webhook.name]
        since = one.state.failing_since
        failing.add_metric(name, max(0.0, (now - since).total_seconds()) if since is not None else 0)
        paused.add_metric(name, one.state.paused_at is not None)
        waiting.add_metric(name, one.backlog.events)
        age = (now - one.backlog.oldest).total_seconds() if one.backlog.oldest is not None else 0
        oldest.add_metric(name, max(0.0, age))
    yield from (paused, waiting, oldest, failing)
