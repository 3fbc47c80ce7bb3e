"""The event log: committed events become log lines, in the order in which they were committed, each at least once.

It follows the event table, so nothing is logged that was not committed, and nothing that was is left out: not what a
bulk move wrote, nor what another process (`tminus advance`) did. What this process has just written itself is handed
over, and not read again as long as it is what comes next.

How far the log has come is kept in the database, written once a second at most, and only after the lines were written:
after a kill the next start logs a second's events again rather than miss one. Each daemon of a shared database keeps
its own place, since each has a log of its own, which has every event. A daemon without a place begins at the furthest
of all: what is before that is in some log.
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
from tminus.domain.events import News
from tminus.storage import Store, Transaction
from tminus.storage.log_places import begin_log, first_log_place, log_place, set_log_place
from tminus.system.threads import RestartingThread

PAGE = 500
"""Events read at a time."""

LOOK = 1.0
"""Seconds after which it looks even if nobody has called."""

REST = 0.05
"""Seconds between two pages: under load one look tells of many commits, and a herd's lines hold no request up."""

SAVED_EACH = 1.0
"""Seconds between two transactions that write down how far the log has come: what a kill has logged again, at most."""

LAST_SECONDS = 1.0
"""How long a stop goes on handing over what is left to log: a herd that opened just before can have left 100,000. For
the page that was handed over last it waits as long again: otherwise the next start logs that page a second time.
"""

KEPT = 4 * PAGE
"""Events that are kept because they were handed over; more of them are read again."""

Announce = Callable[[Sequence[News], Callable[[bool], None]], None]
"""Writes the lines of some events and returns at once; calls back, on any thread, with whether all were written."""


class EventLog:
    """A thread that hands each committed event to `announce`, page by page, from where the log of `name` has come.

    A page that is not written holds up the next: it is tried again until it is. `found` is called as soon as there are
    new events, whether the log takes them or not: once for those of one commit of this process, and once for all that
    were found together otherwise.
    """

    def __init__(
        self, store: Store, announce: Announce, found: Callable[[], None] = lambda: None, *, name: str = ""
    ) -> None:
        self._store = store
        self._announce = announce
        self._found = found
        self._name = name
        self._fresh: deque[News] = deque()
        self._seq, self._saved = self._begin()
        """The last event that was logged, and the last that the database has as logged."""
        self._seen = self._seq
        """The last event that `found` was called for."""
        self._noting = threading.Lock()
        self._saving: Future[int] | None = None
        self._save_at = 0.0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._may_tell = threading.Event()
        self._may_tell.set()
        self._until = math.inf
        """On the monotonic clock, when it ends whatever is left to log."""
        self._thread = RestartingThread("event_log", self._run)

    @property
    def seq(self) -> int:
        """The last event that was logged."""
        return self._seq

    @property
    def left(self) -> int:
        """About how many events are not in the log yet."""
        return max(0, self._store.read(lambda view: view.last_seq()) - self._seq)

    def start(self) -> None:
        self._thread.start()

    def wake(self, news: Sequence[News] = (), newest: int | None = None) -> None:
        """Log what was committed. Of that `news` need not be read, in order; `newest` is the number of the newest event
        that a commit of this process has made. Any thread; with news, only one.
        """
        if len(self._fresh) < KEPT:
            self._fresh.extend(news)
        self._wake.set()
        if newest is not None:
            self._note(newest)

    def _begin(self) -> tuple[int, int]:
        known = self._store.read(lambda view: log_place(view, self._name))
        if known is not None:
            return known, known
        first = self._store.read(first_log_place)
        try:
            self._store.submit(lambda tx: begin_log(tx, self._name, first)).result()
        except RequestError:
            return first, -1  # on a full disk it starts all the same, and writes that down later
        return first, first

    def stop(self) -> int:
        """Returns when everything committed so far has been logged, or when `LAST_SECONDS` are over: then with how many
        events, about, are left for the next start.
        """
        self._until = clock.monotonic() + LAST_SECONDS
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        with contextlib.suppress(RequestError):
            if self._saving is not None and self._saving.exception() is None:
                self._saved = self._saving.result()
            if self._seq != self._saved:
                self._store.submit(self._save_here(self._seq)).result()
            return self.left
        return 0

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """While the clock moves a herd it is told no more than a page a second: first they open, then it is printed.
        Both at once would take the interpreter from each other.
        """
        self._may_tell.clear()
        try:
            yield
        finally:
            self._may_tell.set()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            self._wake.wait(LOOK)
            self._wake.clear()
            stopping = self._stopping.is_set()  # looked at before reading: what was committed by then is told
            with contextlib.suppress(StoreUnavailable):  # the writer tells of that; what is missed is read later
                # Also after a page that is not full: that may have been all that was handed over, and others follow.
                while self._log_page() and clock.monotonic() < self._until:
                    self._stopping.wait(REST)
            self._save()
            self._stopping.wait(REST)

    def _log_page(self) -> bool:
        if not self._stopping.is_set():
            self._may_tell.wait(LOOK)
        page = self._handed_over() or self._store.read(lambda view: view.news(self._seq, PAGE))
        if not page:
            return False
        self._note(page[-1].event.seq)
        if not self._log(page):
            return False
        self._seq = page[-1].event.seq
        self._save()
        return True

    def _log(self, page: Sequence[News]) -> bool:
        """Return whether a page was written, after as many attempts as that takes: False only when it has to stop."""
        outcome: SimpleQueue[bool] = SimpleQueue()
        while True:
            try:
                self._announce(page, outcome.put)
            except Exception:
                logging.getLogger(__name__).exception("Events from %d on could not be logged", page[0].event.seq)
                return True  # a defect must not keep all others out of the log
            while (written := self._wait_for(outcome)) is None:
                if clock.monotonic() >= self._until + LAST_SECONDS:
                    return False
                self._look()
            if written or self._stopping.wait(LOOK):
                return written
            self._look()

    def _wait_for(self, outcome: "SimpleQueue[bool]") -> bool | None:
        with contextlib.suppress(Empty):
            return outcome.get(timeout=max(0.0, min(LOOK, self._until + LAST_SECONDS - clock.monotonic())))
        return None

    def _look(self) -> None:
        """Ring for new events while the log takes none: who follows the feed must not wait for it."""
        with contextlib.suppress(StoreUnavailable):
            self._note(self._store.read(lambda view: view.last_seq()))

    def _note(self, seq: int) -> None:
        with self._noting:
            if seq <= self._seen:
                return
            self._seen = seq
        self._found()

    def _save(self) -> None:
        """Write down how far the log has come, with whatever else is just being written; do not wait for it."""
        if self._saving is not None and self._saving.done():
            if self._saving.exception() is None:
                self._saved = self._saving.result()
            self._saving = None
        if self._saving is None and self._seq != self._saved and clock.monotonic() >= self._save_at:
            self._save_at = clock.monotonic() + SAVED_EACH
            with contextlib.suppress(RequestError):  # too much to do; the next look tries again
                self._saving = self._store.submit(self._save_here(self._seq))

    def _save_here(self, seq: int) -> Callable[[Transaction], int]:
        def job(tx: Transaction) -> int:
            set_log_place(tx, self._name, seq)
            return seq

        return job

    def _handed_over(self) -> list[News]:
        """The events that come next, as far as they were handed over."""
        page: list[News] = []
        following = self._seq + 1
        while self._fresh and self._fresh[0].event.seq <= following and len(page) < PAGE:
            told = self._fresh.popleft()
            if told.event.seq == following:
                page.append(told)
                following += 1
        return page
