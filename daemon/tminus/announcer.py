"""The news: committed events become log lines, in the order in which they were committed.

It follows the event table, so nothing is told that was not committed, and nothing that was is left out: not what a bulk
move wrote, nor what another process (`tminus advance`) did. What this process has just written itself is handed over,
and not read again as long as it is what comes next.
"""

import contextlib
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from tminus import clock
from tminus.errors import RequestError, StoreUnavailable
from tminus.events import News
from tminus.storage import Store

PAGE = 500
"""Events read at a time."""

LOOK = 1.0
"""Seconds after which it looks even if nobody has called."""

REST = 0.05
"""Seconds between two pages: under load one look tells of many commits, and a herd's lines hold no request up."""

LAST_SECONDS = 1.0
"""How long a stop waits for what is left to tell: a herd that opened just before can have left 100,000 events."""

KEPT = 4 * PAGE
"""Events that are kept because they were handed over; more of them are read again."""

_LEFT_AT = "log_left_at"
"""Under this key the database remembers the last event that was told, if a stop left some untold."""


class Announcer:
    """A thread that hands each committed event to `announce`, from those after `start` on.

    `found` is called before that, once for all that were found together.
    """

    def __init__(
        self, store: Store, announce: Callable[[News], None], found: Callable[[], None] = lambda: None
    ) -> None:
        self._store = store
        self._announce = announce
        self._found = found
        self._fresh: deque[News] = deque()
        self._seq = self._begin()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._may_tell = threading.Event()
        self._may_tell.set()
        self._until = math.inf
        """On the monotonic clock, when it ends whatever is left to tell."""
        self._thread = threading.Thread(target=self._run, name="announcer")

    def start(self) -> None:
        self._thread.start()

    def wake(self, news: Sequence[News] = ()) -> None:
        """There is news, of which these need not be read: committed, in order. Any thread; with news, only one."""
        if len(self._fresh) < KEPT:
            self._fresh.extend(news)
        self._wake.set()

    def _begin(self) -> int:
        """After which event it begins: the newest, or where the daemon before had to leave off."""
        left = self._store.read(lambda view: view.meta(_LEFT_AT))
        if not left:
            return self._store.read(lambda view: view.last_seq())
        self._store.submit(lambda tx: tx.set_meta(_LEFT_AT, "")).result()
        return int(left)

    def stop(self) -> int:
        """Returns when everything committed so far has been told, or `LAST_SECONDS` later: then with how many events,
        about, are left for the next start.
        """
        self._until = clock.monotonic() + LAST_SECONDS
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        left = 0
        with contextlib.suppress(RequestError):
            left = self._store.read(lambda view: view.last_seq()) - self._seq
            if left:
                self._store.submit(lambda tx: tx.set_meta(_LEFT_AT, str(self._seq))).result()
        return left

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
            # Also after a page that is not full: that may have been all that was handed over, and others follow.
            while self._tell_page() and clock.monotonic() < self._until:
                self._stopping.wait(REST)
            self._stopping.wait(REST)

    def _tell_page(self) -> int:
        if not self._stopping.is_set():
            self._may_tell.wait(LOOK)
        try:
            page = self._handed_over() or self._store.read(lambda view: view.news(self._seq, PAGE))
        except StoreUnavailable:
            return 0  # the writer tells of that; what was missed is read when the database is back
        if page:
            self._found()
        for told in page:
            self._seq = told.event.seq
            try:
                self._announce(told)
            except Exception:
                # One that cannot be told must not keep all others from being told.
                logging.getLogger(__name__).exception("Event %d could not be told", told.event.seq)
        return len(page)

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
