"""What time does: sessions that are due are moved, deadlines follow the time-outs, what is old is removed, and the
heartbeat says how it goes.
"""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

from tminus import clock
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
from tminus.scheduler.timers import SWEEP, Chores, Timers
from tminus.storage import Store, Transaction
from tminus.storage.engine import reason

T = TypeVar("T")

STATUS_LOOK = timedelta(seconds=2)
"""How often it is looked whether `systemctl status` should say something else."""

CLEANING = timedelta(minutes=10)
"""How often retention removes what is old."""

SHORTENING = timedelta(seconds=10)
"""How often the -wal file is looked at."""

COUNTING = timedelta(seconds=5)
"""How often lines that were counted are looked at."""

STEP_SEEN = 5.0
"""Seconds after a step of the wall clock within which late moves are put down to it."""

LATE = timedelta(seconds=1)
"""From here on a sweep tells how late it was."""


class Dependencies(Protocol):
    """The parts of the daemon that the scheduler uses."""

    store: Store
    webhooks: Webhooks
    metrics: Metrics
    settings: Settings
    """The settings in force; a reload replaces them."""

    def take_requests(self) -> int:
        """Return how many requests were answered since the last call."""


class Scheduler:
    """The timers and their work.

    Parameters
    ----------
    dependencies
        The store, the settings in force, the webhooks and the metrics.
    event_log
        Held back while a herd moves.
    stopping
        Set when the daemon was told to stop: a long sweep ends then.
    alive
        Called whenever it is getting on.
    outages
        Follows how writes go.
    tell_status
        Called now and then; None: nobody wants to know.
    """

    def __init__(
        self,
        dependencies: Dependencies,
        event_log: EventLog,
        stopping: threading.Event,
        alive: Callable[[], None],
        tell_status: Callable[[], None] | None,
        outages: Outages | None = None,
    ) -> None:
        self._outages = outages or Outages(lambda: 0.0)
        self._starting = True
        """Whether what is due fell due while no daemon was there."""
        self._dependencies = dependencies
        self._store = dependencies.store
        self._event_log = event_log
        self._stopping = stopping
        self._alive = alive
        self._tell_status = tell_status
        self._settled = False
        """Whether all stored deadlines follow the time-outs in force."""
        self._reckon_anew = False
        """Whether they are settled even if another daemon has done so: since then some were set here, the old way."""
        self._worst_lag = timedelta(0)
        self._one_at_a_time = threading.Lock()
        """Held by the tick that runs: a reload runs one, too, on a thread of its own."""
        self.timers = Timers(
            self.tick,
            self._chores(dependencies.settings),
            dependencies.webhooks.retry_all_now,
            lambda: self._store.clock_difference,
            self._outages.look,
        )

    def tick(self) -> datetime | None:
        """Does what is due; returns the next deadline. Raises `StoreUnavailable`."""
        try:
            with self._one_at_a_time:
                due = self._do_what_is_due()
        except StoreUnavailable:
            # A clock that is told that the database is away is alive: `readyz` says the rest, and a new process would
            # be no better off. One that hangs, or meets a defect each time, is not fed, and may be.
            self._alive()
            raise
        self._alive()
        return due

    def first_tick(self) -> tuple[datetime | None, dict[Status, int]]:
        """Does what fell due while the daemon was away; returns the next deadline, and the open sessions per status.
        On a full disk it starts all the same, so that others can read, and tries again each second. Raises
        `StartupError`.
        """
        try:
            due = self.tick()
        except StoreUnavailable as error:
            if self._store.damage is not None:
                raise self._store.cannot_start(error) from error
            due = None
        self._starting = due is None and self._store.failing is not None
        while True:
            try:
                return due, self._store.counts()
            except StoreUnavailable as error:
                failure = self._store.cannot_start(error)
                if not failure.transient:
                    raise failure from error
                if self._stopping.wait(SWEEP.total_seconds()):
                    return due, {}

    def follow(self, old: Settings, new: Settings) -> None:
        """Other settings are in force."""
        self.timers.set_chores(self._chores(new))
        with self._one_at_a_time:
            self._reckon_anew |= new.lifecycle.timeouts != old.lifecycle.timeouts
            self._settled = False
        with contextlib.suppress(RequestError):  # all of it is in force; the next tick settles what is stored
            self.wait_for(self.tick())

    def wait_for(self, due: datetime | None) -> None:
        """Somebody has set this deadline."""
        if due is not None:
            self.timers.due_at(due)

    def _do_what_is_due(self) -> datetime | None:
        if self._store.failing is not None:
            # Only a write can tell that writing works again, and nobody else may be asking for one.
            self._store.submit(lambda _tx: None, clock=True).result()
        timeouts = self._dependencies.settings.lifecycle.timeouts
        if not self._settled:
            self._settle_deadlines(timeouts)
        due = self._next_due()
        if due is None or due > clock.now():
            return due
        with self._event_log.throttled():
            sweep = sweeps.advance(self._submit, timeouts, self._should_stop)
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
            log("clock.no_pin", waiting=sweep.without_pin)
        return self._next_due()

    def _next_due(self) -> datetime | None:
        with self._outages.during("read"):
            return self._store.read(sources.next_due, lane="clock")

    def _submit(self, job: Callable[[Transaction], T], *, clock: bool = False) -> Future[T]:
        with self._outages.during("write"):
            future = self._store.submit(job, clock=clock)
            wait([future])  # a sweep does so next
        return future

    def _cause(self, lag: timedelta) -> str:
        """Return why moves were late, as far as can be seen."""
        if self._starting:
            return "start after downtime"
        step = self.timers.stepped(lag.total_seconds() + STEP_SEEN)
        if step > 0 and step >= (lag - LATE).total_seconds():
            return "wall clock set"  # the lag is that step: how long anything was held up says nothing of it
        frozen = self.timers.frozen(lag.total_seconds() + STEP_SEEN)
        if frozen >= lag.total_seconds() / 2:
            return "daemon frozen"
        if (held_up := self._outages.cause(lag)) is not None:
            return held_up
        return "wall clock set" if step else "load"

    def _settle_deadlines(self, timeouts: Timeouts) -> None:
        """If it raises, whatever that is, nothing counts as settled: the next tick tries again."""
        sweeps.prepare(self._store.submit, timeouts)
        moved = sweeps.follow_timeouts(self._store.submit, timeouts, self._should_stop, anew=self._reckon_anew)
        self._settled, self._reckon_anew = True, False
        if moved:
            log("deadlines.moved", moved=moved)

    def _should_stop(self) -> bool:
        """Asked between two batches of a long sweep."""
        self.timers.beat()
        self._alive()
        return self._stopping.is_set()

    # --- chores -------------------------------------------------------------------------------------------------------

    def _chores(self, settings: Settings) -> Chores:
        chores: Chores = {
            "retention": (CLEANING, self._clean),
            "checkpoint": (SHORTENING, self._store.shorten_wal),
            "counts": (COUNTING, REPEATED.write),
        }
        if settings.log.heartbeat is not None:
            chores["heartbeat"] = (settings.log.heartbeat, self._heartbeat)
        if self._tell_status is not None:
            chores["status"] = (STATUS_LOOK, self._tell_status)
        return chores

    def _clean(self) -> None:
        storage = self._dependencies.settings.storage
        held = self._store.submit(sweeps.held).result()
        if held is not None:
            if held.begins:
                ahead = int(held.ahead.total_seconds())
                log("retention.held", ahead_s=ahead, until=timestamps.text(held.until))
            return
        removed = sweeps.clean(self._store.submit, storage.retention, storage.delivery_retention, self._stopping.is_set)
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
            waiting = {one.webhook.name: one.backlog.events for one in endpoints if one.backlog.events}
            oldest = min((one.backlog.oldest for one in endpoints if one.backlog.oldest is not None), default=None)
        except StoreUnavailable as error:
            # It comes all the same: who hears nothing takes the daemon for dead.
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
        )
