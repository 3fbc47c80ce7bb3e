"""The timers: APScheduler wakes, `tick` works. No logic of sessions here.

One timer stands at the earliest deadline of all sessions; a slow sweep each second beside it heals whatever a timer
could miss. Both run the same `tick`, one at a time. No job is kept for a session and none in the database: the session
table is the schedule, so a restart sets one timer again however many sessions wait.
"""

import math
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.date import DateTrigger

from tminus import clock
from tminus.domain import timestamps
from tminus.domain.errors import StoreUnavailable
from tminus.logs.output import error_fields, log
from tminus.storage.engine import reason
from tminus.system.threads import RestartingThread, keep_running

Chores = dict[str, tuple[timedelta, Callable[[], object]]]
"""Name -> (interval, work)."""

CHORES = 4
"""How many chores there are at the most."""

SWEEP = timedelta(seconds=1)
"""How often the clock looks by itself, whatever timers stand."""

STEP = 0.5
"""Seconds by which wall clock and monotonic clock may drift apart between two pulses before that is a step."""

TOLERANCE = timedelta(milliseconds=2)
"""How far a timer may stand from where it should: two clocks are not read in the same moment."""

FROZEN = 3.0
"""Seconds by which a wait of the pulse may be too long before the daemon counts as not having run meanwhile."""

ALIVE = 10.0
"""Seconds without a finished tick after which the clock counts as stopped."""


