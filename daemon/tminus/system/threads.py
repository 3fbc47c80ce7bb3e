"""Threads that run as long as the daemon. A thread that fails is reported and restarted.

Python ends a thread whose function raises, and reports that only on standard error. The daemon would go on without the
thread, and nothing would show that webhooks, the log or the scheduler have stopped.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

from tminus import clock

RESTART_DELAY = 1.0
"""Seconds before a thread that has failed is restarted."""

FAILING_FOR = 10.0
"""Seconds for which a thread counts as failing after an exception. It is longer than `RESTART_DELAY`, so that a thread
that fails at each start is never reported as healthy in between."""

REPORT_INTERVAL = 60.0
"""Minimum seconds between two reports of the same failure of the same thread."""

Report = Callable[[str, BaseException], None]
"""Called on the thread that has failed, with its name and the exception."""

_report: Report = lambda _name, _error: None  # noqa: E731 - a default that does nothing
_failed: dict[str, tuple[float, str]] = {}
"""By thread name: when it last failed, on the monotonic clock, and the exception's type."""


def report_to(report: Report) -> None:
    """Call `report` for each failure of any thread. Like `threading.excepthook`, this is set once for the process."""
    global _report  # noqa: PLW0603
    _report = report


def failing() -> list[str]:
    """Return the threads that have failed recently, each with the type of the exception."""
    present = clock.monotonic()
    return [f"{name} ({why})" for name, (at, why) in sorted(_failed.items()) if present - at < FAILING_FOR]


def keep_running(name: str, work: Callable[[], object]) -> None:
    """Run `work` until it returns; restart it whenever it raises. `name` is the thread's name in reports."""
    reported, reported_at = "", 0.0
    while True:
        try:
            work()
            return
        except BaseException as error:
            why, present = f"{type(error).__name__}: {error}", clock.monotonic()
            _failed[name] = present, type(error).__name__
            if why != reported or present - reported_at > REPORT_INTERVAL:
                reported, reported_at = why, present
                with suppress(Exception):  # reporting may fail for the same reason
                    _report(name, error)
            threading.Event().wait(RESTART_DELAY)


def for_future(error: BaseException) -> BaseException:
    """Return an error that a future accepts: `error` itself, or its replacement if it is a `StopIteration`.

    A future refuses `StopIteration` by raising `TypeError`, and whoever awaits it would wait for ever.
    """
    if not isinstance(error, StopIteration):
        return error
    replacement = RuntimeError("StopIteration was raised")
    replacement.__cause__ = error
    return replacement


class RestartingThread(threading.Thread):
    """A thread that runs `work` until it returns, and restarts it whenever it raises."""

    def __init__(self, name: str, work: Callable[[], object], *, daemon: bool = False) -> None:
        super().__init__(name=name, daemon=daemon)
        self._work = work

    def run(self) -> None:
        """Run the work; called on the new thread."""
        keep_running(self.name, self._work)
