"""The timers: APScheduler calls `tick` when something is due. They contain no logic of sessions.

One timer is set to the earliest deadline of all sessions. A sweep every second does whatever a timer has missed. Both
call the same `tick`, one call at a time. There is no job for each session, neither in memory nor in the database: the
session table is the schedule, so a restart sets one timer however many sessions wait.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.date import DateTrigger

from tminus import clock
from tminus.scheduler.clock_steps import ClockStepDetector
from tminus.scheduler.failures import Failed, FailureLog
from tminus.system.threads import keep_running

PeriodicJobs = dict[str, tuple[timedelta, Callable[[], object]]]
"""Name -> (interval, function)."""

MAX_JOBS = 5
"""Maximum number of periodic jobs; each has a thread."""

SWEEP = timedelta(seconds=1)
"""Interval of the sweep, which runs whatever timers are set."""

TOLERANCE = timedelta(milliseconds=2)
"""Difference between a timer's time and the right one that is ignored: the two clocks are not read at one moment."""

ALIVE = 10.0
"""Seconds without a finished tick after which the scheduler counts as stopped."""


class Timers:
    """The daemon's timers.

    Parameters
    ----------
    tick
        Does what is due; returns the next deadline, None if there is none.
    jobs
        The periodic jobs: retention, heartbeat, and others.
    on_step
        Called when the wall clock was set, and again each second until it does not fail.
    difference
        Returns by how much this machine's clock is ahead of the wall clock.
    every_second
        Called each second.
    """

    def __init__(
        self,
        tick: Callable[[], datetime | None],
        jobs: PeriodicJobs,
        on_step: Callable[[], object] = lambda: None,
        difference: Callable[[], timedelta] = timedelta,
        every_second: Callable[[], object] = lambda: None,
    ) -> None:
        self._tick = tick
        self._jobs = jobs
        self._next: dict[str, tuple[timedelta, float]] = {}
        """Job -> its interval, and when it runs next, on the monotonic clock. A reload and a step of the wall clock set
        all timers again; if they restarted the intervals, a job might never run.
        """
        self._armed: datetime | None = None
        """The deadline to which the timer is set."""
        self._armed_at = clock.machine()
        """The same on this machine's clock, which APScheduler uses."""
        self._arming = 0
        """Number of the timer that is set, so that one that fires late is not mistaken for it."""
        self._failures = FailureLog()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._last_tick = clock.monotonic()
        self.steps = ClockStepDetector(self._failures, self._set_all, on_step, difference, every_second)
        # UTC wherever APScheduler would otherwise read the local zone: it fails if $TZ names an unknown zone, and fires
        # at the wrong time if it interprets one wrongly.
        self._scheduler = _Scheduler(
            timezone=UTC,
            # Ticks have a thread of their own, so that no periodic job delays them. Each job has one too, so that a
            # long clean-up does not delay the heartbeat.
            executors={"default": ThreadPoolExecutor(1), "jobs": ThreadPoolExecutor(MAX_JOBS)},
            # By default APScheduler drops a run that is a second late. Here, late is better than never.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    def start(self) -> None:
        """Start the threads and set all timers."""
        self._scheduler.start()
        self._set_all()
        self.steps.start()

    def stop(self) -> None:
        """Stop all timers; return when none of their functions runs."""
        self._stop.set()
        with self._lock:
            # Waits until APScheduler has submitted what is due. If it were stopped in between, it would not find the
            # job that it has just submitted, and fail.
            self._scheduler.remove_all_jobs()
        self._scheduler.shutdown(wait=True)
        self.steps.stop()

    def set_jobs(self, jobs: PeriodicJobs) -> None:
        """Replace the periodic jobs."""
        self._jobs = jobs
        self._set_all()

    def mark_alive(self) -> None:
        """Record that the running tick makes progress, so that a long one does not count as stopped."""
        self._last_tick = clock.monotonic()

    @property
    def age(self) -> float:
        """Seconds since the last sign of progress of a tick."""
        return clock.monotonic() - self._last_tick

    @property
    def alive(self) -> bool:
        """Whether ticks make progress."""
        return self.age < ALIVE

    def due_at(self, due: datetime) -> None:
        """Set the timer to a new deadline, if it is earlier than the present one. Any thread."""
        with self._lock:
            if not self._stop.is_set() and (self._armed is None or due < self._armed or self._has_drifted(due)):
                self._arm(due)

    def _has_drifted(self, due: datetime) -> bool:
        """Whether the timer for `due` would fire at the wrong time, since the two clocks have drifted apart."""
        return due == self._armed and abs(_on_this_machine(due) - self._armed_at) > TOLERANCE

    # --- on the scheduler's threads -----------------------------------------------------------------------------------

    def _run_deadline(self, number: int) -> None:
        with self._lock:
            if number == self._arming:
                self._armed = None
        self._run_tick()

    def _run_tick(self) -> None:
        due = self._failures.run("clock tick", self._tick)
        if not isinstance(due, Failed):
            self.mark_alive()
            # What is still due after the tick (no PIN was free, the clock was set back) is left to the sweep: a timer
            # in the past would fire again at once, without end.
            if due is not None and due > clock.now():
                self.due_at(due)

    def _run_job(self, name: str, interval: timedelta, work: Callable[[], object]) -> None:
        self._next[name] = interval, clock.monotonic() + interval.total_seconds()
        self._failures.run(name, work)

    def _arm(self, due: datetime) -> None:
        self._armed, self._armed_at = due, _on_this_machine(due)
        self._arming += 1
        # The tick that calls this has not returned yet. With one instance allowed, APScheduler would skip a timer that
        # fires meanwhile, and its session would be late until the sweep.
        self._scheduler.add_job(
            self._run_deadline, DateTrigger(self._armed_at, timezone=UTC), (self._arming,), id="deadline",
            max_instances=100, replace_existing=True,
        )  # fmt: skip

    def _set_all(self) -> None:
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

    def _until_next(self, name: str, interval: timedelta) -> timedelta:
        """Return the time until the next run of a job. A new interval begins now."""
        known_interval, due = self._next.get(name, (None, 0.0))
        if known_interval != interval:
            due = clock.monotonic() + interval.total_seconds()
            self._next[name] = interval, due
        return timedelta(seconds=max(0.0, due - clock.monotonic()))


class _Scheduler(BackgroundScheduler):  # type: ignore[misc]
    """APScheduler with a thread that is restarted when it fails, since no timer would fire without it."""

    def _main_loop(self) -> None:
        def run() -> None:
            self.wakeup()  # without it, a timer that became due before the restart would wait for the next new one
            super(_Scheduler, self)._main_loop()

        keep_running("timers", run)


class _Every(BaseTrigger):  # type: ignore[misc]
    """Fires at an interval, and once for all runs that were missed.

    APScheduler's own trigger computes each missed run, even if only one of them is wanted. If a clock is corrected by
    years, there are millions, and no other timer fires until they are computed.
    """

    def __init__(self, interval: timedelta) -> None:
        self._interval = interval

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        following: datetime = (previous or now) + self._interval
        return following if following > now else now + self._interval


def _on_this_machine(instant: datetime) -> datetime:
    """Return the time of this machine's clock at an instant of the wall clock."""
    return instant + (clock.machine() - clock.now())
