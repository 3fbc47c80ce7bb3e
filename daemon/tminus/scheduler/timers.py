"""The timers: APScheduler calls `tick` when something is due. This module has no logic of sessions.

One timer is set to the earliest deadline of all sessions. A sweep every second does what a timer has missed. Both call
the same `tick`, one call at a time. There is no job for each session, neither in memory nor in the database: the
session table is the schedule, so a restart sets one timer, however many sessions wait.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.date import DateTrigger

from tminus import clock
from tminus.scheduler.failures import Failed, FailureLog
from tminus.system.threads import keep_running

PeriodicJobs = dict[str, tuple[timedelta, Callable[[], object]]]
"""Name -> (interval, function)."""

MAX_JOBS = 6
"""Maximum number of periodic jobs; each has a thread."""

SWEEP = timedelta(seconds=1)
"""Interval of the sweep, which runs whether or not a timer is set."""

TOLERANCE = timedelta(milliseconds=2)
"""Error of a timer's time that is ignored, because the two clocks are not read at the same moment."""

STALLED_AFTER = 10.0
"""Seconds without progress of a tick after which the scheduler counts as stopped."""


class Timers:
    """The daemon's timers.

    Parameters
    ----------
    tick
        Does what is due; returns the next deadline, None if there is none.
    jobs
        The periodic jobs: retention, heartbeat, and others.
    failures
        Logs the errors of ticks and jobs.
    """

    def __init__(self, tick: Callable[[], datetime | None], jobs: PeriodicJobs, failures: FailureLog) -> None:
        self._tick = tick
        self._jobs = jobs
        self._failures = failures
        self._next: dict[str, tuple[timedelta, float]] = {}
        """Job -> its interval, and the time of its next run on the monotonic clock. A reload and a step of the wall
        clock set all timers again; if that restarted the intervals, a job might never run.
        """
        self._armed: datetime | None = None
        """The deadline to which the timer is set; None if it is not set."""
        self._armed_at = clock.machine()
        """The same time on this machine's clock, which APScheduler uses."""
        self._arming = 0
        """The number of the current timer. By it, an earlier timer that fires late is recognized."""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._last_tick = clock.monotonic()
        # UTC wherever APScheduler would otherwise read the local zone. It fails if $TZ names an unknown zone, and
        # timers would fire at the wrong time if it misinterprets one.
        self._scheduler = _Scheduler(
            timezone=UTC,
            # Ticks have their own thread, so that no periodic job delays them. Each job has one too, so that a long run
            # of retention does not delay the heartbeat.
            executors={"default": ThreadPoolExecutor(1), "jobs": ThreadPoolExecutor(MAX_JOBS)},
            # By default APScheduler drops a run that is a second late. A late tick is better than none.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    def start(self) -> None:
        """Start the threads and set all timers."""
        self._scheduler.start()
        self.reset()

    def stop(self) -> None:
        """Stop all timers; return when no tick and no job runs."""
        self._stop.set()
        with self._lock:
            # This waits until APScheduler has submitted the jobs that are due. If it were shut down in between, it
            # would not find the job that it has just submitted, and fail.
            self._scheduler.remove_all_jobs()
        self._scheduler.shutdown(wait=True)

    def set_jobs(self, jobs: PeriodicJobs) -> None:
        """Replace the periodic jobs."""
        self._jobs = jobs
        self.reset()

    def reset(self) -> None:
        """Set all timers again. The next tick, within `SWEEP`, sets the timer to the next deadline."""
        with self._lock:
            if self._stop.is_set():
                return
            self._scheduler.remove_all_jobs()
            self._armed = None
            self._scheduler.add_job(self._run_tick, _Every(SWEEP), id="sweep")
            for name, (interval, work) in self._jobs.items():
                self._scheduler.add_job(
                    self._run_job, _Every(interval), (name, interval, work), id=name, executor="jobs",
                    next_run_time=clock.machine() + self._until_next(name, interval),
                )  # fmt: skip

    def mark_alive(self) -> None:
        """Record that the running tick makes progress, so that a long one does not count as stopped."""
        self._last_tick = clock.monotonic()

    @property
    def age(self) -> float:
        """Seconds since a tick last made progress."""
        return clock.monotonic() - self._last_tick

    @property
    def alive(self) -> bool:
        """Whether ticks make progress."""
        return self.age < STALLED_AFTER

    def set_deadline(self, due: datetime) -> None:
        """Set the timer to a deadline, if it is earlier than the current one. Any thread may call this."""
        with self._lock:
            if not self._stop.is_set() and (self._armed is None or due < self._armed or self._has_drifted(due)):
                self._arm(due)

    def _has_drifted(self, due: datetime) -> bool:
        """Return whether the timer for `due` would fire at the wrong time, because the clocks have drifted apart."""
        return due == self._armed and abs(_on_this_machine(due) - self._armed_at) > TOLERANCE

    # --- on the scheduler's threads -----------------------------------------------------------------------------------

    def _run_deadline(self, number: int) -> None:
        with self._lock:
            if number == self._arming:
                self._armed = None
        self._run_tick()

    def _run_tick(self) -> None:
        begun = clock.now()
        due = self._failures.run("clock tick", self._tick)
        if not isinstance(due, Failed):
            self.mark_alive()
            # If what was due before the tick still is (no PIN was free, or the clock was set back), the sweep does it:
            # a timer would fire again at once, without end. For what fell due meanwhile, the timer fires at once.
            if due is not None and due > begun:
                self.set_deadline(due)

    def _run_job(self, name: str, interval: timedelta, work: Callable[[], object]) -> None:
        self._next[name] = interval, clock.monotonic() + interval.total_seconds()
        self._failures.run(name, work)

    def _arm(self, due: datetime) -> None:
        self._armed, self._armed_at = due, _on_this_machine(due)
        self._arming += 1
        # A tick may be calling this, so it still runs. If APScheduler allowed one instance, it would skip a timer that
        # fires meanwhile, and sessions would open late, with the next sweep.
        self._scheduler.add_job(
            self._run_deadline, DateTrigger(self._armed_at, timezone=UTC), (self._arming,), id="deadline",
            max_instances=100, replace_existing=True,
        )  # fmt: skip

    def _until_next(self, name: str, interval: timedelta) -> timedelta:
        """Return the time until the next run of a job. A changed interval begins now."""
        known_interval, due = self._next.get(name, (None, 0.0))
        if known_interval != interval:
            due = clock.monotonic() + interval.total_seconds()
            self._next[name] = interval, due
        return timedelta(seconds=max(0.0, due - clock.monotonic()))


class _Scheduler(BackgroundScheduler):  # type: ignore[misc]
    """APScheduler, with a main thread that is restarted when it fails: without it no timer would fire."""

    def _main_loop(self) -> None:
        def run() -> None:
            self.wakeup()  # without it, a timer that is due would not fire until another timer is added
            super(_Scheduler, self)._main_loop()

        keep_running("timers", run)


class _Every(BaseTrigger):  # type: ignore[misc]
    """A trigger that fires at an interval, and once for all missed runs.

    APScheduler's own trigger computes every missed run, even if only one of them is executed. If a clock is corrected
    by years, it computes millions, and no timer fires meanwhile.
    """

    def __init__(self, interval: timedelta) -> None:
        self._interval = interval

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        following: datetime = (previous or now) + self._interval
        return following if following > now else now + self._interval


def _on_this_machine(instant: datetime) -> datetime:
    """Return the time that this machine's clock shows when the wall clock shows `instant`, or up to 1 ms more."""
    shown = clock.now()  # read first: otherwise the next millisecond could begin in between, and the timer fire early
    return instant + (clock.machine() - shown)
