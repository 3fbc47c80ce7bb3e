"""Detect that the wall clock was set, or that the daemon did not run for a while.

APScheduler reads the clock once and computes how long it sleeps. If the clock is then set back by an hour, it sleeps an
hour too long, so the timers have to be set again. A separate thread compares the clocks every second.
"""

import math
import threading
from collections.abc import Callable
from datetime import timedelta

from tminus import clock
from tminus.domain import timestamps
from tminus.logs.output import log
from tminus.scheduler.failures import Failed, FailureLog
from tminus.system.threads import RestartingThread

INTERVAL = timedelta(seconds=1)
"""Time between two comparisons of the clocks."""

STEP = 0.5
"""Seconds by which the wall clock may deviate from the time since boot, within one interval, before it counts as a
step. Corrections by NTP are smaller.
"""

FROZEN = 3.0
"""Seconds by which a wait may exceed the interval before it counts as a freeze of the daemon. A busy machine delays a
thread by less.
"""


class ClockStepDetector:
    """Detects steps of the wall clock and freezes of the daemon.

    The wall clock is `clock.outside`. On PostgreSQL it is the database's clock, which may differ from this machine's. A
    test clock is moved on purpose, so its moves are not steps.

    Parameters
    ----------
    failures
        Logs the errors of the functions below.
    reset_timers
        Sets all timers again. Called after a step of either clock, and after a freeze.
    on_step
        Called after a step of the wall clock. If it raises, it is called again each second until it succeeds.
    difference
        Returns the time by which this machine's clock is ahead of the wall clock.
    every_second
        Called each second.
    """

    def __init__(
        self,
        failures: FailureLog,
        reset_timers: Callable[[], None],
        on_step: Callable[[], object] = lambda: None,
        difference: Callable[[], timedelta] = timedelta,
        every_second: Callable[[], object] = lambda: None,
    ) -> None:
        self._failures = failures
        self._reset_timers = reset_timers
        self._on_step = on_step
        self._difference = difference
        self._every_second = every_second
        self._logged_difference = timedelta(0)
        """The difference of the clocks that was logged last."""
        self._stepped_at, self._stepped_by = -math.inf, 0.0
        """The last step of the wall clock: when, on the monotonic clock, and by how many seconds."""
        self._frozen_at, self._frozen_by = -math.inf, 0.0
        """The last freeze: when it ended, on `clock.running`, and its length in seconds."""
        self._waits_since: float | None = None
        """When the current wait began, on `clock.running`; None if the thread does not wait."""
        self._offset = self._offsets()[0]
        """Seconds by which the wall clock was ahead of the time since boot at the last comparison."""
        self._stop = threading.Event()
        self._thread = RestartingThread("clock_steps", self._run)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; return when it has ended."""
        self._stop.set()
        self._thread.join()

    def stepped(self, within: float) -> float:
        """Return the last step of the wall clock in seconds, if it was in the last `within` seconds; otherwise 0.0.

        The result includes a step since the last comparison.
        """
        step = self._offsets()[0] - self._offset
        if abs(step) > STEP:
            return step
        return self._stepped_by if clock.monotonic() - self._stepped_at <= within else 0.0

    def frozen(self, within: float) -> float:
        """Return the length of the last freeze in seconds, if it ended in the last `within` seconds; otherwise 0.0.

        The result includes a freeze that the thread has not recorded yet.
        """
        if (excess := self._excess_wait()) > FROZEN:
            return excess
        return self._frozen_by if clock.running() - self._frozen_at <= within else 0.0

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._offset, own = self._offsets()
        must_report = False
        while not self._wait():
            self._failures.run("every second", self._every_second)
            self._log_difference()
            before, own_before = self._offset, own
            offset, own = self._offsets()
            has_stepped = abs(offset - before) > STEP
            if has_stepped:
                log("clock.stepped", step_ms=round((offset - before) * 1000))
                must_report = True
                self._stepped_by, self._stepped_at = offset - before, clock.monotonic()
            # Assigned after `_stepped_by`, so that `stepped` always finds the step in one of the two.
            self._offset = offset
            has_resumed = clock.running() - self._frozen_at < INTERVAL.total_seconds()
            if has_resumed or has_stepped or abs(own - own_before) > STEP:
                self._reset_timers()
            if must_report:  # repeated until it succeeds: the database may be unreachable or overloaded
                must_report = isinstance(self._failures.run("clock step", self._on_step), Failed)

    def _wait(self) -> bool:
        """Wait for the next comparison, and log a freeze of the daemon; return whether to stop.

        Only the wait is measured, because the comparison and the functions that it calls may take long without a
        freeze.
        """
        self._waits_since = clock.running()
        stopping = self._stop.wait(INTERVAL.total_seconds())
        if (excess := self._excess_wait()) > FROZEN:
            self._frozen_by, self._frozen_at = excess, clock.running()
            log("daemon.frozen", frozen_s=round(excess))
        # Assigned after `_frozen_by`, so that `frozen` always finds the freeze in one of the two.
        self._waits_since = None
        return stopping

    def _excess_wait(self) -> float:
        """Return the seconds by which the current wait exceeds the interval; negative if it does not."""
        since = self._waits_since
        return clock.running() - since - INTERVAL.total_seconds() if since is not None else -math.inf

    @staticmethod
    def _offsets() -> tuple[float, float]:
        """Return the seconds by which the wall clock and this machine's clock are ahead of the time since boot.

        The time since boot includes time in suspend, so a suspend does not count as a step.
        """
        running = clock.running()
        return clock.outside().timestamp() - running, clock.machine().timestamp() - running

    def _log_difference(self) -> None:
        """Log the difference between this machine's clock and the wall clock, if it has changed."""
        difference, logged = self._difference(), self._logged_difference
        if abs(difference - logged).total_seconds() < STEP:
            return
        self._logged_difference = difference
        if difference:
            log("clock.differs", off_ms=timestamps.milliseconds(difference))
        else:
            log("clock.agrees")
