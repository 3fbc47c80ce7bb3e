"""The scheduler: executes due transitions, recomputes deadlines for new time-outs, and runs the periodic jobs."""

import contextlib
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from tminus import clock
from tminus.clock import ManualClock
from tminus.config import Settings
from tminus.delivery import Webhooks
from tminus.domain import timestamps
from tminus.domain.errors import RequestError, StoreUnavailable
from tminus.domain.types import Status, Timeouts
from tminus.logs.output import log
from tminus.logs.repeated import REPEATED
from tminus.monitoring.event_log import EventLog
from tminus.monitoring.metrics import Metrics
from tminus.monitoring.outages import Outages
from tminus.scheduler import sources, sweeps
from tminus.scheduler.clock_moves import ClockMoves
from tminus.scheduler.clock_steps import ClockStepDetector
from tminus.scheduler.configured_series import ConfiguredSeries
from tminus.scheduler.failures import FailureLog
from tminus.scheduler.timers import SWEEP, PeriodicJobs, Timers
from tminus.sessions.batches import LEFTOVER_AGE
from tminus.storage import Store, Transaction, batches
from tminus.storage.failures import reason

T = TypeVar("T")

STATUS_INTERVAL = timedelta(seconds=2)
"""How often the text of `systemctl status` is updated."""

BATCH_INTERVAL = timedelta(seconds=5)
"""How often unfinished batches are looked up. The scheduler finishes those of which no part was done since the last
look-up.
"""

RETENTION_INTERVAL = timedelta(minutes=10)
"""How often retention removes old rows."""

CHECKPOINT_INTERVAL = timedelta(seconds=10)
"""How often the size of the -wal file is checked."""

REPEATED_INTERVAL = timedelta(seconds=5)
"""How often the counts of repeated log lines are written."""

CAUSE_WINDOW = 5.0
"""Seconds after a step of the wall clock, or a freeze, in which it counts as the cause of late transitions."""

LATE = timedelta(seconds=1)
"""Lateness of a transition above which `clock.late` is logged."""


class Dependencies(Protocol):
    """The parts of the daemon that the scheduler uses."""

    store: Store
    webhooks: Webhooks
    metrics: Metrics
    settings: Settings
    """The current settings; a reload replaces them."""

    def take_requests(self) -> int:
        """Return how many requests were answered since the last call."""


