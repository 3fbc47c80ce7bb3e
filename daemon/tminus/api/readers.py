"""Run the reads of requests on threads. Reads that arrive together share a transaction."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from tminus import clock
from tminus.domain.errors import TminusError
from tminus.storage import Store, View
from tminus.system.threads import RestartingThread, for_future

T = TypeVar("T")

MAX_BATCH = 16
"""Maximum number of reads in a transaction: the first result waits for the last read."""

MAX_READ_WAIT = 0.005
"""Seconds that a read waits for a busy thread before another thread is woken."""


@dataclass(slots=True)
class _Read:
    """A read, and what becomes of it."""

    look: Callable[[View], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    session_id: str | None
    arrived: float = 0.0
    result: Any = None
    error: BaseException | None = None

    def finish(self) -> None:
        if self.future.done():  # the request was cancelled
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(for_future(self.error))


class Readers:
    """Run reads in batches on a fixed number of threads.

    A thread for each read would contend with the event loop for the interpreter lock, which costs more than the reads.
    """

    def __init__(self, store: Store, threads: int) -> None:
        self.unfinished = 0
        """Number of reads that wait or run."""
        self._store = store
        self._arriving: list[_Read] = []
        """Reads that arrived in the current iteration of the event loop."""
        self._lock = threading.Lock()
        """Guards `_waiting` and `_busy`."""
        self._waiting: deque[_Read] = deque()
        self._busy = 0
        """Number of threads that read or were woken for a read."""
        self._checked_by: asyncio.AbstractEventLoop | None = None
        """The event loop that has scheduled `_look_again`."""
        self._wakes: SimpleQueue[bool] = SimpleQueue()
        """True wakes a thread for reads; False ends one."""
        self._threads = [RestartingThread(f"read_{number}", self._run) for number in range(threads)]
        self._started = False

    async def query(self, look: Callable[[View], T], session_id: str | None = None) -> T:
        """Run `look` on a view that includes every earlier commit; return its result.

        `session_id`: the session that `look` will read, if it is known. The sessions of a batch are read together.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._arriving:
            loop.call_soon(self._hand_over, loop)
        self._arriving.append(_Read(look, future, loop, session_id))
        self.unfinished += 1
        try:
            return await future
        finally:
            self.unfinished -= 1

    def close(self) -> None:
        """Wait for the running reads and end the threads."""
        started = [thread for thread in self._threads if thread.ident is not None]
        for _ in started:
            self._wakes.put(False)
        for thread in started:
            thread.join()

    def _start(self) -> None:
        """Start the threads that have not started yet. Raises `RuntimeError`."""
        for thread in self._threads:
            if thread.ident is None:
                thread.start()
        self._started = True

    # --- on the event loop --------------------------------------------------------------------------------------------

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Queue the reads that arrived. Wake a thread if none is busy; otherwise check again after `MAX_READ_WAIT`."""
        arrived, self._arriving = self._arriving, []
        if not self._started:
            try:
                self._start()
            except RuntimeError as error:  # the process has reached its limit of threads
                for read in arrived:
                    read.error = error
                _finish(arrived)
                return
        now = clock.monotonic()
        for read in arrived:
            read.arrived = now
        with self._lock:
            self._waiting.extend(arrived)
            wake = not self._busy
            self._busy += wake
        if wake:
            self._wakes.put(True)
        elif self._checked_by is not loop:
            self._checked_by = loop
            loop.call_later(MAX_READ_WAIT, self._look_again, loop)

    def _look_again(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake another thread if the oldest read has waited too long for the busy ones."""
        with self._lock:
            waits = bool(self._waiting)
            late = waits and clock.monotonic() - self._waiting[0].arrived >= MAX_READ_WAIT
            wake = late and self._busy < len(self._threads)
            self._busy += wake
        self._checked_by = loop if waits else None
        if waits:
            loop.call_later(MAX_READ_WAIT, self._look_again, loop)
        if wake:
            self._wakes.put(True)

    # --- on a thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._wakes.get():
            batch: Sequence[_Read] = ()
            try:
                while batch := self._take():
                    self._read(batch)
                    self._answer(batch)
                    batch = ()
            except BaseException as error:
                self._give_up(batch, error)
                raise

    def _take(self) -> Sequence[_Read]:
        with self._lock:
            if not self._waiting:
                self._busy -= 1
            return [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]

    def _give_up(self, batch: Sequence[_Read], error: BaseException) -> None:
        """Fail these reads because the thread itself has failed, and let another thread take its place.

        The thread still counts as busy, and restarts only after a delay. Without the wake, the reads that wait could
        wait for ever.
        """
        self._wakes.put(True)
        for read in batch:
            read.result, read.error = None, RuntimeError("a thread that reads has failed")
            read.error.__cause__ = error
        self._answer(batch)

    def _read(self, batch: Sequence[_Read]) -> None:
        """Run all reads in one transaction. It begins after they arrived, so that each sees every earlier commit."""
        ids = {read.session_id for read in batch if read.session_id is not None}

        def look(view: View) -> None:
            if len(ids) > 1:
                view.read_ahead(ids)
            for read in batch:
                try:
                    read.result, read.error = read.look(view), None
                except TminusError as refusal:
                    read.error = refusal

        try:
            self._store.read(look)
        except BaseException as error:
            if len(batch) == 1 or isinstance(error, TminusError):  # the database is unreachable: all reads fail
                for read in batch:
                    read.error = error
                return
            for read in batch:  # run each alone, so that one that fails does not fail the others
                self._read([read])

    @staticmethod
    def _answer(batch: Sequence[_Read]) -> None:
        loops: dict[asyncio.AbstractEventLoop, list[_Read]] = {}
        for read in batch:
            loops.setdefault(read.loop, []).append(read)
        for loop, reads in loops.items():
            with suppress(RuntimeError):  # the event loop is closed: no request waits
                loop.call_soon_threadsafe(_finish, reads)


def _finish(reads: Sequence[_Read]) -> None:
    for read in reads:
        read.finish()