class Timers:
    """The daemon's timers.

    Parameters
    ----------
    tick
        Does what is due; returns the next deadline, None if there is none.
    chores
        Name -> (interval, work): retention, heartbeat, status.
    stepped
        Called when the clock that counts has been set, and again each second until it does not fail.
    difference
        Returns by how much this machine's clock is ahead of the one that counts; zero if nobody need know.
    """

    def __init__(
        self,
        tick: Callable[[], datetime | None],
        chores: Chores,
        stepped: Callable[[], object] = lambda: None,
        difference: Callable[[], timedelta] = timedelta,
        each_second: Callable[[], object] = lambda: None,
    ) -> None:
        self._each_second = each_second
        self._stepped_at, self._stepped_by = -math.inf, 0.0
        """When the wall clock was last set, on the monotonic clock, and by how many seconds."""
        self._frozen_at, self._frozen_by = -math.inf, 0.0
        """When the daemon last went on after it had not run, on `clock.running`; for how many seconds it had not."""
        self._waits_since: float | None = None
        """Since when the pulse waits for its next look."""
        self._offset = self._offsets()[0]
        """How far the clock that counts was ahead of the time since boot at the last pulse."""
        self._tick = tick
        self._difference = difference
        self._told_difference = timedelta(0)
        self._stepped = stepped
        self._chores = chores
        self._next: dict[str, tuple[timedelta, float]] = {}
        """Of each chore: its interval, and when on the monotonic clock it is to be done next. A reload and a step of
        the wall clock set the timers anew; did each interval begin anew, too, a chore might never be done.
        """
        self._armed: datetime | None = None
        self._armed_at = clock.machine()
        """When that is on this machine's clock, by which APScheduler sleeps."""
        self._arming = 0
        """Number of the timer that stands, so that one that fires late is not taken for it."""
        self._failures: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._last_tick = clock.monotonic()
        self._pulse = RestartingThread("pulse", self._watch_clock)
        # UTC at each place where APScheduler would ask for the local zone otherwise: it fails where $TZ names none that
        # it knows, and moves a deadline where it takes one wrongly.
        self._scheduler = _Scheduler(
            timezone=UTC,
            # Ticks have a thread of their own: a chore never makes the clock wait. Nor does a long clean-up make the
            # heartbeat wait: there is a thread for each chore.
            executors={"default": ThreadPoolExecutor(1), "chores": ThreadPoolExecutor(CHORES)},
            # By default a job that is a second late is dropped. Ours is never dropped: late is better than not at all.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    def start(self) -> None:
        self._scheduler.start()
        self._set_all()
        self._pulse.start()

    def stop(self) -> None:
        """Returns when no timer's work is running any more."""
        self._stop.set()
        with self._lock:
            # Waits for APScheduler to be done with what it is handing out: told to stop meanwhile, it would look for
            # the job that it has just handed out, not find it, and fail.
            self._scheduler.remove_all_jobs()
        self._scheduler.shutdown(wait=True)
        self._pulse.join()

    def set_chores(self, chores: Chores) -> None:
        """Other chores, or the same at other intervals, from now on."""
        self._chores = chores
        self._set_all()

    def beat(self) -> None:
        """The tick that runs is getting on: a long one is no clock that has stopped."""
        self._last_tick = clock.monotonic()

    @property
    def age(self) -> float:
        """Seconds since a tick was last finished."""
        return clock.monotonic() - self._last_tick

    @property
    def alive(self) -> bool:
        """Whether ticks are being finished."""
        return self.age < ALIVE

    def stepped(self, within: float) -> float:
        """Return by how many seconds the clock that counts was set within so many seconds, 0.0 if it was not. Finds a
        step that the pulse has not noticed yet, too.
        """
        step = self._offsets()[0] - self._offset
        if abs(step) > STEP:
            return step
        return self._stepped_by if clock.monotonic() - self._stepped_at <= within else 0.0

    def frozen(self, within: float) -> float:
        """Return for how many seconds the daemon did not run, if it went on within so many seconds, else 0.0. Finds
        what the pulse has not noticed yet, too.
        """
        if (late := self._overslept()) > FROZEN:
            return late
        return self._frozen_by if clock.running() - self._frozen_at <= within else 0.0

    def due_at(self, due: datetime) -> None:
        """Somebody set a deadline: the timer moves there if that is earlier than where it stands. Any thread."""
        with self._lock:
            if not self._stop.is_set() and (self._armed is None or due < self._armed or self._has_drifted(due)):
                self._arm(due)

    def _has_drifted(self, due: datetime) -> bool:
        """Whether the timer for `due` would fire at another time than when it was set: two clocks run apart."""
        return due == self._armed and abs(_on_this_machine(due) - self._armed_at) > TOLERANCE

    # --- on the scheduler's threads -----------------------------------------------------------------------------------

    def _run_deadline(self, number: int) -> None:
        with self._lock:
            if number == self._arming:
                self._armed = None
        self._run_tick()

    def _run_tick(self) -> None:
        due = self._guarded("clock tick", self._tick)
        if not isinstance(due, _Failed):
            self.beat()
            # What is due although the tick has just run (no PIN was free, the clock was set back) is for the sweep:
            # a timer in the past would fire at once, for ever.
            if due is not None and due > clock.now():
                self.due_at(due)

    def _do_chore(self, name: str, every: timedelta, work: Callable[[], object]) -> None:
        self._next[name] = every, clock.monotonic() + every.total_seconds()
        self._guarded(name, work)

    def _guarded(self, name: str, work: Callable[[], Any]) -> Any:
        """Runs a timer's work. What it raises is told once, not every second, and the next tick tries again."""
        try:
            result = work()
        except Exception as error:
            told = _told(error)
            if self._failures.get(name) != told["error"]:
                self._failures[name] = told["error"]
                log("clock.failed", job=name, **told)
            return _Failed()
        if self._failures.pop(name, None) is not None:
            log("clock.recovered", job=name)
        return result

    def _arm(self, due: datetime) -> None:
        self._armed, self._armed_at = due, _on_this_machine(due)
        self._arming += 1
        # A tick that runs this is not finished yet: were only one instance allowed, a timer that fires meanwhile
        # would be skipped, and its session be late until the sweep.
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
            for name, (every, work) in self._chores.items():
                self._scheduler.add_job(
                    self._do_chore, _Every(every), (name, every, work), id=name, executor="chores",
                    next_run_time=clock.machine() + self._wait(name, every),
                )  # fmt: skip

    def _wait(self, name: str, every: timedelta) -> timedelta:
        """How long until a chore is done next."""
        interval, due = self._next.get(name, (None, 0.0))
        if interval != every:
            due = clock.monotonic() + every.total_seconds()
            self._next[name] = every, due
        return timedelta(seconds=max(0.0, due - clock.monotonic()))

    # --- the pulse ----------------------------------------------------------------------------------------------------

    def _watch_clock(self) -> None:
        """Notice that a clock was set, and set the timers anew: APScheduler sleeps for a span that it computes once
        from this machine's clock, so after a step back by an hour it would sleep an hour too long.
        """
        self._offset, own = self._offsets()
        untold = False
        while not self._rest():
            self._guarded("pulse", self._each_second)
            self._tell_difference()
            was, was_own = self._offset, own
            offset, own = self._offsets()
            if abs(offset - was) > STEP:
                log("clock.stepped", step_ms=round((offset - was) * 1000))
                untold = True
                self._stepped_by, self._stepped_at = offset - was, clock.monotonic()
            self._offset = offset  # last: `stepped` finds a step here or there
            thawed = clock.running() - self._frozen_at < SWEEP.total_seconds()
            if thawed or abs(offset - was) > STEP or abs(own - was_own) > STEP:
                self._set_all()
            if untold:  # until it gets through: the database may be away, or have too much to do
                untold = isinstance(self._guarded("clock step", self._stepped), _Failed)

    def _rest(self) -> bool:
        """Wait for the next look; return whether to stop instead. Report it if the daemon did not run meanwhile: only
        the wait is measured, as what a look does may rightly take long.
        """
        self._waits_since = clock.running()
        stopping = self._stop.wait(SWEEP.total_seconds())
        if (late := self._overslept()) > FROZEN:
            self._frozen_by, self._frozen_at = late, clock.running()
            log("daemon.frozen", frozen_s=round(late))
        self._waits_since = None  # last: `frozen` finds it here or there
        return stopping

    def _overslept(self) -> float:
        """By how many seconds the pulse waits longer than it should, negative if it does not."""
        since = self._waits_since
        return clock.running() - since - SWEEP.total_seconds() if since is not None else -math.inf

    @staticmethod
    def _offsets() -> tuple[float, float]:
        """Of the clock that counts and of this machine's: how far each is ahead of the time since boot. A suspend of
        the machine changes neither.
        """
        running = clock.running()
        return clock.now().timestamp() - running, clock.machine().timestamp() - running

    def _tell_difference(self) -> None:
        """Log that this machine's clock differs from the one that counts, once for each change of it."""
        difference, told = self._difference(), self._told_difference
        if abs(difference - told).total_seconds() < STEP:
            return
        self._told_difference = difference
        if difference:
            log("clock.differs", off_ms=timestamps.milliseconds(difference))
        else:
            log("clock.agrees")


class _Scheduler(BackgroundScheduler):  # type: ignore[misc]
    """APScheduler, whose thread is started again when it has failed: it hands out every tick."""

    def _main_loop(self) -> None:
        def run() -> None:
            self.wakeup()  # it would wait for a new timer otherwise, also where one has passed meanwhile
            super(_Scheduler, self)._main_loop()

        keep_running("timers", run)


class _Every(BaseTrigger):  # type: ignore[misc]
    """Fires at an interval, and once for all that was missed.

    APScheduler's own is asked for each time that was missed, one after the other, also where only one is wanted: when a
    clock is set right by years those are millions, and until it has them all nothing else is fired.
    """

    def __init__(self, interval: timedelta) -> None:
        self._interval = interval

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime:
        following: datetime = (previous or now) + self._interval
        return following if following > now else now + self._interval


def _on_this_machine(instant: datetime) -> datetime:
    """What this machine's clock shows at an instant of the clock that counts."""
    return instant + (clock.machine() - clock.now())


class _Failed:
    """What `_guarded` returns in place of a result."""


def _told(error: Exception) -> dict[str, str]:
    """Of a database that is away what it says itself: that is no defect, and what callers are told is not for those who
    read the log.
    """
    if isinstance(error, StoreUnavailable):
        return {"error": f"the database is not available: {reason(error.__cause__ or error)}"}
    return error_fields(error)
