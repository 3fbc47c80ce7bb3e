"""How the daemon is: for `/readyz` and `systemctl status`."""

import threading
from datetime import timedelta

from tminus import clock
from tminus.domain import timestamps
from tminus.domain.errors import StoreUnavailable
from tminus.scheduler.timers import Timers
from tminus.storage import Store
from tminus.system import threads


class Health:
    """Looks at the store and the clock. `stopping`: set when the daemon was told to stop."""

    def __init__(self, store: Store, timers: Timers, stopping: threading.Event) -> None:
        self._store = store
        self._timers = timers
        self._stopping = stopping

    def not_ready(self) -> list[str]:
        """What this daemon waits for, or why it serves nobody: the causes, not what follows from them."""
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
            reasons.append(f"the clock has stopped: it last looked for what is due at {_ago(self._timers.age)}")
        if self._stopping.is_set():
            reasons.append("it is stopping")
        if self._store.damage is not None:
            reasons.append(f"the database is damaged: {self._store.damage}")
        return reasons

    def notes(self) -> list[str]:
        """What an operator should look at, although requests may come here."""
        ahead = self._store.clock_difference
        if not ahead:
            return []
        how = "ahead of" if ahead > timedelta(0) else "behind"
        return [f"this machine's clock is {abs(ahead).total_seconds():.1f} s {how} the database's, which counts"]

    def status(self) -> str:
        """One line for `systemctl status`."""
        if reasons := self.not_ready():
            return f"not ready: {', '.join(reasons)}"
        try:
            counts, due = self._store.counts(), self._store.read(lambda view: view.next_due())
        except StoreUnavailable as error:
            return f"not ready: {error.description}"
        told = [f"{number} {status.value}" for status, number in counts.items()]
        return "; ".join([", ".join(told), f"next deadline {timestamps.text(due) if due else 'none'}", *self.notes()])


def _ago(seconds: float) -> str:
    return timestamps.text(clock.now() - timedelta(seconds=seconds))
