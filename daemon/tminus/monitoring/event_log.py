"""The event log: writes committed events as log lines, in the order of their commits, each at least once.

It reads the event table, so it logs exactly the committed events, including those of bulk transitions and of other
processes such as `tminus advance`. Events that this process has just committed are handed over, and are not read again
if they are next in order.

The position of the log is stored in the database, at most once a second, and only after the lines were written: after a
kill, the next start logs the events of up to a second again, and misses none. Each daemon on a shared database has its
own position, since each daemon's log has every event. A new daemon begins at the largest position of all: some log
already has the events before it.
"""

import contextlib
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from tminus import clock
from tminus.domain.errors import RequestError, StoreUnavailable
from tminus.domain.events import LogEvent
from tminus.storage import Store, Transaction
from tminus.storage.log_positions import begin_log, first_log_position, log_position, set_log_position
from tminus.system.threads import RestartingThread

PAGE = 500
"""Maximum number of events that are read at a time."""

POLL_INTERVAL = 1.0
"""Maximum seconds between two reads of the event table."""

PAGE_PAUSE = 0.05
"""Seconds between two pages. Under load, one page has the events of many commits, and requests run in between."""

SAVE_INTERVAL = 1.0
"""Minimum seconds between two transactions that store the position of the log."""

STOP_SECONDS = 1.0
"""Seconds for which a stop continues to log: 100,000 sessions that opened just before leave many lines. It waits as
long again for the last page to be written; otherwise the next start would log that page again."""

MAX_HELD_BACK = 50_000
"""Maximum number of events that `throttled` holds back. Beyond it, the log catches up at full speed."""

MAX_HANDED_OVER = 4 * PAGE
"""Maximum number of handed-over events that are kept in memory; others are read from the database."""

WriteLines = Callable[[Sequence[LogEvent], Callable[[bool], None]], None]
"""Starts to write the lines of events and returns at once. Calls back, on any thread, with whether all were written."""


