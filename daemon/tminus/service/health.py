"""The health of the daemon, for `/readyz` and `systemctl status`."""

import threading
from datetime import timedelta

from tminus import clock
from tminus.domain import timestamps
from tminus.domain.errors import StoreUnavailable
from tminus.scheduler.timers import Timers
from tminus.storage import Store
from tminus.system import threads


class Health:
    """Checks the store, the threads and the scheduler. `stopping` is set when the daemon is stopping."""

    def __init__(
        self, store: Store, timers: Timers, stopping: threading.Event, *, has_test_clock: bool = False
    ) -> None:
        self._has_test_clock = has_test_clock
        self._store = store
        self._timers = timers
        self._stopping = stopping

    def not_ready(self) -> list[str]:
        """Return why the daemon is not ready; empty if it is. Only causes are listed, and not their consequences."""
        reasons = []
        failing, since = self._store.failing, self._store.failing_since
        if silent := self._store.silent_for:
            reasons.append(f"the database does not answer, since {_ago(silent)}")
        elif failing is not None and since is not None:
            reasons.append(f"the database cannot be written, since {timestamps.text(since)}: {failing}")
        elif (unreadable := self._store.unreadable()) is not None:
            reasons.append(f"the database cannot be read, since {_ago(unreadable.seconds)}: {unreadable.why}")
        reasons += [f"a thread of the daemon fails: {thread}" for thread in threads.failing()]
        if not reasons and not self._timers.alive:
            reasons.append(f"the scheduler has stopped: it last checked for due sessions at {_ago(self._timers.age)}")
        if self._stopping.is_set():
            reasons.append("it is stopping")
        if self._store.damage is not None:
            reasons.append(f"the database is damaged: {self._store.damage}")
        return reasons

    def notes(self) -> list[str]:
        """Return warnings for an operator that do not affect readiness."""
        if self._has_test_clock:
            return [f"it runs on a test clock, which stands at {timestamps.text(clock.now())}"]
        ahead = self._store.clock_difference
        if not ahead:
            return []
        how = "ahead of" if ahead > timedelta(0) else "behind"
        return [f"this machine's clock is {abs(ahead).total_seconds():.1f} s {how} the database's, which is used"]

    def status(self) -> str:
        """Return the line for `systemctl status`."""
        if reasons := self.not_ready():
            return f"not ready: {', '.join(reasons)}"
        try:
            counts, due = self._store.counts(), self._store.read(lambda view: view.next_due())
        except StoreUnavailable as error:
            return f"not ready: {error.description}"
        sessions = ", ".join(f"{number} {status.value}" for status, number in counts.items())
        return "; ".join([sessions, f"next deadline {timestamps.text(due) if due else 'none'}", *self.notes()])


def _ago(seconds: float) -> str:
    return timestamps.text(clock.outside() - timedelta(seconds=seconds))