class Scheduler:
    """Executes due transitions at their deadlines, and runs the periodic jobs.

    Parameters
    ----------
    dependencies
        The store, the current settings, the webhooks and the metrics.
    event_log
        Throttled while many sessions are due.
    stopping
        Set when the daemon stops; a long sweep then ends early.
    alive
        Called whenever the scheduler makes progress.
    report_status
        Called periodically to update the status that systemd shows; None: there is no systemd.
    outages
        Records failed and slow database calls.
    test_clock
        The test clock; None: the daemon runs on the real clock.
    """

    def __init__(
        self,
        dependencies: Dependencies,
        event_log: EventLog,
        stopping: threading.Event,
        alive: Callable[[], None],
        report_status: Callable[[], None] | None,
        outages: Outages | None = None,
        test_clock: ManualClock | None = None,
    ) -> None:
        self.clock_moves: ClockMoves | None = None
        """Moves the test clock; None if the daemon runs on the real clock."""
        if test_clock is not None:
            self.clock_moves = ClockMoves(test_clock, dependencies.store, self.tick, stopping, self._remove_old)
        self._outages = outages or Outages(lambda: 0.0)
        self._starting = True
        """Whether the transitions that are due now fell due while no daemon ran."""
        self._dependencies = dependencies
        self._store = dependencies.store
        self._event_log = event_log
        self._stopping = stopping
        self._alive = alive
        self._report_status = report_status
        self._are_deadlines_current = False
        """Whether all stored deadlines are those of the current time-outs."""
        self._must_recompute = False
        """Whether to recompute them even if another daemon has done so: afterwards this daemon may have stored
        deadlines that were computed from the previous time-outs.
        """
        self._configured_series = ConfiguredSeries(self._store, self._submit, self._do_meanwhile)
        self._worst_lag = timedelta(0)
        """The greatest lateness of a transition since the last heartbeat."""
        self._without_pin_at = -math.inf
        """When a session last could not open because every PIN was in use, on the monotonic clock."""
        self._tick_lock = threading.Lock()
        """Held by the running tick. A reload runs a tick on its own thread."""
        self._unfinished: dict[str, int] = {}
        """The batches that were unfinished at the last look-up: id -> number of sessions that remained."""
        failures = FailureLog()
        self.timers = Timers(self.tick, self._jobs(dependencies.settings), failures)
        self._clock_steps = ClockStepDetector(
            failures,
            self.timers.reset,
            on_step=dependencies.webhooks.retry_all_now,
            difference=lambda: self._store.clock_difference,
            every_second=self._outages.check,
        )

    def start(self) -> None:
        """Start the timers and the clock-step detector."""
        self.timers.start()
        self._clock_steps.start()

    def stop(self) -> None:
        """Stop both; return when no tick and no job runs."""
        self.timers.stop()
        self._clock_steps.stop()

    def tick(self) -> datetime | None:
        """Execute the due transitions; return the next deadline, None if there is none. Raises `StoreUnavailable`."""
        try:
            with self._tick_lock:
                due = self._do_due()
        except StoreUnavailable:
            # An unreachable database does not count as a stopped scheduler: a new process would not help, and `/readyz`
            # reports it. If the scheduler hangs or fails in another way, it does not feed the watchdog, and systemd
            # restarts the daemon.
            self._alive()
            raise
        self._alive()
        return due

    def first_tick(self) -> tuple[datetime | None, dict[Status, int]]:
        """Execute the transitions that fell due while no daemon ran.

        Return the next deadline and the number of open sessions by status. If the disk is full, the daemon starts
        nevertheless, so that callers can read, and ticks are repeated each second. Raises `StartupError`.
        """
        try:
            self._resume_batches()
            due = self.tick()
        except StoreUnavailable as error:
            if self._store.damage is not None:
                raise self._store.startup_error(error) from error
            due = None
        self._starting = due is None and self._store.failing is not None
        while True:
            try:
                return due, self._store.counts()
            except StoreUnavailable as error:
                failure = self._store.startup_error(error)
                if not failure.transient:
                    raise failure from error
                if self._stopping.wait(SWEEP.total_seconds()):
                    return due, {}

    def apply_settings(self, old: Settings, new: Settings) -> None:
        """Replace the periodic jobs and the deadlines by those of new settings."""
        self.timers.set_jobs(self._jobs(new))
        with self._tick_lock:
            self._must_recompute |= new.lifecycle.timeouts != old.lifecycle.timeouts
            self._are_deadlines_current = False
            self._configured_series.set_changed()
        with contextlib.suppress(RequestError):  # the settings are in force; the next tick recomputes the deadlines
            self.add_deadline(self.tick())

    def add_deadline(self, due: datetime | None) -> None:
        """Set the timer to a stored deadline, if it is earlier than the current one; None: no deadline was stored."""
        if due is not None:
            self.timers.set_deadline(due)

    def _do_due(self) -> datetime | None:
        if self._store.failing is not None:
            # Only a write can show that writes succeed again, and perhaps no caller sends one.
            self._store.submit(lambda _tx: None, clock=True).result()
        settings = self._dependencies.settings
        if not self._are_deadlines_current:
            self._recompute_deadlines(settings.lifecycle.timeouts)
        self._configured_series.apply(settings, clock.now())
        due, progress = self._next_due(), True
        # Again for what fell due meanwhile: no timer is set to a time in the past, so it would wait for the next sweep.
        while progress and due is not None and due <= clock.now() and not self._stopping.is_set():
            progress = self._sweep(settings)
            due = self._next_due()
        return due

    def _do_meanwhile(self, settings: Settings) -> bool:
        """Do what has fallen due while the entries `[[series]]` are applied; return whether to apply further ones."""
        due = self._next_due()
        if due is not None and due <= clock.now():
            self._sweep(settings)
        return not self._stopping.is_set()

    def _sweep(self, settings: Settings) -> bool:
        """Do everything that is due; return whether anything was done."""
        timeouts = settings.lifecycle.timeouts
        with self._event_log.throttled():
            sweep = sweeps.do_all_due(self._submit, timeouts, self._should_stop, settings)
        if sweep.transitions:
            self._worst_lag = max(self._worst_lag, sweep.worst_lag)
            self._dependencies.metrics.lag.observe(sweep.worst_lag.total_seconds())
        if sweep.worst_lag > LATE:
            log(
                "clock.late",
                lag_ms=timestamps.milliseconds(sweep.worst_lag),
                moves=sweep.transitions.total(),
                cause=self._cause(sweep.worst_lag),
            )
        if sweep.without_pin:
            self._without_pin_at = clock.monotonic()
            log("clock.no_pin", waiting=sweep.without_pin)
        return bool(sweep.transitions)

    def _next_due(self) -> datetime | None:
        with self._outages.during("read"):
            return self._store.read(sources.next_due, lane="clock")

    def _submit(self, job: Callable[[Transaction], T], *, clock: bool = False) -> Future[T]:
        with self._outages.during("write"):
            future = self._store.submit(job, clock=clock)
            wait([future])  # inside `during`, which measures the time; the sweep waits for the result in any case
        return future

    def _cause(self, lag: timedelta) -> str:
        """Return the likely cause of late transitions."""
        if self._starting:
            return "start after downtime"
        step = self._clock_steps.stepped(lag.total_seconds() + CAUSE_WINDOW)
        if step > 0 and step >= (lag - LATE).total_seconds():
            return "wall clock set"  # the step alone explains the lag
        frozen = self._clock_steps.frozen(lag.total_seconds() + CAUSE_WINDOW)
        if frozen >= lag.total_seconds() / 2:
            return "daemon frozen"
        if (outage := self._outages.cause(lag)) is not None:
            return outage
        if clock.monotonic() - self._without_pin_at < lag.total_seconds() + CAUSE_WINDOW:
            return "no PIN free"
        return "wall clock set" if step else "load"

    def _recompute_deadlines(self, timeouts: Timeouts) -> None:
        """Recompute all deadlines from the current time-outs. If this raises, the next tick tries again."""
        sweeps.warm_up(self._store.submit, timeouts)
        moved = sweeps.recompute_deadlines(
            self._store.submit, timeouts, self._should_stop, unconditionally=self._must_recompute
        )
        self._are_deadlines_current, self._must_recompute = True, False
        if moved:
            log("deadlines.moved", moved=moved)

    def _should_stop(self) -> bool:
        """Record progress between two batches of a long sweep; return whether to end the sweep."""
        self.timers.mark_alive()
        self._alive()
        return self._stopping.is_set()

    # --- periodic jobs ------------------------------------------------------------------------------------------------

    def _jobs(self, settings: Settings) -> PeriodicJobs:
        jobs: PeriodicJobs = {
            "batches": (BATCH_INTERVAL, self._finish_batches),
            "retention": (RETENTION_INTERVAL, self._remove_old),
            "checkpoint": (CHECKPOINT_INTERVAL, self._store.shorten_wal),
            "counts": (REPEATED_INTERVAL, REPEATED.write),
        }
        if settings.log.heartbeat is not None:
            jobs["heartbeat"] = (settings.log.heartbeat, self._heartbeat)
        if self._report_status is not None:
            jobs["status"] = (STATUS_INTERVAL, self._report_status)
        return jobs

    def _resume_batches(self) -> None:
        """Finish the batches that a killed daemon has decided, and remove the stored parts of undecided ones."""
        self._do_batches(self._store.read(batches.unfinished), self._should_stop)
        age = LEFTOVER_AGE if self._store.has_peers else timedelta(0)
        sweeps.remove_leftovers(self._store.submit, age, self._stopping.is_set)

    def _finish_batches(self) -> None:
        """Finish the batches of which no part was done since the last call."""
        before, self._unfinished = self._unfinished, self._store.read(batches.unfinished)
        stalled = dict(before.items() & self._unfinished.items())
        self._do_batches(stalled, self._stopping.is_set)

    def _do_batches(self, unfinished: dict[str, int], stop: Callable[[], bool]) -> None:
        if left := sweeps.finish_batches(self._store.submit, self._dependencies.settings, unfinished, stop):
            log("batches.finished", left=left)

    def _remove_old(self) -> None:
        storage = self._dependencies.settings.storage
        # A test clock is moved by months on purpose, so a jump does not mean that it is wrong.
        pause = None if self.clock_moves is not None else self._store.submit(sweeps.retention_pause).result()
        if pause is not None:
            if pause.is_new:
                ahead = int(pause.ahead.total_seconds())
                log("retention.held", ahead_s=ahead, until=timestamps.text(pause.until))
            return
        removed = sweeps.remove_old(
            self._store.submit, storage.retention, storage.delivery_retention, self._stopping.is_set
        )
        if removed:
            log("retention.removed", removed=removed)

    def _heartbeat(self) -> None:
        counts = due = unreadable = None
        waiting: dict[str, int] = {}
        oldest: datetime | None = None
        try:
            counts = self._store.counts()
            due, endpoints = self._store.read(
                lambda view: (sources.next_due(view), self._dependencies.webhooks.endpoint_statuses(view))
            )
            waiting = {one.endpoint.name: one.backlog.events for one in endpoints if one.backlog.events}
            oldest = min((one.backlog.oldest for one in endpoints if one.backlog.oldest is not None), default=None)
        except StoreUnavailable as error:
            # The heartbeat is logged nevertheless. Without it, the daemon would seem to be down.
            unreadable = reason(error.__cause__ or error)
        overdue = clock.now() - due if due is not None else timedelta(0)
        worst, self._worst_lag = self._worst_lag, timedelta(0)
        requests = self._dependencies.take_requests()
        log(
            "daemon.heartbeat",
            sessions=counts and {status.value: number for status, number in counts.items()},
            next_due=due and timestamps.text(due),
            overdue_s=round(overdue.total_seconds()) if overdue > LATE else None,
            worst_lag_ms=timestamps.milliseconds(worst),
            requests=requests,
            undelivered=waiting or None,
            undelivered_events=sum(waiting.values()),
            oldest_undelivered=oldest and timestamps.text(oldest),
            unreadable=unreadable,
            unwritable=self._store.failing,
            damaged=self._store.damage,
        )
