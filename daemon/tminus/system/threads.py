"""Threads that run as long as the daemon does: one that fails is reported and started again.

Python ends a thread whose function raises and says so on standard error only. The rest of the daemon would go on
without it, and nothing would show that webhooks, the log or the clock have stopped.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

from tminus import clock

AGAIN = 1.0
"""Seconds after which a thread that has failed is started again."""

REMEMBERED = 10.0
"""Seconds for which a failure counts: one that fails at each start never looks well in between."""

REPORTED_AGAIN = 60.0
"""Seconds after which the same failure of the same thread is reported again."""

Report = Callable[[str, BaseException], None]
"""Called on the thread that has failed, with its name."""

_report: Report = lambda _name, _error: None  # noqa: E731 - that is all it is
_failed: dict[str, tuple[float, str]] = {}
"""By thread, when it failed last, on the monotonic clock, and with which exception."""


def report_to(report: Report) -> None:
    """Have failures of all threads reported there; like `threading.excepthook`, one for the process."""
    global _report  # noqa: PLW0603
    _report = report


def failing() -> list[str]:
    """Return which threads have failed of late, and why; empty if all run."""
    present = clock.monotonic()
    return [f"{name} ({why})" for name, (at, why) in sorted(_failed.items()) if present - at < REMEMBERED]


def keep_running(name: str, work: Callable[[], object]) -> None:
    """Run `work` until it returns, and again whenever it raises; `name`: what reports call the thread."""
    reported, reported_at = "", 0.0
    while True:
        try:
            work()
            return
        except BaseException as error:
            why, present = f"{type(error).__name__}: {error}", clock.monotonic()
            _failed[name] = present, type(error).__name__
            if why != reported or present - reported_at > REPORTED_AGAIN:
                reported, reported_at = why, present
                with suppress(Exception):  # what reports may meet the same defect
                    _report(name, error)
            threading.Event().wait(AGAIN)


class RestartingThread(threading.Thread):
    """A thread that runs `work` until it returns, and again whenever it raises."""

    def __init__(self, name: str, work: Callable[[], object], *, daemon: bool = False) -> None:
        super().__init__(name=name, daemon=daemon)
        self._work = work

    def run(self) -> None:
        """Run the work; on the thread."""
        keep_running(self.name, self._work)