class EventLog:
    """A thread that passes each committed event to `write_lines`, page by page, from the stored position of `name` on.

    A page that could not be written is repeated before the next one. `on_new_events` is called as soon as there are new
    events, also while the log cannot be written: once for a commit of this process, and once for all events that one
    read has found.
    """

    def __init__(
        self, store: Store, write_lines: WriteLines, on_new_events: Callable[[], None] = lambda: None, *, name: str = ""
    ) -> None:
        self._store = store
        self._write_lines = write_lines
        self._on_new_events = on_new_events
        self._name = name
        self._handed_over: deque[LogEvent] = deque()
        self._seq, self._saved = self._stored_position()
        """The number of the last event that was logged, and the one that is stored in the database."""
        self._seen = self._seq
        """The number of the last event that `on_new_events` was called for."""
        self._notify_lock = threading.Lock()
        self._saving: Future[int] | None = None
        self._save_at = 0.0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._throttles = 0
        """Number of `throttled` blocks that are being executed."""
        self._throttles_lock = threading.Lock()
        self._unthrottled = threading.Event()
        self._unthrottled.set()
        self._until = math.inf
        """When to stop logging although events are left, on the monotonic clock."""
        self._thread = RestartingThread("event_log", self._run)

    @property
    def seq(self) -> int:
        """The number of the last event that was logged."""
        return self._seq

    @property
    def left(self) -> int:
        """The approximate number of events that are not logged yet."""
        return max(0, self._store.read(lambda view: view.last_seq()) - self._seq)

    def start(self) -> None:
        self._thread.start()

    def wake(self, committed: Sequence[LogEvent] = (), newest: int | None = None) -> None:
        """Log new events. `committed` are the events of a commit in order, which then need not be read; `newest` is the
        number of the newest event of a commit of this process.

        Any thread may call this, but only the writer's may pass `committed`.
        """
        if len(self._handed_over) < MAX_HANDED_OVER:
            self._handed_over.extend(committed)
        self._wake.set()
        if newest is not None:
            self._notify(newest)

    def _stored_position(self) -> tuple[int, int]:
        known = self._store.read(lambda view: log_position(view, self._name))
        if known is not None:
            return known, known
        first = self._store.read(first_log_position)
        try:
            self._store.submit(lambda tx: begin_log(tx, self._name, first)).result()
        except RequestError:
            return first, -1  # a full disk does not prevent the start; the position is stored later
        return first, first

    def stop(self) -> int:
        """Stop when all committed events are logged, or after `STOP_SECONDS`; return the approximate number of events
        that are left for the next start.
        """
        self._until = clock.monotonic() + STOP_SECONDS
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        with contextlib.suppress(RequestError):
            if self._saving is not None and self._saving.exception() is None:
                self._saved = self._saving.result()
            if self._seq != self._saved:
                self._store.submit(self._store_position(self._seq)).result()
            return self.left
        return 0

    @contextlib.contextmanager
    def throttled(self) -> Iterator[None]:
        """Log only one page a second within the `with` block, so that due sessions open first, and large batches are
        answered first. Logging them at the same time would compete for the interpreter lock. Any thread may call this.
        """
        with self._throttles_lock:
            self._throttles += 1
            self._unthrottled.clear()
        try:
            yield
        finally:
            with self._throttles_lock:
                self._throttles -= 1
                if not self._throttles:
                    self._unthrottled.set()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            self._wake.wait(POLL_INTERVAL)
            self._wake.clear()
            stopping = self._stopping.is_set()  # read first, so that all events committed before the stop are logged
            with contextlib.suppress(StoreUnavailable):  # logged elsewhere; the events are read later
                # Continue also after a page that is not full: it may have had only the events that were handed over.
                while self._log_page() and clock.monotonic() < self._until:
                    self._stopping.wait(PAGE_PAUSE)
            self._save()
            self._stopping.wait(PAGE_PAUSE)

    def _log_page(self) -> bool:
        if not self._stopping.is_set() and self._seen - self._seq < MAX_HELD_BACK:
            self._unthrottled.wait(POLL_INTERVAL)
        page = self._take_handed_over() or self._store.read(lambda view: view.log_events(self._seq, PAGE))
        if not page:
            return False
        self._notify(page[-1].event.seq)
        if not self._log(page):
            return False
        self._seq = page[-1].event.seq
        self._save()
        return True

    def _log(self, page: Sequence[LogEvent]) -> bool:
        """Write a page, with as many attempts as needed; return False only if it was not written before a stop."""
        outcome: SimpleQueue[bool] = SimpleQueue()
        while True:
            try:
                self._write_lines(page, outcome.put)
            except Exception:
                if len(page) > 1:  # log each event by itself, so that only those with the error are missing
                    return all(self._log([one]) for one in page)
                logging.getLogger(__name__).exception("Event %d could not be logged", page[0].event.seq)
                return True  # it must not prevent all later events from being logged
            while (written := self._wait_for(outcome)) is None:
                if clock.monotonic() >= self._until + STOP_SECONDS:
                    return False
                self._report_new_events()
            if written or self._stopping.wait(POLL_INTERVAL):
                return written
            self._report_new_events()

    def _wait_for(self, outcome: "SimpleQueue[bool]") -> bool | None:
        with contextlib.suppress(Empty):
            timeout = min(POLL_INTERVAL, self._until + STOP_SECONDS - clock.monotonic())
            return outcome.get(timeout=max(0.0, timeout))
        return None

    def _report_new_events(self) -> None:
        """Call `on_new_events` while the log cannot be written: the feed and webhooks must not wait for the log."""
        with contextlib.suppress(StoreUnavailable):
            self._notify(self._store.read(lambda view: view.last_seq()))

    def _notify(self, seq: int) -> None:
        with self._notify_lock:
            if seq <= self._seen:
                return
            self._seen = seq
        self._on_new_events()

    def _save(self) -> None:
        """Start to store the position of the log, in a transaction with other writes; do not wait for it."""
        if self._saving is not None and self._saving.done():
            if self._saving.exception() is None:
                self._saved = self._saving.result()
            self._saving = None
        if self._saving is None and self._seq != self._saved and clock.monotonic() >= self._save_at:
            self._save_at = clock.monotonic() + SAVE_INTERVAL
            with contextlib.suppress(RequestError):  # the writer is overloaded; the next call tries again
                self._saving = self._store.submit(self._store_position(self._seq))

    def _store_position(self, seq: int) -> Callable[[Transaction], int]:
        def job(tx: Transaction) -> int:
            set_log_position(tx, self._name, seq)
            return seq

        return job

    def _take_handed_over(self) -> list[LogEvent]:
        """Remove and return the next events, as far as they were handed over."""
        page: list[LogEvent] = []
        next_seq = self._seq + 1
        while self._handed_over and self._handed_over[0].event.seq <= next_seq and len(page) < PAGE:
            recorded = self._handed_over.popleft()
            if recorded.event.seq == next_seq:
                page.append(recorded)
                next_seq += 1
        return page
