"""What Prometheus is told: what only this process knows, and what the database is asked for at a scrape."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tminus.storage import Store

LAGS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300)
"""Upper bounds of the lag's buckets, in seconds."""


class Metrics:
    """The daemon's metrics, in a registry of their own."""

    def __init__(self, store: Store) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Stored(store))
        self.requests = Counter(
            "tminus_http_requests", "Requests answered, operations aside", ["method", "route", "code"],
            registry=self._registry,
        )  # fmt: skip
        self.moves = Counter("tminus_clock_moves", "Moves that the clock made", ["trigger"], registry=self._registry)
        self.lag = Histogram(
            "tminus_clock_lag_seconds", "How late the latest move of a sweep was", buckets=LAGS, registry=self._registry
        )

    def scrape(self) -> bytes:
        """The metrics in Prometheus's text format. Raises `StoreUnavailable`."""
        return generate_latest(self._registry)


class _Stored(Collector):
    """Asks the database: what is counted there cannot go wrong in a counter of ours."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> list[Metric]:
        return []  # or the registry would ask the database when it is made

    def collect(self) -> Iterator[Metric]:
        counts, due, seq = self._store.read(lambda view: (view.counts(), view.next_due(), view.last_seq()))
        sessions = GaugeMetricFamily("tminus_sessions", "Open sessions", labels=["status"])
        for status, number in counts.items():
            sessions.add_metric([status], number)
        yield sessions
        if due is not None:
            next_due = "When the earliest deadline of all sessions is, in seconds since 1970"
            yield GaugeMetricFamily("tminus_next_deadline_timestamp_seconds", next_due, due.timestamp())
        yield GaugeMetricFamily("tminus_last_event_seq", "Number of the newest event", seq)
